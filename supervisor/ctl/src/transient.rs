//! transient: a command as a unit of its own.
//!
//! Job: from a command line and some keys, the text of a unit file; start it, and wait for its end if asked to. May touch: the
//! control API. Keeps: the text says all there is: what a person sees with `loomctl cat` is what runs.

use crate::answer::{Context, say_json, usage};
use crate::cli::RunKind;
use crate::show;
use loom_api::control::Control;
use loom_api::view::*;
use loom_core::ids::{Kind, UnitId, UnitName};
use loom_core::lifecycle::{Exit, RunResult};
use std::time::{SystemTime, UNIX_EPOCH};
use toml::{Table, Value};

/// What a shell adds to the number of a signal.
const SIGNAL_STATUS: i32 = 128;

/// What was asked for.
pub struct Asked {
    pub name: Option<String>,
    pub kind: RunKind,
    pub properties: Vec<String>,
    pub wait: bool,
    pub collect: bool,
    pub no_wait: bool,
    pub command: Vec<String>,
}

pub fn run(context: &Context, asked: &Asked) -> Result<u8, Refusal> {
    let unit = unit_of(asked)?;
    let text = text(&asked.command, &asked.properties)?;
    let Asked { collect, no_wait, wait, .. } = *asked;
    let request = TransientRequest { unit: unit.clone(), text, collect, no_wait, wait };
    eprintln!("running as {unit}; its output: `loomctl logs {unit}`");
    let view = context.ask(context.client.run_transient(request))?;
    if context.json {
        say_json(&view);
    }
    if !wait {
        eprintln!("{} is {}", view.unit, show::state(&view));
        return Ok(0);
    }
    let how = view.exit.map(|how| format!(", {}", show::exit(how))).unwrap_or_default();
    eprintln!("{} has ended: {}{how}", view.unit, show::word(view.result));
    Ok(status(&view))
}

/// The command's own, as a shell would have it.
fn status(view: &UnitView) -> u8 {
    match (view.exit, view.result) {
        (Some(Exit::Code(code)), _) => code,
        (Some(Exit::Signal { signal, .. }), _) => u8::try_from(SIGNAL_STATUS + signal).unwrap_or(1),
        (Some(Exit::Unknown) | None, RunResult::Success) => 0,
        (Some(Exit::Unknown) | None, _) => 1,
    }
}

fn unit_of(asked: &Asked) -> Result<UnitId, Refusal> {
    let kind = match asked.kind {
        RunKind::Service => Kind::Service,
        RunKind::Agent => Kind::Agent,
    };
    let name = match &asked.name {
        Some(name) => name.strip_suffix(&format!(".{kind}")).unwrap_or(name).to_owned(),
        None => {
            let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            format!("run-{}-{}", std::process::id(), millis % 1_000_000)
        }
    };
    match UnitName::try_from(name) {
        Ok(name) => Ok(UnitId::plain(name, kind)),
        Err(bad) => Err(usage(bad.to_string())),
    }
}

/// The unit file. A run is run once, unless a property says otherwise.
fn text(command: &[String], properties: &[String]) -> Result<String, Refusal> {
    let mut file = Table::new();
    put(&mut file, &["unit", "description"], Value::String(format!("Runs `{}`", command.join(" ").replace('%', "%%"))));
    put(&mut file, &["restart", "policy"], Value::String("no".to_owned()));
    // What stands in a command line is meant as it stands; in a unit file `%` begins a specifier.
    let command = command.iter().map(|word| Value::String(word.replace('%', "%%"))).collect();
    put(&mut file, &["exec", "command"], Value::Array(command));
    for property in properties {
        let bad = || {
            usage(format!("`{property}` is no property"))
                .try_this("write `section.key=value`, such as `limits.memory=512M`")
        };
        let (path, value) = property.split_once('=').ok_or_else(bad)?;
        let path: Vec<&str> = path.trim().split('.').collect();
        if path.len() < 2 || path.iter().any(|part| part.is_empty()) {
            return Err(bad());
        }
        put(&mut file, &path, value_of(value));
    }
    Ok(toml::to_string(&file).expect("a table of values prints"))
}

/// A TOML value where it is one, such as `3`, `true` or `["a"]`; else the text itself.
fn value_of(text: &str) -> Value {
    let parsed: Option<Value> = format!("value = {text}").parse::<Table>().ok().and_then(|mut it| it.remove("value"));
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
}

fn put(table: &mut Table, path: &[&str], value: Value) {
    match path {
        [] => {}
        [key] => {
            table.insert((*key).to_owned(), value);
        }
        [section, rest @ ..] => {
            let below = table.entry((*section).to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if !below.is_table() {
                *below = Value::Table(Table::new());
            }
            if let Value::Table(below) = below {
                put(below, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_become_keys_of_a_unit_file() {
        let properties: Vec<String> =
            ["limits.tasks=3", "limits.memory=64M", "exec.environment.A=b c", "restart.policy=always"]
                .map(str::to_owned)
                .into();
        let text = text(&["sh".into(), "-c".into(), "echo 100% \"x\"".into()], &properties).unwrap();
        let file: Table = text.parse().unwrap();
        assert_eq!(file["exec"]["command"][2].as_str(), Some("echo 100%% \"x\""));
        assert_eq!(file["limits"]["tasks"].as_integer(), Some(3));
        assert_eq!(file["limits"]["memory"].as_str(), Some("64M"));
        assert_eq!(file["exec"]["environment"]["A"].as_str(), Some("b c"));
        assert_eq!(file["restart"]["policy"].as_str(), Some("always"));
        for bad in ["x", "x=1", ".a=1", "a.=1"] {
            assert!(super::text(&["true".into()], &[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
