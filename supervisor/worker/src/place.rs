//! place: from the path an agent wrote to the one true path beneath a granted root.
//!
//! Job: follow links by hand, beneath the roots only, and ask the rules about the outcome.
//! May touch: `sys`, link texts. Keeps: nothing outside the roots is looked at, so no answer tells whether it exists.
//!
//! The path found here is a candidate: [`crate::beneath`] opens it without following any link, so if something was swapped
//! meanwhile the opening fails and the search starts over. What is opened is always what the rules saw. (`/proc/self/fd`,
//! the usual way to learn a descriptor's path, is not there in the sandbox.)

use crate::sys;
use loom_core::tools::{PathRules, Place, Reason, Roots, ToolError};
use nix::errno::Errno;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

/// Links followed on one path, at most; as in Linux.
const LINKS_MAX: usize = 40;

/// What one call reaches: the roots, opened, and the rules.
pub struct Reach<'a> {
    roots: Vec<Root>,
    rules: &'a PathRules,
    pub tool: &'a str,
}

struct Root {
    /// As granted.
    written: PathBuf,
    /// Without links.
    canonical: PathBuf,
    /// Where opening starts: the root, or its directory if it is a file.
    base: OwnedFd,
    is_file: bool,
    writable: bool,
    is_workspace: bool,
    /// Who owns it.
    owner: u32,
}

/// A path without links, beneath a root, that the rules admit.
pub struct Found<'a> {
    root: &'a Root,
    absolute: PathBuf,
    /// Components at the end that are not there (yet).
    pub missing: usize,
}

/// Reading or writing?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    Read,
    Write,
}

impl<'a> Reach<'a> {
    /// Opens the roots. One that is not there grants nothing.
    pub fn new(roots: &Roots, rules: &'a PathRules, tool: &'a str) -> Result<Self, ToolError> {
        let workspace = (roots.workspace.as_str(), true, true);
        let read = roots.read.iter().map(|path| (path.as_str(), false, false));
        let write = roots.write.iter().map(|path| (path.as_str(), true, false));
        let mut reach = Reach { roots: Vec::new(), rules, tool };
        for (path, writable, is_workspace) in std::iter::once(workspace).chain(write).chain(read) {
            match Root::open(Path::new(path), writable, is_workspace) {
                Ok(root) => reach.roots.push(root),
                Err(error) if is_workspace => {
                    return Err(ToolError::of_tool(
                        Reason::NotFound,
                        format!(
                            "the workspace `{path}` cannot be opened: {error}; make it, or set `workspace` in [tools]"
                        ),
                    ));
                }
                Err(_) => {}
            }
        }
        Ok(reach)
    }

    /// Finds the place of `path` and asks the rules.
    pub fn find(&self, path: &str, want: Want) -> Result<Found<'_>, ToolError> {
        let (absolute, missing) = self.canonical(Path::new(path), path, want)?;
        let found = self.admit(path, absolute, missing, want)?;
        self.ask(&found, path)?;
        Ok(found)
    }

    /// Asks the rules about a place.
    pub fn ask(&self, found: &Found<'_>, shown: &str) -> Result<(), ToolError> {
        match self.decide(found) {
            Ok(()) => Ok(()),
            Err(rule) => Err(ToolError::denied(self.tool, Some(shown), rule)),
        }
    }

    /// Whether the rules admit an entry of a directory that was found.
    pub fn admits_below(&self, found: &Found<'_>, below: &Path) -> bool {
        let entry = Found { root: found.root, absolute: found.absolute.join(below), missing: 0 };
        self.decide(&entry).is_ok()
    }

    fn decide(&self, found: &Found<'_>) -> Result<(), Option<String>> {
        let absolute = found.absolute.to_string_lossy();
        let workspace = self.roots.iter().find(|root| root.is_workspace).expect("Reach::new opened it");
        let in_workspace = found.absolute.strip_prefix(&workspace.canonical).ok().map(Path::to_string_lossy);
        let in_root = match found.root.is_file {
            true => found.absolute.file_name().map(std::ffi::OsStr::to_string_lossy).unwrap_or_default(),
            false => found.below_root().to_string_lossy(),
        };
        let place = Place { absolute: &absolute, in_workspace: in_workspace.as_deref(), in_root: &in_root };
        self.rules.decide(place).map(|_| ()).map_err(|rule| rule.map(str::to_owned))
    }

    /// The path as an agent may give it back: from the workspace, else from `/`.
    pub fn shown<'p>(&self, absolute: &'p Path) -> &'p Path {
        let workspace = self.roots.iter().find(|root| root.is_workspace).expect("Reach::new opened it");
        absolute.strip_prefix(&workspace.canonical).unwrap_or(absolute)
    }

    /// Walks `path` without leaving the neighbourhood of the roots.
    fn canonical(&self, path: &Path, shown: &str, want: Want) -> Result<(PathBuf, usize), ToolError> {
        let workspace = self.roots.iter().find(|root| root.is_workspace).expect("Reach::new opened it");
        let mut done = workspace.canonical.clone();
        let mut left = VecDeque::new();
        self.push(path, &mut done, &mut left);
        let mut links = 0;
        while let Some(step) = left.pop_front() {
            if step == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&step);
            if !self.is_near(&next) {
                return Err(self.outside(shown, &join(&next, &left), want));
            }
            match std::fs::read_link(&next) {
                Ok(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        let what = format!("`{shown}` leads through more than {LINKS_MAX} links");
                        return Err(ToolError::of_tool(Reason::NotFound, what));
                    }
                    self.push(&target, &mut done, &mut left);
                }
                Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
                    // No link.
                    Errno::EINVAL => done = next,
                    Errno::ENOENT => {
                        let missing = left.len() + 1;
                        if left.iter().any(|step| step == "..") {
                            return Err(ToolError::of_tool(Reason::NotFound, format!("`{shown}` does not exist")));
                        }
                        return Ok((join(&next, &left), missing));
                    }
                    Errno::ENOTDIR => {
                        let what = format!("`{shown}`: `{}` is no directory", self.shown(&done).display());
                        return Err(ToolError::of_tool(Reason::NotDirectory, what));
                    }
                    errno => return Err(self.kernel_says(errno, shown, want)),
                },
            }
        }
        Ok((done, 0))
    }

    /// Puts the steps of a path or link text in front of what is left; an absolute one starts over.
    fn push(&self, path: &Path, done: &mut PathBuf, left: &mut VecDeque<OsString>) {
        let mut path = path;
        if path.is_absolute() {
            *done = PathBuf::from("/");
            // A root may have been granted by a name that leads through links; those are the person's.
            let named = self.roots.iter().filter(|root| path.starts_with(&root.written));
            if let Some(root) = named.max_by_key(|root| root.written.as_os_str().len()) {
                done.clone_from(&root.canonical);
                path = path.strip_prefix(&root.written).expect("it starts with it");
            }
        }
        let mut steps: Vec<OsString> = Vec::new();
        for step in path.components() {
            match step {
                Component::Normal(name) => steps.push(name.to_owned()),
                Component::ParentDir => steps.push("..".into()),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
        for step in steps.into_iter().rev() {
            left.push_front(step);
        }
    }

    /// Beneath a root, or on the way to one.
    fn is_near(&self, path: &Path) -> bool {
        self.roots.iter().any(|root| path.starts_with(&root.canonical) || root.canonical.starts_with(path))
    }

    fn admit(&self, shown: &str, absolute: PathBuf, missing: usize, want: Want) -> Result<Found<'_>, ToolError> {
        let holding = self.roots.iter().filter(|root| absolute.starts_with(&root.canonical));
        let fitting = holding.filter(|root| root.writable || want == Want::Read);
        match fitting.max_by_key(|root| root.canonical.as_os_str().len()) {
            Some(root) => Ok(Found { root, absolute, missing }),
            None => Err(self.outside(shown, &absolute, want)),
        }
    }

    /// Names the path, the roots that are granted, and the line to add.
    fn outside(&self, shown: &str, absolute: &Path, want: Want) -> ToolError {
        let names = |wanted: fn(&Root) -> bool| -> String {
            let names: Vec<_> =
                self.roots.iter().filter(|root| wanted(root)).map(|root| root.written.display().to_string()).collect();
            if names.is_empty() { "nothing".into() } else { names.join(", ") }
        };
        let workspace = names(|root| root.is_workspace);
        let read = names(|root| !root.is_workspace && !root.writable);
        let write = names(|root| !root.is_workspace && root.writable);
        let leads = if Path::new(shown) == absolute {
            String::new()
        } else {
            format!(" leads to `{}`, which", absolute.display())
        };
        let (verb, key) = match want {
            Want::Read => ("read", "read"),
            Want::Write => ("write", "write"),
        };
        let directory = absolute.parent().unwrap_or(absolute).display();
        ToolError::of_tool(
            Reason::OutsideWorkspace,
            format!(
                "`{shown}`{leads} is outside what this agent may {verb}. Workspace: {workspace}; also to read: {read}; also to \
                 write: {write}. To grant it, add to its unit file, under [sandbox]: {key} = [\"{directory}\"]"
            ),
        )
    }

    /// An error of the kernel on a path that was found.
    pub fn kernel_says(&self, errno: Errno, shown: &str, want: Want) -> ToolError {
        let key = match want {
            Want::Read => "read",
            Want::Write => "write",
        };
        let (reason, what) = match errno {
            Errno::ENOENT => (Reason::NotFound, format!("`{shown}` does not exist")),
            Errno::ENOTDIR => (Reason::NotDirectory, format!("`{shown}` leads through something that is no directory")),
            Errno::EISDIR => (Reason::IsDirectory, format!("`{shown}` is a directory")),
            Errno::EACCES | Errno::EPERM | Errno::EROFS => (
                Reason::Denied,
                format!(
                    "the system refuses `{shown}` ({errno}): its mode, or the agent's sandbox; grant it with `{key} = [\"…\"]` \
                     under [sandbox]"
                ),
            ),
            Errno::ENOSPC | Errno::EDQUOT => (Reason::NoSpace, format!("no space left for `{shown}`")),
            Errno::EFBIG => {
                (Reason::TooLarge, format!("`{shown}` would be larger than `file_size` under [limits] allows"))
            }
            Errno::ENAMETOOLONG => (Reason::NotFound, format!("`{shown}` is longer than a name may be")),
            errno => (Reason::Io, format!("`{shown}`: {errno}")),
        };
        ToolError::of_tool(reason, what)
    }
}

fn join(first: &Path, rest: &VecDeque<OsString>) -> PathBuf {
    let mut path = first.to_owned();
    path.extend(rest);
    path
}

impl Root {
    fn open(written: &Path, writable: bool, is_workspace: bool) -> io::Result<Root> {
        let canonical = std::fs::canonicalize(written)?;
        let opened = sys::open_root(&canonical)?;
        let stat = nix::sys::stat::fstat(&opened)?;
        let is_file = stat.st_mode & libc::S_IFMT != libc::S_IFDIR;
        let base = match (is_file, canonical.parent()) {
            (true, Some(directory)) => sys::open_root(directory)?,
            _ => opened,
        };
        Ok(Root { written: written.to_owned(), canonical, base, is_file, writable, is_workspace, owner: stat.st_uid })
    }
}

impl Found<'_> {
    /// Where opening starts.
    pub fn base(&self) -> &OwnedFd {
        &self.root.base
    }

    /// From the base.
    pub fn below_base(&self) -> &Path {
        let base = match (self.root.is_file, self.root.canonical.parent()) {
            (true, Some(directory)) => directory,
            _ => &self.root.canonical,
        };
        self.absolute.strip_prefix(base).expect("admitted beneath it")
    }

    fn below_root(&self) -> &Path {
        self.absolute.strip_prefix(&self.root.canonical).expect("admitted beneath it")
    }

    /// From `/`, without links.
    pub fn absolute(&self) -> &Path {
        &self.absolute
    }

    /// It is the granted root itself.
    pub fn is_root(&self) -> bool {
        self.absolute == self.root.canonical
    }

    /// Files of others planted in a shared directory are not touched: the worker's own, root's, and the root's owner's are.
    pub fn may_belong_to(&self, uid: u32) -> bool {
        uid == self.root.owner || uid == 0 || uid == nix::unistd::geteuid().as_raw()
    }
}
