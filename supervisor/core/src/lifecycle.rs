//! lifecycle: decides what one unit does next.
//!
//! Job: from a unit's state, the time and one event, say its next state and the work to do.
//! May touch: `ids`, `unit`. May not: clocks, files, processes, tokio; time, chance and news come as arguments.
//! Keeps: a unit has at most one live process; run numbers only grow; stale news changes nothing.
//!
//! One run goes through these states; each arrow is one event. What is stored when is the fleet's concern.
//!
//! ```text
//! Down, Resting ──Start──► Spawning ──Spawned──► Launching ──Executed──► Starting ──ready──► Running
//!      ▲                      │ stop                 └──────── stop, late, silent ──────────────┤
//!      │                      ▼                                                                 ▼
//!      │                  Abandoned ──Spawned──► Killing ◄──────────── late ─────────────── Stopping
//!      │                                            └──────────────── Exited ───────────────────┤
//!      └─────────────── TreeEmpty ─────────────────────────────────────────── Clearing ◄────────┘
//! ```
//!
//! - A launcher that was asked for is always waited for: a stop before its answer (`Abandoned`) ends it when it shows.
//! - The end of the main process always asks for the end of its tree; the unit is down when the tree is empty.
//! - A stop that a person asked for ends in `inactive`, whatever the process did meanwhile; only one that had to be killed
//!   after `stop.timeout` ends in `failed` with the result `timeout`, as in systemd.
//! - Failures in a row are forgotten when a run has been up for `restart.reset_after`, and by a start that was asked for.

mod policy;
mod stored;
#[cfg(test)]
pub(crate) mod tests;
mod words;

pub use policy::{back_off, restarts, result_of, wait};
pub(crate) use stored::record;
pub use stored::{Adopted, Repeat, adopt};
pub use words::{errno_name, exit_words, launch_words, result_word, span};

use crate::ids::{Millis, RunId};
use crate::launch_plan::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Report, Stage};
use crate::machine::Enforcement;
use crate::unit::{Check, Probe, ReadyKind, RunFacts, Unit};
use serde::{Deserialize, Serialize};

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

/// A process that helps a unit's main process; at most one of each lives at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Control {
    /// The n-th of `exec.start_pre`, from 0.
    StartPre(u16),
    /// `exec.reload`
    Reload,
    /// `stop.command`
    Stop,
    /// The n-th of `stop.post`, from 0.
    StopPost(u16),
    /// `[health.startup]`
    Startup,
    /// `[health.readiness]`
    Readiness,
    /// `[health.liveness]`
    Liveness,
}

impl Control {
    /// The key in the unit file that asks for it.
    pub fn word(self) -> &'static str {
        match self {
            Control::StartPre(_) => "start_pre",
            Control::Reload => "reload",
            Control::Stop => "stop.command",
            Control::StopPost(_) => "stop.post",
            Control::Startup => "health.startup",
            Control::Readiness => "health.readiness",
            Control::Liveness => "health.liveness",
        }
    }

    /// Its program and arguments, as the unit file gives them. Probes other than `exec` have none there.
    pub fn command(self, unit: &Unit) -> Option<&[String]> {
        let exec = unit.exec.as_ref();
        match self {
            Control::StartPre(at) => exec?.start_pre.get(usize::from(at)).map(Vec::as_slice),
            Control::Reload => exec?.reload.as_deref(),
            Control::Stop => unit.stop.command.as_deref(),
            Control::StopPost(at) => unit.stop.post.get(usize::from(at)).map(Vec::as_slice),
            Control::Startup | Control::Readiness | Control::Liveness => match &self.probe(unit)?.check {
                Check::Exec(command) => Some(command),
                Check::Http { .. } | Check::Tcp { .. } | Check::Unix(_) => None,
            },
        }
    }

    /// The probe it carries out, if it is one.
    pub fn probe(self, unit: &Unit) -> Option<&Probe> {
        match self {
            Control::Startup => unit.health.startup.as_ref(),
            Control::Readiness => unit.health.readiness.as_ref(),
            Control::Liveness => unit.health.liveness.as_ref(),
            Control::StartPre(_) | Control::Reload | Control::Stop | Control::StopPost(_) => None,
        }
    }
}

/// How a [`Control`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Controlled {
    Exited(Exit),
    /// It never ran.
    Failed(LaunchFailure),
}

/// What is done with what is left of a run's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeEnd {
    /// Each process gets this signal and SIGCONT; nothing is killed.
    Terminate(i32),
    /// SIGKILL, again and again until nothing is left.
    Kill,
    /// It lives on.
    Leave,
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

/// Where a unit stands. Each variant holds exactly the facts that are true in it; the run is [`Life::run`].
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// No process and none planned.
    Down { failed: bool },
    /// A target whose members are up.
    Reached,
    /// Its run ended, and its policy starts it again at `at`. `wall` is the same moment for another boot.
    Resting { at: Millis, wall: u64 },
    /// The launcher was asked for; its identity is not known yet.
    Spawning { ready_by: Millis },
    /// As `Spawning`, and it is to end as soon as it shows.
    Abandoned { why: Why },
    /// The gate is open: the launcher confines and executes.
    Launching { identity: Identity, ready_by: Millis },
    /// The program runs and is not ready yet.
    Starting { identity: Identity, ready_by: Millis },
    /// Up. `silent_at` is when its watchdog is late, if it has one.
    Running { identity: Identity, ready_at: Millis, silent_at: Option<Millis> },
    /// Told to end; its tree is killed at `kill_at` if it has not.
    Stopping { identity: Identity, why: Why, kill_at: Millis, ready: bool },
    /// Its tree is being killed. `overdue`: because it did not end in time.
    Killing { identity: Identity, why: Why, overdue: bool, ready: bool },
    /// The main process is gone; what is left of its tree is being ended.
    Clearing { identity: Option<Identity>, end: End },
}

/// Why loomd ends a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// A person, or a job, asked for it.
    Asked,
    /// A unit that it requires failed, or was stopped.
    Dependency { failed: bool, text: String },
    /// It was not ready in time.
    NotReady,
    /// Its watchdog was late, or it asked to be ended by it.
    Silent,
    /// It said itself that it is stopping.
    Announced,
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
            Why::NotReady | Why::Silent | Why::Announced => 0,
        }
    }
}

/// How a run ended, and what follows once nothing of it is left.
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// As `restart.policy` says.
    Policy,
    /// Nothing.
    Rest { failed: bool },
}

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
}

/// News for one unit. All but `Start`, `Again`, `Refuse`, `Stop` and `Tick` name the run they are about.
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
    Signal(i32),
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

const SIGABRT: i32 = 6;

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
        }
    }

    /// The next moment at which a `Tick` changes something. A waiting restart is the fleet's to wake for.
    pub fn deadline(&self, unit: &Unit) -> Option<Millis> {
        match &self.state {
            State::Spawning { ready_by } | State::Launching { ready_by, .. } | State::Starting { ready_by, .. } => {
                Some(*ready_by)
            }
            State::Running { ready_at, silent_at, .. } => {
                let stable_at = (self.failures > 0).then(|| *ready_at + unit.restart.reset_after);
                [stable_at, *silent_at].into_iter().flatten().min()
            }
            State::Stopping { kill_at, .. } => Some(*kill_at),
            State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Abandoned { .. }
            | State::Killing { .. }
            | State::Clearing { .. } => None,
        }
    }
}

impl Default for Life {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// systemd's two words for it.
    pub fn words(&self) -> (ActiveState, &'static str) {
        match self {
            State::Down { failed: false } => (ActiveState::Inactive, "dead"),
            State::Down { failed: true } => (ActiveState::Failed, "failed"),
            State::Reached => (ActiveState::Active, "active"),
            State::Resting { .. } => (ActiveState::Activating, "auto-restart"),
            State::Spawning { .. } | State::Launching { .. } | State::Starting { .. } => {
                (ActiveState::Activating, "start")
            }
            State::Running { .. } => (ActiveState::Active, "running"),
            State::Stopping { why: Why::Silent, .. } => (ActiveState::Deactivating, "stop-watchdog"),
            State::Stopping { why: Why::Asked | Why::Dependency { .. } | Why::NotReady | Why::Announced, .. }
            | State::Abandoned { .. } => (ActiveState::Deactivating, "stop-sigterm"),
            State::Killing { .. } => (ActiveState::Deactivating, "stop-sigkill"),
            State::Clearing { .. } => (ActiveState::Deactivating, "stop-post"),
        }
    }

    /// The main process, while there is one.
    pub fn identity(&self) -> Option<&Identity> {
        match self {
            State::Launching { identity, .. }
            | State::Starting { identity, .. }
            | State::Running { identity, .. }
            | State::Stopping { identity, .. }
            | State::Killing { identity, .. } => Some(identity),
            State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Clearing { .. } => None,
        }
    }

    /// Whether a run has begun and is not over.
    pub fn is_live(&self) -> bool {
        self.is_activating() || self.is_ending() || matches!(self, State::Running { .. })
    }

    /// On its way up, with a process of its own.
    pub fn is_activating(&self) -> bool {
        matches!(self, State::Spawning { .. } | State::Launching { .. } | State::Starting { .. })
    }

    /// On its way down.
    pub fn is_ending(&self) -> bool {
        matches!(
            self,
            State::Abandoned { .. } | State::Stopping { .. } | State::Killing { .. } | State::Clearing { .. }
        )
    }

    /// Where units that require it may start.
    pub fn is_up(&self) -> bool {
        matches!(self, State::Running { .. } | State::Reached)
    }

    /// A launcher was asked for, and the program does not run yet.
    pub fn is_between_records(&self) -> bool {
        matches!(self, State::Spawning { .. } | State::Abandoned { .. } | State::Launching { .. })
    }

    /// When a waiting restart is due, if one waits.
    pub fn rests_until(&self) -> Option<Millis> {
        match self {
            State::Resting { at, .. } => Some(*at),
            State::Down { .. }
            | State::Reached
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Clearing { .. } => None,
        }
    }

    /// No process; perhaps a planned one.
    pub fn is_at_rest(&self) -> bool {
        matches!(self, State::Down { .. } | State::Resting { .. })
    }
}

impl Event {
    /// The run that news is about; `None` for what is decided within loomd.
    fn about(&self) -> Option<RunId> {
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
            Event::Start { .. } | Event::Again | Event::Refuse { .. } | Event::Stop { .. } | Event::Tick => None,
        }
    }
}

/// Takes one event.
pub fn step(unit: &Unit, mut life: Life, now: Now, event: Event) -> (Life, Vec<Effect>) {
    if event.about().is_some_and(|run| run != life.run) {
        return (life, vec![]);
    }
    if let State::Running { ready_at, .. } = &life.state
        && now.mono >= *ready_at + unit.restart.reset_after
    {
        life.failures = 0;
    }
    let mut turn = Turn { unit, now, effects: vec![] };
    match event {
        Event::Start { by } => turn.start(&mut life, by),
        Event::Again => turn.again(&mut life),
        Event::Refuse { text } => turn.refuse(&mut life, text),
        Event::Stop { why } => turn.stop(&mut life, why),
        Event::Spawned { identity, enforcement, .. } => turn.spawned(&mut life, identity, enforcement),
        Event::Executed { .. } => turn.executed(&mut life),
        Event::LaunchFailed { failure, .. } => turn.launch_failed(&mut life, failure),
        Event::Exited { exit, .. } => turn.exited(&mut life, exit),
        Event::TreeEmpty { .. } => turn.tree_empty(&mut life),
        Event::Notified { notify, .. } => turn.notified(&mut life, notify),
        Event::Tick => turn.tick(&mut life),
        Event::Checked { .. }
        | Event::Controlled { .. }
        | Event::MainProcess { .. }
        | Event::OomKilled { .. }
        | Event::Progressed { .. }
        | Event::Spent { .. }
        | Event::InHand { .. } => {}
    }
    (life, turn.effects)
}

/// What holds during one step.
struct Turn<'a> {
    unit: &'a Unit,
    now: Now,
    effects: Vec<Effect>,
}

impl Turn<'_> {
    fn start(&mut self, life: &mut Life, by: String) {
        match &life.state {
            State::Down { .. } | State::Resting { .. } => {
                life.triggered_by = by;
                life.restarts = 0;
                life.failures = 0;
                life.last_error = None;
                self.spawn(life);
            }
            // Already on its way; the fleet waits until a run is over before it starts the next.
            State::Reached
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Clearing { .. } => {}
        }
    }

    fn again(&mut self, life: &mut Life) {
        match &life.state {
            State::Resting { .. } => {
                life.triggered_by = "restart".into();
                life.restarts += 1;
                self.spawn(life);
            }
            State::Down { .. }
            | State::Reached
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Clearing { .. } => {}
        }
    }

    fn spawn(&mut self, life: &mut Life) {
        if self.unit.exec.is_none() {
            life.state = State::Reached;
            life.result = RunResult::Success;
            self.effects.push(Effect::Up);
            return;
        }
        let before = (life.run > RunId(0)).then_some(life.result);
        life.run = life.run.next();
        life.enforcement = Vec::new();
        life.status_text = None;
        life.state = State::Spawning { ready_by: self.now.mono + self.unit.ready.timeout };
        self.effects.push(Effect::Spawn(RunFacts {
            run: life.run,
            restarts: life.restarts,
            last_result: before.map(|result| words::result_word(result).to_owned()),
            last_exit: before.and(life.exit).and_then(words::exit_fact),
        }));
    }

    fn refuse(&mut self, life: &mut Life, text: String) {
        match &life.state {
            State::Down { .. } | State::Resting { .. } => {
                life.result = RunResult::Dependency;
                life.last_error = Some(text);
                life.state = State::Down { failed: true };
            }
            State::Reached
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Clearing { .. } => {}
        }
    }

    fn stop(&mut self, life: &mut Life, why: Why) {
        let timeout = self.unit.stop.timeout;
        life.state = match take(life) {
            State::Down { failed } => State::Down { failed },
            State::Reached | State::Resting { .. } => match why {
                Why::Dependency { failed, text } => {
                    life.result = RunResult::Dependency;
                    life.last_error = Some(text);
                    State::Down { failed }
                }
                Why::Asked | Why::NotReady | Why::Silent | Why::Announced => State::Down { failed: false },
            },
            State::Spawning { .. } => State::Abandoned { why },
            State::Abandoned { why: before } => State::Abandoned { why: stronger(before, why) },
            State::Launching { identity, .. } | State::Starting { identity, .. } => {
                self.tell(identity, why, false, self.unit.stop.signal, timeout)
            }
            State::Running { identity, .. } => self.tell(identity, why, true, self.unit.stop.signal, timeout),
            State::Stopping { identity, why: before, kill_at, ready } => State::Stopping {
                identity,
                why: stronger(before, why),
                kill_at: kill_at.min(self.now.mono + timeout),
                ready,
            },
            State::Killing { identity, why: before, overdue, ready } => {
                State::Killing { identity, why: stronger(before, why), overdue, ready }
            }
            State::Clearing { identity, mut end } => {
                end.then = match (end.then, why) {
                    (Then::Policy, Why::Dependency { failed, text }) => {
                        end.result = RunResult::Dependency;
                        end.error = Some(text);
                        Then::Rest { failed }
                    }
                    (Then::Policy, Why::Asked) => Then::Rest { failed: false },
                    (before, Why::Asked | Why::Dependency { .. } | Why::NotReady | Why::Silent | Why::Announced) => {
                        before
                    }
                };
                State::Clearing { identity, end }
            }
        };
    }

    /// Sends a signal and gives it time.
    fn tell(&mut self, identity: Identity, why: Why, ready: bool, signal: i32, time: Millis) -> State {
        self.effects.push(Effect::Signal(signal));
        State::Stopping { identity, why, kill_at: self.now.mono + time, ready }
    }

    fn spawned(&mut self, life: &mut Life, identity: Identity, enforcement: Vec<Enforcement>) {
        life.state = match take(life) {
            State::Spawning { ready_by } => {
                life.enforcement = enforcement;
                self.effects.push(Effect::OpenGate);
                State::Launching { identity, ready_by }
            }
            State::Abandoned { why } => {
                self.effects.push(Effect::EndTree(TreeEnd::Kill));
                State::Killing { identity, why, overdue: false, ready: false }
            }
            // Said before.
            same @ (State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Clearing { .. }) => same,
        };
    }

    fn executed(&mut self, life: &mut Life) {
        life.state = match take(life) {
            State::Launching { identity, ready_by } => match self.unit.ready.kind {
                ReadyKind::Exec => self.up(life, identity),
                ReadyKind::Notify | ReadyKind::NotifyReload | ReadyKind::Oneshot => {
                    State::Starting { identity, ready_by }
                }
            },
            // Told to end meanwhile, ready already, or said before.
            same @ (State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Clearing { .. }) => same,
        };
    }

    fn up(&mut self, life: &mut Life, identity: Identity) -> State {
        life.last_error = None;
        self.effects.push(Effect::Up);
        let silent_at = self.unit.watchdog.interval.map(|interval| self.now.mono + interval);
        State::Running { identity, ready_at: self.now.mono, silent_at }
    }

    fn launch_failed(&mut self, life: &mut Life, failure: LaunchFailure) {
        match take(life) {
            State::Spawning { .. } | State::Launching { .. } => {
                let end = launch_end(&failure);
                self.conclude(life, end);
            }
            State::Abandoned { why } | State::Stopping { why, .. } => {
                let end = self.ended_for(why, false, None);
                self.conclude(life, end);
            }
            State::Killing { why, overdue, .. } => {
                let end = self.ended_for(why, overdue, None);
                self.conclude(life, end);
            }
            same @ (State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Clearing { .. }) => life.state = same,
        }
    }

    fn exited(&mut self, life: &mut Life, exit: Exit) {
        let (identity, end, ask) = match take(life) {
            State::Spawning { .. } => (None, self.ended_itself(exit, false), true),
            State::Abandoned { why } => (None, self.ended_for(why, false, Some(exit)), true),
            State::Launching { identity, .. } | State::Starting { identity, .. } => {
                (Some(identity), self.ended_itself(exit, false), true)
            }
            State::Running { identity, .. } => (Some(identity), self.ended_itself(exit, true), true),
            State::Stopping { identity, why: Why::Announced, ready, .. } => {
                (Some(identity), self.ended_itself(exit, ready), true)
            }
            State::Stopping { identity, why, .. } => (Some(identity), self.ended_for(why, false, Some(exit)), true),
            // The end of the tree was asked for already.
            State::Killing { identity, why, overdue, .. } => {
                (Some(identity), self.ended_for(why, overdue, Some(exit)), false)
            }
            same @ (State::Down { .. } | State::Reached | State::Resting { .. } | State::Clearing { .. }) => {
                life.state = same;
                return;
            }
        };
        if ask {
            self.effects.push(Effect::EndTree(TreeEnd::Kill));
        }
        life.state = State::Clearing { identity, end };
    }

    fn tree_empty(&mut self, life: &mut Life) {
        match take(life) {
            State::Clearing { end, .. } => self.conclude(life, end),
            // Nothing is left, so the main process is gone too, however it went.
            State::Killing { why, overdue, .. } => {
                let end = self.ended_for(why, overdue, Some(Exit::Unknown));
                self.conclude(life, end);
            }
            same @ (State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Stopping { .. }) => life.state = same,
        }
    }

    fn notified(&mut self, life: &mut Life, mut notify: Notify) {
        if let Some(text) = notify.status.take()
            && life.state.is_live()
        {
            life.status_text = Some(text);
        }
        let later = notify.extend_timeout.map(|more| self.now.mono + more);
        life.state = match take(life) {
            State::Launching { identity, .. } | State::Starting { identity, .. } if notify.watchdog_trigger => {
                self.abort(identity, false)
            }
            State::Running { identity, .. } if notify.watchdog_trigger => self.abort(identity, true),
            State::Launching { identity, .. } | State::Starting { identity, .. }
                if notify.ready && self.unit.ready.kind.notifies() =>
            {
                let state = self.up(life, identity);
                self.heard(state, &notify)
            }
            State::Launching { identity, ready_by } => {
                let ready_by = later.map_or(ready_by, |later| later.max(ready_by));
                self.heard(State::Launching { identity, ready_by }, &notify)
            }
            State::Starting { identity, ready_by } => {
                let ready_by = later.map_or(ready_by, |later| later.max(ready_by));
                self.heard(State::Starting { identity, ready_by }, &notify)
            }
            state @ State::Running { .. } => self.heard(state, &notify),
            // Whoever hangs gets no more time.
            state @ State::Stopping { why: Why::Silent, .. } => state,
            State::Stopping { identity, why, kill_at, ready } => {
                State::Stopping { identity, why, kill_at: later.map_or(kill_at, |later| later.max(kill_at)), ready }
            }
            same @ (State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Killing { .. }
            | State::Clearing { .. }) => same,
        };
    }

    /// `STOPPING=1` and `WATCHDOG=1` of a process that nobody ends.
    fn heard(&mut self, state: State, notify: &Notify) -> State {
        match state {
            State::Launching { identity, .. } | State::Starting { identity, .. } if notify.stopping => {
                self.announced(identity, false)
            }
            State::Running { identity, .. } if notify.stopping => self.announced(identity, true),
            State::Running { identity, ready_at, silent_at } => {
                let beat = self.unit.watchdog.interval.filter(|_| notify.watchdog);
                let silent_at = beat.map(|interval| self.now.mono + interval).or(silent_at);
                State::Running { identity, ready_at, silent_at }
            }
            same @ (State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Clearing { .. }) => same,
        }
    }

    fn announced(&self, identity: Identity, ready: bool) -> State {
        State::Stopping { identity, why: Why::Announced, kill_at: self.now.mono + self.unit.stop.timeout, ready }
    }

    fn abort(&mut self, identity: Identity, ready: bool) -> State {
        let time = self.unit.watchdog.abort_timeout;
        self.tell(identity, Why::Silent, ready, SIGABRT, time)
    }

    fn tick(&mut self, life: &mut Life) {
        let now = self.now.mono;
        let stop = (self.unit.stop.signal, self.unit.stop.timeout);
        life.state = match take(life) {
            State::Spawning { ready_by } if ready_by <= now => State::Abandoned { why: Why::NotReady },
            State::Launching { identity, ready_by } | State::Starting { identity, ready_by } if ready_by <= now => {
                self.tell(identity, Why::NotReady, false, stop.0, stop.1)
            }
            State::Running { identity, silent_at: Some(late), .. } if late <= now => self.abort(identity, true),
            State::Stopping { identity, why, kill_at, ready } if kill_at <= now => {
                self.effects.push(Effect::EndTree(TreeEnd::Kill));
                State::Killing { identity, why, overdue: true, ready }
            }
            same @ (State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Clearing { .. }) => same,
        };
    }

    /// The end of a run that nobody ended.
    fn ended_itself(&self, exit: Exit, ready: bool) -> End {
        let by_exit = result_of(&self.unit.restart, exit);
        let clean = by_exit == RunResult::Success;
        let (result, error) = match self.unit.ready.kind {
            ReadyKind::Notify | ReadyKind::NotifyReload if clean && !ready => {
                (RunResult::Protocol, Some(format!("{} before it said READY=1", exit_words(exit))))
            }
            ReadyKind::Exec | ReadyKind::Notify | ReadyKind::NotifyReload | ReadyKind::Oneshot => {
                (by_exit, (!clean).then(|| exit_words(exit)))
            }
        };
        let accomplished = clean && self.unit.ready.kind == ReadyKind::Oneshot;
        End { result, exit: Some(exit), error, accomplished, then: Then::Policy }
    }

    /// The end of a run that loomd ended. `overdue`: it had to be killed.
    fn ended_for(&self, why: Why, overdue: bool, exit: Option<Exit>) -> End {
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
                let text = match self.unit.watchdog.interval {
                    Some(interval) => {
                        format!("it did not say WATCHDOG=1 within watchdog.interval ({})", span(interval))
                    }
                    None => "it said WATCHDOG=trigger".to_owned(),
                };
                (RunResult::Watchdog, Some(text), Then::Policy)
            }
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
    fn conclude(&mut self, life: &mut Life, end: End) {
        life.result = end.result;
        life.exit = end.exit;
        life.last_error = end.error;
        if end.accomplished {
            self.effects.push(Effect::Up);
        }
        life.state = match end.then {
            Then::Rest { failed } => State::Down { failed },
            Then::Policy => self.by_policy(life),
        };
    }

    fn by_policy(&self, life: &mut Life) -> State {
        let failed = life.result != RunResult::Success;
        if !restarts(&self.unit.restart, life.result, life.exit) {
            return State::Down { failed };
        }
        life.failures = life.failures.saturating_add(u32::from(failed));
        let chance = policy::own_chance(self.now.chance, &self.unit.id, life.run);
        let wait = wait(&self.unit.restart, life.failures, chance);
        State::Resting { at: self.now.mono + wait, wall: self.now.wall.saturating_add(wait.0) }
    }
}

/// Takes the state out for a moment; whoever takes it puts the next one in.
fn take(life: &mut Life) -> State {
    std::mem::replace(&mut life.state, State::Down { failed: false })
}

fn stronger(before: Why, new: Why) -> Why {
    if before.outranks(&new) { before } else { new }
}

/// The end of a run that had no process.
///
/// A program that cannot be executed counts as an exit with the launcher's status, as in systemd (203/EXEC), so the policy
/// for exit statuses applies; where the machine had no room, as `resources`. A held lock means that something of an earlier
/// run still lives, which passes, so it is `resources` too. Every other stage is the sandbox: not cured by trying again.
fn launch_end(failure: &LaunchFailure) -> End {
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
