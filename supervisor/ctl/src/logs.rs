//! logs: units' log lines, from journald and the file store alike.
//!
//! Job: read both, merge by time, follow. Works without loomd. May touch: journalctl, the `logs` directory, to read.
//! Keeps: lines of one source stay in their order; each line that a process printed is counted to the run that printed it.

mod files;
mod journal;
mod sys;
mod when;

use files::Files;
use journal::Journal;
use loom_core::ids::{Kind, UnitId};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{InitFlags, Inotify};
use serde_json::{Map, Value, json};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use sys::Pattern;

/// How long the last word about a run that ended may be on its way through journald.
const LAST_WORD_LIMIT: Duration = Duration::from_millis(500);
/// Between two looks for it.
const LAST_WORD_PAUSE: Duration = Duration::from_millis(10);

/// syslog's levels, worst first.
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "error", "warning", "notice", "info", "debug"];

/// What `loomctl logs` is asked.
#[derive(clap::Args)]
pub struct Flags {
    /// Show lines of these units [default: all, and what loomd says of itself]
    #[arg(value_name = "UNIT")]
    pub units: Vec<String>,
    /// Go on with new lines until Ctrl-C
    #[arg(short, long, conflicts_with_all = ["reverse", "until"])]
    pub follow: bool,
    /// Show at most the newest N lines, or `all`
    #[arg(short = 'n', long, value_name = "N", default_value = "100", value_parser = how_many)]
    pub lines: usize,
    /// Show lines of this run only; takes one unit
    #[arg(long, value_name = "N")]
    pub run: Option<u64>,
    /// Show lines that are not older: `10min`, `today`, `18:30`, `2026-07-20 18:30`
    #[arg(short = 'S', long, value_name = "TIME", value_parser = moment)]
    pub since: Option<u64>,
    /// Show lines that are not newer
    #[arg(short = 'U', long, value_name = "TIME", value_parser = moment)]
    pub until: Option<u64>,
    /// Show lines that match this extended regular expression; any case if it has no capitals
    #[arg(short, long, value_name = "PATTERN")]
    pub grep: Option<String>,
    /// Show lines of this level and worse: `warning`, or 0 to 7
    #[arg(short, long, value_name = "LEVEL", value_parser = level)]
    pub priority: Option<u8>,
    /// Show the newest line first
    #[arg(short, long)]
    pub reverse: bool,
}

fn how_many(text: &str) -> Result<usize, String> {
    if text == "all" {
        return Ok(usize::MAX);
    }
    text.parse().map_err(|_| "write a number or `all`".to_owned())
}

/// A moment of the wall clock, in milliseconds since the epoch.
pub fn moment(text: &str) -> Result<u64, String> {
    when::parse(text, now_ms())
}

fn level(text: &str) -> Result<u8, String> {
    let by_name = LEVELS.iter().position(|level| *level == text || (text == "err" && *level == "error"));
    let found = by_name.or_else(|| text.parse().ok().filter(|number| *number < LEVELS.len()));
    let found = found.and_then(|number| u8::try_from(number).ok());
    found.ok_or_else(|| format!("write one of {} or 0 to 7", LEVELS.join(", ")))
}

/// syslog's number of a level as tracing or syslog names it.
fn level_number(word: &str) -> u8 {
    match word {
        "error" => 3,
        "warn" | "warning" => 4,
        "info" => 6,
        _ => 7,
    }
}

/// Whose lines.
#[derive(Debug, Clone)]
pub enum Units {
    /// Of these.
    These(Vec<UnitId>),
    /// Of all, and what loomd says of itself.
    All,
}

impl Units {
    fn has(&self, unit: &str) -> bool {
        match self {
            Self::These(ids) => ids.iter().any(|id| id.to_string() == unit),
            Self::All => true,
        }
    }

    /// Whether a line must say its unit.
    pub fn are_several(&self) -> bool {
        match self {
            Self::These(ids) => ids.len() > 1,
            Self::All => true,
        }
    }
}

/// Which lines.
#[derive(Debug)]
pub struct Wanted {
    /// Of these units.
    pub units: Units,
    /// Of this run only.
    pub run: Option<u64>,
    /// The newest so many.
    pub lines: usize,
    /// Not older: milliseconds since the epoch.
    pub since: Option<u64>,
    /// Not newer.
    pub until: Option<u64>,
    /// With this in their text.
    pub grep: Option<Pattern>,
    /// At most this number: syslog's, 0 is the worst.
    pub priority: Option<u8>,
}

impl Wanted {
    /// The newest lines of one unit, of one run where that is given.
    pub fn newest(unit: &UnitId, run: Option<u64>, lines: usize) -> Self {
        let units = Units::These(vec![unit.clone()]);
        Self { units, run, lines, since: None, until: None, grep: None, priority: None }
    }

    /// What the command line asks; what is wrong with it, else.
    pub fn asked(flags: &Flags, units: Units) -> Result<Self, String> {
        let one = matches!(&units, Units::These(ids) if ids.len() == 1);
        if flags.run.is_some() && !one {
            return Err("--run takes exactly one unit: runs are numbered per unit".to_owned());
        }
        let grep = flags.grep.as_deref().map(Pattern::new).transpose()?;
        let &Flags { run, lines, since, until, priority, .. } = flags;
        Ok(Self { units, run, lines, since, until, grep, priority })
    }

    fn wants(&self, line: &Line) -> bool {
        self.units.has(&line.unit)
            && self.run.is_none_or(|run| line.run == Some(run))
            && self.since.is_none_or(|since| line.time >= since)
            && self.until.is_none_or(|until| line.time <= until)
            && self.priority.is_none_or(|priority| line.priority <= priority)
            && self.grep.as_ref().is_none_or(|pattern| pattern.matches(&line.text))
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Milliseconds since the epoch.
    pub time: u64,
    /// Its unit; empty for what loomd says of itself.
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
    ///
    /// `named`: loomd's words say about which unit they are, because lines of several are shown.
    pub fn human(&self, named: bool) -> String {
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
        let unit =
            if named && self.by_loomd && !self.unit.is_empty() { format!("{}: ", self.unit) } else { String::new() };
        let run = self.run.filter(|_| self.by_loomd).map(|run| format!(" run={run}")).unwrap_or_default();
        let facts = self.fields.iter().map(|(name, value)| match value {
            Value::String(text) if !text.contains(' ') && !text.is_empty() => format!(" {name}={text}"),
            value => format!(" {name}={value}"),
        });
        format!(
            "{} {who}{level}: {unit}{}{run}{}",
            crate::sys::local_time(self.time),
            self.text,
            facts.collect::<String>()
        )
    }

    /// Whether loomd says with it that the unit's process is gone.
    fn ends_a_run(&self) -> bool {
        let says = |name: &str, words: &[&str]| {
            self.fields.get(name).and_then(Value::as_str).is_some_and(|value| words.contains(&value))
        };
        self.by_loomd && (says("to", &["inactive", "failed"]) || says("sub", &["auto-restart"]))
    }

    /// As a program reads it.
    pub fn json(&self) -> Value {
        json!({
            "version": 1,
            "time": self.time,
            "unit": (!self.unit.is_empty()).then_some(&self.unit),
            "run": self.run,
            "by": if self.by_loomd { "loomd" } else { "unit" },
            "level": LEVELS[usize::from(self.priority.min(7))],
            "text": self.text,
            "fields": self.fields,
        })
    }
}

/// Both sources of lines.
pub struct Logs {
    wanted: Wanted,
    files: Files,
    journal: Option<Journal>,
}

impl Logs {
    /// Nothing is read yet.
    pub fn new(logs_dir: PathBuf, wanted: Wanted) -> Self {
        let files = Files::new(logs_dir, wanted.units.clone());
        let journal = Journal::open(wanted.units.clone(), now_ms());
        Self { wanted, files, journal }
    }

    /// The newest lines so far, oldest first; also a last one without its end.
    pub fn read(&mut self) -> Vec<Line> {
        let journal = self.journal.as_mut().map_or(vec![], |journal| journal.read(&self.wanted));
        let mut files = self.files.read_new(true);
        files.retain(|line| self.wanted.wants(line));
        let mut lines = merge(journal, files);
        lines.drain(..lines.len().saturating_sub(self.wanted.lines));
        lines
    }

    /// Hands over new lines as they come, for ever; whoever has enough ends the process.
    pub fn follow(&mut self, mut show: impl FnMut(&Line)) -> io::Result<std::convert::Infallible> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        if let Some(journal) = &mut self.journal {
            journal.follow()?;
        }
        loop {
            self.files.watch(&inotify);
            // After the watch, so that nothing falls between.
            let lines = self.files.read_new(false);
            lines.iter().filter(|line| self.wanted.wants(line)).for_each(&mut show);
            let mut fds = vec![PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
            let journal = self.journal.as_ref().and_then(Journal::comes);
            fds.extend(journal.map(|stdout| PollFd::new(stdout, PollFlags::POLLIN)));
            // Waits without limit: that is what following means.
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let journal_spoke = fds.get(1).is_some_and(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
            let _ = inotify.read_events();
            if journal_spoke && let Some(journal) = &mut self.journal {
                let lines = journal.read_new()?;
                lines.iter().filter(|line| self.wanted.wants(line)).for_each(&mut show);
            }
        }
    }
}

/// The newest lines of a run that has just ended, once they have passed through journald. Waits for them half a second at most.
pub fn of_ended_run(logs_dir: &Path, unit: &UnitId, run: u64, lines: usize) -> Vec<Line> {
    let until = Instant::now() + LAST_WORD_LIMIT;
    loop {
        let read = || Logs::new(logs_dir.to_owned(), Wanted::newest(unit, Some(run), lines)).read();
        let found = read();
        // What it printed was sent before, but by another socket: it may lie behind the word.
        if found.iter().any(Line::ends_a_run) {
            std::thread::sleep(LAST_WORD_PAUSE);
            return read();
        }
        if Instant::now() >= until {
            return found;
        }
        std::thread::sleep(LAST_WORD_PAUSE);
    }
}

/// Two sequences as one, by time; each keeps its own order.
fn merge(one: Vec<Line>, other: Vec<Line>) -> Vec<Line> {
    let mut merged = Vec::with_capacity(one.len() + other.len());
    let (mut one, mut other) = (one.into_iter().peekable(), other.into_iter().peekable());
    while let (Some(first), Some(second)) = (one.peek(), other.peek()) {
        let next = if first.time <= second.time { one.next() } else { other.next() };
        merged.extend(next);
    }
    merged.extend(one.chain(other));
    merged
}

/// `LOOM_FROM` → `from`; unit and run have places of their own.
fn facts<'a>(fields: impl Iterator<Item = (&'a str, &'a Value)>) -> Map<String, Value> {
    let others = fields.filter(|(name, _)| !matches!(*name, "UNIT" | "RUN"));
    others.map(|(name, value)| (name.to_lowercase(), value.clone())).collect()
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
