//! A world in virtual time: processes, a store and a clock around a [`Fleet`].
//!
//! Job: carries out effects as the shell would, lets processes live and die by chance, kills loomd between any two effects,
//! and checks the promises at each step. Thicken it where a new promise needs it.

use super::super::graph::{likes_up, needs, needs_up};
use super::super::*;
use crate::ids::Kind;
use crate::launch_plan::{Report, Stage};
use crate::lifecycle::{Phase, back_off};
use crate::unit::ReadyKind;
use std::collections::VecDeque;

/// A program's doings, drawn by chance at each spawn.
#[derive(Debug, Clone, Copy)]
pub struct Odds {
    /// Of 100 launches, how many fail.
    pub launch_fails: u64,
    /// Of 100 runs, how many ignore SIGTERM.
    pub deaf: u64,
    /// Of 100 runs, how many never say READY=1, or stop saying WATCHDOG=1.
    pub mute: u64,
    /// A run lives up to this long by itself.
    pub life_ms: u64,
    /// Of 100 starts, how many find a condition that does not hold.
    pub unmet: u64,
    /// Of 100 helping processes, how many fail; as many never end.
    pub helper_fails: u64,
}

impl Odds {
    pub const TAME: Odds = Odds { launch_fails: 0, deaf: 0, mute: 0, life_ms: u64::MAX, unmet: 0, helper_fails: 0 };
    pub const WILD: Odds = Odds { launch_fails: 5, deaf: 10, mute: 5, life_ms: 1_200_000, unmet: 5, helper_fails: 10 };
}

/// A process and its children.
#[derive(Debug)]
struct Process {
    identity: Identity,
    gate_open: bool,
    main_lives: bool,
    deaf: bool,
    mute: bool,
}

/// What happens of itself.
#[derive(Debug, Clone)]
enum Happening {
    LauncherShows(UnitId, RunId),
    Executes(UnitId, RunId),
    SaysReady(UnitId, RunId),
    Beats(UnitId, RunId),
    Dies(UnitId, RunId, Exit),
    HelperEnds(UnitId, RunId, Control, Exit),
    /// News that reaches loomd, if it is still the one that the news is for.
    News(u64, Box<Event>),
}

pub struct World {
    pub units: BTreeMap<UnitId, Unit>,
    pub store: BTreeMap<UnitId, Record>,
    pub fleet: Fleet,
    pub now: Millis,
    pub odds: Odds,
    /// Every effect since it was last taken.
    pub seen: Vec<Effect>,
    /// How each job ended.
    pub outcomes: BTreeMap<JobId, JobOutcome>,
    /// loomd dies before it carries out the effect after this many.
    pub crash_after: Option<usize>,
    pub runs: u64,
    boot: u64,
    wall_offset: u64,
    /// Which loomd lives; news for an earlier one is lost.
    loomd: u64,
    chance: u64,
    order: u64,
    happenings: BTreeMap<(Millis, u64), Happening>,
    processes: BTreeMap<(UnitId, RunId), Process>,
    helpers: BTreeSet<(UnitId, RunId, Control)>,
    frozen: BTreeSet<(UnitId, RunId)>,
    open_jobs: BTreeSet<JobId>,
    next_job: u64,
    /// Units that were stopped and that nobody asked to start since.
    stopped: BTreeSet<UnitId>,
    /// Units that may be started for another's sake without a person: upheld, handlers, members of a group within a group.
    may_come_back: BTreeSet<UnitId>,
    /// When a waiting restart may happen.
    due: BTreeMap<UnitId, Millis>,
    shown: BTreeMap<UnitId, ActiveState>,
}

impl World {
    pub fn new(units: Vec<Unit>, odds: Odds, seed: u64) -> Self {
        let units: BTreeMap<_, _> = units.into_iter().map(|unit| (unit.id.clone(), unit)).collect();
        let mut open: Vec<&UnitId> = units
            .values()
            .flat_map(|unit| {
                let inner = unit.group.iter().flat_map(|group| &group.members).filter(|it| it.kind() == Kind::Target);
                let handlers = unit.on_success.iter().chain(&unit.on_failure).chain(&unit.on_give_up);
                unit.upholds.iter().chain(handlers).chain(inner)
            })
            .collect();
        let mut may_come_back = BTreeSet::new();
        while let Some(id) = open.pop() {
            if let Some(unit) = units.get(id)
                && may_come_back.insert(id.clone())
            {
                open.extend(needs_up(unit).chain(likes_up(unit)));
            }
        }
        let now = Now { mono: Millis(1_000), wall: 1_000_000, chance: seed };
        let (fleet, effects) = Fleet::new(units.clone(), BTreeMap::new(), "boot-0", now);
        assert_eq!(effects, [], "a fleet that never ran has nothing to do");
        Self {
            units,
            store: BTreeMap::new(),
            fleet,
            now: now.mono,
            odds,
            seen: vec![],
            outcomes: BTreeMap::new(),
            crash_after: None,
            runs: 0,
            boot: 0,
            wall_offset: 999_000,
            loomd: 0,
            chance: seed,
            order: 0,
            happenings: BTreeMap::new(),
            processes: BTreeMap::new(),
            helpers: BTreeSet::new(),
            frozen: BTreeSet::new(),
            open_jobs: BTreeSet::new(),
            next_job: 0,
            stopped: BTreeSet::new(),
            may_come_back,
            due: BTreeMap::new(),
            shown: BTreeMap::new(),
        }
    }

    pub fn clock(&mut self) -> Now {
        Now { mono: self.now, wall: self.now.0 + self.wall_offset, chance: self.draw(u64::MAX) }
    }

    fn boot_id(&self) -> String {
        format!("boot-{}", self.boot)
    }

    /// A number below `limit`.
    pub fn draw(&mut self, limit: u64) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.chance;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn percent(&mut self, of_hundred: u64) -> bool {
        self.draw(100) < of_hundred
    }

    fn later(&mut self, ms: u64, what: Happening) {
        self.order += 1;
        self.happenings.insert((self.now + Millis(ms), self.order), what);
    }

    fn news(&mut self, ms: u64, event: Event) {
        self.later(ms, Happening::News(self.loomd, Box::new(event)));
    }

    /// Asks as a person does.
    pub fn ask(&mut self, verb: Verb, unit: &UnitId) -> JobId {
        self.next_job += 1;
        let job = JobId(self.next_job);
        self.open_jobs.insert(job);
        let before = self.stopped.clone();
        match verb {
            Verb::Stop | Verb::StopNow => {
                self.stopped.insert(unit.clone());
            }
            Verb::Start | Verb::Restart | Verb::TryRestart => {
                let mut open = vec![unit.clone()];
                let mut seen = BTreeSet::new();
                while let Some(id) = open.pop() {
                    self.stopped.remove(&id);
                    if let Some(unit) = self.units.get(&id)
                        && seen.insert(id)
                    {
                        open.extend(needs_up(unit).chain(likes_up(unit)).cloned());
                    }
                }
            }
            Verb::Reload | Verb::VerifyActive | Verb::Kill { .. } | Verb::ResetFailed | Verb::Freeze | Verb::Thaw => {}
        }
        let loomd = self.loomd;
        self.tell(Event::Job { job, unit: unit.clone(), verb, by: "person".into() });
        if self.loomd != loomd && !self.outcomes.contains_key(&job) {
            // It died in the middle of it, so whether the request counts is open.
            self.stopped = self.stopped.intersection(&before).cloned().collect();
        }
        job
    }

    /// Gives loomd an event and carries out what it answers.
    pub fn tell(&mut self, event: Event) {
        let now = self.clock();
        let effects = self.fleet.handle(now, event);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match &mut self.crash_after {
                Some(0) => {
                    self.crash_after = None;
                    return self.replace_loomd(0);
                }
                Some(left) => *left -= 1,
                None => {}
            }
            self.seen.push(effect.clone());
            self.one(effect);
        }
    }

    fn one(&mut self, effect: Effect) {
        match effect {
            Effect::Persist { unit, record } => self.persist(unit, record),
            Effect::Spawn { unit, run, facts } => self.spawn(unit, run, &facts),
            Effect::OpenGate { unit, run } => {
                let process = self.processes.get_mut(&(unit.clone(), run)).expect("a gate has a launcher behind it");
                let stored = &self.store[&unit];
                assert_eq!(
                    stored.identity.as_ref(),
                    Some(&process.identity),
                    "no gate opens before its identity is stored"
                );
                assert_eq!((stored.run, stored.phase), (run, Phase::Live));
                process.gate_open = true;
                let delay = self.draw(20);
                self.later(delay, Happening::Executes(unit, run));
            }
            Effect::Signal { unit, run, signal } | Effect::SignalAll { unit, run, signal } => {
                let Some(process) = self.processes.get(&(unit.clone(), run)) else { return };
                let ends = process.main_lives && !process.deaf;
                let delay = self.draw(2_000);
                if ends {
                    self.later(delay, Happening::Dies(unit, run, Exit::Signal { signal, core: signal == 6 }));
                }
            }
            Effect::EndTree { unit, run, how: _ } => {
                self.frozen.remove(&(unit.clone(), run));
                let lived = self.processes.remove(&(unit.clone(), run)).is_some_and(|process| process.main_lives);
                let delay = self.draw(50);
                if lived {
                    let exit = Exit::Signal { signal: 9, core: false };
                    self.news(delay, Event::Exited { unit: unit.clone(), run, exit });
                }
                self.news(delay, Event::TreeEmpty { unit, run });
            }
            Effect::JobDone { job, outcome } => {
                assert!(self.open_jobs.remove(&job), "{job:?} was answered twice, or never asked: {outcome:?}");
                self.outcomes.insert(job, outcome);
            }
            Effect::Changed { unit, from, to, .. } => {
                let before = self.shown.insert(unit.clone(), to).unwrap_or(ActiveState::Inactive);
                assert_eq!(from, before, "{unit} changes from where it was");
            }
            Effect::Check { unit, run } => {
                let unmet = self.percent(self.odds.unmet).then(|| "path-exists:/nowhere".to_owned());
                let delay = self.draw(10);
                self.news(delay, Event::Checked { unit, run, unmet });
            }
            Effect::Run { unit, run, control } => {
                let is_new = self.helpers.insert((unit.clone(), run, control));
                assert!(is_new, "{unit} has two helpers for {control:?}");
                if !self.percent(self.odds.helper_fails) {
                    let exit = Exit::Code(u8::from(self.percent(self.odds.helper_fails)));
                    let delay = self.draw(300);
                    self.later(delay, Happening::HelperEnds(unit, run, control, exit));
                }
            }
            Effect::EndControl { unit, run, control } => {
                let exit = Exit::Signal { signal: 9, core: false };
                let delay = self.draw(50);
                self.later(delay, Happening::HelperEnds(unit, run, control, exit));
            }
            Effect::Freeze { unit, run, frozen } => {
                let key = (unit.clone(), run);
                if frozen {
                    self.frozen.insert(key);
                } else {
                    self.frozen.remove(&key);
                }
                let delay = self.draw(20);
                self.news(delay, Event::Frozen { unit, run, outcome: Ok(frozen) });
            }
            Effect::Leaving { group, units } => {
                assert_ne!(units, [], "{group} says nothing of nobody");
            }
            Effect::Inspect { .. }
            | Effect::Report { .. }
            | Effect::SetAside { .. }
            | Effect::Say { .. }
            | Effect::Withheld { .. } => {}
        }
    }

    fn persist(&mut self, unit: UnitId, record: Record) {
        let before = self.store.get(&unit).map_or(RunId(0), |before| before.run);
        assert!(before <= record.run, "{unit}: run numbers only grow");
        if before < record.run {
            self.begins(&unit, &record.triggered_by);
        }
        if let Some((boot, at, _)) = &record.next_start
            && self.due.get(&unit) != Some(at)
        {
            let restart = &self.units[&unit].restart;
            let shortest = back_off(restart, record.failures);
            let longest = Millis((shortest.0 as f64 * (1.0 + restart.jitter)) as u64 + 1);
            // It asked for more.
            let asked = record.rest.filter(|_| record.exit == Some(Exit::Code(75))).unwrap_or_default();
            let longest = longest.max(asked);
            let wait = *at - self.now;
            assert_eq!(boot, &self.boot_id());
            let carried_over = self.store.get(&unit).is_some_and(|before| before.boot_id != self.boot_id());
            assert!(wait <= longest, "{unit} waits {wait:?}, at most {longest:?} after {} failures", record.failures);
            assert!(wait >= shortest || carried_over, "{unit} waits {wait:?}, at least {shortest:?}");
            self.due.insert(unit.clone(), *at);
        }
        self.store.insert(unit, record);
    }

    /// A run begins: somebody must have asked for it since the unit was stopped.
    fn begins(&mut self, unit: &UnitId, by: &str) {
        // What others ask for may come up again: `dependency`, `upheld`, `failure`.
        let word = by.split(' ').next().unwrap_or_default();
        let others_may_want_it = self.may_come_back.contains(unit);
        let by_itself =
            matches!(word, "person" | "restart") || (matches!(word, "loomd" | "group") && !others_may_want_it);
        assert!(!(by_itself && self.stopped.contains(unit)), "{unit} was stopped, and nobody asked for a start: {by}");
        self.stopped.remove(unit);
    }

    fn spawn(&mut self, unit: UnitId, run: RunId, facts: &RunFacts) {
        self.runs += 1;
        let stored = &self.store[&unit];
        assert_eq!((stored.run, stored.phase), (run, Phase::Intended), "{unit}: no spawn before its run is stored");
        assert_eq!(facts.run, run);
        assert!(
            self.processes.keys().all(|(other, _)| other != &unit),
            "{unit} has two processes: {:?}",
            self.processes
        );
        if stored.triggered_by == "restart" {
            let due = self.due.get(&unit).copied().unwrap_or_default();
            assert!(due <= self.now, "{unit} was restarted before its time");
        }
        let pid = self.runs as i32;
        let identity = Identity {
            boot_id: self.boot_id(),
            pid,
            pidfd_inode: self.runs,
            start_ticks: self.now.0,
            cgroup: None,
            token_sha256: String::new(),
        };
        let (deaf, mute) = (self.percent(self.odds.deaf), self.percent(self.odds.mute));
        let process = Process { identity, gate_open: false, main_lives: true, deaf, mute };
        self.processes.insert((unit.clone(), run), process);
        let delay = self.draw(10);
        self.later(delay, Happening::LauncherShows(unit, run));
    }

    fn happens(&mut self, what: Happening) {
        // What stands still does nothing.
        if let Happening::SaysReady(unit, run) | Happening::Beats(unit, run) | Happening::Dies(unit, run, _) = &what
            && self.frozen.contains(&(unit.clone(), *run))
        {
            return self.later(30_000, what);
        }
        match what {
            Happening::News(loomd, event) if loomd == self.loomd => self.tell(*event),
            Happening::News(..) => {}
            Happening::LauncherShows(unit, run) => {
                let key = (unit.clone(), run);
                let Some(process) = self.processes.get(&key) else { return };
                let identity = process.identity.clone();
                if self.percent(self.odds.launch_fails) {
                    self.processes.remove(&key);
                    let failure = LaunchFailure::Resources("fork: EAGAIN".into());
                    return self.tell(Event::LaunchFailed { unit, run, failure });
                }
                self.tell(Event::Spawned { unit, run, identity, enforcement: vec![] });
            }
            Happening::Executes(unit, run) => {
                let key = (unit.clone(), run);
                if !self.processes.get(&key).is_some_and(|process| process.main_lives) {
                    return;
                }
                if self.percent(self.odds.launch_fails) {
                    self.processes.remove(&key);
                    let failure = LaunchFailure::Stage(Report { stage: Stage::Exec, errno: 2, what: "/bin/x".into() });
                    return self.news(0, Event::LaunchFailed { unit, run, failure });
                }
                let mute = self.processes[&key].mute;
                self.news(0, Event::Executed { unit: unit.clone(), run });
                if !mute {
                    let delay = self.draw(3_000);
                    self.later(delay, Happening::SaysReady(unit.clone(), run));
                }
                let oneshot = self.units.get(&unit).is_some_and(|unit| unit.ready.kind == ReadyKind::Oneshot);
                if oneshot {
                    let delay = self.draw(5_000);
                    self.later(delay, Happening::Dies(unit, run, Exit::Code(0)));
                } else if self.odds.life_ms < u64::MAX {
                    let exits = [Exit::Code(0), Exit::Code(1), Exit::Signal { signal: 9, core: false }, Exit::Code(1)];
                    let exit = exits[self.draw(4) as usize];
                    let exit = if self.percent(2) { Exit::Code(78) } else { exit };
                    let longest = if self.percent(30) { 1_000 } else { self.odds.life_ms };
                    let delay = self.draw(longest);
                    self.later(delay, Happening::Dies(unit, run, exit));
                }
            }
            Happening::SaysReady(unit, run) => {
                if self.lives(&unit, run) {
                    let notify = Notify { ready: true, ..Notify::default() };
                    self.news(0, Event::Notified { unit: unit.clone(), run, notify });
                    self.later(0, Happening::Beats(unit, run));
                }
            }
            Happening::Beats(unit, run) => {
                let Some(interval) = self.units.get(&unit).and_then(|unit| unit.watchdog.interval) else { return };
                if self.lives(&unit, run) && !self.percent(self.odds.mute / 5) {
                    let notify = Notify { watchdog: true, ..Notify::default() };
                    self.news(0, Event::Notified { unit: unit.clone(), run, notify });
                    self.later(interval.0 / 3, Happening::Beats(unit, run));
                }
            }
            Happening::HelperEnds(unit, run, control, exit) => {
                if self.helpers.remove(&(unit.clone(), run, control)) {
                    self.news(0, Event::Controlled { unit, run, control, end: Controlled::Exited(exit) });
                }
            }
            Happening::Dies(unit, run, exit) => {
                if let Some(process) = self.processes.get_mut(&(unit.clone(), run))
                    && process.main_lives
                {
                    // Its children live on until somebody ends the tree.
                    process.main_lives = false;
                    self.news(0, Event::Exited { unit, run, exit });
                }
            }
        }
    }

    fn lives(&self, unit: &UnitId, run: RunId) -> bool {
        self.processes.get(&(unit.clone(), run)).is_some_and(|process| process.main_lives)
    }

    /// Kills the main process of a unit.
    pub fn kill(&mut self, unit: &UnitId) {
        self.end(unit, Exit::Signal { signal: 9, core: false });
    }

    /// Ends the main process of a unit.
    pub fn end(&mut self, unit: &UnitId, exit: Exit) {
        let run =
            self.processes.iter().find(|((id, _), process)| id == unit && process.gate_open).map(|((_, run), _)| *run);
        if let Some(run) = run {
            self.frozen.remove(&(unit.clone(), run));
            self.happens(Happening::Dies(unit.clone(), run, exit));
        }
    }

    /// Kills loomd; another one takes over after a while, in which processes may die unseen.
    pub fn replace_loomd(&mut self, down_ms: u64) {
        self.loomd += 1;
        self.open_jobs.clear();
        // A launcher whose gate closes exits.
        self.processes.retain(|_, process| process.gate_open);
        // Its end is seen by nobody, and what is left of it goes with its tree.
        self.helpers.clear();
        let back = self.now + Millis(down_ms);
        while let Some((&(at, order), _)) = self.happenings.first_key_value()
            && at <= back
        {
            let what = self.happenings.remove(&(at, order)).expect("it is the first");
            self.now = at;
            if let Happening::Dies(unit, run, _) = what
                && let Some(process) = self.processes.get_mut(&(unit, run))
            {
                process.main_lives = false;
            }
        }
        self.now = back;
        self.take_over();
    }

    /// The machine goes down and comes up again.
    pub fn reboot(&mut self, down_ms: u64) {
        self.loomd += 1;
        self.boot += 1;
        self.open_jobs.clear();
        self.processes.clear();
        self.helpers.clear();
        self.frozen.clear();
        self.happenings.clear();
        // A boot starts what was wanted with all it asks for.
        self.stopped.clear();
        self.due.clear();
        self.wall_offset += self.now.0 + down_ms;
        self.now = Millis(1_000);
        self.take_over();
    }

    fn take_over(&mut self) {
        let mut stored = BTreeMap::new();
        for (id, record) in &self.store {
            let key = (id.clone(), record.run);
            let matches = |process: &Process| process.main_lives && record.identity.as_ref() == Some(&process.identity);
            let found = match self.processes.get(&key) {
                Some(process) if matches(process) => Found::Alive,
                Some(_) | None => Found::Gone(Exit::Unknown),
            };
            stored.insert(id.clone(), (record.clone(), found));
        }
        for ((unit, run), _) in self.processes.iter().filter(|(_, process)| process.main_lives) {
            assert!(matches!(&stored[unit], (record, Found::Alive) if record.run == *run), "{unit} {run}: an orphan");
        }
        let (now, boot_id) = (self.clock(), self.boot_id());
        let (fleet, effects) = Fleet::new(self.units.clone(), stored, &boot_id, now);
        self.fleet = fleet;
        // A new loomd says what changed since what it took over, not since what people saw last.
        self.shown = effects.iter().rev().fold(self.statuses(), |mut shown, effect| {
            if let Effect::Changed { unit, from, .. } = effect {
                shown.insert(unit.clone(), *from);
            }
            shown
        });
        self.carry_out(effects);
    }

    fn statuses(&self) -> BTreeMap<UnitId, ActiveState> {
        self.fleet.statuses().into_iter().map(|status| (status.unit, status.active_state)).collect()
    }

    /// Lets time pass.
    pub fn pass(&mut self, ms: u64) {
        let mut until = self.now + Millis(ms);
        let mut boot = self.boot;
        loop {
            if boot != self.boot {
                (boot, until) = (self.boot, self.now);
            }
            let happening = self.happenings.first_key_value().map(|((at, _), _)| *at);
            let wake = self.fleet.next_wake();
            let Some(next) = [happening, wake].into_iter().flatten().min().filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            if happening.is_some_and(|at| at <= self.now) {
                let (_, what) = self.happenings.pop_first().expect("it was just seen");
                self.happens(what);
            } else {
                let loomd = self.loomd;
                self.tell(Event::Tick);
                let wake = self.fleet.next_wake();
                let is_spinning = self.loomd == loomd && wake.is_some_and(|wake| wake <= self.now);
                assert!(!is_spinning, "a tick at {:?} leaves a wake at {wake:?}", self.now);
            }
            self.check();
        }
        self.now = self.now.max(until);
    }

    /// Promises that hold between any two events.
    fn check(&self) {
        for ((unit, run), process) in &self.processes {
            if process.gate_open && process.main_lives {
                let entry = self.fleet.units.get(unit).filter(|entry| entry.is_listed());
                let life = &entry.expect("a unit with a process is listed").life;
                assert_eq!(
                    (life.run, life.state.identity().map(|identity| identity.pid)),
                    (*run, Some(process.identity.pid)),
                    "{unit} is known to loomd"
                );
            }
        }
        self.check_ties();
    }

    /// Promises about units among one another, between any two events.
    fn check_ties(&self) {
        let runs =
            |id: &UnitId| self.processes.iter().any(|((unit, _), it)| unit == id && it.main_lives && it.gate_open);
        for (id, unit) in &self.units {
            if unit.conflicts.is_empty() && needs(unit).next().is_none() {
                continue;
            }
            let Some(entry) = self.fleet.units.get(id) else { continue };
            for other in &unit.conflicts {
                let both = (runs(id) && runs(other)).then_some("run");
                assert_eq!(both, None, "{id} and {other} conflict, and both run");
            }
            // Whoever has a job is on its way elsewhere.
            if !entry.life.state.is_up() || entry.job.is_some() {
                continue;
            }
            for need in needs(unit) {
                let Some(other) = self.fleet.units.get(need).filter(|other| other.is_idle()) else { continue };
                let is_gone = other.life.state == (State::Down { failed: true }) || unit.binds_to.contains(need);
                assert!(!is_gone, "{id} is up, and {need} is {:?}", other.life.state);
            }
        }
    }

    /// Lets so much time pass that whatever waits for something has it, or has waited too long.
    pub fn come_to_an_end(&mut self) {
        self.crash_after = None;
        self.pass(2 * 3_600_000);
        assert_eq!(self.open_jobs, BTreeSet::new(), "jobs that nothing answers: {:#?}", self.fleet.statuses());
    }

    /// Ends everything and checks that it ends.
    pub fn shut_down(&mut self) {
        self.crash_after = None;
        self.tell(Event::Shutdown);
        self.pass(600_000);
        assert!(self.fleet.is_quiet(), "not quiet ten minutes after shutdown: {:#?}", self.fleet.statuses());
        assert_eq!(self.processes.len(), 0, "{:?}", self.processes);
        assert_eq!(self.open_jobs, BTreeSet::new(), "jobs without an answer");
    }
}
