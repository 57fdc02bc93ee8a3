//! process/helping: processes that help a unit's main process.
//!
//! Job: `exec.start_pre`, `exec.reload`, `stop.command`, `stop.post` and probes, each in the unit's sandbox, tree and log.
//! May touch: what the process room may. Keeps: no lock and no bus token, so none is taken for the unit; it has ended once
//! nothing of it is left; one that hangs holds up nobody; one of a loomd that died is ended by the next.

use super::cgroup::Groups;
use super::placing::Placement;
use super::tree::Tree;
use super::watcher::{self, Word};
use super::{Common, FIRST_PASSED_FD, Room, environment, handover, lock, resources, surroundings, sys, text, texts};
use loom_core::fleet::Event;
use loom_core::ids::{Kind, RunId, UnitId};
use loom_core::launch_plan::DescriptorMove;
use loom_core::lifecycle::{Control, Controlled, Exit, LaunchFailure, RunResult, result_word};
use loom_core::sandbox::{self, Surroundings};
use loom_core::unit::{RunFacts, Unit};
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// The profile of probes that connect.
const PROBE_PROFILE: &str = "worker";
/// How the cgroups of helping processes begin, below their unit's.
const CGROUP_PREFIX: &str = "control-";
/// Marks every process that a helping one starts: `<hash of the runtime directory>:<key>:<number>`.
const MARK: &str = "LOOM_CONTROL";

/// How a run ended, for `stop.post`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunEnd {
    /// `SERVICE_RESULT`.
    pub result: RunResult,
    /// `EXIT_CODE` and `EXIT_STATUS`; neither is set where nobody knows.
    pub exit: Option<Exit>,
}

/// A helping process that runs, or whose end is not over.
pub(super) struct Helping {
    pub(super) run: RunId,
    pub(super) pid: i32,
    pidfd: Arc<OwnedFd>,
    tree: Tree,
    /// Becomes true once nothing of it is left.
    gone: watch::Receiver<bool>,
}

impl Helping {
    pub(super) fn tree(&self) -> Tree {
        self.tree.clone()
    }

    /// Kills it and what it started; what only a look at all processes finds follows once it is gone.
    pub(super) fn kill(&self) {
        if let Some(directory) = &self.tree.cgroup {
            // Gone, if it has just ended; its own process is killed below in any case.
            let _ = fs::write(directory.join("cgroup.kill"), "1");
        }
        if let Err(error) = sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL) {
            tracing::error!(pid = self.pid, %error, "cannot kill a helping process");
        }
    }
}

/// A v2 group of its own with its open directory, and open directories of v1 groups.
type ControlGroups = (Option<(PathBuf, fs::File)>, Vec<fs::File>);

impl Room {
    /// Starts a helping process; [`Event::Controlled`] follows. `ended` is for `stop.post`: how the run ended.
    ///
    /// An error means that there is no process and that no event follows.
    pub fn run_control(
        &mut self,
        unit: &Unit,
        control: Control,
        facts: &RunFacts,
        ended: Option<RunEnd>,
    ) -> Result<(), LaunchFailure> {
        let (id, run) = (&unit.id, facts.run);
        let mut env = vec![];
        let main = self.live.get(id).filter(|live| live.run == run && !*live.gone.borrow());
        if let Some(pid) = main.and_then(|live| lock(&live.main).tree.main) {
            env.push(("MAINPID".to_owned(), pid.to_string()));
        }
        if let Some(ended) = ended {
            env.extend(words_of(ended));
        }
        self.begin(unit, run)?;
        let number = self.last_control.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}:{}:{number}", self.common.hash, control.word());
        env.push((MARK.to_owned(), mark.clone()));

        let (group, v1) = self.control_groups(unit, run, number)?;
        let started = self.launch_control(unit, control, facts, env, (group.as_ref(), &v1));
        let started = match started {
            Ok(started) => started,
            Err(failure) => {
                remove(group.map(|(directory, _)| directory).as_deref());
                return Err(failure);
            }
        };
        let (pid, pidfd) = (started.pid, Arc::new(started.pidfd));
        let tree = Tree {
            main: Some(pid),
            cgroup: group.map(|(directory, _)| directory),
            marks: [format!("LOOM_RUN={run}"), format!("{MARK}={mark}")],
            adopted: false,
        };
        let (tell_gone, gone) = watch::channel(false);
        let helping = Helping { run, pid, pidfd: Arc::clone(&pidfd), tree: tree.clone(), gone };
        {
            let mut places = self.common.places();
            let place = places.entry(id.clone()).or_default();
            place.access = unit.ready.notify_access;
            place.helping.insert(control, helping);
        }
        // A new loomd finds it by its tree, so nothing is stored before it runs.
        if let Some(gate) = started.gate {
            let _ = fs::File::from(gate).write_all(b"g");
        }
        let (common, events, unit) = (Arc::clone(&self.common), self.events.clone(), id.clone());
        tokio::spawn(async move {
            let word = match started.report {
                Some(report) => watcher::report(report).await,
                None => Word::Silent,
            };
            let exit = common.reap_after_hearing(&unit, pid, &pidfd).await;
            if let Err(error) = tree.end(&common.children).await {
                tracing::error!(%unit, %run, %error, control = control.word(), "cannot end what a helping process left");
            }
            remove(tree.cgroup.as_deref());
            common.control_ended(&unit, control, pid);
            let end = match word {
                Word::Silent => Controlled::Exited(exit),
                Word::Failed(failure) => Controlled::Failed(failure),
            };
            let _ = tell_gone.send(true);
            let _ = events.send(Event::Controlled { unit, run, control, end }).await;
        });
        Ok(())
    }

    /// Kills a helping process and what it started; its `Controlled` follows, if it is not on its way already.
    pub fn end_control(&self, unit: &UnitId, run: RunId, control: Control) {
        let places = self.common.places();
        if let Some(helping) = places.get(unit).and_then(|place| place.helping.get(&control))
            && helping.run == run
        {
            helping.kill();
        }
    }

    /// A v2 group of its own below the unit's, so that its end is the end of all it started and of nothing else; and the
    /// unit's v1 groups, whose limits hold for it too.
    fn control_groups(&self, unit: &Unit, run: RunId, number: u64) -> Result<ControlGroups, LaunchFailure> {
        let live = self.live.get(&unit.id).filter(|live| live.run == run);
        let groups = match live.and_then(|live| lock(&live.main).tree.cgroup.clone()) {
            Some(directory) => {
                let common = &self.common;
                Groups::find(&common.settings.machine, &common.home(), &unit.id, Some(directory))
            }
            None => self.groups_of(unit, run).map_err(LaunchFailure::Resources)?,
        };
        let open = |path: &Path| super::open_directory(path).map_err(|error| resources("open", path, &error));
        let v1 = groups.v1.iter().map(|(_, path)| open(path)).collect::<Result<Vec<_>, _>>()?;
        let Some(of_unit) = groups.v2 else { return Ok((None, v1)) };
        let directory = of_unit.join(format!("{CGROUP_PREFIX}{number}"));
        fs::create_dir_all(&directory).map_err(|error| resources("make", &directory, &error))?;
        let group = open(&directory)?;
        Ok((Some((directory, group)), v1))
    }

    fn launch_control(
        &self,
        unit: &Unit,
        control: Control,
        facts: &RunFacts,
        own: Vec<(String, String)>,
        (group, v1): (Option<&(PathBuf, fs::File)>, &[fs::File]),
    ) -> Result<super::Started, LaunchFailure> {
        let common = &self.common;
        let unit = &*environment::filled(unit).map_err(LaunchFailure::Resources)?;
        let mut env = self.environment(unit).map_err(LaunchFailure::Resources)?;
        if unit.id.kind() != Kind::Agent {
            env.extend(self.credentials_directory(unit).map_err(LaunchFailure::Resources)?);
        }
        env.extend(own);
        let user = environment::user(unit).map_err(LaunchFailure::Refused)?;
        let born = group.filter(|(_, group)| self.can_be_born_in(group));
        let joins = group.filter(|_| born.is_none());
        let mut placement = Placement::default();
        let mut cgroups = Vec::new();
        for (group, at) in v1.iter().chain(joins.map(|(_, group)| group)).zip(FIRST_PASSED_FD..) {
            placement
                .put(group, at)
                .map_err(|error| LaunchFailure::Resources(format!("cannot pass a cgroup: {error}")))?;
            cgroups.push(at);
        }
        let descriptors: Vec<DescriptorMove> = Vec::new();
        let machine = &common.settings.machine;
        let refused = |refusal: sandbox::SandboxError| LaunchFailure::Refused(refusal.to_string());
        let plan = match control.command(unit) {
            Some(command) => {
                let mut command = command.to_vec();
                if let Some(bare) = command.first().and_then(|program| program.strip_prefix('-')).map(str::to_owned) {
                    command[0] = bare;
                }
                let looked = surroundings::look(&command).map_err(LaunchFailure::Resources)?;
                // It may be a second word to the unit's own program, or read the same code.
                let own = unit.exec.as_ref().and_then(|exec| surroundings::look(&exec.command).ok());
                let both = |one: &[PathBuf], other: Option<&[PathBuf]>| {
                    let mut all = texts(one);
                    all.extend(
                        texts(other.unwrap_or_default())
                            .into_iter()
                            .filter(|path| !all.contains(path))
                            .collect::<Vec<_>>(),
                    );
                    all
                };
                let own = own.as_ref();
                let around = Surroundings {
                    program: text(&looked.program),
                    interpreter_roots: both(&looked.interpreter_roots, own.map(|own| &*own.interpreter_roots)),
                    code_roots: both(&looked.code_roots, own.map(|own| &*own.code_roots)),
                    code_files: both(&looked.code_files, own.map(|own| &*own.code_files)),
                    env: env.into_iter().collect(),
                    user,
                    descriptors,
                    cgroups,
                    ..common.around(&unit.id, &unit.sandbox.profile)
                };
                let mut plan = sandbox::helper_plan(unit, &command, facts, machine, &around).map_err(refused)?;
                if let Some(landlock) = &mut plan.landlock {
                    // It is there to reach the main process, which is in a Landlock domain of its own.
                    landlock.open_signals = match control {
                        Control::Reload | Control::Stop => true,
                        Control::StartPre(_)
                        | Control::StopPost(_)
                        | Control::Startup
                        | Control::Readiness
                        | Control::Liveness => false,
                    };
                }
                plan
            }
            None => {
                let check = control.probe(unit).map(|probe| &probe.check);
                let check = check
                    .ok_or_else(|| LaunchFailure::Refused(format!("{} has no `{}` to run", unit.id, control.word())))?;
                let program = common.settings.libexec.join("loom-worker");
                let around = Surroundings {
                    program: text(&program),
                    env: env.into_iter().filter(|(name, _)| name.starts_with("LOOM_")).collect(),
                    user,
                    cgroups,
                    ..common.around(&unit.id, PROBE_PROFILE)
                };
                let plan = sandbox::probe_plan(unit, check, facts, machine, &around).map_err(refused)?;
                plan.ok_or_else(|| LaunchFailure::Refused(format!("{} has no `{}` to run", unit.id, control.word())))?
            }
        };
        let log = (common.settings.open_log)(&unit.id, facts.run)
            .map_err(|error| LaunchFailure::Resources(format!("cannot open the log of {}: {error}", unit.id)))?;
        common.launch(&plan, &mut placement, &log, None, born.map(|(_, group)| group)).map_err(LaunchFailure::Resources)
    }

    /// A service's credentials as files; made for its helping processes if its main process has none yet.
    fn credentials_directory(&self, unit: &Unit) -> Result<Option<(String, String)>, String> {
        let directory = self.common.unit_runtime(&unit.id).join("credentials");
        if unit.exec.as_ref().is_none_or(|exec| exec.credentials.is_empty()) {
            return Ok(None);
        }
        if !directory.exists() {
            handover::write_credentials(&directory, &handover::credentials(unit)?)?;
            environment::give(unit, &directory)?;
        }
        Ok(Some(("CREDENTIALS_DIRECTORY".to_owned(), text(&directory))))
    }
}

/// Removes an empty cgroup; one that is not stays until its unit's is made anew.
fn remove(directory: Option<&std::path::Path>) {
    if let Some(directory) = directory {
        let _ = fs::remove_dir(directory);
    }
}

/// systemd's words for an end.
fn words_of(end: RunEnd) -> Vec<(String, String)> {
    let mut words = vec![("SERVICE_RESULT".to_owned(), result_word(end.result).to_owned())];
    let mut exit = |code: &str, status: String| {
        words.push(("EXIT_CODE".to_owned(), code.to_owned()));
        words.push(("EXIT_STATUS".to_owned(), status));
    };
    match end.exit {
        Some(Exit::Code(code)) => exit("exited", code.to_string()),
        Some(Exit::Signal { signal, core }) => {
            let name = nix::sys::signal::Signal::try_from(signal)
                .map_or_else(|_| signal.to_string(), |signal| signal.as_str().trim_start_matches("SIG").to_owned());
            exit(if core { "dumped" } else { "killed" }, name);
        }
        Some(Exit::Unknown) | None => {}
    }
    words
}

impl Common {
    /// Trees of the helping processes of a run.
    pub(super) fn helping_trees(&self, unit: &UnitId, run: RunId) -> Vec<Tree> {
        let places = self.places();
        let helping = places.get(unit).into_iter().flat_map(|place| place.helping.values());
        helping.filter(|helping| helping.run == run).map(|helping| helping.tree.clone()).collect()
    }

    /// What tells the end of each helping process of a run.
    pub(super) fn helping_ends(&self, unit: &UnitId, run: RunId) -> Vec<watch::Receiver<bool>> {
        let places = self.places();
        let helping = places.get(unit).into_iter().flat_map(|place| place.helping.values());
        helping.filter(|helping| helping.run == run).map(|helping| helping.gone.clone()).collect()
    }

    fn control_ended(&self, unit: &UnitId, control: Control, pid: i32) {
        let mut places = self.places();
        let Some(place) = places.get_mut(unit) else { return };
        if place.helping.get(&control).is_some_and(|helping| helping.pid == pid) {
            place.helping.remove(&control);
        }
        let is_over = place.current.is_none() && place.helping.is_empty();
        drop(places);
        if is_over && let Err(error) = handover::remove_credentials(&self.unit_runtime(unit).join("credentials")) {
            tracing::warn!(%unit, %error, "cannot remove the unit's credentials");
        }
    }

    /// Kills helping processes that an earlier loomd of this runtime directory left.
    pub(super) fn sweep(&self) {
        if let Some(base) = self.cgroup_base() {
            for unit in fs::read_dir(&base).into_iter().flatten().flatten() {
                for control in fs::read_dir(unit.path()).into_iter().flatten().flatten() {
                    if control.file_name().to_string_lossy().starts_with(CGROUP_PREFIX) {
                        // Gone, or empty: then there is nothing to kill.
                        let _ = fs::write(control.path().join("cgroup.kill"), "1");
                    }
                }
            }
            return;
        }
        let mark = format!("{MARK}={}:", self.hash);
        let is_ours = |pid: i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(mark.as_bytes()))
        };
        for (pid, ..) in super::tree::everyone() {
            // Opened first and looked at then, so that a successor of this pid is not hit.
            if let Ok(pidfd) = sys::pidfd_open(pid)
                && is_ours(pid)
                && let Err(error) = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL)
            {
                tracing::warn!(pid, %error, "cannot end a helping process of an earlier loomd");
            }
        }
    }
}

/// Numbers helping processes within one life of loomd. Begins where an earlier one's groups, not yet empty, do not stand in
/// the way.
pub(super) fn first_number() -> AtomicU64 {
    AtomicU64::new(u64::from(std::process::id()) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_in_systemds_words() {
        let told = |result, exit| {
            let words = words_of(RunEnd { result, exit });
            words.into_iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        let killed = Some(Exit::Signal { signal: 15, core: false });
        let table = [
            (RunResult::Success, Some(Exit::Code(0)), "SERVICE_RESULT=success EXIT_CODE=exited EXIT_STATUS=0"),
            (RunResult::ExitCode, Some(Exit::Code(7)), "SERVICE_RESULT=exit-code EXIT_CODE=exited EXIT_STATUS=7"),
            (RunResult::Timeout, killed, "SERVICE_RESULT=timeout EXIT_CODE=killed EXIT_STATUS=TERM"),
            (
                RunResult::CoreDump,
                Some(Exit::Signal { signal: 11, core: true }),
                "SERVICE_RESULT=core-dump EXIT_CODE=dumped EXIT_STATUS=SEGV",
            ),
            (
                RunResult::Signal,
                Some(Exit::Signal { signal: 40, core: false }),
                "SERVICE_RESULT=signal EXIT_CODE=killed EXIT_STATUS=40",
            ),
            (RunResult::Lost, Some(Exit::Unknown), "SERVICE_RESULT=lost"),
            (RunResult::Resources, None, "SERVICE_RESULT=resources"),
        ];
        for (result, exit, want) in table {
            assert_eq!(told(result, exit), want);
        }
    }
}
