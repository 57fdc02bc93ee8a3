//! report: the one record that says where a start failed.
//!
//! Job: `{stage, errno, what}` of at most `REPORT_MAX_BYTES` to the report pipe. May touch: `sys`.
//! Keeps: close-on-exec, so that end of file without a word means that exec succeeded; a panic is a report, not a word on a log.

use crate::REPORT_FD;
use crate::sys::{self, Trouble};
use loom_core::launch_plan::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_SANDBOX, REPORT_MAX_BYTES, Report, Stage};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

/// A stage that did not work out.
#[derive(Debug)]
pub struct Failure {
    stage: Stage,
    trouble: Trouble,
}

impl Failure {
    pub fn new(stage: Stage, trouble: Trouble) -> Self {
        Self { stage, trouble }
    }

    /// The launcher's own exit status for it.
    pub fn exit_status(&self) -> i32 {
        match (self.stage, self.trouble.errno) {
            (Stage::Exec, libc::ENOENT | libc::ENOTDIR) => EXIT_NOT_FOUND,
            (Stage::Exec, _) => EXIT_NOT_EXECUTABLE,
            (_, _) => EXIT_SANDBOX,
        }
    }

    fn record(&self) -> Vec<u8> {
        let mut what: String = self.trouble.what.chars().take(REPORT_MAX_BYTES).collect();
        loop {
            let report = Report { stage: self.stage, errno: self.trouble.errno, what: what.clone() };
            let record = serde_json::to_vec(&report).expect("strings and numbers are always JSON");
            if record.len() <= REPORT_MAX_BYTES {
                return record;
            }
            what.pop();
        }
    }
}

/// Where the panic hook, which is handed nothing, finds the pipe and the stage.
static PIPE: AtomicI32 = AtomicI32::new(REPORT_FD);
static STAGE: AtomicUsize = AtomicUsize::new(0);
const STAGES: [Stage; 15] = [
    Stage::Plan,
    Stage::Gate,
    Stage::Lock,
    Stage::Session,
    Stage::Cgroup,
    Stage::Namespaces,
    Stage::Mounts,
    Stage::Directory,
    Stage::Rlimits,
    Stage::User,
    Stage::Privileges,
    Stage::Descriptors,
    Stage::Landlock,
    Stage::Seccomp,
    Stage::Exec,
];

/// The report pipe.
pub struct Reporter {
    fd: RawFd,
}

impl Reporter {
    /// The pipe at [`REPORT_FD`], where it stays until `descriptors` needs the number.
    pub fn take() -> Self {
        std::panic::set_hook(Box::new(|panic| {
            let stage = STAGES[STAGE.load(Ordering::Relaxed).min(STAGES.len() - 1)];
            let failure = Failure::new(stage, Trouble { errno: 0, what: format!("defect in the launcher: {panic}") });
            sys::write_all(PIPE.load(Ordering::Relaxed), &failure.record());
            sys::exit(EXIT_SANDBOX);
        }));
        Self { fd: REPORT_FD }
    }

    pub fn fd(&self) -> RawFd {
        self.fd
    }

    /// The pipe has another number from now on.
    pub fn moved(&mut self, fd: RawFd) {
        self.fd = fd;
        PIPE.store(fd, Ordering::Relaxed);
    }

    /// What follows is part of `stage`.
    pub fn enter(&self, stage: Stage) {
        STAGE.store(STAGES.iter().position(|s| *s == stage).expect("all stages are listed"), Ordering::Relaxed);
    }

    /// Writes the record. Nobody may be listening any more; that is not our trouble.
    pub fn say(&self, failure: &Failure) {
        sys::write_all(self.fd, &failure.record());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_fits_whatever_it_is_about() {
        for what in ["\u{1}".repeat(4000), "\"".repeat(600), "ü".repeat(700), String::new()] {
            let record = Failure::new(Stage::Landlock, Trouble { errno: 2, what }).record();
            assert!(record.len() <= REPORT_MAX_BYTES, "{} bytes", record.len());
            let back: Report = serde_json::from_slice(&record).unwrap();
            assert_eq!((back.stage, back.errno), (Stage::Landlock, 2));
        }
    }

    #[test]
    fn exit_statuses_are_those_of_a_shell() {
        let status = |stage, errno| Failure::new(stage, Trouble { errno, what: String::new() }).exit_status();
        assert_eq!(status(Stage::Exec, libc::ENOENT), 127);
        assert_eq!(status(Stage::Exec, libc::EACCES), 126);
        assert_eq!(status(Stage::Directory, libc::ENOENT), 125);
    }
}
