//! The rules of all units together: sentences first, then random stories over a simulated world.

mod groups;
mod sim;
mod ties;
mod verbs;

use super::*;
use crate::lifecycle::tests::{identity, unit};
use crate::unit::{ReadyKind, RestartPolicy, Watchdog};
use proptest::prelude::*;
use sim::{Odds, World};

fn id(text: &str) -> UnitId {
    text.parse().unwrap()
}

/// `unit("a.agent", &["requires b.agent", "after c.agent"])`
fn with(name: &str, lines: &[&str]) -> Unit {
    let mut unit = unit(name);
    for line in lines {
        let (key, value) = line.split_once(' ').unwrap();
        match key {
            "requires" | "requisite" | "binds_to" => {
                unit.after.push(crate::unit::After::ready(id(value)));
                match key {
                    "requires" => unit.requires.push(id(value)),
                    "requisite" => unit.requisite.push(id(value)),
                    _ => unit.binds_to.push(id(value)),
                }
            }
            // As the loader leaves it of `unordered = true`.
            "unordered" => unit.after.clear(),
            "until" => {
                let (until, other) = value.split_once(' ').unwrap();
                let until = serde_json::from_value(until.into()).unwrap();
                unit.after.retain(|after| after.unit != id(other));
                unit.after.push(crate::unit::After { unit: id(other), until });
            }
            "part_of" => unit.part_of.push(id(value)),
            "upholds" => unit.upholds.push(id(value)),
            "conflicts" => unit.conflicts.push(id(value)),
            "on_success" => unit.on_success.push(id(value)),
            "on_failure" => unit.on_failure.push(id(value)),
            "on_give_up" => unit.on_give_up.push(id(value)),
            "job_timeout" => unit.job_timeout = Millis(value.parse().unwrap()),
            "condition" => unit.conditions.push(crate::unit::Condition {
                negated: false,
                test: crate::unit::Test::PathExists(value.into()),
                text: format!("path-exists:{value}"),
            }),
            "start_pre" => unit.exec.as_mut().unwrap().start_pre.push(vec![value.into()]),
            "reload" => unit.exec.as_mut().unwrap().reload = Some(vec![value.into()]),
            "remains" => unit.exec.as_mut().unwrap().remain_after_exit = value == "true",
            "post" => unit.stop.post.push(vec![value.into()]),
            "stop" => unit.stop.command = Some(vec![value.into()]),
            "readiness" | "liveness" => {
                let check = crate::unit::Check::Exec(vec![value.into()]);
                let probe = crate::unit::Probe {
                    check,
                    period: Millis(600_000),
                    timeout: Millis(1_000),
                    failures: 3,
                    successes: 1,
                };
                *(if key == "liveness" { &mut unit.health.liveness } else { &mut unit.health.readiness }) = Some(probe);
            }
            "limit_burst" => unit.restart.limit_burst = value.parse().unwrap(),
            // `group one-for-all a.agent b.agent`
            "group" => {
                let (strategy, members) = value.split_once(' ').unwrap();
                unit.group = Some(crate::unit::Group {
                    members: members.split(' ').map(id).collect(),
                    strategy: serde_json::from_value(strategy.into()).unwrap(),
                    intensity: 3,
                    period: Millis(60_000),
                    significant: vec![],
                });
            }
            "intensity" => unit.group.as_mut().unwrap().intensity = value.parse().unwrap(),
            "significant" => unit.group.as_mut().unwrap().significant.push(id(value)),
            "wants" => unit.wants.push(id(value)),
            "after" => unit.after.push(crate::unit::After::ready(id(value))),
            "before" => unit.before.push(id(value)),
            "ready" if value == "notify" => unit.ready.kind = ReadyKind::Notify,
            "ready" if value == "notify-reload" => unit.ready.kind = ReadyKind::NotifyReload,
            "ready" if value == "oneshot" => unit.ready.kind = ReadyKind::Oneshot,
            "policy" if value == "no" => unit.restart.policy = RestartPolicy::No,
            "policy" if value == "always" => unit.restart.policy = RestartPolicy::Always,
            "delay" => unit.restart.delay = Millis(value.parse().unwrap()),
            "watchdog" => {
                unit.watchdog = Watchdog {
                    interval: Some(Millis(value.parse().unwrap())),
                    abort_timeout: Millis(5_000),
                    ..Watchdog::default()
                };
            }
            _ => panic!("no such line: {line}"),
        }
    }
    unit
}

/// A tame world: every process is ready at once and lives until it is ended.
fn tame(units: &[(&str, &[&str])]) -> World {
    World::new(units.iter().map(|(name, lines)| with(name, lines)).collect(), Odds::TAME, 1)
}

impl World {
    fn start(&mut self, unit: &str) -> JobId {
        self.ask(Verb::Start, &id(unit))
    }
    fn stop(&mut self, unit: &str) -> JobId {
        self.ask(Verb::Stop, &id(unit))
    }
    /// Its main process ends by itself.
    fn exit(&mut self, unit: &str, code: u8) {
        self.end(&id(unit), Exit::Code(code));
    }
    fn restart(&mut self, unit: &str) -> JobId {
        self.ask(Verb::Restart, &id(unit))
    }
    fn state(&self, unit: &str) -> String {
        let status = self.fleet.status(&id(unit)).unwrap();
        format!("{:?}({})", status.active_state, status.sub_state).to_lowercase()
    }
    fn status(&self, unit: &str) -> Status {
        self.fleet.status(&id(unit)).unwrap()
    }
    fn outcome(&self, job: JobId) -> &JobOutcome {
        self.outcomes.get(&job).unwrap_or_else(|| panic!("{job:?} is still open"))
    }
    /// Units in the order in which they were spawned or told to stop since last asked.
    fn order(&mut self) -> String {
        let word = |effect: Effect| match effect {
            Effect::Spawn { unit, .. } => Some(format!("+{}", unit.name())),
            Effect::Signal { unit, .. } => Some(format!("-{}", unit.name())),
            _ => None,
        };
        std::mem::take(&mut self.seen).into_iter().filter_map(word).collect::<Vec<_>>().join(" ")
    }
}

fn text_of(outcome: &JobOutcome) -> String {
    match outcome {
        JobOutcome::Failed { error, cause, hint } => {
            [Some(error), cause.as_ref(), hint.as_ref()].into_iter().flatten().cloned().collect::<Vec<_>>().join("\n")
        }
        other => format!("{other:?}"),
    }
}

const WEB: &[(&str, &[&str])] = &[
    ("db.service", &["ready notify"]),
    ("app.service", &["ready notify", "requires db.service"]),
    ("web.service", &["requires app.service"]),
];

#[test]
fn a_start_pulls_in_what_it_requires_and_waits_until_each_is_ready() {
    let mut world = tame(WEB);
    let job = world.start("web.service");
    world.pass(20);
    assert_eq!(world.state("db.service"), "activating(start)");
    assert_eq!(world.state("web.service"), "activating(waiting)");
    assert_eq!(world.status("web.service").waits_for, Some(id("app.service")));
    world.pass(10_000);
    assert_eq!(world.outcome(job), &JobOutcome::Done);
    assert_eq!(world.order(), "+db +app +web");
    assert_eq!(world.status("db.service").triggered_by, "dependency app.service");
    assert_eq!(world.status("web.service").triggered_by, "person");
}

#[test]
fn a_stop_takes_dependents_down_first_and_a_shutdown_goes_in_reverse() {
    let mut world = tame(WEB);
    world.start("web.service");
    world.pass(10_000);
    world.order();
    let job = world.stop("db.service");
    world.pass(10_000);
    assert_eq!((world.outcome(job).clone(), world.order().as_str()), (JobOutcome::Done, "-web -app -db"));
    assert_eq!(world.state("web.service"), "inactive(dead)");
    assert_eq!(world.status("web.service").result, RunResult::Dependency);
    assert_eq!(world.status("web.service").last_error.as_deref(), Some("it requires `db.service`, which was stopped"));
    assert_eq!(world.status("db.service").result, RunResult::Success);

    world.start("web.service");
    world.pass(10_000);
    world.order();
    world.shut_down();
    assert_eq!(world.order(), "-web -app -db");
    let late = world.start("db.service");
    assert!(text_of(world.outcome(late)).contains("loomd is stopping"));
}

#[test]
fn a_restart_takes_dependents_along_in_order() {
    let mut world = tame(WEB);
    world.start("web.service");
    world.pass(10_000);
    world.order();
    let job = world.restart("app.service");
    world.pass(10_000);
    assert_eq!(world.order(), "-web -app +app +web", "the database is left alone");
    assert_eq!(world.outcome(job), &JobOutcome::Done);
    assert_eq!((world.status("web.service").run, world.status("db.service").run), (RunId(2), RunId(1)));
    let job = world.restart("app.service");
    world.stop("app.service");
    assert_eq!(world.outcome(job), &JobOutcome::Replaced);
    world.pass(10_000);
    assert_eq!(world.state("web.service"), "inactive(dead)");
}

#[test]
#[rustfmt::skip]
fn jobs_of_one_unit_merge() {
    // Requests in one moment; then each job's end, the final state and what was done.
    let table: &[(&str, &str, &str, &str, &str, &str)] = &[
        ("two starts are one",                  "",      "start start",          "Done Done",              "active(running)", "+a"),
        ("a stop beats a start",                "",      "start stop",           "Replaced Done",          "inactive(dead)",  ""),
        ("a start after it counts again",       "",      "start stop start",     "Replaced Done Done",     "active(running)", "+a"),
        ("a stop of what is down is done",      "",      "stop",                 "Done",                   "inactive(dead)",  ""),
        ("a restart of what is down is a start", "",     "restart",              "Done",                   "active(running)", "+a"),
        ("a start of what is up is done",       "start", "start",                "Done",                   "active(running)", ""),
        ("two stops are one",                   "start", "stop stop",            "Done Done",              "inactive(dead)",  "-a"),
        ("a start during a stop is kept",       "start", "stop start",           "Done Done",              "active(running)", "-a +a"),
        ("a restart during a stop is too",      "start", "stop restart",         "Done Done",              "active(running)", "-a +a"),
        ("two restarts are one",                "start", "restart restart",      "Done Done",              "active(running)", "-a +a"),
        ("a start joins a restart",             "start", "restart start",        "Done Done",              "active(running)", "-a +a"),
        ("a stop beats a restart",              "start", "restart stop",         "Replaced Done",          "inactive(dead)",  "-a"),
        ("the last word counts",                "start", "stop start stop",      "Done Replaced Done",     "inactive(dead)",  "-a"),
    ];
    for (row, before, requests, outcomes, state, order) in table {
        let mut world = tame(&[("a.agent", &["ready notify"])]);
        if !before.is_empty() {
            world.start("a.agent");
            world.pass(10_000);
            world.order();
        }
        let verbs = requests.split(' ').map(|word| match word { "start" => Verb::Start, "stop" => Verb::Stop, _ => Verb::Restart });
        let jobs: Vec<_> = verbs.map(|verb| world.ask(verb, &id("a.agent"))).collect();
        world.pass(30_000);
        let ended: Vec<_> = jobs.iter().map(|job| format!("{:?}", world.outcome(*job))).collect();
        // What was spawned and ended behind its gate was never seen by anyone.
        let done = world.order().replace("+a +a", "+a");
        let done = if *state == "inactive(dead)" && before.is_empty() { String::new() } else { done };
        assert_eq!((ended.join(" ").as_str(), world.state("a.agent").as_str(), done.as_str()), (*outcomes, *state, *order), "{row}");
    }
}

#[test]
fn a_stop_is_right_at_every_point_of_the_spawn_protocol() {
    for moment in 0..200 {
        let mut world = World::new(vec![with("a.agent", &["ready notify"])], Odds::TAME, moment);
        world.start("a.agent");
        world.pass(moment / 4);
        let job = world.stop("a.agent");
        world.pass(10_000);
        assert_eq!((world.outcome(job), world.state("a.agent").as_str()), (&JobOutcome::Done, "inactive(dead)"));
        world.shut_down();
    }
}

#[test]
fn a_stop_beats_a_restart() {
    for round in 0..1_000 {
        let mut world = World::new(vec![with("a.agent", &["policy always", "delay 0"])], Odds::TAME, round);
        world.start("a.agent");
        world.pass(5_000);
        let (first, then) = (round % 2 == 0, round % 3);
        if first {
            world.kill(&id("a.agent"));
            world.pass(then);
        }
        world.stop("a.agent");
        if !first {
            world.kill(&id("a.agent"));
        }
        world.pass(3_600_000);
        assert_eq!(world.state("a.agent"), "inactive(dead)", "round {round}");
    }
}

#[test]
fn a_start_of_a_waiting_restart_starts_once_and_at_once() {
    for verb in [Verb::Start, Verb::Restart] {
        let mut world = tame(&[("a.agent", &["delay 60000"])]);
        world.start("a.agent");
        world.pass(1_000);
        world.kill(&id("a.agent"));
        world.pass(1_000);
        assert_eq!(world.state("a.agent"), "activating(auto-restart)");
        assert!(world.status("a.agent").next_start.unwrap() > world.now + Millis(58_000));
        let job = world.ask(verb, &id("a.agent"));
        world.pass(1_000);
        assert_eq!(world.outcome(job), &JobOutcome::Done);
        world.pass(3_600_000);
        assert_eq!((world.status("a.agent").run, world.status("a.agent").restarts), (RunId(2), 0));
    }
}

#[test]
fn a_stable_run_resets_the_back_off() {
    let mut world = tame(&[("a.agent", &["delay 1000"])]);
    world.start("a.agent");
    world.pass(1_000);
    let mut waits = vec![];
    for stable in [false, false, true] {
        world.pass(if stable { 11 * 60_000 } else { 30_000 });
        world.kill(&id("a.agent"));
        world.pass(60);
        let status = world.status("a.agent");
        assert_eq!(status.next_start_because, Some("back-off"));
        waits.push((status.next_start.unwrap() - world.now).0);
    }
    let about = |shortest: u64| (shortest - 100)..=(shortest * 5 / 4);
    assert!(about(1_000).contains(&waits[0]) && about(2_000).contains(&waits[1]), "{waits:?}");
    assert!(about(1_000).contains(&waits[2]), "after 11 minutes up it is d(1) again: {waits:?}");
}

#[test]
fn a_retry_after_survives_the_supervisor() {
    let mut world = tame(&[("a.agent", &[])]);
    world.start("a.agent");
    world.pass(1_000);
    let retry_after = Some(Millis(3_600_000));
    let notify = Notify { retry_after, ..Notify::default() };
    world.tell(Event::Notified { unit: id("a.agent"), run: RunId(1), notify });
    world.exit("a.agent", 75);
    world.pass(10_000);
    world.replace_loomd(5_000);
    let status = world.status("a.agent");
    assert_eq!((status.sub_state, status.next_start_because), ("auto-restart", Some("retry-after")));
    world.pass(3_600_000 - 40_000);
    assert_eq!(world.status("a.agent").run, RunId(1));
    world.pass(60_000);
    assert_eq!((world.state("a.agent").as_str(), world.status("a.agent").run), ("active(running)", RunId(2)));
    assert_eq!(world.fleet.units[&id("a.agent")].life.failures, 0, "no failure was counted");
}

#[test]
fn a_forged_record_is_never_signalled() {
    let mut world = tame(&[("a.agent", &["delay 5000"])]);
    world.start("a.agent");
    world.pass(1_000);
    let record = world.store[&id("a.agent")].clone();
    // What has its pid now is another's.
    let stored = BTreeMap::from([(id("a.agent"), (record, Found::Gone(Exit::Unknown)))]);
    let now = world.clock();
    let (mut fleet, effects) = Fleet::new(world.units.clone(), stored, "boot-0", now);
    let signals = |effects: &[Effect]| {
        effects.iter().filter(|it| matches!(it, Effect::Signal { .. } | Effect::SignalAll { .. })).count()
    };
    assert_eq!(signals(&effects), 0);
    let effects = fleet.handle(now, Event::TreeEmpty { unit: id("a.agent"), run: RunId(1) });
    assert_eq!(signals(&effects), 0);
    let status = fleet.status(&id("a.agent")).unwrap();
    assert_eq!((status.result, status.sub_state), (RunResult::Lost, "auto-restart"), "the policy applies once");
}

#[test]
fn a_waiting_unit_starts_when_its_dependency_recovers() {
    let mut world = tame(WEB);
    let job = world.start("web.service");
    for failure in 1..=2 {
        while world.state("db.service") != "activating(start)" || world.status("db.service").main_pid.is_none() {
            world.pass(10);
        }
        world.pass(25);
        world.kill(&id("db.service"));
        world.pass(60);
        assert_eq!(world.status("db.service").run, RunId(failure));
        assert_eq!(world.state("web.service"), "activating(waiting)");
    }
    world.pass(10_000);
    assert_eq!(world.outcome(job), &JobOutcome::Done);
    assert_eq!((world.status("db.service").restarts, world.status("web.service").run), (2, RunId(1)));
}

#[test]
fn an_automatic_restart_leaves_dependents_alone_and_a_final_failure_does_not() {
    let mut world = tame(WEB);
    world.start("web.service");
    world.pass(10_000);
    world.kill(&id("db.service"));
    world.pass(10_000);
    assert_eq!((world.status("db.service").run, world.status("web.service").run), (RunId(2), RunId(1)));

    let mut world = tame(&[("db.service", &["policy no"]), ("app.service", &["requires db.service"])]);
    world.start("app.service");
    world.pass(10_000);
    world.kill(&id("db.service"));
    world.pass(10_000);
    assert_eq!(
        (world.state("app.service"), world.status("app.service").result),
        ("failed(failed)".into(), RunResult::Dependency)
    );
    assert_eq!(world.status("app.service").last_error.as_deref(), Some("it requires `db.service`, which failed"));
}

#[test]
fn a_failed_start_names_what_failed_and_the_next_step() {
    let mut world = tame(&[("db.service", &["ready notify", "policy no"]), ("app.service", &["requires db.service"])]);
    let job = world.start("app.service");
    world.pass(20);
    world.pass(20);
    world.kill(&id("db.service"));
    world.pass(1_000);
    assert_eq!(
        text_of(world.outcome(job)),
        "unit `app.service` did not start: it requires `db.service`, which failed\n\
         `db.service`: it was ended by SIGKILL\n\
         see `loomctl logs db.service`; then `loomctl start db.service`"
    );
    assert_eq!(world.state("app.service"), "failed(failed)");

    let mut world = tame(&[("a.agent", &["ready notify", "delay 60000"]), ("b.agent", &["requires nothing.agent"])]);
    let job = world.start("a.agent");
    world.pass(40);
    world.kill(&id("a.agent"));
    world.pass(50);
    let text = text_of(world.outcome(job));
    assert!(text.starts_with("unit `a.agent` did not start: run 1 ended with the result `signal`"), "{text}");
    assert!(text.contains("it is tried again in 1min"), "{text}");
    let job = world.start("b.agent");
    let text = text_of(world.outcome(job));
    assert!(text.contains("it requires `nothing.agent`, which does not exist"), "{text}");
    let job = world.start("nothing.agent");
    assert_eq!(world.outcome(job), &JobOutcome::NoSuchUnit);
}

#[test]
fn what_is_only_wanted_may_fail_and_order_alone_starts_nothing() {
    let mut world = tame(&[
        ("helper.service", &["ready notify", "policy no"]),
        ("other.service", &[]),
        ("a.agent", &["wants helper.service", "after helper.service", "after other.service"]),
    ]);
    let job = world.start("a.agent");
    world.pass(40);
    assert_eq!(world.state("a.agent"), "activating(waiting)");
    world.kill(&id("helper.service"));
    world.pass(1_000);
    assert_eq!(world.outcome(job), &JobOutcome::Done);
    assert_eq!(
        (world.state("helper.service"), world.state("other.service")),
        ("failed(failed)".into(), "inactive(dead)".into())
    );
}

#[test]
fn before_orders_and_a_oneshot_is_done_when_it_exits() {
    let mut world = tame(&[
        ("setup.service", &["ready oneshot", "before a.agent"]),
        ("a.agent", &["requires setup.service"]),
        ("b.agent", &["wants setup.service"]),
    ]);
    let job = world.start("a.agent");
    world.pass(20_000);
    assert_eq!((world.outcome(job).clone(), world.order().as_str()), (JobOutcome::Done, "+setup +a"));
    assert_eq!(
        (world.state("setup.service"), world.status("setup.service").result),
        ("inactive(dead)".into(), RunResult::Success)
    );
}

#[test]
fn a_target_is_up_when_its_members_are_and_takes_down_what_it_pulled_in() {
    let mut world = tame(&[
        ("db.service", &["ready notify"]),
        ("chat.agent", &["ready notify", "requires db.service"]),
        ("mine.agent", &[]),
        ("shared.agent", &[]),
        ("a.target", &["wants chat.agent", "requires shared.agent", "wants mine.agent"]),
        ("b.target", &["wants shared.agent"]),
    ]);
    world.start("mine.agent");
    let b = world.start("b.target");
    let a = world.start("a.target");
    world.pass(30);
    assert_eq!(world.state("a.target"), "activating(waiting)");
    world.pass(10_000);
    assert_eq!((world.outcome(a), world.outcome(b)), (&JobOutcome::Done, &JobOutcome::Done));
    assert_eq!(world.state("a.target"), "active(active)");
    world.order();
    world.stop("a.target");
    world.pass(10_000);
    assert_eq!(world.order(), "-chat -db", "what a person or another target wants stays");
    assert_eq!(
        (world.state("a.target"), world.state("mine.agent")),
        ("inactive(dead)".into(), "active(running)".into())
    );
    world.stop("b.target");
    world.pass(10_000);
    assert_eq!(world.state("shared.agent"), "inactive(dead)");
}

#[test]
fn units_on_a_cycle_refuse_to_start_and_say_it() {
    let mut world = tame(&[
        ("a.agent", &["requires b.agent"]),
        ("b.agent", &["after c.agent"]),
        ("c.agent", &["after a.agent"]),
        ("d.agent", &["after a.agent"]),
        ("e.agent", &["requires a.agent"]),
        ("self.agent", &["after self.agent"]),
    ]);
    let job = world.start("b.agent");
    let text = text_of(world.outcome(job));
    assert!(text.contains("on a dependency cycle\nb.agent → c.agent → a.agent → b.agent\n"), "{text}");
    let job = world.start("self.agent");
    assert!(text_of(world.outcome(job)).contains("self.agent → self.agent"));
    let job = world.start("e.agent");
    let text = text_of(world.outcome(job));
    assert!(text.contains("it requires `a.agent`, which is on a dependency cycle"), "{text}");
    let job = world.start("d.agent");
    world.pass(1_000);
    assert_eq!(world.outcome(job), &JobOutcome::Done, "what is only ordered after a cycle runs");
}

#[test]
fn a_killed_supervisor_leaves_every_agent_running_once() {
    let names: Vec<String> = (0..10).map(|n| format!("a{n}.agent")).collect();
    let mut world = World::new(names.iter().map(|name| with(name, &["ready notify"])).collect(), Odds::TAME, 3);
    for name in &names {
        world.start(name);
    }
    world.pass(10_000);
    let before: Vec<_> = names.iter().map(|name| (world.status(name).run, world.status(name).main_pid)).collect();
    world.seen.clear();
    world.replace_loomd(5_000);
    world.pass(3_600_000);
    let after: Vec<_> = names.iter().map(|name| (world.status(name).run, world.status(name).main_pid)).collect();
    assert_eq!((after, world.seen.len()), (before, 0), "adopted, and nothing to do or to store");
    assert!(names.iter().all(|name| world.state(name) == "active(running)"));
}

#[test]
fn a_crash_at_any_step_of_a_spawn_leaves_one_process_in_the_end() {
    for effects in 0..12 {
        for seed in 0..20 {
            let mut world = World::new(WEB.iter().map(|(name, lines)| with(name, lines)).collect(), Odds::TAME, seed);
            world.crash_after = Some(effects);
            world.start("web.service");
            world.pass(60_000);
            // The request itself may have died with it, unstored; then nothing runs, or only a part that was stored.
            world.crash_after = None;
            let job = world.start("web.service");
            world.pass(60_000);
            assert_eq!(world.outcome(job), &JobOutcome::Done, "crash before effect {effects}, seed {seed}");
            world.shut_down();
        }
    }
}

#[test]
fn wanted_units_come_back_after_a_boot_and_stopped_ones_do_not() {
    let mut world = tame(WEB);
    world.start("web.service");
    world.pass(10_000);
    world.stop("web.service");
    world.pass(10_000);
    world.reboot(60_000);
    world.pass(10_000);
    assert_eq!(
        (world.state("app.service"), world.state("web.service")),
        ("active(running)".into(), "inactive(dead)".into())
    );
    assert_eq!(world.status("app.service").run, RunId(2));
    world.shut_down();
    world.replace_loomd(1_000);
    world.pass(10_000);
    assert_eq!(world.state("app.service"), "active(running)", "a shutdown of loomd is not a stop");
    assert_eq!(world.state("web.service"), "inactive(dead)");
}

#[test]
fn a_stop_of_a_target_member_survives_the_supervisor() {
    let mut world = tame(&[("a.agent", &[]), ("b.agent", &[]), ("all.target", &["wants a.agent", "wants b.agent"])]);
    world.start("all.target");
    world.pass(10_000);
    world.stop("a.agent");
    world.pass(10_000);
    world.replace_loomd(1_000);
    world.pass(10_000);
    let states = ["a.agent", "b.agent", "all.target"].map(|name| world.state(name));
    assert_eq!(states, ["inactive(dead)", "active(running)", "active(active)"]);
}

#[test]
fn a_reload_touches_no_running_process() {
    let mut world = tame(&[("a.agent", &[]), ("b.agent", &[])]);
    world.start("a.agent");
    world.start("b.agent");
    world.pass(1_000);
    world.seen.clear();
    let mut changed = with("a.agent", &[]);
    changed.exec.as_mut().unwrap().command.push("--new".into());
    changed.stop.timeout = Millis(5);
    let mut told = with("a.agent", &[]);
    told.description = "other words".into();
    let reload = |world: &mut World, units: Vec<Unit>| {
        world.tell(Event::Reloaded { units: units.into_iter().map(|unit| (unit.id.clone(), unit)).collect() });
    };
    reload(&mut world, vec![told.clone()]);
    assert_eq!(
        (world.status("a.agent").needs_restart, world.status("a.agent").description),
        (false, "other words".into())
    );
    reload(&mut world, vec![changed.clone()]);
    assert_eq!(world.seen, [], "nothing is done and nothing is stored");
    assert!(world.status("a.agent").needs_restart);
    assert_eq!(world.fleet.unit(&id("a.agent")).unwrap().exec, told.exec, "the live run keeps what it was given");
    assert_eq!(world.fleet.unit(&id("a.agent")).unwrap().stop.timeout, Millis(5), "how it is stopped counts at once");
    assert!(world.status("b.agent").not_found);
    let refused = world.restart("b.agent");
    assert_eq!(world.outcome(refused), &JobOutcome::NoSuchUnit);
    world.stop("b.agent");
    world.restart("a.agent");
    world.pass(10_000);
    assert_eq!(world.fleet.status(&id("b.agent")), None, "a unit without a file is gone once it is down");
    assert!(!world.status("a.agent").needs_restart);
    assert_eq!(world.fleet.unit(&id("a.agent")).unwrap().exec, changed.exec);
    reload(&mut world, vec![changed, with("b.agent", &[])]);
    world.start("b.agent");
    world.pass(1_000);
    assert_eq!(world.status("b.agent").run, RunId(2), "a unit that comes back goes on counting its runs");
}

#[test]
fn a_restart_without_delay_stores_once_before_the_spawn() {
    let mut world = tame(&[("a.agent", &["delay 0"])]);
    world.start("a.agent");
    world.pass(1_000);
    world.seen.clear();
    world.kill(&id("a.agent"));
    world.pass(100);
    let word = |effect: &Effect| match effect {
        Effect::Persist { record, .. } => Some(format!("{:?}", record.phase)),
        Effect::Spawn { .. } => Some("spawn".into()),
        Effect::OpenGate { .. } => Some("gate".into()),
        Effect::EndTree { .. } => Some("end".into()),
        _ => None,
    };
    let words: Vec<String> = world.seen.iter().filter_map(word).collect();
    assert_eq!(
        words.join(" "),
        "end Intended spawn Live gate Live",
        "one synced write before the spawn, one before the gate"
    );
}

#[test]
fn news_of_unknown_units_and_old_runs_changes_nothing() {
    let mut world = tame(&[("a.agent", &[])]);
    world.start("a.agent");
    world.pass(1_000);
    world.seen.clear();
    world.tell(Event::Exited { unit: id("a.agent"), run: RunId(0), exit: Exit::Code(1) });
    world.tell(Event::TreeEmpty { unit: id("a.agent"), run: RunId(1) });
    world.tell(Event::Spawned { unit: id("x.agent"), run: RunId(1), identity: identity(1), enforcement: vec![] });
    assert_eq!(world.seen, []);
}

/// Units of every sort, entangled.
fn zoo() -> Vec<Unit> {
    vec![
        with("llm.service", &["ready notify", "readiness /bin/ok", "reload /bin/reload"]),
        with("chat.agent", &["ready notify", "requires llm.service", "watchdog 600000"]),
        with("tidy.service", &["ready oneshot", "policy no"]),
        with("web.service", &["after chat.agent", "wants tidy.service", "requires tidy.service"]),
        with("loner.agent", &["policy always", "watchdog 300000"]),
        with("frail.agent", &["policy no", "before web.service"]),
        with("inner.target", &["wants chat.agent", "requires frail.agent"]),
        with("all.target", &["wants inner.target", "wants web.service", "wants loner.agent"]),
        with("ring.agent", &["requires rang.agent"]),
        with("rang.agent", &["after ring.agent"]),
        with("bound.agent", &["ready notify", "binds_to tidy.service", "until started tidy.service"]),
        with("near.agent", &["requisite chat.agent"]),
        with("part.service", &["part_of chat.agent", "policy always", "condition /x", "reload /bin/reload"]),
        with("keeper.service", &["upholds kept.service", "ready notify", "start_pre /bin/x", "post /bin/y"]),
        with(
            "kept.service",
            &[
                "policy no",
                "stop /bin/z",
                "limit_burst 2",
                "on_give_up alarm.service",
                "binds_to loner.agent",
                "unordered true",
            ],
        ),
        with("red.agent", &["conflicts blue.agent", "conflicts crew.target"]),
        with("blue.agent", &["ready notify", "start_pre /bin/x", "liveness /bin/ok", "policy always", "delay 60000"]),
        with("lead.agent", &["ready notify", "on_failure alarm.service"]),
        with("first.agent", &["policy always", "delay 3000"]),
        with("second.agent", &["ready notify", "requires llm.service", "until healthy llm.service"]),
        with("alarm.service", &["ready oneshot", "policy no", "on_failure lead.agent", "on_success last.service"]),
        with(
            "last.service",
            &["remains true", "until exited alarm.service", "until succeeded tidy.service", "job_timeout 600000"],
        ),
        with("crew.target", &["group rest-for-one lead.agent first.agent second.agent", "intensity 5"]),
        with("pair.target", &["group one-for-all blue.agent frail.agent", "significant frail.agent"]),
        with("org.target", &["group one-for-one crew.target pair.target", "wants keeper.service"]),
    ]
}

/// What people, chance and fate do.
#[derive(Debug, Clone)]
enum Deed {
    Ask(Verb, usize),
    Kill(usize),
    CrashAfter(usize),
    ReplaceLoomd(u64),
    Reboot(u64),
    Tick,
    Reload(usize),
    Overdo(usize),
}

fn other_verb() -> impl Strategy<Value = Verb> {
    prop_oneof![
        Just(Verb::StopNow),
        Just(Verb::Reload),
        Just(Verb::TryRestart),
        Just(Verb::VerifyActive),
        (prop_oneof![Just(9), Just(15)], any::<bool>())
            .prop_map(|(signal, all)| Verb::Kill { signal, whom: if all { Whom::All } else { Whom::Main } }),
        Just(Verb::ResetFailed),
        Just(Verb::Freeze),
        Just(Verb::Thaw),
    ]
}

fn any_deed() -> impl Strategy<Value = Deed> {
    let unit = 0..zoo().len();
    prop_oneof![
        4 => unit.clone().prop_map(|unit| Deed::Ask(Verb::Start, unit)),
        3 => unit.clone().prop_map(|unit| Deed::Ask(Verb::Stop, unit)),
        2 => unit.clone().prop_map(|unit| Deed::Ask(Verb::Restart, unit)),
        4 => unit.clone().prop_map(Deed::Kill),
        3 => (0usize..12).prop_map(Deed::CrashAfter),
        1 => (0u64..100_000).prop_map(Deed::ReplaceLoomd),
        1 => (0u64..100_000).prop_map(Deed::Reboot),
        1 => Just(Deed::Tick),
        4 => (other_verb(), unit.clone()).prop_map(|(verb, unit)| Deed::Ask(verb, unit)),
        1 => unit.clone().prop_map(Deed::Reload),
        1 => unit.prop_map(Deed::Overdo),
    ]
}

fn tell_story(world: &mut World, story: &[(u64, Deed)]) {
    let names: Vec<_> = zoo().into_iter().map(|unit| unit.id).collect();
    for (pause, deed) in story {
        world.pass(*pause);
        match deed {
            Deed::Ask(verb, unit) => {
                world.ask(*verb, &names[*unit]);
            }
            Deed::Kill(unit) => world.kill(&names[*unit]),
            Deed::CrashAfter(effects) => world.crash_after = Some(*effects),
            Deed::ReplaceLoomd(down_ms) => world.replace_loomd(*down_ms),
            Deed::Reboot(down_ms) => world.reboot(*down_ms),
            Deed::Tick => world.tell(Event::Tick),
            Deed::Reload(unit) => {
                let exec = world.units.get_mut(&names[*unit]).and_then(|unit| unit.exec.as_mut());
                if let Some(exec) = exec {
                    exec.command.push("--more".into());
                }
                let units = world.units.clone();
                world.tell(Event::Reloaded { units });
            }
            Deed::Overdo(unit) => {
                // A program that says everything at once.
                if let Some(status) = world.fleet.status(&names[*unit]) {
                    let extend_timeout = Some(Millis(1_000));
                    let notify =
                        Notify { ready: true, stopping: true, watchdog: true, extend_timeout, ..Notify::default() };
                    world.tell(Event::Notified { unit: status.unit, run: status.run, notify });
                }
            }
        }
    }
    world.come_to_an_end();
    world.shut_down();
}

proptest! {
    #[test]
    fn no_story_breaks_a_promise(
        seed in any::<u64>(),
        story in prop::collection::vec((prop_oneof![0u64..30, 0u64..3_000, 0u64..900_000], any_deed()), 0..40),
    ) {
        tell_story(&mut World::new(zoo(), Odds::WILD, seed), &story);
    }

    #[test]
    fn no_story_of_tame_processes_does_either(
        seed in any::<u64>(),
        story in prop::collection::vec((0u64..2_500, any_deed()), 0..60),
    ) {
        tell_story(&mut World::new(zoo(), Odds::TAME, seed), &story);
    }
}

#[test]
fn three_hundred_units_start_and_stop_in_order() {
    let chain = |n: u64| match n {
        0 => with("u0.agent", &[]),
        n => with(&format!("u{n}.agent"), &[&format!("requires u{}.agent", n - 1 - n % 7 % n)]),
    };
    let mut world = World::new((0..300).map(chain).collect(), Odds::TAME, 5);
    let jobs: Vec<_> = (0..300).map(|n| world.start(&format!("u{n}.agent"))).collect();
    world.pass(60_000);
    assert!(jobs.iter().all(|job| world.outcome(*job) == &JobOutcome::Done));
    world.shut_down();
}

#[test]
fn a_thousand_hours_pass_in_seconds() {
    let mut world = World::new(zoo(), Odds { life_ms: 4_800_000, ..Odds::WILD }, 42);
    for _ in 0..1_000 {
        world.start("all.target");
        world.start("org.target");
        world.pass(3_600_000);
        world.seen.clear();
        if world.draw(10) == 0 {
            world.replace_loomd(10_000);
        }
    }
    assert!(world.runs > 10_000, "only {} runs", world.runs);
    world.shut_down();
}
