//! news: what a unit hears, does and says.
//!
//! Job: events and effects of one unit. May touch: the types beside it.
//! Keeps: news of a process names its run, so that late news is harmless.

use super::{Control, Controlled, Exit, Identity, LaunchFailure, Notify, TreeEnd, Why};
use crate::ids::{Millis, RunId};
use crate::machine::Enforcement;
use crate::unit::RunFacts;

/// News for one unit. What is decided within loomd names no run; all else names the run it is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A start job is at the head of its order.
    Start {
        by: String,
    },
    /// Its waiting restart is due.
    Again,
    /// It cannot start, because a unit it requires did not.
    Refuse {
        text: String,
    },
    /// It is to end.
    Stop {
        why: Why,
    },
    /// It is to end at once: what its stop waits for now is killed. `stop.post` is still run.
    Kill,
    /// It is to read its settings anew. Answer: [`Effect::Reloaded`].
    Reload,
    /// That it failed, how often, and that it was started too often, is forgotten.
    ResetFailed,
    Spawned {
        run: RunId,
        identity: Identity,
        enforcement: Vec<Enforcement>,
    },
    Executed {
        run: RunId,
    },
    LaunchFailed {
        run: RunId,
        failure: LaunchFailure,
    },
    Exited {
        run: RunId,
        exit: Exit,
    },
    TreeEmpty {
        run: RunId,
    },
    Notified {
        run: RunId,
        notify: Notify,
    },
    /// Conditions were looked at; `unmet`: the first that does not hold.
    Checked {
        run: RunId,
        unmet: Option<String>,
    },
    Controlled {
        run: RunId,
        control: Control,
        end: Controlled,
    },
    /// Another process of the unit is the main one now: `MAINPID=`.
    MainProcess {
        run: RunId,
        identity: Identity,
    },
    /// The kernel killed a process of the tree for want of memory.
    OomKilled {
        run: RunId,
    },
    /// loomd saw it publish or call a tool.
    Progressed {
        run: RunId,
        at: Millis,
    },
    /// It used some of its budget.
    Spent {
        run: RunId,
        tokens: u64,
        cost_micros: u64,
        calls: u64,
    },
    /// What it was working on when its process ended: ids of events and tasks. Comes before `Exited`.
    InHand {
        run: RunId,
        work: Vec<String>,
    },
    Tick,
}

/// Work for the fleet and the shell, in order, about [`Life::run`].
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Spawn(RunFacts),
    OpenGate,
    /// To the main process, followed by SIGCONT.
    Signal(i32),
    /// To every process of the tree, followed by SIGCONT.
    SignalAll(i32),
    EndTree(TreeEnd),
    /// It is up, or, for a oneshot, has done its work.
    Up,
    /// Look at its conditions. Answer: `Checked`.
    Check,
    /// Start a helping process. Answer: `Controlled`.
    Run(Control),
    /// Kill a helping process and what it started. Its `Controlled` follows.
    EndControl(Control),
    /// Note what can be seen of its processes, before a signal changes it.
    Inspect,
    /// Keep a crash report of the run that has just ended.
    Report,
    /// Deliver this event or task to it no more.
    SetAside(String),
    /// Something that people and other programs may want to know.
    Say(Said),
    /// The reload that was asked for is over; an error is for a person.
    Reloaded(Result<(), String>),
    /// A run failed: `on_failure`.
    Failed,
    /// It came to a clean end: `on_success`.
    Succeeded,
    /// Its start limit was hit: `on_give_up`.
    GaveUp,
}

/// What is said of a unit beside its changes of state; the word is the event's name, `loom.unit.<word>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It has failed so often in a row.
    CrashLooping { failures: u32 },
    /// Its work has not moved for so long, and nothing is done about it.
    NoProgress { since: Millis },
    /// This event or task ended so many runs in a row.
    Poisoned { work: String, deaths: u32 },
    /// A process of it other than the main one was killed for want of memory.
    OomKilled,
    /// A reload did not end in time, or failed.
    ReloadFailed { because: String },
    /// What it may use up is used up until this wall clock time, in milliseconds since the epoch.
    BudgetExhausted { what: &'static str, until: u64 },
    /// Its readiness changed.
    Healthy { healthy: bool },
}

impl Said {
    /// Its name in `loom.unit.<word>`.
    pub fn word(&self) -> &'static str {
        match self {
            Said::CrashLooping { .. } => "crash-looping",
            Said::NoProgress { .. } => "no-progress",
            Said::Poisoned { .. } => "poisoned",
            Said::OomKilled => "oom-kill",
            Said::ReloadFailed { .. } => "reload-failed",
            Said::BudgetExhausted { .. } => "budget-exhausted",
            Said::Healthy { .. } => "health",
        }
    }
}

impl Event {
    /// The run that news is about; `None` for what is decided within loomd.
    pub(super) fn about(&self) -> Option<RunId> {
        match self {
            Event::Spawned { run, .. }
            | Event::Executed { run }
            | Event::LaunchFailed { run, .. }
            | Event::Exited { run, .. }
            | Event::TreeEmpty { run }
            | Event::Checked { run, .. }
            | Event::Controlled { run, .. }
            | Event::MainProcess { run, .. }
            | Event::OomKilled { run }
            | Event::Progressed { run, .. }
            | Event::Spent { run, .. }
            | Event::InHand { run, .. }
            | Event::Notified { run, .. } => Some(*run),
            Event::Start { .. }
            | Event::Again
            | Event::Refuse { .. }
            | Event::Stop { .. }
            | Event::Kill
            | Event::Reload
            | Event::ResetFailed
            | Event::Tick => None,
        }
    }
}
