//! A receiver on loopback, as good or bad as a test wants it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// How it behaves.
#[derive(Debug, Clone)]
pub enum Manner {
    /// Takes everything.
    Takes,
    /// Answers with this status and these header lines.
    Answers(u16, &'static str),
    /// Reads and never answers.
    Hangs,
    /// Reads, and ends the connection the hard way.
    Resets,
    /// Answers 200 one byte every 100 ms; the head alone takes longer than anybody waits.
    Drips,
    /// Answers 200 with ten megabytes.
    Floods,
    /// Answers with what is no HTTP.
    Babbles,
}

/// A request, as it was read.
#[derive(Debug, Clone)]
pub struct Request {
    /// `POST /path HTTP/1.1`.
    pub line: String,
    /// Names in small letters.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn sequence(&self) -> u64 {
        self.headers["vtelector-event-sequence"].parse().unwrap()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A receiver. Dropping it ends it.
pub struct Receiver {
    pub port: u16,
    pub requests: Arc<Mutex<Vec<Request>>>,
    manner: Arc<Mutex<Manner>>,
    _serving: JoinSet<()>,
}

impl Receiver {
    pub async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, manner) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::new(Mutex::new(manner)));
        let (seen, behaves) = (requests.clone(), manner.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, behaves) = (seen.clone(), behaves.clone());
                connections.spawn(async move { serve(stream, seen, behaves).await });
            }
        });
        Self { port, requests, manner, _serving: serving }
    }

    pub fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(stream: TcpStream, seen: Arc<Mutex<Vec<Request>>>, behaves: Arc<Mutex<Manner>>) {
    let mut stream = BufReader::new(stream);
    // The other side may go at any moment; then this connection is over.
    while let Some(request) = read(&mut stream).await {
        seen.lock().unwrap().push(request);
        let manner = behaves.lock().unwrap().clone();
        if answer(stream.get_mut(), manner).await.is_none() {
            return;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let headers: BTreeMap<String, String> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())))
        .collect();
    let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { line: lines.swap_remove(0), headers, body })
}

/// Answers; `None` = this connection is over.
async fn answer(stream: &mut TcpStream, manner: Manner) -> Option<()> {
    match manner {
        Manner::Takes => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.ok(),
        Manner::Answers(status, headers) => {
            stream.write_all(format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: 0\r\n\r\n").as_bytes()).await.ok()
        }
        Manner::Hangs => std::future::pending().await,
        Manner::Resets => {
            socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap();
            None
        }
        Manner::Drips => {
            for byte in b"HTTP/1.1 200 OK\r\nX-Endless: ".iter().chain(std::iter::repeat_n(&b'x', 10_000)) {
                stream.write_all(&[*byte]).await.ok()?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            None
        }
        Manner::Floods => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n").await.ok()?;
            stream.write_all(&vec![b'x'; 10_000_000]).await.ok()
        }
        Manner::Babbles => {
            stream.write_all(b"220 mail.example ESMTP\r\n\r\n").await.ok()?;
            None
        }
    }
}
