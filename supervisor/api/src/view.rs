//! view: what the control API answers. JSON; fields are added, never renamed.
//!
//! Job: the types of requests and answers. May touch: loom-core's words. Keeps: every top answer carries `version: 1`.

use loom_core::ids::{Kind, RunId, UnitId};
use loom_core::lifecycle::{ActiveState, Exit, RunResult};
use loom_core::machine::{Enforcement, Machine};
use loom_core::unit::problem::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
}

/// Body of start, stop, restart.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobRequest {
    /// Answer once accepted instead of once done.
    #[serde(default)]
    pub no_block: bool,
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

/// What `daemon-reload` did.
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

/// Answer of `loomctl audit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditView {
    pub version: u32,
    pub records: Vec<AuditRecord>,
}

/// Any refusal. The HTTP status says which kind: 400 usage, 404 no such unit, 409 refused or failed, 422 bad file, 503 stopping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{error}")]
pub struct Refusal {
    /// [`VERSION`]
    pub version: u32,
    /// `usage`, `no-such-unit`, `failed`, `bad-file`, `stopping`, `too-big`.
    pub code: String,
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
