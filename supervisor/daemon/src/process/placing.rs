//! process/placing: starts a program with exactly the descriptors named, at exactly the numbers named.
//!
//! Job: posix_spawn of loom-launch. May touch: descriptors, the program's file.
//! Keeps: the child gets 0, 1, 2 and what is placed, nothing else; no code of ours runs between fork and exec.

use super::children::Children;
use super::sys;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Descriptors and where the child finds them.
#[derive(Debug, Default)]
pub struct Placement {
    placed: Vec<(OwnedFd, RawFd)>,
}

impl Placement {
    /// `fd` will be `target` in the child. A copy is taken, so that the caller may keep or close its own.
    pub fn put(&mut self, fd: impl AsFd, target: RawFd) -> io::Result<()> {
        if !(0..sys::PARKED_FROM).contains(&target) {
            return Err(io::Error::other(format!(
                "descriptor {target} is past the {} a unit can get",
                sys::PARKED_FROM
            )));
        }
        self.placed.push((sys::park(fd.as_fd())?, target));
        Ok(())
    }

    /// Starts `program` and gives its pid, registered among `children`, with a pidfd.
    pub fn spawn(&self, program: &Path, name: &str, children: &Children) -> io::Result<(i32, OwnedFd)> {
        let mut actions = PosixSpawnFileActions::init()?;
        for (fd, target) in &self.placed {
            // Sources lie above all targets, so no placement overwrites a later one's source.
            actions.add_dup2(fd.as_raw_fd(), *target)?;
        }
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_sigmask(&SigSet::empty())?;
        // The Rust runtime ignores SIGPIPE, and ignored signals survive exec.
        attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
        attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF)?;
        let program = CString::new(program.as_os_str().as_bytes()).map_err(io::Error::other)?;
        let name = CString::new(name).map_err(io::Error::other)?;
        let environment: [CString; 0] = [];
        let mut pidfd = None;
        let pid = children.make(|| -> io::Result<i32> {
            let pid = posix_spawn(program.as_c_str(), &actions, &attributes, &[name], &environment)?.as_raw();
            pidfd = Some(sys::pidfd_open(pid));
            Ok(pid)
        })?;
        match pidfd.expect("set whenever the child was made") {
            Ok(pidfd) => Ok((pid, pidfd)),
            Err(error) => {
                // Behind its gate it does nothing and ends with our end of the pipe; let the reaper have it.
                children.taken(pid);
                Err(error)
            }
        }
    }
}
