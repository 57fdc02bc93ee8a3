//! groups: what the end of one member means for the others.
//!
//! Job: the strategies of `[group]`, as in Erlang/OTP. May touch: the fleet above it.
//! Keeps: a group restarts at most `intensity` times within `period`; the bus hears of members before they go down.
//!
//! A group watches over its members while its target is up or starting.
//!
//! | a member | means |
//! |---|---|
//! | ends, and its own policy starts it again | a restart of the group: counted; the strategy says who goes down and up with it |
//! | ends, and its own policy does not | nothing, unless it is `significant`: then the group ends, as failed if the member failed |
//! | is stopped by a job | nothing |
//! | is a target whose group failed | a restart of this group, in which that target starts with all its members |
//!
//! - A restart of the group is due when the member's own wait is over, and not before its back-off for as many failures as the
//!   group had restarts within the period. Until then all that go along are held; then they start in the order of `members`.
//!   Members that a person stopped, or that had ended, stay down. A start of a held member by a person releases all.
//! - One restart more than `intensity` within `period`: the group fails. Its members stop in reverse order, `on_failure` and
//!   `on_give_up` of the target start, and the failure goes to the group that the target is a member of, if that is up.

use super::ties::Cause;
use super::{Effect, Fleet, Job};
use crate::ids::{Millis, UnitId};
use crate::lifecycle::{self, State, Why, span};
use crate::unit::{Group, GroupStrategy};
use std::collections::BTreeSet;

impl Fleet {
    /// The group that watches over a unit now.
    fn group_of(&self, id: &UnitId) -> Option<(UnitId, Group)> {
        let group = self.graph.groups(id).find(|group| {
            self.units
                .get(*group)
                .is_some_and(|entry| (entry.life.state.is_up() || entry.is_asked_up()) && !entry.is_asked_down())
        })?;
        Some((group.clone(), self.entry(group).form().group.clone()?))
    }

    /// A member's run ended, and no job asked for it.
    pub(super) fn member_ended(&mut self, id: &UnitId) {
        if self.stopping {
            return;
        }
        let Some((group, settings)) = self.group_of(id) else { return };
        let state = &self.entry(id).life.state;
        if let State::Down { failed } = *state
            && settings.significant.contains(id)
        {
            let text = format!("its significant member `{id}` {}", if failed { "failed" } else { "ended" });
            self.end_group(&group, id, failed, &text);
        } else if state.rests_until().is_some() {
            self.restart_group(&group, &settings, id, true);
        }
    }

    /// One member is to start again. `counts`: it was not counted before.
    fn restart_group(&mut self, group: &UnitId, settings: &Group, member: &UnitId, counts: bool) {
        let now = self.now;
        let restarts = &mut self.entry_mut(group).group_restarts;
        restarts.retain(|at| *at + settings.period > now.mono);
        if counts {
            restarts.push(now.mono);
        }
        let count = u32::try_from(restarts.len()).unwrap_or(u32::MAX);
        if count > settings.intensity {
            let limit = format!("more than group.intensity ({}) restarts", settings.intensity);
            let text = format!("{limit} within group.period ({}); the last was of `{member}`", span(settings.period));
            self.end_group(group, member, true, &text);
            if self.entry(group).life.state == (State::Down { failed: true }) {
                self.trigger(group, Cause::GivingUp);
            }
            return;
        }
        let at = settings.members.iter().position(|other| other == member).unwrap_or(0);
        let along = match settings.strategy {
            GroupStrategy::OneForOne => &[],
            GroupStrategy::RestForOne => &settings.members[(at + 1).min(settings.members.len())..],
            GroupStrategy::OneForAll => settings.members.as_slice(),
        };
        let along: Vec<_> = along.iter().filter(|other| *other != member).cloned().collect();
        let entry = self.entry(member);
        let chance = lifecycle::own_chance(now.chance, group, entry.life.run);
        let due = now.mono + lifecycle::wait(&entry.form().restart, count.max(1), chance);
        let due = entry.life.state.rests_until().map_or(due, |at| at.max(due));
        let by = format!("group {group}");
        let along = self.with_members(along.iter());
        let leaving: Vec<_> = along.iter().filter(|id| self.can_be_taken_along(id)).cloned().collect();
        self.say_leaving(group, &leaving);
        for id in &leaving {
            let waits = self.entry(id).life.state.is_at_rest() && !self.entry(id).is_asked_down();
            if !waits {
                self.ask_restart(id, None, by.clone());
            }
            self.entry_mut(id).held_until = Some(due);
        }
        if self.entry(member).life.state.rests_until().is_some() {
            if settings.strategy != GroupStrategy::OneForOne {
                self.entry_mut(member).held_until = Some(due);
                self.show(member, "its group restarts");
            }
        } else {
            // A target whose own group failed: it starts as it is started by a person, with all its members.
            self.ask_start(member, None, by);
            self.pull_in(member);
            for id in self.with_members([member].into_iter()) {
                if self.entry(&id).is_asked_up() {
                    self.entry_mut(&id).held_until = Some(due);
                }
            }
        }
    }

    /// Up, on its way there, or waiting for it; and nobody stops it.
    fn can_be_taken_along(&self, id: &UnitId) -> bool {
        self.units.get(id).is_some_and(|entry| {
            let is_stopped = matches!(entry.job, Some(Job::Stop(_)));
            !entry.is_idle() && !is_stopped && !entry.not_found
        })
    }

    /// Members stop in reverse order, the target is down, and the group above hears of it.
    fn end_group(&mut self, group: &UnitId, member: &UnitId, failed: bool, text: &str) {
        let members = self.with_members([group].into_iter());
        let leaving: Vec<_> = members
            .iter()
            .filter(|id| *id != group && self.units.get(*id).is_some_and(|entry| !entry.is_idle()))
            .cloned()
            .collect();
        self.say_leaving(group, &leaving);
        let reason = format!("its group `{group}` {}: {text}", if failed { "failed" } else { "ended" });
        for id in leaving.iter().rev() {
            self.take_along(id, "was stopped");
            self.ask_stop(id, None, Why::Dependency { failed: failed && id == member, text: reason.clone() }, false);
        }
        let waiters = self.take_waiters(group);
        let outcome = super::JobOutcome::Failed {
            error: format!("unit `{group}` did not start: its group {}", if failed { "failed" } else { "ended" }),
            cause: Some(text.to_owned()),
            hint: Some(format!("see `loomctl logs {member}`; then `loomctl start {group}`")),
        };
        self.set_waits_for(group, None);
        self.entry_mut(group).held_until = None;
        self.entry_mut(group).group_restarts.clear();
        if self.entry(group).life.state.is_at_rest() && failed {
            self.apply(group, lifecycle::Event::Refuse { text: text.to_owned() });
        } else {
            let why = Why::Dependency { failed, text: text.to_owned() };
            self.apply(group, lifecycle::Event::Stop { why });
        }
        self.withdraw(group);
        self.answer(waiters, outcome);
        if !failed {
            self.stop_bound(group);
        } else {
            self.stop_dependents(group);
            self.trigger(group, Cause::Failure);
        }
        if let Some((parent, settings)) = self.group_of(group) {
            if settings.significant.contains(group) {
                let text = format!("its significant member `{group}` {}", if failed { "failed" } else { "ended" });
                self.end_group(&parent, group, failed, &text);
            } else if failed {
                self.restart_group(&parent, &settings, group, true);
            }
        }
    }

    /// The bus is told first, so that peers stop sending.
    pub(super) fn say_leaving(&mut self, group: &UnitId, units: &[UnitId]) {
        if !units.is_empty() {
            // Last up, first down.
            let units = units.iter().rev().cloned().collect();
            self.out.push(Effect::Leaving { group: group.clone(), units });
        }
    }

    /// Units with the members of those that are groups, and theirs, in the order of their start.
    pub(super) fn with_members<'a>(&self, units: impl Iterator<Item = &'a UnitId>) -> Vec<UnitId> {
        let mut open: Vec<UnitId> = units.cloned().collect();
        let mut found = BTreeSet::new();
        while let Some(id) = open.pop() {
            let Some(entry) = self.units.get(&id) else { continue };
            if let Some(group) = &entry.form().group {
                open.extend(group.members.iter().filter(|member| !found.contains(*member)).cloned());
            }
            found.insert(id);
        }
        self.graph.in_order(&found)
    }

    /// A person wants a held unit up: its group's restart is due now.
    pub(super) fn release(&mut self, id: &UnitId, by: &str) {
        if self.entry(id).held_until.is_none() {
            return;
        }
        let due: Millis = self.now.mono;
        let groups: Vec<_> = self.graph.groups(id).cloned().collect();
        let mut held: BTreeSet<_> = self.with_members(groups.iter()).into_iter().collect();
        held.insert(id.clone());
        for id in held {
            if self.entry(&id).held_until.is_some() {
                self.entry_mut(&id).held_until = Some(due);
                if self.entry(&id).job.is_none() {
                    self.ask_start(&id, None, by.to_owned());
                }
            }
        }
    }

    /// A new loomd found members that wait for their restart: whoever goes along with them does so, in case the loomd
    /// before died before it said so.
    pub(super) fn resume_group_restarts(&mut self) {
        let resting: Vec<_> = self
            .units
            .iter()
            .filter(|(_, entry)| entry.job.is_none() && entry.life.state.rests_until().is_some())
            .map(|(id, _)| id.clone())
            .collect();
        for id in resting {
            let Some((group, settings)) = self.group_of(&id) else { continue };
            if settings.strategy != GroupStrategy::OneForOne && self.entry(&id).held_until.is_none() {
                self.restart_group(&group, &settings, &id, false);
            }
        }
    }
}
