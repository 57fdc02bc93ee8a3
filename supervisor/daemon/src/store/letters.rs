//! letters: events that ended run after run of a unit and are delivered to it no more.
//!
//! Job: put a dead letter, list them. May touch: the database's family `meta`, through the committer to write. Keeps: at most
//! [`LETTERS_MAX`] of each unit, the oldest go first; a damaged one is an error, for its event would reach the unit again.

use super::committer::Work;
use super::keys::{META, after, letter_key, letter_prefix, sealed, unsealed};
use super::{StateError, Store, StoreError};
use loom_api::view::DeadLetter;
use loom_core::ids::UnitId;
use rocksdb::{DB, Direction, IteratorMode, ReadOptions, WriteBatch};

/// Dead letters kept of one unit.
pub const LETTERS_MAX: usize = 1000;

impl Store {
    /// Keeps a dead letter; returns once it is synced. The oldest beyond [`LETTERS_MAX`] of its unit are dropped.
    pub async fn letter_put(&self, letter: DeadLetter) -> Result<(), StoreError> {
        self.ask(Work::Letter(Box::new(letter))).await.map(drop).map_err(StateError::into_store)
    }

    /// Dead letters of one unit or of all, by unit, the oldest first. Blocks on the disk.
    pub fn letter_list(&self, unit: Option<&UnitId>) -> Result<Vec<DeadLetter>, StoreError> {
        self.inner.with_db(|db| {
            let mut letters = Vec::new();
            each(db, unit, |_, value| {
                let corrupt = || StoreError::Corrupt { what: "a dead letter".into() };
                letters.push(serde_json::from_slice(unsealed(value).ok_or_else(corrupt)?).map_err(|_| corrupt())?);
                Ok(())
            })?;
            Ok(letters)
        })
    }
}

/// Adds a letter to a batch, and the end of those that are too old.
pub fn add(db: &DB, batch: &mut WriteBatch, letter: &DeadLetter) -> Result<(), StoreError> {
    let family = db.cf_handle(META).expect("opened with it");
    let mut keys = Vec::new();
    each(db, Some(&letter.unit), |key, _| {
        keys.push(key.to_vec());
        Ok(())
    })?;
    for old in keys.iter().take((keys.len() + 1).saturating_sub(LETTERS_MAX)) {
        batch.delete_cf(family, old);
    }
    let value = sealed(&[&serde_json::to_vec(letter).expect("a letter is plain data")]);
    batch.put_cf(family, letter_key(&letter.unit, letter.time, &letter.id), value);
    Ok(())
}

fn each(
    db: &DB,
    unit: Option<&UnitId>,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let from = letter_prefix(unit);
    let mut options = ReadOptions::default();
    if let Some(end) = after(&from) {
        options.set_iterate_upper_bound(end);
    }
    let family = db.cf_handle(META).expect("opened with it");
    for entry in db.iterator_cf_opt(family, options, IteratorMode::From(&from, Direction::Forward)) {
        let (key, value) = entry.map_err(StoreError::read)?;
        each(&key, &value)?;
    }
    Ok(())
}
