//! jobs: what is asked of units, and in which order it is done.
//!
//! Job: the tables in the fleet's own header. May touch: the fleet above it.
//! Keeps: a unit has at most one job; every job id is answered once.

use super::waits::{Broken, Readiness};
use super::{Effect, Entry, Fleet, Job, JobId, JobOutcome, Reload, Start, Stop, Verb, Whom};
use crate::ids::{Kind, RunId, UnitId};
use crate::lifecycle::{self, RunResult, State, Why};
use crate::unit::ReadyKind;
use std::collections::{BTreeMap, BTreeSet};

impl Fleet {
    pub(super) fn request(&mut self, job: JobId, id: &UnitId, verb: Verb, by: String) {
        let Some(entry) = self.units.get(id).filter(|entry| entry.is_listed()) else {
            return self.answer(vec![job], JobOutcome::NoSuchUnit);
        };
        let state = &entry.life.state;
        let comes_or_is_up = state.is_activating() || (state.is_up() && !entry.is_asked_down());
        match verb {
            Verb::Stop => self.stop(id, job, false),
            Verb::StopNow => self.stop(id, job, true),
            Verb::VerifyActive => {
                let outcome = self.verified(id);
                self.answer(vec![job], outcome);
            }
            Verb::Kill { signal, whom } => self.kill(id, job, signal, whom),
            Verb::ResetFailed => self.reset_failed(id, job),
            Verb::Freeze => self.freeze(id, job),
            Verb::Thaw => self.thaw(id, job),
            Verb::Reload => self.ask_reload(id, job),
            Verb::TryRestart if !comes_or_is_up && !entry.is_asked_up() => self.answer(vec![job], JobOutcome::Done),
            Verb::Start | Verb::Restart | Verb::TryRestart if entry.not_found => {
                self.answer(vec![job], JobOutcome::NoSuchUnit);
            }
            Verb::Start => self.start(id, job, by, false),
            Verb::Restart | Verb::TryRestart => self.start(id, job, by, true),
        }
    }

    /// A person wants it up; `anew`: also where it is up.
    fn start(&mut self, id: &UnitId, job: JobId, by: String, anew: bool) {
        if let Some(outcome) = self.refusal(id).or_else(|| self.clash(id)) {
            return self.answer(vec![job], outcome);
        }
        self.release(id, &by);
        let entry = self.entry_mut(id);
        entry.pulled_in_by = None;
        entry.upholding.tries = 0;
        if entry.life.state.is_at_rest() {
            entry.caused_by.clear();
        }
        self.make_way(id);
        if anew {
            for along in self.graph.goes_along(id, "was restarted").into_keys() {
                self.restart_along(&along, id);
            }
            self.ask_restart(id, Some(job), by);
        } else {
            self.ask_start(id, Some(job), by);
        }
        self.pull_in(id);
    }

    /// Wants one unit up.
    pub(super) fn ask_start(&mut self, id: &UnitId, waiter: Option<JobId>, by: String) {
        let now = self.now.mono;
        let entry = self.entry_mut(id);
        entry.wanted = true;
        let waiters: Vec<_> = waiter.into_iter().collect();
        let start = Start { begun: entry.life.state.is_activating(), ..Start::new(waiters, by, now) };
        let (job, done) = match entry.job.take() {
            None => (Job::Start(start), vec![]),
            Some(Job::Start(before)) => (Job::Start(before.joined_by(start)), vec![]),
            Some(Job::Stop(stop)) => (Job::Restart(stop, Start { begun: false, ..start }), vec![]),
            Some(Job::Restart(stop, before)) => (Job::Restart(stop, before.joined_by(start)), vec![]),
            Some(Job::Reload(reload)) => (Job::Reload(reload), start.waiters),
        };
        self.set_job(id, job);
        self.answer(done, JobOutcome::Done);
    }

    pub(super) fn ask_restart(&mut self, id: &UnitId, waiter: Option<JobId>, by: String) {
        let now = self.now.mono;
        let entry = self.entry_mut(id);
        if entry.life.state.is_at_rest() && !entry.is_asked_down() {
            return self.ask_start(id, waiter, by);
        }
        entry.wanted = true;
        let start = Start::new(waiter.into_iter().collect(), by, now);
        let down = || Stop { waiters: vec![], why: Why::Asked, told: false, at_once: false };
        let (job, replaced) = match entry.job.take() {
            None => (Job::Restart(down(), start), vec![]),
            // A target that waits for its members has nothing to take down.
            Some(Job::Start(before)) if entry.life.state == State::Reached => {
                (Job::Start(before.joined_by(start)), vec![])
            }
            Some(Job::Start(before)) => {
                let mut start = Start { begun: false, ..before.joined_by(start) };
                // A new process reads its settings anew.
                start.waiters.append(&mut start.reloads);
                (Job::Restart(down(), start), vec![])
            }
            Some(Job::Stop(stop)) => (Job::Restart(stop, start), vec![]),
            Some(Job::Restart(stop, before)) => (Job::Restart(stop, before.joined_by(start)), vec![]),
            Some(Job::Reload(reload)) => (Job::Restart(down(), start), reload.everyone()),
        };
        self.set_job(id, job);
        self.answer(replaced, JobOutcome::Replaced);
    }

    fn set_job(&mut self, id: &UnitId, job: Job) {
        let now = self.now.mono;
        let entry = self.entry_mut(id);
        entry.job_since = now;
        entry.job = Some(job);
    }

    /// A unit that goes down with a restarted one comes up after it.
    fn restart_along(&mut self, id: &UnitId, root: &UnitId) {
        let Some(entry) = self.units.get(id) else { return };
        let is_up_or_coming = entry.life.state.is_up() || entry.life.state.is_activating();
        if is_up_or_coming && !entry.is_asked_down() && !entry.not_found {
            self.ask_restart(id, None, format!("dependency {root}"));
        }
    }

    /// Stops a unit, what goes down with it, and, for a target, what it pulled in.
    fn stop(&mut self, id: &UnitId, job: JobId, at_once: bool) {
        let pulled_in = if id.kind() == Kind::Target { self.pulled_in_by(id) } else { BTreeSet::new() };
        if self.entry(id).form().group.is_some() {
            let leaving = self.graph.in_order(&pulled_in);
            self.say_leaving(id, &leaving);
        }
        self.take_along(id, "was stopped");
        for unit in pulled_in {
            self.stop_along(&unit, Why::Asked);
        }
        self.ask_stop(id, Some(job), Why::Asked, at_once);
    }

    /// Has a unit read its settings anew.
    fn ask_reload(&mut self, id: &UnitId, job: JobId) {
        let failed = |error: String, hint: String| JobOutcome::Failed { error, cause: None, hint: Some(hint) };
        let entry = self.entry_mut(id);
        let knows_how = entry.unit.exec.as_ref().is_some_and(|exec| exec.reload.is_some())
            || entry.unit.ready.kind == ReadyKind::NotifyReload;
        if !knows_how {
            let error = format!("unit `{id}` has no way to reload");
            let hint = "write `exec.reload`, or `ready.type = \"notify-reload\"`; or `loomctl restart` it".to_owned();
            return self.answer(vec![job], failed(error, hint));
        }
        match &mut entry.job {
            // What is not spawned yet reads its settings when it is.
            Some(Job::Start(start)) if start.begun => start.reloads.push(job),
            Some(Job::Start(start) | Job::Restart(_, start)) => start.waiters.push(job),
            Some(Job::Reload(reload)) => reload.again.push(job),
            Some(Job::Stop(_)) => {
                let error = format!("unit `{id}` did not reload: it is being stopped");
                self.answer(
                    vec![job],
                    failed(error, format!("`loomctl start {id}` starts it with its newest settings")),
                );
            }
            None if entry.life.state.is_up() => self.begin_reload(id, vec![job]),
            None => {
                let (active_state, sub_state) = entry.words();
                let error = format!("unit `{id}` did not reload: it is {} ({sub_state})", active_state.word());
                self.answer(
                    vec![job],
                    failed(error, format!("`loomctl start {id}` starts it with its newest settings")),
                );
            }
        }
    }

    fn begin_reload(&mut self, id: &UnitId, waiters: Vec<JobId>) {
        self.set_job(id, Job::Reload(Reload { waiters, again: vec![] }));
        self.apply(id, lifecycle::Event::Reload);
    }

    /// A reload ended; `because`: why it failed.
    pub(super) fn reload_over(&mut self, id: &UnitId, because: Option<String>) {
        let entry = self.entry_mut(id);
        match entry.job.take() {
            Some(Job::Reload(reload)) => {
                let outcome = match because {
                    None => JobOutcome::Done,
                    Some(cause) => JobOutcome::Failed {
                        error: format!("unit `{id}` did not reload; it runs on"),
                        cause: Some(cause),
                        hint: Some(format!("see `loomctl logs {id}`; then `loomctl reload {id}`")),
                    },
                };
                self.answer(reload.waiters, outcome);
                if !reload.again.is_empty() {
                    self.begin_reload(id, reload.again);
                }
            }
            // It reloaded of itself.
            other @ (Some(Job::Start(_) | Job::Stop(_) | Job::Restart(..)) | None) => entry.job = other,
        }
    }

    /// Whether it is active.
    fn verified(&self, id: &UnitId) -> JobOutcome {
        let entry = self.entry(id);
        if entry.life.state.is_up() {
            return JobOutcome::Done;
        }
        let (active_state, sub_state) = entry.words();
        JobOutcome::Failed {
            error: format!("unit `{id}` is not active: it is {} ({sub_state})", active_state.word()),
            cause: entry.life.last_error.clone(),
            hint: Some(format!("`loomctl start {id}`")),
        }
    }

    fn kill(&mut self, id: &UnitId, job: JobId, signal: i32, whom: Whom) {
        let state = &self.entry(id).life.state;
        let (unit, run) = (id.clone(), self.entry(id).life.run);
        let effect = match whom {
            Whom::Main => state.identity().map(|_| Effect::Signal { unit, run, signal }),
            Whom::All => state.is_live().then_some(Effect::SignalAll { unit, run, signal }),
        };
        let outcome = match effect {
            Some(effect) => {
                self.out.push(effect);
                JobOutcome::Done
            }
            None => JobOutcome::Failed {
                error: format!("unit `{id}` got no signal: it has no process"),
                cause: None,
                hint: Some(format!("`loomctl status {id}` shows where it stands")),
            },
        };
        self.answer(vec![job], outcome);
    }

    fn reset_failed(&mut self, id: &UnitId, job: JobId) {
        let entry = self.entry_mut(id);
        entry.upholding.tries = 0;
        entry.group_restarts.clear();
        self.apply(id, lifecycle::Event::ResetFailed);
        self.answer(vec![job], JobOutcome::Done);
    }

    /// Wants one unit down.
    pub(super) fn ask_stop(&mut self, id: &UnitId, waiter: Option<JobId>, why: Why, at_once: bool) {
        let keeps_wish = self.stopping;
        let entry = self.entry_mut(id);
        if !keeps_wish {
            entry.wanted = false;
            entry.pulled_in_by = None;
        }
        entry.held_until = None;
        let stop = Stop { waiters: waiter.into_iter().collect(), why, told: false, at_once };
        let (stop, replaced) = match entry.job.take() {
            None => (stop, vec![]),
            Some(Job::Start(start)) => (stop, start.everyone()),
            Some(Job::Stop(before)) => (before.joined_by(stop), vec![]),
            Some(Job::Restart(before, start)) => (before.joined_by(stop), start.everyone()),
            Some(Job::Reload(reload)) => (stop, reload.everyone()),
        };
        self.set_job(id, Job::Stop(stop));
        self.answer(replaced, JobOutcome::Replaced);
    }

    pub(super) fn shutdown(&mut self) {
        self.stopping = true;
        let ids: Vec<_> =
            self.units.values().filter(|entry| !entry.is_idle()).map(|entry| entry.unit.id.clone()).collect();
        for id in ids {
            self.ask_stop(&id, None, Why::Asked, false);
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
                    Some(Job::Reload(_)) => false,
                };
            }
            if !moved {
                return;
            }
        }
    }

    /// A waiting restart that is due.
    fn advance_restart(&mut self, id: &UnitId) -> bool {
        let now = self.now.mono;
        let entry = self.entry(id);
        let is_due = entry.life.state.rests_until().is_some_and(|at| at <= now);
        if !is_due || self.stopping || entry.held_until.is_some_and(|at| at > now) {
            return false;
        }
        let stands_in_the_way = |other: &&UnitId| self.units.get(*other).is_some_and(|other| !other.is_idle());
        let in_the_way = self.graph.conflicts(id).find(stands_in_the_way).cloned();
        if let Some(other) = in_the_way {
            let text = format!("it conflicts with `{other}`, which is not down");
            self.ask_stop(id, None, Why::Dependency { failed: false, text }, false);
            return true;
        }
        let waits_for = self.restart_waits_for(id);
        self.set_waits_for(id, waits_for.clone());
        if waits_for.is_some() {
            return false;
        }
        self.entry_mut(id).held_until = None;
        self.apply(id, lifecycle::Event::Again);
        true
    }

    fn advance_start(&mut self, id: &UnitId) -> bool {
        let now = self.now.mono;
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
        let reached = *state == State::Reached;
        if state.is_up() && !reached {
            self.start_done(id);
            return true;
        }
        if self.entry(id).held_until.is_some_and(|at| at > now) {
            self.set_waits_for(id, None);
            self.show(id, "its group restarts");
            return false;
        }
        let readiness = self.readiness(id);
        let waits_for = match &readiness {
            Readiness::Wait(other, awaited) => Some((other.clone(), *awaited)),
            Readiness::Now | Readiness::Broken(_) => None,
        };
        self.set_waits_for(id, waits_for);
        match readiness {
            Readiness::Wait(other, _) => {
                // Files read meanwhile may have brought a conflict.
                let is_in_the_way = self.graph.conflicts(id).any(|known| *known == other)
                    && self.units.get(&other).is_some_and(|other| !other.is_asked_down());
                if is_in_the_way {
                    self.make_way(id);
                }
                return is_in_the_way;
            }
            Readiness::Broken(Broken::Need(dependency)) if reached => self.stop_dependents(&dependency),
            Readiness::Broken(broken) => {
                let (text, outcome) = self.broken(id, &broken);
                self.refuse_start(id, text, outcome);
            }
            Readiness::Now if reached => self.start_done(id),
            Readiness::Now => {
                let entry = self.entry_mut(id);
                entry.held_until = None;
                let mut by = String::new();
                if let Some(Job::Start(start)) = &mut entry.job {
                    start.begun = true;
                    by = start.by.clone();
                }
                self.apply(id, lifecycle::Event::Start { by });
            }
        }
        true
    }

    /// A start fails before anything was spawned.
    pub(super) fn refuse_start(&mut self, id: &UnitId, text: String, outcome: JobOutcome) {
        let waiters = self.take_waiters(id);
        self.set_waits_for(id, None);
        if self.entry(id).life.state.is_at_rest() {
            self.apply(id, lifecycle::Event::Refuse { text });
            self.withdraw(id);
            self.answer(waiters, outcome);
            self.stop_dependents(id);
        } else {
            self.answer(waiters, outcome);
        }
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
            let must_wait = !stop.at_once && self.graph.before(id).any(|later| must_go_first(&later));
            if stop.told || must_wait {
                return false;
            }
            let (why, at_once) = (stop.why.clone(), stop.at_once);
            if let Some(Job::Stop(stop) | Job::Restart(stop, _)) = &mut self.entry_mut(id).job {
                stop.told = true;
            }
            self.thaw_to_end(id);
            self.apply(id, lifecycle::Event::Stop { why });
            if at_once {
                self.apply(id, lifecycle::Event::Kill);
            }
        }
        let entry = self.entry(id);
        if entry.is_asked_down() && matches!(entry.life.state, State::Down { .. }) {
            self.run_over(id);
        }
        true
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
            Some(Job::Start(_) | Job::Stop(_) | Job::Restart(..) | Job::Reload(_)) | None => {}
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
        let entry = self.entry_mut(id);
        entry.held_until = None;
        let (waiters, reloads) = match entry.job.take() {
            Some(Job::Start(start)) => (start.waiters, start.reloads),
            other @ (Some(Job::Stop(_) | Job::Restart(..) | Job::Reload(_)) | None) => {
                entry.job = other;
                return;
            }
        };
        self.set_waits_for(id, None);
        self.answer(waiters, JobOutcome::Done);
        if !reloads.is_empty() {
            self.begin_reload(id, reloads);
        }
    }

    /// A unit has no process any more, or never had one to stop.
    pub(super) fn run_over(&mut self, id: &UnitId) {
        self.note_end(id);
        self.forget_freeze(id);
        let entry = self.entry_mut(id);
        let rests = entry.life.state.rests_until().is_some();
        let was_skipped =
            entry.life.result == RunResult::Condition && entry.life.state == (State::Down { failed: false });
        let mut ends_by_itself = false;
        match entry.job.take() {
            Some(Job::Start(start)) if start.begun => {
                let outcome = if was_skipped { JobOutcome::Done } else { self.not_started(id) };
                self.answer(start.everyone(), outcome);
                ends_by_itself = true;
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
                let asked_at = self.now.mono;
                self.set_job(id, Job::Start(Start { begun: false, asked_at, ..start }));
                self.answer(stop.waiters, JobOutcome::Done);
            }
            Some(Job::Reload(reload)) => {
                let outcome = JobOutcome::Failed {
                    error: format!("unit `{id}` did not reload: its run ended"),
                    cause: self.entry(id).life.last_error.clone(),
                    hint: Some(format!("see `loomctl logs {id}`")),
                };
                self.answer(reload.everyone(), outcome);
                ends_by_itself = true;
            }
            None => ends_by_itself = true,
        }
        if self.entry(id).not_found {
            let waiters = self.take_waiters(id);
            if self.entry(id).life.state.rests_until().is_some() {
                self.apply(id, lifecycle::Event::Stop { why: Why::Asked });
            }
            self.answer(waiters, JobOutcome::NoSuchUnit);
        }
        if self.entry(id).is_idle() {
            self.withdraw(id);
            // The cause is stored before what follows from it.
            self.persist(id);
            if self.entry(id).life.state == (State::Down { failed: true }) {
                self.stop_dependents(id);
            } else {
                self.stop_bound(id);
            }
        }
        if ends_by_itself {
            self.member_ended(id);
        }
    }

    /// Nobody wants it up any more; but what ran when loomd was told to stop comes back with the next one.
    pub(super) fn withdraw(&mut self, id: &UnitId) {
        let keeps_wish = self.stopping;
        let entry = self.entry_mut(id);
        if !keeps_wish {
            entry.wanted = false;
            entry.pulled_in_by = None;
        }
    }

    pub(super) fn take_waiters(&mut self, id: &UnitId) -> Vec<JobId> {
        match self.entry_mut(id).job.take() {
            Some(Job::Start(start)) => start.everyone(),
            Some(Job::Stop(stop)) => stop.waiters,
            Some(Job::Restart(stop, start)) => stop.waiters.into_iter().chain(start.everyone()).collect(),
            Some(Job::Reload(reload)) => reload.everyone(),
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
}

impl Entry {
    /// Something but news of its own process may get it further.
    fn may_move(&self) -> bool {
        let state = &self.life.state;
        match &self.job {
            None => state.rests_until().is_some(),
            Some(Job::Start(start)) => !state.is_ending() && (!start.begun || !state.is_activating()),
            Some(Job::Stop(stop) | Job::Restart(stop, _)) => !stop.told || state.is_at_rest(),
            Some(Job::Reload(_)) => false,
        }
    }

    /// Down, and nothing is to be done.
    pub(super) fn is_idle(&self) -> bool {
        self.job.is_none() && matches!(self.life.state, State::Down { .. })
    }
}

impl Start {
    fn new(waiters: Vec<JobId>, by: String, asked_at: crate::ids::Millis) -> Self {
        let (met, ended) = (BTreeSet::new(), BTreeMap::new());
        Self { waiters, by, begun: false, met, ended, asked_at, reloads: vec![] }
    }

    fn joined_by(mut self, later: Start) -> Self {
        self.waiters.extend(later.waiters);
        self.reloads.extend(later.reloads);
        self
    }

    /// All who wait for it, and for the reload after it.
    pub(super) fn everyone(self) -> Vec<JobId> {
        self.waiters.into_iter().chain(self.reloads).collect()
    }
}

impl Reload {
    fn everyone(self) -> Vec<JobId> {
        self.waiters.into_iter().chain(self.again).collect()
    }
}

impl Stop {
    fn joined_by(mut self, later: Stop) -> Self {
        self.waiters.extend(later.waiters);
        if !self.why.outranks(&later.why) {
            (self.why, self.told) = (later.why, false);
        }
        if later.at_once && !self.at_once {
            (self.at_once, self.told) = (true, false);
        }
        self
    }
}
