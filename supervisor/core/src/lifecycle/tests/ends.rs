//! The way down: stops and their escalation, leftovers, `stop.post`, want of memory, crash reports.

use super::play::*;
use super::*;
use crate::unit::{KillMode, OomPolicy};
use Control::{Stop as StopCommand, StopPost};
use Effect::{EndControl, EndTree, Failed, Inspect, Report, Run, Say, Signal, SignalAll, Succeeded};

const LEAVE: Effect = EndTree(TreeEnd::Leave);

fn kill_mode(mode: KillMode) -> impl Fn(&mut Unit) {
    move |unit| unit.stop.kill_mode = mode
}
fn stop_command(unit: &mut Unit) {
    unit.stop.command = Some(command("/bin/quit"));
}
fn posts(unit: &mut Unit) {
    unit.stop.post = vec![command("/bin/one"), command("/bin/two")];
}

#[test]
fn a_stop_goes_from_command_to_signal_to_kill_to_post() {
    let mut play = Play::up(|unit| {
        stop_command(unit);
        posts(unit);
    });
    assert_eq!((play.stops(), play.state().as_str()), (vec![Run(StopCommand)], "deactivating(stop)"));
    assert_eq!(
        (play.helped(StopCommand, UNCLEAN), play.state().as_str()),
        (vec![Signal(15)], "deactivating(stop-sigterm)")
    );
    assert_eq!(play.passes(29_999), []);
    assert_eq!((play.passes(1), play.state().as_str()), (vec![KILL], "deactivating(stop-sigkill)"));
    assert_eq!(play.exits(KILLED), []);
    assert_eq!((play.empties(), play.state().as_str()), (vec![Run(StopPost(0))], "deactivating(stop-post)"));
    assert_eq!(
        play.life.ended().map(|end| (end.result, end.exit)),
        Some((Timeout, Some(KILLED))),
        "what stop.post is told"
    );
    assert_eq!(play.helped(StopPost(0), UNCLEAN), [Run(StopPost(1))], "one that fails does not keep the next");
    assert_eq!(play.helped(StopPost(1), CLEAN), [KILL], "what they left is killed");
    assert_eq!(play.empties(), [Failed]);
    assert_eq!((play.state().as_str(), play.life.result), ("failed(failed)", Timeout));
}

#[test]
fn each_stage_of_a_stop_has_its_limit_and_may_be_extended() {
    let mut play = Play::up(|unit| {
        stop_command(unit);
        posts(unit);
    });
    play.stops();
    play.says(extends(40_000));
    assert_eq!(play.passes(39_999), []);
    assert_eq!(
        play.passes(1),
        [EndControl(StopCommand), Signal(15)],
        "a command that hangs is killed, the signal follows"
    );
    play.helped(StopCommand, Controlled::Exited(KILLED));
    play.says(extends(50_000));
    assert_eq!(play.passes(49_999), []);
    assert_eq!(play.passes(1), [KILL]);
    play.exits(KILLED);
    play.empties();
    assert_eq!(play.passes(29_999), []);
    assert_eq!(play.passes(1), [EndControl(StopPost(0))]);
    assert_eq!(play.life.deadline(&play.unit), None, "its end is waited for");
    assert_eq!(play.helped(StopPost(0), Controlled::Exited(KILLED)), [Run(StopPost(1))]);
    play.passes(30_000);
    assert_eq!(play.helped(StopPost(1), Controlled::Exited(KILLED)), [KILL]);
}

#[test]
fn a_main_process_that_ends_during_its_stop_command_lets_it_finish() {
    let mut play = Play::up(stop_command);
    play.stops();
    assert_eq!((play.exits(Exit::Code(0)), play.state().as_str()), (vec![], "deactivating(stop)"));
    assert_eq!(play.helped(StopCommand, CLEAN), [END], "no signal to what is gone");
    play.empties();
    assert_eq!((play.state().as_str(), play.life.result), ("inactive(dead)", Success));

    let mut play = Play::of(|unit| {
        stop_command(unit);
        unit.ready.kind = ReadyKind::Notify;
    });
    play.starts();
    play.spawned();
    play.executed();
    assert_eq!(play.stops(), [Signal(15)], "what was never ready is not spoken to");
}

#[test]
#[rustfmt::skip]
fn the_kill_mode_says_who_gets_what() {
    let rows = [
        (KillMode::Mixed,        Signal(15),    KILL,      END,   KILL),
        (KillMode::ControlGroup, SignalAll(15), KILL,      END,   KILL),
        (KillMode::Process,      Signal(15),    Signal(9), LEAVE, LEAVE),
    ];
    for (mode, told, killed, left, last) in rows {
        let mut play = Play::up(|unit| { kill_mode(mode)(unit); posts(unit); });
        assert_eq!(play.stops(), [told], "{mode:?}: the signal");
        assert_eq!(play.passes(30_000), std::slice::from_ref(&killed), "{mode:?}: the kill");
        let follows = if mode == KillMode::Process { vec![LEAVE] } else { vec![] };
        assert_eq!(play.exits(KILLED), follows, "{mode:?}: after the kill");

        let mut play = Play::up(|unit| { kill_mode(mode)(unit); posts(unit); });
        assert_eq!(play.exits(CODE_1), [left], "{mode:?}: leftovers of a crash");
        play.empties();
        play.helped(StopPost(0), CLEAN);
        assert_eq!(play.helped(StopPost(1), CLEAN), [last], "{mode:?}: after stop.post");
    }
}

#[test]
fn leftovers_get_the_same_two_steps() {
    let mut play = Play::up(|_| {});
    assert_eq!((play.exits(CODE_1), play.state().as_str()), (vec![END], "deactivating(stop-post)"));
    assert_eq!(play.passes(29_999), []);
    assert_eq!(play.passes(1), [KILL]);
    assert_eq!(play.life.deadline(&play.unit), None);
    play.empties();
    assert_eq!(play.state(), "activating(auto-restart)");

    let mut play = Play::up(|_| {});
    play.stops();
    play.passes(20_000);
    assert_eq!(play.exits(Exit::Code(0)), [END]);
    assert_eq!(play.passes(10_000), [KILL], "of a stop: when the tree would have been killed anyway");
}

#[test]
fn a_crash_without_leftovers_is_over_in_two_events() {
    let mut play = Play::up(|_| {});
    assert_eq!(play.exits(CODE_1), [END]);
    assert_eq!(play.empties(), [Failed]);
    assert_eq!(play.state(), "activating(auto-restart)");
}

#[test]
fn stop_post_runs_after_every_end() {
    let ends: [(&str, Act); 4] = [
        ("a clean end", |play| drop(play.dies(Exit::Code(0)))),
        ("a crash", |play| drop(play.dies(CODE_1))),
        ("a watchdog's end", |play| {
            play.says(Notify { watchdog_trigger: true, ..Notify::default() });
            play.dies(Exit::Signal { signal: 6, core: true });
        }),
        ("a launch that failed", |play| {
            play.dies(CODE_1);
            play.helped(StopPost(0), CLEAN);
            play.helped(StopPost(1), CLEAN);
            play.empties();
            play.hears(Event::Again);
            let failure = LaunchFailure::Resources("fork: EAGAIN".into());
            play.hears(Event::LaunchFailed { run: play.run(), failure });
        }),
    ];
    for (row, end) in ends {
        let mut play = Play::up(posts);
        end(&mut play);
        assert_eq!(play.done.last(), Some(&Run(StopPost(0))), "{row}");
        assert_eq!(play.state(), "deactivating(stop-post)", "{row}");
    }
}

#[test]
fn a_stop_wins_against_what_follows_a_crash() {
    let stages: [(&str, Act); 4] = [
        ("leftovers", |play| drop(play.exits(CODE_1))),
        ("stop.post", |play| drop(play.dies(CODE_1))),
        ("the end of stop.post", |play| {
            play.dies(CODE_1);
            play.helped(StopPost(0), CLEAN);
            play.helped(StopPost(1), CLEAN);
        }),
        ("the wait", |play| {
            play.dies(CODE_1);
            play.helped(StopPost(0), CLEAN);
            play.helped(StopPost(1), CLEAN);
            play.empties();
        }),
    ];
    for (row, crash) in stages {
        let mut play = Play::up(posts);
        crash(&mut play);
        play.stops();
        play.empties();
        play.helped(StopPost(0), CLEAN);
        play.helped(StopPost(1), CLEAN);
        play.empties();
        assert_eq!(play.state(), "inactive(dead)", "{row}");
        assert_eq!(play.hears(Event::Again), [], "{row}");
    }
}

#[test]
fn an_escalation_kills_what_the_stop_waits_for() {
    let mut play = Play::up(|unit| {
        stop_command(unit);
        posts(unit);
    });
    play.stops();
    assert_eq!(play.hears(Event::Kill), [EndControl(StopCommand), KILL], "stop.command and all");
    assert_eq!(play.hears(Event::Kill), [], "once");
    play.exits(KILLED);
    play.empties();
    assert_eq!(play.hears(Event::Kill), [EndControl(StopPost(0))]);
    assert_eq!(play.helped(StopPost(0), Controlled::Exited(KILLED)), [Run(StopPost(1))], "the next still runs");
    play.helped(StopPost(1), CLEAN);
    play.empties();
    assert_eq!((play.state().as_str(), play.life.result), ("inactive(dead)", Success), "it was asked for");

    let mut play = Play::up(|_| {});
    assert_eq!(play.hears(Event::Kill), [KILL], "also without a stop before");
    let mut play = Play::up(|_| {});
    play.exits(CODE_1);
    assert_eq!(play.hears(Event::Kill), [KILL], "and leftovers");
    play.empties();
    assert_eq!(play.state(), "inactive(dead)");
    let mut play = Play::up(|_| {});
    play.dies(CODE_1);
    play.hears(Event::Kill);
    assert_eq!(play.state(), "inactive(dead)", "and a waiting restart");
}

#[test]
fn an_announced_end_is_judged_by_its_exit() {
    let bye = || Notify { stopping: true, ..Notify::default() };
    let mut play = Play::up(|_| {});
    play.says(bye());
    assert_eq!(play.dies(Exit::Code(0)), [END, Succeeded]);
    let mut play = Play::up(|_| {});
    play.says(bye());
    assert_eq!(play.passes(30_000), [KILL]);
    play.dies(KILLED);
    assert_eq!((play.state().as_str(), play.life.result), ("activating(auto-restart)", Timeout));
}

#[test]
#[rustfmt::skip]
fn want_of_memory_is_told_apart() {
    let oom = |play: &mut Play| play.hears(Event::OomKilled { run: play.run() });
    let with = |policy| Play::up(move |unit: &mut Unit| unit.limits.oom_policy = policy);

    let mut play = with(OomPolicy::Continue);
    assert_eq!(oom(&mut play), [], "it is not known yet which process it was");
    play.dies(KILLED);
    assert_eq!(play.life.result, RunResult::OomKill, "the main process");
    assert_eq!(play.life.last_error.as_deref(), Some("the kernel killed it for want of memory"));

    let mut play = with(OomPolicy::Continue);
    play.exits(KILLED);
    oom(&mut play);
    play.empties();
    assert_eq!(play.life.result, RunResult::OomKill, "also when the news comes after the exit");

    let mut play = with(OomPolicy::Continue);
    oom(&mut play);
    play.dies(CODE_1);
    assert_eq!(play.life.result, ExitCode, "an exit of its own is one");

    let mut play = with(OomPolicy::Continue);
    oom(&mut play);
    assert_eq!(play.passes(1_000), [Say(Said::OomKilled)], "another process: it is shown");
    assert_eq!(play.state(), "active(running)");
    play.dies(KILLED);
    assert_eq!(play.life.result, RunResult::Signal, "a SIGKILL later is another matter");

    let mut play = with(OomPolicy::Stop);
    oom(&mut play);
    assert_eq!(play.passes(1_000), [Say(Said::OomKilled), Inspect, Signal(15)], "stop: in order");
    play.dies(Exit::Code(0));
    assert_eq!((play.state().as_str(), play.life.result), ("activating(auto-restart)", RunResult::OomKill));

    let mut play = with(OomPolicy::Kill);
    oom(&mut play);
    assert_eq!(play.passes(1_000), [Say(Said::OomKilled), Inspect, KILL], "kill: the tree at once");
    play.dies(KILLED);
    assert_eq!((play.state().as_str(), play.life.result), ("activating(auto-restart)", RunResult::OomKill));
}

#[test]
#[rustfmt::skip]
fn a_crash_report_is_kept_of() {
    let dead = |exit: Exit| { let mut play = Play::up(|_| {}); play.dies(exit) };
    assert_eq!(dead(KILLED), [END, Report, Failed], "a signal");
    assert_eq!(dead(Exit::Signal { signal: 11, core: true }), [END, Report, Failed], "a core dump");
    assert_eq!(dead(CODE_1), [END, Failed], "not an exit code");
    assert_eq!(dead(Exit::Code(0)), [END, Succeeded], "not a clean end");
    let mut play = Play::up(|_| {});
    play.hears(Event::OomKilled { run: RunId(1) });
    assert_eq!(play.dies(KILLED), [END, Report, Failed], "want of memory");
    let mut play = Play::up(|_| {});
    play.stops();
    assert_eq!(play.dies(KILLED), [END], "not a stop");
    let mut play = Play::of(|unit| unit.ready.kind = ReadyKind::Notify);
    play.starts();
    play.spawned();
    play.passes(90_000);
    assert_eq!(play.dies(KILLED), [END, Report, Failed], "a start that was late");
}

#[test]
fn the_last_deaths_are_remembered() {
    let mut play = Play::up(|_| {});
    for code in 1..=7 {
        play.dies(Exit::Code(code));
        play.passes(400_000);
        play.comes_up();
    }
    let deaths: Vec<_> = play.life.deaths.iter().map(|death| (death.run.0, death.exit)).collect();
    let expected: Vec<_> = (3..=7).map(|n| (n, Some(Exit::Code(n as u8)))).collect();
    assert_eq!(deaths, expected, "five, the newest last");
    let last = play.life.deaths.last().unwrap();
    assert_eq!((last.result, last.error.as_deref()), (ExitCode, Some("it exited with status 7")));
    play.loomd_is_replaced(Found::Alive);
    assert_eq!(play.life.deaths.len(), 5, "also by the next loomd");
}

#[test]
fn a_dependencys_end_stops_it_in_order() {
    let mut play = Play::up(stop_command);
    let why = Why::Dependency { failed: true, text: "it requires `db.service`, which failed".into() };
    assert_eq!(play.hears(Event::Stop { why }), [Run(StopCommand)]);
    play.helped(StopCommand, CLEAN);
    assert_eq!(play.dies(Exit::Code(0)), [END], "no failure of its own");
    assert_eq!((play.state().as_str(), play.life.result), ("failed(failed)", Dependency));
}

#[test]
fn stop_post_is_told_how_the_run_ended() {
    assert_eq!(service_exit(Some(Exit::Code(3))), ("exited", "3".into()));
    assert_eq!(service_exit(Some(Exit::Signal { signal: 9, core: false })), ("killed", "KILL".into()));
    assert_eq!(service_exit(Some(Exit::Signal { signal: 11, core: true })), ("dumped", "SEGV".into()));
    assert_eq!(service_exit(Some(Exit::Signal { signal: 40, core: false })), ("killed", "40".into()));
    assert_eq!(service_exit(None), ("", String::new()));
}
