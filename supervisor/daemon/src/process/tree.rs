//! process/tree: everything that a run started, and its end.
//!
//! Job: say who belongs to a run; kill what is left of it, again and again until nothing is.
//! May touch: cgroup v2 files, `/proc`, pidfds. Keeps: signals go by pidfd to proven members only; no fixed number of passes.
//!
//! With a cgroup the kernel knows the tree. Without one it is: the main process's session, its descendants, and orphans
//! that loomd inherited and whose environment names the run. A process that leaves its session *and* clears its
//! environment *and* outlives its parent is not found then; `status` shows such a machine as one without cgroup.

use super::children::{self, Children};
use super::{identity, sys};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use tokio::io::Interest;

/// Where a process comes from, read once.
#[derive(Debug, Default)]
pub struct Lineage {
    /// Itself and its ancestors.
    pids: Vec<i32>,
    /// Their sessions.
    sessions: Vec<i32>,
    /// Its cgroup v2 path.
    cgroup: Option<String>,
    /// `LOOM_…=` entries of its environment.
    marks: Vec<String>,
    /// An ancestor is this very loomd.
    is_ours: bool,
}

impl Lineage {
    /// Reads it. Empty where the process is gone.
    pub fn of(pid: i32) -> Self {
        let mut lineage = Self::default();
        let me = std::process::id() as i32;
        let mut next = pid;
        // Above loomd nobody belongs to a unit; what loomd inherited shows by session, cgroup or environment.
        while next > 1
            && next != me
            && !lineage.pids.contains(&next)
            && let Some(stat) = identity::stat(next)
        {
            lineage.pids.push(next);
            lineage.sessions.push(stat.session);
            next = stat.parent;
        }
        lineage.is_ours = next == me && !lineage.pids.is_empty();
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        lineage.cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned);
        lineage.marks = marks_of(pid);
        lineage
    }

    /// Whether nothing shows that it comes from elsewhere: it is gone, or it descends from loomd, all of whose children are
    /// of units.
    pub fn is_suspect(&self) -> bool {
        self.is_ours || self.pids.is_empty()
    }
}

/// `LOOM_…=` entries of a process's environment.
fn marks_of(pid: i32) -> Vec<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let entries = environment.split(|byte| *byte == 0).filter(|entry| entry.starts_with(b"LOOM_"));
    entries.map(|entry| String::from_utf8_lossy(entry).into_owned()).collect()
}

fn last_two(path: &Path) -> Option<(&std::ffi::OsStr, &std::ffi::OsStr)> {
    Some((path.parent()?.file_name()?, path.file_name()?))
}

/// How a run's processes are found.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The main process, which leads its session. `None` where it is gone and its pid may be another's: then only the
    /// cgroup and the environment say who belongs to the run.
    pub main: Option<i32>,
    /// Its cgroup v2 directory.
    pub cgroup: Option<PathBuf>,
    /// `LOOM_UNIT=…` and `LOOM_RUN=…` as they stand in its environment.
    pub marks: [String; 2],
    /// The main process is not our child: its orphans went to somebody else.
    pub adopted: bool,
}

impl Tree {
    /// Every process of the run that can be found, main first.
    pub fn members(&self) -> Vec<i32> {
        let mut members = match &self.cgroup {
            Some(directory) => cgroup_members(directory),
            None => self.walk(&everyone()),
        };
        members.sort_by_key(|pid| (Some(*pid) != self.main, *pid));
        members
    }

    /// Whether a process with this lineage belongs to the run.
    pub fn holds(&self, lineage: &Lineage) -> bool {
        if self.main.is_some_and(|main| lineage.pids.contains(&main) || lineage.sessions.contains(&main)) {
            return true;
        }
        match (&self.cgroup, &lineage.cgroup) {
            // `<loom-hash>/<unit>`: the hash is of the runtime directory, so nobody else's ends alike.
            (Some(own), Some(theirs)) => last_two(own).is_some_and(|own| last_two(Path::new(theirs)) == Some(own)),
            (Some(_), None) => false,
            (None, _) => self.marks.iter().all(|mark| lineage.marks.contains(mark)),
        }
    }

    /// Whether nothing is left, once the main process is reaped.
    pub fn is_empty(&self, children: &Children) -> bool {
        match &self.cgroup {
            // What cannot be read is looked at again, with an error to tell, by [`Tree::end`].
            Some(directory) => is_populated(directory).is_ok_and(|populated| !populated),
            None => self.strays(children).is_empty(),
        }
    }

    /// Kills everything that is left and returns when nothing is. The main process may already be gone.
    ///
    /// Ends by itself only when the tree is empty: a process in uninterruptible sleep keeps its unit `deactivating`.
    pub async fn end(&self, children: &Children) -> io::Result<()> {
        match &self.cgroup {
            Some(directory) => self.end_cgroup(directory).await,
            None => self.end_walk(children).await,
        }
    }

    async fn end_cgroup(&self, directory: &Path) -> io::Result<()> {
        let events = match File::open(directory.join("cgroup.events")) {
            Ok(file) => file,
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(other) => return Err(other),
        };
        if !is_populated(directory)? {
            return Ok(());
        }
        // The kernel says POLLPRI when `populated` changes.
        let events = sys::wakeable(events, Interest::PRIORITY)?;
        fs::write(directory.join("cgroup.kill"), "1")?;
        while is_populated(directory)? {
            let mut ready = events.ready(Interest::PRIORITY).await?;
            ready.clear_ready();
        }
        Ok(())
    }

    async fn end_walk(&self, children: &Children) -> io::Result<()> {
        loop {
            let left = self.strays(children);
            if left.is_empty() {
                return Ok(());
            }
            let mut ended = Vec::new();
            for (pid, ticks) in left {
                // Opened first and compared then, so that a successor of this pid is not hit.
                let Ok(pidfd) = sys::pidfd_open(pid) else { continue };
                if identity::stat(pid).is_some_and(|stat| stat.start_ticks == ticks) {
                    sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL)?;
                    ended.push(pidfd);
                }
            }
            for pidfd in ended {
                wait_for_end(pidfd).await?;
            }
            children.reap_orphans();
        }
    }

    /// Living members with their start times. Zombies do not count: they run nothing, and their parent reaps them.
    fn strays(&self, children: &Children) -> Vec<(i32, u64)> {
        let alive = |pid: i32| identity::stat(pid).filter(|stat| stat.state != 'Z').map(|stat| (pid, stat.start_ticks));
        if !self.adopted && self.main.is_none_or(|main| alive(main).is_none()) {
            // Its orphans are our children now, and there are few of those that nobody watches.
            let orphans: Vec<i32> =
                children::own_children().into_iter().filter(|pid| !children.is_watched(*pid)).collect();
            let mut members = BTreeSet::new();
            for orphan in orphans {
                if identity::stat(orphan).is_some_and(|stat| Some(stat.session) == self.main) || self.is_marked(orphan)
                {
                    descend(orphan, &mut members);
                }
            }
            return members.into_iter().filter_map(alive).collect();
        }
        self.walk(&everyone()).into_iter().filter_map(alive).collect()
    }

    /// Members among `all` as (pid, parent, session).
    fn walk(&self, all: &[(i32, i32, i32)]) -> Vec<i32> {
        let mut members: BTreeSet<i32> = all
            .iter()
            .filter(|(pid, _, session)| Some(*pid) == self.main || Some(*session) == self.main || self.is_marked(*pid))
            .map(|(pid, ..)| *pid)
            .collect();
        loop {
            let before = members.len();
            for (pid, parent, _) in all {
                if members.contains(parent) {
                    members.insert(*pid);
                }
            }
            if members.len() == before {
                return members.into_iter().collect();
            }
        }
    }

    fn is_marked(&self, pid: i32) -> bool {
        let found = marks_of(pid);
        self.marks.iter().all(|mark| found.contains(mark))
    }
}

fn descend(pid: i32, into: &mut BTreeSet<i32>) {
    let mut open = vec![pid];
    while let Some(next) = open.pop() {
        if into.insert(next) {
            open.extend(children::children_of(next));
        }
    }
}

/// (pid, parent, session) of every process but us.
pub fn everyone() -> Vec<(i32, i32, i32)> {
    let me = std::process::id() as i32;
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != me)
        .filter_map(|pid| identity::stat(pid).map(|stat| (pid, stat.parent, stat.session)))
        .collect()
}

/// Waits until the process behind a pidfd has ended.
pub async fn wait_for_end(pidfd: OwnedFd) -> io::Result<()> {
    let pidfd = sys::wakeable(pidfd, Interest::READABLE)?;
    pidfd.readable().await?.retain_ready();
    Ok(())
}

fn is_populated(directory: &Path) -> io::Result<bool> {
    match fs::read_to_string(directory.join("cgroup.events")) {
        Ok(text) => Ok(text.lines().any(|line| line == "populated 1")),
        Err(gone) if gone.kind() == io::ErrorKind::NotFound || gone.raw_os_error() == Some(libc::ENODEV) => Ok(false),
        Err(other) => Err(other),
    }
}

fn cgroup_members(directory: &Path) -> Vec<i32> {
    let Ok(text) = fs::read_to_string(directory.join("cgroup.procs")) else { return Vec::new() };
    text.lines().filter_map(|line| line.parse().ok()).collect()
}
