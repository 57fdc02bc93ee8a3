//! acked: how far the store had come, kept beside it.
//!
//! Job: remember the highest number that was synced, so that a shorter store is noticed at the next start.
//! May touch: one file of 32 bytes. Keeps: the mark is never ahead of the disk; it may be up to 200 ms behind.
//!
//! It is not synced itself: it guards against a damaged or removed log, and outlives the process as the log does.

use super::crc::crc32c;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two writes of the mark.
const EVERY: Duration = Duration::from_millis(200);
const SLOT_BYTES: usize = 16;

pub struct Acked {
    file: File,
    /// The slot to write next: the two take turns, so that a torn write leaves the other.
    slot: u64,
    mark: u64,
    written: Option<Instant>,
}

impl Acked {
    /// Opens or makes the file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = [0; 2 * SLOT_BYTES];
        // A short file has no mark yet.
        let marks = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => [read(&bytes[..SLOT_BYTES]), read(&bytes[SLOT_BYTES..])],
            Err(_) => [None, None],
        };
        let slot = u64::from(marks[0] >= marks[1]);
        Ok(Self { file, slot, mark: marks[0].max(marks[1]).unwrap_or(0), written: None })
    }

    /// The highest number known to have been synced.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// All up to `mark` is synced. Written at most every 200 ms, unless it must be now.
    pub fn advance(&mut self, mark: u64, now: bool) -> io::Result<()> {
        if mark <= self.mark || (!now && self.written.is_some_and(|written| written.elapsed() < EVERY)) {
            return Ok(());
        }
        self.put(mark)
    }

    /// Starts over from what was recovered, after the loss was reported.
    pub fn reset(&mut self, mark: u64) -> io::Result<()> {
        self.put(mark)?;
        self.put(mark)
    }

    fn put(&mut self, mark: u64) -> io::Result<()> {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(&mark.to_be_bytes());
        let crc = crc32c(&[&bytes[..12]]);
        bytes[12..].copy_from_slice(&crc.to_be_bytes());
        self.file.write_all_at(&bytes, self.slot * SLOT_BYTES as u64)?;
        (self.slot, self.mark, self.written) = (1 - self.slot, mark, Some(Instant::now()));
        Ok(())
    }
}

fn read(slot: &[u8]) -> Option<u64> {
    let (body, crc) = slot.split_at(12);
    let mark = u64::from_be_bytes(body[..8].try_into().expect("eight of twelve"));
    (crc == crc32c(&[body]).to_be_bytes() && mark > 0).then_some(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_write_leaves_the_mark_before() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("acked");
        let mut acked = Acked::open(&path).unwrap();
        assert_eq!(acked.mark(), 0);
        for mark in 1..=5 {
            acked.advance(mark, true).unwrap();
        }
        assert_eq!(Acked::open(&path).unwrap().mark(), 5);
        let mut bytes = std::fs::read(&path).unwrap();
        let newest = bytes.chunks(SLOT_BYTES).position(|slot| read(slot) == Some(5)).unwrap();
        bytes[newest * SLOT_BYTES + 7] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let mut acked = Acked::open(&path).unwrap();
        assert_eq!(acked.mark(), 4);
        acked.reset(2).unwrap();
        assert_eq!(Acked::open(&path).unwrap().mark(), 2);
    }
}
