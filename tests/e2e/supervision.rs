//! Starting, ending and coming back.

use loom_tests::{LIMIT, Loom, agent_file, lives, python, until};
use std::time::Duration;

const SLEEPER: &str = "[exec]\ncommand = [\"sleep\", \"1000\"]\n";

#[test]
fn a_service_starts_restarts_and_stops() {
    let loom = Loom::start();
    loom.unit("nap.service.toml", SLEEPER);
    loom.ctl(["start", "nap"]).success();
    let first = loom.until_active("nap");
    assert_eq!((first["run"].as_u64(), first["sub_state"].as_str()), (Some(1), Some("running")));
    loom.ctl(["restart", "nap"]).success();
    let second = loom.until_active("nap");
    assert_eq!(second["run"], 2);
    assert_ne!(first["main_pid"], second["main_pid"]);
    loom.ctl(["stop", "nap"]).success();
    let last = loom.view("nap").unwrap();
    assert_eq!((last["active_state"].as_str(), last["result"].as_str()), (Some("inactive"), Some("success")));
    assert!(!lives(second["main_pid"].as_i64().unwrap() as i32));
}

#[test]
fn a_killed_process_comes_back_under_a_new_run_number() {
    let loom = Loom::start();
    loom.unit("nap.service.toml", SLEEPER);
    loom.ctl(["start", "nap"]).success();
    loom.kill_main("nap");
    let back = loom.until("it runs again", "nap", |v| v["run"] == 2 && v["active_state"] == "active");
    assert_eq!((back["restarts"].as_u64(), back["result"].as_str()), (Some(1), Some("signal")));
}

#[test]
fn a_clean_exit_is_not_restarted_and_a_wrong_configuration_never() {
    let loom = Loom::start();
    loom.unit("clean.service.toml", "[exec]\ncommand = [\"true\"]\n");
    loom.unit(
        "config.service.toml",
        "[exec]\ncommand = [\"sh\", \"-c\", \"exit 78\"]\n[restart]\npolicy = \"always\"\n",
    );
    loom.ctl(["start", "clean"]);
    loom.ctl(["start", "config"]);
    loom.until("clean ended", "clean", |v| v["active_state"] == "inactive" && v["run"] == 1);
    let config = loom.until("config failed", "config", |v| v["active_state"] == "failed");
    assert_eq!((config["run"].as_u64(), config["result"].as_str()), (Some(1), Some("exit-code")));
}

#[test]
fn what_ignores_sigterm_is_killed_after_its_timeout() {
    let loom = Loom::start();
    let script = agent_file("ignores_sigterm.py");
    loom.unit(
        "deaf.service.toml",
        &format!(
            "[exec]\ncommand = [\"/usr/bin/env\", \"python3\", {script:?}]\n[stop]\ntimeout = \"300ms\"\n[sandbox]\nprofile = \"python\"\n"
        )
        .replace("\"/usr/bin/env\", \"python3\"", &format!("{:?}", python())),
    );
    loom.ctl(["start", "deaf"]).success();
    until("it ignores SIGTERM", LIMIT, || {
        std::fs::metadata(loom.state_dir("deaf.service").join("ready")).map_err(|e| e.to_string())
    });
    let pid = loom.main_pid("deaf");
    loom.ctl(["stop", "deaf"]);
    assert!(!lives(pid));
    let view = loom.view("deaf").unwrap();
    assert!(view["main_pid"].is_null(), "{view}");
}

#[test]
fn what_stands_still_is_woken_by_its_stop_and_ends_in_order() {
    let loom = Loom::start();
    let script = "trap 'echo ended > $HOME/ended; exit 0' TERM; echo up > $HOME/up; while :; do sleep 0.05; done";
    loom.unit("still.service.toml", &format!("[exec]\ncommand = [\"sh\", \"-c\", {script:?}]\n"));
    loom.ctl(["start", "still"]).success();
    let state = loom.state_dir("still.service");
    until("it is up", LIMIT, || std::fs::metadata(state.join("up")).map_err(|error| error.to_string()));
    let pid = loom.main_pid("still");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGSTOP).unwrap();
    loom.ctl(["stop", "still"]).success();
    assert_eq!(loom.view("still").unwrap()["result"], "success");
    assert_eq!(std::fs::read_to_string(state.join("ended")).unwrap(), "ended\n", "SIGCONT follows the signal");
}

#[test]
fn nothing_of_a_unit_outlives_it() {
    let loom = Loom::start();
    let script = agent_file("forks_away.py");
    loom.unit(
        "roamer.service.toml",
        &format!(
            "[exec]\ncommand = [{:?}, {script:?}]\n[stop]\ntimeout = \"1s\"\n[sandbox]\nprofile = \"python\"\n",
            python()
        ),
    );
    loom.ctl(["start", "roamer"]).success();
    let grandchild: i32 = until("the grandchild lives", LIMIT, || {
        std::fs::read_to_string(loom.state_dir("roamer.service").join("grandchild"))
            .map_err(|e| e.to_string())
            .and_then(|text| text.parse().map_err(|e| format!("{text:?}: {e}")))
    });
    assert!(lives(grandchild));
    loom.ctl(["stop", "roamer"]);
    assert!(!lives(grandchild), "the grandchild outlived its unit");
}

#[test]
fn a_hung_process_is_ended_by_its_watchdog_and_comes_back() {
    let loom = Loom::start();
    let script = agent_file("hangs.py");
    loom.unit(
        "stuck.service.toml",
        &format!(
            "[exec]\ncommand = [{:?}, {script:?}]\n[ready]\ntype = \"notify\"\n[watchdog]\ninterval = \"400ms\"\nabort_timeout = \"1s\"\n[sandbox]\nprofile = \"python\"\n",
            python()
        ),
    );
    loom.ctl(["start", "stuck"]).success();
    let view = loom.until("a second run", "stuck", |v| v["run"].as_u64() >= Some(2));
    assert_eq!(view["result"], "watchdog", "{view}");
}

#[test]
fn a_program_that_is_not_there_is_named_with_its_stage() {
    let loom = Loom::start();
    loom.write_unit("ghost.service.toml", "[exec]\ncommand = [\"/no/such/program\"]\n");
    loom.ctl(["daemon-reload"]);
    let said = loom.ctl(["start", "ghost"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.stderr.contains("/no/such/program"), "{}", said.stderr);
    assert!(said.stderr.contains("hint"), "{}", said.stderr);
}

#[test]
fn a_unit_waits_for_what_it_requires_to_be_ready() {
    let loom = Loom::start();
    loom.write_unit(
        "base.service.toml",
        "[exec]\ncommand = [\"sh\", \"-c\", \"echo base; exit 0\"]\n[ready]\ntype = \"oneshot\"\n",
    );
    loom.write_unit("top.service.toml", &format!("[unit]\nrequires = [\"base.service\"]\n{SLEEPER}"));
    loom.unit("all.target.toml", "[unit]\nwants = [\"top.service\"]\n");
    loom.ctl(["start", "all.target"]).success();
    loom.until_active("top");
    assert_eq!(loom.view("base").unwrap()["run"], 1);
    assert_eq!(loom.view("all.target").unwrap()["active_state"], "active");
}

#[test]
fn sigterm_stops_every_unit_and_leaves_nothing() {
    let mut loom = Loom::start();
    for name in ["one", "two", "three"] {
        loom.write_unit(&format!("{name}.service.toml"), SLEEPER);
    }
    loom.ctl(["daemon-reload"]).success();
    for name in ["one", "two", "three"] {
        loom.ctl(["start", name]).success();
    }
    let (status, took) = loom.stop_daemon();
    assert_eq!(status, 0);
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(loom.processes(), []);
}

#[test]
fn a_second_supervisor_is_refused_and_names_the_first() {
    let loom = Loom::start();
    let said = loom.run("loomd", [] as [&str; 0]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.stderr.contains(&loom.daemon_pid().to_string()), "{}", said.stderr);
}
