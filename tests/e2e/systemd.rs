//! Programs made for systemd under Loom, and loomd under a service manager.

use loom_tests::{LIMIT, Loom, agent_file, python, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

fn has_libsystemd() -> bool {
    let has = ["/lib", "/usr/lib"].iter().any(|top| {
        let arch = format!("{}-linux-gnu", std::env::consts::ARCH);
        std::path::Path::new(top).join(arch).join("libsystemd.so.0").exists()
    });
    if !has {
        println!("skipped: needs libsystemd.so.0");
    }
    has
}

#[test]
fn a_program_made_for_systemd_runs_as_it_is() {
    if !has_libsystemd() {
        return;
    }
    let loom = Loom::start();
    let script = agent_file("made_for_systemd.py");
    let command = serde_json::json!([python(), script]);
    loom.unit(
        "web.service.toml",
        &format!(
            "[exec]\ncommand = {command}\n[ready]\ntype = \"notify-reload\"\n[watchdog]\ninterval = \"1s\"\nabort_timeout = \"500ms\"\n\
             [restart]\ndelay = \"10ms\"\n[sandbox]\nprofile = \"python\"\n"
        ),
    );
    loom.ctl(["start", "web"]).success();
    let view = loom.until_active("web");
    assert_eq!(view["status_text"], "serving", "{view}");
    let read = |file: &str| std::fs::read_to_string(loom.state_dir("web.service").join(file)).unwrap_or_default();
    assert_eq!(read("watchdog_usec"), "1000000", "sd_watchdog_enabled checks WATCHDOG_PID too");
    loom.ctl(["reload", "web"]).success();
    assert_eq!(read("reloads"), "1", "reload answers once it is done");
    let view = loom.view("web").unwrap();
    assert_eq!(
        (view["run"].as_u64(), view["status_text"].as_str()),
        (Some(1), Some("read its settings 1 times")),
        "{view}"
    );
    // It beats on for longer than its interval, and when it does not, it is ended and comes back.
    let from = Instant::now();
    until("two intervals are over", LIMIT, || {
        if from.elapsed() > Duration::from_secs(2) { Ok(()) } else { Err("not yet".into()) }
    });
    assert_eq!(loom.view("web").unwrap()["run"], 1);
    kill(Pid::from_raw(loom.main_pid("web")), Signal::SIGSTOP).unwrap();
    let view = loom.until("it came back", "web", |view| view["run"] == 2 && view["active_state"] == "active");
    assert_eq!(view["result"], "watchdog", "{view}");
    loom.ctl(["stop", "web"]).success();
    assert_eq!(loom.view("web").unwrap()["result"], "success");
}

#[test]
fn loomd_tells_its_service_manager_what_the_protocol_asks_for() {
    let mut loom = Loom::new();
    loom.env("WATCHDOG_USEC", "600000");
    loom.write_unit("nap.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    loom.start_daemon();
    let wait_for = |loom: &Loom, what: &str| {
        until(&format!("loomd says {what}"), LIMIT, || match loom.said_upward() {
            Some(message) if message.lines().any(|line| line == what) => Ok(message),
            other => Err(format!("{other:?}")),
        })
    };
    // Two beats are never further apart than what was asked for.
    wait_for(&loom, "WATCHDOG=1");
    for _ in 0..5 {
        let from = Instant::now();
        wait_for(&loom, "WATCHDOG=1");
        assert!(from.elapsed() < Duration::from_millis(600), "{:?}", from.elapsed());
    }
    kill(Pid::from_raw(loom.daemon_pid()), Signal::SIGHUP).unwrap();
    let reloading = wait_for(&loom, "RELOADING=1");
    let stamp = reloading
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="))
        .expect("Type=notify-reload asks for it");
    assert!(stamp.parse::<u64>().is_ok_and(|usec| usec > 0), "{reloading}");
    wait_for(&loom, "READY=1");
    loom.ctl(["start", "nap"]).success();
    kill(Pid::from_raw(loom.daemon_pid()), Signal::SIGTERM).unwrap();
    wait_for(&loom, "STOPPING=1");
}
