//! What a person sees of every command: stdout, stderr and exit status together, against a supervisor with fixed answers.
//! `INSTA_UPDATE=always` writes the snapshots anew.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by ending")]

#[path = "../../api/tests/fake/mod.rs"]
mod fake;

use fake::{Served, now};
use loom_api::view::{BusAnswer, BusRequest, JobVerb, JobsRequest, KillWhom};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

/// How long a test waits for a line.
const LIMIT: Duration = Duration::from_secs(20);

fn bare_command(dir: &Path) -> Command {
    let bin = dir.join("bin");
    if !bin.exists() {
        // Prints the journal that a test wrote, and none on a machine that has one.
        fs::create_dir(&bin).unwrap();
        let script = "#!/bin/sh\n[ -f \"$FAKE_JOURNAL\" ] || exit 0\n\
            case \" $* \" in *\" --reverse \"*) exec /usr/bin/tac \"$FAKE_JOURNAL\";; esac\nexec /bin/cat \"$FAKE_JOURNAL\"\n";
        fs::write(bin.join("journalctl"), script).unwrap();
        fs::set_permissions(bin.join("journalctl"), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_loomctl"));
    command.env_clear().env("PATH", &bin).env("TZ", "UTC").env("COLUMNS", "100").current_dir(dir).stdin(Stdio::null());
    command.env("FAKE_JOURNAL", dir.join("journal.json")).env("LOOM_JOURNALCTL_ARGS", "--quiet");
    command
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = bare_command(dir);
    command.arg("--runtime-dir").arg(dir).arg("--state-dir").arg(dir.join("state")).args(args);
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().unwrap()
}

/// Everything there is to see, with the temporary directory named `<dir>`.
fn seen(dir: &Path, args: &[&str]) -> String {
    let output = run(dir, args);
    let mut text = format!("$ loomctl {}\n[exit status {}]\n", args.join(" "), output.status.code().unwrap());
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        if !bytes.is_empty() {
            let _ = write!(text, "--- {name}\n{}", String::from_utf8_lossy(bytes));
        }
    }
    text.replace(dir.to_str().unwrap(), "<dir>")
}

/// Compares with `snapshots/commands__<name>.snap`.
fn snapshot(name: &str, text: String) {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn all_seen(dir: &Path, commands: &[&[&str]]) -> String {
    commands.iter().map(|args| seen(dir, args)).collect::<Vec<_>>().join("\n")
}

/// Some output of two runs, and words of loomd about them.
fn write_logs(dir: &Path) {
    let logs = dir.join("state/logs");
    let unit = logs.join("units/chat.agent");
    fs::create_dir_all(&unit).unwrap();
    fs::write(unit.join("1.log"), "one\n<3>two\n").unwrap();
    fs::write(unit.join("1.times"), "4 1760000001000\n11 1760000002500\n").unwrap();
    fs::write(unit.join("2.log"), "three\nno end").unwrap();
    fs::write(unit.join("2.times"), "6 1760000010000\n12 1760000011000\n").unwrap();
    let word = |time: u64, unit: &str, run: &str, to: &str| {
        json!({"time": time, "level": "info", "message": "unit changed state", "LOOM_UNIT": unit, "LOOM_RUN": run,
            "LOOM_TO": to, "LOOM_BECAUSE": "a person asked"})
        .to_string()
    };
    let words = [
        word(1_760_000_000_000, "chat.agent", "1", "activating"),
        word(1_760_000_001_500, "news.agent", "9", "active"),
        word(1_760_000_009_000, "chat.agent", "2", "activating"),
    ];
    fs::write(logs.join("loomd.jsonl"), words.join("\n") + "\n").unwrap();
}

/// A process whose lines come as they are written.
struct Live {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Live {
    fn start(dir: &Path, args: &[&str]) -> Self {
        let mut command = command(dir, args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let both: [Box<dyn BufRead + Send>; 2] = [Box::new(BufReader::new(out)), Box::new(BufReader::new(err))];
        for stream in both {
            let sender = sender.clone();
            std::thread::spawn(move || stream.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        }
        Self { child, lines }
    }

    fn say(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Reads until a line has this text.
    fn until(&self, text: &str) -> String {
        let mut before = Vec::new();
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => before.push(line),
                Err(_) => panic!("`{text}` did not come, but {before:#?}"),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn end_of_input(mut self) -> Option<i32> {
        drop(self.child.stdin.take());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[rustfmt::skip]
fn units_are_shown_on_one_screen_and_in_detail() {
    let served = Served::start();
    snapshot("status", all_seen(served.dir(), &[
        &["status"],
        &["list"],
        &["status", "chat"],
        &["status", "news.agent"],
        &["status", "local-llm"],
        &["show", "chat"],
        &["cat", "chat"],
        &["audit"],
    ]));
}

#[test]
#[rustfmt::skip]
fn jobs_say_what_became_of_each_unit() {
    let served = Served::start();
    snapshot("jobs", all_seen(served.dir(), &[
        &["start", "chat"],
        &["stop", "chat.agent", "news"],
        &["restart", "chat", "--no-block"],
        &["start", "local-llm", "chat"],
        &["start", "caht"],
        &["start", "caht", "--json"],
        &["daemon-reload"],
    ]));
    served.fake.bad_file.store(true, Ordering::SeqCst);
    snapshot("reload_bad", seen(served.dir(), &["daemon-reload"]));
}

#[test]
#[rustfmt::skip]
fn every_verb_says_what_became_of_it() {
    let served = Served::start();
    snapshot("verbs", all_seen(served.dir(), &[
        &["try-restart", "chat"],
        &["reload", "chat"],
        &["reload-or-restart", "chat"],
        &["kill", "chat", "-s", "USR1", "--whom", "main"],
        &["kill", "chat", "-s", "NOPE"],
        &["freeze", "chat"],
        &["thaw", "chat"],
        &["reset-failed"],
        &["stop", "--all"],
        &["stop", "chat", "--all"],
        &["is-active", "chat", "news"],
        &["is-active", "local-llm"],
        &["is-active", "nobody"],
        &["is-failed", "local-llm"],
        &["is-failed", "chat"],
    ]));
    let asked = served.fake.jobs.lock().unwrap();
    let kill = asked.iter().find(|request| request.verb == JobVerb::Kill).unwrap();
    assert_eq!((kill.signal, kill.whom), (Some(10), KillWhom::Main));
    assert!(asked.iter().any(|request| request.verb == JobVerb::ResetFailed && request.all));
}

#[test]
#[rustfmt::skip]
fn what_is_and_what_was_is_shown() {
    let served = Served::start();
    snapshot("look", all_seen(served.dir(), &[
        &["list", "--state", "failed,auto-restart"],
        &["list", "--kind", "agent", "c*", "news"],
        &["list-jobs"],
        &["list-dependencies", "all"],
        &["list-dependencies", "all", "--after"],
        &["list-dependencies", "--reverse", "local-llm"],
        &["list-dependencies", "nobody"],
        &["events", "--since", "1h"],
        &["crashes"],
        &["crashes", "show", "chat", "2"],
        &["analyze", "blame"],
        &["analyze", "critical-chain"],
        &["daemon-reload", "--dry-run"],
        &["apply", "--dry-run"],
    ]));
    let top = run(served.dir(), &["top", "-n", "1"]);
    let text = String::from_utf8(top.stdout).unwrap();
    assert!(text.contains("x.service   active (running)  77    90.0  2.0K    3      2\n"), "{text}");
}

#[test]
fn apply_restarts_what_needs_it_and_nothing_else() {
    let served = Served::start();
    assert_eq!(run(served.dir(), &["apply"]).status.code(), Some(0));
    let asked = served.fake.jobs.lock().unwrap();
    assert_eq!(*asked, [JobsRequest::new(JobVerb::TryRestart, vec!["chat.agent".to_owned()])]);
}

#[test]
fn a_long_start_says_what_it_waits_for_and_ctrl_c_only_ends_the_waiting() {
    let served = Served::start();
    let mut live = Live::start(served.dir(), &["start", "reader@7"]);
    let line = live.until("waiting for");
    assert!(line.starts_with("waiting for local-llm.service (failed, failed), which reader@7.agent needs "), "{line}");
    live.signal(Signal::SIGINT);
    live.until("the supervisor goes on with it; Ctrl-C again leaves");
    live.signal(Signal::SIGINT);
    assert_eq!(live.child.wait().unwrap().code(), Some(1));
    assert_eq!(served.fake.jobs.lock().unwrap().len(), 1);
}

#[test]
fn the_third_ctrl_c_in_a_stop_kills() {
    let served = Served::start();
    let mut live = Live::start(served.dir(), &["stop", "reader@7"]);
    live.until("waiting for");
    for words in ["Ctrl-C again leaves", "kills what is left", "killing what is left"] {
        live.signal(Signal::SIGINT);
        live.until(words);
    }
    let end = std::time::Instant::now() + LIMIT;
    while !served.fake.jobs.lock().unwrap().iter().any(|request| request.force) {
        assert!(std::time::Instant::now() < end, "no kill was asked for");
        std::thread::yield_now();
    }
    live.signal(Signal::SIGINT);
    assert_eq!(live.child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_command_runs_as_a_unit_and_its_exit_status_is_passed_on() {
    let served = Served::start();
    let words = ["run", "--name", "job", "--wait", "-p", "limits.tasks=3", "--", "sh", "-c", "exit 7"];
    let output = run(served.dir(), &words);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let asked = served.fake.transient.lock().unwrap().clone().unwrap();
    assert_eq!((asked.unit.to_string().as_str(), asked.wait), ("job.service", true));
    assert!(asked.text.contains("tasks = 3") && asked.text.contains("policy = \"no\""), "{}", asked.text);
    for bad in [&["run"][..], &["run", "-p", "x", "--", "true"], &["run", "--name", "A/b", "--", "true"]] {
        assert_eq!(run(served.dir(), bad).status.code(), Some(2), "{bad:?}");
    }
}

/// Runs with a unit path of its own, and without a supervisor.
fn with_units(dir: &Path, args: &[&str], input: &str) -> Output {
    let mut command = command(dir, args);
    command.env("LOOM_UNIT_PATH", dir.join("units")).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn units_of(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("units")).unwrap();
    for (name, text) in files {
        fs::write(dir.path().join("units").join(name), text).unwrap();
    }
    dir
}

const NAP: &str = "[exec]\ncommand = [\"/bin/sleep\", \"9\"]\n";

#[test]
fn an_edit_is_checked_before_it_is_in_place_and_a_bad_one_is_kept() {
    let dir = units_of(&[("nap.service.toml", NAP)]);
    let drop_in = dir.path().join("units/nap.service.d/override.toml");
    let kept = dir.path().join("units/nap.service.d/.override.edit.toml");
    let bad = with_units(dir.path(), &["edit", "nap", "--stdin"], "[stop]\ntimeuot = \"5s\"\n");
    assert_eq!(bad.status.code(), Some(4), "{bad:?}");
    let words = String::from_utf8(bad.stderr).unwrap();
    assert!(words.contains("override.toml:2:1") && words.contains("nothing was changed"), "{words}");
    assert!(!drop_in.exists());
    assert_eq!(fs::read_to_string(&kept).unwrap(), "[stop]\ntimeuot = \"5s\"\n");
    // An editor that corrects what was kept.
    let sed = ["/usr/bin/sed", "/bin/sed"].into_iter().find(|sed| Path::new(sed).exists()).unwrap();
    let mut command = command(dir.path(), &["edit", "nap"]);
    command.env("LOOM_UNIT_PATH", dir.path().join("units")).env("EDITOR", format!("{sed} -i s/timeuot/timeout/"));
    let good = command.output().unwrap();
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    assert_eq!(fs::read_to_string(&drop_in).unwrap(), "[stop]\ntimeout = \"5s\"\n");
    assert!(!kept.exists());
    let same = with_units(dir.path(), &["edit", "nap", "--stdin"], "[stop]\ntimeout = \"5s\"\n");
    assert!(String::from_utf8_lossy(&same.stderr).contains("nothing was changed"), "{same:?}");
    let full = with_units(dir.path(), &["edit", "nap", "--full", "--stdin"], "[exec]\ncommand = []\n");
    assert_eq!(full.status.code(), Some(4), "{full:?}");
    assert_eq!(fs::read_to_string(dir.path().join("units/nap.service.toml")).unwrap(), NAP);
    assert_eq!(with_units(dir.path(), &["edit", "nobody", "--stdin"], "").status.code(), Some(5));
    let named = with_units(dir.path(), &["edit", "nap", "--stdin", "--drop-in", "../x"], "");
    assert_eq!(named.status.code(), Some(2));
}

#[test]
fn a_mask_is_a_link_that_unmask_takes_away() {
    let dir = units_of(&[]);
    fs::create_dir(dir.path().join("low")).unwrap();
    fs::write(dir.path().join("low/nap.service.toml"), NAP).unwrap();
    let run = |args: &[&str]| {
        let path = format!("{}:{}", dir.path().join("units").display(), dir.path().join("low").display());
        command(dir.path(), args).env("LOOM_UNIT_PATH", path).output().unwrap()
    };
    let is = |word: &str| assert_eq!(String::from_utf8(run(&["is-enabled", "nap"]).stdout).unwrap(), word);
    is("static\n");
    assert_eq!(run(&["mask", "nap"]).status.code(), Some(0));
    is("masked\n");
    assert_eq!(fs::read_link(dir.path().join("units/nap.service.toml")).unwrap(), Path::new("/dev/null"));
    assert_eq!(run(&["unmask", "nap"]).status.code(), Some(0));
    is("static\n");
    assert_eq!(run(&["enable", "nap"]).status.code(), Some(1), "its file has no [install]");
    // Where its own file lies no link can be made.
    fs::write(dir.path().join("units/own.service.toml"), NAP).unwrap();
    assert_eq!(run(&["mask", "own"]).status.code(), Some(1));
}

/// Every path below a directory, with what a file or link holds.
fn everything(root: &Path) -> Vec<(std::path::PathBuf, String)> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let holds = match (kind.is_dir(), kind.is_symlink()) {
                (true, _) => String::new(),
                (false, true) => fs::read_link(&path).unwrap().display().to_string(),
                (false, false) => fs::read_to_string(&path).unwrap(),
            };
            if kind.is_dir() {
                open.push(path.clone());
            }
            found.push((path, holds));
        }
    }
    found.sort();
    found
}

#[test]
fn the_service_is_installed_and_removed_without_a_trace() {
    let dir = tempfile::tempdir().unwrap();
    // loomd must lie beside loomctl.
    let programs = dir.path().join("programs");
    fs::create_dir(&programs).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_loomctl"), programs.join("loomctl")).unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("home/me/.config")).unwrap();
    let before = everything(&root);
    let run = |args: &[&str]| {
        let mut command = Command::new(programs.join("loomctl"));
        command
            .env_clear()
            .env("HOME", "/home/me")
            .current_dir(dir.path())
            .arg("--runtime-dir")
            .arg(dir.path().join("a b"));
        command.arg("--state-dir").arg("/var/lib/100%").args(args).arg("--root").arg(&root).output().unwrap()
    };
    let without = run(&["install-service", "--user"]);
    assert_eq!(without.status.code(), Some(1), "there is no loomd: {without:?}");
    fs::write(programs.join("loomd"), "").unwrap();
    for (whose, file, link) in [
        ("--user", "home/me/.config/systemd/user/loomd.service", "default.target.wants/loomd.service"),
        ("--system", "etc/systemd/system/loomd.service", "multi-user.target.wants/loomd.service"),
    ] {
        let dry = run(&["install-service", whose, "--dry-run"]);
        assert_eq!((dry.status.code(), everything(&root)), (Some(0), before.clone()), "a dry run changes nothing");
        assert!(String::from_utf8_lossy(&dry.stdout).contains("Type=notify\n"), "{dry:?}");
        for _ in 0..2 {
            assert_eq!(run(&["install-service", whose]).status.code(), Some(0), "also where it is installed already");
        }
        let text = fs::read_to_string(root.join(file)).unwrap();
        for line in [
            "Type=notify",
            "KillMode=process",
            "FileDescriptorStoreMax=4096",
            "WatchdogSec=30s",
            "Delegate=yes",
            "ExecReload=/bin/kill -HUP $MAINPID",
            "Restart=always",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        let start = text.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
        assert!(start.contains("a b\" --state-dir /var/lib/100%% --unit-path "), "{start}");
        let folder = root.join(file).parent().unwrap().to_owned();
        assert!(fs::read_to_string(folder.join(link)).is_ok(), "the link leads to the file");
        assert_eq!(run(&["uninstall-service", whose]).status.code(), Some(0));
        assert_eq!(everything(&root), before, "without a trace");
        assert_eq!(run(&["uninstall-service", whose]).status.code(), Some(1));
    }
    let foreign = root.join("etc/systemd/system");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("loomd.service"), "[Unit]\n").unwrap();
    for command in ["install-service", "uninstall-service"] {
        assert_eq!(run(&[command, "--system"]).status.code(), Some(1), "what others made is left alone");
    }
    assert_eq!(fs::read_to_string(foreign.join("loomd.service")).unwrap(), "[Unit]\n");
}

#[test]
#[rustfmt::skip]
fn an_expression_shows_when_it_elapses() {
    let dir = tempfile::tempdir().unwrap();
    for (args, normal) in [
        (&["calendar", "Mon..Fri 9:00", "--iterations", "3", "--timezone", "Europe/Berlin"][..], "Mon..Fri *-*-* 09:00:00"),
        (&["calendar", "*/15 * * * *", "--iterations", "3"], "*/15 * * * *"),
    ] {
        let text = String::from_utf8(run(dir.path(), args).stdout).unwrap();
        assert!(text.contains(normal) && text.lines().count() == 4, "{text}");
    }
    snapshot("calendar", all_seen(dir.path(), &[
        &["calendar", "2000-01-01"],
        &["calendar", "61 * * * *"],
        &["calendar", "daily", "--timezone", "Berlin"],
    ]));
    let value: Value = serde_json::from_slice(&run(dir.path(), &["calendar", "hourly", "--json"]).stdout).unwrap();
    assert_eq!((&value["version"], value["next"].as_array().unwrap().len()), (&json!(1), 1));
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man");
    assert_eq!(run(dir.path(), &["man", pages.to_str().unwrap()]).status.code(), Some(0));
    for page in ["loomctl.1", "loomctl-start.1", "loomctl-crashes-show.1"] {
        let text = fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(".SH NAME") && text.contains("Exit status"), "{page}: {text}");
    }
    assert!(seen(dir.path(), &["man"]).contains(".TH loomctl 1"));
}

#[test]
fn a_failed_start_shows_the_last_lines_of_its_unit() {
    let served = Served::start();
    let unit = served.dir().join("state/logs/units/local-llm.service");
    fs::create_dir_all(&unit).unwrap();
    fs::write(unit.join("1.log"), "cannot bind\n").unwrap();
    fs::write(unit.join("1.times"), "12 1760000001000\n").unwrap();
    let text = seen(served.dir(), &["start", "local-llm"]);
    let expected = "last lines of local-llm.service:\n  2025-10-09 08:53:21.000 local-llm.service[1]: cannot bind";
    assert!(text.contains(expected), "{text}");
}

#[test]
#[rustfmt::skip]
fn state_is_read_and_changed() {
    let served = Served::start();
    snapshot("state", all_seen(served.dir(), &[
        &["state", "list", "chat"],
        &["state", "get", "chat", "count"],
        &["state", "get", "chat", "none"],
        &["state", "put", "chat", "count", "3", "--if-version", "2"],
        &["state", "put", "chat", "count", "4", "--if-version", "2"],
        &["state", "put", "chat", "count", "plain"],
        &["state", "get", "chat", "count", "--json"],
        &["state", "delete", "chat", "last/seen"],
    ]));
}

#[test]
#[rustfmt::skip]
fn an_answer_is_streamed_to_stdout_and_its_steps_to_stderr() {
    let served = Served::start();
    snapshot("ask", all_seen(served.dir(), &[
        &["ask", "chat", "What is there?"],
        &["ask", "chat", "What is there?", "--json"],
        &["ask", "local-llm", "Hello?"],
        &["ask", "all.target", "Hello?"],
    ]));
    let asked = BusRequest {
        topic: "unit.chat.ask".to_owned(),
        data: json!({"text": "What is there?", "thread": "main"}),
        timeout_ms: Some(120_000),
    };
    assert_eq!(*served.fake.asked.lock().unwrap(), Some(asked));
    let error = BusAnswer::Error { code: "unit-failed".into(), message: "run 3 ended: signal 9".into() };
    let token = BusAnswer::Progress { data: json!({"kind": "token", "text": "There "}) };
    *served.fake.scripts.lock().unwrap() = vec![vec![token.clone(), error]];
    snapshot("ask_failed", seen(served.dir(), &["ask", "chat", "What is there?"]));
    *served.fake.scripts.lock().unwrap() = vec![vec![token]];
    snapshot("ask_cut_short", seen(served.dir(), &["ask", "chat", "What is there?"]));
}

#[test]
fn an_answer_that_is_not_whole_is_called_so_and_is_status_1() {
    let served = Served::start();
    let token = BusAnswer::Progress { data: json!({"kind": "token", "text": "There ", "at": 0}) };
    let data =
        json!({"text": "There ", "stop_reason": "incomplete", "error": "the stream ended without an end marker"});
    let reply = BusAnswer::Reply { source: "/units/chat.agent".into(), data };
    *served.fake.scripts.lock().unwrap() = vec![vec![token, reply]];
    let question = ["ask", "chat", "What is there?"];
    snapshot("ask_incomplete", all_seen(served.dir(), &[&question, &[&question[..], &["--json"]].concat()]));
    let mut live = Live::start(served.dir(), &["chat", "chat"]);
    live.say("What is there?");
    live.until("[no whole answer: the stream ended without an end marker]");
    assert_eq!(live.end_of_input(), Some(0));
}

#[test]
fn an_answer_whose_pieces_were_dropped_on_the_way_is_shown_without_holes() {
    let served = Served::start();
    let token = |at: u64, text: &str| BusAnswer::Progress { data: json!({"kind": "token", "text": text, "at": at}) };
    let reply = BusAnswer::Reply {
        source: "/units/chat.agent".into(),
        data: json!({"text": "für immer und ewig", "stop_reason": "final"}),
    };
    // "immer " was dropped.
    *served.fake.scripts.lock().unwrap() = vec![vec![token(0, "für "), token(10, "und "), token(14, "ewig"), reply]];
    let output = run(served.dir(), &["ask", "chat", "How long?"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "für immer und ewig\n");
}

#[test]
#[rustfmt::skip]
fn without_a_supervisor_there_is_one_clear_line_and_status_3() {
    let dir = tempfile::tempdir().unwrap();
    snapshot("no_supervisor", all_seen(dir.path(), &[
        &["status"],
        &["start", "chat", "--json"],
        &["ask", "chat", "x"],
    ]));
}

#[test]
#[rustfmt::skip]
fn usage_is_status_2() {
    let dir = tempfile::tempdir().unwrap();
    let table: &[&[&str]] = &[
        &["strat"],
        &["start"],
        &["logs", "chat", "-n", "x"],
        &["ask", "chat", "x", "--timeout", "90"],
        &["ask", "chat", "x", "--timeout", "2h"],
        &["chat", "c", "--json"],
        &["status", "--config", "/nonexistent/loom.toml"],
    ];
    for args in table {
        assert_eq!(run(dir.path(), args).status.code(), Some(2), "{args:?}");
    }
    let output = bare_command(dir.path()).env("LOOM_RUNTIME_DIR", "/d".repeat(80)).arg("status").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("choose a shorter --runtime-dir"), "{output:?}");
}

#[test]
fn verify_without_a_file_checks_the_unit_path_and_a_bad_loom_toml_is_status_4() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.agent.toml"), "[exec]\ncomand = [\"sh\"]\n").unwrap();
    let verify = || bare_command(dir.path()).env("LOOM_UNIT_PATH", dir.path()).arg("verify").output().unwrap();
    let output = verify();
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("a.agent.toml:2:1"), "{output:?}");
    fs::write(dir.path().join("a.agent.toml"), "[exec]\ncommand = [\"/bin/sh\"]\n").unwrap();
    assert_eq!(verify().status.code(), Some(0));
    fs::write(dir.path().join("loom.toml"), "runtime_dir = 5\n").unwrap();
    let output = verify();
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("loom.toml"), "{output:?}");
}

#[test]
fn a_bad_file_is_status_4_and_its_problems_are_drawn() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.agent.toml"), "[exec]\ncommand = [\"sh\"]\n\n[restart]\npolicy = \"onfailure\"\n")
        .unwrap();
    snapshot("verify", seen(dir.path(), &["verify", "a.agent.toml"]));
    let output = run(dir.path(), &["verify", "a.agent.toml", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["ok"], &report["problems"][0]["line"]), (&Value::from(false), &Value::from(5)));
}

#[test]
fn help_is_short_with_h_and_has_an_example_and_exit_statuses_with_help() {
    let dir = tempfile::tempdir().unwrap();
    snapshot("help", all_seen(dir.path(), &[&["-h"], &["stop", "-h"], &["stop", "--help"]]));
    for command in ["start", "status", "logs", "ask", "chat", "state", "verify", "completions"] {
        let text = seen(dir.path(), &[command, "--help"]);
        assert!(text.contains("Example:\n  loomctl ") && text.contains("  3  no supervisor"), "{text}");
    }
}

#[test]
#[rustfmt::skip]
fn every_command_answers_programs_with_one_object_with_a_version() {
    let served = Served::start();
    write_logs(served.dir());
    let commands: &[&[&str]] = &[
        &["status"], &["status", "chat"], &["list"], &["start", "chat"], &["stop", "chat"], &["restart", "chat"],
        &["show", "chat"], &["cat", "chat"], &["daemon-reload"], &["ask", "chat", "x"], &["state", "list", "chat"],
        &["state", "get", "chat", "count"], &["state", "put", "chat", "k", "1"], &["state", "delete", "chat", "k"],
        &["audit"], &["verify", "none.agent.toml"], &["status", "none"], &["state", "get", "chat", "none"],
        &["logs", "chat", "-n", "1"], &["try-restart", "chat"], &["kill", "chat"], &["reset-failed"], &["is-active", "chat"],
        &["is-failed", "chat"], &["list-jobs"], &["list-dependencies", "all"], &["crashes"], &["crashes", "show", "chat", "2"],
        &["analyze", "blame"], &["analyze", "critical-chain"], &["top", "-n", "1"], &["apply"], &["daemon-reload", "--dry-run"],
    ];
    for args in commands {
        let output = run(served.dir(), &[*args, &["--json"]].concat());
        let value = serde_json::from_slice::<Value>(&output.stdout);
        let value = value.unwrap_or_else(|error| panic!("{args:?}: {error}: {output:?}"));
        assert_eq!(value["version"], 1, "{args:?}");
    }
    let status: Value = serde_json::from_slice(&run(served.dir(), &["status", "chat", "--json"]).stdout).unwrap();
    for field in ["unit", "kind", "active_state", "sub_state", "result", "run", "main_pid", "restarts", "since", "triggered_by"] {
        assert!(status.get(field).is_some(), "{field}");
    }
}

#[test]
#[rustfmt::skip]
fn log_lines_of_files_and_journald_are_merged_by_time() {
    let dir = tempfile::tempdir().unwrap();
    write_logs(dir.path());
    let entry = |time: u64, extra: Value| {
        let mut entry = json!({"__REALTIME_TIMESTAMP": time.to_string(), "__CURSOR": "c", "PRIORITY": "6"});
        entry.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        entry.to_string() + "\n"
    };
    let journal = [
        entry(1_760_000_000_500_000, json!({"MESSAGE": "unit changed state", "SYSLOG_IDENTIFIER": "loomd",
            "LOOM_UNIT": ["x", "chat.agent"], "LOOM_RUN": ["1", "1"], "LOOM_TO": "active"})),
        entry(1_760_000_012_000_000, json!({"MESSAGE": "from the stream", "SYSLOG_IDENTIFIER": "chat.agent",
            "SYSLOG_FACILITY": "18"})),
        entry(1_760_000_013_000_000, json!({"MESSAGE": [104, 195, 40], "SYSLOG_IDENTIFIER": "chat.agent",
            "LOOM_UNIT": "chat.agent", "LOOM_RUN": "3"})),
    ];
    fs::write(dir.path().join("journal.json"), journal.concat()).unwrap();
    snapshot("logs", all_seen(dir.path(), &[
        &["logs", "chat"],
        &["logs", "chat", "-n", "2"],
        &["logs", "chat", "--run", "1"],
        &["logs", "chat", "--run", "2", "--json"],
        &["logs", "chat", "--since", "1h"],
        &["logs", "nobody", "--since", "1h"],
    ]));
}

#[test]
fn the_head_of_a_freed_file_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("state/logs/units/chat.agent");
    fs::create_dir_all(&unit).unwrap();
    let file = fs::File::create(unit.join("1.log")).unwrap();
    file.write_all_at(b"of a cut line\nwhole\n", 1 << 20).unwrap();
    fs::write(unit.join("1.times"), "1048596 1760000001000\n").unwrap();
    let output = run(dir.path(), &["logs", "chat"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "2025-10-09 08:53:21.000 chat.agent[1]: whole\n");
}

#[test]
fn following_shows_lines_as_they_are_written_also_of_new_runs() {
    let dir = tempfile::tempdir().unwrap();
    write_logs(dir.path());
    let live = Live::start(dir.path(), &["logs", "chat", "-f", "-n", "1"]);
    live.until("no end");
    let unit = dir.path().join("state/logs/units/chat.agent");
    let append = |path: &Path| OpenOptions::new().append(true).open(path).unwrap();
    append(&unit.join("2.log")).write_all(b" yet\nfour\n").unwrap();
    live.until("chat.agent[2]: four");
    fs::write(unit.join("3.log"), "five\n").unwrap();
    live.until("chat.agent[3]: five");
    let word =
        json!({"time": now(), "level": "warn", "message": "it ended", "LOOM_UNIT": "chat.agent", "LOOM_RUN": "3"});
    append(&dir.path().join("state/logs/loomd.jsonl")).write_all(format!("{word}\n").as_bytes()).unwrap();
    let line = live.until("it ended");
    assert!(line.contains("loomd warning: it ended run=3"), "{line}");
}

#[test]
fn ctrl_c_in_a_chat_cancels_the_answer_and_nothing_else() {
    let served = Served::start();
    let mut live = Live::start(served.dir(), &["chat", "chat", "--thread", "t"]);
    live.until("talking to chat.agent (run 3)");
    live.say("never end");
    while served.fake.asked.lock().unwrap().is_none() {
        std::thread::yield_now();
    }
    live.signal(Signal::SIGINT);
    live.until("[cancelled]");
    live.say("What is there?");
    // Words come by another stream than the answer, so only their own order is known.
    let total = live.until("total");
    assert!(total.starts_with("[first token after 0."), "{total}");
    assert!(served.fake.cancelled.load(Ordering::SeqCst));
    assert_eq!(served.fake.asked.lock().unwrap().as_ref().unwrap().data["thread"], "t");
    let mode = fs::metadata(served.dir().join("state/chat-history")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(live.end_of_input(), Some(0));
}

#[test]
fn a_chat_outlives_its_supervisor_and_its_agent() {
    let mut served = Served::start();
    let mut live = Live::start(served.dir(), &["chat", "chat"]);
    live.until("talking to");
    served.leave();
    live.say("Are you there?");
    live.until("[the supervisor is away");
    served.listen();
    live.until("total");
    let error = |code: &str| vec![BusAnswer::Error { code: code.to_owned(), message: String::new() }];
    let answer = served.fake.scripts.lock().unwrap().remove(0);
    let script = vec![error("no-receiver"), error("no-receiver"), answer.clone(), error("unit-failed"), answer];
    *served.fake.scripts.lock().unwrap() = script;
    live.say("And now?");
    live.until("[the agent is away");
    live.until("total");
    live.say("And again?");
    live.until("it comes back with its memory");
    live.say("Please.");
    live.until("total");
    assert_eq!(live.end_of_input(), Some(0));
}

#[test]
fn a_reader_that_leaves_is_no_accident() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path(), &["completions", "bash"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{output:?}");
}
