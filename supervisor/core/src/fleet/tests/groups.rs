//! The strategies of groups.

use super::*;
use crate::unit::Group;

const MEMBERS: &[(&str, &[&str])] = &[("a.agent", &[]), ("b.agent", &[]), ("c.agent", &[])];

fn crew(strategy: &str, more: &[(&str, &[&str])]) -> World {
    let target = format!("group {strategy} a.agent b.agent c.agent");
    let mut units: Vec<_> = MEMBERS
        .iter()
        .filter(|(name, _)| more.iter().all(|(other, _)| other != name))
        .chain(more)
        .map(|(name, lines)| with(name, lines))
        .collect();
    if more.iter().all(|(name, _)| *name != "crew.target") {
        units.push(with("crew.target", &[&target]));
    }
    let mut world = World::new(units, Odds::TAME, 7);
    world.start("crew.target");
    world.pass(5_000);
    assert_eq!(world.order(), "+a +b +c", "in the order of `members`");
    world
}

fn runs(world: &World) -> [u64; 3] {
    ["a.agent", "b.agent", "c.agent"].map(|name| world.status(name).run.0)
}

#[test]
#[rustfmt::skip]
fn each_strategy_says_who_goes_down_and_up_with_a_failed_member() {
    type Row = (&'static str, &'static str, &'static str, [u64; 3], Option<&'static [&'static str]>);
    let table: &[Row] = &[
        ("one-for-one",  "b.agent", "+b",             [1, 2, 1], None),
        ("rest-for-one", "a.agent", "-c -b +a +b +c", [2, 2, 2], Some(&["c.agent", "b.agent"])),
        ("rest-for-one", "b.agent", "-c +b +c",       [1, 2, 2], Some(&["c.agent"])),
        ("rest-for-one", "c.agent", "+c",             [1, 1, 2], None),
        ("one-for-all",  "b.agent", "-c -a +a +b +c", [2, 2, 2], Some(&["c.agent", "a.agent"])),
        ("one-for-all",  "c.agent", "-b -a +a +b +c", [2, 2, 2], Some(&["b.agent", "a.agent"])),
    ];
    for (strategy, victim, order, after, leaving) in table {
        let mut world = crew(strategy, &[]);
        world.kill(&id(victim));
        world.pass(10_000);
        let told = world.seen.iter().position(|effect| matches!(effect, Effect::Leaving { .. }));
        let signalled = world.seen.iter().position(|effect| matches!(effect, Effect::Signal { .. }));
        match (leaving, told) {
            (None, None) => {}
            (Some(leaving), Some(told)) => {
                let Effect::Leaving { group, units } = &world.seen[told] else { unreachable!() };
                assert_eq!((group, units.iter().map(ToString::to_string).collect::<Vec<_>>()), (&id("crew.target"), leaving.iter().map(ToString::to_string).collect()));
                assert!(signalled.is_some_and(|signalled| told < signalled), "{strategy}: the bus is told first");
            }
            other => panic!("{strategy} of {victim}: {other:?}"),
        }
        assert_eq!((world.order().as_str(), runs(&world)), (*order, *after), "{strategy}: {victim} died");
        assert_eq!(world.state("crew.target"), "active(active)", "{strategy}");
        assert_eq!(world.status("crew.target").group_restarts, 1, "{strategy}");
    }
}

#[test]
fn a_members_own_policy_decides_whether_its_end_counts() {
    // With policy `no` a failure does not; with `always` a clean end does.
    let mut world = crew("one-for-all", &[("a.agent", &["policy no"]), ("b.agent", &["policy always"])]);
    world.kill(&id("a.agent"));
    world.pass(10_000);
    assert_eq!((world.order().as_str(), world.status("crew.target").group_restarts), ("", 0));
    world.exit("b.agent", 0);
    world.pass(10_000);
    assert_eq!(world.order(), "-c +b +c", "what had ended for good stays down");
    world.exit("c.agent", 0);
    world.pass(10_000);
    assert_eq!(world.order(), "", "on-failure: a clean end is none");
}

#[test]
fn a_member_that_a_person_stopped_stays_down() {
    let mut world = crew("one-for-all", &[]);
    world.stop("a.agent");
    world.pass(5_000);
    assert_eq!(world.order(), "-a", "a stop is no end of the group's");
    world.kill(&id("c.agent"));
    world.pass(10_000);
    assert_eq!((world.order().as_str(), world.state("a.agent").as_str()), ("-b +b +c", "inactive(dead)"));
}

#[test]
fn a_group_waits_for_its_back_off_and_a_persons_start_ends_the_wait() {
    let slow: &[(&str, &[&str])] = &[("b.agent", &["delay 20000"])];
    let mut world = crew("one-for-all", slow);
    world.kill(&id("b.agent"));
    world.pass(5_000);
    assert_eq!(world.order(), "-c -a");
    for name in ["a.agent", "b.agent", "c.agent"] {
        let status = world.status(name);
        assert_eq!((status.sub_state, status.next_start_because), ("auto-restart", Some("group")), "{name}");
        assert!(status.next_start.unwrap() >= world.now + Millis(14_000), "{name}");
    }
    let job = world.start("c.agent");
    world.pass(1_000);
    assert_eq!((world.outcome(job).clone(), world.order().as_str()), (JobOutcome::Done, "+a +b +c"));
}

#[test]
fn more_restarts_than_the_intensity_fail_the_group_in_reverse_order() {
    let mut world = crew(
        "one-for-one",
        &[
            ("watch.agent", &["ready oneshot"]),
            ("crew.target", &["group one-for-one a.agent b.agent c.agent", "on_give_up watch.agent"]),
        ],
    );
    for _ in 0..3 {
        world.kill(&id("b.agent"));
        world.pass(2_000);
        assert_eq!(world.order(), "+b");
    }
    world.kill(&id("b.agent"));
    world.pass(50);
    assert_eq!(world.status("watch.agent").triggered_by, "giving up of crew.target");
    world.pass(10_000);
    assert_eq!(world.order(), "-c +watch -a");
    assert_eq!(world.state("crew.target"), "failed(failed)");
    assert_eq!(
        world.status("crew.target").last_error.as_deref(),
        Some("more than group.intensity (3) restarts within group.period (1min); the last was of `b.agent`")
    );
    assert_eq!((world.state("b.agent"), world.state("a.agent")), ("failed(failed)".into(), "inactive(dead)".into()));
    // Spread over longer than the period they do no harm.
    let mut world = crew("one-for-one", &[]);
    for _ in 0..10 {
        world.kill(&id("b.agent"));
        world.pass(25_000);
    }
    assert_eq!(world.state("crew.target"), "active(active)");
}

#[test]
fn a_failure_of_a_group_goes_to_the_group_above_it() {
    let mut world = tame(&[
        ("a.agent", &["delay 10"]),
        ("b.agent", &[]),
        ("inner.target", &["group one-for-one a.agent b.agent", "intensity 1"]),
        ("peer.agent", &[]),
        ("outer.target", &["group one-for-all peer.agent inner.target", "intensity 1"]),
    ]);
    world.start("outer.target");
    world.pass(5_000);
    assert_eq!(world.order(), "+peer +a +b");
    for _ in 0..2 {
        world.kill(&id("a.agent"));
        world.pass(3_000);
    }
    world.pass(10_000);
    assert_eq!(world.order(), "+a -b -peer +peer +a +b", "the inner group failed, so the outer one started anew");
    let states = ["outer.target", "inner.target", "a.agent", "b.agent"].map(|name| world.state(name));
    assert_eq!(states, ["active(active)", "active(active)", "active(running)", "active(running)"]);
    for _ in 0..2 {
        world.kill(&id("a.agent"));
        world.pass(3_000);
    }
    world.pass(30_000);
    let states = ["outer.target", "inner.target", "a.agent", "peer.agent"].map(|name| world.state(name));
    assert_eq!(states, ["failed(failed)", "failed(failed)", "failed(failed)", "inactive(dead)"], "twice is too often");
}

#[test]
fn the_end_of_a_significant_member_ends_the_group() {
    for (code, state) in [(0, "inactive(dead)"), (78, "failed(failed)")] {
        let target = &["group one-for-one a.agent b.agent c.agent", "significant b.agent"];
        let mut world = crew("", &[("crew.target", target)]);
        world.exit("b.agent", code);
        world.pass(10_000);
        assert_eq!((world.order().as_str(), world.state("crew.target").as_str()), ("-c -a", state));
        let text = world.status("a.agent").last_error.unwrap();
        assert!(text.contains("its significant member `b.agent`"), "{text}");
    }
}

#[test]
fn a_groups_restarts_are_counted_across_loomds() {
    let mut world = crew("rest-for-one", &[]);
    for _ in 0..3 {
        world.kill(&id("c.agent"));
        world.pass(3_000);
    }
    world.replace_loomd(100);
    assert_eq!(world.status("crew.target").group_restarts, 3);
    world.kill(&id("c.agent"));
    world.pass(10_000);
    assert_eq!(world.state("crew.target"), "failed(failed)");
}

#[test]
fn a_group_restart_goes_on_after_any_crash_of_loomd() {
    for effects in 0..20 {
        let mut world = crew("one-for-all", &[]);
        world.crash_after = Some(effects);
        world.kill(&id("b.agent"));
        world.pass(60_000);
        assert_eq!(runs(&world).map(|run| run > 1), [true; 3], "crash before effect {effects}");
        assert!(["a.agent", "b.agent", "c.agent"].iter().all(|name| world.state(name) == "active(running)"));
    }
}

#[test]
fn a_group_without_members_that_it_names_is_none() {
    let mut unit = with("crew.target", &["group one-for-all ghost.agent"]);
    unit.group = Some(Group { significant: vec![id("ghost.agent")], ..unit.group.unwrap() });
    let mut world = World::new(vec![unit], Odds::TAME, 1);
    let job = world.start("crew.target");
    assert_eq!(world.outcome(job), &JobOutcome::Done);
}
