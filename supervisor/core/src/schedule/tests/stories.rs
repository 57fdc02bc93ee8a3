//! What schedules promise, told in virtual time.

use super::super::record::Cause;
use super::super::timetable::{CATCH_UPS_MAX, Stand, What};
use super::super::zone::Zones;
use super::super::{Effect, Event, Every, EveryFrom, FiringId, FiringState, Found, OnInterrupted, Overlap, Settings};
use super::sim::World;
use super::*;
use crate::ids::{Millis, RunId, UnitId};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 3_600_000;
const DAY: u64 = 86_400_000;

fn unit(text: &str) -> UnitId {
    text.parse().unwrap()
}

fn schedule(name: &str) -> UnitId {
    unit(&format!("{name}.schedule"))
}

fn cron(pattern: &str) -> Settings {
    Settings { cron: vec![pattern.into()], timezone: "UTC".into(), ..Settings::new(unit("reporter.agent")) }
}

fn every(ms: u64) -> Settings {
    let every = Every { period: Millis(ms), from: EveryFrom::Start, align: false };
    Settings { every: Some(every), ..Settings::new(unit("reporter.agent")) }
}

fn world(at: &str) -> World {
    World::new(utc(at), 7)
}

/// `HH:MM` of each start.
fn times(world: &mut World) -> String {
    let starts = world.started();
    starts.iter().map(|(at, ..)| shown(*at)[11..].to_owned()).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_slot_starts_its_unit_at_its_time() {
    let mut world = world("2026-03-02 08:30");
    let report = schedule("report");
    world.arm(&report, cron("0 9-17 * * MON-FRI"));
    assert_eq!(world.table.next_wake(), Some(utc("2026-03-02 09:00")));
    world.pass(4 * HOUR);
    let starts = world.started();
    for (n, (at, firing, payload)) in starts.iter().enumerate() {
        assert_eq!(*at, utc("2026-03-02 09:00") + n as u64 * HOUR);
        assert_eq!((firing.slot, payload.late_ms, payload.missed), (*at, 0, 0));
        assert_eq!(payload.next, Some(at + HOUR));
    }
    assert_eq!(starts.len(), 4);
    let listed = &world.table.listed()[0];
    assert_eq!((listed.stand, listed.fired, listed.open), (Stand::Waiting, 4, 0));
    assert_eq!(listed.next, Some(utc("2026-03-02 13:00")));
    assert_eq!(listed.last.as_ref().unwrap().state, FiringState::Finished);
    assert_eq!(listed.rhythm, "cron 0 9-17 * * MON-FRI, timezone UTC");
}

#[test]
fn a_schedule_without_a_zone_follows_the_machine() {
    let mut world = world("2026-03-28 12:00");
    let settings = Settings { timezone: String::new(), ..cron("30 2 * * *") };
    world.arm(&schedule("nightly"), settings);
    world.pass(3 * DAY);
    // Berlin: 01:00 UTC is the first instant after the gap, then summer time.
    assert_eq!(times(&mut world), "01:00 00:30 00:30");
}

#[test]
fn patterns_of_one_schedule_that_name_one_instant_make_one_firing() {
    let mut world = world("2026-03-02 08:30");
    let settings = Settings {
        cron: vec!["0 * * * *".into(), "*/30 9 * * *".into()],
        calendar: vec!["10:00 UTC".into()],
        ..cron("0 9 * * *")
    };
    world.arm(&schedule("report"), settings);
    world.pass(2 * HOUR);
    assert_eq!(times(&mut world), "09:00 09:30 10:00");
}

#[test]
fn downtime_is_made_up_for_by_one_run() {
    let mut world = world("2026-03-02 08:30");
    world.arm(&schedule("report"), cron("0 * * * *"));
    world.pass(HOUR);
    world.reboot(5 * HOUR);
    let said = world.said();
    assert_eq!(
        &said[said.len() - 2..],
        ["2026-03-02 14:30 missed 2026-03-02 14:00", "2026-03-02 14:30 fired 2026-03-02 14:00"]
    );
    world.pass(HOUR);
    assert_eq!(times(&mut world), "15:00");
    let firings = world.table.firings(&schedule("report"));
    let catch_up = firings.iter().find(|firing| firing.cause == Cause::CatchUp).unwrap();
    assert_eq!((catch_up.missed, catch_up.slot), (5, utc("2026-03-02 14:00")));
    assert_eq!(world.table.listed()[0].missed, 5);
}

#[test]
fn a_catch_up_tells_how_late_it_is() {
    let mut world = world("2026-03-02 08:30");
    world.arm(&schedule("report"), cron("0 9 * * *"));
    world.sleep(HOUR);
    let starts = world.started();
    let (_, firing, payload) = &starts[0];
    assert_eq!(firing.slot, utc("2026-03-02 09:00"));
    assert_eq!((payload.cause, payload.missed, payload.late_ms), (Cause::CatchUp, 1, 30 * MINUTE));
}

#[test]
fn without_persistent_what_was_missed_is_counted_and_not_run() {
    let mut world = world("2026-03-02 08:30");
    world.arm(&schedule("report"), Settings { persistent: false, ..cron("0 * * * *") });
    world.sleep(5 * HOUR);
    assert_eq!(times(&mut world), "");
    assert_eq!(world.table.listed()[0].missed, 5);
    world.pass(HOUR);
    assert_eq!(times(&mut world), "14:00");
}

#[test]
fn a_slot_that_is_less_than_a_minute_late_is_a_slot_and_not_missed() {
    let mut world = world("2026-03-02 08:59");
    world.arm(&schedule("report"), Settings { persistent: false, ..cron("0 * * * *") });
    world.replace_loomd(MINUTE + 50_000);
    let starts = world.started();
    assert_eq!((starts.len(), starts[0].2.cause, starts[0].2.late_ms), (1, Cause::Slot, 50_000));
}

#[test]
fn a_randomized_delay_is_the_same_after_a_restart_and_within_its_limit() {
    let settings = Settings { randomized_delay: Millis(30 * MINUTE), ..cron("0 9 * * *") };
    let start = |restart_at: Option<u64>, name: &str| {
        let mut world = world("2026-03-02 08:30");
        world.arm(&schedule(name), settings.clone());
        if let Some(at) = restart_at {
            world.pass(30 * MINUTE + at);
            assert_eq!(world.starts, 0, "it waits at {at} ms");
            world.replace_loomd(10);
        }
        world.pass(2 * HOUR);
        let starts = world.started();
        assert_eq!(starts.len(), 1);
        (starts[0].0 - utc("2026-03-02 09:00"), starts[0].2.cause)
    };
    let undisturbed = start(None, "report");
    assert!((1..=30 * MINUTE).contains(&undisturbed.0), "{undisturbed:?}");
    assert_eq!(start(Some(undisturbed.0 / 2), "report"), undisturbed);
    assert_eq!(start(Some(undisturbed.0 - 100), "report"), undisturbed);
    assert_ne!(start(None, "other").0, undisturbed.0);
}

#[test]
fn delays_differ_by_slot_unless_they_are_fixed() {
    let delays = |fixed_random_delay| {
        let mut world = world("2026-03-02 08:30");
        let settings = Settings { randomized_delay: Millis(10 * MINUTE), fixed_random_delay, ..cron("0 * * * *") };
        world.arm(&schedule("report"), settings);
        world.pass(10 * HOUR);
        world.started().iter().map(|(at, firing, _)| at - firing.slot).collect::<BTreeSet<_>>().len()
    };
    assert_eq!((delays(true), delays(false)), (1, 10));
}

#[test]
fn the_catch_up_is_spread_after_boot_and_after_sleep() {
    for by_boot in [true, false] {
        let mut world = world("2026-03-02 08:30");
        let settings = Settings { randomized_delay: Millis(10 * MINUTE), ..cron("30 9 * * *") };
        let names: Vec<_> = (0..3).map(|n| schedule(&format!("report-{n}"))).collect();
        for name in &names {
            world.arm(name, settings.clone());
        }
        if by_boot {
            world.reboot(3 * HOUR)
        } else {
            world.sleep(3 * HOUR)
        }
        let woke = world.now().wall;
        assert_eq!(world.starts, 0);
        assert!(world.table.listed().iter().all(|listed| listed.stand == Stand::CatchUp));
        // A restart inside the wait keeps it.
        world.replace_loomd(1_000);
        world.pass(11 * MINUTE);
        let starts = world.started();
        let waits: BTreeSet<u64> = starts.iter().map(|(at, ..)| at - woke).collect();
        assert_eq!(waits.len(), 3, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= 10 * MINUTE), "{waits:?}");
    }
}

#[test]
fn at_most_four_catch_ups_are_in_flight() {
    let mut world = world("2026-03-02 08:30");
    world.run_ms = 5 * MINUTE;
    for n in 0..10 {
        let unit = unit(&format!("reporter-{n}.agent"));
        world.arm(&schedule(&format!("report-{n}")), Settings { unit, ..cron("0 9 * * *") });
    }
    world.reboot(3 * HOUR);
    assert_eq!(world.starts, CATCH_UPS_MAX as u64);
    world.pass(4 * MINUTE);
    assert_eq!(world.starts, 4);
    world.pass(2 * MINUTE);
    assert_eq!(world.starts, 8);
    world.pass(10 * MINUTE);
    assert_eq!(world.starts, 10);
}

#[test]
fn a_catch_up_that_never_ends_does_not_hold_the_others_for_ever() {
    let mut world = world("2026-03-02 08:30");
    world.run_ms = 100 * DAY;
    for n in 0..5 {
        let unit = unit(&format!("reporter-{n}.agent"));
        world.arm(&schedule(&format!("report-{n}")), Settings { unit, ..cron("0 9 * * *") });
    }
    world.reboot(3 * HOUR);
    world.pass(9 * MINUTE);
    assert_eq!(world.starts, 4);
    world.pass(2 * MINUTE);
    assert_eq!(world.starts, 5);
}

#[test]
fn a_slot_that_comes_before_the_catch_up_takes_it_over() {
    let mut world = world("2026-03-02 08:30");
    let settings = Settings { randomized_delay: Millis(50 * MINUTE), fixed_random_delay: true, ..cron("0 * * * *") };
    world.arm(&schedule("report"), settings);
    let wait = world.table.next_wake().unwrap() - utc("2026-03-02 09:00");
    // Awake again just before the next slot's delay is over.
    world.sleep(30 * MINUTE + 3 * HOUR + wait - 2 * MINUTE);
    assert_eq!(world.starts, 0);
    world.pass(wait.max(3 * MINUTE) + MINUTE);
    let starts = world.started();
    assert_eq!(starts.len(), 1, "{starts:?}");
    assert_eq!((starts[0].2.cause, starts[0].2.missed), (Cause::Slot, 3));
}

#[test]
#[rustfmt::skip]
fn each_overlap_does_what_it_says() {
    // Slots at 09:00, 09:10 and so on; a run takes 25 minutes.
    for (overlap, template, expected) in [
        (Overlap::Skip,     false, "09:00 fired 09:00, 09:10 skipped 09:10, 09:20 skipped 09:20, 09:25 finished 09:00, 09:30 fired 09:30"),
        (Overlap::QueueOne, false, "09:00 fired 09:00, 09:10 queued 09:10, 09:20 skipped 09:20, 09:25 finished 09:00, 09:25 fired 09:10, 09:30 queued 09:30"),
        (Overlap::Restart,  false, "09:00 fired 09:00, 09:10 interrupted 09:00, 09:10 fired 09:10, 09:20 interrupted 09:10, 09:20 fired 09:20, 09:30 interrupted 09:20, 09:30 fired 09:30"),
        (Overlap::Parallel, true,  "09:00 fired 09:00, 09:10 fired 09:10, 09:20 fired 09:20, 09:25 finished 09:00, 09:30 fired 09:30"),
    ] {
        let mut world = world("2026-03-02 08:55");
        world.run_ms = 25 * MINUTE;
        let unit = unit(if template { "reporter@.agent" } else { "reporter.agent" });
        world.arm(&schedule("report"), Settings { unit, overlap, ..cron("*/10 * * * *") });
        world.pass(36 * MINUTE);
        let said = world.said().iter().map(|line| line.replace("2026-03-02 ", "")).collect::<Vec<_>>().join(", ");
        assert_eq!(said, expected, "{overlap:?}");
    }
}

#[test]
fn parallel_starts_an_instance_for_each_slot() {
    let mut world = world("2026-03-02 08:55");
    let settings = Settings { unit: unit("reporter@.agent"), overlap: Overlap::Parallel, ..cron("0 9 * * *") };
    world.arm(&schedule("report"), settings);
    world.pass(10 * MINUTE);
    let started = world.seen.iter().find_map(|seen| match &seen.effect {
        Effect::Start { unit, .. } => Some(unit.to_string()),
        Effect::Record { .. }
        | Effect::Forget { .. }
        | Effect::Restart { .. }
        | Effect::Said { .. }
        | Effect::Failed { .. } => None,
    });
    assert_eq!(started.unwrap(), format!("reporter@{}.agent", utc("2026-03-02 09:00")));
}

#[test]
fn an_adopted_run_keeps_its_firing_open_and_closes_it() {
    let mut world = world("2026-03-02 08:55");
    world.run_ms = 30 * MINUTE;
    world.arm(&schedule("report"), cron("0 * * * *"));
    world.pass(10 * MINUTE);
    world.replace_loomd(MINUTE);
    assert_eq!(world.table.listed()[0].stand, Stand::Running);
    world.pass(HOUR / 2);
    let last = world.table.listed()[0].last.clone().unwrap();
    assert_eq!((last.slot, last.state), (utc("2026-03-02 09:00"), FiringState::Finished));
    assert_eq!(world.starts, 1);
}

#[test]
#[rustfmt::skip]
fn a_lost_run_is_reported_or_run_again() {
    for (on_interrupted, starts, attempts) in [(OnInterrupted::Report, 1, vec![0]), (OnInterrupted::Rerun, 2, vec![0, 1])] {
        let mut world = world("2026-03-02 08:55");
        world.run_ms = 30 * MINUTE;
        world.arm(&schedule("report"), Settings { on_interrupted, ..cron("0 * * * *") });
        world.pass(10 * MINUTE);
        world.reboot(MINUTE);
        world.pass(20 * MINUTE);
        assert_eq!(world.starts, starts, "{on_interrupted:?}");
        let firings = world.table.firings(&schedule("report"));
        assert_eq!(firings[0].state, FiringState::Interrupted("its run was lost".into()));
        assert_eq!(firings.iter().map(|firing| firing.attempt).collect::<Vec<_>>(), attempts);
        assert!(firings.iter().all(|firing| firing.slot == utc("2026-03-02 09:00")));
    }
}

#[test]
fn a_slot_that_kills_the_machine_is_run_again_only_so_often() {
    let mut world = world("2026-03-02 08:55");
    world.run_ms = 30 * MINUTE;
    world.arm(&schedule("report"), Settings { on_interrupted: OnInterrupted::Rerun, ..cron("0 9 * * *") });
    world.pass(6 * MINUTE);
    for _ in 0..10 {
        world.reboot(1_000);
        world.pass(1_000);
    }
    assert_eq!(world.starts, 4);
}

#[test]
fn a_start_that_loomd_died_before_is_made_once() {
    // Record, then the word, then the start: it dies before each of them.
    for effects in 0..4 {
        let mut world = world("2026-03-02 08:55");
        world.arm(&schedule("report"), cron("0 9 * * *"));
        world.crash_after = Some(effects);
        world.pass(10 * MINUTE);
        assert_eq!(world.starts, 1, "it died after {effects} effects");
        world.wind_up();
    }
}

#[test]
fn what_a_person_stopped_has_missed_nothing() {
    let mut world = world("2026-03-02 08:30");
    let report = schedule("report");
    world.arm(&report, cron("0 * * * *"));
    world.disarm(&report);
    world.pass(3 * HOUR);
    world.arm(&report, cron("0 * * * *"));
    assert_eq!((world.starts, world.table.listed()[0].missed), (0, 0));
    world.disarm(&report);
    world.reboot(3 * HOUR);
    assert_eq!(world.table.listed()[0].stand, Stand::Inactive);
    world.arm(&report, cron("0 * * * *"));
    assert_eq!(world.starts, 0);
}

#[test]
fn a_changed_rhythm_has_missed_nothing() {
    let mut world = world("2026-03-02 12:30");
    let report = schedule("report");
    world.arm(&report, cron("0 13 * * *"));
    world.pass(HOUR);
    assert_eq!(times(&mut world), "13:00");
    // Changed while loomd runs, and while it does not.
    let zones = Box::new(Zones::new("Europe/Berlin").unwrap());
    let changed = cron("15 13,14 * * *");
    world.settings.insert(report.clone(), changed.clone());
    world.tell(Event::Reloaded { schedules: BTreeMap::from([(report.clone(), changed)]), zones });
    assert_eq!(world.table.next_wake(), Some(utc("2026-03-02 14:15")));
    world.settings.insert(report.clone(), cron("20 13 * * *"));
    world.replace_loomd(10);
    assert_eq!(world.table.next_wake(), Some(utc("2026-03-03 13:20")));
    assert_eq!(times(&mut world), "");
}

#[test]
fn a_schedule_whose_file_is_gone_is_forgotten_once_its_run_ended() {
    let mut world = world("2026-03-02 08:55");
    world.run_ms = 10 * MINUTE;
    let report = schedule("report");
    world.arm(&report, cron("0 9 * * *"));
    world.pass(6 * MINUTE);
    world.disarm(&report);
    let zones = Box::new(Zones::new("Europe/Berlin").unwrap());
    world.tell(Event::Reloaded { schedules: BTreeMap::new(), zones });
    assert_eq!(world.store.len(), 1);
    world.pass(10 * MINUTE);
    assert_eq!(world.store.len(), 0);
}

#[test]
fn a_clock_that_is_set_back_fires_no_slot_twice() {
    let mut world = world("2026-03-02 08:30");
    world.arm(&schedule("report"), cron("0 * * * *"));
    world.pass(2 * HOUR);
    world.set_clock(-90 * MINUTE as i64);
    world.pass(3 * HOUR);
    // 09:00 and 10:00 came again, and passed.
    assert_eq!(times(&mut world), "09:00 10:00 11:00 12:00");
}

#[test]
fn a_clock_that_was_far_ahead_stops_nothing() {
    let mut world = world("2026-03-02 08:30");
    world.arm(&schedule("report"), cron("0 * * * *"));
    world.set_clock(4_000 * DAY as i64);
    let starts = world.started();
    assert_eq!((starts.len(), starts[0].2.missed), (1, 4_000 * 24));
    world.set_clock(-4_000 * DAY as i64);
    world.pass(2 * HOUR);
    assert_eq!(times(&mut world), "09:00 10:00");
}

#[test]
fn many_missed_slots_are_estimated() {
    let mut world = world("2026-03-02 08:30");
    world.arm(&schedule("report"), cron("*/5 * * * * *"));
    let begin = std::time::Instant::now();
    world.sleep(30 * DAY);
    assert!(begin.elapsed().as_millis() < 1_000, "{:?}", begin.elapsed());
    let starts = world.started();
    let (exact, found) = (30 * DAY / 5_000, starts[0].2.missed);
    assert!(found.abs_diff(exact) < exact / 100, "{found} of {exact}");
    assert_eq!((starts.len(), starts[0].1.slot), (1, world.now().wall));
}

#[test]
fn an_interval_counts_from_the_start_or_the_end_of_the_last_run() {
    for (from, expected) in [(EveryFrom::Start, "08:10 08:20 08:30"), (EveryFrom::End, "08:10 08:24 08:38")] {
        let mut world = world("2026-03-02 08:00");
        world.run_ms = 4 * MINUTE;
        let every = Every { period: Millis(10 * MINUTE), from, align: false };
        world.arm(&schedule("report"), Settings { every: Some(every), ..every_settings() });
        world.pass(40 * MINUTE - 1);
        assert_eq!(times(&mut world), expected, "{from:?}");
    }
}

fn every_settings() -> Settings {
    every(10 * MINUTE)
}

#[test]
fn an_aligned_interval_keeps_step_with_the_local_clock() {
    let mut world = world("2026-03-02 08:07");
    let aligned = Every { period: Millis(15 * MINUTE), from: EveryFrom::Start, align: true };
    let settings = Settings { every: Some(aligned), timezone: "Asia/Kathmandu".into(), ..every_settings() };
    world.arm(&schedule("report"), settings.clone());
    world.pass(HOUR);
    assert_eq!(times(&mut world), "08:15 08:30 08:45 09:00");
    let daily = Every { period: Millis(DAY), ..aligned };
    world.arm(&schedule("daily"), Settings { every: Some(daily), timezone: "Europe/Berlin".into(), ..settings });
    world.disarm(&schedule("report"));
    world.pass(28 * DAY);
    let starts = times(&mut world);
    assert!(starts.starts_with("23:00 23:00") && starts.ends_with("23:00 22:00"), "{starts}");
}

#[test]
fn an_interval_goes_on_over_restarts_sleep_and_the_setting_of_the_clock() {
    let mut world = world("2026-03-02 08:00");
    world.arm(&schedule("report"), every(HOUR));
    world.pass(50 * MINUTE);
    world.set_clock(-5 * HOUR as i64);
    world.replace_loomd(MINUTE);
    world.set_clock(5 * HOUR as i64);
    world.pass(20 * MINUTE);
    assert_eq!(times(&mut world), "09:00");
    world.reboot(20 * MINUTE);
    world.pass(30 * MINUTE);
    assert_eq!(times(&mut world), "10:00");
    world.sleep(150 * MINUTE);
    let starts = world.started();
    assert_eq!((starts.len(), starts[0].2.cause, starts[0].2.missed), (1, Cause::CatchUp, 2));
    world.reboot(5 * HOUR);
    let starts = world.started();
    assert_eq!((starts.len(), starts[0].2.cause, starts[0].2.missed), (1, Cause::CatchUp, 5));
}

#[test]
fn an_interval_is_never_longer_than_itself_though_the_clock_was_set_back_between_two_boots() {
    let mut world = world("2026-03-02 08:00");
    world.arm(&schedule("report"), every(HOUR));
    world.pass(10 * MINUTE);
    world.set_clock(-30 * DAY as i64);
    world.reboot(MINUTE);
    world.pass(HOUR);
    assert_eq!(world.starts, 1);
}

#[test]
fn on_startup_fires_once_in_each_life_of_loomd() {
    let mut world = world("2026-03-02 08:00");
    let report = schedule("report");
    world.arm(&report, Settings { on_startup: Some(Millis(10_000)), ..Settings::new(unit("reporter.agent")) });
    world.pass(HOUR);
    assert_eq!(world.starts, 1);
    assert_eq!(world.table.listed()[0].stand, Stand::Elapsed);
    let settings = world.settings[&report].clone();
    world.disarm(&report);
    world.arm(&report, settings);
    world.pass(HOUR);
    assert_eq!(world.starts, 1);
    world.replace_loomd(1_000);
    world.pass(9_000);
    assert_eq!(world.starts, 1);
    world.pass(2_000);
    assert_eq!(world.starts, 2);
}

#[test]
fn the_start_after_startup_is_spread_too() {
    let mut world = world("2026-03-02 08:00");
    for n in 0..5 {
        let (on_startup, randomized_delay) = (Some(Millis(10_000)), Millis(MINUTE));
        let unit = unit(&format!("reporter-{n}.agent"));
        let settings = Settings { on_startup, randomized_delay, ..Settings::new(unit) };
        world.arm(&schedule(&format!("report-{n}")), settings);
    }
    let begin = world.now().wall;
    world.pass(2 * MINUTE);
    let waits: BTreeSet<u64> = world.started().iter().map(|(at, ..)| at - begin).collect();
    assert!(waits.len() == 5 && waits.iter().all(|wait| (10_000..=70_000).contains(wait)), "{waits:?}");
}

#[test]
fn an_interval_tells_its_slot_by_the_clock_as_it_is_now() {
    let mut world = world("2026-03-02 08:00");
    world.arm(&schedule("report"), every(HOUR));
    world.set_clock(5 * DAY as i64);
    world.pass(HOUR);
    let starts = world.started();
    assert_eq!((starts.len(), starts[0].1.slot, starts[0].2.late_ms), (1, utc("2026-03-07 09:00"), 0));
    assert_eq!(starts[0].2.next, Some(utc("2026-03-07 10:00")));
}

#[test]
fn a_storm_fails_the_schedule_and_not_the_unit() {
    let mut world = world("2026-03-02 08:00");
    world.run_ms = 10;
    let report = schedule("report");
    let settings = Settings { limit_burst: 5, limit_interval: Millis(10_000), ..every(1_000) };
    world.arm(&report, settings.clone());
    world.pass(MINUTE);
    assert_eq!(world.starts, 5);
    let listed = &world.table.listed()[0];
    assert_eq!(listed.stand, Stand::Failed);
    assert!(listed.failed.as_ref().unwrap().contains("5 times within 10000 ms"), "{listed:?}");
    assert!(
        world.seen.iter().any(|seen| matches!(&seen.effect, Effect::Failed { schedule, .. } if *schedule == report))
    );
    // Started again by a person.
    world.arm(&report, settings);
    world.pass(3_500);
    assert_eq!((world.starts, world.table.listed()[0].stand), (8, Stand::Waiting));
}

#[test]
fn schedules_with_accuracy_share_a_wake_up() {
    let mut world = world("2026-03-02 08:00");
    for n in 0..20 {
        let unit = unit(&format!("reporter-{n}.agent"));
        let settings = Settings { unit, accuracy: Millis(60_000), ..cron(&format!("{} 0 9 * * *", n * 2)) };
        world.arm(&schedule(&format!("report-{n}")), settings);
    }
    assert_eq!(world.table.next_wake(), Some(utc("2026-03-02 09:01")));
    world.pass(2 * HOUR);
    let starts = world.started();
    let wakes: BTreeSet<u64> = starts.iter().map(|(at, ..)| *at).collect();
    assert_eq!((starts.len(), wakes), (20, BTreeSet::from([utc("2026-03-02 09:01")])));
}

#[test]
fn a_person_fires_a_schedule_by_hand() {
    let mut world = world("2026-03-02 08:00");
    world.run_ms = MINUTE;
    let report = schedule("report");
    world.arm(&report, cron("0 9 * * *"));
    let fire = || Event::Fire { schedule: schedule("report"), by: "anna".into() };
    world.tell(fire());
    world.tell(fire());
    let what: Vec<(What, String)> = world
        .seen
        .iter()
        .filter_map(|seen| match &seen.effect {
            Effect::Said { what, text, .. } => Some((*what, text.clone())),
            Effect::Record { .. }
            | Effect::Forget { .. }
            | Effect::Start { .. }
            | Effect::Restart { .. }
            | Effect::Failed { .. } => None,
        })
        .collect();
    assert_eq!(
        what,
        [(What::Fired, "it was fired by hand, by anna".to_owned()), (What::Skipped, "its unit still runs".to_owned())]
    );
    world.pass(2 * HOUR);
    assert_eq!(times(&mut world), "08:00 09:00");
    world.disarm(&report);
    world.tell(fire());
    assert_eq!(world.starts, 2);
}

#[test]
fn a_firing_that_was_handed_over_or_refused_is_closed() {
    let (table_now, report) = (utc("2026-03-02 09:00"), schedule("report"));
    let zones = Zones::default();
    let now = super::super::Now { wall: table_now - 1_000, boot: Millis(1_000) };
    let stored = BTreeMap::new();
    let (mut table, _) = super::super::Timetable::new("m", "b", zones, now, stored, |_, _| Found::Gone);
    table.handle(now, Event::Armed { schedule: report.clone(), settings: Box::new(cron("* * * * *")) });
    for (n, event) in [
        (0, Event::Delivered { firing: id(&report, table_now) }),
        (1, Event::Refused { firing: id(&report, table_now + MINUTE), because: "unit `db` failed".into() }),
    ] {
        let wall = table_now + n * MINUTE;
        let now = super::super::Now { wall, boot: Millis(2_000 + n * MINUTE) };
        let effects = table.handle(now, Event::Tick);
        assert!(matches!(effects.last(), Some(Effect::Start { .. })), "{effects:?}");
        table.handle(now, event);
    }
    let states: Vec<_> = table.firings(&report).iter().map(|firing| firing.state.clone()).collect();
    assert_eq!(states, [FiringState::Finished, FiringState::Failed("unit `db` failed".into())]);
}

fn id(schedule: &UnitId, slot: u64) -> FiringId {
    FiringId { schedule: schedule.clone(), slot, attempt: 0 }
}

#[test]
fn the_end_of_a_run_that_loomd_did_not_see_is_taken_from_what_is_known() {
    let mut world = world("2026-03-02 08:55");
    world.run_ms = HOUR;
    let report = schedule("report");
    world.arm(&report, cron("0 9 * * *"));
    world.pass(10 * MINUTE);
    let (zones, now, stored) = (world.zones.clone(), world.now(), world.store.clone());
    for (ok, state) in
        [(true, FiringState::Finished), (false, FiringState::Failed("its run failed while loomd was down".into()))]
    {
        let found = |_: &FiringId, _: &super::super::Firing| Found::Ended { run: RunId(1), ok };
        let (table, _) = super::super::Timetable::new("m", "b", zones.clone(), now, stored.clone(), found);
        assert_eq!(table.firings(&report)[0].state, state);
    }
}

#[test]
fn settings_that_cannot_work_are_refused_with_their_key() {
    let zones = Zones::default();
    let none = Settings::new(unit("a.agent"));
    for (key, settings) in [
        ("cron", none.clone()),
        ("cron", cron("61 * * * *")),
        ("calendar", Settings { calendar: vec!["12:00:00.5".into()], ..none.clone() }),
        ("timezone", Settings { timezone: "Mars/Olympus".into(), ..cron("* * * * *") }),
        ("every", every(10)),
        ("overlap", Settings { overlap: Overlap::Parallel, ..cron("* * * * *") }),
        ("unit", Settings { unit: unit("a@.agent"), ..cron("* * * * *") }),
        ("align", {
            let every = Every { period: Millis(HOUR), from: EveryFrom::End, align: true };
            Settings { every: Some(every), ..none.clone() }
        }),
    ] {
        assert_eq!(settings.check(&zones).expect_err(key).key, key);
    }
    let past = Settings { calendar: vec!["2020-01-01".into()], ..none };
    assert_eq!(past.check(&zones), Ok(()));
    assert_eq!(past.never_elapses(&zones, utc("2026-01-01 00:00")), Ok(true));
    assert_eq!(past.never_elapses(&zones, utc("2019-01-01 00:00")), Ok(false));
    assert_eq!(every(1_000).never_elapses(&zones, 0), Ok(false));
}

#[test]
fn a_record_and_the_name_of_a_firing_read_back_as_they_were_written() {
    let mut world = world("2026-03-02 08:30");
    world.arm(&schedule("report"), cron("0 * * * *"));
    world.pass(10 * HOUR);
    world.reboot(3 * HOUR);
    for record in world.store.values() {
        let text = serde_json::to_string(record).unwrap();
        assert_eq!(&serde_json::from_str::<super::super::Record>(&text).unwrap(), record);
        assert!(text.len() < 8_192, "{} bytes", text.len());
    }
    for text in ["report.schedule/1774746000000", "report.schedule/1774746000000/2"] {
        assert_eq!(text.parse::<FiringId>().unwrap().to_string(), text);
    }
    for text in ["", "report.schedule", "report/1", "report.schedule/x", "report.schedule/1/2/3"] {
        assert!(text.parse::<FiringId>().is_err(), "{text}");
    }
}

/// Schedules of every sort, each with a unit of its own.
fn zoo() -> Vec<(UnitId, Settings)> {
    let own = |n: usize, settings: Settings| {
        let unit = match settings.overlap {
            Overlap::Parallel => unit(&format!("unit-{n}@.agent")),
            Overlap::Skip | Overlap::QueueOne | Overlap::Restart => unit(&format!("unit-{n}.agent")),
        };
        (schedule(&format!("s{n}")), Settings { unit, ..settings })
    };
    let berlin = |settings: Settings| Settings { timezone: "Europe/Berlin".into(), ..settings };
    let aligned = Every { period: Millis(7 * MINUTE), from: EveryFrom::Start, align: true };
    let from_end = Every { period: Millis(20 * MINUTE), from: EveryFrom::End, align: false };
    [
        cron("*/10 * * * *"),
        Settings { overlap: Overlap::QueueOne, ..cron("*/5 * * * *") },
        Settings { overlap: Overlap::Restart, on_interrupted: OnInterrupted::Rerun, ..cron("0 * * * *") },
        Settings { overlap: Overlap::Parallel, ..cron("*/7 * * * *") },
        berlin(Settings { randomized_delay: Millis(10 * MINUTE), ..cron("5,35 2,8 * * *") }),
        berlin(Settings { calendar: vec!["Mon..Fri *:0/15".into()], persistent: false, ..cron("30 2 * * *") }),
        every(13 * MINUTE),
        Settings { every: Some(from_end), on_interrupted: OnInterrupted::Rerun, ..every(HOUR) },
        berlin(Settings { every: Some(aligned), accuracy: Millis(30_000), ..every(HOUR) }),
        Settings { on_startup: Some(Millis(5_000)), randomized_delay: Millis(HOUR), ..cron("15 */4 * * *") },
    ]
    .into_iter()
    .enumerate()
    .map(|(n, settings)| own(n, settings))
    .collect()
}

#[derive(Debug, Clone)]
enum Deed {
    ReplaceLoomd(u64),
    Reboot(u64),
    CrashAfter(usize),
    Sleep(u64),
    SetClock(i64),
    Stop(usize),
    Start(usize),
    Fire(usize),
    Reload(usize),
    Tick,
}

fn any_deed() -> impl Strategy<Value = Deed> {
    let one = 0..zoo().len();
    prop_oneof![
        3 => (0..10 * HOUR).prop_map(Deed::ReplaceLoomd),
        2 => (0..50 * HOUR).prop_map(Deed::Reboot),
        4 => (0usize..12).prop_map(Deed::CrashAfter),
        3 => (0..10 * HOUR).prop_map(Deed::Sleep),
        3 => (-(10 * HOUR as i64)..10 * HOUR as i64).prop_map(Deed::SetClock),
        1 => (-(400 * DAY as i64)..400 * DAY as i64).prop_map(Deed::SetClock),
        1 => one.clone().prop_map(Deed::Stop),
        2 => one.clone().prop_map(Deed::Start),
        2 => one.clone().prop_map(Deed::Fire),
        1 => one.prop_map(Deed::Reload),
        1 => Just(Deed::Tick),
    ]
}

fn tell_story(world: &mut World, story: &[(u64, Deed)]) {
    let zoo = zoo();
    for (schedule, settings) in &zoo {
        world.arm(schedule, settings.clone());
    }
    for (pause, deed) in story {
        world.pass(*pause);
        match deed {
            Deed::ReplaceLoomd(down_ms) => world.replace_loomd(*down_ms),
            Deed::Reboot(down_ms) => world.reboot(*down_ms),
            Deed::CrashAfter(effects) => world.crash_after = Some(*effects),
            Deed::Sleep(ms) => world.sleep(*ms),
            Deed::SetClock(by) => world.set_clock(*by),
            Deed::Stop(n) => world.disarm(&zoo[*n].0),
            Deed::Start(n) => world.arm(&zoo[*n].0, zoo[*n].1.clone()),
            Deed::Fire(n) => world.tell(Event::Fire { schedule: zoo[*n].0.clone(), by: "chance".into() }),
            Deed::Reload(n) => {
                let settings = world.settings.get_mut(&zoo[*n].0).unwrap();
                world.former.push(settings.clone());
                if let Some(pattern) = settings.cron.first_mut() {
                    *pattern =
                        if pattern.starts_with("*/3") { zoo[*n].1.cron[0].clone() } else { "*/3 * * * *".into() };
                }
                let zones = Box::new(world.zones.clone());
                let schedules = world.settings.clone();
                world.tell(Event::Reloaded { schedules, zones });
            }
            Deed::Tick => world.tell(Event::Tick),
        }
    }
    world.pass(DAY);
    world.wind_up();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn no_story_breaks_a_promise(
        seed in any::<u64>(),
        story in prop::collection::vec((prop_oneof![0u64..2_000, 0u64..20 * MINUTE, 0u64..3 * HOUR], any_deed()), 0..30),
    ) {
        let mut world = World::new(utc("2026-03-28 20:00"), seed);
        (world.run_ms, world.random) = (30 * MINUTE, true);
        tell_story(&mut world, &story);
    }
}

#[test]
fn no_slot_is_lost_over_a_thousand_hours_of_crashes_reboots_and_sleep() {
    let mut world = World::new(utc("2026-03-10 20:00"), 42);
    (world.run_ms, world.random) = (20 * MINUTE, true);
    let persistent: Vec<_> =
        zoo().into_iter().filter(|(_, settings)| settings.persistent && !settings.cron.is_empty()).collect();
    for (schedule, settings) in &persistent {
        world.arm(schedule, settings.clone());
    }
    let begin = world.now().wall;
    let mut seen = vec![];
    while world.now().wall < begin + 1_000 * HOUR {
        let pause = world.draw(12 * HOUR);
        world.pass(pause);
        let length = world.draw(4 * HOUR);
        match world.draw(4) {
            0 => world.replace_loomd(length),
            1 => world.reboot(length),
            2 => world.sleep(length),
            _ => {}
        }
        seen.append(&mut world.seen);
    }
    // Past every delay.
    world.pass(2 * HOUR);
    seen.append(&mut world.seen);
    assert!(world.starts > 5_000, "only {} starts", world.starts);
    for (schedule, settings) in &persistent {
        let record = &world.store[schedule];
        let all = settings.slots(&world.zones, begin, 200_000).unwrap();
        let all: BTreeSet<u64> = all.into_iter().take_while(|slot| *slot <= record.cursor).collect();
        let mut told: BTreeMap<u64, What> = BTreeMap::new();
        let (mut made_up, mut missed) = (0, 0);
        for seen in seen.iter().filter_map(|seen| match &seen.effect {
            Effect::Said { schedule: of, slot: Some(slot), what, .. } if of == schedule => Some((*slot, *what)),
            Effect::Start { firing, payload, .. } | Effect::Restart { firing, payload, .. }
                if firing.schedule == *schedule =>
            {
                made_up += payload.missed;
                None
            }
            Effect::Record { .. }
            | Effect::Forget { .. }
            | Effect::Start { .. }
            | Effect::Restart { .. }
            | Effect::Said { .. }
            | Effect::Failed { .. } => None,
        }) {
            match seen {
                (slot, What::Missed) => {
                    // Every slot since the one before.
                    let first = told.keys().next_back().copied().unwrap_or(begin);
                    missed += all.range(first + 1..=slot).count() as u64;
                    told.insert(slot, What::Missed);
                }
                (slot, what @ (What::Fired | What::Queued | What::Skipped)) if all.contains(&slot) => {
                    told.entry(slot).or_insert(what);
                }
                (
                    _,
                    What::Fired
                    | What::Queued
                    | What::Skipped
                    | What::Finished
                    | What::Failed
                    | What::Interrupted
                    | What::LimitHit
                    | What::Refused,
                ) => {}
            }
        }
        assert_eq!(record.missed, missed, "{schedule}: every slot that was not told of was missed");
        let passed = told.values().filter(|what| **what != What::Missed).count() as u64;
        assert_eq!(passed + missed, all.len() as u64, "{schedule}: each slot was told of or missed");
        assert!(made_up > 0 && made_up <= missed, "{schedule}: {made_up} of {missed} made up for");
    }
    world.wind_up();
}

#[test]
fn a_thousand_schedules_answer_within_a_millisecond() {
    let mut world = world("2026-03-02 08:00");
    for n in 0..1_000 {
        let unit = unit(&format!("unit-{n}.agent"));
        world.arm(&schedule(&format!("s{n}")), Settings { unit, ..cron(&format!("{} {} * * *", n % 60, n % 24)) });
    }
    // The best of many: others use the machine too.
    let mut best = u128::MAX;
    for _ in 0..50 {
        let begin = std::time::Instant::now();
        world.table.handle(world.now(), Event::Tick);
        world.table.next_wake();
        best = best.min(begin.elapsed().as_micros());
    }
    assert!(best < 1_000, "{best} µs");
}
