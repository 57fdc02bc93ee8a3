//! show: answers as a person reads them.
//!
//! Job: from view types, text. May touch: nothing; the time and the terminal's width come as arguments. Keeps: states are words,
//! never only colours; one unit is one line in a table, except that on a narrow terminal its note gets a line of its own.

use crate::look::Direction;
use loom_api::view::*;
use loom_core::ids::UnitId;
use loom_core::lifecycle::{ActiveState, Exit, RunResult};
use loom_core::machine::{Enforced, Machine};
use loom_core::unit::problem::{Problem, Severity};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
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
pub fn table(rows: &[Vec<String>]) -> String {
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

/// The last column, which is words, clipped to what a terminal of this width shows; all of it where there is no terminal.
pub fn clipped(text: String, width: Option<usize>) -> String {
    let Some(width) = width else { return text };
    let line = |line: &str| match line.chars().count() > width {
        true => line.chars().take(width.saturating_sub(1)).chain(['…', '\n']).collect(),
        false => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
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
    if view.crash_looping {
        parts.push("crash-looping".to_owned());
    }
    if view.frozen {
        parts.push("frozen".to_owned());
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

/// One screen, of at most `width` columns where that is known.
pub fn overview(view: &Overview, now: u64, width: Option<usize>) -> String {
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
        text.push_str(&with_notes(rows, width));
        let count = |wanted: ActiveState| view.units.iter().filter(|unit| unit.active_state == wanted).count();
        let _ = writeln!(
            text,
            "\n{} unit{}: {} active, {} failed",
            view.units.len(),
            if view.units.len() == 1 { "" } else { "s" },
            count(ActiveState::Active),
            count(ActiveState::Failed)
        );
    }
    if !view.problems.is_empty() {
        let _ = write!(text, "\nfiles with problems:\n{}", problems(&view.problems));
    }
    text
}

/// A table whose notes go below their line where a terminal has no room beside it.
fn with_notes(rows: Vec<Vec<String>>, width: Option<usize>) -> String {
    let whole = table(&rows);
    let Some(width) = width.filter(|width| whole.lines().any(|line| line.chars().count() > *width)) else {
        return whole;
    };
    let (facts, notes): (Vec<Vec<String>>, Vec<String>) = rows
        .into_iter()
        .map(|mut row| {
            let note = row.pop().unwrap_or_default();
            (row, note)
        })
        .unzip();
    let mut text = String::new();
    for (number, (line, note)) in table(&facts).lines().zip(notes).enumerate() {
        let _ = writeln!(text, "{line}");
        if number > 0 && !note.is_empty() {
            let _ = writeln!(text, "  {note}");
        }
    }
    clipped(text, Some(width))
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
pub fn list(view: &Overview, width: Option<usize>) -> String {
    let mut rows = vec![row(["UNIT", "STATE", "RUN", "DESCRIPTION"])];
    rows.extend(
        view.units
            .iter()
            .map(|unit| row([&unit.unit.to_string(), &state(unit), &unit.run.to_string(), &unit.description])),
    );
    clipped(table(&rows), width)
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
    if let Some(job) = &view.job {
        rows.push(("job", job.clone()));
    }
    if view.frozen {
        rows.push(("frozen", format!("its processes stand still until `loomctl thaw {}`", view.unit)));
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
        let because = view.waits_because.as_ref().map(|because| format!(", {because}")).unwrap_or_default();
        rows.push(("next start", format!("in {}{because}", span(ms))));
    }
    if let Some(unit) = &view.waits_for {
        let because = view.waits_because.as_ref().filter(|_| view.next_start_in_ms.is_none());
        let because = because.map(|because| format!(", {because}")).unwrap_or_default();
        rows.push(("waits for", format!("{unit}{because}")));
    }
    if view.failures > 0 {
        let looping = if view.crash_looping { ": crash-looping" } else { "" };
        let times = if view.failures == 1 { "once".to_owned() } else { format!("{} times in a row", view.failures) };
        rows.push(("failed", format!("{times}{looping}")));
    }
    match view.healthy {
        Some(true) => rows.push(("health", "its probes pass".to_owned())),
        Some(false) => rows.push(("health", "not healthy: its probes have not passed".to_owned())),
        None => {}
    }
    if let Some(budget) = &view.budget {
        let until = budget.until.map(|until| format!(", until {}", crate::sys::local_time(until))).unwrap_or_default();
        let end = if budget.exhausted { ": used up, a start is refused until then" } else { "" };
        rows.push(("budget", format!("{}{until}{end}", budget.used.join(", "))));
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
    for (number, process) in view.survivors.iter().enumerate() {
        let label = if number == 0 { "survivors" } else { "" };
        rows.push((label, format!("{} {}, of a run that has ended", process.pid, process.command)));
    }
    if !view.limits.is_empty() {
        let limits: Vec<String> = view.limits.iter().map(|limit| format!("{} {}", limit.limit, limit.value)).collect();
        rows.push(("limits", limits.join(", ")));
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
    for (number, death) in view.deaths.iter().enumerate() {
        let label = if number == 0 { "last deaths" } else { "" };
        let how = death.exit.map(|how| format!(", {}", exit(how))).unwrap_or_default();
        let error = death.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        rows.push((label, format!("run {}, {}, {}{how}{error}", death.run, ago(death.at, now), word(death.result))));
    }
    if let Some(last) = view.deaths.iter().find(|death| death.has_report) {
        rows.push(("report", format!("`loomctl crashes show {} {}`", view.unit, last.run)));
    }
    for (number, file) in view.files.iter().enumerate() {
        rows.push((if number == 0 { "files" } else { "" }, file.clone()));
    }
    if view.not_found {
        rows.push(("note", "its file is gone; it runs until it stops".to_owned()));
    }
    if view.needs_restart {
        let keys =
            if view.changed_keys.is_empty() { String::new() } else { format!(" ({})", view.changed_keys.join(", ")) };
        rows.push(("note", format!("its settings changed{keys}: `loomctl restart {}`", view.unit)));
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

/// Sections as a person writes them; what is not named here comes after.
const SECTIONS: [&str; 11] =
    ["unit", "exec", "ready", "watchdog", "restart", "stop", "sandbox", "limits", "bus", "tools", "llm"];
/// Where origins stand, unless a line is longer.
const ORIGIN_COLUMN: usize = 48;

/// `loomctl show`: every setting in force as a unit file would say it, and where it comes from.
pub fn settings(view: &UnitSettings) -> String {
    let Value::Object(all) = &view.settings else { return format!("{}\n", view.settings) };
    let place = |name: &str| SECTIONS.iter().position(|known| *known == name).unwrap_or(SECTIONS.len());
    let mut sections: Vec<(&String, &Value)> = all.iter().collect();
    sections.sort_by_key(|(name, _)| place(name));
    let mut text = format!("# {}\n", view.unit);
    for (name, value) in sections {
        section(&mut text, view, name, value);
    }
    text
}

fn section(text: &mut String, view: &UnitSettings, name: &str, value: &Value) {
    let Value::Object(fields) = value else { return };
    // Tables of the writer's choice, as `[llm.local]`; `environment` and `credentials` are values.
    let (tables, values): (Vec<_>, Vec<_>) =
        fields.iter().partition(|(_, value)| name == "llm" && matches!(value, Value::Object(_)));
    if !values.is_empty() {
        let _ = writeln!(text, "\n[{name}]");
    }
    for (key, value) in values {
        let line = format!("{key} = {}", toml(value));
        let pad = ORIGIN_COLUMN.saturating_sub(line.chars().count());
        let _ = writeln!(text, "{line}{:pad$}  # {}", "", origin(&view.origins, &format!("{name}.{key}")));
    }
    for (key, value) in tables {
        section(text, view, &format!("{name}.{key}"), value);
    }
}

/// Where a setting was written; for a list or a table that several files wrote, each of them.
fn origin(origins: &std::collections::BTreeMap<String, String>, key: &str) -> String {
    let file = |origin: &str| origin.split(':').next().unwrap_or_default().to_owned();
    let mut found: Vec<&str> = origins.get(key).map(String::as_str).into_iter().collect();
    let parts = origins
        .iter()
        .filter(|(path, _)| path.strip_prefix(key).is_some_and(|rest| rest.starts_with('[') || rest.starts_with('.')));
    for (_, part) in parts {
        if !found.iter().any(|known| file(known) == file(part)) {
            found.push(part);
        }
    }
    if found.is_empty() { "default".to_owned() } else { found.join(", ") }
}

/// A value as TOML has it. What JSON writes as a text is one in TOML as well.
fn toml(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) if fields.is_empty() => "{}".to_owned(),
        Value::Object(fields) => {
            let bare = |key: &str| key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
            let field = |(key, value): (&String, &Value)| match bare(key) && !key.is_empty() {
                true => format!("{key} = {}", toml(value)),
                false => format!("{} = {}", Value::from(key.as_str()), toml(value)),
            };
            format!("{{ {} }}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
    }
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
    let keys = |unit: &UnitId| {
        let change = report.changes.iter().find(|change| change.unit == *unit);
        change.map(|change| format!("  {}", change.keys.join(", "))).unwrap_or_default()
    };
    for (what, units) in [("added", &report.added), ("changed", &report.changed), ("removed", &report.removed)] {
        for unit in units {
            let _ = writeln!(text, "{what:8} {unit}{}", keys(unit).trim_end());
        }
    }
    if text.is_empty() {
        text.push_str("nothing changed\n");
    }
    for unit in &report.needs_restart {
        let _ = writeln!(text, "needs restart: {unit}");
    }
    text
}

/// `loomctl list-jobs`.
pub fn jobs(view: &Overview, width: Option<usize>) -> String {
    if view.units.is_empty() {
        return "no jobs\n".to_owned();
    }
    let mut rows = vec![row(["UNIT", "JOB", "STATE", "WAITS FOR"])];
    rows.extend(view.units.iter().map(|unit| {
        let job = unit.job.clone().unwrap_or_else(|| {
            let word = if unit.active_state == ActiveState::Activating { "start" } else { "-" };
            word.to_owned()
        });
        let waits = match (&unit.waits_for, unit.next_start_in_ms) {
            (Some(on), _) => on.to_string(),
            (None, Some(ms)) => format!("its next try in {}", span(ms)),
            (None, None) => "-".to_owned(),
        };
        row([&unit.unit.to_string(), &job, &state(unit), &waits])
    }));
    clipped(table(&rows), width)
}

/// One line of `loomctl events`.
pub fn event(event: &LifeEvent) -> String {
    let time = crate::sys::local_time(event.time);
    let who = match (&event.unit, event.run) {
        (Some(unit), Some(run)) if run.0 > 0 => format!("{unit}[{run}]"),
        (Some(unit), _) => unit.to_string(),
        (None, _) => "loomctl".to_owned(),
    };
    let what = match &event.news {
        LifeNews::Changed { from, to, sub_state, result, because } => {
            let result = match result {
                RunResult::Success => String::new(),
                failure => format!(", result {}", word(failure)),
            };
            format!("{} -> {} ({sub_state}){result}: {because}", word(from), word(to))
        }
        LifeNews::Said { word, text } => format!("{word}: {text}"),
        LifeNews::Gap { missed } => format!("{missed} events are missing: they came faster than they were read"),
    };
    format!("{time} {who}: {what}\n")
}

/// `loomctl crashes`.
pub fn crashes(view: &CrashesView) -> String {
    if view.reports.is_empty() {
        return "no crash reports\n".to_owned();
    }
    let mut rows = vec![row(["TIME", "UNIT", "RUN", "RESULT", "END", "WHY"])];
    rows.extend(view.reports.iter().map(|report| {
        let (time, run) = (crate::sys::local_time(report.at), report.run.to_string());
        let how = report.exit.map_or_else(|| "-".to_owned(), exit);
        let why = report.error.as_deref().unwrap_or_default();
        row([&time, &report.unit.to_string(), &run, &word(report.result), &how, why])
    }));
    table(&rows)
}

/// `loomctl crashes show`.
pub fn crash(report: &CrashReport) -> String {
    let mut text = format!("{} run {}\n", report.unit, report.run);
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "{label:>12}: {value}");
    };
    line("ended", crate::sys::local_time(report.at));
    line("result", word(report.result));
    if let Some(how) = report.exit {
        line("end", exit(how));
    }
    if let Some(error) = &report.error {
        line("error", error.clone());
    }
    if let Some(bytes) = report.memory_peak_bytes {
        line("memory peak", format!("{} KiB", bytes / 1024));
    }
    for (name, count) in &report.cgroup_events {
        line("cgroup", format!("{name} {count}"));
    }
    for process in &report.children {
        line("process", format!("{} {}", process.pid, process.command));
    }
    for what in &report.missing {
        line("missing", what.clone());
    }
    for (title, lines) in
        [("stacks", &report.stacks), ("open files", &report.open_files), ("last lines", &report.last_log_lines)]
    {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n{title}:");
            lines.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
        }
    }
    text
}

/// Keys by which a unit pulls others in.
const NEEDS: [&str; 6] = ["requires", "requisite", "binds_to", "wants", "upholds", "members"];
/// Keys that imply `after`.
const ORDERED: [&str; 4] = ["after", "requires", "requisite", "binds_to"];

fn named<'a>(node: &'a GraphNode, keys: &'a [&str]) -> impl Iterator<Item = &'a UnitId> {
    keys.iter().filter_map(|key| node.names.get(*key)).flatten()
}

/// Units that are started before a unit.
pub fn started_before(graph: &GraphView, unit: &UnitId) -> BTreeSet<UnitId> {
    let own = graph.units.iter().filter(|node| node.unit == *unit).flat_map(|node| named(node, &ORDERED));
    let theirs = graph.units.iter().filter(|node| named(node, &["before"]).any(|other| other == unit));
    own.cloned().chain(theirs.map(|node| node.unit.clone())).collect()
}

/// The next units on the way.
fn branches(graph: &GraphView, unit: &UnitId, direction: Direction) -> BTreeSet<UnitId> {
    match direction {
        Direction::Needs => {
            graph.units.iter().filter(|node| node.unit == *unit).flat_map(|node| named(node, &NEEDS)).cloned().collect()
        }
        Direction::NeededBy => {
            let needs = |node: &&GraphNode| named(node, &NEEDS).any(|other| other == unit);
            graph.units.iter().filter(needs).map(|node| node.unit.clone()).collect()
        }
        Direction::After => started_before(graph, unit),
        Direction::Before => {
            let all = graph.units.iter().map(|node| &node.unit);
            all.filter(|other| started_before(graph, other).contains(unit)).cloned().collect()
        }
    }
}

/// A dot that says the same as the word behind it.
fn dot(state: Option<ActiveState>) -> &'static str {
    match state {
        Some(ActiveState::Active) => "●",
        Some(ActiveState::Activating | ActiveState::Reloading | ActiveState::Deactivating) => "◐",
        Some(ActiveState::Failed) => "×",
        Some(ActiveState::Inactive) | None => "○",
    }
}

/// `loomctl list-dependencies`. What was shown before is not opened again.
pub fn tree(graph: &GraphView, root: &UnitId, direction: Direction) -> String {
    let states: BTreeMap<&UnitId, Option<ActiveState>> =
        graph.units.iter().map(|node| (&node.unit, node.active_state)).collect();
    let line = |unit: &UnitId| match states.get(unit) {
        Some(state) => format!("{} {unit} ({})", dot(*state), state.map_or_else(|| "inactive".to_owned(), word)),
        None => format!("○ {unit} (no such unit)"),
    };
    let mut text = format!("{}\n", line(root));
    let mut seen = BTreeSet::from([root.clone()]);
    grow(graph, root, direction, "", &line, &mut seen, &mut text);
    text
}

fn grow(
    graph: &GraphView,
    unit: &UnitId,
    direction: Direction,
    indent: &str,
    line: &dyn Fn(&UnitId) -> String,
    seen: &mut BTreeSet<UnitId>,
    text: &mut String,
) {
    let next = branches(graph, unit, direction);
    for (number, child) in next.iter().enumerate() {
        let is_last = number + 1 == next.len();
        let (branch, below) = if is_last { ("└─", "  ") } else { ("├─", "│ ") };
        let is_new = seen.insert(child.clone());
        let more = if is_new || branches(graph, child, direction).is_empty() { "" } else { ", as above" };
        let _ = writeln!(text, "{indent}{branch}{}{more}", line(child));
        if is_new {
            grow(graph, child, direction, &format!("{indent}{below}"), line, seen, text);
        }
    }
}

/// The same for programs: unit → the units that it leads to.
pub fn tree_json(graph: &GraphView, root: &UnitId, direction: Direction) -> Value {
    let (mut found, mut open) = (BTreeMap::new(), vec![root.clone()]);
    while let Some(unit) = open.pop() {
        if found.contains_key(&unit) {
            continue;
        }
        let next = branches(graph, &unit, direction);
        open.extend(next.iter().cloned());
        found.insert(unit, next);
    }
    json!(found.into_iter().map(|(unit, next)| (unit.to_string(), json!(next))).collect::<serde_json::Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_narrow_terminal_a_note_has_a_line_of_its_own() {
        let rows =
            || vec![row(["UNIT", "STATE", "NOTE"]), row(["a", "failed", "a long reason"]), row(["b", "active", ""])];
        assert_eq!(with_notes(rows(), None), "UNIT  STATE   NOTE\na     failed  a long reason\nb     active\n");
        assert_eq!(with_notes(rows(), Some(40)), with_notes(rows(), None));
        assert_eq!(with_notes(rows(), Some(14)), "UNIT  STATE\na     failed\n  a long reas…\nb     active\n");
    }

    #[test]
    fn a_setting_names_every_file_that_wrote_it() {
        let pairs = [("sandbox.read", "/a:1:1"), ("sandbox.read[0]", "/a:1:8"), ("sandbox.read[1]", "/d:2:3")];
        let origins = pairs.map(|(key, at)| (key.to_owned(), at.to_owned())).into();
        assert_eq!(origin(&origins, "sandbox.read"), "/a:1:1, /d:2:3");
        assert_eq!(origin(&origins, "sandbox.reads"), "default");
    }
}
