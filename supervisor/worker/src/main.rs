//! loom-worker: carries out native tools with the asking agent's rights.
//!
//! Job: read requests on descriptor 0, act, answer on descriptor 1; one at a time, until the stream closes. As `loom-worker
//! probe HOW TARGET`: ask a server of this machine once, and exit with 0 if it answers well.
//! May touch: loom-core, files beneath the roots that a request names. May not: decide who may call; open a path by its
//! name alone. Keeps: what rules are asked about is what is acted on; a file is written whole or not at all.

mod base64;
mod beneath;
mod list;
mod place;
mod probe;
mod read;
mod serve;
mod sys;
mod write;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some((first, probe)) = args.split_first()
        && first == "probe"
    {
        return match probe::run(probe) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failed) => {
                eprintln!("<4>probe: {failed}");
                ExitCode::FAILURE
            }
        };
    }
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
