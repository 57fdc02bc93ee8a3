//! Tests of schedules: expressions, changes of the clock, systemd as oracle, the timetable.

mod expressions;
mod oracle;
mod sim;
mod stories;

use super::calendar::Calendar;
use super::cron::Cron;
use super::zone::{self, Zone};

/// `2026-03-29 02:00` or `2026-03-29 02:00:00`, UTC, in milliseconds.
fn utc(text: &str) -> u64 {
    let text = if text.len() == 16 { format!("{text}:00Z") } else { format!("{text}Z") };
    text.parse::<jiff::Timestamp>().expect("an instant").as_millisecond() as u64
}

fn shown(at: u64) -> String {
    let text = Zone::utc().show(at);
    text[4..20].to_owned()
}

fn slots(mut next: impl FnMut(u64) -> Option<u64>, after: u64, before: u64) -> Vec<u64> {
    let mut found = vec![];
    let mut at = after;
    while let Some(slot) = next(at).filter(|slot| *slot < before) {
        assert!(slot > at, "{} after {}", shown(slot), shown(at));
        found.push(slot);
        at = slot;
    }
    found
}

fn cron_slots(pattern: &str, zone: &str, after: u64, before: u64) -> Vec<u64> {
    let (cron, zone) = (Cron::parse(pattern).unwrap(), zone::named(zone).unwrap());
    slots(|at| cron.next(&zone, at), after, before)
}

fn calendar_slots(text: &str, zone: &str, after: u64, before: u64) -> Vec<u64> {
    let (calendar, zone) = (Calendar::parse(text).unwrap(), zone::named(zone).unwrap());
    slots(|at| calendar.next(&zone, at), after, before)
}
