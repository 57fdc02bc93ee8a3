//! state: what agents remember.
//!
//! Job: list, get, put, delete. May touch: the control API. Keeps: a value is JSON before it is sent.

use crate::answer::{Context, say_json, text_or_stdin, usage};
use crate::cli::State;
use loom_api::control::Control;
use loom_api::view::*;
use serde_json::Value;

pub fn run(context: &Context, command: State) -> Result<u8, Refusal> {
    let client = &context.client;
    match command {
        State::List { unit } => {
            let keys = context.ask(client.state_keys(UnitAsked { unit }))?;
            context.show(&keys, |keys| keys.keys.iter().map(|key| format!("{key}\n")).collect());
        }
        State::Get { unit, key } => {
            let entry = context.ask(client.state_get(StateAsked { unit, key }))?;
            context.show(&entry, |entry| format!("{}\n", entry.value));
        }
        State::Put { unit, key, value, if_version } => {
            let value: Value = serde_json::from_str(&text_or_stdin(value)?).map_err(|error| {
                usage("the value is no JSON").because(error.to_string()).try_this("a text needs its quotes: '\"text\"'")
            })?;
            let entry = context.ask(client.state_put(StatePut { unit, key, value, if_version }))?;
            let text = format!("`{}` has version {}", entry.key, entry.value_version);
            if context.json { say_json(&entry) } else { eprintln!("{text}") }
        }
        State::Delete { unit, key } => {
            let entry = context.ask(client.state_delete(StateAsked { unit, key }))?;
            if context.json { say_json(&entry) } else { eprintln!("`{}` is deleted", entry.key) }
        }
    }
    Ok(0)
}
