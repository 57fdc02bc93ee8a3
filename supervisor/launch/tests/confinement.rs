//! What was not granted is denied, what is granted works. Each attempt is made twice: bare, where it must succeed, and
//! confined. A witness outside the sandbox looks at what really happened.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use support::Bench;

/// `attempt(name)` decorates; prints a JSON object of name → "done" or the errno's name.
const HEAD: &str = r#"
import ctypes, errno, json, os, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
outside, mine = sys.argv[1], os.getcwd()
secret = outside + "/secret"
results = {}
def attempt(f):
    try:
        f()
        results[f.__name__] = "done"
    except OSError as e:
        results[f.__name__] = errno.errorcode.get(e.errno, str(e))
def call(number, *args):
    ctypes.set_errno(0)
    if libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args]) < 0:
        raise OSError(ctypes.get_errno(), "call")
"#;
const TAIL: &str = "\nprint(json.dumps(results))\n";

fn results(text: &str) -> serde_json::Map<String, Value> {
    serde_json::from_str::<Value>(text).unwrap_or_else(|e| panic!("{e}: {text}")).as_object().unwrap().clone()
}

/// Runs `attempts` bare, where all must be done, then confined, where each must end as `expected` says.
#[track_caller]
fn contained(bench: &mut Bench, attempts: &str, args: &[&str], expected: &[(&str, &[&str])]) {
    let outside = bench.path("outside");
    let args: Vec<&str> = std::iter::once(outside.as_str()).chain(args.iter().copied()).collect();
    let script = format!("{HEAD}{attempts}{TAIL}");
    let bare = results(&bench.bare_python(&script, &args));
    // Bare runs may have changed the scene.
    fs::write(bench.path("outside/secret"), "secret").unwrap();
    fs::set_permissions(bench.path("outside/secret"), fs::Permissions::from_mode(0o644)).unwrap();
    for left in fs::read_dir(bench.path("state/units/probe.agent")).unwrap() {
        fs::remove_file(left.unwrap().path()).unwrap();
    }
    let confined = results(&bench.python(&script, &args).success().stdout);
    assert_eq!(confined.len(), expected.len(), "{confined:#?}");
    for (name, errnos) in expected {
        let (without, within) = (bare[*name].as_str().unwrap(), confined[*name].as_str().unwrap());
        assert!(errnos.contains(&within), "{name}: {within} in the sandbox, expected {errnos:?}");
        if without != "done" {
            println!("{name}: not possible here without a sandbox either ({without})");
        }
    }
}

#[test]
fn a_denied_path_reads_as_permission_denied() {
    let Some(mut bench) = Bench::new() else { return };
    let attempts = r#"
@attempt
def read(): open(secret).read()
@attempt
def read_by_link():
    os.symlink(secret, "link"); open("link").read()
@attempt
def read_by_dots(): open(mine + "/../../../outside/secret").read()
@attempt
def list_directory(): os.listdir(outside)
@attempt
def read_by_directory_descriptor():
    fd = os.open(outside, os.O_PATH); open(os.open("secret", os.O_RDONLY, dir_fd=fd)).read()
@attempt
def hard_link_in(): os.link(secret, "hard")
@attempt
def rename_in(): os.rename(outside + "/movable", "movable")
@attempt
def rename_out():
    open("own", "w").close(); os.rename("own", outside + "/planted")
@attempt
def write(): open(secret, "a").write("!")
@attempt
def truncate(): os.truncate(secret, 1)
@attempt
def create(): open(outside + "/new", "w").close()
@attempt
def make_directory(): os.mkdir(outside + "/newdir")
@attempt
def remove(): os.unlink(outside + "/removable")
@attempt
def list_tmp(): os.listdir("/tmp")
@attempt
def list_home(): os.listdir("/home")
@attempt
def read_proc_self(): open("/proc/self/status").read()
@attempt
def list_proc(): os.listdir("/proc")
@attempt
def read_sys(): os.listdir("/sys")
@attempt
def read_shm(): os.listdir("/dev/shm")
@attempt
def read_shadow(): open("/etc/shadow").read()
@attempt
def read_by_reopened_descriptor():
    fd = os.open(secret, os.O_PATH); open(f"/proc/self/fd/{fd}").read()
"#;
    let prepare = |bench: &Bench| {
        fs::write(bench.path("outside/movable"), "").unwrap();
        fs::write(bench.path("outside/removable"), "").unwrap();
    };
    prepare(&bench);
    let denied: &[&str] = &["EACCES"];
    let moved: &[&str] = &["EACCES", "EXDEV"];
    contained(
        &mut bench,
        attempts,
        &[],
        &[
            ("read", denied),
            ("read_by_link", denied),
            ("read_by_dots", denied),
            ("list_directory", denied),
            ("read_by_directory_descriptor", denied),
            ("hard_link_in", moved),
            ("rename_in", &["EACCES", "EXDEV", "ENOENT"]),
            ("rename_out", moved),
            ("write", denied),
            ("truncate", denied),
            ("create", denied),
            ("make_directory", &["EACCES", "EEXIST"]),
            ("remove", &["EACCES", "ENOENT"]),
            ("list_tmp", denied),
            ("list_home", denied),
            ("read_proc_self", denied),
            ("list_proc", denied),
            ("read_sys", denied),
            ("read_shm", denied),
            ("read_shadow", denied),
            ("read_by_reopened_descriptor", denied),
        ],
    );
    assert_eq!(fs::read_to_string(bench.path("outside/secret")).unwrap(), "secret");
}

#[test]
fn what_a_unit_writes_it_cannot_execute_nor_make_set_id() {
    let Some(mut bench) = Bench::new() else { return };
    let attempts = r#"
@attempt
def execute_outside(): subprocess.run([outside + "/program"], check=True)
@attempt
def execute_own():
    data = open("/bin/true", "rb").read()
    with open(os.open("own-program", os.O_CREAT | os.O_WRONLY, 0o700), "wb") as f: f.write(data)
    subprocess.run([mine + "/own-program"], check=True)
@attempt
def execute_anonymous_memory():
    fd = os.memfd_create("program")
    os.write(fd, open("/bin/true", "rb").read())
    os.set_inheritable(fd, True)
    if os.fork() == 0:
        try: os.execve(fd, ["program"], {})
        finally: os._exit(9)
    if os.waitstatus_to_exitcode(os.wait()[1]): raise OSError(errno.EACCES, "child")
@attempt
def set_uid_on_creation(): os.close(os.open("setuid", os.O_CREAT | os.O_WRONLY, 0o4755))
@attempt
def set_uid_directory(): os.mkdir("setgid", 0o2755); 
@attempt
def writable_and_executable_memory():
    libc.mmap.restype = ctypes.c_void_p
    at = libc.mmap(None, ctypes.c_size_t(4096), 7, 0x22, -1, ctypes.c_long(0))
    if at == ctypes.c_void_p(-1).value: raise OSError(ctypes.get_errno(), "mmap")
"#;
    // The bare run leaves a directory, which the scene's cleaner does not expect.
    let attempts =
        attempts.replace("os.mkdir(\"setgid\", 0o2755);", "os.mkdir(\"setgid\", 0o2755); os.rmdir(\"setgid\")");
    contained(
        &mut bench,
        &attempts,
        &[],
        &[
            ("execute_outside", &["EACCES"]),
            ("execute_own", &["EACCES"]),
            ("execute_anonymous_memory", &["EACCES"]),
            ("set_uid_on_creation", &["EPERM"]),
            ("set_uid_directory", &["EPERM"]),
            ("writable_and_executable_memory", &["EACCES"]),
        ],
    );
    assert!(!support::exists(&bench.path("state/units/probe.agent/setuid")));
}

#[test]
fn metadata_of_foreign_files_stays_though_the_call_succeeds() {
    let Some(mut bench) = Bench::new() else { return };
    fs::write(bench.path("code/readable"), "").unwrap();
    let script = format!(
        "{HEAD}{}{TAIL}",
        r#"
readable = os.path.dirname(sys.argv[0]) + "/readable"
@attempt
def change_mode(): os.chmod(secret, 0o4777)
@attempt
def change_mode_of_a_readable_one():
    fd = os.open(readable, os.O_RDONLY); os.fchmod(fd, 0); os.fchown(fd, 1, 1); os.utime(fd, (1, 1))
@attempt
def change_owner(): os.chown(secret, 1, 1)
@attempt
def change_times(): os.utime(secret, (1, 1))
@attempt
def set_attribute(): os.setxattr(secret, "user.x", b"1")
@attempt
def new_form(): call(452, -100, ctypes.c_char_p(secret.encode()), 0o777, 0)
@attempt
def copy_with_metadata():
    import shutil
    open("a", "w").write("x"); shutil.copy2("a", "b")
"#
    );
    let outside = bench.path("outside");
    let watched = [bench.path("outside/secret"), bench.path("code/readable")];
    let look = || -> Vec<_> {
        watched.iter().map(|p| fs::metadata(p).unwrap()).map(|m| (m.mode(), m.uid(), m.mtime())).collect()
    };
    let before = look();
    let seen = results(&bench.python(&script, &[&outside]).success().stdout);
    assert!(seen.values().all(|v| v == "done"), "{seen:#?}");
    assert_eq!(look(), before);
}

#[test]
fn no_socket_leaves_without_a_grant() {
    let Some(mut bench) = Bench::new() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let attempts = r#"
port = int(sys.argv[2])
@attempt
def tcp(): socket.create_connection(("127.0.0.1", port))
@attempt
def udp(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
@attempt
def netlink(): socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
@attempt
def unix(): socket.socket(socket.AF_UNIX)
"#;
    contained(
        &mut bench,
        attempts,
        &[&port],
        &[("tcp", &["EAFNOSUPPORT"]), ("udp", &["EAFNOSUPPORT"]), ("netlink", &["ENOTSUP"]), ("unix", &["done"])],
    );
}

#[test]
fn only_granted_ports_are_reached_or_bound() {
    let Some(mut bench) = Bench::new() else { return };
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (granted, other) = (listen(), listen());
    let number = |l: &TcpListener| l.local_addr().unwrap().port();
    let free = number(&listen());
    bench.unit.sandbox.hosts = vec![loom_core::unit::HostGrant { host: "localhost".into(), port: number(&granted) }];
    bench.unit.sandbox.listen = vec![free];
    let abstract_name = format!("loom-launch-test-{}", std::process::id());
    let _outside = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap()).unwrap();
    let attempts = r#"
granted, other, free = map(int, sys.argv[2:5])
loopback = "127.0.0.1"
@attempt
def connect_granted(): socket.create_connection(("localhost", granted)).close()
@attempt
def connect_other(): socket.create_connection((loopback, other)).close()
@attempt
def connect_other_by_fast_open():
    s = socket.socket(); s.sendto(b"x", 0x20000000, (loopback, other))
@attempt
def connect_other_by_fast_open_option():
    s = socket.socket(); s.setsockopt(6, 30, 1); s.connect((loopback, other)); s.send(b"x")
@attempt
def bind_granted():
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind((loopback, free)); s.listen()
@attempt
def listen_without_bind(): socket.socket().listen()
@attempt
def bind_any(): socket.socket().bind((loopback, 0))
@attempt
def udp(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", (loopback, other))
@attempt
def raw(): socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
@attempt
def multipath(): socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
@attempt
def packet(): socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
@attempt
def vsock(): socket.socket(40, socket.SOCK_STREAM)
@attempt
def kernel_crypto(): socket.socket(38, socket.SOCK_SEQPACKET)
@attempt
def abstract_outside(): socket.socket(socket.AF_UNIX).connect("\0" + sys.argv[5])
@attempt
def socket_filter():
    code = ctypes.create_string_buffer(b"\x06\0\0\0\xff\xff\xff\xff", 8)
    prog = b"\x01\0" + b"\0" * 6 + ctypes.addressof(code).to_bytes(8, "little")
    socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, 26, prog)
"#;
    let ports: Vec<String> = [number(&granted), number(&other), free].iter().map(u16::to_string).collect();
    contained(
        &mut bench,
        attempts,
        &[&ports[0], &ports[1], &ports[2], &abstract_name],
        &[
            ("connect_granted", &["done"]),
            ("connect_other", &["EACCES"]),
            ("connect_other_by_fast_open", &["ENOTSUP"]),
            ("connect_other_by_fast_open_option", &["EACCES"]),
            ("bind_granted", &["done"]),
            // Landlock governs `bind` only; that is why `hosts` is partly enforced for whoever may listen.
            ("listen_without_bind", &["done"]),
            ("bind_any", &["EACCES"]),
            ("udp", &["EPROTONOSUPPORT"]),
            ("raw", &["EPROTONOSUPPORT"]),
            ("multipath", &["EPROTONOSUPPORT"]),
            ("packet", &["EAFNOSUPPORT"]),
            ("vsock", &["EAFNOSUPPORT"]),
            ("kernel_crypto", &["EAFNOSUPPORT"]),
            ("abstract_outside", &["EPERM"]),
            ("socket_filter", &["EPERM"]),
        ],
    );
}

#[test]
fn other_processes_and_the_kernel_are_out_of_reach() {
    let Some(mut bench) = Bench::new() else { return };
    // A victim of the same user, outside.
    let mut victim = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let attempts = r#"
import platform, signal
victim = int(sys.argv[2])
x86 = platform.machine() == "x86_64"
@attempt
def look_for(): os.kill(victim, 0)
@attempt
def send_by_descriptor():
    fd = os.pidfd_open(victim); signal.pidfd_send_signal(fd, signal.SIGCONT)
@attempt
def queue_to_thread(): call(297 if x86 else 240, victim, victim, 18, ctypes.create_string_buffer(128))
@attempt
def trace():
    call(101 if x86 else 117, 0x4206, victim, 0, 0)
    call(101 if x86 else 117, 17, victim, 0, 0) if False else None
@attempt
def read_memory():
    buf = ctypes.create_string_buffer(8)
    iov = (ctypes.c_size_t * 2)(ctypes.addressof(buf), 8)
    call(310 if x86 else 270, victim, iov, 1, iov, 0, 0)
@attempt
def steal_descriptor(): call(438, os.pidfd_open(victim), 0, 0)
@attempt
def its_limits(): call(302 if x86 else 261, victim, 7, None, ctypes.create_string_buffer(16))
@attempt
def its_affinity(): os.sched_setaffinity(victim, {0})
@attempt
def its_priority(): os.setpriority(os.PRIO_PROCESS, victim, 1)
@attempt
def its_policy(): os.sched_setscheduler(victim, os.SCHED_IDLE, os.sched_param(0))
@attempt
def new_user_namespace():
    if os.fork() == 0: os._exit(0 if libc.unshare(0x10000000) == 0 else 1)
    if os.waitstatus_to_exitcode(os.wait()[1]): raise OSError(errno.EPERM, "child")
@attempt
def mount(): call(165 if x86 else 40, b"none", b"/mnt", b"tmpfs", 0, None); 
@attempt
def unmount(): call(166 if x86 else 39, b"/mnt", 2)
@attempt
def keyring(): call(250 if x86 else 219, 0, -3, 0)
@attempt
def other_layout(): call(135 if x86 else 92, 0x40000)
@attempt
def handle(): call(303 if x86 else 264, -100, b"/etc", ctypes.create_string_buffer(b"\x80" + b"\0" * 200), ctypes.create_string_buffer(8), 0)
@attempt
def shared_memory(): call(29 if x86 else 194, 0, 4096, 0o1600)
@attempt
def own_filter(): call(317 if x86 else 277, 2, 0, ctypes.create_string_buffer(4))
@attempt
def ring(): call(425, 1, ctypes.create_string_buffer(256))
@attempt
def console_input():
    import fcntl, pty
    fcntl.ioctl(1, 0x5412, b"x")
@attempt
def become_other():
    if os.fork() == 0:
        try: os.setuid(1)
        except OSError: os._exit(1)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.wait()[1]): raise OSError(errno.EPERM, "child")
"#;
    let eperm: &[&str] = &["EPERM"];
    let mut names: Vec<(&str, &[&str])> = [
        "look_for",
        "send_by_descriptor",
        "queue_to_thread",
        "trace",
        "read_memory",
        "steal_descriptor",
        "its_limits",
        "its_affinity",
        "its_priority",
        "its_policy",
        "new_user_namespace",
        "mount",
        "unmount",
        "keyring",
        "other_layout",
        "handle",
        "shared_memory",
        "own_filter",
        "console_input",
        "become_other",
    ]
    .iter()
    .map(|name| (*name, eperm))
    .collect();
    names.push(("ring", &["ENOSYS"]));
    let pid = victim.id().to_string();
    contained(&mut bench, attempts, &[&pid], &names);
    victim.kill().unwrap();
    victim.wait().unwrap();
}

const WORKS: &str = r#"
import asyncio, concurrent.futures, fcntl, os, pathlib, select, shutil, signal, socket, sqlite3, ssl, subprocess, sys, tempfile
import threading, time, urllib.request, uuid, zoneinfo, multiprocessing, logging, random, secrets, hashlib, ctypes, locale, json

assert tempfile.gettempdir() == os.environ["TMPDIR"]
pathlib.Path("d/e").mkdir(parents=True)
pathlib.Path("d/e/f").write_text("x")
os.rename("d/e/f", "d/g"); os.symlink("g", "d/l"); os.link("d/g", "d/h"); os.mkfifo("d/fifo")
shutil.copy2("d/g", "d/copy"); shutil.copytree("d", "d2", ignore=shutil.ignore_patterns("fifo")); shutil.rmtree("d2")
with tempfile.NamedTemporaryFile() as t: t.write(b"x"); t.flush(); os.fsync(t.fileno())
with open("locked", "w") as f: fcntl.flock(f, fcntl.LOCK_EX); fcntl.lockf(f, fcntl.LOCK_EX)

db = sqlite3.connect("t.db"); assert db.execute("pragma journal_mode=wal").fetchone() == ("wal",)
db.execute("create table t(x)"); db.executemany("insert into t values(?)", [(i,) for i in range(1000)]); db.commit()
assert sqlite3.connect("t.db").execute("select count(*) from t").fetchone() == (1000,)

assert subprocess.run(["sh", "-c", "echo hi | cat"], capture_output=True, text=True, check=True).stdout == "hi\n"
assert subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=True).stdout == b"1\n"
p = subprocess.Popen(["sleep", "100"]); p.terminate(); assert p.wait() == -15
with concurrent.futures.ThreadPoolExecutor(4) as pool: assert sum(pool.map(lambda x: x * x, range(10))) == 285
a, b = multiprocessing.Pipe(); m = multiprocessing.get_context("fork").Process(target=lambda: b.send(7)); m.start()
assert a.recv() == 7; m.join(); assert m.exitcode == 0

context = ssl.create_default_context(); assert len(context.get_ca_certs()) >= 0
assert zoneinfo.ZoneInfo("UTC"); time.tzset(); uuid.uuid4(); secrets.token_hex(); os.cpu_count(); os.getloadavg
hashlib.scrypt(b"x", salt=b"y", n=2, r=8, p=1)
assert os.sched_getaffinity(0); os.nice(1); signal.setitimer(signal.ITIMER_REAL, 0)
r, w = os.pipe(); os.set_blocking(r, False)
assert select.select([], [w], [])[1] == [w]
ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)()  # libffi's closures under MDWE

server = socket.socket(socket.AF_UNIX); server.bind("s.sock"); server.listen()
client = socket.socket(socket.AF_UNIX); client.connect("s.sock"); server.accept()[0].send(b"x"); assert client.recv(1) == b"x"

async def main():
    async def echo(reader, writer): writer.write(await reader.readline()); await writer.drain(); writer.close()
    await asyncio.start_unix_server(echo, "a.sock")
    reader, writer = await asyncio.open_unix_connection("a.sock")
    writer.write(b"hello\n"); assert await reader.readline() == b"hello\n"
    p = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    assert (await p.communicate(b"x"))[0] == b"x" and p.returncode == 0
    await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.001) for _ in range(8)))
    loop = asyncio.get_running_loop(); done = asyncio.Event(); loop.add_signal_handler(signal.SIGUSR1, done.set)
    os.kill(os.getpid(), signal.SIGUSR1); await asyncio.wait_for(done.wait(), 5)
asyncio.run(main())

def optional(name):
    try: return __import__(name)
    except ModuleNotFoundError: print("skipped: needs", name)

if zmq := optional("zmq"):
    import zmq.asyncio
    async def talk():
        c = zmq.asyncio.Context(); r = c.socket(zmq.ROUTER); r.bind("ipc://z.sock"); d = c.socket(zmq.DEALER)
        d.connect("ipc://z.sock"); await d.send(b"hi"); assert (await r.recv_multipart())[1] == b"hi"
        c.destroy(linger=0)
    asyncio.run(talk())
if msgspec := optional("msgspec"): assert msgspec.json.decode(msgspec.json.encode({"a": 1})) == {"a": 1}
if numpy := optional("numpy"): assert float((numpy.ones((200, 200)) @ numpy.ones((200, 200))).sum()) == 200 ** 3
if httpx := optional("httpx2"): httpx.Client().close()
print("works")
"#;

#[test]
fn what_python_programs_need_works() {
    let Some(mut bench) = Bench::new() else { return };
    let outcome = bench.python(WORKS, &[]).success();
    print!("{}", outcome.stdout);
    assert!(outcome.stdout.ends_with("works\n"), "{outcome:#?}");
}

#[test]
fn grants_are_enough_and_no_more() {
    let Some(mut bench) = Bench::new() else { return };
    for dir in ["shared/in", "shared/out", "shared/bin"] {
        fs::create_dir_all(bench.path(dir)).unwrap();
    }
    fs::write(bench.path("shared/in/text"), "text").unwrap();
    fs::copy("/bin/true", bench.path("shared/bin/tool")).unwrap();
    bench.unit.sandbox.read = vec![bench.grant("shared/in")];
    bench.unit.sandbox.write = vec![bench.grant("shared/out")];
    bench.unit.sandbox.execute = vec![bench.grant("shared/bin")];
    let attempts = r#"
shared = outside + "/../shared"
@attempt
def read(): open(shared + "/in/text").read()
@attempt
def write_where_read(): open(shared + "/in/text", "a")
@attempt
def write(): open(shared + "/out/new", "w").write("new")
@attempt
def run(): subprocess.run([shared + "/bin/tool"], check=True)
@attempt
def move_between_own(): open("x", "w").close(); os.rename("x", shared + "/out/x")
"#;
    contained(
        &mut bench,
        attempts,
        &[],
        &[
            ("read", &["done"]),
            ("write_where_read", &["EACCES"]),
            ("write", &["done"]),
            ("run", &["done"]),
            ("move_between_own", &["done"]),
        ],
    );
    assert_eq!(fs::read_to_string(bench.path("shared/out/new")).unwrap(), "new");
}

#[test]
fn a_link_in_place_of_a_granted_directory_is_refused() {
    let Some(mut bench) = Bench::new() else { return };
    fs::create_dir_all(bench.path("shared")).unwrap();
    std::os::unix::fs::symlink(bench.path("outside"), bench.path("shared/out")).unwrap();
    bench.unit.sandbox.write = vec![bench.grant("shared/out")];
    let report = bench.python("", &[]).report.unwrap();
    assert_eq!((report.stage.word(), report.errno), ("landlock", libc::ELOOP));
    assert!(report.what.contains("a symbolic link lies on the way"), "{}", report.what);
}

#[test]
fn a_native_program_and_a_shell_run() {
    let Some(mut bench) = Bench::new() else { return };
    bench.unit.sandbox.profile = "native".into();
    let words = "set -e; echo one > a; cp -p a b; mv b c; ls -l >/dev/null; test -r /proc/cpuinfo; ! test -r /proc/1/status; \
                 cat c; (exit 3) || echo $?; date >/dev/null";
    // `test` asks with access(2), which Landlock does not govern; reading does not pass.
    let words = words.replace("! test -r /proc/1/status", "! cat /proc/1/status 2>/dev/null");
    let plan = bench.plan("/bin/sh", &["-c", &words]);
    let outcome = support::start(&plan).finish().success();
    assert_eq!(outcome.stdout, "one\n3\n");
}

#[test]
fn a_worker_reaches_the_units_files_and_nothing_else() {
    let Some(mut bench) = Bench::new() else { return };
    fs::create_dir_all(bench.path("workspace")).unwrap();
    fs::write(bench.path("workspace/note"), "note").unwrap();
    bench.unit.sandbox.write = vec![bench.grant("workspace")];
    bench.unit.sandbox.hosts = vec![loom_core::unit::HostGrant { host: "localhost".into(), port: 80 }];
    // Python stands in for the worker: it reads its program from descriptor 0, as the worker does its requests.
    let python = support::python();
    bench.around.interpreter_roots = support::interpreter_roots(&python);
    bench.around.program = python;
    let attempts = r#"
workspace = outside + "/../workspace"
@attempt
def read(): open(workspace + "/note").read()
@attempt
def resolve_beneath():
    how = (ctypes.c_uint64 * 3)(0, 0, 8 | 2)
    call(437, os.open(workspace, os.O_PATH), ctypes.c_char_p(b"note"), how, 24)
@attempt
def resolve_above():
    how = (ctypes.c_uint64 * 3)(0, 0, 8 | 2)
    call(437, os.open(workspace, os.O_PATH), ctypes.c_char_p(b"../outside/secret"), how, 24)
@attempt
def read_outside(): open(secret).read()
@attempt
def run_program(): subprocess.run(["/bin/true"], check=True)
@attempt
def unix(): socket.socket(socket.AF_UNIX)
@attempt
def tcp(): socket.socket()
"#;
    let script = format!("{HEAD}{attempts}{TAIL}").replace("sys.argv[1]", &format!("{:?}", bench.path("outside")));
    bench.around.descriptors = vec![support::keep(10, 0)];
    let facts =
        loom_core::unit::RunFacts { run: loom_core::ids::RunId(1), restarts: 0, last_result: None, last_exit: None };
    let plan = loom_core::sandbox::worker_plan(&bench.unit, &facts, &bench.machine, &bench.around).unwrap();
    let requests = support::memfd(script.as_bytes(), true);
    let plan = support::memfd(&serde_json::to_vec(&plan).unwrap(), true);
    let outcome = support::start_with(&plan, &[&requests]).finish().success();
    let want = [
        ("read", "done"),
        ("resolve_beneath", "done"),
        ("resolve_above", "EXDEV"),
        ("read_outside", "EACCES"),
        ("run_program", "EACCES"),
        ("unix", "EAFNOSUPPORT"),
        ("tcp", "EAFNOSUPPORT"),
    ];
    let seen = results(&outcome.stdout);
    for (name, errno) in want {
        assert_eq!(seen[name], errno, "{name}: {seen:#?}");
    }
}
