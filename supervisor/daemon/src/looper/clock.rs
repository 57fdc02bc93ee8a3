//! looper/clock: the clocks and chance that core is given.
//!
//! Job: make a [`Now`]. May touch: clocks, the kernel's randomness. Keeps: waits run on the clock without suspend.

use loom_core::ids::Millis;
use loom_core::lifecycle::Now;
use nix::time::{ClockId, clock_gettime};
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// This moment.
pub fn now() -> Now {
    Now { mono: monotonic(), wall: wall(), chance: RandomState::new().hash_one(monotonic_nanos()) }
}

/// CLOCK_MONOTONIC.
pub fn monotonic() -> Millis {
    Millis(monotonic_nanos() / 1_000_000)
}

/// Set to milliseconds, the clocks of schedules are that much ahead: for tests of downtime, which cannot wait for it.
const AHEAD: &str = "LOOM_CLOCK_AHEAD_MS";

/// The clocks of schedules: CLOCK_REALTIME, and CLOCK_BOOTTIME, which counts suspend.
pub fn both() -> loom_core::schedule::Now {
    let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock");
    let millis =
        u64::try_from(boot.tv_sec()).unwrap_or(0) * 1000 + u64::try_from(boot.tv_nsec()).unwrap_or(0) / 1_000_000;
    loom_core::schedule::Now { wall: wall() + ahead(), boot: Millis(millis + ahead()) }
}

/// By how much [`both`] is ahead of the kernel's clocks: nothing, outside of tests.
pub fn ahead() -> u64 {
    static MILLIS: OnceLock<u64> = OnceLock::new();
    *MILLIS.get_or_init(|| std::env::var(AHEAD).ok().and_then(|text| text.parse().ok()).unwrap_or(0))
}

fn monotonic_nanos() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock");
    u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
}

/// CLOCK_MONOTONIC in microseconds, as sd_notify wants it.
pub fn monotonic_micros() -> u64 {
    monotonic_nanos() / 1000
}

/// Milliseconds since the epoch.
pub fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
