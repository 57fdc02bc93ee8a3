//! fleet: all units together.
//!
//! Job: jobs, dependencies, order; above [`crate::lifecycle`], which knows one unit.
//! May touch: `ids`, `unit`, `lifecycle`. May not: clocks, files, processes, tokio.
//! Keeps: every job ends in exactly one [`Effect::JobDone`]; [`Effect::Persist`] stands before what depends on it.
//!
//! # Jobs
//! A unit has at most one job. A new request meets the one that is there:
//!
//! | there is | start | stop | restart | reload |
//! |---|---|---|---|---|
//! | none | starts; done at once if it is up | stops; done at once if it is down | down, then up; of a unit that is down: a start | reloads what is up; else fails |
//! | start | joins | replaces it | joins while nothing was spawned, else down, then up | joins while nothing was spawned, else follows it |
//! | stop | is kept: down, then up | joins | is kept: down, then up | fails |
//! | restart | joins | replaces its second half | joins | joins: a new process reads its settings anew |
//! | reload | is done: it is up | replaces it | replaces it | follows it, once for all: the first may have read too early |
//!
//! - A start is done when its unit is up, and failed when the run that it caused ends before that, even if the policy starts
//!   another: a person gets an answer, the unit its next try. A start of a waiting restart starts at once. One that a condition
//!   skipped is done. One that waits for others longer than `job_timeout` fails with what it waited for; the wait of a start
//!   that a new loomd repeats begins anew.
//! - A stop is done when nothing of the unit is left, also if it had to be killed. A stop with SIGKILL at once joins a stop and
//!   hurries it; it waits for no dependents.
//! - A reload that is late or fails fails the job; the unit stays up. Where nothing tells the program, it is refused.
//! - A start forgets the failures counted so far. It is refused while the unit's budget is used up.
//! - try-restart is a restart of what is up or on its way, and nothing for the rest. verify-active, a signal and reset-failed
//!   are answered at once and meet no job. Freeze and thaw are answered when the processes stand still or go on.
//!
//! # Dependencies
//! systemd's meanings, but for the first two lines.
//!
//! - An automatic restart leaves dependents alone, also bound ones; a final failure stops them (`failed`, result `dependency`).
//! - A waiting start stays until what it needs recovers, through any number of automatic restarts. A waiting restart that is
//!   due waits too.
//!
//! | key | start | its stop or restart | its failure | its clean end |
//! |---|---|---|---|---|
//! | `requires` | pulled in, must be up, have been up meanwhile, or be skipped by a condition | goes along, first down | stopped | – |
//! | `requisite` | must be up already; one on its way is waited for | goes along | stopped | – |
//! | `binds_to` | pulled in, must be up | goes along | stopped | stopped |
//! | `wants` | pulled in, may fail | – | – | – |
//! | `upholds` | pulled in, may fail; started again whenever it is down while the upholder is up | – | – | – |
//! | `part_of` | – | goes along | – | – |
//! | `conflicts` | the other is stopped with what goes along with it, and waited for | – | – | – |
//!
//! - Order is `after`'s alone (the loader adds what the first three imply, unless `unordered`). Where both start, the later
//!   one waits until the earlier is `started` (its program runs), `ready`, `healthy`, `exited` or `succeeded`. A unit that
//!   does not start is not waited for, and one that is only ordered before may fail, but for `succeeded`: where it ends
//!   otherwise for good, the waiting start fails. `exited` and `succeeded` count from the request on, and wait for one that
//!   runs. Stops go in the reverse order.
//! - What rests before a restart is left to its back-off by those that pull it in.
//! - An upheld unit waits as after failures: its own `delay`, doubled with each try, until a run lasted for `reset_after`. A
//!   person's stop is followed by a start too, as in systemd; one that conflicts with what is up waits until that is down.
//! - A start whose needs conflict with one another is refused. Of two that are only wanted, the one that is up is kept, else
//!   the first; the other is withheld.
//! - A target is ordered after its members, unless a member orders itself after the target, and is up when they are, or
//!   have failed if only wanted. A stop of a target stops the units it pulled in, directly or not, that no other unit which
//!   is up or starting requires or wants. What a person started, and what other targets want, stays.
//! - `on_success`, `on_failure` and `on_give_up` start their units as a person would, with `triggered_by` naming the cause. A
//!   handler that would start a unit whose end it follows from is withheld; what a person started, or what was up for
//!   `reset_after`, follows from nothing.
//! - Units on a cycle of the order refuse to start, and say the cycle.
//!
//! `groups` has the rules of `[group]`, `changes` those of a reload of unit files.
//!
//! # Death of loomd
//! Each unit's wish to be up is stored. A new loomd starts wanted units that do not run; in the same boot each alone, since
//! what it pulled in has a wish of its own, after a new boot with what it requires and wants. A stop, a final failure and an
//! end without restart withdraw the wish; [`Event::Shutdown`] does not, so what ran comes back with the next loomd. Stored too:
//! a group's restarts within its period, and that processes stand still (asked for again, as loomd may have died before).
//! Not stored: jobs, chains of handlers, tries of upheld units.

mod changes;
mod graph;
mod groups;
mod jobs;
mod pauses;
mod scheduled;
mod shown;
#[cfg(test)]
mod tests;
mod ties;
mod waits;

pub use changes::Changes;

#[cfg(test)]
pub(crate) use shown::without_file;

use crate::ids::{Millis, RunId, UnitId};
use crate::lifecycle::{
    self, ActiveState, Control, Controlled, Exit, Identity, LaunchFailure, Life, Notify, Now, Record, RunResult, Said,
    State, TreeEnd, Why,
};
use crate::machine::Enforcement;
use crate::unit::{RunFacts, Unit, Until};
use graph::Graph;
use std::collections::{BTreeMap, BTreeSet};

/// Numbers a request for work; unique within one life of loomd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// What is asked of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop,
    /// As `Stop`, with SIGKILL at once.
    StopNow,
    Restart,
    /// The program's own reload.
    Reload,
    /// As `Restart`, of a unit that runs; of another: nothing.
    TryRestart,
    /// Done if it is active, failed if not; changes nothing.
    VerifyActive,
    /// Sends a signal, and waits for nothing.
    Kill {
        signal: i32,
        whom: Whom,
    },
    /// Forgets that it failed, how often, and what it was started with too often.
    ResetFailed,
    /// Stops all its processes in their tracks.
    Freeze,
    /// Lets them go on.
    Thaw,
}

/// Whom a signal goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    Main,
    All,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobOutcome {
    /// The unit is where the job wanted it.
    Done,
    /// It is not; for a person: what failed on what, the cause, the next step.
    Failed { error: String, cause: Option<String>, hint: Option<String> },
    /// Another job took its place (a stop beats a start).
    Replaced,
    /// There is no such unit.
    NoSuchUnit,
}

/// News for the fleet. Closed: whoever adds one decides what it means everywhere.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A person, or loomd itself, asks.
    Job { job: JobId, unit: UnitId, verb: Verb, by: String },
    /// All units as read anew, loaded instances included; what is not among them was removed. Running processes are not touched.
    Reloaded { units: BTreeMap<UnitId, Unit> },
    /// An instance of a template was read on demand.
    Loaded { unit: Box<Unit> },
    /// The launcher stands behind its gate under this identity.
    Spawned { unit: UnitId, run: RunId, identity: Identity, enforcement: Vec<Enforcement> },
    /// execve succeeded.
    Executed { unit: UnitId, run: RunId },
    /// There will be no process. Sent instead of `Executed`, and after it no `Exited` follows.
    LaunchFailed { unit: UnitId, run: RunId, failure: LaunchFailure },
    /// The main process is gone and reaped.
    Exited { unit: UnitId, run: RunId, exit: Exit },
    /// Nothing of the run is left. Comes after `Exited`, once, in answer to `EndTree`.
    TreeEmpty { unit: UnitId, run: RunId },
    /// sd_notify.
    Notified { unit: UnitId, run: RunId, notify: Notify },
    /// Its conditions were looked at; `unmet`: the first that does not hold, as written.
    Checked { unit: UnitId, run: RunId, unmet: Option<String> },
    /// A helping process ended, and nothing of it is left.
    Controlled { unit: UnitId, run: RunId, control: Control, end: Controlled },
    /// `MAINPID=` of a process that is proven to be the unit's.
    MainProcess { unit: UnitId, run: RunId, identity: Identity },
    /// The kernel killed a process of the tree for want of memory.
    OomKilled { unit: UnitId, run: RunId },
    /// loomd saw it publish or call a tool, at that moment of the monotonic clock.
    Progressed { unit: UnitId, run: RunId, at: Millis },
    /// It used some of its budget.
    Spent { unit: UnitId, run: RunId, tokens: u64, cost_micros: u64, calls: u64 },
    /// What it was working on: ids of events and tasks. Comes before `Exited`.
    InHand { unit: UnitId, run: RunId, work: Vec<String> },
    /// Its processes were stopped in their tracks, or go on; or that did not work.
    Frozen { unit: UnitId, run: RunId, outcome: Result<bool, String> },
    /// A deadline given by [`Fleet::next_wake`] has come.
    Tick,
    /// Stop everything, in order. [`Fleet::is_quiet`] tells when that is done.
    Shutdown,
}

/// Work for the shell, in order. What comes of it returns as an [`Event`].
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "short-lived, and records are most of them")]
pub enum Effect {
    /// Store, synced, before anything that follows.
    Persist { unit: UnitId, record: Record },
    /// Start the launcher behind its gate. Answer: `Spawned` or `LaunchFailed`.
    Spawn { unit: UnitId, run: RunId, facts: RunFacts },
    /// Let the launcher go on. Answer: `Executed` or `LaunchFailed`.
    OpenGate { unit: UnitId, run: RunId },
    /// Send a signal to the main process, followed by SIGCONT if it is a stop signal.
    Signal { unit: UnitId, run: RunId, signal: i32 },
    /// End what is left of the tree; `Kill` ends the main process too. Answer: `Exited` if the main process lived and was
    /// killed, then, once nothing is left or what is left may live on, `TreeEmpty`. May be asked again with more force.
    EndTree { unit: UnitId, run: RunId, how: TreeEnd },
    /// Look at the conditions of its start. Answer: `Checked`.
    Check { unit: UnitId, run: RunId },
    /// Start a helping process, in the unit's sandbox and tree. Answer: `Controlled`.
    Run { unit: UnitId, run: RunId, control: Control },
    /// Kill a helping process and what it started. Its `Controlled` follows.
    EndControl { unit: UnitId, run: RunId, control: Control },
    /// Send a signal to every process of the tree.
    SignalAll { unit: UnitId, run: RunId, signal: i32 },
    /// Note what can be seen of its processes, for a crash report.
    Inspect { unit: UnitId, run: RunId },
    /// Keep a crash report of the run that has just ended.
    Report { unit: UnitId, run: RunId, result: RunResult, exit: Option<Exit>, error: Option<String> },
    /// Deliver this event or task to the unit no more; keep it as a dead letter.
    SetAside { unit: UnitId, run: RunId, work: String },
    /// Stop all its processes in their tracks, or let them go on. Answer: `Frozen`.
    Freeze { unit: UnitId, run: RunId, frozen: bool },
    /// One line of log and one event on the bus (`loom.unit.<word>`).
    Say { unit: UnitId, run: RunId, said: Said },
    /// These units go down now, because their group restarts or ends; told to the bus before the first signal.
    Leaving { group: UnitId, units: Vec<UnitId> },
    /// One line of log: what was to be done with this unit, and why it is not.
    Withheld { unit: UnitId, because: String },
    /// A job is over.
    JobDone { job: JobId, outcome: JobOutcome },
    /// One line of log and one event on the bus (`loom.unit.changed`).
    Changed {
        unit: UnitId,
        run: RunId,
        from: ActiveState,
        to: ActiveState,
        sub: &'static str,
        result: RunResult,
        because: String,
    },
}

/// What a new loomd found of a stored run. What a gone process left of its tree is ended by an [`Effect::EndTree`] that follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Identity matches: adopt.
    Alive,
    /// Gone, or the pid is another's. The exit if it can be known.
    Gone(Exit),
}

/// A unit as `status` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub unit: UnitId,
    pub description: String,
    pub active_state: ActiveState,
    /// `dead`, `running`, `exited`, `start-pre`, `start`, `auto-restart`, `waiting`, `stop-sigterm`, `stop-sigkill`, `stop-watchdog`, `stop-post`, `failed`.
    pub sub_state: &'static str,
    pub result: RunResult,
    pub exit: Option<Exit>,
    pub run: RunId,
    pub main_pid: Option<i32>,
    pub restarts: u64,
    pub since: u64,
    pub triggered_by: String,
    /// When a waiting restart happens, on the monotonic clock.
    pub next_start: Option<Millis>,
    /// Why it waits that long: `back-off`, `retry-after`, `start-limit`, `group` or `upheld`.
    pub next_start_because: Option<&'static str>,
    /// The unit a waiting start waits for.
    pub waits_for: Option<UnitId>,
    /// How far that unit must come.
    pub waits_until: Option<Awaited>,
    /// Since when a job of it is open, on the monotonic clock, and what it is: `start`, `stop`, `restart`, `reload`.
    pub job: Option<(&'static str, Millis)>,
    /// `STATUS=` of the run.
    pub status_text: Option<String>,
    /// Why the last start failed, with stage and errno.
    pub last_error: Option<String>,
    pub enforcement: Vec<Enforcement>,
    /// The unit file is gone but the unit still runs.
    pub not_found: bool,
    /// The file's settings differ from those of the live run.
    pub needs_restart: bool,
    /// Which ones: `exec.command[1]`.
    pub changed_keys: Vec<String>,
    /// Its processes were stopped in their tracks.
    pub frozen: bool,
    /// Whether it is up and its probes pass; `None` where it has none.
    pub healthy: Option<bool>,
    /// Runs that failed in a row since the last stable one.
    pub failures: u32,
    /// It failed so often in a row that this is said.
    pub crash_looping: bool,
    /// The last runs that failed or were lost, the newest last.
    pub deaths: Vec<lifecycle::Death>,
    /// `ERRNO=` of the run.
    pub errno: Option<i32>,
    /// What it used of its budget in the window that has begun, the time of the live run included.
    pub used: Option<lifecycle::Tally>,
    /// Why a start would be refused now: its budget is used up.
    pub refuses_start: Option<String>,
    /// When its newest run began, on the monotonic clock; `None` for one that an earlier loomd began.
    pub began_at: Option<Millis>,
    /// When that run came up.
    pub up_at: Option<Millis>,
    /// Restarts of its group within the period, for a target with one.
    pub group_restarts: u32,
}

/// How far another unit must come before a start goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    Up(Until),
    /// It conflicts, and is on its way down.
    Down,
}

impl Awaited {
    /// `ready`, `exited`, …, `stopped`.
    pub fn word(self) -> &'static str {
        match self {
            Awaited::Up(Until::Started) => "started",
            Awaited::Up(Until::Ready) => "ready",
            Awaited::Up(Until::Healthy) => "healthy",
            Awaited::Up(Until::Exited) => "exited",
            Awaited::Up(Until::Succeeded) => "succeeded",
            Awaited::Down => "stopped",
        }
    }
}

/// All units and jobs.
#[derive(Debug)]
pub struct Fleet {
    boot_id: String,
    units: BTreeMap<UnitId, Entry>,
    graph: Graph,
    /// `Shutdown` came: nothing starts any more.
    stopping: bool,
    now: Now,
    /// Units that were touched since their record was last compared.
    touched: BTreeSet<UnitId>,
    out: Vec<Effect>,
}

/// A unit, its life and what is wished of it.
#[derive(Debug)]
struct Entry {
    /// As its live run, or its next one, uses it.
    unit: Unit,
    /// As its file says now, where that differs from what the live run was given.
    next: Option<Box<Unit>>,
    /// Its file is gone.
    not_found: bool,
    life: Life,
    job: Option<Job>,
    /// Since when a job is open.
    job_since: Millis,
    /// What its start, or its due restart, waits for.
    waits_for: Option<(UnitId, Awaited)>,
    /// Its start, or its restart, is part of a group's, which is due then.
    held_until: Option<Millis>,
    wanted: bool,
    pulled_in_by: Option<UnitId>,
    /// Units whose handlers led to its newest start, the first cause first.
    caused_by: Vec<UnitId>,
    /// Wall clock, of the last change of `active_state`.
    since: u64,
    began_at: Option<Millis>,
    up_at: Option<Millis>,
    upholding: Upholding,
    frozen: Frozen,
    /// Of a target with a group: when it restarted, within the period.
    group_restarts: Vec<Millis>,
    shown: (ActiveState, &'static str),
    stored: Record,
}

/// A unit that others uphold.
#[derive(Debug, Default)]
struct Upholding {
    /// When it is started again.
    at: Option<Millis>,
    /// Starts in a row for the upholder's sake.
    tries: u32,
}

/// Whether its processes stand still.
#[derive(Debug)]
enum Frozen {
    No,
    /// Asked to, then.
    Freezing {
        since: Millis,
        waiters: Vec<JobId>,
    },
    /// Since that moment of the monotonic clock.
    Since(Millis),
    /// Asked to go on.
    Thawing {
        since: Millis,
        waiters: Vec<JobId>,
    },
}

/// What is to be done with a unit.
#[derive(Debug)]
enum Job {
    Start(Start),
    Stop(Stop),
    /// Down, then up.
    Restart(Stop, Start),
    /// Stays up, with settings read anew.
    Reload(Reload),
}

/// To be up.
#[derive(Debug)]
struct Start {
    waiters: Vec<JobId>,
    by: String,
    /// A run is on its way that answers for this job.
    begun: bool,
    /// Required units that were up since it was asked for: a oneshot does not stay up.
    met: BTreeSet<UnitId>,
    /// Units before it in the order whose run ended since it was asked for, and how.
    ended: BTreeMap<UnitId, RunResult>,
    /// From then on `unit.job_timeout` counts.
    asked_at: Millis,
    /// To be reloaded once it is up.
    reloads: Vec<JobId>,
}

/// To be down.
#[derive(Debug)]
struct Stop {
    waiters: Vec<JobId>,
    why: Why,
    /// The unit was told.
    told: bool,
    /// SIGKILL at once.
    at_once: bool,
}

/// To read its settings anew.
#[derive(Debug)]
struct Reload {
    waiters: Vec<JobId>,
    /// Asked for while one was under way, which may have read too early.
    again: Vec<JobId>,
}

impl Fleet {
    /// Builds the fleet from units read, records stored and what was found of their processes.
    ///
    /// A record with `Phase::Intended` has no process by construction; one of another boot is passed as `Gone(Unknown)`.
    /// Adopted runs keep pid, run, timers and deadlines. Effects repeat what the policy asks for.
    pub fn new(
        units: BTreeMap<UnitId, Unit>,
        stored: BTreeMap<UnitId, (Record, Found)>,
        boot_id: &str,
        now: Now,
    ) -> (Self, Vec<Effect>) {
        let mut fleet = Self {
            boot_id: boot_id.to_owned(),
            graph: Graph::new(units.values()),
            units: BTreeMap::new(),
            stopping: false,
            now,
            touched: BTreeSet::new(),
            out: vec![],
        };
        for (_, unit) in units {
            fleet.insert(unit, false);
        }
        let mut carry_on = vec![];
        for (id, (record, found)) in stored {
            if !fleet.units.contains_key(&id) {
                fleet.insert(shown::without_file(id.clone()), true);
            }
            let (effects, repeat) = fleet.adopt(&id, record, &found);
            carry_on.push((id, effects, repeat));
        }
        for (id, _, repeat) in &carry_on {
            fleet.repeat(id, *repeat);
        }
        for (id, effects, _) in carry_on {
            fleet.carry_out(&id, effects);
        }
        fleet.end_what_has_no_ground();
        fleet.resume_group_restarts();
        let effects = fleet.settle();
        (fleet, effects)
    }

    /// Goes on with everything as far as it gets now, and says what is to be done.
    fn settle(&mut self) -> Vec<Effect> {
        loop {
            self.advance();
            if !self.uphold() {
                break;
            }
        }
        self.persist_touched();
        std::mem::take(&mut self.out)
    }

    fn insert(&mut self, unit: Unit, not_found: bool) {
        let life = Life::new();
        let entry = Entry {
            shown: life.state.words(),
            unit,
            next: None,
            not_found,
            life,
            job: None,
            job_since: Millis(0),
            waits_for: None,
            held_until: None,
            wanted: false,
            pulled_in_by: None,
            caused_by: vec![],
            since: self.now.wall,
            began_at: None,
            up_at: None,
            upholding: Upholding::default(),
            frozen: Frozen::No,
            group_restarts: vec![],
            stored: Record::never_ran(),
        };
        self.units.insert(entry.unit.id.clone(), entry);
    }

    /// Takes over what a record says of a unit.
    fn adopt(&mut self, id: &UnitId, record: Record, found: &Found) -> (Vec<lifecycle::Effect>, lifecycle::Repeat) {
        let adopted = lifecycle::adopt(&self.entry(id).unit, &record, found, &self.boot_id, self.now);
        let mut freezes = None;
        let (wall, boot_id) = (self.now.wall, self.boot_id.clone());
        let entry = self.entry_mut(id);
        entry.life = adopted.life;
        entry.wanted = record.wanted;
        entry.pulled_in_by = record.pulled_in_by.clone();
        if record.boot_id == boot_id {
            entry.up_at = record.ready_at.filter(|_| entry.life.state.is_up());
            entry.group_restarts.clone_from(&record.group_restarts);
            if let Some(since) = record.frozen_at.filter(|_| entry.life.state.is_up()) {
                // Whether the loomd before came to do it is not known.
                entry.frozen = Frozen::Freezing { since, waiters: vec![] };
                freezes = Some(entry.life.run);
            }
        }
        entry.shown = entry.words();
        let is_as_before = record.phase == lifecycle::Phase::Ended || (record.ready && entry.life.state.is_up());
        entry.since = if is_as_before { record.since } else { wall };
        entry.stored = record;
        if let Some(run) = freezes {
            self.out.push(Effect::Freeze { unit: id.clone(), run, frozen: true });
        }
        (adopted.effects, adopted.repeat)
    }

    /// Repeats a start or a stop whose job died with the loomd before.
    fn repeat(&mut self, id: &UnitId, repeat: lifecycle::Repeat) {
        let entry = self.entry_mut(id);
        if entry.not_found && entry.life.state.is_at_rest() {
            entry.life.state = State::Down { failed: false };
            entry.wanted = false;
            return;
        }
        let starts = match repeat {
            lifecycle::Repeat::No => false,
            lifecycle::Repeat::Alone | lifecycle::Repeat::WithDependencies => true,
        };
        if !starts {
            if entry.life.state.is_live() && !entry.wanted {
                self.ask_stop(id, None, Why::Asked, false);
            } else if matches!(entry.life.state, State::Down { .. }) {
                entry.wanted = false;
            }
        } else if let Some(cycle) = self.graph.cycle(id) {
            self.apply(id, lifecycle::Event::Refuse { text: format!("it is on a dependency cycle: {cycle}") });
            self.entry_mut(id).wanted = false;
        } else {
            self.make_way(id);
            self.ask_start(id, None, "loomd".to_owned());
            match repeat {
                lifecycle::Repeat::WithDependencies => self.pull_in(id),
                lifecycle::Repeat::No | lifecycle::Repeat::Alone => self.meet_accomplished(id),
            }
        }
    }

    /// Takes one event.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Effect> {
        self.now = now;
        match event {
            Event::Job { job, unit, verb, by } => self.request(job, &unit, verb, by),
            Event::Reloaded { units } => self.reloaded(units),
            Event::Loaded { unit } => {
                self.read_anew(*unit);
                self.redraw();
            }
            Event::Spawned { unit, run, identity, enforcement } => {
                self.apply(&unit, lifecycle::Event::Spawned { run, identity, enforcement });
            }
            Event::Executed { unit, run } => self.apply(&unit, lifecycle::Event::Executed { run }),
            Event::LaunchFailed { unit, run, failure } => {
                self.apply(&unit, lifecycle::Event::LaunchFailed { run, failure });
            }
            Event::Exited { unit, run, exit } => self.apply(&unit, lifecycle::Event::Exited { run, exit }),
            Event::TreeEmpty { unit, run } => self.apply(&unit, lifecycle::Event::TreeEmpty { run }),
            Event::Notified { unit, run, notify } => self.apply(&unit, lifecycle::Event::Notified { run, notify }),
            Event::Tick => {
                let due = |entry: &&Entry| entry.life_deadline().is_some_and(|at| at <= now.mono);
                let late: Vec<_> = self.units.values().filter(due).map(|entry| entry.unit.id.clone()).collect();
                for id in late {
                    self.apply(&id, lifecycle::Event::Tick);
                }
                self.end_late_starts();
            }
            Event::Checked { unit, run, unmet } => self.apply(&unit, lifecycle::Event::Checked { run, unmet }),
            Event::Controlled { unit, run, control, end } => {
                self.apply(&unit, lifecycle::Event::Controlled { run, control, end });
            }
            Event::MainProcess { unit, run, identity } => {
                self.apply(&unit, lifecycle::Event::MainProcess { run, identity });
            }
            Event::OomKilled { unit, run } => self.apply(&unit, lifecycle::Event::OomKilled { run }),
            Event::Progressed { unit, run, at } => self.apply(&unit, lifecycle::Event::Progressed { run, at }),
            Event::Spent { unit, run, tokens, cost_micros, calls } => {
                self.apply(&unit, lifecycle::Event::Spent { run, tokens, cost_micros, calls });
            }
            Event::InHand { unit, run, work } => self.apply(&unit, lifecycle::Event::InHand { run, work }),
            Event::Frozen { unit, run, outcome } => self.frozen(&unit, run, outcome),
            Event::Shutdown => self.shutdown(),
        }
        self.settle()
    }

    /// The earliest deadline of any unit; the shell sleeps until then and sends `Tick`.
    pub fn next_wake(&self) -> Option<Millis> {
        self.units.values().filter_map(Entry::deadline).min()
    }

    /// Nothing runs and no job is open.
    pub fn is_quiet(&self) -> bool {
        self.units.values().all(|entry| entry.job.is_none() && matches!(entry.life.state, State::Down { .. }))
    }

    /// No start is under way between its first record and its program.
    pub fn is_settled(&self) -> bool {
        self.units.values().all(|entry| !entry.life.state.is_between_records())
    }

    /// How a unit's run has ended, while what is left of it is being ended and `stop.post` runs.
    pub fn ended(&self, unit: &UnitId) -> Option<(RunResult, Option<Exit>)> {
        self.units.get(unit)?.life.ended().map(|end| (end.result, end.exit))
    }

    /// One unit, as of the last event.
    pub fn status(&self, unit: &UnitId) -> Option<Status> {
        self.units.get(unit).filter(|entry| entry.is_listed()).map(|entry| entry.status(self.now))
    }

    /// All units, by name.
    pub fn statuses(&self) -> Vec<Status> {
        self.units.values().filter(|entry| entry.is_listed()).map(|entry| entry.status(self.now)).collect()
    }

    /// The checked unit that a live run, or the next start, uses.
    pub fn unit(&self, unit: &UnitId) -> Option<&Unit> {
        self.units.get(unit).filter(|entry| entry.is_listed()).map(|entry| &entry.unit)
    }

    /// Gives an event to one unit and carries out what follows.
    fn apply(&mut self, id: &UnitId, event: lifecycle::Event) {
        let now = self.now;
        let Some(entry) = self.units.get_mut(id) else { return };
        self.touched.insert(id.clone());
        let because = event.because();
        let (was_live, was_up) = (entry.life.state.is_live(), entry.life.state.is_up());
        let life = std::mem::take(&mut entry.life);
        let (life, effects) = lifecycle::step(&entry.unit, life, now, event);
        entry.life = life;
        let state = &entry.life.state;
        if (!was_live && state.is_live()) || (!was_up && *state == State::Reached) {
            (entry.began_at, entry.up_at) = (Some(now.mono), None);
        }
        if !was_up && state.is_up() {
            entry.up_at = Some(now.mono);
        }
        let over = was_live && state.is_at_rest();
        if over && let Some(next) = entry.next.take() {
            entry.unit = *next;
        }
        self.show(id, &because);
        self.carry_out(id, effects);
        if over {
            self.run_over(id);
        }
    }

    fn carry_out(&mut self, id: &UnitId, effects: Vec<lifecycle::Effect>) {
        for effect in effects {
            let (unit, run) = (id.clone(), self.entry(id).life.run);
            match effect {
                lifecycle::Effect::Spawn(facts) => {
                    self.persist(id);
                    self.out.push(Effect::Spawn { unit, run, facts });
                }
                lifecycle::Effect::OpenGate => {
                    self.persist(id);
                    self.out.push(Effect::OpenGate { unit, run });
                }
                lifecycle::Effect::Signal(signal) => {
                    self.persist(id);
                    self.out.push(Effect::Signal { unit, run, signal });
                }
                lifecycle::Effect::SignalAll(signal) => {
                    self.persist(id);
                    self.out.push(Effect::SignalAll { unit, run, signal });
                }
                // Depends on no record: whatever loomd comes next ends that tree too.
                lifecycle::Effect::EndTree(how) => self.out.push(Effect::EndTree { unit, run, how }),
                lifecycle::Effect::Check => self.out.push(Effect::Check { unit, run }),
                lifecycle::Effect::Run(control) => {
                    self.persist(id);
                    self.out.push(Effect::Run { unit, run, control });
                }
                lifecycle::Effect::EndControl(control) => self.out.push(Effect::EndControl { unit, run, control }),
                lifecycle::Effect::Inspect => self.out.push(Effect::Inspect { unit, run }),
                lifecycle::Effect::Report => {
                    // Not the unit's result: that may say why no other run follows.
                    if let Some(death) = self.entry(id).life.deaths.last().cloned() {
                        let lifecycle::Death { result, exit, error, .. } = death;
                        self.out.push(Effect::Report { unit, run, result, exit, error });
                    }
                }
                lifecycle::Effect::SetAside(work) => {
                    self.persist(id);
                    self.out.push(Effect::SetAside { unit, run, work });
                }
                lifecycle::Effect::Say(said) => self.out.push(Effect::Say { unit, run, said }),
                lifecycle::Effect::Reloaded(outcome) => self.reload_over(id, outcome.err()),
                lifecycle::Effect::Failed => self.trigger(id, ties::Cause::Failure),
                lifecycle::Effect::Succeeded => self.trigger(id, ties::Cause::Success),
                lifecycle::Effect::GaveUp => self.trigger(id, ties::Cause::GivingUp),
                lifecycle::Effect::Up => self.came_up(id),
            }
        }
    }

    /// Stores a unit's record if it says something new.
    fn persist(&mut self, id: &UnitId) {
        let boot_id = &self.boot_id;
        let entry = self.units.get_mut(id).expect("callers name units of this fleet, and entries are never removed");
        // The end of a run is stored with what follows it, moments later: one synced write less between death and successor.
        // Should loomd die in between, it finds the run gone.
        if let State::Clearing { end, .. } = &entry.life.state
            && end.then == lifecycle::Then::Policy
        {
            return;
        }
        let record = Record {
            wanted: entry.wanted,
            since: entry.since,
            pulled_in_by: entry.pulled_in_by.clone(),
            group_restarts: entry.group_restarts.clone(),
            frozen_at: entry.frozen.since(),
            ..lifecycle::record(&entry.life, boot_id)
        };
        // What nobody wants up need not be written for a boot's or a clock's sake alone.
        let same = Record { boot_id: entry.stored.boot_id.clone(), since: entry.stored.since, ..record.clone() };
        if record == entry.stored || (!entry.wanted && entry.life.state.is_at_rest() && same == entry.stored) {
            return;
        }
        entry.stored = record.clone();
        self.out.push(Effect::Persist { unit: id.clone(), record });
    }

    fn persist_touched(&mut self) {
        for id in std::mem::take(&mut self.touched) {
            self.persist(&id);
        }
    }

    fn entry(&self, id: &UnitId) -> &Entry {
        self.units.get(id).expect("callers name units of this fleet, and entries are never removed")
    }

    /// Whoever changes an entry comes through here, so that its record is compared.
    fn entry_mut(&mut self, id: &UnitId) -> &mut Entry {
        self.touched.insert(id.clone());
        self.units.get_mut(id).expect("callers name units of this fleet, and entries are never removed")
    }
}
