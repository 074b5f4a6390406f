//! Static users and bearer tokens, at each face; and what is recorded of their commands.

use tokio::process::Command;
use tonic::{Code, Request, Status, metadata::MetadataMap};
use vtelector::{
    pb::{
        vtctldata::{EmergencyReparentShardRequest, GetKeyspacesRequest, SetVtorcEmergencyReparentRequest},
        vtctlservice::vtctld_client::VtctldClient,
        vtelector::{CommandsRequest, ExplainRequest, PlannedReparentRequest, elector_client::ElectorClient},
    },
    sandbox::eventually,
    topo::Kv,
};

use crate::house::{House, SOON, basic};

const USERS: &str = r#"[{"Username": "anna", "Password": "a1"}, {"Username": "bert", "Password": "b1", "Role": "reader"}]"#;
const TOKENS: &str = r#"[{"Name": "ci", "Token": "t1", "Role": "reader"}, {"Name": "robot", "Token": "t2", "Role": "operator"}]"#;
const FLAGS: &str = "--grpc-auth-mode=static --grpc-auth-static-password-file=@users --auth-token-file=@tokens \
    --grpc-auth-static-client-creds=@creds";

/// A house of two users and two tokens, an operator and a reader each.
pub async fn house_of_users() -> House {
    let creds = r#"{"Username": "anna", "Password": "a1"}"#;
    House::start(&[("users", USERS), ("tokens", TOKENS), ("creds", creds)], FLAGS).await
}

fn with<T>(request: T, pairs: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(request);
    let metadata: &mut MetadataMap = request.metadata_mut();
    for (key, value) in pairs {
        metadata.insert(*key, value.parse().unwrap());
    }
    request
}

const ANNA: [(&str, &str); 2] = [("username", "anna"), ("password", "a1")];
const BERT: [(&str, &str); 2] = [("username", "bert"), ("password", "b1")];

#[tokio::test]
async fn on_grpc_a_proof_is_demanded_and_a_role_holds() {
    let house = house_of_users().await;
    let mut client = VtctldClient::new(house.plain());
    let mut ask =
        async |pairs: &[(&'static str, &str)]| client.get_keyspaces(with(GetKeyspacesRequest {}, pairs)).await.map(drop);
    for pairs in [&ANNA[..], &BERT, &[("authorization", "Bearer t1")], &[("authorization", "Bearer t2")]] {
        ask(pairs).await.unwrap();
    }
    let unknown = "the user is not known, or has another password";
    for (pairs, words) in [
        (&[][..], "nobody comes in here without a proof"),
        (&[("username", "carl"), ("password", "a1")], unknown),
        (&[("username", "anna"), ("password", "b1")], unknown),
        (&[("username", "anna")], unknown),
        (&[("authorization", "Bearer t3")], "the bearer token is not known"),
        (&[("authorization", "Basic Og==")], unknown),
        (&[("authorization", "Negotiate abc")], "nobody comes in here without a proof"),
    ] {
        let refused: Status = ask(pairs).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{pairs:?}");
        let said = refused.message();
        assert!(said.contains(words) && said.contains("give a user and password, or a bearer token"), "{said}");
        assert!(!said.contains("t3") && !said.contains("b1"), "{said}");
    }
    let mut client = VtctldClient::new(house.plain());
    let request = EmergencyReparentShardRequest { keyspace: "commerce".to_owned(), shard: "0".to_owned(), ..Default::default() };
    let refused = client.emergency_reparent_shard(with(request, &BERT)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("EmergencyReparentShard needs the role operator"), "{refused}");

    // A preview changes nothing: readers may have it, and the real thing not.
    let mut elector = ElectorClient::new(house.plain());
    let request = vtelector::pb::vtctldata::PlannedReparentShardRequest {
        keyspace: "commerce".to_owned(),
        shard: "0".to_owned(),
        ..Default::default()
    };
    let asked = |dry_run| PlannedReparentRequest { request: Some(request.clone()), dry_run, ..Default::default() };
    let answer = elector.planned_reparent(with(asked(true), &BERT)).await;
    assert_ne!(answer.err().map(|status| status.code()), Some(Code::PermissionDenied));
    let refused = elector.planned_reparent(with(asked(false), &BERT)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let mut health = tonic_health::pb::health_client::HealthClient::new(house.plain());
    health.check(tonic_health::pb::HealthCheckRequest::default()).await.expect("health is for everybody");
    let page = house.metrics(&basic("bert", "b1")).await;
    assert!(page.contains(r#"vtelector_denied_total{face="grpc",reason="unproven"} 7"#), "{page}");
    assert!(page.contains(r#"vtelector_denied_total{face="grpc",reason="forbidden"} 1"#), "{page}");
}

#[tokio::test]
async fn on_http_the_same_people_come_in_and_a_browser_is_asked_for_a_password() {
    let house = house_of_users().await;
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    for headers in [basic("anna", "a1"), basic("bert", "b1"), bearer("t1"), bearer("t2")] {
        house.get("/api/v1/status", &headers).await.says(200, "version");
    }
    for headers in
        [String::new(), basic("anna", "b1"), basic("carl", "a1"), bearer("t3"), "username: anna\r\npassword: a1\r\n".to_owned()]
    {
        for path in ["/", "/metrics", "/api/v1/status", "/api/problems", "/nowhere"] {
            let refused = house.get(path, &headers).await;
            refused.says(401, "give a user and password, or a bearer token");
            assert!(refused.head.contains("www-authenticate: basic realm=\"vtelector\""), "{refused:?}");
        }
    }
    for path in ["/livez", "/healthz", "/debug/liveness"] {
        house.get(path, "").await.says(200, "");
    }
    for path in ["/readyz", "/debug/health"] {
        assert_ne!(house.get(path, "").await.status, 401, "{path}");
    }
    let body = r#"{"enabled": false, "who": "somebody else", "why": "a drill"}"#;
    house.post("/api/v1/recoveries", &basic("bert", "b1"), body).await.says(403, "needs the role operator");
    house.post("/api/v1/recoveries", &bearer("t1"), body).await.says(403, "needs the role operator");
    house.post("/api/v1/recoveries", &basic("anna", "a1"), body).await.says(200, "");

    // A dry run changes nothing: readers may have it, and the real thing not, as on gRPC.
    for kind in ["planned", "emergency"] {
        let path = format!("/api/v1/reparents/{kind}");
        let body = |dry_run| format!(r#"{{"request": {{"keyspace": "commerce", "shard": "0"}}, "dry_run": {dry_run}}}"#);
        house.post(&path, &basic("bert", "b1"), &body(true)).await.says(200, r#""was_dry_run":true"#);
        house.post(&path, &basic("bert", "b1"), &body(false)).await.says(403, "that is no dry run needs the role operator");
        house.post(&path, "", &body(true)).await.says(401, "give a user and password");
    }
    let cross_site = format!("{}Sec-Fetch-Site: cross-site\r\n", basic("anna", "a1"));
    house.post("/api/v1/recoveries", &cross_site, body).await.says(403, "pages of other sites");
    house.get("/api/v1/status", &bearer("t1")).await.says(200, "\"anna\"");
}

#[tokio::test]
async fn every_command_is_recorded_with_who_asked_whatever_came_of_it() {
    let house = house_of_users().await;
    let mut vtctld = VtctldClient::new(house.plain());
    let request = SetVtorcEmergencyReparentRequest { keyspace: "commerce".to_owned(), shard: "0".to_owned(), disable: true };
    vtctld.set_vtorc_emergency_reparent(with(request, &ANNA)).await.unwrap();
    let request =
        EmergencyReparentShardRequest { keyspace: "commerce".to_owned(), shard: "80-".to_owned(), ..Default::default() };
    vtctld.emergency_reparent_shard(with(request, &[("authorization", "Bearer t2")])).await.unwrap_err();
    let body = r#"{"enabled": false, "who": "somebody else", "why": "a drill"}"#;
    house.post("/api/v1/recoveries", &basic("anna", "a1"), body).await.says(200, "");

    let mut elector = ElectorClient::new(house.plain());
    let listed = elector.commands(with(CommandsRequest::default(), &BERT)).await.unwrap().into_inner().commands;
    let short: Vec<_> = listed.iter().map(|c| (&*c.caller, &*c.proven_by, &*c.call, &*c.target, &*c.outcome)).collect();
    assert_eq!(
        short,
        [
            ("anna", "password", "SetRecoveries", "recoveries:off", "done"),
            ("robot", "token", "EmergencyReparentShard", "shard:commerce/80-", "refused"),
            ("anna", "password", "SetVtorcEmergencyReparent", "shard:commerce/0", "done"),
        ]
    );
    assert!(listed.iter().all(|command| command.from == "127.0.0.1" && command.at.is_some() && !command.elector.is_empty()));
    assert!(listed[1].failure.contains("80-"), "{:?}", listed[1]);
    let request = CommandsRequest { keyspace: "commerce".to_owned(), shard: "0".to_owned(), limit: 0 };
    assert_eq!(elector.commands(with(request, &BERT)).await.unwrap().into_inner().commands.len(), 1);

    // They stand in etcd, where every elector finds them, and under the shard.
    let written = async || {
        let keys = house.etcd.kv().list_keys("/vtelector/commands/").await.map_err(|error| error.to_string())?.entries.len();
        if keys == 3 { Ok(()) } else { Err(format!("{keys} keys")) }
    };
    eventually("three commands in etcd", SOON, written).await.unwrap();
    let explained = async || {
        let request = ExplainRequest { keyspace: "commerce".to_owned(), shard: "0".to_owned(), ..Default::default() };
        let answer = elector.explain(with(request, &BERT)).await.map_err(|status| status.to_string())?.into_inner();
        answer.commands.first().map(|command| command.call.clone()).ok_or("no command".to_owned())
    };
    let shown = eventually("the shard's commands", SOON, explained).await.unwrap();
    assert_eq!(shown, "SetVtorcEmergencyReparent");
}

#[tokio::test]
async fn the_command_line_says_who_calls() {
    let house = house_of_users().await;
    std::fs::write(house.file("token"), "t2\n").unwrap();
    let run = async |flags: &str| {
        let flags = flags.replace('@', &format!("{}/", house.folder.path().display()));
        let line = format!("get-keyspaces --server {} {flags}", house.server.grpc);
        let output = Command::new(env!("CARGO_BIN_EXE_vtelector")).args(line.split_whitespace()).output().await.unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    for flags in ["--grpc-auth-static-client-creds @creds", "--token-file @token"] {
        let (code, said) = run(flags).await;
        assert!(code == Some(0) && said.contains("commerce"), "{said}");
    }
    let (code, said) = run("").await;
    assert!(code == Some(1) && said.contains("nobody comes in here without a proof"), "{said}");
    let (code, said) = run("--grpc-auth-static-client-creds @users").await;
    assert!(code == Some(2) && said.contains("Username") && !said.contains(r#""a1""#), "{said}");
}
