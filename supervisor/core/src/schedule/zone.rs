//! zone: the rules of time zones.
//!
//! Job: from an IANA name, or from the bytes of a zone file, the offset at an instant and the changes of offset around it.
//! May touch: nothing of ours. May not: files; zones come with the program, and a daemon may hand in the machine's own.
//! Keeps: a name that is not known is refused, never taken for UTC.

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use std::collections::BTreeMap;
use std::sync::LazyLock;

static BUNDLED: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// The rules of one time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// The zones that schedules may name: those that came with the program, and those handed in, which win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zones {
    machine: Zone,
    handed_in: BTreeMap<String, Zone>,
}

/// Why a time zone cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// No such name.
    #[error("`{0}` is no known time zone")]
    Unknown(String),
    /// The bytes are no zone file.
    #[error("the rules of time zone `{name}` cannot be read: {cause}")]
    Rules { name: String, cause: String },
}

/// Whether a name is an IANA time zone, such as `Europe/Berlin` or `UTC`. Upper and lower case count.
pub fn known(name: &str) -> bool {
    named(name).is_ok()
}

/// The known zone that a name probably means: the same in other letters, or with the continent left out.
pub fn meant(name: &str) -> Option<String> {
    let wanted = name.replace(' ', "_");
    let city = |full: &str| full.rsplit_once('/').is_some_and(|(_, city)| city.eq_ignore_ascii_case(&wanted));
    let names: Vec<String> = BUNDLED.available().map(|name| name.as_str().to_owned()).collect();
    let same = names.iter().find(|full| full.eq_ignore_ascii_case(&wanted));
    same.or_else(|| names.iter().find(|full| city(full))).cloned()
}

/// A zone that came with the program.
pub fn named(name: &str) -> Result<Zone, ZoneError> {
    let unknown = || ZoneError::Unknown(name.to_owned());
    let zone = BUNDLED.get(name).map_err(|_| unknown())?;
    // The database finds names in any case; files on other machines are found only as they are written.
    let is_exact = name == "UTC" || zone.iana_name() == Some(name);
    if is_exact { Ok(Zone(zone)) } else { Err(unknown()) }
}

impl Default for Zones {
    fn default() -> Self {
        Self { machine: Zone::utc(), handed_in: BTreeMap::new() }
    }
}

impl Zones {
    /// `machine` is the IANA name of the machine's zone: what a schedule without `timezone` follows.
    pub fn new(machine: &str) -> Result<Self, ZoneError> {
        Ok(Self { machine: named(machine)?, ..Self::default() })
    }

    /// Hands in a zone's rules, the bytes of a TZif file such as `/usr/share/zoneinfo/Europe/Berlin`, to use in place of
    /// those that came with the program. The name `""` stands for the machine's zone, `/etc/localtime`.
    pub fn hand_in(&mut self, name: &str, tzif: &[u8]) -> Result<(), ZoneError> {
        let rules = TimeZone::tzif(name, tzif)
            .map_err(|error| ZoneError::Rules { name: name.to_owned(), cause: error.to_string() })?;
        if name.is_empty() {
            self.machine = Zone(rules);
        } else {
            self.handed_in.insert(name.to_owned(), Zone(rules));
        }
        Ok(())
    }

    /// The zone of a name; `""` is the machine's.
    pub fn get(&self, name: &str) -> Result<Zone, ZoneError> {
        match (name, self.handed_in.get(name)) {
            ("", _) => Ok(self.machine.clone()),
            (_, Some(zone)) => Ok(zone.clone()),
            (_, None) => named(name),
        }
    }
}

impl Zone {
    /// UTC, which has no changes.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// An instant, in milliseconds since the epoch, as a person in this zone reads it: `Sun 2026-03-29 03:00:00 CEST`.
    pub fn show(&self, at: u64) -> String {
        instant(i64::try_from(at).unwrap_or(i64::MAX))
            .to_zoned(self.0.clone())
            .strftime("%a %Y-%m-%d %H:%M:%S %Z")
            .to_string()
    }

    /// Milliseconds that local time is ahead of UTC at an instant.
    pub(super) fn offset_at(&self, at: i64) -> i64 {
        i64::from(self.0.to_offset(instant(at)).seconds()) * 1_000
    }

    /// The last change of rules at or before an instant: when, and the offset until then.
    pub(super) fn change_until(&self, at: i64) -> Option<(i64, i64)> {
        let change = self.0.preceding(instant(at + 1)).next()?.timestamp().as_millisecond();
        Some((change, self.offset_at(change - 1)))
    }

    /// The first change of rules after an instant.
    pub(super) fn change_after(&self, at: i64) -> Option<i64> {
        Some(self.0.following(instant(at)).next()?.timestamp().as_millisecond())
    }
}

/// Beyond what the calendar holds, its end.
fn instant(at: i64) -> Timestamp {
    Timestamp::from_millisecond(at).unwrap_or(if at < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_known_by_its_exact_name() {
        for name in ["Europe/Berlin", "UTC", "Etc/UTC", "Asia/Kolkata", "US/Eastern", "CET"] {
            assert!(known(name), "{name}");
        }
        for name in ["", "europe/berlin", "Berlin", "Europe/Berlin ", "../etc/passwd", "CEST", "UTC+1"] {
            assert!(!known(name), "{name}");
        }
        assert_eq!(meant("europe/berlin").as_deref(), Some("Europe/Berlin"));
        assert_eq!(meant("new york").as_deref(), Some("America/New_York"));
        assert_eq!(meant("Atlantis"), None);
    }

    #[test]
    fn rules_that_are_handed_in_win() {
        let mut zones = Zones::new("Asia/Tokyo").unwrap();
        let winter = 1_736_942_400_000;
        assert_eq!(zones.get("").unwrap().offset_at(winter), 9 * 3_600_000);
        // A zone file of version 1: no changes, one type of 5400 s east, called "ABC".
        let mut file = b"TZif\0".to_vec();
        file.extend([0; 15]);
        for count in [0_u32, 0, 0, 0, 1, 4] {
            file.extend(count.to_be_bytes());
        }
        file.extend(5_400_i32.to_be_bytes());
        file.extend([0, 0]);
        file.extend(b"ABC\0");
        zones.hand_in("Europe/Berlin", &file).unwrap();
        assert_eq!(zones.get("Europe/Berlin").unwrap().offset_at(winter), 5_400_000);
        assert_eq!(zones.get("Europe/Paris").unwrap().offset_at(winter), 3_600_000);
        assert!(zones.hand_in("Europe/Berlin", b"no zone").is_err());
        zones.hand_in("", &file).unwrap();
        assert_eq!(zones.get("").unwrap().offset_at(winter), 5_400_000);
    }

    #[test]
    fn a_person_reads_local_time() {
        let berlin = named("Europe/Berlin").unwrap();
        assert_eq!(berlin.show(1_774_746_000_000), "Sun 2026-03-29 03:00:00 CEST");
        assert_eq!(Zone::utc().show(0), "Thu 1970-01-01 00:00:00 UTC");
    }
}
