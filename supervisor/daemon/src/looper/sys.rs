//! looper/sys: descriptors of the loop's own.
//!
//! Job: put one under the runtime's watch. May touch: tokio's registration. Keeps: all `unsafe` of this room is in this file.

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor for something to read; it is taken over, so it stays open as long as it is watched.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the value owns its descriptor and returns the same open one for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
