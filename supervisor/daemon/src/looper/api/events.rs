//! looper/api/events: what happened, and how units hang together.
//!
//! Job: answer `events`, `graph` and `crashes`. May touch: the feed, the library, the store of crash reports.
//! Keeps: between what is remembered and what follows no event is missing without a gap that says so.

use super::Api;
use crate::looper::Ask;
use loom_api::control::Lines;
use loom_api::view::{CrashesAsked, CrashesView, EventsAsked, GraphNode, GraphView, LifeEvent, Refusal, VERSION};
use loom_core::ids::UnitId;
use loom_core::unit::Unit;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::mpsc;

/// Lines that wait to be read.
const LINES_QUEUE: usize = 64;

impl Api {
    pub(super) async fn tell_events(&self, request: EventsAsked) -> Result<Lines<LifeEvent>, Refusal> {
        let mut units = BTreeSet::new();
        for asked in &request.units {
            units.insert(self.find(asked).await?);
        }
        let feed = self.hands.feed();
        let (lines, receiver) = mpsc::channel(LINES_QUEUE);
        let (kept, live) = match request.follow {
            true => {
                // Without a moment to begin at, who follows asks for what comes.
                let (kept, live) = feed.listen(units, request.since);
                (if request.since.is_some() { kept } else { Vec::new() }, Some(live))
            }
            false => (feed.kept(&units, request.since), None),
        };
        tokio::spawn(async move {
            for event in kept {
                if lines.send(event).await.is_err() {
                    return;
                }
            }
            let Some(mut live) = live else { return };
            loop {
                let event = tokio::select! {
                    event = live.recv() => event,
                    () = lines.closed() => return,
                };
                let Some(event) = event else { return };
                if lines.send(event).await.is_err() {
                    return;
                }
            }
        });
        Ok(Lines(receiver))
    }

    pub(super) async fn tell_graph(&self) -> Result<GraphView, Refusal> {
        let statuses = self.ask(|reply| Ask::Statuses { reply }).await?;
        let mut units: BTreeMap<UnitId, BTreeMap<String, Vec<UnitId>>> =
            self.library.in_force().units.values().map(|unit| (unit.id.clone(), names(unit))).collect();
        // What was started by name, and what lives on without a file.
        for status in &statuses {
            if !units.contains_key(&status.unit) {
                let unit = self.ask(|reply| Ask::Unit { unit: status.unit.clone(), reply }).await?;
                units.insert(status.unit.clone(), unit.as_ref().map(names).unwrap_or_default());
            }
        }
        let states: BTreeMap<UnitId, _> =
            statuses.into_iter().map(|status| (status.unit, status.active_state)).collect();
        let node = |(unit, names): (UnitId, BTreeMap<String, Vec<UnitId>>)| {
            let startup = self.hands.feed().startup(&unit);
            GraphNode {
                active_state: states.get(&unit).copied(),
                began_at: startup.began_at,
                active_at: startup.active_at,
                names,
                unit,
            }
        };
        Ok(GraphView { version: VERSION, units: units.into_iter().map(node).collect() })
    }

    pub(super) async fn tell_crashes(&self, request: CrashesAsked) -> Result<CrashesView, Refusal> {
        let unit = match &request.unit {
            Some(asked) => Some(self.find(asked).await?),
            None => None,
        };
        if request.run.is_some() && unit.is_none() {
            return Err(Refusal::new(Refusal::USAGE, "a run is one of a unit: name that too"));
        }
        let mut reports = self.hands.crashes(unit.clone()).await?;
        match (request.run, unit) {
            (Some(run), Some(unit)) => {
                reports.retain(|report| report.run.0 == run);
                if reports.is_empty() {
                    return Err(Refusal::new(
                        Refusal::FAILED,
                        format!("there is no crash report of run {run} of `{unit}`"),
                    )
                    .try_this(format!("`loomctl crashes {unit}` lists those that there are")));
                }
            }
            (Some(_), None) | (None, _) => {
                reports.sort_by_key(|report| report.at);
                for report in &mut reports {
                    report.stacks.clear();
                    report.last_log_lines.clear();
                    report.open_files.clear();
                    report.children.clear();
                }
            }
        }
        Ok(CrashesView { version: VERSION, reports })
    }
}

/// The units that a unit's file names, by key of `[unit]`.
fn names(unit: &Unit) -> BTreeMap<String, Vec<UnitId>> {
    let all = [
        ("requires", unit.requires.clone()),
        ("wants", unit.wants.clone()),
        ("requisite", unit.requisite.clone()),
        ("binds_to", unit.binds_to.clone()),
        ("part_of", unit.part_of.clone()),
        ("upholds", unit.upholds.clone()),
        ("conflicts", unit.conflicts.clone()),
        ("after", unit.after.iter().map(|after| after.unit.clone()).collect()),
        ("before", unit.before.clone()),
        ("on_success", unit.on_success.clone()),
        ("on_failure", unit.on_failure.clone()),
        ("on_give_up", unit.on_give_up.clone()),
        ("members", unit.group.as_ref().map(|group| group.members.clone()).unwrap_or_default()),
    ];
    all.into_iter().filter(|(_, units)| !units.is_empty()).map(|(key, units)| (key.to_owned(), units)).collect()
}
