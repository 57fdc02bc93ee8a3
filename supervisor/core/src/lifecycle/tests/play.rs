//! One unit on a stage: events at moments, and what comes of them.

use super::*;

pub struct Play {
    pub unit: Unit,
    pub life: Life,
    pub at: u64,
    /// Wall clock minus monotonic clock.
    pub wall: u64,
    /// All effects since it began.
    pub done: Vec<Effect>,
}

/// Something done on a stage.
pub type Act = fn(&mut Play);
/// The same, and what came of it.
pub type Seen = fn(&mut Play) -> Vec<Effect>;

pub const CLEAN: Controlled = Controlled::Exited(Exit::Code(0));
pub const UNCLEAN: Controlled = Controlled::Exited(CODE_1);

impl Play {
    /// A unit that never ran, without jitter, at the moment 1000.
    pub fn of(change: impl FnOnce(&mut Unit)) -> Self {
        let mut unit = unit("chat.agent");
        unit.restart.jitter = 0.0;
        change(&mut unit);
        Self { unit, life: Life::new(), at: 1_000, wall: 1_000_000, done: vec![] }
    }

    /// The same, and its first run is up.
    pub fn up(change: impl FnOnce(&mut Unit)) -> Self {
        let mut play = Self::of(change);
        play.comes_up();
        play
    }

    pub fn now(&self) -> Now {
        Now { mono: Millis(self.at), wall: self.wall + self.at, chance: 0 }
    }

    /// What one event does.
    pub fn hears(&mut self, event: Event) -> Vec<Effect> {
        let (life, effects) = step(&self.unit, std::mem::take(&mut self.life), self.now(), event);
        self.life = life;
        self.done.extend(effects.clone());
        effects
    }

    pub fn run(&self) -> RunId {
        self.life.run
    }

    pub fn starts(&mut self) -> Vec<Effect> {
        self.hears(Event::Start { by: "person".into() })
    }
    pub fn stops(&mut self) -> Vec<Effect> {
        self.hears(Event::Stop { why: Why::Asked })
    }
    pub fn checked(&mut self, unmet: Option<&str>) -> Vec<Effect> {
        self.hears(Event::Checked { run: self.run(), unmet: unmet.map(str::to_owned) })
    }
    pub fn helped(&mut self, control: Control, end: Controlled) -> Vec<Effect> {
        self.hears(Event::Controlled { run: self.run(), control, end })
    }
    pub fn spawned(&mut self) -> Vec<Effect> {
        let identity = identity(self.run().0 as i32);
        self.hears(Event::Spawned { run: self.run(), identity, enforcement: vec![] })
    }
    pub fn executed(&mut self) -> Vec<Effect> {
        self.hears(Event::Executed { run: self.run() })
    }
    pub fn says(&mut self, notify: Notify) -> Vec<Effect> {
        self.hears(Event::Notified { run: self.run(), notify })
    }
    pub fn exits(&mut self, exit: Exit) -> Vec<Effect> {
        self.hears(Event::Exited { run: self.run(), exit })
    }
    pub fn empties(&mut self) -> Vec<Effect> {
        self.hears(Event::TreeEmpty { run: self.run() })
    }
    pub fn ticks(&mut self) -> Vec<Effect> {
        self.hears(Event::Tick)
    }
    pub fn spends(&mut self, tokens: u64, cost_micros: u64, calls: u64) -> Vec<Effect> {
        self.hears(Event::Spent { run: self.run(), tokens, cost_micros, calls })
    }

    /// From a start, or a waiting restart, to `active`.
    pub fn comes_up(&mut self) {
        if self.life.state.rests_until().is_some() {
            self.hears(Event::Again);
        } else {
            self.starts();
        }
        self.spawned();
        self.executed();
        if self.unit.ready.kind.notifies() {
            self.says(ready());
        }
        assert!(self.life.state.is_up(), "{:?}", self.life.state);
    }

    /// Its main process ends and leaves nothing.
    pub fn dies(&mut self, exit: Exit) -> Vec<Effect> {
        let mut effects = self.exits(exit);
        effects.extend(self.empties());
        effects
    }

    /// Time passes; every deadline is met, and meeting it gets further.
    pub fn passes(&mut self, ms: u64) -> Vec<Effect> {
        let until = self.at + ms;
        let mut effects = vec![];
        while let Some(due) = self.life.deadline(&self.unit).filter(|due| due.0 <= until) {
            self.at = self.at.max(due.0);
            effects.extend(self.ticks());
            let next = self.life.deadline(&self.unit);
            assert!(next.is_none_or(|next| next.0 > self.at), "a tick at {} leaves {next:?}: {:?}", self.at, self.life);
        }
        self.at = until;
        effects
    }

    /// loomd is replaced by another in the same boot, after what stands in the record.
    pub fn loomd_is_replaced(&mut self, found: Found) -> Vec<Effect> {
        let wanted = !matches!(self.life.state, State::Down { .. } | State::Stopping { why: Why::Asked, .. });
        let stored = serde_json::to_string(&Record { wanted, ..record(&self.life, "boot") }).unwrap();
        let adopted = adopt(&self.unit, &serde_json::from_str(&stored).unwrap(), &found, "boot", self.now());
        self.life = adopted.life;
        self.done.extend(adopted.effects.clone());
        adopted.effects
    }

    /// `active(running)`
    pub fn state(&self) -> String {
        let (active, sub) = self.life.state.words();
        format!("{}({sub})", active.word())
    }

    /// The wait of a waiting restart, from now on.
    pub fn waits(&self) -> Option<u64> {
        self.life.state.rests_until().map(|at| at.0 - self.at)
    }
}

pub fn progress() -> Notify {
    Notify { progress: true, ..Notify::default() }
}
pub fn beat() -> Notify {
    Notify { watchdog: true, ..Notify::default() }
}
pub fn idle(idle: bool) -> Notify {
    Notify { idle: Some(idle), ..Notify::default() }
}
pub fn extends(ms: u64) -> Notify {
    Notify { extend_timeout: Some(Millis(ms)), ..Notify::default() }
}
pub fn reloading() -> Notify {
    Notify { reloading: true, ..Notify::default() }
}
pub fn later(ms: u64) -> Notify {
    Notify { retry_after: Some(Millis(ms)), ..Notify::default() }
}
pub fn command(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}
