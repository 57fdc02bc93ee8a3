//! looper/start: from nothing to a running loop, and down again.
//!
//! Job: lock, logs, machine, store, units, adoption, loop, control socket, signals; in this order. May touch: every room.
//! Keeps: one loomd per runtime directory; nothing is started before the store has said what may still live; what an
//! earlier loomd of this boot left is adopted, not started again.

use super::api::Api;
use super::hands::{Clockwork, Hands, Wires};
use super::library::Library;
use super::timers::{Before, Timers};
use super::upward::Upward;
use super::{ASK_QUEUE, Ask, EVENT_QUEUE, Looper, Parts, Records, clock};
use crate::config::{Config, Orphans};
use crate::logs::{self, Sinks};
use crate::process::{self, Children, Room, Settings};
use crate::reexec::{self, Carried};
use crate::store::{Store, StoreError};
use crate::{control, machine, store};
use loom_api::dirs::DirError;
use loom_core::fleet::{Fleet, Found, Verb};
use loom_core::ids::{Kind, UnitId};
use loom_core::lifecycle::{Exit, Phase, Record};
use loom_core::machine::Machine;
use loom_core::unit::{RunFacts, Unit};
use nix::fcntl::{FcntlArg, fcntl};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Threads of the runtime that run tasks.
const WORKERS: usize = 2;
/// Threads for calls that block on the disk.
const BLOCKING_THREADS: usize = 4;
/// For tasks that still run at the very end.
const RUNTIME_END_LIMIT: Duration = Duration::from_secs(2);
/// Says in the runtime directory that the default target was started in this boot: a new loomd after a crash takes over what
/// it finds and starts nothing that a person had stopped.
const BOOTED: &str = "booted";

/// Why loomd cannot run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("another loomd uses `{dir}`: process {pid}")]
    AlreadyRuns { dir: PathBuf, pid: String },
    #[error(transparent)]
    Dirs(#[from] DirError),
    #[error("cannot {what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot open the store in `{dir}`")]
    Store {
        dir: PathBuf,
        #[source]
        source: StoreError,
    },
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> StartError {
    let what = what.into();
    move |source| StartError::Io { what, source }
}

/// Says whether this program could take over from a loomd that runs: it does all that needs no lock.
pub fn check(config: &Config, store_schema: u32) -> Result<(), StartError> {
    if store_schema > store::SCHEMA_VERSION {
        let source =
            StoreError::Newer { path: config.dirs.store(), found: store_schema, supported: store::SCHEMA_VERSION };
        return Err(StartError::Store { dir: config.dirs.store(), source });
    }
    libexec()?;
    let refused = Library::open(&config.dirs).in_force().refused.len();
    eprintln!("loomd {} would start; {refused} units have errors", env!("CARGO_PKG_VERSION"));
    Ok(())
}

/// Runs loomd to its end. `carried`: what a loomd before left in this process.
pub fn run(mut config: Config, mut carried: Carried) -> Result<(), StartError> {
    let since = clock::wall();
    // What we make is ours: sockets, logs, units' directories.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    config.dirs.make()?;
    // Rules of the sandbox speak of places, and a link on the way would be another name for one.
    for dir in [&mut config.dirs.runtime, &mut config.dirs.state] {
        *dir = dir.canonicalize().map_err(failed(format!("resolve {}", dir.display())))?;
    }
    let config = &config;
    let lock = lock(&config.dirs.lock(), &config.dirs.runtime, carried.lock.take())?;
    let sinks = Sinks::detect(&config.dirs.state);
    // Dropped last: what journald has not taken by then goes to the file.
    let _last_words = logs::init_tracing(&sinks).map_err(failed("set up the log"))?;
    // These take their time, each waiting for something else: disk, kernel, files.
    let (store, machine, library) = std::thread::scope(|scope| {
        let store = scope.spawn(|| Store::open(&config.dirs.store()));
        let library = scope.spawn(|| Library::open(&config.dirs));
        let machine = machine::probe();
        (
            store.join().expect("the store's opening does not panic"),
            machine,
            library.join().expect("reading does not panic"),
        )
    });
    let store = store.map_err(|source| StartError::Store { dir: config.dirs.store(), source })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("loomd")
        .enable_all()
        .build()
        .map_err(failed("start the runtime"))?;
    let found = Surveyed { since, sinks, machine, library: Arc::new(library), store: store.clone() };
    let ended = runtime.block_on(serve(config, found, carried));
    if let Err(error) = runtime.block_on(store.close()) {
        tracing::error!(%error, "the store did not close in order; what was acknowledged is safe");
    }
    runtime.shutdown_timeout(RUNTIME_END_LIMIT);
    let Some(next) = ended? else { return Ok(()) };
    let program = reexec::program().map_err(failed("find loomd's own file"))?;
    let because = reexec::become_another(&program, Carried { lock: Some(lock), ..next });
    Err(StartError::Io { what: "become another loomd; units live on".into(), source: io::Error::other(because) })
}

/// What was found before the runtime started.
struct Surveyed {
    since: u64,
    sinks: Sinks,
    machine: Machine,
    library: Arc<Library>,
    store: Store,
}

/// Gives what the next program needs where this process is to become another loomd.
async fn serve(config: &Config, found: Surveyed, carried: Carried) -> Result<Option<Carried>, StartError> {
    let Surveyed { since, sinks, machine, library, store } = found;
    let dirs = &config.dirs;
    let upward = Upward::from_environment();
    let mut signals = Signals::listen().map_err(failed("listen for signals"))?;
    reexec::release_signals();
    Children::become_subreaper().map_err(failed("become the parent of orphans"))?;
    let boot_id = process::boot_id().map_err(failed("read the boot id"))?;

    let (events_in, events) = mpsc::channel(EVENT_QUEUE);
    let (asks_in, asks) = mpsc::channel(ASK_QUEUE);
    let log = sinks.clone();
    let settings = Settings {
        runtime_dir: dirs.runtime.clone(),
        state_dir: dirs.state.clone(),
        protected: [dirs.runtime.clone(), dirs.state.clone()].into_iter().chain(dirs.unit_path.clone()).collect(),
        home: Some(library.home().to_owned()),
        libexec: libexec()?,
        machine: machine.clone(),
        boot_id: boot_id.clone(),
        log_word: if sinks.word() == "journald" { "journal" } else { "stderr" },
        open_log: Box::new(move |unit, run| log.open(unit, run)),
    };
    let mut room = Room::open(settings, events_in.clone());
    let (peers, children) = (room.peers(), room.children());
    let wires = Wires::open(store.clone(), peers.clone(), dirs.clone(), events_in);

    let records = store.records().map_err(|source| StartError::Store { dir: dirs.store(), source })?;
    let units = known(&library, &records);
    let stored = examine(&mut room, &wires, &units, records);
    let outlived: Vec<UnitId> =
        stored.iter().filter(|(_, (_, found))| *found == Found::Alive).map(|(id, _)| id.clone()).collect();
    let schedules = store.timers_all().map_err(|source| StartError::Store { dir: dirs.store(), source })?;
    let before = before(&schedules, &stored);
    let (fleet, first) = Fleet::new(units, stored, &boot_id, clock::now());
    let clockwork = Clockwork { store: store.clone(), wires: wires.clone(), library: Arc::clone(&library) };
    let broken = library.in_force().refused.keys().filter(|id| id.kind() == Kind::Schedule).cloned().collect();
    let timers = Timers::open(Arc::new(clockwork), &machine_id(), &boot_id, schedules, &before, &broken, &fleet);
    let hands = Hands::new(store.clone(), wires.clone());
    let records: Arc<dyn Records> = Arc::new(store);
    let looper = Looper::new(Parts { fleet, room, records, audience: Arc::new(wires), timers, events, asks });
    let mut looping = tokio::spawn(looper.run(first));

    let took_over = carried.listener.is_some();
    let listener = match carried.listener {
        Some(listener) => control::take_over(listener),
        None => control::listen(&dirs.control_socket()),
    };
    let listener = Arc::new(listener.map_err(failed("listen on the control socket"))?);
    let api = Arc::new(Api {
        asks: asks_in.clone(),
        library,
        peers: peers.clone(),
        hands,
        dirs: dirs.clone(),
        machine,
        logs: sinks.word(),
        since,
        came_back: carried.came_back.clone(),
        reading: Arc::default(),
    });
    let answering = tokio::spawn(control::serve(
        Arc::clone(&listener),
        api.clone(),
        Arc::new(move |pid| peers.may_be_of_a_unit(pid)),
    ));
    tracing::info!(pid = std::process::id(), version = env!("CARGO_PKG_VERSION"), runtime = %dirs.runtime.display(), "loomd is ready");
    upward.ready("units are loaded");
    reexec::healthy();
    if let Some(because) = &carried.came_back {
        tracing::error!(because, "the loomd that was to follow was not well: this is the one before it");
    }
    if config.orphans == Orphans::Kill && !took_over {
        for unit in outlived {
            tracing::info!(%unit, "it outlived the loomd before, and `orphans` is `kill`: it starts anew");
            let (done, _nobody_waits) = tokio::sync::oneshot::channel();
            let ask = Ask::Job { unit, verb: Verb::Restart, by: "loomd".to_owned(), done };
            let _ = asks_in.send(ask).await;
        }
    }
    boot(config, &boot_id, &api, &asks_in).await;
    api.adopt_transient().await;

    let mut stopping = false;
    let mut next_beat = upward.beat().map(|period| Instant::now() + period);
    loop {
        tokio::select! {
            ended = &mut looping => {
                match ended {
                    Err(error) => {
                        tracing::error!(%error, "the loop failed; units live on for the next loomd");
                        let source = io::Error::other(error);
                        return Err(StartError::Io { what: "go on: the loop failed".into(), source });
                    }
                    Ok(None) => break,
                    Ok(Some(units)) => {
                        upward.reloading();
                        tracing::info!("this process becomes another loomd; units run on");
                        let listener = listener.as_fd().try_clone_to_owned().map_err(failed("keep the control socket"))?;
                        return Ok(Some(Carried { listener: Some(listener), units, ..Carried::default() }));
                    }
                }
            }
            heard = signals.next() => match heard {
                Heard::Child => children.reap_orphans(),
                Heard::Stop => {
                    if !stopping {
                        stopping = true;
                        upward.stopping();
                        tracing::info!("stopping all units in order");
                        let _ = asks_in.send(Ask::Shutdown).await;
                    }
                }
                Heard::Reload => {
                    upward.reloading();
                    let (api, upward_after) = (api.clone(), Upward::from_environment());
                    tokio::spawn(async move {
                        if let Err(refusal) = api.reload(false).await {
                            tracing::error!(problems = refusal.problems.len(), error = refusal.error, "reloaded nothing");
                        }
                        upward_after.ready("units are loaded");
                    });
                }
            },
            () = until(next_beat) => {
                upward.watchdog();
                next_beat = upward.beat().map(|period| Instant::now() + period);
            }
        }
    }
    answering.abort();
    let _ = fs::remove_file(dirs.control_socket());
    let _ = fs::remove_file(dirs.runtime.join(BOOTED));
    tracing::info!("loomd has ended in order");
    Ok(None)
}

/// All units: those with a file, and the instances that somebody started by name and that are up or to be up.
fn known(library: &Library, records: &BTreeMap<UnitId, Record>) -> BTreeMap<UnitId, Unit> {
    let catalogue = library.in_force();
    let mut units = catalogue.units.clone();
    let is_needed = |record: &Record| record.wanted || record.failed || record.phase != Phase::Ended;
    for (id, record) in records {
        if id.template().is_none() || units.contains_key(id) || catalogue.refused.contains_key(id) || !is_needed(record)
        {
            continue;
        }
        match library.instance(id).unit {
            Some(unit) => {
                units.insert(id.clone(), unit);
            }
            None => tracing::warn!(unit = %id, "its template is gone or has errors: see `loomctl status`"),
        }
    }
    units
}

/// Looks which stored runs still live, and adopts those.
fn examine(
    room: &mut Room,
    wires: &Wires,
    units: &BTreeMap<UnitId, Unit>,
    records: BTreeMap<UnitId, Record>,
) -> BTreeMap<UnitId, (Record, Found)> {
    let mut stored = BTreeMap::new();
    for (id, record) in records {
        let live = match record.phase {
            Phase::Live | Phase::Stopping => record.identity.as_ref(),
            Phase::Intended | Phase::Ended => None,
        };
        let found = match live {
            None => Found::Gone(Exit::Unknown),
            Some(identity) => {
                let notify_too = units.get(&id);
                let found = room.adopt(&id, notify_too, record.run, identity);
                if found == Found::Alive {
                    tracing::info!(unit = %id, run = %record.run, pid = identity.pid, "adopted a run");
                    let facts = facts_of(&record);
                    if let Some(unit) = units.get(&id)
                        && let Err(error) = super::Audience::begins(wires, unit, record.run, &facts, identity)
                    {
                        tracing::error!(unit = %id, run = %record.run, error, "an adopted run has no bus");
                    }
                }
                found
            }
        };
        stored.insert(id, (record, found));
    }
    stored
}

/// What is known of the units that firings had started when the loomd before went.
fn before(
    schedules: &BTreeMap<UnitId, loom_core::schedule::Record>,
    stored: &BTreeMap<UnitId, (Record, Found)>,
) -> BTreeMap<UnitId, Before> {
    let open = schedules.values().flat_map(loom_core::schedule::Record::open);
    open.filter_map(|firing| {
        let (record, found) = stored.get(&firing.unit)?;
        let before = Before { record: record.clone(), found: found.clone() };
        Some((firing.unit.clone(), before))
    })
    .collect()
}

/// The machine's own number, which spreads the delays of schedules over machines.
fn machine_id() -> String {
    fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned()
}

fn facts_of(record: &Record) -> RunFacts {
    RunFacts { run: record.run, restarts: record.restarts, last_result: None, last_exit: None }
}

/// Starts the default target, once per boot.
async fn boot(config: &Config, boot_id: &str, api: &Api, asks: &mpsc::Sender<Ask>) {
    let mark = config.dirs.runtime.join(BOOTED);
    if fs::read_to_string(&mark).is_ok_and(|text| text == boot_id) {
        return;
    }
    if let Err(error) = fs::write(&mark, boot_id) {
        tracing::warn!(%error, path = %mark.display(), "cannot note that the default target was started");
    }
    let unit = config.default_target.clone();
    if api.library.in_force().units.contains_key(&unit) {
        let (done, _nobody_waits) = tokio::sync::oneshot::channel();
        let _ = asks.send(Ask::Job { unit, verb: Verb::Start, by: "boot".to_owned(), done }).await;
    }
}

/// Comes at that moment; never, where there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Takes the lock that makes this the one loomd of the directory. It is gone with the process, so a crash leaves none behind.
///
/// A record lock belongs to the process alone. `flock` would go on to a child that has not yet become its launcher, and
/// when loomd is killed in that moment the next one would find the directory taken.
/// `held`: the file as the loomd before in this process locked it.
fn lock(path: &Path, dir: &Path, held: Option<File>) -> Result<File, StartError> {
    let mut options = fs::OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = match held {
        Some(file) => file,
        None => options.open(path).map_err(failed(format!("open {}", path.display())))?,
    };
    let mut holder = String::new();
    let _ = file.read_to_string(&mut holder);
    let whole = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as nix::libc::c_short,
        l_whence: nix::libc::SEEK_SET as nix::libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_SETLK(&whole)).map_err(|errno| match errno {
        nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES => {
            StartError::AlreadyRuns { dir: dir.to_owned(), pid: holder.trim().to_owned() }
        }
        other => StartError::Io { what: format!("lock {}", path.display()), source: other.into() },
    })?;
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    written.map_err(failed(format!("write {}", path.display())))?;
    Ok(file)
}

/// Where `loom-launch` and `loom-worker` lie: beside loomd, or where `LOOM_LIBEXEC_DIR` says.
fn libexec() -> Result<PathBuf, StartError> {
    if let Some(dir) = std::env::var_os("LOOM_LIBEXEC_DIR").filter(|dir| !dir.is_empty()) {
        return std::path::absolute(dir).map_err(failed("resolve LOOM_LIBEXEC_DIR"));
    }
    let own = std::env::current_exe().map_err(failed("find loomd's own file"))?;
    Ok(own.parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf))
}

enum Heard {
    Stop,
    Reload,
    Child,
}

/// Signals as bytes on sockets, so that nothing of ours runs inside a handler.
struct Signals {
    term: UnixStream,
    int: UnixStream,
    hup: UnixStream,
    child: UnixStream,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let one = |signal| {
            let (reader, writer) = std::os::unix::net::UnixStream::pair()?;
            signal_hook::low_level::pipe::register(signal, writer)?;
            reader.set_nonblocking(true)?;
            UnixStream::from_std(reader)
        };
        use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
        Ok(Self { term: one(SIGTERM)?, int: one(SIGINT)?, hup: one(SIGHUP)?, child: one(SIGCHLD)? })
    }

    async fn next(&mut self) -> Heard {
        // One wake-up may stand for several signals of a kind: all are answered by looking at what there is.
        let (mut term, mut int, mut hup, mut child) = ([0; 64], [0; 64], [0; 64], [0; 64]);
        tokio::select! {
            _ = self.term.read(&mut term) => Heard::Stop,
            _ = self.int.read(&mut int) => Heard::Stop,
            _ = self.hup.read(&mut hup) => Heard::Reload,
            _ = self.child.read(&mut child) => Heard::Child,
        }
    }
}
