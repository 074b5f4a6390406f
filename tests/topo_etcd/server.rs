//! An etcd of the test's own, on loopback, gone when the test ends.

use std::{path::PathBuf, time::Duration};

use vtelector::{
    sandbox::{Process, Signal, TempFolder, eventually},
    topo::{EtcdKv, Kv, Topo, TopoSettings},
};

const LIMIT: Duration = Duration::from_secs(20);

/// A running etcd.
pub struct Etcd {
    process: Process,
    args: Vec<String>,
    scheme: &'static str,
    /// `host:port` for clients.
    pub address: String,
    folder: TempFolder,
}

pub fn free_port() -> u16 {
    vtelector::sandbox::free_port().unwrap()
}

impl Etcd {
    pub async fn start() -> Self {
        let mut etcd = Self::start_with("http", &[]);
        etcd.wait_until_healthy().await;
        etcd
    }

    /// Starts one with more flags; the caller waits until it answers.
    pub fn start_with(scheme: &'static str, flags: &[String]) -> Self {
        let folder = TempFolder::new().unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let (client_url, peer_url) = (format!("{scheme}://{address}"), format!("http://127.0.0.1:{}", free_port()));
        let data = folder.path().join("data").display().to_string();
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
        Self { process: run(&args, &folder), args, scheme, address, folder }
    }

    pub async fn wait_until_healthy(&mut self) {
        assert_eq!(self.scheme, "http", "the caller knows how to ask an etcd with TLS");
        let kv = self.kv();
        let answers = async || {
            self.process.check_running().map_err(|error| error.to_string())?;
            kv.get("/health").await.map_err(|error| error.to_string())
        };
        eventually("an etcd that answers", LIMIT, answers).await.unwrap();
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

    /// Sends `STOP` or `CONT`; returns when all threads have obeyed, for they go on for a moment.
    pub async fn signal(&self, signal: &str) {
        let freeze = signal == "STOP";
        self.process.signal(if freeze { Signal::Freeze } else { Signal::Thaw }).unwrap();
        let threads = format!("/proc/{}/task", self.process.id());
        let obeys = |thread: std::io::Result<std::fs::DirEntry>| {
            // The state stands after the name, which is in parentheses.
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T') == freeze)
        };
        let all_obey = async || std::fs::read_dir(&threads).unwrap().all(obeys).then_some(()).ok_or("some thread does not");
        eventually(&format!("an etcd that obeys SIG{signal}"), LIMIT, all_obey).await.unwrap();
    }

    pub async fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on its data and its ports.
    pub async fn restart(&mut self) {
        self.kill().await;
        self.process = run(&self.args, &self.folder);
        self.wait_until_healthy().await;
    }
}

fn run(args: &[String], folder: &TempFolder) -> Process {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program: Option<PathBuf> = std::env::split_paths(&path).map(|folder| folder.join("etcd")).find(|file| file.is_file());
    let program = program.expect("this test needs the program etcd on the PATH; `make test` sees to that");
    Process::start("etcd", &program, args, &[], &folder.path().join("log")).unwrap()
}
