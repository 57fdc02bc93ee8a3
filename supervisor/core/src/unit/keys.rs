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
    /// true or false.
    Flag,
    /// What a unit waits for: names, or `{ unit = "…", until = "…" }`.
    Afters,
    /// A list of commands; a leading `-` on a program lets it fail.
    Commands,
    /// `path-exists:/x`, negated by a leading `!`.
    Conditions,
    /// A user's name or number.
    User,
    /// `"50%"`
    Percent,
    /// `"1.50"`
    Money,
    /// `http://address:port/path`
    ProbeUrl,
    /// `address:port`
    Address,
    /// The unit that a schedule starts.
    Started,
    /// Cron patterns, or calendar expressions: a text or a list of them.
    Expressions {
        /// Such as `0 9 * * MON-FRI`.
        example: &'static str,
    },
    /// `Europe/Berlin`
    TimeZone,
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
            | Shape::Rules(_)
            | Shape::Afters
            | Shape::Commands
            | Shape::Conditions
            | Shape::Expressions { .. } => true,
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
            | Shape::Url
            | Shape::Flag
            | Shape::User
            | Shape::Percent
            | Shape::Money
            | Shape::ProbeUrl
            | Shape::Address
            | Shape::Started
            | Shape::TimeZone => false,
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
    /// Tables below it with names of ours: `[health.startup]`.
    pub tables: Option<Tables>,
    /// For the schema and the reference.
    pub about: &'static str,
}

/// Tables of one form below a section.
#[derive(Debug)]
pub struct Tables {
    /// "probe"
    pub noun: &'static str,
    /// Their names, and what each is for.
    pub names: &'static [(&'static str, &'static str)],
    /// Keys of each.
    pub keys: &'static [Key],
}

impl Section {
    /// A key by name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

const ALL: &[Kind] = &[Kind::Agent, Kind::Service, Kind::Target, Kind::Schedule];
const SCHEDULES: &[Kind] = &[Kind::Schedule];
const TARGETS: &[Kind] = &[Kind::Target];
const PROCESSES: &[Kind] = &[Kind::Agent, Kind::Service];
const AGENTS: &[Kind] = &[Kind::Agent];

const fn key(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, shape, about }
}

/// Words of `ready.type`.
pub const READY_TYPES: &[&str] = &["exec", "notify", "notify-reload", "oneshot"];
/// Words of `ready.notify_access`.
pub const NOTIFY_ACCESSES: &[&str] = &["main", "exec", "all"];
/// Words of `until` in `unit.after`.
pub const UNTILS: &[&str] = &["started", "ready", "healthy", "exited", "succeeded"];
/// Words of `watchdog.progress_action`.
pub const PROGRESS_ACTIONS: &[&str] = &["notify", "interrupt", "restart"];
/// Words of `restart.limit_mode`.
pub const LIMIT_MODES: &[&str] = &["fail", "delay"];
/// Words of `stop.kill_mode`.
pub const KILL_MODES: &[&str] = &["mixed", "control-group", "process"];
/// Words of `limits.oom_policy`.
pub const OOM_POLICIES: &[&str] = &["continue", "stop", "kill"];
/// Words of `group.strategy`.
pub const GROUP_STRATEGIES: &[&str] = &["one-for-one", "rest-for-one", "one-for-all"];
/// Words of `schedule.from`.
pub const EVERY_FROM: &[&str] = &["start", "end"];
/// Words of `schedule.overlap`.
pub const OVERLAPS: &[&str] = &["skip", "queue-one", "restart", "parallel"];
/// Words of `schedule.on_interrupted`.
pub const ON_INTERRUPTED: &[&str] = &["report", "rerun"];
/// Names of the tests of `unit.conditions`, with an example of what follows the colon.
pub const CONDITIONS: &[(&str, &str)] = &[
    ("path-exists", "/etc/machine-id"),
    ("path-exists-glob", "/srv/inbox/*.json"),
    ("path-is-directory", "/srv/inbox"),
    ("directory-not-empty", "/srv/inbox"),
    ("file-not-empty", "/etc/hostname"),
    ("file-is-executable", "/usr/bin/git"),
    ("path-is-read-write", "/srv"),
    ("environment", "NAME=value"),
    ("ac-power", "true"),
    ("host", "build-*"),
    ("user", "@system"),
    ("architecture", "x86_64"),
    ("cpus", "4"),
    ("memory", "8G"),
];
/// Words of `restart.policy`.
pub const RESTART_POLICIES: &[&str] =
    &["no", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "always"];
/// Words of `sandbox.profile`.
pub const PROFILES: &[&str] = &["python", "native"];
/// Words of `sandbox.allow_unenforced`.
pub const PROMISES: &[&str] = &["files", "metadata", "hosts", "sockets", "processes", "kernel", "limits"];
/// Words of `llm.<name>.format`.
pub const LLM_FORMATS: &[&str] = &["openai-chat"];

/// The probes of `[health]`.
pub const PROBES: &[(&str, &str)] = &[
    ("startup", "Until it passes, the others are not asked; too many failures end the run."),
    ("readiness", "Withholds healthy from those who wait for it; never ends a run."),
    ("liveness", "Too many failures end the run with the result liveness."),
];

/// The keys of a probe of which one says what is done.
pub const CHECKS: &[&str] = &["exec", "http", "tcp", "unix"];

/// Keys of `[health.<probe>]`.
pub const PROBE: &[Key] = &[
    key("exec", Shape::Command, "Runs a program; exit 0 passes."),
    key("http", Shape::ProbeUrl, "GETs an address; 200 to 399 passes."),
    key("tcp", Shape::Address, "Connects to a port."),
    key("unix", Shape::Path, "Connects to a unix socket."),
    key("period", Shape::Time { least_ms: 1 }, "From the end of one to the beginning of the next. Default: 10s."),
    key("timeout", Shape::Time { least_ms: 1 }, "The longest that one may take. Default: 1s."),
    key("failures", Shape::Count { least: 1, most: 1_000 }, "Failures in a row that count. Default: 3."),
    key("successes", Shape::Count { least: 1, most: 1_000 }, "Successes in a row that count. Default: 1."),
];

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
        tables: None,
        about: "What it is and what it needs.",
        keys: &[
            key("description", Shape::Text, "One line for people."),
            key("documentation", Shape::Texts, "Where to read more: URLs or paths."),
            key("requires", Shape::Units, "Units that must be up first; implies after."),
            key("wants", Shape::Units, "Units that are started along, and may fail."),
            key("requisite", Shape::Units, "Units that must be up already: it pulls none in. Implies after."),
            key(
                "binds_to",
                Shape::Units,
                "As requires; and it stops when one of them goes down, however. Implies after.",
            ),
            key("part_of", Shape::Units, "Units whose stop or restart stops or restarts it too."),
            key(
                "upholds",
                Shape::Units,
                "As wants; and each is started again whenever it is down while this one is up.",
            ),
            key("conflicts", Shape::Units, "A start of one stops the other."),
            key(
                "after",
                Shape::Afters,
                "Units that it waits for, if both start. Until: started, ready (default), healthy, exited or succeeded.",
            ),
            key("before", Shape::Units, "Units whose start, if both start, comes later."),
            key("unordered", Shape::Flag, "requires, requisite and binds_to do not imply after. Default: false."),
            key("on_success", Shape::Units, "Units started when it came to a clean end."),
            key("on_failure", Shape::Units, "Units started at every failed run."),
            key("on_give_up", Shape::Units, "Units started when its start limit is hit, and only then."),
            key(
                "conditions",
                Shape::Conditions,
                "All must hold when it starts; else it does not, which is no failure.",
            ),
            key("job_timeout", Shape::Time { least_ms: 1 }, "A start that waits longer than this fails. Default: 1h."),
        ],
    },
    Section {
        name: "exec",
        kinds: PROCESSES,
        named: None,
        tables: None,
        about: "What runs.",
        keys: &[
            key("command", Shape::Command, "Program and arguments. A program without / is looked up in PATH."),
            key("start_pre", Shape::Commands, "Run one after the other before it; one that fails fails the start."),
            key("reload", Shape::Command, "Tells the running program to read its settings anew."),
            key("remain_after_exit", Shape::Flag, "A clean end leaves it active (exited). Default: false."),
            key("working_directory", Shape::Path, "Default: the unit's state directory %S."),
            key("environment", Shape::Environment, "Variables beside those that every unit gets."),
            key(
                "environment_file",
                Shape::Paths { write: false },
                "Files of NAME=value lines, read at each start; environment wins.",
            ),
            key("credentials", Shape::Credentials, "Name → file that only its owner can read."),
            key("user", Shape::User, "Whose process it is. Default: loomd's user. Another one needs a loomd of root."),
        ],
    },
    Section {
        name: "ready",
        kinds: PROCESSES,
        named: None,
        tables: None,
        about: "When it counts as up.",
        keys: &[
            key("type", Shape::Word { noun: "ready type", words: READY_TYPES }, "What counts as ready. Default: exec."),
            key("timeout", Shape::Time { least_ms: 1 }, "From spawn to ready, at most. Default: 90s."),
            key(
                "notify_access",
                Shape::Word { noun: "notify access", words: NOTIFY_ACCESSES },
                "Whose messages count: the main process's, also those of its other commands, or all. Default: main.",
            ),
        ],
    },
    Section {
        name: "watchdog",
        kinds: PROCESSES,
        named: None,
        tables: None,
        about: "Whether it must keep saying that it is alive, and that its work moves.",
        keys: &[
            key("interval", Shape::Time { least_ms: 1 }, "The longest silence between two WATCHDOG=1."),
            key("abort_timeout", Shape::Time { least_ms: 1 }, "Between SIGABRT and SIGKILL. Default: 10s."),
            key("progress", Shape::Time { least_ms: 1 }, "The longest time without progress. Off by default."),
            key(
                "progress_action",
                Shape::Word { noun: "progress action", words: PROGRESS_ACTIONS },
                "What follows then. Default: restart.",
            ),
        ],
    },
    Section {
        name: "health",
        kinds: PROCESSES,
        named: None,
        tables: Some(Tables { noun: "probe", names: PROBES, keys: PROBE }),
        about: "How its health is asked: probes run inside its sandbox.",
        keys: &[],
    },
    Section {
        name: "restart",
        kinds: PROCESSES,
        named: None,
        tables: None,
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
            key(
                "retry_after_max",
                Shape::Time { least_ms: 0 },
                "The longest wait that it may ask for with exit 75 or X_LOOM_RETRY_AFTER. Default: 24h.",
            ),
            key(
                "limit_burst",
                Shape::Count { least: 0, most: 1_000_000 },
                "Automatic starts within limit_interval, at most; 0 is no limit. Default: 0.",
            ),
            key("limit_interval", Shape::Time { least_ms: 1 }, "See limit_burst. Default: 10s."),
            key(
                "limit_mode",
                Shape::Word { noun: "limit mode", words: LIMIT_MODES },
                "At the limit it fails, or its next start waits. Default: fail.",
            ),
            key(
                "poison_after",
                Shape::Count { least: 0, most: 1_000 },
                "Runs in a row that die on one event or task before that is set aside; 0 is never. Default: 3.",
            ),
        ],
    },
    Section {
        name: "stop",
        kinds: PROCESSES,
        named: None,
        tables: None,
        about: "How it is ended.",
        keys: &[
            key("signal", Shape::Signal, "Sent to the main process first. Default: SIGTERM."),
            key("timeout", Shape::Time { least_ms: 1 }, "Until SIGKILL of the whole tree. Default: 30s."),
            key(
                "checkpoint",
                Shape::Time { least_ms: 1 },
                "How long it takes to save its work; timeout must allow for it.",
            ),
            key("command", Shape::Command, "Run first; the signal follows when it has ended."),
            key(
                "kill_mode",
                Shape::Word { noun: "kill mode", words: KILL_MODES },
                "Who gets the signal, and who is killed. Default: mixed: the main process; all.",
            ),
            key("post", Shape::Commands, "Run one after the other once nothing of the run is left, however it ended."),
        ],
    },
    Section {
        name: "budget",
        kinds: PROCESSES,
        named: None,
        tables: None,
        about: "What it may use up in a window of time, over all its runs.",
        keys: &[
            key("window", Shape::Time { least_ms: 1_000 }, "After this long everything is refilled. Default: 1d."),
            key("tokens", Shape::Count { least: 1, most: 1 << 53 }, "Tokens of models, as the agent reports them."),
            key("cost", Shape::Money, "Money, as the agent reports it."),
            key("calls", Shape::Count { least: 1, most: 1 << 53 }, "Tool calls."),
            key("time", Shape::Time { least_ms: 1 }, "Time during which a process ran."),
        ],
    },
    Section {
        name: "sandbox",
        kinds: PROCESSES,
        named: None,
        tables: None,
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
        tables: None,
        about: "How much it may use.",
        keys: &[
            key("open_files", Shape::Count { least: 16, most: 1_048_576 }, "Open descriptors. Default: 1024."),
            key("file_size", Shape::Size, "Largest file it can write. Default: 256M."),
            key("address_space", Shape::Size, "Address space per process. Off by default."),
            key("memory", Shape::Size, "Memory of all its processes together. Off by default."),
            key(
                "tasks",
                Shape::Count { least: 1, most: 4_194_304 },
                "Processes and threads, together. Off by default.",
            ),
            key("cpu", Shape::Percent, "Processor time, in percent of one processor. Off by default."),
            key(
                "oom_policy",
                Shape::Word { noun: "oom policy", words: OOM_POLICIES },
                "What follows when the kernel kills one of its processes, not the main one, for want of memory. \
                 Default: continue.",
            ),
        ],
    },
    Section {
        name: "bus",
        kinds: AGENTS,
        named: None,
        tables: None,
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
        tables: None,
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
        tables: None,
        about: "Which models it thinks with.",
        keys: &[key("default", Shape::Text, "The profile used when none is named.")],
    },
    Section {
        name: "group",
        kinds: TARGETS,
        named: None,
        tables: None,
        about: "How its members hang together.",
        keys: &[
            key("members", Shape::Units, "In the order of their start; implies wants, and that order."),
            key(
                "strategy",
                Shape::Word { noun: "group strategy", words: GROUP_STRATEGIES },
                "What the failure of one means for the others. Default: one-for-one.",
            ),
            key(
                "intensity",
                Shape::Count { least: 0, most: 1_000 },
                "Restarts of the group within period; one more fails it. Default: 3.",
            ),
            key("period", Shape::Time { least_ms: 1 }, "See intensity. Default: 60s."),
            key("significant", Shape::Units, "Members whose end ends the group."),
        ],
    },
    Section {
        name: "schedule",
        kinds: SCHEDULES,
        named: None,
        tables: None,
        about: "When a unit is started by the clock.",
        keys: &[
            key("unit", Shape::Started, "What is started. Default: the agent of the same name."),
            key("cron", Shape::Expressions { example: "0 9-17 * * MON-FRI" }, "Cron patterns."),
            key("calendar", Shape::Expressions { example: "Mon..Fri 09:00" }, "systemd's calendar expressions."),
            key("every", Shape::Time { least_ms: 100 }, "An interval; time in suspend counts."),
            key(
                "from",
                Shape::Word { noun: "point in time", words: EVERY_FROM },
                "Of the last run, from where the interval counts. Default: start.",
            ),
            key("align", Shape::Flag, "The interval is counted on the clock, not from the last run. Default: false."),
            key("on_startup", Shape::Time { least_ms: 0 }, "Once in each life of loomd, this long after it came up."),
            key("timezone", Shape::TimeZone, "Default: the machine's."),
            key(
                "accuracy",
                Shape::Time { least_ms: 0 },
                "How much later it may start, to share a wake-up. Default: 0s.",
            ),
            key("randomized_delay", Shape::Time { least_ms: 0 }, "Each slot waits up to this long. Default: 0s."),
            key("fixed_random_delay", Shape::Flag, "All slots wait equally long. Default: false."),
            key("persistent", Shape::Flag, "Slots that were missed are made up for by one run. Default: true."),
            key(
                "overlap",
                Shape::Word { noun: "overlap word", words: OVERLAPS },
                "What happens to a slot while the run of an earlier one goes on. Default: skip.",
            ),
            key(
                "on_interrupted",
                Shape::Word { noun: "on_interrupted word", words: ON_INTERRUPTED },
                "What follows a run that was lost with loomd or the machine. Default: report.",
            ),
            key(
                "limit_burst",
                Shape::Count { least: 1, most: 1_000_000 },
                "Starts within limit_interval; more fail the schedule. Default: 100.",
            ),
            key("limit_interval", Shape::Time { least_ms: 1 }, "See limit_burst. Default: 10s."),
        ],
    },
    Section {
        name: "install",
        kinds: ALL,
        named: None,
        tables: None,
        about: "Who pulls it in once it is enabled.",
        keys: &[
            key("wanted_by", Shape::Units, "Units that want it then."),
            key("required_by", Shape::Units, "Units that require it then."),
        ],
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
            let fixed = section.tables.as_ref().filter(|tables| tables.keys.iter().any(|known| known.name == key));
            let fixed = fixed.map(|tables| format!("[{}.<{}>]", section.name, tables.noun));
            own.into_iter().chain(named.then(|| format!("[{}.<name>]", section.name))).chain(fixed)
        })
        .collect()
}
