//! Many at once, and one again and again.

use loom_tests::{LIMIT, Loom, descriptors, lives, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Agents of the storm.
const STORM: usize = 100;
/// Restarts of one unit; the figure is part of the promise.
const RESTARTS: u64 = 10_000;
/// Stops that meet a crash; the figure is part of the promise.
const RACES: u32 = 1_000;
/// The longest that ten thousand restarts may take on a busy machine.
const LONG: Duration = Duration::from_secs(600);

const AT_ONCE: &str = "[restart]\npolicy = \"always\"\ndelay = \"0ms\"\nmax_delay = \"0ms\"\njitter = 0.0\n";

fn zombies_of(parent: i32) -> Vec<String> {
    let stat = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("stat")).ok();
    let is_one = |stat: &String| {
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        fields.first() == Some(&"Z") && fields.get(1).and_then(|pid| pid.parse().ok()) == Some(parent)
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(stat).filter(is_one).collect()
}

fn units(loom: &Loom) -> Vec<Value> {
    loom.ctl(["status", "--json"]).success().json()["units"].as_array().unwrap().clone()
}

/// Resident memory, kilobytes.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn size_of(directory: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn a_hundred_that_die_at_once_all_come_back_once() {
    let loom = Loom::start();
    for n in 0..STORM {
        loom.write_unit(
            &format!("nap-{n}.service.toml"),
            &format!("[exec]\ncommand = [\"sleep\", \"1000\"]\n{AT_ONCE}"),
        );
    }
    let names: Vec<String> = (0..STORM).map(|n| format!("nap-{n}")).collect();
    loom.write_unit(
        "all.target.toml",
        &format!("[unit]\nwants = {:?}\n", names.iter().map(|n| format!("{n}.service")).collect::<Vec<_>>()),
    );
    loom.ctl(["daemon-reload"]).success();
    loom.ctl(["start", "all.target"]).success();
    let all_up = |runs: u64| {
        until("all are up", LIMIT, || {
            let up = units(&loom)
                .iter()
                .filter(|unit| {
                    unit["kind"] == "service" && unit["active_state"] == "active" && unit["run"].as_u64() == Some(runs)
                })
                .count();
            if up == STORM { Ok(()) } else { Err(format!("{up} of {STORM}\n{}", loom.daemon_words())) }
        });
    };
    all_up(1);
    let before = descriptors(loom.daemon_pid()).len();
    for round in 2..=4u64 {
        let pids: Vec<i32> =
            units(&loom).iter().filter_map(|unit| unit["main_pid"].as_i64()).map(|pid| pid as i32).collect();
        assert_eq!(pids.len(), STORM);
        for pid in &pids {
            kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
        }
        all_up(round);
        assert!(pids.iter().all(|pid| !lives(*pid)));
        let sleeps = loom.processes().iter().filter(|(_, command)| command.contains("sleep")).count();
        assert_eq!(sleeps, STORM, "none is doubled");
    }
    until("no zombie and no descriptor is left", LIMIT, || {
        let (zombies, now) = (zombies_of(loom.daemon_pid()), descriptors(loom.daemon_pid()).len());
        if zombies.is_empty() && now <= before + 2 {
            Ok(())
        } else {
            Err(format!("{zombies:?}, {before} became {now}"))
        }
    });
}

#[test]
fn ten_thousand_restarts_leave_memory_descriptors_and_store_flat() {
    let loom = Loom::start();
    loom.unit("flash.service.toml", &format!("[exec]\ncommand = [\"true\"]\n{AT_ONCE}"));
    loom.ctl(["start", "flash", "--no-block"]).success();
    let pid = loom.daemon_pid();
    let store = loom.path().join("state/store");
    let look = |runs: u64| {
        until(&format!("run {runs}"), LONG, || {
            let run = loom.view("flash").and_then(|view| view["run"].as_u64()).unwrap_or(0);
            std::thread::sleep(Duration::from_millis(50));
            if run >= runs { Ok(()) } else { Err(format!("run {run}\n{}", loom.daemon_words())) }
        });
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
        // A start under way has some of its own: what is there at every look is loomd's.
        let looks = (0..20).map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            descriptors(pid)
        });
        let fewest = looks.min_by_key(BTreeMap::len).unwrap_or_default();
        (fewest, threads, resident(pid), size_of(&store))
    };
    let warm = look(RESTARTS / 5);
    let last = look(RESTARTS);
    eprintln!("threads, resident KiB, store bytes: {:?} then {:?}", (warm.1, warm.2, warm.3), (last.1, last.2, last.3));
    // How many tables the database has open follows its own rhythm, and has a limit of its own.
    let of_loomd = |all: &BTreeMap<i32, String>| all.values().filter(|path| !path.contains("/store/")).count();
    assert!(of_loomd(&last.0) <= of_loomd(&warm.0) + 1, "descriptors: {:?} became {:?}", warm.0, last.0);
    assert!(last.1 <= warm.1 + 2, "threads: {} became {}", warm.1, last.1);
    assert!(last.2 <= warm.2 + 8 * 1024, "resident: {} KiB became {}", warm.2, last.2);
    assert!(last.3 <= warm.3 + (16 << 20), "store: {} bytes became {}", warm.3, last.3);
    loom.ctl(["stop", "flash"]).success();
    assert_eq!(loom.view("flash").unwrap()["active_state"], "inactive");
}

#[test]
fn a_stop_in_the_instant_of_a_crash_always_wins() {
    let loom = Loom::start();
    loom.unit("nap.service.toml", &format!("[exec]\ncommand = [\"sleep\", \"1000\"]\n{AT_ONCE}"));
    for round in 0..RACES {
        loom.control("POST", "/v1/units/nap.service/start");
        let pid = loom.control("GET", "/v1/units/nap.service")["main_pid"].as_i64().unwrap() as i32;
        // Now before, now after it, by microseconds.
        if round % 2 == 0 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(u64::from(round % 50) * 20));
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        });
        let stopped = loom.control("POST", "/v1/units/nap.service/stop");
        killer.join().unwrap();
        assert_eq!(stopped["active_state"], "inactive", "round {round}: {stopped}");
    }
    let view = loom.view("nap").unwrap();
    assert_eq!((view["active_state"].as_str(), view["main_pid"].as_i64()), (Some("inactive"), None), "{view}");
    assert!(loom.processes().iter().all(|(_, command)| !command.contains("sleep")), "{:?}", loom.processes());
}
