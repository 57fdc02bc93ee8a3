//! keys: how things lie in the families.
//!
//! Job: keys (big-endian, so that bytes sort as numbers do) and values (crc32c in front). May touch: `crc`.
//! Keeps: a value that does not bear its checksum is never handed out.

use super::crc::crc32c;
use loom_core::ids::{RunId, UnitId};

/// Family: schema version, losses.
pub const META: &str = "meta";
/// Family: lifecycle records by unit.
pub const UNIT: &str = "unit";
/// Family: agents' state by unit, namespace, key.
pub const STATE: &str = "state";
/// Family: audit records by time.
pub const AUDIT: &str = "audit";

/// In `meta`: the losses not yet cleared, as JSON.
pub const META_LOSSES: &[u8] = b"losses";
/// In `meta`: the schema version, u32.
pub const META_SCHEMA: &[u8] = b"schema";

/// In `meta`: where crash reports begin. They stand there because a family of their own would keep an older loomd from opening
/// the store at all.
const CRASHES: &str = "crash";

/// Where the crash reports of a unit begin; of all, without one.
pub fn crash_prefix(unit: Option<&UnitId>) -> Vec<u8> {
    match unit {
        Some(unit) => format!("{CRASHES}\0{unit}\0").into_bytes(),
        None => format!("{CRASHES}\0").into_bytes(),
    }
}

/// One crash report.
pub fn crash_key(unit: &UnitId, run: RunId) -> Vec<u8> {
    let mut bytes = crash_prefix(Some(unit));
    bytes.extend_from_slice(&run.0.to_be_bytes());
    bytes
}

/// In `meta`: where dead letters begin.
const LETTERS: &str = "letter";

/// Where the dead letters of a unit begin; of all, without one.
pub fn letter_prefix(unit: Option<&UnitId>) -> Vec<u8> {
    match unit {
        Some(unit) => format!("{LETTERS}\0{unit}\0").into_bytes(),
        None => format!("{LETTERS}\0").into_bytes(),
    }
}

/// One dead letter: the time, so that a unit's oldest comes first, and the event's id.
pub fn letter_key(unit: &UnitId, ms: u64, id: &str) -> Vec<u8> {
    let mut bytes = letter_prefix(Some(unit));
    bytes.extend_from_slice(&ms.to_be_bytes());
    bytes.extend_from_slice(id.as_bytes());
    bytes
}

/// In `meta`: where records of schedules begin. They stand there because a family of their own would keep an older loomd from
/// opening the store at all.
pub const TIMERS: &[u8] = b"timers\0";

/// The record of a schedule.
pub fn timer_key(schedule: &UnitId) -> Vec<u8> {
    [TIMERS, schedule.to_string().as_bytes()].concat()
}

/// The namespace of what agents put themselves. A unit's name holds no NUL, so the parts cannot be mixed up.
const NAMESPACE: &str = "kv";

/// Where a unit's state begins.
pub fn state_prefix(unit: &UnitId) -> Vec<u8> {
    format!("{unit}\0{NAMESPACE}\0").into_bytes()
}

/// One entry of a unit's state.
pub fn state_key(unit: &UnitId, key: &str) -> Vec<u8> {
    let mut bytes = state_prefix(unit);
    bytes.extend_from_slice(key.as_bytes());
    bytes
}

/// The first key behind all that begin with `prefix`.
pub fn after(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// An audit record: milliseconds, and a number within the millisecond.
pub fn audit_key(ms: u64, n: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&ms.to_be_bytes());
    key[8..].copy_from_slice(&n.to_be_bytes());
    key
}

/// The reverse of [`audit_key`].
pub fn audit_place(key: &[u8]) -> Option<(u64, u16)> {
    let (ms, n) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*ms), u16::from_be_bytes(n.try_into().ok()?)))
}

/// A value with its checksum in front.
pub fn sealed(parts: &[&[u8]]) -> Vec<u8> {
    let mut value = crc32c(parts).to_be_bytes().to_vec();
    parts.iter().for_each(|part| value.extend_from_slice(part));
    value
}

/// What [`sealed`] closed; `None` if it is damaged.
pub fn unsealed(value: &[u8]) -> Option<&[u8]> {
    let (crc, rest) = value.split_first_chunk::<4>()?;
    (u32::from_be_bytes(*crc) == crc32c(&[rest])).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_what_they_mean() {
        assert!(audit_key(255, 1) < audit_key(256, 0) && audit_key(256, 0) < audit_key(256, 1));
        assert_eq!(audit_place(&audit_key(7, 9)), Some((7, 9)));
        let unit = "a.agent".parse().unwrap();
        assert!(letter_key(&unit, 255, "z") < letter_key(&unit, 256, "a"));
        assert!(letter_key(&unit, u64::MAX, "z") < after(&letter_prefix(Some(&unit))).unwrap());
        assert_eq!(after(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after(&[b'a', 0xff]), Some(b"b".to_vec()));
        assert_eq!(after(&[0xff]), None);
    }

    #[test]
    fn a_changed_bit_is_noticed() {
        let value = sealed(&[b"ab", b"c"]);
        assert_eq!(unsealed(&value), Some(&b"abc"[..]));
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unsealed(&damaged), None, "bit {bit}");
        }
        assert_eq!(unsealed(b"abc"), None);
    }
}
