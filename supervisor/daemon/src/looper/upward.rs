//! looper/upward: sd_notify to whoever supervises loomd.
//!
//! Job: READY, RELOADING, STOPPING, STATUS, WATCHDOG to `NOTIFY_SOCKET`. May touch: that socket.
//! Keeps: without a supervisor above, nothing is sent and nothing fails.

use super::clock;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The supervisor above us, if any.
#[derive(Debug)]
pub struct Upward {
    socket: Option<(UnixDatagram, SocketAddr)>,
    beat: Option<Duration>,
}

impl Upward {
    /// Reads `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    pub fn from_environment() -> Self {
        let address = std::env::var("NOTIFY_SOCKET").ok().and_then(|name| match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(name).ok(),
        });
        let socket = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        if let Some((socket, _)) = &socket {
            // A full queue above us must not hold up the units below.
            let _ = socket.set_nonblocking(true);
        }
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let beat = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(|usec| Duration::from_micros(usec / 2));
        Self { socket, beat }
    }

    /// How often `WATCHDOG=1` is due; `None` where nobody asks for it, and then nothing wakes us for it.
    pub fn beat(&self) -> Option<Duration> {
        self.beat.filter(|_| self.socket.is_some())
    }

    /// Units are loaded and the control socket answers.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// Unit files are read anew; [`Upward::ready`] follows.
    pub fn reloading(&self) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", clock::monotonic_micros()));
    }

    /// Units are being stopped.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping units");
    }

    /// We are alive.
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::warn!(%error, "cannot notify the supervisor of loomd");
        }
    }
}
