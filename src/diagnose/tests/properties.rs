//! What holds for every view, however odd.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::{prelude::*, sample::select, strategy::ValueTree, test_runner::TestRunner};

use super::story::Story;
use crate::{
    diagnose::{Code, Ground, Remedy, diagnose},
    mysql::GtidSet,
    pb::topodata::TabletType,
    shard::{
        Channel, Failing, FailureClass, Greeting, IoState, Link, OfflineMode, Pace, Seen, ShardFacts, ShardView, TabletStatus,
        TabletView,
    },
    topo::TabletAlias,
};

fn alias(uid: u32) -> TabletAlias {
    TabletAlias { cell: "z1".to_owned(), uid }
}

fn age() -> impl Strategy<Value = Duration> {
    select(&[0, 20, 100, 240, 260, 400, 600, 1000, 1500, 2000, 2500, 4000, 5000, 30_000][..]).prop_map(Duration::from_millis)
}

fn class() -> impl Strategy<Value = FailureClass> {
    use FailureClass::{Answered, Closed, Refused, Silent, TooManyConnections};
    select(&[Refused, Closed, TooManyConnections, Silent, Silent, Answered][..])
}

fn channel() -> impl Strategy<Value = Channel> {
    let words = select(&["", "no answer", "No space left on device", "Read-only file system", "Too many connections"][..]);
    let failing = (age(), age(), class(), words).prop_map(|(since, last, class, words)| Failing {
        since,
        last,
        class,
        words: words.to_owned(),
        count: 3,
    });
    (proptest::option::weighted(0.9, age()), proptest::option::weighted(0.4, failing))
        .prop_map(|(last_good, failing)| Channel { last_good, failing })
}

fn greeting() -> impl Strategy<Value = Greeting> {
    let cannot = Greeting::CannotTell("no route".to_owned());
    select(vec![Greeting::Greeted, Greeting::TooManyConnections, Greeting::Refused, Greeting::Silent, Greeting::Silent, cannot])
}

fn set() -> impl Strategy<Value = Option<Arc<GtidSet>>> {
    const SETS: [&str; 3] = ["", "aaaaaaaa-0000-4000-8000-00000000000a:1-100", "aaaaaaaa-0000-4000-8000-00000000000a:1-120"];
    proptest::option::weighted(0.9, select(&SETS[..]).prop_map(|text| Arc::new(text.parse().unwrap())))
}

/// Changes to a healthy status: a source, thread states, errors, writability, sets, semi-sync.
fn status(usual: TabletStatus) -> impl Strategy<Value = TabletStatus> {
    const ERRORS: [&str; 4] =
        ["", "", "error connecting to source: Can't connect (111)", "Got fatal error 1236: purged required binary logs"];
    const SQL_ERRORS: [&str; 3] = ["", "Error_code: 1062;", "Disk full (errno: 28)"];
    let io = select(&[IoState::Running, IoState::Running, IoState::Connecting, IoState::Stopped][..]);
    let source = select(&[None, Some("10.0.0.1"), Some("10.0.0.1"), Some("10.0.0.2"), Some("10.9.9.9")][..]);
    let threads = (source, io, select(&ERRORS[..]), any::<bool>(), select(&SQL_ERRORS[..]), proptest::option::of(age()));
    let sets = (set(), set(), set());
    let flags = proptest::collection::vec(proptest::bool::weighted(0.2), 7);
    (threads, sets, flags, 0u32..3).prop_map(
        move |((source, io, error, sql, sql_error, lag), (executed, received, purged), flags, n)| {
            let mut status = usual.clone();
            status.replication = source.zip(status.replication).map(|(host, mut replication)| {
                (replication.source_host, replication.io, replication.io_error) = (host.to_owned(), io, error.to_owned());
                (replication.sql_running, replication.sql_error, replication.lag) = (sql, sql_error.to_owned(), lag);
                replication
            });
            (status.executed, status.received, status.purged) = (executed, received, purged);
            status.read_only ^= flags[0];
            (status.disk_stalled, status.semi_sync_blocked) = (flags[1] && flags[2], flags[3]);
            status.semi_sync_primary_enabled ^= flags[4];
            status.semi_sync_replica_enabled ^= flags[5];
            if flags[6] {
                status.tablet_type = TabletType::Primary;
            }
            (status.semi_sync_clients, status.semi_sync_wait_count) = (n, 1 + n / 2);
            status
        },
    )
}

prop_compose! {
    fn tablet(base: TabletView)(
        status in proptest::option::weighted(0.9, (status(base.status.clone().unwrap().what.as_ref().clone()), age())),
        channels in (channel(), channel(), proptest::option::of(channel())),
        greetings in proptest::collection::btree_map(100u32..105, (greeting(), age()), 0..4),
        errant in set(),
        pace in proptest::option::of((age(), age())),
        kind in select(&[0, 0, 0, 0, 0, 1, 2, 3, 4, 6, 8][..]),
        term in proptest::option::weighted(0.1, 9i64..12),
        shutdown in proptest::bool::weighted(0.05),
        offline in proptest::option::weighted(0.1, (age(), age())),
    ) -> TabletView {
        let mut tablet = base.clone();
        let mut record = (*tablet.record).clone();
        if kind != 0 {
            record.r#type = kind;
        }
        if let Some(seconds) = term {
            record.primary_term_start_time = Some(crate::pb::vttime::Time { seconds, nanoseconds: 0 });
        }
        if shutdown {
            record.tablet_shutdown_time = Some(crate::pb::vttime::Time::default());
            record.mysql_hostname.clear();
        }
        tablet.record = Arc::new(record);
        tablet.status = status.map(|(what, age)| Seen { what: Arc::new(what), age });
        (tablet.manager, tablet.mysql, tablet.direct) = channels;
        tablet.greetings = greetings.into_iter().map(|(uid, (what, age))| (alias(uid), Seen { what, age })).collect();
        tablet.offline = offline.map(|(since, age)| Seen { what: OfflineMode::On { since }, age });
        (tablet.errant, tablet.pace) = (errant, pace.map(|(now, usual)| Pace { now, usual }));
        tablet
    }
}

prop_compose! {
    fn view()(
        tablets in {
            let base = Story::parse("properties", "any\nz1-100 PRIMARY src=z1-101\nz1-101\nz1-102\nz1-103").view;
            base.tablets.into_values().map(tablet).collect::<Vec<_>>()
        },
        known in 1usize..=4,
        flags in proptest::collection::vec(proptest::bool::weighted(0.1), 4),
        record in proptest::option::weighted(0.9, (proptest::option::weighted(0.9, 100u32..105), proptest::option::of(9i64..12))),
    ) -> ShardView {
        let mut view = Story::parse("properties", "any\nz1-100 PRIMARY").view;
        view.tablets = tablets.into_iter().take(known).enumerate().map(|(n, tablet)| (alias(100 + n as u32), tablet)).collect();
        (view.looked, view.keyspace.policy_unset) = (!flags[0], flags[1]);
        view.topology_unreadable = flags[2].then(|| "etcd does not answer".to_owned());
        if flags[3] {
            view.unreadable_cells = BTreeMap::from([("z2".to_owned(), "silent".to_owned())]);
        }
        view.record = record.map(|(primary, term)| ShardFacts {
            primary: primary.map(alias),
            term: term.map(|seconds| (seconds, 0)),
            ..ShardFacts::default()
        });
        view
    }
}

fn rules() -> crate::diagnose::Rules {
    crate::diagnose::Rules { drain_errant: true, recover_stalled_disk: true, slow_primary_factor: Some(3), ..Default::default() }
}

/// What shows that the primary lives, told apart from the diagnosis in as few words as possible.
fn signs_of_life(view: &ShardView) -> Vec<String> {
    let Some((primary, tablet)) = view.primary().and_then(|alias| view.tablets.get_key_value(alias)) else { return Vec::new() };
    let rules = rules();
    let mut signs = Vec::new();
    if tablet.mysql.works() || tablet.direct.as_ref().is_some_and(Channel::works) {
        signs.push("a channel works".to_owned());
    }
    let Some(failing) = &tablet.mysql.failing else { return signs };
    let since = failing.since.min(tablet.mysql.last_good.unwrap_or(Duration::MAX));
    if tablet.status.as_ref().is_some_and(|seen| seen.age < since) {
        signs.push("it answered since".to_owned());
    }
    let fresh = |age: Duration| age < since && age <= rules.greeting_max_age;
    for (witness, seen) in
        tablet.greetings.iter().filter(|(witness, seen)| view.tablets.contains_key(*witness) && fresh(seen.age))
    {
        if seen.what == Greeting::Greeted && witness != primary {
            signs.push(format!("{witness} was greeted"));
        }
    }
    for (alias, replica) in view.tablets.iter().filter(|(alias, _)| *alias != primary) {
        let asked_since = replica.status.as_ref().is_some_and(|seen| seen.age < since);
        let has_it = asked_since && replica.mysql.works() && view.link(alias, primary, rules.status_max_age) == Link::Up;
        // A link to a silent host stands; its own host's word, asked for after the silence began, outweighs it.
        let heard = tablet.greetings.get(alias).filter(|seen| fresh(seen.age));
        let heard_nothing = heard.is_some_and(|seen| !matches!(seen.what, Greeting::Greeted | Greeting::CannotTell(_)));
        let drained = matches!(replica.declared_type(), TabletType::Drained | TabletType::Backup | TabletType::Restore);
        if has_it && !heard_nothing && !drained && !replica.is_shut_down() {
            signs.push(format!("{alias} has it"));
        }
    }
    signs
}

/// The properties below say something: such views are dead, silent, repaired, moved, one and all.
#[test]
fn the_views_lead_to_remedies_of_every_kind() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..3000 {
        let view = view().new_tree(&mut runner).unwrap().current();
        let remedies = diagnose(&view, &rules()).into_iter().map(|problem| match problem.remedy {
            Remedy::Reread(_) => "Reread".to_owned(),
            Remedy::Takeover { .. } => "Takeover".to_owned(),
            other => format!("{other:?}"),
        });
        seen.extend(remedies);
    }
    let fixes =
        ["MakeReadOnly", "Connect", "StartReplication", "RetirePrimary", "AlignType", "Drain"].map(|fix| format!("Fix({fix})"));
    let emergencies = ["PrimaryDead", "ManagerDead", "PrimaryIncapable"].map(|ground| format!("Emergency({ground})"));
    let others = ["Report", "Reread", "Testify", "Takeover"].map(str::to_owned);
    let missing: Vec<_> = fixes.into_iter().chain(emergencies).chain(others).filter(|kind| !seen.contains(kind)).collect();
    assert!(missing.is_empty(), "never seen: {missing:?}; seen: {seen:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn nobody_is_called_dead_who_shows_a_sign_of_life(view in view()) {
        let dead = diagnose(&view, &rules()).into_iter().find(|problem| problem.remedy == Remedy::Emergency(Ground::PrimaryDead));
        let signs = signs_of_life(&view);
        prop_assert!(dead.is_none() || signs.is_empty(), "{dead:?} in spite of {signs:?}");
    }

    #[test]
    fn silence_that_nobody_confirms_is_no_death(view in view()) {
        let Some(dead) = diagnose(&view, &rules()).into_iter().find(|problem| problem.remedy == Remedy::Emergency(Ground::PrimaryDead)) else {
            return Ok(());
        };
        let tablet = &view.tablets[dead.tablet.as_ref().unwrap()];
        if let Some(failing) = &tablet.mysql.failing {
            let gone = tablet.mysql.is_gone() || tablet.direct.as_ref().is_some_and(Channel::is_gone);
            prop_assert!(gone || failing.since >= Duration::from_secs(1), "{dead:?}");
            prop_assert!(gone || tablet.mysql.last_good.unwrap_or(failing.since) >= Duration::from_millis(1500), "{dead:?}");
        } else {
            prop_assert!(tablet.is_shut_down(), "{dead:?}");
        }
        let confirmed = view.tablets.values().any(|other| other.mysql.works());
        prop_assert!(confirmed, "{dead:?}");
    }

    #[test]
    fn without_a_complete_look_or_current_records_everything_is_only_reported(view in view()) {
        let problems = diagnose(&view, &rules());
        if !view.looked || view.topology_unreadable.is_some() || view.keyspace.policy_unset {
            prop_assert!(problems.iter().all(|problem| problem.remedy == Remedy::Report), "{problems:?}");
        }
        if !view.looked {
            let known = [Code::InvalidPrimary, Code::InvalidReplica, Code::TopologyUnreadable];
            prop_assert!(problems.iter().all(|problem| known.contains(&problem.code)), "{problems:?}");
        }
    }

    #[test]
    fn the_most_urgent_comes_first_and_nothing_is_said_twice(view in view()) {
        let problems = diagnose(&view, &rules());
        let order: Vec<_> = problems.iter().map(|problem| (problem.code.priority(), problem.code, problem.tablet.clone())).collect();
        prop_assert!(order.is_sorted(), "{order:?}");
        let unique: BTreeSet<_> = order.iter().collect();
        prop_assert_eq!(unique.len(), order.len(), "{:?}", order);
        prop_assert_eq!(&problems, &diagnose(&view.clone(), &rules()));
    }

    #[test]
    fn errant_tablets_are_never_connected_and_the_silent_are_never_repaired(view in view()) {
        for problem in diagnose(&view, &rules()) {
            let Remedy::Fix(repair) = problem.remedy else { continue };
            let tablet = &view.tablets[problem.tablet.as_ref().unwrap()];
            let errant = tablet.errant.as_ref().is_some_and(|errant| !errant.is_empty());
            prop_assert!(!(errant && repair == crate::diagnose::Repair::Connect), "{:?}", problem.code);
            let left_alone = repair == crate::diagnose::Repair::RetirePrimary;
            prop_assert!(tablet.mysql.failing.is_none() || left_alone || repair == crate::diagnose::Repair::Drain, "{:?}", problem.code);
        }
    }

    /// Other names, and so another order in every map, change who is meant and nothing else.
    #[test]
    fn names_do_not_matter(view in view()) {
        let mirrored = |of: &TabletAlias| TabletAlias { uid: 300 - of.uid, ..of.clone() };
        let mut other = view.clone();
        other.tablets = view.tablets.iter().map(|(alias, tablet)| {
            let mut tablet = tablet.clone();
            tablet.greetings = tablet.greetings.iter().map(|(alias, seen)| (mirrored(alias), seen.clone())).collect();
            (mirrored(alias), tablet)
        }).collect();
        if let Some(record) = &mut other.record {
            record.primary = record.primary.as_ref().map(mirrored);
        }
        let told = |view: &ShardView, name: &dyn Fn(&TabletAlias) -> TabletAlias| {
            let problems = diagnose(view, &rules()).into_iter();
            let kind = |remedy: Remedy| match remedy {
                Remedy::Reread(tablets) => Remedy::Reread(tablets.iter().map(name).collect()),
                Remedy::Takeover { to, then_emergency } => Remedy::Takeover { to: to.as_ref().map(name), then_emergency },
                other => other,
            };
            let mut told: Vec<_> = problems.map(|problem| (problem.code, problem.tablet.as_ref().map(name), format!("{:?}", kind(problem.remedy)))).collect();
            told.sort();
            told
        };
        prop_assert_eq!(told(&view, &TabletAlias::clone), told(&other, &mirrored));
    }
}
