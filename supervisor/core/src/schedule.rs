//! schedule: when units are started by the clock.
//!
//! Job: cron patterns, calendar expressions and intervals; which slot comes next, and what became of each.
//! May touch: `ids`. May not: clocks, files, processes, tokio; time, zones and news come as arguments.
//! Keeps: never early; no slot fires twice; no firing without a record before it.
//!
//! A **slot** is an instant that a schedule names. A **firing** is what became of a slot: one start of the unit, and its end.

pub mod calendar;
pub mod cron;
mod local;
pub mod zone;

pub use local::HORIZON_MS;

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

#[cfg(test)]
mod tests;
