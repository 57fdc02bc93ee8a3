//! process/left: processes of units that belong to no live run.
//!
//! Job: find what `stop.kill_mode = "process"` let live on, also after the death of the loomd that did.
//! May touch: cgroup v2 files, `/proc`. Keeps: nothing in memory, so nothing that could be wrong; they are shown, not signalled.

use super::{Common, Peers, command_line, lock};
use loom_core::ids::UnitId;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// Between a unit's name and a run's number in the name of a cgroup. No unit's name holds it.
const RUN_SEPARATOR: char = '+';

impl Peers {
    /// Processes that outlived their run because `stop.kill_mode` let them, with their command lines.
    pub fn survivors(&self, unit: &UnitId) -> Vec<(i32, String)> {
        let (current, tree) = {
            let places = self.common.places();
            let place = places.get(unit);
            let current = place.and_then(|place| place.current.clone());
            let tree = current.as_ref().map(|current| lock(&current.main).tree.clone());
            (current.map(|current| current.run), tree)
        };
        let mut found = BTreeSet::new();
        if let Some(base) = self.common.cgroup_base() {
            let own = tree.and_then(|tree| tree.cgroup);
            for group in Common::groups_of(&base, unit).into_iter().filter(|group| Some(group) != own.as_ref()) {
                let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                found.extend(members.lines().filter_map(|line| line.parse::<i32>().ok()));
            }
        } else {
            let (name, value) = self.common.mark(unit);
            let mark = format!("{name}={value}");
            let run = current.map(|run| format!("LOOM_RUN={run}"));
            for (pid, ..) in super::tree::everyone() {
                let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                let entries = || environment.split(|byte| *byte == 0);
                let is_of_run = run.as_ref().is_some_and(|run| entries().any(|entry| entry == run.as_bytes()));
                if entries().any(|entry| entry == mark.as_bytes()) && !is_of_run {
                    found.insert(pid);
                }
            }
        }
        found.into_iter().filter_map(|pid| Some((pid, command_line(pid).filter(|line| !line.is_empty())?))).collect()
    }

    /// Whether a process lies in the cgroup of some unit, or says that it is one's.
    pub(super) fn is_left_of_a_unit(&self, pid: i32) -> bool {
        if let Some(base) = self.common.cgroup_base().as_deref().and_then(std::path::Path::file_name) {
            let base = format!("/{}/", base.to_string_lossy());
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            if groups.lines().any(|line| line.contains(&base)) {
                return true;
            }
        }
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(b"LOOM_UNIT="))
    }
}

impl Common {
    /// The cgroup of a run whose unit's usual one is taken by survivors.
    pub(super) fn group_beside(directory: &std::path::Path, run: loom_core::ids::RunId) -> PathBuf {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        directory.with_file_name(format!("{name}{RUN_SEPARATOR}{run}"))
    }

    /// Whether a directory is one that loomd gave to a unit's runs.
    pub(super) fn is_group_of(&self, unit: &UnitId, directory: &std::path::Path) -> bool {
        self.cgroup_base().is_some_and(|base| {
            let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
            directory.parent() == Some(&base) && is_name_of(&name, unit)
        })
    }

    /// All cgroups that runs of a unit were given.
    pub(super) fn groups_of(base: &std::path::Path, unit: &UnitId) -> Vec<PathBuf> {
        let entries = fs::read_dir(base).into_iter().flatten().flatten();
        entries
            .filter(|entry| is_name_of(&entry.file_name().to_string_lossy(), unit))
            .map(|entry| entry.path())
            .collect()
    }
}

fn is_name_of(name: &str, unit: &UnitId) -> bool {
    let id = unit.to_string();
    name.strip_prefix(&id).is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix(RUN_SEPARATOR).is_some_and(|run| run.parse::<u64>().is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_is_told_by_its_name() {
        let unit: UnitId = "a.service".parse().unwrap();
        for (name, is) in [
            ("a.service", true),
            ("a.service+7", true),
            ("a.service+", false),
            ("a.service+x", false),
            ("a.service7", false),
            ("aa.service", false),
        ] {
            assert_eq!(is_name_of(name, &unit), is, "{name}");
        }
    }
}
