//! list: `fs:list`.
//!
//! Job: the entries of a directory, and of those below it, each asked about. May touch: `beneath`, `sys`.
//! Keeps: the order of names is bytewise, a directory's entries follow it; links are shown and never followed.

use crate::base64;
use crate::beneath::{Failure, attempt, failure};
use crate::place::{Found, Reach, Want};
use crate::sys;
use loom_core::glob;
use loom_core::tools::{ListArgs, Reason, ToolError};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat};
use serde_json::{Map, Value, json};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Names looked at in one call, at most.
const NAMES_MAX: usize = 100_000;

struct Walk<'a> {
    reach: &'a Reach<'a>,
    found: &'a Found<'a>,
    args: &'a ListArgs,
    entries: Vec<Value>,
    truncated: bool,
    names: usize,
}

pub fn list(reach: &Reach<'_>, args: &ListArgs) -> Result<Value, ToolError> {
    attempt(reach, &args.path, Want::Read, |found| {
        let fail = |errno| match errno {
            Errno::ENOTDIR => {
                let what = format!("`{}` is no directory; fs:read shows what is in a file", args.path);
                ToolError::of_tool(Reason::NotDirectory, what).into()
            }
            errno => failure(reach, errno, &args.path, Want::Read),
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let directory = sys::open_beneath(found.base(), found.below_base(), flags, Mode::empty()).map_err(fail)?;
        let mut walk = Walk { reach, found, args, entries: Vec::new(), truncated: false, names: 0 };
        walk.visit(directory, Path::new(""), 1)?;
        Ok(json!({ "entries": walk.entries, "truncated": walk.truncated }))
    })
}

impl Walk<'_> {
    fn visit(&mut self, directory: OwnedFd, below: &Path, depth: u64) -> Result<(), Failure> {
        let fail = |errno| failure(self.reach, errno, &self.args.path, Want::Read);
        let mut directory = Dir::from_fd(directory).map_err(fail)?;
        let mut names: Vec<OsString> = Vec::new();
        for entry in directory.iter() {
            let name = entry.map_err(fail)?.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            self.names += 1;
            if self.names > NAMES_MAX {
                let what =
                    format!("`{}` holds more than {NAMES_MAX} entries; list a directory below it", self.args.path);
                return Err(ToolError::of_tool(Reason::TooLarge, what).into());
            }
            names.push(OsString::from_vec(name));
        }
        names.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        for name in names {
            let below = below.join(&name);
            if !self.reach.admits_below(self.found, &below) {
                continue;
            }
            // Gone since it was read: not an entry.
            let Ok(stat) = fstatat(directory.as_fd(), name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
            let (kind, size) = match stat.st_mode & libc::S_IFMT {
                libc::S_IFREG => ("file", Some(stat.st_size)),
                libc::S_IFDIR => ("directory", None),
                libc::S_IFLNK => ("symlink", None),
                _ => ("other", None),
            };
            if self.args.glob.as_deref().is_none_or(|pattern| glob::matches(pattern, &below.to_string_lossy())) {
                if self.entries.len() as u64 == self.args.limit {
                    self.truncated = true;
                    return Ok(());
                }
                self.entries.push(self.entry(&below, kind, size));
            }
            if kind == "directory" && depth < self.args.depth {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
                // Swapped for something else, or not readable: shown, but not entered.
                if let Ok(inner) = sys::open_beneath(&directory, Path::new(&name), flags, Mode::empty()) {
                    self.visit(inner, &below, depth + 1)?;
                    if self.truncated {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// The path as the agent may give it back to another tool.
    fn entry(&self, below: &Path, kind: &str, size: Option<i64>) -> Value {
        let absolute: PathBuf = self.found.absolute().join(below);
        let path = self.reach.shown(&absolute).as_os_str();
        let mut entry = Map::new();
        match OsStr::to_str(path) {
            Some(text) => entry.insert("path".into(), text.into()),
            None => entry.insert("path_base64".into(), base64::encode(path.as_bytes()).into()),
        };
        entry.insert("type".into(), kind.into());
        if let Some(size) = size {
            entry.insert("size".into(), size.into());
        }
        Value::Object(entry)
    }
}
