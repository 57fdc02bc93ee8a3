//! grants: path rules, and the grants that no unit may have.
//!
//! Job: profile, program, unit and own directories → [`PathRule`]s. May touch: `unit`, `launch_plan`, `profile`.
//! Keeps: what a unit may write it can neither execute nor swap for a link before its next run.

use super::{Profile, SandboxError, Surroundings};
use crate::launch_plan::{Access, PathRule};
use crate::unit::{PathGrant, Unit};

/// Whether `path` is `root` or lies in it.
pub(super) fn lies_in(path: &str, root: &str) -> bool {
    let root = root.trim_end_matches('/');
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn overlap(a: &str, b: &str) -> bool {
    lies_in(a, b) || lies_in(b, a)
}

fn temporary(around: &Surroundings) -> String {
    format!("{}/tmp", around.runtime_dir)
}

fn own(path: &str, around: &Surroundings) -> bool {
    lies_in(path, &around.state_dir) || lies_in(path, &temporary(around))
}

/// Refuses grants that would let a unit change loomd, the machine, or what it executes itself.
pub(super) fn check(unit: &Unit, around: &Surroundings) -> Result<(), SandboxError> {
    let refuse = |grant: &PathGrant, what: String| {
        Err(SandboxError::Grant { origin: grant.origin.clone(), what: format!("`{}` {what}", grant.path) })
    };
    let sandbox = &unit.sandbox;
    for grant in sandbox.read.iter().chain(&sandbox.execute).chain(&sandbox.write) {
        if !grant.path.starts_with('/') || grant.path.split('/').any(|part| part == "..") {
            return refuse(grant, "is no absolute path without `..`".to_owned());
        }
    }
    for grant in &sandbox.write {
        let path = grant.path.as_str();
        if path.trim_matches('/').is_empty() {
            return refuse(grant, "is the whole machine: name the directory that the unit writes in".to_owned());
        }
        for kernel in ["/proc", "/sys", "/dev"] {
            if lies_in(path, kernel) {
                return refuse(grant, format!("lies in {kernel}, which no unit may write"));
            }
        }
        if let Some(home) = around.home.as_deref().filter(|home| home.len() > 1 && lies_in(home, path)) {
            return refuse(grant, format!("contains the home directory {home} as a whole: name a directory below it"));
        }
        if !own(path, around)
            && let Some(root) = around.protected.iter().find(|root| overlap(path, root))
        {
            return refuse(grant, format!("overlaps {root}, which belongs to loomd or holds unit files"));
        }
        if let Some(executed) = sandbox.execute.iter().find(|e| overlap(path, &e.path)) {
            return refuse(
                grant,
                format!(
                    "overlaps `{}` ({}): what a unit may write it must not execute",
                    executed.path, executed.origin
                ),
            );
        }
        let runs = std::iter::once(&around.program).chain(&around.interpreter_roots);
        if let Some(executed) = runs.filter(|p| !p.is_empty()).find(|executed| overlap(path, executed)) {
            return refuse(grant, format!("overlaps {executed}, which the unit executes"));
        }
        // A workspace below the code is common, and never on the import path by itself; the code's own directory is.
        if let Some(code) = around.code_roots.iter().find(|code| lies_in(code, path)) {
            return refuse(
                grant,
                format!("contains the program's code in {code}; its next run would execute what it wrote"),
            );
        }
    }
    for execute in &sandbox.execute {
        if own(&execute.path, around) {
            return refuse(
                execute,
                "lies where the unit may write: what a unit may write it must not execute".to_owned(),
            );
        }
    }
    Ok(())
}

/// What the profile grants. All optional: machines differ.
pub(super) fn rules(profile: &Profile, around: &Surroundings) -> Vec<PathRule> {
    let rule = |path: &String, access| PathRule {
        path: around.links.get(path).unwrap_or(path).clone(),
        access,
        optional: true,
        no_symlinks: false,
        origin: profile.origin(),
    };
    let of = |paths: &[String], access| paths.iter().map(|p| rule(p, access)).collect::<Vec<_>>();
    let mut rules = of(&profile.execute, Access::Execute);
    rules.extend(of(&profile.read, Access::Read));
    rules.extend(of(&profile.device, Access::Device));
    rules.extend(of(&profile.connect, Access::Connect));
    rules
}

/// The program and its interpreter.
pub(super) fn program(around: &Surroundings) -> Vec<PathRule> {
    let rule = |path: &String, origin: &str| PathRule {
        path: path.clone(),
        access: Access::Execute,
        optional: false,
        no_symlinks: guarded(path, around),
        origin: origin.to_owned(),
    };
    let mut rules = vec![rule(&around.program, "program")];
    rules.extend(around.interpreter_roots.iter().map(|root| rule(root, "interpreter")));
    rules
}

/// The unit's state directory and temporary directory; its runtime directory for connecting; credentials for reading.
pub(super) fn own_directories(around: &Surroundings) -> Vec<PathRule> {
    let rule = |path: String, access, optional, origin: &str| PathRule {
        path,
        access,
        optional,
        no_symlinks: true,
        origin: origin.to_owned(),
    };
    vec![
        rule(around.state_dir.clone(), Access::Write, false, "state directory"),
        rule(temporary(around), Access::Write, false, "temporary directory"),
        rule(around.runtime_dir.clone(), Access::Connect, false, "runtime directory"),
        rule(format!("{}/credentials", around.runtime_dir), Access::Read, true, "credentials"),
    ]
}

/// Whether some unit can write on the way to `path`, as far as this unit's plan can know: in its own directories, and in those
/// of its neighbours.
fn guarded(path: &str, around: &Surroundings) -> bool {
    let parent = |directory: &str| directory.rsplit_once('/').map(|(parent, _)| parent.to_owned()).unwrap_or_default();
    own(path, around)
        || [&around.state_dir, &around.runtime_dir]
            .into_iter()
            .map(|d| parent(d))
            .any(|p| !p.is_empty() && lies_in(path, &p))
}

/// What the unit file grants.
pub(super) fn of_unit(unit: &Unit, around: &Surroundings) -> Vec<PathRule> {
    let sandbox = &unit.sandbox;
    let rule = |grant: &PathGrant, access| PathRule {
        path: grant.path.clone(),
        access,
        // Below its own directories everything is granted already, and may be made by the unit itself later.
        optional: grant.optional || own(&grant.path, around),
        // Units share what they write: a link there may have been put by another one.
        no_symlinks: access == Access::Write
            || guarded(&grant.path, around)
            || sandbox.write.iter().any(|w| w.path != grant.path && lies_in(&grant.path, &w.path)),
        origin: grant.origin.clone(),
    };
    let of = |grants: &[PathGrant], access| grants.iter().map(|g| rule(g, access)).collect::<Vec<_>>();
    let mut rules = of(&sandbox.read, Access::Read);
    rules.extend(of(&sandbox.execute, Access::Execute));
    rules.extend(of(&sandbox.write, Access::Write));
    rules
}

/// Whether granting all of `directory` would grant far more than a program's code.
fn too_wide(directory: &str, around: &Surroundings) -> bool {
    let depth = directory.split('/').filter(|part| !part.is_empty()).count();
    depth < 2
        || around.home.iter().any(|home| lies_in(home, directory))
        || around.protected.iter().chain([&around.runtime_dir, &around.state_dir]).any(|p| {
            // Unit files lie beside the code they start; that directory is no secret. One that holds loomd's store is.
            lies_in(p, directory) && p != directory
        })
}

/// Where a Python program finds the modules beside it: the directory of its first file, if that is granted as a whole.
pub(super) fn modules(around: &Surroundings) -> Option<String> {
    let program = around.code_files.iter().find(|file| file.ends_with(".py"))?;
    let directory = program.rsplit_once('/')?.0;
    let granted = around.code_roots.iter().any(|root| root == directory && !too_wide(root, around));
    granted.then(|| directory.to_owned())
}

/// The program's own code, readable.
pub(super) fn code(around: &Surroundings) -> Result<Vec<PathRule>, SandboxError> {
    let rule = |path: &String| PathRule {
        path: path.clone(),
        access: Access::Read,
        optional: false,
        no_symlinks: guarded(path, around),
        origin: "code".to_owned(),
    };
    let mut rules = Vec::new();
    for root in &around.code_roots {
        if !too_wide(root, around) {
            rules.push(rule(root));
            continue;
        }
        let files: Vec<_> = around.code_files.iter().filter(|file| lies_in(file, root)).map(rule).collect();
        if files.is_empty() {
            return Err(SandboxError::Grant {
                origin: "exec.command".to_owned(),
                what: format!(
                    "the program's directory {root} is too wide to grant: move the program into one of its own"
                ),
            });
        }
        rules.extend(files);
    }
    Ok(rules)
}

/// Each line once, in a stable order: as granted.
pub(super) fn tidy(rules: Vec<PathRule>) -> Vec<PathRule> {
    let mut tidy: Vec<PathRule> = Vec::with_capacity(rules.len());
    for rule in rules {
        if let Some(same) = tidy.iter_mut().find(|r| r.path == rule.path && r.access == rule.access) {
            same.optional &= rule.optional;
            same.no_symlinks |= rule.no_symlinks;
        } else {
            tidy.push(rule);
        }
    }
    tidy
}
