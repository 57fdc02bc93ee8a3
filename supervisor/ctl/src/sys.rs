//! sys: the calls that have no safe form.
//!
//! Job: local time, the terminal's width, a child that does not outlive us, waiting on a descriptor. May touch: libc. Keeps: every
//! `unsafe` says why it holds.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `2026-07-20 12:00:01.123` where this process is.
pub fn local_time(ms: u64) -> String {
    let seconds = libc::time_t::try_from(ms / 1000).unwrap_or(libc::time_t::MAX);
    // SAFETY: `tm` is plain data for which zeroes are valid; localtime_r writes only it.
    let tm = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const seconds, &raw mut tm);
        tm
    };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}",
        tm.tm_year + 1900,
        tm.tm_mon + 1,
        tm.tm_mday,
        tm.tm_hour,
        tm.tm_min,
        tm.tm_sec,
        ms % 1000
    )
}

/// How wide the terminal is that shows our standard output; `None` in a pipe.
pub fn columns() -> Option<usize> {
    // SAFETY: `winsize` is plain data for which zeroes are valid; the kernel writes one and keeps no pointer to it.
    let (answer, size) = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        (libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size), size)
    };
    (answer == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// Lets the kernel end the child when this thread ends, however it does.
pub fn end_with_us(command: &mut Command) {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM).map_err(Into::into));
    }
}

/// Makes a descriptor something to await reading from. Within a tokio runtime.
pub fn wait_on(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd always gives the one descriptor that it owns, and closes it only when dropped, after AsyncFd let it go.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(Into::into)
}
