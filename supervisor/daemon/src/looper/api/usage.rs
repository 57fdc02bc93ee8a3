//! looper/api/usage: what units use of the machine.
//!
//! Job: answer `usage`, and print limits as a person writes them. May touch: `/proc`, cgroup files of units, to read.
//! Keeps: a process that is gone while we look counts nothing; nothing is measured unless somebody asks.

use super::Api;
use crate::looper::{Ask, clock};
use loom_api::view::{LimitView, Refusal, UnitUsage, UsageView, VERSION};
use loom_core::fleet::Status;
use loom_core::unit::Unit;
use std::fs;
use std::path::PathBuf;

impl Api {
    pub(super) async fn tell_usage(&self) -> Result<UsageView, Refusal> {
        let statuses = self.ask(|reply| Ask::Statuses { reply }).await?;
        let peers = self.peers.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let at_micros = clock::monotonic_micros();
            let one = |status: Status| {
                let pids: Vec<i32> = peers.processes(&status.unit).into_iter().map(|(pid, _)| pid).collect();
                if pids.is_empty() {
                    return None;
                }
                let used = used_by(&pids, &status);
                Some(UnitUsage {
                    active_state: status.active_state,
                    sub_state: status.sub_state.to_owned(),
                    main_pid: status.main_pid,
                    cpu_micros: used.cpu_micros,
                    memory_bytes: used.memory_bytes,
                    tasks: used.tasks,
                    restarts: status.restarts,
                    unit: status.unit,
                })
            };
            UsageView { version: VERSION, at_micros, units: statuses.into_iter().filter_map(one).collect() }
        });
        looked.await.map_err(|error| Refusal::new(Refusal::FAILED, "cannot look at units").because(error.to_string()))
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Used {
    cpu_micros: u64,
    memory_bytes: u64,
    tasks: u64,
}

/// The cgroup's own count where the unit has one for itself; the sum over its processes elsewhere.
fn used_by(pids: &[i32], status: &Status) -> Used {
    let mut used = Used::default();
    for pid in pids {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let one = of_process(&stat, ticks_per_second(), page_bytes());
        used.cpu_micros += one.cpu_micros;
        used.memory_bytes += one.memory_bytes;
        used.tasks += one.tasks;
    }
    let Some(cgroup) = own_cgroup(pids[0], status) else { return used };
    let number = |file: &str| fs::read_to_string(cgroup.join(file)).ok()?.trim().parse::<u64>().ok();
    let cpu = fs::read_to_string(cgroup.join("cpu.stat")).ok();
    let cpu = cpu.and_then(|text| text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok()));
    Used {
        cpu_micros: cpu.unwrap_or(used.cpu_micros),
        memory_bytes: number("memory.current").unwrap_or(used.memory_bytes),
        tasks: number("pids.current").unwrap_or(used.tasks),
    }
}

/// The cgroup v2 directory that a process is in, if it is the unit's own: named after it.
fn own_cgroup(pid: i32, status: &Status) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let unit = status.unit.to_string();
    let parts: Vec<&str> = path.split('/').collect();
    let depth = parts.iter().position(|part| *part == unit)?;
    Some(PathBuf::from("/sys/fs/cgroup").join(parts[..=depth].join("/")))
}

/// From `/proc/<pid>/stat`. Its second field may hold anything, so what counts comes after the last `)`.
fn of_process(stat: &str, ticks_per_second: u64, page_bytes: u64) -> Used {
    let fields: Vec<u64> = match stat.rsplit_once(')') {
        Some((_, rest)) => rest.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect(),
        None => return Used::default(),
    };
    // proc(5): utime is field 14, stime 15, num_threads 20, rss 24; the first here is field 4.
    let field = |number: usize| fields.get(number - 4).copied().unwrap_or(0);
    Used {
        cpu_micros: (field(14) + field(15)) * 1_000_000 / ticks_per_second,
        memory_bytes: field(24) * page_bytes,
        tasks: field(20),
    }
}

fn ticks_per_second() -> u64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    u64::try_from(ticks).unwrap_or(100).max(1)
}

fn page_bytes() -> u64 {
    let bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
    u64::try_from(bytes).unwrap_or(4096)
}

/// `[limits]` of a unit, as far as they are set.
pub(super) fn limits(unit: &Unit) -> Vec<LimitView> {
    let limits = &unit.limits;
    let size = |bytes: u64| match bytes {
        bytes if bytes % (1 << 30) == 0 => format!("{}G", bytes >> 30),
        bytes if bytes % (1 << 20) == 0 => format!("{}M", bytes >> 20),
        bytes if bytes % (1 << 10) == 0 => format!("{}K", bytes >> 10),
        bytes => bytes.to_string(),
    };
    let all = [
        ("memory", limits.memory_bytes.map(size)),
        ("tasks", limits.tasks.map(|tasks| tasks.to_string())),
        ("cpu", limits.cpu_percent.map(|percent| format!("{percent}%"))),
        ("address_space", limits.address_space_bytes.map(size)),
        ("open_files", unit.exec.as_ref().map(|_| limits.open_files.to_string())),
        ("file_size", unit.exec.as_ref().map(|_| size(limits.file_size_bytes))),
    ];
    let set = all.into_iter().filter_map(|(limit, value)| Some(LimitView { limit: limit.to_owned(), value: value? }));
    set.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_any_name_is_counted_right() {
        let stat =
            "7 (a) b (c)) S 1 7 7 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 3 0 99 1000000 25 18446744073709551615 1 1";
        let used = of_process(stat, 100, 4096);
        assert_eq!(used, Used { cpu_micros: 3_000_000, memory_bytes: 25 * 4096, tasks: 3 });
        assert_eq!(of_process("gone", 100, 4096), Used::default());
    }
}
