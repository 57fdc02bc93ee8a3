//! loomd dies at each named place between the wish to start something and its end.

use loom_tests::{LIMIT, Loom, checkout, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Instant;

/// How often each place is passed before it kills: first start, restart, and while others are under way.
const TIMES: [u32; 3] = [1, 2, 5];

/// The names in `fault::point("…")` all over loomd.
fn places() -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![checkout().join("supervisor/daemon/src")];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let names = text.split("fault::point(\"").skip(1).filter_map(|rest| rest.split('"').next());
                found.extend(names.map(str::to_owned));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_crash_at_any_step_of_a_spawn_leaves_no_unrecorded_process() {
    // Those of schedules are passed by schedules only: schedules.rs dies there.
    let places: Vec<String> = places().into_iter().filter(|place| !place.starts_with("timers.")).collect();
    assert!(places.len() >= 10, "{places:?}");
    let mut doubled = places.clone();
    doubled.dedup();
    assert_eq!(places, doubled, "every place has a name of its own");
    for place in &places {
        for times in TIMES {
            dies_at(place, times);
        }
    }
}

fn dies_at(place: &str, times: u32) {
    let seen = format!("{place}:{times}");
    let mut loom = Loom::new();
    loom.write_unit(
        "nap.service.toml",
        "[exec]\ncommand = [\"sleep\", \"1000\"]\n[restart]\npolicy = \"always\"\ndelay = \"0ms\"\nmax_delay = \"50ms\"\n",
    );
    loom.env("LOOM_FAULT", &seen);
    loom.start_daemon();
    // Starts and ends, until loomd is dead.
    let limit = Instant::now() + LIMIT;
    while !loom.daemon_is_dead() {
        assert!(Instant::now() < limit, "loomd never passed {seen}:\n{}", loom.daemon_words());
        if loom.ctl(["restart", "nap"]).status == 0
            && let Some(view) = loom.view("nap")
            && let Some(pid) = view["main_pid"].as_i64()
        {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
            until("another run, or death", LIMIT, || match loom.view("nap") {
                Some(now) if now["run"].as_u64() <= view["run"].as_u64() => Err(now.to_string()),
                Some(_) | None => Ok(()),
            });
        }
    }
    loom.bury_daemon();
    loom.env("LOOM_FAULT", "");
    loom.start_daemon();
    // What was asked for last is so in the end, exactly once; a start that nobody was told of may be forgotten.
    loom.ctl(["start", "nap"]).success();
    loom.until_active("nap");
    let sleeps = || loom.processes().into_iter().filter(|(_, command)| command.contains("sleep")).count();
    assert_eq!(sleeps(), 1, "{seen}: {:?}", loom.processes());
    loom.ctl(["stop", "nap"]).success();
    until("nothing is left", LIMIT, || match sleeps() {
        0 => Ok(()),
        left => Err(format!("{seen}: {left} {:?}", loom.processes())),
    });
}
