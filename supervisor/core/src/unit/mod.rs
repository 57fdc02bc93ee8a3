//! unit: what a unit file says, checked.
//!
//! Job: texts of unit files → [`Catalogue`]: what is right as [`Unit`], what is wrong as [`problem::Problem`]s, all at once.
//! Three steps, three types: `raw::RawUnit` as written, with spans; [`Unit`] checked, with every default filled in; the
//! launch plan is made elsewhere. May touch: `ids`, `machine`'s words, `schedule`'s expressions. May not: open a file; see [`SourceSet`].
//! Keeps: a `Unit` is valid because it exists; nothing outside this room reads TOML.

mod changes;
mod check;
mod effective;
mod keys;
mod load;
pub mod problem;
mod raw;
mod reference;
mod schema;
mod source;
mod values;
mod words;
mod written;

pub use changes::{changed_keys, needs_restart, take_at_once};
pub use check::Programs;
pub use effective::effective;
pub use load::{Catalogue, Loaded, Origins, Standing, UNITS_MAX, UnitFile, load, load_all};
pub use raw::{FILE_PROBLEMS_MAX, SYNTAX_ROUNDS_MAX};
pub use reference::reference;
pub use schema::schema;
pub use source::{Content, Enabled, Facts, Role, Source, SourceSet, TRANSIENT, link_name, role};
pub use written::written;

use crate::ids::{Kind, Millis, RunId, UnitId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A checked unit. Specifiers are expanded, defaults filled in, every path absolute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// Its name.
    pub id: UnitId,
    /// One line for people.
    pub description: String,
    /// Where to read more; URLs or paths.
    pub documentation: Vec<String>,
    /// Units that must be up first; implies `after`.
    pub requires: Vec<UnitId>,
    /// Units that are started along, and may fail.
    pub wants: Vec<UnitId>,
    /// Units that must be up already: a start pulls nothing in, and fails at once where one is not up. Implies `after`.
    pub requisite: Vec<UnitId>,
    /// As `requires`; and this unit is stopped when one of them goes down for whatever reason, a clean end included.
    pub binds_to: Vec<UnitId>,
    /// A stop or a restart of one of them stops or restarts this unit too.
    pub part_of: Vec<UnitId>,
    /// As `wants`; and each is started again whenever it is down while this unit is up.
    pub upholds: Vec<UnitId>,
    /// A start of one stops the other.
    pub conflicts: Vec<UnitId>,
    /// What it waits for where both start; holds what `requires`, `requisite` and `binds_to` imply, unless `unordered`.
    pub after: Vec<After>,
    /// Units whose start, if both start, comes later.
    pub before: Vec<UnitId>,
    /// Started when this unit came to a clean end.
    pub on_success: Vec<UnitId>,
    /// Started at every failed run.
    pub on_failure: Vec<UnitId>,
    /// Started when its start limit is hit, and only then.
    pub on_give_up: Vec<UnitId>,
    /// All must hold when it starts; else it does not, which is no failure.
    pub conditions: Vec<Condition>,
    /// A start that waits longer than this for others fails. Default 1 h.
    pub job_timeout: Millis,
    /// What runs; `None` for targets and schedules.
    pub exec: Option<Exec>,
    /// When it counts as up.
    pub ready: Ready,
    /// Whether it must keep saying that it is alive, and that its work moves.
    pub watchdog: Watchdog,
    /// How its health is asked.
    pub health: Health,
    /// What follows its end.
    pub restart: Restart,
    /// How it is ended.
    pub stop: Stop,
    /// What it may use up in a window of time, over all its runs.
    pub budget: Option<Budget>,
    /// How members of a target hang together.
    pub group: Option<Group>,
    /// What a schedule starts, and when; `None` for all other kinds.
    pub schedule: Option<crate::schedule::Settings>,
    /// Who pulls it in once it is enabled.
    pub install: Install,
    /// What it reaches.
    pub sandbox: Sandbox,
    /// How much it may use.
    pub limits: Limits,
    /// What it may say and hear.
    pub bus: Bus,
    /// What it may have done.
    pub tools: Tools,
    /// Which models it thinks with.
    pub llm: Option<Llm>,
}

impl Unit {
    /// A unit that says nothing: every default filled in, nothing granted, nothing to run.
    pub fn bare(id: UnitId) -> Self {
        let profile = match id.kind() {
            Kind::Agent => "python",
            Kind::Service | Kind::Target | Kind::Schedule => "native",
        };
        Self {
            description: String::new(),
            documentation: vec![],
            requires: vec![],
            wants: vec![],
            requisite: vec![],
            binds_to: vec![],
            part_of: vec![],
            upholds: vec![],
            conflicts: vec![],
            after: vec![],
            before: vec![],
            on_success: vec![],
            on_failure: vec![],
            on_give_up: vec![],
            conditions: vec![],
            job_timeout: Millis(3_600_000),
            exec: None,
            ready: Ready { kind: ReadyKind::Exec, timeout: Millis(90_000), notify_access: NotifyAccess::Main },
            watchdog: Watchdog::default(),
            health: Health::default(),
            restart: Restart::default(),
            stop: Stop::default(),
            budget: None,
            group: None,
            schedule: None,
            install: Install::default(),
            sandbox: Sandbox {
                profile: profile.into(),
                read: vec![],
                execute: vec![],
                write: vec![],
                hosts: vec![],
                listen: vec![],
                allow_unenforced: vec![],
            },
            limits: Limits::default(),
            bus: Bus::default(),
            tools: Tools::default(),
            llm: None,
            id,
        }
    }
}

/// An entry of `after`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// Whom it waits for.
    pub unit: UnitId,
    /// Until when. Default `ready`.
    pub until: Until,
}

impl After {
    /// Waits until it is ready.
    pub fn ready(unit: UnitId) -> Self {
        Self { unit, until: Until::Ready }
    }
}

/// How far the other unit must have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// Its program runs.
    Started,
    /// It is active.
    Ready,
    /// It is active, and its startup and readiness probes pass.
    Healthy,
    /// Its run has ended, however.
    Exited,
    /// Its run has ended with the result `success`.
    Succeeded,
}

/// An entry of `conditions`: `path-exists:/etc/x`, negated by a leading `!`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// It must not hold.
    pub negated: bool,
    /// What is looked at.
    pub test: Test,
    /// As written, for messages.
    pub text: String,
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Test {
    /// Something is at this path.
    PathExists(String),
    /// Something matches this pattern.
    PathExistsGlob(String),
    /// A directory.
    PathIsDirectory(String),
    /// A directory with something in it.
    DirectoryNotEmpty(String),
    /// A file with at least one byte.
    FileNotEmpty(String),
    /// A file that may be executed.
    FileIsExecutable(String),
    /// On a file system mounted for writing.
    PathIsReadWrite(String),
    /// A variable of loomd's own environment: `NAME` or `NAME=value`.
    Environment(String),
    /// The machine runs on mains, or has no battery.
    AcPower(bool),
    /// The machine's host name; `*` and `?` match.
    Host(String),
    /// loomd's user, by name or number; `@system` for root.
    User(String),
    /// As `uname -m` says.
    Architecture(String),
    /// At least so many processors.
    Cpus(u64),
    /// At least so many bytes of memory.
    Memory(u64),
}

/// `[exec]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments; at least one element. A program without `/` is looked up in `PATH` by loomd.
    pub command: Vec<String>,
    /// Run one after the other before it; one that fails fails the start. A program with a leading `-` may fail.
    pub start_pre: Vec<Vec<String>>,
    /// Tells the running program to read its settings anew.
    pub reload: Option<Vec<String>>,
    /// A clean end leaves the unit `active (exited)`.
    pub remain_after_exit: bool,
    /// Files of `NAME=value` lines, read at each start; one with a leading `?` may be missing.
    pub environment_file: Vec<PathGrant>,
    /// Whose process it is. Default: loomd's user. Needs a loomd that runs as root.
    pub user: Option<String>,
    /// Default: the unit's state directory.
    pub working_directory: String,
    /// Beside what every unit gets.
    pub environment: BTreeMap<String, String>,
    /// Name → absolute path of a file that only its owner can read.
    pub credentials: BTreeMap<String, String>,
}

/// `[ready]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// What counts as ready.
    pub kind: ReadyKind,
    /// From spawn to ready, at most. Default 90 s.
    pub timeout: Millis,
    /// Whose messages count. Default `main`.
    pub notify_access: NotifyAccess,
}

/// `ready.notify_access`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NotifyAccess {
    /// The main process.
    Main,
    /// The main process, and what runs for `start_pre`, `reload`, `stop.command` and `stop.post`.
    Exec,
    /// Every process of the unit.
    All,
}

/// `ready.type`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReadyKind {
    /// execve succeeded and the confinement is in force.
    Exec,
    /// `READY=1` came on `NOTIFY_SOCKET`.
    Notify,
    /// As `notify`; and a reload is SIGHUP, answered by `RELOADING=1` and then `READY=1`.
    NotifyReload,
    /// Exit status 0.
    Oneshot,
}

impl ReadyKind {
    /// Whether it says itself that it is ready.
    pub fn notifies(self) -> bool {
        matches!(self, ReadyKind::Notify | ReadyKind::NotifyReload)
    }
}

/// `[watchdog]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watchdog {
    /// The longest silence between two `WATCHDOG=1`, from READY on. Off by default.
    pub interval: Option<Millis>,
    /// Between SIGABRT and SIGKILL. Default 10 s.
    pub abort_timeout: Millis,
    /// The longest time without progress, from READY on. Off by default.
    pub progress: Option<Millis>,
    /// What follows then. Default `restart`.
    pub progress_action: ProgressAction,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self { interval: None, abort_timeout: Millis(10_000), progress: None, progress_action: ProgressAction::Restart }
    }
}

/// `watchdog.progress_action`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProgressAction {
    /// It is said, and nothing else.
    Notify,
    /// SIGUSR1; if nothing moves within `abort_timeout`, as `restart`.
    Interrupt,
    /// SIGABRT, `abort_timeout`, SIGKILL of the tree; result `progress`.
    Restart,
}

/// `[health.*]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Until it passes, `liveness` and `readiness` are not asked; too many failures end the run with the result `liveness`.
    pub startup: Option<Probe>,
    /// Withholds `healthy`; never ends a run.
    pub readiness: Option<Probe>,
    /// Too many failures end the run with the result `liveness`.
    pub liveness: Option<Probe>,
}

/// `[health.startup]`, `[health.readiness]`, `[health.liveness]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// What is done.
    pub check: Check,
    /// From the end of one to the beginning of the next. Default 10 s.
    pub period: Millis,
    /// The longest that one may take; then it is killed and has failed. Default 1 s.
    pub timeout: Millis,
    /// Failures in a row that count. Default 3.
    pub failures: u32,
    /// Successes in a row that count. Default 1.
    pub successes: u32,
}

/// What a probe does, inside the unit's sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Runs a program; exit 0 passes.
    Exec(Vec<String>),
    /// GETs a URL `http://address:port/path`; 200 to 399 passes.
    Http { url: String, host: String, port: u16 },
    /// Connects to `address:port`.
    Tcp { host: String, port: u16 },
    /// Connects to a unix socket.
    Unix(String),
}

/// `[budget]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// After this long everything is refilled. Default 1 day.
    pub window: Millis,
    /// Tokens of models, as the agent reports them.
    pub tokens: Option<u64>,
    /// Money in millionths of the currency, as the agent reports it.
    pub cost_micros: Option<u64>,
    /// Tool calls.
    pub calls: Option<u64>,
    /// Time during which a process ran.
    pub time: Option<Millis>,
}

/// `[group]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// In the order of their start; implies `wants` and that order.
    pub members: Vec<UnitId>,
    /// What the failure of one means for the others. Default `one-for-one`.
    pub strategy: GroupStrategy,
    /// Restarts of the group within `period`; one more fails it. Default 3.
    pub intensity: u32,
    /// Default 60 s.
    pub period: Millis,
    /// Members whose end ends the group.
    pub significant: Vec<UnitId>,
}

/// `group.strategy`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GroupStrategy {
    /// Only the failed one starts again.
    OneForOne,
    /// It and all after it stop in reverse order, then start in order.
    RestForOne,
    /// All do.
    OneForAll,
}

/// `[install]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Install {
    /// Units that want it once it is enabled.
    pub wanted_by: Vec<UnitId>,
    /// Units that require it once it is enabled.
    pub required_by: Vec<UnitId>,
}

/// `[restart]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    /// Which ends are followed by a new run.
    pub policy: RestartPolicy,
    /// Wait after the first failure. Default 100 ms.
    pub delay: Millis,
    /// Growth per further failure. Default 2.
    pub factor: f64,
    /// The longest wait. Default 5 min.
    pub max_delay: Millis,
    /// Up to this share is added to a wait. Default 0.25.
    pub jitter: f64,
    /// A run that stays active this long clears the count of failures. Default 10 min.
    pub reset_after: Millis,
    /// Exit codes that count as clean, beside 0.
    pub success_exit_status: Vec<u8>,
    /// Exit codes after which it is never restarted. Default 78.
    pub prevent_exit_status: Vec<u8>,
    /// Exit codes after which it is restarted whatever the policy.
    pub force_exit_status: Vec<u8>,
    /// The longest wait that a program may ask for with exit 75 or `X_LOOM_RETRY_AFTER`. Default 24 h.
    pub retry_after_max: Millis,
    /// Automatic starts within `limit_interval`; 0: no limit. Default 0.
    pub limit_burst: u32,
    /// Default 10 s.
    pub limit_interval: Millis,
    /// What follows at the limit. Default `fail`.
    pub limit_mode: LimitMode,
    /// Runs in a row that die on the same event or task before that is set aside; 0: never. Default 3.
    pub poison_after: u32,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::OnFailure,
            delay: Millis(100),
            factor: 2.0,
            max_delay: Millis(300_000),
            jitter: 0.25,
            reset_after: Millis(600_000),
            success_exit_status: vec![],
            prevent_exit_status: vec![78],
            force_exit_status: vec![],
            retry_after_max: Millis(86_400_000),
            limit_burst: 0,
            limit_interval: Millis(10_000),
            limit_mode: LimitMode::Fail,
            poison_after: 3,
        }
    }
}

/// `restart.limit_mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LimitMode {
    /// The unit fails with the result `start-limit-hit`.
    Fail,
    /// The next start waits until the window allows it.
    Delay,
}

/// `restart.policy`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    No,
    OnSuccess,
    OnFailure,
    OnAbnormal,
    OnWatchdog,
    OnAbort,
    Always,
}

/// `[stop]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    /// Sent to the main process first, followed by SIGCONT. A number of Linux.
    pub signal: i32,
    /// Until SIGKILL of the whole tree. Default 30 s.
    pub timeout: Millis,
    /// Run first; the signal follows when it has ended.
    pub command: Option<Vec<String>>,
    /// Who gets the signal, and who is killed. Default `mixed`.
    pub kill_mode: KillMode,
    /// Run one after the other once nothing of the run is left, however it ended. A program with a leading `-` may fail.
    pub post: Vec<Vec<String>>,
    /// How long the program takes to save its work, as its author declares it; no clock runs for it.
    pub checkpoint: Option<Millis>,
}

impl Default for Stop {
    fn default() -> Self {
        Self {
            signal: 15,
            timeout: Millis(30_000),
            command: None,
            kill_mode: KillMode::Mixed,
            post: vec![],
            checkpoint: None,
        }
    }
}

/// `stop.kill_mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KillMode {
    /// The signal to the main process, SIGKILL to all.
    Mixed,
    /// Both to all.
    ControlGroup,
    /// Both to the main process; what it started lives on.
    Process,
}

/// `[sandbox]`. Paths are absolute; one written with `?` may be missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Name of a profile: `python` (agents), `native` (services), `worker`.
    pub profile: String,
    /// Read files and directories.
    pub read: Vec<PathGrant>,
    /// Read and execute.
    pub execute: Vec<PathGrant>,
    /// Read, write, make, remove.
    pub write: Vec<PathGrant>,
    /// Hosts it may reach.
    pub hosts: Vec<HostGrant>,
    /// TCP ports it may listen on (loopback services).
    pub listen: Vec<u16>,
    /// Promises that may be less than fully enforced.
    pub allow_unenforced: Vec<crate::machine::Promise>,
}

/// A path in a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathGrant {
    /// Absolute.
    pub path: String,
    /// Written with a leading `?`: no error where it is missing.
    pub optional: bool,
    /// `file:line:column` that grants it, for messages.
    pub origin: String,
}

/// A line of `hosts`: `name:port`; port 443 unless written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostGrant {
    /// Lower-case name, `*.` in front for names below it, or an address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Open descriptors. Default 1024.
    pub open_files: u64,
    /// Largest file it can write, bytes. Default 256 MiB.
    pub file_size_bytes: u64,
    /// Address space per process, bytes. Off by default.
    pub address_space_bytes: Option<u64>,
    /// Memory of all its processes together, bytes. Off by default.
    pub memory_bytes: Option<u64>,
    /// Processes and threads of it, together. Off by default.
    pub tasks: Option<u64>,
    /// Processor time in percent of one processor. Off by default.
    pub cpu_percent: Option<u32>,
    /// What follows when the kernel kills a process of it, other than the main one, for want of memory. Default `continue`.
    pub oom_policy: OomPolicy,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            open_files: 1024,
            file_size_bytes: 256 << 20,
            address_space_bytes: None,
            memory_bytes: None,
            tasks: None,
            cpu_percent: None,
            oom_policy: OomPolicy::Continue,
        }
    }
}

/// `limits.oom_policy`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OomPolicy {
    /// It is shown.
    Continue,
    /// The run is ended in order, with the result `oom-kill`.
    Stop,
    /// The whole tree is killed, with the result `oom-kill`.
    Kill,
}

/// `[bus]`: filters by topic.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Bus {
    /// What it may publish.
    pub publish: Vec<String>,
    /// What it may subscribe to, beside its own mailbox `unit.<u>.>`.
    pub subscribe: Vec<String>,
    /// Where it may send requests.
    pub request: Vec<String>,
}

/// `[tools]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tools {
    /// Rules that allow, as written: `fs:read(path=notes/**)`.
    pub allow: Vec<ToolRule>,
    /// Rules that refuse; they win.
    pub deny: Vec<ToolRule>,
    /// Directory that relative paths start from. Default: the working directory.
    pub workspace: String,
    /// Longest time a call may take. Default 30 s.
    pub timeout: Millis,
}

/// A rule as written, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolRule {
    /// The text, checked by [`crate::tools::Rule::parse`].
    pub text: String,
    /// `file:line:column`.
    pub origin: String,
}

/// `[llm]`: profiles by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Llm {
    /// The profile used when none is named.
    pub default: String,
    /// `[llm.<name>]`.
    pub profiles: BTreeMap<String, LlmProfile>,
}

/// `[llm.<name>]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlmProfile {
    /// Wire format; `openai-chat`.
    pub format: String,
    /// Up to and including `/v1`.
    pub base_url: String,
    /// Model's name as the endpoint knows it.
    pub model: String,
    /// Name of a credential of `[exec]` that holds the key.
    pub credential: Option<String>,
    /// Tokens that fit. Default 8192.
    pub window: u32,
    /// Tokens of an answer, at most. Default 512.
    pub max_output: u32,
    /// Sent only when set.
    pub temperature: Option<f64>,
}

/// Facts about a run that its unit file cannot know, given to plans and environments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFacts {
    /// The run to come.
    pub run: RunId,
    /// Automatic restarts since a person's start.
    pub restarts: u64,
    /// Result word of the run before, if any.
    pub last_result: Option<String>,
    /// `code 1`, `signal 9`, if known.
    pub last_exit: Option<String>,
}
