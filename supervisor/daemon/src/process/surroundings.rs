//! process/surroundings: what a start needs to know of the disk.
//!
//! Job: find the program, the interpreter behind it and the code it is given, and say where links lead.
//! May touch: file metadata, the first line of scripts, `pyvenv.cfg`. Keeps: facts only; what is too wide to grant is for
//! `loom_core::sandbox` to say. All paths are absolute and without `.` and `..`.

use loom_api::unit_files::{self, PROGRAM_PATH};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// How many interpreters and links are followed before we call it a loop.
const MOST_STEPS: usize = 16;
/// The longest first line of a script, as the kernel has it.
const SHEBANG_BYTES: usize = 256;

/// What was found for one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// The program, absolute, as it will be executed.
    pub program: PathBuf,
    /// Interpreters, links on the way to them, Python environments and their base.
    pub interpreter_roots: Vec<PathBuf>,
    /// Directories of the files below.
    pub code_roots: Vec<PathBuf>,
    /// The program itself if it is a script, and arguments that are absolute paths of existing files.
    pub code_files: Vec<PathBuf>,
}

/// Finds the program and what it needs.
pub fn look(command: &[String]) -> Result<Looked, String> {
    let first = command.first().ok_or("the command is empty")?;
    let program = find_program(first)?;
    let mut roots = BTreeSet::new();
    follow_program(&program, &mut roots, 0);
    let mut code_files = Vec::new();
    if !in_system(&program) && is_script(&program) {
        code_files.extend(fs::canonicalize(&program).ok());
    }
    for argument in &command[1..] {
        let path = Path::new(argument);
        if path.is_absolute() && fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
            code_files.extend(fs::canonicalize(path).ok());
        }
    }
    let parents = code_files.iter().filter_map(|file| file.parent()).filter(|root| !in_system(root));
    let code_roots: BTreeSet<PathBuf> = parents.map(Path::to_owned).collect();
    roots.remove(&program);
    // What /usr holds is in every profile.
    let interpreter_roots = roots.into_iter().filter(|root| !in_system(root)).collect();
    Ok(Looked { program, interpreter_roots, code_roots: code_roots.into_iter().collect(), code_files })
}

/// Absolute path of a program that is there.
pub fn find_program(name: &str) -> Result<PathBuf, String> {
    unit_files::find_program(name).ok_or_else(|| {
        if name.contains('/') {
            format!("`{name}` is no program: it does not exist, or it is not executable")
        } else {
            format!("program `{name}` is not in {PROGRAM_PATH}")
        }
    })
}

/// Paths among `paths` that are links, with where they lead. A path whose target lies elsewhere is followed once.
pub fn links<'a>(paths: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, String> {
    paths
        .into_iter()
        .filter_map(|path| {
            let target = fs::canonicalize(path).ok()?;
            (target != Path::new(path)).then(|| Some((path.to_owned(), target.to_str()?.to_owned()))).flatten()
        })
        .collect()
}

/// Adds the program, every link on the way, its interpreter and its Python installation.
fn follow_program(program: &Path, roots: &mut BTreeSet<PathBuf>, depth: usize) {
    if depth > MOST_STEPS {
        return;
    }
    let mut step = program.to_path_buf();
    for _ in 0..MOST_STEPS {
        roots.insert(step.clone());
        if is_python(&step) {
            add_python(&step, roots);
        }
        let Ok(next) = fs::read_link(&step) else { break };
        let next = step.parent().unwrap_or(Path::new("/")).join(next);
        let (Some(directory), Some(name)) = (next.parent(), next.file_name()) else { break };
        let Ok(directory) = fs::canonicalize(directory) else { break };
        step = directory.join(name);
    }
    if let Ok(target) = fs::canonicalize(program) {
        if is_python(&target) {
            add_python(&target, roots);
        }
        roots.insert(target);
    }
    for interpreter in shebang(program) {
        follow_program(&interpreter, roots, depth + 1);
    }
}

/// The interpreter in a script's first line; for `env NAME` also what NAME is.
fn shebang(program: &Path) -> Vec<PathBuf> {
    let mut start = Vec::new();
    let Ok(file) = fs::File::open(program) else { return Vec::new() };
    if file.take(SHEBANG_BYTES as u64).read_to_end(&mut start).is_err() {
        return Vec::new();
    }
    let Some(line) = start.strip_prefix(b"#!").and_then(|rest| rest.split(|byte| *byte == b'\n').next()) else {
        return Vec::new();
    };
    let line = String::from_utf8_lossy(line);
    let mut words = line.split_ascii_whitespace();
    let Some(interpreter) = words.next().map(PathBuf::from).filter(|path| path.is_absolute()) else {
        return Vec::new();
    };
    let mut found = vec![interpreter.clone()];
    if interpreter.file_name().is_some_and(|name| name == "env")
        && let Some(name) = words.find(|word| !word.starts_with('-') && !word.contains('='))
        && let Ok(program) = find_program(name)
    {
        found.push(program);
    }
    found
}

fn is_script(program: &Path) -> bool {
    let mut start = [0u8; 2];
    fs::File::open(program).and_then(|mut file| file.read_exact(&mut start)).is_ok() && &start == b"#!"
}

fn is_python(program: &Path) -> bool {
    program.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("python"))
}

fn in_system(path: &Path) -> bool {
    ["/usr", "/bin", "/sbin", "/lib"].iter().any(|system| path.starts_with(system))
}

/// A Python's environment and base installation: the directory above `bin`, and the one that `pyvenv.cfg` names.
fn add_python(program: &Path, roots: &mut BTreeSet<PathBuf>) {
    let Some(prefix) = program.parent().filter(|bin| bin.ends_with("bin")).and_then(Path::parent) else { return };
    if prefix == Path::new("/") || in_system(prefix) {
        return;
    }
    if let Ok(settings) = fs::read_to_string(prefix.join("pyvenv.cfg")) {
        roots.insert(prefix.to_path_buf());
        let home = settings.lines().find_map(|line| line.split_once('=').filter(|(key, _)| key.trim() == "home"));
        if let Some((_, home)) = home {
            let home = fs::canonicalize(home.trim()).unwrap_or_else(|_| PathBuf::from(home.trim()));
            let base = if home.ends_with("bin") { home.parent().unwrap_or(&home) } else { &home };
            if has_python_library(base) {
                roots.insert(base.to_path_buf());
            }
        }
    } else if has_python_library(prefix) {
        roots.insert(prefix.to_path_buf());
    }
}

/// Only a directory that really is an installation is granted as a whole.
fn has_python_library(prefix: &Path) -> bool {
    let Ok(entries) = fs::read_dir(prefix.join("lib")) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("python"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_program_without_a_slash_is_found_in_the_path() {
        assert!(find_program("sh").unwrap().ends_with("sh"));
        assert!(find_program("no-such-program-here").unwrap_err().contains("is not in /usr/local/sbin"));
        assert!(find_program("./x").is_err());
    }

    #[test]
    fn a_virtual_environment_brings_its_base() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        for directory in ["base/bin", "base/lib/python3.11", "venv/bin", "code"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        fs::write(at("base/bin/python3.11"), "elf").unwrap();
        fs::set_permissions(at("base/bin/python3.11"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink(at("base/bin/python3.11"), at("venv/bin/python")).unwrap();
        fs::write(at("venv/pyvenv.cfg"), format!("home = {}\n", at("base/bin").display())).unwrap();
        fs::write(at("code/agent.py"), "").unwrap();
        let python = at("venv/bin/python");
        let file = at("code/agent.py").canonicalize().unwrap();
        let looked = look(&words(&[python.to_str().unwrap(), file.to_str().unwrap(), "/no/such/file"])).unwrap();
        assert_eq!(looked.program, python);
        for root in ["base", "venv", "base/bin/python3.11"] {
            let root = at(root).canonicalize().unwrap();
            assert!(looked.interpreter_roots.contains(&root), "{root:?}: {looked:?}");
        }
        assert_eq!((looked.code_roots, looked.code_files), (vec![file.parent().unwrap().to_owned()], vec![file]));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        assert!(look(&words(&["/no/such/program"])).unwrap_err().contains("/no/such/program"));
    }

    #[test]
    fn an_interpreter_behind_env_is_found() {
        let place = tempfile::tempdir().unwrap();
        let script = place.path().join("run");
        fs::write(&script, "#!/usr/bin/env -S sh -e\n").unwrap();
        assert_eq!(shebang(&script).len(), 2);
    }

    #[test]
    fn a_link_is_told_with_its_target() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        fs::write(place.join("target"), "").unwrap();
        symlink("target", place.join("link")).unwrap();
        let (link, target) = (place.join("link"), place.join("target"));
        let found = links([link.to_str().unwrap(), target.to_str().unwrap(), "/no/such"]);
        assert_eq!(found, BTreeMap::from([(link.display().to_string(), target.display().to_string())]));
    }
}
