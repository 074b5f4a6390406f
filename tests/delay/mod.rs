//! Delays what a host says and hears: its outgoing TCP connections are led through a relay on the same host, which passes everything on
//! late and in order. It stands in for the kernel's `netem`, which is not everywhere.

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::cluster::{Host, Process, eventually, free_port};

/// The most that a piece is late.
const DELAY_MAX_MS: u64 = 300;
/// By this mark the relay's own packets are known, which are not led to it again.
const MARK: u32 = 7;
/// Pieces on their way in one direction of one connection; TCP holds back the rest.
const PIECES_MAX: usize = 256;
/// How the relay is told where to listen.
const PORT: &str = "RELAY_PORT";

/// A running relay.
pub struct Relay {
    _process: Process,
}

impl Relay {
    /// Starts it and leads every new connection from that host to others through it.
    pub async fn before(host: &Host, log: &Path) -> Self {
        let port = free_port().unwrap().to_string();
        let program = std::env::current_exe().unwrap();
        let args = ["--ignored", "--exact", "relay", "--nocapture"];
        let process = Process::start_on(host, "relay", &program, args, &[(PORT, &port)], log).unwrap();
        let address = format!("{}:{port}", host.ip);
        eventually("the relay listening", Duration::from_secs(10), async || TcpStream::connect(&address).await).await.unwrap();
        let rule = format!("-t nat -A OUTPUT -o eth0 -p tcp -m mark ! --mark {MARK} -j REDIRECT --to-ports {port}");
        let exec = ["netns", "exec", host.namespace.as_deref().expect("a host of its own"), "iptables", "-w"];
        let done = Command::new("ip").args(exec).args(rule.split(' ')).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self { _process: process }
    }
}

/// The relay's own process: until it is killed.
pub async fn run() {
    let Ok(port) = std::env::var(PORT) else { return };
    let listener = TcpListener::bind(format!("0.0.0.0:{port}")).await.unwrap();
    let mut connections = JoinSet::new();
    for seed in 0.. {
        let (from, _) = listener.accept().await.unwrap();
        connections.spawn(connection(from, seed));
        while connections.try_join_next().is_some() {}
    }
}

/// One connection, until both sides have ended it or one was lost.
async fn connection(from: TcpStream, seed: u64) {
    let wanted = SockRef::from(&from).original_dst_v4().ok().and_then(|address| address.as_socket());
    // Whoever asks for the relay itself wants to know whether it listens.
    let Some(wanted) = wanted.filter(|wanted| from.local_addr().is_ok_and(|own| own != *wanted)) else { return };
    let Ok(to) = connect(wanted).await else { return };
    let (from, to) = (from.into_split(), to.into_split());
    let _ = tokio::try_join!(late(from.0, to.1, seed * 2), late(to.0, from.1, seed * 2 + 1));
}

async fn connect(to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    SockRef::from(&socket).set_mark(MARK)?;
    socket.connect(to).await
}

/// One direction: every piece is late by another time, and none overtakes another.
async fn late(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, seed: u64) -> std::io::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let reading = async move {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let length = from.read(&mut buffer).await?;
            let due = Instant::now() + Duration::from_millis(random.random_range(0..=DELAY_MAX_MS));
            if length == 0 || sender.send((due, buffer[..length].to_vec())).await.is_err() {
                return Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(drop)
}
