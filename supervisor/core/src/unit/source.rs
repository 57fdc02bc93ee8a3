//! source: unit files as they were found, and which of them make up a unit.
//!
//! Job: the search path's rules: hiding, masks, templates, the order of drop-ins. May touch: `ids`.
//! May not: open a file; texts are given. Keeps: no name leads to a file outside the directories.

use super::problem::Problem;
use crate::ids::{Kind, UnitId, UnitName};
use std::collections::{BTreeMap, BTreeSet};

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Its bytes.
    Bytes(Vec<u8>),
    /// A link to `/dev/null`: the unit, or the drop-in, is masked.
    Masked,
    /// It could not be read.
    Unreadable {
        /// Why.
        cause: String,
        /// The way out.
        help: String,
    },
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// As shown to people.
    pub path: String,
    /// Index into [`SourceSet::directories`]; 0 is the highest.
    pub directory: usize,
    /// Below that directory: `chat.agent.toml` or `chat.agent.d/10-more.toml`.
    pub name: String,
    /// What it holds.
    pub content: Content,
}

/// All files of the search path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceSet {
    /// Absolute, highest first.
    pub directories: Vec<String>,
    /// In any order.
    pub sources: Vec<Source>,
    /// What went wrong while reading directories.
    pub problems: Vec<Problem>,
}

/// What specifiers stand for, and what no unit may write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// `%h`: home of loomd's user.
    pub home: String,
    /// `%u`: name of loomd's user.
    pub user: String,
    /// `%b`
    pub boot_id: String,
    /// loomd's runtime directory. `%t` is `units` below it.
    pub runtime_dir: String,
    /// loomd's state directory. `%S` is `units/<unit>` below it, `%C` is `cache/<unit>`.
    pub state_dir: String,
    /// The search path. No unit may write there.
    pub unit_path: Vec<String>,
}

impl Facts {
    /// `%t`
    pub fn runtime_of_units(&self) -> String {
        format!("{}/units", self.runtime_dir.trim_end_matches('/'))
    }

    /// `%S`
    pub fn state_of(&self, unit: &UnitId) -> String {
        format!("{}/units/{unit}", self.state_dir.trim_end_matches('/'))
    }

    /// `%C`
    pub fn cache_of(&self, unit: &UnitId) -> String {
        format!("{}/cache/{unit}", self.state_dir.trim_end_matches('/'))
    }
}

/// What a file's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The main file of a unit or template.
    Main(UnitId),
    /// A drop-in: folder without `.d`, file name.
    DropIn(String, String),
    /// A drop-in in a folder that no unit can have.
    StrayDropIn(String),
    /// A TOML file with a name that no unit can have. The text says why.
    Misnamed(String),
    /// Not a unit file at all.
    Other,
}

/// Reads a name below a unit directory.
pub fn role(name: &str) -> Role {
    let Some(stem) = name.strip_suffix(".toml") else { return Role::Other };
    if let Some((folder, file)) = name.split_once('/') {
        let Some(owner) = folder.strip_suffix(".d") else { return Role::Other };
        if file.contains('/') || file.starts_with('.') {
            return Role::Other;
        }
        return if is_owner(owner) {
            Role::DropIn(owner.to_owned(), file.to_owned())
        } else {
            Role::StrayDropIn(folder.to_owned())
        };
    }
    match stem.parse::<UnitId>() {
        Ok(id) => Role::Main(id),
        // Settings of Loom and of Python projects lie beside unit files.
        Err(_) if matches!(name, "loom.toml" | "pyproject.toml") || name.starts_with('.') => Role::Other,
        Err(error) => Role::Misnamed(error.to_string()),
    }
}

/// `agent`, `a-.agent`, `a.agent`, `a@.agent`, `a@x.agent`
fn is_owner(owner: &str) -> bool {
    let prefix = || {
        let (stem, kind) = owner.rsplit_once('.')?;
        let fits = stem.ends_with('-') && stem.parse::<UnitName>().is_ok();
        (fits && Kind::ALL.iter().any(|known| known.word() == kind)).then_some(())
    };
    Kind::ALL.iter().any(|kind| kind.word() == owner) || owner.parse::<UnitId>().is_ok() || prefix().is_some()
}

/// Files by what they are for.
#[derive(Debug, Default)]
pub struct Index {
    /// Main files, highest directory first.
    pub mains: BTreeMap<UnitId, Vec<usize>>,
    /// Folder → file name → the file that counts.
    pub drop_ins: BTreeMap<String, BTreeMap<String, usize>>,
    /// Files with a name that cannot be right: why.
    pub misnamed: Vec<(usize, Role)>,
}

impl Index {
    /// Sorts all files of a set.
    pub fn new(set: &SourceSet) -> Self {
        let mut index = Index::default();
        let mut order: Vec<usize> = (0..set.sources.len()).collect();
        order.sort_by_key(|&at| set.sources[at].directory);
        for at in order {
            match role(&set.sources[at].name) {
                Role::Main(id) => index.mains.entry(id).or_default().push(at),
                Role::DropIn(folder, file) => {
                    index.drop_ins.entry(folder).or_default().entry(file).or_insert(at);
                }
                odd @ (Role::StrayDropIn(_) | Role::Misnamed(_)) => index.misnamed.push((at, odd)),
                Role::Other => {}
            }
        }
        index
    }

    /// The main files of a unit, an instance's own before its template's; the first one counts.
    pub fn main_files(&self, id: &UnitId) -> Vec<usize> {
        let own = self.mains.get(id);
        let template = id.template().and_then(|template| self.mains.get(&template));
        own.into_iter().chain(template).flatten().copied().collect()
    }

    /// The drop-ins of a unit in the order in which they apply: general to special, then by file name.
    pub fn drop_ins_of(&self, id: &UnitId) -> Vec<usize> {
        owners(id)
            .iter()
            .filter_map(|owner| self.drop_ins.get(owner))
            .flat_map(|files| files.values().copied())
            .collect()
    }

    /// Every unit and template with a main file.
    pub fn known(&self) -> BTreeSet<UnitId> {
        self.mains.keys().cloned().collect()
    }
}

/// `agent`, then each prefix `a-.agent`, then `a@.agent`, then the unit's own name.
fn owners(id: &UnitId) -> Vec<String> {
    let kind = id.kind().word();
    let name = id.name().as_str();
    let mut owners = vec![kind.to_owned()];
    owners.extend(name.match_indices('-').map(|(at, _)| format!("{}.{kind}", &name[..=at])));
    owners.extend(id.template().map(|template| template.to_string()));
    owners.push(id.to_string());
    owners.dedup();
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(directory: usize, name: &str) -> Source {
        Source { path: format!("{directory}/{name}"), directory, name: name.into(), content: Content::Bytes(vec![]) }
    }

    #[test]
    fn drop_ins_go_from_general_to_special_and_the_higher_directory_counts() {
        let set = SourceSet {
            directories: vec!["/0".into(), "/1".into()],
            sources: vec![
                file(0, "a-b@x.agent.d/20.toml"),
                file(1, "a-b@.agent.d/90.toml"),
                file(1, "a-b@.agent.d/10.toml"),
                file(1, "a-.agent.d/50.toml"),
                file(0, "a-.agent.d/50.toml"),
                file(1, "agent.d/99.toml"),
                file(1, "service.d/99.toml"),
                file(1, "b-.agent.d/10.toml"),
            ],
            problems: vec![],
        };
        let index = Index::new(&set);
        let found: Vec<&str> = index
            .drop_ins_of(&"a-b@x.agent".parse().unwrap())
            .into_iter()
            .map(|at| set.sources[at].path.as_str())
            .collect();
        assert_eq!(
            found,
            [
                "1/agent.d/99.toml",
                "0/a-.agent.d/50.toml",
                "1/a-b@.agent.d/10.toml",
                "1/a-b@.agent.d/90.toml",
                "0/a-b@x.agent.d/20.toml"
            ]
        );
    }

    #[test]
    fn a_file_that_is_no_unit_is_told_from_one_with_a_wrong_name() {
        assert_eq!(role("README.md"), Role::Other);
        assert_eq!(role("loom.toml"), Role::Other);
        assert!(matches!(role("chat.toml"), Role::Misnamed(_)));
        assert!(matches!(role("Chat.agent.toml"), Role::Misnamed(_)));
        assert!(matches!(role("chat.job.toml"), Role::Misnamed(_)));
        assert!(matches!(role("chat.agent.toml"), Role::Main(_)));
        assert!(matches!(role("chat.agent.d/10.toml"), Role::DropIn(..)));
        assert!(matches!(role("Chat.agent.d/10.toml"), Role::StrayDropIn(_)));
        assert_eq!(role("chat.agent.d/x/10.toml"), Role::Other);
    }
}
