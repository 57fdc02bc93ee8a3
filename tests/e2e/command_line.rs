//! What the command line says.

use loom_tests::Loom;

#[test]
fn no_supervisor_is_one_clear_line_and_exit_status_3() {
    let loom = Loom::new();
    for words in [&["status"][..], &["start", "chat"], &["list"], &["ask", "chat", "hi"], &["state", "list", "chat"]] {
        let said = loom.ctl(words);
        assert_eq!(said.status, 3, "{words:?}: {said:?}");
        assert!(said.stderr.starts_with("error: "), "{said:?}");
        assert!(said.stderr.contains("control.sock"), "{said:?}");
    }
}

#[test]
fn an_unknown_unit_is_exit_status_5_and_a_wrong_word_2() {
    let loom = Loom::start();
    for words in [&["start", "nobody"][..], &["status", "nobody"], &["stop", "nobody"], &["cat", "nobody"]] {
        assert_eq!(loom.ctl(words).status, 5, "{words:?}");
    }
    assert_eq!(loom.ctl(["frobnicate"]).status, 2);
    assert_eq!(loom.ctl(["start"]).status, 2);
}

#[test]
fn every_json_answer_carries_its_version() {
    let loom = Loom::start();
    loom.unit("nap.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    for words in [
        &["status", "--json"][..],
        &["list", "--json"],
        &["show", "nap", "--json"],
        &["cat", "nap", "--json"],
        &["audit", "--json"],
        &["start", "nap", "--json"],
        &["status", "nap", "--json"],
        &["daemon-reload", "--json"],
        &["stop", "nap", "--json"],
    ] {
        let said = loom.ctl(words);
        assert_eq!(said.json()["version"], 1, "{words:?}: {said:?}");
    }
}

#[test]
fn curl_is_a_debugger() {
    let loom = Loom::start();
    let socket = loom.path().join("run/control.sock");
    let out = std::process::Command::new("curl")
        .args(["-s", "--max-time", "10", "--unix-socket", socket.to_str().unwrap(), "http://loom/v1/status"])
        .output();
    let Ok(out) = out else {
        eprintln!("skipped: needs curl");
        return;
    };
    let answer: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(answer["supervisor"]["pid"], loom.daemon_pid());
}
