//! Processes that help a unit's main process, and conditions of its start.

use super::*;
use loom_core::lifecycle::{Control, Controlled, RunResult};
use loom_core::unit::{Check, Condition, Probe, Test};
use loomd::process::RunEnd;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

const PASSED: Controlled = Controlled::Exited(Exit::Code(0));

impl Bench {
    fn help(&mut self, unit: &Unit, run: u64, control: Control) {
        self.room.run_control(unit, control, &facts(run), None).unwrap();
    }

    async fn helped(&mut self, unit: &Unit, run: u64, control: Control) -> Controlled {
        match self.next().await {
            Event::Controlled { unit: whose, run: of, control: which, end } => {
                assert_eq!((&whose, of, which), (&unit.id, RunId(run), control));
                end
            }
            other => panic!("{other:?}"),
        }
    }
}

fn exec(unit: &mut Unit) -> &mut loom_core::unit::Exec {
    unit.exec.as_mut().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_command_knows_the_main_process_and_has_the_units_environment() {
    for mut bench in Bench::with_and_without_cgroup() {
        let mut unit = bench.unit(
            &["sh", "-c", "trap 'echo got > $HOME/hup' HUP; echo set > $HOME/set; while :; do sleep 0.05; done"],
            "environment = { MODE = \"test\" }",
        );
        let words_of =
            "echo $MAINPID $MODE $LOOM_UNIT $LOOM_RUN ${LOOM_TOKEN_FD:-none} > $HOME/said; kill -HUP $MAINPID";
        exec(&mut unit).reload = Some(words(&["sh", "-c", words_of]));
        let main = bench.start(&unit, 4).await;
        bench.wait_for_file("set").await;
        bench.help(&unit, 4, Control::Reload);
        assert_eq!(bench.helped(&unit, 4, Control::Reload).await, PASSED, "{}", bench.log());
        assert_eq!(bench.wait_for_file("said").await, format!("{} test t.service 4 none\n", main.pid));
        assert_eq!(bench.wait_for_file("hup").await, "got\n");
        assert!(lives(main.pid));
        bench.end(&unit.id, 4).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_first_prepares_the_run_and_what_runs_last_knows_how_it_ended() {
    for mut bench in Bench::with_and_without_cgroup() {
        let mut unit = bench.unit(&["sh", "-c", "cat $TMPDIR/made > $HOME/seen; exit 7"], "");
        exec(&mut unit).start_pre = vec![words(&["-sh", "-c", "echo made > $TMPDIR/made"]), words(&["false"])];
        unit.stop.post =
            vec![words(&["sh", "-c", "echo $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS ${MAINPID:-none} > $HOME/post"])];
        bench.help(&unit, 1, Control::StartPre(0));
        assert_eq!(bench.helped(&unit, 1, Control::StartPre(0)).await, PASSED, "{}", bench.log());
        bench.help(&unit, 1, Control::StartPre(1));
        assert_eq!(bench.helped(&unit, 1, Control::StartPre(1)).await, Controlled::Exited(Exit::Code(1)));
        bench.start(&unit, 1).await;
        assert!(matches!(bench.next().await, Event::Exited { exit: Exit::Code(7), .. }));
        assert_eq!(bench.wait_for_file("seen").await, "made\n");
        bench.end(&unit.id, 1).await;
        let ended = RunEnd { result: RunResult::ExitCode, exit: Some(Exit::Code(7)) };
        bench.room.run_control(&unit, Control::StopPost(0), &facts(1), Some(ended)).unwrap();
        assert_eq!(bench.helped(&unit, 1, Control::StopPost(0)).await, PASSED, "{}", bench.log());
        assert_eq!(bench.wait_for_file("post").await, "exit-code exited 7 none\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_helping_process_that_hangs_is_ended_with_all_it_started_and_nothing_else_is() {
    loomd::process::Children::become_subreaper().unwrap();
    for mut bench in Bench::with_and_without_cgroup() {
        let mut unit = bench.unit(&["sh", "-c", "sleep 1000 & echo $! > $HOME/child; wait"], "");
        let hangs = "(setsid sleep 1001 & echo $! > $HOME/stray); sleep 1002 & echo $! > $HOME/own; trap '' TERM; wait";
        exec(&mut unit).reload = Some(words(&["sh", "-c", hangs]));
        unit.stop.command = Some(words(&["true"]));
        let main = bench.start(&unit, 1).await.pid;
        let child: i32 = bench.wait_for_file("child").await.trim().parse().unwrap();
        bench.help(&unit, 1, Control::Reload);
        let stray: i32 = bench.wait_for_file("stray").await.trim().parse().unwrap();
        let own: i32 = bench.wait_for_file("own").await.trim().parse().unwrap();
        assert!(bench.room.peers().processes(&unit.id).iter().any(|(pid, _)| *pid == own));
        // Another goes on beside it.
        bench.help(&unit, 1, Control::Stop);
        assert_eq!(bench.helped(&unit, 1, Control::Stop).await, PASSED);
        bench.room.end_control(&unit.id, RunId(1), Control::Reload);
        let killed = Controlled::Exited(Exit::Signal { signal: 9, core: false });
        assert_eq!(bench.helped(&unit, 1, Control::Reload).await, killed);
        assert!(!lives(stray) && !lives(own), "{stray} or {own} outlived the reload");
        assert!(lives(main) && lives(child));
        bench.end(&unit.id, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_run_is_left_while_a_helping_process_of_it_is() {
    loomd::process::Children::become_subreaper().unwrap();
    for mut bench in Bench::with_and_without_cgroup() {
        let mut unit = bench.unit(&["sleep", "1000"], "");
        exec(&mut unit).reload = Some(words(&["sh", "-c", "echo $$ > $HOME/reload; exec sleep 1001"]));
        bench.start(&unit, 1).await;
        bench.help(&unit, 1, Control::Reload);
        let reload: i32 = bench.wait_for_file("reload").await.trim().parse().unwrap();
        assert!(!bench.room.end_tree(&unit.id, RunId(1), TreeEnd::Kill));
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.push(match bench.next().await {
                Event::Exited { .. } => "exited",
                Event::Controlled { .. } => "controlled",
                Event::TreeEmpty { .. } => {
                    assert!(!lives(reload));
                    "empty"
                }
                other => panic!("{other:?}"),
            });
        }
        assert!(seen.contains(&"controlled") && seen.contains(&"exited") && seen.contains(&"empty"), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_not_there_fails_alone() {
    let mut bench = Bench::new();
    let mut unit = bench.unit(&["sleep", "1000"], "");
    exec(&mut unit).reload = Some(words(&["/no/such/reload"]));
    let main = bench.start(&unit, 1).await.pid;
    let failure = bench.room.run_control(&unit, Control::Reload, &facts(1), None).unwrap_err();
    assert!(matches!(&failure, LaunchFailure::Resources(text) if text.contains("/no/such/reload")), "{failure:?}");
    assert!(lives(main));
    bench.end(&unit.id, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_ask_from_within_the_sandbox_and_reach_only_what_they_ask() {
    let mut bench = Bench::new();
    let mut unit = bench.unit(&["sleep", "1000"], "");
    bench.start(&unit, 1).await;
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let http_port = http.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (stream, answer) in http.incoming().zip(["HTTP/1.1 204 Fine\r\n\r\n", "HTTP/1.1 503 Busy\r\n\r\n"]) {
            use std::io::{Read, Write};
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let path = bench.home().join("s.sock");
    let _unix = UnixListener::bind(&path).unwrap();
    let http =
        || Check::Http { url: format!("http://localhost:{http_port}/"), host: "localhost".into(), port: http_port };
    let checks = [
        (Check::Tcp { host: "127.0.0.1".into(), port }, true),
        (http(), true),
        (http(), false),
        (Check::Unix(path.to_str().unwrap().into()), true),
        (Check::Unix("/no/such/socket".into()), false),
        (Check::Exec(words(&["sh", "-c", "exit 0"])), true),
        (Check::Exec(words(&["sh", "-c", "exit 3"])), false),
        (Check::Tcp { host: "10.0.0.1".into(), port }, false),
    ];
    for (check, passes) in checks {
        let probe = Probe { check, period: Millis(1000), timeout: Millis(1000), failures: 1, successes: 1 };
        unit.health.liveness = Some(probe.clone());
        bench.help(&unit, 1, Control::Liveness);
        let end = bench.helped(&unit, 1, Control::Liveness).await;
        assert!(matches!(end, Controlled::Exited(Exit::Code(_))), "{probe:?}: {end:?} {}", bench.log());
        assert_eq!(end == PASSED, passes, "{probe:?}: {end:?} {}", bench.log());
    }
    assert!(bench.log().contains("status 503; 200 to 399 pass"), "{}", bench.log());
    bench.end(&unit.id, 1).await;
}

#[test]
fn helping_processes_of_a_loomd_that_died_are_ended_by_the_next() {
    for without_cgroup in [false, true] {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let machine = loomd::machine::probe();
        let machine = if without_cgroup { Machine { cgroup_v2: None, ..machine } } else { machine };
        let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut unit = super::unit(&place, &["sleep", "1000"], "");
        exec(&mut unit).start_pre = vec![words(&["sh", "-c", "sleep 1001 & echo $! $$ > $HOME/pids; wait"])];
        let first = runtime();
        let pids = first.block_on(async {
            let (mut room, _events) = open_on(&place, machine.clone());
            room.run_control(&unit, Control::StartPre(0), &facts(1), None).unwrap();
            let file = place.join("s/units/t.service/pids");
            until("it runs", || fs::read_to_string(&file).ok().filter(|text| text.ends_with('\n'))).await
        });
        first.shutdown_timeout(LIMIT);
        let pids: Vec<i32> = pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
        assert!(pids.iter().all(|pid| lives(*pid)), "they outlive their loomd");
        runtime().block_on(async {
            let (room, _events) = open_on(&place, machine);
            until("both are gone", || pids.iter().all(|pid| !lives(*pid)).then_some(())).await;
            room.children().reap_orphans();
            room.tidy();
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_are_looked_at_and_the_first_unmet_is_told() {
    let mut bench = Bench::new();
    let mut unit = bench.unit(&["true"], "");
    let condition = |text: &str, path: &str| Condition {
        negated: text.starts_with('!'),
        test: Test::PathExists(path.into()),
        text: text.into(),
    };
    for (conditions, want) in [
        (vec![], None),
        (vec![condition("path-exists:/", "/")], None),
        (vec![condition("path-exists:/", "/"), condition("!path-exists:/", "/")], Some("!path-exists:/".to_owned())),
    ] {
        unit.conditions = conditions;
        bench.room.check(&unit, RunId(1));
        assert_eq!(bench.next().await, Event::Checked { unit: unit.id.clone(), run: RunId(1), unmet: want });
    }
}
