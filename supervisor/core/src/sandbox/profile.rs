//! profile: what a kind of program needs, as data.
//!
//! Job: the profiles compiled in from `profiles/*.toml`. May touch: `machine`. Keeps: a profile parses, because a test reads all.

use crate::machine::Promise;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// The profiles that a unit may name; `worker` is loomd's own.
pub const PROFILE_NAMES: [&str; 2] = ["python", "native"];

/// What a kind of program needs beside what its unit file grants.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Set from the file's name.
    #[serde(skip)]
    pub name: String,
    /// For people: "a Python program".
    pub description: String,
    /// Read and execute; a path that does not exist is left out.
    pub execute: Vec<String>,
    /// Read; a path that does not exist is left out.
    pub read: Vec<String>,
    /// Read and write these nodes.
    pub device: Vec<String>,
    /// Sockets to connect to by path, where the kernel governs that.
    pub connect: Vec<String>,
    /// Groups of system calls.
    pub syscalls: Vec<String>,
    /// Changes of mode, owner and times are answered and not done.
    pub fake_metadata: bool,
    /// Socket families beside those that hosts and ports need.
    pub sockets: Vec<String>,
    /// Memory for code is never writable.
    pub mdwe: bool,
    /// Promises that must hold fully.
    pub core: Vec<Promise>,
    /// Variables.
    pub environment: BTreeMap<String, String>,
}

impl Profile {
    /// Who says so, in rules.
    pub fn origin(&self) -> String {
        format!("profile {}", self.name)
    }
}

static PROFILES: LazyLock<Vec<Profile>> = LazyLock::new(|| {
    let parse = |name: &str, text: &str| {
        let profile: Profile = toml::from_str(text).expect("checked by every_profile_parses");
        Profile { name: name.to_owned(), ..profile }
    };
    vec![
        parse("python", include_str!("../../profiles/python.toml")),
        parse("native", include_str!("../../profiles/native.toml")),
        parse("worker", include_str!("../../profiles/worker.toml")),
    ]
});

/// The profile called `name`.
pub fn profile(name: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|p| p.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_parses() {
        for name in PROFILE_NAMES.iter().chain(&["worker"]) {
            let profile = profile(name).unwrap();
            for path in profile.execute.iter().chain(&profile.read).chain(&profile.device).chain(&profile.connect) {
                assert!(path.starts_with('/') && !path.ends_with('/'), "{name}: {path}");
            }
            for denied in ["/proc", "/sys", "/tmp", "/dev", "/dev/shm", "/home", "/root", "/etc", "/run", "/var"] {
                assert!(!profile.execute.iter().chain(&profile.read).any(|p| p == denied), "{name} grants {denied}");
            }
        }
        assert_eq!(profile("none"), None);
    }
}
