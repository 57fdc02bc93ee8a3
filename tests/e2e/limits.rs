//! Limits of a whole tree, and what the kernel's killing looks like.

use loom_tests::{LIMIT, Loom, python, until};
use serde_json::Value;

/// Whether this machine lets loomd limit groups by this controller; says so if not.
fn has(loom: &Loom, controller: &str) -> bool {
    let machine = &loom.ctl(["status", "--json"]).success().json()["supervisor"]["machine"];
    let has = !machine["controllers"][controller].is_null();
    if !has {
        println!("skipped: needs a control group with the {controller} controller");
    }
    has
}

fn python_service(loom: &Loom, name: &str, script: &str, more: &str) {
    let command = serde_json::json!([python(), "-c", script]);
    let text = format!("[exec]\ncommand = {command}\n[sandbox]\nprofile = \"python\"\n{more}");
    loom.unit(&format!("{name}.service.toml"), &text);
}

fn enforced(view: &Value) -> &Value {
    let all = view["enforcement"].as_array().unwrap();
    &all.iter().find(|one| one["promise"] == "limits").unwrap()["value"]
}

#[test]
fn a_fork_bomb_ends_at_its_task_limit_and_wholly_with_its_unit() {
    let loom = Loom::start();
    if !has(&loom, "tasks") {
        return;
    }
    let bomb = "import os, time\nmade = 0\nwhile True:\n    try:\n        if os.fork() == 0:\n            time.sleep(1000)\n        \
                made += 1\n    except BlockingIOError:\n        break\n\
                open(os.environ['HOME'] + '/made', 'w').write(str(made))\ntime.sleep(1000)\n";
    python_service(&loom, "bomb", bomb, "[limits]\ntasks = 20\n[stop]\ntimeout = \"2s\"\n");
    loom.ctl(["start", "bomb"]).success();
    let made = until("it hit its limit", LIMIT, || {
        std::fs::read_to_string(loom.state_dir("bomb.service").join("made")).map_err(|error| error.to_string())
    });
    assert!(made.parse::<u32>().is_ok_and(|made| (10..20).contains(&made)), "{made}");
    let view = loom.view("bomb").unwrap();
    assert_eq!(enforced(&view), "fully", "{view}");
    loom.ctl(["stop", "bomb"]);
    assert!(loom.processes().iter().all(|(_, command)| !command.contains("os.fork")), "{:?}", loom.processes());
    // The supervisor and its neighbours have all they need.
    loom.unit("nap.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    loom.ctl(["start", "nap"]).success();
}

#[test]
fn what_eats_its_memory_is_killed_and_told_apart() {
    let loom = Loom::start();
    if !has(&loom, "memory") {
        return;
    }
    let eater = "kept = []\nwhile True:\n    kept.append(bytearray(1 << 20))\n";
    python_service(&loom, "eater", eater, "[limits]\nmemory = \"64M\"\n[restart]\npolicy = \"no\"\n");
    loom.ctl(["start", "eater"]);
    let view = loom.until("it was killed", "eater", |view| view["active_state"] == "failed");
    assert_eq!(view["result"], "oom-kill", "{view}");
    let crashes = loom.ctl(["crashes", "eater", "--json"]).success().json();
    let report = &crashes["reports"][0];
    assert_eq!((report["result"].as_str(), report["run"].as_u64()), (Some("oom-kill"), Some(1)), "{crashes}");
    let peak = report["memory_peak_bytes"].as_u64().unwrap();
    assert!((32 << 20..=80 << 20).contains(&peak), "{peak}");
}

#[test]
fn a_child_killed_for_want_of_memory_is_shown_and_its_run_goes_on() {
    let loom = Loom::start();
    if !has(&loom, "memory") {
        return;
    }
    let parent = "import os, subprocess, sys, time\n\
                  child = subprocess.run([sys.executable, '-c', 'kept = []\\nwhile True: kept.append(bytearray(1 << 20))'])\n\
                  open(os.environ['HOME'] + '/child', 'w').write(str(child.returncode))\ntime.sleep(1000)\n";
    python_service(&loom, "parent", parent, "[limits]\nmemory = \"96M\"\n");
    loom.ctl(["start", "parent"]).success();
    let child = until("the child ended", LIMIT, || {
        let text = std::fs::read_to_string(loom.state_dir("parent.service").join("child")).unwrap_or_default();
        if text.is_empty() { Err("not yet".to_owned()) } else { Ok(text) }
    });
    assert_eq!(child, "-9");
    let view = loom.view("parent").unwrap();
    assert_eq!((view["active_state"].as_str(), view["run"].as_u64()), (Some("active"), Some(1)), "{view}");
    until("it is told", LIMIT, || {
        let words = loom.ctl(["logs", "parent", "-n", "100"]).stdout;
        if words.contains("oom-kill") { Ok(()) } else { Err(words) }
    });
}

#[test]
fn a_limit_that_cannot_be_enforced_stops_the_start_and_says_the_way_out() {
    let mut loom = Loom::new();
    loom.as_ordinary_user();
    loom.start_daemon();
    let machine = loom.ctl(["status", "--json"]).success().json();
    if !machine["supervisor"]["machine"]["controllers"]["memory"].is_null() {
        println!("skipped: needs a machine where an ordinary user cannot limit memory");
        return;
    }
    loom.unit("big.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n[limits]\nmemory = \"64M\"\n");
    let said = loom.ctl(["start", "big"]);
    assert_eq!(said.status, 1, "{said:?}");
    for words in ["memory", "allow_unenforced = [\"limits\"]"] {
        assert!(said.stderr.contains(words), "{}", said.stderr);
    }
    loom.unit(
        "big.service.toml",
        "[exec]\ncommand = [\"sleep\", \"1000\"]\n[limits]\nmemory = \"64M\"\n[sandbox]\nallow_unenforced = [\"limits\"]\n",
    );
    loom.ctl(["start", "big"]).success();
    assert!(enforced(&loom.view("big").unwrap())["not"].is_string());
}

#[test]
fn a_frozen_unit_stands_still_and_goes_on() {
    let loom = Loom::start();
    let machine = loom.ctl(["status", "--json"]).success().json();
    if machine["supervisor"]["machine"]["cgroup_v2"].is_null() {
        println!("skipped: needs cgroup v2");
        return;
    }
    let counter = "import os, time\nn = 0\nwhile True:\n    n += 1\n    open(os.environ['HOME'] + '/n', 'w').write(str(n))\n    \
                   time.sleep(0.01)\n";
    python_service(&loom, "count", counter, "");
    loom.ctl(["start", "count"]).success();
    let read = || std::fs::read_to_string(loom.state_dir("count.service").join("n")).unwrap_or_default();
    let moves = |from: &str| {
        until("it counts on", LIMIT, || match read() {
            now if now == from || now.is_empty() => Err(now),
            now => Ok(now),
        })
    };
    moves("");
    loom.ctl(["freeze", "count"]).success();
    let still = read();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(read(), still, "it was to stand still");
    assert_eq!(loom.view("count").unwrap()["frozen"], true);
    loom.ctl(["thaw", "count"]).success();
    moves(&still);
}
