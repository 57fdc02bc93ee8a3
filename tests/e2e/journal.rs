//! With journald: output and words are found by unit and by run, and reach it also while no supervisor lives.

use loom_tests::{Journald, LIMIT, Loom, until};
use serde_json::Value;
use std::io::{BufRead, BufReader};

/// A supervisor whose journal is that one.
fn start(journald: &Journald) -> Loom {
    let mut loom = Loom::new();
    loom.use_journald(journald);
    loom.start_daemon();
    loom
}

fn logs(loom: &Loom, more: &[&str]) -> String {
    loom.ctl([&["logs", "counter"], more].concat()).success().stdout
}

#[test]
fn journalctl_finds_an_agents_output_by_its_name_and_everything_said_about_it_by_unit_and_run() {
    let Some(journald) = Journald::start() else { return };
    let loom = start(&journald);
    loom.python_agent("counter", "counter.py", "");
    loom.ctl(["start", "counter"]).success();
    loom.ctl(["ask", "counter", "log one"]).success();
    loom.ctl(["restart", "counter"]).success();
    loom.ctl(["ask", "counter", "log two\nand its second line"]).success();

    let printed = journald.until_said(&loom, &["-t", "counter.agent"], "said on stdout: one");
    assert_eq!(printed["PRIORITY"], "6", "{printed}");
    let logged = journald.until_said(&loom, &["LOOM_UNIT=counter.agent", "LOOM_RUN=1"], "said through the SDK: one");
    assert_eq!((&logged["PRIORITY"], &logged["SYSLOG_IDENTIFIER"]), (&"4".into(), &"counter.agent".into()));
    let word = journald.until_said(&loom, &["LOOM_UNIT=counter.agent", "LOOM_RUN=1"], "unit changed state");
    assert_eq!(word["SYSLOG_IDENTIFIER"], "loomd");
    assert_eq!((&word["LOOM_FROM"], &word["LOOM_TO"]), (&"inactive".into(), &"activating".into()), "{word}");
    assert_eq!(word["LOOM_RESULT"], "success", "{word}");
    let second = journald.until_said(&loom, &["LOOM_UNIT=counter.agent", "LOOM_RUN=2"], "said through the SDK: two");
    assert_eq!(second["MESSAGE"], "said through the SDK: two\nand its second line");
    // What a stream carries has no run of its own; each line is an entry.
    journald.until_said(&loom, &["-t", "counter.agent"], "and its second line");
}

#[test]
fn loomctl_merges_output_and_words_by_run_and_number() {
    let Some(journald) = Journald::start() else { return };
    let loom = start(&journald);
    loom.python_agent("counter", "counter.py", "");
    loom.ctl(["start", "counter"]).success();
    loom.ctl(["ask", "counter", "log one"]).success();
    loom.ctl(["restart", "counter"]).success();
    loom.ctl(["ask", "counter", "log two"]).success();
    let all = ["said on stdout: one", "said through the SDK: one", "said on stdout: two", "said through the SDK: two"];
    let text = until("everything is found", LIMIT, || {
        let said = logs(&loom, &[]);
        if all.iter().all(|words| said.contains(words)) { Ok(said) } else { Err(said) }
    });
    let place = |words: &str| text.find(words).unwrap_or_else(|| panic!("no {words:?} in\n{text}"));
    assert!(place("to=activating") < place("one") && place("one") < place("two"), "{text}");
    assert!(text.contains("from=inactive"), "{text}");
    assert_eq!(
        logs(&loom, &["-n", "3"]).lines().collect::<Vec<_>>(),
        text.lines().rev().take(3).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>()
    );

    for (run, mine, other) in [("1", "one", "two"), ("2", "two", "one")] {
        let said = logs(&loom, &["--run", run]);
        for kind in ["said on stdout", "said through the SDK"] {
            assert!(said.contains(&format!("{kind}: {mine}")), "run {run}:\n{said}");
            assert!(!said.contains(&format!("{kind}: {other}")), "run {run}:\n{said}");
        }
        assert!(said.contains("to=active"), "run {run}:\n{said}");
    }
    let lines: Vec<Value> = logs(&loom, &["--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find = |text: &str| lines.iter().find(|line| line["text"] == text).unwrap_or_else(|| panic!("{lines:#?}"));
    let (printed, logged) = (find("said on stdout: two"), find("said through the SDK: two"));
    assert_eq!((&printed["run"], &printed["by"], &printed["level"]), (&2.into(), &"unit".into(), &"info".into()));
    assert_eq!((&logged["run"], &logged["by"], &logged["level"]), (&2.into(), &"unit".into(), &"warning".into()));
    assert!(lines.iter().any(|line| line["by"] == "loomd" && line["fields"]["to"] == "active"), "{lines:#?}");
}

#[test]
fn following_shows_what_is_said_from_then_on() {
    let Some(journald) = Journald::start() else { return };
    let loom = start(&journald);
    loom.python_agent("counter", "counter.py", "");
    loom.ctl(["start", "counter"]).success();
    loom.ctl(["ask", "counter", "log one"]).success();
    until("the first is stored", LIMIT, || {
        let said = logs(&loom, &[]);
        if said.contains("said on stdout: one") { Ok(()) } else { Err(said) }
    });
    let mut child = loom.ctl_child(["logs", "counter", "-f"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = String::new();
    // Whoever waits here for ever is ended by the runner's limit, with what was seen.
    let mut read_until = |words: &str| {
        while !seen.contains(words) {
            match lines.next() {
                Some(line) => seen += &format!("{}\n", line.unwrap()),
                None => panic!("it ended without {words:?}:\n{seen}"),
            }
        }
    };
    read_until("said on stdout: one");
    loom.ctl(["ask", "counter", "log two"]).success();
    read_until("said through the SDK: two");
    read_until("said on stdout: two");
    loom.ctl(["stop", "counter"]).success();
    read_until("to=inactive");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(seen.matches("said on stdout: one").count(), 1, "{seen}");
}

#[test]
fn output_reaches_the_journal_while_no_supervisor_lives_in_whole_and_in_order() {
    let Some(journald) = Journald::start() else { return };
    let mut loom = start(&journald);
    loom.unit(
        "talker.service.toml",
        "[exec]\ncommand = [\"sh\", \"-c\", \"n=0; while :; do n=$((n+1)); echo line $n; sleep 0.02; done\"]\n",
    );
    loom.ctl(["start", "talker"]).success();
    loom.kill_daemon();
    let numbers = || -> Vec<u64> {
        let entries = journald.entries(&["-t", "talker.service"]);
        entries.iter().filter_map(|e| e["MESSAGE"].as_str()?.strip_prefix("line ")?.parse().ok()).collect()
    };
    let before = numbers().len();
    until("more lines come without a supervisor", LIMIT, || {
        let now = numbers().len();
        if now > before + 10 { Ok(()) } else { Err(now.to_string()) }
    });
    loom.start_daemon();
    loom.ctl(["stop", "talker"]).success();
    let numbers = numbers();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "lines are missing");
}

#[test]
fn long_lines_and_odd_bytes_are_kept() {
    let Some(journald) = Journald::start() else { return };
    let loom = start(&journald);
    // Above 4096 bytes journalctl is asked to give everything; above 48 KiB journald splits.
    let script = r"print('<4>warned'); print('a' * 6000 + ' middle'); print('b' * 100000 + ' end'); \
        import sys; sys.stdout.flush(); sys.stdout.buffer.write(b'odd \xff\xfe bytes\n'); print('last words', end='')";
    let command = serde_json::json!(["/usr/bin/python3", "-c", script.replace("\\\n        ", "")]);
    loom.unit("chatty.service.toml", &format!("[exec]\ncommand = {command}\n[ready]\ntype = \"oneshot\"\n"));
    loom.ctl(["start", "chatty"]).success();
    let lines: Vec<Value> = until("the last words are there", LIMIT, || {
        let said = loom.ctl(["logs", "chatty", "--json"]).stdout;
        let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if lines.iter().any(|line| line["text"] == "last words") { Ok(lines) } else { Err(said) }
    });
    let texts: Vec<&str> =
        lines.iter().filter(|line| line["by"] == "unit").filter_map(|l| l["text"].as_str()).collect();
    assert_eq!(lines.iter().find(|line| line["text"] == "warned").unwrap()["level"], "warning");
    assert!(texts.contains(&format!("{} middle", "a".repeat(6000)).as_str()), "{texts:?}");
    let joined: String = texts.iter().filter(|text| text.starts_with('b') || text.ends_with(" end")).copied().collect();
    assert_eq!(joined, format!("{} end", "b".repeat(100_000)));
    assert!(texts.iter().any(|text| text.starts_with("odd ") && text.ends_with(" bytes")), "{texts:?}");
    assert!(lines.iter().all(|line| line["by"] == "loomd" || line["run"] == 1), "{lines:#?}");
}

#[test]
fn a_journald_that_hangs_holds_up_nothing_and_gets_everything_once_it_goes_on() {
    let Some(journald) = Journald::start() else { return };
    let loom = start(&journald);
    journald.pause();
    for number in 1..=20 {
        // Each is several words of loomd; journald's socket holds about ten.
        loom.unit(&format!("sleeper-{number}.service.toml"), "[exec]\ncommand = [\"/bin/sleep\", \"1000\"]\n");
        loom.ctl(["start", &format!("sleeper-{number}")]).success();
    }
    assert_eq!(loom.view("sleeper-20").unwrap()["active_state"], "active");
    journald.go_on();
    for number in 1..=20 {
        let unit = format!("LOOM_UNIT=sleeper-{number}.service");
        until("every word arrived, in order", LIMIT, || {
            let entries = journald.entries(&[&unit]);
            let way: Vec<&str> = entries.iter().filter_map(|entry| entry["LOOM_TO"].as_str()).collect();
            if way.first() == Some(&"activating") && way.last() == Some(&"active") {
                Ok(())
            } else {
                Err(format!("{way:?}"))
            }
        });
    }
}

#[test]
fn a_run_whose_stream_broke_with_journald_is_named_and_its_next_run_is_heard_again() {
    let Some(mut journald) = Journald::start() else { return };
    let loom = start(&journald);
    // It ignores that nobody listens, as Python does with its signal.
    let script = "trap '' PIPE; n=0; while :; do n=$((n+1)); echo line $n 2>/dev/null; sleep 0.02; done";
    let command = serde_json::json!(["/bin/sh", "-c", script]);
    loom.unit("talker.service.toml", &format!("[exec]\ncommand = {command}\n"));
    loom.ctl(["start", "talker"]).success();
    journald.until_said(&loom, &["-t", "talker.service"], "line 3");
    journald.restart();
    until("the run is named", LIMIT, || {
        let said = logs_of(&loom, "talker");
        if said.matches("journald ended").count() == 1 && said.contains("run=1") { Ok(()) } else { Err(said) }
    });
    let status = loom.ctl(["status", "talker"]).stdout;
    assert!(status.contains("journald ended: what this run prints is lost"), "{status}");
    loom.ctl(["restart", "talker"]).success();
    until("the next run is heard", LIMIT, || {
        let said = logs_of(&loom, "talker");
        if said.contains("talker.service[2]: line 2") { Ok(()) } else { Err(said) }
    });
}

fn logs_of(loom: &Loom, unit: &str) -> String {
    loom.ctl(["logs", unit, "-n", "all"]).success().stdout
}

#[test]
fn lines_that_journald_reads_late_are_counted_to_the_run_that_printed_them() {
    let Some(journald) = Journald::start() else { return };
    let loom = start(&journald);
    // A child prints, and each run says which one it is.
    let script =
        "n=$(($(cat count 2>/dev/null || echo 0) + 1)); echo $n >count; /bin/echo printed by $n; exec sleep 1000";
    let command = serde_json::json!(["/bin/sh", "-c", script]);
    let text = format!("[exec]\ncommand = {command}\nworking_directory = \"%S\"\n");
    loom.unit("late.service.toml", &text);
    journald.pause();
    for run in 1..=4 {
        loom.ctl(["restart", "late"]).success();
        let count = loom.state_dir("late.service").join("count");
        until("it has printed", LIMIT, || {
            let seen = std::fs::read_to_string(&count).unwrap_or_default();
            let children = loom.processes().iter().filter(|(_, command)| command.starts_with("sleep")).count();
            if seen.trim() == run.to_string() && children == 1 { Ok(()) } else { Err(format!("{seen} {children}")) }
        });
    }
    journald.go_on();
    for run in 1..=4 {
        let run = run.to_string();
        until("the run has its line and no other's", LIMIT, || {
            let said = loom.ctl(["logs", "late", "--run", &run, "--json"]).stdout;
            let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let printed: Vec<Value> =
                lines.filter(|line| line["by"] == "unit").map(|line| line["text"].clone()).collect();
            if printed == [format!("printed by {run}")] { Ok(()) } else { Err(said) }
        });
    }
}
