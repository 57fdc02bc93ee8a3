//! agents: who may speak as which unit, and what loomd does for an agent that asks.
//!
//! Job: the runs that are expected with their tokens, the rules of HELLO, STATE and CALL as messages. May touch: the wire.
//! May not: sockets, the store, tools; what it needs of them is an [`AgentHost`].
//! Keeps: no message of a former run and none with a wrong token counts; tokens are compared in constant time and only
//! as hashes.

use bytes::Bytes;
use loom_api::wire::{self, Code, Hello, Message, Op, Outcome, Previous, StateVerb, WIRE_VERSION, WireError};
use loom_core::ids::{RunId, UnitId};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use subtle::ConstantTimeEq;

/// The longest key of an agent's state.
pub const STATE_KEY_MAX_BYTES: usize = 256;
/// The longest value of an agent's state.
pub const STATE_VALUE_MAX_BYTES: usize = 1024 * 1024;

/// Work that ends later.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What loomd's other rooms do for agents. Implemented where the rooms are wired.
pub trait AgentHost: Send + Sync + 'static {
    /// Reads or writes the unit's state.
    fn state(&self, unit: UnitId, run: RunId, op: StateOp) -> BoxFuture<Result<StateAnswer, WireError>>;
    /// Calls a tool with the unit's rights. `deadline_ms` is ms since the epoch.
    fn call(
        &self,
        unit: UnitId,
        run: RunId,
        tool: String,
        args: serde_json::Value,
        deadline_ms: Option<u64>,
    ) -> BoxFuture<Result<serde_json::Value, WireError>>;
    /// The run said HELLO and was welcomed, or its connection ended.
    fn connected(&self, unit: UnitId, run: RunId, up: bool);
}

/// A checked STATE operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateOp {
    Get {
        key: String,
    },
    /// `value` is JSON. `if_version` 0: only if there is none.
    Put {
        key: String,
        value: Bytes,
        if_version: Option<u64>,
    },
    Delete {
        key: String,
        if_version: Option<u64>,
    },
    Scan {
        prefix: String,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateAnswer {
    /// `get`: value and version, if there is one.
    Value(Option<(Vec<u8>, u64)>),
    /// `put`: the new version.
    Written(u64),
    /// `delete`.
    Deleted,
    /// `scan`.
    Keys(Vec<String>),
}

/// The runs that may connect.
#[derive(Debug, Default)]
pub struct Roster {
    runs: Mutex<HashMap<UnitId, Expected>>,
}

#[derive(Debug)]
struct Expected {
    run: RunId,
    token_sha256: String,
    previous: Previous,
}

impl Roster {
    fn runs(&self) -> MutexGuard<'_, HashMap<UnitId, Expected>> {
        self.runs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// From now on this run may connect, with the token of that hash (SHA-256 of the token's text, as hex).
    pub fn expect_run(&self, unit: &UnitId, run: RunId, token_sha256: String, previous: Previous) {
        self.runs().insert(unit.clone(), Expected { run, token_sha256, previous });
    }

    /// The run may not connect any more.
    pub fn end_run(&self, unit: &UnitId, run: RunId) {
        let mut runs = self.runs();
        if runs.get(unit).is_some_and(|expected| expected.run == run) {
            runs.remove(unit);
        }
    }

    /// The run that this token belongs to.
    pub fn check_token(&self, unit: &UnitId, token: &[u8]) -> Result<RunId, WireError> {
        let presented = hex(&Sha256::digest(token));
        let runs = self.runs();
        let expected = runs.get(unit).ok_or_else(|| none_expected(unit))?;
        if bool::from(presented.as_bytes().ct_eq(expected.token_sha256.as_bytes())) {
            return Ok(expected.run);
        }
        Err(WireError::new(
            Code::BadToken,
            format!(
                "this is not the token of `{unit}`'s run {}: only the process that loomd started has it",
                expected.run
            ),
        ))
    }

    /// Whether a HELLO may be welcomed, and what the run should know of the one before. `plain` is what
    /// [`Roster::check_token`] said to the credentials of the handshake, if there were any.
    pub fn check_hello(
        &self,
        unit: &UnitId,
        hello: &Hello,
        plain: Option<Result<RunId, WireError>>,
    ) -> Result<(RunId, Previous), WireError> {
        if hello.unit != unit.to_string() {
            let text = format!("this socket belongs to `{unit}`; `{}` has its own, named in LOOM_SOCKET", hello.unit);
            return Err(WireError::new(Code::Denied, text));
        }
        if !hello.versions.contains(&WIRE_VERSION) {
            let text =
                format!("loomd speaks wire version {WIRE_VERSION}, the SDK {:?}: update the older one", hello.versions);
            return Err(WireError::new(Code::Version, text));
        }
        let current = self.runs().get(unit).map(|expected| expected.run).ok_or_else(|| none_expected(unit))?;
        if hello.run < current.0 {
            let text = format!("run {} of `{unit}` is over; run {current} is the current one", hello.run);
            return Err(WireError::new(Code::StaleRun, text));
        }
        let of_token = match (plain, &hello.token) {
            (Some(verdict), _) => verdict?,
            (None, Some(token)) => self.check_token(unit, token.as_bytes())?,
            (None, None) => {
                return Err(WireError::new(Code::BadToken, "HELLO without `token`: read it from LOOM_TOKEN_FD"));
            }
        };
        let runs = self.runs();
        let expected = runs.get(unit).ok_or_else(|| none_expected(unit))?;
        if hello.run != of_token.0 || of_token != expected.run {
            let text = format!("`{unit}` is in run {}, not {}", expected.run, hello.run);
            return Err(WireError::new(Code::StaleRun, text));
        }
        Ok((expected.run, expected.previous.clone()))
    }
}

fn none_expected(unit: &UnitId) -> WireError {
    WireError::new(Code::StaleRun, format!("no run of `{unit}` is expected: it was stopped, or never started by loomd"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Carries out STATE and CALL; the answer is RESULT or ERROR.
pub async fn answer(host: Arc<dyn AgentHost>, unit: UnitId, run: RunId, message: Message) -> Message {
    let id = message.id().unwrap_or_default().to_owned();
    let done = match message.op {
        Op::State => state(host, unit, run, &message).await,
        Op::Call => call(host, unit, run, &message).await,
        op => Err(WireError::new(Code::UnknownOp, format!("{op} is nothing that a unit sends"))),
    };
    match done {
        Ok(mut result) => {
            result.header.insert("about".to_owned(), id.into());
            result
        }
        Err(error) => error.about(Some(&id)),
    }
}

async fn state(host: Arc<dyn AgentHost>, unit: UnitId, run: RunId, message: &Message) -> Result<Message, WireError> {
    let op = state_op(message)?;
    let answer = host.state(unit, run, op).await?;
    let result = |header: serde_json::Value| Message::new(Op::Result, &header);
    Ok(match answer {
        StateAnswer::Value(Some((value, version))) => {
            result(serde_json::json!({"found": true, "version": version})).with_data(value)
        }
        StateAnswer::Value(None) => result(serde_json::json!({"found": false, "version": 0})),
        StateAnswer::Written(version) => result(serde_json::json!({"found": true, "version": version})),
        StateAnswer::Deleted => result(serde_json::json!({"found": false, "version": 0})),
        StateAnswer::Keys(keys) => {
            let data = serde_json::to_vec(&serde_json::json!({ "keys": keys })).expect("a list of texts");
            result(serde_json::json!({"found": !keys.is_empty()})).with_data(data)
        }
    })
}

fn state_op(message: &Message) -> Result<StateOp, WireError> {
    let header: wire::State = message.parse()?;
    let key = |key: Option<String>| {
        let fits =
            |key: &String| (1..=STATE_KEY_MAX_BYTES).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
        key.filter(fits).ok_or_else(|| {
            let text =
                format!("STATE needs `key`: 1 to {STATE_KEY_MAX_BYTES} printable ASCII characters without space");
            WireError::new(Code::BadHeader, text)
        })
    };
    Ok(match header.verb {
        StateVerb::Get => StateOp::Get { key: key(header.key)? },
        StateVerb::Put => {
            let value = message.data.clone().unwrap_or_default();
            if value.len() > STATE_VALUE_MAX_BYTES {
                let text = format!("a value of {} bytes; the limit is {STATE_VALUE_MAX_BYTES}", value.len());
                return Err(WireError::new(Code::TooBig, text));
            }
            serde_json::from_slice::<serde::de::IgnoredAny>(&value)
                .map_err(|fault| WireError::new(Code::BadHeader, format!("the value is no JSON: {fault}")))?;
            StateOp::Put { key: key(header.key)?, value, if_version: header.if_version }
        }
        StateVerb::Delete => StateOp::Delete { key: key(header.key)?, if_version: header.if_version },
        StateVerb::Scan => StateOp::Scan { prefix: header.prefix.unwrap_or_default() },
    })
}

async fn call(host: Arc<dyn AgentHost>, unit: UnitId, run: RunId, message: &Message) -> Result<Message, WireError> {
    let header: wire::Call = message.parse()?;
    let data = message.data.clone().unwrap_or_default();
    let args = if data.is_empty() {
        serde_json::json!({})
    } else {
        serde_json::from_slice(&data).map_err(|fault| {
            WireError::new(Code::InvalidArguments, format!("the arguments of {} are no JSON: {fault}", header.tool))
        })?
    };
    let value = host.call(unit, run, header.tool, args, header.deadline).await?;
    let data = serde_json::to_vec(&value).map_err(|fault| {
        WireError::new(Code::Internal, format!("the result cannot be written: {fault}")).outcome(Outcome::Done)
    })?;
    Ok(Message::new(Op::Result, &serde_json::json!({})).with_data(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> UnitId {
        "chat.agent".parse().unwrap()
    }

    fn roster() -> Roster {
        let roster = Roster::default();
        roster.expect_run(
            &unit(),
            RunId(7),
            hex(&Sha256::digest("secret")),
            Previous { restarts: 2, ..Previous::default() },
        );
        roster
    }

    fn hello(run: u64, token: Option<&str>) -> Hello {
        Hello {
            id: "1".into(),
            versions: vec![1],
            unit: "chat.agent".into(),
            run,
            token: token.map(str::to_owned),
            sdk: "test".into(),
            code_hash: None,
            holds: vec![],
        }
    }

    #[test]
    fn only_the_current_run_with_its_token_is_welcome() {
        let roster = roster();
        let code = |hello: &Hello| roster.check_hello(&unit(), hello, None).map_err(|error| error.code);
        assert_eq!(code(&hello(7, Some("secret"))).unwrap().0, RunId(7));
        assert_eq!(code(&hello(7, Some("other"))), Err(Code::BadToken));
        assert_eq!(code(&hello(7, None)), Err(Code::BadToken));
        assert_eq!(code(&hello(6, Some("secret"))), Err(Code::StaleRun));
        assert_eq!(code(&hello(6, Some("former"))), Err(Code::StaleRun));
        assert_eq!(code(&hello(8, Some("secret"))), Err(Code::StaleRun));
        assert_eq!(code(&Hello { versions: vec![9], ..hello(7, Some("secret")) }), Err(Code::Version));
        assert_eq!(code(&Hello { unit: "other.agent".into(), ..hello(7, Some("secret")) }), Err(Code::Denied));
    }

    #[test]
    fn a_run_that_ended_is_not_expected_any_more_and_a_late_end_of_another_run_changes_nothing() {
        let roster = roster();
        roster.end_run(&unit(), RunId(6));
        assert!(roster.check_token(&unit(), b"secret").is_ok());
        roster.end_run(&unit(), RunId(7));
        assert_eq!(roster.check_token(&unit(), b"secret").unwrap_err().code, Code::StaleRun);
    }

    #[test]
    fn a_state_key_or_value_that_does_not_fit_is_refused_before_the_store_sees_it() {
        let message = |key: &str, data: &'static [u8]| {
            Message::new(Op::State, &serde_json::json!({"id": "1", "verb": "put", "key": key})).with_data(data)
        };
        assert!(state_op(&message("count", b"42")).is_ok());
        for key in ["", "a b", "ä", &"k".repeat(257)] {
            assert_eq!(state_op(&message(key, b"42")).unwrap_err().code, Code::BadHeader, "{key}");
        }
        assert_eq!(state_op(&message("count", b"{")).unwrap_err().code, Code::BadHeader);
    }
}
