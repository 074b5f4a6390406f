//! The files of static users and of bearer tokens. What is kept of them proves a password or a token and does not tell it.

use std::path::Path;

use ring::{digest, hmac};
use serde_json::Value;

use super::Role;
use crate::{rotating::Rotating, secret::Secret};

/// Entries of one file.
const ENTRIES_MAX: usize = 10_000;

/// One who may come in.
struct Entry {
    name: String,
    /// Of the password, or of the token's SHA-256.
    tag: hmac::Tag,
    role: Role,
}

/// Users, or holders of tokens.
pub struct Proofs {
    /// Made by chance in every process: a tag is of no use elsewhere, and its comparison tells nothing by the time that it takes.
    key: hmac::Key,
    entries: Vec<Entry>,
}

/// Static users, as Vitess's file has them, with a role where one is given.
pub fn users(file: &Path) -> Result<Rotating<Proofs>, String> {
    load("static users (--grpc-auth-static-password-file)", file, user)
}

/// Holders of tokens.
pub fn tokens(file: &Path) -> Result<Rotating<Proofs>, String> {
    load("bearer tokens (--auth-token-file)", file, token)
}

/// The name, what has to be proven, and the role.
type Parsed = (String, Vec<u8>, Role);

fn load(what: &'static str, file: &Path, entry: fn(&Fields) -> Result<Parsed, String>) -> Result<Rotating<Proofs>, String> {
    let name = file.display().to_string();
    Rotating::load(what, vec![file.to_owned()], move |contents| {
        let content = contents.first().map(Vec::as_slice).unwrap_or_default();
        parse(content, entry).map_err(|problem| format!("{what}: {name}: {problem}"))
    })
}

fn parse(content: &[u8], entry: fn(&Fields) -> Result<Parsed, String>) -> Result<Proofs, String> {
    // The parser's own words may quote what it has read.
    let list: Vec<Value> = serde_json::from_slice(content)
        .map_err(|e| format!("no list in JSON form at line {}, column {}", e.line(), e.column()))?;
    if list.is_empty() || list.len() > ENTRIES_MAX {
        return Err(format!("{} entries; it needs between 1 and {ENTRIES_MAX}", list.len()));
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, &rand::random::<[u8; 32]>());
    let mut entries = Vec::with_capacity(list.len());
    for (at, value) in list.iter().enumerate() {
        let (name, proof, role) =
            Fields::of(value).and_then(|fields| entry(&fields)).map_err(|problem| format!("entry {}: {problem}", at + 1))?;
        entries.push(Entry { name, tag: hmac::sign(&key, &proof), role });
    }
    Ok(Proofs { key, entries })
}

/// The fields of an entry. Like Go, which reads Vitess's file, it does not tell capital letters from small ones.
struct Fields<'a>(Vec<(String, &'a str)>);

impl<'a> Fields<'a> {
    fn of(value: &'a Value) -> Result<Self, String> {
        let object = value.as_object().ok_or("not an object")?;
        let texts = object.iter().map(|(name, value)| {
            let text = value.as_str().ok_or("a field that is no text")?;
            Ok((name.to_ascii_lowercase(), text))
        });
        Ok(Self(texts.collect::<Result<_, &str>>()?))
    }

    /// A field that is misspelt must not be left out silently: it might be the role.
    fn only(&self, known: &[&str]) -> Result<(), String> {
        match self.0.iter().all(|(name, _)| known.contains(&name.as_str())) {
            true => Ok(()),
            false => Err(format!("a field other than {}", known.join(", "))),
        }
    }

    fn get(&self, name: &str) -> &'a str {
        self.0.iter().find(|(field, _)| field == name).map_or("", |(_, text)| text)
    }

    fn required(&self, name: &str) -> Result<&'a str, String> {
        Some(self.get(name)).filter(|text| !text.is_empty()).ok_or_else(|| format!("no {name}"))
    }

    fn role(&self) -> Result<Role, String> {
        match self.get("role") {
            "reader" => Ok(Role::Reader),
            "operator" | "" => Ok(Role::Operator),
            _ => Err("the role is neither reader nor operator".to_owned()),
        }
    }
}

fn user(fields: &Fields) -> Result<Parsed, String> {
    fields.only(&["username", "password", "role"])?;
    Ok((fields.required("username")?.to_owned(), fields.required("password")?.as_bytes().to_vec(), fields.role()?))
}

fn token(fields: &Fields) -> Result<Parsed, String> {
    fields.only(&["name", "token", "tokensha256", "role"])?;
    // A token file is ours alone: there is no old one whose holders are operators.
    fields.required("role")?;
    let digest = match (fields.get("token"), fields.get("tokensha256")) {
        ("", "") => return Err("neither token nor tokensha256".to_owned()),
        (token, "") => digest_of(token),
        ("", hex) => unhex(hex).ok_or("tokensha256 is not 64 hexadecimal digits")?,
        _ => return Err("both token and tokensha256".to_owned()),
    };
    Ok((fields.required("name")?.to_owned(), digest, fields.role()?))
}

fn digest_of(token: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, token.as_bytes()).as_ref().to_vec()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    (digits.len() == 64).then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

impl Proofs {
    /// The role of a user who gives that password. Takes the same time whoever it is.
    pub fn user(&self, name: &str, password: &Secret) -> Option<Role> {
        self.proven(password.0.as_bytes()).find(|entry| entry.name == name).map(|entry| entry.role)
    }

    /// The holder of a token.
    pub fn holder(&self, token: &Secret) -> Option<(String, Role)> {
        self.proven(&digest_of(&token.0)).next().map(|entry| (entry.name.clone(), entry.role))
    }

    /// Every entry that this proves; all are compared.
    fn proven(&self, proof: &[u8]) -> impl Iterator<Item = &Entry> {
        let proven: Vec<&Entry> =
            self.entries.iter().filter(|entry| hmac::verify(&self.key, proof, entry.tag.as_ref()).is_ok()).collect();
        proven.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret(text.to_owned())
    }

    #[test]
    fn vitess_file_is_read_and_a_role_is_taken_where_it_is_given() {
        let file = br#"[{"Username": "anna", "Password": "a1"}, {"username": "bert", "PASSWORD": "b1", "Role": "reader"},
            {"Username": "anna", "Password": "a2", "Role": "reader"}]"#;
        let users = parse(file, user).unwrap();
        assert_eq!(users.user("anna", &secret("a1")), Some(Role::Operator));
        assert_eq!(users.user("anna", &secret("a2")), Some(Role::Reader), "a second password while the first is being replaced");
        assert_eq!(users.user("bert", &secret("b1")), Some(Role::Reader));
        for (name, password) in [("anna", "b1"), ("bert", "a1"), ("anna", ""), ("", "a1"), ("carl", "a1"), ("anna", "a1 ")] {
            assert_eq!(users.user(name, &secret(password)), None, "{name} {password}");
        }
    }

    #[test]
    fn a_token_may_be_kept_as_its_digest() {
        let file = format!(
            r#"[{{"Name": "ci", "Token": "t1", "Role": "reader"}}, {{"Name": "duty", "TokenSha256": "{}", "Role": "operator"}}]"#,
            digest_of("t2").iter().map(|byte| format!("{byte:02X}")).collect::<String>()
        );
        let tokens = parse(file.as_bytes(), token).unwrap();
        assert_eq!(tokens.holder(&secret("t1")), Some(("ci".to_owned(), Role::Reader)));
        assert_eq!(tokens.holder(&secret("t2")), Some(("duty".to_owned(), Role::Operator)));
        assert_eq!(tokens.holder(&secret("t3")), None);
        assert_eq!(tokens.holder(&secret("")), None);
    }

    #[test]
    fn a_mistake_is_named_and_nothing_of_the_file_is_quoted() {
        let user_mistakes: [(&str, &str); 9] = [
            (r#"[{"Username": "anna", "Password": "canary", "Rol": "reader"}]"#, "entry 1: a field other than"),
            (r#"[{"Username": "anna", "Password": "canary", "Role": "canary"}]"#, "neither reader nor operator"),
            (r#"[{"Username": "anna"}]"#, "no password"),
            (r#"[{"Password": "canary"}]"#, "no username"),
            (r#"[{"Username": "a", "Password": ["canary"]}]"#, "a field that is no text"),
            (r#"["canary"]"#, "entry 1: not an object"),
            (r#"{"canary": 1}"#, "no list in JSON form"),
            ("canary", "no list in JSON form"),
            ("[]", "0 entries"),
        ];
        let token_mistakes = [
            (r#"[{"Name": "ci", "Token": "canary"}]"#, "no role"),
            (r#"[{"Name": "ci", "TokenSha256": "canary", "Role": "reader"}]"#, "64 hexadecimal digits"),
            (r#"[{"Name": "ci", "Role": "reader"}]"#, "neither token"),
            (r#"[{"Name": "ci", "Token": "canary", "TokenSha256": "canary", "Role": "reader"}]"#, "both token"),
            (r#"[{"Token": "canary", "Role": "reader"}]"#, "no name"),
        ];
        for (file, words) in user_mistakes {
            let error = parse(file.as_bytes(), user).err().unwrap();
            assert!(error.contains(words) && !error.contains("canary"), "{file}: {error}");
        }
        for (file, words) in token_mistakes {
            let error = parse(file.as_bytes(), token).err().unwrap();
            assert!(error.contains(words) && !error.contains("canary"), "{file}: {error}");
        }
    }
}
