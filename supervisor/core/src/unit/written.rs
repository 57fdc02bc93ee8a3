//! written: a checked unit in the words of a unit file.
//!
//! Job: [`Unit`] → sections, keys and values as a person would write them, every default filled in. May touch: `unit`'s types.
//! Keeps: only sections that the unit's kind has; a key is named as in `keys`, so an origin of the same name belongs to it.

use super::{PathGrant, ToolRule, Unit, keys, values};
use crate::ids::Millis;
use crate::lifecycle::span;
use serde_json::{Map, Value, json};

/// The unit as `{section: {key: value}}`; `[llm.<name>]` is a table within `llm`. A key without a value is left out.
pub fn written(unit: &Unit) -> Value {
    let time = |time: Millis| json!(span(time));
    let paths = |grants: &[PathGrant]| -> Vec<String> {
        grants.iter().map(|grant| format!("{}{}", if grant.optional { "?" } else { "" }, grant.path)).collect()
    };
    let rules = |rules: &[ToolRule]| -> Vec<String> { rules.iter().map(|rule| rule.text.clone()).collect() };
    let hosts: Vec<String> = unit
        .sandbox
        .hosts
        .iter()
        .map(|grant| match grant.host.contains(':') {
            true => format!("[{}]:{}", grant.host, grant.port),
            false => format!("{}:{}", grant.host, grant.port),
        })
        .collect();
    let signal = match values::signal_name(i64::from(unit.stop.signal)) {
        Some(name) => json!(name),
        None => json!(unit.stop.signal),
    };
    let llm = unit.llm.as_ref().map_or(Value::Null, |llm| {
        let mut table = Map::from_iter([("default".to_owned(), json!(llm.default))]);
        table.extend(llm.profiles.iter().map(|(name, profile)| {
            let profile = json!({
                "format": profile.format, "base_url": profile.base_url, "model": profile.model,
                "credential": profile.credential, "window": profile.window, "max_output": profile.max_output,
                "temperature": profile.temperature,
            });
            (name.clone(), profile)
        }));
        Value::Object(table)
    });
    let all = json!({
        "unit": {
            "description": unit.description, "documentation": unit.documentation, "requires": unit.requires,
            "wants": unit.wants, "after": unit.after.iter().map(|after| &after.unit).collect::<Vec<_>>(),
            "before": unit.before,
        },
        "exec": unit.exec.as_ref().map(|exec| json!({
            "command": exec.command, "working_directory": exec.working_directory,
            "environment": exec.environment, "credentials": exec.credentials,
        })),
        "ready": {"type": unit.ready.kind, "timeout": time(unit.ready.timeout)},
        "watchdog": unit.watchdog.interval.map(|interval| json!({
            "interval": time(interval), "abort_timeout": time(unit.watchdog.abort_timeout),
        })),
        "restart": {
            "policy": unit.restart.policy, "delay": time(unit.restart.delay), "factor": unit.restart.factor,
            "max_delay": time(unit.restart.max_delay), "jitter": unit.restart.jitter,
            "reset_after": time(unit.restart.reset_after), "success_exit_status": unit.restart.success_exit_status,
            "prevent_exit_status": unit.restart.prevent_exit_status,
            "force_exit_status": unit.restart.force_exit_status,
        },
        "stop": {"signal": signal, "timeout": time(unit.stop.timeout)},
        "sandbox": {
            "profile": unit.sandbox.profile, "read": paths(&unit.sandbox.read),
            "execute": paths(&unit.sandbox.execute), "write": paths(&unit.sandbox.write), "hosts": hosts,
            "listen": unit.sandbox.listen, "allow_unenforced": unit.sandbox.allow_unenforced,
        },
        "limits": {
            "open_files": unit.limits.open_files, "file_size": size(unit.limits.file_size_bytes),
            "address_space": unit.limits.address_space_bytes.map(size),
        },
        "bus": {"publish": unit.bus.publish, "subscribe": unit.bus.subscribe, "request": unit.bus.request},
        "tools": {
            "allow": rules(&unit.tools.allow), "deny": rules(&unit.tools.deny),
            "workspace": unit.tools.workspace, "timeout": time(unit.tools.timeout),
        },
        "llm": llm,
    });
    let Value::Object(mut all) = all else { unreachable!("written as an object above") };
    all.retain(|name, section| {
        let fits = keys::section(name).is_some_and(|section| section.kinds.contains(&unit.id.kind()));
        fits && !section.is_null()
    });
    let mut all = Value::Object(all);
    drop_nulls(&mut all);
    all
}

fn drop_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(drop_nulls);
    }
}

/// `256M`; bytes where no step of 1024 divides them.
fn size(bytes: u64) -> String {
    let steps = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    match steps.iter().find(|(shift, _)| bytes != 0 && bytes.is_multiple_of(1 << shift)) {
        Some((shift, letter)) => format!("{}{letter}", bytes >> shift),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::{Content, Facts, Source, SourceSet, load_all};

    fn read(name: &str, text: &str) -> Unit {
        let facts = Facts {
            home: "/home/ada".into(),
            user: "ada".into(),
            boot_id: "0123456789abcdef0123456789abcdef".into(),
            runtime_dir: "/run/loom".into(),
            state_dir: "/var/lib/loom".into(),
            unit_path: vec!["/u".into()],
        };
        let source = Source {
            path: name.to_owned(),
            directory: 0,
            name: name.to_owned(),
            content: Content::Bytes(text.as_bytes().to_vec()),
        };
        let set = SourceSet { directories: vec!["/u".into()], sources: vec![source], problems: vec![] };
        let catalogue = load_all(&set, &facts, None);
        assert!(catalogue.problems.is_empty(), "{:?}", catalogue.problems);
        catalogue.units.into_values().next().expect("one was written")
    }

    /// What `show` prints is a unit file again: the same unit comes of it.
    #[test]
    fn what_is_shown_can_be_written_into_a_file() {
        let text = r#"
[exec]
command = ["python3", "-c", "x"]
environment = { A = "1" }
[ready]
type = "notify"
timeout = "90s"
[watchdog]
interval = "1min 30s"
[stop]
signal = "SIGINT"
[sandbox]
read = ["?/etc/hostname"]
hosts = ["[::1]:80", "127.0.0.1:8080"]
[limits]
address_space = "1536K"
file_size = "5000"
[tools]
allow = ["fs:read(path=a/**)"]
[llm]
default = "local"
[llm.local]
base_url = "http://127.0.0.1:8080/v1"
model = "m"
"#;
        let unit = read("a.agent.toml", text);
        let shown = written(&unit);
        assert_eq!(shown["ready"], json!({"type": "notify", "timeout": "1min 30s"}));
        assert_eq!(shown["stop"], json!({"signal": "SIGINT", "timeout": "30s"}));
        assert_eq!(shown["limits"], json!({"open_files": 1024, "file_size": "5000", "address_space": "1536K"}));
        let again = read("a.agent.toml", &toml::to_string(&shown).unwrap());
        assert_eq!(written(&again), shown);
        assert_eq!((again.exec, again.stop, again.limits), (unit.exec, unit.stop, unit.limits));
    }

    #[test]
    fn a_target_shows_no_process() {
        let shown = written(&read("a.target.toml", "[unit]\nwants = []\n"));
        assert_eq!(shown.as_object().unwrap().keys().collect::<Vec<_>>(), ["unit"]);
    }
}
