//! process/worker: starts `loom-worker` with the rights of an agent.
//!
//! Job: the worker's plan, its socket pair, its end. May touch: what the process room may.
//! Keeps: a worker never has more than the unit that asks; it ends when its stream closes; it is reaped.

use super::placing::Placement;
use super::watcher::{self, Word};
use super::{Common, environment, lock, sys, text};
use loom_core::ids::UnitId;
use loom_core::lifecycle::launch_words;
use loom_core::sandbox::{self, Surroundings};
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// The profile of every worker.
const WORKER_PROFILE: &str = "worker";

/// Starts workers; may be used from any task.
#[derive(Clone)]
pub struct WorkerDoor {
    pub(super) common: Arc<Common>,
}

/// A worker that runs.
#[derive(Debug)]
pub struct WorkerProcess {
    /// Requests and answers; closing it ends the worker.
    pub stream: tokio::net::UnixStream,
    /// Its process.
    pub pid: i32,
}

impl WorkerDoor {
    /// Kills a worker that is not needed any more, in case it hangs in a call.
    pub fn kill(&self, pid: i32) {
        if let Some(pidfd) = lock(&self.common.workers).get(&pid)
            && let Err(error) = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL)
        {
            tracing::warn!(pid, %error, "cannot end a tool worker");
        }
    }

    /// Starts a worker with the rights of the unit's live run.
    pub async fn spawn(&self, unit: &UnitId) -> Result<WorkerProcess, String> {
        let started_as = self.common.places().get(unit).and_then(|place| place.started_as.clone());
        let (unit, facts) = started_as.ok_or_else(|| format!("{unit} has not been started"))?;
        let program = self.common.settings.libexec.join("loom-worker");
        let user = environment::user(&unit)?;
        let (name, value) = self.common.mark(&unit.id);
        let env = [(name.to_owned(), value)].into();
        let around =
            Surroundings { program: text(&program), env, user, ..self.common.around(&unit.id, WORKER_PROFILE) };
        let plan = sandbox::worker_plan(&unit, &facts, &self.common.settings.machine, &around)
            .map_err(|refusal| refusal.to_string())?;
        let log = (self.common.settings.open_log)(&unit.id, facts.run)
            .map_err(|error| format!("cannot open the log of {}: {error}", unit.id))?;
        let (ours, theirs) = UnixStream::pair().map_err(|error| format!("cannot make a socket pair: {error}"))?;
        ours.set_nonblocking(true).map_err(|error| format!("cannot set up a socket pair: {error}"))?;
        let stream =
            tokio::net::UnixStream::from_std(ours).map_err(|error| format!("cannot watch a socket: {error}"))?;
        let started = self.common.launch(&plan, &mut Placement::default(), &log, Some(&OwnedFd::from(theirs)), None)?;
        let (pid, pidfd) = (started.pid, Arc::new(started.pidfd));
        let kept = Arc::clone(&pidfd);
        // Before anything is waited for: who calls may give up at any moment, and a child that nobody reaps would hide all
        // others from the reaper. A worker whose launcher has lost its gate, or whose stream is closed, ends by itself.
        let common = Arc::clone(&self.common);
        tokio::spawn(async move {
            watcher::child(pid, &pidfd, &common.children).await;
            lock(&common.workers).remove(&pid);
        });
        lock(&self.common.workers).insert(pid, kept);
        if let Some(gate) = started.gate {
            // A worker is nothing that a new loomd adopts: its stream ends with ours. So nothing is stored first.
            let _ = fs::File::from(gate).write_all(b"g");
        }
        let word = match started.report {
            Some(report) => watcher::report(report).await,
            None => Word::Silent,
        };
        match word {
            Word::Silent => Ok(WorkerProcess { stream, pid }),
            Word::Failed(failure) => {
                Err(format!("the worker of {} did not start: {}", unit.id, launch_words(&failure)))
            }
        }
    }
}
