//! Tablets that play a part, on virtual time, and a topology that declares them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{
    metrics::Metrics,
    mysql::probe::{DirectFailure, DirectLink, DirectMysql},
    pb::{
        query::{QueryResult, RealtimeStats, Row, StreamHealthResponse},
        replicationdata::{FullStatus, PrimaryStatus, Status, StopReplicationMode, StopReplicationStatus},
        topodata::{CellInfo, Keyspace, Shard, Tablet, TabletType},
        vttime,
    },
    peers::Ownership,
    sense::{SenseSettings, Senses, Watched},
    shard::{FailureClass, Greeting, ShardView, TabletView},
    tablet::{Call, HealthStream, SetSource, TabletError, TabletErrorKind, TabletManager},
    topo::{ShardId, TabletAlias, Topo},
};

pub const P: &str = "aaaaaaaa-0000-0000-0000-000000000001";
pub const R: &str = "bbbbbbbb-0000-0000-0000-000000000002";

/// How a tablet behaves.
#[derive(Debug, Clone, PartialEq)]
pub enum Play {
    /// Manager and MySQL answer.
    Well,
    /// The manager answers that its MySQL is gone.
    MysqlDown,
    /// Nobody listens.
    Refused,
    /// Nothing comes back.
    Silent,
}

pub struct Part {
    pub play: Play,
    pub status: FullStatus,
    /// `offline_mode`.
    pub offline: bool,
    health: Vec<mpsc::UnboundedSender<Result<StreamHealthResponse, TabletError>>>,
}

/// All tablets, and what was asked of them.
#[derive(Default)]
pub struct Stage {
    parts: Mutex<BTreeMap<TabletAlias, Part>>,
    calls: Mutex<Vec<(Instant, TabletAlias, &'static str)>>,
    /// How the direct connection fails; `None` = it works, or there is none.
    pub direct: Mutex<Option<FailureClass>>,
}

pub fn alias(text: &str) -> TabletAlias {
    text.parse().unwrap()
}

pub fn shard() -> ShardId {
    "commerce/-80".parse().unwrap()
}

pub fn status(executed: &str, source: Option<&str>) -> FullStatus {
    let position = format!("MySQL56/{executed}");
    FullStatus {
        server_uuid: P.to_owned(),
        read_only: source.is_some(),
        primary_status: Some(PrimaryStatus { position: position.clone(), ..PrimaryStatus::default() }),
        replication_status: source.map(|host| Status {
            position,
            source_host: host.to_owned(),
            source_port: 3306,
            io_state: 3,
            sql_state: 3,
            ..Status::default()
        }),
        ..FullStatus::default()
    }
}

impl Stage {
    pub fn parts(&self) -> MutexGuard<'_, BTreeMap<TabletAlias, Part>> {
        self.parts.lock().unwrap()
    }

    pub fn play(&self, name: &str, play: Play) {
        self.parts().get_mut(&alias(name)).unwrap().play = play;
    }

    pub fn says(&self, name: &str, status: FullStatus) {
        self.parts().get_mut(&alias(name)).unwrap().status = status;
    }

    /// When a tablet was asked that, since `since`.
    pub fn asked(&self, name: &str, method: &str, since: Instant) -> Vec<Duration> {
        let (calls, of) = (self.calls.lock().unwrap(), alias(name));
        let of = calls.iter().filter(|(at, alias, called)| *at >= since && *alias == of && *called == method);
        of.map(|(at, ..)| *at - since).collect()
    }

    /// A message on a tablet's health stream.
    pub fn health(&self, name: &str, error: &str) {
        let stats = RealtimeStats { health_error: error.to_owned(), ..RealtimeStats::default() };
        let message = StreamHealthResponse { serving: error.is_empty(), realtime_stats: Some(stats), ..Default::default() };
        self.parts()[&alias(name)].health.iter().for_each(|stream| drop(stream.send(Ok(message.clone()))));
    }

    /// A tablet's connections end.
    pub fn hang_up(&self, name: &str) {
        let error = failed(&alias(name), "StreamHealth", Some(FailureClass::Closed), "closed");
        for stream in self.parts().get_mut(&alias(name)).unwrap().health.drain(..) {
            drop(stream.send(Err(error.clone())));
        }
    }

    async fn answer<T>(
        &self,
        tablet: &Tablet,
        method: &'static str,
        call: Call,
        answer: impl Fn(&Part) -> T,
    ) -> Result<T, TabletError> {
        let of = TabletAlias::try_from(tablet.alias.as_ref().unwrap()).unwrap();
        self.calls.lock().unwrap().push((Instant::now(), of.clone(), method));
        let play = self.parts()[&of].play.clone();
        match play {
            Play::Well => {
                sleep(Duration::from_millis(2)).await;
                Ok(answer(&self.parts()[&of]))
            }
            Play::MysqlDown => Err(TabletError::answered(
                of,
                method,
                Code::Unknown,
                "dial /mysql.sock: connection refused (errno 2002) (sqlstate HY000)",
            )),
            Play::Refused => Err(failed(&of, method, Some(FailureClass::Refused), "connection refused")),
            Play::Silent => {
                sleep(call.timeout).await;
                Err(failed(&of, method, Some(FailureClass::Silent), "no answer in time"))
            }
        }
    }
}

fn failed(alias: &TabletAlias, method: &'static str, lost: Option<FailureClass>, words: &str) -> TabletError {
    let (kind, code) = (TabletErrorKind::Unreachable, Code::Unavailable);
    TabletError { alias: alias.clone(), method, kind, code, lost, message: words.to_owned() }
}

/// The calls that sensors make, and those that they never make.
macro_rules! tablet_manager {
    ({$($asked:tt)*} $($name:ident($($kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl TabletManager for Stage {
            $($asked)*
            $(async fn $name(&self, _: &Tablet, $(_: $kind,)* _: Call) -> Result<$answer, TabletError> {
                panic!(concat!("a sensor called ", stringify!($name)))
            })*
        }
    };
}

tablet_manager! {
{
    async fn full_status(&self, tablet: &Tablet, call: Call) -> Result<FullStatus, TabletError> {
        self.answer(tablet, "FullStatus", call, |part| part.status.clone()).await
    }

    async fn primary_status(&self, tablet: &Tablet, call: Call) -> Result<PrimaryStatus, TabletError> {
        self.answer(tablet, "PrimaryStatus", call, |part| part.status.primary_status.clone().unwrap()).await
    }

    async fn global_status_vars(&self, tablet: &Tablet, _: &[&str], call: Call) -> Result<BTreeMap<String, String>, TabletError> {
        let waits = || ("Rpl_semi_sync_source_wait_sessions".to_owned(), "0".to_owned());
        self.answer(tablet, "GetGlobalStatusVars", call, |_| [waits()].into()).await
    }

    async fn execute_fetch_as_dba(&self, tablet: &Tablet, sql: &str, _: u64, call: Call) -> Result<QueryResult, TabletError> {
        let result = |row| QueryResult { rows: vec![row], ..QueryResult::default() };
        if sql == "SELECT @@global.offline_mode" {
            let said = |part: &Part| Row { lengths: vec![1], values: if part.offline { b"1".to_vec() } else { b"0".to_vec() } };
            return self.answer(tablet, "offline_mode", call, |part| result(said(part))).await;
        }
        assert!(sql.contains("wait_point"), "a sensor sent {sql}");
        let row = Row { lengths: vec![10, 1], values: b"AFTER_SYNC1".to_vec() };
        self.answer(tablet, "ExecuteFetchAsDba", call, |_| result(row.clone())).await
    }

    async fn hear(&self, tablet: &Tablet, of: &Tablet, _: Duration, call: Call) -> Result<Greeting, TabletError> {
        let of = TabletAlias::try_from(of.alias.as_ref().unwrap()).unwrap();
        let greeting = match self.parts()[&of].play {
            Play::Well => Greeting::Greeted,
            Play::MysqlDown | Play::Refused => Greeting::Refused,
            Play::Silent => Greeting::Silent,
        };
        self.answer(tablet, "Hear", call, |_| greeting.clone()).await
    }

    async fn stream_health(&self, tablet: &Tablet, call: Call) -> Result<HealthStream, TabletError> {
        self.answer(tablet, "StreamHealth", call, |_| ()).await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let of = TabletAlias::try_from(tablet.alias.as_ref().unwrap()).unwrap();
        self.parts().get_mut(&of).unwrap().health.push(sender);
        Ok(UnboundedReceiverStream::new(receiver).boxed())
    }

}
        ping() -> ();
        replication_status() -> Status;
        primary_position() -> String;
        wait_for_position(&str) -> ();
        stop_replication_and_get_status(StopReplicationMode) -> StopReplicationStatus;
        stop_replication() -> ();
        start_replication(bool) -> ();
        set_replication_source(SetSource<'_>) -> ();
        demote_primary(bool) -> PrimaryStatus;
        undo_demote_primary(bool) -> ();
        promote_replica(bool) -> String;
        init_primary(bool) -> String;
        populate_reparent_journal(i64, &str, &TabletAlias, &str) -> ();
        read_reparent_journal_info() -> i32;
        set_read_only(bool) -> ();
        change_type(TabletType, bool) -> ();
        refresh_state() -> ();
        run_health_check() -> ();
        reset_replication_parameters() -> ();
}

/// A direct connection to the stage's primary.
pub struct Direct(pub Arc<Stage>);

#[async_trait]
impl DirectMysql for Direct {
    async fn connect(&self, _: &Tablet, deadline: Instant) -> Result<Box<dyn DirectLink>, DirectFailure> {
        let mut link = Direct(self.0.clone());
        link.ping(deadline).await?;
        Ok(Box::new(link))
    }
}

#[async_trait]
impl DirectLink for Direct {
    async fn ping(&mut self, deadline: Instant) -> Result<(), DirectFailure> {
        let class = *self.0.direct.lock().unwrap();
        match class {
            None => Ok(()),
            Some(class) => {
                if class == FailureClass::Silent {
                    tokio::time::sleep_until(deadline).await;
                }
                Err(DirectFailure { class, words: "no".to_owned() })
            }
        }
    }
}

/// Watched tablets.
pub struct World {
    pub stage: Arc<Stage>,
    pub topo: Topo,
    pub metrics: Arc<Metrics>,
    pub senses: Senses,
    _stop: CancellationToken,
}

impl World {
    /// A primary z1-100 and replicas z1-101 and z2-200 that everybody has looked at.
    pub async fn start() -> Self {
        let world = Self::with(Arc::default(), false).await;
        world.until("the first look", |view| view.looked).await;
        world
    }

    pub async fn with(stage: Arc<Stage>, direct: bool) -> Self {
        let topo = Topo::in_memory();
        for cell in ["z1", "z2"] {
            let info = CellInfo { server_address: "memory".to_owned(), root: format!("/vitess/{cell}") };
            topo.create_cell_info(cell, &info).await.unwrap();
        }
        let keyspace = Keyspace { durability_policy: "semi_sync".to_owned(), ..Keyspace::default() };
        topo.create_keyspace("commerce", &keyspace).await.unwrap();
        topo.create_shard(&shard(), Duration::from_secs(1)).await.unwrap();
        let executed = format!("{P}:1-10");
        for (name, kind) in [("z1-100", TabletType::Primary), ("z1-101", TabletType::Replica), ("z2-200", TabletType::Replica)] {
            let source = (kind == TabletType::Replica).then_some("host-z1-0000000100");
            declare(&stage, &topo, name, kind, status(&executed, source)).await;
        }
        let mut name_first = |record: &mut Shard| {
            record.primary_alias = Some((&alias("z1-100")).into());
            record.primary_term_start_time = Some(vttime::Time { seconds: 1, nanoseconds: 0 });
            true
        };
        topo.update_shard(&shard(), &mut name_first).await.unwrap();
        let settings = SenseSettings {
            status_interval: Duration::from_secs(1),
            primary_liveness_interval: Duration::from_millis(250),
            liveness_per_second_max: 1000,
            remote_operation_timeout: Duration::from_secs(15),
            watched: Watched::default(),
            durability_extra: BTreeMap::new(),
        };
        let (metrics, stop) = (Arc::new(Metrics::new().unwrap()), CancellationToken::new());
        let owned = watch::Sender::new(Arc::new(Ownership::everything())).subscribe();
        let direct = direct.then(|| Arc::new(Direct(stage.clone())) as Arc<dyn DirectMysql>);
        let senses = Senses::start(&topo, stage.clone(), direct, metrics.clone(), settings, owned, &stop);
        Self { stage, topo, metrics, senses, _stop: stop }
    }

    pub async fn declare(&self, name: &str, kind: TabletType, status: FullStatus) {
        declare(&self.stage, &self.topo, name, kind, status).await;
    }

    pub fn view(&self) -> ShardView {
        self.senses.view(&shard()).unwrap()
    }

    pub fn tablet(&self, name: &str) -> TabletView {
        self.view().tablets[&alias(name)].clone()
    }

    /// Waits until the view is so; how long that took.
    pub async fn until(&self, what: &str, is_so: impl Fn(&ShardView) -> bool) -> Duration {
        let began = Instant::now();
        let waiting = async {
            while !self.senses.view(&shard()).is_some_and(|view| is_so(&view)) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("{what} never came"));
        began.elapsed()
    }
}

async fn declare(stage: &Stage, topo: &Topo, name: &str, kind: TabletType, status: FullStatus) {
    let alias = alias(name);
    let record = Tablet {
        alias: Some((&alias).into()),
        keyspace: "commerce".to_owned(),
        shard: "-80".to_owned(),
        hostname: format!("host-{alias}"),
        mysql_hostname: format!("host-{alias}"),
        mysql_port: 3306,
        r#type: kind.into(),
        primary_term_start_time: (kind == TabletType::Primary).then_some(vttime::Time { seconds: 1, nanoseconds: 0 }),
        ..Tablet::default()
    };
    stage.parts().insert(alias, Part { play: Play::Well, status, offline: false, health: Vec::new() });
    topo.create_tablet(&record).await.unwrap();
}

pub fn aliases(names: &[&str]) -> BTreeSet<TabletAlias> {
    names.iter().map(|name| alias(name)).collect()
}
