//! cron: patterns of five to seven fields.
//!
//! Job: text → pattern, or what is wrong with which field; the next slot of a pattern.
//! May touch: `local`, `zone`. May not: clocks.
//! Keeps: a pattern that parses matches some day of the calendar.
//!
//! Fields are read here, so that a mistake is shown at its place and a name is a name; which day a field with `L`, `W` or `#`
//! means is croner's to say. The search for local times is ours: it ends after ten years, croner's after three thousand.
//!
//! - 5 fields: minute, hour, day of month, month, weekday. 6: seconds first. 7: the year last.
//! - Days: if both fields restrict, either is enough. A field that starts with `*`, as in `*/2`, does not restrict, so then
//!   both must hold. `+` before the weekday asks for both.
//! - A pattern without `*` in its minute and hour is a fixed time; see [`super::local`] for what that means.

use super::local::{Day, Local, Times, next_instant, search, some_day};
use super::zone::Zone;
use super::{Problem, local};
use croner::Weekday;
use std::fmt;
use std::ops::Range;

/// A pattern that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    days: croner::CronPattern,
    times: Times,
    is_fixed: bool,
}

const NICKNAMES: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

const MONTHS: &[&str] = &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: &[&str] = &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Second,
    Minute,
    Hour,
    Day,
    Month,
    Weekday,
    Year,
}

impl Field {
    const ALL: [Field; 7] =
        [Field::Second, Field::Minute, Field::Hour, Field::Day, Field::Month, Field::Weekday, Field::Year];

    fn word(self) -> &'static str {
        match self {
            Field::Second => "second",
            Field::Minute => "minute",
            Field::Hour => "hour",
            Field::Day => "day of the month",
            Field::Month => "month",
            Field::Weekday => "weekday",
            Field::Year => "year",
        }
    }

    fn bounds(self) -> (u16, u16) {
        match self {
            Field::Second | Field::Minute => (0, 59),
            Field::Hour => (0, 23),
            Field::Day => (1, 31),
            Field::Month => (1, 12),
            Field::Weekday => (0, 7),
            Field::Year => (1970, 2199),
        }
    }

    fn names(self) -> (&'static [&'static str], u16) {
        match self {
            Field::Month => (MONTHS, 1),
            Field::Weekday => (WEEKDAYS, 0),
            Field::Second | Field::Minute | Field::Hour | Field::Day | Field::Year => (&[], 0),
        }
    }

    fn allowed(self) -> String {
        let (low, high) = self.bounds();
        match self {
            Field::Month => format!("{low} to {high}, or JAN to DEC"),
            Field::Weekday => format!("{low} to {high}, or SUN to SAT"),
            Field::Second | Field::Minute | Field::Hour | Field::Day | Field::Year => format!("{low} to {high}"),
        }
    }
}

/// A part of the expression and where it stands.
#[derive(Debug, Clone, Copy)]
struct Piece<'a> {
    text: &'a str,
    start: usize,
}

impl<'a> Piece<'a> {
    fn at(self) -> Range<usize> {
        self.start..self.start + self.text.len()
    }

    fn split(self, at: usize, skip: usize) -> (Piece<'a>, Piece<'a>) {
        let (left, right) = (&self.text[..at], &self.text[at + skip..]);
        (Piece { text: left, start: self.start }, Piece { text: right, start: self.start + at + skip })
    }

    fn split_once(self, mark: char) -> Option<(Piece<'a>, Piece<'a>)> {
        self.text.find(mark).map(|at| self.split(at, mark.len_utf8()))
    }

    fn list(self) -> impl Iterator<Item = Piece<'a>> {
        let mut start = self.start;
        self.text.split(',').map(move |text| {
            let piece = Piece { text, start };
            start += text.len() + 1;
            piece
        })
    }
}

impl Cron {
    /// Reads a pattern, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let whole = 0..text.len();
        let pattern = match text.trim().strip_prefix('@') {
            Some(_) => nickname(text)?,
            None => text,
        };
        let mut pieces: Vec<Piece<'_>> = vec![];
        for word in pattern.split_whitespace() {
            let start = word.as_ptr() as usize - pattern.as_ptr() as usize;
            pieces.push(Piece { text: word, start });
        }
        let fields = match pieces.len() {
            5 => &Field::ALL[1..6],
            6 => &Field::ALL[..6],
            7 => &Field::ALL[..],
            count => {
                return Err(Problem::new(
                    format!("a cron pattern has 5, 6 or 7 fields; this has {count}"),
                    whole,
                    format!("{count} fields"),
                    "write minute, hour, day of month, month, weekday, such as \"0 9 * * MON-FRI\"; 6 fields begin with \
                     seconds, 7 end with a year",
                ));
            }
        };
        let mut plain = [const { String::new() }; 7];
        (plain[0], plain[6]) = ("0".into(), "*".into());
        let (mut has_star, mut both) = (false, false);
        for (field, piece) in fields.iter().zip(pieces) {
            let piece = match piece.text.strip_prefix('+') {
                Some(text) if *field == Field::Weekday => {
                    both = true;
                    Piece { text, start: piece.start + 1 }
                }
                Some(_) | None => piece,
            };
            match field {
                Field::Minute | Field::Hour => has_star |= piece.text.contains('*'),
                Field::Day | Field::Weekday => both |= piece.text.starts_with("*/"),
                Field::Second | Field::Month | Field::Year => {}
            }
            plain[*field as usize] = read_field(*field, piece)?;
        }
        let parser = croner::parser::CronParser::builder().dom_and_dow(both).build();
        let days = parser.parse(&plain.join(" ")).map_err(|error| {
            Problem::new(format!("`{text}` is no cron pattern: {error}"), whole.clone(), "not a pattern", FORM)
        })?;
        let days = days.pattern;
        let bits = |part: &croner::CronComponent| part.values().iter().fold(0_u64, |set, value| set | 1 << value);
        let times = Times { hours: bits(&days.hours), minutes: bits(&days.minutes), seconds: bits(&days.seconds) };
        let cron = Self { text: text.trim().to_owned(), days, times, is_fixed: !has_star };
        if some_day(|day| cron.matches(day)) { Ok(cron) } else { Err(never(text)) }
    }

    /// The first slot after an instant, both in milliseconds since the epoch; `None` if there is none within ten years.
    pub fn next(&self, zone: &Zone, after: u64) -> Option<u64> {
        next_instant(self, zone, i64::try_from(after).ok()?).map(|at| at as u64)
    }

    fn matches(&self, day: Day) -> bool {
        let weekday = match day.weekday {
            0 => Weekday::Monday,
            1 => Weekday::Tuesday,
            2 => Weekday::Wednesday,
            3 => Weekday::Thursday,
            4 => Weekday::Friday,
            5 => Weekday::Saturday,
            _ => Weekday::Sunday,
        };
        let (month, date) = (u32::from(day.month), u32::from(day.day));
        // Out of bounds for croner is out of bounds for the pattern.
        let holds = |answer: Result<bool, _>| answer.unwrap_or(false);
        holds(self.days.month_match(month))
            && holds(self.days.year_match(day.year))
            && holds(self.days.day_match(day.year, month, date, weekday))
    }
}

impl Local for Cron {
    fn next_local(&self, from: i64, before: i64) -> Option<i64> {
        search(|day| self.matches(day), self.times, from, before)
    }

    fn is_fixed(&self) -> bool {
        self.is_fixed
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

const FORM: &str = "a cron pattern is written like \"*/15 9-17 * * MON-FRI\"";

/// What is said of an expression that no instant matches.
pub(super) fn never(text: &str) -> Problem {
    Problem::new(
        format!("`{}` never elapses", text.trim()),
        0..text.len(),
        "no such day",
        format!(
            "choose days that exist together; at most {} years are looked ahead",
            local::HORIZON_MS / 31_557_600_000
        ),
    )
}

fn nickname(text: &str) -> Result<&'static str, Problem> {
    let name = text.trim();
    if let Some((_, pattern)) = NICKNAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        return Ok(pattern);
    }
    let help = match name.to_ascii_lowercase().as_str() {
        "@reboot" => "use the key `on_startup`, such as on_startup = \"10s\"".to_owned(),
        other if other.starts_with("@every") => "use the key `every`, such as every = \"5min\"".to_owned(),
        _ => format!("the names are {}", NICKNAMES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")),
    };
    Err(Problem::new(format!("`{name}` is no name of a cron pattern"), 0..text.len(), "not a name", help))
}

/// Checks one field and writes it with numbers only.
fn read_field(field: Field, piece: Piece<'_>) -> Result<String, Problem> {
    if piece.text == "?" && matches!(field, Field::Day | Field::Weekday) {
        return Ok("*".into());
    }
    let is_list = piece.text.contains(',');
    let mut items = vec![];
    for item in piece.list() {
        if item.text.is_empty() {
            let help = "write one value between two commas";
            return Err(Problem::new(format!("an empty value for the {}", field.word()), piece.at(), "empty", help));
        }
        if item.text == "*" && is_list {
            let help = "`*` alone says everything; take the other values out, or the `*`";
            return Err(Problem::new("`*` in a list of values", item.at(), "everything", help));
        }
        items.push(read_item(field, item)?);
    }
    Ok(items.join(","))
}

fn read_item(field: Field, item: Piece<'_>) -> Result<String, Problem> {
    let upper = item.text.to_ascii_uppercase();
    if let Some((range, step)) = item.split_once('/') {
        return read_step(field, range, step);
    }
    if item.text == "*" {
        return Ok("*".into());
    }
    match field {
        Field::Day if upper == "L" || upper == "LW" => return Ok(upper),
        Field::Day if upper.ends_with('W') => {
            let (number, _) = item.split(item.text.len() - 1, 1);
            return Ok(format!("{}W", read_value(field, number)?));
        }
        Field::Weekday if upper == "L" => {
            let help = "write the weekday before it: \"SATL\" or \"6L\" is the last Saturday of a month";
            return Err(Problem::new("`L` alone as a weekday", item.at(), "which weekday?", help));
        }
        Field::Weekday if item.text.contains('#') => {
            let (day, nth) = item.split_once('#').expect("it was just seen");
            let day = read_value(field, day)? % 7;
            return match nth.text {
                "1" | "2" | "3" | "4" | "5" => Ok(format!("{day}#{}", nth.text)),
                "L" | "l" => Ok(format!("{day}#L")),
                _ => {
                    let help = "a month has a weekday up to 5 times: \"MON#1\" to \"MON#5\", or \"MONL\" for the last";
                    Err(Problem::new(format!("`{}` is no such time of a weekday", nth.text), nth.at(), "1 to 5", help))
                }
            };
        }
        Field::Weekday if upper.ends_with('L') => {
            let (day, _) = item.split(item.text.len() - 1, 1);
            return Ok(format!("{}#L", read_value(field, day)? % 7));
        }
        Field::Second | Field::Minute | Field::Hour | Field::Day | Field::Month | Field::Weekday | Field::Year => {}
    }
    match item.split_once('-') {
        Some((low, high)) => {
            let (low, high) = read_range(field, low, high)?;
            Ok(format!("{low}-{high}"))
        }
        None => Ok(read_value(field, item)?.to_string()),
    }
}

fn read_step(field: Field, range: Piece<'_>, step: Piece<'_>) -> Result<String, Problem> {
    let (low, high) = field.bounds();
    let count = step.text.parse::<u16>().ok().filter(|count| (1..=high).contains(count));
    let Some(count) = count.filter(|_| step.text.bytes().all(|b| b.is_ascii_digit())) else {
        let help = format!("a step of the {} is 1 to {high}, such as \"*/{}\"", field.word(), 2.max(low));
        return Err(Problem::new(format!("`{}` is no step", step.text), step.at(), format!("1 to {high}"), help));
    };
    if range.text == "*" {
        return Ok(format!("*/{count}"));
    }
    match range.split_once('-') {
        Some((from, to)) => {
            let (from, to) = read_range(field, from, to)?;
            Ok(format!("{from}-{to}/{count}"))
        }
        None => {
            let from = if range.text.is_empty() { low } else { read_value(field, range)? };
            let to = if field == Field::Weekday { 6 } else { high };
            let help = format!("write \"{from}-{to}/{count}\" for every {count} from {from} on");
            Err(Problem::new("a step needs a range", range.start..step.at().end, "from where to where?", help))
        }
    }
}

fn read_range(field: Field, low: Piece<'_>, high: Piece<'_>) -> Result<(u16, u16), Problem> {
    let (first, mut last) = (read_value(field, low)?, read_value(field, high)?);
    // A week that ends with Sunday.
    if field == Field::Weekday && last == 0 && first > 0 {
        last = 7;
    }
    if first <= last {
        return Ok((first, last));
    }
    let (from, to) = field.bounds();
    let to = if field == Field::Weekday { 6 } else { to };
    Err(Problem::new(
        format!("the range `{}-{}` runs backwards", low.text, high.text),
        low.start..high.at().end,
        "backwards",
        format!("write \"{first}-{to},{from}-{last}\""),
    ))
}

fn read_value(field: Field, piece: Piece<'_>) -> Result<u16, Problem> {
    let (low, high) = field.bounds();
    let (names, first) = field.names();
    let name = names.iter().position(|name| name.eq_ignore_ascii_case(piece.text));
    let number = piece.text.parse::<u16>().ok().filter(|_| piece.text.bytes().all(|b| b.is_ascii_digit()));
    match (name, number) {
        (Some(name), _) => Ok(first + name as u16),
        (None, Some(number)) if (low..=high).contains(&number) => Ok(number),
        (None, _) => {
            let (allowed, word) = (field.allowed(), field.word());
            let what = if piece.text.is_empty() {
                format!("a {word} is missing")
            } else {
                format!("`{}` is no {word}", piece.text)
            };
            Err(Problem::new(
                what,
                piece.at(),
                allowed.clone(),
                format!("choose a {word} from {allowed}").replace("a hour", "an hour"),
            ))
        }
    }
}
