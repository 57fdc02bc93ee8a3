//! looper/feed: what happened to units, for whoever listens.
//!
//! Job: keep the last [`EVENTS_KEPT`] events in memory, pass each on to every listener, and know when each unit's newest start
//! began and ended. May touch: nothing but its own memory. Keeps: telling never waits; a listener that reads too slowly is told
//! how many events it missed, in the place where they are missing.

use super::{Change, clock};
use loom_api::view::{LifeEvent, LifeNews, VERSION};
use loom_core::ids::{RunId, UnitId};
use loom_core::lifecycle::{ActiveState, Said, span};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Events that are remembered.
pub const EVENTS_KEPT: usize = 4096;
/// Events that wait for one listener; more are a gap.
pub const LISTENER_QUEUE: usize = 256;

/// When a unit's newest start began, and when it was active; milliseconds since the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Startup {
    pub began_at: Option<u64>,
    pub active_at: Option<u64>,
    /// The start, or what it brought up, goes on.
    underway: bool,
}

/// A clone is the same feed.
#[derive(Debug, Clone, Default)]
pub struct Feed {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    seq: u64,
    kept: VecDeque<LifeEvent>,
    listeners: Vec<Listener>,
    startups: BTreeMap<UnitId, Startup>,
}

#[derive(Debug)]
struct Listener {
    /// Empty: all.
    units: BTreeSet<UnitId>,
    sender: mpsc::Sender<LifeEvent>,
    missed: u64,
}

impl Feed {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics between two changes that belong together.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A unit changed its state.
    pub fn changed(&self, change: &Change) {
        let now = clock::wall();
        let mut inner = self.inner();
        inner.startups.entry(change.unit.clone()).or_default().take(change.to, change.sub, now);
        let news = LifeNews::Changed {
            from: change.from,
            to: change.to,
            sub_state: change.sub.to_owned(),
            result: change.result,
            because: change.because.clone(),
        };
        inner.tell(now, &change.unit, change.run, news);
    }

    /// Something about a unit is worth a word.
    pub fn said(&self, unit: &UnitId, run: RunId, said: &Said) {
        let news = LifeNews::Said { word: said.word().to_owned(), text: said_text(said) };
        self.inner().tell(clock::wall(), unit, run, news);
    }

    /// What is remembered of these units (none: of all) since that moment, and, from then on without a hole, what happens.
    pub fn listen(&self, units: BTreeSet<UnitId>, since: Option<u64>) -> (Vec<LifeEvent>, mpsc::Receiver<LifeEvent>) {
        let (sender, receiver) = mpsc::channel(LISTENER_QUEUE);
        let mut inner = self.inner();
        inner.listeners.retain(|listener| !listener.sender.is_closed());
        let kept = inner
            .kept
            .iter()
            .filter(|event| is_of(&units, event.unit.as_ref()) && since.is_none_or(|since| event.time >= since));
        let kept = kept.cloned().collect();
        inner.listeners.push(Listener { units, sender, missed: 0 });
        (kept, receiver)
    }

    /// What is remembered, as [`Feed::listen`] has it.
    pub fn kept(&self, units: &BTreeSet<UnitId>, since: Option<u64>) -> Vec<LifeEvent> {
        let inner = self.inner();
        let wanted =
            |event: &&LifeEvent| is_of(units, event.unit.as_ref()) && since.is_none_or(|since| event.time >= since);
        inner.kept.iter().filter(wanted).cloned().collect()
    }

    /// The newest start of a unit, as far as this loomd saw it.
    pub fn startup(&self, unit: &UnitId) -> Startup {
        self.inner().startups.get(unit).copied().unwrap_or_default()
    }

    /// Forgets the starts of units that are no more.
    pub fn forget_all_but(&self, known: &BTreeSet<UnitId>) {
        self.inner().startups.retain(|unit, _| known.contains(unit));
    }
}

fn is_of(units: &BTreeSet<UnitId>, unit: Option<&UnitId>) -> bool {
    units.is_empty() || unit.is_some_and(|unit| units.contains(unit))
}

impl Inner {
    fn tell(&mut self, time: u64, unit: &UnitId, run: RunId, news: LifeNews) {
        self.seq += 1;
        let event = LifeEvent { version: VERSION, seq: self.seq, time, unit: Some(unit.clone()), run: Some(run), news };
        self.listeners.retain_mut(|listener| listener.take(&event));
        if self.kept.len() == EVENTS_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(event);
    }
}

impl Listener {
    /// Whether it still listens.
    fn take(&mut self, event: &LifeEvent) -> bool {
        if !is_of(&self.units, event.unit.as_ref()) {
            return !self.sender.is_closed();
        }
        if self.missed > 0 {
            let news = LifeNews::Gap { missed: self.missed };
            let gap = LifeEvent { version: VERSION, seq: event.seq, time: event.time, unit: None, run: None, news };
            if self.sender.try_send(gap).is_ok() {
                self.missed = 0;
            }
        }
        if self.missed == 0 && self.sender.try_send(event.clone()).is_ok() {
            return true;
        }
        self.missed += 1;
        !self.sender.is_closed()
    }
}

impl Startup {
    fn take(&mut self, to: ActiveState, sub: &str, now: u64) {
        match to {
            // It is not being started, it waits for that.
            ActiveState::Activating if matches!(sub, "waiting" | "auto-restart") => self.underway = false,
            ActiveState::Activating if !self.underway => {
                *self = Self { began_at: Some(now), active_at: None, underway: true };
            }
            ActiveState::Active if !self.underway => {
                *self = Self { began_at: Some(now), active_at: Some(now), underway: true };
            }
            ActiveState::Active => {
                self.active_at.get_or_insert(now);
            }
            ActiveState::Activating | ActiveState::Reloading => {}
            ActiveState::Deactivating | ActiveState::Inactive | ActiveState::Failed => self.underway = false,
        }
    }
}

/// For people.
pub fn said_text(said: &Said) -> String {
    match said {
        Said::CrashLooping { failures } => format!("it has failed {failures} times in a row"),
        Said::NoProgress { since } => format!("its work has not moved for {}", span(*since)),
        Said::Poisoned { work, deaths } => {
            format!("`{work}` is set aside: {deaths} runs in a row ended while working on it")
        }
        Said::OomKilled => "a process of it was killed for want of memory".to_owned(),
        Said::ReloadFailed { because } => format!("its reload failed: {because}"),
        Said::BudgetExhausted { what, until } => {
            format!("its {what} are used up until {until} ms after the epoch; a start is refused until then")
        }
        Said::Healthy { healthy: true } => "its readiness probe succeeds".to_owned(),
        Said::Healthy { healthy: false } => "its readiness probe fails".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use loom_core::lifecycle::RunResult;

    fn change(unit: &str, from: ActiveState, to: ActiveState, sub: &'static str) -> Change {
        let unit = unit.parse().unwrap();
        Change { unit, run: RunId(1), from, to, sub, result: RunResult::Success, because: "a test".into() }
    }

    fn start(feed: &Feed, unit: &str) {
        feed.changed(&change(unit, ActiveState::Inactive, ActiveState::Activating, "start"));
    }

    #[test]
    fn a_listener_that_reads_too_slowly_is_told_how_much_it_missed() {
        let feed = Feed::default();
        let (_, mut slow) = feed.listen(BTreeSet::new(), None);
        let (_, mut other) = feed.listen(["b.agent".parse().unwrap()].into(), None);
        (0..LISTENER_QUEUE + 7).for_each(|_| start(&feed, "a.agent"));
        let first: Vec<u64> = (0..LISTENER_QUEUE).map(|_| slow.try_recv().unwrap().seq).collect();
        assert_eq!((first[0], first[LISTENER_QUEUE - 1]), (1, LISTENER_QUEUE as u64));
        start(&feed, "b.agent");
        assert_eq!(slow.try_recv().unwrap().news, LifeNews::Gap { missed: 7 });
        assert_eq!(slow.try_recv().unwrap().unit, Some("b.agent".parse().unwrap()));
        assert!(slow.try_recv().is_err());
        assert_eq!(other.try_recv().unwrap().seq, LISTENER_QUEUE as u64 + 8, "it asked for one unit only");
    }

    #[test]
    fn only_so_many_events_are_remembered_and_who_went_away_is_forgotten() {
        let feed = Feed::default();
        drop(feed.listen(BTreeSet::new(), None));
        (0..EVENTS_KEPT + 3).for_each(|_| start(&feed, "a.agent"));
        let kept = feed.kept(&BTreeSet::new(), None);
        assert_eq!((kept.len(), kept[0].seq), (EVENTS_KEPT, 4));
        assert!(feed.inner().listeners.is_empty());
        assert!(feed.kept(&BTreeSet::new(), Some(u64::MAX)).is_empty());
    }

    #[test]
    #[rustfmt::skip]
    fn a_start_lasts_from_its_first_step_until_the_unit_is_active() {
        use ActiveState::*;
        let mut startup = Startup::default();
        let steps = [
            (Activating, "waiting", 10, (None, None)),
            (Activating, "start-pre", 20, (Some(20), None)),
            (Activating, "start", 25, (Some(20), None)),
            (Active, "running", 30, (Some(20), Some(30))),
            (Reloading, "reload", 40, (Some(20), Some(30))),
            (Active, "running", 41, (Some(20), Some(30))),
            (Deactivating, "stop-post", 50, (Some(20), Some(30))),
            (Activating, "auto-restart", 51, (Some(20), Some(30))),
            (Activating, "start", 60, (Some(60), None)),
            (Failed, "failed", 61, (Some(60), None)),
            (Active, "active", 70, (Some(70), Some(70))),
        ];
        for (to, sub, at, expected) in steps {
            startup.take(to, sub, at);
            assert_eq!((startup.began_at, startup.active_at), expected, "{sub} at {at}");
        }
    }
}
