//! dirs: where one Loom's things lie.
//!
//! Job: from flags, environment, `loom.toml` and defaults, the directories that loomd and loomctl must agree on.
//! May touch: the environment and `loom.toml`, to read. Keeps: every path is absolute; flags beat environment, that beats
//! the file, that beats the defaults; what a socket address cannot hold is refused with the way out.

use loom_core::ids::UnitId;
use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// The longest path that fits into a socket address, in bytes (`sun_path` is 108 with its final NUL).
pub const SOCKET_PATH_MAX_BYTES: usize = 107;

/// Unit files that came with Loom or with a package; the lowest of the default unit path. A user's loomd does not read those of
/// the system, `/etc/loom/units`: a unit that two loomds read would run twice.
pub const SHIPPED_UNITS: &str = "/usr/share/loom/units";

/// What was given on the command line.
#[derive(Debug, Clone, Default)]
pub struct DirFlags {
    /// `--runtime-dir`
    pub runtime_dir: Option<PathBuf>,
    /// `--state-dir`
    pub state_dir: Option<PathBuf>,
    /// `--unit-path`, each time it was given.
    pub unit_path: Vec<PathBuf>,
    /// `--config`
    pub config: Option<PathBuf>,
}

/// The directories in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// Sockets, locks, temporary files; gone after a boot.
    pub runtime: PathBuf,
    /// The store, the units' own directories, logs without journald.
    pub state: PathBuf,
    /// Where unit files that people wrote are looked for, highest first. Read [`Dirs::search_path`].
    pub unit_path: Vec<PathBuf>,
    /// The `loom.toml` that was read.
    pub config: Option<PathBuf>,
}

/// Why the directories cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// `loom.toml` was named but cannot be read.
    #[error("cannot read `{file}`")]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// `loom.toml` is no TOML, or a directory in it is no text.
    #[error("`{file}` is not as a loom.toml must be: {why}")]
    Bad {
        /// The file.
        file: PathBuf,
        /// What the parser said.
        why: String,
    },
    /// A socket's path would not fit.
    #[error(
        "`{path}` has {bytes} bytes and a socket's path may have {SOCKET_PATH_MAX_BYTES}: choose a shorter --runtime-dir"
    )]
    SocketPathTooLong {
        /// The socket.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// A directory that must be ours alone is not.
    #[error(
        "`{path}` belongs to user {owner}, not to user {uid}: choose another --runtime-dir, or set XDG_RUNTIME_DIR"
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who asks.
        uid: u32,
    },
    /// Anybody could put a socket of theirs in the place of ours.
    #[error("`{path}` can be written by every user: run `chmod 700 {path}`, or choose another --runtime-dir")]
    Open {
        /// The directory.
        path: PathBuf,
    },
    /// A directory cannot be made.
    #[error("cannot make the directory `{path}`")]
    Make {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// What the process that asks is like; apart, so that tests can be anybody.
struct Asker<'a> {
    uid: u32,
    cwd: PathBuf,
    var: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Dirs {
    /// Resolves for this process. Makes nothing.
    pub fn resolve(flags: DirFlags) -> Result<Self, DirError> {
        let cwd = env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let var = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        Self::resolve_for(flags, &Asker { uid: nix::unistd::geteuid().as_raw(), cwd, var: &var })
    }

    fn resolve_for(flags: DirFlags, asker: &Asker) -> Result<Self, DirError> {
        let var = |name| (asker.var)(name).map(PathBuf::from);
        let named = flags.config.or_else(|| var("LOOM_CONFIG"));
        let config = match named {
            Some(path) => Some(asker.cwd.join(path)),
            None => Some(asker.cwd.join("loom.toml")).filter(|path| path.is_file()),
        };
        let file = config.as_deref().map(FromFile::read).transpose()?.unwrap_or_default();
        let absolute = |path: PathBuf| asker.cwd.join(path);

        let runtime = flags.runtime_dir.or_else(|| var("LOOM_RUNTIME_DIR")).map(absolute).or(file.runtime_dir);
        let runtime = runtime.unwrap_or_else(|| asker.default_runtime());
        let state = flags.state_dir.or_else(|| var("LOOM_STATE_DIR")).map(absolute).or(file.state_dir);
        let state = state.unwrap_or_else(|| asker.default_state());
        let unit_path = if !flags.unit_path.is_empty() {
            flags.unit_path.into_iter().map(absolute).collect()
        } else if let Some(list) = (asker.var)("LOOM_UNIT_PATH") {
            env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).map(absolute).collect()
        } else {
            file.unit_path.unwrap_or_else(|| vec![asker.default_units(), PathBuf::from(SHIPPED_UNITS)])
        };
        let dirs = Self { runtime, state, unit_path, config };
        check_socket_path(&dirs.control_socket())?;
        // A directory that somebody else made under our name could hold a socket of theirs.
        if let Ok(meta) = fs::metadata(&dirs.runtime)
            && meta.uid() != asker.uid
            && asker.uid != 0
        {
            return Err(DirError::NotOurs { path: dirs.runtime, owner: meta.uid(), uid: asker.uid });
        }
        Ok(dirs)
    }

    /// Makes the runtime and the state directory, mode 0700, where they are missing, and refuses a runtime directory that
    /// others can change; root may talk to anybody's loomd, but runs its own in its own. For loomd.
    pub fn make(&self) -> Result<(), DirError> {
        for path in [&self.runtime, &self.state] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|source| DirError::Make { path: path.clone(), source })?;
        }
        let uid = nix::unistd::geteuid().as_raw();
        let path = self.runtime.clone();
        match fs::metadata(&path) {
            Ok(meta) if meta.uid() != uid => Err(DirError::NotOurs { path, owner: meta.uid(), uid }),
            Ok(meta) if meta.mode() & 0o002 != 0 => Err(DirError::Open { path }),
            Ok(_) => Ok(()),
            Err(source) => Err(DirError::Make { path, source }),
        }
    }

    /// Where loomd answers.
    pub fn control_socket(&self) -> PathBuf {
        self.runtime.join("control.sock")
    }

    /// Held by the one loomd of this runtime directory; contains its pid.
    pub fn lock(&self) -> PathBuf {
        self.runtime.join("loomd.lock")
    }

    /// Where the files of transient units lie; gone after a boot.
    pub fn transient(&self) -> PathBuf {
        self.runtime.join(loom_core::unit::TRANSIENT)
    }

    /// Every directory that unit files are read from, highest first: that of transient units, then the unit path.
    pub fn search_path(&self) -> Vec<PathBuf> {
        std::iter::once(self.transient()).chain(self.unit_path.iter().cloned()).collect()
    }

    /// A unit's runtime directory: its sockets, lock, `tmp/` and `credentials/`.
    pub fn unit_runtime(&self, unit: &UnitId) -> PathBuf {
        self.runtime.join("units").join(unit.to_string())
    }

    /// A unit's state directory, `%S`.
    pub fn unit_state(&self, unit: &UnitId) -> PathBuf {
        self.state.join("units").join(unit.to_string())
    }

    /// A unit's cache directory, `%C`.
    pub fn unit_cache(&self, unit: &UnitId) -> PathBuf {
        self.state.join("cache").join(unit.to_string())
    }

    /// The database.
    pub fn store(&self) -> PathBuf {
        self.state.join("store")
    }

    /// The file store of logs.
    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }
}

/// Refuses a path that no socket address can hold.
pub fn check_socket_path(path: &Path) -> Result<(), DirError> {
    let bytes = path.as_os_str().len();
    if bytes > SOCKET_PATH_MAX_BYTES {
        return Err(DirError::SocketPathTooLong { path: path.to_owned(), bytes });
    }
    Ok(())
}

impl Asker<'_> {
    fn home(&self) -> PathBuf {
        (self.var)("HOME").map(PathBuf::from).unwrap_or_else(|| PathBuf::from("/"))
    }

    /// An XDG directory counts only if absolute, as its specification says.
    fn xdg(&self, name: &str) -> Option<PathBuf> {
        (self.var)(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    fn default_runtime(&self) -> PathBuf {
        match (self.uid, self.xdg("XDG_RUNTIME_DIR")) {
            (0, _) => PathBuf::from("/run/loom"),
            (_, Some(dir)) => dir.join("loom"),
            (uid, None) => PathBuf::from(format!("/tmp/loom-{uid}")),
        }
    }

    fn default_state(&self) -> PathBuf {
        match self.uid {
            0 => PathBuf::from("/var/lib/loom"),
            _ => self.xdg("XDG_STATE_HOME").unwrap_or_else(|| self.home().join(".local/state")).join("loom"),
        }
    }

    fn default_units(&self) -> PathBuf {
        match self.uid {
            0 => PathBuf::from("/etc/loom/units"),
            _ => self.xdg("XDG_CONFIG_HOME").unwrap_or_else(|| self.home().join(".config")).join("loom/units"),
        }
    }
}

/// The directories of a `loom.toml`; its other keys are loomd's to check.
#[derive(Default, serde::Deserialize)]
struct FromFile {
    runtime_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    unit_path: Option<Vec<PathBuf>>,
}

impl FromFile {
    fn read(file: &Path) -> Result<Self, DirError> {
        let text = fs::read_to_string(file).map_err(|source| DirError::Read { file: file.to_owned(), source })?;
        let mut read: Self = toml::from_str(&text)
            .map_err(|error| DirError::Bad { file: file.to_owned(), why: error.to_string().trim_end().to_owned() })?;
        let base = file.parent().unwrap_or(Path::new("/"));
        read.runtime_dir = read.runtime_dir.map(|path| base.join(path));
        read.state_dir = read.state_dir.map(|path| base.join(path));
        read.unit_path = read.unit_path.map(|paths| paths.into_iter().map(|path| base.join(path)).collect());
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn resolve(uid: u32, cwd: &Path, vars: &[(&str, &str)], flags: DirFlags) -> Result<Dirs, DirError> {
        let vars: BTreeMap<&str, &str> = vars.iter().copied().collect();
        let var = |name: &str| vars.get(name).map(OsString::from);
        Dirs::resolve_for(flags, &Asker { uid, cwd: cwd.to_owned(), var: &var })
    }

    #[test]
    fn root_and_users_have_the_places_of_their_system() {
        let away = Path::new("/nonexistent");
        let root = resolve(0, away, &[("XDG_RUNTIME_DIR", "/run/user/0")], DirFlags::default()).unwrap();
        assert_eq!(root.control_socket(), Path::new("/run/loom/control.sock"));
        let search = [Path::new("/run/loom/transient"), Path::new("/etc/loom/units"), Path::new(SHIPPED_UNITS)];
        assert_eq!(root.search_path(), search);
        assert_eq!((root.state, root.unit_path.len()), ("/var/lib/loom".into(), 2));
        let vars = [("XDG_RUNTIME_DIR", "/run/user/7"), ("HOME", "/home/u"), ("XDG_STATE_HOME", "relative")];
        let user = resolve(7, away, &vars, DirFlags::default()).unwrap();
        assert_eq!(user.runtime, Path::new("/run/user/7/loom"));
        assert_eq!(user.state, Path::new("/home/u/.local/state/loom"));
        assert_eq!(user.unit_path, [Path::new("/home/u/.config/loom/units"), Path::new(SHIPPED_UNITS)]);
        let bare = resolve(4_000_000_001, away, &[], DirFlags::default()).unwrap();
        assert_eq!(bare.runtime, Path::new("/tmp/loom-4000000001"));
    }

    #[test]
    fn flags_beat_environment_beats_file_beats_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let text = "runtime_dir = \"run\"\nstate_dir = \"/s\"\nunit_path = [\"units\", \"/more\"]\nelse = 1\n";
        fs::write(dir.path().join("loom.toml"), text).unwrap();
        let vars = [("LOOM_STATE_DIR", "from-env"), ("LOOM_UNIT_PATH", "/a::b")];
        let plain = resolve(0, dir.path(), &[], DirFlags::default()).unwrap();
        assert_eq!(plain.config, Some(dir.path().join("loom.toml")));
        assert_eq!((plain.runtime, plain.state), (dir.path().join("run"), "/s".into()));
        assert_eq!(plain.unit_path, [dir.path().join("units"), "/more".into()]);
        let env = resolve(0, dir.path(), &vars, DirFlags::default()).unwrap();
        assert_eq!(env.state, dir.path().join("from-env"));
        assert_eq!(env.unit_path, [PathBuf::from("/a"), dir.path().join("b")]);
        let flags = DirFlags { state_dir: Some("f".into()), unit_path: vec!["/u".into()], ..DirFlags::default() };
        let flagged = resolve(0, dir.path(), &vars, flags).unwrap();
        assert_eq!((flagged.state, flagged.unit_path), (dir.path().join("f"), vec!["/u".into()]));
    }

    #[test]
    fn a_config_that_was_named_must_be_readable() {
        let flags = DirFlags { config: Some("/nonexistent/loom.toml".into()), ..DirFlags::default() };
        assert!(matches!(resolve(0, Path::new("/"), &[], flags), Err(DirError::Read { .. })));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("loom.toml"), "runtime_dir = 3\n").unwrap();
        let error = resolve(0, dir.path(), &[], DirFlags::default()).unwrap_err();
        assert!(error.to_string().contains("runtime_dir"), "{error}");
    }

    #[test]
    fn a_runtime_directory_too_long_for_a_socket_is_refused_with_the_way_out() {
        let flags = DirFlags { runtime_dir: Some(format!("/{}", "d".repeat(100)).into()), ..DirFlags::default() };
        let error = resolve(0, Path::new("/"), &[], flags).unwrap_err().to_string();
        assert!(error.contains("--runtime-dir") && error.contains("107"), "{error}");
    }

    #[test]
    fn a_runtime_directory_that_every_user_can_write_is_refused_with_the_way_out() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let flags = DirFlags {
            runtime_dir: Some(dir.path().join("run")),
            state_dir: Some(dir.path().join("state")),
            ..DirFlags::default()
        };
        let dirs = resolve(nix::unistd::geteuid().as_raw(), dir.path(), &[], flags).unwrap();
        dirs.make().unwrap();
        fs::set_permissions(&dirs.runtime, fs::Permissions::from_mode(0o777)).unwrap();
        let error = dirs.make().unwrap_err().to_string();
        assert!(error.contains("chmod 700"), "{error}");
    }

    #[test]
    fn a_runtime_directory_of_another_user_is_refused() {
        let flags = DirFlags { runtime_dir: Some("/".into()), ..DirFlags::default() };
        assert!(matches!(resolve(4_000_000_001, Path::new("/"), &[], flags), Err(DirError::NotOurs { owner: 0, .. })));
    }
}
