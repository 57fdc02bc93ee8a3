//! What a process is given: its named descriptors, and nothing else of loomd's.

use loom_tests::{LIMIT, Loom, descriptors, until};
use std::collections::BTreeMap;

const SLEEPER: &str = "[exec]\ncommand = [\"sleep\", \"1000\"]\n";

/// 0 leads nowhere, 1 and 2 to the log of the run.
#[track_caller]
fn has_standard_streams(of: &BTreeMap<i32, String>, unit: &str) {
    assert_eq!(of[&0], "/dev/null", "{of:?}");
    assert!(of[&1].ends_with(&format!("/logs/units/{unit}/1.log")) && of[&1] == of[&2], "{of:?}");
}

#[test]
fn a_service_has_its_three_streams_and_its_lock() {
    let loom = Loom::start();
    loom.unit("nap.service.toml", SLEEPER);
    loom.ctl(["start", "nap"]).success();
    let found = descriptors(loom.main_pid("nap"));
    has_standard_streams(&found, "nap.service");
    let others: Vec<&String> = found.iter().filter(|(number, _)| **number > 2).map(|(_, target)| target).collect();
    assert!(matches!(others[..], [lock] if lock.ends_with("/units/nap.service/lock")), "{found:?}");
}

#[test]
fn an_agent_also_has_its_token_its_configuration_and_its_credentials() {
    let loom = Loom::start();
    let key = loom.path().join("key");
    std::fs::write(&key, "sk-1").unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    // No Python: it would close what it has read.
    loom.unit("nap.agent.toml", &format!("{SLEEPER}credentials = {{ key = {key:?} }}\n"));
    loom.ctl(["start", "nap"]).success();
    let found = descriptors(loom.main_pid("nap"));
    has_standard_streams(&found, "nap.agent");
    let others: Vec<&String> = found.iter().filter(|(number, _)| **number > 2).map(|(_, target)| target).collect();
    let [token, config, credential, lock] = others[..] else { panic!("{found:?}") };
    for memory in [token, config, credential] {
        assert!(memory.starts_with("/memfd:") || memory.starts_with("pipe:"), "{found:?}");
    }
    assert!(lock.ends_with("/units/nap.agent/lock"), "{found:?}");
    assert_eq!(found.keys().copied().collect::<Vec<_>>()[..6], [0, 1, 2, 3, 4, 5], "{found:?}");
}

#[test]
fn a_tool_worker_has_its_stream_and_the_log() {
    let loom = Loom::start();
    loom.python_agent("counter", "counter.py", "[tools]\nallow = [\"fs:list\"]\n");
    loom.ctl(["start", "counter"]).success();
    loom.ctl(["ask", "counter", r#"tool fs:list {"path": "."}"#]).success();
    let worker = until("the worker waits for the next call", LIMIT, || {
        let all = loom.processes();
        all.iter().find(|(_, command)| command.contains("loom-worker")).map(|(pid, _)| *pid).ok_or(format!("{all:?}"))
    });
    let found = descriptors(worker);
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [0, 1, 2], "{found:?}");
    assert!(found[&0].starts_with("socket:"), "{found:?}");
}

#[test]
fn a_hundred_rounds_leave_the_supervisor_as_it_was() {
    let loom = Loom::start();
    loom.unit("nap.service.toml", SLEEPER);
    loom.unit("nap.agent.toml", SLEEPER);
    let rounds = |count: usize| {
        for _ in 0..count {
            for unit in ["nap.service", "nap.agent"] {
                loom.ctl(["start", unit]).success();
            }
            for unit in ["nap.service", "nap.agent"] {
                loom.ctl(["stop", unit]).success();
            }
        }
    };
    let threads = || std::fs::read_dir(format!("/proc/{}/task", loom.daemon_pid())).unwrap().count();
    // The store's own files come and go with its log; it has a limit for them.
    let open = || {
        let mut open = descriptors(loom.daemon_pid());
        open.retain(|_, target| !target.contains("/state/store/"));
        open
    };
    rounds(5);
    let (open_before, threads_before) = (open(), threads());
    rounds(100);
    until("descriptors and threads are as before", LIMIT, || {
        let (open, threads) = (open(), threads());
        if open.len() <= open_before.len() && threads <= threads_before {
            return Ok(());
        }
        let new: Vec<_> = open.iter().filter(|(number, _)| !open_before.contains_key(number)).collect();
        Err(format!("{threads_before} threads became {threads}; new descriptors: {new:?}"))
    });
}
