//! decision: may this agent make this call?
//!
//! Job: deny, then allow, otherwise denied. Within a list any match counts; specificity does not.
//! May touch: `unit`, `glob`, the parent. Keeps: what depends on the path is left to whoever holds the descriptor, as
//! [`PathRules`], and every answer names the rule and its line.

use super::rule::{BadRule, List, Rule};
use super::{Definition, Native};
use crate::glob;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The rules of one agent, ready to decide.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    allow: Vec<(Rule, String)>,
    deny: Vec<(Rule, String)>,
}

/// What is known before the path is resolved.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Denied whatever the path is. `None`: no rule allows it.
    Denied { rule: Option<String> },
    /// Allowed for the paths that these rules admit.
    Allowed { rules: PathRules },
}

/// Which resolved paths are admitted: none that a `deny` matches, and only such that an `allow` matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRules {
    #[serde(default)]
    pub allow: Vec<PathRule>,
    #[serde(default)]
    pub deny: Vec<PathRule>,
}

/// What is left of a rule once everything but the path has matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRule {
    /// `text (file:line:column)`.
    pub rule: String,
    /// All of them must match; none: any path.
    pub globs: Vec<String>,
}

impl PathRule {
    /// A rule for every path.
    pub fn any(text: &str, origin: &str) -> Self {
        Self { rule: format!("{text} ({origin})"), globs: Vec::new() }
    }
}

impl Rules {
    /// Compiles a unit's rules. The unit's checker has called [`Rule::parse`] on each line before.
    pub fn compile(tools: &crate::unit::Tools) -> Result<Rules, BadRule> {
        let all = |rules: &[crate::unit::ToolRule], list| -> Result<Vec<(Rule, String)>, BadRule> {
            rules.iter().map(|rule| Ok((Rule::parse(&rule.text, list)?, rule.origin.clone()))).collect()
        };
        Ok(Rules { allow: all(&tools.allow, List::Allow)?, deny: all(&tools.deny, List::Deny)? })
    }

    /// Decides as far as is possible without the path.
    pub fn decide(&self, tool: Native, args: &Value) -> Decision {
        let left = |rules: &[(Rule, String)]| -> Vec<PathRule> {
            let held = rules.iter().filter(|(rule, _)| rule.holds_but_for_path(tool, args));
            held.map(|(rule, origin)| PathRule { globs: rule.path_globs(), ..PathRule::any(rule.text(), origin) })
                .collect()
        };
        let deny = left(&self.deny);
        if let Some(rule) = deny.iter().find(|rule| rule.globs.is_empty()) {
            return Decision::Denied { rule: Some(rule.rule.clone()) };
        }
        let allow = left(&self.allow);
        if allow.is_empty() {
            Decision::Denied { rule: None }
        } else {
            Decision::Allowed { rules: PathRules { allow, deny } }
        }
    }

    /// Whether some call of this tool could be allowed. Tools that never are, are not listed.
    pub fn lists(&self, tool: Native) -> bool {
        let allowed = self.allow.iter().any(|(rule, _)| rule.names(tool));
        allowed && !self.deny.iter().any(|(rule, _)| rule.names(tool) && rule.is_unconditional())
    }

    /// The tools that some call could reach, as a model sees them.
    pub fn listed(&self) -> Vec<Definition> {
        Native::ALL.into_iter().filter(|tool| self.lists(*tool)).map(Native::definition).collect()
    }
}

/// A path after resolution, as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// From `/`, without links.
    pub absolute: &'a str,
    /// From the workspace; empty for the workspace itself, `None` outside it.
    pub in_workspace: Option<&'a str>,
    /// From the granted root that holds it; empty for the root itself.
    pub in_root: &'a str,
}

impl PathRules {
    /// Decides on a resolved path: the rule that allows it, or the one that denies it (`None`: none allows it).
    ///
    /// A glob that starts with `/` is matched against the absolute path. Any other starts from the workspace; in a deny it
    /// also starts from every other granted root, so that `**/.env` means every `.env` within reach.
    pub fn decide(&self, place: Place<'_>) -> Result<&str, Option<&str>> {
        let denies = |glob: &str| {
            if glob.starts_with('/') {
                covers(glob, place.absolute)
            } else {
                covers(glob, place.in_root) || place.in_workspace.is_some_and(|path| covers(glob, path))
            }
        };
        let allows = |glob: &str| {
            if glob.starts_with('/') {
                covers(glob, place.absolute)
            } else {
                place.in_workspace.is_some_and(|path| covers(glob, path))
            }
        };
        if let Some(rule) = self.deny.iter().find(|rule| rule.globs.iter().all(|glob| denies(glob))) {
            return Err(Some(&rule.rule));
        }
        let allowed = self.allow.iter().find(|rule| rule.globs.iter().all(|glob| allows(glob)));
        allowed.map(|rule| rule.rule.as_str()).ok_or(None)
    }
}

/// `notes/**` means `notes` too: who may list all below it may list it.
fn covers(pattern: &str, path: &str) -> bool {
    glob::matches(pattern, path) || pattern.strip_suffix("/**").is_some_and(|directory| glob::matches(directory, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::{ToolRule, Tools};
    use serde_json::json;

    fn rules(allow: &[&str], deny: &[&str]) -> Rules {
        let lines = |texts: &[&str], list: &str| {
            let rule =
                |(n, text): (usize, &&str)| ToolRule { text: (*text).into(), origin: format!("{list}:{}", n + 1) };
            texts.iter().enumerate().map(rule).collect()
        };
        let tools = Tools { allow: lines(allow, "allow"), deny: lines(deny, "deny"), ..Tools::default() };
        Rules::compile(&tools).unwrap()
    }

    /// `path` is in the workspace /w unless it starts with `/`, then in the root /srv.
    fn ask(rules: &Rules, tool: &str, args: Value, path: &str) -> Result<String, Option<String>> {
        match rules.decide(Native::find(tool).unwrap(), &args) {
            Decision::Denied { rule } => Err(rule),
            Decision::Allowed { rules } => {
                let absolute = if path.starts_with('/') { path.to_owned() } else { format!("/w/{path}") };
                let place = match path.strip_prefix("/srv") {
                    Some(rest) => {
                        Place { absolute: &absolute, in_workspace: None, in_root: rest.trim_start_matches('/') }
                    }
                    None => Place { absolute: &absolute, in_workspace: Some(path), in_root: path },
                };
                rules.decide(place).map(str::to_owned).map_err(|rule| rule.map(str::to_owned))
            }
        }
    }

    #[test]
    #[rustfmt::skip]
    fn each_row_says_what_is_decided() {
        let rules = rules(
            &["fs:read(path=**)", "fs:list", "fs:write(path=reports/**, mode=create)", "fs:read(path=/srv/data/**)"],
            &["fs:*(path=**/.env)", "fs:read(path=/srv/data/private/**)", "fs:list(depth==5)"],
        );
        let none = json!({});
        let create = json!({ "mode": "create" });
        type Row<'a> = (&'a str, &'a str, &'a Value, &'a str, Result<&'a str, Option<&'a str>>);
        let table: &[Row<'_>] = &[
            ("a file of the workspace",        "fs:read",  &none,   "a.md",               Ok("fs:read(path=**) (allow:1)")),
            ("the workspace itself",           "fs:read",  &none,   "",                   Ok("fs:read(path=**) (allow:1)")),
            ("deny wins over allow",           "fs:read",  &none,   ".env",               Err(Some("fs:*(path=**/.env) (deny:1)"))),
            ("deny at any depth",              "fs:read",  &none,   "x/y/.env",           Err(Some("fs:*(path=**/.env) (deny:1)"))),
            ("deny in another root",           "fs:read",  &none,   "/srv/data/.env",     Err(Some("fs:*(path=**/.env) (deny:1)"))),
            ("`**` ends with the workspace",   "fs:read",  &none,   "/srv/other/a",       Err(None)),
            ("another root by absolute glob",  "fs:read",  &none,   "/srv/data/a",        Ok("fs:read(path=/srv/data/**) (allow:4)")),
            ("a directory is in its `/**`",    "fs:read",  &none,   "/srv/data",          Ok("fs:read(path=/srv/data/**) (allow:4)")),
            ("an absolute deny",               "fs:read",  &none,   "/srv/data/private/a", Err(Some("fs:read(path=/srv/data/private/**) (deny:2)"))),
            ("no constraint: any path",        "fs:list",  &none,   "/srv/other",         Ok("fs:list (allow:2)")),
            ("deny by an argument",            "fs:list",  &json!({ "depth": 5 }), "a",   Err(Some("fs:list(depth==5) (deny:3)"))),
            ("both constraints hold",          "fs:write", &create, "reports/a",          Ok("fs:write(path=reports/**, mode=create) (allow:3)")),
            ("one of two does not",            "fs:write", &none,   "reports/a",          Err(None)),
            ("nor the other",                  "fs:write", &create, "src/a",              Err(None)),
        ];
        for (row, tool, args, path, wanted) in table {
            let wanted = wanted.map(str::to_owned).map_err(|rule| rule.map(str::to_owned));
            assert_eq!(ask(&rules, tool, (*args).clone(), path), wanted, "{row}");
        }
    }

    #[test]
    fn without_rules_everything_is_denied_and_nothing_is_listed() {
        let none = rules(&[], &[]);
        assert_eq!(none.decide(Native::FsRead, &json!({})), Decision::Denied { rule: None });
        assert!(none.listed().is_empty());
    }

    #[test]
    fn a_tool_never_allowed_is_not_listed() {
        let names = |rules: Rules| rules.listed().into_iter().map(|tool| tool.name).collect::<Vec<_>>();
        assert_eq!(names(rules(&["fs:read(path=a)"], &[])), ["fs:read"]);
        assert_eq!(names(rules(&["fs:*"], &["fs:write"])), ["fs:list", "fs:read"]);
        assert_eq!(names(rules(&["fs:*"], &["fs:write(path=a)"])), ["fs:list", "fs:read", "fs:write"]);
    }
}
