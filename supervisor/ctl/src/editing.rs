//! editing: unit files, changed from the command line.
//!
//! Job: `edit`, `enable`, `disable`, `is-enabled`, `mask`, `unmask`. May touch: files and links in the directories of the unit path,
//! an editor; loomd is asked to read them anew. Keeps: a text is in place only after the loader took it, whole or not at all; a
//! text that was not taken is kept; works without a supervisor.

use crate::answer::{Context, WIDTH, failed, say, say_json, show_refusal, usage};
use crate::{jobs, reload, show, verify};
use loom_api::control::resolve_unit;
use loom_api::unit_files;
use loom_api::view::*;
use loom_core::ids::UnitId;
use loom_core::unit::problem::{Problem, Severity};
use loom_core::unit::{Catalogue, Content, Enabled, Facts, Source, SourceSet, link_name, load_all};
use serde_json::json;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What masks a unit.
const NOTHING: &str = "/dev/null";
/// The largest text that is taken from stdin.
const TEXT_MAX_BYTES: u64 = unit_files::FILE_MAX_BYTES;

/// What is to be edited.
pub struct Edit {
    pub unit: String,
    pub full: bool,
    pub runtime: bool,
    pub stdin: bool,
    pub drop_in: String,
}

/// The unit files as they lie there.
struct Shelf {
    path: Vec<PathBuf>,
    facts: Facts,
    set: SourceSet,
    catalogue: Catalogue,
}

impl Shelf {
    fn read(context: &Context) -> Self {
        let path = context.dirs.search_path();
        let facts = unit_files::facts(&context.dirs.runtime, &context.dirs.state, &context.dirs.unit_path);
        let set = unit_files::read(&path);
        let catalogue = load(&set, &facts);
        Self { path, facts, set, catalogue }
    }

    fn find(&self, asked: &str) -> Result<UnitId, Refusal> {
        let Catalogue { units, refused, templates, masked, .. } = &self.catalogue;
        resolve_unit(asked, units.keys().chain(refused.keys()).chain(templates).chain(masked))
    }

    /// The main file of a unit, or of the template it is made from.
    fn main_file(&self, unit: &UnitId) -> Option<&str> {
        let files = self.catalogue.files.get(unit).or_else(|| self.catalogue.files.get(&unit.template()?))?;
        files.iter().find(|file| file.path.ends_with(".toml") && !file.path.contains(".d/")).map(|it| it.path.as_str())
    }
}

fn load(set: &SourceSet, facts: &Facts) -> Catalogue {
    load_all(set, facts, Some(&|program: &str| unit_files::find_program(program).is_some()))
}

/// The directory that changes go to.
fn directory(context: &Context, runtime: bool) -> Result<PathBuf, Refusal> {
    if runtime {
        return Ok(context.dirs.transient());
    }
    let own = context.dirs.unit_path.iter().find(|path| **path != context.dirs.transient());
    own.cloned().ok_or_else(|| usage("there is no directory of unit files").try_this("name one with --unit-path"))
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Refusal {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "who owns the directory? `--unit-path` names another one, and so does --runtime"
        }
        _ => "check the path, then try again",
    };
    failed(format!("cannot {what} `{}`", path.display()), error).try_this(hint)
}

/// Lets loomd read the files anew. Without one they count from its next start.
fn read_anew(context: &Context) -> Result<(), Refusal> {
    match reload::read(context, false) {
        Ok(report) => {
            eprint!("{}", show::reload(&report));
            Ok(())
        }
        Err(refusal) if refusal.code == Refusal::NO_SUPERVISOR => {
            eprintln!("no supervisor is running: it counts from its next start");
            Ok(())
        }
        Err(refusal) => Err(refusal),
    }
}

pub fn edit(context: &Context, asked: &Edit) -> Result<u8, Refusal> {
    let directory = directory(context, asked.runtime)?;
    let is_name = !asked.drop_in.is_empty() && !asked.drop_in.starts_with('.') && !asked.drop_in.contains('/');
    if !is_name {
        return Err(usage(format!("`{}` is no name of a drop-in", asked.drop_in)));
    }
    fs::create_dir_all(&directory).map_err(|error| cannot("make the directory", &directory, &error))?;
    let shelf = Shelf::read(context);
    let unit = shelf.find(&asked.unit)?;
    let folder = directory.join(format!("{unit}.d"));
    let stem = asked.drop_in.strip_suffix(".toml").unwrap_or(&asked.drop_in);
    let (target, kept) = match asked.full {
        true => (directory.join(format!("{unit}.toml")), folder.join(".whole.edit.toml")),
        false => (folder.join(format!("{stem}.toml")), folder.join(format!(".{stem}.edit.toml"))),
    };
    let before = match fs::read_to_string(&target) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(cannot("read", &target, &error)),
    };
    let main = shelf.main_file(&unit).map(PathBuf::from);
    let first = match (&before, asked.full, &main) {
        (Some(text), _, _) => text.clone(),
        (None, true, Some(main)) => fs::read_to_string(main).map_err(|error| cannot("read", main, &error))?,
        (None, true, None) => String::new(),
        (None, false, _) => head(&unit, main.as_deref()),
    };
    let text = match asked.stdin {
        true => {
            let mut text = String::new();
            let read = io::stdin().take(TEXT_MAX_BYTES).read_to_string(&mut text);
            read.map_err(|error| usage("cannot read stdin").because(error.to_string()))?;
            text
        }
        false => {
            fs::create_dir_all(&folder).map_err(|error| cannot("make the directory", &folder, &error))?;
            if kept.exists() {
                eprintln!("going on with the text that was kept in {}", kept.display());
            } else {
                fs::write(&kept, &first).map_err(|error| cannot("write", &kept, &error))?;
            }
            open_editor(&kept)?;
            fs::read_to_string(&kept).map_err(|error| cannot("read", &kept, &error))?
        }
    };
    let says_nothing = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    if before.as_ref() == Some(&text) || (says_nothing && !asked.full && before.is_none()) || text.trim().is_empty() {
        let _ = fs::remove_file(&kept);
        let _ = fs::remove_dir(&folder);
        eprintln!("nothing was changed");
        return Ok(0);
    }
    let problems = problems_with(&shelf, &directory, &target, &text);
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(keep(&folder, &kept, &text, problems));
    }
    eprint!("{}", verify::render(&problems, WIDTH));
    put_in_place(&folder, &kept, &target, &text)?;
    match read_anew(context) {
        Ok(()) => {}
        Err(refusal) if refusal.code == Refusal::BAD_FILE => {
            // loomd sees more than we do. As it was before.
            let back = match &before {
                Some(text) => fs::write(&target, text),
                None => fs::remove_file(&target),
            };
            back.map_err(|error| cannot("put back", &target, &error))?;
            return Err(keep(&folder, &kept, &text, refusal.problems));
        }
        Err(refusal) => return Err(refusal),
    }
    if context.json {
        say_json(&json!({"version": VERSION, "unit": unit, "file": target}));
    } else {
        eprintln!("wrote {}", target.display());
    }
    Ok(0)
}

fn head(unit: &UnitId, main: Option<&Path>) -> String {
    let main = main.map(|main| format!(" {}", main.display())).unwrap_or_default();
    format!(
        "# A drop-in of {unit}: keys that stand here replace those of{main}.\n\
         # `[extend.<section>]` appends to lists instead. `loomctl show {unit}` tells every key in force.\n\n"
    )
}

/// As git does: the variable may hold words for a shell.
fn open_editor(file: &Path) -> Result<(), Refusal> {
    let var = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let editor = var("VISUAL").or_else(|| var("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    let status = Command::new("/bin/sh").arg("-c").arg(format!("{editor} \"$@\"")).arg(&editor).arg(file).status();
    let hint = "set EDITOR, or use --stdin; your text is kept in";
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(format!("the editor `{editor}` did not end well"), status)
            .try_this(format!("{hint} {}", file.display()))),
        Err(error) => {
            Err(failed(format!("cannot run the editor `{editor}`"), error)
                .try_this(format!("{hint} {}", file.display())))
        }
    }
}

/// What would be wrong with this text in its place, and was not wrong before.
fn problems_with(shelf: &Shelf, directory: &Path, target: &Path, text: &str) -> Vec<Problem> {
    let mut set = shelf.set.clone();
    let absolute = std::path::absolute(directory).unwrap_or(directory.to_owned());
    let index = set.directories.iter().position(|known| Path::new(known) == absolute).unwrap_or(0);
    let name = target.strip_prefix(directory).unwrap_or(target).display().to_string();
    let content = Content::Bytes(text.as_bytes().to_vec());
    match set.sources.iter_mut().find(|source| source.directory == index && source.name == name) {
        Some(source) => source.content = content,
        None => {
            set.sources.push(Source { path: target.display().to_string(), directory: index, name, content });
        }
    }
    let after = load(&set, &shelf.facts).problems;
    after.into_iter().filter(|problem| !shelf.catalogue.problems.contains(problem)).collect()
}

/// Nothing was changed, and no work is lost.
fn keep(folder: &Path, kept: &Path, text: &str, problems: Vec<Problem>) -> Refusal {
    let saved = fs::create_dir_all(folder).and_then(|()| fs::write(kept, text));
    let mut refusal =
        Refusal::new(Refusal::BAD_FILE, "the text has errors; nothing was changed").try_this(match saved {
            Ok(()) => format!("your text is kept in {}; the next `loomctl edit` goes on with it", kept.display()),
            Err(error) => format!("your text could not be kept in {}: {error}", kept.display()),
        });
    refusal.problems = problems;
    refusal
}

fn put_in_place(folder: &Path, kept: &Path, target: &Path, text: &str) -> Result<(), Refusal> {
    let written = fs::create_dir_all(folder).and_then(|()| {
        let mut file = File::create(kept)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(kept, target)
    });
    written.map_err(|error| cannot("write", target, &error))?;
    // Made for the text that was edited as a whole.
    let _ = fs::remove_dir(folder);
    Ok(())
}

/// The units meant, each with its own refusal.
fn each(
    context: &Context,
    units: &[String],
    mut change: impl FnMut(&Shelf, &UnitId) -> Result<String, Refusal>,
) -> Result<Vec<UnitId>, Refusal> {
    let shelf = Shelf::read(context);
    let ids: Vec<UnitId> = units.iter().map(|asked| shelf.find(asked)).collect::<Result<_, _>>()?;
    for id in &ids {
        eprint!("{}", change(&shelf, id)?);
    }
    Ok(ids)
}

fn answer(context: &Context, units: &[UnitId], word: &str) {
    if context.json {
        let units: Vec<_> = units.iter().map(|unit| json!({"unit": unit, "is": word})).collect();
        say_json(&json!({"version": VERSION, "units": units}));
    }
}

fn now(context: &Context, verb: JobVerb, units: &[UnitId]) -> Result<u8, Refusal> {
    let request = JobsRequest::new(verb, units.iter().map(ToString::to_string).collect());
    Ok(jobs::carry_out(context, request)?.status())
}

pub fn enable(context: &Context, units: &[String], start: bool) -> Result<u8, Refusal> {
    let directory = directory(context, false)?;
    let ids = each(context, units, |shelf, id| {
        let unit = shelf.catalogue.units.get(id).ok_or_else(|| not_whole(shelf, id))?;
        let install = &unit.install;
        let wanted = install.wanted_by.iter().map(|of| (of, Enabled::Wants));
        let required = install.required_by.iter().map(|of| (of, Enabled::Requires));
        let wanted: Vec<(&UnitId, Enabled)> = wanted.chain(required).collect();
        if wanted.is_empty() {
            return Err(Refusal::new(Refusal::FAILED, format!("`{id}` cannot be enabled"))
                .because("its file does not say what it is to start with")
                .try_this("add `[install]` with `wanted_by = [\"default.target\"]`, or start it by hand"));
        }
        let mut words = String::new();
        for (of, list) in wanted {
            let link = directory.join(link_name(of, list, id));
            let folder = link.parent().unwrap_or(&directory).to_owned();
            if fs::symlink_metadata(&link).is_ok() {
                words.push_str(&format!("{id} already starts with {of}\n"));
                continue;
            }
            fs::create_dir_all(&folder).map_err(|error| cannot("make the directory", &folder, &error))?;
            let main = PathBuf::from(shelf.main_file(id).unwrap_or_default());
            let to = match (main.parent() == Some(&directory), main.file_name()) {
                (true, Some(name)) => Path::new("..").join(name),
                _ => main.clone(),
            };
            symlink(&to, &link).map_err(|error| cannot("make the link", &link, &error))?;
            words.push_str(&format!("{id} starts with {of}: {}\n", link.display()));
        }
        Ok(words)
    })?;
    read_anew(context)?;
    answer(context, &ids, "enabled");
    if start { now(context, JobVerb::Start, &ids) } else { Ok(0) }
}

fn not_whole(shelf: &Shelf, id: &UnitId) -> Refusal {
    let mut refusal = if shelf.catalogue.masked.contains(id) {
        Refusal::new(Refusal::FAILED, format!("`{id}` is masked")).try_this(format!("`loomctl unmask {id}`"))
    } else if shelf.catalogue.refused.contains_key(id) {
        Refusal::new(Refusal::BAD_FILE, format!("`{id}` has errors in its file"))
    } else {
        usage(format!("`{id}` is a template")).try_this("name an instance that has a file")
    };
    refusal.problems = shelf.catalogue.refused.get(id).cloned().unwrap_or_default();
    refusal
}

/// The links that make a unit start with others.
fn links(shelf: &Shelf, id: &UnitId) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in &shelf.path {
        for folder in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = folder.file_name().to_string_lossy().into_owned();
            let link = folder.path().join(format!("{id}.toml"));
            if (name.ends_with(".wants") || name.ends_with(".requires")) && fs::symlink_metadata(&link).is_ok() {
                found.push(link);
            }
        }
    }
    found
}

pub fn disable(context: &Context, units: &[String], stop: bool) -> Result<u8, Refusal> {
    let ids = each(context, units, |shelf, id| {
        let links = links(shelf, id);
        let mut words = String::new();
        for link in &links {
            fs::remove_file(link).map_err(|error| cannot("remove", link, &error))?;
            words.push_str(&format!("removed {}\n", link.display()));
            if let Some(folder) = link.parent() {
                let _ = fs::remove_dir(folder);
            }
        }
        if links.is_empty() {
            words = format!("{id} is not enabled\n");
        }
        Ok(words)
    })?;
    read_anew(context)?;
    answer(context, &ids, "disabled");
    if stop { now(context, JobVerb::Stop, &ids) } else { Ok(0) }
}

pub fn is_enabled(context: &Context, units: &[String]) -> Result<u8, Refusal> {
    let shelf = Shelf::read(context);
    let (mut found, mut unknown, mut said) = (false, None, Vec::new());
    for asked in units {
        let id = match shelf.find(asked) {
            Ok(id) => id,
            Err(refusal) => {
                show_refusal(&refusal);
                unknown.get_or_insert(refusal);
                continue;
            }
        };
        let install = shelf.catalogue.units.get(&id).map(|unit| &unit.install);
        let word = if shelf.catalogue.masked.contains(&id) {
            "masked"
        } else if !links(&shelf, &id).is_empty() {
            found = true;
            "enabled"
        } else if install.is_some_and(|install| install.wanted_by.is_empty() && install.required_by.is_empty()) {
            "static"
        } else {
            "disabled"
        };
        if !context.json {
            say(&format!("{word}\n"));
        }
        said.push(json!({"unit": id, "is": word}));
    }
    if context.json {
        say_json(&json!({"version": VERSION, "units": said}));
    }
    Ok(match (found, unknown) {
        (true, _) => 0,
        (false, Some(refusal)) => crate::answer::exit_status(&refusal),
        (false, None) => 1,
    })
}

pub fn mask(context: &Context, units: &[String], runtime: bool) -> Result<u8, Refusal> {
    let directory = directory(context, runtime)?;
    fs::create_dir_all(&directory).map_err(|error| cannot("make the directory", &directory, &error))?;
    let ids = each(context, units, |_, id| {
        let file = directory.join(format!("{id}.toml"));
        if fs::read_link(&file).is_ok_and(|to| to == Path::new(NOTHING)) {
            return Ok(format!("{id} is masked already\n"));
        }
        if fs::symlink_metadata(&file).is_ok() {
            return Err(Refusal::new(Refusal::FAILED, format!("cannot mask `{id}`"))
                .because(format!("its file lies where the mask would: `{}`", file.display()))
                .try_this("use --runtime, or move the file into a lower directory of the unit path"));
        }
        symlink(NOTHING, &file).map_err(|error| cannot("make the link", &file, &error))?;
        Ok(format!("{id} is masked: {}\n", file.display()))
    })?;
    read_anew(context)?;
    answer(context, &ids, "masked");
    Ok(0)
}

pub fn unmask(context: &Context, units: &[String], runtime: bool) -> Result<u8, Refusal> {
    let directories = match runtime {
        true => vec![context.dirs.transient()],
        false => context.dirs.search_path(),
    };
    let ids = each(context, units, |_, id| {
        let masks: Vec<PathBuf> = directories
            .iter()
            .map(|directory| directory.join(format!("{id}.toml")))
            .filter(|file| fs::read_link(file).is_ok_and(|to| to == Path::new(NOTHING)))
            .collect();
        for file in &masks {
            fs::remove_file(file).map_err(|error| cannot("remove", file, &error))?;
        }
        let word = if masks.is_empty() { "is not masked" } else { "is masked no more" };
        Ok(format!("{id} {word}\n"))
    })?;
    read_anew(context)?;
    answer(context, &ids, "unmasked");
    Ok(0)
}
