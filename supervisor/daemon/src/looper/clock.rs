//! looper/clock: the clocks and chance that core is given.
//!
//! Job: make a [`Now`]. May touch: clocks, the kernel's randomness. Keeps: waits run on the clock without suspend.

use loom_core::ids::Millis;
use loom_core::lifecycle::Now;
use nix::time::{ClockId, clock_gettime};
use std::hash::{BuildHasher, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

/// This moment.
pub fn now() -> Now {
    Now { mono: monotonic(), wall: wall(), chance: RandomState::new().hash_one(monotonic_nanos()) }
}

/// CLOCK_MONOTONIC.
pub fn monotonic() -> Millis {
    Millis(monotonic_nanos() / 1_000_000)
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
