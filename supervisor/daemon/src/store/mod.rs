//! store: what outlives loomd.
//!
//! Job: unit records, agents' state and the audit log in one RocksDB, written by one thread in groups.
//! May touch: its directory; RocksDB is named nowhere else. May not: know what its users do with what it keeps.
//! Keeps: what was acknowledged is on disk; what an older run sends changes nothing; damage is reported, never passed on.

mod acked;
mod committer;
mod crashes;
mod crc;
mod keys;
mod letters;
mod open;
#[cfg(test)]
mod tests;
mod timers;

use committer::{Committer, Request, Work};
use keys::{AUDIT, STATE, UNIT, state_key, state_prefix, unsealed};
use loom_api::view::AuditRecord;
use loom_core::ids::{RunId, UnitId};
use loom_core::lifecycle::Record;
use open::Opened;
pub use open::SCHEMA_VERSION;
use rocksdb::{DB, Direction, IteratorMode, ReadOptions};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// The largest value of an agent's state.
pub const STATE_VALUE_MAX_BYTES: usize = 1024 * 1024;
/// The longest key of an agent's state.
pub const STATE_KEY_MAX_BYTES: usize = 256;
/// All keys and values of one agent together.
pub const STATE_UNIT_MAX_BYTES: u64 = 64 * 1024 * 1024;
/// Writes that may wait.
const QUEUE_MAX: usize = 1024;
/// The longest a write waits for a place in the queue.
const QUEUE_WAIT: Duration = Duration::from_secs(10);
/// Audit records looked at for one question.
const AUDIT_SCAN_MAX: usize = 100_000;
/// The stage of an audit record that is synced before it is acknowledged.
const AUDIT_DECIDED: &str = "decided";
/// Checksum and version in front of a value.
const STATE_HEAD_BYTES: usize = 12;

/// Why the store could not do its work.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the store in {path}: {why}")]
    Open { path: PathBuf, why: String },
    #[error("another loomd uses it: end that one, or use another --state-dir")]
    InUse,
    #[error(
        "the store in {path} was written by a newer loomd (schema {found}; this one knows {supported}); it was not touched. \
         Install that version, or use another --state-dir"
    )]
    Newer { path: PathBuf, found: u32, supported: u32 },
    #[error("{what}: {path}")]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("the store cannot be read: {why}")]
    Read { why: String },
    /// It may be there after all.
    #[error("a write to the store failed: {why}")]
    Write { why: String },
    #[error("{what} in the store is damaged: its checksum does not fit")]
    Corrupt { what: String },
    #[error("the store has failed: {why}. It is tried again with each write; see `loomctl status`")]
    Failed { why: String },
    #[error("the store did not take a write for {} s: {QUEUE_MAX} are waiting", QUEUE_WAIT.as_secs())]
    Busy,
}

/// Why an agent's state was not changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StateError {
    /// It has another version than the caller expects; 0: it is not there.
    #[error("the entry has version {version}")]
    Conflict { version: u64 },
    /// A newer run owns the state.
    #[error("run {current} owns the state now")]
    Fenced { current: RunId },
    #[error("{what} would have {bytes} bytes; the limit is {limit}")]
    TooLarge { what: String, bytes: u64, limit: u64 },
    #[error("`{key}` is no key: use 1 to {STATE_KEY_MAX_BYTES} printable ASCII characters without space")]
    BadKey { key: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Something acknowledged was not there any more when the store was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// When it was noticed: milliseconds since the epoch.
    pub time: u64,
    /// Entries written, acknowledged and missing. 0: something was cut, but nothing that is known to have been acknowledged.
    pub missing_writes: u64,
    /// What was found.
    pub what: String,
}

/// How the store is, for `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why nothing can be stored at the moment.
    pub failed: Option<String>,
    /// Until a person clears them.
    pub losses: Vec<Loss>,
}

/// A handle; clones share one database. Its thread ends when the last one is dropped, or by [`Store::close`].
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    queue: Sender<Request>,
    places: Arc<Semaphore>,
}

/// What readers and the committer share.
struct Inner {
    dir: PathBuf,
    /// `None` while it is being opened again, and once it is closed.
    db: RwLock<Option<DB>>,
    /// The run that may write, per unit.
    runs: Mutex<HashMap<UnitId, RunId>>,
    health: Mutex<Health>,
    syncs: AtomicU64,
    #[cfg(test)]
    fail_writes: std::sync::atomic::AtomicU32,
}

impl Store {
    /// Opens the store, or makes an empty one.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        let Opened { db, acked, losses } = open::open(dir)?;
        for loss in &losses {
            tracing::error!(missing_writes = loss.missing_writes, what = loss.what, "the store has lost something");
        }
        let inner = Arc::new(Inner {
            dir: dir.to_owned(),
            db: RwLock::new(None),
            runs: Mutex::new(HashMap::new()),
            health: Mutex::new(Health { failed: None, losses }),
            syncs: AtomicU64::new(0),
            #[cfg(test)]
            fail_writes: std::sync::atomic::AtomicU32::new(0),
        });
        let committer = Committer::new(inner.clone(), &db, acked)?;
        *inner.db.write().expect("nobody else has it yet") = Some(db);
        let (queue, requests) = mpsc::channel();
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || committer.run(&requests))
            .map_err(|error| StoreError::io("cannot start the thread of the store", dir.to_owned(), error))?;
        let store = Store { inner, queue, places: Arc::new(Semaphore::new(QUEUE_MAX)) };
        for (unit, record) in store.records()? {
            store.inner.fence_at(&unit, record.run);
        }
        Ok(store)
    }

    /// Stores records as one batch; returns once they are synced.
    pub async fn put_records(&self, records: Vec<(UnitId, Record)>) -> Result<(), StoreError> {
        self.ask(Work::Records { records, sync: true }).await.map(drop).map_err(StateError::into_store)
    }

    /// Stores records as one batch; returns once they outlive loomd, and syncs within a second, or with the next write that
    /// does: the log is in order, so nothing synced later can be there without them.
    pub async fn put_records_soon(&self, records: Vec<(UnitId, Record)>) -> Result<(), StoreError> {
        self.ask(Work::Records { records, sync: false }).await.map(drop).map_err(StateError::into_store)
    }

    /// Returns once everything written before is on the disk.
    pub async fn sync(&self) -> Result<(), StoreError> {
        self.ask(Work::Sync).await.map(drop).map_err(StateError::into_store)
    }

    /// All unit records. One that is damaged is an error: guessing could start a unit twice.
    pub fn records(&self) -> Result<BTreeMap<UnitId, Record>, StoreError> {
        self.inner.with_db(|db| {
            let mut records = BTreeMap::new();
            for entry in db.iterator_cf(db.cf_handle(UNIT).expect("opened with it"), IteratorMode::Start) {
                let (key, value) = entry.map_err(StoreError::read)?;
                let name = String::from_utf8_lossy(&key).into_owned();
                let corrupt = || StoreError::Corrupt { what: format!("the record of {name}") };
                let unit = name.parse().map_err(|_| corrupt())?;
                let record = serde_json::from_slice(unsealed(&value).ok_or_else(corrupt)?).map_err(|_| corrupt())?;
                records.insert(unit, record);
            }
            Ok(records)
        })
    }

    /// An entry and its version.
    pub async fn state_get(&self, unit: &UnitId, key: &str) -> Result<Option<(Vec<u8>, u64)>, StoreError> {
        self.inner.with_db(|db| {
            let family = db.cf_handle(STATE).expect("opened with it");
            let stored = db.get_pinned_cf(family, state_key(unit, key)).map_err(StoreError::read)?;
            stored.map(|stored| decode_state(&stored, unit, key).map(|(value, v)| (value.to_vec(), v))).transpose()
        })
    }

    /// Puts an entry; returns its new version once it is synced. `if_version` 0: it must not exist.
    ///
    /// Versions grow by one with each change; an entry that was deleted starts over at 1.
    pub async fn state_put(
        &self,
        unit: &UnitId,
        run: RunId,
        key: &str,
        value: Vec<u8>,
        if_version: Option<u64>,
    ) -> Result<u64, StateError> {
        check_key(key)?;
        if value.len() > STATE_VALUE_MAX_BYTES {
            let (bytes, limit) = (value.len() as u64, STATE_VALUE_MAX_BYTES as u64);
            return Err(StateError::TooLarge { what: format!("the value of `{key}`"), bytes, limit });
        }
        self.ask(Work::Put { unit: unit.clone(), run, key: key.to_owned(), value, if_version }).await
    }

    /// Deletes an entry; returns once that is synced. One that is not there is no error unless a version is expected.
    pub async fn state_delete(
        &self,
        unit: &UnitId,
        run: RunId,
        key: &str,
        if_version: Option<u64>,
    ) -> Result<(), StateError> {
        check_key(key)?;
        self.ask(Work::Delete { unit: unit.clone(), run, key: key.to_owned(), if_version }).await.map(drop)
    }

    /// Keys that begin with `prefix`, in bytewise order, `limit` at most.
    pub async fn state_scan(&self, unit: &UnitId, prefix: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        self.inner.with_db(|db| {
            let mut keys = Vec::new();
            if limit > 0 {
                each_state(db, unit, prefix, |key, _| {
                    keys.push(String::from_utf8_lossy(key).into_owned());
                    keys.len() < limit
                })?;
            }
            Ok(keys)
        })
    }

    /// Appends to the audit log; returns the record's number. `decided` is synced first, anything else within a second.
    pub async fn audit_append(&self, record: AuditRecord) -> Result<u64, StoreError> {
        self.ask(Work::Audit(Box::new(record))).await.map_err(StateError::into_store)
    }

    /// The newest `limit` records, of one unit or of all, oldest first.
    pub fn audit_list(&self, unit: Option<&UnitId>, limit: usize) -> Result<Vec<AuditRecord>, StoreError> {
        self.inner.with_db(|db| {
            let mut records = Vec::new();
            let family = db.cf_handle(AUDIT).expect("opened with it");
            for entry in db.iterator_cf(family, IteratorMode::End).take(AUDIT_SCAN_MAX) {
                if records.len() >= limit {
                    break;
                }
                let record = decode_audit(&entry.map_err(StoreError::read)?.1)?;
                if unit.is_none_or(|unit| *unit == record.unit) {
                    records.push(record);
                }
            }
            records.reverse();
            Ok(records)
        })
    }

    /// From now on `run` is the one that may write this unit's state. [`Store::put_records`] says so too.
    pub fn set_run(&self, unit: &UnitId, run: RunId) {
        self.inner.fence_at(unit, run);
    }

    /// How the store is.
    pub fn health(&self) -> Health {
        self.inner.health().clone()
    }

    /// A person has seen the losses.
    pub async fn clear_losses(&self) -> Result<(), StoreError> {
        self.ask(Work::ClearLosses).await.map(drop).map_err(StateError::into_store)
    }

    /// How often the log was synced since it was opened.
    pub fn syncs(&self) -> u64 {
        self.inner.syncs.load(Ordering::Relaxed)
    }

    /// Writes what waits, syncs, and closes the database. Later calls fail.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.ask(Work::Close).await.map(drop).map_err(StateError::into_store)
    }

    async fn ask(&self, work: Work) -> Result<u64, StateError> {
        let place = match tokio::time::timeout(QUEUE_WAIT, self.places.clone().acquire_owned()).await {
            Ok(place) => place.expect("the places are never closed"),
            Err(_) => return Err(StoreError::Busy.into()),
        };
        let (answer, answered) = oneshot::channel();
        let gone = || StateError::Store(self.inner.failed_error());
        self.queue.send(Request { work, answer, place }).map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Inner {
    fn with_db<T>(&self, read: impl FnOnce(&DB) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        match &*db {
            Some(db) => read(db),
            None => Err(self.failed_error()),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_failed(&self, why: Option<String>) {
        self.health().failed = why;
    }

    fn is_open(&self) -> bool {
        self.db.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn failed_error(&self) -> StoreError {
        StoreError::Failed { why: self.health().failed.clone().unwrap_or_else(|| "it is being opened again".into()) }
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<UnitId, RunId>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs only grow.
    fn fence_at(&self, unit: &UnitId, run: RunId) {
        let mut runs = self.runs();
        let current = runs.entry(unit.clone()).or_default();
        *current = run.max(*current);
    }

    fn current_run(&self, unit: &UnitId) -> RunId {
        self.runs().get(unit).copied().unwrap_or_default()
    }
}

impl StoreError {
    fn open(dir: &Path, error: rocksdb::Error) -> Self {
        let why = error.into_string();
        // RocksDB has one kind for every fault of files; its words name the lock.
        if why.contains("While lock file") || why.contains("lock hold by current process") {
            return Self::InUse;
        }
        Self::Open { path: dir.to_owned(), why }
    }

    fn read(error: rocksdb::Error) -> Self {
        Self::Read { why: error.into_string() }
    }

    fn write(error: rocksdb::Error) -> Self {
        Self::Write { why: error.into_string() }
    }

    fn io(what: &'static str, path: PathBuf, source: io::Error) -> Self {
        Self::Io { what, path, source: Arc::new(source) }
    }
}

impl StateError {
    /// For work that no state rule can refuse.
    fn into_store(self) -> StoreError {
        match self {
            StateError::Store(error) => error,
            StateError::Conflict { .. }
            | StateError::Fenced { .. }
            | StateError::TooLarge { .. }
            | StateError::BadKey { .. } => unreachable!("only state is refused for these reasons"),
        }
    }
}

fn check_key(key: &str) -> Result<(), StateError> {
    let fits = (1..=STATE_KEY_MAX_BYTES).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(()) } else { Err(StateError::BadKey { key: key.chars().take(STATE_KEY_MAX_BYTES).collect() }) }
}

fn decode_state<'a>(stored: &'a [u8], unit: &UnitId, key: &str) -> Result<(&'a [u8], u64), StoreError> {
    let corrupt = || StoreError::Corrupt { what: format!("`{key}` of {unit}") };
    let (version, value) = unsealed(stored).and_then(|open| open.split_first_chunk::<8>()).ok_or_else(corrupt)?;
    Ok((value, u64::from_be_bytes(*version)))
}

fn decode_audit(stored: &[u8]) -> Result<AuditRecord, StoreError> {
    let corrupt = || StoreError::Corrupt { what: "an audit record".into() };
    serde_json::from_slice(unsealed(stored).ok_or_else(corrupt)?).map_err(|_| corrupt())
}

/// Goes through a unit's state, key by key, while told to go on.
fn each_state(
    db: &DB,
    unit: &UnitId,
    prefix: &str,
    mut each: impl FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), StoreError> {
    let (start, from) = (state_prefix(unit).len(), state_key(unit, prefix));
    let mut options = ReadOptions::default();
    if let Some(end) = keys::after(&from) {
        options.set_iterate_upper_bound(end);
    }
    let family = db.cf_handle(STATE).expect("opened with it");
    for entry in db.iterator_cf_opt(family, options, IteratorMode::From(&from, Direction::Forward)) {
        let (key, value) = entry.map_err(StoreError::read)?;
        if !each(&key[start..], &value) {
            break;
        }
    }
    Ok(())
}
