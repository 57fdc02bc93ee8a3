//! problem: what is wrong with a file, where, why, and the way out.
//!
//! Job: the one form in which loomd, `loomctl verify` and `daemon-reload` speak of bad files. May touch: nothing.

use serde::{Deserialize, Serialize};

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Error,
    Warning,
}

/// One problem of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// Path as given.
    pub file: String,
    /// From 1. 0 where the problem is the file as a whole.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Length of the marked place, in characters.
    pub length: usize,
    /// The whole line, for the picture.
    pub source_line: String,
    /// What is wrong: "unknown restart policy `onfailure`".
    pub message: String,
    /// Short note at the place: "not a policy".
    pub label: String,
    /// The way out: "did you mean `on-failure`?".
    pub help: String,
}
