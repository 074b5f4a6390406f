//! What is no page: wrong addresses, methods, forms and callers get the right status and a sentence.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::world::{Answer, World};

fn headers(answer: &Answer) {
    let policy = answer.header("content-security-policy");
    for wanted in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "form-action 'self'"]
    {
        assert!(policy.contains(wanted), "{policy}");
    }
    assert!(!policy.contains("unsafe"));
    assert_eq!((answer.header("x-content-type-options"), answer.header("cache-control")), ("nosniff", "no-store"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_get_the_right_status_and_a_way_back() {
    let world = World::start(2).await;
    for (path, status, words) in [
        ("/shards/fleet/s99999", 404, "All shards"),
        ("/shards/nowhere/0", 404, "All shards"),
        ("/shards/fl%20eet/s00001", 400, "use 1 to 64 letters"),
        ("/shards/fleet/%FF", 400, ""),
        ("/nothing", 404, "is no page of this elector"),
        ("/?problems=perhaps", 400, "neither 1 nor 0"),
        ("/live?problems=perhaps", 400, "neither 1 nor 0"),
        ("/?said=x", 400, "said"),
        ("/shards/fleet/s00001/reparent?new_primary=nobody", 400, "CELL-UID"),
        ("/shards/fleet/s00001/reparent?new_primary=zone1-100&mode=gently", 400, "neither graceful nor abrupt"),
        ("/page/0000000000000000.js", 404, "reload the page"),
        ("/", 200, "All 2 shards are well"),
        ("/?keyspace=nowhere", 200, "0 shown by the filter"),
    ] {
        let answer = world.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert!(answer.body.contains(words), "{path}: {words:?} is not in {}", answer.body);
    }
    headers(&world.get("/").await);
    headers(&world.get("/nothing").await);
    let long = format!("/?text={}", "x".repeat(201));
    assert_eq!(world.get(&long).await.status, 400);

    let head = world.ask("HEAD / HTTP/1.1", "", "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(world.ask("DELETE / HTTP/1.1", "", "").await.status, 405);
    assert_eq!(world.ask("GET /maintenance/end HTTP/1.1", "", "").await.status, 405);
    let program = world.ask("GET /nothing HTTP/1.1", "Accept: application/json\r\n", "").await;
    assert_eq!((program.status, program.header("content-type")), (404, "text/plain; charset=utf-8"));

    let page = world.get("/").await.body;
    let style = page.split('"').find(|word| word.starts_with("/page/") && word.ends_with(".css")).unwrap();
    let style = world.get(style).await;
    assert_eq!((style.status, style.header("content-type")), (200, "text/css; charset=utf-8"));
    assert!(style.header("cache-control").contains("immutable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_commands_change_nothing() {
    let world = World::start(2).await;
    for (path, form, status, words) in [
        ("/maintenance", "scope=fleet&reason=x&lasting=1h&who=anna", 400, "scope"),
        ("/maintenance", "scope=shard:fleet/s99999&reason=x&lasting=1h&who=anna", 404, "s99999"),
        ("/maintenance", "scope=shard:fleet/s00001&reason=x&lasting=soon&who=anna", 400, "for how long"),
        ("/maintenance", "scope=shard:fleet/s00001&reason=&lasting=1h&who=anna", 400, "reason is required"),
        ("/maintenance", "", 400, "for how long"),
        ("/maintenance/end", "id=../x", 400, "no identity"),
        ("/recoveries", "enabled=false&who=anna", 400, "why"),
        ("/recoveries", "enabled=maybe&who=anna&why=x", 400, "neither true nor false"),
        ("/shards/fleet/s00000/acknowledge", "who=", 400, "who is required"),
        ("/shards/fleet/s00000/reparent", "", 400, "new_primary is required"),
        ("/shards/fleet/s00000/reparent", "new_primary=zone1-102&expected_primary=zone1-101", 409, "zone1-0000000100"),
        ("/shards/fleet/s00000/reparent", "new_primary=zone1-999", 404, "zone1-0000000999"),
    ] {
        let answer = world.post(path, form).await;
        assert!(answer.status == status && answer.body.contains(words), "{path} {form}: {} {}", answer.status, answer.body);
    }
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let good = "enabled=false&who=anna&why=x";
    let elsewhere = format!("{form}Sec-Fetch-Site: cross-site\r\n");
    assert_eq!(world.ask("POST /recoveries HTTP/1.1", &elsewhere, good).await.status, 403);
    let proxied = format!("{form}X-Forwarded-For: 192.0.2.1\r\n");
    let refused = world.ask("POST /recoveries HTTP/1.1", &proxied, good).await;
    assert!(refused.status == 403 && refused.body.contains("only from the machine"), "{}", refused.body);
    let shown = world.ask("GET /recoveries HTTP/1.1", "X-Forwarded-For: 192.0.2.1\r\n", "").await;
    assert!(shown.status == 200 && !shown.body.contains("<form"), "a reader is shown no button");
    let forms = world.ask("GET /shards/fleet/s00000/acknowledge HTTP/1.1", "X-Forwarded-For: 192.0.2.1\r\n", "").await;
    assert_eq!(forms.status, 403);
    let preview = "GET /shards/fleet/s00000/reparent?new_primary=zone1-102 HTTP/1.1";
    for (headers, is_offered) in [("", true), ("X-Forwarded-For: 192.0.2.1\r\n", false)] {
        let shown = world.ask(preview, headers, "").await.body;
        assert!(shown.contains("would become primary") && shown.contains("Choose again"), "{shown}");
        assert_eq!(
            (shown.contains("method=\"post\""), shown.contains("An operator can do it")),
            (is_offered, !is_offered),
            "{shown}"
        );
    }
    assert_eq!(world.ask("POST /recoveries HTTP/1.1", "Content-Type: text/plain\r\n", good).await.status, 400);
    let big = format!("enabled=false&who=anna&why={}", "x".repeat(64 << 10));
    assert_eq!(world.post("/recoveries", &big).await.status, 413);
    world.until("/", "All 2 shards are well").await;
    assert!(!world.get("/").await.body.contains("switched off"));
    assert_eq!(world.fleet.shard(0).primary(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_too_many_is_told_to_reload_and_all_end_with_the_server() {
    let world = World::start(1).await;
    let mut streams = Vec::new();
    let follow = async || {
        let mut stream = TcpStream::connect(world.server.http).await.unwrap();
        stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        (stream, String::from_utf8_lossy(&head).into_owned())
    };
    for _ in 0..128 {
        let (stream, head) = follow().await;
        assert_eq!(head, "HTTP/1.1 200");
        streams.push(stream);
    }
    assert_eq!(follow().await.1, "HTTP/1.1 503");
    let page = world.get("/").await;
    assert_eq!(page.status, 200, "they hold up nobody else: {}", page.body);
    let World { server, .. } = world;
    server.stop(std::time::Duration::from_secs(5)).await;
    for mut stream in streams {
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
}
