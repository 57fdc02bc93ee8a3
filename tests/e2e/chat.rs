//! A person talks with the chat agent; the model server's journal is the judge of what reached the model.

use crate::scripted::{Model, chat, chat_unit};
use loom_tests::{LIMIT, Loom, Said, checkout, processes_of, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;

/// From the end of the asking to the end of the model's connection.
const CANCEL_LIMIT_S: f64 = 1.0;

fn ask(loom: &Loom, question: &str) -> Said {
    loom.ctl(["ask", "chat", question])
}

fn in_thread(loom: &Loom, thread: &str, question: &str) -> String {
    loom.ctl(["ask", "chat", question, "--thread", thread]).success().stdout.trim().to_owned()
}

/// A port of this machine on which nobody listens.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn now_s() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

#[test]
fn tokens_are_shown_before_the_answer_ends() {
    let model = Model::start();
    let loom = chat(&model);
    let mut child = loom.ctl_child(["ask", "chat", "hold on"]);
    let mut first = [0u8; 13];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"one two three");
    assert!(model.journal().iter().all(|line| line["event"] != "answered"), "the server has not ended yet");
    model.release();
    let out = child.wait_with_output().unwrap();
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stdout).as_ref()), (Some(0), " four\n"));
}

#[test]
fn the_second_prompt_holds_the_first_turn_also_after_the_agent_was_killed() {
    let model = Model::start();
    let loom = chat(&model);
    assert_eq!(in_thread(&loom, "a", "My name is Ada."), "You said: My name is Ada.");
    loom.kill_main("chat");
    loom.until("a new run", "chat", |v| v["run"] == 2 && v["active_state"] == "active");
    in_thread(&loom, "a", "What is my name?");
    in_thread(&loom, "b", "And mine?");
    let second = &model.prompts("What is my name?")[0];
    assert_eq!(
        second[1..],
        ["user: My name is Ada.", "assistant: You said: My name is Ada.", "user: What is my name?"]
    );
    assert_eq!(model.prompts("And mine?")[0][1..], ["user: And mine?"], "two threads do not mix");
    assert_eq!(in_thread(&loom, "a", "/prompt"), second.join("\n"), "word for word");
    loom.kill_main("chat");
    loom.until("a new run", "chat", |v| v["run"] == 3 && v["active_state"] == "active");
    assert_eq!(in_thread(&loom, "a", "/prompt"), second.join("\n"), "also by the next run");
    assert_eq!(model.journal().iter().filter(|line| line["event"] == "asked").count(), 3, "/prompt asks no model");
}

#[test]
fn threads_that_talk_at_once_do_not_mix() {
    let model = Model::start();
    let loom = chat(&model);
    std::thread::scope(|scope| {
        for thread in ["a", "b", "c"] {
            let loom = &loom;
            scope.spawn(move || {
                for turn in 1..=4 {
                    let said = in_thread(loom, thread, &format!("{thread}{turn}"));
                    assert_eq!(said, format!("You said: {thread}{turn}"));
                }
            });
        }
    });
    for thread in ["a", "b", "c"] {
        let prompt = &model.prompts(&format!("{thread}4"))[0];
        assert_eq!(prompt.len(), 8, "{prompt:?}");
        assert!(prompt[1..].iter().all(|text| text.contains(&format!(" {thread}"))), "{prompt:?}");
    }
}

#[test]
fn each_failure_of_a_model_is_one_notice_and_the_session_lives() {
    let model = Model::start();
    let loom = chat(&model);
    // The longest of them waits beside the others.
    let stalled = loom.ctl_child(["ask", "chat", "stall please", "--thread", "stall"]);
    let failures: &[(&str, &str, &str)] = &[
        ("cut it", "one two three\n", "without an end marker"),
        ("break it", "one two three\n", "the connection broke"),
        ("garbage please", "one two three\n", "not JSON"),
        ("fails 9 times", "", "answered 500"),
    ];
    for (question, stdout, cause) in failures {
        let said = ask(&loom, question);
        assert_eq!((said.status, said.stdout.as_str()), (1, *stdout), "{question}: {said:?}");
        let notices: Vec<&str> = said.stderr.lines().filter(|line| !line.contains("asking again")).collect();
        assert_eq!(notices.len(), 2, "{question}: {notices:?}");
        assert_eq!(notices[0], "error: agent `chat.agent` gave no whole answer");
        assert!(notices[1].starts_with("cause: ") && notices[1].contains(cause), "{question}: {notices:?}");
        assert_eq!(ask(&loom, "still there?").success().stdout, "You said: still there?\n");
    }
    let json = loom.ctl(["ask", "chat", "cut again", "--json"]);
    let seen = json.json();
    assert_eq!(
        (json.status, seen["stop_reason"].as_str(), seen["text"].as_str()),
        (1, Some("incomplete"), Some("one two three"))
    );
    // What was cut short is in the memory as such, never as an answer; what never began is not there.
    let prompt = &model.prompts("cut again")[0];
    assert!(prompt.contains(&"assistant: one two three [cut short]".to_owned()), "{prompt:#?}");
    assert!(!prompt.contains(&"assistant: one two three".to_owned()), "{prompt:#?}");
    assert!(prompt.contains(&"user: fails 9 times".to_owned()), "{prompt:#?}");

    let out = stalled.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!((out.status.code(), String::from_utf8_lossy(&out.stdout).as_ref()), (Some(1), "one two three\n"));
    assert!(stderr.contains("`between tokens` time of 30 s ran out") && stderr.lines().count() == 2, "{stderr}");
    assert_eq!(in_thread(&loom, "stall", "and now?"), "You said: and now?");
    assert_eq!(loom.view("chat").unwrap()["run"], 1, "the agent never died of it");
}

#[test]
fn what_passes_is_asked_again_and_the_waits_are_told() {
    let model = Model::start();
    let loom = chat(&model);
    let said = ask(&loom, "fails 3 times").success();
    assert_eq!(said.stdout, "You said: fails 3 times\n");
    assert_eq!(said.stderr.lines().filter(|line| line.contains("asking again")).count(), 3, "{}", said.stderr);
    let said = ask(&loom, "busy now").success();
    assert!(said.stderr.contains("answered 429") && said.stderr.contains("asking again in 1.0 s"), "{}", said.stderr);
    let at: Vec<f64> = model
        .journal()
        .iter()
        .filter(|line| line["event"] == "asked" && line["body"]["messages"].to_string().contains("busy now"))
        .map(|line| line["at"].as_f64().unwrap())
        .collect();
    assert!(at.len() == 2 && at[1] - at[0] >= 1.0, "Retry-After is obeyed: {at:?}");
}

#[test]
fn a_model_that_is_not_there_is_one_notice_and_the_session_goes_on_when_it_is() {
    let model = Model::start();
    let loom = Loom::start();
    let port = free_port();
    loom.unit("chat.agent.toml", &chat_unit(port));
    loom.ctl(["start", "chat"]).success();
    let said = ask(&loom, "Hello?");
    assert_eq!((said.status, said.stdout.as_str()), (1, ""), "{said:?}");
    let notices: Vec<&str> = said.stderr.lines().filter(|line| !line.contains("asking again")).collect();
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(notices[1].contains(&format!("cannot connect to http://127.0.0.1:{port}")), "{notices:?}");
    assert!(notices[1].contains("[sandbox] hosts"), "the way out is named: {notices:?}");
    loom.unit("chat.agent.toml", &chat_unit(model.port));
    loom.ctl(["restart", "chat"]).success();
    ask(&loom, "And now?").success();
    assert!(model.prompts("And now?")[0].contains(&"user: Hello?".to_owned()), "the question stayed in the memory");
}

#[test]
fn every_script_of_the_world_arrives_as_it_was_written() {
    let model = Model::start();
    let loom = chat(&model);
    let text = "Grüße 👩‍👩‍👧‍👦🏳️‍🌈 שלום עולם مرحبا بالعالم 你好 e\u{301}";
    assert_eq!(ask(&loom, text).success().stdout, format!("You said: {text}\n"));
    ask(&loom, "again?").success();
    let prompt = &model.prompts("again?")[0];
    assert_eq!(prompt[1..3], [format!("user: {text}"), format!("assistant: You said: {text}")]);
}

#[test]
fn a_slow_reader_gets_the_whole_answer() {
    let model = Model::start();
    let loom = chat(&model);
    let whole: String = (0..20_000).map(|at| format!("{at} ")).collect();
    let mut child = loom.ctl_child(["ask", "chat", "quick 20000"]);
    // Nobody reads until the answer was stored: pipe, sockets and queues fill, and pieces on the way are dropped.
    until("the answer was stored", LIMIT, || {
        let thread = loom.ctl(["state", "get", "chat", "thread.main"]);
        if thread.stdout.contains("assistant") { Ok(()) } else { Err(thread.stderr) }
    });
    let mut stdout = String::new();
    child.stdout.as_mut().unwrap().read_to_string(&mut stdout).unwrap();
    assert!(stdout.trim_end() == whole.trim_end(), "{} of {} characters", stdout.len(), whole.len());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn whoever_leaves_in_the_middle_closes_the_models_connection() {
    let model = Model::start();
    let loom = chat(&model);
    let mut closed = Vec::new();
    for (nth, signal) in [Signal::SIGINT, Signal::SIGKILL].into_iter().cycle().take(6).enumerate() {
        let mut child = loom.ctl_child(["ask", "chat", &format!("forever {nth}")]);
        let mut first = [0u8; 21];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        let left_at = now_s();
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let n = nth * 2 + 1;
        let left = model.until("the connection was closed", |line| line["event"] == "left" && line["n"] == n);
        closed.push(left["at"].as_f64().unwrap() - left_at);
        child.wait().unwrap();
        assert_eq!(ask(&loom, "next?").success().stdout, "You said: next?\n", "the next question works");
    }
    assert!(closed.iter().all(|span| *span < CANCEL_LIMIT_S), "{closed:?}");
    println!("closed after {closed:.3?} s");
    let prompt = model.prompts("next?").pop().unwrap();
    let partial = prompt.iter().filter(|text| text.starts_with("assistant: on and") && text.ends_with("[cut short]"));
    assert_eq!(partial.count(), 6, "what came is kept as cut short: {prompt:#?}");
}

/// Files below `directory` that hold `needle`.
fn holding(directory: &Path, needle: &[u8]) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() && std::fs::read(&path).is_ok_and(|bytes| has(&bytes, needle)) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

fn has(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn a_models_key_reaches_the_model_and_nothing_else() {
    const CANARY: &str = "sk-canary-1f0e7c5b9d";
    let model = Model::start();
    // Beside the test's own directory, so that every file in there may be searched for it.
    let secrets = tempfile::Builder::new().prefix("key-").tempdir_in("/tmp").unwrap();
    let key = secrets.path().join("provider.key");
    std::fs::write(&key, format!("{CANARY}\n")).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let loom = Loom::start();
    let unit = chat_unit(model.port)
        .replace("[ready]", &format!("credentials = {{ provider = {key:?} }}\n[ready]"))
        .replace("window =", "credential = \"provider\"\nwindow =");
    loom.unit("chat.agent.toml", &unit);
    loom.ctl(["start", "chat"]).success();
    ask(&loom, "Hello").success();
    assert_eq!(ask(&loom, "cut it").status, 1);
    assert_eq!(ask(&loom, "fails 9 times").status, 1);
    let asked: Vec<Value> = model.journal().into_iter().filter(|line| line["event"] == "asked").collect();
    assert!(
        asked.len() >= 3 && asked.iter().all(|line| line["authorization"] == format!("Bearer {CANARY}")),
        "{asked:?}"
    );

    let mut shown = vec![loom.daemon_words()];
    for words in [
        &["status", "chat"][..],
        &["status", "chat", "--json"],
        &["show", "chat"],
        &["cat", "chat"],
        &["logs", "chat", "-n", "1000"],
        &["audit", "chat"],
        &["state", "list", "chat"],
        &["state", "get", "chat", "thread.main"],
        &["ask", "chat", "/prompt"],
    ] {
        let said = loom.ctl(words);
        shown.extend([said.stdout, said.stderr]);
    }
    assert!(shown.iter().all(|text| !text.contains(CANARY)), "{shown:#?}");
    let processes = processes_of(loom.path());
    assert!(processes.len() >= 2, "loomd and its agent: {processes:?}");
    for (pid, command) in &processes {
        assert!(!command.contains(CANARY), "argv of {pid}");
        for file in ["environ", "comm", "maps"] {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            assert!(!has(&bytes, CANARY.as_bytes()), "{file} of {pid} ({command})");
        }
    }
    assert_eq!(holding(loom.path(), CANARY.as_bytes()), Vec::<String>::new(), "state, runtime directory, logs");
}

/// The shipped model and the shipped agent, on a port of our own.
#[test]
fn the_shipped_model_answers_streamed_and_tools_are_called_and_refused() {
    let venv = checkout().join("units/lib/.venv/bin/python");
    if !venv.exists() {
        println!("skipped: needs {}; run `scripts/prepare model`", venv.display());
        return;
    }
    let port = free_port().to_string();
    let loom = Loom::start();
    let shipped = |path: &str| {
        let path = checkout().join(path);
        let directory = path.parent().unwrap().display().to_string();
        std::fs::read_to_string(&path).unwrap().replace("11435", &port).replace("%d", &directory)
    };
    loom.write_unit("local-llm.service.toml", &shipped("units/local-llm.service.toml"));
    loom.unit("chat.agent.toml", &shipped("examples/chat-agent/chat.agent.toml"));
    loom.ctl(["start", "local-llm.service", "chat"]).success();

    let said = loom.ctl(["ask", "chat", "My name is Ada.", "--json"]).success().json();
    let tokens: Vec<&Value> = said["steps"].as_array().unwrap().iter().filter(|step| step["kind"] == "token").collect();
    assert!(tokens.is_empty(), "tokens are the text, not steps: {said}");
    let count = |name: &str| said["usage"][name].as_u64().unwrap();
    assert!(count("prompt_tokens") > 10 && (1..=200).contains(&count("completion_tokens")), "{said}");
    assert!(said["first_token_ms"].as_u64() < said["total_ms"].as_u64(), "it came in pieces: {said}");
    assert!(
        said["model"].as_str().unwrap().contains("smollm2") && !said["text"].as_str().unwrap().is_empty(),
        "{said}"
    );

    let mut child = loom.ctl_child(["ask", "chat", "Tell me a long story about a ship."]);
    let mut first = [0u8; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let running = child.try_wait().unwrap().is_none();
    assert!(running, "the first token comes before the end");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));

    ask(&loom, "What is my name?").success();
    assert!(ask(&loom, "/prompt").success().stdout.contains("user: My name is Ada."));
    let listed = ask(&loom, "/ls").success();
    assert!(listed.stdout.contains("README.md") && listed.stdout.contains("notes/"), "{listed:?}");
    assert!(listed.stderr.contains("[calls fs:list"), "{listed:?}");
    let refused = ask(&loom, "/read /etc/shadow").success();
    assert!(refused.stdout.contains("fs:read was refused") && refused.stdout.contains("outside"), "{refused:?}");
    loom.ctl(["stop", "local-llm.service", "chat"]).success();
    until("nothing of the units is left", LIMIT, || {
        let left: Vec<_> = loom.processes().into_iter().filter(|(pid, _)| *pid != loom.daemon_pid()).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}
