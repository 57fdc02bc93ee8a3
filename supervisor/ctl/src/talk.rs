//! talk: questions to an agent.
//!
//! Job: `ask` (one question, for scripts) and `chat` (a conversation). May touch: the control API, the terminal, the history
//! file. Keeps: a question is sent again only where it certainly was not taken; Ctrl-C in a chat cancels the answer and
//! nothing else; tokens go to stdout, everything else to stderr; an answer is shown without holes, and one that is not whole
//! is called so.

use crate::answer::{exit_status, say, show_refusal};
use crate::interrupts::{self, Interrupts};
use crate::show;
use loom_api::control::{Client, Control};
use loom_api::view::{BusAnswer, BusRequest, Refusal, UnitAsked, UnitView};
use loom_core::ids::Kind;
use loom_core::lifecycle::ActiveState;
use nix::sys::signalfd::SignalFd;
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a chat waits for a supervisor or an agent that went away.
const AWAY_LIMIT: Duration = Duration::from_secs(60);
/// Between two tries meanwhile.
const AWAY_PAUSE: Duration = Duration::from_millis(200);
/// Lines of history that are kept.
const HISTORY_MAX: usize = 1000;

/// One question.
pub struct Question {
    pub text: String,
    pub thread: String,
    pub timeout: Duration,
}

/// How asking ended.
enum End {
    Reply {
        data: Value,
        first_token: Option<Duration>,
        total: Duration,
    },
    /// The bus says why not.
    Error {
        code: String,
        message: String,
    },
    /// The supervisor said no, or nobody was there.
    Refused(Refusal),
    /// The connection ended before the answer did.
    CutShort,
    Cancelled,
}

/// Shows progress as it comes.
struct Progress {
    /// Tokens to stdout, the rest to stderr; else all is kept for JSON.
    live: bool,
    /// The answer so far, without holes.
    tokens: String,
    /// Characters in `tokens`.
    length: u64,
    steps: Vec<Value>,
}

impl Progress {
    fn new(live: bool) -> Self {
        Self { live, tokens: String::new(), length: 0, steps: vec![] }
    }

    /// Progress is lossy: whoever reads slowly misses pieces. What follows a missing one waits for the whole answer.
    fn take_token(&mut self, text: &str, at: Option<u64>) {
        if at.is_some_and(|at| at != self.length) {
            return;
        }
        if self.live {
            say(text);
        }
        self.tokens.push_str(text);
        self.length += text.chars().count() as u64;
    }

    fn take(&mut self, data: Value) {
        let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
        let word = |line: String| {
            if self.live {
                eprintln!("{line}");
            }
        };
        match text("kind") {
            "token" => return self.take_token(text("text"), data.get("at").and_then(Value::as_u64)),
            "tool" => word(format!("[calls {} {}]", text("tool"), data.get("arguments").unwrap_or(&Value::Null))),
            "tool-result" => {
                let ok = data.get("ok").and_then(Value::as_bool).unwrap_or(false);
                let line = text("text").lines().next().unwrap_or_default().to_owned();
                word(format!("[{} {}: {line}]", text("tool"), if ok { "answered" } else { "failed" }));
            }
            "note" => word(format!("[{}]", text("text"))),
            // A newer agent may say more than this program knows.
            _ => {}
        }
        self.steps.push(data);
    }
}

/// The agent meant, if it can be asked.
pub async fn agent(client: &Client, asked: &str) -> Result<UnitView, Refusal> {
    let view = client.unit(UnitAsked { unit: asked.to_owned() }).await?;
    let refuse = |error: String| Refusal::new(Refusal::FAILED, error);
    if view.unit.kind() != Kind::Agent {
        return Err(refuse(format!("`{}` is a {}, and only agents answer", view.unit, view.unit.kind())));
    }
    if matches!(view.active_state, ActiveState::Inactive | ActiveState::Failed) {
        return Err(refuse(format!("agent `{}` does not run: it is {}", view.unit, show::state(&view)))
            .try_this(format!("`loomctl start {}`", view.unit)));
    }
    Ok(view)
}

async fn ask_once(
    client: &Client,
    agent: &UnitView,
    question: &Question,
    progress: &mut Progress,
    interrupt: Option<&Interrupts<'_>>,
) -> End {
    let began = Instant::now();
    let request = BusRequest {
        topic: format!("unit.{}.ask", agent.unit.mailbox()),
        data: json!({"text": question.text, "thread": question.thread}),
        timeout_ms: Some(u64::try_from(question.timeout.as_millis()).unwrap_or(u64::MAX)),
    };
    let interrupted = async {
        match interrupt {
            Some(interrupts) => interrupts.next().await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(interrupted);
    let mut lines = tokio::select! {
        answer = client.bus_request(request) => match answer {
            Ok(lines) => lines.0,
            Err(refusal) if refusal.code == Refusal::CUT_SHORT => return End::CutShort,
            Err(refusal) => return End::Refused(refusal),
        },
        () = &mut interrupted => return End::Cancelled,
    };
    let mut first_token = None;
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            // Dropping the lines hangs up, and that cancels.
            () = &mut interrupted => return End::Cancelled,
        };
        match line {
            Some(BusAnswer::Progress { data }) => {
                if data.get("kind").and_then(Value::as_str) == Some("token") {
                    first_token.get_or_insert_with(|| began.elapsed());
                }
                progress.take(data);
            }
            Some(BusAnswer::Reply { data, .. }) => return End::Reply { data, first_token, total: began.elapsed() },
            Some(BusAnswer::Error { code, message }) => return End::Error { code, message },
            None => return End::CutShort,
        }
    }
}

/// An error of the bus, for the person who must act.
fn refusal_of(agent: &UnitView, code: &str, message: String) -> Refusal {
    let unit = &agent.unit;
    let hint = match code {
        "no-receiver" => format!("is it connected? `loomctl status {unit}`"),
        "unit-failed" => format!("see `loomctl logs {unit}`; then ask again"),
        "deadline" => "give it longer with --timeout".to_owned(),
        _ => format!("see `loomctl logs {unit}`"),
    };
    Refusal::new(Refusal::FAILED, format!("agent `{unit}` did not answer"))
        .because(format!("{code}: {message}"))
        .try_this(hint)
}

/// Why a reply is not a whole answer, if it says so.
fn incomplete(data: &Value) -> Option<&str> {
    let text = |name: &str| data.get(name).and_then(Value::as_str);
    (text("stop_reason") == Some("incomplete")).then(|| text("error").unwrap_or("the agent does not say why"))
}

/// `loomctl ask`; gives the exit status.
pub async fn ask(client: &Client, unit: &str, question: Question, as_json: bool) -> Result<u8, Refusal> {
    let agent = agent(client, unit).await?;
    let mut progress = Progress::new(!as_json);
    let end = ask_once(client, &agent, &question, &mut progress, None).await;
    let streamed = !progress.tokens.is_empty() && !as_json;
    match end {
        End::Reply { data, first_token, total } => {
            let refusal = incomplete(&data).map(|why| {
                Refusal::new(Refusal::FAILED, format!("agent `{}` gave no whole answer", agent.unit)).because(why)
            });
            if as_json {
                let mut answer =
                    json!({"version": 1, "unit": agent.unit, "thread": question.thread, "steps": progress.steps});
                let fields = answer.as_object_mut().expect("made as an object just above");
                match data {
                    Value::Object(data) => fields.extend(data),
                    other => drop(fields.insert("text".to_owned(), other)),
                }
                let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
                fields.entry("first_token_ms").or_insert(json!(first_token.map(ms)));
                fields.entry("total_ms").or_insert(json!(ms(total)));
                say(&format!("{answer}\n"));
            } else {
                finish_text(&progress, &data);
            }
            // The answer as far as it goes is on stdout; this is no second one.
            Ok(refusal.map_or(0, |refusal| {
                show_refusal(&refusal);
                exit_status(&refusal)
            }))
        }
        failed => {
            if streamed {
                say("\n");
            }
            Err(match failed {
                End::Error { code, message } => refusal_of(&agent, &code, message),
                End::Refused(refusal) => refusal,
                End::CutShort => {
                    Refusal::new(Refusal::CUT_SHORT, "the supervisor went away before the answer was whole")
                        .try_this("`loomctl status`; then ask again")
                }
                End::Cancelled | End::Reply { .. } => {
                    unreachable!("nothing interrupts `ask`, and a reply is handled above")
                }
            })
        }
    }
}

/// Shows what of the answer was not streamed, and ends its line.
fn finish_text(progress: &Progress, data: &Value) {
    let shown = progress.tokens.as_str();
    match data.get("text").and_then(Value::as_str) {
        Some(text) => say(text.strip_prefix(shown).unwrap_or_default()),
        None if shown.is_empty() => say(&data.to_string()),
        None => {}
    }
    if !shown.is_empty() || data.get("text").and_then(Value::as_str) != Some("") {
        say("\n");
    }
}

/// `loomctl chat`, until Ctrl-D.
pub fn chat(
    runtime: &tokio::runtime::Runtime,
    client: &Client,
    unit: &str,
    thread: &str,
    timeout: Duration,
    state_dir: &Path,
) -> Result<(), Refusal> {
    let agent = runtime.block_on(agent(client, unit))?;
    let failed = |what: &str, error: String| Refusal::new(Refusal::FAILED, what.to_owned()).because(error);
    // While a line is edited Ctrl-C is a key; while an answer comes it is a signal, taken from this descriptor.
    let signals = interrupts::take_over().map_err(|error| failed("cannot take over Ctrl-C", error.to_string()))?;
    let mut editor =
        rustyline::DefaultEditor::new().map_err(|error| failed("cannot use the terminal", error.to_string()))?;
    let _ = editor.set_max_history_size(HISTORY_MAX);
    let history = history_file(state_dir).ok();
    if let Some(file) = &history {
        let _ = editor.load_history(file);
    }
    eprintln!(
        "talking to {} (run {}), thread `{thread}`; Ctrl-C cancels an answer, Ctrl-D leaves",
        agent.unit, agent.run
    );
    let prompt = if io::stdin().is_terminal() { format!("{}> ", agent.unit.name()) } else { String::new() };
    loop {
        let line = match editor.readline(&prompt) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                eprintln!("[Ctrl-D leaves]");
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(failed("cannot read from the terminal", error.to_string())),
        };
        let text = line.trim();
        if text.is_empty() {
            continue;
        }
        let _ = editor.add_history_entry(text);
        if let Some(file) = &history {
            let _ = editor.append_history(file);
        }
        let question = Question { text: text.to_owned(), thread: thread.to_owned(), timeout };
        // One runtime per question: what its answer still had open ends with it, not with the next question. While a line
        // is edited nothing runs.
        let answering = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let answering = answering.map_err(|error| failed("cannot ask", error.to_string()))?;
        let conversed = answering.block_on(converse(client, &agent, &question, &signals));
        conversed.map_err(|error| failed("cannot take over Ctrl-C", error.to_string()))?;
    }
}

/// One question of a chat, with whatever patience it needs.
async fn converse(client: &Client, agent: &UnitView, question: &Question, signals: &SignalFd) -> io::Result<()> {
    let interrupts = Interrupts::new(signals)?;
    let (mut noticed, began) = (false, Instant::now());
    loop {
        let mut progress = Progress::new(true);
        let end = ask_once(client, agent, question, &mut progress, Some(&interrupts)).await;
        if !progress.tokens.is_empty() && !matches!(end, End::Reply { .. }) {
            say("\n");
        }
        // Not taken by anybody, so it may be sent again.
        let away = match &end {
            End::Refused(refusal) if refusal.code == Refusal::NO_SUPERVISOR => Some("the supervisor"),
            End::Error { code, .. } if code == "no-receiver" => Some("the agent"),
            End::Refused(_) | End::Error { .. } | End::Reply { .. } | End::CutShort | End::Cancelled => None,
        };
        if let Some(who) = away
            && began.elapsed() < AWAY_LIMIT
        {
            if !noticed {
                eprintln!("[{who} is away; waiting up to {} s, Ctrl-C gives up]", AWAY_LIMIT.as_secs());
                noticed = true;
            }
            tokio::time::sleep(AWAY_PAUSE).await;
            if interrupts.was_pressed() {
                eprintln!("[given up]");
                return Ok(());
            }
            continue;
        }
        match end {
            End::Reply { data, first_token, total } => {
                finish_text(&progress, &data);
                let first = first_token.map(|span| format!("first token after {:.2} s, ", span.as_secs_f64()));
                match incomplete(&data) {
                    Some(why) => eprintln!("[no whole answer: {why}]"),
                    None => eprintln!("[{}total {:.2} s]", first.unwrap_or_default(), total.as_secs_f64()),
                }
            }
            End::Cancelled => eprintln!("[cancelled]"),
            End::CutShort => eprintln!("[the supervisor went away before the answer was whole; ask again]"),
            End::Error { code, .. } if code == "unit-failed" => {
                eprintln!(
                    "[{} ended before its answer was whole; it comes back with its memory, ask again]",
                    agent.unit
                );
            }
            End::Error { code, message } => show_refusal(&refusal_of(agent, &code, message)),
            End::Refused(refusal) => show_refusal(&refusal),
        }
        return Ok(());
    }
}

/// Made for its owner alone before anything is written to it.
fn history_file(state_dir: &Path) -> io::Result<PathBuf> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
    let file = state_dir.join("chat-history");
    OpenOptions::new().append(true).create(true).mode(0o600).open(&file)?;
    Ok(file)
}
