"""`make bench`: Loom's numbers, each beside the floor or peer measured in the same run.

Medians; nothing is asserted on time. Prints one table and exits 0; exits 1 only if something could not be measured.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
LIMIT = 60.0
rows: list[tuple[str, str, str, str]] = []


def row(what: str, seen: str, floor: str, goal: str) -> None:
    rows.append((what, seen, floor, goal))
    print(f"  {what}: {seen}" + (f"  [{floor}]" if floor else "") + f"  goal: {goal}", flush=True)


def until(what: str, test: Callable[[], object]) -> object:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if found := test():
            return found
        time.sleep(0.001)
    raise SystemExit(f"error: not within {LIMIT:.0f} s: {what}")


class Loom:
    """A supervisor in its own directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.units = directory / "units"
        self.units.mkdir()
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "LOOM_RUNTIME_DIR": str(directory / "run"),
            "LOOM_STATE_DIR": str(directory / "state"),
            "LOOM_UNIT_PATH": str(self.units),
            "LOOM_JOURNAL_DIR": str(directory / "none"),
        }
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Starts loomd; seconds from exec to the first answered control request."""
        begin = time.monotonic()
        self.daemon = subprocess.Popen(["loomd"], env=self.env, stderr=subprocess.DEVNULL)
        while time.monotonic() < begin + LIMIT:
            try:
                with socket.socket(socket.AF_UNIX) as control:
                    control.connect(str(self.directory / "run/control.sock"))
                    control.sendall(b"GET /v1/ping HTTP/1.1\r\nHost: loom\r\nConnection: close\r\n\r\n")
                    if control.recv(12) == b"HTTP/1.1 200":
                        return time.monotonic() - begin
            except OSError:
                time.sleep(0.0002)
        raise SystemExit("error: loomd did not answer")

    def ctl(self, *words: str) -> str:
        out = subprocess.run(["loomctl", *words], env=self.env, capture_output=True, text=True, timeout=LIMIT)
        if out.returncode:
            raise SystemExit(f"error: loomctl {' '.join(words)}: {out.stderr}")
        return out.stdout

    def rss(self) -> float:
        assert self.daemon
        for line in Path(f"/proc/{self.daemon.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise SystemExit("error: no VmRSS")

    def switches(self, thread: str | None = None) -> int:
        """Times that threads went to sleep: all of them, or those of one name."""
        assert self.daemon
        total = 0
        for task in Path(f"/proc/{self.daemon.pid}/task").iterdir():
            if thread not in (None, (task / "comm").read_text().strip()):
                continue
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
        return total

    def stop(self) -> None:
        assert self.daemon
        self.daemon.terminate()
        self.daemon.wait(LIMIT)


@contextmanager
def loom() -> Iterator[Loom]:
    with tempfile.TemporaryDirectory(prefix="loom-bench-") as directory:
        one = Loom(Path(directory))
        try:
            yield one
        finally:
            if one.daemon and one.daemon.poll() is None:
                one.stop()


def cold_start() -> None:
    times = []
    for _ in range(15):
        with loom() as one:
            times.append(one.start())
            rss = one.rss()
    bare = []
    for _ in range(15):
        begin = time.monotonic()
        subprocess.run(["loomd", "--version"], stdout=subprocess.DEVNULL, check=True)
        bare.append(time.monotonic() - begin)
    row(
        "loomd cold start, exec to first answer, no units",
        f"{statistics.median(times) * 1000:.1f} ms",
        f"loomd --version {statistics.median(bare) * 1000:.1f} ms",
        "< 100 ms, aim 20 ms",
    )
    row("RSS then", f"{rss:.1f} MB", "", "< 20 MB")


def hundred_units() -> None:
    with loom() as one:
        for n in range(100):
            (one.units / f"nap-{n}.service.toml").write_text('[exec]\ncommand = ["sleep", "100000"]\n')
        one.start()
        for n in range(100):
            one.ctl("start", f"nap-{n}", "--no-block")
        until("100 units are up", lambda: one.ctl("status", "--json").count('"active_state":"active"') >= 100)
        row("RSS with 100 idle units", f"{one.rss():.1f} MB", "", "< 50 MB")
        seen = [-1]

        def settled() -> bool:
            seen.append(one.switches())
            time.sleep(0.5)
            return seen[-1] == seen[-2]

        until("the start has settled", settled)
        before, timer = one.switches(), one.switches("store-timer")
        time.sleep(10)
        timer = one.switches("store-timer") - timer
        row("wake-ups when idle, 10 s, 100 units", f"{one.switches() - before}", f"RocksDB's timer {timer}", "0")
        times = []
        for _ in range(30):
            begin = time.monotonic()
            one.ctl("status")
            times.append(time.monotonic() - begin)
        floor = []
        for _ in range(30):
            begin = time.monotonic()
            subprocess.run(["loomctl", "--version"], stdout=subprocess.DEVNULL, check=True)
            floor.append(time.monotonic() - begin)
        row(
            "loomctl status, 100 units",
            f"{statistics.median(times) * 1000:.1f} ms",
            f"loomctl --version {statistics.median(floor) * 1000:.1f} ms",
            "< 15 ms",
        )


def last_stamp(file: Path) -> int:
    try:
        return int((file.read_text().split() or ["0"])[-1])
    except FileNotFoundError:
        return 0


def kill_to_successor(stamp: Path, floor_program: Path) -> None:
    def rounds(file: Path, pid_now: Callable[[], int], count: int = 40) -> list[float]:
        times = []
        until("the first run", lambda: last_stamp(file))
        for _ in range(count):
            seen = last_stamp(file)
            pid = pid_now()
            begin = time.monotonic_ns()
            os.kill(pid, signal.SIGKILL)
            until("the successor runs", lambda: last_stamp(file) > seen)  # noqa: B023
            times.append((last_stamp(file) - begin) / 1e6)
            time.sleep(0.02)
        return times

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "stamps"
        bare = subprocess.Popen([floor_program, stamp, file], stdout=subprocess.PIPE, text=True)
        assert bare.stdout
        pids = bare.stdout
        floor = rounds(file, lambda: int(pids.readline()))
        pid = int(pids.readline())
        bare.kill()
        os.kill(pid, signal.SIGKILL)
        bare.wait()
        sync = []
        with (Path(directory) / "sync").open("wb") as target:
            for _ in range(50):
                begin = time.monotonic()
                target.write(b"x" * 300)
                target.flush()
                os.fdatasync(target.fileno())
                sync.append((time.monotonic() - begin) * 1000)
    with loom() as one:
        (one.units / "stamp.service.toml").write_text(
            f'[exec]\ncommand = ["{stamp}", "%S/stamps"]\n[restart]\npolicy = "always"\ndelay = "0ms"\n'
            f'max_delay = "0ms"\n[sandbox]\nexecute = ["{stamp}"]\n'
        )
        one.start()
        one.ctl("start", "stamp")
        children = Path(f"/proc/{one.daemon.pid}/task") if one.daemon else Path()

        def main_pid() -> int:
            found: list[int] = []

            def look() -> object:
                found[:] = [
                    int(pid)
                    for task in children.iterdir()
                    for pid in (task / "children").read_text().split()
                    if Path(f"/proc/{pid}/comm").read_text().strip() == "stamp"
                ]
                return found

            until("one process", look)
            return found[0]

        seen = rounds(one.directory / "state/units/stamp.service/stamps", main_pid)
    low, high, disk = statistics.median(floor), statistics.median(seen), statistics.median(sync)
    row(
        "kill -9 → successor's main(), no back-off, confined and recorded",
        f"{high:.2f} ms = {high / low:.2f} x floor",
        f"floor {low:.2f} ms; one synced write {disk:.2f} ms; 3 x floor + 2 x sync = {3 * low + 2 * disk:.2f} ms",
        "1.3 x floor",
    )


def confined_start() -> None:
    """The launcher's own measurement: the same program bare and confined, in turn."""
    out = subprocess.run(
        [
            "cargo",
            "nextest",
            "run",
            "-p",
            "loom-launch",
            "--run-ignored",
            "only",
            "--no-capture",
            "-E",
            "test(measure_)",
        ],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=10 * LIMIT,
    )
    found = [line.removeprefix("measured: ") for line in out.stdout.splitlines() if line.startswith("measured: ")]
    if not found:
        raise SystemExit(f"error: the launcher was not measured:\n{out.stdout}{out.stderr}")
    for line in found:
        seen, goal, floor = line.split(" | ")
        what, _, figure = seen.rpartition(": ")
        row(what, figure, floor.removeprefix("floor: "), goal)


def main() -> None:
    for program in ("loomd", "loomctl", "loom-launch", "cc"):
        if not shutil.which(program):
            raise SystemExit(f"error: {program} is not on PATH: run this by `make bench`")
    print(f"Loom's numbers on {platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}; medians\n")
    with tempfile.TemporaryDirectory() as directory:
        stamp, floor_program = Path(directory) / "stamp", Path(directory) / "floor"
        for source, program in (("stamp.c", stamp), ("floor.c", floor_program)):
            subprocess.run(["cc", "-O2", "-o", program, HERE / source], check=True)
        cold_start()
        hundred_units()
        kill_to_successor(stamp, floor_program)
        confined_start()
    width = max(len(what) for what, *_ in rows)
    print()
    for what, seen, floor, goal in rows:
        print(f"{what.ljust(width)} | {seen} | {goal} | {floor}")


if __name__ == "__main__":
    main()
