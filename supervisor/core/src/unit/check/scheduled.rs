//! check/scheduled: what `[schedule]` says.
//!
//! Job: its keys → [`Settings`], with problems inside of an expression at their place. May touch: the checker above it, `schedule`.
//! Keeps: settings that leave here are ones that the timetable takes.

use super::super::Unit;
use super::super::keys;
use super::super::problem::Severity;
use super::super::raw::{Place, Raw, RawUnit, Value};
use super::super::words::nearest;
use super::{Checker, Marks, find, from_word};
use crate::ids::{Kind, Millis, UnitId};
use crate::schedule::calendar::Calendar;
use crate::schedule::cron::Cron;
use crate::schedule::zone::{self, Zones};
use crate::schedule::{Every, EveryFrom, OnInterrupted, Overlap, Settings};

impl Checker<'_> {
    pub(super) fn schedule(&mut self, raw: &RawUnit, complete: bool, unit: &mut Unit, marks: &mut Marks) {
        if self.id.kind() != Kind::Schedule {
            return;
        }
        let Some(entry) = raw.0.get("schedule") else {
            if complete {
                let message = format!("{} has no [schedule]", self.id);
                self.missing_section(message, "add [schedule] with unit = \"report.agent\" and cron = \"0 9 * * *\"");
            }
            return;
        };
        if !matches!(entry.raw.value, Value::Table(_)) {
            return;
        }
        let get = |key: &str| find(&raw.0, "schedule", key);
        let started = get("unit").and_then(|raw| Some((self.started("schedule.unit", raw)?, raw.at)));
        // Without a word the agent of the same name is meant, as with systemd's timers.
        let started = if get("unit").is_none() { own_agent(self.id).map(|id| (id, entry.key_at)) } else { started };
        let Some((id, at)) = started else { return };
        marks.dependencies.push(("schedule.unit", id.clone(), at));
        let plain = Settings::new(id);
        let mut expressions =
            |key: &str| get(key).map(|raw| self.expressions(&format!("schedule.{key}"), raw)).unwrap_or_default();
        let (cron, calendar) = (expressions("cron"), expressions("calendar"));
        let from = get("from").and_then(|raw| self.word("schedule.from", raw, "point in time", keys::EVERY_FROM));
        let align = get("align").and_then(|raw| self.flag("schedule.align", raw)).unwrap_or(false);
        let period = get("every").and_then(|raw| self.time("schedule.every", raw, 100));
        for key in ["from", "align"] {
            if let (Some(raw), None) = (get(key), get("every")) {
                let message = format!("`schedule.{key}` without `every`");
                self.warn(raw.at, message, "there is no interval", "add every = \"1h\", or remove it");
            }
        }
        if let (Some(raw), None) = (get("fixed_random_delay"), get("randomized_delay")) {
            let help = "add randomized_delay = \"30s\", or remove it";
            self.warn(raw.at, "`schedule.fixed_random_delay` without `randomized_delay`", "no delay", help);
        }
        let time = |checker: &mut Self, key: &str, default: Millis| checker.time_or(raw, "schedule", key, 0, default.0);
        let flag = |checker: &mut Self, key: &str, default: bool| {
            get(key).and_then(|raw| checker.flag(&format!("schedule.{key}"), raw)).unwrap_or(default)
        };
        let settings = Settings {
            cron,
            calendar,
            every: period.map(|period| Every {
                period,
                from: from.and_then(from_word).unwrap_or(EveryFrom::Start),
                align,
            }),
            on_startup: get("on_startup").and_then(|raw| self.time("schedule.on_startup", raw, 0)),
            timezone: get("timezone").and_then(|raw| self.timezone("schedule.timezone", raw)).unwrap_or_default(),
            accuracy: time(self, "accuracy", plain.accuracy),
            randomized_delay: time(self, "randomized_delay", plain.randomized_delay),
            fixed_random_delay: flag(self, "fixed_random_delay", plain.fixed_random_delay),
            persistent: flag(self, "persistent", plain.persistent),
            overlap: get("overlap")
                .and_then(|raw| self.word("schedule.overlap", raw, "overlap word", keys::OVERLAPS))
                .and_then(from_word)
                .unwrap_or(Overlap::Skip),
            on_interrupted: get("on_interrupted")
                .and_then(|raw| self.word("schedule.on_interrupted", raw, "on_interrupted word", keys::ON_INTERRUPTED))
                .and_then(from_word)
                .unwrap_or(OnInterrupted::Report),
            limit_burst: self.small_count_or(raw, "schedule.limit_burst", 1, 1_000_000, plain.limit_burst),
            limit_interval: self.time_or(raw, "schedule", "limit_interval", 1, plain.limit_interval.0),
            ..plain
        };
        // What stands between keys is only worth a word where each of them is right.
        if complete && !self.problems.iter().any(|problem| problem.severity == Severity::Error) {
            let zones = Zones::default();
            match settings.never_elapses(&zones, self.facts.now) {
                Ok(false) => {}
                Ok(true) => {
                    let at = get("calendar").or(get("cron")).map_or(entry.key_at, |raw| raw.at);
                    let help = "all its instants are past: name one that comes, or remove the schedule";
                    self.warn(at, format!("{} never elapses", self.id), "never again", help);
                }
                Err(wrong) => {
                    let at = get(wrong.key).map_or(entry.key_at, |raw| raw.at);
                    self.error(at, format!("[schedule]: {}", wrong.what), "does not fit", wrong.help);
                }
            }
        }
        unit.schedule = Some(settings);
    }

    /// What a schedule starts: a name whose kind may be left out, a template too.
    pub(super) fn started(&mut self, key: &str, raw: &Raw) -> Option<UnitId> {
        let text = self.text(key, raw)?;
        if let Ok(id) = text.parse::<UnitId>() {
            if id.kind() == Kind::Schedule {
                let help = "name an agent, a service or a target";
                self.error(raw.at, format!("`{key}` names a schedule: `{text}`"), "a schedule", help);
                return None;
            }
            return Some(id);
        }
        // As on the command line: the agent of this name, else whatever else has it.
        let of = |kind: Kind| format!("{text}.{kind}").parse::<UnitId>().ok();
        let is_there = |id: &UnitId| {
            self.known.contains(id) || id.template().is_some_and(|template| self.known.contains(&template))
        };
        let mut found = [Kind::Agent, Kind::Service, Kind::Target].into_iter().filter_map(of);
        let agent = of(Kind::Agent).filter(|_| !text.contains('.'));
        match found.find(is_there).or(agent) {
            Some(id) => Some(id),
            None => self.unit(key, &text, raw.at),
        }
    }

    /// One expression, or a list of them.
    pub(super) fn expressions(&mut self, key: &str, raw: &Raw) -> Vec<String> {
        let found: Vec<(String, Place)> = match &raw.value {
            Value::Text(_) => self.text(key, raw).into_iter().map(|text| (text, raw.at)).collect(),
            Value::Integer(..)
            | Value::Float(..)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_)
            | Value::Table(_) => self.texts(key, raw),
        };
        let mut out = Vec::new();
        for (text, at) in found {
            let wrong = match key.ends_with("cron") {
                true => Cron::parse(&text).err(),
                false => Calendar::parse(&text).err(),
            };
            match wrong {
                None => out.push(text),
                Some(problem) => {
                    let place = self.inside(at, &text, problem.at);
                    self.error(place, format!("`{key}`: {}", problem.what), problem.label, problem.help);
                }
            }
        }
        out
    }

    pub(super) fn timezone(&mut self, key: &str, raw: &Raw) -> Option<String> {
        let text = self.text(key, raw)?;
        if zone::known(&text) {
            return Some(text);
        }
        let help = match zone::meant(&text).or_else(|| nearest(&text, ["UTC", "local"]).map(str::to_owned)) {
            Some(meant) if meant == "local" => "leave it out: the machine's zone is the default".to_owned(),
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "write an IANA name such as \"Europe/Berlin\", or leave it out for the machine's".to_owned(),
        };
        self.error(raw.at, format!("`{key}`: `{text}` is no known time zone"), "not a time zone", help);
        None
    }
}

/// `report.schedule` starts `report.agent`.
fn own_agent(schedule: &UnitId) -> Option<UnitId> {
    let whole = schedule.to_string();
    format!("{}.agent", whole.strip_suffix(".schedule")?).parse().ok()
}
