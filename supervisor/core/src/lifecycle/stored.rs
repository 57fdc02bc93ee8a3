//! stored: a unit's life as a record, and back.
//!
//! Job: what is written of a life, and what a new loomd makes of it. May touch: the types above it.
//! Keeps: a run that may still live is never forgotten; a policy is applied once per ended run.
//!
//! | record | found | becomes |
//! |---|---|---|
//! | of another boot, a run in it | – | ended as `lost`; wanted units start with their dependencies |
//! | intended | – | ended as `lost` (its launcher never got past the gate); the policy applies |
//! | intended, with `start_pre` | – | what may be left of that is killed first |
//! | live | alive | adopted in the same run; watchdog, progress and probes begin anew, the other limits stay, the stable time goes on |
//! | live, reloading | alive | still awaits READY=1; an `exec.reload` that ran is nobody's any more |
//! | live | gone | ended by its exit, or as `lost`; what it left is ended, then the policy applies |
//! | stopping | alive | told again; SIGKILL is due when it was |
//! | stopping, in `stop.command` | alive | the signal follows at once |
//! | stopping | gone | the stop is done; a restart goes on with its start, a timeout or a watchdog with the policy |
//! | stopping, main process gone | – | what it left is ended, in what is left of its time |
//! | stopping, in `stop.post` | – | what is left of that command is killed, and it is run again |
//! | ended, exited and remaining | – | remains in the same boot; started in another |
//! | ended, a restart waits | – | waits on: by the monotonic clock in the same boot, else by the wall clock |
//! | ended, wanted, no restart waits | – | its start job died with loomd: started |
//!
//! What helped a run that is adopted is not adopted: its tree ends it with the run.

use super::budget::Tally;
use super::clocks::SIGABRT;
use super::life::Watch;
use super::probes::Probes;
use super::turn::Turn;
use super::{
    Awaits, Death, Effect, End, Exit, Force, Identity, Life, Main, Now, Reload, RunResult, State, Then, TreeEnd, Why,
    back_off, result_of,
};
use crate::fleet::Found;
use crate::ids::{Millis, RunId};
use crate::machine::Enforcement;
use crate::unit::{KillMode, ReadyKind, Unit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A run that is adopted gets at least so long to say what it said to nobody while no loomd lived.
const ADOPTED_GETS: Millis = Millis(5_000);

/// What is stored of a unit, before what depends on it is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this record's form; 1.
    pub version: u32,
    /// The newest run.
    pub run: RunId,
    /// Where that run stands.
    pub phase: Phase,
    /// Known from `Live` on.
    pub identity: Option<Identity>,
    /// A person or a dependency wants it up.
    pub wanted: bool,
    /// Automatic restarts since a person's start.
    pub restarts: u64,
    /// Failures in a row since the last stable run.
    pub failures: u32,
    /// Result of the last ended run.
    pub result: RunResult,
    /// Exit of the last ended run.
    pub exit: Option<Exit>,
    /// When the unit entered its active_state, wall clock.
    pub since: u64,
    /// Who or what caused the newest run: `person`, `dependency chat.agent`, `restart`.
    pub triggered_by: String,
    /// A waiting restart: boot id, monotonic and wall time.
    pub next_start: Option<(String, Millis, u64)>,
    /// When SIGKILL is due, if stopping: boot id, monotonic.
    pub kill_at: Option<(String, Millis)>,
    /// Environment facts and enforcement shown by `status` for the live run.
    pub enforcement: Vec<Enforcement>,
    /// READY came (or execve succeeded, for type exec) in the live run.
    pub ready: bool,
    /// When it did, on the monotonic clock of `boot_id`.
    #[serde(default)]
    pub ready_at: Option<Millis>,
    /// The boot in which this was written.
    #[serde(default)]
    pub boot_id: String,
    /// It is down because it failed, and says so until it is started again.
    #[serde(default)]
    pub failed: bool,
    /// Why the last start failed.
    #[serde(default)]
    pub last_error: Option<String>,
    /// The unit whose start pulled this one in; `None` if a person asked for it.
    #[serde(default)]
    pub pulled_in_by: Option<crate::ids::UnitId>,
    /// Of a target with a group: when it restarted, within its period, on the monotonic clock of `boot_id`.
    #[serde(default)]
    pub group_restarts: Vec<Millis>,
    /// Since when its processes stand still, on the monotonic clock of `boot_id`.
    #[serde(default)]
    pub frozen_at: Option<Millis>,
    /// `start_pre` may have left something of this run.
    #[serde(default)]
    pub prepared: bool,
    /// When its start is late, on the monotonic clock of `boot_id`.
    #[serde(default)]
    pub ready_by: Option<Millis>,
    /// It came to a clean end and stays up.
    #[serde(default)]
    pub remains: bool,
    /// `READY=1` is awaited in a reload until then, on the monotonic clock of `boot_id`.
    #[serde(default)]
    pub reload_by: Option<Millis>,
    /// Why it is being ended; if not there, `result` says it.
    #[serde(default)]
    pub why: Option<Why>,
    /// It is being killed, and why.
    #[serde(default)]
    pub force: Option<Force>,
    /// How its main process ended, while what it left is being ended.
    #[serde(default)]
    pub end: Option<End>,
    /// The command of `stop.post` that runs, or comes next.
    #[serde(default)]
    pub post: u16,
    /// `X_LOOM_IDLE=1`, for a while.
    #[serde(default)]
    pub idle: bool,
    /// `WATCHDOG_USEC=`
    #[serde(default)]
    pub watchdog_interval: Option<Millis>,
    /// `X_LOOM_RETRY_AFTER=`
    #[serde(default)]
    pub retry_after: Option<Millis>,
    /// Its startup probe has passed.
    #[serde(default)]
    pub started: bool,
    /// How long the waiting restart waits in all.
    #[serde(default)]
    pub rest: Option<Millis>,
    /// When it was started automatically, on the monotonic clock of `boot_id`.
    #[serde(default)]
    pub starts: Vec<Millis>,
    /// What it used of its budget; `running_since` on the monotonic clock of `boot_id`.
    #[serde(default)]
    pub tally: Tally,
    /// How many runs in a row died with this event or task in hand.
    #[serde(default)]
    pub poison: BTreeMap<String, u32>,
    /// The last runs that failed, the newest last.
    #[serde(default)]
    pub deaths: Vec<Death>,
}

impl Record {
    /// The record of a unit that never ran.
    pub fn never_ran() -> Self {
        Self {
            version: 1,
            run: RunId(0),
            phase: Phase::Ended,
            identity: None,
            wanted: false,
            restarts: 0,
            failures: 0,
            result: RunResult::Success,
            exit: None,
            since: 0,
            triggered_by: String::new(),
            next_start: None,
            kill_at: None,
            enforcement: Vec::new(),
            ready: false,
            ready_at: None,
            boot_id: String::new(),
            failed: false,
            last_error: None,
            pulled_in_by: None,
            group_restarts: Vec::new(),
            frozen_at: None,
            prepared: false,
            ready_by: None,
            remains: false,
            reload_by: None,
            why: None,
            force: None,
            end: None,
            post: 0,
            idle: false,
            watchdog_interval: None,
            retry_after: None,
            started: false,
            rest: None,
            starts: Vec::new(),
            tally: Tally::default(),
            poison: BTreeMap::new(),
            deaths: Vec::new(),
        }
    }
}

/// Where a stored run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Numbered; the launcher may exist but is closed behind its gate.
    Intended,
    /// Its identity is stored.
    Live,
    /// Told to end.
    Stopping,
    /// Over.
    Ended,
}

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
        starts: life.starts.clone(),
        tally: life.noted.clone(),
        poison: life.poison.clone(),
        deaths: life.deaths.clone(),
        ..Record::never_ran()
    };
    let live = |phase| Record {
        phase,
        idle: life.watch.idle_noted,
        watchdog_interval: life.watch.interval,
        retry_after: life.watch.retry_after,
        started: life.watch.probes.started,
        ..base.clone()
    };
    let at = |at: &Millis| Some((boot_id.to_owned(), *at));
    match &life.state {
        State::Down { failed } => Record { phase: Phase::Ended, failed: *failed, ..base },
        State::Reached => Record { phase: Phase::Ended, ready: true, ..base },
        State::Resting { at, wall } => Record {
            phase: Phase::Ended,
            next_start: Some((boot_id.to_owned(), *at, *wall)),
            rest: Some(life.rest),
            ..base
        },
        State::Checking { .. } => Record { phase: Phase::Intended, ..base },
        State::Preparing { .. } | State::Spawning { .. } | State::Abandoned { .. } => {
            Record { phase: Phase::Intended, prepared: true, ..base }
        }
        State::Launching { ready_by, .. } | State::Starting { ready_by, .. } => {
            Record { ready_by: Some(*ready_by), ..live(Phase::Live) }
        }
        State::Running { ready_at, reload, .. } => Record {
            ready: true,
            ready_at: Some(*ready_at),
            reload_by: reload.as_ref().filter(|reload| !reload.command).map(|reload| reload.late_at),
            ..live(Phase::Live)
        },
        State::Remaining { kill_at, .. } => {
            Record { phase: Phase::Ended, remains: true, kill_at: kill_at.as_ref().and_then(at), ..base }
        }
        State::Commanding { main: Main::Lives { .. }, why, .. } => {
            Record { ready: true, ..stopping(live(Phase::Stopping), why) }
        }
        State::Commanding { main: Main::Ended { exit }, why, .. } => {
            Record { exit: Some(*exit), remains: true, ..stopping(base, why) }
        }
        // Nobody ends it; its own end is judged by its exit.
        State::Stopping { why: Why::Announced, ready, .. } => Record { ready: *ready, ..live(Phase::Live) },
        State::Stopping { why, kill_at, ready, .. } => {
            Record { kill_at: at(kill_at), ready: *ready, ..stopping(live(Phase::Stopping), why) }
        }
        // Killed behind its gate: no more than an intention.
        State::Killing { force: Force::BehindGate, .. } => {
            Record { phase: Phase::Intended, identity: None, prepared: true, ..base }
        }
        State::Killing { why, force: force @ (Force::Late | Force::Asked), ready, .. } => {
            let why = if *why == Why::Announced { &Why::NotReady } else { why };
            Record {
                kill_at: at(&Millis(0)),
                force: Some(*force),
                ready: *ready,
                ..stopping(live(Phase::Stopping), why)
            }
        }
        State::Clearing { identity, end, kill_at, post } => Record {
            identity: identity.clone(),
            kill_at: at(&kill_at.unwrap_or_default()),
            post: *post,
            ..ended(live(Phase::Stopping), end)
        },
        State::Posting { identity, end, post, .. } => {
            Record { identity: identity.clone(), post: *post, ..ended(live(Phase::Stopping), end) }
        }
    }
}

/// A record whose result says why it is being ended, also to a loomd that does not know `why`.
fn stopping(base: Record, why: &Why) -> Record {
    let base = Record { phase: Phase::Stopping, why: Some(why.clone()), ..base };
    match why {
        Why::Asked | Why::Announced => Record { result: RunResult::Success, ..base },
        Why::NotReady => Record { result: RunResult::Timeout, ..base },
        Why::Silent | Why::Triggered => Record { result: RunResult::Watchdog, ..base },
        Why::Stuck => Record { result: RunResult::Progress, ..base },
        Why::Unhealthy { .. } => Record { result: RunResult::Liveness, ..base },
        Why::OutOfMemory => Record { result: RunResult::OomKill, ..base },
        Why::Exhausted { .. } => Record { result: RunResult::BudgetExhausted, ..base },
        Why::Dependency { failed, text } => {
            Record { result: RunResult::Dependency, failed: *failed, last_error: Some(text.clone()), ..base }
        }
    }
}

/// A record of a run whose main process is gone.
fn ended(base: Record, end: &End) -> Record {
    let failed = match end.then {
        Then::Policy => false,
        Then::Rest { failed } => failed,
    };
    Record { result: end.result, exit: end.exit, failed, end: Some(end.clone()), ..base }
}

fn why_of(record: &Record) -> Why {
    if let Some(why) = &record.why {
        return why.clone();
    }
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
    let same_boot = record.boot_id == boot_id;
    let mut life = remembered(record, same_boot);
    let boot_start = if record.wanted { Repeat::WithDependencies } else { Repeat::No };
    // A run that was to be down and then up.
    let second_half = if record.wanted { Repeat::Alone } else { Repeat::No };
    let repeat = match (record.phase, same_boot) {
        (Phase::Intended | Phase::Live | Phase::Stopping, false) => {
            let end =
                End { error: Some("the machine went down under it".into()), ..lost(Then::Rest { failed: false }) };
            turn.conclude(&mut life, end);
            boot_start
        }
        (Phase::Ended, true) if record.remains => {
            let kill_at = record.kill_at.as_ref().map(|(_, at)| *at);
            if kill_at.is_some() {
                turn.effects.push(Effect::EndTree(TreeEnd::Terminate(unit.stop.signal)));
            }
            life.state = State::Remaining { exit: record.exit.unwrap_or(Exit::Unknown), kill_at };
            Repeat::No
        }
        (Phase::Ended, _) => match &record.next_start {
            Some((_, at, wall)) if record.wanted => {
                let left = Millis(wall.saturating_sub(now.wall));
                // A wall clock that was set back must not turn a short wait into a long one.
                let longest = record.rest.unwrap_or_else(|| {
                    super::wait(&unit.restart, record.failures, u64::MAX).max(back_off(&unit.restart, 1))
                });
                let at = if same_boot { *at } else { now.mono + left.min(longest) };
                life.state = State::Resting { at, wall: *wall };
                Repeat::No
            }
            Some(_) | None if record.wanted && same_boot => Repeat::Alone,
            Some(_) | None => boot_start,
        },
        (Phase::Intended, true) => {
            let then = if record.wanted { Then::Policy } else { Then::Rest { failed: false } };
            let end = End { error: Some("loomd died before its launcher was let go".into()), ..lost(then) };
            let prepares = unit.exec.as_ref().is_some_and(|exec| !exec.start_pre.is_empty());
            if record.prepared && prepares {
                turn.effects.push(Effect::EndTree(TreeEnd::Kill));
                life.state = State::Clearing { identity: None, end, kill_at: None, post: 0 };
            } else {
                turn.conclude(&mut life, end);
            }
            Repeat::No
        }
        (Phase::Live, true) => {
            match (found, record.identity.clone()) {
                (Found::Alive, Some(identity)) => life.state = turn.alive(&mut life, record, identity),
                (Found::Gone(exit), identity) => turn.gone(&mut life, record, identity, *exit),
                (Found::Alive, None) => turn.gone(&mut life, record, None, Exit::Unknown),
            }
            Repeat::No
        }
        (Phase::Stopping, true) => {
            if let Some(end) = &record.end {
                turn.still_clearing(&mut life, record, end.clone());
                match end.then {
                    Then::Policy => Repeat::No,
                    Then::Rest { .. } => second_half,
                }
            } else {
                let why = why_of(record);
                let is_second_half = why == Why::Asked;
                match (found, record.identity.clone()) {
                    (Found::Alive, Some(identity)) => turn.still_ending(&mut life, record, identity, why),
                    (Found::Gone(exit), identity) => {
                        let exit = if record.remains { record.exit.unwrap_or(*exit) } else { *exit };
                        let end = turn.ended_for(&life, why, false, Some(exit));
                        turn.clear(&mut life, identity, end, None);
                    }
                    (Found::Alive, None) => {
                        let end = turn.ended_for(&life, why, false, None);
                        turn.clear(&mut life, None, end, None);
                    }
                }
                if is_second_half { second_half } else { Repeat::No }
            }
        }
    };
    turn.settle(&mut life);
    Adopted { life, effects: turn.effects, repeat }
}

/// A life before it is known what became of its run.
fn remembered(record: &Record, same_boot: bool) -> Life {
    // Nobody knows how long a process of another boot ran.
    let tally = Tally { running_since: record.tally.running_since.filter(|_| same_boot), ..record.tally.clone() };
    Life {
        run: record.run,
        state: State::Down { failed: record.failed },
        restarts: record.restarts,
        failures: record.failures,
        result: record.result,
        exit: record.exit,
        last_error: record.last_error.clone(),
        triggered_by: record.triggered_by.clone(),
        enforcement: record.enforcement.clone(),
        deaths: record.deaths.clone(),
        noted: record.tally.clone(),
        tally,
        starts: if same_boot { record.starts.clone() } else { Vec::new() },
        poison: record.poison.clone(),
        rest: record.rest.unwrap_or_default(),
        watch: Watch {
            idle: record.idle,
            idle_noted: record.idle,
            interval: record.watchdog_interval,
            retry_after: record.retry_after,
            probes: Probes::adopted(record.started),
            ..Watch::default()
        },
        ..Life::new()
    }
}

fn lost(then: Then) -> End {
    End { result: RunResult::Lost, exit: None, error: None, accomplished: false, then }
}

impl Turn<'_> {
    fn alive(&self, life: &mut Life, record: &Record, identity: Identity) -> State {
        let up = match self.unit.ready.kind {
            // Its gate was opened after this record, and only loomd's death could have closed it.
            ReadyKind::Exec => true,
            ReadyKind::Notify | ReadyKind::NotifyReload => record.ready,
            ReadyKind::Oneshot => false,
        };
        let soon = self.now.mono + ADOPTED_GETS;
        if !up {
            let ready_by = record.ready_by.map_or(self.now.mono + self.unit.ready.timeout, |at| at.max(soon));
            return State::Starting { identity, ready_by };
        }
        let ready_at = record.ready_at.unwrap_or(self.now.mono).min(self.now.mono);
        let mut state = self.running(life, identity, ready_at);
        if let State::Running { reload, .. } = &mut state {
            *reload = record.reload_by.map(|late_at| Reload {
                late_at: late_at.max(soon),
                asked: false,
                command: false,
                awaits: Awaits::Ready,
            });
        }
        state
    }

    fn gone(&mut self, life: &mut Life, record: &Record, identity: Option<Identity>, exit: Exit) {
        if let Some(ready_at) = record.ready_at
            && self.now.mono >= ready_at + self.unit.restart.reset_after
            && result_of(&self.unit.restart, exit) != RunResult::Lost
        {
            life.failures = 0;
            life.poison.clear();
        }
        let mut end = self.ended_itself(life, exit, record.ready);
        if !record.wanted {
            end.then = Then::Rest { failed: false };
        }
        self.clear(life, identity, end, None);
    }

    fn still_ending(&mut self, life: &mut Life, record: &Record, identity: Identity, why: Why) {
        let ready = record.ready;
        match &record.kill_at {
            Some((_, kill_at)) if *kill_at <= self.now.mono => {
                self.kill_run();
                let force = record.force.unwrap_or(Force::Late);
                life.state = State::Killing { identity, why, force, ready };
            }
            Some((_, kill_at)) => {
                self.effects.push(match self.unit.stop.kill_mode {
                    _ if why.hangs() => Effect::Signal(SIGABRT),
                    KillMode::Mixed | KillMode::Process => Effect::Signal(self.unit.stop.signal),
                    KillMode::ControlGroup => Effect::SignalAll(self.unit.stop.signal),
                });
                life.state = State::Stopping { identity, why, kill_at: *kill_at, ready };
            }
            None => self.tell(life, identity, why, ready),
        }
    }

    /// The main process was gone already.
    fn still_clearing(&mut self, life: &mut Life, record: &Record, end: End) {
        let identity = record.identity.clone();
        match &record.kill_at {
            Some((_, kill_at)) if *kill_at > self.now.mono => self.clear(life, identity, end, Some(*kill_at)),
            Some(_) | None => {
                self.effects.push(Effect::EndTree(match self.unit.stop.kill_mode {
                    KillMode::Process => TreeEnd::Leave,
                    KillMode::Mixed | KillMode::ControlGroup => TreeEnd::Kill,
                }));
                life.state = State::Clearing { identity, end, kill_at: None, post: record.post };
            }
        }
    }
}
