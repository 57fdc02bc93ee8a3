//! fake: a supervisor with fixed answers, for tests of whoever asks one.
//!
//! Job: implement `Control` over a few units and serve it on a real unix socket. Shared by the tests of loom-api and loomctl.
#![allow(dead_code, reason = "each test binary uses its part")]

use loom_api::control::{Answering, Control, Lines, answer, resolve_unit};
use loom_api::view::*;
use loom_core::ids::{RunId, UnitId};
use loom_core::lifecycle::{ActiveState, Exit, RunResult};
use loom_core::machine::{Enforced, Enforcement, Machine, Promise};
use loom_core::unit::problem::{Problem, Severity};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;

/// The supervisor that is not there.
pub struct Fake {
    units: Vec<UnitView>,
    state: Mutex<BTreeMap<String, (Value, u64)>>,
    /// Set when the caller of a request hung up.
    pub cancelled: Arc<AtomicBool>,
    /// Makes the next reload find a bad file.
    pub bad_file: AtomicBool,
    /// The last request on the bus.
    pub asked: Mutex<Option<BusRequest>>,
    pub published: Mutex<Option<BusPublish>>,
    pub audit_asked: Mutex<Option<AuditAsked>>,
    /// Every request for jobs.
    pub jobs: Mutex<Vec<JobsRequest>>,
    /// How often usage was asked for.
    pub looked: AtomicU64,
    pub transient: Mutex<Option<TransientRequest>>,
    /// Answers of `bus_request`: one script per request; the last is kept.
    pub scripts: Mutex<Vec<Vec<BusAnswer>>>,
}

/// A fake that listens; ends when dropped.
pub struct Served {
    pub fake: Arc<Fake>,
    pub dir: tempfile::TempDir,
    pub socket: PathBuf,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let mut served = Self { fake: Arc::new(Fake::new()), dir, socket, stop: None, thread: None };
        served.listen();
        served
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Goes away, with the connections that are open.
    pub fn leave(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Is there, at the same place.
    pub fn listen(&mut self) {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (up, is_up) = std::sync::mpsc::channel();
        let (api, path) = (self.fake.clone(), self.socket.clone());
        self.thread = Some(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::UnixListener::bind(&path).unwrap();
                up.send(()).unwrap();
                tokio::select! { () = accept(listener, api) => {}, _ = stopped => {} }
            });
        }));
        self.stop = Some(stop);
        is_up.recv().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.leave();
    }
}

async fn accept(listener: tokio::net::UnixListener, api: Arc<dyn Control>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let api = api.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let api = api.clone();
                async move { Ok::<_, std::convert::Infallible>(answer(&*api, request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                .await;
        });
    }
}

pub fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn unit(name: &str, active: ActiveState, sub: &str, age: Duration) -> UnitView {
    let unit: UnitId = name.parse().unwrap();
    UnitView {
        version: VERSION,
        kind: unit.kind(),
        unit,
        description: format!("What {name} is for"),
        active_state: active,
        sub_state: sub.to_owned(),
        result: RunResult::Success,
        exit: None,
        run: RunId(0),
        main_pid: None,
        restarts: 0,
        since: now() - u64::try_from(age.as_millis()).unwrap(),
        triggered_by: "person".to_owned(),
        next_start_in_ms: None,
        waits_for: None,
        status_text: None,
        last_error: None,
        not_found: false,
        needs_restart: false,
        enforcement: vec![],
        processes: vec![],
        connected: None,
        files: vec![],
        failures: 0,
        crash_looping: false,
        waits_because: None,
        job: None,
        changed_keys: vec![],
        frozen: false,
        healthy: None,
        budget: None,
        limits: vec![],
        survivors: vec![],
        deaths: vec![],
        began_at: None,
        active_at: None,
    }
}

impl Fake {
    fn new() -> Self {
        let chat = UnitView {
            description: "Talks, remembers, and reads its workspace".to_owned(),
            run: RunId(3),
            main_pid: Some(4242),
            restarts: 2,
            result: RunResult::Signal,
            exit: Some(Exit::Signal { signal: 9, core: false }),
            triggered_by: "restart".to_owned(),
            status_text: Some("idle".to_owned()),
            connected: Some(true),
            needs_restart: true,
            changed_keys: vec!["exec.command".to_owned(), "limits.memory".to_owned()],
            healthy: Some(true),
            budget: Some(BudgetView {
                used: vec!["5000 of 5000 tokens".to_owned()],
                until: Some(1_760_003_600_000),
                exhausted: true,
            }),
            limits: vec![
                LimitView { limit: "memory".to_owned(), value: "512M".to_owned() },
                LimitView { limit: "tasks".to_owned(), value: "64".to_owned() },
            ],
            survivors: vec![ProcessView { pid: 4100, command: "ssh-agent".to_owned() }],
            deaths: vec![DeathView {
                run: RunId(2),
                at: now() - 3_600_000,
                result: RunResult::Watchdog,
                exit: Some(Exit::Signal { signal: 6, core: false }),
                error: Some("no WATCHDOG=1 for 30s".to_owned()),
                has_report: true,
            }],
            enforcement: vec![
                Enforcement { promise: Promise::Files, value: Enforced::Fully },
                Enforcement {
                    promise: Promise::Hosts,
                    value: Enforced::Partly("any host on port 8080; names are not checked".to_owned()),
                },
                Enforcement { promise: Promise::Kernel, value: Enforced::Not("seccomp is missing".to_owned()) },
            ],
            processes: vec![
                ProcessView { pid: 4242, command: "python3 -m chat_agent".to_owned() },
                ProcessView { pid: 4250, command: "git status".to_owned() },
            ],
            files: vec!["/etc/loom/units/chat.agent.toml".into(), "/etc/loom/units/chat.agent.d/model.toml".into()],
            ..unit("chat.agent", ActiveState::Active, "running", Duration::from_secs(185))
        };
        let news = UnitView {
            run: RunId(7),
            restarts: 6,
            result: RunResult::ExitCode,
            exit: Some(Exit::Code(1)),
            next_start_in_ms: Some(12_400),
            waits_because: Some("back-off after 6 failures in a row".to_owned()),
            failures: 6,
            crash_looping: true,
            last_error: None,
            ..unit("news.agent", ActiveState::Activating, "auto-restart", Duration::from_secs(150))
        };
        let model = UnitView {
            run: RunId(1),
            result: RunResult::Sandbox,
            last_error: Some("stage `landlock`: the kernel has ABI 0 (errno 38, ENOSYS)".to_owned()),
            ..unit("local-llm.service", ActiveState::Failed, "failed", Duration::from_secs(7_300))
        };
        let all = unit("all.target", ActiveState::Inactive, "dead", Duration::from_secs(3 * 86_400));
        let waiting = UnitView {
            run: RunId(0),
            waits_for: Some("local-llm.service".parse().unwrap()),
            ..unit("reader@7.agent", ActiveState::Activating, "waiting", Duration::from_secs(200))
        };
        let mut units = vec![all, chat, model, news, waiting];
        units.sort_by_key(|view| view.unit.to_string());
        let state =
            BTreeMap::from([("count".to_owned(), (json!(2), 2)), ("last/seen".to_owned(), (json!({"by": "ann"}), 1))]);
        let script = vec![
            BusAnswer::Progress { data: json!({"kind": "tool", "tool": "fs:list", "arguments": {"path": "."}}) },
            BusAnswer::Progress {
                data: json!({"kind": "tool-result", "tool": "fs:list", "ok": true, "text": "2 entries"}),
            },
            BusAnswer::Progress { data: json!({"kind": "token", "text": "There are "}) },
            BusAnswer::Progress { data: json!({"kind": "token", "text": "two files."}) },
            BusAnswer::Reply {
                source: "/units/chat.agent".to_owned(),
                data: json!({"text": "There are two files.", "stop_reason": "final", "model": "smollm2",
                    "usage": {"prompt_tokens": 40, "completion_tokens": 6}, "first_token_ms": 120, "total_ms": 480}),
            },
        ];
        Self {
            units,
            state: Mutex::new(state),
            cancelled: Arc::default(),
            bad_file: AtomicBool::new(false),
            asked: Mutex::new(None),
            published: Mutex::new(None),
            audit_asked: Mutex::new(None),
            jobs: Mutex::default(),
            looked: AtomicU64::new(0),
            transient: Mutex::new(None),
            scripts: Mutex::new(vec![script]),
        }
    }

    fn find(&self, asked: &str) -> Result<UnitView, Refusal> {
        let id = resolve_unit(asked, self.units.iter().map(|view| &view.unit))?;
        Ok(self.units.iter().find(|view| view.unit == id).unwrap().clone())
    }

    fn job(&self, request: &JobRequest, to: ActiveState, sub: &str) -> Result<UnitView, Refusal> {
        let view = self.find(&request.unit)?;
        if view.unit.name().as_str() == "local-llm" && to == ActiveState::Active {
            return Err(Refusal::new(Refusal::FAILED, format!("unit `{}` did not start", view.unit))
                .because("stage `landlock`: the kernel has ABI 0 (errno 38, ENOSYS)")
                .try_this("see `loomctl logs local-llm.service`"));
        }
        Ok(UnitView { active_state: to, sub_state: sub.to_owned(), ..view })
    }

    fn entry(&self, key: &str) -> Result<StateEntry, Refusal> {
        let state = self.state.lock().unwrap();
        let none = || Refusal::new(Refusal::NO_SUCH_KEY, format!("unit `chat.agent` has no state `{key}`"));
        let (value, version) = state.get(key).ok_or_else(none)?.clone();
        Ok(StateEntry { version: VERSION, key: key.to_owned(), value, value_version: version })
    }
}

fn ready<T: Send + 'static>(value: Result<T, Refusal>) -> Answering<'static, T> {
    Box::pin(std::future::ready(value))
}

fn problem(severity: Severity) -> Problem {
    Problem {
        severity,
        file: "/etc/loom/units/counter.agent.toml".to_owned(),
        line: 7,
        column: 10,
        length: 11,
        source_line: "policy = \"onfailure\"".to_owned(),
        message: "unknown restart policy `onfailure`".to_owned(),
        label: "not a policy".to_owned(),
        help: "did you mean `on-failure`?".to_owned(),
    }
}

/// One that waits.
fn schedule() -> ScheduleView {
    let unit: loom_core::ids::UnitId = "report.agent".parse().unwrap();
    let last = FiringView {
        firing: "report.schedule/1774746000000".to_owned(),
        slot: 1_774_746_000_000,
        attempt: 0,
        unit: unit.clone(),
        run: Some(RunId(4)),
        at: 1_774_746_000_012,
        ended: Some(1_774_746_009_000),
        missed: 2,
        cause: loom_core::schedule::Cause::CatchUp,
        state: "failed".to_owned(),
        because: Some("run 4 ended with the result `exit-code`: it exited with status 1".to_owned()),
    };
    ScheduleView {
        schedule: "report.schedule".parse().unwrap(),
        unit: Some(unit),
        state: "waiting".to_owned(),
        rhythm: "cron 0 9 * * MON-FRI".to_owned(),
        next: Some(1_774_832_400_000),
        left_ms: Some(86_400_000),
        last: Some(last),
        open: 0,
        fired: 3,
        missed: 2,
        skipped: 1,
        because: None,
    }
}

impl Control for Fake {
    fn ping(&self, _: Nothing) -> Answering<'_, Pong> {
        ready(Ok(Pong { version: VERSION, loomd: "0.1.0".to_owned(), pid: 99 }))
    }

    fn status(&self, _: Nothing) -> Answering<'_, Overview> {
        ready(Ok(Overview {
            version: VERSION,
            supervisor: SupervisorView {
                loomd: "0.1.0".to_owned(),
                pid: 99,
                since: now() - 7_400_000,
                state: "running".to_owned(),
                machine: Machine {
                    controllers: Default::default(),
                    landlock_abi: 6,
                    seccomp: true,
                    mdwe: true,
                    cgroup_v2: None,
                    pidfd_exit_info: true,
                    root: true,
                    arch: "x86_64".to_owned(),
                },
                logs: "files".to_owned(),
                runtime_dir: "/run/loom".to_owned(),
                state_dir: "/var/lib/loom".to_owned(),
                unit_path: vec!["/etc/loom/units".to_owned()],
                came_back: None,
            },
            units: self.units.clone(),
            problems: vec![problem(Severity::Error)],
        }))
    }

    fn unit(&self, request: UnitAsked) -> Answering<'_, UnitView> {
        ready(self.find(&request.unit))
    }

    fn start_unit(&self, request: JobRequest) -> Answering<'_, UnitView> {
        ready(self.job(&request, ActiveState::Active, "running"))
    }

    fn stop_unit(&self, request: JobRequest) -> Answering<'_, UnitView> {
        ready(self.job(&request, ActiveState::Inactive, "dead"))
    }

    fn restart_unit(&self, request: JobRequest) -> Answering<'_, UnitView> {
        ready(self.job(&request, ActiveState::Active, "running"))
    }

    fn jobs(&self, request: JobsRequest) -> Answering<'_, Lines<JobNews>> {
        let (sender, receiver) = mpsc::channel(64);
        let mut asked = request.units.clone();
        if request.all {
            asked = self.units.iter().map(|view| view.unit.to_string()).filter(|unit| unit.starts_with("ch")).collect();
        }
        let is_stop = request.verb == JobVerb::Stop;
        let endless = asked.iter().any(|unit| unit.starts_with("reader")) && !request.no_wait;
        let answer = |asked: String| {
            let request = JobRequest { unit: asked.clone(), no_block: request.no_wait };
            let (to, sub) = match is_stop {
                true => (ActiveState::Inactive, "dead"),
                false => (ActiveState::Active, "running"),
            };
            match self.job(&request, to, sub) {
                Ok(view) => JobNews::Done { asked, view: Box::new(view) },
                Err(refusal) => JobNews::Refused { asked, unit: None, refusal },
            }
        };
        self.jobs.lock().unwrap().push(request.clone());
        let news: Vec<JobNews> = match endless {
            true => {
                let view = |name: &str| Box::new(self.find(name).unwrap());
                vec![JobNews::Waiting { view: view("reader@7"), on: Some(view("local-llm")) }]
            }
            false => asked.into_iter().map(answer).collect(),
        };
        Box::pin(async move {
            tokio::spawn(async move {
                for news in news {
                    let _ = sender.send(news).await;
                }
                if endless {
                    sender.closed().await;
                }
            });
            Ok(Lines(receiver))
        })
    }

    fn unit_files(&self, request: UnitAsked) -> Answering<'_, UnitFiles> {
        let file = |path: &str, text: &str, hidden| UnitFileText { path: path.into(), text: text.into(), hidden };
        ready(self.find(&request.unit).map(|view| UnitFiles {
            version: VERSION,
            files: vec![
                file(&view.files[0], "[exec]\ncommand = [\"python3\", \"-m\", \"chat_agent\"]\n", false),
                file(&view.files[1], "[llm.default]\nmodel = \"smollm2\"", false),
                file("/usr/lib/loom/units/chat.agent.toml", "[exec]\n", true),
            ],
        }))
    }

    fn show_unit(&self, request: UnitAsked) -> Answering<'_, UnitSettings> {
        ready(self.find(&request.unit).map(|view| UnitSettings {
            version: VERSION,
            unit: view.unit,
            settings: json!({
                "unit": {"description": "Talks"},
                "exec": {"command": ["python3", "-m", "chat_agent"], "environment": {"A": "1"}},
                "restart": {"policy": "on-failure", "delay": "100ms"},
                "llm": {"default": "local", "local": {"model": "smollm2"}},
            }),
            origins: BTreeMap::from([
                ("exec.command".to_owned(), "/etc/loom/units/chat.agent.toml:2".to_owned()),
                ("unit.description".to_owned(), "/etc/loom/units/chat.agent.toml:9".to_owned()),
            ]),
            effective: "[unit]\ndescription = \"Talks\"  # /etc/loom/units/chat.agent.toml:9\n".to_owned(),
        }))
    }

    fn run_transient(&self, request: TransientRequest) -> Answering<'_, UnitView> {
        let view = UnitView {
            run: RunId(1),
            exit: request.wait.then_some(Exit::Code(7)),
            result: if request.wait { RunResult::ExitCode } else { RunResult::Success },
            ..unit(&request.unit.to_string(), ActiveState::Active, "running", Duration::ZERO)
        };
        *self.transient.lock().unwrap() = Some(request);
        ready(Ok(view))
    }

    fn events(&self, request: EventsAsked) -> Answering<'_, Lines<LifeEvent>> {
        let (sender, receiver) = mpsc::channel(4);
        let event = |seq, unit: Option<&str>, news| LifeEvent {
            version: VERSION,
            seq,
            time: 1_760_000_000_000 + seq,
            unit: unit.map(|unit| unit.parse().unwrap()),
            run: unit.map(|_| RunId(3)),
            news,
        };
        let changed = LifeNews::Changed {
            from: ActiveState::Active,
            to: ActiveState::Failed,
            sub_state: "failed".to_owned(),
            result: RunResult::ExitCode,
            because: "it exited with status 1".to_owned(),
        };
        let said =
            LifeNews::Said { word: "crash-looping".to_owned(), text: "it has failed 5 times in a row".to_owned() };
        let events = [
            event(1, Some("chat.agent"), changed),
            event(2, None, LifeNews::Gap { missed: 12 }),
            event(9, Some("chat.agent"), said),
        ];
        Box::pin(async move {
            tokio::spawn(async move {
                for event in events {
                    let _ = sender.send(event).await;
                }
                if request.follow {
                    sender.closed().await;
                }
            });
            Ok(Lines(receiver))
        })
    }

    fn graph(&self, _: Nothing) -> Answering<'_, GraphView> {
        let node = |unit: &str, active_at: Option<u64>, names: &[(&str, &[&str])]| {
            let id: UnitId = unit.parse().unwrap();
            let state = self.units.iter().find(|view| view.unit == id).map(|view| view.active_state);
            let ids = |units: &[&str]| units.iter().map(|unit| unit.parse().unwrap()).collect();
            GraphNode {
                active_state: state,
                began_at: active_at.map(|at| at - 300),
                active_at,
                names: names.iter().map(|(key, units)| ((*key).to_owned(), ids(units))).collect(),
                unit: id,
            }
        };
        ready(Ok(GraphView {
            version: VERSION,
            units: vec![
                node(
                    "all.target",
                    Some(3_000),
                    &[("wants", &["chat.agent", "news.agent"]), ("after", &["chat.agent"])],
                ),
                node("chat.agent", Some(2_700), &[("requires", &["local-llm.service"])]),
                node("local-llm.service", Some(1_500), &[]),
                node("news.agent", None, &[("wants", &["local-llm.service", "gone.service"])]),
            ],
        }))
    }

    fn usage(&self, _: Nothing) -> Answering<'_, UsageView> {
        let asked = self.looked.fetch_add(1, Ordering::SeqCst);
        let used = |unit: &str, pid, cpu_micros, memory_bytes| UnitUsage {
            unit: unit.parse().unwrap(),
            active_state: ActiveState::Active,
            sub_state: "running".to_owned(),
            main_pid: Some(pid),
            cpu_micros,
            memory_bytes,
            tasks: 3,
            restarts: 2,
        };
        ready(Ok(UsageView {
            version: VERSION,
            at_micros: 1_000_000 * asked,
            units: vec![
                used("chat.agent", 4242, 20_000 * asked, 34 << 20),
                used("x.service", 77, 900_000 * asked, 2048),
            ],
        }))
    }

    fn crashes(&self, request: CrashesAsked) -> Answering<'_, CrashesView> {
        let whole = request.run.is_some();
        let lines = |lines: &[&str]| if whole { lines.iter().map(|line| (*line).to_owned()).collect() } else { vec![] };
        ready(Ok(CrashesView {
            version: VERSION,
            reports: vec![CrashReport {
                unit: "chat.agent".parse().unwrap(),
                run: RunId(2),
                at: 1_760_000_000_000,
                result: RunResult::Watchdog,
                exit: Some(Exit::Signal { signal: 6, core: false }),
                error: Some("no WATCHDOG=1 for 30s".to_owned()),
                stacks: lines(&["Current thread 0x1 (most recent call first):", "  File \"chat.py\", line 7 in think"]),
                last_log_lines: lines(&["thinking"]),
                memory_peak_bytes: Some(40 << 20),
                open_files: lines(&["7 -> /var/lib/loom/chat"]),
                children: vec![],
                cgroup_events: [("oom_kill".to_owned(), 0)].into(),
                missing: vec![],
            }],
        }))
    }

    fn daemon_reload(&self, request: ReloadRequest) -> Answering<'_, ReloadReport> {
        if self.bad_file.load(Ordering::SeqCst) {
            let mut refusal = Refusal::new(Refusal::BAD_FILE, "1 unit file has errors; nothing was changed");
            refusal.problems = vec![problem(Severity::Error)];
            return ready(Err(refusal));
        }
        ready(Ok(ReloadReport {
            version: VERSION,
            added: vec!["news.agent".parse().unwrap()],
            changed: vec!["chat.agent".parse().unwrap()],
            removed: vec![],
            problems: vec![problem(Severity::Warning)],
            applied: !request.dry_run,
            changes: vec![UnitChange {
                unit: "chat.agent".parse().unwrap(),
                keys: vec!["exec.command".to_owned(), "stop.timeout".to_owned()],
            }],
            needs_restart: vec!["chat.agent".parse().unwrap()],
        }))
    }

    fn daemon_reexec(&self, _: Nothing) -> Answering<'_, Pong> {
        ready(Err(Refusal::new(Refusal::FAILED, "the program that lies there would not start")))
    }

    fn state_keys(&self, request: UnitAsked) -> Answering<'_, StateKeys> {
        let keys = self.state.lock().unwrap().keys().cloned().collect();
        ready(self.find(&request.unit).map(|_| StateKeys { version: VERSION, keys }))
    }

    fn state_get(&self, request: StateAsked) -> Answering<'_, StateEntry> {
        ready(self.find(&request.unit).and_then(|_| self.entry(&request.key)))
    }

    fn state_put(&self, request: StatePut) -> Answering<'_, StateEntry> {
        let mut state = self.state.lock().unwrap();
        let found = state.get(&request.key).map_or(0, |(_, version)| *version);
        if request.if_version.is_some_and(|wanted| wanted != found) {
            let refusal = Refusal::new(Refusal::CONFLICT, format!("state `{}` has version {found}", request.key));
            return ready(Err(refusal.because(format!("the write was for version {}", request.if_version.unwrap()))));
        }
        state.insert(request.key.clone(), (request.value, found + 1));
        drop(state);
        ready(self.entry(&request.key))
    }

    fn state_delete(&self, request: StateAsked) -> Answering<'_, StateEntry> {
        let entry = self.entry(&request.key);
        self.state.lock().unwrap().remove(&request.key);
        ready(entry)
    }

    fn bus_request(&self, request: BusRequest) -> Answering<'_, Lines<BusAnswer>> {
        let endless = request.data.get("text") == Some(&json!("never end"));
        *self.asked.lock().unwrap() = Some(request);
        let mut scripts = self.scripts.lock().unwrap();
        let script = if scripts.len() > 1 { scripts.remove(0) } else { scripts[0].clone() };
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(4);
            if endless {
                let first = BusAnswer::Progress { data: json!({"kind": "token", "text": "hm"}) };
                sender.send(first).await.unwrap();
                // As the bus does: whoever drops the receiver cancels.
                let cancelled = self.cancelled.clone();
                tokio::spawn(async move {
                    sender.closed().await;
                    cancelled.store(true, Ordering::SeqCst);
                });
                return Ok(Lines(receiver));
            }
            tokio::spawn(async move {
                for answer in script {
                    if sender.send(answer).await.is_err() {
                        return;
                    }
                }
            });
            Ok(Lines(receiver))
        })
    }

    fn bus_publish(&self, request: BusPublish) -> Answering<'_, Published> {
        let topic = request.topic.clone();
        *self.published.lock().unwrap() = Some(request);
        ready(Ok(Published { version: VERSION, topic }))
    }

    fn schedules(&self, _: Nothing) -> Answering<'_, ScheduleList> {
        ready(Ok(ScheduleList { version: VERSION, schedules: vec![schedule()] }))
    }

    fn firings(&self, request: UnitAsked) -> Answering<'_, FiringList> {
        let schedule = schedule();
        if request.unit != schedule.schedule.to_string() {
            return ready(Err(Refusal::new(Refusal::NO_SUCH_UNIT, format!("there is no schedule `{}`", request.unit))));
        }
        ready(Ok(FiringList { version: VERSION, firings: schedule.last.clone().into_iter().collect(), schedule }))
    }

    fn fire(&self, _: UnitAsked) -> Answering<'_, Fired> {
        let schedule = schedule();
        let said = "it was fired by hand, by person".to_owned();
        ready(Ok(Fired { version: VERSION, schedule: schedule.schedule, said, firing: schedule.last }))
    }

    fn audit(&self, request: AuditAsked) -> Answering<'_, AuditView> {
        *self.audit_asked.lock().unwrap() = Some(request);
        let record = |seq, stage: &str, tool: &str, rule: &str, outcome: &str| AuditRecord {
            seq,
            time: 1_760_000_000_000 + seq,
            stage: stage.to_owned(),
            unit: "chat.agent".parse().unwrap(),
            run: RunId(3),
            call: format!("c{seq}"),
            tool: tool.to_owned(),
            arguments: json!({"path": "notes.txt"}),
            rule: rule.to_owned(),
            outcome: outcome.to_owned(),
            duration_ms: (stage == "ended").then_some(4),
            result_bytes: (stage == "ended").then_some(210),
        };
        ready(Ok(AuditView {
            version: VERSION,
            records: vec![
                record(1, "decided", "fs:read", "allow fs:read (chat.agent.toml:14:3)", "allowed"),
                record(2, "ended", "fs:read", "", "ok"),
                record(3, "decided", "fs:write", "no rule allows it", "denied"),
            ],
        }))
    }
}
