//! process: makes runs and ends them.
//!
//! Job: carry out `Spawn`, `OpenGate`, `Signal`, `SignalAll`, `EndTree`, `Run`, `EndControl`, `Check`; hear sd_notify; tell what
//! became of each run and of each process that helps one; adopt what an earlier loomd left.
//! May touch: processes, descriptors, the units' own directories, `/proc`, cgroup v2. May not: unit state, store, bus.
//! Keeps: a program runs only after its gate was opened; an exit belongs to a run; who cannot be proven is not signalled.

mod cgroup;
mod children;
mod conditions;
mod crash;
mod ending;
mod environment;
mod handover;
mod helping;
mod identity;
mod kept;
mod left;
mod notify;
mod placing;
mod starting;
mod surroundings;
mod sys;
mod tree;
mod watcher;
mod worker;

pub use cgroup::Usage;
pub use children::Children;
pub use crash::Seen;
pub use handover::hex;
pub use helping::RunEnd;
pub use identity::boot_id;
pub use kept::KEPT_MAX;
pub use worker::{WorkerDoor, WorkerProcess};

use cgroup::Groups;
use helping::Helping;
use kept::Kept;
use loom_core::fleet::Event;
use loom_core::ids::{RunId, UnitId};
use loom_core::lifecycle::{Control, Identity, LaunchFailure, TreeEnd};
use loom_core::machine::{Enforcement, Machine};
use loom_core::unit::{NotifyAccess, RunFacts, Unit};
use starting::Started;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tree::{Lineage, Tree};

/// The plan, in the launcher.
const PLAN_FD: i32 = 3;
/// Where the launcher waits until its identity is stored.
const GATE_FD: i32 = 4;
/// Where the launcher says which stage failed.
const REPORT_FD: i32 = 5;
/// Descriptors for the program begin here in the launcher.
const FIRST_PASSED_FD: i32 = 10;
/// Where a program writes all its stacks when it is aborted, in the unit's `tmp`; it finds the path in `LOOM_STACKS`.
const STACKS: &str = "loom-stacks";
/// How long the child may take that shows whether children can be born in a cgroup.
const TRIAL_LIMIT: Duration = Duration::from_secs(1);
/// The longest path of a unix socket, without the terminating zero.
pub const SOCKET_PATH_MAX_BYTES: usize = 107;

/// Opens where a run's output goes.
pub type OpenLog = Box<dyn Fn(&UnitId, RunId) -> io::Result<OwnedFd> + Send + Sync>;

/// What does not change while loomd lives.
pub struct Settings {
    /// `R`, with its `units/`.
    pub runtime_dir: PathBuf,
    /// `S`, with its `units/` and `cache/`.
    pub state_dir: PathBuf,
    /// What no unit may write in: the two above and the directories of unit files.
    pub protected: Vec<PathBuf>,
    /// Home of loomd's user.
    pub home: Option<String>,
    /// Where `loom-launch` and `loom-worker` lie.
    pub libexec: PathBuf,
    /// What can be enforced here.
    pub machine: Machine,
    /// Which boot this is.
    pub boot_id: String,
    /// `LOOM_LOG`: `journal` or `stderr`.
    pub log_word: &'static str,
    /// Where output goes.
    pub open_log: OpenLog,
}

/// A launcher that stands behind its gate.
#[derive(Debug, Clone, PartialEq)]
pub struct Spawned {
    pub identity: Identity,
    pub enforcement: Vec<Enforcement>,
}

/// A run's main process, which `MAINPID=` can change, and its tree.
struct Main {
    /// `None`, as the descriptor, where an earlier loomd's main process is gone and only its tree may be left.
    identity: Option<Identity>,
    pidfd: Option<Arc<OwnedFd>>,
    tree: Tree,
}

/// A run that counts as its unit's.
#[derive(Clone)]
struct Running {
    run: RunId,
    main: Arc<Mutex<Main>>,
    /// Set once the main process is reaped and told of.
    gone: Arc<watch::Sender<bool>>,
}

/// What several tasks need to know of a unit. Who holds the lock of all places may take that of a [`Main`], never the reverse.
struct Place {
    current: Option<Running>,
    /// The unit and the facts that the live run was started with.
    started_as: Option<(Arc<Unit>, RunFacts)>,
    /// Whose notifications are heard.
    access: NotifyAccess,
    ear: Option<notify::Ear>,
    helping: BTreeMap<Control, Helping>,
    /// Descriptors in keeping, for its next run.
    kept: Vec<Kept>,
    /// Groups of the newest run.
    groups: Groups,
    /// What is known of the newest run for a crash report.
    account: Account,
}

/// What was seen of a run, for its crash report.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Account {
    /// Its processes when something was about to be done to it, main first.
    pub seen: Vec<Seen>,
    /// What its groups accounted for when its main process was gone.
    pub usage: Usage,
    /// What the program wrote of its stacks.
    pub stacks: Option<String>,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            current: None,
            started_as: None,
            access: NotifyAccess::Main,
            ear: None,
            helping: BTreeMap::new(),
            kept: Vec::new(),
            groups: Groups::default(),
            account: Account::default(),
        }
    }
}

struct Common {
    settings: Settings,
    /// Names the runtime directory: two loomds never meet.
    hash: String,
    children: Children,
    places: Mutex<BTreeMap<UnitId, Place>>,
    /// Tool workers that run, by pid.
    workers: Mutex<BTreeMap<i32, Arc<OwnedFd>>>,
    /// Whether children can be born in a cgroup.
    births: OnceLock<bool>,
}

impl Common {
    fn places(&self) -> MutexGuard<'_, BTreeMap<UnitId, Place>> {
        // Entries are replaced whole, so a panic elsewhere does not spoil the map.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unit_runtime(&self, unit: &UnitId) -> PathBuf {
        self.settings.runtime_dir.join("units").join(unit.to_string())
    }

    fn unit_state(&self, unit: &UnitId) -> PathBuf {
        self.settings.state_dir.join("units").join(unit.to_string())
    }

    /// `<base>/loom-<hash of the runtime directory>`.
    fn cgroup_base(&self) -> Option<PathBuf> {
        let base = self.settings.machine.cgroup_v2.as_ref()?;
        Some(Path::new(base).join(self.home()))
    }

    /// The name of our directory in each cgroup tree.
    fn home(&self) -> String {
        format!("loom-{}", self.hash)
    }
}

/// What was done with a launcher's gate, for whoever reads its end.
#[derive(Debug, Default)]
enum GateMark {
    /// Not opened yet.
    #[default]
    Shut,
    /// Its byte was sent.
    Opened,
    /// It will not be opened, because of this.
    Refused(String),
    /// It will not be opened, and the caller has said so itself.
    Abandoned,
}

/// A run whose process exists, or whose end is not over.
struct Live {
    run: RunId,
    main: Arc<Mutex<Main>>,
    /// Our end of the launcher's gate; dropped unopened, the launcher exits.
    gate: Option<OwnedFd>,
    mark: Arc<Mutex<GateMark>>,
    /// Becomes true once the main process is reaped and told of.
    gone: watch::Receiver<bool>,
    /// The loop has taken the news of its end.
    told: bool,
    /// Its tree is being ended, as this says.
    ending: Option<watch::Sender<TreeEnd>>,
}

/// The room. Owned by the loop; what it learns later arrives as [`Event`]s.
pub struct Room {
    common: Arc<Common>,
    live: BTreeMap<UnitId, Live>,
    /// The run for which a unit's directories were made ready.
    begun: BTreeMap<UnitId, RunId>,
    /// Places for those who look at conditions.
    looks: Arc<Semaphore>,
    last_control: AtomicU64,
    events: mpsc::Sender<Event>,
}

impl Drop for Room {
    fn drop(&mut self) {
        // What listens, and what is watched for units, ends with the room; processes live on.
        let places = std::mem::take(&mut *self.common.places());
        drop(places);
    }
}

/// What other rooms may ask, from any task.
#[derive(Clone)]
pub struct Peers {
    common: Arc<Common>,
}

impl Peers {
    /// Whether `pid` is a process of the unit's live run.
    pub fn belongs(&self, unit: &UnitId, pid: i32) -> bool {
        let tree = self.tree(unit);
        tree.is_some_and(|tree| tree.main == Some(pid) || tree.holds(&Lineage::of(pid)))
    }

    /// Whether `pid` is, or may be, a process that a unit started; for whoever answers people only.
    ///
    /// A process can connect, hand the connection on and be gone before anybody looks, so what is gone counts as one.
    pub fn may_be_of_a_unit(&self, pid: i32) -> bool {
        let lineage = Lineage::of(pid);
        lineage.is_suspect() || self.owner_by(&lineage).is_some() || self.is_left_of_a_unit(pid)
    }

    /// The unit of whose live run `pid` is a process.
    pub fn owner(&self, pid: i32) -> Option<UnitId> {
        self.owner_by(&Lineage::of(pid))
    }

    fn owner_by(&self, lineage: &Lineage) -> Option<UnitId> {
        let places = self.common.places();
        let mut owners = places
            .iter()
            .filter(|(_, place)| place.current.as_ref().is_some_and(|run| lock(&run.main).tree.holds(lineage)));
        owners.next().map(|(unit, _)| unit.clone())
    }

    fn tree(&self, unit: &UnitId) -> Option<Tree> {
        let current = self.common.places().get(unit).and_then(|place| place.current.clone())?;
        let tree = lock(&current.main).tree.clone();
        Some(tree)
    }

    /// The processes of a unit's live run, main first, then those that help it, with their command lines.
    pub fn processes(&self, unit: &UnitId) -> Vec<(i32, String)> {
        let mut members = self.tree(unit).map(|tree| tree.members()).unwrap_or_default();
        let helping: Vec<Tree> = self
            .common
            .places()
            .get(unit)
            .into_iter()
            .flat_map(|place| place.helping.values().map(Helping::tree))
            .collect();
        for pid in helping.iter().flat_map(Tree::members) {
            if !members.contains(&pid) {
                members.push(pid);
            }
        }
        members.into_iter().filter_map(|pid| Some((pid, command_line(pid)?))).collect()
    }

    /// The registry of children, for whoever starts one beside units.
    pub fn children(&self) -> Children {
        self.common.children.clone()
    }

    /// What the groups of a unit's newest run account for.
    pub fn usage(&self, unit: &UnitId) -> Usage {
        let groups = self.common.places().get(unit).map(|place| place.groups.clone());
        groups.unwrap_or_default().usage()
    }

    /// Starts tool workers with the rights of units.
    pub fn worker_door(&self) -> WorkerDoor {
        WorkerDoor { common: Arc::clone(&self.common) }
    }
}

impl Room {
    /// Opens the room, and ends helping processes that an earlier loomd of this runtime directory left. Must be called within
    /// the runtime.
    pub fn open(settings: Settings, events: mpsc::Sender<Event>) -> Self {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(settings.runtime_dir.as_os_str().as_encoded_bytes());
        let common = Common {
            hash: hex(&digest[..6]),
            settings,
            children: Children::default(),
            places: Mutex::default(),
            workers: Mutex::default(),
            births: OnceLock::new(),
        };
        common.sweep();
        Self {
            common: Arc::new(common),
            live: BTreeMap::new(),
            begun: BTreeMap::new(),
            looks: Arc::new(Semaphore::new(conditions::LOOKS_AT_ONCE)),
            last_control: helping::first_number(),
            events,
        }
    }

    /// The loop has taken a `Notified` or a `MainProcess` of this unit: what it says next can come.
    pub fn heard(&self, unit: &UnitId) {
        if let Some(ear) = self.common.places().get(unit).and_then(|place| place.ear.as_ref()) {
            ear.took();
        }
    }

    /// Drops the descriptors that a unit gave into keeping; for one that rests and is not about to start again.
    pub fn drop_kept(&self, unit: &UnitId) {
        self.common.drop_all_kept(unit);
    }

    /// What other rooms may ask.
    pub fn peers(&self) -> Peers {
        Peers { common: Arc::clone(&self.common) }
    }

    /// The registry of children, for whoever hears SIGCHLD.
    pub fn children(&self) -> Children {
        self.common.children.clone()
    }

    /// The unit's directory below `R`.
    pub fn unit_runtime(&self, unit: &UnitId) -> PathBuf {
        self.common.unit_runtime(unit)
    }

    /// Makes the unit's directories, 0700: `R/units/<id>/tmp`, `S/units/<id>`.
    pub fn make_directories(&self, unit: &UnitId) -> Result<(), String> {
        let runtime = self.common.unit_runtime(unit);
        for directory in [runtime.join("tmp"), self.common.unit_state(unit)] {
            make_private(&directory)?;
        }
        Ok(())
    }

    /// Removes the cgroups of units that do not run; for a clean end.
    pub fn tidy(&self) {
        for base in cgroup::homes(&self.common.settings.machine, &self.common.home()) {
            for unit in fs::read_dir(&base).into_iter().flatten().flatten() {
                starting::remove_group(&unit.path());
            }
            let _ = fs::remove_dir(base);
        }
    }

    /// Notes what can be seen of a run's processes, for its crash report.
    pub fn inspect(&self, unit: &UnitId, run: RunId) {
        let Some(live) = self.live.get(unit).filter(|live| live.run == run) else { return };
        let seen = crash::look(&lock(&live.main).tree.members());
        if let Some(place) = self.common.places().get_mut(unit) {
            place.account.seen = seen;
        }
    }

    /// What was seen of a unit's newest run.
    pub fn account(&self, unit: &UnitId) -> Account {
        self.common.places().get(unit).map(|place| place.account.clone()).unwrap_or_default()
    }

    /// Stops a run's processes in their tracks, or lets them go on. `Frozen` follows.
    pub fn freeze(&self, unit: &UnitId, run: RunId, frozen: bool) {
        let groups = self.common.places().get(unit).map(|place| place.groups.clone()).unwrap_or_default();
        let (events, unit) = (self.events.clone(), unit.clone());
        tokio::spawn(async move {
            let outcome = groups.freeze(frozen).await.map(|()| frozen);
            let _ = events.send(Event::Frozen { unit, run, outcome }).await;
        });
    }

    /// What the loomd that follows in this process takes over: by unit and name.
    pub fn hand_over(&mut self) -> BTreeMap<UnitId, Vec<(String, OwnedFd)>> {
        BTreeMap::new()
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    // Values behind these locks are replaced whole, so a panic elsewhere does not spoil them.
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set(mark: &Mutex<GateMark>, to: GateMark) {
    *lock(mark) = to;
}

fn command_line(pid: i32) -> Option<String> {
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<_> =
        words.split(|byte| *byte == 0).filter(|word| !word.is_empty()).map(String::from_utf8_lossy).collect();
    Some(words.join(" "))
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

fn open_directory(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC).open(path)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn texts(paths: &[PathBuf]) -> Vec<String> {
    paths.iter().map(|path| text(path)).collect()
}

fn resources(verb: &str, path: &Path, error: &io::Error) -> LaunchFailure {
    LaunchFailure::Resources(format!("cannot {verb} {}: {error}", path.display()))
}

/// Refuses what the kernel would cut off.
pub fn fits_a_socket(path: &Path) -> Result<(), String> {
    let length = path.as_os_str().len();
    if length <= SOCKET_PATH_MAX_BYTES {
        return Ok(());
    }
    Err(format!(
        "socket path {} has {length} bytes and may have {SOCKET_PATH_MAX_BYTES}; choose a shorter --runtime-dir",
        path.display()
    ))
}

/// Makes a directory and its parents, readable by nobody else.
pub fn make_private(directory: &Path) -> Result<(), String> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| format!("cannot make {}: {error}", directory.display()))
}

/// What one run left in its `tmp` is nothing for the next. It is moved aside and deleted in the background: a unit may have
/// made a million files, and all others would wait for their end.
fn empty_directory(directory: &Path, run: RunId) -> io::Result<()> {
    if fs::read_dir(directory)?.next().is_none() {
        return Ok(());
    }
    fs::rename(directory, directory.with_extension(format!("old-{run}")))?;
    let parent = directory.parent().map(Path::to_owned).unwrap_or_default();
    tokio::task::spawn_blocking(move || {
        // Those too that a loomd before left when it was killed. What stays is tried again at the next start.
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("tmp.old-") {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    });
    fs::DirBuilder::new().mode(0o700).create(directory)
}
