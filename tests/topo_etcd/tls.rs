//! mTLS towards etcd, from files.

use std::{path::Path, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use vtelector::{
    sandbox::{TempFolder, eventually},
    topo::{EtcdKv, Kv, Topo, TopoSettings, TopoTls},
};

use crate::server::Etcd;

const LIMIT: Duration = Duration::from_secs(20);

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes a certificate signed by that authority, its key, and the authority's own certificate.
fn identity(dir: &Path, name: &str, authority: &Authority) -> TopoTls {
    let file = |kind: &str| dir.join(format!("{name}-{kind}.pem"));
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    std::fs::write(file("cert"), cert.pem()).unwrap();
    std::fs::write(file("key"), key.serialize_pem()).unwrap();
    std::fs::write(file("ca"), authority.pem()).unwrap();
    TopoTls { identity: Some((file("cert"), file("key"))), ca: Some(file("ca")) }
}

#[tokio::test]
async fn an_etcd_that_asks_for_certificates_is_reached_with_the_right_ones_only() {
    let dir = TempFolder::new().unwrap();
    let authority = authority("ours");
    let server = identity(dir.path(), "server", &authority);
    let ca = server.ca.as_ref().unwrap().display().to_string();
    let [cert, key] = identity_flags(&server);
    let flags = [cert, key, format!("--trusted-ca-file={ca}"), "--client-cert-auth".to_owned()];
    let etcd = Etcd::start_with("https", &flags);
    let ours = identity(dir.path(), "ours", &authority);
    let settings = TopoSettings { tls: Some(ours.clone()), ..etcd.settings() };
    let topo = eventually("an etcd that knows us", LIMIT, async || Topo::connect(&settings).await).await.unwrap();
    topo.create_keyspace("commerce", &Default::default()).await.unwrap();
    assert_eq!(topo.keyspaces().await.unwrap(), ["commerce"]);

    let refused = async |tls: Option<TopoTls>| {
        let error = Topo::connect(&TopoSettings { tls, ..settings.clone() }).await.err().expect("it must not connect");
        error.to_string()
    };
    let stranger = identity(dir.path(), "stranger", &self::authority("strangers"));
    let error = refused(Some(stranger.clone())).await;
    assert!(error.contains("UnknownIssuer"), "the server is not the one we trust: {error}");
    let error = refused(Some(TopoTls { ca: ours.ca.clone(), ..stranger })).await;
    assert!(error.contains(&etcd.address), "the server does not trust us: {error}");
    refused(None).await;
    let (cert, key) = ours.identity.clone().unwrap();
    let error = refused(Some(TopoTls { identity: Some((dir.path().join("missing.pem"), key)), ..ours.clone() })).await;
    assert!(error.contains("missing.pem") && error.contains("No such file"), "{error}");
    let error = refused(Some(TopoTls { identity: Some((cert.clone(), cert)), ..ours })).await;
    assert!(error.contains("key"), "{error}");
}

#[tokio::test]
async fn a_renewed_certificate_is_read_when_the_connection_is_made_anew() {
    let dir = TempFolder::new().unwrap();
    let (old, new) = (authority("old"), authority("new"));
    let server = identity(dir.path(), "server", &new);
    let etcd = Etcd::start_with("https", &identity_flags(&server));
    // Our files still belong to the old authority ...
    let ours = identity(dir.path(), "ours", &old);
    let kv = EtcdKv::new(&etcd.address, Some(ours), Duration::from_secs(1)).unwrap();
    let distrusts = async || match kv.get("/a").await.unwrap_err().to_string() {
        error if error.contains("UnknownIssuer") => Ok(()),
        error => Err(error),
    };
    eventually("an etcd that we do not trust", LIMIT, distrusts).await.unwrap();
    // ... until they are replaced.
    identity(dir.path(), "ours", &new);
    eventually("an etcd that we trust", LIMIT, async || kv.get("/a").await).await.unwrap();
}

#[tokio::test]
async fn an_authority_alone_is_enough_for_an_etcd_that_asks_for_no_certificate() {
    let dir = TempFolder::new().unwrap();
    let authority = authority("ours");
    let server = identity(dir.path(), "server", &authority);
    let etcd = Etcd::start_with("https", &identity_flags(&server));
    let settings = TopoSettings { tls: Some(TopoTls { identity: None, ..server }), ..etcd.settings() };
    eventually("an etcd with TLS", LIMIT, async || Topo::connect(&settings).await).await.unwrap();
}

/// A renewed pair is used by the next call, on a new connection; no call fails meanwhile.
#[tokio::test]
async fn certificates_that_are_renewed_under_load_fail_no_call() {
    let dir = TempFolder::new().unwrap();
    let authority = authority("ours");
    let server = identity(dir.path(), "server", &authority);
    let ca = server.ca.as_ref().unwrap().display().to_string();
    let [cert, key] = identity_flags(&server);
    let flags = [cert, key, format!("--trusted-ca-file={ca}"), "--client-cert-auth".to_owned()];
    let etcd = Etcd::start_with("https", &flags);
    let kv = EtcdKv::new(&etcd.address, Some(identity(dir.path(), "ours", &authority)), Duration::from_secs(5)).unwrap();
    eventually("an etcd that knows us", LIMIT, async || kv.get("/a").await).await.unwrap();
    let established = || connections(&etcd.address);
    let before = established();
    let end = tokio::time::Instant::now() + LIMIT;
    identity(dir.path(), "ours", &authority);
    while established().is_subset(&before) {
        kv.get("/a").await.unwrap();
        assert!(tokio::time::Instant::now() < end, "no new connection was made");
    }
    kv.get("/a").await.unwrap();
}

/// The connections to an address of this machine, each by its other end.
fn connections(address: &str) -> std::collections::BTreeSet<String> {
    let port: u16 = address.rsplit_once(':').unwrap().1.parse().unwrap();
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|f| f[2].ends_with(&format!(":{port:04X}")) && f[3] == "01").map(|f| f[1].to_owned()).collect()
}

fn identity_flags(server: &TopoTls) -> [String; 2] {
    let (cert, key) = server.identity.as_ref().unwrap();
    [format!("--cert-file={}", cert.display()), format!("--key-file={}", key.display())]
}
