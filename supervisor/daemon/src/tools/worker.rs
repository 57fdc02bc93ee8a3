//! worker: one agent's hands.
//!
//! Job: keep at most one `loom-worker` per agent, started on the first call, gone after a minute without one; send a call,
//! await its answer. May touch: the spawner, its stream. Keeps: one call at a time on a stream, so whatever goes wrong with
//! a stream (a late answer, a death, a timeout) costs that call only: the stream is dropped and the worker ends.

use super::{WorkerConn, WorkerSpawner};
use loom_core::ids::{RunId, UnitId};
use loom_core::tools::{
    ErrorCode, Outcome, PathRules, Roots, ToolError, WORKER_MESSAGE_MAX_BYTES, WorkerAnswer, WorkerRequest,
};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A worker without calls ends after this.
pub const IDLE_MAX: Duration = Duration::from_secs(60);

/// The place of one agent's worker.
pub struct Hands {
    unit: UnitId,
    spawner: Arc<dyn WorkerSpawner>,
    idle_max: Duration,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    live: Option<Live>,
    next_id: u64,
    /// A task waits for the worker to become idle.
    watched: bool,
}

struct Live {
    conn: WorkerConn,
    run: RunId,
    used: Instant,
    unit: UnitId,
    spawner: Arc<dyn WorkerSpawner>,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.spawner.ended(&self.unit, self.conn.pid);
    }
}

impl Live {
    /// Still open, and nothing in it: a byte that nobody asked for is as bad as an end.
    fn is_sound(&self) -> bool {
        let mut byte = [0];
        matches!(self.conn.stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

/// What to do with one call.
pub struct Job {
    run: RunId,
    tool: &'static str,
    args: Value,
    roots: Roots,
    rules: PathRules,
    sent: AtomicBool,
}

impl Job {
    pub fn new(run: RunId, tool: &'static str, args: Value, roots: Roots, rules: PathRules) -> Self {
        Self { run, tool, args, roots, rules, sent: AtomicBool::new(false) }
    }

    /// Whether a worker may have got it.
    pub fn was_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn tool(&self) -> &'static str {
        self.tool
    }
}

/// How a call failed at the worker, apart from the tool's own answer.
pub enum Broken {
    /// It could not be started.
    Start(String),
    /// It ended; whether the request had been sent.
    Died { sent: bool },
    /// It answered something else.
    Nonsense(String),
    /// The request does not fit in a message.
    TooLarge,
}

impl Hands {
    pub fn new(unit: UnitId, spawner: Arc<dyn WorkerSpawner>, idle_max: Duration) -> Self {
        Self { unit, spawner, idle_max, slot: Mutex::default() }
    }

    /// Carries out one call. If the future is dropped in between, so is the stream, and with it the worker.
    pub async fn carry_out(self: &Arc<Self>, job: &Job) -> Result<Result<Value, ToolError>, Broken> {
        let mut slot = self.slot.lock().await;
        slot.next_id += 1;
        let request = WorkerRequest {
            id: slot.next_id,
            tool: job.tool.to_owned(),
            args: job.args.clone(),
            roots: job.roots.clone(),
            rules: job.rules.clone(),
        };
        let mut text = vec![0; 4];
        serde_json::to_writer(&mut text, &request).expect("a request is plain data");
        let length = text.len() - 4;
        if length > WORKER_MESSAGE_MAX_BYTES {
            return Err(Broken::TooLarge);
        }
        text[..4].copy_from_slice(&u32::try_from(length).expect("at most 16 MiB").to_be_bytes());
        // Taken out of the slot: only a call that ends well puts it back.
        let mut live = match slot.live.take().filter(|live| live.run == job.run && live.is_sound()) {
            Some(live) => live,
            None => {
                let conn = self.spawner.spawn(&self.unit).await.map_err(Broken::Start)?;
                let (unit, spawner) = (self.unit.clone(), self.spawner.clone());
                Live { conn, run: job.run, used: Instant::now(), unit, spawner }
            }
        };
        job.sent.store(true, Ordering::Relaxed);
        if live.conn.stream.write_all(&text).await.is_err() {
            // Part of it may have arrived, but a part is never carried out.
            return Err(Broken::Died { sent: false });
        }
        let answer = receive(&mut live.conn).await?;
        if answer.id != request.id {
            return Err(Broken::Nonsense(format!("an answer to call {} instead of {}", answer.id, request.id)));
        }
        live.used = Instant::now();
        slot.live = Some(live);
        if !slot.watched {
            slot.watched = true;
            tokio::spawn(self.clone().end_when_idle());
        }
        Ok(answer.result.into())
    }

    /// Sleeps until the worker would have been idle long enough; no other wake-ups.
    async fn end_when_idle(self: Arc<Self>) {
        let mut until = Instant::now() + self.idle_max;
        loop {
            tokio::time::sleep_until(until).await;
            let mut slot = self.slot.lock().await;
            match &slot.live {
                Some(live) if live.used.elapsed() < self.idle_max => until = live.used + self.idle_max,
                Some(_) | None => {
                    slot.live = None;
                    slot.watched = false;
                    return;
                }
            }
        }
    }

    /// Ends the worker, once the call in progress (if any) is over.
    pub async fn end(&self) {
        self.slot.lock().await.live = None;
    }
}

async fn receive(conn: &mut WorkerConn) -> Result<WorkerAnswer, Broken> {
    let mut length = [0; 4];
    conn.stream.read_exact(&mut length).await.map_err(|_| Broken::Died { sent: true })?;
    let length = u32::from_be_bytes(length) as usize;
    if length > WORKER_MESSAGE_MAX_BYTES {
        return Err(Broken::Nonsense(format!("an answer of {length} bytes")));
    }
    let mut text = vec![0; length];
    conn.stream.read_exact(&mut text).await.map_err(|_| Broken::Died { sent: true })?;
    serde_json::from_slice(&text).map_err(|error| Broken::Nonsense(format!("an unreadable answer: {error}")))
}

impl Broken {
    pub fn into_error(self, tool: &str) -> ToolError {
        match self {
            Broken::Start(why) => {
                let what = format!("the worker that carries out `{tool}` could not be started: {why}");
                ToolError::new(ErrorCode::ServerFailed, Outcome::NotRun, what)
            }
            Broken::Died { sent } => {
                let outcome = if sent { Outcome::Unknown } else { Outcome::NotRun };
                let what = format!("the worker ended while it carried out `{tool}`");
                ToolError::new(ErrorCode::ServerDied, outcome, what)
            }
            Broken::Nonsense(what) => {
                ToolError::new(ErrorCode::ProtocolError, Outcome::Unknown, format!("the worker gave {what}"))
            }
            Broken::TooLarge => {
                let what = format!("the call is larger than {WORKER_MESSAGE_MAX_BYTES} bytes");
                ToolError::new(ErrorCode::InvalidArguments, Outcome::NotRun, what)
            }
        }
    }
}
