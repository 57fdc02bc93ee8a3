//! values: the small languages inside unit files.
//!
//! Job: time spans, sizes, signals, hosts, filters, paths: text → value, or why not and what was meant.
//! May touch: `unit`'s types, `topic`. Keeps: no text makes it panic; a filter that is good here is one for the bus.

use super::HostGrant;
use crate::topic::{BadTopic, Filter, SEGMENT_MAX_BYTES, TOPIC_MAX_BYTES, TOPIC_MAX_SEGMENTS};

/// Why a text is no such value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong, without the key's name.
    pub what: String,
    /// Note at the place.
    pub label: String,
    /// The way out.
    pub help: String,
}

fn wrong<T>(what: impl Into<String>, label: impl Into<String>, help: impl Into<String>) -> Result<T, Wrong> {
    Err(Wrong { what: what.into(), label: label.into(), help: help.into() })
}

/// The longest time span: a hundred years.
pub const TIME_MAX_MS: u64 = 100 * 31_557_600_000;

const UNITS: &[(&str, f64)] = &[
    ("usec", 0.001),
    ("us", 0.001),
    ("µs", 0.001),
    ("msec", 1.0),
    ("ms", 1.0),
    ("seconds", 1_000.0),
    ("second", 1_000.0),
    ("sec", 1_000.0),
    ("s", 1_000.0),
    ("minutes", 60_000.0),
    ("minute", 60_000.0),
    ("min", 60_000.0),
    ("m", 60_000.0),
    ("hours", 3_600_000.0),
    ("hour", 3_600_000.0),
    ("hr", 3_600_000.0),
    ("h", 3_600_000.0),
    ("days", 86_400_000.0),
    ("day", 86_400_000.0),
    ("d", 86_400_000.0),
    ("weeks", 604_800_000.0),
    ("week", 604_800_000.0),
    ("w", 604_800_000.0),
    ("months", 2_629_800_000.0),
    ("month", 2_629_800_000.0),
    ("M", 2_629_800_000.0),
    ("years", 31_557_600_000.0),
    ("year", 31_557_600_000.0),
    ("y", 31_557_600_000.0),
];

/// A time span as systemd writes it: `1min 30s`, `500ms`, `2h`. In milliseconds, rounded up.
pub fn time(text: &str) -> Result<u64, Wrong> {
    const FORM: &str = "a time span is written like \"30s\", \"500ms\", \"1min 30s\", \"2h\" or \"1d\"";
    let mut rest = text.trim();
    if rest.is_empty() {
        return wrong("an empty text is no time span", "no time", FORM);
    }
    if matches!(rest, "infinity" | "never" | "forever") {
        return wrong(
            format!("`{rest}` has no end"),
            "no time span",
            "everything ends: write a long time, such as \"1y\"",
        );
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let Ok(number) = number.parse::<f64>() else {
            return wrong(format!("`{text}` is no time span"), "not a time", FORM);
        };
        let tail = tail.trim_start();
        let letters = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        if unit.is_empty() {
            return wrong(
                format!("`{text}` has a number without a unit of time"),
                "seconds? minutes?",
                format!("write \"{}s\" if seconds are meant", text.trim()),
            );
        }
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return wrong(format!("`{unit}` is no unit of time"), "not a time", FORM);
        };
        total += number * factor;
        rest = tail.trim_start();
    }
    // The product is finite or infinite but never NaN: no factor is zero and no number is.
    let millis = (total - 1e-6).max(0.0).ceil();
    if millis > TIME_MAX_MS as f64 {
        return wrong(format!("`{text}` is longer than 100 years"), "too long", "write a shorter time");
    }
    Ok(millis as u64)
}

/// A size: `256M`. Steps of 1024; bytes.
pub fn size(text: &str) -> Result<u64, Wrong> {
    const FORM: &str = "a size is written like \"64K\", \"256M\" or \"2G\"; K, M, G and T are steps of 1024";
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return wrong(format!("`{text}` is no size"), "not a size", FORM);
    }
    let shift = match unit.trim() {
        "" | "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        other => {
            let letter = other.chars().next().map(|c| c.to_ascii_uppercase()).filter(|c| "KMGT".contains(*c));
            return match letter {
                Some(letter) => wrong(
                    format!("`{other}` is no unit of size"),
                    "not a size",
                    format!("did you mean \"{number}{letter}\"?"),
                ),
                None => wrong(format!("`{other}` is no unit of size"), "not a size", FORM),
            };
        }
    };
    match number.parse::<u64>().ok().and_then(|n| n.checked_mul(1_u64 << shift)).filter(|n| *n <= i64::MAX as u64) {
        Some(bytes) => Ok(bytes),
        None => wrong(format!("`{text}` is larger than any file"), "too large", FORM),
    }
}

const SIGNALS: &[(&str, i32)] = &[
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// `SIGTERM` or `TERM` → 15.
pub fn signal(text: &str) -> Result<i32, Wrong> {
    let short = text.strip_prefix("SIG").unwrap_or(text);
    if let Some((name, number)) = SIGNALS.iter().find(|(name, _)| *name == short) {
        return match name {
            &("CHLD" | "CONT" | "STOP" | "TSTP" | "TTIN" | "TTOU" | "URG" | "WINCH") => wrong(
                format!("`{text}` does not end a process"),
                "not a signal to stop with",
                "write \"SIGTERM\", \"SIGINT\", \"SIGQUIT\" or \"SIGHUP\"",
            ),
            _ => Ok(*number),
        };
    }
    let upper = text.to_ascii_uppercase();
    let upper = upper.strip_prefix("SIG").unwrap_or(&upper);
    let meant = super::words::nearest(upper, SIGNALS.iter().map(|(name, _)| *name));
    let help = match meant {
        Some(name) => format!("did you mean `SIG{name}`?"),
        None => "signals have names such as SIGTERM, SIGINT, SIGHUP".to_owned(),
    };
    wrong(format!("unknown signal `{text}`"), "not a signal", help)
}

/// A signal's name, for its number.
pub fn signal_name(number: i64) -> Option<String> {
    SIGNALS.iter().find(|(_, known)| i64::from(*known) == number).map(|(name, _)| format!("SIG{name}"))
}

/// A line of `hosts`.
pub fn host(text: &str) -> Result<HostGrant, Wrong> {
    const FORM: &str = "write a name with or without port: \"api.openai.com\", \"*.arxiv.org\", \"127.0.0.1:8080\"";
    let no_host = |label: &str, help: String| wrong(format!("`{text}` is no host"), label, help);
    if let Some((_, rest)) = text.split_once("://") {
        let bare = rest.split(['/', '?', '#']).next().unwrap_or("");
        let bare = bare.rsplit_once('@').map_or(bare, |(_, host)| host);
        let port = if text.starts_with("http://") && !bare.contains(':') { ":80" } else { "" };
        return no_host("a URL, not a host", format!("write \"{bare}{port}\""));
    }
    if text.contains('/') {
        return no_host("has a `/`", format!("grants are by host, not by path: {FORM}"));
    }
    let (name, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, tail)) = rest.split_once(']') else {
            return no_host("`]` is missing", FORM.to_owned());
        };
        if address.parse::<core::net::Ipv6Addr>().is_err() {
            return no_host("not an address", FORM.to_owned());
        }
        match tail.strip_prefix(':') {
            Some(port) => (address, Some(port)),
            None if tail.is_empty() => (address, None),
            None => return no_host("what follows `]`?", FORM.to_owned()),
        }
    } else if text.parse::<core::net::Ipv6Addr>().is_ok() {
        return no_host("an address without brackets", format!("write \"[{text}]\""));
    } else {
        match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        None => 443,
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port > 0 => port,
            Ok(_) | Err(_) => {
                return wrong(format!("`{port}` is no TCP port"), "not a port", "ports are numbers from 1 to 65535");
            }
        },
    };
    if name == "*" {
        return no_host(
            "every host",
            "name the hosts that are needed; `*.example.org` is everything below a name".into(),
        );
    }
    if name.parse::<core::net::IpAddr>().is_ok() {
        return Ok(HostGrant { host: name.to_owned(), port });
    }
    let labels = name.strip_prefix("*.").unwrap_or(name);
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if labels.len() > 253 || !labels.split('.').all(label_fits) {
        let (label, help) = if name.contains('*') {
            ("`*` may only stand in front", "write \"*.example.org\" for every name below example.org".to_owned())
        } else if !name.is_ascii() {
            ("not ASCII", "write the name in its ASCII form: \"xn--…\"".to_owned())
        } else {
            ("not a host", FORM.to_owned())
        };
        return no_host(label, help);
    }
    if labels.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
        return no_host("not an address", "an address is four numbers from 0 to 255".to_owned());
    }
    Ok(HostGrant { host: name.to_ascii_lowercase(), port })
}

/// Whether a grant admits a host and port.
pub fn admits(grant: &HostGrant, host: &str, port: u16) -> bool {
    let below = grant.host.strip_prefix('*').is_some_and(|tail| host.ends_with(tail) && host.len() > tail.len());
    grant.port == port && (grant.host == host || below)
}

/// `http(s)://host[:port]/…` → host in lower case and port.
pub fn url(text: &str) -> Result<(String, u16), Wrong> {
    const FORM: &str = "write it like \"https://api.openai.com/v1\" or \"http://127.0.0.1:8080/v1\"";
    let bad = |label: &str| wrong(format!("`{text}` is no address of a model"), label, FORM);
    let (rest, standard) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (rest, 443),
        (None, Some(rest)) => (rest, 80),
        (None, None) => return bad("`http://` or `https://` is missing"),
    };
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return bad("has a space");
    }
    if text.contains(['?', '#']) {
        return bad("a query does not belong here");
    }
    let authority = rest.split('/').next().unwrap_or("");
    if authority.contains('@') {
        return wrong(
            "a key does not belong in `base_url`",
            "has a user name",
            "put the key in a file, name it in [exec] credentials, and that name in `credential`",
        );
    }
    // Without a port in the text the scheme's own counts, not the one of `hosts`.
    let has_port = match authority.rsplit_once(']') {
        Some((_, tail)) => tail.starts_with(':'),
        None => authority.contains(':'),
    };
    match host(authority) {
        Ok(grant) if !grant.host.starts_with('*') => Ok((grant.host, if has_port { grant.port } else { standard })),
        Ok(_) | Err(_) => bad("not a host"),
    }
}

/// What a probe GETs: `http://address:port/path` → host in lower case and port.
pub fn probe_url(text: &str) -> Result<(String, u16), Wrong> {
    const FORM: &str = "write it like \"http://127.0.0.1:8080/health\"";
    let bad = |label: &str| wrong(format!("`{text}` is no address for a probe"), label, FORM);
    let Some(rest) = text.strip_prefix("http://") else {
        let label = if text.starts_with("https://") { "a probe speaks no TLS" } else { "`http://` is missing" };
        return bad(label);
    };
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return bad("has a space");
    }
    let authority = rest.split(['/', '?']).next().unwrap_or("");
    if text.contains('#') || authority.contains('@') {
        return bad("only address, port, path and query");
    }
    let has_port = match authority.rsplit_once(']') {
        Some((_, tail)) => tail.starts_with(':'),
        None => authority.contains(':'),
    };
    match host(authority) {
        Ok(grant) if !grant.host.starts_with('*') => Ok((grant.host, if has_port { grant.port } else { 80 })),
        Ok(_) | Err(_) => bad("not a host"),
    }
}

/// `address:port`, both.
pub fn address(text: &str) -> Result<(String, u16), Wrong> {
    const FORM: &str = "write it like \"127.0.0.1:8080\" or \"[::1]:8080\"";
    if text.parse::<u16>().is_ok_and(|port| port > 0) {
        return wrong(
            format!("`{text}` is no address with a port"),
            "only a port",
            format!("write \"127.0.0.1:{text}\""),
        );
    }
    let has_port = match text.rsplit_once(']') {
        Some((_, tail)) => tail.starts_with(':'),
        None => text.contains(':'),
    };
    match host(text) {
        Ok(grant) if has_port && !grant.host.starts_with('*') => Ok((grant.host, grant.port)),
        Ok(_) if !has_port => wrong(format!("`{text}` names no port"), "where is the port?", FORM),
        Ok(_) | Err(_) => wrong(format!("`{text}` is no address with a port"), "not an address", FORM),
    }
}

/// The largest share of processors: 4096 of them.
const PERCENT_MAX: u32 = 409_600;

/// `50%` of one processor; `200%` is two of them.
pub fn percent(text: &str) -> Result<u32, Wrong> {
    const FORM: &str = "write it like \"50%\"; \"200%\" is two whole processors";
    let number = text.trim().strip_suffix('%').map(str::trim_end);
    match number.map(str::parse::<u32>) {
        Some(Ok(percent)) if (1..=PERCENT_MAX).contains(&percent) => Ok(percent),
        Some(Ok(_)) => wrong(format!("`{text}` is out of its range"), "1% to 409600%", FORM),
        None if text.trim().parse::<u32>().is_ok() => {
            wrong(format!("`{text}` has no unit"), "percent?", format!("write \"{}%\"", text.trim()))
        }
        Some(Err(_)) | None => wrong(format!("`{text}` is no share of a processor"), "not a share", FORM),
    }
}

/// `1.50` → 1 500 000 millionths.
pub fn money(text: &str) -> Result<u64, Wrong> {
    const FORM: &str = "write an amount such as \"1.50\", with a point, without a currency";
    let bad = |label: &str| wrong(format!("`{text}` is no amount of money"), label, FORM);
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) {
        return bad(if text.contains(',') { "a comma" } else { "not an amount" });
    }
    if part.len() > 6 {
        return bad("finer than millionths");
    }
    let micros = format!("{part:0<6}").parse::<u64>().ok();
    let whole = whole.parse::<u64>().ok().and_then(|whole| whole.checked_mul(1_000_000));
    match whole.zip(micros).and_then(|(whole, micros)| whole.checked_add(micros)) {
        Some(0) => bad("nothing"),
        Some(micros) if micros <= i64::MAX as u64 => Ok(micros),
        Some(_) | None => bad("too much"),
    }
}

/// How [`money`] is written.
pub fn money_text(micros: u64) -> String {
    let part = format!("{:06}", micros % 1_000_000);
    let kept = part.trim_end_matches('0').len().max(2);
    format!("{}.{}", micros / 1_000_000, &part[..kept])
}

/// A filter over topics, as the bus reads it.
pub fn filter(text: &str) -> Result<(), Wrong> {
    const FORM: &str = "segments of A-Z a-z 0-9 _ - between dots; `*` is one segment, `>` the rest: \"research.*.>\"";
    let (label, help) = match text.parse::<Filter>() {
        Ok(_) => return Ok(()),
        Err(BadTopic::EmptySegment(_)) if text.is_empty() => ("empty".to_owned(), FORM),
        Err(BadTopic::EmptySegment(_)) => {
            ("an empty segment".to_owned(), "write one dot between two segments, none at the ends")
        }
        Err(BadTopic::TooLong(bytes)) if bytes > TOPIC_MAX_BYTES => {
            (format!("longer than {TOPIC_MAX_BYTES} bytes"), FORM)
        }
        Err(BadTopic::TooLong(_)) => (format!("more than {TOPIC_MAX_SEGMENTS} segments"), FORM),
        Err(BadTopic::LongSegment(_)) => (format!("a segment over {SEGMENT_MAX_BYTES} bytes"), FORM),
        Err(BadTopic::Wildcard(_)) if text.split('.').any(|segment| segment == "**") => {
            ("`**` means nothing here".to_owned(), "write `>` for the rest of a topic")
        }
        Err(BadTopic::Wildcard(_)) if text.split('.').any(|segment| segment == ">") => {
            ("`>` is not at the end".to_owned(), "`>` stands for the rest; use `*` for one segment")
        }
        Err(BadTopic::Wildcard(_)) => ("`*` and `>` stand alone between dots".to_owned(), FORM),
        Err(BadTopic::Character(_, odd)) => {
            let help = match odd {
                '/' => "topics are divided by dots",
                '#' => "write `>` for the rest of a topic",
                '@' => "`@` stands only in the name of an instance: \"unit.researcher@7.>\"",
                _ => FORM,
            };
            (format!("`{odd}` may not stand in a topic"), help)
        }
    };
    wrong(format!("`{text}` is no filter over topics"), label, help)
}

/// Removes what says nothing in an absolute path: `//`, `/./`, a `/` at the end. `None` where it is not absolute.
pub fn plain_path(path: &str) -> Option<String> {
    path.strip_prefix('/')?;
    let steps: Vec<&str> = path.split('/').filter(|step| !step.is_empty() && *step != ".").collect();
    Some(format!("/{}", steps.join("/")))
}

/// Whether `path` is `root` or lies below it. Both plain.
pub fn within(path: &str, root: &str) -> bool {
    root == "/" || path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spans_read_as_systemd_reads_them() {
        for (text, millis) in [
            ("1min 30s", 90_000),
            ("500ms", 500),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("1.5s", 1_500),
            ("0s", 0),
            ("1h30min", 5_400_000),
            ("5 min", 300_000),
            ("1w", 604_800_000),
            ("10us", 1),
        ] {
            assert_eq!(time(text), Ok(millis), "{text}");
        }
        for text in ["", "30", "1min 30", "s", "-1s", "1 fortnight", "infinity", "1e400s", "1..5s", "999999y"] {
            assert!(time(text).is_err(), "{text}");
        }
        assert_eq!(time("30").unwrap_err().help, "write \"30s\" if seconds are meant");
    }

    #[test]
    fn sizes_are_in_steps_of_1024() {
        assert_eq!(size("256M"), Ok(256 << 20));
        assert_eq!(size("1024"), Ok(1024));
        assert_eq!(size("256MB").unwrap_err().help, "did you mean \"256M\"?");
        for text in ["", "M", "-1K", "1.5G", "99999999999T", "18446744073709551616"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_has_a_port_and_no_path() {
        assert_eq!(host("API.openai.com"), Ok(HostGrant { host: "api.openai.com".into(), port: 443 }));
        assert_eq!(host("*.arxiv.org:80"), Ok(HostGrant { host: "*.arxiv.org".into(), port: 80 }));
        assert_eq!(host("127.0.0.1:8080"), Ok(HostGrant { host: "127.0.0.1".into(), port: 8080 }));
        assert_eq!(host("[::1]:8080"), Ok(HostGrant { host: "::1".into(), port: 8080 }));
        for text in
            ["", "*", "https://a.b/", "a/b", "a:0", "a:70000", "a b", "::1", "1.2.3", "a.*.b", "-a", "ä.de", "[x]"]
        {
            assert!(host(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_wildcard_admits_names_below_it_and_not_itself() {
        let grant = host("*.arxiv.org").unwrap();
        assert!(admits(&grant, "export.arxiv.org", 443));
        assert!(!admits(&grant, "arxiv.org", 443));
        assert!(!admits(&grant, "evilarxiv.org", 443));
        assert!(!admits(&grant, "export.arxiv.org", 80));
    }

    #[test]
    fn a_probe_goes_to_an_address_with_a_port() {
        assert_eq!(probe_url("http://127.0.0.1:8080/health?x=1"), Ok(("127.0.0.1".into(), 8080)));
        assert_eq!(probe_url("http://LocalHost/"), Ok(("localhost".into(), 80)));
        assert_eq!(probe_url("http://[::1]:81"), Ok(("::1".into(), 81)));
        for text in ["", "https://a/", "a:80", "http://", "http://a b/", "http://u@a/", "http://*.a/", "http://a/#x"] {
            assert!(probe_url(text).is_err(), "{text}");
        }
        assert_eq!(address("127.0.0.1:80"), Ok(("127.0.0.1".into(), 80)));
        assert_eq!(address("[::1]:80"), Ok(("::1".into(), 80)));
        assert_eq!(address("80").unwrap_err().help, "write \"127.0.0.1:80\"");
        for text in ["", "localhost", "::1", "[::1]", "a:0", "*.a:80", "http://a:80"] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn money_is_exact_to_the_millionth_and_reads_back() {
        for (text, micros, again) in [
            ("1.50", 1_500_000, "1.50"),
            ("20", 20_000_000, "20.00"),
            ("0.000001", 1, "0.000001"),
            ("0.0125", 12_500, "0.0125"),
        ] {
            assert_eq!(money(text), Ok(micros), "{text}");
            assert_eq!(money_text(micros), again);
        }
        for text in ["", "0", "0.0", "-1", "1,50", "1.", ".5", "$1", "1.0000001", "99999999999999999999"] {
            assert!(money(text).is_err(), "{text}");
        }
        assert_eq!(percent("50%"), Ok(50));
        assert_eq!(percent("50").unwrap_err().help, "write \"50%\"");
        for text in ["", "%", "0%", "-1%", "1.5%", "999999%"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn filters_follow_the_grammar_of_topics() {
        for text in ["a", "a.*.b", "a.>", ">", "unit.researcher@7.>", "A-b_c.0"] {
            assert_eq!(filter(text), Ok(()), "{text}");
        }
        for text in ["", ".a", "a.", "a..b", "a.>.b", "a b", "a.**", "a/b", "a.b*", "ä", "a.b@7", "unit.b@7.c@7"] {
            assert!(filter(text).is_err(), "{text}");
        }
    }
}
