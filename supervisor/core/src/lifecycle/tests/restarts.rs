//! What follows an end: the restart table, back-off, waits that were asked for, limits, poison.

use super::play::*;
use super::*;
use crate::unit::LimitMode;
use Effect::{Failed, GaveUp, Report, Say, SetAside, Succeeded};

fn code(code: u8) -> Exit {
    Exit::Code(code)
}

#[test]
#[rustfmt::skip]
fn the_restart_table_of_part_four_holds_row_by_row() {
    use RestartPolicy::*;
    let policies = [No, OnSuccess, OnFailure, OnAbnormal, OnWatchdog, OnAbort, Always];
    let signal = |signal, core| Some(Exit::Signal { signal, core });
    // The columns are: no, on-success, on-failure, on-abnormal, on-watchdog, on-abort, always.
    let rows = [
        ("clean: 0",                    Success,                  Some(code(0)),       ". x . . . . x"),
        ("clean: HUP",                  Success,                  signal(1, false),    ". x . . . . x"),
        ("clean: INT",                  Success,                  signal(2, false),    ". x . . . . x"),
        ("clean: TERM",                 Success,                  signal(15, false),   ". x . . . . x"),
        ("clean: PIPE",                 Success,                  signal(13, false),   ". x . . . . x"),
        ("clean: success_exit_status",  Success,                  Some(code(3)),       ". x . . . . x"),
        ("unclean code",                ExitCode,                 Some(code(1)),       ". . x . . . x"),
        ("unclean signal",              RunResult::Signal,        signal(9, false),    ". . x x . x x"),
        ("core-dump",                   CoreDump,                 signal(11, true),    ". . x x . x x"),
        ("oom-kill",                    RunResult::OomKill,       signal(9, false),    ". . x x . x x"),
        ("timeout",                     Timeout,                  signal(9, false),    ". . x x . . x"),
        ("watchdog",                    RunResult::Watchdog,      signal(6, true),     ". . x x x . x"),
        ("progress",                    RunResult::Progress,      signal(6, true),     ". . x x x . x"),
        ("liveness",                    RunResult::Liveness,      signal(15, false),   ". . x x x . x"),
        ("lost",                        Lost,                     Some(Exit::Unknown), ". . x x . . x"),
        ("resources",                   Resources,                None,                ". . x . . . x"),
        ("protocol",                    Protocol,                 Some(code(0)),       ". . x . . . x"),
        ("sandbox",                     Sandbox,                  None,                ". . . . . . ."),
        ("condition",                   RunResult::Condition,     None,                ". . . . . . ."),
        ("dependency",                  Dependency,               None,                ". . . . . . ."),
        ("start-limit-hit",             RunResult::StartLimitHit, Some(code(1)),       ". . . . . . ."),
        ("budget-exhausted",            RunResult::BudgetExhausted, Some(code(0)),     ". . . . . . ."),
        ("prevent_exit_status",         ExitCode,                 Some(code(78)),      ". . . . . . ."),
        ("force_exit_status",           ExitCode,                 Some(code(7)),       "x x x x x x x"),
        ("prevent beats force",         ExitCode,                 Some(code(8)),       ". . . . . . ."),
        ("no force cures a sandbox",    Sandbox,                  Some(code(7)),       ". . . . . . ."),
    ];
    for (row, result, exit, marks) in rows {
        for (policy, mark) in policies.into_iter().zip(marks.split(' ')) {
            let restart = Restart {
                policy,
                success_exit_status: vec![3],
                force_exit_status: vec![7, 8],
                prevent_exit_status: vec![78, 8],
                ..Restart::default()
            };
            assert_eq!(super::super::restarts(&restart, result, exit), mark == "x", "{row} under {policy:?}");
        }
    }
}

#[test]
fn on_failure_on_success_and_on_give_up_run_when_the_chapter_says() {
    let always = |unit: &mut Unit| unit.restart.policy = RestartPolicy::Always;
    assert_eq!(Play::up(|_| {}).dies(CODE_1), [END, Failed], "every failed run, also one that is followed by another");
    assert_eq!(Play::up(|_| {}).dies(code(0)), [END, Succeeded], "a clean end without restart");
    assert_eq!(Play::up(always).dies(code(0)), [END], "a clean end that is followed by another run is none");
    assert_eq!(Play::up(|_| {}).dies(code(78)), [END, Failed], "a failure for good gives nothing up");
    let mut play = Play::up(|_| {});
    play.stops();
    assert_eq!(play.dies(code(0)), [END], "a stop is neither");
    let mut play = Play::up(|_| {});
    play.stops();
    play.passes(30_000);
    assert_eq!(play.dies(KILLED), [Failed], "one that had to be killed has failed");
}

#[test]
fn d_of_n_grows_to_its_limit_and_a_stable_run_begins_anew() {
    let mut play = Play::up(|_| {});
    let mut waits = vec![];
    for _ in 0..14 {
        play.dies(CODE_1);
        waits.push(play.waits().unwrap());
        let wait = play.waits().unwrap();
        play.passes(wait);
        play.comes_up();
    }
    let d = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 102_400, 204_800, 300_000, 300_000];
    assert_eq!(waits, d);
    play.passes(599_999);
    assert!(play.life.failures == 14, "not yet");
    play.passes(1);
    assert_eq!(play.life.failures, 0);
    play.dies(CODE_1);
    assert_eq!(play.waits(), Some(100));
}

#[test]
fn a_manual_start_and_reset_failed_forget_the_failures() {
    let crashing = || {
        let mut play = Play::up(|_| {});
        for _ in 0..6 {
            play.dies(CODE_1);
            play.comes_up();
        }
        play
    };
    let mut play = crashing();
    play.dies(CODE_1);
    play.comes_up();
    play.stops();
    play.dies(CODE_1);
    play.starts();
    assert_eq!((play.life.failures, play.life.restarts), (0, 0), "a manual start");
    let mut play = crashing();
    play.hears(Event::ResetFailed);
    play.dies(CODE_1);
    assert_eq!(play.waits(), Some(100), "reset-failed");

    let mut play = Play::up(|_| {});
    play.dies(code(78));
    play.hears(Event::ResetFailed);
    assert_eq!((play.state().as_str(), play.life.result, &play.life.last_error), ("inactive(dead)", Success, &None));
    assert_eq!(play.life.deaths.len(), 1, "what happened stays known");
}

#[test]
fn from_five_failures_in_a_row_on_it_is_crash_looping_and_says_so_once() {
    let mut play = Play::up(|_| {});
    for n in 1..=9 {
        let said = play.dies(CODE_1).iter().any(|effect| matches!(effect, Say(Said::CrashLooping { .. })));
        assert_eq!((said, play.life.is_crash_looping()), (n == 5, n >= 5), "failure {n}");
        play.comes_up();
    }
    play.passes(600_000);
    assert!(!play.life.is_crash_looping(), "until a stable run");
}

#[test]
#[rustfmt::skip]
fn a_run_that_asks_for_later_is_no_failure() {
    let hour = || later(3_600_000);
    let rows: Vec<(&str, Option<Notify>, Exit, u64)> = vec![
        ("exit 75 waits the back-off",           None,         code(75), 100),
        ("an asked wait is kept",                Some(hour()), code(1),  3_600_000),
        ("also with a clean end",                Some(hour()), code(0),  3_600_000),
        ("and with 75",                          Some(hour()), code(75), 3_600_000),
        ("one shorter than the back-off is not", Some(later(50)), code(1), 100),
        ("one beyond retry_after_max is capped", Some(later(400_000_000)), code(1), 86_400_000),
        ("the last word counts",                 Some(later(7_000)), code(1), 7_000),
    ];
    for (row, said, exit, wait) in rows {
        let mut play = Play::up(|_| {});
        play.says(later(5));
        if let Some(said) = said { play.says(said); }
        assert_eq!(play.dies(exit), [END], "{row}: neither failed nor reported");
        assert_eq!((play.waits(), play.life.failures, &play.life.deaths), (Some(wait), 0, &vec![]), "{row}");
    }
    let mut play = Play::up(|unit| unit.ready.kind = ReadyKind::Notify);
    play.says(hour());
    play.dies(code(0));
    assert_eq!(play.waits(), Some(3_600_000));
    play.hears(Event::Again);
    play.spawned();
    play.dies(code(75));
    assert_eq!((play.life.result, play.waits()), (ExitCode, Some(100)), "the next run has asked for nothing");
}

#[test]
fn what_was_asked_for_later_does_not_help_against() {
    let end = |change: &dyn Fn(&mut Unit), exit| {
        let mut play = Play::up(|unit| change(unit));
        play.says(later(3_600_000));
        play.dies(exit);
        (play.state(), play.waits(), play.life.failures)
    };
    let nothing = |_: &mut Unit| {};
    assert_eq!(end(&nothing, code(78)), ("failed(failed)".into(), None, 0), "an exit status that prevents");
    let never = |unit: &mut Unit| unit.restart.policy = RestartPolicy::No;
    assert_eq!(end(&never, code(1)), ("failed(failed)".into(), None, 0), "the policy `no`");
    let crash = end(&nothing, KILLED);
    assert_eq!(crash, ("activating(auto-restart)".into(), Some(3_600_000), 1), "a crash: it counts, and waits as long");
    let mut play = Play::up(|_| {});
    play.says(later(3_600_000));
    play.stops();
    play.dies(code(0));
    assert_eq!(play.state(), "inactive(dead)", "a stop");
}

#[test]
fn a_retry_after_survives_the_supervisor() {
    let hour = 3_600_000;
    let mut play = Play::up(|_| {});
    play.says(later(hour));
    play.loomd_is_replaced(Found::Alive);
    play.dies(code(1));
    assert_eq!((play.waits(), play.life.failures), (Some(hour), 0), "said to one loomd, ended under the next");
    play.at += hour / 2;
    play.loomd_is_replaced(Found::Gone(Exit::Unknown));
    assert_eq!(play.waits(), Some(hour / 2), "the wait goes on");
    let stored = Record { wanted: true, ..record(&play.life, "boot") };
    let other =
        adopt(&play.unit, &stored, &Found::Gone(Exit::Unknown), "next boot", Now { mono: Millis(5), ..play.now() });
    assert_eq!(other.life.state.rests_until(), Some(Millis(hour / 2 + 5)), "by the wall clock in another boot");
    play.at += hour / 2;
    play.comes_up();
    assert_eq!((play.run(), play.life.failures), (RunId(2), 0), "one start after one hour, no failure counted");

    let mut play = Play::up(|_| {});
    play.says(later(hour));
    play.loomd_is_replaced(Found::Gone(Exit::Unknown));
    play.empties();
    assert_eq!((play.waits(), play.life.failures), (Some(hour), 0), "also if nobody saw its end");
}

fn limit(burst: u32, mode: LimitMode) -> impl Fn(&mut Unit) {
    move |unit| {
        unit.restart.limit_burst = burst;
        unit.restart.limit_interval = Millis(10_000);
        unit.restart.limit_mode = mode;
    }
}

#[test]
fn a_start_limit_that_fails_gives_up() {
    let mut play = Play::up(limit(3, LimitMode::Fail));
    for _ in 0..3 {
        assert_eq!(play.dies(CODE_1), [END, Failed]);
        play.comes_up();
    }
    assert_eq!(play.dies(KILLED), [END, Report, Failed, GaveUp]);
    assert_eq!((play.state().as_str(), play.life.result), ("failed(failed)", RunResult::StartLimitHit));
    let text = "it was started 3 times within restart.limit_interval (10s), as often as restart.limit_burst allows; \
                the last time it was ended by SIGKILL";
    assert_eq!(play.life.last_error.as_deref(), Some(text));
    assert_eq!(play.life.deaths.last().unwrap().result, RunResult::Signal, "what it died of stays known");
    play.comes_up();
    assert_eq!(play.state(), "active(running)", "a person's start is never refused");
    assert_eq!(play.dies(CODE_1).last(), Some(&GaveUp), "but opens no new window");
    play.hears(Event::ResetFailed);
    play.comes_up();
    assert_eq!(play.dies(CODE_1), [END, Failed], "reset-failed does");
}

#[test]
fn a_start_limit_that_delays_waits_for_the_window() {
    let mut play = Play::up(limit(3, LimitMode::Delay));
    let began = play.at;
    let mut starts = vec![];
    for _ in 0..9 {
        play.dies(CODE_1);
        let wait = play.waits().unwrap();
        play.passes(wait);
        play.comes_up();
        starts.push(play.at - began);
        // Not the back-off, the limit.
        play.life.failures = 0;
        assert!(play.life.starts.len() <= 3, "no more is remembered than counts");
    }
    assert_eq!(starts, [100, 200, 300, 10_100, 10_200, 10_300, 20_100, 20_200, 20_300]);
    assert!(!play.done.contains(&GaveUp));
}

#[test]
fn the_window_of_a_start_limit_slides_and_survives_the_supervisor() {
    let mut play = Play::up(limit(3, LimitMode::Fail));
    for _ in 0..20 {
        play.dies(CODE_1);
        play.passes(3_400);
        play.comes_up();
        play.life.failures = 0;
    }
    assert_eq!(play.state(), "active(running)", "three in more than ten seconds are allowed for ever");
    play.dies(CODE_1);
    play.comes_up();
    let stored = record(&play.life, "boot");
    play.loomd_is_replaced(Found::Alive);
    assert_eq!(play.dies(CODE_1).last(), Some(&GaveUp));
    let other = adopt(&play.unit, &stored, &Found::Gone(Exit::Unknown), "next boot", play.now());
    assert!(other.life.starts.is_empty(), "another boot has another clock");
}

fn in_hand(play: &mut Play, work: &[&str]) {
    let work = work.iter().map(|text| (*text).to_owned()).collect();
    play.hears(Event::InHand { run: play.run(), work });
}
fn dies_on(play: &mut Play, work: &[&str]) -> Vec<Effect> {
    in_hand(play, work);
    let effects = play.dies(KILLED);
    play.comes_up();
    effects.into_iter().filter(|effect| matches!(effect, SetAside(_) | Say(Said::Poisoned { .. }))).collect()
}
fn set_aside(work: &str, deaths: u32) -> Vec<Effect> {
    vec![SetAside(work.into()), Say(Said::Poisoned { work: work.into(), deaths })]
}

#[test]
fn what_three_runs_in_a_row_die_on_is_set_aside() {
    let mut play = Play::up(|_| {});
    assert_eq!(dies_on(&mut play, &["e1", "e2"]), []);
    assert_eq!(dies_on(&mut play, &["e1", "e3"]), []);
    play.loomd_is_replaced(Found::Alive);
    assert_eq!(dies_on(&mut play, &["e1", "e3"]), set_aside("e1", 3), "counted over a new loomd");
    assert_eq!(dies_on(&mut play, &["e3"]), set_aside("e3", 3));
    assert_eq!(dies_on(&mut play, &["e1"]), [], "its count is gone with it");
}

#[test]
fn only_runs_in_a_row_count() {
    let mut play = Play::up(|_| {});
    for _ in 0..5 {
        assert_eq!(dies_on(&mut play, &["e1"]), []);
        assert_eq!(dies_on(&mut play, &["e1"]), []);
        assert_eq!(dies_on(&mut play, &["e2"]), [], "one that died on something else");
    }
    for _ in 0..5 {
        assert_eq!(dies_on(&mut play, &["e1"]), []);
        assert_eq!(dies_on(&mut play, &["e1"]), []);
        in_hand(&mut play, &["e1"]);
        play.dies(code(0));
        play.comes_up();
    }
    for _ in 0..5 {
        assert_eq!(dies_on(&mut play, &["e1"]), []);
        assert_eq!(dies_on(&mut play, &["e1"]), []);
        play.passes(600_000);
    }
    assert_eq!(dies_on(&mut play, &["e1"]), []);
    play.hears(Event::ResetFailed);
    play.passes(600_000);
    assert!(play.life.poison.is_empty(), "a clean or stable run clears");
}

#[test]
fn poison_is_not_blamed_for_what_is_no_death() {
    let mut play = Play::up(|unit| unit.restart.poison_after = 1);
    in_hand(&mut play, &["e1"]);
    assert_eq!(play.dies(code(75)), [END], "a run that asks for later");
    play.comes_up();
    in_hand(&mut play, &["e1"]);
    play.stops();
    assert_eq!(play.dies(KILLED), [END], "a stop");
    play.comes_up();
    play.says(Notify { task: Some("t1".into()), ..Notify::default() });
    play.says(Notify { task: Some(String::new()), ..Notify::default() });
    assert_eq!(play.dies(CODE_1), [END, Failed], "a task that it had put down");
    play.comes_up();
    play.says(Notify { task: Some("t2".into()), ..Notify::default() });
    let expected = [vec![END, Failed], set_aside("t2", 1)].concat();
    assert_eq!(play.dies(CODE_1), expected, "the one in its hand");
    let mut play = Play::up(|unit| unit.restart.poison_after = 0);
    for _ in 0..9 {
        assert_eq!(dies_on(&mut play, &["e1"]), [], "0 turns it off");
    }
}
