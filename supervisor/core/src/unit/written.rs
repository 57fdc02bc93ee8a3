//! written: a checked unit in the words of a unit file.
//!
//! Job: [`Unit`] → sections, keys and values as a person would write them, every default filled in. May touch: `unit`'s types.
//! Keeps: only sections that the unit's kind has; a key is named as in `keys`, so an origin of the same name belongs to it.

use super::{After, Check, PathGrant, Probe, ToolRule, Unit, Until, keys, values};
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
    let after = |after: &After| match after.until {
        Until::Ready => json!(after.unit),
        Until::Started | Until::Healthy | Until::Exited | Until::Succeeded => {
            json!({"unit": after.unit, "until": after.until})
        }
    };
    // Without a limit these two say nothing, and a file that has them is warned of.
    let limited = unit.restart.limit_burst > 0;
    let needed = unit.requires.iter().chain(&unit.requisite).chain(&unit.binds_to);
    let unordered = needed.into_iter().any(|id| !unit.after.iter().any(|after| after.unit == *id));
    let watches = unit.watchdog.interval.is_some() || unit.watchdog.progress.is_some();
    let health = &unit.health;
    let asks = health.startup.is_some() || health.readiness.is_some() || health.liveness.is_some();
    let all = json!({
        "unit": {
            "description": unit.description, "documentation": unit.documentation, "requires": unit.requires,
            "wants": unit.wants, "requisite": unit.requisite, "binds_to": unit.binds_to, "part_of": unit.part_of,
            "upholds": unit.upholds, "conflicts": unit.conflicts,
            "after": unit.after.iter().map(after).collect::<Vec<_>>(), "before": unit.before, "unordered": unordered,
            "on_success": unit.on_success, "on_failure": unit.on_failure, "on_give_up": unit.on_give_up,
            "conditions": unit.conditions.iter().map(|condition| &condition.text).collect::<Vec<_>>(),
            "job_timeout": time(unit.job_timeout),
        },
        "exec": unit.exec.as_ref().map(|exec| json!({
            "command": exec.command, "start_pre": exec.start_pre, "reload": exec.reload,
            "remain_after_exit": exec.remain_after_exit, "working_directory": exec.working_directory,
            "environment": exec.environment, "environment_file": paths(&exec.environment_file),
            "credentials": exec.credentials, "user": exec.user,
        })),
        "ready": {
            "type": unit.ready.kind, "timeout": time(unit.ready.timeout), "notify_access": unit.ready.notify_access,
        },
        "watchdog": watches.then(|| json!({
            "interval": unit.watchdog.interval.map(time), "abort_timeout": time(unit.watchdog.abort_timeout),
            "progress": unit.watchdog.progress.map(time),
            "progress_action": unit.watchdog.progress.map(|_| unit.watchdog.progress_action),
        })),
        "health": asks.then(|| json!({
            "startup": health.startup.as_ref().map(probe), "readiness": health.readiness.as_ref().map(probe),
            "liveness": health.liveness.as_ref().map(probe),
        })),
        "restart": {
            "policy": unit.restart.policy, "delay": time(unit.restart.delay), "factor": unit.restart.factor,
            "max_delay": time(unit.restart.max_delay), "jitter": unit.restart.jitter,
            "reset_after": time(unit.restart.reset_after), "success_exit_status": unit.restart.success_exit_status,
            "prevent_exit_status": unit.restart.prevent_exit_status,
            "force_exit_status": unit.restart.force_exit_status,
            "retry_after_max": time(unit.restart.retry_after_max), "limit_burst": unit.restart.limit_burst,
            "limit_interval": limited.then(|| time(unit.restart.limit_interval)),
            "limit_mode": limited.then_some(unit.restart.limit_mode), "poison_after": unit.restart.poison_after,
        },
        "stop": {
            "signal": signal, "timeout": time(unit.stop.timeout), "checkpoint": unit.stop.checkpoint.map(time),
            "command": unit.stop.command, "kill_mode": unit.stop.kill_mode, "post": unit.stop.post,
        },
        "budget": unit.budget.as_ref().map(|budget| json!({
            "window": time(budget.window), "tokens": budget.tokens, "cost": budget.cost_micros.map(values::money_text),
            "calls": budget.calls, "time": budget.time.map(time),
        })),
        "sandbox": {
            "profile": unit.sandbox.profile, "read": paths(&unit.sandbox.read),
            "execute": paths(&unit.sandbox.execute), "write": paths(&unit.sandbox.write), "hosts": hosts,
            "listen": unit.sandbox.listen, "allow_unenforced": unit.sandbox.allow_unenforced,
        },
        "limits": {
            "open_files": unit.limits.open_files, "file_size": size(unit.limits.file_size_bytes),
            "address_space": unit.limits.address_space_bytes.map(size), "memory": unit.limits.memory_bytes.map(size),
            "tasks": unit.limits.tasks, "cpu": unit.limits.cpu_percent.map(|percent| format!("{percent}%")),
            "oom_policy": unit.limits.oom_policy,
        },
        "bus": {"publish": unit.bus.publish, "subscribe": unit.bus.subscribe, "request": unit.bus.request},
        "tools": {
            "allow": rules(&unit.tools.allow), "deny": rules(&unit.tools.deny),
            "workspace": unit.tools.workspace, "timeout": time(unit.tools.timeout),
        },
        "llm": llm,
        "group": unit.group.as_ref().map(|group| json!({
            "members": group.members, "strategy": group.strategy, "intensity": group.intensity,
            "period": time(group.period), "significant": group.significant,
        })),
        "schedule": unit.schedule.as_ref().map(|schedule| json!({
            "unit": schedule.unit, "cron": schedule.cron, "calendar": schedule.calendar,
            "every": schedule.every.map(|every| time(every.period)), "from": schedule.every.map(|every| every.from),
            "align": schedule.every.map(|every| every.align), "on_startup": schedule.on_startup.map(time),
            "timezone": Some(&schedule.timezone).filter(|name| !name.is_empty()), "accuracy": time(schedule.accuracy),
            "randomized_delay": time(schedule.randomized_delay),
            "fixed_random_delay": (schedule.randomized_delay.0 > 0).then_some(schedule.fixed_random_delay),
            "persistent": schedule.persistent, "overlap": schedule.overlap, "on_interrupted": schedule.on_interrupted,
            "limit_burst": schedule.limit_burst, "limit_interval": time(schedule.limit_interval),
        })),
        "install": {"wanted_by": unit.install.wanted_by, "required_by": unit.install.required_by},
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

fn probe(probe: &Probe) -> Value {
    let (key, check) = match &probe.check {
        Check::Exec(command) => ("exec", json!(command)),
        Check::Http { url, .. } => ("http", json!(url)),
        Check::Tcp { host, port } if host.contains(':') => ("tcp", json!(format!("[{host}]:{port}"))),
        Check::Tcp { host, port } => ("tcp", json!(format!("{host}:{port}"))),
        Check::Unix(path) => ("unix", json!(path)),
    };
    json!({
        key: check, "period": span(probe.period), "timeout": span(probe.timeout), "failures": probe.failures,
        "successes": probe.successes,
    })
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
            now: 0,
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
        assert_eq!(shown["ready"], json!({"type": "notify", "timeout": "1min 30s", "notify_access": "main"}));
        assert_eq!(shown["stop"]["signal"], json!("SIGINT"));
        let limits = json!({
            "open_files": 1024, "file_size": "5000", "address_space": "1536K", "oom_policy": "continue",
        });
        assert_eq!(shown["limits"], limits);
        let again = read("a.agent.toml", &toml::to_string(&shown).unwrap());
        assert_eq!(written(&again), shown);
        assert_eq!((again.exec, again.stop, again.limits), (unit.exec, unit.stop, unit.limits));
    }

    #[test]
    fn a_target_shows_no_process() {
        let shown = written(&read("a.target.toml", "[unit]\nwants = []\n"));
        assert_eq!(shown.as_object().unwrap().keys().collect::<Vec<_>>(), ["install", "unit"]);
    }
}
