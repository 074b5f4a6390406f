//! Errant GTIDs as they were last seen.

use tokio::time::Instant;

use super::{Context, board, refusal::Refusal};
use crate::{
    pb::vtelector::{ErrantGtidsRequest, ErrantGtidsResponse, ErrantTablet, UnjudgedTablet},
    recover::board::Filter,
    sense::{ErrantFilter, TabletReport},
    topo::ShardId,
};

/// Every tablet with errant GTIDs, and every tablet of which that cannot be told now. One that was errant when it last could be told
/// stands in both lists.
pub async fn errant_gtids(context: &Context, request: ErrantGtidsRequest) -> Result<ErrantGtidsResponse, Refusal> {
    let filter = board::filter(context, &request.keyspace, &request.shard).await?;
    let Filter { keyspace, shard } = filter.clone();
    let mut answer = answer(context.senses.errant(&ErrantFilter { keyspace, shard }), Instant::now());
    if request.only_mine {
        return Ok(answer);
    }
    let id = |keyspace: &str, shard: &str| ShardId { keyspace: keyspace.to_owned(), shard: shard.to_owned() };
    let (heard, mine) = (context.others.errant(&filter).await, context.senses.shards().borrow().clone());
    answer.errant.extend(heard.merged(&mine, |said| &said.errant, |found| id(&found.keyspace, &found.shard)));
    answer.unjudged.extend(heard.merged(&mine, |said| &said.unjudged, |found| id(&found.keyspace, &found.shard)));
    answer.judged += heard.sum(|said| said.judged);
    answer.silent = heard.silent.clone();
    answer.errant.sort_by_cached_key(|found| (found.keyspace.clone(), found.shard.clone()));
    answer.unjudged.sort_by_cached_key(|found| (found.keyspace.clone(), found.shard.clone()));
    Ok(answer)
}

fn answer(reports: Vec<TabletReport>, now: Instant) -> ErrantGtidsResponse {
    let mut answer = ErrantGtidsResponse::default();
    for TabletReport { alias, shard, verdict, unknown } in reports {
        if let Some(verdict) = verdict.as_ref().filter(|verdict| !verdict.errant.is_empty()) {
            answer.errant.push(ErrantTablet {
                keyspace: shard.keyspace.clone(),
                shard: shard.shard.clone(),
                tablet_alias: Some((&alias).into()),
                errant: verdict.errant.to_string(),
                count: u64::try_from(verdict.errant.count()).unwrap_or(u64::MAX),
                compared_with: Some((&verdict.against).into()),
                age_ms: u64::try_from(now.saturating_duration_since(verdict.at).as_millis()).unwrap_or(u64::MAX),
            });
        }
        match unknown {
            None => answer.judged += 1,
            Some(why) => answer.unjudged.push(UnjudgedTablet {
                keyspace: shard.keyspace,
                shard: shard.shard,
                tablet_alias: Some((&alias).into()),
                reason: why.to_string(),
            }),
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{diagnose::errant::Unknown, sense::ErrantVerdict, topo::TabletAlias};

    fn report(uid: u32, errant: Option<&str>, unknown: Option<Unknown>, at: Instant) -> TabletReport {
        let alias = |uid| TabletAlias { cell: "zone1".into(), uid };
        let verdict = errant.map(|set| ErrantVerdict { errant: Arc::new(set.parse().unwrap()), against: alias(100), at });
        TabletReport { alias: alias(uid), shard: "commerce/0".parse().unwrap(), verdict, unknown }
    }

    #[test]
    fn an_old_verdict_is_shown_with_its_age_and_with_why_there_is_no_newer_one() {
        let at = Instant::now();
        let silent = || Some(Unknown::Silent("connection refused".to_owned()));
        let set = "aaaaaaaa-0000-0000-0000-000000000001:1-3";
        let reports =
            vec![report(101, Some(""), None, at), report(102, Some(set), silent(), at), report(103, Some(""), silent(), at)];
        let answer = answer(reports, at + Duration::from_secs(7));
        assert_eq!(answer.judged, 1);
        let [errant] = answer.errant.as_slice() else { panic!("{answer:?}") };
        assert_eq!((errant.errant.as_str(), errant.count, errant.age_ms), (set, 3, 7000));
        assert_eq!((errant.tablet_alias.as_ref().unwrap().uid, errant.compared_with.as_ref().unwrap().uid), (102, 100));
        let unjudged: Vec<_> =
            answer.unjudged.iter().map(|tablet| (tablet.tablet_alias.as_ref().unwrap().uid, tablet.reason.as_str())).collect();
        assert_eq!(unjudged, [(102, "it did not answer: connection refused"), (103, "it did not answer: connection refused")]);
    }
}
