//! bus: the broker: one listener per unit, one connection per run, a router between them.
//!
//! Job: doors, connections, routing, deadlines. May touch: sockets, the wire, topics and grants. May not: unit state, the
//! store, tools; sessions and their rules come as [`Sessions`], the kernel's word on a peer as a closure.
//! Keeps: nothing waits behind one peer's socket; what the bus holds is bounded per unit; one task sleeps until the
//! next deadline, and nothing wakes while nothing is due.

pub mod aside;
pub mod door;
pub mod router;
mod sys;
pub mod zmtp;

use bytes::Bytes;
use loom_api::wire::{Code, Header, Hello, Message, Previous, SPEC_VERSION, WireError};
use loom_core::ids::{RunId, UnitId};
use loom_core::topic::{BadTopic, Grants, Topic};
use loom_core::unit;
use router::{Counters, Now, Person, Router};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc, oneshot};

/// The longest path of a socket; what `sun_path` holds beside its end.
pub const SOCKET_PATH_MAX_BYTES: usize = 107;
/// Progress and answer of a person's request that wait to be read; beyond it progress is dropped.
pub const PERSON_QUEUE: usize = 512;

/// Work that ends later.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Whether a process may connect as a unit: its cgroup is the unit's, or it descends from the run's main process.
pub type PeerCheck = Arc<dyn Fn(&UnitId, i32) -> bool + Send + Sync>;

/// The rules of those who connect.
pub trait Sessions: Send + Sync + 'static {
    /// The run that a token belongs to.
    fn check_token(&self, unit: &UnitId, token: &[u8]) -> Result<RunId, WireError>;
    /// Whether a HELLO is welcome. `plain`: what `check_token` said to the handshake's credentials, if any came.
    fn hello(
        &self,
        unit: &UnitId,
        hello: &Hello,
        plain: Option<Result<RunId, WireError>>,
    ) -> Result<(RunId, Previous), WireError>;
    /// Answers STATE and CALL.
    fn answer(&self, unit: UnitId, run: RunId, message: Message) -> BoxFuture<Message>;
    /// A connection was welcomed or ended.
    fn connected(&self, unit: &UnitId, run: RunId, up: bool);
}

/// What a person's request brings; nothing follows `Reply` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum BusAnswer {
    /// On the way; some may be lost.
    Progress(Bytes),
    /// The answer.
    Reply { source: String, data: Bytes },
    /// There will be none.
    Failed(WireError),
}

/// Why a door could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error(
        "the socket `{0}` has a path of {1} bytes; the limit is {SOCKET_PATH_MAX_BYTES}. Choose a shorter --runtime-dir"
    )]
    PathTooLong(PathBuf, usize),
    #[error("`{0}` is there and is no socket; remove it, then start the unit again")]
    NotASocket(PathBuf),
    #[error("cannot listen on `{path}` for `{unit}`")]
    Listen {
        unit: UnitId,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{unit}` has a line in [bus] that is no filter")]
    Grants {
        unit: UnitId,
        #[source]
        source: BadTopic,
    },
}

/// The broker. A clone speaks to the same one.
#[derive(Clone)]
pub struct Broker {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
}

struct Shared {
    router: Mutex<Router>,
    doors: Mutex<HashMap<UnitId, Door>>,
    due_sooner: Notify,
    sessions: Arc<dyn Sessions>,
    peer_check: PeerCheck,
    nonce: u64,
    last_id: AtomicU64,
}

struct Door {
    path: PathBuf,
    /// Of the socket file that was bound, to see whether it is still there.
    inode: u64,
    bus: unit::Bus,
    task: tokio::task::JoinHandle<()>,
}

impl Shared {
    /// Runs a step of the router; nothing in it waits.
    fn with<R>(&self, step: impl FnOnce(&mut Router, Now) -> R) -> R {
        let mut router = self.router.lock().unwrap_or_else(PoisonError::into_inner);
        let before = router.next_due();
        let result = step(&mut router, now());
        let sooner = match (before, router.next_due()) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(before), Some(after)) => after < before,
        };
        drop(router);
        if sooner {
            self.due_sooner.notify_one();
        }
        result
    }

    fn doors(&self) -> MutexGuard<'_, HashMap<UnitId, Door>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grants_of(&self, unit: &UnitId) -> unit::Bus {
        self.doors().get(unit).map(|door| door.bus.clone()).unwrap_or_default()
    }

    /// An event's header as loomd writes it.
    fn event(&self, topic: &Topic) -> Header {
        let number = self.last_id.fetch_add(1, Ordering::Relaxed);
        let mut header = Header::new();
        header.insert("id".to_owned(), format!("loomd-{:x}-{number}", self.nonce).into());
        header.insert("specversion".to_owned(), SPEC_VERSION.into());
        header.insert("time".to_owned(), rfc3339(now().wall_ms).into());
        header.insert("type".to_owned(), topic.as_str().into());
        header.insert("topic".to_owned(), topic.as_str().into());
        header.insert("datacontenttype".to_owned(), "application/json".into());
        header
    }
}

impl Broker {
    /// Starts the broker inside a runtime.
    pub fn start(sessions: Arc<dyn Sessions>, peer_check: PeerCheck) -> Self {
        let nonce = std::collections::hash_map::RandomState::new().build_hasher().finish();
        let shared = Arc::new(Shared {
            router: Mutex::new(Router::new(nonce)),
            doors: Mutex::default(),
            due_sooner: Notify::new(),
            sessions,
            peer_check,
            nonce,
            last_id: AtomicU64::new(1),
        });
        let runtime = tokio::runtime::Handle::current();
        runtime.spawn(keep_deadlines(Arc::downgrade(&shared)));
        Self { shared, runtime }
    }

    /// Makes the unit's listener; one that is there stays, with these grants.
    pub fn open_door(&self, unit: &UnitId, socket: &Path, bus: unit::Bus) -> Result<(), BusError> {
        let grants = Grants::new(unit, &bus).map_err(|source| BusError::Grants { unit: unit.clone(), source })?;
        let mut doors = self.shared.doors();
        self.shared.with(|router, _| router.set_grants(unit, grants));
        if let Some(door) = doors.get_mut(unit) {
            let same_file = std::fs::symlink_metadata(socket).is_ok_and(|file| file.ino() == door.inode);
            if door.path == socket && same_file && !door.task.is_finished() {
                door.bus = bus;
                return Ok(());
            }
            door.task.abort();
        }
        let listen = |source| BusError::Listen { unit: unit.clone(), path: socket.to_owned(), source };
        let path_bytes = socket.as_os_str().len();
        if path_bytes > SOCKET_PATH_MAX_BYTES {
            return Err(BusError::PathTooLong(socket.to_owned(), path_bytes));
        }
        // A leftover of a killed loomd; the runtime lock says that nobody else listens there.
        match std::fs::symlink_metadata(socket) {
            Ok(file) if file.file_type().is_socket() => std::fs::remove_file(socket).map_err(listen)?,
            Ok(_) => return Err(BusError::NotASocket(socket.to_owned())),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => {}
            Err(fault) => return Err(listen(fault)),
        }
        let listener = std::os::unix::net::UnixListener::bind(socket).map_err(listen)?;
        // The directory is 0700 already; this is the second lock.
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let inode = std::fs::symlink_metadata(socket).map_err(listen)?.ino();
        let _inside = self.runtime.enter();
        let listener = UnixListener::from_std(listener).map_err(listen)?;
        let task = self.runtime.spawn(door::keep(self.shared.clone(), unit.clone(), listener));
        doors.insert(unit.clone(), Door { path: socket.to_owned(), inode, bus, task });
        Ok(())
    }

    /// Ends the listener, the connection and what they held; removes the socket file.
    pub fn close_door(&self, unit: &UnitId) {
        let door = self.shared.doors().remove(unit);
        if let Some(door) = door {
            door.task.abort();
            if std::fs::symlink_metadata(&door.path).is_ok_and(|file| file.ino() == door.inode) {
                let _ = std::fs::remove_file(&door.path);
            }
        }
        self.shared.with(|router, _| router.forget(unit));
    }

    /// Other grants from now on; subscriptions that lost theirs are told.
    pub fn set_grants(&self, unit: &UnitId, bus: unit::Bus) -> Result<(), BusError> {
        let grants = Grants::new(unit, &bus).map_err(|source| BusError::Grants { unit: unit.clone(), source })?;
        if let Some(door) = self.shared.doors().get_mut(unit) {
            door.bus = bus;
            self.shared.with(|router, _| router.set_grants(unit, grants));
        }
        Ok(())
    }

    /// That run lives and will connect: until it does, requests to its mailbox wait for it, at most [`router::RETURN_WAIT`].
    pub fn expect_run(&self, unit: &UnitId, run: RunId) {
        self.shared.with(|router, now| router.expect_run(unit, run, now));
    }

    /// The run is over: requests that it held fail at once, its connection ends.
    pub fn end_run(&self, unit: &UnitId, run: RunId) {
        self.shared.with(|router, _| router.end_run(unit, Some(run)));
    }

    /// Ids of what the run was given and has not settled. Realtime events are not among them: nobody settles those.
    pub fn in_hand(&self, unit: &UnitId, run: RunId) -> Vec<String> {
        self.shared.with(|router, _| router.in_hand(unit, run))
    }

    /// From now on the unit does not get the event with that id, whoever sends it: a request is answered `poisoned`. Says what
    /// is kept of the event, if the run that ended last had it in hand.
    pub fn set_aside(&self, unit: &UnitId, id: &str) -> Option<aside::Letter> {
        self.shared.with(|router, _| router.set_aside(unit, id))
    }

    /// These units are about to go down: until their next run requests go to others, or get `no-receiver`.
    pub fn leaving(&self, units: &[UnitId]) {
        self.shared.with(|router, _| router.leaving(units));
    }

    /// When the run last published, asked, answered or called a tool.
    pub fn moved(&self, unit: &UnitId, run: RunId) -> Option<Instant> {
        self.shared.with(|router, _| router.moved(unit, run))
    }

    /// Whether a run of the unit is connected.
    pub fn connected(&self, unit: &UnitId) -> bool {
        self.shared.with(|router, _| router.live(unit).is_some())
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.shared.with(|router, _| router.counters())
    }

    /// A request by a person. Dropping the receiver takes it back. Call it inside a runtime.
    pub fn request_as_person(&self, topic: &str, data: Bytes, timeout: Duration) -> mpsc::Receiver<BusAnswer> {
        let (sender, receiver) = mpsc::channel(PERSON_QUEUE);
        let failed = |error: WireError| sender.try_send(BusAnswer::Failed(error)).expect("a new queue has room");
        let topic: Topic = match topic.parse() {
            Ok(topic) => topic,
            Err(bad) => {
                failed(WireError::new(Code::BadTopic, bad.to_string()));
                return receiver;
            }
        };
        let header = self.shared.event(&topic);
        let (over, request_over) = oneshot::channel();
        let person = Person { answers: sender.clone(), over };
        let asked = self.shared.with(|router, now| {
            let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            let deadline_ms = now.wall_ms.saturating_add(timeout_ms);
            router.request_as_person(topic, header, data, deadline_ms, person, now)
        });
        match asked {
            Err(error) => failed(error),
            Ok(number) => {
                let shared = Arc::downgrade(&self.shared);
                self.runtime.spawn(async move {
                    tokio::select! {
                        _ = request_over => {}
                        () = sender.closed() => if let Some(shared) = shared.upgrade() {
                            shared.with(|router, _| router.cancel_person(number));
                        }
                    }
                });
            }
        }
        receiver
    }

    /// Publishes below `loom.`; slow subscribers lose the oldest.
    pub fn publish_as_loomd(&self, topic: &str, data: Bytes) -> Result<(), BadTopic> {
        let topic: Topic = topic.parse()?;
        let header = self.shared.event(&topic);
        self.shared.with(|router, now| router.publish_as_loomd(&topic, header, data, now));
        Ok(())
    }
}

/// Sleeps until the next deadline, and does what is due.
async fn keep_deadlines(shared: std::sync::Weak<Shared>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let next = strong.with(|router, now| {
            router.fire(now);
            router.next_due()
        });
        match next {
            None => strong.due_sooner.notified().await,
            Some(at) => {
                tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => {}
                    () = strong.due_sooner.notified() => {}
                }
            }
        }
    }
}

fn now() -> Now {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Now { wall_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX), at: Instant::now() }
}

/// Ms since the epoch as CloudEvents' `time`.
pub fn rfc3339(ms: u64) -> String {
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    // Years of 365.2425 days that begin in March, so that a leap day is a year's last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", in_day % 1000)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_time_is_written_as_the_calendar_has_it() {
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_767_323_045_678, "2026-01-02T03:04:05.678Z"),
        ];
        for (ms, text) in table {
            assert_eq!(super::rfc3339(ms), text);
        }
    }
}
