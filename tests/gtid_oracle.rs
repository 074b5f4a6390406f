//! Our GTID sets beside those of a real MySQL server: the same questions, the same answers.
#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]

use std::process::Stdio;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStderr, Command};
use tokio::time::timeout;
use vtelector::mysql::GtidSet;

/// For one statement, or for one step of starting the server on a busy machine.
const STEP_LIMIT: Duration = Duration::from_secs(60);
const ROUNDS: usize = 400;
const SEED: u64 = 20_260_309;

const U: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
const V: &str = "aaaaaaaa-0000-0000-0000-000000000001";

/// A mysqld of our own with an empty data directory, reachable only through a socket in it; it ends with this value.
struct Mysqld {
    process: std::process::Child,
    /// Held open as long as it runs, because a server that cannot write its log would fail.
    log: Lines<BufReader<ChildStderr>>,
    dir: tempfile::TempDir,
}

impl Mysqld {
    async fn start() -> Mysqld {
        let dir = tempfile::Builder::new().prefix("gtid-oracle").tempdir().expect("temporary directory");
        let init = mysqld(&dir).arg("--initialize-insecure").output();
        let init =
            timeout(STEP_LIMIT, init).await.expect("mysqld --initialize-insecure takes too long").unwrap_or_else(|error| {
                panic!(
                    "cannot run `mysqld`: {error}. This test needs the mysqld of MySQL 8.3 or newer on PATH; MariaDB will not do."
                )
            });
        assert!(init.status.success(), "mysqld --initialize-insecure: {}", String::from_utf8_lossy(&init.stderr));

        let mut process = mysqld(&dir)
            .args(["--skip-networking", "--mysqlx=OFF", "--secure-file-priv=NULL", "--innodb-buffer-pool-size=8M"])
            .arg(format!("--socket={}", dir.path().join("sock").display()))
            .arg(format!("--pid-file={}", dir.path().join("pid").display()))
            .as_std_mut()
            .spawn()
            .expect("mysqld ran a moment ago");
        let log = process.stderr.take().expect("stderr is piped");
        let log = BufReader::new(ChildStderr::from_std(log).expect("a pipe")).lines();
        // From here on it is ended with this value, also when it never gets ready.
        let mut mysqld = Mysqld { process, log, dir };
        timeout(STEP_LIMIT, mysqld.ready()).await.expect("mysqld is not ready for connections in time");
        mysqld
    }

    async fn ready(&mut self) {
        let mut seen = String::new();
        while let Some(line) = self.log.next_line().await.expect("log of mysqld") {
            if line.contains("ready for connections") {
                return;
            }
            seen += &line;
            seen.push('\n');
        }
        panic!("mysqld ended instead of starting:\n{seen}");
    }

    async fn connect(&self) -> Server {
        let options = OptsBuilder::default().socket(Some(self.dir.path().join("sock").display().to_string())).user(Some("root"));
        Server(timeout(STEP_LIMIT, Conn::new(options)).await.expect("connection in time").expect("connection"))
    }
}

impl Drop for Mysqld {
    fn drop(&mut self) {
        // By its pid, and not gently: nothing of the data is wanted. Waited for, so that it is gone before its directory goes.
        // Both fail only if it had ended by itself, which the test would have noticed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The command line that initialization and start have in common.
fn mysqld(dir: &tempfile::TempDir) -> Command {
    use std::os::unix::fs::MetadataExt;
    let mut command = Command::new("mysqld");
    command.arg("--no-defaults").arg(format!("--datadir={}", dir.path().join("data").display()));
    // Root, whom the directory then belongs to, must be named, or mysqld refuses to run.
    if dir.path().metadata().is_ok_and(|metadata| metadata.uid() == 0) {
        command.arg("--user=root");
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What MySQL says.
struct Server(Conn);

impl Server {
    /// The one value of an expression over texts, or nothing where MySQL finds a text malformed.
    async fn ask<T: mysql_async::prelude::FromValue + Send + 'static>(&mut self, expression: &str, texts: &[&str]) -> Option<T> {
        const MALFORMED: u16 = 1772;
        let ask = self.0.exec_first(format!("SELECT {expression}"), texts.to_vec());
        match timeout(STEP_LIMIT, ask).await.expect("answer in time") {
            Ok(answer) => Some(answer.expect("one row")),
            Err(mysql_async::Error::Server(error)) if error.code == MALFORMED => None,
            Err(error) => panic!("{expression} {texts:?}: {error}"),
        }
    }

    /// The text as MySQL has it, without the newlines between its items.
    async fn canonical(&mut self, text: &str) -> Option<String> {
        self.ask::<String>("GTID_SUBTRACT(?, '')", &[text]).await.map(|text| text.replace('\n', ""))
    }

    async fn subtract(&mut self, a: &str, b: &str) -> String {
        self.ask::<String>("GTID_SUBTRACT(?, ?)", &[a, b]).await.expect("well-formed sets").replace('\n', "")
    }
}

fn spelled(text: &str) -> String {
    text.replace('U', U).replace('V', V)
}

fn read(text: &str) -> GtidSet {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// A text as sloppy as MySQL still accepts, over few servers, tags and numbers, so that two of them overlap.
fn random_text(random: &mut StdRng) -> String {
    let pick = |random: &mut StdRng, from: &[&'static str]| from[random.random_range(0..from.len())];
    let mut items = Vec::new();
    for _ in 0..random.random_range(0..9) {
        let mut item = format!("{}000000-000{}-11e1-9e33-c80aa9429562", pick(random, &["aA", "0b"]), random.random_range(0..3));
        let mut tagged = false;
        for _ in 0..random.random_range(1..6) {
            if random.random_bool(0.25) {
                item += pick(random, &[":a", ":B_", ": a0"]);
                tagged = true;
            }
            // Or so that the highest last number below is the highest that MySQL takes, 2^63 - 2.
            let base = if random.random_bool(0.1) { (1 << 63) - 42 } else { 1 };
            let first: u64 = base + random.random_range(0..30);
            item += &match random.random_range(0..3) {
                0 => format!(":{first}"),
                1 => format!(":{first}-{}", first + random.random_range(0..12)),
                _ => format!(" : {first} - {}", (first + random.random_range(0..12)).saturating_sub(2)),
            };
        }
        items.push(if tagged && random.random_bool(0.2) { item.to_uppercase() } else { item });
    }
    items.join(pick(random, &[",", ", ", ",\n", ",,"]))
}

async fn compare(server: &mut Server, a: &str, b: &str) {
    let (x, y) = (read(a), read(b));
    let story = format!("a = {a:?}\nb = {b:?}");
    let rest = server.subtract(a, b).await;
    assert_eq!(x.to_string(), server.canonical(a).await.expect("well-formed"), "reading\n{story}");
    assert_eq!(x.subtract(&y).to_string(), rest, "a without b\n{story}");
    assert_eq!(x.union(&y).to_string(), server.subtract(&format!("{a},{b}"), "").await, "a or b\n{story}");
    assert_eq!(x.intersect(&y).to_string(), server.subtract(a, &rest).await, "a and b\n{story}");
    let subset = server.ask::<bool>("GTID_SUBSET(?, ?)", &[a, b]).await.expect("well-formed");
    assert_eq!(y.contains(&x), subset, "a within b\n{story}");
    assert!(server.ask::<bool>("GTID_SUBSET(?, ?)", &[&rest, a]).await.expect("well-formed") && x.contains(&read(&rest)));
}

/// Texts on which MySQL and we must agree, whether they are read or refused.
const AGREED: &[&str] = &[
    "",
    " ",
    "\n",
    ",",
    ",,",
    "U:1",
    "U:5-3",
    "U:5-0",
    "U:5-3,V:2",
    "U:1-5:6-9",
    "U:7:1",
    "U:1,U:2",
    " U : 1 - 5 : 7 , ,\nV:1 ",
    "\u{b}U:1",
    "U:1\n-\n5",
    "U:000001-0005",
    "U:9223372036854775806",
    "U:tag:1",
    "U:TAG:1-3",
    "U:1:tag",
    "U:tag:5-3",
    "U:tag:tag2:1",
    "U:1:b:1:aaaa:2:b:3",
    "U: tag : 1",
    "U:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:1",
    "U:a_:1:a:1:ab:1:_:1:a0:1",
    "V:1,U:1",
    "U:1,,",
    ",U:1",
    "U:1::3",
    "U::1",
    ":1",
    "U:0",
    "U:0-3",
    "U:-3",
    "U:3-",
    "U:+1",
    "U:1.5",
    "U:1-5-7",
    "U:1 2",
    "U:1;",
    "U:9223372036854775808",
    "U:1-9223372036854775808",
    "U:99999999999999999999999",
    "U:9x:1",
    "U:a-b:1",
    "U:ta g:1",
    "U:é:1",
    "U:1\0",
    "U:tag::1",
    "U:tag:1:2,3",
    "U:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:1",
    "U1:1",
    "Ux:1",
    "hello",
];

/// Texts on which we differ on purpose: what we make of it, what MySQL makes of it (nothing: refused), and why.
const DIFFERENT: &[(&str, Option<&str>, Option<&str>, &str)] = &[
    ("U", None, Some(""), "a UUID alone is more likely a mistake than an empty set; Vitess refuses it too"),
    ("U:", Some(""), None, "Vitess reads it"),
    ("U:1-5:", Some("U:1-5"), None, "Vitess reads it"),
    ("U:9223372036854775807", Some("U:9223372036854775807"), None, "Vitess reads it; MySQL stops one earlier"),
    ("3e11fa4771ca11e19e33c80aa9429562:1", None, Some("U:1"), "no server prints it; Vitess refuses it too"),
    ("{U}:1", None, Some("U:1"), "no server prints it; Vitess refuses it too"),
];

#[tokio::test]
async fn gtid_sets_are_what_a_real_server_makes_of_them() {
    let mysqld = Mysqld::start().await;
    let mut server = mysqld.connect().await;
    let version: String = server.ask("VERSION()", &[]).await.expect("a version");
    let numbers: Vec<u32> = version.split('.').map_while(|number| number.parse().ok()).collect();
    assert!(numbers >= vec![8, 3], "MySQL {version} knows no tags: this test needs 8.3 or newer");

    for text in AGREED {
        let text = spelled(text);
        let ours = text.parse::<GtidSet>().ok().map(|set| set.to_string());
        assert_eq!(ours, server.canonical(&text).await, "{text:?}");
    }
    for (text, ours, theirs, why) in DIFFERENT {
        let text = spelled(text);
        let read = text.parse::<GtidSet>().ok().map(|set| set.to_string());
        assert_eq!(read, ours.map(spelled), "{text:?}: {why}");
        assert_eq!(server.canonical(&text).await, theirs.map(spelled), "{text:?}: {why}");
    }

    let mut random = StdRng::seed_from_u64(SEED);
    let mut overlapping = 0;
    for _ in 0..ROUNDS {
        let (a, b) = (random_text(&mut random), random_text(&mut random));
        compare(&mut server, &a, &b).await;
        overlapping += usize::from(!read(&a).intersect(&read(&b)).is_empty());
        // Random sets rarely contain each other; these do.
        compare(&mut server, &a, &format!("{b},{a}")).await;
    }
    assert!(overlapping > ROUNDS / 4, "only {overlapping} of {ROUNDS} pairs had anything in common: they prove little");
}
