//! arguments: what a call asks for, checked.
//!
//! Job: from JSON to typed arguments, with every default filled in. May touch: the parent.
//! Keeps: a `Call` is within every limit because it exists; a problem names the JSON pointer and what was expected.

use super::{Effect, Native};
use serde_json::{Map, Value};

/// Bytes that `fs:read` returns unless told otherwise.
pub const READ_DEFAULT_BYTES: u64 = 64 * 1024;
/// Bytes that `fs:read` returns at most.
pub const READ_MAX_BYTES: u64 = 1024 * 1024;
/// Directories below one another that `fs:list` visits at most.
pub const LIST_DEPTH_MAX: u64 = 5;
/// Entries that `fs:list` returns at most.
pub const LIST_LIMIT_MAX: u64 = 1000;
/// The longest path, as in Linux.
pub const PATH_MAX_BYTES: usize = 4095;

/// What is wrong with the arguments.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("argument `{pointer}`: expected {expected}")]
pub struct BadArguments {
    /// JSON pointer; empty for the whole.
    pub pointer: String,
    /// What would have been right.
    pub expected: String,
}

/// A checked call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Read(ReadArgs),
    List(ListArgs),
    Write(WriteArgs),
}

/// `fs:read`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadArgs {
    pub path: String,
    pub offset: u64,
    pub limit_bytes: u64,
    pub encoding: Encoding,
}

/// How file content travels in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Utf8,
    Base64,
}

/// `fs:list`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListArgs {
    pub path: String,
    pub depth: u64,
    pub glob: Option<String>,
    pub limit: u64,
}

/// `fs:write`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteArgs {
    pub path: String,
    pub content: String,
    pub mode: WriteMode,
    pub expect_sha256: Option<String>,
    pub parents: bool,
}

/// What `fs:write` does with a file that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// Refuse.
    Create,
    /// Put the new content in its place.
    Replace,
    /// Keep it and add.
    Append,
}

impl Call {
    /// Checks arguments against what the tool takes.
    pub fn parse(tool: Native, args: &Value) -> Result<Call, BadArguments> {
        let Value::Object(map) = args else {
            return Err(BadArguments { pointer: String::new(), expected: "a JSON object".into() });
        };
        let known = tool.argument_names();
        if let Some(stranger) = map.keys().find(|key| !known.contains(&key.as_str())) {
            let escaped = stranger.replace('~', "~0").replace('/', "~1");
            let expected = format!("only {} here", known.join(", "));
            return Err(BadArguments { pointer: format!("/{escaped}"), expected });
        }
        let args = Args(map);
        Ok(match tool {
            Native::FsRead => Call::Read(ReadArgs {
                path: args.path(None)?,
                offset: args.number("offset", 0, 0, i64::MAX as u64)?,
                limit_bytes: args.number("limit", READ_DEFAULT_BYTES, 1, READ_MAX_BYTES)?,
                encoding: match args.word("encoding", "utf8", &["utf8", "base64"])? {
                    "base64" => Encoding::Base64,
                    _ => Encoding::Utf8,
                },
            }),
            Native::FsList => Call::List(ListArgs {
                path: args.path(Some("."))?,
                depth: args.number("depth", 1, 1, LIST_DEPTH_MAX)?,
                glob: args.text("glob")?,
                limit: args.number("limit", LIST_LIMIT_MAX, 1, LIST_LIMIT_MAX)?,
            }),
            Native::FsWrite => {
                let mode = match args.word("mode", "create", &["create", "replace", "append"])? {
                    "replace" => WriteMode::Replace,
                    "append" => WriteMode::Append,
                    _ => WriteMode::Create,
                };
                let expect_sha256 = args.text("expect_sha256")?;
                if let Some(hash) = &expect_sha256 {
                    if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
                        return Err(bad("expect_sha256", "64 lower-case hexadecimal digits"));
                    }
                    if mode == WriteMode::Create {
                        return Err(bad(
                            "expect_sha256",
                            "mode replace or append beside it: a new file has no content",
                        ));
                    }
                }
                Call::Write(WriteArgs {
                    path: args.path(None)?,
                    content: args.text("content")?.ok_or_else(|| bad("content", "a string, which is required"))?,
                    mode,
                    expect_sha256,
                    parents: args.flag("parents")?,
                })
            }
        })
    }

    /// The tool it calls.
    pub fn tool(&self) -> Native {
        match self {
            Call::Read(_) => Native::FsRead,
            Call::List(_) => Native::FsList,
            Call::Write(_) => Native::FsWrite,
        }
    }

    /// The path it asks for, as given.
    pub fn path(&self) -> &str {
        match self {
            Call::Read(args) => &args.path,
            Call::List(args) => &args.path,
            Call::Write(args) => &args.path,
        }
    }

    /// What repeating this very call does. A write that expects a hash would, repeated, meet its own result: once.
    pub fn effect(&self) -> Effect {
        match self {
            Call::Read(_) | Call::List(_) => Effect::Read,
            Call::Write(WriteArgs { mode: WriteMode::Replace, expect_sha256: None, .. }) => Effect::Idempotent,
            Call::Write(_) => Effect::Once,
        }
    }
}

fn bad(name: &str, expected: impl Into<String>) -> BadArguments {
    BadArguments { pointer: format!("/{name}"), expected: expected.into() }
}

struct Args<'a>(&'a Map<String, Value>);

impl<'a> Args<'a> {
    /// Models send `null` for what they leave out.
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Result<Option<String>, BadArguments> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(bad(name, "a string")),
        }
    }

    fn path(&self, default: Option<&str>) -> Result<String, BadArguments> {
        let path = self.text("path")?.or_else(|| default.map(str::to_owned));
        let path = path.ok_or_else(|| bad("path", "a string, which is required"))?;
        if path.is_empty() || path.len() > PATH_MAX_BYTES || path.contains('\0') {
            return Err(bad("path", format!("1 to {PATH_MAX_BYTES} bytes without NUL")));
        }
        Ok(path)
    }

    fn number(&self, name: &str, default: u64, least: u64, most: u64) -> Result<u64, BadArguments> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value
                .as_u64()
                .filter(|number| (least..=most).contains(number))
                .ok_or_else(|| bad(name, format!("a whole number from {least} to {most}"))),
        }
    }

    fn word<'b>(&self, name: &str, default: &'b str, words: &[&'b str]) -> Result<&'b str, BadArguments> {
        let expected = || bad(name, format!("one of {}", words.join(", ")));
        match self.get(name) {
            None => Ok(default),
            Some(Value::String(text)) => words.iter().find(|word| *word == text).copied().ok_or_else(expected),
            Some(_) => Err(expected()),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, BadArguments> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(bad(name, "true or false")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_are_filled_in() {
        let Call::Read(read) = Call::parse(Native::FsRead, &json!({ "path": "a", "offset": null })).unwrap() else {
            panic!("not a read")
        };
        assert_eq!((read.offset, read.limit_bytes, read.encoding), (0, 65_536, Encoding::Utf8));
        let Call::List(list) = Call::parse(Native::FsList, &json!({})).unwrap() else { panic!("not a list") };
        assert_eq!((list.path.as_str(), list.depth, list.limit), (".", 1, 1000));
    }

    #[test]
    #[rustfmt::skip]
    fn a_bad_argument_is_named_by_its_pointer() {
        let hash = "0".repeat(64);
        let table = [
            (Native::FsRead, json!([]), "", "a JSON object"),
            (Native::FsRead, json!({}), "/path", "required"),
            (Native::FsRead, json!({ "path": 1 }), "/path", "a string"),
            (Native::FsRead, json!({ "path": "" }), "/path", "1 to 4095"),
            (Native::FsRead, json!({ "path": "a\0b" }), "/path", "without NUL"),
            (Native::FsRead, json!({ "path": "a", "limit": 0 }), "/limit", "from 1 to 1048576"),
            (Native::FsRead, json!({ "path": "a", "offset": -1 }), "/offset", "from 0"),
            (Native::FsRead, json!({ "path": "a", "encoding": "latin1" }), "/encoding", "one of utf8, base64"),
            (Native::FsRead, json!({ "path": "a", "as/user": "b" }), "/as~1user", "only path, offset"),
            (Native::FsList, json!({ "depth": 6 }), "/depth", "from 1 to 5"),
            (Native::FsWrite, json!({ "path": "a" }), "/content", "required"),
            (Native::FsWrite, json!({ "path": "a", "content": "", "mode": "truncate" }), "/mode", "create, replace"),
            (Native::FsWrite, json!({ "path": "a", "content": "", "mode": "replace", "expect_sha256": "AB" }), "/expect_sha256", "64"),
            (Native::FsWrite, json!({ "path": "a", "content": "", "expect_sha256": hash }), "/expect_sha256", "mode replace"),
            (Native::FsWrite, json!({ "path": "a", "content": "", "parents": 1 }), "/parents", "true or false"),
        ];
        for (tool, args, pointer, expected) in table {
            let error = Call::parse(tool, &args).unwrap_err();
            assert_eq!(error.pointer, pointer, "{args}");
            assert!(error.expected.contains(expected), "{args}: {error}");
        }
    }

    #[test]
    fn only_a_plain_replace_may_be_repeated() {
        let effect = |args| Call::parse(Native::FsWrite, &args).unwrap().effect();
        assert_eq!(effect(json!({ "path": "a", "content": "" })), Effect::Once);
        assert_eq!(effect(json!({ "path": "a", "content": "", "mode": "append" })), Effect::Once);
        assert_eq!(effect(json!({ "path": "a", "content": "", "mode": "replace" })), Effect::Idempotent);
        let hash = "0".repeat(64);
        let expecting = json!({ "path": "a", "content": "", "mode": "replace", "expect_sha256": hash });
        assert_eq!(effect(expecting), Effect::Once);
    }
}
