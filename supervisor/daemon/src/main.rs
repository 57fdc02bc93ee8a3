//! loomd: the supervisor. This file reads the command line and says why it ended.

use clap::Parser;
use loomd::config::{Config, Flags};
use loomd::looper::start;
use loomd::reexec;
use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    let carried = match reexec::receive() {
        Ok(carried) => carried,
        Err(error) => {
            reexec::come_back(&error);
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let flags = Flags::parse();
    let check = flags.check;
    let config = match Config::resolve(flags) {
        Ok(config) => config,
        Err(error) => return say(&error),
    };
    let ended = match check {
        Some(store_schema) => start::check(&config, store_schema),
        None => start::run(config, carried),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error, "loomd ended");
            say(&error)
        }
    }
}

fn say(error: &dyn Error) -> ExitCode {
    eprintln!("error: {error}");
    let mut whole = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        eprintln!("cause: {source}");
        whole = format!("{whole}: {source}");
        cause = source.source();
    }
    reexec::come_back(&whole);
    ExitCode::FAILURE
}
