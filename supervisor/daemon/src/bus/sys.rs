//! sys: what the kernel knows about the process at the other end of a socket.
//!
//! Job: `SO_PEERCRED`, `SO_PEERPIDFD`, hang-up. May touch: libc, nix.
//! Keeps: a pid is used only while a pidfd shows that it still is the process that connected, where the kernel has one.

use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The process that connected.
#[derive(Debug)]
pub struct Peer {
    /// Its pid when it connected.
    pub pid: i32,
    /// `SO_PEERPIDFD`; Linux 6.5.
    pidfd: Option<OwnedFd>,
}

impl Peer {
    /// Who connected to this socket.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let credentials = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials)?;
        Ok(Self { pid: credentials.pid(), pidfd: peer_pidfd(socket)? })
    }

    /// Whether the pid may have been given to another process since it connected.
    pub fn may_be_gone(&self) -> bool {
        match &self.pidfd {
            Some(pidfd) => ready(pidfd.as_fd(), PollFlags::POLLIN),
            None => false,
        }
    }
}

/// The peer's pidfd; `None` where the kernel has no such option. The error ESRCH: the process is gone.
fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut fd: libc::c_int = -1;
    let mut len = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("four bytes");
    // SAFETY: the descriptor is open for the time of the borrow; `fd` and `len` are valid for writes of the sizes named.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            std::ptr::from_mut(&mut fd).cast(),
            &raw mut len,
        )
    };
    if done == 0 && fd >= 0 {
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
    }
    match io::Error::last_os_error() {
        fault if fault.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        fault => Err(fault),
    }
}

/// Whether the other end is closed, even if bytes of it are still unread.
pub fn hung_up(socket: BorrowedFd<'_>) -> bool {
    ready(socket, PollFlags::empty())
}

fn ready(fd: BorrowedFd<'_>, wanted: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, wanted)];
    let shown = nix::poll::poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0);
    shown && fds[0].revents().is_some_and(|seen| seen.intersects(wanted | PollFlags::POLLHUP | PollFlags::POLLERR))
}
