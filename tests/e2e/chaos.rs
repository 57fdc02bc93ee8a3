//! Killing agent, loomd or both, again and again, at random moments.

use loom_tests::{Loom, lives};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// Rounds of murder; the figure is part of the promise.
const ROUNDS: u32 = 200;

/// A small generator, so that a failing story can be told again: the seed is printed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or(0)
}

fn zombies_of(parent: i32) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        if fields.first() == Some(&"Z") && fields.get(1).and_then(|p| p.parse().ok()) == Some(parent) {
            found.push(stat);
        }
    }
    found
}

#[test]
fn two_hundred_murders_double_nothing_and_lose_nothing() {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    eprintln!("seed {seed}");
    let mut chance = Chance(seed);
    let mut loom = Loom::start();
    loom.python_agent(
        "ledger",
        "ledger.py",
        "[restart]\npolicy = \"always\"\ndelay = \"0ms\"\nmax_delay = \"50ms\"\njitter = 0.0\n",
    );
    loom.ctl(["start", "ledger"]).success();
    let mut settled_descriptors = None;
    for round in 0..ROUNDS {
        // A moment between 0 and 150 ms from now, in any state of start, run or restart.
        let until = Instant::now() + Duration::from_micros(chance.below(150_000));
        while Instant::now() < until {
            std::thread::yield_now();
        }
        let agent = loom.view("ledger").and_then(|v| v["main_pid"].as_i64()).map(|pid| pid as i32);
        let (of_agent, of_daemon) = [(true, false), (false, true), (true, true)][chance.below(3) as usize];
        let victim = agent.filter(|_| of_agent);
        victim.map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
        if of_daemon {
            loom.kill_daemon();
            loom.start_daemon();
        }
        if round % 20 == 19 {
            // The supervisor may not have seen yet what happened a moment ago.
            let another = |v: &serde_json::Value| v["main_pid"].as_i64() != victim.map(i64::from);
            let view = loom.until("it runs", "ledger", |v| v["active_state"] == "active" && another(v));
            let zombies = zombies_of(loom.daemon_pid());
            assert!(zombies.is_empty(), "round {round}: {zombies:?}");
            let copies = loom.processes().into_iter().filter(|(_, c)| c.contains("ledger.py")).count();
            assert_eq!(copies, 1, "round {round}: {view} {:?}", loom.processes());
        }
        if round == 40 {
            loom.until_active("ledger");
        }
    }
    loom.until_active("ledger");
    // The same supervisor, twenty more agents later, has no more descriptors than now.
    for _ in 0..20 {
        let run = loom.view("ledger").unwrap()["run"].as_u64();
        loom.kill_main("ledger");
        loom.until("the next run", "ledger", |v| v["run"].as_u64() > run && v["active_state"] == "active");
        let now = descriptors(loom.daemon_pid());
        let first = *settled_descriptors.get_or_insert(now);
        assert!(now <= first + 3, "descriptors grow: {first} then {now}");
    }
    let complaints = std::fs::read_to_string(loom.state_dir("ledger.agent").join("complaints")).unwrap_or_default();
    assert_eq!(complaints, "", "seed {seed}");
    let noted = std::fs::read_to_string(loom.state_dir("ledger.agent").join("acknowledged")).unwrap_or_default();
    let last: u64 = noted.lines().last().unwrap_or("0").parse().unwrap();
    assert!(last > u64::from(ROUNDS) / 4, "it hardly ever wrote: {last}");
    let pid = loom.main_pid("ledger");
    loom.ctl(["stop", "ledger"]).success();
    assert!(!lives(pid));
    let stored = loom.ctl(["state", "get", "ledger", "number"]).success().stdout.trim().parse::<u64>().unwrap();
    let noted = std::fs::read_to_string(loom.state_dir("ledger.agent").join("acknowledged")).unwrap_or_default();
    let last: u64 = noted.lines().last().unwrap_or("0").parse().unwrap();
    assert!(stored >= last, "stored {stored}, acknowledged {last}");
}
