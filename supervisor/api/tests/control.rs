//! The control API over a real unix socket: the client's questions arrive as asked, the answers as given.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by ending")]

mod fake;

use fake::Served;
use loom_api::control::{Client, Control};
use loom_api::view::*;
use serde_json::json;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn asked(unit: &str) -> UnitAsked {
    UnitAsked { unit: unit.to_owned() }
}

/// One request as text, so that what the client hides can be tried.
fn raw(served: &Served, request: &str) -> String {
    let mut stream = UnixStream::connect(&served.socket).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn every_operation_answers_the_client_as_it_answers_directly() {
    let served = Served::start();
    let client = Client::new(&served.socket);
    run(async {
        assert_eq!(client.ping(Nothing {}).await.unwrap().pid, 99);
        assert_eq!(client.status(Nothing {}).await.unwrap().units.len(), 5);
        assert_eq!(client.unit(asked("chat")).await.unwrap().run.0, 3);
        let job = JobRequest { unit: "chat.agent".to_owned(), no_block: true };
        assert_eq!(client.start_unit(job.clone()).await.unwrap().sub_state, "running");
        assert_eq!(client.stop_unit(job.clone()).await.unwrap().sub_state, "dead");
        assert_eq!(client.restart_unit(job).await.unwrap().sub_state, "running");
        assert_eq!(client.unit_files(asked("chat")).await.unwrap().files.len(), 3);
        assert_eq!(client.show_unit(asked("chat")).await.unwrap().origins.len(), 2);
        assert!(client.daemon_reload(ReloadRequest::default()).await.unwrap().applied);
        assert_eq!(client.state_keys(asked("chat")).await.unwrap().keys, ["count", "last/seen"]);
        let key = |key: &str| StateAsked { unit: "chat".to_owned(), key: key.to_owned() };
        assert_eq!(client.state_get(key("last/seen")).await.unwrap().value, json!({"by": "ann"}));
        let put = |value, if_version| StatePut { unit: "chat".into(), key: "a%2Fb/?".into(), value, if_version };
        assert_eq!(client.state_put(put(json!(null), Some(0))).await.unwrap().value_version, 1);
        assert_eq!(client.state_put(put(json!([1]), Some(1))).await.unwrap().value_version, 2);
        assert_eq!(client.state_put(put(json!(0), Some(1))).await.unwrap_err().code, Refusal::CONFLICT);
        assert_eq!(client.state_delete(key("a%2Fb/?")).await.unwrap().value, json!([1]));
        assert_eq!(client.state_get(key("a%2Fb/?")).await.unwrap_err().code, Refusal::NO_SUCH_KEY);
        let publish = BusPublish { topic: "news.one".into(), data: json!({"n": 1}) };
        client.bus_publish(publish.clone()).await.unwrap();
        assert_eq!(*served.fake.published.lock().unwrap(), Some(publish));
        let audit = AuditAsked { unit: Some("chat".into()), limit: Some(7) };
        assert_eq!(client.audit(audit.clone()).await.unwrap().records.len(), 3);
        assert_eq!(*served.fake.audit_asked.lock().unwrap(), Some(audit));
    });
}

#[test]
fn a_refusal_arrives_whole() {
    let served = Served::start();
    let client = Client::new(&served.socket);
    let refusal = run(client.unit(asked("caht"))).unwrap_err();
    assert_eq!((refusal.code, refusal.status()), (Refusal::NO_SUCH_UNIT, 404));
    assert!(refusal.hint.unwrap().contains("chat.agent"));
    let job = JobRequest { unit: "local-llm".to_owned(), no_block: false };
    let refusal = run(client.start_unit(job)).unwrap_err();
    assert_eq!(refusal.error, "unit `local-llm.service` did not start");
    assert!(refusal.cause.unwrap().contains("ENOSYS"));
}

#[test]
fn an_answer_in_lines_comes_line_by_line_to_its_end() {
    let served = Served::start();
    let client = Client::new(&served.socket);
    let request = BusRequest { topic: "unit.chat.ask".into(), data: json!({"text": "hi"}), timeout_ms: Some(5) };
    run(async {
        let mut lines = client.bus_request(request.clone()).await.unwrap().0;
        let mut seen = Vec::new();
        while let Some(line) = lines.recv().await {
            seen.push(line);
        }
        assert_eq!(seen.len(), 5);
        assert!(matches!(&seen[4], BusAnswer::Reply { source, .. } if source == "/units/chat.agent"));
    });
    assert_eq!(*served.fake.asked.lock().unwrap(), Some(request));
}

#[test]
fn a_caller_that_hangs_up_cancels_its_request() {
    let served = Served::start();
    let client = Client::new(&served.socket);
    let request = BusRequest { topic: "unit.chat.ask".into(), data: json!({"text": "never end"}), timeout_ms: None };
    run(async {
        let mut lines = client.bus_request(request).await.unwrap().0;
        assert!(lines.recv().await.is_some());
        assert!(!served.fake.cancelled.load(Ordering::SeqCst));
        drop(lines);
        let limit = Instant::now() + Duration::from_secs(10);
        while !served.fake.cancelled.load(Ordering::SeqCst) {
            assert!(Instant::now() < limit, "the server did not notice that the caller left");
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn nobody_at_the_socket_is_told_with_the_way_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = run(Client::new(dir.path().join("control.sock")).ping(Nothing {})).unwrap_err();
    assert_eq!(refusal.code, Refusal::NO_SUPERVISOR);
    assert!(refusal.error.starts_with("no supervisor is running at /"), "{refusal}");
    assert!(refusal.hint.unwrap().contains("loomd"));
}

#[test]
fn what_is_no_operation_or_no_request_is_refused_as_json() {
    let served = Served::start();
    let get = |target: &str| raw(&served, &format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    let unknown = get("/v2/status");
    assert!(
        unknown.starts_with("HTTP/1.1 400 ") && unknown.contains("there is no operation `GET /v2/status`"),
        "{unknown}"
    );
    let method = get("/v1/units/chat/start");
    assert!(method.contains("use POST"), "{method}");
    let bad = get("/v1/audit?limit=many");
    assert!(bad.starts_with("HTTP/1.1 400 ") && bad.contains("not as the schema says"), "{bad}");
    assert!(get("/v1/audit?limit=5&unit=chat").starts_with("HTTP/1.1 200 "));
    let head = "POST /v1/bus/publish HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let big = raw(&served, &format!("{head}Content-Length: 1048577\r\n\r\n"));
    assert!(big.starts_with("HTTP/1.1 413 "), "{big}");
    let text = raw(&served, &format!("{head}Content-Length: 2\r\n\r\nhi"));
    assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("no JSON"), "{text}");
}
