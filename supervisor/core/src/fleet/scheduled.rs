//! scheduled: what the clock does to a unit.
//!
//! Job: the failure of a schedule by a limit of its own. May touch: the fleet above it.
//! Keeps: its unit is left alone; a start by a person takes the failure back.

use super::{Effect, Fleet};
use crate::ids::UnitId;
use crate::lifecycle::{Now, RunResult, State};

impl Fleet {
    /// A schedule that is active fired too often, or its settings cannot count: it is down, failed, and says why.
    pub fn fail_schedule(&mut self, now: Now, schedule: &UnitId, because: &str) -> Vec<Effect> {
        self.now = now;
        let is_active = self.units.get(schedule).is_some_and(|entry| entry.life.state == State::Reached);
        if is_active {
            let life = &mut self.entry_mut(schedule).life;
            life.state = State::Down { failed: true };
            life.result = RunResult::StartLimitHit;
            life.last_error = Some(because.to_owned());
            self.show(schedule, because);
            self.withdraw(schedule);
            self.stop_dependents(schedule);
            self.advance();
            self.persist_touched();
        }
        std::mem::take(&mut self.out)
    }
}
