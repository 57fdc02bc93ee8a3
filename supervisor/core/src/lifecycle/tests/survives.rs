//! What a new loomd makes of what was stored.

use super::play::*;
use super::*;
use Effect::{EndTree, Run, Signal};

const GONE: Found = Found::Gone(Exit::Unknown);

#[test]
fn a_record_of_the_first_release_is_read() {
    let old = r#"{"version":1,"run":7,"phase":"live","identity":{"boot_id":"boot","pid":42,"pidfd_inode":7,"start_ticks":7,
        "cgroup":null,"token_sha256":""},"wanted":true,"restarts":2,"failures":1,"result":"exit-code","exit":{"code":1},
        "since":5,"triggered_by":"restart","next_start":null,"kill_at":null,"enforcement":[],"ready":true,"ready_at":200,
        "boot_id":"boot","failed":false,"last_error":null,"pulled_in_by":null}"#;
    let record: Record = serde_json::from_str(old).unwrap();
    let adopted = adopt(&chat(), &record, &Found::Alive, "boot", now(500));
    assert_eq!((adopted.life.run, adopted.life.state.words().1), (RunId(7), "running"));
    let stopping =
        Record { phase: Phase::Stopping, wanted: false, kill_at: Some(("boot".into(), Millis(900))), ..record };
    let adopted = adopt(&chat(), &stopping, &Found::Alive, "boot", now(500));
    assert_eq!(adopted.effects, [Signal(15)]);
}

#[test]
fn start_pre_in_flight_is_lost_and_what_it_left_is_killed_first() {
    let mut play = Play::of(|unit| unit.exec.as_mut().unwrap().start_pre = vec![command("/bin/one")]);
    play.starts();
    assert_eq!(play.loomd_is_replaced(GONE), [KILL]);
    play.empties();
    assert_eq!((play.state().as_str(), play.life.result), ("activating(auto-restart)", Lost));
}

#[test]
fn a_reload_in_flight_still_awaits_ready() {
    let mut play = Play::up(|unit| unit.ready.kind = ReadyKind::NotifyReload);
    play.hears(Event::Reload);
    play.says(reloading());
    play.at += 80_000;
    assert_eq!((play.loomd_is_replaced(Found::Alive), play.state().as_str()), (vec![], "reloading(reload)"));
    assert_eq!(play.passes(9_999), [], "its limit stays");
    assert_eq!(
        (play.says(ready()), play.state().as_str()),
        (vec![], "active(running)"),
        "nobody waits for it any more"
    );

    let mut play = Play::up(|unit| unit.exec.as_mut().unwrap().reload = Some(command("/bin/reread")));
    play.hears(Event::Reload);
    play.loomd_is_replaced(Found::Alive);
    assert_eq!(play.state(), "active(running)", "a command of the loomd before is nobody's");
}

#[test]
fn a_stop_goes_on_at_its_stage() {
    let unit = |unit: &mut Unit| {
        unit.stop.command = Some(command("/bin/quit"));
        unit.stop.post = vec![command("/bin/one"), command("/bin/two")];
    };
    let mut play = Play::up(unit);
    play.stops();
    assert_eq!(
        (play.loomd_is_replaced(Found::Alive), play.state().as_str()),
        (vec![Signal(15)], "deactivating(stop-sigterm)")
    );
    play.at += 10_000;
    play.loomd_is_replaced(Found::Alive);
    assert_eq!(play.passes(19_999), []);
    assert_eq!(
        (play.passes(1), play.state().as_str()),
        (vec![KILL], "deactivating(stop-sigkill)"),
        "what was left of its time"
    );
    assert_eq!(
        (play.loomd_is_replaced(Found::Alive), play.state().as_str()),
        (vec![KILL], "deactivating(stop-sigkill)")
    );
    play.exits(KILLED);
    assert_eq!(play.loomd_is_replaced(GONE), [KILL], "leftovers");
    assert_eq!(play.empties(), [Run(Control::StopPost(0))]);
    play.helped(Control::StopPost(0), CLEAN);
    assert_eq!(play.loomd_is_replaced(GONE), [KILL], "what was left of the second command");
    assert_eq!(play.empties(), [Run(Control::StopPost(1))], "which is run again, and the first is not");
    assert_eq!(play.life.ended().map(|end| end.result), Some(Timeout), "and is told the same");
    play.helped(Control::StopPost(1), CLEAN);
    play.empties();
    assert_eq!((play.state().as_str(), play.life.result), ("failed(failed)", Timeout));
}

#[test]
fn a_kill_that_was_asked_for_stays_one() {
    let mut play = Play::up(|_| {});
    play.hears(Event::Kill);
    play.loomd_is_replaced(Found::Alive);
    play.dies(KILLED);
    assert_eq!((play.state().as_str(), play.life.result), ("inactive(dead)", Success));
}

#[test]
fn leftovers_of_a_crash_keep_what_follows_it() {
    let mut play = Play::up(|_| {});
    play.exits(CODE_1);
    play.at += 10_000;
    assert_eq!(play.loomd_is_replaced(GONE), [END]);
    assert_eq!(play.passes(20_000), [KILL], "and their deadline");
    play.empties();
    assert_eq!(
        (play.state().as_str(), play.life.result, play.life.exit),
        ("activating(auto-restart)", ExitCode, Some(CODE_1))
    );
    assert_eq!(play.life.failures, 1, "the policy is applied once");
}

#[test]
fn what_exited_and_remains_does_so_until_the_next_boot() {
    let mut play = Play::up(|unit| unit.exec.as_mut().unwrap().remain_after_exit = true);
    play.exits(Exit::Code(0));
    assert_eq!((play.loomd_is_replaced(GONE), play.state().as_str()), (vec![END], "active(exited)"), "leftovers too");
    play.empties();
    assert_eq!((play.loomd_is_replaced(GONE), play.state().as_str()), (vec![], "active(exited)"));
    let stored = Record { wanted: true, ..record(&play.life, "boot") };
    let other = adopt(&play.unit, &stored, &GONE, "next boot", play.now());
    assert_eq!((other.repeat, other.life.state), (Repeat::WithDependencies, Down { failed: false }));
}

#[test]
fn a_stop_of_what_exited_and_remains_goes_on() {
    let mut play = Play::up(|unit| {
        unit.exec.as_mut().unwrap().remain_after_exit = true;
        unit.stop.command = Some(command("/bin/undo"));
    });
    play.exits(Exit::Code(0));
    play.stops();
    assert_eq!(play.loomd_is_replaced(GONE), [END]);
    play.empties();
    assert_eq!((play.life.result, play.life.exit), (Success, Some(Exit::Code(0))), "how it ended is still known");
}

#[test]
fn the_ready_timeout_is_carried_over_with_a_moment_to_speak() {
    let mut play = Play::of(|unit| unit.ready.kind = ReadyKind::Notify);
    play.starts();
    play.spawned();
    play.executed();
    play.at += 60_000;
    play.loomd_is_replaced(Found::Alive);
    assert_eq!(play.life.deadline(&play.unit), Some(Millis(91_000)));
    play.at += 60_000;
    play.loomd_is_replaced(Found::Alive);
    assert_eq!(play.life.deadline(&play.unit), Some(Millis(play.at + 5_000)), "READY=1 may be on its way");
}

#[test]
fn every_way_of_being_ended_survives() {
    let whys = [
        Why::Stuck,
        Why::Triggered,
        Why::Unhealthy { probe: Control::Liveness, failures: 3 },
        Why::OutOfMemory,
        Why::Exhausted { text: "its budget is used up".into() },
    ];
    for why in whys {
        let mut play = Play::up(|_| {});
        play.life.state = Stopping { identity: identity(1), why: why.clone(), kill_at: Millis(20_000), ready: true };
        let signal = if why.hangs() { 6 } else { 15 };
        assert_eq!(play.loomd_is_replaced(Found::Alive), [Signal(signal)], "{why:?}");
        assert!(matches!(&play.life.state, Stopping { why: after, .. } if *after == why), "{why:?}");
    }
}

#[test]
fn another_boot_ends_every_run_as_lost_and_signals_nothing() {
    let stages: [fn(&mut Play); 6] = [
        |_| {},
        |play| drop(play.stops()),
        |play| drop(play.exits(CODE_1)),
        |play| drop(play.dies(CODE_1)),
        |play| drop(play.hears(Event::Kill)),
        |play| {
            play.says(reloading());
        },
    ];
    for (row, get_there) in stages.into_iter().enumerate() {
        let mut play = Play::up(|unit| {
            unit.ready.kind = ReadyKind::Notify;
            unit.stop.post = vec![command("/bin/one")];
        });
        get_there(&mut play);
        let stored = Record { wanted: true, ..record(&play.life, "boot") };
        let adopted = adopt(&play.unit, &stored, &GONE, "next boot", now(10));
        assert_eq!((adopted.effects, adopted.life.state.clone()), (vec![], Down { failed: false }), "{row}");
        assert_eq!((adopted.life.result, adopted.repeat), (Lost, Repeat::WithDependencies), "{row}");
        assert_eq!(adopted.life.deaths.last().unwrap().error.as_deref(), Some("the machine went down under it"));
    }
}

#[test]
fn a_tree_that_may_live_on_is_left() {
    let mut play = Play::up(|unit| {
        unit.stop.kill_mode = crate::unit::KillMode::Process;
        unit.stop.post = vec![command("/bin/one")];
    });
    play.dies(CODE_1);
    assert_eq!(play.loomd_is_replaced(GONE), [EndTree(TreeEnd::Leave)]);
}
