//! process/environment: what a unit's file says of its environment that only the machine can tell.
//!
//! Job: read `exec.environment_file`, find `exec.user`, give that user the way to the unit's own directories.
//! May touch: those files, the user database, owners and modes of the unit's directories. Keeps: a file is read whole within
//! its limit or the start fails; a user is taken in full or the start is refused.

use loom_core::launch_plan;
use loom_core::unit::Unit;
use nix::unistd::{Uid, User};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::Path;

/// The largest environment file.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The unit with the variables of its files among its own: a later file overrides an earlier one, each overrides the unit file.
pub fn filled(unit: &Unit) -> Result<Cow<'_, Unit>, String> {
    let files = unit.exec.as_ref().map(|exec| exec.environment_file.as_slice()).unwrap_or_default();
    if files.is_empty() {
        return Ok(Cow::Borrowed(unit));
    }
    let mut filled = unit.clone();
    for file in files {
        let Some(text) = read(&file.path, file.optional)
            .map_err(|why| format!("cannot read the environment file {} ({}): {why}", file.path, file.origin))?
        else {
            continue;
        };
        let variables =
            parse(&text).map_err(|why| format!("the environment file {}, {why} ({})", file.path, file.origin))?;
        if let Some(exec) = &mut filled.exec {
            exec.environment.extend(variables);
        }
    }
    Ok(Cow::Owned(filled))
}

/// `None`: it is not there, and need not be.
fn read(path: &str, optional: bool) -> Result<Option<String>, String> {
    // Non-blocking, so that a fifo in its place does not hold up everything.
    let opened = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(missing) if optional && missing.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if !file.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("it is no regular file".into());
    }
    let mut content = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut content).map_err(|error| error.to_string())?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("it is larger than {MAX_FILE_BYTES} bytes"));
    }
    String::from_utf8(content).map(Some).map_err(|_| "it is not UTF-8".into())
}

/// As systemd reads such files: `NAME=value` lines; `#` and `;` begin comments; values may stand in `'…'` or `"…"`, pieces
/// join; a backslash takes the next character as it is, and joins lines at a line's end.
fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut variables = BTreeMap::new();
    let mut rest = text.chars().peekable();
    let mut line = 1usize;
    loop {
        while let Some(c) = rest.next_if(|c| c.is_whitespace()) {
            line += usize::from(c == '\n');
        }
        let Some(&first) = rest.peek() else { return Ok(variables) };
        if first == '#' || first == ';' {
            // A comment, too, goes on behind a backslash at its line's end.
            while let Some(c) = rest.next_if(|c| *c != '\n') {
                if c == '\\' && rest.next_if_eq(&'\n').is_some() {
                    line += 1;
                }
            }
            continue;
        }
        let at = line;
        let mut name = String::new();
        while let Some(c) = rest.next_if(|c| *c != '=' && *c != '\n') {
            name.push(c);
        }
        let name = name.trim().trim_start_matches("export ").trim().to_owned();
        if rest.next_if_eq(&'=').is_none() {
            return Err(format!("line {at}: `{}` is no NAME=value", shown(&name)));
        }
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(format!("line {at}: `{}` is no name of a variable", shown(&name)));
        }
        let value = value(&mut rest, &mut line).ok_or_else(|| format!("line {at}: a quote of {name} is not closed"))?;
        if value.contains('\0') {
            return Err(format!("line {at}: the value of {name} holds a NUL"));
        }
        variables.insert(name, value);
    }
}

/// `None`: a quote is not closed.
fn value(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, line: &mut usize) -> Option<String> {
    let mut value = String::new();
    // Blanks count only if something follows them.
    let mut blanks = String::new();
    while rest.next_if(|c| *c == ' ' || *c == '\t').is_some() {}
    loop {
        let Some(c) = rest.next() else { return Some(value) };
        match c {
            '\n' => {
                *line += 1;
                return Some(value);
            }
            ' ' | '\t' | '\r' => {
                blanks.push(c);
                continue;
            }
            _ => value.push_str(&std::mem::take(&mut blanks)),
        }
        match c {
            quote @ ('\'' | '"') => loop {
                match rest.next()? {
                    c if c == quote => break,
                    '\\' if quote == '"' => match rest.next()? {
                        '\n' => *line += 1,
                        c @ ('"' | '\\' | '`' | '$') => value.push(c),
                        other => value.extend(['\\', other]),
                    },
                    c => {
                        *line += usize::from(c == '\n');
                        value.push(c);
                    }
                }
            },
            '\\' => match rest.next() {
                Some('\n') => *line += 1,
                Some(c) => value.push(c),
                None => {}
            },
            c => value.push(c),
        }
    }
}

/// Part of a wrong line, for a message: the rest may be a secret.
fn shown(text: &str) -> String {
    text.chars().take(20).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Whom the unit's processes become; `None`: as loomd.
pub fn user(unit: &Unit) -> Result<Option<launch_plan::User>, String> {
    let Some(name) = unit.exec.as_ref().and_then(|exec| exec.user.as_deref()) else { return Ok(None) };
    let user = find(name)?;
    let own = nix::unistd::geteuid();
    if own.is_root() {
        let is_us = user.uid.is_root();
        return Ok((!is_us).then_some(launch_plan::User { uid: user.uid.as_raw(), gid: user.gid.as_raw() }));
    }
    if user.uid == own {
        return Ok(None);
    }
    Err(format!(
        "{} has exec.user = \"{name}\", and this loomd runs as uid {own}: only a loomd that runs as root can start processes of \
         another user",
        unit.id
    ))
}

/// `USER` and `LOGNAME` of a unit with a user of its own. `HOME` is its state directory, as for every unit.
pub fn user_words(unit: &Unit) -> Result<Vec<(String, String)>, String> {
    let Some(name) = unit.exec.as_ref().and_then(|exec| exec.user.as_deref()) else { return Ok(Vec::new()) };
    let user = find(name)?;
    Ok(vec![("USER".into(), user.name.clone()), ("LOGNAME".into(), user.name)])
}

fn find(name: &str) -> Result<User, String> {
    let found = match name.parse::<u32>() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(name),
    };
    found
        .map_err(|errno| format!("cannot look up the user `{name}`: {errno}"))?
        .ok_or_else(|| format!("there is no user `{name}` on this machine"))
}

/// Makes a path, and what is in it, belong to whom the unit's processes are: its user, or loomd's own.
pub fn give(unit: &Unit, path: &Path) -> Result<(), String> {
    let own = nix::unistd::geteuid();
    if !own.is_root() {
        return user(unit).map(drop);
    }
    let (uid, gid) = match user(unit)? {
        Some(user) => (user.uid, user.gid),
        None => (own.as_raw(), nix::unistd::getegid().as_raw()),
    };
    give_to(path, uid, gid).map_err(|error| format!("cannot give {} to uid {uid}: {error}", path.display()))
}

fn give_to(path: &Path, uid: u32, gid: u32) -> std::io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.uid() == uid {
        return Ok(());
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            give_to(&entry?.path(), uid, gid)?;
        }
    }
    lchown(path, Some(uid), Some(gid))
}

/// Lets the unit's user pass through loomd's own directories, from `root` to `path`, without letting it list them.
pub fn open_way(unit: &Unit, root: &Path, path: &Path) -> Result<(), String> {
    if user(unit)?.is_none() {
        return Ok(());
    }
    for step in path.ancestors().take_while(|step| step.starts_with(root)) {
        let failed = |error| format!("cannot open the way through {}: {error}", step.display());
        let mode = fs::metadata(step).map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o011 != 0o011 {
            fs::set_permissions(step, fs::Permissions::from_mode(mode | 0o011)).map_err(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_file_is_read_as_systemd_reads_it() {
        let text = "# comment\n; another \\\n goes on\nA=1\n  B = two words  \nC='single $x \\n'\nD=\"a\\\"b\"'c' d\n\
                    E=joined\\\nline\nF=\nG=\"two\nlines\"\nexport H=h\r\nI=a\\ b";
        let read = parse(text).unwrap();
        let want = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "single $x \\n"),
            ("D", "a\"bc d"),
            ("E", "joinedline"),
            ("F", ""),
            ("G", "two\nlines"),
            ("H", "h"),
            ("I", "a b"),
        ];
        let want: BTreeMap<String, String> =
            want.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        assert_eq!(read, want);
    }

    #[test]
    fn a_wrong_line_is_named_and_its_value_is_not_shown() {
        for (text, want) in [
            ("A=1\nnonsense\n", "line 2: `nonsense` is no NAME=value"),
            ("1A=secret", "line 1: `1A` is no name of a variable"),
            ("\n\nA=\"secret", "line 3: a quote of A is not closed"),
            ("A=se\0cret", "line 1: the value of A holds a NUL"),
        ] {
            assert_eq!(parse(text).unwrap_err(), want);
        }
    }
}
