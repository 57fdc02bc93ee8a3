//! loomctl: asks the supervisor and shows the answer.
//!
//! Job: from the command line to the room that answers it. Data on stdout, words on stderr, one object with `version` for programs.
//! May touch: loom-api, the terminal. Keeps: exit status 0 done, 1 refused or failed, 2 usage, 3 no supervisor, 4 bad file,
//! 5 no such unit.

mod analyze;
mod answer;
mod calendar;
mod cli;
mod editing;
mod interrupts;
mod jobs;
mod logs;
mod look;
mod paper;
mod reload;
mod service;
mod show;
mod state;
mod sys;
mod talk;
mod timers;
mod transient;
mod verify;

use answer::{Context, WIDTH, exit_status, say_json, show_refusal, text_or_stdin, usage};
use clap::Parser;
use cli::{Cli, Command, Global};
use look::Direction;
use loom_api::control::Client;
use loom_api::dirs::{DirError, DirFlags, Dirs};
use loom_api::unit_files;
use loom_api::view::*;
use loom_core::lifecycle::ActiveState;
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;

/// The longest that `ask` may wait.
const ASK_LIMIT: Duration = Duration::from_secs(3600);

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

fn run(cli: Cli) -> Result<u8, Refusal> {
    let Global { json, runtime_dir, state_dir, unit_path, config } = cli.global;
    match &cli.command {
        Command::Completions { shell } => {
            paper::completions(*shell);
            return Ok(0);
        }
        Command::Man { directory } => return paper::man(directory.as_deref()).map(|()| 0),
        Command::Calendar { expression, iterations, timezone } => {
            return calendar::run(expression, *iterations, timezone, json);
        }
        _ => {}
    }
    let dirs = Dirs::resolve(DirFlags { runtime_dir, state_dir, unit_path, config }).map_err(bad_directories)?;
    if let Command::Verify { files } = &cli.command {
        let facts = unit_files::facts(&dirs.runtime, &dirs.state, &dirs.unit_path);
        let (report, status) = verify::verify_files(files, &facts, WIDTH);
        if json {
            let problems = verify::check_files(files, &facts).problems;
            say_json(&json!({"version": VERSION, "ok": status == 0, "problems": problems}));
        } else {
            eprint!("{report}");
            let schedules = verify::check_files(files, &facts).schedules;
            answer::say(&verify::next_slots(&schedules, &loom_api::zone::zones(), logs::now_ms()));
        }
        return Ok(status);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| answer::failed("cannot start", error))?;
    let context = Context { runtime, client: Client::new(dirs.control_socket()), dirs, json };
    carry_out(&context, cli.command)
}

fn bad_directories(error: DirError) -> Refusal {
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
}

fn carry_out(context: &Context, command: Command) -> Result<u8, Refusal> {
    let job = |verb: JobVerb, job: cli::Job| {
        jobs::run(context, JobsRequest { no_wait: job.no_wait, ..JobsRequest::new(verb, job.units) })
    };
    match command {
        Command::Start(units) => job(JobVerb::Start, units),
        Command::Restart(units) => job(JobVerb::Restart, units),
        Command::TryRestart(units) => job(JobVerb::TryRestart, units),
        Command::Reload(units) => job(JobVerb::Reload, units),
        Command::ReloadOrRestart(units) => job(JobVerb::ReloadOrRestart, units),
        Command::Stop(cli::Stop { units, all, force, no_wait }) => {
            jobs::run(context, JobsRequest { all, force, no_wait, ..JobsRequest::new(JobVerb::Stop, units) })
        }
        Command::Kill { units, signal, whom } => {
            let whom = match whom {
                cli::Whom::Main => KillWhom::Main,
                cli::Whom::All => KillWhom::All,
            };
            jobs::run(context, JobsRequest { signal: Some(signal), whom, ..JobsRequest::new(JobVerb::Kill, units) })
        }
        Command::Freeze(units) => jobs::run(context, JobsRequest::new(JobVerb::Freeze, units.units)),
        Command::Thaw(units) => jobs::run(context, JobsRequest::new(JobVerb::Thaw, units.units)),
        Command::ResetFailed { units } => {
            let all = units.is_empty() || units == ["all"];
            let units = if all { vec![] } else { units };
            jobs::run(context, JobsRequest { all, ..JobsRequest::new(JobVerb::ResetFailed, units) })
        }
        Command::IsActive(units) => jobs::is(context, &units.units, ActiveState::Active),
        Command::IsFailed(units) => jobs::is(context, &units.units, ActiveState::Failed),
        Command::Status { unit: None } => look::overview(context),
        Command::Status { unit: Some(unit) } => look::status_of_one(context, unit),
        Command::List { patterns, state, kind } => {
            look::list(context, &look::Filter { patterns, states: state, kinds: kind })
        }
        Command::ListJobs => look::list_jobs(context),
        Command::ListDependencies { unit, reverse, after, before } => {
            let direction = match (reverse, after, before) {
                (true, _, _) => Direction::NeededBy,
                (false, true, _) => Direction::After,
                (false, false, true) => Direction::Before,
                (false, false, false) => Direction::Needs,
            };
            look::list_dependencies(context, unit, direction)
        }
        Command::Events { units, follow, since } => look::events(context, units, follow, since),
        Command::Logs(flags) => look::show_logs(context, &flags),
        Command::Crashes { unit, command } => look::crashes(context, unit, command),
        Command::Analyze(command) => analyze::run(context, command),
        Command::Top { iterations, delay } => analyze::top(context, iterations, delay),
        Command::Run { name, kind, properties, wait, collect, no_wait, command } => {
            transient::run(context, &transient::Asked { name, kind, properties, wait, collect, no_wait, command })
        }
        Command::Show { unit } => look::settings(context, unit),
        Command::Cat { unit, effective: false } => look::files(context, unit),
        Command::Cat { unit, effective: true } => look::effective(context, unit),
        Command::Edit { unit, full, runtime, stdin, drop_in } => {
            editing::edit(context, &editing::Edit { unit, full, runtime, stdin, drop_in })
        }
        Command::DaemonReload { dry_run } => reload::daemon_reload(context, dry_run),
        Command::Apply { dry_run } => reload::apply(context, dry_run),
        Command::DaemonReexec => reload::daemon_reexec(context),
        Command::Enable(asked) => editing::enable(context, &asked.units, asked.now),
        Command::Disable(asked) => editing::disable(context, &asked.units, asked.now),
        Command::IsEnabled(asked) => editing::is_enabled(context, &asked.units),
        Command::Mask(asked) => editing::mask(context, &asked.units, asked.runtime),
        Command::Unmask(asked) => editing::unmask(context, &asked.units, asked.runtime),
        Command::Ask { unit, question, thread, timeout } => {
            if timeout > ASK_LIMIT {
                return Err(usage("--timeout is at most 1h"));
            }
            let question = talk::Question { text: text_or_stdin(question)?, thread, timeout };
            context.ask(talk::ask(&context.client, &unit, question, context.json))
        }
        Command::Chat { unit, thread, timeout } => {
            if context.json {
                return Err(usage("`chat` is for people").try_this("`loomctl ask UNIT QUESTION --json`"));
            }
            let (timeout, state) = (timeout.min(ASK_LIMIT), &context.dirs.state);
            talk::chat(&context.runtime, &context.client, &unit, &thread, timeout, state).map(|()| 0)
        }
        Command::ListTimers { schedule } => timers::run(context, schedule),
        Command::Fire { schedule } => timers::fire(context, schedule),
        Command::State(command) => state::run(context, command),
        Command::Audit { unit, limit } => look::audit(context, unit, limit),
        Command::InstallService(asked) => service::install(context, &asked),
        Command::UninstallService(asked) => service::uninstall(context, &asked),
        Command::Completions { .. } | Command::Man { .. } | Command::Calendar { .. } | Command::Verify { .. } => {
            unreachable!("done before a supervisor was looked for")
        }
    }
}
