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
    /// A link to `/dev/null`: the unit, the drop-in, or a link of a lower directory is masked.
    Masked,
    /// A link in `<unit>.wants/` or `<unit>.requires/`: its name says all.
    Link,
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
    /// Below that directory: `chat.agent.toml`, `chat.agent.d/10-more.toml` or `all.target.wants/chat.agent.toml`.
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
    /// Milliseconds since the epoch: a schedule whose instants are all earlier never elapses.
    pub now: u64,
}

impl Facts {
    /// The same at another time.
    pub fn at(&self, now: u64) -> Self {
        Self { now, ..self.clone() }
    }

    /// Where the files of transient units lie: the highest directory of the search path.
    pub fn transient_dir(&self) -> String {
        format!("{}/{TRANSIENT}", self.runtime_dir.trim_end_matches('/'))
    }

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

/// The directory of transient units, below loomd's runtime directory.
pub const TRANSIENT: &str = "transient";

/// How a link adds a unit to another: by the folder it lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Enabled {
    /// `<unit>.wants/`
    Wants,
    /// `<unit>.requires/`
    Requires,
}

impl Enabled {
    const ALL: [Enabled; 2] = [Enabled::Wants, Enabled::Requires];

    /// The end of the folder's name, and the key of `[unit]` that it adds to.
    pub fn word(self) -> &'static str {
        match self {
            Enabled::Wants => "wants",
            Enabled::Requires => "requires",
        }
    }
}

/// Where the link lies, below a unit directory, that adds `unit` to the `wants` or `requires` of `of`:
/// `all.target.wants/chat.agent.toml`. It points to the unit's main file (for an instance its own or its template's), as
/// `../chat.agent.toml` in the same directory; what counts is its name.
pub fn link_name(of: &UnitId, enabled: Enabled, unit: &UnitId) -> String {
    format!("{of}.{}/{unit}.toml", enabled.word())
}

/// What a file's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The main file of a unit or template.
    Main(UnitId),
    /// A drop-in: folder without `.d`, file name.
    DropIn(String, String),
    /// A link that adds a unit to another's dependencies.
    Link {
        /// Who gets it; may be a template, for all of its instances.
        of: UnitId,
        /// Into which list.
        enabled: Enabled,
        /// Whom.
        unit: UnitId,
    },
    /// A drop-in or a link in a folder that no unit can have.
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
        if let Some((owner, enabled)) = links_of(folder) {
            if file.contains('/') || file.starts_with('.') {
                return Role::Other;
            }
            let Ok(of) = owner.parse::<UnitId>() else { return Role::StrayDropIn(folder.to_owned()) };
            return match file.strip_suffix(".toml").unwrap_or(file).parse::<UnitId>() {
                Ok(unit) if unit.is_template() => {
                    Role::Misnamed("a template cannot be started: name the link after an instance".to_owned())
                }
                Ok(unit) if unit == of => Role::Misnamed("a unit cannot need itself".to_owned()),
                Ok(unit) => Role::Link { of, enabled, unit },
                Err(error) => Role::Misnamed(error.to_string()),
            };
        }
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

/// `all.target.wants` → `all.target`, [`Enabled::Wants`].
fn links_of(folder: &str) -> Option<(&str, Enabled)> {
    let (owner, end) = folder.rsplit_once('.')?;
    Enabled::ALL.into_iter().find(|enabled| enabled.word() == end).map(|enabled| (owner, enabled))
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
    /// Links by the unit they add to; then by list and unit added, the file that counts.
    pub links: BTreeMap<UnitId, BTreeMap<(Enabled, UnitId), usize>>,
    /// Main files of transient units whose name is that of a file.
    pub taken: Vec<usize>,
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
                Role::Link { of, enabled, unit } => {
                    index.links.entry(of).or_default().entry((enabled, unit)).or_insert(at);
                }
                odd @ (Role::StrayDropIn(_) | Role::Misnamed(_)) => index.misnamed.push((at, odd)),
                Role::Other => {}
            }
        }
        index
    }

    /// Leaves out main files of the transient directory that take the name of a file, or of an instance of a template in one.
    pub fn give_way(&mut self, set: &SourceSet, transient: usize) {
        // A mask there is no transient unit: `loomctl mask --runtime` hides a file until the next boot.
        let is_transient =
            |at: &usize| set.sources[*at].directory == transient && set.sources[*at].content != Content::Masked;
        let filed: BTreeSet<UnitId> =
            self.mains.iter().filter(|(_, all)| !all.iter().all(is_transient)).map(|(id, _)| id.clone()).collect();
        for (id, all) in &mut self.mains {
            let by_template = id.template().is_some_and(|template| filed.contains(&template));
            if filed.contains(id) || by_template {
                self.taken.extend(all.iter().copied().filter(|at| is_transient(at)));
                all.retain(|at| !is_transient(at));
            }
        }
        self.mains.retain(|_, all| !all.is_empty());
    }

    /// The links that add to a unit: its own, then its template's; the list and the unit added.
    pub fn links_to(&self, id: &UnitId) -> Vec<(Enabled, &UnitId, usize)> {
        let own = self.links.get(id);
        let template = id.template().and_then(|template| self.links.get(&template));
        let all = own.into_iter().chain(template).flatten();
        all.map(|((enabled, unit), at)| (*enabled, unit, *at)).filter(|(_, unit, _)| *unit != id).collect()
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
        assert!(matches!(role("all.target.wants/worker@.agent.toml"), Role::Misnamed(_)));
        assert!(matches!(role("all.wants/chat.agent.toml"), Role::StrayDropIn(_)));
    }

    #[test]
    fn a_link_is_found_where_enable_puts_it() {
        let id = |text: &str| text.parse::<UnitId>().unwrap();
        let (of, unit) = (id("all.target"), id("worker@1.agent"));
        for enabled in Enabled::ALL {
            let name = link_name(&of, enabled, &unit);
            assert_eq!(role(&name), Role::Link { of: of.clone(), enabled, unit: unit.clone() }, "{name}");
        }
        assert_eq!(link_name(&of, Enabled::Wants, &unit), "all.target.wants/worker@1.agent.toml");
    }
}
