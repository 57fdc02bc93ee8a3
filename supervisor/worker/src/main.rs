//! loom-worker: carries out native tools with the asking agent's rights.
//!
//! Job: read requests on descriptor 0, act, answer on descriptor 1; one at a time, until the stream closes.
//! May touch: loom-core, files beneath the roots that a request names. May not: decide who may call; open a path by its
//! name alone. Keeps: what rules are asked about is what is acted on; a file is written whole or not at all.

mod base64;
mod beneath;
mod list;
mod place;
mod read;
mod serve;
mod sys;
mod write;

use std::process::ExitCode;

fn main() -> ExitCode {
    sys::ignore_file_size_signal();
    let (mut requests, mut answers) = sys::standard_streams();
    match serve::serve(&mut requests, &mut answers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("<3>loom-worker: {error}");
            ExitCode::FAILURE
        }
    }
}
