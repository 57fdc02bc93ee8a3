//! What unit files mean, from texts alone.
#![allow(clippy::unwrap_used)]

use loom_core::ids::{Kind, Millis, UnitId};
use loom_core::machine::Promise;
use loom_core::unit::problem::{Problem, Severity};
use loom_core::unit::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn facts() -> Facts {
    Facts {
        home: "/home/ada".into(),
        user: "ada".into(),
        boot_id: "b00t".into(),
        runtime_dir: "/run/loom".into(),
        state_dir: "/var/lib/loom".into(),
        unit_path: vec!["/units/high".into(), "/units/low".into()],
        now: 1_800_000_000_000,
    }
}

/// Files by directory (0 is the highest) and name.
fn set(files: &[(usize, &str, &str)]) -> SourceSet {
    SourceSet {
        directories: vec!["/units/high".into(), "/units/low".into()],
        sources: files
            .iter()
            .map(|(directory, name, text)| Source {
                path: format!("{directory}/{name}"),
                directory: *directory,
                name: (*name).to_owned(),
                content: Content::Bytes(text.as_bytes().to_vec()),
            })
            .collect(),
        problems: Vec::new(),
    }
}

fn id(text: &str) -> UnitId {
    text.parse().unwrap()
}

fn said(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(|p| format!("{}:{}:{} {}", p.file, p.line, p.column, p.message)).collect()
}

fn one(name: &str, text: &str) -> Unit {
    let catalogue = load_all(&set(&[(0, &format!("{name}.toml"), text)]), &facts(), None);
    assert_eq!(said(&catalogue.problems), Vec::<String>::new());
    catalogue.units[&id(name)].clone()
}

const RUNS: &str = "[exec]\ncommand = [\"run\"]\n";

#[test]
fn a_command_is_enough_and_the_rest_has_its_default() {
    let unit = one("chat.agent", RUNS);
    assert_eq!(unit.description, "chat.agent");
    let exec = unit.exec.unwrap();
    assert_eq!(exec.command, ["run"]);
    assert_eq!(exec.working_directory, "/var/lib/loom/units/chat.agent");
    assert_eq!((unit.ready.kind, unit.ready.timeout), (ReadyKind::Exec, Millis(90_000)));
    assert_eq!(unit.watchdog.interval, None);
    assert_eq!(unit.restart.policy, RestartPolicy::OnFailure);
    assert_eq!((unit.restart.delay, unit.restart.max_delay), (Millis(100), Millis(300_000)));
    assert_eq!((unit.restart.factor, unit.restart.jitter), (2.0, 0.25));
    assert_eq!(unit.restart.prevent_exit_status, [78]);
    assert_eq!((unit.stop.signal, unit.stop.timeout), (15, Millis(30_000)));
    assert_eq!(unit.sandbox.profile, "python");
    assert_eq!((unit.limits.open_files, unit.limits.file_size_bytes), (1024, 256 << 20));
    assert_eq!(unit.tools.workspace, "/var/lib/loom/units/chat.agent");
    assert_eq!(unit.llm, None);
    assert_eq!(one("web.service", RUNS).sandbox.profile, "native");
    assert_eq!(one("all.target", "").exec, None);
}

/// A unit file with every key that an agent has.
const EVERY: &str = r#"
[unit]
description = "Talks"
documentation = ["https://example.org"]
requires = ["db.service"]
wants = ["b.agent"]
requisite = ["c.agent"]
binds_to = ["d.agent"]
part_of = ["all.target"]
upholds = ["e.agent"]
conflicts = ["f.agent"]
after = ["b.agent", { unit = "db.service", until = "healthy" }, { unit = "e.agent" }]
before = ["g.agent"]
on_success = ["h.agent"]
on_failure = ["i@%p.agent"]
on_give_up = ["j.agent"]
conditions = ["path-exists:%S/go", "!environment:CI=1", "memory:8G"]
job_timeout = "5min"

[exec]
command = ["./bin/agent", "%n", "100%%"]
start_pre = [["-mkdir", "-p", "%S/x"], ["./bin/prepare"]]
reload = ["kill", "-HUP", "1"]
remain_after_exit = true
working_directory = "%S/work"
environment = { A = "%u", B = "%h" }
environment_file = ["?%h/.env"]
credentials = { openai = "/etc/keys/openai" }
user = "ada"

[ready]
type = "notify-reload"
timeout = "1min"
notify_access = "all"

[watchdog]
interval = "30s"
abort_timeout = "5s"
progress = "10min"
progress_action = "interrupt"

[health.startup]
exec = ["./bin/up"]
period = "1s"
timeout = "2s"
failures = 30
successes = 2

[health.readiness]
http = "http://127.0.0.1:8080/health"

[health.liveness]
tcp = "[::1]:8080"

[restart]
policy = "always"
delay = "0s"
factor = 3
max_delay = "1h"
jitter = 0
reset_after = "1d"
success_exit_status = [1]
prevent_exit_status = []
force_exit_status = [75]
retry_after_max = "1h"
limit_burst = 5
limit_interval = "1min"
limit_mode = "delay"
poison_after = 0

[stop]
signal = "INT"
timeout = "10s"
checkpoint = "5s"
command = ["./bin/bye"]
kill_mode = "control-group"
post = [["rm", "-rf", "%S/x"]]

[budget]
window = "1h"
tokens = 1000
cost = "1.50"
calls = 10
time = "30min"

[sandbox]
profile = "native"
read = ["?/etc/gitconfig", "/srv//data/"]
execute = ["/opt/x"]
write = ["%S/work", "%h/reports"]
hosts = ["API.example.org", "127.0.0.1:8080"]
listen = [8080]
allow_unenforced = ["hosts"]

[limits]
open_files = 64
file_size = "1M"
address_space = "2G"
memory = "512M"
tasks = 32
cpu = "50%"
oom_policy = "kill"

[bus]
publish = ["a.>"]
subscribe = ["b.*"]
request = ["unit.search.>"]

[tools]
allow = ["fs:read(path=**)"]
deny = ["fs:*(path=**/.env)"]
workspace = "%S/work"
timeout = "1min 30s"

[llm]
default = "local"

[llm.local]
format = "openai-chat"
base_url = "http://127.0.0.1:8080/v1/"
model = "smol"
credential = "openai"
window = 2048
max_output = 256
temperature = 0.5

[install]
wanted_by = ["all.target"]
required_by = ["more.target"]
"#;

/// `chat.agent` with this text, and the units that [`EVERY`] names, so that nothing is absent.
fn among_others(text: &str) -> SourceSet {
    let mut files = vec![(0, "chat.agent.toml".to_owned(), text.to_owned())];
    for other in ["b", "c", "d", "e", "f", "g", "h", "i@", "j"] {
        files.push((0, format!("{other}.agent.toml"), RUNS.to_owned()));
    }
    files.push((0, "db.service.toml".to_owned(), RUNS.to_owned()));
    for other in ["all", "more"] {
        files.push((0, format!("{other}.target.toml"), String::new()));
    }
    let borrowed: Vec<(usize, &str, &str)> = files.iter().map(|(d, n, t)| (*d, n.as_str(), t.as_str())).collect();
    set(&borrowed)
}

#[test]
fn every_key_reaches_the_unit() {
    let catalogue = load_all(&among_others(EVERY), &facts(), None);
    assert_eq!(said(&catalogue.problems), Vec::<String>::new());
    let unit = catalogue.units[&id("chat.agent")].clone();
    // Nothing is left at its default: whoever adds a key adds it here.
    let plain = written(&Unit::bare(id("chat.agent")));
    for section in written(&unit).as_object().unwrap().iter().filter(|(name, _)| *name != "unit") {
        for (key, value) in section.1.as_object().unwrap() {
            assert_ne!(plain[section.0].get(key), Some(value), "{}.{key} stands at its default", section.0);
        }
    }
    let names = |ids: &[UnitId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!((names(&unit.requires), names(&unit.wants)), (vec!["db.service".into()], vec!["b.agent".into()]));
    assert_eq!((names(&unit.requisite), names(&unit.binds_to)), (vec!["c.agent".into()], vec!["d.agent".into()]));
    assert_eq!((names(&unit.part_of), names(&unit.upholds)), (vec!["all.target".into()], vec!["e.agent".into()]));
    assert_eq!((names(&unit.conflicts), names(&unit.before)), (vec!["f.agent".into()], vec!["g.agent".into()]));
    assert_eq!((names(&unit.on_success), names(&unit.on_give_up)), (vec!["h.agent".into()], vec!["j.agent".into()]));
    assert_eq!(names(&unit.on_failure), ["i@chat.agent"]);
    let after: Vec<(String, Until)> = unit.after.iter().map(|after| (after.unit.to_string(), after.until)).collect();
    let after: Vec<(&str, Until)> = after.iter().map(|(unit, until)| (unit.as_str(), *until)).collect();
    let ready = ["b.agent", "e.agent", "c.agent", "d.agent"].map(|unit| (unit, Until::Ready));
    assert_eq!(after, [ready[0], ("db.service", Until::Healthy), ready[1], ready[2], ready[3]]);
    let conditions: Vec<(bool, Test)> = unit.conditions.iter().map(|c| (c.negated, c.test.clone())).collect();
    assert_eq!(
        conditions,
        [
            (false, Test::PathExists("/var/lib/loom/units/chat.agent/go".into())),
            (true, Test::Environment("CI=1".into())),
            (false, Test::Memory(8 << 30)),
        ]
    );
    assert_eq!(unit.job_timeout, Millis(300_000));
    assert_eq!((unit.ready.kind, unit.ready.notify_access), (ReadyKind::NotifyReload, NotifyAccess::All));
    assert_eq!(unit.watchdog.progress, Some(Millis(600_000)));
    assert_eq!(unit.watchdog.progress_action, ProgressAction::Interrupt);
    let startup = unit.health.startup.unwrap();
    assert_eq!(startup.check, Check::Exec(vec!["/units/high/bin/up".into()]));
    assert_eq!(
        (startup.period, startup.timeout, startup.failures, startup.successes),
        (Millis(1_000), Millis(2_000), 30, 2)
    );
    let http = Check::Http { url: "http://127.0.0.1:8080/health".into(), host: "127.0.0.1".into(), port: 8080 };
    assert_eq!(unit.health.readiness.unwrap().check, http);
    assert_eq!(unit.health.liveness.unwrap().check, Check::Tcp { host: "::1".into(), port: 8080 });
    assert_eq!((unit.restart.limit_burst, unit.restart.limit_mode), (5, LimitMode::Delay));
    assert_eq!(unit.stop.command.unwrap(), ["/units/high/bin/bye"]);
    assert_eq!((unit.stop.kill_mode, unit.stop.checkpoint), (KillMode::ControlGroup, Some(Millis(5_000))));
    assert_eq!(unit.stop.post, [["rm", "-rf", "/var/lib/loom/units/chat.agent/x"]]);
    let budget = unit.budget.unwrap();
    assert_eq!(
        (budget.window, budget.cost_micros, budget.time),
        (Millis(3_600_000), Some(1_500_000), Some(Millis(1_800_000)))
    );
    assert_eq!(
        (unit.limits.memory_bytes, unit.limits.tasks, unit.limits.cpu_percent),
        (Some(512 << 20), Some(32), Some(50))
    );
    assert_eq!(unit.limits.oom_policy, OomPolicy::Kill);
    assert_eq!(names(&unit.install.wanted_by), ["all.target"]);
    let exec = unit.exec.unwrap();
    assert_eq!(exec.command, ["/units/high/bin/agent", "chat.agent", "100%"]);
    assert_eq!(exec.start_pre[0], ["-mkdir", "-p", "/var/lib/loom/units/chat.agent/x"]);
    assert_eq!(exec.start_pre[1], ["/units/high/bin/prepare"]);
    assert_eq!((exec.reload.unwrap().len(), exec.remain_after_exit, exec.user.as_deref()), (3, true, Some("ada")));
    assert_eq!((exec.environment_file[0].path.as_str(), exec.environment_file[0].optional), ("/home/ada/.env", true));
    assert_eq!((exec.environment["A"].as_str(), exec.environment["B"].as_str()), ("ada", "/home/ada"));
    assert_eq!(unit.watchdog.interval, Some(Millis(30_000)));
    assert_eq!((unit.restart.delay, unit.restart.prevent_exit_status.len()), (Millis(0), 0));
    assert_eq!((unit.stop.signal, unit.stop.timeout), (2, Millis(10_000)));
    let read = &unit.sandbox.read;
    assert_eq!((read[0].path.as_str(), read[0].optional), ("/etc/gitconfig", true));
    assert_eq!((read[1].path.as_str(), read[1].optional), ("/srv/data", false));
    assert_eq!(read[1].origin, "0/chat.agent.toml:88:28");
    assert_eq!(unit.sandbox.hosts[0], HostGrant { host: "api.example.org".into(), port: 443 });
    assert_eq!(unit.sandbox.allow_unenforced, [Promise::Hosts]);
    assert_eq!(unit.limits.address_space_bytes, Some(2 << 30));
    assert_eq!(unit.tools.allow[0].origin, "0/chat.agent.toml:110:10");
    assert_eq!(unit.tools.timeout, Millis(90_000));
    let llm = unit.llm.unwrap();
    assert_eq!(llm.profiles["local"].base_url, "http://127.0.0.1:8080/v1");
    assert_eq!((llm.default.as_str(), llm.profiles["local"].window), ("local", 2048));
}

#[test]
fn drop_ins_merge_tables_replace_lists_and_extend_appends() {
    let main = "[exec]\ncommand = [\"run\"]\nenvironment = { A = \"1\", B = \"1\" }\n[sandbox]\nread = [\"/a\"]\nexecute = [\"/x\"]\n";
    let files = set(&[
        (1, "chat.agent.toml", main),
        (1, "chat.agent.d/10.toml", "[exec.environment]\nB = \"2\"\nC = \"2\"\n[sandbox]\nread = [\"/b\"]\n"),
        (0, "chat.agent.d/20.toml", "[extend.sandbox]\nread = [\"/c\"]\nexecute = [\"/y\"]\nwrite = [\"/w\"]\n"),
        (0, "agent.d/99.toml", "[stop]\ntimeout = \"1s\"\n[sandbox]\nread = [\"/general\"]\n"),
    ]);
    let loaded = load(&files, &facts(), &id("chat.agent"), None);
    assert_eq!(said(&loaded.problems), Vec::<String>::new());
    let unit = loaded.unit.unwrap();
    let paths = |grants: &[PathGrant]| grants.iter().map(|grant| grant.path.clone()).collect::<Vec<_>>();
    assert_eq!(paths(&unit.sandbox.read), ["/b", "/c"]);
    assert_eq!(paths(&unit.sandbox.execute), ["/x", "/y"]);
    assert_eq!(paths(&unit.sandbox.write), ["/w"]);
    assert_eq!(unit.exec.unwrap().environment.into_values().collect::<Vec<_>>(), ["1", "2", "2"]);
    assert_eq!(unit.stop.timeout, Millis(1_000));
    assert_eq!(loaded.origins["sandbox.read[1]"], "0/chat.agent.d/20.toml:2:9");
    assert_eq!(loaded.origins["exec.environment.B"], "1/chat.agent.d/10.toml:2:5");
    let files: Vec<&str> = loaded.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(files, ["1/chat.agent.toml", "0/agent.d/99.toml", "1/chat.agent.d/10.toml", "0/chat.agent.d/20.toml"]);
}

#[test]
fn an_instance_is_made_from_its_template_and_an_own_file_comes_first() {
    let files = set(&[
        (0, "worker@.agent.toml", "[unit]\ndescription = \"%i %I %p %N\"\n[exec]\ncommand = [\"run\"]\n"),
        (1, "worker@b.agent.toml", "[unit]\ndescription = \"own\"\n[exec]\ncommand = [\"run\"]\n"),
        (0, "all.target.toml", "[unit]\nwants = [\"worker@a-b\\\\x20c.agent\", \"worker@b.agent\"]\n"),
    ]);
    let catalogue = load_all(&files, &facts(), None);
    assert_eq!(said(&catalogue.problems), Vec::<String>::new());
    let names: Vec<String> = catalogue.units.keys().map(UnitId::to_string).collect();
    assert_eq!(names, ["all.target", "worker@a-b\\x20c.agent", "worker@b.agent"]);
    assert_eq!(catalogue.units[&id("worker@a-b\\x20c.agent")].description, "a-b\\x20c a/b c worker worker@a-b\\x20c");
    assert_eq!(catalogue.units[&id("worker@b.agent")].description, "own");
    assert!(catalogue.templates.contains(&id("worker@.agent")));
    let asked = load(&files, &facts(), &id("worker@new.agent"), None);
    assert_eq!(
        (asked.standing, asked.unit.unwrap().description.as_str()),
        (Standing::Unit, "new new worker worker@new")
    );
    assert_eq!(load(&files, &facts(), &id("worker@.agent"), None).unit, None);
    assert_eq!(load(&files, &facts(), &id("other@x.agent"), None).standing, Standing::Absent);
}

#[test]
fn an_instance_name_never_leads_out_of_a_directory() {
    let files = set(&[(0, "w@.agent.toml", "[exec]\ncommand = [\"run\"]\n[sandbox]\nwrite = [\"/data/%I/x\"]\n")]);
    for name in ["w@...agent", "w@..-etc.agent", "w@\\x2e\\x2e.agent"] {
        let loaded = load(&files, &facts(), &id(name), None);
        assert_eq!(loaded.unit, None, "{name}");
        assert!(said(&loaded.problems)[0].contains("`..`"), "{name}: {:?}", loaded.problems);
    }
}

#[test]
fn a_broken_file_stops_its_own_unit_and_no_other() {
    let files = set(&[
        (0, "a.agent.toml", RUNS),
        (0, "b.agent.toml", "[exec\ncommand"),
        (0, "c.agent.toml", RUNS),
        (0, "c.agent.d/10.toml", "[exec]\ncommnad = []\n"),
        (0, "d.agent.toml", "[unit]\nrequires = [\"b.agent\"]\n[exec]\ncommand = [\"run\"]\n"),
    ]);
    let catalogue = load_all(&files, &facts(), None);
    assert_eq!(catalogue.units.keys().map(UnitId::to_string).collect::<Vec<_>>(), ["a.agent", "d.agent"]);
    assert_eq!(catalogue.refused.keys().map(UnitId::to_string).collect::<Vec<_>>(), ["b.agent", "c.agent"]);
    assert!(catalogue.has_errors());
}

#[test]
fn units_that_wait_for_one_another_are_refused_and_the_rest_loads() {
    let unit = |deps: &str| format!("[unit]\n{deps}\n[exec]\ncommand = [\"run\"]\n");
    let (a, b, c, d) = (
        unit("after = [\"b.agent\"]"),
        unit("requires = [\"c.agent\"]"),
        unit("after = [\"a.agent\", \"d.agent\"]"),
        unit("wants = [\"a.agent\"]\nafter = [\"a.agent\"]"),
    );
    let files = set(&[
        (0, "a.agent.toml", &a),
        (0, "b.agent.toml", &b),
        (0, "c.agent.toml", &c),
        (0, "d.agent.toml", &d),
        (0, "e.agent.toml", &unit("after = [\"a.agent\"]")),
    ]);
    let catalogue = load_all(&files, &facts(), None);
    assert_eq!(catalogue.units.keys().map(UnitId::to_string).collect::<Vec<_>>(), ["e.agent"]);
    assert!(said(&catalogue.problems)[0].contains("a.agent after b.agent after c.agent after a.agent"));
}

#[test]
fn what_one_unit_writes_no_other_executes() {
    let files = set(&[
        (0, "a.agent.toml", "[exec]\ncommand = [\"python3\", \"/srv/code/main.py\"]\n"),
        (0, "b.agent.toml", "[exec]\ncommand = [\"run\"]\n[sandbox]\nwrite = [\"/srv/code\"]\n"),
        (
            0,
            "c.agent.toml",
            "[exec]\ncommand = [\"run\"]\n[sandbox]\nexecute = [\"/var/lib/loom/units/b.agent/bin\"]\n",
        ),
        (
            0,
            "d.agent.toml",
            "[exec]\ncommand = [\"run\", \"/srv/out\"]\n[sandbox]\nwrite = [\"/srv/code-of-others\", \"/srv/out\"]\n",
        ),
    ]);
    let catalogue = load_all(&files, &facts(), None);
    assert_eq!(
        said(&catalogue.problems),
        [
            "0/b.agent.toml:4:10 b.agent may write what a.agent executes: `/srv/code/main.py`",
            "0/c.agent.toml:4:12 c.agent executes `/var/lib/loom/units/b.agent/bin`, which b.agent may write: its state directory",
        ]
    );
    assert!(catalogue.problems[0].help.contains("0/a.agent.toml:2:23"));
    assert_eq!(catalogue.units.keys().map(UnitId::to_string).collect::<Vec<_>>(), ["a.agent", "d.agent"]);
}

#[test]
fn an_instance_that_clashes_with_a_unit_is_refused_whoever_writes() {
    let files = set(&[
        (0, "a.agent.toml", "[exec]\ncommand = [\"/srv/a/run\"]\n[sandbox]\nwrite = [\"/data/a\"]\n"),
        (0, "w@.agent.toml", "[exec]\ncommand = [\"run\"]\n[sandbox]\nwrite = [\"/srv/%i\"]\n"),
        (0, "x@.agent.toml", "[exec]\ncommand = [\"/data/%i/run\"]\n"),
    ]);
    for (name, fine) in [("w@a.agent", false), ("w@b.agent", true), ("x@a.agent", false), ("x@b.agent", true)] {
        let loaded = load(&files, &facts(), &id(name), None);
        assert_eq!(loaded.unit.is_some(), fine, "{name}: {:?}", loaded.problems);
    }
}

#[test]
fn what_is_printed_as_effective_is_the_same_unit_again() {
    let mut catalogue = load_all(&among_others(EVERY), &facts(), None);
    let id = id("chat.agent");
    let unit = catalogue.units.remove(&id).unwrap();
    let page = effective(&unit, &catalogue.origins[&id]);
    let again = load_all(&among_others(&page), &facts(), None);
    assert_eq!(said(&again.problems), Vec::<String>::new(), "{page}");
    assert_eq!(changed_keys(&unit, &again.units[&id]), Vec::<String>::new(), "{page}");
    assert_eq!(written(&again.units[&id]), written(&unit));
    // Every value has its place; what this file leaves out are details of two probes.
    let without: Vec<&str> = page.lines().filter(|line| line.contains("# default")).collect();
    let names: BTreeSet<&str> = without.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(names, BTreeSet::from(["unordered", "period", "timeout", "failures", "successes"]), "{page}");
}

#[test]
fn effective_tells_the_line_of_each_value_and_what_is_a_default() {
    let files = set(&[
        (
            1,
            "chat.agent.toml",
            "[exec]\ncommand = [\"run\", \"100%%\"]\nenvironment = { A = \"1\" }\n[sandbox]\nread = [\"/a\"]\n",
        ),
        (0, "chat.agent.d/10.toml", "[extend.sandbox]\nread = [\"/c\"]\n[exec]\nenvironment = { B = \"2\" }\n"),
        (0, "agent.d/20.toml", "[stop]\ntimeout = \"5s\"\n[unit]\nrequires = [\"db.service\"]\n"),
        (1, "db.service.toml", RUNS),
    ]);
    let loaded = load(&files, &facts(), &id("chat.agent"), None);
    let page = effective(&loaded.unit.unwrap(), &loaded.origins);
    let has = |line: &str| {
        assert!(page.lines().any(|seen| seen.split_whitespace().eq(line.split_whitespace())), "{line}\n{page}")
    };
    has("command = [\"run\", \"100%%\"] # 1/chat.agent.toml:2");
    has("environment.A = \"1\" # 1/chat.agent.toml:3");
    has("environment.B = \"2\" # 0/chat.agent.d/10.toml:4");
    has("timeout = \"5s\" # 0/agent.d/20.toml:2");
    has("after = [\"db.service\"] # 0/agent.d/20.toml:4");
    has("policy = \"on-failure\" # default");
    has("\"/a\", # 1/chat.agent.toml:5");
    has("\"/c\", # 0/chat.agent.d/10.toml:2");
    let headers: Vec<&str> = page.lines().filter(|line| line.starts_with('[')).collect();
    assert_eq!(
        headers,
        [
            "[unit]",
            "[exec]",
            "[ready]",
            "[restart]",
            "[stop]",
            "[sandbox]",
            "[limits]",
            "[bus]",
            "[tools]",
            "[install]"
        ]
    );
}

#[test]
fn a_change_is_named_by_its_keys_and_says_what_needs_a_restart() {
    let old = one("chat.agent", "[exec]\ncommand = [\"run\", \"a\"]\nenvironment = { A = \"1\" }\n");
    let text = "[unit]\ndescription = \"x\"\n[exec]\ncommand = [\"run\", \"b\", \"c\"]\nreload = [\"r\"]\nenvironment = { B = \"1\" }\n\
                [health.liveness]\ntcp = \"127.0.0.1:1\"\n[restart]\ndelay = \"1s\"\n[limits]\nmemory = \"64M\"\n";
    let new = one("chat.agent", text);
    assert_eq!(
        changed_keys(&old, &new),
        [
            "unit.description",
            "exec.command[1]",
            "exec.command[2]",
            "exec.reload",
            "exec.environment.A",
            "exec.environment.B",
            "health.liveness.tcp",
            "health.liveness.period",
            "health.liveness.timeout",
            "health.liveness.failures",
            "health.liveness.successes",
            "restart.delay",
            "limits.memory",
        ]
    );
    let restart = needs_restart(&old, &new);
    assert!(
        restart.iter().all(|key| !key.starts_with("unit.") && !key.starts_with("restart.") && key != "exec.reload")
    );
    assert_eq!(restart.len(), 10);
    let mut running = old.clone();
    take_at_once(&mut running, &new);
    assert_eq!((running.description.as_str(), running.restart.delay), ("x", Millis(1_000)));
    assert_eq!(changed_keys(&running, &new), restart);
    // A line that moved is no change.
    let moved = one("chat.agent", &format!("\n\n{text}"));
    assert_eq!(changed_keys(&new, &moved), Vec::<String>::new());
}

#[test]
fn what_is_required_is_waited_for_unless_it_says_so() {
    let unit = |text: &str| {
        let files = set(&[(0, "a.agent.toml", &format!("[unit]\n{text}\n{RUNS}")), (0, "db.service.toml", RUNS)]);
        let loaded = load(&files, &facts(), &id("a.agent"), None);
        assert_eq!(said(&loaded.problems), Vec::<String>::new());
        loaded.unit.unwrap()
    };
    for key in ["requires", "requisite", "binds_to"] {
        assert_eq!(unit(&format!("{key} = [\"db.service\"]")).after, [After::ready(id("db.service"))], "{key}");
        let unordered = unit(&format!("{key} = [\"db.service\"]\nunordered = true"));
        assert_eq!(unordered.after, [], "{key}");
        assert_eq!(written(&unordered)["unit"]["unordered"], true);
    }
    let until = unit("requires = [\"db.service\"]\nafter = [{ unit = \"db.service\", until = \"started\" }]");
    assert_eq!(until.after, [After { unit: id("db.service"), until: Until::Started }]);
    assert_eq!(unit("wants = [\"db.service\"]").after, []);
}

#[test]
fn members_of_a_group_are_wanted_and_wait_for_one_another_in_order() {
    let member = |text: &str| format!("[unit]\n{text}\n{RUNS}");
    let files = |b: &str| {
        set(&[
            (
                0,
                "team.target.toml",
                "[group]\nmembers = [\"a.agent\", \"b.agent\", \"w@1.agent\"]\nsignificant = [\"a.agent\"]\n",
            ),
            (0, "a.agent.toml", RUNS),
            (0, "b.agent.toml", &member(b)),
            (0, "w@.agent.toml", RUNS),
        ])
    };
    let catalogue = load_all(&files("after = [{ unit = \"a.agent\", until = \"healthy\" }]"), &facts(), None);
    assert_eq!(said(&catalogue.problems), Vec::<String>::new());
    let team = &catalogue.units[&id("team.target")];
    let group = team.group.as_ref().unwrap();
    assert_eq!((&group.members, group.strategy, group.intensity), (&team.wants, GroupStrategy::OneForOne, 3));
    assert_eq!((group.period, group.significant.as_slice()), (Millis(60_000), [id("a.agent")].as_slice()));
    // A member's own word counts; the others wait until the one before is ready.
    assert_eq!(catalogue.units[&id("b.agent")].after, [After { unit: id("a.agent"), until: Until::Healthy }]);
    assert_eq!(catalogue.units[&id("w@1.agent")].after, [After::ready(id("b.agent"))]);
    assert_eq!(catalogue.origins[&id("w@1.agent")]["unit.after[0]"], "0/team.target.toml:2:34");
    let alone = load(&files(""), &facts(), &id("w@1.agent"), None);
    assert_eq!(alone.unit.unwrap().after, [After::ready(id("b.agent"))]);

    let circle = load_all(&files("before = [\"a.agent\"]"), &facts(), None);
    assert!(said(&circle.problems)[0].contains("a.agent after b.agent after a.agent"), "{:?}", said(&circle.problems));
    let loaded: Vec<String> = circle.units.keys().map(UnitId::to_string).collect();
    assert_eq!(loaded, ["team.target", "w@1.agent"]);
}

#[test]
fn a_schedule_says_what_it_starts_and_when() {
    let text = r#"
[unit]
description = "Reports"
[schedule]
unit = "report"
cron = "0 9-17 * * MON-FRI"
calendar = ["Sat 10:00"]
every = "1h"
from = "end"
on_startup = "5s"
timezone = "Europe/Berlin"
accuracy = "1min"
randomized_delay = "30s"
fixed_random_delay = true
persistent = false
overlap = "queue-one"
on_interrupted = "rerun"
limit_burst = 5
limit_interval = "1min"
[install]
wanted_by = ["all.target"]
"#;
    let files = |text: &str| {
        set(&[
            (0, "report.schedule.toml", text),
            (0, "report.service.toml", RUNS),
            (0, "worker@.agent.toml", RUNS),
            (0, "all.target.toml", ""),
        ])
    };
    let catalogue = load_all(&files(text), &facts(), None);
    assert_eq!(said(&catalogue.problems), Vec::<String>::new());
    let unit = &catalogue.units[&id("report.schedule")];
    let schedule = unit.schedule.as_ref().unwrap();
    assert_eq!(schedule.unit, id("report.service"));
    assert_eq!((schedule.cron[0].as_str(), schedule.calendar[0].as_str()), ("0 9-17 * * MON-FRI", "Sat 10:00"));
    assert_eq!((schedule.every.unwrap().period, schedule.limit_burst), (Millis(3_600_000), 5));
    let plain = written(&Unit {
        schedule: Some(loom_core::schedule::Settings::new(id("x.agent"))),
        ..Unit::bare(id("a.schedule"))
    });
    for (key, value) in written(unit)["schedule"].as_object().unwrap().iter().filter(|(key, _)| *key != "align") {
        assert_ne!(plain["schedule"].get(key), Some(value), "{key} stands at its default");
    }
    let page = effective(unit, &catalogue.origins[&unit.id]);
    let again = load_all(&files(&page), &facts(), None);
    assert_eq!(written(&again.units[&unit.id]), written(unit), "{page}");

    let more = format!("{text}[extend.schedule]\ncron = [\"0 0 * * *\"]\n");
    let catalogue = load_all(&files(&more), &facts(), None);
    assert_eq!(catalogue.units[&id("report.schedule")].schedule.as_ref().unwrap().cron.len(), 2);
    let parallel = "[schedule]\nunit = \"worker@.agent\"\ncron = \"0 9 * * *\"\noverlap = \"parallel\"\n";
    assert!(load_all(&files(parallel), &facts(), None).problems.is_empty());
    let past = "[schedule]\nunit = \"report.service\"\ncalendar = \"2020-01-01 10:00\"\n";
    let catalogue = load_all(&files(past), &facts(), None);
    assert_eq!(said(&catalogue.problems), ["0/report.schedule.toml:3:12 report.schedule never elapses"]);
    assert!(catalogue.units.contains_key(&id("report.schedule")));
}

#[test]
fn a_masked_drop_in_says_nothing_and_hides_the_one_below() {
    let mut files = set(&[
        (0, "a.agent.d/10.toml", ""),
        (1, "a.agent.d/10.toml", "[stop]\ntimeout = \"1s\"\n"),
        (1, "a.agent.toml", RUNS),
    ]);
    files.sources[0].content = Content::Masked;
    let loaded = load(&files, &facts(), &id("a.agent"), None);
    assert_eq!(loaded.unit.unwrap().stop.timeout, Millis(30_000));
    assert_eq!(loaded.files.len(), 1);
}

#[test]
fn a_name_of_more_than_255_bytes_is_refused() {
    let name = format!("a@{}.agent.toml", "x".repeat(250));
    let catalogue = load_all(&set(&[(0, &name, RUNS)]), &facts(), None);
    assert!(catalogue.problems[0].message.contains("longer than 255 bytes"), "{:?}", catalogue.problems);
    assert_eq!(catalogue.units.len(), 0);
}

#[test]
fn a_masked_unit_is_neither_loaded_nor_wrong() {
    let mut files = set(&[
        (0, "a.agent.toml", ""),
        (1, "a.agent.toml", RUNS),
        (0, "b.agent.toml", "[unit]\nwants = [\"a.agent\"]\n[exec]\ncommand = [\"run\"]\n"),
    ]);
    files.sources[0].content = Content::Masked;
    let catalogue = load_all(&files, &facts(), None);
    assert_eq!(catalogue.units.len(), 1);
    assert!(catalogue.masked.contains(&id("a.agent")));
    assert_eq!(catalogue.problems.len(), 1);
    assert_eq!(catalogue.problems[0].severity, Severity::Warning);
}

#[test]
fn a_thousand_units_are_read_in_the_blink_of_a_reload() {
    let files: Vec<(usize, String, String)> = (0..1000)
        .map(|n| {
            let text = format!(
                "[unit]\ndescription = \"unit {n}\"\nafter = [\"u{}.agent\"]\n[exec]\ncommand = [\"/srv/u{n}/run\"]\n[sandbox]\nwrite = [\"/data/u{n}\"]\n[bus]\npublish = [\"a.b.>\"]\n",
                n.max(1) - 1 + usize::from(n == 0)
            );
            (0, format!("u{n}.agent.toml"), text)
        })
        .collect();
    let borrowed: Vec<(usize, &str, &str)> = files.iter().map(|(d, n, t)| (*d, n.as_str(), t.as_str())).collect();
    let set = set(&borrowed);
    let start = std::time::Instant::now();
    let catalogue = load_all(&set, &facts(), None);
    let took = start.elapsed();
    println!("1000 units in {took:?}");
    // u0 and u1 wait for one another; all others wait in a chain.
    assert_eq!((catalogue.units.len(), catalogue.refused.len()), (998, 2));
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
}

/// `LOOM_UPDATE_SCHEMAS=1` writes them anew.
#[test]
fn the_committed_schemas_are_fresh() {
    for kind in Kind::ALL {
        let path = format!("{}/../../schemas/unit.{kind}.json", env!("CARGO_MANIFEST_DIR"));
        let seen = serde_json::to_string_pretty(&schema(kind)).unwrap() + "\n";
        if std::env::var_os("LOOM_UPDATE_SCHEMAS").is_some() {
            std::fs::write(&path, &seen).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(seen == committed, "{path} is stale: run the tests with LOOM_UPDATE_SCHEMAS=1");
    }
}

#[test]
fn the_committed_reference_is_fresh() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/unit-files.md");
    if std::env::var_os("LOOM_UPDATE_SCHEMAS").is_some() {
        std::fs::write(path, reference()).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(reference() == committed, "{path} is stale: run the tests with LOOM_UPDATE_SCHEMAS=1");
}

/// Problems lie in their file, and reading comes to an end.
#[test]
fn a_rule_or_filter_that_is_accepted_is_one_for_the_tool_room_and_the_bus() {
    use loom_core::tools::{List, Rule};
    let accepted = |key: &str, text: &str| {
        let section = if matches!(key, "allow" | "deny") { "tools" } else { "bus" };
        let file = format!("{RUNS}[{section}]\n{key} = [{text:?}]\n");
        load_all(&set(&[(0, "a.agent.toml", &file)]), &facts(), None).problems.is_empty()
    };
    let rules = [
        "fs:read",
        "fs:*",
        "*",
        "*:read",
        "fs:r*",
        "web:fetch",
        "fs:read(path=a/**)",
        "fs:read(path=a/)",
        "fs:read(paht=a)",
        "fs:read(path=a",
        "fs:write(mode=create, path=b)",
        "fs:list(depth<=3)",
        "fs:list(depth==3)",
        "fs:list(depth==x)",
        "",
    ];
    for text in rules {
        for (key, list) in [("allow", List::Allow), ("deny", List::Deny)] {
            assert_eq!(accepted(key, text), Rule::parse(text, list).is_ok(), "{key} {text}");
        }
    }
    for text in ["a", "a.*.>", "a.b@7", "unit.b@7.>", "a.>.b", "a.b*", "", "a..b", "ä"] {
        assert_eq!(accepted("publish", text), text.parse::<loom_core::topic::Filter>().is_ok(), "{text}");
    }
}

fn sound(name: &str, bytes: Vec<u8>) -> Result<(), TestCaseError> {
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut files = set(&[(0, name, "")]);
    files.sources[0].content = Content::Bytes(bytes);
    let catalogue = load_all(&files, &facts(), None);
    let lines: Vec<&str> = text.split('\n').collect();
    for problem in &catalogue.problems {
        if problem.line == 0 {
            continue;
        }
        prop_assert!(problem.line <= lines.len(), "{:?}", problem);
        let width = lines[problem.line - 1].chars().count();
        prop_assert!((1..=width + 1).contains(&problem.column), "{:?}", problem);
        prop_assert!(problem.length >= 1 && problem.column + problem.length <= width + 2, "{:?}", problem);
        prop_assert!(!problem.message.is_empty() && !problem.help.is_empty(), "{:?}", problem);
    }
    let unit = UnitId::to_string(&id(name.trim_end_matches(".toml")));
    let right = catalogue.units.len() + catalogue.refused.len() + catalogue.templates.len();
    prop_assert!(right >= 1, "{unit} is neither loaded nor refused");
    Ok(())
}

/// Words of the language in any order.
fn jumble() -> impl Strategy<Value = String> {
    let words = vec![
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ".",
        ",",
        "\n",
        "\r\n",
        " ",
        "\"",
        "'",
        "\"\"\"",
        "'''",
        "#",
        "%",
        "%i",
        "\\",
        "unit",
        "exec",
        "command",
        "restart",
        "delay",
        "sandbox",
        "write",
        "llm",
        "local",
        "extend",
        "bus",
        "tools",
        "allow",
        "1",
        "1.5",
        "1e400",
        "-",
        "true",
        "30s",
        "/",
        "..",
        "ä",
        "\u{feff}",
        "\0",
        "1979-05-27",
        "0x",
        "_",
        "after",
        "x.agent",
        "\n[exec]\ncommand = [\"a\"]\n",
        "\n[llm.local]\n",
        "\n[schedule]\n",
        "cron",
        "calendar",
        "after",
        "\n[extend.sandbox]\nread = [\"",
        "inf",
        "nan",
    ];
    proptest::collection::vec(proptest::sample::select(words), 0..40).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_are_a_unit_file_or_a_problem(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        sound("a.agent.toml", bytes)?;
    }

    #[test]
    fn any_jumble_of_words_is_a_unit_file_or_a_problem(text in jumble()) {
        sound("a.agent.toml", text.clone().into_bytes())?;
        sound("a@.service.toml", text.clone().into_bytes())?;
        sound("a.schedule.toml", text.into_bytes())?;
    }

    /// Whatever of a file is left, what is printed of it is a file that means the same.
    #[test]
    fn any_unit_that_loads_prints_as_a_file_of_the_same_unit(kept in proptest::collection::vec(0u8..5, EVERY.lines().count())) {
        let lines = EVERY.lines().zip(&kept).filter(|(line, kept)| **kept > 0 || line.starts_with('[')).map(|(line, _)| line);
        let text = lines.collect::<Vec<_>>().join("\n");
        let id = id("chat.agent");
        let catalogue = load_all(&among_others(&text), &facts(), None);
        let Some(unit) = catalogue.units.get(&id) else { return Ok(()) };
        let page = effective(unit, &catalogue.origins[&id]);
        let again = load_all(&among_others(&page), &facts(), None);
        prop_assert!(!again.has_errors(), "{:?}\n{}", said(&again.problems), page);
        prop_assert_eq!(written(&again.units[&id]), written(unit), "{}", page);
    }

    #[test]
    fn any_value_of_any_key_is_right_or_a_problem(
        at in 0usize..200,
        value in prop_oneof!["\\[\\[\"[-a-z%/.]{0,9}\"\\]\\]", "\\{ unit = \"[a-z.]{0,9}\", until = \"(ready|x)\" \\}", "\"!?(memory|path-exists|cpus|host|x):[a-z0-9/%]{0,9}\"", "\"[0-9.]{0,9}%?\"", "\"[ -~äß]{0,30}\"", "-?[0-9]{1,22}", "[0-9]{1,3}\\.[0-9]{1,3}", "\\[\"[a-z%/.:*>]{0,12}\"\\]", "true"],
    ) {
        let schema = serde_json::to_value(schema(Kind::Agent)).unwrap();
        let keys: Vec<(String, String)> = schema["properties"].as_object().unwrap().iter()
            .filter(|(name, _)| *name != "extend")
            .flat_map(|(section, body)| body["properties"].as_object().unwrap().iter().flat_map(|(key, value)| {
                match value["properties"].as_object() {
                    Some(inner) => inner.keys().map(|name| (format!("{section}.{key}"), name.clone())).collect::<Vec<_>>(),
                    None => vec![(section.clone(), key.clone())],
                }
            }).collect::<Vec<_>>())
            .collect();
        let (section, key) = &keys[at % keys.len()];
        sound("a.agent.toml", format!("[{section}]\n{key} = {value}\n").into_bytes())?;
    }
}
