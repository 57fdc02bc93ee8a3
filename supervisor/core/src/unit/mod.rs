//! unit: what a unit file says, checked.
//!
//! Job: texts of unit files → [`Catalogue`]: what is right as [`Unit`], what is wrong as [`problem::Problem`]s, all at once.
//! Three steps, three types: `raw::RawUnit` as written, with spans; [`Unit`] checked, with every default filled in; the
//! launch plan is made elsewhere. May touch: `ids`, `machine`'s words. May not: open a file; see [`SourceSet`].
//! Keeps: a `Unit` is valid because it exists; nothing outside this room reads TOML.

mod check;
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

pub use check::Programs;
pub use load::{Catalogue, Loaded, Origins, Standing, UNITS_MAX, UnitFile, load, load_all};
pub use raw::{FILE_PROBLEMS_MAX, SYNTAX_ROUNDS_MAX};
pub use reference::reference;
pub use schema::schema;
pub use source::{Content, Facts, Role, Source, SourceSet, role};
pub use written::written;

use crate::ids::{Millis, RunId, UnitId};
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
    /// Units whose start, if both start, comes first.
    pub after: Vec<UnitId>,
    /// Units whose start, if both start, comes later.
    pub before: Vec<UnitId>,
    /// What runs; `None` for targets.
    pub exec: Option<Exec>,
    /// When it counts as up.
    pub ready: Ready,
    /// Whether it must keep saying that it is alive.
    pub watchdog: Option<Watchdog>,
    /// What follows its end.
    pub restart: Restart,
    /// How it is ended.
    pub stop: Stop,
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

/// `[exec]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// Program and arguments; at least one element. A program without `/` is looked up in `PATH` by loomd.
    pub command: Vec<String>,
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
}

/// `ready.type`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReadyKind {
    /// execve succeeded and the confinement is in force.
    Exec,
    /// `READY=1` came on `NOTIFY_SOCKET`.
    Notify,
    /// Exit status 0.
    Oneshot,
}

/// `[watchdog]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watchdog {
    /// The longest silence between two `WATCHDOG=1`, from READY on.
    pub interval: Millis,
    /// Between SIGABRT and SIGKILL. Default 10 s.
    pub abort_timeout: Millis,
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
