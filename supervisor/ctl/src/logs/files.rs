//! files: lines of the file store.
//!
//! Job: read each run's output and loomd's own words from files, once and again for what is new. May touch: the `logs` directory, to
//! read. Keeps: no line is read twice or left out, also while loomd makes a file small; the words about a run stand between its
//! lines where they were said.
//!
//! Places in a run's output are counted from its first byte. `<run>.base` says how many bytes were cut off in front of
//! `<run>.log`, and is locked while that changes; `<run>.old`, where there is one, ends where the log begins.

use super::{Line, Units, facts, level_number};
use nix::sys::inotify::{AddWatchFlags, Inotify};
use nix::unistd::{Whence, lseek};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Longer lines are split, as journald does.
pub const LINE_MAX_BYTES: usize = 48 << 10;
/// Attempts to read while loomd does not change the file, [`LOCK_PAUSE`] apart.
const LOCK_TRIES: usize = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// The file store.
pub struct Files {
    dir: PathBuf,
    units: Units,
    /// How far each run was read.
    read_to: HashMap<PathBuf, u64>,
    /// The file of words that was read last, and how far.
    words: Option<(u64, u64)>,
    /// Runs that print no more, by loomd's words.
    ended: HashSet<(String, u64)>,
}

impl Files {
    /// Nothing is read yet.
    pub fn new(dir: PathBuf, units: Units) -> Self {
        Self { dir, units, read_to: HashMap::new(), words: None, ended: HashSet::new() }
    }

    fn unit_dirs(&self) -> Vec<PathBuf> {
        let units = self.dir.join("units");
        match &self.units {
            Units::These(ids) => ids.iter().map(|id| units.join(id.to_string())).collect(),
            Units::All => list(&units).filter(|path| path.is_dir()).collect(),
        }
    }

    /// Watches what there is; what is made later is watched when its parent says so.
    pub fn watch(&self, inotify: &Inotify) {
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        let above = [self.dir.parent().map(Path::to_owned), Some(self.dir.clone()), Some(self.dir.join("units"))];
        for dir in above.into_iter().flatten().chain(self.unit_dirs()) {
            let _ = inotify.add_watch(&dir, flags);
        }
    }

    /// Lines that were not read before, in order. `also_unfinished`: a last line without its end counts; of a run that is over it
    /// always does.
    pub fn read_new(&mut self, also_unfinished: bool) -> Vec<Line> {
        let mut elsewhere = Vec::new();
        let mut beside: BTreeMap<(String, u64), Vec<(u64, Line)>> = BTreeMap::new();
        for (line, at) in self.read_words() {
            match (line.run, at) {
                (Some(run), Some(at)) => beside.entry((line.unit.clone(), run)).or_default().push((at, line)),
                (Some(_), None) | (None, Some(_) | None) => elsewhere.push(line),
            }
        }
        let mut sequences = vec![elsewhere];
        for dir in self.unit_dirs() {
            let Some(unit) = dir.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
            let mut of_unit = Vec::new();
            let runs = runs_in(&dir);
            let newest = runs.last().map(|(run, _)| *run);
            for (run, path) in runs {
                let over = Some(run) != newest || self.ended.contains(&(unit.clone(), run));
                let lines = self.read_run(&path, also_unfinished || over);
                let words = beside.remove(&(unit.clone(), run)).unwrap_or_default();
                of_unit.extend(in_order(&unit, run, &path, lines, words));
            }
            sequences.push(of_unit);
        }
        // Of files that were removed since.
        sequences.extend(beside.into_values().map(|words| words.into_iter().map(|(_, line)| line).collect()));
        sequences.into_iter().fold(vec![], super::merge)
    }

    /// Words, each with the place in its run's output at which it was said.
    fn read_words(&mut self) -> Vec<(Line, Option<u64>)> {
        let path = self.dir.join("loomd.jsonl");
        let mut lines = Vec::new();
        let old = self.dir.join("loomd.jsonl.1");
        let inode = |path: &Path| fs::metadata(path).map(|meta| meta.ino()).ok();
        // A rotation between the two looks at most repeats this.
        for _ in 0..3 {
            let current = inode(&path);
            let from = match self.words {
                None => {
                    read_words_of(&old, 0, &mut lines);
                    0
                }
                Some((read, from)) if Some(read) == current => from,
                Some((read, from)) => {
                    if inode(&old) == Some(read) {
                        read_words_of(&old, from, &mut lines);
                    }
                    0
                }
            };
            let to = read_words_of(&path, from, &mut lines);
            self.words = current.map(|inode| (inode, to));
            if inode(&path) == current {
                break;
            }
        }
        let mut words = Vec::new();
        for text in lines {
            let Ok(Value::Object(word)) = serde_json::from_str(&text) else { continue };
            let text_of = |name: &str| word.get(name).and_then(Value::as_str).unwrap_or_default();
            let unit = text_of("LOOM_UNIT");
            if !self.units.has(unit) {
                continue;
            }
            let run = text_of("LOOM_RUN").parse().ok();
            let fields = word.iter().filter_map(|(name, value)| Some((name.strip_prefix("LOOM_")?, value)));
            let line = Line {
                time: word.get("time").and_then(Value::as_u64).unwrap_or_default(),
                unit: unit.to_owned(),
                run,
                by_loomd: true,
                priority: level_number(text_of("level")),
                text: text_of("message").to_owned(),
                fields: facts(fields),
            };
            if let Some(run) = run
                && line.ends_a_run()
            {
                self.ended.insert((line.unit.clone(), run));
            }
            words.push((line, word.get("at").and_then(Value::as_u64)));
        }
        words
    }

    /// Lines from where the last call ended, each with the place where it starts.
    fn read_run(&mut self, path: &Path, also_unfinished: bool) -> Vec<(u64, String)> {
        let from = self.read_to.get(path).copied().unwrap_or(0);
        let mut lines = Vec::new();
        let mut to = from;
        for Part { start, bytes } in parts(path, from) {
            // The head was freed; its last line is cut.
            let mut at = match (start > to, bytes.iter().position(|byte| *byte == b'\n')) {
                (true, Some(end)) => end + 1,
                (true, None) | (false, _) => 0,
            };
            while at < bytes.len() {
                let rest = &bytes[at..];
                let end = rest.iter().take(LINE_MAX_BYTES).position(|byte| *byte == b'\n');
                let (length, step) = match end {
                    Some(end) => (end, end + 1),
                    None if rest.len() >= LINE_MAX_BYTES => (LINE_MAX_BYTES, LINE_MAX_BYTES),
                    None if also_unfinished => (rest.len(), rest.len()),
                    None => break,
                };
                lines.push((start + at as u64, String::from_utf8_lossy(&rest[..length]).into_owned()));
                at += step;
            }
            to = start + at as u64;
        }
        self.read_to.insert(path.to_owned(), to);
        lines
    }
}

/// Bytes of a run's output, and the place of the first.
struct Part {
    start: u64,
    bytes: Vec<u8>,
}

/// What is there of a run's output from a place on; parts that touch are one.
fn parts(log: &Path, from: u64) -> Vec<Part> {
    for _ in 0..LOCK_TRIES {
        let lock = File::open(log.with_extension("base"));
        if lock.as_ref().is_ok_and(|lock| lock.try_lock_shared().is_err()) {
            std::thread::sleep(LOCK_PAUSE);
            continue;
        }
        let found = parts_now(log, from);
        // Made meanwhile: what was read may be from before or after.
        if lock.is_err() && log.with_extension("base").exists() {
            continue;
        }
        return found;
    }
    parts_now(log, from)
}

fn parts_now(log: &Path, from: u64) -> Vec<Part> {
    let Ok(mut file) = File::open(log) else { return vec![] };
    let base = base(log, &file);
    let size = file.metadata().map_or(0, |meta| meta.len());
    let mut parts = Vec::new();
    if from < base
        && let Ok(mut old) = File::open(log.with_extension("old"))
    {
        let first = base.saturating_sub(old.metadata().map_or(0, |meta| meta.len()));
        let start = from.max(first);
        let mut bytes = Vec::new();
        if old.seek(SeekFrom::Start(start - first)).is_ok() && old.take(base - start).read_to_end(&mut bytes).is_ok() {
            parts.push(Part { start, bytes });
        }
    }
    let wanted = from.saturating_sub(base);
    let data = lseek(&file, i64::try_from(wanted).unwrap_or(i64::MAX), Whence::SeekData);
    let data = data.ok().and_then(|place| u64::try_from(place).ok()).unwrap_or(size);
    let mut bytes = Vec::new();
    if data < size && file.seek(SeekFrom::Start(data)).is_ok() && file.take(size - data).read_to_end(&mut bytes).is_ok()
    {
        let start = base + data;
        match parts.last_mut() {
            Some(old) if old.start + old.bytes.len() as u64 == start => old.bytes.append(&mut bytes),
            Some(_) | None => parts.push(Part { start, bytes }),
        }
    }
    parts
}

/// Bytes cut off in front of a log; also where a loomd was killed while it cut.
fn base(log: &Path, file: &File) -> u64 {
    let text = fs::read_to_string(log.with_extension("base")).unwrap_or_default();
    let mut words = text.split_whitespace();
    let base = words.next().and_then(|base| base.parse().ok()).unwrap_or(0);
    let step = words.next();
    let bytes: u64 = words.next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    let done = match step {
        Some("cut") => lseek(file, 0, Whence::SeekData).is_ok_and(|data| u64::try_from(data).unwrap_or(0) < bytes),
        Some("empty") => file.metadata().is_ok_and(|meta| meta.len() < bytes),
        Some(_) | None => false,
    };
    if done { base + bytes } else { base }
}

/// A run's lines and the words about it, with the time of each.
fn in_order(unit: &str, run: u64, path: &Path, lines: Vec<(u64, String)>, words: Vec<(u64, Line)>) -> Vec<Line> {
    if lines.is_empty() {
        return words.into_iter().map(|(_, line)| line).collect();
    }
    let written = modified_ms(path);
    let mut notes = times(path);
    notes.extend(words.iter().map(|(at, word)| (*at, word.time)));
    notes.sort_unstable();
    let mut words = words.into_iter().peekable();
    let mut sequence: Vec<Line> = Vec::new();
    for (start, text) in lines {
        while let Some((_, word)) = words.next_if(|(at, _)| *at <= start) {
            sequence.push(word);
        }
        let time = notes.get(notes.partition_point(|(size, _)| *size <= start)).map_or(written, |(_, time)| *time);
        let time = sequence.last().map_or(time, |before| time.max(before.time));
        let (priority, text) = match text.as_bytes() {
            [b'<', digit @ b'0'..=b'7', b'>', ..] => (digit - b'0', text[3..].to_owned()),
            _ => (6, text),
        };
        let unit = unit.to_owned();
        sequence.push(Line { time, unit, run: Some(run), by_loomd: false, priority, text, fields: Map::new() });
    }
    sequence.extend(words.map(|(_, word)| word));
    sequence
}

/// Adds whole lines from a place on; answers where the next begins.
fn read_words_of(path: &Path, from: u64, lines: &mut Vec<String>) -> u64 {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(from))?;
        file.read_to_end(&mut bytes)
    });
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    if read.is_err() {
        return from;
    }
    lines.extend(String::from_utf8_lossy(&bytes[..whole]).lines().map(str::to_owned));
    from + whole as u64
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

/// The files of runs in a unit's directory, oldest first.
fn runs_in(dir: &Path) -> Vec<(u64, PathBuf)> {
    let mut runs: Vec<(u64, PathBuf)> = list(dir)
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .filter_map(|path| Some((path.file_stem()?.to_str()?.parse().ok()?, path)))
        .collect();
    runs.sort();
    runs
}

fn modified_ms(path: &Path) -> u64 {
    let time = fs::metadata(path).and_then(|meta| meta.modified()).unwrap_or(UNIX_EPOCH);
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(0)
}

fn list(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FallocateFlags, fallocate};
    use std::fs::OpenOptions;
    use std::io::Write;

    struct Run {
        dir: tempfile::TempDir,
        log: PathBuf,
        writer: File,
        files: Files,
    }

    impl Run {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let unit = dir.path().join("units/chat.agent");
            fs::create_dir_all(&unit).unwrap();
            let log = unit.join("1.log");
            let writer = OpenOptions::new().append(true).create(true).open(&log).unwrap();
            let files = Files::new(dir.path().to_owned(), Units::These(vec!["chat.agent".parse().unwrap()]));
            Self { dir, log, writer, files }
        }

        /// Lines of ten bytes each.
        fn write(&mut self, numbers: std::ops::Range<u32>) {
            let text: String = numbers.map(|number| format!("{number:>9}\n")).collect();
            self.writer.write_all(text.as_bytes()).unwrap();
        }

        fn read(&mut self) -> Vec<u32> {
            self.files.read_new(false).iter().map(|line| line.text.trim().parse().unwrap()).collect()
        }

        fn base(&self, text: &str) {
            fs::write(self.log.with_extension("base"), text).unwrap();
        }

        /// Frees whole blocks at the head, and cuts them out.
        fn head(&self, flags: FallocateFlags, bytes: i64) -> bool {
            let file = OpenOptions::new().write(true).open(&self.log).unwrap();
            fallocate(&file, flags, 0, bytes).is_ok()
        }
    }

    #[test]
    fn a_reader_goes_on_where_it_was_when_the_head_of_the_file_was_cut_out() {
        let mut run = Run::new();
        run.write(0..2000);
        assert_eq!(run.read(), (0..2000).collect::<Vec<_>>());
        run.write(2000..2100);
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if !run.head(hole, 16_384) {
            return println!("skipped: needs a file system with holes");
        }
        run.base("0 cut 16384\n");
        assert_eq!(run.read(), (2000..2100).collect::<Vec<_>>(), "begun, not done");
        run.write(2100..2200);
        if !run.head(FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 16_384) {
            return println!("skipped: needs a file system that collapses ranges");
        }
        assert_eq!(run.read(), (2100..2200).collect::<Vec<_>>(), "done, not noted");
        run.base("16384\n");
        run.write(2200..2300);
        assert_eq!(run.read(), (2200..2300).collect::<Vec<_>>());
        let mut anew = Files::new(run.dir.path().to_owned(), Units::All);
        let seen: Vec<u32> = anew.read_new(true).iter().map(|line| line.text.trim().parse().unwrap()).collect();
        assert_eq!(seen, (1639..2300).collect::<Vec<_>>(), "the cut line is left out");
    }

    #[test]
    fn a_reader_goes_on_where_it_was_when_the_file_was_emptied() {
        let mut run = Run::new();
        run.write(0..1000);
        assert_eq!(run.read().len(), 1000);
        run.write(1000..1500);
        let all = fs::read(&run.log).unwrap();
        fs::write(run.log.with_extension("old"), &all[5000..]).unwrap();
        run.base("0 empty 15000\n");
        assert_eq!(run.read(), (1000..1500).collect::<Vec<_>>(), "begun, not done");
        run.write(1500..1501);
        fs::write(run.log.with_extension("old"), &fs::read(&run.log).unwrap()[5000..]).unwrap();
        run.writer.set_len(0).unwrap();
        run.base("15010\n");
        run.write(1501..1600);
        assert_eq!(run.read(), (1500..1600).collect::<Vec<_>>());
    }

    #[test]
    fn words_stand_between_the_lines_where_they_were_said() {
        let mut run = Run::new();
        run.write(0..4);
        let words = [word(0, 1000, "activating"), word(20, 1000, "active"), word(40, 3000, "deactivating")].concat();
        fs::write(run.dir.path().join("loomd.jsonl"), words).unwrap();
        fs::write(run.log.with_extension("times"), "40 2000\n").unwrap();
        let seen: Vec<(String, u64)> =
            run.files.read_new(true).into_iter().map(|line| (line.text.trim().to_owned(), line.time)).collect();
        let seen: Vec<(&str, u64)> = seen.iter().map(|(text, time)| (text.as_str(), *time)).collect();
        let expected = [
            ("activating", 1000),
            ("0", 1000),
            ("1", 1000),
            ("active", 1000),
            ("2", 2000),
            ("3", 2000),
            ("deactivating", 3000),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn words_are_read_to_their_end_when_their_file_is_replaced() {
        let mut run = Run::new();
        let (words, old) = (run.dir.path().join("loomd.jsonl"), run.dir.path().join("loomd.jsonl.1"));
        let say = |text: &str| {
            let mut file = OpenOptions::new().append(true).create(true).open(&words).unwrap();
            file.write_all(word(0, 1, text).as_bytes()).unwrap();
        };
        let mut seen = || run.files.read_new(false).into_iter().map(|line| line.text).collect::<Vec<_>>();
        say("one");
        assert_eq!(seen(), ["one"]);
        say("two");
        fs::rename(&words, &old).unwrap();
        say("three");
        assert_eq!(seen(), ["two", "three"]);
    }

    fn word(at: u64, time: u64, text: &str) -> String {
        let word = serde_json::json!({
            "time": time, "level": "info", "message": text, "at": at,
            "LOOM_UNIT": "chat.agent", "LOOM_RUN": "1",
        });
        format!("{word}\n")
    }
}
