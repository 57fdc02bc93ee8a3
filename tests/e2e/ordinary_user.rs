//! loomd as an ordinary user: no rights, no cgroup, and still confined, restarted, adopted and wholly ended.

use loom_tests::{LIMIT, Loom, checkout, lives, others_can_reach, python, until};
use std::path::Path;

/// An interpreter that everybody may run.
const PYTHON: &str = "/usr/bin/python3";

fn start() -> Loom {
    let mut loom = Loom::new();
    loom.as_ordinary_user();
    loom.start_daemon();
    loom
}

fn python_service(loom: &Loom, name: &str, script: &str) {
    let command = serde_json::json!([PYTHON, "-c", script]);
    let text = format!("[exec]\ncommand = {command}\n[stop]\ntimeout = \"1s\"\n[sandbox]\nprofile = \"python\"\n");
    loom.unit(&format!("{name}.service.toml"), &text);
}

fn written(loom: &Loom, unit: &str, file: &str) -> String {
    until(&format!("{unit} has written {file}"), LIMIT, || {
        std::fs::read_to_string(loom.state_dir(unit).join(file))
            .map_err(|error| error.to_string())
            .and_then(|text| if text.is_empty() { Err("empty".into()) } else { Ok(text) })
    })
}

/// A process in a session of its own that ignores SIGTERM; its pid.
fn stray(loom: &Loom) -> i32 {
    written(loom, "roamer.service", "grandchild").parse().expect("a pid")
}

fn roamer(loom: &Loom) {
    let script = std::fs::read_to_string(checkout().join("tests/agents/forks_away.py")).unwrap();
    python_service(loom, "roamer", &script);
    loom.ctl(["start", "roamer"]).success();
}

#[test]
fn what_it_starts_is_confined_as_under_root_and_comes_back() {
    let loom = start();
    let overview = loom.ctl(["status", "--json"]).success().json();
    assert_eq!(overview["supervisor"]["machine"]["root"], false, "{overview}");
    let secret = loom.path().join("secret.txt");
    std::fs::write(&secret, "everybody may read it, but no unit").unwrap();
    let script = format!(
        "import os, time\ntry:\n    said = open({secret:?}).read()\nexcept OSError as refused:\n    said = str(refused)\n\
         open(os.environ['HOME'] + '/seen', 'w').write(said)\ntime.sleep(1000)\n"
    );
    python_service(&loom, "nap", &script);
    loom.ctl(["start", "nap"]).success();
    let seen = written(&loom, "nap.service", "seen");
    assert!(seen.contains("Permission denied"), "{seen}");
    let view = loom.until_active("nap");
    for promise in ["files", "processes", "kernel"] {
        let found = view["enforcement"].as_array().unwrap().iter().find(|one| one["promise"] == promise);
        assert_eq!(found.map(|one| &one["value"]), Some(&"fully".into()), "{view}");
    }
    loom.kill_main("nap");
    loom.until("it runs again", "nap", |view| view["run"] == 2 && view["active_state"] == "active");
}

#[test]
fn a_killed_one_is_followed_by_one_that_adopts() {
    let mut loom = start();
    loom.unit("nap.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    loom.ctl(["start", "nap"]).success();
    let pid = loom.main_pid("nap");
    loom.kill_daemon();
    assert!(lives(pid));
    loom.start_daemon();
    let view = loom.until_active("nap");
    assert_eq!((view["run"].as_u64(), view["main_pid"].as_i64()), (Some(1), Some(i64::from(pid))), "{view}");
    loom.kill_main("nap");
    loom.until("it runs again", "nap", |view| view["run"] == 2 && view["active_state"] == "active");
    let (status, _) = loom.stop_daemon();
    assert_eq!((status, loom.processes()), (0, vec![]));
}

#[test]
fn nothing_of_a_unit_outlives_it_without_a_cgroup() {
    let mut loom = start();
    roamer(&loom);
    let grandchild = stray(&loom);
    assert!(lives(grandchild));
    loom.ctl(["stop", "roamer"]);
    assert!(!lives(grandchild), "the grandchild outlived its unit");

    std::fs::remove_file(loom.state_dir("roamer.service").join("grandchild")).unwrap();
    loom.ctl(["start", "roamer"]).success();
    let grandchild = stray(&loom);
    loom.kill_daemon();
    loom.start_daemon();
    assert!(lives(grandchild), "adopted with its tree");
    loom.ctl(["stop", "roamer"]);
    assert!(!lives(grandchild), "the grandchild of an adopted run outlived it");
}

#[test]
fn an_agent_talks_and_calls_tools() {
    // The environment that tests use may lie where only root comes; its packages serve the system's interpreter as well.
    let packages = packages();
    let Some(packages) = packages.filter(|path| others_can_reach(path)) else {
        println!("skipped: needs loom-py where an ordinary user can read it");
        return;
    };
    let mut loom = start();
    let script = loom.path().join("home/counter.py");
    std::fs::copy(checkout().join("tests/agents/counter.py"), &script).unwrap();
    let workspace = loom.path().join("workspace");
    std::fs::create_dir(&workspace).unwrap();
    std::fs::write(workspace.join("a.txt"), "alpha").unwrap();
    let command = serde_json::json!([PYTHON, script]);
    loom.unit(
        "counter.agent.toml",
        &format!(
            "[exec]\ncommand = {command}\nenvironment = {{ PYTHONPATH = {packages:?} }}\n[ready]\ntype = \"notify\"\n\
             [sandbox]\nread = [{packages:?}, {workspace:?}]\n[tools]\nworkspace = {workspace:?}\nallow = [\"fs:list\"]\n"
        ),
    );
    loom.ctl(["start", "counter"]).success();
    let ask = |loom: &Loom, text: &str| loom.ctl(["ask", "counter", text]).success().stdout.trim().to_owned();
    assert_eq!(ask(&loom, "bump"), "1");
    assert!(ask(&loom, r#"tool fs:list {"path": "."}"#).contains("a.txt"));
    loom.kill_daemon();
    loom.start_daemon();
    assert_eq!(ask(&loom, "bump"), "2");
    assert!(ask(&loom, r#"tool fs:list {"path": "."}"#).contains("a.txt"));
}

/// Where loom-py is installed, for an interpreter of the same version.
fn packages() -> Option<std::path::PathBuf> {
    let version = |python: &Path| {
        let script = "import sys; print('python%d.%d' % sys.version_info[:2])";
        let output = std::process::Command::new(python).args(["-c", script]).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let ours = python();
    let found = version(&ours)?;
    let packages = ours.parent()?.parent()?.join("lib").join(&found).join("site-packages");
    (version(Path::new(PYTHON)).as_ref() == Some(&found)).then_some(packages)
}
