//! Whether a promotion has reached the shard record, from which vtgate and everybody else learns who is primary.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{
    pb::topodata::Shard,
    topo::{ShardId, TabletAlias, Topo, WatchEvent},
};

/// Pause after the topology could not be read.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// A promotion that the shard record does not show. The promoted tablet writes it, so that is where to look.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{primary} was promoted, but {instead} after {waited:?}: its tablet writes the shard record; look at its log and its way to the topology"
)]
pub struct Unpublished {
    /// The new primary.
    pub primary: TabletAlias,
    /// What there is instead.
    pub instead: String,
    /// How long it was waited for.
    pub waited: Duration,
}

/// What the shard record says in place of `primary`; `None` = it names it.
pub fn instead_of(record: &Shard, shard: &ShardId, primary: &TabletAlias) -> Option<String> {
    match record.primary_alias.as_ref().map(TabletAlias::try_from) {
        Some(Ok(named)) if named == *primary => None,
        Some(Ok(named)) => Some(format!("the record of {shard} names {named}")),
        Some(Err(_)) | None => Some(format!("the record of {shard} names no primary")),
    }
}

/// Waits until the shard record names the new primary, at most `limit`; how long that took. Every change of the record is looked at as it
/// comes.
pub async fn verify_publication(
    topo: &Topo,
    shard: &ShardId,
    primary: &TabletAlias,
    limit: Duration,
) -> Result<Duration, Unpublished> {
    let begun = Instant::now();
    let deadline = begun + limit;
    let mut instead = format!("the record of {shard} was not read");
    loop {
        let retry_at = match timeout_at(deadline, topo.watch_shard(shard)).await {
            Ok(Ok((record, mut watch))) => {
                let Some(other) = instead_of(&record.value, shard, primary) else { return Ok(begun.elapsed()) };
                instead = other;
                let changed = async {
                    // The end of the watch is a reason to look again as well.
                    while let Some(WatchEvent::Progress(_)) = watch.events.recv().await {}
                };
                let _ = timeout_at(deadline, changed).await;
                Instant::now()
            }
            Ok(Err(error)) => {
                instead = error.to_string();
                Instant::now() + RETRY_INTERVAL
            }
            Err(_) => deadline,
        };
        if Instant::now() >= deadline || retry_at >= deadline {
            return Err(Unpublished { primary: primary.clone(), instead, waited: begun.elapsed() });
        }
        sleep_until(retry_at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::topodata::Keyspace;

    const LIMIT: Duration = Duration::from_secs(5);

    fn primary() -> TabletAlias {
        "z1-102".parse().unwrap()
    }

    async fn topo_naming(name: &str) -> (Topo, ShardId) {
        let (topo, shard) = (Topo::in_memory(), ShardId::new("commerce", "0").unwrap());
        topo.create_keyspace("commerce", &Keyspace::default()).await.unwrap();
        topo.create_shard(&shard, LIMIT).await.unwrap();
        names(&topo, &shard, name).await;
        (topo, shard)
    }

    async fn names(topo: &Topo, shard: &ShardId, name: &str) {
        let alias: TabletAlias = name.parse().unwrap();
        let mut name = |record: &mut Shard| {
            record.primary_alias = Some((&alias).into());
            true
        };
        topo.update_shard(shard, &mut name).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_promotion_that_is_published_late_is_waited_for() {
        let (topo, shard) = topo_naming("z1-101").await;
        let later = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            names(&topo, &shard, "z1-103").await;
            tokio::time::sleep(Duration::from_millis(700)).await;
            names(&topo, &shard, "z1-102").await;
        };
        let primary = primary();
        let (published, ()) = tokio::join!(verify_publication(&topo, &shard, &primary, LIMIT), later);
        let took = published.unwrap();
        assert!(took >= Duration::from_millis(1400) && took < Duration::from_millis(1500), "{took:?}");
        assert!(verify_publication(&topo, &shard, &primary, LIMIT).await.unwrap().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_record_says_instead_is_reported() {
        let (topo, shard) = topo_naming("z1-101").await;
        let error = verify_publication(&topo, &shard, &primary(), LIMIT).await.unwrap_err().to_string();
        assert!(
            error.contains("z1-0000000102 was promoted, but the record of commerce/0 names z1-0000000101 after 5"),
            "{error}"
        );
        let unknown = ShardId::new("commerce", "1").unwrap();
        let begun = Instant::now();
        let error = verify_publication(&topo, &unknown, &primary(), LIMIT).await.unwrap_err().to_string();
        assert!(error.contains("does not exist") && begun.elapsed() <= LIMIT, "{error}");
        assert_eq!(instead_of(&Shard::default(), &shard, &primary()).unwrap(), "the record of commerce/0 names no primary");
    }
}
