"""One synced write of a record's size, on the disk where Loom's store lies."""

from __future__ import annotations

import os
import time

from ..figures import Results, median
from ..subject import Ground

SYNC = "one synced write, ms"
RECORD = b"x" * 300
COUNT = 50


def measure(ground: Ground, results: Results) -> None:
    times = []
    with (ground.directory / "sync").open("wb", buffering=0) as file:
        for _ in range(COUNT):
            begin = time.monotonic()
            file.write(RECORD)
            os.fdatasync(file.fileno())
            times.append((time.monotonic() - begin) * 1000)
    results.put(SYNC, "floor", median(times))
