//! Hosts with network interfaces of their own on one machine, so that a test can cut them off: network namespaces on a bridge.
//!
//! It needs root and the programs `ip` and `iptables`; `deploy/tools/install` installs them. Delays are not made: the kernel's `netem` is
//! not everywhere. Lost packets make them, since TCP repeats what was lost after 200 ms and more.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{SandboxError, tools::is_root};

/// How names begin of everything made here; the maker's process id follows, by which leftovers are known.
const PREFIX: &str = "vte";
/// Networks that were made by this process.
static NETWORKS: AtomicU32 = AtomicU32::new(0);
/// How often another range of addresses is tried while one is in use.
const ATTEMPTS: u32 = 50;

/// Where a process of a sandbox runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its network namespace; `None` = this machine itself.
    pub namespace: Option<String>,
    /// Its address.
    pub ip: String,
}

impl Host {
    /// Whether it has a network of its own, and can be cut off.
    pub fn is_alone(&self) -> bool {
        self.namespace.is_some()
    }

    /// This machine, by its loopback address.
    pub fn local() -> Self {
        Self { namespace: None, ip: String::from("127.0.0.1") }
    }
}

/// A network of hosts. Removed when dropped; what a killed process has left is removed by the next one that makes a network.
#[derive(Debug)]
pub struct Network {
    name: String,
    /// The first three numbers of its addresses.
    range: String,
    hosts: Vec<Host>,
}

impl Network {
    /// Makes the bridge. This machine is its host number 1.
    pub fn new() -> Result<Self, SandboxError> {
        if !is_root() {
            return Err(needed("run as root"));
        }
        for program in ["ip", "iptables"] {
            let found =
                std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(program).exists());
            if !found {
                return Err(needed(&format!("there is no {program} on PATH; run deploy/tools/install")));
            }
        }
        remove_leftovers();
        let name = format!("{PREFIX}{}{}", std::process::id(), letter(NETWORKS.fetch_add(1, Ordering::Relaxed)));
        let mut network = Self { name, range: String::new(), hosts: Vec::new() };
        ip(&format!("link add {} type bridge", network.name))?;
        for _ in 0..ATTEMPTS {
            let range = format!("10.{}.{}", rand::random_range(64..128), rand::random_range(0..=255));
            if output(&format!("-4 route show {range}.0/24"))?.is_empty() {
                network.range = range;
                break;
            }
        }
        ip(&format!("address add {}.1/24 dev {}", network.range, network.name))?;
        ip(&format!("link set {} up", network.name))?;
        Ok(network)
    }

    /// This machine, as the hosts of the network see it.
    pub fn gateway(&self) -> Host {
        Host { namespace: None, ip: format!("{}.1", self.range) }
    }

    /// Another host.
    pub fn host(&mut self) -> Result<Host, SandboxError> {
        let number = self.hosts.len() + 2;
        let (namespace, outside) = (format!("{}{number}", self.name), format!("{}v{number}", self.name));
        ip(&format!("netns add {namespace}"))?;
        let host = Host { namespace: Some(namespace.clone()), ip: format!("{}.{number}", self.range) };
        self.hosts.push(host.clone());
        ip(&format!("link add {outside} type veth peer name eth0 netns {namespace}"))?;
        ip(&format!("link set {outside} master {} up", self.name))?;
        ip(&format!("-n {namespace} link set lo up"))?;
        ip(&format!("-n {namespace} address add {}/24 dev eth0", host.ip))?;
        ip(&format!("-n {namespace} link set eth0 up"))?;
        Ok(host)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What cannot be removed is tried again by the next process.
        for namespace in self.hosts.iter().filter_map(|host| host.namespace.as_ref()) {
            let _ = ip(&format!("netns del {namespace}"));
        }
        let _ = ip(&format!("link del {}", self.name));
    }
}

impl Host {
    /// Drops every packet to and from it.
    pub fn silence(&self) -> Result<(), SandboxError> {
        self.iptables("-A INPUT -i eth0 -j DROP")?;
        self.iptables("-A OUTPUT -o eth0 -j DROP")
    }

    /// Drops every packet between it and that other one.
    pub fn cut(&self, other: &Host) -> Result<(), SandboxError> {
        self.iptables(&format!("-A INPUT -s {} -j DROP", other.ip))?;
        self.iptables(&format!("-A OUTPUT -d {} -j DROP", other.ip))
    }

    /// Drops so many percent of its packets, each way.
    pub fn lose(&self, percent: u32) -> Result<(), SandboxError> {
        let chance = f64::from(percent) / 100.0;
        for chain in ["INPUT -i eth0", "OUTPUT -o eth0"] {
            self.iptables(&format!("-A {chain} -m statistic --mode random --probability {chance} -j DROP"))?;
        }
        Ok(())
    }

    /// Ends everything that was done to it.
    pub fn reconnect(&self) -> Result<(), SandboxError> {
        self.iptables("-F")
    }

    fn iptables(&self, rule: &str) -> Result<(), SandboxError> {
        let Some(namespace) = &self.namespace else { return Err(needed("only a host of its own can be cut off")) };
        ip(&format!("netns exec {namespace} iptables -w {rule}"))
    }
}

/// A short name for a number.
fn letter(number: u32) -> String {
    let place = number % 26;
    let prefix = if number >= 26 { letter(number / 26 - 1) } else { String::new() };
    format!("{prefix}{}", char::from(b'a' + place as u8))
}

fn needed(what: &str) -> SandboxError {
    SandboxError::Wrong(vec![format!("network namespaces: {what}")])
}

/// Runs `ip`.
fn ip(arguments: &str) -> Result<(), SandboxError> {
    output(arguments).map(drop)
}

fn output(arguments: &str) -> Result<String, SandboxError> {
    let doing = || format!("ip {arguments}");
    let output = Command::new("ip").args(arguments.split_whitespace()).output().map_err(SandboxError::io(doing()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(SandboxError::io(doing())(std::io::Error::other(words)))
}

/// Removes networks whose makers are gone.
fn remove_leftovers() {
    let is_left = |name: &str| {
        let id: String = name.strip_prefix(PREFIX).unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
        !id.is_empty() && !Path::new("/proc").join(id).exists()
    };
    for (folder, remove) in [("/var/run/netns", "netns del"), ("/sys/class/net", "link del")] {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|name| is_left(name)) {
            // Gone already where its pair went first.
            let _ = ip(&format!("{remove} {name}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::letter;

    #[test]
    fn networks_have_short_names() {
        assert_eq!([0, 25, 26, 27, 701, 702].map(letter), ["a", "z", "aa", "ab", "zz", "aaa"]);
    }
}
