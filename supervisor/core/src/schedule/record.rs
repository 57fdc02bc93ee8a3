//! record: what is stored of a schedule.
//!
//! Job: firings, counts, and which slots are done with, in one record per schedule: one write moves all of it.
//! May touch: `ids`. May not: clocks, the store.
//! Keeps: bounded, however long a schedule lives.

use crate::ids::{Millis, RunId, UnitId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How many ended firings a record keeps; open ones are kept beside them.
pub const FIRINGS_KEPT: usize = 10;

/// How many separate stretches of done slots a record keeps. More are joined: then slots between them count as done.
const STRETCHES_KEPT: usize = 8;

/// Names a firing. Shown as `report.schedule/1774746000000`, with `/1` behind it for the first repetition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FiringId {
    /// The schedule.
    pub schedule: UnitId,
    /// The slot, in milliseconds since the epoch; for intervals and firings by hand the instant, made unique.
    pub slot: u64,
    /// 0, or which repetition of an interrupted firing this is.
    pub attempt: u32,
}

/// What became of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firing {
    /// See [`FiringId::slot`].
    pub slot: u64,
    /// See [`FiringId::attempt`].
    pub attempt: u32,
    /// What was started: the unit of the schedule, or an instance of it.
    pub unit: UnitId,
    /// Its run, once that is known.
    pub run: Option<RunId>,
    /// When it was recorded, wall clock.
    pub at: u64,
    /// When it ended.
    pub ended: Option<u64>,
    /// How many slots it makes up for; 0 for a slot on time.
    pub missed: u64,
    /// What caused it.
    pub cause: Cause,
    /// Where it stands.
    pub state: FiringState,
}

/// What caused a firing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Its slot came.
    Slot,
    /// The interval was over.
    Interval,
    /// loomd came up.
    Startup,
    /// Slots were missed.
    CatchUp,
    /// The firing of the same slot was interrupted.
    Rerun,
    /// A person asked.
    Hand,
}

/// Where a firing stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "state", content = "because")]
pub enum FiringState {
    /// Recorded; its run is on its way or goes on.
    Started,
    /// Its run ended well.
    Finished,
    /// It could not start, or its run failed.
    Failed(String),
    /// Its run was lost, or ended for the next slot.
    Interrupted(String),
}

/// A firing that waits: for its delay, for a free place, for the end of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// See [`FiringId::slot`].
    pub slot: u64,
    /// See [`FiringId::attempt`].
    pub attempt: u32,
    /// How many slots it makes up for.
    pub missed: u64,
    /// What causes it.
    pub cause: Cause,
    /// When its delay is over, wall clock.
    pub due: u64,
}

/// An interrupted firing whose schedule has yet to say what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    /// See [`FiringId::slot`].
    pub slot: u64,
    /// See [`FiringId::attempt`].
    pub attempt: u32,
    /// Something was started for it.
    pub began: bool,
}

/// A moment on both clocks, valid also in another boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The boot in which `boot` counts.
    pub boot_id: String,
    /// CLOCK_BOOTTIME.
    pub boot: Millis,
    /// Milliseconds since the epoch.
    pub wall: u64,
}

/// What is stored of a schedule. Written whole, before what depends on it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Version of this record's form; 1.
    pub version: u32,
    /// Its schedule was active when this was written.
    pub armed: bool,
    /// What it elapsed by; another rhythm has missed nothing of this one's slots.
    pub rhythm: String,
    /// Slots up to here have been looked at, wall clock. Goes back with the clock.
    pub cursor: u64,
    /// Stretches of slots that are done with, first and last, ascending: they do not fire again, whatever the clock does.
    pub done: Vec<(u64, u64)>,
    /// The newest slot that was given to an interval, a startup or a firing by hand.
    pub newest_unnamed: u64,
    /// The next elapse as it was known, wall clock; for people.
    pub next: Option<u64>,
    /// What the interval counts from.
    pub interval: Option<Moment>,
    /// A catch-up or repetition that waits for its time.
    pub waiting: Option<Waiting>,
    /// A slot that waits for the end of a run (`queue-one`).
    pub queued: Option<Waiting>,
    /// Oldest first: the open ones, and the last [`FIRINGS_KEPT`] that ended.
    pub firings: Vec<Firing>,
    /// How many firings there were.
    pub fired: u64,
    /// How many slots passed while nobody looked.
    pub missed: u64,
    /// How many slots were skipped because a run went on.
    pub skipped: u64,
    /// Why the schedule failed, if it did.
    pub failed: Option<String>,
    /// A firing that was interrupted while its schedule was not there to say what follows.
    pub owed: Option<Owed>,
}

impl Record {
    pub(super) fn new(now: u64) -> Self {
        Self {
            version: 1,
            armed: false,
            rhythm: String::new(),
            cursor: now,
            done: vec![],
            newest_unnamed: 0,
            next: None,
            interval: None,
            waiting: None,
            queued: None,
            firings: vec![],
            fired: 0,
            missed: 0,
            skipped: 0,
            failed: None,
            owed: None,
        }
    }

    /// The firings that have not ended.
    pub fn open(&self) -> impl Iterator<Item = &Firing> {
        self.firings.iter().filter(|firing| firing.state == FiringState::Started)
    }

    pub(super) fn firing_mut(&mut self, id: &FiringId) -> Option<&mut Firing> {
        self.firings.iter_mut().rev().find(|firing| firing.slot == id.slot && firing.attempt == id.attempt)
    }

    /// The last slot of the stretch that a slot is done with in.
    pub(super) fn done_until(&self, slot: u64) -> Option<u64> {
        self.done.iter().find(|(first, last)| (*first..=*last).contains(&slot)).map(|(_, last)| *last)
    }

    /// Every slot from `first` to `last` is done with.
    pub(super) fn settle(&mut self, first: u64, last: u64) {
        self.done.push((first.min(last), last));
        self.done.sort_unstable();
        let mut joined: Vec<(u64, u64)> = vec![];
        for (first, last) in self.done.drain(..) {
            match joined.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                Some(_) | None => joined.push((first, last)),
            }
        }
        while joined.len() > STRETCHES_KEPT {
            let (_, last) = joined.remove(1);
            joined[0].1 = last;
        }
        self.done = joined;
    }

    /// A slot for what no pattern names: as wanted, or the next one that no firing is named by.
    pub(super) fn unnamed_slot(&mut self, wanted: u64) -> u64 {
        let mut slot = wanted.max(self.newest_unnamed + 1);
        while self.firings.iter().any(|firing| firing.slot == slot) {
            slot += 1;
        }
        self.newest_unnamed = slot;
        slot
    }

    /// Forgets the oldest firings that ended.
    pub(super) fn trim(&mut self) {
        let ended = self.firings.len() - self.open().count();
        let mut surplus = ended.saturating_sub(FIRINGS_KEPT);
        self.firings.retain(|firing| {
            let goes = surplus > 0 && firing.state != FiringState::Started;
            surplus -= usize::from(goes);
            !goes
        });
    }
}

impl fmt::Display for FiringId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.schedule, self.slot)?;
        if self.attempt > 0 { write!(f, "/{}", self.attempt) } else { Ok(()) }
    }
}

/// Why a text names no firing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no firing: it is written like `report.schedule/1774746000000`")]
pub struct BadFiringId(String);

impl FromStr for FiringId {
    type Err = BadFiringId;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadFiringId(text.to_owned());
        let mut parts = text.split('/');
        let schedule = parts.next().and_then(|part| part.parse().ok()).ok_or_else(bad)?;
        let slot = parts.next().and_then(|part| part.parse().ok()).ok_or_else(bad)?;
        let attempt = parts.next().map_or(Ok(0), |part| part.parse().map_err(|_| bad()))?;
        if parts.next().is_some() { Err(bad()) } else { Ok(Self { schedule, slot, attempt }) }
    }
}
