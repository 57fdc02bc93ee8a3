//! loom-tests: starts the real binaries and talks to them as a person would.
//!
//! Job: a supervisor of its own per test, in its own directory, ended on drop with nothing left behind.
//! May touch: loomd and loomctl as programs. May not: any of their internals.
//! Keeps: no sleeps: every wait is for a condition on state, with a limit, and shows the last state when it fails.

mod journald;

pub use journald::Journald;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The longest any condition may take to come true.
pub const LIMIT: Duration = Duration::from_secs(30);
/// How long a stopping supervisor may take in a test.
pub const STOP_LIMIT: Duration = Duration::from_secs(40);
/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a program said and how it ended.
#[derive(Debug, Clone)]
pub struct Said {
    /// Exit status; -1 for an end by signal.
    pub status: i32,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

impl Said {
    /// Panics with everything said unless the status is 0.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.status, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|why| panic!("no JSON ({why}):\n{}\n{}", self.stdout, self.stderr))
    }
}

/// A supervisor of one test.
pub struct Loom {
    directory: tempfile::TempDir,
    daemon: Option<Child>,
    environment: Vec<(String, String)>,
    /// Where loomd sees a journald's sockets at their usual place.
    journal: Option<PathBuf>,
    /// An ordinary user that runs everything, and where it finds the programs.
    user: Option<(u32, PathBuf)>,
    /// Where loomd is taken from, if not from where it was built.
    programs: Option<PathBuf>,
    /// Where loomd tells how it is.
    upward: Option<UnixDatagram>,
}

/// `nobody`: whom tests run things as that need no rights, where they have rights to give up.
const NOBODY: u32 = 65534;

/// A built program of this workspace.
pub fn program(name: &str) -> PathBuf {
    let here = std::env::current_exe().expect("a test knows its own path");
    let path = here.ancestors().nth(2).expect("target/debug/deps/test").join(name);
    assert!(path.exists(), "{} is not built: run `make build` first", path.display());
    path
}

/// The top of the checkout.
pub fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the checkout").to_owned()
}

/// The interpreter that has loom-py, as `make test` prepares it.
pub fn python() -> PathBuf {
    let path = std::env::var_os("LOOM_TEST_PYTHON")
        .map_or_else(|| checkout().join("examples/chat-agent/.venv/bin/python"), PathBuf::from);
    assert!(path.exists(), "{} is missing: run `scripts/prepare agents` first", path.display());
    path
}

/// An agent that misbehaves, or behaves, on purpose: `tests/agents/<name>`.
pub fn agent_file(name: &str) -> PathBuf {
    let path = checkout().join("tests/agents").join(name);
    assert!(path.exists(), "{} is missing", path.display());
    path
}

/// Waits until `look` gives a value, at most `limit`.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + limit;
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if Instant::now() >= end => panic!("not within {limit:?}: {what}\nlast seen: {seen}"),
            Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

impl Loom {
    /// Directories, no supervisor yet.
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("loom-").tempdir_in("/tmp").expect("/tmp is writable");
        std::fs::create_dir(directory.path().join("units")).expect("just made");
        // No journal unless a test starts one: this machine's own is none of our business.
        let environment = vec![("LOOM_JOURNAL_DIR".into(), directory.path().join("no-journal").display().to_string())];
        Self { directory, daemon: None, environment, journal: None, user: None, programs: None, upward: None }
    }

    /// From the next start on, loomd's own mount namespace has that journald at `/run/systemd/journal`.
    pub fn use_journald(&mut self, journald: &Journald) {
        self.journal = Some(journald.directory());
        self.environment.retain(|(name, _)| name != "LOOM_JOURNAL_DIR");
        self.env("LOOM_JOURNALCTL_ARGS", &journald.journalctl_args().join(" "));
    }

    /// Runs everything as an ordinary user: where the test is root, as `nobody`, else as whoever runs it.
    pub fn as_ordinary_user(&mut self) {
        self.env("HOME", &self.path().join("home").display().to_string());
        std::fs::create_dir(self.path().join("home")).expect("own directory");
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let mut programs = program("loomd").parent().expect("a file").to_owned();
        if !others_can_reach(&programs.join("loomd")) {
            let copies = self.path().join("bin");
            std::fs::create_dir(&copies).expect("own directory");
            for name in ["loomd", "loomctl", "loom-launch", "loom-worker"] {
                std::fs::copy(program(name), copies.join(name)).expect("the programs are built, /tmp has room");
            }
            programs = copies;
        }
        for path in [self.path().to_owned(), self.path().join("units"), self.path().join("home")] {
            std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).expect("root may");
        }
        self.user = Some((NOBODY, programs));
    }

    /// Takes loomd and what it starts from a directory of the test's own; what is not there, from where it was built.
    pub fn use_programs(&mut self, directory: &Path) {
        self.programs = Some(directory.to_owned());
    }

    /// Asks the control API without loomctl; gives the answer's body.
    #[track_caller]
    pub fn control(&self, method: &str, path: &str) -> Value {
        let mut stream =
            std::os::unix::net::UnixStream::connect(self.path().join("run/control.sock")).expect("loomd listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a valid time");
        let ask = format!("{method} {path} HTTP/1.1\r\nhost: loom\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(ask.as_bytes()).expect("loomd reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("loomd answers");
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        serde_json::from_str(body).unwrap_or_else(|why| panic!("{method} {path}: {why}: {answer}"))
    }

    /// Directories and a ready supervisor.
    pub fn start() -> Self {
        let mut loom = Self::new();
        loom.start_daemon();
        loom
    }

    /// Sets a variable for the supervisor and loomctl, from the next start on.
    pub fn env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(old, _)| old != name);
        self.environment.push((name.into(), value.into()));
    }

    /// The test's own directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// `%S` of a unit.
    pub fn state_dir(&self, unit: &str) -> PathBuf {
        self.path().join("state/units").join(unit)
    }

    fn command(&self, name: &str) -> Command {
        let path = match &self.user {
            Some((_, programs)) => programs.join(name),
            None => match self.programs.as_ref().map(|programs| programs.join(name)).filter(|path| path.exists()) {
                Some(path) => path,
                None => program(name),
            },
        };
        let mut command = match &self.journal {
            Some(directory) if name == "loomd" => journald::with_sockets_in_place(directory, &path),
            Some(_) | None => Command::new(path),
        };
        if let Some((id, _)) = self.user {
            // Root's other groups go as well: that is what setting the user of a command does.
            command.uid(id).gid(id);
        }
        command
            .current_dir(self.path())
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", std::env::var_os("HOME").unwrap_or_else(|| "/root".into()))
            .env("LOOM_RUNTIME_DIR", self.path().join("run"))
            .env("LOOM_STATE_DIR", self.path().join("state"))
            .env("LOOM_UNIT_PATH", self.path().join("units"))
            .stdin(Stdio::null());
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command
    }

    /// Starts loomd and waits for its READY=1.
    #[track_caller]
    pub fn start_daemon(&mut self) {
        assert!(self.daemon.is_none(), "one supervisor at a time");
        let notify = self.path().join("upward.sock");
        let _ = std::fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).expect("a short path");
        std::fs::set_permissions(&notify, std::fs::Permissions::from_mode(0o777)).expect("own file");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a valid time");
        let log = std::fs::File::options().create(true).append(true).open(self.path().join("loomd.stderr"));
        let child = self
            .command("loomd")
            .env("NOTIFY_SOCKET", &notify)
            .stdout(Stdio::null())
            .stderr(log.expect("own directory"))
            .spawn()
            .expect("loomd is built");
        self.daemon = Some(child);
        let socket = self.upward.insert(socket);
        let end = Instant::now() + LIMIT;
        let mut buffer = [0u8; 4096];
        loop {
            if let Ok(length) = socket.recv(&mut buffer)
                && String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == "READY=1")
            {
                return;
            }
            let ended = self.daemon.as_mut().expect("just set").try_wait().expect("our child");
            if ended.is_some() || Instant::now() > end {
                self.daemon = None;
                panic!("loomd did not get ready ({ended:?}):\n{}", self.daemon_words());
            }
        }
    }

    /// The next that loomd told its service manager since it was ready; `None` where nothing comes for a while.
    pub fn said_upward(&self) -> Option<String> {
        let mut buffer = [0u8; 4096];
        let length = self.upward.as_ref()?.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// What loomd wrote to stderr and its own log.
    pub fn daemon_words(&self) -> String {
        let last = |file: &str, bytes: usize| {
            let words = std::fs::read_to_string(self.path().join(file)).unwrap_or_default();
            let from = words.len().saturating_sub(bytes);
            let from = (from..words.len()).find(|at| words.is_char_boundary(*at)).unwrap_or(0);
            words[from..].to_owned()
        };
        format!("{}\n{}", last("loomd.stderr", 2000), last("state/logs/loomd.jsonl", 4000))
    }

    /// loomd's process id.
    pub fn daemon_pid(&self) -> i32 {
        self.daemon.as_ref().expect("running").id() as i32
    }

    /// `kill -9` of loomd; returns once it is gone.
    pub fn kill_daemon(&mut self) {
        let mut child = self.daemon.take().expect("running");
        child.kill().expect("our child");
        child.wait().expect("our child");
    }

    /// Whether loomd ended by itself.
    pub fn daemon_is_dead(&mut self) -> bool {
        self.daemon.as_mut().expect("running").try_wait().expect("our child").is_some()
    }

    /// After [`Loom::daemon_is_dead`]: another may be started.
    pub fn bury_daemon(&mut self) {
        self.daemon = None;
    }

    /// SIGTERM; returns its exit status and how long it took.
    #[track_caller]
    pub fn stop_daemon(&mut self) -> (i32, Duration) {
        let mut child = self.daemon.take().expect("running");
        let from = Instant::now();
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("our child");
        loop {
            if let Some(status) = child.try_wait().expect("our child") {
                return (status.code().unwrap_or(-1), from.elapsed());
            }
            if from.elapsed() > STOP_LIMIT {
                let _ = child.kill();
                let _ = child.wait();
                panic!("loomd did not stop within {STOP_LIMIT:?}:\n{}", self.daemon_words());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Runs any built program with this supervisor's directories.
    pub fn run<S: AsRef<OsStr>>(&self, name: &str, words: impl IntoIterator<Item = S>) -> Said {
        let out = self.command(name).args(words).output().expect("the program is built");
        Said {
            status: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }

    /// Runs loomctl.
    pub fn ctl<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Said {
        self.run("loomctl", words)
    }

    /// A started loomctl whose output can be read while it runs.
    pub fn ctl_child<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Child {
        let mut command = self.command("loomctl");
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the program is built")
    }

    /// Writes `units/<file>`; says nothing to the supervisor.
    pub fn write_unit(&self, file: &str, text: &str) {
        let path = self.path().join("units").join(file);
        std::fs::create_dir_all(path.parent().expect("in units/")).expect("own directory");
        std::fs::write(path, text).expect("own directory");
    }

    /// Writes a unit file and reloads.
    #[track_caller]
    pub fn unit(&self, file: &str, text: &str) {
        self.write_unit(file, text);
        self.ctl(["daemon-reload"]).success();
    }

    /// A Python agent from `tests/agents/`, with the SDK. `more` is appended to the unit file.
    #[track_caller]
    pub fn python_agent(&self, name: &str, script: &str, more: &str) {
        self.unit(&format!("{name}.agent.toml"), &self.python_agent_text(script, more));
    }

    /// The text of such a unit file.
    pub fn python_agent_text(&self, script: &str, more: &str) -> String {
        let command = serde_json::json!([python().display().to_string(), agent_file(script).display().to_string()]);
        format!("[exec]\ncommand = {command}\n[ready]\ntype = \"notify\"\n{more}\n")
    }

    /// One unit as loomctl shows it; `None` if there is no such unit.
    pub fn view(&self, unit: &str) -> Option<Value> {
        let said = self.ctl(["status", unit, "--json"]);
        serde_json::from_str::<Value>(&said.stdout).ok().filter(|view| view.get("active_state").is_some())
    }

    /// Waits for a condition on a unit.
    #[track_caller]
    pub fn until(&self, what: &str, unit: &str, test: impl Fn(&Value) -> bool) -> Value {
        until(what, LIMIT, || match self.view(unit) {
            Some(view) if test(&view) => Ok(view),
            Some(view) => Err(format!("{view}\n{}", self.daemon_words())),
            None => Err(format!("no view of {unit}\n{}", self.daemon_words())),
        })
    }

    /// Waits until a unit is active; gives its view.
    #[track_caller]
    pub fn until_active(&self, unit: &str) -> Value {
        self.until("the unit is active", unit, |view| view["active_state"] == "active")
    }

    /// Main pid of a unit, now.
    #[track_caller]
    pub fn main_pid(&self, unit: &str) -> i32 {
        let view = self.view(unit).unwrap_or_else(|| panic!("no unit {unit}"));
        view["main_pid"].as_i64().unwrap_or_else(|| panic!("{unit} has no process: {view}")) as i32
    }

    /// `kill -9` of a unit's main process; gives the pid.
    #[track_caller]
    pub fn kill_main(&self, unit: &str) -> i32 {
        let pid = self.main_pid(unit);
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
        pid
    }

    /// Every living process that was started by this supervisor or its predecessors: its environment names our directory.
    pub fn processes(&self) -> Vec<(i32, String)> {
        processes_of(self.path())
    }
}

/// Whether somebody who is neither root nor of our groups can read and execute a file.
pub fn others_can_reach(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    let allows = |path: &Path, bits| std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & bits == bits);
    allows(&path, 0o005) && path.ancestors().skip(1).all(|above| allows(above, 0o001))
}

/// Numbers and targets of a process's open descriptors.
pub fn descriptors(pid: i32) -> std::collections::BTreeMap<i32, String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let one = |entry: std::fs::DirEntry| {
        let target = std::fs::read_link(entry.path()).ok()?.display().to_string();
        Some((entry.file_name().to_str()?.parse().ok()?, target))
    };
    entries.filter_map(one).collect()
}

impl Default for Loom {
    fn default() -> Self {
        Self::new()
    }
}

/// Living processes (no zombies) whose environment names `directory`, but for the caller.
pub fn processes_of(directory: &Path) -> Vec<(i32, String)> {
    let needle = directory.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if pid == std::process::id() as i32 {
            continue;
        }
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else { continue };
        if environment.windows(needle.len()).any(|window| window == needle.as_bytes()) {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push((pid, String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    found
}

/// Whether a process with this pid lives (a zombie does not).
pub fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z')))
}

impl Drop for Loom {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
            let end = Instant::now() + STOP_LIMIT;
            while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(LOOK_EVERY);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let left = self.processes();
        for (pid, _) in &left {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if !left.is_empty() && !std::thread::panicking() {
            panic!("processes left behind: {left:?}\n{}", self.daemon_words());
        }
    }
}
