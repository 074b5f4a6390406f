//! An etcd of the test's own, on loopback, gone when the test ends.

use std::{net::TcpListener, path::Path, process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use vtelector::topo::{EtcdKv, Kv, Topo, TopoSettings};

const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A running etcd.
pub struct Etcd {
    process: Child,
    args: Vec<String>,
    scheme: &'static str,
    /// `host:port` for clients.
    pub address: String,
    dir: TempDir,
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Etcd {
    pub async fn start() -> Self {
        let mut etcd = Self::start_with("http", &[]);
        etcd.wait_until_healthy().await;
        etcd
    }

    /// Starts one with more flags; the caller waits until it answers.
    pub fn start_with(scheme: &'static str, flags: &[String]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (client, peer) = (free_port(), free_port());
        let (client_url, peer_url) = (format!("{scheme}://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let data = dir.path().join("data").display().to_string();
        let mut args: Vec<String> = [
            ("--data-dir", data.as_str()),
            ("--listen-client-urls", &client_url),
            ("--advertise-client-urls", &client_url),
            ("--listen-peer-urls", &peer_url),
            ("--initial-advertise-peer-urls", &peer_url),
            ("--initial-cluster", &format!("default={peer_url}")),
            // The shortest lease is one and a half times the election timeout.
            ("--heartbeat-interval", "50"),
            ("--election-timeout", "500"),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()])
        .collect();
        args.extend_from_slice(flags);
        let process = spawn(&args, dir.path());
        Self { process, args, scheme, address: format!("127.0.0.1:{client}"), dir }
    }

    pub async fn wait_until_healthy(&mut self) {
        assert_eq!(self.scheme, "http", "the caller knows how to ask an etcd with TLS");
        let kv = self.kv();
        let deadline = Instant::now() + START_TIMEOUT;
        while let Err(error) = kv.get("/health").await {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("etcd ended with {status}: {}", self.log());
            }
            assert!(Instant::now() < deadline, "etcd did not come up: {error}; {}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The last lines that etcd wrote.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    pub fn kv(&self) -> EtcdKv {
        EtcdKv::new(&self.address, None, Duration::from_secs(2)).unwrap()
    }

    pub fn settings(&self) -> TopoSettings {
        TopoSettings {
            global_server_address: self.address.clone(),
            global_root: "/vitess/global".to_owned(),
            tls: None,
            lease_ttl: Duration::from_secs(2),
            request_timeout: Duration::from_secs(1),
        }
    }

    pub async fn topo(&self) -> Topo {
        Topo::connect(&self.settings()).await.unwrap()
    }

    pub async fn client(&self) -> etcd_client::Client {
        etcd_client::Client::connect([&self.address], None).await.unwrap()
    }

    /// Sends `STOP` or `CONT` and waits until all threads have obeyed: they go on for a moment.
    pub async fn signal(&self, signal: &str) {
        let pid = self.process.id().expect("it runs").to_string();
        assert!(Command::new("kill").args([format!("-{signal}"), pid.clone()]).status().await.unwrap().success());
        let stopped = |thread: std::fs::DirEntry| {
            // The state stands after the name, which is in parentheses.
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        };
        let deadline = Instant::now() + START_TIMEOUT;
        while std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().any(|thread| stopped(thread.unwrap()) != (signal == "STOP"))
        {
            assert!(Instant::now() < deadline, "etcd does not obey SIG{signal}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn kill(&mut self) {
        self.process.start_kill().unwrap();
        timeout(START_TIMEOUT, self.process.wait()).await.unwrap().unwrap();
    }

    /// Starts it again on its data and its ports.
    pub async fn restart(&mut self) {
        self.kill().await;
        self.process = spawn(&self.args, self.dir.path());
        self.wait_until_healthy().await;
    }
}

fn spawn(args: &[String], dir: &Path) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
    Command::new("etcd")
        .args(args)
        .env_remove("ETCD_NAME")
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("this test needs the program etcd on the PATH: {error}"))
}
