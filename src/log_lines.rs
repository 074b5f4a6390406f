//! Log lines go to standard error by a thread of their own: a full disk, or a reader that stands still, holds up nobody who logs.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that may wait for whoever takes them; of more, the new lines are lost and counted.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// At the end of the process, the last lines have so long.
const FAREWELL: Duration = Duration::from_secs(1);

/// A process has one log, which begins before anything else does.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Lines of this process that nobody took.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Where lines wait. Cheap to clone.
#[derive(Clone, Default)]
pub struct Lines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    /// Theirs, and those of the line that is being written.
    bytes: usize,
}

/// When it is dropped, the last lines are written, or lost where nobody takes them.
#[must_use = "the last lines are written when it is dropped"]
pub struct Farewell(Lines);

impl Lines {
    /// Lines that a thread of their own writes to `out`. Fails where no thread can be had.
    pub fn to(out: impl Write + Send + 'static) -> io::Result<(Self, Farewell)> {
        let lines = Self::default();
        let writer = lines.clone();
        // Nothing waits for its end: it may stand in a write that never returns.
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_to(out))?;
        Ok((lines.clone(), Farewell(lines)))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.bytes + line.len() > WAITING_BYTES_MAX {
            LOST.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line.to_vec());
        drop(waiting);
        self.0.changed.notify_all();
    }

    fn write_to(self, mut out: impl Write) {
        let mut said = lost();
        loop {
            let line = self.next();
            let written = out.write_all(&line).and_then(|()| out.flush());
            self.waiting().bytes -= line.len();
            self.0.changed.notify_all();
            match written {
                Err(_) => _ = LOST.fetch_add(1, Ordering::Relaxed),
                Ok(()) if lost() > said => {
                    tracing::warn!(
                        lines = lost() - said,
                        "log lines were lost: whoever takes standard error did not, or not fast enough"
                    );
                    said = lost();
                }
                Ok(()) => {}
            }
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut waiting = self.waiting();
        loop {
            if let Some(line) = waiting.lines.pop_front() {
                return line;
            }
            waiting = self.0.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let waiting = self.0.waiting();
        // Who takes nothing by then loses the rest with the process.
        let _ = self.0.0.changed.wait_timeout_while(waiting, FAREWELL, |waiting| waiting.bytes > 0);
    }
}

/// One line: the log's layer hands over each of them whole.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes a line when it is told to.
    struct Reluctant {
        goes_on: mpsc::Receiver<()>,
        taken: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Reluctant {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.goes_on.recv().map_err(io::Error::other)?;
            self.taken.send(line.to_vec()).map_err(io::Error::other)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_the_reader_and_what_is_too_much_is_counted() {
        let ((go, goes_on), (taken, lines_taken)) = (mpsc::channel(), mpsc::channel());
        let (mut lines, farewell) = Lines::to(Reluctant { goes_on, taken }).unwrap();
        let (large, before) = (vec![b'x'; WAITING_BYTES_MAX / 2], lost());
        lines.write_all(b"first\n").unwrap();
        lines.write_all(&large).unwrap();
        for _ in 0..3 {
            lines.write_all(&large).unwrap();
        }
        assert!(lost() >= before + 3, "{} of 3", lost() - before);
        for _ in 0..2 {
            go.send(()).unwrap();
        }
        assert_eq!(lines_taken.recv().unwrap(), b"first\n");
        assert_eq!(lines_taken.recv().unwrap(), large);
        // There is room again. Whoever ends waits for it, and not for ever.
        lines.write_all(b"last\n").unwrap();
        go.send(()).unwrap();
        drop(farewell);
        assert_eq!(lines_taken.try_recv().unwrap(), b"last\n");
        assert_eq!(lines.waiting().bytes, 0);
    }

    #[test]
    fn an_end_does_not_wait_for_ever() {
        let ((_go, goes_on), (taken, _lines_taken)) = (mpsc::channel(), mpsc::channel());
        let (mut lines, farewell) = Lines::to(Reluctant { goes_on, taken }).unwrap();
        lines.write_all(b"nobody takes it\n").unwrap();
        drop(farewell);
        assert!(lines.waiting().bytes > 0);
    }

    #[test]
    fn a_disk_that_is_full_loses_lines_and_nothing_else() {
        let before = lost();
        let (mut lines, farewell) = Lines::to(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap()).unwrap();
        for _ in 0..10 {
            lines.write_all(b"no space\n").unwrap();
        }
        drop(farewell);
        assert!(lost() >= before + 10 && lines.waiting().bytes == 0);
    }
}
