//! process/notify: sd_notify from units.
//!
//! Job: one datagram socket per unit; messages from whom `ready.notify_access` names become events; descriptors go into
//! keeping; a proven `MAINPID=` changes the main process.
//! May touch: the socket, `/proc` through [`Tree`]. Keeps: the kernel says who sent; who is refused is named once per run; the
//! loop has taken one turn's news before the next turn is read, so a flood costs its sender and grows nothing; a barrier is
//! answered when the loop has taken all before it; what a process said before its end is told before its end.

mod message;

use super::tree::Lineage;
use super::{Common, Running, identity, lock, sys, watcher};
use loom_core::fleet::Event;
use loom_core::ids::{RunId, UnitId};
use loom_core::lifecycle::{Identity, Notify};
use loom_core::unit::NotifyAccess;
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

/// The largest message; longer ones are dropped.
const MAX_MESSAGE_BYTES: usize = 4096;
/// How many datagrams are read in one turn, before others get theirs.
const TURN_MAX: usize = 64;
/// How many turns what a process said before its end may take.
const LAST_TURNS: usize = 16;
/// How long a unit's socket rests until the loop has taken its news; then it is read again in any case.
const TAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long the news of an end waits for what was said before it.
const HEAR_OUT_LIMIT: Duration = Duration::from_secs(2);
/// How many may wait for that at once, per unit.
const HEAR_OUT_QUEUE: usize = 8;

/// What listens at one unit's socket.
pub(super) struct Ear {
    task: tokio::task::AbortHandle,
    ends: mpsc::Sender<oneshot::Sender<()>>,
    /// How many of its events the loop has taken.
    taken: watch::Sender<u64>,
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ear {
    /// The loop has taken one of its events.
    pub(super) fn took(&self) {
        self.taken.send_modify(|taken| *taken += 1);
    }
}

/// Makes the unit's socket, in place of an older one, and listens until the returned ear is dropped.
pub(super) fn listen(unit: UnitId, path: &Path, common: &Arc<Common>, events: mpsc::Sender<Event>) -> io::Result<Ear> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {}
        Err(other) => return Err(other),
    }
    let socket = UnixDatagram::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    setsockopt(&socket, sockopt::PassCred, &true)?;
    socket.set_nonblocking(true)?;
    let socket = sys::wakeable(OwnedFd::from(socket), Interest::READABLE)?;
    let (ends, ended) = mpsc::channel(HEAR_OUT_QUEUE);
    let (taken, takes) = watch::channel(0);
    let listener = Listener {
        unit,
        common: Arc::downgrade(common),
        events,
        takes,
        sent: 0,
        refused_in: None,
        buffer: vec![0; MAX_MESSAGE_BYTES + 1],
    };
    let task = tokio::spawn(listener.run(socket, ended)).abort_handle();
    Ok(Ear { task, ends, taken })
}

/// The room, and all that this listens for, is gone.
struct Over;

struct Listener {
    unit: UnitId,
    common: std::sync::Weak<Common>,
    events: mpsc::Sender<Event>,
    takes: watch::Receiver<u64>,
    sent: u64,
    refused_in: Option<RunId>,
    buffer: Vec<u8>,
}

/// What one turn brought, in order.
enum News {
    Said(RunId, Notify),
    Main(RunId, Identity, Arc<OwnedFd>),
}

/// What a sender may say.
enum Verdict {
    /// There is no run, nor anything that helps one.
    NoRun,
    Refused(RunId),
    Heard(RunId),
}

impl Listener {
    async fn run(mut self, socket: AsyncFd<OwnedFd>, mut ended: mpsc::Receiver<oneshot::Sender<()>>) {
        loop {
            tokio::select! {
                ready = socket.readable() => {
                    let Ok(mut ready) = ready else { return };
                    match self.turn(socket.get_ref()).await {
                        Ok(true) => ready.clear_ready(),
                        Ok(false) => {}
                        Err(Over) => return,
                    }
                }
                Some(heard_out) = ended.recv() => {
                    for _ in 0..LAST_TURNS {
                        match self.turn(socket.get_ref()).await {
                            Ok(true) => break,
                            Ok(false) => {}
                            Err(Over) => return,
                        }
                    }
                    let _ = heard_out.send(());
                }
            }
        }
    }

    /// Reads what is there, up to [`TURN_MAX`]; gives whether that was all.
    async fn turn(&mut self, socket: &OwnedFd) -> Result<bool, Over> {
        let mut news: Vec<News> = Vec::new();
        // Closed once the loop has taken everything before them.
        let mut barriers = Vec::new();
        let mut emptied = false;
        {
            let Some(common) = self.common.upgrade() else { return Err(Over) };
            for _ in 0..TURN_MAX {
                let datagram = match sys::receive(socket.as_fd(), &mut self.buffer) {
                    Ok(datagram) => datagram,
                    Err(error) => {
                        if error.kind() != io::ErrorKind::WouldBlock {
                            tracing::warn!(unit = %self.unit, %error, "cannot read from the unit's notify socket");
                        }
                        emptied = true;
                        break;
                    }
                };
                self.take(&common, datagram, &mut news, &mut barriers);
            }
        }
        for one in news {
            self.sent += 1;
            let unit = self.unit.clone();
            match one {
                News::Said(run, notify) => {
                    self.events.send(Event::Notified { unit, run, notify }).await.map_err(|_| Over)?;
                }
                News::Main(run, identity, pidfd) => {
                    let pid = identity.pid;
                    self.events.send(Event::MainProcess { unit, run, identity }).await.map_err(|_| Over)?;
                    // Only now, so that its end is not told before it.
                    let Some(common) = self.common.upgrade() else { return Err(Over) };
                    common.watch_changed_main(&self.unit, run, pid, pidfd, &self.events);
                }
            }
        }
        let sent = self.sent;
        if tokio::time::timeout(TAKE_LIMIT, self.takes.wait_for(|taken| *taken >= sent)).await.is_err() {
            tracing::warn!(unit = %self.unit, limit_s = TAKE_LIMIT.as_secs(), "the loop did not take a unit's messages in time");
        }
        drop(barriers);
        Ok(emptied)
    }

    fn take(
        &mut self,
        common: &Arc<Common>,
        datagram: sys::Datagram,
        news: &mut Vec<News>,
        barriers: &mut Vec<OwnedFd>,
    ) {
        let from = datagram.sender.unwrap_or(0);
        let run = match common.judge(&self.unit, from) {
            Verdict::NoRun => return,
            Verdict::Refused(run) => {
                if self.refused_in != Some(run) {
                    self.refused_in = Some(run);
                    tracing::warn!(unit = %self.unit, %run, sender = from,
                        "refused a notify message: `ready.notify_access` does not name its sender");
                }
                return;
            }
            Verdict::Heard(run) => run,
        };
        if datagram.truncated || datagram.length > MAX_MESSAGE_BYTES {
            return;
        }
        let said = message::parse(&self.buffer[..datagram.length]);
        if let Some(pid) = said.main_pid
            && let Some((identity, pidfd)) = common.change_main(&self.unit, run, pid)
        {
            news.push(News::Main(run, identity, pidfd));
        }
        if said.unstore
            && let Some(name) = &said.name
        {
            common.drop_kept(&self.unit, name);
        } else if said.store {
            common.keep(&self.unit, said.name, !said.unwatched, datagram.descriptors);
        } else if said.barrier {
            barriers.extend(datagram.descriptors);
        }
        if said.notify == Notify::default() {
            return;
        }
        if let Some(News::Said(earlier, before)) = news.last_mut()
            && *earlier == run
            && let Some(folded) = message::fold(before, &said.notify)
        {
            *before = folded;
        } else {
            news.push(News::Said(run, said.notify));
        }
    }
}

impl Common {
    fn judge(&self, unit: &UnitId, from: i32) -> Verdict {
        let places = self.places();
        let Some(place) = places.get(unit) else { return Verdict::NoRun };
        let tree = place.current.as_ref().map(|current| lock(&current.main).tree.clone());
        let run = place.current.as_ref().map(|current| current.run);
        let Some(run) = run.or_else(|| place.helping.values().next().map(|helping| helping.run)) else {
            return Verdict::NoRun;
        };
        let access = place.access;
        let is_helping = place.helping.values().any(|helping| helping.run == run && helping.pid == from);
        let all = access == NotifyAccess::All;
        let helping = if all { place.helping.values().map(super::helping::Helping::tree).collect() } else { vec![] };
        drop(places);
        if from <= 0 {
            return Verdict::Refused(run);
        }
        let is_main = tree.as_ref().is_some_and(|tree| tree.main == Some(from));
        let is_heard = is_main
            || match access {
                NotifyAccess::Main => false,
                NotifyAccess::Exec => is_helping,
                NotifyAccess::All => {
                    is_helping || {
                        let lineage = Lineage::of(from);
                        tree.iter().chain(&helping).any(|tree| tree.holds(&lineage))
                    }
                }
            };
        if is_heard { Verdict::Heard(run) } else { Verdict::Refused(run) }
    }

    /// Makes another process of the run its main one, if it is proven to be one.
    fn change_main(&self, unit: &UnitId, run: RunId, pid: i32) -> Option<(Identity, Arc<OwnedFd>)> {
        let current = self.places().get(unit)?.current.clone().filter(|current| current.run == run)?;
        let (tree, before) = {
            let main = lock(&current.main);
            (main.tree.clone(), main.identity.clone()?)
        };
        if tree.main == Some(pid) {
            return None;
        }
        let proven = || {
            // The descriptor first: what is read afterwards is about the process it names, if that still lives at the end.
            let pidfd = sys::pidfd_open(pid).ok()?;
            let stat = identity::stat(pid)?;
            let is_ours = pid != std::process::id() as i32 && tree.holds(&Lineage::of(pid));
            (is_ours && !sys::has_ended(pidfd.as_fd())).then_some((pidfd, stat.start_ticks))
        };
        let Some((pidfd, start_ticks)) = proven() else {
            tracing::warn!(%unit, %run, pid, "ignored MAINPID=: that is no living process of the unit");
            return None;
        };
        let identity = Identity { pid, pidfd_inode: identity::pidfd_inode(&pidfd), start_ticks, ..before };
        let pidfd = Arc::new(pidfd);
        let mut main = lock(&current.main);
        main.tree.main = Some(pid);
        main.identity = Some(identity.clone());
        main.pidfd = Some(Arc::clone(&pidfd));
        Some((identity, pidfd))
    }

    fn watch_changed_main(
        self: &Arc<Self>,
        unit: &UnitId,
        run: RunId,
        pid: i32,
        pidfd: Arc<OwnedFd>,
        events: &mpsc::Sender<Event>,
    ) {
        let Some(Running { gone, .. }) = self.places().get(unit).and_then(|place| place.current.clone()) else {
            return;
        };
        let (common, unit, events) = (Arc::clone(self), unit.clone(), events.clone());
        // It becomes our child when its parent ends.
        common.children.watch(pid);
        tokio::spawn(async move {
            // Without a watch on it there is no end to tell of; the exit is unknown then.
            let _ = watcher::over(&pidfd).await;
            common.hear_out(&unit).await;
            let exit = watcher::any(pid, &pidfd, &common.children).await;
            if !common.is_retired(&unit, run, pid) {
                let _ = events.send(Event::Exited { unit, run, exit }).await;
                let _ = gone.send(true);
            }
        });
    }

    /// Whether another process has become the main one of this run.
    pub(super) fn is_retired(&self, unit: &UnitId, run: RunId, pid: i32) -> bool {
        let current = self.places().get(unit).and_then(|place| place.current.clone());
        current.is_some_and(|current| current.run == run && lock(&current.main).tree.main.is_some_and(|now| now != pid))
    }

    /// Waits until all is told that came before this moment on a unit's notify socket.
    pub(super) async fn hear_out(&self, unit: &UnitId) {
        let ends = self.places().get(unit).and_then(|place| place.ear.as_ref().map(|ear| ear.ends.clone()));
        let Some(ends) = ends else { return };
        let (tell, told) = oneshot::channel();
        let heard = async {
            if ends.send(tell).await.is_ok() {
                let _ = told.await;
            }
        };
        if tokio::time::timeout(HEAR_OUT_LIMIT, heard).await.is_err() {
            tracing::warn!(%unit, limit_s = HEAR_OUT_LIMIT.as_secs(), "does not wait longer for what a process said before its end");
        }
    }

    /// Waits for a child's end, for what it said before it, and reaps it.
    pub(super) async fn reap_after_hearing(
        &self,
        unit: &UnitId,
        pid: i32,
        pidfd: &Arc<OwnedFd>,
    ) -> loom_core::lifecycle::Exit {
        // Its pid is nobody else's until it is reaped, so what it sent can still be told to be its own.
        let _ = watcher::over(pidfd).await;
        self.hear_out(unit).await;
        watcher::child(pid, pidfd, &self.children).await
    }
}
