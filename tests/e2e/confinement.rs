//! What an agent reaches, and what it does not.

use loom_tests::Loom;
use std::net::TcpListener;

fn ask(loom: &Loom, text: &str) -> String {
    loom.ctl(["ask", "counter", text]).success().stdout.trim().to_owned()
}

#[test]
fn a_denied_path_reads_as_permission_denied() {
    let loom = Loom::start();
    let secret = loom.path().join("secret.txt");
    std::fs::write(&secret, "the witness").unwrap();
    loom.python_agent("counter", "counter.py", "");
    loom.ctl(["start", "counter"]).success();
    assert_eq!(
        ask(&loom, &format!("open {}", secret.display())),
        format!("refused: [Errno 13] Permission denied: '{}'", secret.display())
    );
    assert!(ask(&loom, "open /proc/1/environ").starts_with("refused"));
    let link = loom.state_dir("counter.agent").join("link");
    std::os::unix::fs::symlink(&secret, &link).unwrap();
    assert!(ask(&loom, &format!("open {}", link.display())).starts_with("refused"), "through a link");
}

#[test]
fn a_granted_path_is_read() {
    let loom = Loom::start();
    let notes = loom.path().join("notes");
    std::fs::create_dir(&notes).unwrap();
    std::fs::write(notes.join("a.txt"), "12345").unwrap();
    loom.python_agent("counter", "counter.py", &format!("[sandbox]\nread = [{notes:?}]"));
    loom.ctl(["start", "counter"]).success();
    assert_eq!(ask(&loom, &format!("open {}", notes.join("a.txt").display())), "read 5");
}

#[test]
fn only_named_ports_are_reached() {
    let loom = Loom::start();
    let (granted, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    loom.python_agent("counter", "counter.py", &format!("[sandbox]\nhosts = [\"localhost:{}\"]", port(&granted)));
    loom.ctl(["start", "counter"]).success();
    assert_eq!(ask(&loom, &format!("connect {}", port(&granted))), "connected");
    assert!(ask(&loom, &format!("connect {}", port(&other))).starts_with("refused: [Errno 13]"));
}

#[test]
fn status_shows_how_far_each_promise_is_enforced() {
    let loom = Loom::start();
    loom.python_agent("counter", "counter.py", "[sandbox]\nhosts = [\"localhost:1\"]");
    loom.ctl(["start", "counter"]).success();
    let view = loom.view("counter").unwrap();
    let value = |promise: &str| {
        view["enforcement"].as_array().unwrap().iter().find(|e| e["promise"] == promise).map(|e| e["value"].clone())
    };
    for promise in ["files", "processes", "kernel"] {
        assert_eq!(value(promise), Some("fully".into()), "{promise}: {view}");
    }
    for promise in ["hosts", "sockets"] {
        assert!(value(promise).unwrap().get("partly").is_some(), "{promise}: {view}");
    }
    let words = loom.ctl(["status", "counter"]).success().stdout;
    assert!(words.contains("partly"), "{words}");
}

#[test]
fn a_confined_process_cannot_use_the_control_socket() {
    let loom = Loom::start();
    let socket = loom.path().join("run/control.sock");
    let script = format!(
        "import socket\ns = socket.socket(socket.AF_UNIX)\ntry:\n s.connect({socket:?}); s.sendall(b'GET /v1/status HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); print('ANSWER', s.recv(200))\nexcept OSError as e:\n print('ANSWER', e)"
    );
    loom.unit(
        "intruder.service.toml",
        &format!(
            "[exec]\ncommand = [{:?}, \"-c\", {script:?}]\n[sandbox]\nprofile = \"python\"\n",
            loom_tests::python()
        ),
    );
    loom.ctl(["start", "intruder"]);
    loom.until("it ended", "intruder", |v| v["active_state"] == "inactive");
    let said = loom.ctl(["logs", "intruder"]).success().stdout;
    assert!(said.contains("ANSWER") && !said.contains("200 OK"), "{said}");
}
