//! Work that stands still, work that kills, work that is to wait, and what is told of it.

use loom_tests::{LIMIT, Loom, until};
use serde_json::Value;
use std::process::Child;

/// Beats a hundred times faster than its work may stand still.
const WATCHED: &str =
    "[watchdog]\ninterval = \"3s\"\nprogress = \"1s\"\nabort_timeout = \"2s\"\n[bus]\npublish = [\"steps\"]\n";

/// A started `loomctl ask`, ended with the test.
struct Asking(Child);

impl Drop for Asking {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn asking(loom: &Loom, unit: &str, text: &str) -> Asking {
    Asking(loom.ctl_child(["ask", unit, text]))
}

fn said(loom: &Loom, unit: &str, text: &str) -> String {
    loom.ctl(["ask", unit, text]).success().stdout.trim().to_owned()
}

/// A supervisor, and an agent that writes down what is told on the bus of units.
fn with_listener() -> Loom {
    let loom = Loom::start();
    loom.python_agent("listens", "listens.py", "[bus]\nsubscribe = [\"loom.unit.>\"]");
    loom.ctl(["start", "listens"]).success();
    loom
}

/// What was told of a unit, in order.
fn told(loom: &Loom, unit: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(loom.state_dir("listens.agent").join("heard")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|why| panic!("{why}: {line}")))
        .filter(|event| event["unit"] == unit)
        .collect()
}

fn states(events: &[Value]) -> Vec<String> {
    let changed = events.iter().filter(|event| event["topic"] == "loom.unit.changed");
    changed
        .map(|event| format!("{} {}→{}", event["run"], event["from"].as_str().unwrap(), event["to"].as_str().unwrap()))
        .collect()
}

#[test]
fn each_change_of_state_is_one_event_on_the_bus() {
    let loom = with_listener();
    loom.unit("nap.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    loom.ctl(["start", "nap"]).success();
    loom.kill_main("nap");
    loom.until("it runs again", "nap", |v| v["run"] == 2 && v["active_state"] == "active");
    loom.ctl(["stop", "nap"]).success();
    let heard = until("its end was told", LIMIT, || {
        let heard = told(&loom, "nap.service");
        if states(&heard).last().is_some_and(|last| last.ends_with("→inactive")) {
            Ok(heard)
        } else {
            Err(format!("{heard:#?}"))
        }
    });
    for event in &heard {
        assert_eq!((event["source"].as_str(), event["gap"].as_u64()), (Some("/loomd"), Some(0)), "{event}");
    }
    // Each begins where the one before ended: none is missing, and none is told twice.
    let changes: Vec<&Value> = heard.iter().filter(|event| event["topic"] == "loom.unit.changed").collect();
    let seen = states(&heard);
    for pair in changes.windows(2) {
        assert_eq!(pair[0]["to"], pair[1]["from"], "{seen:?}");
    }
    for event in &changes {
        assert!(event["from"] != event["to"] || event["sub"].is_string(), "{event}");
        assert!(event["because"].as_str().is_some_and(|text| !text.is_empty()), "{event}");
    }
    let log = std::fs::read_to_string(loom.path().join("state/logs/loomd.jsonl")).unwrap();
    let lines = log.lines().filter(|line| line.contains("unit changed state") && line.contains("nap.service")).count();
    assert_eq!(lines, changes.len(), "one line of log for each event: {seen:?}");
    assert_eq!(seen.iter().filter(|state| state.ends_with("→active")).count(), 2, "{seen:?}");
}

#[test]
fn a_beating_but_stuck_agent_is_caught() {
    let loom = Loom::start();
    loom.python_agent("works", "works.py", WATCHED);
    loom.ctl(["start", "works"]).success();
    let _asking = asking(&loom, "works", "stand 600");
    let view = loom.until("a second run", "works", |v| v["run"].as_u64() >= Some(2) && v["active_state"] == "active");
    assert_eq!(view["result"], "progress", "its watchdog was fed all the time: {view}");
    assert_eq!(said(&loom, "works", "previous").split(' ').next(), Some("progress"));
}

#[test]
fn the_stacks_of_a_stuck_agent_are_kept() {
    let loom = Loom::start();
    loom.python_agent("works", "works.py", &format!("{WATCHED}[restart]\npolicy = \"no\"\n"));
    loom.ctl(["start", "works"]).success();
    let _asking = asking(&loom, "works", "stand 600");
    loom.until("its end", "works", |v| v["active_state"] == "failed");
    let stacks = loom.path().join("run/units/works.agent/tmp/loom-stacks");
    let text = std::fs::read_to_string(&stacks).unwrap_or_else(|why| panic!("{}: {why}", stacks.display()));
    assert!(text.contains("Fatal Python error: Aborted") && text.contains("selectors.py"), "{text}");
    assert!(text.contains("loom/wire.py"), "all threads: {text}");
}

#[test]
fn an_agent_that_waits_on_purpose_or_gets_on_is_left_alone() {
    let loom = Loom::start();
    loom.python_agent("waits", "works.py", WATCHED);
    loom.python_agent("works", "works.py", WATCHED);
    loom.ctl(["start", "waits"]).success();
    loom.ctl(["start", "works"]).success();
    // Three times what may pass without progress, for both.
    assert_eq!(said(&loom, "works", "publish 3"), "publish 3");
    for name in ["waits", "works"] {
        assert_eq!(loom.view(name).unwrap()["run"], 1, "{name}: {}", loom.daemon_words());
        assert_eq!(said(&loom, name, "still here"), "still here");
    }
}

#[test]
fn an_interrupt_takes_the_work_away_and_leaves_the_agent() {
    let loom = Loom::start();
    loom.python_agent("works", "works.py", &WATCHED.replace("[bus]", "progress_action = \"interrupt\"\n[bus]"));
    loom.ctl(["start", "works"]).success();
    let asked = loom.ctl(["ask", "works", "stand 600"]);
    assert_eq!(asked.status, 1, "{asked:?}");
    assert!(asked.stderr.contains("no progress"), "{}", asked.stderr);
    assert_eq!(said(&loom, "works", "still here"), "still here");
    assert_eq!(loom.view("works").unwrap()["run"], 1);
}

#[test]
fn an_agent_that_asks_for_later_is_started_then_and_no_failure_is_counted() {
    let loom = Loom::start();
    loom.python_agent("works", "works.py", "[restart]\npolicy = \"always\"\n");
    loom.ctl(["start", "works"]).success();
    let refused = loom.ctl(["ask", "works", "later 2"]);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.stderr.contains("the quota is spent"), "{}", refused.stderr);
    let waiting = loom.until("it waits", "works", |v| v["sub_state"] == "auto-restart");
    assert_eq!(waiting["exit"]["code"], 75, "{waiting}");
    loom.until("it is back", "works", |v| v["run"] == 2 && v["active_state"] == "active");
    let log = std::fs::read_to_string(loom.path().join("state/logs/loomd.jsonl")).unwrap();
    assert!(!log.contains("crash-looping"), "{log}");
}

#[test]
fn what_kills_run_after_run_is_set_aside() {
    let mut loom = with_listener();
    loom.python_agent("works", "works.py", "[restart]\npolicy = \"always\"\npoison_after = 2\n");
    loom.python_agent("asks", "works.py", "[bus]\nrequest = [\"unit.works.>\"]\n");
    for name in ["works", "asks"] {
        loom.ctl(["start", name]).success();
    }
    for run in [2, 3] {
        let answer = said(&loom, "asks", "with-key e-1 unit.works.ask die");
        assert!(answer.starts_with("unit-failed"), "{answer}");
        loom.until("it is back", "works", |v| v["run"] == run && v["active_state"] == "active");
    }
    assert!(said(&loom, "asks", "with-key e-1 unit.works.ask die").starts_with("poisoned"));
    assert_eq!(said(&loom, "asks", "with-key e-2 unit.works.ask hello"), "hello", "anything else reaches it");
    let heard = until("it was told", LIMIT, || {
        let heard = told(&loom, "works.agent");
        let found = heard.iter().find(|event| event["topic"] == "loom.unit.poisoned").cloned();
        found.ok_or_else(|| format!("{heard:#?}"))
    });
    assert_eq!((heard["work"].as_str(), heard["deaths"].as_u64()), (Some("e-1"), Some(2)));
    // A new loomd still knows.
    loom.kill_daemon();
    loom.start_daemon();
    loom.until("it is adopted", "works", |v| v["run"] == 3 && v["active_state"] == "active");
    until("the agents are back on the bus", LIMIT, || {
        let answer = loom.ctl(["ask", "asks", "with-key e-3 unit.works.ask hello"]);
        if answer.stdout.trim() == "hello" { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    assert!(said(&loom, "asks", "with-key e-1 unit.works.ask die").starts_with("poisoned"));
}

#[test]
fn a_budget_of_calls_ends_the_run_that_has_used_it_up() {
    let loom = with_listener();
    let settings =
        "[tools]\nallow = [\"fs:list\"]\n[budget]\ncalls = 2\nwindow = \"1h\"\n[restart]\npolicy = \"always\"\n";
    loom.python_agent("works", "works.py", settings);
    loom.ctl(["start", "works"]).success();
    for _ in 0..2 {
        // The last call may be answered by the end of the run.
        loom.ctl(["ask", "works", "list ."]);
    }
    let view = loom.until("it is stopped", "works", |v| v["result"] == "budget-exhausted");
    assert_eq!(view["run"], 1, "{view}");
    let again = loom.ctl(["start", "works"]);
    assert_eq!(again.status, 1, "{again:?}");
    assert!(again.stderr.contains("used up until"), "{}", again.stderr);
    until("it was told", LIMIT, || {
        let heard = told(&loom, "works.agent");
        let found = heard.iter().find(|event| event["topic"] == "loom.unit.budget-exhausted");
        found.map(|event| assert_eq!(event["what"], "calls")).ok_or_else(|| format!("{heard:#?}"))
    });
}
