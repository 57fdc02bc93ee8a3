//! The file store, and a journald that is really one.

use super::*;
use std::io::BufRead;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn unit() -> UnitId {
    "chat.agent".parse().unwrap()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < limit, "waited 20 s until {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn on_disk(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

#[test]
fn a_file_stays_bounded_while_its_writer_keeps_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let sinks = Sinks::at(None, dir.path().to_owned());
    let mut writer = fs::File::from(sinks.open(&unit(), RunId(1)).unwrap());
    let path = dir.path().join("units/chat.agent/1.log");
    let mut number = 0;
    // 30 MiB, and after each the keeper may act.
    for part in 1..=30 {
        let mut text = String::new();
        while text.len() < 1 << 20 {
            text.push_str(&format!("line {number} {}\n", "x".repeat(90)));
            number += 1;
        }
        writer.write_all(text.as_bytes()).unwrap();
        if part % 10 == 0 {
            until("the file is bounded", || on_disk(&path) <= KEPT_BYTES + (2 << 20));
        }
    }
    assert!(fs::metadata(&path).unwrap().len() >= 30 << 20, "the writer's position moved");
    let text = fs::read(&path).unwrap();
    let kept = text.rsplit(|byte| *byte == 0).next().unwrap();
    let kept: Vec<_> = kept.lines().map(Result::unwrap).skip(1).collect();
    assert!(kept.len() > 70_000, "{} lines are kept", kept.len());
    for (line, expected) in kept.iter().rev().zip((0..number).rev()) {
        assert!(line.starts_with(&format!("line {expected} ")), "{line}");
    }
    let times = fs::read_to_string(path.with_extension("times")).unwrap();
    assert!((1..50).contains(&times.lines().count()), "{times}");
}

#[test]
fn a_file_on_its_way_to_the_size_limit_becomes_small_and_loses_no_line_of_its_tail() {
    let dir = tempfile::tempdir().unwrap();
    let sinks = Sinks::at(None, dir.path().to_owned());
    let mut writer = fs::File::from(sinks.open(&unit(), RunId(1)).unwrap());
    let path = dir.path().join("units/chat.agent/1.log");
    let line = |number: u64| format!("{number:>99}\n");
    // Writes all the while, 200 MiB if it must: the file becomes small under the writer's hands.
    let (mut number, mut written, mut largest, mut shrunk) = (0, 0_u64, 0, 0);
    until("the file became small", || {
        let block: String = (0..10_000).map(|more| line(number + more)).collect();
        writer.write_all(block.as_bytes()).unwrap();
        (number, written) = (number + 10_000, written + block.len() as u64);
        let size = fs::metadata(&path).unwrap().len();
        shrunk += u32::from(size < largest);
        largest = if size < largest { size } else { largest.max(size) };
        shrunk == 2
    });
    writer.write_all(b"after\n").unwrap();
    let base = fs::read_to_string(path.with_extension("base")).unwrap();
    let base: u64 = base.trim().parse().unwrap();
    assert_eq!(base + fs::metadata(&path).unwrap().len(), written + 6, "nothing was lost");
    let file = fs::File::open(&path).unwrap();
    let data = nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekData).unwrap();
    let text = fs::read(&path).unwrap().split_off(usize::try_from(data).unwrap());
    let lines: Vec<_> = text.lines().map(Result::unwrap).skip(1).collect();
    assert_eq!(lines.last().unwrap(), "after");
    assert!(lines.len() > 60_000, "{} lines are kept", lines.len());
    for (seen, expected) in lines.iter().rev().skip(1).zip((0..number).rev()) {
        assert_eq!(format!("{seen}\n"), line(expected));
    }
}

#[test]
fn the_newest_runs_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let sinks = Sinks::at(None, dir.path().to_owned());
    for run in 1..=12 {
        sinks.open(&unit(), RunId(run)).unwrap();
    }
    let runs: Vec<u64> = runs_in(&dir.path().join("units/chat.agent")).into_iter().map(|(run, _)| run).collect();
    assert_eq!(runs, [8, 9, 10, 11, 12]);
}

#[test]
fn a_file_that_grows_line_by_line_is_looked_at_a_few_times_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let sinks = Sinks::at(None, dir.path().to_owned());
    let mut writer = fs::File::from(sinks.open(&unit(), RunId(1)).unwrap());
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        writer.write_all(b"line\n").unwrap();
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let times = fs::read_to_string(dir.path().join("units/chat.agent/1.times")).unwrap();
    assert!((2..=18).contains(&times.lines().count()), "{times}");
}

#[test]
fn a_file_at_rest_wakes_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let sinks = Sinks::at(None, dir.path().to_owned());
    let mut writer = fs::File::from(sinks.open(&unit(), RunId(1)).unwrap());
    writer.write_all(b"once\n").unwrap();
    let times = dir.path().join("units/chat.agent/1.times");
    until("the time is noted", || fs::read_to_string(&times).is_ok_and(|text| text.starts_with("5 ")));
    let thread = || {
        entries(Path::new("/proc/self/task")).find_map(|task| {
            let name = fs::read_to_string(task.join("comm")).ok()?;
            let status = fs::read_to_string(task.join("status")).ok()?;
            let switches =
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()?;
            (name == "logs\n").then_some(switches)
        })
    };
    // It looks once more and then rests: two equal counts over two seconds.
    let mut before: Option<u64> = None;
    let mut since = Instant::now();
    until("it rests", || {
        let now = thread();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(2500)
    });
    writer.write_all(b"twice\n").unwrap();
    until("it wakes again", || fs::read_to_string(&times).is_ok_and(|text| text.contains("\n11 ")));
}

/// A journald of a namespace of its own, which listens at `/run/systemd/journal.<name>`.
struct Journald {
    child: Child,
    name: String,
    /// Keeps it up: it leaves by itself when no stream is open for 30 s.
    _stream: UnixStream,
}

impl Journald {
    const PROGRAM: &str = "/usr/lib/systemd/systemd-journald";

    fn start() -> Option<Self> {
        let missing = |what: &str| {
            println!("skipped: needs {what}");
            None
        };
        if !nix::unistd::geteuid().is_root() {
            return missing("root, to start a journald");
        }
        if !Path::new(Self::PROGRAM).exists() {
            return missing(Self::PROGRAM);
        }
        let name = format!("loom-test-{}", std::process::id());
        let child = Command::new(Self::PROGRAM).arg(&name).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let socket = Self::dir_of(&name).join("stdout");
        until("journald listens", || UnixStream::connect(&socket).is_ok());
        let stream = open_stream(&socket, "keeper", FIRST_FACILITY).unwrap();
        Some(Self { child, name, _stream: stream })
    }

    fn dir_of(name: &str) -> PathBuf {
        PathBuf::from(format!("/run/systemd/journal.{name}"))
    }

    fn entries(&self, matches: &[&str]) -> Vec<serde_json::Value> {
        let namespace = format!("--namespace={}", self.name);
        let output =
            Command::new("journalctl").args([&namespace, "-o", "json", "--no-pager"]).args(matches).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let _ = fs::remove_dir_all(Self::dir_of(&self.name));
        let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
        for base in ["/run/log/journal", "/var/log/journal"] {
            let _ = fs::remove_dir_all(format!("{base}/{}.{}", machine.trim(), self.name));
            // Only if it was made for us and is empty.
            let _ = fs::remove_dir(base);
        }
    }
}

/// Says a word through [`init_tracing`], in the process that the test below starts.
#[test]
#[ignore = "started by the test below, with journald's directory named"]
fn speaker() {
    let dir = PathBuf::from(std::env::var_os("SPEAKER_DIR").expect("started by the test below"));
    let sinks = Sinks::detect(&dir);
    assert_eq!(sinks.word(), "journald");
    let _last_words = init_tracing(&sinks).unwrap();
    tracing::info!(unit = %unit(), run = %RunId(3), "unit changed state");
}

#[test]
fn output_and_words_are_found_in_journald_by_unit() {
    let Some(journald) = Journald::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let sinks = Sinks::at(Some(Journald::dir_of(&journald.name)), dir.path().to_owned());
    assert_eq!(sinks.word(), "journald");
    let output = sinks.open(&unit(), RunId(3)).unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "echo hello; echo '<3>bad' >&2"])
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap();
    assert!(child.wait().unwrap().success());
    let test = std::env::current_exe().unwrap();
    let spoken = Command::new(test)
        .args(["--ignored", "--exact", "logs::tests::speaker"])
        .env("SPEAKER_DIR", dir.path())
        .env("LOOM_JOURNAL_DIR", Journald::dir_of(&journald.name))
        .output()
        .unwrap();
    assert!(spoken.status.success(), "{spoken:?}");
    until("both lines are there", || journald.entries(&["-t", "chat.agent"]).len() == 2);
    let lines = journald.entries(&["-t", "chat.agent"]);
    assert_eq!((&lines[0]["MESSAGE"], &lines[0]["PRIORITY"]), (&"hello".into(), &"6".into()));
    assert_eq!((&lines[1]["MESSAGE"], &lines[1]["PRIORITY"]), (&"bad".into(), &"3".into()));
    until("the word is there", || journald.entries(&["LOOM_UNIT=chat.agent"]).len() == 1);
    let word = &journald.entries(&["LOOM_UNIT=chat.agent", "LOOM_RUN=3"])[0];
    assert_eq!((&word["MESSAGE"], &word["SYSLOG_IDENTIFIER"]), (&"unit changed state".into(), &"loomd".into()));
    assert_eq!(word["PRIORITY"], "6");
}
