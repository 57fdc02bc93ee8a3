//! process/identity: proof that a process is the one that was recorded.
//!
//! Job: read boot id, start time and pidfd inode; compare them with a record.
//! May touch: `/proc`, pidfds. Keeps: a pid alone proves nothing; who cannot be proven is never signalled.

use super::sys;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// What `/proc/<pid>/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `Z` for a zombie.
    pub state: char,
    /// Its parent.
    pub parent: i32,
    /// Its session, the pid of the leader.
    pub session: i32,
    /// When it was started, in clock ticks since boot.
    pub start_ticks: u64,
    /// The wait status, once it is a zombie and if we may know it.
    pub exit_status: i32,
}

/// Reads one process. `None`: there is no such process.
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name, in parentheses, may itself hold blanks and parentheses; the last `)` ends it.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 2..)?.split_ascii_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
        exit_status: fields.get(49).and_then(|field| field.parse().ok()).unwrap_or(0),
    })
}

/// The wait status of a process that ended and is not reaped, if the kernel shows it to us: it shows 0 to other users.
pub fn zombie_status(pid: i32) -> Option<i32> {
    use std::os::unix::fs::MetadataExt;
    let owner = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    let us = nix::unistd::geteuid();
    let shown = us.is_root() || owner == us.as_raw();
    stat(pid).filter(|stat| shown && stat.state == 'Z').map(|stat| stat.exit_status)
}

/// Which boot this is.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The inode of a pidfd, unique per boot since Linux 6.9; 0 where all pidfds share one.
pub fn pidfd_inode(pidfd: &OwnedFd) -> u64 {
    // Before 6.9 every pidfd is an anonymous inode, which has no file type; on pidfs it is a regular file.
    match nix::sys::stat::fstat(pidfd.as_fd()) {
        Ok(stat) if stat.st_mode & libc::S_IFMT == libc::S_IFREG => stat.st_ino,
        Ok(_) | Err(_) => 0,
    }
}

/// What was found of a recorded process.
#[derive(Debug)]
pub enum Proof {
    /// It lives, and this descriptor names it.
    Same(OwnedFd),
    /// It is gone, or another process has its pid.
    Gone,
}

/// Compares the process that has this pid now with what was recorded.
pub fn prove(pid: i32, recorded_inode: u64, recorded_ticks: u64) -> Proof {
    if pid <= 1 {
        return Proof::Gone;
    }
    // The descriptor first: what is read afterwards is about the process it names, or about a dead one's successor,
    // which then differs in its start time or makes the last look below fail.
    let Ok(pidfd) = sys::pidfd_open(pid) else { return Proof::Gone };
    let Some(now) = stat(pid) else { return Proof::Gone };
    // A record of this boot was written under this kernel: where inodes are known they were known then.
    if pidfd_inode(&pidfd) != recorded_inode || now.start_ticks != recorded_ticks {
        return Proof::Gone;
    }
    match sys::pidfd_send_signal(pidfd.as_fd(), 0) {
        Ok(true) => Proof::Same(pidfd),
        Ok(false) | Err(_) => Proof::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let mut text = String::from("7 (a) b) S 3 7 9");
        for field in 7..=52 {
            text.push_str(&format!(" {field}"));
        }
        let stat = parse_stat(&text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.session, stat.start_ticks, stat.exit_status), ('S', 3, 9, 22, 52));
    }

    #[test]
    fn a_process_is_itself_and_no_other() {
        let me = std::process::id() as i32;
        let ticks = stat(me).unwrap().start_ticks;
        let inode = pidfd_inode(&sys::pidfd_open(me).unwrap());
        assert!(matches!(prove(me, inode, ticks), Proof::Same(_)));
        assert!(matches!(prove(me, inode, ticks + 1), Proof::Gone), "other start time");
        if inode != 0 {
            assert!(matches!(prove(me, inode + 1, ticks), Proof::Gone), "other inode");
        }
        assert!(matches!(prove(1, 0, 0), Proof::Gone), "never process 1");
    }
}
