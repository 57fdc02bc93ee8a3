//! keys: every section and key of a unit file, once.
//!
//! Job: the table from which checking, suggestions and the JSON Schema follow. May touch: `ids`, `tools`.
//! Keeps: a key that is not here is an error everywhere.

use crate::ids::Kind;
use crate::tools::List;

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// Any text.
    Text,
    /// A list of texts.
    Texts,
    /// Full unit names.
    Units,
    /// Program and arguments.
    Command,
    /// One absolute path.
    Path,
    /// Absolute paths, each may start with `?`; those of `write` have more rules.
    Paths {
        /// Whether it grants writing.
        write: bool,
    },
    /// Variable → text.
    Environment,
    /// Name → absolute path.
    Credentials,
    /// One of some words.
    Word {
        /// "restart policy"
        noun: &'static str,
        /// All of them.
        words: &'static [&'static str],
    },
    /// Any of some words.
    Words {
        /// "promise"
        noun: &'static str,
        /// All of them.
        words: &'static [&'static str],
    },
    /// A time span, of at least so many milliseconds.
    Time {
        /// 0 or 1.
        least_ms: u64,
    },
    /// A number with bounds.
    Fraction {
        /// Smallest.
        least: f64,
        /// Largest.
        most: f64,
    },
    /// A whole number with bounds.
    Count {
        /// Smallest.
        least: u64,
        /// Largest.
        most: u64,
    },
    /// `"256M"`
    Size,
    /// Exit codes.
    ExitStatuses,
    /// `SIGTERM`
    Signal,
    /// `name:port`
    Hosts,
    /// TCP ports.
    Ports,
    /// Filters over topics.
    Filters,
    /// Tool rules of one list.
    Rules(List),
    /// `http://…`
    Url,
}

impl Shape {
    /// Whether `[extend.…]` can append to it.
    pub fn is_list(self) -> bool {
        match self {
            Shape::Texts
            | Shape::Units
            | Shape::Command
            | Shape::Paths { .. }
            | Shape::Words { .. }
            | Shape::ExitStatuses
            | Shape::Hosts
            | Shape::Ports
            | Shape::Filters
            | Shape::Rules(_) => true,
            Shape::Text
            | Shape::Path
            | Shape::Environment
            | Shape::Credentials
            | Shape::Word { .. }
            | Shape::Time { .. }
            | Shape::Fraction { .. }
            | Shape::Count { .. }
            | Shape::Size
            | Shape::Signal
            | Shape::Url => false,
        }
    }
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// As written.
    pub name: &'static str,
    /// What it may be.
    pub shape: Shape,
    /// For the schema and the reference.
    pub about: &'static str,
}

/// One section.
#[derive(Debug)]
pub struct Section {
    /// As written, without brackets.
    pub name: &'static str,
    /// Which kinds have it.
    pub kinds: &'static [Kind],
    /// Its keys.
    pub keys: &'static [Key],
    /// Tables below it with names of the writer's choice: `[llm.<name>]`.
    pub named: Option<&'static [Key]>,
    /// For the schema and the reference.
    pub about: &'static str,
}

impl Section {
    /// A key by name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

const ALL: &[Kind] = &[Kind::Agent, Kind::Service, Kind::Target, Kind::Schedule];
const PROCESSES: &[Kind] = &[Kind::Agent, Kind::Service];
const AGENTS: &[Kind] = &[Kind::Agent];

const fn key(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, shape, about }
}

/// Words of `ready.type`.
pub const READY_TYPES: &[&str] = &["exec", "notify", "oneshot"];
/// Words of `restart.policy`.
pub const RESTART_POLICIES: &[&str] =
    &["no", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "always"];
/// Words of `sandbox.profile`.
pub const PROFILES: &[&str] = &["python", "native"];
/// Words of `sandbox.allow_unenforced`.
pub const PROMISES: &[&str] = &["files", "metadata", "hosts", "sockets", "processes", "kernel", "limits"];
/// Words of `llm.<name>.format`.
pub const LLM_FORMATS: &[&str] = &["openai-chat"];

/// Keys of `[llm.<name>]`.
pub const LLM_PROFILE: &[Key] = &[
    key("format", Shape::Word { noun: "wire format", words: LLM_FORMATS }, "Wire format. Default: openai-chat."),
    key("base_url", Shape::Url, "Address up to and including /v1."),
    key("model", Shape::Text, "The model's name as the endpoint knows it."),
    key("credential", Shape::Text, "Name of a credential of [exec] that holds the key."),
    key("window", Shape::Count { least: 256, most: 16_777_216 }, "Tokens that fit. Default: 8192."),
    key("max_output", Shape::Count { least: 1, most: 1_048_576 }, "Tokens of an answer, at most. Default: 512."),
    key("temperature", Shape::Fraction { least: 0.0, most: 2.0 }, "Sent only when set."),
];

/// All sections.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "unit",
        kinds: ALL,
        named: None,
        about: "What it is and what it needs.",
        keys: &[
            key("description", Shape::Text, "One line for people."),
            key("documentation", Shape::Texts, "Where to read more: URLs or paths."),
            key("requires", Shape::Units, "Units that must be up first; implies after."),
            key("wants", Shape::Units, "Units that are started along, and may fail."),
            key("after", Shape::Units, "Units whose start, if both start, comes first."),
            key("before", Shape::Units, "Units whose start, if both start, comes later."),
        ],
    },
    Section {
        name: "exec",
        kinds: PROCESSES,
        named: None,
        about: "What runs.",
        keys: &[
            key("command", Shape::Command, "Program and arguments. A program without / is looked up in PATH."),
            key("working_directory", Shape::Path, "Default: the unit's state directory %S."),
            key("environment", Shape::Environment, "Variables beside those that every unit gets."),
            key("credentials", Shape::Credentials, "Name → file that only its owner can read."),
        ],
    },
    Section {
        name: "ready",
        kinds: PROCESSES,
        named: None,
        about: "When it counts as up.",
        keys: &[
            key("type", Shape::Word { noun: "ready type", words: READY_TYPES }, "What counts as ready. Default: exec."),
            key("timeout", Shape::Time { least_ms: 1 }, "From spawn to ready, at most. Default: 90s."),
        ],
    },
    Section {
        name: "watchdog",
        kinds: PROCESSES,
        named: None,
        about: "Whether it must keep saying that it is alive.",
        keys: &[
            key("interval", Shape::Time { least_ms: 1 }, "The longest silence between two WATCHDOG=1."),
            key("abort_timeout", Shape::Time { least_ms: 1 }, "Between SIGABRT and SIGKILL. Default: 10s."),
        ],
    },
    Section {
        name: "restart",
        kinds: PROCESSES,
        named: None,
        about: "What follows its end.",
        keys: &[
            key(
                "policy",
                Shape::Word { noun: "restart policy", words: RESTART_POLICIES },
                "Which ends are followed by a new run. Default: on-failure.",
            ),
            key("delay", Shape::Time { least_ms: 0 }, "Wait after the first failure. Default: 100ms."),
            key("factor", Shape::Fraction { least: 1.0, most: 100.0 }, "Growth per further failure. Default: 2."),
            key("max_delay", Shape::Time { least_ms: 0 }, "The longest wait. Default: 5min."),
            key("jitter", Shape::Fraction { least: 0.0, most: 1.0 }, "Up to this share is added. Default: 0.25."),
            key("reset_after", Shape::Time { least_ms: 1 }, "A run this long clears the failures. Default: 10min."),
            key("success_exit_status", Shape::ExitStatuses, "Exit codes that count as clean, beside 0."),
            key("prevent_exit_status", Shape::ExitStatuses, "Never restarted after these. Default: [78]."),
            key("force_exit_status", Shape::ExitStatuses, "Always restarted after these."),
        ],
    },
    Section {
        name: "stop",
        kinds: PROCESSES,
        named: None,
        about: "How it is ended.",
        keys: &[
            key("signal", Shape::Signal, "Sent to the main process first. Default: SIGTERM."),
            key("timeout", Shape::Time { least_ms: 1 }, "Until SIGKILL of the whole tree. Default: 30s."),
        ],
    },
    Section {
        name: "sandbox",
        kinds: PROCESSES,
        named: None,
        about: "What it reaches.",
        keys: &[
            key(
                "profile",
                Shape::Word { noun: "sandbox profile", words: PROFILES },
                "Default: python for agents, native for services.",
            ),
            key("read", Shape::Paths { write: false }, "Files and directories to read."),
            key("execute", Shape::Paths { write: false }, "Files and directories to read and execute."),
            key("write", Shape::Paths { write: true }, "Files and directories to read and write."),
            key("hosts", Shape::Hosts, "Hosts to reach: name:port, port 443 unless written."),
            key("listen", Shape::Ports, "TCP ports to listen on."),
            key(
                "allow_unenforced",
                Shape::Words { noun: "promise", words: PROMISES },
                "Promises that may be less than fully enforced.",
            ),
        ],
    },
    Section {
        name: "limits",
        kinds: PROCESSES,
        named: None,
        about: "How much it may use.",
        keys: &[
            key("open_files", Shape::Count { least: 16, most: 1_048_576 }, "Open descriptors. Default: 1024."),
            key("file_size", Shape::Size, "Largest file it can write. Default: 256M."),
            key("address_space", Shape::Size, "Address space per process. Off by default."),
        ],
    },
    Section {
        name: "bus",
        kinds: AGENTS,
        named: None,
        about: "What it may say and hear: filters over topics.",
        keys: &[
            key("publish", Shape::Filters, "What it may publish."),
            key("subscribe", Shape::Filters, "What it may subscribe to, beside its own mailbox."),
            key("request", Shape::Filters, "Where it may send requests."),
        ],
    },
    Section {
        name: "tools",
        kinds: AGENTS,
        named: None,
        about: "What it may have done.",
        keys: &[
            key("allow", Shape::Rules(List::Allow), "Rules that allow: fs:read(path=notes/**)."),
            key("deny", Shape::Rules(List::Deny), "Rules that refuse; they win."),
            key("workspace", Shape::Path, "Where relative paths start. Default: the working directory."),
            key("timeout", Shape::Time { least_ms: 1 }, "Longest time a call may take. Default: 30s."),
        ],
    },
    Section {
        name: "llm",
        kinds: AGENTS,
        named: Some(LLM_PROFILE),
        about: "Which models it thinks with.",
        keys: &[key("default", Shape::Text, "The profile used when none is named.")],
    },
];

/// A section by name.
pub fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name == name)
}

/// Sections that have a key of this name, as `[restart]`.
pub fn homes(key: &str) -> Vec<String> {
    SECTIONS
        .iter()
        .flat_map(|section| {
            let own = section.key(key).map(|_| format!("[{}]", section.name));
            let named = section.named.is_some_and(|keys| keys.iter().any(|known| known.name == key));
            own.into_iter().chain(named.then(|| format!("[{}.<name>]", section.name)))
        })
        .collect()
}
