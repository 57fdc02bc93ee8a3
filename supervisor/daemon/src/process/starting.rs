//! process/starting: from a unit to a launcher behind its gate, and to news of what became of it.
//!
//! Job: make ready what a run needs, plan it, start loom-launch, watch it; take over what an earlier loomd started.
//! May touch: what the process room may. Keeps: a program runs only after its gate was opened; a run that could not be watched
//! is not started; who cannot be proven is not adopted.

use super::cgroup::Groups;
use super::placing::Placement;
use super::tree::Tree;
use super::{
    Account, Common, FIRST_PASSED_FD, GATE_FD, GateMark, Live, Main, PLAN_FD, REPORT_FD, Room, Running, STACKS,
    Spawned, TRIAL_LIMIT, crash, empty_directory, environment, fits_a_socket, handover, identity, kept, lock, notify,
    open_directory, resources, set, surroundings, sys, text, texts, watcher,
};
use crate::fault;
use loom_core::fleet::{Event, Found};
use loom_core::ids::{Kind, RunId, UnitId};
use loom_core::launch_plan::{DescriptorMove, LaunchPlan, PLAN_MAX_BYTES};
use loom_core::lifecycle::{Exit, Identity, LaunchFailure};
use loom_core::sandbox::{self, Surroundings};
use loom_core::unit::{RunFacts, Unit};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// A launcher just started, or an adopted process.
pub(super) struct Started {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) gate: Option<OwnedFd>,
    pub(super) report: Option<tokio::net::unix::pipe::Receiver>,
}

/// A process that is to be watched as a run's main one, and what belongs to it.
struct Newcomer {
    started: Started,
    identity: Identity,
    tree: Tree,
    groups: Groups,
}

impl Room {
    /// Starts the launcher for a run; it waits behind its gate. The caller stores the identity, then opens the gate.
    pub fn spawn(&mut self, unit: &Unit, run: RunId, facts: &RunFacts) -> Result<Spawned, LaunchFailure> {
        let spawned = self.prepare(unit, run, facts);
        if spawned.is_err() {
            self.common.forget(&unit.id, run);
        }
        spawned
    }

    /// Makes ready what the run's processes find on the disk; once a run, for the first of them.
    pub(super) fn begin(&mut self, unit: &Unit, run: RunId) -> Result<(), LaunchFailure> {
        let id = &unit.id;
        self.make_directories(id).map_err(LaunchFailure::Resources)?;
        let (runtime, state) = (self.common.unit_runtime(id), self.common.unit_state(id));
        let temporary = runtime.join("tmp");
        if self.begun.get(id) != Some(&run) {
            empty_directory(&temporary, run).map_err(|error| resources("empty", &temporary, &error))?;
            self.begun.insert(id.clone(), run);
        }
        let path = runtime.join("notify.sock");
        self.listen(id).map_err(|error| resources("listen on", &path, &error))?;
        environment::user(unit).map_err(LaunchFailure::Refused)?;
        let settings = &self.common.settings;
        for own in [&temporary, &path, &state] {
            environment::give(unit, own).map_err(LaunchFailure::Resources)?;
        }
        for (root, own) in [(&settings.runtime_dir, &runtime), (&settings.state_dir, &state)] {
            environment::open_way(unit, root, own).map_err(LaunchFailure::Resources)?;
        }
        Ok(())
    }

    /// What every process of a unit finds in its environment, beside what the plan says.
    pub(super) fn environment(&self, unit: &Unit) -> Result<BTreeMap<String, String>, String> {
        let mut env = BTreeMap::new();
        let runtime = self.common.unit_runtime(&unit.id);
        env.insert("NOTIFY_SOCKET".into(), text(&runtime.join("notify.sock")));
        env.insert("LOOM_STACKS".into(), text(&runtime.join("tmp").join(STACKS)));
        if let Some(zone) = std::env::var("TZ").ok().filter(|zone| !zone.is_empty()) {
            env.insert("TZ".into(), zone);
        }
        env.extend(environment::user_words(unit)?);
        let (name, value) = self.common.mark(&unit.id);
        env.insert(name.into(), value);
        Ok(env)
    }

    fn prepare(&mut self, unit: &Unit, run: RunId, facts: &RunFacts) -> Result<Spawned, LaunchFailure> {
        let id = &unit.id;
        self.begin(unit, run)?;
        let as_written = unit;
        let unit = &*environment::filled(unit).map_err(LaunchFailure::Resources)?;
        let runtime = self.common.unit_runtime(id);
        let exec = unit.exec.as_ref().ok_or_else(|| LaunchFailure::Refused(format!("{id} has no [exec] command")))?;
        let looked = surroundings::look(&exec.command).map_err(LaunchFailure::Resources)?;
        let credentials = handover::credentials(unit).map_err(LaunchFailure::Resources)?;

        let mut placement = Placement::default();
        let mut env = self.environment(unit).map_err(LaunchFailure::Resources)?;
        let mut pid_variables = Vec::new();
        let mut passed: Vec<(OwnedFd, i32)> = Vec::new();
        let mut token_sha256 = String::new();
        let mut next_free = kept::FIRST_LISTEN_FD;
        let kept = self.common.kept(id);
        if !kept.is_empty() {
            let names: Vec<&str> = kept.iter().map(|(_, name)| name.as_str()).collect();
            env.insert("LISTEN_FDS".into(), kept.len().to_string());
            env.insert("LISTEN_FDNAMES".into(), names.join(":"));
            pid_variables.push("LISTEN_PID".to_owned());
            for (fd, _) in &kept {
                let copy = fd.try_clone().map_err(|error| LaunchFailure::Resources(no_pass(&error)))?;
                passed.push((copy, next_free));
                next_free += 1;
            }
        }
        if id.kind() == Kind::Agent {
            let token = handover::token().map_err(LaunchFailure::Resources)?;
            let (token_fd, config_fd) = (next_free, next_free + 1);
            let config = handover::config(unit, run, &credentials, config_fd + 1).to_string();
            let memory = |name, content: &[u8]| handover::memory(name, content).map_err(LaunchFailure::Resources);
            passed.push((memory(c"loom-token", token.text.reveal().as_bytes())?, token_fd));
            passed.push((memory(c"loom-config", config.as_bytes())?, config_fd));
            for ((_, content), to) in credentials.iter().zip(config_fd + 1..) {
                passed.push((memory(c"loom-credential", content.reveal())?, to));
            }
            env.insert("LOOM_SOCKET".into(), text(&runtime.join("bus.sock")));
            env.insert("LOOM_TOKEN_FD".into(), token_fd.to_string());
            env.insert("LOOM_CONFIG_FD".into(), config_fd.to_string());
            env.insert("LOOM_LOG".into(), self.common.settings.log_word.to_owned());
            token_sha256 = token.sha256;
        } else if !credentials.is_empty() {
            let directory = runtime.join("credentials");
            handover::write_credentials(&directory, &credentials).map_err(LaunchFailure::Resources)?;
            environment::give(unit, &directory).map_err(LaunchFailure::Resources)?;
            env.insert("CREDENTIALS_DIRECTORY".into(), text(&directory));
        }
        if let Some(interval) = unit.watchdog.interval {
            env.insert("WATCHDOG_USEC".into(), interval.0.saturating_mul(1000).to_string());
            pid_variables.push("WATCHDOG_PID".to_owned());
        }
        if let Some(limit) = unit.watchdog.progress {
            env.insert("LOOM_PROGRESS_USEC".into(), limit.0.saturating_mul(1000).to_string());
        }
        if unit.budget.is_some() {
            env.insert("LOOM_BUDGET".into(), "1".into());
        }

        let mut descriptors = Vec::new();
        let mut next = FIRST_PASSED_FD;
        for (fd, to) in passed {
            placement.put(fd, next).map_err(|error| LaunchFailure::Resources(no_pass(&error)))?;
            descriptors.push(DescriptorMove { fd: next, to });
            next += 1;
        }
        let groups = self.groups_of(unit, run).map_err(LaunchFailure::Resources)?;
        let open = |path: &Path| open_directory(path).map_err(|error| resources("open", path, &error));
        let group = groups.v2.as_deref().map(open).transpose()?;
        let born = groups.fresh && group.as_ref().is_some_and(|group| self.can_be_born_in(group));
        let v1 = groups.v1.iter().map(|(_, path)| open(path)).collect::<Result<Vec<_>, _>>()?;
        let mut joins = Vec::new();
        for group in v1.iter().chain(group.as_ref().filter(|_| !born)) {
            placement.put(group, next).map_err(|error| LaunchFailure::Resources(no_pass(&error)))?;
            joins.push(next);
            next += 1;
        }
        let around = Surroundings {
            program: text(&looked.program),
            interpreter_roots: texts(&looked.interpreter_roots),
            code_roots: texts(&looked.code_roots),
            code_files: texts(&looked.code_files),
            env,
            pid_variables,
            user: environment::user(unit).map_err(LaunchFailure::Refused)?,
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
            tokio::spawn(async move { watcher::child(pid, &Arc::new(pidfd), &common.children).await });
            return Err(LaunchFailure::Resources("loom-launch ended before it could be identified".into()));
        };
        let tree = self.common.tree_of(id, run, Some(identity.pid), cgroup, false);
        let started_as = Some((Arc::new(as_written.clone()), facts.clone()));
        fault::point("spawn.identified");
        self.watch(id, run, started_as, Newcomer { started, identity: identity.clone(), tree, groups });
        Ok(Spawned { identity, enforcement })
    }

    /// Lets the launcher of a run go on.
    pub fn open_gate(&mut self, unit: &UnitId, run: RunId) {
        let started_as = self.common.places().get(unit).and_then(|place| place.started_as.clone());
        if let Some(live) = self.live.get_mut(unit).filter(|live| live.run == run)
            && let Some(gate) = live.gate.take()
        {
            // The bus has made its socket by now.
            let socket = self.common.unit_runtime(unit).join("bus.sock");
            if let Some((unit, _)) =
                started_as.filter(|(unit, _)| unit.exec.as_ref().is_some_and(|exec| exec.user.is_some()))
                && socket.exists()
                && let Err(error) = environment::give(&unit, &socket)
            {
                tracing::error!(unit = %unit.id, %run, error, "the unit's user cannot reach its bus");
            }
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
    /// `unit`: its file as it is now, if there still is one; says whose notifications are heard.
    pub fn adopt(&mut self, id: &UnitId, unit: Option<&Unit>, run: RunId, identity: &Identity) -> Found {
        if identity.boot_id != self.common.settings.boot_id {
            return Found::Gone(Exit::Unknown);
        }
        // Only ever our own: what a record says is killed is killed.
        let cgroup = identity.cgroup.as_ref().map(PathBuf::from).filter(|path| self.common.is_group_of(id, path));
        let pidfd = match identity::prove(identity.pid, identity.pidfd_inode, identity.start_ticks) {
            identity::Proof::Same(pidfd) => pidfd,
            identity::Proof::Gone => {
                // Its main process is gone, and what it left is not: `EndTree` will ask for it.
                let (_, gone) = watch::channel(true);
                let main = Main { identity: None, pidfd: None, tree: self.common.tree_of(id, run, None, cgroup, true) };
                let live = Live {
                    run,
                    main: Arc::new(Mutex::new(main)),
                    gate: None,
                    mark: Arc::default(),
                    gone,
                    told: true,
                    ending: None,
                };
                self.live.insert(id.clone(), live);
                return Found::Gone(Exit::Unknown);
            }
        };
        let groups = Groups::find(&self.common.settings.machine, &self.common.home(), id, cgroup.clone());
        let tree = self.common.tree_of(id, run, Some(identity.pid), cgroup, true);
        if unit.is_some()
            && let Err(error) = self.listen(id)
        {
            tracing::error!(unit = %id, run = %run, %error, "cannot open the notify socket again");
        }
        if let Some(unit) = unit
            && let Err(error) = environment::give(unit, &self.common.unit_runtime(id).join("notify.sock"))
        {
            tracing::error!(unit = %id, run = %run, error, "the unit's user cannot reach its notify socket");
        }
        let started = Started { pid: identity.pid, pidfd, gate: None, report: None };
        let facts = RunFacts { run, restarts: 0, last_result: None, last_exit: None };
        self.begun.insert(id.clone(), run);
        let started_as = unit.map(|unit| (Arc::new(unit.clone()), facts));
        self.watch(id, run, started_as, Newcomer { started, identity: identity.clone(), tree, groups });
        Found::Alive
    }

    fn listen(&mut self, unit: &UnitId) -> io::Result<()> {
        if self.common.places().get(unit).is_some_and(|place| place.ear.is_some()) {
            return Ok(());
        }
        let path = self.common.unit_runtime(unit).join("notify.sock");
        fits_a_socket(&path).map_err(io::Error::other)?;
        fs::create_dir_all(self.common.unit_runtime(unit))?;
        let ear = notify::listen(unit.clone(), &path, &self.common, self.events.clone())?;
        self.common.places().entry(unit.clone()).or_default().ear = Some(ear);
        Ok(())
    }

    /// Whether a child can be born in a cgroup; tried once.
    pub(super) fn can_be_born_in(&self, group: &fs::File) -> bool {
        *self.common.births.get_or_init(|| {
            let lived = self.common.children.make(|| sys::born_in(group.as_fd(), None)).and_then(|(pid, pidfd)| {
                let ended = sys::wait_for_end(pidfd.as_fd(), TRIAL_LIMIT);
                self.common.children.taken(pid);
                ended
            });
            lived.is_ok_and(|ended| ended.is_some_and(|ended| ended.exited && ended.status == 0))
        })
    }

    /// New groups for a run, with the unit's limits in force.
    pub(super) fn groups_of(&self, unit: &Unit, run: RunId) -> Result<Groups, String> {
        let v2 = self.cgroup_of(&unit.id, run);
        Groups::make(&self.common.settings.machine, &self.common.home(), &unit.id, &unit.limits, v2)
    }

    /// A place for a new v2 group, if there are any here, and whether nobody was ever killed in it.
    fn cgroup_of(&self, unit: &UnitId, run: RunId) -> Option<(PathBuf, bool)> {
        let base = self.common.cgroup_base()?;
        let mut directory = base.join(unit.to_string());
        // In a group that was ever ended by `cgroup.kill`, kernels from 6.14 on kill whoever is born: they compare its count
        // of kills with that of the parent's group.
        let mut fresh = remove_group(&directory);
        if !fresh && is_inhabited(&directory) {
            // What `stop.kill_mode` let live on stays where it is, and is not this run's.
            directory = Common::group_beside(&directory, run);
            fresh = remove_group(&directory);
        }
        // Survivors may have gone since; their groups go with the next start.
        for other in Common::groups_of(&base, unit) {
            if other != directory {
                remove_group(&other);
            }
        }
        Some((directory, fresh))
    }

    /// Registers a started or adopted process and tells what becomes of it.
    fn watch(&mut self, unit: &UnitId, run: RunId, started_as: Option<(Arc<Unit>, RunFacts)>, newcomer: Newcomer) {
        let Newcomer { started, identity, tree, groups } = newcomer;
        let (tell_gone, gone) = watch::channel(false);
        let tell_gone = Arc::new(tell_gone);
        let mark: Arc<Mutex<GateMark>> = Arc::default();
        let pidfd = Arc::new(started.pidfd);
        let main = Arc::new(Mutex::new(Main { identity: Some(identity), pidfd: Some(Arc::clone(&pidfd)), tree }));
        {
            let mut places = self.common.places();
            let place = places.entry(unit.clone()).or_default();
            place.current = Some(Running { run, main: Arc::clone(&main), gone: Arc::clone(&tell_gone) });
            if let Some((unit, _)) = &started_as {
                place.access = unit.ready.notify_access;
            }
            place.started_as = started_as;
            place.groups = groups.clone();
            place.account = Account::default();
        }
        let live = Live { run, main, gate: started.gate, mark: Arc::clone(&mark), gone, told: false, ending: None };
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
            let news = match started.report {
                // Ours still, where loomd became another program in the same process.
                None if ours => {
                    let exit = common.reap_after_hearing(&id, pid, &pidfd).await;
                    Event::Exited { unit: id.clone(), run, exit }
                }
                None => {
                    // A failed watch is told as an exit that nobody knows.
                    let _ = watcher::over(&pidfd).await;
                    common.hear_out(&id).await;
                    Event::Exited { unit: id.clone(), run, exit: watcher::adopted(pid, &pidfd).await }
                }
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
                    let exit = common.reap_after_hearing(&id, pid, &pidfd).await;
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
            // The new main process has a watcher of its own.
            if common.is_retired(&id, run, pid) {
                return;
            }
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

fn no_pass(error: &io::Error) -> String {
    format!("cannot pass a descriptor: {error}")
}

/// Removes a cgroup in which nothing lives, with those of helping processes below it; gives whether there is none now.
pub(super) fn remove_group(directory: &Path) -> bool {
    let gone = || match fs::remove_dir(directory) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if gone() {
        return true;
    }
    for below in fs::read_dir(directory).into_iter().flatten().flatten() {
        // Files are the kernel's, and a group that is not empty stays: neither can be removed this way.
        let _ = fs::remove_dir(below.path());
    }
    gone()
}

/// Whether processes live in a cgroup itself; those of helping processes below do not count.
fn is_inhabited(directory: &Path) -> bool {
    fs::read_to_string(directory.join("cgroup.procs")).is_ok_and(|members| !members.is_empty())
}

impl Common {
    /// What stands in the environment of all processes of a unit and of no other loomd's.
    pub(super) fn mark(&self, unit: &UnitId) -> (&'static str, String) {
        ("LOOM_TREE", format!("{}:{unit}", self.hash))
    }

    fn tree_of(&self, unit: &UnitId, run: RunId, main: Option<i32>, cgroup: Option<PathBuf>, adopted: bool) -> Tree {
        let (name, value) = self.mark(unit);
        Tree { main, cgroup, marks: [format!("{name}={value}"), format!("LOOM_RUN={run}")], adopted }
    }

    /// Starts loom-launch with a plan. `face`: what becomes descriptors 0 and 1 instead of nothing and the log.
    /// `birthplace`: the cgroup it is born in.
    pub(super) fn launch(
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
        let (gate, our_gate) = super::pipe().map_err(failed)?;
        let (our_report, report) = super::pipe().map_err(failed)?;
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

    /// What holds for every process of a unit.
    pub(super) fn around(&self, unit: &UnitId, profile: &str) -> Surroundings {
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
}
