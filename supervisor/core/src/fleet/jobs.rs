//! jobs: what is asked of units, and in which order it is done.
//!
//! Job: the tables in the fleet's own header. May touch: the fleet above it.
//! Keeps: a unit has at most one job; every job id is answered once.

use super::{Effect, Entry, Fleet, Job, JobId, JobOutcome, Start, Stop, Verb};
use crate::ids::{Kind, RunId, UnitId};
use crate::lifecycle::{self, RunResult, State, Why};
use crate::unit::{ReadyKind, Unit};
use std::collections::{BTreeMap, BTreeSet};

/// Whether a start may go ahead.
enum Readiness {
    Now,
    Wait(UnitId),
    /// A required unit is not up and not on its way.
    Broken(UnitId),
}

impl Fleet {
    pub(super) fn request(&mut self, job: JobId, id: &UnitId, verb: Verb, by: String) {
        let Some(entry) = self.units.get(id).filter(|entry| entry.is_listed()) else {
            return self.answer(vec![job], JobOutcome::NoSuchUnit);
        };
        match verb {
            Verb::Stop => return self.stop(id, job),
            Verb::Start | Verb::Restart if entry.not_found => return self.answer(vec![job], JobOutcome::NoSuchUnit),
            Verb::Start | Verb::Restart => {}
            Verb::Reload
            | Verb::TryRestart
            | Verb::VerifyActive
            | Verb::Kill { .. }
            | Verb::ResetFailed
            | Verb::Freeze
            | Verb::Thaw => return self.answer(vec![job], JobOutcome::Replaced),
        }
        if let Some(outcome) = self.refusal(id) {
            return self.answer(vec![job], outcome);
        }
        self.entry_mut(id).pulled_in_by = None;
        if verb == Verb::Restart {
            for dependent in self.graph.dependents(id) {
                self.restart_along(&dependent, id);
            }
            self.ask_restart(id, Some(job), by);
        } else {
            self.ask_start(id, Some(job), by);
        }
        self.pull_in(id);
    }

    /// Wants one unit up.
    pub(super) fn ask_start(&mut self, id: &UnitId, waiter: Option<JobId>, by: String) {
        let entry = self.entry_mut(id);
        entry.wanted = true;
        let start = Start {
            waiters: waiter.into_iter().collect(),
            by,
            begun: entry.life.state.is_activating(),
            met: BTreeSet::new(),
        };
        entry.job = Some(match entry.job.take() {
            None => Job::Start(start),
            Some(Job::Start(before)) => Job::Start(before.joined_by(start)),
            Some(Job::Stop(stop)) => Job::Restart(stop, Start { begun: false, ..start }),
            Some(Job::Restart(stop, before)) => Job::Restart(stop, before.joined_by(start)),
        });
    }

    fn ask_restart(&mut self, id: &UnitId, waiter: Option<JobId>, by: String) {
        let entry = self.entry_mut(id);
        if entry.life.state.is_at_rest() && !entry.job.as_ref().is_some_and(Job::brings_down) {
            return self.ask_start(id, waiter, by);
        }
        entry.wanted = true;
        let start = Start { waiters: waiter.into_iter().collect(), by, begun: false, met: BTreeSet::new() };
        let down = || Stop { waiters: vec![], why: Why::Asked, told: false };
        entry.job = Some(match entry.job.take() {
            None => Job::Restart(down(), start),
            // A target that waits for its members has nothing to take down.
            Some(Job::Start(before)) if entry.life.state == State::Reached => Job::Start(before.joined_by(start)),
            Some(Job::Start(before)) => Job::Restart(down(), Start { begun: false, ..before.joined_by(start) }),
            Some(Job::Stop(stop)) => Job::Restart(stop, start),
            Some(Job::Restart(stop, before)) => Job::Restart(stop, before.joined_by(start)),
        });
    }

    /// A unit that requires a restarted one goes down before it and comes up after it.
    fn restart_along(&mut self, id: &UnitId, root: &UnitId) {
        let Some(entry) = self.units.get(id) else { return };
        let is_up_or_coming = entry.life.state.is_up() || entry.life.state.is_activating();
        let is_going_down = entry.job.as_ref().is_some_and(Job::brings_down);
        if is_up_or_coming && !is_going_down && !entry.not_found {
            self.ask_restart(id, None, format!("dependency {root}"));
        }
    }

    /// Starts what a unit requires and wants, and what those require and want, as far as it is down.
    pub(super) fn pull_in(&mut self, root: &UnitId) {
        let mut seen = BTreeSet::from([root.clone()]);
        let mut open = vec![root.clone()];
        while let Some(by) = open.pop() {
            let form = self.entry(&by).form();
            let asked: Vec<_> = form.requires.iter().chain(&form.wants).cloned().collect();
            for id in asked {
                let Some(entry) = self.units.get(&id) else { continue };
                let is_down = match &entry.job {
                    Some(job) => !job.brings_up(),
                    None => matches!(entry.life.state, State::Down { .. }),
                };
                let can_start = !entry.not_found && !id.is_template() && self.graph.cycle(&id).is_none();
                if !(is_down && can_start && seen.insert(id.clone())) {
                    continue;
                }
                self.entry_mut(&id).pulled_in_by = Some(by.clone());
                self.ask_start(&id, None, format!("dependency {by}"));
                open.push(id);
            }
        }
    }

    /// Stops a unit, what requires it, and, for a target, what it pulled in.
    fn stop(&mut self, id: &UnitId, job: JobId) {
        let pulled_in = if id.kind() == Kind::Target { self.pulled_in_by(id) } else { BTreeSet::new() };
        for dependent in self.graph.dependents(id) {
            let text = format!("it requires `{id}`, which was stopped");
            self.stop_along(&dependent, Why::Dependency { failed: false, text });
        }
        for unit in pulled_in {
            self.stop_along(&unit, Why::Asked);
        }
        self.ask_stop(id, Some(job), Why::Asked);
    }

    fn stop_along(&mut self, id: &UnitId, why: Why) {
        let something_to_stop = self.units.get(id).is_some_and(|entry| !entry.is_idle());
        if something_to_stop {
            self.ask_stop(id, None, why);
        }
    }

    /// Units that are up for this target's sake only.
    fn pulled_in_by(&self, target: &UnitId) -> BTreeSet<UnitId> {
        let mut along = BTreeSet::from([target.clone()]);
        loop {
            let more: Vec<_> = self
                .units
                .iter()
                .filter(|(id, entry)| !along.contains(*id) && !entry.is_idle())
                .filter(|(_, entry)| entry.pulled_in_by.as_ref().is_some_and(|by| along.contains(by)))
                .filter(|(id, _)| {
                    let mut others = self.graph.asked_by(id).filter(|by| !along.contains(*by));
                    !others.any(|by| self.units.get(by).is_some_and(|by| !by.is_idle()))
                })
                .map(|(id, _)| id.clone())
                .collect();
            if more.is_empty() {
                along.remove(target);
                return along;
            }
            along.extend(more);
        }
    }

    /// Wants one unit down.
    pub(super) fn ask_stop(&mut self, id: &UnitId, waiter: Option<JobId>, why: Why) {
        let keeps_wish = self.stopping;
        let entry = self.entry_mut(id);
        if !keeps_wish {
            entry.wanted = false;
            entry.pulled_in_by = None;
        }
        let stop = Stop { waiters: waiter.into_iter().collect(), why, told: false };
        let (stop, replaced) = match entry.job.take() {
            None => (stop, vec![]),
            Some(Job::Start(start)) => (stop, start.waiters),
            Some(Job::Stop(before)) => (before.joined_by(stop), vec![]),
            Some(Job::Restart(before, start)) => (before.joined_by(stop), start.waiters),
        };
        entry.job = Some(Job::Stop(stop));
        self.answer(replaced, JobOutcome::Replaced);
    }

    /// A unit failed for good: what requires it cannot go on.
    pub(super) fn stop_dependents(&mut self, failed: &UnitId) {
        for id in self.graph.dependents(failed) {
            let Some(entry) = self.units.get_mut(&id) else { continue };
            if let Some(Job::Start(start) | Job::Restart(_, start)) = &mut entry.job {
                start.met.remove(failed);
            }
            // A start that waits finds out by itself.
            let waits = entry.life.state.is_at_rest() && entry.job.as_ref().is_some_and(Job::brings_up);
            if entry.is_idle() || waits {
                continue;
            }
            let (text, outcome) = self.broken(&id, failed);
            if let Some(Job::Start(start) | Job::Restart(_, start)) = &mut self.entry_mut(&id).job {
                let waiters = std::mem::take(&mut start.waiters);
                self.answer(waiters, outcome);
            }
            self.ask_stop(&id, None, Why::Dependency { failed: true, text });
        }
    }

    pub(super) fn shutdown(&mut self) {
        self.stopping = true;
        let ids: Vec<_> =
            self.units.values().filter(|entry| !entry.is_idle()).map(|entry| entry.unit.id.clone()).collect();
        for id in ids {
            self.ask_stop(&id, None, Why::Asked);
        }
    }

    /// Goes on with every job as far as it gets now.
    pub(super) fn advance(&mut self) {
        loop {
            let open: Vec<_> =
                self.units.values().filter(|entry| entry.may_move()).map(|entry| entry.unit.id.clone()).collect();
            let mut moved = false;
            for id in open {
                moved |= match &self.entry(&id).job {
                    None => self.advance_restart(&id),
                    Some(Job::Start(_)) => self.advance_start(&id),
                    Some(Job::Stop(_) | Job::Restart(..)) => self.advance_stop(&id),
                };
            }
            if !moved {
                return;
            }
        }
    }

    /// A waiting restart that is due.
    fn advance_restart(&mut self, id: &UnitId) -> bool {
        let is_due = self.entry(id).life.state.rests_until().is_some_and(|at| at <= self.now.mono);
        if !is_due || self.stopping {
            return false;
        }
        let requires = self.entry(id).form().requires.clone();
        let coming = self.graph.after(id).find(|first| requires.contains(first) && self.is_coming(first)).cloned();
        self.set_waits_for(id, coming.clone());
        if coming.is_some() {
            return false;
        }
        self.apply(id, lifecycle::Event::Again);
        true
    }

    fn advance_start(&mut self, id: &UnitId) -> bool {
        let state = &self.entry(id).life.state;
        if state.is_activating() {
            let joins = matches!(&self.entry(id).job, Some(Job::Start(start)) if !start.begun);
            if joins && let Some(Job::Start(start)) = &mut self.entry_mut(id).job {
                start.begun = true;
            }
            return false;
        }
        if state.is_ending() {
            return false;
        }
        if matches!(state, State::Running { .. } | State::Remaining { .. }) {
            self.start_done(id);
            return true;
        }
        let readiness = self.readiness(id);
        let reached = self.entry(id).life.state == State::Reached;
        let waits_for = match &readiness {
            Readiness::Wait(other) => Some(other.clone()),
            Readiness::Now | Readiness::Broken(_) => None,
        };
        self.set_waits_for(id, waits_for);
        match readiness {
            Readiness::Wait(_) => return false,
            Readiness::Broken(dependency) if reached => self.stop_dependents(&dependency),
            Readiness::Broken(dependency) => {
                let (text, outcome) = self.broken(id, &dependency);
                let waiters = self.take_waiters(id);
                self.apply(id, lifecycle::Event::Refuse { text });
                self.withdraw(id);
                self.answer(waiters, outcome);
                self.stop_dependents(id);
            }
            Readiness::Now if reached => self.start_done(id),
            Readiness::Now => {
                let mut by = String::new();
                if let Some(Job::Start(start)) = &mut self.entry_mut(id).job {
                    start.begun = true;
                    by = start.by.clone();
                }
                self.apply(id, lifecycle::Event::Start { by });
            }
        }
        true
    }

    fn advance_stop(&mut self, id: &UnitId) -> bool {
        self.set_waits_for(id, None);
        let entry = self.entry(id);
        let is_down = matches!(entry.life.state, State::Down { .. });
        let Some(Job::Stop(stop) | Job::Restart(stop, _)) = &entry.job else { return false };
        if !is_down {
            let must_go_first = |later: &&UnitId| {
                self.units.get(*later).is_some_and(|entry| {
                    !entry.life.state.is_at_rest() && entry.job.as_ref().is_some_and(Job::brings_down)
                })
            };
            if stop.told || self.graph.before(id).any(|later| must_go_first(&later)) {
                return false;
            }
            let why = stop.why.clone();
            if let Some(Job::Stop(stop) | Job::Restart(stop, _)) = &mut self.entry_mut(id).job {
                stop.told = true;
            }
            self.apply(id, lifecycle::Event::Stop { why });
        }
        if matches!(self.entry(id).life.state, State::Down { .. }) {
            self.run_over(id);
        }
        true
    }

    fn readiness(&self, id: &UnitId) -> Readiness {
        let entry = self.entry(id);
        let form = entry.form();
        let met = match &entry.job {
            Some(Job::Start(start)) => &start.met,
            Some(Job::Stop(_) | Job::Restart(..)) | None => &BTreeSet::new(),
        };
        for first in self.graph.after(id) {
            let required = form.requires.contains(first) && !met.contains(first);
            let starting = self.units.get(first).is_some_and(|first| {
                first.job.as_ref().is_some_and(Job::brings_up) || first.life.state.is_activating()
            });
            if starting || (required && self.is_coming(first)) {
                return Readiness::Wait(first.clone());
            }
        }
        for dependency in &form.requires {
            let is_up = self.units.get(dependency).is_some_and(|entry| entry.life.state.is_up());
            if !is_up && !met.contains(dependency) {
                return Readiness::Broken(dependency.clone());
            }
        }
        Readiness::Now
    }

    /// Not up, and not down for good.
    fn is_coming(&self, id: &UnitId) -> bool {
        self.units.get(id).is_some_and(|entry| {
            let state = &entry.life.state;
            let has_start = entry.job.as_ref().is_some_and(Job::brings_up);
            has_start || state.is_activating() || state.is_ending() || matches!(state, State::Resting { .. })
        })
    }

    /// A unit is up, or, for a oneshot, has done its work.
    pub(super) fn came_up(&mut self, id: &UnitId) {
        for entry in self.units.values_mut() {
            let requires = entry.form().requires.contains(id);
            if let Some(Job::Start(start) | Job::Restart(_, start)) = &mut entry.job
                && requires
            {
                start.met.insert(id.clone());
            }
        }
        match &self.entry(id).job {
            Some(Job::Start(start)) if start.begun => self.start_done(id),
            Some(Job::Start(_) | Job::Stop(_) | Job::Restart(..)) | None => {}
        }
    }

    /// A repeated start does not ask again for what required oneshots have done already.
    pub(super) fn meet_accomplished(&mut self, id: &UnitId) {
        let has_done_its_work = |dependency: &&UnitId| {
            self.units.get(*dependency).is_some_and(|entry| {
                let life = &entry.life;
                let is_oneshot = entry.unit.ready.kind == ReadyKind::Oneshot && life.run > RunId(0);
                is_oneshot && life.result == RunResult::Success && life.state == (State::Down { failed: false })
            })
        };
        let met: BTreeSet<_> = self.entry(id).form().requires.iter().filter(has_done_its_work).cloned().collect();
        if let Some(Job::Start(start) | Job::Restart(_, start)) = &mut self.entry_mut(id).job {
            start.met.extend(met);
        }
    }

    fn start_done(&mut self, id: &UnitId) {
        let waiters = self.take_waiters(id);
        self.set_waits_for(id, None);
        self.answer(waiters, JobOutcome::Done);
    }

    /// A unit has no process any more, or never had one to stop.
    pub(super) fn run_over(&mut self, id: &UnitId) {
        let entry = self.entry_mut(id);
        let rests = matches!(entry.life.state, State::Resting { .. });
        match entry.job.take() {
            Some(Job::Start(start)) if start.begun => {
                let outcome = self.not_started(id);
                self.answer(start.waiters, outcome);
            }
            Some(Job::Start(start)) => entry.job = Some(Job::Start(start)),
            Some(Job::Stop(stop)) => {
                if rests {
                    self.apply(id, lifecycle::Event::Stop { why: stop.why });
                }
                self.withdraw(id);
                self.answer(stop.waiters, JobOutcome::Done);
            }
            Some(Job::Restart(stop, start)) => {
                entry.job = Some(Job::Start(Start { begun: false, ..start }));
                self.answer(stop.waiters, JobOutcome::Done);
            }
            None => {}
        }
        if self.entry(id).not_found {
            let waiters = self.take_waiters(id);
            if rests {
                self.apply(id, lifecycle::Event::Stop { why: Why::Asked });
            }
            self.answer(waiters, JobOutcome::NoSuchUnit);
        }
        if self.entry(id).is_idle() {
            self.withdraw(id);
            if self.entry(id).life.state == (State::Down { failed: true }) {
                self.stop_dependents(id);
            }
        }
    }

    /// Nobody wants it up any more; but what ran when loomd was told to stop comes back with the next one.
    fn withdraw(&mut self, id: &UnitId) {
        let keeps_wish = self.stopping;
        let entry = self.entry_mut(id);
        if !keeps_wish {
            entry.wanted = false;
            entry.pulled_in_by = None;
        }
    }

    fn take_waiters(&mut self, id: &UnitId) -> Vec<JobId> {
        match self.entry_mut(id).job.take() {
            Some(Job::Start(start)) => start.waiters,
            Some(Job::Stop(stop)) => stop.waiters,
            Some(Job::Restart(stop, start)) => stop.waiters.into_iter().chain(start.waiters).collect(),
            None => vec![],
        }
    }

    /// Answers jobs, once what they changed is stored.
    pub(super) fn answer(&mut self, jobs: Vec<JobId>, outcome: JobOutcome) {
        if jobs.is_empty() {
            return;
        }
        self.persist_touched();
        self.out.extend(jobs.into_iter().map(|job| Effect::JobDone { job, outcome: outcome.clone() }));
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
    /// Something but news of its own process may get it further.
    fn may_move(&self) -> bool {
        let state = &self.life.state;
        match &self.job {
            None => matches!(state, State::Resting { .. }),
            Some(Job::Start(start)) => !state.is_ending() && (!start.begun || !state.is_activating()),
            Some(Job::Stop(stop) | Job::Restart(stop, _)) => !stop.told || state.is_at_rest(),
        }
    }

    /// Down, and nothing is to be done.
    fn is_idle(&self) -> bool {
        self.job.is_none() && matches!(self.life.state, State::Down { .. })
    }
}

impl Start {
    fn joined_by(mut self, later: Start) -> Self {
        self.waiters.extend(later.waiters);
        self
    }
}

impl Stop {
    fn joined_by(mut self, later: Stop) -> Self {
        self.waiters.extend(later.waiters);
        if !self.why.outranks(&later.why) {
            (self.why, self.told) = (later.why, false);
        }
        self
    }
}
