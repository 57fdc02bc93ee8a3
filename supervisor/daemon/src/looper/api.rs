//! looper/api: the control API, answered.
//!
//! Job: implement [`Control`] from the loop's answers, the library of unit files, the store and the bus.
//! May touch: those, through their public faces. Keeps: a job belongs to loomd, not to who asked: hanging up changes nothing;
//! every refusal says what failed, why, and the next step.

mod events;
mod jobs;
mod schedules;
mod transient;
mod usage;

use super::hands::Hands;
use super::library::Library;
use super::{Ask, clock};
use crate::process::Peers;
use crate::reexec;
use crate::store::SCHEMA_VERSION;
use loom_api::control::{Answering, Control, Lines, resolve_unit};
use loom_api::dirs::Dirs;
use loom_api::view::{
    AuditAsked, AuditView, BudgetView, BusAnswer, BusPublish, BusRequest, CrashesAsked, CrashesView, DeathView,
    EventsAsked, Fired, FiringList, GraphView, JobNews, JobRequest, JobsRequest, LifeEvent, Nothing, Overview, Pong,
    ProcessView, Published, Refusal, ReloadReport, ReloadRequest, ScheduleList, StateAsked, StateEntry, StateKeys,
    StatePut, SupervisorView, TransientRequest, UnitAsked, UnitChange, UnitFileText, UnitFiles, UnitSettings, UnitView,
    UsageView, VERSION,
};
use loom_core::fleet::{Status, Verb};
use loom_core::ids::{Kind, UnitId};
use loom_core::lifecycle::{ActiveState, Death, Tally, span};
use loom_core::machine::Machine;
use loom_core::unit::problem::Severity;
use loom_core::unit::{Catalogue, Standing, Unit, changed_keys, needs_restart};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;
use tokio::sync::{Mutex, mpsc, oneshot};

/// Who is named as cause of what comes over the control socket.
const PERSON: &str = "person";

/// The last deaths that `status UNIT` shows.
const DEATHS_SHOWN: usize = 5;

/// Implements [`Control`]. A clone is the same one.
#[derive(Clone)]
pub struct Api {
    pub asks: mpsc::Sender<Ask>,
    pub library: Arc<Library>,
    pub peers: Peers,
    pub hands: Hands,
    pub dirs: Dirs,
    pub machine: Machine,
    /// `journald` or `files`.
    pub logs: &'static str,
    /// Since when loomd runs, wall clock.
    pub since: u64,
    /// Why a newer loomd gave way to this one again, if it did.
    pub came_back: Option<String>,
    /// One reading of unit files at a time.
    pub reading: Arc<Mutex<()>>,
}

impl Api {
    /// Asks the loop.
    pub async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        let stopping = || Refusal::new(Refusal::STOPPING, "loomd is on its way down");
        self.asks.send(make(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// The unit meant, loaded if it is an instance that nobody asked for yet.
    async fn find(&self, asked: &str) -> Result<UnitId, Refusal> {
        let live = self.ask(|reply| Ask::Statuses { reply }).await?;
        self.find_among(asked, &live).await
    }

    async fn find_among(&self, asked: &str, live: &[Status]) -> Result<UnitId, Refusal> {
        let catalogue = self.library.in_force();
        let known: BTreeSet<&UnitId> = catalogue
            .units
            .keys()
            .chain(catalogue.refused.keys())
            .chain(&catalogue.templates)
            .chain(&catalogue.masked)
            .chain(live.iter().map(|status| &status.unit))
            .collect();
        let unit = resolve_unit(asked, known)?;
        if unit.is_template() {
            return Err(Refusal::new(Refusal::USAGE, format!("`{unit}` is a template")).try_this(format!(
                "name an instance, such as `{}@one.{}`",
                unit.name(),
                unit.kind()
            )));
        }
        if live.iter().any(|status| status.unit == unit) {
            return Ok(unit);
        }
        if let Some(problems) = catalogue.refused.get(&unit) {
            let mut refusal = Refusal::new(Refusal::BAD_FILE, format!("`{unit}` is not loaded: its file has errors"))
                .try_this("correct them, then `loomctl daemon-reload`");
            refusal.problems = problems.clone();
            return Err(refusal);
        }
        if catalogue.masked.contains(&unit) {
            return Err(Refusal::new(Refusal::FAILED, format!("`{unit}` is masked"))
                .because("its file is a link to /dev/null")
                .try_this("remove the link, then `loomctl daemon-reload`"));
        }
        match unit.template() {
            Some(_) => self.load_instance(unit).await,
            None => Ok(unit),
        }
    }

    async fn load_instance(&self, unit: UnitId) -> Result<UnitId, Refusal> {
        let _one_at_a_time = self.reading.lock().await;
        let (library, id) = (Arc::clone(&self.library), unit.clone());
        let loaded = tokio::task::spawn_blocking(move || library.instance(&id)).await;
        let loaded = loaded.map_err(|error| Refusal::new(Refusal::FAILED, format!("cannot read `{unit}`: {error}")))?;
        match (loaded.standing, loaded.unit) {
            (Standing::Unit, Some(read)) => {
                self.ask(|reply| Ask::Load { unit: Box::new(read), reply }).await?;
                Ok(unit)
            }
            (Standing::Unit, None) => {
                let mut refusal = Refusal::new(Refusal::BAD_FILE, format!("`{unit}` cannot be made from its template"));
                refusal.problems = loaded.problems;
                Err(refusal)
            }
            (Standing::Absent | Standing::Masked | Standing::Template, _) => {
                Err(Refusal::new(Refusal::NO_SUCH_UNIT, format!("there is no template for `{unit}`")))
            }
        }
    }

    async fn job(&self, request: JobRequest, verb: Verb) -> Result<UnitView, Refusal> {
        let unit = self.find(&request.unit).await?;
        let before = self.ask(|reply| Ask::Status { unit: unit.clone(), reply }).await?;
        let (done, outcome) = oneshot::channel();
        let ask = Ask::Job { unit: unit.clone(), verb, by: PERSON.to_owned(), done };
        let stopping = || Refusal::new(Refusal::STOPPING, "loomd is on its way down");
        self.asks.send(ask).await.map_err(|_| stopping())?;
        if !request.no_block {
            jobs::done(&unit, verb, outcome.await.map_err(|_| stopping())?)?;
        }
        self.after(&unit, before).await
    }

    /// A unit as it is now; as it was, and down, where its last trace went with its process because its file was gone.
    async fn after(&self, unit: &UnitId, before: Option<Status>) -> Result<UnitView, Refusal> {
        match (self.ask(|reply| Ask::Status { unit: unit.clone(), reply }).await?, before) {
            (Some(status), _) => Ok(self.view_of(status)),
            (None, Some(last)) => {
                let mut view = self.view_of(last);
                (view.active_state, view.sub_state, view.main_pid) = (ActiveState::Inactive, "dead".to_owned(), None);
                Ok(view)
            }
            (None, None) => Err(Refusal::new(Refusal::NO_SUCH_UNIT, format!("there is no unit `{unit}`"))),
        }
    }

    async fn view(&self, unit: &UnitId) -> Result<UnitView, Refusal> {
        let status = self.ask(|reply| Ask::Status { unit: unit.clone(), reply }).await?;
        let status = status.ok_or_else(|| Refusal::new(Refusal::NO_SUCH_UNIT, format!("there is no unit `{unit}`")))?;
        let (used, refuses_start) = (status.used.clone(), status.refuses_start.clone());
        let deaths = status.deaths.iter().rev().take(DEATHS_SHOWN).map(death).collect();
        let mut view = self.view_of(status);
        view.deaths = deaths;
        view.processes =
            self.peers.processes(unit).into_iter().map(|(pid, command)| ProcessView { pid, command }).collect();
        if let Some(files) = files_of(&self.library.in_force(), unit) {
            view.files = files.iter().filter(|file| !file.hidden).map(|file| file.path.clone()).collect();
        }
        if let Some(read) = self.ask(|reply| Ask::Unit { unit: unit.clone(), reply }).await? {
            view.limits = usage::limits(&read);
            view.budget = budget(&read, used, refuses_start.as_ref());
        }
        // A store that cannot be read keeps nobody from seeing how the unit is.
        let reports = self.hands.crashes(Some(unit.clone())).await.unwrap_or_default();
        for death in &mut view.deaths {
            death.has_report = reports.iter().any(|report| report.run == death.run);
        }
        Ok(view)
    }

    fn view_of(&self, status: Status) -> UnitView {
        let now = clock::monotonic();
        let startup = self.hands.feed().startup(&status.unit);
        let waits_because = match (status.next_start_because, status.waits_until) {
            (Some(because), _) => Some(because.to_owned()),
            (None, Some(until)) => Some(format!("until it is {}", until.word())),
            (None, None) => None,
        };
        UnitView {
            version: VERSION,
            kind: status.unit.kind(),
            connected: (status.unit.kind() == Kind::Agent).then(|| self.hands.is_connected(&status.unit)),
            description: status.description,
            active_state: status.active_state,
            sub_state: status.sub_state.to_owned(),
            result: status.result,
            exit: status.exit,
            run: status.run,
            main_pid: status.main_pid,
            restarts: status.restarts,
            since: status.since,
            triggered_by: status.triggered_by,
            next_start_in_ms: status.next_start.map(|at| (at - now).0),
            waits_for: status.waits_for,
            status_text: status.status_text,
            last_error: status.last_error,
            not_found: status.not_found,
            needs_restart: status.needs_restart,
            enforcement: status.enforcement,
            processes: Vec::new(),
            files: Vec::new(),
            failures: status.failures,
            crash_looping: status.crash_looping,
            waits_because,
            job: status.job.map(|(word, _)| word.to_owned()),
            changed_keys: status.changed_keys,
            frozen: status.frozen,
            healthy: status.healthy,
            budget: None,
            limits: Vec::new(),
            survivors: Vec::new(),
            deaths: Vec::new(),
            began_at: startup.began_at,
            active_at: startup.active_at,
            unit: status.unit,
        }
    }

    async fn overview(&self) -> Result<Overview, Refusal> {
        let statuses = self.ask(|reply| Ask::Statuses { reply }).await?;
        let (degraded, stopping) = self.ask(|reply| Ask::Condition { reply }).await?;
        let text = |path: &std::path::Path| path.display().to_string();
        let state = match (stopping, degraded) {
            (true, _) => "stopping".to_owned(),
            (false, Some(_)) => "degraded".to_owned(),
            (false, None) => "running".to_owned(),
        };
        Ok(Overview {
            version: VERSION,
            supervisor: SupervisorView {
                loomd: env!("CARGO_PKG_VERSION").to_owned(),
                pid: own_pid(),
                since: self.since,
                state,
                machine: self.machine.clone(),
                logs: self.logs.to_owned(),
                runtime_dir: text(&self.dirs.runtime),
                state_dir: text(&self.dirs.state),
                unit_path: self.dirs.unit_path.iter().map(|path| text(path)).collect(),
                came_back: self.came_back.clone(),
            },
            units: statuses.into_iter().map(|status| self.view_of(status)).collect(),
            problems: self.library.in_force().problems.clone(),
        })
    }

    async fn files(&self, asked: &str) -> Result<UnitFiles, Refusal> {
        let catalogue = self.library.in_force();
        let unit = match self.find(asked).await {
            Ok(unit) => unit,
            // The file of what cannot run is worth seeing all the more.
            Err(refusal) => {
                let known = catalogue.files.keys();
                resolve_unit(asked, known).map_err(|_| refusal)?
            }
        };
        let files = files_of(&catalogue, &unit).unwrap_or_default();
        let files = files
            .into_iter()
            .map(|file| UnitFileText { path: file.path.clone(), text: file.text.clone(), hidden: file.hidden })
            .collect();
        Ok(UnitFiles { version: VERSION, files })
    }

    async fn settings(&self, asked: &str) -> Result<UnitSettings, Refusal> {
        let id = self.find(asked).await?;
        let unit = self.ask(|reply| Ask::Unit { unit: id.clone(), reply }).await?;
        let unit = unit.ok_or_else(|| Refusal::new(Refusal::NO_SUCH_UNIT, format!("there is no unit `{id}`")))?;
        let settings = loom_core::unit::written(&unit);
        let origins = match self.library.in_force().origins.get(&id) {
            Some(origins) => origins.clone(),
            None if id.template().is_some() => {
                let (library, id) = (Arc::clone(&self.library), id.clone());
                tokio::task::spawn_blocking(move || library.instance(&id).origins).await.unwrap_or_default()
            }
            None => BTreeMap::new(),
        };
        let effective = loom_core::unit::effective(&unit, &origins);
        Ok(UnitSettings { version: VERSION, unit: id, settings, origins, effective })
    }

    /// Reads all unit files anew; with an error in one of them, or on a `dry_run`, nothing changes.
    pub async fn reload(&self, dry_run: bool) -> Result<ReloadReport, Refusal> {
        let _one_at_a_time = self.reading.lock().await;
        let library = Arc::clone(&self.library);
        let statuses = self.ask(|reply| Ask::Statuses { reply }).await?;
        let live: Vec<UnitId> = statuses.iter().map(|status| status.unit.clone()).collect();
        let read = tokio::task::spawn_blocking(move || {
            let mut catalogue = library.read();
            // Instances that somebody started are read anew like everything else.
            let mut problems = Vec::new();
            for instance in live.into_iter().filter(|unit| unit.template().is_some()) {
                if catalogue.units.contains_key(&instance) || catalogue.refused.contains_key(&instance) {
                    continue;
                }
                let loaded = library.instance(&instance);
                problems.extend(loaded.problems);
                if let Some(unit) = loaded.unit {
                    catalogue.units.insert(instance, unit);
                }
            }
            for problem in problems {
                if !catalogue.problems.contains(&problem) {
                    catalogue.problems.push(problem);
                }
            }
            catalogue
        });
        let catalogue = read
            .await
            .map_err(|error| Refusal::new(Refusal::FAILED, format!("cannot read the unit files: {error}")))?;
        if catalogue.has_errors() {
            let mut refusal = Refusal::new(Refusal::BAD_FILE, "unit files have errors; nothing was changed")
                .try_this("correct them and reload again");
            refusal.problems = catalogue.problems;
            return Err(refusal);
        }
        let (before, problems) = (self.library.in_force(), catalogue.problems.clone());
        debug_assert!(problems.iter().all(|problem| problem.severity == Severity::Warning));
        let after = catalogue.units.clone();
        let (added, changed, removed) = difference(&before.units, &after);
        let changes: Vec<UnitChange> = changed
            .iter()
            .map(|unit| UnitChange { unit: unit.clone(), keys: changed_keys(&before.units[unit], &after[unit]) })
            .collect();
        let mut report = ReloadReport {
            version: VERSION,
            added,
            changed,
            removed,
            problems,
            applied: !dry_run,
            changes,
            needs_restart: vec![],
        };
        if dry_run {
            let differs = |unit: &&UnitId| !needs_restart(&before.units[*unit], &after[*unit]).is_empty();
            let stale: BTreeSet<UnitId> = report.changed.iter().filter(differs).cloned().collect();
            report.needs_restart = to_restart(&statuses, &stale, &after);
            return Ok(report);
        }
        self.library.put_in_force(catalogue);
        self.ask(|reply| Ask::Reload { units: after.clone(), reply }).await?;
        tracing::info!(
            added = report.added.len(),
            changed = report.changed.len(),
            removed = report.removed.len(),
            "reloaded unit files"
        );
        let statuses = self.ask(|reply| Ask::Statuses { reply }).await?;
        report.needs_restart = to_restart(&statuses, &BTreeSet::new(), &after);
        Ok(report)
    }
}

/// Units that run with other settings than those of their files, and what is `part_of` them, as far as it runs.
fn to_restart(statuses: &[Status], stale: &BTreeSet<UnitId>, units: &Units) -> Vec<UnitId> {
    let runs = |status: &&Status| !matches!(status.active_state, ActiveState::Inactive | ActiveState::Failed);
    let running: BTreeSet<&UnitId> = statuses.iter().filter(runs).map(|status| &status.unit).collect();
    let asked = statuses.iter().filter(|status| status.needs_restart).map(|status| &status.unit).chain(stale);
    let mut found: BTreeSet<&UnitId> =
        asked.filter(|unit| running.contains(unit) && units.contains_key(unit)).collect();
    loop {
        let parts = units.values().filter(|unit| unit.part_of.iter().any(|whole| found.contains(whole)));
        let more: Vec<&UnitId> =
            parts.map(|unit| &unit.id).filter(|id| running.contains(id) && !found.contains(id)).collect();
        if more.is_empty() {
            return found.into_iter().cloned().collect();
        }
        found.extend(more);
    }
}

fn death(death: &Death) -> DeathView {
    let Death { run, at, result, exit, error } = death.clone();
    DeathView { run, at, result, exit, error, has_report: false }
}

/// What is used of a budget, in words, and until when.
fn budget(unit: &Unit, used: Option<Tally>, refuses_start: Option<&String>) -> Option<BudgetView> {
    let (budget, used) = (unit.budget.as_ref()?, used.unwrap_or_default());
    let cost = |micros: u64| format!("{}.{:02}", micros / 1_000_000, micros % 1_000_000 / 10_000);
    let parts = [
        budget.tokens.map(|limit| format!("{} of {limit} tokens", used.tokens)),
        budget.cost_micros.map(|limit| format!("{} of {} cost", cost(used.cost_micros), cost(limit))),
        budget.calls.map(|limit| format!("{} of {limit} calls", used.calls)),
        budget.time.map(|limit| format!("{} of {} time", span(used.time), span(limit))),
    ];
    Some(BudgetView {
        used: parts.into_iter().flatten().collect(),
        until: used.since.map(|since| since.saturating_add(budget.window.0)),
        exhausted: refuses_start.is_some(),
    })
}

impl Api {
    /// A program that would not start is refused before anything is let go of.
    async fn become_another(&self) -> Result<Pong, Refusal> {
        let refused = |cause: String| {
            Refusal::new(Refusal::FAILED, "the loomd that was to follow would not start; this one goes on")
                .because(cause)
                .try_this("install a loomd that runs here, then try again")
        };
        let children = self.peers.children();
        let tried = tokio::task::spawn_blocking(move || {
            let program = reexec::program().map_err(|error| format!("cannot find loomd's own file: {error}"))?;
            let mut tried = 0;
            let make = |command: &mut Command| {
                let (pid, child) = children.make(|| {
                    let child = command.spawn()?;
                    Ok((i32::try_from(child.id()).unwrap_or_default(), child))
                })?;
                tried = pid;
                Ok(child)
            };
            let outcome = reexec::check(&program, SCHEMA_VERSION, make);
            children.taken(tried);
            outcome
        });
        tried.await.map_err(|error| refused(error.to_string()))?.map_err(refused)?;
        // Whoever asked may see the connection end before this answer comes: it was accepted then, too.
        let asks = self.asks.clone();
        tokio::spawn(async move { asks.send(Ask::Reexec).await });
        Ok(Pong { version: VERSION, loomd: env!("CARGO_PKG_VERSION").to_owned(), pid: own_pid() })
    }
}

type Units = BTreeMap<UnitId, Unit>;

/// Added, changed, removed.
fn difference(before: &Units, after: &Units) -> (Vec<UnitId>, Vec<UnitId>, Vec<UnitId>) {
    let only_in =
        |these: &Units, those: &Units| these.keys().filter(|unit| !those.contains_key(*unit)).cloned().collect();
    let changed = after.iter().filter(|(id, unit)| before.get(id).is_some_and(|was| was != *unit));
    (only_in(after, before), changed.map(|(id, _)| id.clone()).collect(), only_in(before, after))
}

/// Files of a unit; of its template, where an instance has none of its own.
fn files_of(catalogue: &Catalogue, unit: &UnitId) -> Option<Vec<loom_core::unit::UnitFile>> {
    catalogue.files.get(unit).or_else(|| catalogue.files.get(&unit.template()?)).cloned()
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).expect("Linux pids are below 2^22")
}

impl Control for Api {
    fn ping(&self, _: Nothing) -> Answering<'_, Pong> {
        let pong = Pong { version: VERSION, loomd: env!("CARGO_PKG_VERSION").to_owned(), pid: own_pid() };
        Box::pin(async move { Ok(pong) })
    }

    fn status(&self, _: Nothing) -> Answering<'_, Overview> {
        Box::pin(self.overview())
    }

    fn unit(&self, request: UnitAsked) -> Answering<'_, UnitView> {
        Box::pin(async move {
            let unit = self.find(&request.unit).await?;
            self.view(&unit).await
        })
    }

    fn start_unit(&self, request: JobRequest) -> Answering<'_, UnitView> {
        Box::pin(self.job(request, Verb::Start))
    }

    fn stop_unit(&self, request: JobRequest) -> Answering<'_, UnitView> {
        Box::pin(self.job(request, Verb::Stop))
    }

    fn restart_unit(&self, request: JobRequest) -> Answering<'_, UnitView> {
        Box::pin(self.job(request, Verb::Restart))
    }

    fn unit_files(&self, request: UnitAsked) -> Answering<'_, UnitFiles> {
        Box::pin(async move { self.files(&request.unit).await })
    }

    fn show_unit(&self, request: UnitAsked) -> Answering<'_, UnitSettings> {
        Box::pin(async move { self.settings(&request.unit).await })
    }

    fn daemon_reload(&self, request: ReloadRequest) -> Answering<'_, ReloadReport> {
        Box::pin(self.reload(request.dry_run))
    }

    fn daemon_reexec(&self, _: Nothing) -> Answering<'_, Pong> {
        Box::pin(self.become_another())
    }

    fn jobs(&self, request: JobsRequest) -> Answering<'_, Lines<JobNews>> {
        Box::pin(self.do_jobs(request))
    }

    fn run_transient(&self, request: TransientRequest) -> Answering<'_, UnitView> {
        Box::pin(self.start_transient(request))
    }

    fn events(&self, request: EventsAsked) -> Answering<'_, Lines<LifeEvent>> {
        Box::pin(self.tell_events(request))
    }

    fn graph(&self, _: Nothing) -> Answering<'_, GraphView> {
        Box::pin(self.tell_graph())
    }

    fn usage(&self, _: Nothing) -> Answering<'_, UsageView> {
        Box::pin(self.tell_usage())
    }

    fn crashes(&self, request: CrashesAsked) -> Answering<'_, CrashesView> {
        Box::pin(self.tell_crashes(request))
    }

    fn state_keys(&self, request: UnitAsked) -> Answering<'_, StateKeys> {
        Box::pin(async move {
            let unit = self.find(&request.unit).await?;
            self.hands.state_keys(&unit).await
        })
    }

    fn state_get(&self, request: StateAsked) -> Answering<'_, StateEntry> {
        Box::pin(async move {
            let unit = self.find(&request.unit).await?;
            self.hands.state_get(&unit, &request.key).await
        })
    }

    fn state_put(&self, request: StatePut) -> Answering<'_, StateEntry> {
        Box::pin(async move {
            let unit = self.find(&request.unit).await?;
            self.hands.state_put(&unit, &request.key, request.value, request.if_version).await
        })
    }

    fn state_delete(&self, request: StateAsked) -> Answering<'_, StateEntry> {
        Box::pin(async move {
            let unit = self.find(&request.unit).await?;
            self.hands.state_delete(&unit, &request.key).await
        })
    }

    fn bus_request(&self, request: BusRequest) -> Answering<'_, Lines<BusAnswer>> {
        Box::pin(async move { self.hands.bus_request(request).await })
    }

    fn bus_publish(&self, request: BusPublish) -> Answering<'_, Published> {
        Box::pin(async move { self.hands.bus_publish(request).await })
    }

    fn schedules(&self, _: Nothing) -> Answering<'_, ScheduleList> {
        Box::pin(self.list_schedules())
    }

    fn firings(&self, request: UnitAsked) -> Answering<'_, FiringList> {
        Box::pin(async move { self.firings_of(&request.unit).await })
    }

    fn fire(&self, request: UnitAsked) -> Answering<'_, Fired> {
        Box::pin(async move { self.fire_by_hand(&request.unit).await })
    }

    fn audit(&self, request: AuditAsked) -> Answering<'_, AuditView> {
        Box::pin(async move {
            let unit = match &request.unit {
                Some(asked) => Some(self.find(asked).await?),
                None => None,
            };
            self.hands.audit(unit, request.limit).await
        })
    }
}
