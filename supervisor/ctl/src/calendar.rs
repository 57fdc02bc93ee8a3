//! calendar: when an expression elapses.
//!
//! Job: `loomctl calendar`: an expression's normal form and its next times. May touch: the clock, this machine's time zone.
//! Keeps: the same code decides here and in loomd.

use crate::answer::{say, say_json, usage};
use crate::logs::now_ms;
use crate::show;
use loom_api::view::{Refusal, VERSION};
use loom_core::schedule::Expression;
use loom_core::schedule::zone;
use serde_json::json;

/// Times shown at most.
const ITERATIONS_MAX: usize = 1000;

pub fn run(text: &str, iterations: usize, timezone: &str, is_json: bool) -> Result<u8, Refusal> {
    let expression = Expression::parse(text).map_err(|problem| {
        let place = format!(
            "{}\n  {}{} {}",
            text,
            " ".repeat(columns(text, 0, problem.at.start)),
            "^".repeat(columns(text, problem.at.start, problem.at.end).max(1)),
            problem.label
        );
        usage(format!("{}\n  {place}", problem.what)).try_this(problem.help)
    })?;
    let iterations = iterations.min(ITERATIONS_MAX);
    let zone = expression.zone(&loom_api::zone::zones(), timezone).map_err(|error| {
        let refusal = usage(error.to_string());
        match zone::meant(timezone) {
            Some(meant) => refusal.try_this(format!("did you mean `{meant}`?")),
            None => refusal.try_this("use an IANA name, such as `Europe/Berlin`"),
        }
    })?;
    let now = now_ms();
    let times: Vec<u64> =
        std::iter::successors(expression.next(&zone, now), |at| expression.next(&zone, *at)).take(iterations).collect();
    if is_json {
        say_json(&json!({"version": VERSION, "normal": expression.to_string(), "next": times}));
        return Ok(u8::from(times.is_empty()));
    }
    let mut lines = format!("{:>10}: {expression}\n", "normal");
    for (number, at) in times.iter().enumerate() {
        let label = if number == 0 { "next" } else { "then" };
        lines.push_str(&format!("{label:>10}: {}, in {}\n", zone.show(*at), show::span(at.saturating_sub(now))));
    }
    if times.is_empty() {
        lines.push_str("      next: never, within ten years\n");
    }
    say(&lines);
    Ok(u8::from(times.is_empty()))
}

/// Characters between two bytes of a text.
fn columns(text: &str, from: usize, to: usize) -> usize {
    text.char_indices().filter(|(at, _)| (from..to).contains(at)).count()
}
