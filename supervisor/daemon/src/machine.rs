//! machine: what this machine can enforce, found by trying.
//!
//! Job: [`probe`] once at start. May touch: `core::machine`, the cgroup tree (one directory, made and removed), `/proc/self`.
//! Keeps: an ability is one that was tried; kernel versions are never asked.

use loom_core::machine::Machine;
use std::fs;
use std::path::{Path, PathBuf};

/// Tries everything; a few hundred microseconds, most of them a fork.
pub fn probe() -> Machine {
    let cgroup_v2 = cgroup_v2();
    Machine {
        controllers: controllers::probe(cgroup_v2.as_deref()),
        landlock_abi: sys::landlock_abi(),
        seccomp: sys::seccomp(),
        mdwe: sys::mdwe(),
        cgroup_v2: cgroup_v2.map(|path| path.to_string_lossy().into_owned()),
        pidfd_exit_info: sys::pidfd_exit_info(),
        root: sys::root(),
        arch: std::env::consts::ARCH.to_owned(),
    }
}

/// A cgroup v2 directory in which we may make others: our own if it is delegated to us, else the root of the tree.
fn cgroup_v2() -> Option<PathBuf> {
    let mounts = cgroup_mounts(&fs::read_to_string("/proc/self/mountinfo").ok()?);
    let own = own_cgroup(&fs::read_to_string("/proc/self/cgroup").ok()?);
    mounts
        .into_iter()
        .flat_map(|(root, mount)| {
            // The mount may show only a part of the tree, as in a container.
            let beneath =
                own.as_deref().and_then(|own| own.strip_prefix(root.trim_end_matches('/')).map(str::to_owned));
            let own = beneath
                .map(|path| path.trim_matches('/').to_owned())
                .filter(|path| !path.is_empty())
                .map(|path| mount.join(path));
            own.into_iter().chain([mount])
        })
        .find(|directory| holds_groups(directory))
}

/// Root and mount point of every cgroup v2 mount.
fn cgroup_mounts(mountinfo: &str) -> Vec<(String, PathBuf)> {
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        right.starts_with("cgroup2 ").then(|| (unescaped(root), PathBuf::from(unescaped(point))))
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// The kernel writes blanks and backslashes in paths as `\040`.
fn unescaped(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Our place in the v2 tree.
fn own_cgroup(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// Whether a group can be made here, and ended as a whole.
fn holds_groups(directory: &Path) -> bool {
    let trial = directory.join(format!("loom-probe-{}", std::process::id()));
    if fs::create_dir(&trial).is_err() {
        return false;
    }
    // `cgroup.kill` came with Linux 5.14; a group that cannot be entered is of no use.
    let able = trial.join("cgroup.kill").exists()
        && fs::OpenOptions::new().write(true).open(trial.join("cgroup.procs")).is_ok();
    fs::remove_dir(&trial).is_ok() && able
}

mod controllers;
mod sys;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_and_own_group_are_read_as_the_kernel_writes_them() {
        let mountinfo = "29 22 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                         30 22 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:5 - cgroup2 cgroup2 rw\n\
                         31 22 0:27 /a\\040b /mnt/c rw - cgroup2 none rw\n";
        let mounts = cgroup_mounts(mountinfo);
        assert_eq!(
            mounts,
            [("/".into(), PathBuf::from("/sys/fs/cgroup/unified")), ("/a b".into(), PathBuf::from("/mnt/c"))]
        );
        assert_eq!(own_cgroup("12:cpu:/x\n0::/user.slice/a\n"), Some("/user.slice/a".into()));
        assert_eq!(own_cgroup("12:cpu:/x\n"), None);
    }

    #[test]
    fn a_probe_leaves_nothing_behind() {
        let machine = probe();
        println!("{machine:?}");
        assert_eq!(machine, probe());
        if let Some(directory) = &machine.cgroup_v2 {
            let trial = Path::new(directory).join(format!("loom-probe-{}", std::process::id()));
            assert!(!trial.exists(), "{}", trial.display());
        }
        assert_eq!(machine.arch, std::env::consts::ARCH);
    }
}
