//! sd_notify with real senders.

use super::*;
use loom_core::lifecycle::{Control, Notify};
use std::os::unix::net::UnixDatagram;

/// What every sender begins with: `say` sends one datagram, with descriptors.
const SAY: &str = "import os, socket, subprocess, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ['NOTIFY_SOCKET'])
home = os.environ['HOME']
def say(text, *fds):
    socket.send_fds(s, [text.encode()], list(fds))
def barrier():
    r, w = os.pipe()
    say('BARRIER=1', w)
    os.close(w)
    os.read(r, 1)
    os.close(r)
def note(name, text):
    with open(home + '/' + name + '.new', 'w') as file:
        file.write(str(text) + '\\n')
    os.rename(home + '/' + name + '.new', home + '/' + name)
def rest():
    while True:
        time.sleep(1000)
";

impl Bench {
    /// A unit that runs this Python after [`SAY`], and is heard as `access` says.
    fn sender(&self, access: NotifyAccess, script: &str) -> Unit {
        let mut unit = self.unit(&["python3", "-c", &format!("{SAY}{script}")], "");
        unit.ready.notify_access = access;
        unit
    }

    async fn said(&mut self) -> Notify {
        match self.next().await {
            Event::Notified { notify, .. } => notify,
            other => panic!("{other:?} {}", self.log()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_heard_is_who_the_unit_file_names() {
    for (access, heard) in [
        (NotifyAccess::Main, &["main"][..]),
        (NotifyAccess::Exec, &["reload", "main"]),
        (NotifyAccess::All, &["child", "reload", "main"]),
    ] {
        let mut bench = Bench::new();
        let script = format!(
            "subprocess.run([sys.executable, '-c', {:?}])\nnote('child', 'done')\n\
             while not os.path.exists(home + '/go'): time.sleep(0.01)\nsay('STATUS=main')\nrest()",
            format!("{SAY}say('STATUS=child'); barrier()")
        );
        let mut unit = bench.sender(access, &script);
        let reload = format!("{SAY}say('STATUS=reload'); barrier()");
        unit.exec.as_mut().unwrap().reload = Some(words(&["python3", "-c", &reload]));
        bench.start(&unit, 1).await;
        let mut told = Vec::new();
        // The child waits until it was heard or refused: its barrier is closed in any case.
        if heard.contains(&"child") {
            told.push(bench.said().await.status.unwrap());
        }
        bench.wait_for_file("child").await;
        bench.room.run_control(&unit, Control::Reload, &facts(1), None).unwrap();
        loop {
            match bench.next().await {
                Event::Notified { notify, .. } => told.push(notify.status.unwrap()),
                Event::Controlled { .. } => break,
                other => panic!("{other:?}"),
            }
        }
        fs::write(bench.home().join("go"), "").unwrap();
        told.push(bench.said().await.status.unwrap());
        assert_eq!(told, heard, "{access:?}");
        bench.end(&unit.id, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_not_heard_and_what_it_hands_over_is_closed() {
    let mut bench = Bench::new();
    let unit = bench.sender(NotifyAccess::All, "say('READY=1')\nrest()");
    bench.start(&unit, 1).await;
    assert!(bench.said().await.ready);
    let before = descriptors();
    let stranger = UnixDatagram::unbound().unwrap();
    stranger.connect(bench.notify_socket()).unwrap();
    for text in ["STOPPING=1", "FDSTORE=1", "MAINPID=1"] {
        for _ in 0..100 {
            send_with_descriptor(&stranger, text.as_bytes());
        }
    }
    until("all were closed", || (descriptors() <= before + 1).then_some(())).await;
    assert!(bench.events.try_recv().is_err());
    bench.end(&unit.id, 1).await;
}

fn send_with_descriptor(socket: &UnixDatagram, text: &[u8]) {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;
    let file = fs::File::open("/dev/null").unwrap();
    let fds = [file.as_raw_fd()];
    let parts = [io::IoSlice::new(text)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, &[ControlMessage::ScmRights(&fds)], MsgFlags::empty(), None).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_long_is_dropped_with_its_descriptors() {
    let mut bench = Bench::new();
    let script = "f = os.open('/dev/null', os.O_RDONLY)
for _ in range(50):
    say('FDSTORE=1\\nSTATUS=' + 'x' * 5000, f)
    say('STATUS=many', *([f] * 253))
    barrier()
say('STATUS=end')
rest()";
    let unit = bench.sender(NotifyAccess::Main, script);
    bench.start(&unit, 1).await;
    let before = descriptors();
    let mut last = String::new();
    while last != "end" {
        last = bench.said().await.status.unwrap();
        assert!(last == "many" || last == "end", "{last}");
    }
    until("all were closed", || (descriptors() <= before).then_some(())).await;
    bench.end(&unit.id, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_barrier_is_answered_only_when_the_loop_has_taken_what_came_before() {
    let mut bench = Bench::new();
    let unit = bench.sender(NotifyAccess::Main, "say('READY=1')\nbarrier()\nnote('passed', 'yes')\nrest()");
    bench.start(&unit, 1).await;
    // Taken from the queue, and not yet by the loop.
    let event = tokio::time::timeout(LIMIT, bench.events.recv()).await.unwrap().unwrap();
    assert!(matches!(&event, Event::Notified { notify, .. } if notify.ready), "{event:?}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!bench.home().join("passed").exists(), "the barrier was closed too early");
    bench.room.heard(&unit.id);
    bench.wait_for_file("passed").await;
    bench.end(&unit.id, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_begins_after_readiness_is_told_after_it() {
    let mut bench = Bench::new();
    let script = "for _ in range(20):
    say('READY=1')
    say('RELOADING=1\\nMONOTONIC_USEC=%d' % (time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000))
say('READY=1\\nSTATUS=end')
rest()";
    let unit = bench.sender(NotifyAccess::Main, script);
    bench.start(&unit, 1).await;
    // READY and RELOADING as they were sent, whatever was folded.
    let mut told = Vec::new();
    loop {
        let notify = bench.said().await;
        if notify.reloading {
            assert!(notify.reloading_at.is_some());
            told.push("reloading");
        }
        if notify.ready {
            told.push("ready");
        }
        if notify.status.is_some() {
            break;
        }
    }
    let sent: Vec<&str> = ["ready", "reloading"].into_iter().cycle().take(40).chain(["ready"]).collect();
    assert_eq!(told, sent);
    bench.end(&unit.id, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_starves_nobody_and_grows_nothing() {
    let mut bench = Bench::new();
    let flood = bench.sender(
        NotifyAccess::Main,
        "for n in range(100_000): s.send(b'X_LOOM_TOKENS=1\\nSTATUS=%d' % n)\nsay('STOPPING=1')\nrest()",
    );
    bench.room.make_directories(&flood.id).unwrap();
    let mut quiet = bench.sender(NotifyAccess::Main, "say('READY=1')\nrest()");
    quiet.id = "quiet.service".parse().unwrap();
    bench.start(&flood, 1).await;
    let resident = || -> u64 {
        let text = fs::read_to_string("/proc/self/statm").unwrap();
        text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    // The flood is on; the other unit starts into it.
    while bench.said().await.tokens == 0 {}
    let before = resident();
    bench.spawn(&quiet, 1).unwrap();
    bench.room.open_gate(&quiet.id, RunId(1));
    let (mut tokens, mut heard_quiet_at, mut most_waiting) = (0, None, 0);
    loop {
        most_waiting = most_waiting.max(bench.events.len());
        match bench.next().await {
            Event::Notified { unit, notify, .. } if unit == flood.id => {
                tokens += notify.tokens;
                if notify.stopping {
                    break;
                }
            }
            Event::Notified { unit, .. } if unit == quiet.id => heard_quiet_at = Some(tokens),
            Event::Executed { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(tokens > 50_000, "{tokens} of the flood were counted");
    if heard_quiet_at.is_none() {
        let event = bench.next().await;
        assert!(matches!(event, Event::Notified { .. }), "{event:?}");
    }
    assert!(most_waiting <= 70, "{most_waiting} events waited at once");
    assert!(resident() < before + (16 << 20), "memory grew from {before} to {} bytes", resident());
    bench.end(&flood.id, 1).await;
    bench.end(&quiet.id, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_says_last_is_told_before_its_end() {
    let mut bench = Bench::new();
    let script =
        "for n in range(5): say('X_LOOM_TOKENS=1')\nsay('X_LOOM_RETRY_AFTER=3600\\nERRNO=5\\nREADY=1')\nos._exit(75)";
    let unit = bench.sender(NotifyAccess::Main, script);
    for run in 1..=20 {
        bench.start(&unit, run).await;
        let (mut tokens, mut last) = (0, None);
        loop {
            match bench.next().await {
                Event::Notified { notify, .. } => {
                    tokens += notify.tokens;
                    last = Some(notify);
                }
                Event::Exited { exit: Exit::Code(75), .. } => break,
                other => panic!("{other:?}"),
            }
        }
        let last = last.unwrap();
        assert_eq!((tokens, last.retry_after, last.errno, last.ready), (5, Some(Millis(3_600_000)), Some(5), true));
        bench.end(&unit.id, run).await;
    }
}

/// A daemon of the old kind: a child becomes the main process, and the parent ends.
const HANDS_OVER: &str = "import signal
go = os.fork()
if go == 0:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(9))
    note('child', os.getpid())
    rest()
while not os.path.exists(home + '/child'): time.sleep(0.01)
say('READY=1\\nMAINPID=%d' % go)
os._exit(0)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_can_become_the_main_one_and_its_end_is_the_runs() {
    loomd::process::Children::become_subreaper().unwrap();
    for mut bench in Bench::with_and_without_cgroup() {
        let unit = bench.sender(NotifyAccess::Main, HANDS_OVER);
        for run in 1..=5 {
            let _ = fs::remove_file(bench.home().join("child"));
            let first = bench.start(&unit, run).await;
            let event = bench.next().await;
            let Event::MainProcess { identity, .. } = event else { panic!("{event:?} {}", bench.log()) };
            assert_ne!(identity.pid, first.pid);
            assert_eq!((&identity.boot_id, &identity.cgroup), (&first.boot_id, &first.cgroup));
            assert!(bench.said().await.ready);
            until("the first has ended", || (!lives(first.pid)).then_some(())).await;
            assert!(lives(identity.pid));
            assert!(bench.events.try_recv().is_err(), "the end of the retired process is no news");
            bench.room.signal(&unit.id, RunId(run), 15);
            let exited = Event::Exited { unit: unit.id.clone(), run: RunId(run), exit: Exit::Code(9) };
            assert_eq!(bench.next().await, exited);
            bench.end(&unit.id, run).await;
        }
        until("no zombie is left", || own_children().is_empty().then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_new_main_process_is_killed_with_its_tree() {
    loomd::process::Children::become_subreaper().unwrap();
    for mut bench in Bench::with_and_without_cgroup() {
        let unit = bench.sender(NotifyAccess::Main, HANDS_OVER);
        bench.start(&unit, 1).await;
        let Event::MainProcess { identity, .. } = bench.next().await else { panic!("{}", bench.log()) };
        bench.said().await;
        assert_eq!(bench.end(&unit.id, 1).await, Some(Exit::Signal { signal: 9, core: false }));
        assert!(!lives(identity.pid));
    }
}

#[test]
fn a_new_loomd_takes_over_a_run_by_its_new_main_process() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path().canonicalize().unwrap();
    loomd::process::Children::become_subreaper().unwrap();
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let unit = super::unit(&place, &["python3", "-c", &format!("{SAY}{HANDS_OVER}")], "");
    let first = runtime();
    let identity = first.block_on(async {
        let (mut room, mut events) = open(&place);
        room.spawn(&unit, RunId(1), &facts(1)).unwrap();
        room.open_gate(&unit.id, RunId(1));
        loop {
            match tokio::time::timeout(LIMIT, events.recv()).await.unwrap().unwrap() {
                Event::MainProcess { identity, .. } => {
                    room.heard(&unit.id);
                    break identity;
                }
                Event::Executed { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    });
    first.shutdown_timeout(LIMIT);
    assert!(lives(identity.pid));
    runtime().block_on(async {
        let (mut room, mut events) = open(&place);
        assert_eq!(room.adopt(&unit.id, Some(&unit), RunId(1), &identity), Found::Alive);
        room.signal(&unit.id, RunId(1), 15);
        loop {
            match tokio::time::timeout(LIMIT, events.recv()).await.unwrap().unwrap() {
                // It was said while nobody listened.
                Event::Notified { .. } => room.heard(&unit.id),
                Event::Exited { exit, .. } => {
                    assert_eq!(exit, Exit::Code(9));
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        room.told(&unit.id, RunId(1));
        room.end_tree(&unit.id, RunId(1), TreeEnd::Kill);
        room.tidy();
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_of_somebody_else_never_becomes_the_main_one() {
    let mut bench = Bench::new();
    let mut bystander = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let me = std::process::id();
    let script =
        format!("for pid in ({}, {me}, 1, 999999999): say('MAINPID=%d' % pid)\nsay('READY=1')\nrest()", bystander.id());
    let unit = bench.sender(NotifyAccess::Main, &script);
    let main = bench.start(&unit, 1).await.pid;
    assert!(bench.said().await.ready, "nothing but readiness is told");
    bench.end(&unit.id, 1).await;
    assert!(!lives(main) && lives(bystander.id() as i32));
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

const KEEPS: &str = "import stat
names = os.environ.get('LISTEN_FDNAMES', '')
count = int(os.environ.get('LISTEN_FDS', '0'))
mine = os.environ.get('LISTEN_PID') == str(os.getpid())
texts = [os.pread(3 + n, 100, 0).decode() for n in range(count)]
note('got', '%s %s %s' % (names, mine if count else '-', ','.join(texts)))
def keep(name, text, more=''):
    f = os.open(home + '/' + name + text, os.O_RDWR | os.O_CREAT)
    os.write(f, text.encode())
    say('FDSTORE=1\\nFDNAME=' + name + more, f)
    os.close(f)
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptors_in_keeping_are_there_in_the_next_run_until_the_unit_rests() {
    let mut bench = Bench::new();
    let script = format!(
        "{KEEPS}if count == 0:\n    keep('a', 'first')\n    keep('b', 'second')\n    keep('b', 'third')\n\
         elif count == 3:\n    say('FDSTOREREMOVE=1\\nFDNAME=b')\nbarrier()\n"
    );
    let unit = bench.sender(NotifyAccess::Main, &script);
    let mut seen = Vec::new();
    for run in 1..=4 {
        let _ = fs::remove_file(bench.home().join("got"));
        bench.start(&unit, run).await;
        assert!(matches!(bench.next().await, Event::Exited { exit: Exit::Code(0), .. }), "{}", bench.log());
        bench.end(&unit.id, run).await;
        seen.push(bench.wait_for_file("got").await.trim().to_owned());
        if run == 3 {
            bench.room.drop_kept(&unit.id);
        }
    }
    assert_eq!(seen, ["-", "a:b:b True first,second,third", "a True first", "-"].map(str::trim));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_so_many_descriptors_are_kept_each_once_and_not_past_their_other_end() {
    let mut bench = Bench::new();
    let script = format!(
        "{KEEPS}if count == 0:
    a, b = socket.socketpair()
    say('FDSTORE=1\\nFDNAME=gone', a.fileno())
    c, d = socket.socketpair()
    say('FDSTORE=1\\nFDNAME=unwatched\\nFDPOLL=0', c.fileno())
    same = os.open(home + '/same', os.O_RDWR | os.O_CREAT)
    for _ in range(3): say('FDSTORE=1\\nFDNAME=same', same)
    barrier()
    for s2 in (a, b, c, d): s2.close()
    note('closed', 'yes')
    while not os.path.exists(home + '/go'): time.sleep(0.01)
    for n in range(40): keep('n', str(n))
    barrier()
"
    );
    let script = script.replace("texts = [os.pread(3 + n, 100, 0).decode() for n in range(count)]", "texts = []");
    let unit = bench.sender(NotifyAccess::Main, &script);
    bench.start(&unit, 1).await;
    bench.wait_for_file("closed").await;
    // The watch on the closed pair is told by the kernel, soon.
    tokio::time::sleep(Duration::from_millis(200)).await;
    fs::write(bench.home().join("go"), "").unwrap();
    assert!(matches!(bench.next().await, Event::Exited { exit: Exit::Code(0), .. }), "{}", bench.log());
    bench.end(&unit.id, 1).await;
    fs::remove_file(bench.home().join("got")).unwrap();
    bench.start(&unit, 2).await;
    let got = bench.wait_for_file("got").await;
    let names: Vec<&str> = got.split_whitespace().next().unwrap().split(':').collect();
    assert_eq!(names.len(), loomd::process::KEPT_MAX);
    assert_eq!(names[..3], ["unwatched", "same", "n"]);
    let before = descriptors();
    bench.room.drop_kept(&unit.id);
    assert!(descriptors() <= before - loomd::process::KEPT_MAX);
    bench.end(&unit.id, 2).await;
}
