//! write: `fs:write`.
//!
//! Job: new content beside the file, synced, then renamed into its place. May touch: `beneath`, `sys`.
//! Keeps: at any moment, also when killed, the file has its old content or its new one; its mode bits stay.

use crate::beneath::{Failure, attempt, failure, open_file_at};
use crate::place::{Found, Reach, Want};
use crate::read::{hash, hex};
use crate::sys;
use loom_core::tools::{Outcome, Reason, ToolError, WriteArgs, WriteMode};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, fstatat, mkdirat, umask};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, linkat, unlinkat};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is there before the write.
struct Old {
    file: File,
    stat: FileStat,
}

pub fn write(reach: &Reach<'_>, args: &WriteArgs) -> Result<Value, ToolError> {
    attempt(reach, &args.path, Want::Write, |found| {
        if found.is_root() && found.missing == 0 && found.below_base().as_os_str().is_empty() {
            let what = format!("`{}` is the root of what is granted, a directory", args.path);
            return Err(ToolError::of_tool(Reason::IsDirectory, what).into());
        }
        let name = found.below_base().file_name().expect("admitted below the base, hence with a name");
        let directory = open_directory(reach, found, args)?;
        let old = open_old(reach, found, &directory, name, args)?;
        check_wishes(args, old.as_ref())?;
        put(reach, &directory, name, args, old)
    })
}

/// Opens the directory of the file; makes those that are missing if asked to.
fn open_directory(reach: &Reach<'_>, found: &Found<'_>, args: &WriteArgs) -> Result<OwnedFd, Failure> {
    let fail = |errno| failure(reach, errno, &args.path, Want::Write);
    let directories: Vec<&OsStr> = found.below_base().parent().map(|path| path.iter().collect()).unwrap_or_default();
    // The file itself is one of those that are missing.
    let there = directories.len() - found.missing.saturating_sub(1);
    if there < directories.len() && !args.parents {
        let what = format!("the directory of `{}` does not exist; make it with parents=true", args.path);
        return Err(ToolError::of_tool(Reason::NotFound, what).into());
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let start: std::path::PathBuf = directories[..there].iter().collect();
    let mut directory = sys::open_beneath(found.base(), &start, flags, Mode::empty()).map_err(fail)?;
    for name in &directories[there..] {
        match mkdirat(&directory, *name, Mode::from_bits_truncate(0o777)) {
            // Someone was faster; if it is no directory, opening it tells.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(fail(errno)),
        }
        let made = sys::open_beneath(&directory, Path::new(name), flags, Mode::empty()).map_err(fail)?;
        nix::unistd::fsync(&directory).map_err(fail)?;
        directory = made;
    }
    Ok(directory)
}

fn open_old(
    reach: &Reach<'_>,
    found: &Found<'_>,
    directory: &OwnedFd,
    name: &OsStr,
    args: &WriteArgs,
) -> Result<Option<Old>, Failure> {
    // Asked first on its own: an absent file is an ordinary case here.
    match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(failure(reach, errno, &args.path, Want::Write)),
        Ok(stat) if args.mode == WriteMode::Create && stat.st_mode & libc::S_IFMT != libc::S_IFLNK => {
            return Err(exists(args).into());
        }
        Ok(_) => {}
    }
    let (file, stat) = open_file_at(reach, found, directory, Path::new(name), &args.path, Want::Write)?;
    Ok(Some(Old { file: File::from(file), stat }))
}

fn exists(args: &WriteArgs) -> ToolError {
    let what = format!("`{}` exists; mode=replace or mode=append changes it", args.path);
    ToolError::of_tool(Reason::Exists, what)
}

fn conflict(args: &WriteArgs, found: &str) -> ToolError {
    ToolError::of_tool(Reason::Conflict, format!("`{}` is not as expected: {found}; read it again", args.path))
}

fn check_wishes(args: &WriteArgs, old: Option<&Old>) -> Result<(), Failure> {
    let Some(expected) = &args.expect_sha256 else { return Ok(()) };
    let Some(old) = old else { return Err(conflict(args, "it does not exist").into()) };
    let now = hash(&old.file).map_err(|error| fault(args, &error))?;
    if now == *expected { Ok(()) } else { Err(conflict(args, &format!("its sha256 is {now}")).into()) }
}

fn fault(args: &WriteArgs, error: &io::Error) -> ToolError {
    let reason = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSPC | Errno::EDQUOT) => Reason::NoSpace,
        Some(Errno::EFBIG) => Reason::TooLarge,
        _ => Reason::Io,
    };
    let what = match reason {
        Reason::NoSpace => format!("no space left for `{}`; it is as it was", args.path),
        Reason::TooLarge => {
            format!("`{}` would be larger than `file_size` under [limits] allows; it is as it was", args.path)
        }
        _ => format!("cannot write `{}`: {error}; it is as it was", args.path),
    };
    ToolError::of_tool(reason, what)
}

/// A name that no one else uses: hidden, with our pid and a count.
fn temporary_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(".loom-write-{:x}-{:x}-{count:x}", std::process::id(), since_epoch.as_nanos())
}

/// Removes the temporary file unless it was moved into place.
struct Temporary<'a> {
    directory: &'a OwnedFd,
    name: String,
    moved: bool,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.moved {
            // It may be gone already; there is nobody left to tell.
            let _ = unlinkat(self.directory, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

fn put(
    reach: &Reach<'_>,
    directory: &OwnedFd,
    name: &OsStr,
    args: &WriteArgs,
    old: Option<Old>,
) -> Result<Value, Failure> {
    let fail = |errno| failure(reach, errno, &args.path, Want::Write);
    let name_now = temporary_name();
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    let file = match &old {
        // Made with the old file's mode: the sandbox answers chmod and does nothing.
        Some(old) => {
            let before = umask(Mode::empty());
            let mode = Mode::from_bits_truncate(old.stat.st_mode & 0o777);
            let made = sys::open_beneath(directory, Path::new(&name_now), flags, mode);
            umask(before);
            made
        }
        None => sys::open_beneath(directory, Path::new(&name_now), flags, Mode::from_bits_truncate(0o666)),
    };
    let file = file.map_err(fail)?;
    let mut temporary = Temporary { directory, name: name_now, moved: false };
    let mut file = File::from(file);
    let (bytes, sha256) = fill(&mut file, args, old.as_ref()).map_err(|error| fault(args, &error))?;
    // A supervisor that runs as root writes for people: their file stays theirs where that may be done at all.
    if let Some(old) = &old
        && old.stat.st_uid != nix::unistd::geteuid().as_raw()
    {
        let _ = fchown(&file, Some(Uid::from_raw(old.stat.st_uid)), Some(Gid::from_raw(old.stat.st_gid)));
    }
    file.sync_all().map_err(|error| fault(args, &error))?;
    match &old {
        None => move_to_new(directory, &temporary.name, name).map_err(|errno| match (errno, args.mode) {
            (Errno::EEXIST, WriteMode::Create) => exists(args).into(),
            // It came into being meanwhile: begin anew with it.
            (Errno::EEXIST, WriteMode::Replace | WriteMode::Append) => Failure::Swapped,
            (errno, _) => fail(errno),
        })?,
        Some(old) => {
            // What was read to decide or to append to must still be what is replaced.
            if (args.expect_sha256.is_some() || args.mode == WriteMode::Append) && !is_still(directory, name, &old.stat)
            {
                return match args.expect_sha256 {
                    Some(_) => Err(conflict(args, "it changed while it was being written").into()),
                    None => Err(Failure::Swapped),
                };
            }
            renameat(directory, temporary.name.as_str(), directory, name).map_err(|errno| match errno {
                Errno::EISDIR | Errno::ENOTDIR => Failure::Swapped,
                errno => fail(errno),
            })?;
        }
    }
    temporary.moved = true;
    nix::unistd::fsync(directory).map_err(|errno| {
        let what = format!("`{}` was written, but its directory could not be synced: {errno}", args.path);
        Failure::Final(ToolError { outcome: Outcome::Unknown, ..ToolError::of_tool(Reason::Io, what) })
    })?;
    Ok(json!({ "bytes": bytes, "sha256": sha256 }))
}

/// Writes the whole new content; says how long it is, and its hash.
fn fill(file: &mut File, args: &WriteArgs, old: Option<&Old>) -> io::Result<(u64, String)> {
    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    if let (WriteMode::Append, Some(old)) = (args.mode, old) {
        let (mut from, mut buffer) = (&old.file, vec![0; 64 * 1024]);
        io::Seek::rewind(&mut from)?;
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(more) => {
                    file.write_all(&buffer[..more])?;
                    hasher.update(&buffer[..more]);
                    bytes += more as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    file.write_all(args.content.as_bytes())?;
    hasher.update(args.content.as_bytes());
    Ok((bytes + args.content.len() as u64, hex(&hasher.finalize())))
}

/// Renames without replacing anything. File systems without that flag get a second name and lose the first.
fn move_to_new(directory: &OwnedFd, from: &str, to: &OsStr) -> Result<(), Errno> {
    match renameat2(directory, from, directory, to, RenameFlags::RENAME_NOREPLACE) {
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            linkat(directory, from, directory, to, AtFlags::empty())?;
            unlinkat(directory, from, UnlinkatFlags::NoRemoveDir)
        }
        other => other,
    }
}

fn is_still(directory: &OwnedFd, name: &OsStr, old: &FileStat) -> bool {
    let facts = |stat: &FileStat| {
        (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec)
    };
    fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|now| facts(&now) == facts(old))
}
