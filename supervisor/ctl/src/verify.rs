//! verify: what is wrong with unit files, as a person sees it.
//!
//! Job: check files or the whole search path without a supervisor, and draw [`Problem`]s; loomd's own go through the same
//! [`render`]. May touch: the disk side of unit files. Keeps: the same code decides here and in loomd.

use loom_api::unit_files;
use loom_core::ids::UnitId;
use loom_core::schedule::zone::{self, Zones};
use loom_core::unit::problem::{Problem, Severity};
use loom_core::unit::{Catalogue, Facts, Role, Unit, load_all, role};
use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, MietteError, MietteSpanContents, SourceCode,
    SourceSpan, SpanContents,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Exit status where a file has an error or a warning.
pub const BAD_FILE: u8 = 4;

/// Draws problems, one below the other, without colour; at most `width` columns where words can be broken.
pub fn render(problems: &[Problem], width: usize) -> String {
    let mut out = String::new();
    for problem in problems {
        draw(&mut out, problem, width);
        out.push('\n');
    }
    out
}

fn draw(out: &mut String, problem: &Problem, width: usize) {
    let (severity, sign) = match problem.severity {
        Severity::Error => (miette::Severity::Error, "×"),
        Severity::Warning => (miette::Severity::Warning, "⚠"),
    };
    if problem.line == 0 {
        let _ = writeln!(out, "  {sign} {}\n   ╭─[{}]\n   ╰────", problem.message, problem.file);
        if !problem.help.is_empty() {
            let _ = writeln!(out, "  help: {}", problem.help);
        }
        return;
    }
    let line = Line::new(problem);
    let mut diagnostic = MietteDiagnostic::new(problem.message.clone())
        .with_severity(severity)
        .with_label(LabeledSpan::new_primary_with_span(Some(problem.label.clone()), line.marked));
    if !problem.help.is_empty() {
        diagnostic = diagnostic.with_help(problem.help.clone());
    }
    let report = miette::Report::new(diagnostic).with_source_code(line);
    let handler =
        GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(width).with_links(false);
    if handler.render_report(out, report.as_ref()).is_err() {
        // Never lose a problem for want of a picture.
        let _ = writeln!(out, "  {sign} {}:{}:{}: {}", problem.file, problem.line, problem.column, problem.message);
    }
}

/// The one line of a file that a problem carries, under its number.
#[derive(Debug)]
struct Line {
    file: String,
    number: usize,
    text: String,
    marked: SourceSpan,
    column: usize,
}

impl Line {
    fn new(problem: &Problem) -> Self {
        let bytes = |characters: usize| {
            problem.source_line.char_indices().nth(characters).map_or(problem.source_line.len(), |(at, _)| at)
        };
        let start = bytes(problem.column.saturating_sub(1));
        let end = bytes((problem.column.saturating_sub(1)).saturating_add(problem.length)).max(start);
        // A mark behind the end of the line still needs a place to stand on.
        let mut text = problem.source_line.clone();
        if start >= text.len() {
            text.push(' ');
        }
        let length = (end - start).max(1);
        Self {
            file: problem.file.clone(),
            number: problem.line,
            text,
            marked: (start, length).into(),
            column: problem.column.saturating_sub(1),
        }
    }
}

impl SourceCode for Line {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        _after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        // Asked with context: the whole line. Without: where the mark is.
        let (data, span, column) = if before == 0 {
            let (from, to) = (span.offset(), span.offset() + span.len());
            let data = self.text.as_bytes().get(from..to).ok_or(MietteError::OutOfBounds)?;
            (data, *span, self.column)
        } else {
            (self.text.as_bytes(), (0, self.text.len()).into(), 0)
        };
        Ok(Box::new(MietteSpanContents::new_named(self.file.clone(), data, span, self.number - 1, column, 1)))
    }
}

/// What came of checking.
#[derive(Debug)]
pub struct Checked {
    pub problems: Vec<Problem>,
    /// Those of the files that are schedules and right.
    pub schedules: Vec<Unit>,
}

/// How many slots of a schedule are shown.
const SLOTS_SHOWN: usize = 3;

/// The next slots of schedules, for standard output: an instant a line, as a person in the schedule's zone reads it.
pub fn next_slots(schedules: &[Unit], zones: &Zones, now: u64) -> String {
    let mut out = String::new();
    for unit in schedules {
        let Some(settings) = &unit.schedule else { continue };
        let zone = zones.get(&settings.timezone).unwrap_or_else(|_| zone::Zone::utc());
        let slots = settings.slots(zones, now, SLOTS_SHOWN).unwrap_or_default();
        let _ = writeln!(out, "{} starts {}: {}", unit.id, settings.unit, settings.rhythm());
        for slot in slots {
            let _ = writeln!(out, "  {}", zone.show(slot));
        }
    }
    out
}

/// Every problem of these files; of the whole search path where none is named.
///
/// A file is read together with its neighbours and the search path, so that names of other units are known; only its own
/// problems are returned, and those of a unit's drop-ins with the unit.
pub fn check_files(paths: &[PathBuf], facts: &Facts) -> Checked {
    let search: Vec<PathBuf> =
        std::iter::once(facts.transient_dir()).chain(facts.unit_path.iter().cloned()).map(PathBuf::from).collect();
    let programs = |program: &str| unit_files::find_program(program).is_some();
    if paths.is_empty() {
        let Catalogue { problems, units, .. } = load_all(&unit_files::read(&search), facts, Some(&programs));
        return Checked { problems, schedules: units.into_values().filter(|unit| unit.schedule.is_some()).collect() };
    }
    let mut schedules = Vec::new();
    let mut problems = Vec::new();
    // By directory: two files of one name in two directories are both checked, and neither hides the other.
    let mut wanted: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for path in paths {
        let shown = path.display().to_string();
        if path.is_dir() {
            wanted.entry(path.clone()).or_default().push(format!("{}/", shown.trim_end_matches('/')));
            continue;
        }
        if let Some(problem) = unfit(path) {
            problems.push(problem);
            continue;
        }
        let parent = path.parent().unwrap_or(Path::new(""));
        let directory = if is_folder_of_a_unit(parent) { parent.parent().unwrap_or(Path::new("")) } else { parent };
        let prefixes = wanted.entry(directory.to_owned()).or_default();
        prefixes.extend(shown.strip_suffix(".toml").map(|stem| format!("{stem}.d/")));
        prefixes.push(shown);
    }
    for (directory, prefixes) in wanted {
        // Before the search path: what is checked is what is named, not what hides it.
        let directories: Vec<PathBuf> = std::iter::once(directory).chain(search.iter().cloned()).collect();
        let catalogue = load_all(&unit_files::read(&directories), facts, Some(&programs));
        let is_named = |file: &str| {
            let of = |prefix: &String| prefix.ends_with('/') && file.starts_with(prefix);
            prefixes.iter().any(|prefix| file == prefix || of(prefix))
        };
        problems.extend(catalogue.problems.into_iter().filter(|problem| is_named(&problem.file)));
        let is_wanted = |id: &UnitId| {
            catalogue.files.get(id).is_some_and(|files| files.iter().any(|file| !file.hidden && is_named(&file.path)))
        };
        schedules.extend(catalogue.units.into_values().filter(|unit| unit.schedule.is_some() && is_wanted(&unit.id)));
    }
    Checked { problems, schedules }
}

fn is_folder_of_a_unit(path: &Path) -> bool {
    let ends = [".d", ".wants", ".requires"];
    path.file_name().is_some_and(|name| ends.iter().any(|end| name.to_string_lossy().ends_with(end)))
}

/// Why a path cannot be checked at all.
fn unfit(path: &Path) -> Option<Problem> {
    let (message, help) = if !path.exists() && path.symlink_metadata().is_err() {
        ("no such file".to_owned(), "name a unit file, such as units/chat.agent.toml".to_owned())
    } else if name_below_directory(path).is_none_or(|name| role(&name) == Role::Other) {
        (
            "not a unit file".to_owned(),
            "unit files are named `name.agent.toml`, `name.service.toml`, `name.target.toml`, `name.schedule.toml`"
                .to_owned(),
        )
    } else {
        return None;
    };
    Some(Problem {
        severity: Severity::Error,
        file: path.display().to_string(),
        line: 0,
        column: 0,
        length: 0,
        source_line: String::new(),
        message,
        label: String::new(),
        help,
    })
}

/// `chat.agent.toml`, `chat.agent.d/10-more.toml`, or `all.target.wants/chat.agent.toml`.
fn name_below_directory(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    match path.parent().filter(|parent| is_folder_of_a_unit(parent)) {
        Some(folder) => Some(format!("{}/{file}", folder.file_name()?.to_str()?)),
        None => Some(file.to_owned()),
    }
}

/// `loomctl verify`: the text for standard error, and the exit status: 0, or [`BAD_FILE`] on any error or warning.
pub fn verify_files(paths: &[PathBuf], facts: &Facts, width: usize) -> (String, u8) {
    let Checked { problems, .. } = check_files(paths, facts);
    if problems.is_empty() {
        return (String::new(), 0);
    }
    let count = |severity| problems.iter().filter(|problem| problem.severity == severity).count();
    let said = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let mut text = render(&problems, width);
    let _ = writeln!(text, "{}, {}", said(count(Severity::Error), "error"), said(count(Severity::Warning), "warning"));
    (text, BAD_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn facts() -> Facts {
        Facts {
            home: "/home/ada".into(),
            user: "ada".into(),
            boot_id: "0123456789abcdef0123456789abcdef".into(),
            runtime_dir: "/run/loom".into(),
            state_dir: "/var/lib/loom".into(),
            unit_path: vec!["/etc/loom/units".into()],
            now: 1_800_000_000_000,
        }
    }

    #[test]
    fn a_schedule_tells_its_next_three_instants() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("report.schedule.toml");
        fs::write(temp.path().join("report.agent.toml"), "[exec]\ncommand = [\"sh\"]\n").unwrap();
        fs::write(&file, "[schedule]\ncron = \"0 9 * * MON-FRI\"\ntimezone = \"Europe/Berlin\"\n").unwrap();
        let checked = check_files(&[file], &facts());
        assert_eq!(checked.problems, []);
        // 29 March 2026, one in the night, UTC.
        let said = next_slots(&checked.schedules, &Zones::default(), 1_774_746_000_000);
        let wanted = "report.schedule starts report.agent: cron 0 9 * * MON-FRI, timezone Europe/Berlin\n  \
                      Mon 2026-03-30 09:00:00 CEST\n  Tue 2026-03-31 09:00:00 CEST\n  Wed 2026-04-01 09:00:00 CEST\n";
        assert_eq!(said, wanted);
    }

    /// Each broken file lies beside what `loomctl verify` says about it. `LOOM_UPDATE_GOLDEN=1` writes it anew.
    #[test]
    fn every_broken_file_is_told_what_is_wrong_where_and_the_way_out() {
        let broken = Path::new("tests/broken");
        let mut files: Vec<PathBuf> = fs::read_dir(broken).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|end| end == "toml"));
        files.sort();
        assert!(files.len() >= 20, "only {} broken files", files.len());
        let mut different = Vec::new();
        for file in &files {
            let (text, status) = verify_files(std::slice::from_ref(file), &facts(), 100);
            let seen = format!("{text}exit status {status}\n");
            let golden = file.with_extension("txt");
            if std::env::var_os("LOOM_UPDATE_GOLDEN").is_some() {
                fs::write(&golden, &seen).unwrap();
            }
            let wanted = fs::read_to_string(&golden).unwrap_or_default();
            if seen != wanted || status != BAD_FILE {
                different.push(format!("--- {}\n{wanted}\n+++ seen\n{seen}", file.display()));
            }
        }
        assert!(different.is_empty(), "{}", different.join("\n"));
    }

    #[test]
    fn the_picture_shows_line_mark_note_and_way_out() {
        let problem = Problem {
            severity: Severity::Error,
            file: "units/counter.agent.toml".into(),
            line: 7,
            column: 10,
            length: 11,
            source_line: "policy = \"onfailure\"".into(),
            message: "unknown restart policy `onfailure`".into(),
            label: "not a policy".into(),
            help: "did you mean `on-failure`?".into(),
        };
        let wanted = "  × unknown restart policy `onfailure`\n   ╭─[units/counter.agent.toml:7:10]\n 7 │ policy = \"onfailure\"\n   ·          ─────┬─────\n   ·               ╰── not a policy\n   ╰────\n  help: did you mean `on-failure`?\n\n";
        assert_eq!(render(&[problem], 100), wanted);
    }

    #[test]
    fn a_right_file_is_silent() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("a.agent.toml");
        fs::write(&file, "[exec]\ncommand = [\"sh\", \"-c\", \"exit 0\"]\n").unwrap();
        fs::write(temp.path().join("b.agent.toml"), "[exec\n").unwrap();
        assert_eq!(verify_files(&[file], &facts(), 100), (String::new(), 0));
        let (text, status) = verify_files(&[temp.path().to_owned()], &facts(), 100);
        assert_eq!(status, BAD_FILE);
        assert!(text.contains("b.agent.toml:1:"), "{text}");
        let (text, status) = verify_files(&[temp.path().join("c.agent.toml")], &facts(), 100);
        assert!(status == BAD_FILE && text.contains("no such file"), "{text}");
        let (text, status) = verify_files(&[PathBuf::from("Cargo.toml")], &facts(), 100);
        assert!(status == BAD_FILE && text.contains("not"), "{text}");
    }

    #[test]
    fn files_of_one_name_and_drop_ins_are_each_checked() {
        let temp = tempfile::tempdir().unwrap();
        for directory in ["x/a.agent.d", "y"] {
            fs::create_dir_all(temp.path().join(directory)).unwrap();
        }
        let write = |name: &str, text: &str| {
            fs::write(temp.path().join(name), text).unwrap();
            temp.path().join(name)
        };
        let first = write("x/a.agent.toml", "[exec]\ncommand = [\"sh\"]\n");
        let second = write("y/a.agent.toml", "[exec]\ncommand = []\n");
        let drop_in = write("x/a.agent.d/10.toml", "[stop]\ntimeout = 5\n");
        let said = |paths: &[PathBuf]| {
            check_files(paths, &facts()).problems.iter().map(|p| p.message.clone()).collect::<Vec<_>>()
        };
        assert_eq!(said(&[first.clone(), second]).len(), 2);
        assert_eq!(said(&[drop_in]), ["`stop.timeout` wants a time span with its unit, not an integer"]);
        let whole = Facts { unit_path: vec![temp.path().join("x").display().to_string()], ..facts() };
        assert_eq!(check_files(&[], &whole).problems.len(), 1);
    }
}
