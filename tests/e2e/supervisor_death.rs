//! `kill -9` of loomd: agents live on, a new loomd finds them again.

use loom_tests::{Loom, lives};
use std::time::{Duration, Instant};

fn ten() -> Vec<String> {
    (0..10).map(|n| format!("nap-{n}")).collect()
}

#[test]
fn a_killed_supervisor_leaves_every_agent_running_once() {
    let mut loom = Loom::start();
    for name in ten() {
        loom.write_unit(&format!("{name}.service.toml"), "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    }
    loom.ctl(["daemon-reload"]).success();
    for name in ten() {
        loom.ctl(["start", &name]).success();
    }
    let before: Vec<i32> = ten().iter().map(|name| loom.main_pid(name)).collect();
    loom.kill_daemon();
    assert!(before.iter().all(|pid| lives(*pid)), "agents died with their supervisor");
    loom.start_daemon();
    let ready = Instant::now();
    for (name, pid) in ten().iter().zip(&before) {
        let view = loom.view(name).unwrap();
        assert_eq!(
            (view["main_pid"].as_i64(), view["run"].as_u64(), view["active_state"].as_str()),
            (Some(i64::from(*pid)), Some(1), Some("active")),
            "{view}"
        );
    }
    assert!(ready.elapsed() < Duration::from_secs(5));
    let sleeps = loom.processes().iter().filter(|(_, command)| command.contains("sleep")).count();
    assert_eq!(sleeps, 10, "{:?}", loom.processes());
}

#[test]
fn what_outlived_a_loomd_starts_anew_where_orphans_are_killed() {
    let mut loom = Loom::new();
    let config = loom.path().join("loom.toml");
    std::fs::write(&config, "orphans = \"kill\"\n").unwrap();
    loom.env("LOOM_CONFIG", &config.display().to_string());
    loom.start_daemon();
    loom.unit("nap.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    loom.ctl(["start", "nap"]).success();
    let pid = loom.main_pid("nap");
    loom.kill_daemon();
    loom.start_daemon();
    loom.until("a new run", "nap", |view| view["run"] == 2 && view["active_state"] == "active");
    assert!(!lives(pid), "the old one is gone");
}

#[test]
fn an_adopted_process_is_stopped_and_watched_like_any_other() {
    let mut loom = Loom::start();
    loom.unit("nap.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    loom.ctl(["start", "nap"]).success();
    loom.kill_daemon();
    loom.start_daemon();
    let pid = loom.kill_main("nap");
    let back = loom.until("a new run", "nap", |v| v["run"] == 2 && v["active_state"] == "active");
    assert_ne!(back["main_pid"].as_i64(), Some(i64::from(pid)));
    loom.kill_daemon();
    loom.start_daemon();
    loom.ctl(["stop", "nap"]).success();
    assert_eq!(loom.view("nap").unwrap()["active_state"], "inactive");
}

#[test]
fn an_instance_started_by_name_is_adopted_as_what_its_template_makes_it() {
    let mut loom = Loom::start();
    loom.unit("nap@.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    loom.ctl(["start", "nap@one.service"]).success();
    let pid = loom.main_pid("nap@one.service");
    loom.kill_daemon();
    loom.start_daemon();
    let view = loom.view("nap@one.service").unwrap();
    assert_eq!((view["main_pid"].as_i64(), &view["not_found"]), (Some(i64::from(pid)), &false.into()), "{view}");
    loom.kill_main("nap@one.service");
    loom.until("a new run", "nap@one.service", |v| v["run"] == 2 && v["active_state"] == "active");
    // What was up comes back with the next loomd, instances too.
    loom.stop_daemon();
    loom.start_daemon();
    loom.until("a third run", "nap@one.service", |v| v["run"] == 3 && v["active_state"] == "active");
}

#[test]
fn what_died_while_no_supervisor_lived_is_lost_and_its_policy_applies_once() {
    let mut loom = Loom::start();
    loom.unit("nap.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    loom.ctl(["start", "nap"]).success();
    let pid = loom.main_pid("nap");
    loom.kill_daemon();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    loom.start_daemon();
    let back = loom.until("a new run", "nap", |v| v["active_state"] == "active");
    assert_eq!(back["run"], 2, "{back}");
    // Where nobody has reaped it yet the kernel still tells its end; where it was reaped, nobody can.
    assert!(["lost", "signal"].contains(&back["result"].as_str().unwrap()), "{back}");
}

#[test]
fn an_agent_talks_to_the_new_supervisor_with_its_old_state() {
    let mut loom = Loom::start();
    loom.python_agent("counter", "counter.py", "");
    loom.ctl(["start", "counter"]).success();
    assert_eq!(loom.ctl(["ask", "counter", "bump"]).success().stdout.trim(), "1");
    let pid = loom.main_pid("counter");
    loom.kill_daemon();
    loom.start_daemon();
    assert_eq!(loom.ctl(["ask", "counter", "bump"]).success().stdout.trim(), "2");
    assert_eq!(loom.ctl(["ask", "counter", "pid"]).success().stdout.trim(), pid.to_string());
}
