//! What a failed tablet call means for the caller.

use tonic::Code;

use crate::{mysql::conn::NO_GREETING, shard::FailureClass, topo::TabletAlias};

/// A tablet call that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{method} on {alias}: {message}")]
pub struct TabletError {
    /// The tablet that was called.
    pub alias: TabletAlias,
    /// The RPC.
    pub method: &'static str,
    /// What it means.
    pub kind: TabletErrorKind,
    /// The gRPC code that came with it.
    pub code: tonic::Code,
    /// How nothing came back from the tablet manager; `None` = it answered, if only with an error.
    pub lost: Option<FailureClass>,
    /// The tablet's words, or ours where it never answered.
    pub message: String,
}

/// What the caller may conclude.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TabletErrorKind {
    /// No connection: nothing was sent, nothing was done.
    Unreachable,
    /// Sent, but the answer did not come (deadline, connection lost) or is no answer: it may have been done, be under way, or never start.
    UnknownOutcome,
    /// MySQL on that tablet does not answer its tablet manager (errno 2002, 2003, 2006, 2013). With the last two, a
    /// statement that was running may have taken effect.
    MysqlDown,
    /// No replication source is configured (errno 100).
    NotReplica,
    /// Refused because something has to be changed first (code 9).
    Precondition,
    /// Refused because of transactions that the source does not have.
    ErrantGtid,
    /// The effect was there already (duplicate journal row).
    AlreadyDone,
    /// The tablet does not know this call.
    Unimplemented,
    /// A newer elector was here: our lock revision is lower than the one seen.
    Overtaken,
    /// It answered that it failed.
    Failed,
}

/// The words that begin the text of a call refused for a lock revision lower than one seen (our agent's).
pub const OVERTAKEN: &str = "overtaken:";

/// How a vttablet's refusal to follow a source begins when it holds transactions that the source lacks.
const ERRANT: &str = "Errant GTID detected";

/// MySQL's number and state inside an error text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MysqlErrno<'a> {
    /// The error number.
    pub errno: u32,
    /// The SQL state, five characters.
    pub sqlstate: &'a str,
}

impl<'a> MysqlErrno<'a> {
    /// Finds the first `(errno N) (sqlstate XXXXX)`, the form in which Vitess carries a MySQL error's identity in text.
    pub fn find(text: &'a str) -> Option<Self> {
        text.match_indices("(errno ").find_map(|(at, found)| Self::parse(&text[at + found.len()..]))
    }

    fn parse(text: &'a str) -> Option<Self> {
        let (errno, rest) = text.split_once(") (sqlstate ")?;
        let (sqlstate, _) = rest.split_once(')')?;
        let state_fits = sqlstate.len() == 5 && sqlstate.bytes().all(|b| b.is_ascii_alphanumeric());
        if !state_fits || !errno.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Some(Self { errno: errno.parse().ok()?, sqlstate })
    }
}

/// How our agent's words begin when its mysqld neither answers nor is gone: frozen, or its host is.
pub const MYSQLD_SILENT: &str = "mysqld is silent";

/// How words about a tablet's MySQL (an error of a call, or a health stream's `health_error`) say that it fails; `None` where they do not
/// speak of MySQL. Vitess's errno alone tells a silent server from one that is gone only where connecting timed out.
pub fn mysql_failure(words: &str) -> Option<FailureClass> {
    let errno = MysqlErrno::find(words)?.errno;
    let unanswered = [MYSQLD_SILENT, NO_GREETING, "i/o timeout", "deadline exceeded"];
    Some(match errno {
        2002 | 2003 | 2006 | 2013 if unanswered.iter().any(|silent| words.contains(silent)) => FailureClass::Silent,
        2002 | 2003 => FailureClass::Refused,
        2006 | 2013 => FailureClass::Closed,
        1040 => FailureClass::TooManyConnections,
        _ => FailureClass::Answered,
    })
}

impl TabletError {
    /// The error that a tablet answered with; what it means is read from code and text.
    pub fn answered(alias: TabletAlias, method: &'static str, code: Code, text: &str) -> Self {
        let message = own_words(method, &alias, text);
        Self { kind: classify(method, code, message), method, code, lost: None, message: message.to_owned(), alias }
    }

    /// The error of a tablet manager that has no such call.
    pub(super) fn unimplemented(alias: TabletAlias, method: &'static str) -> Self {
        let message = "this tablet manager does not know the call".to_owned();
        Self { alias, method, kind: TabletErrorKind::Unimplemented, code: Code::Unimplemented, lost: None, message }
    }

    /// The error of a call that was not sent, because nothing was heard of the tablet.
    pub fn not_sent(alias: TabletAlias, method: &'static str) -> Self {
        let (kind, lost) = (TabletErrorKind::Unreachable, Some(FailureClass::Silent));
        let message = "not sent: nothing was heard of it".to_owned();
        Self { alias, method, kind, code: Code::Unavailable, lost, message }
    }

    /// The MySQL error in the tablet's words, where there is one.
    pub fn mysql_errno(&self) -> Option<MysqlErrno<'_>> {
        MysqlErrno::find(&self.message)
    }
}

/// A tablet puts the method and its alias before its text; we print them ourselves.
fn own_words<'a>(method: &str, alias: &TabletAlias, text: &'a str) -> &'a str {
    text.strip_prefix("TabletManager.")
        .and_then(|rest| rest.strip_prefix(method))
        .and_then(|rest| rest.strip_prefix(&format!(" on {alias}: ")))
        .unwrap_or(text)
}

fn classify(method: &str, code: Code, text: &str) -> TabletErrorKind {
    use TabletErrorKind as Kind;
    if text.starts_with(OVERTAKEN) {
        return Kind::Overtaken;
    }
    if code == Code::Unimplemented {
        return Kind::Unimplemented;
    }
    if text.contains(ERRANT) {
        return Kind::ErrantGtid;
    }
    // A tablet that asked its parent passes the parent's words on: that MySQL is not the one we called about.
    let own = text.split("TabletManager.").next().unwrap_or(text);
    match MysqlErrno::find(own).map(|found| found.errno) {
        Some(100) => return Kind::NotReplica,
        Some(2002 | 2003 | 2006 | 2013) => return Kind::MysqlDown,
        Some(1062) if method == "PopulateReparentJournal" => return Kind::AlreadyDone,
        _ => {}
    }
    match code {
        Code::FailedPrecondition => Kind::Precondition,
        // The tablet's own deadline or a cancellation stopped it somewhere in the middle.
        Code::DeadlineExceeded | Code::Cancelled => Kind::UnknownOutcome,
        _ => Kind::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(method: &'static str, code: Code, text: &str) -> TabletErrorKind {
        TabletError::answered("zone1-101".parse().unwrap(), method, code, text).kind
    }

    #[test]
    fn the_errno_is_found_only_in_its_exact_form() {
        let found = |errno, sqlstate| Some(MysqlErrno { errno, sqlstate });
        assert_eq!(MysqlErrno::find("no replication status (errno 100) (sqlstate HY000)"), found(100, "HY000"));
        assert_eq!(MysqlErrno::find("(errno x) (errno 1062) (sqlstate 23000) during query: insert"), found(1062, "23000"));
        assert_eq!(MysqlErrno::find("a (errno 1) (sqlstate 00000) b (errno 2) (sqlstate HY000)"), found(1, "00000"));
        let not = ["", "errno 100", "(errno 100)", "(errno 100) (sqlstate HY00)", "(errno 100) (sqlstate HY-00)"];
        for text in not.into_iter().chain([
            "(errno -1) (sqlstate HY000)",
            "(errno 99999999999) (sqlstate HY000)",
            "(errno ) (sqlstate HY000)",
        ]) {
            assert_eq!(MysqlErrno::find(text), None, "{text}");
        }
    }

    #[test]
    fn words_about_mysql_say_whether_it_is_gone_silent_or_full() {
        use FailureClass::*;
        let of = |words: &str, errno: u16| mysql_failure(&format!("{words} (errno {errno}) (sqlstate HY000)"));
        assert_eq!(of("net.Dial(/x) to local server failed: connection refused", 2002), Some(Refused));
        assert_eq!(of("net.Dial(/x) to local server failed: i/o timeout", 2002), Some(Silent));
        assert_eq!(of("EOF", 2013), Some(Closed));
        assert_eq!(of(&format!("{MYSQLD_SILENT}: no answer for 300ms"), 2013), Some(Silent));
        assert_eq!(of("Too many connections", 1040), Some(TooManyConnections));
        assert_eq!(of("Access denied", 1045), Some(Answered));
        assert_eq!(mysql_failure("replication lag is high"), None);
    }

    #[test]
    fn a_tablets_prefix_is_not_printed_twice() {
        let text = "TabletManager.ReplicationStatus on zone1-0000000101: no replication status (errno 100) (sqlstate HY000)";
        let error = TabletError::answered("zone1-101".parse().unwrap(), "ReplicationStatus", Code::Unknown, text);
        assert_eq!(
            error.to_string(),
            "ReplicationStatus on zone1-0000000101: no replication status (errno 100) (sqlstate HY000)"
        );
        assert_eq!(error.mysql_errno().unwrap().errno, 100);
    }

    #[test]
    fn code_and_text_say_what_a_failure_means() {
        use TabletErrorKind::*;
        let cases = [
            (NotReplica, "ReplicationStatus", Code::Unknown, "no replication status (errno 100) (sqlstate HY000)"),
            (
                NotReplica,
                "StopReplicationAndGetStatus",
                Code::Unknown,
                "before status failed: no replication status (errno 100) (sqlstate HY000)",
            ),
            (MysqlDown, "FullStatus", Code::Unavailable, "net.Dial(/x) to local server failed (errno 2002) (sqlstate HY000)"),
            (MysqlDown, "SetReadOnly", Code::Cancelled, "Lost connection (errno 2013) (sqlstate HY000)"),
            (
                AlreadyDone,
                "PopulateReparentJournal",
                Code::Unknown,
                "Duplicate entry '1' (errno 1062) (sqlstate 23000) during query: INSERT",
            ),
            (
                Failed,
                "ExecuteFetchAsDba",
                Code::AlreadyExists,
                "Duplicate entry '1' (errno 1062) (sqlstate 23000) during query: INSERT",
            ),
            (ErrantGtid, "SetReplicationSource", Code::FailedPrecondition, "Errant GTID detected: a:1; Primary GTID: b:1-2"),
            (Precondition, "PromoteReplica", Code::FailedPrecondition, "VT09013: semi-sync plugins are not loaded"),
            (Unimplemented, "Sleep", Code::Unimplemented, "unknown method Sleep"),
            (
                Overtaken,
                "PromoteReplica",
                Code::FailedPrecondition,
                "TabletManager.PromoteReplica on zone1-0000000101: overtaken: 7 < 9",
            ),
            (Failed, "ExecuteFetchAsDba", Code::Unknown, "no such table overtaken: (errno 1146) (sqlstate 42S02)"),
            (UnknownOutcome, "WaitForPosition", Code::DeadlineExceeded, "WaitSourcePos failed: timed out waiting for position"),
            // Codes 17 and 18 are outside gRPC's range and arrive as unknown.
            (Failed, "PopulateReparentJournal", Code::from_i32(17), "--super-read-only option (errno 1290) (sqlstate HY000)"),
        ];
        for (expected, method, code, text) in cases {
            assert_eq!(kind(method, code, text), expected, "{text}");
        }
    }

    #[test]
    fn the_parents_dead_mysql_is_not_this_tablets() {
        let text = "TabletManager.PrimaryStatus on zone1-0000000102: dial failed (errno 2002) (sqlstate HY000)";
        assert_eq!(kind("SetReplicationSource", Code::Unavailable, text), TabletErrorKind::Failed);
    }
}
