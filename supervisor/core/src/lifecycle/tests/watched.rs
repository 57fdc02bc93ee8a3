//! Watchdog, progress, health and budget.

use super::play::*;
use super::*;
use crate::unit::{Budget, Check, Health, Probe, ProgressAction};
use Control::{Liveness, Readiness, Startup};
use Effect::{EndControl, Failed, Inspect, Report, Run, Say, Signal};

fn watchdog(unit: &mut Unit) {
    unit.ready.kind = ReadyKind::Notify;
    unit.watchdog.interval = Some(Millis(10_000));
}
fn watched(action: ProgressAction) -> impl Fn(&mut Unit) {
    move |unit| {
        unit.watchdog.progress = Some(Millis(60_000));
        unit.watchdog.progress_action = action;
    }
}
fn every(ms: u64) -> Notify {
    Notify { watchdog_interval: Some(Millis(ms)), ..Notify::default() }
}
fn late(since: u64) -> Vec<Effect> {
    vec![Say(Said::NoProgress { since: Millis(since) })]
}

#[test]
fn a_silent_watchdog_ends_in_sigabrt_then_sigkill_of_the_tree() {
    let mut play = Play::up(watchdog);
    assert_eq!(play.passes(9_999), []);
    play.says(beat());
    assert_eq!(play.passes(9_999), []);
    assert_eq!((play.passes(1), play.state().as_str()), (vec![Inspect, Signal(6)], "deactivating(stop-watchdog)"));
    play.says(extends(100_000));
    assert_eq!(
        (play.passes(10_000), play.state().as_str()),
        (vec![KILL], "deactivating(stop-sigkill)"),
        "abort_timeout"
    );
    assert_eq!(play.dies(KILLED), [Report, Failed]);
    assert_eq!((play.state().as_str(), play.life.result), ("activating(auto-restart)", RunResult::Watchdog));
    let text = "it did not say WATCHDOG=1 within watchdog.interval (10s)";
    assert_eq!(play.life.last_error.as_deref(), Some(text));
}

#[test]
fn the_watchdog_is_first_due_after_ready() {
    let mut play = Play::of(watchdog);
    play.starts();
    play.spawned();
    play.executed();
    assert_eq!(play.passes(60_000), [], "not while it starts");
    play.says(ready());
    assert_eq!(play.passes(9_999), []);
    assert_eq!(play.passes(1), [Inspect, Signal(6)]);
}

#[test]
fn watchdog_usec_sets_the_interval_of_the_run() {
    let mut play = Play::up(watchdog);
    play.says(every(30_000));
    assert_eq!(play.passes(29_999), []);
    play.says(beat());
    assert_eq!(play.passes(29_999), [], "also after the next WATCHDOG=1");
    play.says(every(0));
    assert_eq!(play.passes(1_000_000), [], "0 turns it off");
    play.says(every(1_000));
    play.loomd_is_replaced(Found::Alive);
    assert_eq!(play.passes(1_000), [Inspect, Signal(6)], "it survives the supervisor");
    play.dies(KILLED);
    assert_eq!(play.life.last_error.as_deref(), Some("it did not say WATCHDOG=1 within watchdog.interval (1s)"));
    play.comes_up();
    assert_eq!(play.passes(9_999), [], "the next run has the unit's own");

    let mut play = Play::of(|_| {});
    play.starts();
    play.spawned();
    play.says(every(5_000));
    play.executed();
    assert_eq!(play.passes(5_000), [Inspect, Signal(6)], "a unit without one may ask for it, before it is ready too");
}

#[test]
fn a_beating_but_stuck_agent_is_caught() {
    let mut play = Play::up(|unit| {
        watchdog(unit);
        watched(ProgressAction::Restart)(unit);
    });
    for _ in 0..11 {
        assert_eq!(play.passes(5_000), []);
        play.says(beat());
    }
    assert_eq!(play.passes(5_000), [Inspect, Signal(6)], "WATCHDOG=1 is no progress");
    assert_eq!(play.state(), "deactivating(stop-watchdog)");
    assert_eq!(play.passes(10_000), [KILL]);
    assert_eq!(play.dies(KILLED), [Report, Failed]);
    assert_eq!(play.life.result, RunResult::Progress);
    let text = "its work did not move within watchdog.progress (1min)";
    assert_eq!(play.life.last_error.as_deref(), Some(text));
}

#[test]
fn an_agent_that_waits_on_purpose_is_never_late() {
    let mut play = Play::up(watched(ProgressAction::Restart));
    play.passes(50_000);
    play.says(idle(true));
    assert_eq!(play.passes(10_000_000), []);
    play.says(idle(false));
    assert_eq!(play.passes(9_999), [], "its clock stood still");
    play.says(idle(true));
    play.says(progress());
    play.says(idle(false));
    assert_eq!(play.passes(59_999), [], "what moves while it waits counts");
    assert_eq!(play.passes(1), [Inspect, Signal(6)]);

    let mut play = Play::of(watched(ProgressAction::Restart));
    play.starts();
    play.spawned();
    play.says(idle(true));
    play.executed();
    assert_eq!(play.passes(10_000_000), [], "also if it said so before it was ready");
}

#[test]
fn waiting_on_purpose_survives_the_supervisor() {
    let mut play = Play::up(watched(ProgressAction::Restart));
    let before = record(&play.life, "boot");
    play.says(idle(true));
    assert_eq!(record(&play.life, "boot"), before, "what lasts for a moment causes no write");
    play.passes(5_000);
    assert_ne!(record(&play.life, "boot"), before);
    play.loomd_is_replaced(Found::Alive);
    assert_eq!(play.passes(10_000_000), []);
    play.says(idle(false));
    assert_eq!(record(&play.life, "boot"), before);
    assert_eq!(play.passes(60_000), [Inspect, Signal(6)]);
}

#[test]
fn progress_is_what_it_says_or_what_loomd_sees() {
    let mut play = Play::up(watched(ProgressAction::Notify));
    play.passes(50_000);
    play.says(progress());
    assert_eq!(play.passes(59_999), []);
    let seen = Millis(play.at - 10_000);
    play.hears(Event::Progressed { run: play.run(), at: seen });
    assert_eq!(play.passes(50_000), late(60_000), "from the moment at which it was seen");
    play.hears(Event::Progressed { run: play.run(), at: Millis(1) });
    assert_eq!(play.passes(1_000_000), [], "old news ends no stall");
}

#[test]
fn progress_action_notify_says_it_once_per_stall() {
    let mut play = Play::up(watched(ProgressAction::Notify));
    assert_eq!(play.passes(1_000_000), late(60_000));
    assert_eq!(play.state(), "active(running)");
    play.says(progress());
    assert_eq!(play.passes(1_000_000), late(60_000), "the next stall is another");
}

#[test]
fn progress_action_interrupt_asks_before_it_restarts() {
    let mut play = Play::up(watched(ProgressAction::Interrupt));
    assert_eq!(play.passes(60_000), [Signal(10)]);
    play.passes(9_000);
    play.says(progress());
    assert_eq!(play.passes(59_999), [], "it moved again");
    assert_eq!(play.passes(1), [Signal(10)]);
    assert_eq!(play.passes(10_000), [Inspect, Signal(6)], "or did not within abort_timeout");
    play.dies(Exit::Signal { signal: 6, core: true });
    assert_eq!(play.life.result, RunResult::Progress);
}

// Health.

fn probe() -> Option<Probe> {
    let check = Check::Tcp { host: "127.0.0.1".into(), port: 80 };
    Some(Probe { check, period: Millis(10_000), timeout: Millis(1_000), failures: 3, successes: 1 })
}
fn health(startup: bool, readiness: bool, liveness: bool) -> impl Fn(&mut Unit) {
    move |unit| {
        unit.health = Health {
            startup: probe().filter(|_| startup),
            readiness: probe().filter(|_| readiness),
            liveness: probe().filter(|_| liveness),
        }
    }
}
fn healthy(healthy: bool) -> Effect {
    Say(Said::Healthy { healthy })
}

#[test]
fn liveness_and_readiness_begin_after_startup_passed() {
    let mut play = Play::of(health(true, true, true));
    play.starts();
    assert_eq!(play.spawned(), [Effect::OpenGate]);
    assert_eq!(play.executed(), [Effect::Up, Run(Startup)], "asked as soon as it is up");
    assert!(!play.life.is_healthy(&play.unit));
    assert_eq!(play.helped(Startup, UNCLEAN), []);
    assert_eq!(play.passes(10_000), [Run(Startup)], "alone until it passes");
    assert_eq!(play.helped(Startup, CLEAN), [Run(Liveness)], "then the others, at once");
    assert_eq!(play.helped(Liveness, CLEAN), [Run(Readiness)]);
    assert_eq!(play.helped(Readiness, CLEAN), [healthy(true)]);
    assert!(play.life.is_healthy(&play.unit));
    let asked = play.passes(100_000).into_iter().filter(|effect| *effect == Run(Startup)).count();
    assert_eq!(asked, 0, "startup is not asked again");
}

#[test]
fn a_startup_that_fails_ends_the_run_as_liveness_does() {
    for (control, of) in [(Startup, health(true, false, false)), (Liveness, health(false, false, true))] {
        let mut play = Play::up(of);
        assert_eq!(play.done.last(), Some(&Run(control)));
        play.helped(control, UNCLEAN);
        play.passes(10_000);
        play.helped(control, UNCLEAN);
        play.passes(10_000);
        assert_eq!(play.helped(control, UNCLEAN), [Inspect, Signal(15)], "in order, after three in a row");
        assert_eq!(play.passes(30_000), [KILL]);
        assert_eq!(play.dies(KILLED), [Report, Failed]);
        assert_eq!((play.state().as_str(), play.life.result), ("activating(auto-restart)", RunResult::Liveness));
        let text = format!("`{}` failed 3 times in a row", control.word());
        assert_eq!(play.life.last_error, Some(text));
    }
}

#[test]
fn failures_count_in_a_row() {
    let mut play = Play::up(health(false, false, true));
    for _ in 0..10 {
        for answer in [UNCLEAN, UNCLEAN, CLEAN] {
            assert_eq!(play.helped(Liveness, answer), []);
            assert_eq!(play.passes(10_000), [Run(Liveness)]);
        }
    }
    assert_eq!(play.state(), "active(running)");
}

#[test]
fn successes_count_in_a_row() {
    let mut play = Play::up(|unit| {
        health(false, true, false)(unit);
        unit.health.readiness.as_mut().unwrap().successes = 2;
    });
    play.helped(Readiness, CLEAN);
    play.passes(10_000);
    play.helped(Readiness, UNCLEAN);
    play.passes(10_000);
    assert_eq!(play.helped(Readiness, CLEAN), []);
    play.passes(10_000);
    assert_eq!(play.helped(Readiness, CLEAN), [healthy(true)]);
}

#[test]
fn readiness_never_kills_and_only_withholds_healthy() {
    let mut play = Play::up(health(false, true, false));
    assert_eq!(play.helped(Readiness, CLEAN), [healthy(true)]);
    let mut said = vec![];
    for _ in 0..20 {
        assert_eq!(play.passes(10_000), [Run(Readiness)]);
        said.extend(play.helped(Readiness, UNCLEAN));
    }
    assert_eq!(said, [healthy(false)], "said once, on the change");
    assert_eq!((play.state().as_str(), play.life.is_healthy(&play.unit)), ("active(running)", false));
}

#[test]
fn a_probe_that_hangs_is_killed_and_counts_once() {
    let mut play = Play::up(health(false, false, true));
    assert_eq!(play.passes(1_000), [EndControl(Liveness)]);
    assert_eq!(play.passes(100_000), [], "the next waits for its end: probes never overlap");
    play.helped(Liveness, CLEAN);
    assert_eq!(play.passes(9_999), [], "from the end of one to the beginning of the next");
    assert_eq!(play.passes(1), [Run(Liveness)]);
    assert_eq!(play.passes(1_000), [EndControl(Liveness)]);
    play.helped(Liveness, CLEAN);
    play.passes(10_000);
    assert_eq!(
        play.passes(1_000),
        [EndControl(Liveness), Inspect, Signal(15)],
        "three in a row, whatever it said too late"
    );
}

#[test]
fn probes_of_a_unit_never_overlap() {
    let mut play = Play::up(health(false, true, true));
    let mut asking: Option<Control> = Some(Liveness);
    for round in 0..200_u64 {
        for effect in play.passes(300 + round * 37 % 1_500) {
            match effect {
                Run(control) => assert_eq!(asking.replace(control), None, "two at a time"),
                EndControl(control) => assert_eq!(asking, Some(control)),
                _ => {}
            }
        }
        if let Some(control) = asking.take_if(|_| round % 3 > 0) {
            for effect in play.helped(control, CLEAN) {
                if let Run(control) = effect {
                    asking = Some(control);
                }
            }
        }
        if !play.life.state.is_up() {
            break;
        }
    }
}

#[test]
fn a_probe_that_could_not_be_tried_says_nothing() {
    let mut play = Play::up(health(false, false, true));
    for _ in 0..20 {
        play.helped(Liveness, Controlled::Failed(LaunchFailure::Resources("EMFILE".into())));
        assert_eq!(play.passes(10_000), [Run(Liveness)], "asked again");
    }
    assert_eq!(play.state(), "active(running)");
}

#[test]
fn a_probe_ends_with_its_run() {
    let mut play = Play::up(health(false, false, true));
    assert_eq!(play.exits(CODE_1), [EndControl(Liveness), END]);
    play.empties();
    assert_eq!(play.helped(Liveness, UNCLEAN), []);
    let mut play = Play::up(health(false, false, true));
    assert_eq!(play.stops(), [EndControl(Liveness), Signal(15)]);
    assert_eq!(play.life.deadline(&play.unit), Some(Millis(play.at + 30_000)));
}

#[test]
fn a_startup_that_has_passed_is_not_asked_again_by_a_new_loomd() {
    let mut play = Play::up(health(true, true, false));
    play.helped(Startup, CLEAN);
    assert_eq!(play.loomd_is_replaced(Found::Alive), [Run(Readiness)]);
    let mut play = Play::up(health(true, false, false));
    assert_eq!(play.loomd_is_replaced(Found::Alive), [Run(Startup)], "one that has not is");
    play.helped(Startup, CLEAN);
    play.dies(CODE_1);
    play.comes_up();
    assert_eq!(play.done.last(), Some(&Run(Startup)), "and each run for itself");
}

#[test]
fn what_has_no_probes_is_healthy_when_it_is_up() {
    let mut play = Play::of(|_| {});
    assert!(!play.life.is_healthy(&play.unit));
    play.comes_up();
    assert!(play.life.is_healthy(&play.unit));
    let mut play = Play::up(health(false, false, true));
    assert!(play.life.is_healthy(&play.unit), "liveness is not asked about it");
    assert_eq!(play.helped(Liveness, CLEAN), [], "and nothing is said of it");
}

// Budget.

const HOUR: u64 = 3_600_000;

fn budget(unit: &mut Unit) {
    let budget = Budget {
        window: Millis(24 * HOUR),
        tokens: Some(1_000),
        cost_micros: Some(2_500_000),
        calls: Some(3),
        time: Some(Millis(2 * HOUR)),
    };
    unit.budget = Some(budget);
}
fn exhausted(what: &'static str, play: &Play) -> Effect {
    Say(Said::BudgetExhausted { what, until: play.wall + 1_000 + 24 * HOUR })
}

#[test]
fn an_exhausted_budget_ends_the_run_in_order_and_refuses_a_start() {
    let spend: [(&'static str, &str, Seen); 4] = [
        ("tokens", "tokens: 1000", |play| {
            play.says(Notify { tokens: 600, ..Notify::default() });
            play.spends(400, 0, 0)
        }),
        ("cost", "cost: 2.500000", |play| play.says(Notify { cost_micros: 2_500_000, ..Notify::default() })),
        ("calls", "calls: 3", |play| {
            play.spends(0, 0, 2);
            play.spends(0, 0, 1)
        }),
        ("time", "time: 2h", |play| play.passes(2 * HOUR)),
    ];
    for (what, limit, spend) in spend {
        let mut play = Play::up(|unit| {
            budget(unit);
            unit.stop.command = Some(command("/bin/save"));
        });
        let said = exhausted(what, &play);
        assert_eq!(spend(&mut play), [said, Run(Control::Stop)], "{what}");
        assert_eq!(play.helped(Control::Stop, CLEAN), [Signal(15)]);
        assert_eq!(play.dies(Exit::Code(0)), [END, Failed], "{what}: it is not started again");
        assert_eq!((play.state().as_str(), play.life.result), ("failed(failed)", RunResult::BudgetExhausted), "{what}");
        let text = format!("its budget ({limit}) is used up until 1970-01-02 00:16:41 UTC");
        assert_eq!(play.life.last_error.as_ref(), Some(&text));
        assert_eq!(play.life.refuses_start(&play.unit, play.now()), Some(text));
        play.at += 24 * HOUR;
        assert_eq!(play.life.refuses_start(&play.unit, play.now()), None, "the window's end refills it");
        play.comes_up();
        assert_eq!(play.spends(999, 0, 0), []);
    }
}

#[test]
fn a_restart_does_not_refill_a_budget_nor_does_a_new_loomd() {
    let mut play = Play::up(budget);
    for _ in 0..9 {
        assert_eq!(play.spends(100, 0, 0), []);
        play.dies(CODE_1);
        play.loomd_is_replaced(Found::Gone(Exit::Unknown));
        play.passes(400_000);
        play.comes_up();
        play.loomd_is_replaced(Found::Alive);
    }
    let said = exhausted("tokens", &play);
    assert_eq!(play.spends(100, 0, 0)[0], said);
}

#[test]
fn what_exhausted_it_is_stored_to_the_last_token() {
    let mut play = Play::up(budget);
    play.spends(990, 0, 0);
    play.spends(10, 0, 0);
    play.loomd_is_replaced(Found::Alive);
    play.dies(KILLED);
    assert!(play.life.refuses_start(&play.unit, play.now()).is_some());
    let window = play.life.tally().since.unwrap() + 24 * HOUR;
    let at = |wall| play.life.refuses_start(&play.unit, Now { wall, ..play.now() });
    assert_eq!((at(window - 1).is_some(), at(window)), (true, None), "until the very moment");
}

#[test]
fn time_counts_only_while_a_process_runs() {
    let mut play = Play::up(budget);
    play.passes(HOUR);
    play.dies(CODE_1);
    play.passes(5 * HOUR);
    play.comes_up();
    assert_eq!(play.passes(HOUR - 1), []);
    assert_eq!(play.passes(1).len(), 2);
    assert_eq!(play.state(), "deactivating(stop-sigterm)");
}

#[test]
fn a_process_of_another_boot_uses_no_time() {
    let mut play = Play::up(budget);
    play.passes(HOUR);
    let stored = record(&play.life, "boot");
    let later = Now { mono: Millis(90 * HOUR), ..play.now() };
    let other = adopt(&play.unit, &stored, &Found::Gone(Exit::Unknown), "next boot", later);
    assert_eq!(other.life.refuses_start(&play.unit, later), None);
}

#[test]
fn a_window_that_ends_while_it_runs_refills_without_a_word() {
    let mut play = Play::up(|unit| {
        budget(unit);
        unit.budget.as_mut().unwrap().window = Millis(HOUR);
    });
    assert_eq!(play.passes(100 * HOUR), [], "an hour's window never holds two hours");
    play.spends(999, 0, 2);
    play.passes(HOUR);
    assert_eq!(play.spends(999, 0, 2), []);
}

#[test]
fn a_clock_set_back_makes_no_window_longer() {
    let mut play = Play::up(budget);
    play.spends(1_000, 0, 0);
    play.dies(KILLED);
    play.wall -= 1_000_000;
    play.ticks();
    play.at += 24 * HOUR;
    assert_eq!(play.life.refuses_start(&play.unit, play.now()), None);
}

#[test]
fn a_busy_agent_does_not_cause_a_write_per_call() {
    let mut play = Play::up(|unit| {
        budget(unit);
        unit.budget.as_mut().unwrap().calls = Some(10_000);
    });
    let mut records = vec![record(&play.life, "boot")];
    for _ in 0..9_000 {
        play.spends(0, 0, 1);
        records.push(record(&play.life, "boot"));
    }
    records.dedup();
    assert!((10..100).contains(&records.len()), "{} writes", records.len());
    play.loomd_is_replaced(Found::Alive);
    assert!(play.life.tally().calls > 8_800, "and next to nothing is lost: {:?}", play.life.tally());
}
