//! service: loomd as a service of systemd.
//!
//! Job: write systemd's unit file for loomd and tell systemd; take both back. May touch: that file, the link that enables it, the
//! directories they lie in, `systemctl`. Keeps: only what was made here is changed or removed; after the removal nothing is left,
//! not even an empty directory that was not there before; a step that fails takes the earlier ones back.

use crate::answer::{Context, failed, say, say_json};
use crate::cli::Service;
use loom_api::dirs::Dirs;
use loom_api::view::{Refusal, VERSION};
use serde_json::json;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The service's name.
const NAME: &str = "loomd.service";
/// The first line of a file that is ours.
const MARK: &str = "# Made by `loomctl install-service`; `loomctl uninstall-service` removes it without a trace.";
/// Before each directory that was not there before.
const MADE: &str = "# It made the directory ";
/// Descriptors that systemd keeps while no loomd runs.
const DESCRIPTORS_MAX: u32 = 4096;
/// In seconds. loomd beats at half of it.
const WATCHDOG_S: u32 = 30;
/// In seconds: loomd's own limits for stopping everything come first.
const STOP_S: u32 = 120;

/// Whose systemd.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manager {
    User,
    System,
}

/// Where everything lies.
struct Place {
    manager: Manager,
    file: PathBuf,
    /// Enables it.
    link: PathBuf,
    /// Another root: no service manager is told.
    is_elsewhere: bool,
}

impl Place {
    fn of(asked: &Service) -> Result<Self, Refusal> {
        let is_root = nix::unistd::geteuid().is_root();
        let manager = match (asked.user, asked.system) {
            (true, _) => Manager::User,
            (false, true) => Manager::System,
            (false, false) if is_root => Manager::System,
            (false, false) => Manager::User,
        };
        let directory = match manager {
            Manager::System => PathBuf::from("/etc/systemd/system"),
            Manager::User => {
                let var = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
                let config = var("XDG_CONFIG_HOME").or_else(|| Some(var("HOME")?.join(".config")));
                let config = config.ok_or_else(|| {
                    Refusal::new(Refusal::FAILED, "cannot tell where your service manager reads its files")
                        .because("neither XDG_CONFIG_HOME nor HOME is set")
                        .try_this("set HOME, or use --system")
                })?;
                config.join("systemd/user")
            }
        };
        let directory = match &asked.root {
            Some(root) => root.join(directory.strip_prefix("/").unwrap_or(&directory)),
            None => directory,
        };
        let target = match manager {
            Manager::User => "default.target.wants",
            Manager::System => "multi-user.target.wants",
        };
        let is_elsewhere = asked.root.is_some();
        let (file, link) = (directory.join(NAME), directory.join(target).join(NAME));
        Ok(Self { manager, file, link, is_elsewhere })
    }

    fn systemctl(&self, words: &[&str]) -> Vec<String> {
        let user: &[&str] = if self.manager == Manager::User { &["--user"] } else { &[] };
        ["systemctl"].iter().chain(user).chain(words).map(|word| (*word).to_owned()).collect()
    }
}

pub fn install(context: &Context, asked: &Service) -> Result<u8, Refusal> {
    let place = Place::of(asked)?;
    let text = text(&loomd()?, &context.dirs, place.manager);
    let commands = match place.is_elsewhere {
        true => vec![],
        false => vec![place.systemctl(&["daemon-reload"]), place.systemctl(&["enable", "--now", NAME])],
    };
    let existing = read(&place.file)?;
    if let Some(existing) = &existing
        && !existing.starts_with(MARK)
    {
        return Err(Refusal::new(Refusal::FAILED, format!("`{}` exists", place.file.display()))
            .because("it was not made by `loomctl install-service`")
            .try_this("move it away, then try again"));
    }
    if asked.dry_run {
        tell(context, &place, &format!("would write {}:\n{text}", place.file.display()), &text, &commands, false);
        return Ok(0);
    }
    let mut made = Vec::new();
    let written = write(&place, &text, existing.as_deref(), &mut made).and_then(|()| run_all(&commands));
    if let Err(refusal) = written {
        // As it was before.
        match &existing {
            Some(before) => drop(fs::write(&place.file, before)),
            None => {
                if !place.is_elsewhere {
                    let _ = run_all(&[place.systemctl(&["disable", NAME])]);
                }
                let _ = fs::remove_file(&place.link);
                let _ = fs::remove_file(&place.file);
                remove_directories(&made);
            }
        }
        return Err(refusal);
    }
    tell(context, &place, &format!("wrote {}\n", place.file.display()), &text, &commands, true);
    Ok(0)
}

pub fn uninstall(context: &Context, asked: &Service) -> Result<u8, Refusal> {
    let place = Place::of(asked)?;
    let Some(text) = read(&place.file)? else {
        return Err(Refusal::new(Refusal::FAILED, "loomd is not installed as a service")
            .because(format!("there is no `{}`", place.file.display()))
            .try_this("was it installed with --user or --system, or with another --root?"));
    };
    if !text.starts_with(MARK) {
        return Err(Refusal::new(Refusal::FAILED, format!("`{}` is not ours", place.file.display()))
            .because("it was not made by `loomctl install-service`")
            .try_this("remove it yourself"));
    }
    let (before, after) = match place.is_elsewhere {
        true => (vec![], vec![]),
        false => (vec![place.systemctl(&["disable", "--now", NAME])], vec![place.systemctl(&["daemon-reload"])]),
    };
    let commands: Vec<_> = before.iter().chain(&after).cloned().collect();
    if asked.dry_run {
        tell(context, &place, &format!("would remove {}\n", place.file.display()), "", &commands, false);
        return Ok(0);
    }
    run_all(&before)?;
    for path in [&place.link, &place.file] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(format!("cannot remove `{}`", path.display()), error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    let made: Vec<PathBuf> = text.lines().filter_map(|line| line.strip_prefix(MADE)).map(PathBuf::from).collect();
    remove_directories(&made);
    run_all(&after)?;
    tell(context, &place, &format!("removed {}\n", place.file.display()), "", &commands, true);
    Ok(0)
}

fn tell(context: &Context, place: &Place, words: &str, text: &str, commands: &[Vec<String>], done: bool) {
    if context.json {
        say_json(&json!({
            "version": VERSION, "file": place.file, "text": text, "commands": commands, "done": done,
        }));
        return;
    }
    let word = if done { "ran" } else { "would run" };
    let commands: String = commands.iter().map(|words| format!("{word}: {}\n", words.join(" "))).collect();
    say(&format!("{words}{commands}"));
}

/// The loomd that lies beside this program.
fn loomd() -> Result<PathBuf, Refusal> {
    let own = std::env::current_exe().map_err(|error| failed("cannot find this program's own file", error))?;
    let loomd = own.with_file_name("loomd");
    match loomd.is_file() {
        true => Ok(loomd),
        false => Err(Refusal::new(Refusal::FAILED, "there is no loomd to install")
            .because(format!("`{}` does not exist", loomd.display()))
            .try_this("install loomd and loomctl into the same directory")),
    }
}

fn text(loomd: &Path, dirs: &Dirs, manager: Manager) -> String {
    let mut words = vec![quoted(loomd)];
    let mut flag = |name: &str, path: &Path| words.extend([name.to_owned(), quoted(path)]);
    flag("--runtime-dir", &dirs.runtime);
    flag("--state-dir", &dirs.state);
    for path in dirs.unit_path.iter().filter(|path| **path != dirs.transient()) {
        flag("--unit-path", path);
    }
    if let Some(config) = &dirs.config {
        flag("--config", config);
    }
    let (after, target) = match manager {
        Manager::User => ("", "default.target"),
        Manager::System => ("After=network.target\n", "multi-user.target"),
    };
    format!(
        "{MARK}
[Unit]
Description=Loom, the supervisor of AI agents
Documentation=man:loomctl(1)
{after}
[Service]
Type=notify
NotifyAccess=main
ExecStart={}
ExecReload=/bin/kill -HUP $MAINPID
# Agents outlive loomd: the next one adopts them.
KillMode=process
FileDescriptorStoreMax={DESCRIPTORS_MAX}
WatchdogSec={WATCHDOG_S}s
# Units get cgroups of their own below this one.
Delegate=yes
TasksMax=infinity
OOMPolicy=continue
Restart=always
RestartSec=1s
TimeoutStopSec={STOP_S}s

[Install]
WantedBy={target}
",
        words.join(" ")
    )
}

/// As a word of `ExecStart=`.
fn quoted(path: &Path) -> String {
    let mut text = String::new();
    for letter in path.to_string_lossy().chars() {
        match letter {
            '%' => text.push_str("%%"),
            '$' => text.push_str("$$"),
            '"' | '\\' => text.extend(['\\', letter]),
            other => text.push(other),
        }
    }
    if text.contains([' ', '\t', '\'', '"', ';']) { format!("\"{text}\"") } else { text }
}

fn read(file: &Path) -> Result<Option<String>, Refusal> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(format!("cannot read `{}`", file.display()), error)),
    }
}

/// Writes the file, and the link too where no service manager makes it. Directories that it makes are added to `made`, and are
/// noted in the file.
fn write(place: &Place, text: &str, existing: Option<&str>, made: &mut Vec<PathBuf>) -> Result<(), Refusal> {
    let cannot = |path: &Path, error: io::Error| {
        failed(format!("cannot write `{}`", path.display()), error).try_this("does that need root? `--user` does not")
    };
    let folders: &[&Path] = match (place.file.parent(), place.link.parent()) {
        (Some(folder), Some(links)) => &[folder, links],
        _ => unreachable!("both lie in a directory by Place::of"),
    };
    for folder in folders {
        let missing: Vec<&Path> = folder.ancestors().take_while(|path| !path.exists()).collect();
        for directory in missing.into_iter().rev() {
            fs::create_dir(directory).map_err(|error| cannot(directory, error))?;
            made.push(directory.to_owned());
        }
    }
    let before = existing.unwrap_or_default().lines().filter(|line| line.starts_with(MADE)).map(str::to_owned);
    let notes: Vec<String> = before.chain(made.iter().map(|path| format!("{MADE}{}", path.display()))).collect();
    let notes: String = notes.iter().map(|line| format!("{line}\n")).collect();
    let text = text.replacen('\n', &format!("\n{notes}"), 1);
    fs::write(&place.file, text).map_err(|error| cannot(&place.file, error))?;
    if place.is_elsewhere && !place.link.exists() {
        symlink(Path::new("..").join(NAME), &place.link).map_err(|error| cannot(&place.link, error))?;
    }
    Ok(())
}

/// Innermost first, and only those that are empty.
fn remove_directories(made: &[PathBuf]) {
    let mut made: Vec<&PathBuf> = made.iter().collect();
    made.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for directory in made {
        let _ = fs::remove_dir(directory);
    }
}

fn run_all(commands: &[Vec<String>]) -> Result<(), Refusal> {
    for words in commands {
        let shown = words.join(" ");
        let ran = Command::new(&words[0]).args(&words[1..]).output();
        match ran {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(failed(format!("`{shown}` failed"), said).try_this("is systemd running here?"));
            }
            Err(error) => return Err(failed(format!("cannot run `{shown}`"), error).try_this("is systemd installed?")),
        }
    }
    Ok(())
}
