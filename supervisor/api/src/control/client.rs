//! client: asks loomd over its socket.
//!
//! Job: one connection per question. May touch: the control socket. Keeps: a question is sent once, never repeated; what fails
//! on the way is a [`Refusal`] of its own code, `no-supervisor` or `cut-short`; dropping an answer hangs up.

use super::encode;
use crate::view::Refusal;
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// From the call to the connection.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// From the question to the head of its answer. Starts wait for dependencies, stops for `stop.timeout`, so it is wide.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(3600);
/// The largest answer, or line of an answer, that is taken.
const ANSWER_MAX_BYTES: usize = 64 << 20;
/// Lines read ahead of whoever takes them.
const LINES_AHEAD: usize = 64;

/// loomd, over its control socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Nothing is connected until the first question.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Where it asks.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) async fn send<T: Serialize>(
        &self,
        method: &'static str,
        template: &str,
        request: &T,
    ) -> Result<Response<Incoming>, Refusal> {
        let request = build(method, template, request);
        let stream = match tokio::time::timeout(CONNECT_LIMIT, UnixStream::connect(&self.socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.nobody(&error.to_string())),
            Err(_) => return Err(self.nobody(&format!("it did not take the connection within {CONNECT_LIMIT:?}"))),
        };
        let cut = |error: hyper::Error| cut_short(&error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(cut)?;
        // Ends by itself when the answer's body is read or dropped.
        tokio::spawn(connection);
        match tokio::time::timeout(ANSWER_LIMIT, sender.send_request(request)).await {
            Ok(answer) => answer.map_err(cut),
            Err(_) => Err(cut_short(&format!("no answer within {ANSWER_LIMIT:?}"))),
        }
    }

    fn nobody(&self, cause: &str) -> Refusal {
        Refusal::new(Refusal::NO_SUPERVISOR, format!("no supervisor is running at {}", self.socket.display()))
            .because(cause)
            .try_this("start `loomd` here, or name its directory: --runtime-dir or LOOM_RUNTIME_DIR")
    }
}

fn cut_short(cause: &str) -> Refusal {
    Refusal::new(Refusal::CUT_SHORT, "the supervisor's answer was cut short")
        .because(cause)
        .try_this("ask again: `loomctl status`")
}

/// Fields that the path names go there, the others into the query or the body.
fn build<T: Serialize>(method: &'static str, template: &str, request: &T) -> Request<Full<Bytes>> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(request) else {
        unreachable!("requests are structs with named fields")
    };
    let mut text_of = |name: &str| match fields.remove(name) {
        Some(Value::String(text)) => encode(&text),
        other => unreachable!("a path names text fields only, `{name}` is {other:?}"),
    };
    let parts = template.split('/').map(|part| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        Some(name) => text_of(name),
        None => part.to_owned(),
    });
    let mut target = parts.collect::<Vec<_>>().join("/");
    let mut body = Vec::new();
    if matches!(method, "POST" | "PUT") {
        body = Value::Object(fields).to_string().into_bytes();
    } else {
        let pairs = fields.iter().map(|(name, value)| match value {
            Value::String(text) => format!("{}={}", encode(name), encode(text)),
            other => format!("{}={}", encode(name), encode(&other.to_string())),
        });
        let query = pairs.collect::<Vec<_>>().join("&");
        if !query.is_empty() {
            target = format!("{target}?{query}");
        }
    }
    Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, "loomd")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .expect("the target is percent-encoded")
}

pub(super) async fn read_whole<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, Refusal> {
    let ok = response.status().is_success();
    let status = response.status();
    let body = http_body_util::Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
    let body = body.map_err(|error| cut_short(&error.to_string()))?.to_bytes();
    let strange = |error: serde_json::Error| {
        Refusal::new(Refusal::FAILED, "the supervisor answered something else than this program expects")
            .because(format!("status {status}: {error}"))
            .try_this("are loomd and loomctl of the same version? `loomctl --version`, `loomd --version`")
    };
    if ok {
        serde_json::from_slice(&body).map_err(strange)
    } else {
        Err(serde_json::from_slice(&body).map_err(strange)?)
    }
}

/// Reads lines in a task that ends when the receiver is dropped, which hangs up.
pub(super) async fn read_lines<T: DeserializeOwned + Send + 'static>(
    response: Response<Incoming>,
) -> Result<mpsc::Receiver<T>, Refusal> {
    if !response.status().is_success() {
        return Err(read_whole::<Refusal>(response).await.unwrap_or_else(|refusal| refusal));
    }
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    tokio::spawn(async move {
        let mut body = response.into_body();
        let mut buffer = BytesMut::new();
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = sender.closed() => return,
            };
            // A cut connection and a missing end look alike to the taker: there is no last line.
            let Some(Ok(frame)) = frame else { return };
            let Ok(data) = frame.into_data() else { continue };
            buffer.extend_from_slice(&data);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(end);
                buffer.advance(1);
                let Ok(value) = serde_json::from_slice(&line) else { return };
                if sender.send(value).await.is_err() {
                    return;
                }
            }
            if buffer.len() > ANSWER_MAX_BYTES {
                return;
            }
        }
    });
    Ok(receiver)
}
