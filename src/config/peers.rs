//! How the other electors reach this one, and how it reaches them.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use super::{ConfigError, Listen, Settings, listen, readable};
use crate::peers::PeerTls;

/// Flags of several electors.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Other electors")]
pub struct PeerArgs {
    /// Where the other electors reach this one's gRPC, and its identity among them; by default the address it listens on, or the host's name
    #[arg(long, value_name = "HOST[:PORT]", default_value = "", hide_default_value = true)]
    pub advertise_address: String,
    /// Authority that signed the other electors' certificates (PEM); --grpc-ca, or the system's, when left out
    #[arg(long, value_name = "FILE")]
    pub elector_grpc_ca: Option<PathBuf>,
}

impl PeerArgs {
    /// The advertised host, and its port where it is another one than the gRPC server's.
    pub(super) fn address(&self) -> Result<Option<(String, Option<u16>)>, ConfigError> {
        let (flag, text) = ("advertise-address", self.advertise_address.as_str());
        let wrong =
            |problem: &str| ConfigError::new(flag, text, problem, "write HOST or HOST:PORT, such as elector-1.example:15999");
        if text.is_empty() {
            return Ok(None);
        }
        let (host, port) = match text.rsplit_once(':') {
            // A bare IPv6 address is full of colons.
            Some((host, port)) if text.parse::<IpAddr>().is_err() && !text.ends_with(']') => {
                let port = port.parse::<u16>().ok().filter(|port| *port > 0);
                (host, Some(port.ok_or_else(|| wrong("the port is no port"))?))
            }
            _ => (text, None),
        };
        let Listen { host, .. } = listen(flag, host, 0).map_err(|_| wrong("not an address"))?;
        if host.is_empty() || is_unspecified(&host) {
            return Err(wrong("nobody else can reach that"));
        }
        Ok(Some((host, port)))
    }

    /// TLS towards the other electors: where this one's own server speaks it, the others' do.
    pub(super) fn tls(&self, settings: Option<&super::ServerTls>) -> Result<Option<PeerTls>, ConfigError> {
        let ca = readable("elector-grpc-ca", &self.elector_grpc_ca)?;
        Ok(match (settings, ca) {
            (None, None) => None,
            (None, ca) => Some(PeerTls { ca, identity: None }),
            (Some(own), ca) => {
                let identity = Some((own.identity.cert.clone(), own.identity.key.clone()));
                Some(PeerTls { ca: ca.or_else(|| own.client_ca.clone()), identity })
            }
        })
    }
}

fn is_unspecified(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
}

impl Settings {
    /// Where the other electors reach us: as told, else where we listen, else at the name of this host.
    pub fn advertised(&self, listening: SocketAddr, hostname: &str) -> String {
        let (host, port) = match &self.advertise {
            Some((host, port)) => (host.as_str(), port.unwrap_or(listening.port())),
            None if self.grpc.host.is_empty() || is_unspecified(&self.grpc.host) => (hostname, listening.port()),
            None => (self.grpc.host.as_str(), listening.port()),
        };
        Listen { host: host.to_owned(), port }.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Result<Option<(String, Option<u16>)>, ConfigError> {
        PeerArgs { advertise_address: text.to_owned(), elector_grpc_ca: None }.address()
    }

    #[test]
    fn a_host_may_bring_its_port() {
        let found = |host: &str, port| Ok(Some((host.to_owned(), port)));
        assert_eq!(address(""), Ok(None));
        assert_eq!(address("elector-1"), found("elector-1", None));
        assert_eq!(address("elector-1:15999"), found("elector-1", Some(15999)));
        assert_eq!(address("10.0.0.7:1"), found("10.0.0.7", Some(1)));
        assert_eq!(address("::1"), found("::1", None));
        assert_eq!(address("[::1]"), found("::1", None));
        assert_eq!(address("[::1]:15999"), found("::1", Some(15999)));
    }

    #[test]
    fn what_nobody_could_reach_is_refused() {
        for text in ["elector-1:", "elector-1:0", "elector-1:99999", ":15999", "a/b:1", "0.0.0.0:15999", "[::]:1", "http://a:1"] {
            let error = address(text).unwrap_err().to_string();
            assert!(error.contains(&format!("--advertise-address {text}")) && error.contains("HOST:PORT"), "{error}");
        }
    }
}
