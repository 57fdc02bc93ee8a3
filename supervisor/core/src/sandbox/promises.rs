//! promises: how far each one holds for a unit on a machine.
//!
//! Job: the value of each promise, and the refusal to start with less than the profile calls core. May touch: `machine`, `unit`.
//! Keeps: no gap without its words; an exception is named, never general.

use super::grants::lies_in;
use super::{Enforced, Enforcement, Machine, PORTS_ABI, Profile, Promise, SCOPES_ABI, SandboxError};
use crate::machine::Controller;
use crate::unit::Unit;

/// The lowest ABI that governs truncation.
const TRUNCATE_ABI: u32 = 3;
/// The lowest ABI that governs connecting to sockets by path.
const UNIX_SOCKETS_ABI: u32 = 9;
/// Architectures that the launcher has a table of system calls for.
const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

/// All promises, in the order of [`Promise`].
pub(super) fn values(unit: &Unit, profile: &Profile, machine: &Machine) -> Vec<Enforcement> {
    [
        (Promise::Files, files(machine)),
        (Promise::Metadata, metadata(profile, machine)),
        (Promise::Hosts, hosts(unit, machine)),
        (Promise::Sockets, sockets(profile, machine)),
        (Promise::Processes, processes(unit, machine)),
        (Promise::Kernel, kernel(profile, machine)),
        (Promise::Limits, limits(unit, machine)),
    ]
    .into_iter()
    .map(|(promise, value)| Enforcement { promise, value })
    .collect()
}

fn partly(text: &str) -> Enforced {
    Enforced::Partly(text.to_owned())
}

fn not(text: &str) -> Enforced {
    Enforced::Not(text.to_owned())
}

const NO_LANDLOCK: &str =
    "the kernel has no Landlock, or it is switched off (Linux 5.13, and `lsm=landlock,…` at boot)";
const NO_SECCOMP: &str = "the kernel takes no seccomp filter";

fn filtered(machine: &Machine) -> bool {
    machine.seccomp && ARCHITECTURES.contains(&machine.arch.as_str())
}

fn files(machine: &Machine) -> Enforced {
    match machine.landlock_abi {
        0 => not(NO_LANDLOCK),
        abi if abi < TRUNCATE_ABI => partly("this kernel's Landlock does not govern truncation (Linux 6.2 does)"),
        _ => Enforced::Fully,
    }
}

fn metadata(profile: &Profile, machine: &Machine) -> Enforced {
    if !filtered(machine) {
        return not(NO_SECCOMP);
    }
    let answer = if profile.fake_metadata { "answered and not done" } else { "refused" };
    Enforced::Partly(format!(
        "changes of mode, owner and times are {answer}; existence, size and owner of any path can be asked"
    ))
}

fn hosts(unit: &Unit, machine: &Machine) -> Enforced {
    let (hosts, listen) = (&unit.sandbox.hosts, &unit.sandbox.listen);
    if !filtered(machine) {
        return not(NO_SECCOMP);
    }
    if hosts.is_empty() && listen.is_empty() {
        return Enforced::Fully;
    }
    if machine.landlock_abi < PORTS_ABI {
        return not("this kernel's Landlock has no port rules (Linux 6.7 has), so any host and port can be reached");
    }
    if hosts.is_empty() {
        return partly("nothing can be reached; but `listen` without `bind` takes a free port that no rule names");
    }
    let mut ports: Vec<String> = super::connect_ports(unit).iter().map(u16::to_string).collect();
    ports.dedup();
    Enforced::Partly(format!(
        "a port rule: any host can be reached on port {}; names are enforced once the egress proxy is there",
        ports.join(", ")
    ))
}

fn sockets(profile: &Profile, machine: &Machine) -> Enforced {
    if !filtered(machine) {
        return not(NO_SECCOMP);
    }
    if profile.sockets.is_empty() || machine.landlock_abi >= UNIX_SOCKETS_ABI {
        return Enforced::Fully;
    }
    partly("any unix socket that loomd's user may connect to can be reached by path; closed sockets come later")
}

fn processes(unit: &Unit, machine: &Machine) -> Enforced {
    if !filtered(machine) {
        return not(NO_SECCOMP);
    }
    let sandbox = &unit.sandbox;
    let grants = sandbox.read.iter().chain(&sandbox.execute).chain(&sandbox.write);
    if let Some(grant) = grants.into_iter().find(|g| lies_in(&g.path, "/proc") || g.path.trim_matches('/').is_empty()) {
        return Enforced::Partly(format!("`{}` ({}) shows other processes", grant.path, grant.origin));
    }
    match machine.landlock_abi {
        0 => not(NO_LANDLOCK),
        abi if abi < SCOPES_ABI => {
            partly("this kernel's Landlock does not keep signals in (Linux 6.12 does); ptrace and /proc are closed")
        }
        _ => Enforced::Fully,
    }
}

fn kernel(profile: &Profile, machine: &Machine) -> Enforced {
    if !machine.seccomp {
        return not(NO_SECCOMP);
    }
    if !ARCHITECTURES.contains(&machine.arch.as_str()) {
        return Enforced::Not(format!("no table of system calls for {}", machine.arch));
    }
    if profile.mdwe && !machine.mdwe {
        return partly("memory can be written and then executed (PR_SET_MDWE came with Linux 6.3)");
    }
    Enforced::Fully
}

/// Limits per process hold everywhere; those of the whole tree need a control group.
fn limits(unit: &Unit, machine: &Machine) -> Enforced {
    let asked = [
        (Controller::Memory, unit.limits.memory_bytes.is_some()),
        (Controller::Tasks, unit.limits.tasks.is_some()),
        (Controller::Cpu, unit.limits.cpu_percent.is_some()),
    ];
    let missing: Vec<String> = asked
        .into_iter()
        .filter(|(controller, asked)| *asked && !machine.controllers.contains_key(controller))
        .map(|(controller, _)| format!("`{}` ({} controller)", controller.key(), controller.kernel_name()))
        .collect();
    if missing.is_empty() {
        return Enforced::Fully;
    }
    Enforced::Not(format!(
        "no control group that loomd may make limits {}; run loomd as root, or by systemd with `Delegate=yes`",
        missing.join(" and ")
    ))
}

/// The word in unit files.
fn word(promise: Promise) -> &'static str {
    match promise {
        Promise::Files => "files",
        Promise::Metadata => "metadata",
        Promise::Hosts => "hosts",
        Promise::Sockets => "sockets",
        Promise::Processes => "processes",
        Promise::Kernel => "kernel",
        Promise::Limits => "limits",
    }
}

/// Refuses a start in which a core promise does not hold fully and the unit does not accept that by name.
pub(super) fn check(unit: &Unit, profile: &Profile, values: &[Enforcement]) -> Result<(), SandboxError> {
    for Enforcement { promise, value } in values {
        let missing = match value {
            Enforced::Fully => continue,
            Enforced::Partly(missing) | Enforced::Not(missing) => missing,
        };
        // A limit of the whole tree is there because the unit asks for it.
        let is_core = profile.core.contains(promise) || *promise == Promise::Limits;
        if is_core && !unit.sandbox.allow_unenforced.contains(promise) {
            return Err(SandboxError::NotEnforced {
                unit: unit.id.to_string(),
                promise: word(*promise).to_owned(),
                missing: missing.clone(),
                hint: format!(
                    "a newer kernel; or, accepting the gap, `allow_unenforced = [\"{}\"]` in [sandbox]",
                    word(*promise)
                ),
            });
        }
    }
    Ok(())
}
