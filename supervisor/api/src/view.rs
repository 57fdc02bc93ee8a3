//! view: what the control API answers. JSON; fields are added, never renamed.
//!
//! Job: the types of requests and answers. May touch: loom-core's words. Keeps: every top answer carries `version: 1`.

use loom_core::ids::{Kind, RunId, UnitId};
use loom_core::lifecycle::{ActiveState, Exit, RunResult};
use loom_core::machine::{Enforcement, Machine};
use loom_core::unit::problem::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// The version of every top answer.
pub const VERSION: u32 = 1;

/// One unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnitView {
    /// [`VERSION`]
    pub version: u32,
    /// Full name.
    pub unit: UnitId,
    /// Its kind.
    pub kind: Kind,
    /// One line for people.
    pub description: String,
    /// systemd's word.
    pub active_state: ActiveState,
    /// The finer word, such as `running` or `auto-restart`.
    pub sub_state: String,
    /// Of the last ended run.
    pub result: RunResult,
    /// How the last ended run's main process ended.
    pub exit: Option<Exit>,
    /// The newest run.
    pub run: RunId,
    /// Main process, if there is one.
    pub main_pid: Option<i32>,
    /// Automatic restarts since a person's start.
    pub restarts: u64,
    /// Since when it is in `active_state`: milliseconds since the epoch.
    pub since: u64,
    /// What caused the newest run.
    pub triggered_by: String,
    /// Milliseconds until a waiting restart.
    pub next_start_in_ms: Option<u64>,
    /// The unit a waiting start waits for.
    pub waits_for: Option<UnitId>,
    /// The program's own `STATUS=`.
    pub status_text: Option<String>,
    /// Why the last start failed.
    pub last_error: Option<String>,
    /// Its file is gone or its settings changed since it was started.
    pub not_found: bool,
    /// The live run's settings are not those of the file.
    pub needs_restart: bool,
    /// What of its sandbox is enforced, per promise. Of the live or newest run.
    pub enforcement: Vec<Enforcement>,
    /// Its processes, main first. Only in the detailed view.
    #[serde(default)]
    pub processes: Vec<ProcessView>,
    /// The agent's bus connection is up. `None` for units without one.
    #[serde(default)]
    pub connected: Option<bool>,
    /// Main file, then drop-ins. Only in the detailed view.
    #[serde(default)]
    pub files: Vec<String>,
    /// Runs that failed one after the other since the last stable one.
    #[serde(default)]
    pub failures: u32,
    /// It failed so often in a row that its restarts are called a crash loop.
    #[serde(default)]
    pub crash_looping: bool,
    /// Why a waiting start or restart waits, in words.
    #[serde(default)]
    pub waits_because: Option<String>,
    /// What is being done with it: `start`, `stop`, `restart`, `reload`.
    #[serde(default)]
    pub job: Option<String>,
    /// `section.key` of the settings that differ from those of the live run. With `needs_restart`.
    #[serde(default)]
    pub changed_keys: Vec<String>,
    /// Its processes are stopped in their tracks.
    #[serde(default)]
    pub frozen: bool,
    /// Whether it is up and its health probes pass. `None` for units without any.
    #[serde(default)]
    pub healthy: Option<bool>,
    /// What it may use up in a window of time. Only in the detailed view.
    #[serde(default)]
    pub budget: Option<BudgetView>,
    /// Its limits as its file sets them. Only in the detailed view.
    #[serde(default)]
    pub limits: Vec<LimitView>,
    /// Processes that outlived its last run, as `stop.kill_mode = "process"` allows. Only in the detailed view.
    #[serde(default)]
    pub survivors: Vec<ProcessView>,
    /// Its last deaths, newest first. Only in the detailed view.
    #[serde(default)]
    pub deaths: Vec<DeathView>,
    /// When its newest start began: milliseconds since the epoch. `None` where this loomd did not see it.
    #[serde(default)]
    pub began_at: Option<u64>,
    /// When that start made it active: milliseconds since the epoch.
    #[serde(default)]
    pub active_at: Option<u64>,
}

/// A budget and what is used of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BudgetView {
    /// What is used and what may be, one text each: `1200 of 5000 tokens`.
    pub used: Vec<String>,
    /// When the window ends and all is unused again: milliseconds since the epoch. `None` before anything was used.
    pub until: Option<u64>,
    /// Nothing is left: starts are refused until then.
    pub exhausted: bool,
}

/// One limit of a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LimitView {
    /// As in `[limits]`.
    pub limit: String,
    /// As a person writes it: `256M`, `64`, `50%`.
    pub value: String,
}

/// The end of a run that was no orderly one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeathView {
    /// Which run.
    pub run: RunId,
    /// Milliseconds since the epoch.
    pub at: u64,
    /// What ended it.
    pub result: RunResult,
    /// How its main process ended.
    pub exit: Option<Exit>,
    /// In words.
    pub error: Option<String>,
    /// `loomctl crashes show` has more.
    #[serde(default)]
    pub has_report: bool,
}

/// A process of a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessView {
    pub pid: i32,
    pub command: String,
}

/// `loomctl status` without a unit, and `loomctl list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overview {
    /// [`VERSION`]
    pub version: u32,
    /// About the supervisor.
    pub supervisor: SupervisorView,
    /// By name.
    pub units: Vec<UnitView>,
    /// Files that could not be loaded.
    pub problems: Vec<Problem>,
}

/// About loomd.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SupervisorView {
    /// Its own version.
    pub loomd: String,
    /// Its process id.
    pub pid: i32,
    /// Since when: milliseconds since the epoch.
    pub since: u64,
    /// `running`, `stopping`, or `degraded` where the store failed.
    pub state: String,
    /// What this machine can enforce.
    pub machine: Machine,
    /// Where output goes: `journald` or `files`.
    pub logs: String,
    /// Directories in use.
    pub runtime_dir: String,
    /// Directories in use.
    pub state_dir: String,
    /// Search path, highest first.
    pub unit_path: Vec<String>,
    /// Why a newer loomd that was to follow gave way to this one again, if it did.
    #[serde(default)]
    pub came_back: Option<String>,
}

/// Asks for nothing in particular.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Nothing {}

/// Asks about one unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnitAsked {
    /// With or without its kind: `chat` is `chat.agent`.
    pub unit: String,
}

/// Start, stop, restart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobRequest {
    /// With or without its kind.
    pub unit: String,
    /// Answer once accepted instead of once done.
    #[serde(default)]
    pub no_block: bool,
}

/// What to do with units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobVerb {
    /// Bring it up, and what it requires and wants.
    Start,
    /// Bring it down, and first what requires it.
    Stop,
    /// Down and up; of a unit that is down: up.
    Restart,
    /// As `restart`, of a unit that runs; of another: nothing.
    TryRestart,
    /// The program's own reload.
    Reload,
    /// The program's own reload where its file has one, else as `restart`.
    ReloadOrRestart,
    /// Nothing; done if it is active.
    VerifyActive,
    /// Send `signal` to `whom`.
    Kill,
    /// Forget that it failed and how often.
    ResetFailed,
    /// Stop its processes in their tracks.
    Freeze,
    /// Let them go on.
    Thaw,
}

/// Whom a signal goes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KillWhom {
    /// The main process.
    Main,
    /// Every process of the unit.
    #[default]
    All,
}

/// One job each for several units. They belong to loomd: hanging up changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobsRequest {
    /// What to do.
    pub verb: JobVerb,
    /// With or without their kinds.
    #[serde(default)]
    pub units: Vec<String>,
    /// All units that the verb can change: for `stop` those that are not down, for `reset-failed` those that failed.
    #[serde(default)]
    pub all: bool,
    /// Answer once accepted instead of once done.
    #[serde(default)]
    pub no_wait: bool,
    /// For `kill`: its number. Default SIGTERM.
    #[serde(default)]
    pub signal: Option<i32>,
    /// For `kill`.
    #[serde(default)]
    pub whom: KillWhom,
    /// For `stop`: SIGKILL for the whole tree, at once.
    #[serde(default)]
    pub force: bool,
}

impl JobsRequest {
    /// For these units, waiting for the end.
    pub fn new(verb: JobVerb, units: Vec<String>) -> Self {
        Self { verb, units, all: false, no_wait: false, signal: None, whom: KillWhom::default(), force: false }
    }
}

/// One line of the answer to a [`JobsRequest`]: newline-delimited JSON; `waiting` any number of times, and one `done` or `refused`
/// for each unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum JobNews {
    /// Said at once and at each change: a unit that is not done yet, how it is, and the unit that its job waits for.
    Waiting { view: Box<UnitView>, on: Option<Box<UnitView>> },
    /// Its job is done, or accepted where nobody waits.
    Done { asked: String, view: Box<UnitView> },
    /// Its job was refused or failed.
    Refused { asked: String, unit: Option<UnitId>, refusal: Refusal },
}

/// Asks for what happened to units, and for what happens from now on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventsAsked {
    /// Only of these units, with or without their kinds; in a query separated by commas. None: of all.
    #[serde(default, deserialize_with = "list_or_text", skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<String>,
    /// Go on with what happens.
    #[serde(default, deserialize_with = "flag_or_text", skip_serializing_if = "std::ops::Not::not")]
    pub follow: bool,
    /// Begin with what happened at this moment: milliseconds since the epoch. Without it, with the oldest that loomd remembers, or
    /// with `follow` with nothing.
    #[serde(default, deserialize_with = "number_or_text", skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
}

/// Something that happened to a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LifeEvent {
    /// [`VERSION`]
    pub version: u32,
    /// Grows by one with each; begins anew with each loomd.
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub time: u64,
    /// Which unit; none for a gap.
    pub unit: Option<UnitId>,
    /// Its newest run.
    pub run: Option<RunId>,
    /// What.
    #[serde(flatten)]
    pub news: LifeNews,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LifeNews {
    /// It changed its state.
    Changed { from: ActiveState, to: ActiveState, sub_state: String, result: RunResult, because: String },
    /// Something that is worth a word without a change of state.
    Said { word: String, text: String },
    /// You read too slowly: so many are missing here.
    Gap { missed: u64 },
}

/// How units depend on one another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GraphView {
    /// [`VERSION`]
    pub version: u32,
    /// By name.
    pub units: Vec<GraphNode>,
}

/// One unit of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GraphNode {
    /// Full name.
    pub unit: UnitId,
    /// systemd's word; none for a unit that has no file.
    pub active_state: Option<ActiveState>,
    /// When its newest start began: milliseconds since the epoch.
    pub began_at: Option<u64>,
    /// When that start made it active: milliseconds since the epoch.
    pub active_at: Option<u64>,
    /// By key of `[unit]` (`requires`, `wants`, `after`, …): the units that its file names.
    pub names: BTreeMap<String, Vec<UnitId>>,
}

/// What units use of the machine, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsageView {
    /// [`VERSION`]
    pub version: u32,
    /// When it was looked: microseconds of the monotonic clock.
    pub at_micros: u64,
    /// Those with a process, by name.
    pub units: Vec<UnitUsage>,
}

/// What one unit uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnitUsage {
    /// Full name.
    pub unit: UnitId,
    /// systemd's word.
    pub active_state: ActiveState,
    /// The finer word.
    pub sub_state: String,
    /// Main process.
    pub main_pid: Option<i32>,
    /// Processor time of its tree so far, in microseconds. Of processes that are gone only where cgroups count it.
    pub cpu_micros: u64,
    /// Memory of its tree, in bytes: what its cgroup counts, else the sum of the processes' own pages.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub tasks: u64,
    /// Automatic restarts since a person's start.
    pub restarts: u64,
}

/// Asks for crash reports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CrashesAsked {
    /// Only of this unit, with or without its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Only of this run, whole. Without it stacks and log lines are left out.
    #[serde(default, deserialize_with = "number_or_text", skip_serializing_if = "Option::is_none")]
    pub run: Option<u64>,
}

/// Crash reports, newest last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CrashesView {
    /// [`VERSION`]
    pub version: u32,
    /// At most 20 of each unit are kept.
    pub reports: Vec<CrashReport>,
}

/// What was found of a run that did not end in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CrashReport {
    /// Full name.
    pub unit: UnitId,
    /// Which run.
    pub run: RunId,
    /// When it ended: milliseconds since the epoch.
    pub at: u64,
    /// What ended it.
    pub result: RunResult,
    /// How its main process ended.
    pub exit: Option<Exit>,
    /// In words.
    pub error: Option<String>,
    /// What the program printed of its stacks after SIGABRT, as it stood in its log.
    #[serde(default)]
    pub stacks: Vec<String>,
    /// The last lines of its log.
    #[serde(default)]
    pub last_log_lines: Vec<String>,
    /// The most memory that its tree used, in bytes.
    #[serde(default)]
    pub memory_peak_bytes: Option<u64>,
    /// What its main process had open: `7 -> /var/lib/…`.
    #[serde(default)]
    pub open_files: Vec<String>,
    /// The other processes of its tree.
    #[serde(default)]
    pub children: Vec<ProcessView>,
    /// Counters of its cgroup's `memory.events` and `pids.events`, by name.
    #[serde(default)]
    pub cgroup_events: BTreeMap<String, u64>,
    /// What could not be found out, and why.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// A unit without a file of a person: loomd writes one, which is gone with the unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TransientRequest {
    /// Its name with kind. No unit file may have it.
    pub unit: UnitId,
    /// The text of its unit file.
    pub text: String,
    /// Remove it also where it failed.
    #[serde(default)]
    pub collect: bool,
    /// Answer once accepted instead of once it is active.
    #[serde(default)]
    pub no_wait: bool,
    /// Answer once it has ended, with how.
    #[serde(default)]
    pub wait: bool,
}

/// Asks for a new reading of unit files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReloadRequest {
    /// Tell what would change, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What differs between a unit before and after a reload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnitChange {
    /// Full name.
    pub unit: UnitId,
    /// `section.key`, in order.
    pub keys: Vec<String>,
}

/// Answer of ping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pong {
    /// [`VERSION`]
    pub version: u32,
    /// loomd's own version.
    pub loomd: String,
    /// Its process id.
    pub pid: i32,
}

/// The settings in force, for `loomctl show`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnitSettings {
    /// [`VERSION`]
    pub version: u32,
    /// Full name.
    pub unit: UnitId,
    /// By section and key as a unit file writes them, defaults filled in; only sections that the unit's kind has.
    pub settings: serde_json::Value,
    /// `section.key` → `file:line:column`; `section.key[0]` for items of a list. A key that is missing here has its default.
    pub origins: BTreeMap<String, String>,
    /// The same as the text of a unit file, with the file and line of each value behind it.
    #[serde(default)]
    pub effective: String,
}

/// A unit's files, for `loomctl cat`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnitFiles {
    /// [`VERSION`]
    pub version: u32,
    /// Main file, then drop-ins in the order in which they apply; then lower main files that are hidden.
    pub files: Vec<UnitFileText>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UnitFileText {
    pub path: String,
    pub text: String,
    /// A higher directory has a file of this name.
    pub hidden: bool,
}

/// What `daemon-reload` did. With errors it is a [`Refusal`] `bad-file` instead, and nothing was changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReloadReport {
    pub version: u32,
    pub added: Vec<UnitId>,
    pub changed: Vec<UnitId>,
    pub removed: Vec<UnitId>,
    /// Errors and warnings; with any error nothing was changed.
    pub problems: Vec<Problem>,
    /// Whether the new units are in force.
    pub applied: bool,
    /// For each changed unit, which settings.
    #[serde(default)]
    pub changes: Vec<UnitChange>,
    /// Live units whose settings are not those of their files, and what is `part_of` them: what `apply` restarts.
    #[serde(default)]
    pub needs_restart: Vec<UnitId>,
}

/// One entry of an agent's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StateEntry {
    pub version: u32,
    pub key: String,
    pub value: serde_json::Value,
    /// Version of the value; grows by one with each change.
    pub value_version: u64,
}

/// Keys of an agent's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StateKeys {
    pub version: u32,
    pub keys: Vec<String>,
}

/// Asks for one entry of an agent's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StateAsked {
    /// With or without its kind.
    pub unit: String,
    /// 1 to 256 bytes of printable ASCII without space.
    pub key: String,
}

/// Writes one entry of an agent's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StatePut {
    /// With or without its kind.
    pub unit: String,
    /// 1 to 256 bytes of printable ASCII without space.
    pub key: String,
    /// JSON, at most 1 MiB.
    pub value: serde_json::Value,
    /// Write only if the entry has this version; 0: only if it does not exist.
    #[serde(default)]
    pub if_version: Option<u64>,
}

/// Says something on the bus on behalf of the person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BusPublish {
    /// Such as `news.headline`.
    pub topic: String,
    /// JSON.
    pub data: serde_json::Value,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Published {
    /// [`VERSION`]
    pub version: u32,
    /// The topic.
    pub topic: String,
}

/// Asks for audited calls, newest last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditAsked {
    /// Only of this unit, with or without its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// At most this many. Default 100.
    #[serde(default, deserialize_with = "number_or_text", skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// A query string knows only text.
fn number_or_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + std::str::FromStr<Err: std::fmt::Display>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either<T> {
        Number(T),
        Text(String),
    }
    match Option::<Either<T>>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Either::Number(number)) => Ok(Some(number)),
        Some(Either::Text(text)) => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

/// As [`number_or_text`]: `true`, or nothing after the `=`.
fn flag_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Flag(bool),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::Flag(flag) => Ok(flag),
        Either::Text(text) if text.is_empty() => Ok(true),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

/// As [`number_or_text`]: names separated by commas, or a JSON list.
fn list_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        List(Vec<String>),
        Text(String),
    }
    match Either::deserialize(deserializer)? {
        Either::List(list) => Ok(list),
        Either::Text(text) if text.starts_with('[') => serde_json::from_str(&text).map_err(serde::de::Error::custom),
        Either::Text(text) => Ok(text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()),
    }
}

/// A request to a topic on behalf of the person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BusRequest {
    /// Such as `unit.chat.ask`.
    pub topic: String,
    /// JSON.
    pub data: serde_json::Value,
    /// At most one hour. Default 120 000.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// One line of the answer to a [`BusRequest`]: newline-delimited JSON, any number of `progress`, then one `reply` or `error`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum BusAnswer {
    Progress { data: serde_json::Value },
    Reply { source: String, data: serde_json::Value },
    Error { code: String, message: String },
}

/// One audited tool call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditRecord {
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub time: u64,
    /// `decided` or `ended`.
    pub stage: String,
    pub unit: UnitId,
    pub run: RunId,
    pub call: String,
    pub tool: String,
    /// At most 4 KiB.
    pub arguments: serde_json::Value,
    /// The deciding rule with file and line; for `ended` empty.
    pub rule: String,
    /// `allowed`, `denied`; for `ended` `ok` or the error's code.
    pub outcome: String,
    pub duration_ms: Option<u64>,
    pub result_bytes: Option<u64>,
}

/// An event that a unit is spared, because several of its runs in a row ended with it in hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    pub unit: UnitId,
    /// The last run that it ended.
    pub run: RunId,
    /// The event's id.
    pub id: String,
    /// When it was set aside: milliseconds since the epoch.
    pub time: u64,
    /// Empty where the event itself was not there any more.
    pub topic: String,
    /// Who sent it.
    pub source: String,
    /// The first 16 KiB of its data.
    pub data: String,
    /// The length of its data as it was sent.
    pub data_bytes: u64,
}

/// Answer of `loomctl audit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditView {
    pub version: u32,
    pub records: Vec<AuditRecord>,
}

/// Any refusal. The HTTP status says which kind: 400 usage, 403 not for you, 404 no such unit or key, 409 refused or failed,
/// 413 too big, 422 bad file, 503 stopping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{error}")]
pub struct Refusal {
    /// [`VERSION`]
    pub version: u32,
    /// Its kind, for programs.
    pub code: RefusalCode,
    /// What failed on what.
    pub error: String,
    /// Why.
    pub cause: Option<String>,
    /// The next step.
    pub hint: Option<String>,
    /// For bad files.
    #[serde(default)]
    pub problems: Vec<Problem>,
}

/// What kind of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// The question makes no sense.
    Usage,
    /// This caller may not ask.
    Forbidden,
    /// No unit has that name.
    NoSuchUnit,
    /// The agent's state has no such key.
    NoSuchKey,
    /// The entry has another version.
    Conflict,
    /// More than the limit.
    TooBig,
    /// A unit file has errors.
    BadFile,
    /// loomd is on its way down, or has too many callers.
    Stopping,
    /// Said by the client only: nobody answers at the socket.
    NoSupervisor,
    /// Said by the client only: the connection ended before the answer.
    CutShort,
    /// It was tried and did not work, or cannot work now; also whatever a newer loomd calls otherwise.
    #[serde(other)]
    Failed,
}

impl Refusal {
    pub const USAGE: RefusalCode = RefusalCode::Usage;
    pub const FORBIDDEN: RefusalCode = RefusalCode::Forbidden;
    pub const NO_SUCH_UNIT: RefusalCode = RefusalCode::NoSuchUnit;
    pub const NO_SUCH_KEY: RefusalCode = RefusalCode::NoSuchKey;
    pub const FAILED: RefusalCode = RefusalCode::Failed;
    pub const CONFLICT: RefusalCode = RefusalCode::Conflict;
    pub const TOO_BIG: RefusalCode = RefusalCode::TooBig;
    pub const BAD_FILE: RefusalCode = RefusalCode::BadFile;
    pub const STOPPING: RefusalCode = RefusalCode::Stopping;
    pub const NO_SUPERVISOR: RefusalCode = RefusalCode::NoSupervisor;
    pub const CUT_SHORT: RefusalCode = RefusalCode::CutShort;

    /// A refusal of this kind, and what failed on what.
    pub fn new(code: RefusalCode, error: impl Into<String>) -> Self {
        Self { version: VERSION, code, error: error.into(), cause: None, hint: None, problems: vec![] }
    }

    /// Adds the reason.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Adds the next step.
    #[must_use]
    pub fn try_this(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The HTTP status that goes with the code.
    pub fn status(&self) -> u16 {
        match self.code {
            RefusalCode::Usage => 400,
            RefusalCode::Forbidden => 403,
            RefusalCode::NoSuchUnit | RefusalCode::NoSuchKey => 404,
            RefusalCode::TooBig => 413,
            RefusalCode::BadFile => 422,
            RefusalCode::Stopping => 503,
            RefusalCode::Conflict | RefusalCode::Failed | RefusalCode::NoSupervisor | RefusalCode::CutShort => 409,
        }
    }
}

mod schedules;
pub use schedules::{Fired, FiringList, FiringView, ScheduleList, ScheduleView};
