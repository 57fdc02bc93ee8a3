//! graph: who comes before whom.
//!
//! Job: order, dependents and cycles of a set of units. May touch: `ids`, `unit`.
//! Keeps: the order is free of cycles: units on one are named, and order nothing among themselves.

use crate::ids::{Kind, UnitId};
use crate::unit::Unit;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The edges between known units.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// What a unit starts after.
    after: BTreeMap<UnitId, BTreeSet<UnitId>>,
    /// What starts after it.
    before: BTreeMap<UnitId, BTreeSet<UnitId>>,
    /// Who requires it.
    required_by: BTreeMap<UnitId, BTreeSet<UnitId>>,
    /// Who requires or wants it.
    asked_by: BTreeMap<UnitId, BTreeSet<UnitId>>,
    /// For each unit on a cycle, a shortest one from it back to it.
    cycles: BTreeMap<UnitId, Vec<UnitId>>,
}

type Edges = BTreeMap<UnitId, BTreeSet<UnitId>>;

impl Graph {
    pub(super) fn new<'a>(units: impl Iterator<Item = &'a Unit> + Clone) -> Self {
        let mut graph = Self::default();
        let known: BTreeMap<&UnitId, &Unit> = units.map(|unit| (&unit.id, unit)).collect();
        let mut order = |first: &UnitId, then: &UnitId| {
            if known.contains_key(first) && known.contains_key(then) {
                link(&mut graph.after, then, first);
            }
        };
        for unit in known.values() {
            for first in unit.requires.iter().chain(unit.after.iter().map(|after| &after.unit)) {
                order(first, &unit.id);
            }
            for then in &unit.before {
                order(&unit.id, then);
            }
            if unit.id.kind() == Kind::Target {
                for member in &unit.wants {
                    let comes_later = known.get(member).is_some_and(|member| {
                        member.after.iter().any(|after| after.unit == unit.id) || member.requires.contains(&unit.id)
                    }) || unit.before.contains(member);
                    if !comes_later {
                        order(member, &unit.id);
                    }
                }
            }
            for dependency in &unit.requires {
                link(&mut graph.required_by, dependency, &unit.id);
            }
            for dependency in unit.requires.iter().chain(&unit.wants) {
                link(&mut graph.asked_by, dependency, &unit.id);
            }
        }
        graph.cycles = cycles(&graph.after);
        let cycles = &graph.cycles;
        for (then, firsts) in &mut graph.after {
            firsts.retain(|first| !(cycles.contains_key(first) && cycles.contains_key(then)));
        }
        for (then, firsts) in &graph.after {
            for first in firsts {
                link(&mut graph.before, first, then);
            }
        }
        graph
    }

    pub(super) fn after(&self, id: &UnitId) -> impl Iterator<Item = &UnitId> {
        self.after.get(id).into_iter().flatten()
    }

    pub(super) fn before(&self, id: &UnitId) -> impl Iterator<Item = &UnitId> {
        self.before.get(id).into_iter().flatten()
    }

    pub(super) fn asked_by(&self, id: &UnitId) -> impl Iterator<Item = &UnitId> {
        self.asked_by.get(id).into_iter().flatten()
    }

    /// `a → b → a`, read as "after", if the unit is on a cycle.
    pub(super) fn cycle(&self, id: &UnitId) -> Option<String> {
        let names: Vec<_> = self.cycles.get(id)?.iter().map(ToString::to_string).collect();
        Some(names.join(" → "))
    }

    /// All that require it, directly or not; without itself.
    pub(super) fn dependents(&self, id: &UnitId) -> BTreeSet<UnitId> {
        let mut found = BTreeSet::new();
        let mut open = vec![id];
        while let Some(next) = open.pop() {
            for dependent in self.required_by.get(next).into_iter().flatten() {
                if dependent != id && found.insert(dependent.clone()) {
                    open.push(dependent);
                }
            }
        }
        found
    }
}

fn link(edges: &mut Edges, from: &UnitId, to: &UnitId) {
    edges.entry(from.clone()).or_default().insert(to.clone());
}

/// Peels off what has nothing before it; searches what remains for the way back to each unit.
fn cycles(after: &Edges) -> BTreeMap<UnitId, Vec<UnitId>> {
    let mut open_firsts: BTreeMap<&UnitId, usize> = BTreeMap::new();
    let mut before: BTreeMap<&UnitId, Vec<&UnitId>> = BTreeMap::new();
    for (then, firsts) in after {
        open_firsts.insert(then, firsts.len());
        for first in firsts {
            before.entry(first).or_default().push(then);
        }
    }
    for first in before.keys() {
        open_firsts.entry(first).or_insert(0);
    }
    let mut free: Vec<&UnitId> = open_firsts.iter().filter(|(_, open)| **open == 0).map(|(id, _)| *id).collect();
    while let Some(id) = free.pop() {
        open_firsts.remove(id);
        for then in before.get(id).into_iter().flatten() {
            let open = open_firsts.get_mut(then).expect("peeled only once nothing is before it");
            *open -= 1;
            if *open == 0 {
                free.push(then);
            }
        }
    }
    open_firsts.keys().filter_map(|&id| Some((id.clone(), way_back(after, id)?))).collect()
}

fn way_back(edges: &Edges, from: &UnitId) -> Option<Vec<UnitId>> {
    let mut came_from: BTreeMap<&UnitId, &UnitId> = BTreeMap::new();
    let mut open = VecDeque::from([from]);
    while let Some(at) = open.pop_front() {
        for next in edges.get(at).into_iter().flatten() {
            if next == from {
                let mut way = vec![from.clone()];
                let mut back = at;
                while back != from {
                    way.push(back.clone());
                    back = came_from.get(back).expect("every unit in the queue but the first was reached from one");
                }
                way.push(from.clone());
                way.reverse();
                return Some(way);
            }
            if !came_from.contains_key(next) {
                came_from.insert(next, at);
                open.push_back(next);
            }
        }
    }
    None
}
