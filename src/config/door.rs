//! Who may come in, over gRPC and HTTP: Vitess's flags where it has them.

use std::path::PathBuf;

use super::{ConfigError, ServerTls, pair, readable};

/// Flags of the door.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Who may come in")]
pub struct DoorArgs {
    /// static: users with passwords; mtls: client certificates, with --grpc-ca. Everybody when left out
    #[arg(long, value_name = "static|mtls", default_value = "", hide_default_value = true)]
    pub grpc_auth_mode: String,
    /// Users of --grpc-auth-mode static, on gRPC and HTTP: [{"Username": ..., "Password": ..., "Role": "reader" or "operator"}, ...];
    /// operator when left out
    #[arg(long, value_name = "FILE")]
    pub grpc_auth_static_password_file: Option<PathBuf>,
    /// Parts of the subjects of client certificates that are operators, with colons between; every client of --grpc-ca when left out
    #[arg(long, value_name = "TEXT:...", default_value = "", hide_default_value = true)]
    pub grpc_auth_mtls_allowed_substrings: String,
    /// Parts of the subjects of client certificates that are readers, with colons between
    #[arg(long, value_name = "TEXT:...", default_value = "", hide_default_value = true)]
    pub grpc_auth_mtls_reader_substrings: String,
    /// Bearer tokens, on gRPC and HTTP: [{"Name": ..., "Token": ... or "TokenSha256": ..., "Role": "reader" or "operator"}, ...]
    #[arg(long, value_name = "FILE")]
    pub auth_token_file: Option<PathBuf>,
    /// Who this elector is for other electors and for tablets, where they ask: {"Username": ..., "Password": ...} or {"Token": ...}
    #[arg(long, value_name = "FILE")]
    pub grpc_auth_static_client_creds: Option<PathBuf>,
    /// Certificate of the HTTP server (PEM); needs the key too
    #[arg(long, value_name = "FILE")]
    pub http_cert: Option<PathBuf>,
    /// Key of that certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub http_key: Option<PathBuf>,
    /// Authority of client certificates for HTTP (PEM); who has none needs a password or a token
    #[arg(long, value_name = "FILE")]
    pub http_ca: Option<PathBuf>,
    /// Requests that one client address may send each second, on gRPC and HTTP each; twice as many at once; 0 = no limit
    #[arg(long, value_name = "NUMBER", default_value = "500")]
    pub client_requests_per_second: u32,
}

/// Who may come in, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DoorSettings {
    /// The file of static users; `None` = there are none.
    pub users: Option<PathBuf>,
    /// The file of bearer tokens; `None` = there are none.
    pub tokens: Option<PathBuf>,
    /// What a client certificate's subject has to contain; `None` = nothing, and on gRPC it does not count as a proof beside others.
    pub subjects: Option<Subjects>,
    /// Whether gRPC lets in only clients with a certificate of an authority.
    pub grpc_has_authority: bool,
    /// TLS of the HTTP server.
    pub http_tls: Option<ServerTls>,
    /// The file of our own credentials, for the other electors.
    pub client_creds: Option<PathBuf>,
    /// Requests of one address in a second; 0 = no limit.
    pub requests_per_second: u32,
}

/// Parts of subjects; a certificate that contains one of them has that role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subjects {
    /// Of operators; empty = everybody with a certificate.
    pub operators: Vec<String>,
    /// Of readers.
    pub readers: Vec<String>,
}

impl DoorArgs {
    /// Checks them together.
    pub(super) fn settings(&self, grpc_tls: Option<&ServerTls>) -> Result<DoorSettings, ConfigError> {
        let grpc_has_authority = grpc_tls.is_some_and(|tls| tls.client_ca.is_some());
        let http_tls = pair("http", &self.http_cert, &self.http_key)?;
        let http_ca = readable("http-ca", &self.http_ca)?;
        if let (None, Some(ca)) = (&http_tls, &http_ca) {
            let problem = "without a certificate of its own the server speaks no TLS and would let everybody in";
            return Err(ConfigError::new("http-ca", ca.display(), problem, "give --http-cert and --http-key as well"));
        }
        Ok(DoorSettings {
            users: self.users()?,
            tokens: given(&self.auth_token_file),
            subjects: self.subjects(grpc_has_authority)?,
            grpc_has_authority,
            http_tls: http_tls.map(|identity| ServerTls { identity, client_ca: http_ca }),
            client_creds: given(&self.grpc_auth_static_client_creds),
            requests_per_second: self.client_requests_per_second,
        })
    }

    fn users(&self) -> Result<Option<PathBuf>, ConfigError> {
        let (mode, flag) = ("grpc-auth-mode", "grpc-auth-static-password-file");
        match (self.grpc_auth_mode.as_str(), given(&self.grpc_auth_static_password_file)) {
            ("static", None) => Err(ConfigError::new(mode, "static", "it needs users", format!("name their file with --{flag}"))),
            ("static", file) => Ok(file),
            ("" | "mtls", None) => Ok(None),
            ("" | "mtls", Some(file)) => {
                let problem = "these users would not be asked for";
                Err(ConfigError::new(flag, file.display(), problem, "give --grpc-auth-mode static as well, or leave it out"))
            }
            (other, _) => Err(ConfigError::new(mode, other, "no such way of proving who one is", "use static or mtls")),
        }
    }

    fn subjects(&self, grpc_has_authority: bool) -> Result<Option<Subjects>, ConfigError> {
        let list = |text: &str| -> Vec<String> { text.split(':').filter(|part| !part.is_empty()).map(str::to_owned).collect() };
        let operators = list(&self.grpc_auth_mtls_allowed_substrings);
        let readers = list(&self.grpc_auth_mtls_reader_substrings);
        let (allowed_flag, readers_flag) = ("grpc-auth-mtls-allowed-substrings", "grpc-auth-mtls-reader-substrings");
        if self.grpc_auth_mode != "mtls" {
            let unused = [(allowed_flag, &operators), (readers_flag, &readers)].into_iter().find(|(_, list)| !list.is_empty());
            return match unused {
                None => Ok(None),
                Some((flag, list)) => {
                    let problem = "subjects of certificates would not be looked at";
                    Err(ConfigError::new(flag, list.join(":"), problem, "give --grpc-auth-mode mtls as well, or leave it out"))
                }
            };
        }
        if !grpc_has_authority {
            let problem = "client certificates are asked for only where their authority is known";
            return Err(ConfigError::new(
                "grpc-auth-mode",
                "mtls",
                problem,
                "give --grpc-ca, --grpc-cert and --grpc-key as well",
            ));
        }
        if operators.is_empty() && !readers.is_empty() {
            let problem = "everybody else with a certificate would be an operator";
            let remedy = format!("say who is one with --{allowed_flag}");
            return Err(ConfigError::new(readers_flag, readers.join(":"), problem, remedy));
        }
        Ok(Some(Subjects { operators, readers }))
    }
}

impl DoorSettings {
    /// What a person should know of these settings.
    pub(super) fn warnings(&self) -> Vec<String> {
        let is_asked = self.users.is_some() || self.tokens.is_some();
        if !is_asked || self.client_creds.is_some() || self.subjects.is_some() {
            return Vec::new();
        }
        vec![
            "users or tokens are demanded, and --grpc-auth-static-client-creds is not given: other electors with the same settings will \
             not answer this one, and a failover that needs their word is refused"
                .to_owned(),
        ]
    }
}

/// A file that is named; an empty name is none.
fn given(file: &Option<PathBuf>) -> Option<PathBuf> {
    file.clone().filter(|file| !file.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TlsFiles;

    fn mtls() -> ServerTls {
        let file = |name: &str| PathBuf::from(name);
        ServerTls { identity: TlsFiles { cert: file("c"), key: file("k") }, client_ca: Some(file("ca")) }
    }

    fn error(args: DoorArgs, tls: Option<&ServerTls>) -> String {
        args.settings(tls).unwrap_err().to_string()
    }

    #[test]
    fn half_a_lock_is_refused() {
        let file = || Some(PathBuf::from("users.json"));
        let mode = |mode: &str| DoorArgs { grpc_auth_mode: mode.to_owned(), ..DoorArgs::default() };
        assert!(error(mode("static"), None).contains("--grpc-auth-static-password-file"));
        assert!(error(mode("mtls"), None).contains("--grpc-ca"));
        assert!(error(mode("ldap"), None).contains("use static or mtls"));
        let users = DoorArgs { grpc_auth_static_password_file: file(), ..DoorArgs::default() };
        assert!(error(users, None).contains("--grpc-auth-mode static"));
        let allowed = DoorArgs { grpc_auth_mtls_allowed_substrings: "CN=a".to_owned(), ..DoorArgs::default() };
        assert!(error(allowed, Some(&mtls())).contains("--grpc-auth-mode mtls"));
        let readers = DoorArgs { grpc_auth_mtls_reader_substrings: "CN=a".to_owned(), ..mode("mtls") };
        assert!(error(readers, Some(&mtls())).contains("--grpc-auth-mtls-allowed-substrings"));
    }

    #[test]
    fn substrings_stand_between_colons() {
        let args = DoorArgs {
            grpc_auth_mode: "mtls".to_owned(),
            grpc_auth_mtls_allowed_substrings: "CN=a::CN=b:".to_owned(),
            ..DoorArgs::default()
        };
        let found = args.settings(Some(&mtls())).unwrap().subjects.unwrap();
        assert_eq!((found.operators, found.readers), (vec!["CN=a".to_owned(), "CN=b".to_owned()], Vec::new()));
        let nobody = DoorArgs::default().settings(None).unwrap();
        assert_eq!(nobody, DoorSettings { requests_per_second: 0, ..DoorSettings::default() });
    }

    #[test]
    fn electors_that_could_not_ask_each_other_are_announced() {
        let tokens = DoorSettings { tokens: Some(PathBuf::from("t")), ..DoorSettings::default() };
        assert!(tokens.warnings()[0].contains("--grpc-auth-static-client-creds"));
        let signed = DoorSettings { client_creds: Some(PathBuf::from("c")), ..tokens };
        assert!(signed.warnings().is_empty() && DoorSettings::default().warnings().is_empty());
    }
}
