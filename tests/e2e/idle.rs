//! Nothing polls: a supervisor with nothing to do sleeps.

use loom_tests::{LIMIT, Loom, until};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// RocksDB's own thread, which wakes every ten seconds whatever it is told: docs/adr/0008.
const NOT_OURS: &str = "store-timer";
/// How long nothing may happen. Nothing of ours is known to come less often.
const QUIET: Duration = Duration::from_secs(5);

/// How often each thread went to sleep, by id and name.
fn sleeps(pid: i32) -> BTreeMap<(String, String), u64> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let one = |task: std::fs::DirEntry| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?.trim().to_owned();
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        let count =
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()?;
        Some(((task.file_name().to_string_lossy().into_owned(), name), count))
    };
    tasks.filter_map(one).collect()
}

#[test]
fn a_supervisor_with_idle_units_does_not_wake() {
    let loom = Loom::start();
    for number in 0..20 {
        loom.write_unit(&format!("nap-{number}.service.toml"), "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    }
    loom.ctl(["daemon-reload"]).success();
    for number in 0..20 {
        loom.ctl(["start", &format!("nap-{number}")]).success();
    }
    until_no_thread_wakes(&loom);
}

/// Waits for [`QUIET`] without a wake-up of a thread of ours.
#[track_caller]
pub fn until_no_thread_wakes(loom: &Loom) {
    let ours = || {
        let mut all = sleeps(loom.daemon_pid());
        all.retain(|(_, name), _| name != NOT_OURS);
        all
    };
    assert!(ours().len() < sleeps(loom.daemon_pid()).len(), "that thread has another name now: {:?}", ours());
    let (mut before, mut since) = (ours(), Instant::now());
    until("no thread wakes for QUIET", LIMIT + QUIET, || {
        let now = ours();
        if now != before {
            let woke = format!(
                "{:?}",
                now.iter().filter(|(thread, count)| before.get(*thread) != Some(*count)).collect::<Vec<_>>()
            );
            (before, since) = (now, Instant::now());
            return Err(woke);
        }
        if since.elapsed() > QUIET { Ok(()) } else { Err("quiet".into()) }
    });
}

#[test]
fn a_start_says_what_a_person_would_ask_about_and_no_more() {
    let loom = Loom::start();
    let words = std::fs::read_to_string(loom.path().join("state/logs/loomd.jsonl")).unwrap();
    assert!(words.contains("loomd is ready"), "{words}");
    assert!(words.lines().count() < 10, "{words}");
}
