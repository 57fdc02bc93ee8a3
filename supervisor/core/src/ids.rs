//! ids: names, numbers and times that cannot be mixed up.
//!
//! Job: parse at the edge, so that inside a name is valid because it exists.
//! May touch: nothing. Keeps: every value of these types is safe as a file name and as a topic part.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The longest whole unit name, `name@instance.kind`, in bytes.
pub const UNIT_ID_MAX_BYTES: usize = 255;

/// What a unit file declares; the suffix of its file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A process with a bus connection, state, memory and tools.
    Agent,
    /// Any other process.
    Service,
    /// A group of units.
    Target,
    /// Starts another unit by the clock.
    Schedule,
}

impl Kind {
    /// All kinds, in the order in which a bare name is looked up.
    pub const ALL: [Kind; 4] = [Kind::Agent, Kind::Service, Kind::Target, Kind::Schedule];

    /// The word used in file names and on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Agent => "agent",
            Kind::Service => "service",
            Kind::Target => "target",
            Kind::Schedule => "schedule",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A unit's name without instance and kind: 1 to 64 of `a-z 0-9 -`, first a letter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName(String);

/// A unit: name, instance text if it is made from a template, and kind. Shown as `name@instance.kind`.
///
/// `instance` is `None` for a plain unit, `Some("")` for the template itself, else the instance's text:
/// `[A-Za-z0-9:_.-]` and `\xNN` escapes, so that it can never form a path step.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitId {
    name: UnitName,
    instance: Option<String>,
    kind: Kind,
}

/// Why a text is no unit name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUnitName {
    /// The part before `@` or `.` breaks the rule.
    #[error("`{0}` is no unit name: use 1 to 64 of a-z, 0-9 and `-`, starting with a letter")]
    Name(String),
    /// The part between `@` and the kind breaks the rule.
    #[error("`{0}` is no instance name: use A-Z, a-z, 0-9, `:`, `_`, `.`, `-` and `\\xNN`")]
    Instance(String),
    /// The suffix is no kind.
    #[error("`{0}` does not end in a kind of unit: use .agent, .service, .target or .schedule")]
    Kind(String),
    /// Longer than [`UNIT_ID_MAX_BYTES`].
    #[error("`{0}` is longer than {UNIT_ID_MAX_BYTES} bytes")]
    TooLong(String),
}

impl UnitName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UnitName {
    type Err = BadUnitName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=64).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(Self(text.to_owned())) } else { Err(BadUnitName::Name(text.to_owned())) }
    }
}

impl UnitId {
    /// A unit that is no instance.
    pub fn plain(name: UnitName, kind: Kind) -> Self {
        Self { name, instance: None, kind }
    }

    /// The name without instance and kind.
    pub fn name(&self) -> &UnitName {
        &self.name
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The instance's text; `None` for a plain unit and for a template.
    pub fn instance(&self) -> Option<&str> {
        self.instance.as_deref().filter(|text| !text.is_empty())
    }

    /// Whether this is a template, which cannot be started itself.
    pub fn is_template(&self) -> bool {
        self.instance.as_deref() == Some("")
    }

    /// The template that an instance is made from.
    pub fn template(&self) -> Option<UnitId> {
        self.instance().map(|_| Self { name: self.name.clone(), instance: Some(String::new()), kind: self.kind })
    }

    /// The `<u>` of the topics `unit.<u>.…`: `chat` for agents, `researcher@7` for their instances, `name_kind` otherwise.
    ///
    /// What an instance's text has beyond `A-Z a-z 0-9 - :` is written as `\xNN`, so that two units never share a mailbox
    /// and an instance called `a.b` owns nothing below `a`.
    pub fn mailbox(&self) -> String {
        let mut text = self.name.0.clone();
        if let Some(instance) = self.instance() {
            text.push('@');
            for c in instance.chars() {
                if c.is_ascii_alphanumeric() || "-:".contains(c) {
                    text.push(c);
                } else {
                    text.push_str(&format!("\\x{:02x}", u32::from(c)));
                }
            }
        }
        match self.kind {
            Kind::Agent => text,
            kind @ (Kind::Service | Kind::Target | Kind::Schedule) => format!("{text}_{kind}"),
        }
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.instance {
            Some(instance) => write!(f, "{}@{instance}.{}", self.name, self.kind),
            None => write!(f, "{}.{}", self.name, self.kind),
        }
    }
}

impl FromStr for UnitId {
    type Err = BadUnitName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > UNIT_ID_MAX_BYTES {
            return Err(BadUnitName::TooLong(text.to_owned()));
        }
        let no_kind = || BadUnitName::Kind(text.to_owned());
        let (stem, suffix) = text.rsplit_once('.').ok_or_else(no_kind)?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.word() == suffix).ok_or_else(no_kind)?;
        let (name, instance) = match stem.split_once('@') {
            Some((name, instance)) => (name, Some(instance)),
            None => (stem, None),
        };
        if let Some(instance) = instance
            && !instance_fits(instance)
        {
            return Err(BadUnitName::Instance(instance.to_owned()));
        }
        Ok(Self { name: name.parse()?, instance: instance.map(str::to_owned), kind })
    }
}

fn instance_fits(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let fits = match byte {
            b'\\' => {
                bytes.next() == Some(b'x')
                    && bytes.next().is_some_and(|b| b.is_ascii_hexdigit())
                    && bytes.next().is_some_and(|b| b.is_ascii_hexdigit())
            }
            _ => byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'.' | b'-'),
        };
        if !fits {
            return false;
        }
    }
    true
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = BadUnitName;
            fn try_from(text: String) -> Result<Self, Self::Error> { text.parse() }
        }
        impl From<$type> for String {
            fn from(value: $type) -> String { value.to_string() }
        }
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> { stringify!($type).into() }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "maxLength": UNIT_ID_MAX_BYTES })
            }
        }
    )*};
}
as_text!(UnitName, UnitId);

/// One life of a unit's process. Numbered from 1, only grows, never reused; 0 means "none yet". Also the fencing epoch.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct RunId(pub u64);

impl RunId {
    /// The run after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A point on the boot clock without suspend (`CLOCK_MONOTONIC`), in milliseconds; or a span of it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl std::ops::Add for Millis {
    type Output = Millis;
    fn add(self, other: Millis) -> Millis {
        Millis(self.0.saturating_add(other.0))
    }
}

impl std::ops::Sub for Millis {
    type Output = Millis;
    fn sub(self, other: Millis) -> Millis {
        Millis(self.0.saturating_sub(other.0))
    }
}

/// A value that must not be seen: prints as `***`.
#[derive(Clone)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Hides a value.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, for the one place that needs it.
    pub fn reveal(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_id_reads_back_as_it_was_written() {
        for text in ["chat.agent", "local-llm.service", "a@.agent", "a@x:7_.-\\x2f.agent", "all.target"] {
            let id: UnitId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn a_name_that_could_leave_its_directory_is_refused() {
        for text in [
            "",
            ".agent",
            "../x.agent",
            "a/b.agent",
            "A.agent",
            "a@../b.agent",
            "a@b/c.agent",
            "a@\\x2.agent",
            "a",
            "a.job",
        ] {
            assert!(text.parse::<UnitId>().is_err(), "{text}");
        }
        assert!(format!("{}.agent", "a".repeat(65)).parse::<UnitId>().is_err());
        assert!(format!("a@{}.agent", "b".repeat(300)).parse::<UnitId>().is_err());
    }
}
