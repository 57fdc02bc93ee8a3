//! changes: what a reload of unit files means for units that run.
//!
//! Job: swap settings, name what differs, say what an apply restarts. May touch: the fleet above it.
//! Keeps: no running process is touched; runs, counters, waits and back-offs survive.

use super::{Entry, Fleet, JobOutcome};
use crate::ids::UnitId;
use crate::lifecycle::{self, Why};
use crate::unit::{Unit, changed_keys, needs_restart, take_at_once};
use std::collections::{BTreeMap, BTreeSet};

/// What a reload to these unit files would change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub added: Vec<UnitId>,
    /// Their files are gone. Those that run stay until they are stopped.
    pub removed: Vec<UnitId>,
    /// With the keys whose values differ from what is loaded.
    pub changed: Vec<(UnitId, Vec<String>)>,
    /// What an apply restarts, in the order of their start: units that run with other settings than their files say, and
    /// what is `part_of` them and runs.
    pub restarts: Vec<UnitId>,
}

impl Fleet {
    /// What [`super::Event::Reloaded`] with these units would change; changes nothing.
    pub fn changes(&self, units: &BTreeMap<UnitId, Unit>) -> Changes {
        let loaded = |id: &UnitId| self.units.get(id).filter(|entry| !entry.not_found);
        let mut changes = Changes {
            removed: self
                .units
                .iter()
                .filter(|(id, entry)| !entry.not_found && !units.contains_key(*id))
                .map(|(id, _)| id.clone())
                .collect(),
            ..Changes::default()
        };
        let mut to_restart = BTreeSet::new();
        for (id, unit) in units {
            let Some(entry) = loaded(id) else {
                changes.added.push(id.clone());
                continue;
            };
            if entry.next.is_none() && entry.unit == *unit {
                continue;
            }
            let keys = changed_keys(entry.form(), unit);
            if !keys.is_empty() {
                changes.changed.push((id.clone(), keys));
            }
            if entry.life.state.is_live() && !needs_restart(&entry.unit, unit).is_empty() {
                to_restart.insert(id.clone());
            }
        }
        let graph = super::Graph::new(units.values());
        let mut open: Vec<_> = to_restart.iter().cloned().collect();
        while let Some(id) = open.pop() {
            for part in graph.parts(&id) {
                let runs = loaded(part).is_some_and(|entry| entry.life.state.is_live() || entry.life.state.is_up());
                if runs && to_restart.insert(part.clone()) {
                    open.push(part.clone());
                }
            }
        }
        changes.restarts = graph.in_order(&to_restart);
        changes
    }

    /// What an apply restarts, after the reload: see [`Changes::restarts`].
    pub fn to_apply(&self) -> Vec<UnitId> {
        let now: BTreeMap<_, _> = self
            .units
            .iter()
            .filter(|(_, entry)| !entry.not_found)
            .map(|(id, entry)| (id.clone(), entry.form().clone()))
            .collect();
        self.changes(&now).restarts
    }

    pub(super) fn reloaded(&mut self, units: BTreeMap<UnitId, Unit>) {
        let gone: Vec<_> = self.units.keys().filter(|id| !units.contains_key(*id)).cloned().collect();
        for (_, unit) in units {
            self.read_anew(unit);
        }
        for id in gone {
            let entry = self.entry_mut(&id);
            entry.not_found = true;
            if entry.life.state.is_at_rest() {
                let waiters = self.take_waiters(&id);
                self.set_waits_for(&id, None);
                self.apply(&id, lifecycle::Event::Stop { why: Why::Asked });
                self.withdraw(&id);
                self.answer(waiters, JobOutcome::NoSuchUnit);
            }
        }
        self.redraw();
    }

    pub(super) fn read_anew(&mut self, unit: Unit) {
        match self.units.get_mut(&unit.id) {
            Some(entry) => entry.read_anew(unit),
            None => self.insert(unit, false),
        }
    }

    pub(super) fn redraw(&mut self) {
        let listed = self.units.values().filter(|entry| entry.is_listed());
        self.graph = super::Graph::new(listed.map(Entry::form));
    }
}

impl Entry {
    /// Takes settings as read anew. A live process keeps what it was given; the rest counts at once.
    fn read_anew(&mut self, unit: Unit) {
        self.not_found = false;
        let is_kept = self.life.state.is_live() && unit != self.unit && !needs_restart(&self.unit, &unit).is_empty();
        if is_kept {
            take_at_once(&mut self.unit, &unit);
            self.next = Some(Box::new(unit));
        } else {
            self.unit = unit;
            self.next = None;
        }
    }
}
