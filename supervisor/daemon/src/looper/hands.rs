//! looper/hands: what the control API and the agents reach beyond the loop.
//!
//! Job: wire store, bus and tools to those who ask. May touch: their public faces.
//! Keeps: rooms do not know one another; a person has every grant and no run, so what a person writes fences nobody.

use super::feed::{Feed, said_text};
use super::library::Library;
use super::timers::Keeper;
use super::{Audience, Change, Later, Records, clock};
use crate::agents::{AgentHost, BoxFuture, StateAnswer, StateOp};
use crate::bus::{BusAnswer as Heard, rfc3339};
use crate::process::{Peers, WorkerDoor, WorkerProcess};
use crate::store::{StateError, Store, StoreError};
use crate::switchboard::Bus;
use crate::tools::{Audit, Tools, WorkerConn, WorkerSpawner};
use loom_api::control::Lines;
use loom_api::dirs::Dirs;
use loom_api::view::{
    AuditRecord, AuditView, BusAnswer, BusPublish, BusRequest, CrashReport, DeadLetter, Published, Refusal, StateEntry,
    StateKeys, VERSION,
};
use loom_api::wire::{Code, Outcome, Previous, WireError};
use loom_core::fleet::Event;
use loom_core::ids::{Kind, Millis, RunId, UnitId};
use loom_core::lifecycle::{Identity, Record, Said};
use loom_core::tools::{Outcome as ToolOutcome, ToolError};
use loom_core::unit::{RunFacts, Unit};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Keys listed at most.
const KEYS_MAX: usize = 10_000;
/// How long a person's request may take, unless asked otherwise, and at most.
const REQUEST_DEFAULT_MS: u64 = 120_000;
const REQUEST_MAX_MS: u64 = 3_600_000;
/// Lines of an answer that wait to be read.
const LINES_QUEUE: usize = 64;
/// Where changes of state are told.
const CHANGED: &str = "loom.unit.changed";
/// Audit records listed at most, and unless asked otherwise.
const AUDIT_MAX: usize = 10_000;
const AUDIT_DEFAULT: usize = 100;

impl Records for Store {
    fn put(&self, records: Vec<(UnitId, Record)>, on_disk: bool) -> Later<Result<(), String>> {
        let store = self.clone();
        Box::pin(async move {
            let stored = match (records.is_empty(), on_disk) {
                (true, _) => store.sync().await,
                (false, true) => store.put_records(records).await,
                (false, false) => store.put_records_soon(records).await,
            };
            stored.map_err(|error| whole(&error))
        })
    }

    fn keep(&self, report: CrashReport) {
        let store = self.clone();
        tokio::spawn(async move {
            let (unit, run) = (report.unit.clone(), report.run);
            match store.crash_put(report).await {
                Ok(()) => tracing::warn!(%unit, %run, "kept a crash report: see `loomctl crashes {unit}`"),
                Err(error) => tracing::error!(%unit, %run, error = whole(&error), "cannot keep a crash report"),
            }
        });
    }
}

/// An error with its causes, on one line.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

/// Tells bus and tools of runs.
#[derive(Clone)]
pub struct Wires {
    bus: Bus,
    tools: Tools,
    dirs: Dirs,
    store: Store,
    live: Live,
    doors: Arc<Mutex<BTreeSet<UnitId>>>,
    feed: Feed,
}

type Live = Arc<Mutex<BTreeMap<UnitId, Arc<Living>>>>;

/// A live run, as far as its calls go.
struct Living {
    run: RunId,
    /// The settings that it was started with; what an agent may do goes by these until its restart.
    unit: Unit,
    /// Tool calls that are under way.
    calls: AtomicU32,
    /// When the last one ended, on the monotonic clock; 0: none has.
    called: AtomicU64,
    /// Until when its budget is used up, by the wall clock; 0: it is not.
    exhausted_until: AtomicU64,
}

impl Living {
    fn new(unit: Unit, run: RunId) -> Self {
        let (calls, called, exhausted_until) = Default::default();
        Self { run, unit, calls, called, exhausted_until }
    }

    /// Counts as progress until it is dropped: the tool's own timeout bounds it.
    fn call(&self) -> Calling<'_> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Calling(self)
    }

    /// When a tool last did something for it.
    fn called(&self) -> Option<Millis> {
        if self.calls.load(Ordering::Relaxed) > 0 {
            return Some(clock::monotonic());
        }
        Some(Millis(self.called.load(Ordering::Relaxed))).filter(|at| at.0 > 0)
    }

    /// Why it may not call a tool now, if its budget says so.
    fn exhausted(&self) -> Option<WireError> {
        let (until, now) = (self.exhausted_until.load(Ordering::Relaxed), clock::wall());
        (now < until).then(|| {
            let text = format!("the [budget] of `{}` is used up until {}", self.unit.id, rfc3339(until));
            WireError::new(Code::BudgetExhausted, text).retry_after_ms(until - now)
        })
    }
}

struct Calling<'a>(&'a Living);

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.0.called.store(clock::monotonic().0, Ordering::Relaxed);
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Wires {
    /// Starts bus and tools. Must be called within the runtime. `events`: where the loop hears what of a budget was used.
    pub fn open(store: Store, peers: Peers, dirs: Dirs, events: mpsc::Sender<Event>) -> Self {
        let live = Live::default();
        let workers = Workers { door: peers.worker_door() };
        let tools = Tools::new(Arc::new(AuditLog { store: store.clone() }), Arc::new(workers));
        let host = Host { store: store.clone(), tools: tools.clone(), live: Arc::clone(&live), events };
        let bus = Bus::start(Arc::new(host), Arc::new(move |unit, pid| peers.belongs(unit, pid)));
        match store.letter_list(None) {
            Ok(letters) => letters.iter().for_each(|letter| drop(bus.set_aside(&letter.unit, &letter.id))),
            Err(error) => tracing::error!(
                error = whole(&error),
                "cannot read which events were set aside: units may get again what ended them"
            ),
        }
        Self { bus, tools, dirs, store, live, doors: Arc::default(), feed: Feed::default() }
    }

    fn living(&self, unit: &UnitId, run: RunId) -> Option<Arc<Living>> {
        lock(&self.live).get(unit).filter(|living| living.run == run).cloned()
    }
}

/// Store, bus and unit files for schedules.
pub struct Clockwork {
    pub store: Store,
    pub wires: Wires,
    pub library: Arc<Library>,
}

impl Keeper for Clockwork {
    fn keep(
        &self,
        records: Vec<(UnitId, Option<loom_core::schedule::Record>)>,
        on_disk: bool,
    ) -> Later<Result<(), String>> {
        let store = self.store.clone();
        Box::pin(async move { store.timers_put(records, on_disk).await.map_err(|error| whole(&error)) })
    }

    fn publish(&self, topic: &str, data: &serde_json::Value) {
        if let Err(error) = self.wires.bus.publish_as_loomd(topic, data.to_string().into()) {
            tracing::error!(topic, %error, "an event of a schedule was not published");
        }
    }

    fn hears(&self, unit: &UnitId) -> bool {
        self.wires.bus.connected(unit)
    }

    fn read(&self, unit: &UnitId) -> Result<Unit, String> {
        let loaded = self.library.instance(unit);
        loaded.unit.ok_or_else(|| match loaded.problems.first() {
            Some(problem) => format!("`{unit}` cannot be made from its template: {}", problem.message),
            None => format!("there is no template for `{unit}`"),
        })
    }

    fn zones(&self) -> loom_core::schedule::zone::Zones {
        loom_api::zone::zones()
    }
}

impl Audience for Wires {
    fn begins(&self, unit: &Unit, run: RunId, facts: &RunFacts, identity: &Identity) -> Result<(), String> {
        lock(&self.live).insert(unit.id.clone(), Arc::new(Living::new(unit.clone(), run)));
        if unit.id.kind() != Kind::Agent {
            return Ok(());
        }
        let socket = self.dirs.unit_runtime(&unit.id).join("bus.sock");
        self.bus.open_door(&unit.id, &socket, unit.bus.clone()).map_err(|error| whole(&error))?;
        lock(&self.doors).insert(unit.id.clone());
        let previous =
            Previous { result: facts.last_result.clone(), exit: facts.last_exit.clone(), restarts: facts.restarts };
        self.bus.expect_run(&unit.id, run, identity.token_sha256.clone(), previous);
        Ok(())
    }

    fn in_hand(&self, unit: &UnitId, run: RunId) -> Vec<String> {
        self.bus.in_hand(unit, run)
    }

    fn ends(&self, unit: &UnitId, run: RunId) {
        let mut live = lock(&self.live);
        if live.get(unit).is_some_and(|living| living.run == run) {
            live.remove(unit);
        }
        drop(live);
        self.bus.end_run(unit, run);
        let (tools, unit) = (self.tools.clone(), unit.clone());
        tokio::spawn(async move { tools.end_unit(&unit).await });
    }

    fn changed(&self, change: &Change) {
        self.feed.changed(change);
        let data = serde_json::to_vec(change).expect("words and numbers print");
        self.bus.publish_as_loomd(CHANGED, data.into()).expect("a constant topic is well formed");
    }

    fn said(&self, unit: &UnitId, run: RunId, said: &Said) {
        if let Said::BudgetExhausted { until, .. } = said
            && let Some(living) = self.living(unit, run)
        {
            living.exhausted_until.store(*until, Ordering::Relaxed);
        }
        self.feed.said(unit, run, said);
        let mut data = said_facts(said);
        data.insert("text".into(), said_text(said).into());
        data.insert("unit".into(), unit.to_string().into());
        data.insert("run".into(), run.0.into());
        let data = serde_json::Value::Object(data).to_string();
        let topic = format!("loom.unit.{}", said.word());
        self.bus.publish_as_loomd(&topic, data.into()).expect("each word fits in a topic");
    }

    fn watched(&self) -> Vec<(UnitId, RunId)> {
        let live = lock(&self.live);
        let watched = live.iter().filter(|(_, living)| living.unit.watchdog.progress.is_some());
        watched.map(|(unit, living)| (unit.clone(), living.run)).collect()
    }

    fn last_progress(&self, unit: &UnitId, run: RunId) -> Option<Millis> {
        let called = self.living(unit, run)?.called();
        // Both are CLOCK_MONOTONIC; only the standard library's moment does not show its number.
        let moved = self.bus.moved(unit, run).map(|at| clock::monotonic() - ago(at));
        called.max(moved)
    }

    fn set_aside(&self, unit: &UnitId, run: RunId, work: &str) -> Later<Result<(), String>> {
        let known = self.bus.set_aside(unit, work);
        let letter = DeadLetter {
            unit: unit.clone(),
            run,
            id: work.to_owned(),
            time: clock::wall(),
            topic: known.as_ref().map(|known| known.topic.clone()).unwrap_or_default(),
            source: known.as_ref().map(|known| known.source.clone()).unwrap_or_default(),
            data: known.as_ref().map(|known| String::from_utf8_lossy(&known.data).into_owned()).unwrap_or_default(),
            data_bytes: known.map_or(0, |known| known.data_bytes as u64),
        };
        let store = self.store.clone();
        Box::pin(async move { store.letter_put(letter).await.map_err(|error| whole(&error)) })
    }

    fn leaving(&self, units: &[UnitId]) {
        self.bus.leaving(units);
    }

    fn reloaded(&self, units: &BTreeMap<UnitId, Unit>) {
        self.feed.forget_all_but(&units.keys().cloned().collect());
        let live = lock(&self.live);
        // A door is kept for as long as somebody may stand behind it.
        lock(&self.doors).retain(|unit| {
            let keep = units.contains_key(unit) || live.contains_key(unit);
            if !keep {
                self.bus.close_door(unit);
                self.tools.forget(unit);
            }
            keep
        });
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    // Entries are put in and taken out whole, so a panic elsewhere does not spoil them.
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ago(at: Instant) -> Millis {
    Millis(u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// What is told with its word, by name.
pub(super) fn said_facts(said: &Said) -> serde_json::Map<String, serde_json::Value> {
    let facts = match said {
        Said::CrashLooping { failures } => serde_json::json!({ "failures": failures }),
        Said::NoProgress { since } => serde_json::json!({ "since_ms": since.0 }),
        Said::Poisoned { work, deaths } => serde_json::json!({ "work": work, "deaths": deaths }),
        Said::OomKilled => serde_json::json!({}),
        Said::ReloadFailed { because } => serde_json::json!({ "because": because }),
        Said::BudgetExhausted { what, until } => serde_json::json!({ "what": what, "until": until }),
        Said::Healthy { healthy } => serde_json::json!({ "healthy": healthy }),
    };
    match facts {
        serde_json::Value::Object(facts) => facts,
        other => unreachable!("each is an object: {other}"),
    }
}

/// What loomd does for an agent that asks.
struct Host {
    store: Store,
    tools: Tools,
    live: Live,
    events: mpsc::Sender<Event>,
}

impl AgentHost for Host {
    fn state(&self, unit: UnitId, run: RunId, op: StateOp) -> BoxFuture<Result<StateAnswer, WireError>> {
        let store = self.store.clone();
        Box::pin(async move {
            match op {
                StateOp::Get { key } => {
                    store.state_get(&unit, &key).await.map(StateAnswer::Value).map_err(|error| store_error(&error))
                }
                StateOp::Put { key, value, if_version } => {
                    let put = store.state_put(&unit, run, &key, value.to_vec(), if_version).await;
                    put.map(StateAnswer::Written).map_err(|error| state_error(&key, error))
                }
                StateOp::Delete { key, if_version } => {
                    let deleted = store.state_delete(&unit, run, &key, if_version).await;
                    deleted.map(|()| StateAnswer::Deleted).map_err(|error| state_error(&key, error))
                }
                StateOp::Scan { prefix } => {
                    let keys = store.state_scan(&unit, &prefix, KEYS_MAX).await;
                    keys.map(StateAnswer::Keys).map_err(|error| store_error(&error))
                }
            }
        })
    }

    fn call(
        &self,
        unit: UnitId,
        run: RunId,
        tool: String,
        args: serde_json::Value,
        deadline_ms: Option<u64>,
    ) -> BoxFuture<Result<serde_json::Value, WireError>> {
        let (tools, events) = (self.tools.clone(), self.events.clone());
        let living = lock(&self.live).get(&unit).filter(|living| living.run == run).cloned();
        Box::pin(async move {
            let Some(living) = living else {
                return Err(WireError::new(Code::Unavailable, format!("run {run} of `{unit}` is over")));
            };
            if let Some(exhausted) = living.exhausted() {
                return Err(exhausted);
            }
            let deadline = deadline_ms.map(|at| Duration::from_millis(at.saturating_sub(clock::wall())));
            let calling = living.call();
            // The room numbers calls itself.
            let called = tools.call(&living.unit, run, "", &tool, args, deadline).await;
            drop(calling);
            if living.unit.budget.is_some() && called.as_ref().map_or_else(was_carried_out, |_| true) {
                // The queue is bounded, so a loop that is behind holds up the caller. Without a loop nobody counts any more.
                let _ = events.send(Event::Spent { unit, run, tokens: 0, cost_micros: 0, calls: 1 }).await;
            }
            called.map_err(|error| tool_error(&error))
        })
    }

    fn connected(&self, unit: UnitId, run: RunId, up: bool) {
        if up {
            tracing::info!(%unit, %run, "the agent is connected to the bus");
        } else {
            tracing::info!(%unit, %run, "the agent's bus connection ended");
        }
    }
}

/// The audit log is in the store.
struct AuditLog {
    store: Store,
}

impl Audit for AuditLog {
    fn append(&self, record: AuditRecord) -> BoxFuture<Result<u64, String>> {
        let store = self.store.clone();
        Box::pin(async move { store.audit_append(record).await.map_err(|error| whole(&error)) })
    }
}

/// Workers come from the process room.
struct Workers {
    door: WorkerDoor,
}

impl WorkerSpawner for Workers {
    fn spawn(&self, unit: &UnitId) -> BoxFuture<Result<WorkerConn, String>> {
        let (door, unit) = (self.door.clone(), unit.clone());
        Box::pin(async move {
            let WorkerProcess { stream, pid } = door.spawn(&unit).await?;
            Ok(WorkerConn { stream, pid })
        })
    }

    fn ended(&self, _unit: &UnitId, pid: i32) {
        self.door.kill(pid);
    }
}

/// What was refused costs nothing; what may have run does.
fn was_carried_out(error: &ToolError) -> bool {
    match error.outcome {
        ToolOutcome::NotRun => false,
        ToolOutcome::Unknown | ToolOutcome::Done => true,
    }
}

/// The broker's words for a failed call are the wire's.
fn tool_error(error: &ToolError) -> WireError {
    let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let code = word(serde_json::json!(error.code));
    let code = Code::ALL.iter().copied().find(|known| known.word() == code).unwrap_or(Code::Internal);
    let outcome = serde_json::from_value(serde_json::json!(error.outcome)).unwrap_or(Outcome::Unknown);
    let text = match &error.reason {
        Some(reason) => format!("{}: {}", word(serde_json::json!(reason)), error.message),
        None => error.message.clone(),
    };
    WireError::new(code, text).outcome(outcome)
}

fn store_error(error: &StoreError) -> WireError {
    WireError::new(Code::StoreError, whole(error))
}

fn state_error(key: &str, error: StateError) -> WireError {
    match error {
        StateError::Conflict { version } => {
            WireError::conflict(version, format!("`{key}` has version {version}, not the one expected: read it again"))
        }
        fenced @ StateError::Fenced { .. } => WireError::new(Code::Fenced, fenced.to_string()),
        too_large @ StateError::TooLarge { .. } => WireError::new(Code::TooBig, too_large.to_string()),
        bad @ StateError::BadKey { .. } => WireError::new(Code::BadHeader, bad.to_string()),
        // Whether it was written is not known: the sync may have failed after the write.
        StateError::Store(error) => store_error(&error).outcome(Outcome::Unknown),
    }
}

/// State, bus and audit for the control API.
#[derive(Clone)]
pub struct Hands {
    store: Store,
    wires: Wires,
}

impl Hands {
    pub fn new(store: Store, wires: Wires) -> Self {
        Self { store, wires }
    }

    /// What happens to units.
    pub fn feed(&self) -> &Feed {
        &self.wires.feed
    }

    pub fn is_connected(&self, unit: &UnitId) -> bool {
        self.wires.bus.connected(unit)
    }

    pub async fn state_keys(&self, unit: &UnitId) -> Result<StateKeys, Refusal> {
        let keys = self.store.state_scan(unit, "", KEYS_MAX).await.map_err(|error| store_refusal(&error))?;
        Ok(StateKeys { version: VERSION, keys })
    }

    pub async fn state_get(&self, unit: &UnitId, key: &str) -> Result<StateEntry, Refusal> {
        let entry = self.store.state_get(unit, key).await.map_err(|error| store_refusal(&error))?;
        let (value, value_version) = entry.ok_or_else(|| {
            Refusal::new(Refusal::NO_SUCH_KEY, format!("the state of `{unit}` has no key `{key}`"))
                .try_this(format!("`loomctl state list {unit}` shows all keys"))
        })?;
        let value = serde_json::from_slice(&value).map_err(|error| {
            Refusal::new(Refusal::FAILED, format!("the value of `{key}` is no JSON")).because(error.to_string())
        })?;
        Ok(StateEntry { version: VERSION, key: key.to_owned(), value, value_version })
    }

    pub async fn state_put(
        &self,
        unit: &UnitId,
        key: &str,
        value: serde_json::Value,
        if_version: Option<u64>,
    ) -> Result<StateEntry, Refusal> {
        let bytes = serde_json::to_vec(&value).expect("a JSON value prints");
        let put = self.store.state_put(unit, self.writing_run(unit)?, key, bytes, if_version).await;
        let value_version = put.map_err(|error| state_refusal(unit, key, error))?;
        Ok(StateEntry { version: VERSION, key: key.to_owned(), value, value_version })
    }

    pub async fn state_delete(&self, unit: &UnitId, key: &str) -> Result<StateEntry, Refusal> {
        let was = self.state_get(unit, key).await?;
        let deleted = self.store.state_delete(unit, self.writing_run(unit)?, key, Some(was.value_version)).await;
        deleted.map_err(|error| state_refusal(unit, key, error))?;
        Ok(was)
    }

    /// A person writes as the unit's newest run: the store lets nobody else write.
    fn writing_run(&self, unit: &UnitId) -> Result<RunId, Refusal> {
        let records = self.store.records().map_err(|error| store_refusal(&error))?;
        Ok(records.get(unit).map(|record| record.run).unwrap_or_default())
    }

    /// A person's request: progress lines, then one answer. Dropping the lines cancels it.
    pub async fn bus_request(&self, request: BusRequest) -> Result<Lines<BusAnswer>, Refusal> {
        let timeout = Duration::from_millis(request.timeout_ms.unwrap_or(REQUEST_DEFAULT_MS).min(REQUEST_MAX_MS));
        let data = serde_json::to_vec(&request.data).expect("a JSON value prints");
        let mut answers = self.wires.bus.request_as_person(&request.topic, data.into(), timeout);
        let (lines, receiver) = mpsc::channel(LINES_QUEUE);
        tokio::spawn(async move {
            loop {
                // Whoever hangs up cancels at once, not at the next progress.
                let answer = tokio::select! {
                    answer = answers.recv() => answer,
                    () = lines.closed() => return,
                };
                let Some(answer) = answer else { return };
                if lines.send(shown(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Lines(receiver))
    }

    /// A person's event.
    pub async fn bus_publish(&self, request: BusPublish) -> Result<Published, Refusal> {
        if request.topic == "loom" || request.topic.starts_with("loom.") {
            return Err(Refusal::new(Refusal::USAGE, format!("`{}` is told by loomd alone", request.topic))
                .try_this("choose a topic that does not begin with `loom.`"));
        }
        let data = serde_json::to_vec(&request.data).expect("a JSON value prints");
        match self.wires.bus.publish_as_loomd(&request.topic, data.into()) {
            Ok(()) => Ok(Published { version: VERSION, topic: request.topic }),
            Err(bad) => Err(Refusal::new(Refusal::USAGE, bad.to_string())),
        }
    }

    pub async fn audit(&self, unit: Option<UnitId>, limit: Option<usize>) -> Result<AuditView, Refusal> {
        let (store, limit) = (self.store.clone(), limit.unwrap_or(AUDIT_DEFAULT).min(AUDIT_MAX));
        let listed = tokio::task::spawn_blocking(move || store.audit_list(unit.as_ref(), limit)).await;
        let listed =
            listed.map_err(|error| Refusal::new(Refusal::FAILED, format!("cannot read the audit log: {error}")))?;
        Ok(AuditView { version: VERSION, records: listed.map_err(|error| store_refusal(&error))? })
    }
}

impl Hands {
    /// Crash reports, oldest first; of one unit or of all.
    pub async fn crashes(&self, unit: Option<UnitId>) -> Result<Vec<CrashReport>, Refusal> {
        let store = self.store.clone();
        let listed = tokio::task::spawn_blocking(move || store.crash_list(unit.as_ref())).await;
        let listed =
            listed.map_err(|error| Refusal::new(Refusal::FAILED, format!("cannot read the crash reports: {error}")))?;
        listed.map_err(|error| store_refusal(&error))
    }
}

fn shown(answer: Heard) -> BusAnswer {
    match answer {
        Heard::Progress(data) => BusAnswer::Progress { data: value(&data) },
        Heard::Reply { source, data } => BusAnswer::Reply { source, data: value(&data) },
        Heard::Failed(error) => BusAnswer::Error { code: error.code.word().to_owned(), message: error.message },
    }
}

/// What an agent sent is shown as it is, JSON or not.
fn value(data: &[u8]) -> serde_json::Value {
    serde_json::from_slice(data)
        .unwrap_or_else(|_| serde_json::Value::String(String::from_utf8_lossy(data).into_owned()))
}

fn store_refusal(error: &StoreError) -> Refusal {
    Refusal::new(Refusal::FAILED, "the store failed").because(whole(error)).try_this("see `loomctl logs`")
}

fn state_refusal(unit: &UnitId, key: &str, error: StateError) -> Refusal {
    match error {
        StateError::Conflict { version } => {
            Refusal::new(Refusal::CONFLICT, format!("`{key}` of `{unit}` has version {version}, not the one expected"))
                .try_this("read it again, then write with that version")
        }
        StateError::Fenced { .. } => {
            Refusal::new(Refusal::FAILED, format!("`{unit}` began a new run meanwhile")).try_this("try again")
        }
        too_large @ StateError::TooLarge { .. } => Refusal::new(Refusal::TOO_BIG, too_large.to_string()),
        StateError::Store(error) => store_refusal(&error),
        bad @ StateError::BadKey { .. } => Refusal::new(Refusal::USAGE, bad.to_string()),
    }
}
