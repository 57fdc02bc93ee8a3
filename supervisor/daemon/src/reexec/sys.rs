//! reexec::sys: the calls that have no safe wrapper. Job: descriptors across exec, exec itself, coming back from a signal.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};

/// Signals that end a program that has a fault.
const FATAL: [i32; 6] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGSYS];
/// Signals that would end a program that does not listen to them yet.
const HELD: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD];

/// A copy that the next exec closes.
pub fn copy(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only; an open descriptor is made, or an error.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 64) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Owns a descriptor that an earlier program left to us, and has it closed by the next exec.
pub fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: takes numbers only.
    unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: its number came in the handover, each number once, so nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Lets a descriptor live on in the program that is executed next.
pub fn keep_across_exec(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: takes numbers only.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A file in memory.
pub fn memory() -> io::Result<OwnedFd> {
    // SAFETY: reads a constant string.
    let fd = unsafe { libc::memfd_create(c"loomd-handover".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pointers to strings, ended by a null.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// Executes a file. Returns only if that failed.
pub fn execute(path: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both lists end with a null and live until the call returns.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Executes an open file. Returns only if that failed.
pub fn execute_descriptor(fd: RawFd, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    execute_prepared(fd, arguments.as_ptr(), environment.as_ptr());
    io::Error::last_os_error()
}

fn execute_prepared(fd: RawFd, arguments: *const *const libc::c_char, environment: *const *const libc::c_char) {
    // SAFETY: callers hand lists that end with a null and live for ever or until this returns.
    unsafe { libc::syscall(libc::SYS_execveat, fd, c"".as_ptr(), arguments, environment, libc::AT_EMPTY_PATH) };
}

/// Everything that a signal handler needs, made in advance: it may not allocate.
static PROGRAM: AtomicI32 = AtomicI32::new(-1);
static ARGUMENTS: AtomicPtr<*const libc::c_char> = AtomicPtr::new(ptr::null_mut());
static BY_SIGNAL: AtomicPtr<*const libc::c_char> = AtomicPtr::new(ptr::null_mut());
static WITHOUT_CAUSE: AtomicPtr<Vec<CString>> = AtomicPtr::new(ptr::null_mut());
static ARMED: AtomicBool = AtomicBool::new(false);

/// Gives something its place for the rest of this program's life; it is a few kilobytes, once.
fn for_ever(strings: Vec<CString>) -> *mut *const libc::c_char {
    let strings: &'static [CString] = Vec::leak(strings);
    Vec::leak(pointers(strings)).as_mut_ptr()
}

/// Makes everything ready to come back to the program behind `old`.
pub fn arm(old: RawFd, arguments: Vec<CString>, environment: Vec<CString>, cause: &str) {
    let mut by_signal = environment.clone();
    by_signal.extend(CString::new(format!("{cause}=a fatal signal hit it")));
    PROGRAM.store(old, Ordering::SeqCst);
    ARGUMENTS.store(for_ever(arguments), Ordering::SeqCst);
    BY_SIGNAL.store(for_ever(by_signal), Ordering::SeqCst);
    WITHOUT_CAUSE.store(Box::leak(Box::new(environment)), Ordering::SeqCst);
    ARMED.store(true, Ordering::SeqCst);
    for signal in FATAL {
        // SAFETY: the handler calls only what may be called in one: atomics, sigprocmask, execveat.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fatal as extern "C" fn(i32) as usize;
            action.sa_flags = libc::SA_NODEFER | libc::SA_RESETHAND | libc::SA_ONSTACK;
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        }
    }
}

extern "C" fn on_fatal(_signal: i32) {
    if ARMED.swap(false, Ordering::SeqCst) {
        unblock_all();
        execute_prepared(
            PROGRAM.load(Ordering::SeqCst),
            ARGUMENTS.load(Ordering::SeqCst),
            BY_SIGNAL.load(Ordering::SeqCst),
        );
    }
    // The fault comes again, now with its default action.
}

fn unblock_all() {
    // SAFETY: an empty set made by the call meant for it.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        for signal in HELD {
            libc::sigaddset(&raw mut none, signal);
        }
        // Those that the program we come back to does not listen to yet stay held.
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// Nobody is come back to any more.
pub fn disarm() {
    if ARMED.swap(false, Ordering::SeqCst) {
        for signal in FATAL {
            // SAFETY: gives the signal its default action back.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// Executes the old program. Returns only if that is not to be, or failed.
pub fn come_back(because: &str) {
    if !ARMED.swap(false, Ordering::SeqCst) {
        return;
    }
    let environment = WITHOUT_CAUSE.load(Ordering::SeqCst);
    // SAFETY: stored by `arm` before ARMED was set, and never freed.
    let mut environment = unsafe { (*environment).clone() };
    environment.extend(CString::new(format!("LOOM_REEXEC_FAILED={because}")));
    hold_signals();
    execute_prepared(PROGRAM.load(Ordering::SeqCst), ARGUMENTS.load(Ordering::SeqCst), for_ever(environment));
}

fn change_held(how: i32) {
    // SAFETY: the set is made by the calls meant for it.
    unsafe {
        let mut held: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut held);
        for signal in HELD {
            libc::sigaddset(&raw mut held, signal);
        }
        libc::pthread_sigmask(how, &raw const held, ptr::null_mut());
    }
}

/// Signals wait until the next program listens to them.
pub fn hold_signals() {
    change_held(libc::SIG_BLOCK);
}

/// They come again.
pub fn release_signals() {
    change_held(libc::SIG_UNBLOCK);
}
