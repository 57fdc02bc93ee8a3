//! when: a moment as a person writes it.
//!
//! Job: `--since` and `--until`: a span before now, a date, a time of day, or a word. May touch: nothing. Keeps: what is not
//! understood is refused with the forms that are.

use super::sys::Local;

/// Milliseconds since the epoch. `10min`, `-10min` and `10min ago` lie before `now_ms`.
pub fn parse(text: &str, now_ms: u64) -> Result<u64, String> {
    let text = text.trim();
    let today = Local::midnight(now_ms);
    let bad = || {
        "write a span such as `10min` or `2h`, a time `18:30`, a date `2026-07-20`, both `2026-07-20 18:30:00`, `@<seconds>`, `now`, \
         `today` or `yesterday`"
            .to_owned()
    };
    match text {
        "now" => return Ok(now_ms),
        "today" => return today.ms().ok_or_else(bad),
        "yesterday" => return Local { day: today.day - 1, ..today }.ms().ok_or_else(bad),
        _ => {}
    }
    if let Some(seconds) = text.strip_prefix('@') {
        let seconds: u64 = seconds.parse().map_err(|_| bad())?;
        return seconds.checked_mul(1000).ok_or_else(bad);
    }
    let span = text.strip_prefix('-').unwrap_or(text);
    let span = span.strip_suffix("ago").unwrap_or(span).trim();
    if let Ok(span) = crate::cli::duration(span) {
        return Ok(now_ms.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)));
    }
    let (date, time) = match text.split_once([' ', 'T']) {
        Some((date, time)) => (Some(date), Some(time)),
        None if text.contains(':') => (None, Some(text)),
        None => (Some(text), None),
    };
    let mut moment = today;
    if let Some(date) = date {
        let [year, month, day] = numbers(date, '-').and_then(|all| all.try_into().ok()).ok_or_else(bad)?;
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return Err(bad());
        }
        moment = Local { year, month, day, ..today };
    }
    if let Some(time) = time {
        let (hour, minute, second) = match numbers(time, ':').as_deref() {
            Some([hour, minute]) => (*hour, *minute, 0),
            Some([hour, minute, second]) => (*hour, *minute, *second),
            Some(_) | None => return Err(bad()),
        };
        if !(0..24).contains(&hour) || !(0..60).contains(&minute) || !(0..60).contains(&second) {
            return Err(bad());
        }
        moment = Local { hour, minute, second, ..moment };
    }
    moment.ms().ok_or_else(bad)
}

fn numbers(text: &str, between: char) -> Option<Vec<i32>> {
    text.split(between).map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_span_before_now_a_date_a_time_or_a_word() {
        let now = Local { year: 2026, month: 7, day: 20, hour: 12, minute: 30, second: 5 }.ms().unwrap();
        let at = |day, hour, minute, second| Local { year: 2026, month: 7, day, hour, minute, second }.ms().unwrap();
        for (text, expected) in [
            ("now", now),
            ("10min", now - 600_000),
            ("-2h", now - 7_200_000),
            ("2h ago", now - 7_200_000),
            ("today", at(20, 0, 0, 0)),
            ("yesterday", at(19, 0, 0, 0)),
            ("2026-07-18", at(18, 0, 0, 0)),
            ("2026-07-18 06:07", at(18, 6, 7, 0)),
            ("2026-07-18T06:07:08", at(18, 6, 7, 8)),
            ("06:07", at(20, 6, 7, 0)),
            ("@1700000000", 1_700_000_000_000),
        ] {
            assert_eq!(parse(text, now), Ok(expected), "{text}");
        }
        for bad in ["", "soon", "2026-13-01", "25:00", "2026-07", "@x", "1-2-3-4", "10"] {
            assert!(parse(bad, now).is_err(), "{bad}");
        }
    }
}
