//! A model server that does what the question says (`tests/agents/scripted_model.py`), and the real chat agent that asks it.

use loom_tests::{LIMIT, Loom, agent_file, checkout, python, until};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Ended on drop.
pub struct Model {
    server: Child,
    directory: tempfile::TempDir,
    pub port: u16,
}

impl Model {
    pub fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("model-").tempdir_in("/tmp").unwrap();
        let mut server = Command::new(python())
            .arg(agent_file("scripted_model.py"))
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("the model server said {line:?}"));
        Self { server, directory, port }
    }

    /// Lets every answer to `hold` end.
    pub fn release(&self) {
        std::fs::write(self.directory.path().join("release"), "").unwrap();
    }

    /// Everything that happened, in order.
    pub fn journal(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.directory.path().join("journal")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for a line of the journal.
    #[track_caller]
    pub fn until(&self, what: &str, test: impl Fn(&Value) -> bool) -> Value {
        until(what, LIMIT, || {
            let journal = self.journal();
            journal.iter().find(|line| test(line)).cloned().ok_or_else(|| format!("{journal:#?}"))
        })
    }

    /// The messages of each request whose question has this text, as `role: text`.
    pub fn prompts(&self, question: &str) -> Vec<Vec<String>> {
        let asked = self.journal().into_iter().filter(|line| line["event"] == "asked");
        let messages = asked.map(|line| line["body"]["messages"].as_array().unwrap().clone());
        let texts = messages.map(|all| {
            let text = |message: &Value| {
                format!("{}: {}", message["role"].as_str().unwrap(), message["content"].as_str().unwrap())
            };
            all.iter().map(text).collect::<Vec<_>>()
        });
        texts.filter(|all: &Vec<String>| all.last().is_some_and(|last| last.contains(question))).collect()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The unit file of the shipped chat agent, asking a model on this port.
pub fn chat_unit(port: u16) -> String {
    let example = checkout().join("examples/chat-agent");
    let text = |path: &Path| path.display().to_string();
    let (agent, workspace) = (text(&example.join("agent.py")), text(&example.join("workspace")));
    format!(
        r#"[exec]
command = [{:?}, {agent:?}]
[ready]
type = "notify"
[restart]
policy = "on-failure"
delay = "50ms"
[sandbox]
profile = "python"
read = [{workspace:?}, {agent:?}]
hosts = ["127.0.0.1:{port}"]
[tools]
workspace = {workspace:?}
allow = ["fs:list", "fs:read"]
[llm]
default = "scripted"
[llm.scripted]
format = "openai-chat"
base_url = "http://127.0.0.1:{port}/v1"
model = "scripted"
window = 16384
max_output = 200
"#,
        text(&python())
    )
}

/// A supervisor with that agent, ready.
pub fn chat(model: &Model) -> Loom {
    let loom = Loom::start();
    loom.unit("chat.agent.toml", &chat_unit(model.port));
    loom.ctl(["start", "chat"]).success();
    loom
}
