//! control: who may ask loomd, and how many at once.
//!
//! Job: the unix socket of the control API: accept, check who is there, hand requests to [`loom_api::control::answer`].
//! May touch: that socket, HTTP. Keeps: only root and loomd's own user are answered, a unit's process never; every connection,
//! header and body has a limit; a caller that hangs up is cancelled.

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use loom_api::control::{Control, answer, refusal_response};
use loom_api::view::Refusal;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// Callers at once; one more is told so.
pub const CONNECTIONS_MAX: usize = 64;
/// From the connection, or the answer before, to the end of the next request's header.
pub const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// Lines of a request's header.
const HEADERS_MAX: usize = 64;
/// Bytes of a request's header.
const HEADER_MAX_BYTES: usize = 64 << 10;
/// After a failed accept (no descriptors left), until the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Says whether a process is, or may be, one of a unit.
pub type IsConfined = Arc<dyn Fn(i32) -> bool + Send + Sync>;

/// Makes the socket, mode 0600. What lies there of a loomd that died is replaced: the caller holds the runtime directory's lock.
pub fn listen(socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // Bound under another name and moved, so that it is never there with wider permissions, nor without a listener.
    let fresh = socket.with_extension("new");
    let _ = fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, socket)?;
    Ok(listener)
}

/// The socket of the loomd before in this process: callers that knock meanwhile are not turned away.
pub fn take_over(listener: OwnedFd) -> io::Result<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Answers until dropped.
pub async fn serve(listener: Arc<UnixListener>, api: Arc<dyn Control>, is_confined: IsConfined) {
    let own_uid = nix::unistd::geteuid().as_raw();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a caller of the control API");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(refusal) = may_ask(&stream, own_uid, &is_confined) {
            tracing::warn!(
                because = refusal.cause.as_deref().unwrap_or_default(),
                "refused a caller of the control API"
            );
            turn_away(&stream, &refusal);
            continue;
        }
        let Ok(place) = places.clone().try_acquire_owned() else {
            let refusal = Refusal::new(Refusal::STOPPING, "loomd has too many callers");
            turn_away(&stream, &refusal.because(format!("{CONNECTIONS_MAX} are connected")).try_this("try again"));
            continue;
        };
        let api = api.clone();
        tokio::spawn(async move {
            let _place = place;
            let service = service_fn(|request| {
                let api = api.clone();
                async move { Ok::<_, Infallible>(answer(&*api, request).await) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_LIMIT)
                .max_headers(HEADERS_MAX)
                .max_buf_size(HEADER_MAX_BYTES)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a caller of the control API ended early");
            }
        });
    }
}

fn may_ask(stream: &UnixStream, own_uid: u32, is_confined: &IsConfined) -> Result<(), Refusal> {
    let refuse = |cause: String| {
        Refusal::new(Refusal::FORBIDDEN, "this caller may not use the control API")
            .because(cause)
            .try_this("ask as the user that runs loomd, or as root; units speak on their bus")
    };
    let peer = stream.peer_cred().map_err(|error| refuse(format!("its credentials cannot be read: {error}")))?;
    if peer.uid() != 0 && peer.uid() != own_uid {
        return Err(refuse(format!("it is user {}, and loomd is user {own_uid}", peer.uid())));
    }
    // A caller of another pid namespace has pid 0 here; none of ours is outside of it but units.
    match peer.pid() {
        Some(pid) if pid > 0 && !is_confined(pid) => Ok(()),
        Some(pid) => Err(refuse(format!("process {pid} belongs to a unit, or is gone"))),
        None => Err(refuse("its process is not known".to_owned())),
    }
}

/// One answer without waiting for a question or for room in the socket; best effort.
fn turn_away(stream: &UnixStream, refusal: &Refusal) {
    let body = serde_json::to_string(refusal).expect("a refusal prints");
    let status = refusal_response(refusal).status();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}\n",
        body.len() + 1
    );
    let _ = stream.try_write(answer.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use loom_api::control::{Answering, Client, Lines};
    use loom_api::view::*;
    use std::io::{Read, Write};

    /// Answers ping; the rest is not asked here.
    struct OnlyPing;

    macro_rules! refuse {
        ($($name:ident($request:ty) -> $answer:ty;)+) => {
            $(fn $name(&self, _: $request) -> Answering<'_, $answer> {
                Box::pin(async { Err(Refusal::new(Refusal::FAILED, "not here")) })
            })+
        };
    }

    impl Control for OnlyPing {
        fn ping(&self, _: Nothing) -> Answering<'_, Pong> {
            Box::pin(async { Ok(Pong { version: VERSION, loomd: String::new(), pid: 1 }) })
        }
        refuse! {
            status(Nothing) -> Overview;
            unit(UnitAsked) -> UnitView;
            start_unit(JobRequest) -> UnitView;
            stop_unit(JobRequest) -> UnitView;
            restart_unit(JobRequest) -> UnitView;
            unit_files(UnitAsked) -> UnitFiles;
            show_unit(UnitAsked) -> UnitSettings;
            jobs(JobsRequest) -> Lines<JobNews>;
            run_transient(TransientRequest) -> UnitView;
            events(EventsAsked) -> Lines<LifeEvent>;
            graph(Nothing) -> GraphView;
            usage(Nothing) -> UsageView;
            crashes(CrashesAsked) -> CrashesView;
            daemon_reload(ReloadRequest) -> ReloadReport;
            daemon_reexec(Nothing) -> Pong;
            state_keys(UnitAsked) -> StateKeys;
            state_get(StateAsked) -> StateEntry;
            state_put(StatePut) -> StateEntry;
            state_delete(StateAsked) -> StateEntry;
            bus_request(BusRequest) -> Lines<BusAnswer>;
            bus_publish(BusPublish) -> Published;
            audit(AuditAsked) -> AuditView;
            schedules(Nothing) -> ScheduleList;
            firings(UnitAsked) -> FiringList;
            fire(UnitAsked) -> Fired;
        }
    }

    fn with_server<T>(confined: bool, work: impl Future<Output = T>, socket: &Path) -> T {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = listen(socket).unwrap();
            let server = tokio::spawn(serve(Arc::new(listener), Arc::new(OnlyPing), Arc::new(move |_| confined)));
            let result = work.await;
            server.abort();
            result
        })
    }

    #[test]
    fn the_socket_is_its_owners_alone_and_replaces_a_dead_one() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let pong = with_server(false, async { Client::new(&socket).ping(Nothing {}).await }, &socket);
        assert_eq!(pong.unwrap().pid, 1);
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_units_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let refusal = with_server(true, async { Client::new(&socket).ping(Nothing {}).await }, &socket).unwrap_err();
        assert!(refusal.code == Refusal::FORBIDDEN || refusal.code == Refusal::CUT_SHORT, "{refusal:?}");
    }

    #[test]
    fn one_caller_too_many_is_told_so_and_room_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        with_server(
            false,
            async {
                let open = || {
                    let stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    stream
                };
                let mut held: Vec<_> = (0..CONNECTIONS_MAX).map(|_| open()).collect();
                // Each has been accepted once it was answered.
                for stream in &mut held {
                    stream.write_all(b"GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                    assert!(stream.read(&mut [0; 512]).unwrap() > 0);
                }
                let mut text = String::new();
                open().read_to_string(&mut text).unwrap();
                assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("too many callers"), "{text}");
                drop(held);
                let limit = std::time::Instant::now() + Duration::from_secs(10);
                while Client::new(&socket).ping(Nothing {}).await.is_err() {
                    assert!(std::time::Instant::now() < limit, "no room came back");
                }
            },
            &socket,
        );
    }
}
