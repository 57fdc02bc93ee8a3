//! groups: the lists. Names of calls by group, and the values that argument rules allow.
//!
//! Job: data. May touch: `libc`'s numbers, which exist per architecture; a name that the table lacks does not compile.
//! Keeps: what is in no list is answered ENOSYS.

macro_rules! calls {
    ($($name:ident)*) => { vec![$(libc::$name),*] };
}

/// Every group that a plan may name.
#[cfg(test)]
pub(super) const NAMES: &[&str] = &["@base", "@file", "@socket", "@resolve"];

/// The calls of a group; `None` for a name that is no group.
pub(super) fn group(name: &str) -> Option<Vec<i64>> {
    match name {
        "@base" => Some(base()),
        "@file" => Some(file()),
        "@socket" => Some(socket()),
        // openat2 keeps its flags and mode behind a pointer, so it is for our own programs only.
        "@resolve" => Some(calls![SYS_openat2]),
        _ => None,
    }
}

/// Memory, futex, signals, clocks, timers, random, identity reads, exec, wait, threads, waiting on descriptors, pipes.
fn base() -> Vec<i64> {
    #[allow(unused_mut, reason = "grown only where the architecture has older calls")]
    let mut calls = calls![
        SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev SYS_preadv2 SYS_pwritev2
        SYS_close SYS_close_range SYS_dup SYS_dup3 SYS_fcntl SYS_ioctl SYS_lseek SYS_fstat SYS_newfstatat SYS_statx
        SYS_mmap SYS_munmap SYS_mprotect SYS_mremap SYS_msync SYS_madvise SYS_mincore SYS_brk SYS_mlock SYS_mlock2
        SYS_munlock SYS_mlockall SYS_munlockall SYS_membarrier SYS_memfd_create SYS_get_mempolicy
        SYS_futex SYS_futex_waitv SYS_set_robust_list SYS_get_robust_list SYS_rseq
        SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigtimedwait SYS_rt_sigqueueinfo
        SYS_rt_tgsigqueueinfo SYS_rt_sigsuspend SYS_sigaltstack SYS_kill SYS_tkill SYS_tgkill SYS_pidfd_open
        SYS_pidfd_send_signal SYS_restart_syscall
        SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday SYS_times
        SYS_getitimer SYS_setitimer SYS_timer_create SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun
        SYS_timer_delete SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime
        SYS_getrandom SYS_uname SYS_sysinfo SYS_getrusage SYS_prlimit64 SYS_getcpu
        SYS_getpid SYS_getppid SYS_gettid SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid
        SYS_getgroups SYS_getpgid SYS_setpgid SYS_getsid SYS_setsid SYS_capget SYS_set_tid_address
        SYS_clone SYS_execve SYS_wait4 SYS_waitid SYS_exit SYS_exit_group SYS_prctl SYS_personality SYS_umask
        SYS_sched_yield SYS_sched_getaffinity SYS_sched_setaffinity SYS_sched_getscheduler SYS_sched_setscheduler
        SYS_sched_getparam SYS_sched_getattr SYS_sched_get_priority_max SYS_sched_get_priority_min
        SYS_sched_rr_get_interval SYS_getpriority SYS_setpriority SYS_ioprio_get SYS_ioprio_set
        SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_ppoll SYS_pselect6 SYS_eventfd2
        SYS_signalfd4 SYS_pipe2
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend(calls![
        SYS_stat SYS_lstat SYS_dup2 SYS_alarm SYS_pause SYS_time SYS_getpgrp SYS_fork SYS_vfork SYS_arch_prctl SYS_getrlimit
        SYS_setrlimit
        SYS_epoll_create SYS_epoll_wait SYS_poll SYS_select SYS_eventfd SYS_signalfd SYS_pipe
    ]);
    calls
}

/// Open to close, directory and link calls, sync, locks, copies, reading attributes, inotify.
fn file() -> Vec<i64> {
    #[allow(unused_mut, reason = "grown only where the architecture has older calls")]
    let mut calls = calls![
        SYS_openat SYS_truncate SYS_ftruncate SYS_fallocate SYS_fadvise64 SYS_readahead SYS_flock
        SYS_fsync SYS_fdatasync SYS_syncfs SYS_sync
        SYS_getdents64 SYS_getcwd SYS_chdir SYS_fchdir SYS_mkdirat SYS_mknodat SYS_unlinkat SYS_linkat SYS_symlinkat
        SYS_readlinkat SYS_renameat2 SYS_faccessat SYS_faccessat2 SYS_statfs SYS_fstatfs
        SYS_copy_file_range SYS_sendfile SYS_splice SYS_tee SYS_vmsplice
        SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr
        SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend(calls![
        SYS_open SYS_creat SYS_getdents SYS_mkdir SYS_mknod SYS_rmdir SYS_unlink SYS_link SYS_symlink SYS_readlink
        SYS_rename SYS_renameat SYS_access SYS_inotify_init SYS_sync_file_range
    ]);
    calls
}

/// What a socket that is already there needs. `socket`, `connect`, `bind`, `listen` follow from the plan's families.
fn socket() -> Vec<i64> {
    calls![
        SYS_socketpair SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_sendmmsg SYS_recvmmsg SYS_getsockname
        SYS_getpeername SYS_setsockopt SYS_getsockopt SYS_shutdown SYS_accept SYS_accept4
    ]
}

/// Changes of mode, owner, times and extended attributes, which Landlock does not govern. The descriptor forms as well: a
/// descriptor opened for reading is enough for `fchmod`, so a unit that runs as root could take the mode off any system file.
pub(super) fn metadata() -> Vec<i64> {
    /// Not in every table of `libc`: `fchmodat2`, `setxattrat`, `removexattrat`, `file_setattr`; new calls have one number on
    /// all architectures.
    const NEW: [i64; 4] = [452, 463, 466, 469];
    #[allow(unused_mut, reason = "grown only where the architecture has older calls")]
    let mut calls = calls![
        SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_utimensat SYS_setxattr SYS_lsetxattr
        SYS_fsetxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend(calls![SYS_chmod SYS_chown SYS_lchown SYS_utime SYS_utimes SYS_futimesat]);
    calls.extend(NEW);
    calls
}

/// Known dangerous ones: a clear refusal, for ENOSYS would look like an old kernel.
pub(super) fn dangerous() -> Vec<i64> {
    #[allow(unused_mut, reason = "grown only where the architecture has older calls")]
    let mut calls = calls![
        SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_pidfd_getfd SYS_kcmp SYS_process_madvise
        SYS_process_mrelease
        SYS_mount SYS_umount2 SYS_pivot_root SYS_chroot SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig SYS_fsmount
        SYS_fspick SYS_mount_setattr SYS_setns SYS_unshare
        SYS_seccomp SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_add_key SYS_request_key SYS_keyctl
        SYS_fanotify_init SYS_fanotify_mark SYS_name_to_handle_at SYS_open_by_handle_at
        SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_reboot SYS_syslog SYS_acct
        SYS_sethostname SYS_setdomainname SYS_clock_settime SYS_clock_adjtime SYS_settimeofday SYS_adjtimex
        SYS_quotactl SYS_quotactl_fd SYS_swapon SYS_swapoff SYS_vhangup
        SYS_shmget SYS_shmat SYS_shmctl SYS_shmdt SYS_semget SYS_semop SYS_semctl SYS_semtimedop SYS_msgget SYS_msgsnd
        SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_notify
        SYS_mq_getsetattr
        SYS_setuid SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setfsuid SYS_setfsgid
        SYS_setgroups SYS_capset SYS_execveat SYS_migrate_pages SYS_move_pages
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend(calls![SYS_kexec_file_load SYS_iopl SYS_ioperm SYS_modify_ldt SYS_uselib]);
    calls
}

/// Namespace flags of `clone`. (CLONE_NEWTIME shares its bit with the exit signal and works with `unshare` only.)
pub(super) const CLONE_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// Terminal modes, window size, foreground group, bytes waiting, blocking, close-on-exec, sharing of file content.
pub(super) const IOCTLS: &[u32] = &[
    0x5401,
    0x5402,
    0x5403,
    0x5404,      // TCGETS TCSETS TCSETSW TCSETSF
    0x802c_542a, // TCGETS2
    0x5409,
    0x540a,
    0x540b, // TCSBRK TCXONC TCFLSH
    0x5413,
    0x5414, // TIOCGWINSZ TIOCSWINSZ
    0x540f,
    0x5410,
    0x5429, // TIOCGPGRP TIOCSPGRP TIOCGSID
    0x541b,
    0x5411, // FIONREAD TIOCOUTQ
    0x5421,
    0x5450,
    0x5451, // FIONBIO FIONCLEX FIOCLEX
    0x4004_9409,
    0x4020_940d, // FICLONE FICLONERANGE
];
/// Typing into a terminal, and the console's selection.
pub(super) const IOCTLS_DANGEROUS: &[u32] = &[0x5412, 0x541c]; // TIOCSTI TIOCLINUX

/// Name, dumpable, death signal, subreaper, `no_new_privs`, naming of own memory, timer slack, and reads.
pub(super) const PRCTLS: &[u32] = &[
    1,
    2,
    3,
    4, // death signal, dumpable
    7, // keep-caps, read
    15,
    16, // name
    21,
    23,
    27, // seccomp mode, bounding set, secure bits: read
    29,
    30, // timer slack
    36,
    37, // subreaper
    38,
    39, // no_new_privs
    40,
    42,
    66,          // address of the thread id, huge pages, MDWE: read
    0x5356_4d41, // PR_SET_VMA: names for own memory
    0x4155_5856, // PR_GET_AUXV
];

/// Duplicates, flags, record locks, pipe sizes, seals, comparison of descriptors.
pub(super) const FCNTLS: &[u32] = &[
    0, 1, 2, 3, 4, 5, 6, 7, 9, // F_DUPFD … F_SETLKW, F_GETOWN
    36, 37, 38, // open file description locks
    1025, 1027, 1028, 1030, 1031, 1032, 1033, 1034, 1035, 1036, 1037, 1038,
];
/// F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY: signals on behalf of the kernel.
pub(super) const FCNTLS_DANGEROUS: &[u32] = &[8, 10, 15, 1024, 1026];

/// SCHED_OTHER, SCHED_BATCH, SCHED_IDLE.
pub(super) const SCHEDULERS: &[u32] = &[0, 3, 5];

/// SO_ATTACH_FILTER, SO_ATTACH_BPF, SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_EBPF.
pub(super) const SOCKET_OPTIONS_DANGEROUS: &[u32] = &[26, 50, 51, 52];

/// memfd_create: the memory can never be executed.
pub(super) const MFD_NOEXEC_SEAL: u32 = 0x8;
/// memfd_create: the memory can be executed.
pub(super) const MFD_EXEC: u32 = 0x10;
