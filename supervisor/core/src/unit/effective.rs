//! effective: a unit as a unit file, with the place of every value.
//!
//! Job: what `loomctl cat --effective` prints. May touch: `written`, `keys`, `load`'s origins.
//! Keeps: in the order of the reference; read as a unit file, the same unit comes of it.

use super::load::Origins;
use super::{Unit, keys, written};
use serde_json::{Map, Value};
use std::fmt::Write;

/// Comments stand below one another where lines are not longer than this.
const COMMENT_COLUMN_MAX: usize = 56;

/// The unit as TOML. Behind each value stands `# file:line`, or `# default` where no file says it. A list whose parts come
/// from several places has one line for each. Keys without a value are left out.
pub fn effective(unit: &Unit, origins: &Origins) -> String {
    let whole = written(unit);
    let mut page = format!("# {}: every setting in force, and where it is written\n", unit.id);
    for section in keys::SECTIONS {
        let Some(values) = whole.get(section.name).and_then(Value::as_object) else { continue };
        let own: Vec<&str> = section.keys.iter().map(|key| key.name).collect();
        block(&mut page, section.name, &own, values, origins);
        let below: Vec<(&str, &'static [keys::Key])> = match (&section.tables, section.named) {
            (Some(tables), _) => tables.names.iter().map(|(name, _)| (*name, tables.keys)).collect(),
            (None, Some(named)) => {
                values.keys().filter(|name| section.key(name).is_none()).map(|name| (name.as_str(), named)).collect()
            }
            (None, None) => Vec::new(),
        };
        for (name, keys) in below {
            if let Some(Value::Object(values)) = values.get(name) {
                let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
                block(&mut page, &format!("{}.{name}", section.name), &names, values, origins);
            }
        }
    }
    page
}

/// One line without its comment, and where its value is written.
type Line = (String, String);

fn block(page: &mut String, header: &str, names: &[&str], values: &Map<String, Value>, origins: &Origins) {
    let mut lines: Vec<Line> = Vec::new();
    for name in names {
        if let Some(value) = values.get(*name) {
            entry(&mut lines, name, &format!("{header}.{name}"), value, origins);
        }
    }
    if lines.is_empty() {
        return;
    }
    let width = |line: &str| line.chars().count();
    let column =
        lines.iter().map(|(line, _)| width(line)).filter(|width| *width <= COMMENT_COLUMN_MAX).max().unwrap_or(0);
    let _ = write!(page, "\n[{header}]\n");
    for (line, origin) in lines {
        if origin.is_empty() {
            let _ = writeln!(page, "{line}");
        } else {
            let gap = " ".repeat(column.saturating_sub(width(&line)));
            let _ = writeln!(page, "{line}{gap}  # {origin}");
        }
    }
}

fn entry(lines: &mut Vec<Line>, name: &str, path: &str, value: &Value, origins: &Origins) {
    match value {
        Value::Object(table) if !table.is_empty() => {
            for (key, value) in table {
                let shown = format!("{name}.{}", quoted_key(key));
                lines.push((
                    format!("{shown} = {}", text(path, value)),
                    shown_origin(origins, &format!("{path}.{key}")),
                ));
            }
        }
        Value::Array(items) => {
            let of = |at: usize| origins.get(&format!("{path}[{at}]")).map(|origin| file_and_line(origin));
            let places: Vec<Option<String>> = (0..items.len()).map(of).collect();
            if places.windows(2).all(|pair| pair[0] == pair[1]) {
                let origin = match places.first() {
                    Some(Some(place)) => place.clone(),
                    Some(None) | None => shown_origin(origins, path),
                };
                lines.push((format!("{name} = {}", text(path, value)), origin));
                return;
            }
            lines.push((format!("{name} = ["), String::new()));
            for (item, place) in items.iter().zip(places) {
                lines.push((format!("    {},", text(path, item)), place.unwrap_or_else(|| "default".to_owned())));
            }
            lines.push(("]".to_owned(), String::new()));
        }
        Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            lines.push((format!("{name} = {}", text(path, value)), shown_origin(origins, path)));
        }
    }
}

fn shown_origin(origins: &Origins, path: &str) -> String {
    origins.get(path).map_or_else(|| "default".to_owned(), |origin| file_and_line(origin))
}

/// `file:line:column` → `file:line`; a path alone, as of a link, stays.
fn file_and_line(origin: &str) -> String {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let shown = match origin.rsplit_once(':') {
        Some((rest, column)) if number(column) && rest.rsplit_once(':').is_some_and(|(_, line)| number(line)) => rest,
        Some(_) | None => origin,
    };
    // A line break in a file's name would end the comment.
    shown.replace(|c: char| c.is_control(), "\u{fffd}")
}

fn quoted_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare { key.to_owned() } else { quoted(key) }
}

fn quoted(text: &str) -> String {
    // JSON's escapes are TOML's, but for one character that TOML wants escaped too.
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn text(path: &str, value: &Value) -> String {
    match value {
        // The only value in which a percent sign is no specifier.
        Value::String(text) if path == "limits.cpu" => quoted(text),
        Value::String(text) => quoted(&text.replace('%', "%%")),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(|item| text(path, item)).collect::<Vec<_>>().join(", "))
        }
        Value::Object(table) if table.is_empty() => "{}".to_owned(),
        Value::Object(table) => {
            let inner = table.iter().map(|(key, value)| format!("{} = {}", quoted_key(key), text(path, value)));
            format!("{{ {} }}", inner.collect::<Vec<_>>().join(", "))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}
