//! Files people write.

use loom_tests::Loom;

#[test]
fn a_unit_file_is_enough() {
    let loom = Loom::start();
    loom.write_unit(
        "mine.agent.toml",
        "[exec]\ncommand = [\"python3\", \"-c\", \"import time; print('mine runs', flush=True); time.sleep(1000)\"]\n",
    );
    loom.ctl(["daemon-reload"]).success();
    loom.ctl(["start", "mine"]).success();
    loom.until_active("mine");
    let logged = loom_tests::until("its words are in the log", loom_tests::LIMIT, || {
        let said = loom.ctl(["logs", "mine"]);
        if said.stdout.contains("mine runs") { Ok(said) } else { Err(format!("{said:?}")) }
    });
    assert_eq!(logged.status, 0);
}

#[test]
fn a_broken_file_never_stops_the_others() {
    let mut loom = Loom::new();
    loom.write_unit("good.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    loom.write_unit("bad.service.toml", "[exec]\ncomand = [\"sleep\"]\n[restart]\npolicy = \"onfailure\"\n");
    loom.start_daemon();
    loom.ctl(["start", "good"]).success();
    let said = loom.ctl(["start", "bad"]);
    assert_ne!(said.status, 0);
    let overview = loom.ctl(["status", "--json"]).json();
    let problems = overview["problems"].as_array().unwrap();
    assert!(problems.iter().any(|p| p["line"] == 2 && p["help"].as_str().unwrap().contains("command")), "{problems:?}");
    assert!(problems.iter().any(|p| p["line"] == 4), "all problems at once: {problems:?}");
}

#[test]
fn a_reload_with_a_bad_file_changes_nothing() {
    let loom = Loom::start();
    loom.unit("good.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    loom.ctl(["start", "good"]).success();
    let before = loom.main_pid("good");
    loom.write_unit("new.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    loom.write_unit("bad.service.toml", "[exec]\ncommand = \"sleep\"\n");
    let said = loom.ctl(["daemon-reload"]);
    assert_eq!(said.status, 4, "{said:?}");
    assert!(format!("{}{}", said.stdout, said.stderr).contains("bad.service.toml:2"), "{said:?}");
    assert_eq!(loom.ctl(["start", "new"]).status, 5, "nothing of a bad reload is in force");
    assert_eq!(loom.main_pid("good"), before);
}

#[test]
fn templates_drop_ins_and_specifiers_are_read() {
    let loom = Loom::start();
    loom.write_unit(
        "echo@.service.toml",
        "[exec]\ncommand = [\"sh\", \"-c\", \"echo instance %i of %p; sleep 1000\"]\n",
    );
    loom.write_unit("echo@.service.d/10-env.toml", "[unit]\ndescription = \"says %i\"\n");
    loom.ctl(["daemon-reload"]).success();
    loom.ctl(["start", "echo@seven.service"]).success();
    let view = loom.until_active("echo@seven.service");
    assert_eq!(view["description"], "says seven");
    loom_tests::until("it says its name", loom_tests::LIMIT, || {
        let said = loom.ctl(["logs", "echo@seven.service"]).stdout;
        if said.contains("instance seven of echo") { Ok(()) } else { Err(said) }
    });
    let cat = loom.ctl(["cat", "echo@seven.service"]).success().stdout;
    assert!(cat.contains("10-env.toml"), "{cat}");
}

#[test]
fn verify_exits_4_and_points_at_the_place() {
    let loom = Loom::new();
    loom.write_unit("bad.agent.toml", "[exec]\ncommand = [\"true\"]\n[restart]\npolicy = \"onfailure\"\n");
    let file = loom.path().join("units/bad.agent.toml");
    let said = loom.ctl(["verify", file.to_str().unwrap()]);
    assert_eq!(said.status, 4, "{said:?}");
    let words = format!("{}{}", said.stdout, said.stderr);
    assert!(words.contains("bad.agent.toml:4:10") && words.contains("on-failure"), "{words}");
}

#[test]
fn what_is_enabled_starts_with_its_target_and_what_is_masked_never() {
    let loom = Loom::start();
    loom.write_unit("all.target.toml", "");
    loom.unit("nap.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n[install]\nwanted_by = [\"all.target\"]\n");
    assert_eq!(loom.ctl(["is-enabled", "nap"]).status, 1);
    loom.ctl(["enable", "nap"]).success();
    assert_eq!(loom.ctl(["is-enabled", "nap"]).success().stdout.trim(), "enabled");
    loom.ctl(["start", "all.target"]).success();
    loom.until_active("nap");
    loom.ctl(["stop", "all.target"]).success();
    loom.ctl(["disable", "nap"]).success();
    loom.ctl(["start", "all.target"]).success();
    assert_ne!(loom.view("nap").unwrap()["active_state"], "active");
    loom.ctl(["mask", "--runtime", "nap"]).success();
    let said = loom.ctl(["start", "nap"]);
    assert!(said.status == 1 && said.stderr.contains("masked"), "{said:?}");
    loom.ctl(["unmask", "--runtime", "nap"]).success();
    loom.ctl(["start", "nap"]).success();
}

#[test]
fn an_edit_is_checked_before_it_is_in_place() {
    let loom = Loom::start();
    loom.unit("nap.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    let edit = |text: &str| {
        let mut asked = loom.ctl_child(["edit", "nap", "--stdin"]);
        std::io::Write::write_all(&mut asked.stdin.take().unwrap(), text.as_bytes()).unwrap();
        asked.wait().unwrap().code()
    };
    assert_eq!(edit("[stop]\ntimeout = 5\n"), Some(4));
    assert!(loom.ctl(["cat", "nap", "--effective"]).success().stdout.contains("timeout = \"30s\""));
    assert_eq!(edit("[stop]\ntimeout = \"5s\"\n"), Some(0));
    let effective = loom.ctl(["cat", "nap", "--effective"]).success().stdout;
    let line =
        effective.lines().find(|line| line.starts_with("timeout = \"5s\"")).unwrap_or_else(|| panic!("{effective}"));
    assert!(line.contains(".toml:2"), "each value names its file and line: {line}");
}
