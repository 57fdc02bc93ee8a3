//! cli: the command line as it is defined.
//!
//! Job: every command with its flags and help; from here come the parser, the completions and the man pages.
//! May touch: nothing. Keeps: a line of help starts with a verb; every command has an example and the exit statuses.

use crate::logs;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

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

/// For `is-active` and the like, whose status is an answer.
macro_rules! question {
    ($yes:literal, $($text:literal),+) => { concat!("Example:\n", $("  ", $text, "\n",)+ "\nExit status:
  0  yes, ", $yes, "
  1  no
  2  usage
  3  no supervisor
  5  no such unit") };
}

/// Ask the supervisor of agents, and show the answer
#[derive(Parser)]
#[command(name = "loomctl", version, after_long_help = MAIN_HELP)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args)]
pub struct Global {
    /// Print one JSON object with `version`, for programs
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Use this directory of sockets and locks [env: LOOM_RUNTIME_DIR]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub runtime_dir: Option<PathBuf>,
    /// Use this directory of state and logs [env: LOOM_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub state_dir: Option<PathBuf>,
    /// Look for unit files here; may be repeated [env: LOOM_UNIT_PATH]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub unit_path: Vec<PathBuf>,
    /// Read settings from this file [env: LOOM_CONFIG]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Start units and wait until they are active
    ///
    /// Several units are started at the same time. The job belongs to the supervisor: Ctrl-C only ends the waiting.
    #[command(after_long_help = example!("loomctl start chat local-llm.service", "loomctl start --no-wait chat"))]
    Start(Job),
    /// Stop units and wait until their processes are gone
    ///
    /// The job belongs to the supervisor. The first Ctrl-C says so, the second leaves, and a third one within a second kills what is
    /// left of the units with SIGKILL.
    #[command(after_long_help = example!("loomctl stop chat", "loomctl stop --all"))]
    Stop(Stop),
    /// Stop units, start them again and wait until they are active
    ///
    /// A unit that is down is started.
    #[command(after_long_help = example!("loomctl restart chat"))]
    Restart(Job),
    /// Restart units that run; leave the others down
    #[command(after_long_help = example!("loomctl try-restart chat"))]
    TryRestart(Job),
    /// Let programs read their own settings anew, and wait until they have
    ///
    /// Runs `exec.reload` of the unit's file, or for `ready.type = "notify-reload"` sends SIGHUP and waits for READY=1. To read unit files
    /// anew, use daemon-reload.
    #[command(after_long_help = example!("loomctl reload search.service"))]
    Reload(Job),
    /// Reload units whose files have a reload, and restart the others
    #[command(after_long_help = example!("loomctl reload-or-restart chat search.service"))]
    ReloadOrRestart(Job),
    /// Send a signal to the processes of units
    ///
    /// What the unit does then is decided by its restart policy. To end it for good, use stop.
    #[command(after_long_help = example!("loomctl kill chat", "loomctl kill -s SIGUSR1 --whom main chat"))]
    Kill {
        /// Name the units, with or without their kind
        #[arg(required = true, value_name = "UNIT")]
        units: Vec<String>,
        /// Send this signal, by name or number
        #[arg(short, long, value_name = "SIGNAL", default_value = "SIGTERM", value_parser = signal)]
        signal: i32,
        /// Send it to the main process only, or to all of them
        #[arg(long, value_name = "WHOM", default_value = "all")]
        whom: Whom,
    },
    /// Stop all processes of units in their tracks
    #[command(after_long_help = example!("loomctl freeze chat"))]
    Freeze(Units),
    /// Let frozen units go on
    #[command(after_long_help = example!("loomctl thaw chat"))]
    Thaw(Units),
    /// Forget that units failed, and how often
    ///
    /// Their back-off and their start limit begin anew. Without a unit: all that failed.
    #[command(after_long_help = example!("loomctl reset-failed chat", "loomctl reset-failed"))]
    ResetFailed {
        /// Name the units, with or without their kind; `all` is all that failed
        #[arg(value_name = "UNIT")]
        units: Vec<String>,
    },
    /// Print the state of units, and tell by the exit status if one is active
    #[command(after_long_help = question!("at least one is active", "loomctl is-active chat && loomctl ask chat hello"))]
    IsActive(Units),
    /// Print the state of units, and tell by the exit status if one failed
    #[command(after_long_help = question!("at least one failed", "loomctl is-failed chat"))]
    IsFailed(Units),
    /// Show the supervisor and all units on one screen, or one unit in detail
    ///
    /// With a unit the exit status is 0 if it is active, and 1 if not.
    #[command(after_long_help = example!("loomctl status", "loomctl status chat"))]
    Status {
        /// Show this unit, its processes, what is enforced, and its last log lines
        unit: Option<String>,
    },
    /// List units
    #[command(after_long_help = example!("loomctl list --json", "loomctl list --state failed", "loomctl list --kind agent 'worker-*'"))]
    List {
        /// List units that match one of these patterns, with `*` and `?`
        #[arg(value_name = "PATTERN")]
        patterns: Vec<String>,
        /// List units in one of these states, such as `active`, `failed` or `auto-restart`
        #[arg(long, value_name = "STATE", value_delimiter = ',')]
        state: Vec<String>,
        /// List units of these kinds
        #[arg(long, value_name = "KIND", value_delimiter = ',')]
        kind: Vec<String>,
    },
    /// List what is being done with units, and what waits for what
    #[command(after_long_help = example!("loomctl list-jobs"))]
    ListJobs,
    /// Show which units a unit needs, as a tree
    ///
    /// Without an option: what it requires, wants and holds together. ● is active, ◐ on its way, ○ down, × failed, and the state stands
    /// behind it as a word.
    #[command(after_long_help = example!("loomctl list-dependencies chat", "loomctl list-dependencies --reverse local-llm.service"))]
    ListDependencies {
        /// Begin at this unit [default: default.target]
        unit: Option<String>,
        /// Show which units need it
        #[arg(long, conflicts_with_all = ["after", "before"])]
        reverse: bool,
        /// Show what is started before it
        #[arg(long, conflicts_with = "before")]
        after: bool,
        /// Show what is started after it
        #[arg(long)]
        before: bool,
    },
    /// Show what happens to units, line by line
    ///
    /// The supervisor remembers the last 4096 events. With --json each line is one object. Who reads too slowly is told how many events are
    /// missing.
    #[command(after_long_help = example!("loomctl events -f", "loomctl events chat --since 10min"))]
    Events {
        /// Show events of these units only
        #[arg(value_name = "UNIT")]
        units: Vec<String>,
        /// Go on with what happens until Ctrl-C
        #[arg(short, long)]
        follow: bool,
        /// Show events that are not older: `10min`, `today`, `18:30`, `2026-07-20 18:30`
        #[arg(short = 'S', long, value_name = "TIME", value_parser = logs::moment)]
        since: Option<u64>,
    },
    /// Show units' log lines, from journald and files alike
    ///
    /// Works without a supervisor. With --json each line is one object.
    #[command(after_long_help = example!("loomctl logs chat -f", "loomctl logs chat --run 3 --since 10min", "loomctl logs -p warning --since today"))]
    Logs(logs::Flags),
    /// List crash reports, or show one
    ///
    /// A report is kept of each run that was ended by a watchdog, a signal or want of memory; the last 20 of each unit.
    #[command(
        args_conflicts_with_subcommands = true,
        after_long_help = example!("loomctl crashes", "loomctl crashes chat", "loomctl crashes show chat 7")
    )]
    Crashes {
        /// List those of this unit only
        unit: Option<String>,
        #[command(subcommand)]
        command: Option<Crashes>,
    },
    /// Show what takes long: when units came up, and what they waited for
    #[command(subcommand, after_long_help = example!("loomctl analyze blame", "loomctl analyze critical-chain chat"))]
    Analyze(Analyze),
    /// Show what units use of the machine, again and again
    #[command(after_long_help = example!("loomctl top", "loomctl top -n 1"))]
    Top {
        /// Show it N times, then end [default: until Ctrl-C]
        #[arg(short = 'n', long, value_name = "N")]
        iterations: Option<u64>,
        /// Wait this long in between
        #[arg(short, long, value_name = "TIME", default_value = "2s", value_parser = duration)]
        delay: Duration,
    },
    /// Run a command as a unit of its own
    ///
    /// The supervisor writes a unit file for it, which is gone when the unit is down; after a failure it stays until reset-failed, unless
    /// --collect is given. With --wait the exit status is that of the command.
    #[command(after_long_help = example!(
        "loomctl run -- sleep 60",
        "loomctl run --name index --wait -p limits.memory=512M -- python3 /srv/index.py"
    ))]
    Run {
        /// Give the unit this name [default: run-<number>]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Make it a unit of this kind
        #[arg(long, value_name = "KIND", default_value = "service")]
        kind: RunKind,
        /// Set this key of its unit file; may be repeated
        #[arg(short, long = "property", value_name = "SECTION.KEY=VALUE")]
        properties: Vec<String>,
        /// Wait until it has ended, and end with its exit status
        #[arg(long)]
        wait: bool,
        /// Forget it when it is down, also if it failed
        #[arg(long)]
        collect: bool,
        /// Return once the request is accepted
        #[arg(long, conflicts_with = "wait")]
        no_wait: bool,
        /// Run this command
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Show a unit's settings in force, and where each comes from
    #[command(after_long_help = example!("loomctl show chat"))]
    Show {
        /// Show this unit
        unit: String,
    },
    /// Print a unit's files
    #[command(after_long_help = example!("loomctl cat chat", "loomctl cat --effective chat"))]
    Cat {
        /// Print the files of this unit
        unit: String,
        /// Print what they come to, with the file and line of each value
        #[arg(long)]
        effective: bool,
    },
    /// Change a unit's file in an editor
    ///
    /// Opens a drop-in in $VISUAL, $EDITOR or vi. It is checked before it is put in place: with an error nothing changes, and your text is
    /// kept.
    #[command(after_long_help = example!("loomctl edit chat", "echo '[stop]\n  timeout = \"5s\"' | loomctl edit chat --stdin"))]
    Edit {
        /// Change this unit
        unit: String,
        /// Change a copy of its whole file instead of a drop-in
        #[arg(long)]
        full: bool,
        /// Change it until the next boot only
        #[arg(long)]
        runtime: bool,
        /// Read the new text from stdin instead of an editor
        #[arg(long)]
        stdin: bool,
        /// Give the drop-in this name
        #[arg(long, value_name = "NAME", default_value = "override", conflicts_with = "full")]
        drop_in: String,
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
    ///
    /// Prints the difference. What runs is left alone; `needs restart` names units that run with other settings than those of their files.
    #[command(after_long_help = example!("loomctl daemon-reload --dry-run", "loomctl daemon-reload"))]
    DaemonReload {
        /// Print the difference and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Read all unit files anew and restart exactly the units that changed
    ///
    /// Restarts, in order, what runs with other settings than those of its files, and what is part of that.
    #[command(after_long_help = example!("loomctl apply --dry-run", "loomctl apply"))]
    Apply {
        /// Print what would be done and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Let the supervisor become the loomd program that is installed now
    ///
    /// Units run on, sockets are kept, the process id stays. A program that would not start is refused; one that is not well within 10 s
    /// gives way to the one before it.
    #[command(after_long_help = example!("loomctl daemon-reexec"))]
    DaemonReexec,
    /// Make units start with what their `[install]` section names
    #[command(after_long_help = example!("loomctl enable chat", "loomctl enable --now chat"))]
    Enable(Enable),
    /// Make units start with nothing any more
    #[command(after_long_help = example!("loomctl disable --now chat"))]
    Disable(Enable),
    /// Print if units are enabled, and tell by the exit status
    #[command(after_long_help = question!("at least one is enabled", "loomctl is-enabled chat"))]
    IsEnabled(Units),
    /// Keep units from being started at all, by hiding their files
    #[command(after_long_help = example!("loomctl mask chat"))]
    Mask(Mask),
    /// Let masked units be started again
    #[command(after_long_help = example!("loomctl unmask chat"))]
    Unmask(Mask),
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
    /// List schedules: when each starts its unit next, and how its last firing went
    #[command(visible_alias = "list-schedules", after_long_help = example!("loomctl list-timers", "loomctl list-timers report"))]
    ListTimers {
        /// List the firings of this schedule
        schedule: Option<String>,
    },
    /// Start a schedule's unit now, as one more firing
    #[command(after_long_help = example!("loomctl fire report"))]
    Fire {
        /// Name the schedule
        schedule: String,
    },
    /// Show when a cron pattern or a calendar expression elapses
    ///
    /// Works without a supervisor.
    #[command(after_long_help = example!("loomctl calendar 'Mon..Fri 9:00' --iterations 3", "loomctl calendar '*/15 * * * *'"))]
    Calendar {
        /// Show this one; a cron pattern has five fields or more
        #[arg(value_name = "EXPRESSION")]
        expression: String,
        /// Show the next N times
        #[arg(long, value_name = "N", default_value_t = 1)]
        iterations: usize,
        /// Use this time zone [default: that of this machine]
        #[arg(long, value_name = "ZONE", default_value = "", hide_default_value = true)]
        timezone: String,
    },
    /// Install loomd as a service of systemd
    ///
    /// Writes a unit file of systemd; it names this loomctl's neighbour `loomd` and the directories in use. uninstall-service removes it
    /// without a trace.
    #[command(after_long_help = example!("loomctl install-service --user", "loomctl install-service --system --dry-run"))]
    InstallService(Service),
    /// Remove the service that install-service made
    ///
    /// Units that run are left alone: stop them first with `loomctl stop --all`.
    #[command(after_long_help = example!("loomctl uninstall-service --user"))]
    UninstallService(Service),
    /// Print completions for a shell
    #[command(after_long_help = example!("loomctl completions bash > /etc/bash_completion.d/loomctl"))]
    Completions {
        /// Print them for this shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write those of all commands
    #[command(after_long_help = example!("loomctl man | man -l -", "loomctl man /usr/local/share/man/man1"))]
    Man {
        /// Write one page for each command into this directory
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

#[derive(Args)]
pub struct Job {
    /// Name the units, with or without their kind
    #[arg(required = true, value_name = "UNIT")]
    pub units: Vec<String>,
    /// Return once the request is accepted
    #[arg(long, alias = "no-block")]
    pub no_wait: bool,
}

#[derive(Args)]
pub struct Stop {
    /// Name the units, with or without their kind
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "UNIT")]
    pub units: Vec<String>,
    /// Stop all units, in reverse order; after 90 s kill what is left
    #[arg(long)]
    pub all: bool,
    /// Kill all their processes with SIGKILL, at once
    #[arg(long)]
    pub force: bool,
    /// Return once the request is accepted
    #[arg(long, alias = "no-block")]
    pub no_wait: bool,
}

#[derive(Args)]
pub struct Units {
    /// Name the units, with or without their kind
    #[arg(required = true, value_name = "UNIT")]
    pub units: Vec<String>,
}

#[derive(Args)]
pub struct Enable {
    /// Name the units, with or without their kind
    #[arg(required = true, value_name = "UNIT")]
    pub units: Vec<String>,
    /// Start or stop them as well
    #[arg(long)]
    pub now: bool,
}

#[derive(Args)]
pub struct Mask {
    /// Name the units, with or without their kind
    #[arg(required = true, value_name = "UNIT")]
    pub units: Vec<String>,
    /// Change it until the next boot only
    #[arg(long)]
    pub runtime: bool,
}

#[derive(Args)]
pub struct Service {
    /// Use the service manager of this user [default, unless root]
    #[arg(long, conflicts_with = "system")]
    pub user: bool,
    /// Use the service manager of the machine [default for root]
    #[arg(long)]
    pub system: bool,
    /// Print what would be done and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Use the tree below this directory, and tell no service manager
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum Crashes {
    /// Show one crash report whole
    #[command(after_long_help = example!("loomctl crashes show chat 7"))]
    Show {
        /// Show a report of this unit
        unit: String,
        /// Show the report of this run
        run: u64,
    },
}

#[derive(Subcommand)]
pub enum Analyze {
    /// List units by the time that their newest start took, longest first
    #[command(after_long_help = example!("loomctl analyze blame"))]
    Blame,
    /// Show the chain of units that a unit's start waited for
    ///
    /// Behind @ stands when the unit was active, counted from the first start of the chain; behind + how long its own start took.
    #[command(after_long_help = example!("loomctl analyze critical-chain chat"))]
    CriticalChain {
        /// Begin at this unit [default: the one that came up last]
        unit: Option<String>,
    },
}

#[derive(Subcommand)]
pub enum State {
    /// List the keys
    #[command(after_long_help = example!("loomctl state list chat"))]
    List {
        /// Look into this agent
        unit: String,
    },
    /// Print the value of a key as JSON
    #[command(after_long_help = example!("loomctl state get chat count"))]
    Get {
        /// Look into this agent
        unit: String,
        /// Read this key
        key: String,
    },
    /// Write a value and wait until it is on disk
    #[command(after_long_help = example!("loomctl state put chat count 3"))]
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
    #[command(after_long_help = example!("loomctl state delete chat count"))]
    Delete {
        /// Change this agent
        unit: String,
        /// Delete this key
        key: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Whom {
    Main,
    All,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RunKind {
    Service,
    Agent,
}

/// A span of time such as `90s`, `500ms`, `2min`, `1h`.
pub fn duration(text: &str) -> Result<Duration, String> {
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

/// `SIGTERM`, `TERM`, `term` or `15`.
fn signal(text: &str) -> Result<i32, String> {
    if let Ok(number) = text.parse::<i32>() {
        return match number {
            1..=64 => Ok(number),
            _ => Err("a signal's number is 1 to 64".to_owned()),
        };
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    let known = name.parse::<nix::sys::signal::Signal>();
    known.map(|signal| signal as i32).map_err(|_| "no such signal; `kill -l` lists them".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn every_command(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        for sub in command.get_subcommands() {
            let path = format!("{path} {}", sub.get_name());
            every_command(sub, &path, found);
            found.push((path, sub.clone()));
        }
    }

    #[test]
    fn the_command_line_is_consistent_and_every_line_of_help_starts_with_a_verb() {
        Cli::command().debug_assert();
        let verbs = [
            "Start", "Stop", "Show", "List", "Print", "Check", "Read", "Ask", "Talk", "Use", "Look", "Go", "Return",
            "Name", "Send", "Continue", "Wait", "Write", "Delete", "Change", "Restart", "Let", "Reload", "Forget",
            "Begin", "Run", "Give", "Make", "Set", "Keep", "Install", "Remove", "Kill",
        ];
        let mut found = Vec::new();
        every_command(&Cli::command(), "loomctl", &mut found);
        for (path, command) in found {
            let lines = command.get_arguments().filter_map(|arg| Some(arg.get_help()?.to_string()));
            for help in lines.chain(command.get_about().map(ToString::to_string)) {
                assert!(verbs.contains(&help.split([' ', ',', ';']).next().unwrap()), "{path}: {help}");
            }
        }
    }

    #[test]
    fn every_command_has_an_example_and_its_exit_statuses() {
        let mut found = Vec::new();
        every_command(&Cli::command(), "loomctl", &mut found);
        for (path, command) in found {
            let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example:\n  ") && help.contains("Exit status:\n  0  "), "{path}");
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

    #[test]
    fn a_signal_has_a_name_or_a_number() {
        for text in ["SIGUSR1", "usr1", "10"] {
            assert_eq!(signal(text), Ok(10), "{text}");
        }
        for bad in ["0", "65", "-1", "SIGNAL", ""] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }
}
