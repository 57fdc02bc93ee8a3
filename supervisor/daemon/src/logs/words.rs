//! words: what loomd itself says.
//!
//! Job: tracing to journald with fields `LOOM_UNIT` and `LOOM_RUN`, or to `loomd.jsonl`; warnings also to a terminal.
//! May touch: journald's socket, `loomd.jsonl`. Keeps: a field `unit` comes out as `LOOM_UNIT` either way, from the event or a
//! span around it; saying a word never waits; the file and its one predecessor have a bounded size; a word about a run says how
//! much that run had printed to its file by then, so that a reader can put both in order.

use super::Sinks;
use super::keeper::{logical_size, wall_ms};
use super::native::{LastWords, Native};
use serde_json::{Map, Value};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Size at which `loomd.jsonl` becomes `loomd.jsonl.1`.
const WORDS_MAX_BYTES: u64 = 8 << 20;
/// Before every name of a field: `unit` → `LOOM_UNIT`.
const PREFIX: &str = "LOOM";
/// SYSLOG_IDENTIFIER of loomd's words.
pub const IDENTIFIER: &str = "loomd";

/// Sets up tracing for the process. Once; level `info`, or what `LOOM_LOG_LEVEL` names. Drop the answer last: what journald has not
/// taken by then goes to the file.
pub fn init_tracing(sinks: &Sinks) -> io::Result<LastWords> {
    let level = std::env::var("LOOM_LOG_LEVEL").ok().and_then(|text| text.parse().ok()).unwrap_or(LevelFilter::INFO);
    let file = JsonLines::open(&sinks.logs)?;
    let (sink, last_words) = match &sinks.journal {
        None => (Sink::File(file), LastWords::default()),
        Some(dir) => match Native::open(dir.join("socket"), file) {
            Ok(native) => {
                let last_words = native.last_words();
                (Sink::Journal(native), last_words)
            }
            Err(_) => (Sink::File(JsonLines::open(&sinks.logs)?), LastWords::default()),
        },
    };
    let words = Words { sink };
    let terminal = io::stderr().is_terminal().then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(false)
            .with_target(false)
            .with_filter(LevelFilter::WARN)
    });
    let all = tracing_subscriber::registry().with(words.with_filter(level)).with(terminal);
    all.try_init().map_err(io::Error::other)?;
    Ok(last_words)
}

/// One thing that loomd says.
#[derive(Debug)]
pub struct Word {
    /// Milliseconds since the epoch.
    pub time: u64,
    pub level: Level,
    pub target: &'static str,
    pub message: String,
    /// `LOOM_…`, with texts for values.
    pub fields: Map<String, Value>,
}

impl Word {
    /// Of the log itself.
    pub fn warning(message: String) -> Self {
        Self { time: wall_ms(), level: Level::WARN, target: module_path!(), message, fields: Map::new() }
    }

    /// syslog's number.
    pub fn priority(&self) -> &'static str {
        match self.level {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            Level::DEBUG | Level::TRACE => "7",
        }
    }
}

enum Sink {
    File(JsonLines),
    Journal(Native),
}

/// One JSON object per word: `time` (milliseconds since the epoch), `level`, `message`, `LOOM_…` fields, and `at`: the bytes that
/// the run had printed to its file, where it has one.
pub struct JsonLines {
    logs: PathBuf,
    path: PathBuf,
    file: Mutex<(File, u64)>,
}

impl JsonLines {
    /// The file `loomd.jsonl` in this directory, which is made.
    pub fn open(logs: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(logs)?;
        let path = logs.join("loomd.jsonl");
        let file = open_append(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { logs: logs.to_owned(), path, file: Mutex::new((file, size)) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one line. A word that cannot be written is lost: there is nobody to tell.
    pub fn write(&self, word: &Word) {
        let mut line = Map::new();
        line.insert("time".to_owned(), word.time.into());
        line.insert("level".to_owned(), word.level.as_str().to_lowercase().into());
        line.insert("message".to_owned(), word.message.clone().into());
        line.extend(word.fields.clone());
        let text_of = |name: &str| word.fields.get(name).and_then(Value::as_str);
        if let (Some(unit), Some(run)) = (text_of("LOOM_UNIT"), text_of("LOOM_RUN"))
            && let Some(at) = logical_size(&self.logs.join("units").join(unit).join(format!("{run}.log")))
        {
            line.insert("at".to_owned(), at.into());
        }
        self.append(Value::Object(line).to_string());
    }

    fn append(&self, mut line: String) {
        line.push('\n');
        let mut guard = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, size) = &mut *guard;
        if *size >= WORDS_MAX_BYTES
            && fs::rename(&self.path, self.path.with_extension("jsonl.1")).is_ok()
            && let Ok(fresh) = open_append(&self.path)
        {
            (*file, *size) = (fresh, 0);
        }
        if file.write_all(line.as_bytes()).is_ok() {
            *size += line.len() as u64;
        }
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The layer of tracing.
struct Words {
    sink: Sink,
}

/// The fields of a span, kept with it.
struct SpanFields(Map<String, Value>);

#[derive(Default)]
struct Collect {
    message: String,
    fields: Map<String, Value>,
}

impl Collect {
    fn put(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        } else {
            self.fields.insert(format!("{PREFIX}_{}", field.name().to_uppercase().replace('.', "_")), value);
        }
    }
}

impl Visit for Collect {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, Value::String(format!("{value:?}")));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::from(value));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::String(value.to_string()));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::String(value.to_string()));
    }
}

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Words {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut collect = Collect::default();
        attributes.record(&mut collect);
        let span = context.span(id).expect("a span that is being made exists");
        span.extensions_mut().insert(SpanFields(collect.fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let mut collect = Collect::default();
        values.record(&mut collect);
        let span = context.span(id).expect("a span that is being recorded exists");
        if let Some(SpanFields(fields)) = span.extensions_mut().get_mut() {
            fields.extend(collect.fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Map::new();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(SpanFields(of_span)) = span.extensions().get() {
                fields.extend(of_span.clone());
            }
        }
        let mut collect = Collect::default();
        event.record(&mut collect);
        fields.extend(collect.fields);
        let metadata = event.metadata();
        let (level, target) = (*metadata.level(), metadata.target());
        let word = Word { time: wall_ms(), level, target, message: collect.message, fields };
        match &self.sink {
            Sink::File(file) => file.write(&word),
            Sink::Journal(native) => native.say(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_carry_unit_and_run_from_the_event_or_its_span() {
        let dir = tempfile::tempdir().unwrap();
        let layer = Words { sink: Sink::File(JsonLines::open(dir.path()).unwrap()) };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(unit = %"chat.agent", run = %3, from = %"inactive", "unit changed state");
            let span = tracing::info_span!("run", unit = %"news.agent", run = 7u64);
            span.in_scope(|| tracing::warn!(because = "late", "the watchdog bit"));
        });
        let text = fs::read_to_string(dir.path().join("loomd.jsonl")).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["LOOM_UNIT"], "chat.agent");
        assert_eq!((&lines[0]["LOOM_RUN"], &lines[0]["LOOM_FROM"]), (&Value::from("3"), &Value::from("inactive")));
        assert_eq!(
            (&lines[0]["message"], &lines[0]["level"]),
            (&Value::from("unit changed state"), &Value::from("info"))
        );
        assert_eq!((&lines[1]["LOOM_UNIT"], &lines[1]["LOOM_RUN"]), (&Value::from("news.agent"), &Value::from("7")));
        assert_eq!(lines[1]["LOOM_BECAUSE"], "late");
    }

    #[test]
    fn words_in_a_file_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let layer = JsonLines::open(dir.path()).unwrap();
        let line = "x".repeat(64 << 10);
        for _ in 0..400 {
            layer.append(line.clone());
        }
        let size = |name: &str| fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size("loomd.jsonl") + size("loomd.jsonl.1") <= 2 * (WORDS_MAX_BYTES + (65 << 10)));
    }
}
