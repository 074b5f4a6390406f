//! The door of HTTP: what a request tells of whoever sent it, and who may give commands.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};

use super::{Caller, Denial};

/// Headers that a proxy adds: whoever is behind it is not on this machine.
const FORWARDED: [&str; 7] =
    ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-real-ip"];

/// Somebody who may give commands. A handler that takes this answers everybody else with 401 or 403 and a sentence, and pages of other
/// sites as well.
#[derive(Debug, Clone)]
pub struct Operator(pub Caller);

impl<S: Send + Sync> FromRequestParts<S> for Operator {
    type Rejection = Denial;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Denial> {
        let nobody = || Denial::Forbidden("nobody came in through the door; please report it".to_owned());
        let caller = parts.extensions.get::<Caller>().ok_or_else(nobody)?;
        if is_from_another_site(&parts.headers) {
            return Err(other_site());
        }
        caller.commands("this")?;
        Ok(Self(caller.clone()))
    }
}

impl Denial {
    /// Somebody of whom nothing is known asked for a command over HTTP.
    pub fn elsewhere() -> Self {
        Self::Forbidden(
            "commands over HTTP are taken only from the machine that this vtelector runs on (http://localhost, without a proxy) \
             while nobody has to prove who they are; use gRPC, or set --grpc-auth-mode static, --auth-token-file or --http-ca"
                .to_owned(),
        )
    }

    /// A reader asked for a command.
    pub fn reader(what: &str) -> Self {
        Self::Forbidden(format!("a reader may look at everything and change nothing: {what} needs the role operator"))
    }
}

/// A page of another site made a browser send this.
pub fn other_site() -> Denial {
    Denial::Forbidden("commands are not taken from pages of other sites: use the page of this vtelector itself".to_owned())
}

/// Paths that supervisors and load balancers ask, who can prove nothing.
const OPEN: [&str; 5] = ["/livez", "/readyz", "/healthz", "/debug/liveness", "/debug/health"];

/// Whether nobody has to prove anything for it.
pub fn is_open_path(path: &str) -> bool {
    OPEN.contains(&path)
}

/// Whether a browser says that a page of another site asks. Whatever is no browser says nothing of the kind.
pub fn is_from_another_site(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match (authority, host) {
        (Some(authority), Some(host)) => !authority.eq_ignore_ascii_case(host),
        (None, _) | (_, None) => true,
    }
}

/// Whether somebody on this machine asks, under one of its own names. A name that leads here from outside, as in DNS rebinding, and a proxy
/// on this machine do not count.
pub(super) fn is_from_this_machine(peer: SocketAddr, headers: &HeaderMap, authority: Option<&str>) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let named = [host, authority].into_iter().flatten().collect::<Vec<_>>();
    peer.ip().to_canonical().is_loopback()
        && !named.is_empty()
        && named.into_iter().all(is_loopback_name)
        && headers.get_all(header::HOST).iter().count() <= 1
        && !FORWARDED.iter().any(|name| headers.contains_key(*name))
}

fn is_loopback_name(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(host, _)| host),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_browser_says_which_page_asks() {
        for (lines, is) in [
            (&[][..], false),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("sec-fetch-site", "cross-site"), ("origin", "http://a:1"), ("host", "a:1")], true),
            (&[("origin", "http://a:1"), ("host", "a:1")], false),
            (&[("origin", "https://A"), ("host", "a")], false),
            (&[("origin", "http://evil.example"), ("host", "a:1")], true),
            (&[("origin", "null"), ("host", "a:1")], true),
            (&[("origin", "http://a:1")], true),
        ] {
            assert_eq!(is_from_another_site(&headers(lines)), is, "{lines:?}");
        }
    }

    #[test]
    fn this_machine_is_loopback_under_its_own_name_without_a_proxy() {
        let here: SocketAddr = "127.0.0.1:5".parse().unwrap();
        for host in ["localhost", "localhost:16000", "LOCALHOST:1", "127.0.0.1:16000", "[::1]:16000", "[::1]", "127.3.2.1"] {
            let lines: HeaderMap = [(header::HOST, host.parse().unwrap())].into_iter().collect();
            assert!(is_from_this_machine(here, &lines, None), "{host}");
            assert!(is_from_this_machine("[::ffff:127.0.0.1]:5".parse().unwrap(), &lines, None), "{host}");
            assert!(!is_from_this_machine("10.0.0.1:5".parse().unwrap(), &lines, None), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "10.0.0.1", "", "127.0.0.1.evil.example:16000", "[::1"] {
            let lines: HeaderMap = [(header::HOST, host.parse().unwrap())].into_iter().collect();
            assert!(!is_from_this_machine(here, &lines, None), "{host}");
        }
        assert!(!is_from_this_machine(here, &HeaderMap::new(), None), "no name at all");
        let host = ("host", "localhost");
        assert!(!is_from_this_machine(here, &headers(&[host]), Some("evil.example")), "a whole URL as the target");
        for name in FORWARDED {
            assert!(!is_from_this_machine(here, &headers(&[host, (name, "x")]), None), "{name}");
        }
    }
}
