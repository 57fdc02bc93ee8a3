//! changes: what differs between two readings of one unit.
//!
//! Job: the keys that changed, which of them need a new process, and what counts at once. May touch: `written`, `keys`.
//! Keeps: a key is named as in a unit file; moving a line changes nothing.

use super::{Unit, keys, written};
use serde_json::Value;

/// Sections that a running process was not given: they count as soon as they are read.
const AT_ONCE: &[&str] = &["unit", "restart", "stop", "budget", "group", "schedule", "install"];

/// A single key of another section that counts as soon as it is read.
const RELOAD: &str = "exec.reload";

/// The keys whose values differ, in the order of the reference: `restart.delay`, `exec.command[1]`, `exec.environment.PATH`,
/// `health.liveness.period`. Defaults count as values; where a value was written does not.
pub fn changed_keys(old: &Unit, new: &Unit) -> Vec<String> {
    let (old, new) = (written(old), written(new));
    let mut changed = Vec::new();
    for section in keys::SECTIONS {
        differ(section.name, &old[section.name], &new[section.name], &mut changed);
    }
    changed
}

/// Those of [`changed_keys`] that a live process only gets by a restart. Empty where all of them count at once.
pub fn needs_restart(running: &Unit, new: &Unit) -> Vec<String> {
    changed_keys(running, new).into_iter().filter(|key| !counts_at_once(key)).collect()
}

/// Gives a live unit what counts at once: how it is ordered, restarted, stopped, reloaded, budgeted and shown.
pub fn take_at_once(running: &mut Unit, new: &Unit) {
    let reload = new.exec.as_ref().and_then(|exec| exec.reload.clone());
    let exec = running.exec.clone().map(|exec| super::Exec { reload, ..exec });
    let was = std::mem::replace(running, new.clone());
    let Unit { ready, watchdog, health, sandbox, limits, bus, tools, llm, .. } = was;
    *running = Unit { exec, ready, watchdog, health, sandbox, limits, bus, tools, llm, ..new.clone() };
}

fn counts_at_once(key: &str) -> bool {
    let is_reload = key.strip_prefix(RELOAD).is_some_and(|rest| rest.is_empty() || rest.starts_with('['));
    is_reload || key.split(['.', '[']).next().is_some_and(|section| AT_ONCE.contains(&section))
}

fn differ(path: &str, old: &Value, new: &Value, changed: &mut Vec<String>) {
    if old == new {
        return;
    }
    match (old, new) {
        (Value::Array(old), Value::Array(new)) => {
            for at in 0..old.len().max(new.len()) {
                if old.get(at) != new.get(at) {
                    changed.push(format!("{path}[{at}]"));
                }
            }
        }
        (Value::Object(_) | Value::Null, Value::Object(_) | Value::Null) => {
            let (old, new) = (old.as_object(), new.as_object());
            for name in in_order(path, old.into_iter().chain(new).flat_map(|table| table.keys())) {
                let value = |table: Option<&serde_json::Map<String, Value>>| {
                    table.and_then(|table| table.get(name)).cloned().unwrap_or(Value::Null)
                };
                differ(&format!("{path}.{name}"), &value(old), &value(new), changed);
            }
        }
        (_, _) => changed.push(path.to_owned()),
    }
}

/// Keys in the order of their section's table; names of the writer's choice behind them.
fn in_order<'k>(path: &str, names: impl Iterator<Item = &'k String>) -> Vec<&'k String> {
    let (section, rest) = path.split_once('.').unwrap_or((path, ""));
    let table =
        keys::section(section).map_or(&[][..], |section| match (rest.is_empty(), &section.tables, section.named) {
            (true, ..) | (false, None, None) => section.keys,
            (false, Some(tables), _) => tables.keys,
            (false, None, Some(named)) => named,
        });
    let place = |name: &str| table.iter().position(|key| key.name == name).unwrap_or(usize::MAX);
    let mut names: Vec<&String> = names.collect();
    names.sort_by(|a, b| (place(a), a).cmp(&(place(b), b)));
    names.dedup();
    names
}
