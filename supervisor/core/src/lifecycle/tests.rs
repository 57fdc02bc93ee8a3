//! The rules of one unit, as tables that read as the specification.

mod ends;
mod play;
mod restarts;
mod starts;
mod stories;
mod survives;
mod watched;

use super::*;
use crate::fleet::Found;
use crate::ids::{RunId, UnitId};
use crate::launch_plan::Stage;
use crate::unit::{Exec, ReadyKind, Restart, RestartPolicy, RunFacts, Unit, Watchdog};
use RunResult::{CoreDump, Dependency, ExitCode, Lost, Protocol, Resources, Sandbox, Success, Timeout};
use State::{Abandoned, Clearing, Down, Killing, Launching, Resting, Running, Spawning, Starting, Stopping};

/// What a main process left gets the signal first.
const END: Effect = Effect::EndTree(TreeEnd::Terminate(15));
const KILL: Effect = Effect::EndTree(TreeEnd::Kill);

/// A unit with a program and every default.
pub(crate) fn unit(id: &str) -> Unit {
    let id: UnitId = id.parse().unwrap();
    let exec = (id.kind() != crate::ids::Kind::Target).then(|| Exec {
        command: vec!["/bin/true".into()],
        working_directory: "/".into(),
        ..Exec::default()
    });
    let plain = crate::fleet::without_file(id);
    let restart = Restart { policy: RestartPolicy::OnFailure, prevent_exit_status: vec![78], ..plain.restart.clone() };
    Unit { exec, restart, ..plain }
}

pub(crate) fn identity(pid: i32) -> Identity {
    Identity { boot_id: "boot".into(), pid, pidfd_inode: 7, start_ticks: 7, cgroup: None, token_sha256: String::new() }
}

fn now(mono: u64) -> Now {
    Now { mono: Millis(mono), wall: 1_000_000 + mono, chance: 0 }
}

/// The unit of these tables: notify, watchdog 10 s, no jitter.
fn chat() -> Unit {
    let mut unit = unit("chat.agent");
    unit.ready.kind = ReadyKind::Notify;
    unit.restart.jitter = 0.0;
    unit.watchdog = Watchdog { interval: Some(Millis(10_000)), abort_timeout: Millis(2_000), ..Watchdog::default() };
    unit
}

fn life(state: State) -> Life {
    Life { run: RunId(3), state, ..Life::new() }
}

fn spawning() -> State {
    Spawning { ready_by: Millis(90_500) }
}
fn launching() -> State {
    Launching { identity: identity(42), ready_by: Millis(90_500) }
}
fn starting() -> State {
    Starting { identity: identity(42), ready_by: Millis(90_500) }
}
fn running() -> State {
    running_until(10_500)
}
fn running_until(silent_at: u64) -> State {
    Running { identity: identity(42), ready_at: Millis(500), silent_at: Some(Millis(silent_at)), reload: None }
}
fn stopping(why: Why, kill_at: u64) -> State {
    Stopping { identity: identity(42), why, kill_at: Millis(kill_at), ready: true }
}
fn stopping_unready(why: Why, kill_at: u64) -> State {
    Stopping { identity: identity(42), why, kill_at: Millis(kill_at), ready: false }
}
fn killing(why: Why, force: Force) -> State {
    Killing { identity: identity(42), why, force, ready: true }
}
fn clearing(result: RunResult, exit: Exit, then: Then) -> State {
    clearing_until(result, exit, then, Some(Millis(30_500)))
}
fn clearing_until(result: RunResult, exit: Exit, then: Then, kill_at: Option<Millis>) -> State {
    let error = (result != Success).then(|| exit_words(exit));
    let end = End { result, exit: Some(exit), error, accomplished: false, then };
    Clearing { identity: Some(identity(42)), end, kill_at, post: 0 }
}
fn stop() -> Event {
    Event::Stop { why: Why::Asked }
}
fn start() -> Event {
    Event::Start { by: "person".into() }
}
fn spawned() -> Event {
    Event::Spawned { run: RunId(3), identity: identity(42), enforcement: vec![] }
}
fn executed() -> Event {
    Event::Executed { run: RunId(3) }
}
fn exited(exit: Exit) -> Event {
    Event::Exited { run: RunId(3), exit }
}
fn empty() -> Event {
    Event::TreeEmpty { run: RunId(3) }
}
fn said(notify: Notify) -> Event {
    Event::Notified { run: RunId(3), notify }
}
fn ready() -> Notify {
    Notify { ready: true, ..Notify::default() }
}

const CODE_1: Exit = Exit::Code(1);
const KILLED: Exit = Exit::Signal { signal: 9, core: false };
const REST: Then = Then::Rest { failed: false };

#[test]
#[rustfmt::skip]
fn each_row_says_what_happens_at_half_a_second() {
    use Effect::{Failed, Inspect, OpenGate, Signal, Succeeded, Up};
    let asked = || Why::Asked;
    let beat = || Notify { watchdog: true, ..Notify::default() };
    let trigger = || Notify { watchdog_trigger: true, ..Notify::default() };
    let bye = || Notify { stopping: true, ..Notify::default() };
    let more = || Notify { extend_timeout: Some(Millis(200_000)), ..Notify::default() };
    let table: Vec<(&str, State, Event, State, Vec<Effect>)> = vec![
        ("the gate opens once the launcher is known",        spawning(),  spawned(),        launching(), vec![OpenGate]),
        ("a notify unit that was executed is not ready yet", launching(), executed(),       starting(),  vec![]),
        ("READY=1 makes it active and arms its watchdog",    starting(),  said(ready()),    running(),   vec![Up]),
        ("READY=1 may overtake the news of execve",          launching(), said(ready()),    running(),   vec![Up]),
        ("news of execve after READY=1 changes nothing",     running(),   executed(),       running(),   vec![]),
        ("a start of what runs changes nothing",             running(),   start(),          running(),   vec![]),

        ("a stop before the launcher shows waits for it",    spawning(),  stop(),           Abandoned { why: asked() }, vec![]),
        ("and then ends it behind its gate",                 Abandoned { why: asked() }, spawned(),
            Killing { identity: identity(42), why: asked(), force: Force::BehindGate, ready: false }, vec![KILL]),
        ("and if it never shows the unit is down",           Abandoned { why: asked() },
            Event::LaunchFailed { run: RunId(3), failure: LaunchFailure::Resources("fork".into()) }, Down { failed: false }, vec![]),
        ("a stop behind the gate is a signal with a limit",  launching(), stop(),           stopping_unready(asked(), 30_500), vec![Signal(15)]),
        ("so is one before it is ready",                     starting(),  stop(),           stopping_unready(asked(), 30_500), vec![Signal(15)]),
        ("and one of what runs",                             running(),   stop(),           stopping(asked(), 30_500), vec![Signal(15)]),
        ("execve's news during a stop changes nothing",      stopping_unready(asked(), 30_500), executed(), stopping_unready(asked(), 30_500), vec![]),
        ("a launcher that fails during a stop is down",      stopping_unready(asked(), 30_500),
            Event::LaunchFailed { run: RunId(3), failure: LaunchFailure::Resources("x".into()) }, Down { failed: false }, vec![]),
        ("a second stop joins the first",                    stopping(asked(), 9_000), stop(), stopping(asked(), 9_000), vec![]),
        ("a start during a stop waits with the fleet",       stopping(asked(), 9_000), start(), stopping(asked(), 9_000), vec![]),
        ("a stop that is late kills the tree",               stopping(asked(), 500), Event::Tick, killing(asked(), Force::Late), vec![KILL]),
        ("and one that is not waits",                        stopping(asked(), 501), Event::Tick, stopping(asked(), 501), vec![]),
        ("EXTEND_TIMEOUT_USEC moves the kill",               stopping(asked(), 900), said(more()), stopping(asked(), 200_500), vec![]),
        ("but not for what hangs",                           stopping(Why::Silent, 900), said(more()), stopping(Why::Silent, 900), vec![]),
        ("it moves the ready timeout",                       starting(),  said(more()),
            Starting { identity: identity(42), ready_by: Millis(200_500) }, vec![]),

        ("the end of the main process ends its tree",        running(),   exited(CODE_1),   clearing(ExitCode, CODE_1, Then::Policy), vec![END]),
        ("a stop that came with the crash wins",             clearing(ExitCode, CODE_1, Then::Policy), stop(), clearing(ExitCode, CODE_1, REST), vec![]),
        ("and ends in inactive",                             clearing(ExitCode, CODE_1, REST), empty(), Down { failed: false }, vec![]),
        ("an exit in answer to a stop is clean",             stopping(asked(), 900), exited(CODE_1), clearing_until(Success, CODE_1, REST, Some(Millis(900))), vec![END]),
        ("the tree's end is asked for once",                 killing(asked(), Force::Late), exited(KILLED), Clearing { identity: Some(identity(42)), end: End {
            result: Timeout, exit: Some(KILLED), error: Some("it did not end within stop.timeout (30s) and was killed".into()),
            accomplished: false, then: Then::Rest { failed: true } }, kill_at: None, post: 0 }, vec![]),
        ("an exit without a tree left behind is not yet down", clearing(Success, CODE_1, REST), exited(CODE_1), clearing(Success, CODE_1, REST), vec![]),
        ("a crash is followed by a restart under back-off",  clearing(ExitCode, CODE_1, Then::Policy), empty(),
            Resting { at: Millis(600), wall: 1_000_600 }, vec![Failed]),
        ("a clean end is not, on-failure",                   clearing(Success, Exit::Code(0), Then::Policy), empty(), Down { failed: false }, vec![Succeeded]),
        ("status 78 is not",                                 clearing(ExitCode, Exit::Code(78), Then::Policy), empty(), Down { failed: true }, vec![Failed]),
        ("a stop of a waiting restart cancels it",           Resting { at: Millis(9_000), wall: 0 }, stop(), Down { failed: false }, vec![]),

        ("WATCHDOG=1 gives another interval",                running_until(600), said(beat()), running(), vec![]),
        ("silence is answered by SIGABRT",                   running_until(500), Event::Tick, stopping(Why::Silent, 2_500), vec![Inspect, Signal(6)]),
        ("so is WATCHDOG=trigger",                           running(),   said(trigger()),  stopping(Why::Triggered, 2_500), vec![Inspect, Signal(6)]),
        ("then the tree is killed",                          stopping(Why::Silent, 500), Event::Tick, killing(Why::Silent, Force::Late), vec![KILL]),
        ("a stop takes over from the watchdog",              stopping(Why::Silent, 2_500), stop(), stopping(asked(), 2_500), vec![]),
        ("the watchdog is silent before READY=1",            starting(),  said(beat()),     starting(), vec![]),
        ("STOPPING=1 starts the stop timeout",               running(),   said(bye()),      stopping(Why::Announced, 30_500), vec![]),

        ("a start that is late is ended",                    Starting { identity: identity(42), ready_by: Millis(500) }, Event::Tick,
            stopping_unready(Why::NotReady, 30_500), vec![Inspect, Signal(15)]),
        ("so is a launcher that does not come",              Spawning { ready_by: Millis(500) }, Event::Tick, Abandoned { why: Why::NotReady }, vec![]),

        ("an exit of an older run is stale",                 running(),   Event::Exited { run: RunId(2), exit: CODE_1 }, running(), vec![]),
        ("so is its READY=1",                                starting(),  Event::Notified { run: RunId(2), notify: ready() }, starting(), vec![]),
        ("and its empty tree",                               clearing(Success, CODE_1, REST), Event::TreeEmpty { run: RunId(2) }, clearing(Success, CODE_1, REST), vec![]),
        ("a waiting start whose dependency failed fails",    Down { failed: false }, Event::Refuse { text: "it requires `x`".into() }, Down { failed: true }, vec![]),
        ("a dependency that was stopped leaves it inactive", Resting { at: Millis(9), wall: 0 },
            Event::Stop { why: Why::Dependency { failed: false, text: "x".into() } }, Down { failed: false }, vec![]),
    ];
    for (row, before, event, after, effects) in table {
        let (life, done) = step(&chat(), life(before), now(500), event);
        assert_eq!((life.state, done), (after, effects), "{row}");
    }
}

#[test]
fn a_start_numbers_a_new_run_and_tells_it_of_the_last() {
    let mut last = life(Down { failed: true });
    (last.result, last.exit, last.failures, last.restarts) = (ExitCode, Some(CODE_1), 4, 9);
    let (life, effects) = step(&chat(), last, now(500), start());
    let facts = RunFacts {
        run: RunId(4),
        restarts: 0,
        last_result: Some("exit-code".into()),
        last_exit: Some("code 1".into()),
    };
    assert_eq!((life.run, life.failures, life.triggered_by.as_str()), (RunId(4), 0, "person"));
    assert_eq!((life.state, effects), (spawning(), vec![Effect::Spawn(facts)]));

    let resting = Life { failures: 4, restarts: 9, ..self::life(Resting { at: Millis(500), wall: 0 }) };
    let (life, _) = step(&chat(), resting, now(500), Event::Again);
    assert_eq!((life.run, life.failures, life.restarts, life.triggered_by.as_str()), (RunId(4), 4, 10, "restart"));
}

#[test]
#[rustfmt::skip]
fn readiness_is_what_the_type_says() {
    let of = |kind| { let mut unit = chat(); unit.ready.kind = kind; unit };
    let (exec, notify, oneshot) = (of(ReadyKind::Exec), of(ReadyKind::Notify), of(ReadyKind::Oneshot));
    let (zero, one) = (Exit::Code(0), CODE_1);
    let run_to_end = |unit: &Unit, exit| {
        let (life, _) = step(unit, life(starting()), now(500), exited(exit));
        step(unit, life, now(500), empty())
    };
    assert_eq!(step(&exec, life(launching()), now(500), executed()).1, [Effect::Up], "exec: execve succeeded");
    assert_eq!(step(&exec, life(launching()), now(500), said(ready())).1, [], "exec: READY=1 means nothing");
    assert_eq!(step(&notify, life(launching()), now(500), executed()).1, [], "notify: only READY=1");
    assert_eq!(step(&oneshot, life(launching()), now(500), executed()).1, [], "oneshot: only its end");
    let (ended, effects) = run_to_end(&oneshot, zero);
    assert_eq!((ended.state, ended.result, effects), (Down { failed: false }, Success, vec![Effect::Up, Effect::Succeeded]), "oneshot: exit 0");
    let (ended, effects) = run_to_end(&oneshot, one);
    assert_eq!((ended.result, effects), (ExitCode, vec![Effect::Failed]), "oneshot: exit 1");
    let (ended, effects) = run_to_end(&notify, zero);
    assert_eq!((ended.result, effects), (Protocol, vec![Effect::Failed]), "notify: an end before READY=1 breaks the protocol");
    assert_eq!(ended.last_error.as_deref(), Some("it exited with status 0 before it said READY=1"));
}

#[test]
#[rustfmt::skip]
fn the_restart_table_is_chapter_tens() {
    use RestartPolicy::*;
    let policies = [No, OnSuccess, OnFailure, OnAbnormal, OnWatchdog, OnAbort, Always];
    let term = Exit::Signal { signal: 15, core: false };
    let core = Exit::Signal { signal: 11, core: true };
    let rows: [(&str, RunResult, Option<Exit>, &str); 16] = [
        ("clean exit",       Success,             Some(Exit::Code(0)), ".x....x"),
        ("clean signal",     Success,             Some(term),          ".x....x"),
        ("unclean code",     ExitCode,            Some(CODE_1),        "..x...x"),
        ("unclean signal",   RunResult::Signal,   Some(KILLED),        "..xx.xx"),
        ("core dump",        CoreDump,            Some(core),          "..xx.xx"),
        ("timeout",          Timeout,             Some(KILLED),        "..xx..x"),
        ("watchdog",         RunResult::Watchdog, Some(KILLED),        "..xxx.x"),
        ("lost",             Lost,                Some(Exit::Unknown), "..xx..x"),
        ("resources",        Resources,           None,                "..x...x"),
        ("protocol",         Protocol,            Some(Exit::Code(0)), "..x...x"),
        ("sandbox",          Sandbox,             None,                "......."),
        ("dependency",       Dependency,          None,                "......."),
        ("prevented",        ExitCode,            Some(Exit::Code(78)), "......."),
        ("forced",           ExitCode,            Some(Exit::Code(7)), "xxxxxxx"),
        ("prevented and forced", ExitCode,        Some(Exit::Code(8)), "......."),
        ("sandbox, forced",  Sandbox,             Some(Exit::Code(7)), "......."),
    ];
    for (row, result, exit, marks) in rows {
        for (policy, mark) in policies.into_iter().zip(marks.chars()) {
            let restart = Restart {
                policy, force_exit_status: vec![7, 8], prevent_exit_status: vec![78, 8], ..chat().restart
            };
            assert_eq!(restarts(&restart, result, exit), mark == 'x', "{row} under {policy:?}");
        }
    }
}

#[test]
#[rustfmt::skip]
fn an_exit_means() {
    let restart = Restart { success_exit_status: vec![3], ..chat().restart };
    let signal = |signal, core| Exit::Signal { signal, core };
    let rows = [
        ("0 is clean",                 Exit::Code(0),       Success),
        ("so is what the unit lists",  Exit::Code(3),       Success),
        ("any other code is not",      Exit::Code(4),       ExitCode),
        ("HUP is clean",               signal(1, false),    Success),
        ("INT is clean",               signal(2, false),    Success),
        ("PIPE is clean",              signal(13, false),   Success),
        ("TERM is clean",              signal(15, false),   Success),
        ("KILL is not",                signal(9, false),    RunResult::Signal),
        ("a core dump is one",         signal(11, true),    CoreDump),
        ("what nobody saw is lost",    Exit::Unknown,       Lost),
    ];
    for (row, exit, result) in rows {
        assert_eq!(result_of(&restart, exit), result, "{row}");
    }
}

#[test]
fn back_off_doubles_up_to_its_limit_and_jitter_only_adds() {
    let restart = Restart { jitter: 0.25, ..chat().restart };
    let waits: Vec<_> = (0..=14).map(|n| back_off(&restart, n).0).collect();
    let doubled =
        [100, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 102_400, 204_800, 300_000, 300_000];
    assert_eq!(waits, doubled);
    assert_eq!(back_off(&restart, u32::MAX), Millis(300_000));
    assert_eq!(wait(&restart, 4, 0), Millis(800));
    assert_eq!(wait(&restart, 4, u64::MAX), Millis(999));
    assert_eq!(wait(&Restart { delay: Millis(0), ..restart.clone() }, 1, 5), Millis(0), "a delay of 0 is none");
    let spread: std::collections::BTreeSet<_> = (0..50)
        .map(|n| policy::own_chance(1, &format!("a{n}.agent").parse().unwrap(), RunId(1)))
        .map(|chance| wait(&restart, 9, chance))
        .collect();
    assert!(spread.len() > 40, "units that died together come back apart: {spread:?}");
}

#[test]
fn a_stable_run_resets_the_back_off() {
    let crash = |at: u64| {
        let before = Life { failures: 5, ..life(running()) };
        let (life, _) = step(&chat(), before, now(at), exited(CODE_1));
        step(&chat(), life, now(at), empty()).0.failures
    };
    assert_eq!(crash(599_000), 6, "after less than ten minutes the row goes on");
    assert_eq!(crash(661_000), 1, "after eleven minutes it is the first failure");

    let before = Life { failures: 5, ..life(running_until(900_000)) };
    assert_eq!(
        before.deadline(&chat()),
        Some(Millis(600_500)),
        "it wakes once, so that `status` and the record say so"
    );
    let (life, _) = step(&chat(), before, now(600_500), Event::Tick);
    assert_eq!((life.failures, life.deadline(&chat())), (0, Some(Millis(900_000))));
}

#[test]
#[rustfmt::skip]
fn a_launch_that_failed_says_what_on_what() {
    let stage = |stage, errno, what: &str| LaunchFailure::Stage(Report { stage, errno, what: what.into() });
    let rows = [
        (stage(Stage::Landlock, 2, "/srv/notes"), Sandbox, "stage `landlock` failed on `/srv/notes`: ENOENT, no such file or directory", "failed"),
        (stage(Stage::Seccomp, 0, ""),            Sandbox, "stage `seccomp` failed", "failed"),
        (stage(Stage::Directory, 13, "/root"),    Sandbox, "stage `directory` failed on `/root`: EACCES, permission denied", "failed"),
        (stage(Stage::Exec, 2, "/bin/nope"),      ExitCode, "stage `exec` failed on `/bin/nope`: ENOENT, no such file or directory", "auto-restart"),
        (stage(Stage::Exec, 12, "/bin/sh"),       Resources, "stage `exec` failed on `/bin/sh`: ENOMEM, no memory", "auto-restart"),
        (stage(Stage::Lock, 11, "/run/x/lock"),   Resources, "stage `lock` failed on `/run/x/lock`: EAGAIN, the machine has no room for it now", "auto-restart"),
        (stage(Stage::Privileges, 999, "prctl"),  Sandbox, "stage `privileges` failed on `prctl`: errno 999", "failed"),
        (LaunchFailure::Resources("fork: EAGAIN".into()), Resources, "fork: EAGAIN", "auto-restart"),
        (LaunchFailure::Refused("needs Landlock".into()), Sandbox, "needs Landlock", "failed"),
    ];
    for (failure, result, text, sub) in rows {
        let (life, effects) = step(&chat(), life(launching()), now(500), Event::LaunchFailed { run: RunId(3), failure });
        assert_eq!((life.result, life.last_error.as_deref(), life.state.words().1), (result, Some(text), sub));
        assert_eq!(effects, [Effect::Failed], "no process, so no tree: {text}");
    }
    let (life, _) = step(&chat(), life(launching()), now(500), Event::LaunchFailed {
        run: RunId(3), failure: stage(Stage::Exec, 8, "/bin/x") });
    assert_eq!(life.exit, Some(Exit::Code(126)));
}

#[test]
#[rustfmt::skip]
#[expect(clippy::type_complexity, reason = "a table")]
fn a_new_loomd_goes_on_with_what_was_stored() {
    // What a gone process left is ended first; the state is the one after that.
    let (alive, gone) = (Found::Alive, Found::Gone(Exit::Unknown));
    let record = |phase| Record {
        phase, run: RunId(3), wanted: true, boot_id: "boot".into(),
        identity: (phase != Phase::Intended).then(|| identity(42)), ..Record::never_ran()
    };
    let live = || Record { ready: true, ready_at: Some(Millis(200)), ..record(Phase::Live) };
    let ending = |result, wanted, kill_at| Record {
        result, wanted, ready: true, kill_at: Some(("boot".to_owned(), Millis(kill_at))), ..record(Phase::Stopping)
    };
    let other = |record| Record { boot_id: "older".into(), ..record };
    let waits = |boot: &str| Record {
        next_start: Some((boot.to_owned(), Millis(700), 1_000_580)), boot_id: boot.into(), failures: 3, ..record(Phase::Ended)
    };
    let adopted = |ready_at| Running { identity: identity(42), ready_at: Millis(ready_at), silent_at: Some(Millis(10_500)), reload: None };
    let again = Resting { at: Millis(600), wall: 1_000_600 };
    use Repeat::{Alone, No, WithDependencies};
    let table: Vec<(&str, Record, &Found, State, RunResult, Repeat, Vec<Effect>)> = vec![
        ("a ready run is adopted, its watchdog armed anew",   live(), &alive, adopted(200), Success, No, vec![]),
        ("one that was not ready gets its ready timeout",     record(Phase::Live), &alive, starting(), Success, No, vec![]),
        ("one that is gone is lost, and the policy applies",  live(), &gone, again.clone(), Lost, No, vec![END]),
        ("unless its exit can be known",                      live(), &Found::Gone(Exit::Code(0)), Down { failed: false }, Success, No, vec![END]),
        ("an intended run has no process",                    record(Phase::Intended), &gone, again.clone(), Lost, No, vec![Effect::Failed]),
        ("a stop before the launcher showed is done",         Record { wanted: false, ..record(Phase::Intended) }, &gone, Down { failed: false }, Lost, No, vec![]),
        ("a stop goes on with what is left of its time",      ending(Success, false, 900), &alive, stopping(Why::Asked, 900), Success, No, vec![Effect::Signal(15)]),
        ("one that is late kills at once",                    ending(Success, false, 400), &alive, killing(Why::Asked, Force::Late), Success, No, vec![KILL]),
        ("one whose process is gone is done",                 ending(Success, false, 900), &gone, Down { failed: false }, Success, No, vec![END]),
        ("a restart goes on with its start",                  ending(Success, true, 900), &gone, Down { failed: false }, Success, Alone, vec![END]),
        ("also while its process lives",                      ending(Success, true, 900), &alive, stopping(Why::Asked, 900), Success, Alone, vec![Effect::Signal(15)]),
        ("a watchdog's abort goes on",                        ending(RunResult::Watchdog, true, 900), &alive, stopping(Why::Silent, 900), RunResult::Watchdog, No, vec![Effect::Signal(6)]),
        ("and its policy applies once it is gone",            ending(RunResult::Watchdog, true, 900), &gone, again.clone(), RunResult::Watchdog, No, vec![END]),
        ("a waiting restart keeps its moment",                waits("boot"), &gone, Resting { at: Millis(700), wall: 1_000_580 }, Success, No, vec![]),
        ("in another boot by the wall clock",                 waits("older"), &gone, Resting { at: Millis(580), wall: 1_000_580 }, Success, No, vec![]),
        ("a start whose job died is repeated",                record(Phase::Ended), &gone, Down { failed: false }, Success, Alone, vec![]),
        ("what failed for good stays failed",                 Record { wanted: false, failed: true, ..record(Phase::Ended) }, &gone, Down { failed: true }, Success, No, vec![]),
        ("another boot's run is lost and starts again",       other(live()), &gone, Down { failed: false }, Lost, WithDependencies, vec![]),
        ("never adopted, even if a process looks like it",    other(live()), &alive, Down { failed: false }, Lost, WithDependencies, vec![]),
        ("unless nobody wanted it",                           other(ending(Success, false, 900)), &gone, Down { failed: false }, Lost, No, vec![]),
    ];
    for (row, record, found, state, result, repeat, effects) in table {
        let mut adopted = adopt(&chat(), &record, found, "boot", now(500));
        if matches!(adopted.life.state, Clearing { .. }) {
            adopted.life = step(&chat(), adopted.life, now(500), empty()).0;
        }
        assert_eq!((adopted.life.state, adopted.effects, adopted.repeat), (state, effects, repeat), "{row}");
        assert_eq!(adopted.life.result, result, "{row}");
    }
    let far = Record { next_start: Some(("older".into(), Millis(0), 9_000_000_000)), ..waits("older") };
    let adopted = adopt(&chat(), &far, &gone, "boot", now(500));
    assert_eq!(adopted.life.state.words().1, "auto-restart");
    assert!(matches!(adopted.life.state, Resting { at, .. } if at <= Millis(1_000)), "a clock set back lengthens no wait");
}

#[test]
fn every_state_survives_its_record() {
    let dependency = || Why::Dependency { failed: true, text: "it requires `x`, which failed".into() };
    let states = [
        Down { failed: true },
        Resting { at: Millis(900), wall: 5 },
        launching(),
        starting(),
        running(),
        stopping(Why::Asked, 900),
        stopping(Why::Silent, 900),
        stopping(Why::NotReady, 900),
        stopping(dependency(), 900),
    ];
    for state in states {
        let before = Life { failures: 2, restarts: 5, triggered_by: "person".into(), ..life(state.clone()) };
        let wanted = !matches!(state, Down { .. } | Stopping { why: Why::Asked | Why::Dependency { .. }, .. });
        let stored = Record { wanted, ..record(&before, "boot") };
        let after = adopt(&chat(), &stored, &Found::Alive, "boot", now(500)).life;
        assert_eq!(after.state.words(), state.words(), "{state:?}");
        assert_eq!((after.run, after.failures, after.restarts), (before.run, before.failures, before.restarts));
    }
}

#[test]
fn words_are_those_of_json() {
    use ActiveState::{Activating, Active, Deactivating, Failed, Inactive};
    for state in [Inactive, Activating, Active, Deactivating, Failed] {
        assert_eq!(serde_json::to_value(state).unwrap(), state.word());
    }
    for result in [
        Success,
        ExitCode,
        RunResult::Signal,
        CoreDump,
        Timeout,
        RunResult::Watchdog,
        RunResult::Resources,
        Lost,
        Protocol,
        Sandbox,
        Dependency,
    ] {
        assert_eq!(serde_json::to_value(result).unwrap(), result_word(result));
    }
}
