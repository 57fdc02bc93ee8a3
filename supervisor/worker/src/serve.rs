//! serve: one request after another.
//!
//! Job: framing, and from a request to the tool that carries it out. May touch: the tools beside it.
//! Keeps: every readable request gets exactly one answer.

use crate::place::Reach;
use crate::{list, read, write};
use loom_core::tools::{
    Call, ErrorCode, Native, Outcome, ToolError, WORKER_MESSAGE_MAX_BYTES, WorkerAnswer, WorkerRequest,
};
use serde_json::Value;
use std::io::{self, Read, Write};

/// Answers until the requests end.
pub fn serve(requests: &mut impl Read, answers: &mut impl Write) -> io::Result<()> {
    while let Some(message) = receive(requests)? {
        let request: WorkerRequest = serde_json::from_slice(&message)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("unreadable request: {error}")))?;
        drop(message);
        let id = request.id;
        let mut text = encode(&WorkerAnswer { id, result: carry_out(&request).into() });
        if text.len() - 4 > WORKER_MESSAGE_MAX_BYTES {
            let what = format!("the result is larger than {WORKER_MESSAGE_MAX_BYTES} bytes; ask for less");
            text = encode(&WorkerAnswer {
                id,
                result: Err(ToolError::new(ErrorCode::ResultTooLarge, Outcome::Done, what)).into(),
            });
        }
        answers.write_all(&text)?;
    }
    Ok(())
}

fn encode(answer: &WorkerAnswer) -> Vec<u8> {
    let mut text = vec![0; 4];
    serde_json::to_writer(&mut text, answer).expect("an answer has only string keys and writes to memory");
    let length = u32::try_from(text.len() - 4).unwrap_or(u32::MAX);
    text[..4].copy_from_slice(&length.to_be_bytes());
    text
}

/// `None`: the stream closed between two messages.
fn receive(requests: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    let mut have = 0;
    while have < 4 {
        match requests.read(&mut length[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // loomd died while we were writing or before we read: the same as a close.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > WORKER_MESSAGE_MAX_BYTES {
        let what = format!("a request of {length} bytes is over the limit of {WORKER_MESSAGE_MAX_BYTES}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut message = vec![0; length];
    requests.read_exact(&mut message)?;
    Ok(Some(message))
}

fn carry_out(request: &WorkerRequest) -> Result<Value, ToolError> {
    let invalid = |what: String| ToolError::new(ErrorCode::InvalidArguments, Outcome::NotRun, what);
    let tool = Native::find(&request.tool).ok_or_else(|| {
        ToolError::new(ErrorCode::ToolNotFound, Outcome::NotRun, format!("there is no tool `{}`", request.tool))
    })?;
    let call = Call::parse(tool, &request.args).map_err(|error| invalid(error.to_string()))?;
    let reach = Reach::new(&request.roots, &request.rules, tool.name())?;
    match call {
        Call::Read(args) => read::read(&reach, &args),
        Call::List(args) => list::list(&reach, &args),
        Call::Write(args) => write::write(&reach, &args),
    }
}
