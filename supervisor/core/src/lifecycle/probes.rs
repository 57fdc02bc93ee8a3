//! probes: how a unit's health is asked.
//!
//! Job: which probe is asked when, and what its answers mean. May touch: the types beside it, `unit`.
//! Keeps: probes of a unit never overlap; a period goes from the end of one to the beginning of the next.
//!
//! - `startup` is asked alone until it passes; then `liveness` and `readiness` are, at once and then by their periods.
//! - A probe that hangs is killed and has failed; it counts once, when its time is up. One that could not be tried because
//!   loomd had no room for it says nothing about the unit and does not count.

use super::turn::Turn;
use super::{Control, Controlled, Effect, Exit, LaunchFailure, Life, Said, State, Why};
use crate::ids::Millis;
use crate::unit::{Health, Probe};

/// What is known of the live run's health.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Probes {
    /// `startup` has passed.
    pub started: bool,
    /// `readiness` passes.
    ready: bool,
    /// Whether that it is healthy was said last.
    said: bool,
    asking: Option<Asking>,
    startup: Row,
    readiness: Row,
    liveness: Row,
}

/// The probe that is being asked. `late_at`: when its time is up; `None` once it is being killed.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Asking {
    control: Control,
    late_at: Option<Millis>,
}

/// When a probe is asked next, and what it answered in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Row {
    due: Millis,
    failures: u32,
    successes: u32,
}

impl Probes {
    /// Of a run that is adopted: all is asked anew, but a startup that has passed is not.
    pub fn adopted(started: bool) -> Self {
        Self { started, ..Self::default() }
    }

    /// Whether nothing speaks against the unit's being healthy.
    pub fn pass(&self, health: &Health) -> bool {
        (health.startup.is_none() || self.started) && (health.readiness.is_none() || self.ready)
    }

    /// When something is to be done about a probe.
    pub fn due(&self, health: &Health) -> Option<Millis> {
        match &self.asking {
            Some(asking) => asking.late_at,
            None => self.next(health).map(|(_, due)| due),
        }
    }

    /// The probe that is asked next.
    fn next(&self, health: &Health) -> Option<(Control, Millis)> {
        if health.startup.is_some() && !self.started {
            return Some((Control::Startup, self.startup.due));
        }
        let liveness = health.liveness.as_ref().map(|_| (Control::Liveness, self.liveness.due));
        let readiness = health.readiness.as_ref().map(|_| (Control::Readiness, self.readiness.due));
        [liveness, readiness].into_iter().flatten().min_by_key(|(_, due)| *due)
    }

    fn row(&mut self, control: Control) -> &mut Row {
        match control {
            Control::Readiness => &mut self.readiness,
            Control::Liveness => &mut self.liveness,
            Control::Startup | Control::StartPre(_) | Control::Reload | Control::Stop | Control::StopPost(_) => {
                &mut self.startup
            }
        }
    }

    /// The unit stood still for so long.
    pub fn delay(&mut self, by: Millis) {
        for row in [&mut self.startup, &mut self.readiness, &mut self.liveness] {
            row.due = row.due + by;
        }
        if let Some(Asking { late_at: Some(late_at), .. }) = &mut self.asking {
            *late_at = *late_at + by;
        }
    }

    /// Gives up the probe that is being asked, and says which is to be killed.
    pub fn give_up(&mut self) -> Option<Control> {
        let asking = self.asking.take()?;
        asking.late_at.map(|_| asking.control)
    }
}

impl Turn<'_> {
    /// Asks the probe that is due, if none is being asked.
    pub(super) fn ask_probe(&mut self, life: &mut Life) {
        if !matches!(life.state, State::Running { .. }) || life.watch.probes.asking.is_some() {
            return;
        }
        let Some((control, due)) = life.watch.probes.next(&self.unit.health) else { return };
        if let Some(probe) = control.probe(self.unit)
            && due <= self.now.mono
        {
            life.watch.probes.asking = Some(Asking { control, late_at: Some(self.now.mono + probe.timeout) });
            self.effects.push(Effect::Run(control));
        }
    }

    /// The probe that is being asked may be late.
    pub(super) fn time_probe(&mut self, life: &mut Life) {
        if let Some(Asking { control, late_at: Some(late_at) }) = life.watch.probes.asking
            && late_at <= self.now.mono
        {
            life.watch.probes.asking = Some(Asking { control, late_at: None });
            self.effects.push(Effect::EndControl(control));
            self.answered(life, control, false);
        }
    }

    /// A probe is over, whether it was in time or not.
    pub(super) fn probed(&mut self, life: &mut Life, control: Control, end: &Controlled) {
        let Some(asking) = life.watch.probes.asking.filter(|asking| asking.control == control) else { return };
        life.watch.probes.asking = None;
        let Some(probe) = control.probe(self.unit) else { return };
        life.watch.probes.row(control).due = self.now.mono + probe.period;
        if asking.late_at.is_none() {
            return;
        }
        match end {
            Controlled::Exited(exit) => self.answered(life, control, *exit == Exit::Code(0)),
            Controlled::Failed(LaunchFailure::Stage(_) | LaunchFailure::Refused(_)) => {
                self.answered(life, control, false);
            }
            Controlled::Failed(LaunchFailure::Resources(_)) => {}
        }
    }

    fn answered(&mut self, life: &mut Life, control: Control, passed: bool) {
        let Some(&Probe { failures, successes, .. }) = control.probe(self.unit) else { return };
        let row = life.watch.probes.row(control);
        (row.successes, row.failures) =
            if passed { (row.successes.saturating_add(1), 0) } else { (0, row.failures.saturating_add(1)) };
        let (is_enough, is_too_much) = (row.successes >= successes.max(1), row.failures >= failures.max(1));
        match control {
            Control::Startup if is_enough => life.watch.probes.started = true,
            Control::Readiness if is_enough => life.watch.probes.ready = true,
            Control::Readiness if is_too_much => life.watch.probes.ready = false,
            Control::Startup | Control::Liveness if is_too_much => {
                let failures = life.watch.probes.row(control).failures;
                self.effects.push(Effect::Inspect);
                self.end_run(life, Why::Unhealthy { probe: control, failures });
            }
            Control::Startup
            | Control::Readiness
            | Control::Liveness
            | Control::StartPre(_)
            | Control::Reload
            | Control::Stop
            | Control::StopPost(_) => {}
        }
        self.say_health(life);
    }

    fn say_health(&mut self, life: &mut Life) {
        if self.unit.health.startup.is_none() && self.unit.health.readiness.is_none() {
            return;
        }
        let healthy = life.is_healthy(self.unit);
        if matches!(life.state, State::Running { .. }) && life.watch.probes.said != healthy {
            life.watch.probes.said = healthy;
            self.effects.push(Effect::Say(Said::Healthy { healthy }));
        }
    }
}
