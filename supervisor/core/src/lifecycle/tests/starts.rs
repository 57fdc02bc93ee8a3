//! The way up, reloads, and what stays after a clean end.

use super::play::*;
use super::*;
use crate::unit::{Condition, Test};
use Control::{Reload as Reloading, StartPre};
use Effect::{Check, EndControl, EndTree, OpenGate, Reloaded, Run, Say, Signal, Spawn, Succeeded, Up};

fn conditions(unit: &mut Unit) {
    let text = "path-exists:/etc/x".to_owned();
    unit.conditions = vec![Condition { negated: false, test: Test::PathExists("/etc/x".into()), text }];
}
fn start_pre(commands: &'static [&'static str]) -> impl Fn(&mut Unit) {
    move |unit| unit.exec.as_mut().unwrap().start_pre = commands.iter().map(|text| command(text)).collect()
}
fn kind(kind: ReadyKind) -> impl Fn(&mut Unit) {
    move |unit| unit.ready.kind = kind
}
fn stays(unit: &mut Unit) {
    unit.exec.as_mut().unwrap().remain_after_exit = true;
}

#[test]
fn a_start_goes_through_condition_and_start_pre_to_start() {
    let mut play = Play::of(|unit| {
        conditions(unit);
        start_pre(&["/bin/one", "/bin/two"])(unit);
    });
    assert_eq!((play.starts(), play.state()), (vec![Check], "activating(condition)".into()));
    assert_eq!(play.run(), RunId(1), "the number is taken at the beginning, so that news names it");
    assert_eq!((play.checked(None), play.state()), (vec![Run(StartPre(0))], "activating(start-pre)".into()));
    assert_eq!(play.helped(StartPre(0), CLEAN), [Run(StartPre(1))]);
    assert!(matches!(play.helped(StartPre(1), CLEAN)[..], [Spawn(_)]));
    assert_eq!(play.state(), "activating(start)");
    assert_eq!((play.spawned(), play.executed()), (vec![OpenGate], vec![Up]));
    assert_eq!(play.state(), "active(running)");
}

#[test]
fn a_condition_that_does_not_hold_leaves_it_inactive_and_is_no_failure() {
    let mut play = Play::of(conditions);
    play.starts();
    assert_eq!(play.checked(Some("path-exists:/etc/x")), []);
    assert_eq!((play.state().as_str(), play.life.result), ("inactive(dead)", RunResult::Condition));
    assert_eq!(play.life.last_error.as_deref(), Some("condition `path-exists:/etc/x` does not hold"));
    assert_eq!((play.life.failures, &play.life.deaths), (0, &vec![]));
}

#[test]
fn a_targets_conditions_are_looked_at_too() {
    let target = |unmet: Option<&str>| {
        let mut play = Play::of(|unit| {
            *unit = super::unit("all.target");
            conditions(unit);
        });
        play.starts();
        play.checked(unmet);
        (play.state(), play.life.result)
    };
    assert_eq!(target(None), ("active(active)".into(), Success));
    assert_eq!(target(Some("path-exists:/etc/x")), ("inactive(dead)".into(), RunResult::Condition));
}

#[test]
fn a_start_pre_that_fails_fails_the_start_by_its_exit() {
    let mut play = Play::of(start_pre(&["/bin/prepare now", "/bin/two"]));
    assert_eq!(play.starts(), [Run(StartPre(0))]);
    assert_eq!(play.helped(StartPre(0), UNCLEAN), [END], "what it left is ended");
    assert_eq!(play.empties(), [Effect::Failed]);
    assert_eq!(
        (play.state().as_str(), play.life.result, play.life.exit),
        ("activating(auto-restart)", ExitCode, Some(CODE_1))
    );
    assert_eq!(play.life.last_error.as_deref(), Some("`start_pre` `/bin/prepare`: it exited with status 1"));

    let sandbox = Controlled::Failed(LaunchFailure::Refused("needs Landlock".into()));
    let mut play = Play::of(start_pre(&["/bin/prepare"]));
    play.starts();
    play.helped(StartPre(0), sandbox);
    play.empties();
    assert_eq!((play.state().as_str(), play.life.result), ("failed(failed)", Sandbox));
    let mut play = Play::of(start_pre(&["/bin/prepare"]));
    play.starts();
    play.helped(StartPre(0), Controlled::Exited(Exit::Signal { signal: 15, core: false }));
    play.empties();
    assert_eq!(play.life.result, RunResult::Signal, "SIGTERM is no clean end of a preparation");
}

#[test]
fn a_start_pre_with_a_minus_may_fail() {
    let mut play = Play::of(start_pre(&["-/bin/one", "-/bin/two"]));
    play.starts();
    assert_eq!(play.helped(StartPre(0), UNCLEAN), [Run(StartPre(1))]);
    assert!(matches!(
        play.helped(StartPre(1), Controlled::Failed(LaunchFailure::Resources("x".into())))[..],
        [Spawn(_)]
    ));
}

#[test]
fn conditions_and_start_pre_count_against_the_ready_timeout() {
    let mut play = Play::of(|unit| {
        start_pre(&["/bin/one", "/bin/two"])(unit);
        unit.restart.policy = RestartPolicy::No;
    });
    play.starts();
    play.passes(60_000);
    play.helped(StartPre(0), CLEAN);
    assert_eq!(play.passes(29_999), []);
    assert_eq!(play.passes(1), [Effect::Inspect, END]);
    assert_eq!(play.state(), "deactivating(stop-sigterm)");
    assert_eq!(play.passes(30_000), [KILL], "and is killed after stop.timeout");
    assert_eq!(play.empties(), [Effect::Report, Effect::Failed]);
    assert_eq!((play.state().as_str(), play.life.result), ("failed(failed)", Timeout));

    let mut play = Play::of(start_pre(&["/bin/one"]));
    play.starts();
    play.says(extends(200_000));
    assert_eq!(play.passes(199_999), [], "EXTEND_TIMEOUT_USEC counts for start_pre");
    let mut play = Play::of(conditions);
    play.starts();
    play.passes(90_000);
    assert_eq!(play.life.result, Timeout, "conditions that are never answered do not hang a unit");
}

#[test]
fn a_stop_wins_on_the_way_up() {
    let before: [(&str, Act, &str, Vec<Effect>); 5] = [
        ("conditions", |_| {}, "inactive(dead)", vec![]),
        ("start_pre", |play| drop(play.checked(None)), "deactivating(stop-sigterm)", vec![END]),
        (
            "the launcher",
            |play| {
                play.checked(None);
                play.helped(StartPre(0), CLEAN);
            },
            "deactivating(stop-sigterm)",
            vec![],
        ),
        (
            "execve",
            |play| {
                play.checked(None);
                play.helped(StartPre(0), CLEAN);
                play.spawned();
            },
            "deactivating(stop-sigterm)",
            vec![Signal(15)],
        ),
        (
            "a waiting restart",
            |play| {
                play.checked(None);
                play.helped(StartPre(0), UNCLEAN);
                play.empties();
            },
            "inactive(dead)",
            vec![],
        ),
    ];
    for (row, get_there, state, effects) in before {
        let mut play = Play::of(|unit| {
            conditions(unit);
            start_pre(&["/bin/one"])(unit);
        });
        play.starts();
        get_there(&mut play);
        assert_eq!((play.stops(), play.state().as_str()), (effects, state), "{row}");
        // What comes late changes nothing.
        play.checked(None);
        play.helped(StartPre(0), CLEAN);
        if !matches!(play.life.state, Down { .. }) {
            play.spawned();
            play.exits(KILLED);
            play.empties();
        }
        assert_eq!(play.state(), "inactive(dead)", "{row}");
        assert_eq!(play.hears(Event::Again), [], "{row}");
    }
}

#[test]
fn a_clean_end_with_remain_after_exit_stays_active() {
    let mut play = Play::of(|unit| {
        stays(unit);
        kind(ReadyKind::Oneshot)(unit);
        unit.restart.policy = RestartPolicy::Always;
        unit.stop.post = vec![command("/bin/tidy")];
    });
    play.starts();
    play.spawned();
    play.executed();
    assert_eq!(play.exits(Exit::Code(0)), [Up, END, Succeeded]);
    assert_eq!((play.state().as_str(), play.life.state.is_up()), ("active(exited)", true));
    play.empties();
    assert_eq!(play.life.deadline(&play.unit), None);
    assert_eq!(play.starts(), [], "it is up already");
    assert_eq!(play.stops(), [END]);
    assert_eq!(play.empties(), [Run(Control::StopPost(0))], "a stop of it runs stop.post");
    play.helped(Control::StopPost(0), CLEAN);
    play.empties();
    assert_eq!((play.state().as_str(), play.life.result), ("inactive(dead)", Success));

    let mut play = Play::up(stays);
    play.hears(Event::InHand { run: RunId(1), work: vec!["e1".into()] });
    assert_eq!(play.exits(CODE_1), [END]);
    play.empties();
    assert_eq!(play.state(), "activating(auto-restart)", "an unclean end is as ever");
    play.comes_up();
    assert_eq!((play.life.failures, play.life.poison.len()), (1, 1));
    play.exits(Exit::Code(0));
    assert_eq!((play.life.failures, play.life.poison.len()), (0, 0), "and a clean one clears what was counted");

    let mut play = Play::up(|unit| {
        stays(unit);
        unit.stop.command = Some(command("/bin/undo"));
    });
    play.exits(Exit::Code(0));
    assert_eq!(play.passes(30_000), [KILL], "what it left is ended all the same");
    assert_eq!((play.stops(), play.state().as_str()), (vec![Run(Control::Stop)], "deactivating(stop)"));
    assert_eq!(play.helped(Control::Stop, CLEAN), [END]);
    play.empties();
    assert_eq!(play.state(), "inactive(dead)");
}

#[test]
fn a_notify_reload_unit_reloads_by_sighup_reloading_and_ready() {
    let mut play = Play::up(kind(ReadyKind::NotifyReload));
    assert_eq!((play.hears(Event::Reload), play.state().as_str()), (vec![Signal(1)], "reloading(reload)"));
    assert!(play.life.state.is_up());
    assert_eq!(play.says(ready()), [], "a READY=1 that was on its way does not count");
    assert_eq!(play.says(reloading()), []);
    assert_eq!(play.hears(Event::Reload), [], "a second one joins");
    assert_eq!((play.says(ready()), play.state().as_str()), (vec![Reloaded(Ok(()))], "active(running)"));

    play.hears(Event::Reload);
    let both = Notify { ready: true, ..reloading() };
    assert_eq!(play.says(both), [Reloaded(Ok(()))], "both in one message");
}

#[test]
fn a_late_reload_leaves_it_active_and_fails_the_job() {
    let mut play = Play::up(kind(ReadyKind::NotifyReload));
    play.hears(Event::Reload);
    play.says(extends(100_000));
    assert_eq!(play.passes(99_999), []);
    let because = "it did not end within ready.timeout (1min 30s), still without RELOADING=1".to_owned();
    assert_eq!(play.passes(1), [Say(Said::ReloadFailed { because: because.clone() }), Reloaded(Err(because))]);
    assert_eq!(play.state(), "active(running)");
}

#[test]
fn a_reload_command_reloads_by_its_end() {
    let with_command = |unit: &mut Unit| unit.exec.as_mut().unwrap().reload = Some(command("/bin/reread"));
    let mut play = Play::up(with_command);
    assert_eq!(play.hears(Event::Reload), [Run(Reloading)]);
    assert_eq!((play.helped(Reloading, CLEAN), play.state().as_str()), (vec![Reloaded(Ok(()))], "active(running)"));

    play.hears(Event::Reload);
    let because = "`exec.reload`: it exited with status 1".to_owned();
    let failed = [Say(Said::ReloadFailed { because: because.clone() }), Reloaded(Err(because))];
    assert_eq!((play.helped(Reloading, UNCLEAN), play.state().as_str()), (failed.to_vec(), "active(running)"));

    play.hears(Event::Reload);
    assert_eq!(play.passes(90_000)[0], EndControl(Reloading), "one that hangs is killed");
    let [Reloaded(Err(text))] = &play.hears(Event::Reload)[..] else { panic!("while it lingers, no other starts") };
    assert_eq!(text, "what is left of the reload before is being ended");
    play.helped(Reloading, Controlled::Exited(KILLED));
    assert_eq!(play.hears(Event::Reload), [Run(Reloading)]);
}

#[test]
fn reloading_unasked_is_shown_and_has_the_same_limit() {
    let mut play = Play::up(kind(ReadyKind::Notify));
    assert_eq!((play.says(reloading()), play.state().as_str()), (vec![], "reloading(reload)"));
    assert_eq!((play.says(ready()), play.state().as_str()), (vec![], "active(running)"), "no job waits for it");
    play.says(reloading());
    assert!(matches!(play.passes(90_000)[..], [Say(Said::ReloadFailed { .. })]));
    assert_eq!(play.state(), "active(running)");
}

#[test]
fn a_reload_that_cannot_be_is_refused_and_one_whose_run_ends_fails() {
    let refused = |play: &mut Play| match &play.hears(Event::Reload)[..] {
        [Reloaded(Err(text))] => text.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&mut Play::of(|_| {})), "it does not run");
    let text = "it has no way to reload: neither `exec.reload` nor `ready.type = \"notify-reload\"`";
    assert_eq!(refused(&mut Play::up(|_| {})), text);

    let ends: [(&str, Seen); 3] =
        [("a stop", Play::stops), ("a crash", |play| play.exits(CODE_1)), ("a kill", |play| play.hears(Event::Kill))];
    for (row, end) in ends {
        let mut play = Play::up(kind(ReadyKind::NotifyReload));
        play.hears(Event::Reload);
        let effects = end(&mut play);
        assert!(effects.contains(&Reloaded(Err("its run ended meanwhile".into()))), "{row}: {effects:?}");
    }
}

#[test]
fn mainpid_makes_another_process_the_main_one() {
    let mut play = Play::up(|_| {});
    play.hears(Event::MainProcess { run: RunId(1), identity: identity(77) });
    assert_eq!(play.life.state.identity(), Some(&identity(77)));
    play.hears(Event::MainProcess { run: RunId(0), identity: identity(78) });
    assert_eq!(play.life.state.identity(), Some(&identity(77)), "not by stale news");
    play.stops();
    play.dies(KILLED);
    play.hears(Event::MainProcess { run: RunId(1), identity: identity(79) });
    assert_eq!(play.life.state, Down { failed: false });
}

#[test]
fn errno_and_status_are_shown_and_end_with_the_run() {
    let mut play = Play::up(|_| {});
    play.says(Notify { errno: Some(2), status: Some("no model".into()), ..Notify::default() });
    assert_eq!((play.life.errno, play.life.status_text.as_deref()), (Some(2), Some("no model")));
    play.says(beat());
    assert_eq!(play.life.status_text.as_deref(), Some("no model"), "what says nothing of it leaves it");
    play.dies(CODE_1);
    let text = "it exited with status 1; it said ERRNO=2 (ENOENT, no such file or directory)";
    assert_eq!(play.life.last_error.as_deref(), Some(text));
    play.hears(Event::Again);
    assert_eq!((play.life.errno, play.life.status_text.as_deref()), (None, None));
}

#[test]
fn an_empty_stage_is_never_left_waiting() {
    // Each state of the way up has a limit.
    let mut play = Play::of(|unit| {
        conditions(unit);
        start_pre(&["/bin/one"])(unit);
        kind(ReadyKind::Notify)(unit);
    });
    play.starts();
    assert!(play.life.deadline(&play.unit).is_some(), "condition");
    play.checked(None);
    assert!(play.life.deadline(&play.unit).is_some(), "start-pre");
    play.helped(StartPre(0), CLEAN);
    assert!(play.life.deadline(&play.unit).is_some(), "launcher");
    play.spawned();
    play.executed();
    assert!(play.life.deadline(&play.unit).is_some(), "start");
    play.says(ready());
    assert_eq!(play.life.deadline(&play.unit), None, "and none when it is up and nothing watches it");
    assert!(!play.done.contains(&EndTree(TreeEnd::Kill)));
}
