//! machine: what this machine can enforce, and how far a promise holds.
//!
//! Job: abilities found by trying (loomd fills them in) and the value of each promise. May touch: nothing.
//! Keeps: strength is shown, per unit, as a value; it is never assumed.

use serde::{Deserialize, Serialize};

/// What was found at start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Machine {
    /// Landlock's ABI; 0 where it is missing or switched off.
    pub landlock_abi: u32,
    /// seccomp filters can be installed.
    pub seccomp: bool,
    /// `PR_SET_MDWE` is known (Linux 6.3).
    pub mdwe: bool,
    /// A writable cgroup v2 directory with `cgroup.kill`.
    pub cgroup_v2: Option<String>,
    /// `PIDFD_GET_INFO` tells the exit status of a process that is not our child (Linux 6.15).
    pub pidfd_exit_info: bool,
    /// loomd runs as root.
    pub root: bool,
    /// Architecture as in `uname -m`.
    pub arch: String,
}

/// What a sandbox promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Promise {
    Files,
    Metadata,
    Hosts,
    Sockets,
    Processes,
    Kernel,
    Limits,
}

/// How far a promise holds for one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Enforced {
    /// Nothing is missing.
    Fully,
    /// Something is; the text says what.
    Partly(String),
    /// Nothing enforces it; the text says why.
    Not(String),
}

/// One line of what was enforced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Enforcement {
    /// Which promise.
    pub promise: Promise,
    /// How far.
    pub value: Enforced,
}
