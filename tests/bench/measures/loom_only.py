"""What is asked of Loom alone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from .. import processes, stage
from ..figures import Figure, Results, median, short
from ..peers.loom import Loom
from ..subject import START_LIMIT, Ground, Unable

STATUS = "status, 1 000 loaded, 100 active, over the control socket, ms"
COMMAND = "the same by `loomctl status`, ms"
RELOAD = "daemon-reload, 1 000 units, one changed, over the control socket, ms"
START = "start 100 loaded units over the control socket → all up, ms"
CYCLES = "kill-and-restart cycles of one unit: descriptors, threads, PSS MiB, store MiB"
DEAF = "stop of what ignores SIGTERM, timeout 1 s: ms off"
FLOOD = "a child writes 100 MiB/s: CPU ms per second, PSS MiB more"
LOADED, ACTIVE = 1000, 100
REPORTS = 10
# Caches, the allocator and the store's first files have their size by then.
WARM_SHARE = 0.2


def _start(subject: Loom, names: list[str]) -> None:
    for name in names:
        subject.must("POST", f"/v1/units/{name}.{subject.kind}/start", {"no_block": True})


def _thousand(kind: type[Loom], ground: Ground, pace: stage.Pace, results: Results) -> None:
    with stage.on(kind, ground, 0) as subject:
        assert isinstance(subject, Loom)
        for n in range(LOADED):
            subject.unit(f"u{n}")
        subject.start()
        subject.await_answer()
        names = [f"u{n}" for n in range(ACTIVE)]
        begin = time.monotonic_ns()
        _start(subject, names)
        born = ground.births.of(set(names), START_LIMIT)
        if len(born) < ACTIVE:
            raise Unable(f"{len(born)} of {ACTIVE} started within {START_LIMIT:.0f} s")
        took = (max(birth.at_ns for birth in born.values()) - begin) / 1e6
        results.put(START, kind.name, Figure(short(took), took))
        end = time.monotonic() + START_LIMIT
        while subject.active() < ACTIVE and time.monotonic() < end:
            time.sleep(0.01)
        results.put(STATUS, kind.name, median(_timed(subject.answers, 3 * pace.statuses)))
        results.put(COMMAND, kind.name, median(_timed(subject.status, pace.statuses)))
        times = []
        for n in range(pace.reloads):
            subject.unit("u999", more=f"# {n}\n" if n % 2 else 'reset_after = "5min"\n')
            begin = time.monotonic_ns()
            subject.must("POST", "/v1/daemon-reload")
            times.append((time.monotonic_ns() - begin) / 1e6)
        results.put(RELOAD, kind.name, median(times))


def _timed(ask: object, count: int) -> list[float]:
    times = []
    for _ in range(count):
        begin = time.monotonic()
        assert callable(ask)
        if not ask():
            raise Unable("status was not answered")
        times.append((time.monotonic() - begin) * 1000)
    return times


def _store_mib(subject: Loom) -> float:
    return (
        sum(file.stat().st_blocks for file in (subject.directory / "state").rglob("*") if file.is_file()) * 512 / 2**20
    )


def _size(subject: Loom) -> tuple[float, float, float, float]:
    own = [subject.root()]
    return processes.descriptors(own), processes.threads(own), processes.pss_mib(own), _store_mib(subject)


def _cycles(kind: type[Loom], ground: Ground, pace: stage.Pace, results: Results) -> None:
    with stage.on(kind, ground, 1) as subject:
        assert isinstance(subject, Loom)
        subject.start()
        pid = subject.await_units(1)["u0"]
        warm = (0.0, 0.0, 0.0, 0.0)
        begin = time.monotonic()
        for cycle in range(1, pace.cycles + 1):
            os.kill(pid, signal.SIGKILL)
            birth = ground.births.next(START_LIMIT)
            if birth is None:
                raise Unable(f"no successor in cycle {cycle}")
            pid = birth.pid
            if cycle == int(pace.cycles * WARM_SHARE):
                warm = _size(subject)
            if cycle % (pace.cycles // REPORTS) == 0:
                shown = ", ".join(short(one) for one in _size(subject))
                print(f"    cycle {cycle} after {time.monotonic() - begin:.0f} s: {shown}", flush=True)
        time.sleep(1)
        last = _size(subject)
        shown = "; ".join(f"{short(one)} → {short(other)}" for one, other in zip(warm, last, strict=True))
        grown = max(last[0] - warm[0], last[1] - warm[1], last[2] - warm[2] - 4, last[3] - warm[3] - 4)
        results.put(CYCLES, kind.name, Figure(f"{pace.cycles}: {shown}", grown))


def _deaf(kind: type[Loom], ground: Ground, pace: stage.Pace, results: Results) -> None:
    with stage.on(kind, ground, 0) as subject:
        assert isinstance(subject, Loom)
        subject.unit("deaf", "deaf", more='[stop]\ntimeout = "1s"\n')
        subject.start()
        subject.await_answer()
        off = []
        for _ in range(pace.deaf_stops):
            _start(subject, ["deaf"])
            if ground.births.next(START_LIMIT) is None:
                raise Unable("the deaf unit did not start")
            begin = time.monotonic()
            subject.must("POST", f"/v1/units/deaf.{kind.kind}/stop", {})
            off.append((time.monotonic() - begin - 1) * 1000)
        worst = max(off, key=abs)
        results.put(DEAF, kind.name, Figure(f"{worst:+.0f}", abs(worst)))


def _flood(kind: type[Loom], ground: Ground, pace: stage.Pace, results: Results) -> None:
    with stage.on(kind, ground, 0) as subject:
        assert isinstance(subject, Loom)
        subject.unit("flood", "flood")
        subject.start()
        subject.await_answer()
        own = [subject.root()]
        before = processes.pss_mib(own)
        _start(subject, ["flood"])
        birth = ground.births.next(START_LIMIT)
        if birth is None:
            raise Unable("the flooding unit did not start")
        time.sleep(0.5)
        written, cpu = _written(birth.pid), processes.cpu_ms(own)
        time.sleep(pace.flood)
        rate = (_written(birth.pid) - written) / pace.flood / 2**20
        busy = (processes.cpu_ms(own) - cpu) / pace.flood
        more = processes.pss_mib(own) - before
        results.put(FLOOD, kind.name, Figure(f"{short(busy)}; {more:+.1f} (at {rate:.0f} MiB/s)", busy, more))


def _written(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


#: By the measure whose failure is told if a part fails.
PARTS = {STATUS: _thousand, CYCLES: _cycles, DEAF: _deaf, FLOOD: _flood}
