//! Without any lock: questions from everywhere, commands over HTTP from this machine alone, under its own name and from its own page.

use vtelector::pb::{vtctldata::GetKeyspacesRequest, vtctlservice::vtctld_client::VtctldClient};

use crate::house::House;

const BODY: &str = r#"{"enabled": true, "who": "anna"}"#;
const PATH: &str = "/api/v1/recoveries";

#[tokio::test]
async fn a_command_comes_from_this_machine_or_not_at_all() {
    let house = House::start(&[], "").await;
    let port = house.server.http.port();
    for headers in [
        String::new(),
        format!("Host: 127.0.0.1:{port}\r\n"),
        format!("Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\n"),
        "Sec-Fetch-Site: same-origin\r\n".to_owned(),
    ] {
        house.post(PATH, &headers, BODY).await.says(200, "");
    }
    let elsewhere = "taken only from the machine that this vtelector runs on";
    for headers in [
        "Host: evil.example\r\n",
        "Host: localhost.evil.example\r\n",
        "Host: 10.0.0.7\r\n",
        "X-Forwarded-For: 10.0.0.7\r\n",
        "Forwarded: for=10.0.0.7\r\n",
        "Via: 1.1 proxy\r\n",
    ] {
        house.post(PATH, headers, BODY).await.says(403, elsewhere);
        house.get("/api/v1/status", if headers.starts_with("Host") { "" } else { headers }).await.says(200, "version");
        let planned = |dry_run| format!(r#"{{"request": {{"keyspace": "commerce", "shard": "0"}}, "dry_run": {dry_run}}}"#);
        house.post("/api/v1/reparents/planned", headers, &planned(true)).await.says(200, "was_dry_run");
        house.post("/api/v1/reparents/planned", headers, &planned(false)).await.says(403, elsewhere);
    }
    for headers in
        ["Sec-Fetch-Site: cross-site\r\n", "Sec-Fetch-Site: same-site\r\n", "Origin: http://evil.example\r\n", "Origin: null\r\n"]
    {
        house.post(PATH, headers, BODY).await.says(403, "pages of other sites");
        // VTOrc's commands are questions by their method.
        house.get("/api/enable-global-recoveries", headers).await.says(403, "pages of other sites");
    }
    house.get("/api/enable-global-recoveries", "X-Forwarded-For: 10.0.0.7\r\n").await.says(403, elsewhere);
    house.get("/api/enable-global-recoveries", "").await.says(200, "");

    VtctldClient::new(house.plain()).get_keyspaces(GetKeyspacesRequest {}).await.expect("gRPC is as Vitess serves it");
    let page = house.metrics("").await;
    for face in ["grpc", "http"] {
        assert!(page.contains(&format!("vtelector_unprotected{{face=\"{face}\"}} 1")), "{page}");
    }
}
