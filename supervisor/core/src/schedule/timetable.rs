//! timetable: all schedules together.
//!
//! Job: from the time and news of runs, say which units to start, and what is stored before. May touch: `plan`, `record`.
//! May not: clocks, the store, processes. Keeps: [`Effect::Record`] stands before the start that it names; a slot fires once.
//!
//! # A slot
//! - It is due when its delay is over. It then fires if it is not later than [`LATE_MAX`] and its `accuracy`; later slots were
//!   missed: while loomd was down, while the machine slept, or because the clock was set forward.
//! - Missed slots are counted, by looking at each up to [`COUNTED_MAX`], beyond that by their rate. With `persistent` one run
//!   makes up for all of them, after a delay of its own, with at most [`CATCH_UPS_MAX`] in flight over all schedules. A slot
//!   that comes before the catch-up began takes it over.
//! - A clock that is set back makes slots come again. Those that are done with are passed over.
//! - Two patterns of one schedule that name one instant make one slot.
//! - What a person stopped has missed nothing, nor has a schedule whose rhythm was changed.
//!
//! # A firing
//!
//! | at the start of loomd, an open firing | becomes |
//! |---|---|
//! | its run was adopted | stays open |
//! | its run has ended, and how is known | finished or failed |
//! | its run is lost | interrupted; with `on_interrupted = "rerun"` one new firing follows |
//! | nothing was started for it | interrupted, and one new firing follows, at most [`ATTEMPTS_MAX`] in a row |
//!
//! # An interval
//! Counts on the clock that counts suspend, from the moment the schedule became active, then from the start or the end of each
//! run. In another boot the wall clock says how much is left, but never more than a whole period.

use super::plan::{Plan, delay};
use super::record::{Cause, Moment, Owed, Waiting};
use super::zone::Zones;
use super::{EveryFrom, Firing, FiringId, FiringState, OnInterrupted, Overlap, Record, Settings};
use crate::ids::{Millis, RunId, UnitId};
use std::collections::{BTreeMap, VecDeque};

/// A slot that is later than this was missed.
pub const LATE_MAX: Millis = Millis(60_000);
/// Missed slots are looked at one by one up to this many.
pub const COUNTED_MAX: u64 = 10_000;
/// Catch-ups and repetitions in flight over all schedules.
pub const CATCH_UPS_MAX: usize = 4;
/// After this long a catch-up that still runs gives its place to the next.
pub const CATCH_UP_HOLDS: Millis = Millis(600_000);
/// Open firings of one schedule with `overlap = "parallel"`; more slots are skipped.
pub const PARALLEL_MAX: usize = 16;
/// New firings for a slot that is interrupted again and again.
pub const ATTEMPTS_MAX: u32 = 3;

/// The clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the epoch, CLOCK_REALTIME.
    pub wall: u64,
    /// CLOCK_BOOTTIME, which counts suspend.
    pub boot: Millis,
}

/// What a new loomd found of an open firing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Its run lives and was adopted.
    Alive(RunId),
    /// Its run ended, and how is known.
    Ended { run: RunId, ok: bool },
    /// It had a run, which is gone; nobody saw its end.
    Gone,
    /// Nothing was ever started for it.
    NeverBegan,
}

/// News. Closed: whoever adds one decides what it means everywhere.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A schedule became active: by a person, at boot, or once more after it failed.
    Armed { schedule: UnitId, settings: Box<Settings> },
    /// A schedule was stopped. Not sent when loomd itself goes.
    Disarmed { schedule: UnitId },
    /// All files were read anew: every schedule there is, active or not, and the zones. What is not among them is forgotten
    /// once its runs have ended.
    Reloaded { schedules: BTreeMap<UnitId, Settings>, zones: Box<Zones> },
    /// The time given by [`Timetable::next_wake`] has come.
    Tick,
    /// The wall clock was set: the timer was cancelled.
    ClockJumped,
    /// The unit of a firing has this run. Also if it had it before the firing.
    RunBegan { firing: FiringId, unit: UnitId, run: RunId },
    /// A run ended, whoever started it.
    RunEnded { unit: UnitId, run: RunId, ok: bool, because: String },
    /// A firing was handed to a unit that was up already: nothing more comes of it.
    Delivered { firing: FiringId },
    /// A firing's unit did not start.
    Refused { firing: FiringId, because: String },
    /// A person fires a schedule by hand.
    Fire { schedule: UnitId, by: String },
}

/// What a firing's unit is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// What caused it.
    pub cause: Cause,
    /// The slot; of a catch-up the last one that was missed.
    pub slot: u64,
    /// How much later than its slot it starts, in milliseconds; its delay included.
    pub late_ms: u64,
    /// How many slots it makes up for; 0 for a slot on time.
    pub missed: u64,
    /// The slot after it.
    pub next: Option<u64>,
}

/// What is said, as one line of log and one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A unit is started.
    Fired,
    /// A slot waits for the end of a run.
    Queued,
    /// A slot is not run.
    Skipped,
    /// Slots passed while nobody looked.
    Missed,
    /// A firing's run ended well.
    Finished,
    /// A firing's run failed, or did not start.
    Failed,
    /// A firing's run was lost or cut short.
    Interrupted,
    /// Too many firings in too short a time.
    LimitHit,
    /// A request cannot be carried out.
    Refused,
}

/// Work for the shell, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Store, synced, before anything that follows.
    Record { schedule: UnitId, record: Box<Record> },
    /// Delete the record: its schedule is gone.
    Forget { schedule: UnitId },
    /// Start a unit. Answer: `RunBegan`, `Delivered` or `Refused`; after `RunBegan`, `RunEnded`.
    Start { firing: FiringId, unit: UnitId, payload: Payload },
    /// Restart a unit, or start it if it is down. Answer as for `Start`.
    Restart { firing: FiringId, unit: UnitId, payload: Payload },
    /// Say it.
    Said { schedule: UnitId, slot: Option<u64>, what: What, text: String },
    /// The schedule failed and is not active any more; its unit is left alone.
    Failed { schedule: UnitId, because: String },
}

/// Where a schedule stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// It waits for its next slot.
    Waiting,
    /// A run that it caused goes on.
    Running,
    /// A catch-up waits for its delay or for a free place.
    CatchUp,
    /// Nothing more will elapse.
    Elapsed,
    /// It is not active.
    Inactive,
    /// It failed.
    Failed,
}

/// A schedule as `list-timers` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub schedule: UnitId,
    pub unit: Option<UnitId>,
    /// What it elapses by, in words.
    pub rhythm: String,
    pub stand: Stand,
    /// When it starts its unit next, wall clock, its delay included.
    pub next: Option<u64>,
    /// Its newest firing.
    pub last: Option<Firing>,
    /// Open firings.
    pub open: usize,
    pub fired: u64,
    pub missed: u64,
    pub skipped: u64,
    /// Why it failed.
    pub failed: Option<String>,
}

/// What an active schedule has beside its record.
#[derive(Debug)]
struct Active {
    settings: Settings,
    plan: Plan,
    /// The first slot of the patterns after the cursor that is not done with.
    next_slot: Option<u64>,
    /// The interval that runs.
    interval: Option<Interval>,
    /// When the firing after startup is due, until it is over.
    startup: Option<Millis>,
    /// When what waits may go.
    waiting_at: Millis,
    /// When the last slot fired, wall clock: a later one is not late before that.
    not_before: u64,
    /// Automatic firings within the limit's interval.
    recent: VecDeque<Millis>,
}

#[derive(Debug, Clone, Copy)]
struct Interval {
    /// When it is over.
    at: Millis,
    /// By how much it was over already when this boot began.
    overdue: Millis,
    /// Its delay, which is in `at`.
    wait: Millis,
    /// Its slot as it was when the interval began; the wall clock may have been set since.
    slot: u64,
}

#[derive(Debug)]
struct Entry {
    record: Record,
    active: Option<Active>,
    /// It was active in this life of loomd.
    was_seen: bool,
    /// The firing after startup is over.
    started_up: bool,
    /// Its file is gone.
    is_gone: bool,
    /// The record differs from the stored one.
    is_dirty: bool,
}

/// All schedules.
#[derive(Debug)]
pub struct Timetable {
    machine_id: String,
    boot_id: String,
    zones: Zones,
    now: Now,
    /// When loomd was ready.
    born: Millis,
    entries: BTreeMap<UnitId, Entry>,
    /// Catch-ups whose run goes on, since when.
    in_flight: BTreeMap<FiringId, Millis>,
    out: Vec<Effect>,
}

impl Timetable {
    /// Takes over what is stored. `found` says what became of each open firing. Schedules fire once they are
    /// [`Event::Armed`]. `machine_id` is `/etc/machine-id`, `boot_id` the kernel's.
    pub fn new(
        machine_id: &str,
        boot_id: &str,
        zones: Zones,
        now: Now,
        stored: BTreeMap<UnitId, Record>,
        found: impl Fn(&FiringId, &Firing) -> Found,
    ) -> (Self, Vec<Effect>) {
        let mut table = Self {
            machine_id: machine_id.to_owned(),
            boot_id: boot_id.to_owned(),
            zones,
            now,
            born: now.boot,
            entries: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            out: vec![],
        };
        for (schedule, record) in stored {
            let open: Vec<Firing> = record.open().cloned().collect();
            table.entries.insert(schedule.clone(), Entry::new(record));
            for firing in open {
                let id = FiringId { schedule: schedule.clone(), slot: firing.slot, attempt: firing.attempt };
                let found = found(&id, &firing);
                table.take_over(id, &firing, found);
            }
            table.flush(&schedule);
        }
        let effects = std::mem::take(&mut table.out);
        (table, effects)
    }

    /// Takes news and says what to do.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Effect> {
        self.now = now;
        match event {
            Event::Armed { schedule, settings } => self.arm(schedule, *settings),
            Event::Disarmed { schedule } => self.disarm(&schedule),
            Event::Reloaded { schedules, zones } => self.reload(schedules, *zones),
            Event::Tick | Event::ClockJumped => {}
            Event::RunBegan { firing, unit, run } => self.began(&firing, unit, run),
            Event::RunEnded { unit, run, ok, because } => self.ended(&unit, run, ok, &because),
            Event::Delivered { firing } => self.close(&firing, FiringState::Finished, None),
            Event::Refused { firing, because } => self.close(&firing, FiringState::Failed(because), None),
            Event::Fire { schedule, by } => self.fire_by_hand(&schedule, &by),
        }
        self.run_due();
        let dirty: Vec<UnitId> = self.entries.iter().filter(|(_, e)| e.is_dirty).map(|(id, _)| id.clone()).collect();
        for schedule in dirty {
            self.flush(&schedule);
        }
        std::mem::take(&mut self.out)
    }

    /// When to send [`Event::Tick`], in milliseconds of the wall clock: an absolute timer on CLOCK_REALTIME that is cancelled
    /// when the clock is set. Never before the time of the last event.
    pub fn next_wake(&self) -> Option<u64> {
        let free_place = self.in_flight.len() < CATCH_UPS_MAX;
        let place_at = self.in_flight.values().min().map(|since| *since + CATCH_UP_HOLDS);
        let mut wake: Option<u64> = None;
        for (schedule, entry) in &self.entries {
            let Some(active) = &entry.active else { continue };
            let accuracy = active.settings.accuracy.0;
            let mut consider = |at: u64| wake = Some(wake.map_or(at, |wake| wake.min(at)));
            if let Some(slot) = active.next_slot {
                consider(self.due(schedule, active, slot).saturating_add(accuracy));
            }
            if let Some(interval) = active.interval {
                consider(self.wall_of(interval.at).saturating_add(accuracy));
            }
            if let Some(at) = active.startup {
                consider(self.wall_of(at).saturating_add(accuracy));
            }
            if entry.record.waiting.is_some() {
                let place = place_at.filter(|_| !free_place).unwrap_or_default();
                consider(self.wall_of(active.waiting_at.max(place)));
            }
        }
        wake.map(|wake| wake.max(self.now.wall))
    }

    /// All schedules that are active, or have a record, by name.
    pub fn listed(&self) -> Vec<Listed> {
        self.entries.iter().map(|(schedule, entry)| self.shown(schedule, entry)).collect()
    }

    /// The firings of a schedule, oldest first: the open ones and the last that ended.
    pub fn firings(&self, schedule: &UnitId) -> &[Firing] {
        self.entries.get(schedule).map_or(&[], |entry| &entry.record.firings)
    }

    fn shown(&self, schedule: &UnitId, entry: &Entry) -> Listed {
        let record = &entry.record;
        let next = self.next_start(schedule, entry);
        let open = record.open().count();
        let stand = match (&record.failed, &entry.active) {
            (Some(_), _) => Stand::Failed,
            (None, None) => Stand::Inactive,
            (None, Some(_)) if open > 0 => Stand::Running,
            (None, Some(_)) if record.waiting.is_some() => Stand::CatchUp,
            // An interval that counts from the end of a run has no next while it goes on; it was said above.
            (None, Some(_)) if next.is_none() => Stand::Elapsed,
            (None, Some(_)) => Stand::Waiting,
        };
        Listed {
            schedule: schedule.clone(),
            unit: entry.active.as_ref().map(|active| active.settings.unit.clone()),
            rhythm: record.rhythm.clone(),
            stand,
            next,
            last: record.firings.last().cloned(),
            open,
            fired: record.fired,
            missed: record.missed,
            skipped: record.skipped,
            failed: record.failed.clone(),
        }
    }

    /// When an entry starts its unit next.
    fn next_start(&self, schedule: &UnitId, entry: &Entry) -> Option<u64> {
        let active = entry.active.as_ref()?;
        let slot = active.next_slot.map(|slot| self.due(schedule, active, slot));
        let interval = active.interval.map(|interval| self.wall_of(interval.at));
        let startup = active.startup.map(|at| self.wall_of(at));
        let waiting = entry.record.waiting.as_ref().map(|_| self.wall_of(active.waiting_at));
        [slot, interval, startup, waiting].into_iter().flatten().min()
    }

    fn due(&self, schedule: &UnitId, active: &Active, slot: u64) -> u64 {
        slot.saturating_add(delay(&self.machine_id, schedule, &active.settings, slot))
    }

    fn wall_of(&self, boot: Millis) -> u64 {
        (self.now.wall + boot.0).saturating_sub(self.now.boot.0)
    }

    fn moment(&self) -> Moment {
        Moment { boot_id: self.boot_id.clone(), boot: self.now.boot, wall: self.now.wall }
    }

    fn entry(&mut self, schedule: &UnitId) -> &mut Entry {
        self.entries.get_mut(schedule).expect("the caller has just seen it")
    }

    /// Emits the record, if it changed.
    fn flush(&mut self, schedule: &UnitId) {
        let Some(entry) = self.entries.get(schedule).filter(|entry| entry.is_dirty) else { return };
        let next = self.next_start(schedule, entry);
        let entry = self.entry(schedule);
        entry.is_dirty = false;
        entry.record.next = next;
        entry.record.trim();
        let record = Box::new(entry.record.clone());
        self.out.push(Effect::Record { schedule: schedule.clone(), record });
    }

    /// What is said is stored before.
    fn say(&mut self, schedule: &UnitId, slot: Option<u64>, what: What, text: String) {
        self.flush(schedule);
        self.out.push(Effect::Said { schedule: schedule.clone(), slot, what, text });
    }

    fn take_over(&mut self, id: FiringId, firing: &Firing, found: Found) {
        let entry = self.entry(&id.schedule);
        match found {
            Found::Alive(run) => {
                if firing.run != Some(run) {
                    entry.is_dirty = true;
                    if let Some(firing) = entry.record.firing_mut(&id) {
                        firing.run = Some(run);
                    }
                }
                if matches!(firing.cause, Cause::CatchUp | Cause::Rerun) {
                    self.in_flight.insert(id, self.now.boot);
                }
            }
            Found::Ended { run, ok } => {
                let state = if ok {
                    FiringState::Finished
                } else {
                    FiringState::Failed("its run failed while loomd was down".into())
                };
                self.close(&id, state, Some(run));
            }
            Found::Gone => {
                entry.record.owed = Some(Owed { slot: id.slot, attempt: id.attempt, began: true });
                self.close(&id, FiringState::Interrupted("its run was lost".into()), None);
            }
            Found::NeverBegan => {
                entry.record.owed = Some(Owed { slot: id.slot, attempt: id.attempt, began: false });
                self.close(&id, FiringState::Interrupted("loomd died before it was started".into()), None);
            }
        }
    }

    fn arm(&mut self, schedule: UnitId, settings: Settings) {
        let now = self.now;
        let plan = match Plan::of(&settings, &self.zones) {
            Ok(plan) => plan,
            Err(wrong) => {
                let because = format!("`{}` in `{schedule}`: {wrong}", wrong.key);
                self.out.push(Effect::Failed { schedule, because });
                return;
            }
        };
        let entry = self.entries.entry(schedule.clone()).or_insert_with(|| Entry::new(Record::new(now.wall)));
        if entry.active.is_some() {
            self.change(&schedule, settings, plan);
            return;
        }
        entry.is_gone = false;
        entry.is_dirty = true;
        let rhythm = settings.rhythm();
        let goes_on = entry.record.armed && entry.record.rhythm == rhythm && entry.record.failed.is_none();
        let record = &mut entry.record;
        if !goes_on || entry.was_seen {
            (record.cursor, record.interval, record.waiting, record.queued) = (now.wall, None, None, None);
        }
        (record.armed, record.rhythm, record.failed) = (true, rhythm, None);
        entry.was_seen = true;
        if let Some(Owed { slot, attempt, began }) = record.owed.take()
            && record.waiting.is_none()
            && attempt < ATTEMPTS_MAX
            && (!began || settings.on_interrupted == OnInterrupted::Rerun)
        {
            let cause = Cause::Rerun;
            record.waiting = Some(Waiting { slot, attempt: attempt + 1, missed: 0, cause, due: now.wall });
        }
        let waits = record.waiting.as_ref().map_or(0, |waiting| waiting.due.saturating_sub(now.wall));
        let waiting_at = now.boot + Millis(waits.min(settings.randomized_delay.0));
        entry.active = Some(Active {
            settings,
            plan,
            next_slot: None,
            interval: None,
            startup: None,
            waiting_at,
            not_before: 0,
            recent: VecDeque::new(),
        });
        self.look_ahead(&schedule);
        self.count_interval(&schedule);
        self.count_startup(&schedule);
        let record = &mut self.entry(&schedule).record;
        if record.open().next().is_none()
            && let Some(queued) = record.queued.take()
        {
            self.fire(&schedule, queued, None);
        }
    }

    fn disarm(&mut self, schedule: &UnitId) {
        let Some(entry) = self.entries.get_mut(schedule) else { return };
        entry.active = None;
        entry.is_dirty = true;
        let record = &mut entry.record;
        (record.armed, record.waiting, record.queued, record.failed) = (false, None, None, None);
    }

    fn reload(&mut self, mut schedules: BTreeMap<UnitId, Settings>, zones: Zones) {
        // What is due by the old files is done by the old files.
        self.run_due();
        let zones_changed = self.zones != zones;
        self.zones = zones;
        let known: Vec<UnitId> = self.entries.keys().cloned().collect();
        for schedule in known {
            let settings = schedules.remove(&schedule);
            let entry = self.entry(&schedule);
            entry.is_gone = settings.is_none();
            let (Some(active), Some(settings)) = (&entry.active, settings) else { continue };
            if active.settings == settings && !zones_changed {
                continue;
            }
            match Plan::of(&settings, &self.zones) {
                Ok(plan) => self.change(&schedule, settings, plan),
                Err(wrong) => {
                    let text = format!("its new settings do not count: {wrong}");
                    self.say(&schedule, None, What::Refused, text);
                }
            }
        }
    }

    /// New settings for an active schedule.
    fn change(&mut self, schedule: &UnitId, settings: Settings, plan: Plan) {
        let now = self.now;
        let entry = self.entry(schedule);
        let rhythm = settings.rhythm();
        entry.is_dirty = true;
        if rhythm != entry.record.rhythm {
            entry.record.rhythm = rhythm;
            (entry.record.cursor, entry.record.interval) = (now.wall, None);
        }
        let active = entry.active.as_mut().expect("the caller has seen that it is active");
        (active.settings, active.plan) = (settings, plan);
        let before = active.next_slot;
        self.look_ahead(schedule);
        // Slots by changed rules of a zone are not missed.
        let entry = self.entry(schedule);
        let next = entry.active.as_ref().and_then(|active| active.next_slot);
        if next != before && next.is_some_and(|slot| slot <= now.wall) {
            entry.record.cursor = now.wall;
            self.look_ahead(schedule);
        }
        self.count_interval(schedule);
        self.count_startup(schedule);
    }

    /// Finds the next slot of the patterns.
    fn look_ahead(&mut self, schedule: &UnitId) {
        let now = self.now;
        let entry = self.entry(schedule);
        let Some(active) = &mut entry.active else { return };
        // The clock was set back: look again from there.
        entry.record.cursor = entry.record.cursor.min(now.wall);
        active.not_before = active.not_before.min(now.wall);
        active.next_slot = active.next_slot_after(entry.record.cursor, &entry.record);
    }

    /// Finds when the interval is over.
    fn count_interval(&mut self, schedule: &UnitId) {
        let (now, moment) = (self.now, self.moment());
        let machine_id = self.machine_id.clone();
        let entry = self.entry(schedule);
        let Some(active) = &mut entry.active else { return };
        active.interval = None;
        let Some(every) = active.settings.every.filter(|every| !every.align) else { return };
        if every.from == EveryFrom::End && entry.record.open().next().is_some() {
            return;
        }
        let base = entry.record.interval.get_or_insert_with(|| {
            entry.is_dirty = true;
            moment.clone()
        });
        let slot = base.wall.saturating_add(every.period.0);
        let is_this_boot = base.boot_id == moment.boot_id;
        let (at, overdue) = if is_this_boot {
            (base.boot + every.period, Millis(0))
        } else {
            let left = Millis(slot.saturating_sub(now.wall)).min(every.period);
            (now.boot + left, Millis(now.wall.saturating_sub(slot)))
        };
        let wait = Millis(delay(&machine_id, schedule, &active.settings, slot));
        let (at, overdue) = (at + wait.max(overdue) - overdue, overdue - wait);
        active.interval = Some(Interval { at, overdue, wait, slot });
    }

    /// Finds when the firing after startup is due.
    fn count_startup(&mut self, schedule: &UnitId) {
        let (born, machine_id) = (self.born, self.machine_id.clone());
        let entry = self.entry(schedule);
        let Some(active) = &mut entry.active else { return };
        let wanted = active.settings.on_startup.filter(|_| !entry.started_up);
        active.startup =
            wanted.map(|wait| born + wait + Millis(delay(&machine_id, schedule, &active.settings, born.0)));
    }

    /// Fires what is due.
    fn run_due(&mut self) {
        let now = self.now;
        self.in_flight.retain(|_, since| *since + CATCH_UP_HOLDS > now.boot);
        let mut due = vec![];
        for (schedule, entry) in &self.entries {
            let Some(active) = &entry.active else { continue };
            let slot_is_due = active.next_slot.is_some_and(|slot| self.due(schedule, active, slot) <= now.wall);
            if slot_is_due
                || entry.record.cursor > now.wall
                || active.interval.is_some_and(|interval| interval.at <= now.boot)
                || active.startup.is_some_and(|at| at <= now.boot)
            {
                due.push(schedule.clone());
            }
        }
        for schedule in due {
            if self.entry(&schedule).record.cursor > now.wall {
                self.look_ahead(&schedule);
            }
            self.run_slots(&schedule);
            self.run_startup(&schedule);
            self.run_interval(&schedule);
        }
        self.run_waiting();
        let gone: Vec<UnitId> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_gone && entry.active.is_none() && entry.record.open().next().is_none())
            .map(|(schedule, _)| schedule.clone())
            .collect();
        for schedule in gone {
            self.entries.remove(&schedule);
            self.out.push(Effect::Forget { schedule });
        }
    }

    fn run_slots(&mut self, schedule: &UnitId) {
        loop {
            let now = self.now;
            let Some(entry) = self.entries.get(schedule) else { return };
            let Some(active) = &entry.active else { return };
            let Some(slot) = active.next_slot else { return };
            let due = self.due(schedule, active, slot);
            if due > now.wall {
                return;
            }
            let late = now.wall - due.max(active.not_before);
            if late > LATE_MAX.0.saturating_add(active.settings.accuracy.0) {
                self.miss(schedule, slot);
                continue;
            }
            let entry = self.entry(schedule);
            entry.is_dirty = true;
            entry.record.settle(entry.record.cursor.saturating_add(1), slot);
            entry.record.cursor = slot;
            if let Some(active) = &mut entry.active {
                active.not_before = now.wall;
            }
            self.look_ahead(schedule);
            self.fire(schedule, Waiting { slot, attempt: 0, missed: 0, cause: Cause::Slot, due }, None);
        }
    }

    /// Counts the slots from `first` on that are past, and has one run make up for them if that is wanted.
    fn miss(&mut self, schedule: &UnitId, first: u64) {
        let now = self.now;
        let entry = &self.entries[schedule];
        let Some(active) = &entry.active else { return };
        let (mut count, mut last) = (1_u64, first);
        let mut is_estimate = false;
        let is_past = |slot: &u64| self.due(schedule, active, *slot) <= now.wall;
        while let Some(slot) = active.next_slot_after(last, &entry.record).filter(is_past) {
            (count, last) = (count + 1, slot);
            if count == COUNTED_MAX {
                (count, last) = self.estimate(active, first, last);
                is_estimate = true;
                break;
            }
        }
        let persistent = active.settings.persistent;
        let wait = delay(&self.machine_id, schedule, &active.settings, last);
        let entry = self.entry(schedule);
        entry.is_dirty = true;
        entry.record.missed += count;
        entry.record.cursor = last;
        if persistent {
            // It counts as done from now on, not only once its run began.
            entry.record.settle(last, last);
            let before = entry.record.waiting.take().map_or(0, |waiting| waiting.missed);
            let due = now.wall + wait;
            let cause = Cause::CatchUp;
            entry.record.waiting = Some(Waiting { slot: last, attempt: 0, missed: before + count, cause, due });
            if let Some(active) = &mut entry.active {
                active.waiting_at = now.boot + Millis(wait);
            }
        }
        self.look_ahead(schedule);
        let about = if is_estimate { "about " } else { "" };
        let then = if persistent { "; one run makes up for it" } else { "; `persistent` is off" };
        let slots = if count == 1 { "slot was" } else { "slots were" };
        self.say(schedule, Some(last), What::Missed, format!("{about}{count} {slots} missed{then}"));
    }

    /// How many slots there were at the rate seen so far, and the last of them.
    fn estimate(&self, active: &Active, first: u64, seen: u64) -> (u64, u64) {
        let step = ((seen - first) / (COUNTED_MAX - 1)).max(1);
        let count = COUNTED_MAX + (self.now.wall - seen) / step;
        let mut back = step;
        let mut last = loop {
            match active.plan.next(self.now.wall.saturating_sub(back).max(seen)) {
                Some(slot) if slot <= self.now.wall => break slot,
                Some(_) | None if self.now.wall.saturating_sub(back) <= seen => break seen,
                Some(_) | None => back = back.saturating_mul(2),
            }
        };
        while let Some(slot) = active.plan.next(last).filter(|slot| *slot <= self.now.wall) {
            last = slot;
        }
        (count, last)
    }

    fn run_startup(&mut self, schedule: &UnitId) {
        let now = self.now;
        let Some(entry) = self.entries.get_mut(schedule) else { return };
        let Some(active) = &mut entry.active else { return };
        if active.startup.take_if(|at| *at <= now.boot).is_none() {
            return;
        }
        entry.started_up = true;
        let slot = entry.record.unnamed_slot(now.wall);
        self.fire(schedule, Waiting { slot, attempt: 0, missed: 0, cause: Cause::Startup, due: now.wall }, None);
    }

    fn run_interval(&mut self, schedule: &UnitId) {
        let (now, moment) = (self.now, self.moment());
        let Some(entry) = self.entries.get_mut(schedule) else { return };
        let Some(active) = &mut entry.active else { return };
        let Some(Interval { at, overdue, wait, slot: _ }) = active.interval.filter(|interval| interval.at <= now.boot)
        else {
            return;
        };
        let Some(every) = active.settings.every else { return };
        let late = now.boot - at + overdue;
        let slot = now.wall.saturating_sub((late + wait).0);
        let settings = active.settings.clone();
        entry.record.interval = Some(moment);
        entry.is_dirty = true;
        self.count_interval(schedule);
        let entry = self.entry(schedule);
        if late <= LATE_MAX + settings.accuracy {
            let slot = entry.record.unnamed_slot(slot);
            self.fire(schedule, Waiting { slot, attempt: 0, missed: 0, cause: Cause::Interval, due: now.wall }, None);
            return;
        }
        let count = 1 + late.0 / every.period.0;
        entry.record.missed += count;
        let mut then = "; `persistent` is off";
        if settings.persistent {
            let slot = entry.record.unnamed_slot(slot + late.0 / every.period.0 * every.period.0);
            let wait = delay(&self.machine_id, schedule, &settings, slot);
            let entry = self.entry(schedule);
            let before = entry.record.waiting.take().map_or(0, |waiting| waiting.missed);
            let due = now.wall + wait;
            let cause = Cause::CatchUp;
            entry.record.waiting = Some(Waiting { slot, attempt: 0, missed: before + count, cause, due });
            if let Some(active) = &mut entry.active {
                active.waiting_at = now.boot + Millis(wait);
            }
            then = "; one run makes up for it";
        }
        let intervals = if count == 1 { "interval was" } else { "intervals were" };
        self.say(schedule, Some(slot), What::Missed, format!("{count} {intervals} missed{then}"));
    }

    /// Catch-ups and repetitions whose time has come, the longest waiting first.
    fn run_waiting(&mut self) {
        let now = self.now;
        let mut due: Vec<(Millis, UnitId)> = vec![];
        for (schedule, entry) in &self.entries {
            if let Some(active) = &entry.active
                && entry.record.waiting.is_some()
                && active.waiting_at <= now.boot
            {
                due.push((active.waiting_at, schedule.clone()));
            }
        }
        due.sort();
        for (_, schedule) in due {
            if self.in_flight.len() >= CATCH_UPS_MAX {
                return;
            }
            let entry = self.entry(&schedule);
            entry.is_dirty = true;
            if let Some(waiting) = entry.record.waiting.take() {
                self.fire(&schedule, waiting, None);
            }
        }
    }

    fn fire_by_hand(&mut self, schedule: &UnitId, by: &str) {
        let now = self.now;
        match self.entries.get_mut(schedule).filter(|entry| entry.active.is_some()) {
            Some(entry) => {
                let slot = entry.record.unnamed_slot(now.wall);
                self.fire(
                    schedule,
                    Waiting { slot, attempt: 0, missed: 0, cause: Cause::Hand, due: now.wall },
                    Some(by),
                );
            }
            None => {
                let text = format!("`{schedule}` is not active; start it, then fire it again");
                self.out.push(Effect::Said { schedule: schedule.clone(), slot: None, what: What::Refused, text });
            }
        }
    }

    /// One firing, or what the overlap makes of it.
    fn fire(&mut self, schedule: &UnitId, mut waiting: Waiting, by: Option<&str>) {
        let now = self.now;
        let entry = self.entry(schedule);
        let Some(active) = &mut entry.active else { return };
        let settings = active.settings.clone();
        let slot = waiting.slot;
        entry.is_dirty = true;
        let is_known = entry.record.firings.iter().any(|f| f.slot == slot && f.attempt == waiting.attempt);
        if is_known {
            // Two sources named the same instant.
            return;
        }
        let open: Vec<FiringId> = entry.record.open().map(|firing| firing.id(schedule)).collect();
        let full = match settings.overlap {
            Overlap::Skip | Overlap::QueueOne => !open.is_empty(),
            Overlap::Restart => false,
            Overlap::Parallel => open.len() >= PARALLEL_MAX,
        };
        if full {
            let can_queue = settings.overlap == Overlap::QueueOne && entry.record.queued.is_none();
            if can_queue {
                entry.record.queued = Some(waiting);
                self.say(schedule, Some(slot), What::Queued, "its unit still runs; one start waits for its end".into());
                return;
            }
            entry.record.skipped += 1;
            let text = match settings.overlap {
                Overlap::Parallel => format!("{PARALLEL_MAX} of its runs go on already"),
                Overlap::QueueOne => "its unit still runs, and one start waits already".into(),
                Overlap::Skip | Overlap::Restart => "its unit still runs".to_owned(),
            };
            self.say(schedule, Some(slot), What::Skipped, text);
            return;
        }
        if waiting.cause != Cause::Hand {
            while active.recent.front().is_some_and(|at| *at + settings.limit_interval <= now.boot) {
                active.recent.pop_front();
            }
            if settings.limit_burst > 0 && active.recent.len() >= settings.limit_burst as usize {
                self.fail(schedule, slot, &settings);
                return;
            }
            active.recent.push_back(now.boot);
        }
        // A run on time makes up for what a catch-up would have.
        if let Some(catch_up) = entry.record.waiting.take_if(|other| other.cause == Cause::CatchUp) {
            waiting.missed += catch_up.missed;
        }
        let Waiting { slot, attempt, missed, cause, due: _ } = waiting;
        let id = FiringId { schedule: schedule.clone(), slot, attempt };
        let unit = match settings.overlap {
            Overlap::Parallel => instance(&settings.unit, slot, attempt),
            Overlap::Skip | Overlap::QueueOne | Overlap::Restart => settings.unit.clone(),
        };
        for other in &open {
            if settings.overlap == Overlap::Restart {
                self.end(other, FiringState::Interrupted("restarted for the next slot".into()), None);
            }
        }
        let moment = self.moment();
        let entry = self.entry(schedule);
        let state = FiringState::Started;
        let firing =
            Firing { slot, attempt, unit: unit.clone(), run: None, at: now.wall, ended: None, missed, cause, state };
        entry.record.firings.push(firing);
        entry.record.fired += 1;
        entry.is_dirty = true;
        if settings.every.is_some_and(|every| !every.align) {
            entry.record.interval = Some(moment);
        }
        self.count_interval(schedule);
        let active = self.entry(schedule).active.as_ref();
        let next =
            active.and_then(|active| [active.next_slot, active.interval.map(|i| i.slot)].into_iter().flatten().min());
        if matches!(cause, Cause::CatchUp | Cause::Rerun) {
            self.in_flight.insert(id.clone(), now.boot);
        }
        let payload = Payload { cause, slot, late_ms: now.wall.saturating_sub(slot), missed, next };
        let text = fired_text(&payload, by);
        self.say(schedule, Some(slot), What::Fired, text);
        self.out.push(match settings.overlap {
            // Also if no firing is open: loomd may have died between the record and the restart.
            Overlap::Restart => Effect::Restart { firing: id, unit, payload },
            Overlap::Skip | Overlap::QueueOne | Overlap::Parallel => Effect::Start { firing: id, unit, payload },
        });
    }

    fn fail(&mut self, schedule: &UnitId, slot: u64, settings: &Settings) {
        let text = format!(
            "it fired {} times within {} ms, its limit; start it again once its cause is gone",
            settings.limit_burst, settings.limit_interval.0
        );
        let entry = self.entry(schedule);
        entry.active = None;
        (entry.record.armed, entry.record.waiting, entry.record.queued) = (false, None, None);
        entry.record.failed = Some(text.clone());
        self.say(schedule, Some(slot), What::LimitHit, text.clone());
        self.out.push(Effect::Failed { schedule: schedule.clone(), because: text });
    }

    fn began(&mut self, id: &FiringId, unit: UnitId, run: RunId) {
        let Some(entry) = self.entries.get_mut(&id.schedule) else { return };
        let Some(firing) = entry.record.firing_mut(id).filter(|f| f.state == FiringState::Started) else { return };
        (firing.unit, firing.run) = (unit, Some(run));
        entry.is_dirty = true;
    }

    fn ended(&mut self, unit: &UnitId, run: RunId, ok: bool, because: &str) {
        let mut ids = vec![];
        for (schedule, entry) in &self.entries {
            let ended = entry.record.open().filter(|firing| firing.run == Some(run) && &firing.unit == unit);
            ids.extend(ended.map(|firing| firing.id(schedule)));
        }
        for id in ids {
            let state = if ok { FiringState::Finished } else { FiringState::Failed(because.to_owned()) };
            self.close(&id, state, None);
        }
    }

    /// A firing is over; what waited for that goes on.
    fn close(&mut self, id: &FiringId, state: FiringState, run: Option<RunId>) {
        if !self.end(id, state, run) {
            return;
        }
        let moment = self.moment();
        let Some(entry) = self.entries.get_mut(&id.schedule) else { return };
        let is_from_end = entry
            .active
            .as_ref()
            .and_then(|active| active.settings.every)
            .is_some_and(|every| every.from == EveryFrom::End && !every.align);
        if is_from_end {
            entry.record.interval = Some(moment);
        }
        let queued = if entry.active.is_some() { entry.record.queued.take() } else { None };
        self.count_interval(&id.schedule);
        if let Some(queued) = queued {
            self.fire(&id.schedule, queued, None);
        }
    }

    /// Closes the record of a firing that is open.
    fn end(&mut self, id: &FiringId, state: FiringState, run: Option<RunId>) -> bool {
        let wall = self.now.wall;
        self.in_flight.remove(id);
        let Some(entry) = self.entries.get_mut(&id.schedule) else { return false };
        let Some(firing) = entry.record.firing_mut(id).filter(|f| f.state == FiringState::Started) else {
            return false;
        };
        (firing.state, firing.ended, firing.run) = (state.clone(), Some(wall), run.or(firing.run));
        entry.is_dirty = true;
        let (what, text) = match state {
            FiringState::Finished | FiringState::Started => (What::Finished, "its run ended well".to_owned()),
            FiringState::Failed(because) => (What::Failed, because),
            FiringState::Interrupted(because) => (What::Interrupted, because),
        };
        self.say(&id.schedule, Some(id.slot), what, text);
        true
    }
}

impl Active {
    /// The first slot of the patterns after an instant that is not done with.
    fn next_slot_after(&self, mut at: u64, record: &Record) -> Option<u64> {
        loop {
            let slot = self.plan.next(at)?;
            match record.done_until(slot) {
                Some(last) => at = last,
                None => return Some(slot),
            }
        }
    }
}

impl Entry {
    fn new(record: Record) -> Self {
        Self { record, active: None, was_seen: false, started_up: false, is_gone: false, is_dirty: false }
    }
}

impl Firing {
    /// Its name.
    pub fn id(&self, schedule: &UnitId) -> FiringId {
        FiringId { schedule: schedule.clone(), slot: self.slot, attempt: self.attempt }
    }
}

/// The instance of a template for one slot.
fn instance(template: &UnitId, slot: u64, attempt: u32) -> UnitId {
    let again = if attempt > 0 { format!("-{attempt}") } else { String::new() };
    let text = format!("{}@{slot}{again}.{}", template.name(), template.kind());
    text.parse().expect("a name is at most 64 bytes, and digits and a hyphen fit an instance")
}

fn fired_text(payload: &Payload, by: Option<&str>) -> String {
    let cause = match payload.cause {
        Cause::Slot => "its slot came",
        Cause::Interval => "its interval is over",
        Cause::Startup => "loomd came up",
        Cause::CatchUp => "slots were missed",
        Cause::Rerun => "its last firing was interrupted",
        Cause::Hand => "it was fired by hand",
    };
    let cause = by.map_or_else(|| cause.to_owned(), |by| format!("{cause}, by {by}"));
    match payload.missed {
        0 => cause,
        missed => format!("{cause}; it makes up for {missed}"),
    }
}
