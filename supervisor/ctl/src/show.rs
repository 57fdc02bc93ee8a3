//! show: answers as a person reads them.
//!
//! Job: from view types, text. May touch: nothing; the time comes as an argument. Keeps: states are words, never only colours;
//! one unit is one line in a table.

use loom_api::view::*;
use loom_core::lifecycle::{ActiveState, Exit, RunResult};
use loom_core::machine::{Enforced, Machine};
use loom_core::unit::problem::{Problem, Severity};
use serde_json::Value;
use std::fmt::Write;

/// The word that serde writes.
pub fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        other => unreachable!("only enums of plain words come here, not {other:?}"),
    }
}

/// `3 min`, `2 h 1 min`, `3 d 4 h`.
pub fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        86_400.. => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn ago(since: u64, now: u64) -> String {
    format!("{} ago", span(now.saturating_sub(since)))
}

/// `active (running)`.
pub fn state(view: &UnitView) -> String {
    format!("{} ({})", word(view.active_state), view.sub_state)
}

/// `code 1`, `signal 9 (SIGKILL)`.
pub fn exit(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("code {code}"),
        Exit::Signal { signal, core } => {
            let name = nix::sys::signal::Signal::try_from(signal).map_or("unknown", nix::sys::signal::Signal::as_str);
            format!("signal {signal} ({name}){}", if core { ", core dumped" } else { "" })
        }
        Exit::Unknown => "nobody knows how".to_owned(),
    }
}

/// Columns as wide as their widest cell; the last one ragged.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// Why it is as it is, or what it says; at most one line.
fn note(view: &UnitView) -> String {
    let mut parts = Vec::new();
    if let Some(ms) = view.next_start_in_ms {
        parts.push(format!("starts again in {}", span(ms)));
    }
    if let Some(unit) = &view.waits_for {
        parts.push(format!("waits for {unit}"));
    }
    if let Some(error) = &view.last_error {
        parts.push(error.clone());
    } else if view.result != RunResult::Success && view.active_state != ActiveState::Active {
        let how = view.exit.map(|how| format!(", {}", exit(how))).unwrap_or_default();
        parts.push(format!("last run: {}{how}", word(view.result)));
    }
    if view.not_found {
        parts.push("its file is gone".to_owned());
    }
    if view.needs_restart {
        parts.push("settings changed, needs a restart".to_owned());
    }
    if view.connected == Some(false) && view.active_state == ActiveState::Active {
        parts.push("not connected to the bus".to_owned());
    }
    if let Some(text) = &view.status_text {
        parts.push(format!("\"{text}\""));
    }
    parts.join("; ")
}

fn machine(machine: &Machine) -> String {
    let landlock = format!("Landlock ABI {}", machine.landlock_abi);
    let abilities: [(&str, bool); 5] = [
        (&landlock, machine.landlock_abi > 0),
        ("seccomp", machine.seccomp),
        ("no writable code (mdwe)", machine.mdwe),
        ("cgroup v2", machine.cgroup_v2.is_some()),
        ("exit status of adopted runs", machine.pidfd_exit_info),
    ];
    let list = |here: bool| {
        let names: Vec<&str> = abilities.iter().filter(|(_, is)| *is == here).map(|(name, _)| *name).collect();
        names.join(", ")
    };
    match list(false) {
        missing if missing.is_empty() => list(true),
        missing => format!("{}; missing: {missing}", list(true)),
    }
}

/// One screen.
pub fn overview(view: &Overview, now: u64) -> String {
    let supervisor = &view.supervisor;
    let mut text = format!(
        "loomd {} {}, pid {}, up {}\nmachine: {}\nlogs: {}, state: {}, units: {}\n\n",
        supervisor.loomd,
        supervisor.state,
        supervisor.pid,
        span(now.saturating_sub(supervisor.since)),
        machine(&supervisor.machine),
        supervisor.logs,
        supervisor.state_dir,
        supervisor.unit_path.join(":"),
    );
    if view.units.is_empty() {
        text.push_str("no units; put a file such as `chat.agent.toml` there, then `loomctl daemon-reload`\n");
    } else {
        let mut rows = vec![row(["UNIT", "STATE", "RUN", "PID", "RESTARTS", "SINCE", "NOTE"])];
        rows.extend(view.units.iter().map(|unit| {
            let pid = unit.main_pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            let (run, restarts) = (unit.run.to_string(), unit.restarts.to_string());
            row([&unit.unit.to_string(), &state(unit), &run, &pid, &restarts, &ago(unit.since, now), &note(unit)])
        }));
        text.push_str(&table(&rows));
        let count = |wanted: ActiveState| view.units.iter().filter(|unit| unit.active_state == wanted).count();
        let _ = writeln!(
            text,
            "\n{} units: {} active, {} failed",
            view.units.len(),
            count(ActiveState::Active),
            count(ActiveState::Failed)
        );
    }
    if !view.problems.is_empty() {
        let _ = write!(text, "\nfiles with problems:\n{}", problems(&view.problems));
    }
    text
}

/// `file:line:column: error: …`, and the way out.
pub fn problems(problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let place = match problem.line {
            0 => problem.file.clone(),
            line => format!("{}:{line}:{}", problem.file, problem.column),
        };
        let _ = writeln!(text, "{place}: {severity}: {}", problem.message);
        if !problem.help.is_empty() {
            let _ = writeln!(text, "  help: {}", problem.help);
        }
    }
    text
}

/// `loomctl list`.
pub fn list(view: &Overview) -> String {
    let mut rows = vec![row(["UNIT", "STATE", "RUN", "DESCRIPTION"])];
    rows.extend(
        view.units
            .iter()
            .map(|unit| row([&unit.unit.to_string(), &state(unit), &unit.run.to_string(), &unit.description])),
    );
    table(&rows)
}

/// `loomctl status UNIT`, without its log lines.
pub fn unit(view: &UnitView, now: u64) -> String {
    let mut rows: Vec<(&str, String)> = vec![("state", format!("{}, since {}", state(view), ago(view.since, now)))];
    if view.run.0 > 0 {
        let restarts = match view.restarts {
            0 => String::new(),
            1 => ", restarted once".to_owned(),
            n => format!(", restarted {n} times"),
        };
        rows.push(("run", format!("{}, started by {}{restarts}", view.run, view.triggered_by)));
    }
    if let Some(how) = view.exit {
        rows.push(("last end", format!("{}, {}", word(view.result), exit(how))));
    } else if view.result != RunResult::Success {
        rows.push(("last end", word(view.result)));
    }
    if let Some(error) = &view.last_error {
        rows.push(("error", error.clone()));
    }
    if let Some(ms) = view.next_start_in_ms {
        rows.push(("next start", format!("in {}", span(ms))));
    }
    if let Some(unit) = &view.waits_for {
        rows.push(("waits for", unit.to_string()));
    }
    match view.connected {
        Some(true) => rows.push(("bus", "connected".to_owned())),
        Some(false) => rows.push(("bus", "not connected".to_owned())),
        None => {}
    }
    if let Some(text) = &view.status_text {
        rows.push(("it says", text.clone()));
    }
    match view.processes.as_slice() {
        [] => rows.extend(view.main_pid.map(|pid| ("main pid", pid.to_string()))),
        processes => {
            for (number, process) in processes.iter().enumerate() {
                let label = if number == 0 { "processes" } else { "" };
                let main = if Some(process.pid) == view.main_pid { " (main)" } else { "" };
                rows.push((label, format!("{}{main} {}", process.pid, process.command)));
            }
        }
    }
    for (number, line) in view.enforcement.iter().enumerate() {
        let value = match &line.value {
            Enforced::Fully => "fully".to_owned(),
            Enforced::Partly(what) => format!("partly: {what}"),
            Enforced::Not(why) => format!("NOT: {why}"),
        };
        let label = if number == 0 { "enforced" } else { "" };
        rows.push((label, format!("{:9} {value}", word(line.promise))));
    }
    for (number, file) in view.files.iter().enumerate() {
        rows.push((if number == 0 { "files" } else { "" }, file.clone()));
    }
    if view.not_found {
        rows.push(("note", "its file is gone; it runs until it stops".to_owned()));
    }
    if view.needs_restart {
        rows.push(("note", format!("its settings changed: `loomctl restart {}`", view.unit)));
    }
    let mut text = format!("{} - {}\n", view.unit, view.description);
    for (label, value) in rows {
        let _ = writeln!(text, "{label:>12}{} {value}", if label.is_empty() { ' ' } else { ':' });
    }
    text
}

/// `loomctl cat`.
pub fn files(view: &UnitFiles) -> String {
    let mut text = String::new();
    for file in &view.files {
        if file.hidden {
            let _ = writeln!(text, "# {} (hidden by the file above)", file.path);
            continue;
        }
        let end = if file.text.ends_with('\n') { "" } else { "\n" };
        let _ = write!(text, "# {}\n{}{end}\n", file.path, file.text);
    }
    text
}

/// `loomctl show`: every setting in force, and where it comes from.
pub fn settings(view: &UnitSettings) -> String {
    let Value::Object(all) = &view.settings else { return format!("{}\n", view.settings) };
    // Keys outside of a section belong to [unit].
    let mut sections: Vec<(&str, Vec<(&str, &Value)>)> = vec![("unit", vec![])];
    for (name, value) in all {
        match value {
            Value::Object(fields) => {
                sections.push((name, fields.iter().map(|(key, value)| (key.as_str(), value)).collect()));
            }
            value => sections[0].1.push((name, value)),
        }
    }
    let mut text = format!("# {}\n", view.unit);
    for (section, fields) in sections {
        let rows: Vec<Vec<String>> = fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| {
                let origin = view.origins.get(&format!("{section}.{key}")).map_or("default", String::as_str);
                row([&format!("{key} = {value}"), &format!("# {origin}")])
            })
            .collect();
        if !rows.is_empty() {
            let _ = write!(text, "\n[{section}]\n{}", table(&rows));
        }
    }
    text
}

/// `loomctl audit`.
pub fn audit(view: &AuditView) -> String {
    let mut rows = vec![row(["TIME", "UNIT", "RUN", "TOOL", "OUTCOME", "ARGUMENTS", "RULE"])];
    rows.extend(view.records.iter().map(|record| {
        let outcome = match record.duration_ms {
            Some(ms) => format!("{} after {ms} ms", record.outcome),
            None => record.outcome.clone(),
        };
        let (unit, run) = (record.unit.to_string(), record.run.to_string());
        let time = crate::sys::local_time(record.time);
        row([&time, &unit, &run, &record.tool, &outcome, &record.arguments.to_string(), &record.rule])
    }));
    table(&rows)
}

/// `loomctl daemon-reload`.
pub fn reload(report: &ReloadReport) -> String {
    let mut text = String::new();
    for (what, units) in [("added", &report.added), ("changed", &report.changed), ("removed", &report.removed)] {
        for unit in units {
            let _ = writeln!(text, "{what:8} {unit}");
        }
    }
    if text.is_empty() {
        text.push_str("nothing changed\n");
    }
    text
}
