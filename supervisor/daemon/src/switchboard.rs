//! switchboard: agents on the bus.
//!
//! Job: puts the room `agents` (who may speak) behind the room `bus` (who gets what), so that neither imports the other.
//! May touch: both. Keeps: a run is expected before it can connect, and ends in both at once.

use crate::agents::{self, AgentHost, Roster};
use crate::bus::aside::Letter;
use crate::bus::{BoxFuture, Broker, BusAnswer, BusError, PeerCheck, Sessions};
use bytes::Bytes;
use loom_api::wire::{Hello, Message, Previous, WireError};
use loom_core::ids::{RunId, UnitId};
use loom_core::topic::BadTopic;
use loom_core::unit;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// The bus with its agents. A clone speaks to the same one.
#[derive(Clone)]
pub struct Bus {
    broker: Broker,
    sessions: Arc<Agents>,
}

struct Agents {
    roster: Roster,
    host: Arc<dyn AgentHost>,
}

impl Sessions for Agents {
    fn check_token(&self, unit: &UnitId, token: &[u8]) -> Result<RunId, WireError> {
        self.roster.check_token(unit, token)
    }

    fn hello(
        &self,
        unit: &UnitId,
        hello: &Hello,
        plain: Option<Result<RunId, WireError>>,
    ) -> Result<(RunId, Previous), WireError> {
        self.roster.check_hello(unit, hello, plain)
    }

    fn answer(&self, unit: UnitId, run: RunId, message: Message) -> BoxFuture<Message> {
        Box::pin(agents::answer(self.host.clone(), unit, run, message))
    }

    fn connected(&self, unit: &UnitId, run: RunId, up: bool) {
        self.host.connected(unit.clone(), run, up);
    }
}

impl Bus {
    /// Starts it inside a runtime.
    pub fn start(host: Arc<dyn AgentHost>, peer_check: PeerCheck) -> Self {
        let sessions = Arc::new(Agents { roster: Roster::default(), host });
        Self { broker: Broker::start(sessions.clone(), peer_check), sessions }
    }

    /// The broker alone: counters.
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Makes the unit's listener; one that is there stays, with these grants.
    pub fn open_door(&self, unit: &UnitId, socket: &Path, grants: unit::Bus) -> Result<(), BusError> {
        self.broker.open_door(unit, socket, grants)
    }

    /// Ends the listener and all that the unit held.
    pub fn close_door(&self, unit: &UnitId) {
        self.broker.close_door(unit);
    }

    /// Other grants from now on.
    pub fn set_grants(&self, unit: &UnitId, grants: unit::Bus) -> Result<(), BusError> {
        self.broker.set_grants(unit, grants)
    }

    /// The unit's current run, with the SHA-256 (hex) of its token's text.
    pub fn expect_run(&self, unit: &UnitId, run: RunId, token_sha256_hex: String, previous: Previous) {
        self.sessions.roster.expect_run(unit, run, token_sha256_hex, previous);
        self.broker.expect_run(unit, run);
    }

    /// The run is over: it cannot connect any more, what it held fails at once.
    pub fn end_run(&self, unit: &UnitId, run: RunId) {
        self.sessions.roster.end_run(unit, run);
        self.broker.end_run(unit, run);
    }

    /// Ids of what the run was given and has not settled.
    pub fn in_hand(&self, unit: &UnitId, run: RunId) -> Vec<String> {
        self.broker.in_hand(unit, run)
    }

    /// The unit does not get that event any more; what is kept of it, if the run that ended last had it in hand.
    pub fn set_aside(&self, unit: &UnitId, id: &str) -> Option<Letter> {
        self.broker.set_aside(unit, id)
    }

    /// These units are about to go down and get no new request until their next run.
    pub fn leaving(&self, units: &[UnitId]) {
        self.broker.leaving(units);
    }

    /// When the run last published, asked, answered or called a tool.
    pub fn moved(&self, unit: &UnitId, run: RunId) -> Option<Instant> {
        self.broker.moved(unit, run)
    }

    /// Whether a run of the unit is connected.
    pub fn connected(&self, unit: &UnitId) -> bool {
        self.broker.connected(unit)
    }

    /// A request by a person; dropping the receiver takes it back.
    pub fn request_as_person(&self, topic: &str, data: Bytes, timeout: Duration) -> mpsc::Receiver<BusAnswer> {
        self.broker.request_as_person(topic, data, timeout)
    }

    /// Publishes an event of loomd, below `loom.`.
    pub fn publish_as_loomd(&self, topic: &str, data: Bytes) -> Result<(), BadTopic> {
        self.broker.publish_as_loomd(topic, data)
    }
}
