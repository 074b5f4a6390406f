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
    TopoTls { cert: file("cert"), key: file("key"), ca: Some(file("ca")) }
}

#[tokio::test]
async fn an_etcd_that_asks_for_certificates_is_reached_with_the_right_ones_only() {
    let dir = TempFolder::new().unwrap();
    let authority = authority("ours");
    let server = identity(dir.path(), "server", &authority);
    let path = |path: &Path| path.display().to_string();
    let ca = path(server.ca.as_ref().unwrap());
    let flags = [
        format!("--cert-file={}", path(&server.cert)),
        format!("--key-file={}", path(&server.key)),
        format!("--trusted-ca-file={ca}"),
        "--client-cert-auth".to_owned(),
    ];
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
    let error = refused(Some(TopoTls { cert: dir.path().join("missing.pem"), ..ours.clone() })).await;
    assert!(error.contains("missing.pem") && error.contains("No such file"), "{error}");
    let error = refused(Some(TopoTls { key: ours.cert.clone(), ..ours })).await;
    assert!(error.contains("key"), "{error}");
}

#[tokio::test]
async fn a_renewed_certificate_is_read_when_the_connection_is_made_anew() {
    let dir = TempFolder::new().unwrap();
    let (old, new) = (authority("old"), authority("new"));
    let server = identity(dir.path(), "server", &new);
    let flags = [format!("--cert-file={}", server.cert.display()), format!("--key-file={}", server.key.display())];
    let etcd = Etcd::start_with("https", &flags);
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
    let _ = kv.get("/a").await;
    kv.get("/a").await.unwrap();
}
