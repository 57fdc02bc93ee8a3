//! fault: places at which loomd can be made to die, for tests of what comes after.
//!
//! Job: end this process by SIGKILL at the place that the environment variable `LOOM_FAULT` names: `gate.open`, or
//! `gate.open:3` for the third time that it is passed. May touch: that variable, once. Keeps: without it a place costs one load.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Which place, and how often it is still passed alive.
static WANTED: OnceLock<Option<(String, AtomicU32)>> = OnceLock::new();

/// Passes a place; every name stands in the code once.
pub fn point(name: &'static str) {
    let Some((wanted, left)) = WANTED.get_or_init(wanted) else { return };
    if wanted == name && left.fetch_sub(1, Ordering::SeqCst) == 1 {
        // Nothing may run after it, as if the power of this process had been cut.
        let _ = kill(Pid::this(), Signal::SIGKILL);
        loop {
            std::thread::park();
        }
    }
}

/// Passes a place where a program that has just taken over can be made unwell: `LOOM_TROUBLE=<name>=abort`, `panic`, `exit`
/// or `hang`.
pub fn trouble(name: &'static str) {
    let Ok(wanted) = std::env::var("LOOM_TROUBLE") else { return };
    match wanted.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
        Some("abort") => std::process::abort(),
        Some("panic") => panic!("made to panic by LOOM_TROUBLE"),
        Some("hang") => loop {
            std::thread::park();
        },
        Some(_) | None => {}
    }
}

/// Whether a place is to fail in its own way: `LOOM_TROUBLE=<name>=fail`.
pub fn fails(name: &'static str) -> bool {
    std::env::var("LOOM_TROUBLE").is_ok_and(|wanted| wanted == format!("{name}=fail"))
}

fn wanted() -> Option<(String, AtomicU32)> {
    let text = std::env::var("LOOM_FAULT").ok().filter(|text| !text.is_empty())?;
    let (name, times) = match text.rsplit_once(':') {
        Some((name, times)) => (name.to_owned(), times.parse().unwrap_or(1)),
        None => (text, 1),
    };
    Some((name, AtomicU32::new(times)))
}
