//! One loomd becomes another in the same process; agents see nothing of it.

use loom_tests::{LIMIT, Loom, lives, until};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A loomd that can be replaced, with the other programs beside it.
fn own_programs(loom: &Loom) -> PathBuf {
    let bin = loom.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for name in ["loomd", "loom-launch", "loom-worker"] {
        std::fs::copy(loom_tests::program(name), bin.join(name)).unwrap();
    }
    bin
}

fn replace(bin: &Path, with: &Path) {
    let fresh = bin.join("loomd.new");
    std::fs::copy(with, &fresh).unwrap();
    std::fs::rename(fresh, bin.join("loomd")).unwrap();
}

/// Units in every state, and what each is to be again.
fn in_every_state(loom: &Loom) -> Vec<(&'static str, &'static str)> {
    loom.write_unit("up.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    loom.write_unit("failed.service.toml", "[exec]\ncommand = [\"sh\", \"-c\", \"exit 78\"]\n");
    loom.write_unit("down.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    loom.write_unit(
        "resting.service.toml",
        "[exec]\ncommand = [\"false\"]\n[restart]\npolicy = \"always\"\ndelay = \"30min\"\nmax_delay = \"1h\"\n",
    );
    loom.write_unit(
        "starting.service.toml",
        "[exec]\ncommand = [\"sleep\", \"1000\"]\n[ready]\ntype = \"notify\"\ntimeout = \"10min\"\n",
    );
    loom.write_unit(
        "stopping.service.toml",
        "[exec]\ncommand = [\"sh\", \"-c\", \"trap '' TERM; while :; do sleep 1; done\"]\n[stop]\ntimeout = \"10min\"\n",
    );
    loom.write_unit("stays.service.toml", "[exec]\ncommand = [\"true\"]\nremain_after_exit = true\n");
    loom.write_unit("all.target.toml", "[unit]\nwants = [\"up.service\"]\n");
    loom.ctl(["daemon-reload"]).success();
    for unit in ["up", "failed", "resting", "starting", "stopping", "stays", "all.target"] {
        loom.ctl(["start", unit, "--no-block"]).success();
    }
    loom.until_active("stopping");
    loom.until("it resists", "stopping", |view| {
        view["processes"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["command"].to_string().contains("sleep 1")))
    });
    loom.ctl(["stop", "stopping", "--no-block"]).success();
    vec![
        ("up.service", "active running"),
        ("failed.service", "failed failed"),
        ("down.service", "inactive dead"),
        ("resting.service", "activating auto-restart"),
        ("starting.service", "activating start"),
        ("stopping.service", "deactivating stop-sigterm"),
        ("stays.service", "active exited"),
        ("all.target", "active active"),
    ]
}

fn words(loom: &Loom, unit: &str) -> String {
    let view = loom.view(unit).unwrap_or_default();
    format!("{} {}", view["active_state"].as_str().unwrap_or("?"), view["sub_state"].as_str().unwrap_or("?"))
}

fn settle(loom: &Loom, wanted: &[(&'static str, &'static str)]) {
    for (unit, state) in wanted {
        until(&format!("{unit} is {state}"), LIMIT, || match words(loom, unit) {
            now if now == *state => Ok(()),
            now => Err(format!("{now}\n{}", loom.daemon_words())),
        });
    }
}

#[test]
fn a_new_program_takes_over_with_units_in_every_state() {
    let mut loom = Loom::new();
    let bin = own_programs(&loom);
    loom.use_programs(&bin);
    loom.start_daemon();
    let wanted = in_every_state(&loom);
    settle(&loom, &wanted);
    let facts = |loom: &Loom| -> Vec<_> {
        let one = |unit: &str| {
            loom.view(unit).map(|view| (view["main_pid"].clone(), view["run"].clone(), view["restarts"].clone()))
        };
        wanted.iter().map(|(unit, _)| one(unit)).collect()
    };
    let (before, daemon) = (facts(&loom), loom.daemon_pid());
    let due = loom.view("resting").unwrap()["next_start_in_ms"].as_u64().unwrap();
    for round in 0..3 {
        replace(&bin, &loom_tests::program("loomd"));
        loom.ctl(["daemon-reexec"]).success();
        assert!(lives(daemon), "the process stays");
        settle(&loom, &wanted);
        assert_eq!(facts(&loom), before, "round {round}: same processes, same runs");
    }
    let left = loom.view("resting").unwrap()["next_start_in_ms"].as_u64().unwrap();
    assert!(left <= due && left + 60_000 > due, "the wait goes on: {due} then {left}");
    // Ends are seen, not lost: they are children still.
    loom.kill_main("up");
    let view = loom.until("it came back", "up", |view| view["run"] == 2);
    assert_eq!(view["result"], "signal");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(loom.main_pid("stopping")), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
}

#[test]
fn a_program_that_would_not_start_is_refused_and_nothing_changes() {
    let mut loom = Loom::new();
    let bin = own_programs(&loom);
    loom.use_programs(&bin);
    loom.start_daemon();
    loom.unit("nap.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
    loom.ctl(["start", "nap"]).success();
    let pid = loom.main_pid("nap");
    let broken = bin.join("broken");
    std::fs::write(&broken, "#!/bin/sh\necho 'error: a library is missing' >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).unwrap();
    replace(&bin, &broken);
    let said = loom.ctl(["daemon-reexec"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.stderr.contains("a library is missing"), "{}", said.stderr);
    assert_eq!(loom.main_pid("nap"), pid);
}

#[test]
fn a_program_that_does_not_get_well_gives_way_to_the_one_before() {
    for how in ["abort", "panic", "fail", "hang"] {
        let mut loom = Loom::new();
        let bin = own_programs(&loom);
        loom.use_programs(&bin);
        loom.env("LOOM_TROUBLE", &format!("reexec.armed={how}"));
        loom.start_daemon();
        loom.unit("nap.service.toml", "[exec]\ncommand = [\"sleep\", \"1000\"]\n");
        loom.ctl(["start", "nap"]).success();
        let (pid, daemon) = (loom.main_pid("nap"), loom.daemon_pid());
        let said = loom.ctl(["daemon-reexec"]);
        assert_eq!(said.status, 1, "{how}: {said:?}");
        assert!(said.stderr.contains("the one before"), "{how}: {}", said.stderr);
        assert_eq!((loom.main_pid("nap"), loom.daemon_pid()), (pid, daemon), "{how}");
        // It is a whole supervisor again.
        loom.kill_main("nap");
        loom.until("a new run", "nap", |view| view["run"] == 2 && view["active_state"] == "active");
    }
}
