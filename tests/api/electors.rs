//! Several electors as one: whichever is asked tells of all shards, and of those who are silent.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};
use tonic::{Code, transport::Channel};
use vtelector::{
    pb::{
        topodata::Keyspace,
        vtelector::{elector_client::ElectorClient, shard_summary::State, *},
    },
    peers::Elector,
    serve::{Limits, Server},
    topo::{Kv, ShardId},
};

use crate::{
    http,
    world::{LOCK_TIMEOUT, World, parts, settings},
};

const SHARDS: usize = 12;
/// No such policy exists: each shard has a problem.
const POLICY: &str = "unheard_of";
const SOON: Duration = Duration::from_secs(30);

/// Two electors that divide twelve shards and `commerce/0`.
struct Two {
    world: World,
    other: Server,
}

async fn client(server: &Server) -> ElectorClient<Channel> {
    ElectorClient::connect(format!("http://{}", server.grpc)).await.unwrap()
}

fn name(shard: &ShardSummary) -> String {
    format!("{}/{}", shard.keyspace, shard.shard)
}

impl Two {
    async fn start() -> Self {
        let world = World::with_flags(Limits::default(), &["--instance-poll-time=200ms"]).await;
        let keyspace = Keyspace { durability_policy: POLICY.to_owned(), ..Keyspace::default() };
        for number in 0..SHARDS {
            let name = format!("ks{number}");
            world.topo.create_keyspace(&name, &keyspace).await.unwrap();
            world.topo.create_shard(&ShardId::new(&name, "0").unwrap(), LOCK_TIMEOUT).await.unwrap();
        }
        let settings = settings(&world.etcd, &["--instance-poll-time=200ms"]);
        let mut parts = parts(&settings, world.etcd.topo().await);
        parts.hands.settings.who = "other".to_owned();
        let other = Server::start(&settings, parts, Limits::default()).await.unwrap();
        let two = Self { world, other };
        two.until("both have their part", async |two| {
            let [here, there] = [two.mine(&two.world.server).await, two.mine(&two.other).await];
            let both = !here.is_empty() && !there.is_empty() && here.is_disjoint(&there);
            if both && here.len() + there.len() == SHARDS + 1 { Ok(()) } else { Err(format!("{here:?} {there:?}")) }
        })
        .await;
        two
    }

    async fn mine(&self, server: &Server) -> BTreeSet<String> {
        let request = ShardsRequest { only_mine: true, ..ShardsRequest::default() };
        client(server).await.shards(request).await.unwrap().into_inner().shards.iter().map(name).collect()
    }

    async fn until<T>(&self, what: &str, mut ask: impl AsyncFnMut(&Self) -> Result<T, String>) -> T {
        let end = Instant::now() + SOON;
        loop {
            match ask(self).await {
                Ok(found) => return found,
                Err(last) => assert!(Instant::now() < end, "{what}: {last}"),
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Somebody who has registered in the same region and never answers.
    async fn silent_elector(&self) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let own = client(&self.other).await.get_status(GetStatusRequest {}).await.unwrap().into_inner();
        let region = &own.electors[0].region;
        let silent = Elector::new(&address, "silent:1", "", region, 0);
        let key = format!("/vtelector/electors/alive/{address}/7");
        self.world.etcd.kv().create(&key, serde_json::to_vec(&silent).unwrap(), None).await.unwrap();
        listener
    }
}

#[tokio::test]
async fn whichever_elector_is_asked_tells_of_all_shards() {
    let two = Two::start().await;
    for server in [&two.world.server, &two.other] {
        let mine = two.mine(server).await;
        two.until("all shards with their elector", async |_| {
            let answer = client(server).await.shards(ShardsRequest::default()).await.unwrap().into_inner();
            assert!(answer.silent.is_empty(), "{:?}", answer.silent);
            let told: BTreeMap<String, &ShardSummary> = answer.shards.iter().map(|shard| (name(shard), shard)).collect();
            assert_eq!((told.len(), answer.shards.len()), (SHARDS + 1, SHARDS + 1));
            assert!(told.iter().all(|(name, shard)| shard.mine == mine.contains(name)));
            let who: BTreeSet<&str> = told.values().map(|shard| shard.elector.as_str()).collect();
            let all_seen = answer.shards.iter().all(|shard| shard.state() != State::Unknown);
            if who.iter().eq(["other", "test"].iter()) && all_seen { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
        let problems = two
            .until("the problems of all", async |_| {
                let answer = client(server).await.problems(ProblemsRequest::default()).await.unwrap().into_inner();
                let of: BTreeSet<String> = answer.problems.iter().map(|found| found.keyspace.clone()).collect();
                if of.len() == SHARDS { Ok(answer) } else { Err(format!("{of:?}")) }
            })
            .await;
        assert_eq!(problems.shards as usize, SHARDS + 1);
        assert_eq!(problems.decisions.len(), SHARDS, "one for each shard that has problems");
        let asked = DecisionsRequest::default();
        let all = client(server).await.decisions(asked.clone()).await.unwrap().into_inner();
        let of: BTreeSet<String> = all.decisions.iter().map(|found| found.keyspace.clone()).collect();
        assert_eq!((of.len(), all.shards as usize, all.count as usize), (SHARDS + 1, SHARDS + 1, all.decisions.len()));
        let own = DecisionsRequest { only_mine: true, ..asked };
        let own = client(server).await.decisions(own).await.unwrap().into_inner();
        let of: BTreeSet<String> = own.decisions.iter().map(|found| format!("{}/{}", found.keyspace, found.shard)).collect();
        assert_eq!(of, mine);
    }
}

#[tokio::test]
async fn a_shard_is_explained_by_whoever_looks_after_it() {
    let two = Two::start().await;
    let theirs = two.mine(&two.other).await;
    let mut here = client(&two.world.server).await;
    for shard in &theirs {
        let (keyspace, shard) = shard.split_once('/').unwrap();
        let request = ExplainRequest { keyspace: keyspace.to_owned(), shard: shard.to_owned(), ..ExplainRequest::default() };
        let answer = here.explain(request.clone()).await.unwrap().into_inner();
        let summary = answer.summary.unwrap();
        assert_eq!((summary.keyspace.as_str(), summary.elector.as_str(), summary.mine), (keyspace, "other", false));
        let refused = here.explain(ExplainRequest { only_mine: true, ..request.clone() }).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
        let request = DecisionsRequest { keyspace: keyspace.to_owned(), shard: shard.to_owned(), only_mine: false };
        assert!(!here.decisions(request).await.unwrap().into_inner().decisions.is_empty(), "{keyspace}");
        let over_http = http::get(two.world.server.http, &format!("/api/v1/shards/{keyspace}/{shard}")).await;
        assert_eq!(over_http.json()["summary"]["elector"], Value::from("other"));
    }
}

#[tokio::test]
async fn who_is_silent_is_named_and_its_shards_stand_as_declared() {
    let two = Two::start().await;
    let _listener = two.silent_elector().await;
    let answer = two
        .until("a silent elector", async |two| {
            let began = Instant::now();
            let answer = client(&two.world.server).await.shards(ShardsRequest::default()).await.unwrap().into_inner();
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            let unknown = answer.shards.iter().filter(|shard| shard.elector.is_empty() && shard.keyspace != "commerce").count();
            if answer.silent.len() == 1 && unknown > 0 { Ok(answer) } else { Err(format!("{answer:?}")) }
        })
        .await;
    assert_eq!(answer.silent[0].elector, "silent:1");
    assert!(answer.silent[0].reason.contains("no answer within 1s"), "{:?}", answer.silent);
    assert_eq!(answer.shards.len(), SHARDS + 1, "none is missing");
    let lost = answer.shards.iter().find(|shard| shard.elector.is_empty() && shard.keyspace != "commerce").unwrap();
    assert_eq!((lost.state(), lost.durability_policy.as_str()), (State::Unknown, POLICY));

    let request = ExplainRequest { keyspace: lost.keyspace.clone(), shard: lost.shard.clone(), ..ExplainRequest::default() };
    let refused = client(&two.world.server).await.explain(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("silent:1") && refused.message().contains("no answer within 2s"), "{refused:?}");
    let over_http = http::get(two.world.server.http, &format!("/api/v1/shards/{}/0", lost.keyspace)).await;
    assert_eq!((over_http.status, over_http.json()["error"]["code"].as_str()), (503, Some("UNAVAILABLE")));

    // A hundred readers cost one round.
    let began = Instant::now();
    let readers = (0..100).map(|_| http::get(two.world.server.http, "/api/v1/shards"));
    let answers = futures_util::future::join_all(readers).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}
