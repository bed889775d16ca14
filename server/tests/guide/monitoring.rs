//! The dashboard and the alert rules of docs/monitoring name metrics that there are.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::Value;

use super::common::{program, run};
use super::reference::all_samples;
use super::{read, root};

fn directory() -> PathBuf {
    root().join("docs/monitoring")
}

/// The names of metrics in an expression or in any other text.
pub(crate) fn metrics_in(text: &str) -> BTreeSet<&str> {
    let of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !of_a_name(c));
    let ours = |word: &&str| {
        let starts = ["penstock_", "http_server_"];
        starts.iter().any(|start| word.starts_with(start)) && !word.ends_with('_')
    };
    words.filter(ours).collect()
}

/// All expressions of a dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("expr" | "query", Value::String(text)) => found.push(text.clone()),
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[track_caller]
fn must_exist(text: &str, what: &str) {
    for name in metrics_in(text) {
        assert!(
            all_samples().contains(name),
            "{what} names {name}, which no server has"
        );
    }
}

#[test]
fn the_dashboard_shows_metrics_that_exist() {
    let file = directory().join("grafana-dashboard.json");
    let dashboard: Value = serde_json::from_str(&read(&file)).expect("JSON");
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    assert!(found.len() > 10, "{} expressions", found.len());
    for expression in &found {
        must_exist(expression, "the dashboard");
    }
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<u64> = panels
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
}

#[test]
fn the_alert_rules_name_metrics_that_exist() {
    let text = read(&directory().join("alerts.yaml"));
    let alerts = text.matches("- alert: ").count();
    assert!(alerts > 5, "{alerts} alerts");
    assert_eq!(
        text.matches(" summary: ").count(),
        alerts,
        "each says what is wrong"
    );
    assert_eq!(
        text.matches(" description: ").count(),
        alerts,
        "each says what to do"
    );
    must_exist(&text, "alerts.yaml");
}

#[test]
fn promtool_takes_the_alert_rules() {
    for (what, file) in [("check", "alerts.yaml"), ("test", "alerts-test.yaml")] {
        let Some(mut promtool) = program("promtool") else {
            return;
        };
        run(promtool.args([what, "rules"]).arg(directory().join(file)));
    }
}
