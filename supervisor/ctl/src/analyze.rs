//! analyze: what takes long, and what takes much.
//!
//! Job: `analyze blame`, `analyze critical-chain`, `top`. May touch: the control API, the terminal. Keeps: what this loomd did not
//! see start has no time, and is said to have none.

use crate::answer::{Context, say, say_json};
use crate::cli::Analyze;
use crate::show::{row, table, word};
use loom_api::control::Control;
use loom_api::view::*;
use loom_core::ids::UnitId;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

/// The first sample of `top`, whose processor time needs two.
const FIRST_SAMPLE: Duration = Duration::from_millis(250);
/// Between two samples at least.
const SAMPLE_MIN: Duration = Duration::from_millis(100);

pub fn run(context: &Context, command: Analyze) -> Result<u8, Refusal> {
    let graph = context.ask(context.client.graph(Nothing {}))?;
    match command {
        Analyze::Blame => {
            let mut took: Vec<(&GraphNode, u64)> =
                graph.units.iter().filter_map(|node| Some((node, took(node)?))).collect();
            took.sort_by_key(|(node, ms)| (std::cmp::Reverse(*ms), node.unit.to_string()));
            if context.json {
                let units: Vec<Value> =
                    took.iter().map(|(node, ms)| json!({"unit": node.unit, "took_ms": ms})).collect();
                say_json(&json!({"version": VERSION, "units": units}));
            } else if took.is_empty() {
                eprintln!("no unit was started since this loomd began");
            } else {
                let rows: Vec<Vec<String>> = took
                    .iter()
                    .map(|(node, ms)| row([&format!("{:>10}", time(*ms)), &node.unit.to_string()]))
                    .collect();
                say(&table(&rows));
            }
        }
        Analyze::CriticalChain { unit } => {
            let root = match unit {
                Some(asked) => loom_api::control::resolve_unit(&asked, graph.units.iter().map(|node| &node.unit))?,
                None => match graph.units.iter().max_by_key(|node| node.active_at) {
                    Some(last) if last.active_at.is_some() => last.unit.clone(),
                    _ => {
                        eprintln!("no unit was started since this loomd began");
                        return Ok(0);
                    }
                },
            };
            let chain = critical_chain(&graph, &root);
            let first = chain.iter().filter_map(|node| node.began_at).min().unwrap_or(0);
            if context.json {
                let units: Vec<Value> = chain
                    .iter()
                    .map(|node| {
                        let at = node.active_at.map(|at| at.saturating_sub(first));
                        json!({"unit": node.unit, "active_at_ms": at, "took_ms": took(node)})
                    })
                    .collect();
                say_json(&json!({"version": VERSION, "units": units}));
            } else {
                say(&chain_text(&chain, first));
            }
        }
    }
    Ok(0)
}

/// How long a unit's newest start took.
fn took(node: &GraphNode) -> Option<u64> {
    Some(node.active_at?.saturating_sub(node.began_at?))
}

/// `12ms`, `1.204s`.
fn time(ms: u64) -> String {
    if ms < 1000 { format!("{ms}ms") } else { format!("{}.{:03}s", ms / 1000, ms % 1000) }
}

/// From a unit back: of what it starts after, the one that came up last before it.
fn critical_chain<'a>(graph: &'a GraphView, root: &UnitId) -> Vec<&'a GraphNode> {
    let nodes: BTreeMap<&UnitId, &GraphNode> = graph.units.iter().map(|node| (&node.unit, node)).collect();
    let mut chain = Vec::new();
    let mut seen = BTreeSet::new();
    let mut next = nodes.get(root).copied();
    while let Some(node) = next {
        if !seen.insert(&node.unit) {
            break;
        }
        chain.push(node);
        let earlier = crate::show::started_before(graph, &node.unit);
        let came_before = |other: &&GraphNode| match (other.active_at, node.active_at) {
            (Some(theirs), Some(own)) => theirs <= own,
            (Some(_), None) => true,
            (None, _) => false,
        };
        next = earlier
            .iter()
            .filter_map(|unit| nodes.get(unit).copied())
            .filter(|other| !seen.contains(&other.unit))
            .filter(came_before)
            .max_by_key(|other| other.active_at);
    }
    chain
}

fn chain_text(chain: &[&GraphNode], first: u64) -> String {
    let mut text = String::new();
    for (depth, node) in chain.iter().enumerate() {
        let branch = if depth == 0 { String::new() } else { format!("{}└─", "  ".repeat(depth - 1)) };
        let at = node.active_at.map(|at| format!(" @{}", time(at.saturating_sub(first))));
        let took = took(node).map(|ms| format!(" +{}", time(ms)));
        let not = if at.is_none() { " (not seen to start)" } else { "" };
        let _ = writeln!(text, "{branch}{}{}{}{not}", node.unit, at.unwrap_or_default(), took.unwrap_or_default(),);
    }
    text
}

pub fn top(context: &Context, iterations: Option<u64>, delay: Duration) -> Result<u8, Refusal> {
    let is_terminal = std::io::stdout().is_terminal() && !context.json;
    context.ask(async {
        let mut before = context.client.usage(Nothing {}).await?;
        let mut pause = FIRST_SAMPLE.min(delay).max(SAMPLE_MIN);
        let mut shown = 0;
        while iterations.is_none_or(|most| shown < most) {
            tokio::time::sleep(pause).await;
            pause = delay.max(SAMPLE_MIN);
            let now = context.client.usage(Nothing {}).await?;
            if context.json {
                say_json(&top_json(&before, &now));
            } else {
                let clear = if is_terminal { "\x1b[H\x1b[2J" } else { "" };
                let gap = if shown > 0 && !is_terminal { "\n" } else { "" };
                say(&format!("{clear}{gap}{}", top_text(&before, &now)));
            }
            before = now;
            shown += 1;
        }
        Ok(0)
    })
}

/// Of one processor, since the sample before.
fn cpu_percent(before: &UsageView, now: &UsageView, unit: &UnitUsage) -> f64 {
    let was = before.units.iter().find(|other| other.unit == unit.unit).map_or(unit.cpu_micros, |it| it.cpu_micros);
    let span = now.at_micros.saturating_sub(before.at_micros).max(1);
    let percent = unit.cpu_micros.saturating_sub(was) as f64 * 100.0 / span as f64;
    (percent * 10.0).round() / 10.0
}

fn top_json(before: &UsageView, now: &UsageView) -> Value {
    let units = now.units.iter().map(|unit| {
        let mut object = json!(unit);
        object["cpu_percent"] = json!(cpu_percent(before, now, unit));
        object
    });
    json!({"version": VERSION, "units": units.collect::<Vec<_>>()})
}

fn top_text(before: &UsageView, now: &UsageView) -> String {
    let mut units: Vec<(&UnitUsage, f64)> =
        now.units.iter().map(|unit| (unit, cpu_percent(before, now, unit))).collect();
    units.sort_by(|(a, used_a), (b, used_b)| {
        used_b.total_cmp(used_a).then(b.memory_bytes.cmp(&a.memory_bytes)).then(a.unit.cmp(&b.unit))
    });
    let mut rows = vec![row(["UNIT", "STATE", "PID", "CPU%", "MEMORY", "TASKS", "RESTARTS"])];
    rows.extend(units.into_iter().map(|(unit, cpu)| {
        let pid = unit.main_pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        row([
            &unit.unit.to_string(),
            &format!("{} ({})", word(unit.active_state), unit.sub_state),
            &pid,
            &format!("{cpu:.1}"),
            &size(unit.memory_bytes),
            &unit.tasks.to_string(),
            &unit.restarts.to_string(),
        ])
    }));
    table(&rows)
}

/// `12.3M`
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes}B"),
        1024..1_048_576 => format!("{:.1}K", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1}M", bytes as f64 / 1_048_576.0),
        1_073_741_824.. => format!("{:.1}G", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(unit: &str, began: u64, active: u64, after: &[&str]) -> GraphNode {
        let after = after.iter().map(|unit| unit.parse().unwrap()).collect();
        GraphNode {
            unit: unit.parse().unwrap(),
            active_state: None,
            began_at: Some(began),
            active_at: Some(active),
            names: [("after".to_owned(), after)].into(),
        }
    }

    #[test]
    fn the_chain_goes_through_what_came_up_last() {
        let units = vec![
            node("all.target", 0, 3_500, &["chat.agent", "quick.service"]),
            node("chat.agent", 2_000, 3_400, &["db.service", "quick.service"]),
            node("db.service", 10, 1_900, &[]),
            node("quick.service", 10, 12, &[]),
        ];
        let graph = GraphView { version: VERSION, units };
        let chain = critical_chain(&graph, &"all.target".parse().unwrap());
        assert_eq!(
            chain_text(&chain, 0),
            "all.target @3.500s +3.500s\n└─chat.agent @3.400s +1.400s\n  └─db.service @1.900s +1.890s\n"
        );
    }

    #[test]
    fn processor_time_is_of_the_time_between_two_samples() {
        let sample = |at_micros, cpu_micros| UsageView {
            version: VERSION,
            at_micros,
            units: vec![UnitUsage {
                unit: "a.agent".parse().unwrap(),
                active_state: loom_core::lifecycle::ActiveState::Active,
                sub_state: "running".into(),
                main_pid: Some(7),
                cpu_micros,
                memory_bytes: 12 << 20,
                tasks: 2,
                restarts: 1,
            }],
        };
        let text = top_text(&sample(1_000_000, 500), &sample(3_000_000, 1_000_500));
        assert!(text.ends_with("a.agent  active (running)  7    50.0  12.0M   2      1\n"), "{text}");
    }
}
