//! TLS and mutual TLS.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_rustls::rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use super::fake::{FakeTablet, client, within_ms};
use crate::{
    sandbox::eventually,
    tablet::{GrpcTabletManager, TabletError, TabletErrorKind, TabletManager, TabletSettings, TabletTls},
};

/// An authority whose files are in a folder.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate and key for a name, in PEM form.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// The same as files.
    fn identity(&self, name: &str) -> (PathBuf, PathBuf) {
        let (cert, key) = self.issue(name);
        let paths = (self.folder.path().join("cert.pem"), self.folder.path().join("key.pem"));
        std::fs::write(&paths.0, cert).unwrap();
        std::fs::write(&paths.1, key).unwrap();
        paths
    }

    /// A tablet with a certificate for a name; with `clients`, it demands one of that authority.
    async fn tablet(&self, name: &str, clients: Option<&Authority>) -> FakeTablet {
        let (cert, key) = self.issue(name);
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(authority.issuer.pem().as_bytes()).unwrap()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        FakeTablet::start_on("127.0.0.1:0", Some(builder.with_single_cert(chain, key).unwrap())).await
    }
}

fn trusting(ca: &Path) -> TabletTls {
    TabletTls { ca: ca.to_owned(), identity: None, server_name: None }
}

fn client_with(tls: TabletTls) -> GrpcTabletManager {
    GrpcTabletManager::new(TabletSettings { tls: Some(tls), ..Default::default() }).unwrap()
}

async fn refusal(client: &GrpcTabletManager, fake: &FakeTablet) -> TabletError {
    let error = client.refresh_state(&fake.tablet(), within_ms(5000)).await.unwrap_err();
    assert_eq!(error.kind, TabletErrorKind::Unreachable, "{error}");
    assert!(fake.received().is_empty());
    error
}

#[tokio::test]
async fn a_tablet_is_trusted_for_its_authority_and_name() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let fake = authority.tablet("127.0.0.1", None).await;
    let error = refusal(&client_with(trusting(&other.ca())), &fake).await;
    assert!(error.message.contains("invalid peer certificate: UnknownIssuer"), "{error}");
    client_with(trusting(&authority.ca())).refresh_state(&fake.tablet(), within_ms(5000)).await.unwrap();

    let fake = authority.tablet("tablets.example", None).await;
    let error = refusal(&client_with(trusting(&authority.ca())), &fake).await;
    assert!(error.message.contains("certificate not valid for name"), "{error}");
    let named = TabletTls { server_name: Some("tablets.example".to_owned()), ..trusting(&authority.ca()) };
    client_with(named).refresh_state(&fake.tablet(), within_ms(5000)).await.unwrap();
}

#[tokio::test]
async fn a_tablet_that_demands_a_certificate_gets_no_request_without() {
    let (authority, other) = (Authority::new("ours"), Authority::new("theirs"));
    let fake = authority.tablet("127.0.0.1", Some(&authority)).await;
    let error = refusal(&client_with(trusting(&authority.ca())), &fake).await;
    assert!(error.message.contains("CertificateRequired"), "{error}");
    let foreign = TabletTls { identity: Some(other.identity("elector")), ..trusting(&authority.ca()) };
    refusal(&client_with(foreign), &fake).await;
    let ours = TabletTls { identity: Some(authority.identity("elector")), ..trusting(&authority.ca()) };
    client_with(ours).refresh_state(&fake.tablet(), within_ms(5000)).await.unwrap();
}

#[tokio::test]
async fn one_side_without_tls_gets_no_further() {
    let authority = Authority::new("ours");
    refusal(&client(), &authority.tablet("127.0.0.1", None).await).await;
    refusal(&client_with(trusting(&authority.ca())), &FakeTablet::start().await).await;
}

#[tokio::test]
async fn rotated_files_are_used_and_broken_ones_are_not() {
    let (old, new) = (Authority::new("ours"), Authority::new("theirs"));
    let client = client_with(trusting(&old.ca()));
    let fake = new.tablet("127.0.0.1", None).await;
    refusal(&client, &fake).await;
    std::fs::copy(new.ca(), old.ca()).unwrap();
    // The files are looked at once a second.
    let is_trusted = async || client.refresh_state(&fake.tablet(), within_ms(5000)).await;
    eventually("a tablet of the new authority that is trusted", Duration::from_secs(20), is_trusted).await.unwrap();
    std::fs::write(old.ca(), "half a fi").unwrap();
    let another = new.tablet("127.0.0.1", None).await;
    client.refresh_state(&another.tablet(), within_ms(5000)).await.unwrap();
}

#[test]
fn files_that_are_no_identity_are_named() {
    let authority = Authority::new("ours");
    let message = |tls| match GrpcTabletManager::new(TabletSettings { tls: Some(tls), ..Default::default() }) {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error.to_string(),
    };
    let missing = message(trusting(Path::new("/nowhere/ca.pem")));
    assert!(missing.starts_with("/nowhere/ca.pem: No such file"), "{missing}");
    let (cert, key) = authority.identity("elector");
    let swapped = TabletTls { identity: Some((key.clone(), cert.clone())), ..trusting(&authority.ca()) };
    assert!(message(swapped).contains("no certificate in PEM form"), "key and certificate swapped");
    let (other, _) = Authority::new("ours").identity("elector");
    let stranger = TabletTls { identity: Some((cert, other)), ..trusting(&authority.ca()) };
    assert!(message(stranger).contains("No such file"), "a file that was deleted meanwhile");
}
