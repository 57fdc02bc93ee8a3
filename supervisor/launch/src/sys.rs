//! sys: the system calls, each with its safety and its words.
//!
//! Job: thin, checked wrappers. May touch: `libc`. Keeps: the only unsafe code of the launcher.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What did not work: the kernel's word, and on what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub errno: i32,
    pub what: String,
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// -1 is the kernel's word for failure.
fn ok(result: libc::c_long) -> Result<libc::c_long, i32> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

fn on(what: &str) -> impl Fn(i32) -> Trouble + '_ {
    move |errno| Trouble { errno, what: what.to_owned() }
}

fn c_string(text: &str) -> Result<CString, Trouble> {
    CString::new(text)
        .map_err(|_| Trouble { errno: libc::EINVAL, what: format!("`{}` holds a NUL", text.escape_default()) })
}

/// `argv` and `envp` as execve wants them.
#[derive(Debug)]
pub struct CStrings {
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl CStrings {
    pub fn new(argv: &[String], env: &BTreeMap<String, String>) -> Result<Self, Trouble> {
        let pair = |(name, value): (&String, &String)| {
            if name.is_empty() || name.contains('=') {
                return Err(Trouble { errno: libc::EINVAL, what: format!("`{name}` is no name of a variable") });
            }
            c_string(&format!("{name}={value}"))
        };
        Ok(Self {
            argv: argv.iter().map(|a| c_string(a)).collect::<Result<_, _>>()?,
            env: env.iter().map(pair).collect::<Result<_, _>>()?,
        })
    }
}

/// Becomes the program; returns only to say why not.
pub fn execve(program: &CStrings) -> Trouble {
    let pointers = |strings: &[CString]| {
        strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect::<Vec<_>>()
    };
    let (argv, env) = (pointers(&program.argv), pointers(&program.env));
    // SAFETY: both arrays end in a null pointer, and their strings live in `program`.
    unsafe { libc::execve(argv[0], argv.as_ptr(), env.as_ptr()) };
    let errno = errno();
    Trouble { errno, what: program.argv[0].to_string_lossy().into_owned() }
}

/// Ends the launcher at once.
pub fn exit(status: i32) -> ! {
    // SAFETY: ends the process; nothing of ours is left to clean up.
    unsafe { libc::_exit(status) }
}

/// The content of a memfd that nobody can change any more.
pub fn read_sealed(fd: RawFd, max: usize) -> Result<Vec<u8>, Trouble> {
    let on = on("plan descriptor");
    // SAFETY: plain calls on a number; a wrong one is an errno.
    let seals = ok(libc::c_long::from(unsafe { libc::fcntl(fd, libc::F_GET_SEALS) })).map_err(&on)?;
    let needed = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK;
    if seals as i32 & needed != needed {
        return Err(Trouble { errno: libc::EINVAL, what: "plan descriptor is not sealed".to_owned() });
    }
    let mut bytes = vec![0u8; max + 1];
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: `rest` is ours, and of that length.
        let read = unsafe { libc::pread(fd, rest.as_mut_ptr().cast(), rest.len(), filled as libc::off_t) };
        match ok(read as libc::c_long).map_err(&on)? {
            0 => break,
            more => filled += more as usize,
        }
    }
    if filled > max {
        return Err(Trouble { errno: libc::E2BIG, what: format!("plan is larger than {max} bytes") });
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// One byte; `false` at the end of file.
pub fn read_byte(fd: RawFd) -> Result<bool, Trouble> {
    loop {
        let mut byte = 0u8;
        // SAFETY: one byte of ours.
        let read = unsafe { libc::read(fd, (&raw mut byte).cast(), 1) };
        match ok(read as libc::c_long) {
            Ok(count) => return Ok(count == 1),
            Err(libc::EINTR) => {}
            Err(errno) => return Err(Trouble { errno, what: "gate descriptor".to_owned() }),
        }
    }
}

/// Writes what can be written.
pub fn write_all(fd: RawFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: `bytes` is ours, and of that length.
        let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
        match ok(written as libc::c_long) {
            Ok(count) => bytes = &bytes[count as usize..],
            Err(libc::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// A copy of `fd`, close-on-exec, numbered `min` or higher.
pub fn duplicate_above(fd: RawFd, min: RawFd) -> Result<RawFd, i32> {
    // SAFETY: a plain call on numbers.
    ok(libc::c_long::from(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, min) })).map(|fd| fd as RawFd)
}

/// Makes `to` a copy of `from` that stays open across exec.
pub fn duplicate_to(from: RawFd, to: RawFd) -> Result<(), i32> {
    // SAFETY: a plain call on numbers; what `to` was before is closed on purpose.
    ok(libc::c_long::from(unsafe { libc::dup2(from, to) })).map(|_| ())
}

/// Closes `first` to `last`.
pub fn close_range(first: u32, last: u32) -> Result<(), Trouble> {
    // SAFETY: a plain call on numbers; nothing of ours uses those descriptors any more.
    ok(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(|_| ()).map_err(on("close_range"))
}

/// Opens or makes the lock file.
pub fn open_lock(path: &str) -> Result<RawFd, Trouble> {
    let name = c_string(path)?;
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    // SAFETY: `name` ends in NUL and lives through the call.
    let fd = unsafe { libc::open(name.as_ptr(), flags, 0o600 as libc::c_uint) };
    let fd = ok(libc::c_long::from(fd)).map_err(on(path))? as RawFd;
    // Between our own numbers and those that are passed on; not 0, 1 or 2, should one of them be closed.
    duplicate_above(fd, crate::REPORT_FD + 1).map_err(on(path))
}

/// An exclusive lock, or EWOULDBLOCK.
pub fn lock(fd: RawFd) -> Result<(), i32> {
    // SAFETY: a plain call on numbers.
    ok(libc::c_long::from(unsafe { libc::flock(fd, libc::LOCK_EX | libc::LOCK_NB) })).map(|_| ())
}

/// Leads a session of its own.
pub fn new_session() -> Result<(), Trouble> {
    // SAFETY: plain calls.
    unsafe {
        if libc::getsid(0) == libc::getpid() {
            return Ok(());
        }
        ok(libc::c_long::from(libc::setsid())).map(|_| ()).map_err(on("setsid"))
    }
}

pub fn umask(mask: libc::mode_t) {
    // SAFETY: cannot fail.
    unsafe { libc::umask(mask) };
}

/// Default disposition for every signal, nothing blocked.
pub fn default_signals() -> Result<(), Trouble> {
    /// As the kernel has it; `libc`'s function refuses the two signals that it keeps for itself, which may be ignored as well.
    #[repr(C)]
    struct KernelSigaction {
        handler: usize,
        flags: libc::c_ulong,
        restorer: usize,
        mask: u64,
    }
    let default = KernelSigaction { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
    for signal in (1..=64).filter(|s| ![libc::SIGKILL, libc::SIGSTOP].contains(s)) {
        // SAFETY: the kernel reads one action of its own layout, at most 8 bytes of it mask; the default needs no restorer.
        let set = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, 0usize, 8usize) };
        ok(set).map_err(|errno| Trouble { errno, what: format!("signal {signal}") })?;
    }
    let none = 0u64;
    // SAFETY: the kernel reads eight bytes of ours.
    let set = unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, 0usize, 8usize) };
    ok(set).map(|_| ()).map_err(on("signal mask"))
}

/// Writes `bytes` to the file `name` in an open directory, in one piece.
pub fn write_beneath(directory: RawFd, name: &str, bytes: &[u8]) -> Result<(), Trouble> {
    let path = c_string(name)?;
    // SAFETY: `path` ends in NUL and lives through the call.
    let fd = unsafe { libc::openat(directory, path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW) };
    ok(libc::c_long::from(fd)).map_err(on(name))?;
    // SAFETY: `fd` was just opened and belongs to nobody else.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `bytes` is ours, and of that length.
    let written = unsafe { libc::write(std::os::fd::AsRawFd::as_raw_fd(&file), bytes.as_ptr().cast(), bytes.len()) };
    ok(written as libc::c_long).map(|_| ()).map_err(on(name))
}

/// By descriptor, so that it is a directory and stays the one that was opened.
pub fn change_directory(path: &str) -> Result<(), Trouble> {
    let name = c_string(path)?;
    // SAFETY: `name` ends in NUL and lives through the call.
    let fd = unsafe { libc::open(name.as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC) };
    ok(libc::c_long::from(fd)).map_err(on(path))?;
    // SAFETY: a plain call on a number; then it is closed, and used by nobody else.
    let changed = ok(libc::c_long::from(unsafe { libc::fchdir(fd) }));
    // SAFETY: as above.
    unsafe { libc::close(fd) };
    changed.map(|_| ()).map_err(on(path))
}

pub fn set_rlimit(resource: libc::__rlimit_resource_t, value: libc::rlimit) -> Result<(), i32> {
    // SAFETY: the kernel reads one `rlimit` of ours.
    ok(libc::c_long::from(unsafe { libc::setrlimit(resource, &raw const value) })).map(|_| ())
}

/// The hard limit in force.
pub fn hard_limit(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut value = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one `rlimit` of ours.
    ok(libc::c_long::from(unsafe { libc::getrlimit(resource, &raw mut value) })).ok().map(|_| value.rlim_max)
}

fn prctl(option: i32, second: libc::c_ulong, third: libc::c_ulong) -> Result<libc::c_long, i32> {
    // SAFETY: only options whose arguments are numbers are used here.
    ok(libc::c_long::from(unsafe { libc::prctl(option, second, third, 0 as libc::c_ulong, 0 as libc::c_ulong) }))
}

/// Empties the bounding set, where we may; where we may not, `no_new_privs` keeps it from ever counting.
pub fn drop_bounding_set() -> Result<(), Trouble> {
    const CAPABILITY_END: libc::c_ulong = 64;
    for capability in 0..CAPABILITY_END {
        match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            Ok(_) => {}
            // Past the last capability that this kernel knows.
            Err(libc::EINVAL) => break,
            Err(libc::EPERM) if prctl(libc::PR_CAPBSET_READ, capability, 0) == Ok(0) => {}
            Err(libc::EPERM) if no_capability_in_effect() => return Ok(()),
            Err(errno) => return Err(Trouble { errno, what: format!("bounding set, capability {capability}") }),
        }
    }
    Ok(())
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}
#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}
const CAPABILITY_VERSION: u32 = 0x2008_0522;

fn no_capability_in_effect() -> bool {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut sets = [CapabilitySets { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 writes two records, which are ours.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()) };
    got == 0 && sets.iter().all(|set| set.permitted == 0)
}

/// Ambient, effective, permitted, inheritable: all empty.
pub fn drop_capabilities() -> Result<(), Trouble> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0)
        .map_err(on("ambient capabilities"))?;
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let sets = [CapabilitySets { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 reads two records, which are ours.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    ok(set).map(|_| ()).map_err(on("capset"))
}

/// No further groups, then gid, then uid; real, effective and saved.
pub fn become_user(uid: u32, gid: u32) -> Result<(), Trouble> {
    // SAFETY: no group is read; plain numbers otherwise. The raw calls, for there is one thread only.
    unsafe {
        ok(libc::syscall(libc::SYS_setgroups, 0usize, 0usize)).map_err(on("setgroups"))?;
        ok(libc::syscall(libc::SYS_setresgid, gid, gid, gid)).map_err(on("setresgid"))?;
        ok(libc::syscall(libc::SYS_setresuid, uid, uid, uid)).map_err(on("setresuid"))?;
    }
    Ok(())
}

pub fn no_new_privileges() -> Result<(), Trouble> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(|_| ()).map_err(on("no_new_privs"))
}

/// Memory is never made executable after it was writable, nor both at once.
pub fn deny_write_execute() -> Result<(), Trouble> {
    const PR_MDWE_REFUSE_EXEC_GAIN: libc::c_ulong = 1;
    prctl(libc::PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0).map(|_| ()).map_err(on("PR_SET_MDWE"))
}

/// Leaves the inherited session keyring.
pub fn new_session_keyring() -> Result<(), Trouble> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_ulong = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    match ok(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0usize) }) {
        Ok(_) => Ok(()),
        // A kernel without keyrings, or a container that refuses all calls on them: there is none to inherit then.
        Err(libc::ENOSYS | libc::EPERM) => Ok(()),
        Err(errno) => Err(Trouble { errno, what: "session keyring".to_owned() }),
    }
}

/// A path that a rule names.
pub struct OpenedPath {
    pub fd: PathFd,
    pub is_directory: bool,
}

/// An `O_PATH` descriptor.
pub struct PathFd(OwnedFd);

impl AsFd for PathFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Opens `path` for reference only; with `no_symlinks` no part of it may be a link.
pub fn open_path(path: &str, no_symlinks: bool) -> Result<OpenedPath, i32> {
    let name = CString::new(path).map_err(|_| libc::EINVAL)?;
    let mut resolve = libc::RESOLVE_NO_MAGICLINKS;
    if no_symlinks {
        resolve |= libc::RESOLVE_NO_SYMLINKS;
    }
    // SAFETY: all-zero is a valid `open_how`, and the way to leave fields at their defaults.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
    how.resolve = resolve;
    let size = std::mem::size_of::<libc::open_how>();
    // SAFETY: `name` ends in NUL; `how` is ours, and of that size.
    let fd = ok(unsafe { libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, name.as_ptr(), &raw const how, size) })?;
    // SAFETY: just opened, and belongs to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    // SAFETY: all-zero is a valid `stat`, which the kernel fills in.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `stat` of ours.
    ok(libc::c_long::from(unsafe { libc::fstat(std::os::fd::AsRawFd::as_raw_fd(&fd), &raw mut stat) }))?;
    Ok(OpenedPath { fd: PathFd(fd), is_directory: stat.st_mode & libc::S_IFMT == libc::S_IFDIR })
}
