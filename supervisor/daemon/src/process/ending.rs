//! process/ending: signals, and the end of what is left of a run.
//!
//! Job: signal a main process or a whole tree; end a tree as far as it is asked, by word, by force or not at all.
//! May touch: pidfds, cgroups through [`Tree`], the unit's lock file. Keeps: signals go by pidfd to proven members only; one
//! `TreeEmpty` for each run; force only grows; what may live on neither counts as the run nor keeps its lock.

use super::children::Children;
use super::tree::Tree;
use super::{Common, Room, handover, lock, sys};
use crate::fault;
use loom_core::fleet::Event;
use loom_core::ids::{RunId, UnitId};
use loom_core::lifecycle::TreeEnd;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::sync::watch;

/// How often a tree is looked through for those that were started while the others were signalled. Who forks faster than
/// that is killed once its time is over.
const SIGNAL_ROUNDS: usize = 8;

impl Room {
    /// Sends a signal to a run's main process, and SIGCONT after it so that a stopped process can act.
    pub fn signal(&self, unit: &UnitId, run: RunId, signal: i32) {
        let Some(live) = self.live.get(unit).filter(|live| live.run == run) else { return };
        let Some(pidfd) = lock(&live.main).pidfd.clone() else { return };
        if let Err(error) = signal_and_wake(&pidfd, signal) {
            tracing::error!(unit = %unit, run = %run, signal, %error, "cannot signal the main process");
        }
    }

    /// Sends a signal to every process of a run, helping ones included; SIGCONT follows where it asks for an end.
    pub fn signal_all(&self, unit: &UnitId, run: RunId, signal: i32) {
        let mut trees: Vec<Tree> = self.common.helping_trees(unit, run);
        trees.extend(self.live.get(unit).filter(|live| live.run == run).map(|live| lock(&live.main).tree.clone()));
        let wakes = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGABRT].contains(&signal);
        for tree in trees {
            Signalled::default().round(&tree, unit, signal, wakes);
        }
    }

    /// Ends what is left of a run. Gives true if nothing is, or if what is may live on; otherwise `TreeEmpty` follows, after
    /// `Exited` if the main process lived. May be asked again with more force; there is one `TreeEmpty` for all of it.
    pub fn end_tree(&mut self, unit: &UnitId, run: RunId, how: TreeEnd) -> bool {
        fault::point("tree.end");
        let Some(live) = self.live.get_mut(unit).filter(|live| live.run == run) else {
            return self.end_without_main(unit, run, how);
        };
        live.gate = None;
        if let Some(force) = &live.ending {
            force.send_if_modified(|now| grow(now, how));
            // Its answer is on its way, or was given.
            return false;
        }
        let (main_gone, tree) = (*live.gone.borrow(), lock(&live.main).tree.clone());
        let helped = !self.common.helping_trees(unit, run).is_empty();
        if live.told && !helped && (how == TreeEnd::Leave || tree.is_empty(&self.common.children)) {
            self.common.part_from(unit, run, how);
            self.live.remove(unit);
            return true;
        }
        if how == TreeEnd::Kill
            && !main_gone
            && let Some(pidfd) = &lock(&live.main).pidfd
            && let Err(error) = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL)
        {
            tracing::error!(unit = %unit, run = %run, %error, "cannot kill the main process");
        }
        let (tell, force) = watch::channel(how);
        live.ending = Some(tell);
        let ending = Ending {
            common: Arc::clone(&self.common),
            unit: unit.clone(),
            run,
            main: Some((Arc::clone(&live.main), live.gone.clone())),
            force,
        };
        let events = self.events.clone();
        tokio::spawn(async move {
            let (unit, run) = (ending.unit.clone(), ending.run);
            ending.run().await;
            let _ = events.send(Event::TreeEmpty { unit, run }).await;
        });
        false
    }

    /// A run that never had a main process, or has none any more: helping processes may be left of it.
    fn end_without_main(&mut self, unit: &UnitId, run: RunId, how: TreeEnd) -> bool {
        if self.common.helping_trees(unit, run).is_empty() {
            return true;
        }
        let (_, force) = watch::channel(how);
        let ending = Ending { common: Arc::clone(&self.common), unit: unit.clone(), run, main: None, force };
        let events = self.events.clone();
        tokio::spawn(async move {
            let (unit, run) = (ending.unit.clone(), ending.run);
            ending.run().await;
            let _ = events.send(Event::TreeEmpty { unit, run }).await;
        });
        false
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
        for unit in self.common.places().values() {
            for helping in unit.helping.values() {
                helping.kill();
            }
        }
        runs.iter().filter(|(unit, run)| !self.end_tree(unit, *run, TreeEnd::Kill)).count()
    }

    /// How many main processes live.
    pub fn alive(&self) -> usize {
        self.live.values().filter(|live| !*live.gone.borrow()).count()
    }
}

/// Whether `how` asks for more than what is being done; then that is done from now on.
fn grow(now: &mut TreeEnd, how: TreeEnd) -> bool {
    let grows = match (*now, how) {
        (TreeEnd::Kill, TreeEnd::Kill | TreeEnd::Terminate(_) | TreeEnd::Leave) => false,
        (TreeEnd::Terminate(before), TreeEnd::Terminate(signal)) => before != signal,
        (TreeEnd::Leave, TreeEnd::Leave) => false,
        // What could not be ended in time may be left after all.
        (TreeEnd::Terminate(_), TreeEnd::Kill | TreeEnd::Leave) => true,
        (TreeEnd::Leave, TreeEnd::Kill | TreeEnd::Terminate(_)) => true,
    };
    if grows {
        *now = how;
    }
    grows
}

/// One run on its way out.
struct Ending {
    common: Arc<Common>,
    unit: UnitId,
    run: RunId,
    main: Option<(Arc<std::sync::Mutex<super::Main>>, watch::Receiver<bool>)>,
    force: watch::Receiver<TreeEnd>,
}

impl Ending {
    async fn run(mut self) {
        let mut force = self.force.clone();
        let how = loop {
            let how = *force.borrow_and_update();
            tokio::select! {
                () = self.carry_out(how) => break how,
                Ok(()) = force.changed() => {}
            }
        };
        self.common.part_from(&self.unit, self.run, how);
    }

    async fn carry_out(&mut self, how: TreeEnd) {
        let tree = self.main.as_ref().map(|(main, _)| lock(main).tree.clone());
        match how {
            TreeEnd::Terminate(signal) => {
                let helping = self.common.helping_trees(&self.unit, self.run);
                for tree in &helping {
                    Signalled::default().round(tree, &self.unit, signal, true);
                }
                if let Some(tree) = &tree {
                    self.terminate(tree, signal).await;
                }
            }
            TreeEnd::Kill => {
                self.kill_helping();
                if let Some(tree) = &tree {
                    if let Some((main, gone)) = &self.main
                        && !*gone.borrow()
                        && let Some(pidfd) = lock(main).pidfd.clone()
                    {
                        // What cannot be killed this way is waited for below.
                        let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
                    }
                    if tree.cgroup.is_some() {
                        self.end(tree).await;
                    }
                    self.main_gone().await;
                    if tree.cgroup.is_none() {
                        self.end(tree).await;
                    }
                }
            }
            // Helping processes are nobody's to leave behind.
            TreeEnd::Leave => self.kill_helping(),
        }
        self.main_gone().await;
        for mut gone in self.common.helping_ends(&self.unit, self.run) {
            let _ = gone.wait_for(|gone| *gone).await;
        }
    }

    fn kill_helping(&self) {
        let places = self.common.places();
        let helping = places.get(&self.unit).into_iter().flat_map(|place| place.helping.values());
        for helping in helping.filter(|helping| helping.run == self.run) {
            helping.kill();
        }
    }

    async fn main_gone(&mut self) {
        if let Some((_, gone)) = &mut self.main {
            // An error means that the watcher is gone, and with it whatever could still be told.
            let _ = gone.wait_for(|gone| *gone).await;
        }
    }

    async fn end(&self, tree: &Tree) {
        if let Err(error) = tree.end(&self.common.children).await {
            tracing::error!(unit = %self.unit, run = %self.run, %error, "cannot end what is left of the run");
        }
    }

    /// Signals each process once, and returns when none is left.
    async fn terminate(&self, tree: &Tree, signal: i32) {
        let mut signalled = Signalled::default();
        loop {
            for _ in 0..SIGNAL_ROUNDS {
                if !signalled.round(tree, &self.unit, signal, true) {
                    break;
                }
            }
            match wait_for_change(tree, &self.common.children).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(unit = %self.unit, run = %self.run, %error, "cannot watch what is left of the run");
                    // Never ends by itself: who asked for this asks for more once its time is over.
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// Who of a tree was signalled already, by pid, with the descriptor that names it.
#[derive(Default)]
struct Signalled {
    sent: BTreeMap<i32, OwnedFd>,
}

impl Signalled {
    /// Signals all that were not yet; gives whether there were any.
    fn round(&mut self, tree: &Tree, unit: &UnitId, signal: i32, wake: bool) -> bool {
        // Who has ended may have left its pid to another.
        self.sent.retain(|_, pidfd| !sys::has_ended(pidfd.as_fd()));
        let fresh: Vec<(i32, OwnedFd)> =
            proven(tree).into_iter().filter(|(pid, _)| !self.sent.contains_key(pid)).collect();
        let any = !fresh.is_empty();
        for (pid, pidfd) in fresh {
            let sent = if wake {
                signal_and_wake(&pidfd, signal)
            } else {
                sys::pidfd_send_signal(pidfd.as_fd(), signal).map(drop)
            };
            if let Err(error) = sent {
                tracing::warn!(unit = %unit, pid, signal, %error, "cannot signal a process of the unit");
            }
            self.sent.insert(pid, pidfd);
        }
        any
    }
}

/// Living members, each with a descriptor that is proven to name it: who is a member before and after it was opened, and lives
/// still, was the one that was opened.
pub(super) fn proven(tree: &Tree) -> Vec<(i32, OwnedFd)> {
    let opened: Vec<(i32, OwnedFd)> =
        tree.members().into_iter().filter_map(|pid| Some((pid, sys::pidfd_open(pid).ok()?))).collect();
    if opened.is_empty() {
        return opened;
    }
    let after = tree.members();
    opened.into_iter().filter(|(pid, pidfd)| after.contains(pid) && !sys::has_ended(pidfd.as_fd())).collect()
}

fn signal_and_wake(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    let alive = sys::pidfd_send_signal(pidfd.as_fd(), signal)?;
    if alive && ![libc::SIGKILL, libc::SIGSTOP, libc::SIGTSTP, libc::SIGCONT].contains(&signal) {
        sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGCONT)?;
    }
    Ok(())
}

/// Waits until members of a tree have ended; gives whether it is empty.
async fn wait_for_change(tree: &Tree, children: &Children) -> io::Result<bool> {
    let members = proven(tree);
    if members.is_empty() {
        // Who ended last may not be reaped yet, and then still counts.
        children.reap_orphans();
        if tree.is_empty(children) {
            return Ok(true);
        }
        if let Some(directory) = &tree.cgroup {
            wait_for_events(directory).await?;
        } else {
            // Found by one look and not by the other: it is just ending.
            tokio::task::yield_now().await;
        }
        return Ok(tree.is_empty(children));
    }
    for (_, pidfd) in members {
        super::tree::wait_for_end(pidfd).await?;
    }
    children.reap_orphans();
    Ok(tree.is_empty(children))
}

/// Waits until the kernel says that a cgroup's state has changed, unless it is gone.
async fn wait_for_events(directory: &Path) -> io::Result<()> {
    let mut events = match File::open(directory.join("cgroup.events")) {
        Ok(file) => file,
        Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(other) => return Err(other),
    };
    // The kernel tells of changes since the last reading.
    let mut now = String::new();
    events.read_to_string(&mut now)?;
    if now.lines().any(|line| line == "populated 1") {
        let events = sys::wakeable(events, Interest::PRIORITY)?;
        events.ready(Interest::PRIORITY).await?.retain_ready();
    }
    Ok(())
}

impl Common {
    /// A run is over. What may live on is no peer any more, and keeps no lock.
    fn part_from(&self, unit: &UnitId, run: RunId, how: TreeEnd) {
        match how {
            TreeEnd::Leave => {
                // Survivors hold the descriptor of the lock that the main process took. The main process is gone, so the next
                // run takes a new file.
                let path = self.unit_runtime(unit).join("lock");
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::error!(unit = %unit, run = %run, %error, path = %path.display(),
                            "cannot take the lock from what lives on; the next start will be refused");
                    }
                    Ok(()) | Err(_) => {}
                }
            }
            TreeEnd::Terminate(_) | TreeEnd::Kill => {}
        }
        self.forget(unit, run);
    }

    /// A run is over: it has no peers and no credentials any more.
    pub(super) fn forget(&self, unit: &UnitId, run: RunId) {
        let mut places = self.places();
        if let Some(place) = places.get_mut(unit)
            && place.current.as_ref().is_some_and(|current| current.run == run)
        {
            place.current = None;
        }
        drop(places);
        if let Err(error) = handover::remove_credentials(&self.unit_runtime(unit).join("credentials")) {
            tracing::warn!(unit = %unit, run = %run, %error, "cannot remove the unit's credentials");
        }
    }
}
