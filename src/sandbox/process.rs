//! A child process that ends with its owner.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use super::{Host, SandboxError, eventually};

/// Signals that a test or the demo sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: end in good order.
    Terminate,
    /// SIGSTOP: freeze, as a machine that is overloaded or suspended.
    Freeze,
    /// SIGCONT: go on.
    Thaw,
    /// SIGKILL, without waiting until it is gone.
    Kill,
}

/// A running child. Its output goes to a log file; dropping it kills it, by its process id, and waits until it is gone.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `program`; `name` says which one it is in errors. Of the environment it gets `PATH` and `env`, nothing else:
    /// a variable such as `ETCD_DATA_DIR` of the person who runs this must not lead it astray.
    ///
    /// Where util-linux is installed, the kernel kills the child when the thread that started it ends, so that it does not
    /// outlive a killed test. Call it from a thread that stays, as the one in `block_on` does.
    pub fn start<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
        env: &[(&str, &str)],
        log: &Path,
    ) -> Result<Self, SandboxError> {
        Self::start_on(&Host::local(), name, program, args, env, log)
    }

    /// [`Process::start`] on a host of its own.
    pub fn start_on<A: AsRef<OsStr>>(
        host: &Host,
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
        env: &[(&str, &str)],
        log: &Path,
    ) -> Result<Self, SandboxError> {
        let output = |doing| SandboxError::io(format!("{doing} the log {}", log.display()));
        let file = OpenOptions::new().create(true).append(true).open(log).map_err(output("opening"))?;
        let twin = file.try_clone().map_err(output("opening"))?;
        // Each of them becomes the next one, so that the process id stays.
        let mut words: Vec<&OsStr> = Vec::new();
        if let Some(setpriv) = leash() {
            words.extend([setpriv.as_os_str(), "--pdeathsig".as_ref(), "KILL".as_ref(), "--".as_ref()]);
        }
        if let Some(namespace) = &host.namespace {
            words.extend(["ip", "netns", "exec", namespace].map(OsStr::new));
        }
        words.push(program.as_os_str());
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(args)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(env.iter().copied());
        // A process group of its own: Ctrl-C in a terminal reaches the owner alone, who ends its children in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(twin)
            .spawn()
            .map_err(SandboxError::io(format!("starting {name} ({})", program.display())))?;
        Ok(Self { name: name.to_owned(), log: log.to_owned(), child })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Which one it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that its output goes to.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// An error, with the end of its log, when it has ended.
    pub fn check_running(&mut self) -> Result<(), SandboxError> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => Err(SandboxError::Exited { name: self.name.clone(), status, log: tail(&self.log, 20) }),
        }
    }

    /// How it ended; `None` while it runs.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>, SandboxError> {
        self.child.try_wait().map_err(SandboxError::io(format!("asking after {}", self.name)))
    }

    /// Waits until it has ended by itself.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus, SandboxError> {
        let what = format!("the end of {}", self.name);
        eventually(&what, limit, async || match self.exited() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(String::from("it is running")),
            Err(error) => Err(error.to_string()),
        })
        .await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), SandboxError> {
        let name = match signal {
            Signal::Terminate => "TERM",
            Signal::Freeze => "STOP",
            Signal::Thaw => "CONT",
            Signal::Kill => "KILL",
        };
        // The shell's own kill: the program of that name is not installed everywhere.
        let id = self.id().to_string();
        let status = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &id]).stderr(Stdio::null()).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(SandboxError::io(format!("sending SIG{name} to {}", self.name))(std::io::ErrorKind::NotFound.into())),
            Err(error) => Err(SandboxError::io(format!("sending SIG{name} to {}", self.name))(error)),
        }
    }

    /// SIGTERM, then waits for the end in good order.
    pub async fn stop(&mut self, limit: Duration) -> Result<ExitStatus, SandboxError> {
        self.signal(Signal::Terminate)?;
        self.wait(limit).await
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&mut self) {
        // Both fail only when it has ended and been waited for before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Resident memory in bytes, and processor time used so far.
    pub fn usage(&self) -> Result<(u64, Duration), SandboxError> {
        const PAGE_BYTES: u64 = 4096;
        const TICK: Duration = Duration::from_millis(10);
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", self.id());
            fs::read_to_string(&path).map_err(SandboxError::io(format!("reading {path}")))
        };
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let pages = number(read("statm")?.split_whitespace().nth(1));
        let stat = read("stat")?;
        // The fields after the program's name, which may contain blanks and ends with the last parenthesis.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = number(fields.get(11).copied()) + number(fields.get(12).copied());
        Ok((pages * PAGE_BYTES, TICK * u32::try_from(ticks).unwrap_or(u32::MAX)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// util-linux's setpriv, which can tie a child's life to ours without a line of unsafe code.
fn leash() -> Option<&'static Path> {
    ["/usr/bin/setpriv", "/bin/setpriv"].map(Path::new).into_iter().find(|path| path.exists())
}

/// The last `lines` lines of a file; empty when it cannot be read.
pub(super) fn tail(path: &Path, lines: usize) -> String {
    let text = File::open(path).and_then(std::io::read_to_string).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
