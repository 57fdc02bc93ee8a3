//! House rules: who may use whom, where the dangerous words may stand, and that what the docs promise is tested.

use loom_tests::checkout;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Every file below `directory` whose name ends in one of `endings`, as path from the checkout.
fn files(directory: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![checkout().join(directory)];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && !["target", "var", "node_modules", "__pycache__"].contains(&name.as_str())
                {
                    open.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path.strip_prefix(checkout()).expect("below it").to_owned());
            }
        }
    }
    found.sort();
    found
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(checkout().join(path)).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// Code without comment lines and without what follows `#[cfg(test)]`.
fn code(path: &Path) -> String {
    let whole = text(path);
    let shipped = whole.split("#[cfg(test)]").next().unwrap_or_default();
    shipped.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Panics with each place below `directory` where a word stands outside its room.
fn only_in(words: &[&str], directory: &str, allowed: impl Fn(&str) -> bool) {
    let mut wrong = Vec::new();
    for path in files(directory, &[".rs"]) {
        let name = path.display().to_string();
        if !name.contains("/tests/") && !allowed(&name) {
            let code = code(&path);
            wrong.extend(words.iter().filter(|word| code.contains(**word)).map(|word| format!("{name}: {word}")));
        }
    }
    assert!(wrong.is_empty(), "outside their room:\n{}", wrong.join("\n"));
}

#[test]
fn crates_use_only_whom_the_house_allows() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("supervisor/core", &[][..]),
        ("supervisor/api", &["loom-core"]),
        ("supervisor/launch", &["loom-core"]),
        ("supervisor/worker", &["loom-core"]),
        ("supervisor/daemon", &["loom-api", "loom-core"]),
        ("supervisor/ctl", &["loom-api", "loom-core"]),
        ("tests", &[]),
    ]);
    let workspace: toml::Table = toml::from_str(&text(Path::new("Cargo.toml"))).unwrap();
    let members: BTreeSet<&str> =
        workspace["workspace"]["members"].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
    assert_eq!(members, allowed.keys().copied().collect(), "a new crate needs its line here");
    for (member, may_use) in allowed {
        let manifest: toml::Table = toml::from_str(&text(&Path::new(member).join("Cargo.toml"))).unwrap();
        let uses = manifest.get("dependencies").and_then(|d| d.as_table()).into_iter().flat_map(|d| d.keys());
        for used in uses.filter(|name| name.starts_with("loom")) {
            assert!(may_use.contains(&used.as_str()), "{member} must not use {used}");
        }
    }
}

#[test]
fn rocksdb_is_named_only_in_the_store() {
    only_in(&["rocksdb"], "supervisor", |path| path.starts_with("supervisor/daemon/src/store/"));
}

#[test]
fn zeromq_is_named_only_in_the_bus_and_the_client() {
    only_in(&["zeromq"], "supervisor", |path| {
        path.starts_with("supervisor/daemon/src/bus/") || path.starts_with("supervisor/api/src/")
    });
}

#[test]
fn landlock_and_seccomp_calls_are_made_only_by_the_launcher() {
    only_in(&["landlock::", "seccompiler::"], "supervisor", |path| path.starts_with("supervisor/launch/"));
}

#[test]
fn http_is_spoken_only_by_the_control_api() {
    only_in(&["hyper"], "supervisor", |path| {
        path.starts_with("supervisor/daemon/src/control") || path.starts_with("supervisor/api/src/control")
    });
}

#[test]
fn core_reads_no_clock_file_or_socket() {
    let words = [
        "std::fs",
        "std::net",
        "std::process",
        "std::os::unix",
        "Instant::now",
        "SystemTime",
        "tokio",
        "std::thread",
        "std::env",
    ];
    only_in(&words, "supervisor/core/src", |_| false);
}

#[test]
fn rooms_never_import_one_another() {
    let rooms = ["agents", "bus", "control", "logs", "process", "store", "tools"];
    let mut wrong = Vec::new();
    for room in rooms {
        for path in files(&format!("supervisor/daemon/src/{room}"), &[".rs"]) {
            let code = code(&path);
            for other in rooms.into_iter().filter(|other| *other != room) {
                if code.contains(&format!("crate::{other}")) {
                    wrong.push(format!("{} uses {other}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_lives_in_the_launcher_and_in_sys_modules() {
    only_in(&["unsafe {", "unsafe fn", "unsafe impl"], "supervisor", |path| {
        path.starts_with("supervisor/launch/") || path.ends_with("/sys.rs") || path.contains("/sys/")
    });
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let mut wrong = Vec::new();
    for path in files("supervisor", &[".rs"]) {
        let whole = text(&path);
        let lines: Vec<&str> = whole.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let is_code = !line.trim_start().starts_with("//");
            let said = lines[at.saturating_sub(6)..=at].iter().any(|near| near.contains("SAFETY:"));
            if is_code && line.contains("unsafe {") && !said {
                wrong.push(format!("{}:{}", path.display(), at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "no SAFETY: near {}", wrong.join(", "));
}

#[test]
fn every_module_says_its_job() {
    let silent: Vec<String> = files("supervisor", &[".rs"])
        .into_iter()
        .filter(|path| path.components().any(|part| part.as_os_str() == "src") && !text(path).starts_with("//!"))
        .map(|path| path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "no header: {silent:?}");
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let mut tests = BTreeSet::new();
    for path in files(".", &[".rs", ".py"]) {
        for line in text(&path).lines() {
            let line = line.trim_start();
            let line = line.strip_prefix("async ").unwrap_or(line);
            if let Some(rest) = line.strip_prefix("fn ").or_else(|| line.strip_prefix("def ")) {
                tests.insert(rest.split(['(', '<']).next().unwrap_or_default().to_owned());
            }
        }
    }
    let promises = text(Path::new("docs/promises.md"));
    let rows: Vec<&str> = promises.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    assert!(rows.len() >= 10, "docs/promises.md lists what Loom promises");
    let mut missing = Vec::new();
    for row in rows {
        let held_by = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        for name in held_by.split('`').skip(1).step_by(2) {
            if !tests.contains(name) {
                missing.push(name.to_owned());
            }
        }
    }
    assert!(missing.is_empty(), "named in docs/promises.md, found nowhere: {missing:?}");
}

#[test]
fn every_decision_is_one_numbered_page() {
    let pages = files("docs/adr", &[".md"]);
    assert!(!pages.is_empty());
    let mut numbers = BTreeSet::new();
    for page in pages {
        let name = page.file_name().unwrap().to_string_lossy().into_owned();
        let number = name.get(..4).and_then(|n| n.parse::<u32>().ok()).unwrap_or_else(|| panic!("{name}: no number"));
        assert!(numbers.insert(number), "{name}: its number is taken");
        let text = text(&page);
        for part in
            ["# ", "What forced it", "What we do", "What it costs", "What we turned down", "What would change our mind"]
        {
            assert!(text.contains(part), "{name} does not say: {part}");
        }
    }
}

#[test]
fn every_shipped_unit_file_is_without_fault_or_warning() {
    let shipped: Vec<PathBuf> = files("units", &[".toml"])
        .into_iter()
        .chain(files("examples", &["agent.toml", "service.toml", "target.toml"]))
        .collect();
    assert!(shipped.len() >= 2, "{shipped:?}");
    let out = std::process::Command::new(loom_tests::program("loomctl"))
        .current_dir(checkout())
        .arg("verify")
        .args(&shipped)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
}
