//! life: what is known of one unit.
//!
//! Job: its state, what is remembered of its runs, what is watched of the live one, and when something is due.
//! May touch: the types beside it, `unit`. Keeps: every list has a limit; what is due lies ahead or is done at the next `Tick`.

use super::budget::Tally;
use super::probes::Probes;
use super::{CRASH_LOOPING_FROM, End, Exit, RunResult, State};
use crate::ids::{Millis, RunId};
use crate::machine::Enforcement;
use crate::unit::Unit;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many deaths are remembered of a unit.
pub const DEATHS_MAX: usize = 5;
/// How many events and tasks in hand are remembered of a run; more are not counted against poison.
pub const IN_HAND_MAX: usize = 64;
/// How many automatic starts are remembered for the start limit; a `limit_burst` beyond counts as this.
pub const STARTS_MAX: usize = 1024;

/// A unit's standing, and what is remembered of its newest run.
#[derive(Debug, Clone, PartialEq)]
pub struct Life {
    /// The newest run; 0 before the first.
    pub run: RunId,
    pub state: State,
    /// Automatic restarts since it was last asked to start.
    pub restarts: u64,
    /// Failures in a row since the last stable run.
    pub failures: u32,
    /// Of the last ended run.
    pub result: RunResult,
    /// Of the last ended run.
    pub exit: Option<Exit>,
    /// Why the last run failed; cleared when one is up.
    pub last_error: Option<String>,
    /// What caused the newest run.
    pub triggered_by: String,
    /// Of the newest run.
    pub enforcement: Vec<Enforcement>,
    /// `STATUS=` of the newest run.
    pub status_text: Option<String>,
    /// `ERRNO=` of the newest run.
    pub errno: Option<i32>,
    /// The last runs that failed or were lost, the newest last; at most [`DEATHS_MAX`].
    pub deaths: Vec<Death>,
    /// What it used of its budget.
    pub(super) tally: Tally,
    /// The same, as it is stored: written when a share of the budget was used, not at every call.
    pub(super) noted: Tally,
    /// When it was started automatically, monotonic, the oldest first; only with a start limit.
    pub(super) starts: Vec<Millis>,
    /// How many runs in a row died with this event or task in hand.
    pub(super) poison: BTreeMap<String, u32>,
    /// How long its waiting restart waits in all.
    pub(super) rest: Millis,
    /// What is watched of the newest run.
    pub(super) watch: Watch,
}

/// How a run ended that failed, or whose end nobody saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    pub run: RunId,
    /// Wall clock, milliseconds since the epoch.
    pub at: u64,
    pub result: RunResult,
    pub exit: Option<Exit>,
    pub error: Option<String>,
}

/// What is watched of a run, beside its state.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Watch {
    pub pace: Pace,
    /// `X_LOOM_IDLE=1`
    pub idle: bool,
    /// When that is stored, if it lasts: an agent that waits for a moment causes no write.
    pub note_idle_at: Option<Millis>,
    pub idle_noted: bool,
    /// `WATCHDOG_USEC=`; 0: off.
    pub interval: Option<Millis>,
    /// `X_LOOM_RETRY_AFTER=`
    pub retry_after: Option<Millis>,
    /// `X_LOOM_TASK=`
    pub task: Option<String>,
    pub in_hand: Vec<String>,
    /// The kernel killed a process of it; if the main process is not seen to be the one until then, it was another.
    pub oom_until: Option<Millis>,
    /// An `exec.reload` that was late is still being killed.
    pub reload_lingers: bool,
    pub probes: Probes,
}

/// The clock of `watchdog.progress`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Pace {
    #[default]
    Off,
    Runs {
        late_at: Millis,
    },
    /// It waits on purpose.
    Stands {
        left: Millis,
    },
    /// That it is late was said.
    Late,
    /// It was interrupted, and is ended at `abort_at` unless its work moves.
    Interrupted {
        abort_at: Millis,
    },
}

impl Life {
    /// A unit that never ran.
    pub fn new() -> Self {
        Self {
            run: RunId(0),
            state: State::Down { failed: false },
            restarts: 0,
            failures: 0,
            result: RunResult::Success,
            exit: None,
            last_error: None,
            triggered_by: String::new(),
            enforcement: Vec::new(),
            status_text: None,
            errno: None,
            deaths: Vec::new(),
            tally: Tally::default(),
            noted: Tally::default(),
            starts: Vec::new(),
            poison: BTreeMap::new(),
            rest: Millis(0),
            watch: Watch::default(),
        }
    }

    /// Whether it fails again and again.
    pub fn is_crash_looping(&self) -> bool {
        self.failures >= CRASH_LOOPING_FROM
    }

    /// Whether it is up, its startup probe has passed and its readiness probe passes, as far as it has them.
    pub fn is_healthy(&self, unit: &Unit) -> bool {
        match &self.state {
            State::Running { .. } => self.watch.probes.pass(&unit.health),
            State::Reached | State::Remaining { .. } => true,
            State::Down { .. }
            | State::Resting { .. }
            | State::Checking { .. }
            | State::Preparing { .. }
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Commanding { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Clearing { .. }
            | State::Posting { .. } => false,
        }
    }

    /// How its run has ended, while what is left of it is being ended and `stop.post` runs.
    pub fn ended(&self) -> Option<&End> {
        if let State::Clearing { end, .. } | State::Posting { end, .. } = &self.state { Some(end) } else { None }
    }

    /// Why its waiting restart waits as long as it does: `back-off`, `retry-after` or `start-limit`.
    pub fn waits_because(&self, unit: &Unit) -> &'static str {
        let asked = self.watch.retry_after.is_some() || self.exit == Some(Exit::Code(super::policy::EX_TEMPFAIL));
        if self.rest <= super::wait(&unit.restart, self.failures, u64::MAX) {
            "back-off"
        } else if asked {
            "retry-after"
        } else {
            "start-limit"
        }
    }

    /// Its processes stood still for so long, and its clocks did too: what was due is due that much later.
    pub(crate) fn delay(&mut self, by: Millis) {
        if let State::Running { silent_at, reload, .. } = &mut self.state {
            let late_at = reload.as_mut().map(|reload| &mut reload.late_at);
            silent_at.iter_mut().chain(late_at).for_each(|at| *at = *at + by);
        }
        if let Pace::Runs { late_at: at } | Pace::Interrupted { abort_at: at } = &mut self.watch.pace {
            *at = *at + by;
        }
        let (note_idle_at, oom_until) = (&mut self.watch.note_idle_at, &mut self.watch.oom_until);
        let of_run = note_idle_at.iter_mut().chain(oom_until).chain(&mut self.tally.running_since);
        of_run.for_each(|at| *at = *at + by);
        self.watch.probes.delay(by);
    }

    /// Until when a run must stay up to be a stable one; `None` if nothing would be forgotten then.
    pub(super) fn stable_at(&self, unit: &Unit) -> Option<Millis> {
        let State::Running { ready_at, .. } = &self.state else { return None };
        (self.failures > 0 || !self.poison.is_empty()).then(|| *ready_at + unit.restart.reset_after)
    }

    /// The next moment at which a `Tick` changes something. A waiting restart is the fleet's to wake for.
    pub fn deadline(&self, unit: &Unit) -> Option<Millis> {
        let of_state = match &self.state {
            State::Checking { ready_by }
            | State::Preparing { ready_by, .. }
            | State::Spawning { ready_by }
            | State::Launching { ready_by, .. }
            | State::Starting { ready_by, .. } => Some(*ready_by),
            State::Running { silent_at, reload, .. } => {
                let late_at = reload.as_ref().map(|reload| reload.late_at);
                let watch = [*silent_at, late_at, self.watch.due(), self.watch.probes.due(&unit.health)];
                [self.stable_at(unit)].into_iter().chain(watch).flatten().min()
            }
            State::Stopping { kill_at, .. } => Some(*kill_at),
            State::Commanding { until, .. } => Some(*until),
            State::Posting { until, .. } => *until,
            State::Clearing { kill_at, .. } | State::Remaining { kill_at, .. } => *kill_at,
            State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Abandoned { .. }
            | State::Killing { .. } => None,
        };
        [of_state, self.oom_due(), self.budget_due(unit)].into_iter().flatten().min()
    }

    /// Whether it runs and nobody ends it.
    pub(super) fn is_let_live(&self) -> bool {
        matches!(self.state, State::Launching { .. } | State::Starting { .. } | State::Running { .. })
    }

    fn oom_due(&self) -> Option<Millis> {
        self.watch.oom_until.filter(|_| self.is_let_live())
    }

    fn budget_due(&self, unit: &Unit) -> Option<Millis> {
        unit.budget.as_ref().and_then(|budget| self.tally.time_up_at(budget)).filter(|_| self.is_let_live())
    }
}

impl Default for Life {
    fn default() -> Self {
        Self::new()
    }
}

impl Watch {
    fn due(&self) -> Option<Millis> {
        let pace = match self.pace {
            Pace::Runs { late_at } => Some(late_at),
            Pace::Interrupted { abort_at } => Some(abort_at),
            Pace::Off | Pace::Stands { .. } | Pace::Late => None,
        };
        [pace, self.note_idle_at].into_iter().flatten().min()
    }
}
