//! A world in virtual time: clocks, runs and a store around a [`Timetable`].
//!
//! Job: carries out effects as the shell would, lets runs end, kills loomd between any two effects, puts the machine to sleep,
//! sets its clock, and checks the promises at each step.

use super::super::record::FIRINGS_KEPT;
use super::super::timetable::{PARALLEL_MAX, Payload, What};
use super::super::zone::Zones;
use super::super::{Effect, Event, EveryFrom, FiringState, Found, Overlap, Record, Settings, Timetable};
use super::super::{FiringId, Now};
use crate::ids::{Millis, RunId, UnitId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A run that a firing caused.
#[derive(Debug, Clone)]
struct Run {
    firing: FiringId,
    unit: UnitId,
    run: RunId,
    /// On the clock that stands still in sleep.
    ends_at: u64,
    ok: bool,
}

/// One line of what happened: wall clock, and what.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub at: u64,
    pub effect: Effect,
}

pub struct World {
    pub table: Timetable,
    pub zones: Zones,
    pub store: BTreeMap<UnitId, Record>,
    pub settings: BTreeMap<UnitId, Settings>,
    /// Settings that were replaced.
    pub former: Vec<Settings>,
    /// Those that a person or the boot made active.
    pub active: BTreeSet<UnitId>,
    pub seen: Vec<Seen>,
    /// How long a unit runs, at most; at random from a tenth of it if `dice` are thrown.
    pub run_ms: u64,
    pub random: bool,
    /// loomd dies before it carries out the effect after this many.
    pub crash_after: Option<usize>,
    pub starts: u64,
    awake: u64,
    boot: u64,
    wall_offset: u64,
    boots: u64,
    runs: Vec<Run>,
    /// What loomd hears next; lost if it dies.
    news: VecDeque<Event>,
    next_run: u64,
    started: BTreeSet<FiringId>,
    /// When a unit's interval schedule last started it, on the clock that counts sleep.
    last_start: BTreeMap<UnitId, (u64, u64)>,
    dice: u64,
}

impl World {
    pub fn new(wall: u64, seed: u64) -> Self {
        let now = Now { wall, boot: Millis(100_000) };
        let zones = Zones::new("Europe/Berlin").unwrap();
        let (table, effects) =
            Timetable::new("machine", "boot-0", zones.clone(), now, BTreeMap::new(), |_, _| Found::Gone);
        assert_eq!(effects, []);
        Self {
            table,
            zones,
            store: BTreeMap::new(),
            settings: BTreeMap::new(),
            former: vec![],
            active: BTreeSet::new(),
            seen: vec![],
            run_ms: 1_000,
            random: false,
            crash_after: None,
            starts: 0,
            awake: 0,
            boot: 100_000,
            wall_offset: wall - 100_000,
            boots: 0,
            runs: vec![],
            news: VecDeque::new(),
            next_run: 1,
            started: BTreeSet::new(),
            last_start: BTreeMap::new(),
            dice: seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    pub fn draw(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % sides
    }

    pub fn now(&self) -> Now {
        Now { wall: self.boot + self.wall_offset, boot: Millis(self.boot) }
    }

    pub fn arm(&mut self, schedule: &UnitId, settings: Settings) {
        settings.check(&self.zones).unwrap();
        self.former.extend(self.settings.insert(schedule.clone(), settings.clone()));
        self.active.insert(schedule.clone());
        self.tell(Event::Armed { schedule: schedule.clone(), settings: Box::new(settings) });
    }

    pub fn disarm(&mut self, schedule: &UnitId) {
        self.active.remove(schedule);
        self.tell(Event::Disarmed { schedule: schedule.clone() });
    }

    pub fn tell(&mut self, event: Event) {
        let effects = self.table.handle(self.now(), event);
        self.carry_out(effects);
        // What came of it, in order.
        while let Some(news) = self.news.pop_front() {
            let effects = self.table.handle(self.now(), news);
            self.carry_out(effects);
        }
        self.check();
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Some(left) = &mut self.crash_after {
                if *left == 0 {
                    self.crash_after = None;
                    return self.replace_loomd(0);
                }
                *left -= 1;
            }
            self.seen.push(Seen { at: self.now().wall, effect: effect.clone() });
            match effect {
                Effect::Record { schedule, record } => {
                    assert!(record.firings.len() <= FIRINGS_KEPT + PARALLEL_MAX, "{} firings", record.firings.len());
                    assert!(record.done.len() <= 8, "{:?}", record.done);
                    self.store.insert(schedule, *record);
                }
                Effect::Forget { schedule } => {
                    self.store.remove(&schedule);
                }
                Effect::Start { firing, unit, payload } => self.start(firing, unit, &payload),
                Effect::Restart { firing, unit, payload } => {
                    self.runs.retain(|run| run.unit != unit);
                    self.start(firing, unit, &payload);
                }
                Effect::Said { .. } => {}
                Effect::Failed { schedule, .. } => {
                    self.active.remove(&schedule);
                }
            }
        }
    }

    fn start(&mut self, firing: FiringId, unit: UnitId, payload: &Payload) {
        use super::super::record::Cause;
        self.starts += 1;
        let now = self.now();
        let settings = &self.settings[&firing.schedule];
        let stored = &self.store[&firing.schedule];
        let record = stored.open().find(|open| open.slot == firing.slot && open.attempt == firing.attempt);
        assert!(record.is_some(), "{firing} starts without a record: {stored:#?}");
        assert!(self.started.insert(firing.clone()), "{firing} starts twice");
        assert!(self.active.contains(&firing.schedule), "{firing} starts though its schedule is not active");
        match payload.cause {
            Cause::Slot => {
                // What was queued came before the clock was set back.
                let queued = settings.overlap == Overlap::QueueOne;
                assert!(queued || now.wall >= firing.slot, "{firing} is early at {}", now.wall);
                // Also by settings of before, if it was due or queued when they changed.
                let named =
                    |settings: &Settings| settings.slots(&self.zones, firing.slot - 1, 1) == Ok(vec![firing.slot]);
                assert!(
                    named(settings) || self.former.iter().any(named),
                    "{firing} is no slot of {}",
                    settings.rhythm()
                );
                assert!(queued || stored.cursor >= firing.slot, "the next elapse moved with the firing's record");
            }
            Cause::CatchUp => assert!(payload.missed > 0, "{payload:?}"),
            Cause::Interval => {
                let every = settings.every.unwrap();
                if let Some((boots, last)) = self.last_start.get(&firing.schedule)
                    && *boots == self.boots
                    && every.from == EveryFrom::Start
                {
                    assert!(now.boot.0 >= last + every.period.0, "{firing} is early by its interval");
                }
            }
            Cause::Startup | Cause::Rerun | Cause::Hand => {}
        }
        if settings.overlap != Overlap::Parallel {
            let other = self.runs.iter().find(|run| run.unit == unit);
            assert!(other.is_none(), "{firing} starts {unit} beside {other:?}");
        }
        self.last_start.insert(firing.schedule.clone(), (self.boots, now.boot.0));
        let length = if self.random { self.run_ms / 10 + self.draw(self.run_ms) } else { self.run_ms };
        let ok = !self.random || self.draw(10) > 0;
        let run = RunId(self.next_run);
        self.next_run += 1;
        self.runs.push(Run { firing: firing.clone(), unit: unit.clone(), run, ends_at: self.awake + length, ok });
        let refused = self.random && self.draw(30) == 0;
        if refused {
            self.runs.pop();
            self.news.push_back(Event::Refused { firing, because: "its dependency failed".into() });
        } else {
            self.news.push_back(Event::RunBegan { firing, unit, run });
        }
    }

    /// Promises that hold between any two events.
    fn check(&self) {
        for (schedule, record) in &self.store {
            let open: Vec<_> = record.open().collect();
            let parallel = self.settings.get(schedule).is_some_and(|settings| settings.overlap == Overlap::Parallel);
            assert!(open.len() <= if parallel { PARALLEL_MAX } else { 1 }, "{schedule}: {open:?}");
            for firing in open {
                let id = firing.id(schedule);
                let lives = self.runs.iter().any(|run| run.firing == id && Some(run.run) == firing.run);
                assert!(lives, "{id} is open, and no run of it lives");
            }
        }
        for run in &self.runs {
            let record = &self.store[&run.firing.schedule];
            let is_open = record.open().any(|open| open.id(&run.firing.schedule) == run.firing);
            // loomd died between the record of the next slot and the restart.
            let restarts = self.settings[&run.firing.schedule].overlap == Overlap::Restart;
            assert!(is_open || restarts, "{run:?} lives, and its firing is closed");
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, ms: u64) {
        let mut until = self.awake + ms;
        let mut life = (self.boots, self.awake);
        loop {
            if life.0 != self.boots {
                (life, until) = ((self.boots, self.awake), self.awake);
            }
            let end = self.runs.iter().map(|run| run.ends_at).min();
            let wake = self.table.next_wake().map(|wake| self.awake + wake.saturating_sub(self.now().wall));
            let Some(next) = [end, wake].into_iter().flatten().min().filter(|next| *next <= until) else { break };
            let step = next.saturating_sub(self.awake);
            (self.awake, self.boot) = (self.awake + step, self.boot + step);
            if let Some(at) = self.runs.iter().position(|run| run.ends_at <= self.awake) {
                let Run { unit, run, ok, .. } = self.runs.remove(at);
                self.tell(Event::RunEnded { unit, run, ok, because: "it exited with status 1".into() });
            } else {
                let before = (self.boots, self.starts);
                self.tell(Event::Tick);
                let spins = self.table.next_wake().is_some_and(|wake| wake <= self.now().wall);
                assert!(!spins || before != (self.boots, self.starts), "a tick at {:?} leaves a wake", self.now());
            }
        }
        let rest = until.saturating_sub(self.awake);
        (self.awake, self.boot) = (self.awake + rest, self.boot + rest);
    }

    /// The machine sleeps; timers that came due fire when it wakes.
    pub fn sleep(&mut self, ms: u64) {
        self.boot += ms;
        self.tell(Event::ClockJumped);
    }

    /// Somebody sets the wall clock.
    pub fn set_clock(&mut self, by: i64) {
        self.wall_offset = self.wall_offset.saturating_add_signed(by);
        self.tell(Event::ClockJumped);
    }

    /// loomd dies; runs go on, and what ends meanwhile is lost. A new one takes over.
    pub fn replace_loomd(&mut self, down_ms: u64) {
        (self.awake, self.boot) = (self.awake + down_ms, self.boot + down_ms);
        let now = self.awake;
        self.runs.retain(|run| run.ends_at > now);
        self.take_over();
    }

    /// The machine goes down and comes up again.
    pub fn reboot(&mut self, down_ms: u64) {
        let wall = self.now().wall + down_ms;
        self.boots += 1;
        self.runs.clear();
        (self.boot, self.wall_offset) = (5_000, wall - 5_000);
        self.awake += down_ms;
        self.take_over();
    }

    fn take_over(&mut self) {
        self.news.clear();
        let runs = self.runs.clone();
        let started = self.started.clone();
        let (table, effects) = Timetable::new(
            "machine",
            &format!("boot-{}", self.boots),
            self.zones.clone(),
            self.now(),
            self.store.clone(),
            |id, _| match runs.iter().find(|run| &run.firing == id) {
                Some(run) => Found::Alive(run.run),
                None if started.contains(id) => Found::Gone,
                None => Found::NeverBegan,
            },
        );
        self.table = table;
        let boots = (self.boots, self.starts);
        self.carry_out(effects);
        if boots != (self.boots, self.starts) {
            return;
        }
        for schedule in self.active.clone() {
            let settings = Box::new(self.settings[&schedule].clone());
            self.tell(Event::Armed { schedule, settings });
        }
    }

    /// What was said since it was last taken: `what slot-in-UTC`.
    pub fn said(&mut self) -> Vec<String> {
        let mut lines = vec![];
        for seen in self.seen.drain(..) {
            if let Effect::Said { slot, what, .. } = seen.effect {
                let what = match what {
                    What::Fired => "fired",
                    What::Queued => "queued",
                    What::Skipped => "skipped",
                    What::Missed => "missed",
                    What::Finished => "finished",
                    What::Failed => "failed",
                    What::Interrupted => "interrupted",
                    What::LimitHit => "limit",
                    What::Refused => "refused",
                };
                lines.push(format!("{} {what} {}", super::shown(seen.at), super::shown(slot.unwrap_or(0))));
            }
        }
        lines
    }

    /// Starts since they were last taken.
    pub fn started(&mut self) -> Vec<(u64, FiringId, Payload)> {
        let mut starts = vec![];
        for seen in std::mem::take(&mut self.seen) {
            if let Effect::Start { firing, payload, .. } | Effect::Restart { firing, payload, .. } = seen.effect {
                starts.push((seen.at, firing, payload));
            }
        }
        starts
    }

    /// Ends what runs, and checks that every firing ended.
    pub fn wind_up(&mut self) {
        self.crash_after = None;
        for schedule in self.active.clone() {
            self.disarm(&schedule);
        }
        self.pass(self.run_ms * 2 + 1);
        for (schedule, record) in &self.store {
            let open: Vec<_> = record.firings.iter().filter(|f| f.state == FiringState::Started).collect();
            assert!(open.is_empty(), "{schedule}: {open:?}");
        }
        assert_eq!(self.table.next_wake(), None);
    }
}
