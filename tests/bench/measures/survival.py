"""`kill -9` of the root with ten children, and a new start: who lives once, who twice."""

from __future__ import annotations

import os
import time

from .. import processes, stage
from ..figures import Figure, Results
from ..peers.loom import Loom
from ..subject import Ground, Subject

SURVIVAL = "kill -9 of the root, start again: same pids / doubled, of 10"
RIGHT = "then status is right after, ms"
COUNT = 10


def measure(kind: type[Subject], ground: Ground, pace: stage.Pace, results: Results) -> None:
    with stage.on(kind, ground, COUNT) as subject:
        subject.start()
        before = subject.await_units(COUNT)
        subject.own()
        subject.kill_root()
        begin = subject.start()
        if isinstance(subject, Loom):
            took = subject.await_pids(before, pace.settle)
            if took is None:
                results.fail(RIGHT, kind.name, f"status did not tell the same pids within {pace.settle:.0f} s")
            else:
                took = (time.monotonic_ns() - begin) / 1e6
                results.put(RIGHT, kind.name, Figure(f"{took:.0f}", took))
        # Doubled early is doubled for good; what has stayed single is watched to the end.
        end = time.monotonic() + pace.settle
        while True:
            living = _living(ground)
            doubled = sum(1 for pids in living.values() if len(pids) > 1)
            if doubled == COUNT or time.monotonic() > end:
                break
            time.sleep(0.05)
        same = sum(1 for name, pid in before.items() if pid in living.get(name, []))
        results.put(SURVIVAL, kind.name, Figure(f"{same} / {doubled}", float(COUNT - same + doubled)))


def _living(ground: Ground) -> dict[str, list[int]]:
    """Pids of all children that live, by unit."""
    found: dict[str, list[int]] = {}
    for pid in processes.descendants(os.getpid()):
        if processes.runs(pid, ground.born) and processes.alive(pid):
            arguments = processes.words(pid)
            name = arguments[2] if len(arguments) > 2 else os.path.basename(os.readlink(f"/proc/{pid}/cwd"))
            found.setdefault(name, []).append(pid)
    return found
