//! Every shard, where its tablets listen, and its records in etcd.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use etcd_client::{Client, Txn, TxnOp};
use prost::Message;
use vtelector::{
    pb::{
        topodata::{
            CellInfo, Keyspace, Shard as ShardRecord, ShardReplication, Tablet as TabletRecord, TabletType, shard_replication,
        },
        vttime,
    },
    topo::{ShardId, TabletAlias, Topo},
};

use super::shard::{Record, Shard, TABLETS};

pub const KEYSPACE: &str = "fleet";
pub const CELL: &str = "zone1";
const GLOBAL: &str = "/vitess/global";
const LOCAL: &str = "/vitess/zone1";
/// Writes in one transaction of etcd, whose limit is 128.
const BATCH: usize = 100;
pub const MYSQL_PORT: i32 = 3306;

/// A simulated fleet.
pub struct Fleet {
    shards: Vec<Mutex<Shard>>,
    /// The same for every tablet: they differ by their addresses.
    pub port: u16,
    pub topo: Topo,
}

/// Now, as records write it.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// The loopback address of a tablet.
pub fn address(shard: usize, index: usize) -> Ipv4Addr {
    let number = (shard * TABLETS + index) as u32;
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + number)
}

/// The tablet that listens there.
pub fn tablet_at(address: Ipv4Addr) -> Option<(usize, usize)> {
    let number = u32::from(address).checked_sub(u32::from(Ipv4Addr::new(127, 1, 0, 0)))? as usize;
    Some((number / TABLETS, number % TABLETS))
}

pub fn alias(shard: usize, index: usize) -> TabletAlias {
    TabletAlias { cell: CELL.to_owned(), uid: (shard * 10 + index + 100) as u32 }
}

fn name(shard: usize) -> String {
    format!("s{shard:05}")
}

fn time(term: Duration) -> vttime::Time {
    vttime::Time { seconds: term.as_secs() as i64, nanoseconds: term.subsec_nanos() as i32 }
}

impl Fleet {
    /// So many shards, declared in etcd.
    pub async fn declare(shards: usize, port: u16, topo: Topo, etcd: &str) -> Arc<Self> {
        let began = now();
        let shards = (0..shards).map(|number| Mutex::new(Shard::new(number, began))).collect();
        let fleet = Arc::new(Self { shards, port, topo });
        let info = CellInfo { server_address: etcd.to_owned(), root: LOCAL.to_owned() };
        fleet.topo.create_cell_info(CELL, &info).await.unwrap();
        let keyspace = Keyspace { durability_policy: "semi_sync".to_owned(), ..Keyspace::default() };
        fleet.topo.create_keyspace(KEYSPACE, &keyspace).await.unwrap();
        let mut client = Client::connect([etcd], None).await.unwrap();
        let records: Vec<(String, Vec<u8>)> = (0..fleet.shards.len()).flat_map(|shard| fleet.records(shard, began)).collect();
        for batch in records.chunks(BATCH) {
            let puts: Vec<_> = batch.iter().map(|(key, value)| TxnOp::put(key.as_str(), value.as_slice(), None)).collect();
            client.txn(Txn::new().and_then(puts)).await.unwrap();
        }
        fleet
    }

    fn records(&self, shard: usize, began: Duration) -> Vec<(String, Vec<u8>)> {
        let record = ShardRecord {
            primary_alias: Some((&alias(shard, 0)).into()),
            primary_term_start_time: Some(time(began)),
            is_primary_serving: true,
            ..ShardRecord::default()
        };
        let node = |index| shard_replication::Node { tablet_alias: Some((&alias(shard, index)).into()) };
        let graph = ShardReplication { nodes: (0..TABLETS).map(node).collect() };
        let name = name(shard);
        let mut records = vec![
            (format!("{GLOBAL}/keyspaces/{KEYSPACE}/shards/{name}/Shard"), record.encode_to_vec()),
            (format!("{LOCAL}/keyspaces/{KEYSPACE}/shards/{name}/ShardReplication"), graph.encode_to_vec()),
        ];
        for index in 0..TABLETS {
            let host = address(shard, index).to_string();
            let kind = if index == 0 { TabletType::Primary } else { TabletType::Replica };
            let tablet = TabletRecord {
                alias: Some((&alias(shard, index)).into()),
                hostname: host.clone(),
                port_map: [("grpc".to_owned(), i32::from(self.port))].into(),
                keyspace: KEYSPACE.to_owned(),
                shard: name.clone(),
                r#type: kind.into(),
                mysql_hostname: host,
                mysql_port: MYSQL_PORT,
                primary_term_start_time: (index == 0).then(|| time(began)),
                ..TabletRecord::default()
            };
            records.push((format!("{LOCAL}/tablets/{}/Tablet", alias(shard, index)), tablet.encode_to_vec()));
        }
        records
    }

    pub fn len(&self) -> usize {
        self.shards.len()
    }

    pub fn shard(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock().unwrap()
    }

    /// A tablet writes its own record, and a new primary the shard's.
    pub async fn publish(&self, shard: usize, record: Record) {
        let (index, kind) = match record {
            Record::Primary(index) => (index, TabletType::Primary),
            Record::Replica(index) => (index, TabletType::Replica),
        };
        let term = self.shard(shard).tablets[index].term.map(time);
        let mut own = |record: &mut TabletRecord| {
            let changed = record.r#type() != kind || record.primary_term_start_time != term;
            record.set_type(kind);
            record.primary_term_start_time = term;
            changed
        };
        // Without etcd, as in the end of a measurement, the record stays as it was.
        let _written = self.topo.update_tablet(&alias(shard, index), &mut own).await;
        if kind == TabletType::Primary {
            let id = ShardId { keyspace: KEYSPACE.to_owned(), shard: name(shard) };
            let mut name_it = |record: &mut ShardRecord| {
                record.primary_alias = Some((&alias(shard, index)).into());
                record.primary_term_start_time = term;
                true
            };
            let _written = self.topo.update_shard(&id, &mut name_it).await;
        }
    }
}
