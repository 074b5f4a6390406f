//! Every endpoint of the global etcd and of each cell's: whether it answers, and whether a lock can be taken and freed there.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::{LIMIT, check::Check, server};
use crate::{
    config::Settings,
    topo::{EtcdKv, Kv, KvError, Topo, TopoSettings},
};

/// The life of the doctor's own key, should it die before it takes the key away.
const OWN_KEY_TTL: Duration = Duration::from_secs(10);
/// An endpoint that takes longer makes every step of a reparent slow.
const SLOW: Duration = Duration::from_millis(250);

/// Every endpoint of the global etcd, and a lock there.
pub async fn global(settings: &Settings) -> Vec<Check> {
    let topo = &settings.topo;
    let mut checks = Vec::new();
    for endpoint in topo.global_server_address.split(',') {
        checks.push(endpoint_check("global etcd", endpoint, &topo.global_root, topo).await);
        checks.extend(clock(endpoint, topo).await);
    }
    checks.push(lock(settings).await);
    checks
}

/// Every endpoint of each cell's etcd.
pub async fn cells(topo: &Topo, settings: &Settings) -> Vec<Check> {
    let cells = match topo.cells().await {
        Ok(cells) => cells,
        Err(error) => return vec![Check::fail("cells", error.to_string(), "see that the global etcd answers")],
    };
    let mut checks = Vec::new();
    if cells.is_empty() {
        let change = "see --topo-global-root, or add cells: vtelector add-cell-info";
        checks.push(Check::fail("cells", format!("there are none below {}", settings.topo.global_root), change));
    }
    if !settings.cell.is_empty() && !cells.contains(&settings.cell) {
        let found = format!("{} is none of {}", settings.cell, cells.join(", "));
        checks.push(Check::fail("--cell", found, "give a cell of this topology"));
    }
    for cell in cells {
        match topo.cell_info(&cell).await {
            Ok(info) => {
                for endpoint in info.server_address.split(',') {
                    checks.push(endpoint_check(&format!("etcd of {cell}"), endpoint, &info.root, &settings.topo).await);
                }
            }
            Err(error) => checks.push(Check::fail(format!("cell {cell}"), error.to_string(), "see its record")),
        }
    }
    checks
}

/// Whether one endpoint alone answers a read that a majority of its cluster has to agree to.
async fn endpoint_check(what: &str, endpoint: &str, root: &str, topo: &TopoSettings) -> Check {
    let about = format!("{what} {endpoint}");
    let began = Instant::now();
    let asked = async {
        let kv = EtcdKv::new(endpoint, topo.tls.clone(), topo.request_timeout)?;
        kv.list_keys(&format!("{}/", root.trim_end_matches('/'))).await
    };
    match tokio::time::timeout(LIMIT, asked).await {
        Err(_) => Check::fail(about, format!("no answer within {LIMIT:?}"), "see that it runs, and the network between"),
        Ok(Err(error)) => Check::fail(about, error.to_string(), "see that it runs, the network between, and --topo-etcd-tls-*"),
        Ok(Ok(listing)) => {
            let took = began.elapsed();
            let found = format!("{} keys below {root}, in {} ms", listing.entries.len(), took.as_millis());
            match took > SLOW {
                true => Check::warn(about, found, "every step of a reparent waits for it: see its disk and the network between"),
                false => Check::ok(about, found),
            }
        }
    }
}

/// Whether its host's clock differs from ours. Where etcd speaks TLS that is not looked at.
async fn clock(endpoint: &str, topo: &TopoSettings) -> Option<Check> {
    let host = endpoint.strip_prefix("http://").unwrap_or(endpoint);
    if topo.tls.is_some() || host.starts_with("https://") {
        return None;
    }
    let sent = Instant::now();
    let said = tokio::time::timeout(LIMIT, date(host)).await.ok()??;
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(sent.elapsed() / 2);
    // It tells whole seconds: half of one is added.
    server::clock(&format!("clock of {endpoint}"), said as f64 + 0.5 - ours.as_secs_f64())
}

/// What its HTTP server says that time it is, in seconds since 1970.
async fn date(host: &str) -> Option<i64> {
    let mut stream = TcpStream::connect(host).await.ok()?;
    let request = format!("GET /version HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.take(64 << 10).read_to_end(&mut answer).await.ok()?;
    date_of(&String::from_utf8_lossy(&answer))
}

fn date_of(answer: &str) -> Option<i64> {
    let (head, _) = answer.split_once("\r\n\r\n")?;
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    let (_, date) = headers.find(|(name, _)| name.eq_ignore_ascii_case("date"))?;
    Some(jiff::fmt::rfc2822::parse(date.trim()).ok()?.timestamp().as_second())
}

/// Takes and frees a lock of our own: a key with a lease, as shard locks are. No shard's lock is touched.
async fn lock(settings: &Settings) -> Check {
    let about = "a lock in the global etcd";
    let key = format!("{}/doctor/{}", settings.ledger_root, std::process::id());
    let began = Instant::now();
    let locked = async {
        let kv = EtcdKv::new(&settings.topo.global_server_address, settings.topo.tls.clone(), settings.topo.request_timeout)?;
        let lease = kv.lease_grant(OWN_KEY_TTL).await?;
        let made = async {
            let version = kv.create(&key, b"vtelector doctor".to_vec(), Some(lease)).await?;
            kv.lease_keepalive(lease).await?;
            kv.delete(&key, Some(version)).await
        };
        let made = made.await;
        // Its end takes the key away where something failed in between.
        let freed = kv.lease_revoke(lease).await;
        made?;
        freed?;
        Ok::<_, KvError>(())
    };
    match tokio::time::timeout(2 * LIMIT, locked).await {
        Ok(Ok(())) => Check::ok(about, format!("{key} was taken, kept and freed, in {} ms", began.elapsed().as_millis())),
        Ok(Err(error)) => {
            Check::fail(about, error.to_string(), "an elector has to write below --ledger-root and below --topo-global-root")
        }
        Err(_) => Check::fail(about, format!("not done within {:?}", 2 * LIMIT), "see that a majority of etcd's members run"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_stands_in_the_head_of_an_answer() {
        let answer = |head: &str| date_of(&format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\nDate: none"));
        assert_eq!(answer("date: Thu, 09 Oct 2025 08:53:20 GMT"), Some(1_760_000_000));
        assert_eq!((answer("Content-Length: 3"), answer("Date: yesterday"), date_of("")), (None, None, None));
    }
}
