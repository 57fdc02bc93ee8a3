//! logs: where units' output and loomd's own words go.
//!
//! Job: for each run a descriptor that serves as its stdout and stderr, a journald stream or a file, and tracing for loomd
//! itself. May touch: journald's sockets, the `logs` directory. Keeps: output runs through no pipe of ours, so it outlives
//! loomd and costs it nothing; a file store has a bounded size, also while a writer keeps its file open; nothing wakes up
//! while nothing is written.

mod keeper;
mod native;
mod words;

pub use native::LastWords;
pub use words::init_tracing;

use keeper::Keeper;
use loom_core::ids::{RunId, UnitId};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Where journald listens, unless `LOOM_JOURNAL_DIR` says otherwise.
pub const JOURNAL_DIR: &str = "/run/systemd/journal";
/// Runs of one unit whose files are kept.
pub const RUNS_KEPT: usize = 5;
/// Bytes of one run's output that are kept; about one mebibyte more lies on disk at times.
pub const KEPT_BYTES: u64 = 8 << 20;
/// A stream's lines carry one number of ours, the syslog facility. From here on ...
const FIRST_FACILITY: u64 = 16;
/// ... so many are for local use: `local0` to `local6`; `local7` is what some systems write their boot messages to. The run's
/// number modulo this tells a late line of an old run from an early one of the next.
const FACILITIES: u64 = 7;
/// `info`.
const PRIORITY: u64 = 6;

/// The sinks that were found.
#[derive(Debug, Clone)]
pub struct Sinks {
    journal: Option<PathBuf>,
    logs: PathBuf,
    keeper: Keeper,
}

impl Sinks {
    /// Looks whether journald accepts; otherwise files below `state_dir`. Files of runs that still write are watched again.
    pub fn detect(state_dir: &Path) -> Self {
        let dir = std::env::var_os("LOOM_JOURNAL_DIR").map_or_else(|| PathBuf::from(JOURNAL_DIR), PathBuf::from);
        let journal = UnixStream::connect(dir.join("stdout")).is_ok().then_some(dir);
        Self::at(journal, state_dir.join("logs"))
    }

    fn at(journal: Option<PathBuf>, logs: PathBuf) -> Self {
        let keeper = Keeper::start();
        for unit in subdirectories(&logs.join("units")) {
            if let Some((_, file)) = runs_in(&unit).pop() {
                keeper.watch(file);
            }
        }
        Self { journal, logs, keeper }
    }

    /// `journald` or `files`.
    pub fn word(&self) -> &'static str {
        if self.journal.is_some() { "journald" } else { "files" }
    }

    /// What a run writes to: its stdout and stderr. Where journald has gone away it is a file.
    pub fn open(&self, unit: &UnitId, run: RunId) -> io::Result<OwnedFd> {
        if let Some(dir) = &self.journal {
            match open_stream(&dir.join("stdout"), &unit.to_string(), facility(run)) {
                Ok(stream) => {
                    self.look_after(dir, &stream, unit, run);
                    return Ok(stream.into());
                }
                Err(error) => tracing::warn!(%unit, %run, %error, "journald does not accept; output goes to a file"),
            }
        }
        self.open_file(unit, run)
    }

    /// Streams break when journald ends, unless a service manager keeps them for it. One that we hold ourselves tells.
    fn look_after(&self, dir: &Path, stream: &UnixStream, unit: &UnitId, run: RunId) {
        let Ok(stat) = nix::sys::stat::fstat(stream) else { return };
        if self.keeper.handed_over(unit, run, stat.st_ino)
            && let Ok(ours) = open_stream(&dir.join("stdout"), words::IDENTIFIER, FIRST_FACILITY)
        {
            self.keeper.look_after(ours);
        }
    }

    fn open_file(&self, unit: &UnitId, run: RunId) -> io::Result<OwnedFd> {
        let dir = self.logs.join("units").join(unit.to_string());
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let path = dir.join(format!("{run}.log"));
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let mut runs = runs_in(&dir);
        runs.truncate(runs.len().saturating_sub(RUNS_KEPT));
        for (_, old) in runs {
            for extension in ["log", "old", "times", "base"] {
                // One that is left is tried again at the next run.
                let _ = fs::remove_file(old.with_extension(extension));
            }
        }
        self.keeper.watch(path);
        Ok(file.into())
    }
}

fn facility(run: RunId) -> u64 {
    FIRST_FACILITY + run.0 % FACILITIES
}

/// journald's stream protocol: identifier, unit, facility and priority, level prefixes, and three forwards that stay off.
/// Never waits: one whose queue of callers is full is as good as none.
fn open_stream(socket: &Path, identifier: &str, facility: u64) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let called = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(called.as_raw_fd(), &UnixAddr::new(socket)?)?;
    let mut stream = UnixStream::from(called);
    stream.set_nonblocking(false)?;
    stream.shutdown(Shutdown::Read)?;
    stream.write_all(format!("{identifier}\n\n{}\n1\n0\n0\n0\n", facility << 3 | PRIORITY).as_bytes())?;
    Ok(stream)
}

/// The files of runs in a unit's directory, oldest first.
fn runs_in(dir: &Path) -> Vec<(u64, PathBuf)> {
    let mut runs: Vec<(u64, PathBuf)> = entries(dir)
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .filter_map(|path| Some((path.file_stem()?.to_str()?.parse().ok()?, path)))
        .collect();
    runs.sort();
    runs
}

fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    entries(dir).filter(|path| path.is_dir()).collect()
}

/// What cannot be listed is empty: a store that does not exist yet.
fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

#[cfg(test)]
mod tests;
