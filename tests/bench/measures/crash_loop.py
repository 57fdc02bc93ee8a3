"""kill → successor of a unit that has only just started: what a crash loop costs, and who slows it down."""

from __future__ import annotations

import os
import signal
import time

from .. import stage
from ..figures import Results, with_p99
from ..subject import START_LIMIT, Ground, Subject, Unable

SUCCESSOR = "kill → successor's main(), one unit, just started: median / p99, ms"
PAUSE = 0.02


def measure(kind: type[Subject], ground: Ground, pace: stage.Pace, results: Results) -> None:
    with stage.on(kind, ground, 1) as subject:
        subject.start()
        pid, times = subject.await_units(1)["u0"], list[float]()
        end = time.monotonic() + pace.short_limit
        while len(times) < pace.short_kills and time.monotonic() < end:
            time.sleep(PAUSE)
            begin = time.monotonic_ns()
            os.kill(pid, signal.SIGKILL)
            birth = ground.births.next(START_LIMIT)
            if birth is None:
                raise Unable(f"no successor within {START_LIMIT:.0f} s: {subject.last_words()}")
            pid = birth.pid
            times.append((birth.at_ns - begin) / 1e6)
        results.put(SUCCESSOR, kind.name, with_p99(times, pace.short_kills))
