//! graph: who comes before whom, and whose end is whose end.
//!
//! Job: order, dependents, conflicts, groups and cycles of a set of units. May touch: `ids`, `unit`.
//! Keeps: the order is free of cycles: units on one are named, and order nothing among themselves.

use crate::ids::{Kind, UnitId};
use crate::unit::{Unit, Until};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The edges between known units.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// What a unit starts after, and how far that must have come.
    after: BTreeMap<UnitId, BTreeMap<UnitId, Until>>,
    /// What starts after it.
    before: Edges,
    /// Who cannot be up without it: `requires`, `requisite`, `binds_to`.
    required_by: Edges,
    bound_by: Edges,
    /// Who is `part_of` it.
    parts: Edges,
    /// Who pulls it in.
    asked_by: Edges,
    /// Both ways.
    conflicts: Edges,
    upheld_by: Edges,
    /// The groups that a unit is a member of.
    groups: Edges,
    /// For a member of a group, the members before it.
    earlier_members: Edges,
    /// For each unit on a cycle, a shortest one from it back to it.
    cycles: BTreeMap<UnitId, Vec<UnitId>>,
}

type Edges = BTreeMap<UnitId, BTreeSet<UnitId>>;

impl Graph {
    pub(super) fn new<'a>(units: impl Iterator<Item = &'a Unit> + Clone) -> Self {
        let mut graph = Self::default();
        let known: BTreeMap<&UnitId, &Unit> = units.map(|unit| (&unit.id, unit)).collect();
        for unit in known.values() {
            graph.order(&known, unit);
            for dependency in needs(unit) {
                link(&mut graph.required_by, dependency, &unit.id);
            }
            for dependency in &unit.binds_to {
                link(&mut graph.bound_by, dependency, &unit.id);
            }
            for whole in &unit.part_of {
                link(&mut graph.parts, whole, &unit.id);
            }
            for pulled_in in needs_up(unit).chain(likes_up(unit)) {
                link(&mut graph.asked_by, pulled_in, &unit.id);
            }
            for other in unit.conflicts.iter().filter(|other| **other != unit.id) {
                link(&mut graph.conflicts, &unit.id, other);
                link(&mut graph.conflicts, other, &unit.id);
            }
            for upheld in unit.upholds.iter().filter(|upheld| **upheld != unit.id) {
                link(&mut graph.upheld_by, upheld, &unit.id);
            }
        }
        let edges: Edges =
            graph.after.iter().map(|(then, firsts)| (then.clone(), firsts.keys().cloned().collect())).collect();
        graph.cycles = cycles(&edges);
        let cycles = &graph.cycles;
        for (then, firsts) in &mut graph.after {
            firsts.retain(|first, _| !(cycles.contains_key(first) && cycles.contains_key(then)));
        }
        for (then, firsts) in &graph.after {
            for first in firsts.keys() {
                link(&mut graph.before, first, then);
            }
        }
        graph
    }

    /// What one unit's file says of order.
    fn order(&mut self, known: &BTreeMap<&UnitId, &Unit>, unit: &Unit) {
        let mut order = |first: &UnitId, then: &UnitId, until: Until| {
            if known.contains_key(first) && known.contains_key(then) {
                let edge = self.after.entry(then.clone()).or_default().entry(first.clone()).or_insert(until);
                *edge = until.max(*edge);
            }
        };
        let comes_after = |then: &UnitId, first: &UnitId| {
            known.get(then).is_some_and(|then| then.after.iter().any(|after| after.unit == *first))
                || known.get(first).is_some_and(|first| first.before.contains(then))
        };
        for after in &unit.after {
            order(&after.unit, &unit.id, after.until);
        }
        for then in &unit.before {
            order(&unit.id, then, Until::Ready);
        }
        if unit.id.kind() == Kind::Target {
            for member in likes_up(unit).filter(|member| !comes_after(member, &unit.id)) {
                order(member, &unit.id, Until::Ready);
            }
        }
        let Some(group) = &unit.group else { return };
        // Each member, with the members of those that are groups themselves, comes after all members before it.
        for (at, member) in group.members.iter().enumerate() {
            link(&mut self.groups, member, &unit.id);
            for inner in with_members(known, member) {
                for earlier in group.members[..at].iter().filter(|earlier| **earlier != inner) {
                    link(&mut self.earlier_members, &inner, earlier);
                    if !comes_after(earlier, &inner) {
                        order(earlier, &inner, Until::Ready);
                    }
                }
            }
        }
    }

    pub(super) fn after(&self, id: &UnitId) -> impl Iterator<Item = (&UnitId, Until)> {
        self.after.get(id).into_iter().flatten().map(|(first, until)| (first, *until))
    }

    pub(super) fn before(&self, id: &UnitId) -> impl Iterator<Item = &UnitId> {
        of(&self.before, id)
    }

    /// How far `first` must have come before `then` starts, if there is an order between them.
    pub(super) fn until(&self, then: &UnitId, first: &UnitId) -> Option<Until> {
        self.after.get(then)?.get(first).copied()
    }

    pub(super) fn asked_by(&self, id: &UnitId) -> impl Iterator<Item = &UnitId> {
        of(&self.asked_by, id)
    }

    /// Who is bound to it.
    pub(super) fn bound_by(&self, id: &UnitId) -> impl Iterator<Item = &UnitId> {
        of(&self.bound_by, id)
    }

    /// Who cannot be up while it is.
    pub(super) fn conflicts(&self, id: &UnitId) -> impl Iterator<Item = &UnitId> {
        of(&self.conflicts, id)
    }

    /// Who is `part_of` it.
    pub(super) fn parts(&self, id: &UnitId) -> impl Iterator<Item = &UnitId> {
        of(&self.parts, id)
    }

    /// Each upheld unit with those that uphold it.
    pub(super) fn upheld(&self) -> impl Iterator<Item = (&UnitId, &BTreeSet<UnitId>)> {
        self.upheld_by.iter()
    }

    /// The groups that it is a member of.
    pub(super) fn groups(&self, id: &UnitId) -> impl Iterator<Item = &UnitId> {
        of(&self.groups, id)
    }

    pub(super) fn is_earlier_member(&self, first: &UnitId, then: &UnitId) -> bool {
        self.earlier_members.get(then).is_some_and(|earlier| earlier.contains(first))
    }

    /// `a → b → a`, read as "after", if the unit is on a cycle.
    pub(super) fn cycle(&self, id: &UnitId) -> Option<String> {
        let names: Vec<_> = self.cycles.get(id)?.iter().map(ToString::to_string).collect();
        Some(names.join(" → "))
    }

    /// All that cannot be up without it, directly or not; without itself.
    pub(super) fn dependents(&self, id: &UnitId) -> BTreeSet<UnitId> {
        let mut found = BTreeSet::new();
        let mut open = vec![id];
        while let Some(next) = open.pop() {
            for dependent in of(&self.required_by, next) {
                if dependent != id && found.insert(dependent.clone()) {
                    open.push(dependent);
                }
            }
        }
        found
    }

    /// All that a stop or a restart takes along, directly or not, with the reason; without itself.
    pub(super) fn goes_along(&self, id: &UnitId, what_happened: &str) -> BTreeMap<UnitId, String> {
        let mut found: BTreeMap<UnitId, String> = BTreeMap::new();
        // With each unit the one that is named as the reason of those that require it.
        let mut open = vec![(id, id)];
        while let Some((next, named)) = open.pop() {
            for dependent in of(&self.required_by, next).filter(|dependent| *dependent != id) {
                if !found.contains_key(dependent) {
                    found.insert(dependent.clone(), format!("it requires `{named}`, which {what_happened}"));
                    open.push((dependent, named));
                }
            }
            for part in of(&self.parts, next).filter(|part| *part != id) {
                if !found.contains_key(part) {
                    found.insert(part.clone(), format!("it is part of `{next}`, which {what_happened}"));
                    open.push((part, part));
                }
            }
        }
        found
    }

    /// Units so that whatever comes first in the order comes first.
    pub(super) fn in_order(&self, units: &BTreeSet<UnitId>) -> Vec<UnitId> {
        let mut ordered = Vec::new();
        let mut seen = BTreeSet::new();
        for id in units {
            self.place(id, units, &mut seen, &mut ordered);
        }
        ordered
    }

    fn place(&self, id: &UnitId, among: &BTreeSet<UnitId>, seen: &mut BTreeSet<UnitId>, ordered: &mut Vec<UnitId>) {
        // Depth first with a stack of its own: a long chain is no deep recursion.
        let mut open = vec![(id.clone(), false)];
        while let Some((id, is_done)) = open.pop() {
            if is_done {
                if among.contains(&id) {
                    ordered.push(id);
                }
            } else if seen.insert(id.clone()) {
                open.push((id.clone(), true));
                open.extend(self.after(&id).map(|(first, _)| (first.clone(), false)));
            }
        }
    }
}

/// What a unit cannot be up without.
pub(super) fn needs(unit: &Unit) -> impl Iterator<Item = &UnitId> {
    unit.requires.iter().chain(&unit.requisite).chain(&unit.binds_to)
}

/// What its start starts, and cannot do without.
pub(super) fn needs_up(unit: &Unit) -> impl Iterator<Item = &UnitId> {
    unit.requires.iter().chain(&unit.binds_to)
}

/// What its start starts, and can do without.
pub(super) fn likes_up(unit: &Unit) -> impl Iterator<Item = &UnitId> {
    let members = unit.group.iter().flat_map(|group| &group.members);
    unit.wants.iter().chain(&unit.upholds).chain(members)
}

/// A unit and, if it is a group, its members and theirs.
fn with_members(known: &BTreeMap<&UnitId, &Unit>, root: &UnitId) -> BTreeSet<UnitId> {
    let mut found = BTreeSet::from([root.clone()]);
    let mut open = vec![root.clone()];
    while let Some(id) = open.pop() {
        let group = known.get(&id).and_then(|unit| unit.group.as_ref());
        for member in group.iter().flat_map(|group| &group.members) {
            if found.insert(member.clone()) {
                open.push(member.clone());
            }
        }
    }
    found
}

fn of<'a>(edges: &'a Edges, id: &UnitId) -> impl Iterator<Item = &'a UnitId> {
    edges.get(id).into_iter().flatten()
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
