//! jobs: what is asked of units, and waiting for it.
//!
//! Job: start, stop and the like; what is waited for meanwhile; Ctrl-C; `is-active` and `is-failed`. May touch: the control API, the
//! terminal. Keeps: jobs belong to loomd, so Ctrl-C ends the waiting and nothing else, but for the third one in a stop; nothing is
//! shown of what is quick.

use crate::answer::{Context, LAST_LINES, exit_status, failed, say, say_json, show_refusal};
use crate::interrupts::{self, Interrupts};
use crate::{logs, show};
use loom_api::control::Control;
use loom_api::view::*;
use loom_core::ids::UnitId;
use loom_core::lifecycle::ActiveState;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Nothing is said of a wait that is shorter.
const QUICK: Duration = Duration::from_secs(1);
/// Between two looks at the clock while a line is shown.
const TICK: Duration = Duration::from_secs(1);
/// After the second Ctrl-C of a stop: within this a third one kills.
const THIRD_LIMIT: Duration = Duration::from_secs(1);

/// What became of the jobs.
#[derive(Default)]
pub struct Ended {
    pub views: Vec<UnitView>,
    pub refusals: Vec<Refusal>,
    /// A person left before the end.
    left: bool,
}

impl Ended {
    /// The first failure names it.
    pub fn status(&self) -> u8 {
        match self.refusals.first() {
            Some(refusal) => exit_status(refusal),
            None => u8::from(self.left),
        }
    }
}

/// Does it, tells of each unit, and says with which status to end.
pub fn run(context: &Context, request: JobsRequest) -> Result<u8, Refusal> {
    let ended = carry_out(context, request)?;
    if context.json {
        say_json(&json!({"version": VERSION, "units": ended.views, "refusals": ended.refusals}));
    }
    Ok(ended.status())
}

/// Does it and tells of each unit.
pub fn carry_out(context: &Context, request: JobsRequest) -> Result<Ended, Refusal> {
    let signals = interrupts::take_over().map_err(|error| failed("cannot take over Ctrl-C", error))?;
    context.runtime.block_on(async {
        let interrupts = Interrupts::new(&signals).map_err(|error| failed("cannot take over Ctrl-C", error))?;
        follow(context, request, &interrupts).await
    })
}

async fn follow(context: &Context, request: JobsRequest, interrupts: &Interrupts<'_>) -> Result<Ended, Refusal> {
    let mut ended = Ended::default();
    let mut lines = context.client.jobs(request.clone()).await?.0;
    let mut waits = Waits::new();
    let (mut pressed, mut leave_at) = (0, None::<Instant>);
    loop {
        let leave = async {
            match leave_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            news = lines.recv() => match news {
                Some(JobNews::Waiting { view, on }) => waits.take(*view, on.map(|on| *on)),
                Some(JobNews::Done { view, .. }) => {
                    waits.over(&view.unit);
                    eprintln!("{}", done_line(&request, &view));
                    ended.views.push(*view);
                }
                Some(JobNews::Refused { asked, unit, refusal }) => {
                    waits.clear();
                    if let Some(unit) = &unit {
                        waits.over(unit);
                    }
                    show_refusal(&refusal);
                    if refusal.code == Refusal::FAILED {
                        show_last_lines(context, &asked).await;
                    }
                    ended.refusals.push(refusal);
                }
                None => break,
            },
            () = waits.tick() => waits.show(),
            () = interrupts.next() => {
                waits.clear();
                pressed += 1;
                let is_stop = request.verb == JobVerb::Stop;
                match pressed {
                    1 => eprintln!("the supervisor goes on with it; Ctrl-C again leaves"),
                    2 if is_stop => {
                        eprintln!("leaving; Ctrl-C within {} s kills what is left", THIRD_LIMIT.as_secs());
                        leave_at = Some(Instant::now() + THIRD_LIMIT);
                    }
                    3 if is_stop => {
                        leave_at = None;
                        eprintln!("killing what is left");
                        let kill = JobsRequest { force: true, no_wait: true, ..request.clone() };
                        // Its answers come as those of the stop that goes on.
                        drop(context.client.jobs(kill).await?);
                    }
                    _ => {
                        ended.left = true;
                        break;
                    }
                }
            },
            () = leave => {
                ended.left = true;
                break;
            }
        }
    }
    waits.clear();
    let asked = if request.all { 0 } else { request.units.len() };
    if !ended.left && ended.views.is_empty() && ended.refusals.is_empty() && asked > 0 {
        return Err(Refusal::new(Refusal::CUT_SHORT, "the supervisor's answer was cut short")
            .try_this("the jobs may go on: `loomctl status`"));
    }
    if request.all && ended.views.is_empty() && ended.refusals.is_empty() {
        eprintln!("there was nothing to do");
    }
    Ok(ended)
}

fn done_line(request: &JobsRequest, view: &UnitView) -> String {
    let pid = view.main_pid.filter(|_| view.active_state == ActiveState::Active);
    let pid = pid.map(|pid| format!(", run {}, pid {pid}", view.run)).unwrap_or_default();
    let is = format!("{} is {}{pid}", view.unit, show::state(view));
    match request.verb {
        JobVerb::Kill => {
            let signal = request.signal.unwrap_or(nix::libc::SIGTERM);
            let name = nix::sys::signal::Signal::try_from(signal)
                .map_or_else(|_| format!("signal {signal}"), |signal| signal.as_str().to_owned());
            let whom = match request.whom {
                KillWhom::Main => "the main process",
                KillWhom::All => "all processes",
            };
            format!("sent {name} to {whom} of {}", view.unit)
        }
        JobVerb::Freeze => format!("{} is frozen", view.unit),
        JobVerb::Thaw => format!("{} goes on", view.unit),
        JobVerb::ResetFailed => format!("{} starts anew: no failure is counted", view.unit),
        JobVerb::Start
        | JobVerb::Stop
        | JobVerb::Restart
        | JobVerb::TryRestart
        | JobVerb::Reload
        | JobVerb::ReloadOrRestart
        | JobVerb::VerifyActive => is,
    }
}

/// Why a start failed often stands in the unit's own words.
async fn show_last_lines(context: &Context, asked: &str) {
    let Ok(view) = context.client.unit(UnitAsked { unit: asked.to_owned() }).await else { return };
    // Lines of earlier runs would explain another failure.
    let lines = logs::of_ended_run(&context.dirs.logs(), &view.unit, view.run.0, LAST_LINES);
    if !lines.is_empty() {
        eprintln!("last lines of {}:", view.unit);
    }
    lines.iter().for_each(|line| eprintln!("  {}", line.human(false)));
}

/// What is waited for, as it is shown below everything else.
struct Waits {
    began: Instant,
    is_terminal: bool,
    waiting: BTreeMap<UnitId, (UnitView, Option<UnitView>)>,
    /// The line without its time, as it was shown last.
    shown: Option<String>,
    /// A line stands on the terminal that has no end yet.
    stands: bool,
}

impl Waits {
    fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self { began: Instant::now(), is_terminal, waiting: BTreeMap::new(), shown: None, stands: false }
    }

    fn take(&mut self, view: UnitView, on: Option<UnitView>) {
        self.waiting.insert(view.unit.clone(), (view, on));
        if self.began.elapsed() >= QUICK {
            self.show();
        }
    }

    fn over(&mut self, unit: &UnitId) {
        self.clear();
        self.waiting.remove(unit);
    }

    /// When the line is to be shown next.
    async fn tick(&self) {
        if self.waiting.is_empty() {
            return std::future::pending().await;
        }
        let elapsed = self.began.elapsed();
        let next = match (elapsed < QUICK, self.is_terminal) {
            (true, _) => QUICK - elapsed,
            (false, true) => TICK,
            // A file or a pipe gets a line when something changed.
            (false, false) if self.shown.is_some() => return std::future::pending().await,
            (false, false) => Duration::ZERO,
        };
        tokio::time::sleep(next).await;
    }

    fn show(&mut self) {
        let Some((view, on)) = self.waiting.values().next() else { return };
        let line = waiting_line(view, on.as_ref(), self.waiting.len() - 1);
        let time = show::span(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX));
        if self.is_terminal {
            eprint!("\r\x1b[K{line} {time}");
            let _ = std::io::stderr().flush();
            self.stands = true;
        } else if self.shown.as_ref() != Some(&line) {
            eprintln!("{line} {time}");
        }
        self.shown = Some(line);
    }

    /// Takes the line off the terminal, so that another can stand in its place.
    fn clear(&mut self) {
        if self.stands {
            eprint!("\r\x1b[K");
            self.stands = false;
        }
    }
}

/// `waiting for db.service (activating, start), which chat.agent needs`.
fn waiting_line(view: &UnitView, on: Option<&UnitView>, others: usize) -> String {
    let shown = on.unwrap_or(view);
    let mut line = format!("waiting for {} ({}, {})", shown.unit, show::word(shown.active_state), shown.sub_state);
    if let Some(ms) = shown.next_start_in_ms {
        line.push_str(&format!(", next try in {}", show::span(ms)));
    }
    if let Some(because) = view.waits_because.as_ref().filter(|_| on.is_none()) {
        line.push_str(&format!(", {because}"));
    }
    if on.is_some() {
        line.push_str(&format!(", which {} needs", view.unit));
    }
    if others > 0 {
        line.push_str(&format!(", and {others} more"));
    }
    line
}

/// `is-active` and `is-failed`: the states as words, and whether one of them is this.
pub fn is(context: &Context, units: &[String], wanted: ActiveState) -> Result<u8, Refusal> {
    let (mut found, mut unknown, mut states) = (false, None, Vec::new());
    for unit in units {
        match context.ask(context.client.unit(UnitAsked { unit: unit.clone() })) {
            Ok(view) => {
                found |= view.active_state == wanted;
                if !context.json {
                    say(&format!("{}\n", show::word(view.active_state)));
                }
                states.push(json!({"unit": view.unit, "active_state": view.active_state, "sub_state": view.sub_state}));
            }
            Err(refusal) if refusal.code == Refusal::NO_SUCH_UNIT => {
                show_refusal(&refusal);
                unknown.get_or_insert(refusal);
            }
            Err(refusal) => return Err(refusal),
        }
    }
    if context.json {
        say_json(&json!({"version": VERSION, "units": states}));
    }
    Ok(match (found, unknown) {
        (true, _) => 0,
        (false, Some(refusal)) => exit_status(&refusal),
        (false, None) => 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_value;

    fn view(unit: &str, sub: &str, next: Option<u64>) -> UnitView {
        from_value(json!({
            "version": 1, "unit": unit, "kind": "agent", "description": "", "active_state": "activating", "sub_state": sub,
            "result": "success", "exit": null, "run": 1, "main_pid": null, "restarts": 0, "since": 0, "triggered_by": "",
            "next_start_in_ms": next, "waits_for": null, "status_text": null, "last_error": null, "not_found": false,
            "needs_restart": false, "enforcement": []
        }))
        .expect("a view as loomd sends it")
    }

    #[test]
    fn a_wait_names_the_unit_that_is_waited_for_and_its_next_try() {
        let (chat, db) = (view("chat.agent", "waiting", None), view("db.agent", "auto-restart", Some(4_200)));
        assert_eq!(waiting_line(&db, None, 0), "waiting for db.agent (activating, auto-restart), next try in 4 s");
        let line =
            "waiting for db.agent (activating, auto-restart), next try in 4 s, which chat.agent needs, and 2 more";
        assert_eq!(waiting_line(&chat, Some(&db), 2), line);
    }
}
