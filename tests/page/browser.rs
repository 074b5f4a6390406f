//! A headless Chromium, driven over the pipe of its DevTools protocol: messages of JSON, each ended by a zero byte.

use std::{path::Path, process::Stdio, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};
use vtelector::sandbox::{TempFolder, eventually};

/// A browser that takes longer is stuck.
const LIMIT: Duration = Duration::from_secs(60);
/// How often the page is looked at while something is waited for.
const TICK: Duration = Duration::from_millis(100);
/// Screenshots are made and kept with this variable.
pub const SCREENSHOTS: &str = "SCREENSHOTS";
/// What every page is held against.
const CHECKS: &str = include_str!("checks.js");

/// A browser with one page.
pub struct Browser {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    next: u64,
    session: String,
    events: Vec<Value>,
    /// What it complained of.
    pub complaints: Vec<String>,
    // Ended when this is dropped, before its folder is removed.
    _process: Child,
    _profile: TempFolder,
}

impl Browser {
    pub async fn start() -> Self {
        let profile = TempFolder::new().unwrap();
        // The protocol is spoken on the descriptors 3 and 4.
        let line = "exec chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --hide-scrollbars \
                    --disable-background-networking --disable-extensions --disable-component-update --disable-sync \
                    --user-data-dir=\"$1\" --remote-debugging-pipe about:blank 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null";
        let mut process = Command::new("sh")
            .args(["-c", line, "sh"])
            .arg(profile.path())
            .env("HOME", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("chromium starts; deploy/tools/install fetches it");
        let (stdin, stdout) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        let mut browser = Self {
            stdin,
            stdout,
            next: 0,
            session: String::new(),
            events: Vec::new(),
            complaints: Vec::new(),
            _process: process,
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page.enable", "Runtime.enable", "Log.enable", "Network.enable"] {
            browser.call(domain, json!({})).await;
        }
        browser
    }

    /// Calls a method of the protocol.
    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.stdin.write_all(format!("{message}\0").as_bytes()).await.unwrap();
        loop {
            let message = self.read().await;
            if message["id"] == json!(self.next) {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
        }
    }

    /// The next message; events are kept.
    async fn read(&mut self) -> Value {
        let mut bytes = Vec::new();
        let read = timeout(LIMIT, self.stdout.read_until(0, &mut bytes)).await.expect("chromium answers in time").unwrap();
        assert!(read > 0, "chromium has ended: is it installed? deploy/tools/install fetches it");
        bytes.pop();
        let message: Value = serde_json::from_slice(&bytes).unwrap();
        match message["method"].as_str() {
            Some("Log.entryAdded") if message["params"]["entry"]["level"] == "error" => {
                self.complaints.push(message["params"]["entry"].to_string());
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(message["params"].to_string()),
            Some("Runtime.consoleAPICalled") => self.complaints.push(message["params"].to_string()),
            Some(_) => self.events.push(message.clone()),
            None => {}
        }
        message
    }

    /// Waits for an event since the last one that was waited for.
    async fn event(&mut self, method: &str) {
        let heard = async {
            loop {
                if let Some(at) = self.events.iter().position(|event| event["method"] == method) {
                    self.events.drain(..=at);
                    return;
                }
                self.read().await;
            }
        };
        timeout(LIMIT, heard).await.unwrap_or_else(|_| panic!("no {method} in time"));
    }

    /// Waits until another document has taken the place of the one before, and is loaded. Nothing can be asked of a page in between, and
    /// the one before may tell of its own loading late.
    async fn another_page(&mut self) {
        self.event("Page.frameNavigated").await;
        self.event("Page.loadEventFired").await;
    }

    /// Opens a page and waits until it is loaded.
    pub async fn open(&mut self, url: &str) {
        self.events.clear();
        self.call("Page.navigate", json!({"url": url})).await;
        self.another_page().await;
    }

    /// Does what leads to another page, and waits for that.
    pub async fn leave_by(&mut self, script: &str) {
        self.events.clear();
        self.eval(script).await;
        self.another_page().await;
    }

    /// Presses a key that leads to another page, and waits for that.
    pub async fn leave_by_key(&mut self, key: &str) {
        self.events.clear();
        self.press(key).await;
        self.another_page().await;
    }

    /// The value of an expression in the page.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", params).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// The words of the page, as a person sees them.
    pub async fn words(&mut self) -> String {
        self.eval("document.body?.innerText ?? ''").await.as_str().unwrap().to_owned()
    }

    /// Waits until the page shows these words.
    pub async fn until(&mut self, words: &str) {
        for _ in 0..600 {
            if self.words().await.contains(words) {
                return;
            }
            tokio::time::sleep(TICK).await;
        }
        panic!("{words:?} is not in {}", self.words().await);
    }

    /// Waits until an expression is true in the page.
    pub async fn until_true(&mut self, expression: &str) {
        for _ in 0..600 {
            if self.eval(expression).await == json!(true) {
                return;
            }
            tokio::time::sleep(TICK).await;
        }
        panic!("never true: {expression}; the page says {}", self.words().await);
    }

    pub async fn press(&mut self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            other => panic!("{other} is not known here"),
        };
        let text = if key == "Enter" { "\r" } else { "" };
        let down = json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
        self.call("Input.dispatchKeyEvent", down).await;
        self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code}))
            .await;
    }

    /// A window of that width, light or dark.
    pub async fn window(&mut self, width: u32, height: u32, dark: bool) {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", metrics).await;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}]});
        self.call("Emulation.setEmulatedMedia", media).await;
    }

    /// Holds the page against what every page has to be, at desktop and phone width, light and dark; keeps screenshots under that name,
    /// where there is one.
    pub async fn check(&mut self, name: &str) {
        for (width, height, dark) in [(1280, 900, true), (390, 844, false), (390, 844, true), (1280, 900, false)] {
            self.window(width, height, dark).await;
            let wrong = self.eval(CHECKS).await;
            assert_eq!(wrong, json!([]), "{name} at {width} px, dark: {dark}");
            if !name.is_empty() && dark == (width < 600) {
                self.keep(&format!("{name}-{}", if dark { "phone" } else { "desktop" })).await;
            }
        }
    }

    /// Keeps a screenshot below docs/, where that was asked for.
    pub async fn keep(&mut self, name: &str) {
        if std::env::var_os(SCREENSHOTS).is_none() {
            return;
        }
        let image = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        let bytes = BASE64_STANDARD.decode(image["data"].as_str().unwrap()).unwrap();
        assert!(bytes.len() < 200_000, "{name}: {} bytes", bytes.len());
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), bytes).unwrap();
    }

    /// It has complained of nothing: no error, no violation of the policy.
    pub fn no_complaints(&self) {
        assert_eq!(self.complaints, Vec::<String>::new());
    }

    /// Closes it and waits until all of its processes have let go of its folder.
    pub async fn close(mut self) {
        self.session.clear();
        self.next += 1;
        let close = json!({"id": self.next, "method": "Browser.close"});
        self.stdin.write_all(format!("{close}\0").as_bytes()).await.unwrap();
        let _ended = eventually("chromium's end", LIMIT, async || match self._process.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
}
