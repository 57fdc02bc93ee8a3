//! sys: the few calls that need `unsafe`, and the kernel's words.
//!
//! Job: thin wrappers. May touch: nothing of ours.

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::Mode;
use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::Path;

/// A write beyond `limits.file_size` shall be an error that the agent can read, not the end of the worker.
pub fn ignore_file_size_signal() {
    // SAFETY: SigIgn installs no handler, so no code of ours runs in signal context.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.expect("SIGXFSZ can always be ignored");
}

/// Requests come on 0 and answers go on 1. Unbuffered: each message is read by its length and written in one go.
pub fn standard_streams() -> (File, File) {
    // SAFETY: the launcher hands over 0 and 1; this is called once, first thing, and nothing else uses them after it
    // (stdout is never printed to).
    unsafe { (File::from_raw_fd(0), File::from_raw_fd(1)) }
}

/// Opens `path` beneath `base`, following no link of any kind on the way.
pub fn open_beneath(base: impl AsFd, path: &Path, flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new()
        // Non-blocking: opening a fifo must not wait for its other end.
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .mode(mode)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_SYMLINKS);
    loop {
        match openat2(base.as_fd(), path, how) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Opens a directory without the right to read it: a handle to start from.
pub fn open_path(base: impl AsFd, path: &Path, more: OFlag) -> Result<OwnedFd, Errno> {
    // O_PATH takes no other flags than these; openat2 refuses what open ignored.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | more)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_SYMLINKS);
    loop {
        match openat2(base.as_fd(), path, how) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Opens a canonical path from `/`; a link on the way means that it is canonical no more.
pub fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(nix::fcntl::AT_FDCWD, path, how)
}
