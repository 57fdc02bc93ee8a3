//! raw: a unit file as written, every value with its place.
//!
//! Job: TOML text → [`Table`] with spans, and every syntax error at once; lay one table over another.
//! May touch: `problem`. Keeps: a place always lies in its file.

use super::problem::{Problem, Severity};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::ops::Range;

/// Duplicate keys of one file that are reported.
pub const FILE_PROBLEMS_MAX: usize = 100;

/// Syntax errors of one file that are reported; each costs one reading of the file.
pub const SYNTAX_ROUNDS_MAX: usize = 20;

/// Bytes `start..end` of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub file: usize,
    pub start: usize,
    pub end: usize,
}

/// A value and where it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Raw {
    pub value: Value,
    pub at: Place,
}

/// What TOML knows. Numbers keep their spelling, for messages.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Text(String),
    Integer(Option<i64>, String),
    Float(Option<f64>, String),
    Boolean(bool),
    Datetime(String),
    Array(Vec<Raw>),
    Table(Table),
}

/// A key's place and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key_at: Place,
    pub raw: Raw,
}

/// By key.
pub type Table = BTreeMap<String, Entry>;

/// A unit as written: main file with drop-ins laid over it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RawUnit(pub Table);

impl Value {
    /// For "…, not an integer".
    pub fn noun(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(..) => "an integer",
            Value::Float(..) => "a fraction",
            Value::Boolean(_) => "true or false",
            Value::Datetime(_) => "a date",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// A file's text, with what is needed to find lines in it.
#[derive(Debug, Clone)]
pub struct FileText {
    /// As shown to people.
    pub path: String,
    pub text: String,
    line_starts: Vec<usize>,
}

impl FileText {
    pub fn new(path: String, text: String) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { path, text, line_starts }
    }

    /// Line and column from 1, length in characters, and the line itself.
    pub fn locate(&self, start: usize, end: usize) -> (usize, usize, usize, String) {
        let mut start = floor(&self.text, start);
        // Behind the last newline there is no line to show: point at the end of the one before.
        if start == self.text.len() && self.text.ends_with('\n') {
            start -= 1;
        }
        let end = floor(&self.text, end.max(start));
        let line = self.line_starts.partition_point(|&at| at <= start) - 1;
        let from = self.line_starts[line];
        let to = self.line_starts.get(line + 1).map_or(self.text.len(), |next| next - 1);
        let shown = self.text[from..to].trim_end_matches('\r');
        let start = start.min(from + shown.len());
        let end = end.clamp(start, from + shown.len());
        let column = self.text[from..start].chars().count() + 1;
        (line + 1, column, self.text[start..end].chars().count().max(1), shown.to_owned())
    }

    /// `file:line:column`; the path alone where there is no text, as of a link.
    pub fn origin(&self, at: Place) -> String {
        if self.text.is_empty() {
            return self.path.clone();
        }
        let (line, column, ..) = self.locate(at.start, at.end);
        format!("{}:{line}:{column}", self.path)
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Makes a problem of a place. Control characters never reach a terminal.
pub fn problem(
    file: &FileText,
    at: Place,
    severity: Severity,
    message: impl Into<String>,
    label: impl Into<String>,
    help: impl Into<String>,
) -> Problem {
    if file.text.is_empty() {
        return whole_file(&file.path, severity, message, label, help);
    }
    let (line, column, length, source_line) = file.locate(at.start, at.end);
    Problem {
        severity,
        file: file.path.clone(),
        line,
        column,
        length,
        source_line: printable(source_line),
        message: printable(message.into()),
        label: printable(label.into()),
        help: printable(help.into()),
    }
}

/// Makes a problem of a file as a whole.
pub fn whole_file(
    path: &str,
    severity: Severity,
    message: impl Into<String>,
    label: impl Into<String>,
    help: impl Into<String>,
) -> Problem {
    Problem {
        severity,
        file: path.to_owned(),
        line: 0,
        column: 0,
        length: 0,
        source_line: String::new(),
        message: printable(message.into()),
        label: printable(label.into()),
        help: printable(help.into()),
    }
}

fn printable(text: String) -> String {
    if !text.contains(|c: char| c.is_control() && c != '\t') {
        return text;
    }
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Reads one file. What could be read comes with every syntax error.
pub fn parse(index: usize, path: &str, bytes: &[u8]) -> (FileText, Table, Vec<Problem>) {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(error) => {
            let file = FileText::new(path.to_owned(), String::from_utf8_lossy(bytes).into_owned());
            // Up to the first bad byte the lossy text is the text.
            let at = Place { file: index, start: error.valid_up_to(), end: error.valid_up_to() + 3 };
            let found = problem(
                &file,
                at,
                Severity::Error,
                "the file is not UTF-8",
                "not a UTF-8 character",
                "save the file as UTF-8",
            );
            return (file, Table::new(), vec![found]);
        }
    };
    let file = FileText::new(path.to_owned(), text);
    let mut problems: Vec<Problem> = Vec::new();
    // One slip makes the parser stumble over all that follows. So: name the first one, blank its statement, read again.
    let mut left = file.text.clone();
    for _ in 0..SYNTAX_ROUNDS_MAX {
        let (document, errors) = toml::de::DeTable::parse_recoverable(&left);
        let first =
            errors.iter().filter(|error| error.message() != DUPLICATE).min_by_key(|error| spot(error, &left).start);
        let Some(first) = first else {
            // Duplicates lead nobody astray: take them as they are.
            let table = convert_table(index, document.get_ref());
            problems.extend(errors.iter().take(FILE_PROBLEMS_MAX).map(|error| duplicate(index, &file, &table, error)));
            return (file, table, problems);
        };
        let span = spot(first, &left);
        let (found, blank) = match unclosed(&left, first.message(), span.start) {
            Some(open) => {
                (open_bracket(index, &file, open), line_start(&left, open)..line_start(&left, span.start).max(open + 1))
            }
            None => {
                let found = syntax(index, &file, first, span.clone());
                (found, statement(&left, span.start))
            }
        };
        problems.push(found);
        let blanked: String = left[blank.clone()]
            .chars()
            .flat_map(|c| std::iter::repeat_n(if c == '\n' { '\n' } else { ' ' }, c.len_utf8()))
            .collect();
        if left[blank.clone()] == blanked {
            return (file, Table::new(), problems);
        }
        left.replace_range(blank, &blanked);
    }
    problems.push(whole_file(
        path,
        Severity::Error,
        format!("more than {SYNTAX_ROUNDS_MAX} syntax errors; the rest is not shown"),
        "",
        "is this a TOML file?",
    ));
    (file, Table::new(), problems)
}

const DUPLICATE: &str = "duplicate key";

fn spot(error: &toml::de::Error, text: &str) -> Range<usize> {
    let span = error.span().unwrap_or(text.len()..text.len());
    floor(text, span.start)..floor(text, span.end.max(span.start))
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |newline| at + newline)
}

/// `key =` or `[section`: surely the start of something new.
fn starts_statement(line: &str) -> bool {
    let line = line.trim_start();
    if let Some(header) = line.strip_prefix('[') {
        return header.starts_with(|c: char| c.is_ascii_alphabetic() || c == '[');
    }
    let key = match line.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
        Some((_, rest)) => rest,
        None => line.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')),
    };
    key.len() < line.len() && key.trim_start().starts_with('=')
}

/// Where a list or inline table begins that was not closed before the next statement.
fn unclosed(text: &str, message: &str, at: usize) -> Option<usize> {
    let says_so = ["array", "inline table"].iter().any(|word| message.contains(word));
    let start = line_start(text, at);
    let line = &text[start..line_end(text, at)];
    let fresh = text[start..at].trim().is_empty() && starts_statement(line) || at == text.len();
    if !says_so || !fresh {
        return None;
    }
    // The bracket that is open where the previous statement ends.
    let mut from = if at == text.len() { line_start(text, at) } else { line_start(text, start.checked_sub(1)?) };
    while !starts_statement(&text[from..line_end(text, from)]) {
        from = line_start(text, from.checked_sub(1)?);
    }
    let end = if at == text.len() { at } else { start };
    let (mut open, mut quote) = (Vec::new(), None);
    for (offset, c) in text[from..end].char_indices() {
        match (c, quote) {
            (_, Some(inside)) if c == inside => quote = None,
            (_, Some(_)) => {}
            ('"' | '\'', None) => quote = Some(c),
            ('[' | '{', None) => open.push(from + offset),
            (']' | '}', None) => drop(open.pop()),
            _ => {}
        }
        if c == '\n' {
            quote = None;
        }
    }
    open.first().copied()
}

fn open_bracket(index: usize, file: &FileText, open: usize) -> Problem {
    let at = Place { file: index, start: open, end: open + 1 };
    let (what, close) = if file.text[open..].starts_with('{') { ("table", '}') } else { ("list", ']') };
    problem(
        file,
        at,
        Severity::Error,
        format!("not TOML: a {what} is not closed"),
        "opened here",
        format!("add `{close}` at its end"),
    )
}

/// The bytes to skip for a syntax error: its line; below a broken `[section`, all that would fall into the wrong one.
fn statement(text: &str, at: usize) -> Range<usize> {
    let start = line_start(text, at);
    let mut end = line_end(text, at);
    let line = &text[start..end];
    // A text over several lines that does not end takes the rest of the file with it.
    let opening = text[..at].rfind("\"\"\"").or_else(|| text[..at].rfind("'''"));
    if at == text.len()
        && let Some(opening) = opening
    {
        return line_start(text, opening)..end;
    }
    if line.trim_start().starts_with('[') {
        while end < text.len() {
            let next = line_end(text, end + 1);
            if text[end + 1..next].trim_start().starts_with('[') {
                break;
            }
            end = next;
        }
    }
    // At the end of the file the line before may be the one to blame.
    if line.trim().is_empty() && start > 0 { line_start(text, start - 1)..end } else { start..end }
}

fn duplicate(index: usize, file: &FileText, table: &Table, error: &toml::de::Error) -> Problem {
    let span = spot(error, &file.text);
    let key = file.text[span.clone()].trim_matches(['"', '\'']);
    let header = file.text[..span.start].trim_end().ends_with('[');
    let first = first_of(table, key, span.start).map(|place| place.start).or_else(|| {
        // A repeated [section]: only its last header is left in the table.
        file.text.find(&format!("[{key}]")).filter(|found| *found + 1 < span.start)
    });
    let help = match first {
        Some(start) => format!("the first one is on line {}; keep one of the two", file.locate(start, start).0),
        None => "keep one of the two".to_owned(),
    };
    let shown = if header { format!("[{key}]") } else { format!("`{key}`") };
    let at = Place { file: index, start: span.start, end: span.end };
    problem(file, at, Severity::Error, format!("{shown} is written twice"), "written again here", help)
}

fn syntax(index: usize, file: &FileText, error: &toml::de::Error, span: Range<usize>) -> Problem {
    let at = Place { file: index, start: span.start, end: span.end };
    let (what, expected) = match error.message().split_once(", expected ") {
        Some((what, expected)) => (what, Some(expected)),
        None => (error.message(), None),
    };
    let label = match expected {
        Some("nothing") => "nothing may stand here".to_owned(),
        Some(expected) => format!("expected {expected}"),
        None => "here".to_owned(),
    };
    let line = &file.text[line_start(&file.text, span.start)..line_end(&file.text, span.start)];
    let raw_control = line.trim_end_matches('\r').contains(|c: char| c.is_control() && c != '\t');
    let help = if raw_control {
        "write a control character as an escape, such as `\\u001b`".to_owned()
    } else if what.contains("must be quoted") {
        match line.split_once('=') {
            Some((_, value)) if !value.trim().is_empty() && !value.contains(['"', '[', '{', '#']) => {
                format!("write \"{}\"", value.trim())
            }
            _ => "put the text between double quotes".to_owned(),
        }
    } else if what.contains("missing comma") {
        "put a comma between two items".to_owned()
    } else if what.contains("multi-line") {
        "end the text with three quotes, as it began".to_owned()
    } else if what.contains("escape") {
        "write a backslash as `\\\\`, or put the text between single quotes".to_owned()
    } else if what.contains("basic string") {
        "end the text with `\"` on the same line; write a `\"` inside it as `\\\"`".to_owned()
    } else if what.contains("literal string") {
        "end the text with `'` on the same line".to_owned()
    } else if what.contains("array") {
        "a list is written [\"a\", \"b\"]".to_owned()
    } else if what.contains("table") {
        "a section is written [name] on a line of its own".to_owned()
    } else if what.contains("key") || what.contains("assign") {
        "a line is: key = value".to_owned()
    } else {
        "see https://toml.io for how TOML is written".to_owned()
    };
    problem(file, at, Severity::Error, format!("not TOML: {what}"), label, help)
}

/// The nearest key of this name before `before`.
fn first_of(table: &Table, key: &str, before: usize) -> Option<Place> {
    let mut best: Option<Place> = None;
    for (name, entry) in table {
        let mut offer = (name == key && entry.key_at.start < before).then_some(entry.key_at);
        if let Value::Table(inner) = &entry.raw.value {
            offer = offer.max(first_of(inner, key, before));
        }
        best = best.max(offer);
    }
    best
}

fn convert_table(file: usize, table: &toml::de::DeTable<'_>) -> Table {
    let mut out = Table::new();
    for (key, value) in table.iter() {
        let span = key.span();
        out.insert(
            key.get_ref().to_string(),
            Entry { key_at: Place { file, start: span.start, end: span.end }, raw: convert(file, value) },
        );
    }
    out
}

fn convert(file: usize, value: &toml::Spanned<toml::de::DeValue<'_>>) -> Raw {
    use toml::de::DeValue;
    let span = value.span();
    let at = Place { file, start: span.start, end: span.end };
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => {
            Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok(), number.to_string())
        }
        DeValue::Float(number) => Value::Float(number.as_str().parse().ok(), number.to_string()),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(value) => Value::Datetime(value.to_string()),
        DeValue::Array(items) => Value::Array(items.iter().map(|item| convert(file, item)).collect()),
        DeValue::Table(table) => Value::Table(convert_table(file, table)),
    };
    Raw { value, at }
}

/// Lays `over` on `under`: tables merge, all else replaces.
pub fn merge(under: &mut Table, over: &Table) {
    for (key, entry) in over {
        match under.entry(key.clone()) {
            Slot::Vacant(slot) => {
                slot.insert(entry.clone());
            }
            Slot::Occupied(mut slot) => match (&mut slot.get_mut().raw.value, &entry.raw.value) {
                (Value::Table(under), Value::Table(over)) => merge(under, over),
                (_, _) => {
                    slot.insert(entry.clone());
                }
            },
        }
    }
}

/// Lays an `[extend]` table on `under`: arrays are appended to.
pub fn extend(under: &mut Table, by: &Table) {
    for (key, entry) in by {
        match under.entry(key.clone()) {
            Slot::Vacant(slot) => {
                slot.insert(entry.clone());
            }
            Slot::Occupied(mut slot) => match (&mut slot.get_mut().raw.value, &entry.raw.value) {
                (Value::Table(under), Value::Table(by)) => extend(under, by),
                (Value::Array(under), Value::Array(by)) => under.extend(by.iter().cloned()),
                // A key that takes one text or a list of them.
                (Value::Text(_), Value::Array(by)) => {
                    let raw = &mut slot.get_mut().raw;
                    let one = Raw { value: raw.value.clone(), at: raw.at };
                    raw.value = Value::Array(std::iter::once(one).chain(by.iter().cloned()).collect());
                }
                (_, _) => {}
            },
        }
    }
}
