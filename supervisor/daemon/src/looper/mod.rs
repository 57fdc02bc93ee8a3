//! looper: the one loop that owns unit state.
//!
//! Job: hand events to [`Fleet`], carry out its effects in order, wake at its next deadline; wire the rooms together.
//! May touch: every room's public face. Keeps: unit state has one owner and no lock; what is stored is stored before what
//! depends on it; nothing wakes an idle loop.

pub mod api;
pub mod clock;
mod crash;
pub mod feed;
pub mod hands;
pub mod library;
pub mod start;
mod sys;
pub mod timers;
pub mod upward;

use crate::fault;
use crate::process::{Room, RunEnd, Spawned};
use loom_api::view::{CrashReport, Fired, FiringList, ScheduleView};
use loom_core::fleet::{Effect, Event, Fleet, JobId, JobOutcome, Status, Verb};
use loom_core::ids::{Millis, RunId, UnitId};
use loom_core::lifecycle::{
    ActiveState, Control, Controlled, Identity, LaunchFailure, Record, RunResult, Said, result_word,
};
use loom_core::unit::{RunFacts, Unit};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use timers::Timers;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// How many events may wait. Beyond it, whoever has news waits.
pub const EVENT_QUEUE: usize = 4096;
/// How many questions may wait.
pub const ASK_QUEUE: usize = 256;
/// The most events taken as one burst, with one write.
const BURST: usize = 1024;
/// From the first request to end until everything is killed that has not ended in order.
pub const TOTAL_STOP_LIMIT: Duration = Duration::from_secs(90);
/// From that kill until loomd ends whatever is left; only processes in uninterruptible sleep are.
const AFTER_KILL_LIMIT: Duration = Duration::from_secs(10);

/// How long starts that are under way may take before loomd becomes another program; the next one repeats them.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// Descriptors of units that the next program takes over, by name.
pub type Handed = BTreeMap<UnitId, Vec<(String, OwnedFd)>>;

/// Work in the background that answers once.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where records go.
pub trait Records: Send + Sync + 'static {
    /// Answers once the records outlive loomd's death; with `on_disk` once they, and all before, outlive the machine's.
    fn put(&self, records: Vec<(UnitId, Record)>, on_disk: bool) -> Later<Result<(), String>>;
    /// Keeps a crash report, in the background; a failure is logged.
    fn keep(&self, report: CrashReport);
}

/// Who else must know of runs: bus, agents, tools. Nothing here waits, but for what is to be stored.
pub trait Audience: Send + Sync + 'static {
    /// A run's launcher stands behind its gate, or an earlier loomd's run was adopted.
    fn begins(&self, unit: &Unit, run: RunId, facts: &RunFacts, identity: &Identity) -> Result<(), String>;
    /// Ids of events that the run has been given and has not settled. Asked before `ends`.
    fn in_hand(&self, unit: &UnitId, run: RunId) -> Vec<String>;
    /// Its process is gone.
    fn ends(&self, unit: &UnitId, run: RunId);
    /// A unit changed its state.
    fn changed(&self, change: &Change);
    /// Something about a unit is worth a word, without a change of state.
    fn said(&self, unit: &UnitId, run: RunId, said: &Said);
    /// Live runs whose progress is watched.
    fn watched(&self) -> Vec<(UnitId, RunId)>;
    /// When loomd last saw that the run's work moves, on the monotonic clock: it published, asked, answered, called a tool.
    fn last_progress(&self, unit: &UnitId, run: RunId) -> Option<Millis>;
    /// Deliver that event to the unit no more, and keep it as a dead letter; answers once that is stored.
    fn set_aside(&self, unit: &UnitId, run: RunId, work: &str) -> Later<Result<(), String>>;
    /// These units are about to go down: their peers are to send them nothing new.
    fn leaving(&self, units: &[UnitId]);
    /// Unit files were read anew.
    fn reloaded(&self, units: &BTreeMap<UnitId, Unit>);
}

/// One change of state, for the log and the bus.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Change {
    pub unit: UnitId,
    pub run: RunId,
    pub from: ActiveState,
    pub to: ActiveState,
    pub sub: &'static str,
    pub result: RunResult,
    pub because: String,
}

/// What is asked of the loop.
#[derive(Debug)]
pub enum Ask {
    /// Start, stop or restart; answered when the job is over. Who does not wait drops the receiver.
    Job { unit: UnitId, verb: Verb, by: String, done: oneshot::Sender<JobOutcome> },
    /// One unit.
    Status { unit: UnitId, reply: oneshot::Sender<Option<Status>> },
    /// All units.
    Statuses { reply: oneshot::Sender<Vec<Status>> },
    /// The checked unit in force.
    Unit { unit: UnitId, reply: oneshot::Sender<Option<Unit>> },
    /// An instance of a template, just read.
    Load { unit: Box<Unit>, reply: oneshot::Sender<()> },
    /// All units, read anew.
    Reload { units: BTreeMap<UnitId, Unit>, reply: oneshot::Sender<()> },
    /// All schedules.
    Schedules { reply: oneshot::Sender<Vec<ScheduleView>> },
    /// One schedule with its firings.
    Firings { schedule: UnitId, reply: oneshot::Sender<Option<FiringList>> },
    /// Fires a schedule by hand.
    Fire { schedule: UnitId, by: String, reply: oneshot::Sender<Result<Fired, String>> },
    /// What keeps loomd from working fully, if anything; and whether it is on its way down.
    Condition { reply: oneshot::Sender<(Option<String>, bool)> },
    /// Stop everything and end.
    Shutdown,
    /// Let go of all units, which run on, and end: this process becomes another loomd.
    Reexec,
}

/// The loop and what it owns.
pub struct Looper {
    fleet: Fleet,
    room: Room,
    records: Arc<dyn Records>,
    audience: Arc<dyn Audience>,
    timers: Timers,
    events: mpsc::Receiver<Event>,
    asks: mpsc::Receiver<Ask>,
    jobs: BTreeMap<JobId, oneshot::Sender<JobOutcome>>,
    last_job: u64,
    stopping: Option<Stopping>,
    /// Since when it is to let go of all units, at the latest at this moment.
    leaving: Option<Instant>,
    degraded: Option<String>,
    /// Newest records that the store did not take. The fleet takes them for stored, so they go with the next write.
    unsaved: BTreeMap<UnitId, Record>,
}

/// Where the end of everything stands.
#[derive(Debug, Clone, Copy)]
enum Stopping {
    InOrder { until: Instant },
    Killed { until: Instant },
}

/// Everything a loop is made of.
pub struct Parts {
    pub fleet: Fleet,
    pub room: Room,
    pub records: Arc<dyn Records>,
    pub audience: Arc<dyn Audience>,
    pub timers: Timers,
    pub events: mpsc::Receiver<Event>,
    pub asks: mpsc::Receiver<Ask>,
}

impl Looper {
    pub fn new(parts: Parts) -> Self {
        let Parts { fleet, room, records, audience, timers, events, asks } = parts;
        Self {
            fleet,
            room,
            records,
            audience,
            timers,
            events,
            asks,
            jobs: BTreeMap::new(),
            last_job: 0,
            stopping: None,
            leaving: None,
            degraded: None,
            unsaved: BTreeMap::new(),
        }
    }

    /// Runs until everything is stopped after [`Ask::Shutdown`]; or, after [`Ask::Reexec`], until all units are let go of,
    /// and then gives what of theirs the next program needs. `first`: the effects that [`Fleet::new`] asked for.
    pub async fn run(mut self, first: Vec<Effect>) -> Option<Handed> {
        self.settle(first).await;
        let mut events = Vec::new();
        let mut asks = Vec::new();
        let mut of_clock = None;
        loop {
            if self.stopping.is_some() && self.fleet.is_quiet() {
                break;
            }
            if let Some(until) = self.leaving
                && (self.fleet.is_settled() || until <= Instant::now())
            {
                return Some(self.room.hand_over());
            }
            let wake = self.wake();
            let wait = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.events.recv_many(&mut events, BURST) => {}
                count = self.asks.recv_many(&mut asks, ASK_QUEUE) => {
                    // Everybody who could ask is gone.
                    if count == 0 {
                        asks.push(Ask::Shutdown);
                    }
                }
                news = self.timers.wait() => of_clock = Some(news),
                () = wait => events.push(Event::Tick),
            }
            if let Some(left) = self.past_limit() {
                tracing::error!(left, "gave up waiting for what cannot be killed");
                break;
            }
            // A burst is all that waits at this moment.
            while events.len() < BURST
                && let Ok(event) = self.events.try_recv()
            {
                events.push(event);
            }
            let mut effects = Vec::new();
            for event in events.drain(..) {
                self.take(event, &mut effects);
            }
            for ask in asks.drain(..) {
                self.answer(ask, &mut effects);
            }
            if let Some(unit) = of_clock.take().and_then(|news| self.timers.hear(news)) {
                self.take(Event::Loaded { unit }, &mut effects);
            }
            self.settle(effects).await;
        }
        self.room.tidy();
        None
    }

    fn take(&mut self, event: Event, effects: &mut Vec<Effect>) {
        let mut heard = None;
        match &event {
            Event::Notified { unit, .. } | Event::MainProcess { unit, .. } => heard = Some(unit.clone()),
            Event::Exited { unit, run, .. } => {
                self.room.told(unit, *run);
                let work = self.audience.in_hand(unit, *run);
                if !work.is_empty() {
                    let in_hand = Event::InHand { unit: unit.clone(), run: *run, work };
                    effects.extend(self.fleet.handle(clock::now(), in_hand));
                }
                self.audience.ends(unit, *run);
            }
            Event::LaunchFailed { unit, run, .. } => {
                self.room.told(unit, *run);
                self.audience.ends(unit, *run);
            }
            Event::Tick => self.look_for_progress(effects),
            Event::Job { .. }
            | Event::Reloaded { .. }
            | Event::Loaded { .. }
            | Event::Spawned { .. }
            | Event::Executed { .. }
            | Event::TreeEmpty { .. }
            | Event::Checked { .. }
            | Event::Controlled { .. }
            | Event::OomKilled { .. }
            | Event::Progressed { .. }
            | Event::Spent { .. }
            | Event::InHand { .. }
            | Event::Frozen { .. }
            | Event::Shutdown => {}
        }
        let followed = self.fleet.handle(clock::now(), event);
        self.timers.watch(&self.fleet, &followed);
        effects.extend(followed);
        if let Some(unit) = heard {
            self.room.heard(&unit);
        }
    }

    /// A deadline has come: maybe one of progress, of which loomd has seen more than it has said so far.
    fn look_for_progress(&mut self, effects: &mut Vec<Effect>) {
        for (unit, run) in self.audience.watched() {
            if let Some(at) = self.audience.last_progress(&unit, run) {
                effects.extend(self.fleet.handle(clock::now(), Event::Progressed { unit, run, at }));
            }
        }
    }

    fn answer(&mut self, ask: Ask, effects: &mut Vec<Effect>) {
        // Who asked may have gone meanwhile; then nobody misses the answer.
        match ask {
            Ask::Job { unit, verb, by, done } => {
                self.last_job += 1;
                let job = JobId(self.last_job);
                self.jobs.insert(job, done);
                self.take(Event::Job { job, unit, verb, by }, effects);
            }
            Ask::Status { unit, reply } => {
                let _ = reply.send(self.fleet.status(&unit));
            }
            Ask::Statuses { reply } => {
                let _ = reply.send(self.fleet.statuses());
            }
            Ask::Unit { unit, reply } => {
                let _ = reply.send(self.fleet.unit(&unit).cloned());
            }
            Ask::Load { unit, reply } => {
                self.take(Event::Loaded { unit }, effects);
                let _ = reply.send(());
            }
            Ask::Reload { units, reply } => {
                self.audience.reloaded(&units);
                self.timers.read_anew(&units);
                self.take(Event::Reloaded { units }, effects);
                let _ = reply.send(());
            }
            Ask::Condition { reply } => {
                let fault = self.degraded.as_ref().or(self.timers.fault());
                let _ = reply.send((fault.cloned(), self.stopping.is_some()));
            }
            Ask::Schedules { reply } => {
                let _ = reply.send(self.timers.list(&self.fleet));
            }
            Ask::Firings { schedule, reply } => {
                let _ = reply.send(self.timers.firings(&schedule, &self.fleet));
            }
            Ask::Fire { schedule, by, reply } => {
                let _ = reply.send(self.timers.fire(&schedule, &by));
            }
            Ask::Reexec => {
                self.timers.rest();
                self.leaving.get_or_insert_with(|| Instant::now() + LEAVE_LIMIT);
            }
            Ask::Shutdown => {
                if self.stopping.is_none() {
                    self.timers.rest();
                    self.stopping = Some(Stopping::InOrder { until: Instant::now() + TOTAL_STOP_LIMIT });
                    self.take(Event::Shutdown, effects);
                }
            }
        }
    }

    /// Carries out effects, and what comes of them at once, until nothing is left to do now.
    async fn settle(&mut self, effects: Vec<Effect>) {
        let mut effects = effects;
        while !effects.is_empty() || !self.timers.is_done() {
            let mut news = self.carry_out(effects).await;
            effects = Vec::new();
            for event in news.drain(..) {
                self.take(event, &mut effects);
            }
            self.start_recorded(&mut effects).await;
        }
        self.timers.arm();
    }

    /// Records what schedules want, and asks for the starts whose records are stored.
    async fn start_recorded(&mut self, effects: &mut Vec<Effect>) {
        let orders = self.timers.record(&self.fleet).await;
        for (schedule, because) in self.timers.take_failed() {
            let followed = self.fleet.fail_schedule(clock::now(), &schedule, &because);
            self.timers.watch(&self.fleet, &followed);
            effects.extend(followed);
        }
        let is_start = !orders.is_empty();
        for order in orders {
            self.last_job += 1;
            let job = JobId(self.last_job);
            let timers::Request { unit, verb, by } = self.timers.ask(job, order, &self.fleet);
            self.take(Event::Job { job, unit, verb, by }, effects);
        }
        if is_start {
            fault::point("timers.started");
        }
    }

    /// One burst: all records as one write, then the rest in order.
    ///
    /// A record names a process, and no process outlives the machine: so a run's record must outlive loomd before its gate
    /// opens, which a write without sync does. What somebody is told of is on the disk before they are told.
    async fn carry_out(&mut self, effects: Vec<Effect>) -> VecDeque<Event> {
        let mut latest = std::mem::take(&mut self.unsaved);
        for effect in &effects {
            if let Effect::Persist { unit, record } = effect {
                latest.insert(unit.clone(), record.clone());
            }
        }
        fault::point("burst.begin");
        // Launchers are made while the disk syncs: behind their gates they do nothing, and a gate that closes ends them.
        let on_disk = effects.iter().any(|effect| matches!(effect, Effect::JobDone { .. }));
        let put =
            (on_disk || !latest.is_empty()).then(|| self.records.put(latest.clone().into_iter().collect(), on_disk));
        let was_asked = put.is_some();
        let (stored, mut launchers) = tokio::join!(
            async {
                match put {
                    Some(put) => put.await,
                    None => Ok(()),
                }
            },
            async { self.launch(&effects) },
        );
        match &stored {
            Ok(()) if was_asked => self.degraded = None,
            Ok(()) => {}
            Err(error) => {
                self.unsaved = latest;
                if self.degraded.is_none() {
                    tracing::error!(error, "the store failed: running units stay up, starts are refused");
                }
                self.degraded = Some(error.clone());
            }
        }
        fault::point("burst.stored");
        let mut news = VecDeque::new();
        for effect in effects {
            match effect {
                Effect::Persist { .. } => {}
                Effect::Spawn { unit, run, facts } => {
                    let outcome = launchers.pop_front().expect("one for each Spawn, in order");
                    news.push_back(self.spawned(unit, run, facts, outcome, &stored));
                }
                Effect::OpenGate { unit, run } => match &stored {
                    Ok(()) => self.room.open_gate(&unit, run),
                    Err(error) => self.room.refuse_gate(&unit, run, &format!("cannot store the run: {error}")),
                },
                Effect::Signal { unit, run, signal } => self.room.signal(&unit, run, signal),
                Effect::EndTree { unit, run, how } => {
                    if self.room.end_tree(&unit, run, how) {
                        news.push_back(Event::TreeEmpty { unit, run });
                    }
                }
                Effect::JobDone { job, outcome } => {
                    self.timers.job_over(job, &outcome, &self.fleet);
                    if let Some(done) = self.jobs.remove(&job) {
                        let _ = done.send(as_stored(outcome, &stored));
                    }
                }
                Effect::Withheld { unit, because } => tracing::warn!(%unit, because, "unit not started"),
                Effect::Check { unit, run } => match self.fleet.unit(&unit) {
                    Some(settings) => self.room.check(settings, run),
                    None => news.push_back(Event::Checked { unit, run, unmet: Some("its file is gone".to_owned()) }),
                },
                Effect::Run { unit, run, control } => {
                    if let Err(failure) = self.help(&unit, run, control) {
                        let end = Controlled::Failed(failure);
                        news.push_back(Event::Controlled { unit, run, control, end });
                    }
                }
                Effect::EndControl { unit, run, control } => self.room.end_control(&unit, run, control),
                Effect::SignalAll { unit, run, signal } => self.room.signal_all(&unit, run, signal),
                Effect::Report { unit, run, result, exit, error } => {
                    let account = self.room.account(&unit);
                    self.records.keep(crash::report(crash::Ended { unit, run, result, exit, error }, account));
                }
                Effect::Leaving { group: _, units } => self.audience.leaving(&units),
                Effect::SetAside { unit, run, work } => {
                    // Stored before the run that is to go without it.
                    if let Err(error) = self.audience.set_aside(&unit, run, &work).await {
                        tracing::error!(%unit, %run, work, error, "an event was set aside, but a new loomd will not know of it");
                    }
                }
                Effect::Inspect { unit, run } => self.room.inspect(&unit, run),
                Effect::Freeze { unit, run, frozen } => self.room.freeze(&unit, run, frozen),
                Effect::Say { unit, run, said } => {
                    let (word, text) = (said.word(), feed::said_text(&said));
                    tracing::info!(%unit, %run, word, text, "unit said");
                    self.audience.said(&unit, run, &said);
                }
                Effect::Changed { unit, run, from, to, sub, result, because } => {
                    if self.rests(&unit) {
                        self.room.drop_kept(&unit);
                    }
                    self.tell(&Change { unit, run, from, to, sub, result, because });
                }
            }
        }
        news
    }

    /// Starts a helping process.
    fn help(&mut self, unit: &UnitId, run: RunId, control: Control) -> Result<(), LaunchFailure> {
        let (Some(settings), Some(status)) = (self.fleet.unit(unit), self.fleet.status(unit)) else {
            return Err(LaunchFailure::Resources(format!("{unit} is not loaded")));
        };
        let facts = RunFacts { run, restarts: status.restarts, last_result: None, last_exit: None };
        let ended = match control {
            Control::StopPost(_) => self.fleet.ended(unit).map(|(result, exit)| RunEnd { result, exit }),
            Control::StartPre(_)
            | Control::Reload
            | Control::Stop
            | Control::Startup
            | Control::Readiness
            | Control::Liveness => None,
        };
        self.room.run_control(settings, control, &facts, ended)
    }

    /// Whether a unit is down and not about to start.
    fn rests(&self, unit: &UnitId) -> bool {
        self.fleet.status(unit).is_none_or(|status| match status.active_state {
            ActiveState::Inactive | ActiveState::Failed => status.next_start.is_none() && status.waits_for.is_none(),
            ActiveState::Activating | ActiveState::Active | ActiveState::Reloading | ActiveState::Deactivating => false,
        })
    }

    fn launch(&mut self, effects: &[Effect]) -> VecDeque<Result<Spawned, LaunchFailure>> {
        let mut launchers = VecDeque::new();
        for effect in effects {
            if let Effect::Spawn { unit, run, facts } = effect {
                launchers.push_back(match self.fleet.unit(unit) {
                    Some(unit) => self.room.spawn(unit, *run, facts),
                    None => Err(LaunchFailure::Resources(format!("{unit} is not loaded"))),
                });
            }
        }
        launchers
    }

    fn spawned(
        &mut self,
        unit: UnitId,
        run: RunId,
        facts: RunFacts,
        outcome: Result<Spawned, LaunchFailure>,
        stored: &Result<(), String>,
    ) -> Event {
        let prepared = outcome.and_then(|spawned| {
            let begun = match (stored, self.fleet.unit(&unit)) {
                (Err(error), _) => Err(format!("cannot store the run: {error}")),
                (Ok(()), None) => Err(format!("{unit} is not loaded")),
                (Ok(()), Some(settings)) => self.audience.begins(settings, run, &facts, &spawned.identity),
            };
            match begun {
                Ok(()) => {
                    fault::point("spawn.announced");
                    Ok(spawned)
                }
                Err(because) => {
                    self.room.abandon(&unit, run);
                    Err(LaunchFailure::Resources(because))
                }
            }
        });
        match prepared {
            Ok(Spawned { identity, enforcement }) => Event::Spawned { unit, run, identity, enforcement },
            Err(failure) => {
                self.audience.ends(&unit, run);
                Event::LaunchFailed { unit, run, failure }
            }
        }
    }

    fn tell(&self, change: &Change) {
        let Change { unit, run, from, to, sub, result, because } = change;
        let (from, to, result) = (from.word(), to.word(), result_word(*result));
        tracing::info!(%unit, %run, from, to, sub, result, because, "unit changed state");
        self.audience.changed(change);
    }

    /// The next moment at which something is due without news.
    fn wake(&self) -> Option<Instant> {
        let fleet = self.fleet.next_wake().map(|at| Instant::now() + span(at - clock::monotonic()));
        let limit = self.stopping.map(|stopping| match stopping {
            Stopping::InOrder { until } | Stopping::Killed { until } => until,
        });
        [fleet, limit, self.leaving].into_iter().flatten().min()
    }

    /// Past the total limit everything is killed; past the second one the loop ends with what is left.
    fn past_limit(&mut self) -> Option<usize> {
        match self.stopping {
            Some(Stopping::InOrder { until }) if until <= Instant::now() => {
                let killed = self.room.end_everything();
                tracing::error!(killed, limit = ?TOTAL_STOP_LIMIT, "stopping took longer than TOTAL_STOP_LIMIT: killed the rest");
                self.stopping = Some(Stopping::Killed { until: Instant::now() + AFTER_KILL_LIMIT });
                None
            }
            Some(Stopping::Killed { until }) if until <= Instant::now() => Some(self.room.alive()),
            Some(Stopping::InOrder { .. } | Stopping::Killed { .. }) | None => None,
        }
    }
}

fn span(millis: Millis) -> Duration {
    Duration::from_millis(millis.0)
}

/// What the person is told: what is done but not on the disk is no success, for a new loomd would not know of it.
fn as_stored(outcome: JobOutcome, stored: &Result<(), String>) -> JobOutcome {
    match (outcome, stored) {
        (JobOutcome::Done, Err(error)) => JobOutcome::Failed {
            error: "it is done, but the store did not take it: after a restart loomd would not know of it".into(),
            cause: Some(error.clone()),
            hint: Some("see `loomctl status` for the store's state, mend that, then ask again".into()),
        },
        (outcome, _) => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Settings;
    use loom_core::lifecycle::Now;
    use loom_core::machine::Machine;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Disk {
        is_full: AtomicBool,
        has: Mutex<BTreeMap<UnitId, Record>>,
    }

    impl Records for Disk {
        fn put(&self, records: Vec<(UnitId, Record)>, _: bool) -> Later<Result<(), String>> {
            if self.is_full.load(Ordering::SeqCst) {
                return Box::pin(async { Err("no space left".into()) });
            }
            self.has.lock().unwrap().extend(records);
            Box::pin(async { Ok(()) })
        }

        fn keep(&self, _: CrashReport) {}
    }

    struct Nobody;

    impl Audience for Nobody {
        fn begins(&self, _: &Unit, _: RunId, _: &RunFacts, _: &Identity) -> Result<(), String> {
            Ok(())
        }
        fn in_hand(&self, _: &UnitId, _: RunId) -> Vec<String> {
            Vec::new()
        }
        fn ends(&self, _: &UnitId, _: RunId) {}
        fn changed(&self, _: &Change) {}
        fn said(&self, _: &UnitId, _: RunId, _: &Said) {}
        fn watched(&self) -> Vec<(UnitId, RunId)> {
            Vec::new()
        }
        fn last_progress(&self, _: &UnitId, _: RunId) -> Option<Millis> {
            None
        }
        fn set_aside(&self, _: &UnitId, _: RunId, _: &str) -> Later<Result<(), String>> {
            Box::pin(async { Ok(()) })
        }
        fn leaving(&self, _: &[UnitId]) {}
        fn reloaded(&self, _: &BTreeMap<UnitId, Unit>) {}
    }

    struct NoSchedule;

    impl timers::Keeper for NoSchedule {
        fn keep(&self, _: Vec<(UnitId, Option<loom_core::schedule::Record>)>, _: bool) -> Later<Result<(), String>> {
            Box::pin(async { Ok(()) })
        }
        fn publish(&self, _: &str, _: &serde_json::Value) {}
        fn hears(&self, _: &UnitId) -> bool {
            false
        }
        fn read(&self, unit: &UnitId) -> Result<Unit, String> {
            Err(format!("there is no {unit}"))
        }
        fn zones(&self) -> loom_core::schedule::zone::Zones {
            loom_core::schedule::zone::Zones::default()
        }
    }

    /// Two targets, which start without a process.
    fn units(place: &std::path::Path) -> BTreeMap<UnitId, Unit> {
        for name in ["a", "b"] {
            std::fs::write(place.join(format!("{name}.target.toml")), "").unwrap();
        }
        let path = [place.to_owned()];
        let facts = loom_api::unit_files::facts(place, place, &path);
        loom_core::unit::load_all(&loom_api::unit_files::read(&path), &facts, None).units
    }

    #[tokio::test]
    async fn what_the_store_did_not_take_goes_with_its_next_write() {
        let place = tempfile::tempdir().unwrap();
        let (events_in, events) = mpsc::channel(8);
        let (asks_in, asks) = mpsc::channel(8);
        let settings = Settings {
            runtime_dir: place.path().to_owned(),
            state_dir: place.path().to_owned(),
            protected: vec![],
            home: None,
            libexec: place.path().to_owned(),
            machine: Machine { cgroup_v2: None, ..crate::machine::probe() },
            boot_id: "boot".into(),
            log_word: "stderr",
            open_log: Box::new(|_, _| Err(std::io::Error::other("no log here"))),
        };
        let disk = Arc::new(Disk::default());
        let now = Now { mono: Millis(0), wall: 0, chance: 0 };
        let (fleet, first) = Fleet::new(units(place.path()), BTreeMap::new(), "boot", now);
        let room = Room::open(settings, events_in);
        let timers = Timers::open(
            Arc::new(NoSchedule),
            "machine",
            "boot",
            BTreeMap::new(),
            &BTreeMap::new(),
            &Default::default(),
            &fleet,
        );
        let parts = Parts { fleet, room, records: disk.clone(), audience: Arc::new(Nobody), timers, events, asks };
        let looping = tokio::spawn(Looper::new(parts).run(first));
        let start = async |unit: &str| {
            let (done, outcome) = oneshot::channel();
            let unit: UnitId = unit.parse().unwrap();
            asks_in.send(Ask::Job { unit, verb: Verb::Start, by: "person".into(), done }).await.unwrap();
            let outcome = outcome.await.unwrap();
            let (reply, condition) = oneshot::channel();
            asks_in.send(Ask::Condition { reply }).await.unwrap();
            (condition.await.unwrap().0, outcome)
        };
        disk.is_full.store(true, Ordering::SeqCst);
        let (condition, told) = start("a.target").await;
        assert_eq!(condition.as_deref(), Some("no space left"));
        assert!(
            matches!(&told, JobOutcome::Failed { cause: Some(cause), .. } if cause == "no space left"),
            "what is not on the disk is no success: {told:?}"
        );
        disk.is_full.store(false, Ordering::SeqCst);
        assert_eq!(start("b.target").await, (None, JobOutcome::Done));
        let has: Vec<String> = disk.has.lock().unwrap().iter().map(|(id, r)| format!("{id} {}", r.wanted)).collect();
        assert_eq!(has, ["a.target true", "b.target true"]);
        asks_in.send(Ask::Shutdown).await.unwrap();
        looping.await.unwrap();
    }
}
