//! What the launcher does before and beside the confinement: gate, lock, reports, clean start.

#![allow(clippy::unwrap_used)]

mod support;

use loom_core::launch_plan::{Access, LaunchPlan, PathRule, Rlimit, Stage};
use std::fs;
use support::{Bench, Outcome, keep, memfd, start, start_with};

/// Leaves a file behind if it ever runs.
const WITNESS: &str = "open('ran', 'w').close()";

#[test]
fn each_failing_stage_is_reported_and_the_program_never_ran() {
    let Some(mut bench) = Bench::new() else { return };
    type Spoil = fn(&mut LaunchPlan);
    let table: &[(&str, Spoil, Stage, i32, i32)] = &[
        ("plan of another version", |p| p.version = 9, Stage::Plan, libc::EINVAL, 125),
        ("no such lock directory", |p| p.lock = Some("/nowhere/lock".into()), Stage::Lock, libc::ENOENT, 125),
        ("no such cgroup descriptor", |p| p.cgroups = vec![50], Stage::Cgroup, libc::EBADF, 125),
        ("no such directory", |p| p.directory = "/nowhere".into(), Stage::Directory, libc::ENOENT, 125),
        ("a file as directory", |p| p.directory = "/etc/passwd".into(), Stage::Directory, libc::ENOTDIR, 125),
        (
            "more descriptors than the kernel has",
            |p| p.rlimits.push(Rlimit { name: "nofile".into(), value: u64::MAX - 1 }),
            Stage::Rlimits,
            libc::EPERM,
            125,
        ),
        ("a descriptor that is not there", |p| p.descriptors.push(keep(60, 7)), Stage::Descriptors, libc::EBADF, 125),
        (
            "a missing path",
            |p| {
                let rules = &mut p.landlock.as_mut().unwrap().rules;
                rules.push(PathRule {
                    path: "/nowhere".into(),
                    access: Access::Read,
                    optional: false,
                    no_symlinks: false,
                    origin: "probe.agent.toml:7:10".into(),
                });
            },
            Stage::Landlock,
            libc::ENOENT,
            125,
        ),
        ("no such program", |p| p.argv[0] = "/usr/bin/nothing-of-that-name".into(), Stage::Exec, libc::ENOENT, 127),
        ("not executable", |p| p.argv[0] = "/etc/passwd".into(), Stage::Exec, libc::EACCES, 126),
    ];
    for (row, spoil, stage, errno, code) in table {
        let mut plan = bench.python_plan(WITNESS, &[]);
        spoil(&mut plan);
        let outcome = start(&plan).finish();
        let report = outcome.report.as_ref().unwrap_or_else(|| panic!("{row}: no report: {outcome:?}"));
        assert_eq!((report.stage, report.errno, outcome.code()), (*stage, *errno, Some(*code)), "{row}: {report:?}");
        assert!(!report.what.is_empty(), "{row}");
        assert!(!support::exists(&bench.path("state/units/probe.agent/ran")), "{row}: the program ran");
    }
    // And without anything spoilt it does run.
    bench.python(WITNESS, &[]).success();
    assert!(support::exists(&bench.path("state/units/probe.agent/ran")));
}

#[test]
fn a_missing_path_is_named_with_the_line_that_grants_it() {
    let Some(mut bench) = Bench::new() else { return };
    let mut grant = bench.grant("outside/nothing");
    bench.unit.sandbox.read.push(grant.clone());
    let report = bench.python(WITNESS, &[]).report.unwrap();
    assert_eq!(report.what, format!("{} (probe.agent.toml:1:1)", grant.path));
    grant.optional = true;
    bench.unit.sandbox.read = vec![grant];
    bench.python(WITNESS, &[]).success();
}

#[test]
fn bytes_that_are_no_plan_end_in_stage_plan() {
    let sealed = |bytes: &[u8]| start_with(&memfd(bytes, true), &[]).finish();
    let large = vec![b' '; loom_core::launch_plan::PLAN_MAX_BYTES + 1];
    for bytes in [&b""[..], b"{}", b"\xff\xfe", b"[[[[[[", &large] {
        let outcome = sealed(bytes);
        assert_eq!(outcome.report.as_ref().map(|r| r.stage), Some(Stage::Plan), "{outcome:?}");
        assert_eq!(outcome.code(), Some(125));
    }
    let open = start_with(&memfd(b"{}", false), &[]).finish();
    assert_eq!(open.report.unwrap().what, "plan descriptor is not sealed");
}

#[test]
fn a_gate_that_closes_ends_the_launcher_without_a_word() {
    let Some(mut bench) = Bench::new() else { return };
    let plan = bench.python_plan(WITNESS, &[]);
    let mut started = start(&plan);
    drop(started.gate.take());
    assert_eq!(started.read_report(), None);
    assert!(matches!(started.wait(), nix::sys::wait::WaitStatus::Exited(_, 125)));
    assert!(!support::exists(&bench.path("state/units/probe.agent/ran")));
    // The lock was never taken.
    assert!(!support::exists(&bench.path("run/units/probe.agent/lock")));
}

#[test]
fn a_second_copy_of_a_unit_does_not_start_while_the_first_lives() {
    let Some(mut bench) = Bench::new() else { return };
    let waits = "import os, time\nos.mkfifo('gate')\nopen('up', 'w').close()\nopen('gate').read()";
    let plan = bench.python_plan(waits, &[]);
    let mut first = start(&plan);
    first.open_gate();
    // End of file: exec succeeded, so the lock is held.
    assert_eq!(first.read_report(), None);
    let second: Outcome = start(&plan).finish();
    let report = second.report.unwrap();
    assert_eq!((report.stage, report.errno), (Stage::Lock, libc::EWOULDBLOCK));
    assert!(report.what.ends_with("/lock: held by another process"), "{}", report.what);
    nix::sys::signal::kill(first.pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    first.wait();
    let plan = bench.python_plan(WITNESS, &[]);
    start(&plan).finish().success();
}

const INHERITED: &str = r#"
import ctypes, json, os, resource, signal, stat
libc = ctypes.CDLL(None, use_errno=True)
fds = {}
for fd in range(0, 1024):
    try: s = os.fstat(fd)
    except OSError: continue
    fds[fd] = [stat.S_IFMT(s.st_mode), s.st_ino]
mask = os.umask(0); os.umask(mask)
caps = (ctypes.c_uint32 * 6)()
head = (ctypes.c_uint32 * 2)(0x20080522, 0)
assert libc.capget(head, caps) == 0
print(json.dumps({
    "fds": fds, "env": dict(os.environ), "umask": mask, "leader": os.getsid(0) == os.getpid(),
    "ignored": [n for n in range(1, 65) if n not in (9, 19, 32, 33) and n in signal.valid_signals()
                and signal.getsignal(n) == signal.SIG_IGN],
    "blocked": sorted(int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "caps": list(caps), "bounding": [c for c in range(41) if libc.prctl(23, c, 0, 0, 0) == 1],
    "new_privs": libc.prctl(39, 0, 0, 0, 0), "mdwe": libc.prctl(66, 0, 0, 0, 0), "seccomp": libc.prctl(21, 0, 0, 0, 0),
    "limits": {n: resource.getrlimit(getattr(resource, "RLIMIT_" + n))
               for n in ("CORE", "MEMLOCK", "RTPRIO", "NICE", "MSGQUEUE", "SIGPENDING", "NOFILE", "FSIZE")},
    "cwd": os.getcwd(), "uid": os.getuid(),
}))
"#;

#[test]
fn nothing_is_inherited() {
    use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
    let Some(mut bench) = Bench::new() else { return };
    // SAFETY: dispositions of a test process that handles none of these.
    unsafe {
        signal(Signal::SIGTERM, SigHandler::SigIgn).unwrap();
        signal(Signal::SIGUSR1, SigHandler::SigIgn).unwrap();
    }
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGUSR2);
    blocked.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None).unwrap();

    let token = memfd(b"token", true);
    let stray = memfd(b"stray", true);
    bench.around.descriptors = vec![keep(10, 3)];
    bench.unit.exec.as_mut().unwrap().environment.insert("MINE".into(), "yes".into());
    let plan = bench.python_plan(INHERITED, &[]);
    let plan_fd = memfd(&serde_json::to_vec(&plan).unwrap(), true);
    let outcome = start_with(&plan_fd, &[&token, &stray]).finish().success();
    let seen: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();

    let fds: Vec<&String> = seen["fds"].as_object().unwrap().keys().collect();
    assert_eq!(fds, ["0", "1", "2", "3", "4"], "0, the log twice, the token, the lock: {seen:#}");
    let token_inode = nix::sys::stat::fstat(&token).unwrap().st_ino;
    assert_eq!(seen["fds"]["3"][1], token_inode, "the token has its number");
    let lock = fs::metadata(bench.path("run/units/probe.agent/lock")).unwrap();
    assert_eq!(seen["fds"]["4"][1], std::os::unix::fs::MetadataExt::ino(&lock), "the lock stays");
    let mut env: Vec<(String, String)> = seen["env"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect();
    env.retain(|(name, _)| name != "LC_CTYPE"); // Python's own
    assert_eq!(env, plan.env.clone().into_iter().collect::<Vec<_>>());
    let none = Vec::<i32>::new();
    // Python itself ignores SIGPIPE and SIGXFSZ.
    assert_eq!(seen["ignored"], serde_json::json!([libc::SIGPIPE, libc::SIGXFSZ]), "{seen:#}");
    assert_eq!(seen["blocked"], serde_json::json!(none));
    assert_eq!(seen["umask"], 0o077);
    assert_eq!(seen["leader"], true);
    assert_eq!(seen["caps"], serde_json::json!([0, 0, 0, 0, 0, 0]));
    if nix::unistd::geteuid().is_root() {
        assert_eq!(seen["bounding"], serde_json::json!(none));
    } else {
        println!("skipped: needs root to empty the bounding set");
    }
    assert_eq!((&seen["new_privs"], &seen["mdwe"], &seen["seccomp"]), (&1.into(), &1.into(), &2.into()));
    assert_eq!(seen["cwd"], bench.around.state_dir);
    assert_eq!(seen["limits"]["CORE"], serde_json::json!([0, 0]));
    assert_eq!(seen["limits"]["NOFILE"], serde_json::json!([1024, 1024]));
    assert_eq!(seen["limits"]["FSIZE"], serde_json::json!([256 << 20, 256 << 20]));
    assert_eq!(seen["limits"]["RTPRIO"], serde_json::json!([0, 0]));
}

#[test]
fn descriptors_can_swap_their_numbers() {
    let Some(mut bench) = Bench::new() else { return };
    let (a, b) = (memfd(b"a", true), memfd(b"b", true));
    // 11 → 10 and 10 → 11, beside one that lands on the report's own number.
    bench.around.descriptors = vec![keep(11, 10), keep(10, 11), keep(10, 5)];
    let plan = bench.python_plan("import os; print([os.pread(fd, 9, 0).decode() for fd in (10, 11, 5)])", &[]);
    let plan_fd = memfd(&serde_json::to_vec(&plan).unwrap(), true);
    let outcome = start_with(&plan_fd, &[&a, &b]).finish();
    assert_eq!(outcome.stdout, "['b', 'a', 'a']\n", "{outcome:?}");
}

#[test]
fn a_cgroup_is_joined_by_descriptor() {
    let Some(mut bench) = Bench::new() else { return };
    let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        .into_iter()
        .find(|dir| support::exists(&format!("{dir}/cgroup.controllers")));
    let made = root.map(|root| format!("{root}/loom-launch-test-{}", std::process::id()));
    let Some(group) = made.filter(|dir| fs::create_dir(dir).is_ok()) else {
        println!("skipped: needs a writable cgroup v2");
        return;
    };
    let directory: std::os::fd::OwnedFd = fs::File::open(&group).unwrap().into();
    bench.around.cgroups = vec![10];
    let plan = bench.python_plan("import sys; print('up', flush=True); sys.stdin.read()", &[]);
    let mut plan = plan;
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    plan.descriptors[0] = keep(11, 0);
    let plan_fd = memfd(&serde_json::to_vec(&plan).unwrap(), true);
    let mut started = start_with(&plan_fd, &[&directory, &read]);
    started.open_gate();
    assert_eq!(started.read_report(), None);
    let members = fs::read_to_string(format!("{group}/cgroup.procs")).unwrap();
    drop(write);
    started.wait();
    fs::remove_dir(&group).unwrap();
    assert_eq!(members.trim(), started.pid.to_string());
}
