//! Two electors as processes that let in only whom they know, and so have to prove to each other who they are.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use vtelector::{
    ledger::{Clock, Ledger},
    pb::{
        topodata::{CellInfo, Keyspace, Shard, TabletType},
        vtctldata::PlannedReparentShardRequest,
        vtctlservice::vtctld_client::VtctldClient,
        vtelector::{
            CommandsRequest, ExplainRequest, HistoryRequest, ProblemsRequest, ShardsRequest, ShardsResponse, SilentElector,
            elector_client::ElectorClient,
        },
    },
    sandbox::{Process, eventually, free_port},
    topo::{ShardId, TabletAlias, Topo},
};

use crate::{
    etcd::Etcd,
    fake::FakeTablet,
    house::{Authority, Pair, SOON},
    world::{LOCK_TIMEOUT, alias, failover, shard, tablet},
};

/// Keyspaces beside `commerce`, each with one shard and a problem: no such policy exists.
const OTHERS: usize = 10;
const POLICY: &str = "unheard_of";
const USERS: &str = r#"[{"Username": "anna", "Password": "a1"}, {"Username": "elector", "Password": "e1", "Role": "reader"}]"#;
const RIGHT: &str = r#"{"Username": "elector", "Password": "e1"}"#;
const WRONG: &str = r#"{"Username": "elector", "Password": "e2"}"#;
const USER_FLAGS: &str = "--grpc-auth-mode static --grpc-auth-static-password-file @users --grpc-auth-static-client-creds @creds";
const SUBJECT_FLAGS: &str =
    "--grpc-auth-mode mtls --grpc-auth-mtls-allowed-substrings CN=dba --grpc-auth-mtls-reader-substrings CN=elector";

/// A running `vtelector serve` with its own files.
struct Elector {
    _process: Process,
    folder: PathBuf,
    port: u16,
}

impl Elector {
    /// Starts it with this certificate; `flags` name files of its folder as `@name`.
    async fn start(etcd: &Etcd, folder: PathBuf, ca: &str, identity: &Pair, files: &[(&str, &str)], flags: &str) -> Self {
        std::fs::create_dir(&folder).unwrap();
        let port = free_port().unwrap();
        let elector = |process| Self { _process: process, folder: folder.clone(), port };
        for (name, content) in files.iter().copied().chain([("ca", ca), ("cert", &identity.0), ("key", &identity.1)]) {
            std::fs::write(folder.join(name), content).unwrap();
        }
        let line = format!(
            "serve --topo-global-server-address {} --topo-global-root /vitess/global --cell zone1 --bind-address 127.0.0.1 --port 0 \
             --grpc-bind-address 127.0.0.1 --grpc-port {port} --allow-recovery=false --instance-poll-time 200ms \
             --remote-operation-timeout 1s --client-requests-per-second 0 --grpc-cert @cert --grpc-key @key --grpc-ca @ca {flags}",
            etcd.address
        );
        let line = line.replace('@', &format!("{}/", folder.display()));
        let program = Path::new(env!("CARGO_BIN_EXE_vtelector"));
        let process = Process::start("elector", program, line.split_whitespace(), &[], &folder.join("log")).unwrap();
        let elector = elector(process);
        eventually("an elector that serves", SOON, async || {
            if elector.log().contains("\"serving\"") { Ok(()) } else { Err(elector.log()) }
        })
        .await
        .unwrap();
        elector
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap()
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.folder.join(name), content).unwrap();
    }

    /// Another certificate, and then its key.
    fn show(&self, (cert, key): &Pair) {
        self.write("cert", cert);
        self.write("key", key);
    }

    /// How often it has taken new files for each of the two sides of its connections, the side that did less often.
    fn rotations(&self) -> usize {
        let log = self.log();
        let of = |side: &str| log.lines().filter(|line| line.contains(side) && line.contains("are in force")).count();
        of("TLS of the gRPC server").min(of("TLS towards the other electors"))
    }
}

/// Whoever asks: a certificate, and anna's password.
struct Client {
    ca: String,
    identity: Pair,
}

impl Client {
    /// A new connection.
    fn to(&self, elector: &Elector) -> Channel {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.ca));
        let tls = tls.identity(Identity::from_pem(&self.identity.0, &self.identity.1));
        Endpoint::from_shared(format!("https://127.0.0.1:{}", elector.port)).unwrap().tls_config(tls).unwrap().connect_lazy()
    }

    async fn shards(&self, elector: &Elector, only_mine: bool) -> Result<ShardsResponse, Status> {
        let request = ShardsRequest { only_mine, ..ShardsRequest::default() };
        ElectorClient::new(self.to(elector)).shards(anna(request)).await.map(|answer| answer.into_inner())
    }

    /// Names of the shards that it looks after itself.
    async fn mine(&self, elector: &Elector) -> BTreeSet<String> {
        let answer = self.shards(elector, true).await.unwrap();
        answer.shards.into_iter().map(|shard| shard.keyspace).collect()
    }

    /// Waits until two electors have divided the shards, and answers which ones each of them looks after.
    async fn divided(&self, electors: [&Elector; 2]) -> [BTreeSet<String>; 2] {
        eventually("the shards divided", SOON, async || {
            let [here, there] = [self.mine(electors[0]).await, self.mine(electors[1]).await];
            let all = here.len() + there.len() == OTHERS + 1 && here.is_disjoint(&there);
            if all && !here.is_empty() && !there.is_empty() { Ok([here, there]) } else { Err(format!("{here:?} {there:?}")) }
        })
        .await
        .unwrap()
    }

    /// Waits until an elector hears of every shard from whoever looks after it.
    async fn hears_all(&self, elector: &Elector) {
        let all = async || {
            let answer = self.shards(elector, false).await.map_err(|status| status.to_string())?;
            if is_whole(&answer) { Ok(()) } else { Err(format!("{answer:?}")) }
        };
        eventually("word of every shard", SOON, all).await.unwrap();
    }

    /// Waits until an elector does not hear the other one, and answers what it says of that.
    async fn misses_one(&self, elector: &Elector) -> SilentElector {
        eventually("word of who is silent", SOON, async || {
            let began = Instant::now();
            let answer = self.shards(elector, false).await.map_err(|status| status.to_string())?;
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
            assert_eq!(answer.shards.len(), OTHERS + 1, "none is missing");
            answer.silent.first().cloned().ok_or("nobody is silent".to_owned())
        })
        .await
        .unwrap()
    }
}

fn is_whole(answer: &ShardsResponse) -> bool {
    let told = answer.shards.iter().filter(|shard| !shard.elector.is_empty()).count();
    answer.silent.is_empty() && told == OTHERS + 1
}

/// The request as anna sends it.
fn anna<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("username", "anna".parse().unwrap());
    request.metadata_mut().insert("password", "a1".parse().unwrap());
    request
}

/// A topology with eleven shards, of which `commerce/0` has two tablets and was failed over a moment ago.
struct Scene {
    etcd: Etcd,
    folder: tempfile::TempDir,
    authority: Authority,
    _tablets: Vec<FakeTablet>,
}

impl Scene {
    async fn start() -> Self {
        let (etcd, folder) = (Etcd::start().await, tempfile::tempdir().unwrap());
        let topo = etcd.topo().await;
        let info = CellInfo { server_address: etcd.address.clone(), root: "/vitess/zone1".to_owned() };
        topo.create_cell_info("zone1", &info).await.unwrap();
        let others = (0..OTHERS).map(|number| (format!("ks{number}"), POLICY));
        for (name, policy) in others.chain([("commerce".to_owned(), "semi_sync")]) {
            let keyspace = Keyspace { durability_policy: policy.to_owned(), ..Keyspace::default() };
            topo.create_keyspace(&name, &keyspace).await.unwrap();
            topo.create_shard(&ShardId::new(&name, "0").unwrap(), LOCK_TIMEOUT).await.unwrap();
        }
        let tablets = tablets(&topo).await;
        let ledger = Ledger::start(&topo, "/vtelector", "another", Clock::of_this_machine(), &CancellationToken::new());
        ledger.record(failover()).await.unwrap();
        Self { etcd, folder, authority: Authority::new(), _tablets: tablets }
    }

    async fn elector(&self, name: &str, identity: &Pair, files: &[(&str, &str)], flags: &str) -> Elector {
        Elector::start(&self.etcd, self.folder.path().join(name), &self.authority.pem(), identity, files, flags).await
    }

    fn client(&self) -> Client {
        Client { ca: self.authority.pem(), identity: self.authority.sign("dba-anna") }
    }
}

async fn tablets(topo: &Topo) -> Vec<FakeTablet> {
    let mut tablets = Vec::new();
    for (name, kind) in [("zone1-100", TabletType::Primary), ("zone1-101", TabletType::Replica)] {
        let fake = FakeTablet::start().await;
        topo.create_tablet(&tablet(name, kind, fake.port)).await.unwrap();
        topo.add_to_shard_replication(&shard(), &name.parse::<TabletAlias>().unwrap()).await.unwrap();
        tablets.push(fake);
    }
    let mut lead = |record: &mut Shard| {
        record.primary_alias = Some(alias("zone1-100"));
        true
    };
    topo.update_shard(&shard(), &mut lead).await.unwrap();
    tablets
}

/// Asked at one elector, answered of both; a shard that the other one looks after too.
async fn answers_of_both(client: &Client, electors: [&Elector; 2]) {
    let [_, there] = client.divided(electors).await;
    let mut elector = ElectorClient::new(client.to(electors[0]));
    eventually("the problems of all", SOON, async || {
        let answer = elector.problems(anna(ProblemsRequest::default())).await.unwrap().into_inner();
        let of: BTreeSet<String> = answer.problems.into_iter().map(|problem| problem.keyspace).collect();
        if answer.silent.is_empty() && of.len() == OTHERS + 1 { Ok(()) } else { Err(format!("{of:?} {:?}", answer.silent)) }
    })
    .await
    .unwrap();
    for keyspace in &there {
        let request = ExplainRequest { keyspace: keyspace.clone(), shard: "0".to_owned(), ..ExplainRequest::default() };
        let summary = elector.explain(anna(request)).await.unwrap().into_inner().summary.unwrap();
        assert!(summary.keyspace == *keyspace && summary.elector.ends_with(&format!(":{}", electors[1].port)), "{summary:?}");
    }
    let history = elector.history(anna(HistoryRequest::default())).await.unwrap().into_inner();
    assert_eq!((history.count, history.recoveries[0].code.as_str()), (1, "DeadPrimary"), "{history:?}");
}

#[tokio::test]
async fn electors_with_users_ask_each_other_and_one_with_a_wrong_password_says_who_does_not_answer_and_why() {
    let scene = Scene::start().await;
    let identity = scene.authority.sign("server");
    let start = async |name, creds| scene.elector(name, &identity, &[("users", USERS), ("creds", creds)], USER_FLAGS).await;
    let (one, other, client) = (start("one", RIGHT).await, start("other", WRONG).await, scene.client());

    let silent = client.misses_one(&other).await;
    assert!(silent.elector.ends_with(&format!(":{}", one.port)), "{silent:?}");
    assert!(silent.reason.starts_with("Unauthenticated: ") && silent.reason.contains("another password"), "{silent:?}");
    assert!(!silent.reason.contains("e2") && !other.log().contains("e2"), "{silent:?}");
    client.hears_all(&one).await;
    let lost = client.divided([&one, &other]).await[0].pop_first().unwrap();
    let request = ExplainRequest { keyspace: lost, shard: "0".to_owned(), ..ExplainRequest::default() };
    let refused = ElectorClient::new(client.to(&other)).explain(anna(request)).await.unwrap_err();
    assert!(refused.code() == Code::Unavailable && refused.message().contains("Unauthenticated"), "{refused:?}");

    // Without a restart.
    other.write("creds", RIGHT);
    client.hears_all(&other).await;
    answers_of_both(&client, [&one, &other]).await;
    answers_of_both(&client, [&other, &one]).await;

    let is_ours = client.mine(&one).await.contains("commerce");
    let stranger = if is_ours { &other } else { &one };
    let request = PlannedReparentShardRequest {
        keyspace: "commerce".to_owned(),
        shard: "0".to_owned(),
        avoid_primary: Some(alias("zone1-101")),
        ..PlannedReparentShardRequest::default()
    };
    let answer = VtctldClient::new(client.to(stranger)).planned_reparent_shard(anna(request)).await.unwrap().into_inner();
    assert!(answer.keyspace == "commerce" && !answer.events.is_empty(), "{answer:?}");
    for elector in [&one, &other] {
        eventually("the command, at each elector", SOON, async || {
            let asked = ElectorClient::new(client.to(elector)).commands(anna(CommandsRequest::default())).await;
            let commands = asked.unwrap().into_inner().commands;
            let found = commands.iter().find(|command| command.call == "PlannedReparentShard");
            found.filter(|found| found.caller == "anna" && found.outcome == "done").map(drop).ok_or(format!("{commands:?}"))
        })
        .await
        .unwrap();
    }
}

/// Asks both electors again and again, each time over a new connection; fails when an answer is not whole.
fn load(electors: &Arc<[Elector; 2]>, clients: [Client; 2], is_new: &Arc<AtomicBool>, over: &CancellationToken) -> Load {
    let (clients, count, mut tasks) = (Arc::new(clients), Arc::<AtomicU64>::default(), JoinSet::new());
    for at in 0..4_usize {
        let (electors, clients, count) = (electors.clone(), clients.clone(), count.clone());
        let (is_new, over) = (is_new.clone(), over.clone());
        tasks.spawn(async move {
            while !over.is_cancelled() {
                let client = &clients[usize::from(is_new.load(Ordering::Relaxed))];
                let answer = client.shards(&electors[at % 2], false).await.map_err(|status| format!("{status:?}"))?;
                if !is_whole(&answer) {
                    return Err(format!("{answer:?}"));
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
    }
    Load { tasks, count }
}

struct Load {
    tasks: JoinSet<Result<(), String>>,
    count: Arc<AtomicU64>,
}

impl Load {
    /// Waits until every call that is under way has been answered, and some more.
    async fn goes_on(&self) {
        let target = self.count.load(Ordering::Relaxed) + 16;
        let more = async || (self.count.load(Ordering::Relaxed) >= target).then_some(()).ok_or("too few calls");
        eventually("more calls", SOON, more).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_authorities_of_both_electors_are_replaced_while_calls_run_and_none_fails() {
    let scene = Scene::start().await;
    let start = async |name, identity: &Pair| scene.elector(name, identity, &[], SUBJECT_FLAGS).await;
    let one = start("one", &scene.authority.sign("elector-one")).await;
    let other = start("other", &Authority::new().sign("elector-other")).await;
    let silent = scene.client().misses_one(&one).await;
    assert!(silent.elector.ends_with(&format!(":{}", other.port)), "{silent:?}");
    assert!(silent.reason.to_lowercase().contains("certificate"), "{silent:?}");
    other.show(&scene.authority.sign("guest"));
    eventually("trust", SOON, async || scene.client().shards(&other, true).await.map(drop)).await.unwrap();
    let forbidden = eventually("a certificate that is not enough", SOON, async || {
        let silent = scene.client().misses_one(&other).await;
        if silent.reason.contains("PermissionDenied") { Ok(silent) } else { Err(format!("{silent:?}")) }
    });
    let silent = forbidden.await.unwrap();
    assert!(silent.reason.contains("guest"), "{silent:?}");
    other.show(&scene.authority.sign("elector-other"));

    let later = Authority::new();
    let both = scene.authority.pem() + &later.pem();
    let (before, after) =
        (Client { ca: both.clone(), ..scene.client() }, Client { ca: both.clone(), identity: later.sign("dba-anna") });
    let electors = Arc::new([one, other]);
    for elector in electors.iter() {
        eventually("trust again", SOON, async || before.shards(elector, false).await.map(drop)).await.unwrap();
        before.hears_all(elector).await;
    }
    let (is_new, over) = (Arc::<AtomicBool>::default(), CancellationToken::new());
    let mut load = load(&electors, [before, after], &is_new, &over);
    let replaced = async |write: &dyn Fn(&Elector, &Pair)| {
        for (elector, name) in electors.iter().zip(["elector-one", "elector-other"]) {
            let rotations = elector.rotations();
            write(elector, &later.sign(name));
            let taken = async || (elector.rotations() > rotations).then_some(()).ok_or_else(|| elector.log());
            eventually("the new files in force", SOON, taken).await.unwrap();
            load.goes_on().await;
        }
    };
    replaced(&|elector, _| elector.write("ca", &both)).await;
    for _ in 0..2 {
        // In between the two do not fit.
        replaced(&Elector::show).await;
    }
    is_new.store(true, Ordering::Relaxed);
    load.goes_on().await;
    replaced(&|elector, _| elector.write("ca", &later.pem())).await;
    over.cancel();
    while let Some(ended) = load.tasks.join_next().await {
        ended.unwrap().expect("no call fails");
    }
    let refused = scene.client().shards(&electors[0], true).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "the old authority counts no more: {refused:?}");
    let count = load.count.load(Ordering::Relaxed);
    assert!(count > 100, "{count} calls are no load");
}
