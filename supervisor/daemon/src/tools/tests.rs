//! Promises of the room. Workers here are tasks that answer as a test wants; the real one has tests of its own.

use super::*;
use loom_core::ids::Millis;
use loom_core::tools::{Reason, WorkerAnswer, WorkerRequest};
use loom_core::unit::PathGrant;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What a worker does with a request; `None`: it dies.
type Behaviour = Arc<dyn Fn(usize, WorkerRequest) -> BoxFuture<Option<Result<Value, ToolError>>> + Send + Sync>;

struct Workshop {
    behaviour: Behaviour,
    started: AtomicUsize,
    ended: AtomicUsize,
    refuse: AtomicBool,
}

impl WorkerSpawner for Workshop {
    fn spawn(&self, _unit: &UnitId) -> BoxFuture<Result<WorkerConn, String>> {
        if self.refuse.load(Ordering::SeqCst) {
            return Box::pin(async { Err("no such program".into()) });
        }
        let number = self.started.fetch_add(1, Ordering::SeqCst) + 1;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let behaviour = self.behaviour.clone();
        tokio::spawn(async move {
            while let Ok(length) = theirs.read_u32().await {
                let mut text = vec![0; length as usize];
                theirs.read_exact(&mut text).await.unwrap();
                let request: WorkerRequest = serde_json::from_slice(&text).unwrap();
                let id = request.id;
                let Some(result) = behaviour(number, request).await else { return };
                let text = serde_json::to_vec(&WorkerAnswer { id, result: result.into() }).unwrap();
                if theirs.write_u32(u32::try_from(text.len()).unwrap()).await.is_err()
                    || theirs.write_all(&text).await.is_err()
                {
                    return;
                }
            }
        });
        Box::pin(async move { Ok(WorkerConn { stream: ours, pid: i32::try_from(number).unwrap() }) })
    }

    fn ended(&self, _unit: &UnitId, _pid: i32) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

struct Bench {
    tools: Tools,
    workshop: Arc<Workshop>,
    records: Arc<Mutex<Vec<AuditRecord>>>,
    audit_fails: Arc<AtomicBool>,
    unit: Unit,
}

fn bench<F, R>(behaviour: F) -> Bench
where
    F: Fn(usize, WorkerRequest) -> R + Send + Sync + 'static,
    R: Future<Output = Option<Result<Value, ToolError>>> + Send + 'static,
{
    let behaviour: Behaviour = Arc::new(move |number, request| Box::pin(behaviour(number, request)));
    let workshop = Arc::new(Workshop {
        behaviour,
        started: AtomicUsize::new(0),
        ended: AtomicUsize::new(0),
        refuse: AtomicBool::new(false),
    });
    let records: Arc<Mutex<Vec<AuditRecord>>> = Arc::default();
    let audit_fails = Arc::new(AtomicBool::new(false));
    let (kept, fails) = (records.clone(), audit_fails.clone());
    let audit = move |record: AuditRecord| -> BoxFuture<Result<u64, String>> {
        let failed = fails.load(Ordering::SeqCst);
        if !failed {
            kept.lock().unwrap().push(record);
        }
        Box::pin(async move { if failed { Err("disk full".into()) } else { Ok(1) } })
    };
    let mut tools = Tools::new(Arc::new(audit), workshop.clone());
    tools.idle_max = Duration::from_millis(50);
    Bench { tools, workshop, records, audit_fails, unit: unit() }
}

fn unit() -> Unit {
    let rule = |text: &str, line: usize| loom_core::unit::ToolRule {
        text: text.into(),
        origin: format!("chat.agent.toml:{line}:1"),
    };
    let mut unit = Unit::bare("chat.agent".parse().unwrap());
    unit.sandbox.read = vec![PathGrant { path: "/srv".into(), optional: false, origin: String::new() }];
    unit.tools.workspace = "/w".into();
    unit.tools.allow = vec![rule("fs:read(path=**)", 3), rule("fs:write", 4)];
    unit.tools.deny = vec![rule("fs:read(path=**/.env)", 5), rule("fs:write(mode=append)", 6)];
    unit.tools.timeout = Millis(30_000);
    unit
}

impl Bench {
    async fn call(&self, tool: &str, args: Value) -> Result<Value, ToolError> {
        self.tools.call(&self.unit, RunId(1), "c", tool, args, None).await
    }

    /// Stage, outcome, rule of each record.
    fn audited(&self) -> Vec<(String, String, String)> {
        let records = self.records.lock().unwrap();
        records.iter().map(|record| (record.stage.clone(), record.outcome.clone(), record.rule.clone())).collect()
    }

    fn counts(&self) -> (usize, usize) {
        (self.workshop.started.load(Ordering::SeqCst), self.workshop.ended.load(Ordering::SeqCst))
    }
}

fn write(mode: &str) -> Value {
    json!({ "path": "a", "content": "x", "mode": mode })
}

#[tokio::test]
async fn an_allowed_call_is_decided_carried_out_and_ended() {
    let bench = bench(|_, request| async move {
        assert_eq!(request.roots, Roots { workspace: "/w".into(), read: vec!["/srv".into()], write: vec![] });
        assert_eq!(request.rules.allow[0].globs, ["**"]);
        assert_eq!(request.rules.deny[0].rule, "fs:read(path=**/.env) (chat.agent.toml:5:1)");
        Some(Ok(json!({ "content": "hi" })))
    });
    for _ in 0..3 {
        assert_eq!(bench.call("fs:read", json!({ "path": "a" })).await.unwrap()["content"], "hi");
    }
    assert_eq!(bench.call("fs__read", json!({ "path": "a" })).await.unwrap()["content"], "hi", "by its alias");
    assert_eq!(bench.counts(), (1, 0), "one worker serves all");
    let allowed = ("decided".into(), "allowed".into(), "fs:read(path=**) (chat.agent.toml:3:1)".into());
    assert_eq!(bench.audited()[..2], [allowed, ("ended".into(), "ok".into(), String::new())]);
    assert_eq!(bench.records.lock().unwrap()[1].result_bytes, Some(16));
}

#[tokio::test]
async fn what_is_refused_starts_no_worker_and_is_audited_with_its_rule() {
    let bench = bench(|_, _| async { panic!("carried out") });
    let code = |result: Result<Value, ToolError>| {
        let error = result.unwrap_err();
        assert_eq!((error.outcome, error.rule.as_ref()), (Outcome::NotRun, None), "{error}");
        error.code
    };
    assert_eq!(code(bench.call("fs:write", write("append")).await), ErrorCode::Denied);
    assert_eq!(code(bench.call("fs:read", json!({ "path": 1 })).await), ErrorCode::InvalidArguments);
    let never_allowed = bench.call("fs:list", json!({})).await;
    let unknown = bench.call("fs:liszt", json!({})).await;
    let text = |result: &Result<Value, ToolError>| result.as_ref().unwrap_err().message.clone();
    assert_eq!(text(&never_allowed).replace("list", "liszt"), text(&unknown), "same text for both");
    assert_eq!((code(never_allowed), code(unknown)), (ErrorCode::ToolNotFound, ErrorCode::ToolNotFound));
    let stages: Vec<_> =
        bench.audited().into_iter().map(|(stage, outcome, rule)| (stage + " " + &outcome, rule)).collect();
    let deny = "fs:write(mode=append) (chat.agent.toml:6:1)";
    let wanted = [
        ("decided denied", deny),
        ("decided invalid-arguments", ""),
        ("decided tool-not-found", ""),
        ("decided tool-not-found", ""),
    ];
    assert_eq!(stages, wanted.map(|(stage, rule)| (stage.to_owned(), rule.to_owned())));
    assert_eq!(bench.counts(), (0, 0));
    let listed: Vec<_> = bench.tools.listed(&bench.unit).into_iter().map(|tool| tool.name).collect();
    assert_eq!(listed, ["fs:read", "fs:write"]);
}

#[tokio::test]
async fn a_denial_by_the_worker_is_audited_with_its_rule_and_told_without() {
    let rule = Some("fs:read(path=**/.env) (x)".to_owned());
    let bench = bench(move |_, _| {
        let error = ToolError::denied("fs:read", Some(".env"), rule.clone());
        async move { Some(Err(error)) }
    });
    let error = bench.call("fs:read", json!({ "path": ".env" })).await.unwrap_err();
    assert_eq!((error.code, error.rule), (ErrorCode::Denied, None));
    assert!(!error.message.contains("**"), "{}", error.message);
    assert_eq!(bench.audited()[1], ("ended".into(), "denied".into(), "fs:read(path=**/.env) (x)".into()));
}

#[tokio::test]
async fn the_tools_own_error_is_passed_on_with_its_reason() {
    let bench = bench(|_, _| async { Some(Err(ToolError::of_tool(Reason::NotFound, "`a` does not exist"))) });
    let error = bench.call("fs:read", json!({ "path": "a" })).await.unwrap_err();
    assert_eq!((error.code, error.reason), (ErrorCode::ToolError, Some(Reason::NotFound)));
    assert_eq!(bench.audited()[1].1, "not-found");
    assert_eq!(bench.counts(), (1, 0), "an error of the tool costs no worker");
}

#[tokio::test]
async fn a_worker_that_dies_is_tried_again_only_where_that_does_no_harm() {
    let bench = bench(|number, _| async move { (number % 2 == 0).then(|| Ok(json!(number))) });
    assert_eq!(bench.call("fs:read", json!({ "path": "a" })).await.unwrap(), 2, "repeated once");
    bench.tools.end_unit(&bench.unit.id).await;
    assert_eq!(bench.call("fs:write", write("replace")).await.unwrap(), 4, "idempotent: repeated once");
    bench.tools.end_unit(&bench.unit.id).await;
    let error = bench.call("fs:write", write("create")).await.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::ServerDied, Outcome::Unknown));
    assert_eq!(bench.counts(), (5, 5));
}

#[tokio::test]
async fn a_worker_that_always_dies_ends_the_call_after_one_repetition() {
    let bench = bench(|_, _| async { None });
    let error = bench.call("fs:read", json!({ "path": "a" })).await.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::ServerDied, Outcome::Unknown));
    assert_eq!(bench.counts().0, 2);
    assert_eq!(bench.audited().last().unwrap().1, "server-died");
}

#[tokio::test]
async fn a_worker_that_cannot_be_started_is_server_failed() {
    let bench = bench(|_, _| async { None });
    bench.workshop.refuse.store(true, Ordering::SeqCst);
    let error = bench.call("fs:read", json!({ "path": "a" })).await.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::ServerFailed, Outcome::NotRun));
    assert!(error.message.contains("no such program"), "{error}");
}

#[tokio::test]
async fn a_call_that_takes_too_long_ends_and_its_late_answer_reaches_nobody() {
    let mut bench = bench(|number, _| async move {
        if number == 1 {
            std::future::pending::<()>().await;
        }
        Some(Ok(json!(number)))
    });
    bench.unit.tools.timeout = Millis(30);
    let error = bench.call("fs:write", write("create")).await.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::Timeout, Outcome::Unknown));
    assert_eq!(bench.counts(), (1, 1), "the worker that hangs is given up");
    bench.unit.tools.timeout = Millis(30_000);
    assert_eq!(bench.call("fs:write", write("create")).await.unwrap(), 2);
    let ends: Vec<_> =
        bench.audited().into_iter().filter(|(stage, ..)| stage == "ended").map(|(_, end, _)| end).collect();
    assert_eq!(ends, ["timeout", "ok"]);
}

#[tokio::test]
async fn a_call_whose_run_ends_is_cancelled() {
    let (told, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let bench = Arc::new(bench(move |_, _| {
        told.send(()).unwrap();
        std::future::pending()
    }));
    let caller = bench.clone();
    let call = tokio::spawn(async move { caller.call("fs:write", write("create")).await });
    arrived.recv().await.unwrap();
    bench.tools.end_unit(&bench.unit.id).await;
    let error = call.await.unwrap().unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::Cancelled, Outcome::Unknown));
    assert_eq!(bench.counts(), (1, 1));
}

#[tokio::test]
async fn a_call_that_still_waits_when_its_run_ends_is_not_carried_out() {
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = begun.clone();
    let bench = Arc::new(bench(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { std::future::pending().await }
    }));
    let call = |_| {
        let bench = bench.clone();
        tokio::spawn(async move { bench.call("fs:read", json!({ "path": "a" })).await })
    };
    let calls: Vec<_> = (0..CALLS_MAX + 4).map(call).collect();
    let limit = Instant::now() + Duration::from_secs(10);
    while begun.load(Ordering::SeqCst) == 0 || bench.records.lock().unwrap().len() < CALLS_MAX {
        assert!(Instant::now() < limit, "they were never decided");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.tools.end_unit(&bench.unit.id).await;
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap_err().code, ErrorCode::Cancelled);
    }
    assert_eq!(begun.load(Ordering::SeqCst), 1, "one at a time, and none after the end");
}

#[tokio::test]
async fn a_call_that_waited_too_long_behind_another_was_not_run() {
    let (told, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let bench = Arc::new(bench(move |_, _| {
        told.send(()).unwrap();
        std::future::pending()
    }));
    let caller = bench.clone();
    let first = tokio::spawn(async move { caller.call("fs:write", write("create")).await });
    arrived.recv().await.unwrap();
    let short = Some(Duration::from_millis(20));
    let second = bench.tools.call(&bench.unit, RunId(1), "", "fs:write", write("create"), short).await.unwrap_err();
    assert_eq!((second.code, second.outcome), (ErrorCode::Timeout, Outcome::NotRun));
    bench.tools.end_unit(&bench.unit.id).await;
    assert_eq!(first.await.unwrap().unwrap_err().code, ErrorCode::Cancelled);
}

#[tokio::test]
async fn nothing_is_carried_out_that_cannot_be_audited() {
    let bench = bench(|_, _| async { panic!("carried out") });
    bench.audit_fails.store(true, Ordering::SeqCst);
    let error = bench.call("fs:read", json!({ "path": "a" })).await.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::Unavailable, Outcome::NotRun));
    assert_eq!(bench.counts(), (0, 0));
}

#[tokio::test]
async fn calls_beyond_the_queue_are_refused_and_the_others_all_end() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let bench = bench(move |_, _| {
        let gate = gate.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Some(Ok(json!(1)))
        }
    });
    let bench = Arc::new(bench);
    let calls: Vec<_> = (0..CALLS_MAX + QUEUE_MAX + 10)
        .map(|_| {
            let bench = bench.clone();
            tokio::spawn(async move { bench.call("fs:read", json!({ "path": "a" })).await })
        })
        .collect();
    // The surplus is refused at once, while nothing has ended yet.
    let mut refused = 0;
    let mut waiting = Vec::new();
    for call in calls.into_iter().rev() {
        if refused < 10 {
            assert_eq!(call.await.unwrap().unwrap_err().code, ErrorCode::Unavailable);
            refused += 1;
        } else {
            waiting.push(call);
        }
    }
    opened.add_permits(CALLS_MAX + QUEUE_MAX);
    for call in waiting {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_idle_worker_ends_and_the_next_call_starts_another() {
    let bench = bench(|number, _| async move { Some(Ok(json!(number))) });
    assert_eq!(bench.call("fs:read", json!({ "path": "a" })).await.unwrap(), 1);
    let limit = Instant::now() + Duration::from_secs(10);
    while bench.counts() != (1, 1) {
        assert!(Instant::now() < limit, "the idle worker never ended");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bench.call("fs:read", json!({ "path": "a" })).await.unwrap(), 2);
}

#[tokio::test]
async fn a_new_run_gets_a_new_worker() {
    let bench = bench(|number, _| async move { Some(Ok(json!(number))) });
    let call = |run| bench.tools.call(&bench.unit, RunId(run), "", "fs:read", json!({ "path": "a" }), None);
    assert_eq!(call(1).await.unwrap(), 1);
    assert_eq!(call(2).await.unwrap(), 2);
    assert_eq!(call(2).await.unwrap(), 2);
    assert_eq!(bench.counts(), (2, 1));
}

#[test]
fn long_arguments_are_cut_in_the_audit_log() {
    let cut = shortened(&json!({ "path": "a", "content": "ä".repeat(5000) }));
    assert_eq!(cut["path"], "a");
    assert!(cut["content"].as_str().unwrap().ends_with("… (10000 bytes)"));
    let many = json!((0..5000).collect::<Vec<_>>());
    assert!(shortened(&many).to_string().len() <= AUDIT_ARGUMENTS_MAX_BYTES);
}
