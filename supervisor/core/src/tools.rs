//! tools: which tools there are, and whether an agent may call one with these arguments.
//!
//! Job: names, arguments, rules and decisions (deny, then allow, otherwise denied), and the messages between loomd and
//! loom-worker. May touch: `ids`, `unit`, `glob`. May not: open anything.
//! Keeps: a decision names the rule and the line that made it; who asks is never an argument.

mod arguments;
mod decision;
mod error;
mod rule;
mod worker;

pub use arguments::{BadArguments, Call, Encoding, ListArgs, ReadArgs, WriteArgs, WriteMode};
pub use arguments::{LIST_DEPTH_MAX, LIST_LIMIT_MAX, PATH_MAX_BYTES, READ_DEFAULT_BYTES, READ_MAX_BYTES};
pub use decision::{Decision, PathRule, PathRules, Place, Rules};
pub use error::{ErrorCode, Outcome, Reason, ToolError};
pub use rule::{BadRule, List, Rule};
pub use worker::{Roots, WORKER_MESSAGE_MAX_BYTES, WorkerAnswer, WorkerRequest, WorkerResult};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What repeating a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Changes nothing.
    Read,
    /// Doing it twice leaves what doing it once leaves.
    Idempotent,
    /// Must not be repeated on a guess.
    Once,
}

/// A tool that Loom itself carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Native {
    FsRead,
    FsList,
    FsWrite,
}

/// A tool as a model sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Definition {
    /// `area:verb`.
    pub name: String,
    /// The name towards model APIs, which refuse a colon: `area__verb`.
    pub alias: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON Schema of the arguments.
    pub schema: Value,
    /// The worst that a call can be.
    pub effect: Effect,
}

impl Native {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Native; 3] = [Native::FsList, Native::FsRead, Native::FsWrite];

    /// The canonical name.
    pub fn name(self) -> &'static str {
        match self {
            Native::FsRead => "fs:read",
            Native::FsList => "fs:list",
            Native::FsWrite => "fs:write",
        }
    }

    /// The name towards models.
    pub fn alias(self) -> &'static str {
        match self {
            Native::FsRead => "fs__read",
            Native::FsList => "fs__list",
            Native::FsWrite => "fs__write",
        }
    }

    /// Finds a tool by its canonical name or its alias. A table, no string surgery.
    pub fn find(name: &str) -> Option<Native> {
        Native::ALL.into_iter().find(|tool| tool.name() == name || tool.alias() == name)
    }

    /// The worst that a call can be; [`Call::effect`] knows one call.
    pub fn effect(self) -> Effect {
        match self {
            Native::FsRead | Native::FsList => Effect::Read,
            Native::FsWrite => Effect::Once,
        }
    }

    fn description(self) -> &'static str {
        match self {
            Native::FsRead => {
                "Reads a file of the workspace. Returns content, bytes (returned), total, eof, and the sha256 of the whole file."
            }
            Native::FsList => {
                "Lists a directory of the workspace. Returns entries with path, type and size, in bytewise order."
            }
            Native::FsWrite => {
                "Writes a text file of the workspace, whole or not at all. mode: create (must not exist), replace, append."
            }
        }
    }

    /// JSON Schema of the arguments.
    pub fn schema(self) -> Value {
        let path =
            |what: &str| json!({ "type": "string", "minLength": 1, "maxLength": PATH_MAX_BYTES, "description": what });
        match self {
            Native::FsRead => json!({
                "type": "object", "additionalProperties": false, "required": ["path"],
                "properties": {
                    "path": path("File, relative to the workspace."),
                    "offset": { "type": "integer", "minimum": 0, "default": 0, "description": "First byte to return." },
                    "limit": { "type": "integer", "minimum": 1, "maximum": READ_MAX_BYTES, "default": READ_DEFAULT_BYTES,
                               "description": "Bytes to return, at most." },
                    "encoding": { "type": "string", "enum": ["utf8", "base64"], "default": "utf8" },
                },
            }),
            Native::FsList => json!({
                "type": "object", "additionalProperties": false,
                "properties": {
                    "path": { "type": "string", "minLength": 1, "maxLength": PATH_MAX_BYTES, "default": ".",
                              "description": "Directory, relative to the workspace." },
                    "depth": { "type": "integer", "minimum": 1, "maximum": LIST_DEPTH_MAX, "default": 1,
                               "description": "1: only the directory itself." },
                    "glob": { "type": "string", "minLength": 1, "description": "Only entries whose path below the directory matches: *, ?, **." },
                    "limit": { "type": "integer", "minimum": 1, "maximum": LIST_LIMIT_MAX, "default": LIST_LIMIT_MAX },
                },
            }),
            Native::FsWrite => json!({
                "type": "object", "additionalProperties": false, "required": ["path", "content"],
                "properties": {
                    "path": path("File, relative to the workspace."),
                    "content": { "type": "string" },
                    "mode": { "type": "string", "enum": ["create", "replace", "append"], "default": "create" },
                    "expect_sha256": { "type": "string", "pattern": "^[0-9a-f]{64}$",
                                       "description": "Write only if the file's present content has this hash." },
                    "parents": { "type": "boolean", "default": false, "description": "Make missing directories." },
                },
            }),
        }
    }

    /// Names of the arguments, for rules.
    fn argument_names(self) -> &'static [&'static str] {
        match self {
            Native::FsRead => &["path", "offset", "limit", "encoding"],
            Native::FsList => &["path", "depth", "glob", "limit"],
            Native::FsWrite => &["path", "content", "mode", "expect_sha256", "parents"],
        }
    }

    /// The tool as a model sees it.
    pub fn definition(self) -> Definition {
        Definition {
            name: self.name().to_owned(),
            alias: self.alias().to_owned(),
            description: self.description().to_owned(),
            schema: self.schema(),
            effect: self.effect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_valid_for_model_apis_and_finds_its_tool() {
        for tool in Native::ALL {
            assert_eq!(Native::find(tool.name()), Some(tool));
            assert_eq!(Native::find(tool.alias()), Some(tool));
            assert_eq!(tool.alias(), tool.name().replace(':', "__"));
            assert!(tool.alias().len() <= 64 && tool.alias().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        }
        assert_eq!(Native::find("fs:format"), None);
    }

    #[test]
    fn the_schema_and_the_rules_know_the_same_arguments() {
        for tool in Native::ALL {
            let schema = tool.schema();
            let mut in_schema: Vec<_> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
            let mut in_rules = tool.argument_names().to_vec();
            in_schema.sort_unstable();
            in_rules.sort_unstable();
            assert_eq!(in_schema, in_rules, "{}", tool.name());
        }
    }
}
