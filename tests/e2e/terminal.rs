//! `loomctl chat` in a real pseudo-terminal: what a person types and sees.

use crate::scripted::{Model, chat};
use loom_tests::{LIMIT, Loom, program, python, until};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

/// Gives a program a terminal of its own, 100 columns wide; its keys come from stdin, its screen goes to stdout.
const TERMINAL: &str = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";
const ENTER: &str = "\r";

struct Terminal {
    child: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<Vec<u8>>>,
    /// How much of the screen was looked at.
    seen: usize,
}

impl Terminal {
    fn chat(loom: &Loom) -> Self {
        let mut command = Command::new(python());
        command.args(["-c", TERMINAL, "sh", "-c", "stty cols 100 rows 40; exec \"$0\" chat chat"]);
        command.arg(program("loomctl")).current_dir(loom.path()).env_clear().env("TERM", "xterm");
        command.env("PATH", "/usr/bin:/bin").env("LOOM_RUNTIME_DIR", loom.path().join("run"));
        command.env("LOOM_STATE_DIR", loom.path().join("state"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (keys, mut out) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let screen = Arc::new(Mutex::new(Vec::new()));
        let shown = screen.clone();
        std::thread::spawn(move || {
            let mut piece = [0u8; 4096];
            while let Ok(length @ 1..) = out.read(&mut piece) {
                shown.lock().unwrap().extend_from_slice(&piece[..length]);
            }
        });
        Self { child, keys, screen, seen: 0 }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Types a line once there is a prompt to type it at.
    fn say(&mut self, line: &str) {
        self.until("chat> ");
        self.press(line);
        self.press(ENTER);
    }

    /// Waits until the screen shows this after what was waited for before; gives what came up to it.
    #[track_caller]
    fn until(&mut self, text: &str) -> String {
        let (screen, from) = (self.screen.clone(), self.seen);
        let (shown, end) = until(&format!("the screen shows {text:?}"), LIMIT, || {
            let bytes = screen.lock().unwrap().clone();
            let place = bytes[from..].windows(text.len()).position(|window| window == text.as_bytes());
            let shown = |to: usize| String::from_utf8_lossy(&bytes[from..to]).into_owned();
            match place {
                Some(at) => Ok((shown(from + at), from + at + text.len())),
                None => Err(shown(bytes.len())),
            }
        });
        self.seen = end;
        shown
    }

    /// Ends by Ctrl-D at the prompt; gives the exit status.
    fn leave(mut self) -> Option<i32> {
        self.until("chat> ");
        self.press(CTRL_D);
        let status = until("the chat ended", LIMIT, || {
            self.child
                .try_wait()
                .unwrap()
                .ok_or_else(|| String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned())
        });
        status.code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_person_at_a_terminal_sees_the_answer_come_and_ctrl_c_cancels_only_the_answer() {
    let model = Model::start();
    let loom = chat(&model);
    let mut terminal = Terminal::chat(&loom);
    terminal.until("talking to chat.agent (run 1), thread `main`; Ctrl-C cancels an answer, Ctrl-D leaves");
    terminal.say("hold on");
    terminal.until("one two three");
    assert!(model.journal().iter().all(|line| line["event"] != "answered"), "it streams");
    model.release();
    terminal.until(" four");
    terminal.until("[first token after ");

    terminal.say("forever");
    terminal.until("on and on and");
    terminal.press(CTRL_C);
    terminal.until("[cancelled]");
    model.until("the connection was closed", |line| line["event"] == "left");

    terminal.say("next?");
    terminal.until("You said: next?");
    terminal.until("total ");
    // At the prompt it is only a key.
    terminal.until("chat> ");
    terminal.press(&format!("half a quest{CTRL_C}"));
    terminal.until("[Ctrl-D leaves]");
    terminal.say("שלום 👋");
    terminal.until("You said: שלום 👋");
    terminal.until("total ");
    // Arrow up: the line before.
    terminal.until("chat> ");
    terminal.press(&format!("\u{1b}[A{ENTER}"));
    terminal.until("You said: שלום 👋");
    assert_eq!(terminal.leave(), Some(0));

    let history = loom.path().join("state/chat-history");
    assert_eq!(std::fs::metadata(&history).unwrap().permissions().mode() & 0o777, 0o600);
    let lines = std::fs::read_to_string(&history).unwrap();
    assert!(lines.contains("forever\n") && lines.contains("שלום 👋\n") && !lines.contains("half a quest"), "{lines}");
    let mut terminal = Terminal::chat(&loom);
    terminal.until("chat> ");
    terminal.press("\u{1b}[A");
    terminal.until("שלום 👋");
    terminal.press(ENTER);
    terminal.until("total ");
    assert_eq!(terminal.leave(), Some(0));
}

#[test]
fn a_conversation_outlives_loomd_and_its_agent_with_one_notice_each() {
    let model = Model::start();
    let mut loom = chat(&model);
    let mut terminal = Terminal::chat(&loom);
    terminal.say("one?");
    terminal.until("total ");

    // Between two questions: nothing to notice but a wait.
    loom.kill_daemon();
    terminal.say("two?");
    terminal.until("[the supervisor is away");
    loom.start_daemon();
    let shown = terminal.until("You said: two?");
    assert!(!shown.contains("away"), "one notice: {shown}");
    terminal.until("total ");

    // In the middle of an answer.
    terminal.say("forever a");
    terminal.until("on and on");
    loom.kill_daemon();
    terminal.until("[the supervisor went away before the answer was whole; ask again]");
    loom.start_daemon();
    // The new one knows nobody who waits for it.
    model.until("the answer that nobody waits for is given up", |line| line["event"] == "left" && line["n"] == 3);
    terminal.say("forever b");
    terminal.until("on and on");
    loom.kill_main("chat");
    let shown =
        terminal.until("[chat.agent ended before its answer was whole; it comes back with its memory, ask again]");
    assert!(!shown.contains("error"), "one notice: {shown}");
    terminal.say("three?");
    terminal.until("You said: three?");
    terminal.until("total ");
    assert_eq!(terminal.leave(), Some(0));
    let prompt = &model.prompts("three?")[0];
    for text in ["user: one?", "assistant: You said: one?", "user: two?", "user: forever b"] {
        assert!(prompt.contains(&text.to_owned()), "{text}: {prompt:#?}");
    }
}
