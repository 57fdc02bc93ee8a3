//! loom-launch: confines one process, then becomes it.
//!
//! Job: read a [`LaunchPlan`](loom_core::launch_plan::LaunchPlan) from a sealed memfd and carry out its stages in order; a
//! stage that fails is reported as `{stage, errno, what}` and ends the launcher; there is no second try with less.
//! May touch: the plan's types. May not: look anything up that the plan does not name; have defaults; start threads.
//! Keeps: the program runs with everything in force or not at all.
//!
//! Descriptors when it is started: [`PLAN_FD`] the plan, [`GATE_FD`] the gate's read end, [`REPORT_FD`] the report's write end,
//! whatever the plan passes on at 0, 1, 2 and from [`FIRST_PASSED_FD`] upwards.
//! Exit status: that of the program; else 125 (a stage failed), 126 (found, not executable), 127 (not found).

mod confine;
mod plan;
mod prepare;
mod report;
mod seccomp;
mod sys;

use loom_core::launch_plan::{EXIT_SANDBOX, Stage};
use report::{Failure, Reporter};
use std::os::fd::RawFd;

/// The plan: a sealed memfd of at most `PLAN_MAX_BYTES`.
pub const PLAN_FD: RawFd = 3;
/// Read end of the gate: one byte lets the launcher go on, end of file ends it.
pub const GATE_FD: RawFd = 4;
/// Write end of the report pipe.
pub const REPORT_FD: RawFd = 5;
/// Where descriptors that are passed on begin.
pub const FIRST_PASSED_FD: RawFd = 10;

fn main() {
    let mut reporter = Reporter::take();
    let failure = run(&mut reporter);
    let status = failure.exit_status();
    reporter.say(&failure);
    sys::exit(status)
}

/// Returns only if something failed.
fn run(reporter: &mut Reporter) -> Failure {
    match stages(reporter) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

fn stages(reporter: &mut Reporter) -> Result<std::convert::Infallible, Failure> {
    let at = |stage: Stage| move |trouble: sys::Trouble| Failure::new(stage, trouble);

    reporter.enter(Stage::Plan);
    let ready = plan::read().map_err(at(Stage::Plan))?;

    reporter.enter(Stage::Gate);
    if !prepare::gate().map_err(at(Stage::Gate))? {
        // Whoever started this is gone, or thought better of it: there is nobody to report to.
        sys::exit(EXIT_SANDBOX);
    }
    let plan = &ready.plan;

    reporter.enter(Stage::Lock);
    let lock = plan.lock.as_deref().map(prepare::lock).transpose().map_err(at(Stage::Lock))?;

    reporter.enter(Stage::Session);
    prepare::session().map_err(at(Stage::Session))?;

    reporter.enter(Stage::Cgroup);
    plan.cgroups.iter().try_for_each(|fd| prepare::join_cgroup(*fd)).map_err(at(Stage::Cgroup))?;

    // `namespaces` and `mounts` come here; this version of the plan has no field that would ask for them.

    reporter.enter(Stage::Directory);
    prepare::directory(&plan.directory).map_err(at(Stage::Directory))?;

    reporter.enter(Stage::Rlimits);
    prepare::rlimits(&ready.rlimits).map_err(at(Stage::Rlimits))?;

    reporter.enter(Stage::User);
    confine::user(plan.user).map_err(at(Stage::User))?;

    reporter.enter(Stage::Privileges);
    confine::privileges(plan.mdwe).map_err(at(Stage::Privileges))?;

    reporter.enter(Stage::Descriptors);
    prepare::descriptors(&plan.descriptors, lock, reporter).map_err(at(Stage::Descriptors))?;

    reporter.enter(Stage::Landlock);
    if let Some(rules) = &plan.landlock {
        confine::landlock(rules).map_err(at(Stage::Landlock))?;
    }

    reporter.enter(Stage::Seccomp);
    if let Some(program) = &ready.seccomp {
        confine::seccomp(program).map_err(at(Stage::Seccomp))?;
    }

    reporter.enter(Stage::Exec);
    Err(Failure::new(Stage::Exec, sys::execve(&ready.program)))
}
