//! Statements that come through ExecuteFetchAsDba.

use tokio::time::Instant;
use tonic::Code;
use vtelector::pb::query::{QueryResult, Row};

use super::{
    manager::{Answer, Handler, failed},
    mysqld::Mysqld,
};

fn row(values: &[String]) -> QueryResult {
    let lengths = values.iter().map(|value| value.len() as i64).collect();
    QueryResult { rows: vec![Row { lengths, values: values.concat().into_bytes() }], ..QueryResult::default() }
}

fn flag(on: bool) -> String {
    if on { "1" } else { "0" }.to_owned()
}

/// A global variable's value.
fn variable(mysqld: &Mysqld, name: &str) -> Option<String> {
    Some(match name {
        "super_read_only" => flag(mysqld.super_read_only),
        "read_only" => flag(mysqld.read_only),
        "offline_mode" => flag(mysqld.offline),
        "rpl_semi_sync_source_timeout" => mysqld.timeout_ms.to_string(),
        "rpl_semi_sync_source_wait_no_replica" => "1".to_owned(),
        "rpl_semi_sync_source_wait_point" => "AFTER_SYNC".to_owned(),
        "rpl_semi_sync_source_wait_for_replica_count" => mysqld.wait_count.to_string(),
        "rpl_semi_sync_source_enabled" => flag(mysqld.source_enabled),
        "rpl_semi_sync_replica_enabled" => flag(mysqld.replica_enabled),
        "replica_net_timeout" => mysqld.net_timeout.as_secs().to_string(),
        "gtid_executed" => mysqld.executed.encode().trim_start_matches("MySQL56/").to_owned(),
        "server_uuid" => super::gtid::uuid(mysqld.index),
        _ => return None,
    })
}

fn set(mysqld: &mut Mysqld, name: &str, value: &str) -> bool {
    let on = matches!(value, "ON" | "1" | "'ON'");
    match name {
        "offline_mode" => mysqld.set_offline(on),
        "rpl_semi_sync_source_enabled" => mysqld.set_source_enabled(on, Instant::now()),
        "rpl_semi_sync_replica_enabled" => mysqld.replica_enabled = on,
        "rpl_semi_sync_source_timeout" => mysqld.timeout_ms = value.parse().unwrap_or(0),
        "rpl_semi_sync_source_wait_for_replica_count" => mysqld.wait_count = value.parse().unwrap_or(1),
        "rpl_semi_sync_source_wait_no_replica" | "rpl_semi_sync_source_wait_point" => {}
        "replica_net_timeout" | "slave_net_timeout" => {
            mysqld.net_timeout = std::time::Duration::from_secs(value.parse().unwrap_or(60));
        }
        "read_only" if !on => mysqld.open(),
        "read_only" => mysqld.read_only = true,
        "super_read_only" if !on => mysqld.super_read_only = false,
        _ => return false,
    }
    true
}

/// What this MySQL does not know is an error of the test's, and shows as such.
fn unknown<T>(handler: &Handler, sql: &str) -> Answer<T> {
    handler.world.lock().violations.insert(format!("this MySQL does not know {sql:?}"));
    failed(
        Code::InvalidArgument,
        format!("You have an error in your SQL syntax (errno 1064) (sqlstate 42000) during query: {sql}"),
    )
}

pub async fn execute(handler: &Handler, sql: &str) -> Answer<QueryResult> {
    match sql {
        "STOP REPLICA IO_THREAD" => handler.stop_io().await?,
        "START REPLICA IO_THREAD" => handler.sql(|mysqld| mysqld.start_io(Instant::now())).await?,
        "STOP REPLICA SQL_THREAD" => handler.sql(|mysqld| mysqld.sql = false).await?,
        "START REPLICA SQL_THREAD" => handler.sql(|mysqld| mysqld.sql = mysqld.source.is_some()).await?,
        "STOP REPLICA" => {
            handler.stop_io().await?;
            handler.sql(|mysqld| mysqld.sql = false).await?;
        }
        "START REPLICA" => {
            handler
                .sql(|mysqld| {
                    mysqld.start_io(Instant::now());
                    mysqld.sql = mysqld.source.is_some();
                })
                .await?
        }
        "SET GLOBAL super_read_only = ON" => handler.close().await?,
        "SET GLOBAL rpl_semi_sync_source_enabled = OFF" => handler.source_off().await?,
        "SELECT UTC_TIMESTAMP(6)" => {
            let clock = handler.world.clock(handler.host, 0);
            let time = jiff::Timestamp::new(clock.seconds, clock.nanoseconds).unwrap();
            handler.sql(|_| ()).await?;
            return Ok(row(&[time.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string()]));
        }
        _ if sql.contains("vreplication") => {
            handler.sql(|_| ()).await?;
            return failed(Code::NotFound, "Table '_vt.vreplication' doesn't exist (errno 1146) (sqlstate 42S02)");
        }
        _ if sql.starts_with("SELECT (SELECT COUNT(*)") => {
            handler.sql(|_| ()).await?;
            return Ok(row(&["0".to_owned()]));
        }
        _ if sql.starts_with("SELECT @@global.") => {
            let names: Vec<String> =
                sql["SELECT ".len()..].split(", ").map(|name| name.trim_start_matches("@@global.").to_owned()).collect();
            let values =
                handler.sql(move |mysqld| names.iter().map(|name| variable(mysqld, name)).collect::<Option<Vec<_>>>()).await?;
            return values.map_or_else(|| unknown(handler, sql), |values| Ok(row(&values)));
        }
        _ if sql.starts_with("SET ") => {
            let sets: Option<Vec<(String, String)>> = sql["SET ".len()..]
                .split(", ")
                .map(|set| {
                    set.trim_start_matches("GLOBAL ").split_once(" = ").map(|(name, value)| (name.to_owned(), value.to_owned()))
                })
                .collect();
            let Some(sets) = sets else { return unknown(handler, sql) };
            if !handler.sql(move |mysqld| sets.iter().all(|(name, value)| set(mysqld, name, value))).await? {
                return unknown(handler, sql);
            }
        }
        _ => return unknown(handler, sql),
    }
    Ok(QueryResult::default())
}
