//! lifecycle: decides what one unit does next.
//!
//! Job: from a unit's state, the time and one event, say its next state and the work to do.
//! May touch: `ids`, `unit`. May not: clocks, files, processes, tokio; time, chance and news come as arguments.
//! Keeps: a unit has at most one live process; run numbers only grow; stale news changes nothing.

use crate::ids::{Millis, RunId};
use crate::launch_plan::Report;
use serde::{Deserialize, Serialize};

/// systemd's word for where a unit stands, at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ActiveState {
    Inactive,
    Activating,
    Active,
    Deactivating,
    Failed,
}

/// Why the last run ended as it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunResult {
    Success,
    ExitCode,
    Signal,
    CoreDump,
    Timeout,
    Watchdog,
    Resources,
    Protocol,
    Sandbox,
    Dependency,
    Lost,
}

/// How a main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    Code(u8),
    Signal {
        signal: i32,
        core: bool,
    },
    /// It is gone and nobody can tell how.
    Unknown,
}

/// Why a process could not be started. `report` is the launcher's word; without one loomd itself failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaunchFailure {
    /// The launcher said at which stage it failed.
    Stage(Report),
    /// loomd could not get as far as the launcher: descriptors, fork, plan. The text says what failed on what.
    Resources(String),
    /// The plan asks for what this machine cannot enforce. The text names it and the way out.
    Refused(String),
}

/// One datagram of sd_notify, already checked to come from the unit's tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    /// `READY=1`
    pub ready: bool,
    /// `STOPPING=1`
    pub stopping: bool,
    /// `WATCHDOG=1`
    pub watchdog: bool,
    /// `WATCHDOG=trigger`
    pub watchdog_trigger: bool,
    /// `STATUS=`, at most 1 KiB.
    pub status: Option<String>,
    /// `EXTEND_TIMEOUT_USEC=`, in milliseconds.
    pub extend_timeout: Option<Millis>,
}

/// The clocks and chance at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_MONOTONIC.
    pub mono: Millis,
    /// Milliseconds since the epoch, for people and for other boots.
    pub wall: u64,
    /// Fresh randomness, for jitter.
    pub chance: u64,
}

/// Names a run of the process that proves it is that process. Pids alone are reused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: String,
    /// Process id, the main process's.
    pub pid: i32,
    /// Inode of its pidfd, unique per boot since Linux 6.9; 0 on older kernels.
    pub pidfd_inode: u64,
    /// Start time in clock ticks, field 22 of `/proc/<pid>/stat`.
    pub start_ticks: u64,
    /// Its cgroup v2 directory, if it has one.
    pub cgroup: Option<String>,
    /// SHA-256 of the run's bus token, hex. Empty for units without a bus connection.
    pub token_sha256: String,
}

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
    pub enforcement: Vec<crate::machine::Enforcement>,
    /// READY came (or execve succeeded, for type exec) in the live run.
    pub ready: bool,
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
