//! look: what is, and what was.
//!
//! Job: status, list, jobs, dependencies, events, logs, settings, crash reports, the audit log. May touch: the control API, logs.
//! Keeps: nothing is changed by looking.

use crate::answer::{Context, failed, say, say_json, usage};
use crate::cli::Crashes;
use crate::{logs, show, sys};
use loom_api::control::Control;
use loom_api::view::*;
use loom_core::ids::UnitId;
use loom_core::lifecycle::ActiveState;

/// Where a tree of dependencies begins unless asked otherwise.
const ROOT: &str = "default.target";

pub fn overview(context: &Context) -> Result<u8, Refusal> {
    let view = context.ask(context.client.status(Nothing {}))?;
    context.show(&view, |view| show::overview(view, logs::now_ms(), sys::columns()));
    Ok(0)
}

pub fn status_of_one(context: &Context, unit: String) -> Result<u8, Refusal> {
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

/// What `list` is to show. Empty: everything.
pub struct Filter {
    pub patterns: Vec<String>,
    pub states: Vec<String>,
    pub kinds: Vec<String>,
}

impl Filter {
    fn takes(&self, view: &UnitView) -> bool {
        let name = view.unit.to_string();
        let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
        let fits = |pattern: &String| matches(pattern, &name) || matches(pattern, stem);
        let is = |state: &String| *state == show::word(view.active_state) || *state == view.sub_state;
        (self.patterns.is_empty() || self.patterns.iter().any(fits))
            && (self.states.is_empty() || self.states.iter().any(is))
            && (self.kinds.is_empty() || self.kinds.iter().any(|kind| *kind == view.kind.to_string()))
    }
}

/// `*` is any text, `?` any one character.
fn matches(pattern: &str, text: &str) -> bool {
    let mut chars = pattern.chars();
    match chars.next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = chars.as_str();
            text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| matches(rest, &text[at..]))
        }
        Some(wanted) => {
            let mut found = text.chars();
            found.next().is_some_and(|letter| wanted == '?' || wanted == letter)
                && matches(chars.as_str(), found.as_str())
        }
    }
}

pub fn list(context: &Context, filter: &Filter) -> Result<u8, Refusal> {
    let mut view = context.ask(context.client.status(Nothing {}))?;
    view.units.retain(|unit| filter.takes(unit));
    context.show(&view, |view| show::list(view, sys::columns()));
    Ok(0)
}

pub fn list_jobs(context: &Context) -> Result<u8, Refusal> {
    let mut view = context.ask(context.client.status(Nothing {}))?;
    view.units.retain(|unit| unit.job.is_some() || unit.waits_for.is_some() || unit.next_start_in_ms.is_some());
    context.show(&view, |view| show::jobs(view, sys::columns()));
    Ok(0)
}

/// Which way a tree of dependencies goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Needs,
    NeededBy,
    After,
    Before,
}

pub fn list_dependencies(context: &Context, unit: Option<String>, direction: Direction) -> Result<u8, Refusal> {
    let asked = unit.unwrap_or_else(|| ROOT.to_owned());
    let graph = context.ask(context.client.graph(Nothing {}))?;
    let root = match loom_api::control::resolve_unit(&asked, graph.units.iter().map(|node| &node.unit)) {
        Ok(root) => root,
        // An instance that nobody started yet: loomd makes it from its template.
        Err(refusal) => match context.ask(context.client.unit(UnitAsked { unit: asked })) {
            Ok(view) => view.unit,
            Err(_) => return Err(refusal),
        },
    };
    if context.json {
        say_json(&serde_json::json!({
            "version": VERSION, "unit": root, "tree": show::tree_json(&graph, &root, direction),
        }));
    } else {
        say(&show::tree(&graph, &root, direction));
    }
    Ok(0)
}

pub fn events(context: &Context, units: Vec<String>, follow: bool, since: Option<u64>) -> Result<u8, Refusal> {
    let asked = EventsAsked { units, follow, since };
    context.ask(async {
        let mut lines = context.client.events(asked).await?.0;
        while let Some(event) = lines.recv().await {
            if context.json { say_json(&event) } else { say(&show::event(&event)) }
        }
        match follow {
            true => Err(Refusal::new(Refusal::CUT_SHORT, "the supervisor has gone").try_this("`loomctl status`")),
            false => Ok(0),
        }
    })
}

pub fn crashes(context: &Context, unit: Option<String>, command: Option<Crashes>) -> Result<u8, Refusal> {
    match command {
        None => {
            let view = context.ask(context.client.crashes(CrashesAsked { unit, run: None }))?;
            context.show(&view, show::crashes);
        }
        Some(Crashes::Show { unit, run }) => {
            let view = context.ask(context.client.crashes(CrashesAsked { unit: Some(unit), run: Some(run) }))?;
            context.show(&view, |view| view.reports.iter().map(show::crash).collect());
        }
    }
    Ok(0)
}

pub fn settings(context: &Context, unit: String) -> Result<u8, Refusal> {
    let view = context.ask(context.client.show_unit(UnitAsked { unit }))?;
    context.show(&view, show::settings);
    Ok(0)
}

pub fn effective(context: &Context, unit: String) -> Result<u8, Refusal> {
    let view = context.ask(context.client.show_unit(UnitAsked { unit }))?;
    context.show(&view, |view| view.effective.clone());
    Ok(0)
}

pub fn files(context: &Context, unit: String) -> Result<u8, Refusal> {
    let view = context.ask(context.client.unit_files(UnitAsked { unit }))?;
    context.show(&view, show::files);
    Ok(0)
}

pub fn audit(context: &Context, unit: Option<String>, limit: usize) -> Result<u8, Refusal> {
    let view = context.ask(context.client.audit(AuditAsked { unit, limit: Some(limit) }))?;
    context.show(&view, show::audit);
    Ok(0)
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

pub fn show_logs(context: &Context, flags: &logs::Flags) -> Result<u8, Refusal> {
    let mut ids = Vec::new();
    for unit in &flags.units {
        ids.push(unit_for_logs(context, unit)?);
    }
    let names: Vec<String> = ids.iter().map(|id| format!("`{id}`")).collect();
    let of = if names.is_empty() { "any unit".to_owned() } else { names.join(", ") };
    let units = if ids.is_empty() { logs::Units::All } else { logs::Units::These(ids) };
    let named = units.are_several();
    let wanted = logs::Wanted::asked(flags, units).map_err(usage)?;
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
        logs.follow(show).map_err(|error| failed(format!("cannot follow {of}"), error))?;
    } else if lines.is_empty() {
        eprintln!("no lines of {of}");
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_pattern_has_stars_and_question_marks() {
        for (pattern, text, fits) in [
            ("worker-*", "worker-1.agent", true),
            ("*.target", "all.target", true),
            ("*", "", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("chat", "chat.agent", false),
            ("*a*b*", "xxaxxbxx", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }
}
