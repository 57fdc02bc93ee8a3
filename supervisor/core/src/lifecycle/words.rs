//! words: what people and programs read about a run.
//!
//! Job: texts for exits, spans, stages and errno. May touch: the types above it. Keeps: an errno is shown by its name.

use super::{Controlled, Event, Exit, LaunchFailure, RunResult, Why};
use crate::ids::Millis;

impl Event {
    /// What a log line gives as the cause.
    pub fn because(&self) -> String {
        match self {
            Event::Start { by } => format!("start asked by {by}"),
            Event::Again => "its waiting restart is due".to_owned(),
            Event::Refuse { text } => text.clone(),
            Event::Stop { why: Why::Dependency { text, .. } } => text.clone(),
            Event::Stop { .. } => "stop asked".to_owned(),
            Event::Kill => "its end at once was asked".to_owned(),
            Event::Reload => "reload asked".to_owned(),
            Event::ResetFailed => "its failures were forgotten".to_owned(),
            Event::Spawned { .. } => "its launcher stands behind the gate".to_owned(),
            Event::Executed { .. } => "its program was executed".to_owned(),
            Event::LaunchFailed { failure, .. } => launch_words(failure),
            Event::Exited { exit, .. } => exit_words(*exit),
            Event::TreeEmpty { .. } => "nothing of the run is left".to_owned(),
            Event::Notified { notify, .. } if notify.watchdog_trigger => "it said WATCHDOG=trigger".to_owned(),
            Event::Notified { notify, .. } if notify.ready => "it said READY=1".to_owned(),
            Event::Notified { notify, .. } if notify.reloading => "it said RELOADING=1".to_owned(),
            Event::Notified { notify, .. } if notify.stopping => "it said STOPPING=1".to_owned(),
            Event::Notified { .. } => "it sent a notification".to_owned(),
            Event::Tick => "a time limit was reached".to_owned(),
            Event::Checked { unmet: Some(unmet), .. } => format!("condition `{unmet}` does not hold"),
            Event::Checked { unmet: None, .. } => "its conditions hold".to_owned(),
            Event::Controlled { control, end: Controlled::Exited(Exit::Code(0)), .. } => {
                format!("`{}` has ended", control.word())
            }
            Event::Controlled { control, end: Controlled::Exited(exit), .. } => {
                format!("`{}`: {}", control.word(), exit_words(*exit))
            }
            Event::Controlled { control, end: Controlled::Failed(failure), .. } => {
                format!("`{}`: {}", control.word(), launch_words(failure))
            }
            Event::MainProcess { identity, .. } => format!("it said MAINPID={}", identity.pid),
            Event::OomKilled { .. } => "the kernel killed a process of it for want of memory".to_owned(),
            Event::Progressed { .. } => "its work moved".to_owned(),
            Event::Spent { .. } => "it used some of its budget".to_owned(),
            Event::InHand { .. } => "its work in hand is known".to_owned(),
        }
    }
}

/// The word that JSON uses.
pub fn result_word(result: RunResult) -> &'static str {
    match result {
        RunResult::Success => "success",
        RunResult::ExitCode => "exit-code",
        RunResult::Signal => "signal",
        RunResult::CoreDump => "core-dump",
        RunResult::Timeout => "timeout",
        RunResult::Watchdog => "watchdog",
        RunResult::Progress => "progress",
        RunResult::Liveness => "liveness",
        RunResult::OomKill => "oom-kill",
        RunResult::StartLimitHit => "start-limit-hit",
        RunResult::Condition => "condition",
        RunResult::BudgetExhausted => "budget-exhausted",
        RunResult::Resources => "resources",
        RunResult::Protocol => "protocol",
        RunResult::Sandbox => "sandbox",
        RunResult::Dependency => "dependency",
        RunResult::Lost => "lost",
    }
}

/// `code 1`, `signal 9`: what the next run is told.
pub fn exit_fact(exit: Exit) -> Option<String> {
    match exit {
        Exit::Code(code) => Some(format!("code {code}")),
        Exit::Signal { signal, .. } => Some(format!("signal {signal}")),
        Exit::Unknown => None,
    }
}

/// systemd's `EXIT_CODE` and `EXIT_STATUS`, which `stop.post` finds in its environment beside `SERVICE_RESULT`. Empty where the
/// end is not known.
pub fn service_exit(exit: Option<Exit>) -> (&'static str, String) {
    match exit {
        Some(Exit::Code(code)) => ("exited", code.to_string()),
        Some(Exit::Signal { signal, core }) => {
            let name = signal_name(signal).map(|name| name.trim_start_matches("SIG").to_owned());
            (if core { "dumped" } else { "killed" }, name.unwrap_or_else(|| signal.to_string()))
        }
        Some(Exit::Unknown) | None => ("", String::new()),
    }
}

/// A moment of the wall clock as people read it: `2026-11-23 04:37:07 UTC`.
pub fn moment(wall: u64) -> String {
    let (days, second) = (wall / 86_400_000, wall / 1000 % 86_400);
    // Years of 365.2425 days that begin in March, so that a leap day is a year's last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// For a person.
pub fn exit_words(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("it exited with status {code}"),
        Exit::Signal { signal, core } => {
            let name = signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned);
            format!("it was ended by {name}{}", if core { " and dumped core" } else { "" })
        }
        Exit::Unknown => "it is gone, and nobody saw how it ended".to_owned(),
    }
}

/// Stage, errno and what it was about, and what to do.
pub fn launch_words(failure: &LaunchFailure) -> String {
    match failure {
        LaunchFailure::Stage(report) => {
            let on = if report.what.is_empty() { String::new() } else { format!(" on `{}`", report.what) };
            let cause = match (report.errno, errno_name(report.errno)) {
                (0, _) => String::new(),
                (_, Some(name)) => format!(": {name}{}", errno_meaning(name)),
                (errno, None) => format!(": errno {errno}"),
            };
            format!("stage `{}` failed{on}{cause}", report.stage.word())
        }
        LaunchFailure::Resources(text) | LaunchFailure::Refused(text) => text.clone(),
    }
}

/// A span as unit files write it: `1min 30s`.
pub fn span(time: Millis) -> String {
    let parts =
        [("h", time.0 / 3_600_000), ("min", time.0 / 60_000 % 60), ("s", time.0 / 1000 % 60), ("ms", time.0 % 1000)];
    let shown: Vec<_> = parts.iter().filter(|(_, n)| *n > 0).map(|(unit, n)| format!("{n}{unit}")).collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}

/// Linux's names, those that the launcher's calls can return.
pub fn errno_name(errno: i32) -> Option<&'static str> {
    Some(match errno {
        1 => "EPERM",
        2 => "ENOENT",
        3 => "ESRCH",
        4 => "EINTR",
        5 => "EIO",
        7 => "E2BIG",
        8 => "ENOEXEC",
        9 => "EBADF",
        11 => "EAGAIN",
        12 => "ENOMEM",
        13 => "EACCES",
        14 => "EFAULT",
        16 => "EBUSY",
        17 => "EEXIST",
        18 => "EXDEV",
        19 => "ENODEV",
        20 => "ENOTDIR",
        21 => "EISDIR",
        22 => "EINVAL",
        23 => "ENFILE",
        24 => "EMFILE",
        26 => "ETXTBSY",
        28 => "ENOSPC",
        30 => "EROFS",
        36 => "ENAMETOOLONG",
        38 => "ENOSYS",
        40 => "ELOOP",
        95 => "EOPNOTSUPP",
        _ => return None,
    })
}

/// ` (ENOENT, no such file or directory)`, or nothing where it is not known.
pub(super) fn errno_words(errno: i32) -> String {
    errno_name(errno).map_or_else(String::new, |name| format!(" ({name}{})", errno_meaning(name)))
}

fn errno_meaning(name: &str) -> &'static str {
    match name {
        "ENOENT" => ", no such file or directory",
        "EACCES" => ", permission denied",
        "EPERM" => ", not permitted",
        "ENOEXEC" => ", neither a program nor a script with a `#!` line",
        "EAGAIN" => ", the machine has no room for it now",
        "ENOMEM" => ", no memory",
        "ELOOP" => ", a symbolic link lies on the way",
        "ENOTDIR" => ", part of the path is no directory",
        "ENOSYS" => ", this kernel does not have it",
        _ => "",
    }
}
