//! topic: dotted names, filters and grants.
//!
//! Job: parse topics and filters, match them with a trie, decide by grants. May touch: `ids`, `unit`.
//! Keeps: `*` is exactly one segment, `>` one or more at the end; no grant opens another unit's mailbox;
//! a denial names the line that would allow.

use crate::ids::UnitId;
use crate::unit;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The longest topic or filter, in bytes.
pub const TOPIC_MAX_BYTES: usize = 255;
/// The most segments of a topic or filter.
pub const TOPIC_MAX_SEGMENTS: usize = 16;
/// The longest segment, in bytes. The owner's segment of a mailbox may fill the topic.
pub const SEGMENT_MAX_BYTES: usize = 64;

/// Only loomd publishes below it.
pub const ROOT_LOOM: &str = "loom";
/// Mailboxes: `unit.<u>.…`.
pub const ROOT_UNIT: &str = "unit";
/// Where answers go: `reply.<u>.<token>`. Never subscribed to.
pub const ROOT_REPLY: &str = "reply";
/// Dead letters: `dlq.<u>.<subscription>`.
pub const ROOT_DLQ: &str = "dlq";

/// A dotted name: 1 to 16 segments of 1 to 64 `A-Z a-z 0-9 _ -`, at most 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(String);

/// A topic in which a segment may be `*` (exactly one) and the last may be `>` (one or more).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter(String);

/// Why a text is no topic or filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTopic {
    /// Nothing, or nothing between two dots.
    #[error("`{0}` has an empty segment: write words with single dots between them")]
    EmptySegment(String),
    /// A character outside the alphabet.
    #[error("`{0}` has `{1}` in it: a segment is 1 to 64 of A-Z, a-z, 0-9, `_` and `-`")]
    Character(String, char),
    /// A segment over [`SEGMENT_MAX_BYTES`].
    #[error("`{0}` has a segment longer than {SEGMENT_MAX_BYTES} bytes")]
    LongSegment(String),
    /// Over [`TOPIC_MAX_BYTES`] or [`TOPIC_MAX_SEGMENTS`].
    #[error("a topic of {0} bytes: the limit is {TOPIC_MAX_BYTES} bytes and {TOPIC_MAX_SEGMENTS} segments")]
    TooLong(usize),
    /// `*` or `>` in a topic, beside other characters, or `>` before the end.
    #[error(
        "`{0}`: `*` stands for exactly one segment, `>` for one or more at the end of a filter; a topic has neither"
    )]
    Wildcard(String),
}

fn check(text: &str, wildcards: bool) -> Result<(), BadTopic> {
    if text.len() > TOPIC_MAX_BYTES || text.split('.').count() > TOPIC_MAX_SEGMENTS {
        return Err(BadTopic::TooLong(text.len()));
    }
    let owned_root = [ROOT_UNIT, ROOT_REPLY, ROOT_DLQ].contains(&text.split('.').next().unwrap_or_default());
    let last = text.split('.').count() - 1;
    for (index, segment) in text.split('.').enumerate() {
        let owner = owned_root && index == 1;
        match segment {
            "" => return Err(BadTopic::EmptySegment(text.to_owned())),
            "*" if wildcards => continue,
            ">" if wildcards && index == last => continue,
            _ => {}
        }
        if segment.contains(['*', '>']) {
            return Err(BadTopic::Wildcard(text.to_owned()));
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c) || (owner && "@:\\".contains(c));
        if let Some(odd) = segment.chars().find(|c| !fits(*c)) {
            return Err(BadTopic::Character(text.to_owned(), odd));
        }
        if segment.len() > SEGMENT_MAX_BYTES && !owner {
            return Err(BadTopic::LongSegment(text.to_owned()));
        }
    }
    Ok(())
}

impl Topic {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts between dots; at least one.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// First segment.
    pub fn root(&self) -> &str {
        self.segments().next().expect("splitting gives at least one part")
    }

    /// The `<u>` of `unit.<u>.…`, `reply.<u>.…` and `dlq.<u>.…`.
    fn owner(&self) -> Option<&str> {
        self.segments().nth(1)
    }
}

impl Filter {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts between dots; at least one.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether the topic is one of those it stands for.
    pub fn matches(&self, topic: &Topic) -> bool {
        let mut theirs = topic.segments();
        for mine in self.segments() {
            match (mine, theirs.next()) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (mine, Some(segment)) if mine == segment => {}
                (_, Some(_)) => return false,
            }
        }
        theirs.next().is_none()
    }

    /// Whether every topic that `other` stands for is one that this stands for.
    pub fn covers(&self, other: &Filter) -> bool {
        let mut theirs = other.segments();
        for mine in self.segments() {
            match (mine, theirs.next()) {
                (_, None) => return false,
                (">", Some(_)) => return true,
                (_, Some(">")) => return false,
                ("*", Some(_)) => {}
                (mine, Some(segment)) if mine == segment => {}
                (_, Some(_)) => return false,
            }
        }
        theirs.next().is_none()
    }

    /// Whether its first segment is written out.
    fn root(&self) -> Option<&str> {
        self.segments().next().filter(|segment| !matches!(*segment, "*" | ">"))
    }
}

macro_rules! as_text {
    ($type:ty, $wildcards:expr) => {
        impl FromStr for $type {
            type Err = BadTopic;
            fn from_str(text: &str) -> Result<Self, BadTopic> {
                check(text, $wildcards).map(|()| Self(text.to_owned()))
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
as_text!(Topic, false);
as_text!(Filter, true);

impl From<&Topic> for Filter {
    fn from(topic: &Topic) -> Self {
        Self(topic.0.clone())
    }
}

/// Filters with a value each; finding those that match costs by depth, not by their number.
#[derive(Debug, Clone)]
pub struct Trie<T> {
    root: Node<T>,
    len: usize,
}

#[derive(Debug, Clone)]
struct Node<T> {
    below: BTreeMap<String, Node<T>>,
    here: Vec<T>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { below: BTreeMap::new(), here: Vec::new() }
    }
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { root: Node::default(), len: 0 }
    }
}

impl<T: PartialEq> Trie<T> {
    /// Number of filters.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a filter with its value.
    pub fn insert(&mut self, filter: &Filter, value: T) {
        let mut node = &mut self.root;
        for segment in filter.segments() {
            if !node.below.contains_key(segment) {
                node.below.insert(segment.to_owned(), Node::default());
            }
            node = node.below.get_mut(segment).expect("inserted above");
        }
        node.here.push(value);
        self.len += 1;
    }

    /// Takes a filter with that value out; `false` if it was not there.
    pub fn remove(&mut self, filter: &Filter, value: &T) -> bool {
        fn walk<T: PartialEq>(node: &mut Node<T>, mut rest: std::str::Split<'_, char>, value: &T) -> bool {
            let Some(segment) = rest.next() else {
                let Some(at) = node.here.iter().position(|held| held == value) else { return false };
                node.here.swap_remove(at);
                return true;
            };
            let Some(child) = node.below.get_mut(segment) else { return false };
            let found = walk(child, rest, value);
            if child.here.is_empty() && child.below.is_empty() {
                node.below.remove(segment);
            }
            found
        }
        let found = walk(&mut self.root, filter.0.split('.'), value);
        self.len -= usize::from(found);
        found
    }

    /// Values of all filters that match, in no particular order.
    pub fn matches(&self, topic: &Topic) -> Vec<&T> {
        fn walk<'a, T>(node: &'a Node<T>, rest: &[&str], found: &mut Vec<&'a T>) {
            let Some((first, rest)) = rest.split_first() else {
                found.extend(&node.here);
                return;
            };
            if let Some(child) = node.below.get(*first) {
                walk(child, rest, found);
            }
            if let Some(child) = node.below.get("*") {
                walk(child, rest, found);
            }
            if let Some(child) = node.below.get(">") {
                found.extend(&child.here);
            }
        }
        let mut found = Vec::new();
        walk(&self.root, &topic.segments().collect::<Vec<_>>(), &mut found);
        found
    }
}

/// What a unit asks to do on the bus; the word is the key in `[bus]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Publish,
    Subscribe,
    Request,
}

impl Verb {
    /// The key in `[bus]`.
    pub fn word(self) -> &'static str {
        match self {
            Verb::Publish => "publish",
            Verb::Subscribe => "subscribe",
            Verb::Request => "request",
        }
    }
}

/// What may not be done, and which line would allow it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No line grants it.
    #[error(
        "`{unit}` may not {} `{topic}`: its unit file does not grant it. Add `{} = [\"{topic}\"]` to its [bus] section, \
         or \"{topic}\" to the list that is there; then `loomctl daemon-reload`",
        phrase(*verb), verb.word()
    )]
    NoGrant { unit: String, verb: Verb, topic: String },
    /// No line can grant it.
    #[error("`{unit}` may not {} `{topic}`: {why}; no line in a unit file grants that", phrase(*verb))]
    Reserved { unit: String, verb: Verb, topic: String, why: &'static str },
}

fn phrase(verb: Verb) -> &'static str {
    match verb {
        Verb::Publish => "publish on",
        Verb::Subscribe => "subscribe to",
        Verb::Request => "send requests to",
    }
}

/// What one unit may do on the bus.
#[derive(Debug, Clone)]
pub struct Grants {
    unit: String,
    mailbox: String,
    publish: Vec<Filter>,
    subscribe: Vec<Filter>,
    request: Vec<Filter>,
}

const ONLY_LOOMD: &str = "only loomd publishes below `loom.`";
const ONLY_ANSWERS: &str = "topics below `reply.` carry answers to requests and nothing else";
const ONLY_OWNER: &str = "only the unit itself receives from its mailbox and its dead letters";
const ONLY_BROKER: &str = "only the broker writes dead letters";

impl Grants {
    /// Grants from a unit's `[bus]`.
    pub fn new(unit: &UnitId, bus: &unit::Bus) -> Result<Self, BadTopic> {
        let parse = |list: &[String]| list.iter().map(|text| text.parse()).collect::<Result<Vec<Filter>, _>>();
        Ok(Self {
            unit: unit.to_string(),
            mailbox: unit.mailbox(),
            publish: parse(&bus.publish)?,
            subscribe: parse(&bus.subscribe)?,
            request: parse(&bus.request)?,
        })
    }

    /// The unit's own `<u>`.
    pub fn mailbox(&self) -> &str {
        &self.mailbox
    }

    /// Whether it may publish there. A wildcard as first segment does not reach mailboxes.
    pub fn may_publish(&self, topic: &Topic) -> Result<(), Denied> {
        match topic.root() {
            ROOT_LOOM => return Err(self.reserved(Verb::Publish, topic.as_str(), ONLY_LOOMD)),
            ROOT_REPLY => return Err(self.reserved(Verb::Publish, topic.as_str(), ONLY_ANSWERS)),
            ROOT_DLQ => return Err(self.reserved(Verb::Publish, topic.as_str(), ONLY_BROKER)),
            _ => {}
        }
        let mailbox = topic.root() == ROOT_UNIT;
        let granted = |grant: &Filter| grant.matches(topic) && (!mailbox || grant.root() == Some(ROOT_UNIT));
        self.decide(self.publish.iter().any(granted), Verb::Publish, topic.as_str())
    }

    /// Whether it may subscribe to that. What arrives is checked once more with [`Grants::may_receive`].
    pub fn may_subscribe(&self, filter: &Filter) -> Result<(), Denied> {
        let own = |root: &str| filter.root() == Some(root) && filter.segments().nth(1) == Some(&self.mailbox);
        if own(ROOT_UNIT) || own(ROOT_DLQ) {
            return Ok(());
        }
        match filter.root() {
            Some(ROOT_UNIT | ROOT_DLQ) => Err(self.reserved(Verb::Subscribe, filter.as_str(), ONLY_OWNER)),
            Some(ROOT_REPLY) => Err(self.reserved(Verb::Subscribe, filter.as_str(), ONLY_ANSWERS)),
            Some(_) | None => {
                self.decide(self.subscribe.iter().any(|grant| grant.covers(filter)), Verb::Subscribe, filter.as_str())
            }
        }
    }

    /// Whether an event on that topic may reach it, whatever its filters: others' mailboxes never.
    pub fn may_receive(&self, topic: &Topic) -> bool {
        match topic.root() {
            ROOT_UNIT | ROOT_DLQ => topic.owner() == Some(&self.mailbox),
            ROOT_REPLY => false,
            _ => true,
        }
    }

    /// Whether it may send requests there.
    pub fn may_request(&self, topic: &Topic) -> Result<(), Denied> {
        match topic.root() {
            ROOT_LOOM => Err(self.reserved(Verb::Request, topic.as_str(), ONLY_LOOMD)),
            ROOT_REPLY => Err(self.reserved(Verb::Request, topic.as_str(), ONLY_ANSWERS)),
            ROOT_DLQ => Err(self.reserved(Verb::Request, topic.as_str(), ONLY_BROKER)),
            _ => {
                let granted = self.request.iter().any(|grant| grant.matches(topic));
                self.decide(granted, Verb::Request, topic.as_str())
            }
        }
    }

    fn decide(&self, granted: bool, verb: Verb, topic: &str) -> Result<(), Denied> {
        if granted { Ok(()) } else { Err(Denied::NoGrant { unit: self.unit.clone(), verb, topic: topic.to_owned() }) }
    }

    fn reserved(&self, verb: Verb, topic: &str, why: &'static str) -> Denied {
        Denied::Reserved { unit: self.unit.clone(), verb, topic: topic.to_owned(), why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(text: &str) -> Filter {
        text.parse().unwrap()
    }

    fn topic(text: &str) -> Topic {
        text.parse().unwrap()
    }

    fn grants(publish: &[&str], subscribe: &[&str], request: &[&str]) -> Grants {
        let list = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        let bus = unit::Bus { publish: list(publish), subscribe: list(subscribe), request: list(request) };
        Grants::new(&"chat.agent".parse().unwrap(), &bus).unwrap()
    }

    #[test]
    fn a_star_is_exactly_one_segment_and_an_arrow_one_or_more_at_the_end() {
        let table = [
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.>", "a", false),
            ("a.>", "a.b", true),
            ("a.>", "a.b.c", true),
            (">", "a", true),
            ("*", "a", true),
            ("*", "a.b", false),
            ("*.b.>", "a.b.c", true),
            ("a.b", "a.b", true),
            ("a.b", "A.b", false),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(filter(pattern).matches(&topic(name)), expected, "{pattern} against {name}");
            let mut trie = Trie::default();
            trie.insert(&filter(pattern), 1);
            assert_eq!(!trie.matches(&topic(name)).is_empty(), expected, "trie: {pattern} against {name}");
        }
    }

    #[test]
    fn what_is_no_topic_is_refused_with_the_reason() {
        let long = "a".repeat(65);
        for text in ["", ".", "a.", ".a", "a..b", "a b", "a/b", "ä", "a.*", ">", "a.>.b", "x@y", &long] {
            assert!(text.parse::<Topic>().is_err(), "{text}");
        }
        for text in ["a.>.b", "a*", "a.b>", "**", ">.a"] {
            assert!(text.parse::<Filter>().is_err(), "{text}");
        }
        assert!(vec!["a"; 17].join(".").parse::<Topic>().is_err());
        assert!(vec!["a"; 16].join(".").parse::<Topic>().is_ok());
        assert!("unit.researcher@7.ask".parse::<Topic>().is_ok());
    }

    #[test]
    fn everything_granted_still_leaves_other_mailboxes_closed() {
        let all = grants(&[">"], &[">"], &[">"]);
        assert!(all.may_subscribe(&filter(">")).is_ok());
        assert!(all.may_subscribe(&filter("unit.chat.>")).is_ok());
        assert!(all.may_subscribe(&filter("unit.other.>")).is_err());
        assert!(all.may_subscribe(&filter("unit.*.ask")).is_err());
        assert!(all.may_subscribe(&filter("reply.chat.1")).is_err());
        assert!(all.may_receive(&topic("unit.chat.ask")) && !all.may_receive(&topic("unit.other.ask")));
        assert!(!all.may_receive(&topic("reply.other.1")));
        assert!(all.may_publish(&topic("unit.other.note")).is_err() && all.may_publish(&topic("a.b")).is_ok());
        assert!(all.may_publish(&topic("loom.unit.changed")).is_err());
        assert!(all.may_request(&topic("unit.other.ask")).is_ok());
    }

    #[test]
    fn without_grants_there_is_the_own_mailbox_and_nothing_else() {
        let none = grants(&[], &[], &[]);
        assert!(none.may_subscribe(&filter("unit.chat.>")).is_ok());
        assert!(none.may_subscribe(&filter("a.b")).is_err());
        assert!(none.may_publish(&topic("a.b")).is_err());
        assert!(none.may_request(&topic("unit.search.ask")).is_err());
    }

    #[test]
    fn a_denial_names_the_line_to_add() {
        let text = grants(&["a.>"], &[], &[]).may_publish(&topic("market.price.btc")).unwrap_err().to_string();
        assert_eq!(
            text,
            "`chat.agent` may not publish on `market.price.btc`: its unit file does not grant it. Add \
             `publish = [\"market.price.btc\"]` to its [bus] section, or \"market.price.btc\" to the list that is there; \
             then `loomctl daemon-reload`"
        );
    }

    #[test]
    fn two_units_never_share_a_mailbox() {
        let units = [
            "x.agent",
            "x.service",
            "x@1.agent",
            "x@1.service",
            "x@1_service.agent",
            "x@a.b.agent",
            "x@a.agent",
            "x@a\\x2eb.agent",
        ];
        let boxes: std::collections::BTreeSet<_> =
            units.iter().map(|u| u.parse::<UnitId>().unwrap().mailbox()).collect();
        assert_eq!(boxes.len(), units.len(), "{boxes:?}");
        for mailbox in boxes {
            let text = format!("unit.{mailbox}.ask");
            assert_eq!(text.parse::<Topic>().unwrap().segments().count(), 3, "{text}");
        }
    }

    fn any_filter() -> impl Strategy<Value = Filter> {
        let segment = prop_oneof![3 => "[ab]", 1 => Just("*".to_owned())];
        (proptest::collection::vec(segment, 1..4), any::<bool>()).prop_map(|(mut segments, tail)| {
            if tail {
                segments.push(">".to_owned());
            }
            segments.join(".").parse().unwrap()
        })
    }

    proptest! {
        #[test]
        fn the_trie_finds_what_one_by_one_matching_finds(
            filters in proptest::collection::vec(any_filter(), 0..20),
            name in "[ab](\\.[ab]){0,4}",
            gone in 0usize..20,
        ) {
            let (name, mut trie) = (topic(&name), Trie::default());
            for (index, filter) in filters.iter().enumerate() { trie.insert(filter, index); }
            if let Some(filter) = filters.get(gone) { prop_assert!(trie.remove(filter, &gone)); }
            let mut found: Vec<usize> = trie.matches(&name).into_iter().copied().collect();
            found.sort_unstable();
            let expected: Vec<usize> =
                (0..filters.len()).filter(|i| *i != gone && filters[*i].matches(&name)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn a_covering_filter_matches_all_that_the_covered_one_does(
            wide in any_filter(), narrow in any_filter(), name in "[ab](\\.[ab]){0,4}",
        ) {
            let name = topic(&name);
            if wide.covers(&narrow) && narrow.matches(&name) { prop_assert!(wide.matches(&name)); }
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in ".{0,300}") {
            let _ = text.parse::<Topic>();
            let _ = text.parse::<Filter>();
        }
    }
}
