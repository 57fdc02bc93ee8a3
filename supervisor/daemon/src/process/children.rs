//! process/children: which children of loomd have a watcher, and reaping of those that have none.
//!
//! Job: loomd is a subreaper, so orphans of units become its children; they are reaped, watched children never are.
//! May touch: waitid. Keeps: an exit status that a watcher wants is taken by nobody else; no zombie stays.

use super::sys::{self, Whom};
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The pids of children whose exit a watcher takes.
#[derive(Debug, Clone, Default)]
pub struct Children {
    watched: Arc<Mutex<BTreeSet<i32>>>,
}

impl Children {
    /// Makes a child and registers it in one step, so that no reaper comes between.
    pub fn make<T>(&self, spawn: impl FnOnce() -> io::Result<(i32, T)>) -> io::Result<(i32, T)> {
        let mut watched = self.lock();
        let made = spawn()?;
        watched.insert(made.0);
        Ok(made)
    }

    /// Registers a process that may become our child, as its orphaned parent's does.
    pub fn watch(&self, pid: i32) {
        self.lock().insert(pid);
    }

    /// Registers a process that may be our child from before; says whether it is.
    pub fn claim(&self, pid: i32) -> bool {
        let mut watched = self.lock();
        let ours = super::identity::stat(pid).is_some_and(|stat| stat.parent == std::process::id() as i32);
        if ours {
            watched.insert(pid);
        }
        ours
    }

    /// The watcher has taken the exit status; reaps what may have waited behind it.
    pub fn taken(&self, pid: i32) {
        self.lock().remove(&pid);
        self.reap_orphans();
    }

    /// Whether a watcher waits for this child.
    pub fn is_watched(&self, pid: i32) -> bool {
        self.lock().contains(&pid)
    }

    /// Reaps ended children that nobody watches. Call on SIGCHLD and after a watcher took its status:
    /// the kernel shows only one ended child at a time, and a watched one hides those behind it.
    pub fn reap_orphans(&self) {
        let watched = self.lock();
        while let Ok(Some(ended)) = sys::wait(Whom::Any, true)
            && !watched.contains(&ended.pid)
            // Without progress the same child would be shown again and again.
            && sys::wait(Whom::Pid(ended.pid), false).is_ok()
        {}
    }

    /// Makes orphans of our units' processes our children.
    pub fn become_subreaper() -> io::Result<()> {
        nix::sys::prctl::set_child_subreaper(true).map_err(io::Error::from)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        // The set is consistent between any two statements, so a panic elsewhere does not spoil it.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Children of this process, by the kernel's own list.
pub fn own_children() -> Vec<i32> {
    children_of(std::process::id() as i32)
}

/// Children of a process, over all its threads. Empty where it is gone.
pub fn children_of(pid: i32) -> Vec<i32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut children = Vec::new();
    for task in tasks.flatten() {
        match std::fs::read_to_string(task.path().join("children")) {
            Ok(text) => children.extend(text.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok())),
            // A kernel without CONFIG_PROC_CHILDREN: ask everybody for the parent.
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound && task.path().exists() => {
                let all = super::tree::everyone();
                return all.into_iter().filter(|(_, parent, _)| *parent == pid).map(|(child, ..)| child).collect();
            }
            // The thread ended while we looked.
            Err(_) => {}
        }
    }
    children
}
