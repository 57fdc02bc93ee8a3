//! ties: what a unit's start, stop and end mean for others.
//!
//! Job: pulling in, taking along, conflicts, upholding, handlers. May touch: the fleet above it.
//! Keeps: two units in conflict are never asked up together; no handler starts a unit whose end it follows from.

use super::graph::{likes_up, needs_up};
use super::{Effect, Fleet, Job, JobOutcome};
use crate::ids::UnitId;
use crate::lifecycle::{self, State, Why};
use std::collections::BTreeSet;

/// Handlers that may follow from one another, at most.
const CAUSES_MAX: usize = 8;

/// What a handler follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Success,
    Failure,
    GivingUp,
}

impl Fleet {
    /// Starts what a unit needs and likes up, and what those do, as far as it is down.
    pub(super) fn pull_in(&mut self, root: &UnitId) {
        let mut taken = self.needed_up(root);
        let mut seen = BTreeSet::from([root.clone()]);
        let mut open = vec![root.clone()];
        while let Some(by) = open.pop() {
            let form = self.entry(&by).form();
            let mut asked: Vec<_> = needs_up(form).chain(likes_up(form)).cloned().collect();
            // Of two that exclude one another, the one that is up stays.
            asked.sort_by_key(|id| !taken.contains(id) && !self.is_up_to_stay(id));
            for id in asked {
                let Some(entry) = self.units.get(&id) else { continue };
                let can_start = !entry.not_found && !id.is_template() && self.graph.cycle(&id).is_none();
                if !can_start || seen.contains(&id) {
                    continue;
                }
                if let Some(because) = entry.life.refuses_start(entry.form(), self.now)
                    && !self.is_up_to_stay(&id)
                {
                    seen.insert(id.clone());
                    self.out.push(Effect::Withheld { unit: id, because });
                    continue;
                }
                if let Some((one, other)) = self.first_conflict(&id, &taken) {
                    let because = format!("it is only wanted by `{by}`, and `{one}` conflicts with `{other}`");
                    seen.insert(id.clone());
                    self.out.push(Effect::Withheld { unit: id, because });
                    continue;
                }
                taken.extend(self.needed_up(&id));
                seen.insert(id.clone());
                if self.is_up_to_stay(&id) {
                    continue;
                }
                self.make_way(&id);
                self.entry_mut(&id).pulled_in_by = Some(by.clone());
                self.ask_start(&id, None, format!("dependency {by}"));
                open.push(id);
            }
        }
    }

    /// Up, on its way up, or left to its back-off.
    fn is_up_to_stay(&self, id: &UnitId) -> bool {
        self.units.get(id).is_some_and(|entry| match &entry.job {
            Some(job) => job.brings_up() || matches!(job, Job::Reload(_)),
            None => !matches!(entry.life.state, State::Down { .. }),
        })
    }

    /// A unit and all that its start cannot do without.
    fn needed_up(&self, root: &UnitId) -> BTreeSet<UnitId> {
        let mut found = BTreeSet::from([root.clone()]);
        let mut open = vec![root.clone()];
        while let Some(id) = open.pop() {
            let Some(entry) = self.units.get(&id) else { continue };
            for need in needs_up(entry.form()) {
                if found.insert(need.clone()) {
                    open.push(need.clone());
                }
            }
        }
        found
    }

    /// The first of what this start needs that conflicts with the rest of it, or with what is `taken`.
    fn first_conflict(&self, id: &UnitId, taken: &BTreeSet<UnitId>) -> Option<(UnitId, UnitId)> {
        let needed = self.needed_up(id);
        needed.iter().find_map(|one| {
            let other = self.graph.conflicts(one).find(|other| needed.contains(*other) || taken.contains(*other))?;
            Some((one.clone(), other.clone()))
        })
    }

    /// Why a start cannot be, whatever is up: what it needs excludes one another.
    pub(super) fn clash(&self, id: &UnitId) -> Option<JobOutcome> {
        let (one, other) = self.first_conflict(id, &BTreeSet::new())?;
        Some(JobOutcome::Failed {
            error: format!("unit `{id}` did not start: its start needs `{one}` and `{other}`, which conflict"),
            cause: None,
            hint: Some("take one of them out of `requires`, `binds_to` or `conflicts`".to_owned()),
        })
    }

    /// Stops what conflicts with a unit that is to start, and what goes down with that.
    pub(super) fn make_way(&mut self, id: &UnitId) {
        let others: Vec<_> = self.graph.conflicts(id).cloned().collect();
        for other in others {
            if self.units.get(&other).is_some_and(|other| !other.is_idle() && !other.is_asked_down()) {
                self.take_along(&other, "was stopped");
                let text = format!("it conflicts with `{id}`, which was started");
                self.ask_stop(&other, None, Why::Dependency { failed: false, text }, false);
            }
        }
    }

    /// Stops what cannot be up without a unit, and what is part of it.
    pub(super) fn take_along(&mut self, id: &UnitId, what_happened: &str) {
        for (unit, text) in self.graph.goes_along(id, what_happened) {
            self.stop_along(&unit, Why::Dependency { failed: false, text });
        }
    }

    pub(super) fn stop_along(&mut self, id: &UnitId, why: Why) {
        let something_to_stop = self.units.get(id).is_some_and(|entry| !entry.is_idle());
        if something_to_stop {
            self.ask_stop(id, None, why, false);
        }
    }

    /// Units that are up for this target's sake only.
    pub(super) fn pulled_in_by(&self, target: &UnitId) -> BTreeSet<UnitId> {
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

    /// A unit failed for good: what cannot be up without it cannot go on.
    pub(super) fn stop_dependents(&mut self, failed: &UnitId) {
        for id in self.graph.dependents(failed) {
            let Some(entry) = self.units.get_mut(&id) else { continue };
            if let Some(Job::Start(start) | Job::Restart(_, start)) = &mut entry.job {
                start.met.remove(failed);
            }
            // A start that waits finds out by itself.
            let waits = entry.life.state.is_at_rest() && entry.is_asked_up();
            if entry.is_idle() || waits {
                continue;
            }
            let (text, outcome) = self.broken(&id, &super::waits::Broken::Need(failed.clone()));
            if let Some(Job::Start(start) | Job::Restart(_, start)) = &mut self.entry_mut(&id).job {
                let mut waiters = std::mem::take(&mut start.waiters);
                waiters.append(&mut start.reloads);
                self.answer(waiters, outcome);
            }
            self.ask_stop(&id, None, Why::Dependency { failed: true, text }, false);
            self.take_along(&id, "was stopped");
        }
    }

    /// A unit ended, and is not started again: what is bound to it ends too.
    pub(super) fn stop_bound(&mut self, ended: &UnitId) {
        let bound: Vec<_> = self.graph.bound_by(ended).cloned().collect();
        for id in bound {
            let Some(entry) = self.units.get(&id) else { continue };
            let waits = entry.life.state.is_at_rest() && entry.is_asked_up();
            if entry.is_idle() || waits || entry.is_asked_down() {
                continue;
            }
            self.take_along(&id, "was stopped");
            let text = format!("it is bound to `{ended}`, which ended");
            self.ask_stop(&id, None, Why::Dependency { failed: false, text }, false);
        }
    }

    /// A new loomd ends what the one before would have ended next: what runs without what it cannot be up without.
    pub(super) fn end_what_has_no_ground(&mut self) {
        let at_rest =
            |entry: &super::Entry| entry.is_idle().then_some(entry.life.state == (State::Down { failed: true }));
        let down: Vec<_> =
            self.units.iter().filter_map(|(id, entry)| at_rest(entry).map(|failed| (id.clone(), failed))).collect();
        for (id, failed) in down {
            if failed {
                self.stop_dependents(&id);
            } else {
                self.stop_bound(&id);
            }
        }
    }

    /// Starts what is down and upheld by a unit that is up; whether something was started.
    ///
    /// The first try comes after the upheld unit's own shortest wait, and each further one as after so many failures, until
    /// a run was up for its `restart.reset_after`. One that conflicts with a unit which is not down waits for its end.
    pub(super) fn uphold(&mut self) -> bool {
        let is_up = |by: &&UnitId| self.units.get(*by).is_some_and(|by| by.life.state.is_up() && !by.is_asked_down());
        let (mut down, mut at_ease) = (vec![], vec![]);
        for (id, by) in self.graph.upheld() {
            match by.iter().find(is_up).filter(|_| self.may_uphold(id)) {
                Some(by) => down.push((id.clone(), by.clone())),
                None if self.units.get(id).is_some_and(|entry| entry.upholding.at.is_some()) => {
                    at_ease.push(id.clone())
                }
                None => {}
            }
        }
        for id in at_ease {
            self.entry_mut(&id).upholding.at = None;
        }
        let mut is_any_started = false;
        for (id, by) in down {
            let now = self.now;
            let entry = self.entry_mut(&id);
            let at = match entry.upholding.at {
                Some(at) => at,
                None => {
                    let restart = &entry.form().restart;
                    if entry.up_at.is_some_and(|up_at| now.mono >= up_at + restart.reset_after) {
                        entry.upholding.tries = 0;
                    }
                    let restart = &entry.form().restart;
                    let chance = lifecycle::own_chance(now.chance, &id, entry.life.run);
                    let wait = lifecycle::wait(restart, entry.upholding.tries.saturating_add(1), chance);
                    entry.upholding.at = Some(now.mono + wait);
                    now.mono + wait
                }
            };
            if at <= now.mono {
                entry.upholding.at = None;
                entry.upholding.tries = entry.upholding.tries.saturating_add(1);
                is_any_started |= self.start_unasked(&id, format!("upheld by {by}"), vec![]);
            }
        }
        is_any_started
    }

    fn may_uphold(&self, id: &UnitId) -> bool {
        !self.stopping
            && self.units.get(id).is_some_and(|entry| entry.is_idle() && !entry.not_found)
            && self.refusal(id).is_none()
            && !self.graph.conflicts(id).any(|other| self.units.get(other).is_some_and(|other| !other.is_idle()))
    }

    /// Starts what is to follow a run.
    pub(super) fn trigger(&mut self, id: &UnitId, cause: Cause) {
        let now = self.now.mono;
        let entry = self.entry(id);
        let form = entry.form();
        let (handlers, key, what) = match cause {
            Cause::Success => (&form.on_success, "on_success", "success"),
            Cause::Failure => (&form.on_failure, "on_failure", "failure"),
            Cause::GivingUp => (&form.on_give_up, "on_give_up", "giving up"),
        };
        if handlers.is_empty() || self.stopping {
            return;
        }
        // What was up for long did not fail because of what started it.
        let is_old = entry.up_at.is_some_and(|at| now >= at + form.restart.reset_after);
        let mut causes = if is_old { vec![] } else { entry.caused_by.clone() };
        causes.push(id.clone());
        for handler in handlers.clone() {
            if causes.contains(&handler) || causes.len() > CAUSES_MAX {
                let way: Vec<_> = causes.iter().chain([&handler]).map(ToString::to_string).collect();
                let because = format!("`{key}` of `{id}` would go round in circles: {}", way.join(" → "));
                self.out.push(Effect::Withheld { unit: handler, because });
            } else {
                self.start_unasked(&handler, format!("{what} of {id}"), causes.clone());
            }
        }
    }

    /// Starts a unit that no person asked for; whether it could be.
    pub(super) fn start_unasked(&mut self, id: &UnitId, by: String, causes: Vec<UnitId>) -> bool {
        let because = match self.units.get(id).filter(|entry| !entry.not_found) {
            None => Some(format!("there is no such unit, for the {by}")),
            Some(_) => match self.refusal(id).or_else(|| self.clash(id)) {
                Some(JobOutcome::Failed { error, .. }) => Some(error),
                Some(JobOutcome::Done | JobOutcome::Replaced | JobOutcome::NoSuchUnit) | None => None,
            },
        };
        if let Some(because) = because {
            self.out.push(Effect::Withheld { unit: id.clone(), because });
            return false;
        }
        let entry = self.entry_mut(id);
        if entry.life.state.is_at_rest() && !entry.is_asked_up() {
            entry.caused_by = causes;
        }
        self.make_way(id);
        self.ask_start(id, None, by);
        self.pull_in(id);
        true
    }

    /// How a unit is tied to one that it needs, in words.
    pub(super) fn tie(&self, id: &UnitId, need: &UnitId) -> &'static str {
        let Some(entry) = self.units.get(id) else { return "it requires" };
        let form = entry.form();
        if form.binds_to.contains(need) {
            "it is bound to"
        } else if form.requisite.contains(need) {
            "it starts only where it finds"
        } else {
            "it requires"
        }
    }
}
