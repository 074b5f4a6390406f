//! An elector that watches some simulated shards.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser;
use etcd_client::{Client, Txn, TxnOp};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use vtelector::{
    config::{ServeArgs, Settings},
    metrics::Metrics,
    pb::topodata::{Keyspace, Shard, Tablet, TabletType},
    reparent::ReparentSettings,
    sandbox::eventually,
    serve::{Limits, MeasuredTablets, Parts, Server},
    tablet::{GrpcTabletManager, TabletSettings},
    topo::{TabletAlias, Topo},
};

use crate::{
    etcd::Etcd,
    fleet::{CELL, Fleet},
    shard::TABLETS,
    wire,
};

/// Nothing here takes longer.
pub const SOON: Duration = Duration::from_secs(60);
/// Tablets are asked often.
pub const OFTEN: &str = "--instance-poll-time=1s";
/// Records in one transaction of etcd, whose limit is 128.
const BATCH: usize = 100;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    serve: ServeArgs,
}

/// Whoever is dropped last ends last.
pub struct World {
    pub server: Server,
    pub fleet: Arc<Fleet>,
    pub etcd: Etcd,
    /// What its questions prove, as lines of a header.
    pub proof: String,
    _wire: JoinSet<()>,
}

impl World {
    /// So many healthy shards of keyspace `fleet`, each seen.
    pub async fn start(shards: usize) -> Self {
        let world = Self::with_flags(shards, &[OFTEN]).await;
        let well = if shards == 1 { "The only shard is well".to_owned() } else { format!("All {shards} shards are well") };
        world.until("/", &well).await;
        world
    }

    pub async fn with_flags(shards: usize, flags: &[&str]) -> Self {
        let etcd = Etcd::start().await;
        let (fleet, wire) = simulated(shards, &etcd).await;
        let settings = settings(&etcd, flags);
        let parts = parts(&settings, fleet.topo.clone(), "elector-1:15999");
        let server = Server::start(&settings, parts, Limits::default()).await.unwrap();
        Self { server, fleet, etcd, proof: String::new(), _wire: wire }
    }

    /// One more elector of the same region.
    pub async fn another(&self, who: &str) -> Server {
        let settings = settings(&self.etcd, &[OFTEN]);
        Server::start(&settings, parts(&settings, self.etcd.topo().await, who), Limits::default()).await.unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.http)
    }

    /// The address with the user and password that a browser gives when it is asked for them.
    pub fn url_as(&self, user: &str, path: &str) -> String {
        format!("http://{user}@{}{path}", self.server.http)
    }

    /// Waits until a page has these words.
    pub async fn until(&self, path: &str, words: &str) {
        let asked = async || match self.get(path).await.body {
            page if page.contains(words) => Ok(()),
            page => Err(page.split_once("<main").unwrap_or_default().1.chars().take(3000).collect::<String>()),
        };
        eventually(words, SOON, asked).await.unwrap();
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1"), &format!("Accept: text/html\r\n{}", self.proof), "").await
    }

    /// Sends a form as a browser does from our own page.
    pub async fn post(&self, path: &str, form: &str) -> Answer {
        let origin = format!("Origin: http://{}\r\nContent-Type: application/x-www-form-urlencoded\r\n", self.server.http);
        self.ask(&format!("POST {path} HTTP/1.1"), &origin, form).await
    }

    pub async fn ask(&self, line: &str, headers: &str, body: &str) -> Answer {
        ask(self.server.http, line, headers, body).await.unwrap()
    }

    /// Declares so many shards with a primary each in a keyspace that this elector does not look after.
    pub async fn declare(&self, keyspace: &str, shards: usize) {
        let policy = Keyspace { durability_policy: "semi_sync".to_owned(), ..Keyspace::default() };
        self.fleet.topo.create_keyspace(keyspace, &policy).await.unwrap();
        let mut client = Client::connect([&self.etcd.address], None).await.unwrap();
        let records: Vec<(String, Vec<u8>)> = (0..shards).flat_map(|number| declared(keyspace, number)).collect();
        for batch in records.chunks(BATCH) {
            let puts: Vec<_> = batch.iter().map(|(key, value)| TxnOp::put(key.as_str(), value.as_slice(), None)).collect();
            client.txn(Txn::new().and_then(puts)).await.unwrap();
        }
    }

    /// Somebody writes to that tablet past its primary.
    pub fn write_errant(&self, shard: usize, index: usize, transactions: u64) {
        self.fleet.shard(shard).tablets[index].executed[index] += transactions;
    }

    /// The primary's mysqld of that shard is gone.
    pub fn kill_primary(&self, shard: usize) {
        kill_primary(&self.fleet, shard);
    }
}

pub fn kill_primary(fleet: &Fleet, shard: usize) {
    let mut shard = fleet.shard(shard);
    let primary = shard.primary();
    shard.kill(primary);
}

/// So many shards of simulated tablets, declared.
pub async fn simulated(shards: usize, etcd: &Etcd) -> (Arc<Fleet>, JoinSet<()>) {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let fleet = Fleet::declare(shards, port, etcd.topo().await, &etcd.address).await;
    let mut wire = JoinSet::new();
    wire.spawn(wire::serve(fleet.clone(), listener));
    (fleet, wire)
}

/// Sends a question over a connection of its own.
pub async fn ask(server: SocketAddr, line: &str, headers: &str, body: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let length = body.len();
    let request = format!("{line}\r\nHost: {server}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
    // A server that has refused a body may close before all of it was sent or read.
    let _sent = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _read = stream.read_to_end(&mut answer).await;
    Ok(Answer::read(&answer))
}

fn declared(keyspace: &str, number: usize) -> [(String, Vec<u8>); 2] {
    let (name, alias) =
        (format!("s{number:05}"), TabletAlias { cell: CELL.to_owned(), uid: 1_000_000 + (number * TABLETS) as u32 });
    let record = Shard { primary_alias: Some((&alias).into()), is_primary_serving: true, ..Shard::default() };
    let tablet = Tablet {
        alias: Some((&alias).into()),
        hostname: format!("db{number:05}.example"),
        keyspace: keyspace.to_owned(),
        shard: name.clone(),
        r#type: TabletType::Primary.into(),
        ..Tablet::default()
    };
    [
        (format!("/vitess/global/keyspaces/{keyspace}/shards/{name}/Shard"), record.encode_to_vec()),
        (format!("/vitess/zone1/tablets/{alias}/Tablet"), tablet.encode_to_vec()),
    ]
}

/// How an elector is started that only looks; the last word says its port for HTTP.
pub fn words(etcd: &Etcd, more: &[&str], http_port: u16) -> Vec<String> {
    let line = format!(
        "serve --topo-global-server-address={} --topo-global-root=/vitess/global --cell={CELL} --allow-recovery=false \
         --grpc-port=0 --bind-address=127.0.0.1 --grpc-bind-address=127.0.0.1 --lock-timeout=5s --remote-operation-timeout=5s",
        etcd.address
    );
    let words = line.split_whitespace().chain(more.iter().copied()).map(str::to_owned);
    words.chain([format!("--port={http_port}")]).collect()
}

fn settings(etcd: &Etcd, more: &[&str]) -> Settings {
    Settings::try_from(&Line::try_parse_from(words(etcd, more, 0)).unwrap().serve).unwrap()
}

fn parts(settings: &Settings, topo: Topo, who: &str) -> Parts {
    let metrics = Arc::new(Metrics::new().unwrap());
    let tablets = MeasuredTablets::new(GrpcTabletManager::new(TabletSettings::default()).unwrap(), metrics.clone());
    let reparents = ReparentSettings {
        remote_operation_timeout: settings.remote_operation_timeout,
        lock_timeout: settings.lock_timeout,
        ledger_root: settings.ledger_root.clone(),
        durability_extra: settings.durability_extra.clone(),
        who: who.to_owned(),
        die_at: None,
    };
    Parts::new(topo, Arc::new(tablets), reparents, metrics)
}

/// An answer of HTTP.
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(found, _)| *found == name).map_or("", |(_, value)| value)
    }
}
