//! door: the listener of one unit and its connections.
//!
//! Job: accept, ask the kernel who it is, handshake, HELLO, then move messages between socket and router.
//! May touch: `zmtp`, `router`, sockets. May not: decide who gets what.
//! Keeps: a peer that is not welcome costs little memory and ends within [`HELLO_LIMIT`]; nothing waits for one peer's
//! socket but that peer's own task; an idle connection holds no buffer and causes no wake-up.

use super::router::{ConnId, Joining, Next, welcome_grants};
use super::zmtp::{Heard, Limits, Zmtp, frame_head};
use super::{Shared, sys};
use bytes::Bytes;
use loom_api::wire::{
    self, Code, HEADER_MAX_BYTES, Hello, MESSAGE_HARD_MAX_BYTES, MESSAGE_MAX_BYTES, Message, Offer, Op, Outcome,
    SUBSCRIPTIONS_MAX, WIRE_VERSION, Welcome, WelcomeLimits, WireError,
};
use loom_core::ids::{RunId, UnitId};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

/// From accept to HELLO.
pub const HELLO_LIMIT: Duration = Duration::from_secs(2);
/// Connections of a unit that have not said HELLO yet; the next one is closed.
pub const HALF_OPEN_MAX: usize = 4;
/// How long a last message may take to be read before the connection is closed.
pub const GOODBYE_LIMIT: Duration = Duration::from_millis(500);
/// Pause after a failed accept, such as for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// STATE and CALL of one connection that are under way at once.
pub const ASKS_MAX: usize = 32;
/// Bytes read at once, and slices written at once.
const READ_BYTES: usize = 32 * 1024;
const SLICES: usize = 64;
/// Unwritten bytes of a connection below which more is taken from the router.
const WRITE_AHEAD_BYTES: usize = 64 * 1024;

/// Before HELLO: one header frame and a list of handlers.
const STRANGER: Limits = Limits {
    frames: 3,
    op_bytes: 2,
    header_bytes: HEADER_MAX_BYTES,
    data_bytes: HEADER_MAX_BYTES,
    message_bytes: 2 * HEADER_MAX_BYTES + 2,
};
/// After it.
const MEMBER: Limits = Limits {
    frames: wire::FRAMES_MAX,
    op_bytes: 2,
    header_bytes: HEADER_MAX_BYTES,
    data_bytes: MESSAGE_MAX_BYTES,
    message_bytes: MESSAGE_HARD_MAX_BYTES,
};

/// Accepts until the task is aborted.
pub(super) async fn keep(shared: Arc<Shared>, unit: UnitId, listener: UnixListener) {
    let half_open = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(fault) => {
                tracing::warn!(LOOM_UNIT = %unit, "cannot accept on the unit's bus socket: {fault}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = Place::take(&half_open);
        if place.number > HALF_OPEN_MAX {
            tracing::debug!(LOOM_UNIT = %unit, "closed a connection: {HALF_OPEN_MAX} others have not said HELLO yet");
            continue;
        }
        if let Err(why) = check_peer(&shared, &unit, &stream) {
            tracing::warn!(LOOM_UNIT = %unit, "refused a connection to the unit's bus socket: {why}");
            continue;
        }
        tokio::spawn(serve(shared.clone(), unit.clone(), stream, place));
    }
}

/// A connection that has not said HELLO; gives its place back when dropped.
struct Place {
    count: Arc<AtomicUsize>,
    number: usize,
}

impl Place {
    fn take(count: &Arc<AtomicUsize>) -> Self {
        Self { count: count.clone(), number: count.fetch_add(1, Ordering::Relaxed) + 1 }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

fn check_peer(shared: &Shared, unit: &UnitId, stream: &UnixStream) -> Result<(), String> {
    let peer = sys::Peer::of(stream.as_fd()).map_err(|fault| format!("the kernel does not say who it is: {fault}"))?;
    if !(shared.peer_check)(unit, peer.pid) {
        return Err(format!("process {} is none of `{unit}`", peer.pid));
    }
    // Looked at again after the check, so that the pid meant the same process all the time.
    if peer.may_be_gone() { Err(format!("process {} ended meanwhile", peer.pid)) } else { Ok(()) }
}

async fn serve(shared: Arc<Shared>, unit: UnitId, stream: UnixStream, place: Place) {
    let stream = Arc::new(stream);
    let mut link = Link { stream: stream.clone(), zmtp: Zmtp::new(STRANGER), writer: Writer::default() };
    let welcomed = tokio::time::timeout(HELLO_LIMIT, greet(&shared, &unit, &mut link)).await;
    drop(place);
    let (conn, run, wake) = match welcomed {
        Ok(Ok(member)) => member,
        Ok(Err(End::Rejected(error))) => {
            tracing::info!(LOOM_UNIT = %unit, code = error.code.word(), "rejected a connection: {}", error.message);
            let _ = tokio::time::timeout(GOODBYE_LIMIT, link.say_goodbye()).await;
            return;
        }
        Ok(Err(End::Broken(why))) => {
            tracing::debug!(LOOM_UNIT = %unit, "closed a connection before HELLO: {why}");
            return;
        }
        Err(_) => {
            tracing::debug!(LOOM_UNIT = %unit, "closed a connection: no HELLO within {} ms", HELLO_LIMIT.as_millis());
            return;
        }
    };
    shared.sessions.connected(&unit, run, true);
    tracing::debug!(LOOM_UNIT = %unit, LOOM_RUN = run.0, "the unit connected to the bus");
    let why = converse(&shared, &unit, run, conn, &wake, &mut link).await;
    tracing::debug!(LOOM_UNIT = %unit, LOOM_RUN = run.0, "the unit's connection to the bus ended: {why}");
    shared.with(|router, _| router.disconnect(conn));
    // What was already on its way may still be read, such as the answer to the last message.
    let _ = tokio::time::timeout(GOODBYE_LIMIT, link.flush()).await;
    shared.sessions.connected(&unit, run, false);
}

enum End {
    /// Told why.
    Rejected(WireError),
    Broken(String),
}

impl From<io::Error> for End {
    fn from(fault: io::Error) -> Self {
        End::Broken(fault.to_string())
    }
}

/// Handshake and HELLO. WELCOME or REJECT is in the writer afterwards.
async fn greet(shared: &Arc<Shared>, unit: &UnitId, link: &mut Link) -> Result<(ConnId, RunId, Arc<Notify>), End> {
    let mut plain = None;
    loop {
        match link.hear().await? {
            Heard::Credentials { username, password } => {
                let verdict = if username == unit.to_string().as_bytes() {
                    shared.sessions.check_token(unit, &password)
                } else {
                    Err(WireError::new(Code::BadToken, format!("this socket belongs to `{unit}`")))
                };
                // A wrong token is told by REJECT, with its reason: libzmq shows nobody an ERROR of the handshake.
                plain = Some(verdict);
                link.zmtp.admit();
            }
            Heard::Ready { .. } => {}
            Heard::Oversized { .. } => return Err(End::Broken("HELLO over its limits".to_owned())),
            Heard::Message(frames) => {
                let message = Message::decode(&frames).map_err(|fault| End::Broken(fault.to_string()))?;
                if message.op != Op::Hello {
                    return Err(End::Broken(format!("{} came before HELLO", message.op)));
                }
                return welcome(shared, unit, link, &message, plain).map_err(|error| {
                    let mut reject = error.about(message.id());
                    reject.op = Op::Reject;
                    link.writer.push(&reject);
                    End::Rejected(error)
                });
            }
        }
    }
}

fn welcome(
    shared: &Arc<Shared>,
    unit: &UnitId,
    link: &mut Link,
    message: &Message,
    plain: Option<Result<RunId, WireError>>,
) -> Result<(ConnId, RunId, Arc<Notify>), WireError> {
    let hello: Hello = message.parse()?;
    let (run, previous) = shared.sessions.hello(unit, &hello, plain)?;
    let offer: Offer = match &message.data {
        Some(data) if !data.is_empty() => serde_json::from_slice(data)
            .map_err(|fault| WireError::new(Code::BadHeader, format!("the data of HELLO does not fit: {fault}")))?,
        Some(_) | None => Offer::default(),
    };
    let wake = Arc::new(Notify::new());
    let stream = link.stream.clone();
    let hung_up = Box::new(move || sys::hung_up(stream.as_fd()));
    let joining = Joining { run, handlers: &offer.handlers, holds: &hello.holds, wake: wake.clone(), hung_up };
    let (conn, clock) =
        shared.with(|router, now| router.connect(unit, joining, now).map(|conn| (conn, now.wall_ms)))?;
    let limits = WelcomeLimits {
        max_message: MESSAGE_MAX_BYTES as u64,
        header: HEADER_MAX_BYTES as u64,
        subscriptions: SUBSCRIPTIONS_MAX as u64,
        deliveries: super::router::DELIVERIES_MAX as u64,
    };
    let grants = welcome_grants(&shared.grants_of(unit));
    let welcome = Welcome { about: hello.id, version: WIRE_VERSION, limits, grants, resume: vec![], clock, previous };
    link.writer.push(&Message::new(Op::Welcome, &welcome));
    link.zmtp.set_limits(MEMBER);
    Ok((conn, run, wake))
}

/// Moves messages until one side ends; says why.
async fn converse(
    shared: &Arc<Shared>,
    unit: &UnitId,
    run: RunId,
    conn: ConnId,
    wake: &Notify,
    link: &mut Link,
) -> String {
    let asks = Arc::new(AtomicUsize::new(0));
    loop {
        if link.writer.bytes < WRITE_AHEAD_BYTES {
            let Some(messages) = shared.with(|router, now| router.take(conn, now)) else {
                return "its run ended, or its unit is gone".to_owned();
            };
            for message in &messages {
                link.writer.push(message);
            }
        }
        if let Err(fault) = link.try_flush() {
            return fault.to_string();
        }
        loop {
            let heard = match link.zmtp.listen() {
                Ok(Some(heard)) => heard,
                Ok(None) => break,
                Err(fault) => return fault.to_string(),
            };
            if hear(shared, unit, run, conn, heard, &asks) == Next::Close {
                shared.with(|router, _| router.end_run(unit, Some(run)));
                return "it said goodbye".to_owned();
            }
        }
        // Answers to PING.
        link.writer.extend(link.zmtp.take_replies());
        let congested = shared.with(|router, _| router.congested(conn));
        let writable = link.writer.bytes > 0;
        let interest = match (!congested, writable) {
            (true, false) => Interest::READABLE,
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (false, true) => Interest::WRITABLE,
            // Its answers wait and nothing is being written: take them.
            (false, false) => continue,
        };
        tokio::select! {
            ready = link.stream.ready(interest) => {
                let ready = match ready {
                    Ok(ready) => ready,
                    Err(fault) => return fault.to_string(),
                };
                if !congested && (ready.is_readable() || ready.is_read_closed()) {
                    match link.try_read() {
                        Ok(Read::Some | Read::Nothing) => {}
                        Ok(Read::End) => return "the peer closed it".to_owned(),
                        Err(fault) => return fault.to_string(),
                    }
                }
            }
            () = wake.notified() => {}
        }
    }
}

fn hear(shared: &Arc<Shared>, unit: &UnitId, run: RunId, conn: ConnId, heard: Heard, asks: &Arc<AtomicUsize>) -> Next {
    let answer = |answer: Message| {
        shared.with(|router, _| router.push_answer(conn, answer));
        Next::Nothing
    };
    let frames = match heard {
        Heard::Message(frames) => frames,
        Heard::Oversized { kept, frame, announced_bytes } => {
            let (code, what, limit) = match frame {
                0 => (Code::UnknownOp, "first", MEMBER.op_bytes),
                1 => (Code::BadHeader, "header", MEMBER.header_bytes),
                _ => (Code::TooBig, "data", MEMBER.data_bytes),
            };
            let text = format!("a {what} frame of {announced_bytes} bytes; the limit is {limit}");
            return answer(WireError::new(code, text).about(wire::about(&kept).as_deref()));
        }
        Heard::Credentials { .. } | Heard::Ready { .. } => unreachable!("the handshake is over"),
    };
    let message = match Message::decode(&frames) {
        Ok(message) => message,
        Err(error) => return answer(error.about(wire::about(&frames).as_deref())),
    };
    match shared.with(|router, now| router.handle(conn, message, now)) {
        Next::Ask(message) => {
            if asks.fetch_add(1, Ordering::Relaxed) >= ASKS_MAX {
                asks.fetch_sub(1, Ordering::Relaxed);
                let text =
                    format!("{ASKS_MAX} state operations and tool calls of `{unit}` are under way, which is the limit");
                return answer(WireError::new(Code::Busy, text).retry_after_ms(100).about(message.id()));
            }
            let (shared, asks, id) = (shared.clone(), asks.clone(), message.id().map(str::to_owned));
            let work = shared.sessions.answer(unit.clone(), run, message);
            tokio::spawn(async move {
                // In a task of its own, so that a panic there is an answer too.
                let done = tokio::spawn(work).await.unwrap_or_else(|fault| {
                    tracing::error!("a state operation or tool call failed inside loomd: {fault}");
                    let text = "loomd failed while doing it; its log says how";
                    WireError::new(Code::Internal, text).outcome(Outcome::Unknown).about(id.as_deref())
                });
                asks.fetch_sub(1, Ordering::Relaxed);
                shared.with(|router, _| router.push_answer(conn, done));
            });
            Next::Nothing
        }
        next @ (Next::Nothing | Next::Close) => next,
    }
}

/// A socket with its protocol state and what waits to be written.
struct Link {
    stream: Arc<UnixStream>,
    zmtp: Zmtp,
    writer: Writer,
}

enum Read {
    Some,
    Nothing,
    End,
}

impl Link {
    /// The next thing the peer says, while answers of the handshake go out.
    async fn hear(&mut self) -> Result<Heard, End> {
        loop {
            let heard = self.zmtp.listen().map_err(|fault| End::Broken(fault.to_string()))?;
            self.writer.extend(self.zmtp.take_replies());
            self.try_flush()?;
            if let Some(heard) = heard {
                return Ok(heard);
            }
            let interest =
                if self.writer.bytes > 0 { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            self.stream.ready(interest).await?;
            if let Read::End = self.try_read()? {
                return Err(End::Broken("the peer closed it".to_owned()));
            }
        }
    }

    /// Takes what has arrived, at most [`READ_BYTES`].
    fn try_read(&mut self) -> io::Result<Read> {
        let mut bytes = [0; READ_BYTES];
        match self.stream.try_read(&mut bytes) {
            Ok(0) => Ok(Read::End),
            Ok(count) => {
                self.zmtp.receive(&bytes[..count]);
                Ok(Read::Some)
            }
            Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => Ok(Read::Nothing),
            Err(fault) => Err(fault),
        }
    }

    /// Writes as much as the socket takes.
    fn try_flush(&mut self) -> io::Result<()> {
        while self.writer.bytes > 0 {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.writer.slices(&mut slices);
            match self.stream.try_write_vectored(&slices[..count]) {
                Ok(written) => self.writer.advance(written),
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        loop {
            self.try_flush()?;
            if self.writer.bytes == 0 {
                return Ok(());
            }
            self.stream.ready(Interest::WRITABLE).await?;
        }
    }

    /// Writes what waits, then lets the peer read it and close.
    async fn say_goodbye(&mut self) -> io::Result<()> {
        self.flush().await?;
        nix::sys::socket::shutdown(std::os::fd::AsRawFd::as_raw_fd(&*self.stream), nix::sys::socket::Shutdown::Write)?;
        let mut bytes = [0; 1024];
        loop {
            self.stream.ready(Interest::READABLE).await?;
            match self.stream.try_read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {}
                Err(fault) => return Err(fault),
            }
        }
    }
}

/// Bytes on their way out, in order.
#[derive(Debug, Default)]
struct Writer {
    queue: VecDeque<Bytes>,
    bytes: usize,
}

impl Writer {
    fn push(&mut self, message: &Message) {
        let frames = message.frames();
        let last = frames.len() - 1;
        for (index, frame) in frames.into_iter().enumerate() {
            self.extend([frame_head(frame.len(), index < last), frame]);
        }
    }

    fn extend(&mut self, parts: impl IntoIterator<Item = Bytes>) {
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            self.bytes += part.len();
            self.queue.push_back(part);
        }
    }

    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(&self.queue) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while written > 0 {
            let first = self.queue.front_mut().expect("no more was written than waits");
            if written < first.len() {
                let _ = first.split_to(written);
                return;
            }
            written -= first.len();
            self.queue.pop_front();
        }
    }
}
