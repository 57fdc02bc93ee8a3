//! Where words go, and how they are found again.

use loom_tests::{LIMIT, Loom, until};

#[test]
fn without_a_journal_output_and_words_are_merged_from_files() {
    let loom = Loom::start();
    loom.python_agent("counter", "counter.py", "");
    loom.ctl(["start", "counter"]).success();
    loom.ctl(["ask", "counter", "log one"]).success();
    until("all three are found", LIMIT, || {
        let said = loom.ctl(["logs", "counter"]).stdout;
        let all = ["said on stdout: one", "said through the SDK: one", "changed state"];
        if all.iter().all(|words| said.contains(words)) { Ok(()) } else { Err(said) }
    });
}

#[test]
fn an_agent_writes_on_while_no_supervisor_lives() {
    let mut loom = Loom::start();
    loom.unit(
        "talker.service.toml",
        "[exec]\ncommand = [\"sh\", \"-c\", \"n=0; while :; do n=$((n+1)); echo line $n; sleep 0.02; done\"]\n",
    );
    loom.ctl(["start", "talker"]).success();
    loom.kill_daemon();
    let count = |loom: &Loom| {
        loom.ctl(["logs", "talker", "-n", "100000"]).stdout.lines().filter(|l| l.contains("line ")).count()
    };
    let before = count(&loom);
    until("more lines come without a supervisor", LIMIT, || {
        let now = count(&loom);
        if now > before + 10 { Ok(()) } else { Err(now.to_string()) }
    });
    loom.start_daemon();
    loom.ctl(["stop", "talker"]).success();
    let said = loom.ctl(["logs", "talker", "-n", "100000"]).stdout;
    let numbers: Vec<u64> = said.lines().filter_map(|l| l.split("line ").nth(1)?.trim().parse().ok()).collect();
    let whole: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, whole, "lines are missing");
}
