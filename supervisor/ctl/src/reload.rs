//! reload: unit files as they are now.
//!
//! Job: `daemon-reload` and `apply`, the difference first. May touch: the control API. Keeps: with an error in a file nothing is
//! changed; only what changed is restarted.

use crate::answer::{Context, WIDTH, say, say_json};
use crate::{jobs, show, verify};
use loom_api::control::Control;
use loom_api::view::*;
use serde_json::json;

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
