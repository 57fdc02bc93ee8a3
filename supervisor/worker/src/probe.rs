//! probe: asks a unit's server whether it answers.
//!
//! Job: connect to a port or a unix socket of this machine, or GET a URL from it; pass or say why not. One question a process.
//! May touch: std's sockets. Keeps: loopback only, and no name is looked up; an answer is read no further than needed.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The longest wait for one step. loomd kills a probe at its own `timeout`, which is shorter as a rule.
const STEP_LIMIT: Duration = Duration::from_secs(60);
/// The longest first line of an answer.
const STATUS_LINE_MAX_BYTES: usize = 1024;
/// Port of `http://` where none is written.
const HTTP_PORT: u16 = 80;

/// Why a probe did not pass.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("usage: loom-worker probe tcp <address:port> | http <url> | unix <path>")]
    Usage,
    #[error("`{0}` is not on this machine: a probe reaches 127.0.0.1, [::1] and localhost")]
    Elsewhere(String),
    #[error("`{0}` is no `address:port`")]
    Target(String),
    #[error("cannot {what} {target}: {source}")]
    Io {
        what: &'static str,
        target: String,
        #[source]
        source: io::Error,
    },
    #[error("{url} answers with status {status}; 200 to 399 pass")]
    Status { url: String, status: u16 },
    #[error("{0} does not answer in HTTP")]
    NoHttp(String),
}

/// Carries out `probe HOW TARGET`.
pub fn run(args: &[String]) -> Result<(), Failed> {
    match args {
        [how, target] if how == "tcp" => connect(target).map(drop),
        [how, url] if how == "http" => http(url),
        [how, path] if how == "unix" => UnixStream::connect(path).map(drop).map_err(failed("connect to", path)),
        _ => Err(Failed::Usage),
    }
}

fn failed(what: &'static str, target: impl fmt::Display) -> impl FnOnce(io::Error) -> Failed {
    let target = target.to_string();
    move |source| Failed::Io { what, target, source }
}

/// `address:port` → addresses to try, in order.
fn addresses(target: &str) -> Result<Vec<SocketAddr>, Failed> {
    let (host, port) = target.rsplit_once(':').ok_or_else(|| Failed::Target(target.to_owned()))?;
    let port: u16 = port.parse().map_err(|_| Failed::Target(target.to_owned()))?;
    if host == "localhost" || host.ends_with(".localhost") {
        return Ok(vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]);
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(address) if address.is_loopback() => Ok(vec![(address, port).into()]),
        Ok(_) | Err(_) => Err(Failed::Elsewhere(host.to_owned())),
    }
}

fn connect(target: &str) -> Result<TcpStream, Failed> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses(target)? {
        match TcpStream::connect_timeout(&address, STEP_LIMIT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(failed("connect to", target)(last))
}

fn http(url: &str) -> Result<(), Failed> {
    let rest = url.strip_prefix("http://").ok_or_else(|| Failed::Target(url.to_owned()))?;
    let split = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(split);
    let path = path.split('#').next().unwrap_or_default();
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let target = if has_port { authority.to_owned() } else { format!("{authority}:{HTTP_PORT}") };
    let mut stream = connect(&target)?;
    let limited = stream.set_read_timeout(Some(STEP_LIMIT)).and_then(|()| stream.set_write_timeout(Some(STEP_LIMIT)));
    limited.map_err(failed("set a limit for", url))?;
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\nUser-Agent: loom-probe\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed("ask", url))?;
    let status =
        status(&mut stream).map_err(failed("read from", url))?.ok_or_else(|| Failed::NoHttp(url.to_owned()))?;
    if (200..400).contains(&status) { Ok(()) } else { Err(Failed::Status { url: url.to_owned(), status }) }
}

/// The status in an answer's first line. `None`: that line is not HTTP's.
fn status(answer: &mut impl Read) -> io::Result<Option<u16>> {
    let mut line = Vec::new();
    let mut piece = [0u8; 256];
    while !line.contains(&b'\n') && line.len() < STATUS_LINE_MAX_BYTES {
        match answer.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => line.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let line = String::from_utf8_lossy(&line);
    let mut words = line.lines().next().unwrap_or_default().split_ascii_whitespace();
    let is_http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    Ok(words.next().filter(|_| is_http).and_then(|status| status.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// Answers one request with these bytes, and gives what was asked.
    fn answering(answer: &'static [u8]) -> (u16, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; 4096];
            let count = stream.read(&mut asked).unwrap();
            stream.write_all(answer).unwrap();
            String::from_utf8_lossy(&asked[..count]).into_owned()
        });
        (port, server)
    }

    #[test]
    fn a_port_and_a_socket_that_take_a_connection_pass() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        run(&words(&["tcp", &format!("127.0.0.1:{port}")])).unwrap();
        run(&words(&["tcp", &format!("localhost:{port}")])).unwrap();
        drop(listener);
        let refusal = run(&words(&["tcp", &format!("127.0.0.1:{port}")])).unwrap_err().to_string();
        assert!(refusal.starts_with("cannot connect to 127.0.0.1:"), "{refusal}");
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("s");
        let path = path.to_str().unwrap();
        assert!(run(&words(&["unix", path])).is_err());
        let _listener = UnixListener::bind(path).unwrap();
        run(&words(&["unix", path])).unwrap();
    }

    #[test]
    fn an_answer_from_200_to_399_passes_and_no_other() {
        let table: &[(&'static [u8], &str)] = &[
            (b"HTTP/1.1 200 OK\r\n\r\nbody", ""),
            (b"HTTP/1.0 204 No Content\r\n\r\n", ""),
            (b"HTTP/1.1 399 x\r\n\r\n", ""),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", "status 404; 200 to 399 pass"),
            (b"HTTP/1.1 199 x\r\n\r\n", "status 199"),
            (b"HTTP/1.1 503 Busy\r\n\r\n", "status 503"),
            (b"SSH-2.0-x\r\n", "does not answer in HTTP"),
            (b"", "does not answer in HTTP"),
        ];
        for (answer, want) in table {
            let (port, server) = answering(answer);
            let result = run(&words(&["http", &format!("http://127.0.0.1:{port}/ready?x=1#y")]));
            let said = result.map_or_else(|failed| failed.to_string(), |()| String::new());
            assert!(said.contains(want) && said.is_empty() == want.is_empty(), "{said}");
            let asked = server.join().unwrap();
            assert!(asked.starts_with("GET /ready?x=1 HTTP/1.0\r\nHost: 127.0.0.1:"), "{asked}");
        }
    }

    #[test]
    fn a_first_line_without_end_is_read_no_further_than_its_limit() {
        struct Endless(usize);
        impl Read for Endless {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                into.fill(b'x');
                self.0 += into.len();
                Ok(into.len())
            }
        }
        let mut endless = Endless(0);
        assert_eq!(status(&mut endless).unwrap(), None);
        assert!(endless.0 <= STATUS_LINE_MAX_BYTES + 256, "{}", endless.0);
    }

    #[test]
    fn nothing_but_this_machine_is_asked() {
        for target in ["10.0.0.1:80", "example.org:80", "0.0.0.0:80", "[2001:db8::1]:80"] {
            let refusal = run(&words(&["tcp", target])).unwrap_err();
            assert!(matches!(refusal, Failed::Elsewhere(_)), "{target}: {refusal}");
        }
        assert!(matches!(run(&words(&["http", "http://example.org/"])), Err(Failed::Elsewhere(_))));
        assert!(matches!(run(&words(&["tcp", "localhost"])), Err(Failed::Target(_))));
        assert!(matches!(run(&words(&["ping", "localhost"])), Err(Failed::Usage)));
        assert_eq!(addresses("[::1]:80").unwrap(), ["[::1]:80".parse().unwrap()]);
    }
}
