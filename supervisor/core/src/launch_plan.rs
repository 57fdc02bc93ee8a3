//! launch_plan: exactly what `loom-launch` will do, and how it answers.
//!
//! Job: the types that cross from loomd to the launcher. May touch: `ids`.
//! Keeps: a plan is complete: the launcher looks nothing up and has no defaults.

use crate::ids::{RunId, UnitId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the plan that this code writes and reads.
pub const PLAN_VERSION: u32 = 1;
/// The largest plan, bytes of JSON.
pub const PLAN_MAX_BYTES: usize = 256 * 1024;
/// The largest report, bytes of JSON.
pub const REPORT_MAX_BYTES: usize = 512;
/// The launcher's exit status when a stage failed.
pub const EXIT_SANDBOX: i32 = 125;
/// The launcher's exit status when the program is there but cannot be executed.
pub const EXIT_NOT_EXECUTABLE: i32 = 126;
/// The launcher's exit status when the program is not there.
pub const EXIT_NOT_FOUND: i32 = 127;

/// Everything the launcher does, in the order of [`Stage`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchPlan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// Whose run this is.
    pub unit: UnitId,
    /// Which run.
    pub run: RunId,
    /// Program (absolute) and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Variables beside those, whose value is the process's own id: `LISTEN_PID`, `WATCHDOG_PID`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pid_variables: Vec<String>,
    /// Working directory, absolute.
    pub directory: String,
    /// Descriptors to keep, at their new numbers; all others are closed. Includes 0, 1, 2.
    pub descriptors: Vec<DescriptorMove>,
    /// The unit's lock file; its open descriptor stays with the process. `None`: no lock (workers).
    pub lock: Option<String>,
    /// Descriptors of open cgroup directories to join: at most one of v2, and one of each v1 hierarchy with a limit.
    pub cgroups: Vec<i32>,
    /// Uid and gid to become. `None`: as loomd.
    pub user: Option<User>,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// `PR_SET_MDWE`.
    pub mdwe: bool,
    /// File and network rules.
    pub landlock: Option<LandlockPlan>,
    /// The system call filter.
    pub seccomp: Option<SeccompPlan>,
}

/// Makes descriptor `fd` of the launcher appear as `to` in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescriptorMove {
    pub fd: i32,
    pub to: i32,
}

/// Who the process becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

/// A resource limit; soft and hard alike. `name` as in `getrlimit`, without `RLIMIT_`, lower case: `nofile`, `core`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    pub name: String,
    pub value: u64,
}

/// Landlock, with the handled sets chosen by us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LandlockPlan {
    /// The kernel's ABI that the plan was made for; every right up to it is handled.
    pub abi: u32,
    /// What may be done beneath which path.
    pub rules: Vec<PathRule>,
    /// TCP ports that may be connected to; `None` leaves connecting unhandled.
    pub connect_ports: Option<Vec<u16>>,
    /// TCP ports that may be bound; `None` leaves binding unhandled.
    pub bind_ports: Option<Vec<u16>>,
    /// Cut off signals to, and abstract sockets of, processes outside.
    pub scoped: bool,
    /// Of those, leave signals open: for a process whose job is to signal another of its unit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open_signals: bool,
}

/// A file rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathRule {
    /// Absolute; opened with `openat2`.
    pub path: String,
    /// What it grants.
    pub access: Access,
    /// A missing path is no error.
    pub optional: bool,
    /// No symbolic link may lie on the way, because a unit can write there.
    pub no_symlinks: bool,
    /// Who says so: `profile python`, or `chat.agent.toml:7:10`.
    pub origin: String,
}

/// What a [`PathRule`] grants. Never: device nodes; ioctl on devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Read files and directories.
    Read,
    /// Read and execute.
    Execute,
    /// Read, write, truncate, make and remove.
    Write,
    /// Read and write an existing file, such as `/dev/null`; make nothing.
    Device,
    /// Connect to unix sockets by path; governed from Landlock ABI 9 on, nothing before.
    Connect,
}

/// The system call filter: default ENOSYS, names allowed, argument filters by name as chapter 20 lists them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeccompPlan {
    /// Groups of calls, `@base`, `@file`, … compiled by the launcher.
    pub groups: Vec<String>,
    /// Path-based metadata calls: answered with success and not done.
    pub fake_metadata: bool,
    /// `socket` is allowed for these families, stream only: `unix`, `inet`, `inet6`.
    pub socket_families: Vec<String>,
}

/// The launcher's steps, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Plan,
    Gate,
    Lock,
    Session,
    Cgroup,
    Namespaces,
    Mounts,
    Directory,
    Rlimits,
    User,
    Privileges,
    Descriptors,
    Landlock,
    Seccomp,
    Exec,
}

impl Stage {
    /// The word in reports and messages.
    pub fn word(self) -> &'static str {
        match self {
            Stage::Plan => "plan",
            Stage::Gate => "gate",
            Stage::Lock => "lock",
            Stage::Session => "session",
            Stage::Cgroup => "cgroup",
            Stage::Namespaces => "namespaces",
            Stage::Mounts => "mounts",
            Stage::Directory => "directory",
            Stage::Rlimits => "rlimits",
            Stage::User => "user",
            Stage::Privileges => "privileges",
            Stage::Descriptors => "descriptors",
            Stage::Landlock => "landlock",
            Stage::Seccomp => "seccomp",
            Stage::Exec => "exec",
        }
    }
}

/// What the launcher says when a stage failed. End of file without a word means that exec succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Where it failed.
    pub stage: Stage,
    /// The kernel's word; 0 where none applies.
    pub errno: i32,
    /// On what: a path, a call.
    pub what: String,
}
