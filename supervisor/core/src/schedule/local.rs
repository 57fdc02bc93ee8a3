//! local: from patterns of local time to instants.
//!
//! Job: the first instant at which a pattern of local times holds, across changes of the clock.
//! May touch: `zone`. May not: clocks.
//! Keeps: the answer is later than the time asked for; a search ends, at the latest after [`HORIZON_MS`].
//!
//! Time is cut into stretches of equal offset, so within one stretch local times and instants differ by a constant.
//!
//! | pattern | in a gap (clock forward) | in an overlap (clock back) |
//! |---|---|---|
//! | fixed time | once, at the first instant after it, even if several fell into it | once, in the first pass |
//! | any other | not at all | in both passes |

use super::zone::Zone;

/// How far ahead an elapse is looked for: ten years. What does not elapse until then never does.
pub const HORIZON_MS: i64 = 3_653 * DAY_MS;

pub(super) const DAY_MS: i64 = 86_400_000;

/// A pattern of local times, in milliseconds since 1970-01-01 00:00 local time.
pub(super) trait Local: std::fmt::Debug {
    /// The first local time at or after `from` and before `before` that the pattern names.
    fn next_local(&self, from: i64, before: i64) -> Option<i64>;
    /// Whether it names times of day rather than a rhythm.
    fn is_fixed(&self) -> bool;
}

/// The first instant after `after` at which the pattern holds, if there is one within [`HORIZON_MS`].
pub(super) fn next_instant(pattern: &dyn Local, zone: &Zone, after: i64) -> Option<i64> {
    let end = after.checked_add(HORIZON_MS)?;
    let mut from = after + 1;
    while from <= end {
        let offset = zone.offset_at(from);
        let mut local = from + offset;
        if pattern.is_fixed()
            && let Some((start, before)) = zone.change_until(from)
        {
            let in_gap = from == start && pattern.next_local(start + before, start + offset).is_some();
            if in_gap {
                return Some(start);
            }
            // Until then the clock shows times that it has shown before.
            local = local.max(start + before);
        }
        let change = zone.change_after(from);
        let stop = change.map_or(end, |change| change.min(end));
        if let Some(found) = pattern.next_local(local, stop + offset) {
            return Some(found - offset);
        }
        from = change?;
    }
    None
}

/// A day of the Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Day {
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 is Monday.
    pub weekday: u8,
}

impl Day {
    /// The day that is `days` after 1970-01-01. Counted from 1 March of year 0, so that the leap day is a year's last.
    pub fn from_days(days: i64) -> Self {
        let shifted = days + 719_468;
        let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: (era * 400 + year_of_era + i64::from(month <= 2)) as i32,
            month: month as u8,
            day: (of_year - (153 * from_march + 2) / 5 + 1) as u8,
            weekday: (days + 3).rem_euclid(7) as u8,
        }
    }

    /// How many days its month has.
    pub fn month_length(self) -> u8 {
        match self.month {
            2 if self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }
}

/// Times of day: every combination of these hours, minutes and seconds; bit n stands for n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    pub hours: u64,
    pub minutes: u64,
    pub seconds: u64,
}

impl Times {
    /// The first one at or after a second of the day.
    fn next(self, from: i64) -> Option<i64> {
        let at_or_after = |set: u64, from: i64| match set.checked_shr(from as u32) {
            Some(rest) if rest != 0 => Some(from + i64::from(rest.trailing_zeros())),
            Some(_) | None => None,
        };
        let (hour, minute, second) = (from / 3_600, from / 60 % 60, from % 60);
        let (first_minute, first_second) = (at_or_after(self.minutes, 0)?, at_or_after(self.seconds, 0)?);
        let found = at_or_after(self.hours, hour)?;
        if found > hour {
            return Some(found * 3_600 + first_minute * 60 + first_second);
        }
        match at_or_after(self.minutes, minute) {
            Some(found) if found > minute => return Some(hour * 3_600 + found * 60 + first_second),
            Some(_) => {
                if let Some(found) = at_or_after(self.seconds, second) {
                    return Some(hour * 3_600 + minute * 60 + found);
                }
                if let Some(found) = at_or_after(self.minutes, minute + 1) {
                    return Some(hour * 3_600 + found * 60 + first_second);
                }
            }
            None => {}
        }
        let found = at_or_after(self.hours, hour + 1)?;
        Some(found * 3_600 + first_minute * 60 + first_second)
    }
}

/// The first local time in `from..before`, in milliseconds, on a day that matches.
pub(super) fn search(matches: impl Fn(Day) -> bool, times: Times, from: i64, before: i64) -> Option<i64> {
    // Patterns know whole seconds.
    let from = from.div_euclid(1_000) + i64::from(from.rem_euclid(1_000) > 0);
    let mut days = from.div_euclid(86_400);
    let mut second = from.rem_euclid(86_400);
    while days * DAY_MS < before {
        if matches(Day::from_days(days))
            && let Some(found) = times.next(second)
        {
            return Some((days * 86_400 + found) * 1_000).filter(|found| *found < before);
        }
        (days, second) = (days + 1, 0);
    }
    None
}

/// Whether any day of the calendar's cycle of 400 years, from 1970 on, matches.
pub(super) fn some_day(matches: impl Fn(Day) -> bool) -> bool {
    (0..146_097).any(|days| matches(Day::from_days(days)))
}

/// An interval that keeps step with the local clock: at multiples of it, counted from 1970-01-01 00:00 local time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Aligned {
    pub every: i64,
}

impl Local for Aligned {
    fn next_local(&self, from: i64, before: i64) -> Option<i64> {
        let steps = from.div_euclid(self.every) + i64::from(from.rem_euclid(self.every) > 0);
        steps.checked_mul(self.every).filter(|found| *found < before)
    }

    /// Clocks change by an hour: what is longer is meant as a time of day.
    fn is_fixed(&self) -> bool {
        self.every > 3_600_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_follow_the_calendar() {
        let day = |year, month, day, weekday| Day { year, month, day, weekday };
        for (days, expected) in [
            (0, day(1970, 1, 1, 3)),
            (-1, day(1969, 12, 31, 2)),
            (11_016, day(2000, 2, 29, 1)),
            (20_541, day(2026, 3, 29, 6)),
            (84_006, day(2200, 1, 1, 2)),
        ] {
            assert_eq!(Day::from_days(days), expected);
        }
        let mut before = Day::from_days(-1);
        for days in 0..146_097 {
            let today = Day::from_days(days);
            let is_next = if before.day < before.month_length() {
                (today.year, today.month, today.day) == (before.year, before.month, before.day + 1)
            } else {
                today.day == 1 && today.month == before.month % 12 + 1
            };
            assert!(is_next, "{today:?} after {before:?}");
            assert_eq!(today.weekday, (before.weekday + 1) % 7);
            before = today;
        }
    }

    #[test]
    fn the_next_time_of_day_is_the_one_that_counting_finds() {
        let bits = |values: &[u32]| values.iter().fold(0_u64, |set, value| set | 1 << value);
        for (hours, minutes, seconds) in [
            (bits(&[0, 9, 23]), bits(&[0, 59]), bits(&[0])),
            (bits(&[5]), bits(&[30]), bits(&[15, 45])),
            ((1 << 24) - 1, (1 << 60) - 1, bits(&[7, 59])),
        ] {
            let times = Times { hours, minutes, seconds };
            let holds = |second: i64| {
                hours >> (second / 3_600) & 1 == 1
                    && minutes >> (second / 60 % 60) & 1 == 1
                    && seconds >> (second % 60) & 1 == 1
            };
            let mut expected = None;
            for second in (0..86_400).rev() {
                if holds(second) {
                    expected = Some(second);
                }
                assert_eq!(times.next(second), expected, "{times:?} from {second}");
            }
        }
    }
}
