//! lifecycle: decides what one unit does next.
//!
//! Job: from a unit's state, the time and one event, say its next state and the work to do.
//! May touch: `ids`, `unit`. May not: clocks, files, processes, tokio; time, chance and news come as arguments.
//! Keeps: a unit has at most one live process; run numbers only grow; stale news changes nothing.
//!
//! One run goes through these states; each arrow is one event. What is stored when is the fleet's concern.
//!
//! ```text
//! Down, Resting ──Start──► Checking ──► Preparing ──► Spawning ──Spawned──► Launching ──Executed──► Starting ──ready──► Running
//!      ▲                      │             │            │ stop                └──── stop, late ───────┴───────────────┤ │
//!      │                      │             │            ▼                                                             │ │ exits,
//!      │                      │             │         Abandoned ──Spawned──► Killing ◄──late── Stopping ◄── Commanding ◄┘ │ remains
//!      │                      │             └──── failed, stop ───┐             └───── Exited ────┤                       ▼
//!      └──────────────────────┴── Posting ◄──TreeEmpty── Clearing ◄───────────────────────────────┴──────────────── Remaining
//! ```
//!
//! - A launcher that was asked for is always waited for: a stop before its answer (`Abandoned`) ends it when it shows.
//! - The end of the main process always asks for the end of its tree; the unit is down when the tree is empty, and after
//!   `stop.post`.
//! - A stop that a person asked for ends in `inactive`, whatever the process did meanwhile; only one that had to be killed
//!   after `stop.timeout` ends in `failed` with the result `timeout`, as in systemd.
//! - Failures in a row are forgotten when a run has been up for `restart.reset_after`, and by a start that was asked for.
//!
//! `turn` is the way up and what is heard, `ending` the way down and what follows, `clocks`, `probes` and `budget` watch a
//! run, `stored` brings it over the death of loomd.

mod budget;
mod clocks;
mod control;
mod ending;
mod life;
mod news;
mod policy;
mod probes;
mod state;
mod stored;
#[cfg(test)]
pub(crate) mod tests;
mod turn;
mod words;

pub use budget::Tally;
pub use control::{Control, Controlled, TreeEnd};
pub use life::{DEATHS_MAX, Death, IN_HAND_MAX, Life, STARTS_MAX};
pub use news::{Effect, Event, Said};
pub use policy::{asked_wait, back_off, own_chance, restarts, result_of, wait};
pub use state::{Awaits, End, Force, Main, Reload, State, Then, Why};
pub(crate) use stored::record;
pub use stored::{Adopted, Phase, Record, Repeat, adopt};
pub use turn::step;
pub use words::{errno_name, exit_words, launch_words, moment, result_word, service_exit, span};

use crate::ids::Millis;
use crate::launch_plan::Report;
use serde::{Deserialize, Serialize};

/// From so many failures in a row on, a unit is said to be crash-looping.
pub const CRASH_LOOPING_FROM: u32 = 5;

/// systemd's word for where a unit stands, at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ActiveState {
    Inactive,
    Activating,
    Active,
    Reloading,
    Deactivating,
    Failed,
}

impl ActiveState {
    /// The word that JSON uses.
    pub fn word(self) -> &'static str {
        match self {
            ActiveState::Inactive => "inactive",
            ActiveState::Activating => "activating",
            ActiveState::Active => "active",
            ActiveState::Reloading => "reloading",
            ActiveState::Deactivating => "deactivating",
            ActiveState::Failed => "failed",
        }
    }
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
    /// It did not say `WATCHDOG=1` in time.
    Watchdog,
    /// Its work did not move in time.
    Progress,
    /// Its startup or liveness probe failed.
    Liveness,
    /// The kernel killed it for want of memory.
    OomKill,
    /// It was started too often within its limit's window.
    StartLimitHit,
    Protocol,
    Resources,
    Sandbox,
    /// A condition of its start did not hold.
    Condition,
    Dependency,
    /// What it may use up in its budget's window is used up.
    BudgetExhausted,
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
    /// `RELOADING=1`; a [`Notify`] never holds both this and a `ready` that came before it.
    pub reloading: bool,
    /// `MONOTONIC_USEC=` beside `RELOADING=1`: when that reload began.
    pub reloading_at: Option<Millis>,
    /// `ERRNO=`
    pub errno: Option<i32>,
    /// `WATCHDOG_USEC=`: its own wish for the interval.
    pub watchdog_interval: Option<Millis>,
    /// `X_LOOM_PROGRESS=1`
    pub progress: bool,
    /// `X_LOOM_IDLE=1` or `0`: it waits on purpose.
    pub idle: Option<bool>,
    /// `X_LOOM_RETRY_AFTER=<seconds>`: when it ends, it is to start again after this long.
    pub retry_after: Option<Millis>,
    /// `X_LOOM_TASK=<id>`: what it works on now; empty for nothing.
    pub task: Option<String>,
    /// `X_LOOM_TOKENS=<n>`: tokens used since the last such message.
    pub tokens: u64,
    /// `X_LOOM_COST_MICROS=<n>`: money spent since the last such message, in millionths.
    pub cost_micros: u64,
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
