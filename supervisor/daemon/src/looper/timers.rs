//! looper/timers: schedules, on a clock and with units to start.
//!
//! Job: tell the [`Timetable`] of time, of schedules that become active or not, and of the runs of what it starts; store its
//! records, hand its starts to the loop, say what it says. May touch: one timer of the kernel; store and bus through [`Keeper`].
//! Keeps: a start leaves here only once its record is on the disk; nothing wakes while no slot is due; a clock that is set, and
//! a resume, are noticed at once.

use super::{Later, clock, sys};
use crate::fault;
use loom_api::view::{Fired, FiringList, FiringView, ScheduleView, VERSION};
use loom_core::fleet::{self, Fleet, JobId, JobOutcome, Status, Verb};
use loom_core::ids::{Kind, RunId, UnitId};
use loom_core::lifecycle::{ActiveState, Exit, Phase, RunResult, exit_words, result_word};
use loom_core::schedule::zone::Zones;
use loom_core::schedule::{
    Effect, Event, Firing, FiringId, Found, Listed, Payload, Record, Settings, Stand, Timetable, What,
};
use loom_core::unit::{ReadyKind, Unit};
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// Instances of templates that are being read at once.
const READS_MAX: usize = 64;
/// How often in a row a timer is set that the kernel takes back because the clock is being set meanwhile.
const SETS_MAX: usize = 8;

/// Where records of schedules go, who hears of firings, and who reads units that are not there yet.
pub trait Keeper: Send + Sync + 'static {
    /// Answers once the records outlive loomd; with `on_disk` once they outlive the machine. Without a record: deletes it.
    fn keep(&self, records: Vec<(UnitId, Option<Record>)>, on_disk: bool) -> Later<Result<(), String>>;
    /// An event of loomd.
    fn publish(&self, topic: &str, data: &Value);
    /// Whether the unit is on the bus.
    fn hears(&self, unit: &UnitId) -> bool;
    /// Reads an instance of a template. Blocks on the disk.
    fn read(&self, unit: &UnitId) -> Result<Unit, String>;
    /// The zones as they are now.
    fn zones(&self) -> Zones;
}

/// A start that is recorded.
#[derive(Debug, Clone)]
pub struct Order {
    firing: FiringId,
    unit: UnitId,
    verb: Verb,
    payload: Payload,
}

/// What a start asks of the fleet.
#[derive(Debug)]
pub struct Request {
    pub unit: UnitId,
    pub verb: Verb,
    pub by: String,
}

/// What the clock or the disk brings.
#[derive(Debug)]
pub enum News {
    /// The time of the timer has come.
    Due,
    /// The wall clock was set, or the machine slept.
    Jumped,
    /// An instance was read.
    Read { order: Box<Order>, read: Box<Result<Unit, String>> },
}

/// What was known of a firing's unit before the fleet took over.
#[derive(Debug)]
pub struct Before {
    pub record: loom_core::lifecycle::Record,
    /// What was found of its process.
    pub found: fleet::Found,
}

/// A job that a firing asked for.
#[derive(Debug)]
struct Asked {
    order: Order,
    /// The newest run when it was asked for.
    before: RunId,
    /// That run was on its way already, and does for this start too.
    joins: bool,
    /// The run that came of it.
    began: Option<RunId>,
}

/// The schedules of one loomd.
pub struct Timers {
    table: Timetable,
    keeper: Arc<dyn Keeper>,
    alarm: Alarm,
    /// Effects that are still to be carried out.
    todo: Vec<Effect>,
    /// Starts that need no more records.
    ready: Vec<Order>,
    /// Schedules that failed and whose units do not show it yet.
    failed: Vec<(UnitId, String)>,
    /// What the store did not take; it goes with the next write.
    unsaved: BTreeMap<UnitId, Option<Record>>,
    /// Why it did not.
    fault: Option<String>,
    /// Schedules that are active, as the timetable knows it.
    armed: BTreeSet<UnitId>,
    asked: BTreeMap<JobId, Asked>,
    /// Runs whose end a firing waits for.
    runs: BTreeSet<(UnitId, RunId)>,
    reads: (mpsc::Sender<News>, mpsc::Receiver<News>),
    /// loomd is on its way down: nothing counts any more, the next one goes on from the records.
    resting: bool,
}

impl Timers {
    /// Takes over what is stored. `before`: what was known of units with open firings before `fleet` took them over. `broken`:
    /// schedules whose files have errors; what is stored of them is kept until they are right again.
    pub fn open(
        keeper: Arc<dyn Keeper>,
        machine_id: &str,
        boot_id: &str,
        stored: BTreeMap<UnitId, Record>,
        before: &BTreeMap<UnitId, Before>,
        broken: &BTreeSet<UnitId>,
        fleet: &Fleet,
    ) -> Self {
        let now = clock::both();
        let found = |id: &FiringId, firing: &Firing| found(id, firing, before.get(&firing.unit), fleet);
        let (table, todo) = Timetable::new(machine_id, boot_id, keeper.zones(), now, stored, found);
        let mut timers = Self {
            table,
            keeper,
            alarm: Alarm::default(),
            todo,
            ready: Vec::new(),
            failed: Vec::new(),
            unsaved: BTreeMap::new(),
            fault: None,
            armed: BTreeSet::new(),
            asked: BTreeMap::new(),
            runs: BTreeSet::new(),
            reads: mpsc::channel(READS_MAX),
            resting: false,
        };
        for listed in timers.table.listed() {
            let open = timers.table.firings(&listed.schedule).iter().filter(|firing| firing.ended.is_none());
            timers.runs.extend(open.filter_map(|firing| Some((firing.unit.clone(), firing.run?))));
        }
        let statuses = fleet.statuses();
        let units = statuses.iter().filter_map(|status| fleet.unit(&status.unit));
        let mut schedules: BTreeMap<UnitId, Settings> =
            units.filter_map(|unit| Some((unit.id.clone(), unit.schedule.clone()?))).collect();
        // Nothing is active yet, so only the names count.
        schedules.extend(broken.iter().map(|id| (id.clone(), Settings::new(id.clone()))));
        timers.reload(schedules);
        for status in statuses.iter().filter(|status| status.unit.kind() == Kind::Schedule) {
            timers.compare(&status.unit, fleet);
        }
        timers
    }

    /// What comes next: never, where no slot is to come.
    pub async fn wait(&mut self) -> News {
        let alarm = async {
            if self.resting {
                std::future::pending::<()>().await;
            }
            self.alarm.ring().await
        };
        tokio::select! {
            news = alarm => news,
            read = self.reads.1.recv() => read.expect("its sender is kept beside it"),
        }
    }

    /// Takes what [`Timers::wait`] brought. The unit, if one was read, is the fleet's to load, before anything else is asked of it.
    pub fn hear(&mut self, news: News) -> Option<Box<Unit>> {
        match news {
            News::Due => self.tell(Event::Tick),
            News::Jumped => {
                tracing::info!("the clock was set, or the machine slept: every schedule looks at it anew");
                self.tell(Event::ClockJumped);
            }
            News::Read { order, read } => match *read {
                Ok(unit) => {
                    self.ready.push(*order);
                    return Some(Box::new(unit));
                }
                Err(because) => self.tell(Event::Refused { firing: order.firing, because }),
            },
        }
        None
    }

    /// loomd goes, or becomes another: what happens from now on is for the next one to find.
    pub fn rest(&mut self) {
        self.resting = true;
    }

    /// Why records cannot be stored at the moment.
    pub fn fault(&self) -> Option<&String> {
        self.fault.as_ref()
    }

    /// All unit files were read anew.
    pub fn read_anew(&mut self, units: &BTreeMap<UnitId, Unit>) {
        let schedules: BTreeMap<UnitId, Settings> =
            units.iter().filter_map(|(id, unit)| Some((id.clone(), unit.schedule.clone()?))).collect();
        self.reload(schedules);
    }

    fn reload(&mut self, schedules: BTreeMap<UnitId, Settings>) {
        self.tell(Event::Reloaded { schedules, zones: Box::new(self.keeper.zones()) });
    }

    /// Looks at what the fleet made of its last event.
    pub fn watch(&mut self, fleet: &Fleet, effects: &[fleet::Effect]) {
        if self.resting {
            return;
        }
        for effect in effects {
            if let fleet::Effect::Changed { unit, .. } = effect
                && unit.kind() == Kind::Schedule
            {
                self.compare(unit, fleet);
            }
        }
        if self.asked.is_empty() && self.runs.is_empty() {
            return;
        }
        let mut began = Vec::new();
        for asked in self.asked.values_mut().filter(|asked| asked.began.is_none()) {
            let Some(status) = fleet.status(&asked.order.unit) else { continue };
            let is_new = status.run > asked.before;
            let is_joined = asked.joins && status.run == asked.before && end_of(&status, status.run).is_none();
            if is_new || is_joined {
                asked.began = Some(status.run);
                began.push((asked.order.firing.clone(), asked.order.unit.clone(), status.run));
            }
        }
        for (firing, unit, run) in began {
            self.runs.insert((unit.clone(), run));
            self.tell(Event::RunBegan { firing, unit, run });
        }
        let mut ended = Vec::new();
        self.runs.retain(|(unit, run)| {
            let end = match fleet.status(unit) {
                Some(status) => end_of(&status, *run),
                None => Some((false, "its unit is gone".to_owned())),
            };
            match end {
                Some((ok, because)) => {
                    ended.push(Event::RunEnded { unit: unit.clone(), run: *run, ok, because });
                    false
                }
                None => true,
            }
        });
        ended.into_iter().for_each(|event| self.tell(event));
    }

    /// A job is over; nothing happens if it was none of ours.
    pub fn job_over(&mut self, job: JobId, outcome: &JobOutcome, fleet: &Fleet) {
        let Some(Asked { order, began, .. }) = self.asked.remove(&job) else { return };
        let Order { firing, unit, payload, .. } = order;
        let because = match outcome {
            JobOutcome::Done => {
                let delivered = self.deliver(&firing, &unit, &payload);
                // An agent that serves has taken its work; a run that is the work goes on to its end.
                let serves = fleet.unit(&unit).is_some_and(|unit| unit.ready.kind != ReadyKind::Oneshot);
                if began.is_none() || (delivered && serves) {
                    if let Some(run) = began {
                        self.runs.remove(&(unit, run));
                    }
                    self.tell(Event::Delivered { firing });
                }
                return;
            }
            JobOutcome::Failed { error, cause, .. } => match cause {
                Some(cause) => format!("{error}: {cause}"),
                None => error.clone(),
            },
            JobOutcome::Replaced => format!("its start of `{unit}` was given up: another job took its place"),
            JobOutcome::NoSuchUnit => format!("there is no unit `{unit}`"),
        };
        // What began is judged by its run.
        if began.is_none() {
            self.tell(Event::Refused { firing, because });
        }
    }

    /// Puts the firing into the mailbox of an agent that hears it now.
    fn deliver(&self, firing: &FiringId, unit: &UnitId, payload: &Payload) -> bool {
        if unit.kind() != Kind::Agent || !self.keeper.hears(unit) {
            return false;
        }
        let Payload { cause: _, slot, late_ms, missed, next } = payload;
        let data = json!({
            "id": firing.to_string(), "trigger": firing.schedule, "source": "schedule", "at": clock::both().wall,
            "scheduled_for": slot, "late_ms": late_ms, "missed": missed,
            "schedule": {"slot": slot, "missed": missed, "next": next},
        });
        self.keeper.publish(&format!("unit.{}.trigger.{}", unit.mailbox(), trigger_name(&firing.schedule)), &data);
        true
    }

    /// Stores what is to be stored and says what is to be said; gives the starts whose records are on the disk.
    pub async fn record(&mut self, fleet: &Fleet) -> Vec<Order> {
        let todo = std::mem::take(&mut self.todo);
        let mut records = std::mem::take(&mut self.unsaved);
        let mut orders = Vec::new();
        let mut said = Vec::new();
        for effect in todo {
            match effect {
                Effect::Record { schedule, record } => drop(records.insert(schedule, Some(*record))),
                Effect::Forget { schedule } => drop(records.insert(schedule, None)),
                Effect::Start { firing, unit, payload } => {
                    orders.push(Order { firing, unit, verb: Verb::Start, payload });
                }
                Effect::Restart { firing, unit, payload } => {
                    orders.push(Order { firing, unit, verb: Verb::Restart, payload });
                }
                Effect::Said { schedule, slot, what, text } => said.push((schedule, slot, what, text)),
                Effect::Failed { schedule, because } => {
                    // The timetable knows; what the unit shows is not to reach it as a stop.
                    self.armed.remove(&schedule);
                    self.failed.push((schedule, because));
                }
            }
        }
        if !records.is_empty() {
            // Without a start to come, what is written needs to outlive this process only.
            let kept = self.keeper.keep(records.clone().into_iter().collect(), !orders.is_empty()).await;
            match kept {
                Ok(()) => self.fault = None,
                Err(because) => {
                    if self.fault.is_none() {
                        tracing::error!(error = because, "the store failed: schedules start nothing");
                    }
                    self.unsaved = records;
                    for order in orders.drain(..) {
                        let because = format!("its record could not be stored: {because}");
                        self.tell(Event::Refused { firing: order.firing, because });
                    }
                    self.fault = Some(because);
                }
            }
        }
        if !orders.is_empty() {
            fault::point("timers.recorded");
        }
        for (schedule, slot, what, text) in said {
            self.say(&schedule, slot, what, &text);
        }
        let mut ready = std::mem::take(&mut self.ready);
        for order in orders {
            if fleet.unit(&order.unit).is_none() && order.unit.template().is_some() {
                self.read(order);
            } else {
                ready.push(order);
            }
        }
        ready
    }

    /// Whether nothing is left to be recorded.
    pub fn is_done(&self) -> bool {
        self.todo.is_empty() && self.ready.is_empty() && self.failed.is_empty()
    }

    /// Schedules whose units are to show that they failed.
    pub fn take_failed(&mut self) -> Vec<(UnitId, String)> {
        std::mem::take(&mut self.failed)
    }

    /// An order becomes a job.
    pub fn ask(&mut self, job: JobId, order: Order, fleet: &Fleet) -> Request {
        let request = Request { unit: order.unit.clone(), verb: order.verb, by: order.firing.to_string() };
        let status = fleet.status(&order.unit);
        let before = status.as_ref().map(|status| status.run).unwrap_or_default();
        let joins = order.verb == Verb::Start
            && status.is_some_and(|status| {
                let is_on_its_way = status.active_state == ActiveState::Activating && status.sub_state != "waiting";
                is_on_its_way && before > RunId(0) && end_of(&status, before).is_none()
            });
        self.asked.insert(job, Asked { order, before, joins, began: None });
        request
    }

    /// Sets the timer for what comes next.
    pub fn arm(&mut self) {
        for _ in 0..SETS_MAX {
            let at = if self.resting { None } else { self.table.next_wake() };
            match self.alarm.set(at) {
                Ok(()) => return,
                // The clock was set since; what is due by the new one is done at its next ring.
                Err(Errno::ECANCELED) => self.tell(Event::ClockJumped),
                Err(errno) => {
                    tracing::error!(%errno, "cannot set the timer of schedules: nothing is started by the clock");
                    return;
                }
            }
        }
    }

    /// All schedules, also those that were never active.
    pub fn list(&self, fleet: &Fleet) -> Vec<ScheduleView> {
        let now = clock::both().wall;
        let mut all: BTreeMap<UnitId, ScheduleView> =
            self.table.listed().into_iter().map(|listed| (listed.schedule.clone(), shown(listed, now))).collect();
        for status in fleet.statuses() {
            let Some(settings) = fleet.unit(&status.unit).and_then(|unit| unit.schedule.as_ref()) else { continue };
            let view = all.entry(status.unit.clone()).or_insert_with(|| never_active(status.unit));
            view.unit.get_or_insert_with(|| settings.unit.clone());
            if view.rhythm.is_empty() {
                view.rhythm = settings.rhythm();
            }
        }
        all.into_values().collect()
    }

    /// One schedule and its firings.
    pub fn firings(&self, schedule: &UnitId, fleet: &Fleet) -> Option<FiringList> {
        let view = self.list(fleet).into_iter().find(|view| view.schedule == *schedule)?;
        let firings = self.table.firings(schedule).iter().map(|firing| FiringView::of(schedule, firing)).collect();
        Some(FiringList { version: VERSION, schedule: view, firings })
    }

    /// Fires by hand: what came of it, or why nothing did.
    pub fn fire(&mut self, schedule: &UnitId, by: &str) -> Result<Fired, String> {
        let from = self.todo.len();
        self.tell(Event::Fire { schedule: schedule.clone(), by: by.to_owned() });
        let own = &self.todo[from.min(self.todo.len())..];
        let mut text = None;
        for effect in own {
            match effect {
                Effect::Said { schedule: whose, what, text: said, .. } if whose == schedule => match what {
                    What::Fired | What::Queued => text = text.or(Some(said.clone())),
                    What::Skipped | What::Refused => return Err(said.clone()),
                    What::Missed | What::Finished | What::Failed | What::Interrupted | What::LimitHit => {}
                },
                Effect::Said { .. }
                | Effect::Record { .. }
                | Effect::Forget { .. }
                | Effect::Start { .. }
                | Effect::Restart { .. }
                | Effect::Failed { .. } => {}
            }
        }
        let started = own.iter().find_map(|effect| match effect {
            Effect::Start { firing, .. } | Effect::Restart { firing, .. } if firing.schedule == *schedule => {
                Some(firing)
            }
            Effect::Start { .. }
            | Effect::Restart { .. }
            | Effect::Record { .. }
            | Effect::Forget { .. }
            | Effect::Said { .. }
            | Effect::Failed { .. } => None,
        });
        let firings = self.table.firings(schedule);
        let firing = started.and_then(|id| firings.iter().find(|firing| firing.id(schedule) == *id));
        let said = text.ok_or_else(|| "loomd is on its way down".to_owned())?;
        Ok(Fired {
            version: VERSION,
            schedule: schedule.clone(),
            said,
            firing: firing.map(|firing| FiringView::of(schedule, firing)),
        })
    }

    fn tell(&mut self, event: Event) {
        if !self.resting {
            self.todo.extend(self.table.handle(clock::both(), event));
        }
    }

    /// Tells the timetable whether a schedule is active, where that changed.
    fn compare(&mut self, schedule: &UnitId, fleet: &Fleet) {
        let is_active = fleet.status(schedule).is_some_and(|status| status.active_state == ActiveState::Active);
        let settings = fleet.unit(schedule).and_then(|unit| unit.schedule.clone());
        match (settings.filter(|_| is_active), self.armed.contains(schedule)) {
            (Some(settings), false) => {
                self.armed.insert(schedule.clone());
                self.tell(Event::Armed { schedule: schedule.clone(), settings: Box::new(settings) });
            }
            (None, true) => {
                self.armed.remove(schedule);
                self.tell(Event::Disarmed { schedule: schedule.clone() });
            }
            (Some(_), true) | (None, false) => {}
        }
    }

    /// Reads an instance beside the loop, which has better to do than to wait for the disk.
    fn read(&self, order: Order) {
        let (keeper, sender) = (Arc::clone(&self.keeper), self.reads.0.clone());
        tokio::spawn(async move {
            let unit = order.unit.clone();
            let read = tokio::task::spawn_blocking(move || keeper.read(&unit)).await;
            let read = read.unwrap_or_else(|error| Err(format!("its template cannot be read: {error}")));
            // Nobody hears it only where the loop is gone.
            let _ = sender.send(News::Read { order: Box::new(order), read: Box::new(read) }).await;
        });
    }

    fn say(&self, schedule: &UnitId, slot: Option<u64>, what: What, text: &str) {
        let word = word(what);
        match what {
            What::LimitHit => tracing::error!(unit = %schedule, slot, word, text, "schedule"),
            What::Missed | What::Failed | What::Interrupted | What::Refused => {
                tracing::warn!(unit = %schedule, slot, word, text, "schedule");
            }
            What::Fired | What::Queued | What::Skipped | What::Finished => {
                tracing::info!(unit = %schedule, slot, word, text, "schedule");
            }
        }
        let data = json!({"schedule": schedule, "slot": slot, "text": text});
        self.keeper.publish(&format!("loom.schedule.{word}"), &data);
    }
}

/// The last part of a topic.
fn trigger_name(schedule: &UnitId) -> String {
    let mailbox = schedule.mailbox();
    mailbox.strip_suffix("_schedule").unwrap_or(&mailbox).to_owned()
}

fn word(what: What) -> &'static str {
    match what {
        What::Fired => "fired",
        What::Queued => "queued",
        What::Skipped => "skipped",
        What::Missed => "missed",
        What::Finished => "finished",
        What::Failed => "failed",
        What::Interrupted => "interrupted",
        What::LimitHit => "limit-hit",
        What::Refused => "refused",
    }
}

/// Whether and how a run ended.
fn end_of(status: &Status, run: RunId) -> Option<(bool, String)> {
    let is_over = status.run > run
        || match status.active_state {
            ActiveState::Inactive | ActiveState::Failed => true,
            ActiveState::Activating => status.next_start.is_some(),
            // It has done its work, and stays up for others.
            ActiveState::Active => status.sub_state == "exited",
            ActiveState::Reloading | ActiveState::Deactivating => false,
        };
    let ok = matches!(status.result, RunResult::Success | RunResult::Condition);
    let because = || {
        let cause = status.last_error.clone().or_else(|| status.exit.map(exit_words));
        match cause {
            Some(cause) => format!("run {run} ended with the result `{}`: {cause}", result_word(status.result)),
            None => format!("run {run} ended with the result `{}`", result_word(status.result)),
        }
    };
    is_over.then(|| (ok, because()))
}

/// What became of an open firing while no loomd lived.
fn found(id: &FiringId, firing: &Firing, before: Option<&Before>, fleet: &Fleet) -> Found {
    let Some(Before { record, found }) = before else { return Found::NeverBegan };
    // Before its run was known here, the unit's own record knew what had caused it.
    let is_its_run = match firing.run {
        Some(run) => run == record.run,
        None => record.triggered_by == id.to_string() && record.run > RunId(0),
    };
    if !is_its_run {
        return if firing.run.is_some() { Found::Gone } else { Found::NeverBegan };
    }
    let ended = |ok: bool| Found::Ended { run: record.run, ok };
    match (record.phase, found) {
        // Its launcher never got past its gate: there was no process.
        (Phase::Intended, _) => Found::NeverBegan,
        (Phase::Live | Phase::Stopping, fleet::Found::Alive) => Found::Alive(record.run),
        (Phase::Live | Phase::Stopping, fleet::Found::Gone(Exit::Unknown)) => Found::Gone,
        (Phase::Live | Phase::Stopping, fleet::Found::Gone(Exit::Code(code))) => {
            let also = fleet.unit(&firing.unit).map(|unit| &unit.restart.success_exit_status);
            ended(*code == 0 || also.is_some_and(|also| also.contains(code)))
        }
        (Phase::Live | Phase::Stopping, fleet::Found::Gone(Exit::Signal { .. })) => ended(false),
        // It was stopped with the loomd before, and this one starts it again.
        (Phase::Ended, _) if record.wanted => match fleet.status(&firing.unit) {
            Some(status) if end_of(&status, status.run).is_none() => Found::Alive(status.run),
            Some(_) | None => ended(record.result == RunResult::Success),
        },
        (Phase::Ended, _) => ended(matches!(record.result, RunResult::Success | RunResult::Condition)),
    }
}

fn shown(listed: Listed, now: u64) -> ScheduleView {
    let state = match listed.stand {
        Stand::Waiting => "waiting",
        Stand::Running => "running",
        Stand::CatchUp => "catch-up",
        Stand::Elapsed => "elapsed",
        Stand::Inactive => "inactive",
        Stand::Failed => "failed",
    };
    ScheduleView {
        unit: listed.unit,
        state: state.to_owned(),
        rhythm: listed.rhythm,
        next: listed.next,
        left_ms: listed.next.map(|next| next.saturating_sub(now)),
        last: listed.last.as_ref().map(|firing| FiringView::of(&listed.schedule, firing)),
        open: listed.open,
        fired: listed.fired,
        missed: listed.missed,
        skipped: listed.skipped,
        because: listed.failed,
        schedule: listed.schedule,
    }
}

fn never_active(schedule: UnitId) -> ScheduleView {
    ScheduleView {
        schedule,
        unit: None,
        state: "inactive".to_owned(),
        rhythm: String::new(),
        next: None,
        left_ms: None,
        last: None,
        open: 0,
        fired: 0,
        missed: 0,
        skipped: 0,
        because: None,
    }
}

/// One timer of the kernel for all schedules: CLOCK_REALTIME, absolute, cancelled when the clock is set and by a resume.
#[derive(Default)]
struct Alarm {
    timer: Option<Timer>,
    set_for: Option<u64>,
}

/// The timer, and a second descriptor of it to wait at.
struct Timer {
    clock: TimerFd,
    door: AsyncFd<OwnedFd>,
}

impl Timer {
    fn new() -> io::Result<Self> {
        let clock = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        let door = sys::readable(clock.as_fd().try_clone_to_owned()?)?;
        Ok(Self { clock, door })
    }
}

impl Alarm {
    /// Sets it for milliseconds since the epoch, or not at all. ECANCELED: it is set, and the clock was set as well.
    fn set(&mut self, at: Option<u64>) -> Result<(), Errno> {
        if at == self.set_for {
            return Ok(());
        }
        let timer = match &self.timer {
            Some(timer) => timer,
            None => {
                let timer = Timer::new().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
                self.timer.insert(timer)
            }
        };
        self.set_for = at;
        let done = match at {
            // Zero would switch it off.
            Some(at) => timer.clock.set(
                Expiration::OneShot(TimeSpec::from_duration(Duration::from_millis(
                    at.saturating_sub(clock::ahead()).max(1),
                ))),
                TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET,
            ),
            None => timer.clock.unset(),
        };
        if done.is_err() {
            self.set_for = None;
        }
        done
    }

    async fn ring(&mut self) -> News {
        let Some(timer) = &self.timer else { return std::future::pending().await };
        loop {
            let Ok(mut guard) = timer.door.readable().await else { return std::future::pending().await };
            let mut count = [0; 8];
            match nix::unistd::read(&timer.clock, &mut count) {
                Err(Errno::EAGAIN) => guard.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(Errno::ECANCELED) => {
                    self.set_for = None;
                    return News::Jumped;
                }
                Ok(_) => {
                    self.set_for = None;
                    return News::Due;
                }
                Err(errno) => {
                    tracing::error!(%errno, "cannot read the timer of schedules");
                    return std::future::pending().await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Shelf {
        is_full: AtomicBool,
        /// How many records came at once, and whether they were to be on the disk.
        kept: Mutex<Vec<(usize, bool)>>,
        told: Mutex<Vec<String>>,
    }

    impl Keeper for Shelf {
        fn keep(&self, records: Vec<(UnitId, Option<Record>)>, on_disk: bool) -> Later<Result<(), String>> {
            self.kept.lock().unwrap().push((records.len(), on_disk));
            let is_full = self.is_full.load(Ordering::SeqCst);
            Box::pin(async move { if is_full { Err("no space left".into()) } else { Ok(()) } })
        }
        fn publish(&self, topic: &str, _: &Value) {
            self.told.lock().unwrap().push(topic.to_owned());
        }
        fn hears(&self, _: &UnitId) -> bool {
            false
        }
        fn read(&self, unit: &UnitId) -> Result<Unit, String> {
            Err(format!("there is no {unit}"))
        }
        fn zones(&self) -> Zones {
            Zones::default()
        }
    }

    /// A fleet in which `a.schedule` is active; it starts `a.service`.
    fn fleet(place: &std::path::Path) -> Fleet {
        let files = [
            ("a.schedule.toml", "[schedule]\nunit = \"a.service\"\nevery = \"1h\"\n"),
            ("a.service.toml", "[exec]\ncommand = [\"true\"]\n"),
        ];
        for (name, text) in files {
            std::fs::write(place.join(name), text).unwrap();
        }
        let path = [place.to_owned()];
        let facts = loom_api::unit_files::facts(place, place, &path);
        let units = loom_core::unit::load_all(&loom_api::unit_files::read(&path), &facts, None).units;
        let (mut fleet, _) = Fleet::new(units, BTreeMap::new(), "boot", clock::now());
        let unit = "a.schedule".parse().unwrap();
        let start = fleet::Event::Job { job: JobId(1), unit, verb: Verb::Start, by: "person".into() };
        fleet.handle(clock::now(), start);
        fleet
    }

    #[tokio::test]
    async fn a_start_whose_record_is_not_on_the_disk_does_not_happen() {
        let place = tempfile::tempdir().unwrap();
        let fleet = fleet(place.path());
        let shelf = Arc::new(Shelf::default());
        let nothing = BTreeMap::new();
        let mut timers =
            Timers::open(shelf.clone(), "machine", "boot", BTreeMap::new(), &nothing, &BTreeSet::new(), &fleet);
        let schedule: UnitId = "a.schedule".parse().unwrap();
        let last = |timers: &Timers| timers.firings(&schedule, &fleet).unwrap().firings.last().cloned().unwrap();
        assert!(timers.record(&fleet).await.is_empty());
        assert_eq!(*shelf.kept.lock().unwrap(), [(1, false)], "that it is active, without haste");

        shelf.is_full.store(true, Ordering::SeqCst);
        timers.fire(&schedule, "person").unwrap();
        assert!(timers.record(&fleet).await.is_empty(), "nothing may start");
        assert_eq!(timers.fault().map(String::as_str), Some("no space left"));
        timers.record(&fleet).await;
        let failed = last(&timers);
        assert_eq!(failed.state, "failed");
        assert!(failed.because.unwrap().contains("could not be stored: no space left"));

        shelf.is_full.store(false, Ordering::SeqCst);
        timers.fire(&schedule, "person").unwrap();
        let orders = timers.record(&fleet).await;
        assert_eq!(timers.fault(), None);
        assert_eq!(shelf.kept.lock().unwrap().last(), Some(&(1, true)), "on the disk, and only then");
        let request = timers.ask(JobId(2), orders[0].clone(), &fleet);
        assert_eq!((request.unit.to_string(), request.by), ("a.service".to_owned(), last(&timers).firing));
        assert!(shelf.told.lock().unwrap().contains(&"loom.schedule.fired".to_owned()));
    }
}
