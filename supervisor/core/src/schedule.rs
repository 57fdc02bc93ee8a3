//! schedule: when units are started by the clock.
//!
//! Job: cron patterns, calendar expressions and intervals; which slot comes next, and what became of each.
//! May touch: `ids`. May not: clocks, files, processes, tokio; time, zones and news come as arguments.
//! Keeps: never early; no slot fires twice; no firing without a record before it.
//!
//! A **slot** is an instant that a schedule names. A **firing** is what became of a slot: one start of the unit, and its end.
//! All instants are milliseconds since the epoch, all slots are stored in UTC.

pub mod calendar;
pub mod cron;
mod expression;
mod local;
mod plan;
pub mod record;
#[cfg(test)]
mod tests;
pub mod timetable;
pub mod zone;

pub use expression::Expression;
pub use local::HORIZON_MS;
pub use plan::WrongSettings;
pub use record::{Cause, Firing, FiringId, FiringState, Record};
pub use timetable::{Effect, Event, Found, Listed, Now, Payload, Stand, Timetable, What};

use crate::ids::{Millis, UnitId};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// What is wrong with an expression, where, and the way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong: "`61` is no minute".
    pub what: String,
    /// The place, in bytes of the expression.
    pub at: Range<usize>,
    /// Short note at the place: "0 to 59".
    pub label: String,
    /// The way out.
    pub help: String,
}

impl Problem {
    fn new(what: impl Into<String>, at: Range<usize>, label: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what: what.into(), at, label: label.into(), help: help.into() }
    }
}

/// What the section `[schedule]` says. Any number of `cron` and `calendar`, `every` and `on_startup` work side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// What is started. A template if `overlap` is `parallel`, which starts an instance for each slot.
    pub unit: UnitId,
    /// Cron patterns, as [`cron::Cron::parse`] takes them.
    pub cron: Vec<String>,
    /// systemd's calendar expressions, as [`calendar::Calendar::parse`] takes them.
    pub calendar: Vec<String>,
    /// An interval.
    pub every: Option<Every>,
    /// Once in each life of loomd, this long after it came up.
    pub on_startup: Option<Millis>,
    /// IANA name; empty is the machine's.
    pub timezone: String,
    /// How much later than its slot it may start, so that schedules share a wake-up.
    pub accuracy: Millis,
    /// Each slot, and each catch-up, waits up to this long. How long is a hash, not a draw: a restart does not change it.
    pub randomized_delay: Millis,
    /// All slots of this schedule on this machine wait equally long.
    pub fixed_random_delay: bool,
    /// Slots that were missed are made up for by one run.
    pub persistent: bool,
    /// What happens to a slot while the run of an earlier one goes on.
    pub overlap: Overlap,
    /// What follows a firing whose run was lost with loomd or the machine.
    pub on_interrupted: OnInterrupted,
    /// More automatic firings than this within `limit_interval` fail the schedule.
    pub limit_burst: u32,
    /// See `limit_burst`.
    pub limit_interval: Millis,
}

/// An interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Every {
    /// How long, on the clock that counts suspend.
    pub period: Millis,
    /// What it is counted from.
    pub from: EveryFrom,
    /// At multiples of the period on the local clock, from midnight of 1 January 1970, instead of from the last run.
    pub align: bool,
}

/// What an interval is counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EveryFrom {
    /// The start of the last run.
    Start,
    /// Its end.
    End,
}

/// What happens to a slot while the run of an earlier one goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Overlap {
    /// It is skipped, and counted.
    Skip,
    /// One waits for the end; more are skipped.
    QueueOne,
    /// The unit is restarted.
    Restart,
    /// An instance of the template is started beside it.
    Parallel,
}

/// What follows a firing whose run was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnInterrupted {
    /// It is said, and no more.
    Report,
    /// One new firing for the same slot.
    Rerun,
}

impl Settings {
    /// The defaults, with nothing that elapses.
    pub fn new(unit: UnitId) -> Self {
        Self {
            unit,
            cron: vec![],
            calendar: vec![],
            every: None,
            on_startup: None,
            timezone: String::new(),
            accuracy: Millis(0),
            randomized_delay: Millis(0),
            fixed_random_delay: false,
            persistent: true,
            overlap: Overlap::Skip,
            on_interrupted: OnInterrupted::Report,
            limit_burst: 100,
            limit_interval: Millis(10_000),
        }
    }
}
