//! machine: what this machine can enforce, and how far a promise holds.
//!
//! Job: abilities found by trying (loomd fills them in) and the value of each promise. May touch: nothing.
//! Keeps: strength is shown, per unit, as a value; it is never assumed.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    /// What limits groups of processes, and by which kind of group.
    #[serde(default)]
    pub controllers: BTreeMap<Controller, Hierarchy>,
    /// `PIDFD_GET_INFO` tells the exit status of a process that is not our child (Linux 6.15).
    pub pidfd_exit_info: bool,
    /// loomd runs as root.
    pub root: bool,
    /// Architecture as in `uname -m`.
    pub arch: String,
}

/// What the kernel can limit for a group of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Controller {
    /// `limits.memory`
    Memory,
    /// `limits.tasks`
    Tasks,
    /// `limits.cpu`
    Cpu,
}

impl Controller {
    pub const ALL: [Controller; 3] = [Controller::Memory, Controller::Tasks, Controller::Cpu];

    /// The kernel's name for it.
    pub fn kernel_name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Tasks => "pids",
            Controller::Cpu => "cpu",
        }
    }

    /// The key of `[limits]` that asks for it.
    pub fn key(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Tasks => "tasks",
            Controller::Cpu => "cpu",
        }
    }
}

/// Where groups with a limit are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Hierarchy {
    /// cgroup v1 or v2.
    pub version: u32,
    /// A writable directory of it.
    pub directory: String,
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
