//! router: who gets what.
//!
//! Job: subscriptions, delivery by credit, acknowledgement, requests with their one answer, deadlines, hops.
//! May touch: the wire, topics and grants. May not: sockets, tasks, clocks; time comes as an argument, and what is due
//! for a connection waits in its queues until its task takes it.
//! Keeps: a caller gets exactly one terminal answer; a slow subscriber delays nobody else; every queue has a limit; the
//! broker stamps who sent what.

use super::BusAnswer;
use super::aside::{Aside, InHand, Letter};
use bytes::Bytes;
use loom_api::wire::{
    self, Ack, CancelReason, Cancelled, Class, Code, Credit, Done, Durability, Header, Message, Nack, Op, Outcome,
    Published, Reply, Subscribe, Unsubscribe, WelcomeGrants, WireError,
};
use loom_core::ids::{RunId, UnitId};
use loom_core::topic::{Filter, Grants, ROOT_REPLY, Topic, Trie};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot};

/// Realtime events that wait for one connection; beyond it the oldest is dropped and counted as `gap`.
pub const RING_EVENTS: usize = 512;
/// Their bytes.
pub const RING_BYTES: usize = 1024 * 1024;
/// Batched events and requests that wait for one connection; beyond it their sender gets `busy`.
pub const QUEUE_EVENTS: usize = 1024;
/// Their bytes.
pub const QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// Deliveries of a unit that are neither acknowledged nor refused.
pub const DELIVERIES_MAX: usize = 1024;
/// Requests of one caller that wait for their answer.
pub const REQUESTS_MAX: usize = 128;
/// Answers that wait for one connection; beyond it nothing more is read from it.
pub const ANSWERS_MAX: usize = 256;
/// Bytes of answers that wait for one connection; beyond it nothing more is read from it.
pub const ANSWERS_BYTES: usize = 1024 * 1024;
/// Bytes of answers beyond which an answer's data is dropped, because its caller does not read.
pub const ANSWERS_HARD_BYTES: usize = 16 * 1024 * 1024;
/// Attempts to deliver one event.
pub const ATTEMPTS_MAX: u32 = 5;
/// How long cancelled work may go on.
pub const CANCEL_GRACE: Duration = Duration::from_secs(5);
/// How long a request to the mailbox of a run that lives but is not back on the bus waits for it: a start, or a new loomd.
pub const RETURN_WAIT: Duration = Duration::from_secs(10);
/// Requests that wait for the same run; beyond it their sender gets `busy`.
pub const RETURN_MAX: usize = 64;
/// Never given to a connection: where a request is that waits for its receiver to come.
const NOWHERE: ConnId = ConnId(0);
/// Deliveries of a run that were taken back and that it has not settled yet; beyond it the oldest is forgotten.
const LOOSE_MAX: usize = 64;
/// How often an event may be passed on.
pub const HOPS_MAX: u8 = 16;
/// Deliveries of a unit that are remembered to recognise what they caused.
const CAUSES_MAX: usize = 256;
/// Messages and bytes handed to a connection's task at once.
const TAKE_MESSAGES: usize = 64;
const TAKE_BYTES: usize = 256 * 1024;
/// A denial of the same unit, verb and topic is logged once per this time.
const DENIAL_LOG: Duration = Duration::from_secs(60);
const DENIALS_REMEMBERED: usize = 256;
/// When to ask again whoever is about to go down with its group.
const LEAVING_RETRY_MS: u64 = 1000;
/// The `<u>` of people who ask by the control API.
const PEOPLE: &str = "ctl";
/// What only the broker writes into an event.
const STAMPED: [&str; 10] =
    ["source", "recvtime", "hops", "stream", "seq", "delivery", "subs", "attempt", "gap", "replyto"];

/// A point in time, on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Ms since the epoch, for what is written into headers.
    pub wall_ms: u64,
    /// For what becomes due, so that a clock set anew changes nothing.
    pub at: Instant,
}

/// One connection, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(u64);

/// What the broker counted since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Answers and progress that came after the request had ended.
    pub late_replies: u64,
    /// Operations without a grant.
    pub denied: u64,
    /// Realtime events dropped for slow subscribers.
    pub gaps: u64,
    /// Events whose `expirytime` was over before they could be delivered.
    pub expired: u64,
    /// Events given up: refused for good, attempts used up, or their subscriber gone.
    pub given_up: u64,
}

/// A run that was recognised and wants to connect.
pub struct Joining<'a> {
    pub run: RunId,
    /// Filters that it will subscribe to.
    pub handlers: &'a [String],
    /// Deliveries that it still works on.
    pub holds: &'a [String],
    /// Told when there is something to take.
    pub wake: Arc<Notify>,
    /// Whether the peer has hung up.
    pub hung_up: Box<dyn Fn() -> bool + Send>,
}

/// What a message asks for beyond the router.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// All done.
    Nothing,
    /// STATE or CALL: somebody else answers.
    Ask(Message),
    /// The unit ends the connection.
    Close,
}

/// Everything the broker knows.
#[derive(Debug)]
pub struct Router {
    units: HashMap<UnitId, Unit>,
    conns: HashMap<ConnId, Conn>,
    subscriptions: Trie<(ConnId, u64)>,
    open: HashMap<u64, Open>,
    due: BTreeSet<(Instant, Due)>,
    last_number: u64,
    /// Random per loomd, so that names given by a former one are not mistaken for ours.
    nonce: String,
    denials: HashMap<(UnitId, &'static str, String), Instant>,
    counters: Counters,
    /// What is delivered to a unit no more. Kept while the unit has no door.
    aside: HashMap<UnitId, Aside>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Deadline(u64),
    /// A delivery of a connection is to be tried again.
    Again(ConnId, u64),
    /// The receiver of that request should be back by now.
    Return(u64),
}

#[derive(Debug)]
struct Unit {
    grants: Arc<Grants>,
    live: Option<ConnId>,
    /// Run that the deliveries below belong to.
    run: RunId,
    held: BTreeMap<u64, Held>,
    causes: VecDeque<Cause>,
    /// A run that lives and is not ready to receive yet.
    awaited: Option<Awaited>,
    /// When its run last did something that shows that its work moves.
    moved: Option<Instant>,
    /// Its run is about to go down with its group, so it gets no new request.
    leaving: bool,
    /// What the run may still work on though nobody waits for it.
    loose: BTreeMap<u64, Arc<Event>>,
    /// What the run that ended last had in hand.
    died_with: InHand,
}

/// A run that is expected on the bus.
#[derive(Debug)]
struct Awaited {
    run: RunId,
    until: Instant,
    /// Requests to its mailbox that wait for it, in the order in which they came.
    requests: BTreeMap<u64, Arc<Event>>,
}

/// A delivery that its unit works on.
#[derive(Debug)]
struct Held {
    queued: Queued,
    /// Refused for now: it will be tried again.
    waits: bool,
}

/// What a unit was given lately.
#[derive(Debug)]
struct Cause {
    event: String,
    delivery: u64,
    hops: u8,
    path: Arc<[String]>,
}

struct Conn {
    unit: UnitId,
    run: RunId,
    grants: Arc<Grants>,
    wake: Arc<Notify>,
    /// Whether the peer has hung up, though its task may not have noticed.
    hung_up: Box<dyn Fn() -> bool + Send>,
    filters: BTreeMap<u64, Filter>,
    credit_messages: u64,
    credit_bytes: u64,
    answers: VecDeque<Message>,
    answers_bytes: usize,
    ring: VecDeque<Queued>,
    ring_bytes: usize,
    gap: u64,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    /// Own requests by their id.
    requests: HashMap<String, u64>,
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn").field("unit", &self.unit).field("run", &self.run).finish_non_exhaustive()
    }
}

/// An event on its way to one connection.
#[derive(Debug, Clone)]
struct Queued {
    event: Arc<Event>,
    subs: Vec<String>,
    attempt: u32,
    /// It is a request.
    request: Option<u64>,
}

#[derive(Debug)]
struct Event {
    header: Header,
    data: Bytes,
    hops: u8,
    path: Arc<[String]>,
    expires_ms: Option<u64>,
}

#[derive(Debug)]
struct Open {
    caller: Caller,
    holder: UnitId,
    /// The connection in whose queue it waits.
    conn: ConnId,
    /// Set once it was handed over.
    delivery: Option<u64>,
    due: Instant,
    topic: Topic,
    replyto: String,
    /// Id of the request's event.
    event: String,
}

#[derive(Debug)]
enum Caller {
    Conn { conn: ConnId, id: String },
    Person(Person),
}

/// A person who waits for an answer.
#[derive(Debug)]
pub struct Person {
    /// Where progress and answer go.
    pub answers: mpsc::Sender<BusAnswer>,
    /// Dropped with the request, so that who watches for the person's leaving ends too.
    pub over: oneshot::Sender<()>,
}

/// The one terminal answer.
enum End {
    Reply { source: String, data: Bytes },
    Failed(WireError),
}

impl Router {
    /// A broker without doors.
    pub fn new(nonce: u64) -> Self {
        Self {
            units: HashMap::new(),
            conns: HashMap::new(),
            subscriptions: Trie::default(),
            open: HashMap::new(),
            due: BTreeSet::new(),
            last_number: 0,
            nonce: format!("{nonce:x}"),
            denials: HashMap::new(),
            counters: Counters::default(),
            aside: HashMap::new(),
        }
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// When [`Router::fire`] has something to do.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// A unit may connect; or its grants are other ones from now on.
    pub fn set_grants(&mut self, unit: &UnitId, grants: Grants) {
        let grants = Arc::new(grants);
        let entry = self.units.entry(unit.clone()).or_insert_with(|| Unit {
            grants: grants.clone(),
            live: None,
            run: RunId(0),
            held: BTreeMap::new(),
            causes: VecDeque::new(),
            awaited: None,
            moved: None,
            leaving: false,
            loose: BTreeMap::new(),
            died_with: InHand::default(),
        });
        entry.grants = grants.clone();
        let Some(conn_id) = entry.live else { return };
        let conn = self.conns.get_mut(&conn_id).expect("a live connection has its entry");
        conn.grants = grants.clone();
        let lost: Vec<u64> = conn
            .filters
            .iter()
            .filter(|(_, filter)| grants.may_subscribe(filter).is_err())
            .map(|(sub, _)| *sub)
            .collect();
        for sub in lost {
            let filter = conn.filters.remove(&sub).expect("listed above");
            self.subscriptions.remove(&filter, &(conn_id, sub));
            let text = format!("`{unit}` lost its grant for `{filter}` when its unit file was read again");
            let mut revoked = WireError::new(Code::Revoked, text).about(None);
            revoked.header.insert("sub".to_owned(), sub.to_string().into());
            conn.push_answer(revoked);
        }
    }

    /// The unit is known no more.
    pub fn forget(&mut self, unit: &UnitId) {
        self.end_run(unit, None);
        self.units.remove(unit);
    }

    /// That run lives and will connect: until it receives, requests to its mailbox wait instead of failing.
    pub fn expect_run(&mut self, unit: &UnitId, run: RunId, now: Now) {
        self.fail_awaited(unit, None);
        if let Some(entry) = self.units.get_mut(unit) {
            entry.awaited = Some(Awaited { run, until: now.at + RETURN_WAIT, requests: BTreeMap::new() });
            entry.leaving = false;
            entry.died_with = InHand::default();
        }
    }

    /// The awaited run will not come, or another one will: what waited for it fails.
    fn fail_awaited(&mut self, unit: &UnitId, run: Option<RunId>) {
        let Some(entry) = self.units.get_mut(unit) else { return };
        if entry.awaited.as_ref().is_none_or(|awaited| run.is_some_and(|run| run != awaited.run)) {
            return;
        }
        for number in entry.awaited.take().into_iter().flat_map(|awaited| awaited.requests.into_keys()) {
            self.due.retain(|(_, due)| *due != Due::Return(number));
            let error = WireError::new(Code::UnitFailed, format!("`{unit}` ended before it got the request"));
            self.end(number, End::Failed(error.outcome(Outcome::NotRun)));
        }
    }

    /// The unit takes deliveries now, so it has said what it listens to: hand over what waited for it.
    fn returned(&mut self, unit: &UnitId) {
        let Some(awaited) = self.units.get_mut(unit).and_then(|entry| entry.awaited.take()) else { return };
        for (number, event) in awaited.requests {
            self.due.retain(|(_, due)| *due != Due::Return(number));
            let Some(topic) = self.open.get(&number).map(|open| open.topic.clone()) else { continue };
            let (conn_id, subs) = match self.receiver(&topic, &event) {
                Ok(found) => found,
                Err(error) => {
                    self.end(number, End::Failed(error));
                    continue;
                }
            };
            let conn = self.conns.get_mut(&conn_id).expect("found with the receivers");
            if conn.is_full(&event) {
                let busy = conn.busy();
                self.end(number, End::Failed(busy));
                continue;
            }
            conn.push_batched(Queued { event, subs, attempt: 1, request: Some(number) });
            let holder = conn.unit.clone();
            let open = self.open.get_mut(&number).expect("found above");
            (open.conn, open.holder) = (conn_id, holder);
        }
    }

    /// The unit in whose mailbox the topic lies, if its run is expected and not there yet.
    fn awaited(&self, topic: &Topic, now: Now) -> Option<&UnitId> {
        let mut segments = topic.segments();
        let (Some("unit"), Some(mailbox)) = (segments.next(), segments.next()) else { return None };
        let is_awaited =
            |entry: &Unit| !entry.leaving && entry.awaited.as_ref().is_some_and(|awaited| now.at < awaited.until);
        let mut units = self.units.iter();
        units.find(|(_, entry)| entry.grants.mailbox() == mailbox && is_awaited(entry)).map(|(unit, _)| unit)
    }

    /// Whether a run of the unit is connected.
    pub fn live(&self, unit: &UnitId) -> Option<RunId> {
        let conn = self.units.get(unit)?.live?;
        self.conns.get(&conn).map(|conn| conn.run)
    }

    /// A run was welcomed.
    pub fn connect(&mut self, unit: &UnitId, joining: Joining<'_>, now: Now) -> Result<ConnId, WireError> {
        let Joining { run, handlers, holds, wake, hung_up } = joining;
        let known = self
            .units
            .get(unit)
            .ok_or_else(|| WireError::new(Code::Denied, format!("`{unit}` has no door any more")))?;
        for text in handlers {
            let filter: Filter = text.parse().map_err(|bad| bad_topic(&bad))?;
            if let Err(denied) = known.grants.may_subscribe(&filter) {
                let error = self.denied(unit, "handle", text, &denied.to_string(), now);
                return Err(error);
            }
        }
        let known = self.units.get(unit).expect("found above");
        let grants = known.grants.clone();
        if let Some(former) = known.live {
            let lives = self.conns.get(&former).is_some_and(|conn| conn.run == run && !(conn.hung_up)());
            if lives {
                let text = format!("run {run} of `{unit}` is connected already; one connection per run");
                return Err(WireError::new(Code::AlreadyConnected, text).retry_after_ms(200));
            }
            self.disconnect(former);
        }
        if self.units.get(unit).is_some_and(|known| known.run != run) {
            self.fail_held(unit, &format!("the run of `{unit}` that had it is over"), |_| true);
        }
        let held: BTreeSet<u64> = holds.iter().filter_map(|text| self.delivery_number(text)).collect();
        self.fail_held(unit, &format!("`{unit}` reconnected and does not have it any more"), |delivery| {
            !held.contains(&delivery)
        });
        // Of a loomd before this one, or taken back while the connection was down: nobody waits for it any more.
        let unknown: Vec<&String> = {
            let known = self.units.get(unit).expect("found above");
            let is_known =
                |text: &str| self.delivery_number(text).is_some_and(|number| known.held.contains_key(&number));
            holds.iter().filter(|text| !is_known(text)).collect()
        };
        let conn_id = ConnId(self.number());
        let entry = self.units.get_mut(unit).expect("found above");
        if entry.run != run {
            (entry.moved, entry.loose) = (None, BTreeMap::new());
        }
        (entry.live, entry.run) = (Some(conn_id), run);
        self.conns.insert(
            conn_id,
            Conn {
                unit: unit.clone(),
                run,
                grants,
                wake,
                hung_up,
                filters: BTreeMap::new(),
                credit_messages: 0,
                credit_bytes: 0,
                answers: VecDeque::new(),
                answers_bytes: 0,
                ring: VecDeque::new(),
                ring_bytes: 0,
                gap: 0,
                queue: VecDeque::new(),
                queue_bytes: 0,
                requests: HashMap::new(),
            },
        );
        for delivery in unknown {
            self.push_answer(conn_id, cancelled(delivery.clone(), CancelReason::CallerGone));
        }
        Ok(conn_id)
    }

    /// The connection ended. What its run works on stays its own until the run ends; what it never got does not.
    /// `false` if it was gone already.
    pub fn disconnect(&mut self, conn_id: ConnId) -> bool {
        let Some(conn) = self.conns.remove(&conn_id) else { return false };
        conn.wake.notify_one();
        for (sub, filter) in &conn.filters {
            self.subscriptions.remove(filter, &(conn_id, *sub));
        }
        if let Some(unit) = self.units.get_mut(&conn.unit)
            && unit.live == Some(conn_id)
        {
            unit.live = None;
        }
        for number in conn.requests.into_values() {
            self.cancel(number, CancelReason::CallerGone);
        }
        for queued in conn.queue {
            match queued.request {
                Some(number) => {
                    let text = format!("`{}` lost its connection before it got the request", conn.unit);
                    self.end(number, End::Failed(WireError::new(Code::UnitFailed, text)));
                }
                None => self.counters.given_up += 1,
            }
        }
        let stuck: Vec<(Instant, Due)> =
            self.due.iter().filter(|(_, due)| matches!(due, Due::Again(id, _) if *id == conn_id)).copied().collect();
        for (at, due) in stuck {
            self.due.remove(&(at, due));
            if let Due::Again(_, delivery) = due {
                self.give_up(
                    &conn.unit,
                    delivery,
                    &format!("`{}` lost its connection before the next attempt", conn.unit),
                );
            }
        }
        true
    }

    /// The run is over: what it held fails, its connection ends. `None`: whichever run it is.
    pub fn end_run(&mut self, unit: &UnitId, run: Option<RunId>) {
        self.fail_awaited(unit, run);
        let Some(entry) = self.units.get(unit) else { return };
        if run.is_some_and(|run| run != entry.run) {
            return;
        }
        if let Some(conn) = entry.live {
            self.disconnect(conn);
        }
        if let Some(entry) = self.units.get_mut(unit) {
            // Whoever said goodbye has ended here before its process does.
            let hand = InHand::of(entry.in_hand().map(|event| (&event.header, &event.data)));
            if !hand.is_empty() {
                entry.died_with = hand;
            }
            entry.loose = BTreeMap::new();
        }
        self.fail_held(unit, &format!("`{unit}` ended before it answered"), |_| true);
        if let Some(entry) = self.units.get_mut(unit) {
            entry.causes = VecDeque::new();
        }
    }

    /// Ids of what the run was given and has not settled, in the order in which it got them.
    pub fn in_hand(&self, unit: &UnitId, run: RunId) -> Vec<String> {
        let entry = self.units.get(unit).filter(|entry| entry.run == run);
        let ids: Vec<&str> = entry.into_iter().flat_map(|entry| entry.in_hand().map(Event::id)).collect();
        let mut known = BTreeSet::new();
        ids.into_iter().filter(|id| known.insert(*id)).map(str::to_owned).collect()
    }

    /// From now on the unit does not get that event. What is kept of it, if the run that ended last had it in hand.
    pub fn set_aside(&mut self, unit: &UnitId, id: &str) -> Option<Letter> {
        self.aside.entry(unit.clone()).or_default().add(id);
        let entry = self.units.get_mut(unit)?;
        let letter = entry.died_with.letter(id).cloned();
        let waiting = entry.awaited.iter().flat_map(|awaited| &awaited.requests);
        let same: Vec<u64> = waiting.filter(|(_, event)| event.id() == id).map(|(number, _)| *number).collect();
        for number in same {
            if let Some(awaited) = self.units.get_mut(unit).and_then(|entry| entry.awaited.as_mut()) {
                awaited.requests.remove(&number);
            }
            self.due.retain(|(_, due)| *due != Due::Return(number));
            self.end(number, End::Failed(poisoned(unit, id)));
        }
        letter
    }

    /// Whether the unit is spared that event.
    fn is_spared(&self, unit: &UnitId, event: &Event) -> bool {
        self.aside.get(unit).is_some_and(|aside| aside.holds(event.id()))
    }

    /// Their runs are about to go down: until their next run they get no new request.
    pub fn leaving(&mut self, units: &[UnitId]) {
        for unit in units {
            if let Some(entry) = self.units.get_mut(unit) {
                entry.leaving = true;
            }
        }
    }

    /// When the run last did something that shows that its work moves: a publish, a request, an answer, a call.
    pub fn moved(&self, unit: &UnitId, run: RunId) -> Option<Instant> {
        self.units.get(unit).filter(|entry| entry.run == run)?.moved
    }

    fn fail_held(&mut self, unit: &UnitId, why: &str, which: impl Fn(u64) -> bool) {
        let Some(entry) = self.units.get_mut(unit) else { return };
        let lost: Vec<u64> = entry.held.keys().copied().filter(|delivery| which(*delivery)).collect();
        for delivery in lost {
            self.give_up(unit, delivery, why);
        }
    }

    /// A delivery comes to nothing.
    fn give_up(&mut self, unit: &UnitId, delivery: u64, why: &str) {
        let held = self.units.get_mut(unit).and_then(|entry| entry.held.remove(&delivery));
        match held.map(|held| held.queued.request) {
            Some(Some(number)) => {
                self.end(number, End::Failed(WireError::new(Code::UnitFailed, why).outcome(Outcome::Unknown)));
            }
            Some(None) => self.counters.given_up += 1,
            None => {}
        }
    }

    /// Whether nothing more should be read from the connection until it has taken its answers.
    pub fn congested(&self, conn: ConnId) -> bool {
        self.conns
            .get(&conn)
            .is_some_and(|conn| conn.answers.len() >= ANSWERS_MAX || conn.answers_bytes >= ANSWERS_BYTES)
    }

    /// Lets an answer wait for the connection, if it is still there.
    pub fn push_answer(&mut self, conn: ConnId, answer: Message) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.push_answer(answer);
        }
    }

    /// What the connection may send now; `None` once it is closed.
    pub fn take(&mut self, conn_id: ConnId, now: Now) -> Option<Vec<Message>> {
        if !self.conns.contains_key(&conn_id) {
            return None;
        }
        let mut taken = Vec::new();
        // Realtime first, so that progress arrives before the reply that ends it; bounded by the ring.
        while let Some(queued) = self.next_realtime(conn_id) {
            taken.extend(self.deliver(conn_id, queued, true, now));
        }
        let conn = self.conns.get_mut(&conn_id)?;
        taken.extend(conn.answers.drain(..));
        conn.answers_bytes = 0;
        let mut bytes = 0;
        while taken.len() < TAKE_MESSAGES
            && bytes < TAKE_BYTES
            && let Some(queued) = self.next_batched(conn_id)
        {
            bytes += queued.event.data.len();
            taken.extend(self.deliver(conn_id, queued, false, now));
        }
        Some(taken)
    }

    fn next_realtime(&mut self, conn_id: ConnId) -> Option<Queued> {
        let conn = self.conns.get_mut(&conn_id)?;
        let bytes = conn.ring.front()?.event.data.len();
        if !conn.has_credit(bytes) {
            return None;
        }
        conn.ring_bytes -= bytes;
        conn.ring.pop_front()
    }

    fn next_batched(&mut self, conn_id: ConnId) -> Option<Queued> {
        let conn = self.conns.get_mut(&conn_id)?;
        let bytes = conn.queue.front()?.event.data.len();
        if !conn.has_credit(bytes) || self.units.get(&conn.unit)?.held.len() >= DELIVERIES_MAX {
            return None;
        }
        conn.queue_bytes -= bytes;
        conn.queue.pop_front()
    }

    fn deliver(&mut self, conn_id: ConnId, queued: Queued, realtime: bool, now: Now) -> Option<Message> {
        if queued.event.expires_ms.is_some_and(|at| at <= now.wall_ms) {
            self.counters.expired += 1;
            return None;
        }
        let delivery = self.number();
        let name = format!("{}-{delivery}", self.nonce);
        let conn = self.conns.get_mut(&conn_id)?;
        conn.credit_messages -= 1;
        conn.credit_bytes = conn.credit_bytes.saturating_sub(queued.event.data.len() as u64);
        let mut header = queued.event.header.clone();
        header.insert("delivery".to_owned(), name.into());
        header.insert("subs".to_owned(), queued.subs.clone().into());
        header.insert("attempt".to_owned(), queued.attempt.into());
        if realtime && conn.gap > 0 {
            header.insert("gap".to_owned(), std::mem::take(&mut conn.gap).into());
        }
        let message = Message { op: Op::Deliver, header, data: Some(queued.event.data.clone()) };
        let unit = self.units.get_mut(&conn.unit)?;
        if unit.causes.len() >= CAUSES_MAX {
            unit.causes.pop_front();
        }
        unit.causes.push_back(Cause {
            event: message.id().unwrap_or_default().to_owned(),
            delivery,
            hops: queued.event.hops,
            path: queued.event.path.clone(),
        });
        if !realtime {
            if let Some(open) = queued.request.and_then(|number| self.open.get_mut(&number)) {
                open.delivery = Some(delivery);
            }
            unit.held.insert(delivery, Held { queued, waits: false });
        }
        Some(message)
    }

    /// Number in the name of one of our deliveries.
    fn delivery_number(&self, name: &str) -> Option<u64> {
        name.strip_prefix(&self.nonce)?.strip_prefix('-')?.parse().ok()
    }

    /// Does what a unit's message says.
    pub fn handle(&mut self, conn_id: ConnId, message: Message, now: Now) -> Next {
        let id = message.id().map(str::to_owned);
        let moves_work = matches!(message.op, Op::Publish | Op::Request | Op::Reply | Op::Ack);
        let done = match message.op {
            Op::State | Op::Call if id.is_none() => Err(no_id(message.op)),
            Op::State => return Next::Ask(message),
            Op::Call => {
                self.moves(conn_id, now);
                return Next::Ask(message);
            }
            Op::Goodbye => return Next::Close,
            Op::Publish => self.publish(conn_id, message, now),
            Op::Subscribe => self.subscribe(conn_id, &message, now).map(Some),
            Op::Unsubscribe => self.unsubscribe(conn_id, &message).map(Some),
            Op::Credit => self.credit(conn_id, &message).map(|()| None),
            Op::Ack => self.ack(conn_id, &message).map(|()| None),
            Op::Nack => self.nack(conn_id, &message, now).map(|()| None),
            Op::Request => self.request(conn_id, message, now).map(|()| None),
            Op::Reply => self.reply(conn_id, message).map(|()| None),
            Op::Cancel => self.cancel_own(conn_id, &message).map(|()| None),
            Op::Ping => Ok(answer_ping(&message)),
            // A unit's SDK that does not know one of our ops says so; there is nothing to answer.
            Op::Error => Ok(None),
            op @ (Op::Hello
            | Op::Welcome
            | Op::Reject
            | Op::Deliver
            | Op::Cancelled
            | Op::PingBack
            | Op::Result
            | Op::Ok
            | Op::Drain) => {
                Err(WireError::new(Code::UnknownOp, format!("{op} ({}) is nothing to say after HELLO", op.code())))
            }
        };
        if done.is_ok() && moves_work {
            self.moves(conn_id, now);
        }
        match done {
            Ok(None) => {}
            Ok(Some(answer)) => self.push_answer(conn_id, answer),
            Err(error) => self.push_answer(conn_id, error.about(id.as_deref())),
        }
        Next::Nothing
    }

    fn moves(&mut self, conn_id: ConnId, now: Now) {
        let unit = self.conns.get(&conn_id).map(|conn| &conn.unit);
        if let Some(entry) = unit.and_then(|unit| self.units.get_mut(unit)) {
            entry.moved = Some(now.at);
        }
    }

    fn conn(&mut self, conn_id: ConnId) -> Result<&mut Conn, WireError> {
        self.conns.get_mut(&conn_id).ok_or_else(|| WireError::new(Code::Fenced, "the connection is over"))
    }

    fn denied(&mut self, unit: &UnitId, verb: &'static str, topic: &str, text: &str, now: Now) -> WireError {
        self.counters.denied += 1;
        if self.denials.len() >= DENIALS_REMEMBERED {
            self.denials.clear();
        }
        let last = self.denials.entry((unit.clone(), verb, topic.to_owned()));
        let quiet = matches!(&last, std::collections::hash_map::Entry::Occupied(at) if now.at - *at.get() < DENIAL_LOG);
        if !quiet {
            last.insert_entry(now.at);
            tracing::warn!(LOOM_UNIT = %unit, verb, topic, "denied on the bus: {text}");
        }
        WireError::new(Code::Denied, text)
    }

    fn subscribe(&mut self, conn_id: ConnId, message: &Message, now: Now) -> Result<Message, WireError> {
        let header: Subscribe = message.parse()?;
        let filter: Filter = header.filter.parse().map_err(|bad| bad_topic(&bad))?;
        let sub = self.number();
        let conn = self.conn(conn_id)?;
        if let Err(denied) = conn.grants.may_subscribe(&filter) {
            let unit = conn.unit.clone();
            return Err(self.denied(&unit, "subscribe", filter.as_str(), &denied.to_string(), now));
        }
        if conn.filters.len() >= wire::SUBSCRIPTIONS_MAX {
            let text = format!("`{}` has {} subscriptions, which is the limit", conn.unit, wire::SUBSCRIPTIONS_MAX);
            return Err(WireError::new(Code::TooMany, text));
        }
        conn.filters.insert(sub, filter.clone());
        self.subscriptions.insert(&filter, (conn_id, sub));
        Ok(Message::new(Op::Ok, &Done { about: header.id, sub: Some(sub.to_string()), published: None }))
    }

    fn unsubscribe(&mut self, conn_id: ConnId, message: &Message) -> Result<Message, WireError> {
        let header: Unsubscribe = message.parse()?;
        let conn = self.conn(conn_id)?;
        let found = header.sub.parse().ok().and_then(|sub: u64| conn.filters.remove_entry(&sub));
        let Some((sub, filter)) = found else {
            return Err(WireError::new(Code::BadHeader, format!("there is no subscription `{}`", header.sub)));
        };
        self.subscriptions.remove(&filter, &(conn_id, sub));
        Ok(Message::new(Op::Ok, &Done { about: header.id, ..Done::default() }))
    }

    fn credit(&mut self, conn_id: ConnId, message: &Message) -> Result<(), WireError> {
        let header: Credit = message.parse()?;
        let conn = self.conn(conn_id)?;
        conn.credit_messages = conn.credit_messages.saturating_add(header.messages);
        conn.credit_bytes = conn.credit_bytes.saturating_add(header.bytes);
        conn.wake.notify_one();
        let unit = conn.unit.clone();
        self.returned(&unit);
        Ok(())
    }

    /// Connections that get an event on that topic, with the subscriptions that match.
    fn receivers(&self, topic: &Topic) -> BTreeMap<ConnId, Vec<String>> {
        let mut receivers: BTreeMap<ConnId, Vec<String>> = BTreeMap::new();
        for (conn_id, sub) in self.subscriptions.matches(topic) {
            let conn = self.conns.get(conn_id).expect("subscriptions end with their connection");
            if conn.grants.may_receive(topic) {
                receivers.entry(*conn_id).or_default().push(sub.to_string());
            }
        }
        receivers
    }

    fn publish(&mut self, conn_id: ConnId, message: Message, now: Now) -> Result<Option<Message>, WireError> {
        wire::check_event(&message.header)?;
        let topic: Topic = message.text("topic").unwrap_or_default().parse().map_err(|bad| bad_topic(&bad))?;
        let class: Class = match message.header.get("qos") {
            None => Class::default(),
            Some(word) => serde::Deserialize::deserialize(word).map_err(|_| {
                WireError::new(Code::BadHeader, format!("`qos` is \"realtime\" or \"batched\", not {word}"))
            })?,
        };
        let conn = self.conn(conn_id)?;
        let (unit, grants) = (conn.unit.clone(), conn.grants.clone());
        if topic.root() == ROOT_REPLY && topic.segments().last() == Some("progress") {
            return self.progress(&unit, &topic, class, message, now).map(|()| None);
        }
        if let Err(denied) = grants.may_publish(&topic) {
            return Err(self.denied(&unit, "publish", topic.as_str(), &denied.to_string(), now));
        }
        let id = message.id().unwrap_or_default().to_owned();
        let event = Arc::new(self.stamp(&unit, message, now)?);
        self.spread(event, &topic, class)?;
        Ok(match class {
            Class::Realtime => None,
            Class::Batched => {
                let published = Published { stream: String::new(), seq: 0, dup: false, durability: Durability::Memory };
                Some(Message::new(Op::Ok, &Done { about: id, sub: None, published: Some(published) }))
            }
        })
    }

    /// Publishes on behalf of loomd: realtime, so that nobody's slowness reaches it.
    pub fn publish_as_loomd(&mut self, topic: &Topic, header: Header, data: Bytes, now: Now) {
        let header = stamped(header, "/loomd", HOPS_MAX, now);
        let event = Event { header, data, hops: HOPS_MAX, path: Arc::from([]), expires_ms: None };
        self.spread(Arc::new(event), topic, Class::Realtime).expect("realtime is never refused");
    }

    /// One copy per connection; batched: all of them or none.
    fn spread(&mut self, event: Arc<Event>, topic: &Topic, class: Class) -> Result<(), WireError> {
        let mut receivers = self.receivers(topic);
        if !self.aside.is_empty() {
            let all = receivers.len();
            receivers.retain(|conn_id, _| !self.is_spared(&self.conns[conn_id].unit, &event));
            self.counters.given_up += (all - receivers.len()) as u64;
        }
        if class == Class::Batched
            && let Some(full) = receivers.keys().map(|conn_id| &self.conns[conn_id]).find(|conn| conn.is_full(&event))
        {
            return Err(full.busy());
        }
        for (conn_id, subs) in receivers {
            let conn = self.conns.get_mut(&conn_id).expect("found with the receivers");
            let queued = Queued { event: event.clone(), subs, attempt: 1, request: None };
            match class {
                Class::Realtime => self.counters.gaps += conn.push_realtime(queued),
                Class::Batched => conn.push_batched(queued),
            }
        }
        Ok(())
    }

    /// Sets what only the broker may say, and counts how often this was passed on.
    fn stamp(&mut self, unit: &UnitId, message: Message, now: Now) -> Result<Event, WireError> {
        let cause = message.text("causationid").and_then(|cause| {
            let delivery = self.delivery_number(cause);
            let entry = self.units.get(unit)?;
            entry.causes.iter().rev().find(|known| known.event == cause || Some(known.delivery) == delivery)
        });
        let (hops, path) = match cause {
            None => (HOPS_MAX, Arc::from([unit.to_string()])),
            Some(cause) => {
                let path: Vec<String> = cause.path.iter().cloned().chain([unit.to_string()]).collect();
                if cause.hops <= 1 {
                    let text = format!("passed on {HOPS_MAX} times, which is the limit: {}", path.join(" → "));
                    return Err(WireError::new(Code::Hops, text));
                }
                (cause.hops - 1, path.into())
            }
        };
        let expires_ms = message.number("expirytime");
        let data = message.data.clone().unwrap_or_default();
        Ok(Event {
            header: stamped(message.header, &format!("/units/{unit}"), hops, now),
            data,
            hops,
            path,
            expires_ms,
        })
    }

    /// News about a request on its way, from its holder to its caller.
    fn progress(
        &mut self,
        unit: &UnitId,
        topic: &Topic,
        class: Class,
        message: Message,
        now: Now,
    ) -> Result<(), WireError> {
        if class != Class::Realtime {
            return Err(WireError::new(Code::BadHeader, "progress of a request is `qos` \"realtime\""));
        }
        let number = self.request_number(topic);
        let Some(open) = number.and_then(|number| self.open.get(&number)) else {
            self.counters.late_replies += 1;
            return Ok(());
        };
        if open.holder != *unit {
            let text = format!("`{unit}` may not publish on `{topic}`: only the unit that holds the request does");
            return Err(self.denied(&unit.clone(), "progress", topic.as_str(), &text, now));
        }
        let mut header = stamped(message.header, &format!("/units/{unit}"), HOPS_MAX, now);
        header.insert("correlationid".to_owned(), open.event.clone().into());
        let data = message.data.unwrap_or_default();
        let expires_ms = None;
        match &open.caller {
            Caller::Person(Person { answers: sender, .. }) => {
                // The last place is for the answer.
                if sender.capacity() > 1 {
                    let _ = sender.try_send(BusAnswer::Progress(data));
                } else {
                    self.counters.gaps += 1;
                }
            }
            Caller::Conn { conn, .. } => {
                if let Some(conn) = self.conns.get_mut(conn) {
                    let event = Arc::new(Event { header, data, hops: HOPS_MAX, path: Arc::from([]), expires_ms });
                    self.counters.gaps += conn.push_realtime(Queued { event, subs: vec![], attempt: 1, request: None });
                }
            }
        }
        Ok(())
    }

    /// The number in `reply.<u>.<nonce>-<number>.progress`.
    fn request_number(&self, topic: &Topic) -> Option<u64> {
        let replyto = topic.as_str().strip_suffix(".progress")?;
        let number = self.delivery_number(replyto.rsplit('.').next()?)?;
        self.open.get(&number).filter(|open| open.replyto == replyto).map(|_| number)
    }

    fn request(&mut self, conn_id: ConnId, message: Message, now: Now) -> Result<(), WireError> {
        wire::check_event(&message.header)?;
        let topic: Topic = message.text("topic").unwrap_or_default().parse().map_err(|bad| bad_topic(&bad))?;
        let Some(deadline_ms) = message.number("deadline") else {
            return Err(WireError::new(Code::BadHeader, "a request needs `deadline`: ms since the epoch"));
        };
        let id = message.id().unwrap_or_default().to_owned();
        let conn = self.conn(conn_id)?;
        if let Err(denied) = conn.grants.may_request(&topic) {
            let unit = conn.unit.clone();
            return Err(self.denied(&unit, "request", topic.as_str(), &denied.to_string(), now));
        }
        if conn.requests.contains_key(&id) {
            return Err(WireError::new(Code::IdConflict, format!("a request with the id `{id}` waits for its answer")));
        }
        if conn.requests.len() >= REQUESTS_MAX {
            let text = format!("{REQUESTS_MAX} requests of `{}` wait for their answer, which is the limit", conn.unit);
            return Err(WireError::new(Code::Busy, text).retry_after_ms(1000));
        }
        let (unit, mailbox) = (conn.unit.clone(), conn.grants.mailbox().to_owned());
        let event = self.stamp(&unit, message, now)?;
        let number =
            self.ask(Caller::Conn { conn: conn_id, id: id.clone() }, &mailbox, topic, event, deadline_ms, now)?;
        self.conn(conn_id)?.requests.insert(id, number);
        Ok(())
    }

    /// A request by a person, who has every grant. The error was not sent to the person.
    pub fn request_as_person(
        &mut self,
        topic: Topic,
        header: Header,
        data: Bytes,
        deadline_ms: u64,
        person: Person,
        now: Now,
    ) -> Result<u64, WireError> {
        let header = stamped(header, "/people", HOPS_MAX, now);
        let event = Event { header, data, hops: HOPS_MAX, path: Arc::from([]), expires_ms: None };
        self.ask(Caller::Person(person), PEOPLE, topic, event, deadline_ms, now)
    }

    fn ask(
        &mut self,
        caller: Caller,
        mailbox: &str,
        topic: Topic,
        mut event: Event,
        deadline_ms: u64,
        now: Now,
    ) -> Result<u64, WireError> {
        let left = Duration::from_millis(deadline_ms.saturating_sub(now.wall_ms));
        if left.is_zero() {
            return Err(WireError::new(Code::Deadline, format!("the deadline of the request to `{topic}` is over")));
        }
        let (receiver, awaited) = match self.receiver(&topic, &event) {
            Ok(found) => (Some(found), None),
            Err(error) => match self.awaited(&topic, now).cloned() {
                Some(unit) if self.is_spared(&unit, &event) => return Err(poisoned(&unit, event.id())),
                Some(unit) => (None, Some(unit)),
                None => return Err(error),
            },
        };
        let number = self.number();
        let replyto = format!("{ROOT_REPLY}.{mailbox}.{}-{number}", self.nonce);
        event.header.insert("replyto".to_owned(), replyto.clone().into());
        event.header.insert("deadline".to_owned(), deadline_ms.into());
        // Beyond a clock's reach nothing is ever due.
        let due = now.at.checked_add(left).unwrap_or(now.at + Duration::from_secs(86_400 * 365));
        let id = event.id().to_owned();
        let (conn, holder) = match (receiver, awaited) {
            (Some((conn_id, subs)), _) => {
                let conn = self.conns.get_mut(&conn_id).expect("found with the receivers");
                if conn.is_full(&event) {
                    return Err(conn.busy());
                }
                conn.push_batched(Queued { event: Arc::new(event), subs, attempt: 1, request: Some(number) });
                (conn_id, conn.unit.clone())
            }
            (None, Some(unit)) => {
                let entry = self.units.get_mut(&unit).and_then(|entry| entry.awaited.as_mut());
                let awaited = entry.expect("found above");
                if awaited.requests.len() >= RETURN_MAX {
                    let text = format!("{RETURN_MAX} requests wait for `{unit}` to come back, which is the limit");
                    return Err(WireError::new(Code::Busy, text).retry_after_ms(1000));
                }
                awaited.requests.insert(number, Arc::new(event));
                self.due.insert((awaited.until, Due::Return(number)));
                (NOWHERE, unit)
            }
            (None, None) => return Err(nobody(&topic)),
        };
        self.due.insert((due, Due::Deadline(number)));
        self.open.insert(number, Open { caller, holder, conn, delivery: None, due, topic, replyto, event: id });
        Ok(number)
    }

    /// Who gets that request, with the subscriptions that match: the least busy one.
    fn receiver(&self, topic: &Topic, event: &Event) -> Result<(ConnId, Vec<String>), WireError> {
        let (mut leaving, mut spared) = (None, None);
        let mut receivers = self.receivers(topic);
        receivers.retain(|conn_id, _| {
            let unit = &self.conns[conn_id].unit;
            if self.is_spared(unit, event) {
                spared = Some(unit);
                return false;
            }
            let leaves = self.units.get(unit).is_some_and(|entry| entry.leaving);
            if leaves {
                leaving = Some(unit);
            }
            !leaves
        });
        let found = receivers.into_iter().min_by_key(|(conn_id, _)| {
            let conn = &self.conns[conn_id];
            (conn.queue.len() + self.units.get(&conn.unit).map_or(0, |unit| unit.held.len()), *conn_id)
        });
        found.ok_or_else(|| match (leaving, spared) {
            (Some(unit), _) => leaves(unit),
            (None, Some(unit)) => poisoned(unit, event.id()),
            (None, None) => nobody(topic),
        })
    }

    /// Takes the delivery out of the unit's hands.
    fn settle(&mut self, conn_id: ConnId, name: &str) -> Option<(u64, Held)> {
        let delivery = self.delivery_number(name)?;
        let unit = &self.conns.get(&conn_id)?.unit;
        let entry = self.units.get_mut(unit)?;
        entry.loose.remove(&delivery);
        let held = &mut entry.held;
        if held.get(&delivery).is_none_or(|held| held.waits) {
            return None;
        }
        // There may be room for a further delivery now.
        self.conns.get(&conn_id)?.wake.notify_one();
        held.remove(&delivery).map(|held| (delivery, held))
    }

    fn ack(&mut self, conn_id: ConnId, message: &Message) -> Result<(), WireError> {
        let header: Ack = message.parse()?;
        let waits_for_reply = self.delivery_number(&header.delivery).is_some_and(|delivery| {
            let held = self.conns.get(&conn_id).and_then(|conn| self.units.get(&conn.unit)?.held.get(&delivery));
            held.and_then(|held| held.queued.request).is_some_and(|number| self.open.contains_key(&number))
        });
        // A request is done with its answer; until then its holder's death must be noticed.
        if !waits_for_reply {
            self.settle(conn_id, &header.delivery);
        }
        Ok(())
    }

    fn reply(&mut self, conn_id: ConnId, message: Message) -> Result<(), WireError> {
        let header: Reply = message.parse()?;
        let unit = self.conn(conn_id)?.unit.clone();
        let request = self.settle(conn_id, &header.about).and_then(|(_, held)| held.queued.request);
        match request.filter(|number| self.open.contains_key(number)) {
            Some(number) => {
                let data = message.data.unwrap_or_default();
                self.end(number, End::Reply { source: format!("/units/{unit}"), data });
            }
            None => self.counters.late_replies += 1,
        }
        Ok(())
    }

    fn nack(&mut self, conn_id: ConnId, message: &Message, now: Now) -> Result<(), WireError> {
        let header: Nack = message.parse()?;
        let unit = self.conn(conn_id)?.unit.clone();
        let Some((delivery, held)) = self.settle(conn_id, &header.delivery) else { return Ok(()) };
        let gone = held.queued.request.is_some_and(|number| !self.open.contains_key(&number));
        if gone {
            self.counters.late_replies += 1;
            return Ok(());
        }
        if header.is_final || held.queued.attempt >= ATTEMPTS_MAX {
            let why = if header.is_final {
                format!("`{unit}` refused: {}", header.reason)
            } else {
                format!("`{unit}` did not handle it in {ATTEMPTS_MAX} attempts: {}", header.reason)
            };
            self.units.get_mut(&unit).expect("it is connected").held.insert(delivery, held);
            self.give_up(&unit, delivery, &why);
            return Ok(());
        }
        let wait = Duration::from_millis(header.retry_after.unwrap_or(0));
        let at = now.at.checked_add(wait).unwrap_or(now.at);
        self.units.get_mut(&unit).expect("it is connected").held.insert(delivery, Held { waits: true, ..held });
        self.due.insert((at, Due::Again(conn_id, delivery)));
        Ok(())
    }

    fn cancel_own(&mut self, conn_id: ConnId, message: &Message) -> Result<(), WireError> {
        let header: wire::Cancel = message.parse()?;
        let number = self.conn(conn_id)?.requests.get(&header.about).copied();
        if let Some(number) = number {
            self.cancel(number, CancelReason::Cancelled);
        }
        Ok(())
    }

    /// A person gave the request up.
    pub fn cancel_person(&mut self, number: u64) {
        self.cancel(number, CancelReason::CallerGone);
    }

    /// Ends an open request; its holder is told.
    fn cancel(&mut self, number: u64, reason: CancelReason) {
        let Some(open) = self.open.get(&number) else { return };
        let (holder, delivery, queue, topic) = (open.holder.clone(), open.delivery, open.conn, open.topic.clone());
        let error = match reason {
            CancelReason::Deadline => {
                let text = match delivery {
                    Some(_) => format!("`{holder}` did not answer on `{topic}` before the deadline"),
                    None => format!("`{holder}` did not take the request on `{topic}` before the deadline"),
                };
                WireError::new(Code::Deadline, text)
            }
            CancelReason::Cancelled | CancelReason::CallerGone => {
                WireError::new(Code::Cancelled, format!("the request to `{topic}` was taken back"))
            }
        };
        let outcome = if delivery.is_some() { Outcome::Unknown } else { Outcome::NotRun };
        match delivery {
            Some(delivery) => {
                // From here on an answer is late; the unit owes nothing for it.
                let live = self.units.get_mut(&holder).and_then(|unit| {
                    // It may work on all the same, and may die of it.
                    if let Some(held) = unit.held.remove(&delivery).filter(|held| !held.waits) {
                        unit.loose.insert(delivery, held.queued.event);
                    }
                    if unit.loose.len() > LOOSE_MAX {
                        unit.loose.pop_first();
                    }
                    unit.live
                });
                let name = format!("{}-{delivery}", self.nonce);
                if let Some(conn) = live {
                    self.push_answer(conn, cancelled(name, reason));
                }
            }
            None => {
                if let Some(awaited) = self.units.get_mut(&holder).and_then(|unit| unit.awaited.as_mut()) {
                    awaited.requests.remove(&number);
                }
                if let Some(conn) = self.conns.get_mut(&queue) {
                    conn.queue.retain(|queued| queued.request != Some(number));
                    conn.queue_bytes = conn.queue.iter().map(|queued| queued.event.data.len()).sum();
                }
            }
        }
        self.end(number, End::Failed(error.outcome(outcome)));
    }

    /// Gives the caller its one answer.
    fn end(&mut self, number: u64, end: End) {
        let Some(open) = self.open.remove(&number) else { return };
        self.due.remove(&(open.due, Due::Deadline(number)));
        match open.caller {
            Caller::Person(Person { answers: sender, .. }) => {
                let answer = match end {
                    End::Reply { source, data } => BusAnswer::Reply { source, data },
                    End::Failed(error) => BusAnswer::Failed(error),
                };
                // Gone, or there is room: progress leaves the last place free.
                let _ = sender.try_send(answer);
            }
            Caller::Conn { conn, id } => {
                let Some(conn) = self.conns.get_mut(&conn) else { return };
                conn.requests.remove(&id);
                let too_much = |data: &Bytes| conn.answers_bytes + data.len() > ANSWERS_HARD_BYTES;
                conn.push_answer(match end {
                    End::Reply { data, .. } if too_much(&data) => {
                        let text = format!("`{}` does not read its answers; this one was dropped", conn.unit);
                        WireError::new(Code::Busy, text).outcome(Outcome::Done).about(Some(&id))
                    }
                    End::Reply { source, data } => {
                        Message::new(Op::Result, &serde_json::json!({"about": id, "source": source})).with_data(data)
                    }
                    End::Failed(error) => error.about(Some(&id)),
                });
            }
        }
    }

    /// Does what is due.
    pub fn fire(&mut self, now: Now) {
        while let Some((at, due)) = self.due.first().copied()
            && at <= now.at
        {
            self.due.remove(&(at, due));
            match due {
                Due::Deadline(number) => self.cancel(number, CancelReason::Deadline),
                Due::Return(number) => {
                    let Some(open) = self.open.get(&number) else { continue };
                    let (holder, error) = (open.holder.clone(), nobody(&open.topic));
                    if let Some(awaited) = self.units.get_mut(&holder).and_then(|unit| unit.awaited.as_mut())
                        && awaited.requests.remove(&number).is_some()
                    {
                        self.end(number, End::Failed(error));
                    }
                }
                Due::Again(conn_id, delivery) => {
                    let Some(conn) = self.conns.get_mut(&conn_id) else { continue };
                    let Some(unit) = self.units.get_mut(&conn.unit) else { continue };
                    let Some(held) = unit.held.remove(&delivery) else { continue };
                    let mut queued = held.queued;
                    if let Some(number) = queued.request {
                        let Some(open) = self.open.get_mut(&number) else { continue };
                        (open.delivery, open.conn) = (None, conn_id);
                    }
                    queued.attempt += 1;
                    conn.queue_bytes += queued.event.data.len();
                    conn.queue.push_front(queued);
                    conn.wake.notify_one();
                }
            }
        }
    }
}

impl Unit {
    /// What its run was given and has not settled, in the order in which it got it.
    fn in_hand(&self) -> impl Iterator<Item = &Event> {
        let held =
            self.held.iter().filter(|(_, held)| !held.waits).map(|(delivery, held)| (delivery, &held.queued.event));
        let all: BTreeMap<&u64, &Arc<Event>> = held.chain(&self.loose).collect();
        all.into_values().map(|event| &**event)
    }
}

impl Event {
    fn id(&self) -> &str {
        self.header.get("id").and_then(|id| id.as_str()).unwrap_or_default()
    }
}

impl Conn {
    fn push_answer(&mut self, answer: Message) {
        self.answers_bytes += answer.data_len() + 256;
        self.answers.push_back(answer);
        self.wake.notify_one();
    }

    fn has_credit(&self, bytes: usize) -> bool {
        self.credit_messages > 0 && self.credit_bytes >= bytes as u64
    }

    fn is_full(&self, event: &Event) -> bool {
        self.queue.len() >= QUEUE_EVENTS || self.queue_bytes + event.data.len() > QUEUE_BYTES
    }

    fn busy(&self) -> WireError {
        let text = format!(
            "`{}` is slow: {} events ({} bytes) wait for it; the limits are {QUEUE_EVENTS} and {QUEUE_BYTES}",
            self.unit,
            self.queue.len(),
            self.queue_bytes
        );
        WireError::new(Code::Busy, text).retry_after_ms(100)
    }

    fn push_batched(&mut self, queued: Queued) {
        self.queue_bytes += queued.event.data.len();
        self.queue.push_back(queued);
        self.wake.notify_one();
    }

    /// Returns how many were dropped for it.
    fn push_realtime(&mut self, queued: Queued) -> u64 {
        self.ring_bytes += queued.event.data.len();
        self.ring.push_back(queued);
        let mut dropped = 0;
        while self.ring.len() > RING_EVENTS || (self.ring_bytes > RING_BYTES && self.ring.len() > 1) {
            let oldest = self.ring.pop_front().expect("it is longer than its limit");
            self.ring_bytes -= oldest.event.data.len();
            dropped += 1;
        }
        self.gap += dropped;
        self.wake.notify_one();
        dropped
    }
}

/// What the broker says of an event, whatever its sender said.
fn stamped(mut header: Header, source: &str, hops: u8, now: Now) -> Header {
    for key in STAMPED {
        header.remove(key);
    }
    header.insert("source".to_owned(), source.into());
    header.insert("recvtime".to_owned(), now.wall_ms.into());
    header.insert("hops".to_owned(), hops.into());
    header
}

fn answer_ping(message: &Message) -> Option<Message> {
    let is_answer = message.header.get("answer").and_then(serde_json::Value::as_bool) == Some(true);
    let id = message.header.get("id").cloned().unwrap_or_default();
    (!is_answer).then(|| Message::new(Op::PingBack, &serde_json::json!({"about": id, "answer": true})))
}

/// Tells a holder that its work is not wanted any more.
fn cancelled(delivery: String, reason: CancelReason) -> Message {
    let grace_ms = u64::try_from(CANCEL_GRACE.as_millis()).expect("a few seconds");
    Message::new(Op::Cancelled, &Cancelled { delivery, reason, grace_ms })
}

fn bad_topic(bad: &loom_core::topic::BadTopic) -> WireError {
    WireError::new(Code::BadTopic, bad.to_string())
}

fn no_id(op: Op) -> WireError {
    WireError::new(Code::BadHeader, format!("{op} needs `id`"))
}

fn nobody(topic: &Topic) -> WireError {
    WireError::new(Code::NoReceiver, format!("nobody is subscribed to `{topic}`{}", hint(topic)))
}

fn leaves(unit: &UnitId) -> WireError {
    let text = format!("`{unit}` is about to go down with its group and takes no new request; ask again later");
    WireError::new(Code::NoReceiver, text).retry_after_ms(LEAVING_RETRY_MS)
}

fn poisoned(unit: &UnitId, id: &str) -> WireError {
    let text = format!(
        "the event `{id}` ended several runs of `{unit}` in a row (`poison_after` under [restart]), so it is delivered to it \
         no more. Find out what in it `{unit}` cannot bear; then send it under another id"
    );
    WireError::new(Code::Poisoned, text)
}

/// Who might listen there.
fn hint(topic: &Topic) -> String {
    let mut segments = topic.segments();
    match (segments.next(), segments.next()) {
        (Some("unit"), Some(mailbox)) if !mailbox.contains('_') => {
            format!(": is `{mailbox}.agent` running, and has it a handler for it? See `loomctl status {mailbox}`")
        }
        _ => String::new(),
    }
}

/// What WELCOME says of a unit's grants.
pub fn welcome_grants(bus: &loom_core::unit::Bus) -> WelcomeGrants {
    WelcomeGrants { publish: bus.publish.clone(), subscribe: bus.subscribe.clone(), request: bus.request.clone() }
}
