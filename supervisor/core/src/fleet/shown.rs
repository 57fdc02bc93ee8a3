//! shown: a unit as people see it.
//!
//! Job: states in words, changes of state, the texts of failed jobs. May touch: the fleet above it.
//! Keeps: each change of state is said once, with its cause.

use super::waits::Broken;
use super::{Awaited, Effect, Entry, Fleet, Job, JobOutcome, Status};
use crate::ids::{Kind, Millis, UnitId};
use crate::lifecycle::{ActiveState, Now, State, exit_words, result_word, span};
use crate::unit::{Restart, RestartPolicy, Unit, Until, needs_restart};

impl Entry {
    /// As its file says now.
    pub(super) fn form(&self) -> &Unit {
        self.next.as_deref().unwrap_or(&self.unit)
    }

    /// A unit without a file is listed as long as something of it is there.
    pub(super) fn is_listed(&self) -> bool {
        !self.not_found || self.job.is_some() || !matches!(self.life.state, State::Down { .. })
    }

    pub(super) fn words(&self) -> (ActiveState, &'static str) {
        // What a schedule is active for is to wait.
        let own = || match self.life.state.words() {
            (ActiveState::Active, _) if self.unit.id.kind() == Kind::Schedule => (ActiveState::Active, "waiting"),
            words => words,
        };
        if !self.life.state.is_at_rest() {
            own()
        } else if self.waits_for.is_some() {
            (ActiveState::Activating, "waiting")
        } else if self.held_until.is_some() {
            (ActiveState::Activating, "auto-restart")
        } else {
            own()
        }
    }

    /// Whether its probes pass while it is up; `None` for a unit without such probes.
    pub(super) fn health(&self) -> Option<bool> {
        let has_probes = self.unit.health.startup.is_some() || self.unit.health.readiness.is_some();
        has_probes.then_some(self.life.is_healthy(&self.unit))
    }

    /// When it starts by itself, and why not before.
    fn next_start(&self) -> Option<(Millis, &'static str)> {
        let rests = self.life.state.rests_until();
        match (self.held_until.filter(|_| self.life.state.is_at_rest()), rests) {
            (Some(held), rests) if rests.is_none_or(|at| at <= held) => Some((held, "group")),
            (_, Some(at)) => Some((at, self.life.waits_because(&self.unit))),
            (_, None) => self.upholding.at.filter(|_| self.is_idle()).map(|at| (at, "upheld")),
        }
    }

    pub(super) fn status(&self, now: Now) -> Status {
        let (active_state, sub_state) = self.words();
        let next_start = self.next_start();
        Status {
            unit: self.unit.id.clone(),
            description: self.form().description.clone(),
            active_state,
            sub_state,
            result: self.life.result,
            exit: self.life.exit,
            run: self.life.run,
            main_pid: self.life.state.identity().map(|identity| identity.pid),
            restarts: self.life.restarts,
            since: self.since,
            triggered_by: self.life.triggered_by.clone(),
            next_start: next_start.map(|(at, _)| at),
            next_start_because: next_start.map(|(_, because)| because),
            waits_for: self.waits_for.as_ref().map(|(other, _)| other.clone()),
            waits_until: self.waits_for.as_ref().map(|(_, awaited)| *awaited),
            job: self.job.as_ref().map(|job| (job.word(), self.job_since)),
            status_text: self.life.status_text.clone(),
            last_error: self.life.last_error.clone(),
            enforcement: self.life.enforcement.clone(),
            failures: self.life.failures,
            not_found: self.not_found,
            needs_restart: self.next.is_some(),
            changed_keys: self.next.as_ref().map(|next| needs_restart(&self.unit, next)).unwrap_or_default(),
            frozen: self.frozen.since().is_some(),
            healthy: self.health(),
            crash_looping: self.life.is_crash_looping(),
            deaths: self.life.deaths.clone(),
            errno: self.life.errno,
            used: self.unit.budget.is_some().then(|| self.life.tally().with_live_run(now.mono)),
            refuses_start: self.life.refuses_start(&self.unit, now),
            began_at: self.began_at,
            up_at: self.up_at,
            group_restarts: u32::try_from(self.group_restarts.len()).unwrap_or(u32::MAX),
        }
    }
}

impl Fleet {
    /// Says that a unit's state changed, if it did.
    pub(super) fn show(&mut self, id: &UnitId, because: &str) {
        let wall = self.now.wall;
        let entry = self.entry_mut(id);
        let (to, sub) = entry.words();
        let (from, sub_before) = std::mem::replace(&mut entry.shown, (to, sub));
        if (from, sub_before) == (to, sub) {
            return;
        }
        if from != to {
            entry.since = wall;
        }
        let (run, result) = (entry.life.run, entry.life.result);
        let because = because.to_owned();
        self.out.push(Effect::Changed { unit: id.clone(), run, from, to, sub, result, because });
    }

    pub(super) fn set_waits_for(&mut self, id: &UnitId, waits_for: Option<(UnitId, Awaited)>) {
        if self.entry(id).waits_for == waits_for {
            return;
        }
        let because = match &waits_for {
            Some((other, Awaited::Up(Until::Ready))) => format!("it waits for `{other}`"),
            Some((other, awaited)) => format!("it waits until `{other}` is {}", awaited.word()),
            None => "it waits no more".to_owned(),
        };
        self.entry_mut(id).waits_for = waits_for;
        // Where the wait ends, the step that follows at once says more.
        if self.entry(id).waits_for.is_some() {
            self.show(id, &because);
        }
    }

    /// Why a unit cannot start: what it needs is not there.
    pub(super) fn broken(&self, id: &UnitId, broken: &Broken) -> (String, JobOutcome) {
        let (tie, dependency) = match broken {
            Broken::Need(dependency) => (self.tie(id, dependency), dependency),
            Broken::NoSuccess(dependency) => ("it starts only after the success of", dependency),
        };
        let known = self.units.get(dependency).filter(|entry| entry.is_listed());
        let (what, cause, hint) = match (known, self.graph.cycle(dependency)) {
            (None, _) => (
                "which does not exist".to_owned(),
                None,
                format!("write `{dependency}.toml` into the unit path, then `loomctl daemon-reload`"),
            ),
            (Some(_), Some(cycle)) => (
                "which is on a dependency cycle".to_owned(),
                Some(cycle),
                "take one of these units out of `requires`, `after` or `before`".to_owned(),
            ),
            (Some(entry), None) => (
                match entry.life.state {
                    State::Down { failed: true } => "which failed",
                    State::Down { failed: false } => "which is not up",
                    _ => "which is being ended",
                }
                .to_owned(),
                entry.life.last_error.as_ref().map(|error| format!("`{dependency}`: {error}")),
                format!("see `loomctl logs {dependency}`; then `loomctl start {dependency}`"),
            ),
        };
        let text = format!("{tie} `{dependency}`, {what}");
        let error = format!("unit `{id}` did not start: {text}");
        (text, JobOutcome::Failed { error, cause, hint: Some(hint) })
    }

    /// Why a start failed: its run ended before it was up.
    pub(super) fn not_started(&self, id: &UnitId) -> JobOutcome {
        let life = &self.entry(id).life;
        let cause = life.last_error.clone().or_else(|| life.exit.map(exit_words));
        let next = match life.state.rests_until() {
            Some(at) => {
                let left = if at > self.now.mono { at - self.now.mono } else { Millis(0) };
                format!("it is tried again in {}; see `loomctl logs {id}`", span(left))
            }
            None => format!("see `loomctl logs {id}`; then `loomctl start {id}`"),
        };
        let error =
            format!("unit `{id}` did not start: run {} ended with the result `{}`", life.run, result_word(life.result));
        JobOutcome::Failed { error, cause, hint: Some(next) }
    }

    /// Why a request is refused as such, if it is.
    pub(super) fn refusal(&self, id: &UnitId) -> Option<JobOutcome> {
        let failed = |error: String, cause: Option<String>, hint: &str| {
            Some(JobOutcome::Failed { error, cause, hint: Some(hint.to_owned()) })
        };
        if self.stopping {
            let hint = "start it again once a new loomd runs";
            return failed(format!("unit `{id}` did not start: loomd is stopping"), None, hint);
        }
        if id.is_template() {
            let hint = "name an instance, such as `name@1`";
            return failed(format!("unit `{id}` did not start: it is a template"), None, hint);
        }
        let entry = self.units.get(id);
        if let Some(cause) = entry.and_then(|entry| entry.life.refuses_start(entry.form(), self.now)) {
            let hint = "raise its `[budget]`, or wait for the end of the window";
            return failed(format!("unit `{id}` did not start: its budget is exhausted"), Some(cause), hint);
        }
        if let Some(cycle) = self.graph.cycle(id) {
            let hint = "take one of these units out of `requires`, `after` or `before`, then `loomctl daemon-reload`";
            return failed(format!("unit `{id}` did not start: it is on a dependency cycle"), Some(cycle), hint);
        }
        None
    }
}

impl Job {
    /// Whether it is to bring its unit up.
    pub(super) fn brings_up(&self) -> bool {
        match self {
            Job::Start(_) | Job::Restart(..) => true,
            Job::Stop(_) | Job::Reload(_) => false,
        }
    }

    /// Whether its unit is to go down first.
    pub(super) fn brings_down(&self) -> bool {
        match self {
            Job::Stop(_) | Job::Restart(..) => true,
            Job::Start(_) | Job::Reload(_) => false,
        }
    }

    /// As `status` names it.
    fn word(&self) -> &'static str {
        match self {
            Job::Start(_) => "start",
            Job::Stop(_) => "stop",
            Job::Restart(..) => "restart",
            Job::Reload(_) => "reload",
        }
    }
}

/// Stands for a unit whose file is gone: it can be stopped, and grants nothing.
pub(crate) fn without_file(id: UnitId) -> Unit {
    Unit { restart: Restart { policy: RestartPolicy::No, ..Restart::default() }, ..Unit::bare(id) }
}
