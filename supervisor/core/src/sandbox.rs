//! sandbox: from a unit and a machine, the plan the launcher will follow and how far each promise holds.
//!
//! Job: profiles (data in `profiles/*.toml`), grants, environment, limits → [`LaunchPlan`] + [`Enforcement`].
//! May touch: `ids`, `unit`, `machine`, `launch_plan`. Keeps: a pure function; what cannot be enforced is an error or a value.

use crate::launch_plan::LaunchPlan;
use crate::machine::{Enforcement, Machine};
use crate::unit::{RunFacts, Unit};
use std::collections::BTreeMap;

/// What the shell looked up for one start. Descriptors are numbers in the launcher.
#[derive(Debug, Clone, PartialEq)]
pub struct Surroundings {
    /// Program found for `command[0]`, absolute.
    pub program: String,
    /// Files the program needs beside the profile, absolute, links followed: interpreter, base prefix, venv.
    pub interpreter_roots: Vec<String>,
    /// The unit's state directory (`%S`).
    pub state_dir: String,
    /// The unit's runtime directory, which holds `bus.sock`, `notify.sock`, `lock`, `tmp/`.
    pub runtime_dir: String,
    /// Paths of the profile that are links, with their targets.
    pub links: BTreeMap<String, String>,
    /// Extra environment: `LOOM_SOCKET`, `LOOM_TOKEN_FD`, `LOOM_CONFIG_FD`, `NOTIFY_SOCKET`, `WATCHDOG_USEC`, …
    pub env: BTreeMap<String, String>,
    /// Descriptors to keep beside 0, 1, 2.
    pub descriptors: Vec<crate::launch_plan::DescriptorMove>,
    /// An open cgroup directory.
    pub cgroup: Option<i32>,
}

/// Why a unit cannot be confined as it asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// A core promise cannot be kept here, and the unit does not accept less.
    #[error("{unit} asks for `{promise}` to be enforced, and this machine cannot: {missing}. Way out: {hint}")]
    NotEnforced { unit: String, promise: String, missing: String, hint: String },
    /// A grant that no unit may have.
    #[error("{origin}: {what}")]
    Grant { origin: String, what: String },
}

/// The plan for one run of `unit` on `machine`, and how far each promise holds.
pub fn plan(
    _unit: &Unit,
    _facts: &RunFacts,
    _machine: &Machine,
    _around: &Surroundings,
) -> Result<(LaunchPlan, Vec<Enforcement>), SandboxError> {
    unimplemented!()
}

/// The plan for a worker that carries out tools with the rights of `unit`.
pub fn worker_plan(
    _unit: &Unit,
    _facts: &RunFacts,
    _machine: &Machine,
    _around: &Surroundings,
) -> Result<LaunchPlan, SandboxError> {
    unimplemented!()
}
