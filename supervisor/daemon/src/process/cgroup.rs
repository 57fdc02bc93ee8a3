//! process/cgroup: the control groups of one unit.
//!
//! Job: make them, write their limits, read their accounts, freeze, hear of the kernel's killing for want of memory.
//! May touch: the cgroup directories that loomd makes. May not: end processes; [`super::tree`] does.
//! Keeps: a limit that was asked for is in force before the first process is in the group, or the start fails.
//!
//! Who belongs to a unit is known by its v2 group. A controller that v2 does not have here is taken from v1: then a unit has
//! one more group for each such limit, with the same members.

use super::sys;
use loom_core::ids::UnitId;
use loom_core::machine::{Controller, Machine};
use loom_core::unit::Limits;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The time slice of a processor limit.
const CPU_PERIOD_USEC: u64 = 100_000;
/// How long a freeze may take. A process in uninterruptible sleep stops later.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);

/// What a unit's groups say of it. What no group accounts for is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory in use, bytes.
    pub memory_bytes: Option<u64>,
    /// The most that was in use, bytes.
    pub memory_peak_bytes: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
    /// Processor time used, microseconds.
    pub cpu_usec: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
}

/// The groups of one unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    /// Its v2 group: who is in it belongs to the unit.
    pub v2: Option<PathBuf>,
    /// The v2 group was just made: nobody was ever killed in it.
    pub fresh: bool,
    /// Groups of v1 controllers that limit it.
    pub v1: Vec<(Controller, PathBuf)>,
    /// Controllers that the v2 group has.
    has: Vec<Controller>,
}

impl Groups {
    /// Makes a unit's groups with its limits. `home`: the directory's name within each hierarchy, the same for all units.
    /// `v2`: the run's v2 group, made or not, and whether nobody was ever killed in it.
    pub fn make(
        machine: &Machine,
        home: &str,
        unit: &UnitId,
        limits: &Limits,
        v2: Option<(PathBuf, bool)>,
    ) -> Result<Self, String> {
        let (v2, fresh) = v2.unzip();
        let mut groups = Self { v2, fresh: fresh.unwrap_or(false), ..Self::default() };
        if let Some(directory) = &groups.v2 {
            make(directory)?;
            groups.has = v2_controllers(machine);
            if let Some(home) = directory.parent() {
                for controller in &groups.has {
                    let file = home.join("cgroup.subtree_control");
                    write(&file, &format!("+{}", controller.kernel_name()))?;
                }
            }
        }
        for (controller, value) in asked(limits) {
            let Some(hierarchy) = machine.controllers.get(&controller) else { continue };
            match (&groups.v2, hierarchy.version) {
                (Some(directory), 2) => {
                    let file = match controller {
                        Controller::Memory => "memory.max",
                        Controller::Tasks => "pids.max",
                        Controller::Cpu => "cpu.max",
                    };
                    let text = match (controller, value) {
                        (Controller::Cpu, Some(percent)) => {
                            format!("{} {CPU_PERIOD_USEC}", percent * CPU_PERIOD_USEC / 100)
                        }
                        (Controller::Cpu, None) => format!("max {CPU_PERIOD_USEC}"),
                        (Controller::Memory | Controller::Tasks, Some(value)) => value.to_string(),
                        (Controller::Memory | Controller::Tasks, None) => "max".to_owned(),
                    };
                    if groups.has.contains(&controller) {
                        write(&directory.join(file), &text)?;
                    }
                }
                (_, _) => {
                    let Some(value) = value else { continue };
                    let directory = Path::new(&hierarchy.directory).join(home).join(unit.to_string());
                    // Limits of the run before, and its accounts, are nothing for this one.
                    let _ = fs::remove_dir(&directory);
                    make(&directory)?;
                    limit_v1(&directory, controller, value)?;
                    groups.v1.push((controller, directory));
                }
            }
        }
        Ok(groups)
    }

    /// The groups of a run that is there already, in that v2 group.
    pub fn find(machine: &Machine, home: &str, unit: &UnitId, v2: Option<PathBuf>) -> Self {
        let v1 = machine.controllers.iter().filter(|(_, hierarchy)| hierarchy.version == 1);
        let v1 = v1.map(|(controller, at)| (*controller, Path::new(&at.directory).join(home).join(unit.to_string())));
        Self {
            v2,
            fresh: false,
            v1: v1.filter(|(_, directory)| directory.is_dir()).collect(),
            has: v2_controllers(machine),
        }
    }

    fn v1(&self, controller: Controller) -> Option<&Path> {
        self.v1.iter().find(|(of, _)| *of == controller).map(|(_, directory)| directory.as_path())
    }

    /// Reads the accounts.
    pub fn usage(&self) -> Usage {
        let v2 = |file: &str| self.v2.as_ref().and_then(|directory| number(&directory.join(file)));
        let memory = |file: &str| self.v1(Controller::Memory).and_then(|directory| number(&directory.join(file)));
        let tasks = |file: &str| self.v1(Controller::Tasks).and_then(|directory| number(&directory.join(file)));
        Usage {
            memory_bytes: v2("memory.current").or_else(|| memory("memory.usage_in_bytes")),
            memory_peak_bytes: v2("memory.peak").or_else(|| memory("memory.max_usage_in_bytes")),
            tasks: v2("pids.current").or_else(|| tasks("pids.current")),
            cpu_usec: self.v2.as_ref().and_then(|directory| field(&directory.join("cpu.stat"), "usage_usec")),
            oom_kills: self.oom_kills(),
        }
    }

    fn oom_file(&self) -> Option<PathBuf> {
        match (&self.v2, self.v1(Controller::Memory)) {
            (Some(directory), _) if self.has.contains(&Controller::Memory) => Some(directory.join("memory.events")),
            (_, Some(directory)) => Some(directory.join("memory.oom_control")),
            (_, None) => None,
        }
    }

    /// How many processes were killed for want of memory; `None` where no group counts them.
    pub fn oom_kills(&self) -> Option<u64> {
        field(&self.oom_file()?, "oom_kill")
    }

    /// Hears of killing for want of memory. `None` where no group tells.
    pub fn oom_watch(&self) -> Option<OomWatch> {
        let file = self.oom_file()?;
        let opened = match self.v1(Controller::Memory).filter(|directory| file.starts_with(directory)) {
            None => File::open(&file).and_then(|file| sys::wakeable(file, Interest::PRIORITY)).map(Bell::Changes),
            Some(directory) => bell_v1(directory, &file).map(Bell::Rings),
        };
        match opened {
            Ok(bell) => Some(OomWatch { seen: field(&file, "oom_kill").unwrap_or(0), file, bell }),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "killing for want of memory will be seen at the end only");
                None
            }
        }
    }

    /// Stops all processes in their tracks, or lets them go on; returns once the kernel says so.
    pub async fn freeze(&self, frozen: bool) -> Result<(), String> {
        let Some(directory) = &self.v2 else {
            return Err("this machine has no cgroup v2 that loomd may use".to_owned());
        };
        let told = |error: io::Error| format!("cannot freeze {}: {error}", directory.display());
        let events = File::open(directory.join("cgroup.events")).map_err(told)?;
        let events = sys::wakeable(events, Interest::PRIORITY).map_err(told)?;
        fs::write(directory.join("cgroup.freeze"), if frozen { "1" } else { "0" }).map_err(told)?;
        let wanted = u64::from(frozen);
        let settled = async {
            while field(&directory.join("cgroup.events"), "frozen").is_some_and(|now| now != wanted) {
                events.ready(Interest::PRIORITY).await?.clear_ready();
            }
            Ok(())
        };
        match tokio::time::timeout(FREEZE_LIMIT, settled).await {
            Ok(done) => done.map_err(told),
            Err(_) => Err(format!("not all of its processes stopped within {} s", FREEZE_LIMIT.as_secs())),
        }
    }
}

/// Waits for the kernel's killing.
pub struct OomWatch {
    file: PathBuf,
    bell: Bell,
    seen: u64,
}

enum Bell {
    /// v2: the file says POLLPRI when it changes.
    Changes(AsyncFd<OwnedFd>),
    /// v1: rings when the group has no memory left, which is just before the killing.
    Rings(AsyncFd<OwnedFd>),
}

impl OomWatch {
    /// Returns when a process was, or is about to be, killed; `false`: the group is gone.
    pub async fn killed(&mut self) -> bool {
        loop {
            match &self.bell {
                Bell::Changes(file) => match file.ready(Interest::PRIORITY).await {
                    Ok(mut ready) => ready.clear_ready(),
                    Err(_) => return false,
                },
                Bell::Rings(bell) => {
                    let Ok(mut ready) = bell.readable().await else { return false };
                    let mut count = [0u8; 8];
                    // Empty is no news; the bell is rung again.
                    let _ = nix::unistd::read(bell.get_ref(), &mut count);
                    ready.clear_ready();
                }
            }
            let Some(kills) = field(&self.file, "oom_kill") else { return false };
            let rings = matches!(self.bell, Bell::Rings(_));
            if rings || kills > self.seen {
                self.seen = kills;
                return true;
            }
        }
    }
}

fn bell_v1(directory: &Path, file: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let bell: OwnedFd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?.into();
    let control = File::open(file)?;
    let order = format!("{} {}", bell.as_raw_fd(), control.as_raw_fd());
    fs::write(directory.join("cgroup.event_control"), order)?;
    sys::wakeable(bell, Interest::READABLE)
}

/// Our directory in each tree, whether it is there or not.
pub fn homes(machine: &Machine, home: &str) -> Vec<PathBuf> {
    let v1 = machine.controllers.values().map(|at| &at.directory);
    let mut homes: Vec<PathBuf> = machine.cgroup_v2.iter().chain(v1).map(|base| Path::new(base).join(home)).collect();
    homes.sort();
    homes.dedup();
    homes
}

/// What each controller is to hold; `None`: no limit.
fn asked(limits: &Limits) -> [(Controller, Option<u64>); 3] {
    [
        (Controller::Memory, limits.memory_bytes),
        (Controller::Tasks, limits.tasks),
        (Controller::Cpu, limits.cpu_percent.map(u64::from)),
    ]
}

fn v2_controllers(machine: &Machine) -> Vec<Controller> {
    machine.controllers.iter().filter(|(_, at)| at.version == 2).map(|(controller, _)| *controller).collect()
}

fn limit_v1(directory: &Path, controller: Controller, value: u64) -> Result<(), String> {
    match controller {
        Controller::Memory => {
            write(&directory.join("memory.limit_in_bytes"), &value.to_string())?;
            // Memory and swap together; where the kernel does not account for swap, there is no such file.
            let with_swap = directory.join("memory.memsw.limit_in_bytes");
            if with_swap.exists() { write(&with_swap, &value.to_string()) } else { Ok(()) }
        }
        Controller::Tasks => write(&directory.join("pids.max"), &value.to_string()),
        Controller::Cpu => {
            write(&directory.join("cpu.cfs_period_us"), &CPU_PERIOD_USEC.to_string())?;
            write(&directory.join("cpu.cfs_quota_us"), &(value * CPU_PERIOD_USEC / 100).to_string())
        }
    }
}

fn make(directory: &Path) -> Result<(), String> {
    fs::create_dir_all(directory).map_err(|error| format!("cannot make cgroup {}: {error}", directory.display()))
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| format!("cannot write `{text}` to {}: {error}", file.display()))
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number behind a word in a file of `word number` lines.
fn field(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
