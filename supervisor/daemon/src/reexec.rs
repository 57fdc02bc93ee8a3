//! reexec: one loomd becomes another in the same process, and comes back if that one is not well.
//!
//! Job: what crosses from one program to the next (descriptors and where they belong, in a memfd); the trial of the new
//! program; the guard that brings the old one back. May touch: its own program file, descriptors, the environment variables
//! [`HANDOVER`] and [`OLD_PROGRAM`]. May not: know units.
//! Keeps: until the new one is well, everything that the old one would need is still open.
//!
//! 1. The new program is tried as a child (`loomd --check`): it starts, reads the same settings and unit files, knows the store.
//! 2. The loop lets go of its units, the store is closed, and this process executes the new program.
//! 3. The new one has [`HEALTHY_LIMIT`] to open the store, adopt what runs and answer. If it ends, panics, is hit by a fatal
//!    signal or takes longer, it executes the old program, which goes on as after any start.

mod sys;

use crate::fault;
use loom_core::ids::UnitId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long the new program may take until it answers.
pub const HEALTHY_LIMIT: Duration = Duration::from_secs(10);
/// How long its trial may take.
pub const CHECK_LIMIT: Duration = Duration::from_secs(10);
/// The number of the memfd that holds a [`Document`].
const HANDOVER: &str = "LOOM_REEXEC_FD";
/// The number of the descriptor of the program that is come back to; gone once we are back.
const OLD_PROGRAM: &str = "LOOM_REEXEC_OLD_FD";
/// Why we are back.
const FAILED: &str = "LOOM_REEXEC_FAILED";
/// The largest document.
const DOCUMENT_MAX_BYTES: u64 = 4 << 20;
/// Between two looks at the trial.
const CHECK_PAUSE: Duration = Duration::from_millis(10);

/// What crosses, as numbers of open descriptors.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Document {
    version: u32,
    lock: Option<RawFd>,
    listener: Option<RawFd>,
    /// By unit, then by name.
    units: BTreeMap<UnitId, Vec<(String, RawFd)>>,
}

/// What crosses.
#[derive(Debug, Default)]
pub struct Carried {
    /// The lock of the runtime directory. A record lock: it goes with the first descriptor of the file that is closed.
    pub lock: Option<File>,
    /// The control socket.
    pub listener: Option<OwnedFd>,
    /// Descriptors of units: `notify` for the notify socket, `store:<name>` for what they stored.
    pub units: BTreeMap<UnitId, Vec<(String, OwnedFd)>>,
    /// Set where a newer program was tried and did not do: why.
    pub came_back: Option<String>,
}

/// Takes over what an earlier program left in this process, if it did, and arms the guard. Call first of all in `main`.
pub fn receive() -> Result<Carried, String> {
    let take = |name: &str| {
        let value = std::env::var(name).ok();
        value.map(|text| text.parse::<RawFd>().map_err(|_| format!("{name}={text} is no descriptor"))).transpose()
    };
    let came_back = std::env::var(FAILED).ok();
    let (Some(handover), old) = (take(HANDOVER)?, take(OLD_PROGRAM)?) else { return Ok(Carried::default()) };
    if let Some(old) = old {
        arm(old, handover)?;
        fault::trouble("reexec.armed");
        if fault::fails("reexec.armed") {
            return Err("made to fail by LOOM_TROUBLE".to_owned());
        }
    }
    let document = read(handover)?;
    // Until we are well, the originals stay open for the program that we may come back to.
    let ours = |fd: RawFd| sys::copy(fd).map_err(|error| format!("descriptor {fd} was not handed over: {error}"));
    let mut units: BTreeMap<UnitId, Vec<(String, OwnedFd)>> = BTreeMap::new();
    for (unit, descriptors) in document.units {
        let mut copies = Vec::new();
        for (name, fd) in descriptors {
            copies.push((name, ours(fd)?));
            ORIGINALS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(fd);
        }
        units.insert(unit, copies);
    }
    let listener = document.listener.map(ours).transpose()?;
    let mut originals = ORIGINALS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    originals.extend(document.listener);
    originals.push(handover);
    originals.extend(old);
    // This one is never copied and never closed, for its lock's sake.
    let lock = document.lock.map(|fd| File::from(sys::adopt(fd)));
    Ok(Carried { lock, listener, units, came_back })
}

/// Descriptors to be closed once we are well.
static ORIGINALS: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());
/// Since when the guard waits; `None` where nobody is come back to.
static GUARD: Mutex<Option<Instant>> = Mutex::new(None);

/// We answer: the old program is not needed any more.
pub fn healthy() {
    let armed = GUARD.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    sys::disarm();
    for fd in std::mem::take(&mut *ORIGINALS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)) {
        drop(sys::adopt(fd));
    }
    if let Some(since) = armed {
        let took_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(took_ms, version = env!("CARGO_PKG_VERSION"), "this loomd took over from the one before it");
    }
}

/// Comes back to the old program, if there is one to come back to. Returns only if there is none.
pub fn come_back(because: &str) {
    if GUARD.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some() {
        sys::come_back(because);
    }
}

fn arm(old: RawFd, handover: RawFd) -> Result<(), String> {
    let arguments = own_arguments()?;
    let environment = own_environment(&[(HANDOVER, handover.to_string())], &[OLD_PROGRAM, FAILED])?;
    *GUARD.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now());
    sys::arm(old, arguments, environment, FAILED);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        come_back("it panicked");
    }));
    std::thread::Builder::new()
        .name("reexec-guard".to_owned())
        .spawn(|| {
            std::thread::sleep(HEALTHY_LIMIT);
            come_back(&format!("it did not answer within {} s", HEALTHY_LIMIT.as_secs()));
        })
        .map_err(|error| format!("cannot start the guard: {error}"))?;
    Ok(())
}

fn read(fd: RawFd) -> Result<Document, String> {
    let told = |error: io::Error| format!("cannot read what the loomd before handed over: {error}");
    let mut file = File::from(sys::copy(fd).map_err(told)?);
    file.seek(SeekFrom::Start(0)).map_err(told)?;
    let mut text = Vec::new();
    file.take(DOCUMENT_MAX_BYTES).read_to_end(&mut text).map_err(told)?;
    serde_json::from_slice(&text).map_err(|error| format!("what the loomd before handed over cannot be read: {error}"))
}

/// The program file of a loomd that is to follow: what now lies where ours was started from.
pub fn program() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    // The kernel says so of a file that was replaced.
    let text = own.as_os_str().as_bytes();
    let plain = text.strip_suffix(b" (deleted)").unwrap_or(text);
    Ok(PathBuf::from(OsString::from_vec(plain.to_vec())))
}

/// Tries a program: with our own arguments and environment it must say that it would start.
/// `make` starts the child so that nobody else reaps it.
pub fn check(
    program: &Path,
    store_schema: u32,
    make: impl FnOnce(&mut Command) -> io::Result<Child>,
) -> Result<(), String> {
    let name = program.display();
    let mut command = Command::new(program);
    command
        .args(std::env::args_os().skip(1))
        .arg(format!("--check={store_schema}"))
        // What we were handed ourselves is nothing for it.
        .env_remove(HANDOVER)
        .env_remove(OLD_PROGRAM)
        .env_remove(FAILED)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = make(&mut command).map_err(|error| format!("cannot run {name}: {error}"))?;
    let until = Instant::now() + CHECK_LIMIT;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < until => std::thread::sleep(CHECK_PAUSE),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("`{name} --check` took longer than {} s", CHECK_LIMIT.as_secs()));
            }
            Err(error) => return Err(format!("cannot wait for `{name} --check`: {error}")),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(errors) = child.stderr.take() {
        let _ = errors.take(4096).read_to_string(&mut said);
    }
    Err(format!("`{name} --check` ended with {status}: {}", said.trim()))
}

/// Executes `program` in this process. Returns only if neither it nor our own program can be executed.
pub fn become_another(program: &Path, carried: Carried) -> String {
    match hand_over(program, carried) {
        Ok(never) => match never {},
        Err(because) => because,
    }
}

fn hand_over(program: &Path, carried: Carried) -> Result<std::convert::Infallible, String> {
    let mut document = Document { version: 1, ..Document::default() };
    let keep = |fd: OwnedFd| {
        sys::keep_across_exec(&fd).map_err(|error| format!("cannot keep a descriptor: {error}"))?;
        Ok::<RawFd, String>(fd.into_raw_fd())
    };
    document.lock = carried.lock.map(|lock| keep(lock.into())).transpose()?;
    document.listener = carried.listener.map(keep).transpose()?;
    for (unit, descriptors) in carried.units {
        let kept: Result<Vec<_>, String> = descriptors.into_iter().map(|(name, fd)| Ok((name, keep(fd)?))).collect();
        document.units.insert(unit, kept?);
    }
    let text = serde_json::to_vec(&document).map_err(|error| error.to_string())?;
    let mut memory = File::from(sys::memory().map_err(|error| format!("cannot make the handover: {error}"))?);
    memory.write_all(&text).map_err(|error| format!("cannot write the handover: {error}"))?;
    let handover = keep(memory.into())?;
    let own = File::open("/proc/self/exe").map_err(|error| format!("cannot open our own program: {error}"))?;
    let own = keep(own.into())?;
    let told = [(HANDOVER, handover.to_string()), (OLD_PROGRAM, own.to_string())];
    let environment = own_environment(&told, &[FAILED])?;
    let path = CString::new(program.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    sys::hold_signals();
    let error = sys::execute(&path, &own_arguments()?, &environment);
    // It could not even be executed: go on as if it had been, and come back at once.
    let environment =
        own_environment(&[(HANDOVER, handover.to_string()), (FAILED, error.to_string())], &[OLD_PROGRAM])?;
    let again = sys::execute_descriptor(own, &own_arguments()?, &environment);
    Err(format!("cannot execute {} ({error}), nor our own program again ({again})", program.display()))
}

fn own_arguments() -> Result<Vec<CString>, String> {
    std::env::args_os().map(|word| CString::new(word.as_bytes()).map_err(|error| error.to_string())).collect()
}

fn own_environment(with: &[(&str, String)], without: &[&str]) -> Result<Vec<CString>, String> {
    let ours = std::env::vars_os()
        .filter(|(name, _)| !without.iter().any(|other| name == other) && !with.iter().any(|(other, _)| name == other));
    let mut lines: Vec<Vec<u8>> =
        ours.map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect();
    lines.extend(with.iter().map(|(name, value)| format!("{name}={value}").into_bytes()));
    lines.into_iter().map(|line| CString::new(line).map_err(|error| error.to_string())).collect()
}

/// Lets signals come again that were held while one program became the other. Call once they are listened to.
pub fn release_signals() {
    sys::release_signals();
}
