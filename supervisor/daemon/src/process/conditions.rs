//! process/conditions: whether a unit's conditions hold.
//!
//! Job: look at `unit.conditions`, in order, up to the first that does not hold. May touch: file metadata, loomd's own
//! environment, `/proc`, `/sys`. Keeps: the loop never waits for a file system that does not answer: a look that takes too
//! long counts as a condition that does not hold, and says so.

use super::Room;
use loom_core::fleet::Event;
use loom_core::glob;
use loom_core::ids::RunId;
use loom_core::unit::{Condition, Test, Unit};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// How long the look at all conditions of one start may take.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// How many looks go on at once. One that hangs in the kernel keeps its place until the kernel answers.
pub(super) const LOOKS_AT_ONCE: usize = 8;
/// How many directory entries a pattern may be compared with.
const GLOB_ENTRIES_MAX: usize = 100_000;

impl Room {
    /// Looks at the conditions of a start; [`Event::Checked`] follows.
    pub fn check(&self, unit: &Unit, run: RunId) {
        let (unit, conditions) = (unit.id.clone(), unit.conditions.clone());
        let (events, places) = (self.events.clone(), Arc::clone(&self.looks));
        tokio::spawn(async move {
            let unmet = look(conditions, places, LOOK_LIMIT).await;
            let _ = events.send(Event::Checked { unit, run, unmet }).await;
        });
    }
}

/// The first condition that does not hold, as written.
async fn look(conditions: Vec<Condition>, places: Arc<Semaphore>, limit: Duration) -> Option<String> {
    if conditions.is_empty() {
        return None;
    }
    let at = Arc::new(AtomicUsize::new(0));
    let texts: Vec<String> = conditions.iter().map(|condition| condition.text.clone()).collect();
    let progress = Arc::clone(&at);
    let answer = async move {
        let place = places.acquire_owned().await.ok();
        let (tell, told) = oneshot::channel();
        // A thread of its own: the runtime's few for blocking calls are others' as well.
        let thread = std::thread::Builder::new().name("condition".into()).spawn(move || {
            let first = conditions.iter().position(|condition| {
                let holds = holds(&condition.test);
                let met = holds != condition.negated;
                if met {
                    progress.fetch_add(1, Ordering::Relaxed);
                }
                !met
            });
            let _ = tell.send(first);
            drop(place);
        });
        match thread {
            Ok(_) => told.await.map_err(|_| "it could not be looked at".to_owned()),
            Err(error) => Err(format!("cannot make a thread to look: {error}")),
        }
    };
    let at = move || texts.get(at.load(Ordering::Relaxed)).cloned().unwrap_or_default();
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(None)) => None,
        Ok(Ok(Some(_))) => Some(at()),
        Ok(Err(why)) => Some(format!("{} ({why})", at())),
        Err(_) => Some(format!("{} (no answer within {} s)", at(), limit.as_secs_f32())),
    }
}

fn holds(test: &Test) -> bool {
    match test {
        Test::PathExists(path) => fs::symlink_metadata(path).is_ok(),
        Test::PathExistsGlob(pattern) => is_matched(pattern),
        Test::PathIsDirectory(path) => fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()),
        Test::DirectoryNotEmpty(path) => fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()),
        Test::FileNotEmpty(path) => fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0),
        Test::FileIsExecutable(path) => {
            fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
        }
        Test::PathIsReadWrite(path) => nix::sys::statvfs::statvfs(path.as_str())
            .is_ok_and(|mount| !mount.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY)),
        Test::Environment(wanted) => match wanted.split_once('=') {
            Some((name, value)) => std::env::var_os(name).is_some_and(|is| is == value),
            None => std::env::var_os(wanted).is_some(),
        },
        Test::AcPower(wanted) => on_ac_power(Path::new("/sys/class/power_supply")) == *wanted,
        Test::Host(pattern) => host().is_some_and(|name| glob::matches(&pattern.to_lowercase(), &name.to_lowercase())),
        Test::User(wanted) => is_user(wanted),
        Test::Architecture(wanted) => {
            nix::sys::utsname::uname().is_ok_and(|machine| machine.machine().to_string_lossy() == wanted.as_str())
        }
        Test::Cpus(least) => std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() as u64 >= *least),
        Test::Memory(least) => memory_bytes().is_some_and(|bytes| bytes >= *least),
    }
}

/// Whether anything matches a path pattern: step by step, so that only directories on the way are read.
fn is_matched(pattern: &str) -> bool {
    let mut budget = GLOB_ENTRIES_MAX;
    let steps: Vec<&str> = pattern.split('/').filter(|step| !step.is_empty()).collect();
    matches_below(Path::new("/"), &steps, &mut budget)
}

fn matches_below(directory: &Path, steps: &[&str], budget: &mut usize) -> bool {
    let Some((step, rest)) = steps.split_first() else { return true };
    if !step.contains(['*', '?']) {
        let next = directory.join(step);
        return fs::symlink_metadata(&next).is_ok() && matches_below(&next, rest, budget);
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if *budget == 0 {
            return false;
        }
        *budget -= 1;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        // As in a shell: a name with a leading dot is matched only by one.
        if (!name.starts_with('.') || step.starts_with('.'))
            && glob::matches(step, name)
            && matches_below(&entry.path(), rest, budget)
        {
            return true;
        }
    }
    false
}

/// As systemd decides: a mains supply that is online, or no mains supply and no battery that is discharging.
fn on_ac_power(supplies: &Path) -> bool {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let (mut mains_offline, mut discharging) = (false, false);
    for supply in fs::read_dir(supplies).into_iter().flatten().flatten() {
        let path = supply.path();
        match read(path.join("type")).as_str() {
            "Mains" | "USB" => match read(path.join("online")).as_str() {
                "1" => return true,
                "0" => mains_offline = true,
                _ => {}
            },
            "Battery" if read(path.join("scope")) != "Device" => {
                discharging |= read(path.join("status")) == "Discharging";
            }
            _ => {}
        }
    }
    !(mains_offline || discharging)
}

fn host() -> Option<String> {
    nix::sys::utsname::uname().ok().map(|machine| machine.nodename().to_string_lossy().into_owned())
}

fn is_user(wanted: &str) -> bool {
    let uid = nix::unistd::geteuid();
    if wanted == "@system" {
        return uid.is_root();
    }
    match wanted.parse::<u32>() {
        Ok(number) => uid.as_raw() == number,
        Err(_) => nix::unistd::User::from_uid(uid).is_ok_and(|user| user.is_some_and(|user| user.name == wanted)),
    }
}

fn memory_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn each_condition_holds_where_it_says() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
        fs::create_dir_all(place.path().join("full/below")).unwrap();
        fs::create_dir(place.path().join("empty")).unwrap();
        fs::write(place.path().join("file"), "x").unwrap();
        fs::write(place.path().join("nothing"), "").unwrap();
        fs::write(place.path().join("program"), "x").unwrap();
        fs::set_permissions(place.path().join("program"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(place.path().join("file"), fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink("/no/such", place.path().join("dangling")).unwrap();
        let host = host().unwrap();
        let table = [
            (Test::PathExists(at("file")), true),
            (Test::PathExists(at("dangling")), true),
            (Test::PathExists(at("missing")), false),
            (Test::PathExistsGlob(at("f*l/bel?w")), true),
            (Test::PathExistsGlob(at("*.toml")), false),
            (Test::PathIsDirectory(at("full")), true),
            (Test::PathIsDirectory(at("file")), false),
            (Test::DirectoryNotEmpty(at("full")), true),
            (Test::DirectoryNotEmpty(at("empty")), false),
            (Test::FileNotEmpty(at("file")), true),
            (Test::FileNotEmpty(at("nothing")), false),
            (Test::FileNotEmpty(at("full")), false),
            (Test::FileIsExecutable(at("program")), true),
            (Test::FileIsExecutable(at("file")), false),
            (Test::PathIsReadWrite(at("full")), true),
            (Test::PathIsReadWrite(at("missing")), false),
            (Test::Environment("PATH".into()), true),
            (Test::Environment("PATH=nowhere".into()), false),
            (Test::Environment("NO_SUCH_VARIABLE_HERE".into()), false),
            (Test::Host(host.to_uppercase()), true),
            (Test::Host(format!("{host}?")), false),
            (Test::Architecture(std::env::consts::ARCH.into()), true),
            (Test::Architecture("pdp11".into()), false),
            (Test::Cpus(1), true),
            (Test::Cpus(1_000_000), false),
            (Test::Memory(1 << 20), true),
            (Test::Memory(u64::MAX), false),
            (Test::User(nix::unistd::geteuid().to_string()), true),
            (Test::User("nobody-of-that-name".into()), false),
            (Test::User("@system".into()), nix::unistd::geteuid().is_root()),
        ];
        for (test, want) in table {
            assert_eq!(holds(&test), want, "{test:?}");
        }
    }

    #[test]
    fn a_machine_without_battery_runs_on_mains() {
        let place = tempfile::tempdir().unwrap();
        assert!(on_ac_power(place.path()));
        let supply = |name: &str, files: &[(&str, &str)]| {
            fs::create_dir_all(place.path().join(name)).unwrap();
            files.iter().for_each(|(file, text)| fs::write(place.path().join(name).join(file), text).unwrap());
        };
        supply("BAT0", &[("type", "Battery\n"), ("status", "Discharging\n")]);
        assert!(!on_ac_power(place.path()));
        supply("AC", &[("type", "Mains\n"), ("online", "1\n")]);
        assert!(on_ac_power(place.path()));
    }

    fn condition(test: Test, text: &str) -> Condition {
        Condition { negated: text.starts_with('!'), test, text: text.into() }
    }

    #[tokio::test]
    async fn the_first_that_does_not_hold_is_named_as_written() {
        let places = || Arc::new(Semaphore::new(1));
        let root = || condition(Test::PathExists("/".into()), "path-exists:/");
        let not_root = || condition(Test::PathExists("/".into()), "!path-exists:/");
        let missing = || condition(Test::PathExists("/no/such".into()), "path-exists:/no/such");
        assert_eq!(look(vec![], places(), LOOK_LIMIT).await, None);
        assert_eq!(look(vec![root()], places(), LOOK_LIMIT).await, None);
        let all = vec![root(), not_root(), missing()];
        assert_eq!(look(all, places(), LOOK_LIMIT).await.unwrap(), "!path-exists:/");
        let first = vec![missing(), not_root()];
        assert_eq!(look(first, places(), LOOK_LIMIT).await.unwrap(), "path-exists:/no/such");
    }

    #[tokio::test]
    async fn a_look_that_does_not_end_counts_as_unmet_and_says_so() {
        // All places are taken by looks that hang.
        let places = Arc::new(Semaphore::new(0));
        let root = vec![condition(Test::PathExists("/".into()), "path-exists:/")];
        let unmet = look(root, places, Duration::from_millis(500)).await.unwrap();
        assert_eq!(unmet, "path-exists:/ (no answer within 0.5 s)");
    }
}
