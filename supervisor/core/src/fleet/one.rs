//! one: what the fleet asks of one unit's life beyond its events.
//!
//! Job: reload, forced stop, forgotten failures, shifted clocks, in the lifecycle's words. May touch: the fleet above it.

use super::{Effect, Entry, Fleet};
use crate::ids::{Millis, UnitId};
use crate::lifecycle::{self, State, TreeEnd, Why};

impl Fleet {
    pub(super) fn tell_reload(&mut self, id: &UnitId) {
        self.reload_over(id, Some("loomd cannot tell a running program so yet".to_owned()));
    }

    /// `at_once`: with SIGKILL.
    pub(super) fn tell_stop(&mut self, id: &UnitId, why: Why, at_once: bool) {
        self.apply(id, lifecycle::Event::Stop { why });
        let entry = self.entry(id);
        if at_once && entry.life.state.identity().is_some() {
            let (unit, run) = (id.clone(), entry.life.run);
            self.out.push(Effect::EndTree { unit, run, how: TreeEnd::Kill });
        }
    }

    pub(super) fn forget_failures(&mut self, id: &UnitId) {
        let life = &mut self.entry_mut(id).life;
        life.failures = 0;
        if life.state == (State::Down { failed: true }) {
            life.state = State::Down { failed: false };
        }
        self.show(id, "its failures were forgotten");
    }
}

impl Entry {
    /// Its clocks stood still for so long.
    pub(super) fn delay(&mut self, by: Millis) {
        if let State::Running { silent_at: Some(late), .. } = &mut self.life.state {
            *late = *late + by;
        }
    }
}
