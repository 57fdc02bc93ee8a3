//! expression: a cron pattern or a calendar expression, whichever a person wrote.
//!
//! Job: tell the two apart, for `loomctl calendar`. May touch: `cron`, `calendar`. Keeps: no text is both.

use super::Problem;
use super::calendar::Calendar;
use super::cron::Cron;
use super::zone::{Zone, ZoneError, Zones};
use std::fmt;

/// What elapses by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Five fields or more, or a name that begins with `@`.
    Cron(Cron),
    /// All else.
    Calendar(Calendar),
}

impl Expression {
    /// Reads either, or says what is wrong with the one that was probably meant.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let is_nickname =
            text.trim().strip_prefix('@').is_some_and(|name| name.starts_with(|c: char| c.is_alphabetic()));
        if is_nickname || text.split_whitespace().count() >= 5 {
            Cron::parse(text).map(Self::Cron)
        } else {
            Calendar::parse(text).map(Self::Calendar)
        }
    }

    /// The zone that counts: the expression's own, else that of the key `timezone`; empty is the machine's.
    pub fn zone(&self, zones: &Zones, timezone: &str) -> Result<Zone, ZoneError> {
        let own = zones.get(timezone)?;
        match self {
            Expression::Cron(_) => Ok(own),
            Expression::Calendar(calendar) => calendar.zone_in(zones, &own),
        }
    }

    /// The first slot after an instant, both in milliseconds since the epoch; `None` if there is none within ten years.
    pub fn next(&self, zone: &Zone, after: u64) -> Option<u64> {
        match self {
            Expression::Cron(cron) => cron.next(zone, after),
            Expression::Calendar(calendar) => calendar.next(zone, after),
        }
    }
}

/// A pattern as it was written, an expression in its normal form.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expression::Cron(cron) => cron.fmt(f),
            Expression::Calendar(calendar) => calendar.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_need_not_say_which_of_the_two_it_is() {
        for (text, shown) in [
            ("0 9 * * MON-FRI", "0 9 * * MON-FRI"),
            ("@Hourly", "@Hourly"),
            ("hourly", "*-*-* *:00:00"),
            ("Mon..Fri 9:00 Europe/Berlin", "Mon..Fri *-*-* 09:00:00 Europe/Berlin"),
            ("@1893456000", "2030-01-01 00:00:00 UTC"),
        ] {
            let expression = Expression::parse(text).unwrap();
            assert_eq!(expression.to_string(), shown);
            let zones = Zones::default();
            let zone = expression.zone(&zones, "").unwrap();
            assert!(expression.next(&zone, 1_774_746_000_000).is_some(), "{text}");
        }
        assert!(Expression::parse("0 9 * * MOM").unwrap_err().what.contains("weekday"));
        assert!(Expression::parse("@often").unwrap_err().help.contains("@hourly"));
    }
}
