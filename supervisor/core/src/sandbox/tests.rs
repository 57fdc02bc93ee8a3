//! What `plan` decides, as tables.

use super::*;
use crate::ids::RunId;
use crate::unit::*;

const KEYS: &str = "chat.agent.toml:7:1";

fn machine() -> Machine {
    Machine {
        landlock_abi: 7,
        seccomp: true,
        mdwe: true,
        cgroup_v2: None,
        controllers: BTreeMap::new(),
        pidfd_exit_info: true,
        root: true,
        arch: "x86_64".into(),
    }
}

fn grant(path: &str) -> PathGrant {
    PathGrant { path: path.into(), optional: false, origin: KEYS.into() }
}

fn unit() -> Unit {
    Unit {
        exec: Some(Exec {
            command: vec!["python3".into(), "/srv/chat/agent.py".into()],
            working_directory: "/var/lib/loom/units/chat.agent".into(),
            environment: [("MODE".to_owned(), "test".to_owned()), ("LOOM_UNIT".into(), "other".into())].into(),
            ..Exec::default()
        }),
        ..Unit::bare("chat.agent".parse().unwrap())
    }
}

fn around() -> Surroundings {
    Surroundings {
        program: "/opt/venv/bin/python3".into(),
        interpreter_roots: vec!["/opt/venv".into(), "/opt/python3.11".into()],
        code_roots: vec!["/srv/chat".into()],
        code_files: vec!["/srv/chat/agent.py".into()],
        state_dir: "/var/lib/loom/units/chat.agent".into(),
        runtime_dir: "/run/loom/units/chat.agent".into(),
        protected: vec!["/run/loom".into(), "/var/lib/loom".into(), "/etc/loom/units".into()],
        home: Some("/home/ada".into()),
        links: [("/etc/resolv.conf".to_owned(), "/run/resolved/stub.conf".to_owned())].into(),
        env: [("LOOM_TOKEN_FD".to_owned(), "3".to_owned())].into(),
        descriptors: vec![
            DescriptorMove { fd: 10, to: 1 },
            DescriptorMove { fd: 10, to: 2 },
            DescriptorMove { fd: 11, to: 3 },
        ],
        cgroups: vec![12],
        ..Surroundings::default()
    }
}

fn facts() -> RunFacts {
    RunFacts { run: RunId(4), restarts: 2, last_result: Some("signal".into()), last_exit: Some("signal 9".into()) }
}

fn planned(unit: &Unit) -> LaunchPlan {
    plan(unit, &facts(), &machine(), &around()).unwrap().0
}

fn value(enforcement: &[Enforcement], promise: Promise) -> Enforced {
    enforcement.iter().find(|e| e.promise == promise).unwrap().value.clone()
}

fn port(host: &str, port: u16) -> HostGrant {
    HostGrant { host: host.into(), port }
}

#[test]
fn a_plan_is_complete() {
    let mut unit = unit();
    unit.sandbox.read = vec![grant("/srv/reports")];
    unit.sandbox.write = vec![grant("/srv/chat/workspace"), grant("/var/lib/loom/units/chat.agent/work")];
    unit.sandbox.hosts = vec![port("localhost", 11435)];
    let plan = planned(&unit);
    insta::assert_snapshot!(serde_json::to_string_pretty(&plan).unwrap());
    let size = serde_json::to_vec(&plan).unwrap().len();
    assert!(size < crate::launch_plan::PLAN_MAX_BYTES / 8, "{size} bytes");
}

#[test]
fn a_worker_gets_the_units_files_and_nothing_else() {
    let mut unit = unit();
    unit.sandbox.write = vec![grant("/srv/chat/workspace")];
    unit.sandbox.execute = vec![grant("/opt/tools")];
    unit.sandbox.hosts = vec![port("localhost", 11435)];
    let around = Surroundings {
        program: "/usr/libexec/loom-worker".into(),
        interpreter_roots: vec![],
        code_roots: vec![],
        code_files: vec![],
        descriptors: vec![DescriptorMove { fd: 10, to: 0 }],
        cgroups: vec![],
        env: BTreeMap::new(),
        ..around()
    };
    let plan = worker_plan(&unit, &facts(), &machine(), &around).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&plan).unwrap());
}

#[test]
fn a_grant_that_would_break_the_sandbox_is_refused_with_its_line() {
    type Change = fn(&mut Unit);
    #[rustfmt::skip]
    let table: &[(&str, Change, &str)] = &[
        ("the whole machine",      |u| u.sandbox.write = vec![grant("/")], "whole machine"),
        ("kernel files",           |u| u.sandbox.write = vec![grant("/proc/sys")], "lies in /proc"),
        ("device nodes",           |u| u.sandbox.write = vec![grant("/dev")], "lies in /dev"),
        ("the home directory",     |u| u.sandbox.write = vec![grant("/home/ada")], "home directory"),
        ("all homes",              |u| u.sandbox.write = vec![grant("/home")], "home directory"),
        ("loomd's store",          |u| u.sandbox.write = vec![grant("/var/lib/loom/store")], "overlaps /var/lib/loom"),
        ("all of /var",            |u| u.sandbox.write = vec![grant("/var")], "overlaps /var/lib/loom"),
        ("another unit's state",   |u| u.sandbox.write = vec![grant("/var/lib/loom/units/x.agent")], "overlaps"),
        ("its own sockets",        |u| u.sandbox.write = vec![grant("/run/loom/units/chat.agent")], "overlaps /run/loom"),
        ("unit files",             |u| u.sandbox.write = vec![grant("/etc/loom/units")], "holds unit files"),
        ("dots",                   |u| u.sandbox.read = vec![grant("/srv/../etc")], "without `..`"),
        ("its interpreter",        |u| u.sandbox.write = vec![grant("/opt/venv/lib")], "the unit executes"),
        ("above its interpreter",  |u| u.sandbox.write = vec![grant("/opt")], "the unit executes"),
        ("its own code",           |u| u.sandbox.write = vec![grant("/srv/chat")], "program's code"),
        ("what it executes",       |u| { u.sandbox.write = vec![grant("/srv/w")]; u.sandbox.execute = vec![grant("/srv/w/bin")] },
                                   "must not execute"),
        ("executing its state",    |u| u.sandbox.execute = vec![grant("/var/lib/loom/units/chat.agent/bin")], "must not execute"),
        ("an unknown profile",     |u| u.sandbox.profile = "open".into(), "no sandbox profile is called `open`"),
    ];
    for (row, change, want) in table {
        let mut unit = unit();
        change(&mut unit);
        let error = plan(&unit, &facts(), &machine(), &around()).unwrap_err().to_string();
        assert!(error.contains(want), "{row}: {error}");
        assert!(error.starts_with(KEYS) || *row == "an unknown profile", "{row}: {error}");
    }
}

#[test]
fn grants_below_own_and_unrelated_directories_are_allowed() {
    let mut unit = unit();
    unit.sandbox.write = vec![
        grant("/var/lib/loom/units/chat.agent/work"),
        grant("/run/loom/units/chat.agent/tmp/x"),
        grant("/home/ada/notes"),
        grant("/srv/chat/workspace"),
        // A name that only begins like a protected one.
        grant("/var/lib/loomish"),
    ];
    planned(&unit);
}

#[test]
fn each_promise_says_how_far_it_holds() {
    use Promise::*;
    type Change = fn(&mut Unit, &mut Machine);
    let all = vec![Files, Metadata, Hosts, Sockets, Processes, Kernel, Limits];
    #[rustfmt::skip]
    let table: &[(&str, Change, Promise, &str)] = &[
        ("files with ABI 7",            |_, _| (), Files, "fully"),
        ("files with ABI 2",            |_, m| m.landlock_abi = 2, Files, "partly: this kernel's Landlock does not govern truncation"),
        ("files without Landlock",      |_, m| m.landlock_abi = 0, Files, "not: the kernel has no Landlock"),
        ("metadata",                    |_, _| (), Metadata, "partly: changes of mode"),
        ("no host",                     |_, _| (), Hosts, "fully"),
        ("no host, old Landlock",       |_, m| m.landlock_abi = 3, Hosts, "fully"),
        ("a host",                      |u, _| u.sandbox.hosts = vec![port("localhost", 11435)], Hosts, "partly: a port rule: any host can be reached on port 11435"),
        ("a host by name",              |u, _| u.sandbox.hosts = vec![port("api.example.com", 443)], Hosts, "partly: a port rule: any host can be reached on port 53, 443"),
        ("a host, old Landlock",        |u, m| { m.landlock_abi = 3; u.sandbox.hosts = vec![port("localhost", 1)] }, Hosts, "not: this kernel's"),
        ("listening",                   |u, _| u.sandbox.listen = vec![8080], Hosts, "partly: nothing can be reached"),
        ("sockets",                     |_, _| (), Sockets, "partly: any unix socket"),
        ("sockets with ABI 9",          |_, m| m.landlock_abi = 9, Sockets, "fully"),
        ("processes",                   |_, _| (), Processes, "fully"),
        ("processes with ABI 5",        |_, m| m.landlock_abi = 5, Processes, "partly: this kernel's Landlock does not keep signals in"),
        ("processes with /proc",        |u, _| u.sandbox.read = vec![grant("/proc")], Processes, "partly: `/proc` (chat.agent.toml:7:1) shows"),
        ("kernel",                      |_, _| (), Kernel, "fully"),
        ("kernel without seccomp",      |_, m| m.seccomp = false, Kernel, "not: the kernel takes no seccomp"),
        ("kernel without MDWE",         |_, m| m.mdwe = false, Kernel, "partly: memory can be written"),
        ("kernel on another machine",   |_, m| m.arch = "mips".into(), Kernel, "not: no table of system calls for mips"),
        ("limits",                      |_, _| (), Limits, "fully"),
    ];
    for (row, change, promise, want) in table {
        let (mut unit, mut machine) = (unit(), machine());
        unit.sandbox.allow_unenforced = all.clone();
        change(&mut unit, &mut machine);
        let (_, values) = plan(&unit, &facts(), &machine, &around()).unwrap();
        assert_eq!(values.iter().map(|e| e.promise).collect::<Vec<_>>(), all, "{row}");
        let got = match value(&values, *promise) {
            Enforced::Fully => "fully".to_owned(),
            Enforced::Partly(text) => format!("partly: {text}"),
            Enforced::Not(text) => format!("not: {text}"),
        };
        assert!(got.starts_with(want), "{row}: {got}");
    }
}

#[test]
fn a_unit_that_asks_for_more_than_the_machine_gives_does_not_start() {
    let mut old = machine();
    old.landlock_abi = 2;
    let mut unit = unit();
    let error = plan(&unit, &facts(), &old, &around()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "chat.agent asks for `files` to be enforced, and this machine cannot: this kernel's Landlock does not govern truncation \
         (Linux 6.2 does). Way out: a newer kernel; or, accepting the gap, `allow_unenforced = [\"files\"]` in [sandbox]"
    );
    // Exceptions are named, never general.
    unit.sandbox.allow_unenforced = vec![Promise::Files];
    let error = plan(&unit, &facts(), &old, &around()).unwrap_err();
    assert!(error.to_string().contains("`processes`"), "{error}");
    unit.sandbox.allow_unenforced.push(Promise::Processes);
    let (plan, _) = plan(&unit, &facts(), &old, &around()).unwrap();
    let landlock = plan.landlock.unwrap();
    assert_eq!((landlock.abi, landlock.scoped, landlock.connect_ports), (2, false, None));
}

#[test]
fn names_are_asked_over_tcp_and_only_if_there_are_names() {
    let mut unit = unit();
    for (host, asks) in [("localhost", false), ("127.0.0.1", false), ("[::1]", false), ("api.example.com", true)] {
        unit.sandbox.hosts = vec![port(host, 443)];
        let plan = planned(&unit);
        let ports = plan.landlock.unwrap().connect_ports.unwrap();
        assert_eq!(ports.contains(&53), asks, "{host}");
        assert_eq!(plan.env.get("RES_OPTIONS").map(String::as_str), asks.then_some("use-vc"), "{host}");
    }
}

#[test]
fn code_in_a_directory_that_is_too_wide_is_granted_as_a_file() {
    for (root, file) in
        [("/home/ada", "/home/ada/agent.py"), ("/etc", "/etc/agent.py"), ("/var/lib", "/var/lib/agent.py")]
    {
        let mut around = around();
        around.code_roots = vec![root.into()];
        around.code_files = vec![file.into()];
        let rules = plan(&unit(), &facts(), &machine(), &around).unwrap().0.landlock.unwrap().rules;
        let code: Vec<_> = rules.iter().filter(|r| r.origin == "code").map(|r| r.path.as_str()).collect();
        assert_eq!(code, [file]);
        around.code_files.clear();
        let error = plan(&unit(), &facts(), &machine(), &around).unwrap_err().to_string();
        assert!(error.contains("too wide"), "{error}");
    }
}

#[test]
fn a_python_program_imports_what_lies_beside_it() {
    let path = |around: &Surroundings, unit: &Unit| {
        plan(unit, &facts(), &machine(), around).unwrap().0.env.get("PYTHONPATH").cloned()
    };
    let (mut unit, mut around) = (unit(), around());
    (around.code_roots, around.code_files) = (vec!["/srv/chat".into()], vec!["/srv/chat/agent.py".into()]);
    assert_eq!(path(&around, &unit).as_deref(), Some("/srv/chat"));
    around.code_files = vec!["/srv/chat/run.sh".into()];
    assert_eq!(path(&around, &unit), None, "no Python");
    (around.code_roots, around.code_files) = (vec!["/home/ada".into()], vec!["/home/ada/agent.py".into()]);
    assert_eq!(path(&around, &unit), None, "only the file is granted");
    (around.code_roots, around.code_files) = (vec!["/srv/chat".into()], vec!["/srv/chat/agent.py".into()]);
    unit.exec.as_mut().unwrap().environment.insert("PYTHONPATH".into(), "/srv/lib".into());
    assert_eq!(path(&around, &unit).as_deref(), Some("/srv/lib"), "the unit file has the last word");
}

#[test]
fn a_path_that_a_unit_can_write_is_opened_without_links() {
    let mut unit = unit();
    unit.sandbox.read = vec![grant("/srv/data"), grant("/srv/out/in"), grant("/var/lib/loom/units/other.agent/shared")];
    unit.sandbox.write = vec![grant("/srv/out")];
    let rules = planned(&unit).landlock.unwrap().rules;
    let guarded = |path: &str| rules.iter().find(|r| r.path == path).unwrap().no_symlinks;
    assert!(!guarded("/srv/data") && !guarded("/opt/venv/bin/python3") && !guarded("/srv/chat"));
    for path in ["/srv/out", "/srv/out/in", "/var/lib/loom/units/other.agent/shared", "/var/lib/loom/units/chat.agent"]
    {
        assert!(guarded(path), "{path}");
    }
}
