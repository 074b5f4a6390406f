//! What is seen, when, and how old it says it is.

mod declared;
mod fake;

use std::{sync::Arc, time::Duration};

use fake::{P, Play, R, Stage, World, alias, aliases, shard, status};
use tokio::time::{Instant, advance, sleep, timeout};

use super::ErrantFilter;
use crate::{
    pb::{replicationdata::FullStatus, topodata::TabletType},
    shard::{FailureClass, Greeting, OfflineMode, Seen},
};

const SECOND: Duration = Duration::from_secs(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[tokio::test(start_paused = true)]
async fn nothing_is_complete_before_everybody_was_asked() {
    let stage: Arc<Stage> = Arc::default();
    let world = World::with(stage.clone(), false).await;
    stage.play("z2-200", Play::Silent);
    let took = world.until("the first look", |view| view.looked).await;
    assert!(took >= SECOND && took < 3 * SECOND, "a silent tablet uses up its limit, and no more: {took:?}");
    let view = world.view();
    assert!(view.tablets[&alias("z1-101")].status.is_some() && view.tablets[&alias("z2-200")].status.is_none());
    assert_eq!(view.primary(), Some(&alias("z1-100")));
    assert_eq!(view.keyspace.policy.as_ref().unwrap().name(), "semi_sync");
    assert_eq!((view.unreadable_cells.len(), view.topology_unreadable), (0, None));
}

#[tokio::test(start_paused = true)]
async fn ages_are_those_of_the_questions() {
    let world = World::start().await;
    sleep(5 * SECOND).await;
    for name in ["z1-100", "z1-101", "z2-200"] {
        let (tablet, now) = (world.tablet(name), Instant::now());
        let asked = world.stage.asked(name, "FullStatus", now - 2 * SECOND);
        let last = *asked.iter().rev().find(|at| **at <= 2 * SECOND - ms(2)).unwrap();
        assert_eq!(tablet.status.unwrap().age, 2 * SECOND - last, "{name}");
        assert!(tablet.manager.works() && tablet.mysql.works());
    }
    let good = world.tablet("z1-100").mysql.last_good.unwrap();
    assert!(good <= ms(252), "a primary is asked four times a second: {good:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_primary_is_measured_to_a_fraction_of_a_second_and_its_replicas_are_asked_at_once() {
    let world = World::start().await;
    world.stage.play("z1-100", Play::Silent);
    let since = Instant::now();
    world.until("a suspicion", |view| view.tablets[&alias("z1-100")].mysql.failing.is_some()).await;
    let suspected = since.elapsed();
    assert!(suspected <= ms(755), "one interval and one limit: {suspected:?}");
    sleep(ms(20)).await;
    for name in ["z1-101", "z2-200"] {
        let asked = world.stage.asked(name, "FullStatus", since);
        assert!(asked.iter().any(|at| *at + ms(10) >= suspected), "{name} was asked {asked:?}, suspected after {suspected:?}");
    }
    sleep(SECOND - ms(20)).await;
    let primary = world.tablet("z1-100");
    let (last_good, failing) = (primary.mysql.last_good.unwrap(), primary.mysql.failing.clone().unwrap());
    assert!(last_good >= since.elapsed() && last_good <= since.elapsed() + ms(255), "{last_good:?}");
    assert!(primary.mysql.fails_for(SECOND) && failing.count >= 5 && failing.last <= ms(160), "{failing:?}");
    assert_eq!(failing.class, FailureClass::Silent);

    world.stage.play("z1-100", Play::Well);
    let back = world.until("life", |view| view.tablets[&alias("z1-100")].mysql.works()).await;
    assert!(back <= ms(300), "{back:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_mysqld_is_not_a_dead_tablet_manager() {
    let world = World::start().await;
    world.stage.play("z1-100", Play::MysqlDown);
    let took = world.until("its death", |view| view.tablets[&alias("z1-100")].mysql.is_gone()).await;
    assert!(took <= ms(260), "{took:?}");
    assert!(world.tablet("z1-100").manager.works());
    world.stage.play("z1-100", Play::Refused);
    world.until("the manager's death", |view| view.tablets[&alias("z1-100")].manager.is_gone()).await;
    let mysql = world.tablet("z1-100").mysql;
    assert!(mysql.failing.unwrap().class == FailureClass::Silent, "nobody says that MySQL is gone any more");
}

#[tokio::test(start_paused = true)]
async fn the_health_stream_tells_at_once() {
    let world = World::start().await;
    world.stage.play("z1-100", Play::MysqlDown);
    world.stage.health("z1-100", "mysqld is gone (errno 2002) (sqlstate HY000)");
    let since = Instant::now();
    world.until("its death", |view| view.tablets[&alias("z1-100")].mysql.is_gone()).await;
    assert!(since.elapsed() <= ms(5), "{:?}", since.elapsed());
    sleep(ms(10)).await;
    for name in ["z1-100", "z1-101", "z2-200"] {
        assert!(!world.stage.asked(name, "FullStatus", since).is_empty(), "{name} is asked at once");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_is_noticed_at_once_and_streamed_from_again() {
    let world = World::start().await;
    world.stage.play("z1-100", Play::Refused);
    let since = Instant::now();
    world.stage.hang_up("z1-100");
    world.until("its end", |view| view.tablets[&alias("z1-100")].manager.is_gone()).await;
    assert!(since.elapsed() <= ms(5), "{:?}", since.elapsed());
    world.stage.play("z1-100", Play::Well);
    sleep(2 * SECOND).await;
    assert!(world.tablet("z1-100").manager.works());
    assert_eq!(world.stage.asked("z1-100", "StreamHealth", since).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_loses_its_source_has_the_primary_asked_at_once() {
    let world = World::start().await;
    let mut lost = status(&format!("{P}:1-10"), Some("host-z1-0000000100"));
    let replication = lost.replication_status.as_mut().unwrap();
    (replication.io_state, replication.last_io_error) = (2, "2003 error reconnecting".to_owned());
    world.stage.says("z1-101", lost);
    let since = Instant::now();
    let seen = |view: &crate::shard::ShardView| view.tablets[&alias("z1-101")].status.as_ref().unwrap().what.clone();
    world.until("the loss", |view| !seen(view).replication.as_ref().unwrap().io_error.is_empty()).await;
    let at = since.elapsed();
    sleep(ms(10)).await;
    let asked = world.stage.asked("z1-100", "FullStatus", since);
    assert!(asked.iter().any(|asked| *asked + ms(10) >= at && *asked <= at + ms(10)), "{asked:?} {at:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_our_own_shows_life_behind_a_dead_tablet_manager_and_death_at_once() {
    let stage: Arc<Stage> = Arc::default();
    let world = World::with(stage.clone(), true).await;
    world.until("the first look", |view| view.looked).await;
    stage.play("z1-100", Play::Refused);
    sleep(5 * SECOND).await;
    let primary = world.tablet("z1-100");
    assert!(primary.manager.is_gone() && primary.mysql.works() && primary.direct.unwrap().works());

    for (class, lives) in [(FailureClass::Answered, true), (FailureClass::Refused, false)] {
        *stage.direct.lock().unwrap() = Some(class);
        let fails = |view: &crate::shard::ShardView| {
            let direct = view.tablets[&alias("z1-100")].direct.clone();
            direct.and_then(|direct| direct.failing).is_some_and(|failing| failing.class == class)
        };
        let took = world.until("the failure", fails).await;
        assert!(took <= ms(260), "{took:?}");
        sleep(ms(600)).await;
        assert_eq!(world.tablet("z1-100").mysql.works(), lives, "{class:?}");
    }
    assert_eq!(world.tablet("z1-100").mysql.failing.unwrap().class, FailureClass::Refused, "its words prove more than silence");
}

#[tokio::test(start_paused = true)]
async fn the_dead_do_not_slow_the_living() {
    let world = World::start().await;
    for uid in 300..340 {
        let name = format!("z1-{uid}");
        world.declare(&name, TabletType::Replica, status("", Some("host"))).await;
        world.stage.play(&name, Play::Silent);
    }
    sleep(5 * SECOND).await;
    let since = Instant::now();
    sleep(10 * SECOND).await;
    assert!(world.stage.asked("z1-101", "FullStatus", since).len() >= 10);
    assert!(world.tablet("z1-100").mysql.last_good.unwrap() <= ms(260));
}

#[tokio::test(start_paused = true)]
async fn while_many_are_recovered_everybody_else_is_asked_half_as_often() {
    let world = World::start().await;
    let asked_in_10_s = async |name| {
        let since = Instant::now();
        sleep(10 * SECOND).await;
        world.stage.asked(name, "FullStatus", since).len()
    };
    assert_eq!(asked_in_10_s("z1-101").await, 10);
    let mut recoveries: Vec<_> = (0..31).map(|_| world.senses.recovering()).collect();
    assert_eq!(asked_in_10_s("z1-101").await, 10, "a few cost nobody anything");
    recoveries.push(world.senses.recovering());
    assert_eq!(asked_in_10_s("z1-101").await, 5);
    let good = world.tablet("z1-100").mysql.last_good.unwrap();
    assert!(good <= ms(252), "whether a primary lives is asked as ever: {good:?}");
    drop(recoveries);
    sleep(SECOND).await;
    assert_eq!(asked_in_10_s("z1-101").await, 10);
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_for_a_rereading_gets_answers_younger_than_the_question() {
    let world = World::start().await;
    sleep(ms(500)).await;
    let asked = Instant::now();
    world.senses.reread(&shard(), SECOND).await;
    assert!(asked.elapsed() <= ms(5), "{:?}", asked.elapsed());
    let view = world.view();
    assert!(view.tablets.values().all(|tablet| tablet.status.as_ref().unwrap().age <= asked.elapsed()));

    world.stage.play("z2-200", Play::Silent);
    let asked = Instant::now();
    world.senses.reread_some(&shard(), &aliases(&["z2-200"]), ms(300)).await;
    assert_eq!(asked.elapsed(), ms(300), "nobody waits longer than the limit");
    sleep(SECOND).await;
    assert!(world.tablet("z2-200").manager.failing.is_some());
}

#[tokio::test(start_paused = true)]
async fn news_are_what_matters_and_not_what_always_moves() {
    let world = World::start().await;
    sleep(2 * SECOND).await;
    let mut news = world.senses.news(&shard());
    news.borrow_and_update();
    for transactions in 11..15 {
        world.stage.says("z1-100", status(&format!("{P}:1-{transactions}"), None));
        sleep(SECOND).await;
    }
    assert!(!news.has_changed().unwrap(), "positions are no news");
    world.stage.says("z1-101", status(&format!("{P}:1-10"), Some("elsewhere")));
    timeout(2 * SECOND, news.changed()).await.unwrap().unwrap();
    assert!(world.senses.news(&"other/0".parse().unwrap()).changed().await.is_err(), "nobody watches that");
}

#[tokio::test(start_paused = true)]
async fn witnesses_say_what_they_hear() {
    let world = World::start().await;
    world.stage.play("z1-100", Play::Silent);
    world.stage.play("z2-200", Play::Refused);
    sleep(2 * SECOND).await;
    world.senses.ask_witnesses(&shard(), &alias("z1-100"), ms(600)).await;
    let greetings = world.tablet("z1-100").greetings;
    assert_eq!(greetings.len(), 1, "nobody asks a dead witness: {greetings:?}");
    assert_eq!(greetings[&alias("z1-101")].what, Greeting::Silent);
}

#[tokio::test(start_paused = true)]
async fn an_errant_transaction_is_judged_from_two_looks_and_ends_with_them() {
    let world = World::start().await;
    let errant = |name: &str| {
        let reports = world.senses.errant(&ErrantFilter::default());
        let report = reports.into_iter().find(|report| report.alias == alias(name)).unwrap();
        (report.verdict.map(|verdict| verdict.errant.to_string()), report.unknown)
    };
    sleep(2 * SECOND).await;
    assert_eq!(errant("z1-101"), (Some(String::new()), None));
    let since = Instant::now();
    world.stage.says("z1-101", status(&format!("{P}:1-10,{R}:1-2"), Some("host-z1-0000000100")));
    sleep(3 * SECOND).await;
    assert_eq!(errant("z1-101"), (Some(format!("{R}:1-2")), None));
    assert!(!world.stage.asked("z1-100", "GetGlobalStatusVars", since).is_empty(), "perhaps they wait there");
    assert_eq!(world.tablet("z1-101").errant.unwrap().to_string(), format!("{R}:1-2"));
    let page = world.metrics.page().unwrap();
    assert!(page.contains(r#"vtorc_current_errant_gtid_count{tablet_alias="z1-0000000101"} 2"#), "{page}");

    world.stage.play("z1-100", Play::Refused);
    sleep(3 * SECOND).await;
    let (verdict, unknown) = errant("z1-101");
    assert_eq!(verdict, Some(format!("{R}:1-2")), "an old verdict is shown with why there is no newer one");
    assert!(unknown.unwrap().to_string().contains("connection refused"));

    world.stage.play("z1-100", Play::Well);
    world.stage.says("z1-100", status(&format!("{P}:1-10,{R}:1-2"), None));
    sleep(3 * SECOND).await;
    assert_eq!(errant("z1-101"), (Some(String::new()), None));
}

#[tokio::test(start_paused = true)]
async fn a_new_primary_is_watched_and_the_old_one_no_more() {
    let world = World::start().await;
    let mut promote = |record: &mut crate::pb::topodata::Tablet| {
        record.r#type = TabletType::Primary.into();
        record.primary_term_start_time = Some(crate::pb::vttime::Time { seconds: 2, nanoseconds: 0 });
        true
    };
    world.topo.update_tablet(&alias("z2-200"), &mut promote).await.unwrap();
    world.until("the new primary", |view| view.primary() == Some(&alias("z2-200"))).await;
    let since = Instant::now();
    sleep(5 * SECOND).await;
    assert!(world.stage.asked("z2-200", "PrimaryStatus", since).len() >= 14);
    assert!(world.stage.asked("z1-100", "PrimaryStatus", since).len() <= 1);
}

#[tokio::test(start_paused = true)]
async fn a_tablet_at_another_address_is_another_one() {
    let world = World::start().await;
    let mut news = world.senses.news(&shard());
    news.borrow_and_update();
    let mut moved = |record: &mut crate::pb::topodata::Tablet| {
        record.hostname = "elsewhere".to_owned();
        true
    };
    world.stage.play("z2-200", Play::Silent);
    world.topo.update_tablet(&alias("z2-200"), &mut moved).await.unwrap();
    timeout(SECOND, news.changed()).await.unwrap().unwrap();
    assert!(world.tablet("z2-200").status.is_none(), "what was seen at the old one is not seen of it");
    world.topo.delete_tablet(&alias("z2-200")).await.unwrap();
    world.until("its end", |view| !view.tablets.contains_key(&alias("z2-200"))).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_of_a_primary_is_remembered_with_whether_it_binds() {
    let world = World::start().await;
    let active = |last: u32| FullStatus {
        semi_sync_primary_enabled: true,
        semi_sync_primary_status: true,
        semi_sync_primary_timeout: 1_000_000_000_000_000_000,
        ..status(&format!("{P}:1-{last}"), None)
    };
    world.stage.says("z1-100", active(11));
    sleep(2 * SECOND).await;
    let seen = || world.senses.seen_primary(&shard()).map(|(of, seen)| (of, seen.position.to_string(), seen.binding)).unwrap();
    assert_eq!(seen(), (alias("z1-100"), format!("MySQL56/{P}:1-11"), false), "its wait point was not read yet");
    world.stage.says("z1-100", active(12));
    sleep(8 * SECOND).await;
    assert_eq!(seen(), (alias("z1-100"), format!("MySQL56/{P}:1-12"), true));
    world.stage.play("z1-100", Play::Refused);
    sleep(8 * SECOND).await;
    assert_eq!(seen(), (alias("z1-100"), format!("MySQL56/{P}:1-12"), true), "its death changes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_this_process_is_nobody_elses_silence() {
    let world = World::start().await;
    for _ in 0..20 {
        sleep(ms(37)).await;
        // Frozen for three seconds: every limit has passed, and nobody was heard.
        world.stage.play("z1-100", Play::Silent);
        sleep(ms(251)).await;
        advance(3 * SECOND).await;
        world.stage.play("z1-100", Play::Well);
        sleep(ms(2)).await;
        let failing = world.tablet("z1-100").mysql.failing;
        assert!(failing.is_none(), "{failing:?}");
        sleep(2 * SECOND).await;
    }
    let page = world.metrics.page().unwrap();
    let late = page.lines().find_map(|line| line.strip_prefix("vtelector_limits_noticed_late_total ")).unwrap();
    assert!(late.parse::<u32>().unwrap() >= 20, "{late}");
}

#[tokio::test(start_paused = true)]
async fn whether_clients_are_refused_is_asked_seldom_and_soon_after_something_happened() {
    let world = World::start().await;
    let asked = |since| world.stage.asked("z1-101", "offline_mode", since);
    world.until("the first answers", |view| view.tablets.values().all(|tablet| tablet.offline.is_some())).await;
    sleep(200 * SECOND).await;
    let quiet = Instant::now();
    sleep(240 * SECOND).await;
    assert!((3..=5).contains(&asked(quiet).len()), "{:?}", asked(quiet));

    // A frozen server carries out what waited in its socket.
    world.stage.play("z1-101", Play::Silent);
    sleep(5 * SECOND).await;
    assert!(asked(quiet).len() <= 6, "whoever says nothing is not asked");
    world.stage.parts().get_mut(&alias("z1-101")).unwrap().offline = true;
    world.stage.play("z1-101", Play::Well);
    let on =
        |since: Duration| move |seen: &Seen<OfflineMode>| matches!(seen.what, OfflineMode::On { since: age } if age >= since);
    let is_on = |view: &crate::shard::ShardView, since| view.tablets[&alias("z1-101")].offline.as_ref().is_some_and(on(since));
    let noticed = world.until("the fence", |view| is_on(view, Duration::ZERO)).await;
    assert!(noticed <= 4 * SECOND, "{noticed:?}");
    let lasts = world.until("ten seconds of it", |view| is_on(view, 10 * SECOND)).await;
    assert!(lasts <= 10 * SECOND + ms(10), "{lasts:?}");
    assert!(world.tablet("z1-101").offline.unwrap().age <= SECOND + ms(10), "while it lasts it is asked with every status");

    world.stage.parts().get_mut(&alias("z1-101")).unwrap().offline = false;
    world.senses.reread(&shard(), ms(100)).await;
    assert_eq!(world.tablet("z1-101").offline.unwrap().what, OfflineMode::Off, "a reread asks as well");
}
