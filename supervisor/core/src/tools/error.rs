//! error: how a call fails, in one object everywhere.
//!
//! Job: codes, reasons and outcomes of chapter "Tools". May touch: nothing. Keeps: every error says whether the tool ran.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Whether the tool ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing was done.
    NotRun,
    /// It may have been done.
    Unknown,
    /// It was done; only the answer is missing.
    Done,
}

/// What kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// No such tool, or not in this agent's list: same text for both.
    ToolNotFound,
    /// Names the JSON pointer and what was expected.
    InvalidArguments,
    /// A rule, or none, decided so.
    Denied,
    /// Queue full, or the audit log cannot be written.
    Unavailable,
    /// The worker could not be started.
    ServerFailed,
    /// The worker ended in the call.
    ServerDied,
    /// The clock ran out.
    Timeout,
    /// By the agent, a person, or its stop.
    Cancelled,
    /// Unusable answer.
    ProtocolError,
    /// Over the hard cap.
    ResultTooLarge,
    /// The tool's own error; the reason says which.
    ToolError,
    /// Ours; always a bug.
    Internal,
}

/// Why a tool itself failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    NotFound,
    IsDirectory,
    NotDirectory,
    NotRegular,
    NotText,
    OutsideWorkspace,
    Exists,
    Conflict,
    NoSpace,
    /// The kernel refused: the sandbox or the file's mode.
    Denied,
    TooLarge,
    /// The path kept changing while it was resolved.
    Changed,
    Io,
}

macro_rules! words {
    ($type:ty { $($variant:ident => $word:literal),* $(,)? }) => {
        impl $type {
            /// The word on the wire.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.word()) }
        }
    };
}
words!(Outcome { NotRun => "not-run", Unknown => "unknown", Done => "done" });
words!(ErrorCode {
    ToolNotFound => "tool-not-found", InvalidArguments => "invalid-arguments", Denied => "denied",
    Unavailable => "unavailable", ServerFailed => "server-failed", ServerDied => "server-died", Timeout => "timeout",
    Cancelled => "cancelled", ProtocolError => "protocol-error", ResultTooLarge => "result-too-large",
    ToolError => "tool-error", Internal => "internal",
});
words!(Reason {
    NotFound => "not-found", IsDirectory => "is-directory", NotDirectory => "not-directory", NotRegular => "not-regular",
    NotText => "not-text", OutsideWorkspace => "outside-workspace", Exists => "exists", Conflict => "conflict",
    NoSpace => "no-space", Denied => "denied", TooLarge => "too-large", Changed => "changed", Io => "io",
});

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct ToolError {
    /// What kind.
    pub code: ErrorCode,
    /// Only with `tool-error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// For the model: what failed on what, and the way out.
    pub message: String,
    /// Whether the tool ran.
    pub outcome: Outcome,
    /// The rule that decided, as `text (origin)`. For the audit log; never shown to the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

impl ToolError {
    /// An error of the broker.
    pub fn new(code: ErrorCode, outcome: Outcome, message: impl Into<String>) -> Self {
        Self { code, reason: None, message: message.into(), outcome, rule: None }
    }

    /// An error of the tool; nothing was done.
    pub fn of_tool(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code: ErrorCode::ToolError,
            reason: Some(reason),
            message: message.into(),
            outcome: Outcome::NotRun,
            rule: None,
        }
    }

    /// Refused by rules. What the agent gets names no rule.
    pub fn denied(tool: &str, path: Option<&str>, rule: Option<String>) -> Self {
        let on = path.map(|path| format!(" on `{path}`")).unwrap_or_default();
        Self {
            code: ErrorCode::Denied,
            reason: None,
            message: format!("`{tool}`{on} is denied by the rules of this agent's [tools] section"),
            outcome: Outcome::NotRun,
            rule,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_wire() {
        for (word, json) in [
            (Reason::OutsideWorkspace.word(), serde_json::to_value(Reason::OutsideWorkspace)),
            (ErrorCode::ServerDied.word(), serde_json::to_value(ErrorCode::ServerDied)),
            (Outcome::NotRun.word(), serde_json::to_value(Outcome::NotRun)),
        ] {
            assert_eq!(json.unwrap(), word);
        }
    }
}
