//! The files of TLS: whether they can be read, and how long they are good.

use std::collections::BTreeMap;

use super::check::Check;
use crate::tls::not_after_s;

/// A certificate that ends sooner should be replaced now.
const SOON_DAYS: i64 = 14;
const DAY_S: i64 = 24 * 3600;

/// One check for each file that a flag names as a certificate or authority.
pub fn checks(flags: &BTreeMap<String, String>, now_s: i64) -> Vec<Check> {
    let named = flags.iter().filter(|(name, file)| is_certificate(name) && !file.is_empty());
    named
        .map(|(name, file)| match std::fs::read(file) {
            Ok(pem) => judge(name, file, not_after_s(&pem), now_s),
            Err(error) => Check::fail(format!("--{name}"), format!("{file}: {error}"), "give a file that can be read"),
        })
        .collect()
}

fn is_certificate(flag: &str) -> bool {
    flag.ends_with("-cert") || flag.ends_with("-ca")
}

fn judge(name: &str, file: &str, not_after_s: Option<i64>, now_s: i64) -> Check {
    let about = format!("--{name}");
    let Some(end_s) = not_after_s else {
        return Check::fail(about, format!("{file} holds no certificate"), "give a certificate in PEM");
    };
    let days = (end_s - now_s).div_euclid(DAY_S);
    match days {
        ..=-1 => {
            Check::fail(about, format!("{file} has expired {} days ago", -days), "replace the file; it is read again by itself")
        }
        0..SOON_DAYS => {
            Check::warn(about, format!("{file} expires in {days} days"), "replace the file; it is read again by itself")
        }
        _ => Check::ok(about, format!("{file} is good for {days} days")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::check::Verdict;

    #[test]
    fn a_certificate_is_judged_by_its_end() {
        let verdict = |days: i64| judge("grpc-cert", "f", Some(1_000_000_000 + days * DAY_S), 1_000_000_000).verdict;
        assert_eq!(
            (verdict(-1), verdict(0), verdict(13), verdict(15)),
            (Verdict::Fail, Verdict::Warn, Verdict::Warn, Verdict::Ok)
        );
        assert_eq!(judge("grpc-ca", "f", None, 0).verdict, Verdict::Fail);
    }

    #[test]
    fn only_files_of_certificates_are_read() {
        let flags = |name: &str| BTreeMap::from([(name.to_owned(), "/nowhere/x.pem".to_owned())]);
        assert_eq!(checks(&flags("grpc-key"), 0), []);
        assert_eq!(checks(&flags("config-file"), 0), []);
        let found = checks(&flags("topo-etcd-tls-ca"), 0);
        assert!(found[0].verdict == Verdict::Fail && found[0].found.contains("/nowhere/x.pem"), "{found:?}");
    }
}
