//! bus_client: the bus for units written in Rust.
//!
//! Job: connect to the unit's own socket, HELLO, publish, subscribe, deliveries, requests, replies, state and calls;
//! connect again when loomd is a new one. May touch: the wire, the `zeromq` crate.
//! Keeps: an unanswered request is asked again with its id after a reconnect; no send is ever cancelled half-way, because
//! the crate would drop the message (one task owns the socket); every wait has a limit.
//!
//! The crate's DEALER never reconnects by itself and does not say that its peer is gone, so the client looks: its own PING
//! every [`PING_EVERY`], and a new socket after [`PINGS_MISSED_MAX`] without a sign of life.

use crate::wire::{
    Cancel, Class, Code, Hello, Message, Offer, Op, Outcome, Ping, SPEC_VERSION, WIRE_VERSION, Welcome, WireError,
};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};
use zeromq::{DealerRecvHalf, DealerSendHalf, DealerSocket, Socket, SocketOptions, SocketRecv, SocketSend, ZmqMessage};

/// From connecting to WELCOME.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How often the connection is looked at.
pub const PING_EVERY: Duration = Duration::from_secs(2);
/// Silent intervals after which the connection is given up.
pub const PINGS_MISSED_MAX: u32 = 3;
/// How long no loomd may answer before the client gives up.
pub const RECONNECT_LIMIT: Duration = Duration::from_secs(30);
/// Messages that wait to be sent.
pub const OUTBOX: usize = 1024;
/// For answers that depend on loomd alone.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_LAST: Duration = Duration::from_secs(2);
/// What may be under way to us, unless [`Client::receive`] says otherwise.
const WINDOW: (u64, u64) = (64, 4 * 1024 * 1024);

/// Who connects, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `LOOM_SOCKET`.
    pub socket: PathBuf,
    /// `LOOM_UNIT`.
    pub unit: String,
    /// `LOOM_RUN`.
    pub run: u64,
    /// What lies in `LOOM_TOKEN_FD`.
    pub token: String,
    /// Filters that will be subscribed to; refused at HELLO if one is not granted.
    pub handlers: Vec<String>,
}

impl Settings {
    /// From the environment that loomd gives to agents.
    pub fn from_env() -> Result<Self, ClientError> {
        let var = |name: &'static str| std::env::var(name).map_err(|_| ClientError::NotStartedByLoomd(name));
        let token_fd = var("LOOM_TOKEN_FD")?;
        let token = std::fs::read_to_string(format!("/proc/self/fd/{token_fd}"))
            .map_err(|_| ClientError::NotStartedByLoomd("LOOM_TOKEN_FD"))?;
        Ok(Self {
            socket: var("LOOM_SOCKET")?.into(),
            unit: var("LOOM_UNIT")?,
            run: var("LOOM_RUN")?.parse().map_err(|_| ClientError::NotStartedByLoomd("LOOM_RUN"))?,
            token: token.trim().to_owned(),
            handlers: Vec::new(),
        })
    }
}

/// Why something did not work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ClientError {
    #[error("`{0}` is not set or not readable: only loomd can start this program as an agent")]
    NotStartedByLoomd(&'static str),
    #[error("loomd rejected the connection: {0}")]
    Rejected(WireError),
    #[error("loomd refused: {0}")]
    Refused(WireError),
    #[error("no loomd answered at `{0}` for {limit} s; see `loomctl status`", limit = RECONNECT_LIMIT.as_secs())]
    SupervisorGone(String),
    #[error("no answer within {0} ms")]
    Timeout(u128),
    #[error("{OUTBOX} messages wait to be sent; slow down")]
    Busy,
}

/// An answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub header: crate::wire::Header,
    pub data: Bytes,
}

/// A connection that survives loomd. A clone speaks through the same one; it ends with the last clone.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    outbox: mpsc::Sender<Message>,
}

/// What arrives: DELIVER, CANCEL, DRAIN.
#[derive(Debug)]
pub struct Deliveries {
    incoming: mpsc::UnboundedReceiver<Message>,
    client: Client,
    taken: (u64, u64),
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    last_id: AtomicU64,
    nonce: u64,
    state: Mutex<State>,
    /// `None` until the first WELCOME.
    welcome: watch::Sender<Option<Result<Welcome, ClientError>>>,
}

#[derive(Debug, Default)]
struct State {
    pending: HashMap<String, Pending>,
    filters: Vec<String>,
    window: Option<(u64, u64)>,
    /// Deliveries not yet settled, to be named in the next HELLO.
    holds: Vec<String>,
}

#[derive(Debug)]
struct Pending {
    message: Message,
    answer: oneshot::Sender<Message>,
    progress: Option<mpsc::Sender<Bytes>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_id(&self) -> String {
        format!("{:016x}-{}", self.nonce, self.last_id.fetch_add(1, Ordering::Relaxed))
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Client {
    /// Connects and says HELLO; returns once welcomed.
    pub async fn connect(settings: Settings) -> Result<(Self, Deliveries), ClientError> {
        use std::hash::{BuildHasher, Hasher};
        let nonce = std::collections::hash_map::RandomState::new().build_hasher().finish();
        let shared = Arc::new(Shared {
            settings,
            last_id: AtomicU64::new(1),
            nonce,
            state: Mutex::default(),
            welcome: watch::Sender::new(None),
        });
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        // Bounded by the credit given.
        let (incoming, deliveries) = mpsc::unbounded_channel();
        let mut welcomed = shared.welcome.subscribe();
        tokio::spawn(keep(shared.clone(), outgoing, incoming));
        let client = Self { shared, outbox };
        let first = welcomed.wait_for(Option::is_some).await.map(|first| first.clone());
        match first {
            Ok(Some(Ok(_))) => Ok((client.clone(), Deliveries { incoming: deliveries, client, taken: (0, 0) })),
            Ok(Some(Err(error))) => Err(error),
            Ok(None) | Err(_) => Err(ClientError::SupervisorGone(client.socket())),
        }
    }

    /// What the last WELCOME said.
    pub fn welcome(&self) -> Option<Welcome> {
        self.shared.welcome.borrow().clone().and_then(Result::ok)
    }

    fn socket(&self) -> String {
        self.shared.settings.socket.display().to_string()
    }

    fn send(&self, message: Message) -> Result<(), ClientError> {
        self.outbox.try_send(message).map_err(|fault| match fault {
            mpsc::error::TrySendError::Full(_) => ClientError::Busy,
            mpsc::error::TrySendError::Closed(_) => ClientError::SupervisorGone(self.socket()),
        })
    }

    /// Sends a message with an id and waits for its one answer. Asked again, with its id, after a reconnect.
    pub async fn ask(
        &self,
        message: Message,
        limit: Duration,
        progress: Option<mpsc::Sender<Bytes>>,
    ) -> Result<Answer, ClientError> {
        let id = message.id().expect("who asks gives an id").to_owned();
        let (sender, answer) = oneshot::channel();
        let is_request = message.op == Op::Request;
        let pending = Pending { message: message.clone(), answer: sender, progress };
        self.shared.state().pending.insert(id.clone(), pending);
        // Taken out again however this ends, also when it is dropped half-way; a request is then taken back.
        let waiting = Waiting { client: self, id: &id, is_request };
        self.send(message)?;
        let answer = tokio::time::timeout(limit, answer).await;
        let answer = match answer {
            Err(_) => return Err(ClientError::Timeout(limit.as_millis())),
            Ok(Err(_)) => return Err(ClientError::SupervisorGone(self.socket())),
            Ok(Ok(answer)) => answer,
        };
        drop(waiting);
        match answer.op {
            Op::Error => Err(ClientError::Refused(answer.parse().unwrap_or_else(|fault| fault))),
            _ => Ok(Answer { header: answer.header, data: answer.data.unwrap_or_default() }),
        }
    }

    fn event(&self, op: Op, topic: &str, more: Value) -> Message {
        let mut header = json!({
            "id": self.shared.new_id(), "specversion": SPEC_VERSION, "type": topic, "topic": topic,
            "datacontenttype": "application/json",
        });
        let map = header.as_object_mut().expect("written as an object");
        map.extend(more.as_object().expect("callers write objects").clone());
        Message::new(op, &header)
    }

    /// Publishes a batched event; returns once the broker has it.
    pub async fn publish(&self, topic: &str, data: impl Into<Bytes>, more: Value) -> Result<Answer, ClientError> {
        self.ask(self.event(Op::Publish, topic, more).with_data(data), ANSWER_LIMIT, None).await
    }

    /// Publishes a realtime event; nothing comes back.
    pub fn publish_realtime(&self, topic: &str, data: impl Into<Bytes>) -> Result<(), ClientError> {
        self.send(self.event(Op::Publish, topic, json!({ "qos": Class::Realtime })).with_data(data))
    }

    /// Subscribes, also after every reconnect; returns the subscription's name.
    pub async fn subscribe(&self, filter: &str) -> Result<String, ClientError> {
        let message = Message::new(Op::Subscribe, &json!({"id": self.shared.new_id(), "filter": filter}));
        let answer = self.ask(message, ANSWER_LIMIT, None).await?;
        self.shared.state().filters.push(filter.to_owned());
        Ok(answer.header.get("sub").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Takes a subscription away.
    pub async fn unsubscribe(&self, sub: &str, filter: &str) -> Result<(), ClientError> {
        let message = Message::new(Op::Unsubscribe, &json!({"id": self.shared.new_id(), "sub": sub}));
        self.ask(message, ANSWER_LIMIT, None).await?;
        self.shared.state().filters.retain(|known| known != filter);
        Ok(())
    }

    /// Lets deliveries come, at most that many messages and bytes ahead of [`Deliveries::next`].
    pub fn receive(&self, messages: u64, bytes: u64) -> Result<(), ClientError> {
        self.shared.state().window = Some((messages, bytes));
        self.send(Message::new(Op::Credit, &json!({"messages": messages, "bytes": bytes})))
    }

    /// Lets deliveries come, with the usual window.
    pub fn receive_some(&self) -> Result<(), ClientError> {
        self.receive(WINDOW.0, WINDOW.1)
    }

    /// Asks whoever subscribed to the topic for an answer; progress on the way goes to `progress`. Dropping it cancels.
    pub async fn request(
        &self,
        topic: &str,
        data: impl Into<Bytes>,
        timeout: Duration,
        progress: Option<mpsc::Sender<Bytes>>,
    ) -> Result<Answer, ClientError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let deadline = now_ms().saturating_add(timeout_ms);
        let message = self.event(Op::Request, topic, json!({ "deadline": deadline })).with_data(data);
        // The broker owns the deadline; ours only covers its silence.
        self.ask(message, timeout.saturating_add(ANSWER_LIMIT), progress).await
    }

    fn settle(&self, delivery: &str, message: Message) -> Result<(), ClientError> {
        self.shared.state().holds.retain(|held| held != delivery);
        self.send(message)
    }

    /// The delivery is done with.
    pub fn ack(&self, delivery: &str) -> Result<(), ClientError> {
        self.settle(delivery, Message::new(Op::Ack, &json!({ "delivery": delivery })))
    }

    /// The delivery could not be handled; `again_after` asks for another attempt.
    pub fn nack(&self, delivery: &str, reason: &str, again_after: Option<Duration>) -> Result<(), ClientError> {
        let mut header = json!({"delivery": delivery, "final": again_after.is_none(), "reason": reason});
        if let Some(wait) = again_after {
            header["retry_after"] = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).into();
        }
        self.settle(delivery, Message::new(Op::Nack, &header))
    }

    /// Answers a delivered request.
    pub fn reply(&self, delivery: &str, data: impl Into<Bytes>) -> Result<(), ClientError> {
        self.settle(delivery, Message::new(Op::Reply, &json!({ "about": delivery })).with_data(data))
    }

    /// Tells the caller of a delivered request how it goes; `replyto` is the delivery's.
    pub fn progress(&self, replyto: &str, data: impl Into<Bytes>) -> Result<(), ClientError> {
        self.publish_realtime(&format!("{replyto}.progress"), data)
    }

    /// STATE, CALL and what has no method of its own: the header gets an id.
    pub async fn operate(&self, op: Op, mut header: Value, data: Option<Bytes>) -> Result<Answer, ClientError> {
        header["id"] = self.shared.new_id().into();
        let mut message = Message::new(op, &header);
        message.data = data;
        self.ask(message, ANSWER_LIMIT, None).await
    }

    /// Ends the connection on purpose.
    pub fn goodbye(&self) -> Result<(), ClientError> {
        self.send(Message::new(Op::Goodbye, &json!({})))
    }
}

/// A question that waits for its answer.
struct Waiting<'a> {
    client: &'a Client,
    id: &'a str,
    is_request: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let unanswered = self.client.shared.state().pending.remove(self.id).is_some();
        if unanswered && self.is_request {
            // Best effort: the deadline ends it too.
            let _ = self.client.send(Message::new(Op::Cancel, &Cancel { about: self.id.to_owned() }));
        }
    }
}

impl Deliveries {
    /// The next thing that arrives; `None` once the client has given up.
    pub async fn next(&mut self) -> Option<Message> {
        let message = self.incoming.recv().await?;
        if message.op == Op::Deliver {
            self.taken.0 += 1;
            self.taken.1 += message.data_len() as u64;
            let window = self.client.shared.state().window.unwrap_or(WINDOW);
            if self.taken.0 * 2 >= window.0 || self.taken.1 * 2 >= window.1 {
                let header = json!({"messages": self.taken.0, "bytes": self.taken.1});
                // Not sent: the window is given anew after the reconnect.
                if self.client.send(Message::new(Op::Credit, &header)).is_ok() {
                    self.taken = (0, 0);
                }
            }
        }
        Some(message)
    }
}

/// Keeps a connection until the last client is gone or nobody answers any more.
async fn keep(shared: Arc<Shared>, mut outgoing: mpsc::Receiver<Message>, incoming: mpsc::UnboundedSender<Message>) {
    let mut alone_since = tokio::time::Instant::now();
    let mut backoff = BACKOFF_FIRST;
    let mut again = false;
    loop {
        match open(&shared).await {
            Ok((mut send, mut recv, welcome)) => {
                shared.welcome.send_replace(Some(Ok(welcome)));
                if again && !resume(&shared, &mut send, &mut outgoing).await {
                    continue;
                }
                let ended = converse(&shared, &mut send, &mut recv, &mut outgoing, &incoming).await;
                if ended {
                    return;
                }
                (alone_since, backoff, again) = (tokio::time::Instant::now(), BACKOFF_FIRST, true);
            }
            Err(ClientError::Rejected(error)) if error.code != Code::AlreadyConnected => {
                shared.welcome.send_replace(Some(Err(ClientError::Rejected(error))));
                break;
            }
            Err(error) if alone_since.elapsed() > RECONNECT_LIMIT => {
                shared.welcome.send_replace(Some(Err(error)));
                break;
            }
            Err(_) => {}
        }
        // Spread by the clock's last digits, so that many units do not come back at one moment.
        let jitter = Duration::from_micros(now_ms() % 50 * 1000);
        tokio::time::sleep(backoff + jitter).await;
        backoff = (backoff * 2).min(BACKOFF_LAST);
    }
    // Dropping the senders tells who waits.
    shared.state().pending.clear();
}

fn to_zmq(message: &Message) -> ZmqMessage {
    ZmqMessage::try_from(message.frames()).expect("a message has frames")
}

async fn open(shared: &Shared) -> Result<(DealerSendHalf, DealerRecvHalf, Welcome), ClientError> {
    let settings = &shared.settings;
    let gone = || ClientError::SupervisorGone(settings.socket.display().to_string());
    let opened = tokio::time::timeout(CONNECT_LIMIT, async {
        let mut options = SocketOptions::default();
        options.connect_timeout(CONNECT_LIMIT);
        let mut socket = DealerSocket::with_options(options);
        socket.connect(&format!("ipc://{}", settings.socket.display())).await.map_err(|_| gone())?;
        let hello = Hello {
            id: shared.new_id(),
            versions: vec![WIRE_VERSION],
            unit: settings.unit.clone(),
            run: settings.run,
            token: Some(settings.token.clone()),
            sdk: concat!("loom-api ", env!("CARGO_PKG_VERSION")).to_owned(),
            code_hash: None,
            holds: shared.state().holds.clone(),
        };
        let offer = Offer { handlers: settings.handlers.clone(), tools: vec![] };
        let offer = serde_json::to_vec(&offer).expect("a list of texts");
        socket.send(to_zmq(&Message::new(Op::Hello, &hello).with_data(offer))).await.map_err(|_| gone())?;
        let answer =
            Message::decode(&socket.recv().await.map_err(|_| gone())?.into_vec()).map_err(ClientError::Refused)?;
        match answer.op {
            Op::Welcome => {
                let (send, recv) = socket.split();
                Ok((send, recv, answer.parse().map_err(ClientError::Refused)?))
            }
            Op::Reject => Err(ClientError::Rejected(answer.parse().unwrap_or_else(|fault| fault))),
            _ => Err(gone()),
        }
    });
    opened.await.map_err(|_| gone())?
}

/// After a reconnect: subscriptions, window and open questions again.
async fn resume(shared: &Shared, send: &mut DealerSendHalf, outgoing: &mut mpsc::Receiver<Message>) -> bool {
    let mut unsent = Vec::new();
    while let Ok(message) = outgoing.try_recv() {
        unsent.push(message);
    }
    let messages: Vec<Message> = {
        let state = shared.state();
        // An open question is asked once, and not again from the outbox.
        unsent.retain(|message| message.id().is_none_or(|id| !state.pending.contains_key(id)));
        let filters = state.filters.iter();
        filters
            .map(|filter| Message::new(Op::Subscribe, &json!({"id": shared.new_id(), "filter": filter})))
            .chain(
                state
                    .window
                    .map(|(messages, bytes)| Message::new(Op::Credit, &json!({"messages": messages, "bytes": bytes}))),
            )
            .chain(state.pending.values().map(|pending| pending.message.clone()))
            .chain(unsent)
            .collect()
    };
    for message in &messages {
        if send.send(to_zmq(message)).await.is_err() {
            return false;
        }
    }
    true
}

/// Moves messages until the connection is lost (`false`) or nobody uses it any more (`true`).
async fn converse(
    shared: &Shared,
    send: &mut DealerSendHalf,
    recv: &mut DealerRecvHalf,
    outgoing: &mut mpsc::Receiver<Message>,
    incoming: &mpsc::UnboundedSender<Message>,
) -> bool {
    let mut ticks = tokio::time::interval(PING_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut silent = 0;
    loop {
        // Only `recv` of the socket is raced: a cancelled `send` would lose its message.
        tokio::select! {
            message = outgoing.recv() => {
                let Some(message) = message else { return true };
                let ends = message.op == Op::Goodbye;
                if send.send(to_zmq(&message)).await.is_err() {
                    return false;
                }
                if ends {
                    // The broker closes once it has read it.
                    let _ = tokio::time::timeout(ANSWER_LIMIT, recv.recv()).await;
                    return true;
                }
            }
            message = recv.recv() => {
                let Ok(message) = message else { return false };
                silent = 0;
                match Message::decode(&message.into_vec()) {
                    Ok(message) => hear(shared, message, incoming),
                    Err(error) => {
                        if send.send(to_zmq(&error.about(None))).await.is_err() {
                            return false;
                        }
                    }
                }
            }
            _ = ticks.tick() => {
                if silent >= PINGS_MISSED_MAX {
                    return false;
                }
                silent += 1;
                let ping = Ping { id: Some(shared.new_id()), about: None, answer: None };
                if send.send(to_zmq(&Message::new(Op::Ping, &ping))).await.is_err() {
                    return false;
                }
            }
        }
    }
}

fn hear(shared: &Shared, message: Message, incoming: &mpsc::UnboundedSender<Message>) {
    match message.op {
        Op::Ok | Op::Result | Op::Error => {
            let about = message.text("about").unwrap_or_default();
            if let Some(pending) = shared.state().pending.remove(about) {
                // Whoever asked may have left.
                let _ = pending.answer.send(message);
            }
        }
        Op::Deliver => {
            let progress =
                message.text("topic").is_some_and(|topic| topic.starts_with("reply.") && topic.ends_with(".progress"));
            let mut state = shared.state();
            if progress {
                let asked = state.pending.get(message.text("correlationid").unwrap_or_default());
                if let (Some(sender), Some(data)) = (asked.and_then(|asked| asked.progress.as_ref()), &message.data) {
                    // Lossy by its class.
                    let _ = sender.try_send(data.clone());
                }
            } else {
                let batched = message.text("qos") != Some("realtime");
                state.holds.extend(message.text("delivery").filter(|_| batched).map(str::to_owned));
            }
            drop(state);
            let _ = incoming.send(message);
        }
        Op::Cancelled | Op::Drain => {
            let _ = incoming.send(message);
        }
        // A sign of life, and what only units send.
        _ => {}
    }
}

impl ClientError {
    /// Whether what was asked happened, if loomd said so.
    pub fn outcome(&self) -> Option<Outcome> {
        match self {
            ClientError::Refused(error) | ClientError::Rejected(error) => error.outcome,
            ClientError::Busy | ClientError::NotStartedByLoomd(_) => Some(Outcome::NotRun),
            ClientError::SupervisorGone(_) | ClientError::Timeout(_) => Some(Outcome::Unknown),
        }
    }
}
