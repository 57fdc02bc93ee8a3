//! keeper: bounds files while their writers keep them open, and notes when what was written.
//!
//! Job: one thread that sleeps in poll until a watched file grows; then, four times a second for as long as it grows, it notes the time
//! beside the size (`<run>.times`) and frees the head. May touch: files of the log store. Keeps: writers append to the same file
//! all the while; each watch fires once and arms a timer, so what is idle costs nothing.
//!
//! A file's head is freed by punching a hole: the writer's position, which is the end, does not move. The size still grows, and
//! `RLIMIT_FSIZE` counts it; so beyond [`ROLL_BYTES`] the hole is cut out of the file (`FALLOC_FL_COLLAPSE_RANGE`, ext4 and
//! XFS), which appending writers do not notice and which loses nothing. Where a file system cannot, the tail is copied to
//! `<run>.old` and the file truncated: a line written in the microsecond between the two is lost, once per [`ROLL_BYTES`].
//!
//! `<run>.base` says how many bytes were cut off in front, so that places in the output are counted from the run's first byte.
//! Its lock is held while the file and the base do not fit each other.
//!
//! The thread also holds a stream of its own to journald: when that breaks, all do, and the runs that lost theirs are named.

use super::KEPT_BYTES;
use loom_core::ids::{RunId, UnitId};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a growing file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What grows by more than this between two looks is looked at [`LOOK_SOON`]: it would reach its limit otherwise.
const FAST_BYTES: u64 = 1 << 20;
/// See [`FAST_BYTES`].
const LOOK_SOON: Duration = Duration::from_millis(20);
/// Data beyond [`KEPT_BYTES`] before a hole is worth its call.
const SLACK_BYTES: u64 = 1 << 20;
/// A size at which the file starts anew. Below the default of `limits.file_size`.
const ROLL_BYTES: u64 = 64 << 20;
/// Whole blocks only can be freed.
const BLOCK_BYTES: u64 = 4096;
/// Newest streams of one unit that are remembered: its run's, and those of its tools' workers.
const STREAMS_KEPT: usize = 8;

/// From the end of journald's first socket to that of its last. What is said before then dies with it.
const JOURNALD_ENDS: Duration = Duration::from_millis(250);

/// What the thread is told.
enum News {
    /// Bounds this file.
    File(PathBuf),
    /// Looks after this stream to journald.
    Stream(UnixStream),
}

/// Streams to journald that were handed over: the inode of each, with its run.
type Streams = Arc<Mutex<HashMap<UnitId, Vec<(u64, RunId)>>>>;

/// Adds files to the thread, which ends when the last handle is gone.
#[derive(Debug, Clone)]
pub struct Keeper {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    /// Unbounded because it is filled once per run and emptied at once.
    news: std::sync::mpsc::Sender<News>,
    streams: Streams,
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
        let (news, incoming) = std::sync::mpsc::channel();
        let streams = Streams::default();
        let (waiting, growing) = (HashMap::new(), Vec::new());
        let mut watcher = Watcher { inotify, waiting, growing, journald: None, streams: Arc::clone(&streams) };
        let body = move || watcher.run(&rung, &incoming);
        std::thread::Builder::new().name("logs".to_owned()).spawn(body)?;
        Ok(Inner { news, streams, bell })
    }

    /// Bounds this file from now on.
    pub fn watch(&self, file: PathBuf) {
        self.tell(News::File(file));
    }

    /// Says it when this stream breaks, which carries nothing, and which runs' streams broke with it.
    pub fn look_after(&self, stream: UnixStream) {
        self.tell(News::Stream(stream));
    }

    /// Remembers a stream that was handed to a run. Answers whether it is the first of its journald.
    pub fn handed_over(&self, unit: &UnitId, run: RunId, inode: u64) -> bool {
        let Some(inner) = &self.inner else { return false };
        let mut streams = inner.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let first = streams.is_empty();
        let of_unit = streams.entry(unit.clone()).or_default();
        if of_unit.len() == STREAMS_KEPT {
            of_unit.remove(0);
        }
        of_unit.push((inode, run));
        first
    }

    fn tell(&self, news: News) {
        if let Some(inner) = &self.inner
            && inner.news.send(news).is_ok()
        {
            // A full pipe means that it is awake anyway.
            let _ = (&inner.bell).write(&[1]);
        }
    }
}

struct Growing {
    file: PathBuf,
    /// At the last look.
    size: u64,
    next: Instant,
    pause: Duration,
}

struct Watcher {
    inotify: Inotify,
    /// Files at rest.
    waiting: HashMap<WatchDescriptor, PathBuf>,
    /// Files that grow.
    growing: Vec<Growing>,
    journald: Option<UnixStream>,
    streams: Streams,
}

impl Watcher {
    fn run(&mut self, rung: &io::PipeReader, incoming: &std::sync::mpsc::Receiver<News>) {
        loop {
            let timeout = match self.growing.iter().map(|growing| growing.next).min() {
                None => PollTimeout::NONE,
                Some(at) => {
                    // Rounded up, so that it is due when poll returns.
                    let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
                }
            };
            let mut fds = vec![
                PollFd::new(rung.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
            ];
            // No flags: its end only.
            fds.extend(self.journald.as_ref().map(|stream| PollFd::new(stream.as_fd(), PollFlags::empty())));
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return tracing::warn!(%error, "log files are not bounded any more"),
            }
            if fds[0].revents().is_some_and(|events| !events.is_empty())
                && !matches!((&*rung).read(&mut [0; 256]), Ok(1..))
            {
                return;
            }
            if fds.get(2).is_some_and(|fd| fd.revents().is_some_and(|events| !events.is_empty())) {
                self.journald = None;
                say_who_lost_its_stream(&self.streams);
            }
            while let Ok(news) = incoming.try_recv() {
                match news {
                    News::File(file) => self.begin(file),
                    News::Stream(stream) => self.journald = Some(stream),
                }
            }
            // EAGAIN where there is nothing.
            for event in self.inotify.read_events().unwrap_or_default() {
                if event.mask.contains(AddWatchFlags::IN_MODIFY)
                    && let Some(file) = self.waiting.remove(&event.wd)
                {
                    // Soon again: only then is it known how fast it grows.
                    self.look(file, None, LOOK_SOON);
                }
            }
            let now = Instant::now();
            let (due, later): (Vec<Growing>, _) =
                std::mem::take(&mut self.growing).into_iter().partition(|growing| growing.next <= now);
            self.growing = later;
            for Growing { file, size, pause, .. } in due {
                self.look(file, Some(size), pause);
            }
        }
    }

    /// Bounds a new file, and rests until it grows.
    fn begin(&mut self, file: PathBuf) {
        // Armed first: what is written after the look fires it.
        let watch = self.arm(&file);
        if bound(&file).is_ok()
            && let Some(watch) = watch
        {
            self.waiting.insert(watch, file);
        }
    }

    fn arm(&self, file: &Path) -> Option<WatchDescriptor> {
        self.inotify.add_watch(file, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONESHOT).ok()
    }

    /// Bounds a file that grows; looks again while it does, and rests once it has not grown for [`LOOK_EVERY`].
    fn look(&mut self, file: PathBuf, before: Option<u64>, paused: Duration) {
        // Gone: pruned after newer runs came.
        let Ok(size) = bound(&file) else { return };
        let grown = before.map_or(0, |before| size.abs_diff(before));
        let pause = match before {
            None => LOOK_SOON,
            Some(_) if grown > FAST_BYTES => LOOK_SOON,
            Some(_) => LOOK_EVERY,
        };
        if before == Some(size)
            && paused == LOOK_EVERY
            && let Some(watch) = self.arm(&file)
        {
            if fs::metadata(&file).is_ok_and(|meta| meta.len() == size) {
                self.waiting.insert(watch, file);
                return;
            }
            // Written between the look and the watch: the watch has not seen it.
            let _ = self.inotify.rm_watch(watch);
        }
        self.growing.push(Growing { file, size, next: Instant::now() + pause, pause });
    }
}

/// journald is gone, and with it every stream to it: a process that prints to one gets EPIPE. Only a start gives it another.
fn say_who_lost_its_stream(streams: &Streams) {
    std::thread::sleep(JOURNALD_ENDS);
    let streams = std::mem::take(&mut *streams.lock().unwrap_or_else(PoisonError::into_inner));
    let runs: HashMap<String, (&UnitId, RunId)> = streams
        .iter()
        .flat_map(|(unit, streams)| streams.iter().map(move |(inode, run)| (format!("socket:[{inode}]"), (unit, *run))))
        .collect();
    let mut lost = BTreeSet::new();
    for process in super::entries(Path::new("/proc")) {
        for descriptor in ["fd/1", "fd/2"] {
            let target = fs::read_link(process.join(descriptor)).unwrap_or_default();
            lost.extend(target.to_str().and_then(|target| runs.get(target)));
        }
    }
    tracing::warn!(runs = lost.len(), "journald ended, and with it the streams of the runs that print to it");
    for (unit, run) in lost {
        tracing::warn!(
            %unit, %run,
            "journald ended: what this run prints is lost until `loomctl restart {unit}` gives it a new stream"
        );
    }
}

/// Notes the time of what is new, frees what is too old, and returns the size.
fn bound(path: &Path) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let size = file.metadata()?.len();
    let (base, _) = read_base(path);
    let times = Times(path.with_extension("times"));
    times.note(base + size)?;
    let head = nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekData).unwrap_or(0);
    let mut head = u64::try_from(head).unwrap_or(0);
    if size.saturating_sub(head) > KEPT_BYTES + SLACK_BYTES {
        let until = (size - KEPT_BYTES) / BLOCK_BYTES * BLOCK_BYTES;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if fallocate(&file, flags, 0, offset(until)?).is_err() {
            // A file system without holes.
            return roll(&file, path, 0, &times);
        }
        head = until;
        times.forget_before(base + until)?;
        // What was kept from before is older than what was just freed.
        let _ = fs::remove_file(path.with_extension("old"));
    }
    if size >= ROLL_BYTES { roll(&file, path, head / BLOCK_BYTES * BLOCK_BYTES, &times) } else { Ok(size) }
}

fn offset(bytes: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(bytes).map_err(io::Error::other)
}

/// Makes the file small: cuts out the hole at its head, or else empties it and keeps its tail in `<run>.old`.
fn roll(mut file: &File, path: &Path, hole: u64, times: &Times) -> io::Result<u64> {
    let base_path = path.with_extension("base");
    let base_file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(base_path)?;
    if base_file.try_lock().is_err() {
        // Somebody reads. There is room until the next look.
        return file.metadata().map(|meta| meta.len());
    }
    let base = settled_base(path, file)?;
    let collapse = FallocateFlags::FALLOC_FL_COLLAPSE_RANGE;
    if hole > 0 {
        write_base(&base_file, base, Step::Cut(hole))?;
        if fallocate(file, collapse, 0, offset(hole)?).is_ok() {
            write_base(&base_file, base + hole, Step::None)?;
            return file.metadata().map(|meta| meta.len());
        }
    }
    let fresh = path.with_extension("new");
    let mut copy = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    let from = file.metadata()?.len().saturating_sub(KEPT_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut copied = from + io::copy(&mut file, &mut copy)?;
    write_base(&base_file, base, Step::Empty(copied))?;
    fs::rename(&fresh, path.with_extension("old"))?;
    // What came while the rest was done.
    loop {
        match io::copy(&mut file, &mut copy)? {
            0 => break,
            more => copied += more,
        }
    }
    file.set_len(0)?;
    write_base(&base_file, base + copied, Step::None)?;
    times.forget_before(base + from)?;
    file.metadata().map(|meta| meta.len())
}

/// What is being done to a file, for whoever finds it half done.
enum Step {
    None,
    /// So many bytes, all of them a hole, are cut out.
    Cut(u64),
    /// At least so many bytes are dropped.
    Empty(u64),
}

/// `<base>`, and while something is done ` cut <bytes>` or ` empty <bytes>`.
fn write_base(mut file: &File, base: u64, step: Step) -> io::Result<()> {
    let text = match step {
        Step::None => format!("{base}\n"),
        Step::Cut(bytes) => format!("{base} cut {bytes}\n"),
        Step::Empty(bytes) => format!("{base} empty {bytes}\n"),
    };
    file.seek(SeekFrom::Start(0))?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

fn read_base(log: &Path) -> (u64, Step) {
    let text = fs::read_to_string(log.with_extension("base")).unwrap_or_default();
    let mut words = text.split_whitespace();
    let base = words.next().and_then(|base| base.parse().ok()).unwrap_or(0);
    let step = match (words.next(), words.next().and_then(|bytes| bytes.parse().ok())) {
        (Some("cut"), Some(bytes)) => Step::Cut(bytes),
        (Some("empty"), Some(bytes)) => Step::Empty(bytes),
        (Some(_) | None, Some(_) | None) => Step::None,
    };
    (base, step)
}

/// The base as it is, also where an earlier loomd ended in the middle of a step.
fn settled_base(log: &Path, file: &File) -> io::Result<u64> {
    let (base, step) = read_base(log);
    let done = match step {
        Step::None => 0,
        // Before the cut the head is a hole; after it, data.
        Step::Cut(bytes) => match nix::unistd::lseek(file, 0, nix::unistd::Whence::SeekData) {
            Ok(data) if u64::try_from(data).unwrap_or(0) < bytes => bytes,
            Ok(_) | Err(_) => 0,
        },
        Step::Empty(bytes) if file.metadata()?.len() < bytes => bytes,
        Step::Empty(_) => 0,
    };
    Ok(base + done)
}

/// Bytes that a run has printed to this file since it began; `None` where there is none.
pub(super) fn logical_size(log: &Path) -> Option<u64> {
    let size = fs::metadata(log).ok()?.len();
    Some(read_base(log).0 + size)
}

/// Lines of `<size> <milliseconds since the epoch>`: what lies below that size, counted from the run's first byte, was written by
/// that time.
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
        if size == 0 || last_size >= Some(size) {
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
}

pub(super) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
