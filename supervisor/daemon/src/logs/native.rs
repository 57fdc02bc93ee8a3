//! native: loomd's words on their way to journald, without ever waiting for it.
//!
//! Job: send each word at once; where journald is slow, keep it in a short queue that a thread of its own drains; where journald
//! is gone or the queue is full, hand it to the file. May touch: journald's native socket. Keeps: words reach journald in the
//! order in which they were said; the caller never waits; an empty queue wakes nobody; what is in the queue is all that a
//! `kill -9` of loomd can lose.

use super::words::{JsonLines, Word};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Words that wait for a journald which is slow or hangs. More go to the file.
pub const QUEUE_WORDS: usize = 256;
/// Bytes of a field's value; the rest is cut. All fields of a word fit a datagram.
const VALUE_MAX_BYTES: usize = 16 << 10;
/// While something waits, how long until journald is tried again without news of it.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// What loomd's end waits for journald to take what is queued; the rest goes to the file.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(1);

/// journald's native socket, as loomd uses it.
pub struct Native {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    /// Takes what journald does not.
    file: JsonLines,
    state: Mutex<State>,
    /// Something is queued, or the end has come.
    filled: Condvar,
    /// The queue is empty again.
    emptied: Condvar,
}

#[derive(Default)]
struct State {
    socket: Option<UnixDatagram>,
    queue: VecDeque<Word>,
    /// Words that went to the file since journald last took one.
    in_file: u64,
    drains: bool,
    ends: bool,
}

enum Sent {
    Taken,
    /// Its queue is full.
    Later,
    /// Nobody listens.
    Gone,
}

impl Native {
    /// Speaks to the socket at `path`; fails where nobody listens.
    pub fn open(path: PathBuf, file: JsonLines) -> io::Result<Self> {
        let state = State { socket: Some(connect(&path)?), ..State::default() };
        let (filled, emptied) = (Condvar::new(), Condvar::new());
        Ok(Self { shared: Arc::new(Shared { path, file, state: Mutex::new(state), filled, emptied }) })
    }

    /// Says a word. Never waits.
    pub fn say(&self, word: Word) {
        let mut state = self.shared.lock();
        if state.queue.is_empty() {
            self.shared.say_now(&mut state, word);
        } else {
            self.shared.queue(&mut state, word);
        }
        if !state.queue.is_empty() && !state.drains {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("words".to_owned());
            match thread.spawn(move || shared.drain()) {
                Ok(_) => state.drains = true,
                Err(_) => self.shared.give_up(&mut state),
            }
        }
    }

    /// The other handle of the same socket, for whoever ends loomd.
    pub fn last_words(&self) -> LastWords {
        LastWords { shared: Some(Arc::clone(&self.shared)) }
    }
}

/// Held to loomd's end: what is still queued then is taken by journald or by the file.
#[derive(Default)]
pub struct LastWords {
    shared: Option<Arc<Shared>>,
}

impl Drop for LastWords {
    fn drop(&mut self) {
        let Some(shared) = &self.shared else { return };
        let until = Instant::now() + LAST_WORDS_LIMIT;
        let mut state = shared.lock();
        while !state.queue.is_empty() && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            (state, _) = shared.emptied.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        shared.give_up(&mut state);
        state.ends = true;
        shared.filled.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say_now(&self, state: &mut State, word: Word) {
        match self.send(state, &word) {
            Sent::Taken => self.tell_of_file(state),
            Sent::Later => self.queue(state, word),
            Sent::Gone => self.to_file(state, &word),
        }
    }

    fn queue(&self, state: &mut State, word: Word) {
        if state.queue.len() < QUEUE_WORDS {
            state.queue.push_back(word);
            self.filled.notify_one();
        } else {
            self.to_file(state, &word);
        }
    }

    fn to_file(&self, state: &mut State, word: &Word) {
        self.file.write(word);
        state.in_file += 1;
    }

    fn give_up(&self, state: &mut State) {
        while let Some(word) = state.queue.pop_front() {
            self.to_file(state, &word);
        }
    }

    /// Once journald takes words again, it is told where the others are.
    fn tell_of_file(&self, state: &mut State) {
        if state.in_file == 0 {
            return;
        }
        let lines = if state.in_file == 1 { "1 line".to_owned() } else { format!("{} lines", state.in_file) };
        let place = self.file.path().display();
        let text = format!("{lines} of loomd's own went to {place}: journald did not take them");
        let notice = Word::warning(text);
        match self.send(state, &notice) {
            Sent::Taken => state.in_file = 0,
            // No other word may come for long: it waits like one.
            Sent::Later => {
                state.in_file = 0;
                state.queue.push_back(notice);
                self.filled.notify_one();
            }
            Sent::Gone => {}
        }
    }

    fn send(&self, state: &mut State, word: &Word) -> Sent {
        let bytes = datagram(word);
        // A journald that was started anew listens at a new socket.
        for _ in 0..2 {
            let socket = match state.socket.take().map_or_else(|| connect(&self.path), Ok) {
                Ok(socket) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Sent::Later,
                Err(_) => return Sent::Gone,
            };
            match socket.send(&bytes) {
                Ok(_) => {
                    state.socket = Some(socket);
                    return Sent::Taken;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    state.socket = Some(socket);
                    return Sent::Later;
                }
                Err(_) => {}
            }
        }
        Sent::Gone
    }

    /// The thread's life: rests while the queue is empty, else waits until journald reads.
    fn drain(&self) {
        let mut state = self.lock();
        loop {
            while state.queue.is_empty() {
                self.emptied.notify_all();
                if state.ends {
                    return;
                }
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let Some(word) = state.queue.pop_front() else { continue };
            match self.send(&mut state, &word) {
                Sent::Taken => {
                    if state.queue.is_empty() {
                        self.tell_of_file(&mut state);
                    }
                }
                Sent::Gone => {
                    self.to_file(&mut state, &word);
                    self.give_up(&mut state);
                }
                Sent::Later => {
                    state.queue.push_front(word);
                    let socket = state.socket.as_ref().map(|socket| socket.as_fd().try_clone_to_owned());
                    drop(state);
                    wait_writable(socket.and_then(Result::ok));
                    state = self.lock();
                }
            }
        }
    }
}

fn wait_writable(socket: Option<OwnedFd>) {
    let limit = PollTimeout::try_from(TRY_AGAIN).unwrap_or(PollTimeout::MAX);
    let mut fds: Vec<PollFd<'_>> = socket.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)).collect();
    // Whatever it answers: the next attempt shows.
    let _ = poll(&mut fds, limit);
}

/// Connected, because poll tells only then when the other side has room again.
fn connect(path: &PathBuf) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

/// journald's native protocol: `NAME`, length, value, each field.
fn datagram(word: &Word) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    let mut put = |name: &str, value: &str| {
        let value = &value.as_bytes()[..value.len().min(VALUE_MAX_BYTES)];
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(b'\n');
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
    };
    put("PRIORITY", word.priority());
    put("SYSLOG_IDENTIFIER", super::words::IDENTIFIER);
    put("TARGET", word.target);
    put("MESSAGE", &word.message);
    for (name, value) in &word.fields {
        match value.as_str() {
            Some(text) => put(name, text),
            None => put(name, &value.to_string()),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Map;

    fn word(number: usize) -> Word {
        let fields = Map::from_iter([("LOOM_UNIT".to_owned(), "chat.agent".into())]);
        Word { message: format!("word {number}"), fields, ..Word::warning(String::new()) }
    }

    fn messages(socket: &UnixDatagram, count: usize) -> Vec<String> {
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut buffer = vec![0; 1 << 16];
        let mut one = || {
            let length = socket.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let after = &text[text.find("MESSAGE\n").unwrap() + 8 + 8..];
            after.lines().next().unwrap().to_owned()
        };
        (0..count).map(|_| one()).collect()
    }

    #[test]
    fn a_journald_that_hangs_is_not_waited_for_and_gets_everything_in_order_once_it_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let native = Native::open(path, JsonLines::open(dir.path()).unwrap()).unwrap();
        let from = Instant::now();
        (0..200).for_each(|number| native.say(word(number)));
        assert!(from.elapsed() < Duration::from_secs(5), "{:?}", from.elapsed());
        assert_eq!(messages(&journald, 200), (0..200).map(|number| format!("word {number}")).collect::<Vec<_>>());
        assert_eq!(std::fs::read_to_string(dir.path().join("loomd.jsonl")).unwrap(), "");
    }

    #[test]
    fn what_the_queue_does_not_hold_is_in_the_file_and_that_is_said_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let native = Native::open(path, JsonLines::open(dir.path()).unwrap()).unwrap();
        (0..1000).for_each(|number| native.say(word(number)));
        let in_file = std::fs::read_to_string(dir.path().join("loomd.jsonl")).unwrap();
        let in_file: Vec<String> = in_file
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["message"].to_string())
            .collect();
        assert!((400..1000 - QUEUE_WORDS + 1).contains(&in_file.len()), "{}", in_file.len());
        let taken = messages(&journald, 1000 - in_file.len() + 1);
        let (said, taken) = taken.split_last().unwrap();
        assert!(said.starts_with(&format!("{} lines of loomd's own went to ", in_file.len())), "{said}");
        let all: Vec<String> = taken.iter().map(|text| format!("{text:?}")).chain(in_file).collect();
        assert_eq!(all, (0..1000).map(|number| format!("\"word {number}\"")).collect::<Vec<_>>());
    }

    #[test]
    fn a_journald_that_comes_back_is_found_again_and_the_file_has_what_was_said_between() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let first = UnixDatagram::bind(&path).unwrap();
        let native = Native::open(path.clone(), JsonLines::open(dir.path()).unwrap()).unwrap();
        native.say(word(1));
        assert_eq!(messages(&first, 1), ["word 1"]);
        drop(first);
        std::fs::remove_file(&path).unwrap();
        native.say(word(2));
        let second = UnixDatagram::bind(&path).unwrap();
        native.say(word(3));
        let taken = messages(&second, 2);
        assert_eq!(taken[0], "word 3");
        assert!(taken[1].starts_with("1 line of loomd's own went to "), "{}", taken[1]);
        let text = std::fs::read_to_string(dir.path().join("loomd.jsonl")).unwrap();
        assert!(text.contains("word 2") && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn the_end_of_loomd_leaves_no_word_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let native = Native::open(path, JsonLines::open(dir.path()).unwrap()).unwrap();
        let last = native.last_words();
        (0..100).for_each(|number| native.say(word(number)));
        drop(last);
        let in_file = std::fs::read_to_string(dir.path().join("loomd.jsonl")).unwrap();
        journald.set_nonblocking(true).unwrap();
        let mut taken = 0;
        while journald.recv(&mut [0; 4096]).is_ok() {
            taken += 1;
        }
        assert_eq!(taken + in_file.lines().count(), 100);
    }
}
