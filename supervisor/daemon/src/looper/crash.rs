//! looper/crash: a crash report from what was seen of a run.
//!
//! Job: put together what the process room noted and what the lifecycle decided. May touch: their public types.
//! Keeps: what could not be seen is said, not left out in silence. The run's log lines stay in the log: loomctl shows them.

use super::clock;
use crate::process::Account;
use loom_api::view::{CrashReport, ProcessView};
use loom_core::ids::{RunId, UnitId};
use loom_core::lifecycle::{Exit, RunResult};
use std::collections::BTreeMap;

/// What ended, and how.
pub struct Ended {
    pub unit: UnitId,
    pub run: RunId,
    pub result: RunResult,
    pub exit: Option<Exit>,
    pub error: Option<String>,
}

/// The report of a run that has just ended.
pub fn report(ended: Ended, account: Account) -> CrashReport {
    let Ended { unit, run, result, exit, error } = ended;
    let mut missing = Vec::new();
    let mut seen = account.seen.into_iter();
    let main = seen.next();
    if main.is_none() {
        missing.push("open files and states: it was gone before anybody could look".to_owned());
    }
    if account.stacks.is_none() {
        missing.push("stacks: the program wrote none; the SDK and `PYTHONFAULTHANDLER=1` do on SIGABRT".to_owned());
    }
    if account.usage.memory_peak_bytes.is_none() {
        missing.push("memory: no control group of this unit accounts for it".to_owned());
    }
    let words = |seen: &crate::process::Seen| {
        let waits = if seen.waits_in.is_empty() { String::new() } else { format!(", waits in {}", seen.waits_in) };
        format!("{} [{}; {} threads, {} KiB{waits}]", seen.name, seen.state, seen.threads, seen.resident_bytes / 1024)
    };
    let mut open_files = Vec::new();
    let mut children = Vec::new();
    if let Some(main) = main {
        let left_out = main.open_files.saturating_sub(u64::try_from(main.files.len()).unwrap_or(u64::MAX));
        children.push(ProcessView { pid: main.pid, command: words(&main) });
        open_files = main.files;
        if left_out > 0 {
            missing.push(format!("{left_out} more open files"));
        }
    }
    children.extend(seen.map(|seen| ProcessView { pid: seen.pid, command: words(&seen) }));
    let counted = [("oom_kill", account.usage.oom_kills), ("cpu_usec", account.usage.cpu_usec)];
    CrashReport {
        unit,
        run,
        at: clock::wall(),
        result,
        exit,
        error,
        stacks: account.stacks.map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default(),
        last_log_lines: Vec::new(),
        memory_peak_bytes: account.usage.memory_peak_bytes,
        open_files,
        children,
        cgroup_events: counted
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect::<BTreeMap<_, _>>(),
        missing,
    }
}
