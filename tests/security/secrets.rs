//! No secret is in a log, an error, a metric or an answer: a canary goes through everything.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
    time::timeout,
};

use crate::{
    etcd::Etcd,
    house::{SOON, basic, send},
};

const CANARY: &str = "c4n4ry-0f-th3-t3st";

fn vtelector(etcd: &Etcd, folder: &std::path::Path, flags: &str) -> Command {
    let flags = flags.replace('@', &format!("{}/", folder.display()));
    let line = format!(
        "serve --topo-global-server-address {} --topo-global-root /vitess/global --port 0 --grpc-port 0 --bind-address 127.0.0.1 \
         --grpc-bind-address 127.0.0.1 --allow-recovery=false --log-level debug {flags}",
        etcd.address
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_vtelector"));
    command.args(line.split_whitespace()).env("VTELECTOR_MYSQL_PASSWORD", CANARY).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[tokio::test]
async fn a_canary_is_nowhere_to_be_seen() {
    let (etcd, folder) = (Etcd::start().await, tempfile::tempdir().unwrap());
    for (name, content) in [
        ("users", format!(r#"[{{"Username": "anna", "Password": "{CANARY}"}}]"#)),
        ("tokens", format!(r#"[{{"Name": "robot", "Token": "{CANARY}", "Role": "operator"}}]"#)),
        ("creds", format!(r#"{{"Username": "anna", "Password": "{CANARY}"}}"#)),
        ("role", format!(r#"[{{"Username": "anna", "Password": "x", "Role": "{CANARY}"}}]"#)),
        ("json", format!(r#"["{CANARY}"]"#)),
        ("text", CANARY.to_owned()),
    ] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    // Files that cannot be used: what is said of them quotes nothing.
    for flags in [
        "--grpc-auth-mode=static --grpc-auth-static-password-file=@role",
        "--grpc-auth-mode=static --grpc-auth-static-password-file=@json",
        "--grpc-auth-mode=static --grpc-auth-static-password-file=@text",
        "--auth-token-file=@json",
        "--auth-token-file=@users",
        "--grpc-auth-static-client-creds=@json",
        "--grpc-cert=@text --grpc-key=@text",
        "--http-cert=@text --http-key=@text",
        "--topo-etcd-tls-ca=@text",
    ] {
        let output = timeout(SOON, vtelector(&etcd, folder.path(), flags).output()).await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(!output.status.success() && said.contains("--"), "{flags}: {said}");
        assert!(!said.contains(CANARY), "{flags}: {said}");
    }

    let flags = "--grpc-auth-mode=static --grpc-auth-static-password-file=@users --auth-token-file=@tokens \
        --grpc-auth-static-client-creds=@creds --mysql-user fencer";
    let mut process = vtelector(&etcd, folder.path(), flags).spawn().unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap());
    let (mut seen, mut http) = (String::new(), None);
    while http.is_none() {
        let mut line = String::new();
        assert_ne!(timeout(SOON, log.read_line(&mut line)).await.unwrap().unwrap(), 0, "it ended: {seen}");
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        if event["message"] == "serving" {
            http = event["http"].as_str().map(|address| address.parse().unwrap());
        }
        seen.push_str(&line);
    }
    let http = http.unwrap();
    let proofs =
        [basic("anna", CANARY), format!("Authorization: Bearer {CANARY}\r\n"), basic(CANARY, "wrong"), basic("anna", "wrong")];
    let get = async |path: &str, proof: &str| {
        let answer = send(http, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{proof}\r\n")).await;
        assert!(!answer.head.contains(CANARY) && !answer.body.contains(CANARY), "{path}: {answer:?}");
        answer
    };
    let document = get("/api/v1/openapi.json", &proofs[0]).await;
    let document: serde_json::Value = serde_json::from_str(document.body.trim()).expect("the document of the API");
    // A stream would have no end.
    let asked = |path: &String| path.replace(['{', '}'], "").replace("/events", "/events?after_sequence=never");
    let mut paths: Vec<String> = document["paths"].as_object().unwrap().keys().map(asked).collect();
    assert!(paths.len() > 5, "{paths:?}");
    let more = ["/", "/metrics", "/livez", "/readyz", "/debug/health", "/debug/vars", "/api/config", "/api/problems", "/nowhere"];
    paths.extend(more.map(str::to_owned));
    for path in &paths {
        for proof in &proofs {
            get(path, proof).await;
        }
    }
    let pid = process.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    timeout(SOON, log.read_to_string(&mut seen)).await.unwrap().unwrap();
    assert!(seen.contains("stopping") && !seen.contains(CANARY), "{seen}");
}
