//! journald: a real systemd-journald for one test.
//!
//! Job: start one in a namespace of its own, put its sockets where a program looks for them, read it back.
//! May touch: systemd-journald and journalctl as programs, mount namespaces of children. Keeps: the machine's own journal is
//! not touched, and nothing of the test's is left.

use super::{LIMIT, Loom, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const PROGRAM: &str = "/usr/lib/systemd/systemd-journald";

/// One that listens at `/run/systemd/journal.<name>`.
pub struct Journald {
    child: Child,
    name: String,
    /// It leaves by itself when no stream is open for 30 s.
    _keeps_it_up: UnixStream,
}

impl Journald {
    /// Starts one; says why not where it cannot run.
    pub fn start() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        if !nix::unistd::geteuid().is_root() || !Path::new(PROGRAM).exists() || !may_mount() {
            println!("skipped: needs root and systemd-journald");
            return None;
        }
        let name = format!("loom-e2e-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let (child, stream) = spawn(&name);
        Some(Self { child, name, _keeps_it_up: stream })
    }

    /// SIGSTOP: it reads nothing any more.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Ends it and starts it again: without a service manager its streams break.
    pub fn restart(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        (self.child, self._keeps_it_up) = spawn(&self.name);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("our child");
    }

    /// Where its sockets lie.
    pub fn directory(&self) -> PathBuf {
        directory_of(&self.name)
    }

    /// What makes journalctl read this one.
    pub fn journalctl_args(&self) -> Vec<String> {
        vec![format!("--namespace={}", self.name)]
    }

    /// Entries that match, as journalctl finds them.
    pub fn entries(&self, matches: &[&str]) -> Vec<Value> {
        let mut command = Command::new("journalctl");
        command.args(self.journalctl_args()).args(["-o", "json", "--all", "--no-pager", "--quiet"]).args(matches);
        let output = command.output().expect("journalctl comes with journald");
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().map(|line| serde_json::from_str(line).expect("journalctl writes JSON")).collect()
    }

    /// Waits until some entry has this text somewhere in its message.
    #[track_caller]
    pub fn until_said(&self, loom: &Loom, matches: &[&str], text: &str) -> Value {
        until(&format!("{matches:?} say {text:?}"), LIMIT, || {
            let entries = self.entries(matches);
            let said = |entry: &&Value| entry["MESSAGE"].as_str().is_some_and(|message| message.contains(text));
            match entries.iter().find(said) {
                Some(entry) => Ok(entry.clone()),
                None => Err(format!("{entries:#?}\n{}", loom.daemon_words())),
            }
        })
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(self.directory());
        let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        for base in ["/run/log/journal", "/var/log/journal"] {
            let _ = std::fs::remove_dir_all(format!("{base}/{}.{}", machine.trim(), self.name));
            // Only if it was made for us and is empty.
            let _ = std::fs::remove_dir(base);
        }
    }
}

fn spawn(name: &str) -> (Child, UnixStream) {
    let mut command = Command::new(PROGRAM);
    let mut child = command.arg(name).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it is there");
    let socket = directory_of(name).join("stdout");
    let stream = until("journald listens", LIMIT, || {
        let ended = child.try_wait().expect("our child");
        assert!(ended.is_none(), "journald ended: {ended:?}");
        UnixStream::connect(&socket).map_err(|error| error.to_string())
    });
    (child, stream)
}

fn directory_of(name: &str) -> PathBuf {
    PathBuf::from(format!("/run/systemd/journal.{name}"))
}

/// Whether children of ours can have mounts of their own.
fn may_mount() -> bool {
    let tried = Command::new("unshare").args(["--mount", "mount", "-t", "tmpfs", "none", "/run/systemd"]).output();
    tried.is_ok_and(|output| output.status.success())
}

/// The program, in a mount namespace where `/run/systemd/journal` is that directory. Everything is exec: its pid is the child's.
pub(super) fn with_sockets_in_place(directory: &Path, program: &Path) -> Command {
    const SCRIPT: &str = "exec 9<\"$1\" && mount -t tmpfs none /run/systemd && mkdir /run/systemd/journal \
        && mount --bind /proc/self/fd/9 /run/systemd/journal && exec 9<&- && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", SCRIPT, "sh"]).arg(directory).arg(program);
    command
}
