"""A subject on the stage: set up, run, and cleared away without a trace."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from . import processes
from .subject import Ground, Subject

places = itertools.count()


@dataclass(frozen=True)
class Pace:
    """How often, and for how long at most."""

    cold_starts: int
    starts: int
    kills: int
    kills_limit: float
    short_kills: int
    short_limit: float
    bursts: int
    statuses: int
    statuses_limit: float
    idle: float
    reloads: int
    cycles: int
    deaf_stops: int
    flood: float
    #: A duplicate comes with the new root's first look at its units; the slowest looks every five seconds.
    settle: float


FULL = Pace(8, 3, 200, 4.0, 40, 2.5, 3, 20, 1.0, 10.0, 10, 10_000, 5, 3.0, 5.5)
QUICK = Pace(2, 1, 20, 1.2, 5, 1.2, 1, 3, 0.5, 2.0, 2, 300, 1, 1.0, 2.0)


@contextmanager
def on(kind: type[Subject], ground: Ground, units: int) -> Iterator[Subject]:
    """A subject with its configuration written, not started. Ends it, and all that it started."""
    subject = kind(ground, f"{next(places)}")
    try:
        subject.write(units)
        ground.births.drain()
        yield subject
    finally:
        processes.sweep()
        subject.tidy()
        shutil.rmtree(subject.directory, ignore_errors=True)
