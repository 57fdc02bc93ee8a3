//! What runs beside a main process, and what it decides: conditions, helping processes, probes, handlers, groups.

use loom_tests::{LIMIT, Loom, until};
use serde_json::Value;

/// A program that stays until it is told to end, and notes signals and ends in its state directory.
const STAYS: &str = "trap 'echo hup >> $HOME/story' HUP; trap 'echo term >> $HOME/story; exit 0' TERM; echo main >> $HOME/story; \
                     while :; do sleep 0.05; done";

fn shell(script: &str) -> Value {
    serde_json::json!(["sh", "-c", script])
}

fn story(loom: &Loom, unit: &str) -> String {
    std::fs::read_to_string(loom.state_dir(unit).join("story")).unwrap_or_default().replace('\n', " ").trim().to_owned()
}

fn tells(loom: &Loom, unit: &str, wanted: &str) {
    until(&format!("the story is `{wanted}`"), LIMIT, || match story(loom, unit) {
        now if now == wanted => Ok(()),
        now => Err(format!("`{now}`\n{}", loom.daemon_words())),
    });
}

#[test]
fn helping_processes_run_in_order_with_the_facts_of_the_run() {
    let loom = Loom::start();
    loom.unit(
        "web.service.toml",
        &format!(
            "[exec]\ncommand = {}\nstart_pre = [{}, {}]\nreload = {}\n[stop]\ncommand = {}\npost = [{}]\n",
            shell(STAYS),
            shell("echo first >> $HOME/story"),
            serde_json::json!(["-sh", "-c", "echo second >> $HOME/story; exit 3"]),
            shell("kill -HUP $MAINPID"),
            shell("echo asked >> $HOME/story"),
            shell("echo post:$SERVICE_RESULT:$EXIT_CODE:$EXIT_STATUS >> $HOME/story"),
        ),
    );
    loom.ctl(["start", "web"]).success();
    tells(&loom, "web.service", "first second main");
    loom.ctl(["reload", "web"]).success();
    tells(&loom, "web.service", "first second main hup");
    loom.ctl(["stop", "web"]).success();
    tells(&loom, "web.service", "first second main hup asked term post:success:exited:0");
}

#[test]
fn a_start_pre_that_fails_fails_the_start_and_the_program_never_runs() {
    let loom = Loom::start();
    loom.unit(
        "web.service.toml",
        &format!("[exec]\ncommand = {}\nstart_pre = [{}]\n[restart]\npolicy = \"no\"\n", shell(STAYS), shell("exit 3")),
    );
    let said = loom.ctl(["start", "web"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.stderr.contains("start_pre"), "{}", said.stderr);
    assert_eq!(story(&loom, "web.service"), "");
    let view = loom.view("web").unwrap();
    assert_eq!((view["active_state"].as_str(), view["result"].as_str()), (Some("failed"), Some("exit-code")), "{view}");
}

#[test]
fn a_condition_that_does_not_hold_starts_nothing_and_is_no_failure() {
    let loom = Loom::start();
    let flag = loom.path().join("flag");
    loom.unit(
        "web.service.toml",
        &format!("[unit]\nconditions = [\"path-exists:{}\"]\n[exec]\ncommand = {}\n", flag.display(), shell(STAYS)),
    );
    loom.ctl(["start", "web"]).success();
    let view = loom.view("web").unwrap();
    assert_eq!(
        (view["active_state"].as_str(), view["result"].as_str()),
        (Some("inactive"), Some("condition")),
        "{view}"
    );
    std::fs::write(&flag, "").unwrap();
    loom.ctl(["start", "web"]).success();
    loom.until_active("web");
}

#[test]
fn a_liveness_probe_that_fails_ends_the_run_and_readiness_only_withholds_healthy() {
    let loom = Loom::start();
    let script = "touch $HOME/alive; while :; do sleep 0.05; done";
    loom.unit(
        "web.service.toml",
        &format!(
            "[exec]\ncommand = {}\n[restart]\ndelay = \"10ms\"\n\
             [health.liveness]\nexec = {}\nperiod = \"50ms\"\ntimeout = \"5s\"\nfailures = 2\n\
             [health.readiness]\ntcp = \"127.0.0.1:1\"\nperiod = \"50ms\"\ntimeout = \"5s\"\n",
            shell(script),
            shell("test -e $HOME/alive"),
        ),
    );
    loom.ctl(["start", "web"]).success();
    let view = loom.until_active("web");
    assert_ne!(view["healthy"], true, "nobody listens there: {view}");
    let alive = loom.state_dir("web.service").join("alive");
    until("it lives", LIMIT, || std::fs::metadata(&alive).map_err(|error| error.to_string()));
    std::fs::remove_file(&alive).unwrap();
    let view =
        loom.until("another run", "web", |view| view["run"].as_u64() >= Some(2) && view["active_state"] == "active");
    assert_eq!(view["result"], "liveness", "{view}");
}

#[test]
fn try_again_later_is_no_failure_however_often() {
    let loom = Loom::start();
    let often = "[restart]\ndelay = \"10ms\"\nfactor = 1.0\n";
    loom.write_unit("later.service.toml", &format!("[exec]\ncommand = {}\n{often}", shell("exit 75")));
    loom.unit("broken.service.toml", &format!("[exec]\ncommand = {}\n{often}", shell("exit 1")));
    for name in ["later", "broken"] {
        loom.ctl(["start", name]);
        loom.until("it was started again and again", name, |view| view["restarts"].as_u64() >= Some(8));
    }
    assert_eq!(loom.view("later").unwrap()["crash_looping"], false);
    assert_eq!(loom.view("broken").unwrap()["crash_looping"], true);
}

#[test]
fn a_failed_run_starts_its_handler() {
    let loom = Loom::start();
    loom.write_unit("alarm.service.toml", &format!("[exec]\ncommand = {}\n", shell(STAYS)));
    loom.unit(
        "web.service.toml",
        &format!(
            "[unit]\non_failure = [\"alarm.service\"]\n[exec]\ncommand = {}\n[restart]\npolicy = \"no\"\n",
            shell("exit 1")
        ),
    );
    loom.ctl(["start", "web"]);
    let view = loom.until_active("alarm");
    assert!(view["triggered_by"].as_str().unwrap().contains("web.service"), "{view}");
}

#[test]
fn one_for_all_restarts_every_member_when_one_dies() {
    let loom = Loom::start();
    for name in ["lead", "worker"] {
        loom.write_unit(
            &format!("{name}.service.toml"),
            &format!("[exec]\ncommand = {}\n[restart]\ndelay = \"10ms\"\njitter = 0.0\n", shell(STAYS)),
        );
    }
    loom.unit(
        "team.target.toml",
        "[group]\nmembers = [\"lead.service\", \"worker.service\"]\nstrategy = \"one-for-all\"\n",
    );
    loom.ctl(["start", "team.target"]).success();
    for name in ["lead", "worker"] {
        loom.until_active(name);
        tells(&loom, &format!("{name}.service"), "main");
    }
    loom.kill_main("lead");
    for name in ["lead", "worker"] {
        loom.until("a new run", name, |view| view["run"] == 2 && view["active_state"] == "active");
    }
    tells(&loom, "worker.service", "main term main");
}

#[test]
fn a_transient_unit_runs_and_leaves_nothing() {
    let loom = Loom::start();
    let said = loom.ctl(["run", "--wait", "--name", "once", "--", "sh", "-c", "exit 4"]);
    assert_ne!(said.status, 0, "{said:?}");
    loom.ctl(["run", "--name", "nap", "--", "sleep", "1000"]).success();
    loom.until_active("nap");
    loom.ctl(["stop", "nap"]).success();
    until("its file is gone", LIMIT, || match loom.view("nap") {
        None => Ok(()),
        Some(view) => Err(view.to_string()),
    });
}
