//! plan: settings made ready for asking.
//!
//! Job: check settings as a whole; the slots of all their patterns together; the delay of a slot.
//! May touch: `cron`, `calendar`, `local`, `zone`. May not: clocks.
//! Keeps: the same machine, schedule and slot give the same delay, in every life of loomd.

use super::calendar::Calendar;
use super::cron::Cron;
use super::local::{Aligned, Local, next_instant};
use super::zone::{Zone, Zones};
use super::{EveryFrom, Overlap, Settings};
use crate::ids::{Millis, UnitId};

/// Settings that cannot work as they are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {help}")]
pub struct WrongSettings {
    /// The key of `[schedule]` to change.
    pub key: &'static str,
    /// What is wrong.
    pub what: String,
    /// The way out.
    pub help: String,
}

/// Patterns with the zones they follow.
#[derive(Debug)]
pub(super) struct Plan(Vec<(Box<dyn Local + Send + Sync>, Zone)>);

/// The shortest interval: what is wanted more often is not a schedule.
pub const EVERY_MIN: Millis = Millis(100);

impl Settings {
    /// What is wrong with the settings as a whole or with an expression in them, if anything.
    pub fn check(&self, zones: &Zones) -> Result<(), WrongSettings> {
        Plan::of(self, zones).map(|_| ())
    }

    /// The slots after an instant of all patterns together, at most `count`, without intervals that count from a run.
    /// Empty if none comes within ten years: a schedule that never elapses.
    pub fn slots(&self, zones: &Zones, after: u64, count: usize) -> Result<Vec<u64>, WrongSettings> {
        let plan = Plan::of(self, zones)?;
        let mut slots = vec![];
        let mut at = after;
        while let Some(next) = plan.next(at).filter(|_| slots.len() < count) {
            slots.push(next);
            at = next;
        }
        Ok(slots)
    }

    /// Whether it will never fire: every pattern's last slot is past, and nothing else starts it.
    pub fn never_elapses(&self, zones: &Zones, now: u64) -> Result<bool, WrongSettings> {
        let has_interval = self.every.is_some() || self.on_startup.is_some();
        Ok(self.slots(zones, now, 1)?.is_empty() && !has_interval)
    }

    /// What it elapses by, in one line: `cron 0 9 * * MON-FRI, timezone Europe/Berlin`.
    pub fn rhythm(&self) -> String {
        let mut parts: Vec<String> = self.cron.iter().map(|text| format!("cron {text}")).collect();
        parts.extend(self.calendar.iter().map(|text| format!("calendar {text}")));
        if let Some(every) = &self.every {
            let how = match (every.align, every.from) {
                (true, _) => " aligned",
                (false, EveryFrom::Start) => "",
                (false, EveryFrom::End) => " from the end",
            };
            parts.push(format!("every {} ms{how}", every.period.0));
        }
        if let Some(delay) = self.on_startup {
            parts.push(format!("{} ms after startup", delay.0));
        }
        if !self.timezone.is_empty() {
            parts.push(format!("timezone {}", self.timezone));
        }
        parts.join(", ")
    }
}

impl Plan {
    pub fn of(settings: &Settings, zones: &Zones) -> Result<Self, WrongSettings> {
        let wrong = |key, what: String, help: &str| Err(WrongSettings { key, what, help: help.to_owned() });
        let unknown = |key, what: String| WrongSettings {
            key,
            what,
            help: "write an IANA name such as \"Europe/Berlin\", or leave the key out".into(),
        };
        let own = zones.get(&settings.timezone).map_err(|error| unknown("timezone", error.to_string()))?;
        let mut sources: Vec<(Box<dyn Local + Send + Sync>, Zone)> = vec![];
        for text in &settings.cron {
            let cron = Cron::parse(text).map_err(|problem| WrongSettings {
                key: "cron",
                what: problem.what,
                help: problem.help,
            })?;
            sources.push((Box::new(cron), own.clone()));
        }
        for text in &settings.calendar {
            let calendar = Calendar::parse(text).map_err(|problem| WrongSettings {
                key: "calendar",
                what: problem.what,
                help: problem.help,
            })?;
            let zone = calendar.zone_in(zones, &own).map_err(|error| unknown("calendar", error.to_string()))?;
            sources.push((Box::new(calendar), zone));
        }
        if let Some(every) = &settings.every {
            if every.period < EVERY_MIN {
                return wrong("every", "an interval shorter than 100 ms".into(), "write a longer one, such as \"1s\"");
            }
            if every.align && every.from == EveryFrom::End {
                let what = "`align` counts on the clock, `from = \"end\"` from a run".into();
                return wrong("align", what, "leave one of them out");
            }
            if every.align {
                let every = i64::try_from(every.period.0).unwrap_or(i64::MAX);
                sources.push((Box::new(Aligned { every }), own.clone()));
            }
        }
        if sources.is_empty() && settings.every.is_none() && settings.on_startup.is_none() {
            let help = "write one of `cron`, `calendar`, `every`, `on_startup`";
            return wrong("cron", "nothing says when it elapses".into(), help);
        }
        match (settings.overlap, settings.unit.is_template()) {
            (Overlap::Parallel, false) => {
                let what = format!("`overlap = \"parallel\"` needs a template, and `{}` is none", settings.unit);
                wrong("overlap", what, "name a template such as `reporter@.agent` as `unit`, or choose another overlap")
            }
            (Overlap::Skip | Overlap::QueueOne | Overlap::Restart, true) => {
                let what = format!("`{}` is a template, which cannot be started itself", settings.unit);
                wrong("unit", what, "name an instance, or write overlap = \"parallel\" for an instance per slot")
            }
            (Overlap::Parallel, true) | (Overlap::Skip | Overlap::QueueOne | Overlap::Restart, false) => {
                Ok(Self(sources))
            }
        }
    }

    /// The first slot after an instant.
    pub fn next(&self, after: u64) -> Option<u64> {
        let after = i64::try_from(after).ok()?;
        self.0
            .iter()
            .filter_map(|(pattern, zone)| next_instant(pattern.as_ref(), zone, after))
            .min()
            .map(|at| at as u64)
    }
}

/// How long a slot waits: a hash of machine, schedule and slot, at most `randomized_delay`.
pub(super) fn delay(machine_id: &str, schedule: &UnitId, settings: &Settings, slot: u64) -> u64 {
    if settings.randomized_delay == Millis(0) {
        return 0;
    }
    // FNV-1a, and a last mixing so that neighbouring slots are far apart. Must not change: waits outlive this program.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let slot = if settings.fixed_random_delay { 0 } else { slot };
    let parts = [machine_id.as_bytes(), &[0], schedule.to_string().as_bytes(), &[0], &slot.to_le_bytes()].concat();
    for byte in parts {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash ^ hash >> 31) % settings.randomized_delay.0.saturating_add(1)
}
