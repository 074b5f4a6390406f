//! The door itself: what is demanded at each entrance, and whether what a request brings is enough.

use axum::http::{HeaderMap, header};

use super::{
    Caller, Denial, Peer, Proof, Role,
    proofs::{self, Proofs},
    rate::Rate,
    web::is_from_this_machine,
};
use crate::{
    config::{DoorSettings, Subjects},
    credentials::{PASSWORD_KEY, USERNAME_KEY, basic, bearer},
    rotating::Rotating,
    secret::Secret,
    tls::Subject,
};

/// Where somebody comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// gRPC.
    Grpc,
    /// HTTP.
    Http,
}

impl Entrance {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

/// The door.
pub struct Door {
    users: Option<Rotating<Proofs>>,
    tokens: Option<Rotating<Proofs>>,
    subjects: Option<Subjects>,
    grpc_has_authority: bool,
    http_has_authority: bool,
    grpc_rate: Rate,
    http_rate: Rate,
}

impl Door {
    /// Reads the files; an error names the file and what is wrong with it.
    pub fn new(settings: &DoorSettings) -> Result<Self, String> {
        Ok(Self {
            users: settings.users.as_deref().map(proofs::users).transpose()?,
            tokens: settings.tokens.as_deref().map(proofs::tokens).transpose()?,
            subjects: settings.subjects.clone(),
            grpc_has_authority: settings.grpc_has_authority,
            http_has_authority: settings.http_tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()),
            grpc_rate: Rate::new(settings.requests_per_second),
            http_rate: Rate::new(settings.requests_per_second),
        })
    }

    /// Whether whoever comes in there has to prove who they are.
    pub fn is_locked(&self, entrance: Entrance) -> bool {
        let anywhere = self.users.is_some() || self.tokens.is_some();
        match entrance {
            Entrance::Grpc => anywhere || self.grpc_has_authority,
            Entrance::Http => anywhere || self.http_has_authority,
        }
    }

    /// Notices changes of the files also while nobody comes.
    pub async fn look(&self) {
        for proofs in [&self.users, &self.tokens].into_iter().flatten() {
            proofs.current().await;
        }
    }

    /// Whether another request of that address may be answered now.
    pub fn has_room(&self, entrance: Entrance, peer: Option<&Peer>) -> Result<(), Denial> {
        let rate = match entrance {
            Entrance::Grpc => &self.grpc_rate,
            Entrance::Http => &self.http_rate,
        };
        match peer.is_none_or(|peer| rate.allows(peer.address.ip())) {
            true => Ok(()),
            false => Err(Denial::TooMuch(
                "too many requests from this address in a second; ask less often (--client-requests-per-second)".to_owned(),
            )),
        }
    }

    /// Who asks. `authority` is the host of a request whose target is a whole URL.
    pub async fn admit(
        &self,
        entrance: Entrance,
        peer: Option<&Peer>,
        headers: &HeaderMap,
        authority: Option<&str>,
    ) -> Result<Caller, Denial> {
        let from = peer.map(|peer| peer.address.ip().to_canonical().to_string()).unwrap_or_default();
        let caller = |name: String, role, proof| Caller { name: Some(name), role, proof, from: from.clone() };
        let given = Given::in_headers(headers);
        if let (Some(users), Some((name, password))) = (&self.users, given.user(entrance)) {
            let role = users.current().await.value.user(&name, &password);
            let role = role.ok_or_else(|| self.unproven("the user is not known, or has another password"))?;
            return Ok(caller(name, role, Proof::Password));
        }
        if let (Some(tokens), Some(token)) = (&self.tokens, given.bearer) {
            let holder = tokens.current().await.value.holder(&token);
            let (name, role) = holder.ok_or_else(|| self.unproven("the bearer token is not known"))?;
            return Ok(caller(name, role, Proof::Token));
        }
        if let Some(subject) = peer.and_then(|peer| peer.certificate.as_deref()).filter(|_| self.certificates_count(entrance)) {
            let role = self.role_of(subject)?;
            return Ok(caller(subject.to_string(), role, Proof::Certificate));
        }
        if self.is_locked(entrance) {
            return Err(self.unproven("nobody comes in here without a proof"));
        }
        let is_operator = match (entrance, peer) {
            (Entrance::Grpc, _) => true,
            (Entrance::Http, Some(peer)) => is_from_this_machine(peer.address, headers, authority),
            (Entrance::Http, None) => false,
        };
        Ok(Caller::anybody(if is_operator { Role::Operator } else { Role::Reader }, from))
    }

    /// On gRPC every client has a certificate where there is an authority: it is a proof only where subjects are looked at, or where
    /// nothing else is asked for.
    fn certificates_count(&self, entrance: Entrance) -> bool {
        match entrance {
            Entrance::Grpc => self.subjects.is_some() || (self.users.is_none() && self.tokens.is_none()),
            Entrance::Http => true,
        }
    }

    fn role_of(&self, subject: &Subject) -> Result<Role, Denial> {
        let Some(Subjects { operators, readers }) = &self.subjects else { return Ok(Role::Operator) };
        let is_one = |parts: &[String]| parts.iter().any(|part| subject.whole.contains(part.as_str()));
        if operators.is_empty() || is_one(operators) {
            Ok(Role::Operator)
        } else if is_one(readers) {
            Ok(Role::Reader)
        } else {
            Err(Denial::Forbidden(format!(
                "the certificate of {subject} is neither an operator's nor a reader's; whose are is said by \
                 --grpc-auth-mtls-allowed-substrings and --grpc-auth-mtls-reader-substrings"
            )))
        }
    }

    /// What was wrong, and what may be given.
    fn unproven(&self, problem: &str) -> Denial {
        let (user, token) = ("a user and password", "a bearer token");
        let (may_give, challenge) = match (&self.users, &self.tokens) {
            (Some(_), Some(_)) => {
                (format!("{user}, or {token}"), r#"Basic realm="vtelector", charset="UTF-8", Bearer realm="vtelector""#)
            }
            (Some(_), None) => (user.to_owned(), r#"Basic realm="vtelector", charset="UTF-8""#),
            (None, Some(_)) => (token.to_owned(), r#"Bearer realm="vtelector""#),
            // There is no way to ask for a certificate in an answer.
            (None, None) => return Denial::Forbidden(format!("{problem}: connect with a client certificate")),
        };
        Denial::Unproven { sentence: format!("{problem}: give {may_give}"), challenge }
    }
}

/// What a request brings.
#[derive(Debug, Default)]
struct Given {
    /// Vitess's metadata.
    metadata: Option<(String, Secret)>,
    basic: Option<(String, Secret)>,
    bearer: Option<Secret>,
}

impl Given {
    fn in_headers(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let authorization = text(header::AUTHORIZATION.as_str());
        Self {
            metadata: text(USERNAME_KEY).map(|user| (user, Secret(text(PASSWORD_KEY).unwrap_or_default()))),
            basic: authorization.as_deref().and_then(basic),
            bearer: authorization.as_deref().and_then(bearer),
        }
    }

    fn user(&self, entrance: Entrance) -> Option<(String, Secret)> {
        match entrance {
            Entrance::Grpc => self.metadata.clone().or_else(|| self.basic.clone()),
            Entrance::Http => self.basic.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn peer(address: &str, subject: Option<&str>) -> Peer {
        let certificate = subject.map(|name| Subject { whole: format!("CN={name}"), common_name: name.to_owned() }.into());
        Peer { address: format!("{address}:1").parse().unwrap(), certificate }
    }

    #[tokio::test]
    async fn without_a_lock_everybody_reads_over_http_and_commands_from_here() {
        let door = Door::new(&DoorSettings::default()).unwrap();
        let host = headers(&[("host", "localhost")]);
        for (entrance, address, role) in [
            (Entrance::Grpc, "10.0.0.7", Role::Operator),
            (Entrance::Http, "10.0.0.7", Role::Reader),
            (Entrance::Http, "127.0.0.1", Role::Operator),
        ] {
            let caller = door.admit(entrance, Some(&peer(address, None)), &host, None).await.unwrap();
            assert_eq!(caller, Caller::anybody(role, address));
        }
        assert!(!door.is_locked(Entrance::Grpc) && !door.is_locked(Entrance::Http));
    }

    #[tokio::test]
    async fn a_certificate_is_no_proof_on_grpc_where_users_are_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users");
        std::fs::write(&file, r#"[{"Username": "anna", "Password": "a1"}]"#).unwrap();
        let settings = DoorSettings { users: Some(file), grpc_has_authority: true, ..DoorSettings::default() };
        let door = Door::new(&settings).unwrap();
        let peer = peer("10.0.0.7", Some("anybody"));
        let refused = door.admit(Entrance::Grpc, Some(&peer), &HeaderMap::new(), None).await.unwrap_err();
        assert!(matches!(refused, Denial::Unproven { .. }), "{refused}");
        let given = headers(&[("username", "anna"), ("password", "a1")]);
        let caller = door.admit(Entrance::Grpc, Some(&peer), &given, None).await.unwrap();
        assert_eq!((caller.name.as_deref(), caller.proof), (Some("anna"), Proof::Password));
    }
}
