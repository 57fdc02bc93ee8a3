//! serve: from one HTTP request to its answer.
//!
//! Job: read the body within its limit, dispatch, and put the answer or the refusal into a response. Who may connect, and how
//! many, is decided by whoever accepts. May touch: nothing but the request. Keeps: every status but 200 carries a [`Refusal`].

use super::{BODY_MAX_BYTES, Control, dispatch};
use crate::view::Refusal;
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::{Request, Response, StatusCode, header};
use serde::Serialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// From the end of a request's header to the end of its body.
pub const BODY_LIMIT: Duration = Duration::from_secs(10);

/// A response's body: whole, or line by line.
pub struct Body(Kind);

enum Kind {
    Whole(Option<Bytes>),
    Lines(Box<dyn NextLine>),
}

trait NextLine: Send {
    fn next_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>>;
}

impl<T: Serialize + Send> NextLine for mpsc::Receiver<T> {
    fn next_line(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.poll_recv(cx).map(|value| value.map(|value| json_line(&value)))
    }
}

impl Body {
    pub(super) fn whole<T: Serialize>(value: &T) -> Self {
        Self(Kind::Whole(Some(json_line(value))))
    }

    pub(super) fn lines<T: Serialize + Send + 'static>(lines: mpsc::Receiver<T>) -> Self {
        Self(Kind::Lines(Box::new(lines)))
    }
}

fn json_line<T: Serialize>(value: &T) -> Bytes {
    let mut line = BytesMut::new().writer();
    serde_json::to_writer(&mut line, value).expect("view types have text keys only, so they print");
    let mut line = line.into_inner();
    line.put_u8(b'\n');
    line.freeze()
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Lines(lines) => lines.next_line(cx).map(|line| line.map(|line| Ok(Frame::data(line)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Lines(_) => SizeHint::default(),
        }
    }
}

/// Answers one request. When the caller hangs up, hyper drops this future or the body, and with it what was asked for.
pub async fn answer(api: &dyn Control, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = match read_body(body).await {
        Ok(body) => body,
        Err(refusal) => return refusal_response(&refusal),
    };
    match dispatch(api, head.method.as_str(), head.uri.path(), head.uri.query(), &body).await {
        Ok(body) => response(StatusCode::OK, body),
        Err(refusal) => refusal_response(&refusal),
    }
}

async fn read_body(body: Incoming) -> Result<Bytes, Refusal> {
    let too_big =
        || Refusal::new(Refusal::TOO_BIG, format!("the request's body is larger than {BODY_MAX_BYTES} bytes"));
    // A body that announces its size is not waited for.
    if hyper::body::Body::size_hint(&body).lower() > BODY_MAX_BYTES as u64 {
        return Err(too_big());
    }
    match tokio::time::timeout(BODY_LIMIT, Limited::new(body, BODY_MAX_BYTES).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_big()),
        Ok(Err(error)) => Err(Refusal::new(Refusal::USAGE, "the request ended early").because(error.to_string())),
        Err(_) => Err(Refusal::new(Refusal::USAGE, format!("the request's body did not come within {BODY_LIMIT:?}"))),
    }
}

/// A refusal as a response.
pub fn refusal_response(refusal: &Refusal) -> Response<Body> {
    let status = StatusCode::from_u16(refusal.status()).expect("Refusal::status gives statuses of HTTP only");
    response(status, Body::whole(refusal))
}

fn response(status: StatusCode, body: Body) -> Response<Body> {
    let kind = match body.0 {
        Kind::Whole(_) => "application/json",
        Kind::Lines(_) => "application/x-ndjson",
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
