//! waits: what a start waits for, and for how long.
//!
//! Job: the order of starts, and the deadlines of units and jobs. May touch: the fleet above it.
//! Keeps: whatever waits for a moment names it in [`Entry::deadline`]; whatever waits for a unit says which and until what.

use super::{Awaited, Entry, Fleet, Job, JobOutcome};
use crate::ids::{Millis, UnitId};
use crate::lifecycle::{RunResult, State, span};
use crate::unit::{Unit, Until};

use super::graph::needs;
use std::collections::{BTreeMap, BTreeSet};

/// Whether a start may go ahead.
pub(super) enum Readiness {
    Now,
    Wait(UnitId, Awaited),
    /// What it needs is not there and not on its way.
    Broken(Broken),
}

/// Why a start cannot go ahead.
pub(super) enum Broken {
    /// A unit that it cannot be up without.
    Need(UnitId),
    /// It waited for this one's success, and it ended otherwise.
    NoSuccess(UnitId),
}

impl Fleet {
    pub(super) fn readiness(&self, id: &UnitId) -> Readiness {
        let entry = self.entry(id);
        for other in self.graph.conflicts(id) {
            if self.units.get(other).is_some_and(|other| !matches!(other.life.state, State::Down { .. })) {
                return Readiness::Wait(other.clone(), Awaited::Down);
            }
        }
        let (nothing_met, nothing_ended) = (BTreeSet::new(), BTreeMap::new());
        let (met, ended) = match &entry.job {
            Some(Job::Start(start)) => (&start.met, &start.ended),
            Some(Job::Stop(_) | Job::Restart(..) | Job::Reload(_)) | None => (&nothing_met, &nothing_ended),
        };
        let form = entry.form();
        for (first, until) in self.graph.after(id) {
            let Some(other) = self.units.get(first) else { continue };
            let needed = needs(form).any(|need| need == first) && !met.contains(first);
            let must_wait = match until {
                Until::Started => {
                    let starts = other.is_asked_up() && !other.is_started();
                    starts
                        || (other.life.state.is_activating() && !other.is_started())
                        || needed && { self.is_coming(first) && !other.is_started() }
                }
                Until::Ready => other.is_on_its_way_up() || (needed && self.is_coming(first)),
                Until::Healthy => {
                    let ails = other.life.state.is_up() && other.health() == Some(false);
                    other.is_on_its_way_up() || ails || (needed && self.is_coming(first))
                }
                Until::Exited => !ended.contains_key(first) && other.is_before_its_end(),
                Until::Succeeded => match ended.get(first) {
                    Some(RunResult::Success | RunResult::Condition) => false,
                    Some(_) if other.is_idle() => return Readiness::Broken(Broken::NoSuccess(first.clone())),
                    Some(_) => true,
                    None => other.is_before_its_end() || other.life.state.rests_until().is_some(),
                },
            };
            // A group comes up in its order, also where an earlier member still waits for the group's restart.
            let is_held = other.held_until.is_some() && self.graph.is_earlier_member(first, id);
            if must_wait || is_held {
                return Readiness::Wait(first.clone(), Awaited::Up(until));
            }
        }
        for need in needs(form) {
            let Some(other) = self.units.get(need) else { return Readiness::Broken(Broken::Need(need.clone())) };
            if self.is_there(form, id, need, other, met, ended) {
                continue;
            }
            let is_unordered = self.graph.until(id, need).is_none();
            if is_unordered && self.is_coming(need) {
                // Whether a requisite is up can be said once it is no longer on its way.
                if form.requisite.contains(need) {
                    return Readiness::Wait(need.clone(), Awaited::Up(Until::Ready));
                }
                continue;
            }
            return Readiness::Broken(Broken::Need(need.clone()));
        }
        Readiness::Now
    }

    /// Whether what a unit needs is as it needs it.
    fn is_there(
        &self,
        form: &Unit,
        id: &UnitId,
        need: &UnitId,
        other: &Entry,
        met: &BTreeSet<UnitId>,
        ended: &BTreeMap<UnitId, RunResult>,
    ) -> bool {
        if other.life.state.is_up() {
            return true;
        }
        // What it is bound to, and what had to be there before, must be up now.
        let lasting = form.binds_to.contains(need) || form.requisite.contains(need);
        match self.graph.until(id, need) {
            Some(Until::Started) => other.is_started() || (!lasting && met.contains(need)),
            Some(Until::Exited | Until::Succeeded) => ended.contains_key(need) || (!lasting && met.contains(need)),
            Some(Until::Ready | Until::Healthy) | None => !lasting && met.contains(need),
        }
    }

    /// What a due automatic restart waits for: what it needs and is ordered after, while that is on its way, and earlier
    /// members of its group that restart with it.
    pub(super) fn restart_waits_for(&self, id: &UnitId) -> Option<(UnitId, Awaited)> {
        let entry = self.entry(id);
        let first = self.graph.after(id).find(|(first, until)| {
            let comes_up = matches!(until, Until::Started | Until::Ready | Until::Healthy);
            let needed = comes_up && needs(entry.form()).any(|need| need == *first);
            let with_it = entry.held_until.is_some() && self.graph.is_earlier_member(first, id);
            (needed || with_it) && self.is_coming(first)
        });
        first.map(|(first, until)| (first.clone(), Awaited::Up(until)))
    }

    /// Not up, and not down for good.
    pub(super) fn is_coming(&self, id: &UnitId) -> bool {
        self.units.get(id).is_some_and(|entry| {
            let state = &entry.life.state;
            entry.is_asked_up() || state.is_activating() || state.is_ending() || state.rests_until().is_some()
        })
    }

    /// Fails the starts that have waited for others too long.
    pub(super) fn end_late_starts(&mut self) {
        let now = self.now.mono;
        let is_late = |entry: &&Entry| entry.start_deadline().is_some_and(|at| at <= now);
        let late: Vec<_> = self.units.values().filter(is_late).map(|entry| entry.unit.id.clone()).collect();
        for id in late {
            let entry = self.entry(&id);
            let Some((other, awaited)) = entry.waits_for.clone() else { continue };
            let limit = entry.form().job_timeout;
            let text = format!(
                "it waited until `{other}` is {}, longer than unit.job_timeout ({})",
                awaited.word(),
                span(limit)
            );
            let outcome = JobOutcome::Failed {
                error: format!("unit `{id}` did not start: {text}"),
                cause: self.units.get(&other).and_then(|other| other.life.last_error.clone()),
                hint: Some(format!("see `loomctl status {other}`; then `loomctl start {id}`")),
            };
            self.refuse_start(&id, text, outcome);
        }
    }

    /// The order has one more end to look back on.
    pub(super) fn note_end(&mut self, id: &UnitId) {
        let (result, is_skipped) = {
            let life = &self.entry(id).life;
            (life.result, life.result == RunResult::Condition && life.state == (State::Down { failed: false }))
        };
        for entry in self.units.values_mut() {
            let required = entry.form().requires.contains(id);
            if let Some(Job::Start(start) | Job::Restart(_, start)) = &mut entry.job {
                if self.graph.until(&entry.unit.id, id).is_some_and(|until| until >= Until::Exited) {
                    start.ended.insert(id.clone(), result);
                }
                if required && is_skipped {
                    start.met.insert(id.clone());
                }
            }
        }
    }
}

impl Entry {
    /// The next moment at which something is due of itself.
    pub(super) fn deadline(&self) -> Option<Millis> {
        let restart = self.life.state.rests_until().filter(|_| self.waits_for.is_none() && self.job.is_none());
        let restart = restart.map(|at| self.held_until.map_or(at, |held| held.max(at)));
        let held = self.held_until.filter(|_| self.waits_for.is_none());
        let held = held.filter(|_| matches!(&self.job, Some(Job::Start(start)) if !start.begun));
        [self.life_deadline(), restart, held, self.start_deadline(), self.upholding.at].into_iter().flatten().min()
    }

    /// The next moment at which its run's own clocks want to be told. They stand still with its processes.
    pub(super) fn life_deadline(&self) -> Option<Millis> {
        if self.frozen.since().is_some() { None } else { self.life.deadline(&self.unit) }
    }

    /// When its start has waited for others too long.
    pub(super) fn start_deadline(&self) -> Option<Millis> {
        match &self.job {
            Some(Job::Start(start)) if self.waits_for.is_some() => Some(start.asked_at + self.form().job_timeout),
            Some(Job::Start(_) | Job::Stop(_) | Job::Restart(..) | Job::Reload(_)) | None => None,
        }
    }

    pub(super) fn is_asked_up(&self) -> bool {
        self.job.as_ref().is_some_and(Job::brings_up)
    }

    pub(super) fn is_asked_down(&self) -> bool {
        self.job.as_ref().is_some_and(Job::brings_down)
    }

    fn is_on_its_way_up(&self) -> bool {
        self.is_asked_up() || self.life.state.is_activating()
    }

    /// Its program runs, and is not to be ended first.
    fn is_started(&self) -> bool {
        let runs = self.life.state.is_up() || matches!(self.life.state, State::Starting { .. });
        runs && !self.is_asked_down()
    }

    /// It runs or will, and has not come to its end.
    fn is_before_its_end(&self) -> bool {
        let state = &self.life.state;
        let has_exited = state.words().1 == "exited";
        self.is_asked_up() || ((state.is_live() || state.is_up()) && !has_exited)
    }
}
