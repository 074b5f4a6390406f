//! A real etcd of one member.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use etcd_client::Client;

use super::{Host, Process, SandboxError, Signal, Tools, eventually, free_port};

/// One etcd server with a data folder of its own on a port of its own.
#[derive(Debug)]
pub struct Etcd {
    program: PathBuf,
    host: Host,
    folder: PathBuf,
    client_port: u16,
    peer_port: u16,
    process: Option<Process>,
}

impl Etcd {
    /// Starts it with its data below `folder`, and waits until it answers. It syncs to disk as in production.
    pub async fn start(tools: &Tools, folder: &Path) -> Result<Self, SandboxError> {
        Self::start_on(&Host::local(), tools, folder).await
    }

    /// [`Etcd::start`] on a host of its own.
    pub async fn start_on(host: &Host, tools: &Tools, folder: &Path) -> Result<Self, SandboxError> {
        fs::create_dir_all(folder).map_err(SandboxError::io(format!("making the folder {}", folder.display())))?;
        let mut etcd = Self {
            program: tools.etcd.clone(),
            host: host.clone(),
            folder: folder.to_owned(),
            client_port: free_port()?,
            peer_port: free_port()?,
            process: None,
        };
        etcd.run().await?;
        Ok(etcd)
    }

    /// `HOST:PORT` of the client endpoint, as `--topo-global-server-address` takes it.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host.ip, self.client_port)
    }

    /// A client of this server alone.
    pub async fn client(&self) -> Result<Client, SandboxError> {
        let doing = || format!("connecting to {}", self.address());
        Client::connect([self.address()], None).await.map_err(|source| SandboxError::Etcd { doing: doing(), source })
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on its data, on the same port.
    pub async fn restart(&mut self) -> Result<(), SandboxError> {
        self.kill();
        self.run().await
    }

    /// Freezes or thaws it.
    pub fn signal(&self, signal: Signal) -> Result<(), SandboxError> {
        self.process.as_ref().map_or(Ok(()), |process| process.signal(signal))
    }

    async fn run(&mut self) -> Result<(), SandboxError> {
        let client = format!("http://{}", self.address());
        let peer = format!("http://{}:{}", self.host.ip, self.peer_port);
        let data = self.folder.join("data").display().to_string();
        let cluster = format!("default={peer}");
        let args = [
            ("--name", "default"),
            ("--data-dir", &data),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &cluster),
        ];
        let args = args.iter().flat_map(|(flag, value)| [*flag, *value]);
        let process =
            self.process.insert(Process::start_on(&self.host, "etcd", &self.program, args, &[], &self.folder.join("etcd.log"))?);
        eventually("etcd answering", Duration::from_secs(20), async || {
            process.check_running().map_err(|error| error.to_string())?;
            let mut client = Client::connect([&client], None).await.map_err(|error| error.to_string())?;
            client.get("ready", None).await.map(drop).map_err(|error| error.to_string())
        })
        .await
    }
}
