//! process/crash: what can be seen of a run's processes before they are gone.
//!
//! Job: a bounded picture of a tree: states, memory, what each waits in, open files. May touch: `/proc`, the stacks file.
//! Keeps: looking never waits and never fails; what is not to be had is left out; every list has a named end.

use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Processes looked at.
pub const PROCESSES_MAX: usize = 32;
/// Open files named for each.
pub const FILES_MAX: usize = 64;
/// The newest bytes of the stacks that are kept.
pub const STACKS_MAX_BYTES: u64 = 64 * 1024;

/// One process, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub pid: i32,
    /// As the kernel knows it, at most 15 bytes.
    pub name: String,
    /// `S (sleeping)`
    pub state: String,
    pub threads: u64,
    pub resident_bytes: u64,
    /// What the kernel has it wait in, such as `futex_wait_queue`; empty where it runs or nobody may know.
    pub waits_in: String,
    /// How many descriptors it has open.
    pub open_files: u64,
    /// What they are, `3: /path`; at most [`FILES_MAX`].
    pub files: Vec<String>,
}

/// Looks at processes, main first.
pub fn look(pids: &[i32]) -> Vec<Seen> {
    pids.iter().take(PROCESSES_MAX).filter_map(|pid| look_at(*pid)).collect()
}

fn look_at(pid: i32) -> Option<Seen> {
    let place = Path::new("/proc").join(pid.to_string());
    let status = fs::read_to_string(place.join("status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    let number = |name: &str| field(name).split(' ').next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let waits_in = fs::read_to_string(place.join("wchan")).unwrap_or_default();
    let mut descriptors: Vec<(u32, String)> = fs::read_dir(place.join("fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            let target = fs::read_link(entry.path()).map(|path| path.to_string_lossy().into_owned());
            Some((number, target.unwrap_or_default()))
        })
        .collect();
    descriptors.sort();
    Some(Seen {
        pid,
        name: field("Name"),
        state: field("State"),
        threads: number("Threads"),
        resident_bytes: number("VmRSS") * 1024,
        waits_in: waits_in.trim_matches(['0', '\n']).to_owned(),
        open_files: u64::try_from(descriptors.len()).unwrap_or(u64::MAX),
        files: descriptors.into_iter().take(FILES_MAX).map(|(fd, target)| format!("{fd}: {target}")).collect(),
    })
}

/// What the program wrote of its stacks, from the end; `None` where it wrote nothing.
pub fn stacks(file: &Path) -> Option<String> {
    let read = || -> io::Result<String> {
        // The program made the file, or a link in its place.
        let mut file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(file)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(STACKS_MAX_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(STACKS_MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_seen_with_its_state_memory_and_files() {
        let me = std::process::id() as i32;
        let seen = look(&[me, 0]);
        assert_eq!(seen.len(), 1, "nobody has pid 0");
        assert_eq!(seen[0].pid, me);
        assert!(seen[0].threads >= 1 && seen[0].resident_bytes > 0 && seen[0].open_files >= 3, "{seen:?}");
        assert!(seen[0].files[0].starts_with("0: "), "{seen:?}");
    }

    #[test]
    fn only_the_newest_stacks_are_kept() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(stacks(file.path()), None);
        std::fs::write(file.path(), format!("{}last", "x".repeat(100_000))).unwrap();
        let kept = stacks(file.path()).unwrap();
        assert_eq!(kept.len() as u64, STACKS_MAX_BYTES);
        assert!(kept.ends_with("last"));
    }
}
