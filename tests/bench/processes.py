"""What `/proc` says of a supervisor, and the end of everything that this program started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
SWEEP_LIMIT = 10.0


def become_subreaper() -> None:
    """Whatever loses its parent becomes our child, so that nothing we started can be left behind."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")


def stat(pid: int) -> tuple[str, int] | None:
    """State and parent; None if there is no such process."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return words[0], int(words[1])


def alive(pid: int) -> bool:
    seen = stat(pid)
    return seen is not None and seen[0] not in "ZX"


def descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (seen := stat(int(entry.name))):
            children.setdefault(seen[1], []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        for child in children.get(todo.pop(), []):
            found.append(child)
            todo.append(child)
    return found


def words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def runs(pid: int, program: Path) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/exe") == str(program)
    except OSError:
        return False


def zombies(root: int) -> int:
    return sum(1 for pid in descendants(root) if (stat(pid) or ("",))[0] == "Z")


def _sum(pids: list[int], file: str, key: str) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
                if line.startswith(key):
                    total += int(line.split()[1])
    return total


def pss_mib(pids: list[int]) -> float:
    return _sum(pids, "smaps_rollup", "Pss:") / 1024


def _tasks(pids: list[int]) -> list[Path]:
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            found += list(Path(f"/proc/{pid}/task").iterdir())
    return found


def switches(pids: list[int], comm: str | None = None) -> int:
    """How often threads went to sleep of their own will: one per wake-up. `comm`: threads of this name only."""
    total = 0
    for task in _tasks(pids):
        with contextlib.suppress(OSError):
            if comm not in (None, (task / "comm").read_text().strip()):
                continue
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
    return total


def cpu_ms(pids: list[int]) -> float:
    """Time on a processor, of threads that live."""
    total = 0
    for task in _tasks(pids):
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e6


def descriptors(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += len(os.listdir(f"/proc/{pid}/fd"))
    return total


def threads(pids: list[int]) -> int:
    return len(_tasks(pids))


def cgroup_v2() -> Path | None:
    """Where the unified hierarchy is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4])
    return None


def sweep(keep: frozenset[int] = frozenset()) -> None:
    """Kills and reaps every process below us, save `keep` and what is below that."""
    end = time.monotonic() + SWEEP_LIMIT
    while time.monotonic() < end:
        kept = {below for pid in keep for below in [pid, *descendants(pid)]}
        left = [pid for pid in descendants(os.getpid()) if pid not in kept]
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.005)
    raise SystemExit(f"error: processes {left} could not be ended within {SWEEP_LIMIT:.0f} s")
