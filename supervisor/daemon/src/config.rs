//! config: what loomd is told at its start.
//!
//! Job: flags and `loom.toml`. May touch: that file. Keeps: an unknown key is an error that names the file and the key;
//! directories are resolved by [`loom_api::dirs`], the same way as loomctl does.

use clap::Parser;
use loom_api::dirs::{DirError, DirFlags, Dirs};
use loom_core::ids::{BadUnitName, UnitId};
use std::io;
use std::path::PathBuf;

/// Started after loading, if there is such a unit.
const DEFAULT_TARGET: &str = "default.target";

/// The supervisor of AI agents.
#[derive(Debug, Parser)]
#[command(
    name = "loomd",
    version,
    about = "Start, confine, restart and wire the agents that unit files declare",
    after_help = "Exit status: 0 ended in order, 1 refused or failed, 2 usage.\n\
                  SIGTERM and SIGINT stop all units in order and end; SIGHUP reads unit files anew.\n\
                  Example: loomd --unit-path ./units --runtime-dir /tmp/loom --state-dir ~/.local/state/loom"
)]
pub struct Flags {
    /// Keep sockets and locks in this directory [env: LOOM_RUNTIME_DIR]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// Keep the store and the units' state in this directory [env: LOOM_STATE_DIR]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Look for unit files in this directory; may be repeated, first wins [env: LOOM_UNIT_PATH]
    #[arg(long, value_name = "DIR")]
    unit_path: Vec<PathBuf>,
    /// Read settings from this file [env: LOOM_CONFIG] [default: ./loom.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Say whether this program could take over from a loomd whose store has this schema, and end
    #[arg(long, value_name = "SCHEMA", hide = true)]
    pub check: Option<u32>,
}

/// What loomd works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub dirs: Dirs,
    pub default_target: UnitId,
    pub orphans: Orphans,
}

/// What is done with runs that outlived the loomd before: `orphans` in `loom.toml`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Orphans {
    /// They go on, in the same run.
    #[default]
    Adopt,
    /// They are taken over, ended in order, and those that are wanted start anew.
    Kill,
}

/// Why loomd cannot tell what it should work with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Dirs(#[from] DirError),
    #[error("cannot read `{file}`")]
    Read { file: PathBuf, source: io::Error },
    #[error("`{file}` is not as a loom.toml must be: {why}")]
    Bad { file: PathBuf, why: String },
    #[error("`default_target` in `{file}`")]
    Target { file: PathBuf, source: BadUnitName },
}

/// `loom.toml`, whole, so that unknown keys show.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "runtime_dir")]
    _runtime_dir: Option<PathBuf>,
    #[serde(rename = "state_dir")]
    _state_dir: Option<PathBuf>,
    #[serde(rename = "unit_path")]
    _unit_path: Option<Vec<PathBuf>>,
    default_target: Option<String>,
    orphans: Option<Orphans>,
}

impl Config {
    /// From flags, environment and file.
    pub fn resolve(flags: Flags) -> Result<Self, ConfigError> {
        let Flags { runtime_dir, state_dir, unit_path, config, check: _ } = flags;
        let dirs = Dirs::resolve(DirFlags { runtime_dir, state_dir, unit_path, config })?;
        let file = match &dirs.config {
            None => File::default(),
            Some(file) => {
                let text =
                    std::fs::read_to_string(file).map_err(|source| ConfigError::Read { file: file.clone(), source })?;
                toml::from_str(&text).map_err(|error| ConfigError::Bad {
                    file: file.clone(),
                    why: error.to_string().trim_end().to_owned(),
                })?
            }
        };
        let target = file.default_target.clone().unwrap_or_else(|| DEFAULT_TARGET.to_owned());
        let default_target = target
            .parse()
            .map_err(|source| ConfigError::Target { file: dirs.config.clone().unwrap_or_default(), source })?;
        Ok(Self { dirs, default_target, orphans: file.orphans.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Result<Config, ConfigError> {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("loom.toml");
        std::fs::write(&file, text).unwrap();
        Config::resolve(Flags {
            runtime_dir: None,
            state_dir: None,
            unit_path: vec![],
            config: Some(file),
            check: None,
        })
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = with("runtime_dri = \"r\"\n").unwrap_err().to_string();
        assert!(error.contains("runtime_dri") && error.contains("runtime_dir"), "{error}");
    }

    #[test]
    fn the_default_target_can_be_another() {
        assert_eq!(with("").unwrap().default_target.to_string(), "default.target");
        assert_eq!(with("default_target = \"desk.target\"\n").unwrap().default_target.to_string(), "desk.target");
        assert!(with("default_target = \"nonsense\"\n").is_err());
    }

    #[test]
    fn what_outlives_a_loomd_is_adopted_unless_the_file_says_otherwise() {
        assert_eq!(with("").unwrap().orphans, Orphans::Adopt);
        assert_eq!(with("orphans = \"kill\"\n").unwrap().orphans, Orphans::Kill);
        assert!(with("orphans = \"maybe\"\n").unwrap_err().to_string().contains("adopt"));
    }

    #[test]
    fn flags_are_well_formed() {
        use clap::CommandFactory;
        Flags::command().debug_assert();
    }
}
