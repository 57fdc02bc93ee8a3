//! What each dependency means, one sentence each.

use super::*;

#[test]
fn requisite_fails_at_once_where_the_other_is_not_up_and_starts_nothing() {
    let mut world = tame(&[("db.service", &["ready notify"]), ("app.service", &["requisite db.service"])]);
    let job = world.start("app.service");
    assert_eq!(
        text_of(world.outcome(job)),
        "unit `app.service` did not start: it starts only where it finds `db.service`, which is not up\n\
         see `loomctl logs db.service`; then `loomctl start db.service`"
    );
    assert_eq!(world.state("db.service"), "inactive(dead)");
    world.start("db.service");
    let job = world.start("app.service");
    assert_eq!(world.state("app.service"), "activating(waiting)", "one that is on its way is waited for");
    world.pass(10_000);
    assert_eq!((world.outcome(job).clone(), world.order().as_str()), (JobOutcome::Done, "+db +app"));
    world.stop("db.service");
    world.pass(10_000);
    assert_eq!((world.order().as_str(), world.state("app.service").as_str()), ("-app -db", "inactive(dead)"));
}

#[test]
fn a_bound_unit_ends_also_with_a_clean_end_and_a_requiring_one_does_not() {
    for (tie, state) in [("binds_to db.service", "inactive(dead)"), ("requires db.service", "active(running)")] {
        let mut world =
            tame(&[("db.service", &[]), ("app.service", &[tie]), ("web.service", &["part_of app.service"])]);
        world.start("app.service");
        world.start("web.service");
        world.pass(1_000);
        world.exit("db.service", 0);
        world.pass(10_000);
        assert_eq!(world.state("db.service"), "inactive(dead)");
        assert_eq!(
            (world.state("app.service").as_str(), world.state("web.service").as_str()),
            (state, state),
            "{tie}, and what is part of it"
        );
    }
    // An automatic restart leaves even bound units alone.
    let mut world = tame(&[("db.service", &["delay 5000"]), ("app.service", &["binds_to db.service"])]);
    world.start("app.service");
    world.pass(1_000);
    world.kill(&id("db.service"));
    world.pass(20_000);
    assert_eq!((world.status("db.service").run, world.status("app.service").run), (RunId(2), RunId(1)));
}

#[test]
fn a_bound_unit_ends_although_loomd_died_in_between() {
    for effects in 0..8 {
        let mut world = tame(&[("db.service", &[]), ("app.service", &["binds_to db.service"])]);
        world.start("app.service");
        world.pass(1_000);
        world.crash_after = Some(effects);
        world.exit("db.service", 0);
        world.pass(10_000);
        // An end that nobody saw is a failure, and the policy starts it again.
        let states = (world.state("db.service"), world.state("app.service"));
        let both = |state: &str| (state.to_owned(), state.to_owned());
        assert!(
            states == both("inactive(dead)") || states == both("active(running)"),
            "crash before effect {effects}: {states:?}"
        );
    }
}

#[test]
fn a_part_is_stopped_and_restarted_with_its_whole_but_does_not_fail_with_it() {
    let mut world = tame(&[
        ("whole.service", &["policy no"]),
        ("part.service", &["part_of whole.service", "after whole.service"]),
        ("idle.service", &["part_of whole.service"]),
    ]);
    world.start("whole.service");
    world.start("part.service");
    world.pass(1_000);
    world.order();
    world.restart("whole.service");
    world.pass(10_000);
    assert_eq!(world.order(), "-part -whole +whole +part", "what is down stays down");
    world.kill(&id("whole.service"));
    world.pass(10_000);
    assert_eq!(
        (world.state("whole.service"), world.state("part.service")),
        ("failed(failed)".into(), "active(running)".into())
    );
    world.start("whole.service");
    world.pass(1_000);
    world.stop("whole.service");
    world.pass(10_000);
    assert_eq!(world.state("part.service"), "inactive(dead)");
    assert_eq!(
        world.status("part.service").last_error.as_deref(),
        Some("it is part of `whole.service`, which was stopped")
    );
}

#[test]
fn an_upheld_unit_comes_up_whenever_it_is_down_and_ever_later_if_it_fails() {
    let mut world =
        tame(&[("keeper.service", &["upholds kept.service"]), ("kept.service", &["policy no", "delay 1000"])]);
    world.start("keeper.service");
    world.pass(1_000);
    assert_eq!(world.state("kept.service"), "active(running)", "started along");
    let mut waits = vec![];
    for _ in 0..4 {
        world.kill(&id("kept.service"));
        world.pass(100);
        let status = world.status("kept.service");
        assert_eq!((status.active_state, status.next_start_because), (ActiveState::Failed, Some("upheld")));
        waits.push((status.next_start.unwrap() - world.now).0 / 900);
        world.pass(30_000);
        assert_eq!(world.status("kept.service").triggered_by, "upheld by keeper.service");
    }
    assert!(waits.is_sorted() && waits[0] >= 1 && waits[3] >= 8, "1 s, doubled each time: {waits:?}");
    // As in systemd, a person's stop does not end it; a stop of the upholder does.
    let stopped = world.stop("kept.service");
    world.pass(60_000);
    assert_eq!((world.outcome(stopped), world.state("kept.service").as_str()), (&JobOutcome::Done, "active(running)"));
    world.stop("keeper.service");
    world.stop("kept.service");
    world.pass(3_600_000);
    assert_eq!(world.state("kept.service"), "inactive(dead)");
    assert_eq!(world.fleet.next_wake(), None, "nobody waits for anything");
}

#[test]
fn a_start_stops_what_it_conflicts_with_first_and_never_runs_beside_it() {
    let mut world = tame(&[
        ("red.agent", &["conflicts blue.agent"]),
        ("blue.agent", &["ready notify"]),
        ("friend.agent", &["requires blue.agent"]),
        ("both.target", &["requires red.agent", "requires blue.agent"]),
        ("either.target", &["wants red.agent", "wants blue.agent"]),
    ]);
    world.start("friend.agent");
    world.pass(10_000);
    world.order();
    let job = world.start("red.agent");
    assert_eq!(world.state("red.agent"), "activating(waiting)");
    let status = world.status("red.agent");
    assert_eq!((status.waits_for, status.waits_until.map(Awaited::word)), (Some(id("blue.agent")), Some("stopped")));
    world.pass(10_000);
    assert_eq!((world.outcome(job).clone(), world.order().as_str()), (JobOutcome::Done, "-friend -blue +red"));
    world.start("blue.agent");
    world.pass(10_000);
    assert_eq!(world.order(), "-red +blue", "it goes both ways, wherever it is written");
    assert_eq!(
        world.status("red.agent").last_error.as_deref(),
        Some("it conflicts with `blue.agent`, which was started")
    );

    let job = world.start("both.target");
    let text = text_of(world.outcome(job));
    assert!(text.contains("its start needs `blue.agent` and `red.agent`, which conflict"), "{text}");
    let job = world.start("either.target");
    world.pass(10_000);
    assert_eq!(world.outcome(job), &JobOutcome::Done);
    assert_eq!(world.state("blue.agent"), "active(running)", "of two that are only wanted, the one that is up stays");
    assert!(
        world.seen.iter().any(|effect| matches!(effect, Effect::Withheld { unit, .. } if *unit == id("red.agent")))
    );
}

#[test]
#[rustfmt::skip]
fn an_entry_of_after_says_how_far_the_other_must_come() {
    // What the other unit is; until when it is waited for; its steps, and after which of them `b` starts.
    let table: &[(&str, &[&str], &str, &str)] = &[
        ("its program runs",            &["ready notify"],                       "started",   "executed"),
        ("it is ready",                 &["ready notify"],                       "ready",     "ready"),
        ("a oneshot is ready when done",&["ready oneshot"],                      "ready",     "exited"),
        ("its probes pass",             &["ready notify", "readiness /bin/ok"],  "healthy",   "healthy"),
        ("without probes, it is ready", &["ready notify"],                       "healthy",   "ready"),
        ("its run has ended",           &["policy no"],                          "exited",    "killed"),
        ("it did what it is for",       &["ready oneshot"],                      "succeeded", "exited"),
        ("it ended, and remains up",    &["ready oneshot", "remains true"],      "succeeded", "exited"),
    ];
    for (row, lines, until, step) in table {
        let mut world = World::new(vec![with("a.service", lines), with("b.service", &[&format!("until {until} a.service")])], Odds::TAME, 9);
        world.start("a.service");
        let job = world.start("b.service");
        assert_eq!(world.state("b.service"), "activating(waiting)", "{row}");
        assert_eq!(world.status("b.service").waits_until.map(Awaited::word), Some(*until), "{row}");
        if *step == "killed" {
            world.pass(60_000);
            assert_eq!(world.state("b.service"), "activating(waiting)", "{row}: still");
            world.kill(&id("a.service"));
        }
        world.pass(10_000);
        assert_eq!(world.outcome(job), &JobOutcome::Done, "{row}");
        let words: Vec<_> = world.seen.iter().filter_map(|effect| match effect {
            Effect::Spawn { unit, .. } if *unit == id("b.service") => Some("b"),
            Effect::Say { said: Said::Healthy { healthy: true }, .. } => Some("healthy"),
            Effect::Changed { unit, to: ActiveState::Active, .. } if *unit == id("a.service") => Some("ready"),
            Effect::EndTree { unit, .. } if *unit == id("a.service") => Some(if *step == "killed" { "killed" } else { "exited" }),
            Effect::OpenGate { unit, .. } if *unit == id("a.service") => Some("executed"),
            _ => None,
        }).collect();
        let at = words.iter().position(|word| *word == "b").unwrap();
        assert!(words[..at].contains(step), "{row}: {words:?}");
        let too_late = ["executed", "ready", "healthy"].iter().skip_while(|word| *word != step).skip(1).any(|word| words[..at].contains(word));
        assert!(!too_late, "{row}: {words:?}");
    }
}

#[test]
fn only_what_starts_too_is_waited_for() {
    for until in ["started", "ready", "healthy", "exited", "succeeded"] {
        let mut world = tame(&[("a.service", &[]), ("b.service", &[&format!("until {until} a.service")])]);
        let job = world.start("b.service");
        world.pass(100);
        assert_eq!(world.outcome(job), &JobOutcome::Done, "{until}");
    }
}

#[test]
fn a_start_that_waits_for_a_success_fails_with_a_failure() {
    let mut world =
        tame(&[("a.service", &["ready oneshot", "policy no"]), ("b.service", &["until succeeded a.service"])]);
    world.start("a.service");
    let job = world.start("b.service");
    world.pass(40);
    world.kill(&id("a.service"));
    world.pass(1_000);
    assert!(
        text_of(world.outcome(job)).starts_with(
            "unit `b.service` did not start: it starts only after the success of `a.service`, which failed"
        ),
        "{:?}",
        world.outcome(job)
    );
}

#[test]
fn unordered_units_start_at_once_and_still_end_together() {
    let mut world = tame(&[
        ("db.service", &["ready notify", "policy no"]),
        ("app.service", &["requires db.service", "unordered true"]),
    ]);
    world.start("app.service");
    world.pass(50);
    assert_eq!(
        (world.state("db.service"), world.state("app.service")),
        ("activating(start)".into(), "active(running)".into())
    );
    world.kill(&id("db.service"));
    world.pass(10_000);
    assert_eq!(world.state("app.service"), "failed(failed)");
}

#[test]
fn a_start_that_waits_too_long_fails_with_what_it_waited_for() {
    let mut world = tame(&[
        ("db.service", &["ready notify", "delay 600000"]),
        ("app.service", &["requires db.service", "job_timeout 5000"]),
        ("all.target", &["requires app.service"]),
    ]);
    let job = world.start("app.service");
    world.pass(50);
    world.kill(&id("db.service"));
    world.pass(50);
    let wake = world.fleet.next_wake().unwrap();
    assert_eq!(wake, Millis(6_000), "asked for at 1 s");
    world.pass(10_000);
    assert_eq!(
        text_of(world.outcome(job)),
        "unit `app.service` did not start: it waited until `db.service` is ready, longer than unit.job_timeout (5s)\n\
         it was ended by SIGKILL\n\
         see `loomctl status db.service`; then `loomctl start app.service`"
    );
    assert_eq!(world.state("app.service"), "failed(failed)");
    assert_eq!(world.state("db.service"), "activating(auto-restart)", "its own next try is not touched");
}

#[test]
fn a_unit_that_was_skipped_is_no_failure_for_those_that_require_it() {
    let odds = Odds { unmet: 100, ..Odds::TAME };
    for (tie, state) in [("requires db.service", "active(running)"), ("binds_to db.service", "failed(failed)")] {
        let units = vec![with("db.service", &["condition /nowhere"]), with("app.service", &[tie])];
        let mut world = World::new(units, odds, 4);
        let skipped = world.start("db.service");
        world.start("app.service");
        world.pass(10_000);
        assert_eq!(world.outcome(skipped), &JobOutcome::Done);
        assert_eq!(world.status("db.service").result, RunResult::Condition);
        assert_eq!(world.state("app.service"), state, "{tie}");
    }
}

#[test]
fn handlers_start_with_what_they_follow_from_and_never_in_circles() {
    let mut world = tame(&[
        ("a.service", &["policy no", "on_failure b.service", "on_success c.service"]),
        ("b.service", &["policy no", "on_failure a.service"]),
        ("c.service", &[]),
        ("d.service", &["delay 0", "limit_burst 2", "on_give_up c.service"]),
    ]);
    world.start("a.service");
    world.pass(100);
    world.kill(&id("a.service"));
    world.pass(100);
    assert_eq!(world.status("b.service").triggered_by, "failure of a.service");
    assert_eq!(world.state("c.service"), "inactive(dead)");
    world.kill(&id("b.service"));
    world.pass(10_000);
    assert_eq!(world.state("a.service"), "failed(failed)");
    let why = world.seen.iter().find_map(|effect| match effect {
        Effect::Withheld { because, .. } => Some(because.as_str()),
        _ => None,
    });
    assert_eq!(why, Some("`on_failure` of `b.service` would go round in circles: a.service → b.service → a.service"));
    // What a person starts follows from nothing.
    world.start("b.service");
    world.pass(100);
    world.kill(&id("b.service"));
    world.pass(100);
    assert_eq!(world.status("a.service").triggered_by, "failure of b.service");
    world.exit("a.service", 0);
    world.pass(100);
    assert_eq!(world.status("c.service").triggered_by, "success of a.service");
    world.stop("c.service");
    world.pass(10_000);
    world.start("d.service");
    for _ in 0..3 {
        assert_eq!(world.state("c.service"), "inactive(dead)");
        world.pass(500);
        world.kill(&id("d.service"));
    }
    world.pass(500);
    assert_eq!(world.status("d.service").result, RunResult::StartLimitHit);
    assert_eq!(world.status("c.service").triggered_by, "giving up of d.service");
}

#[test]
fn a_restart_of_a_unit_that_still_waits_makes_no_second_process() {
    let mut world = tame(WEB);
    let first = world.start("web.service");
    world.pass(20);
    let second = world.restart("web.service");
    assert_eq!(world.state("web.service"), "activating(waiting)");
    world.pass(10_000);
    assert_eq!((world.outcome(first), world.outcome(second)), (&JobOutcome::Done, &JobOutcome::Done));
    assert_eq!((world.order().as_str(), world.status("web.service").run), ("+db +app +web", RunId(1)));
}
