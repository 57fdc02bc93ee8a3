//! process/notify: sd_notify from units.
//!
//! Job: one datagram socket per unit; messages from the run's own processes become [`Notify`].
//! May touch: the socket, `/proc` through [`Tree`]. Keeps: the kernel says who sent; strangers are refused and named once
//! per run; a flood costs its sender, not the others; nothing that a message carries stays open.

use super::sys;
use super::tree::{Lineage, Tree};
use loom_core::ids::{Millis, RunId, UnitId};
use loom_core::lifecycle::Notify;
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// The largest message; longer ones are dropped.
const MAX_MESSAGE_BYTES: usize = 4096;
/// The longest `STATUS=` kept.
const MAX_STATUS_BYTES: usize = 1024;
/// How many datagrams are folded into one [`Notify`] before others get their turn.
const FOLD_AT_MOST: usize = 64;

/// Whose messages a socket takes now. `None` between runs.
pub type Current = Arc<Mutex<Option<(RunId, Tree)>>>;

/// What came for a run.
#[derive(Debug)]
pub struct Heard {
    pub unit: UnitId,
    pub run: RunId,
    pub notify: Notify,
}

/// Makes the unit's socket, in place of an older one, and listens until the returned task is aborted.
pub fn listen(
    unit: UnitId,
    path: &Path,
    current: Current,
    sender: mpsc::Sender<Heard>,
) -> io::Result<tokio::task::AbortHandle> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {}
        Err(other) => return Err(other),
    }
    let socket = UnixDatagram::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    setsockopt(&socket, sockopt::PassCred, &true)?;
    socket.set_nonblocking(true)?;
    let socket = sys::wakeable(OwnedFd::from(socket), Interest::READABLE)?;
    Ok(tokio::spawn(run(unit, socket, current, sender)).abort_handle())
}

async fn run(unit: UnitId, socket: AsyncFd<OwnedFd>, current: Current, sender: mpsc::Sender<Heard>) {
    let mut buffer = [0u8; MAX_MESSAGE_BYTES + 1];
    let mut refused_in: Option<RunId> = None;
    loop {
        let Ok(mut ready) = socket.readable().await else { return };
        let mut folded: Option<(RunId, Notify)> = None;
        // Barriers are answered, by closing, after everything before them has been handed on.
        let mut barriers = Vec::new();
        for _ in 0..FOLD_AT_MOST {
            let datagram = match sys::receive(socket.get_ref().as_fd(), &mut buffer) {
                Ok(datagram) => datagram,
                Err(empty) if empty.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    break;
                }
                Err(error) => {
                    tracing::warn!(unit = %unit, %error, "cannot read from the unit's notify socket");
                    ready.clear_ready();
                    break;
                }
            };
            let live = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Some((run, tree)) = live else { continue };
            let from = datagram.sender.unwrap_or(0);
            if from == 0 || !(tree.main == Some(from) || tree.holds(&Lineage::of(from))) {
                if refused_in != Some(run) {
                    refused_in = Some(run);
                    tracing::warn!(unit = %unit, run = %run, sender = from,
                        "refused a notify message: its sender is no process of the unit");
                }
                continue;
            }
            if datagram.truncated || datagram.length > MAX_MESSAGE_BYTES {
                continue;
            }
            let (notify, barrier) = parse(&buffer[..datagram.length]);
            if barrier {
                barriers.extend(datagram.descriptors);
            }
            folded = Some(match folded {
                Some((earlier, before)) if earlier == run => (run, fold(before, notify)),
                // News of a run that ended meanwhile is stale.
                Some(_) | None => (run, notify),
            });
        }
        if let Some((run, notify)) = folded
            && notify != Notify::default()
            && sender.send(Heard { unit: unit.clone(), run, notify }).await.is_err()
        {
            return;
        }
        drop(barriers);
    }
}

/// Reads one message; unknown fields are ignored. The second value says whether it is a barrier.
fn parse(message: &[u8]) -> (Notify, bool) {
    let text = String::from_utf8_lossy(message);
    let mut notify = Notify::default();
    let mut barrier = false;
    for line in text.split('\n') {
        let Some((key, value)) = line.split_once('=') else { continue };
        match (key, value) {
            ("READY", "1") => notify.ready = true,
            ("STOPPING", "1") => notify.stopping = true,
            ("WATCHDOG", "1") => notify.watchdog = true,
            ("WATCHDOG", "trigger") => notify.watchdog_trigger = true,
            ("BARRIER", "1") => barrier = true,
            ("STATUS", text) => notify.status = Some(shortened(text)),
            ("EXTEND_TIMEOUT_USEC", usec) => {
                notify.extend_timeout = usec.parse::<u64>().ok().map(|usec| Millis(usec.div_ceil(1000)));
            }
            // Fields of systemd that have no meaning here yet, and fields of others.
            (_, _) => {}
        }
    }
    (notify, barrier)
}

/// For people, on one line.
fn shortened(text: &str) -> String {
    let mut end = text.len().min(MAX_STATUS_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Two messages as one: what was said stays said, the later status counts.
fn fold(before: Notify, later: Notify) -> Notify {
    Notify {
        ready: before.ready || later.ready,
        stopping: before.stopping || later.stopping,
        watchdog: before.watchdog || later.watchdog,
        watchdog_trigger: before.watchdog_trigger || later.watchdog_trigger,
        status: later.status.or(before.status),
        extend_timeout: later.extend_timeout.or(before.extend_timeout),
        ..Notify::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_and_unknown_fields_are_ignored() {
        let (notify, barrier) = parse(b"READY=1\nSTATUS=up \x1b[1m\nX_OTHER=3\nEXTEND_TIMEOUT_USEC=1500\nMAINPID=1");
        assert!(notify.ready && !notify.stopping && !barrier);
        assert_eq!(notify.status.as_deref(), Some("up  [1m"));
        assert_eq!(notify.extend_timeout, Some(Millis(2)));
        assert!(parse(b"BARRIER=1").1);
        assert!(parse(b"WATCHDOG=trigger").0.watchdog_trigger);
    }

    #[test]
    fn a_long_status_is_cut_at_a_character() {
        let (notify, _) = parse(format!("STATUS={}", "ü".repeat(2000)).as_bytes());
        assert_eq!(notify.status.unwrap().len(), MAX_STATUS_BYTES);
    }
}
