//! support: starts the real `loom-launch` as loomd does, in directories of its own.
#![allow(dead_code, clippy::unwrap_used)]

use loom_core::ids::RunId;
use loom_core::launch_plan::{DescriptorMove, LaunchPlan, Report};
use loom_core::machine::Machine;
use loom_core::sandbox::{self, Surroundings};
use loom_core::unit::*;
use std::ffi::CString;
use std::fs;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const LAUNCHER: &str = env!("CARGO_BIN_EXE_loom-launch");
/// The longest a probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(60);

pub fn machine() -> Machine {
    // SAFETY: a null attribute with the version flag reads nothing.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, 1u32) };
    // SAFETY: reads a flag.
    let mdwe = unsafe { libc::prctl(66, 0, 0, 0, 0) };
    Machine {
        landlock_abi: u32::try_from(abi).unwrap_or(0),
        seccomp: true,
        mdwe: mdwe >= 0,
        cgroup_v2: None,
        controllers: Default::default(),
        pidfd_exit_info: false,
        root: nix::unistd::geteuid().is_root(),
        arch: std::env::consts::ARCH.to_owned(),
    }
}

/// `None`, and a word why, where this kernel cannot confine as the tests want it.
pub fn able() -> Option<Machine> {
    let machine = machine();
    if machine.landlock_abi < 6 || !machine.mdwe {
        println!("skipped: needs Landlock ABI 6 and PR_SET_MDWE, here is {}", machine.landlock_abi);
        return None;
    }
    Some(machine)
}

/// A unit with its directories, and a directory that nobody grants.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub machine: Machine,
    pub unit: Unit,
    pub around: Surroundings,
}

/// What came of a start.
#[derive(Debug)]
pub struct Outcome {
    pub report: Option<Report>,
    pub status: nix::sys::wait::WaitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn code(&self) -> Option<i32> {
        match self.status {
            nix::sys::wait::WaitStatus::Exited(_, code) => Some(code),
            _ => None,
        }
    }

    #[track_caller]
    pub fn success(self) -> Self {
        assert!(self.report.is_none() && self.code() == Some(0), "{self:#?}");
        self
    }
}

pub fn python() -> String {
    if let Ok(chosen) = std::env::var("LOOM_TEST_PYTHON") {
        return chosen;
    }
    if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3".into() } else { "/usr/local/bin/python3".into() }
}

/// What loomd finds out about an interpreter: its program with links followed, its prefixes.
pub fn interpreter_roots(program: &str) -> Vec<String> {
    let words = "import os, sys; print(sys.prefix); print(sys.base_prefix); print(os.path.realpath(sys.executable))";
    let out = std::process::Command::new(program).args(["-I", "-c", words]).output().unwrap();
    let mut roots: Vec<String> = String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect();
    roots.retain(|r| r != "/usr" && !r.starts_with("/usr/"));
    roots
}

impl Bench {
    pub fn new() -> Option<Self> {
        let machine = able()?;
        let dir = tempfile::tempdir().unwrap();
        let path = |tail: &str| dir.path().join(tail).to_str().unwrap().to_owned();
        for made in ["run/units/probe.agent/tmp", "state/units/probe.agent", "outside", "code"] {
            fs::create_dir_all(dir.path().join(made)).unwrap();
        }
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        fs::copy("/bin/true", dir.path().join("outside/program")).unwrap();
        let around = Surroundings {
            state_dir: path("state/units/probe.agent"),
            runtime_dir: path("run/units/probe.agent"),
            protected: vec![path("run"), path("state")],
            home: Some("/home/nobody-here".into()),
            ..Surroundings::default()
        };
        let unit = Unit {
            exec: Some(Exec { working_directory: around.state_dir.clone(), ..Exec::default() }),
            ..Unit::bare("probe.agent".parse().unwrap())
        };
        Some(Self { dir, machine, unit, around })
    }

    pub fn path(&self, tail: &str) -> String {
        self.dir.path().join(tail).to_str().unwrap().to_owned()
    }

    pub fn grant(&self, tail: &str) -> PathGrant {
        PathGrant { path: self.path(tail), optional: false, origin: "probe.agent.toml:1:1".into() }
    }

    /// The plan for a program with arguments.
    pub fn plan(&mut self, program: &str, args: &[&str]) -> LaunchPlan {
        self.around.program = program.to_owned();
        let exec = self.unit.exec.as_mut().unwrap();
        exec.command = std::iter::once(&program).chain(args).map(|s| (*s).to_owned()).collect();
        let facts = RunFacts { run: RunId(1), restarts: 0, last_result: None, last_exit: None };
        sandbox::plan(&self.unit, &facts, &self.machine, &self.around).unwrap().0
    }

    pub fn python_plan(&mut self, script: &str, args: &[&str]) -> LaunchPlan {
        let file = self.dir.path().join("code/probe.py");
        fs::write(&file, script).unwrap();
        let python = python();
        self.around.interpreter_roots = interpreter_roots(&python);
        self.around.code_roots = vec![self.path("code")];
        let file = file.to_str().unwrap().to_owned();
        let args: Vec<&str> = std::iter::once(file.as_str()).chain(args.iter().copied()).collect();
        self.plan(&python, &args)
    }

    /// Runs a Python probe in the sandbox.
    pub fn python(&mut self, script: &str, args: &[&str]) -> Outcome {
        let plan = self.python_plan(script, args);
        start(&plan).finish()
    }

    /// Runs the same probe without one.
    pub fn bare_python(&mut self, script: &str, args: &[&str]) -> String {
        let plan = self.python_plan(script, args);
        let out = std::process::Command::new(&plan.argv[0])
            .args(&plan.argv[1..])
            .env_clear()
            .envs(&plan.env)
            .current_dir(&plan.directory)
            .output()
            .unwrap();
        assert!(out.status.success(), "bare: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
}

pub fn memfd(bytes: &[u8], sealed: bool) -> OwnedFd {
    // SAFETY: a fresh descriptor that nobody else owns.
    let fd = unsafe {
        let fd = libc::memfd_create(c"plan".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd)
    };
    let mut file = fs::File::from(fd);
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    let fd = OwnedFd::from(file);
    if sealed {
        let seals = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
        // SAFETY: a plain call on numbers.
        assert_eq!(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) }, 0);
    }
    fd
}

/// A started launcher, its gate, report and output.
pub struct Started {
    pub pid: nix::unistd::Pid,
    pub gate: Option<fs::File>,
    pub report: fs::File,
    stdout: fs::File,
    stderr: fs::File,
}

fn unnamed() -> fs::File {
    tempfile::tempfile().unwrap()
}

fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap()
}

/// A copy above all numbers that a spawn hands out, so that no target overwrites a source.
fn out_of_the_way(fd: &impl AsRawFd) -> OwnedFd {
    // SAFETY: a fresh descriptor that nobody else owns.
    unsafe {
        let copy = libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 100);
        assert!(copy >= 0);
        OwnedFd::from_raw_fd(copy)
    }
}

pub fn start(plan: &LaunchPlan) -> Started {
    start_with(&memfd(&serde_json::to_vec(plan).unwrap(), true), &[])
}

/// As loomd does: `posix_spawn` with file actions only. `passed` appear from 10 upwards.
pub fn start_with(plan: &OwnedFd, passed: &[&OwnedFd]) -> Started {
    use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
    let (gate_read, gate_write) = pipe();
    let (report_read, report_write) = pipe();
    let (stdout, stderr) = (unnamed(), unnamed());
    let null = fs::File::open("/dev/null").unwrap();
    let mut sources: Vec<(OwnedFd, i32)> = vec![
        (out_of_the_way(&null), 0),
        (out_of_the_way(&stdout), 1),
        (out_of_the_way(&stderr), 2),
        (out_of_the_way(plan), 3),
        (out_of_the_way(&gate_read), 4),
        (out_of_the_way(&report_write), 5),
    ];
    sources.extend(passed.iter().enumerate().map(|(i, fd)| (out_of_the_way(*fd), 10 + i as i32)));
    let mut actions = PosixSpawnFileActions::init().unwrap();
    for (from, to) in &sources {
        actions.add_dup2(from.as_raw_fd(), *to).unwrap();
    }
    let path = CString::new(LAUNCHER).unwrap();
    let none: [CString; 0] = [];
    let attributes = PosixSpawnAttr::init().unwrap();
    let pid = posix_spawn(path.as_c_str(), &actions, &attributes, &[c"loom-launch"], &none).unwrap();
    Started { pid, gate: Some(gate_write.into()), report: report_read.into(), stdout, stderr }
}

impl Started {
    pub fn open_gate(&mut self) {
        // A launcher that failed before its gate is gone; its report says why.
        let _ = self.gate.take().unwrap().write_all(b"g");
    }

    pub fn read_report(&mut self) -> Option<Report> {
        let mut bytes = Vec::new();
        self.report.read_to_end(&mut bytes).unwrap();
        (!bytes.is_empty()).then(|| serde_json::from_slice(&bytes).unwrap())
    }

    /// Waits for the end, within [`PROBE_LIMIT`].
    pub fn wait(&self) -> nix::sys::wait::WaitStatus {
        // SAFETY: our own child, not reaped yet; the descriptor is ours alone.
        let pidfd = unsafe {
            let fd = libc::syscall(libc::SYS_pidfd_open, self.pid.as_raw(), 0);
            assert!(fd >= 0);
            OwnedFd::from_raw_fd(fd as i32)
        };
        let mut polled = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&pidfd), nix::poll::PollFlags::POLLIN)];
        let limit = nix::poll::PollTimeout::try_from(PROBE_LIMIT).unwrap();
        if nix::poll::poll(&mut polled, limit).unwrap() == 0 {
            nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
        nix::sys::wait::waitpid(self.pid, None).unwrap()
    }

    pub fn output(&mut self) -> (String, String) {
        let text = |file: &mut fs::File| {
            let mut bytes = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        (text(&mut self.stdout), text(&mut self.stderr))
    }

    /// Opens the gate and waits for the end.
    pub fn finish(mut self) -> Outcome {
        if self.gate.is_some() {
            self.open_gate();
        }
        let report = self.read_report();
        let status = self.wait();
        let (stdout, stderr) = self.output();
        Outcome { report, status, stdout, stderr }
    }
}

pub fn keep(fd: i32, to: i32) -> DescriptorMove {
    DescriptorMove { fd, to }
}

pub fn raw(fd: OwnedFd) -> i32 {
    fd.into_raw_fd()
}

pub fn exists(path: &str) -> bool {
    PathBuf::from(path).exists()
}
