//! timers: schedules on the command line.
//!
//! Job: `list-timers` and `fire`. May touch: loom-api. Keeps: instants are shown in a zone that is named.

use crate::answer::{Context, say_json};
use crate::show::{clipped, span, table};
use crate::{logs, sys};
use loom_api::control::Control;
use loom_api::view::{Fired, FiringList, FiringView, Nothing, Refusal, ScheduleList, UnitAsked};
use loom_api::zone;
use loom_core::schedule::zone::{Zone, Zones};
use std::fmt::Write as _;

/// What instants are shown by.
struct Clock {
    zones: Zones,
    /// Milliseconds since the epoch.
    now: u64,
}

/// This moment, in this machine's zone.
fn clock() -> Clock {
    Clock { zones: zone::zones(), now: logs::now_ms() }
}

/// `loomctl list-timers`, of all schedules or of one.
pub fn run(context: &Context, schedule: Option<String>) -> Result<u8, Refusal> {
    match schedule {
        None => {
            let all = context.ask(context.client.schedules(Nothing {}))?;
            context.show(&all, |all| list(all, &clock(), sys::columns()));
        }
        Some(unit) => {
            let one = context.ask(context.client.firings(UnitAsked { unit }))?;
            context.show(&one, |one| firings(one, &clock()));
        }
    }
    Ok(0)
}

/// `loomctl fire`.
pub fn fire(context: &Context, unit: String) -> Result<u8, Refusal> {
    let answer = context.ask(context.client.fire(UnitAsked { unit }))?;
    if context.json {
        say_json(&answer)
    } else {
        eprintln!("{}", fired(&answer))
    }
    Ok(0)
}

fn list(list: &ScheduleList, clock: &Clock, width: Option<usize>) -> String {
    if list.schedules.is_empty() {
        return "no schedules; a file such as `report.schedule.toml` makes one\n".to_owned();
    }
    let header = ["NEXT", "LEFT", "LAST", "WENT", "MISSED", "SKIPPED", "STATE", "SCHEDULE", "STARTS", "BY"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for view in &list.schedules {
        let last = view.last.as_ref();
        rows.push(vec![
            view.next.map_or_else(|| "-".to_owned(), |at| local(at, clock)),
            view.left_ms.map_or_else(|| "-".to_owned(), span),
            last.map_or_else(|| "-".to_owned(), |firing| local(firing.at, clock)),
            last.map_or_else(|| "-".to_owned(), |firing| firing.state.clone()),
            view.missed.to_string(),
            view.skipped.to_string(),
            view.state.clone(),
            view.schedule.to_string(),
            view.unit.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            view.rhythm.clone(),
        ]);
    }
    clipped(table(&rows), width)
}

/// `loomctl list-timers SCHEDULE`.
fn firings(list: &FiringList, clock: &Clock) -> String {
    let view = &list.schedule;
    let mut text = format!("{} is {}: {}\n", view.schedule, view.state, view.rhythm);
    if let Some(because) = &view.because {
        let _ = writeln!(text, "{because}");
    }
    if let Some(next) = view.next {
        let _ = writeln!(text, "next: {}, in {}", local(next, clock), span(next.saturating_sub(clock.now)));
    }
    let _ = writeln!(text, "fired {}, missed {}, skipped {}", view.fired, view.missed, view.skipped);
    if list.firings.is_empty() {
        return text;
    }
    text.push('\n');
    let mut rows = vec![["AT", "UNIT", "RUN", "CAUSE", "WENT", "FIRING"].map(str::to_owned).to_vec()];
    for firing in &list.firings {
        rows.push(vec![
            local(firing.at, clock),
            firing.unit.to_string(),
            firing.run.map_or_else(|| "-".to_owned(), |run| run.to_string()),
            cause(firing),
            firing.state.clone(),
            firing.firing.clone(),
        ]);
    }
    text.push_str(&table(&rows));
    for firing in &list.firings {
        if let Some(because) = &firing.because {
            let _ = writeln!(text, "{}: {because}", firing.firing);
        }
    }
    text
}

fn cause(firing: &FiringView) -> String {
    let cause = crate::show::word(firing.cause);
    match firing.missed {
        0 => cause,
        missed => format!("{cause}, for {missed}"),
    }
}

fn fired(fired: &Fired) -> String {
    match &fired.firing {
        Some(firing) => format!("{} started {}: {}", fired.schedule, firing.unit, firing.firing),
        None => format!("{}: {}", fired.schedule, fired.said),
    }
}

fn local(at: u64, clock: &Clock) -> String {
    clock.zones.get("").unwrap_or_else(|_| Zone::utc()).show(at)
}
