//! answer: what every command needs to ask and to answer.
//!
//! Job: the connection, stdout and stderr, exit statuses. May touch: both streams, the control API. Keeps: data on stdout, words on
//! stderr; one place decides which exit status a refusal has.

use crate::{logs, verify};
use loom_api::control::Client;
use loom_api::dirs::Dirs;
use loom_api::view::{Refusal, RefusalCode};
use loom_core::ids::UnitId;
use serde::Serialize;
use std::io::{self, Read, Write};

/// Lines of log that `status UNIT` and a failed start show.
pub const LAST_LINES: usize = 10;
/// Columns of a picture of a problem.
pub const WIDTH: usize = 100;

/// What every command needs.
pub struct Context {
    pub runtime: tokio::runtime::Runtime,
    pub client: Client,
    pub dirs: Dirs,
    pub json: bool,
}

impl Context {
    /// Asks, and waits for the answer.
    pub fn ask<T>(&self, answer: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        self.runtime.block_on(answer)
    }

    pub fn show<T: Serialize>(&self, answer: &T, text: impl FnOnce(&T) -> String) {
        if self.json { say_json(answer) } else { say(&text(answer)) }
    }

    pub fn last_lines(&self, unit: &UnitId) -> Vec<logs::Line> {
        logs::Logs::new(self.dirs.logs(), logs::Wanted::newest(unit, None, LAST_LINES)).read()
    }
}

/// Data. When nobody reads it any more (`| head`) there is nothing left to do.
pub fn say(text: &str) {
    let mut out = io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

pub fn say_json(value: &impl Serialize) {
    say(&format!("{}\n", serde_json::to_string(value).expect("view types have text keys only, so they print")));
}

/// Words for whom must act.
pub fn show_refusal(refusal: &Refusal) {
    eprint!("{}", verify::render(&refusal.problems, WIDTH));
    eprintln!("error: {}", refusal.error);
    if let Some(cause) = &refusal.cause {
        eprintln!("cause: {cause}");
    }
    if let Some(hint) = &refusal.hint {
        eprintln!("hint: {hint}");
    }
}

pub fn exit_status(refusal: &Refusal) -> u8 {
    match refusal.code {
        RefusalCode::Usage => 2,
        RefusalCode::NoSupervisor => 3,
        RefusalCode::BadFile => 4,
        RefusalCode::NoSuchUnit => 5,
        RefusalCode::Forbidden
        | RefusalCode::NoSuchKey
        | RefusalCode::Conflict
        | RefusalCode::TooBig
        | RefusalCode::Stopping
        | RefusalCode::CutShort
        | RefusalCode::Failed => 1,
    }
}

/// A refusal of ours, with its cause.
pub fn failed(what: impl Into<String>, cause: impl ToString) -> Refusal {
    Refusal::new(Refusal::FAILED, what).because(cause.to_string())
}

pub fn usage(error: impl Into<String>) -> Refusal {
    Refusal::new(Refusal::USAGE, error)
}

/// The text, or what stdin has in place of `-`.
pub fn text_or_stdin(text: String) -> Result<String, Refusal> {
    if text != "-" {
        return Ok(text);
    }
    let mut read = String::new();
    match io::stdin().read_to_string(&mut read) {
        Ok(_) => Ok(read.trim_end_matches('\n').to_owned()),
        Err(error) => Err(usage("cannot read stdin").because(error.to_string())),
    }
}
