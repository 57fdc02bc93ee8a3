//! Schedules: what the clock starts, through deaths, downtime and clocks that are set.

use crate::idle::until_no_thread_wakes;
use loom_tests::{LIMIT, Loom, until};
use nix::time::{ClockId, clock_gettime, clock_settime};
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};

/// Notes each run, and then waits for a file if there is to be one.
fn job(loom: &Loom, name: &str, waits: bool) {
    let wait = if waits { "; until [ -e %S/go ]; do sleep 0.05; done" } else { "" };
    let command = serde_json::json!(["sh", "-c", format!("echo ran >> %S/ran{wait}")]);
    loom.write_unit(
        &format!("{name}.service.toml"),
        &format!("[exec]\ncommand = {command}\n[ready]\ntype = \"oneshot\"\n[restart]\npolicy = \"no\"\n"),
    );
}

/// A schedule of a service of its name; on and active from here on.
fn schedule(loom: &Loom, name: &str, keys: &str) {
    loom.unit(&format!("{name}.schedule.toml"), &format!("[schedule]\nunit = \"{name}.service\"\n{keys}\n"));
    loom.ctl(["start", &format!("{name}.schedule")]).success();
}

fn view(loom: &Loom, name: &str) -> Value {
    loom.ctl(["list-timers", name, "--json"]).success().json()
}

#[track_caller]
fn until_schedule(loom: &Loom, what: &str, name: &str, test: impl Fn(&Value) -> bool) -> Value {
    until(what, LIMIT, || {
        let seen = view(loom, name);
        if test(&seen) { Ok(seen) } else { Err(format!("{seen}\n{}", loom.daemon_words())) }
    })
}

fn number(view: &Value, key: &str) -> u64 {
    view["schedule"][key].as_u64().unwrap_or_else(|| panic!("no {key}: {view}"))
}

fn ran(loom: &Loom, name: &str) -> u64 {
    let text = std::fs::read_to_string(loom.state_dir(&format!("{name}.service")).join("ran")).unwrap_or_default();
    text.lines().count() as u64
}

fn firings(view: &Value) -> Vec<Value> {
    view["firings"].as_array().unwrap().clone()
}

#[test]
fn an_interval_starts_its_unit_again_and_again_until_it_is_stopped() {
    let loom = Loom::start();
    job(&loom, "tick", false);
    job(&loom, "tock", false);
    schedule(&loom, "tick", "every = \"200ms\"");
    let seen = until_schedule(&loom, "three runs ended well", "tick", |view| {
        firings(view).iter().filter(|firing| firing["state"] == "finished").count() >= 3
    });
    let runs: Vec<u64> = firings(&seen).iter().filter_map(|firing| firing["run"].as_u64()).collect();
    assert!(runs.windows(2).all(|pair| pair[0] < pair[1]), "each firing has a run of its own: {seen}");
    let unit = loom.view("tick.service").unwrap();
    assert!(unit["triggered_by"].as_str().unwrap().starts_with("tick.schedule/"), "{unit}");
    let shown = loom.view("tick.schedule").unwrap();
    assert_eq!((&shown["active_state"], &shown["sub_state"]), (&"active".into(), &"waiting".into()), "{shown}");
    assert!(loom.ctl(["list-timers"]).success().stdout.contains("every 200 ms"));

    loom.ctl(["stop", "tick.schedule"]).success();
    let before = until("its last run is over", LIMIT, || match view(&loom, "tick") {
        view if number(&view, "open") == 0 => Ok(number(&view, "fired")),
        view => Err(view.to_string()),
    });
    schedule(&loom, "tock", "every = \"200ms\"");
    until_schedule(&loom, "another one goes on", "tock", |view| number(view, "fired") >= 3);
    let after = view(&loom, "tick");
    assert_eq!((number(&after, "fired"), ran(&loom, "tick")), (before, before), "a stopped schedule fired: {after}");
    assert_eq!(after["schedule"]["state"], "inactive", "{after}");
}

#[test]
fn a_crash_between_record_and_start_leaves_one_run_for_each_slot() {
    for place in ["timers.recorded:2", "timers.started:2"] {
        let mut loom = Loom::new();
        loom.env("LOOM_FAULT", place);
        loom.start_daemon();
        job(&loom, "tick", false);
        loom.unit("tick.schedule.toml", "[schedule]\nunit = \"tick.service\"\nevery = \"1s\"\n");
        loom.ctl(["start", "tick.schedule"]).success();
        until(place, LIMIT, || if loom.daemon_is_dead() { Ok(()) } else { Err(loom.daemon_words()) });
        loom.bury_daemon();
        loom.env("LOOM_FAULT", "");
        loom.start_daemon();
        until_schedule(&loom, "the interrupted slot had its run", "tick", |view| {
            firings(view).iter().any(|firing| firing["attempt"] == 1 && firing["state"] == "finished")
        });
        loom.ctl(["stop", "tick.schedule"]).success();
        let seen = until_schedule(&loom, "all runs are over", "tick", |view| number(view, "open") == 0);
        let interrupted: Vec<Value> =
            firings(&seen).into_iter().filter(|firing| firing["state"] == "interrupted").collect();
        assert_eq!(interrupted.len(), 1, "{place}: {seen}");
        assert_eq!(interrupted[0]["run"], Value::Null, "{place}: {seen}");
        let of_slot = |state: &str| {
            let of = |firing: &&Value| firing["slot"] == interrupted[0]["slot"] && firing["state"] == state;
            firings(&seen).iter().filter(of).count()
        };
        assert_eq!((of_slot("interrupted"), of_slot("finished")), (1, 1), "{place}: {seen}");
        assert_eq!(ran(&loom, "tick"), number(&seen, "fired") - 1, "{place}: one run for each slot: {seen}");
    }
}

#[test]
fn a_firing_closes_with_its_run_though_loomd_was_replaced_meanwhile() {
    let mut loom = Loom::start();
    job(&loom, "slow", true);
    schedule(&loom, "slow", "every = \"1h\"");
    loom.ctl(["fire", "slow"]).success();
    let open = until_schedule(&loom, "its run began", "slow", |view| firings(view)[0]["run"] == 1);
    assert_eq!((&open["schedule"]["state"], ran(&loom, "slow").min(1)), (&"running".into(), ran(&loom, "slow")));
    loom.kill_daemon();
    loom.start_daemon();
    let still = view(&loom, "slow");
    assert_eq!((&firings(&still)[0]["state"], &firings(&still)[0]["run"]), (&"started".into(), &1.into()), "{still}");
    let refused = loom.ctl(["fire", "slow"]);
    assert!(refused.status == 1 && refused.stderr.contains("still runs"), "{refused:?}");
    std::fs::write(loom.state_dir("slow.service").join("go"), "").unwrap();
    let closed = until_schedule(&loom, "it is over", "slow", |view| firings(view)[0]["state"] == "finished");
    assert_eq!((firings(&closed).len(), ran(&loom, "slow")), (1, 1), "{closed}");
}

#[test]
fn after_downtime_one_run_makes_up_for_all_that_was_missed() {
    let mut loom = Loom::start();
    job(&loom, "hourly", false);
    // Half an hour away from now, so that no slot comes while this test runs.
    let minutes = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 60;
    schedule(&loom, "hourly", &format!("cron = \"{} * * * *\"\ntimezone = \"UTC\"", (minutes + 30) % 60));
    job(&loom, "never", false);
    let keys = format!("cron = \"{} * * * *\"\ntimezone = \"UTC\"\npersistent = false", (minutes + 30) % 60);
    schedule(&loom, "never", &keys);
    loom.kill_daemon();
    loom.env("LOOM_CLOCK_AHEAD_MS", &(10 * 3_600_000_u64).to_string());
    loom.start_daemon();
    let seen =
        until_schedule(&loom, "it caught up", "hourly", |view| number(view, "open") == 0 && number(view, "fired") > 0);
    let all = firings(&seen);
    assert_eq!((number(&seen, "fired"), number(&seen, "missed"), ran(&loom, "hourly")), (1, 10, 1), "{seen}");
    let firing = (&all[0]["cause"], &all[0]["missed"], &all[0]["state"]);
    assert_eq!(firing, (&"catch-up".into(), &10.into(), &"finished".into()), "{seen}");
    let not = view(&loom, "never");
    assert_eq!((number(&not, "fired"), number(&not, "missed")), (0, 10), "{not}");
    // A life later nothing is left to make up for.
    loom.kill_daemon();
    loom.start_daemon();
    let again = view(&loom, "hourly");
    assert_eq!((number(&again, "fired"), number(&again, "missed")), (1, 10), "{again}");
}

#[test]
fn a_clock_that_is_set_ends_the_wait_and_fires_nothing_twice() {
    let loom = Loom::start();
    job(&loom, "daily", false);
    schedule(&loom, "daily", "cron = \"@yearly\"\nevery = \"1d\"");
    loom.ctl(["fire", "daily"]).success();
    until_schedule(&loom, "it ran", "daily", |view| number(view, "fired") == 1 && number(view, "open") == 0);
    let next = view(&loom, "daily")["schedule"]["next"].clone();
    let now = clock_gettime(ClockId::CLOCK_REALTIME).unwrap();
    if let Err(error) = clock_settime(ClockId::CLOCK_REALTIME, now) {
        println!("skipped: needs the right to set the clock: {error}");
        return;
    }
    until("the timer was cancelled", LIMIT, || {
        let words = loom.daemon_words();
        if words.contains("the clock was set") { Ok(()) } else { Err(words) }
    });
    let after = view(&loom, "daily");
    assert_eq!((number(&after, "fired"), number(&after, "missed"), ran(&loom, "daily")), (1, 0, 1), "{after}");
    let moved = after["schedule"]["next"].as_u64().unwrap().abs_diff(next.as_u64().unwrap());
    assert!(moved < 1_000, "the next elapse moved by {moved} ms: {after}");
}

#[test]
fn a_slot_that_meets_a_run_is_skipped_counted_and_shown() {
    let loom = Loom::start();
    job(&loom, "slow", true);
    schedule(&loom, "slow", "every = \"200ms\"");
    let seen = until_schedule(&loom, "two slots were skipped", "slow", |view| number(view, "skipped") >= 2);
    assert_eq!((number(&seen, "fired"), ran(&loom, "slow")), (1, 1), "{seen}");
    let table = loom.ctl(["list-timers"]).success().stdout;
    assert!(table.contains("SKIPPED") && table.contains("running"), "{table}");
    std::fs::write(loom.state_dir("slow.service").join("go"), "").unwrap();
    until_schedule(&loom, "the next slot is run", "slow", |view| number(view, "fired") >= 2);
}

#[test]
fn a_storm_fails_the_schedule_and_not_its_unit() {
    let loom = Loom::start();
    job(&loom, "storm", false);
    schedule(&loom, "storm", "every = \"100ms\"\nlimit_burst = 3\nlimit_interval = \"1h\"");
    let failed = loom.until("the schedule failed", "storm.schedule", |view| view["active_state"] == "failed");
    assert_eq!(failed["result"], "start-limit-hit", "{failed}");
    assert!(failed["last_error"].as_str().unwrap().contains("3 times"), "{failed}");
    assert_eq!(view(&loom, "storm")["schedule"]["state"], "failed");
    loom.until("its unit is as its last run left it", "storm.service", |view| view["active_state"] == "inactive");
    assert_eq!(ran(&loom, "storm"), 3);
    loom.ctl(["start", "storm.schedule"]).success();
    until_schedule(&loom, "a person's start forgives", "storm", |view| number(view, "fired") >= 4);
}

#[test]
fn slots_side_by_side_each_have_an_instance() {
    let loom = Loom::start();
    job(&loom, "many@", true);
    let text = "[schedule]\nunit = \"many@.service\"\nevery = \"300ms\"\noverlap = \"parallel\"\n";
    loom.unit("many.schedule.toml", text);
    loom.ctl(["start", "many.schedule"]).success();
    let seen = until_schedule(&loom, "two run at once", "many", |view| {
        firings(view).iter().filter(|firing| firing["state"] == "started" && firing["run"] == 1).count() >= 2
    });
    loom.ctl(["stop", "many.schedule"]).success();
    for firing in firings(&seen) {
        let unit = firing["unit"].as_str().unwrap();
        assert_eq!(unit, format!("many@{}.service", firing["slot"]), "{seen}");
        std::fs::create_dir_all(loom.state_dir(unit)).unwrap();
    }
    until_schedule(&loom, "all are over", "many", |view| {
        for firing in firings(view) {
            let place = loom.state_dir(firing["unit"].as_str().unwrap());
            let _ = std::fs::create_dir_all(&place).and_then(|()| std::fs::write(place.join("go"), ""));
        }
        number(view, "open") == 0
    });
}

#[test]
fn a_schedule_that_waits_wakes_nobody() {
    let loom = Loom::start();
    job(&loom, "later", false);
    schedule(&loom, "later", "cron = \"@yearly\"\nevery = \"30d\"\nrandomized_delay = \"1h\"");
    until_no_thread_wakes(&loom);
}

#[test]
fn only_a_schedule_that_is_active_fires() {
    let loom = Loom::start();
    job(&loom, "rest", false);
    loom.unit("rest.schedule.toml", "[schedule]\nunit = \"rest.service\"\nevery = \"1h\"\n");
    let refused = loom.ctl(["fire", "rest"]);
    assert!(refused.status == 1 && refused.stderr.contains("not active"), "{refused:?}");
    assert_eq!(loom.ctl(["fire", "nobody"]).status, 5);
    let listed = loom.ctl(["list-schedules", "--json"]).success().json();
    assert_eq!(listed["schedules"][0]["state"], "inactive", "{listed}");
    assert_eq!(listed["schedules"][0]["unit"], "rest.service", "{listed}");
    // What is enabled comes up with its target.
    loom.unit("all.target.toml", "[unit]\nwants = [\"rest.schedule\"]\n");
    loom.ctl(["start", "all.target"]).success();
    loom.until_active("rest.schedule");
    loom.ctl(["fire", "rest"]).success();
    until_schedule(&loom, "it ran", "rest", |view| number(view, "fired") == 1 && number(view, "open") == 0);
    assert_eq!(ran(&loom, "rest"), 1);
}

#[test]
fn an_agent_that_serves_has_each_slot_in_its_mailbox() {
    let loom = Loom::start();
    loom.python_agent("keeper", "triggered.py", "");
    loom.unit("daily.schedule.toml", "[schedule]\nunit = \"keeper.agent\"\ncron = \"@yearly\"\n");
    loom.ctl(["start", "daily.schedule"]).success();
    let heard = |count: usize| {
        until("the agent heard of it", LIMIT, || {
            let said = loom.ctl(["state", "get", "keeper", "heard"]);
            let list: Vec<Value> = serde_json::from_str(&said.stdout).unwrap_or_default();
            if list.len() == count { Ok(list) } else { Err(format!("{said:?}\n{}", loom.daemon_words())) }
        })
    };
    loom.ctl(["fire", "daily"]).success();
    let first = &heard(1)[0];
    let seen = until_schedule(&loom, "it is handed over", "daily", |view| number(view, "open") == 0);
    let firing = &firings(&seen)[0];
    assert_eq!((&first["id"], &first["source"]), (&firing["firing"], &"schedule".into()), "{first}");
    assert_eq!((&first["trigger"], &first["schedule"]["missed"]), (&"daily.schedule".into(), &0.into()), "{first}");
    assert_eq!((&firing["state"], &firing["run"]), (&"finished".into(), &1.into()), "{seen}");
    // It is up and takes the next one as well.
    let pid = loom.main_pid("keeper");
    loom.ctl(["fire", "daily"]).success();
    heard(2);
    assert_eq!(loom.main_pid("keeper"), pid);
    until_schedule(&loom, "this one too", "daily", |view| number(view, "fired") == 2 && number(view, "open") == 0);
}
