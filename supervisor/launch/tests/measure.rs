//! measure: what confinement costs a start, beside the same program started bare, in turn. Prints; asserts nothing on time.
#![allow(clippy::unwrap_used)]

#[path = "support/mod.rs"]
mod support;

use std::time::{Duration, Instant};
use support::{Bench, start};

const ROUNDS: usize = 100;

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

fn compare(what: &str, goal: &str, plan: &loom_core::launch_plan::LaunchPlan) {
    let (mut bare, mut confined) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let status = std::process::Command::new(&plan.argv[0])
            .args(&plan.argv[1..])
            .env_clear()
            .envs(&plan.env)
            .current_dir(&plan.directory)
            .status();
        bare.push(begin.elapsed());
        assert!(status.unwrap().success());
        let begin = Instant::now();
        let outcome = start(plan).finish();
        confined.push(begin.elapsed());
        outcome.success();
    }
    let (bare, confined) = (median(bare), median(confined));
    println!(
        "measured: {what}: + {:.2} ms ({confined:.2} ms confined) | {goal} | floor: {bare:.2} ms bare, {ROUNDS} rounds in turn",
        confined - bare
    );
}

#[test]
#[ignore = "a measurement: `make bench`"]
fn measure_what_confinement_adds_to_a_start() {
    let Some(mut bench) = Bench::new() else { return };
    compare("confined start of a static-like program (/bin/true)", "< 2.5 ms", &bench.plan("/bin/true", &[]));
    compare("confined start of Python", "< 5 ms", &bench.python_plan("pass", &[]));
}
