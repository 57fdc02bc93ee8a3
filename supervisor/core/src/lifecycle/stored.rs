//! stored: a unit's life as a record, and back.
//!
//! Job: what is written of a life, and what a new loomd makes of it. May touch: the types above it.
//! Keeps: a run that may still live is never forgotten; a policy is applied once per ended run.
//!
//! | record | found | becomes |
//! |---|---|---|
//! | of another boot, a run in it | – | ended as `lost`; wanted units start with their dependencies |
//! | intended | – | ended as `lost` (its launcher never got past the gate); the policy applies |
//! | live | alive | adopted in the same run; the ready timeout and the watchdog begin anew, the stable time goes on |
//! | live | gone | ended by its exit, or as `lost`; what it left is ended, then the policy applies |
//! | stopping | alive | told again; SIGKILL is due when it was |
//! | stopping | gone | the stop is done; a restart goes on with its start, a timeout or a watchdog with the policy |
//! | ended, a restart waits | – | waits on: by the monotonic clock in the same boot, else by the wall clock |
//! | ended, wanted, no restart waits | – | its start job died with loomd: started |

use super::{
    Effect, End, Exit, Identity, Life, Now, Phase, Record, RunResult, SIGABRT, State, Then, TreeEnd, Turn, Why,
    back_off, result_of,
};
use crate::fleet::Found;
use crate::ids::Millis;
use crate::unit::{ReadyKind, Unit};

/// What a new loomd makes of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Adopted {
    pub life: Life,
    pub effects: Vec<Effect>,
    pub repeat: Repeat,
}

/// Whether a start is to be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    No,
    /// This unit; each unit it pulled in has a record of its own.
    Alone,
    /// As at boot: with what it requires and wants.
    WithDependencies,
}

/// What is stored of a life. Wishes (`wanted`, `pulled_in_by`) and `since` are the fleet's to add.
pub(crate) fn record(life: &Life, boot_id: &str) -> Record {
    let base = Record {
        run: life.run,
        restarts: life.restarts,
        failures: life.failures,
        result: life.result,
        exit: life.exit,
        triggered_by: life.triggered_by.clone(),
        enforcement: life.enforcement.clone(),
        boot_id: boot_id.to_owned(),
        last_error: life.last_error.clone(),
        identity: life.state.identity().cloned(),
        ..Record::never_ran()
    };
    match &life.state {
        State::Down { failed } => Record { phase: Phase::Ended, failed: *failed, ..base },
        State::Reached => Record { phase: Phase::Ended, ready: true, ..base },
        State::Resting { at, wall } => {
            Record { phase: Phase::Ended, next_start: Some((boot_id.to_owned(), *at, *wall)), ..base }
        }
        State::Spawning { .. } | State::Abandoned { .. } => Record { phase: Phase::Intended, ..base },
        State::Launching { .. } | State::Starting { .. } => Record { phase: Phase::Live, ..base },
        State::Running { ready_at, .. } => {
            Record { phase: Phase::Live, ready: true, ready_at: Some(*ready_at), ..base }
        }
        // Nobody ends it; its own end is judged by its exit.
        State::Stopping { why: Why::Announced, ready, .. } => Record { phase: Phase::Live, ready: *ready, ..base },
        State::Stopping { why, kill_at, ready, .. } => {
            stopping(Record { kill_at: Some((boot_id.to_owned(), *kill_at)), ready: *ready, ..base }, why)
        }
        // Killed behind its gate: no more than an intention.
        State::Killing { overdue: false, .. } => Record { phase: Phase::Intended, identity: None, ..base },
        State::Killing { why, overdue: true, ready, .. } => {
            let why = if *why == Why::Announced { &Why::NotReady } else { why };
            stopping(Record { kill_at: Some((boot_id.to_owned(), Millis(0))), ready: *ready, ..base }, why)
        }
        State::Clearing { identity, end } => match end.then {
            Then::Policy => Record { phase: Phase::Live, identity: identity.clone(), ..base },
            Then::Rest { failed } => Record {
                phase: Phase::Stopping,
                identity: identity.clone(),
                result: end.result,
                exit: end.exit,
                failed,
                ..base
            },
        },
    }
}

/// A record whose result says why it is being ended.
fn stopping(base: Record, why: &Why) -> Record {
    let base = Record { phase: Phase::Stopping, ..base };
    match why {
        Why::Asked | Why::Announced => Record { result: RunResult::Success, ..base },
        Why::NotReady => Record { result: RunResult::Timeout, ..base },
        Why::Silent => Record { result: RunResult::Watchdog, ..base },
        Why::Dependency { failed, text } => {
            Record { result: RunResult::Dependency, failed: *failed, last_error: Some(text.clone()), ..base }
        }
    }
}

fn why_of(record: &Record) -> Why {
    match (record.result, record.wanted) {
        (RunResult::Dependency, _) => {
            Why::Dependency { failed: record.failed, text: record.last_error.clone().unwrap_or_default() }
        }
        (RunResult::Timeout, true) => Why::NotReady,
        (RunResult::Watchdog, true) => Why::Silent,
        (
            RunResult::Success
            | RunResult::ExitCode
            | RunResult::Signal
            | RunResult::CoreDump
            | RunResult::Timeout
            | RunResult::Watchdog
            | RunResult::Progress
            | RunResult::Liveness
            | RunResult::OomKill
            | RunResult::StartLimitHit
            | RunResult::Condition
            | RunResult::BudgetExhausted
            | RunResult::Resources
            | RunResult::Protocol
            | RunResult::Sandbox
            | RunResult::Lost,
            _,
        ) => Why::Asked,
    }
}

/// Makes of a record what a new loomd goes on with. The module's table says what.
pub fn adopt(unit: &Unit, record: &Record, found: &Found, boot_id: &str, now: Now) -> Adopted {
    let mut turn = Turn { unit, now, effects: vec![] };
    let mut life = Life {
        run: record.run,
        state: State::Down { failed: record.failed },
        restarts: record.restarts,
        failures: record.failures,
        result: record.result,
        exit: record.exit,
        last_error: record.last_error.clone(),
        triggered_by: record.triggered_by.clone(),
        enforcement: record.enforcement.clone(),
        status_text: None,
    };
    let same_boot = record.boot_id == boot_id;
    let boot_start = if record.wanted { Repeat::WithDependencies } else { Repeat::No };
    let repeat = match (record.phase, same_boot) {
        (Phase::Intended | Phase::Live | Phase::Stopping, false) => {
            let end =
                End { error: Some("the machine went down under it".into()), ..lost(Then::Rest { failed: false }) };
            turn.conclude(&mut life, end);
            boot_start
        }
        (Phase::Ended, _) => match &record.next_start {
            Some((_, at, wall)) if record.wanted => {
                let left = Millis(wall.saturating_sub(now.wall));
                // A wall clock that was set back must not turn a short wait into a long one.
                let longest = super::wait(&unit.restart, record.failures, u64::MAX).max(back_off(&unit.restart, 1));
                let at = if same_boot { *at } else { now.mono + left.min(longest) };
                life.state = State::Resting { at, wall: *wall };
                Repeat::No
            }
            Some(_) | None if record.wanted && same_boot => Repeat::Alone,
            Some(_) | None => boot_start,
        },
        (Phase::Intended, true) => {
            let then = if record.wanted { Then::Policy } else { Then::Rest { failed: false } };
            let text = "loomd died before its launcher was let go".into();
            turn.conclude(&mut life, End { error: Some(text), ..lost(then) });
            Repeat::No
        }
        (Phase::Live, true) => {
            match (found, record.identity.clone()) {
                (Found::Alive, Some(identity)) => life.state = turn.alive(record, identity),
                (Found::Gone(exit), identity) => turn.gone(&mut life, record, identity, *exit),
                (Found::Alive, None) => turn.gone(&mut life, record, None, Exit::Unknown),
            }
            Repeat::No
        }
        (Phase::Stopping, true) => {
            let why = why_of(record);
            match (found, record.identity.clone()) {
                (Found::Alive, Some(identity)) => life.state = turn.still_ending(record, identity, why, boot_id),
                (Found::Gone(exit), identity) => {
                    life.state = State::Clearing { identity, end: turn.ended_for(why, false, Some(*exit)) };
                    turn.effects.push(Effect::EndTree(TreeEnd::Kill));
                }
                (Found::Alive, None) => {
                    life.state = State::Clearing { identity: None, end: turn.ended_for(why, false, None) };
                    turn.effects.push(Effect::EndTree(TreeEnd::Kill));
                }
            }
            // It was to be down and then up.
            if record.wanted && why_of(record) == Why::Asked { Repeat::Alone } else { Repeat::No }
        }
    };
    Adopted { life, effects: turn.effects, repeat }
}

fn lost(then: Then) -> End {
    End { result: RunResult::Lost, exit: None, error: None, accomplished: false, then }
}

impl Turn<'_> {
    fn alive(&self, record: &Record, identity: Identity) -> State {
        let up = match self.unit.ready.kind {
            // Its gate was opened after this record, and only loomd's death could have closed it.
            ReadyKind::Exec => true,
            ReadyKind::Notify | ReadyKind::NotifyReload => record.ready,
            ReadyKind::Oneshot => false,
        };
        if up {
            let silent_at = self.unit.watchdog.interval.map(|interval| self.now.mono + interval);
            let ready_at = record.ready_at.unwrap_or(self.now.mono).min(self.now.mono);
            State::Running { identity, ready_at, silent_at }
        } else {
            State::Starting { identity, ready_by: self.now.mono + self.unit.ready.timeout }
        }
    }

    fn gone(&mut self, life: &mut Life, record: &Record, identity: Option<Identity>, exit: Exit) {
        if let Some(ready_at) = record.ready_at
            && self.now.mono >= ready_at + self.unit.restart.reset_after
            && result_of(&self.unit.restart, exit) != RunResult::Lost
        {
            life.failures = 0;
        }
        let mut end = self.ended_itself(exit, record.ready);
        if !record.wanted {
            end.then = Then::Rest { failed: false };
        }
        self.effects.push(Effect::EndTree(TreeEnd::Kill));
        life.state = State::Clearing { identity, end };
    }

    fn still_ending(&mut self, record: &Record, identity: Identity, why: Why, boot_id: &str) -> State {
        let signal = if why == Why::Silent { SIGABRT } else { self.unit.stop.signal };
        let kill_at = match &record.kill_at {
            Some((boot, at)) if boot == boot_id => *at,
            Some(_) | None => self.now.mono + self.unit.stop.timeout,
        };
        if kill_at <= self.now.mono {
            self.effects.push(Effect::EndTree(TreeEnd::Kill));
            State::Killing { identity, why, overdue: true, ready: record.ready }
        } else {
            self.effects.push(Effect::Signal(signal));
            State::Stopping { identity, why, kill_at, ready: record.ready }
        }
    }
}
