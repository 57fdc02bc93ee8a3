//! reference: the page that tells people every section and key, `docs/unit-files.md`. May touch: `keys`.
//! Keeps: printed from the table that checks.

use super::keys::{self, Key, Shape};
use crate::tools::List;
use std::fmt::Write;

const HEAD: &str = "\
# Unit files

Printed from the table that checks unit files (`make schemas`); editors get the same from `schemas/unit.*.json`.

- **Name**: `name.kind.toml`, kind `agent`, `service`, `target` or `schedule`; a name is 1 to 64 of `a-z 0-9 -`, first a letter. In
  commands the kind may be left out: `chat` is `chat.agent`.
- **Where**: `transient` in the runtime directory, for units made by `loomctl run`, then the directories of the unit path;
  `loomctl status` shows them. The first one that has a file of this name wins; a transient unit never takes the name of a file. A link
  to `/dev/null` masks the unit, or the drop-in.
- **Drop-ins**: files in `<unit>.d/` of all these directories, in the order of their names, replace single settings; of two of the same
  name the one in the higher directory counts. Before them come those of `agent.d/` (all of a kind), `a-.agent.d/` (all whose name begins
  so) and `a@.agent.d/` (all of a template). `[extend.<section>]` appends to a list instead.
- **Enabled**: a link `<target>.wants/<unit>.toml` or `<target>.requires/<unit>.toml` in one of these directories adds the unit to that
  list of the target; its name alone counts. `loomctl enable` makes it from `[install]`.
- **Templates**: `name@.kind.toml` makes any `name@text.kind`; `%i` is the text.
- **Specifiers**, in values: `%n` the unit, `%N` without its kind, `%p` its name, `%i` the instance, `%I` that unescaped, `%d` the
  directory of its file, `%S` its state directory, `%C` its cache directory, `%t` the runtime directories of units, `%h` home and `%u` name
  of loomd's user, `%b` the boot id, `%%` a percent sign.
- **After a change**: `loomctl verify`, `loomctl daemon-reload`, then `loomctl restart UNIT`. `loomctl cat --effective UNIT` tells every
  setting in force and where it was written.
";

/// The whole page.
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    for section in keys::SECTIONS {
        let kinds: Vec<String> = section.kinds.iter().map(ToString::to_string).collect();
        let _ = write!(page, "\n## [{}]\n{} For: {}.\n", section.name, section.about, kinds.join(", "));
        if !section.keys.is_empty() {
            table(&mut page, section.keys);
        }
        if let Some(named) = section.named {
            let _ = write!(page, "\n`[{}.<name>]`, under a name of your choice:\n", section.name);
            table(&mut page, named);
        }
        if let Some(tables) = &section.tables {
            for (name, about) in tables.names {
                let _ = write!(page, "\n`[{}.{name}]`: {about}\n", section.name);
            }
            table(&mut page, tables.keys);
        }
    }
    page
}

fn table(page: &mut String, keys: &[Key]) {
    page.push_str("\n| key | value | is |\n|---|---|---|\n");
    for key in keys {
        let _ = writeln!(page, "| `{}` | {} | {} |", key.name, words(key.shape), key.about);
    }
}

fn words(shape: Shape) -> String {
    let any = |words: &[&str]| words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ");
    match shape {
        Shape::Text => "text".to_owned(),
        Shape::Texts => "list of texts".to_owned(),
        Shape::Units => "list of units, with their kinds".to_owned(),
        Shape::Command => "list: `[\"python3\", \"%d/agent.py\"]`".to_owned(),
        Shape::Path => "absolute path".to_owned(),
        Shape::Paths { .. } => "list of absolute paths; with `?` in front one may be missing".to_owned(),
        Shape::Environment => "table: `{ NAME = \"text\" }`".to_owned(),
        Shape::Credentials => "table: `{ name = \"/path\" }`".to_owned(),
        Shape::Word { words, .. } => any(words),
        Shape::Words { words, .. } => format!("list of {}", any(words)),
        Shape::Time { .. } => "time: `\"30s\"`, `\"1min 30s\"`".to_owned(),
        Shape::Fraction { least, most } => format!("number, {least} to {most}"),
        Shape::Count { least, most } => format!("whole number, {least} to {most}"),
        Shape::Size => "size: `\"256M\"`".to_owned(),
        Shape::ExitStatuses => "list of exit codes".to_owned(),
        Shape::Signal => "signal: `\"SIGTERM\"`".to_owned(),
        Shape::Hosts => "list: `[\"127.0.0.1:8080\"]`".to_owned(),
        Shape::Ports => "list of ports".to_owned(),
        Shape::Filters => "list of topics; `*` is one segment, `>` the rest".to_owned(),
        Shape::Rules(List::Allow) => "list of rules: `\"fs:read(path=notes/**)\"`".to_owned(),
        Shape::Rules(List::Deny) => "list of rules: `\"fs:*(path=**/.env)\"`".to_owned(),
        Shape::Url => "`\"http://…\"` or `\"https://…\"`".to_owned(),
        Shape::Flag => "`true` or `false`".to_owned(),
        Shape::Afters => "list of units; or `{ unit = \"db.service\", until = \"healthy\" }`".to_owned(),
        Shape::Commands => "list of commands: `[[\"-mkdir\", \"%S/x\"]]`; with `-` in front one may fail".to_owned(),
        Shape::Conditions => {
            let tests = keys::CONDITIONS.iter().map(|(name, example)| format!("`\"{name}:{example}\"`"));
            format!("list of {}; with `!` in front it must not hold", tests.collect::<Vec<_>>().join(", "))
        }
        Shape::User => "user's name, or number as text".to_owned(),
        Shape::Percent => "percent: `\"50%\"`".to_owned(),
        Shape::Money => "amount as text: `\"1.50\"`".to_owned(),
        Shape::ProbeUrl => "`\"http://127.0.0.1:8080/health\"`".to_owned(),
        Shape::Address => "`\"127.0.0.1:8080\"`".to_owned(),
        Shape::Started => "unit; without its kind an agent".to_owned(),
        Shape::Expressions { example } => format!("`\"{example}\"`, or a list of such"),
        Shape::TimeZone => "time zone: `\"Europe/Berlin\"`".to_owned(),
    }
}
