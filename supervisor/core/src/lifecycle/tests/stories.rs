//! Random stories of one unit against what must hold whatever happens.

use super::play::*;
use super::*;
use crate::unit::{Budget, Check, Condition, Health, KillMode, LimitMode, OomPolicy, Probe, ProgressAction, Test};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// What a story may bring: a number picks the event, another its details.
type Line = (u64, u8, u8);

fn any_unit() -> impl Strategy<Value = Unit> {
    (any::<u64>(), any::<u64>()).prop_map(|(bits, more)| {
        let mut unit = unit("chat.agent");
        let has = |bit: u32| bits >> bit & 1 == 1;
        let pick = |shift: u32, of: u64| (more >> shift) % of;
        unit.ready.kind =
            [ReadyKind::Exec, ReadyKind::Notify, ReadyKind::NotifyReload, ReadyKind::Oneshot][pick(0, 4) as usize];
        let exec = unit.exec.as_mut().unwrap();
        if has(0) {
            exec.start_pre = vec![command("/bin/one"), command("-/bin/two")];
        }
        exec.remain_after_exit = has(1);
        exec.reload = has(2).then(|| command("/bin/reread"));
        if has(3) {
            let text = "path-exists:/x".to_owned();
            unit.conditions = vec![Condition { negated: false, test: Test::PathExists("/x".into()), text }];
        }
        unit.stop.command = has(4).then(|| command("/bin/quit"));
        if has(5) {
            unit.stop.post = vec![command("/bin/one"), command("/bin/two")];
        }
        unit.stop.kill_mode = [KillMode::Mixed, KillMode::ControlGroup, KillMode::Process][pick(2, 3) as usize];
        unit.watchdog.interval = has(6).then_some(Millis(10_000));
        unit.watchdog.progress = has(7).then_some(Millis(30_000));
        unit.watchdog.progress_action =
            [ProgressAction::Notify, ProgressAction::Interrupt, ProgressAction::Restart][pick(8, 3) as usize];
        let probe = || Probe {
            check: Check::Unix("/x".into()),
            period: Millis(4_000),
            timeout: Millis(1_000),
            failures: 2,
            successes: 1,
        };
        unit.health =
            Health { startup: has(8).then(probe), readiness: has(9).then(probe), liveness: has(10).then(probe) };
        unit.budget = has(11).then_some(Budget {
            window: Millis(600_000),
            tokens: Some(200),
            cost_micros: None,
            calls: Some(50),
            time: Some(Millis(300_000)),
        });
        unit.limits.oom_policy = [OomPolicy::Continue, OomPolicy::Stop, OomPolicy::Kill][pick(16, 3) as usize];
        unit.restart.policy = if has(12) { RestartPolicy::Always } else { RestartPolicy::OnFailure };
        unit.restart.limit_burst = if has(13) { 3 } else { 0 };
        unit.restart.limit_mode = if has(14) { LimitMode::Fail } else { LimitMode::Delay };
        unit
    })
}

/// The world around one unit: which processes live, which helpers were asked for.
struct World {
    play: Play,
    /// A launcher or a program of this run lives.
    main: Option<RunId>,
    gate_open: bool,
    helpers: BTreeSet<Control>,
    /// The end of the tree was asked for and not answered.
    ending: bool,
    newest: RunId,
    /// Nothing may start: it was stopped, and nobody asked for a start since.
    stopped: bool,
    /// What a new loomd would find.
    stored: Record,
}

impl World {
    fn check(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Spawn(facts) => {
                    assert!(!self.stopped, "a stop wins");
                    assert_eq!(self.main.replace(facts.run), None, "one main process at most");
                    assert!(facts.run > self.newest, "run numbers only grow");
                    (self.newest, self.gate_open) = (facts.run, false);
                }
                Effect::OpenGate => self.gate_open = true,
                Effect::Run(control) => {
                    assert!(self.helpers.insert(*control), "{control:?} runs already");
                    let probes = [Control::Startup, Control::Readiness, Control::Liveness];
                    let asked = probes.iter().filter(|probe| self.helpers.contains(probe)).count();
                    assert!(asked <= 1, "probes overlap: {:?}", self.helpers);
                    let is_probe = probes.contains(control);
                    assert!(!is_probe || self.main.is_some(), "a probe of what does not run");
                }
                Effect::EndControl(control) => assert!(self.helpers.contains(control), "{control:?} does not run"),
                Effect::EndTree(_) => self.ending = true,
                Effect::Check
                | Effect::Signal(_)
                | Effect::SignalAll(_)
                | Effect::Up
                | Effect::Inspect
                | Effect::Report
                | Effect::SetAside(_)
                | Effect::Say(_)
                | Effect::Reloaded(_)
                | Effect::Failed
                | Effect::Succeeded
                | Effect::GaveUp => {}
            }
        }
        let state = &self.play.life.state;
        if state.is_at_rest() {
            assert_eq!(self.main, None, "it is down, and its process lives: {:?}", self.play.life);
        }
        let claims = state.identity().map(|identity| identity.pid as u64);
        assert!(claims.is_none_or(|run| self.main == Some(RunId(run))), "{state:?} claims what {:?} is not", self.main);
        assert!(self.play.life.deaths.len() <= DEATHS_MAX);
        let stored = Record { wanted: !self.stopped, ..record(&self.play.life, "boot") };
        let text = serde_json::to_string(&stored).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), stored, "a record reads back as it was written");
        // The end of a run is stored with what follows it.
        let is_over_soon = matches!(&self.play.life.state, Clearing { end, .. } if end.then == Then::Policy);
        if !is_over_soon {
            self.stored = stored;
        }
    }

    /// loomd dies and another takes over.
    fn loomd_is_replaced(&mut self) {
        if !self.gate_open {
            self.main = None;
        }
        let found = if self.main == Some(self.stored.run) { Found::Alive } else { Found::Gone(Exit::Unknown) };
        // What it did not know to be its own it does not end: there is nothing such.
        assert!(self.main.is_none_or(|run| run == self.stored.run), "an orphan");
        self.helpers.clear();
        self.ending = false;
        let adopted = adopt(&self.play.unit, &self.stored, &found, "boot", self.play.now());
        assert_eq!(adopted.life.run, self.play.run(), "run numbers neither grow nor shrink");
        self.play.life = adopted.life;
        self.check(&adopted.effects);
        match adopted.repeat {
            Repeat::No if self.stopped && self.play.life.state.is_live() => self.hears(Event::Stop { why: Why::Asked }),
            Repeat::No => {}
            Repeat::Alone | Repeat::WithDependencies => self.hears(Event::Start { by: "loomd".into() }),
        }
    }

    fn hears(&mut self, event: Event) {
        let effects = self.play.hears(event);
        self.check(&effects);
    }

    fn passes(&mut self, ms: u64) {
        let until = self.play.at + ms;
        loop {
            let again = self.play.life.state.rests_until();
            let due = [self.play.life.deadline(&self.play.unit), again].into_iter().flatten().min();
            let Some(due) = due.filter(|due| due.0 <= until) else { break };
            self.play.at = self.play.at.max(due.0);
            if again.is_some_and(|at| at.0 <= self.play.at) {
                self.hears(Event::Again);
            } else {
                self.hears(Event::Tick);
            }
            let next = self.play.life.deadline(&self.play.unit);
            assert!(next.is_none_or(|next| next.0 > self.play.at), "spins at {}: {:?}", self.play.at, self.play.life);
        }
        self.play.at = until;
    }

    fn main_dies(&mut self, exit: Exit) {
        if let Some(run) = self.main
            && self.gate_open
        {
            self.main = None;
            self.hears(Event::Exited { run, exit });
        }
    }

    fn tree_empties(&mut self) {
        if !self.ending {
            return;
        }
        // The launcher behind its gate, or a process that was killed, goes first.
        self.gate_open = true;
        self.main_dies(KILLED);
        let run = self.play.run();
        for control in std::mem::take(&mut self.helpers) {
            self.hears(Event::Controlled { run, control, end: Controlled::Exited(KILLED) });
        }
        self.ending = false;
        self.hears(Event::TreeEmpty { run });
    }

    /// The world does what the unit waits for.
    fn goes_on(&mut self) {
        let run = self.play.run();
        match &self.play.life.state {
            Down { .. } | State::Reached => {
                self.stopped = false;
                self.hears(Event::Start { by: "person".into() });
            }
            State::Checking { .. } => self.hears(Event::Checked { run, unmet: None }),
            Spawning { .. } | Abandoned { .. } => {
                let identity = identity(run.0 as i32);
                self.hears(Event::Spawned { run, identity, enforcement: vec![] });
            }
            Launching { .. } => self.hears(Event::Executed { run }),
            Starting { .. } if self.play.unit.ready.kind == ReadyKind::Oneshot => self.main_dies(Exit::Code(0)),
            Starting { .. } => self.hears(Event::Notified { run, notify: ready() }),
            Stopping { .. } => self.main_dies(Exit::Signal { signal: 15, core: false }),
            Running { .. } if self.helpers.is_empty() => {
                let notify = Notify { ready: true, progress: true, watchdog: true, ..Notify::default() };
                self.hears(Event::Notified { run, notify });
            }
            Killing { .. } | Clearing { .. } => self.tree_empties(),
            Resting { .. } => self.passes(400_000),
            Running { .. }
            | State::Remaining { .. }
            | State::Preparing { .. }
            | State::Commanding { .. }
            | State::Posting { .. } => {
                if let Some(control) = self.helpers.pop_first() {
                    self.hears(Event::Controlled { run, control, end: CLEAN });
                }
            }
        }
    }

    fn turn(&mut self, (pause, pick, detail): Line) {
        // Mostly little happens between two events.
        self.passes(if detail % 4 > 0 { pause / 10 } else { pause });
        let run = self.play.run();
        let exit =
            [Exit::Code(0), CODE_1, KILLED, Exit::Code(75), Exit::Code(78), Exit::Unknown][usize::from(detail) % 6];
        let with = |change: fn(&mut Notify)| {
            let mut notify = Notify::default();
            change(&mut notify);
            Event::Notified { run, notify }
        };
        match pick % 70 {
            0 => {
                self.stopped = false;
                self.hears(Event::Start { by: "person".into() });
            }
            2 => {
                self.stopped = true;
                self.hears(Event::Stop { why: Why::Asked });
            }
            3 if detail < 60 => {
                self.stopped = true;
                self.hears(Event::Kill);
            }
            3 if detail < 160 => self.loomd_is_replaced(),
            4..=6 if self.main == Some(run) && !self.gate_open => {
                let identity = identity(run.0 as i32);
                self.hears(Event::Spawned { run, identity, enforcement: vec![] });
            }
            7 if self.main == Some(run) && !self.gate_open => {
                self.main = None;
                self.hears(Event::LaunchFailed { run, failure: LaunchFailure::Resources("fork".into()) });
            }
            8 | 9 if self.gate_open && self.main.is_some() => self.hears(Event::Executed { run }),
            10 | 11 if self.gate_open && self.main.is_some() => self.hears(with(|notify| notify.ready = true)),
            1 | 12 => self.main_dies(exit),
            13..=15 => self.tree_empties(),
            16..=18 => {
                if let Some(control) = self.helpers.pop_first() {
                    let end = if detail < 180 { CLEAN } else { UNCLEAN };
                    self.hears(Event::Controlled { run, control, end });
                }
            }
            19 | 20 => {
                let unmet = (detail < 30).then(|| "path-exists:/x".to_owned());
                self.hears(Event::Checked { run, unmet });
            }
            21 => self.hears(Event::Reload),
            22 => self.hears(with(|notify| {
                (notify.reloading, notify.progress) = (true, true);
            })),
            23 => self.hears(with(|notify| (notify.watchdog, notify.tokens) = (true, 7))),
            24 => self.hears(with(|notify| notify.idle = Some(true))),
            25 => self.hears(Event::OomKilled { run }),
            26 => self.hears(Event::ResetFailed),
            28.. => self.goes_on(),
            _ => {
                // News of runs that are over.
                let stale = RunId(run.0.saturating_sub(1 + u64::from(detail % 3)));
                let before = self.play.life.clone();
                for event in [
                    Event::Exited { run: stale, exit },
                    Event::TreeEmpty { run: stale },
                    Event::Controlled { run: stale, control: Control::Stop, end: CLEAN },
                    Event::Notified { run: stale, notify: ready() },
                    Event::OomKilled { run: stale },
                    Event::Spent { run: stale, tokens: 1_000, cost_micros: 0, calls: 0 },
                ] {
                    if stale < run {
                        assert_eq!(self.play.hears(event), [], "stale news does nothing");
                        assert_eq!(self.play.life, before, "stale news changes nothing");
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_to_a_unit_its_promises_hold(
        unit in any_unit(),
        story in prop::collection::vec((0u64..15_000, any::<u8>(), any::<u8>()), 0..160),
    ) {
        let mut play = Play::of(|_| {});
        play.unit = unit;
        let mut world = World {
            play,
            main: None,
            gate_open: false,
            helpers: BTreeSet::new(),
            ending: false,
            newest: RunId(0),
            stopped: true,
            stored: Record::never_ran(),
        };
        for line in story {
            world.turn(line);
        }
        // A stop ends whatever it was, and nothing starts after it.
        world.stopped = true;
        world.hears(Event::Stop { why: Why::Asked });
        for _ in 0..12 {
            let run = world.play.run();
            if world.main == Some(run) && !world.gate_open {
                let identity = identity(run.0 as i32);
                world.hears(Event::Spawned { run, identity, enforcement: vec![] });
            }
            world.passes(60_000);
            if world.play.unit.stop.kill_mode == KillMode::Process {
                world.main_dies(KILLED);
            }
            world.tree_empties();
            while let Some(control) = world.helpers.pop_first() {
                world.hears(Event::Controlled { run, control, end: CLEAN });
            }
        }
        prop_assert!(matches!(world.play.life.state, Down { .. }), "not down after a stop: {:?}", world.play.life);
        world.passes(10_000_000);
        prop_assert!(matches!(world.play.life.state, Down { .. }), "it came back: {:?}", world.play.life);
    }
}

#[test]
fn a_stop_beats_a_crash_in_the_same_instant_a_thousand_times() {
    for round in 0..1_000_u64 {
        let mut play = Play::up(|unit| {
            unit.restart.policy = RestartPolicy::Always;
            unit.restart.delay = Millis(0);
        });
        let events = [
            Event::Stop { why: Why::Asked },
            Event::Exited { run: RunId(1), exit: CODE_1 },
            Event::TreeEmpty { run: RunId(1) },
            Event::Again,
        ];
        // The stop stands at any place among the news of the crash.
        let place = (round % 4) as usize;
        let mut order: Vec<_> = events[1..].to_vec();
        order.insert(place, events[0].clone());
        if place == 3 {
            order.pop();
            order.push(Event::Stop { why: Why::Asked });
            order.remove(2);
        }
        for event in order {
            play.hears(event);
        }
        play.empties();
        assert_eq!((play.state().as_str(), play.run()), ("inactive(dead)", RunId(1)), "round {round}");
        assert_eq!(play.hears(Event::Again), [], "and no later start");
    }
}
