//! process/notify/message: one datagram of sd_notify, read.
//!
//! Job: bytes → [`Message`]; several [`Notify`] as one, where that loses nothing. May touch: nothing.
//! Keeps: unknown fields and values that mean nothing are ignored; a `ready` stands in one [`Notify`] only with a
//! `reloading` that came before it; nothing kept is longer than its limit.

use super::super::kept;
use loom_core::ids::Millis;
use loom_core::lifecycle::Notify;

/// The longest `STATUS=` kept.
const STATUS_MAX_BYTES: usize = 1024;
/// The longest `X_LOOM_TASK=` kept.
const TASK_MAX_BYTES: usize = 256;

/// What one datagram says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What the unit's life is told.
    pub notify: Notify,
    /// `MAINPID=`
    pub main_pid: Option<i32>,
    /// `BARRIER=1`: its descriptor is closed once all before it was taken.
    pub barrier: bool,
    /// `FDSTORE=1`
    pub store: bool,
    /// `FDSTOREREMOVE=1`
    pub unstore: bool,
    /// `FDNAME=`, where it is a name.
    pub name: Option<String>,
    /// `FDPOLL=0`
    pub unwatched: bool,
}

/// Reads one datagram.
pub fn parse(datagram: &[u8]) -> Message {
    let text = String::from_utf8_lossy(datagram);
    let mut message = Message::default();
    let mut began = None;
    for line in text.split('\n') {
        let Some((key, value)) = line.split_once('=') else { continue };
        let notify = &mut message.notify;
        match (key, value) {
            ("READY", "1") => notify.ready = true,
            ("RELOADING", "1") => notify.reloading = true,
            ("STOPPING", "1") => notify.stopping = true,
            ("WATCHDOG", "1") => notify.watchdog = true,
            ("WATCHDOG", "trigger") => notify.watchdog_trigger = true,
            ("BARRIER", "1") => message.barrier = true,
            ("FDSTORE", "1") => message.store = true,
            ("FDSTOREREMOVE", "1") => message.unstore = true,
            ("FDPOLL", "0") => message.unwatched = true,
            ("FDNAME", name) if kept::is_name(name) => message.name = Some(name.to_owned()),
            ("MAINPID", pid) => message.main_pid = pid.parse().ok().filter(|pid| *pid > 1),
            ("STATUS", text) => notify.status = Some(shortened(text, STATUS_MAX_BYTES)),
            ("ERRNO", number) => notify.errno = number.parse().ok().filter(|errno| *errno > 0),
            ("MONOTONIC_USEC", usec) => began = millis(usec),
            ("WATCHDOG_USEC", usec) => notify.watchdog_interval = millis(usec),
            ("EXTEND_TIMEOUT_USEC", usec) => notify.extend_timeout = millis(usec),
            ("X_LOOM_PROGRESS", "1") => notify.progress = true,
            ("X_LOOM_IDLE", "1") => notify.idle = Some(true),
            ("X_LOOM_IDLE", "0") => notify.idle = Some(false),
            ("X_LOOM_RETRY_AFTER", seconds) => {
                notify.retry_after = seconds.parse::<u64>().ok().map(|seconds| Millis(seconds.saturating_mul(1000)));
            }
            ("X_LOOM_TASK", task) => notify.task = Some(shortened(task, TASK_MAX_BYTES)),
            ("X_LOOM_TOKENS", count) => notify.tokens = notify.tokens.saturating_add(number(count)),
            ("X_LOOM_COST_MICROS", count) => notify.cost_micros = notify.cost_micros.saturating_add(number(count)),
            // Fields of others, and values that mean nothing.
            (_, _) => {}
        }
    }
    if message.notify.reloading {
        message.notify.reloading_at = began;
    }
    message
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// Rounded up, so that a moment is never before the one it was taken from.
fn millis(usec: &str) -> Option<Millis> {
    usec.parse::<u64>().ok().map(|usec| Millis(usec.div_ceil(1000)))
}

/// For people, on one line.
fn shortened(text: &str, max_bytes: usize) -> String {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Two messages as one, if nothing of their order is lost by it: what was said stays said, the later value counts, amounts add
/// up. A reload after READY, a READY after STOPPING and a second task are news of their own.
pub fn fold(before: &Notify, later: &Notify) -> Option<Notify> {
    let is_new_turn = (before.ready && later.reloading)
        || (before.stopping && (later.ready || later.reloading))
        || (before.task.is_some() && later.task.is_some() && before.task != later.task);
    if is_new_turn {
        return None;
    }
    Some(Notify {
        ready: before.ready || later.ready,
        reloading: before.reloading || later.reloading,
        reloading_at: later.reloading_at.or(before.reloading_at),
        stopping: before.stopping || later.stopping,
        watchdog: before.watchdog || later.watchdog,
        watchdog_trigger: before.watchdog_trigger || later.watchdog_trigger,
        status: later.status.clone().or_else(|| before.status.clone()),
        errno: later.errno.or(before.errno),
        extend_timeout: later.extend_timeout.or(before.extend_timeout),
        watchdog_interval: later.watchdog_interval.or(before.watchdog_interval),
        progress: before.progress || later.progress,
        idle: later.idle.or(before.idle),
        retry_after: later.retry_after.or(before.retry_after),
        task: later.task.clone().or_else(|| before.task.clone()),
        tokens: before.tokens.saturating_add(later.tokens),
        cost_micros: before.cost_micros.saturating_add(later.cost_micros),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_read_and_what_means_nothing_is_ignored() {
        type Look = fn(&Message) -> bool;
        let table: &[(&str, Look)] = &[
            ("READY=1", |m| m.notify.ready),
            ("READY=0", |m| !m.notify.ready),
            ("RELOADING=1\nMONOTONIC_USEC=1500", |m| m.notify.reloading && m.notify.reloading_at == Some(Millis(2))),
            ("MONOTONIC_USEC=1500", |m| m.notify == Notify::default()),
            ("STOPPING=1", |m| m.notify.stopping),
            ("STATUS=up \x1b[1m", |m| m.notify.status.as_deref() == Some("up  [1m")),
            ("ERRNO=5", |m| m.notify.errno == Some(5)),
            ("ERRNO=x", |m| m.notify.errno.is_none()),
            ("MAINPID=77", |m| m.main_pid == Some(77)),
            ("MAINPID=1", |m| m.main_pid.is_none()),
            ("MAINPID=-5", |m| m.main_pid.is_none()),
            ("WATCHDOG=1", |m| m.notify.watchdog && !m.notify.watchdog_trigger),
            ("WATCHDOG=trigger", |m| m.notify.watchdog_trigger),
            ("WATCHDOG_USEC=2000000", |m| m.notify.watchdog_interval == Some(Millis(2000))),
            ("EXTEND_TIMEOUT_USEC=1", |m| m.notify.extend_timeout == Some(Millis(1))),
            ("EXTEND_TIMEOUT_USEC=-1", |m| m.notify.extend_timeout.is_none()),
            ("BARRIER=1", |m| m.barrier),
            ("FDSTORE=1\nFDNAME=a b\nFDPOLL=0", |m| m.store && m.unwatched && m.name.as_deref() == Some("a b")),
            ("FDNAME=a:b", |m| m.name.is_none()),
            ("FDSTOREREMOVE=1", |m| m.unstore && !m.store),
            ("X_LOOM_PROGRESS=1", |m| m.notify.progress),
            ("X_LOOM_IDLE=1", |m| m.notify.idle == Some(true)),
            ("X_LOOM_IDLE=0", |m| m.notify.idle == Some(false)),
            ("X_LOOM_RETRY_AFTER=60", |m| m.notify.retry_after == Some(Millis(60_000))),
            ("X_LOOM_TASK=t1", |m| m.notify.task.as_deref() == Some("t1")),
            ("X_LOOM_TASK=", |m| m.notify.task.as_deref() == Some("")),
            ("X_LOOM_TOKENS=5\nX_LOOM_TOKENS=7", |m| m.notify.tokens == 12),
            ("X_LOOM_COST_MICROS=18446744073709551615\nX_LOOM_COST_MICROS=2", |m| m.notify.cost_micros == u64::MAX),
            ("X_OTHER=3\nnonsense\n\n=\nFOO", |m| *m == Message::default()),
        ];
        for (text, holds) in table {
            let message = parse(text.as_bytes());
            assert!(holds(&message), "{text:?}: {message:?}");
        }
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let message = parse(format!("STATUS={0}\nX_LOOM_TASK={0}", "ü".repeat(2000)).as_bytes());
        assert_eq!(message.notify.status.unwrap().len(), STATUS_MAX_BYTES);
        assert_eq!(message.notify.task.unwrap().len(), TASK_MAX_BYTES);
    }

    fn said(texts: &[&str]) -> Vec<Notify> {
        let mut told: Vec<Notify> = Vec::new();
        for text in texts {
            let notify = parse(text.as_bytes()).notify;
            match told.last().and_then(|last| fold(last, &notify)) {
                Some(folded) => *told.last_mut().unwrap() = folded,
                None => told.push(notify),
            }
        }
        told
    }

    #[test]
    fn folding_keeps_the_order_of_reload_and_readiness() {
        let short = |told: Vec<Notify>| told.iter().map(|n| (n.reloading, n.ready, n.stopping)).collect::<Vec<_>>();
        type Row<'a> = (&'a [&'a str], &'a [(bool, bool, bool)]);
        let table: &[Row<'_>] = &[
            (&["RELOADING=1", "READY=1"], &[(true, true, false)]),
            (&["READY=1", "RELOADING=1"], &[(false, true, false), (true, false, false)]),
            (&["RELOADING=1", "READY=1", "RELOADING=1"], &[(true, true, false), (true, false, false)]),
            (&["READY=1", "STOPPING=1"], &[(false, true, true)]),
            (&["STOPPING=1", "READY=1"], &[(false, false, true), (false, true, false)]),
        ];
        for (texts, want) in table {
            assert_eq!(short(said(texts)), *want, "{texts:?}");
        }
    }

    #[test]
    fn folding_adds_amounts_and_keeps_the_later_value() {
        let told = said(&[
            "X_LOOM_TOKENS=2\nSTATUS=a\nX_LOOM_IDLE=1",
            "X_LOOM_TOKENS=3\nX_LOOM_IDLE=0",
            "STATUS=b\nWATCHDOG=1",
        ]);
        let [one] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((one.tokens, one.status.as_deref(), one.idle, one.watchdog), (5, Some("b"), Some(false), true));
        assert_eq!(said(&["X_LOOM_TASK=a", "X_LOOM_TASK=b", "X_LOOM_TASK=b"]).len(), 2);
    }
}
