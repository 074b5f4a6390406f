//! Reads a story: a shard in a few lines. What a line does not say is as in a healthy shard.
//!
//! ```text
//! == a title
//! policy semi_sync acks:2              # semi_sync; or "unset", or a name that does not exist
//! record z1-100 term=10                # by default what the newest PRIMARY says; or "new", "none"
//! rules drain stalled_disk slow=5
//! unreadable z2 | topology unreadable | not looked | snapshot | switching denied tables
//! z1-100 PRIMARY term=10 mysql=refused@0.3 manager=ok direct=closed@0.2
//! z1-101 age=0.1 io=lost offline=12               # a REPLICA of the newest PRIMARY
//! heard z1-101 silent@0.4              # what z1-101 heard from the newest PRIMARY, or of=z1-102
//! ```

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    diagnose::Rules,
    durability::{Enforced, Extra, policy, with_extra},
    mysql::{GtidSet, ServerUuid},
    pb::{
        topodata::{Tablet, TabletType},
        vttime,
    },
    shard::{
        Channel, Failing, FailureClass, Greeting, IoState, KeyspaceFacts, OfflineMode, Pace, Replication, Seen, ShardFacts,
        ShardView, TabletStatus, TabletView,
    },
    topo::TabletAlias,
};

pub(super) struct Story {
    pub title: String,
    pub view: ShardView,
    pub rules: Rules,
}

fn alias(text: &str) -> TabletAlias {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn secs(text: &str) -> Duration {
    Duration::from_secs_f64(text.parse().unwrap_or_else(|_| panic!("{text:?} is no number of seconds")))
}

fn server(letter: &str) -> ServerUuid {
    let low = letter.to_lowercase();
    assert!(letter.len() == 1 && ("a"..="f").contains(&low.as_str()), "{letter:?} is no letter from A to F");
    format!("{}-0000-4000-8000-00000000000{low}", low.repeat(8)).parse().unwrap()
}

/// `A:1-10,B:3` as a set.
fn gtids(text: &str) -> Arc<GtidSet> {
    let items = text.split(',').filter(|item| !item.is_empty()).map(|item| {
        let (letter, rest) = item.split_once(':').unwrap_or_else(|| panic!("{item:?} is no GTID"));
        format!("{}:{rest}", server(letter))
    });
    Arc::new(items.collect::<Vec<_>>().join(",").parse().unwrap())
}

/// `refused@0.3`: how, and since when.
fn failing(text: &str) -> Failing {
    let (class, since) = text.split_once('@').unwrap_or_else(|| panic!("{text:?}: since when?"));
    let (class, words) = match class {
        "refused" => (FailureClass::Refused, "connection refused"),
        "closed" => (FailureClass::Closed, "connection closed"),
        "toomany" => (FailureClass::TooManyConnections, "Too many connections (errno 1040)"),
        "silent" => (FailureClass::Silent, "no answer within 0.5 s"),
        "answered" => (FailureClass::Answered, "unknown column (errno 1054)"),
        "diskfull" => (FailureClass::Answered, "Disk full (/data/x); waiting for someone to free some space (errno 1021)"),
        "rofs" => (FailureClass::Answered, "Can't create/write to file '/data/x' (OS errno 30 - Read-only file system)"),
        other => panic!("no such failure: {other:?}"),
    };
    let since = secs(since);
    Failing { since, last: since.min(Duration::from_millis(100)), class, words: words.to_owned(), count: 1 }
}

const GOOD: Duration = Duration::from_millis(200);

fn channel(text: &str) -> Channel {
    match text {
        "ok" => Channel { last_good: Some(GOOD), failing: None },
        "none" => Channel::default(),
        text => {
            let failing = failing(text);
            Channel { last_good: Some(failing.since + Duration::from_millis(500)), failing: Some(failing) }
        }
    }
}

impl Story {
    pub fn parse(file: &str, block: &str) -> Self {
        let lines: Vec<&str> =
            block.lines().map(|line| line.split('#').next().unwrap().trim()).filter(|l| !l.is_empty()).collect();
        let title = format!("{file}: {}", lines[0]);
        let keyspace = KeyspaceFacts {
            policy: policy("semi_sync")
                .map(|base| with_extra(base, Extra::default(), BTreeMap::new(), Enforced::No).unwrap())
                .map_err(|error| error.to_string()),
            policy_unset: false,
            is_snapshot: false,
            emergency_disabled: false,
        };
        let view = ShardView {
            shard: "commerce/0".parse().unwrap(),
            record: None,
            keyspace,
            tablets: BTreeMap::new(),
            unreadable_cells: BTreeMap::new(),
            topology_unreadable: None,
            primary_for: None,
            wall_clock: Duration::from_secs(1000),
            looked: true,
        };
        let mut story = Self { title, view, rules: Rules::default() };
        let is_tablet = |line: &&&str| line.split_whitespace().next().unwrap().contains('-');
        // Records first, then what is seen: a replica's source is another's record.
        lines[1..].iter().filter(|line| !is_tablet(line) && !line.starts_with("heard")).for_each(|line| story.setting(line));
        lines[1..].iter().filter(is_tablet).for_each(|line| story.record(line));
        if let (false, Some(primary)) = (lines[1..].iter().any(|line| line.starts_with("record ")), story.newest()) {
            let term = story.view.tablets[&primary].term();
            story.view.record = Some(ShardFacts { primary: Some(primary), term, ..ShardFacts::default() });
        }
        lines[1..].iter().filter(is_tablet).for_each(|line| story.tablet(line));
        lines[1..].iter().filter(|line| line.starts_with("heard")).for_each(|line| story.heard(line));
        story
    }

    fn setting(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (word, rest) {
            ("policy", "unset") => self.view.keyspace.policy_unset = true,
            ("policy", rest) => {
                let mut words = rest.split_whitespace();
                let base = policy(words.next().unwrap()).map_err(|error| error.to_string());
                let extra: Extra = words.next().map_or(Extra::default(), |extra| extra.parse().unwrap());
                self.view.keyspace.policy = base.map(|base| with_extra(base, extra, BTreeMap::new(), Enforced::No).unwrap());
            }
            ("record", "new") => self.view.record = Some(ShardFacts::default()),
            ("record", "none") => {}
            ("record", rest) => {
                let mut words = rest.split_whitespace();
                let primary = Some(alias(words.next().unwrap()));
                let term = words.next().map(|term| (term.strip_prefix("term=").unwrap().parse().unwrap(), 0));
                self.view.record = Some(ShardFacts { primary, term, ..ShardFacts::default() });
            }
            ("rules", rest) => rest.split_whitespace().for_each(|word| match word.split_once('=').unwrap_or((word, "")) {
                ("drain", _) => self.rules.drain_errant = true,
                ("stalled_disk", _) => self.rules.recover_stalled_disk = true,
                ("slow", times) => self.rules.slow_primary_factor = Some(times.parse().unwrap()),
                _ => panic!("{}: no such rule: {word:?}", self.title),
            }),
            ("unreadable", cell) => {
                drop(self.view.unreadable_cells.insert(cell.to_owned(), "its etcd does not answer".to_owned()))
            }
            ("topology", _) => self.view.topology_unreadable = Some("etcd does not answer".to_owned()),
            ("not", _) => self.view.looked = false,
            ("snapshot", _) => self.view.keyspace.is_snapshot = true,
            _ => panic!("{}: cannot read {line:?}", self.title),
        }
    }

    /// Who is declared primary with the newest term, as far as the records were read.
    fn newest(&self) -> Option<TabletAlias> {
        let primaries = self.view.tablets.iter().filter(|(_, tablet)| tablet.declared_type() == TabletType::Primary);
        primaries.max_by_key(|(_, tablet)| tablet.term()).map(|(alias, _)| alias.clone())
    }

    fn record(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let name = alias(words.next().unwrap());
        let mut record = Tablet {
            mysql_hostname: format!("10.0.0.{}", name.uid - 99),
            hostname: format!("10.0.0.{}", name.uid - 99),
            mysql_port: 3306,
            ..Tablet::default()
        };
        record.set_type(TabletType::Replica);
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("term", seconds) => {
                    record.primary_term_start_time = Some(vttime::Time { seconds: seconds.parse().unwrap(), nanoseconds: 0 })
                }
                ("shutdown", _) => {
                    record.tablet_shutdown_time = Some(vttime::Time::default());
                    (record.mysql_hostname, record.hostname) = Default::default();
                }
                (kind, "") => drop(TabletType::from_str_name(kind).map(|kind| record.set_type(kind))),
                _ => {}
            }
        }
        if record.r#type() == TabletType::Primary && record.primary_term_start_time.is_none() {
            record.primary_term_start_time = Some(vttime::Time { seconds: 10, nanoseconds: 0 });
        }
        self.view.tablets.insert(name, TabletView::unseen(Arc::new(record)));
    }

    fn tablet(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let name = alias(words.next().unwrap());
        let words: Vec<&str> = words.collect();
        let primary = self.newest();
        let mut status = self.usual_status(&name, primary.as_ref());
        let mut tablet = self.view.tablets[&name].clone();
        let mut age = GOOD;
        (tablet.manager, tablet.mysql, tablet.errant) = (channel("ok"), channel("ok"), Some(gtids("")));
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("mysql", how) => {
                    tablet.mysql = channel(how);
                    age = tablet.mysql.last_good.unwrap_or(age);
                }
                ("manager", how) => tablet.manager = channel(how),
                ("direct", how) => tablet.direct = Some(channel(how)),
                ("down", how) => {
                    (tablet.manager, tablet.mysql) = (channel(how), channel(how));
                    age = tablet.mysql.last_good.unwrap_or(age);
                }
                ("good", "never") => (tablet.mysql.last_good, age) = (None, Duration::MAX),
                ("good", at) => (tablet.mysql.last_good, age) = (Some(secs(at)), secs(at)),
                ("age", at) => age = secs(at),
                ("vanished", set) => tablet.vanished = gtids(set),
                ("errant", "unknown") => tablet.errant = None,
                ("errant", set) => tablet.errant = Some(gtids(set)),
                ("offline", at) => {
                    let what = OfflineMode::On { since: secs(at) };
                    tablet.offline = Some(Seen { what, age: GOOD });
                }
                ("pace", pace) => {
                    let (now, usual) = pace.split_once('/').unwrap();
                    tablet.pace = Some(Pace { now: secs(now), usual: secs(usual) });
                }
                _ => self.describe(&mut status, word),
            }
        }
        tablet.status = (age != Duration::MAX).then(|| Seen { what: Arc::new(status), age });
        if tablet.is_shut_down() && tablet.mysql.failing.is_none() {
            (tablet.mysql, tablet.manager, tablet.status) = Default::default();
        }
        self.view.tablets.insert(name, tablet);
    }

    /// A healthy tablet: the primary writes as A, and everybody has it all.
    fn usual_status(&self, name: &TabletAlias, primary: Option<&TabletAlias>) -> TabletStatus {
        let declared = self.view.tablets[name].declared_type();
        let policy = self.view.keyspace.policy.as_ref().ok();
        let is_primary = primary == Some(name);
        let acks = policy.zip(primary).map_or(0, |(policy, primary)| policy.acks_needed(&self.view.member(primary)));
        let may_ack = |primary| policy.is_some_and(|p| p.may_ack(&self.view.member(primary), &self.view.member(name)));
        let acknowledges = primary.is_some_and(|primary| primary != name && acks > 0 && may_ack(primary));
        TabletStatus {
            server_uuid: None,
            tablet_type: declared,
            server_id: name.uid,
            version: "8.0.36".to_owned(),
            version_comment: String::new(),
            read_only: !is_primary,
            super_read_only: !is_primary,
            log_bin: true,
            log_replica_updates: true,
            binlog_format: "ROW".to_owned(),
            binlog_row_image: "FULL".to_owned(),
            gtid_mode: "ON".to_owned(),
            executed: Some(gtids("A:1-100")),
            received: Some(gtids("A:1-100")),
            purged: Some(gtids("")),
            replication: primary.filter(|_| !is_primary).map(|primary| self.replication_from(primary)),
            replica_net_timeout: Duration::from_secs(8),
            heartbeat: Duration::from_secs(4),
            semi_sync_primary_enabled: is_primary && acks > 0,
            semi_sync_primary_active: is_primary && acks > 0,
            semi_sync_wait_count: acks.max(1) as u32,
            semi_sync_clients: if is_primary { self.view.tablets.len() as u32 - 1 } else { 0 },
            semi_sync_timeout_ms: 1_000_000_000_000_000_000,
            semi_sync_replica_enabled: acknowledges,
            semi_sync_replica_active: acknowledges,
            semi_sync_blocked: false,
            disk_stalled: false,
        }
    }

    fn replication_from(&self, source: &TabletAlias) -> Replication {
        Replication {
            source_host: format!("10.0.0.{}", source.uid - 99),
            source_port: 3306,
            source_uuid: None,
            io: IoState::Running,
            io_error: String::new(),
            sql_running: true,
            sql_error: String::new(),
            lag: Some(Duration::ZERO),
            delay: Duration::ZERO,
            auto_position: true,
            has_filters: false,
            backup_running: false,
            has_credentials: true,
            tls: false,
        }
    }

    fn describe(&self, status: &mut TabletStatus, word: &str) {
        match word.split_once('=').unwrap_or((word, "")) {
            ("writable", _) => (status.read_only, status.super_read_only) = (false, false),
            ("readonly", _) => (status.read_only, status.super_read_only) = (true, true),
            ("src", "old_address") => {
                let old = self.replication_from(&alias("z1-100"));
                status.replication =
                    Some(Replication { source_host: "10.8.8.8".to_owned(), source_uuid: Some(server("A")), ..old });
            }
            ("src", "none") => status.replication = None,
            ("src", "stranger") => {
                let stranger = Replication { source_host: "10.9.9.9".to_owned(), ..self.replication_from(&alias("z1-199")) };
                status.replication = Some(stranger);
            }
            ("src", source) => status.replication = Some(self.replication_from(&alias(source))),
            ("exec", set) => (status.executed, status.received) = (Some(gtids(set)), Some(gtids(set))),
            ("recv", set) => status.received = Some(gtids(set)),
            ("purged", set) => status.purged = Some(gtids(set)),
            ("uuid", letter) => status.server_uuid = Some(server(letter)),
            ("own_type", kind) => status.tablet_type = TabletType::from_str_name(kind).unwrap(),
            ("semi_primary", on) => {
                (status.semi_sync_primary_enabled, status.semi_sync_primary_active) = (on == "on", on == "on")
            }
            ("semi_replica", on) => {
                (status.semi_sync_replica_enabled, status.semi_sync_replica_active) = (on == "on", on == "on")
            }
            ("acks_inactive", _) => status.semi_sync_replica_active = false,
            ("clients", n) => status.semi_sync_clients = n.parse().unwrap(),
            ("wait", n) => status.semi_sync_wait_count = n.parse().unwrap(),
            ("timeout_ms", ms) => status.semi_sync_timeout_ms = ms.parse().unwrap(),
            ("blocked", _) => status.semi_sync_blocked = true,
            // A vttablet whose disk hangs says nothing else.
            ("disk_stalled", _) => (status.disk_stalled, status.tablet_type) = (true, TabletType::Unknown),
            ("version", text) => status.version = text.to_owned(),
            ("format", text) => status.binlog_format = text.to_owned(),
            ("gtid_mode", text) => status.gtid_mode = text.to_owned(),
            ("no_log", _) => status.log_replica_updates = false,
            ("heartbeat", at) => status.heartbeat = secs(at),
            (kind, "") if TabletType::from_str_name(kind).is_some() => {}
            ("term" | "shutdown", _) => {}
            _ => replication(status.replication.as_mut().unwrap_or_else(|| panic!("{}: {word:?}?", self.title)), word),
        }
    }

    fn heard(&mut self, line: &str) {
        let mut words: Vec<&str> = line.split_whitespace().skip(1).collect();
        let of = words.iter().find_map(|word| word.strip_prefix("of=")).map(alias).or_else(|| self.newest()).unwrap();
        words.retain(|word| !word.starts_with("of="));
        let (what, age) = words[1].split_once('@').unwrap();
        let what = match what {
            "greeted" => Greeting::Greeted,
            "toomany" => Greeting::TooManyConnections,
            "refused" => Greeting::Refused,
            "silent" => Greeting::Silent,
            "cannot" => Greeting::CannotTell("it does not know the call".to_owned()),
            other => panic!("{}: no such greeting: {other:?}", self.title),
        };
        let of = self.view.tablets.get_mut(&of).unwrap();
        of.greetings.insert(alias(words[0]), Seen { what, age: secs(age) });
    }
}

fn replication(replication: &mut Replication, word: &str) {
    match word.split_once('=').unwrap_or((word, "")) {
        ("io", "up") => replication.io = IoState::Running,
        ("io", "searching") => replication.io = IoState::Connecting,
        ("io", "stopped") => replication.io = IoState::Stopped,
        ("io", error) => {
            (replication.io, replication.io_error) = match error {
                "lost" => (IoState::Connecting, "error connecting to source: Can't connect to MySQL server (111)".to_owned()),
                "auth" => (IoState::Connecting, "error connecting to source: Access denied for user 'vt_repl'".to_owned()),
                "purged" => {
                    let text = "Got fatal error 1236 from source: 'the source purged required binary logs'";
                    (IoState::Stopped, text.to_owned())
                }
                "diskfull" => (IoState::Stopped, "Relay log write failure: No space left on device".to_owned()),
                other => panic!("no such IO error: {other:?}"),
            }
        }
        ("sql", "stopped") => replication.sql_running = false,
        ("sql", error) => {
            (replication.sql_running, replication.sql_error) = match error {
                "duplicate" => (false, "Could not execute Write_rows event; Duplicate entry '1', Error_code: 1062;".to_owned()),
                "lockwait" => (false, "Lock wait timeout exceeded, Error_code: 1205;".to_owned()),
                "coordinator" => (false, "Coordinator stopped because there were error(s) in the worker(s)".to_owned()),
                other => panic!("no such SQL error: {other:?}"),
            }
        }
        ("lag", "unknown") => replication.lag = None,
        ("lag", at) => replication.lag = Some(secs(at)),
        ("delay", at) => replication.delay = secs(at),
        ("src_uuid", letter) => replication.source_uuid = Some(server(letter)),
        ("filters", _) => replication.has_filters = true,
        ("no_auto_position", _) => replication.auto_position = false,
        ("backup", _) => replication.backup_running = true,
        _ => panic!("cannot read {word:?}"),
    }
}
