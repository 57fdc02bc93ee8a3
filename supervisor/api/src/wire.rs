//! wire: what an agent and loomd say to each other: frames, header, operations, errors.
//!
//! Job: operations and their words, header limits, encoding and decoding of messages, the error object, golden messages.
//! May touch: loom-core. May not: sockets; frames come and go as bytes.
//! Keeps: a message is `[op: 2 bytes][header: JSON object][data: raw, optional]`; every bound is checked before use, and
//! `schemas/golden/` is printed from here, so that both languages read the same messages.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// The version that `HELLO` agrees on; also the first byte of every op.
pub const WIRE_VERSION: u32 = 1;
/// The longest header frame.
pub const HEADER_MAX_BYTES: usize = 16 * 1024;
/// The most keys of a header.
pub const HEADER_MAX_KEYS: usize = 64;
/// How deep lists and objects may nest inside a header.
pub const HEADER_MAX_DEPTH: usize = 2;
/// The longest name of an attribute of an event; CloudEvents' rule.
pub const ATTRIBUTE_MAX_BYTES: usize = 20;
/// The longest data frame of a unit that names no other limit: 1 MiB.
pub const MESSAGE_MAX_BYTES: usize = 1024 * 1024;
/// The most bytes of a whole message, whatever a unit names: 16 MiB.
pub const MESSAGE_HARD_MAX_BYTES: usize = 16 * 1024 * 1024;
/// The most frames of a message.
pub const FRAMES_MAX: usize = 16;
/// The most subscriptions of a unit.
pub const SUBSCRIPTIONS_MAX: usize = 1000;
/// The longest `id` of a message.
pub const ID_MAX_BYTES: usize = 128;
/// The `specversion` of every event.
pub const SPEC_VERSION: &str = "1.0";

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $code:literal $word:literal $from:ident;)*) => {
        /// An operation. Upper case is sent by the unit, lower case by loomd.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Op { $($(#[$doc])* $name,)* }

        impl Op {
            /// All operations of this version.
            pub const ALL: &[Op] = &[$(Op::$name),*];

            /// The first frame.
            pub fn code(self) -> &'static str {
                match self { $(Op::$name => $code,)* }
            }

            /// The word used in documents, logs and code.
            pub fn word(self) -> &'static str {
                match self { $(Op::$name => $word,)* }
            }

            /// Who sends it.
            pub fn from(self) -> Side {
                match self { $(Op::$name => Side::$from,)* }
            }

            /// The operation of a first frame.
            pub fn parse(frame: &[u8]) -> Option<Op> {
                Op::ALL.iter().copied().find(|op| op.code().as_bytes() == frame)
            }
        }
    };
}

/// Who sends a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Unit,
    Loomd,
}

ops! {
    /// Who speaks: the first message of a connection. Data: [`Offer`].
    Hello = "1H" "HELLO" Unit;
    /// Answer to HELLO.
    Welcome = "1h" "WELCOME" Loomd;
    /// Answer to HELLO; the connection is closed after it.
    Reject = "1j" "REJECT" Loomd;
    /// An event. Answered by OK or ERROR, by nothing in class `realtime`.
    Publish = "1P" "PUBLISH" Unit;
    /// Adds a filter.
    Subscribe = "1S" "SUBSCRIBE" Unit;
    /// Takes a filter away.
    Unsubscribe = "1U" "UNSUBSCRIBE" Unit;
    /// How much more may be delivered; starts at zero, is added to what is left.
    Credit = "1C" "CREDIT" Unit;
    /// An event or request for the unit.
    Deliver = "1d" "DELIVER" Loomd;
    /// A delivery is done with.
    Ack = "1A" "ACK" Unit;
    /// A delivery could not be handled.
    Nack = "1N" "NACK" Unit;
    /// Asks whoever subscribed to the topic for one answer before a deadline.
    Request = "1Q" "REQUEST" Unit;
    /// The answer to a delivered request.
    Reply = "1R" "REPLY" Unit;
    /// Takes an own request back.
    Cancel = "1X" "CANCEL" Unit;
    /// The work on a delivery is not wanted any more.
    Cancelled = "1x" "CANCEL" Loomd;
    /// The unit's own state.
    State = "1K" "STATE" Unit;
    /// A tool, carried out by loomd's hands.
    Call = "1L" "CALL" Unit;
    /// Are you there? From the unit.
    Ping = "1I" "PING" Unit;
    /// Are you there? From loomd; also its answer to the unit's.
    PingBack = "1i" "PING" Loomd;
    /// The one answer to a request, a state verb or a call.
    Result = "1r" "RESULT" Loomd;
    /// Done.
    Ok = "1k" "OK" Loomd;
    /// Not done: [`WireError`].
    Error = "1e" "ERROR" Loomd;
    /// End what you are doing, take nothing new.
    Drain = "1n" "DRAIN" Loomd;
    /// The unit ends its connection on purpose.
    Goodbye = "1Y" "GOODBYE" Unit;
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal $retry:ident;)*) => {
        /// Why something was not done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Code { $($(#[$doc])* #[serde(rename = $word)] $name,)* }

        impl Code {
            /// All codes.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            /// As it is written on the wire.
            pub fn word(self) -> &'static str {
                match self { $(Code::$name => $word,)* }
            }

            /// Whether it helps to try again, unless the error says otherwise.
            pub fn retry(self) -> Retry {
                match self { $(Code::$name => Retry::$retry,)* }
            }
        }
    };
}

codes! {
    /// The header breaks a limit or lacks an attribute.
    BadHeader = "bad-header" Never;
    /// No topic or filter.
    BadTopic = "bad-topic" Never;
    /// Not granted; the message names the line.
    Denied = "denied" Never;
    /// A grant went away while it was in use.
    Revoked = "revoked" Never;
    /// A frame over its limit.
    TooBig = "too-big" Never;
    /// Over a count.
    TooMany = "too-many" Never;
    /// A queue is full.
    Busy = "busy" Later;
    /// No space left for the store.
    StoreFull = "store-full" Later;
    /// The store could not write.
    StoreError = "store-error" Later;
    /// The same id came with other data.
    IdConflict = "id-conflict" Never;
    /// The data breaks its schema.
    Schema = "schema" Never;
    /// Older than what is kept.
    Trimmed = "trimmed" Never;
    /// Nobody subscribed to the topic of a request.
    NoReceiver = "no-receiver" Later;
    /// The holder of a request died or gave up.
    UnitFailed = "unit-failed" Later;
    /// The time given is over.
    Deadline = "deadline" Never;
    /// Taken back by its caller.
    Cancelled = "cancelled" Never;
    /// The version is another one; the answer has the true one.
    Conflict = "conflict" Now;
    /// The run is not the unit's current one.
    Fenced = "fenced" Never;
    /// Over the space granted.
    Quota = "quota" Never;
    /// Passed on too often; the message lists the path.
    Hops = "hops" Never;
    /// Not an operation of this version.
    UnknownOp = "unknown-op" Never;
    /// REJECT: the token is not this run's.
    BadToken = "bad-token" Never;
    /// REJECT: a former run.
    StaleRun = "stale-run" Never;
    /// REJECT: another connection of this run lives.
    AlreadyConnected = "already-connected" Later;
    /// REJECT: no version in common.
    Version = "version" Never;
    /// What the unit may use up is used up; the message says until when.
    BudgetExhausted = "budget-exhausted" Later;
    /// That event ended several runs of its receiver in a row and is delivered to it no more.
    Poisoned = "poisoned" Never;
    /// Tools: unknown, or not in this agent's list.
    ToolNotFound = "tool-not-found" Never;
    /// Tools: names the JSON pointer and what was expected.
    InvalidArguments = "invalid-arguments" Never;
    /// Tools: queue full or nobody to do it.
    Unavailable = "unavailable" Later;
    /// Tools: could not start.
    ServerFailed = "server-failed" Later;
    /// Tools: ended in the call.
    ServerDied = "server-died" Later;
    /// Tools: took too long.
    Timeout = "timeout" Later;
    /// Tools: unusable answer.
    ProtocolError = "protocol-error" Never;
    /// Tools: result over its hard limit.
    ResultTooLarge = "result-too-large" Never;
    /// Tools: the tool's own failure.
    ToolError = "tool-error" Never;
    /// A fault in loomd.
    Internal = "internal" Never;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Whether it helps to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Retry {
    Never,
    Later,
    Now,
}

/// Whether what was asked happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    NotRun,
    Unknown,
    Done,
}

/// The header of ERROR and REJECT, without `about`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WireError {
    /// Why.
    pub code: Code,
    /// What, on what, why, next step.
    pub message: String,
    /// Whether it helps to try again.
    pub retry: Retry,
    /// When to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Whether it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// `conflict`: the true version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

impl WireError {
    /// An error with the code's usual advice; outcome `not-run`.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry: code.retry(),
            retry_after_ms: None,
            outcome: Some(Outcome::NotRun),
            version: None,
        }
    }

    /// With another outcome.
    #[must_use]
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// With a time to wait.
    #[must_use]
    pub fn retry_after_ms(mut self, retry_after_ms: u64) -> Self {
        self.retry_after_ms = Some(retry_after_ms);
        self
    }

    /// `conflict` with the true version.
    pub fn conflict(version: u64, message: impl Into<String>) -> Self {
        Self { version: Some(version), ..Self::new(Code::Conflict, message) }
    }

    /// As ERROR about that id; without an id about the connection.
    pub fn about(&self, id: Option<&str>) -> Message {
        let mut header = to_map(self);
        if let Some(id) = id {
            header.insert("about".to_owned(), id.into());
        }
        Message { op: Op::Error, header, data: None }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for WireError {}

/// A header as it came: names to JSON values.
pub type Header = Map<String, Value>;

/// A message, whole and within its limits.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// What it is.
    pub op: Op,
    /// Its header.
    pub header: Header,
    /// Its data frame.
    pub data: Option<Bytes>,
}

impl Message {
    /// A message from a header that serializes to an object.
    pub fn new(op: Op, header: &impl Serialize) -> Self {
        Self { op, header: to_map(header), data: None }
    }

    /// With data.
    #[must_use]
    pub fn with_data(mut self, data: impl Into<Bytes>) -> Self {
        self.data = Some(data.into());
        self
    }

    /// Reads frames. The error is an ERROR's content; [`about`] finds the id that it is about.
    pub fn decode(frames: &[Bytes]) -> Result<Self, WireError> {
        let [op, header, data @ ..] = frames else {
            return Err(WireError::new(Code::BadHeader, "a message has at least two frames: op and header"));
        };
        let op = Op::parse(op).ok_or_else(|| {
            let shown = String::from_utf8_lossy(&op[..op.len().min(8)]).into_owned();
            WireError::new(Code::UnknownOp, format!("`{shown}` is no operation of wire version {WIRE_VERSION}"))
        })?;
        let header = parse_header(header)?;
        let data = match data {
            [] => None,
            [data] => Some(data.clone()),
            more => {
                let text = format!("{op} has {} data frames; it may have one", more.len());
                return Err(WireError::new(Code::BadHeader, text));
            }
        };
        Ok(Self { op, header, data })
    }

    /// The frames to send.
    pub fn frames(&self) -> Vec<Bytes> {
        let header = serde_json::to_vec(&self.header).expect("a map of JSON values has no other keys than text");
        let mut frames = vec![Bytes::from_static(self.op.code().as_bytes()), header.into()];
        frames.extend(self.data.clone());
        frames
    }

    /// Header as its type; unknown keys are ignored.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, WireError> {
        T::deserialize(&self.header).map_err(|fault| {
            WireError::new(Code::BadHeader, format!("the header of {} does not fit: {fault}", self.op))
        })
    }

    /// The message's `id`.
    pub fn id(&self) -> Option<&str> {
        self.text("id")
    }

    /// A header value that is text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.header.get(key).and_then(Value::as_str)
    }

    /// A header value that is a whole number from zero.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.header.get(key).and_then(Value::as_u64)
    }

    /// Bytes of its data.
    pub fn data_len(&self) -> usize {
        self.data.as_ref().map_or(0, Bytes::len)
    }
}

/// A header that serializes to an object.
fn to_map(header: &impl Serialize) -> Header {
    match serde_json::to_value(header).expect("headers are plain data") {
        Value::Object(map) => map,
        other => unreachable!("a header is an object, not {other}"),
    }
}

/// The `id` of a message that may be otherwise unusable.
pub fn about(frames: &[Bytes]) -> Option<String> {
    let header = frames.get(1).filter(|header| header.len() <= HEADER_MAX_BYTES)?;
    let map: Header = serde_json::from_slice(header).ok()?;
    map.get("id").and_then(Value::as_str).filter(|id| id.len() <= ID_MAX_BYTES).map(str::to_owned)
}

/// Reads a header frame and checks its limits.
pub fn parse_header(frame: &[u8]) -> Result<Header, WireError> {
    let bad = |text: String| WireError::new(Code::BadHeader, text);
    if frame.len() > HEADER_MAX_BYTES {
        return Err(bad(format!("the header has {} bytes; the limit is {HEADER_MAX_BYTES}", frame.len())));
    }
    let header: Header =
        serde_json::from_slice(frame).map_err(|fault| bad(format!("the header is no JSON object: {fault}")))?;
    if header.len() > HEADER_MAX_KEYS {
        return Err(bad(format!("the header has {} keys; the limit is {HEADER_MAX_KEYS}", header.len())));
    }
    if let Some((key, _)) = header.iter().find(|(_, value)| depth(value) > HEADER_MAX_DEPTH) {
        return Err(bad(format!("`{key}` in the header nests deeper than {HEADER_MAX_DEPTH}")));
    }
    if header.get("id").is_some_and(|id| id.as_str().is_none_or(|id| id.is_empty() || id.len() > ID_MAX_BYTES)) {
        return Err(bad(format!("`id` is text of 1 to {ID_MAX_BYTES} bytes")));
    }
    Ok(header)
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
    }
}

/// Checks the attributes of an event that a unit sends (PUBLISH, REQUEST): CloudEvents names, and those that must be there.
pub fn check_event(header: &Header) -> Result<(), WireError> {
    let bad = |text: String| Err(WireError::new(Code::BadHeader, text));
    let named = |key: &String| {
        (1..=ATTRIBUTE_MAX_BYTES).contains(&key.len())
            && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    if let Some(key) = header.keys().find(|key| !named(key)) {
        return bad(format!("`{key}` is no attribute: use 1 to {ATTRIBUTE_MAX_BYTES} lower-case letters and digits"));
    }
    for key in ["id", "type", "topic"] {
        if header.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
            return bad(format!("an event needs `{key}` as text"));
        }
    }
    match header.get("specversion").and_then(Value::as_str) {
        Some(SPEC_VERSION) => Ok(()),
        _ => bad(format!("an event needs `specversion` \"{SPEC_VERSION}\"")),
    }
}

/// Header of HELLO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hello {
    pub id: String,
    /// Versions the unit speaks.
    pub versions: Vec<u32>,
    /// The unit's whole name.
    pub unit: String,
    /// The run's number.
    pub run: u64,
    /// The run's token, where the connection was not authenticated by PLAIN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Name and version of the SDK.
    pub sdk: String,
    /// Hash of the agent's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code_hash: Option<String>,
    /// Deliveries that the run still works on, after a reconnect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<String>,
}

/// Data of HELLO: what the unit will subscribe to and offer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Offer {
    /// Filters of its handlers; each must be granted.
    #[serde(default)]
    pub handlers: Vec<String>,
    /// Functions that its own code offers to its model.
    #[serde(default)]
    pub tools: Vec<Value>,
}

/// Header of WELCOME.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Welcome {
    pub about: String,
    /// The version agreed on.
    pub version: u32,
    pub limits: WelcomeLimits,
    pub grants: WelcomeGrants,
    /// Tasks to go on with.
    #[serde(default)]
    pub resume: Vec<String>,
    /// loomd's clock, ms since the epoch.
    pub clock: u64,
    /// Why there is a new run.
    pub previous: Previous,
}

/// Limits that the unit must keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WelcomeLimits {
    /// Bytes of a data frame.
    pub max_message: u64,
    /// Bytes of a header frame.
    pub header: u64,
    pub subscriptions: u64,
    /// Open deliveries.
    pub deliveries: u64,
}

/// What the unit file grants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WelcomeGrants {
    pub publish: Vec<String>,
    pub subscribe: Vec<String>,
    pub request: Vec<String>,
}

/// How the run before ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Previous {
    /// Result word, if there was a run.
    pub result: Option<String>,
    /// `code 1`, `signal 9`, if known.
    pub exit: Option<String>,
    /// Automatic restarts since a person's start.
    pub restarts: u64,
}

/// Header of SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subscribe {
    pub id: String,
    pub filter: String,
}

/// Header of UNSUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unsubscribe {
    pub id: String,
    /// As OK to SUBSCRIBE named it.
    pub sub: String,
}

/// Header of CREDIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Credit {
    pub messages: u64,
    pub bytes: u64,
}

/// Header of ACK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ack {
    pub delivery: String,
}

/// Header of NACK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Nack {
    pub delivery: String,
    /// No further attempt; a request fails with `reason`.
    #[serde(rename = "final", default)]
    pub is_final: bool,
    #[serde(default)]
    pub reason: String,
    /// Milliseconds until the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

/// Header of REPLY.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reply {
    /// The delivery that is answered.
    pub about: String,
}

/// Header of CANCEL from the unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cancel {
    /// Id of the own request.
    pub about: String,
}

/// Header of CANCEL from loomd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cancelled {
    pub delivery: String,
    pub reason: CancelReason,
    /// Until when work may go on.
    pub grace_ms: u64,
}

/// Why work is not wanted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CancelReason {
    Cancelled,
    Deadline,
    CallerGone,
}

/// Header of OK.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Done {
    pub about: String,
    /// SUBSCRIBE: the subscription's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// PUBLISH.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Published>,
}

/// What OK says about a PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Published {
    pub stream: String,
    pub seq: u64,
    /// The same id came before.
    pub dup: bool,
    pub durability: Durability,
}

/// What an acknowledged event survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Nothing: it lies in loomd's memory.
    Memory,
}

/// `qos` of an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Lossy, gaps reported, no answer.
    Realtime,
    /// Acknowledged, never dropped for a slow subscriber.
    #[default]
    Batched,
}

/// Header of STATE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct State {
    pub id: String,
    pub verb: StateVerb,
    /// `get`, `put`, `delete`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `put`, `delete`: only if this is the version; 0 = must not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_version: Option<u64>,
    /// `scan`: keys that start with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

/// What to do with the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StateVerb {
    Get,
    Put,
    Delete,
    Scan,
}

/// Header of CALL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Call {
    pub id: String,
    /// `area:verb`.
    pub tool: String,
    /// Ms since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<u64>,
    /// Names the call over repetitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Header of PING, both ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ping {
    /// Of the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The question that this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// This is the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<bool>,
}

/// Header of DRAIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Drain {
    /// Ms since the epoch.
    pub deadline: u64,
}

/// One message of each operation, as files of `schemas/golden/` have it.
pub fn golden() -> Vec<Message> {
    use serde_json::json;
    let id = "01JD000000000000000000000A";
    let event = json!({
        "id": id, "specversion": "1.0", "time": "2026-01-02T03:04:05.678Z", "type": "research.task", "topic": "research.task.new",
        "subject": "BTC-USDT", "datacontenttype": "application/json", "correlationid": "01JD000000000000000000000B",
    });
    let with = |more: Value| {
        let mut header = event.clone();
        let map = header.as_object_mut().expect("written as an object");
        map.extend(more.as_object().expect("written as an object").clone());
        header
    };
    let data = Bytes::from_static(br#"{"question":"why?"}"#);
    let message = |op: Op, header: Value| Message::new(op, &header);
    Op::ALL
        .iter()
        .map(|op| match op {
            Op::Hello => message(
                *op,
                json!({"id": id, "versions": [1], "unit": "chat.agent", "run": 7, "token": "00".repeat(32), "sdk": "loom-py 0.1.0"}),
            )
            .with_data(&br#"{"handlers":["unit.chat.ask"],"tools":[]}"#[..]),
            Op::Welcome => message(
                *op,
                json!({"about": id, "version": 1, "clock": 1_767_323_045_678_u64, "resume": [],
                    "limits": {"max_message": MESSAGE_MAX_BYTES, "header": HEADER_MAX_BYTES, "subscriptions": SUBSCRIPTIONS_MAX, "deliveries": 1024},
                    "grants": {"publish": ["research.result.>"], "subscribe": [], "request": ["unit.search.>"]},
                    "previous": {"result": "signal", "exit": "signal 9", "restarts": 1}}),
            ),
            Op::Reject => {
                let mut reject = WireError::new(Code::StaleRun, "run 6 of `chat.agent` is over; run 7 is the current one").about(Some(id));
                reject.op = *op;
                reject
            }
            Op::Publish => message(*op, event.clone()).with_data(data.clone()),
            Op::Subscribe => message(*op, json!({"id": id, "filter": "research.task.>"})),
            Op::Unsubscribe => message(*op, json!({"id": id, "sub": "1"})),
            Op::Credit => message(*op, json!({"messages": 64, "bytes": 4_194_304})),
            Op::Deliver => message(
                *op,
                with(json!({"source": "/units/desk.agent", "recvtime": 1_767_323_045_680_u64, "hops": 16, "delivery": "3", "subs": ["1"],
                    "attempt": 1, "gap": 2, "deadline": 1_767_323_105_678_u64, "replyto": "reply.desk.1f-9"})),
            )
            .with_data(data.clone()),
            Op::Ack => message(*op, json!({"delivery": "3"})),
            Op::Nack => message(*op, json!({"delivery": "3", "final": true, "reason": "`question` is missing"})),
            Op::Request => message(*op, with(json!({"deadline": 1_767_323_105_678_u64}))).with_data(data.clone()),
            Op::Reply => message(*op, json!({"about": "3"})).with_data(&br#"{"text":"because"}"#[..]),
            Op::Cancel => message(*op, json!({"about": id})),
            Op::Cancelled => message(*op, json!({"delivery": "3", "reason": "caller-gone", "grace_ms": 5000})),
            Op::State => message(*op, json!({"id": id, "verb": "put", "key": "count", "if_version": 4})).with_data(&b"42"[..]),
            Op::Call => message(*op, json!({"id": id, "tool": "fs:read", "deadline": 1_767_323_105_678_u64, "key": "k1"}))
                .with_data(&br#"{"path":"notes.md"}"#[..]),
            Op::Ping => message(*op, json!({"id": id})),
            Op::PingBack => message(*op, json!({"about": id, "answer": true})),
            Op::Result => message(*op, json!({"about": id, "source": "/units/search.agent"})).with_data(&br#"{"text":"because"}"#[..]),
            Op::Ok => message(*op, json!({"about": id, "stream": "", "seq": 0, "dup": false, "durability": "memory"})),
            Op::Error => WireError::new(Code::NoReceiver, "nobody subscribed to `unit.search.ask`: is `search.agent` started?").about(Some(id)),
            Op::Drain => message(*op, json!({"deadline": 1_767_323_105_678_u64})),
            Op::Goodbye => message(*op, json!({})),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::PathBuf;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn golden_file(message: &Message) -> String {
        let frames: Vec<String> = message.frames().iter().map(|frame| hex(frame)).collect();
        let value = serde_json::json!({
            "op": message.op.code(), "word": message.op.word(), "header": message.header, "frames_hex": frames,
        });
        format!("{}\n", serde_json::to_string_pretty(&value).unwrap())
    }

    #[test]
    fn golden_messages_are_what_the_code_prints() {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../schemas/golden");
        let update = std::env::var_os("LOOM_UPDATE_GOLDEN").is_some();
        let mut expected = Vec::new();
        for message in golden() {
            // The case of the letter says who sends it; file systems that ignore case must not merge two files.
            let side = match message.op.from() {
                Side::Unit => "unit",
                Side::Loomd => "loomd",
            };
            let name = format!("{side}-{}.json", message.op.word().to_lowercase());
            let (path, text) = (dir.join(&name), golden_file(&message));
            expected.push(name);
            if update {
                std::fs::create_dir_all(&dir).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(found, text, "{}: rewrite with LOOM_UPDATE_GOLDEN=1", path.display());
            assert_eq!(Message::decode(&message.frames()).unwrap(), message);
        }
        let mut there: Vec<String> =
            std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        expected.sort();
        there.sort();
        assert_eq!(there, expected, "files that no message prints");
    }

    #[test]
    fn golden_headers_fit_their_types() {
        for message in golden() {
            let fits = match message.op {
                Op::Hello => message.parse::<Hello>().is_ok(),
                Op::Welcome => message.parse::<Welcome>().is_ok(),
                Op::Reject | Op::Error => message.parse::<WireError>().is_ok(),
                Op::Publish | Op::Request => check_event(&message.header).is_ok(),
                Op::Subscribe => message.parse::<Subscribe>().is_ok(),
                Op::Unsubscribe => message.parse::<Unsubscribe>().is_ok(),
                Op::Credit => message.parse::<Credit>().is_ok(),
                Op::Deliver | Op::Result | Op::Goodbye => true,
                Op::Ack => message.parse::<Ack>().is_ok(),
                Op::Nack => message.parse::<Nack>().is_ok_and(|nack| nack.is_final),
                Op::Reply => message.parse::<Reply>().is_ok(),
                Op::Cancel => message.parse::<Cancel>().is_ok(),
                Op::Cancelled => message.parse::<Cancelled>().is_ok(),
                Op::State => message.parse::<State>().is_ok(),
                Op::Call => message.parse::<Call>().is_ok(),
                Op::Ping | Op::PingBack => message.parse::<Ping>().is_ok(),
                Op::Ok => message.parse::<Done>().is_ok_and(|done| done.published.is_some()),
                Op::Drain => message.parse::<Drain>().is_ok(),
            };
            assert!(fits, "{}: {:?}", message.op, message.header);
        }
    }

    #[test]
    fn a_header_over_a_limit_is_bad_and_says_which() {
        let many: Header = (0..65).map(|n| (format!("k{n}"), Value::Null)).collect();
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(HEADER_MAX_BYTES));
        let table = [
            (serde_json::to_string(&many).unwrap(), "65 keys"),
            (long, "limit is 16384"),
            ("{\"a\":{\"b\":{\"c\":{}}}}".to_owned(), "nests deeper than 2"),
            ("[]".to_owned(), "no JSON object"),
            ("{".to_owned(), "no JSON object"),
            ("{\"id\":7}".to_owned(), "`id`"),
            ("[".repeat(16_000), "no JSON object"),
        ];
        for (frame, expected) in table {
            let fault = parse_header(frame.as_bytes()).unwrap_err();
            assert_eq!(fault.code, Code::BadHeader);
            assert!(fault.message.contains(expected), "{}", fault.message);
        }
        assert!(parse_header(br#"{"grants":{"publish":["a"]}}"#).is_ok());
    }

    #[test]
    fn an_attribute_that_breaks_the_rule_of_cloudevents_is_refused_by_name() {
        let mut header = golden().into_iter().find(|m| m.op == Op::Publish).unwrap().header;
        header.insert("myextension1".into(), "kept".into());
        check_event(&header).unwrap();
        header.insert("my_extension".into(), 1.into());
        assert!(check_event(&header).unwrap_err().message.contains("`my_extension`"));
    }

    #[test]
    fn every_op_and_code_reads_back_and_is_used_once() {
        for op in Op::ALL {
            assert_eq!(Op::parse(op.code().as_bytes()), Some(*op));
            let lower = op.code().as_bytes()[1].is_ascii_lowercase();
            assert_eq!(lower, op.from() == Side::Loomd, "{op}");
        }
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.word());
        }
    }

    proptest! {
        #[test]
        fn any_frames_are_decoded_or_refused_without_panic(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..5)
        ) {
            let frames: Vec<Bytes> = frames.into_iter().map(Bytes::from).collect();
            let _ = Message::decode(&frames);
            let _ = about(&frames);
        }
    }
}
