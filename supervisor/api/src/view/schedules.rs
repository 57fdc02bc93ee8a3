//! view/schedules: schedules and their firings.
//!
//! Job: the types of requests and answers. May touch: loom-core's words. Keeps: as `view`: fields are added, never renamed.

use loom_core::ids::{RunId, UnitId};
use loom_core::schedule::{Cause, Firing, FiringState};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// All schedules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleList {
    /// [`super::VERSION`]
    pub version: u32,
    /// By name.
    pub schedules: Vec<ScheduleView>,
}

/// One schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleView {
    /// Its name.
    pub schedule: UnitId,
    /// What it starts.
    pub unit: Option<UnitId>,
    /// `waiting`, `running`, `catch-up` (a catch-up waits for its delay or a free place), `elapsed` (nothing more comes),
    /// `inactive`, `failed`.
    pub state: String,
    /// What it elapses by: `cron 0 9 * * MON-FRI, timezone Europe/Berlin`.
    pub rhythm: String,
    /// When it starts its unit next, its delay included: milliseconds since the epoch.
    pub next: Option<u64>,
    /// Milliseconds until then.
    pub left_ms: Option<u64>,
    /// Its newest firing.
    pub last: Option<FiringView>,
    /// Firings whose run goes on.
    pub open: usize,
    /// How many firings there were.
    pub fired: u64,
    /// How many slots passed while nobody looked.
    pub missed: u64,
    /// How many slots were skipped because a run went on.
    pub skipped: u64,
    /// Why it failed, if it did.
    pub because: Option<String>,
}

/// The firings of one schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FiringList {
    /// [`super::VERSION`]
    pub version: u32,
    /// Whose.
    pub schedule: ScheduleView,
    /// Oldest first: those whose run goes on, and the last ten that ended.
    pub firings: Vec<FiringView>,
}

/// What became of a slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FiringView {
    /// `report.schedule/1774746000000`; its unit's `triggered_by` says the same.
    pub firing: String,
    /// The slot, or the moment of an interval: milliseconds since the epoch.
    pub slot: u64,
    /// 0, or which repetition of an interrupted firing this is.
    pub attempt: u32,
    /// What was started.
    pub unit: UnitId,
    /// Its run; none if nothing ran, or if it was handed to a unit that was up.
    pub run: Option<RunId>,
    /// When it was recorded: milliseconds since the epoch.
    pub at: u64,
    /// When it ended.
    pub ended: Option<u64>,
    /// How many slots it makes up for; 0 for a slot on time.
    pub missed: u64,
    /// What caused it.
    pub cause: Cause,
    /// `started`, `finished`, `failed`, `interrupted`.
    pub state: String,
    /// Why it failed or was interrupted.
    pub because: Option<String>,
}

impl FiringView {
    /// A firing as it is shown.
    pub fn of(schedule: &UnitId, firing: &Firing) -> Self {
        let (state, because) = match &firing.state {
            FiringState::Started => ("started", None),
            FiringState::Finished => ("finished", None),
            FiringState::Failed(because) => ("failed", Some(because.clone())),
            FiringState::Interrupted(because) => ("interrupted", Some(because.clone())),
        };
        Self {
            firing: firing.id(schedule).to_string(),
            slot: firing.slot,
            attempt: firing.attempt,
            unit: firing.unit.clone(),
            run: firing.run,
            at: firing.at,
            ended: firing.ended,
            missed: firing.missed,
            cause: firing.cause,
            state: state.to_owned(),
            because,
        }
    }
}

/// What came of firing a schedule by hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Fired {
    /// [`super::VERSION`]
    pub version: u32,
    /// Whose.
    pub schedule: UnitId,
    /// What was said: that it fired, or that it waits for the end of a run.
    pub said: String,
    /// The firing; none if it waits.
    pub firing: Option<FiringView>,
}
