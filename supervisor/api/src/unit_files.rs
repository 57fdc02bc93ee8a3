//! unit_files: the disk side of unit files.
//!
//! Job: read the directories of the search path into a [`SourceSet`], and gather the [`Facts`] that specifiers stand for;
//! the same for loomd and loomctl. May touch: files below the search path, `/etc/passwd`, the boot id. May not: decide.
//! Keeps: at most [`FILES_MAX`] files of [`FILE_MAX_BYTES`]; no file outside the directories is opened for any name.

use loom_core::unit::problem::{Problem, Severity};
use loom_core::unit::{Content, Facts, Role, Source, SourceSet, role};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The largest unit file.
pub const FILE_MAX_BYTES: u64 = 1 << 20;

/// Unit files and drop-ins in all directories together.
pub const FILES_MAX: usize = 10_000;

/// Where a program without `/` is looked for.
pub const PROGRAM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Reads the search path, highest directory first. A directory that does not exist is empty.
pub fn read(unit_path: &[PathBuf]) -> SourceSet {
    let mut reader = Reader { set: SourceSet::default(), roots: Vec::new(), full: false };
    let mut seen = BTreeSet::new();
    for directory in unit_path {
        let real = match fs::canonicalize(at(directory)) {
            Ok(real) => real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                reader.problem(directory, &format!("cannot read the directory: {error}"), "check its owner and mode");
                continue;
            }
        };
        // The same directory under two names counts once, where it is highest.
        if seen.insert(real.clone()) {
            reader.roots.push((directory.clone(), real));
        }
    }
    for index in 0..reader.roots.len() {
        let (shown, real) = reader.roots[index].clone();
        let absolute = std::path::absolute(at(&shown)).unwrap_or(real);
        reader.set.directories.push(absolute.to_string_lossy().into_owned());
        reader.directory(index, &shown);
    }
    reader.set
}

/// `""`, the parent of a bare file name, is the current directory.
fn at(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

struct Reader {
    set: SourceSet,
    /// As given, and without links.
    roots: Vec<(PathBuf, PathBuf)>,
    full: bool,
}

impl Reader {
    fn problem(&mut self, path: &Path, message: &str, help: &str) {
        self.set.problems.push(Problem {
            severity: Severity::Error,
            file: path.display().to_string(),
            line: 0,
            column: 0,
            length: 0,
            source_line: String::new(),
            message: message.to_owned(),
            label: String::new(),
            help: help.to_owned(),
        });
    }

    /// Names in a directory, sorted.
    fn names(&mut self, directory: &Path) -> Vec<String> {
        let mut names = Vec::new();
        match fs::read_dir(at(directory)) {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok(entry) => names.extend(entry.file_name().into_string().ok()),
                        Err(error) => {
                            self.problem(directory, &format!("cannot read the directory: {error}"), "try again");
                            break;
                        }
                    }
                }
            }
            Err(error) => {
                self.problem(directory, &format!("cannot read the directory: {error}"), "check its owner and mode");
            }
        }
        names.sort();
        names
    }

    fn directory(&mut self, index: usize, shown: &Path) {
        for name in self.names(shown) {
            if name.ends_with(".toml") && role(&name) != Role::Other {
                self.file(index, shown, name);
            } else if [".d", ".wants", ".requires"].iter().any(|end| name.ends_with(end)) && !name.starts_with('.') {
                let folder = shown.join(&name);
                // A folder that is a link may lead anywhere: its files are checked one by one.
                if !fs::metadata(&folder).is_ok_and(|meta| meta.is_dir()) {
                    continue;
                }
                for file in self.names(&folder) {
                    let below = format!("{name}/{file}");
                    if role(&below) != Role::Other {
                        self.file(index, shown, below);
                    }
                }
            }
        }
    }

    fn file(&mut self, index: usize, shown: &Path, name: String) {
        let path = shown.join(&name);
        if self.set.sources.len() >= FILES_MAX {
            if !self.full {
                self.full = true;
                let message = format!("more than {FILES_MAX} unit files; the rest is not read");
                self.problem(&path, &message, "remove files that are no longer needed");
            }
            return;
        }
        let is_link = matches!(role(&name), Role::Link { .. });
        let content = match if is_link { link(&path) } else { self.content(&path) } {
            Ok(content) => content,
            Err((cause, help)) => Content::Unreadable { cause, help: help.to_owned() },
        };
        self.set.sources.push(Source { path: path.display().to_string(), directory: index, name, content });
    }

    fn content(&self, path: &Path) -> Result<Content, (String, &'static str)> {
        let cannot = |error: io::Error| (format!("cannot read the file: {error}"), "check its owner and mode");
        if fs::read_link(path).is_ok_and(|target| target == Path::new("/dev/null")) {
            return Ok(Content::Masked);
        }
        let real = fs::canonicalize(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ("a link that leads nowhere".to_owned(), "remove it, or put the file back"),
            _ => cannot(error),
        })?;
        if real == Path::new("/dev/null") {
            return Ok(Content::Masked);
        }
        if !self.roots.iter().any(|(_, root)| real.starts_with(root)) {
            return Err((
                format!("a link to `{}`, which lies outside of the directories of units", real.display()),
                "copy the file, or add its directory to the search path with --unit-path",
            ));
        }
        // Opening a pipe would wait for a writer; so look first.
        if !fs::metadata(&real).map_err(cannot)?.is_file() {
            return Err(("not a regular file".to_owned(), "a unit file is a text file"));
        }
        let mut bytes = Vec::new();
        let file = fs::File::open(&real).map_err(cannot)?;
        file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
        if bytes.len() as u64 > FILE_MAX_BYTES {
            return Err(("larger than 1 MiB".to_owned(), "a unit file has a few lines; is this another file?"));
        }
        Ok(Content::Bytes(bytes))
    }
}

/// A link in a folder of links: where it leads does not matter, but for `/dev/null`, which masks.
fn link(path: &Path) -> Result<Content, (String, &'static str)> {
    match fs::read_link(path) {
        Ok(target) if target == Path::new("/dev/null") => Ok(Content::Masked),
        Ok(_) => Ok(Content::Link),
        Err(_) => Err(("not a link".to_owned(), "`loomctl enable UNIT` makes the right one; remove this file")),
    }
}

/// What specifiers stand for, on this machine, for the user who asks.
pub fn facts(runtime_dir: &Path, state_dir: &Path, unit_path: &[PathBuf]) -> Facts {
    let uid = fs::metadata("/proc/self").map(|meta| meta.uid()).unwrap_or(0);
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() >= 6 && fields[2].parse::<u32>().is_ok_and(|known| known == uid));
    let user = entry.as_ref().map_or_else(|| uid.to_string(), |fields| fields[0].to_owned());
    let home = std::env::var("HOME").ok().filter(|home| home.starts_with('/'));
    let home = home.or_else(|| entry.map(|fields| fields[5].to_owned())).unwrap_or_else(|| "/".to_owned());
    let text = |path: &Path| std::path::absolute(path).unwrap_or(path.to_owned()).to_string_lossy().into_owned();
    Facts {
        home,
        user,
        boot_id: fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().replace('-', ""),
        runtime_dir: text(runtime_dir),
        state_dir: text(state_dir),
        unit_path: unit_path.iter().map(|directory| text(at(directory))).collect(),
        now: now(),
    }
}

/// Milliseconds since the epoch.
pub fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Finds a program as loomd does: a name in [`PROGRAM_PATH`], or an absolute path. It must be an executable file.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let runs =
        |path: &Path| fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| runs(path));
    }
    PROGRAM_PATH.split(':').map(|directory| Path::new(directory).join(program)).find(|path| runs(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use loom_core::unit::{Standing, load, load_all};
    use std::os::unix::fs::symlink;

    const UNIT: &str = "[exec]\ncommand = [\"sleep\", \"1\"]\n";

    fn facts_for(dirs: &[PathBuf]) -> Facts {
        facts(Path::new("/run/loom"), Path::new("/var/lib/loom"), dirs)
    }

    #[test]
    fn a_higher_directory_hides_and_a_link_to_dev_null_masks() {
        let temp = tempfile::tempdir().unwrap();
        let (high, low) = (temp.path().join("high"), temp.path().join("low"));
        fs::create_dir_all(&high).unwrap();
        fs::create_dir_all(low.join("a.agent.d")).unwrap();
        fs::write(low.join("a.agent.toml"), "[unit]\ndescription = \"low\"\n[exec]\ncommand = [\"x\"]\n").unwrap();
        fs::write(high.join("a.agent.toml"), "[unit]\ndescription = \"high\"\n[exec]\ncommand = [\"x\"]\n").unwrap();
        fs::write(low.join("a.agent.d/10.toml"), "[stop]\ntimeout = \"5s\"\n").unwrap();
        fs::write(low.join("b.agent.toml"), UNIT).unwrap();
        symlink("/dev/null", high.join("b.agent.toml")).unwrap();
        fs::write(low.join("README.md"), "no unit").unwrap();
        let dirs = [high.clone(), low.clone(), high, temp.path().join("missing")];
        let set = read(&dirs);
        let catalogue = load_all(&set, &facts_for(&dirs), None);
        assert_eq!(catalogue.problems, []);
        assert_eq!(catalogue.units.keys().map(ToString::to_string).collect::<Vec<_>>(), ["a.agent"]);
        let a = &catalogue.units[&"a.agent".parse().unwrap()];
        assert_eq!((a.description.as_str(), a.stop.timeout.0), ("high", 5_000));
        let files = &catalogue.files[&"a.agent".parse().unwrap()];
        assert_eq!(files.iter().map(|file| file.hidden).collect::<Vec<_>>(), [false, false, true]);
        assert!(catalogue.masked.contains(&"b.agent".parse().unwrap()));
        assert_eq!(load(&set, &facts_for(&dirs), &"b.agent".parse().unwrap(), None).standing, Standing::Masked);
    }

    #[test]
    fn no_file_outside_the_directories_is_read() {
        let temp = tempfile::tempdir().unwrap();
        let units = temp.path().join("units");
        fs::create_dir(&units).unwrap();
        fs::write(temp.path().join("secret"), UNIT).unwrap();
        symlink("../secret", units.join("out.agent.toml")).unwrap();
        symlink("inner.agent.toml", units.join("in.agent.toml")).unwrap();
        symlink("nowhere", units.join("gone.agent.toml")).unwrap();
        fs::write(units.join("inner.agent.toml"), UNIT).unwrap();
        fs::create_dir(units.join("dir.agent.toml")).unwrap();
        fs::write(units.join("big.agent.toml"), vec![b'#'; FILE_MAX_BYTES as usize + 1]).unwrap();
        let dirs = [units];
        let catalogue = load_all(&read(&dirs), &facts_for(&dirs), None);
        assert_eq!(catalogue.units.keys().map(ToString::to_string).collect::<Vec<_>>(), ["in.agent", "inner.agent"]);
        let said: Vec<&str> = catalogue.problems.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(said[0].contains("1 MiB") && said[1].contains("regular") && said[2].contains("nowhere"), "{said:?}");
        assert!(said[3].contains("outside of the directories"), "{said:?}");
    }

    #[test]
    fn a_link_enables_a_unit_and_a_higher_link_to_dev_null_takes_it_back() {
        use loom_core::unit::{Enabled, link_name};
        let temp = tempfile::tempdir().unwrap();
        let (high, low) = (temp.path().join("high"), temp.path().join("low"));
        let id = |text: &str| text.parse::<loom_core::ids::UnitId>().unwrap();
        let (all, a, b) = (id("all.target"), id("a.agent"), id("b.agent"));
        for directory in [high.join("all.target.wants"), low.join("all.target.wants"), low.join("all.target.requires")]
        {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(low.join("all.target.toml"), "").unwrap();
        fs::write(low.join("a.agent.toml"), UNIT).unwrap();
        fs::write(low.join("b.agent.toml"), UNIT).unwrap();
        symlink("../a.agent.toml", low.join(link_name(&all, Enabled::Wants, &a))).unwrap();
        symlink("../b.agent.toml", low.join(link_name(&all, Enabled::Wants, &b))).unwrap();
        symlink("../b.agent.toml", low.join(link_name(&all, Enabled::Requires, &b))).unwrap();
        symlink("/dev/null", high.join(link_name(&all, Enabled::Wants, &a))).unwrap();
        let dirs = [high.clone(), low.clone()];
        let catalogue = load_all(&read(&dirs), &facts_for(&dirs), None);
        assert_eq!(catalogue.problems, []);
        let unit = &catalogue.units[&all];
        assert_eq!((unit.wants.as_slice(), unit.requires.as_slice()), ([b.clone()].as_slice(), [b.clone()].as_slice()));
        let link = low.join(link_name(&all, Enabled::Requires, &b)).display().to_string();
        assert_eq!(catalogue.origins[&all]["unit.requires[0]"], link);
        assert_eq!(catalogue.origins[&all]["unit.after[0]"], link);
        fs::write(low.join("all.target.wants/c.agent.toml"), UNIT).unwrap();
        symlink("nowhere", low.join(link_name(&all, Enabled::Wants, &id("d.agent")))).unwrap();
        let catalogue = load_all(&read(&dirs), &facts_for(&dirs), None);
        let said: Vec<&str> = catalogue.problems.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(said, ["not read: not a link", "`unit.wants` names `d.agent`: there is no unit of this name"]);
        assert!(!catalogue.has_errors());
    }

    #[test]
    fn a_transient_unit_has_no_name_of_a_file_and_its_directory_is_the_highest() {
        let temp = tempfile::tempdir().unwrap();
        let run = temp.path().join("run");
        let (transient, low) = (run.join("transient"), temp.path().join("low"));
        fs::create_dir_all(&transient).unwrap();
        fs::create_dir_all(&low).unwrap();
        for name in ["a.agent", "b.agent", "w@1.agent"] {
            let text = format!("[unit]\ndescription = \"transient\"\n{UNIT}");
            fs::write(transient.join(format!("{name}.toml")), text).unwrap();
        }
        fs::write(low.join("a.agent.toml"), UNIT).unwrap();
        fs::write(low.join("w@.agent.toml"), UNIT).unwrap();
        let dirs = [transient, low];
        let facts = facts(&run, Path::new("/var/lib/loom"), &dirs);
        let catalogue = load_all(&read(&dirs), &facts, None);
        let id = |text: &str| text.parse::<loom_core::ids::UnitId>().unwrap();
        assert_eq!(catalogue.units[&id("a.agent")].description, "a.agent");
        assert_eq!(catalogue.units[&id("b.agent")].description, "transient");
        assert!(!catalogue.units.contains_key(&id("w@1.agent")));
        assert_eq!(catalogue.problems.len(), 2, "{:?}", catalogue.problems);
        assert!(catalogue.problems[0].message.contains("transient unit may not take the name of a file"));
        assert!(catalogue.taken_by(&id("a.agent")).is_some_and(|path| path.ends_with("low/a.agent.toml")));
        assert!(catalogue.taken_by(&id("w@9.agent")).is_some_and(|path| path.ends_with("low/w@.agent.toml")));
        assert_eq!(catalogue.taken_by(&id("new.agent")), None);
    }

    #[test]
    fn facts_name_the_user_and_absolute_directories() {
        let facts = facts(Path::new("run"), Path::new("/var/lib/loom"), &[PathBuf::from("units")]);
        assert!(facts.runtime_dir.starts_with('/') && facts.runtime_dir.ends_with("/run"), "{facts:?}");
        assert!(facts.unit_path[0].starts_with('/'), "{facts:?}");
        assert!(facts.home.starts_with('/') && !facts.user.is_empty() && facts.boot_id.len() == 32, "{facts:?}");
    }

    #[test]
    fn a_program_is_found_in_the_path_or_by_its_own() {
        assert!(find_program("sh").is_some());
        assert!(find_program("/bin/sh").is_some());
        assert_eq!(find_program("no-such-program-here"), None);
        assert_eq!(find_program("/etc/passwd"), None);
    }
}
