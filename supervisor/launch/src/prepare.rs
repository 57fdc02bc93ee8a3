//! prepare: the stages that set the scene: gate, lock, session, cgroup, directory, rlimits, descriptors.
//!
//! Job: a clean start, with nothing inherited that the plan does not name. May touch: `sys`, `report`.
//! Keeps: order is the caller's; each function does one stage and says on what it failed.

use crate::report::Reporter;
use crate::sys::{self, Trouble};
use crate::{FIRST_PASSED_FD, GATE_FD};
use loom_core::launch_plan::DescriptorMove;
use std::os::fd::RawFd;

/// Waits for the byte. `false`: end of file.
pub fn gate() -> Result<bool, Trouble> {
    sys::read_byte(GATE_FD)
}

/// Takes the unit's lock; the descriptor stays open in the program, and so does the lock.
pub fn lock(path: &str) -> Result<RawFd, Trouble> {
    let fd = sys::open_lock(path)?;
    match sys::lock(fd) {
        Ok(()) => Ok(fd),
        Err(libc::EWOULDBLOCK) => {
            Err(Trouble { errno: libc::EWOULDBLOCK, what: format!("{path}: held by another process") })
        }
        Err(errno) => Err(Trouble { errno, what: path.to_owned() }),
    }
}

/// Own session, umask 0077, default signal dispositions, empty mask.
pub fn session() -> Result<(), Trouble> {
    sys::new_session()?;
    sys::umask(0o077);
    // What is ignored stays so across exec; Python would never see the default of SIGPIPE.
    sys::default_signals()
}

/// Joins the cgroup whose directory is open as `directory`.
pub fn join_cgroup(directory: RawFd) -> Result<(), Trouble> {
    sys::write_beneath(directory, "cgroup.procs", b"0")
}

/// Goes to the working directory.
pub fn directory(path: &str) -> Result<(), Trouble> {
    sys::change_directory(path)
}

/// Sets the limits.
pub fn rlimits(limits: &[(libc::__rlimit_resource_t, libc::rlimit, String)]) -> Result<(), Trouble> {
    for (resource, value, name) in limits {
        let Err(errno) = sys::set_rlimit(*resource, *value) else { continue };
        // An ordinary user cannot raise a hard limit. A limit below the planned one is at least as tight, so it will do; but
        // fewer descriptors than asked for would be a surprise, not a protection.
        let tighter = sys::hard_limit(*resource).filter(|hard| *hard < value.rlim_max && name != "nofile");
        let done = tighter.map(|hard| sys::set_rlimit(*resource, libc::rlimit { rlim_cur: hard, rlim_max: hard }));
        match done {
            Some(Ok(())) => {}
            Some(Err(_)) | None => {
                return Err(Trouble { errno, what: format!("limit `{name}` to {}", value.rlim_max) });
            }
        }
    }
    Ok(())
}

/// Gives each listed descriptor its number, the lock the next free one, and closes all others.
pub fn descriptors(moves: &[DescriptorMove], lock: Option<RawFd>, reporter: &mut Reporter) -> Result<(), Trouble> {
    let end = moves.iter().map(|m| m.to).max().unwrap_or(2) + 1;
    // First all sources out of the way of all targets, then each to its place.
    let above = end.max(FIRST_PASSED_FD) + 1;
    let named = |fd: RawFd| move |errno| Trouble { errno, what: format!("descriptor {fd}") };
    let report = sys::duplicate_above(reporter.fd(), above).map_err(named(reporter.fd()))?;
    reporter.moved(report);
    let mut placed = Vec::with_capacity(moves.len() + 1);
    for DescriptorMove { fd, to } in moves {
        placed.push((sys::duplicate_above(*fd, above).map_err(named(*fd))?, *to));
    }
    if let Some(lock) = lock {
        placed.push((sys::duplicate_above(lock, above).map_err(named(lock))?, end));
    }
    let mut keep: Vec<RawFd> = vec![report];
    for (from, to) in placed {
        sys::duplicate_to(from, to).map_err(named(to))?;
        keep.push(to);
    }
    keep.sort_unstable();
    let mut next = 0;
    for fd in keep {
        if next < fd {
            sys::close_range(next as u32, fd as u32 - 1)?;
        }
        next = fd + 1;
    }
    sys::close_range(next as u32, u32::MAX)
}
