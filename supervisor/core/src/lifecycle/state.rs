//! state: where a unit stands.
//!
//! Job: the states, why a run is ended, how it ended. May touch: the types beside it.
//! Keeps: each variant holds exactly the facts that are true in it.

use super::{ActiveState, Control, Exit, Identity, RunResult};
use crate::ids::Millis;
use serde::{Deserialize, Serialize};

/// Where a unit stands. Each variant holds exactly the facts that are true in it; the run is [`Life::run`](super::Life::run).
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// No process and none planned.
    Down { failed: bool },
    /// A target whose members are up.
    Reached,
    /// Its run ended, and its policy starts it again at `at`. `wall` is the same moment for another boot.
    Resting { at: Millis, wall: u64 },
    /// A run has begun; its conditions are looked at.
    Checking { ready_by: Millis },
    /// The `at`-th of `exec.start_pre` runs.
    Preparing { at: u16, ready_by: Millis },
    /// The launcher was asked for; its identity is not known yet.
    Spawning { ready_by: Millis },
    /// As `Spawning`, and it is to end as soon as it shows.
    Abandoned { why: Why },
    /// The gate is open: the launcher confines and executes.
    Launching { identity: Identity, ready_by: Millis },
    /// The program runs and is not ready yet.
    Starting { identity: Identity, ready_by: Millis },
    /// Up. `silent_at` is when its watchdog is late, if it has one.
    Running { identity: Identity, ready_at: Millis, silent_at: Option<Millis>, reload: Option<Reload> },
    /// It came to a clean end and stays up (`remain_after_exit`). What it left of its tree is killed at `kill_at`.
    Remaining { exit: Exit, kill_at: Option<Millis> },
    /// `stop.command` runs, at most until `until`.
    Commanding { main: Main, why: Why, until: Millis },
    /// Told to end; its tree is killed at `kill_at` if it has not.
    Stopping { identity: Identity, why: Why, kill_at: Millis, ready: bool },
    /// Its tree is being killed.
    Killing { identity: Identity, why: Why, force: Force, ready: bool },
    /// The main process is gone; what is left of its tree is being ended, and killed at `kill_at`. Then comes the `post`-th of
    /// `stop.post`.
    Clearing { identity: Option<Identity>, end: End, kill_at: Option<Millis>, post: u16 },
    /// The `post`-th of `stop.post` runs. It is killed at `until`; `None`: that was asked for.
    Posting { identity: Option<Identity>, end: End, post: u16, until: Option<Millis> },
}

/// The main process while `stop.command` runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Main {
    Lives { identity: Identity },
    Ended { exit: Exit },
}

/// Why a tree is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Force {
    /// Its launcher is still behind its gate.
    BehindGate,
    /// It did not end in time.
    Late,
    /// Whoever asked for the end wants it at once.
    Asked,
}

/// A reload on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    pub late_at: Millis,
    /// A job waits for it; else the program began it by itself.
    pub asked: bool,
    /// `exec.reload` runs.
    pub command: bool,
    pub awaits: Awaits,
}

/// What a reloading program is still to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaits {
    Nothing,
    /// `RELOADING=1`, and then `READY=1`.
    Reloading,
    /// `READY=1`
    Ready,
}

/// Why loomd ends a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// A person, or a job, asked for it.
    Asked,
    /// A unit that it requires failed, or was stopped.
    Dependency { failed: bool, text: String },
    /// It was not ready in time.
    NotReady,
    /// Its watchdog was late.
    Silent,
    /// It asked to be ended as its watchdog would: `WATCHDOG=trigger`.
    Triggered,
    /// It said itself that it is stopping.
    Announced,
    /// Its work did not move in time.
    Stuck,
    /// This probe failed so often in a row.
    Unhealthy { probe: Control, failures: u32 },
    /// The kernel killed a process of it for want of memory, and `limits.oom_policy` ends it.
    OutOfMemory,
    /// Its budget is used up; the text says which and until when.
    Exhausted { text: String },
}

impl Why {
    /// Whether this reason is kept against a later one: what was asked for counts most, then dependencies.
    pub(crate) fn outranks(&self, other: &Why) -> bool {
        self.rank() >= other.rank()
    }

    fn rank(&self) -> u8 {
        match self {
            Why::Asked => 2,
            Why::Dependency { .. } => 1,
            Why::NotReady
            | Why::Silent
            | Why::Triggered
            | Why::Announced
            | Why::Stuck
            | Why::Unhealthy { .. }
            | Why::OutOfMemory
            | Why::Exhausted { .. } => 0,
        }
    }

    /// Whether it hangs: its processes are told by SIGABRT, and get no more time than `abort_timeout`.
    pub(super) fn hangs(&self) -> bool {
        match self {
            Why::Silent | Why::Triggered | Why::Stuck => true,
            Why::Asked
            | Why::Dependency { .. }
            | Why::NotReady
            | Why::Announced
            | Why::Unhealthy { .. }
            | Why::OutOfMemory
            | Why::Exhausted { .. } => false,
        }
    }

    /// Whether the program may still be spoken to, so that `stop.command` makes sense.
    pub(super) fn is_in_order(&self) -> bool {
        match self {
            Why::Asked | Why::Dependency { .. } | Why::OutOfMemory | Why::Exhausted { .. } => true,
            Why::NotReady | Why::Silent | Why::Triggered | Why::Announced | Why::Stuck | Why::Unhealthy { .. } => false,
        }
    }
}

/// How a run ended, and what follows once nothing of it is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub result: RunResult,
    pub exit: Option<Exit>,
    /// For a person; `None` for a clean end.
    pub error: Option<String>,
    /// The run did what its unit is for: a oneshot that exited cleanly.
    pub accomplished: bool,
    pub then: Then,
}

/// What follows a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// As `restart.policy` says.
    Policy,
    /// Nothing.
    Rest { failed: bool },
}

impl State {
    /// systemd's two words for it.
    pub fn words(&self) -> (ActiveState, &'static str) {
        match self {
            State::Down { failed: false } => (ActiveState::Inactive, "dead"),
            State::Down { failed: true } => (ActiveState::Failed, "failed"),
            State::Reached => (ActiveState::Active, "active"),
            State::Resting { .. } => (ActiveState::Activating, "auto-restart"),
            State::Checking { .. } => (ActiveState::Activating, "condition"),
            State::Preparing { .. } => (ActiveState::Activating, "start-pre"),
            State::Spawning { .. } | State::Launching { .. } | State::Starting { .. } => {
                (ActiveState::Activating, "start")
            }
            State::Running { reload: None, .. } => (ActiveState::Active, "running"),
            State::Running { reload: Some(_), .. } => (ActiveState::Reloading, "reload"),
            State::Remaining { .. } => (ActiveState::Active, "exited"),
            State::Commanding { .. } => (ActiveState::Deactivating, "stop"),
            State::Stopping { why, .. } if why.hangs() => (ActiveState::Deactivating, "stop-watchdog"),
            State::Stopping { .. } | State::Abandoned { .. } => (ActiveState::Deactivating, "stop-sigterm"),
            State::Killing { .. } => (ActiveState::Deactivating, "stop-sigkill"),
            // There was no main process, so the signal went to `start_pre`.
            State::Clearing { identity: None, kill_at: Some(_), .. } => (ActiveState::Deactivating, "stop-sigterm"),
            State::Clearing { .. } | State::Posting { .. } => (ActiveState::Deactivating, "stop-post"),
        }
    }

    /// The main process, while there is one.
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            State::Launching { identity, .. }
            | State::Starting { identity, .. }
            | State::Running { identity, .. }
            | State::Commanding { main: Main::Lives { identity }, .. }
            | State::Stopping { identity, .. }
            | State::Killing { identity, .. } => Some(identity),
            State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Checking { .. }
            | State::Preparing { .. }
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Remaining { .. }
            | State::Commanding { main: Main::Ended { .. }, .. }
            | State::Clearing { .. }
            | State::Posting { .. } => None,
        }
    }

    /// Whether a run has begun and is not over.
    pub fn is_live(&self) -> bool {
        self.is_activating() || self.is_ending() || matches!(self, State::Running { .. } | State::Remaining { .. })
    }

    /// On its way up, in a run of its own.
    pub fn is_activating(&self) -> bool {
        matches!(
            self,
            State::Checking { .. }
                | State::Preparing { .. }
                | State::Spawning { .. }
                | State::Launching { .. }
                | State::Starting { .. }
        )
    }

    /// On its way down.
    pub fn is_ending(&self) -> bool {
        matches!(
            self,
            State::Abandoned { .. }
                | State::Commanding { .. }
                | State::Stopping { .. }
                | State::Killing { .. }
                | State::Clearing { .. }
                | State::Posting { .. }
        )
    }

    /// Where units that require it may start.
    pub fn is_up(&self) -> bool {
        matches!(self, State::Running { .. } | State::Remaining { .. } | State::Reached)
    }

    /// A start is under way, and its program does not run yet.
    pub fn is_between_records(&self) -> bool {
        matches!(
            self,
            State::Checking { .. }
                | State::Preparing { .. }
                | State::Spawning { .. }
                | State::Abandoned { .. }
                | State::Launching { .. }
        )
    }

    /// When a waiting restart is due, if one waits.
    pub fn rests_until(&self) -> Option<Millis> {
        if let State::Resting { at, .. } = self { Some(*at) } else { None }
    }

    /// No process; perhaps a planned one.
    pub fn is_at_rest(&self) -> bool {
        matches!(self, State::Down { .. } | State::Resting { .. })
    }
}
