//! machine::sys: the calls that have no safe wrapper. Job: ask the kernel one question a function, by trying.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// 0 where Landlock is missing or switched off.
pub fn landlock_abi() -> u32 {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call takes a null attribute of size zero and only gives a number.
    let abi =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, LANDLOCK_CREATE_RULESET_VERSION) };
    u32::try_from(abi).unwrap_or(0)
}

/// Whether filters can answer with an errno.
pub fn seccomp() -> bool {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: reads one number of ours.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

/// Whether the kernel knows PR_SET_MDWE, by asking for its value.
pub fn mdwe() -> bool {
    let none: libc::c_ulong = 0;
    // SAFETY: reads a flag of this process.
    unsafe { libc::prctl(libc::PR_GET_MDWE, none, none, none, none) >= 0 }
}

pub fn root() -> bool {
    // SAFETY: cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// `struct pidfd_info` in its first form, which newer kernels still fill.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}
const PIDFD_INFO_EXIT: u64 = 1 << 3;
const PIDFS_IOCTL_MAGIC: u64 = 0xff;
/// `_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)`
const PIDFD_GET_INFO: u64 = 3 << 30 | (std::mem::size_of::<PidfdInfo>() as u64) << 16 | PIDFS_IOCTL_MAGIC << 8 | 11;

/// Whether a pidfd still tells how its process ended after somebody else has reaped it: tried on a child.
pub fn pidfd_exit_info() -> bool {
    const STATUS: i32 = 7;
    // SAFETY: the child calls nothing but `_exit`, which is allowed after a fork of a process with threads.
    let child = unsafe { libc::fork() };
    match child {
        -1 => return false,
        // SAFETY: ends the child at once.
        0 => unsafe { libc::_exit(STATUS) },
        _ => {}
    }
    // SAFETY: our own child, not reaped yet; the descriptor is ours alone.
    let pidfd = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, child, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as i32))
    };
    let mut status = 0;
    // SAFETY: our own child; it ends by itself, so this wait does.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } == -1
        && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
    {}
    let Some(pidfd) = pidfd else { return false };
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the size in the request is that of `info`, which the kernel fills in.
    let told = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as libc::Ioctl, &raw mut info) };
    told == 0 && info.mask & PIDFD_INFO_EXIT != 0 && info.exit_code == STATUS << 8
}
