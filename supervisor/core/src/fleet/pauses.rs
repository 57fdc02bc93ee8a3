//! pauses: processes stopped in their tracks.
//!
//! Job: freeze and thaw. May touch: the fleet above it.
//! Keeps: while a unit's processes stand still its own clocks do too; whatever ends it lets them go on first.

use super::{Effect, Fleet, Frozen, JobId, JobOutcome};
use crate::ids::{Millis, RunId, UnitId};

impl Fleet {
    pub(super) fn freeze(&mut self, id: &UnitId, job: JobId) {
        let since = self.now.mono;
        let entry = self.entry_mut(id);
        let (unit, run) = (id.clone(), entry.life.run);
        let runs = entry.life.state.is_up() && entry.life.state.identity().is_some() && !entry.is_asked_down();
        let refused = |cause: String, hint: String| JobOutcome::Failed {
            error: format!("unit `{id}` was not frozen"),
            cause: Some(cause),
            hint: Some(hint),
        };
        match &mut entry.frozen {
            _ if !runs => {
                let (active_state, sub_state) = entry.words();
                let cause = format!("it is {} ({sub_state}); only what is active can be frozen", active_state.word());
                self.answer(vec![job], refused(cause, format!("`loomctl start {id}`")));
            }
            Frozen::No => {
                entry.frozen = Frozen::Freezing { since, waiters: vec![job] };
                self.persist_touched();
                self.out.push(Effect::Freeze { unit, run, frozen: true });
            }
            Frozen::Freezing { waiters, .. } => waiters.push(job),
            Frozen::Since(_) => self.answer(vec![job], JobOutcome::Done),
            Frozen::Thawing { .. } => {
                let outcome = refused("it is being thawed".to_owned(), format!("`loomctl freeze {id}` again"));
                self.answer(vec![job], outcome);
            }
        }
    }

    pub(super) fn thaw(&mut self, id: &UnitId, job: JobId) {
        let entry = self.entry_mut(id);
        let (unit, run) = (id.clone(), entry.life.run);
        match std::mem::replace(&mut entry.frozen, Frozen::No) {
            Frozen::No => self.answer(vec![job], JobOutcome::Done),
            Frozen::Freezing { since, waiters } => {
                entry.frozen = Frozen::Thawing { since, waiters: vec![job] };
                self.answer(waiters, JobOutcome::Replaced);
                self.out.push(Effect::Freeze { unit, run, frozen: false });
            }
            Frozen::Since(since) => {
                entry.frozen = Frozen::Thawing { since, waiters: vec![job] };
                self.out.push(Effect::Freeze { unit, run, frozen: false });
            }
            Frozen::Thawing { since, mut waiters } => {
                waiters.push(job);
                entry.frozen = Frozen::Thawing { since, waiters };
            }
        }
    }

    /// What came of an [`Effect::Freeze`].
    pub(super) fn frozen(&mut self, id: &UnitId, run: RunId, outcome: Result<bool, String>) {
        if self.units.get(id).is_none_or(|entry| entry.life.run != run) {
            return;
        }
        let now = self.now.mono;
        let failed = |word: &str, cause: String| JobOutcome::Failed {
            error: format!("unit `{id}` was not {word}"),
            cause: Some(cause),
            hint: Some(format!("`loomctl status {id}` shows where it stands")),
        };
        let entry = self.entry_mut(id);
        let (next, waiters, answer) = match (std::mem::replace(&mut entry.frozen, Frozen::No), outcome) {
            (Frozen::Freezing { since, waiters }, Ok(true)) => (Frozen::Since(since), waiters, JobOutcome::Done),
            (Frozen::Freezing { since, waiters }, Err(cause)) => {
                entry.life.delay(now - since);
                (Frozen::No, waiters, failed("frozen", cause))
            }
            (Frozen::Thawing { since, waiters }, Ok(false)) => {
                entry.life.delay(now - since);
                (Frozen::No, waiters, JobOutcome::Done)
            }
            (Frozen::Thawing { since, waiters }, Err(cause)) => {
                (Frozen::Since(since), waiters, failed("thawed", cause))
            }
            // News of what was asked before something else was.
            (before, Ok(_) | Err(_)) => (before, vec![], JobOutcome::Done),
        };
        entry.frozen = next;
        self.answer(waiters, answer);
    }

    /// It is to end, and for that its processes must go on.
    pub(super) fn thaw_to_end(&mut self, id: &UnitId) {
        let entry = self.entry_mut(id);
        let (unit, run) = (id.clone(), entry.life.run);
        let (replaced, done) = match std::mem::replace(&mut entry.frozen, Frozen::No) {
            Frozen::No => return,
            Frozen::Freezing { waiters, .. } => (waiters, vec![]),
            Frozen::Since(_) => (vec![], vec![]),
            Frozen::Thawing { waiters, .. } => (vec![], waiters),
        };
        self.out.push(Effect::Freeze { unit, run, frozen: false });
        self.answer(replaced, JobOutcome::Replaced);
        self.answer(done, JobOutcome::Done);
    }

    /// Its run is over.
    pub(super) fn forget_freeze(&mut self, id: &UnitId) {
        match std::mem::replace(&mut self.entry_mut(id).frozen, Frozen::No) {
            Frozen::No | Frozen::Since(_) => {}
            Frozen::Freezing { waiters, .. } => {
                let outcome = JobOutcome::Failed {
                    error: format!("unit `{id}` was not frozen"),
                    cause: Some("its run ended".to_owned()),
                    hint: Some(format!("see `loomctl logs {id}`")),
                };
                self.answer(waiters, outcome);
            }
            Frozen::Thawing { waiters, .. } => self.answer(waiters, JobOutcome::Done),
        }
    }
}

impl Frozen {
    /// Since when its clocks stand still.
    pub(super) fn since(&self) -> Option<Millis> {
        match self {
            Frozen::Freezing { since, .. } | Frozen::Since(since) | Frozen::Thawing { since, .. } => Some(*since),
            Frozen::No => None,
        }
    }
}
