//! What stands in the way everywhere, or of one shard.

use std::time::SystemTime;

use askama::Template;

use super::{text, words};
use crate::pb::vtelector::{Blocked, GetStatusResponse, RecoveriesDisabled, SilentElector};

/// Values of the ledger, electors or shards that are named one by one.
const NAMED_MAX: usize = 8;

/// One thing that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// In a few words.
    pub what: String,
    /// Whose it is, why, and until when.
    pub why: String,
    /// Where it can be mended, and the words of that link.
    pub link: Option<(String, &'static str)>,
}

/// All of them.
#[derive(Template)]
#[template(path = "notices.html")]
pub struct Notices {
    pub notices: Vec<Notice>,
}

fn notice(what: impl Into<String>, why: impl Into<String>) -> Notice {
    Notice { what: what.into(), why: text::sentence(&why.into()).into_owned(), link: None }
}

impl Notices {
    /// What stands in the way of every shard.
    pub fn everywhere(status: &GetStatusResponse, silent: &[SilentElector], now: SystemTime, may_act: bool) -> Self {
        let mut notices = Vec::new();
        notices.extend(status.recoveries_disabled.as_ref().map(|off| disabled(off, now, may_act)));
        if !status.not_ready.is_empty() {
            notices.push(notice("This elector is not ready to decide", &status.not_ready));
        }
        if !status.settings_error.is_empty() {
            notices.push(notice("The settings file cannot be taken; the old settings stay in force", &status.settings_error));
        }
        notices.extend(several("An elector does not answer; its shards stand here as declared", silent, |one| {
            format!("{}: {}", text::name(&one.elector), one.reason)
        }));
        notices.extend(several("The ledger holds a value that means nothing", &status.garbage, |one| {
            format!("{}: {}", text::name(&one.key), one.reason)
        }));
        for found in status.blocked.iter().take(NAMED_MAX) {
            let (keyspace, shard) = (text::name(&found.keyspace), text::name(&found.shard));
            let why = found.blocked.as_ref().map(|blocked| self::blocked(blocked, now)).unwrap_or_default();
            let here = format!("/shards/{}/{}", text::in_url(&found.keyspace), text::in_url(&found.shard));
            let link = if may_act { (format!("{here}/acknowledge"), "Acknowledge") } else { (here, "Show the shard") };
            notices.push(Notice {
                link: Some(link),
                ..notice(format!("{keyspace}/{shard} may have no automatic promotion now"), why)
            });
        }
        if status.blocked.len() > NAMED_MAX {
            let more = words::count((status.blocked.len() - NAMED_MAX) as u64, "more shard is", "more shards are");
            notices.push(notice(format!("{more} blocked in the same way"), "vtelector status lists them"));
        }
        Self { notices }
    }
}

/// Recoveries are switched off.
pub fn disabled(off: &RecoveriesDisabled, now: SystemTime, may_act: bool) -> Notice {
    let why = format!("{} ({}, since {})", off.why, text::name(&off.who), words::since(off.since.as_ref(), now));
    let link = may_act.then(|| ("/recoveries".to_owned(), "Switch them on"));
    Notice { link, ..notice("Recoveries are switched off: no elector does anything by itself", why) }
}

/// Rule, reason and end.
pub fn blocked(blocked: &Blocked, now: SystemTime) -> String {
    let reason = text::sentence(&blocked.reason);
    format!("{}: {reason}, {}", text::name(&blocked.by), words::until(blocked.until.as_ref(), now))
}

fn several<T>(what: &str, found: &[T], words: impl Fn(&T) -> String) -> Option<Notice> {
    let named: Vec<String> = found.iter().take(NAMED_MAX).map(|one| text::short(&words(one), 300).into_owned()).collect();
    let more = match found.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!("; {more} more"),
    };
    (!found.is_empty()).then(|| notice(what, format!("{}{more}", named.join("; "))))
}
