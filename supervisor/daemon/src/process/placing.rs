//! process/placing: starts a program with exactly the descriptors named, at exactly the numbers named.
//!
//! Job: start loom-launch, by posix_spawn or as a child born in its cgroup. May touch: descriptors, the program's file.
//! Keeps: the child gets 0, 1, 2 and what is placed, nothing else; between fork and exec nothing
//! runs that could wait for a lock.

use super::children::Children;
use super::sys;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
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

    /// Starts `program` and gives its pid, registered among `children`, with a pidfd. With `cgroup` it is born there.
    pub fn spawn(
        &self,
        program: &Path,
        name: &str,
        cgroup: Option<BorrowedFd<'_>>,
        children: &Children,
    ) -> io::Result<(i32, OwnedFd)> {
        let file = CString::new(program.as_os_str().as_bytes()).map_err(io::Error::other)?;
        let name = CString::new(name).map_err(io::Error::other)?;
        match cgroup {
            Some(cgroup) => {
                // The child could say only by its exit status that there is no program.
                nix::unistd::access(program, nix::unistd::AccessFlags::X_OK)?;
                let placed: Vec<(RawFd, RawFd)> = self.placed.iter().map(|(fd, to)| (fd.as_raw_fd(), *to)).collect();
                let becoming = sys::Becoming { placed: &placed, program: &file, name: &name };
                children.make(|| sys::born_in(cgroup, Some(&becoming)))
            }
            None => children.make(|| self.spawn_plainly(&file, &name)),
        }
    }

    fn spawn_plainly(&self, program: &CStr, name: &CStr) -> io::Result<(i32, OwnedFd)> {
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
        let environment: [CString; 0] = [];
        let pid = posix_spawn(program, &actions, &attributes, &[name], &environment)?.as_raw();
        // Without a descriptor for it, it ends with our end of its gate, and the reaper has it.
        Ok((pid, sys::pidfd_open(pid)?))
    }
}
