//! check: a unit as written → a unit that is valid because it exists.
//!
//! Job: sections, keys, types, values and what must fit together within one unit; every problem at once.
//! May touch: `raw`, `keys`, `values`, `source`, `tools`. May not: look at another unit, or at the disk.
//! Keeps: each problem names its place; a default is filled in here and nowhere else.

mod read;
mod scheduled;
mod supervised;

use super::keys::{self, Key, Section, Shape};
use super::problem::{Problem, Severity};
use super::raw::{self, Entry, FileText, Place, Raw, RawUnit, Table, Value};
use super::source::Facts;
use super::values::{self, Wrong};
use super::words::{listed, nearest};
use super::*;
use crate::ids::Kind;
use crate::machine::Promise;
use crate::tools::{BadRule, List, Rule};
use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

/// Tells whether a program can be found: a name to be looked up in `PATH`, or an absolute path.
pub type Programs<'a> = Option<&'a dyn Fn(&str) -> bool>;

/// Executed by every profile.
const SYSTEM_CODE: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib64", "/boot"];

/// Ends of names of files that interpreters run.
const SCRIPTS: &[&str] =
    &[".py", ".pyc", ".pyz", ".sh", ".bash", ".js", ".mjs", ".cjs", ".ts", ".rb", ".pl", ".lua", ".jar", ".so"];

/// Places that checks over several units speak of.
#[derive(Debug, Default)]
pub struct Marks {
    /// Section and key, unit named, place.
    pub dependencies: Vec<(&'static str, UnitId, Place)>,
    /// Whom it waits for, and where that is written.
    pub after: Vec<(UnitId, Place)>,
    /// Who waits for it, and where that is written.
    pub before: Vec<(UnitId, Place)>,
    /// Where the units of a list are written that is made of several keys.
    pub origins: Vec<(String, Place)>,
    /// One for each of `sandbox.write`.
    pub writes: Vec<Place>,
    /// What is executed, and where that is written.
    pub executes: Vec<(String, Place)>,
}

/// A good rule and where it stands.
struct Found {
    rule: ToolRule,
    parsed: Rule,
    at: Place,
}

/// Checks one unit.
pub struct Checker<'a> {
    pub id: &'a UnitId,
    pub facts: &'a Facts,
    /// Directory of the main file, absolute: `%d`.
    pub directory: &'a str,
    /// Units with a file, for suggestions.
    pub known: &'a BTreeSet<UnitId>,
    /// Finds a text by the number in a place.
    pub files: &'a dyn Fn(usize) -> &'a FileText,
    pub programs: Programs<'a>,
    pub problems: Vec<Problem>,
    seen: HashSet<(Place, String)>,
}

impl<'a> Checker<'a> {
    pub fn new(
        id: &'a UnitId,
        facts: &'a Facts,
        directory: &'a str,
        known: &'a BTreeSet<UnitId>,
        files: &'a dyn Fn(usize) -> &'a FileText,
        programs: Programs<'a>,
    ) -> Self {
        Self { id, facts, directory, known, files, programs, problems: Vec::new(), seen: HashSet::new() }
    }

    fn report(&mut self, severity: Severity, at: Place, message: String, label: String, help: String) {
        // A value is read once in its file and once in the whole unit.
        if self.seen.insert((at, message.clone())) {
            self.problems.push(raw::problem((self.files)(at.file), at, severity, message, label, help));
        }
    }

    fn error(&mut self, at: Place, message: impl Into<String>, label: impl Into<String>, help: impl Into<String>) {
        self.report(Severity::Error, at, message.into(), label.into(), help.into());
    }

    fn warn(&mut self, at: Place, message: impl Into<String>, label: impl Into<String>, help: impl Into<String>) {
        self.report(Severity::Warning, at, message.into(), label.into(), help.into());
    }

    // ---- the shape of one file ----

    /// Checks every section, key and value of one file by itself.
    pub fn file(&mut self, table: &Table) {
        for (name, entry) in table {
            if name == "extend" {
                match &entry.raw.value {
                    Value::Table(sections) => {
                        for (name, entry) in sections {
                            self.section(name, entry, true);
                        }
                    }
                    _ => self.error(
                        entry.key_at,
                        "`extend` stands before a section's name",
                        "no section",
                        "write [extend.sandbox], and below it the lists to append to",
                    ),
                }
            } else {
                self.section(name, entry, false);
            }
        }
    }

    fn section(&mut self, name: &str, entry: &Entry, extend: bool) {
        let kind = self.id.kind();
        let fitting = || keys::SECTIONS.iter().filter(|section| section.kinds.contains(&kind));
        let Some(section) = keys::section(name) else {
            let homes = keys::homes(name);
            if !matches!(entry.raw.value, Value::Table(_)) {
                let help = match homes.as_slice() {
                    [] => match alias(name) {
                        Some(meant) => format!("did you mean {meant}?"),
                        None => "a key stands below its [section]".to_owned(),
                    },
                    homes => format!("move it below {}", homes.join(" or ")),
                };
                self.error(entry.key_at, format!("key `{name}` stands outside of a section"), "no section", help);
                return;
            }
            let all = listed(fitting().map(|section| section.name));
            let help = match (section_of_systemd(name), nearest(name, fitting().map(|section| section.name))) {
                (Some(meant), _) => meant.to_owned(),
                (None, Some(meant)) => format!("did you mean [{meant}]?"),
                (None, None) => format!("{} {kind} has {all}", article(kind)),
            };
            self.error(entry.key_at, format!("unknown section [{name}]"), "no such section", help);
            return;
        };
        if !section.kinds.contains(&kind) {
            let owners = section.kinds.iter().map(|kind| format!("{kind}s")).collect::<Vec<_>>().join(" and ");
            let right = section.kinds.first().map_or("agent", |kind| kind.word());
            self.error(
                entry.key_at,
                format!("[{name}] does not fit a {kind}"),
                format!("only {owners} have it"),
                format!("remove the section, or name the file `{}.{right}.toml`", self.id.name()),
            );
            return;
        }
        let Value::Table(table) = &entry.raw.value else {
            let help = match &entry.raw.value {
                Value::Array(_) => format!("write [{name}] in single brackets, once"),
                _ => format!("write [{name}] on a line of its own, and the keys below it"),
            };
            self.error(
                entry.key_at,
                format!("[{name}] is a section, not {}", entry.raw.value.noun()),
                "a section",
                help,
            );
            return;
        };
        for (name, entry) in table {
            self.key(section, section.keys, section.name, name, entry, extend);
        }
    }

    fn key(
        &mut self,
        section: &'static Section,
        keys: &'static [Key],
        path: &str,
        name: &str,
        entry: &Entry,
        extend: bool,
    ) {
        if let Some(key) = keys.iter().find(|key| key.name == name) {
            if extend && !key.shape.is_list() {
                self.error(
                    entry.key_at,
                    format!("`{path}.{name}` is no list, so nothing can be appended to it"),
                    "not a list",
                    format!("write it below [{path}]: there it replaces the value"),
                );
            } else {
                self.shape(&format!("{path}.{name}"), key.shape, &entry.raw);
            }
            return;
        }
        let top = path == section.name;
        if let (true, Some(named), Value::Table(inner)) = (top, section.named, &entry.raw.value) {
            if !word_fits(name) {
                self.error(
                    entry.key_at,
                    format!("`{name}` is no name for a profile"),
                    "not a name",
                    "use 1 to 64 of a-z, 0-9, `_` and `-`, starting with a letter or number",
                );
            }
            for (key, entry) in inner {
                self.key(section, named, &format!("{path}.{name}"), key, entry, extend);
            }
            return;
        }
        if let (true, Some(tables)) = (top, &section.tables) {
            let known = tables.names.iter().any(|(known, _)| *known == name);
            match (&entry.raw.value, known) {
                (Value::Table(inner), true) => {
                    for (key, entry) in inner {
                        self.key(section, tables.keys, &format!("{path}.{name}"), key, entry, extend);
                    }
                    return;
                }
                (other, true) => {
                    let message = format!("[{path}.{name}] is a section, not {}", other.noun());
                    let help = format!("write [{path}.{name}] on a line of its own, and the keys below it");
                    self.error(entry.key_at, message, "a section", help);
                    return;
                }
                (Value::Table(_), false) => {
                    let names = || tables.names.iter().map(|(name, _)| *name);
                    let help = match nearest(name, names()) {
                        Some(meant) => format!("did you mean [{path}.{meant}]?"),
                        None => format!("[{path}] knows {}", listed(names())),
                    };
                    self.error(entry.key_at, format!("unknown {} `{name}`", tables.noun), "no such section", help);
                    return;
                }
                (_, false) => {}
            }
        }
        let homes = keys::homes(name);
        let (message, label, help) = if homes.is_empty() {
            let known = || keys.iter().map(|key| key.name);
            let help = match (alias(name), nearest(name, known())) {
                (Some(meant), _) => format!("did you mean {meant}?"),
                (None, Some(meant)) => format!("did you mean `{meant}`?"),
                (None, None) => format!("[{path}] knows {}", listed(known())),
            };
            (format!("unknown key `{name}` in [{path}]"), "no such key".to_owned(), help)
        } else {
            let homes = homes.join(" or ");
            (
                format!("key `{name}` does not belong in [{path}]"),
                format!("belongs in {homes}"),
                format!("move it below {homes}"),
            )
        };
        self.error(entry.key_at, message, label, help);
    }

    /// Reads a value for its problems alone.
    fn shape(&mut self, key: &str, shape: Shape, raw: &Raw) {
        match shape {
            Shape::Text => drop(self.text(key, raw)),
            Shape::Texts => drop(self.texts(key, raw)),
            Shape::Units => drop(self.units(key, raw)),
            Shape::Command => drop(self.command(key, raw)),
            Shape::Path => drop(self.path(key, raw)),
            Shape::Paths { write } => drop(self.paths(key, raw, write)),
            Shape::Environment => drop(self.environment(key, raw)),
            Shape::Credentials => drop(self.credentials(key, raw)),
            Shape::Word { noun, words } => drop(self.word(key, raw, noun, words)),
            Shape::Words { noun, words } => drop(self.words(key, raw, noun, words)),
            Shape::Time { least_ms } => drop(self.time(key, raw, least_ms)),
            Shape::Fraction { least, most } => drop(self.fraction(key, raw, least, most)),
            Shape::Count { least, most } => drop(self.count(key, raw, least, most)),
            Shape::Size => drop(self.size(key, raw)),
            Shape::ExitStatuses => drop(self.exit_statuses(key, raw)),
            Shape::Signal => drop(self.signal(key, raw)),
            Shape::Hosts => drop(self.hosts(key, raw)),
            Shape::Ports => drop(self.ports(key, raw)),
            Shape::Filters => drop(self.filters(key, raw)),
            Shape::Rules(list) => drop(self.rules(key, raw, list)),
            Shape::Url => drop(self.url(key, raw)),
            Shape::Flag
            | Shape::Afters
            | Shape::Commands
            | Shape::Conditions
            | Shape::User
            | Shape::Percent
            | Shape::Money
            | Shape::ProbeUrl
            | Shape::Address
            | Shape::Started
            | Shape::Expressions { .. }
            | Shape::TimeZone => self.newer_shape(key, shape, raw),
        }
    }

    // ---- values ----

    fn type_error(&mut self, key: &str, raw: &Raw, wanted: &str, help: impl Into<String>) {
        let noun = raw.value.noun();
        self.error(raw.at, format!("`{key}` wants {wanted}, not {noun}"), noun, help);
    }

    fn wrong(&mut self, key: &str, at: Place, wrong: Wrong) {
        self.error(at, format!("`{key}`: {}", wrong.what), wrong.label, wrong.help);
    }

    /// The place of a part of a string, where the string is written as it reads.
    fn inside(&self, at: Place, text: &str, part: Range<usize>) -> Place {
        let written = (self.files)(at.file).text.get(at.start..at.end).unwrap_or("");
        let bare = written.len() >= 2 && !written.starts_with("\"\"\"") && !written.starts_with("'''");
        if bare && written.get(1..written.len() - 1) == Some(text) {
            Place { file: at.file, start: at.start + 1 + part.start, end: at.start + 1 + part.end }
        } else {
            at
        }
    }

    /// A string with its specifiers expanded.
    fn text(&mut self, key: &str, raw: &Raw) -> Option<String> {
        let Value::Text(text) = &raw.value else {
            let help = match &raw.value {
                Value::Integer(_, written) | Value::Float(_, written) | Value::Datetime(written) => {
                    format!("write \"{written}\"")
                }
                Value::Boolean(value) => format!("write \"{value}\""),
                Value::Array(_) | Value::Table(_) | Value::Text(_) => "write one text between double quotes".to_owned(),
            };
            self.type_error(key, raw, "a string", help);
            return None;
        };
        if text.contains('\0') {
            self.error(raw.at, format!("`{key}` holds a NUL character"), "no program can read it", "remove `\\u0000`");
            return None;
        }
        self.expand(raw.at, text)
    }

    fn expand(&mut self, at: Place, text: &str) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let mut good = true;
        let mut chars = text.char_indices();
        while let Some((from, c)) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let letter = chars.next();
            let part = from..letter.map_or(text.len(), |(at, c)| at + c.len_utf8());
            let value = match letter.map(|(_, c)| c) {
                Some('%') => Some("%".to_owned()),
                Some('n') => Some(self.id.to_string()),
                Some('N') => {
                    let whole = self.id.to_string();
                    Some(whole.strip_suffix(&format!(".{}", self.id.kind())).unwrap_or(&whole).to_owned())
                }
                Some('p') => Some(self.id.name().to_string()),
                Some('h') => Some(self.facts.home.clone()),
                Some('t') => Some(self.facts.runtime_of_units()),
                Some('S') => Some(self.facts.state_of(self.id)),
                Some('C') => Some(self.facts.cache_of(self.id)),
                Some('b') => Some(self.facts.boot_id.clone()),
                Some('u') => Some(self.facts.user.clone()),
                Some('d') => Some(self.directory.to_owned()),
                Some(letter @ ('i' | 'I')) => match self.id.instance() {
                    Some(instance) if letter == 'i' => Some(instance.to_owned()),
                    Some(instance) => match unescape(instance) {
                        Some(text) => Some(text),
                        None => {
                            let at = self.inside(at, text, part.clone());
                            self.error(
                                at,
                                format!("`%I`: `{instance}` stands for bytes that are no text"),
                                "no text",
                                "use `%i`, or another instance name",
                            );
                            good = false;
                            continue;
                        }
                    },
                    None => {
                        let at = self.inside(at, text, part.clone());
                        self.error(
                            at,
                            format!("`%{letter}` has no value: {} is no instance of a template", self.id),
                            "no instance",
                            format!(
                                "name the file `{}@.{}.toml` to make it a template",
                                self.id.name(),
                                self.id.kind()
                            ),
                        );
                        good = false;
                        continue;
                    }
                },
                Some(_) | None => None,
            };
            match value {
                Some(value) => out.push_str(&value),
                None => {
                    let at = self.inside(at, text, part.clone());
                    self.error(
                        at,
                        format!("unknown specifier `{}`", &text[part]),
                        "not a specifier",
                        "known are %n %N %p %i %I %h %t %S %C %b %u %d; write `%%` for a percent sign",
                    );
                    good = false;
                }
            }
        }
        good.then_some(out)
    }

    fn list<'r>(&mut self, key: &str, raw: &'r Raw) -> Option<&'r [Raw]> {
        match &raw.value {
            Value::Array(items) => Some(items),
            Value::Text(text) => {
                let help = format!("write [{text:?}]");
                self.type_error(key, raw, "a list", help);
                None
            }
            Value::Integer(_, written) => {
                let help = format!("write [{written}]");
                self.type_error(key, raw, "a list", help);
                None
            }
            Value::Float(..) | Value::Boolean(_) | Value::Datetime(_) | Value::Table(_) => {
                self.type_error(key, raw, "a list", "write [\"…\", \"…\"]");
                None
            }
        }
    }

    fn texts(&mut self, key: &str, raw: &Raw) -> Vec<(String, Place)> {
        let items = self.list(key, raw).unwrap_or_default();
        items.iter().filter_map(|item| Some((self.text(key, item)?, item.at))).collect()
    }

    fn units(&mut self, key: &str, raw: &Raw) -> Vec<(UnitId, Place)> {
        let mut out: Vec<(UnitId, Place)> = Vec::new();
        for (text, at) in self.texts(key, raw) {
            if let Some(id) = self.unit(key, &text, at)
                && !out.iter().any(|(known, _)| *known == id)
            {
                out.push((id, at));
            }
        }
        out
    }

    fn command(&mut self, key: &str, raw: &Raw) -> Option<Vec<(String, Place)>> {
        self.command_words(key, raw, false)
    }

    /// Program and arguments; the program's path absolute, its leading `-` kept.
    fn command_words(&mut self, key: &str, raw: &Raw, may_fail: bool) -> Option<Vec<(String, Place)>> {
        if let Value::Text(text) = &raw.value {
            let help =
                match text.contains(['"', '\'', '\\', '$', '|', '&', ';', '<', '>', '*']) || text.trim().is_empty() {
                    true => "write [\"program\", \"argument\", …]; no shell reads it".to_owned(),
                    false => format!(
                        "write [{}]",
                        text.split_whitespace().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(", ")
                    ),
                };
            self.type_error(key, raw, "a list of program and arguments", help);
            return None;
        }
        let items = self.list(key, raw)?;
        let whole = items.len();
        let mut words = self.texts(key, raw);
        if whole == 0 || items.first().is_some_and(|item| item.value == Value::Text(String::new())) {
            self.error(raw.at, "the command is empty", "no program", "write [\"program\", \"argument\", …]");
            return None;
        }
        if words.len() < whole {
            return None;
        }
        let (program, at) = words.first_mut()?;
        let at = *at;
        let (dash, bare) = match program.strip_prefix('-') {
            Some(bare) => ("-", bare),
            None => ("", program.as_str()),
        };
        if !dash.is_empty() && !may_fail {
            self.error(at, format!("`{key}` may not fail"), "a `-` in front", "remove the `-`");
            return None;
        }
        if bare.is_empty() {
            self.error(at, "the command is empty", "no program", "write [\"-program\", \"argument\", …]");
            return None;
        }
        if bare.contains('/') {
            if bare.split('/').any(|step| step == "..") {
                self.dots(key, at);
                return None;
            }
            let joined = if bare.starts_with('/') { bare.to_owned() } else { format!("{}/{bare}", self.directory) };
            *program = format!("{dash}{}", values::plain_path(&joined).unwrap_or(joined));
        }
        Some(words)
    }

    fn dots(&mut self, key: &str, at: Place) {
        self.error(
            at,
            format!("`{key}` holds a path with `..`"),
            "`..` may not stand in a path",
            "write the path that is meant; what a specifier stands for counts as well",
        );
    }

    /// Checks an expanded path.
    fn absolute(&mut self, key: &str, at: Place, path: &str) -> Option<String> {
        if path.split('/').any(|step| step == "..") {
            self.dots(key, at);
            return None;
        }
        if let Some(plain) = values::plain_path(path) {
            return Some(plain);
        }
        let home = ["~/", "$HOME/", "${HOME}/"].iter().find_map(|home| path.strip_prefix(home));
        let help = match home {
            Some(rest) => format!("write \"%h/{rest}\" for a path below the home directory"),
            None if path.is_empty() => "write a path, such as \"%S/work\"".to_owned(),
            None => {
                let rest = path.trim_start_matches("./");
                format!("write \"%S/{rest}\" (the unit's state directory) or \"%d/{rest}\" (beside the unit file)")
            }
        };
        self.error(at, format!("`{key}` wants an absolute path, not `{path}`"), "not absolute", help);
        None
    }

    fn path(&mut self, key: &str, raw: &Raw) -> Option<String> {
        let text = self.text(key, raw)?;
        self.absolute(key, raw.at, &text)
    }

    fn paths(&mut self, key: &str, raw: &Raw, write: bool) -> Vec<(PathGrant, Place)> {
        let mut out = Vec::new();
        for (text, at) in self.texts(key, raw) {
            let (path, optional) = match text.strip_prefix('?') {
                Some(rest) => (rest, true),
                None => (text.as_str(), false),
            };
            let Some(path) = self.absolute(key, at, path) else { continue };
            if path.contains('*') {
                self.error(
                    at,
                    format!("`{key}` names files and directories, not patterns"),
                    "a pattern",
                    "name the directory: a grant covers all that is beneath it",
                );
                continue;
            }
            if write && !self.may_be_written(at, &path) {
                continue;
            }
            out.push((PathGrant { path, optional, origin: (self.files)(at.file).origin(at) }, at));
        }
        out
    }

    /// Refuses what no unit may write.
    fn may_be_written(&mut self, at: Place, path: &str) -> bool {
        let (facts, id) = (self.facts, self.id);
        let plain = |path: &str| values::plain_path(path);
        let mut refuse = |what: String, help: &str| {
            self.error(at, format!("no unit may write {what}"), "refused", help);
            false
        };
        if path == "/" {
            return refuse("`/`".into(), "name the directory that it needs");
        }
        for kernel in ["/proc", "/sys"] {
            if values::within(path, kernel) {
                return refuse(format!("`{kernel}`: the kernel's settings"), "remove it");
            }
        }
        if let Some(code) = SYSTEM_CODE.iter().find(|code| values::within(path, code) || values::within(code, path)) {
            return refuse(
                format!("`{path}`: every unit executes what is in `{code}`"),
                "write to \"%S/…\", the unit's own state directory",
            );
        }
        if let Some(home) = plain(&facts.home).filter(|home| home != "/" && values::within(home, path)) {
            let what = if home == path { "the whole home directory" } else { "what holds the home directory" };
            return refuse(format!("`{path}`: {what}"), "name the directory that it needs, such as \"%h/reports\"");
        }
        let own = [facts.state_of(id), facts.cache_of(id)];
        if own.iter().filter_map(|own| plain(own)).any(|own| values::within(path, &own)) {
            return true;
        }
        let loom = [("Loom's runtime directory", &facts.runtime_dir), ("Loom's state directory", &facts.state_dir)];
        let loom = loom.into_iter().chain(facts.unit_path.iter().map(|dir| ("a directory of unit files", dir)));
        for (what, directory) in loom {
            let Some(directory) = plain(directory) else { continue };
            if values::within(path, &directory) || values::within(&directory, path) {
                let way = if path == directory {
                    format!("`{path}`: {what}")
                } else if values::within(path, &directory) {
                    format!("`{path}`: it lies in `{directory}`, {what}")
                } else {
                    format!("`{path}`: it holds `{directory}`, {what}")
                };
                return refuse(
                    way,
                    "write to \"%S/…\", the unit's own state directory, or to a directory apart from Loom's",
                );
            }
        }
        true
    }

    fn table<'r>(&mut self, key: &str, raw: &'r Raw, help: &str) -> Option<&'r Table> {
        match &raw.value {
            Value::Table(table) => Some(table),
            _ => {
                self.type_error(key, raw, "a table", help);
                None
            }
        }
    }

    fn no_specifier_in(&mut self, key: &str, name: &str, at: Place) -> bool {
        if name.contains('%') {
            self.error(
                at,
                format!("`{key}` has a specifier in a key: `{name}`"),
                "a key",
                "specifiers stand in values, never in keys",
            );
        }
        !name.contains('%')
    }

    fn environment(&mut self, key: &str, raw: &Raw) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        let Some(table) = self.table(key, raw, "write { NAME = \"value\" }") else { return out };
        for (name, entry) in table {
            if !self.no_specifier_in(key, name, entry.key_at) {
                continue;
            }
            if !variable_fits(name) {
                self.error(
                    entry.key_at,
                    format!("`{name}` is no name of an environment variable"),
                    "not a name",
                    "use A-Z, a-z, 0-9 and `_`, not starting with a number",
                );
                continue;
            }
            let ours = name.starts_with("LOOM_")
                || matches!(
                    name.as_str(),
                    "NOTIFY_SOCKET" | "WATCHDOG_USEC" | "WATCHDOG_PID" | "CREDENTIALS_DIRECTORY"
                );
            if ours {
                self.error(entry.key_at, format!("`{name}` is set by Loom"), "reserved", "choose another name");
                continue;
            }
            if let Some(text) = self.text(&format!("{key}.{name}"), &entry.raw) {
                out.insert(name.clone(), text);
            }
        }
        out
    }

    fn credentials(&mut self, key: &str, raw: &Raw) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        let Some(table) = self.table(key, raw, "write { name = \"/path/of/a/file\" }") else { return out };
        for (name, entry) in table {
            if !self.no_specifier_in(key, name, entry.key_at) {
                continue;
            }
            let fits = name.len() <= 64
                && name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
            if !fits {
                self.error(
                    entry.key_at,
                    format!("`{name}` is no name of a credential"),
                    "not a name",
                    "use 1 to 64 of A-Z, a-z, 0-9, `_`, `-` and `.`, starting with a letter or number",
                );
                continue;
            }
            if let Some(path) = self.path(&format!("{key}.{name}"), &entry.raw) {
                out.insert(name.clone(), path);
            }
        }
        out
    }

    fn word<'w>(&mut self, key: &str, raw: &Raw, noun: &str, words: &'w [&'w str]) -> Option<&'w str> {
        let text = self.text(key, raw)?;
        if let Some(word) = words.iter().find(|word| **word == text) {
            return Some(word);
        }
        if key == "ready.type"
            && let Some(found) = self.type_of_systemd(raw.at, &text)
        {
            return found;
        }
        let help = match nearest(&text, words.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("write one of {}", listed(words.iter().copied())),
        };
        let short = noun.rsplit(' ').next().unwrap_or(noun);
        self.error(raw.at, format!("unknown {noun} `{text}`"), format!("not a {short}"), help);
        None
    }

    fn words<'w>(&mut self, key: &str, raw: &Raw, noun: &str, words: &'w [&'w str]) -> Vec<&'w str> {
        let items = self.list(key, raw).unwrap_or_default();
        items.iter().filter_map(|item| self.word(key, item, noun, words)).collect()
    }

    fn time(&mut self, key: &str, raw: &Raw, least_ms: u64) -> Option<Millis> {
        match &raw.value {
            Value::Integer(_, written) | Value::Float(_, written) => {
                let help = format!("write \"{written}s\" if seconds are meant");
                self.type_error(key, raw, "a time span with its unit", help);
                return None;
            }
            Value::Text(_) => {}
            Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
                self.type_error(key, raw, "a time span", "write it like \"30s\" or \"1min 30s\"");
                return None;
            }
        }
        let text = self.text(key, raw)?;
        match values::time(&text) {
            Ok(millis) if millis < least_ms => {
                self.error(
                    raw.at,
                    format!("`{key}` must be longer than nothing"),
                    "too short",
                    "write a time such as \"10s\"",
                );
                None
            }
            Ok(millis) => Some(Millis(millis)),
            Err(wrong) => {
                self.wrong(key, raw.at, wrong);
                None
            }
        }
    }

    fn size(&mut self, key: &str, raw: &Raw) -> Option<u64> {
        if let Value::Integer(_, written) = &raw.value {
            let help = format!("write \"{written}M\" if mebibytes are meant, \"{written}\" if bytes");
            self.type_error(key, raw, "a size with its unit", help);
            return None;
        }
        let text = self.text(key, raw)?;
        match values::size(&text) {
            Ok(bytes) if bytes >= 4096 => Some(bytes),
            Ok(bytes) => {
                self.error(raw.at, format!("`{key}` is only {bytes} bytes"), "too small", "write at least \"4K\"");
                None
            }
            Err(wrong) => {
                self.wrong(key, raw.at, wrong);
                None
            }
        }
    }

    fn fraction(&mut self, key: &str, raw: &Raw, least: f64, most: f64) -> Option<f64> {
        let number = match &raw.value {
            Value::Integer(Some(number), _) => *number as f64,
            Value::Float(Some(number), _) => *number,
            Value::Integer(None, _) | Value::Float(None, _) => f64::NAN,
            Value::Text(text) if text.parse::<f64>().is_ok() => {
                let help = format!("write {text} without quotes");
                self.type_error(key, raw, "a number", help);
                return None;
            }
            Value::Text(_) | Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
                self.type_error(key, raw, "a number", format!("write a number from {least} to {most}"));
                return None;
            }
        };
        if (least..=most).contains(&number) {
            return Some(number);
        }
        self.error(
            raw.at,
            format!("`{key}` is out of its range"),
            "out of range",
            format!("write a number from {least} to {most}"),
        );
        None
    }

    fn count(&mut self, key: &str, raw: &Raw, least: u64, most: u64) -> Option<u64> {
        let help = format!("write a whole number from {least} to {most}");
        match &raw.value {
            Value::Integer(number, _) => {
                let number = number.and_then(|number| u64::try_from(number).ok());
                if let Some(number) = number.filter(|number| (least..=most).contains(number)) {
                    return Some(number);
                }
                self.error(raw.at, format!("`{key}` is out of its range"), "out of range", help);
            }
            Value::Text(text) if text.parse::<u64>().is_ok() => {
                let help = format!("write {text} without quotes");
                self.type_error(key, raw, "a whole number", help);
            }
            Value::Text(_)
            | Value::Float(..)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_)
            | Value::Table(_) => self.type_error(key, raw, "a whole number", help),
        }
        None
    }

    fn exit_statuses(&mut self, key: &str, raw: &Raw) -> Vec<u8> {
        let items = self.list(key, raw).unwrap_or_default();
        let mut out = Vec::new();
        for item in items {
            if let Value::Text(_) = item.value {
                self.type_error(key, item, "exit codes", "write numbers from 0 to 255, such as [75, 78]");
            } else if let Some(code) = self.count(key, item, 0, 255) {
                out.push(u8::try_from(code).expect("at most 255: checked by count"));
            }
        }
        out
    }

    fn signal(&mut self, key: &str, raw: &Raw) -> Option<i32> {
        if let Value::Integer(number, _) = &raw.value {
            let help = match number.and_then(values::signal_name) {
                Some(name) => format!("write \"{name}\""),
                None => "write a name, such as \"SIGTERM\"".to_owned(),
            };
            self.type_error(key, raw, "a signal's name", help);
            return None;
        }
        let text = self.text(key, raw)?;
        match values::signal(&text) {
            Ok(number) => Some(number),
            Err(wrong) => {
                self.error(raw.at, wrong.what, wrong.label, wrong.help);
                None
            }
        }
    }

    fn hosts(&mut self, key: &str, raw: &Raw) -> Vec<HostGrant> {
        let mut out = Vec::new();
        for (text, at) in self.texts(key, raw) {
            match values::host(&text) {
                Ok(grant) => out.push(grant),
                Err(wrong) => self.wrong(key, at, wrong),
            }
        }
        out
    }

    fn ports(&mut self, key: &str, raw: &Raw) -> Vec<u16> {
        let items = self.list(key, raw).unwrap_or_default();
        let ports = items.iter().filter_map(|item| self.count(key, item, 1, 65_535));
        ports.map(|port| u16::try_from(port).expect("at most 65535: checked by count")).collect()
    }

    fn filters(&mut self, key: &str, raw: &Raw) -> Vec<String> {
        let mut out = Vec::new();
        for (text, at) in self.texts(key, raw) {
            match values::filter(&text) {
                Ok(()) => out.push(text),
                Err(wrong) => self.wrong(key, at, wrong),
            }
        }
        out
    }

    fn rules(&mut self, key: &str, raw: &Raw, list: List) -> Vec<Found> {
        let mut out = Vec::new();
        for (text, at) in self.texts(key, raw) {
            match Rule::parse(&text, list) {
                Ok(rule) => {
                    let origin = (self.files)(at.file).origin(at);
                    out.push(Found { rule: ToolRule { text, origin }, parsed: rule, at });
                }
                Err(BadRule { at: from, length, message, help }) => {
                    // Where something is missing at the end, the mark stands on the closing quote.
                    let place = self.inside(at, &text, from..from + length.max(1));
                    let label = match (from, length) {
                        (_, 0) => "something is missing here",
                        (0, _) => "not a rule",
                        (_, _) => "not a condition",
                    };
                    self.error(place, format!("`{key}`: {message}"), label, help);
                }
            }
        }
        out
    }

    fn url(&mut self, key: &str, raw: &Raw) -> Option<(String, String, u16)> {
        let text = self.text(key, raw)?;
        match values::url(&text) {
            Ok((host, port)) => Some((text.trim_end_matches('/').to_owned(), host, port)),
            Err(wrong) => {
                self.wrong(key, raw.at, wrong);
                None
            }
        }
    }

    // ---- the unit as a whole ----

    /// Fills in the defaults and checks what must fit together. Valid only if no problem is an error.
    /// `complete` is false where a syntax error may have swallowed keys: then nothing is called missing.
    pub fn whole(&mut self, raw_unit: &RawUnit, complete: bool) -> (Unit, Marks) {
        let unit = raw_unit;
        let mut marks = Marks::default();
        let id = self.id;
        let own_state = self.facts.state_of(id);
        let get = |section: &str, key: &str| find(&unit.0, section, key);

        let description = get("unit", "description").and_then(|raw| self.text("unit.description", raw));
        let documentation = get("unit", "documentation").map(|raw| self.texts("unit.documentation", raw));
        let mut checked = Unit::bare(id.clone());
        self.dependencies(unit, complete, &mut checked, &mut marks);
        self.schedule(unit, complete, &mut checked, &mut marks);

        let kind = id.kind();
        let has_process = matches!(kind, Kind::Agent | Kind::Service);
        let exec = has_process.then(|| self.exec(unit, &own_state, complete, &mut marks));
        let working_directory = exec.as_ref().map_or(own_state.clone(), |exec| exec.working_directory.clone());

        let ready = self.ready(unit);
        let watchdog = self.watchdog(unit, complete, ready.kind);
        let health = self.health(unit, complete, &mut marks);
        let restart = self.restart(unit);
        let stop = self.stop(unit, &mut marks);
        let budget = self.budget(unit, complete);
        let sandbox = self.sandbox(unit, &mut marks);
        let limits = self.limits(unit);
        let mut filters =
            |key: &str| get("bus", key).map(|raw| self.filters(&format!("bus.{key}"), raw)).unwrap_or_default();
        let bus = Bus { publish: filters("publish"), subscribe: filters("subscribe"), request: filters("request") };
        let tools = self.tools(unit, working_directory);
        let llm = self.llm(unit, complete, &exec, &sandbox);

        let unit = Unit {
            description: description.unwrap_or_else(|| id.to_string()),
            documentation: documentation.unwrap_or_default().into_iter().map(|(text, _)| text).collect(),
            exec,
            ready,
            watchdog,
            health,
            restart,
            stop,
            budget,
            sandbox,
            limits,
            bus,
            tools,
            llm,
            ..checked
        };
        self.together(raw_unit, &unit);
        (unit, marks)
    }

    fn time_or(&mut self, unit: &RawUnit, section: &str, key: &str, least_ms: u64, default_ms: u64) -> Millis {
        find(&unit.0, section, key)
            .and_then(|raw| self.time(&format!("{section}.{key}"), raw, least_ms))
            .unwrap_or(Millis(default_ms))
    }

    fn exec(&mut self, unit: &RawUnit, own_state: &str, complete: bool, marks: &mut Marks) -> Exec {
        let written = find(&unit.0, "exec", "command");
        let command = match written {
            Some(raw) => self.command("exec.command", raw).unwrap_or_default(),
            None => {
                if complete && !is_misplaced(unit, "exec") {
                    let message = format!("{} has no command", self.id);
                    let help = "add command = [\"program\", \"argument\", …] to [exec]";
                    match unit.0.get("exec") {
                        Some(entry) => self.error(entry.key_at, message, "`command` is missing", help),
                        None => self.missing_section(message, help),
                    }
                }
                Vec::new()
            }
        };
        self.is_run(&command, marks);
        let get = |key: &str| find(&unit.0, "exec", key);
        let start_pre = get("start_pre").map(|raw| self.commands("exec.start_pre", raw)).unwrap_or_default();
        let reload = get("reload").and_then(|raw| self.command("exec.reload", raw));
        start_pre.iter().chain(&reload).for_each(|command| self.is_run(command, marks));
        let environment_file =
            get("environment_file").map(|raw| self.paths("exec.environment_file", raw, false)).unwrap_or_default();
        Exec {
            command: plain_words(command),
            start_pre: start_pre.into_iter().map(plain_words).collect(),
            reload: reload.map(plain_words),
            remain_after_exit: get("remain_after_exit")
                .and_then(|raw| self.flag("exec.remain_after_exit", raw))
                .unwrap_or(false),
            environment_file: environment_file.into_iter().map(|(grant, _)| grant).collect(),
            user: get("user").and_then(|raw| self.user("exec.user", raw)),
            working_directory: find(&unit.0, "exec", "working_directory")
                .and_then(|raw| self.path("exec.working_directory", raw))
                .unwrap_or_else(|| own_state.to_owned()),
            environment: find(&unit.0, "exec", "environment")
                .map(|raw| self.environment("exec.environment", raw))
                .unwrap_or_default(),
            credentials: find(&unit.0, "exec", "credentials")
                .map(|raw| self.credentials("exec.credentials", raw))
                .unwrap_or_default(),
        }
    }

    /// Warns of a program that is not there, and marks what is executed.
    fn is_run(&mut self, command: &[(String, Place)], marks: &mut Marks) {
        let Some((written, at)) = command.first() else { return };
        let program = written.strip_prefix('-').unwrap_or(written);
        // One that may fail may be missing.
        if let (Some(exists), true) = (self.programs, program == written)
            && !exists(program)
        {
            let help = if program.contains('/') {
                "correct the path, install it, or make it executable: `chmod +x`"
            } else {
                "install it, or write its whole path; PATH is the system's, not yours"
            };
            let message = format!("command not found: `{program}`");
            self.warn(*at, message, "no such program", help);
        }
        // The program, and a script that an interpreter is given; other paths are data.
        let rest = command[1..].iter().map(|(word, at)| (word.as_str(), at));
        let scripts = rest.filter(|(word, _)| SCRIPTS.iter().any(|end| word.ends_with(end)));
        for (word, at) in std::iter::once((program, at)).chain(scripts).filter(|(word, _)| word.starts_with('/')) {
            marks.executes.extend(values::plain_path(word).map(|path| (path, *at)));
        }
    }

    /// A problem of the unit's main file as a whole.
    fn missing_section(&mut self, message: String, help: &str) {
        self.problems.push(raw::whole_file("", Severity::Error, message, "", help));
    }

    fn restart(&mut self, unit: &RawUnit) -> Restart {
        let get = |key: &str| find(&unit.0, "restart", key);
        let policy = get("policy")
            .and_then(|raw| self.word("restart.policy", raw, "restart policy", keys::RESTART_POLICIES))
            .and_then(from_word)
            .unwrap_or(RestartPolicy::OnFailure);
        let mut statuses = |key: &str| get(key).map(|raw| self.exit_statuses(&format!("restart.{key}"), raw));
        let success_exit_status = statuses("success_exit_status").unwrap_or_default();
        let prevent_exit_status = statuses("prevent_exit_status").unwrap_or_else(|| vec![78]);
        let force_exit_status = statuses("force_exit_status").unwrap_or_default();
        let delay = self.time_or(unit, "restart", "delay", 0, 100);
        let max_delay = self.time_or(unit, "restart", "max_delay", 0, 300_000);
        if delay > max_delay
            && let Some(raw) = get("max_delay").or(get("delay"))
        {
            self.error(
                raw.at,
                "`restart.delay` is longer than `restart.max_delay`",
                "the longest wait is shorter than the first",
                "write a max_delay of at least the delay; without one it is 5min",
            );
        }
        let factor = get("factor").and_then(|raw| self.fraction("restart.factor", raw, 1.0, 100.0)).unwrap_or(2.0);
        let jitter = get("jitter").and_then(|raw| self.fraction("restart.jitter", raw, 0.0, 1.0)).unwrap_or(0.25);
        let reset_after = self.time_or(unit, "restart", "reset_after", 1, 600_000);
        Restart {
            policy,
            delay,
            factor,
            max_delay,
            jitter,
            reset_after,
            success_exit_status,
            prevent_exit_status,
            force_exit_status,
            retry_after_max: self.time_or(unit, "restart", "retry_after_max", 0, 86_400_000),
            limit_burst: self.small_count_or(unit, "restart.limit_burst", 0, 1_000_000, 0),
            limit_interval: self.time_or(unit, "restart", "limit_interval", 1, 10_000),
            limit_mode: get("limit_mode")
                .and_then(|raw| self.word("restart.limit_mode", raw, "limit mode", keys::LIMIT_MODES))
                .and_then(from_word)
                .unwrap_or(LimitMode::Fail),
            poison_after: self.small_count_or(unit, "restart.poison_after", 0, 1_000, 3),
        }
    }

    fn sandbox(&mut self, unit: &RawUnit, marks: &mut Marks) -> Sandbox {
        let get = |key: &str| find(&unit.0, "sandbox", key);
        let profile = get("profile")
            .and_then(|raw| self.word("sandbox.profile", raw, "sandbox profile", keys::PROFILES))
            .unwrap_or(match self.id.kind() {
                Kind::Agent => "python",
                Kind::Service | Kind::Target | Kind::Schedule => "native",
            });
        let paths = |checker: &mut Self, key: &str| {
            get(key).map(|raw| checker.paths(&format!("sandbox.{key}"), raw, key == "write")).unwrap_or_default()
        };
        let read = paths(self, "read");
        let execute = paths(self, "execute");
        let write = paths(self, "write");
        marks.executes.extend(execute.iter().map(|(grant, at)| (grant.path.clone(), *at)));
        marks.writes = write.iter().map(|(_, at)| *at).collect();
        let grants = |found: Vec<(PathGrant, Place)>| found.into_iter().map(|(grant, _)| grant).collect();
        Sandbox {
            profile: profile.to_owned(),
            read: grants(read),
            execute: grants(execute),
            write: grants(write),
            hosts: get("hosts").map(|raw| self.hosts("sandbox.hosts", raw)).unwrap_or_default(),
            listen: get("listen").map(|raw| self.ports("sandbox.listen", raw)).unwrap_or_default(),
            allow_unenforced: get("allow_unenforced")
                .map(|raw| self.words("sandbox.allow_unenforced", raw, "promise", keys::PROMISES))
                .unwrap_or_default()
                .into_iter()
                .filter_map(from_word::<Promise>)
                .collect(),
        }
    }

    fn tools(&mut self, unit: &RawUnit, working_directory: String) -> Tools {
        let get = |key: &str| find(&unit.0, "tools", key);
        let allow = get("allow").map(|raw| self.rules("tools.allow", raw, List::Allow)).unwrap_or_default();
        let deny = get("deny").map(|raw| self.rules("tools.deny", raw, List::Deny)).unwrap_or_default();
        for found in &allow {
            if let Some(cover) = deny.iter().find(|deny| deny.parsed.covers(&found.parsed)) {
                let help = format!("a deny always wins: remove one of the two; the deny is at {}", cover.rule.origin);
                let message = format!("`{}` can never allow anything", found.rule.text);
                self.warn(found.at, message, "always denied", help);
            }
        }
        let rules = |found: Vec<Found>| found.into_iter().map(|found| found.rule).collect();
        Tools {
            allow: rules(allow),
            deny: rules(deny),
            workspace: get("workspace").and_then(|raw| self.path("tools.workspace", raw)).unwrap_or(working_directory),
            timeout: self.time_or(unit, "tools", "timeout", 1, 30_000),
        }
    }

    fn llm(&mut self, unit: &RawUnit, complete: bool, exec: &Option<Exec>, sandbox: &Sandbox) -> Option<Llm> {
        let entry = unit.0.get("llm")?;
        let Value::Table(table) = &entry.raw.value else { return None };
        let mut profiles = BTreeMap::new();
        for (name, profile) in table {
            let Value::Table(keys) = &profile.raw.value else { continue };
            let path = format!("llm.{name}");
            let get = |key: &str| keys.get(key).map(|entry| &entry.raw);
            for needed in ["base_url", "model"] {
                if complete && !keys.contains_key(needed) {
                    let message = format!("[{path}] has no `{needed}`");
                    let help = match needed {
                        "base_url" => "add base_url = \"http://127.0.0.1:8080/v1\", or where the model is served",
                        _ => "add model = \"…\", the name that the endpoint knows",
                    };
                    self.error(profile.key_at, message, format!("`{needed}` is missing"), help);
                }
            }
            let base_url = get("base_url").and_then(|raw| Some((self.url(&format!("{path}.base_url"), raw)?, raw.at)));
            if let Some(((_, host, port), at)) = &base_url
                && !sandbox.hosts.iter().any(|grant| values::admits(grant, host, *port))
            {
                let line = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
                self.warn(
                    *at,
                    format!("[{path}] is at `{line}`, which no line of `hosts` admits"),
                    "cannot be reached",
                    format!("add \"{line}\" to `hosts` of [sandbox]"),
                );
            }
            let credential = get("credential").and_then(|raw| {
                let name = self.text(&format!("{path}.credential"), raw)?;
                if exec.as_ref().is_some_and(|exec| !exec.credentials.contains_key(&name)) {
                    self.error(
                        raw.at,
                        format!("[exec] names no credential `{name}`"),
                        "no such credential",
                        format!("add to [exec]: credentials = {{ {name} = \"/path/of/the/key\" }}"),
                    );
                }
                Some(name)
            });
            let mut count = |key: &str, least, most, default: u32| {
                get(key)
                    .and_then(|raw| self.count(&format!("{path}.{key}"), raw, least, most))
                    .map_or(default, |number| u32::try_from(number).expect("bounded by count"))
            };
            let window = count("window", 256, 16_777_216, 8192);
            let max_output = count("max_output", 1, 1_048_576, 512);
            if max_output >= window
                && let Some(raw) = get("max_output").or(get("window"))
            {
                self.error(
                    raw.at,
                    format!("[{path}]: `max_output` leaves no room for a question"),
                    "as large as the window",
                    format!("write a max_output well below the window of {window}"),
                );
            }
            let model = get("model").and_then(|raw| {
                let text = self.text(&format!("{path}.model"), raw)?;
                if text.is_empty() {
                    self.error(
                        raw.at,
                        format!("[{path}] names no model"),
                        "empty",
                        "write the name that the endpoint knows",
                    );
                }
                Some(text)
            });
            let format = get("format")
                .and_then(|raw| self.word(&format!("{path}.format"), raw, "wire format", keys::LLM_FORMATS))
                .unwrap_or("openai-chat");
            profiles.insert(
                name.clone(),
                LlmProfile {
                    format: format.to_owned(),
                    base_url: base_url.map(|((url, ..), _)| url).unwrap_or_default(),
                    model: model.unwrap_or_default(),
                    credential,
                    window,
                    max_output,
                    temperature: get("temperature")
                        .and_then(|raw| self.fraction(&format!("{path}.temperature"), raw, 0.0, 2.0)),
                },
            );
        }
        let written = table.get("default").map(|entry| &entry.raw);
        let default = match written {
            Some(raw) => {
                let name = self.text("llm.default", raw).unwrap_or_default();
                if complete && !name.is_empty() && !profiles.contains_key(&name) {
                    let help = match nearest(&name, profiles.keys().map(String::as_str)) {
                        Some(meant) => format!("did you mean `{meant}`?"),
                        None => format!("add [llm.{name}] with base_url and model"),
                    };
                    self.error(raw.at, format!("there is no [llm.{name}]"), "no such profile", help);
                }
                name
            }
            None => {
                let mut names = profiles.keys();
                match (names.next(), names.next()) {
                    (Some(only), None) => only.clone(),
                    (None, _) | (Some(_), Some(_)) => {
                        if complete {
                            self.error(
                                entry.key_at,
                                "[llm] does not say which profile is the default",
                                "`default` is missing",
                                "add default = \"local\" and a section [llm.local] with base_url and model",
                            );
                        }
                        String::new()
                    }
                }
            }
        };
        Some(Llm { default, profiles })
    }
}

/// A value by section and key; the section may be `health.startup`.
pub fn find<'t>(table: &'t Table, section: &str, key: &str) -> Option<&'t Raw> {
    let mut table = table;
    for step in section.split('.') {
        match &table.get(step)?.raw.value {
            Value::Table(inner) => table = inner,
            _ => return None,
        }
    }
    table.get(key).map(|entry| &entry.raw)
}

fn plain_words(command: Vec<(String, Place)>) -> Vec<String> {
    command.into_iter().map(|(word, _)| word).collect()
}

fn variable_fits(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether a section's name is taken by something that is no section, which is reported already.
fn is_misplaced(unit: &RawUnit, section: &str) -> bool {
    unit.0.get(section).is_some_and(|entry| !matches!(entry.raw.value, Value::Table(_)))
}

fn from_word<T: serde::de::DeserializeOwned>(word: &str) -> Option<T> {
    serde_json::from_value(serde_json::Value::String(word.to_owned())).ok()
}

fn word_fits(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

/// As systemd: `-` is `/`, `\xNN` a byte.
fn unescape(instance: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(instance.len());
    let mut rest = instance.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'-' => bytes.push(b'/'),
            b'\\' => {
                let digits = std::str::from_utf8(tail.get(1..3)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &tail[3..];
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

fn article(kind: Kind) -> &'static str {
    match kind {
        Kind::Agent => "an",
        Kind::Service | Kind::Target | Kind::Schedule => "a",
    }
}

/// Where the parts of systemd's sections have gone.
fn section_of_systemd(name: &str) -> Option<&'static str> {
    Some(match name {
        "Service" => {
            "systemd's [Service] is [exec], [ready], [watchdog], [restart], [stop], [limits] and [sandbox] here"
        }
        "Timer" => "a timer is a unit of its own here: `name.schedule.toml` with [schedule]",
        _ => return None,
    })
}

/// What people write who know systemd, and other near misses.
fn alias(key: &str) -> Option<&'static str> {
    let plain: String = key.chars().filter(|c| !matches!(c, '_' | '-')).collect();
    Some(match plain.to_ascii_lowercase().as_str() {
        "execstart" | "cmd" | "args" | "program" => "`command` in [exec]",
        "execstartpre" | "execcondition" | "prestart" => "`start_pre` in [exec]",
        "execreload" => "`reload` in [exec]",
        "execstop" => "`command` in [stop]",
        "execstoppost" | "poststop" => "`post` in [stop]",
        "execstartpost" => "a unit of its own, with `after` and `wants` in [unit]; nothing runs after the start here",
        "remainafterexit" => "`remain_after_exit` in [exec]",
        "workingdirectory" | "cwd" | "workdir" | "dir" => "`working_directory` in [exec]",
        "env" => "`environment` in [exec]",
        "environmentfile" | "envfile" => "`environment_file` in [exec]",
        "loadcredential" | "setcredential" | "secrets" => "`credentials` in [exec]",
        "restartsec" => "`delay` in [restart]",
        "restartmaxdelaysec" => "`max_delay` in [restart]",
        "restartsteps" => "`factor` in [restart]",
        "startlimitburst" => "`limit_burst` in [restart]",
        "startlimitinterval" | "startlimitintervalsec" => "`limit_interval` in [restart]",
        "startlimitaction" => "`limit_mode` in [restart], or `on_give_up` in [unit]",
        "successexitstatus" => "`success_exit_status` in [restart]",
        "restartpreventexitstatus" => "`prevent_exit_status` in [restart]",
        "restartforceexitstatus" => "`force_exit_status` in [restart]",
        "timeoutstopsec" | "timeoutstop" | "gracefultimeout" => "`timeout` in [stop]",
        "timeoutstartsec" | "timeoutstart" => "`timeout` in [ready]",
        "timeoutabortsec" => "`abort_timeout` in [watchdog]",
        "killsignal" | "stopsignal" => "`signal` in [stop]",
        "killmode" => "`kill_mode` in [stop]",
        "notifyaccess" => "`notify_access` in [ready]",
        "watchdogsec" => "`interval` in [watchdog]",
        "limitnofile" | "nofile" => "`open_files` in [limits]",
        "limitfsize" => "`file_size` in [limits]",
        "limitas" => "`address_space` in [limits]",
        "memorymax" | "memorylimit" | "memoryhigh" => "`memory` in [limits]",
        "tasksmax" | "limitnproc" => "`tasks` in [limits]",
        "cpuquota" => "`cpu` in [limits]",
        "oompolicy" => "`oom_policy` in [limits]",
        "jobtimeoutsec" => "`job_timeout` in [unit]",
        "onfailure" => "`on_failure` in [unit]",
        "onsuccess" => "`on_success` in [unit]",
        "bindsto" => "`binds_to` in [unit]",
        "partof" => "`part_of` in [unit]",
        "dependson" => "`requires` in [unit]",
        "wantedby" => "`wanted_by` in [install]",
        "requiredby" => "`required_by` in [install]",
        "livenessprobe" => "[health.liveness]",
        "readinessprobe" => "[health.readiness]",
        "startupprobe" => "[health.startup]",
        condition if condition.starts_with("condition") || condition.starts_with("assert") => {
            "`conditions` in [unit]: conditions = [\"path-exists:/etc/x\"]"
        }
        _ => return None,
    })
}
