//! Agents that remember and talk.

use loom_tests::{LIMIT, Loom, until};
use std::io::Read;

#[test]
fn a_killed_agent_comes_back_with_its_state() {
    let loom = Loom::start();
    loom.python_agent("counter", "counter.py", "");
    loom.ctl(["start", "counter"]).success();
    assert_eq!(loom.ctl(["ask", "counter", "bump"]).success().stdout.trim(), "1");
    loom.kill_main("counter");
    loom.until("it is ready again", "counter", |v| v["run"] == 2 && v["active_state"] == "active");
    assert_eq!(loom.ctl(["ask", "counter", "bump"]).success().stdout.trim(), "2");
    let entry = loom.ctl(["state", "get", "counter", "count", "--json"]).success().json();
    assert_eq!((entry["value"].as_u64(), entry["value_version"].as_u64()), (Some(2), Some(2)), "{entry}");
    assert_eq!(loom.ctl(["state", "get", "counter", "count"]).success().stdout.trim(), "2");
}

#[test]
fn an_agent_asks_another_only_where_its_unit_file_allows() {
    let loom = Loom::start();
    loom.write_unit("answerer.agent.toml", &loom.python_agent_text("counter.py", ""));
    loom.write_unit(
        "asker.agent.toml",
        &loom.python_agent_text("counter.py", "[bus]\nrequest = [\"unit.answerer.>\"]"),
    );
    loom.unit("stranger.agent.toml", &loom.python_agent_text("counter.py", ""));
    for name in ["answerer", "asker", "stranger"] {
        loom.ctl(["start", name]).success();
    }
    let said = loom.ctl(["ask", "asker", "request unit.answerer.ask echo"]).success();
    assert_eq!(said.stdout.trim(), "echo");
    let refused = loom.ctl(["ask", "stranger", "request unit.answerer.ask echo"]);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.stderr.contains("unit.answerer"), "{}", refused.stderr);
}

#[test]
fn a_handler_that_fails_fails_its_request_and_nothing_else() {
    let loom = Loom::start();
    loom.python_agent("counter", "counter.py", "");
    loom.ctl(["start", "counter"]).success();
    let said = loom.ctl(["ask", "counter", "fail"]);
    assert_eq!(said.status, 1);
    assert!(said.stderr.contains("asked to fail"), "{}", said.stderr);
    assert_eq!(loom.ctl(["ask", "counter", "bump"]).success().stdout.trim(), "1");
    assert_eq!(loom.view("counter").unwrap()["run"], 1);
}

#[test]
fn a_request_to_the_dying_is_answered_at_once() {
    let loom = Loom::start();
    loom.python_agent("counter", "counter.py", "");
    loom.ctl(["start", "counter"]).success();
    let mut child = loom.ctl_child(["ask", "counter", "slow"]);
    let mut first = [0u8; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"begun", "progress is shown while the request runs");
    loom.kill_main("counter");
    let status = until("the request ended", LIMIT, || child.try_wait().unwrap().ok_or_else(|| "running".into()));
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_request_to_nobody_is_answered_at_once() {
    let loom = Loom::start();
    loom.python_agent("counter", "counter.py", "");
    let said = loom.ctl(["ask", "counter", "bump"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.stderr.contains("hint"), "{}", said.stderr);
}
