//! process/kept: descriptors that a unit gave into keeping.
//!
//! Job: `FDSTORE=1` and `FDSTOREREMOVE=1`; hand them to the unit's next run as systemd does, from descriptor 3 on.
//! May touch: those descriptors, to watch whether their other end is gone. Keeps: at most [`KEPT_MAX`] a unit, each once;
//! what is refused is closed; they live as long as this loomd, and until the unit is stopped.

use super::{Common, sys};
use loom_core::ids::UnitId;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::io::Interest;

/// The most descriptors that are kept for one unit.
pub const KEPT_MAX: usize = 16;
/// The longest name of one.
const NAME_MAX_BYTES: usize = 255;
/// Its name where none is given.
const DEFAULT_NAME: &str = "stored";
/// Where a program finds the first of them (`SD_LISTEN_FDS_START`).
pub const FIRST_LISTEN_FD: i32 = 3;

/// One descriptor.
pub(super) struct Kept {
    fd: Arc<OwnedFd>,
    name: String,
    /// Looks whether its other end is gone; ends with this.
    watch: Option<tokio::task::AbortHandle>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

/// A name that `LISTEN_FDNAMES` can carry.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX_BYTES
        && name.bytes().all(|c| c.is_ascii_graphic() && c != b':' || c == b' ')
}

impl Common {
    /// Keeps descriptors under a name. `watched`: drop one whose other end is gone.
    pub(super) fn keep(self: &Arc<Self>, unit: &UnitId, name: Option<String>, watched: bool, fds: Vec<OwnedFd>) {
        let name = name.unwrap_or_else(|| DEFAULT_NAME.to_owned());
        let mut places = self.places();
        let kept = &mut places.entry(unit.clone()).or_default().kept;
        for fd in fds {
            if kept.iter().any(|known| sys::is_same_file(known.fd.as_fd(), fd.as_fd())) {
                continue;
            }
            if kept.len() >= KEPT_MAX {
                tracing::warn!(%unit, name, "does not keep a descriptor: there are {KEPT_MAX} already");
                continue;
            }
            let fd = Arc::new(fd);
            let watch = watched.then(|| self.watch_kept(unit, &fd)).flatten();
            kept.push(Kept { fd, name: name.clone(), watch });
        }
    }

    fn watch_kept(self: &Arc<Self>, unit: &UnitId, fd: &Arc<OwnedFd>) -> Option<tokio::task::AbortHandle> {
        // Regular files and the like cannot be watched, and have no other end. Priority alone: data that comes in for the unit
        // wakes nobody here, and the kernel reports a hang-up in any case.
        let watched = sys::wakeable(fd.try_clone().ok()?, Interest::PRIORITY.add(Interest::ERROR)).ok()?;
        let (common, unit, fd) = (Arc::downgrade(self), unit.clone(), Arc::downgrade(fd));
        let task = tokio::spawn(async move {
            while let Ok(mut ready) = watched.ready(Interest::PRIORITY.add(Interest::ERROR)).await {
                let state = ready.ready();
                if state.is_read_closed() || state.is_error() {
                    break;
                }
                ready.clear_ready();
            }
            if let (Some(common), Some(fd)) = (common.upgrade(), fd.upgrade()) {
                let gone = common.places().get_mut(&unit).and_then(|place| {
                    let at = place.kept.iter().position(|kept| Arc::ptr_eq(&kept.fd, &fd))?;
                    Some(place.kept.remove(at))
                });
                if let Some(gone) = gone {
                    tracing::debug!(%unit, name = gone.name, "a kept descriptor's other end is gone");
                }
            }
        });
        Some(task.abort_handle())
    }

    /// Drops what is kept under a name.
    pub(super) fn drop_kept(&self, unit: &UnitId, name: &str) {
        let mut places = self.places();
        if let Some(place) = places.get_mut(unit) {
            place.kept.retain(|kept| kept.name != name);
        }
    }

    /// Drops all that is kept for a unit.
    pub(super) fn drop_all_kept(&self, unit: &UnitId) {
        let dropped = self.places().get_mut(unit).map(|place| std::mem::take(&mut place.kept));
        drop(dropped);
    }

    /// Descriptors and names, in the order in which they came.
    pub(super) fn kept(&self, unit: &UnitId) -> Vec<(Arc<OwnedFd>, String)> {
        let places = self.places();
        let kept = places.get(unit).into_iter().flat_map(|place| &place.kept);
        kept.map(|kept| (Arc::clone(&kept.fd), kept.name.clone())).collect()
    }
}
