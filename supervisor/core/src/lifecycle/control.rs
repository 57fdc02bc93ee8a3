//! control: the processes that help a main process.
//!
//! Job: their names, commands and ends. May touch: `unit`. Keeps: at most one of each lives at a time.

use super::{Exit, LaunchFailure};
use crate::unit::{Check, Probe, Unit};
use serde::{Deserialize, Serialize};

/// A process that helps a unit's main process; at most one of each lives at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Control {
    /// The n-th of `exec.start_pre`, from 0.
    StartPre(u16),
    /// `exec.reload`
    Reload,
    /// `stop.command`
    Stop,
    /// The n-th of `stop.post`, from 0.
    StopPost(u16),
    /// `[health.startup]`
    Startup,
    /// `[health.readiness]`
    Readiness,
    /// `[health.liveness]`
    Liveness,
}

impl Control {
    /// The key in the unit file that asks for it.
    pub fn word(self) -> &'static str {
        match self {
            Control::StartPre(_) => "start_pre",
            Control::Reload => "reload",
            Control::Stop => "stop.command",
            Control::StopPost(_) => "stop.post",
            Control::Startup => "health.startup",
            Control::Readiness => "health.readiness",
            Control::Liveness => "health.liveness",
        }
    }

    /// Its program and arguments, as the unit file gives them. Probes other than `exec` have none there.
    pub fn command(self, unit: &Unit) -> Option<&[String]> {
        let exec = unit.exec.as_ref();
        match self {
            Control::StartPre(at) => exec?.start_pre.get(usize::from(at)).map(Vec::as_slice),
            Control::Reload => exec?.reload.as_deref(),
            Control::Stop => unit.stop.command.as_deref(),
            Control::StopPost(at) => unit.stop.post.get(usize::from(at)).map(Vec::as_slice),
            Control::Startup | Control::Readiness | Control::Liveness => match &self.probe(unit)?.check {
                Check::Exec(command) => Some(command),
                Check::Http { .. } | Check::Tcp { .. } | Check::Unix(_) => None,
            },
        }
    }

    /// The probe it carries out, if it is one.
    pub fn probe(self, unit: &Unit) -> Option<&Probe> {
        match self {
            Control::Startup => unit.health.startup.as_ref(),
            Control::Readiness => unit.health.readiness.as_ref(),
            Control::Liveness => unit.health.liveness.as_ref(),
            Control::StartPre(_) | Control::Reload | Control::Stop | Control::StopPost(_) => None,
        }
    }
}

/// How a [`Control`] ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Controlled {
    Exited(Exit),
    /// It never ran.
    Failed(LaunchFailure),
}

/// What is done with what is left of a run's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeEnd {
    /// Each process gets this signal and SIGCONT; nothing is killed.
    Terminate(i32),
    /// SIGKILL, again and again until nothing is left.
    Kill,
    /// It lives on.
    Leave,
}
