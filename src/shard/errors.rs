//! What the texts of MySQL's replication errors say. A tablet passes on the text alone, with or without a number in it.

/// Why an IO thread has no source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoError {
    /// No connection, or a lost one: nobody answers there, or nobody is let in for want of room.
    NoConnection,
    /// The source no longer has what the replica lacks.
    Purged,
    /// Something else that trying again does not cure: a password, a server's identity, a broken log.
    Incurable,
    /// Not known: it may pass.
    Other,
}

/// Why an SQL thread stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlError {
    /// The data differ from the source's, or a statement can never succeed here.
    Incurable,
    /// It may pass, or the text does not say what it is: starting again finds out and harms nothing.
    MayPass,
}

/// Errors of logging in or of asking for the log that stay what they are: no access, a host that is blocked or not allowed, unsafe
/// authentication, a fatal error while reading the log, the same server id or UUID.
const IO_INCURABLE: [u32; 8] = [1045, 1129, 1130, 1236, 1593, 2059, 2061, 13114];

/// Losing and not getting a connection, also for want of room.
const IO_CONNECTION: [u32; 8] = [1040, 1158, 1159, 1160, 1161, 2002, 2003, 2013];

/// What passes: lock waits, deadlocks, interrupted or killed statements, a full disk or table that somebody clears, lost connections.
const SQL_MAY_PASS: [u32; 14] = [3, 28, 1021, 1030, 1040, 1114, 1205, 1213, 1290, 1317, 1836, 2013, 3024, 3572];

impl IoError {
    /// What a `Last_IO_Error` says.
    pub fn of(text: &str) -> Self {
        let low = text.to_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| low.contains(word));
        let number = number(&low);
        let is = |numbers: &[u32]| number.is_some_and(|number| numbers.contains(&number));
        if has(&["purged required binary logs", "purged gtid", "could not find first log file"]) {
            return Self::Purged;
        }
        if has(&["access denied", "authentication", "is not allowed to connect", "is blocked", "fatal error"])
            || is(&IO_INCURABLE)
        {
            return Self::Incurable;
        }
        let connection = [
            "connecting to source",
            "connecting to master",
            "can't connect",
            "lost connection",
            "too many connections",
            "gone away",
        ];
        if has(&connection) || is(&IO_CONNECTION) { Self::NoConnection } else { Self::Other }
    }
}

impl SqlError {
    /// What a `Last_SQL_Error` says.
    pub fn of(text: &str) -> Self {
        match number(&text.to_lowercase()) {
            Some(number) if !SQL_MAY_PASS.contains(&number) => Self::Incurable,
            _ => Self::MayPass,
        }
    }
}

/// Whether a text says that a disk is full.
pub fn is_disk_full(text: &str) -> bool {
    let low = text.to_lowercase();
    ["no space left", "disk full", "disk is full", "errno: 28", "os errno 28"].iter().any(|words| low.contains(words))
        || number(&low) == Some(1021)
}

/// Whether a text says that a file system takes no writes.
pub fn is_file_system_read_only(text: &str) -> bool {
    let low = text.to_lowercase();
    ["read-only file system", "errno: 30 ", "os errno 30"].iter().any(|words| low.contains(words))
}

/// The error's number: in front of the text, or after one of the words that MySQL and Vitess put before it.
fn number(low: &str) -> Option<u32> {
    let digits = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse::<u32>().ok()
    };
    let after = |words: &str| low.find(words).and_then(|at| digits(low[at + words.len()..].trim_start()));
    let in_front = digits(low).or_else(|| low.strip_prefix("error").and_then(|rest| digits(rest.trim_start())));
    in_front.or_else(|| {
        ["error_code:", "error code:", "my-", "(errno ", "server_errno=", "fatal error "].iter().find_map(|words| after(words))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_io_thread_says() {
        let cases = [
            (
                "Error reconnecting to source 'vt_repl@10.0.0.1:3306'. This was attempt 3/86400, with a delay of 10 seconds between \
                 attempts. Message: Can't connect to MySQL server on '10.0.0.1:3306' (111)",
                IoError::NoConnection,
            ),
            ("2003 error connecting to source 'vt_repl@10.0.0.1:3306' - retry-time: 10 retries: 1", IoError::NoConnection),
            ("Source command COM_REGISTER_REPLICA failed: Lost connection to MySQL server (Errno: 2013)", IoError::NoConnection),
            ("Error connecting to source 'x'. Message: Too many connections", IoError::NoConnection),
            ("Error connecting to source 'x'. Message: Access denied for user 'vt_repl'@'10.0.0.2'", IoError::Incurable),
            ("Error connecting to source 'x'. Message: Authentication requires secure connection.", IoError::Incurable),
            (
                "Got fatal error 1236 from source when reading data from binary log: 'Cannot replicate because the source purged \
                 required binary logs. Replicate the missing transactions from elsewhere'",
                IoError::Purged,
            ),
            ("13114 Got fatal error 13114 from source: 'log event entry exceeded max_allowed_packet'", IoError::Incurable),
            (
                "Fatal error: The replica I/O thread stops because source and replica have equal MySQL server UUIDs",
                IoError::Incurable,
            ),
            ("Relay log write failure: could not queue event from source", IoError::Other),
            ("", IoError::Other),
        ];
        for (text, expected) in cases {
            assert_eq!(IoError::of(text), expected, "{text}");
        }
    }

    #[test]
    fn what_an_sql_thread_says() {
        let duplicate = "Could not execute Write_rows event on table a.b; Duplicate entry '1' for key 'PRIMARY', Error_code: 1062; \
                         handler error HA_ERR_FOUND_DUPP_KEY";
        let deadlock = "Could not execute Update_rows event on table a.b; Deadlock found, Error_code: MY-001213; handler error";
        let coordinator = "Coordinator stopped because there were error(s) in the worker(s). The most recent failure being: Worker 1 \
                           failed executing transaction 'x:5' at source log binlog.000001, end_log_pos 123.";
        let cases = [
            (duplicate, SqlError::Incurable),
            ("1146 Error executing row event: 'Table 'a.b' doesn't exist'", SqlError::Incurable),
            ("1032 Can't find record in 'b'", SqlError::Incurable),
            (deadlock, SqlError::MayPass),
            ("1205 Lock wait timeout exceeded", SqlError::MayPass),
            (coordinator, SqlError::MayPass),
        ];
        for (text, expected) in cases {
            assert_eq!(SqlError::of(text), expected, "{text}");
        }
    }

    #[test]
    fn what_a_disk_says() {
        assert!(is_disk_full("Disk full (/var/lib/mysql/a.MAI); waiting for someone to free some space... (errno: 28)"));
        assert!(is_disk_full("1021 Disk got full writing 'a'") && is_disk_full("write failed: No space left on device"));
        assert!(is_file_system_read_only("Can't create/write to file '/tmp/x' (OS errno 30 - Read-only file system)"));
        assert!(
            !is_disk_full("28 rows were too many") && !is_file_system_read_only("The MySQL server is running with --read-only")
        );
    }
}
