//! beneath: opens what was found, and makes sure it still is what was found.
//!
//! Job: openat2 without links, fstat, and the search anew when something was swapped. May touch: `place`, `sys`.
//! Keeps: a descriptor handed out is a regular file with one name, or a directory, beneath a granted root.

use crate::place::{Found, Reach, Want};
use crate::sys;
use loom_core::tools::{Reason, ToolError};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, fstat};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// How often a search is begun anew because a link or a file was swapped under it.
const SWAPS_MAX: usize = 16;

/// Why an attempt failed.
pub enum Failure {
    /// Something changed between finding and opening: look again.
    Swapped,
    /// It is as it is.
    Final(ToolError),
}

impl From<ToolError> for Failure {
    fn from(error: ToolError) -> Self {
        Failure::Final(error)
    }
}

/// Finds and acts, again while things are swapped, [`SWAPS_MAX`] times at most.
pub fn attempt<T>(
    reach: &Reach<'_>,
    path: &str,
    want: Want,
    mut act: impl FnMut(&Found<'_>) -> Result<T, Failure>,
) -> Result<T, ToolError> {
    for _ in 0..SWAPS_MAX {
        match act(&reach.find(path, want)?) {
            Ok(done) => return Ok(done),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Swapped) => {}
        }
    }
    let what = format!("`{path}` kept changing while it was opened; gave up after {SWAPS_MAX} attempts");
    Err(ToolError::of_tool(Reason::Changed, what))
}

/// Sorts the kernel's words: a link where there was none is a swap.
pub fn failure(reach: &Reach<'_>, errno: Errno, shown: &str, want: Want) -> Failure {
    match errno {
        Errno::ELOOP | Errno::EXDEV | Errno::EAGAIN => Failure::Swapped,
        errno => Failure::Final(reach.kernel_says(errno, shown, want)),
    }
}

/// Opens a regular file to read it.
pub fn open_file(
    reach: &Reach<'_>,
    found: &Found<'_>,
    shown: &str,
    want: Want,
) -> Result<(OwnedFd, FileStat), Failure> {
    open_file_at(reach, found, found.base(), found.below_base(), shown, want)
}

/// The same, from a directory that is already open.
pub fn open_file_at(
    reach: &Reach<'_>,
    found: &Found<'_>,
    base: impl AsFd,
    path: &Path,
    shown: &str,
    want: Want,
) -> Result<(OwnedFd, FileStat), Failure> {
    let fail = |errno| failure(reach, errno, shown, want);
    // First without opening it for real: opening a fifo or a device already does something to it.
    let handle = sys::open_path(&base, path, OFlag::empty()).map_err(fail)?;
    let stat = fstat(&handle).map_err(fail)?;
    check(reach, found, &stat, shown)?;
    let file = sys::open_beneath(&base, path, OFlag::O_RDONLY, Mode::empty()).map_err(fail)?;
    let again = fstat(&file).map_err(fail)?;
    if (again.st_dev, again.st_ino) != (stat.st_dev, stat.st_ino) {
        return Err(Failure::Swapped);
    }
    check(reach, found, &again, shown)?;
    Ok((file, again))
}

/// Regular, one name, right owner.
pub fn check(reach: &Reach<'_>, found: &Found<'_>, stat: &FileStat, shown: &str) -> Result<(), Failure> {
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => {}
        libc::S_IFLNK => return Err(Failure::Swapped),
        libc::S_IFDIR => {
            let what = format!("`{shown}` is a directory; fs:list shows what is in it");
            return Err(ToolError::of_tool(Reason::IsDirectory, what).into());
        }
        _ => {
            let what = format!("`{shown}` is no regular file (but a fifo, socket or device)");
            return Err(ToolError::of_tool(Reason::NotRegular, what).into());
        }
    }
    match stat.st_nlink {
        1 => {}
        // Deleted or replaced since it was found.
        0 => return Err(Failure::Swapped),
        names => {
            let what = format!(
                "`{shown}` has {names} names (hard links), so it may lie outside the workspace as well; `{}` works on files \
                 with one name only",
                reach.tool
            );
            return Err(ToolError::of_tool(Reason::OutsideWorkspace, what).into());
        }
    }
    if !found.may_belong_to(stat.st_uid) {
        let what = format!(
            "`{shown}` belongs to user {}, who owns neither this directory nor this supervisor; it is not touched",
            stat.st_uid
        );
        return Err(ToolError::of_tool(Reason::Denied, what).into());
    }
    Ok(())
}
