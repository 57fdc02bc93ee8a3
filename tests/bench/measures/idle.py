"""A hundred units at rest: who wakes up. All subjects wait at the same time."""

from __future__ import annotations

import time
from contextlib import ExitStack

from .. import processes, stage
from ..figures import Figure, Results, short
from ..subject import Ground, Subject, Unable

WAKE_UPS = "wake-ups per second, 100 idle units"
# The one thread whose wake-ups are not ours: docs/adr/0008.
STORE_TIMER = "store-timer"
CPU = "CPU then, ms per second"
COUNT = 100
SETTLE = 3.0


def measure(kinds: list[type[Subject]], ground: Ground, pace: stage.Pace, results: Results) -> None:
    with ExitStack() as stages:
        waiting: list[tuple[Subject, list[int]]] = []
        for kind in kinds:
            subject = stages.enter_context(stage.on(kind, ground, COUNT))
            subject.start()
            try:
                subject.await_units(COUNT)
                waiting.append((subject, subject.own()))
            except Unable as why:
                results.fail(WAKE_UPS, kind.name, str(why))
        time.sleep(SETTLE)
        before = [_seen(own) for _, own in waiting]
        time.sleep(pace.idle)
        for (subject, own), (switches, timer, cpu) in zip(waiting, before, strict=True):
            after = _seen(own)
            rate, timers = (after[0] - switches) / pace.idle, (after[1] - timer) / pace.idle
            busy = (after[2] - cpu) / pace.idle
            text = f"{rate:.1f} ({timers:.1f} RocksDB's timer)" if timers else f"{rate:.1f}"
            results.put(WAKE_UPS, subject.name, Figure(text, rate - timers))
            results.put(CPU, subject.name, Figure(short(busy), busy))


def _seen(own: list[int]) -> tuple[int, int, float]:
    return processes.switches(own), processes.switches(own, STORE_TIMER), processes.cpu_ms(own)
