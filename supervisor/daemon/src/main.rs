//! loomd: the supervisor. This file reads the command line and says why it ended.

use clap::Parser;
use loomd::config::{Config, Flags};
use loomd::looper::start;
use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    let config = match Config::resolve(Flags::parse()) {
        Ok(config) => config,
        Err(error) => return say(&error),
    };
    match start::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %error, "loomd ended");
            say(&error)
        }
    }
}

fn say(error: &dyn Error) -> ExitCode {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(source) = cause {
        eprintln!("cause: {source}");
        cause = source.source();
    }
    ExitCode::FAILURE
}
