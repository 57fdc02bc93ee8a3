//! Tools run in the hands of the supervisor, under rules that the agent cannot get around.

use loom_tests::Loom;

fn workspace(loom: &Loom) -> String {
    let path = loom.path().join("workspace");
    std::fs::create_dir_all(path.join("notes")).unwrap();
    std::fs::write(path.join("notes/a.txt"), "alpha").unwrap();
    std::fs::write(path.join("b.txt"), "beta").unwrap();
    std::fs::write(loom.path().join("outside.txt"), "outside").unwrap();
    path.display().to_string()
}

fn tool(loom: &Loom, name: &str, arguments: &str) -> String {
    loom.ctl(["ask", "counter", &format!("tool {name} {arguments}")]).success().stdout.trim().to_owned()
}

#[test]
fn an_agent_lists_reads_and_writes_its_workspace_and_nothing_else() {
    let loom = Loom::start();
    let path = workspace(&loom);
    loom.python_agent(
        "counter",
        "counter.py",
        &format!(
            "[sandbox]\nwrite = [{path:?}]\n[tools]\nworkspace = {path:?}\nallow = [\"fs:read\", \"fs:list\", \"fs:write(path=notes/**)\"]\ndeny = [\"fs:*(path=**/*.pem)\"]"
        ),
    );
    loom.ctl(["start", "counter"]).success();
    let listed = tool(&loom, "fs:list", r#"{"path": "."}"#);
    assert!(listed.contains("b.txt") && listed.contains("notes"), "{listed}");
    assert!(tool(&loom, "fs:read", r#"{"path": "b.txt"}"#).contains("beta"));
    let written = tool(&loom, "fs:write", r#"{"path": "notes/c.txt", "content": "gamma", "mode": "create"}"#);
    assert!(written.contains("sha256"), "{written}");
    assert_eq!(std::fs::read_to_string(loom.path().join("workspace/notes/c.txt")).unwrap(), "gamma");
    for escape in ["../outside.txt", "/etc/passwd", "notes/../../outside.txt"] {
        let said = tool(&loom, "fs:read", &format!(r#"{{"path": "{escape}"}}"#));
        assert!(said.starts_with("refused") && said.contains("outside-workspace"), "{escape}: {said}");
    }
    std::os::unix::fs::symlink(loom.path().join("outside.txt"), loom.path().join("workspace/link")).unwrap();
    assert!(tool(&loom, "fs:read", r#"{"path": "link"}"#).starts_with("refused"));
    assert!(tool(&loom, "fs:write", r#"{"path": "b.txt", "content": "x", "mode": "replace"}"#).contains("denied"));
    assert!(tool(&loom, "fs:read", r#"{"path": "key.pem"}"#).contains("denied"));
    assert_eq!(std::fs::read_to_string(loom.path().join("workspace/b.txt")).unwrap(), "beta");
}

#[test]
fn a_file_that_an_agent_replaces_keeps_its_mode_in_the_sandbox_too() {
    use std::os::unix::fs::PermissionsExt;
    let loom = Loom::start();
    let path = workspace(&loom);
    let file = loom.path().join("workspace/notes/a.txt");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o754)).unwrap();
    let more = format!("[sandbox]\nwrite = [{path:?}]\n[tools]\nworkspace = {path:?}\nallow = [\"fs:write\"]");
    loom.python_agent("counter", "counter.py", &more);
    loom.ctl(["start", "counter"]).success();
    let written = tool(&loom, "fs:write", r#"{"path": "notes/a.txt", "content": "new", "mode": "replace"}"#);
    assert!(written.contains("sha256"), "{written}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o754);
}

#[test]
fn every_call_is_in_the_audit_log_with_the_rule_that_decided_it() {
    let loom = Loom::start();
    let path = workspace(&loom);
    loom.python_agent(
        "counter",
        "counter.py",
        &format!("[sandbox]\nread = [{path:?}]\n[tools]\nworkspace = {path:?}\nallow = [\"fs:read\"]"),
    );
    loom.ctl(["start", "counter"]).success();
    tool(&loom, "fs:read", r#"{"path": "b.txt"}"#);
    tool(&loom, "fs:write", r#"{"path": "b.txt", "content": "x", "mode": "replace"}"#);
    tool(&loom, "fs:read", r#"{"path": "../outside.txt"}"#);
    let audit = loom.ctl(["audit", "counter", "--json"]).success().json();
    let rows: Vec<(String, String, String)> = audit["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| ["stage", "tool", "outcome"].map(|k| r[k].as_str().unwrap_or("").to_owned()).into())
        .collect();
    let row = |stage: &str, tool: &str, outcome: &str| (stage.to_owned(), tool.to_owned(), outcome.to_owned());
    assert!(rows.contains(&row("decided", "fs:read", "allowed")), "{rows:?}");
    assert!(rows.contains(&row("ended", "fs:read", "ok")), "{rows:?}");
    assert!(rows.contains(&row("decided", "fs:write", "tool-not-found")), "never allowed reads as not there: {rows:?}");
    assert!(rows.contains(&row("ended", "fs:read", "outside-workspace")), "{rows:?}");
    let decided = audit["records"].as_array().unwrap().iter().find(|r| r["outcome"] == "allowed").unwrap();
    assert!(decided["rule"].as_str().unwrap().contains("counter.agent.toml:"), "{decided}");
}
