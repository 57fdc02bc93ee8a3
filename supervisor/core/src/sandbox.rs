//! sandbox: from a unit and a machine, the plan the launcher will follow and how far each promise holds.
//!
//! Job: profiles (data in `profiles/*.toml`), grants, environment, limits → [`LaunchPlan`] + [`Enforcement`].
//! May touch: `ids`, `unit`, `machine`, `launch_plan`. Keeps: a pure function; what cannot be enforced is an error or a value.

mod grants;
mod profile;
mod promises;
#[cfg(test)]
mod tests;

pub use profile::{PROFILE_NAMES, Profile, profile};

use crate::launch_plan::{
    Access, DescriptorMove, LandlockPlan, LaunchPlan, PLAN_VERSION, PathRule, Rlimit, SeccompPlan, User,
};
use crate::machine::{Enforced, Enforcement, Machine, Promise};
use crate::unit::{Check, RunFacts, Unit};
use std::collections::BTreeMap;

/// Where programs are looked up, and what a unit's `PATH` is.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the shell looked up for one start. Descriptors are numbers in the launcher.
///
/// All paths are absolute, without `.`, `..` and a trailing `/`; those of loomd's own directories have no link in them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Surroundings {
    /// Program found for `command[0]`, absolute.
    pub program: String,
    /// Files the program needs beside the profile, absolute, links followed: interpreter, base prefix, venv.
    pub interpreter_roots: Vec<String>,
    /// Directories of the arguments that are absolute paths of existing files: where the program's own code lies. The
    /// directory of a unit file belongs here as well if a relative argument names a file there.
    pub code_roots: Vec<String>,
    /// Those files themselves. Where a directory would be too wide a grant (a home, `/etc`), the file alone is readable.
    pub code_files: Vec<String>,
    /// The unit's state directory (`%S`).
    pub state_dir: String,
    /// The unit's runtime directory, which holds `bus.sock`, `notify.sock`, `lock`, `tmp/`.
    pub runtime_dir: String,
    /// What no unit may write in: loomd's runtime and state directory, and the directories of the unit search path. The
    /// unit's own two directories above are the exception.
    pub protected: Vec<String>,
    /// Home directory of loomd's user.
    pub home: Option<String>,
    /// Paths of the profile that are links, with their targets. Ask [`profile_paths`] which to look at.
    pub links: BTreeMap<String, String>,
    /// Extra environment: `LOOM_SOCKET`, `LOOM_TOKEN_FD`, `LOOM_CONFIG_FD`, `NOTIFY_SOCKET`, `WATCHDOG_USEC`, …
    pub env: BTreeMap<String, String>,
    /// Variables that get the process's own id: `LISTEN_PID`, `WATCHDOG_PID`.
    pub pid_variables: Vec<String>,
    /// Who the process becomes; `None`: as loomd.
    pub user: Option<User>,
    /// Descriptors to keep, 0, 1 and 2 included; where one of these is missing, the launcher's own is kept.
    pub descriptors: Vec<DescriptorMove>,
    /// Open cgroup directories to join.
    pub cgroups: Vec<i32>,
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

/// The paths in a profile that may be links; what they lead to belongs into [`Surroundings::links`].
pub fn profile_paths(name: &str) -> Vec<String> {
    profile(name).map(|p| p.read.clone()).unwrap_or_default()
}

/// The plan for one run of `unit` on `machine`, and how far each promise holds.
pub fn plan(
    unit: &Unit,
    facts: &RunFacts,
    machine: &Machine,
    around: &Surroundings,
) -> Result<(LaunchPlan, Vec<Enforcement>), SandboxError> {
    let exec = unit.exec.as_ref().ok_or_else(|| SandboxError::Grant {
        origin: unit.id.to_string(),
        what: "a unit without [exec] runs nothing, so there is nothing to confine".to_owned(),
    })?;
    let profile = known_profile(unit, &unit.sandbox.profile)?;
    grants::check(unit, around)?;
    let enforcement = promises::values(unit, profile, machine);
    promises::check(unit, profile, &enforcement)?;

    let mut rules = grants::rules(profile, around);
    rules.extend(grants::program(around));
    rules.extend(grants::own_directories(around));
    rules.extend(grants::of_unit(unit, around));
    rules.extend(grants::code(around)?);
    let mut argv = exec.command.clone();
    argv[0].clone_from(&around.program);
    let plan = LaunchPlan {
        version: PLAN_VERSION,
        unit: unit.id.clone(),
        run: facts.run,
        argv,
        env: environment(unit, facts, profile, around),
        pid_variables: around.pid_variables.clone(),
        directory: exec.working_directory.clone(),
        descriptors: with_standard(&around.descriptors),
        lock: Some(format!("{}/lock", around.runtime_dir)),
        cgroups: around.cgroups.clone(),
        user: around.user,
        rlimits: rlimits(unit),
        mdwe: profile.mdwe && machine.mdwe,
        landlock: landlock(machine, grants::tidy(rules), connect_ports(unit), unit.sandbox.listen.clone()),
        seccomp: machine.seccomp.then(|| SeccompPlan {
            groups: profile.syscalls.clone(),
            fake_metadata: profile.fake_metadata,
            socket_families: families(unit, profile),
        }),
    };
    Ok((plan, enforcement))
}

/// The plan for a process that helps the unit's main process: `exec.start_pre`, `exec.reload`, `stop.command`, `stop.post`, a
/// probe's `exec`. It has the unit's sandbox, and no lock, for it may run beside the unit's process.
///
/// `command` is what `around` was looked up for; its code roots may hold those of the unit's own program as well.
pub fn helper_plan(
    unit: &Unit,
    command: &[String],
    facts: &RunFacts,
    machine: &Machine,
    around: &Surroundings,
) -> Result<LaunchPlan, SandboxError> {
    let mut helper = unit.clone();
    if let Some(exec) = &mut helper.exec {
        exec.command = command.to_vec();
    }
    let (plan, _) = plan(&helper, facts, machine, around)?;
    Ok(LaunchPlan { lock: None, ..plan })
}

/// The plan for a probe that connects: a worker that reaches that one port or socket. `None`: the check runs a program.
pub fn probe_plan(
    unit: &Unit,
    check: &Check,
    facts: &RunFacts,
    machine: &Machine,
    around: &Surroundings,
) -> Result<Option<LaunchPlan>, SandboxError> {
    let (how, target, port) = match check {
        Check::Exec(_) => return Ok(None),
        Check::Http { url, port, .. } => ("http", url.clone(), Some(*port)),
        // An address of version 6 stands in brackets, as in a URL.
        Check::Tcp { host, port } if host.contains(':') && !host.starts_with('[') => {
            ("tcp", format!("[{host}]:{port}"), Some(*port))
        }
        Check::Tcp { host, port } => ("tcp", format!("{host}:{port}"), Some(*port)),
        Check::Unix(path) => ("unix", path.clone(), None),
    };
    let mut plan = worker_plan(unit, facts, machine, around)?;
    plan.argv.extend(["probe".to_owned(), how.to_owned(), target.clone()]);
    if let Some(landlock) = &mut plan.landlock {
        if let Some(ports) = &mut landlock.connect_ports {
            ports.extend(port);
        }
        if port.is_none() {
            landlock.rules.push(PathRule {
                path: target,
                access: Access::Connect,
                optional: true,
                no_symlinks: false,
                origin: "probe".to_owned(),
            });
        }
    }
    if let Some(seccomp) = &mut plan.seccomp {
        let families: &[&str] = if port.is_some() { &["inet", "inet6"] } else { &["unix"] };
        seccomp.socket_families.extend(families.iter().map(|family| (*family).to_owned()));
    }
    Ok(Some(plan))
}

/// The plan for a worker that carries out tools with the rights of `unit`.
///
/// `around.program` is the worker, `around.runtime_dir` and `state_dir` are the unit's; it gets the unit's files, no socket, no
/// program but itself, and no lock, for it may run beside the unit's process.
pub fn worker_plan(
    unit: &Unit,
    facts: &RunFacts,
    machine: &Machine,
    around: &Surroundings,
) -> Result<LaunchPlan, SandboxError> {
    let profile = known_profile(unit, "worker")?;
    grants::check(unit, around)?;
    promises::check(unit, profile, &promises::values(unit, profile, machine))?;
    let mut rules = grants::rules(profile, around);
    rules.extend(grants::program(around));
    rules.extend(grants::own_directories(around));
    rules.extend(grants::of_unit(unit, around));
    // What the unit may execute its worker may read: it executes nothing.
    for rule in rules.iter_mut().filter(|r| r.access == Access::Execute && r.origin != profile.origin()) {
        if rule.path != around.program {
            rule.access = Access::Read;
        }
    }
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    env.insert("PATH".to_owned(), PATH.to_owned());
    env.insert("LANG".to_owned(), "C.UTF-8".to_owned());
    env.insert("TMPDIR".to_owned(), format!("{}/tmp", around.runtime_dir));
    env.insert("LOOM_UNIT".to_owned(), unit.id.to_string());
    env.insert("LOOM_RUN".to_owned(), facts.run.0.to_string());
    env.extend(around.env.clone());
    Ok(LaunchPlan {
        version: PLAN_VERSION,
        unit: unit.id.clone(),
        run: facts.run,
        argv: vec![around.program.clone()],
        env,
        pid_variables: around.pid_variables.clone(),
        directory: "/".to_owned(),
        descriptors: with_standard(&around.descriptors),
        lock: None,
        cgroups: around.cgroups.clone(),
        user: around.user,
        rlimits: rlimits(unit),
        mdwe: profile.mdwe && machine.mdwe,
        landlock: landlock(machine, grants::tidy(rules), Vec::new(), Vec::new()),
        seccomp: machine.seccomp.then(|| SeccompPlan {
            groups: profile.syscalls.clone(),
            fake_metadata: profile.fake_metadata,
            socket_families: profile.sockets.clone(),
        }),
    })
}

fn known_profile(unit: &Unit, name: &str) -> Result<&'static Profile, SandboxError> {
    profile(name).ok_or_else(|| SandboxError::Grant {
        origin: unit.id.to_string(),
        what: format!("no sandbox profile is called `{name}`; there are {}", PROFILE_NAMES.join(", ")),
    })
}

/// The lowest ABI with port rules.
const PORTS_ABI: u32 = 4;
/// The lowest ABI that cuts off signals and abstract sockets.
const SCOPES_ABI: u32 = 6;

fn landlock(machine: &Machine, rules: Vec<PathRule>, connect: Vec<u16>, bind: Vec<u16>) -> Option<LandlockPlan> {
    let ports = machine.landlock_abi >= PORTS_ABI;
    (machine.landlock_abi > 0).then(|| LandlockPlan {
        abi: machine.landlock_abi,
        rules,
        connect_ports: ports.then_some(connect),
        bind_ports: ports.then_some(bind),
        scoped: machine.landlock_abi >= SCOPES_ABI,
        open_signals: false,
    })
}

/// Names are asked over TCP, for datagram sockets are never made.
const DNS_PORT: u16 = 53;

/// Whether a host must be looked up: neither an address nor the machine itself.
fn asks_dns(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok();
    !(literal || host == "localhost" || host.ends_with(".localhost"))
}

fn connect_ports(unit: &Unit) -> Vec<u16> {
    let hosts = &unit.sandbox.hosts;
    let mut ports: Vec<u16> = hosts.iter().map(|h| h.port).collect();
    if hosts.iter().any(|h| asks_dns(&h.host)) {
        ports.push(DNS_PORT);
    }
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// Internet sockets only for those who are granted a host or a port: without them not even a port without a rule is in reach.
fn families(unit: &Unit, profile: &Profile) -> Vec<String> {
    let mut families = profile.sockets.clone();
    if !unit.sandbox.hosts.is_empty() || !unit.sandbox.listen.is_empty() {
        families.extend(["inet".to_owned(), "inet6".to_owned()]);
    }
    families
}

fn with_standard(given: &[DescriptorMove]) -> Vec<DescriptorMove> {
    let mut moves: Vec<DescriptorMove> = (0..=2)
        .filter(|standard| !given.iter().any(|m| m.to == *standard))
        .map(|standard| DescriptorMove { fd: standard, to: standard })
        .collect();
    moves.extend_from_slice(given);
    moves.sort_unstable_by_key(|m| m.to);
    moves
}

fn rlimits(unit: &Unit) -> Vec<Rlimit> {
    const MEMLOCK_BYTES: u64 = 8 << 20;
    const SIGPENDING: u64 = 1024;
    let limit = |name: &str, value| Rlimit { name: name.to_owned(), value };
    let mut limits = vec![
        limit("core", 0),
        limit("memlock", MEMLOCK_BYTES),
        limit("rtprio", 0),
        limit("nice", 0),
        limit("msgqueue", 0),
        limit("sigpending", SIGPENDING),
        limit("nofile", unit.limits.open_files),
        limit("fsize", unit.limits.file_size_bytes),
    ];
    limits.extend(unit.limits.address_space_bytes.map(|bytes| limit("as", bytes)));
    limits
}

/// Built from nothing. Later lines win: what every unit gets, the profile, the unit file, loomd's own words.
fn environment(unit: &Unit, facts: &RunFacts, profile: &Profile, around: &Surroundings) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let mut set = |name: &str, value: &str| env.insert(name.to_owned(), value.to_owned());
    set("PATH", PATH);
    set("HOME", &around.state_dir);
    set("TMPDIR", &format!("{}/tmp", around.runtime_dir));
    set("LANG", "C.UTF-8");
    if unit.sandbox.hosts.iter().any(|h| asks_dns(&h.host)) {
        set("RES_OPTIONS", "use-vc");
    }
    env.extend(profile.environment.clone());
    // PYTHONSAFEPATH keeps a directory that an agent writes off its path. Modules beside its program are no such thing.
    if let Some(modules) = grants::modules(around) {
        env.insert("PYTHONPATH".to_owned(), modules);
    }
    env.extend(unit.exec.iter().flat_map(|exec| exec.environment.clone()));
    let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
    set("LOOM_UNIT", unit.id.to_string());
    set("LOOM_RUN", facts.run.0.to_string());
    set("LOOM_RESTART_COUNT", facts.restarts.to_string());
    if let Some(result) = &facts.last_result {
        set("LOOM_LAST_RESULT", result.clone());
    }
    if let Some(exit) = &facts.last_exit {
        set("LOOM_LAST_EXIT", exit.clone());
    }
    env.extend(around.env.clone());
    env
}
