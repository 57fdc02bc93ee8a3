//! process: makes runs and ends them.
//!
//! Job: carry out `Spawn`, `OpenGate`, `Signal`, `EndTree`; tell what became of each run; adopt what an earlier loomd left.
//! May touch: processes, descriptors, the units' own directories, `/proc`, cgroup v2. May not: unit state, store, bus.
//! Keeps: a program runs only after its gate was opened; an exit belongs to a run; who cannot be proven is not signalled.

mod cgroup;
mod children;
mod crash;
mod handover;
mod identity;
mod notify;
mod placing;
mod surroundings;
mod sys;
mod tree;
mod watcher;
mod worker;

pub use cgroup::Usage;
pub use children::Children;
pub use crash::Seen;
pub use handover::hex;
pub use identity::boot_id;
pub use worker::{WorkerDoor, WorkerProcess};

use crate::fault;
use cgroup::Groups;
use loom_core::fleet::{Event, Found};
use loom_core::ids::{Kind, RunId, UnitId};
use loom_core::launch_plan::{DescriptorMove, LaunchPlan, PLAN_MAX_BYTES};
use loom_core::lifecycle::{Exit, Identity, LaunchFailure};
use loom_core::machine::{Enforcement, Machine};
use loom_core::sandbox::{self, Surroundings};
use loom_core::unit::{RunFacts, Unit};
use placing::Placement;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tree::{Lineage, Tree};

/// The plan, in the launcher.
const PLAN_FD: i32 = 3;
/// Where the launcher waits until its identity is stored.
const GATE_FD: i32 = 4;
/// Where the launcher says which stage failed.
const REPORT_FD: i32 = 5;
/// Descriptors for the program begin here in the launcher.
const FIRST_PASSED_FD: i32 = 10;
/// How many notify messages may wait; beyond it their senders wait.
const NOTIFY_QUEUE: usize = 256;
/// How long the child may take that shows whether children can be born in a cgroup.
/// Where a program writes all its stacks when it is aborted, in the unit's `tmp`; it finds the path in `LOOM_STACKS`.
const STACKS: &str = "loom-stacks";
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

/// What several tasks need to know of a unit.
#[derive(Default)]
struct Place {
    /// The live run and its tree.
    current: notify::Current,
    /// The unit and the facts that the live run was started with.
    started_as: Option<(Arc<Unit>, RunFacts)>,
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

struct Common {
    settings: Settings,
    children: Children,
    places: Mutex<BTreeMap<UnitId, Place>>,
    /// Tool workers that run, by pid.
    workers: Mutex<BTreeMap<i32, OwnedFd>>,
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
    /// `None` where an earlier loomd's main process is gone and only its tree may be left.
    pidfd: Option<OwnedFd>,
    tree: Tree,
    /// Our end of the launcher's gate; dropped unopened, the launcher exits.
    gate: Option<OwnedFd>,
    mark: Arc<Mutex<GateMark>>,
    /// Becomes true once the main process is reaped and told of.
    gone: watch::Receiver<bool>,
    /// The loop has taken the news of its end.
    told: bool,
}

/// The room. Owned by the loop; what it learns later arrives as [`Event`]s.
pub struct Room {
    common: Arc<Common>,
    live: BTreeMap<UnitId, Live>,
    ears: BTreeMap<UnitId, tokio::task::AbortHandle>,
    events: mpsc::Sender<Event>,
    heard: mpsc::Sender<notify::Heard>,
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
        lineage.is_suspect() || self.owner_by(&lineage).is_some()
    }

    /// The unit of whose live run `pid` is a process.
    pub fn owner(&self, pid: i32) -> Option<UnitId> {
        self.owner_by(&Lineage::of(pid))
    }

    fn owner_by(&self, lineage: &Lineage) -> Option<UnitId> {
        let places = self.common.places();
        let mut owners = places
            .iter()
            .filter(|(_, place)| lock(&place.current).as_ref().is_some_and(|(_, tree)| tree.holds(lineage)));
        owners.next().map(|(unit, _)| unit.clone())
    }

    fn tree(&self, unit: &UnitId) -> Option<Tree> {
        let current = self.common.places().get(unit).map(|place| Arc::clone(&place.current))?;
        lock(&current).as_ref().map(|(_, tree)| tree.clone())
    }

    /// The processes of a unit's live run, main first, with their command lines.
    pub fn processes(&self, unit: &UnitId) -> Vec<(i32, String)> {
        let members = self.tree(unit).map(|tree| tree.members()).unwrap_or_default();
        members.into_iter().filter_map(|pid| Some((pid, command_line(pid)?))).collect()
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
    /// Opens the room. Must be called within the runtime.
    pub fn open(settings: Settings, events: mpsc::Sender<Event>) -> Self {
        let (heard, ears) = mpsc::channel(NOTIFY_QUEUE);
        tokio::spawn(pass_on(ears, events.clone()));
        let common = Common {
            settings,
            children: Children::default(),
            places: Mutex::default(),
            workers: Mutex::default(),
            births: OnceLock::new(),
        };
        Self { common: Arc::new(common), live: BTreeMap::new(), ears: BTreeMap::new(), events, heard }
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

    /// Starts the launcher for a run; it waits behind its gate. The caller stores the identity, then opens the gate.
    pub fn spawn(&mut self, unit: &Unit, run: RunId, facts: &RunFacts) -> Result<Spawned, LaunchFailure> {
        let spawned = self.prepare(unit, run, facts);
        if spawned.is_err() {
            self.common.forget(&unit.id, run);
        }
        spawned
    }

    fn prepare(&mut self, unit: &Unit, run: RunId, facts: &RunFacts) -> Result<Spawned, LaunchFailure> {
        let id = &unit.id;
        let runtime = self.common.unit_runtime(id);
        self.make_directories(id).map_err(LaunchFailure::Resources)?;
        empty_directory(&runtime.join("tmp"), run).map_err(|error| resources("empty", &runtime.join("tmp"), &error))?;
        let exec = unit.exec.as_ref().ok_or_else(|| LaunchFailure::Refused(format!("{id} has no [exec] command")))?;
        let looked = surroundings::look(&exec.command).map_err(LaunchFailure::Resources)?;
        let credentials = handover::credentials(unit).map_err(LaunchFailure::Resources)?;

        let mut placement = Placement::default();
        let mut env = BTreeMap::new();
        let mut passed = Vec::new();
        let mut token_sha256 = String::new();
        if id.kind() == Kind::Agent {
            let token = handover::token().map_err(LaunchFailure::Resources)?;
            let config = handover::config(unit, run, &credentials).to_string();
            let memory = |name, content: &[u8]| handover::memory(name, content).map_err(LaunchFailure::Resources);
            passed.push((memory(c"loom-token", token.text.reveal().as_bytes())?, handover::TOKEN_FD));
            passed.push((memory(c"loom-config", config.as_bytes())?, handover::CONFIG_FD));
            for ((_, content), to) in credentials.iter().zip(handover::FIRST_CREDENTIAL_FD..) {
                passed.push((memory(c"loom-credential", content.reveal())?, to));
            }
            env.insert("LOOM_SOCKET".into(), text(&runtime.join("bus.sock")));
            env.insert("LOOM_TOKEN_FD".into(), handover::TOKEN_FD.to_string());
            env.insert("LOOM_CONFIG_FD".into(), handover::CONFIG_FD.to_string());
            env.insert("LOOM_LOG".into(), self.common.settings.log_word.to_owned());
            token_sha256 = token.sha256;
        } else if !credentials.is_empty() {
            let directory = runtime.join("credentials");
            handover::write_credentials(&directory, &credentials).map_err(LaunchFailure::Resources)?;
            env.insert("CREDENTIALS_DIRECTORY".into(), text(&directory));
        }
        if listens(unit) {
            let path = runtime.join("notify.sock");
            self.listen(id).map_err(|error| resources("listen on", &path, &error))?;
            env.insert("NOTIFY_SOCKET".into(), text(&path));
        }
        if let Some(interval) = unit.watchdog.interval {
            env.insert("WATCHDOG_USEC".into(), interval.0.saturating_mul(1000).to_string());
        }
        env.insert("LOOM_STACKS".into(), text(&runtime.join("tmp").join(STACKS)));
        if let Some(zone) = std::env::var("TZ").ok().filter(|zone| !zone.is_empty()) {
            env.insert("TZ".into(), zone);
        }

        let mut descriptors = Vec::new();
        let mut next = FIRST_PASSED_FD;
        for (fd, to) in passed {
            placement
                .put(fd, next)
                .map_err(|error| LaunchFailure::Resources(format!("cannot pass a descriptor: {error}")))?;
            descriptors.push(DescriptorMove { fd: next, to });
            next += 1;
        }
        let groups = Groups::make(&self.common.settings.machine, &self.common.home(), id, &unit.limits)
            .map_err(LaunchFailure::Resources)?;
        let open = |path: &Path| open_directory(path).map_err(|error| resources("open", path, &error));
        let group = groups.v2.as_deref().map(open).transpose()?;
        let born = groups.fresh && group.as_ref().is_some_and(|group| self.can_be_born_in(group));
        let mut joined: Vec<fs::File> = groups.v1.iter().map(|(_, path)| open(path)).collect::<Result<_, _>>()?;
        joined.extend(
            group
                .as_ref()
                .filter(|_| !born)
                .map(fs::File::try_clone)
                .transpose()
                .map_err(|error| LaunchFailure::Resources(format!("cannot pass a cgroup: {error}")))?,
        );
        let mut joins = Vec::new();
        for group in &joined {
            placement
                .put(group, next)
                .map_err(|error| LaunchFailure::Resources(format!("cannot pass a cgroup: {error}")))?;
            joins.push(next);
            next += 1;
        }
        let around = Surroundings {
            program: text(&looked.program),
            interpreter_roots: texts(&looked.interpreter_roots),
            code_roots: texts(&looked.code_roots),
            code_files: texts(&looked.code_files),
            env,
            descriptors,
            cgroups: joins,
            ..self.common.around(id, &unit.sandbox.profile)
        };
        fault::point("spawn.prepared");
        let (plan, enforcement) = sandbox::plan(unit, facts, &self.common.settings.machine, &around)
            .map_err(|refusal| LaunchFailure::Refused(refusal.to_string()))?;

        let log = (self.common.settings.open_log)(id, run)
            .map_err(|error| LaunchFailure::Resources(format!("cannot open the log of {id}: {error}")))?;
        let started = self
            .common
            .launch(&plan, &mut placement, &log, None, group.as_ref().filter(|_| born))
            .map_err(LaunchFailure::Resources)?;
        let cgroup = groups.v2.clone();
        fault::point("spawn.born");
        let identity = self.common.identify(&started, cgroup.as_deref(), token_sha256);
        let Some(identity) = identity else {
            // Its gate closes here. Nobody else will wait for it, and an ended child that counts as watched would hide
            // all others from the reaper.
            let Started { pid, pidfd, .. } = started;
            let common = Arc::clone(&self.common);
            tokio::spawn(async move { watcher::child(pid, pidfd, &common.children).await });
            return Err(LaunchFailure::Resources("loom-launch ended before it could be identified".into()));
        };
        let tree = tree_of(id, run, Some(identity.pid), cgroup, false);
        let started_as = Some((Arc::new(unit.clone()), facts.clone()));
        fault::point("spawn.identified");
        self.watch(id, run, started_as, started, tree, groups);
        Ok(Spawned { identity, enforcement })
    }

    /// Lets the launcher of a run go on.
    pub fn open_gate(&mut self, unit: &UnitId, run: RunId) {
        if let Some(live) = self.live.get_mut(unit).filter(|live| live.run == run)
            && let Some(gate) = live.gate.take()
        {
            set(&live.mark, GateMark::Opened);
            fault::point("gate.shut");
            // A launcher that is gone reports itself through its pipe and its pidfd.
            let _ = fs::File::from(gate).write_all(b"g");
            fault::point("gate.open");
        }
    }

    /// Closes the gate of a run for good: the launcher exits, and `LaunchFailed` with this reason follows.
    pub fn refuse_gate(&mut self, unit: &UnitId, run: RunId, because: &str) {
        if let Some(live) = self.live.get_mut(unit).filter(|live| live.run == run) {
            set(&live.mark, GateMark::Refused(because.to_owned()));
            live.gate = None;
        }
    }

    /// Sends a signal to a run's main process, and SIGCONT after it so that a stopped process can act.
    pub fn signal(&self, unit: &UnitId, run: RunId, signal: i32) {
        let Some(live) = self.live.get(unit).filter(|live| live.run == run) else { return };
        let Some(pidfd) = &live.pidfd else { return };
        let sent = sys::pidfd_send_signal(pidfd.as_fd(), signal).and_then(|alive| {
            if alive && signal != libc::SIGKILL {
                sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGCONT)
            } else {
                Ok(alive)
            }
        });
        if let Err(error) = sent {
            tracing::error!(unit = %unit, run = %run, signal, %error, "cannot signal the main process");
        }
    }

    /// Notes what can be seen of a run's processes, for its crash report.
    pub fn inspect(&self, unit: &UnitId, run: RunId) {
        let Some(live) = self.live.get(unit).filter(|live| live.run == run) else { return };
        let seen = crash::look(&live.tree.members());
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

    /// Kills what is left of a run. Gives true if nothing is; otherwise `TreeEmpty` follows, after `Exited` if the main
    /// process lived.
    pub fn end_tree(&mut self, unit: &UnitId, run: RunId) -> bool {
        fault::point("tree.end");
        let Some(live) = self.live.get_mut(unit).filter(|live| live.run == run) else { return true };
        live.gate = None;
        let main_gone = *live.gone.borrow();
        if live.told && live.tree.is_empty(&self.common.children) {
            self.common.forget(unit, run);
            self.live.remove(unit);
            return true;
        }
        if !main_gone
            && let Some(pidfd) = &live.pidfd
            && let Err(error) = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL)
        {
            tracing::error!(unit = %unit, run = %run, %error, "cannot kill the main process");
        }
        let (tree, mut gone) = (live.tree.clone(), live.gone.clone());
        let (events, unit, common) = (self.events.clone(), unit.clone(), Arc::clone(&self.common));
        tokio::spawn(async move {
            if tree.cgroup.is_some() {
                end(&tree, &common.children, &unit, run).await;
            }
            // An error means that the watcher is gone, and with it whatever could still be told.
            let _ = gone.wait_for(|gone| *gone).await;
            if tree.cgroup.is_none() {
                end(&tree, &common.children, &unit, run).await;
            }
            common.forget(&unit, run);
            let _ = events.send(Event::TreeEmpty { unit, run }).await;
        });
        false
    }

    /// What the loomd that follows in this process takes over: by unit and name.
    pub fn hand_over(&mut self) -> BTreeMap<UnitId, Vec<(String, OwnedFd)>> {
        BTreeMap::new()
    }

    /// The loop has taken the news that a run's main process ended.
    pub fn told(&mut self, unit: &UnitId, run: RunId) {
        if let Some(live) = self.live.get_mut(unit).filter(|live| live.run == run) {
            live.told = true;
        }
    }

    /// Kills all runs, for an end that took too long. Gives how many there were.
    pub fn end_everything(&mut self) -> usize {
        let runs: Vec<(UnitId, RunId)> = self.live.iter().map(|(unit, live)| (unit.clone(), live.run)).collect();
        runs.iter().filter(|(unit, run)| !self.end_tree(unit, *run)).count()
    }

    /// How many main processes live.
    pub fn alive(&self) -> usize {
        self.live.values().filter(|live| !*live.gone.borrow()).count()
    }

    /// Drops a run that the caller will not let begin. Its launcher exits and is reaped; nothing is told of it.
    pub fn abandon(&mut self, unit: &UnitId, run: RunId) {
        if self.live.get(unit).is_some_and(|live| live.run == run)
            && let Some(live) = self.live.remove(unit)
        {
            set(&live.mark, GateMark::Abandoned);
            self.common.forget(unit, run);
        }
    }

    /// Looks for the process of a stored run, and watches it if it is proven to be that one.
    ///
    /// `unit`: its file as it is now, if there still is one; says whether it notifies.
    pub fn adopt(&mut self, id: &UnitId, unit: Option<&Unit>, run: RunId, identity: &Identity) -> Found {
        if identity.boot_id != self.common.settings.boot_id {
            return Found::Gone(Exit::Unknown);
        }
        // Only ever our own: what a record says is killed is killed.
        let own = Groups::find(&self.common.settings.machine, &self.common.home(), id).v2;
        let cgroup = identity.cgroup.as_ref().map(PathBuf::from).filter(|path| Some(path) == own.as_ref());
        let pidfd = match identity::prove(identity.pid, identity.pidfd_inode, identity.start_ticks) {
            identity::Proof::Same(pidfd) => pidfd,
            identity::Proof::Gone => {
                // Its main process is gone, and what it left is not: `EndTree` will ask for it.
                let (_, gone) = watch::channel(true);
                let tree = tree_of(id, run, None, cgroup, true);
                self.keep_tree_only(id, run, tree, gone);
                return Found::Gone(Exit::Unknown);
            }
        };
        let tree = tree_of(id, run, Some(identity.pid), cgroup, true);
        let notifies = unit.is_some_and(listens);
        if notifies && let Err(error) = self.listen(id) {
            tracing::error!(unit = %id, run = %run, %error, "cannot open the notify socket again");
        }
        let started = Started { pid: identity.pid, pidfd, gate: None, report: None };
        let facts = RunFacts { run, restarts: 0, last_result: None, last_exit: None };
        let groups = Groups::find(&self.common.settings.machine, &self.common.home(), id);
        self.watch(id, run, unit.map(|unit| (Arc::new(unit.clone()), facts)), started, tree, groups);
        Found::Alive
    }

    fn keep_tree_only(&mut self, unit: &UnitId, run: RunId, tree: Tree, gone: watch::Receiver<bool>) {
        let live = Live { run, pidfd: None, tree, gate: None, mark: Arc::default(), gone, told: true };
        self.live.insert(unit.clone(), live);
    }

    /// Removes the cgroups of units that do not run; for a clean end.
    pub fn tidy(&self) {
        for base in cgroup::homes(&self.common.settings.machine, &self.common.home()) {
            for unit in fs::read_dir(&base).into_iter().flatten().flatten() {
                // Files are the kernel's, and a group that is not empty stays: neither can be removed this way.
                let _ = fs::remove_dir(unit.path());
            }
            let _ = fs::remove_dir(base);
        }
    }

    fn listen(&mut self, unit: &UnitId) -> io::Result<()> {
        if self.ears.contains_key(unit) {
            return Ok(());
        }
        let path = self.common.unit_runtime(unit).join("notify.sock");
        fits_a_socket(&path).map_err(io::Error::other)?;
        fs::create_dir_all(self.common.unit_runtime(unit))?;
        let current = Arc::clone(&self.common.places().entry(unit.clone()).or_default().current);
        let ear = notify::listen(unit.clone(), &path, current, self.heard.clone())?;
        self.ears.insert(unit.clone(), ear);
        Ok(())
    }

    /// Whether a child can be born in a cgroup; tried once.
    fn can_be_born_in(&self, group: &fs::File) -> bool {
        *self.common.births.get_or_init(|| {
            let lived = self.common.children.make(|| sys::born_in(group.as_fd(), None)).and_then(|(pid, pidfd)| {
                let ended = sys::wait_for_end(pidfd.as_fd(), TRIAL_LIMIT);
                self.common.children.taken(pid);
                ended
            });
            lived.is_ok_and(|ended| ended.is_some_and(|ended| ended.exited && ended.status == 0))
        })
    }

    /// Registers a started or adopted process and tells what becomes of it.
    fn watch(
        &mut self,
        unit: &UnitId,
        run: RunId,
        started_as: Option<(Arc<Unit>, RunFacts)>,
        started: Started,
        tree: Tree,
        groups: Groups,
    ) {
        let (tell_gone, gone) = watch::channel(false);
        let mark: Arc<Mutex<GateMark>> = Arc::default();
        {
            let mut places = self.common.places();
            let place = places.entry(unit.clone()).or_default();
            *place.current.lock().unwrap_or_else(PoisonError::into_inner) = Some((run, tree.clone()));
            place.started_as = started_as;
            place.groups = groups.clone();
            place.account = Account::default();
        }
        let watched = started.pidfd.try_clone();
        let live = Live {
            run,
            pidfd: Some(started.pidfd),
            tree,
            gate: started.gate,
            mark: Arc::clone(&mark),
            gone,
            told: false,
        };
        self.live.insert(unit.clone(), live);
        let (events, common, id, pid) = (self.events.clone(), Arc::clone(&self.common), unit.clone(), started.pid);
        let ours = started.report.is_none() && self.common.children.claim(started.pid);
        let kills_before = groups.oom_kills();
        let oom_watch = groups.oom_watch().map(|mut watch| {
            let (events, unit) = (self.events.clone(), unit.clone());
            tokio::spawn(async move {
                while watch.killed().await {
                    let _ = events.send(Event::OomKilled { unit: unit.clone(), run }).await;
                }
            })
        });
        tokio::spawn(async move {
            let Ok(pidfd) = watched else {
                tracing::error!(unit = %id, run = %run, "out of descriptors: the end of this run will not be seen");
                return;
            };
            let news = match started.report {
                // Ours still, where loomd became another program in the same process.
                None if ours => {
                    Event::Exited { unit: id.clone(), run, exit: watcher::child(pid, pidfd, &common.children).await }
                }
                None => Event::Exited { unit: id.clone(), run, exit: watcher::adopted(pid, pidfd).await },
                Some(report) => {
                    let word = watcher::report(report).await;
                    let before_gate = match &*lock(&mark) {
                        GateMark::Opened => None,
                        GateMark::Shut => Some("loom-launch ended before its gate was opened".to_owned()),
                        GateMark::Refused(because) => Some(because.clone()),
                        GateMark::Abandoned => None,
                    };
                    let abandoned = matches!(*lock(&mark), GateMark::Abandoned);
                    let failure = match (word, before_gate) {
                        (watcher::Word::Failed(failure), _) => Some(failure),
                        (watcher::Word::Silent, Some(because)) => Some(LaunchFailure::Resources(because)),
                        (watcher::Word::Silent, None) => None,
                    };
                    if failure.is_none() && !abandoned {
                        let _ = events.send(Event::Executed { unit: id.clone(), run }).await;
                    }
                    let exit = watcher::child(pid, pidfd, &common.children).await;
                    if abandoned {
                        let _ = tell_gone.send(true);
                        return;
                    }
                    match failure {
                        Some(failure) => Event::LaunchFailed { unit: id.clone(), run, failure },
                        None => Event::Exited { unit: id.clone(), run, exit },
                    }
                }
            };
            if let Some(watch) = oom_watch {
                watch.abort();
            }
            let usage = groups.usage();
            let stacks = crash::stacks(&common.unit_runtime(&id).join("tmp").join(STACKS));
            if let Some(place) = common.places().get_mut(&id) {
                place.account.usage = usage;
                place.account.stacks = stacks;
            }
            // The end may be quicker than the news of what caused it.
            if matches!(news, Event::Exited { exit: Exit::Signal { signal: libc::SIGKILL, .. }, .. })
                && usage.oom_kills > kills_before
            {
                let _ = events.send(Event::OomKilled { unit: id.clone(), run }).await;
            }
            let _ = events.send(news).await;
            let _ = tell_gone.send(true);
        });
    }
}

/// Whether a unit has a notify socket.
fn listens(unit: &Unit) -> bool {
    unit.ready.kind.notifies() || unit.watchdog.interval.is_some() || unit.watchdog.progress.is_some()
}

/// A launcher just started, or an adopted process.
struct Started {
    pid: i32,
    pidfd: OwnedFd,
    gate: Option<OwnedFd>,
    report: Option<tokio::net::unix::pipe::Receiver>,
}

impl Common {
    /// Starts loom-launch with a plan. `face`: what becomes descriptors 0 and 1 instead of nothing and the log.
    /// `birthplace`: the cgroup it is born in.
    fn launch(
        &self,
        plan: &LaunchPlan,
        placement: &mut Placement,
        log: &OwnedFd,
        face: Option<&OwnedFd>,
        birthplace: Option<&fs::File>,
    ) -> Result<Started, String> {
        let words = serde_json::to_vec(plan).map_err(|error| format!("cannot write the launch plan: {error}"))?;
        if words.len() > PLAN_MAX_BYTES {
            return Err(format!(
                "the launch plan has {} bytes, more than {PLAN_MAX_BYTES}: grant fewer paths",
                words.len()
            ));
        }
        let failed = |error: io::Error| format!("cannot prepare the start of loom-launch: {error}");
        let (gate, our_gate) = pipe().map_err(failed)?;
        let (our_report, report) = pipe().map_err(failed)?;
        let nothing = fs::OpenOptions::new().read(true).open("/dev/null").map_err(failed)?;
        placement.put(handover::memory(c"loom-plan", &words)?, PLAN_FD).map_err(failed)?;
        placement.put(&gate, GATE_FD).map_err(failed)?;
        placement.put(&report, REPORT_FD).map_err(failed)?;
        match face {
            Some(face) => {
                placement.put(face, 0).map_err(failed)?;
                placement.put(face, 1).map_err(failed)?;
            }
            None => {
                placement.put(&nothing, 0).map_err(failed)?;
                placement.put(log, 1).map_err(failed)?;
            }
        }
        placement.put(log, 2).map_err(failed)?;
        nix::fcntl::fcntl(&our_report, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
            .map_err(|error| failed(error.into()))?;
        let our_report = tokio::net::unix::pipe::Receiver::from_owned_fd(our_report).map_err(failed)?;
        let program = self.settings.libexec.join("loom-launch");
        let (pid, pidfd) = placement
            .spawn(&program, "loom-launch", birthplace.map(AsFd::as_fd), &self.children)
            .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
        Ok(Started { pid, pidfd, gate: Some(our_gate), report: Some(our_report) })
    }

    fn identify(&self, started: &Started, cgroup: Option<&Path>, token_sha256: String) -> Option<Identity> {
        Some(Identity {
            boot_id: self.settings.boot_id.clone(),
            pid: started.pid,
            pidfd_inode: identity::pidfd_inode(&started.pidfd),
            start_ticks: identity::stat(started.pid)?.start_ticks,
            cgroup: cgroup.map(text),
            token_sha256,
        })
    }

    /// `loom-<hash of the runtime directory>`, the name of our directory in each cgroup tree: two loomds never meet.
    fn home(&self) -> String {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(self.settings.runtime_dir.as_os_str().as_encoded_bytes());
        format!("loom-{}", hex(&digest[..6]))
    }

    /// What holds for every process of a unit.
    fn around(&self, unit: &UnitId, profile: &str) -> Surroundings {
        let paths = sandbox::profile_paths(profile);
        Surroundings {
            state_dir: text(&self.unit_state(unit)),
            runtime_dir: text(&self.unit_runtime(unit)),
            protected: texts(&self.settings.protected),
            home: self.settings.home.clone(),
            links: surroundings::links(paths.iter().map(String::as_str)),
            ..Surroundings::default()
        }
    }

    /// A run is over: it has no peers and no credentials any more.
    fn forget(&self, unit: &UnitId, run: RunId) {
        let places = self.places();
        if let Some(place) = places.get(unit) {
            let mut current = place.current.lock().unwrap_or_else(PoisonError::into_inner);
            if current.as_ref().is_some_and(|(live, _)| *live == run) {
                *current = None;
            }
        }
        drop(places);
        if let Err(error) = handover::remove_credentials(&self.unit_runtime(unit).join("credentials")) {
            tracing::warn!(unit = %unit, run = %run, %error, "cannot remove the unit's credentials");
        }
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    // Values behind these locks are replaced whole, so a panic elsewhere does not spoil them.
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set(mark: &Mutex<GateMark>, to: GateMark) {
    *lock(mark) = to;
}

async fn end(tree: &Tree, children: &Children, unit: &UnitId, run: RunId) {
    if let Err(error) = tree.end(children).await {
        tracing::error!(unit = %unit, run = %run, %error, "cannot end what is left of the run");
    }
}

async fn pass_on(mut ears: mpsc::Receiver<notify::Heard>, events: mpsc::Sender<Event>) {
    while let Some(notify::Heard { unit, run, notify }) = ears.recv().await {
        if events.send(Event::Notified { unit, run, notify }).await.is_err() {
            return;
        }
    }
}

fn tree_of(unit: &UnitId, run: RunId, main: Option<i32>, cgroup: Option<PathBuf>, adopted: bool) -> Tree {
    Tree { main, cgroup, marks: [format!("LOOM_UNIT={unit}"), format!("LOOM_RUN={run}")], adopted }
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
