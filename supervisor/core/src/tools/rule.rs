//! rule: one line of `[tools]`, parsed.
//!
//! Job: `area:verb(argument op value, …)` → [`Rule`], or what is wrong and where. May touch: the parent.
//! Keeps: a rule that could never match, or names what no tool has, is an error and never silently inert.

use super::Native;
use serde_json::Value;

/// Which list a rule stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    Allow,
    Deny,
}

/// Why a text is no rule. `at` and `length` count bytes of the rule's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {help}")]
pub struct BadRule {
    pub at: usize,
    pub length: usize,
    /// What is wrong.
    pub message: String,
    /// The way out.
    pub help: String,
}

/// A parsed rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    text: String,
    tools: Vec<Native>,
    constraints: Vec<Constraint>,
}

/// `argument op value`. All of a rule must hold.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Constraint {
    pub argument: String,
    pub test: Test,
}

/// What is asked of an argument.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Test {
    /// `=`: a glob. On `path` it is matched after resolution; elsewhere against a string as written.
    Glob(String),
    /// `==`: equal as JSON.
    Equals(Value),
    /// `absent`: not given.
    Absent,
}

/// The one argument that is matched after resolution.
pub(super) const PATH: &str = "path";

impl Rule {
    /// Parses a rule of one list.
    pub fn parse(text: &str, list: List) -> Result<Rule, BadRule> {
        let open = text.find('(');
        let pattern = text[..open.unwrap_or(text.len())].trim_end();
        let lead = pattern.len() - pattern.trim_start().len();
        let tools = tools(pattern.trim_start(), lead, list)?;
        let mut constraints = Vec::new();
        if let Some(open) = open {
            let inner = text[open + 1..].trim_end();
            let Some(inner) = inner.strip_suffix(')') else {
                return Err(at(text, text.len(), 0, "the `(` is never closed", "end the rule with `)`"));
            };
            for (offset, part) in parts(inner) {
                constraints.push(constraint(text, open + 1 + offset, part, &tools)?);
            }
        }
        Ok(Rule { text: text.to_owned(), tools, constraints })
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it speaks of a tool at all.
    pub fn names(&self, tool: Native) -> bool {
        self.tools.contains(&tool)
    }

    /// Whether it matches every call of the tools that it names.
    pub(super) fn is_unconditional(&self) -> bool {
        self.constraints.is_empty()
    }

    /// Whether it matches every call that `other` matches, as far as that can be told without arguments.
    pub fn covers(&self, other: &Rule) -> bool {
        self.text == other.text || self.is_unconditional() && other.tools.iter().all(|tool| self.names(*tool))
    }

    /// Whether everything but the path holds. A missing argument matches nothing but `absent`.
    pub(super) fn holds_but_for_path(&self, tool: Native, args: &Value) -> bool {
        self.names(tool)
            && self.constraints.iter().filter(|constraint| constraint.argument != PATH).all(|constraint| {
                let value = args.get(&constraint.argument).filter(|value| !value.is_null());
                match (&constraint.test, value) {
                    (Test::Absent, value) => value.is_none(),
                    (Test::Glob(_) | Test::Equals(_), None) => false,
                    (Test::Glob(glob), Some(value)) => {
                        value.as_str().is_some_and(|text| crate::glob::matches(glob, text))
                    }
                    (Test::Equals(wanted), Some(value)) => wanted == value,
                }
            })
    }

    /// The globs that the resolved path must match, all of them.
    pub(super) fn path_globs(&self) -> Vec<String> {
        let globs = self.constraints.iter().filter(|constraint| constraint.argument == PATH);
        globs
            .filter_map(|constraint| match &constraint.test {
                Test::Glob(glob) => Some(glob.clone()),
                Test::Equals(_) | Test::Absent => None,
            })
            .collect()
    }
}

fn at(text: &str, at: usize, length: usize, message: impl Into<String>, help: impl Into<String>) -> BadRule {
    BadRule { at: at.min(text.len()), length, message: message.into(), help: help.into() }
}

fn known_tools() -> String {
    Native::ALL.map(Native::name).join(", ")
}

fn tools(pattern: &str, offset: usize, list: List) -> Result<Vec<Native>, BadRule> {
    let bad = |message: String, help: String| Err(BadRule { at: offset, length: pattern.len(), message, help });
    let example = "write `area:verb`, such as `fs:read` or `fs:*`".to_owned();
    if pattern.is_empty() {
        return bad("a rule names no tool".into(), example);
    }
    let (scope, verb) = match pattern.split_once(':') {
        Some(pair) => pair,
        None if pattern == "*" => ("*", "*"),
        None => return bad(format!("`{pattern}` is no tool pattern"), example),
    };
    let fits = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'*'))
    };
    if !fits(scope) || !fits(verb) {
        return bad(format!("`{pattern}` is no tool pattern"), example);
    }
    if list == List::Allow && scope.contains('*') {
        let help = "an allow names its area in full, such as `fs:*`; only deny takes `*` there".into();
        return bad(format!("`{pattern}` allows tools of every area"), help);
    }
    let found: Vec<Native> = Native::ALL
        .into_iter()
        .filter(|tool| {
            let (area, name) = tool.name().split_once(':').expect("every name in the table has a colon");
            crate::glob::matches(scope, area) && crate::glob::matches(verb, name)
        })
        .collect();
    if found.is_empty() {
        return bad(format!("there is no tool `{pattern}`"), format!("known tools: {}", known_tools()));
    }
    Ok(found)
}

/// Splits at commas outside quotes, brackets and braces. `{a,b}` belongs to `in` and to JSON.
fn parts(inner: &str) -> Vec<(usize, &str)> {
    let (mut parts, mut start, mut depth, mut quoted, mut escaped) = (Vec::new(), 0, 0_u32, false, false);
    for (at, c) in inner.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '{' | '[' if !quoted => depth += 1,
            '}' | ']' if !quoted => depth = depth.saturating_sub(1),
            ',' if !quoted && depth == 0 => {
                parts.push((start, &inner[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push((start, &inner[start..]));
    parts
}

fn constraint(text: &str, offset: usize, part: &str, tools: &[Native]) -> Result<Constraint, BadRule> {
    let offset = offset + (part.len() - part.trim_start().len());
    let part = part.trim();
    let whole = |message: String, help: &str| at(text, offset, part.len(), message, help);
    let shape = "write `argument=glob`, `argument==json` or `argument absent`";
    if part.is_empty() {
        return Err(whole("an empty constraint".into(), shape));
    }
    let name_end = part.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')).unwrap_or(part.len());
    let (name, rest) = part.split_at(name_end);
    let rest = rest.trim_start();
    if name.is_empty() {
        return Err(whole(format!("`{part}` names no argument"), shape));
    }
    if rest.starts_with(['.', '[']) {
        return Err(whole(
            format!("`{part}` looks into an argument"),
            "no tool of this version has an argument with parts; write `argument=glob`",
        ));
    }
    // Checked for every tool that the pattern names: a rule for `fs:*` must mean the same for each.
    if let Some(tool) = tools.iter().find(|tool| !tool.argument_names().contains(&name)) {
        let known = tool.argument_names().join(", ");
        let help = format!("`{}` takes {known}", tool.name());
        return Err(at(text, offset, name.len(), format!("`{}` has no argument `{name}`", tool.name()), help));
    }
    let test = if rest == "absent" {
        Test::Absent
    } else if let Some(json) = rest.strip_prefix("==") {
        let value = serde_json::from_str(json.trim())
            .map_err(|error| whole(format!("`{}` is no JSON: {error}", json.trim()), "text stands in double quotes"))?;
        Test::Equals(value)
    } else if rest.starts_with("<") || rest.starts_with(">") || rest.starts_with("in ") || rest.starts_with("in{") {
        let help = "this version knows `=` (glob), `==` (JSON) and `absent`";
        return Err(whole(format!("`{part}` uses an operator that this version does not know"), help));
    } else if let Some(glob) = rest.strip_prefix('=') {
        let glob = glob.trim();
        if glob.is_empty() {
            return Err(whole(format!("`{name}=` has no pattern"), shape));
        }
        Test::Glob(glob.to_owned())
    } else {
        return Err(whole(format!("`{part}` is no constraint"), shape));
    };
    match (&test, name) {
        (Test::Equals(_) | Test::Absent, PATH) => Err(whole(
            format!("`{part}` can never match"),
            "a path is matched after it was resolved, and only by `path=glob`",
        )),
        (Test::Glob(glob), PATH) if glob.split('/').any(|step| step == ".." || step == ".") => Err(whole(
            format!("`{glob}` can never match"),
            "paths are matched after they were resolved, so write them without `.` and `..`",
        )),
        (Test::Glob(glob), PATH) if glob.len() > 1 && glob.ends_with('/') => {
            Err(whole(format!("`{glob}` can never match"), "for what is below a directory write `directory/**`"))
        }
        (Test::Glob(_) | Test::Equals(_) | Test::Absent, _) => Ok(Constraint { argument: name.to_owned(), test }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn patterns_name_the_tools_they_mean() {
        let names =
            |text: &str| Rule::parse(text, List::Deny).unwrap().tools.iter().map(|t| t.name()).collect::<Vec<_>>();
        assert_eq!(names("fs:read"), ["fs:read"]);
        assert_eq!(names("fs:*"), ["fs:list", "fs:read", "fs:write"]);
        assert_eq!(names("*"), ["fs:list", "fs:read", "fs:write"]);
        assert_eq!(names("*:read"), ["fs:read"]);
        assert_eq!(names("fs:*(path=**/.env)"), ["fs:list", "fs:read", "fs:write"]);
    }

    #[test]
    fn a_rule_covers_what_it_matches_whatever_the_arguments() {
        let covers = |deny: &str, allow: &str| {
            Rule::parse(deny, List::Deny).unwrap().covers(&Rule::parse(allow, List::Allow).unwrap())
        };
        assert!(covers("fs:r*", "fs:read(path=a)") && covers("*", "fs:*") && covers("fs:list", "fs:list"));
        assert!(covers("fs:read(path=a)", "fs:read(path=a)"), "the same words");
        assert!(!covers("fs:read", "fs:*") && !covers("fs:read(path=b)", "fs:read(path=a)"));
    }

    #[test]
    #[rustfmt::skip]
    fn a_rule_that_would_do_nothing_is_refused_with_a_way_out() {
        use List::{Allow, Deny};
        let table: &[(&str, List, usize, &str)] = &[
            ("",                        Allow, 0,  "names no tool"),
            ("Write(path)",             Allow, 0,  "is no tool pattern"),
            ("*",                       Allow, 0,  "every area"),
            ("*:read",                  Allow, 0,  "every area"),
            ("fs:format",               Allow, 0,  "no tool `fs:format`"),
            ("mcp__*",                  Deny,  0,  "is no tool pattern"),
            ("fs:read(path=a",          Allow, 14, "never closed"),
            ("fs:read()",               Allow, 8,  "empty constraint"),
            ("fs:read(path=a,)",        Allow, 15, "empty constraint"),
            ("fs:read(paht=a)",         Allow, 8,  "no argument `paht`"),
            ("fs:*(mode=create)",       Deny,  5,  "no argument `mode`"),
            ("fs:read(path)",           Allow, 8,  "is no constraint"),
            ("fs:read(path=)",          Allow, 8,  "has no pattern"),
            ("fs:read(path==\"a\")",    Allow, 8,  "can never match"),
            ("fs:read(path absent)",    Allow, 8,  "can never match"),
            ("fs:read(path=../x)",      Allow, 8,  "can never match"),
            ("fs:read(path=./x)",       Allow, 8,  "can never match"),
            ("fs:read(path=x/)",        Allow, 8,  "can never match"),
            ("fs:read(limit<=10)",      Allow, 8,  "does not know"),
            ("fs:write(mode in {a,b})", Allow, 9,  "does not know"),
            ("fs:read(limit==1x)",      Allow, 8,  "is no JSON"),
            ("fs:read(path.name=x)",    Allow, 8,  "looks into"),
        ];
        for (text, list, at, message) in table {
            let error = Rule::parse(text, *list).unwrap_err();
            assert!(error.message.contains(message), "{text}: {error}");
            assert_eq!(error.at, *at, "{text}: {error}");
            assert!(!error.help.is_empty(), "{text}");
        }
    }

    #[test]
    fn constraints_on_plain_arguments_are_matched_as_given() {
        let holds = |rule: &str, tool, args| Rule::parse(rule, List::Allow).unwrap().holds_but_for_path(tool, &args);
        let write = Native::FsWrite;
        assert!(holds("fs:write(mode=create, path=a/**)", write, json!({ "mode": "create" })));
        assert!(!holds("fs:write(mode=create)", write, json!({ "mode": "append" })));
        assert!(!holds("fs:write(mode=create)", write, json!({})), "a missing argument does not match");
        assert!(holds("fs:write(mode absent)", write, json!({ "mode": null })));
        assert!(holds("fs:write(parents==false)", write, json!({ "parents": false })));
        assert!(holds("fs:write(content==\"a, b\")", write, json!({ "content": "a, b" })));
        assert!(!holds("fs:write", Native::FsRead, json!({})));
    }
}
