//! worker: what loomd and loom-worker say to each other.
//!
//! Job: the messages, each one JSON object behind a u32 length, big-endian. May touch: the parent.
//! Keeps: a request carries all that the worker needs to decide on the very descriptor it acts on.

use super::{PathRules, ToolError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The largest message, either way.
pub const WORKER_MESSAGE_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Directories (or files) that an agent reaches. Absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roots {
    /// Where relative paths start; read and written.
    pub workspace: String,
    /// Read only.
    #[serde(default)]
    pub read: Vec<String>,
    /// Read and written.
    #[serde(default)]
    pub write: Vec<String>,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerRequest {
    /// Comes back in the answer.
    pub id: u64,
    /// Canonical name.
    pub tool: String,
    /// As the agent gave them.
    pub args: Value,
    /// What it reaches.
    pub roots: Roots,
    /// Which resolved paths the rules admit.
    #[serde(flatten)]
    pub rules: PathRules,
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerAnswer {
    /// Of the request.
    pub id: u64,
    /// How it went.
    #[serde(flatten)]
    pub result: WorkerResult,
}

/// How a call went: `{"ok": …}` or `{"error": {…}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerResult {
    Ok(Value),
    Error(ToolError),
}

impl From<Result<Value, ToolError>> for WorkerResult {
    fn from(result: Result<Value, ToolError>) -> Self {
        match result {
            Ok(value) => Self::Ok(value),
            Err(error) => Self::Error(error),
        }
    }
}

impl From<WorkerResult> for Result<Value, ToolError> {
    fn from(result: WorkerResult) -> Self {
        match result {
            WorkerResult::Ok(value) => Ok(value),
            WorkerResult::Error(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PathRule, Reason};
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_look_as_agreed_and_read_back() {
        let request = WorkerRequest {
            id: 7,
            tool: "fs:read".into(),
            args: json!({ "path": "a" }),
            roots: Roots { workspace: "/w".into(), read: vec![], write: vec![] },
            rules: PathRules { allow: vec![PathRule::any("fs:read", "x.toml:1:1")], deny: vec![] },
        };
        let text = serde_json::to_value(&request).unwrap();
        assert_eq!(
            text,
            json!({ "id": 7, "tool": "fs:read", "args": { "path": "a" },
                    "roots": { "workspace": "/w", "read": [], "write": [] },
                    "allow": [{ "rule": "fs:read (x.toml:1:1)", "globs": [] }], "deny": [] })
        );
        assert_eq!(serde_json::from_value::<WorkerRequest>(text).unwrap(), request);
        let answer = WorkerAnswer { id: 7, result: Err(ToolError::of_tool(Reason::NotFound, "no")).into() };
        let text = serde_json::to_value(&answer).unwrap();
        assert_eq!(
            text,
            json!({ "id": 7, "error": { "code": "tool-error", "reason": "not-found", "message": "no", "outcome": "not-run" } })
        );
        assert_eq!(serde_json::from_value::<WorkerAnswer>(text).unwrap(), answer);
    }
}
