//! How what is left of a run is ended, or left.

use super::*;

/// A main process that ends at once and leaves two that live on; each notes that it was asked to end.
const LEAVES_TWO: &str = "for n in 1 2; do \
    sh -c 'trap \"echo asked > $HOME/asked'$n'; exit 0\" TERM; echo $$ > $HOME/left'$n'; while :; do sleep 0.05; done' & done; \
    while [ ! -s $HOME/left1 ] || [ ! -s $HOME/left2 ]; do sleep 0.01; done; exit 0";
/// As above, and the signal is ignored.
const LEAVES_A_STUBBORN_ONE: &str = "sh -c 'trap \"\" TERM; echo $$ > $HOME/left1; while :; do sleep 0.05; done' & \
    while [ ! -s $HOME/left1 ]; do sleep 0.01; done; exit 0";

impl Bench {
    async fn pid_in(&self, file: &str) -> i32 {
        self.wait_for_file(file).await.trim().parse().unwrap()
    }

    async fn main_exits(&mut self) {
        let event = self.next().await;
        assert!(matches!(event, Event::Exited { exit: Exit::Code(0), .. }), "{event:?} {}", self.log());
    }

    async fn tree_is_empty(&mut self, unit: &Unit, run: u64) {
        assert_eq!(self.next().await, Event::TreeEmpty { unit: unit.id.clone(), run: RunId(run) });
    }

    fn hears_nothing_more(&mut self) {
        let more = self.events.try_recv();
        assert!(more.is_err(), "{more:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_main_process_leaves_is_asked_to_end_and_waited_for() {
    loomd::process::Children::become_subreaper().unwrap();
    for mut bench in Bench::with_and_without_cgroup() {
        let unit = bench.unit(&["sh", "-c", LEAVES_TWO], "");
        bench.start(&unit, 1).await;
        bench.main_exits().await;
        let left = [bench.pid_in("left1").await, bench.pid_in("left2").await];
        assert!(!bench.room.end_tree(&unit.id, RunId(1), TreeEnd::Terminate(15)));
        bench.tree_is_empty(&unit, 1).await;
        assert!(left.iter().all(|pid| !lives(*pid)));
        bench.wait_for_file("asked1").await;
        bench.wait_for_file("asked2").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_end_when_asked_is_killed_and_the_end_is_told_once() {
    loomd::process::Children::become_subreaper().unwrap();
    for mut bench in Bench::with_and_without_cgroup() {
        let unit = bench.unit(&["sh", "-c", LEAVES_A_STUBBORN_ONE], "");
        bench.start(&unit, 1).await;
        bench.main_exits().await;
        let left = bench.pid_in("left1").await;
        assert!(!bench.room.end_tree(&unit.id, RunId(1), TreeEnd::Terminate(15)));
        // Asked again and again, by a person or a timer.
        assert!(!bench.room.end_tree(&unit.id, RunId(1), TreeEnd::Terminate(15)));
        assert!(lives(left));
        assert!(!bench.room.end_tree(&unit.id, RunId(1), TreeEnd::Kill));
        assert!(!bench.room.end_tree(&unit.id, RunId(1), TreeEnd::Kill));
        bench.tree_is_empty(&unit, 1).await;
        assert!(!lives(left));
        assert!(!bench.room.end_tree(&unit.id, RunId(1), TreeEnd::Kill), "its end was told");
        bench.hears_nothing_more();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_process_acts_on_the_signal_that_ends_its_tree() {
    loomd::process::Children::become_subreaper().unwrap();
    for mut bench in Bench::with_and_without_cgroup() {
        let unit = bench.unit(&["sh", "-c", LEAVES_TWO], "");
        bench.start(&unit, 1).await;
        bench.main_exits().await;
        let left = bench.pid_in("left1").await;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(left), nix::sys::signal::Signal::SIGSTOP).unwrap();
        assert!(!bench.room.end_tree(&unit.id, RunId(1), TreeEnd::Terminate(15)));
        bench.tree_is_empty(&unit, 1).await;
        bench.wait_for_file("asked1").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_live_on_does_and_holds_up_no_later_run() {
    loomd::process::Children::become_subreaper().unwrap();
    for mut bench in Bench::with_and_without_cgroup() {
        let unit = bench.unit(&["sh", "-c", LEAVES_A_STUBBORN_ONE], "");
        bench.start(&unit, 1).await;
        bench.main_exits().await;
        let left = bench.pid_in("left1").await;
        assert!(bench.room.end_tree(&unit.id, RunId(1), TreeEnd::Leave), "answered at once");
        let peers = bench.room.peers();
        let survivors = |peers: &loomd::process::Peers| -> Vec<i32> {
            peers.survivors(&unit.id).into_iter().map(|(pid, _)| pid).collect()
        };
        assert!(survivors(&peers).contains(&left), "{:?}", survivors(&peers));
        assert!(peers.may_be_of_a_unit(left));
        // The next run starts, has its own tree, and its end is not the survivor's.
        let next = bench.unit(&["sleep", "1000"], "");
        let main = bench.start(&next, 2).await.pid;
        assert!(survivors(&peers).contains(&left) && !survivors(&peers).contains(&main), "{:?}", survivors(&peers));
        assert!(!peers.belongs(&unit.id, left));
        bench.end(&unit.id, 2).await;
        assert!(lives(left) && !lives(main));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(left), nix::sys::signal::Signal::SIGKILL).unwrap();
        let children = bench.room.children();
        until("nothing is left", || {
            children.reap_orphans();
            survivors(&peers).is_empty().then_some(())
        })
        .await;
        bench.start(&next, 3).await;
        bench.end(&unit.id, 3).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_whose_main_process_lives_cannot_be_started_twice() {
    let mut bench = Bench::new();
    let unit = bench.unit(&["sleep", "1000"], "");
    let main = bench.start(&unit, 1).await.pid;
    let place = bench.place.path().canonicalize().unwrap();
    let (mut other, mut events) = open(&place);
    other.spawn(&unit, RunId(2), &facts(2)).unwrap();
    other.open_gate(&unit.id, RunId(2));
    let event = tokio::time::timeout(LIMIT, events.recv()).await.unwrap().unwrap();
    let Event::LaunchFailed { failure: LaunchFailure::Stage(report), .. } = event else { panic!("{event:?}") };
    assert_eq!(report.stage, Stage::Lock, "{report:?}");
    assert!(lives(main));
    bench.end(&unit.id, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_to_all_reaches_every_process_of_the_run() {
    loomd::process::Children::become_subreaper().unwrap();
    for mut bench in Bench::with_and_without_cgroup() {
        let script = "sh -c 'trap \"echo got > $HOME/child\" USR1; echo set > $HOME/ready2; while :; do sleep 0.05; done' & \
            trap 'echo got > $HOME/main' USR1; echo set > $HOME/ready1; while :; do sleep 0.05; done";
        let unit = bench.unit(&["sh", "-c", script], "");
        bench.start(&unit, 1).await;
        bench.wait_for_file("ready1").await;
        bench.wait_for_file("ready2").await;
        // `sleep` would die of it; the shells go on.
        bench.room.signal_all(&unit.id, RunId(1), 10);
        bench.wait_for_file("main").await;
        bench.wait_for_file("child").await;
        bench.end(&unit.id, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_ends_with_its_main_process_though_others_hold_its_output_open() {
    loomd::process::Children::become_subreaper().unwrap();
    for mut bench in Bench::with_and_without_cgroup() {
        let unit = bench.unit(&["sh", "-c", "setsid sleep 1000 & exit 3"], "");
        bench.start(&unit, 1).await;
        assert!(matches!(bench.next().await, Event::Exited { exit: Exit::Code(3), .. }));
        bench.end(&unit.id, 1).await;
    }
}
