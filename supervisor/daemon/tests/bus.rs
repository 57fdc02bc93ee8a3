//! The bus over real sockets: what it promises to units, people and neighbours of a hostile one.
#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.

use bytes::Bytes;
use loom_api::bus_client::{Client, ClientError, Deliveries, Settings};
use loom_api::wire::{Code, Message, Op, Outcome, Previous, WireError};
use loom_core::ids::{RunId, UnitId};
use loom_core::unit;
use loomd::agents::{AgentHost, BoxFuture, StateAnswer, StateOp};
use loomd::bus::router::{QUEUE_EVENTS, RING_EVENTS};
use loomd::bus::{BusAnswer, BusError};
use loomd::switchboard::Bus;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use zeromq::{Socket, SocketRecv, SocketSend, ZmqMessage};

const TOKEN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const LIMIT: Duration = Duration::from_secs(10);

/// Keeps one state entry per key in memory, knows the tool `echo`.
#[derive(Default)]
struct Host {
    state: Mutex<std::collections::BTreeMap<String, (Vec<u8>, u64)>>,
    connected: Mutex<Vec<(String, u64, bool)>>,
}

impl AgentHost for Host {
    fn state(&self, _: UnitId, _: RunId, op: StateOp) -> BoxFuture<Result<StateAnswer, WireError>> {
        let mut state = self.state.lock().unwrap();
        let answer = match op {
            StateOp::Get { key } => Ok(StateAnswer::Value(state.get(&key).cloned())),
            StateOp::Put { key, value, if_version } => {
                let version = state.get(&key).map_or(0, |(_, version)| *version);
                if if_version.is_some_and(|wanted| wanted != version) {
                    Err(WireError::conflict(version, "changed meanwhile"))
                } else {
                    state.insert(key, (value.to_vec(), version + 1));
                    Ok(StateAnswer::Written(version + 1))
                }
            }
            StateOp::Delete { key, .. } => {
                state.remove(&key);
                Ok(StateAnswer::Deleted)
            }
            StateOp::Scan { prefix } => {
                Ok(StateAnswer::Keys(state.keys().filter(|key| key.starts_with(&prefix)).cloned().collect()))
            }
        };
        Box::pin(async move { answer })
    }

    fn call(
        &self,
        unit: UnitId,
        run: RunId,
        tool: String,
        args: Value,
        _: Option<u64>,
    ) -> BoxFuture<Result<Value, WireError>> {
        Box::pin(async move {
            match tool.as_str() {
                "test:echo" => Ok(json!({"unit": unit.to_string(), "run": run.0, "args": args})),
                "test:panic" => panic!("on purpose"),
                _ => Err(WireError::new(Code::ToolNotFound, "no such tool")),
            }
        })
    }

    fn connected(&self, unit: UnitId, run: RunId, up: bool) {
        self.connected.lock().unwrap().push((unit.to_string(), run.0, up));
    }
}

struct World {
    dir: tempfile::TempDir,
    bus: Bus,
    host: Arc<Host>,
    admits: Arc<AtomicBool>,
}

fn id(name: &str) -> UnitId {
    format!("{name}.agent").parse().unwrap()
}

fn hash(token: &str) -> String {
    Sha256::digest(token).iter().map(|b| format!("{b:02x}")).collect()
}

fn grants(publish: &[&str], subscribe: &[&str], request: &[&str]) -> unit::Bus {
    let list = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
    unit::Bus { publish: list(publish), subscribe: list(subscribe), request: list(request) }
}

impl World {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (host, admits) = (Arc::new(Host::default()), Arc::new(AtomicBool::new(true)));
        let admit = admits.clone();
        let bus = Bus::start(host.clone(), Arc::new(move |_, pid| pid > 0 && admit.load(Ordering::SeqCst)));
        Self { dir, bus, host, admits }
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.sock"))
    }

    fn unit(&self, name: &str, grants: unit::Bus) {
        self.bus.open_door(&id(name), &self.socket(name), grants).unwrap();
        self.bus.expect_run(&id(name), RunId(1), hash(TOKEN), Previous::default());
    }

    fn settings(&self, name: &str) -> Settings {
        let (unit, token) = (id(name).to_string(), TOKEN.to_owned());
        Settings { socket: self.socket(name), unit, run: 1, token, handlers: vec![] }
    }

    async fn client(&self, name: &str) -> (Client, Deliveries) {
        Client::connect(self.settings(name)).await.unwrap()
    }

    /// A unit with grants, connected.
    async fn up(&self, name: &str, grants: unit::Bus) -> (Client, Deliveries) {
        self.unit(name, grants);
        self.client(name).await
    }

    /// A unit that has subscribed and takes what comes.
    async fn listener(&self, name: &str, filter: &str) -> (Client, Deliveries) {
        let (client, deliveries) = self.up(name, grants(&[], &[filter], &[])).await;
        client.subscribe(filter).await.unwrap();
        client.receive_some().unwrap();
        (client, deliveries)
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}; {:?}", self.bus.broker().counters());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"))
}

async fn next(deliveries: &mut Deliveries) -> Message {
    soon("a delivery", deliveries.next()).await.expect("the client lives")
}

fn text(message: &Message) -> String {
    String::from_utf8(message.data.clone().unwrap_or_default().to_vec()).unwrap()
}

fn name(message: &Message) -> &str {
    message.text("delivery").unwrap()
}

fn refused(error: ClientError) -> WireError {
    match error {
        ClientError::Refused(error) | ClientError::Rejected(error) => error,
        other => panic!("expected a refusal, saw {other:?}"),
    }
}

macro_rules! on_the_bus {
    ($($(#[$attr:meta])* async fn $name:ident($world:ident) $body:block)*) => {$(
        $(#[$attr])*
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let $world = World::start();
            $body
        }
    )*};
}

on_the_bus! {
    async fn an_event_reaches_whoever_subscribed_once_and_says_who_sent_it(world) {
        let (writer, _w) = world.up("writer", grants(&["news.>"], &[], &[])).await;
        let (reader, mut inbox) = world.up("reader", grants(&[], &["news.>"], &[])).await;
        let mut subs = [reader.subscribe("news.*").await.unwrap(), reader.subscribe("news.>").await.unwrap()];
        reader.receive_some().unwrap();
        let forged = json!({"source": "/units/reader.agent", "replyto": "reply.reader.1", "seq": 9, "myext": "kept"});
        let ok = writer.publish("news.today", "1", forged).await.unwrap();
        assert_eq!(ok.header["durability"], "memory");
        let event = next(&mut inbox).await;
        assert_eq!(event.text("source"), Some("/units/writer.agent"));
        assert_eq!((event.text("myext"), event.text("replyto"), event.number("seq")), (Some("kept"), None, None));
        let mut listed: Vec<_> = event.header["subs"].as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_owned()).collect();
        listed.sort();
        subs.sort();
        assert_eq!(listed, subs, "one copy that lists both");
        reader.ack(name(&event)).unwrap();
        reader.unsubscribe(&subs[0], "news.*").await.unwrap();
        writer.publish("news.tomorrow", "2", json!({})).await.unwrap();
        assert_eq!(text(&next(&mut inbox).await), "2");
    }

    async fn nothing_is_delivered_before_credit_is_given(world) {
        let (writer, _w) = world.up("writer", grants(&["a"], &[], &[])).await;
        let (reader, mut inbox) = world.up("reader", grants(&[], &["a"], &[])).await;
        reader.subscribe("a").await.unwrap();
        writer.publish("a", "1", json!({})).await.unwrap();
        writer.publish("a", "2", json!({})).await.unwrap();
        // An answer that comes later than a delivery would have.
        reader.operate(Op::State, json!({"verb": "scan"}), None).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(1), inbox.next()).await.is_err());
        reader.receive(1, 100).unwrap();
        assert_eq!(text(&next(&mut inbox).await), "1");
        assert_eq!(text(&next(&mut inbox).await), "2", "taking the first gives credit for the second");
    }

    async fn what_is_not_granted_is_denied_with_the_line_to_add(world) {
        let (client, _d) = world.up("chat", grants(&["a.>"], &[], &[])).await;
        let error = refused(client.publish("b.c", "1", json!({})).await.unwrap_err());
        assert_eq!((error.code, error.outcome), (Code::Denied, Some(Outcome::NotRun)));
        assert!(error.message.contains("Add `publish = [\"b.c\"]` to its [bus] section"), "{}", error.message);
        let error = refused(client.subscribe("b.>").await.unwrap_err());
        assert!(error.message.contains("`subscribe = [\"b.>\"]`"), "{}", error.message);
        let error = refused(client.request("unit.x.ask", "1", LIMIT, None).await.unwrap_err());
        assert!(error.message.contains("`request = [\"unit.x.ask\"]`"), "{}", error.message);
        assert!(refused(client.subscribe("unit.other.>").await.unwrap_err()).message.contains("no line"));
        assert_eq!(world.bus.broker().counters().denied, 4);
        let settings = Settings { handlers: vec!["x.y".into()], ..world.settings("second") };
        world.unit("second", grants(&[], &[], &[]));
        let error = refused(Client::connect(settings).await.unwrap_err());
        assert!(error.message.contains("`subscribe = [\"x.y\"]`"), "HELLO is refused: {}", error.message);
    }

    async fn a_subscription_that_loses_its_grant_is_told_and_hears_no_more(world) {
        let (_client, _i) = world.listener("chat", "a").await;
        world.bus.set_grants(&id("chat"), grants(&[], &[], &[])).unwrap();
        let (writer, _w) = world.up("writer", grants(&["a"], &[], &[])).await;
        writer.publish("a", "1", json!({})).await.unwrap();
        let mut answers = world.bus.request_as_person("a", Bytes::new(), LIMIT);
        assert!(matches!(soon("answer", answers.recv()).await, Some(BusAnswer::Failed(e)) if e.code == Code::NoReceiver));
    }

    async fn a_request_gets_progress_and_then_its_one_answer(world) {
        let (worker, mut inbox) = world.listener("worker", "unit.worker.>").await;
        let (asker, mut asked) = world.up("asker", grants(&[], &[], &["unit.worker.>"])).await;
        asker.receive_some().unwrap();
        let (progress, mut seen) = tokio::sync::mpsc::channel(16);
        let question = tokio::spawn({
            let asker = asker.clone();
            async move { asker.request("unit.worker.ask", "why?", LIMIT, Some(progress)).await }
        });
        let request = next(&mut inbox).await;
        assert!(request.number("deadline").is_some());
        let replyto = request.text("replyto").unwrap().to_owned();
        assert!(replyto.starts_with("reply.asker."), "{replyto}");
        worker.ack(name(&request)).unwrap();
        for token in ["be", "cause"] {
            worker.progress(&replyto, token).unwrap();
        }
        worker.reply(name(&request), "because").unwrap();
        let answer = soon("answer", question).await.unwrap().unwrap();
        assert_eq!((&answer.data[..], &answer.header["source"]), (&b"because"[..], &json!("/units/worker.agent")));
        assert_eq!([soon("token", seen.recv()).await, soon("token", seen.recv()).await], [Some("be".into()), Some("cause".into())]);
        next(&mut asked).await;
        // Too late for both.
        worker.progress(&replyto, "late").unwrap();
        worker.reply(name(&request), "again").unwrap();
        world.until("both are counted", |w| w.bus.broker().counters().late_replies == 2).await;
    }

    async fn a_person_asks_with_every_grant_and_hears_tokens_in_order(world) {
        let (worker, mut inbox) = world.listener("worker", "unit.worker.>").await;
        let mut answers = world.bus.request_as_person("unit.worker.ask", Bytes::from_static(b"hi"), LIMIT);
        let request = next(&mut inbox).await;
        assert_eq!(request.text("source"), Some("/people"));
        let replyto = request.text("replyto").unwrap().to_owned();
        assert!(replyto.starts_with("reply.ctl."), "{replyto}");
        for n in 0..100 {
            worker.progress(&replyto, n.to_string()).unwrap();
        }
        worker.reply(name(&request), "done").unwrap();
        for n in 0..100 {
            assert_eq!(soon("progress", answers.recv()).await, Some(BusAnswer::Progress(n.to_string().into())));
        }
        let reply = BusAnswer::Reply { source: "/units/worker.agent".into(), data: "done".into() };
        assert_eq!(soon("reply", answers.recv()).await, Some(reply));
        assert_eq!(soon("end", answers.recv()).await, None);
    }

    async fn a_request_to_nobody_is_answered_at_once(world) {
        let (asker, _d) = world.up("asker", grants(&[], &[], &[">"])).await;
        let start = Instant::now();
        let error = refused(asker.request("unit.gone.ask", "1", LIMIT, None).await.unwrap_err());
        assert_eq!(error.code, Code::NoReceiver);
        assert!(error.message.contains("gone.agent"), "{}", error.message);
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    async fn a_request_to_the_dying_is_answered_at_once(world) {
        let (_worker, mut inbox) = world.listener("worker", "unit.worker.>").await;
        let (asker, _d) = world.up("asker", grants(&[], &[], &[">"])).await;
        let question = tokio::spawn({ let asker = asker.clone(); async move { asker.request("unit.worker.ask", "1", Duration::from_secs(3600), None).await } });
        next(&mut inbox).await;
        world.bus.end_run(&id("worker"), RunId(1));
        let error = refused(soon("answer", question).await.unwrap().unwrap_err());
        assert_eq!((error.code, error.outcome), (Code::UnitFailed, Some(Outcome::Unknown)));
        world.until("the connection ended", |w| w.host.connected.lock().unwrap().contains(&("worker.agent".into(), 1, false))).await;
    }

    async fn the_broker_owns_the_deadline_and_tells_the_holder(world) {
        let (worker, mut inbox) = world.listener("worker", "unit.worker.>").await;
        let mut answers = world.bus.request_as_person("unit.worker.ask", Bytes::new(), Duration::from_millis(50));
        let request = next(&mut inbox).await;
        let failed = soon("deadline", answers.recv()).await;
        assert!(matches!(&failed, Some(BusAnswer::Failed(e)) if e.code == Code::Deadline && e.outcome == Some(Outcome::Unknown)), "{failed:?}");
        let cancel = next(&mut inbox).await;
        assert_eq!((cancel.op, cancel.text("reason"), name(&cancel)), (Op::Cancelled, Some("deadline"), name(&request)));
        worker.reply(name(&request), "late").unwrap();
        world.until("the late reply is counted", |w| w.bus.broker().counters().late_replies == 1).await;
    }

    async fn a_caller_that_goes_away_cancels_the_receivers_work(world) {
        let (_worker, mut inbox) = world.listener("worker", "unit.worker.>").await;
        let answers = world.bus.request_as_person("unit.worker.ask", Bytes::new(), LIMIT);
        let request = next(&mut inbox).await;
        drop(answers);
        let cancel = next(&mut inbox).await;
        assert_eq!((cancel.text("reason"), name(&cancel)), (Some("caller-gone"), name(&request)));
        let (asker, _d) = world.up("asker", grants(&[], &[], &[">"])).await;
        let question = tokio::spawn({ let asker = asker.clone(); async move { asker.request("unit.worker.ask", "1", LIMIT, None).await } });
        next(&mut inbox).await;
        question.abort();
        assert_eq!(next(&mut inbox).await.text("reason"), Some("cancelled"));
    }

    async fn a_refused_request_fails_with_the_holders_reason(world) {
        let (worker, mut inbox) = world.listener("worker", "unit.worker.>").await;
        let mut answers = world.bus.request_as_person("unit.worker.ask", Bytes::new(), LIMIT);
        worker.nack(name(&next(&mut inbox).await), "`text` is missing", None).unwrap();
        let failed = soon("failure", answers.recv()).await;
        assert!(matches!(&failed, Some(BusAnswer::Failed(e)) if e.code == Code::UnitFailed && e.message.contains("`text` is missing")), "{failed:?}");
    }

    async fn an_event_refused_for_now_comes_again_and_is_given_up_after_the_last_attempt(world) {
        let (writer, _w) = world.up("writer", grants(&["a"], &[], &[])).await;
        let (reader, mut inbox) = world.listener("reader", "a").await;
        writer.publish("a", "1", json!({})).await.unwrap();
        for attempt in 1..=5 {
            let event = next(&mut inbox).await;
            assert_eq!((event.number("attempt"), text(&event).as_str()), (Some(attempt), "1"));
            reader.nack(name(&event), "not yet", Some(Duration::from_millis(5))).unwrap();
        }
        world.until("it is given up", |w| w.bus.broker().counters().given_up == 1).await;
        writer.publish("a", "2", json!({})).await.unwrap();
        assert_eq!(text(&next(&mut inbox).await), "2");
    }

    async fn a_stopped_subscriber_slows_nobody_and_its_gaps_add_up(world) {
        let (writer, _w) = world.up("writer", grants(&["tick"], &[], &[])).await;
        let (stopped, mut late) = world.up("stopped", grants(&[], &["tick"], &[])).await;
        stopped.subscribe("tick").await.unwrap();
        let (_reader, mut inbox) = world.listener("reader", "tick").await;
        let total = RING_EVENTS * 3;
        for n in 0..total {
            writer.publish_realtime("tick", n.to_string()).unwrap();
            assert_eq!(text(&next(&mut inbox).await), n.to_string(), "the other reader misses nothing");
        }
        stopped.receive(10_000, 1 << 20).unwrap();
        let (mut delivered, mut gaps) = (0, 0);
        while delivered + gaps < total {
            let event = next(&mut late).await;
            delivered += 1;
            gaps += usize::try_from(event.number("gap").unwrap_or(0)).unwrap();
            if delivered == 1 {
                assert_eq!(text(&event), (total - RING_EVENTS).to_string(), "the oldest are dropped");
            }
        }
        assert_eq!((delivered, gaps), (RING_EVENTS, total - RING_EVENTS));
    }

    async fn a_full_queue_is_busy_for_the_publisher_and_loses_nothing(world) {
        let (writer, _w) = world.up("writer", grants(&["a"], &[], &[])).await;
        let (reader, mut inbox) = world.up("reader", grants(&[], &["a"], &[])).await;
        reader.subscribe("a").await.unwrap();
        for n in 0..QUEUE_EVENTS {
            writer.publish("a", n.to_string(), json!({})).await.unwrap();
        }
        let error = refused(writer.publish("a", "more", json!({})).await.unwrap_err());
        assert_eq!(error.code, Code::Busy);
        assert!(error.retry_after_ms.is_some() && error.message.contains("reader.agent"), "{}", error.message);
        reader.receive_some().unwrap();
        for n in 0..QUEUE_EVENTS {
            let event = next(&mut inbox).await;
            assert_eq!(text(&event), n.to_string());
            reader.ack(name(&event)).unwrap();
        }
    }

    async fn an_event_passed_on_too_often_is_refused_with_its_path(world) {
        let (a, mut from_b) = world.up("a", grants(&["ab"], &["ba"], &[])).await;
        let (b, mut from_a) = world.up("b", grants(&["ba"], &["ab"], &[])).await;
        a.subscribe("ba").await.unwrap();
        b.subscribe("ab").await.unwrap();
        a.receive_some().unwrap();
        b.receive_some().unwrap();
        a.publish("ab", "1", json!({})).await.unwrap();
        let mut turns = 0;
        let error = loop {
            let event = next(&mut from_a).await;
            if let Err(error) = b.publish("ba", "1", json!({"causationid": event.id()})).await { break error }
            let event = next(&mut from_b).await;
            if let Err(error) = a.publish("ab", "1", json!({"causationid": event.text("delivery")})).await { break error }
            turns += 1;
            assert!(turns < 20);
        };
        let error = refused(error);
        assert_eq!(error.code, Code::Hops);
        assert!(error.message.contains("a.agent → b.agent → a.agent"), "{}", error.message);
    }

    async fn state_and_calls_reach_the_host_with_unit_and_run(world) {
        let (client, _d) = world.up("chat", grants(&[], &[], &[])).await;
        let put = json!({"verb": "put", "key": "count", "if_version": 0});
        let written = client.operate(Op::State, put.clone(), Some("42".into())).await.unwrap();
        assert_eq!(written.header["version"], 1);
        let conflict = refused(client.operate(Op::State, put, Some("43".into())).await.unwrap_err());
        assert_eq!((conflict.code, conflict.version), (Code::Conflict, Some(1)));
        let read = client.operate(Op::State, json!({"verb": "get", "key": "count"}), None).await.unwrap();
        assert_eq!((&read.data[..], &read.header["version"], &read.header["found"]), (&b"42"[..], &json!(1), &json!(true)));
        let keys = client.operate(Op::State, json!({"verb": "scan", "prefix": "c"}), None).await.unwrap();
        assert_eq!(&keys.data[..], br#"{"keys":["count"]}"#);
        let called = client.operate(Op::Call, json!({"tool": "test:echo"}), Some(r#"{"x":1}"#.into())).await.unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&called.data).unwrap(), json!({"unit": "chat.agent", "run": 1, "args": {"x": 1}}));
        let error = refused(client.operate(Op::Call, json!({"tool": "no:such"}), None).await.unwrap_err());
        assert_eq!(error.code, Code::ToolNotFound);
        let error = refused(client.operate(Op::Call, json!({"tool": "test:panic"}), None).await.unwrap_err());
        assert_eq!((error.code, error.outcome), (Code::Internal, Some(Outcome::Unknown)), "and the connection stays:");
        client.operate(Op::State, json!({"verb": "scan"}), None).await.unwrap();
    }

    async fn only_the_current_run_connects_with_its_own_token_and_once(world) {
        world.unit("chat", grants(&[], &[], &[]));
        let with = |token: &str, run| Settings { token: token.into(), run, ..world.settings("chat") };
        assert_eq!(refused(Client::connect(with("wrong", 1)).await.unwrap_err()).code, Code::BadToken);
        world.bus.expect_run(&id("chat"), RunId(2), hash(TOKEN), Previous { result: Some("signal".into()), exit: None, restarts: 1 });
        assert_eq!(refused(Client::connect(with(TOKEN, 1)).await.unwrap_err()).code, Code::StaleRun);
        let (first, deliveries) = Client::connect(with(TOKEN, 2)).await.unwrap();
        assert_eq!(first.welcome().unwrap().previous.restarts, 1);
        assert!(world.bus.connected(&id("chat")));
        let mut second = std::pin::pin!(Client::connect(with(TOKEN, 2)));
        let refused = tokio::time::timeout(Duration::from_millis(300), &mut second).await;
        assert!(refused.is_err(), "the second waits while the first lives");
        drop((first, deliveries));
        soon("the second is welcome once the first is gone", second).await.unwrap();
    }

    async fn a_process_that_is_none_of_the_unit_is_refused_at_its_door(world) {
        world.unit("chat", grants(&[], &[], &[]));
        world.admits.store(false, Ordering::SeqCst);
        let mut stranger = UnixStream::connect(world.socket("chat")).await.unwrap();
        assert_eq!(soon("closed", stranger.read(&mut [0; 64])).await.unwrap_or(0), 0, "closed without a byte");
        world.admits.store(true, Ordering::SeqCst);
        world.client("chat").await;
    }

    async fn a_door_is_private_replaces_a_leftover_and_reopens(world) {
        let path = world.socket("chat");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        world.unit("chat", grants(&[], &[], &[]));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (client, _d) = world.client("chat").await;
        world.unit("chat", grants(&["a"], &[], &[]));
        client.publish("a", "1", json!({})).await.expect("opened again with other grants, the connection stays");
        std::fs::remove_file(&path).unwrap();
        world.unit("chat", grants(&[], &[], &[]));
        assert!(path.exists(), "a socket file that was removed is made again");
        world.bus.close_door(&id("chat"));
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        let error = world.bus.open_door(&id("chat"), &path, grants(&[], &[], &[])).unwrap_err();
        assert!(matches!(error, BusError::NotASocket(_)));
        let long = world.dir.path().join("x".repeat(108));
        let error = world.bus.open_door(&id("chat"), &long, grants(&[], &[], &[])).unwrap_err().to_string();
        assert!(error.contains("--runtime-dir"), "{error}");
    }

    async fn a_client_comes_back_to_a_new_loomd_with_its_subscriptions(world) {
        let (client, mut inbox) = world.listener("chat", "a").await;
        let World { dir, bus, host, admits } = world;
        bus.close_door(&id("chat"));
        let admit = admits.clone();
        let bus = Bus::start(host.clone(), Arc::new(move |_, _| admit.load(Ordering::SeqCst)));
        let world = World { dir, bus, host, admits };
        world.unit("chat", grants(&[], &["a"], &[]));
        let (writer, _w) = world.up("writer", grants(&["a"], &[], &["a"])).await;
        world.until("it is connected again", |w| w.bus.connected(&id("chat"))).await;
        let asked = tokio::spawn(async move { loop {
            if let Ok(answer) = writer.request("a", "hi", LIMIT, None).await { return answer }
        } });
        let request = next(&mut inbox).await;
        client.reply(name(&request), "back").unwrap();
        assert_eq!(&soon("answer", asked).await.unwrap().data[..], b"back");
    }

    async fn hostile_bytes_on_one_door_leave_the_neighbours_at_work(world) {
        let (_reader, mut inbox) = world.listener("reader", "a").await;
        let (writer, _w) = world.up("writer", grants(&["a"], &[], &[])).await;
        world.unit("evil", grants(&[], &[], &[]));
        let mut greeting = vec![0; 64];
        greeting[..11].copy_from_slice(&[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3]);
        greeting[12..16].copy_from_slice(b"NULL");
        let ready = b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x06DEALER";
        let ready = [&[4, u8::try_from(ready.len() - 2).unwrap()][..], &ready[2..]].concat();
        let huge = [&[6][..], &(1u64 << 40).to_be_bytes()].concat();
        let stories: [Vec<u8>; 10] = [
            [greeting.clone(), huge.clone()].concat(),
            [greeting.clone(), ready.clone(), [&[2][..], &(1u64 << 40).to_be_bytes()].concat()].concat(),
            [greeting.clone(), ready.clone(), huge].concat(),
            [greeting.clone(), ready.clone(), [1, 1, b'x'].repeat(1_000_000)].concat(),
            [greeting.clone(), ready.clone(), b"\x01\x021P\x00\x02{}".to_vec()].concat(),
            [greeting.clone(), ready.clone(), b"\x01\x021H\x00\x02{}".to_vec()].concat(),
            [greeting.clone(), ready, [4, 4, 3, b'F', b'O', b'O'].repeat(50_000)].concat(),
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            vec![0; 100_000],
            vec![0xff; 100_000],
        ];
        for (number, story) in stories.iter().enumerate() {
            let mut socket = UnixStream::connect(world.socket("evil")).await.unwrap();
            // It may be closed before all of it was taken.
            let _ = socket.write_all(story).await;
            let mut answer = Vec::new();
            let _ = soon(&format!("story {number} is closed"), socket.read_to_end(&mut answer)).await;
            writer.publish("a", number.to_string(), json!({})).await.unwrap();
            assert_eq!(text(&next(&mut inbox).await), number.to_string());
        }
        let (_evil, _d) = world.client("evil").await;
    }

    async fn a_peer_that_grants_endless_credit_and_never_reads_costs_little_memory(world) {
        world.unit("frozen", grants(&[], &["bulk"], &[]));
        let mut frozen = zeromq::DealerSocket::new();
        frozen.connect(&format!("ipc://{}", world.socket("frozen").display())).await.unwrap();
        let hello = json!({"id": "h", "versions": [1], "unit": "frozen.agent", "run": 1, "token": TOKEN, "sdk": "test"});
        for message in [
            Message::new(Op::Hello, &hello),
            Message::new(Op::Subscribe, &json!({"id": "s", "filter": "bulk"})),
            Message::new(Op::Credit, &json!({"messages": 1_u64 << 60, "bytes": 1_u64 << 60})),
        ] {
            frozen.send(ZmqMessage::try_from(message.frames()).unwrap()).await.unwrap();
        }
        for _ in ["WELCOME", "OK"] {
            soon("its answers", frozen.recv()).await.unwrap();
        }
        let (writer, _w) = world.up("writer", grants(&["bulk", "a"], &[], &[])).await;
        let (_reader, mut inbox) = world.listener("reader", "a").await;
        let before = rss_bytes();
        for n in 0..400 {
            writer.publish_realtime("bulk", vec![7; 512 * 1024]).unwrap();
            // Its answer shows that the bulk before it was taken, and the delivery that others are served.
            writer.publish("a", n.to_string(), json!({})).await.unwrap();
            assert_eq!(text(&next(&mut inbox).await), n.to_string());
        }
        let grown = rss_bytes().saturating_sub(before);
        assert!(grown < 24 * 1024 * 1024, "200 MiB were offered to a peer that does not read: +{grown} bytes");
        assert!(world.bus.broker().counters().gaps > 300, "{:?}", world.bus.broker().counters());
    }

    async fn silent_connections_are_few_and_end_by_themselves(world) {
        world.unit("chat", grants(&[], &[], &[]));
        let mut silent = Vec::new();
        for _ in 0..4 {
            let mut socket = UnixStream::connect(world.socket("chat")).await.unwrap();
            socket.read_exact(&mut [0; 11]).await.unwrap();
            silent.push(socket);
        }
        let mut fifth = UnixStream::connect(world.socket("chat")).await.unwrap();
        assert_eq!(soon("the fifth is closed", fifth.read(&mut [0; 11])).await.unwrap_or(0), 0);
        for socket in &mut silent {
            assert_eq!(soon("closed after 2 s", socket.read(&mut [0; 64])).await.unwrap_or(0), 0);
        }
        world.client("chat").await;
    }

    async fn bad_operations_are_answered_and_the_connection_stays(world) {
        let (client, _d) = world.up("chat", grants(&[">"], &[], &[])).await;
        let code = |answer: Result<_, ClientError>| refused(answer.map(|_: loom_api::bus_client::Answer| ()).unwrap_err()).code;
        assert_eq!(code(client.operate(Op::Welcome, json!({}), None).await), Code::UnknownOp);
        assert_eq!(code(client.operate(Op::Publish, json!({"topic": "a"}), None).await), Code::BadHeader);
        assert_eq!(code(client.publish("a..b", "1", json!({})).await), Code::BadTopic);
        assert_eq!(code(client.publish("a", "1", json!({"not_a_name": 1})).await), Code::BadHeader);
        assert_eq!(code(client.publish("a", vec![0; 1024 * 1024 + 1], json!({})).await), Code::TooBig);
        assert_eq!(code(client.operate(Op::State, json!({"verb": "put", "key": "a b"}), Some("1".into())).await), Code::BadHeader);
        client.publish("a", vec![0; 1024 * 1024], json!({})).await.unwrap();
    }
}

/// What a request with that id is answered.
async fn asked_again(asker: &Client, topic: &str, event: &str) -> WireError {
    let deadline = SystemTime::now() + LIMIT;
    let deadline = u64::try_from(deadline.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let header = json!({
        "id": event, "specversion": "1.0", "type": topic, "topic": topic, "deadline": deadline,
    });
    let message = Message::new(Op::Request, &header).with_data(Bytes::from_static(b"bite"));
    refused(soon("an answer", asker.ask(message, LIMIT, None)).await.unwrap_err())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_run_had_in_hand_is_known_by_id_until_it_is_settled() {
    let world = World::start();
    let (worker, mut inbox) = world.listener("worker", "unit.worker.>").await;
    let (asker, _d) = world.up("asker", grants(&["unit.worker.>"], &[], &["unit.worker.>"])).await;
    asker.publish("unit.worker.told", "1", json!({"id": "told"})).await.unwrap();
    asker.publish_realtime("unit.worker.tick", "2").unwrap();
    // The two classes keep no order between them.
    let (first, second) = (next(&mut inbox).await, next(&mut inbox).await);
    let told = if first.text("id") == Some("told") { first } else { second };
    let one = tokio::spawn({
        let asker = asker.clone();
        async move { asked_again(&asker, "unit.worker.ask", "asked").await }
    });
    next(&mut inbox).await;
    let hand = |w: &World, run| w.bus.in_hand(&id("worker"), RunId(run));
    assert_eq!(hand(&world, 1), ["told", "asked"], "nobody settles a realtime event");
    assert_eq!(hand(&world, 2), [""; 0], "another run has nothing");
    worker.ack(name(&told)).unwrap();
    world.until("one is settled", |w| hand(w, 1) == ["asked"]).await;
    // Its process is gone, and the bus has noticed that before the loop has.
    drop((worker, inbox));
    world.until("it is disconnected", |w| !w.bus.connected(&id("worker"))).await;
    assert_eq!(hand(&world, 1), ["asked"]);
    world.bus.end_run(&id("worker"), RunId(1));
    assert_eq!(soon("the answer", one).await.unwrap().code, Code::UnitFailed);
    assert_eq!(hand(&world, 1), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_any_more_is_in_hand_until_its_handler_ends() {
    let world = World::start();
    let (worker, mut inbox) = world.listener("worker", "unit.worker.>").await;
    let mut answers = world.bus.request_as_person("unit.worker.ask", Bytes::new(), Duration::from_millis(30));
    let request = next(&mut inbox).await;
    assert!(matches!(soon("the deadline", answers.recv()).await, Some(BusAnswer::Failed(_))));
    let hand = |w: &World| w.bus.in_hand(&id("worker"), RunId(1));
    assert_eq!(hand(&world), [request.text("id").unwrap()]);
    worker.nack(name(&request), "cancelled", None).unwrap();
    world.until("it is settled", |w| hand(w).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_was_set_aside_reaches_that_unit_no_more_and_others_still() {
    let world = World::start();
    let worker = id("worker");
    let (_client, mut inbox) = world.listener("worker", "unit.worker.>").await;
    let (_other, mut others) = world.listener("other", "news").await;
    let (asker, _d) = world.up("asker", grants(&[">", "unit.worker.news"], &[], &["unit.worker.>"])).await;
    let first = tokio::spawn({
        let asker = asker.clone();
        async move { asked_again(&asker, "unit.worker.ask", "poison").await }
    });
    next(&mut inbox).await;
    world.bus.end_run(&worker, RunId(1));
    assert_eq!(soon("the answer", first).await.unwrap().code, Code::UnitFailed);
    let letter = world.bus.set_aside(&worker, "poison").expect("its run had it in hand");
    assert_eq!((letter.topic.as_str(), letter.source.as_str()), ("unit.worker.ask", "/units/asker.agent"));
    assert_eq!((&letter.data[..], letter.data_bytes), (&b"bite"[..], 4));
    assert_eq!(world.bus.set_aside(&worker, "never seen"), None);

    // The next run, first on its way, then there.
    world.bus.expect_run(&worker, RunId(2), hash(TOKEN), Previous::default());
    let error = asked_again(&asker, "unit.worker.ask", "poison").await;
    assert_eq!((error.code, error.outcome), (Code::Poisoned, Some(Outcome::NotRun)));
    let settings = Settings { run: 2, ..world.settings("worker") };
    let (client, mut inbox) = Client::connect(settings).await.unwrap();
    client.subscribe("unit.worker.>").await.unwrap();
    client.receive_some().unwrap();
    let error = asked_again(&asker, "unit.worker.ask", "poison").await;
    assert_eq!(error.code, Code::Poisoned);
    assert!(error.message.contains("worker.agent") && error.message.contains("`poison`"), "{}", error.message);
    asker.publish("unit.worker.news", "no", json!({"id": "poison"})).await.unwrap();
    asker.publish("unit.worker.news", "yes", json!({"id": "fine"})).await.unwrap();
    assert_eq!(text(&next(&mut inbox).await), "yes");
    asker.publish("news", "to others", json!({"id": "poison"})).await.unwrap();
    assert_eq!(text(&next(&mut others).await), "to others");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_moves_is_seen_and_beating_is_none() {
    let world = World::start();
    let (worker, mut inbox) = world.listener("worker", "unit.worker.>").await;
    let (asker, _d) = world.up("asker", grants(&["news"], &[], &["unit.worker.>"])).await;
    let moved = |w: &World, name: &str| w.bus.moved(&id(name), RunId(1));
    worker.operate(Op::State, json!({"verb": "get", "key": "k"}), None).await.unwrap();
    refused(worker.publish("not.granted", "1", json!({})).await.unwrap_err());
    assert_eq!(moved(&world, "worker"), None, "reading and being refused is no progress");
    asker.publish("news", "1", json!({})).await.unwrap();
    let first = moved(&world, "asker").expect("it published");
    let question = tokio::spawn({
        let asker = asker.clone();
        async move { asker.request("unit.worker.ask", "1", LIMIT, None).await }
    });
    let request = next(&mut inbox).await;
    assert!(moved(&world, "asker") > Some(first), "it asked");
    assert_eq!(moved(&world, "worker"), None, "being asked is no progress");
    worker.reply(name(&request), "2").unwrap();
    soon("the answer", question).await.unwrap().unwrap();
    let answered = moved(&world, "worker").expect("it answered");
    worker.operate(Op::Call, json!({"tool": "test:echo"}), Some(Bytes::from_static(b"{}"))).await.unwrap();
    assert!(moved(&world, "worker") > Some(answered), "it called a tool");
    assert_eq!(world.bus.moved(&id("worker"), RunId(2)), None, "each run for itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_about_to_go_down_gets_no_new_request_until_its_next_run() {
    let world = World::start();
    let worker = id("worker");
    let (client, mut inbox) = world.listener("worker", "unit.worker.>").await;
    let (asker, _d) = world.up("asker", grants(&[], &[], &[">"])).await;
    let before = tokio::spawn({
        let asker = asker.clone();
        async move { asker.request("unit.worker.ask", "1", LIMIT, None).await }
    });
    let request = next(&mut inbox).await;
    world.bus.leaving(&[worker.clone(), id("nobody")]);
    let error = refused(asker.request("unit.worker.ask", "2", LIMIT, None).await.unwrap_err());
    assert_eq!((error.code, error.retry_after_ms), (Code::NoReceiver, Some(1000)));
    assert!(error.message.contains("worker.agent") && error.message.contains("group"), "{}", error.message);
    client.reply(name(&request), "what was begun is worked off").unwrap();
    soon("the answer", before).await.unwrap().unwrap();

    world.bus.end_run(&worker, RunId(1));
    world.bus.expect_run(&worker, RunId(2), hash(TOKEN), Previous::default());
    let (client, mut inbox) = Client::connect(Settings { run: 2, ..world.settings("worker") }).await.unwrap();
    client.subscribe("unit.worker.>").await.unwrap();
    client.receive_some().unwrap();
    let after = tokio::spawn(async move { asker.request("unit.worker.ask", "3", LIMIT, None).await });
    client.reply(name(&next(&mut inbox).await), "4").unwrap();
    soon("the answer", after).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_to_a_run_that_is_on_its_way_waits_for_it() {
    let world = World::start();
    world.unit("late", grants(&[], &[], &[]));
    let mut answers = world.bus.request_as_person("unit.late.ask", Bytes::from_static(b"1"), LIMIT);
    let (client, mut deliveries) = world.client("late").await;
    client.subscribe("unit.late.>").await.unwrap();
    client.receive_some().unwrap();
    let asked = soon("the request", next(&mut deliveries)).await;
    client.reply(name(&asked), Bytes::from_static(b"2")).unwrap();
    let Some(BusAnswer::Reply { data, .. }) = soon("the answer", answers.recv()).await else { panic!("no reply") };
    assert_eq!(data, "2");
}

#[tokio::test]
async fn a_request_to_a_run_that_dies_on_its_way_fails_at_once() {
    let world = World::start();
    world.unit("dying", grants(&[], &[], &[]));
    let mut answers = world.bus.request_as_person("unit.dying.ask", Bytes::from_static(b"1"), LIMIT);
    world.bus.end_run(&id("dying"), RunId(1));
    let Some(BusAnswer::Failed(error)) = soon("the answer", answers.recv()).await else { panic!("no refusal") };
    assert_eq!((error.code, error.outcome), (Code::UnitFailed, Some(Outcome::NotRun)));
    let mut late = world.bus.request_as_person("unit.dying.ask", Bytes::from_static(b"1"), LIMIT);
    let Some(BusAnswer::Failed(error)) = soon("the answer", late.recv()).await else { panic!("no refusal") };
    assert_eq!(error.code, Code::NoReceiver);
}

fn rss_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Python with pyzmq, or why there is none.
fn python() -> Result<String, String> {
    let python = std::env::var("LOOM_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", "import zmq"]).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        Ok(python)
    } else {
        Err(format!("skipped: needs pyzmq in `{python}`; name another Python in LOOM_TEST_PYTHON"))
    }
}

const PYZMQ: &str = r#"
import json, sys, time, zmq
path, unit, token, mechanism = sys.argv[1:]
context = zmq.Context()
socket = context.socket(zmq.DEALER)
socket.setsockopt(zmq.LINGER, 1000)
socket.setsockopt(zmq.HEARTBEAT_IVL, 50)
socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 300)
socket.setsockopt(zmq.RCVTIMEO, 8000)
if mechanism == "PLAIN":
    socket.plain_username, socket.plain_password = unit.encode(), token.encode()
monitor = socket.get_monitor_socket()
socket.connect("ipc://" + path)
def send(op, header, *data):
    socket.send_multipart([op, json.dumps(header).encode(), *data])
def get(op):
    frames = socket.recv_multipart()
    assert frames[0] == op, frames
    return json.loads(frames[1]), frames[2:]
hello = {"id": "h", "versions": [1], "unit": unit, "run": 1, "sdk": "test"}
if mechanism == "NULL":
    hello["token"] = token
send(b"1H", hello, b'{"handlers":["a"],"tools":[]}')
welcome, _ = get(b"1h")
assert welcome["about"] == "h" and welcome["version"] == 1, welcome
send(b"1S", {"id": "s", "filter": "a"})
get(b"1k")
send(b"1C", {"messages": 64, "bytes": 4194304})
event = {"id": "e", "specversion": "1.0", "type": "t", "topic": "a"}
for size in [0, 1, 255, 256, 65536, 1048576]:
    send(b"1P", event, b"x" * size)
    seen = {}
    for _ in range(2):
        frames = socket.recv_multipart()
        seen[frames[0]] = frames
    assert seen[b"1d"][2] == b"x" * size, size
    send(b"1A", {"delivery": json.loads(seen[b"1d"][1])["delivery"]})
# Ten heartbeats with nothing said: a peer that does not answer PING is cut after six.
time.sleep(0.5)
for n in range(1000):
    send(b"1I", {"id": str(n)})
for n in range(1000):
    assert get(b"1i")[0]["about"] == str(n)
lost = 0
while monitor.poll(0):
    event_type = int.from_bytes(monitor.recv_multipart()[0][:2], "little")
    lost += event_type == zmq.EVENT_DISCONNECTED
assert lost == 0, "the connection was cut"
send(b"1Y", {})
print("good")
"#;

async fn pyzmq_talks(mechanism: &str) {
    let python = match python() {
        Ok(python) => python,
        Err(skipped) => return eprintln!("{skipped}"),
    };
    let world = World::start();
    world.unit("chat", grants(&["a"], &["a"], &[]));
    let mut command = tokio_command(&python);
    command.args(["-c", PYZMQ]).arg(world.socket("chat")).args(["chat.agent", TOKEN, mechanism]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.trim() == "good", "{said}\n{complained}");
    world.until("it is gone", |w| !w.bus.connected(&id("chat"))).await;
}

fn tokio_command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pyzmq_talks_with_null_and_heartbeats() {
    pyzmq_talks("NULL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pyzmq_talks_with_plain_and_heartbeats() {
    pyzmq_talks("PLAIN").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pyzmq_with_a_wrong_token_gets_a_reject_that_says_so() {
    let python = match python() {
        Ok(python) => python,
        Err(skipped) => return eprintln!("{skipped}"),
    };
    let world = World::start();
    world.unit("chat", grants(&["a"], &["a"], &[]));
    let mut command = tokio_command(&python);
    command.args(["-c", PYZMQ]).arg(world.socket("chat")).args(["chat.agent", "wrong", "PLAIN"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(complained.contains("1j") && complained.contains("bad-token"), "{complained}");
}

const CHILD: &str = "LOOM_TEST_CRATE_ROUTER";

/// Runs only as the child of the test below.
#[test]
fn child_that_listens_with_the_crate() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut router = zeromq::RouterSocket::new();
        router.bind(&format!("ipc://{}", path.to_string_lossy())).await.unwrap();
        let _ = tokio::time::timeout(LIMIT, router.recv()).await;
    });
}

/// ADR 0003 rests on this. The day it fails, the crate has been repaired and the ADR is read again.
#[tokio::test]
async fn seventy_three_bytes_abort_a_process_that_listens_with_the_crate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("router.sock");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_listens_with_the_crate", "--nocapture"])
        .env(CHILD, &path)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let mut socket = loop {
        if let Ok(socket) = UnixStream::connect(&path).await {
            break socket;
        }
        assert!(start.elapsed() < LIMIT, "the child does not listen: {:?}", child.try_wait());
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let mut bytes = vec![0; 64];
    bytes[..11].copy_from_slice(&[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3]);
    bytes[12..16].copy_from_slice(b"NULL");
    bytes.push(6);
    bytes.extend_from_slice(&(1u64 << 40).to_be_bytes());
    assert_eq!(bytes.len(), 73);
    socket.write_all(&bytes).await.unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert_eq!(status.signal(), Some(6), "SIGABRT was expected: {status:?}");
}
