"""Cold start, and what is resident with nothing to do."""

from __future__ import annotations

import time

from .. import stage
from ..figures import Figure, Results, median, short
from ..processes import alive, pss_mib
from ..subject import START_LIMIT, Ground, NoStatus, Subject, Unable

FIRST = "exec → first child runs, ms"
ANSWER = "exec → status answers, one unit, ms"
EMPTY = "PSS with 0 units, MiB"
# Lazy start-up work is over by then.
EMPTY_SETTLE = 2.0
ENOUGH = 3.0


def measure(kind: type[Subject], ground: Ground, pace: stage.Pace, results: Results) -> None:
    times, end = list[float](), time.monotonic() + ENOUGH
    while len(times) < pace.cold_starts and time.monotonic() < end:
        with stage.on(kind, ground, 1) as subject:
            begin = subject.start()
            birth = ground.births.next(START_LIMIT)
            if birth is None:
                raise Unable(f"its first child did not run: {subject.last_words()}")
            times.append((birth.at_ns - begin) / 1e6)
    results.put(FIRST, kind.name, median(times))

    times, end = [], time.monotonic() + ENOUGH
    while len(times) < pace.cold_starts and time.monotonic() < end:
        with stage.on(kind, ground, 1) as subject:
            begin = subject.start()
            try:
                subject.await_answer()
                times.append((time.monotonic_ns() - begin) / 1e6)
            except NoStatus:
                break
    if times:
        results.put(ANSWER, kind.name, median(times))

    with stage.on(kind, ground, 0) as subject:
        subject.start()
        time.sleep(EMPTY_SETTLE)
        # Horust ends when it has no units.
        if alive(subject.root()):
            resident = pss_mib(subject.own())
            results.put(EMPTY, kind.name, Figure(short(resident), resident))
