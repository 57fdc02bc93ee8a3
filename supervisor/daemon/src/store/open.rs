//! open: from a directory to a database that can be trusted, or a clear word why not.
//!
//! Job: options, schema version, recovery, and the report of what was lost. May touch: RocksDB, files of the store.
//! Keeps: a store of a newer version is not touched; a damaged one is copied aside before anything is cut.

use super::acked::Acked;
use super::keys::{AUDIT, META, META_LOSSES, META_SCHEMA, STATE, UNIT, sealed, unsealed};
use super::{Loss, StoreError};
use nix::sys::prctl;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompactionStyle, DBCompressionType, DBRecoveryMode,
    ErrorKind, FifoCompactOptions, LogLevel, Options, WriteOptions,
};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The version of the layout that this code reads and writes.
pub const SCHEMA_VERSION: u32 = 1;
/// Copies of damaged databases that are kept.
const DAMAGED_MAX: usize = 3;
const MIB: usize = 1024 * 1024;
/// The name of RocksDB's timer thread, which no option switches off.
const TIMER: &std::ffi::CStr = c"store-timer";

/// An open database with its mark.
pub struct Opened {
    pub db: DB,
    pub acked: Acked,
    pub losses: Vec<Loss>,
}

/// Opens the store in `dir`: `db/` is the database; `schema` and `acked` stand beside it.
pub fn open(dir: &Path) -> Result<Opened, StoreError> {
    let fault = |what: &'static str, path: &Path| {
        let path = path.to_owned();
        move |error| StoreError::io(what, path, error)
    };
    let database = dir.join("db");
    make_private(dir).map_err(fault("cannot make the directory of the store", dir))?;
    check_schema(dir)?;
    let acked_path = dir.join("acked");
    let mut acked = Acked::open(&acked_path).map_err(fault("cannot open the mark of the store", &acked_path))?;
    let existed = database.join("CURRENT").exists();
    let (db, mut cut) = recover(dir, &database)?;
    let mut losses = stored_losses(&db)?;
    let recovered = db.latest_sequence_number();
    if recovered < acked.mark() {
        let missing = acked.mark() - recovered;
        let detail = cut.take().map(|(_, detail)| detail);
        let what = detail.unwrap_or_else(|| "the log was shorter than what had been acknowledged".into());
        losses.push(Loss { time: now_ms(), missing_writes: missing, what });
    } else if let Some((_, detail)) = cut.take() {
        losses.push(Loss { time: now_ms(), missing_writes: 0, what: detail });
    }
    let stored = stored_losses(&db)?;
    if !existed || stored != losses {
        let mut batch = rocksdb::WriteBatch::default();
        let meta = db.cf_handle(META).expect("opened with it");
        if !existed {
            batch.put_cf(meta, META_SCHEMA, sealed(&[&SCHEMA_VERSION.to_be_bytes()]));
        }
        if stored != losses {
            batch.put_cf(meta, META_LOSSES, sealed(&[&serde_json::to_vec(&losses).expect("plain data")]));
        }
        let mut sync = WriteOptions::default();
        sync.set_sync(true);
        db.write_opt(batch, &sync).map_err(|error| StoreError::open(dir, error))?;
    }
    // From here on what was recovered is what there is.
    let reached = db.latest_sequence_number();
    if reached != acked.mark() {
        acked.reset(reached).map_err(fault("cannot write the mark of the store", &acked_path))?;
    }
    Ok(Opened { db, acked, losses })
}

/// A loss that stands in the store until a person clears it.
fn stored_losses(db: &DB) -> Result<Vec<Loss>, StoreError> {
    let meta = db.cf_handle(META).expect("opened with it");
    let value = db.get_cf(meta, META_LOSSES).map_err(StoreError::read)?;
    let Some(value) = value else { return Ok(Vec::new()) };
    let corrupt = || StoreError::Corrupt { what: "the list of losses".into() };
    serde_json::from_slice(unsealed(&value).ok_or_else(corrupt)?).map_err(|_| corrupt())
}

/// Strictly first. If that refuses: copy aside, then up to the last sound record. Says why it had to.
fn recover(dir: &Path, database: &Path) -> Result<(DB, Option<(PathBuf, String)>), StoreError> {
    match open_database(database, DBRecoveryMode::TolerateCorruptedTailRecords) {
        Ok(db) => Ok((db, None)),
        Err(error) if error.kind() == ErrorKind::Corruption => {
            let aside = copy_aside(dir, database)
                .map_err(|source| StoreError::io("cannot copy the damaged store aside", database.to_owned(), source))?;
            let db =
                open_database(database, DBRecoveryMode::PointInTime).map_err(|error| StoreError::open(dir, error))?;
            let what = format!("the log was damaged ({error}) and was cut there; a copy is in {}", aside.display());
            Ok((db, Some((aside, what))))
        }
        Err(error) => Err(StoreError::open(dir, error)),
    }
}

fn open_database(path: &Path, mode: DBRecoveryMode) -> Result<DB, rocksdb::Error> {
    let cache = Cache::new_lru_cache(8 * MIB);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_wal_recovery_mode(mode);
    options.set_paranoid_checks(true);
    options.set_recycle_log_file_num(0);
    options.set_unordered_write(false);
    options.set_manual_wal_flush(false);
    // Else one quiet family pins every old log file.
    options.set_max_total_wal_size(8 * MIB as u64);
    options.set_db_write_buffer_size(16 * MIB);
    options.set_max_open_files(256);
    options.set_max_background_jobs(2);
    options.set_skip_stats_update_on_db_open(true);
    // By default 16 threads per family are started to open a handful of files: half of the time that opening takes.
    options.set_max_file_opening_threads(1);
    // Nothing that wakes up on its own, as far as RocksDB lets us: docs/adr/0008.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    // Its own log file would be one more thing to open, roll and delete at each start.
    options.set_info_logger(rocksdb::InfoLogger::new_callback_logger(LogLevel::Warn, |level, text| {
        let text = text.trim_end();
        match level {
            // The level above does not hold back its headers: 800 lines of settings at each start.
            LogLevel::Debug | LogLevel::Info | LogLevel::Header => {}
            LogLevel::Warn => tracing::warn!(text, "the database says"),
            LogLevel::Error | LogLevel::Fatal => tracing::error!(text, "the database says"),
        }
    }));
    let family = |name: &str| {
        let mut options = Options::default();
        options.set_write_buffer_size(MIB);
        options.set_compression_type(DBCompressionType::Lz4);
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&cache);
        table.set_cache_index_and_filter_blocks(true);
        options.set_block_based_table_factory(&table);
        if name == AUDIT {
            let mut fifo = FifoCompactOptions::default();
            fifo.set_max_table_files_size(1024 * MIB as u64);
            options.set_compaction_style(DBCompactionStyle::Fifo);
            options.set_fifo_compaction_options(&fifo);
            // By size alone: by age as well, RocksDB would keep every file open.
            options.set_ttl(0);
        }
        ColumnFamilyDescriptor::new(name, options)
    };
    let families = [META, UNIT, STATE, AUDIT].map(family);
    // RocksDB's timer takes the name of the thread that opens: who looks at loomd's threads sees whose it is.
    let own_name = prctl::get_name();
    let _ = prctl::set_name(TIMER);
    let opened = DB::open_cf_descriptors(&options, path, families);
    if let Ok(name) = own_name {
        let _ = prctl::set_name(&name);
    }
    opened
}

/// The version stands in a file of its own, so that a newer store is recognised without opening it.
fn check_schema(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join("schema");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let corrupt = || StoreError::Corrupt { what: format!("the schema version in {}", path.display()) };
            let found: u32 = text.trim().parse().map_err(|_| corrupt())?;
            match found {
                SCHEMA_VERSION => Ok(()),
                found if found > SCHEMA_VERSION => {
                    Err(StoreError::Newer { path: dir.to_owned(), found, supported: SCHEMA_VERSION })
                }
                _ => Err(corrupt()),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let written = fs::write(&path, format!("{SCHEMA_VERSION}\n"));
            written.map_err(|error| StoreError::io("cannot write the schema version", path, error))
        }
        Err(error) => Err(StoreError::io("cannot read the schema version", path, error)),
    }
}

fn make_private(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Copies the database to `damaged-<ms>`; the oldest copies go.
fn copy_aside(dir: &Path, database: &Path) -> io::Result<PathBuf> {
    let mut kept: Vec<PathBuf> = fs::read_dir(dir)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("damaged-")))
        .collect();
    kept.sort_unstable();
    let too_many = (kept.len() + 1).saturating_sub(DAMAGED_MAX);
    for old in kept.into_iter().take(too_many) {
        fs::remove_dir_all(old)?;
    }
    let aside = dir.join(format!("damaged-{:013}", now_ms()));
    make_private(&aside)?;
    for entry in fs::read_dir(database)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), aside.join(entry.file_name()))?;
        }
    }
    Ok(aside)
}

/// Milliseconds since the epoch.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
