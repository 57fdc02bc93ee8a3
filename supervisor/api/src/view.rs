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
fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(usize),
        Text(String),
    }
    match Option::<Either>::deserialize(deserializer)? {
        None => Ok(None),
        Some(Either::Number(number)) => Ok(Some(number)),
        Some(Either::Text(text)) => text.parse().map(Some).map_err(serde::de::Error::custom),
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
