//! load: from all files of the search path to all units.
//!
//! Job: main file and drop-ins → [`RawUnit`] → [`Unit`]; what only shows over several units: absent names, cycles,
//! code that one unit writes and another executes. May touch: all of `unit`. May not: open a file.
//! Keeps: a broken file stops its own unit and no other; the same files give the same catalogue in any order.

use super::check::{Checker, Marks, Programs};
use super::keys;
use super::problem::{Problem, Severity};
use super::raw::{self, Entry, FileText, Place, Raw, RawUnit, Table, Value};
use super::source::{Content, Facts, Index, Role, SourceSet};
use super::values;
use super::words::nearest;
use super::{After, ReadyKind, Unit};
use crate::ids::UnitId;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

/// Units read at most, instances that others name included.
pub const UNITS_MAX: usize = 20_000;

/// Where each effective value is written: `restart.delay` → `file:line:column`.
pub type Origins = BTreeMap<String, String>;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No file.
    Absent,
    /// A link to `/dev/null`.
    Masked,
    /// A template; only its instances can be started.
    Template,
    /// A unit, if its problems allow.
    Unit,
}

/// A file that has a part in a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitFile {
    /// As shown to people.
    pub path: String,
    /// What it holds.
    pub text: String,
    /// A main file that a higher directory hides.
    pub hidden: bool,
}

/// One name, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What the name stands for.
    pub standing: Standing,
    /// `None` where a problem is an error, and for all but [`Standing::Unit`].
    pub unit: Option<Unit>,
    /// By file and place.
    pub problems: Vec<Problem>,
    /// Where its values come from.
    pub origins: Origins,
    /// Main file, drop-ins in the order in which they apply, then hidden main files.
    pub files: Vec<UnitFile>,
}

/// All units of a search path.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Catalogue {
    /// Those that are right, instances with a file or named by another unit included.
    pub units: BTreeMap<UnitId, Unit>,
    /// Those that are not, with their errors.
    pub refused: BTreeMap<UnitId, Vec<Problem>>,
    /// Templates.
    pub templates: BTreeSet<UnitId>,
    /// Masked units.
    pub masked: BTreeSet<UnitId>,
    /// Everything, by file and place.
    pub problems: Vec<Problem>,
    /// Files of each unit and template.
    pub files: BTreeMap<UnitId, Vec<UnitFile>>,
    /// Where the values of each unit come from.
    pub origins: BTreeMap<UnitId, Origins>,
}

impl Catalogue {
    /// Whether anything is an error; then a reload changes nothing.
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// The file that has this name already, or the template that would make it; then no transient unit may have it.
    pub fn taken_by(&self, id: &UnitId) -> Option<&str> {
        let files = self.files.get(id).or_else(|| self.files.get(&id.template()?))?;
        files.first().map(|file| file.path.as_str())
    }
}

/// Reads one unit, such as an instance that somebody asks for.
pub fn load(set: &SourceSet, facts: &Facts, id: &UnitId, programs: Programs<'_>) -> Loaded {
    let loader = Loader::new(set, facts, programs);
    let (mut loaded, marks) = loader.read(id);
    if let Some(unit) = &loaded.unit {
        // Those that are there already come first: a newcomer that clashes with one is refused, whoever does the writing.
        let mut all: BTreeMap<UnitId, (Unit, Marks)> = loader
            .known
            .iter()
            .filter_map(|other| {
                let (loaded, marks) = loader.read(other);
                Some((other.clone(), (loaded.unit?, marks)))
            })
            .collect();
        all.insert(id.clone(), (unit.clone(), marks));
        let mut origins = BTreeMap::from([(id.clone(), std::mem::take(&mut loaded.origins))]);
        loader.order_groups(&mut all, &mut origins);
        loaded.origins = origins.remove(id).unwrap_or_default();
        loaded.unit = all.get(id).map(|(unit, _)| unit.clone());
        let clashes = loader.planted_code(&all).into_iter().filter(|clash| &clash.blamed == id || &clash.other == id);
        loaded.problems.extend(clashes.map(|clash| clash.problem));
        sort(&mut loaded.problems);
        if has_error(&loaded.problems) {
            loaded.unit = None;
        }
    }
    loaded
}

/// Reads everything.
pub fn load_all(set: &SourceSet, facts: &Facts, programs: Programs<'_>) -> Catalogue {
    let loader = Loader::new(set, facts, programs);
    let mut catalogue = Catalogue { problems: set.problems.clone(), ..Catalogue::default() };
    catalogue.problems.extend(loader.misnamed());

    let mut marks: BTreeMap<UnitId, (Unit, Marks)> = BTreeMap::new();
    let mut open: Vec<UnitId> = loader.known.iter().rev().cloned().collect();
    let mut visited: BTreeSet<UnitId> = BTreeSet::new();
    let mut absent: Vec<(UnitId, Problem)> = Vec::new();
    while let Some(id) = open.pop() {
        if !visited.insert(id.clone()) || visited.len() > UNITS_MAX {
            continue;
        }
        let (loaded, found) = loader.read(&id);
        match loaded.standing {
            Standing::Absent => continue,
            Standing::Masked => {
                catalogue.masked.insert(id.clone());
            }
            Standing::Template => {
                catalogue.templates.insert(id.clone());
            }
            Standing::Unit => {}
        }
        if has_error(&loaded.problems) {
            catalogue.refused.insert(id.clone(), errors(&loaded.problems));
        }
        catalogue.problems.extend(loaded.problems);
        catalogue.files.insert(id.clone(), loaded.files);
        for (key, named, at) in &found.dependencies {
            match loader.standing(named) {
                Standing::Unit => {
                    if named.instance().is_some() && !visited.contains(named) {
                        open.push(named.clone());
                    }
                }
                Standing::Template => {}
                Standing::Absent => absent.push((id.clone(), loader.absent(key, named, *at, "there is no"))),
                Standing::Masked => absent.push((id.clone(), loader.absent(key, named, *at, "masked is"))),
            }
        }
        if let Some(unit) = loaded.unit {
            catalogue.origins.insert(id.clone(), loaded.origins);
            marks.insert(id, (unit, found));
        }
    }
    catalogue.problems.extend(absent.into_iter().map(|(_, problem)| problem));

    let mut refuse = |found: Vec<(UnitId, Problem)>, marks: &mut BTreeMap<UnitId, (Unit, Marks)>| {
        for (id, problem) in found {
            if problem.severity == Severity::Error {
                marks.remove(&id);
                catalogue.refused.entry(id).or_default().push(problem.clone());
            }
            catalogue.problems.push(problem);
        }
    };
    loader.order_groups(&mut marks, &mut catalogue.origins);
    let cycles = loader.cycles(&marks);
    refuse(cycles, &mut marks);
    let planted = loader.planted_code(&marks).into_iter().map(|clash| (clash.blamed, clash.problem)).collect();
    refuse(planted, &mut marks);
    catalogue.problems.extend(loader.never_up(&marks, &catalogue.refused));

    catalogue.units = marks.into_iter().map(|(id, (unit, _))| (id, unit)).collect();
    let Catalogue { origins, units, .. } = &mut catalogue;
    origins.retain(|id, _| units.contains_key(id));
    sort(&mut catalogue.problems);
    catalogue
}

fn has_error(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.severity == Severity::Error)
}

fn errors(problems: &[Problem]) -> Vec<Problem> {
    problems.iter().filter(|problem| problem.severity == Severity::Error).cloned().collect()
}

fn sort(problems: &mut Vec<Problem>) {
    problems.sort_by(|a, b| {
        (&a.file, a.line, a.column, a.severity, &a.message).cmp(&(&b.file, b.line, b.column, b.severity, &b.message))
    });
    problems.dedup();
}

/// One unit may write what another executes.
struct Clash {
    /// Whose line the problem stands at.
    blamed: UnitId,
    other: UnitId,
    problem: Problem,
}

struct Parsed {
    file: FileText,
    table: Table,
    problems: Vec<Problem>,
    /// Not one syntax error.
    complete: bool,
}

struct Loader<'a> {
    set: &'a SourceSet,
    facts: &'a Facts,
    programs: Programs<'a>,
    index: Index,
    known: BTreeSet<UnitId>,
    parsed: Vec<OnceCell<Parsed>>,
}

impl<'a> Loader<'a> {
    fn new(set: &'a SourceSet, facts: &'a Facts, programs: Programs<'a>) -> Self {
        let mut index = Index::new(set);
        let transient = facts.transient_dir();
        if let Some(at) = set.directories.iter().position(|directory| *directory == transient) {
            index.give_way(set, at);
        }
        let known = index.known();
        let parsed = set.sources.iter().map(|_| OnceCell::new()).collect();
        Self { set, facts, programs, index, known, parsed }
    }

    fn parsed(&self, at: usize) -> &Parsed {
        self.parsed[at].get_or_init(|| {
            let source = &self.set.sources[at];
            match &source.content {
                Content::Bytes(bytes) => {
                    let (file, table, problems) = raw::parse(at, &source.path, bytes);
                    let complete = problems.is_empty();
                    Parsed { file, table, problems, complete }
                }
                Content::Masked | Content::Link => Parsed {
                    file: FileText::new(source.path.clone(), String::new()),
                    table: Table::new(),
                    problems: Vec::new(),
                    complete: true,
                },
                Content::Unreadable { cause, help } => Parsed {
                    file: FileText::new(source.path.clone(), String::new()),
                    table: Table::new(),
                    problems: vec![raw::whole_file(&source.path, Severity::Error, cause, "", help)],
                    complete: false,
                },
            }
        })
    }

    fn standing(&self, id: &UnitId) -> Standing {
        match self.index.main_files(id).first() {
            None => Standing::Absent,
            Some(&at) if self.set.sources[at].content == Content::Masked => Standing::Masked,
            Some(_) if id.is_template() => Standing::Template,
            Some(_) => Standing::Unit,
        }
    }

    fn misnamed(&self) -> Vec<Problem> {
        let mut found: Vec<Problem> = self
            .index
            .misnamed
            .iter()
            .map(|(at, role)| {
                let path = &self.set.sources[*at].path;
                match role {
                    Role::Misnamed(why) => raw::whole_file(
                        path,
                        Severity::Warning,
                        format!("not read: {why}"),
                        "",
                        "rename it to `name.agent.toml` (or .service, .target, .schedule), or move it away",
                    ),
                    Role::StrayDropIn(_) | Role::Main(_) | Role::DropIn(..) | Role::Link { .. } | Role::Other => {
                        raw::whole_file(
                            path,
                            Severity::Warning,
                            "not read: no unit can have the name of this folder",
                            "",
                            "name the folder after a unit: `name.agent.d`, `name.target.wants`; or a kind: `agent.d`",
                        )
                    }
                }
            })
            .collect();
        found.extend(self.index.taken.iter().map(|&at| {
            raw::whole_file(
                &self.set.sources[at].path,
                Severity::Warning,
                "not read: a transient unit may not take the name of a file",
                "",
                "start it under another name; the file goes away when loomd ends",
            )
        }));
        for (of, links) in &self.index.links {
            let nobody = self.standing(of) == Standing::Absent;
            for &at in links.values() {
                let source = &self.set.sources[at];
                match &source.content {
                    Content::Link if nobody => {
                        let message = format!("a link for `{of}`, which has no file");
                        let help = format!("add a file `{of}.toml`, or remove the link");
                        found.push(raw::whole_file(&source.path, Severity::Warning, message, "", help));
                    }
                    Content::Unreadable { cause, help } => {
                        found.push(raw::whole_file(
                            &source.path,
                            Severity::Warning,
                            format!("not read: {cause}"),
                            "",
                            help,
                        ));
                    }
                    Content::Link | Content::Masked | Content::Bytes(_) => {}
                }
            }
        }
        for (folder, files) in &self.index.drop_ins {
            let Ok(owner) = folder.parse::<UnitId>() else { continue };
            if self.standing(&owner) == Standing::Absent {
                let names: Vec<String> = self.known.iter().map(UnitId::to_string).collect();
                let help = match nearest(folder, names.iter().map(String::as_str)) {
                    Some(meant) => format!("did you mean `{meant}.d`?"),
                    None => format!("add a file `{folder}.toml`, or remove the folder"),
                };
                found.extend(files.values().map(|&at| {
                    let message = format!("a drop-in for `{folder}`, which has no file");
                    raw::whole_file(&self.set.sources[at].path, Severity::Warning, message, "", help.clone())
                }));
            }
        }
        found
    }

    fn absent(&self, key: &str, named: &UnitId, at: Place, verb: &str) -> Problem {
        let names: Vec<String> = self.known.iter().map(UnitId::to_string).collect();
        let help = match nearest(&named.to_string(), names.iter().map(String::as_str)) {
            Some(meant) if meant != named.to_string() => format!("did you mean `{meant}`?"),
            Some(_) | None => format!("add a file `{named}.toml` to a directory of units, or remove the name"),
        };
        let message = format!("`{key}` names `{named}`: {verb} unit of this name");
        let label = if verb == "masked is" { "masked" } else { "no such unit" };
        raw::problem(&self.parsed(at.file).file, at, Severity::Warning, message, label, help)
    }

    /// Reads one unit by itself.
    fn read(&self, id: &UnitId) -> (Loaded, Marks) {
        let standing = self.standing(id);
        let mains = self.index.main_files(id);
        let mut loaded =
            Loaded { standing, unit: None, problems: Vec::new(), origins: Origins::new(), files: Vec::new() };
        let Some((&main, hidden)) = mains.split_first() else { return (loaded, Marks::default()) };
        let drop_ins: Vec<usize> = self
            .index
            .drop_ins_of(id)
            .into_iter()
            .filter(|&at| self.set.sources[at].content != Content::Masked)
            .collect();
        let shown = |at: usize, hidden: bool| UnitFile {
            path: self.set.sources[at].path.clone(),
            text: self.parsed(at).file.text.clone(),
            hidden,
        };
        loaded.files = std::iter::once(shown(main, false))
            .chain(drop_ins.iter().map(|&at| shown(at, false)))
            // An instance's own file does not hide its template, which other instances use.
            .chain(hidden.iter().map(|&at| shown(at, true)))
            .collect();
        if standing == Standing::Masked {
            return (loaded, Marks::default());
        }

        // A template is checked as if it had an instance of this name.
        let example: Option<UnitId> =
            id.is_template().then(|| format!("{}@instance.{}", id.name(), id.kind()).parse().ok()).flatten();
        let subject = example.as_ref().unwrap_or(id);
        let files = |at: usize| &self.parsed(at).file;
        let nowhere = String::new();
        let directory = self.set.directories.get(self.set.sources[main].directory).unwrap_or(&nowhere);
        let mut checker = Checker::new(subject, self.facts, directory, &self.known, &files, self.programs);

        let mut unit = RawUnit::default();
        let mut complete = true;
        for &at in std::iter::once(&main).chain(&drop_ins) {
            let parsed = self.parsed(at);
            complete &= parsed.complete;
            loaded.problems.extend(parsed.problems.iter().cloned());
            checker.file(&parsed.table);
            raw::merge(&mut unit.0, &parsed.table);
            if let Some(Value::Table(by)) = unit.0.remove("extend").map(|entry| entry.raw.value) {
                raw::extend(&mut unit.0, &by);
            }
        }
        self.add_links(id, &mut unit.0);
        // What does not fit the kind is reported; its values mean nothing.
        unit.0.retain(|name, _| keys::section(name).is_none_or(|section| section.kinds.contains(&id.kind())));
        let (checked, marks) = checker.whole(&unit, complete);
        let main_path = &self.set.sources[main].path;
        loaded.problems.extend(checker.problems.into_iter().map(|mut problem| {
            if problem.file.is_empty() {
                problem.file.clone_from(main_path);
            }
            problem
        }));
        collect_origins(&unit.0, "", &files, &mut loaded.origins);
        for (key, _) in &marks.origins {
            if let Some(list) = key.strip_suffix("[0]") {
                let items = format!("{list}[");
                loaded.origins.retain(|key, _| !key.starts_with(&items));
            }
        }
        loaded.origins.extend(marks.origins.iter().map(|(key, at)| (key.clone(), files(at.file).origin(*at))));
        sort(&mut loaded.problems);
        if standing == Standing::Unit && !has_error(&loaded.problems) {
            loaded.unit = Some(checked);
        }
        (loaded, marks)
    }

    /// Adds what enabled links say to the unit as written.
    fn add_links(&self, id: &UnitId, table: &mut Table) {
        for (enabled, unit, at) in self.index.links_to(id) {
            if self.set.sources[at].content != Content::Link {
                continue;
            }
            let place = Place { file: at, start: 0, end: 0 };
            let empty = |value| Entry { key_at: place, raw: Raw { value, at: place } };
            let section = table.entry("unit".to_owned()).or_insert_with(|| empty(Value::Table(Table::new())));
            let Value::Table(section) = &mut section.raw.value else { continue };
            let list = section.entry(enabled.word().to_owned()).or_insert_with(|| empty(Value::Array(Vec::new())));
            if let Value::Array(items) = &mut list.raw.value {
                items.push(Raw { value: Value::Text(unit.to_string()), at: place });
            }
        }
    }

    /// Each member of a group waits for the one before it, unless it says itself until when.
    fn order_groups(&self, units: &mut BTreeMap<UnitId, (Unit, Marks)>, origins: &mut BTreeMap<UnitId, Origins>) {
        let mut order: Vec<(UnitId, UnitId, Place)> = Vec::new();
        for (unit, marks) in units.values() {
            let Some(group) = &unit.group else { continue };
            for pair in group.members.windows(2) {
                let at = marks.dependencies.iter().find(|(key, id, _)| *key == "group.members" && *id == pair[1]);
                order.extend(at.map(|(_, _, at)| (pair[0].clone(), pair[1].clone(), *at)));
            }
        }
        for (first, then, at) in order {
            let Some((unit, marks)) = units.get_mut(&then) else { continue };
            if unit.after.iter().any(|after| after.unit == first) {
                continue;
            }
            if let Some(origins) = origins.get_mut(&then) {
                origins.insert(format!("unit.after[{}]", unit.after.len()), self.parsed(at.file).file.origin(at));
            }
            marks.after.push((first.clone(), at));
            unit.after.push(After::ready(first));
        }
    }

    /// Warns of what is needed and can never become active.
    fn never_up(
        &self,
        units: &BTreeMap<UnitId, (Unit, Marks)>,
        refused: &BTreeMap<UnitId, Vec<Problem>>,
    ) -> Vec<Problem> {
        const NEEDED: [&str; 3] = ["unit.requires", "unit.requisite", "unit.binds_to"];
        let needed = |marks: &Marks| -> Vec<(&'static str, UnitId, Place)> {
            marks.dependencies.iter().filter(|(key, ..)| NEEDED.contains(key)).cloned().collect()
        };
        let mut never: BTreeMap<UnitId, String> =
            refused.keys().map(|id| (id.clone(), "its file has errors".to_owned())).collect();
        let mut needed_by: BTreeMap<UnitId, Vec<&UnitId>> = BTreeMap::new();
        let mut open: Vec<UnitId> = never.keys().cloned().collect();
        for (id, (_, marks)) in units {
            for (_, other, _) in needed(marks) {
                match self.standing(&other) {
                    Standing::Absent if !never.contains_key(&other) => {
                        never.insert(other.clone(), "it has no file".to_owned());
                        open.push(other.clone());
                    }
                    Standing::Masked if !never.contains_key(&other) => {
                        never.insert(other.clone(), "it is masked".to_owned());
                        open.push(other.clone());
                    }
                    Standing::Absent | Standing::Masked | Standing::Template | Standing::Unit => {}
                }
                needed_by.entry(other).or_default().push(id);
            }
        }
        while let Some(id) = open.pop() {
            for dependent in needed_by.get(&id).into_iter().flatten() {
                if !never.contains_key(*dependent) {
                    never.insert((*dependent).clone(), format!("it needs `{id}`"));
                    open.push((*dependent).clone());
                }
            }
        }
        let mut found = Vec::new();
        for (_, marks) in units.values() {
            for (key, other, at) in needed(marks) {
                // Of what is absent or masked it is said already.
                if matches!(self.standing(&other), Standing::Unit)
                    && let Some(why) = never.get(&other)
                {
                    let message = format!("`{key}` names `{other}`, which can never become active: {why}");
                    let help = format!("correct `{other}`, or use `wants`");
                    let file = &self.parsed(at.file).file;
                    found.push(raw::problem(file, at, Severity::Warning, message, "never active", help));
                }
            }
            for (key, other, at) in &marks.dependencies {
                let stays_up = match *key {
                    "unit.requisite" | "unit.binds_to" => {
                        "write `requires`: it is met once the oneshot has done its work"
                    }
                    "unit.upholds" => "write `wants`: upheld, it would be run again and again",
                    _ => continue,
                };
                let oneshot = units.get(other).is_some_and(|(other, _)| {
                    other.ready.kind == ReadyKind::Oneshot
                        && !other.exec.as_ref().is_some_and(|exec| exec.remain_after_exit)
                });
                if oneshot {
                    let message = format!(
                        "`{key}` names `{other}`, a oneshot without `remain_after_exit`: it never stays active"
                    );
                    let help = format!("{stays_up}; or add remain_after_exit = true to its [exec]");
                    let file = &self.parsed(at.file).file;
                    found.push(raw::problem(file, *at, Severity::Warning, message, "never stays active", help));
                }
            }
        }
        found
    }

    /// One error for each unit on a cycle of start order.
    fn cycles(&self, units: &BTreeMap<UnitId, (Unit, Marks)>) -> Vec<(UnitId, Problem)> {
        // Who must be up before whom, and where that is written.
        let mut earlier: BTreeMap<&UnitId, Vec<(&UnitId, Place, &UnitId)>> = BTreeMap::new();
        for (id, (_, marks)) in units {
            for (named, at) in &marks.after {
                if let Some((named, _)) = units.get_key_value(named) {
                    earlier.entry(id).or_default().push((named, *at, id));
                }
            }
            for (named, at) in &marks.before {
                if let Some((named, _)) = units.get_key_value(named) {
                    earlier.entry(named).or_default().push((id, *at, id));
                }
            }
        }
        let mut found = Vec::new();
        let mut done: BTreeSet<&UnitId> = BTreeSet::new();
        for start in units.keys() {
            // Depth first with a stack of our own: a long chain is no reason to run out of one.
            let mut path: Vec<(&UnitId, usize)> = vec![(start, 0)];
            while let Some((at, next)) = path.pop() {
                if done.contains(at) {
                    continue;
                }
                let edges = earlier.get(at).map_or(&[][..], Vec::as_slice);
                let Some((target, ..)) = edges.get(next) else {
                    done.insert(at);
                    continue;
                };
                path.push((at, next + 1));
                if let Some(from) = path.iter().position(|(known, _)| known == target) {
                    let ring = &path[from..];
                    let mut names: Vec<String> = ring.iter().map(|(id, _)| id.to_string()).collect();
                    names.push(names[0].clone());
                    let text = names.join(" after ");
                    for (id, next) in ring {
                        let Some((_, place, writer)) = earlier.get(id).and_then(|edges| edges.get(next - 1)) else {
                            continue;
                        };
                        let problem = raw::problem(
                            &self.parsed(place.file).file,
                            *place,
                            Severity::Error,
                            format!("units wait for one another: {text}"),
                            "part of the circle",
                            "remove one of these `after`, `before` or `requires`, or change the order of `members`",
                        );
                        found.push(((*writer).clone(), problem.clone()));
                        if writer != id {
                            found.push(((*id).clone(), problem));
                        }
                    }
                } else {
                    path.push((target, 0));
                }
            }
        }
        found
    }

    /// What one unit may write, no unit executes.
    fn planted_code(&self, units: &BTreeMap<UnitId, (Unit, Marks)>) -> Vec<Clash> {
        let mut code: BTreeMap<String, Vec<(&UnitId, Place)>> = BTreeMap::new();
        for (id, (_, marks)) in units {
            for (path, at) in &marks.executes {
                code.entry(path.clone()).or_default().push((id, *at));
            }
        }
        let mut found = Vec::new();
        for (id, (unit, marks)) in units {
            for (grant, at) in unit.sandbox.write.iter().zip(&marks.writes) {
                for (path, who, place) in touching(&code, &grant.path) {
                    let whose = if who == id { "it executes".to_owned() } else { format!("{who} executes") };
                    let problem = raw::problem(
                        &self.parsed(at.file).file,
                        *at,
                        Severity::Error,
                        format!("{id} may write what {whose}: `{path}`"),
                        "can plant code",
                        format!(
                            "what a unit may write, no unit executes; `{path}` is executed at {}",
                            self.parsed(place.file).file.origin(place)
                        ),
                    );
                    found.push(Clash { blamed: id.clone(), other: who.clone(), problem });
                }
            }
            let own = values::plain_path(&self.facts.state_of(id)).unwrap_or_default();
            for (path, who, place) in touching(&code, &own) {
                let (severity, message) = if who == id {
                    (
                        Severity::Warning,
                        format!("{id} executes `{path}` in its own state directory, which it may write"),
                    )
                } else {
                    (Severity::Error, format!("{who} executes `{path}`, which {id} may write: its state directory"))
                };
                let problem = raw::problem(
                    &self.parsed(place.file).file,
                    place,
                    severity,
                    message,
                    "can be planted",
                    "keep code where no unit writes, such as beside the unit file: \"%d/…\"",
                );
                found.push(Clash { blamed: who.clone(), other: id.clone(), problem });
            }
        }
        found
    }
}

/// Code that lies in, or holds, a path.
fn touching<'c, 'i>(
    code: &'c BTreeMap<String, Vec<(&'i UnitId, Place)>>,
    path: &str,
) -> Vec<(&'c str, &'i UnitId, Place)> {
    let inside = code.range(path.to_owned()..).take_while(|(at, _)| at.starts_with(path));
    let inside = inside.filter(|(at, _)| values::within(at, path));
    let above = path.match_indices('/').skip(1).map(|(at, _)| &path[..at]).filter_map(|dir| code.get_key_value(dir));
    inside.chain(above).flat_map(|(at, users)| users.iter().map(|(id, place)| (at.as_str(), *id, *place))).collect()
}

fn collect_origins<'f>(table: &Table, path: &str, files: &dyn Fn(usize) -> &'f FileText, out: &mut Origins) {
    for (key, entry) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match &entry.raw.value {
            Value::Table(inner) => collect_origins(inner, &path, files, out),
            Value::Array(items) => {
                for (at, item) in items.iter().enumerate() {
                    out.insert(format!("{path}[{at}]"), files(item.at.file).origin(item.at));
                }
                out.insert(path, files(entry.key_at.file).origin(entry.key_at));
            }
            Value::Text(_) | Value::Integer(..) | Value::Float(..) | Value::Boolean(_) | Value::Datetime(_) => {
                out.insert(path, files(entry.raw.at.file).origin(entry.raw.at));
            }
        }
    }
}
