//! Who we say that we are when we call an elector or a tablet: Vitess's file of client credentials, and tokens.

use std::path::Path;

use serde::Deserialize;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use crate::{
    rotating::{self, Rotating},
    secret::Secret,
};

/// Metadata of a static user, as Vitess's clients send it.
pub const USERNAME_KEY: &str = "username";
/// The same of the password.
pub const PASSWORD_KEY: &str = "password";
const AUTHORIZATION_KEY: &str = "authorization";

/// How we prove who we are.
#[derive(Debug)]
pub enum ClientUser {
    /// A static user's name and password.
    Password {
        /// Name.
        user: MetadataValue<Ascii>,
        /// Password.
        password: MetadataValue<Ascii>,
    },
    /// `Bearer` and the token.
    Token(MetadataValue<Ascii>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    #[serde(rename = "Username", alias = "username", default)]
    user: String,
    #[serde(rename = "Password", alias = "password", default)]
    password: String,
    #[serde(rename = "Token", alias = "token", default)]
    token: String,
}

impl ClientUser {
    /// Reads Vitess's file, `{"Username": ..., "Password": ...}`; one with `{"Token": ...}` is taken as well.
    pub fn load(file: &Path) -> Result<Rotating<Self>, String> {
        let what = "our own credentials (--grpc-auth-static-client-creds)";
        let name = format!("{what}: {}", file.display());
        Rotating::load(what, vec![file.to_owned()], move |contents| {
            Self::parse(contents.first().map(Vec::as_slice).unwrap_or_default()).map_err(|problem| format!("{name}: {problem}"))
        })
    }

    /// The same, once.
    pub fn read(file: &Path) -> Result<Self, String> {
        let content = rotating::read(file)?;
        Self::parse(&content).map_err(|problem| format!("{}: {problem}", file.display()))
    }

    /// What stands in a file with a token alone.
    pub fn of_token(content: &str) -> Result<Self, String> {
        Ok(Self::Token(value("the token", &format!("Bearer {}", content.trim()))?))
    }

    fn parse(content: &[u8]) -> Result<Self, String> {
        // The parser's words may quote what it has read.
        let form = r#"write {"Username": "...", "Password": "..."} or {"Token": "..."}"#;
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(content).map_err(|e| format!("line {}, column {}: {form}", e.line(), e.column()))?;
        let Stored { user, password, token } = serde_json::from_value(fields.into()).map_err(|_| form.to_owned())?;
        match (user.is_empty(), token.is_empty()) {
            (false, true) => Ok(Self::Password { user: value("Username", &user)?, password: value("Password", &password)? }),
            (true, false) if password.is_empty() => Self::of_token(&token),
            _ => Err(form.to_owned()),
        }
    }

    /// Writes a user into the metadata of a call to a tablet. A token stays out: no vttablet knows it, and each would see it.
    pub fn sign_for_tablet(&self, metadata: &mut MetadataMap) {
        if matches!(self, Self::Password { .. }) {
            self.sign(metadata);
        }
    }

    /// Writes it into the metadata of a call.
    pub fn sign(&self, metadata: &mut MetadataMap) {
        match self {
            Self::Password { user, password } => {
                metadata.insert(USERNAME_KEY, user.clone());
                metadata.insert(PASSWORD_KEY, password.clone());
            }
            Self::Token(bearer) => {
                metadata.insert(AUTHORIZATION_KEY, bearer.clone());
            }
        }
    }
}

/// A value that no log of the library shows.
fn value(what: &str, text: &str) -> Result<MetadataValue<Ascii>, String> {
    let mut value: MetadataValue<Ascii> =
        text.parse().map_err(|_| format!("{what} has characters that metadata cannot have; use printable ASCII"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The token in an `authorization` header.
pub fn bearer(header: &str) -> Option<Secret> {
    let (scheme, token) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Secret(token.trim().to_owned()))
}

/// The name and the password in an `authorization` header.
pub fn basic(header: &str) -> Option<(String, Secret)> {
    use base64::Engine;
    let (scheme, coded) = header.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let plain = base64::engine::general_purpose::STANDARD.decode(coded.trim()).ok()?;
    let plain = String::from_utf8(plain).ok()?;
    let (user, password) = plain.split_once(':')?;
    Some((user.to_owned(), Secret(password.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_a_user_or_holds_a_token_and_is_never_quoted() {
        let mut metadata = MetadataMap::new();
        ClientUser::parse(br#"{"Username": "anna", "Password": "canary"}"#).unwrap().sign(&mut metadata);
        let text = |metadata: &MetadataMap, key: &str| metadata.get(key).unwrap().to_str().unwrap().to_owned();
        assert_eq!((text(&metadata, "username"), text(&metadata, "password")), ("anna".to_owned(), "canary".to_owned()));
        assert!(!format!("{metadata:?}").contains("canary"));
        let user = ClientUser::parse(br#"{"Token": "canary"}"#).unwrap();
        assert!(!format!("{user:?}").contains("canary"));
        user.sign(&mut metadata);
        assert_eq!(text(&metadata, "authorization"), "Bearer canary");
        for wrong in [r#"{"Password": "canary"}"#, r#"["canary"]"#, r#"{"Username": "a", "Token": "canary"}"#, "canary", ""] {
            let error = ClientUser::parse(wrong.as_bytes()).unwrap_err();
            assert!(error.contains("Username") && !error.contains("canary"), "{error}");
        }
        let token = format!(r#"{{"Token": "canary{}"}}"#, r"\u0001");
        assert!(!ClientUser::parse(token.as_bytes()).unwrap_err().contains("canary"));
        assert!(ClientUser::of_token("canary\n").is_ok(), "the end of a line is no part of it");
    }

    #[test]
    fn headers_are_read_as_browsers_and_clients_write_them() {
        assert_eq!(bearer("Bearer abc"), Some(Secret("abc".to_owned())));
        assert_eq!(bearer("bearer  abc "), Some(Secret("abc".to_owned())));
        assert_eq!(basic("Basic YW5uYTpwOnc="), Some(("anna".to_owned(), Secret("p:w".to_owned()))));
        for other in ["", "Bearer", "Basic", "Basic !!", "Basic YW5uYQ==", "Digest a=b"] {
            assert_eq!((basic(other), bearer(other)), (None, None), "{other}");
        }
    }
}
