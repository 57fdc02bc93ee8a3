//! The process room with the real launcher: what becomes of runs, and what is left of them.

#![allow(clippy::unwrap_used)]

#[path = "process/ending.rs"]
mod ending;
#[path = "process/helping.rs"]
mod helping;
#[path = "process/notify.rs"]
mod notify;
#[path = "process/starting.rs"]
mod starting;

use loom_core::fleet::{Event, Found};
use loom_core::ids::{Millis, RunId, UnitId};
use loom_core::launch_plan::Stage;
use loom_core::lifecycle::{Exit, Identity, LaunchFailure, TreeEnd};
use loom_core::machine::Machine;
use loom_core::unit::{NotifyAccess, RunFacts, Unit, load_all};
use loomd::process::{Room, Settings, Spawned, boot_id};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// For anything that must happen at all.
const LIMIT: Duration = Duration::from_secs(20);

struct Bench {
    place: tempfile::TempDir,
    room: Room,
    events: mpsc::Receiver<Event>,
}

/// Binaries lie beside loomd's. `cargo build -p loom-launch` makes the one needed here.
fn libexec() -> PathBuf {
    if let Some(copies) = std::env::var_os("LOOM_TEST_LIBEXEC") {
        return PathBuf::from(copies);
    }
    let dir = Path::new(env!("CARGO_BIN_EXE_loomd")).parent().unwrap().to_path_buf();
    assert!(dir.join("loom-launch").exists(), "build it first: cargo build -p loom-launch");
    dir
}

fn open(place: &Path) -> (Room, mpsc::Receiver<Event>) {
    open_on(place, loomd::machine::probe())
}

fn open_on(place: &Path, machine: Machine) -> (Room, mpsc::Receiver<Event>) {
    let (sender, events) = mpsc::channel(4096);
    let log = place.join("log");
    let settings = Settings {
        runtime_dir: place.join("r"),
        state_dir: place.join("s"),
        protected: vec![place.join("r"), place.join("s")],
        home: None,
        libexec: libexec(),
        machine,
        boot_id: boot_id().unwrap(),
        log_word: "stderr",
        open_log: Box::new(move |_, _| -> io::Result<OwnedFd> {
            Ok(fs::OpenOptions::new().append(true).create(true).open(&log)?.into())
        }),
    };
    (Room::open(settings, sender), events)
}

impl Bench {
    fn new() -> Self {
        Self::on(loomd::machine::probe())
    }

    fn on(machine: Machine) -> Self {
        let place = tempfile::tempdir().unwrap();
        let (room, events) = open_on(&place.path().canonicalize().unwrap(), machine);
        Self { place, room, events }
    }

    /// Trees are found by cgroup where there is one, and by walking where there is none.
    fn with_and_without_cgroup() -> Vec<Self> {
        let machine = loomd::machine::probe();
        let without = Machine { cgroup_v2: None, ..machine.clone() };
        if machine.cgroup_v2.is_none() {
            println!("skipped: needs a writable cgroup v2 directory");
            return vec![Self::on(without)];
        }
        vec![Self::on(machine), Self::on(without)]
    }

    fn unit(&self, command: &[&str], more: &str) -> Unit {
        unit(self.place.path(), command, more)
    }

    fn spawn(&mut self, unit: &Unit, run: u64) -> Result<Spawned, LaunchFailure> {
        self.room.spawn(unit, RunId(run), &facts(run))
    }

    /// Starts a run and waits until its program is executed.
    async fn start(&mut self, unit: &Unit, run: u64) -> Identity {
        let spawned = self.spawn(unit, run).unwrap();
        self.room.open_gate(&unit.id, RunId(run));
        let event = self.next().await;
        let executed = Event::Executed { unit: unit.id.clone(), run: RunId(run) };
        assert_eq!(event, executed, "{}", self.log());
        spawned.identity
    }

    async fn next(&mut self) -> Event {
        let event = tokio::time::timeout(LIMIT, self.events.recv()).await;
        let event = event.unwrap_or_else(|_| panic!("nothing happened; log: {}", self.log())).unwrap();
        if let Event::Exited { unit, run, .. } | Event::LaunchFailed { unit, run, .. } = &event {
            self.room.told(unit, *run);
        }
        if let Event::Notified { unit, .. } | Event::MainProcess { unit, .. } = &event {
            self.room.heard(unit);
        }
        event
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    /// Ends a run's tree and waits until it is empty; gives the exit, if the main process lived.
    async fn end(&mut self, unit: &UnitId, run: u64) -> Option<Exit> {
        let mut exit = None;
        if self.room.end_tree(unit, RunId(run), TreeEnd::Kill) {
            return exit;
        }
        loop {
            match self.next().await {
                Event::Exited { exit: how, .. } => exit = Some(how),
                Event::TreeEmpty { .. } => return exit,
                other => panic!("{other:?}"),
            }
        }
    }

    fn home(&self) -> PathBuf {
        self.place.path().canonicalize().unwrap().join("s/units/t.service")
    }

    fn notify_socket(&self) -> PathBuf {
        self.place.path().canonicalize().unwrap().join("r/units/t.service/notify.sock")
    }

    async fn wait_for_file(&self, name: &str) -> String {
        let path = self.home().join(name);
        until(&format!("{} is written", path.display()), || {
            fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'))
        })
        .await
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.room.tidy();
    }
}

/// A checked unit, the same way as loomd makes one.
fn unit(place: &Path, command: &[&str], more: &str) -> Unit {
    let units = place.join("units");
    fs::create_dir_all(&units).unwrap();
    // A percent sign would begin a specifier.
    let words: Vec<String> = command.iter().map(|word| format!("{:?}", word.replace('%', "%%"))).collect();
    let open = "allow_unenforced = [\"files\", \"processes\", \"kernel\", \"hosts\", \"sockets\", \"limits\"]";
    let text = format!("[exec]\ncommand = [{}]\n{more}\n[sandbox]\n{open}\n", words.join(", "));
    fs::write(units.join("t.service.toml"), text).unwrap();
    let path = [units];
    let facts = loom_api::unit_files::facts(&place.join("r"), &place.join("s"), &path);
    let catalogue = load_all(&loom_api::unit_files::read(&path), &facts, None);
    assert!(!catalogue.has_errors(), "{:?}", catalogue.problems);
    catalogue.units.into_values().next().unwrap()
}

fn facts(run: u64) -> RunFacts {
    RunFacts { run: RunId(run), restarts: 0, last_result: None, last_exit: None }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Waits for a condition on state, with a limit.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|text| !text.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

fn own_children() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .flatten()
        .flat_map(|task| {
            let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exit_is_told_as_it_was_and_for_its_run() {
    let mut bench = Bench::new();
    let (run, ends) = (RunId(3), [("exit 7", Exit::Code(7)), ("kill -9 $$", Exit::Signal { signal: 9, core: false })]);
    for (script, exit) in ends {
        let unit = bench.unit(&["sh", "-c", script], "");
        bench.start(&unit, 3).await;
        assert_eq!(bench.next().await, Event::Exited { unit: unit.id.clone(), run, exit });
        assert!(bench.room.end_tree(&unit.id, run, TreeEnd::Kill), "nothing is left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_runs_before_its_gate_is_opened() {
    let mut bench = Bench::new();
    let unit = bench.unit(&["sh", "-c", "echo ran > $HOME/ran"], "");
    let spawned = bench.spawn(&unit, 1).unwrap();
    assert!(lives(spawned.identity.pid));
    bench.room.refuse_gate(&unit.id, RunId(1), "the disk is full");
    let failure = LaunchFailure::Resources("the disk is full".into());
    assert_eq!(bench.next().await, Event::LaunchFailed { unit: unit.id.clone(), run: RunId(1), failure });
    assert!(!lives(spawned.identity.pid));
    assert!(!bench.place.path().join("s/units/t.service/ran").exists());
    bench.start(&unit, 2).await;
    assert_eq!(bench.wait_for_file("ran").await, "ran\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fails_says_at_which_stage_and_of_what() {
    let mut bench = Bench::new();
    let mut unit = bench.unit(&["sh", "-c", "true"], "");
    unit.exec.as_mut().unwrap().command[0] = "/no/such/program".into();
    let failure = bench.spawn(&unit, 1).unwrap_err();
    assert!(matches!(&failure, LaunchFailure::Resources(text) if text.contains("/no/such/program")), "{failure:?}");
    let mut unit = bench.unit(&["sh", "-c", "true"], "");
    unit.exec.as_mut().unwrap().working_directory = "/no/such/directory".into();
    bench.spawn(&unit, 2).unwrap();
    bench.room.open_gate(&unit.id, RunId(2));
    let Event::LaunchFailed { failure: LaunchFailure::Stage(report), .. } = bench.next().await else { panic!() };
    assert_eq!((report.stage, report.errno), (Stage::Directory, 2), "{report:?}");
    assert!(bench.room.end_tree(&unit.id, RunId(2), TreeEnd::Kill));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_run_outlives_it() {
    loomd::process::Children::become_subreaper().unwrap();
    for mut bench in Bench::with_and_without_cgroup() {
        // A child, one in another session, and an orphan of both kinds.
        let script = "sleep 1000 & setsid sleep 1001 & (setsid sleep 1002 & echo $! > $HOME/orphan) ; echo $! > $HOME/child; wait";
        let unit = bench.unit(&["sh", "-c", script], "");
        let main = bench.start(&unit, 1).await.pid;
        let strays: Vec<i32> = [bench.wait_for_file("orphan").await, bench.wait_for_file("child").await]
            .iter()
            .map(|text| text.trim().parse().unwrap())
            .collect();
        assert!(bench.room.peers().processes(&unit.id).len() >= 4, "{:?}", bench.room.peers().processes(&unit.id));
        for pid in &strays {
            assert!(bench.room.peers().belongs(&unit.id, *pid), "{pid}");
            assert_eq!(bench.room.peers().owner(*pid), Some(unit.id.clone()));
        }
        assert_eq!(bench.room.peers().owner(std::process::id() as i32), None);
        assert_eq!(bench.end(&unit.id, 1).await, Some(Exit::Signal { signal: 9, core: false }));
        for pid in strays.into_iter().chain([main]) {
            assert!(!lives(pid), "{pid} outlived its run");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_proven_to_come_from_elsewhere_counts_as_a_person() {
    loomd::process::Children::become_subreaper().unwrap();
    for mut bench in Bench::with_and_without_cgroup() {
        // It leaves its session, clears its environment and outlives its parent.
        let script = "(setsid env -i sleep 1003 & echo $! > $HOME/orphan); exec sleep 1000";
        let unit = bench.unit(&["sh", "-c", script], "");
        let main = bench.start(&unit, 1).await.pid;
        let orphan: i32 = bench.wait_for_file("orphan").await.trim().parse().unwrap();
        let peers = bench.room.peers();
        assert!(peers.may_be_of_a_unit(main) && peers.may_be_of_a_unit(orphan));
        // Who connected and was gone before anybody looked.
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        assert!(peers.may_be_of_a_unit(gone.id() as i32));
        assert!(!peers.may_be_of_a_unit(std::os::unix::process::parent_id() as i32));
        bench.end(&unit.id, 1).await;
        if lives(orphan) {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(orphan), nix::sys::signal::Signal::SIGKILL).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_worker_that_nobody_waits_for_any_more_is_reaped() {
    let mut bench = Bench::new();
    let unit = bench.unit(&["sleep", "1000"], "");
    let main = bench.start(&unit, 1).await.pid;
    let door = bench.room.peers().worker_door();
    for _ in 0..20 {
        // Given up while the launcher is at work, as a call whose deadline or whose agent's run is over.
        let started = tokio::time::timeout(Duration::ZERO, door.spawn(&unit.id)).await;
        // Now and then it is quicker than that.
        if let Ok(worker) = started {
            door.kill(worker.unwrap().pid);
        }
    }
    until("the worker is reaped", || (own_children() == [main.to_string()]).then_some(())).await;
    bench.end(&unit.id, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_finds_its_temporary_directory_empty_and_nothing_is_left_beside_it() {
    let mut bench = Bench::new();
    let unit =
        bench.unit(&["sh", "-c", "ls $TMPDIR | wc -l > $HOME/seen; mkdir -p $TMPDIR/a/b; echo x > $TMPDIR/a/b/c"], "");
    for run in 1..=3 {
        bench.start(&unit, run).await;
        assert!(matches!(bench.next().await, Event::Exited { exit: Exit::Code(0), .. }), "{}", bench.log());
        bench.end(&unit.id, run).await;
        assert_eq!(bench.wait_for_file("seen").await.trim(), "0");
    }
    let runtime = bench.place.path().join("r/units/t.service");
    until("what was moved aside is deleted", || {
        let names = fs::read_dir(&runtime).unwrap().flatten().map(|entry| entry.file_name());
        (!names.into_iter().any(|name| name.to_string_lossy().starts_with("tmp.old"))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leftovers_of_a_main_process_that_ended_are_ended() {
    loomd::process::Children::become_subreaper().unwrap();
    for mut bench in Bench::with_and_without_cgroup() {
        let unit = bench.unit(&["sh", "-c", "setsid sleep 1000 & echo $! > $HOME/left; exit 0"], "");
        bench.start(&unit, 1).await;
        let left: i32 = bench.wait_for_file("left").await.trim().parse().unwrap();
        assert_eq!(bench.next().await, Event::Exited { unit: unit.id.clone(), run: RunId(1), exit: Exit::Code(0) });
        assert!(lives(left));
        assert_eq!(bench.end(&unit.id, 1).await, None);
        assert!(!lives(left));
        // And the unit can start again after that.
        bench.start(&unit, 2).await;
        assert_eq!(bench.next().await, Event::Exited { unit: unit.id.clone(), run: RunId(2), exit: Exit::Code(0) });
        bench.end(&unit.id, 2).await;
    }
}

const NOTIFY: &str = "import os, socket, subprocess, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ['NOTIFY_SOCKET'])
if len(sys.argv) < 2:
    subprocess.run([sys.executable, '-c', open(os.environ['HOME'] + '/n.py').read(), 'child'])
    s.send(b'READY=1\\nSTATUS=up')
    sys.stdin.read()
    while True: __import__('time').sleep(1000)
s.send(b'X' * 5000)
s.send(b'STATUS=from the child')
r, w = os.pipe()
socket.send_fds(s, [b'BARRIER=1'], [w])
os.close(w)
os.read(r, 1)
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_is_heard_from_the_runs_own_processes_only() {
    let mut bench = Bench::new();
    let mut unit = bench.unit(&["python3", "-c", NOTIFY], "[ready]\ntype = \"notify\"\n");
    unit.ready.notify_access = NotifyAccess::All;
    bench.room.make_directories(&unit.id).unwrap();
    fs::write(bench.place.path().join("s/units/t.service/n.py"), NOTIFY).unwrap();
    bench.start(&unit, 1).await;
    // The child's barrier is answered only after its status was handed on.
    let Event::Notified { notify, .. } = bench.next().await else { panic!() };
    assert_eq!((notify.ready, notify.status.as_deref()), (false, Some("from the child")));
    let Event::Notified { notify, run, .. } = bench.next().await else { panic!() };
    assert_eq!((run, notify.ready, notify.status.as_deref()), (RunId(1), true, Some("up")));
    let stranger = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let socket = bench.place.path().canonicalize().unwrap().join("r/units/t.service/notify.sock");
    stranger.send_to(b"STOPPING=1", socket).unwrap();
    bench.room.signal(&unit.id, RunId(1), 15);
    let event = bench.next().await;
    assert!(matches!(event, Event::Exited { .. }), "{event:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_runs_leave_no_descriptor_and_no_zombie() {
    let mut bench = Bench::new();
    let unit = bench.unit(&["true"], "");
    let mut before = 0;
    for run in 1..=100 {
        bench.start(&unit, run).await;
        assert!(matches!(bench.next().await, Event::Exited { exit: Exit::Code(0), .. }));
        bench.end(&unit.id, run).await;
        if run == 5 {
            before = descriptors();
        }
    }
    until("descriptors are as before", || (descriptors() <= before).then_some(())).await;
    assert_eq!(own_children(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_record_is_never_signalled() {
    let mut bench = Bench::new();
    let mut bystander = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = bystander.id() as i32;
    let unit = bench.unit(&["sleep", "1000"], "");
    let real = bench.start(&unit, 1).await;
    let forged = |change: &dyn Fn(&mut Identity)| {
        let mut identity = Identity { pid, token_sha256: String::new(), ..real.clone() };
        change(&mut identity);
        identity
    };
    let records = [
        // The bystander has the pid of the record, and nothing else fits.
        forged(&|identity| (identity.pidfd_inode, identity.start_ticks) = (0, identity.start_ticks + 1000)),
        forged(&|identity| identity.start_ticks += 1000),
        forged(&|identity| (identity.pid, identity.start_ticks) = (real.pid, real.start_ticks + 1)),
        forged(&|identity| (identity.pid, identity.boot_id) = (real.pid, "another boot".into())),
        forged(&|identity| identity.pid = 1),
        forged(&|identity| identity.pid = std::process::id() as i32),
    ];
    for record in records {
        let place = tempfile::tempdir().unwrap();
        let (mut other, mut events) = open(place.path());
        assert_eq!(other.adopt(&unit.id, Some(&unit), RunId(9), &record), Found::Gone(Exit::Unknown), "{record:?}");
        other.signal(&unit.id, RunId(9), 15);
        if !other.end_tree(&unit.id, RunId(9), TreeEnd::Kill) {
            let event = tokio::time::timeout(LIMIT, events.recv()).await.unwrap();
            assert!(matches!(event, Some(Event::TreeEmpty { .. })), "{event:?}");
        }
        other.tidy();
        assert!(lives(pid) && lives(real.pid), "{record:?}");
    }
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    bench.end(&unit.id, 1).await;
}

#[test]
fn a_new_loomd_takes_over_a_run_and_learns_its_end() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path().canonicalize().unwrap();
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let unit = unit(&place, &["sh", "-c", "trap 'exit 5' TERM; echo set > $HOME/set; while :; do sleep 0.1; done"], "");
    let first = runtime();
    let identity = first.block_on(async {
        let (mut room, mut events) = open(&place);
        let spawned = room.spawn(&unit, RunId(1), &facts(1)).unwrap();
        room.open_gate(&unit.id, RunId(1));
        let executed = tokio::time::timeout(LIMIT, events.recv()).await.unwrap();
        assert!(matches!(executed, Some(Event::Executed { .. })), "{executed:?}");
        let set = place.join("s/units/t.service/set");
        until("the trap is set", || fs::read_to_string(&set).ok().filter(|text| text.ends_with('\n'))).await;
        spawned.identity
    });
    // Room, watchers and descriptors of the first are gone, as after its death; the run is not.
    first.shutdown_timeout(LIMIT);
    assert!(lives(identity.pid));
    runtime().block_on(async {
        let (mut room, mut events) = open(&place);
        assert_eq!(room.adopt(&unit.id, Some(&unit), RunId(1), &identity), Found::Alive);
        assert!(room.peers().belongs(&unit.id, identity.pid));
        room.signal(&unit.id, RunId(1), 15);
        let ended = tokio::time::timeout(LIMIT, events.recv()).await.unwrap();
        assert_eq!(ended, Some(Event::Exited { unit: unit.id.clone(), run: RunId(1), exit: Exit::Code(5) }));
        room.told(&unit.id, RunId(1));
        if !room.end_tree(&unit.id, RunId(1), TreeEnd::Kill) {
            let event = tokio::time::timeout(LIMIT, events.recv()).await.unwrap();
            assert!(matches!(event, Some(Event::TreeEmpty { .. })), "{event:?}");
        }
        room.tidy();
    });
}
