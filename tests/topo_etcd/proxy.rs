//! A road to etcd that can lose what comes back.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Passes bytes on between its clients and one server.
pub struct Proxy {
    pub address: String,
    deaf: watch::Sender<bool>,
    accepted: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    pub async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (deaf, _) = watch::channel(false);
        let accepted = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let (mode, count, server) = (deaf.clone(), accepted.clone(), server.to_owned());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                connections.spawn(connection(client, server.clone(), mode.subscribe()));
            }
        });
        Self { address, deaf, accepted, _tasks: tasks }
    }

    /// From now on nothing comes back, on any connection.
    pub fn go_deaf(&self) {
        self.deaf.send_replace(true);
    }

    /// New connections work again; those that lost bytes stay as they are, as with a firewall that forgot them.
    pub fn heal(&self) {
        self.deaf.send_replace(false);
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

async fn connection(client: TcpStream, server: String, deaf: watch::Receiver<bool>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let back = async {
        let mut bytes = vec![0; 1 << 16];
        let mut lost = false;
        while let Ok(len @ 1..) = from_server.read(&mut bytes).await {
            lost |= *deaf.borrow();
            if !lost && to_client.write_all(&bytes[..len]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}
