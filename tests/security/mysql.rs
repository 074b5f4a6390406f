//! TLS towards a real mysqld: verified, with our certificate, and replaced while we run. Needs the `mysqld` program.

use std::{path::Path, time::Duration};

use tokio::time::Instant;
use vtelector::{
    mysql::{
        conn::{MysqlAddress, MysqlConn, MysqlError, MysqlSettings, Secret},
        tls::{MysqlTls, MysqlTlsFiles},
    },
    sandbox::{Mysqld, TempFolder, Tools, eventually},
    tls::ClientFiles,
};

use crate::house::{Authority, Pair, SOON};

fn write(folder: &Path, name: &str, (cert, key): Pair, authority: &Authority) {
    for (kind, pem) in [("cert", cert), ("key", key), ("ca", authority.pem())] {
        std::fs::write(folder.join(format!("{name}-{kind}.pem")), pem).unwrap();
    }
}

fn files(folder: &Path, ca: &str, own: Option<&str>) -> MysqlTls {
    let file = |name: &str, kind: &str| folder.join(format!("{name}-{kind}.pem"));
    let identity = own.map(|own| (file(own, "cert"), file(own, "key")));
    let files = ClientFiles { ca: Some(file(ca, "ca")), identity };
    MysqlTls::load(&MysqlTlsFiles { files, server_name: None }).unwrap()
}

#[tokio::test]
async fn a_server_that_cannot_prove_itself_is_not_entered_and_new_files_need_no_restart() {
    let tools = Tools::find(Some(&Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools"))).unwrap();
    let (folder, authority, strangers) = (TempFolder::new().unwrap(), Authority::new(), Authority::new());
    let place = folder.path();
    write(place, "server", authority.sign("server"), &authority);
    write(place, "ours", authority.sign("fencer"), &authority);
    write(place, "theirs", strangers.sign("fencer"), &strangers);
    let mut mysqld = Mysqld::start(&tools, &place.join("mysqld"), 1).await.unwrap();
    mysqld.ready().await.unwrap();
    let path = |kind: &str| place.join(format!("server-{kind}.pem")).display().to_string();
    for sql in [
        "SET GLOBAL super_read_only = OFF".to_owned(),
        "SET GLOBAL read_only = OFF".to_owned(),
        format!("SET GLOBAL ssl_ca = '{}'", path("ca")),
        format!("SET GLOBAL ssl_cert = '{}'", path("cert")),
        format!("SET GLOBAL ssl_key = '{}'", path("key")),
        "ALTER INSTANCE RELOAD TLS".to_owned(),
        "CREATE USER fencer@'%' IDENTIFIED BY 'secret' REQUIRE X509".to_owned(),
    ] {
        mysqld.execute(&sql).await.unwrap();
    }
    let settings = MysqlSettings {
        address: MysqlAddress::Tcp { host: "127.0.0.1".to_owned(), port: mysqld.port() },
        user: "fencer".to_owned(),
        password: Secret("secret".to_owned()),
        connect_timeout: SOON,
    };
    let login = async |tls: &MysqlTls| -> Result<(), MysqlError> {
        let mut conn = MysqlConn::connect_with_tls(&settings, tls, Instant::now() + SOON).await?;
        conn.exec("SELECT 1", Instant::now() + Duration::from_secs(5)).await
    };
    let ours = files(place, "ours", Some("ours"));
    login(&ours).await.unwrap();
    let refused = login(&files(place, "theirs", Some("ours"))).await.unwrap_err().to_string();
    assert!(refused.contains("invalid peer certificate"), "another authority's server: {refused}");
    let refused = login(&files(place, "ours", None)).await.unwrap_err().to_string();
    assert!(refused.contains("Access denied"), "no certificate of ours: {refused}");
    login(&files(place, "ours", Some("theirs"))).await.unwrap_err();

    // The server moves to the other authority, and we follow when our files do.
    write(place, "server", strangers.sign("server"), &strangers);
    mysqld.execute("ALTER INSTANCE RELOAD TLS").await.unwrap();
    login(&ours).await.unwrap_err();
    write(place, "ours", strangers.sign("fencer"), &strangers);
    eventually("a login with the new files", SOON, async || login(&ours).await).await.unwrap();
}
