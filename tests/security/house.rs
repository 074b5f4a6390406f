//! A server behind its door, and clients that bring what they like.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, date_time_ymd};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use vtelector::{
    pb::topodata::{CellInfo, Keyspace},
    serve::{Limits, Server},
};

use crate::{
    etcd::Etcd,
    world::{LOCK_TIMEOUT, parts, settings, shard},
};

pub const SOON: Duration = Duration::from_secs(20);

/// Certificate and key as PEM.
pub type Pair = (String, String);

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn sign(&self, name: &str) -> Pair {
        self.signed(name, 2050)
    }

    pub fn expired(&self, name: &str) -> Pair {
        self.signed(name, 2020)
    }

    fn signed(&self, name: &str, until: i32) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (date_time_ymd(2010, 1, 1), date_time_ymd(until, 1, 1));
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

pub struct House {
    pub server: Server,
    pub folder: tempfile::TempDir,
    pub authority: Authority,
    pub etcd: Etcd,
}

impl House {
    /// A server whose flags name files of its folder as `@name`; `files` are written first. The authority's are always there: `ca`, `cert`,
    /// `key`.
    pub async fn start(files: &[(&str, &str)], flags: &str) -> Self {
        Self::with_limits(files, flags, |limits| limits).await
    }

    /// The same with limits for which there are no flags.
    pub async fn with_limits(files: &[(&str, &str)], flags: &str, change: impl FnOnce(Limits) -> Limits) -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let (cert, key) = authority.sign("server");
        for (name, content) in files.iter().copied().chain([("ca", &*authority.pem()), ("cert", &cert), ("key", &key)]) {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let flags: Vec<String> =
            flags.split_whitespace().map(|flag| flag.replace('@', &format!("{}/", folder.path().display()))).collect();
        let etcd = Etcd::start().await;
        let topo = etcd.topo().await;
        let info = CellInfo { server_address: etcd.address.clone(), root: "/vitess/zone1".to_owned() };
        topo.create_cell_info("zone1", &info).await.unwrap();
        topo.create_keyspace("commerce", &Keyspace::default()).await.unwrap();
        topo.create_shard(&shard(), LOCK_TIMEOUT).await.unwrap();
        let settings = settings(&etcd, &flags.iter().map(String::as_str).collect::<Vec<_>>());
        let limits = change(Limits::from(&settings.limits));
        let server = Server::start(&settings, parts(&settings, topo), limits).await.unwrap();
        Self { server, folder, authority, etcd }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A channel without TLS.
    pub fn plain(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.server.grpc)).unwrap().connect_lazy()
    }

    /// A channel with TLS that trusts the authority.
    pub fn tls(&self, identity: Option<Pair>) -> Channel {
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.authority.pem()));
        let tls = match identity {
            Some((cert, key)) => tls.identity(Identity::from_pem(cert, key)),
            None => tls,
        };
        Endpoint::from_shared(format!("https://{}", self.server.grpc)).unwrap().tls_config(tls).unwrap().connect_lazy()
    }

    /// An HTTP session with TLS that trusts the authority.
    pub async fn https(&self, identity: Option<Pair>) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        };
        let tcp = TcpStream::connect(self.server.http).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1").unwrap(), tcp).await
    }

    /// A GET with more header lines.
    pub async fn get(&self, path: &str, headers: &str) -> Answer {
        send(self.server.http, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")).await
    }

    /// A POST of JSON with more header lines.
    pub async fn post(&self, path: &str, headers: &str, body: &str) -> Answer {
        let host = if headers.to_lowercase().contains("host: ") { "" } else { "Host: localhost\r\n" };
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\n{host}Connection: close\r\nContent-Type: application/json\r\n");
        send(self.server.http, &format!("{head}Content-Length: {length}\r\n{headers}\r\n{body}")).await
    }

    pub async fn metrics(&self, headers: &str) -> String {
        self.get("/metrics", headers).await.body
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// It has this status, and these words in its body.
    #[track_caller]
    pub fn says(&self, status: u16, words: &str) {
        assert!(self.status == status && self.body.contains(words), "{status} {words:?} expected: {self:?}");
    }
}

pub async fn send(address: SocketAddr, request: &str) -> Answer {
    exchange(TcpStream::connect(address).await.unwrap(), request).await.unwrap()
}

/// Sends a request and reads until the other side closes.
pub async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> std::io::Result<Answer> {
    stream.write_all(request.as_bytes()).await?;
    read(stream).await
}

pub async fn read(mut stream: impl AsyncRead + Unpin) -> std::io::Result<Answer> {
    let mut answer = Vec::new();
    let ended = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("an answer and its end");
    if answer.is_empty() {
        ended?;
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("no answer: {text:?}")))?;
    Ok(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
}

pub fn basic(user: &str, password: &str) -> String {
    use base64::Engine;
    let coded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Authorization: Basic {coded}\r\n")
}
