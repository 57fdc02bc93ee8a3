//! What expressions mean, what is refused, and what happens when the clock changes.

use super::super::Problem;
use super::*;
use std::time::{Duration, Instant};

fn first_days(pattern: &str, count: usize) -> String {
    let cron = Cron::parse(pattern).unwrap();
    let mut at = utc("2023-12-31 23:59");
    let mut days = vec![];
    while days.len() < count {
        at = cron.next(&Zone::utc(), at).expect("it elapses");
        days.push(shown(at)[5..10].to_owned());
    }
    days.join(" ")
}

#[test]
#[rustfmt::skip]
fn each_cron_pattern_means_its_days() {
    // 2024-01-01 is a Monday.
    for (pattern, days) in [
        ("0 0 1 * *",         "01-01 02-01 03-01"),
        ("0 0 L * *",         "01-31 02-29 03-31"),
        ("0 0 LW * *",        "01-31 02-29 03-29"),
        ("0 0 15W * *",       "01-15 02-15 03-15 04-15 05-15 06-14"),
        ("0 0 1W * *",        "01-01 02-01 03-01 04-01 05-01 06-03"),
        ("0 0 * * MON#2",     "01-08 02-12 03-11"),
        ("0 0 * * 1#2",       "01-08 02-12 03-11"),
        ("0 0 * * friL",      "01-26 02-23 03-29"),
        ("0 0 * * 5L",        "01-26 02-23 03-29"),
        ("0 0 * * 0#L",       "01-28 02-25 03-31"),
        ("0 0 * * 7L",        "01-28 02-25 03-31"),
        ("0 0 * * 7",         "01-07 01-14"),
        ("0 0 * * 0",         "01-07 01-14"),
        ("0 0 * * Fri-Sun",   "01-05 01-06 01-07 01-12"),
        ("0 0 * * SUN-tue",   "01-01 01-02 01-07 01-08"),
        ("0 0 ? JAN,mar MON", "01-01 01-08 01-15 01-22 01-29 03-04"),
        // Both day fields restrict: either is enough.
        ("0 0 13 * FRI",      "01-05 01-12 01-13 01-19"),
        ("0 0 1-3 * MON",     "01-01 01-02 01-03 01-08"),
        // A field that starts with `*` does not restrict: both must hold.
        ("0 0 */2 * MON",     "01-01 01-15 01-29 02-05"),
        ("0 0 1-7 * */2",     "01-02 01-04 01-06 01-07 02-01"),
        ("0 0 13 * */5",      "09-13 10-13 12-13"),
        // A plus asks for both.
        ("0 0 13 * +FRI",     "09-13 12-13"),
        ("0 0 29 2 *",        "02-29 02-29"),
        ("@yearly",           "01-01 01-01"),
        ("@Monthly",          "01-01 02-01"),
        ("@weekly",           "01-07 01-14"),
        ("@midnight",         "01-01 01-02"),
    ] {
        assert_eq!(first_days(pattern, days.split(' ').count()), days, "{pattern}");
    }
}

#[test]
#[rustfmt::skip]
fn each_cron_pattern_means_its_times() {
    for (pattern, times) in [
        ("0 9-17 * * MON-FRI",    "09:00:00 10:00:00 11:00:00"),
        ("*/20 9 * * *",          "09:00:00 09:20:00 09:40:00 09:00:00"),
        ("5-20/5 1,3 * * *",      "01:05:00 01:10:00 01:15:00 01:20:00 03:05:00"),
        ("15,45 30 12 * * *",     "12:30:15 12:30:45 12:30:15"),
        ("*/30 0 0 1 1 * 2026",   "00:00:00 00:00:30"),
        ("@hourly",               "01:00:00 02:00:00"),
        ("  0   8 * * *  ",       "08:00:00"),
        ("0 8-8 * * *",           "08:00:00"),
    ] {
        let cron = Cron::parse(pattern).unwrap();
        let mut at = utc("2024-01-01 00:00") ;
        if pattern.ends_with("2026") { at = utc("2025-12-31 23:59"); }
        for time in times.split(' ') {
            at = cron.next(&Zone::utc(), at).unwrap();
            assert_eq!(&Zone::utc().show(at)[15..23], time, "{pattern}");
        }
    }
}

#[test]
fn a_year_that_has_passed_has_no_slot_left() {
    let cron = Cron::parse("0 0 0 1 1 * 2020").unwrap();
    assert_eq!(cron.next(&Zone::utc(), utc("2026-01-01 00:00")), None);
    let calendar = Calendar::parse("2020-01-01 00:00").unwrap();
    assert_eq!(calendar.next(&Zone::utc(), utc("2019-01-01 00:00")), Some(utc("2020-01-01 00:00")));
    assert_eq!(calendar.next(&Zone::utc(), utc("2020-01-01 00:00")), None);
}

fn place<'a>(text: &'a str, problem: &Problem) -> &'a str {
    &text[problem.at.clone()]
}

#[test]
#[rustfmt::skip]
fn a_bad_cron_pattern_is_refused_at_its_place_with_a_way_out() {
    for (pattern, at, what, help) in [
        ("",                    "",                "this has 0",              "write minute"),
        ("* * * *",             "* * * *",         "this has 4",              "write minute"),
        ("61 * * * *",          "61",              "`61` is no minute",       "0 to 59"),
        ("0 24 * * *",          "24",              "`24` is no hour",         "0 to 23"),
        ("0 0 0 * *",           "0",               "`0` is no day",           "1 to 31"),
        ("0 0 * 13 *",          "13",              "`13` is no month",        "JAN to DEC"),
        ("0 0 * * 8",           "8",               "`8` is no weekday",       "SUN to SAT"),
        ("0 0 * * MOM",         "MOM",             "`MOM` is no weekday",     "SUN to SAT"),
        ("0 0 * * 1MON",        "1MON",            "no weekday",              "SUN to SAT"),
        ("MON 0 * * *",         "MON",             "`MON` is no minute",      "0 to 59"),
        ("0 22-2 * * *",        "22-2",            "runs backwards",          "22-23,0-2"),
        ("0 0 * * SAT-MON",     "SAT-MON",         "runs backwards",          "6-6,0-1"),
        ("5/10 * * * *",        "5/10",            "a step needs a range",    "5-59/10"),
        ("/10 * * * *",         "/10",             "a step needs a range",    "0-59/10"),
        ("*/0 * * * *",         "0",               "`0` is no step",          "1 to 59"),
        ("*/60 * * * *",        "60",              "`60` is no step",         "1 to 59"),
        ("*/x * * * *",         "x",               "`x` is no step",          "1 to 59"),
        ("1,,2 * * * *",        "1,,2",            "an empty value",          "between two commas"),
        ("*,5 * * * *",         "*",               "`*` in a list",           "everything"),
        ("0 0 * * L",           "L",               "`L` alone",               "SATL"),
        ("0 0 * * MON#6",       "6",               "no such time",            "MON#1"),
        ("L 0 * * *",           "L",               "`L` is no minute",        "0 to 59"),
        ("0 0 -3 * *",          "",                "a day of the month is missing", "1 to 31"),
        ("0 0 +1 * *",          "+1",              "no day of the month",     "1 to 31"),
        ("@reboot",             "@reboot",         "no name",                 "on_startup"),
        ("@every 5m",           "@every 5m",       "no name",                 "key `every`"),
        ("@noon",               "@noon",           "no name",                 "@daily"),
        ("0 0 31 2 *",          "0 0 31 2 *",      "never elapses",           "days that exist"),
        ("0 0 30 2 ?",          "0 0 30 2 ?",      "never elapses",           "days that exist"),
        ("0 0 0 31 2,4,6 * *",  "0 0 0 31 2,4,6 * *", "never elapses",        "days that exist"),
        ("ä * * * *",           "ä",               "`ä` is no minute",        "0 to 59"),
    ] {
        let problem = Cron::parse(pattern).expect_err(pattern);
        assert!(problem.what.contains(what), "{pattern}: {problem:?}");
        assert!(problem.help.contains(help), "{pattern}: {problem:?}");
        assert_eq!(place(pattern, &problem), at, "{pattern}: {problem:?}");
    }
}

#[test]
#[rustfmt::skip]
fn a_bad_calendar_expression_is_refused_at_its_place_with_a_way_out() {
    for (text, at, what, help) in [
        ("",                      "",                "empty",                    "hourly"),
        ("12",                    "",                "ends too soon",            "hourly"),
        ("Mond 12:00",            "Mond",            "`Mond` is no weekday",     "Mon to Sun"),
        ("Fri..Mon",              "Fri..Mon",        "runs backwards",           "Fri..Sun,Mon..Mon"),
        ("Mon..",                 "",                "ends too soon",            "hourly"),
        ("*/5:00",                "*/5:00",          "a step after `*`",         "0/15"),
        ("25:00",                 "25",              "`25` is no hour",          "0 to 23"),
        ("12:60",                 "60",              "`60` is no minute",        "0 to 59"),
        ("*-13-01",               "13",              "`13` is no month",         "1 to 12"),
        ("1950-01-01",            "1950",            "`1950` is no year",        "1970 to 2199"),
        ("*-*~29",                "29",              "no day from the end",      "1 to 28"),
        ("*:0/60",                "0/60",            "a step that leaves",       "0 to 59"),
        ("*:5..1",                "5..1",            "runs backwards",           "smaller number"),
        ("*:0/0",                 "0",               "a step of 0",              "1 or more"),
        ("*:*:0/0.5",             "0.5",             "fractions of a second",    "key `every`"),
        ("12:00:00.25",           "00.25",           "fractions of a second",    "whole seconds"),
        ("2024-03-01T10:00",      "T",               "`T` after the date",       "a space"),
        ("12:00 europe/berlin",   "europe/berlin",   "no known time zone",       "`Europe/Berlin`"),
        ("12:00 CEST",            "CEST",            "no known time zone",       "Europe/Berlin"),
        ("@1.5",                  "@1.5",            "no such number",           "whole seconds"),
        ("*-02-30",               "*-02-30",         "never elapses",            "days that exist"),
        ("Mon 2024-01-02",        "Mon 2024-01-02",  "never elapses",            "days that exist"),
        ("12:00 x",               "x",               "no known time zone",       "Europe/Berlin"),
        ("täglich",               "t",               "no weekday",               "hourly"),
        ("12:00ä",                "ä",               "`ä` where",                "hourly"),
    ] {
        let problem = Calendar::parse(text).expect_err(text);
        assert!(problem.what.contains(what), "{text}: {problem:?}");
        assert!(problem.help.contains(help), "{text}: {problem:?}");
        assert_eq!(place(text, &problem), at, "{text}: {problem:?}");
    }
}

/// Berlin, 2026: forward on 29 March at 01:00 UTC (02:00 to 03:00), back on 25 October at 01:00 UTC (03:00 to 02:00).
#[test]
#[rustfmt::skip]
fn a_fixed_time_runs_once_on_the_days_when_the_clock_changes() {
    let gap = (utc("2026-03-29 00:00") - 1, utc("2026-03-29 02:00"));
    let overlap = (utc("2026-10-24 23:59"), utc("2026-10-25 02:00"));
    let times = |slots: Vec<u64>| slots.iter().map(|at| shown(*at)[11..].to_owned()).collect::<Vec<_>>().join(" ");
    for (pattern, in_gap, in_overlap) in [
        // Fixed: 03:00 summer time is 01:00 UTC; the first 02:30 of the overlap is 00:30 UTC.
        ("30 2 * * *",          "01:00",                   "00:30"),
        ("5,35 2 * * *",        "01:00",                   "00:05 00:35"),
        ("45 1,2,3 * * *",      "00:45 01:00 01:45",       "00:45"),
        ("0 2,3 * * *",         "01:00",                   "00:00"),
        ("0-59 2 * * *",        "01:00",                   ""),
        ("0 0-23 * * *",        "00:00 01:00",             "00:00"),
        ("* 30 2 * * *",        "01:00",                   ""),
        // All others follow elapsed time.
        ("*/20 2 * * *",        "",                        "00:00 00:20 00:40 01:00 01:20 01:40"),
        ("*/30 * * * *",        "00:00 00:30 01:00 01:30", "00:00 00:30 01:00 01:30"),
        ("0 * * * *",           "00:00 01:00",             "00:00 01:00"),
        ("30 * * * *",          "00:30 01:30",             "00:30 01:30"),
    ] {
        let in_overlap = match pattern {
            "0-59 2 * * *" => (0..60).map(|m| format!("00:{m:02}")).collect::<Vec<_>>().join(" "),
            "* 30 2 * * *" => vec!["00:30"; 60].join(" "),
            _ => in_overlap.to_owned(),
        };
        assert_eq!(times(cron_slots(pattern, "Europe/Berlin", gap.0, gap.1)), in_gap, "{pattern} in the gap");
        assert_eq!(times(cron_slots(pattern, "Europe/Berlin", overlap.0, overlap.1)), in_overlap, "{pattern} in the overlap");
    }
    for (text, in_gap, in_overlap) in [
        ("02:30",       "01:00",                   "00:30"),
        ("02:05,35",    "01:00",                   "00:05 00:35"),
        ("01..03:45",   "00:45 01:00 01:45",       "00:45"),
        ("02:0/20",     "",                        "00:00 00:20 00:40 01:00 01:20 01:40"),
        ("*:0/30",      "00:00 00:30 01:00 01:30", "00:00 00:30 01:00 01:30"),
        ("hourly",      "00:00 01:00",             "00:00 01:00"),
    ] {
        assert_eq!(times(calendar_slots(text, "Europe/Berlin", gap.0, gap.1)), in_gap, "{text} in the gap");
        assert_eq!(times(calendar_slots(text, "Europe/Berlin", overlap.0, overlap.1)), in_overlap, "{text} in the overlap");
    }
}

#[test]
fn zones_with_odd_changes_keep_the_rule() {
    // Lord Howe changes by half an hour; 2026-10-04 02:00 becomes 02:30.
    let lord_howe = cron_slots("15 2 * * *", "Australia/Lord_Howe", utc("2026-10-03 00:00"), utc("2026-10-05 00:00"));
    assert_eq!(lord_howe.iter().map(|at| shown(*at)).collect::<Vec<_>>(), ["2026-10-03 15:30", "2026-10-04 15:15"]);
    // Samoa had no 30 December 2011; its job runs when the 31st begins, that day's own follows.
    let apia = cron_slots("0 10 * * *", "Pacific/Apia", utc("2011-12-29 00:00"), utc("2012-01-01 00:00"));
    assert_eq!(
        apia.iter().map(|at| shown(*at)).collect::<Vec<_>>(),
        ["2011-12-29 20:00", "2011-12-30 10:00", "2011-12-30 20:00", "2011-12-31 20:00"]
    );
    // Beirut's day begins at 01:00 on the day of the change.
    let beirut = cron_slots("@daily", "Asia/Beirut", utc("2026-03-27 00:00"), utc("2026-03-31 00:00"));
    assert_eq!(
        beirut.iter().map(|at| shown(*at)).collect::<Vec<_>>(),
        ["2026-03-27 22:00", "2026-03-28 22:00", "2026-03-29 21:00", "2026-03-30 21:00"]
    );
}

/// Looks at every minute of a year and applies the rule as it is written.
#[test]
fn the_search_finds_what_looking_at_every_minute_finds() {
    let patterns =
        ["30 2 * * *", "5,35 1-3 * * *", "*/20 2 * * *", "*/45 * * * *", "17 3 * * *", "0 0 * * SUN", "15 */2 L * *"];
    for zone_name in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Beirut", "Asia/Kolkata"] {
        let zone = zone::named(zone_name).unwrap();
        for pattern in patterns {
            let cron = Cron::parse(pattern).unwrap();
            let is_fixed = !pattern.split(' ').take(2).any(|field| field.contains('*'));
            // Without a zone, in local time: what the pattern names.
            let (start, end) = (utc("2025-12-01 00:00"), utc("2026-12-31 00:00"));
            let mut named =
                slots(|at| cron.next(&Zone::utc(), at), start - 86_400_000, end + 86_400_000).into_iter().peekable();
            let mut expected = vec![];
            let mut at = start;
            let named_set: std::collections::BTreeSet<u64> = named.by_ref().collect();
            let mut latest_shown = at.wrapping_add_signed(zone.offset_at(at as i64)) - 60_000;
            while at < end {
                let local = at.wrapping_add_signed(zone.offset_at(at as i64));
                let holds = if is_fixed {
                    local > latest_shown && named_set.range(latest_shown + 1..=local).next().is_some()
                } else {
                    named_set.contains(&local)
                };
                if holds {
                    expected.push(at);
                }
                latest_shown = latest_shown.max(local);
                at += 60_000;
            }
            let found = slots(|at| cron.next(&zone, at), start - 1, end);
            let wrong = found.iter().zip(&expected).find(|(found, expected)| found != expected);
            assert_eq!(wrong.map(|(a, b)| (shown(*a), shown(*b))), None, "{pattern} in {zone_name}");
            assert_eq!(found.len(), expected.len(), "{pattern} in {zone_name}");
        }
    }
}

#[test]
fn an_expression_without_a_slot_is_refused_within_50_ms() {
    // The best of three: others use the machine too.
    let within_50_ms = |name: &str, is_refused: &dyn Fn() -> bool| {
        let took = (0..3).map(|_| {
            let begin = Instant::now();
            assert!(is_refused(), "{name}");
            begin.elapsed()
        });
        let best = took.min().unwrap();
        assert!(best < Duration::from_millis(50), "{name} took {best:?}");
    };
    for pattern in ["0 0 31 2 *", "0 0 30 2 ?", "0 0 0 31 4,6,9,11 * *", "* * * 30 2 * 2024"] {
        within_50_ms(pattern, &|| Cron::parse(pattern).is_err());
    }
    for text in ["*-02-30", "Mon 2024-01-02", "*-04,06-31 *:*:*", "2023-02-29"] {
        within_50_ms(text, &|| Calendar::parse(text).is_err());
    }
    // The dearest search: no slot in ten years, though the calendar has one.
    let never_soon = Cron::parse("0 0 29 2 +MON").unwrap();
    let berlin = zone::named("Europe/Berlin").unwrap();
    within_50_ms("0 0 29 2 +MON", &|| never_soon.next(&berlin, utc("2024-03-01 00:00")).is_none());
}
