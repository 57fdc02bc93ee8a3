//! keeper: bounds files while their writers keep them open, and notes when what was written.
//!
//! Job: one thread that sleeps in poll until a watched file grows; then, once a second for as long as it grows, it notes the time
//! beside the size (`<run>.times`) and frees the head. May touch: files of the log store. Keeps: writers append to the same file
//! all the while; each watch fires once and arms a timer, so what is idle costs nothing.
//!
//! A file's head is freed by punching a hole: the writer's position, which is the end, does not move. The size still grows, and
//! `RLIMIT_FSIZE` counts it; so beyond [`ROLL_BYTES`] the tail is copied to `<run>.old` and the file truncated. A line
//! written between the copy and the truncation, microseconds, is lost; this is once per [`ROLL_BYTES`] of output.

use super::KEPT_BYTES;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a growing file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Data beyond [`KEPT_BYTES`] before a hole is worth its call.
const SLACK_BYTES: u64 = 1 << 20;
/// A size at which the file starts anew. Below the default of `limits.file_size`.
const ROLL_BYTES: u64 = 64 << 20;
/// Whole blocks only can be freed.
const BLOCK_BYTES: u64 = 4096;

/// Adds files to the thread, which ends when the last handle is gone.
#[derive(Debug, Clone)]
pub struct Keeper {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    /// New files. Unbounded because it is filled once per run and emptied at once.
    files: std::sync::mpsc::Sender<PathBuf>,
    /// Wakes the thread; closed to end it.
    bell: io::PipeWriter,
}

impl Keeper {
    /// Starts the thread. Without inotify or threads the files grow unbounded, which is said once.
    pub fn start() -> Self {
        match Self::try_start() {
            Ok(inner) => Self { inner: Some(Arc::new(inner)) },
            Err(error) => {
                tracing::warn!(%error, "log files are not bounded");
                Self { inner: None }
            }
        }
    }

    fn try_start() -> io::Result<Inner> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let (rung, bell) = io::pipe()?;
        let (files, incoming) = std::sync::mpsc::channel();
        let mut watcher = Watcher { inotify, waiting: HashMap::new(), growing: Vec::new() };
        let body = move || watcher.run(&rung, &incoming);
        std::thread::Builder::new().name("logs".to_owned()).spawn(body)?;
        Ok(Inner { files, bell })
    }

    /// Bounds this file from now on.
    pub fn watch(&self, file: PathBuf) {
        if let Some(inner) = &self.inner
            && inner.files.send(file).is_ok()
        {
            // A full pipe means that it is awake anyway.
            let _ = (&inner.bell).write(&[1]);
        }
    }
}

struct Watcher {
    inotify: Inotify,
    /// Files at rest.
    waiting: HashMap<WatchDescriptor, PathBuf>,
    /// Files that grew at the last look: path, size then, next look.
    growing: Vec<(PathBuf, u64, Instant)>,
}

impl Watcher {
    fn run(&mut self, rung: &io::PipeReader, incoming: &std::sync::mpsc::Receiver<PathBuf>) {
        loop {
            let timeout = match self.growing.iter().map(|(_, _, at)| *at).min() {
                None => PollTimeout::NONE,
                Some(at) => {
                    // Rounded up, so that it is due when poll returns.
                    let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
                }
            };
            let mut fds =
                [PollFd::new(rung.as_fd(), PollFlags::POLLIN), PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return tracing::warn!(%error, "log files are not bounded any more"),
            }
            if fds[0].revents().is_some_and(|events| !events.is_empty())
                && !matches!((&*rung).read(&mut [0; 256]), Ok(1..))
            {
                return;
            }
            while let Ok(file) = incoming.try_recv() {
                self.look(file, None);
            }
            // EAGAIN where there is nothing.
            for event in self.inotify.read_events().unwrap_or_default() {
                if event.mask.contains(AddWatchFlags::IN_MODIFY)
                    && let Some(file) = self.waiting.remove(&event.wd)
                {
                    self.look(file, None);
                }
            }
            let now = Instant::now();
            let (due, later) = std::mem::take(&mut self.growing).into_iter().partition(|(_, _, at)| *at <= now);
            self.growing = later;
            let due: Vec<(PathBuf, u64, Instant)> = due;
            for (file, size, _) in due {
                self.look(file, Some(size));
            }
        }
    }

    /// Bounds the file, and waits for its next growth by timer or by watch.
    fn look(&mut self, file: PathBuf, size_before: Option<u64>) {
        // Armed first: what is written after the look fires it.
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONESHOT;
        let watch = match size_before {
            Some(_) => None,
            None => self.inotify.add_watch(&file, flags).ok(),
        };
        // Gone: pruned after newer runs came.
        let Ok(size) = bound(&file) else { return };
        match (size_before, watch) {
            (Some(before), _) if before == size => {
                let Ok(watch) = self.inotify.add_watch(&file, flags) else { return };
                // Written between the look and the watch: the watch has not seen it.
                if fs::metadata(&file).is_ok_and(|meta| meta.len() != size) {
                    let _ = self.inotify.rm_watch(watch);
                    self.growing.push((file, size, Instant::now() + LOOK_EVERY));
                } else {
                    self.waiting.insert(watch, file);
                }
            }
            (Some(_), _) => self.growing.push((file, size, Instant::now() + LOOK_EVERY)),
            (None, Some(watch)) => {
                self.waiting.insert(watch, file);
            }
            (None, None) => {}
        }
    }
}

/// Notes the time of what is new, frees what is too old, and returns the size.
fn bound(path: &Path) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let size = file.metadata()?.len();
    let times = Times(path.with_extension("times"));
    times.note(size)?;
    if size >= ROLL_BYTES {
        return roll(&file, path, &times);
    }
    let head = nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekData).unwrap_or(0);
    let head = u64::try_from(head).unwrap_or(0);
    if size.saturating_sub(head) > KEPT_BYTES + SLACK_BYTES {
        let until = (size - KEPT_BYTES) / BLOCK_BYTES * BLOCK_BYTES;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let length = libc::off_t::try_from(until).map_err(io::Error::other)?;
        if fallocate(&file, flags, 0, length).is_err() {
            // A file system without holes.
            return roll(&file, path, &times);
        }
        times.forget_before(until)?;
        // What was kept from before is older than what was just freed.
        let _ = fs::remove_file(path.with_extension("old"));
    }
    Ok(size)
}

/// Copies the newest [`KEPT_BYTES`] to `<run>.old` and empties the file; appending writers go on at its start.
fn roll(mut file: &File, path: &Path, times: &Times) -> io::Result<u64> {
    let fresh = path.with_extension("new");
    let mut copy = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    let from = file.metadata()?.len().saturating_sub(KEPT_BYTES);
    file.seek(SeekFrom::Start(from))?;
    io::copy(&mut file, &mut copy)?;
    fs::rename(&fresh, path.with_extension("old"))?;
    file.set_len(0)?;
    times.start_anew()?;
    file.metadata().map(|meta| meta.len())
}

/// Lines of `<size> <milliseconds since the epoch>`: what lies below that size was written by that time.
struct Times(PathBuf);

impl Times {
    fn note(&self, size: u64) -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.0)?;
        let length = file.metadata()?.len();
        let mut last = [0; 64];
        let start = length.saturating_sub(last.len() as u64);
        let read = file.read_at(&mut last, start)?;
        let last = String::from_utf8_lossy(&last[..read]);
        let last_size = last.lines().last().and_then(|line| line.split(' ').next()?.parse::<u64>().ok());
        if size == 0 || last_size == Some(size) {
            return Ok(());
        }
        file.write_all(format!("{size} {}\n", wall_ms()).as_bytes())
    }

    fn forget_before(&self, size: u64) -> io::Result<()> {
        let text = fs::read_to_string(&self.0)?;
        let kept = text.lines().filter(|line| line.split(' ').next().and_then(|size| size.parse().ok()) >= Some(size));
        let kept: String = kept.flat_map(|line| [line, "\n"]).collect();
        fs::write(&self.0, kept)
    }

    fn start_anew(&self) -> io::Result<()> {
        fs::write(&self.0, "")
    }
}

pub(super) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
