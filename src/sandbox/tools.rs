//! The programs that a local cluster needs: mysqld and etcd.

use std::{
    env,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use super::SandboxError;

/// mysqld and etcd, and where a prepared MySQL data folder is kept.
#[derive(Debug, Clone)]
pub struct Tools {
    /// MySQL 8.0.23 or newer, not MariaDB.
    pub mysqld: PathBuf,
    /// Its version, such as `9.7.4`.
    pub mysqld_version: String,
    /// etcd 3.4 or newer.
    pub etcd: PathBuf,
    /// Its version.
    pub etcd_version: String,
    /// Where a prepared data folder is kept from one run to the next; `None` = made anew each time.
    pub cache: Option<PathBuf>,
}

impl Tools {
    /// Looks in `folder/bin`, where `deploy/tools/install` puts them, and then on `PATH`.
    pub fn find(folder: Option<&Path>) -> Result<Self, SandboxError> {
        let (etcd, etcd_version) = find(folder, "etcd", (3, 4, 0))?;
        let (mysqld, mysqld_version) = find(folder, "mysqld", (8, 0, 23))?;
        Ok(Self { mysqld, mysqld_version, etcd, etcd_version, cache: folder.map(Path::to_owned) })
    }
}

/// Whether this process is root's: mysqld then wants to be told so.
pub(super) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn find(folder: Option<&Path>, name: &'static str, least: (u32, u32, u32)) -> Result<(PathBuf, String), SandboxError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = folder.map(|folder| folder.join("bin")).into_iter().chain(env::split_paths(&path)).collect();
    let mut why = String::new();
    for program in folders.iter().map(|folder| folder.join(name)).filter(|program| is_program(program)) {
        let Ok(output) = Command::new(&program).arg("--version").output() else { continue };
        let text = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
        match version(&text) {
            Some(found) if found >= least && !text.contains("MariaDB") => {
                return Ok((program, format!("{}.{}.{}", found.0, found.1, found.2)));
            }
            _ => why = format!(" ({} is of no use: {text})", program.display()),
        }
    }
    let places = folder.map(|folder| format!("{} and ", folder.join("bin").display())).unwrap_or_default() + "PATH";
    Err(SandboxError::NoTool { name, places, why })
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The first three numbers with dots between them.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
        let mut numbers = word.split('.').map(|number| number.parse().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    })
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn a_version_is_found_in_what_the_programs_print() {
        let mysqld = "/usr/sbin/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))";
        assert_eq!(version(mysqld), Some((9, 7, 4)));
        assert_eq!(version("etcd Version: 3.4.23"), Some((3, 4, 23)));
        assert_eq!(version("mysqld  Ver 10.11.6-MariaDB-0+deb12u1"), Some((10, 11, 6)));
        assert_eq!(version("command not found"), None);
    }
}
