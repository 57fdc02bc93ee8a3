//! turn: one event meets one unit.
//!
//! Job: the way up, from a start to readiness, and what is heard of a run. Its end is `ending`'s, its clocks are `clocks`'.
//! May touch: the types beside it, `unit`. Keeps: stale news changes nothing; a launcher that was asked for is waited for.

use super::ending::launch_end;
use super::life::{IN_HAND_MAX, Watch};
use super::words;
use super::{
    Awaits, Control, Controlled, Effect, End, Event, Exit, Force, Identity, Life, Main, Notify, Now, Reload, RunResult,
    Said, State, Then, TreeEnd, Why,
};
use crate::ids::{Millis, RunId};
use crate::machine::Enforcement;
use crate::unit::{ReadyKind, RunFacts, Unit};

const SIGHUP: i32 = 1;

/// Takes one event.
pub fn step(unit: &Unit, mut life: Life, now: Now, event: Event) -> (Life, Vec<Effect>) {
    if event.about().is_some_and(|run| run != life.run) {
        return (life, vec![]);
    }
    let mut turn = Turn { unit, now, effects: vec![] };
    if life.stable_at(unit).is_some_and(|at| at <= now.mono) {
        life.failures = 0;
        life.poison.clear();
    }
    turn.refill(&mut life);
    match event {
        Event::Start { by } => turn.start(&mut life, by),
        Event::Again => turn.again(&mut life),
        Event::Refuse { text } => turn.refuse(&mut life, text),
        Event::Stop { why } => turn.stop(&mut life, why),
        Event::Kill => turn.kill(&mut life),
        Event::Reload => turn.reload(&mut life),
        Event::ResetFailed => turn.reset_failed(&mut life),
        Event::Spawned { identity, enforcement, .. } => turn.spawned(&mut life, identity, enforcement),
        Event::Executed { .. } => turn.executed(&mut life),
        Event::LaunchFailed { failure, .. } => turn.launch_failed(&mut life, &failure),
        Event::Exited { exit, .. } => turn.exited(&mut life, exit),
        Event::TreeEmpty { .. } => turn.tree_empty(&mut life),
        Event::Notified { notify, .. } => turn.notified(&mut life, notify),
        Event::Checked { unmet, .. } => turn.checked(&mut life, unmet),
        Event::Controlled { control, end, .. } => turn.controlled(&mut life, control, &end),
        Event::MainProcess { identity, .. } => turn.main_process(&mut life, identity),
        Event::OomKilled { .. } => turn.oom_killed(&mut life),
        Event::Progressed { at, .. } => turn.progressed(&mut life, at),
        Event::Spent { tokens, cost_micros, calls, .. } => turn.spend(&mut life, tokens, cost_micros, calls),
        Event::InHand { mut work, .. } => {
            work.truncate(IN_HAND_MAX);
            life.watch.in_hand = work;
        }
        Event::Tick => turn.tick(&mut life),
    }
    turn.settle(&mut life);
    (life, turn.effects)
}

/// What holds during one step.
pub(super) struct Turn<'a> {
    pub unit: &'a Unit,
    pub now: Now,
    pub effects: Vec<Effect>,
}

/// Takes the state out for a moment; whoever takes it puts the next one in.
pub(super) fn take(life: &mut Life) -> State {
    std::mem::replace(&mut life.state, State::Down { failed: false })
}

/// A run with a process that nobody ends.
pub(super) struct Alive {
    pub identity: Identity,
    /// It came up.
    pub ready: bool,
    pub reload: Option<Reload>,
}

/// Takes such a run out of its state; `None`, and nothing is changed, if there is none.
pub(super) fn take_alive(life: &mut Life) -> Option<Alive> {
    match take(life) {
        State::Launching { identity, .. } | State::Starting { identity, .. } => {
            Some(Alive { identity, ready: false, reload: None })
        }
        State::Running { identity, reload, .. } => Some(Alive { identity, ready: true, reload }),
        same @ (State::Down { .. }
        | State::Reached
        | State::Resting { .. }
        | State::Checking { .. }
        | State::Preparing { .. }
        | State::Spawning { .. }
        | State::Abandoned { .. }
        | State::Remaining { .. }
        | State::Commanding { .. }
        | State::Stopping { .. }
        | State::Killing { .. }
        | State::Clearing { .. }
        | State::Posting { .. }) => {
            life.state = same;
            None
        }
    }
}

impl Turn<'_> {
    /// What follows any event: what is used up, and what is due at once.
    pub(super) fn settle(&mut self, life: &mut Life) {
        self.keep_budget(life);
        self.ask_probe(life);
    }

    fn start(&mut self, life: &mut Life, by: String) {
        // Else it is already on its way; the fleet waits until a run is over before it starts the next.
        if life.state.is_at_rest() {
            life.triggered_by = by;
            life.restarts = 0;
            life.failures = 0;
            life.last_error = None;
            self.begin(life);
        }
    }

    fn again(&mut self, life: &mut Life) {
        if let State::Resting { .. } = life.state {
            life.triggered_by = "restart".into();
            life.restarts += 1;
            self.count_start(life);
            self.begin(life);
        }
    }

    fn refuse(&mut self, life: &mut Life, text: String) {
        if life.state.is_at_rest() {
            life.result = RunResult::Dependency;
            life.last_error = Some(text);
            life.state = State::Down { failed: true };
        }
    }

    fn reset_failed(&mut self, life: &mut Life) {
        life.failures = 0;
        life.starts.clear();
        if life.state == (State::Down { failed: true }) {
            life.state = State::Down { failed: false };
            life.result = RunResult::Success;
            life.last_error = None;
        }
    }

    /// A run begins: its number names all that follows, also what happens before there is a process.
    fn begin(&mut self, life: &mut Life) {
        if self.unit.exec.is_some() {
            life.run = life.run.next();
        }
        life.enforcement = Vec::new();
        life.status_text = None;
        life.errno = None;
        life.watch = Watch::default();
        let ready_by = self.now.mono + self.unit.ready.timeout;
        if self.unit.conditions.is_empty() {
            self.prepare(life, 0, ready_by);
        } else {
            self.effects.push(Effect::Check);
            life.state = State::Checking { ready_by };
        }
    }

    fn checked(&mut self, life: &mut Life, unmet: Option<String>) {
        let State::Checking { ready_by } = life.state else { return };
        match unmet {
            None => self.prepare(life, 0, ready_by),
            Some(unmet) => {
                let error = Some(format!("condition `{unmet}` does not hold"));
                let then = Then::Rest { failed: false };
                self.conclude(life, End { result: RunResult::Condition, exit: None, error, accomplished: false, then });
            }
        }
    }

    /// The `at`-th of `exec.start_pre`, or the program if there is none.
    fn prepare(&mut self, life: &mut Life, at: u16, ready_by: Millis) {
        let Some(exec) = &self.unit.exec else {
            life.state = State::Reached;
            life.result = RunResult::Success;
            return self.effects.push(Effect::Up);
        };
        if usize::from(at) < exec.start_pre.len() {
            self.effects.push(Effect::Run(Control::StartPre(at)));
            life.state = State::Preparing { at, ready_by };
            return;
        }
        let ran_before = life.run > RunId(1);
        life.state = State::Spawning { ready_by };
        self.effects.push(Effect::Spawn(RunFacts {
            run: life.run,
            restarts: life.restarts,
            last_result: ran_before.then(|| words::result_word(life.result).to_owned()),
            last_exit: life.exit.filter(|_| ran_before).and_then(words::exit_fact),
        }));
    }

    fn prepared(&mut self, life: &mut Life, at: u16, ready_by: Millis, end: &Controlled) {
        let command = Control::StartPre(at).command(self.unit).and_then(<[String]>::first);
        let may_fail = command.is_some_and(|program| program.starts_with('-'));
        if may_fail || *end == Controlled::Exited(Exit::Code(0)) {
            return self.prepare(life, at + 1, ready_by);
        }
        let name = command.map_or("", String::as_str);
        let (failed, text) = match end {
            Controlled::Exited(exit) => {
                let result = match exit {
                    Exit::Code(_) => RunResult::ExitCode,
                    Exit::Signal { core: true, .. } => RunResult::CoreDump,
                    Exit::Signal { core: false, .. } => RunResult::Signal,
                    Exit::Unknown => RunResult::Lost,
                };
                let end = End { result, exit: Some(*exit), error: None, accomplished: false, then: Then::Policy };
                (end, words::exit_words(*exit))
            }
            Controlled::Failed(failure) => (launch_end(failure), words::launch_words(failure)),
        };
        let error = Some(format!("`start_pre` `{name}`: {text}"));
        self.clear_preparation(life, End { error, ..failed });
    }

    fn spawned(&mut self, life: &mut Life, identity: Identity, enforcement: Vec<Enforcement>) {
        life.state = match take(life) {
            State::Spawning { ready_by } => {
                life.enforcement = enforcement;
                self.effects.push(Effect::OpenGate);
                State::Launching { identity, ready_by }
            }
            State::Abandoned { why } => {
                self.effects.push(Effect::EndTree(TreeEnd::Kill));
                State::Killing { identity, why, force: Force::BehindGate, ready: false }
            }
            // Said before.
            same @ (State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Checking { .. }
            | State::Preparing { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Remaining { .. }
            | State::Commanding { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Clearing { .. }
            | State::Posting { .. }) => same,
        };
    }

    fn executed(&mut self, life: &mut Life) {
        match take(life) {
            State::Launching { identity, ready_by } => match self.unit.ready.kind {
                ReadyKind::Exec => self.up(life, identity),
                ReadyKind::Notify | ReadyKind::NotifyReload | ReadyKind::Oneshot => {
                    life.state = State::Starting { identity, ready_by };
                }
            },
            // Told to end meanwhile, ready already, or said before.
            same @ (State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Checking { .. }
            | State::Preparing { .. }
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Starting { .. }
            | State::Running { .. }
            | State::Remaining { .. }
            | State::Commanding { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Clearing { .. }
            | State::Posting { .. }) => life.state = same,
        }
    }

    fn up(&mut self, life: &mut Life, identity: Identity) {
        life.last_error = None;
        self.effects.push(Effect::Up);
        life.state = self.running(life, identity, self.now.mono);
    }

    /// Up, with its clocks begun now.
    pub(super) fn running(&self, life: &mut Life, identity: Identity, ready_at: Millis) -> State {
        self.begin_progress(life);
        let silent_at = self.silence(life).map(|interval| self.now.mono + interval);
        State::Running { identity, ready_at, silent_at, reload: None }
    }

    fn main_process(&mut self, life: &mut Life, new: Identity) {
        if let State::Launching { identity, .. }
        | State::Starting { identity, .. }
        | State::Running { identity, .. }
        | State::Commanding { main: Main::Lives { identity }, .. }
        | State::Stopping { identity, .. }
        | State::Killing { identity, .. } = &mut life.state
        {
            *identity = new;
        }
    }

    fn controlled(&mut self, life: &mut Life, control: Control, end: &Controlled) {
        match (take(life), control) {
            (State::Preparing { at, ready_by }, Control::StartPre(n)) if n == at => {
                self.prepared(life, at, ready_by, end);
            }
            // However it ended: the signal follows.
            (State::Commanding { main, why, .. }, Control::Stop) => self.commanded(life, main, why),
            (State::Posting { identity, end, post, .. }, Control::StopPost(n)) if n == post => {
                self.posted(life, identity, end, post);
            }
            (state, Control::Reload) if life.watch.reload_lingers => {
                life.watch.reload_lingers = false;
                life.state = state;
            }
            (State::Running { identity, ready_at, silent_at, reload: Some(mut reload) }, Control::Reload)
                if reload.command =>
            {
                reload.command = false;
                let failure = match end {
                    Controlled::Exited(Exit::Code(0)) => None,
                    Controlled::Exited(exit) => Some(words::exit_words(*exit)),
                    Controlled::Failed(failure) => Some(words::launch_words(failure)),
                };
                let reload = match failure {
                    None => self.reload_goes_on(reload),
                    Some(text) => {
                        self.reload_failed(life, &reload, format!("`exec.reload`: {text}"));
                        None
                    }
                };
                life.state = State::Running { identity, ready_at, silent_at, reload };
            }
            (state, Control::Startup | Control::Readiness | Control::Liveness) => {
                life.state = state;
                self.probed(life, control, end);
            }
            // Late news of one that was killed or given up.
            (state, Control::StartPre(_) | Control::Reload | Control::Stop | Control::StopPost(_)) => {
                life.state = state;
            }
        }
    }

    fn reload(&mut self, life: &mut Life) {
        let by_command = self.unit.exec.as_ref().is_some_and(|exec| exec.reload.is_some());
        let by_signal = self.unit.ready.kind == ReadyKind::NotifyReload;
        let refused = match &mut life.state {
            // It joins the one that is on its way.
            State::Running { reload: Some(reload), .. } => {
                reload.asked = true;
                return;
            }
            State::Running { .. } if !by_command && !by_signal => {
                "it has no way to reload: neither `exec.reload` nor `ready.type = \"notify-reload\"`"
            }
            State::Running { .. } if life.watch.reload_lingers => "what is left of the reload before is being ended",
            State::Running { reload, .. } => {
                let awaits = if by_command { Awaits::Nothing } else { Awaits::Reloading };
                let late_at = self.now.mono + self.unit.ready.timeout;
                *reload = Some(Reload { late_at, asked: true, command: by_command, awaits });
                let effect = if by_command { Effect::Run(Control::Reload) } else { Effect::Signal(SIGHUP) };
                return self.effects.push(effect);
            }
            State::Down { .. }
            | State::Reached
            | State::Resting { .. }
            | State::Checking { .. }
            | State::Preparing { .. }
            | State::Spawning { .. }
            | State::Abandoned { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Remaining { .. }
            | State::Commanding { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Clearing { .. }
            | State::Posting { .. } => "it does not run",
        };
        self.effects.push(Effect::Reloaded(Err(refused.to_owned())));
    }

    /// The reload after one of its steps; `None` when it is done.
    fn reload_goes_on(&mut self, reload: Reload) -> Option<Reload> {
        if reload.command || reload.awaits != Awaits::Nothing {
            return Some(reload);
        }
        if reload.asked {
            self.effects.push(Effect::Reloaded(Ok(())));
        }
        None
    }

    pub(super) fn reload_failed(&mut self, life: &mut Life, reload: &Reload, because: String) {
        if reload.command {
            life.watch.reload_lingers = true;
            self.effects.push(Effect::EndControl(Control::Reload));
        }
        self.effects.push(Effect::Say(Said::ReloadFailed { because: because.clone() }));
        if reload.asked {
            self.effects.push(Effect::Reloaded(Err(because)));
        }
    }

    fn notified(&mut self, life: &mut Life, notify: Notify) {
        if life.state.is_live() {
            life.status_text = notify.status.clone().or_else(|| life.status_text.take());
            life.errno = notify.errno.or(life.errno);
            let watch = &mut life.watch;
            watch.retry_after = notify.retry_after.or(watch.retry_after);
            if let Some(task) = &notify.task {
                watch.task = Some(task.clone()).filter(|task| !task.is_empty());
            }
        }
        self.spend(life, notify.tokens, notify.cost_micros, 0);
        if let Some(more) = notify.extend_timeout {
            extend(&mut life.state, self.now.mono + more);
        }
        if notify.watchdog_trigger && life.is_let_live() {
            return self.abort(life, Why::Triggered);
        }
        if notify.ready && self.unit.ready.kind.notifies() {
            match &life.state {
                State::Launching { identity, .. } | State::Starting { identity, .. } => {
                    let identity = identity.clone();
                    self.up(life, identity);
                }
                State::Down { .. }
                | State::Reached
                | State::Resting { .. }
                | State::Checking { .. }
                | State::Preparing { .. }
                | State::Spawning { .. }
                | State::Abandoned { .. }
                | State::Running { .. }
                | State::Remaining { .. }
                | State::Commanding { .. }
                | State::Stopping { .. }
                | State::Killing { .. }
                | State::Clearing { .. }
                | State::Posting { .. } => {}
            }
        }
        self.heard_of_reload(life, &notify);
        self.heard_of_watchdog(life, &notify);
        self.heard_of_progress(life, &notify);
        if notify.stopping && life.is_let_live() {
            self.announced(life);
        }
    }

    fn heard_of_reload(&mut self, life: &mut Life, notify: &Notify) {
        if !self.unit.ready.kind.notifies() {
            return;
        }
        let late_at = self.now.mono + self.unit.ready.timeout;
        let State::Running { reload, .. } = &mut life.state else { return };
        if notify.reloading {
            let begun = Reload { late_at, asked: false, command: false, awaits: Awaits::Ready };
            reload.get_or_insert(begun).awaits = Awaits::Ready;
        }
        if notify.ready
            && let Some(mut there) = reload.take()
        {
            if there.awaits == Awaits::Ready {
                there.awaits = Awaits::Nothing;
            }
            *reload = self.reload_goes_on(there);
        }
    }
}

/// `EXTEND_TIMEOUT_USEC`: the limit that counts now ends no earlier than `later`. Whoever hangs gets no more time.
fn extend(state: &mut State, later: Millis) {
    match state {
        State::Stopping { why, .. } if why.hangs() => {}
        State::Checking { ready_by: limit }
        | State::Preparing { ready_by: limit, .. }
        | State::Spawning { ready_by: limit }
        | State::Launching { ready_by: limit, .. }
        | State::Starting { ready_by: limit, .. }
        | State::Running { reload: Some(Reload { late_at: limit, .. }), .. }
        | State::Commanding { until: limit, .. }
        | State::Stopping { kill_at: limit, .. }
        | State::Posting { until: Some(limit), .. } => *limit = later.max(*limit),
        State::Down { .. }
        | State::Reached
        | State::Resting { .. }
        | State::Abandoned { .. }
        | State::Running { reload: None, .. }
        | State::Remaining { .. }
        | State::Killing { .. }
        | State::Clearing { .. }
        | State::Posting { until: None, .. } => {}
    }
}
