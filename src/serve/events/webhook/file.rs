//! The file of webhooks: who is told of what, and where.

use std::{
    collections::BTreeSet,
    io::Read,
    path::{Path, PathBuf},
    str::FromStr,
};

use http::Uri;
use serde::Deserialize;

use super::{super::head, template::Template};
use crate::{
    diagnose::Priority,
    secret::Secret,
    serve::events::head::{Kind, Wanted},
};

/// Receivers at most: each costs a task, a lease and five series of metrics.
pub const RECEIVERS_MAX: usize = 32;
/// Longest file that is read, of any kind.
const FILE_BYTES_MAX: u64 = 256 << 10;
const NAME_BYTES_MAX: usize = 64;
const SECRET_BYTES_MAX: usize = 4096;
/// Where PagerDuty takes events.
const PAGERDUTY: &str = "https://events.pagerduty.com/v2/enqueue";

/// Somebody to whom events are brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Its name in etcd, metrics and logs.
    pub name: String,
    /// Where it takes them. The path of an address is often a secret.
    pub url: Secret,
    /// Scheme and host of that.
    pub target: String,
    /// In what form.
    pub template: Template,
    /// What the body is signed with; of PagerDuty, the routing key.
    pub secret: Option<Secret>,
    /// Which events.
    pub wanted: Wanted,
    /// Who signed its certificate (PEM); the system's authorities when absent.
    pub ca: Option<Vec<u8>>,
}

/// Why the file cannot be taken. Says nothing of what stands in it but names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// A file cannot be read.
    #[error("{path}: {why}; give a file that this process can read")]
    Read {
        /// Which.
        path: String,
        /// The system's words.
        why: String,
    },
    /// It is no TOML of this kind.
    #[error("{path}, line {line}: {why}")]
    Toml {
        /// Which.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        why: String,
    },
    /// A receiver cannot be meant.
    #[error("webhook {name:?}: {why}")]
    Receiver {
        /// Its name.
        name: String,
        /// What is wrong, and what to write.
        why: String,
    },
    /// There are too many.
    #[error("{0} webhooks, and {RECEIVERS_MAX} are taken at most")]
    TooMany(usize),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    webhook: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    url: Option<Secret>,
    url_file: Option<PathBuf>,
    template: Option<String>,
    secret: Option<Secret>,
    secret_file: Option<PathBuf>,
    kinds: Option<Vec<String>>,
    priorities: Option<Vec<String>>,
    #[serde(default)]
    keyspaces: Vec<String>,
    ca_file: Option<PathBuf>,
}

/// Reads the file and those that it names.
pub fn read(path: &Path) -> Result<Vec<Receiver>, FileError> {
    let text = read_text(path)?;
    let file: File = toml::from_str(&text).map_err(|error| FileError::Toml {
        path: path.display().to_string(),
        line: error.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1)),
        // Not the error's own form, which shows the line.
        why: error.message().to_owned(),
    })?;
    if file.webhook.len() > RECEIVERS_MAX {
        return Err(FileError::TooMany(file.webhook.len()));
    }
    let mut receivers: Vec<Receiver> = Vec::new();
    for entry in file.webhook {
        let name = entry.name.clone();
        let wrong = |why: String| FileError::Receiver { name: name.clone(), why };
        let receiver = receiver(entry).map_err(wrong)?;
        if receivers.iter().any(|known| known.name == receiver.name) {
            return Err(wrong("the name stands there twice; what was taken is kept by name".to_owned()));
        }
        receivers.push(receiver);
    }
    Ok(receivers)
}

fn read_text(path: &Path) -> Result<String, FileError> {
    let wrong = |why: String| FileError::Read { path: path.display().to_string(), why };
    let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn receiver(entry: Entry) -> Result<Receiver, String> {
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
    if entry.name.is_empty() || entry.name.len() > NAME_BYTES_MAX || !is_name(&entry.name) {
        return Err(format!("name: use 1 to {NAME_BYTES_MAX} of a-z, 0-9, - and _"));
    }
    let template =
        entry.template.as_deref().unwrap_or("json").parse::<Template>().map_err(|error| format!("template: {error}"))?;
    let default = (template == Template::PagerDuty).then(|| Secret(PAGERDUTY.to_owned()));
    let url = one_of("url", entry.url, entry.url_file)?.or(default).ok_or("url: it is missing; write url or url_file")?;
    let target = target(&url.0)?;
    let secret = one_of("secret", entry.secret, entry.secret_file)?;
    match &secret {
        Some(secret) if secret.0.is_empty() => return Err("secret: it is empty".to_owned()),
        Some(secret) if secret.0.len() > SECRET_BYTES_MAX => {
            return Err(format!("secret: it is longer than {SECRET_BYTES_MAX} bytes"));
        }
        None if template == Template::PagerDuty => {
            return Err(
                "secret: it is missing; PagerDuty wants the integration's routing key, as secret or secret_file".to_owned()
            );
        }
        _ => {}
    }
    let wanted = wanted(template, entry.kinds, entry.priorities, entry.keyspaces)?;
    let ca = entry.ca_file.map(|path| read_text(&path)).transpose().map_err(|error| format!("ca_file: {error}"))?;
    if ca.as_ref().is_some_and(|pem| !pem.contains("-----BEGIN CERTIFICATE-----")) {
        return Err("ca_file: no PEM file with certificates".to_owned());
    }
    Ok(Receiver { name: entry.name, url, target, template, secret, wanted, ca: ca.map(String::into_bytes) })
}

/// Text that stands in the file itself, or in one that it names.
fn one_of(field: &str, text: Option<Secret>, file: Option<PathBuf>) -> Result<Option<Secret>, String> {
    match (text, file) {
        (Some(_), Some(_)) => Err(format!("{field}, {field}_file: write one of them, not both")),
        (Some(text), None) => Ok(Some(text)),
        (None, Some(path)) => {
            let text = read_text(&path).map_err(|error| format!("{field}_file: {error}"))?;
            Ok(Some(Secret(text.trim_end_matches(['\n', '\r']).to_owned())))
        }
        (None, None) => Ok(None),
    }
}

/// Scheme and host, which may be shown.
fn target(url: &str) -> Result<String, String> {
    let wrong = "url: write https://HOST/PATH";
    let uri = Uri::from_str(url).map_err(|_| wrong.to_owned())?;
    let (scheme, authority) = uri.scheme_str().zip(uri.authority()).ok_or(wrong)?;
    if !matches!(scheme, "http" | "https") {
        return Err(format!("{wrong}; other schemes than http and https are not spoken"));
    }
    if authority.host().is_empty() {
        return Err(wrong.to_owned());
    }
    if authority.as_str().contains('@') {
        return Err("url: no user and password there; sign with a secret instead".to_owned());
    }
    Ok(format!("{scheme}://{authority}"))
}

fn wanted(
    template: Template,
    kinds: Option<Vec<String>>,
    priorities: Option<Vec<String>>,
    keyspaces: Vec<String>,
) -> Result<Wanted, String> {
    let is_pager = template == Template::PagerDuty;
    let kinds: BTreeSet<Kind> = match kinds {
        Some(kinds) => {
            kinds.iter().map(|kind| kind.parse()).collect::<Result<_, _>>().map_err(|error| format!("kinds: {error}"))?
        }
        None if is_pager => [Kind::Opened, Kind::Closed].into(),
        None => Kind::ALL.into(),
    };
    if is_pager && kinds != [Kind::Opened, Kind::Closed].into() {
        return Err("kinds: PagerDuty is told of opened and closed, which belong together; leave kinds out".to_owned());
    }
    let priorities: BTreeSet<Priority> = match priorities {
        Some(named) => named
            .iter()
            .map(|name| head::priority(name))
            .collect::<Result<_, _>>()
            .map_err(|error| format!("priorities: {error}"))?,
        None if is_pager => [Priority::Shard, Priority::Critical].into(),
        None => [Priority::Shard, Priority::Critical, Priority::High, Priority::Medium, Priority::Low].into(),
    };
    if kinds.is_empty() || priorities.is_empty() {
        return Err("kinds, priorities: an empty list asks for nothing; leave it out".to_owned());
    }
    if let Some(bad) = keyspaces.iter().find(|name| crate::topo::check_name("keyspace name", name).is_err()) {
        return Err(format!("keyspaces: {bad:?} is no name of a keyspace"));
    }
    Ok(Wanted { kinds, priorities, keyspaces: keyspaces.into_iter().collect() })
}
