//! What a run is given, and what happens when the machine has nothing to give.

use super::*;
use loom_core::unit::PathGrant;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn file(path: &Path, optional: bool) -> PathGrant {
    PathGrant { path: path.to_str().unwrap().into(), optional, origin: "t.service.toml:3:1".into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_come_from_files_and_loomds_own_words_win() {
    let mut bench = Bench::new();
    let mut unit =
        bench.unit(&["sh", "-c", "echo $A $B $C $LOOM_RUN > $HOME/said"], "environment = { A = \"a\", B = \"b\" }");
    let (one, two) = (bench.place.path().join("one"), bench.place.path().join("two"));
    fs::write(&one, "B=one\nC='one c'\nLOOM_RUN=77\n").unwrap();
    fs::write(&two, "C=two\n").unwrap();
    let missing = bench.place.path().join("missing");
    unit.exec.as_mut().unwrap().environment_file = vec![file(&one, false), file(&two, true), file(&missing, true)];
    bench.start(&unit, 3).await;
    assert_eq!(bench.wait_for_file("said").await, "a one two 3\n");
    bench.next().await;
    bench.end(&unit.id, 3).await;
    unit.exec.as_mut().unwrap().environment_file = vec![file(&missing, false)];
    let failure = bench.spawn(&unit, 4).unwrap_err();
    let LaunchFailure::Resources(text) = &failure else { panic!("{failure:?}") };
    assert!(text.contains("/missing (t.service.toml:3:1): No such file"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pids_in_the_environment_are_the_programs_own() {
    let mut bench = Bench::new();
    let mut unit = bench.unit(&["sh", "-c", "echo $$ $WATCHDOG_PID $WATCHDOG_USEC > $HOME/said"], "");
    unit.watchdog.interval = Some(Millis(2500));
    let pid = bench.start(&unit, 1).await.pid;
    assert_eq!(bench.wait_for_file("said").await, format!("{pid} {pid} 2500000\n"));
    bench.next().await;
    bench.end(&unit.id, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_with_a_user_of_its_own_is_that_users_from_its_first_step() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let mut bench = Bench::new();
    // The way to the bench's directory is the test's own matter.
    fs::set_permissions(bench.place.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let script = "import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ['NOTIFY_SOCKET'])
s.send(b'READY=1')
open(os.environ['HOME'] + '/said', 'w').write('%d %s %s\\n' % (os.getuid(), os.environ['USER'], os.getgroups()))";
    let mut unit = bench.unit(&["/usr/bin/python3", "-c", script], "");
    if !Path::new("/usr/bin/python3").exists() {
        println!("skipped: needs /usr/bin/python3");
        return;
    }
    unit.exec.as_mut().unwrap().user = Some("nobody".into());
    bench.start(&unit, 1).await;
    assert!(matches!(bench.next().await, Event::Notified { notify, .. } if notify.ready), "{}", bench.log());
    let said = bench.wait_for_file("said").await;
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw();
    assert_eq!(said, format!("{nobody} nobody []\n"));
    assert_eq!(fs::metadata(bench.home()).unwrap().uid(), nobody);
    assert!(matches!(bench.next().await, Event::Exited { exit: Exit::Code(0), .. }));
    bench.end(&unit.id, 1).await;
    // And back again.
    unit.exec.as_mut().unwrap().user = None;
    bench.start(&unit, 2).await;
    assert!(matches!(bench.next().await, Event::Notified { .. }), "{}", bench.log());
    assert_eq!(fs::metadata(bench.home()).unwrap().uid(), 0);
    bench.next().await;
    bench.end(&unit.id, 2).await;
    unit.exec.as_mut().unwrap().user = Some("no-such-user".into());
    let failure = bench.spawn(&unit, 3).unwrap_err();
    assert_eq!(failure, LaunchFailure::Refused("there is no user `no-such-user` on this machine".into()));
}

/// Runs one test of this file again, alone in a process of its own.
fn in_a_process_of_its_own(test: &str) {
    // Where another user finds it, too: a home may be closed to others.
    let copies = tempfile::tempdir().unwrap();
    std::fs::set_permissions(copies.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::copy(super::libexec().join("loom-launch"), copies.path().join("loom-launch")).unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("starting::{test}"), "--nocapture", "--include-ignored"])
        .env("LOOM_TEST_ALONE", "1")
        .env("LOOM_TEST_LIBEXEC", copies.path())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn is_alone() -> bool {
    std::env::var_os("LOOM_TEST_ALONE").is_some()
}

#[test]
fn a_unit_that_cannot_be_started_for_want_of_descriptors_fails_alone() {
    if !is_alone() {
        return in_a_process_of_its_own("a_unit_that_cannot_be_started_for_want_of_descriptors_fails_alone");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut bench = Bench::new();
        let unit = bench.unit(&["sleep", "1000"], "");
        let main = bench.start(&unit, 1).await.pid;
        let mut other = bench.unit(&["true"], "");
        other.id = "other.service".parse().unwrap();
        bench.room.make_directories(&other.id).unwrap();
        // However many are left, a start succeeds or says why it did not, and nothing is left of it.
        let mut hoard: Vec<fs::File> = Vec::new();
        let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 200, hard).unwrap();
        while let Ok(file) = fs::File::open("/dev/null") {
            hoard.push(file);
        }
        let mut failures = 0;
        for run in 1..=40 {
            match bench.spawn(&other, run) {
                Err(LaunchFailure::Resources(text)) => {
                    assert!(text.contains("Too many open files") || text.contains("EMFILE"), "{text}");
                    failures += 1;
                }
                Err(other) => panic!("{other:?}"),
                Ok(_) => {
                    bench.room.open_gate(&other.id, RunId(run));
                    let mut ended = false;
                    while !ended {
                        ended = matches!(bench.next().await, Event::Exited { .. } | Event::LaunchFailed { .. });
                    }
                    bench.end(&other.id, run).await;
                }
            }
            hoard.pop();
            bench.room.children().reap_orphans();
        }
        assert!(failures > 5, "{failures}");
        assert!(lives(main), "the unit that ran goes on");
        drop(hoard);
        bench.start(&other, 41).await;
        assert!(matches!(bench.next().await, Event::Exited { exit: Exit::Code(0), .. }));
        bench.end(&other.id, 41).await;
        bench.end(&unit.id, 1).await;
        until("no child is left", || {
            bench.room.children().reap_orphans();
            own_children().is_empty().then_some(())
        })
        .await;
    });
}

#[test]
fn a_unit_that_cannot_be_forked_fails_alone() {
    if !is_alone() {
        return in_a_process_of_its_own("a_unit_that_cannot_be_forked_fails_alone");
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root, to become a user with no other process");
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let user = nix::unistd::Uid::from_raw(61_234);
    let path = place.path().canonicalize().unwrap();
    let unit = super::unit(&path, &["true"], "");
    let stack = vec![path.clone(), path.join("units")];
    for directory in stack {
        std::os::unix::fs::chown(&directory, Some(61_234), Some(61_234)).unwrap();
    }
    let machine = Machine { cgroup_v2: None, ..loomd::machine::probe() };
    // Of all threads, since none was made yet beside this one and the harness's.
    nix::unistd::setresuid(user, user, user).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (mut room, _events) = open_on(&path, machine);
        let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NPROC).unwrap();
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NPROC, 1, hard).unwrap();
        let failure = room.spawn(&unit, RunId(1), &facts(1)).unwrap_err();
        let LaunchFailure::Resources(text) = &failure else { panic!("{failure:?}") };
        assert!(text.contains("loom-launch") && text.contains("EAGAIN") || text.contains("temporarily"), "{text}");
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NPROC, hard, hard).unwrap();
        room.spawn(&unit, RunId(2), &facts(2)).unwrap();
        room.abandon(&unit.id, RunId(2));
    });
}
