//! The demo is a test: what a person is shown first never breaks.

use loom_tests::{checkout, program, python};
use std::process::{Command, Stdio};

#[test]
fn the_demo_runs_to_its_end() {
    let top = checkout();
    let model = top.join("units/lib/.venv/bin/python");
    if !model.exists() {
        println!("skipped: needs {}; run `scripts/prepare model`", model.display());
        return;
    }
    let binaries = program("loomd").parent().expect("it lies in a directory").to_owned();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap_or_default());
    let demo = Command::new(python())
        .arg(top.join("examples/chat-agent/demo.py"))
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (said, words) = (String::from_utf8_lossy(&demo.stdout), String::from_utf8_lossy(&demo.stderr));
    assert!(demo.status.success(), "{said}\n{words}");
    for shown in [
        "READY=1 after",
        "result of the last run: signal",
        "outside-workspace",
        "answered by the same process",
        "no process left",
    ] {
        assert!(said.contains(shown), "the demo did not show `{shown}`:\n{said}");
    }
}
