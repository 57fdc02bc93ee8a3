//! committer: the one thread that writes.
//!
//! Job: take all that waits, decide on each part, write it as one batch, sync if any part needs it, answer.
//! May touch: the database. Keeps: an answer leaves after the write returned; a failed write acknowledges nothing; an
//! older run changes nothing.

use super::keys::{AUDIT, STATE, UNIT, audit_key, audit_place, sealed, state_key, state_prefix};
use super::open::{self, Opened, now_ms};
use super::timers::TimerWrite;
use super::{Inner, STATE_UNIT_MAX_BYTES, StateError, StoreError, decode_state};
use crate::fault;
use crate::store::acked::Acked;
use loom_api::view::{AuditRecord, CrashReport, DeadLetter};
use loom_core::ids::{RunId, UnitId};
use loom_core::lifecycle::Record;
use rocksdb::{DB, IteratorMode, WriteBatch, WriteOptions};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// Writes of one round, at most.
const ROUND_MAX_WRITES: usize = 1024;
/// Bytes of one round after which no more are taken.
const ROUND_MAX_BYTES: usize = 1024 * 1024;
/// What was written without a sync is synced this much later.
const SYNC_LATER: Duration = Duration::from_secs(1);
/// Between two attempts to open a failed store again.
const REOPEN_EVERY: Duration = Duration::from_secs(1);
/// Failures in a row after which the store counts as failed.
const FAILURES_MAX: u32 = 2;

/// One thing to write.
pub enum Work {
    /// `sync`: answered once it is on the disk; else once it outlives this process.
    Records {
        records: Vec<(UnitId, Record)>,
        sync: bool,
    },
    /// Syncs what was written without.
    Sync,
    Put {
        unit: UnitId,
        run: RunId,
        key: String,
        value: Vec<u8>,
        if_version: Option<u64>,
    },
    Delete {
        unit: UnitId,
        run: RunId,
        key: String,
        if_version: Option<u64>,
    },
    Audit(Box<AuditRecord>),
    /// A crash report; synced within a second.
    Crash(Box<CrashReport>),
    /// A dead letter, synced.
    Letter(Box<DeadLetter>),
    /// Records of schedules; without one, its end. `sync`: as for `Records`.
    Timers {
        records: Vec<TimerWrite>,
        sync: bool,
    },
    ClearLosses,
    /// Sync, close the database, end the thread.
    Close,
}

/// Work with its place in the queue, and where the answer goes.
pub struct Request {
    pub work: Work,
    pub answer: oneshot::Sender<Result<u64, StateError>>,
    /// Given back when the committer takes the request up.
    pub place: OwnedSemaphorePermit,
}

pub struct Committer {
    inner: Arc<Inner>,
    acked: Acked,
    /// Written and not synced since.
    unsynced: Option<Instant>,
    audit_seq: u64,
    audit_last: (u64, u16),
    /// Bytes of state per unit, as far as asked for.
    used: HashMap<UnitId, u64>,
    failures: u32,
    last_attempt: Option<Instant>,
}

/// A round in the making: later parts see what earlier ones will have done.
#[derive(Default)]
struct Round {
    batch: WriteBatch,
    sync: bool,
    /// Version (0: absent) and size of entries changed in this round.
    state: HashMap<Vec<u8>, (u64, u64)>,
}

impl Committer {
    /// Reads what it must know to go on.
    pub fn new(inner: Arc<Inner>, db: &DB, acked: Acked) -> Result<Self, StoreError> {
        let family = db.cf_handle(AUDIT).expect("opened with it");
        let (mut audit_seq, mut audit_last) = (0, (0, 0));
        if let Some(newest) = db.iterator_cf(family, IteratorMode::End).next() {
            let (key, value) = newest.map_err(StoreError::read)?;
            audit_last = audit_place(&key).unwrap_or((0, 0));
            audit_seq = super::decode_audit(&value)?.seq;
        }
        let used = HashMap::new();
        Ok(Self { inner, acked, unsynced: None, audit_seq, audit_last, used, failures: 0, last_attempt: None })
    }

    /// Until told to close, or until nobody is left to ask.
    pub fn run(mut self, queue: &Receiver<Request>) {
        while let Some(first) = self.next(queue) {
            let mut bytes = first.work.size();
            let mut requests = vec![first];
            while requests.len() < ROUND_MAX_WRITES && bytes < ROUND_MAX_BYTES {
                let Ok(more) = queue.try_recv() else { break };
                bytes += more.work.size();
                requests.push(more);
            }
            if self.take_up(requests) {
                break;
            }
        }
        self.close();
    }

    /// The next request. Wakes up on its own only to sync what was written without.
    fn next(&mut self, queue: &Receiver<Request>) -> Option<Request> {
        loop {
            let Some(since) = self.unsynced else { return queue.recv().ok() };
            match queue.recv_timeout(SYNC_LATER.saturating_sub(since.elapsed())) {
                Ok(request) => return Some(request),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.sync_now(),
            }
        }
    }

    fn sync_now(&mut self) {
        if let Err(error) = self.sync() {
            self.failed(&error);
        }
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.unsynced = None;
        let synced = self.inner.with_db(|db| {
            db.flush_wal(true).map_err(StoreError::write)?;
            Ok(db.latest_sequence_number())
        });
        self.inner.syncs.fetch_add(1, Ordering::Relaxed);
        self.advance(synced?, true);
        Ok(())
    }

    /// Whether it was told to close.
    fn take_up(&mut self, requests: Vec<Request>) -> bool {
        if !self.may_try() {
            let error = self.inner.failed_error();
            let mut closing = false;
            for Request { work, answer, .. } in requests {
                closing |= matches!(work, Work::Close);
                let _ = answer.send(Err(StateError::Store(error.clone())));
            }
            return closing;
        }
        let (mut round, mut answers, mut closing) = (Round::default(), Vec::new(), None);
        for Request { work, answer, place } in requests {
            drop(place);
            if matches!(work, Work::Close) {
                closing = Some(answer);
                continue;
            }
            answers.push((answer, self.add(&mut round, work)));
        }
        let written = match (round.batch.is_empty(), round.sync && self.unsynced.is_some()) {
            (true, true) => self.sync(),
            (true, false) => Ok(()),
            (false, _) => self.write(round.batch, round.sync),
        };
        match written {
            Ok(()) => {
                for (answer, result) in answers {
                    // Nobody may be waiting any more; it is stored all the same.
                    let _ = answer.send(result);
                }
            }
            Err(error) => {
                self.failed(&error);
                // Refusals too: they may rest on parts of this very round.
                for (answer, _) in answers {
                    let _ = answer.send(Err(StateError::Store(error.clone())));
                }
            }
        }
        let Some(answer) = closing else { return false };
        self.close();
        let _ = answer.send(Ok(0));
        true
    }

    fn write(&mut self, batch: WriteBatch, sync: bool) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        #[cfg(test)]
        if self.inner.fail_writes.load(Ordering::SeqCst) > 0 {
            self.inner.fail_writes.fetch_sub(1, Ordering::SeqCst);
            return Err(StoreError::Write { why: "made to fail by a test".into() });
        }
        fault::point("store.write");
        let reached = self.inner.with_db(|db| {
            db.write_opt(batch, &options).map_err(StoreError::write)?;
            Ok(db.latest_sequence_number())
        })?;
        fault::point("store.written");
        if self.failures > 0 {
            self.failures = 0;
            self.inner.set_failed(None);
        }
        if sync {
            self.inner.syncs.fetch_add(1, Ordering::Relaxed);
            self.unsynced = None;
            self.advance(reached, false);
        } else {
            self.unsynced.get_or_insert_with(Instant::now);
        }
        Ok(())
    }

    fn advance(&mut self, reached: u64, now: bool) {
        if let Err(error) = self.acked.advance(reached, now) {
            tracing::warn!(%error, "the mark of the store could not be written; a loss might go unnoticed");
        }
    }

    fn add(&mut self, round: &mut Round, work: Work) -> Result<u64, StateError> {
        match work {
            Work::Records { records, sync } => {
                round.sync |= sync;
                self.add_records(round, records).map(|()| 0).map_err(StateError::Store)
            }
            Work::Sync => {
                round.sync = true;
                Ok(0)
            }
            Work::Put { unit, run, key, value, if_version } => {
                self.fence(&unit, run)?;
                self.change(round, &unit, &key, Some(&value), if_version)
            }
            Work::Delete { unit, run, key, if_version } => {
                self.fence(&unit, run)?;
                self.change(round, &unit, &key, None, if_version)
            }
            Work::Audit(record) => self.add_audit(round, *record).map_err(StateError::Store),
            Work::Crash(report) => {
                self.inner.clone().with_db(|db| super::crashes::add(db, &mut round.batch, &report))?;
                Ok(0)
            }
            Work::Letter(letter) => {
                self.inner.clone().with_db(|db| super::letters::add(db, &mut round.batch, &letter))?;
                round.sync = true;
                Ok(0)
            }
            Work::Timers { records, sync } => {
                round.sync |= sync;
                self.inner.clone().with_db(|db| super::timers::add(db, &mut round.batch, &records))?;
                Ok(0)
            }
            Work::ClearLosses => {
                let inner = self.inner.clone();
                inner.with_db(|db| {
                    round
                        .batch
                        .delete_cf(db.cf_handle(super::keys::META).expect("opened with it"), super::keys::META_LOSSES);
                    Ok(())
                })?;
                round.sync = true;
                inner.health().losses.clear();
                Ok(0)
            }
            Work::Close => Ok(0),
        }
    }

    fn add_records(&mut self, round: &mut Round, records: Vec<(UnitId, Record)>) -> Result<(), StoreError> {
        // Fenced from now on, not from the commit on: what the run before sent later than this must not count.
        for (unit, record) in &records {
            self.inner.fence_at(unit, record.run);
        }
        self.inner.clone().with_db(|db| {
            let family = db.cf_handle(UNIT).expect("opened with it");
            for (unit, record) in records {
                let value = serde_json::to_vec(&record).expect("a record is plain data");
                round.batch.put_cf(family, unit.to_string(), sealed(&[&value]));
            }
            Ok(())
        })
    }

    fn fence(&self, unit: &UnitId, run: RunId) -> Result<(), StateError> {
        let current = self.inner.current_run(unit);
        if run == current { Ok(()) } else { Err(StateError::Fenced { current }) }
    }

    /// Puts (or, without a value, deletes) an entry; answers its new version.
    fn change(
        &mut self,
        round: &mut Round,
        unit: &UnitId,
        key: &str,
        value: Option<&[u8]>,
        if_version: Option<u64>,
    ) -> Result<u64, StateError> {
        let place = state_key(unit, key);
        let inner = self.inner.clone();
        inner.with_db(|db| {
            let family = db.cf_handle(STATE).expect("opened with it");
            let (version, size) = match round.state.get(&place) {
                Some(entry) => *entry,
                None => match db.get_pinned_cf(family, &place).map_err(StoreError::read)? {
                    None => (0, 0),
                    Some(stored) => {
                        let (value, version) = decode_state(&stored, unit, key)?;
                        (version, (place.len() + value.len()) as u64)
                    }
                },
            };
            if if_version.is_some_and(|wanted| wanted != version) {
                return Ok(Err(StateError::Conflict { version }));
            }
            if value.is_none() && version == 0 {
                return Ok(Ok(0));
            }
            let used = match self.used.get(unit) {
                Some(used) => *used,
                None => bytes_used(db, unit)?,
            };
            let size_now = value.map_or(0, |value| (place.len() + value.len()) as u64);
            let used_now = used.saturating_sub(size) + size_now;
            if used_now > STATE_UNIT_MAX_BYTES && size_now > size {
                let what = format!("the state of {unit} as a whole");
                return Ok(Err(StateError::TooLarge { what, bytes: used_now, limit: STATE_UNIT_MAX_BYTES }));
            }
            let version_now = match value {
                Some(value) => {
                    let version = version + 1;
                    round.batch.put_cf(family, &place, sealed(&[&version.to_be_bytes(), value]));
                    version
                }
                None => {
                    round.batch.delete_cf(family, &place);
                    0
                }
            };
            self.used.insert(unit.clone(), used_now);
            round.state.insert(place, (version_now, size_now));
            round.sync = true;
            Ok(Ok(version_now))
        })?
    }

    fn add_audit(&mut self, round: &mut Round, mut record: AuditRecord) -> Result<u64, StoreError> {
        // A clock set back must not put a record before an older one.
        let (ms, n) = (now_ms(), 0);
        let (last_ms, last_n) = self.audit_last;
        self.audit_last = match ms > last_ms {
            true => (ms, n),
            false => last_n.checked_add(1).map_or((last_ms + 1, 0), |n| (last_ms, n)),
        };
        self.audit_seq += 1;
        record.seq = self.audit_seq;
        round.sync |= record.stage == super::AUDIT_DECIDED;
        let value = sealed(&[&serde_json::to_vec(&record).expect("a record is plain data")]);
        let key = audit_key(self.audit_last.0, self.audit_last.1);
        self.inner.with_db(|db| {
            round.batch.put_cf(db.cf_handle(AUDIT).expect("opened with it"), key, value);
            Ok(())
        })?;
        Ok(self.audit_seq)
    }

    /// A write failed: nothing of it is acknowledged, and the handle is not trusted any more. The write is never repeated: a
    /// failed sync may have thrown away the very pages that it was to write.
    fn failed(&mut self, error: &StoreError) {
        self.failures += 1;
        self.used.clear();
        self.unsynced = None;
        tracing::error!(%error, failures = self.failures, "a write to the store failed; nothing of it was acknowledged");
        self.inner.set_failed(Some(error.to_string()));
        if self.reopen() && self.failures < FAILURES_MAX {
            self.inner.set_failed(None);
        }
    }

    /// After failures in a row, and while it could not be opened again, the disk is asked once a second at most.
    fn may_try(&mut self) -> bool {
        let is_open = self.inner.is_open();
        if is_open && self.failures < FAILURES_MAX {
            return true;
        }
        if self.last_attempt.is_some_and(|at| at.elapsed() < REOPEN_EVERY) {
            return false;
        }
        self.last_attempt = Some(Instant::now());
        is_open || self.reopen()
    }

    /// Whether there is a database again.
    fn reopen(&mut self) -> bool {
        self.last_attempt = Some(Instant::now());
        let mut db = self.inner.db.write().expect("no holder panics");
        // The old handle first: it holds the lock.
        *db = None;
        match open::open(&self.inner.dir) {
            Ok(Opened { db: opened, acked, losses }) => {
                *db = Some(opened);
                drop(db);
                self.acked = acked;
                self.inner.health().losses = losses;
                tracing::info!("the store was opened again");
                true
            }
            Err(error) => {
                drop(db);
                tracing::error!(%error, "the store could not be opened again");
                self.inner.set_failed(Some(error.to_string()));
                false
            }
        }
    }

    fn close(&mut self) {
        if self.inner.is_open() {
            self.sync_now();
        }
        *self.inner.db.write().expect("no holder panics") = None;
        self.inner.set_failed(Some("it was closed".into()));
    }
}

fn bytes_used(db: &DB, unit: &UnitId) -> Result<u64, StoreError> {
    let mut bytes = 0;
    super::each_state(db, unit, "", |key, value| {
        bytes += (state_prefix(unit).len() + key.len() + value.len().saturating_sub(super::STATE_HEAD_BYTES)) as u64;
        true
    })?;
    Ok(bytes)
}

impl Work {
    fn size(&self) -> usize {
        match self {
            Work::Records { records, .. } => records.len() * 1024,
            Work::Put { value, key, .. } => key.len() + value.len(),
            Work::Delete { key, .. } => key.len(),
            Work::Audit(_) => 1024,
            Work::Crash(_) => 64 << 10,
            Work::Letter(letter) => 1024 + letter.data.len(),
            Work::Timers { records, .. } => records.len() * 4096,
            Work::Sync | Work::ClearLosses | Work::Close => 0,
        }
    }
}
