//! timers: what is stored of schedules.
//!
//! Job: put, delete and list records of schedules. May touch: the database's family `meta`, through the committer to write.
//! Keeps: the records of one call are one write; a damaged one is an error: guessing could start a unit twice.

use super::committer::Work;
use super::keys::{META, TIMERS, after, sealed, timer_key, unsealed};
use super::{StateError, Store, StoreError};
use loom_core::ids::UnitId;
use loom_core::schedule::Record;
use rocksdb::{DB, Direction, IteratorMode, ReadOptions, WriteBatch};
use std::collections::BTreeMap;

/// A schedule's record; `None` deletes it.
pub type TimerWrite = (UnitId, Option<Record>);

impl Store {
    /// Stores records of schedules as one write; returns once they outlive loomd, with `sync` once they, and all before,
    /// outlive the machine.
    pub async fn timers_put(&self, records: Vec<TimerWrite>, sync: bool) -> Result<(), StoreError> {
        self.ask(Work::Timers { records, sync }).await.map(drop).map_err(StateError::into_store)
    }

    /// All records of schedules. Blocks on the disk.
    pub fn timers_all(&self) -> Result<BTreeMap<UnitId, Record>, StoreError> {
        self.inner.with_db(|db| {
            let mut options = ReadOptions::default();
            options.set_iterate_upper_bound(after(TIMERS).expect("a prefix that ends in NUL has one behind it"));
            let family = db.cf_handle(META).expect("opened with it");
            let mut records = BTreeMap::new();
            for entry in db.iterator_cf_opt(family, options, IteratorMode::From(TIMERS, Direction::Forward)) {
                let (key, value) = entry.map_err(StoreError::read)?;
                let name = String::from_utf8_lossy(&key[TIMERS.len()..]).into_owned();
                let corrupt = || StoreError::Corrupt { what: format!("the record of {name}") };
                let schedule = name.parse().map_err(|_| corrupt())?;
                let record = serde_json::from_slice(unsealed(&value).ok_or_else(corrupt)?).map_err(|_| corrupt())?;
                records.insert(schedule, record);
            }
            Ok(records)
        })
    }
}

/// Adds records to a batch.
pub fn add(db: &DB, batch: &mut WriteBatch, records: &[TimerWrite]) -> Result<(), StoreError> {
    let family = db.cf_handle(META).expect("opened with it");
    for (schedule, record) in records {
        match record {
            Some(record) => {
                let value = serde_json::to_vec(record).expect("a record is plain data");
                batch.put_cf(family, timer_key(schedule), sealed(&[&value]));
            }
            None => batch.delete_cf(family, timer_key(schedule)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use loom_core::ids::Millis;
    use loom_core::schedule::zone::Zones;
    use loom_core::schedule::{Effect, Event, Found, Now, Settings, Timetable};

    fn record(schedule: &UnitId) -> Record {
        let now = Now { wall: 1_774_746_000_000, boot: Millis(5_000) };
        let (mut table, _) =
            Timetable::new("machine", "boot", Zones::default(), now, BTreeMap::new(), |_, _| Found::Gone);
        let mut settings = Settings::new("a.agent".parse().unwrap());
        settings.cron = vec!["@daily".into()];
        let armed = Event::Armed { schedule: schedule.clone(), settings: Box::new(settings) };
        let effects = table.handle(now, armed);
        effects
            .into_iter()
            .find_map(|effect| match effect {
                Effect::Record { record, .. } => Some(*record),
                Effect::Forget { .. }
                | Effect::Start { .. }
                | Effect::Restart { .. }
                | Effect::Said { .. }
                | Effect::Failed { .. } => None,
            })
            .unwrap()
    }

    #[tokio::test]
    async fn records_of_schedules_are_there_again_and_the_deleted_are_not() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(&place.path().join("store")).unwrap();
        let [a, b]: [UnitId; 2] = ["a.schedule", "b.schedule"].map(|id| id.parse().unwrap());
        let syncs = store.syncs();
        store.timers_put(vec![(a.clone(), Some(record(&a))), (b.clone(), Some(record(&b)))], true).await.unwrap();
        assert_eq!(store.syncs(), syncs + 1, "both in one synced write");
        store.timers_put(vec![(b, None)], false).await.unwrap();
        store.close().await.unwrap();
        let store = Store::open(&place.path().join("store")).unwrap();
        assert_eq!(store.timers_all().unwrap(), BTreeMap::from([(a.clone(), record(&a))]));
        store.close().await.unwrap();
    }
}
