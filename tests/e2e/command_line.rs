//! What the command line says.

use loom_tests::Loom;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

#[test]
fn no_supervisor_is_one_clear_line_and_exit_status_3() {
    let loom = Loom::new();
    for words in [&["status"][..], &["start", "chat"], &["list"], &["ask", "chat", "hi"], &["state", "list", "chat"]] {
        let said = loom.ctl(words);
        assert_eq!(said.status, 3, "{words:?}: {said:?}");
        assert!(said.stderr.starts_with("error: "), "{said:?}");
        assert!(said.stderr.contains("control.sock"), "{said:?}");
    }
}

#[test]
fn an_unknown_unit_is_exit_status_5_and_a_wrong_word_2() {
    let loom = Loom::start();
    for words in [&["start", "nobody"][..], &["status", "nobody"], &["stop", "nobody"], &["cat", "nobody"]] {
        assert_eq!(loom.ctl(words).status, 5, "{words:?}");
    }
    assert_eq!(loom.ctl(["frobnicate"]).status, 2);
    assert_eq!(loom.ctl(["start"]).status, 2);
}

#[test]
fn every_json_answer_carries_its_version() {
    let loom = Loom::start();
    loom.unit("nap.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    for words in [
        &["status", "--json"][..],
        &["list", "--json"],
        &["show", "nap", "--json"],
        &["cat", "nap", "--json"],
        &["audit", "--json"],
        &["start", "nap", "--json"],
        &["status", "nap", "--json"],
        &["daemon-reload", "--json"],
        &["stop", "nap", "--json"],
    ] {
        let said = loom.ctl(words);
        assert_eq!(said.json()["version"], 1, "{words:?}: {said:?}");
    }
}

#[test]
fn curl_is_a_debugger() {
    let loom = Loom::start();
    let socket = loom.path().join("run/control.sock");
    let out = std::process::Command::new("curl")
        .args(["-s", "--max-time", "10", "--unix-socket", socket.to_str().unwrap(), "http://loom/v1/status"])
        .output();
    let Ok(out) = out else {
        eprintln!("skipped: needs curl");
        return;
    };
    let answer: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(answer["supervisor"]["pid"], loom.daemon_pid());
}

const NAP: &str = "[exec]\ncommand = [\"sleep\", \"1000\"]\n";

/// Takes its time when it is told to end.
const SLOW: &str = "[exec]\ncommand = [\"sh\", \"-c\", \"trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done\"]\n";

#[test]
fn several_units_are_started_and_stopped_at_the_same_time() {
    let loom = Loom::start();
    for name in ["a", "b", "c", "d"] {
        loom.write_unit(&format!("{name}.service.toml"), SLOW);
    }
    loom.ctl(["daemon-reload"]).success();
    loom.ctl(["start", "a", "b", "c", "d"]).success();
    let from = Instant::now();
    let said = loom.ctl(["stop", "--all"]).success();
    assert!(from.elapsed() < Duration::from_secs(4), "one after the other takes four seconds: {:?}", from.elapsed());
    for name in ["a", "b", "c", "d"] {
        assert!(said.stderr.contains(&format!("{name}.service is inactive (dead)")), "{said:?}");
    }
    let mixed = loom.ctl(["start", "a", "nobody", "b"]);
    assert_eq!(mixed.status, 5, "{mixed:?}");
    assert_eq!(loom.until_active("b")["active_state"], "active", "one that fails keeps no other back");
    assert!(loom.ctl(["start", "c", "--no-wait"]).success().stderr.contains("c.service"));
    loom.until_active("c");
}

#[test]
fn a_job_goes_on_when_its_client_is_killed() {
    let loom = Loom::start();
    loom.unit("slow.service.toml", SLOW);
    loom.ctl(["start", "slow"]).success();
    let before = loom.main_pid("slow");
    let mut client = loom.ctl_child(["restart", "slow"]);
    loom.until("the restart is under way", "slow", |view| view["active_state"] == "deactivating");
    client.kill().unwrap();
    client.wait().unwrap();
    let view =
        loom.until("it is back in a new run", "slow", |view| view["active_state"] == "active" && view["run"] == 2);
    assert_ne!(view["main_pid"], before);
}

#[test]
fn the_state_of_a_unit_is_a_word_and_an_exit_status() {
    let loom = Loom::start();
    loom.unit("nap.service.toml", NAP);
    loom.write_unit(
        "bad.service.toml",
        "[exec]\ncommand = [\"false\"]\n[ready]\ntype = \"oneshot\"\n[restart]\npolicy = \"no\"\n",
    );
    loom.ctl(["daemon-reload"]).success();
    let is = |words: &[&str]| {
        let said = loom.ctl(words);
        (said.status, said.stdout)
    };
    assert_eq!(is(&["is-active", "nap"]), (1, "inactive\n".to_owned()));
    loom.ctl(["start", "nap"]).success();
    assert_eq!(is(&["is-active", "nap"]), (0, "active\n".to_owned()));
    assert_eq!(loom.ctl(["start", "bad"]).status, 1);
    assert_eq!(is(&["is-failed", "bad", "nap"]), (0, "failed\nactive\n".to_owned()));
    assert_eq!(is(&["is-failed", "nap"]), (1, "active\n".to_owned()));
    assert_eq!(is(&["is-active", "nobody"]), (5, String::new()));
}

#[test]
fn events_tell_every_change_of_state_as_it_happens() {
    let loom = Loom::start();
    loom.unit("nap.service.toml", NAP);
    loom.unit("other.service.toml", NAP);
    loom.ctl(["start", "nap", "other"]).success();
    // With what is remembered first, so that it is known to listen.
    let mut live = loom.ctl_child(["events", "nap", "-f", "--json", "--since", "1h"]);
    let lines = BufReader::new(live.stdout.take().unwrap()).lines();
    let mut events = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let mut until = |word: &str| {
        let event = events.find(|event| event["to"] == word).unwrap_or_else(|| panic!("no change to {word}"));
        assert_eq!(
            (&event["unit"], &event["version"], &event["kind"]),
            (&"nap.service".into(), &1.into(), &"changed".into())
        );
    };
    until("active");
    loom.ctl(["restart", "nap"]).success();
    ["deactivating", "activating", "active"].into_iter().for_each(&mut until);
    live.kill().unwrap();
    live.wait().unwrap();
    let text = loom.ctl(["events", "other"]).success().stdout;
    assert!(text.lines().any(|line| line.contains("other.service") && line.contains("-> active")), "{text}");
}

#[test]
fn dependencies_are_a_tree_and_starts_have_their_times() {
    let loom = Loom::start();
    loom.write_unit("db.service.toml", NAP);
    loom.write_unit("chat.service.toml", &format!("[unit]\nrequires = [\"db.service\"]\n{NAP}"));
    loom.write_unit("all.target.toml", "[unit]\nwants = [\"chat.service\"]\n");
    loom.ctl(["daemon-reload"]).success();
    loom.ctl(["start", "all.target"]).success();
    loom.until_active("chat");
    let tree = loom.ctl(["list-dependencies", "all"]).success().stdout;
    let expected = "● all.target (active)\n└─● chat.service (active)\n  └─● db.service (active)\n";
    assert_eq!(tree, expected);
    let reverse = loom.ctl(["list-dependencies", "--reverse", "db"]).success().stdout;
    assert!(reverse.contains("└─● chat.service"), "{reverse}");
    let blame = loom.ctl(["analyze", "blame"]).success().stdout;
    assert!(blame.contains("db.service") && blame.contains("ms"), "{blame}");
    let chain = loom.ctl(["analyze", "critical-chain", "chat"]).success().stdout;
    assert!(chain.starts_with("chat.service @") && chain.contains("└─db.service @"), "{chain}");
    let top = loom.ctl(["top", "-n", "1", "--json"]).success().json();
    let units: Vec<&str> = top["units"].as_array().unwrap().iter().filter_map(|unit| unit["unit"].as_str()).collect();
    assert_eq!(units, ["chat.service", "db.service"]);
    assert!(top["units"][0]["memory_bytes"].as_u64().unwrap() > 0 && top["units"][0]["tasks"] == 1, "{top}");
}

#[test]
fn a_command_runs_as_a_unit_and_leaves_no_file() {
    let loom = Loom::start();
    loom.unit("own.service.toml", NAP);
    let files = || std::fs::read_dir(loom.path().join("run/transient")).map_or(0, |found| found.flatten().count());
    let said = loom.ctl(["run", "--name", "job", "--wait", "--", "sh", "-c", "echo hello; exit 7"]);
    assert_eq!(said.status, 7, "{said:?}");
    // It failed, so it stays until somebody has looked.
    assert_eq!(
        (loom.until("it failed", "job", |view| view["active_state"] == "failed")["result"].clone(), files()),
        ("exit-code".into(), 1)
    );
    assert!(loom.ctl(["cat", "job"]).success().stdout.contains("exit 7"));
    assert_eq!(loom.ctl(["run", "--name", "job", "--", "true"]).status, 1, "the name is taken");
    assert_eq!(loom.ctl(["run", "--name", "own", "--", "true"]).status, 1, "a file has that name");
    loom.ctl(["stop", "job"]);
    let said = loom.ctl(["run", "--name", "fine", "--wait", "--collect", "--", "sh", "-c", "exit 3"]);
    assert_eq!(said.status, 3, "{said:?}");
    loom_tests::until("its file is gone", Duration::from_secs(20), || {
        let there = loom.path().join("run/transient/fine.service.toml").exists() || loom.view("fine").is_some();
        if there { Err("it is there".to_owned()) } else { Ok(()) }
    });
    let bad = loom.ctl(["run", "--name", "bad", "-p", "limits.taskz=3", "--", "true"]);
    assert_eq!(bad.status, 4, "{bad:?}");
    assert!(!loom.path().join("run/transient/bad.service.toml").exists());
    loom.ctl(["run", "--name", "nap", "--", "sleep", "1000"]).success();
    assert_eq!(loom.until_active("nap")["active_state"], "active");
    loom.ctl(["daemon-reload"]).success();
    assert_eq!(loom.until_active("nap")["not_found"], false, "a reload keeps it");
    loom.ctl(["stop", "nap"]).success();
    loom_tests::until("it is forgotten", Duration::from_secs(20), || {
        if loom.view("nap").is_some() { Err("it is there".to_owned()) } else { Ok(()) }
    });
}

#[test]
fn a_reload_tells_the_difference_first_and_apply_restarts_only_what_changed() {
    let loom = Loom::start();
    for name in ["same", "other", "part"] {
        loom.write_unit(&format!("{name}.service.toml"), NAP);
    }
    loom.ctl(["daemon-reload"]).success();
    loom.ctl(["start", "same", "other"]).success();
    let before = loom.main_pid("same");
    loom.write_unit("other.service.toml", "[exec]\ncommand = [\"sleep\", \"999\"]\n[stop]\ntimeout = \"3s\"\n");
    loom.write_unit("new.service.toml", NAP);
    std::fs::remove_file(loom.path().join("units/part.service.toml")).unwrap();
    let dry = loom.ctl(["daemon-reload", "--dry-run"]).success().stdout;
    for line in [
        "added    new.service",
        "changed  other.service  exec.command[1], stop.timeout",
        "removed  part.service",
        "needs restart: other.service",
    ] {
        assert!(dry.lines().any(|found| found == line), "`{line}` is missing: {dry}");
    }
    assert_eq!(loom.ctl(["daemon-reload", "--dry-run"]).success().stdout, dry, "nothing was changed");
    let applied = loom.ctl(["apply", "--json"]).success().json();
    assert_eq!(applied["reload"]["needs_restart"], serde_json::json!(["other.service"]));
    loom.until("the changed one runs anew", "other", |view| view["run"] == 2 && view["needs_restart"] == false);
    assert_eq!(loom.main_pid("same"), before);
}
