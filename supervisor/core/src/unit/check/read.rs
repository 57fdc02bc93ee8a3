//! check/read: the values that supervision brought: switches, lists of commands, conditions, probes, money.
//!
//! Job: one written value → its meaning, or a problem at its place. May touch: the checker above it.
//! Keeps: as the readers of the checker: a value that is not good is reported exactly here.

use super::super::keys::{self, Shape};
use super::super::raw::{Place, Raw, Value};
use super::super::words::{listed, nearest};
use super::super::{After, Condition, Test, Until};
use super::{Checker, from_word, values};
use crate::ids::UnitId;

/// A program and its arguments, each where it is written.
pub(super) type Words = Vec<(String, Place)>;

impl Checker<'_> {
    /// Reads a value of one of these shapes for its problems alone.
    pub(super) fn newer_shape(&mut self, key: &str, shape: Shape, raw: &Raw) {
        match shape {
            Shape::Flag => drop(self.flag(key, raw)),
            Shape::Afters => drop(self.afters(key, raw)),
            Shape::Commands => drop(self.commands(key, raw)),
            Shape::Conditions => drop(self.conditions(key, raw)),
            Shape::User => drop(self.user(key, raw)),
            Shape::Percent => drop(self.percent(key, raw)),
            Shape::Money => drop(self.money(key, raw)),
            Shape::ProbeUrl => drop(self.probe_url(key, raw)),
            Shape::Address => drop(self.address(key, raw)),
            Shape::Started => drop(self.started(key, raw)),
            Shape::Expressions { .. } => drop(self.expressions(key, raw)),
            Shape::TimeZone => drop(self.timezone(key, raw)),
            Shape::Text
            | Shape::Texts
            | Shape::Units
            | Shape::Command
            | Shape::Path
            | Shape::Paths { .. }
            | Shape::Environment
            | Shape::Credentials
            | Shape::Word { .. }
            | Shape::Words { .. }
            | Shape::Time { .. }
            | Shape::Fraction { .. }
            | Shape::Count { .. }
            | Shape::Size
            | Shape::ExitStatuses
            | Shape::Signal
            | Shape::Hosts
            | Shape::Ports
            | Shape::Filters
            | Shape::Rules(_)
            | Shape::Url => {}
        }
    }

    pub(super) fn flag(&mut self, key: &str, raw: &Raw) -> Option<bool> {
        let help = match &raw.value {
            Value::Boolean(flag) => return Some(*flag),
            Value::Text(text) if matches!(text.as_str(), "true" | "yes" | "on" | "1") => "write true, without quotes",
            Value::Text(text) if matches!(text.as_str(), "false" | "no" | "off" | "0") => "write false, without quotes",
            Value::Text(_)
            | Value::Integer(..)
            | Value::Float(..)
            | Value::Datetime(_)
            | Value::Array(_)
            | Value::Table(_) => "write true or false",
        };
        self.type_error(key, raw, "true or false", help);
        None
    }

    /// `"db.service"`, or `{ unit = "db.service", until = "healthy" }`.
    pub(super) fn afters(&mut self, key: &str, raw: &Raw) -> Vec<(After, Place)> {
        let mut out: Vec<(After, Place)> = Vec::new();
        for item in self.list(key, raw).unwrap_or_default() {
            let found = match &item.value {
                Value::Table(_) => self.after_until(key, item),
                Value::Text(_) => {
                    self.text(key, item).and_then(|text| self.unit(key, &text, item.at)).map(After::ready)
                }
                Value::Integer(..) | Value::Float(..) | Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) => {
                    let help = "write \"db.service\", or { unit = \"db.service\", until = \"healthy\" }";
                    self.type_error(key, item, "units", help);
                    None
                }
            };
            let Some(after) = found else { continue };
            match out.iter().find(|(known, _)| known.unit == after.unit) {
                None => out.push((after, item.at)),
                Some((known, _)) if known.until == after.until => {}
                Some(_) => self.error(
                    item.at,
                    format!("`{key}` names `{}` twice, with two meanings of `until`", after.unit),
                    "named again",
                    "keep one of the two",
                ),
            }
        }
        out
    }

    fn after_until(&mut self, key: &str, item: &Raw) -> Option<After> {
        const FORM: &str = "write { unit = \"db.service\", until = \"healthy\" }";
        let Value::Table(table) = &item.value else { return None };
        let (mut unit, mut until, mut good) = (None, Some(Until::Ready), true);
        for (name, entry) in table {
            match name.as_str() {
                "unit" => {
                    unit = self.text(key, &entry.raw).and_then(|text| self.unit(key, &text, entry.raw.at));
                    good &= unit.is_some();
                }
                "until" => {
                    until = self
                        .word(&format!("{key}.until"), &entry.raw, "`until` word", keys::UNTILS)
                        .and_then(from_word);
                }
                other => {
                    let help = match nearest(other, ["unit", "until"]) {
                        Some(meant) => format!("did you mean `{meant}`?"),
                        None => FORM.to_owned(),
                    };
                    self.error(entry.key_at, format!("unknown key `{other}` in `{key}`"), "no such key", help);
                    good = false;
                }
            }
        }
        if unit.is_none() && good {
            self.error(item.at, format!("an entry of `{key}` does not say whom"), "`unit` is missing", FORM);
        }
        Some(After { unit: unit?, until: until? })
    }

    pub(super) fn commands(&mut self, key: &str, raw: &Raw) -> Vec<Words> {
        let flat = |items: &[Raw]| !items.is_empty() && items.iter().all(|item| matches!(item.value, Value::Text(_)));
        match &raw.value {
            Value::Array(items) if flat(items) => {
                let words: Vec<String> = items.iter().map(|item| format!("{:?}", text_of(item))).collect();
                let help = format!("write [[{}]]: a list of commands, each a list of its words", words.join(", "));
                self.error(raw.at, format!("`{key}` wants a list of commands, not one command"), "one command", help);
                Vec::new()
            }
            Value::Array(items) => items.iter().filter_map(|item| self.command_words(key, item, true)).collect(),
            Value::Text(_)
            | Value::Integer(..)
            | Value::Float(..)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Table(_) => {
                self.type_error(key, raw, "a list of commands", "write [[\"program\", \"argument\", …], …]");
                Vec::new()
            }
        }
    }

    pub(super) fn conditions(&mut self, key: &str, raw: &Raw) -> Vec<(Condition, Place)> {
        let texts = self.texts(key, raw);
        texts.into_iter().filter_map(|(text, at)| Some((self.condition(key, text, at)?, at))).collect()
    }

    fn condition(&mut self, key: &str, text: String, at: Place) -> Option<Condition> {
        let (negated, bare) = match text.strip_prefix('!') {
            Some(bare) => (true, bare),
            None => (false, text.as_str()),
        };
        let sign = bare.find([':', '=']);
        let (name, given) = sign.map_or((bare, None), |at| (&bare[..at], Some(&bare[at + 1..])));
        let value = given.filter(|_| sign.is_some_and(|at| bare[at..].starts_with(':')));
        let known = |name: &str| keys::CONDITIONS.iter().find(|(known, _)| *known == name);
        let (Some((name, example)), Some(value)) = (known(name), value) else {
            // As systemd has it: ConditionPathExists=/x.
            let plain = name.strip_prefix("Condition").or_else(|| name.strip_prefix("Assert")).unwrap_or(name);
            let plain = match plain {
                "CPUs" => "cpus".to_owned(),
                "ACPower" => "ac-power".to_owned(),
                _ => plain.char_indices().fold(String::new(), |mut out, (at, c)| {
                    if c.is_ascii_uppercase() && at > 0 {
                        out.push('-');
                    }
                    out.push(c.to_ascii_lowercase());
                    out
                }),
            };
            let meant =
                known(&plain).or_else(|| known(nearest(&plain, keys::CONDITIONS.iter().map(|(name, _)| *name))?));
            let help = match meant {
                Some((name, example)) => format!("did you mean \"{name}:{}\"?", given.unwrap_or(example)),
                None => format!("there are {}", listed(keys::CONDITIONS.iter().map(|(name, _)| *name))),
            };
            let (message, label) = match known(name) {
                Some(_) => (format!("`{key}`: `{text}` does not say of what"), "`:` and what is looked at are missing"),
                None => (format!("unknown condition `{text}`"), "not a condition"),
            };
            self.error(at, message, label, help);
            return None;
        };
        let wrong = |checker: &mut Self, what: &str| {
            let message = format!("`{key}`: `{name}` wants {what}, not `{value}`");
            checker.error(at, message, "not right", format!("write it like \"{name}:{example}\""));
            None
        };
        let test = match *name {
            "path-exists" => Test::PathExists(self.absolute(key, at, value)?),
            "path-exists-glob" => Test::PathExistsGlob(self.absolute(key, at, value)?),
            "path-is-directory" => Test::PathIsDirectory(self.absolute(key, at, value)?),
            "directory-not-empty" => Test::DirectoryNotEmpty(self.absolute(key, at, value)?),
            "file-not-empty" => Test::FileNotEmpty(self.absolute(key, at, value)?),
            "file-is-executable" => Test::FileIsExecutable(self.absolute(key, at, value)?),
            "path-is-read-write" => Test::PathIsReadWrite(self.absolute(key, at, value)?),
            "environment" => match value.split('=').next() {
                Some(name) if super::variable_fits(name) => Test::Environment(value.to_owned()),
                Some(_) | None => return wrong(self, "the name of a variable"),
            },
            "ac-power" => match value {
                "true" => Test::AcPower(true),
                "false" => Test::AcPower(false),
                _ => return wrong(self, "true or false"),
            },
            "cpus" => match value.parse::<u64>() {
                Ok(count) if count > 0 => Test::Cpus(count),
                Ok(_) | Err(_) => return wrong(self, "a whole number"),
            },
            "memory" => match values::size(value) {
                Ok(bytes) => Test::Memory(bytes),
                Err(_) => return wrong(self, "a size"),
            },
            _ if value.is_empty() || value.contains(char::is_whitespace) => return wrong(self, "a name"),
            "host" => Test::Host(value.to_owned()),
            "user" => Test::User(value.to_owned()),
            "architecture" => Test::Architecture(value.to_owned()),
            other => unreachable!("`{other}` is in the table of conditions and has no meaning here"),
        };
        Some(Condition { negated, test, text })
    }

    pub(super) fn user(&mut self, key: &str, raw: &Raw) -> Option<String> {
        let text = self.text(key, raw)?;
        let name = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        // The last number stands for "none" in the kernel's calls.
        let number = text.parse::<u32>().is_ok_and(|number| number != u32::MAX);
        if text.len() <= 32 && (name || number) {
            return Some(text);
        }
        let help = "write the name of a user as in /etc/passwd, or its number as text";
        self.error(raw.at, format!("`{key}`: `{text}` is no name of a user"), "not a user", help);
        None
    }

    /// Not expanded: its sign is no specifier.
    pub(super) fn percent(&mut self, key: &str, raw: &Raw) -> Option<u32> {
        let Value::Text(text) = &raw.value else {
            let help = match &raw.value {
                Value::Integer(_, written) => format!("write \"{written}%\""),
                Value::Float(..)
                | Value::Boolean(_)
                | Value::Datetime(_)
                | Value::Array(_)
                | Value::Table(_)
                | Value::Text(_) => "write it like \"50%\"".to_owned(),
            };
            self.type_error(key, raw, "a share of one processor", help);
            return None;
        };
        match values::percent(text) {
            Ok(percent) => Some(percent),
            Err(wrong) => {
                self.wrong(key, raw.at, wrong);
                None
            }
        }
    }

    pub(super) fn money(&mut self, key: &str, raw: &Raw) -> Option<u64> {
        if let Value::Integer(_, written) | Value::Float(_, written) = &raw.value {
            let help = format!("write \"{written}\": as text, so that nothing is rounded");
            self.type_error(key, raw, "an amount as text", help);
            return None;
        }
        let text = self.text(key, raw)?;
        match values::money(&text) {
            Ok(micros) => Some(micros),
            Err(wrong) => {
                self.wrong(key, raw.at, wrong);
                None
            }
        }
    }

    pub(super) fn probe_url(&mut self, key: &str, raw: &Raw) -> Option<(String, String, u16)> {
        let text = self.text(key, raw)?;
        match values::probe_url(&text) {
            Ok((host, port)) => Some((text, host, port)),
            Err(wrong) => {
                self.wrong(key, raw.at, wrong);
                None
            }
        }
    }

    pub(super) fn address(&mut self, key: &str, raw: &Raw) -> Option<(String, u16)> {
        if let Value::Integer(_, written) = &raw.value {
            let help = format!("write \"127.0.0.1:{written}\"");
            self.type_error(key, raw, "an address and a port", help);
            return None;
        }
        let text = self.text(key, raw)?;
        match values::address(&text) {
            Ok(found) => Some(found),
            Err(wrong) => {
                self.wrong(key, raw.at, wrong);
                None
            }
        }
    }

    /// What systemd calls its types. The outer `None`: none of those.
    pub(super) fn type_of_systemd(&mut self, at: Place, text: &str) -> Option<Option<&'static str>> {
        let refused = match text {
            "simple" => {
                let help = "write \"exec\": ready once the program runs, confined";
                self.warn(at, "`simple` reads as `exec`", "read as `exec`", help);
                return Some(Some("exec"));
            }
            "forking" => {
                "let the program stay in the foreground, often by an option such as `--foreground`, and write \"exec\", \
                 or \"notify\" if it says READY=1"
            }
            "dbus" => "write \"notify\" if the program says READY=1, else \"exec\" and a [health.startup]",
            "idle" => "write \"exec\", and name in `after` of [unit] what is to come first",
            _ => return None,
        };
        self.error(at, format!("the ready type `{text}` of systemd does not exist here"), "not a type", refused);
        Some(None)
    }

    /// Checks the name of one unit, with its specifiers expanded.
    pub(super) fn unit(&mut self, key: &str, text: &str, at: Place) -> Option<UnitId> {
        match text.parse::<UnitId>() {
            Ok(id) if id.is_template() => self.error(
                at,
                format!("`{key}` names a template: `{text}`"),
                "a template cannot be started",
                format!("name an instance: `{}@x.{}`", id.name(), id.kind()),
            ),
            Ok(id) if &id == self.id => {
                self.error(at, format!("`{key}` names the unit itself"), "this unit", "remove it");
            }
            Ok(id) => return Some(id),
            Err(error) => {
                let same_name = self.known.iter().find(|known| {
                    let whole = known.to_string();
                    whole.strip_suffix(known.kind().word()).and_then(|stem| stem.strip_suffix('.')) == Some(text)
                });
                let help = match same_name {
                    Some(known) => format!("did you mean `{known}`?"),
                    None if format!("{text}.agent").parse::<UnitId>().is_ok() && !text.contains('.') => {
                        format!("write the whole name: `{text}.agent`, or `.service`, `.target`, `.schedule`")
                    }
                    None => {
                        let names: Vec<String> = self.known.iter().map(UnitId::to_string).collect();
                        match nearest(text, names.iter().map(String::as_str)) {
                            Some(meant) => format!("did you mean `{meant}`?"),
                            None => "a unit is written `name.kind` or `name@instance.kind`".to_owned(),
                        }
                    }
                };
                self.error(at, format!("`{key}`: {error}"), "not a unit's name", help);
            }
        }
        None
    }
}

fn text_of(raw: &Raw) -> &str {
    match &raw.value {
        Value::Text(text) => text,
        Value::Integer(..)
        | Value::Float(..)
        | Value::Boolean(_)
        | Value::Datetime(_)
        | Value::Array(_)
        | Value::Table(_) => "",
    }
}
