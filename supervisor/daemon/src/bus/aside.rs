//! aside: work that a unit is spared.
//!
//! Job: the events that ended several runs of a unit in a row, and what of an event is kept for a person to look at.
//! May touch: nothing. Keeps: at most [`ASIDE_MAX`] ids per unit, of which the oldest is forgotten first.

use bytes::Bytes;
use loom_api::wire::Header;
use std::collections::{HashSet, VecDeque};

/// Events that a unit is spared at once; beyond it the oldest may reach it again.
pub const ASIDE_MAX: usize = 1000;
/// What a dead letter keeps of its event's data.
pub const LETTER_DATA_MAX_BYTES: usize = 16 * 1024;
/// Events that a run had in hand when it ended, of which more than the id is kept until the next run.
const IN_HAND_KEPT: usize = 16;

/// Ids of events that a unit is spared.
#[derive(Debug, Default)]
pub struct Aside {
    order: VecDeque<String>,
    ids: HashSet<String>,
}

impl Aside {
    /// Adds an id; one that is there stays where it is.
    pub fn add(&mut self, id: &str) {
        if !self.ids.insert(id.to_owned()) {
            return;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > ASIDE_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    /// Whether the unit is spared this event.
    pub fn holds(&self, id: &str) -> bool {
        self.ids.contains(id)
    }
}

/// What is kept of an event that is set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub topic: String,
    /// Who sent it.
    pub source: String,
    /// Its first [`LETTER_DATA_MAX_BYTES`].
    pub data: Bytes,
    pub data_bytes: usize,
}

/// What a run had in hand when it ended: ids, with what is kept of their events.
#[derive(Debug, Default)]
pub struct InHand(Vec<(String, Letter)>);

impl InHand {
    /// Copies what is kept, so that large events are not held on to.
    pub fn of<'a>(events: impl Iterator<Item = (&'a Header, &'a Bytes)>) -> Self {
        let text =
            |header: &Header, key: &str| header.get(key).and_then(|it| it.as_str()).unwrap_or_default().to_owned();
        let kept = events.take(IN_HAND_KEPT).map(|(header, data)| {
            let head = &data[..data.len().min(LETTER_DATA_MAX_BYTES)];
            let letter = Letter {
                topic: text(header, "topic"),
                source: text(header, "source"),
                data: Bytes::copy_from_slice(head),
                data_bytes: data.len(),
            };
            (text(header, "id"), letter)
        });
        Self(kept.collect())
    }

    /// Whether it had nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is kept of that event, if it is.
    pub fn letter(&self, id: &str) -> Option<&Letter> {
        self.0.iter().find(|(known, _)| known == id).map(|(_, letter)| letter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_limit_the_oldest_is_forgotten() {
        let mut aside = Aside::default();
        for number in 0..=ASIDE_MAX {
            aside.add(&number.to_string());
        }
        // Once more changes nothing.
        aside.add(&ASIDE_MAX.to_string());
        assert!(!aside.holds("0") && aside.holds("1") && aside.holds(&ASIDE_MAX.to_string()));
        assert_eq!((aside.order.len(), aside.ids.len()), (ASIDE_MAX, ASIDE_MAX));
    }

    #[test]
    fn a_letter_keeps_the_beginning_of_a_long_event() {
        let header: Header = serde_json::from_str(r#"{"id":"a","topic":"t","source":"/people"}"#).unwrap();
        let data = Bytes::from(vec![b'x'; LETTER_DATA_MAX_BYTES + 1]);
        let hand = InHand::of([(&header, &data)].into_iter());
        let letter = hand.letter("a").unwrap();
        assert_eq!((letter.topic.as_str(), letter.source.as_str()), ("t", "/people"));
        assert_eq!((letter.data.len(), letter.data_bytes), (LETTER_DATA_MAX_BYTES, LETTER_DATA_MAX_BYTES + 1));
        assert_eq!(hand.letter("b"), None);
    }
}
