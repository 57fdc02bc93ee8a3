//! check/supervised: the sections that say how a unit is supervised.
//!
//! Job: `[unit]`'s dependencies, `[ready]`, `[watchdog]`, `[health.*]`, `[stop]`, `[budget]`, `[limits]`, `[group]`, `[install]`,
//! and what of them must fit together. May touch: the checker above it.
//! Keeps: the lists of a checked unit hold what other keys imply, each with the place where it is written.

use super::super::keys;
use super::super::raw::{Entry, Place, RawUnit, Table, Value};
use super::super::words::nearest;
use super::super::{
    After, Budget, Check, Group, GroupStrategy, Health, KillMode, LimitMode, Limits, NotifyAccess, OomPolicy, Probe,
    ProgressAction, Ready, ReadyKind, Stop, Unit, Watchdog,
};
use super::{Checker, Marks, find, from_word, is_misplaced, plain_words};
use crate::ids::{Kind, UnitId};

type Found = Vec<(UnitId, Place)>;

fn names(found: &Found) -> Vec<UnitId> {
    found.iter().map(|(id, _)| id.clone()).collect()
}

fn places(origins: &mut Vec<(String, Place)>, key: &str, at: impl Iterator<Item = Place>) {
    origins.extend(at.enumerate().map(|(index, at)| (format!("{key}[{index}]"), at)));
}

impl Checker<'_> {
    /// Whom it needs, whom it waits for, and whom it starts; the group of a target; `[install]`.
    pub(super) fn dependencies(&mut self, raw: &RawUnit, complete: bool, unit: &mut Unit, marks: &mut Marks) {
        let units = |checker: &mut Self, marks: &mut Marks, key: &'static str| -> Found {
            let (section, name) = key.split_once('.').expect("written below as section.key");
            let found = find(&raw.0, section, name).map(|raw| checker.units(key, raw)).unwrap_or_default();
            marks.dependencies.extend(found.iter().map(|(id, at)| (key, id.clone(), *at)));
            places(&mut marks.origins, key, found.iter().map(|(_, at)| *at));
            found
        };
        let requires = units(self, marks, "unit.requires");
        let mut wants = units(self, marks, "unit.wants");
        let requisite = units(self, marks, "unit.requisite");
        let binds_to = units(self, marks, "unit.binds_to");
        let part_of = units(self, marks, "unit.part_of");
        let upholds = units(self, marks, "unit.upholds");
        let conflicts = units(self, marks, "unit.conflicts");
        let before = units(self, marks, "unit.before");
        unit.on_success = names(&units(self, marks, "unit.on_success"));
        unit.on_failure = names(&units(self, marks, "unit.on_failure"));
        let on_give_up = units(self, marks, "unit.on_give_up");

        let mut after = find(&raw.0, "unit", "after").map(|raw| self.afters("unit.after", raw)).unwrap_or_default();
        marks.dependencies.extend(after.iter().map(|(after, at)| ("unit.after", after.unit.clone(), *at)));
        let unordered =
            find(&raw.0, "unit", "unordered").and_then(|raw| self.flag("unit.unordered", raw)).unwrap_or(false);
        if !unordered {
            for (id, at) in requires.iter().chain(&requisite).chain(&binds_to) {
                if !after.iter().any(|(after, _)| after.unit == *id) {
                    after.push((After::ready(id.clone()), *at));
                }
            }
        }

        if self.id.kind() == Kind::Target
            && let Some(entry) = raw.0.get("group")
            && let Value::Table(_) = entry.raw.value
        {
            let members = units(self, marks, "group.members");
            if members.is_empty() && complete && find(&raw.0, "group", "members").is_none_or(is_empty_list) {
                let help = "add members = [\"lead.agent\", \"worker@1.agent\"]";
                self.error(entry.key_at, "[group] has no members", "whose group?", help);
            }
            let significant = units(self, marks, "group.significant");
            // Members, or wrong: one word about each is enough.
            marks.dependencies.retain(|(key, ..)| *key != "group.significant");
            for (id, at) in &significant {
                if !members.iter().any(|(member, _)| member == id) {
                    let all: Vec<String> = members.iter().map(|(id, _)| id.to_string()).collect();
                    let help = match nearest(&id.to_string(), all.iter().map(String::as_str)) {
                        Some(meant) => format!("did you mean `{meant}`? or add it to `members`"),
                        None => "add it to `members`, or remove it here".to_owned(),
                    };
                    self.error(*at, format!("`{id}` is no member of the group"), "not a member", help);
                }
            }
            for (id, at) in &members {
                if !wants.iter().any(|(wanted, _)| wanted == id) {
                    wants.push((id.clone(), *at));
                }
            }
            unit.group = Some(Group {
                members: names(&members),
                strategy: find(&raw.0, "group", "strategy")
                    .and_then(|raw| self.word("group.strategy", raw, "group strategy", keys::GROUP_STRATEGIES))
                    .and_then(from_word)
                    .unwrap_or(GroupStrategy::OneForOne),
                intensity: self.small_count_or(raw, "group.intensity", 0, 1_000, 3),
                period: self.time_or(raw, "group", "period", 1, 60_000),
                significant: names(&significant),
            });
        }
        unit.install.wanted_by = names(&units(self, marks, "install.wanted_by"));
        unit.install.required_by = names(&units(self, marks, "install.required_by"));

        for (id, at) in &conflicts {
            let needed = [
                ("requires", &requires),
                ("requisite", &requisite),
                ("binds_to", &binds_to),
                ("wants", &wants),
                ("upholds", &upholds),
            ];
            let other = needed.iter().find(|(_, found)| found.iter().any(|(needed, _)| needed == id));
            if let Some((key, _)) = other {
                let message = format!("`unit.conflicts` and `unit.{key}` both name `{id}`");
                self.error(*at, message, "one stops what the other starts", "keep one of the two");
            }
        }
        if let Some((_, at)) = on_give_up.first()
            && find(&raw.0, "restart", "limit_burst").is_none_or(|raw| matches!(raw.value, Value::Integer(Some(0), _)))
        {
            let help = "add limit_burst = 5 to [restart]; or use `on_failure`, which starts them at every failed run";
            self.warn(*at, "`unit.on_give_up` without a start limit", "it never gives up", help);
        }

        places(&mut marks.origins, "unit.wants", wants.iter().map(|(_, at)| *at));
        places(&mut marks.origins, "unit.after", after.iter().map(|(_, at)| *at));
        marks.after = after.iter().map(|(after, at)| (after.unit.clone(), *at)).collect();
        marks.before.clone_from(&before);
        unit.after = after.into_iter().map(|(after, _)| after).collect();
        (unit.requires, unit.wants, unit.requisite) = (names(&requires), names(&wants), names(&requisite));
        (unit.binds_to, unit.part_of, unit.upholds) = (names(&binds_to), names(&part_of), names(&upholds));
        (unit.conflicts, unit.before, unit.on_give_up) = (names(&conflicts), names(&before), names(&on_give_up));

        if let Some(raw) = find(&raw.0, "unit", "conditions") {
            let found = self.conditions("unit.conditions", raw);
            unit.conditions = found.into_iter().map(|(condition, _)| condition).collect();
        }
        unit.job_timeout = self.time_or(raw, "unit", "job_timeout", 1, 3_600_000);
    }

    pub(super) fn ready(&mut self, unit: &RawUnit) -> Ready {
        let get = |key: &str| find(&unit.0, "ready", key);
        Ready {
            kind: get("type")
                .and_then(|raw| self.word("ready.type", raw, "ready type", keys::READY_TYPES))
                .and_then(from_word)
                .unwrap_or(ReadyKind::Exec),
            timeout: self.time_or(unit, "ready", "timeout", 1, 90_000),
            notify_access: get("notify_access")
                .and_then(|raw| self.word("ready.notify_access", raw, "notify access", keys::NOTIFY_ACCESSES))
                .and_then(from_word)
                .unwrap_or(NotifyAccess::Main),
        }
    }

    pub(super) fn watchdog(&mut self, unit: &RawUnit, complete: bool, ready: ReadyKind) -> Watchdog {
        let Some(entry) = unit.0.get("watchdog") else { return Watchdog::default() };
        let get = |key: &str| find(&unit.0, "watchdog", key);
        if get("interval").is_none() && get("progress").is_none() && complete && !is_misplaced(unit, "watchdog") {
            self.error(
                entry.key_at,
                "[watchdog] has neither `interval` nor `progress`",
                "how long may it be silent?",
                "write interval = \"30s\" or progress = \"10min\", or remove the section",
            );
        }
        if let Some(raw) = get("interval")
            && !ready.notifies()
        {
            self.warn(
                raw.at,
                "a watchdog without `type = \"notify\"` in [ready]",
                "nobody says READY=1",
                "the watchdog counts from READY=1 on: add type = \"notify\" to [ready], if the program says so",
            );
        }
        if let (Some(raw), None) = (get("progress_action"), get("progress")) {
            let help = "add progress = \"10min\", or remove it";
            self.warn(raw.at, "`watchdog.progress_action` without `progress`", "nothing is watched", help);
        }
        Watchdog {
            interval: get("interval").and_then(|raw| self.time("watchdog.interval", raw, 1)),
            abort_timeout: self.time_or(unit, "watchdog", "abort_timeout", 1, 10_000),
            progress: get("progress").and_then(|raw| self.time("watchdog.progress", raw, 1)),
            progress_action: get("progress_action")
                .and_then(|raw| self.word("watchdog.progress_action", raw, "progress action", keys::PROGRESS_ACTIONS))
                .and_then(from_word)
                .unwrap_or(ProgressAction::Restart),
        }
    }

    pub(super) fn health(&mut self, unit: &RawUnit, complete: bool, marks: &mut Marks) -> Health {
        let Some(Value::Table(probes)) = unit.0.get("health").map(|entry| &entry.raw.value) else {
            return Health::default();
        };
        let mut probe = |name: &str| {
            let entry = probes.get(name)?;
            let Value::Table(table) = &entry.raw.value else { return None };
            self.probe(unit, name, entry, table, complete, marks)
        };
        Health { startup: probe("startup"), readiness: probe("readiness"), liveness: probe("liveness") }
    }

    fn probe(
        &mut self,
        unit: &RawUnit,
        name: &str,
        entry: &Entry,
        table: &Table,
        complete: bool,
        marks: &mut Marks,
    ) -> Option<Probe> {
        let path = format!("health.{name}");
        let written: Vec<&str> = keys::CHECKS.iter().copied().filter(|key| table.contains_key(*key)).collect();
        match written.as_slice() {
            [_] => {}
            [] if complete => self.error(
                entry.key_at,
                format!("[{path}] does not say what is done"),
                "how is it asked?",
                "add one of: exec = [\"program\"], http = \"http://127.0.0.1:8080/health\", tcp = \"127.0.0.1:8080\", \
                 unix = \"/path\"",
            ),
            [] => {}
            [_, second, ..] => {
                let at = table[*second].key_at;
                let all = written.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(" and ");
                self.error(
                    at,
                    format!("[{path}] has {all}"),
                    "one too many",
                    "a probe does one thing: keep one of them",
                );
            }
        }
        let get = |key: &str| table.get(key).map(|entry| &entry.raw);
        let key = |name: &str| format!("{path}.{name}");
        let check = match *written.first()? {
            "exec" => {
                let command = self.command(&key("exec"), get("exec")?)?;
                self.is_run(&command, marks);
                Check::Exec(plain_words(command))
            }
            "http" => {
                let (url, host, port) = self.probe_url(&key("http"), get("http")?)?;
                Check::Http { url, host, port }
            }
            "tcp" => {
                let (host, port) = self.address(&key("tcp"), get("tcp")?)?;
                Check::Tcp { host, port }
            }
            _ => Check::Unix(self.path(&key("unix"), get("unix")?)?),
        };
        Some(Probe {
            check,
            period: self.time_or(unit, &path, "period", 1, 10_000),
            timeout: self.time_or(unit, &path, "timeout", 1, 1_000),
            failures: self.small_count_or(unit, &key("failures"), 1, 1_000, 3),
            successes: self.small_count_or(unit, &key("successes"), 1, 1_000, 1),
        })
    }

    pub(super) fn stop(&mut self, unit: &RawUnit, marks: &mut Marks) -> Stop {
        let get = |key: &str| find(&unit.0, "stop", key);
        let command = get("command").and_then(|raw| self.command("stop.command", raw));
        let post = get("post").map(|raw| self.commands("stop.post", raw)).unwrap_or_default();
        command.iter().chain(&post).for_each(|command| self.is_run(command, marks));
        let timeout = self.time_or(unit, "stop", "timeout", 1, 30_000);
        let checkpoint = get("checkpoint").and_then(|raw| self.time("stop.checkpoint", raw, 1));
        if let Some(raw) = get("timeout").or(get("checkpoint"))
            && checkpoint.is_some_and(|checkpoint| timeout < checkpoint)
        {
            self.warn(
                raw.at,
                "`stop.timeout` is shorter than `stop.checkpoint`",
                "killed before it has saved its work",
                "write a timeout that is longer than the checkpoint; without one it is 30s",
            );
        }
        Stop {
            signal: get("signal").and_then(|raw| self.signal("stop.signal", raw)).unwrap_or(15),
            timeout,
            command: command.map(plain_words),
            kill_mode: get("kill_mode")
                .and_then(|raw| self.word("stop.kill_mode", raw, "kill mode", keys::KILL_MODES))
                .and_then(from_word)
                .unwrap_or(KillMode::Mixed),
            post: post.into_iter().map(plain_words).collect(),
            checkpoint,
        }
    }

    pub(super) fn budget(&mut self, unit: &RawUnit, complete: bool) -> Option<Budget> {
        let entry = unit.0.get("budget")?;
        let get = |key: &str| find(&unit.0, "budget", key);
        let limits = ["tokens", "cost", "calls", "time"];
        if complete && !is_misplaced(unit, "budget") && limits.iter().all(|key| get(key).is_none()) {
            let help = "add tokens = 1000000, cost = \"5.00\", calls = 500 or time = \"2h\"";
            self.error(entry.key_at, "[budget] limits nothing", "how much may it use?", help);
        }
        if self.id.kind() == Kind::Service {
            for key in ["tokens", "cost", "calls"] {
                if let Some(raw) = get(key) {
                    let message = format!("`budget.{key}` on a service");
                    let help = "make it an agent, or limit its `time`";
                    self.warn(raw.at, message, "only agents report it", help);
                }
            }
        }
        let window = self.time_or(unit, "budget", "window", 1_000, 86_400_000);
        let time = get("time").and_then(|raw| self.time("budget.time", raw, 1));
        if let Some(raw) = get("time")
            && time.is_some_and(|time| time >= window)
        {
            let help = "write a time that is shorter than the window; without one the window is 1d";
            self.warn(raw.at, "`budget.time` is as long as its window", "never used up", help);
        }
        let most = 1 << 53;
        Some(Budget {
            window,
            tokens: get("tokens").and_then(|raw| self.count("budget.tokens", raw, 1, most)),
            cost_micros: get("cost").and_then(|raw| self.money("budget.cost", raw)),
            calls: get("calls").and_then(|raw| self.count("budget.calls", raw, 1, most)),
            time,
        })
    }

    pub(super) fn limits(&mut self, unit: &RawUnit) -> Limits {
        let get = |key: &str| find(&unit.0, "limits", key);
        let plain = Limits::default();
        let memory_bytes = get("memory").and_then(|raw| self.size("limits.memory", raw));
        if let Some(raw) = get("memory")
            && memory_bytes.is_some_and(|bytes| bytes < MEMORY_LEAST_BYTES)
        {
            let help = "write at least \"1M\"; a Python agent needs about \"64M\"";
            self.error(raw.at, "`limits.memory` is too small for any program", "too small", help);
        }
        Limits {
            open_files: get("open_files")
                .and_then(|raw| self.count("limits.open_files", raw, 16, 1_048_576))
                .unwrap_or(plain.open_files),
            file_size_bytes: get("file_size")
                .and_then(|raw| self.size("limits.file_size", raw))
                .unwrap_or(plain.file_size_bytes),
            address_space_bytes: get("address_space").and_then(|raw| self.size("limits.address_space", raw)),
            memory_bytes,
            tasks: get("tasks").and_then(|raw| self.count("limits.tasks", raw, 1, 4_194_304)),
            cpu_percent: get("cpu").and_then(|raw| self.percent("limits.cpu", raw)),
            oom_policy: get("oom_policy")
                .and_then(|raw| self.word("limits.oom_policy", raw, "oom policy", keys::OOM_POLICIES))
                .and_then(from_word)
                .unwrap_or(OomPolicy::Continue),
        }
    }

    /// A count that fits 32 bits; `key` is `section.key`.
    pub(super) fn small_count_or(&mut self, unit: &RawUnit, key: &str, least: u64, most: u32, default: u32) -> u32 {
        let (section, name) = key.rsplit_once('.').expect("written as section.key");
        find(&unit.0, section, name)
            .and_then(|raw| self.count(key, raw, least, u64::from(most)))
            .map_or(default, |number| u32::try_from(number).expect("bounded by count"))
    }

    /// What sections say to one another.
    pub(super) fn together(&mut self, raw: &RawUnit, unit: &Unit) {
        if unit.restart.limit_burst == 0 {
            for key in ["limit_interval", "limit_mode"] {
                if let Some(raw) = find(&raw.0, "restart", key) {
                    let help = "add limit_burst = 5, or remove it";
                    self.warn(raw.at, format!("`restart.{key}` without `limit_burst`"), "there is no limit", help);
                }
            }
        } else if unit.restart.limit_mode == LimitMode::Fail
            && unit.restart.delay >= unit.restart.limit_interval
            && let Some(raw) = find(&raw.0, "restart", "limit_burst")
        {
            let help = "write a limit_interval that is much longer than the delay; without one it is 10s";
            self.warn(raw.at, "the start limit is never hit", "the delay alone is longer than the interval", help);
        }
        if unit.ready.kind == ReadyKind::Oneshot
            && let Some(raw) = find(&raw.0, "exec", "reload")
        {
            let help = "remove it, or choose another ready type";
            self.warn(raw.at, "`exec.reload` of a oneshot", "nothing runs that could reload", help);
        }
        let healthy = unit.health.startup.iter().chain(&unit.health.readiness).chain(&unit.health.liveness);
        if unit.ready.kind == ReadyKind::Oneshot
            && healthy.count() > 0
            && let Some(entry) = raw.0.get("health")
        {
            let help = "remove the section: a oneshot is done when it exits";
            self.warn(entry.key_at, "[health] of a oneshot", "nothing is left to be asked", help);
        }
    }
}

/// Less than this holds no program.
const MEMORY_LEAST_BYTES: u64 = 1 << 20;

fn is_empty_list(raw: &super::super::raw::Raw) -> bool {
    matches!(&raw.value, Value::Array(items) if items.is_empty())
}
