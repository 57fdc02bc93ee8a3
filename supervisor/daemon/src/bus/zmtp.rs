//! zmtp: the listening side of ZMTP 3, without sockets.
//!
//! Job: bytes in, handshake and messages out; frames for what is sent. ROUTER towards one DEALER, NULL and PLAIN, nothing
//! else. May touch: nothing of ours. May not: sockets, clocks.
//! Keeps: any bytes are parsed or refused, never a panic; memory grows with bytes that arrived, never with announced
//! lengths; every limit is checked when a length is announced, before a byte of it is kept.
//!
//! Source: ZeroMQ RFC 23 (ZMTP 3.0) and RFC 37 (ZMTP 3.1). ADR 0003 says why this is our own.

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// Bytes of a handshake, greeting included, before authentication.
pub const HANDSHAKE_MAX_BYTES: usize = 1024;
/// The longest command after the handshake.
pub const COMMAND_MAX_BYTES: usize = 512;
/// Answers to PING that wait unsent; beyond it a PING goes unanswered.
pub const REPLIES_MAX_BYTES: usize = 4096;
/// Frames at least this long are handed on as they lie in the buffer; shorter ones are copied, so that a kept short frame
/// does not keep the buffer of its neighbours.
const SHARE_FROM_BYTES: usize = 32 * 1024;

const GREETING_BYTES: usize = 64;
/// Signature and major version: what libzmq waits for before it says which mechanism it wants.
const GREETING_HEAD: [u8; 11] = [0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3];
const MINOR: u8 = 1;

const FLAG_MORE: u8 = 1;
const FLAG_LONG: u8 = 2;
const FLAG_COMMAND: u8 = 4;

/// What is accepted from a peer, once it is authenticated and before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Frames of a message.
    pub frames: usize,
    /// First frame.
    pub op_bytes: usize,
    /// Second frame.
    pub header_bytes: usize,
    /// Each further frame.
    pub data_bytes: usize,
    /// All frames of a message, also of one that is skipped for a frame over its limit.
    pub message_bytes: usize,
}

impl Limits {
    fn of_frame(&self, index: usize) -> usize {
        match index {
            0 => self.op_bytes,
            1 => self.header_bytes,
            _ => self.data_bytes,
        }
    }
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// PLAIN credentials: go on with [`Zmtp::admit`], or close.
    Credentials { username: Vec<u8>, password: Vec<u8> },
    /// The handshake is over; messages may follow.
    Ready { mechanism: Mechanism },
    /// All frames of a message.
    Message(Vec<Bytes>),
    /// A message with a frame over its limit. It was skipped; `kept` are the frames before.
    Oversized { kept: Vec<Bytes>, frame: usize, announced_bytes: u64 },
}

/// How the peer said who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// Not at all.
    Null,
    /// With name and password.
    Plain,
}

/// Why the connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the peer does not speak ZMTP 3")]
    NotZmtp,
    #[error("the peer asks for the mechanism `{0}`; NULL and PLAIN are spoken here")]
    Mechanism(String),
    #[error("the handshake exceeds {HANDSHAKE_MAX_BYTES} bytes")]
    HandshakeTooLong,
    #[error("the handshake is broken: {0}")]
    Handshake(&'static str),
    #[error("the peer is a {0} socket; a DEALER is needed")]
    SocketType(String),
    #[error("a frame has flags {0:#04x}, which ZMTP 3 does not know")]
    Flags(u8),
    #[error("a command of {0} bytes; the limit is {COMMAND_MAX_BYTES}")]
    CommandTooLong(u64),
    #[error("a message of more than {0} frames")]
    Frames(usize),
    #[error("a message of more than {0} bytes")]
    MessageTooLong(usize),
    #[error("the peer reported an error: {0}")]
    Peer(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    /// PLAIN: wait for HELLO.
    Hello,
    /// PLAIN: credentials were given out; wait for `admit`.
    Judged,
    /// PLAIN: wait for INITIATE.
    Initiate,
    /// NULL: wait for READY.
    Ready,
    Traffic,
}

/// One connection's protocol state.
#[derive(Debug)]
pub struct Zmtp {
    stage: Stage,
    mechanism: Mechanism,
    limits: Limits,
    buffer: BytesMut,
    /// Handshake bytes consumed.
    handshake_bytes: usize,
    frames: Vec<Bytes>,
    message_bytes: usize,
    /// A message in which a frame was over its limit: which frame, and what it announced.
    oversized: Option<(usize, u64)>,
    /// Frames seen of the current message, skipped ones included.
    index: usize,
    /// Bytes still to be thrown away, and whether more frames follow.
    skipping: Option<(u64, bool)>,
    replies: VecDeque<Bytes>,
    replies_bytes: usize,
}

/// A frame's head, once all of it is there.
struct Head {
    bytes: usize,
    flags: u8,
    body_bytes: u64,
}

impl Zmtp {
    /// A new connection; the start of our greeting waits in the replies.
    pub fn new(limits: Limits) -> Self {
        let mut zmtp = Self {
            stage: Stage::Greeting,
            mechanism: Mechanism::Null,
            limits,
            buffer: BytesMut::new(),
            handshake_bytes: 0,
            frames: Vec::new(),
            message_bytes: 0,
            oversized: None,
            index: 0,
            skipping: None,
            replies: VecDeque::new(),
            replies_bytes: 0,
        };
        zmtp.reply(Bytes::from_static(&GREETING_HEAD));
        zmtp
    }

    /// Other limits from the next frame on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes bytes that arrived. Call [`Zmtp::listen`] until it has nothing before giving more.
    pub fn receive(&mut self, mut bytes: &[u8]) {
        if let Some((left, _)) = &mut self.skipping {
            let skipped = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= skipped as u64;
            bytes = &bytes[skipped..];
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes held for this peer: what arrived and is not yet given out.
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity() + self.frames.iter().map(Bytes::len).sum::<usize>()
    }

    /// What is to be written, in order: greeting, handshake, PONG.
    pub fn take_replies(&mut self) -> impl Iterator<Item = Bytes> + '_ {
        self.replies_bytes = 0;
        self.replies.drain(..)
    }

    /// The credentials are right.
    pub fn admit(&mut self) {
        if self.stage == Stage::Judged {
            self.stage = Stage::Initiate;
            self.reply(command(b"WELCOME", &[]));
        }
    }

    /// The next thing that came, if all of it is there.
    pub fn listen(&mut self) -> Result<Option<Heard>, Fault> {
        loop {
            let heard = match self.stage {
                Stage::Greeting => {
                    if !self.greeting()? {
                        return Ok(None);
                    }
                    continue;
                }
                Stage::Judged => return Ok(None),
                Stage::Hello | Stage::Initiate | Stage::Ready => match self.handshake()? {
                    Step::Wait => None,
                    Step::Again => continue,
                    Step::Heard(heard) => Some(heard),
                },
                Stage::Traffic => match self.traffic()? {
                    Step::Wait => None,
                    Step::Again => continue,
                    Step::Heard(heard) => Some(heard),
                },
            };
            if heard.is_none() && self.buffer.is_empty() {
                // An idle peer holds no buffer.
                self.buffer = BytesMut::new();
            }
            return Ok(heard);
        }
    }

    fn greeting(&mut self) -> Result<bool, Fault> {
        let seen = &self.buffer[..];
        if seen.first().is_some_and(|b| *b != 0xff)
            || seen.get(9).is_some_and(|b| b & 1 == 0)
            || seen.get(10).is_some_and(|b| *b < 3)
        {
            return Err(Fault::NotZmtp);
        }
        if seen.len() < GREETING_BYTES {
            return Ok(false);
        }
        let greeting = self.buffer.split_to(GREETING_BYTES);
        self.handshake_bytes = GREETING_BYTES;
        let name = &greeting[12..32];
        let name = &name[..name.iter().position(|b| *b == 0).unwrap_or(name.len())];
        (self.mechanism, self.stage) = match name {
            b"NULL" => (Mechanism::Null, Stage::Ready),
            b"PLAIN" => (Mechanism::Plain, Stage::Hello),
            other => return Err(Fault::Mechanism(String::from_utf8_lossy(other).escape_debug().to_string())),
        };
        let mut rest = vec![0; GREETING_BYTES - GREETING_HEAD.len()];
        rest[0] = MINOR;
        rest[1..=name.len()].copy_from_slice(name);
        rest[21] = u8::from(self.mechanism == Mechanism::Plain);
        self.reply(rest.into());
        if self.mechanism == Mechanism::Null {
            self.reply(command(b"READY", &metadata()));
        }
        Ok(true)
    }

    /// The head of the next frame.
    fn head(&self) -> Result<Option<Head>, Fault> {
        let Some(flags) = self.buffer.first().copied() else { return Ok(None) };
        if flags & !(FLAG_MORE | FLAG_LONG | FLAG_COMMAND) != 0 || flags & (FLAG_MORE | FLAG_COMMAND) == 5 {
            return Err(Fault::Flags(flags));
        }
        let head = if flags & FLAG_LONG == 0 {
            self.buffer.get(1).map(|len| Head { bytes: 2, flags, body_bytes: u64::from(*len) })
        } else {
            self.buffer.get(1..9).map(|len| Head {
                bytes: 9,
                flags,
                body_bytes: u64::from_be_bytes(len.try_into().expect("eight bytes were taken")),
            })
        };
        Ok(head)
    }

    /// Head and body of a frame whose length was checked, if all of it is there.
    fn body(&mut self, head: &Head) -> Option<BytesMut> {
        let body_bytes = usize::try_from(head.body_bytes).expect("checked against a limit before");
        if self.buffer.len() < head.bytes + body_bytes {
            return None;
        }
        drop(self.buffer.split_to(head.bytes));
        Some(self.buffer.split_to(body_bytes))
    }

    fn handshake(&mut self) -> Result<Step, Fault> {
        let Some(head) = self.head()? else { return Ok(Step::Wait) };
        if head.body_bytes > (HANDSHAKE_MAX_BYTES - self.handshake_bytes) as u64 {
            return Err(Fault::HandshakeTooLong);
        }
        if head.flags & FLAG_COMMAND == 0 {
            return Err(Fault::Handshake("a message came before it was over"));
        }
        let Some(body) = self.body(&head) else { return Ok(Step::Wait) };
        self.handshake_bytes = (self.handshake_bytes + head.bytes + body.len()).min(HANDSHAKE_MAX_BYTES);
        let (name, rest) = split_command(&body).ok_or(Fault::Handshake("a command without a name"))?;
        match (self.stage, name) {
            (_, b"ERROR") => {
                Err(Fault::Peer(String::from_utf8_lossy(rest.get(1..).unwrap_or_default()).escape_debug().to_string()))
            }
            (Stage::Hello, b"HELLO") => {
                let (username, rest) = counted(rest).ok_or(Fault::Handshake("HELLO without a user name"))?;
                let (password, rest) = counted(rest).ok_or(Fault::Handshake("HELLO without a password"))?;
                if !rest.is_empty() {
                    return Err(Fault::Handshake("HELLO has bytes left over"));
                }
                self.stage = Stage::Judged;
                Ok(Step::Heard(Heard::Credentials { username: username.to_vec(), password: password.to_vec() }))
            }
            (Stage::Initiate, b"INITIATE") => {
                check_metadata(rest)?;
                self.reply(command(b"READY", &metadata()));
                self.stage = Stage::Traffic;
                Ok(Step::Heard(Heard::Ready { mechanism: Mechanism::Plain }))
            }
            (Stage::Ready, b"READY") => {
                check_metadata(rest)?;
                self.stage = Stage::Traffic;
                Ok(Step::Heard(Heard::Ready { mechanism: Mechanism::Null }))
            }
            (Stage::Hello | Stage::Initiate | Stage::Ready, _) => Err(Fault::Handshake("a command out of turn")),
            (Stage::Greeting | Stage::Judged | Stage::Traffic, _) => {
                unreachable!("`listen` comes here in a handshake only")
            }
        }
    }

    fn traffic(&mut self) -> Result<Step, Fault> {
        if let Some((left, more)) = self.skipping {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            drop(self.buffer.split_to(now));
            let left = left - now as u64;
            if left > 0 {
                self.skipping = Some((left, more));
                return Ok(Step::Wait);
            }
            self.skipping = None;
            return Ok(self.frame_done(more));
        }
        let Some(head) = self.head()? else { return Ok(Step::Wait) };
        if head.flags & FLAG_COMMAND != 0 {
            if head.body_bytes > COMMAND_MAX_BYTES as u64 {
                return Err(Fault::CommandTooLong(head.body_bytes));
            }
            let Some(body) = self.body(&head) else { return Ok(Step::Wait) };
            return self.command(&body).map(|()| Step::Again);
        }
        if self.index >= self.limits.frames {
            return Err(Fault::Frames(self.limits.frames));
        }
        if head.body_bytes > (self.limits.message_bytes.saturating_sub(self.message_bytes)) as u64 {
            return Err(Fault::MessageTooLong(self.limits.message_bytes));
        }
        let more = head.flags & FLAG_MORE != 0;
        if head.body_bytes > self.limits.of_frame(self.index) as u64 && self.oversized.is_none() {
            self.oversized = Some((self.index, head.body_bytes));
        }
        if self.oversized.is_some() {
            self.message_bytes += usize::try_from(head.body_bytes).expect("checked against the message's limit");
            drop(self.buffer.split_to(head.bytes));
            self.skipping = Some((head.body_bytes, more));
            return Ok(Step::Again);
        }
        let Some(body) = self.body(&head) else { return Ok(Step::Wait) };
        self.message_bytes += body.len();
        self.frames.push(if body.len() < SHARE_FROM_BYTES { Bytes::copy_from_slice(&body) } else { body.freeze() });
        Ok(self.frame_done(more))
    }

    fn frame_done(&mut self, more: bool) -> Step {
        self.index += 1;
        if more {
            return Step::Again;
        }
        let kept = std::mem::take(&mut self.frames);
        (self.index, self.message_bytes) = (0, 0);
        Step::Heard(match self.oversized.take() {
            Some((frame, announced_bytes)) => Heard::Oversized { kept, frame, announced_bytes },
            None => Heard::Message(kept),
        })
    }

    fn command(&mut self, body: &[u8]) -> Result<(), Fault> {
        let (name, rest) = split_command(body).ok_or(Fault::Handshake("a command without a name"))?;
        match name {
            // Time to live (2 bytes), then up to 16 bytes that come back.
            b"PING" if self.replies_bytes <= REPLIES_MAX_BYTES => {
                let context = rest.get(2..).unwrap_or_default();
                self.reply(command(b"PONG", &context[..context.len().min(16)]));
            }
            b"ERROR" => {
                let reason = String::from_utf8_lossy(rest.get(1..).unwrap_or_default()).escape_debug().to_string();
                return Err(Fault::Peer(reason));
            }
            // PONG, SUBSCRIBE and CANCEL mean nothing between ROUTER and DEALER; commands to come are ignored as well.
            _ => {}
        }
        Ok(())
    }

    fn reply(&mut self, bytes: Bytes) {
        self.replies_bytes += bytes.len();
        self.replies.push_back(bytes);
    }
}

enum Step {
    Wait,
    Again,
    Heard(Heard),
}

fn split_command(body: &[u8]) -> Option<(&[u8], &[u8])> {
    counted(body).filter(|(name, _)| !name.is_empty())
}

/// A part with its length in one byte before it, and what follows.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

fn command(name: &[u8], body: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(3 + name.len() + body.len());
    let len = u8::try_from(1 + name.len() + body.len()).expect("our own commands are short");
    bytes.extend_from_slice(&[FLAG_COMMAND, len, u8::try_from(name.len()).expect("part of the above")]);
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(body);
    bytes.into()
}

fn metadata() -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in [("Socket-Type", "ROUTER"), ("Identity", "")] {
        body.push(u8::try_from(name.len()).expect("short"));
        body.extend_from_slice(name.as_bytes());
        body.extend_from_slice(&u32::try_from(value.len()).expect("short").to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    body
}

/// The peer must be a DEALER; other properties are ignored. Its routing id is a hint that nothing here uses.
fn check_metadata(mut rest: &[u8]) -> Result<(), Fault> {
    let broken = Fault::Handshake("broken metadata");
    let mut dealer = false;
    while !rest.is_empty() {
        let (name, after) = counted(rest).ok_or(broken.clone())?;
        let (len, after) = after.split_at_checked(4).ok_or(broken.clone())?;
        let len = u32::from_be_bytes(len.try_into().expect("four bytes were taken")) as usize;
        let (value, after) = after.split_at_checked(len).ok_or(broken.clone())?;
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            if value != b"DEALER" {
                return Err(Fault::SocketType(String::from_utf8_lossy(value).escape_debug().to_string()));
            }
            dealer = true;
        }
        rest = after;
    }
    if dealer { Ok(()) } else { Err(Fault::SocketType("nameless".to_owned())) }
}

/// The head of a message frame of that length.
pub fn frame_head(body_bytes: usize, more: bool) -> Bytes {
    let more = u8::from(more) * FLAG_MORE;
    match u8::try_from(body_bytes) {
        Ok(short) => Bytes::copy_from_slice(&[more, short]),
        Err(_) => {
            let mut head = [more | FLAG_LONG, 0, 0, 0, 0, 0, 0, 0, 0];
            head[1..].copy_from_slice(&(body_bytes as u64).to_be_bytes());
            Bytes::copy_from_slice(&head)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        frames: 16,
        op_bytes: 2,
        header_bytes: 16 * 1024,
        data_bytes: 1024 * 1024,
        message_bytes: 16 * 1024 * 1024,
    };

    fn greeting(mechanism: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; GREETING_BYTES];
        bytes[..11].copy_from_slice(&GREETING_HEAD);
        bytes[12..12 + mechanism.len()].copy_from_slice(mechanism);
        bytes
    }

    fn ready() -> Vec<u8> {
        command(b"READY", b"\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0").to_vec()
    }

    fn frame(body: &[u8], more: bool) -> Vec<u8> {
        [frame_head(body.len(), more).to_vec(), body.to_vec()].concat()
    }

    fn connected() -> Zmtp {
        let mut zmtp = Zmtp::new(LIMITS);
        zmtp.receive(&[greeting(b"NULL"), ready()].concat());
        assert_eq!(zmtp.listen(), Ok(Some(Heard::Ready { mechanism: Mechanism::Null })));
        assert_eq!(zmtp.take_replies().count(), 3, "greeting in two parts, READY");
        zmtp
    }

    fn all(zmtp: &mut Zmtp) -> Result<Vec<Heard>, Fault> {
        let mut heard = Vec::new();
        while let Some(next) = zmtp.listen()? {
            heard.push(next);
        }
        Ok(heard)
    }

    #[test]
    fn the_73_bytes_that_abort_the_crate_end_this_connection_and_keep_nothing() {
        let mut bytes = greeting(b"NULL");
        bytes.push(FLAG_COMMAND | FLAG_LONG);
        bytes.extend_from_slice(&(1u64 << 40).to_be_bytes());
        assert_eq!(bytes.len(), 73);
        let mut zmtp = Zmtp::new(LIMITS);
        zmtp.receive(&bytes);
        assert_eq!(zmtp.listen(), Err(Fault::HandshakeTooLong));
        assert!(zmtp.held_bytes() < 1024);
    }

    #[test]
    fn an_announced_length_is_refused_before_memory_is_taken_for_it() {
        for announced in [u64::MAX, 1 << 40, 16 * 1024 * 1024 + 1] {
            let mut zmtp = connected();
            zmtp.receive(&[&[FLAG_LONG][..], &announced.to_be_bytes()].concat());
            assert!(matches!(zmtp.listen(), Err(Fault::MessageTooLong(_))));
            assert!(zmtp.held_bytes() < 1024, "{}", zmtp.held_bytes());
        }
        let mut zmtp = connected();
        zmtp.receive(&[frame(b"1P", true), frame(b"{}", true)].concat());
        zmtp.receive(&[&[FLAG_LONG][..], &(1024u64 * 1024).to_be_bytes()].concat());
        assert_eq!(zmtp.listen(), Ok(None));
        assert!(zmtp.held_bytes() < 4096, "{}", zmtp.held_bytes());
    }

    #[test]
    fn a_frame_over_its_limit_is_skipped_and_the_next_message_is_heard() {
        let mut zmtp = connected();
        let big = vec![7; LIMITS.data_bytes + 1];
        let bytes = [
            frame(b"1P", true),
            frame(b"{\"id\":\"a\"}", true),
            frame(&big, false),
            frame(b"1I", true),
            frame(b"{}", false),
        ];
        let mut heard = Vec::new();
        for chunk in bytes.concat().chunks(1000) {
            zmtp.receive(chunk);
            heard.extend(all(&mut zmtp).unwrap());
            assert!(zmtp.held_bytes() < 16 * 1024, "{}", zmtp.held_bytes());
        }
        let kept = vec![Bytes::from_static(b"1P"), Bytes::from_static(b"{\"id\":\"a\"}")];
        let expected = vec![
            Heard::Oversized { kept, frame: 2, announced_bytes: big.len() as u64 },
            Heard::Message(vec![Bytes::from_static(b"1I"), Bytes::from_static(b"{}")]),
        ];
        assert_eq!(heard, expected);
    }

    #[test]
    fn a_message_of_endless_parts_ends_the_connection() {
        let mut zmtp = connected();
        for _ in 0..16 {
            zmtp.receive(&frame(b"1", true));
            assert_eq!(zmtp.listen(), Ok(None));
        }
        zmtp.receive(&frame(b"1", true));
        assert_eq!(zmtp.listen(), Err(Fault::Frames(16)));
    }

    #[test]
    fn a_ping_gets_its_context_back_and_a_flood_of_pings_is_bounded() {
        let mut zmtp = connected();
        zmtp.receive(&command(b"PING", b"\0\x64context"));
        assert_eq!(zmtp.listen(), Ok(None));
        assert_eq!(zmtp.take_replies().collect::<Vec<_>>(), [command(b"PONG", b"context")]);
        for _ in 0..100_000 {
            zmtp.receive(&command(b"PING", b"\0\x64context"));
            assert_eq!(zmtp.listen(), Ok(None));
        }
        assert!(zmtp.take_replies().map(|bytes| bytes.len()).sum::<usize>() < 2 * REPLIES_MAX_BYTES);
    }

    #[test]
    fn plain_credentials_are_asked_about_before_anything_else_is_read() {
        let mut zmtp = Zmtp::new(LIMITS);
        let initiate = command(b"INITIATE", b"\x0bSocket-Type\0\0\0\x06DEALER");
        let hello = command(b"HELLO", b"\x04chat\x06secret");
        zmtp.receive(&[&greeting(b"PLAIN")[..], &hello, &initiate, &frame(b"1H", false)].concat());
        let credentials = Heard::Credentials { username: b"chat".to_vec(), password: b"secret".to_vec() };
        assert_eq!(zmtp.listen(), Ok(Some(credentials)));
        assert_eq!(zmtp.listen(), Ok(None));
        zmtp.admit();
        assert_eq!(zmtp.listen(), Ok(Some(Heard::Ready { mechanism: Mechanism::Plain })));
        assert_eq!(zmtp.listen(), Ok(Some(Heard::Message(vec![Bytes::from_static(b"1H")]))));
        let said: Vec<u8> = zmtp.take_replies().flatten().collect();
        assert_eq!(said.len(), 64 + 10 + command(b"READY", &metadata()).len());
        assert_eq!(&said[12..17], b"PLAIN");
    }

    #[test]
    fn who_is_no_dealer_or_speaks_something_else_is_turned_away() {
        let sub = command(b"READY", b"\x0bSocket-Type\0\0\0\x03SUB");
        let table: [(&[u8], Fault); 7] = [
            (b"GET / HTTP/1.1\r\n", Fault::NotZmtp),
            (&[0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 1], Fault::NotZmtp),
            (&greeting(b"CURVE"), Fault::Mechanism("CURVE".to_owned())),
            (&[greeting(b"NULL"), sub.to_vec()].concat(), Fault::SocketType("SUB".to_owned())),
            (&[greeting(b"NULL"), frame(b"1H", false)].concat(), Fault::Handshake("a message came before it was over")),
            (&[greeting(b"NULL"), vec![0x84, 0]].concat(), Fault::Flags(0x84)),
            (&[greeting(b"PLAIN"), ready()].concat(), Fault::Handshake("a command out of turn")),
        ];
        for (bytes, fault) in table {
            let mut zmtp = Zmtp::new(LIMITS);
            zmtp.receive(bytes);
            assert_eq!(all(&mut zmtp), Err(fault));
        }
    }

    fn valid_story() -> Vec<u8> {
        let mut bytes = [greeting(b"NULL"), ready()].concat();
        bytes.extend(command(b"PING", b"\0\x01x"));
        bytes.extend([frame(b"1P", true), frame(&[b'h'; 300], true), frame(&[1; 70_000], false)].concat());
        bytes.extend([frame(b"1I", true), frame(b"{}", false)].concat());
        bytes
    }

    #[test]
    fn bytes_that_come_one_at_a_time_say_the_same() {
        let (mut whole, mut slow) = (Zmtp::new(LIMITS), Zmtp::new(LIMITS));
        let bytes = valid_story();
        whole.receive(&bytes);
        let expected = all(&mut whole).unwrap();
        assert_eq!(expected.len(), 3);
        let mut heard = Vec::new();
        for byte in bytes {
            slow.receive(&[byte]);
            heard.extend(all(&mut slow).unwrap());
        }
        assert_eq!(heard, expected);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused_within_their_own_size(
            start in 0usize..3,
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20),
        ) {
            let mut zmtp = Zmtp::new(LIMITS);
            let start = [vec![], greeting(b"NULL"), [greeting(b"NULL"), ready()].concat()][start].clone();
            let mut given = start.len();
            zmtp.receive(&start);
            for chunk in chunks {
                given += chunk.len();
                zmtp.receive(&chunk);
                let went_on = all(&mut zmtp).is_ok();
                prop_assert!(zmtp.held_bytes() <= 4 * given + 256, "{} for {given}", zmtp.held_bytes());
                if !went_on { break; }
            }
        }

        #[test]
        fn a_valid_story_with_bytes_changed_never_panics(
            changes in proptest::collection::vec((0usize..600, any::<u8>()), 0..6), cut in 0usize..71_000,
        ) {
            let mut bytes = valid_story();
            for (at, value) in changes { bytes[at] = value; }
            bytes.truncate(cut);
            let mut zmtp = Zmtp::new(LIMITS);
            for chunk in bytes.chunks(97) {
                zmtp.receive(chunk);
                if all(&mut zmtp).is_err() { break; }
            }
        }
    }
}
