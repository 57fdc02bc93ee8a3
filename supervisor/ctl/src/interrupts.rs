//! interrupts: Ctrl-C as something to wait for.
//!
//! Job: take SIGINT over from its default, and hand out each press. May touch: this process's signal mask, one descriptor.
//! Keeps: what was pressed before somebody waits is forgotten.

use crate::sys;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// From now on Ctrl-C ends nothing by itself; it is read from this descriptor.
pub fn take_over() -> io::Result<SignalFd> {
    let mut interrupts = SigSet::empty();
    interrupts.add(Signal::SIGINT);
    interrupts.thread_block()?;
    Ok(SignalFd::with_flags(&interrupts, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// Ctrl-C, taken as a signal while an answer comes.
pub struct Interrupts<'a> {
    signals: &'a SignalFd,
    ready: AsyncFd<OwnedFd>,
}

impl<'a> Interrupts<'a> {
    /// Within a runtime. What was pressed before is forgotten.
    pub fn new(signals: &'a SignalFd) -> io::Result<Self> {
        while let Ok(Some(_)) = signals.read_signal() {}
        let ready = sys::wait_on(signals.as_fd().try_clone_to_owned()?)?;
        Ok(Self { signals, ready })
    }

    /// Waits for one. Readiness alone may be old news.
    pub async fn next(&self) {
        while let Ok(mut ready) = self.ready.readable().await {
            if self.was_pressed() {
                return;
            }
            ready.clear_ready();
        }
    }

    pub fn was_pressed(&self) -> bool {
        matches!(self.signals.read_signal(), Ok(Some(_)))
    }
}
