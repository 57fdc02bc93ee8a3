//! clocks: what has to happen in time.
//!
//! Job: the watchdog, progress, want of memory, and what a `Tick` finds late. May touch: the types beside it, `unit`.
//! Keeps: `WATCHDOG=1` never counts as progress; an agent that waits on purpose is never late; a `Tick` at a deadline
//! leaves no deadline behind that has passed.

use super::life::Pace;
use super::turn::{Alive, Turn, take, take_alive};
use super::{Effect, Force, Life, Notify, Said, State, TreeEnd, Why};
use crate::ids::Millis;
use crate::unit::{KillMode, OomPolicy, ProgressAction};

pub(super) const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
const SIGUSR1: i32 = 10;

/// News that the kernel killed a process, and that the main one is gone, come on two ways, this far apart at most.
const OOM_NEWS_APART: Millis = Millis(250);
/// Waiting on purpose is stored when it has lasted so long.
const IDLE_NOTED_AFTER: Millis = Millis(2_000);

impl Turn<'_> {
    /// The longest silence that is allowed, if one is set. `WATCHDOG_USEC` of its own counts more than the unit file.
    pub(super) fn silence(&self, life: &Life) -> Option<Millis> {
        life.watch.interval.or(self.unit.watchdog.interval).filter(|interval| *interval > Millis(0))
    }

    pub(super) fn begin_progress(&self, life: &mut Life) {
        life.watch.pace = match self.unit.watchdog.progress {
            None => Pace::Off,
            Some(left) if life.watch.idle => Pace::Stands { left },
            Some(limit) => Pace::Runs { late_at: self.now.mono + limit },
        };
    }

    pub(super) fn heard_of_watchdog(&self, life: &mut Life, notify: &Notify) {
        life.watch.interval = notify.watchdog_interval.or(life.watch.interval);
        if notify.watchdog || notify.watchdog_interval.is_some() {
            let late = self.silence(life).map(|interval| self.now.mono + interval);
            if let State::Running { silent_at, .. } = &mut life.state {
                *silent_at = late;
            }
        }
    }

    pub(super) fn heard_of_progress(&self, life: &mut Life, notify: &Notify) {
        if notify.progress {
            self.progressed(life, self.now.mono);
        }
        let (Some(idle), Some(limit)) = (notify.idle, self.unit.watchdog.progress) else { return };
        if !life.state.is_live() {
            return;
        }
        let watch = &mut life.watch;
        if idle != watch.idle {
            watch.note_idle_at = idle.then(|| self.now.mono + IDLE_NOTED_AFTER);
            watch.idle_noted = false;
        }
        watch.idle = idle;
        watch.pace = match watch.pace {
            Pace::Off => Pace::Off,
            Pace::Runs { late_at } if idle => Pace::Stands { left: late_at - self.now.mono },
            Pace::Late | Pace::Interrupted { .. } if idle => Pace::Stands { left: limit },
            Pace::Stands { left } if !idle => Pace::Runs { late_at: self.now.mono + left },
            same @ (Pace::Runs { .. } | Pace::Stands { .. } | Pace::Late | Pace::Interrupted { .. }) => same,
        };
    }

    pub(super) fn progressed(&self, life: &mut Life, at: Millis) {
        let Some(limit) = self.unit.watchdog.progress else { return };
        let late = at.min(self.now.mono) + limit;
        life.watch.pace = match life.watch.pace {
            Pace::Runs { late_at } => Pace::Runs { late_at: late_at.max(late) },
            Pace::Late | Pace::Interrupted { .. } if late > self.now.mono => Pace::Runs { late_at: late },
            Pace::Stands { .. } => Pace::Stands { left: limit },
            same @ (Pace::Off | Pace::Late | Pace::Interrupted { .. }) => same,
        };
    }

    /// Ends a process that hangs: SIGABRT, so that it can write its stacks, then SIGKILL of the tree.
    pub(super) fn abort(&mut self, life: &mut Life, why: Why) {
        let Some(Alive { identity, ready, reload }) = take_alive(life) else { return };
        self.leave(life, reload);
        self.effects.extend([Effect::Inspect, Effect::Signal(SIGABRT)]);
        let kill_at = self.now.mono + self.unit.watchdog.abort_timeout;
        life.state = State::Stopping { identity, why, kill_at, ready };
    }

    pub(super) fn oom_killed(&mut self, life: &mut Life) {
        match &mut life.state {
            State::Clearing { end, .. } | State::Posting { end, .. } => end.blame_memory(),
            State::Launching { .. } | State::Starting { .. } | State::Running { .. } => {
                life.watch.oom_until.get_or_insert(self.now.mono + OOM_NEWS_APART);
            }
            State::Preparing { .. }
            | State::Remaining { .. }
            | State::Commanding { .. }
            | State::Stopping { .. }
            | State::Killing { .. } => self.effects.push(Effect::Say(Said::OomKilled)),
            State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Checking { .. }
            | State::Spawning { .. }
            | State::Abandoned { .. } => {}
        }
    }

    pub(super) fn tick(&mut self, life: &mut Life) {
        let now = self.now.mono;
        match take(life) {
            State::Checking { ready_by } if ready_by <= now => {
                let end = self.ended_for(life, Why::NotReady, false, None);
                self.conclude(life, end);
            }
            State::Preparing { ready_by, .. } if ready_by <= now => {
                self.effects.push(Effect::Inspect);
                let end = self.ended_for(life, Why::NotReady, false, None);
                self.clear_preparation(life, end);
            }
            State::Spawning { ready_by } if ready_by <= now => life.state = State::Abandoned { why: Why::NotReady },
            State::Launching { identity, ready_by } | State::Starting { identity, ready_by } if ready_by <= now => {
                self.effects.push(Effect::Inspect);
                self.tell(life, identity, Why::NotReady, false);
            }
            State::Running { identity, ready_at, silent_at, reload } => {
                life.state = State::Running { identity, ready_at, silent_at, reload };
                self.time_run(life);
            }
            State::Commanding { main, why, until } if until <= now => {
                self.effects.push(Effect::EndControl(super::Control::Stop));
                self.commanded(life, main, why);
            }
            State::Stopping { identity, why, kill_at, ready } if kill_at <= now => {
                self.kill_run();
                life.state = State::Killing { identity, why, force: Force::Late, ready };
            }
            State::Remaining { exit, kill_at: Some(kill_at) } if kill_at <= now => {
                self.effects.push(Effect::EndTree(TreeEnd::Kill));
                life.state = State::Remaining { exit, kill_at: None };
            }
            State::Clearing { identity, end, kill_at: Some(kill_at), post } if kill_at <= now => {
                self.effects.push(Effect::EndTree(TreeEnd::Kill));
                life.state = State::Clearing { identity, end, kill_at: None, post };
            }
            State::Posting { identity, end, post, until: Some(until) } if until <= now => {
                self.effects.push(Effect::EndControl(super::Control::StopPost(post)));
                life.state = State::Posting { identity, end, post, until: None };
            }
            // Woken early.
            same @ (State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Checking { .. }
            | State::Preparing { .. }
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Remaining { .. }
            | State::Commanding { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Clearing { .. }
            | State::Posting { .. }) => life.state = same,
        }
        self.time_memory(life);
    }

    /// What is late of a unit that runs; at most one of it ends the run.
    fn time_run(&mut self, life: &mut Life) {
        let now = self.now.mono;
        if life.watch.note_idle_at.is_some_and(|at| at <= now) {
            (life.watch.note_idle_at, life.watch.idle_noted) = (None, true);
        }
        if let State::Running { reload: late, .. } = &mut life.state
            && late.as_ref().is_some_and(|reload| reload.late_at <= now)
            && let Some(reload) = late.take()
        {
            let text = format!(
                "it did not end within ready.timeout ({}), still without {}",
                super::span(self.unit.ready.timeout),
                match reload.awaits {
                    super::Awaits::Nothing => "the end of `exec.reload`",
                    super::Awaits::Reloading => "RELOADING=1",
                    super::Awaits::Ready => "READY=1",
                }
            );
            self.reload_failed(life, &reload, text);
        }
        if let State::Running { silent_at: Some(late), .. } = &life.state
            && *late <= now
        {
            return self.abort(life, Why::Silent);
        }
        match life.watch.pace {
            Pace::Runs { late_at } if late_at <= now => {
                let limit = self.unit.watchdog.progress.unwrap_or_default();
                match self.unit.watchdog.progress_action {
                    ProgressAction::Notify => {
                        life.watch.pace = Pace::Late;
                        let since = (now - late_at) + limit;
                        self.effects.push(Effect::Say(Said::NoProgress { since }));
                    }
                    ProgressAction::Interrupt => {
                        let abort_at = now + self.unit.watchdog.abort_timeout;
                        life.watch.pace = Pace::Interrupted { abort_at };
                        self.effects.push(Effect::Signal(SIGUSR1));
                    }
                    ProgressAction::Restart => return self.abort(life, Why::Stuck),
                }
            }
            Pace::Interrupted { abort_at } if abort_at <= now => return self.abort(life, Why::Stuck),
            Pace::Off | Pace::Runs { .. } | Pace::Stands { .. } | Pace::Late | Pace::Interrupted { .. } => {}
        }
        self.time_probe(life);
    }

    /// The main process has not ended, so the kernel killed another.
    fn time_memory(&mut self, life: &mut Life) {
        if !life.is_let_live() || life.watch.oom_until.is_none_or(|until| until > self.now.mono) {
            return;
        }
        life.watch.oom_until = None;
        self.effects.push(Effect::Say(Said::OomKilled));
        match self.unit.limits.oom_policy {
            OomPolicy::Continue => {}
            OomPolicy::Stop => {
                self.effects.push(Effect::Inspect);
                self.end_run(life, Why::OutOfMemory);
            }
            OomPolicy::Kill => {
                self.effects.push(Effect::Inspect);
                self.kill_for(life, Why::OutOfMemory);
            }
        }
    }

    /// Kills what the unit's `stop.kill_mode` allows.
    pub(super) fn kill_run(&mut self) {
        self.effects.push(match self.unit.stop.kill_mode {
            KillMode::Mixed | KillMode::ControlGroup => Effect::EndTree(TreeEnd::Kill),
            KillMode::Process => Effect::Signal(SIGKILL),
        });
    }
}
