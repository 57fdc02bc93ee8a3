//! tools: what agents have done for them.
//!
//! Job: for each call: arguments, rules, audit "decided", the worker, audit "ended". May touch: workers through
//! [`WorkerSpawner`], the audit log through [`Audit`]. May not: carry out a tool itself, open an agent's files.
//! Keeps: every call ends; nothing is carried out before its decision is stored; an error says whether the tool ran.

#[cfg(test)]
mod tests;
mod worker;

use loom_api::view::AuditRecord;
use loom_core::ids::{RunId, UnitId};
use loom_core::tools::{
    Call, Decision, Definition, Effect, ErrorCode, Native, Outcome, PathRules, Roots, Rules, ToolError,
};
use loom_core::unit::Unit;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use worker::{Broken, Hands, IDLE_MAX, Job};

/// Calls of one agent that are in progress.
const CALLS_MAX: usize = 8;
/// Calls of one agent that wait for one of those to end.
const QUEUE_MAX: usize = 64;
/// What an audit record keeps of the arguments.
const AUDIT_ARGUMENTS_MAX_BYTES: usize = 4096;
/// What it keeps of one text among them.
const AUDIT_TEXT_MAX_BYTES: usize = 512;

/// A future in a box.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where decisions and endings are written. `decided` must be on disk when the future ends.
pub trait Audit: Send + Sync + 'static {
    /// Appends; the record's number.
    fn append(&self, record: AuditRecord) -> BoxFuture<Result<u64, String>>;
}

impl<F: Fn(AuditRecord) -> BoxFuture<Result<u64, String>> + Send + Sync + 'static> Audit for F {
    fn append(&self, record: AuditRecord) -> BoxFuture<Result<u64, String>> {
        self(record)
    }
}

/// Starts workers: `loom-worker` through `loom-launch`, under the agent's own plan.
pub trait WorkerSpawner: Send + Sync + 'static {
    /// Starts one. What is wrong, for a person, if that fails.
    fn spawn(&self, unit: &UnitId) -> BoxFuture<Result<WorkerConn, String>>;

    /// The worker is not needed any more and its stream is closed: it ends by itself unless it hangs in a call, so it
    /// should be killed. Does nothing unless the spawner says otherwise.
    fn ended(&self, _unit: &UnitId, _pid: i32) {}
}

/// A worker that was started. It ends when the stream is closed.
pub struct WorkerConn {
    /// Our end of the socketpair that it has as its descriptors 0 and 1.
    pub stream: UnixStream,
    /// Its process.
    pub pid: i32,
}

/// The room. Clones share it.
#[derive(Clone)]
pub struct Tools {
    audit: Arc<dyn Audit>,
    spawner: Arc<dyn WorkerSpawner>,
    agents: Arc<Mutex<HashMap<UnitId, Arc<Agent>>>>,
    calls: Arc<AtomicU64>,
    idle_max: Duration,
}

/// One agent's part of the room.
struct Agent {
    hands: Arc<Hands>,
    /// In progress and waiting together.
    admitted: Arc<Semaphore>,
    /// In progress.
    working: Arc<Semaphore>,
    rules: Mutex<Option<(loom_core::unit::Tools, Arc<Rules>)>>,
    /// Told when its run is over.
    over: Notify,
}

/// One call, as far as every record about it needs.
struct Entry {
    unit: UnitId,
    run: RunId,
    call: String,
    tool: String,
    arguments: Value,
}

impl Tools {
    /// An empty room.
    pub fn new(audit: Arc<dyn Audit>, spawner: Arc<dyn WorkerSpawner>) -> Self {
        Self { audit, spawner, agents: Arc::default(), calls: Arc::default(), idle_max: IDLE_MAX }
    }

    /// The tools that this unit may call, as a model sees them.
    pub fn listed(&self, unit: &Unit) -> Vec<Definition> {
        self.agent(&unit.id).rules(unit).map(|rules| rules.listed()).unwrap_or_default()
    }

    /// Carries out one call for an agent, or says why not.
    ///
    /// `deadline` shortens the unit's own timeout; both count from now, waiting included. The call goes on (and is audited)
    /// if the caller stops waiting; its timeout bounds it.
    pub async fn call(
        &self,
        unit: &Unit,
        run: RunId,
        call_id: &str,
        tool: &str,
        args: Value,
        deadline: Option<Duration>,
    ) -> Result<Value, ToolError> {
        let agent = self.agent(&unit.id);
        let Ok(admitted) = agent.admitted.clone().try_acquire_owned() else {
            let what = format!("{CALLS_MAX} calls of this agent are in progress and {QUEUE_MAX} wait; try again later");
            return Err(ToolError::new(ErrorCode::Unavailable, Outcome::NotRun, what));
        };
        let timeout = Duration::from_millis(unit.tools.timeout.0);
        let timeout = deadline.map_or(timeout, |deadline| deadline.min(timeout));
        let (room, unit, tool, until) = (self.clone(), unit.clone(), tool.to_owned(), Instant::now() + timeout);
        let call = match call_id {
            "" => format!("{run}-{}", self.calls.fetch_add(1, Ordering::Relaxed) + 1),
            id => id.to_owned(),
        };
        // On its own, so that a caller who goes away leaves neither a call without an ending nor half an answer on a stream.
        let carried = tokio::spawn(async move {
            let _admitted = admitted;
            room.carry_out(&agent, &unit, run, call, &tool, args, until, timeout).await
        });
        let bug = |error| {
            ToolError::new(ErrorCode::Internal, Outcome::Unknown, format!("loomd failed in a tool call: {error}"))
        };
        carried.await.unwrap_or_else(|error| Err(bug(error)))
    }

    /// The unit's run is over: what it has in progress is cancelled and its worker ends.
    pub async fn end_unit(&self, unit: &UnitId) {
        let agent = self.agents().get(unit).cloned();
        if let Some(agent) = agent {
            agent.over.notify_waiters();
            agent.hands.end().await;
        }
    }

    /// The unit is gone for good.
    pub fn forget(&self, unit: &UnitId) {
        self.agents().remove(unit);
    }

    fn agents(&self) -> MutexGuard<'_, HashMap<UnitId, Arc<Agent>>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn agent(&self, unit: &UnitId) -> Arc<Agent> {
        let fresh = || {
            Arc::new(Agent {
                hands: Arc::new(Hands::new(unit.clone(), self.spawner.clone(), self.idle_max)),
                admitted: Arc::new(Semaphore::new(CALLS_MAX + QUEUE_MAX)),
                working: Arc::new(Semaphore::new(CALLS_MAX)),
                rules: Mutex::new(None),
                over: Notify::new(),
            })
        };
        self.agents().entry(unit.clone()).or_insert_with(fresh).clone()
    }

    #[expect(clippy::too_many_arguments, reason = "one caller, and each is a fact of the call")]
    async fn carry_out(
        &self,
        agent: &Agent,
        unit: &Unit,
        run: RunId,
        call: String,
        tool: &str,
        args: Value,
        until: Instant,
        timeout: Duration,
    ) -> Result<Value, ToolError> {
        let started = Instant::now();
        // Made first: from here on it hears that the run is over, whatever else is being waited for meanwhile.
        let over = agent.over.notified();
        let Ok(Ok(_working)) = tokio::time::timeout_at(until, agent.working.acquire()).await else {
            return Err(timed_out(tool, timeout, Outcome::NotRun));
        };
        let name = Native::find(tool).map_or_else(|| tool.to_owned(), |native| native.name().to_owned());
        let entry = Entry { unit: unit.id.clone(), run, call, tool: name, arguments: shortened(&args) };
        let decided = decide(agent, unit, tool, &args);
        let (rule, outcome) = match &decided {
            Ok((_, rules)) => (may_be_allowed_by(rules), "allowed".to_owned()),
            Err(error) => (error.rule.clone().unwrap_or_default(), error.code.word().to_owned()),
        };
        if let Err(error) = self.audit.append(entry.record("decided", rule, outcome)).await {
            tracing::error!(unit = %unit.id, %run, tool, error, "a tool call was refused because it cannot be audited");
            let what = format!("`{tool}` was not carried out: the audit log cannot be written ({error})");
            return Err(ToolError::new(ErrorCode::Unavailable, Outcome::NotRun, what));
        }
        // What was refused has ended with its decision.
        let (call, rules) = decided.map_err(without_rule)?;
        let job = Job::new(run, call.tool().name(), args, roots(unit), rules);
        let outcome = |job: &Job| if job.was_sent() { Outcome::Unknown } else { Outcome::NotRun };
        let result = tokio::select! {
            biased;
            () = over => {
                let what = format!("`{tool}` was cancelled: the run of the agent that asked is over");
                Err(ToolError::new(ErrorCode::Cancelled, outcome(&job), what))
            }
            result = tokio::time::timeout_at(until, work(&agent.hands, &job, call.effect())) => {
                result.unwrap_or_else(|_| Err(timed_out(tool, timeout, outcome(&job))))
            }
        };
        let (rule, outcome) = match &result {
            Ok(_) => (String::new(), "ok"),
            Err(error) => {
                let word = error.reason.map_or(error.code.word(), loom_core::tools::Reason::word);
                (error.rule.clone().unwrap_or_default(), word)
            }
        };
        let mut record = entry.record("ended", rule, outcome.to_owned());
        record.duration_ms = Some(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
        record.result_bytes = result.as_ref().ok().map(|value| value.to_string().len() as u64);
        if let Err(error) = self.audit.append(record).await {
            tracing::error!(unit = %unit.id, %run, tool, error, "the end of a tool call could not be audited");
        }
        result.map_err(without_rule)
    }
}

/// Sends it, and once more if the worker died and repeating does no harm.
async fn work(hands: &Arc<Hands>, job: &Job, effect: Effect) -> Result<Value, ToolError> {
    let mut repeated = false;
    loop {
        match hands.carry_out(job).await {
            Ok(result) => return result,
            Err(Broken::Died { sent }) if !repeated && (!sent || effect != Effect::Once) => repeated = true,
            Err(broken) => return Err(broken.into_error(job.tool())),
        }
    }
}

fn decide(agent: &Agent, unit: &Unit, tool: &str, args: &Value) -> Result<(Call, PathRules), ToolError> {
    let unknown = || {
        let what = format!("there is no tool `{tool}` for this agent");
        ToolError::new(ErrorCode::ToolNotFound, Outcome::NotRun, what)
    };
    let native = Native::find(tool).ok_or_else(unknown)?;
    let rules = agent.rules(unit)?;
    // A tool that no rule allows is not in the agent's list: the same answer as for one that does not exist.
    if !rules.lists(native) {
        return Err(unknown());
    }
    let call = Call::parse(native, args)
        .map_err(|error| ToolError::new(ErrorCode::InvalidArguments, Outcome::NotRun, error.to_string()))?;
    match rules.decide(native, args) {
        Decision::Denied { rule } => Err(ToolError::denied(native.name(), Some(call.path()), rule)),
        Decision::Allowed { rules } => Ok((call, rules)),
    }
}

impl Agent {
    /// The unit's rules, compiled once as long as they stay the same.
    fn rules(&self, unit: &Unit) -> Result<Arc<Rules>, ToolError> {
        let mut kept = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((source, rules)) = &*kept
            && *source == unit.tools
        {
            return Ok(rules.clone());
        }
        let rules = Rules::compile(&unit.tools).map_err(|error| {
            let what = format!("the rules of {} were not checked when it was loaded: {error}", unit.id);
            ToolError::new(ErrorCode::Internal, Outcome::NotRun, what)
        })?;
        let rules = Arc::new(rules);
        *kept = Some((unit.tools.clone(), rules.clone()));
        Ok(rules)
    }
}

impl Entry {
    fn record(&self, stage: &str, rule: String, outcome: String) -> AuditRecord {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        AuditRecord {
            seq: 0,
            time: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            stage: stage.to_owned(),
            unit: self.unit.clone(),
            run: self.run,
            call: self.call.clone(),
            tool: self.tool.clone(),
            arguments: self.arguments.clone(),
            rule,
            outcome,
            duration_ms: None,
            result_bytes: None,
        }
    }
}

/// Which rules the path will be held against.
fn may_be_allowed_by(rules: &PathRules) -> String {
    let names: Vec<&str> = rules.allow.iter().map(|rule| rule.rule.as_str()).collect();
    names.join(" | ")
}

/// What the agent sees names no rule; the audit log does.
fn without_rule(error: ToolError) -> ToolError {
    ToolError { rule: None, ..error }
}

fn timed_out(tool: &str, timeout: Duration, outcome: Outcome) -> ToolError {
    let what = format!(
        "`{tool}` took longer than {} ms (`timeout` under [tools], or the caller's deadline)",
        timeout.as_millis()
    );
    ToolError::new(ErrorCode::Timeout, outcome, what)
}

fn roots(unit: &Unit) -> Roots {
    let paths = |grants: &[loom_core::unit::PathGrant]| grants.iter().map(|grant| grant.path.clone()).collect();
    Roots {
        workspace: unit.tools.workspace.clone(),
        read: paths(&unit.sandbox.read),
        write: paths(&unit.sandbox.write),
    }
}

/// Arguments for the audit log: long texts lose their end, and say how long they were.
fn shortened(args: &Value) -> Value {
    fn short(value: &Value) -> Value {
        match value {
            Value::String(text) if text.len() > AUDIT_TEXT_MAX_BYTES => {
                let head = &text[..text.floor_char_boundary(AUDIT_TEXT_MAX_BYTES)];
                Value::String(format!("{head}… ({} bytes)", text.len()))
            }
            Value::Array(values) => values.iter().map(short).collect(),
            Value::Object(map) => Value::Object(map.iter().map(|(key, value)| (key.clone(), short(value))).collect()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
        }
    }
    let short = short(args);
    let text = short.to_string();
    if text.len() <= AUDIT_ARGUMENTS_MAX_BYTES {
        return short;
    }
    // Its quotes are escaped once more when it is stored as a text, hence half.
    let head = &text[..text.floor_char_boundary(AUDIT_ARGUMENTS_MAX_BYTES / 2)];
    json!({ "cut": head, "bytes": text.len() })
}
