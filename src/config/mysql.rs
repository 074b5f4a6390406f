//! The account that fences MySQL servers directly.

use std::path::{Path, PathBuf};

use super::{ConfigError, pair, readable};
use crate::{
    mysql::{conn::Secret, fence::FenceAccount, tls::MysqlTlsFiles},
    tls::ClientFiles,
};

/// Where the password stands when no file is given. A flag for it would show in the list of processes.
pub const PASSWORD_VARIABLE: &str = "VTELECTOR_MYSQL_PASSWORD";

/// The account.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct FenceArgs {
    /// Account that fences a MySQL server whose tablet does not answer; nothing is fenced over MySQL without it
    #[arg(
        long,
        value_name = "NAME",
        env = "VTELECTOR_MYSQL_USER",
        default_value = "",
        hide_default_value = true,
        help_heading = "MySQL"
    )]
    pub mysql_user: String,
    /// File with its password; else the environment's VTELECTOR_MYSQL_PASSWORD is taken
    #[arg(long, value_name = "FILE", help_heading = "MySQL")]
    pub mysql_password_file: Option<PathBuf>,
    /// Authority that signed the MySQL servers' certificates (PEM): servers that cannot prove themselves are not entered. Without it
    /// connections are encrypted where the server offers that, and nothing is verified
    #[arg(long, value_name = "FILE", help_heading = "MySQL")]
    pub mysql_ssl_ca: Option<PathBuf>,
    /// Client certificate towards MySQL (PEM); needs the key and --mysql-ssl-ca too
    #[arg(long, value_name = "FILE", help_heading = "MySQL")]
    pub mysql_ssl_cert: Option<PathBuf>,
    /// Key of that certificate (PEM)
    #[arg(long, value_name = "FILE", help_heading = "MySQL")]
    pub mysql_ssl_key: Option<PathBuf>,
    /// Name that the MySQL servers' certificates bear, where it is not their host name
    #[arg(long, value_name = "NAME", help_heading = "MySQL")]
    pub mysql_ssl_server_name: Option<String>,
}

impl FenceArgs {
    /// The account, when one is named; `variable` is what the environment has for its password.
    pub(super) fn account(&self, variable: Option<String>) -> Result<Option<FenceAccount>, ConfigError> {
        let file = self.mysql_password_file.as_deref().filter(|file| *file != Path::new(""));
        if self.mysql_user.is_empty() {
            return match file {
                None => Ok(None),
                Some(file) => {
                    let problem = "a password without an account";
                    Err(ConfigError::new("mysql-password-file", file.display(), problem, "give --mysql-user as well"))
                }
            };
        }
        let password = match file {
            Some(file) => {
                std::fs::read_to_string(file).map(|text| text.trim_end_matches(['\n', '\r']).to_owned()).map_err(|error| {
                    let remedy = "give a file that holds the password alone";
                    ConfigError::new("mysql-password-file", file.display(), error.to_string(), remedy)
                })?
            }
            None => variable.unwrap_or_default(),
        };
        Ok(Some(FenceAccount { user: self.mysql_user.clone(), password: Secret(password) }))
    }

    /// TLS towards the servers, when they are to be verified.
    pub(super) fn tls(&self) -> Result<Option<MysqlTlsFiles>, ConfigError> {
        let identity = pair("mysql-ssl", &self.mysql_ssl_cert, &self.mysql_ssl_key)?;
        let ca = readable("mysql-ssl-ca", &self.mysql_ssl_ca)?;
        let server_name = self.mysql_ssl_server_name.clone().filter(|name| !name.is_empty());
        match (ca, identity) {
            (None, None) => Ok(None),
            (None, Some(files)) => {
                let problem = "the certificate would be shown to a server that proves nothing";
                Err(ConfigError::new("mysql-ssl-cert", files.cert.display(), problem, "give --mysql-ssl-ca as well"))
            }
            (ca, identity) => {
                let files = ClientFiles { ca, identity: identity.map(|files| (files.cert, files.key)) };
                Ok(Some(MysqlTlsFiles { files, server_name }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(user: &str, file: Option<&Path>, variable: Option<&str>) -> Result<Option<FenceAccount>, ConfigError> {
        let args =
            FenceArgs { mysql_user: user.to_owned(), mysql_password_file: file.map(Path::to_owned), ..FenceArgs::default() };
        args.account(variable.map(str::to_owned))
    }

    #[test]
    fn without_a_name_there_is_no_account() {
        assert_eq!(account("", None, Some("secret")), Ok(None));
        let error = account("", Some(Path::new("/pw")), None).unwrap_err().to_string();
        assert!(error.contains("--mysql-password-file /pw") && error.contains("give --mysql-user"), "{error}");
    }

    #[test]
    fn a_file_goes_before_the_environment_and_the_password_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "from the file\n").unwrap();
        let found = account("fencer", Some(&file), Some("from the environment")).unwrap().unwrap();
        assert_eq!(found.password.0, "from the file");
        assert!(!format!("{found:?}").contains("from the file"));
        let found = account("fencer", None, Some("from the environment")).unwrap().unwrap();
        assert_eq!(found.password.0, "from the environment");
        let error = account("fencer", Some(&folder.path().join("none")), None).unwrap_err().to_string();
        assert!(error.contains("--mysql-password-file") && error.contains("holds the password alone"), "{error}");
    }
}
