//! looper/library: the unit files as they were last read.
//!
//! Job: read the search path, keep the catalogue that is in force, read instances of templates on demand.
//! May touch: unit files, through [`loom_api::unit_files`]. Keeps: one reading at a time; a reading with errors replaces nothing.

use loom_api::dirs::Dirs;
use loom_api::unit_files;
use loom_core::ids::UnitId;
use loom_core::unit::{Catalogue, Facts, Loaded, load, load_all};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The catalogue in force and how to make a new one.
#[derive(Debug)]
pub struct Library {
    facts: Facts,
    path: Vec<PathBuf>,
    in_force: Mutex<Arc<Catalogue>>,
}

impl Library {
    /// Reads everything once. Units with errors are refused; the others are in force.
    pub fn open(dirs: &Dirs) -> Self {
        let facts = unit_files::facts(&dirs.runtime, &dirs.state, &dirs.unit_path);
        let library = Self { facts, path: dirs.search_path(), in_force: Mutex::default() };
        library.put_in_force(library.read());
        library
    }

    /// Home of loomd's user.
    pub fn home(&self) -> &str {
        &self.facts.home
    }

    /// Reads everything anew. Blocks on the disk.
    pub fn read(&self) -> Catalogue {
        load_all(&unit_files::read(&self.path), &self.facts.at(unit_files::now()), Some(&is_there))
    }

    /// What is in force.
    pub fn in_force(&self) -> Arc<Catalogue> {
        Arc::clone(&self.in_force.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a reading the one in force.
    pub fn put_in_force(&self, catalogue: Catalogue) {
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalogue);
    }

    /// Reads one instance of a template. Blocks on the disk.
    pub fn instance(&self, unit: &UnitId) -> Loaded {
        load(&unit_files::read(&self.path), &self.facts.at(unit_files::now()), unit, Some(&is_there))
    }
}

fn is_there(program: &str) -> bool {
    unit_files::find_program(program).is_some()
}
