//! Settings from three places. A flag on the command line wins over the environment (`VTELECTOR_LOCK_TIMEOUT`), the environment over the
//! file (`--config-file`), whose keys are the names of flags. Each place is put into the form of a command line, so that all of them are
//! read and checked by the same parser.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{Args, Command, FromArgMatches};

use super::{ConfigError, Normalized, ServeArgs, Settings, normalize};

/// What may change without a restart: what is decided, not how things are reached.
pub const LIVE: [&str; 14] = [
    "allow-emergency-reparent",
    "allow-recovery",
    "allow-unfenced-failover",
    "change-tablets-with-errant-gtid-to-drained",
    "enable-primary-disk-stalled-recovery",
    "failover-burst",
    "failover-cap-per-hour",
    "failover-floor",
    "prevent-cross-cell-failover",
    "reasonable-replication-lag",
    "slow-primary-takeover",
    "tolerable-replication-lag",
    "wait-replicas-timeout",
    "config-file",
];

/// Where settings come from.
#[derive(Debug, Clone)]
pub struct Layers {
    /// The command line, in our parser's form.
    line: Vec<OsString>,
    /// `--name=value` of each variable that is set.
    environment: Vec<OsString>,
    file: Option<PathBuf>,
}

impl Layers {
    /// The places; `line` is in our parser's form, `variable` looks into the environment.
    pub fn new(line: Vec<OsString>, variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let command = command();
        let names = command.get_arguments().filter_map(clap::Arg::get_long).filter(|name| !matches!(*name, "help" | "version"));
        let mut environment = Vec::new();
        for name in names {
            let key = format!("VTELECTOR_{}", name.to_ascii_uppercase().replace('-', "_"));
            let Some(value) = variable(&key).filter(|value| !value.is_empty()) else { continue };
            // Kubernetes sets VTELECTOR_PORT=tcp://10.0.0.7:15999 in every pod beside a service of that name.
            if value.starts_with("tcp://") || value.starts_with("udp://") {
                continue;
            }
            let arg = OsString::from(format!("--{name}={value}"));
            parse(std::slice::from_ref(&arg)).map_err(|problem| wrong("the environment", &key, problem))?;
            environment.push(arg);
        }
        let path = value_of("config-file", &line).or_else(|| value_of("config-file", &environment));
        Ok(Self { line, environment, file: path.filter(|path| !path.is_empty()).map(PathBuf::from) })
    }

    /// The file, where there is one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// All places as one command line; `content` is what the file holds. Flags that a stronger place gives are left out of the weaker.
    pub fn merged(&self, content: Option<&str>) -> Result<Normalized, ConfigError> {
        let in_file = match (&self.file, content) {
            (Some(path), Some(content)) => of_file(path, content)?,
            _ => Normalized::default(),
        };
        let (strong, strongest) = (names(&self.environment), names(&self.line));
        let weaker_than =
            |stronger: BTreeSet<String>| move |arg: &OsString| !name_of(arg).is_some_and(|name| stronger.contains(&name));
        let over_file = weaker_than(strong.union(&strongest).cloned().collect());
        let mut args: Vec<OsString> = in_file.args.into_iter().filter(over_file).collect();
        args.extend(self.environment.iter().filter(|arg| weaker_than(strongest.clone())(arg)).cloned());
        args.extend(self.line.iter().cloned());
        Ok(Normalized { args, ignored: in_file.ignored })
    }

    /// The value of every flag when the file holds `content`, by name.
    pub fn effective(&self, content: Option<&str>) -> Result<BTreeMap<String, String>, ConfigError> {
        Ok(values(&self.merged(content)?.args))
    }

    /// Reads the file as it is now.
    pub fn read(&self) -> Result<Option<String>, ConfigError> {
        let Some(path) = &self.file else { return Ok(None) };
        std::fs::read_to_string(path).map(Some).map_err(|error| wrong("config-file", path.display(), error.to_string()))
    }

    /// What all places say together when the file holds `content`, and what of it only a restart can change.
    pub fn settings(&self, content: Option<&str>) -> Result<(Settings, BTreeSet<OsString>), ConfigError> {
        let merged = self.merged(content)?.args;
        let shown = || self.file.as_deref().unwrap_or(Path::new("")).display().to_string();
        let args = parse(&merged).map_err(|problem| wrong("config-file", shown(), problem))?;
        let fixed = merged.into_iter().filter(|arg| !name_of(arg).is_some_and(|name| LIVE.contains(&name.as_str())));
        Ok((Settings::try_from(&args)?, fixed.collect()))
    }
}

/// The value of every flag as `args` and the defaults make it. Files are named; what they hold is not shown.
fn values(args: &[OsString]) -> BTreeMap<String, String> {
    let command = command();
    let Ok(matches) = command.clone().try_get_matches_from(args) else { return BTreeMap::new() };
    let flags = command.get_arguments().filter_map(|arg| Some((arg.get_id().as_str(), arg.get_long()?)));
    let shown = flags.filter(|(_, name)| !matches!(*name, "help" | "version")).map(|(id, name)| {
        let values: Vec<_> = matches.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy()).collect();
        (name.to_owned(), values.join(","))
    });
    shown.collect()
}

fn command() -> Command {
    let mut command = ServeArgs::augment_args(Command::new("serve").no_binary_name(true));
    command.build();
    command
}

/// The parser's first line says it all; the rest tells about help.
fn parse(args: &[OsString]) -> Result<ServeArgs, String> {
    let first_line = |error: clap::Error| {
        let text = error.to_string();
        text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    };
    let matches = command().try_get_matches_from(args).map_err(first_line)?;
    ServeArgs::from_arg_matches(&matches).map_err(first_line)
}

fn wrong(place: &str, value: impl std::fmt::Display, problem: String) -> ConfigError {
    ConfigError::new(place, value, problem, "mend it, or leave it out")
}

fn name_of(arg: &OsString) -> Option<String> {
    let body = arg.to_str()?.strip_prefix("--")?;
    let name = body.split_once('=').map_or(body, |(name, _)| name);
    (!name.is_empty()).then(|| name.to_owned())
}

fn names(args: &[OsString]) -> BTreeSet<String> {
    args.iter().filter_map(name_of).collect()
}

fn value_of(name: &str, args: &[OsString]) -> Option<String> {
    let head = format!("--{name}=");
    args.iter().rev().find_map(|arg| arg.to_str()?.strip_prefix(&head).map(str::to_owned))
}

/// What a file says, as a command line. A file that ends in `.json` is JSON, every other one TOML.
fn of_file(path: &Path, content: &str) -> Result<Normalized, ConfigError> {
    let error = |problem: String| wrong("config-file", path.display(), problem);
    let table: toml::Table = if path.extension().is_some_and(|ending| ending == "json") {
        serde_json::from_str(content).map_err(|e| error(e.to_string()))?
    } else {
        content.parse().map_err(|e: toml::de::Error| error(e.to_string().trim().replace('\n', " ")))?
    };
    let mut args = Vec::new();
    for (key, value) in &table {
        let name = key.replace('_', "-");
        if name == "config-file" {
            return Err(error(format!("{key}: a file names no other file")));
        }
        let values = match value {
            toml::Value::Array(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>(),
            one => scalar(one).map(|value| vec![value]),
        };
        let values =
            values.ok_or_else(|| error(format!("{key}: a text, a number, true, false, or a list of those is needed")))?;
        args.extend(values.into_iter().map(|value| OsString::from(format!("--{name}={value}"))));
    }
    let normalized = normalize(&command(), args, true).map_err(|wrong| error(wrong.to_string()))?;
    parse(&normalized.args).map_err(error)?;
    Ok(normalized)
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(is) => Some(is.to_string()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TOPO: &str = "--topo-global-server-address=localhost:2379 --topo-global-root=/v";

    fn layers(line: &str, environment: &[(&str, &str)]) -> Layers {
        let line = format!("{TOPO} {line}");
        let variable = |key: &str| environment.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned());
        Layers::new(line.split_whitespace().map(OsString::from).collect(), variable).unwrap()
    }

    fn floor_s(line: &str, environment: &[(&str, &str)], content: &str) -> u64 {
        layers(line, environment).settings(Some(content)).unwrap().0.flap.floor.as_secs()
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let (file, variable) = ("failover-floor = \"7s\"", [("VTELECTOR_FAILOVER_FLOOR", "8s")]);
        assert_eq!(floor_s("--config-file=f.toml", &[], ""), 5);
        assert_eq!(floor_s("--config-file=f.toml", &[], file), 7);
        assert_eq!(floor_s("--config-file=f.toml", &variable, file), 8);
        assert_eq!(floor_s("--config-file=f.toml --failover-floor=9s", &variable, file), 9);
        let by_variable = [("VTELECTOR_CONFIG_FILE", "f.json"), ("VTELECTOR_PORT", "tcp://10.0.0.7:15999")];
        assert_eq!(floor_s("", &by_variable, r#"{"failover_floor": "7s"}"#), 7);
    }

    #[test]
    fn a_list_in_a_stronger_place_replaces_the_whole_list_of_the_weaker() {
        let file = "durability-extra = [\"a=acks:2\", \"b=acks:2\"]\nprevent-cross-cell-failover = true\nport = 7";
        let read = |line: &str| layers(line, &[]).settings(Some(file)).unwrap().0;
        let settings = read("--config-file=f.toml");
        assert_eq!(settings.durability_extra.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(settings.elector.prevent_cross_cell_failover && settings.http.port == 7);
        let settings = read("--config-file=f.toml --durability-extra=c=acks:2");
        assert_eq!(settings.durability_extra.keys().collect::<Vec<_>>(), ["c"]);
    }

    #[test]
    fn a_mistake_in_a_file_is_named_with_the_file_and_the_key() {
        for (content, words) in [
            ("failover-flor = \"7s\"", "--failover-floor"),
            ("failover-floor = 7", "--failover-floor"),
            ("failover-floor = \"25h\"", "--failover-floor"),
            ("failover-floor = {x = 1}", "failover-floor: a text"),
            ("failover-floor: 7s", "TOML"),
            ("config-file = \"x\"", "names no other file"),
            ("grpc-crl = \"x\"", "--grpc-crl"),
        ] {
            let error = layers("--config-file=f.toml", &[]).settings(Some(content)).unwrap_err().to_string();
            assert!(error.contains(words) && (error.contains("f.toml") || error.contains("25h")), "{content}: {error}");
        }
        let read = layers("--config-file=/nowhere/f.toml", &[]).read().unwrap_err().to_string();
        assert!(read.contains("/nowhere/f.toml"), "{read}");
        let variable = |key: &str| (key == "VTELECTOR_LOCK_TIMEOUT").then(|| "soon".to_owned());
        let error = Layers::new(Vec::new(), variable).unwrap_err().to_string();
        assert!(error.contains("VTELECTOR_LOCK_TIMEOUT") && error.contains("soon"), "{error}");
    }

    #[test]
    fn what_needs_a_restart_is_told_apart() {
        let layers = layers("--config-file=f.toml", &[]);
        let fixed = |content: &str| layers.settings(Some(content)).unwrap().1;
        assert_eq!(fixed("failover-floor = \"7s\"\nallow-recovery = false"), fixed(""));
        assert_ne!(fixed("lock-timeout = \"7s\""), fixed(""));
        assert_eq!(layers.settings(Some("lock-timeout = \"7s\"")).unwrap().0.lock_timeout, Duration::from_secs(7));
        let command = command();
        let own: BTreeSet<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        let unknown: Vec<_> = LIVE.iter().filter(|name| !own.contains(**name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
