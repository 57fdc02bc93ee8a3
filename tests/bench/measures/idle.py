"""A hundred units at rest: who wakes up. All subjects wait at the same time."""

from __future__ import annotations

import time
from contextlib import ExitStack

from .. import processes, stage
from ..figures import Figure, Results, short
from ..subject import Ground, Subject, Unable

WAKE_UPS = "wake-ups per second, 100 idle units"
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
        before = [(processes.switches(own), processes.cpu_ms(own)) for _, own in waiting]
        time.sleep(pace.idle)
        for (subject, own), (switches, cpu) in zip(waiting, before, strict=True):
            rate = (processes.switches(own) - switches) / pace.idle
            busy = (processes.cpu_ms(own) - cpu) / pace.idle
            results.put(WAKE_UPS, subject.name, Figure(f"{rate:.1f}", rate))
            results.put(CPU, subject.name, Figure(short(busy), busy))
