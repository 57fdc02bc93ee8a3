//! calendar: systemd's calendar expressions.
//!
//! Job: text → expression, or what is wrong where; the normal form; the next slot of an expression.
//! May touch: `local`, `zone`. May not: clocks.
//! Keeps: what `systemd-analyze calendar` refuses is refused, what it takes means the same here, but for these differences:
//!
//! - Changes of the clock: an expression that names hours and minutes, without `*` and without an open repetition such as
//!   `0/15`, is a fixed time and does not fall into a gap unseen; all others follow elapsed time. systemd leaves out what
//!   falls into a gap, and the second pass of an overlap. See [`super::local`].
//! - An open repetition such as `0/7` begins anew with each hour, day or month. systemd leaves out the first value after the
//!   last repetition of a day (`0/7:00` runs at 00:00 only on the first day).
//! - Fractions of a second are refused by name. So are expressions that no day matches.
//! - Several late days from the end of a month, as in `*~20,26`, are taken; systemd refuses them.

use super::Problem;
use super::cron::never;
use super::local::{Day, Local, Times, next_instant, search, some_day};
use super::zone::{self, Zone, Zones};
use std::fmt;
use std::ops::Range;

/// An expression that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    /// Bit 0 is Monday.
    weekdays: u8,
    year: Set,
    month: Set,
    day: Set,
    /// Days count from the end of the month: 1 is the last.
    from_end: bool,
    hour: Set,
    minute: Set,
    second: Set,
    zone: Option<String>,
}

/// The values of one part; `None` is `*`.
type Set = Option<Vec<Values>>;

/// `start`, `start/repeat`, `start..stop` or `start..stop/repeat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Values {
    start: u32,
    stop: Option<u32>,
    /// 0: the start alone.
    repeat: u32,
}

const ALL_DAYS: u8 = 0x7f;
/// systemd's.
const VALUES_MAX: usize = 240;
const YEARS: (u32, u32) = (1970, 2199);

const SHORTHANDS: &[(&str, &str)] = &[
    ("minutely", "*-*-* *:*:00"),
    ("hourly", "*-*-* *:00:00"),
    ("daily", "*-*-* 00:00:00"),
    ("weekly", "Mon *-*-* 00:00:00"),
    ("monthly", "*-*-01 00:00:00"),
    ("quarterly", "*-01,04,07,10-01 00:00:00"),
    ("semiannually", "*-01,07-01 00:00:00"),
    ("semi-annually", "*-01,07-01 00:00:00"),
    ("biannually", "*-01,07-01 00:00:00"),
    ("bi-annually", "*-01,07-01 00:00:00"),
    ("yearly", "*-01-01 00:00:00"),
    ("annually", "*-01-01 00:00:00"),
    ("anually", "*-01-01 00:00:00"),
];

const SHORT_DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const LONG_DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

const FORM: &str = "an expression is written like \"Mon..Fri *-*-* 09:00\", \"*-*-01 06:30:00\" or \"hourly\"";

/// The part of a text that is not read yet.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    end: usize,
}

impl Calendar {
    /// Reads an expression, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let calendar = Self::read(text)?;
        if some_day(|day| calendar.matches(day)) { Ok(calendar) } else { Err(never(text)) }
    }

    pub(super) fn read(text: &str) -> Result<Self, Problem> {
        if text.trim().is_empty() {
            return Err(Problem::new("an empty calendar expression", 0..text.len(), "no time", FORM));
        }
        let (end, zone) = split_zone(text)?;
        let shorthand = SHORTHANDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&text[..end]));
        let mut calendar = match shorthand {
            Some((_, meaning)) => Self::read(meaning)?,
            None => Reader { text, at: 0, end }.expression()?,
        };
        if calendar.zone.is_none() {
            calendar.zone = zone;
        }
        Ok(calendar)
    }

    /// The time zone that the expression itself names. It wins over the key `timezone`.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The zone that counts: the expression's own, else `fallback`.
    pub fn zone_in(&self, zones: &Zones, fallback: &Zone) -> Result<Zone, zone::ZoneError> {
        match &self.zone {
            Some(name) => zones.get(name),
            None => Ok(fallback.clone()),
        }
    }

    /// The first slot after an instant, both in milliseconds since the epoch; `None` if there is none within ten years.
    /// `zone` as [`Calendar::zone_in`] says.
    pub fn next(&self, zone: &Zone, after: u64) -> Option<u64> {
        next_instant(self, zone, i64::try_from(after).ok()?).map(|at| at as u64)
    }

    fn matches(&self, day: Day) -> bool {
        let year = u32::try_from(day.year).unwrap_or(0);
        if self.weekdays >> day.weekday & 1 == 0
            || !holds(&self.month, u32::from(day.month))
            || !(YEARS.0..=YEARS.1).contains(&year)
            || !holds(&self.year, year)
        {
            return false;
        }
        let (date, length) = (u32::from(day.day), u32::from(day.month_length()));
        match &self.day {
            None => true,
            Some(values) if !self.from_end => values.iter().any(|values| values.hold(date)),
            Some(values) => values.iter().any(|values| {
                // The third last to the last: from length - 2 up.
                let from_start = |nth: u32| (length + 1).saturating_sub(nth);
                let turned = match values.stop {
                    Some(stop) => Values { start: from_start(stop), stop: Some(from_start(values.start)), ..*values },
                    None => Values { start: from_start(values.start), ..*values },
                };
                turned.hold(date)
            }),
        }
    }

    fn times(&self) -> Times {
        let bits = |set: &Set, high: u32| (0..=high).filter(|n| holds(set, *n)).fold(0_u64, |bits, n| bits | 1 << n);
        Times { hours: bits(&self.hour, 23), minutes: bits(&self.minute, 59), seconds: bits(&self.second, 59) }
    }
}

impl Local for Calendar {
    fn next_local(&self, from: i64, before: i64) -> Option<i64> {
        search(|day| self.matches(day), self.times(), from, before)
    }

    fn is_fixed(&self) -> bool {
        let names_times = |set: &Set| {
            set.as_ref().is_some_and(|set| set.iter().all(|values| values.repeat == 0 || values.stop.is_some()))
        };
        names_times(&self.hour) && names_times(&self.minute)
    }
}

fn holds(set: &Set, value: u32) -> bool {
    set.as_ref().is_none_or(|set| set.iter().any(|values| values.hold(value)))
}

impl Values {
    fn hold(self, value: u32) -> bool {
        match (self.stop, self.repeat) {
            (None, 0) => value == self.start,
            (None, repeat) => value >= self.start && (value - self.start).is_multiple_of(repeat),
            (Some(stop), repeat) => {
                (self.start..=stop).contains(&value) && (value - self.start).is_multiple_of(repeat.max(1))
            }
        }
    }
}

/// Where the expression itself ends, and the zone behind it. `UTC` is known in any case.
fn split_zone(text: &str) -> Result<(usize, Option<String>), Problem> {
    let Some(space) = text.rfind(' ').filter(|space| *space > 0) else { return Ok((text.len(), None)) };
    let last = &text[space + 1..];
    if last.eq_ignore_ascii_case("UTC") {
        return Ok((space, Some("UTC".into())));
    }
    let starts_as_time = last.starts_with(|c: char| c.is_ascii_digit() || "*~@".contains(c));
    if last.is_empty() || starts_as_time {
        return Ok((text.len(), None));
    }
    if zone::known(last) {
        return Ok((space, Some(last.to_owned())));
    }
    let help = match zone::meant(last) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "a time zone is written like `Europe/Berlin`; without one the key `timezone` counts".to_owned(),
    };
    Err(Problem::new(format!("`{last}` is no known time zone"), space + 1..text.len(), "not a time zone", help))
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..self.end]
    }

    fn peek(&self) -> Option<u8> {
        self.rest().bytes().next()
    }

    fn skip_spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches(' ').len();
    }

    /// What stands at the place, up to the next space.
    fn here(&self) -> Range<usize> {
        let rest = self.rest();
        self.at..self.at + rest.find(' ').unwrap_or(rest.len()).max(rest.chars().next().map_or(0, char::len_utf8))
    }

    fn wrong<T>(&self, expected: &str) -> Result<T, Problem> {
        let at = self.here();
        let what = match &self.text[at.clone()] {
            "" => format!("`{}` ends too soon", self.text),
            " " => format!("a space where {expected} should be"),
            seen => format!("`{seen}` where {expected} should be"),
        };
        Err(Problem::new(what, at, format!("not {expected}"), FORM))
    }

    fn expression(mut self) -> Result<Calendar, Problem> {
        let mut calendar = Calendar {
            weekdays: ALL_DAYS,
            year: None,
            month: None,
            day: None,
            from_end: false,
            hour: None,
            minute: None,
            second: None,
            zone: None,
        };
        calendar.weekdays = self.weekdays()?;
        if self.peek() == Some(b'@') {
            return self.timestamp(calendar.weekdays);
        }
        self.date(&mut calendar)?;
        self.time(&mut calendar)?;
        Ok(calendar)
    }

    fn weekdays(&mut self) -> Result<u8, Problem> {
        let (mut bits, mut range_from): (u8, Option<(usize, usize)>) = (0, None);
        let start = self.at;
        loop {
            let rest = self.rest();
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let word = &rest[..letters];
            let same = |name: &str| name.eq_ignore_ascii_case(word);
            let Some(day) = SHORT_DAYS.iter().position(|n| same(n)).or_else(|| LONG_DAYS.iter().position(|n| same(n)))
            else {
                if letters == 0 && self.at == start {
                    return Ok(ALL_DAYS);
                }
                let here = if letters == 0 { self.here() } else { self.at..self.at + letters };
                let names = "weekdays are Mon to Sun, or in full; ranges \"Mon..Fri\", lists \"Sat,Sun\"";
                let help = if self.at == start { format!("{FORM}; {names}") } else { names.to_owned() };
                let what = format!("`{}` is no weekday", &self.text[here.clone()]);
                return Err(Problem::new(what, here, "not a weekday", help));
            };
            if let Some((from, at)) = range_from.take() {
                if from > day {
                    let text = &self.text[at..self.at + letters];
                    let help = format!("write \"{}..Sun,Mon..{}\"", SHORT_DAYS[from], SHORT_DAYS[day]);
                    let what = format!("the range `{text}` runs backwards");
                    return Err(Problem::new(what, at..self.at + letters, "backwards", help));
                }
                for between in from..=day {
                    bits |= 1 << between;
                }
                self.at += letters;
                if self.rest().starts_with("..") || self.rest().starts_with('-') {
                    return self.wrong("a comma or a space");
                }
            } else {
                bits |= 1 << day;
                let at = self.at;
                self.at += letters;
                if self.rest().starts_with("..") {
                    range_from = Some((day, at));
                    self.at += 2;
                } else if self.rest().starts_with('-') {
                    range_from = Some((day, at));
                    self.at += 1;
                }
            }
            match (self.peek(), range_from) {
                (None | Some(b' '), Some(_)) => return self.wrong("the last weekday of the range"),
                (_, Some(_)) => continue,
                (None, None) => return Ok(bits),
                (Some(b' '), None) => {
                    self.skip_spaces();
                    return Ok(bits);
                }
                (Some(b','), None) => {
                    self.at += 1;
                    // A comma at the end is let pass, as systemd does.
                    if matches!(self.peek(), None | Some(b' ')) {
                        self.skip_spaces();
                        return Ok(bits);
                    }
                }
                (Some(_), None) => return self.wrong("a comma, `..` or a space"),
            }
        }
    }

    /// `@` and seconds since the epoch.
    fn timestamp(mut self, weekdays: u8) -> Result<Calendar, Problem> {
        self.at += 1;
        let digits = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        let at = self.at..self.at + digits;
        let seconds = self.rest()[..digits].parse::<i64>().ok();
        let last = 7_258_118_399; // 2199-12-31 23:59:59
        let Some(seconds) = seconds.filter(|seconds| (0..=last).contains(seconds) && at.end == self.end) else {
            let help = "write whole seconds since 1970, up to the year 2199: \"@1700000000\"";
            return Err(Problem::new("no such number of seconds", self.at - 1..self.end, "not seconds", help));
        };
        let day = Day::from_days(seconds / 86_400);
        let one = |value: i64| Some(vec![Values { start: value as u32, stop: None, repeat: 0 }]);
        Ok(Calendar {
            weekdays,
            year: one(i64::from(day.year)),
            month: one(i64::from(day.month)),
            day: one(i64::from(day.day)),
            from_end: false,
            hour: one(seconds / 3_600 % 24),
            minute: one(seconds / 60 % 60),
            second: one(seconds % 60),
            zone: Some("UTC".into()),
        })
    }

    fn date(&mut self, calendar: &mut Calendar) -> Result<(), Problem> {
        if self.peek().is_none() {
            return Ok(());
        }
        let before = self.at;
        let first = self.chain(false)?;
        if self.peek() == Some(b':') {
            // It was the hour.
            self.at = before;
            return Ok(());
        }
        let mut from_end = self.date_mark()?;
        let second = self.chain(false)?;
        let (year, month, day) = match self.peek() {
            None | Some(b' ') => (None, first, second),
            Some(_) if from_end => return self.wrong("a space"),
            Some(_) => {
                from_end = self.date_mark()?;
                (Some(first), second, self.chain(false)?)
            }
        };
        if let Some(c) = self.peek().filter(|c| *c != b' ') {
            if c == b'T' {
                let help = "write a space between the date and the time";
                return Err(Problem::new("`T` after the date", self.at..self.at + 1, "a space", help));
            }
            return self.wrong("a space");
        }
        let years =
            |chain: Chain| Chain { parts: chain.parts.map(|parts| parts.into_iter().map(whole_year).collect()) };
        calendar.year = match year {
            Some(year) => check(years(year), "year", YEARS, false)?,
            None => None,
        };
        calendar.month = check(month, "month", (1, 12), false)?;
        calendar.day = if from_end {
            check(day, "day from the end of the month", (1, 28), true)?
        } else {
            check(day, "day", (1, 31), false)?
        };
        calendar.from_end = from_end && calendar.day.is_some();
        self.skip_spaces();
        Ok(())
    }

    /// `-`, or `~`, after which days count from the end of the month.
    fn date_mark(&mut self) -> Result<bool, Problem> {
        match self.peek() {
            Some(mark @ (b'-' | b'~')) => {
                self.at += 1;
                Ok(mark == b'~')
            }
            Some(_) | None => self.wrong("`-`, `~` or `:`"),
        }
    }

    fn time(&mut self, calendar: &mut Calendar) -> Result<(), Problem> {
        let zero = || Some(vec![Values { start: 0, stop: None, repeat: 0 }]);
        if self.peek().is_none() {
            (calendar.hour, calendar.minute, calendar.second) = (zero(), zero(), zero());
            return Ok(());
        }
        let hour = self.chain(false)?;
        if self.peek() != Some(b':') {
            return self.wrong("`:`");
        }
        self.at += 1;
        let minute = self.chain(false)?;
        calendar.hour = check(hour, "hour", (0, 23), false)?;
        calendar.minute = check(minute, "minute", (0, 59), false)?;
        calendar.second = match self.peek() {
            None => zero(),
            Some(b':') => {
                self.at += 1;
                let second = self.chain(true)?;
                check(second, "second", (0, 59), false)?
            }
            Some(_) => return self.wrong("`:` or the end"),
        };
        if self.peek().is_some() { self.wrong("the end") } else { Ok(()) }
    }

    /// `*`, or values with commas between them.
    fn chain(&mut self, seconds: bool) -> Result<Chain, Problem> {
        let start = self.at;
        if self.peek() == Some(b'*') {
            self.at += 1;
            if self.peek() == Some(b'/') {
                let help = "write \"0/15\" for every 15 from 0 on; days and months start with 1";
                return Err(Problem::new("a step after `*`", start..self.here().end, "from where?", help));
            }
            return Ok(Chain { parts: None });
        }
        let mut parts = vec![];
        loop {
            let begin = self.at;
            let first = self.number(seconds)?;
            let values = if self.rest().starts_with("..") {
                self.at += 2;
                let last = self.number(seconds)?;
                let step = self.step(seconds)?;
                let repeat = step.unwrap_or(1);
                if first == last && seconds && step.is_none() {
                    let help = format!("write \"{first:02}\"");
                    return Err(Problem::new("a range of one second", begin..self.at, "no range", help));
                }
                if first == last {
                    Values { start: first, stop: None, repeat: 0 }
                } else {
                    Values { start: first, stop: Some(last), repeat }
                }
            } else {
                Values { start: first, stop: None, repeat: self.step(seconds)?.unwrap_or(0) }
            };
            parts.push(Part { values, at: begin..self.at });
            if parts.len() > VALUES_MAX {
                let help = format!("at most {VALUES_MAX} values fit into one list; use ranges");
                return Err(Problem::new("too many values", start..self.at, "too many", help));
            }
            match self.peek() {
                Some(b',') => self.at += 1,
                None | Some(b' ' | b'-' | b'~' | b':') => break,
                Some(b'T') => break,
                Some(_) => return self.wrong("`,`, `..`, `/`, `-`, `:` or a space"),
            }
        }
        Ok(Chain { parts: Some(parts) })
    }

    fn step(&mut self, seconds: bool) -> Result<Option<u32>, Problem> {
        if self.peek() != Some(b'/') {
            return Ok(None);
        }
        self.at += 1;
        let begin = self.at;
        match self.number(seconds)? {
            0 => Err(Problem::new("a step of 0", begin..self.at, "no step", "a step is 1 or more")),
            step => Ok(Some(step)),
        }
    }

    fn number(&mut self, seconds: bool) -> Result<u32, Problem> {
        let digits = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        let Ok(number) = self.rest()[..digits].parse::<u32>() else {
            return if digits == 0 {
                self.wrong("a number")
            } else {
                Err(Problem::new("a number that is too large", self.at..self.at + digits, "too large", FORM))
            };
        };
        self.at += digits;
        let rest = self.rest();
        if seconds && rest.starts_with('.') && !rest.starts_with("..") {
            let fraction = rest[1..].bytes().take_while(u8::is_ascii_digit).count();
            if rest[1..1 + fraction].bytes().any(|b| b != b'0') || fraction == 0 {
                let at = self.at - digits..self.at + 1 + fraction;
                let help = "write whole seconds; for a shorter rhythm use the key `every`, such as every = \"500ms\"";
                return Err(Problem::new("fractions of a second are not supported", at, "not whole seconds", help));
            }
            self.at += 1 + fraction;
        }
        Ok(number)
    }
}

/// A list as written; `None` is `*`.
struct Chain {
    parts: Option<Vec<Part>>,
}

struct Part {
    values: Values,
    at: Range<usize>,
}

/// Two digits mean 1970 to 2069.
fn whole_year(part: Part) -> Part {
    let whole = |year: u32| match year {
        0..=69 => year + 2_000,
        70..=99 => year + 1_900,
        _ => year,
    };
    let Values { start, stop, repeat } = part.values;
    Part { values: Values { start: whole(start), stop: stop.map(whole), repeat }, at: part.at }
}

/// Checks bounds and brings a list into its normal form: sorted, nothing twice, the end of a range one of its values.
fn check(chain: Chain, word: &str, (low, high): (u32, u32), from_end: bool) -> Result<Set, Problem> {
    let Some(parts) = chain.parts else { return Ok(None) };
    let mut set = vec![];
    for Part { mut values, at } in parts {
        if let Some(stop) = values.stop {
            if stop < values.start {
                let help = "write the smaller number first";
                return Err(Problem::new("a range that runs backwards", at, "backwards", help));
            }
            let last = stop - (stop - values.start) % values.repeat.max(1);
            values.stop = Some(last).filter(|last| *last > values.start);
            if values.stop.is_none() {
                values.repeat = 0;
            }
        }
        for value in [Some(values.start), values.stop].into_iter().flatten() {
            if !(low..=high).contains(&value) {
                let bounds = format!("{low} to {high}");
                return Err(Problem::new(
                    format!("`{value}` is no {word}"),
                    at,
                    &bounds,
                    format!("choose a {word} from {bounds}").replace("a hour", "an hour"),
                ));
            }
        }
        // The first repetition must be within bounds; from the end of the month, repetitions come nearer to it.
        let repeats = values.stop.is_some() || values.repeat == 0;
        let fits = if from_end {
            repeats || values.start >= low + values.repeat
        } else {
            repeats || values.start.saturating_add(values.repeat) <= high
        };
        if !fits {
            let help = format!("choose a step that comes at least once more within {low} to {high}, or none");
            return Err(Problem::new(format!("a step that leaves the {word}s"), at, "too long", help));
        }
        set.push(values);
    }
    set.sort_by_key(|values| (values.start, values.stop.map_or(-1, i64::from), values.repeat));
    set.dedup();
    Ok(Some(set))
}

/// The normal form, as `systemd-analyze calendar` prints it.
impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.weekdays != ALL_DAYS {
            let mut groups = vec![];
            let mut day = 0;
            while day < 7 {
                let length = (self.weekdays >> day).trailing_ones() as usize;
                match length {
                    0 => {}
                    1 => groups.push(SHORT_DAYS[day].to_owned()),
                    2 => groups.push(format!("{},{}", SHORT_DAYS[day], SHORT_DAYS[day + 1])),
                    _ => groups.push(format!("{}..{}", SHORT_DAYS[day], SHORT_DAYS[day + length - 1])),
                }
                day += length + 1;
            }
            write!(f, "{} ", groups.join(","))?;
        }
        show(f, &self.year, 4)?;
        f.write_str("-")?;
        show(f, &self.month, 2)?;
        f.write_str(if self.from_end { "~" } else { "-" })?;
        show(f, &self.day, 2)?;
        f.write_str(" ")?;
        show(f, &self.hour, 2)?;
        f.write_str(":")?;
        show(f, &self.minute, 2)?;
        f.write_str(":")?;
        match self.second.as_deref() {
            Some([Values { start: 0, stop: None, repeat: 1 }]) => f.write_str("*")?,
            Some(_) | None => show(f, &self.second, 2)?,
        }
        match &self.zone {
            Some(zone) => write!(f, " {zone}"),
            None => Ok(()),
        }
    }
}

fn show(f: &mut fmt::Formatter<'_>, set: &Set, width: usize) -> fmt::Result {
    let Some(set) = set else { return f.write_str("*") };
    for (n, Values { start, stop, repeat }) in set.iter().enumerate() {
        if n > 0 {
            f.write_str(",")?;
        }
        write!(f, "{start:0width$}")?;
        if let Some(stop) = stop {
            write!(f, "..{stop:0width$}")?;
        }
        if *repeat > 0 && !(stop.is_some() && *repeat == 1) {
            write!(f, "/{repeat}")?;
        }
    }
    Ok(())
}
