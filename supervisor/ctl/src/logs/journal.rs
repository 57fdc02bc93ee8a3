//! journal: lines that journald has.
//!
//! Job: ask journalctl for what units printed and what was said about them, newest first until enough is found, then as it
//! comes; say of each line to which run it belongs. May touch: journalctl. Keeps: journald's own order; memory for the lines
//! that are asked for, however many there are.
//!
//! A line that a process printed has no field of ours but its syslog facility, `local0` to `local6`: the number of its run
//! modulo 7. loomd's words around it name the run about which it must lie; so a line that journald read late, after the next
//! run's first word, is still counted to the run that printed it.

use super::{Line, Units, Wanted, facts};
use crate::sys;
use serde_json::Value;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// The facility of runs whose number is a multiple of [`FACILITIES`].
const FIRST_FACILITY: u64 = 16;
/// So many facilities tell runs apart.
const FACILITIES: u64 = 7;
/// Runs by which a line may be older or newer than the words around it: journald reads streams and words from different sockets, and
/// after a hang the words of several runs may come behind all their lines.
const APART_RUNS: u64 = 3;
/// How much later than the next run's first word a line of a run may be read by journald, or earlier than its own.
const LATE_MS: u64 = 60_000;
/// Ends of journalctl in a row, without a line from it, until only files are followed.
const FOLLOW_TRIES: u32 = 3;

/// What journald has of some units.
pub struct Journal {
    units: Units,
    /// Units whose lines are matched where all are wanted: those that journald knows.
    known: Vec<String>,
    /// Where to go on.
    cursor: Option<String>,
    started_ms: u64,
    /// The run of the last word about each unit.
    runs: HashMap<String, Option<u64>>,
    follower: Option<Follower>,
    ends: u32,
}

struct Follower {
    child: Child,
    pending: Vec<u8>,
}

impl Journal {
    /// Nothing is read yet; `None` where there is no journald.
    pub fn open(units: Units, started_ms: u64) -> Option<Self> {
        let somewhere = ["/run/systemd/journal/socket", "/var/log/journal", "/run/log/journal"];
        if extra_args().is_none() && !somewhere.iter().any(|path| Path::new(path).exists()) {
            return None;
        }
        let (known, cursor, runs, follower) = (vec![], None, HashMap::new(), None);
        let mut journal = Self { units, known, cursor, started_ms, runs, follower, ends: 0 };
        if matches!(journal.units, Units::All) {
            let output = journalctl().arg("--field=LOOM_UNIT").output();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
            journal.known = text.lines().map(str::to_owned).collect();
        }
        Some(journal)
    }

    fn command(&self) -> Command {
        let mut command = journalctl();
        // Without `--all` it leaves out what is longer than 4096 bytes.
        command.args(["--output=json", "--all"]);
        command
    }

    fn add_matches(&self, command: &mut Command) {
        let mut matches: Vec<String> = match &self.units {
            Units::These(ids) => ids.iter().flat_map(|id| of_unit(&id.to_string())).collect(),
            Units::All => self.known.iter().flat_map(|unit| of_unit(unit)).collect(),
        };
        if matches!(self.units, Units::All) {
            matches.push("SYSLOG_IDENTIFIER=loomd".to_owned());
        }
        for (number, one) in matches.into_iter().enumerate() {
            if number > 0 {
                command.arg("+");
            }
            command.arg(one);
        }
    }

    /// The newest lines that are wanted, oldest first.
    pub fn read(&mut self, wanted: &Wanted) -> Vec<Line> {
        let (mut since, mut until) = (wanted.since, wanted.until);
        if let (Some(run), Units::These(ids)) = (wanted.run, &self.units)
            && let [unit] = ids.as_slice()
        {
            let first = |run: u64| self.first_word(&unit.to_string(), Some(run)).and_then(|entry| entry_time(&entry));
            let (from, to) = (first(run), first(run + 1));
            since = since.max(from.map(|from| from.saturating_sub(LATE_MS)));
            until = [until, to.map(|to| to + LATE_MS)].into_iter().flatten().min();
        }
        let mut command = self.command();
        command.arg("--reverse");
        between(&mut command, since, until);
        self.add_matches(&mut command);
        let mut lines = Vec::new();
        let done = for_each(command, |entry| {
            if self.cursor.is_none() {
                self.cursor = entry["__CURSOR"].as_str().map(str::to_owned);
            }
            lines.extend(self.line(&entry).filter(|line| wanted.wants(line)));
            lines.len() < wanted.lines
        });
        if let Err(error) = done {
            eprintln!("note: journald's lines are missing: cannot run `journalctl`: {error}");
        }
        // Read backwards: what is known now is about the oldest lines.
        self.runs.clear();
        lines.reverse();
        lines
    }

    /// The oldest word of loomd about a unit and run.
    fn first_word(&self, unit: &str, run: Option<u64>) -> Option<Value> {
        let mut command = self.command();
        command.args(["SYSLOG_IDENTIFIER=loomd".to_owned(), format!("LOOM_UNIT={unit}")]);
        command.args(run.map(|run| format!("LOOM_RUN={run}")));
        first(command)
    }

    /// The run of the last word about a unit that was said by then, or else of the first one ever.
    fn run_about(&self, unit: &str, time: u64) -> Option<u64> {
        let mut command = self.command();
        command.arg("--reverse");
        between(&mut command, None, Some(time));
        command.args(["SYSLOG_IDENTIFIER=loomd".to_owned(), format!("LOOM_UNIT={unit}")]);
        let of = |entry: Value| last(&entry, "LOOM_RUN")?.as_str()?.parse().ok();
        first(command).and_then(of).or_else(|| self.first_word(unit, None).and_then(of))
    }

    fn line(&mut self, entry: &Value) -> Option<Line> {
        let text_of = |name: &str| last(entry, name).and_then(Value::as_str);
        let time = entry_time(entry)?;
        let identifier = text_of("SYSLOG_IDENTIFIER").unwrap_or_default();
        let by_loomd = identifier == "loomd";
        let unit = match text_of("LOOM_UNIT") {
            Some(unit) => unit,
            None if by_loomd => "",
            None => identifier,
        };
        let said: Option<u64> = text_of("LOOM_RUN").and_then(|run| run.parse().ok());
        let run = match said {
            Some(run) if by_loomd => {
                self.runs.insert(unit.to_owned(), Some(run));
                Some(run)
            }
            Some(run) => Some(run),
            None if by_loomd => None,
            None => {
                let about = match self.runs.get(unit) {
                    Some(about) => *about,
                    None => {
                        let about = self.run_about(unit, time);
                        self.runs.insert(unit.to_owned(), about);
                        about
                    }
                };
                let facility = text_of("SYSLOG_FACILITY").and_then(|number| number.parse().ok());
                about.and_then(|about| run_of(facility, about))
            }
        };
        let message = match entry.get("MESSAGE") {
            Some(Value::String(text)) => text.clone(),
            // What is not printable UTF-8 comes as bytes.
            Some(Value::Array(bytes)) => {
                let byte = |value: &Value| value.as_u64().and_then(|byte| u8::try_from(byte).ok()).unwrap_or(b'?');
                String::from_utf8_lossy(&bytes.iter().map(byte).collect::<Vec<u8>>()).into_owned()
            }
            Some(_) | None => String::new(),
        };
        let names = entry.as_object()?.keys();
        let fields = names.filter_map(|name| Some((name.strip_prefix("LOOM_")?, last(entry, name)?)));
        Some(Line {
            time,
            unit: unit.to_owned(),
            run,
            by_loomd,
            priority: text_of("PRIORITY").and_then(|text| text.parse().ok()).unwrap_or(6),
            text: message,
            fields: facts(fields),
        })
    }

    /// Starts to follow, after what was read.
    pub fn follow(&mut self) -> io::Result<()> {
        let mut command = self.command();
        command.args(["--follow", "--lines=all"]);
        match &self.cursor {
            Some(cursor) => command.arg(format!("--after-cursor={cursor}")),
            None => command.arg(format!("--since=@{}", self.started_ms / 1000)),
        };
        self.add_matches(&mut command);
        match command.stdout(Stdio::piped()).spawn() {
            Ok(child) => self.follower = Some(Follower { child, pending: vec![] }),
            // Said once already, when the lines so far were read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn stdout(&self) -> Option<&ChildStdout> {
        self.follower.as_ref().and_then(|follower| follower.child.stdout.as_ref())
    }

    /// What is readable when something came.
    pub fn comes(&self) -> Option<BorrowedFd<'_>> {
        self.stdout().map(AsFd::as_fd)
    }

    /// What came. Call it when [`Journal::comes`] is readable.
    pub fn read_new(&mut self) -> io::Result<Vec<Line>> {
        let Some(follower) = &mut self.follower else { return Ok(vec![]) };
        let mut buffer = [0; 64 << 10];
        let count = follower.child.stdout.as_mut().map_or(Ok(0), |stdout| stdout.read(&mut buffer))?;
        follower.pending.extend_from_slice(&buffer[..count]);
        if count == 0 {
            let status = follower.child.wait()?;
            self.ends += 1;
            if self.ends >= FOLLOW_TRIES {
                eprintln!(
                    "note: journald's lines are not followed any more: journalctl ended again and again ({status})"
                );
                self.follower = None;
                return Ok(vec![]);
            }
            // It goes on where it was.
            self.follow()?;
            return Ok(vec![]);
        }
        self.ends = 0;
        let whole = follower.pending.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let texts: Vec<u8> = follower.pending.drain(..whole).collect();
        let mut lines = Vec::new();
        for text in String::from_utf8_lossy(&texts).lines() {
            let Ok(entry) = serde_json::from_str::<Value>(text) else { continue };
            self.cursor = entry["__CURSOR"].as_str().map(str::to_owned).or(self.cursor.take());
            let Some(line) = self.line(&entry) else { continue };
            let is_new = matches!(self.units, Units::All) && !line.unit.is_empty() && !self.known.contains(&line.unit);
            let unit = line.unit.clone();
            lines.push(line);
            if is_new {
                // What the unit prints is matched from this word of loomd on.
                self.known.push(unit);
                self.stop();
                self.follow()?;
                break;
            }
        }
        Ok(lines)
    }

    fn stop(&mut self) {
        if let Some(mut follower) = self.follower.take() {
            let _ = follower.child.kill();
            let _ = follower.child.wait();
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The run about `about` that has this facility: up to [`APART_RUNS`] older or newer.
fn run_of(facility: Option<u64>, about: u64) -> Option<u64> {
    let Some(tag) = facility.and_then(|facility| facility.checked_sub(FIRST_FACILITY)).filter(|tag| *tag < FACILITIES)
    else {
        // Not by a loomd that sets it.
        return Some(about);
    };
    (about.saturating_sub(APART_RUNS).max(1)..=about + APART_RUNS).find(|run| run % FACILITIES == tag)
}

fn of_unit(unit: &str) -> [String; 2] {
    [format!("SYSLOG_IDENTIFIER={unit}"), format!("LOOM_UNIT={unit}")]
}

fn extra_args() -> Option<String> {
    std::env::var("LOOM_JOURNALCTL_ARGS").ok()
}

fn journalctl() -> Command {
    let mut command = Command::new("journalctl");
    command.args(["--no-pager", "--quiet"]).args(extra_args().unwrap_or_default().split_whitespace());
    command.stdin(Stdio::null()).stderr(Stdio::null());
    sys::end_with_us(&mut command);
    command
}

/// Whole seconds around the moments: the exact ones are looked at line by line.
fn between(command: &mut Command, since: Option<u64>, until: Option<u64>) {
    command.args(since.map(|since| format!("--since=@{}", since / 1000)));
    command.args(until.map(|until| format!("--until=@{}", until / 1000 + 1)));
}

/// Hands over entries until there are none or enough; then journalctl is ended.
fn for_each(mut command: Command, mut enough: impl FnMut(Value) -> bool) -> io::Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut failed = Ok(());
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            match line {
                Ok(line) => {
                    if let Ok(entry) = serde_json::from_slice(&line)
                        && !enough(entry)
                    {
                        break;
                    }
                }
                Err(error) => {
                    failed = Err(error);
                    break;
                }
            }
        }
    }
    let _ = child.kill();
    child.wait()?;
    failed
}

fn first(command: Command) -> Option<Value> {
    let mut found = None;
    let done = for_each(command, |entry| {
        found = Some(entry);
        false
    });
    done.ok().and(found)
}

fn entry_time(entry: &Value) -> Option<u64> {
    Some(last(entry, "__REALTIME_TIMESTAMP")?.as_str()?.parse::<u64>().ok()? / 1000)
}

/// A field that was given several times is a list; the last one is the nearest to the event.
fn last<'a>(entry: &'a Value, name: &str) -> Option<&'a Value> {
    match entry.get(name) {
        Some(Value::Array(list)) => list.last(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_comes_late_or_early_belongs_to_the_run_that_printed_it() {
        let printed_by = |run: u64| Some(FIRST_FACILITY + run % FACILITIES);
        for about in 1..40_u64 {
            for run in about.saturating_sub(APART_RUNS).max(1)..=about + APART_RUNS {
                assert_eq!(run_of(printed_by(run), about), Some(run), "printed by {run}, among words about {about}");
            }
        }
        for not_ours in [None, Some(3), Some(23)] {
            assert_eq!(run_of(not_ours, 3), Some(3), "{not_ours:?}");
        }
    }
}
