//! Where words go, and how they are found again: the same promises with files and with a real journald.

use loom_tests::{Journald, LIMIT, Loom, until};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::Child;

/// A place where lines go.
struct Store {
    loom: Loom,
    journald: Option<Journald>,
}

impl Store {
    fn files() -> Self {
        Self { loom: Loom::start(), journald: None }
    }

    /// `None` where no journald can run, which is said.
    fn journald() -> Option<Self> {
        let journald = Journald::start()?;
        let mut loom = Loom::new();
        loom.use_journald(&journald);
        loom.start_daemon();
        Some(Self { loom, journald: Some(journald) })
    }

    fn logs(&self, words: &[&str]) -> String {
        self.loom.ctl([&["logs"], words].concat()).success().stdout
    }

    fn lines(&self, words: &[&str]) -> Vec<Value> {
        let said = self.logs(&[words, &["--json"]].concat());
        said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"))).collect()
    }

    /// Waits until the lines are as they must be.
    #[track_caller]
    fn until(&self, what: &str, words: &[&str], test: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        until(what, LIMIT, || {
            let lines = self.lines(words);
            if test(&lines) { Ok(lines) } else { Err(format!("{lines:#?}")) }
        })
    }

    fn shell(&self, name: &str, script: &str, more: &str) {
        let command = serde_json::json!(["/bin/sh", "-c", script]);
        self.loom.unit(&format!("{name}.service.toml"), &format!("[exec]\ncommand = {command}\n{more}\n"));
    }
}

#[test]
fn without_a_journal_output_and_words_are_merged_from_files() {
    let store = Store::files();
    store.loom.python_agent("counter", "counter.py", "");
    store.loom.ctl(["start", "counter"]).success();
    store.loom.ctl(["ask", "counter", "log one"]).success();
    until("all three are found", LIMIT, || {
        let said = store.logs(&["counter"]);
        let all = ["said on stdout: one", "said through the SDK: one", "changed state"];
        if all.iter().all(|words| said.contains(words)) { Ok(()) } else { Err(said) }
    });
}

/// Each promise, once with files and once with journald.
macro_rules! with_files_and_with_journald {
    ($($promise:ident),+ $(,)?) => {
        mod with_files { $(#[test] fn $promise() { super::$promise(super::Store::files()); })+ }
        mod with_journald {
            $(#[test] fn $promise() { if let Some(store) = super::Store::journald() { super::$promise(store); } })+
        }
    };
}

with_files_and_with_journald!(
    no_line_is_lost_or_doubled_over_five_deaths_of_the_supervisor,
    a_follower_misses_nothing_over_a_death_of_the_supervisor,
    each_line_is_found_by_its_run_also_where_runs_follow_each_other_at_once,
    a_line_without_end_is_split_and_whole,
    a_failed_start_prints_the_last_lines_of_that_run,
    lines_are_chosen_by_time_level_pattern_and_number,
    several_units_are_one_story_and_each_line_says_whose_it_is,
    each_change_of_state_is_one_line_with_unit_run_from_to_and_because,
);

fn texts(lines: &[Value], by: &str) -> Vec<String> {
    lines.iter().filter(|line| line["by"] == by).filter_map(|line| Some(line["text"].as_str()?.to_owned())).collect()
}

const COUNTS: &str = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.005; done";

/// 1, 2, 3 … without hole or double, and words of loomd between lines that were printed before and after.
fn assert_whole(lines: &[Value]) -> usize {
    let numbers: Vec<usize> =
        texts(lines, "unit").iter().map(|text| text.strip_prefix("line ").unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
    let times: Vec<u64> = lines.iter().map(|line| line["time"].as_u64().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    numbers.len()
}

fn no_line_is_lost_or_doubled_over_five_deaths_of_the_supervisor(mut store: Store) {
    store.shell("talker", COUNTS, "");
    store.loom.ctl(["start", "talker"]).success();
    let mut before = 0;
    for round in 1..=5 {
        store.loom.kill_daemon();
        before = until("lines come without a supervisor", LIMIT, || {
            let now = assert_whole(&store.lines(&["talker.service", "-n", "all"]));
            if now > before + 20 { Ok(now) } else { Err(now.to_string()) }
        });
        store.loom.start_daemon();
        let view = store.loom.until_active("talker");
        assert_eq!(view["run"], 1, "adopted in round {round}");
    }
    store.loom.ctl(["stop", "talker"]).success();
    let lines = store.until("the end is said", &["talker", "-n", "all"], |lines| {
        lines.last().is_some_and(|line| line["fields"]["to"] == "inactive")
    });
    assert!(assert_whole(&lines) > 100);
    let first = lines.iter().position(|line| line["by"] == "unit").unwrap();
    assert_eq!(lines[0]["fields"]["to"], "activating", "{:#?}", lines[0]);
    assert!(first >= 1);
    assert!(lines.iter().all(|line| line["run"] == 1), "every line has its run");
    if let Some(journald) = &store.journald {
        // Exactly what journalctl shows together, in its order.
        let both = ["SYSLOG_IDENTIFIER=talker.service", "+", "LOOM_UNIT=talker.service"];
        let all = |entries: Vec<Value>| -> Vec<String> {
            entries.iter().map(|entry| entry["MESSAGE"].as_str().unwrap().to_owned()).collect()
        };
        let seen: Vec<String> = lines.iter().map(|line| line["text"].as_str().unwrap().to_owned()).collect();
        assert_eq!(seen, all(journald.entries(&both)));
        assert_eq!(texts(&lines, "unit"), all(journald.entries(&["-t", "talker.service"])));
        assert_eq!(texts(&lines, "loomd"), all(journald.entries(&["LOOM_UNIT=talker.service"])));
    }
}

/// A follower of logs.
struct Follower {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    seen: Vec<String>,
}

impl Follower {
    fn new(store: &Store, words: &[&str]) -> Self {
        let mut child = store.loom.ctl_child([&["logs", "-f"], words].concat());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, seen: vec![] }
    }

    /// Whoever waits here for ever is ended by the runner's limit.
    #[track_caller]
    fn read_until(&mut self, words: &str) {
        loop {
            match self.lines.next() {
                Some(line) => self.seen.push(line.unwrap()),
                None => panic!("it ended without {words:?}:\n{}", self.seen.join("\n")),
            }
            if self.seen.last().unwrap().contains(words) {
                return;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn a_follower_misses_nothing_over_a_death_of_the_supervisor(mut store: Store) {
    store.shell("talker", COUNTS, "");
    store.loom.ctl(["start", "talker"]).success();
    let mut follower = Follower::new(&store, &["talker", "-n", "all"]);
    follower.read_until("line 30");
    store.loom.kill_daemon();
    follower.read_until("line 99");
    store.loom.start_daemon();
    store.loom.ctl(["restart", "talker"]).success();
    follower.read_until("talker.service[2]: line 30");
    store.loom.ctl(["stop", "talker"]).success();
    follower.read_until("to=inactive");
    for run in [1, 2] {
        let of_run: Vec<&str> = follower
            .seen
            .iter()
            .filter_map(|line| line.split_once(&format!("talker.service[{run}]: line ")).map(|(_, number)| number))
            .collect();
        let whole: Vec<String> = (1..=of_run.len()).map(|number| number.to_string()).collect();
        assert_eq!(of_run, whole, "run {run}");
        assert!(of_run.len() >= 30);
    }
}

fn each_line_is_found_by_its_run_also_where_runs_follow_each_other_at_once(store: Store) {
    // A child of the main process prints, and the run ends at once: pid and time say little.
    let script = "/bin/echo begin; for i in 1 2 3; do /bin/echo part $i; done; printf last; exit 1";
    store.shell(
        "crasher",
        script,
        "[restart]\npolicy = \"on-failure\"\ndelay = \"1ms\"\nmax_delay = \"1ms\"\njitter = 0.0",
    );
    store.loom.ctl(["start", "crasher", "--no-block"]);
    store.loom.until("twelve runs were", "crasher", |view| view["run"].as_u64() >= Some(12));
    store.loom.ctl(["stop", "crasher"]);
    let newest = store.loom.view("crasher").unwrap()["run"].as_u64().unwrap();
    // The file store keeps the newest five.
    for run in newest - 3..newest {
        let lines = store.until("the run is whole", &["crasher", "--run", &run.to_string()], |lines| {
            texts(lines, "unit").last().is_some_and(|text| text == "last")
        });
        assert_eq!(texts(&lines, "unit"), ["begin", "part 1", "part 2", "part 3", "last"], "run {run}: {lines:#?}");
        assert!(lines.iter().all(|line| line["run"] == run), "{lines:#?}");
        assert!(lines.iter().any(|line| line["fields"]["to"] == "activating"), "{lines:#?}");
    }
    let refused = store.loom.ctl(["logs", "--run", "3"]);
    assert_eq!(refused.status, 2, "{}", refused.stderr);
}

fn a_line_without_end_is_split_and_whole(store: Store) {
    let python = "import sys; sys.stdout.write('x' * (1 << 20)); sys.stdout.flush()";
    let command = serde_json::json!(["/usr/bin/python3", "-c", python]);
    store.loom.unit("endless.service.toml", &format!("[exec]\ncommand = {command}\n[ready]\ntype = \"oneshot\"\n"));
    store.loom.ctl(["start", "endless"]).success();
    let lines = store.until("everything is there", &["endless"], |lines| {
        texts(lines, "unit").iter().map(String::len).sum::<usize>() == 1 << 20
    });
    let parts = texts(&lines, "unit");
    assert!(parts.iter().all(|part| part.len() <= 48 << 10 && part.bytes().all(|byte| byte == b'x')));
    assert!(parts.len() < 64, "{}", parts.len());
}

fn a_failed_start_prints_the_last_lines_of_that_run(store: Store) {
    store.shell(
        "broken",
        "echo cause number one >&2; exit 3",
        "[ready]\ntype = \"oneshot\"\n[restart]\npolicy = \"no\"",
    );
    let first = store.loom.ctl(["start", "broken"]);
    assert_eq!(first.status, 1, "{}", first.stderr);
    store.until("it is stored", &["broken"], |lines| texts(lines, "unit") == ["cause number one"]);
    store.shell(
        "broken",
        "echo cause number two >&2; exit 3",
        "[ready]\ntype = \"oneshot\"\n[restart]\npolicy = \"no\"",
    );
    let second = store.loom.ctl(["start", "broken"]);
    assert!(second.stderr.contains("cause number two"), "{}", second.stderr);
    assert!(!second.stderr.contains("cause number one"), "{}", second.stderr);
}

fn lines_are_chosen_by_time_level_pattern_and_number(store: Store) {
    let script = "echo plain Apple; echo '<4>warned apple'; echo '<3>failed pear'; exec sleep 1000";
    store.shell("picky", script, "");
    store.loom.ctl(["start", "picky"]).success();
    store.until("all is there", &["picky"], |lines| texts(lines, "unit").len() == 3);
    let found = |words: &[&str]| texts(&store.lines(&[&["picky"], words].concat()), "unit");
    assert_eq!(found(&["-p", "warning"]), ["warned apple", "failed pear"]);
    assert_eq!(found(&["-p", "3"]), ["failed pear"]);
    assert_eq!(found(&["--grep", "apple"]), ["plain Apple", "warned apple"], "no capital: any case");
    assert_eq!(found(&["-g", "Apple|^failed"]), ["plain Apple", "failed pear"]);
    assert_eq!(found(&["-g", "(apple|pear)$", "-n", "1"]), ["failed pear"]);
    assert_eq!(found(&["-r", "-g", "e"]), ["failed pear", "warned apple", "plain Apple"]);
    assert_eq!(found(&["--since", "today"]).len(), 3);
    assert_eq!(found(&["--since", "1h", "--until", "now"]).len(), 3);
    assert!(found(&["--until", "1h"]).is_empty());
    assert_eq!(store.lines(&["picky", "-n", "2"]).len(), 2);
    for wrong in [["--since", "soon"], ["-p", "loud"], ["-g", "("], ["-n", "some"]] {
        let said = store.loom.ctl([&["logs", "picky"], &wrong[..]].concat());
        assert_eq!(said.status, 2, "{wrong:?}: {}", said.stderr);
    }
}

fn several_units_are_one_story_and_each_line_says_whose_it_is(store: Store) {
    for name in ["left", "right", "other"] {
        store.shell(name, &format!("echo I am {name}; exec sleep 1000"), "");
        store.loom.ctl(["start", name]).success();
    }
    let all_three = |lines: &[Value]| texts(lines, "unit").len() == 3;
    store.until("all have spoken", &["-n", "all"], all_three);
    let two = store.logs(&["left", "right"]);
    assert!(two.contains("left.service[1]: I am left") && two.contains("right.service[1]: I am right"), "{two}");
    assert!(!two.contains("other"), "{two}");
    assert!(two.contains("loomd: left.service: unit changed state"), "{two}");
    let all = store.logs(&["-n", "all"]);
    assert!(all.contains("loomd: loomd is ready") && all.contains("I am other"), "{all}");

    let mut follower = Follower::new(&store, &[]);
    follower.read_until("I am other");
    store.shell("later", "echo I am later; exec sleep 1000", "");
    store.loom.ctl(["start", "later"]).success();
    follower.read_until("later.service[1]: I am later");
}

fn each_change_of_state_is_one_line_with_unit_run_from_to_and_because(store: Store) {
    store.shell("quiet", "exec sleep 1000", "");
    store.loom.ctl(["start", "quiet"]).success();
    store.loom.ctl(["stop", "quiet"]).success();
    let lines = store.until("the end is said", &["quiet"], |lines| {
        lines.last().is_some_and(|line| line["fields"]["to"] == "inactive")
    });
    let changes: Vec<&Value> = lines.iter().filter(|line| line["text"] == "unit changed state").collect();
    let way: Vec<(&str, &str)> = changes
        .iter()
        .map(|line| (line["fields"]["from"].as_str().unwrap(), line["fields"]["to"].as_str().unwrap()))
        .collect();
    assert_eq!(way.first().unwrap(), &("inactive", "activating"), "{way:?}");
    assert!(way.contains(&("activating", "active")) && way.contains(&("deactivating", "inactive")), "{way:?}");
    for pair in way.windows(2) {
        assert_eq!(pair[0].1, pair[1].0, "one begins where the last one ended: {way:?}");
    }
    for line in changes {
        assert_eq!((&line["unit"], &line["run"]), (&"quiet.service".into(), &1.into()), "{line}");
        assert!(line["fields"]["because"].as_str().is_some_and(|because| !because.is_empty()), "{line}");
    }
}

#[test]
fn a_unit_that_prints_far_beyond_its_file_size_limit_prints_on_and_its_newest_lines_are_found() {
    let store = Store::files();
    // 600 MiB as fast as it can; `limits.file_size` is 256 MiB.
    let python = "import os, time\nfor block in range(600):\n    \
        os.write(1, b''.join(b'%%9d %%9d %%s\\n' %% (block, line, b'x' * 1003) for line in range(1024)))\n\
        os.write(1, b'done\\n')\ntime.sleep(1000)";
    let command = serde_json::json!(["/usr/bin/python3", "-c", python]);
    store.loom.unit("flood.service.toml", &format!("[exec]\ncommand = {command}\n"));
    store.loom.ctl(["start", "flood"]).success();
    let lines = store.until("the end is there", &["flood", "-n", "2000"], |lines| {
        texts(lines, "unit").last().is_some_and(|text| text == "done")
    });
    assert_eq!(store.loom.view("flood").unwrap()["run"], 1, "{:#?}", lines.last());
    let found = texts(&lines, "unit");
    let numbers: Vec<(usize, usize)> = found
        .iter()
        .filter_map(|text| {
            let mut words = text.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        })
        .collect();
    assert!(numbers.len() >= 1900, "{}", numbers.len());
    for (seen, back) in numbers.iter().rev().zip(0..) {
        let place = 600 * 1024 - 1 - back;
        assert_eq!(*seen, (place / 1024, place % 1024));
    }
}
