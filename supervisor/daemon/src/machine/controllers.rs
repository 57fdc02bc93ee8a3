//! machine/controllers: where groups of processes can be limited.
//!
//! Job: find, by trying, a writable directory for each controller: cgroup v2 where it is delegated, else cgroup v1.
//! May touch: the cgroup trees: one trial directory each, made and removed; loomd's own place in v2, where its group is to
//! hold others (the kernel wants no processes beside groups with controllers).
//! Keeps: a controller that is listed limited a trial group a moment ago.

use loom_core::machine::{Controller, Hierarchy};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Where loomd itself goes within its own group.
const OWN_LEAF: &str = "loomd";

/// Looks for each controller.
pub fn probe(v2: Option<&Path>) -> BTreeMap<Controller, Hierarchy> {
    let enabled = v2.map(enable).unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let find = |controller: Controller| {
        if let Some(directory) = v2.filter(|_| enabled.contains(&controller)) {
            return Some(hierarchy(2, directory));
        }
        let directory = v1_directory(controller.kernel_name(), &mounts, &own)?;
        limits_a_trial(&directory, controller).then(|| hierarchy(1, &directory))
    };
    Controller::ALL.into_iter().filter_map(|controller| Some((controller, find(controller)?))).collect()
}

fn hierarchy(version: u32, directory: &Path) -> Hierarchy {
    Hierarchy { version, directory: directory.to_string_lossy().into_owned() }
}

/// The file whose being there shows that a group is limited by a controller.
pub fn limit_file(controller: Controller, version: u32) -> &'static str {
    match (controller, version) {
        (Controller::Memory, 1) => "memory.limit_in_bytes",
        (Controller::Memory, _) => "memory.max",
        (Controller::Tasks, _) => "pids.max",
        (Controller::Cpu, 1) => "cpu.cfs_quota_us",
        (Controller::Cpu, _) => "cpu.max",
    }
}

/// Lets the groups below a v2 directory have controllers, as far as the directory itself has them.
fn enable(directory: &Path) -> Vec<Controller> {
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_default();
    let has = |text: &str, controller: Controller| text.split_whitespace().any(|name| name == controller.kernel_name());
    let offered = read("cgroup.controllers");
    let wanted: Vec<Controller> = Controller::ALL.into_iter().filter(|c| has(&offered, *c)).collect();
    if wanted.is_empty() {
        return wanted;
    }
    let ask = |controller: Controller| {
        fs::write(directory.join("cgroup.subtree_control"), format!("+{}", controller.kernel_name()))
    };
    let busy = wanted.iter().any(|controller| {
        let answer = ask(*controller);
        answer.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
    });
    if busy && is_ours_alone(&read("cgroup.procs")) && move_down(directory).is_ok() {
        for controller in &wanted {
            // What is refused is missing in what is read below.
            let _ = ask(*controller);
        }
    }
    let given = read("cgroup.subtree_control");
    wanted.into_iter().filter(|controller| has(&given, *controller)).collect()
}

fn is_ours_alone(procs: &str) -> bool {
    procs.lines().all(|pid| pid.parse() == Ok(std::process::id()))
}

fn move_down(directory: &Path) -> std::io::Result<()> {
    let leaf = directory.join(OWN_LEAF);
    match fs::create_dir(&leaf) {
        Ok(()) => {}
        Err(there) if there.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(other) => return Err(other),
    }
    fs::write(leaf.join("cgroup.procs"), std::process::id().to_string())
}

/// Our own directory in the v1 hierarchy of a controller.
fn v1_directory(name: &str, mountinfo: &str, own: &str) -> Option<PathBuf> {
    let (root, mount) = mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let options = right.strip_prefix("cgroup ")?.rsplit(' ').next()?;
        let mut fields = left.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        options.split(',').any(|option| option == name).then(|| (super::unescaped(root), super::unescaped(point)))
    })?;
    let place = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (names, place) = (fields.next()?, fields.next()?);
        names.split(',').any(|listed| listed == name).then_some(place)
    })?;
    // The mount may show only a part of the tree, as in a container.
    let beneath = place.strip_prefix(root.trim_end_matches('/')).unwrap_or(place);
    Some(Path::new(&mount).join(beneath.trim_matches('/')))
}

fn limits_a_trial(directory: &Path, controller: Controller) -> bool {
    let trial = directory.join(format!("loom-probe-{}", std::process::id()));
    if fs::create_dir(&trial).is_err() {
        return false;
    }
    let able = fs::OpenOptions::new().write(true).open(trial.join(limit_file(controller, 1))).is_ok()
        && fs::OpenOptions::new().write(true).open(trial.join("cgroup.procs")).is_ok();
    fs::remove_dir(&trial).is_ok() && able
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_v1_group_is_found_as_the_kernel_writes_it() {
        let mounts = "31 22 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 22 0:28 /docker/ab /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      33 22 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = "9:memory:/user/a\n8:cpu,cpuacct:/docker/ab/x\n7:pids:/\n0::/u\n";
        let at = |name| v1_directory(name, mounts, own).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(at("memory").as_deref(), Some("/sys/fs/cgroup/memory/user/a"));
        assert_eq!(at("cpu").as_deref(), Some("/sys/fs/cgroup/cpu,cpuacct/x"));
        assert_eq!(at("pids"), None, "it is not mounted");
    }

    #[test]
    fn a_group_is_ours_alone_only_if_nobody_else_is_in_it() {
        let me = std::process::id();
        assert!(is_ours_alone(&format!("{me}\n")) && is_ours_alone(""));
        assert!(!is_ours_alone(&format!("{me}\n1\n")));
    }
}
