//! ending: how a run ends, and what follows.
//!
//! Job: stops and their escalation, the end of the tree, `stop.post`, results, restarts. May touch: the types beside it, `unit`.
//! Keeps: a stop always wins; a unit is down only when nothing of its run is left; a policy is applied once per run.
//!
//! ```text
//! stop.command ──► stop.signal ──stop.timeout──► SIGKILL of the tree
//!      main process gone ──► what it left: stop.signal ──► SIGKILL ──► stop.post, one by one ──► SIGKILL ──► down
//! ```

use super::life::{DEATHS_MAX, STARTS_MAX};
use super::turn::{Alive, Turn, take, take_alive};
use super::{
    CRASH_LOOPING_FROM, Control, Death, Effect, End, Exit, Force, Identity, LaunchFailure, Life, Main, Reload,
    RunResult, Said, State, Then, TreeEnd, Why, errno_name, exit_words, policy, result_of, span, words,
};
use crate::ids::Millis;
use crate::launch_plan::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Stage};
use crate::unit::{KillMode, LimitMode, ReadyKind};
use std::collections::BTreeMap;

const SIGKILL: i32 = 9;

impl End {
    /// A main process that was killed was killed for want of memory.
    pub(super) fn blame_memory(&mut self) {
        if self.then == Then::Policy
            && self.result == RunResult::Signal
            && let Some(Exit::Signal { signal: SIGKILL, .. }) = self.exit
        {
            self.result = RunResult::OomKill;
            self.error = Some("the kernel killed it for want of memory".to_owned());
        }
    }
}

fn stronger(before: Why, new: Why) -> Why {
    if before.outranks(&new) { before } else { new }
}

impl Turn<'_> {
    pub(super) fn stop(&mut self, life: &mut Life, why: Why) {
        let limit = self.now.mono + self.unit.stop.timeout;
        life.state = match take(life) {
            State::Down { failed } => State::Down { failed },
            State::Reached | State::Resting { .. } => {
                if let Why::Dependency { failed, text } = why {
                    life.result = RunResult::Dependency;
                    life.last_error = Some(text);
                    State::Down { failed }
                } else {
                    State::Down { failed: false }
                }
            }
            State::Checking { .. } => {
                let end = self.ended_for(life, why, false, None);
                return self.conclude(life, end);
            }
            State::Preparing { .. } => {
                let end = self.ended_for(life, why, false, None);
                return self.clear_preparation(life, end);
            }
            State::Spawning { .. } => State::Abandoned { why },
            State::Abandoned { why: before } => State::Abandoned { why: stronger(before, why) },
            state @ (State::Launching { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Remaining { .. }) => {
                life.state = state;
                return self.end_run(life, why);
            }
            State::Commanding { main, why: before, until } => {
                State::Commanding { main, why: stronger(before, why), until: until.min(limit) }
            }
            State::Stopping { identity, why: before, kill_at, ready } => {
                State::Stopping { identity, why: stronger(before, why), kill_at: kill_at.min(limit), ready }
            }
            State::Killing { identity, why: before, force, ready } => {
                State::Killing { identity, why: stronger(before, why), force, ready }
            }
            State::Clearing { identity, end, kill_at, post } => {
                State::Clearing { identity, end: redirected(end, why), kill_at, post }
            }
            State::Posting { identity, end, post, until } => {
                State::Posting { identity, end: redirected(end, why), post, until }
            }
        };
    }

    /// Kills whatever it is that a stop waits for now.
    pub(super) fn kill(&mut self, life: &mut Life) {
        match &life.state {
            State::Launching { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Commanding { main: Main::Lives { .. }, .. } => return self.kill_for(life, Why::Asked),
            State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Checking { .. }
            | State::Preparing { .. }
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Remaining { .. }
            | State::Commanding { main: Main::Ended { .. }, .. }
            | State::Killing { .. }
            | State::Clearing { .. }
            | State::Posting { .. } => {}
        }
        self.stop(life, Why::Asked);
        match &mut life.state {
            State::Clearing { kill_at, .. } => {
                *kill_at = None;
                self.effects.push(Effect::EndTree(TreeEnd::Kill));
            }
            State::Posting { post, until, .. } if until.is_some() => {
                *until = None;
                self.effects.push(Effect::EndControl(Control::StopPost(*post)));
            }
            // Its main process is gone, so only the command is left.
            State::Commanding { .. } => self.effects.push(Effect::EndControl(Control::Stop)),
            State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Checking { .. }
            | State::Preparing { .. }
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Remaining { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Posting { .. } => {}
        }
    }

    /// Kills a run that has a process, at once.
    pub(super) fn kill_for(&mut self, life: &mut Life, why: Why) {
        let (identity, why, ready) = if let Some(Alive { identity, ready, reload }) = take_alive(life) {
            self.leave(life, reload);
            (identity, why, ready)
        } else {
            match take(life) {
                State::Stopping { identity, why: before, ready, .. } => (identity, stronger(before, why), ready),
                State::Commanding { main: Main::Lives { identity }, why: before, .. } => {
                    self.effects.push(Effect::EndControl(Control::Stop));
                    (identity, stronger(before, why), true)
                }
                same @ (State::Down { .. }
                | State::Reached
                | State::Resting { .. }
                | State::Checking { .. }
                | State::Preparing { .. }
                | State::Spawning { .. }
                | State::Abandoned { .. }
                | State::Launching { .. }
                | State::Starting { .. }
                | State::Running { .. }
                | State::Remaining { .. }
                | State::Commanding { .. }
                | State::Killing { .. }
                | State::Clearing { .. }
                | State::Posting { .. }) => {
                    life.state = same;
                    return;
                }
            }
        };
        self.kill_run();
        life.state = State::Killing { identity, why, force: Force::Asked, ready };
    }

    /// Ends a run in order, from whatever it does.
    pub(super) fn end_run(&mut self, life: &mut Life, why: Why) {
        let main = if let State::Remaining { exit, .. } = life.state {
            Main::Ended { exit }
        } else {
            let Some(Alive { identity, ready, reload }) = take_alive(life) else { return };
            self.leave(life, reload);
            if !ready {
                return self.tell(life, identity, why, false);
            }
            Main::Lives { identity }
        };
        if self.unit.stop.command.is_some() && why.is_in_order() {
            self.effects.push(Effect::Run(Control::Stop));
            life.state = State::Commanding { main, why, until: self.now.mono + self.unit.stop.timeout };
        } else {
            self.commanded(life, main, why);
        }
    }

    /// `stop.command` has ended, or its time is up, or there is none: the signal follows.
    pub(super) fn commanded(&mut self, life: &mut Life, main: Main, why: Why) {
        match main {
            Main::Lives { identity } => self.tell(life, identity, why, true),
            Main::Ended { exit } => {
                let end = self.ended_for(life, why, false, Some(exit));
                self.clear(life, None, end, None);
            }
        }
    }

    /// Sends `stop.signal` and gives it time.
    pub(super) fn tell(&mut self, life: &mut Life, identity: Identity, why: Why, ready: bool) {
        let signal = self.unit.stop.signal;
        self.effects.push(match self.unit.stop.kill_mode {
            KillMode::Mixed | KillMode::Process => Effect::Signal(signal),
            KillMode::ControlGroup => Effect::SignalAll(signal),
        });
        let kill_at = self.now.mono + self.unit.stop.timeout;
        life.state = State::Stopping { identity, why, kill_at, ready };
    }

    /// What helped it while it ran is ended with it.
    pub(super) fn leave(&mut self, life: &mut Life, reload: Option<Reload>) {
        if let Some(probe) = life.watch.probes.give_up() {
            self.effects.push(Effect::EndControl(probe));
        }
        if let Some(reload) = reload {
            self.reload_failed(life, &reload, "its run ended meanwhile".to_owned());
        }
    }

    /// `STOPPING=1`: it ends by itself, and gets as long as if it had been asked.
    pub(super) fn announced(&mut self, life: &mut Life) {
        let Some(Alive { identity, ready, reload }) = take_alive(life) else { return };
        self.leave(life, reload);
        let kill_at = self.now.mono + self.unit.stop.timeout;
        life.state = State::Stopping { identity, why: Why::Announced, kill_at, ready };
    }

    pub(super) fn launch_failed(&mut self, life: &mut Life, failure: &LaunchFailure) {
        let (overdue, why) = match take(life) {
            State::Spawning { .. } | State::Launching { .. } => return self.never_ran(life, launch_end(failure)),
            State::Abandoned { why } | State::Stopping { why, .. } => (false, why),
            State::Killing { why, force, .. } => (force == Force::Late, why),
            same @ (State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Checking { .. }
            | State::Preparing { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Remaining { .. }
            | State::Commanding { .. }
            | State::Clearing { .. }
            | State::Posting { .. }) => {
                life.state = same;
                return;
            }
        };
        let end = self.ended_for(life, why, overdue, None);
        self.never_ran(life, end);
    }

    /// There was no main process, so only `start_pre` can have left something.
    fn never_ran(&mut self, life: &mut Life, end: End) {
        let prepared = self.unit.exec.as_ref().is_some_and(|exec| !exec.start_pre.is_empty());
        if prepared { self.clear_preparation(life, end) } else { self.cleared(life, None, end, 0) }
    }

    pub(super) fn exited(&mut self, life: &mut Life, exit: Exit) {
        let (identity, end, kill_at) = match take(life) {
            State::Spawning { .. } => (None, self.ended_itself(life, exit, false), None),
            State::Abandoned { why } => (None, self.ended_for(life, why, false, Some(exit)), None),
            State::Launching { identity, .. } | State::Starting { identity, .. } => {
                let end = self.ended_itself(life, exit, false);
                let has_run = end.accomplished || (end.result == RunResult::Success && !self.has_to_say_ready());
                if has_run && life.watch.retry_after.is_none() && self.remains() {
                    return self.remain(life, exit, true);
                }
                (Some(identity), end, None)
            }
            State::Running { identity, reload, .. } => {
                self.leave(life, reload);
                let end = self.ended_itself(life, exit, true);
                if end.result == RunResult::Success && life.watch.retry_after.is_none() && self.remains() {
                    return self.remain(life, exit, false);
                }
                (Some(identity), end, None)
            }
            // Its command is waited for.
            State::Commanding { main: Main::Lives { .. }, why, until } => {
                life.state = State::Commanding { main: Main::Ended { exit }, why, until };
                return;
            }
            State::Stopping { identity, why: Why::Announced, ready, kill_at } => {
                (Some(identity), self.ended_itself(life, exit, ready), Some(kill_at))
            }
            State::Stopping { identity, why, kill_at, .. } => {
                (Some(identity), self.ended_for(life, why, false, Some(exit)), Some(kill_at))
            }
            State::Killing { identity, why, force, .. } => {
                let end = self.ended_for(life, why, force == Force::Late, Some(exit));
                if self.unit.stop.kill_mode == KillMode::Process && force != Force::BehindGate {
                    return self.clear(life, Some(identity), end, None);
                }
                // The end of the tree was asked for already.
                life.state = State::Clearing { identity: Some(identity), end, kill_at: None, post: 0 };
                return;
            }
            same @ (State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Checking { .. }
            | State::Preparing { .. }
            | State::Remaining { .. }
            | State::Commanding { .. }
            | State::Clearing { .. }
            | State::Posting { .. }) => {
                life.state = same;
                return;
            }
        };
        self.clear(life, identity, end, kill_at);
    }

    fn has_to_say_ready(&self) -> bool {
        self.unit.ready.kind.notifies()
    }

    fn remains(&self) -> bool {
        self.unit.exec.as_ref().is_some_and(|exec| exec.remain_after_exit)
    }

    fn remain(&mut self, life: &mut Life, exit: Exit, comes_up: bool) {
        (life.result, life.exit, life.last_error) = (RunResult::Success, Some(exit), None);
        life.failures = 0;
        life.poison.clear();
        if comes_up {
            self.effects.push(Effect::Up);
        }
        let kill_at = self.end_strays(true, None);
        self.effects.push(Effect::Succeeded);
        life.state = State::Remaining { exit, kill_at };
    }

    /// What the main process left gets the same two steps; returns when the second is due.
    fn end_strays(&mut self, main_ran: bool, kill_at: Option<Millis>) -> Option<Millis> {
        if main_ran && self.unit.stop.kill_mode == KillMode::Process {
            self.effects.push(Effect::EndTree(TreeEnd::Leave));
            return None;
        }
        self.effects.push(Effect::EndTree(TreeEnd::Terminate(self.unit.stop.signal)));
        Some(kill_at.unwrap_or(self.now.mono + self.unit.stop.timeout))
    }

    /// The main process is gone: what is left is ended, at the latest when the run would have been killed.
    pub(super) fn clear(&mut self, life: &mut Life, identity: Option<Identity>, end: End, kill_at: Option<Millis>) {
        let kill_at = self.end_strays(true, kill_at);
        life.state = State::Clearing { identity, end, kill_at, post: 0 };
    }

    /// There was no main process: what is left of `start_pre` is ended.
    pub(super) fn clear_preparation(&mut self, life: &mut Life, end: End) {
        let kill_at = self.end_strays(false, None);
        life.state = State::Clearing { identity: None, end, kill_at, post: 0 };
    }

    pub(super) fn tree_empty(&mut self, life: &mut Life) {
        match take(life) {
            State::Clearing { identity, end, post, .. } => self.cleared(life, identity, end, post),
            // Nothing is left, so the main process is gone too, however it went.
            State::Killing { identity, why, force, .. } => {
                let end = self.ended_for(life, why, force == Force::Late, Some(Exit::Unknown));
                self.cleared(life, Some(identity), end, 0);
            }
            State::Remaining { exit, .. } => life.state = State::Remaining { exit, kill_at: None },
            same @ (State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Checking { .. }
            | State::Preparing { .. }
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Commanding { .. }
            | State::Stopping { .. }
            | State::Posting { .. }) => life.state = same,
        }
    }

    /// Nothing is left: `stop.post`, from the `post`-th on.
    fn cleared(&mut self, life: &mut Life, identity: Option<Identity>, end: End, post: u16) {
        if usize::from(post) < self.unit.stop.post.len() {
            self.effects.push(Effect::Run(Control::StopPost(post)));
            let until = Some(self.now.mono + self.unit.stop.timeout);
            life.state = State::Posting { identity, end, post, until };
        } else {
            self.conclude(life, end);
        }
    }

    pub(super) fn posted(&mut self, life: &mut Life, identity: Option<Identity>, end: End, post: u16) {
        let next = post.saturating_add(1);
        if usize::from(next) < self.unit.stop.post.len() {
            return self.cleared(life, identity, end, next);
        }
        self.effects.push(Effect::EndTree(match self.unit.stop.kill_mode {
            KillMode::Mixed | KillMode::ControlGroup => TreeEnd::Kill,
            KillMode::Process => TreeEnd::Leave,
        }));
        life.state = State::Clearing { identity, end, kill_at: None, post: next };
    }

    /// The end of a run that nobody ended.
    pub(super) fn ended_itself(&self, life: &Life, exit: Exit, ready: bool) -> End {
        let by_exit = result_of(&self.unit.restart, exit);
        let clean = by_exit == RunResult::Success;
        let asks_for_later = life.watch.retry_after.is_some();
        let (result, error) = match self.unit.ready.kind {
            ReadyKind::Notify | ReadyKind::NotifyReload if clean && !ready && !asks_for_later => {
                (RunResult::Protocol, Some(format!("{} before it said READY=1", exit_words(exit))))
            }
            ReadyKind::Exec | ReadyKind::Notify | ReadyKind::NotifyReload | ReadyKind::Oneshot => {
                (by_exit, (!clean).then(|| exit_words(exit)))
            }
        };
        let accomplished = clean && self.unit.ready.kind == ReadyKind::Oneshot && !asks_for_later;
        let mut end = End { result, exit: Some(exit), error, accomplished, then: Then::Policy };
        if life.watch.oom_until.is_some() {
            end.blame_memory();
        }
        end
    }

    /// The end of a run that loomd ended. `overdue`: it had to be killed.
    pub(super) fn ended_for(&self, life: &Life, why: Why, overdue: bool, exit: Option<Exit>) -> End {
        let late = || format!("it did not end within stop.timeout ({}) and was killed", span(self.unit.stop.timeout));
        let (result, error, then) = match why {
            Why::Asked if overdue => (RunResult::Timeout, Some(late()), Then::Rest { failed: true }),
            Why::Asked => (RunResult::Success, None, Then::Rest { failed: false }),
            Why::Dependency { failed, text } => (RunResult::Dependency, Some(text), Then::Rest { failed }),
            Why::NotReady => {
                let text = format!("it was not ready within ready.timeout ({})", span(self.unit.ready.timeout));
                (RunResult::Timeout, Some(text), Then::Policy)
            }
            Why::Silent => {
                let interval = span(self.silence(life).unwrap_or_default());
                let text = format!("it did not say WATCHDOG=1 within watchdog.interval ({interval})");
                (RunResult::Watchdog, Some(text), Then::Policy)
            }
            Why::Triggered => (RunResult::Watchdog, Some("it said WATCHDOG=trigger".to_owned()), Then::Policy),
            Why::Stuck => {
                let limit = span(self.unit.watchdog.progress.unwrap_or_default());
                (
                    RunResult::Progress,
                    Some(format!("its work did not move within watchdog.progress ({limit})")),
                    Then::Policy,
                )
            }
            Why::Unhealthy { probe, failures } => (
                RunResult::Liveness,
                Some(format!("`{}` failed {failures} times in a row", probe.word())),
                Then::Policy,
            ),
            Why::OutOfMemory => {
                let text = "the kernel killed a process of it for want of memory (limits.oom_policy)".to_owned();
                (RunResult::OomKill, Some(text), Then::Policy)
            }
            Why::Exhausted { text } => (RunResult::BudgetExhausted, Some(text), Then::Policy),
            Why::Announced if overdue => (RunResult::Timeout, Some(late()), Then::Policy),
            Why::Announced => {
                let exit = exit.unwrap_or(Exit::Unknown);
                let result = result_of(&self.unit.restart, exit);
                (result, (result != RunResult::Success).then(|| exit_words(exit)), Then::Policy)
            }
        };
        End { result, exit, error, accomplished: false, then }
    }

    /// Nothing is left of the run: what follows?
    pub(super) fn conclude(&mut self, life: &mut Life, end: End) {
        let asked = match end.then {
            Then::Policy => policy::asked_wait(&self.unit.restart, end.result, end.exit, life.watch.retry_after),
            Then::Rest { .. } => None,
        };
        let failed = match end.then {
            Then::Policy => end.result != RunResult::Success && asked.is_none(),
            Then::Rest { failed } => failed,
        };
        life.result = end.result;
        life.exit = end.exit;
        life.last_error = end.error.map(|text| match life.errno.filter(|_| failed) {
            Some(errno) => format!("{text}; it said ERRNO={errno}{}", words::errno_words(errno)),
            None => text,
        });
        if end.accomplished {
            self.effects.push(Effect::Up);
        }
        let is_death = failed && end.result != RunResult::Dependency;
        if is_death || end.result == RunResult::Lost {
            let (run, at, error) = (life.run, self.now.wall, life.last_error.clone());
            life.deaths.push(Death { run, at, result: end.result, exit: end.exit, error });
            let too_many = life.deaths.len().saturating_sub(DEATHS_MAX);
            life.deaths.drain(..too_many);
        }
        if failed && end.then == Then::Policy && is_reported(end.result) {
            self.effects.push(Effect::Report);
        }
        if is_death {
            self.effects.push(Effect::Failed);
        }
        life.state = match end.then {
            Then::Rest { failed } => State::Down { failed },
            Then::Policy => {
                self.blame(life, failed);
                self.by_policy(life, failed, asked)
            }
        };
    }

    fn by_policy(&mut self, life: &mut Life, failed: bool, asked: Option<Millis>) -> State {
        let restart = &self.unit.restart;
        if asked.is_none() && !policy::restarts(restart, life.result, life.exit) {
            if !failed {
                self.effects.push(Effect::Succeeded);
            }
            return State::Down { failed };
        }
        if let Some((text, said)) = self.exhausted(life) {
            self.effects.push(Effect::Say(said));
            (life.result, life.last_error) = (RunResult::BudgetExhausted, Some(text));
            return State::Down { failed: true };
        }
        if failed {
            life.failures = life.failures.saturating_add(1);
            if life.failures == CRASH_LOOPING_FROM {
                self.effects.push(Effect::Say(Said::CrashLooping { failures: life.failures }));
            }
        }
        let chance = policy::own_chance(self.now.chance, &self.unit.id, life.run);
        let back_off = policy::wait(restart, life.failures, chance);
        // Whoever asked for a wait and then crashed gets it too.
        let said = life.watch.retry_after.map(|wait| wait.min(restart.retry_after_max));
        let at = self.now.mono + asked.or(said).map_or(back_off, |wait| wait.max(back_off));
        let (at, is_over_limit) = self.within_limit(life, at);
        if is_over_limit && restart.limit_mode == LimitMode::Fail {
            let (burst, interval) = (restart.limit_burst, span(restart.limit_interval));
            let ended = life.last_error.take().map_or_else(String::new, |text| format!("; the last time {text}"));
            life.last_error = Some(format!(
                "it was started {burst} times within restart.limit_interval ({interval}), as often as restart.limit_burst \
                 allows{ended}"
            ));
            life.result = RunResult::StartLimitHit;
            self.effects.push(Effect::GaveUp);
            return State::Down { failed: true };
        }
        life.rest = at - self.now.mono;
        State::Resting { at, wall: self.now.wall.saturating_add(life.rest.0) }
    }

    /// When the start limit allows the automatic start that is to be at `at`, and whether it refuses that moment.
    fn within_limit(&self, life: &Life, at: Millis) -> (Millis, bool) {
        let restart = &self.unit.restart;
        let burst = (restart.limit_burst as usize).min(STARTS_MAX);
        let in_window = life.starts.iter().filter(|start| **start + restart.limit_interval > at).count();
        if burst == 0 || in_window < burst {
            return (at, false);
        }
        // The oldest of the newest `burst` starts must have left the window.
        let oldest = life.starts[life.starts.len() - burst];
        (oldest + restart.limit_interval, true)
    }

    /// An automatic start counts against the start limit.
    pub(super) fn count_start(&self, life: &mut Life) {
        let burst = (self.unit.restart.limit_burst as usize).min(STARTS_MAX);
        if burst > 0 {
            life.starts.push(self.now.mono);
        }
        let too_many = life.starts.len().saturating_sub(burst);
        life.starts.drain(..too_many);
    }

    /// What a run had in hand when it died may be what it died of.
    fn blame(&mut self, life: &mut Life, failed: bool) {
        let mut in_hand = std::mem::take(&mut life.watch.in_hand);
        in_hand.extend(life.watch.task.take());
        let limit = self.unit.restart.poison_after;
        let died = match life.result {
            RunResult::Success => {
                // One that came to a clean end and asks for later says nothing.
                if life.watch.retry_after.is_none() {
                    life.poison.clear();
                }
                false
            }
            RunResult::Lost => failed && !in_hand.is_empty(),
            RunResult::ExitCode
            | RunResult::Signal
            | RunResult::CoreDump
            | RunResult::Timeout
            | RunResult::Watchdog
            | RunResult::Progress
            | RunResult::Liveness
            | RunResult::OomKill
            | RunResult::Protocol => failed,
            // Not the program's doing.
            RunResult::StartLimitHit
            | RunResult::Resources
            | RunResult::Sandbox
            | RunResult::Condition
            | RunResult::Dependency
            | RunResult::BudgetExhausted => false,
        };
        if !died || limit == 0 {
            return;
        }
        let before = std::mem::take(&mut life.poison);
        let counted: BTreeMap<_, _> = in_hand
            .into_iter()
            .map(|work| {
                let deaths = before.get(&work).copied().unwrap_or(0) + 1;
                (work, deaths)
            })
            .collect();
        for (work, deaths) in counted {
            if deaths >= limit {
                self.effects.push(Effect::SetAside(work.clone()));
                self.effects.push(Effect::Say(Said::Poisoned { work, deaths }));
            } else {
                life.poison.insert(work, deaths);
            }
        }
    }
}

/// A stop that comes when the run is over decides what follows it.
fn redirected(mut end: End, why: Why) -> End {
    if end.then == Then::Policy {
        match why {
            Why::Asked => end.then = Then::Rest { failed: false },
            Why::Dependency { failed, text } => {
                (end.result, end.error, end.then) = (RunResult::Dependency, Some(text), Then::Rest { failed });
            }
            Why::NotReady
            | Why::Silent
            | Why::Triggered
            | Why::Announced
            | Why::Stuck
            | Why::Unhealthy { .. }
            | Why::OutOfMemory
            | Why::Exhausted { .. } => {}
        }
    }
    end
}

/// Whether a crash report is kept of a run that ended like this.
fn is_reported(result: RunResult) -> bool {
    match result {
        RunResult::Signal
        | RunResult::CoreDump
        | RunResult::Timeout
        | RunResult::Watchdog
        | RunResult::Progress
        | RunResult::Liveness
        | RunResult::OomKill => true,
        RunResult::Success
        | RunResult::ExitCode
        | RunResult::StartLimitHit
        | RunResult::Protocol
        | RunResult::Resources
        | RunResult::Sandbox
        | RunResult::Condition
        | RunResult::Dependency
        | RunResult::BudgetExhausted
        | RunResult::Lost => false,
    }
}

/// The end of a run that had no process.
///
/// A program that cannot be executed counts as an exit with the launcher's status, as in systemd (203/EXEC), so the policy
/// for exit statuses applies; where the machine had no room, as `resources`. A held lock means that something of an earlier
/// run still lives, which passes, so it is `resources` too. Every other stage is the sandbox: not cured by trying again.
pub(super) fn launch_end(failure: &LaunchFailure) -> End {
    let (result, exit) = match failure {
        LaunchFailure::Resources(_) => (RunResult::Resources, None),
        LaunchFailure::Refused(_) => (RunResult::Sandbox, None),
        LaunchFailure::Stage(report) => match (report.stage, errno_name(report.errno)) {
            (Stage::Exec, Some("ENOMEM" | "EAGAIN" | "EMFILE" | "ENFILE")) => (RunResult::Resources, None),
            (Stage::Exec, Some("ENOENT")) => (RunResult::ExitCode, Some(Exit::Code(EXIT_NOT_FOUND as u8))),
            (Stage::Exec, _) => (RunResult::ExitCode, Some(Exit::Code(EXIT_NOT_EXECUTABLE as u8))),
            (Stage::Lock, _) => (RunResult::Resources, None),
            (
                Stage::Plan
                | Stage::Gate
                | Stage::Session
                | Stage::Cgroup
                | Stage::Namespaces
                | Stage::Mounts
                | Stage::Directory
                | Stage::Rlimits
                | Stage::User
                | Stage::Privileges
                | Stage::Descriptors
                | Stage::Landlock
                | Stage::Seccomp,
                _,
            ) => (RunResult::Sandbox, None),
        },
    };
    End { result, exit, error: Some(words::launch_words(failure)), accomplished: false, then: Then::Policy }
}
