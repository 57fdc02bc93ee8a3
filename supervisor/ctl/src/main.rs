//! loomctl: asks the supervisor and shows the answer.
//!
//! Job: the command line. Data on stdout, words on stderr, one object with `version` for programs.
//! May touch: loom-api, the terminal. Keeps: exit status 0 done, 1 refused or failed, 2 usage, 3 no supervisor, 4 bad file,
//! 5 no such unit.

mod logs;
mod show;
mod sys;
mod talk;
mod verify;

use clap::{Args, CommandFactory, Parser, Subcommand};
use loom_api::control::{Client, Control};
use loom_api::dirs::{DirError, DirFlags, Dirs};
use loom_api::unit_files;
use loom_api::view::*;
use loom_core::ids::UnitId;
use loom_core::lifecycle::ActiveState;
use serde::Serialize;
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Lines of log that `status UNIT` and a failed start show.
const LAST_LINES: usize = 10;
/// Columns of a picture of a problem.
const WIDTH: usize = 100;
/// The longest that `ask` may wait.
const ASK_LIMIT: Duration = Duration::from_secs(3600);

const MAIN_HELP: &str = "Examples:
  loomctl status
  loomctl start chat
  loomctl ask chat \"What is in your workspace?\"
  loomctl logs chat -f

A unit may be named without its kind: `chat` is `chat.agent`.

Exit status:
  0  done
  1  refused or failed
  2  usage
  3  no supervisor
  4  bad file
  5  no such unit";

macro_rules! example {
    ($($text:literal),+) => { concat!("Example:\n", $("  ", $text, "\n",)+ "\nExit status:
  0  done
  1  refused or failed
  2  usage
  3  no supervisor
  4  bad file
  5  no such unit") };
}

/// Ask the supervisor of agents, and show the answer
#[derive(Parser)]
#[command(name = "loomctl", version, after_long_help = MAIN_HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// Print one JSON object with `version`, for programs
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// Use this directory of sockets and locks [env: LOOM_RUNTIME_DIR]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    runtime_dir: Option<PathBuf>,
    /// Use this directory of state and logs [env: LOOM_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    state_dir: Option<PathBuf>,
    /// Look for unit files here; may be repeated [env: LOOM_UNIT_PATH]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    unit_path: Vec<PathBuf>,
    /// Read settings from this file [env: LOOM_CONFIG]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Start units and wait until they are active
    #[command(after_long_help = example!("loomctl start chat local-llm.service"))]
    Start(Job),
    /// Stop units and wait until their processes are gone
    #[command(after_long_help = example!("loomctl stop chat"))]
    Stop(Job),
    /// Stop units, start them again and wait until they are active
    #[command(after_long_help = example!("loomctl restart chat"))]
    Restart(Job),
    /// Show the supervisor and all units on one screen, or one unit in detail
    ///
    /// With a unit the exit status is 0 if it is active, and 1 if not.
    #[command(after_long_help = example!("loomctl status", "loomctl status chat"))]
    Status {
        /// Show this unit, its processes, what is enforced, and its last log lines
        unit: Option<String>,
    },
    /// List all units
    #[command(after_long_help = example!("loomctl list --json"))]
    List,
    /// Show units' log lines, from journald and files alike
    ///
    /// Works without a supervisor. With --json each line is one object.
    #[command(after_long_help = example!("loomctl logs chat -f", "loomctl logs chat --run 3 --since 10min", "loomctl logs -p warning --since today"))]
    Logs(logs::Flags),
    /// Show a unit's settings in force, and where each comes from
    #[command(after_long_help = example!("loomctl show chat"))]
    Show {
        /// Show this unit
        unit: String,
    },
    /// Print a unit's files
    #[command(after_long_help = example!("loomctl cat chat"))]
    Cat {
        /// Print the files of this unit
        unit: String,
    },
    /// Check unit files and print every problem
    ///
    /// Works without a supervisor. A directory stands for the unit files in it.
    #[command(after_long_help = example!("loomctl verify", "loomctl verify units/*.toml"))]
    Verify {
        /// Check these files [default: all of the unit path]
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Read all unit files anew; change nothing if one has an error
    #[command(after_long_help = example!("loomctl daemon-reload"))]
    DaemonReload,
    /// Ask an agent one question and print its answer as it comes
    #[command(after_long_help = example!("loomctl ask chat \"What is in your workspace?\" --timeout 60s"))]
    Ask {
        /// Ask this agent
        unit: String,
        /// Send this text; `-` reads it from stdin
        question: String,
        /// Continue this conversation
        #[arg(long, default_value = "main")]
        thread: String,
        /// Wait at most this long for the whole answer
        #[arg(long, value_name = "TIME", default_value = "120s", value_parser = duration)]
        timeout: Duration,
    },
    /// Talk with an agent
    ///
    /// Ctrl-C cancels the answer and nothing else, Ctrl-D leaves.
    #[command(after_long_help = example!("loomctl chat chat"))]
    Chat {
        /// Talk with this agent
        unit: String,
        /// Continue this conversation
        #[arg(long, default_value = "main")]
        thread: String,
        /// Wait at most this long for each answer
        #[arg(long, value_name = "TIME", default_value = "120s", value_parser = duration)]
        timeout: Duration,
    },
    /// Read and change what an agent remembers
    #[command(subcommand, after_long_help = example!("loomctl state get chat count"))]
    State(State),
    /// List the tool calls of agents, newest last
    #[command(after_long_help = example!("loomctl audit chat --limit 20"))]
    Audit {
        /// List calls of this unit only
        unit: Option<String>,
        /// List at most N calls
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
    },
    /// Print completions for a shell
    #[command(after_long_help = example!("loomctl completions bash > /etc/bash_completion.d/loomctl"))]
    Completions {
        /// Print them for this shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args)]
struct Job {
    /// Name the units, with or without their kind
    #[arg(required = true, value_name = "UNIT")]
    units: Vec<String>,
    /// Return once the request is accepted
    #[arg(long)]
    no_block: bool,
}

#[derive(Subcommand)]
enum State {
    /// List the keys
    List {
        /// Look into this agent
        unit: String,
    },
    /// Print the value of a key as JSON
    Get {
        /// Look into this agent
        unit: String,
        /// Read this key
        key: String,
    },
    /// Write a value and wait until it is on disk
    Put {
        /// Change this agent
        unit: String,
        /// Write this key
        key: String,
        /// Write this JSON value; `-` reads it from stdin
        value: String,
        /// Write only if the entry has this version; 0: only if there is none
        #[arg(long, value_name = "N")]
        if_version: Option<u64>,
    },
    /// Delete a key and wait until that is on disk
    Delete {
        /// Change this agent
        unit: String,
        /// Delete this key
        key: String,
    },
}

/// A span of time such as `90s`, `500ms`, `2min`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let ms_per_unit = match text[digits..].trim() {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("write a number and a unit: `500ms`, `90s`, `2min`, `1h`, `1d`".to_owned()),
    };
    let number: u64 = text[..digits].parse().map_err(|_| "the number is missing, as in `90s`".to_owned())?;
    number.checked_mul(ms_per_unit).map(Duration::from_millis).ok_or_else(|| "that is too long".to_owned())
}

/// Data. When nobody reads it any more (`| head`) there is nothing left to do.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

fn say_json(value: &impl Serialize) {
    say(&format!("{}\n", serde_json::to_string(value).expect("view types have text keys only, so they print")));
}

/// Words for whom must act.
fn show_refusal(refusal: &Refusal) {
    eprint!("{}", verify::render(&refusal.problems, WIDTH));
    eprintln!("error: {}", refusal.error);
    if let Some(cause) = &refusal.cause {
        eprintln!("cause: {cause}");
    }
    if let Some(hint) = &refusal.hint {
        eprintln!("hint: {hint}");
    }
}

fn exit_status(refusal: &Refusal) -> u8 {
    match refusal.code {
        RefusalCode::Usage => 2,
        RefusalCode::NoSupervisor => 3,
        RefusalCode::BadFile => 4,
        RefusalCode::NoSuchUnit => 5,
        RefusalCode::Forbidden
        | RefusalCode::NoSuchKey
        | RefusalCode::Conflict
        | RefusalCode::TooBig
        | RefusalCode::Stopping
        | RefusalCode::CutShort
        | RefusalCode::Failed => 1,
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.global.json;
    match run(cli) {
        Ok(status) => ExitCode::from(status),
        Err(refusal) => {
            if json {
                say_json(&refusal);
            }
            show_refusal(&refusal);
            ExitCode::from(exit_status(&refusal))
        }
    }
}

/// What every command needs.
struct Context {
    runtime: tokio::runtime::Runtime,
    client: Client,
    dirs: Dirs,
    json: bool,
}

impl Context {
    /// Asks, and waits for the answer.
    fn ask<T>(&self, answer: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        self.runtime.block_on(answer)
    }

    fn show<T: Serialize>(&self, answer: &T, text: impl FnOnce(&T) -> String) {
        if self.json { say_json(answer) } else { say(&text(answer)) }
    }

    fn last_lines(&self, unit: &UnitId) -> Vec<logs::Line> {
        logs::Logs::new(self.dirs.logs(), logs::Wanted::newest(unit, None, LAST_LINES)).read()
    }
}

fn run(cli: Cli) -> Result<u8, Refusal> {
    let Global { json, runtime_dir, state_dir, unit_path, config } = cli.global;
    let usage = |error: String| Refusal::new(Refusal::USAGE, error);
    if let Command::Completions { shell } = &cli.command {
        let mut script = Vec::new();
        clap_complete::generate(*shell, &mut Cli::command(), "loomctl", &mut script);
        say(&String::from_utf8_lossy(&script));
        return Ok(0);
    }
    let dirs = Dirs::resolve(DirFlags { runtime_dir, state_dir, unit_path, config }).map_err(|error| {
        let refusal = match error {
            DirError::Bad { .. } => Refusal::new(Refusal::BAD_FILE, error.to_string()),
            DirError::Read { .. }
            | DirError::SocketPathTooLong { .. }
            | DirError::NotOurs { .. }
            | DirError::Open { .. }
            | DirError::Make { .. } => usage(error.to_string()),
        };
        match std::error::Error::source(&error) {
            Some(source) => refusal.because(source.to_string()),
            None => refusal,
        }
    })?;
    if let Command::Verify { files } = &cli.command {
        let facts = unit_files::facts(&dirs.runtime, &dirs.state, &dirs.unit_path);
        let (report, status) = verify::verify_files(files, &facts, WIDTH);
        if json {
            let problems = verify::check_files(files, &facts);
            say_json(&json!({"version": 1, "ok": status == 0, "problems": problems}));
        } else {
            eprint!("{report}");
        }
        return Ok(status);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Refusal::new(Refusal::FAILED, "cannot start").because(error.to_string()))?;
    let context = Context { runtime, client: Client::new(dirs.control_socket()), dirs, json };
    let client = &context.client;
    match cli.command {
        Command::Start(job) => run_job(&context, &job, Client::start_unit),
        Command::Stop(job) => run_job(&context, &job, Client::stop_unit),
        Command::Restart(job) => run_job(&context, &job, Client::restart_unit),
        Command::Status { unit: None } => {
            let view = context.ask(client.status(Nothing {}))?;
            context.show(&view, |view| show::overview(view, logs::now_ms(), sys::columns()));
            Ok(0)
        }
        Command::Status { unit: Some(unit) } => status_of_one(&context, unit),
        Command::List => {
            let view = context.ask(client.status(Nothing {}))?;
            context.show(&view, |view| show::list(view, sys::columns()));
            Ok(0)
        }
        Command::Logs(flags) => show_logs(&context, &flags),
        Command::Show { unit } => {
            let view = context.ask(client.show_unit(UnitAsked { unit }))?;
            context.show(&view, show::settings);
            Ok(0)
        }
        Command::Cat { unit } => {
            let view = context.ask(client.unit_files(UnitAsked { unit }))?;
            context.show(&view, show::files);
            Ok(0)
        }
        Command::DaemonReload => {
            let report = context.ask(client.daemon_reload(Nothing {}))?;
            eprint!("{}", verify::render(&report.problems, WIDTH));
            context.show(&report, show::reload);
            Ok(if report.applied { 0 } else { 4 })
        }
        Command::Ask { unit, question, thread, timeout } => {
            if timeout > ASK_LIMIT {
                return Err(usage("--timeout is at most 1h".to_owned()));
            }
            let question = talk::Question { text: text_or_stdin(question)?, thread, timeout };
            context.ask(talk::ask(client, &unit, question, json))
        }
        Command::Chat { unit, thread, timeout } => {
            if json {
                return Err(usage("`chat` is for people".to_owned()).try_this("`loomctl ask UNIT QUESTION --json`"));
            }
            talk::chat(&context.runtime, client, &unit, &thread, timeout.min(ASK_LIMIT), &context.dirs.state)
                .map(|()| 0)
        }
        Command::State(command) => run_state(&context, command),
        Command::Audit { unit, limit } => {
            let view = context.ask(client.audit(AuditAsked { unit, limit: Some(limit) }))?;
            context.show(&view, show::audit);
            Ok(0)
        }
        Command::Completions { .. } | Command::Verify { .. } => unreachable!("done before a supervisor was looked for"),
    }
}

/// One after the other; one that fails does not keep the others back. The first failure names the exit status.
fn run_job(
    context: &Context,
    job: &Job,
    ask: for<'a> fn(&'a Client, JobRequest) -> loom_api::control::Answering<'a, UnitView>,
) -> Result<u8, Refusal> {
    let (mut views, mut refusals): (Vec<UnitView>, Vec<Refusal>) = (vec![], vec![]);
    for unit in &job.units {
        let request = JobRequest { unit: unit.clone(), no_block: job.no_block };
        match context.ask(ask(&context.client, request)) {
            Ok(view) => {
                let pid = view.main_pid.filter(|_| view.active_state == ActiveState::Active);
                let pid = pid.map(|pid| format!(", run {}, pid {pid}", view.run)).unwrap_or_default();
                eprintln!("{} is {}{pid}", view.unit, show::state(&view));
                views.push(view);
            }
            Err(refusal) if refusal.code == Refusal::NO_SUPERVISOR => return Err(refusal),
            Err(refusal) => {
                show_refusal(&refusal);
                if refusal.code == Refusal::FAILED
                    && let Ok(view) = context.ask(context.client.unit(UnitAsked { unit: unit.clone() }))
                {
                    // Lines of earlier runs would explain another failure.
                    let lines = logs::of_ended_run(&context.dirs.logs(), &view.unit, view.run.0, LAST_LINES);
                    if !lines.is_empty() {
                        eprintln!("last lines of {}:", view.unit);
                    }
                    lines.iter().for_each(|line| eprintln!("  {}", line.human(false)));
                }
                refusals.push(refusal);
            }
        }
    }
    if context.json {
        say_json(&json!({"version": 1, "units": views, "refusals": refusals}));
    }
    Ok(refusals.first().map_or(0, exit_status))
}

fn status_of_one(context: &Context, unit: String) -> Result<u8, Refusal> {
    let view = context.ask(context.client.unit(UnitAsked { unit }))?;
    let lines = context.last_lines(&view.unit);
    if context.json {
        let mut object = serde_json::to_value(&view).expect("view types have text keys only, so they print");
        object["log"] = lines.iter().map(logs::Line::json).collect();
        say_json(&object);
    } else {
        let mut text = show::unit(&view, logs::now_ms());
        if !lines.is_empty() {
            text.push('\n');
        }
        lines.iter().for_each(|line| text.push_str(&format!("{}\n", line.human(false))));
        say(&text);
    }
    Ok(u8::from(view.active_state != ActiveState::Active))
}

/// The supervisor knows the names; without one the files do.
fn unit_for_logs(context: &Context, asked: &str) -> Result<UnitId, Refusal> {
    match context.ask(context.client.unit(UnitAsked { unit: asked.to_owned() })) {
        Ok(view) => Ok(view.unit),
        Err(refusal) => match logs::unit_by_files(&context.dirs.logs(), asked) {
            // Removed, but its lines are there still.
            Some((unit, true)) => Ok(unit),
            Some((unit, false)) if refusal.code == Refusal::NO_SUPERVISOR => Ok(unit),
            Some(_) | None => Err(refusal),
        },
    }
}

fn show_logs(context: &Context, flags: &logs::Flags) -> Result<u8, Refusal> {
    let mut ids = Vec::new();
    for unit in &flags.units {
        ids.push(unit_for_logs(context, unit)?);
    }
    let names: Vec<String> = ids.iter().map(|id| format!("`{id}`")).collect();
    let of = if names.is_empty() { "any unit".to_owned() } else { names.join(", ") };
    let units = if ids.is_empty() { logs::Units::All } else { logs::Units::These(ids) };
    let named = units.are_several();
    let wanted = logs::Wanted::asked(flags, units).map_err(|error| Refusal::new(Refusal::USAGE, error))?;
    let show = |line: &logs::Line| {
        let text = if context.json { line.json().to_string() } else { line.human(named) };
        say(&format!("{text}\n"));
    };
    let mut logs = logs::Logs::new(context.dirs.logs(), wanted);
    let mut lines = logs.read();
    if flags.reverse {
        lines.reverse();
    }
    lines.iter().for_each(show);
    if flags.follow {
        logs.follow(show)
            .map_err(|error| Refusal::new(Refusal::FAILED, format!("cannot follow {of}")).because(error.to_string()))?;
    } else if lines.is_empty() {
        eprintln!("no lines of {of}");
    }
    Ok(0)
}

fn run_state(context: &Context, command: State) -> Result<u8, Refusal> {
    let client = &context.client;
    match command {
        State::List { unit } => {
            let keys = context.ask(client.state_keys(UnitAsked { unit }))?;
            context.show(&keys, |keys| keys.keys.iter().map(|key| format!("{key}\n")).collect());
        }
        State::Get { unit, key } => {
            let entry = context.ask(client.state_get(StateAsked { unit, key }))?;
            context.show(&entry, |entry| format!("{}\n", entry.value));
        }
        State::Put { unit, key, value, if_version } => {
            let value: Value = serde_json::from_str(&text_or_stdin(value)?).map_err(|error| {
                Refusal::new(Refusal::USAGE, "the value is no JSON")
                    .because(error.to_string())
                    .try_this("a text needs its quotes: '\"text\"'")
            })?;
            let entry = context.ask(client.state_put(StatePut { unit, key, value, if_version }))?;
            let text = format!("`{}` has version {}", entry.key, entry.value_version);
            if context.json { say_json(&entry) } else { eprintln!("{text}") }
        }
        State::Delete { unit, key } => {
            let entry = context.ask(client.state_delete(StateAsked { unit, key }))?;
            if context.json { say_json(&entry) } else { eprintln!("`{}` is deleted", entry.key) }
        }
    }
    Ok(0)
}

fn text_or_stdin(text: String) -> Result<String, Refusal> {
    if text != "-" {
        return Ok(text);
    }
    let mut read = String::new();
    match io::stdin().read_to_string(&mut read) {
        Ok(_) => Ok(read.trim_end_matches('\n').to_owned()),
        Err(error) => Err(Refusal::new(Refusal::USAGE, "cannot read stdin").because(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_line_of_help_starts_with_a_verb() {
        Cli::command().debug_assert();
        let verbs = [
            "Start", "Stop", "Show", "List", "Print", "Check", "Read", "Ask", "Talk", "Use", "Look", "Go", "Return",
            "Name", "Send", "Continue", "Wait", "Write", "Delete", "Change",
        ];
        fn every_help(command: &clap::Command, found: &mut Vec<String>) {
            found.extend(command.get_arguments().filter_map(|arg| Some(arg.get_help()?.to_string())));
            for sub in command.get_subcommands() {
                found.extend(sub.get_about().map(ToString::to_string));
                every_help(sub, found);
            }
        }
        let mut found = Vec::new();
        every_help(&Cli::command(), &mut found);
        for help in found {
            assert!(verbs.contains(&help.split([' ', ',']).next().unwrap()), "{help}");
        }
    }

    #[test]
    fn a_span_of_time_needs_its_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2 min"), Ok(Duration::from_secs(120)));
        for bad in ["90", "s", "", "1y", "99999999999999999999s", "18446744073709551615d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
