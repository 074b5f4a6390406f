//! What happened, in order, with the world's own time: faults, calls, and what the shipped code logs.

use std::{
    fmt,
    io::{self, Write},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::{MakeWriter, format::Writer, time::FormatTime};

/// Lines that are kept: a run that says more is in a loop.
const LINES_MAX: usize = 200_000;

pub struct Diary {
    pub began: SystemTime,
    start: Instant,
    lines: Mutex<Vec<String>>,
    who: &'static str,
}

#[derive(Clone)]
struct Page(Arc<Diary>);

impl Diary {
    pub fn new(ago: Duration) -> Arc<Self> {
        Arc::new(Self { began: SystemTime::now() - ago, start: Instant::now(), lines: Mutex::default(), who: "--" })
    }

    /// Also writes down what the code under test logs in this thread.
    pub fn listen(self: &Arc<Self>) -> DefaultGuard {
        let page = Page(self.clone());
        let lines = tracing_subscriber::fmt().with_ansi(false).with_target(false).with_timer(page.clone()).with_writer(page);
        tracing::subscriber::set_default(lines.with_max_level(tracing::Level::INFO).finish())
    }

    pub fn note(&self, text: &str) {
        let line = format!("{:>9.3}  {} {text}", self.start.elapsed().as_secs_f64(), self.who);
        let mut lines = self.lines.lock().unwrap();
        if lines.len() < LINES_MAX {
            lines.push(line);
        }
    }

    pub fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }
}

impl FormatTime for Page {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{:>9.3} ", self.0.start.elapsed().as_secs_f64())
    }
}

impl<'a> MakeWriter<'a> for Page {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = self.0.lines.lock().unwrap();
        if lines.len() < LINES_MAX {
            lines.push(String::from_utf8_lossy(bytes).trim_end().to_owned());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
