//! The election's cases, played by the whole operation on tablets in memory.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    super::Emergency,
    server::{Server, gtids},
    world::publish_shard,
    *,
};
use crate::{
    elect::{
        Reach, Testimony,
        emergency::tests::cases::{self, Case, Expect},
    },
    mysql::Position,
    pb::topodata::TabletType,
    topo::ShardId,
};

/// A clock so far behind that nobody waits it out.
const BROKEN_CLOCK_S: i64 = 2000;

/// Whether a case can be played: servers speak in GTIDs here, and nobody has watched them before, nor read what their primary waited for.
fn is_playable(case: &Case) -> bool {
    let plays = |tablet: &Testimony| {
        let is_gtid = |position: &Position| {
            matches!(position, Position::Gtid(_)) || !matches!(tablet.reach, Reach::Stopped | Reach::Demoted)
        };
        let fails_to_apply = tablet.apply_failed.is_some() && tablet.executed.contains(&tablet.received);
        !matches!(tablet.reach, Reach::Fenced | Reach::Seen)
            && is_gtid(&tablet.received)
            && is_gtid(&tablet.executed)
            && !fails_to_apply
    };
    // Nor can a server show rows of its journal that were in its relay log.
    let rows = |tablet: &Testimony| tablet.journal_rows.clone().unwrap_or(0);
    let newest = case.tablets.values().map(rows).max();
    let hides = |tablet: &Testimony| tablet.executed != tablet.received && Some(rows(tablet)) < newest;
    case.unread().elect() == case.elect()
        && !case.tablets.values().any(hides)
        && case.seen.is_none()
        && case.unlisted.is_empty()
        && case.tablets.values().all(plays)
}

fn server(case: &Case, alias: &TabletAlias, tablet: &Testimony, letter: char) -> Server {
    let set = |position: &Position| position.gtid().cloned().unwrap_or_else(|| gtids(""));
    let is_primary = case.primary.as_ref() == Some(alias);
    let mut server = Server::replica(letter, "z9-999", "");
    (server.received, server.executed) = (set(&tablet.received), set(&tablet.executed));
    server.tablet_type = tablet.tablet_type;
    // Only a PRIMARY has a term; the recorded one has the newest.
    server.term = (tablet.tablet_type == TabletType::Primary).then_some(if is_primary { 2 } else { 1 });
    server.down = matches!(tablet.reach, Reach::Unreached(_));
    server.source = tablet.is_replica.then(|| case.primary.clone().filter(|primary| primary != alias)).flatten();
    if tablet.is_replica && server.source.is_none() {
        server.source = Some("z9-999".parse().unwrap());
    }
    server.read_only = tablet.is_replica || tablet.tablet_type != TabletType::Primary;
    server.io = tablet.is_replica && tablet.was_replicating;
    server.sql = tablet.is_replica && tablet.sql_running;
    (server.lazy, server.cut) = (true, true);
    server.source_uuid = tablet.source_uuid.map(|uuid| uuid.to_string());
    server.backup = tablet.backup_running;
    server.journal = *tablet.journal_rows.as_ref().unwrap_or(&1);
    server.sql_delay_s = tablet.sql_delay.as_secs() as u32;
    server.pool = tablet.buffer_pool_pages;
    server.tags = tablet.tags.clone();
    server.clock_behind_s = if tablet.unfit.is_some() { BROKEN_CLOCK_S } else { 0 };
    let version = tablet.mysql.as_ref().and_then(|mysql| mysql.version);
    server.version = version.map_or_else(String::new, |(major, minor, patch)| format!("{major}.{minor}.{patch}"));
    if let Some(mysql) = &tablet.mysql {
        (server.log_bin, server.gtid_mode_on, server.purged) = (mysql.log_bin, mysql.gtid_mode_on, mysql.purged.clone());
    }
    server
}

/// The letter of a server: the one that the case gives it, or that its replicas call their source.
fn letter(case: &Case, alias: &TabletAlias, number: usize) -> char {
    let of = |uuid: String| uuid.chars().next().unwrap().to_ascii_uppercase();
    let own = case.tablets[alias].server_uuid.map(|uuid| of(uuid.to_string()));
    let called = || {
        let source = case.tablets.values().find_map(|tablet| tablet.source_uuid)?;
        (case.primary.as_ref() == Some(alias)).then(|| of(source.to_string()))
    };
    own.or_else(called).unwrap_or_else(|| char::from_digit(number as u32, 10).unwrap())
}

async fn world(case: &Case) -> Arc<World> {
    let policy = Box::leak(case.policy_name.clone().into_boxed_str());
    let servers: BTreeMap<_, _> = case
        .tablets
        .iter()
        .enumerate()
        .map(|(number, (alias, tablet))| (alias.clone(), server(case, alias, tablet, letter(case, alias, number))))
        .collect();
    let world = World::of(policy, servers).await;
    let shard: ShardId = world.shard.clone();
    match &case.primary {
        Some(primary) => publish_shard(&world.topo, &shard, primary, Some(2)).await,
        None if case.had_primary => {
            let mut deleted = |record: &mut crate::pb::topodata::Shard| {
                record.primary_alias = None;
                record.primary_term_start_time = Some(super::world::time(2));
                true
            };
            world.topo.update_shard(&shard, &mut deleted).await.unwrap();
        }
        None => {}
    }
    for (alias, tablet) in &case.tablets {
        let name = alias.to_string();
        let fails = |method, fails: bool| fails.then(|| world.fault(&name, method, Fault::Error, 1000));
        fails("WaitForPosition", tablet.apply_failed.is_some());
        fails("SetReplicationSource", tablet.follow_failed.is_some());
        fails("ReadReparentJournalInfo", tablet.journal_rows.is_err() && !matches!(tablet.reach, Reach::Unreached(_)));
    }
    world
}

fn request(case: &Case) -> Emergency {
    let wish = &case.wish;
    Emergency {
        new_primary: wish.named.clone(),
        ignore_replicas: wish.ignored.clone(),
        expected_primary: None,
        wait_replicas_timeout: Duration::from_secs(10),
        prevent_cross_cell: wish.prevent_cross_cell,
        wait_for_all_tablets: false,
        accept_loss: wish.accept_loss.clone(),
        choose_side: wish.choose_side,
        allow_not_established: wish.allow_not_established,
        allow_unfenced: wish.allow_unfenced,
        seen: None,
        is_dead: false,
    }
}

/// What is not as the case expects it.
async fn play(case: &Case) -> Option<String> {
    let world = world(case).await;
    let before = world.lock().servers.clone();
    let mut hands = world.hands();
    hands.settings.durability_extra.insert(world.shard.keyspace.clone(), case.extra);
    let outcome = hands.emergency(&world.shard, request(case)).await;
    let mut violations = world.lock().violations.clone();
    // An ignored primary stays as it is; without ackers it commits nothing.
    violations.retain(|violation| !case.wish.ignored.iter().any(|alias| violation.contains(&alias.to_string())));
    if !violations.is_empty() {
        return Some(format!("{violations:?}"));
    }
    if !world.lock_is_free().await {
        return Some("the shard lock is not free".to_owned());
    }
    let refused = case.expect.iter().find_map(|expect| match expect {
        Expect::Refused(name) => Some(name.clone()),
        _ => None,
    });
    let after = world.lock().servers.clone();
    match (&outcome.result, refused) {
        (Err(error), Some(name)) => {
            let cause = format!("{:?}", error.cause());
            if !cause.starts_with(&format!("NoPromotion({name}")) {
                return Some(format!("refused otherwise: {error}"));
            }
            let new = after.iter().find(|(alias, server)| server.writable() && !before[*alias].writable());
            let stopped = after.iter().find(|(alias, server)| !server.io && before[*alias].io && !server.down);
            new.or(stopped).map(|(alias, server)| format!("refused, and {alias} was left changed: {server:?}"))
        }
        (Err(error), None) => Some(format!("refused: {error}")),
        (Ok(done), Some(name)) => Some(format!("promoted {} where {name} was expected", done.primary)),
        (Ok(done), None) => {
            let several = case.expect.iter().find_map(|expect| match expect {
                Expect::Elect(several) => Some(several.clone()),
                _ => None,
            });
            let wanted = several.is_none_or(|several| several.contains(&done.primary));
            if case.extra.acks > 0 && after[&done.primary].semi_sync_wait_count < case.extra.acks {
                return Some(format!("{} waits for fewer acknowledgements than are demanded", done.primary));
            }
            let two = after.iter().find(|(alias, server)| server.writable() && **alias != done.primary);
            if !wanted {
                return Some(format!("promoted {}", done.primary));
            }
            two.filter(|(alias, _)| !case.wish.ignored.contains(*alias)).map(|(alias, _)| format!("{alias} is writable as well"))
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_operation_does_what_the_election_says() {
    let cases: Vec<_> = cases::all().into_iter().filter(is_playable).collect();
    assert!(cases.len() >= 150, "{} cases can be played", cases.len());
    let strict = cases.iter().filter(|case| case.extra.acks > 0).count();
    assert!(strict >= 8, "{strict} of them with two acknowledgements");
    let mut failures = Vec::new();
    for case in &cases {
        if let Some(bad) = play(case).await {
            failures.push(format!("{}\n    {bad}", case.title));
        }
    }
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}
