"""What the design asks of each figure, and whether it was reached.

Goals are for Loom's plain service, as the peers run theirs; what everything on costs stands in its own column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .figures import Results, short
from .measures import confinement, crash_loop, disk, hundred, idle, loom_only, start, survival
from .peers import Dinit, Floor, Loom, Pm2, Systemd

FLOOR, LOOM, DINIT = Floor.name, Loom.name, Dinit.name
#: Burst writes share syncs; this many are "a few".
FEW_SYNCS = 3


class Missing(Exception):
    """A figure that the goal is compared with was not had."""


@dataclass(frozen=True)
class Goal:
    words: str
    #: Upper bound, from what was seen in this run.
    bound: Callable[[Results], float]
    p99: bool = False

    def verdict(self, measure: str, results: Results) -> str:
        seen = results.get(measure, LOOM)
        value = None if seen is None else seen.worst if self.p99 else seen.value
        if value is None:
            return f"{self.words}: not measured"
        try:
            bound = self.bound(results)
        except Missing as missing:
            return f"{self.words}: {missing} was not measured"
        met = "met" if value <= bound else "**not met**"
        if bound <= 0:
            return f"{self.words}: {met}"
        return f"{self.words} = {short(bound)}: {met} ({value / bound:.2f} x)"


def under(bound: float, words: str = "") -> Goal:
    return Goal(words or "must: ≤", lambda _: bound)


def of(results: Results, measure: str, subject: str, worst: bool = False) -> float:
    figure = results.get(measure, subject)
    value = None if figure is None else figure.worst if worst else figure.value
    if value is None:
        raise Missing(subject)
    return value


def beside(
    measure: str, subject: str, factor: float = 1, syncs: int = 0, *, word: str = "must", p99: bool = False
) -> Goal:
    """At most `factor` times what a peer reached in this run, and `syncs` synced writes."""
    words = (
        f"{word}: ≤ " + (f"{factor:g} x " if factor != 1 else "") + subject + (f" + {syncs} x sync" if syncs else "")
    )

    def bound(results: Results) -> float:
        sync = of(results, disk.SYNC, FLOOR) if syncs else 0
        return factor * of(results, measure, subject, p99) + syncs * sync

    return Goal(words + (", p99" if p99 else ""), bound, p99)


SYSTEMD = Systemd.name
#: In the order of the table. A measure without a goal is there to be read.
GOALS: dict[str, list[Goal]] = {
    survival.SURVIVAL: [under(0, "must: 10 / 0")],
    survival.RIGHT: [under(1000, "aim")],
    idle.WAKE_UPS: [under(0, "must: 0 but for RocksDB's timer (adr/0008)")],
    idle.CPU: [under(0.05, "must: 0, below what can be told from it")],
    start.FIRST: [],
    start.ANSWER: [under(100), beside(start.ANSWER, SYSTEMD), under(20, "aim")],
    start.EMPTY: [],
    hundred.RESIDENT: [under(50), beside(hundred.RESIDENT, Pm2.name), under(25, "aim")],
    hundred.UP: [
        beside(hundred.UP, SYSTEMD),
        beside(hundred.UP, FLOOR, 3, FEW_SYNCS, word="aim"),
        beside(hundred.UP, DINIT, 2, FEW_SYNCS, word="aim"),
    ],
    hundred.SUCCESSOR: [
        beside(hundred.SUCCESSOR, SYSTEMD),
        beside(hundred.SUCCESSOR, SYSTEMD, p99=True),
        beside(hundred.SUCCESSOR, FLOOR, 3, 2, word="aim"),
        beside(hundred.SUCCESSOR, DINIT, 2, 2, word="aim"),
    ],
    crash_loop.SUCCESSOR: [
        beside(crash_loop.SUCCESSOR, SYSTEMD),
        beside(crash_loop.SUCCESSOR, FLOOR, 3, 2, word="aim"),
    ],
    hundred.BACK: [
        beside(hundred.BACK, SYSTEMD),
        beside(hundred.BACK, FLOOR, 3, FEW_SYNCS, word="aim"),
        beside(hundred.BACK, DINIT, 2, FEW_SYNCS, word="aim"),
    ],
    hundred.AFTER: [under(0, "must: 0 / none / idle")],
    hundred.STATUS: [beside(hundred.STATUS, SYSTEMD)],
    hundred.SOCKET_STATUS: [under(10, "aim")],
    loom_only.START: [],
    loom_only.STATUS: [under(50)],
    loom_only.COMMAND: [],
    loom_only.RELOAD: [under(200)],
    loom_only.CYCLES: [under(0, "must: flat, 4 MiB of play")],
    loom_only.DEAF: [under(100)],
    loom_only.FLOOD: [under(5, "must: flat, CPU"), Goal("must: flat, 4 MiB of play", lambda _: 4, True)],
    confinement.NATIVE: [under(2.5)],
    confinement.PYTHON: [under(5)],
    disk.SYNC: [],
}
