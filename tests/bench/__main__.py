"""`make bench`: Loom's numbers beside those of its peers, in one run, on the same children.

A peer is measured if its programs are found on PATH or in LOOM_BENCH_PEERS (a directory); otherwise the table says
why not. Nothing is asserted on time. Exits 1 only if Loom itself could not be measured.

QUICK=1             fewer samples, and only peers that restart at once: under two minutes
LOOM_BENCH_ONLY     names to measure, with commas between; floor is always measured
LOOM_BENCH_DIR      where to work: a real disk [default: the first such of TMPDIR, /var/tmp, the checkout]
LOOM_BENCH_WRITE=1  writes docs/benchmarks.md
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from . import processes, report, stage
from .births import Births
from .figures import Results
from .measures import confinement, crash_loop, disk, hundred, idle, loom_only, start, survival
from .peers import ALL, Floor, Loom, LoomAgent
from .subject import Ground, Subject, Unable

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
IN_MEMORY = ("tmpfs", "ramfs")
# Sockets of units must fit into 107 bytes.
LONGEST_DIRECTORY = 40


def on_disk(directory: Path) -> bool:
    seen = subprocess.run(["stat", "-f", "-c", "%T", directory], capture_output=True, text=True)
    return seen.returncode == 0 and seen.stdout.strip() not in IN_MEMORY


def place() -> Path:
    if asked := os.environ.get("LOOM_BENCH_DIR"):
        return Path(asked)
    for one in (os.environ.get("TMPDIR"), "/var/tmp", str(TOP)):
        if one and len(one) <= LONGEST_DIRECTORY and on_disk(Path(one)):
            return Path(one)
    raise SystemExit("error: no short directory on a real disk: name one in LOOM_BENCH_DIR")


def chosen(quick: bool) -> tuple[list[type[Subject]], dict[type[Subject], str]]:
    """Who is measured, and who is not and why."""
    only = {name.strip() for name in os.environ.get("LOOM_BENCH_ONLY", "").split(",") if name.strip()}
    if unknown := only - {kind.name for kind in ALL}:
        known = ", ".join(kind.name for kind in ALL)
        raise SystemExit(f"error: LOOM_BENCH_ONLY: no `{unknown.pop()}`; there are {known}")
    absent = {kind: "not asked for" for kind in ALL if only and kind.name not in only and kind is not Floor}
    if quick:
        absent |= {kind: "takes too long for QUICK=1" for kind in ALL if kind.slow and kind not in absent}
    for kind in ALL:
        if kind not in absent and (why := kind.cannot_run()):
            absent[kind] = why
    for kind in (Loom, LoomAgent):
        if kind in absent and not only:
            raise SystemExit(f"error: {absent[kind]}: run this by `make bench`")
    return [kind for kind in ALL if kind not in absent], absent


def attempt(what: str, name: str, results: Results, work: Callable[[], None]) -> None:
    """A subject that cannot do one thing is still measured in all others."""
    try:
        work()
    except (Unable, OSError, subprocess.SubprocessError, AssertionError) as why:
        results.fail(what, name, f"{type(why).__name__}: {why}" if not isinstance(why, Unable) else str(why))


def compiled(directory: Path, name: str) -> Path:
    program = directory / name
    subprocess.run(["cc", "-O2", "-Wall", "-o", program, HERE / f"{name}.c"], check=True)
    return program


def measured(kinds: list[type[Subject]], ground: Ground, pace: stage.Pace, results: Results) -> None:
    disk.measure(ground, results)
    each = {
        start.FIRST: start.measure,
        hundred.UP: hundred.measure,
        crash_loop.SUCCESSOR: crash_loop.measure,
        survival.SURVIVAL: survival.measure,
    }
    for kind in kinds:
        print(f"{kind.name}", flush=True)
        for what, measure in each.items():
            attempt(what, kind.name, results, lambda m=measure, k=kind: m(k, ground, pace, results))  # type: ignore[misc]
    print("all at rest", flush=True)
    attempt(idle.WAKE_UPS, "all", results, lambda: idle.measure(kinds, ground, pace, results))
    if Loom in kinds:
        print("Loom alone", flush=True)
        for what, part in loom_only.PARTS.items():
            attempt(what, Loom.name, results, lambda p=part: p(Loom, ground, pace, results))  # type: ignore[misc]
        if pace is stage.FULL:
            attempt(confinement.NATIVE, Loom.name, results, lambda: confinement.measure(results))


def main() -> None:
    if peers := os.environ.get("LOOM_BENCH_PEERS"):
        os.environ["PATH"] += f":{peers}"
    if not shutil.which("cc"):
        raise SystemExit("error: no C compiler: run this by `make bench`")
    quick = os.environ.get("QUICK") == "1"
    kinds, absent = chosen(quick)
    pace = stage.QUICK if quick else stage.FULL
    processes.become_subreaper()
    results, begin = Results(), time.monotonic()
    print(f"{report.machine()}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="lb-", dir=place()) as name:
        directory = Path(name)
        births = Births(directory / "births")
        ground = Ground(directory, births, compiled(directory, "born"), compiled(directory, "floor"))
        try:
            measured(kinds, ground, pace, results)
        finally:
            processes.sweep()
    took = time.monotonic() - begin
    command = "QUICK=1 make bench" if quick else "make bench"
    text = report.document([kind.name for kind in kinds], absent, results, command, took)
    print(f"\n{text}")
    if os.environ.get("LOOM_BENCH_WRITE") == "1":
        (TOP / "docs/benchmarks.md").write_text(text)
    lost = [failure for failure in results.failures if failure.startswith(Loom.name)]
    raise SystemExit(1 if lost else 0)


if __name__ == "__main__":
    main()
