//! What is asked of units beside start, stop and restart.

use super::*;

const RELOADS: &[&str] = &["ready notify", "reload /bin/reload"];

#[test]
#[rustfmt::skip]
fn reloads_meet_other_jobs() {
    // The state before; requests in one moment; each job's end; `R`: a reload began, `+`: spawned, `-`: told to stop.
    let table: &[(&str, &str, &str, &str, &str)] = &[
        ("a reload of what is up",               "up", "reload",              "Done",               "R"),
        ("a second one follows the first",       "up", "reload reload",       "Done Done",          "R R"),
        ("and a third one joins the second",     "up", "reload reload reload","Done Done Done",     "R R"),
        ("a start beside a reload is done",      "up", "reload start",        "Done Done",          "R"),
        ("a stop replaces a reload",             "up", "reload stop",         "Replaced Done",      "R -"),
        ("a restart replaces a reload",          "up", "reload restart",      "Replaced Done",      "R - +"),
        ("a reload joins a restart",             "up", "restart reload",      "Done Done",          "- +"),
        ("a reload during a stop fails",         "up", "stop reload",         "Done Failed",        "-"),
        ("a reload of what is down fails",       "",   "reload",              "Failed",             ""),
        ("a reload waits for a start",           "",   "start reload",        "Done Done",          "+ R"),
        ("try-restart of what is up",            "up", "try-restart",         "Done",               "- +"),
        ("try-restart of what is down",          "",   "try-restart",         "Done",               ""),
        ("try-restart of what is being stopped", "up", "stop try-restart",    "Done Done",          "-"),
        ("verify-active answers at once",        "up", "verify-active stop",  "Done Done",          "-"),
        ("verify-active of what is starting",    "",   "start verify-active", "Done Failed",        "+"),
    ];
    for (row, before, requests, outcomes, order) in table {
        let mut world = tame(&[("a.agent", RELOADS)]);
        if *before == "up" {
            world.start("a.agent");
            world.pass(10_000);
        }
        world.seen.clear();
        let verbs = requests.split(' ').map(|word| match word {
            "start" => Verb::Start, "stop" => Verb::Stop, "restart" => Verb::Restart, "reload" => Verb::Reload,
            "try-restart" => Verb::TryRestart, "verify-active" => Verb::VerifyActive, _ => panic!("{word}"),
        });
        let jobs: Vec<_> = verbs.map(|verb| world.ask(verb, &id("a.agent"))).collect();
        world.pass(30_000);
        let word = |job: &JobId| match world.outcome(*job) {
            JobOutcome::Failed { .. } => "Failed".to_owned(),
            other => format!("{other:?}"),
        };
        let ended: Vec<_> = jobs.iter().map(word).collect();
        let done: Vec<_> = world.seen.iter().filter_map(|effect| match effect {
            Effect::Spawn { .. } => Some("+"),
            Effect::Signal { .. } => Some("-"),
            Effect::Run { control: Control::Reload, .. } => Some("R"),
            _ => None,
        }).collect();
        assert_eq!((ended.join(" ").as_str(), done.join(" ").as_str()), (*outcomes, *order), "{row}");
    }
}

#[test]
fn a_failed_reload_fails_the_job_and_leaves_the_unit_up() {
    let odds = Odds { helper_fails: 100, ..Odds::TAME };
    let mut world = World::new(vec![with("a.agent", RELOADS), with("b.agent", &[])], odds, 2);
    world.start("a.agent");
    world.start("b.agent");
    world.pass(10_000);
    let late = world.ask(Verb::Reload, &id("a.agent"));
    let refused = world.ask(Verb::Reload, &id("b.agent"));
    assert_eq!(
        text_of(world.outcome(refused)),
        "unit `b.agent` has no way to reload\n\
         write `exec.reload`, or `ready.type = \"notify-reload\"`; or `loomctl restart` it"
    );
    assert_eq!(world.state("a.agent"), "reloading(reload)");
    assert_eq!(world.status("a.agent").job.map(|(word, _)| word), Some("reload"));
    world.pass(600_000);
    let text = text_of(world.outcome(late));
    assert!(text.starts_with("unit `a.agent` did not reload; it runs on\n"), "{text}");
    assert_eq!((world.state("a.agent").as_str(), world.status("a.agent").run), ("active(running)", RunId(1)));
}

#[test]
fn a_reload_ends_with_its_run() {
    let mut world = tame(&[("a.agent", RELOADS)]);
    world.start("a.agent");
    world.pass(10_000);
    let job = world.ask(Verb::Reload, &id("a.agent"));
    world.kill(&id("a.agent"));
    world.pass(10_000);
    let text = text_of(world.outcome(job));
    assert!(text.contains("did not reload"), "{text}");
    assert_eq!(world.status("a.agent").run, RunId(2));
}

#[test]
fn a_stop_at_once_kills_what_ignores_everything_else() {
    let odds = Odds { deaf: 100, ..Odds::TAME };
    for first in [false, true] {
        let mut world = World::new(vec![with("a.agent", &[])], odds, 2);
        world.start("a.agent");
        world.pass(1_000);
        let patient = first.then(|| world.stop("a.agent"));
        world.pass(100);
        let job = world.ask(Verb::StopNow, &id("a.agent"));
        world.pass(200);
        assert_eq!((world.outcome(job), world.state("a.agent").as_str()), (&JobOutcome::Done, "inactive(dead)"));
        assert!(patient.is_none_or(|job| world.outcome(job) == &JobOutcome::Done), "the first stop is done with it");
    }
}

#[test]
fn a_signal_goes_to_whom_it_is_meant_for_and_waits_for_nothing() {
    let mut world = tame(&[("a.agent", &[])]);
    let job = world.ask(Verb::Kill { signal: 10, whom: Whom::Main }, &id("a.agent"));
    assert!(text_of(world.outcome(job)).starts_with("unit `a.agent` got no signal: it has no process"));
    world.start("a.agent");
    world.pass(1_000);
    world.seen.clear();
    let main = world.ask(Verb::Kill { signal: 10, whom: Whom::Main }, &id("a.agent"));
    let all = world.ask(Verb::Kill { signal: 12, whom: Whom::All }, &id("a.agent"));
    assert_eq!((world.outcome(main), world.outcome(all)), (&JobOutcome::Done, &JobOutcome::Done));
    let (unit, run) = (id("a.agent"), RunId(1));
    assert!(world.seen.contains(&Effect::Signal { unit: unit.clone(), run, signal: 10 }));
    assert!(world.seen.contains(&Effect::SignalAll { unit, run, signal: 12 }));
}

#[test]
fn reset_failed_forgets() {
    let mut world = tame(&[("a.agent", &["policy no"])]);
    world.start("a.agent");
    world.pass(1_000);
    world.kill(&id("a.agent"));
    world.pass(1_000);
    assert_eq!(world.state("a.agent"), "failed(failed)");
    let job = world.ask(Verb::ResetFailed, &id("a.agent"));
    assert_eq!((world.outcome(job), world.state("a.agent").as_str()), (&JobOutcome::Done, "inactive(dead)"));
    world.replace_loomd(10);
    assert_eq!(world.state("a.agent"), "inactive(dead)");
}

#[test]
fn a_frozen_units_clocks_stand_still_and_a_stop_thaws_it_first() {
    let lines: &[&str] = &["ready notify", "watchdog 10000"];
    let mut world = tame(&[("a.agent", lines)]);
    let refused = world.ask(Verb::Freeze, &id("a.agent"));
    assert!(text_of(world.outcome(refused)).contains("it is inactive (dead); only what is active can be frozen"));
    world.start("a.agent");
    world.pass(10_000);
    let job = world.ask(Verb::Freeze, &id("a.agent"));
    world.pass(100);
    assert_eq!((world.outcome(job), world.status("a.agent").frozen), (&JobOutcome::Done, true));
    assert_eq!(world.fleet.next_wake(), None);
    world.pass(3_600_000);
    world.replace_loomd(1_000);
    world.pass(3_600_000);
    assert_eq!((world.state("a.agent").as_str(), world.status("a.agent").frozen), ("active(running)", true));
    let job = world.ask(Verb::Thaw, &id("a.agent"));
    world.pass(100);
    assert_eq!((world.outcome(job), world.status("a.agent").frozen), (&JobOutcome::Done, false));
    world.pass(100_000);
    assert_eq!(world.status("a.agent").run, RunId(1), "its watchdog is beaten again, and had not run out");

    world.ask(Verb::Freeze, &id("a.agent"));
    world.pass(100);
    world.seen.clear();
    let job = world.stop("a.agent");
    world.pass(10_000);
    assert_eq!((world.outcome(job), world.state("a.agent").as_str()), (&JobOutcome::Done, "inactive(dead)"));
    let thawed = world.seen.iter().position(|effect| matches!(effect, Effect::Freeze { frozen: false, .. }));
    let told = world.seen.iter().position(|effect| matches!(effect, Effect::Signal { .. }));
    assert!(thawed < told && thawed.is_some(), "{:?}", world.seen);
}

#[test]
fn a_reload_of_files_says_what_it_changes_and_what_an_apply_restarts() {
    let mut world = tame(&[
        ("db.service", &[]),
        ("app.service", &["after db.service", "part_of db.service"]),
        ("web.service", &["after app.service"]),
        ("old.service", &[]),
        ("idle.service", &[]),
    ]);
    for name in ["db.service", "app.service", "web.service", "old.service"] {
        world.start(name);
    }
    world.pass(1_000);
    let mut units = world.units.clone();
    units.remove(&id("old.service"));
    units.insert(id("new.service"), with("new.service", &[]));
    units.get_mut(&id("db.service")).unwrap().exec.as_mut().unwrap().command.push("--more".into());
    units.get_mut(&id("idle.service")).unwrap().ready.kind = ReadyKind::Notify;
    units.get_mut(&id("web.service")).unwrap().description = "other words".into();
    let changes = world.fleet.changes(&units);
    assert_eq!(
        changes,
        Changes {
            added: vec![id("new.service")],
            removed: vec![id("old.service")],
            changed: vec![
                (id("db.service"), vec!["exec.command[1]".into()]),
                (id("idle.service"), vec!["ready.type".into()]),
                (id("web.service"), vec!["unit.description".into()]),
            ],
            restarts: vec![id("db.service"), id("app.service")],
        }
    );
    world.tell(Event::Reloaded { units });
    assert_eq!(world.status("db.service").changed_keys, ["exec.command[1]"]);
    assert_eq!(world.fleet.to_apply(), changes.restarts);
    for unit in world.fleet.to_apply() {
        world.ask(Verb::Restart, &unit);
    }
    world.pass(10_000);
    assert_eq!((world.fleet.to_apply(), world.status("db.service").needs_restart), (vec![], false));
    assert_eq!((world.status("app.service").run, world.status("web.service").run), (RunId(2), RunId(1)));
}

#[test]
fn status_says_how_long_a_start_took_and_since_when_a_job_waits() {
    let mut world = tame(&[("db.service", &["ready notify"]), ("app.service", &["requires db.service"])]);
    world.start("app.service");
    assert_eq!(world.status("app.service").job, Some(("start", Millis(1_000))));
    world.pass(10_000);
    let (db, app) = (world.status("db.service"), world.status("app.service"));
    assert!(db.began_at == Some(Millis(1_000)) && db.up_at > db.began_at, "{:?} {:?}", db.began_at, db.up_at);
    assert!(app.began_at >= db.up_at, "it waited for the other");
    assert_eq!(app.job, None);
}
