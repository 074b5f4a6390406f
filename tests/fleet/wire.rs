//! The tablet managers of a fleet behind one listener: who is called is told by the loopback address that was called.

use std::{convert::Infallible, net::IpAddr, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{StreamExt, future, stream};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tonic::{Code, Status};
use vtelector::pb::{
    query::{RealtimeStats, StreamHealthResponse},
    tabletmanagerdata as data,
    topodata::TabletType,
};

use super::{
    fleet::{Fleet, MYSQL_PORT, address, alias, now, tablet_at},
    shard::{Hosts, TABLETS, mysql_gone},
};

type Body = BoxBody<Bytes, Infallible>;

/// Serves until dropped.
pub async fn serve(fleet: Arc<Fleet>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, peer) = accepted.unwrap();
                // It listens on every address, because it is all of 127.0.0.0/8; others are sent away.
                if peer.ip().is_loopback() {
                    connections.spawn(connection(fleet.clone(), stream));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(fleet: Arc<Fleet>, stream: TcpStream) {
    let Ok(IpAddr::V4(called)) = stream.local_addr().map(|address| address.ip()) else { return };
    let Some((shard, index)) = tablet_at(called).filter(|(shard, _)| *shard < fleet.len()) else { return };
    drop(stream.set_nodelay(true));
    let service = service_fn(|request| answer(fleet.clone(), shard, index, request));
    // A client that goes away ends it.
    drop(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(fleet: Arc<Fleet>, shard: usize, index: usize, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let method = path.rsplit('/').next().unwrap_or_default();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if method == "StreamHealth" {
        return Ok(health());
    }
    let message = body.slice(body.len().min(5)..);
    Ok(match call(&fleet, shard, index, method, message).await {
        Ok(bytes) => {
            let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
            let body = Full::new(framed(&bytes)).with_trailers(future::ready(Some(Ok(trailers))));
            response(BodyExt::boxed(body))
        }
        Err(status) => {
            let mut response = status.into_http::<Full<Bytes>>();
            *response.body_mut() = Full::default();
            response.map(BodyExt::boxed)
        }
    })
}

fn response(body: Body) -> Response<Body> {
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

/// One message, and then silence for as long as the tablet lives.
fn health() -> Response<Body> {
    let stats = Some(RealtimeStats::default());
    let message = StreamHealthResponse { serving: true, realtime_stats: stats, ..StreamHealthResponse::default() };
    let first = Ok(Frame::data(framed(&message.encode_to_vec())));
    response(BodyExt::boxed(StreamBody::new(stream::once(future::ready(first)).chain(stream::pending()))))
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    frame.freeze()
}

fn read<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| Status::invalid_argument(error.to_string()))
}

async fn call(fleet: &Fleet, shard: usize, index: usize, method: &str, message: Bytes) -> Result<Vec<u8>, Status> {
    let host = |of: usize| address(shard, of).to_string();
    let hosts = Hosts { port: MYSQL_PORT, host: &host };
    if method == "RefreshState" || method == "RunHealthCheck" {
        return Ok(Vec::new());
    }
    if !fleet.shard(shard).tablets[index].mysqld_up {
        return Err(mysql_gone());
    }
    let mut publish = None;
    let answer = match method {
        "FullStatus" => {
            let status = Some(fleet.shard(shard).full_status(index, &hosts));
            data::FullStatusResponse { status }.encode_to_vec()
        }
        "PrimaryStatus" => data::PrimaryStatusResponse { status: Some(fleet.shard(shard).executed(index)) }.encode_to_vec(),
        "PrimaryPosition" => {
            data::PrimaryPositionResponse { position: fleet.shard(shard).executed(index).position }.encode_to_vec()
        }
        "ReplicationStatus" => {
            let status = Some(fleet.shard(shard).status(index, &hosts)?);
            data::ReplicationStatusResponse { status }.encode_to_vec()
        }
        "StopReplicationAndGetStatus" => {
            let request: data::StopReplicationAndGetStatusRequest = read(message)?;
            let status = Some(fleet.shard(shard).stop_replication(index, request.stop_replication_mode == 0, &hosts)?);
            data::StopReplicationAndGetStatusResponse { status }.encode_to_vec()
        }
        "StopReplication" => {
            fleet.shard(shard).stop_replication(index, true, &hosts)?;
            Vec::new()
        }
        "StartReplication" => {
            fleet.shard(shard).start_replication(index);
            Vec::new()
        }
        // What a replica has received it has applied.
        "WaitForPosition" => Vec::new(),
        "DemotePrimary" => {
            let primary_status = Some(fleet.shard(shard).demote(index));
            data::DemotePrimaryResponse { primary_status }.encode_to_vec()
        }
        "PromoteReplica" => {
            let request: data::PromoteReplicaRequest = read(message)?;
            let (position, record) = fleet.shard(shard).promote(index, request.semi_sync, now());
            publish = Some(record);
            data::PromoteReplicaResponse { position }.encode_to_vec()
        }
        "SetReplicationSource" => {
            let request: data::SetReplicationSourceRequest = read(message)?;
            let parent = request.parent.unwrap_or_default().uid;
            let parent = (0..TABLETS).find(|i| alias(shard, *i).uid == parent);
            let parent = parent.ok_or_else(|| Status::invalid_argument("a parent of another shard"))?;
            let was_primary = fleet.shard(shard).tablets[index].tablet_type == TabletType::Primary;
            let record = fleet.shard(shard).follow(index, parent, request.semi_sync);
            publish = was_primary.then_some(record);
            Vec::new()
        }
        "PopulateReparentJournal" => {
            let request: data::PopulateReparentJournalRequest = read(message)?;
            fleet.shard(shard).write_journal(index, request.time_created_ns)?;
            Vec::new()
        }
        "ReadReparentJournalInfo" => {
            data::ReadReparentJournalInfoResponse { length: fleet.shard(shard).journal_rows(index) }.encode_to_vec()
        }
        "SetReadOnly" | "SetReadWrite" => {
            fleet.shard(shard).set_read_only(index, method == "SetReadOnly");
            Vec::new()
        }
        "GetGlobalStatusVars" => {
            let request: data::GetGlobalStatusVarsRequest = read(message)?;
            let status_values = request.variables.into_iter().map(|name| (name, "0".to_owned())).collect();
            data::GetGlobalStatusVarsResponse { status_values }.encode_to_vec()
        }
        "ExecuteFetchAsDba" => {
            let request: data::ExecuteFetchAsDbaRequest = read(message)?;
            let result = Some(fleet.shard(shard).statement(index, &String::from_utf8_lossy(&request.query))?);
            data::ExecuteFetchAsDbaResponse { result }.encode_to_vec()
        }
        other => return Err(Status::new(Code::Unimplemented, format!("the simulator has no {other}"))),
    };
    if let Some(record) = publish {
        fleet.publish(shard, record).await;
    }
    Ok(answer)
}
