//! logs: a unit's log lines, from journald and the file store alike.
//!
//! Job: read both, merge by time, follow. Works without loomd. May touch: journalctl, the `logs` directory, to read.
//! Keeps: lines of one source stay in their order; a line without a run of its own belongs to the run that began before it.

use crate::sys;
use loom_core::ids::{Kind, UnitId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longer lines are split, as journald does.
const LINE_MAX_BYTES: usize = 48 << 10;
/// Entries of journald that are read to find one run's, or to know which run a line belongs to.
const JOURNAL_ENTRIES_MAX: usize = 100_000;
/// Entries before the ones shown, to know their run.
const JOURNAL_ENTRIES_BEFORE: usize = 500;

/// Which lines.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Of this unit.
    pub unit: UnitId,
    /// Of this run only.
    pub run: Option<u64>,
    /// The newest so many.
    pub lines: usize,
    /// Not older: milliseconds since the epoch.
    pub since: Option<u64>,
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Milliseconds since the epoch.
    pub time: u64,
    /// Its unit.
    pub unit: String,
    /// Its run, where that is known.
    pub run: Option<u64>,
    /// A word of loomd about the unit, not output of the unit.
    pub by_loomd: bool,
    /// syslog's: 0 to 7.
    pub priority: u8,
    /// What was said.
    pub text: String,
    /// Facts beside it.
    pub fields: Map<String, Value>,
}

impl Line {
    /// As a person reads it.
    pub fn human(&self) -> String {
        let who = match (self.by_loomd, self.run) {
            (true, _) => "loomd".to_owned(),
            (false, Some(run)) => format!("{}[{run}]", self.unit),
            (false, None) => self.unit.clone(),
        };
        let level = match self.priority {
            0..=3 => " error",
            4 => " warning",
            _ => "",
        };
        let run = self.run.filter(|_| self.by_loomd).map(|run| format!(" run={run}")).unwrap_or_default();
        let facts = self.fields.iter().map(|(name, value)| match value {
            Value::String(text) if !text.contains(' ') && !text.is_empty() => format!(" {name}={text}"),
            value => format!(" {name}={value}"),
        });
        format!("{} {who}{level}: {}{run}{}", sys::local_time(self.time), self.text, facts.collect::<String>())
    }

    /// As a program reads it.
    pub fn json(&self) -> Value {
        let level = ["emerg", "alert", "crit", "error", "warning", "notice", "info", "debug"];
        json!({
            "version": 1,
            "time": self.time,
            "unit": self.unit,
            "run": self.run,
            "by": if self.by_loomd { "loomd" } else { "unit" },
            "level": level[usize::from(self.priority.min(7))],
            "text": self.text,
            "fields": self.fields,
        })
    }
}

/// Both sources of one unit's lines.
pub struct Logs {
    wanted: Wanted,
    files: Files,
    /// Where to go on in journald.
    cursor: Option<String>,
    started_ms: u64,
    /// The run of the line before.
    run: Option<u64>,
}

impl Logs {
    /// Nothing is read yet.
    pub fn new(logs_dir: PathBuf, wanted: Wanted) -> Self {
        let files = Files { dir: logs_dir, unit: wanted.unit.to_string(), read_to: HashMap::new() };
        Self { wanted, files, cursor: None, started_ms: now_ms(), run: None }
    }

    /// The newest lines so far, oldest first.
    pub fn read(&mut self) -> Vec<Line> {
        let mut lines = self.read_journal();
        lines.extend(self.files.read_new(true));
        lines.sort_by_key(|line| line.time);
        let mut lines = self.keep(lines);
        lines.drain(..lines.len().saturating_sub(self.wanted.lines));
        lines
    }

    fn keep(&mut self, lines: Vec<Line>) -> Vec<Line> {
        let mut kept = Vec::new();
        for mut line in lines {
            match line.run {
                Some(run) => self.run = Some(run),
                None => line.run = self.run,
            }
            let in_run = self.wanted.run.is_none_or(|run| line.run == Some(run));
            if in_run && self.wanted.since.is_none_or(|since| line.time >= since) {
                kept.push(line);
            }
        }
        kept
    }

    fn journalctl(&self) -> Option<Command> {
        let extra = std::env::var("LOOM_JOURNALCTL_ARGS").ok();
        let somewhere = ["/run/systemd/journal/socket", "/var/log/journal", "/run/log/journal"];
        if extra.is_none() && !somewhere.iter().any(|path| Path::new(path).exists()) {
            return None;
        }
        let mut command = Command::new("journalctl");
        // Without `--all` it leaves out what is longer than 4096 bytes.
        command
            .args(["-o", "json", "--all", "--no-pager", "--quiet"])
            .args(extra.unwrap_or_default().split_whitespace());
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let unit = &self.wanted.unit;
        command.arg(format!("SYSLOG_IDENTIFIER={unit}")).arg("+").arg(format!("LOOM_UNIT={unit}"));
        sys::end_with_us(&mut command);
        Some(command)
    }

    fn read_journal(&mut self) -> Vec<Line> {
        let Some(mut command) = self.journalctl() else { return vec![] };
        let entries = match self.wanted.run {
            Some(_) => JOURNAL_ENTRIES_MAX,
            None => self.wanted.lines.saturating_add(JOURNAL_ENTRIES_BEFORE).min(JOURNAL_ENTRIES_MAX),
        };
        command.arg(format!("--lines={entries}"));
        match command.output() {
            Ok(output) => {
                String::from_utf8_lossy(&output.stdout).lines().filter_map(|text| self.journal_line(text)).collect()
            }
            Err(error) => {
                eprintln!("note: journald's lines are missing: cannot run `journalctl`: {error}");
                vec![]
            }
        }
    }

    fn journal_line(&mut self, text: &str) -> Option<Line> {
        let Ok(Value::Object(entry)) = serde_json::from_str(text) else { return None };
        // A field that was given several times is a list; the last one is the nearest to the event.
        let last = |name: &str| match entry.get(name) {
            Some(Value::Array(list)) => list.last(),
            other => other,
        };
        let text_of = |name: &str| last(name).and_then(Value::as_str);
        if let Some(cursor) = text_of("__CURSOR") {
            self.cursor = Some(cursor.to_owned());
        }
        let by_loomd = text_of("SYSLOG_IDENTIFIER") == Some("loomd");
        let message = match entry.get("MESSAGE") {
            Some(Value::String(text)) => text.clone(),
            // What is not printable UTF-8 comes as bytes.
            Some(Value::Array(bytes)) => {
                let byte = |value: &Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok()).unwrap_or(b'?');
                String::from_utf8_lossy(&bytes.iter().map(byte).collect::<Vec<u8>>()).into_owned()
            }
            Some(_) | None => String::new(),
        };
        let fields = entry.keys().filter_map(|name| Some((name.strip_prefix("LOOM_")?, last(name)?)));
        Some(Line {
            time: text_of("__REALTIME_TIMESTAMP")?.parse::<u64>().ok()? / 1000,
            unit: self.wanted.unit.to_string(),
            run: text_of("LOOM_RUN").and_then(|run| run.parse().ok()),
            by_loomd,
            priority: text_of("PRIORITY").and_then(|text| text.parse().ok()).unwrap_or(6),
            text: message,
            fields: facts(fields),
        })
    }

    /// Hands over new lines as they come, for ever; whoever has enough ends the process.
    pub fn follow(&mut self, mut show: impl FnMut(&Line)) -> io::Result<std::convert::Infallible> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let mut journal = self.follow_journal()?;
        let mut pending = Vec::new();
        loop {
            self.files.watch(&inotify);
            // After the watch, so that nothing falls between.
            let lines = self.files.read_new(false);
            self.keep(lines).iter().for_each(&mut show);
            let stdout = journal.as_ref().and_then(|child| child.stdout.as_ref());
            let mut fds = vec![PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
            fds.extend(stdout.map(|stdout| PollFd::new(stdout.as_fd(), PollFlags::POLLIN)));
            // Waits without limit: that is what following means.
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let journal_spoke = fds.get(1).is_some_and(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
            let _ = inotify.read_events();
            if journal_spoke && let Some(child) = &mut journal {
                let mut buffer = [0; 64 << 10];
                let count = child.stdout.as_mut().map_or(Ok(0), |stdout| stdout.read(&mut buffer))?;
                if count == 0 {
                    child.wait()?;
                    journal = None;
                }
                pending.extend_from_slice(&buffer[..count]);
                let mut lines = Vec::new();
                while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                    let text = String::from_utf8_lossy(&pending.drain(..=end).collect::<Vec<u8>>()).into_owned();
                    lines.extend(self.journal_line(&text));
                }
                self.keep(lines).iter().for_each(&mut show);
            }
        }
    }

    fn follow_journal(&self) -> io::Result<Option<Child>> {
        let Some(mut command) = self.journalctl() else { return Ok(None) };
        command.args(["--follow", "--lines=all"]);
        match &self.cursor {
            Some(cursor) => command.arg(format!("--after-cursor={cursor}")),
            None => command.arg(format!("--since=@{}", self.started_ms / 1000)),
        };
        match command.stdout(Stdio::piped()).spawn() {
            Ok(child) => Ok(Some(child)),
            // Said once already, when the lines so far were read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// `LOOM_FROM` → `from`; unit and run have places of their own.
fn facts<'a>(fields: impl Iterator<Item = (&'a str, &'a Value)>) -> Map<String, Value> {
    let others = fields.filter(|(name, _)| !matches!(*name, "UNIT" | "RUN"));
    others.map(|(name, value)| (name.to_lowercase(), value.clone())).collect()
}

/// The file store.
struct Files {
    dir: PathBuf,
    unit: String,
    /// How far each file was read.
    read_to: HashMap<PathBuf, u64>,
}

impl Files {
    fn unit_dir(&self) -> PathBuf {
        self.dir.join("units").join(&self.unit)
    }

    /// Watches what there is; what is made later is watched when its parent says so.
    fn watch(&self, inotify: &Inotify) {
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        let units = self.dir.join("units");
        for dir in [self.dir.parent(), Some(&self.dir), Some(&units), Some(&self.unit_dir())].into_iter().flatten() {
            let _ = inotify.add_watch(dir, flags);
        }
    }

    /// Lines that were not read before. `also_unfinished`: a last line without its end counts.
    fn read_new(&mut self, also_unfinished: bool) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut runs: Vec<(u64, PathBuf)> = list(&self.unit_dir())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .filter_map(|path| Some((path.file_stem()?.to_str()?.parse().ok()?, path)))
            .collect();
        runs.sort();
        for (run, path) in runs {
            let old = path.with_extension("old");
            let times = times(&path);
            if !self.read_to.contains_key(&path) && old.exists() {
                let oldest = times.first().map(|(_, time)| *time);
                let time = modified_ms(&old).min(oldest.unwrap_or(u64::MAX));
                for (_, text) in self.read_file(&old, true) {
                    lines.push(self.output(run, time, &text));
                }
            }
            let written = modified_ms(&path);
            for (start, text) in self.read_file(&path, also_unfinished) {
                let time = times.iter().find(|(size, _)| *size > start).map_or(written, |(_, time)| *time);
                lines.push(self.output(run, time, &text));
            }
        }
        let words = self.dir.join("loomd.jsonl");
        let old_words = self.dir.join("loomd.jsonl.1");
        if !self.read_to.contains_key(&words) {
            self.read_words(&old_words, &mut lines);
        }
        self.read_words(&words, &mut lines);
        lines
    }

    fn output(&self, run: u64, time: u64, text: &str) -> Line {
        let (priority, text) = match text.as_bytes() {
            [b'<', digit @ b'0'..=b'7', b'>', ..] => (digit - b'0', &text[3..]),
            _ => (6, text),
        };
        let (unit, text) = (self.unit.clone(), text.to_owned());
        Line { time, unit, run: Some(run), by_loomd: false, priority, text, fields: Map::new() }
    }

    fn read_words(&mut self, path: &Path, lines: &mut Vec<Line>) {
        for (_, text) in self.read_file(path, false) {
            let Ok(Value::Object(word)) = serde_json::from_str(&text) else { continue };
            if word.get("LOOM_UNIT").and_then(Value::as_str) != Some(self.unit.as_str()) {
                continue;
            }
            let text_of = |name: &str| word.get(name).and_then(Value::as_str).unwrap_or_default();
            let fields = word.iter().filter_map(|(name, value)| Some((name.strip_prefix("LOOM_")?, value)));
            lines.push(Line {
                time: word.get("time").and_then(Value::as_u64).unwrap_or_default(),
                unit: self.unit.clone(),
                run: text_of("LOOM_RUN").parse().ok(),
                by_loomd: true,
                priority: match text_of("level") {
                    "error" => 3,
                    "warn" => 4,
                    "info" => 6,
                    _ => 7,
                },
                text: text_of("message").to_owned(),
                fields: facts(fields),
            });
        }
    }

    /// Lines from where the last call ended, each with the place where it starts.
    fn read_file(&mut self, path: &Path, also_unfinished: bool) -> Vec<(u64, String)> {
        let Ok(mut file) = File::open(path) else { return vec![] };
        let size = file.metadata().map_or(0, |meta| meta.len());
        let from = match self.read_to.get(path) {
            // Started anew.
            Some(read) if *read > size => 0,
            Some(read) => *read,
            None => 0,
        };
        // The head may have been freed; its last line is cut.
        let data = nix::unistd::lseek(&file, i64::try_from(from).unwrap_or(i64::MAX), nix::unistd::Whence::SeekData);
        let start = data.ok().and_then(|place| u64::try_from(place).ok()).unwrap_or(size);
        let cut = start > from;
        let mut bytes = Vec::new();
        if file.seek(SeekFrom::Start(start)).is_err() || file.take(size - start).read_to_end(&mut bytes).is_err() {
            return vec![];
        }
        let mut lines = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let end = rest.iter().take(LINE_MAX_BYTES).position(|byte| *byte == b'\n');
            let (length, step) = match end {
                Some(end) => (end, end + 1),
                None if rest.len() >= LINE_MAX_BYTES => (LINE_MAX_BYTES, LINE_MAX_BYTES),
                None if also_unfinished => (rest.len(), rest.len()),
                None => break,
            };
            if !(cut && at == 0) {
                lines.push((start + at as u64, String::from_utf8_lossy(&rest[..length]).into_owned()));
            }
            at += step;
        }
        self.read_to.insert(path.to_owned(), start + at as u64);
        lines
    }
}

/// `<size> <time>` of the keeper: what lies below that size was written by that time.
fn times(log: &Path) -> Vec<(u64, u64)> {
    let text = fs::read_to_string(log.with_extension("times")).unwrap_or_default();
    let pair = |line: &str| {
        let (size, time) = line.split_once(' ')?;
        Some((size.parse().ok()?, time.parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

fn modified_ms(path: &Path) -> u64 {
    let time = fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or(UNIX_EPOCH);
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(0)
}

fn list(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

/// Milliseconds since the epoch.
pub fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// The unit meant by `asked` when no supervisor can say: as written, else the one that has files here, else the agent.
pub fn unit_by_files(logs_dir: &Path, asked: &str) -> Option<(UnitId, bool)> {
    let has_files = |id: &UnitId| logs_dir.join("units").join(id.to_string()).is_dir();
    if let Ok(id) = asked.parse::<UnitId>() {
        let found = has_files(&id);
        return Some((id, found));
    }
    let ids = Kind::ALL.into_iter().filter_map(|kind| format!("{asked}.{kind}").parse::<UnitId>().ok());
    let ids: Vec<UnitId> = ids.collect();
    match ids.iter().find(|id| has_files(id)) {
        Some(id) => Some((id.clone(), true)),
        None => ids.into_iter().next().map(|id| (id, false)),
    }
}
