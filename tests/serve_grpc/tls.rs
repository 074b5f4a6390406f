//! TLS of the gRPC port.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use vtelector::{
    pb::{vtctldata::GetKeyspacesRequest, vtctlservice::vtctld_client::VtctldClient},
    serve::{Limits, Server},
};

use crate::{
    etcd::Etcd,
    world::{parts, settings},
};

/// An authority and what it has signed, as PEM.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

fn write(folder: &Path, name: &str, pem: &str) -> String {
    std::fs::write(folder.join(name), pem).unwrap();
    folder.join(name).display().to_string()
}

async fn ask(endpoint: Result<Endpoint, tonic::transport::Error>) -> Result<(), Code> {
    let channel: Channel = endpoint.unwrap().connect_lazy();
    VtctldClient::new(channel).get_keyspaces(GetKeyspacesRequest {}).await.map(drop).map_err(|status| status.code())
}

#[tokio::test]
async fn clients_without_a_certificate_of_our_authority_are_kept_out() {
    let etcd = Etcd::start().await;
    let (ours, theirs, folder) = (Authority::new(), Authority::new(), tempfile::tempdir().unwrap());
    let (cert, key) = ours.sign("localhost");
    let flags = [
        format!("--grpc-cert={}", write(folder.path(), "cert", &cert)),
        format!("--grpc-key={}", write(folder.path(), "key", &key)),
        format!("--grpc-ca={}", write(folder.path(), "ca", &ours.0.pem())),
    ];
    let settings = settings(&etcd, &flags.each_ref().map(String::as_str));
    let server = Server::start(&settings, parts(&settings, etcd.topo().await), Limits::default()).await.unwrap();

    let url = format!("https://localhost:{}", server.grpc.port());
    let trusting = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ours.0.pem())).domain_name("localhost");
    let with = |(cert, key): (String, String)| trusting.clone().identity(Identity::from_pem(cert, key));
    let endpoint = Endpoint::from_shared(url.replace("localhost", "127.0.0.1")).unwrap();
    assert_eq!(ask(endpoint.clone().tls_config(with(ours.sign("client")))).await, Ok(()));
    for stranger in [endpoint.clone().tls_config(trusting.clone()), endpoint.clone().tls_config(with(theirs.sign("client")))] {
        assert!(ask(stranger).await.is_err());
    }
    assert!(ask(Ok(Endpoint::from_shared(format!("http://{}", server.grpc)).unwrap())).await.is_err(), "no TLS at all");
}

#[tokio::test]
async fn a_key_that_is_not_the_certificates_is_found_before_anything_listens() {
    let etcd = Etcd::start().await;
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let flags = [
        format!("--grpc-cert={}", write(folder.path(), "cert", &authority.sign("localhost").0)),
        format!("--grpc-key={}", write(folder.path(), "key", &authority.sign("localhost").1)),
    ];
    let settings = settings(&etcd, &flags.each_ref().map(String::as_str));
    let started = Server::start(&settings, parts(&settings, etcd.topo().await), Limits::default()).await;
    let error = started.err().expect("the key is another certificate's").to_string();
    assert!(error.contains("--grpc-cert"), "{error}");
}
