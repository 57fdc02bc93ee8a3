//! schema: JSON Schema of unit files, for editors. May touch: `keys`. Keeps: printed from the table that checks.

use super::keys::{self, Key, Shape};
use crate::ids::Kind;
use serde_json::{Map, Value, json};

/// The schema of one kind's unit files.
pub fn schema(kind: Kind) -> schemars::Schema {
    let fitting = || keys::SECTIONS.iter().filter(|section| section.kinds.contains(&kind));
    let mut properties = Map::new();
    let mut extend = Map::new();
    for section in fitting() {
        let mut body = table(section.keys, section.about);
        if let Some(named) = section.named {
            body["additionalProperties"] = table(named, "A profile.");
        }
        let mut appended = Map::new();
        if let Some(tables) = &section.tables {
            for (name, about) in tables.names {
                body["properties"][*name] = table(tables.keys, about);
                appended.insert((*name).to_owned(), lists(tables.keys));
            }
        }
        properties.insert(section.name.to_owned(), body);
        let mut body = lists(section.keys);
        for (name, table) in appended {
            body["properties"][name] = table;
        }
        if body["properties"].as_object().is_some_and(|properties| !properties.is_empty()) {
            extend.insert(section.name.to_owned(), body);
        }
    }
    properties.insert(
        "extend".to_owned(),
        json!({
            "type": "object",
            "description": "[extend.<section>] appends to lists instead of replacing them.",
            "properties": extend,
            "additionalProperties": false,
        }),
    );
    let whole = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("Loom {kind} unit file"),
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    sorted(whole).try_into().expect("an object is a schema")
}

/// Keys in order, whatever order serde_json was built to keep.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn table(keys: &[Key], about: &str) -> Value {
    let properties: Map<String, Value> = keys.iter().map(|key| (key.name.to_owned(), value(key))).collect();
    json!({ "type": "object", "description": about, "properties": properties, "additionalProperties": false })
}

/// The keys that can be appended to.
fn lists(keys: &[Key]) -> Value {
    let lists = keys.iter().filter(|key| key.shape.is_list());
    let properties: Map<String, Value> = lists.map(|key| (key.name.to_owned(), value(key))).collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn value(key: &Key) -> Value {
    let mut value = match key.shape {
        Shape::Text | Shape::Path | Shape::Signal => json!({ "type": "string" }),
        Shape::Texts | Shape::Units | Shape::Paths { .. } | Shape::Hosts | Shape::Filters | Shape::Rules(_) => {
            json!({ "type": "array", "items": { "type": "string" } })
        }
        Shape::Command => json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 }),
        Shape::Environment | Shape::Credentials => {
            json!({ "type": "object", "additionalProperties": { "type": "string" } })
        }
        Shape::Word { words, .. } => json!({ "enum": words }),
        Shape::Words { words, .. } => json!({ "type": "array", "items": { "enum": words } }),
        Shape::Time { .. } => json!({ "type": "string", "examples": ["30s", "500ms", "1min 30s"] }),
        Shape::Fraction { least, most } => json!({ "type": "number", "minimum": least, "maximum": most }),
        Shape::Count { least, most } => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Shape::Size => json!({ "type": "string", "pattern": "^[0-9]+[KMGTB]?$", "examples": ["256M"] }),
        Shape::ExitStatuses => {
            json!({ "type": "array", "items": { "type": "integer", "minimum": 0, "maximum": 255 } })
        }
        Shape::Ports => json!({ "type": "array", "items": { "type": "integer", "minimum": 1, "maximum": 65535 } }),
        Shape::Url => json!({ "type": "string", "pattern": "^https?://" }),
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::Afters => json!({
            "type": "array",
            "items": { "anyOf": [
                { "type": "string" },
                {
                    "type": "object",
                    "properties": { "unit": { "type": "string" }, "until": { "enum": keys::UNTILS } },
                    "required": ["unit"],
                    "additionalProperties": false,
                },
            ] },
        }),
        Shape::Commands => json!({
            "type": "array",
            "items": { "type": "array", "items": { "type": "string" }, "minItems": 1 },
        }),
        Shape::Conditions => {
            let names: Vec<&str> = keys::CONDITIONS.iter().map(|(name, _)| *name).collect();
            let examples: Vec<String> =
                keys::CONDITIONS.iter().map(|(name, example)| format!("{name}:{example}")).collect();
            let pattern = format!("^!?({}):", names.join("|"));
            json!({ "type": "array", "items": { "type": "string", "pattern": pattern, "examples": examples } })
        }
        Shape::Started => json!({ "type": "string" }),
        Shape::Expressions { example } => json!({
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }], "examples": [example],
        }),
        Shape::TimeZone => json!({ "type": "string", "examples": ["Europe/Berlin", "UTC"] }),
        Shape::User => json!({ "type": "string", "pattern": "^[A-Za-z0-9_.-]{1,32}$" }),
        Shape::Percent => json!({ "type": "string", "pattern": "^[0-9]+ *%$", "examples": ["50%", "200%"] }),
        Shape::Money => json!({ "type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,6})?$", "examples": ["1.50"] }),
        Shape::ProbeUrl => {
            json!({ "type": "string", "pattern": "^http://", "examples": ["http://127.0.0.1:8080/health"] })
        }
        Shape::Address => json!({ "type": "string", "pattern": ":[0-9]+$", "examples": ["127.0.0.1:8080"] }),
    };
    value["description"] = json!(key.about);
    value
}
