//! reload: unit files as they are now.
//!
//! Job: `daemon-reload` and `apply`, the difference first. May touch: the control API. Keeps: with an error in a file nothing is
//! changed; only what changed is restarted.

use crate::answer::{Context, WIDTH, say, say_json};
use crate::{jobs, show, verify};
use loom_api::control::Control;
use loom_api::view::*;
use serde_json::json;
use std::time::{Duration, Instant};

/// How long the loomd that follows may take: its own limit to be well, and the way back after that.
const REEXEC_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks whether it answers.
const REEXEC_PAUSE: Duration = Duration::from_millis(50);

pub fn daemon_reload(context: &Context, dry_run: bool) -> Result<u8, Refusal> {
    let report = read(context, dry_run)?;
    context.show(&report, show::reload);
    Ok(0)
}

/// Reads anew, and shows warnings.
pub fn read(context: &Context, dry_run: bool) -> Result<ReloadReport, Refusal> {
    let report = context.ask(context.client.daemon_reload(ReloadRequest { dry_run }))?;
    eprint!("{}", verify::render(&report.problems, WIDTH));
    Ok(report)
}

pub fn apply(context: &Context, dry_run: bool) -> Result<u8, Refusal> {
    let report = read(context, dry_run)?;
    if !context.json {
        say(&show::reload(&report));
    }
    let mut ended = jobs::Ended::default();
    if !dry_run && !report.needs_restart.is_empty() {
        let units = report.needs_restart.iter().map(ToString::to_string).collect();
        // In one request, so that each waits for those it depends on.
        ended = jobs::carry_out(context, JobsRequest::new(JobVerb::TryRestart, units))?;
    }
    if context.json {
        let (units, refusals) = (&ended.views, &ended.refusals);
        say_json(&json!({"version": VERSION, "reload": report, "units": units, "refusals": refusals}));
    }
    Ok(ended.status())
}

/// Lets loomd become the program that is installed now, and waits until one of the two answers.
pub fn daemon_reexec(context: &Context) -> Result<u8, Refusal> {
    let client = &context.client;
    let before = context.ask(client.status(Nothing {}))?.supervisor;
    match context.ask(client.daemon_reexec(Nothing {})) {
        // The process may be another before its answer is out.
        Ok(_) => {}
        Err(refusal) if refusal.code == Refusal::CUT_SHORT => {}
        Err(refusal) => return Err(refusal),
    }
    let end = Instant::now() + REEXEC_LIMIT;
    let after = context.ask(async {
        loop {
            match client.status(Nothing {}).await {
                // The process is the same, so its age is what tells them apart.
                Ok(view) if view.supervisor.since != before.since => return Ok(view.supervisor),
                Ok(_) => {}
                Err(refusal) if Instant::now() > end => return Err(refusal),
                Err(_) => {}
            }
            if Instant::now() > end {
                return Err(Refusal::new(Refusal::FAILED, "the loomd before still answers")
                    .because(format!("no other did within {} s", REEXEC_LIMIT.as_secs()))
                    .try_this("see `loomctl logs`"));
            }
            tokio::time::sleep(REEXEC_PAUSE).await;
        }
    })?;
    if let Some(because) = after.came_back {
        return Err(Refusal::new(Refusal::FAILED, "the new loomd was not well: the one before it is back")
            .because(because)
            .try_this("see `loomctl logs`"));
    }
    if context.json {
        say_json(&json!({"version": VERSION, "before": before.loomd, "loomd": after.loomd, "pid": after.pid}));
    } else {
        eprintln!("loomd {} follows loomd {}, pid {}", after.loomd, before.loomd, after.pid);
    }
    Ok(0)
}
