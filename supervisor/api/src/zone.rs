//! zone: the time zone of this machine.
//!
//! Job: `TZ`, the link `/etc/localtime`, `/etc/timezone`, or the bytes of `/etc/localtime`: in this order, the first that
//! names a zone. May touch: that variable and those files. Keeps: the same answer for loomd and loomctl; what cannot be read
//! is UTC, as for libc.

use loom_core::schedule::zone::{Zones, known};
use std::fs;
use std::path::Path;

/// Where zone files lie; a link to one of them names its zone.
const ZONE_FILES: &str = "zoneinfo/";

/// The zones that came with the program, with this machine's as the one that schedules follow which name none.
pub fn zones() -> Zones {
    read(std::env::var("TZ").ok().as_deref(), Path::new("/etc"))
}

fn read(variable: Option<&str>, etc: &Path) -> Zones {
    let localtime = etc.join("localtime");
    let of_variable = || variable.map(|text| text.strip_prefix(':').unwrap_or(text)).filter(|name| known(name));
    let of_link = || {
        // One link may lead to the next; the last that names a zone is meant by none but the first.
        let target = fs::read_link(&localtime).ok()?;
        let target = target.to_str()?;
        let name = target.split_once(ZONE_FILES)?.1;
        known(name).then(|| name.to_owned())
    };
    let of_file = || {
        let text = fs::read_to_string(etc.join("timezone")).ok()?;
        known(text.trim()).then(|| text.trim().to_owned())
    };
    let name = of_variable().map(str::to_owned).or_else(of_link).or_else(of_file);
    if let Some(zones) = name.and_then(|name| Zones::new(&name).ok()) {
        return zones;
    }
    let mut zones = Zones::default();
    if let Ok(rules) = fs::read(&localtime) {
        // What is no zone file leaves the zone at UTC.
        let _ = zones.hand_in("", &rules);
    }
    zones
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noon of a day in summer.
    const SUMMER: u64 = 1_782_000_000_000;

    fn shown(variable: Option<&str>, etc: &Path) -> String {
        read(variable, etc).get("").unwrap().show(SUMMER).rsplit_once(' ').unwrap().1.to_owned()
    }

    #[test]
    fn the_first_that_names_a_zone_counts() {
        let etc = tempfile::tempdir().unwrap();
        assert_eq!(shown(None, etc.path()), "UTC");
        fs::write(etc.path().join("timezone"), "Asia/Tokyo\n").unwrap();
        assert_eq!(shown(None, etc.path()), "JST");
        std::os::unix::fs::symlink("../usr/share/zoneinfo/Europe/Berlin", etc.path().join("localtime")).unwrap();
        assert_eq!(shown(None, etc.path()), "CEST");
        assert_eq!(shown(Some(":America/New_York"), etc.path()), "EDT");
        assert_eq!(shown(Some("nonsense"), etc.path()), "CEST");
    }
}
