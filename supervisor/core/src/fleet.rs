//! fleet: all units together.
//!
//! Job: jobs, dependencies, order; above [`crate::lifecycle`], which knows one unit.
//! May touch: `ids`, `unit`, `lifecycle`. May not: clocks, files, processes, tokio.
//! Keeps: every job ends in exactly one [`Effect::JobDone`]; [`Effect::Persist`] stands before what depends on it.

use crate::ids::{Millis, RunId, UnitId};
use crate::lifecycle::{ActiveState, Exit, Identity, LaunchFailure, Notify, Now, Record, RunResult};
use crate::machine::Enforcement;
use crate::unit::{RunFacts, Unit};
use std::collections::BTreeMap;

/// Numbers a request for work; unique within one life of loomd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// What is asked of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop,
    Restart,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobOutcome {
    /// The unit is where the job wanted it.
    Done,
    /// It is not; for a person: what failed on what, the cause, the next step.
    Failed { error: String, cause: Option<String>, hint: Option<String> },
    /// Another job took its place (a stop beats a start).
    Replaced,
    /// There is no such unit.
    NoSuchUnit,
}

/// News for the fleet. Closed: whoever adds one decides what it means everywhere.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A person, or loomd itself, asks.
    Job { job: JobId, unit: UnitId, verb: Verb, by: String },
    /// The caller no longer waits; the job goes on.
    /// Units as read anew: changed, added and removed ones. Running processes are not touched.
    Reloaded { units: BTreeMap<UnitId, Unit> },
    /// An instance of a template was read on demand.
    Loaded { unit: Box<Unit> },
    /// The launcher stands behind its gate under this identity.
    Spawned { unit: UnitId, run: RunId, identity: Identity, enforcement: Vec<Enforcement> },
    /// execve succeeded.
    Executed { unit: UnitId, run: RunId },
    /// There will be no process. Sent instead of `Executed`, and after it no `Exited` follows.
    LaunchFailed { unit: UnitId, run: RunId, failure: LaunchFailure },
    /// The main process is gone and reaped.
    Exited { unit: UnitId, run: RunId, exit: Exit },
    /// Nothing of the run is left. Comes after `Exited`, once, in answer to `EndTree`.
    TreeEmpty { unit: UnitId, run: RunId },
    /// sd_notify.
    Notified { unit: UnitId, run: RunId, notify: Notify },
    /// A deadline given by [`Fleet::next_wake`] has come.
    Tick,
    /// Stop everything, in order. [`Fleet::is_quiet`] tells when that is done.
    Shutdown,
}

/// Work for the shell, in order. What comes of it returns as an [`Event`].
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Store, synced, before anything that follows.
    Persist { unit: UnitId, record: Record },
    /// Start the launcher behind its gate. Answer: `Spawned` or `LaunchFailed`.
    Spawn { unit: UnitId, run: RunId, facts: RunFacts },
    /// Let the launcher go on. Answer: `Executed` or `LaunchFailed`.
    OpenGate { unit: UnitId, run: RunId },
    /// Send a signal to the main process, followed by SIGCONT if it is a stop signal.
    Signal { unit: UnitId, run: RunId, signal: i32 },
    /// SIGKILL whatever is left of the tree, the main process included. Answer: `Exited` if it lived, then `TreeEmpty`.
    EndTree { unit: UnitId, run: RunId },
    /// A job is over.
    JobDone { job: JobId, outcome: JobOutcome },
    /// One line of log and one event on the bus (`loom.unit.changed`).
    Changed {
        unit: UnitId,
        run: RunId,
        from: ActiveState,
        to: ActiveState,
        sub: &'static str,
        result: RunResult,
        because: String,
    },
}

/// What a new loomd found of a stored run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Identity matches: adopt.
    Alive,
    /// Gone, or the pid is another's. The exit if it can be known.
    Gone(Exit),
}

/// A unit as `status` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub unit: UnitId,
    pub description: String,
    pub active_state: ActiveState,
    /// `dead`, `running`, `exited`, `start-pre`, `start`, `auto-restart`, `waiting`, `stop-sigterm`, `stop-sigkill`, `stop-watchdog`, `stop-post`, `failed`.
    pub sub_state: &'static str,
    pub result: RunResult,
    pub exit: Option<Exit>,
    pub run: RunId,
    pub main_pid: Option<i32>,
    pub restarts: u64,
    pub since: u64,
    pub triggered_by: String,
    /// When a waiting restart happens, on the monotonic clock.
    pub next_start: Option<Millis>,
    /// The unit a waiting start waits for.
    pub waits_for: Option<UnitId>,
    /// `STATUS=` of the run.
    pub status_text: Option<String>,
    /// Why the last start failed, with stage and errno.
    pub last_error: Option<String>,
    pub enforcement: Vec<Enforcement>,
    /// The unit file is gone but the unit still runs.
    pub not_found: bool,
    /// The file's settings differ from those of the live run.
    pub needs_restart: bool,
}

/// All units and jobs.
#[derive(Debug)]
pub struct Fleet {}

impl Fleet {
    /// Builds the fleet from units read, records stored and what was found of their processes.
    ///
    /// A record with `Phase::Intended` has no process by construction; one of another boot is passed as `Gone(Unknown)`.
    /// Adopted runs keep pid, run, timers and deadlines. Effects repeat what the policy asks for.
    pub fn new(
        _units: BTreeMap<UnitId, Unit>,
        _stored: BTreeMap<UnitId, (Record, Found)>,
        _boot_id: &str,
        _now: Now,
    ) -> (Self, Vec<Effect>) {
        unimplemented!()
    }

    /// Takes one event.
    pub fn handle(&mut self, _now: Now, _event: Event) -> Vec<Effect> {
        unimplemented!()
    }

    /// The earliest deadline of any unit; the shell sleeps until then and sends `Tick`.
    pub fn next_wake(&self) -> Option<Millis> {
        unimplemented!()
    }

    /// Nothing runs and no job is open.
    pub fn is_quiet(&self) -> bool {
        unimplemented!()
    }

    /// One unit.
    pub fn status(&self, _unit: &UnitId) -> Option<Status> {
        unimplemented!()
    }

    /// All units, by name.
    pub fn statuses(&self) -> Vec<Status> {
        unimplemented!()
    }

    /// The checked unit that a live run, or the next start, uses.
    pub fn unit(&self, _unit: &UnitId) -> Option<&Unit> {
        unimplemented!()
    }
}
