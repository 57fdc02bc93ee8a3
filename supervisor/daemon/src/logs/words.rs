//! words: what loomd itself says.
//!
//! Job: tracing to journald with fields `LOOM_UNIT` and `LOOM_RUN`, or to `loomd.jsonl`; warnings also to a terminal.
//! May touch: journald's socket, `loomd.jsonl`. Keeps: a field `unit` comes out as `LOOM_UNIT` either way, from the event or a
//! span around it; the file and its one predecessor have a bounded size.

use super::keeper::wall_ms;
use super::{JOURNAL_DIR, Sinks};
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
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// Size at which `loomd.jsonl` becomes `loomd.jsonl.1`.
const WORDS_MAX_BYTES: u64 = 8 << 20;
/// Before every name of a field: `unit` → `LOOM_UNIT`.
const PREFIX: &str = "LOOM";
/// SYSLOG_IDENTIFIER of loomd's words.
pub const IDENTIFIER: &str = "loomd";

/// Sets up tracing for the process. Once; level `info`, or what `LOOM_LOG_LEVEL` names.
///
/// tracing-journald knows one place only, [`JOURNAL_DIR`]; with another the words go to the file, and units' output to journald.
pub fn init_tracing(sinks: &Sinks) -> io::Result<()> {
    let level = std::env::var("LOOM_LOG_LEVEL").ok().and_then(|text| text.parse().ok()).unwrap_or(LevelFilter::INFO);
    let at_home = sinks.journal.as_deref() == Some(Path::new(JOURNAL_DIR));
    let words: Box<dyn Layer<Registry> + Send + Sync> = match at_home.then(journal_layer) {
        Some(Ok(layer)) => Box::new(layer),
        Some(Err(_)) | None => Box::new(JsonLines::open(&sinks.logs)?),
    };
    let terminal = io::stderr().is_terminal().then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(false)
            .with_target(false)
            .with_filter(LevelFilter::WARN)
    });
    tracing_subscriber::registry().with(words.with_filter(level)).with(terminal).try_init().map_err(io::Error::other)
}

fn journal_layer() -> io::Result<tracing_journald::Layer> {
    let priorities = tracing_journald::PriorityMappings {
        info: tracing_journald::Priority::Informational,
        debug: tracing_journald::Priority::Debug,
        ..tracing_journald::PriorityMappings::new()
    };
    let layer = tracing_journald::layer()?;
    Ok(layer
        .with_field_prefix(Some(PREFIX.to_owned()))
        .with_syslog_identifier(IDENTIFIER.to_owned())
        .with_priority_mappings(priorities))
}

/// One JSON object per event: `time` (milliseconds since the epoch), `level`, `message`, `LOOM_…` fields.
struct JsonLines {
    path: PathBuf,
    file: Mutex<(File, u64)>,
}

impl JsonLines {
    fn open(logs: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(logs)?;
        let path = logs.join("loomd.jsonl");
        let file = open_append(&path)?;
        let size = file.metadata()?.len();
        Ok(Self { path, file: Mutex::new((file, size)) })
    }

    /// A word that cannot be written is lost: there is nobody to tell.
    fn write(&self, mut line: String) {
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

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for JsonLines {
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
        let mut line = Map::new();
        line.insert("time".to_owned(), wall_ms().into());
        line.insert("level".to_owned(), event.metadata().level().as_str().to_lowercase().into());
        line.insert("message".to_owned(), collect.message.into());
        line.extend(fields);
        line.extend(collect.fields);
        self.write(Value::Object(line).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_carry_unit_and_run_from_the_event_or_its_span() {
        let dir = tempfile::tempdir().unwrap();
        let layer = JsonLines::open(dir.path()).unwrap();
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
            layer.write(line.clone());
        }
        let size = |name: &str| fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size("loomd.jsonl") + size("loomd.jsonl.1") <= 2 * (WORDS_MAX_BYTES + (65 << 10)));
    }
}
