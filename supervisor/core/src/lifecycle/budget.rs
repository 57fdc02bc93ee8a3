//! budget: what a unit uses up in a window of time.
//!
//! Job: counts tokens, money, calls and time over all runs. May touch: the types beside it, `unit`.
//! Keeps: a restart refills nothing, of the unit or of loomd; only the end of the window does, by the wall clock.
//!
//! A window begins with the first use after the one before has ended. What is stored lags behind by less than
//! 1/[`SHARE`] of each limit, so that a busy agent does not cause a write per call.

use super::turn::Turn;
use super::words::{moment, span};
use super::{Effect, Life, Now, Said, Why};
use crate::ids::Millis;
use crate::unit::{Budget, Unit};
use serde::{Deserialize, Serialize};

/// A use of this share of a limit is stored.
const SHARE: u64 = 64;

/// What was used in the window that began at `since`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Wall clock; `None`: nothing was used yet.
    pub since: Option<u64>,
    pub tokens: u64,
    pub cost_micros: u64,
    pub calls: u64,
    /// During which a process ran, without the one that runs.
    pub time: Millis,
    /// Since when one runs, on the monotonic clock.
    pub running_since: Option<Millis>,
}

impl Tally {
    fn time(&self, now: Millis) -> Millis {
        self.time + self.running_since.map_or(Millis(0), |since| now - since)
    }

    /// With the time of the run that runs.
    pub(crate) fn with_live_run(&self, now: Millis) -> Tally {
        Tally { time: self.time(now), ..self.clone() }
    }

    /// When its time will be used up if it goes on running.
    pub(super) fn time_up_at(&self, budget: &Budget) -> Option<Millis> {
        Some(self.running_since? + (budget.time? - self.time))
    }

    fn until(&self, budget: &Budget) -> Option<u64> {
        Some(self.since?.saturating_add(budget.window.0))
    }

    /// What of it is used up in a window that has not ended, and how much that was.
    fn used_up(&self, budget: &Budget, now: Now) -> Option<(&'static str, String, u64)> {
        let until = self.until(budget).filter(|until| now.wall < *until)?;
        let reached = |used: u64, limit: Option<u64>| limit.filter(|limit| used >= *limit);
        let (what, limit) = if let Some(limit) = reached(self.tokens, budget.tokens) {
            ("tokens", limit.to_string())
        } else if let Some(limit) = reached(self.cost_micros, budget.cost_micros) {
            ("cost", format!("{}.{:06}", limit / 1_000_000, limit % 1_000_000))
        } else if let Some(limit) = reached(self.calls, budget.calls) {
            ("calls", limit.to_string())
        } else {
            ("time", span(Millis(reached(self.time(now.mono).0, budget.time.map(|time| time.0))?)))
        };
        Some((what, limit, until))
    }

    /// Whether so much was used since that was stored that it must be stored anew.
    fn is_worth_noting(&self, noted: &Tally, budget: &Budget) -> bool {
        let much = |now: u64, then: u64, limit: Option<u64>| {
            limit.is_some_and(|limit| now.saturating_sub(then) >= (limit / SHARE).max(1))
        };
        (self.since, self.running_since) != (noted.since, noted.running_since)
            || much(self.tokens, noted.tokens, budget.tokens)
            || much(self.cost_micros, noted.cost_micros, budget.cost_micros)
            || much(self.calls, noted.calls, budget.calls)
    }
}

impl Life {
    /// Why a start is refused now, for a person, if it is: its budget is used up.
    pub fn refuses_start(&self, unit: &Unit, now: Now) -> Option<String> {
        let (what, limit, until) = self.tally.used_up(unit.budget.as_ref()?, now)?;
        Some(format!("its budget ({what}: {limit}) is used up until {}", moment(until)))
    }

    /// What it used of its budget in the window that has begun.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Turn<'_> {
    /// That the budget is used up, for a person and for programs, if it is.
    pub(super) fn exhausted(&self, life: &Life) -> Option<(String, Said)> {
        let (what, _, until) = life.tally.used_up(self.unit.budget.as_ref()?, self.now)?;
        Some((life.refuses_start(self.unit, self.now)?, Said::BudgetExhausted { what, until }))
    }

    /// Refills what the end of the window refills.
    pub(super) fn refill(&self, life: &mut Life) {
        let Some(budget) = &self.unit.budget else { return };
        let tally = &mut life.tally;
        match tally.until(budget) {
            Some(until) if self.now.wall >= until => {
                let running_since = tally.running_since.map(|_| self.now.mono);
                *tally = Tally { since: running_since.map(|_| self.now.wall), running_since, ..Tally::default() };
            }
            // The wall clock was set back; no window lasts longer for that.
            Some(_) if tally.since > Some(self.now.wall) => tally.since = Some(self.now.wall),
            Some(_) | None => {}
        }
    }

    pub(super) fn spend(&self, life: &mut Life, tokens: u64, cost_micros: u64, calls: u64) {
        if self.unit.budget.is_none() || (tokens, cost_micros, calls) == (0, 0, 0) {
            return;
        }
        let tally = &mut life.tally;
        tally.since.get_or_insert(self.now.wall);
        tally.tokens = tally.tokens.saturating_add(tokens);
        tally.cost_micros = tally.cost_micros.saturating_add(cost_micros);
        tally.calls = tally.calls.saturating_add(calls);
    }

    /// Counts the time of the process, ends the run of a unit that has used up its budget, and says what is to be stored.
    pub(super) fn keep_budget(&mut self, life: &mut Life) {
        let Some(budget) = &self.unit.budget else { return };
        let runs = life.state.identity().is_some();
        match life.tally.running_since {
            None if runs => {
                life.tally.since.get_or_insert(self.now.wall);
                life.tally.running_since = Some(self.now.mono);
            }
            Some(_) if !runs => {
                life.tally.time = life.tally.time(self.now.mono);
                life.tally.running_since = None;
            }
            None | Some(_) => {}
        }
        if life.is_let_live()
            && let Some((text, said)) = self.exhausted(life)
        {
            life.noted = life.tally.clone();
            self.effects.push(Effect::Say(said));
            self.end_run(life, Why::Exhausted { text });
        }
        if life.tally.is_worth_noting(&life.noted, budget) {
            life.noted = life.tally.clone();
        }
    }
}
