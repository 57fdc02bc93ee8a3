//! A full disk under the store: what runs stays up, what is to start is refused, and all is well once there is room.

use loom_tests::{LIMIT, Loom, lives, until};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system over a directory, gone with the test.
struct Small(PathBuf);

impl Small {
    fn over(directory: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(directory).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=0700"), "loom-test"])
            .arg(directory)
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(directory.to_owned()))
    }

    /// Takes all that is free.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = std::fs::File::options().create(true).append(true).open(&path).unwrap();
        for size in [1 << 20, 4096, 1] {
            let block = vec![0u8; size];
            while file.write_all(&block).is_ok() {}
        }
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_keeps_what_runs_and_refuses_what_is_to_start() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root, for a small file system");
        return;
    }
    let mut loom = Loom::new();
    let Some(disk) = Small::over(&loom.path().join("state"), "48M") else {
        println!("skipped: needs to mount a tmpfs");
        return;
    };
    loom.start_daemon();
    for name in ["up", "other"] {
        loom.write_unit(
            &format!("{name}.service.toml"),
            "[exec]\ncommand = [\"sleep\", \"1000\"]\n[restart]\npolicy = \"always\"\ndelay = \"50ms\"\nmax_delay = \"200ms\"\n",
        );
    }
    loom.ctl(["daemon-reload"]).success();
    loom.ctl(["start", "up"]).success();
    let pid = loom.main_pid("up");
    let filler = disk.fill();
    let state = || loom.ctl(["status", "--json"]).success().json()["supervisor"]["state"].clone();
    let said = until("a start is refused, and status says why that may be", LIMIT, || {
        // The database finds room by tidying its own files: that is taken, too.
        disk.fill();
        let said = loom.ctl(["restart", "other"]);
        // Where it found room meanwhile, all is well again.
        if said.status == 1 && state() == "degraded" { Ok(said.stderr) } else { Err(format!("{said:?}")) }
    });
    assert!(said.contains("store") || said.contains("No space"), "{said}");
    assert!(lives(pid), "what ran before runs on");
    std::fs::remove_file(filler).unwrap();
    until("a start goes through again", LIMIT, || {
        let said = loom.ctl(["start", "other"]);
        if said.status == 0 { Ok(()) } else { Err(format!("{said:?}")) }
    });
    assert_eq!(loom.main_pid("up"), pid);
    assert_eq!(state(), "running");
    // It was worth something: the next loomd knows both.
    loom.kill_daemon();
    loom.start_daemon();
    assert_eq!(loom.main_pid("up"), pid);
    loom.until_active("other");
    let (status, _) = loom.stop_daemon();
    assert_eq!(status, 0);
}
