//! process/watcher: waits for what becomes of one process.
//!
//! Job: the launcher's report, then the exit, each told once and in this order.
//! May touch: the report pipe, pidfds. Keeps: an exit belongs to a run; `LaunchFailed` or `Executed` comes first;
//! nothing is told of a process that is not reaped yet.

use super::children::Children;
use super::identity;
use super::sys::{self, Ended, Whom};
use crate::fault;
use loom_core::launch_plan::{REPORT_MAX_BYTES, Report};
use loom_core::lifecycle::{Exit, LaunchFailure};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, Interest, Ready};
use tokio::net::unix::pipe;

/// How long an ended process that is not our child may stay unreaped before its exit status counts as unknown.
const FOREIGN_REAP_LIMIT: Duration = Duration::from_secs(2);

/// What the launcher's pipe said.
pub enum Word {
    /// End of file without a word: exec succeeded, or the launcher was killed.
    Silent,
    /// A stage failed.
    Failed(LaunchFailure),
}

/// Reads the launcher's report to its end.
pub async fn report(pipe: pipe::Receiver) -> Word {
    let mut text = Vec::new();
    let limit = REPORT_MAX_BYTES as u64 + 1;
    if let Err(error) = pipe.take(limit).read_to_end(&mut text).await {
        return Word::Failed(LaunchFailure::Resources(format!("cannot read the report of loom-launch: {error}")));
    }
    if text.is_empty() {
        return Word::Silent;
    }
    match serde_json::from_slice::<Report>(&text) {
        Ok(report) => Word::Failed(LaunchFailure::Stage(report)),
        Err(error) => {
            Word::Failed(LaunchFailure::Resources(format!("loom-launch failed and its report is unreadable: {error}")))
        }
    }
}

/// Waits until a process has ended, and leaves it as it is.
pub async fn over(pidfd: &Arc<OwnedFd>) -> io::Result<()> {
    if sys::has_ended(pidfd.as_fd()) {
        return Ok(());
    }
    let pidfd = sys::wakeable_shared(Arc::clone(pidfd), Interest::READABLE)?;
    pidfd.readable().await?.retain_ready();
    Ok(())
}

/// Waits for a child's end and reaps it.
pub async fn child(pid: i32, pidfd: &Arc<OwnedFd>, children: &Children) -> Exit {
    let exit = match over(pidfd).await.and_then(|()| sys::wait(Whom::Pidfd(pidfd.as_fd()), false)) {
        Ok(Some(ended)) => exit_of(ended),
        Ok(None) | Err(_) => Exit::Unknown,
    };
    children.taken(pid);
    fault::point("exit.seen");
    exit
}

/// Waits for the end of a process that may be our child or somebody else's; it counts as watched.
pub async fn any(pid: i32, pidfd: &Arc<OwnedFd>, children: &Children) -> Exit {
    let reaped = over(pidfd).await.and_then(|()| sys::wait(Whom::Pidfd(pidfd.as_fd()), false));
    let exit = match reaped {
        Ok(Some(ended)) => exit_of(ended),
        // Its own parent reaps it.
        Ok(None) | Err(_) => adopted(pid, pidfd).await,
    };
    children.taken(pid);
    exit
}

/// Waits for the end of a process that an earlier loomd started.
pub async fn adopted(pid: i32, pidfd: &Arc<OwnedFd>) -> Exit {
    let Ok(ready) = sys::wakeable_shared(Arc::clone(pidfd), Interest::READABLE) else { return Exit::Unknown };
    match ready.readable().await {
        Ok(mut guard) => guard.retain_ready(),
        Err(_) => return Exit::Unknown,
    }
    if let Some(status) = sys::pidfd_exit_status(pidfd.as_fd()) {
        return exit_of_status(status);
    }
    // Not reaped yet, and whoever does that now may be slow: a zombie shows its status to its own user and to root.
    // That it is still there afterwards proves that the status is not of a successor with the same pid.
    if let Some(status) = identity::zombie_status(pid)
        && sys::pidfd_send_signal(pidfd.as_fd(), 0).is_ok_and(|there| there)
    {
        return exit_of_status(status);
    }
    // The kernel tells once it is reaped, which closes the descriptor's read side.
    let reaped = async {
        while let Ok(mut guard) = ready.ready(Interest::READABLE).await {
            if guard.ready().is_read_closed() {
                return;
            }
            guard.clear_ready_matching(Ready::READABLE);
        }
    };
    // At the limit nobody can tell any more.
    let _ = tokio::time::timeout(FOREIGN_REAP_LIMIT, reaped).await;
    sys::pidfd_exit_status(pidfd.as_fd()).map_or(Exit::Unknown, exit_of_status)
}

fn exit_of(ended: Ended) -> Exit {
    if ended.exited {
        Exit::Code(u8::try_from(ended.status & 0xff).expect("masked to eight bits"))
    } else {
        Exit::Signal { signal: ended.status, core: ended.core }
    }
}

/// A wait status as the kernel packs it.
fn exit_of_status(status: i32) -> Exit {
    let signal = status & 0x7f;
    if signal == 0 {
        Exit::Code(u8::try_from((status >> 8) & 0xff).expect("masked to eight bits"))
    } else {
        Exit::Signal { signal, core: status & 0x80 != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_is_read_as_the_kernel_packs_it() {
        assert_eq!(exit_of_status(0), Exit::Code(0));
        assert_eq!(exit_of_status(78 << 8), Exit::Code(78));
        assert_eq!(exit_of_status(9), Exit::Signal { signal: 9, core: false });
        assert_eq!(exit_of_status(6 | 0x80), Exit::Signal { signal: 6, core: true });
    }
}
