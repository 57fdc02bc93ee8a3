//! confine: the stages that take away: user, privileges, landlock, seccomp.
//!
//! Job: what cannot be undone. May touch: `sys`, the `landlock` crate, `seccompiler`'s installer.
//! Keeps: hard requirements only: a right, rule or flag that the kernel does not take is a failed start. The crate's default is
//! best effort and would drop it silently.

use crate::sys::{self, Trouble};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use loom_core::launch_plan::{Access, LandlockPlan, User};
use seccompiler::BpfProgram;

/// Groups, gid, bounding set, uid; all capability sets empty. Without a user: as we are, but with no capability.
pub fn user(user: Option<User>) -> Result<(), Trouble> {
    // A new uid would lose the right to shrink the bounding set.
    sys::drop_bounding_set()?;
    if let Some(User { uid, gid }) = user {
        sys::become_user(uid, gid)?;
    }
    sys::drop_capabilities()
}

/// `no_new_privs`, MDWE, and a session keyring of its own: an inherited one can be read by key id otherwise.
pub fn privileges(mdwe: bool) -> Result<(), Trouble> {
    sys::no_new_privileges()?;
    if mdwe {
        sys::deny_write_execute()?;
    }
    sys::new_session_keyring()
}

fn trouble(what: &str, error: &(dyn std::error::Error + 'static)) -> Trouble {
    // The crate's errors hold the kernel's word somewhere down the chain.
    let mut errno = 0;
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            errno = io.raw_os_error().unwrap_or(0);
        }
        cause = error.source();
    }
    Trouble { errno, what: format!("{what}: {error}") }
}

/// The rights of `access` that exist in `abi`.
fn rights(access: Access, abi: ABI) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let all = match access {
        Access::Read => read,
        Access::Execute => read | AccessFs::Execute,
        Access::Write => {
            read | AccessFs::WriteFile
                | AccessFs::Truncate
                | AccessFs::MakeReg
                | AccessFs::MakeDir
                | AccessFs::MakeSym
                | AccessFs::MakeFifo
                | AccessFs::MakeSock
                | AccessFs::RemoveFile
                | AccessFs::RemoveDir
                | AccessFs::Refer
        }
        Access::Device => AccessFs::ReadFile | AccessFs::WriteFile,
        Access::Connect => AccessFs::ResolveUnix.into(),
    };
    all & AccessFs::from_all(abi)
}

/// Opens the rules' paths, adds them, restricts this process.
pub fn landlock(plan: &LandlockPlan) -> Result<(), Trouble> {
    let abi = ABI::from(i32::try_from(plan.abi).unwrap_or(i32::MAX));
    let unsupported =
        |what: &str| Trouble { errno: libc::EOPNOTSUPP, what: format!("{what} with Landlock ABI {}", plan.abi) };
    if abi == ABI::Unsupported {
        return Err(unsupported("file rules"));
    }
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    // Every right that the plan's ABI and this launcher know, also those that no rule uses: an unhandled right is allowed.
    let mut ruleset = ruleset.handle_access(AccessFs::from_all(abi)).map_err(|e| trouble("file rights", &e))?;
    let mut net = AccessNet::from_all(abi);
    if plan.connect_ports.is_none() {
        net.remove(AccessNet::ConnectTcp);
    }
    if plan.bind_ports.is_none() {
        net.remove(AccessNet::BindTcp);
    }
    let tcp = plan.connect_ports.is_some() || plan.bind_ports.is_some();
    if tcp && abi < ABI::V4 {
        return Err(unsupported("port rules"));
    }
    if !net.is_empty() {
        ruleset = ruleset.handle_access(net).map_err(|e| trouble("network rights", &e))?;
    }
    if plan.scoped {
        if abi < ABI::V6 {
            return Err(unsupported("scopes"));
        }
        let mut scopes = Scope::from_all(abi);
        if plan.open_signals {
            scopes.remove(Scope::Signal);
        }
        ruleset = ruleset.scope(scopes).map_err(|e| trouble("scopes", &e))?;
    }
    let mut ruleset = ruleset.create().map_err(|e| trouble("ruleset", &e))?;
    for rule in &plan.rules {
        let wanted = rights(rule.access, abi);
        if wanted.is_empty() {
            continue;
        }
        let opened = match sys::open_path(&rule.path, rule.no_symlinks) {
            Ok(opened) => opened,
            Err(libc::ENOENT | libc::ENOTDIR) if rule.optional => continue,
            Err(errno) => {
                let link =
                    if errno == libc::ELOOP { ": a symbolic link lies on the way, where a unit can write" } else { "" };
                return Err(Trouble { errno, what: format!("{} ({}){link}", rule.path, rule.origin) });
            }
        };
        let wanted = if opened.is_directory { wanted } else { wanted & AccessFs::from_file(abi) };
        if wanted.is_empty() {
            continue;
        }
        let what = || format!("{} ({})", rule.path, rule.origin);
        ruleset = ruleset.add_rule(PathBeneath::new(opened.fd, wanted)).map_err(|e| trouble(&what(), &e))?;
    }
    let ports = |ports: &Option<Vec<u16>>, access: AccessNet| {
        ports.iter().flatten().map(move |port| NetPort::new(*port, access)).collect::<Vec<_>>()
    };
    for port in
        ports(&plan.connect_ports, AccessNet::ConnectTcp).into_iter().chain(ports(&plan.bind_ports, AccessNet::BindTcp))
    {
        ruleset = ruleset.add_rule(port).map_err(|e| trouble("port rule", &e))?;
    }
    let status: RestrictionStatus = ruleset.restrict_self().map_err(|e| trouble("restrict", &e))?;
    match status.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced | RulesetStatus::NotEnforced => {
            Err(Trouble { errno: 0, what: format!("ruleset is {:?}", status.ruleset) })
        }
    }
}

/// Installs the filter. It refuses any further one.
pub fn seccomp(program: &BpfProgram) -> Result<(), Trouble> {
    seccompiler::apply_filter(program).map_err(|e| {
        let errno = match &e {
            seccompiler::Error::Prctl(io) | seccompiler::Error::Seccomp(io) => io.raw_os_error().unwrap_or(0),
            seccompiler::Error::Backend(_) | seccompiler::Error::EmptyFilter | seccompiler::Error::ThreadSync(_) => 0,
        };
        Trouble { errno, what: format!("filter: {e}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_access_makes_devices_or_controls_them() {
        for access in [Access::Read, Access::Execute, Access::Write, Access::Device, Access::Connect] {
            let never = AccessFs::MakeBlock | AccessFs::MakeChar | AccessFs::IoctlDev;
            assert!((rights(access, ABI::V10) & never).is_empty(), "{access:?}");
        }
        assert!(!rights(Access::Write, ABI::V10).contains(AccessFs::Execute));
        assert!(rights(Access::Connect, ABI::V8).is_empty());
    }
}
