//! looper/api/jobs: one thing done with several units.
//!
//! Job: give the loop one job for each unit, all before the first is waited for, and tell of each how it goes. May touch: the
//! loop, the feed. Keeps: the jobs belong to loomd: whoever asked may hang up; a line is sent when something changed, and never
//! more often than every [`WAITING_PAUSE`].

use super::{Api, PERSON};
use crate::looper::{Ask, TOTAL_STOP_LIMIT};
use loom_api::control::Lines;
use loom_api::view::{JobNews, JobVerb, JobsRequest, KillWhom, Refusal, UnitView};
use loom_core::fleet::{JobOutcome, Status, Verb, Whom};
use loom_core::ids::UnitId;
use loom_core::lifecycle::ActiveState;
use loom_core::unit::ReadyKind;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Between two looks at what is waited for.
const WAITING_PAUSE: Duration = Duration::from_millis(500);
/// Units of which one look tells.
const WAITING_SHOWN: usize = 8;
/// Lines that wait to be read.
const LINES_QUEUE: usize = 64;
const SIGTERM: i32 = 15;
/// The largest number of a signal.
const SIGNAL_MAX: i32 = 64;

/// One unit's job that was given to the loop.
struct Given {
    asked: String,
    unit: UnitId,
    verb: Verb,
    before: Option<Status>,
    outcome: oneshot::Receiver<JobOutcome>,
}

/// A job that goes on.
struct Open {
    asked: String,
    before: Option<Status>,
    verb: Verb,
}

impl Api {
    /// Takes the request and answers at once; what comes of it comes in lines.
    pub(super) async fn do_jobs(&self, request: JobsRequest) -> Result<Lines<JobNews>, Refusal> {
        if request.signal.is_some_and(|signal| !(1..=SIGNAL_MAX).contains(&signal)) {
            return Err(Refusal::new(Refusal::USAGE, format!("there is no signal {}", request.signal.unwrap_or(0)))
                .try_this(format!("use 1 to {SIGNAL_MAX}")));
        }
        if request.all && !request.units.is_empty() {
            return Err(Refusal::new(Refusal::USAGE, "either all units or some, not both"));
        }
        let api = self.clone();
        // Who hangs up in the middle of this must not leave half of the units without their job.
        let given = tokio::spawn(async move {
            let (given, refused) = api.give(&request).await?;
            Ok((api, request, given, refused))
        });
        let given = given
            .await
            .map_err(|error| Refusal::new(Refusal::FAILED, "the jobs could not be taken").because(error.to_string()))?;
        let (api, request, given, refused) = given?;
        let (lines, receiver) = mpsc::channel(LINES_QUEUE);
        tokio::spawn(async move { api.follow(&request, given, refused, lines).await });
        Ok(Lines(receiver))
    }

    /// Gives each unit's job to the loop.
    async fn give(&self, request: &JobsRequest) -> Result<(Vec<Given>, Vec<JobNews>), Refusal> {
        let live = self.ask(|reply| Ask::Statuses { reply }).await?;
        let mut by_name: BTreeMap<UnitId, Status> = BTreeMap::new();
        let asked: Vec<String> = match request.all {
            true => live.iter().filter(|it| can_change(request.verb, it)).map(|it| it.unit.to_string()).collect(),
            false => request.units.clone(),
        };
        let (mut given, mut refused) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for asked in asked {
            let unit = match self.find_among(&asked, &live).await {
                Ok(unit) => unit,
                Err(refusal) => {
                    refused.push(JobNews::Refused { asked, unit: None, refusal });
                    continue;
                }
            };
            if !seen.insert(unit.clone()) {
                continue;
            }
            if by_name.is_empty() {
                by_name = live.iter().map(|status| (status.unit.clone(), status.clone())).collect();
            }
            let before = by_name.get(&unit).cloned();
            let verb = self.verb_for(request, &unit, before.as_ref()).await?;
            let outcome = self.give_one(&unit, verb).await?;
            given.push(Given { asked, unit, verb, before, outcome });
        }
        Ok((given, refused))
    }

    pub(super) async fn give_one(&self, unit: &UnitId, verb: Verb) -> Result<oneshot::Receiver<JobOutcome>, Refusal> {
        let (done, outcome) = oneshot::channel();
        let ask = Ask::Job { unit: unit.clone(), verb, by: PERSON.to_owned(), done };
        self.asks.send(ask).await.map_err(|_| stopping())?;
        Ok(outcome)
    }

    async fn verb_for(&self, request: &JobsRequest, unit: &UnitId, now: Option<&Status>) -> Result<Verb, Refusal> {
        Ok(match request.verb {
            JobVerb::Start => Verb::Start,
            JobVerb::Stop if request.force => Verb::StopNow,
            JobVerb::Stop => Verb::Stop,
            JobVerb::Restart => Verb::Restart,
            JobVerb::TryRestart => Verb::TryRestart,
            JobVerb::Reload => Verb::Reload,
            JobVerb::ReloadOrRestart => {
                let settings = self.ask(|reply| Ask::Unit { unit: unit.clone(), reply }).await?;
                let reloads = settings.is_some_and(|settings| {
                    settings.exec.is_some_and(|exec| exec.reload.is_some())
                        || settings.ready.kind == ReadyKind::NotifyReload
                });
                let is_up = now.is_some_and(|status| status.active_state == ActiveState::Active);
                if reloads && is_up { Verb::Reload } else { Verb::Restart }
            }
            JobVerb::VerifyActive => Verb::VerifyActive,
            JobVerb::Kill => Verb::Kill {
                signal: request.signal.unwrap_or(SIGTERM),
                whom: match request.whom {
                    KillWhom::Main => Whom::Main,
                    KillWhom::All => Whom::All,
                },
            },
            JobVerb::ResetFailed => Verb::ResetFailed,
            JobVerb::Freeze => Verb::Freeze,
            JobVerb::Thaw => Verb::Thaw,
        })
    }

    /// Tells how the jobs go until the last is over, or until nobody listens and nothing else is to be seen to.
    async fn follow(
        &self,
        request: &JobsRequest,
        given: Vec<Given>,
        refused: Vec<JobNews>,
        lines: mpsc::Sender<JobNews>,
    ) {
        for news in refused {
            let _ = lines.send(news).await;
        }
        let mut open: BTreeMap<UnitId, Open> = BTreeMap::new();
        let mut outcomes = JoinSet::new();
        for Given { asked, unit, verb, before, outcome } in given {
            if request.no_wait {
                let news = self.news(asked, &unit, before, Ok(())).await;
                let _ = lines.send(news).await;
                continue;
            }
            open.insert(unit.clone(), Open { asked, before, verb });
            outcomes.spawn(async move { (unit, outcome.await) });
        }
        let (_, mut changes) = self.hands.feed().listen(BTreeSet::new(), None);
        // `stop --all` ends, whatever a unit does.
        let mut force_at = (request.all && request.verb == JobVerb::Stop).then(|| Instant::now() + TOTAL_STOP_LIMIT);
        let mut look_at = Some(Instant::now() + WAITING_PAUSE);
        while !open.is_empty() {
            if lines.is_closed() && force_at.is_none() {
                return;
            }
            tokio::select! {
                Some(ended) = outcomes.join_next() => {
                    let Ok((unit, outcome)) = ended else { continue };
                    let Some(Open { asked, before, verb }) = open.remove(&unit) else { continue };
                    let outcome = outcome.map_err(|_| stopping()).and_then(|outcome| done(&unit, verb, outcome));
                    let news = self.news(asked, &unit, before, outcome).await;
                    let _ = lines.send(news).await;
                }
                Some(_) = changes.recv() => {
                    look_at.get_or_insert(Instant::now() + WAITING_PAUSE);
                }
                () = until(look_at) => {
                    look_at = None;
                    self.tell_waiting(&open, &lines).await;
                }
                () = until(force_at) => {
                    force_at = None;
                    tracing::error!(left = open.len(), limit = ?TOTAL_STOP_LIMIT, "stopping all took longer than TOTAL_STOP_LIMIT: killing the rest");
                    for unit in open.keys() {
                        let _ = self.give_one(unit, Verb::StopNow).await;
                    }
                }
                () = lines.closed(), if force_at.is_none() => return,
            }
        }
    }

    async fn news(
        &self,
        asked: String,
        unit: &UnitId,
        before: Option<Status>,
        outcome: Result<(), Refusal>,
    ) -> JobNews {
        let view = match outcome {
            Ok(()) => self.after(unit, before).await,
            Err(refusal) => Err(refusal),
        };
        match view {
            Ok(view) => JobNews::Done { asked, view: Box::new(view) },
            Err(refusal) => JobNews::Refused { asked, unit: Some(unit.clone()), refusal },
        }
    }

    async fn tell_waiting(&self, open: &BTreeMap<UnitId, Open>, lines: &mpsc::Sender<JobNews>) {
        let one = async |unit: &UnitId| -> Option<Box<UnitView>> {
            let status = self.ask(|reply| Ask::Status { unit: unit.clone(), reply }).await.ok()??;
            Some(Box::new(self.view_of(status)))
        };
        for unit in open.keys().take(WAITING_SHOWN) {
            let Some(view) = one(unit).await else { continue };
            let on = match &view.waits_for {
                Some(on) => one(on).await,
                None => None,
            };
            // A line that does not fit is made up for by the next change.
            let _ = lines.try_send(JobNews::Waiting { view, on });
        }
    }
}

/// Whether `--all` means this unit.
fn can_change(verb: JobVerb, status: &Status) -> bool {
    match verb {
        JobVerb::Start => false,
        JobVerb::ResetFailed => status.active_state == ActiveState::Failed || status.sub_state == "auto-restart",
        JobVerb::Stop
        | JobVerb::Restart
        | JobVerb::TryRestart
        | JobVerb::Reload
        | JobVerb::ReloadOrRestart
        | JobVerb::VerifyActive
        | JobVerb::Kill
        | JobVerb::Freeze
        | JobVerb::Thaw => match status.active_state {
            ActiveState::Activating | ActiveState::Active | ActiveState::Reloading | ActiveState::Deactivating => true,
            ActiveState::Inactive | ActiveState::Failed => false,
        },
    }
}

pub(super) fn stopping() -> Refusal {
    Refusal::new(Refusal::STOPPING, "loomd is on its way down")
}

/// What a person is told of a job that is over.
pub(super) fn done(unit: &UnitId, verb: Verb, outcome: JobOutcome) -> Result<(), Refusal> {
    match outcome {
        JobOutcome::Done => Ok(()),
        JobOutcome::Failed { error, cause, hint } => {
            let mut refusal = Refusal::new(Refusal::FAILED, error);
            (refusal.cause, refusal.hint) = (cause, hint);
            Err(refusal)
        }
        JobOutcome::Replaced => {
            Err(Refusal::new(Refusal::FAILED, format!("the {} of `{unit}` was given up", word(verb)))
                .because("another job took its place"))
        }
        JobOutcome::NoSuchUnit => Err(Refusal::new(Refusal::NO_SUCH_UNIT, format!("there is no unit `{unit}`"))
            .try_this("after adding a file: `loomctl daemon-reload`")),
    }
}

fn word(verb: Verb) -> &'static str {
    match verb {
        Verb::Start => "start",
        Verb::Stop | Verb::StopNow => "stop",
        Verb::Restart => "restart",
        Verb::Reload => "reload",
        Verb::TryRestart => "try-restart",
        Verb::VerifyActive => "verify-active",
        Verb::Kill { .. } => "kill",
        Verb::ResetFailed => "reset-failed",
        Verb::Freeze => "freeze",
        Verb::Thaw => "thaw",
    }
}

/// Comes at that moment; never, where there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
