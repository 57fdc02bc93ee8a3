//! crashes: what was found of runs that did not end in order.
//!
//! Job: put a crash report, list them. May touch: the database's family `meta`, through the committer to write. Keeps: at most
//! [`CRASHES_MAX`] of each unit, the oldest go first; a damaged one is left out, for it stands in nobody's way.

use super::committer::Work;
use super::keys::{META, after, crash_key, crash_prefix, sealed, unsealed};
use super::{StateError, Store, StoreError};
use loom_api::view::CrashReport;
use loom_core::ids::UnitId;
use rocksdb::{DB, Direction, IteratorMode, ReadOptions, WriteBatch};

/// Reports kept of one unit.
pub const CRASHES_MAX: usize = 20;

impl Store {
    /// Keeps a report; returns once it outlives loomd. The oldest beyond [`CRASHES_MAX`] of its unit are dropped.
    pub async fn crash_put(&self, report: CrashReport) -> Result<(), StoreError> {
        self.ask(Work::Crash(Box::new(report))).await.map(drop).map_err(StateError::into_store)
    }

    /// Reports of one unit or of all, by unit and then by run. Blocks on the disk.
    pub fn crash_list(&self, unit: Option<&UnitId>) -> Result<Vec<CrashReport>, StoreError> {
        self.inner.with_db(|db| {
            let mut reports = Vec::new();
            each(db, unit, |_, value| {
                reports.extend(unsealed(value).and_then(|json| serde_json::from_slice(json).ok()))
            })?;
            Ok(reports)
        })
    }
}

/// Adds a report to a batch, and the end of those that are too old.
pub fn add(db: &DB, batch: &mut WriteBatch, report: &CrashReport) -> Result<(), StoreError> {
    let family = db.cf_handle(META).expect("opened with it");
    let own = crash_key(&report.unit, report.run);
    let mut keys = Vec::new();
    each(db, Some(&report.unit), |key, _| keys.push(key.to_vec()))?;
    keys.retain(|key| *key != own);
    // Run numbers only grow, so the first are the oldest.
    for old in keys.iter().take((keys.len() + 1).saturating_sub(CRASHES_MAX)) {
        batch.delete_cf(family, old);
    }
    batch.put_cf(family, own, sealed(&[&serde_json::to_vec(report).expect("a report is plain data")]));
    Ok(())
}

fn each(db: &DB, unit: Option<&UnitId>, mut each: impl FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
    let from = crash_prefix(unit);
    let mut options = ReadOptions::default();
    if let Some(end) = after(&from) {
        options.set_iterate_upper_bound(end);
    }
    let family = db.cf_handle(META).expect("opened with it");
    for entry in db.iterator_cf_opt(family, options, IteratorMode::From(&from, Direction::Forward)) {
        let (key, value) = entry.map_err(StoreError::read)?;
        each(&key, &value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use loom_core::ids::RunId;
    use loom_core::lifecycle::RunResult;
    use std::collections::BTreeMap;

    fn report(unit: &str, run: u64) -> CrashReport {
        CrashReport {
            unit: unit.parse().unwrap(),
            run: RunId(run),
            at: run,
            result: RunResult::Watchdog,
            exit: None,
            error: None,
            stacks: vec!["File \"a.py\", line 1".into()],
            last_log_lines: vec![],
            memory_peak_bytes: None,
            open_files: vec![],
            children: vec![],
            cgroup_events: BTreeMap::new(),
            missing: vec![],
        }
    }

    #[tokio::test]
    async fn the_newest_reports_of_each_unit_are_kept() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(&place.path().join("store")).unwrap();
        for run in (1..=CRASHES_MAX as u64 + 4).chain([300, 300]) {
            store.crash_put(report("a.agent", run)).await.unwrap();
        }
        store.crash_put(report("a-b.agent", 7)).await.unwrap();
        let a: UnitId = "a.agent".parse().unwrap();
        let runs: Vec<u64> = store.crash_list(Some(&a)).unwrap().iter().map(|report| report.run.0).collect();
        assert_eq!((runs.len(), runs[0], runs[CRASHES_MAX - 1]), (CRASHES_MAX, 6, 300));
        assert_eq!(store.crash_list(None).unwrap().len(), CRASHES_MAX + 1);
        store.close().await.unwrap();
        let store = Store::open(&place.path().join("store")).unwrap();
        assert_eq!(store.crash_list(Some(&a)).unwrap().len(), CRASHES_MAX);
        store.close().await.unwrap();
    }
}
