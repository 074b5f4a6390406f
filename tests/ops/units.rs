//! deploy/systemd: units that systemd takes, as closed as the document states.

use std::process::Command;

use super::{path, read};

const UNITS: [&str; 2] = ["vtelector", "vtelector-agent"];

/// What systemd says; `None` where this machine has none.
fn systemd(args: &[&str]) -> Option<String> {
    let output = Command::new("systemd-analyze").args(args).current_dir(path("")).output().ok()?;
    Some(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

/// The exposure in tenths that the document states.
fn stated() -> u32 {
    let document = read("docs/install.md");
    let line = document.lines().find(|line| line.contains("systemd-analyze security") && line.contains(" exposure ")).unwrap();
    let number = line.split(" exposure ").nth(1).unwrap().split_whitespace().next().unwrap();
    number.replace('.', "").parse().unwrap()
}

#[test]
fn units_are_as_closed_as_stated() {
    for unit in UNITS {
        let file = format!("deploy/systemd/{unit}.service");
        let Some(said) = systemd(&["security", "--offline=true", "--no-pager", &file]) else {
            println!("no systemd-analyze here: the unit's exposure is not looked at");
            return;
        };
        // Systemd before 250 cannot do it offline.
        let Some(level) = said.lines().find_map(|line| line.split("exposure level for ").nth(1)?.split(": ").nth(1)) else {
            println!("systemd-analyze cannot judge a file here: {said}");
            return;
        };
        let exposure: u32 = level.split_whitespace().next().unwrap().replace('.', "").parse().unwrap();
        assert!(exposure <= stated(), "{unit}: {level}, and the document states {}", stated());
    }
}

#[test]
fn systemd_takes_the_units() {
    for unit in UNITS {
        let folder = tempfile::tempdir().unwrap();
        // The program is where it was built here.
        let text = read(&format!("deploy/systemd/{unit}.service")).replace("/usr/bin/vtelector", env!("CARGO_BIN_EXE_vtelector"));
        let file = folder.path().join(format!("{unit}.service"));
        std::fs::write(&file, text).unwrap();
        let Some(said) = systemd(&["verify", "--man=no", file.to_str().unwrap()]) else { return };
        let about: Vec<&str> = said.lines().filter(|line| line.contains(unit)).collect();
        assert!(about.is_empty(), "{about:#?}");
    }
}

/// Keys in the order of the file.
fn keys(unit: &str) -> Vec<(String, String)> {
    let text = read(&format!("deploy/systemd/{unit}.service"));
    let pairs = text.lines().filter(|line| !line.starts_with(['#', '[', ' '])).filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn units_restart_for_ever_and_run_as_nobody_special() {
    for unit in UNITS {
        let keys = keys(unit);
        let has = |key: &str, value: &str| assert!(keys.contains(&(key.to_owned(), value.to_owned())), "{unit}: {key}={value}");
        has("Restart", "always");
        has("StartLimitIntervalSec", "0");
        has("User", "vtelector");
        has("CapabilityBoundingSet", "");
        has("NoNewPrivileges", "yes");
        has("ProtectSystem", "strict");
    }
    assert!(keys("vtelector-agent").contains(&("StateDirectory".to_owned(), "vtelector-agent".to_owned())));
}

#[test]
fn the_settings_that_are_installed_are_settings() {
    let content = read("deploy/systemd/vtelector.toml");
    let commented: String =
        content.lines().filter_map(|line| line.strip_prefix("# ")).filter(|line| line.contains(" = \"")).collect();
    assert!(commented.contains("advertise-address"));
    let layers = vtelector::config::Layers::new(vec!["--config-file=vtelector.toml".into()], |_| None).unwrap();
    let (settings, _) = layers.settings(Some(&content)).unwrap();
    assert_eq!(settings.cell, "zone1");
}
