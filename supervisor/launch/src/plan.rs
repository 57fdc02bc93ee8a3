//! plan: from the memfd to everything the later stages need, checked.
//!
//! Job: read, parse, refuse what is not understood, compile the filter, make the C strings. May touch: `sys`, `seccomp`.
//! Keeps: any bytes give a plan or an error; after this stage nothing allocates that could have been checked here.

use crate::seccomp;
use crate::sys::{self, CStrings, Trouble};
use crate::{FIRST_PASSED_FD, PLAN_FD};
use loom_core::launch_plan::{DescriptorMove, LaunchPlan, PLAN_MAX_BYTES, PLAN_VERSION};
use seccompiler::BpfProgram;

/// The smallest address space that the launcher's own later stages fit in.
const ADDRESS_SPACE_MIN_BYTES: u64 = 16 << 20;
/// Descriptor numbers in a plan are below this.
const DESCRIPTOR_END: i32 = 1024;

/// A plan with all that is made of it in advance.
#[derive(Debug)]
pub struct Ready {
    pub plan: LaunchPlan,
    pub program: CStrings,
    pub rlimits: Vec<(libc::__rlimit_resource_t, libc::rlimit, String)>,
    pub seccomp: Option<BpfProgram>,
}

/// Reads the plan from [`PLAN_FD`].
pub fn read() -> Result<Ready, Trouble> {
    check(&sys::read_sealed(PLAN_FD, PLAN_MAX_BYTES)?)
}

fn refuse(what: impl std::fmt::Display) -> Trouble {
    Trouble { errno: libc::EINVAL, what: what.to_string() }
}

/// Parses and checks `bytes`.
pub fn check(bytes: &[u8]) -> Result<Ready, Trouble> {
    let plan: LaunchPlan = serde_json::from_slice(bytes).map_err(|e| refuse(format_args!("plan: {e}")))?;
    if plan.version != PLAN_VERSION {
        return Err(refuse(format_args!("plan version {}; this launcher reads {PLAN_VERSION}", plan.version)));
    }
    match plan.argv.first() {
        Some(program) if program.starts_with('/') => {}
        Some(program) => return Err(refuse(format_args!("argv[0] `{program}` is not absolute"))),
        None => return Err(refuse("argv is empty")),
    }
    for path in std::iter::once(&plan.directory).chain(&plan.lock) {
        if !path.starts_with('/') || path.contains('\0') {
            return Err(refuse(format_args!("path `{path}` is not absolute")));
        }
    }
    if let Some(fd) = plan.cgroups.iter().find(|fd| **fd < FIRST_PASSED_FD) {
        return Err(refuse(format_args!("cgroup descriptor {fd} is below {FIRST_PASSED_FD}")));
    }
    descriptors(&plan.descriptors)?;
    if let Some(landlock) = &plan.landlock {
        for rule in &landlock.rules {
            if !rule.path.starts_with('/') || rule.path.contains('\0') || rule.path.split('/').any(|part| part == "..")
            {
                return Err(refuse(format_args!("rule path `{}` is not absolute, or has `..`", rule.path)));
            }
        }
    }
    let rlimits = rlimits(&plan)?;
    // The program keeps this process's id.
    let pid = std::process::id().to_string();
    let mut env = plan.env.clone();
    env.extend(plan.pid_variables.iter().map(|name| (name.clone(), pid.clone())));
    let program = CStrings::new(&plan.argv, &env)?;
    let seccomp = plan.seccomp.as_ref().map(seccomp::compile).transpose().map_err(refuse)?;
    Ok(Ready { plan, program, rlimits, seccomp })
}

fn descriptors(moves: &[DescriptorMove]) -> Result<(), Trouble> {
    for (index, DescriptorMove { fd, to }) in moves.iter().enumerate() {
        let passed = (0..=2).contains(fd) || (FIRST_PASSED_FD..DESCRIPTOR_END).contains(fd);
        if !passed || !(0..DESCRIPTOR_END).contains(to) {
            return Err(refuse(format_args!("descriptor {fd} → {to}: out of range")));
        }
        if moves[..index].iter().any(|earlier| earlier.to == *to) {
            return Err(refuse(format_args!("descriptor {to} is given twice")));
        }
    }
    match (0..=2).find(|standard| !moves.iter().any(|m| m.to == *standard)) {
        Some(missing) => Err(refuse(format_args!("descriptor {missing} is not given"))),
        None => Ok(()),
    }
}

fn rlimits(plan: &LaunchPlan) -> Result<Vec<(libc::__rlimit_resource_t, libc::rlimit, String)>, Trouble> {
    let limit = |rlimit: &loom_core::launch_plan::Rlimit| {
        let resource = match rlimit.name.as_str() {
            "as" if rlimit.value < ADDRESS_SPACE_MIN_BYTES => {
                return Err(refuse(format_args!("address space below {ADDRESS_SPACE_MIN_BYTES} bytes")));
            }
            "as" => libc::RLIMIT_AS,
            "core" => libc::RLIMIT_CORE,
            "cpu" => libc::RLIMIT_CPU,
            "data" => libc::RLIMIT_DATA,
            "fsize" => libc::RLIMIT_FSIZE,
            "memlock" => libc::RLIMIT_MEMLOCK,
            "msgqueue" => libc::RLIMIT_MSGQUEUE,
            "nice" => libc::RLIMIT_NICE,
            "nofile" => libc::RLIMIT_NOFILE,
            "nproc" => libc::RLIMIT_NPROC,
            "rtprio" => libc::RLIMIT_RTPRIO,
            "sigpending" => libc::RLIMIT_SIGPENDING,
            "stack" => libc::RLIMIT_STACK,
            other => return Err(refuse(format_args!("no resource limit is called `{other}`"))),
        };
        let value = libc::rlimit { rlim_cur: rlimit.value, rlim_max: rlimit.value };
        Ok((resource, value, rlimit.name.clone()))
    };
    plan.rlimits.iter().map(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn minimal() -> serde_json::Value {
        serde_json::json!({
            "version": 1, "unit": "a.agent", "run": 1, "argv": ["/bin/true"], "env": {}, "directory": "/",
            "descriptors": [{"fd": 0, "to": 0}, {"fd": 10, "to": 1}, {"fd": 10, "to": 2}],
            "lock": null, "cgroups": [], "user": null, "rlimits": [], "mdwe": false, "landlock": null, "seccomp": null
        })
    }

    fn why(plan: &serde_json::Value) -> String {
        check(&serde_json::to_vec(plan).unwrap()).map(|_| "accepted".to_owned()).unwrap_or_else(|e| e.what)
    }

    #[test]
    fn a_plan_that_is_not_understood_is_refused() {
        assert_eq!(why(&minimal()), "accepted");
        let table: &[(&str, serde_json::Value, &str)] = &[
            ("/version", 2.into(), "plan version 2"),
            ("/argv", serde_json::json!([]), "argv is empty"),
            ("/argv/0", "true".into(), "not absolute"),
            ("/argv/0", "/bin/t\u{0}rue".into(), "NUL"),
            ("/directory", "x".into(), "not absolute"),
            ("/lock", "lock".into(), "not absolute"),
            ("/cgroups", vec![4].into(), "cgroup descriptor 4"),
            ("/descriptors", serde_json::json!([{"fd": 0, "to": 0}]), "descriptor 1 is not given"),
            ("/descriptors/1/fd", 5.into(), "out of range"),
            ("/descriptors/1/to", 0.into(), "given twice"),
            ("/rlimits", serde_json::json!([{"name": "patience", "value": 1}]), "`patience`"),
            ("/rlimits", serde_json::json!([{"name": "as", "value": 4096}]), "address space below"),
            (
                "/seccomp",
                serde_json::json!({"groups": ["@all"], "fake_metadata": true, "socket_families": []}),
                "group `@all`",
            ),
        ];
        for (at, value, want) in table {
            let mut plan = minimal();
            *plan.pointer_mut(at).unwrap() = value.clone();
            let got = why(&plan);
            assert!(got.contains(want), "{at} = {value}: {got}");
        }
        let mut unknown = minimal();
        unknown["namespaces"] = serde_json::json!(["pid"]);
        assert!(why(&unknown).contains("unknown field `namespaces`"), "{}", why(&unknown));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_plan_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(check(&bytes).is_err());
        }

        #[test]
        fn a_plan_with_damage_is_a_plan_or_an_error(at in 0usize..500, byte in any::<u8>()) {
            let mut bytes = serde_json::to_vec(&minimal()).unwrap();
            let index = at % bytes.len();
            bytes[index] = byte;
            let _ = check(&bytes);
        }
    }
}
