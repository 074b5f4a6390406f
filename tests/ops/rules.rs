//! Rules and dashboards hold what the code exports: promtool judges their form and plays recorded series, and every name is looked up.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use serde_yaml_ng::Value;

use super::{metrics::families, path, read};

const RULES: &str = "deploy/prometheus/vtelector.rules.yml";
pub const DASHBOARD: &str = "deploy/grafana/vtelector.json";

/// promtool, of `make tools` or of PATH.
fn promtool() -> PathBuf {
    let own = path("target/tools/bin/promtool");
    let all = std::env::var_os("PATH").unwrap_or_default();
    let found = std::iter::once(own).chain(std::env::split_paths(&all).map(|folder| folder.join("promtool")));
    found.into_iter().find(|program| program.exists()).expect("no promtool: `make tools` brings it")
}

fn check(args: &[&str]) -> String {
    let output = Command::new(promtool()).args(args).current_dir(path("")).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {args:?}: {said}");
    said
}

#[test]
fn promtool_takes_the_rules_and_the_configuration() {
    check(&["check", "rules", RULES]);
    check(&["check", "config", "deploy/prometheus/prometheus.yml"]);
}

#[test]
fn promtool_finds_nothing_wrong_with_the_page() {
    use std::io::Write;
    let metrics = vtelector::metrics::Metrics::new().unwrap();
    let mut child = Command::new(promtool())
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(metrics.page().unwrap().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // VTOrc's own names break its rules of style; ours do not.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("vtelector_") || line.contains("error")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

/// A healthy hour, a failover, a block, a flapping primary, a blind elector, etcd lost: who is called, and who is not.
#[test]
fn recorded_stories_page_when_they_should() {
    let folder = path("deploy/prometheus/tests");
    let mut stories: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| format!("deploy/prometheus/tests/{}", entry.unwrap().file_name().to_string_lossy()))
        .collect();
    stories.sort();
    assert!(stories.len() >= 8, "{stories:?}");
    for story in &stories {
        assert!(read(story).contains("- series: '"), "{story}: nothing is recorded; run `make record-series`");
    }
    let mut args = vec!["test", "rules"];
    args.extend(stories.iter().map(String::as_str));
    check(&args);
}

struct Rule {
    alert: Option<String>,
    record: Option<String>,
    expr: String,
    severity: Option<String>,
    annotations: Value,
}

fn rules() -> Vec<Rule> {
    let whole: Value = serde_yaml_ng::from_str(&read(RULES)).unwrap();
    let groups = whole["groups"].as_sequence().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_sequence().unwrap());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let rule = |rule: &Value| Rule {
        alert: text(&rule["alert"]),
        record: text(&rule["record"]),
        expr: text(&rule["expr"]).unwrap(),
        severity: text(&rule["labels"]["severity"]),
        annotations: rule["annotations"].clone(),
    };
    rules.map(rule).collect()
}

/// The names of all alerts.
pub fn alerts() -> Vec<String> {
    rules().into_iter().filter_map(|rule| rule.alert).collect()
}

#[test]
fn every_alert_tells_what_a_person_needs_at_night() {
    for rule in rules() {
        let Some(alert) = rule.alert else { continue };
        let severity = rule.severity.unwrap_or_default();
        assert!(["page", "ticket", "notice"].contains(&severity.as_str()), "{alert}: severity {severity:?}");
        for annotation in ["summary", "description", "runbook_url"] {
            assert!(rule.annotations[annotation].as_str().is_some_and(|text| text.len() > 10), "{alert} has no {annotation}");
        }
        let link = rule.annotations["runbook_url"].as_str().unwrap();
        assert!(link.ends_with(&format!("/runbook.md#{}", alert.to_lowercase())), "{alert}: {link}");
    }
}

/// Words of PromQL that are no names.
const WORDS: [&str; 21] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "and",
    "or",
    "unless",
    "offset",
    "bool",
    "inf",
    "nan",
    "start",
    "end",
    // With `by` behind them.
    "sum",
    "min",
    "max",
    "avg",
    "count",
    "topk",
];
/// What Prometheus itself knows.
const FOREIGN: [&str; 3] = ["up", "ALERTS", "ALERTS_FOR_STATE"];
/// Labels that come from the scrape, or are made by Prometheus.
const SCRAPED: [&str; 7] = ["instance", "job", "le", "alertname", "alertstate", "severity", "version"];

/// Names of series in an expression, and names of labels.
fn names(expr: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut series, mut labels) = (BTreeSet::new(), BTreeSet::new());
    let bytes: Vec<char> = expr.chars().collect();
    let (mut at, mut in_braces, mut in_list, mut before) = (0, false, false, String::new());
    while at < bytes.len() {
        let c = bytes[at];
        match c {
            '"' | '\'' => {
                at += 1;
                while at < bytes.len() && bytes[at] != c {
                    at += 1;
                }
            }
            '[' => {
                while at < bytes.len() && bytes[at] != ']' {
                    at += 1;
                }
            }
            '{' => in_braces = true,
            '}' => in_braces = false,
            '(' => in_list = ["by", "without", "on", "ignoring", "group_left", "group_right"].contains(&before.as_str()),
            ')' => in_list = false,
            '0'..='9' => {
                while at + 1 < bytes.len() && (bytes[at + 1].is_alphanumeric() || bytes[at + 1] == '.') {
                    at += 1;
                }
            }
            c if c.is_alphabetic() || c == '_' || c == ':' || c == '$' => {
                let end = (at..bytes.len())
                    .find(|i| !(bytes[*i].is_alphanumeric() || "_:$".contains(bytes[*i])))
                    .unwrap_or(bytes.len());
                let word: String = bytes[at..end].iter().collect();
                let next = bytes[end..].iter().find(|c| !c.is_whitespace());
                if in_braces || in_list {
                    labels.insert(word.clone());
                } else if next != Some(&'(') && !WORDS.contains(&word.as_str()) && !word.starts_with('$') {
                    series.insert(word.clone());
                }
                before = word;
                at = end;
                continue;
            }
            _ => {}
        }
        if !c.is_whitespace() {
            before.clear();
        }
        at += 1;
    }
    (series, labels)
}

#[test]
fn names_are_found_in_expressions() {
    let (series, labels) = names(
        r#"histogram_quantile(0.99, sum by (le, job) (rate(a_bucket{phase="x{y"}[5m]))) > 3 or b:c unless on (shard) d offset 5m"#,
    );
    assert_eq!(series.into_iter().collect::<Vec<_>>(), ["a_bucket", "b:c", "d"]);
    assert_eq!(labels.into_iter().collect::<Vec<_>>(), ["job", "le", "phase", "shard"]);
}

/// Every name in these expressions is exported or recorded, with the labels that are asked for.
fn hold(expressions: &[(String, String)]) {
    let families = families();
    let recorded: BTreeSet<String> = rules().into_iter().filter_map(|rule| rule.record).collect();
    let mut known: BTreeSet<String> = FOREIGN.iter().map(|name| (*name).to_owned()).chain(recorded).collect();
    for family in &families {
        match family.kind {
            "histogram" => known.extend(["_bucket", "_sum", "_count"].map(|end| format!("{}{end}", family.name))),
            _ => drop(known.insert(family.name.clone())),
        }
    }
    let mut labels_known: BTreeSet<String> = families.iter().flat_map(|family| family.labels.iter().cloned()).collect();
    labels_known.extend(SCRAPED.iter().map(|label| (*label).to_owned()));
    for (place, expr) in expressions {
        let (series, labels) = names(expr);
        assert!(!series.is_empty(), "{place}: no series in {expr}");
        let strange: Vec<_> = series.difference(&known).chain(labels.difference(&labels_known)).collect();
        assert!(strange.is_empty(), "{place}: nobody exports {strange:?} of {expr}");
    }
}

#[test]
fn every_expression_of_the_rules_is_about_what_is_exported() {
    let name = |rule: &Rule| rule.alert.clone().or_else(|| rule.record.clone()).unwrap();
    hold(&rules().into_iter().map(|rule| (name(&rule), rule.expr)).collect::<Vec<_>>());
}

/// Every query of every panel, with the panel's title.
fn panels() -> Vec<(String, String)> {
    let board: serde_json::Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let of = |panel: &serde_json::Value| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |target| (title.clone(), target["expr"].as_str().unwrap().to_owned())).collect::<Vec<_>>()
    };
    panels.iter().flat_map(of).collect()
}

#[test]
fn every_panel_is_about_what_is_exported() {
    let panels = panels();
    assert!(panels.len() > 20);
    hold(&panels);
    // Form, too: as rules, with what Grafana puts in.
    let rules: Vec<serde_json::Value> = panels
        .iter()
        .enumerate()
        .map(|(number, (_, expr))| {
            let expr = expr
                .replace("$__rate_interval", "1m")
                .replace("$__range", "1h")
                .replace("$instance", ".*")
                .replace("$keyspace", ".*");
            serde_json::json!({"record": format!("panel:{number}"), "expr": expr})
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("panels.yml");
    std::fs::write(&file, serde_json::json!({"groups": [{"name": "panels", "rules": rules}]}).to_string()).unwrap();
    check(&["check", "rules", file.to_str().unwrap()]);
}

#[test]
fn the_dashboard_can_be_imported() {
    let board: serde_json::Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    for key in ["title", "uid", "schemaVersion", "time", "templating", "panels"] {
        assert!(!board[key].is_null(), "no {key}");
    }
    let variables = board["templating"]["list"].as_array().unwrap();
    assert!(variables.iter().any(|variable| variable["type"] == "datasource" && variable["query"] == "prometheus"));
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in board["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels with id {}", panel["id"]);
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for (x, y) in (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y))) {
            assert!(x < 24 && cells.insert((x, y)), "{} lies over another panel", panel["title"]);
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            assert!(
                panel["description"].as_str().is_some_and(|text| !text.is_empty()),
                "{} says not what it means",
                panel["title"]
            );
        }
    }
    let rows = board["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] == "row");
    let rows: Vec<&str> = rows.map(|row| row["title"].as_str().unwrap()).collect();
    assert_eq!(rows, ["Is all well", "Failovers", "Evidence", "Electors", "Calls", "Process"]);
}
