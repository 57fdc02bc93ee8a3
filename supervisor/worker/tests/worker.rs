//! loom-worker, started as loomd starts it: requests on 0, answers on 1.

#![allow(clippy::unwrap_used, reason = "the whole file is tests")]

use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

struct Worker {
    child: Child,
    requests: Option<ChildStdin>,
    answers: ChildStdout,
    count: u64,
}

impl Worker {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_loom-worker"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self { requests: child.stdin.take(), answers: child.stdout.take().unwrap(), child, count: 0 }
    }

    fn send(&mut self, request: &Value) {
        let text = serde_json::to_vec(request).unwrap();
        let requests = self.requests.as_mut().unwrap();
        requests.write_all(&u32::try_from(text.len()).unwrap().to_be_bytes()).unwrap();
        requests.write_all(&text).unwrap();
    }

    fn receive(&mut self) -> Value {
        let mut length = [0; 4];
        self.answers.read_exact(&mut length).unwrap();
        let mut text = vec![0; u32::from_be_bytes(length) as usize];
        self.answers.read_exact(&mut text).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.requests.take());
        let _ = self.child.wait();
    }
}

/// A workspace, a directory to read, and one outside; all in one temporary directory.
struct Bench {
    worker: Worker,
    home: tempfile::TempDir,
    allow: Value,
    deny: Value,
}

impl Bench {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        for name in ["work", "shared", "secret"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        fs::write(home.path().join("secret/key"), "SECRET").unwrap();
        fs::write(home.path().join("shared/note"), "shared").unwrap();
        let any = json!([{ "rule": "any", "globs": [] }]);
        Self { worker: Worker::start(), home, allow: any, deny: json!([]) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn call(&mut self, tool: &str, args: Value) -> Result<Value, Value> {
        self.worker.count += 1;
        let id = self.worker.count;
        let roots = json!({ "workspace": self.path("work"), "read": [self.path("shared")], "write": [] });
        self.worker.send(&json!({
            "id": id, "tool": tool, "args": args, "roots": roots, "allow": self.allow, "deny": self.deny,
        }));
        let mut answer = self.worker.receive();
        assert_eq!(answer["id"], id);
        match answer.get_mut("ok") {
            Some(ok) => Ok(ok.take()),
            None => Err(answer["error"].take()),
        }
    }

    fn read(&mut self, path: impl AsRef<Path>) -> Result<Value, Value> {
        self.call("fs:read", json!({ "path": path.as_ref() }))
    }

    #[track_caller]
    fn refused(&mut self, tool: &str, args: Value) -> (String, String) {
        let error = self.call(tool, args.clone()).expect_err(&format!("{tool} {args} was carried out"));
        assert_eq!(error["outcome"], "not-run", "{error}");
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        (if error["code"] == "tool-error" { text("reason") } else { text("code") }, text("message"))
    }
}

#[test]
fn a_file_is_read_in_parts_with_the_hash_of_the_whole() {
    let mut bench = Bench::new();
    fs::write(bench.path("work/a"), "hällo").unwrap();
    // The hash is taken from the system's own tool, not from ours.
    let output = Command::new("sha256sum").arg(bench.path("work/a")).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let sha256 = output.split_whitespace().next().unwrap();
    let whole = bench.read("a").unwrap();
    assert_eq!(whole, json!({ "content": "hällo", "bytes": 6, "total": 6, "eof": true, "sha256": sha256 }));
    // Two bytes end within the `ä`: it is left for the next part.
    let part = bench.call("fs:read", json!({ "path": "a", "limit": 2 })).unwrap();
    assert_eq!((&part["content"], &part["bytes"], &part["eof"]), (&json!("h"), &json!(1), &json!(false)));
    let rest = bench.call("fs:read", json!({ "path": "a", "offset": 1 })).unwrap();
    assert_eq!((&rest["content"], &rest["eof"]), (&json!("ällo"), &json!(true)));
    let beyond = bench.call("fs:read", json!({ "path": "a", "offset": 100 })).unwrap();
    assert_eq!((&beyond["content"], &beyond["eof"]), (&json!(""), &json!(true)));
}

#[test]
fn bytes_that_are_no_text_are_read_as_base64() {
    let mut bench = Bench::new();
    fs::write(bench.path("work/a"), [0xff, 0xfe]).unwrap();
    let (reason, message) = bench.refused("fs:read", json!({ "path": "a" }));
    assert_eq!(reason, "not-text");
    assert!(message.contains("base64"), "{message}");
    assert_eq!(bench.call("fs:read", json!({ "path": "a", "encoding": "base64" })).unwrap()["content"], "//4=");
}

#[test]
fn every_way_out_of_the_roots_is_outside_workspace() {
    let mut bench = Bench::new();
    let secret = bench.path("secret/key");
    symlink(&secret, bench.path("work/link")).unwrap();
    symlink("../secret/key", bench.path("work/relative")).unwrap();
    symlink(bench.path("secret"), bench.path("work/directory")).unwrap();
    symlink("/proc/self/root", bench.path("work/magic")).unwrap();
    symlink("link", bench.path("work/chain")).unwrap();
    fs::create_dir(bench.path("work/inner")).unwrap();
    let ways = [
        "../secret/key".to_owned(),
        "inner/../../secret/key".into(),
        "../../../../../../../../etc/passwd".into(),
        secret.display().to_string(),
        "/etc/passwd".into(),
        "/etc/does-not-exist".into(),
        "link".into(),
        "relative".into(),
        "directory/key".into(),
        "directory/does-not-exist".into(),
        "chain".into(),
        "..".into(),
        "/".into(),
        "/proc/self/root/etc/passwd".into(),
        "/proc/self/cwd".into(),
        "magic/etc/passwd".into(),
        format!("{}/../secret/key", bench.path("shared").display()),
    ];
    for way in &ways {
        for tool in ["fs:read", "fs:list", "fs:write"] {
            let args = match tool {
                "fs:write" => json!({ "path": way, "content": "x", "mode": "replace", "parents": true }),
                _ => json!({ "path": way }),
            };
            let (reason, message) = bench.refused(tool, args);
            assert_eq!(reason, "outside-workspace", "{tool} {way}: {message}");
            assert!(message.contains(&format!("`{way}`")), "{message}");
            assert!(message.contains(&bench.path("work").display().to_string()), "names the workspace: {message}");
            assert!(message.contains("[sandbox]: "), "names the line to add: {message}");
            assert!(!message.contains("SECRET"));
        }
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "SECRET");
    assert_eq!(fs::read_dir(bench.path("secret")).unwrap().count(), 1);
}

#[test]
fn a_link_that_stays_inside_is_followed() {
    let mut bench = Bench::new();
    fs::create_dir(bench.path("work/d")).unwrap();
    fs::write(bench.path("work/d/a"), "inside").unwrap();
    symlink("d/a", bench.path("work/relative")).unwrap();
    symlink(bench.path("work/d"), bench.path("work/absolute")).unwrap();
    for path in ["relative", "absolute/a", "d/../relative", "./d//a"] {
        assert_eq!(bench.read(path).unwrap()["content"], "inside", "{path}");
    }
    assert_eq!(bench.read(bench.path("shared/note")).unwrap()["content"], "shared");
    bench.call("fs:write", json!({ "path": "relative", "content": "new", "mode": "replace" })).unwrap();
    assert_eq!(fs::read_to_string(bench.path("work/d/a")).unwrap(), "new");
    assert!(fs::symlink_metadata(bench.path("work/relative")).unwrap().is_symlink());
    symlink("loop", bench.path("work/loop")).unwrap();
    assert_eq!(bench.refused("fs:read", json!({ "path": "loop" })).0, "not-found");
}

#[test]
fn a_workspace_named_through_a_link_is_the_same_workspace() {
    let mut bench = Bench::new();
    fs::rename(bench.path("work"), bench.path("real")).unwrap();
    symlink("real", bench.path("work")).unwrap();
    fs::write(bench.path("real/a"), "x").unwrap();
    assert_eq!(bench.read("a").unwrap()["content"], "x");
    assert_eq!(bench.read(bench.path("work/a")).unwrap()["content"], "x");
    assert_eq!(bench.read(bench.path("real/a")).unwrap()["content"], "x");
}

#[test]
fn what_is_no_file_with_one_name_is_not_read() {
    let mut bench = Bench::new();
    fs::hard_link(bench.path("secret/key"), bench.path("work/hard")).unwrap();
    nix::unistd::mkfifo(&bench.path("work/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(bench.path("work/socket")).unwrap();
    fs::create_dir(bench.path("work/d")).unwrap();
    fs::write(bench.path("work/f"), "").unwrap();
    for (path, wanted) in [
        ("hard", "outside-workspace"),
        ("fifo", "not-regular"),
        ("socket", "not-regular"),
        ("d", "is-directory"),
        (".", "is-directory"),
        ("none", "not-found"),
        ("none/../f", "not-found"),
        ("f/x", "not-directory"),
    ] {
        let (reason, message) = bench.refused("fs:read", json!({ "path": path }));
        assert_eq!(reason, wanted, "{path}: {message}");
        if path != "f/x" && path != "none/../f" {
            let (reason, message) = bench.refused(
                "fs:write",
                json!({ "path": path, "content": "x", "mode": "append",
                "expect_sha256": "0".repeat(64) }),
            );
            let wanted = if path == "none" { "conflict" } else { wanted };
            assert_eq!(reason, wanted, "{path}: {message}");
        }
    }
    assert_eq!(fs::read_to_string(bench.path("secret/key")).unwrap(), "SECRET");
    assert_eq!(bench.refused("fs:list", json!({ "path": "f" })).0, "not-directory");
}

#[test]
fn a_link_swapped_between_check_and_use_never_leads_outside() {
    let mut bench = Bench::new();
    fs::create_dir(bench.path("work/real")).unwrap();
    fs::write(bench.path("work/real/key"), "inside").unwrap();
    fs::write(bench.path("work/plain"), "inside").unwrap();
    let (work, secret) = (bench.path("work"), bench.path("secret"));
    let done = AtomicBool::new(false);
    let (mut inside, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // `swap` is by turns the directory inside and a link to the one outside; `file` likewise.
            let (swap, parked, link) = (work.join("swap"), work.join("parked"), work.join("to-outside"));
            symlink(&secret, &link).unwrap();
            fs::rename(work.join("real"), &parked).unwrap();
            let (file, file_link, file_parked) = (work.join("file"), work.join("file-link"), work.join("plain"));
            symlink(secret.join("key"), &file_link).unwrap();
            while !done.load(Ordering::Relaxed) {
                fs::rename(&parked, &swap).unwrap();
                fs::rename(&file_parked, &file).unwrap();
                fs::rename(&swap, &parked).unwrap();
                fs::rename(&file, &file_parked).unwrap();
                fs::rename(&link, &swap).unwrap();
                fs::rename(&file_link, &file).unwrap();
                fs::rename(&swap, &link).unwrap();
                fs::rename(&file, &file_link).unwrap();
            }
        });
        for round in 0..6000 {
            let path = if round % 2 == 0 { "swap/key" } else { "file" };
            match bench.read(path) {
                Ok(answer) => {
                    assert_eq!(answer["content"], "inside", "read from outside in round {round}");
                    inside += 1;
                }
                Err(_) => refused += 1,
            }
            let _ = bench.call("fs:write", json!({ "path": "swap/new", "content": "x", "mode": "replace" }));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(&secret).unwrap().count(), 1, "something was written outside");
    assert_eq!(fs::read_to_string(secret.join("key")).unwrap(), "SECRET");
    assert!(inside > 0 && refused > 0, "the race was not met: {inside} inside, {refused} refused");
}

#[test]
fn rules_see_the_path_after_resolution() {
    let mut bench = Bench::new();
    fs::write(bench.path("work/.env"), "SECRET").unwrap();
    fs::create_dir(bench.path("work/notes")).unwrap();
    fs::write(bench.path("work/notes/a"), "note").unwrap();
    fs::write(bench.path("shared/.env"), "SECRET").unwrap();
    symlink("../.env", bench.path("work/notes/innocent")).unwrap();
    bench.allow = json!([{ "rule": "allow notes", "globs": ["notes/**"] }, { "rule": "allow env", "globs": ["**"] }]);
    bench.deny = json!([{ "rule": "deny env", "globs": ["**/.env"] }]);
    assert_eq!(bench.read("notes/a").unwrap()["content"], "note");
    for path in [".env", "notes/innocent", "notes/../.env"] {
        let error = bench.read(path).unwrap_err();
        assert_eq!((error["code"].as_str(), error["rule"].as_str()), (Some("denied"), Some("deny env")), "{path}");
    }
    assert_eq!(
        bench.refused("fs:write", json!({ "path": "notes/innocent", "content": "", "mode": "replace" })).0,
        "denied"
    );
    // `**` of an allow ends with the workspace; the deny does not.
    assert_eq!(bench.refused("fs:read", json!({ "path": bench.path("shared/note") })).0, "denied");
    bench.allow = json!([{ "rule": "any", "globs": [] }]);
    assert_eq!(bench.read(bench.path("shared/note")).unwrap()["content"], "shared");
    assert_eq!(bench.refused("fs:read", json!({ "path": bench.path("shared/.env") })).0, "denied");
}

#[test]
fn a_list_is_in_bytewise_order_and_shows_only_what_the_rules_admit() {
    let mut bench = Bench::new();
    for path in ["b/deep/er", "a", ".git"] {
        fs::create_dir_all(bench.path("work").join(path)).unwrap();
    }
    for path in ["b/1", "B", "b/deep/.env", "b/deep/er/x.md", ".env"] {
        fs::write(bench.path("work").join(path), "12").unwrap();
    }
    symlink("/etc", bench.path("work/b/link")).unwrap();
    bench.deny = json!([{ "rule": "deny env", "globs": ["**/.env"] }]);
    let paths = |answer: &Value| -> Vec<String> {
        let entries = answer["entries"].as_array().unwrap();
        entries.iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect()
    };
    let flat = bench.call("fs:list", json!({})).unwrap();
    assert_eq!(paths(&flat), [".git", "B", "a", "b"]);
    assert_eq!(flat["entries"][1], json!({ "path": "B", "type": "file", "size": 2 }));
    let deep = bench.call("fs:list", json!({ "path": "b", "depth": 5 })).unwrap();
    assert_eq!(paths(&deep), ["b/1", "b/deep", "b/deep/er", "b/deep/er/x.md", "b/link"]);
    assert_eq!(deep["entries"][4]["type"], "symlink");
    let globbed = bench.call("fs:list", json!({ "depth": 5, "glob": "**/*.md" })).unwrap();
    assert_eq!(paths(&globbed), ["b/deep/er/x.md"]);
    let cut = bench.call("fs:list", json!({ "depth": 5, "limit": 2 })).unwrap();
    assert_eq!((paths(&cut).len(), &cut["truncated"]), (2, &json!(true)));
    let elsewhere = bench.call("fs:list", json!({ "path": bench.path("shared") })).unwrap();
    assert_eq!(paths(&elsewhere), [bench.path("shared/note").display().to_string()]);
}

#[test]
fn a_name_that_is_not_utf8_is_listed_as_base64() {
    use std::os::unix::ffi::OsStrExt;
    let mut bench = Bench::new();
    fs::write(bench.path("work").join(std::ffi::OsStr::from_bytes(&[b'a', 0xff])), "").unwrap();
    let answer = bench.call("fs:list", json!({})).unwrap();
    assert_eq!(answer["entries"][0]["path_base64"], "Yf8=");
}

#[test]
fn writing_creates_replaces_and_appends_as_asked() {
    let mut bench = Bench::new();
    let mut write = |args: Value| bench.call("fs:write", args);
    let made = write(json!({ "path": "a", "content": "one" })).unwrap();
    assert_eq!(made["bytes"], 3);
    let again = write(json!({ "path": "a", "content": "two" })).unwrap_err();
    assert_eq!(again["reason"], "exists");
    let hash = made["sha256"].as_str().unwrap().to_owned();
    write(json!({ "path": "a", "content": "!", "mode": "append", "expect_sha256": hash })).unwrap();
    let stale = write(json!({ "path": "a", "content": "x", "mode": "replace", "expect_sha256": hash })).unwrap_err();
    assert_eq!(stale["reason"], "conflict");
    let deep = write(json!({ "path": "x/y/z", "content": "deep" })).unwrap_err();
    assert_eq!(deep["reason"], "not-found");
    write(json!({ "path": "x/y/z", "content": "deep", "parents": true })).unwrap();
    write(json!({ "path": "new", "content": "n", "mode": "replace" })).unwrap();
    write(json!({ "path": "log", "content": "l", "mode": "append" })).unwrap();
    let directory = write(json!({ "path": ".", "content": "l", "mode": "replace" })).unwrap_err();
    assert_eq!(directory["reason"], "is-directory");
    let read_only = bench.path("shared/new");
    let outside = bench.refused("fs:write", json!({ "path": read_only, "content": "" }));
    assert_eq!(outside.0, "outside-workspace");
    assert!(outside.1.contains("write = ["), "{}", outside.1);
    let text = |path: &str| fs::read_to_string(bench.path("work").join(path)).unwrap();
    assert_eq!(
        (text("a"), text("x/y/z"), text("new"), text("log")),
        ("one!".into(), "deep".into(), "n".into(), "l".into())
    );
    assert_eq!(fs::read_dir(bench.path("work")).unwrap().count(), 4, "no temporary file is left");
}

#[test]
fn a_replaced_file_keeps_its_mode_bits() {
    let mut bench = Bench::new();
    let path = bench.path("work/run.sh");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o751)).unwrap();
    bench.call("fs:write", json!({ "path": "run.sh", "content": "new", "mode": "replace" })).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o751);
}

#[test]
fn a_worker_killed_while_writing_leaves_the_old_file_or_the_new_one() {
    let mut bench = Bench::new();
    let path = bench.path("work/a");
    let (old, new) = ("o".repeat(3_000_000), "n".repeat(3_000_000));
    for round in 0..40_u64 {
        fs::write(&path, &old).unwrap();
        bench.worker.count += 1;
        let roots = json!({ "workspace": bench.path("work"), "read": [], "write": [] });
        let args = json!({ "path": "a", "content": new, "mode": "replace" });
        let id = bench.worker.count;
        let allow = bench.allow.clone();
        bench.worker.send(&json!({ "id": id, "tool": "fs:write", "args": args, "roots": roots, "allow": allow }));
        // Not a wait for anything: the moment of death is what varies.
        std::thread::sleep(Duration::from_micros(round * 500));
        bench.worker.child.kill().unwrap();
        bench.worker.child.wait().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text == old || text == new, "round {round}: {} bytes", text.len());
        bench.worker = Worker::start();
    }
}

#[test]
fn a_full_disk_or_a_size_limit_leaves_the_file_as_it_was() {
    let mut bench = Bench::new();
    fs::write(bench.path("work/a"), "old").unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(bench.worker.child.id()).unwrap());
    let limit = Command::new("prlimit").args([format!("--pid={pid}"), "--fsize=1000".into()]).status();
    if !limit.is_ok_and(|status| status.success()) {
        eprintln!("skipped: needs prlimit");
        return;
    }
    let (reason, _) = bench.refused("fs:write", json!({ "path": "a", "content": "x".repeat(5000), "mode": "replace" }));
    assert_eq!(reason, "too-large");
    assert_eq!(bench.read("a").unwrap()["content"], "old");
    assert_eq!(fs::read_dir(bench.path("work")).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn a_worker_ends_when_its_stream_closes() {
    let mut worker = Worker::start();
    drop(worker.requests.take());
    assert!(worker.child.wait().unwrap().success());
}

#[test]
fn a_bad_argument_or_tool_is_an_answer() {
    let mut bench = Bench::new();
    assert_eq!(bench.refused("fs:read", json!({ "path": 1 })).0, "invalid-arguments");
    assert_eq!(bench.refused("fs:format", json!({})).0, "tool-not-found");
}

#[test]
fn an_oversized_request_ends_the_worker_with_an_error() {
    let mut worker = Worker::start();
    worker.requests.as_mut().unwrap().write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert!(!worker.child.wait().unwrap().success());
}
