"""One table of what was seen, for the screen and for docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

from .figures import Results
from .goals import GOALS
from .subject import Subject

WHY = """\
Why a goal may not be met here, and what would change it:

- 100 up, 100 back, and a successor: each start is a launcher that confines and then executes
  (about 2.5 ms of processor time for Loom and its child together, ADR 0011), so a burst of 100 on two cores is
  bound by the processor. A static launcher, the seccomp filter compiled once by loomd, and links looked up once
  would take about a third of it.
- Memory with 100 units: loomd carries a store, a bus and a tool broker; a tenth of it is what each unit's
  sockets and records keep. Smaller caches of RocksDB would bring it below the aim.
- Restarts of one unit: 300 cycles are too few to tell a trend from RocksDB's own rhythm; 10 000 of them are a
  test (`ten_thousand_restarts_leave_memory_descriptors_and_store_flat`), and there the store ends smaller than
  it began.
- A child that writes 100 MiB/s: the files' keeper punches holes behind the writer (ADR 0005), up to fifty times
  a second. With journald nothing of it is loomd's.
"""

ABOUT = """\
- One run, the same child for all: a C program that tells its birth and sleeps. Peers have no sandbox and no logs,
  restart at once, and are otherwise as they come.
- Figures are medians; where it says so the 99th percentile stands beside them, of few samples (n) the largest.
- *floor* is a bare fork-exec-wait loop in C; *sync* is one synced write on the store's disk.
- *Loom* is a service with the least confinement that can be written: it has its gate, its records, its cgroup and its
  log files. *Loom, all on* is an agent: bus, token, settings and the profile for Python beside
  that. Goals are for the first.
- PSS, CPU and wake-ups are those of the supervisor's own processes.
- s6, runit and daemontools survive by their many processes: their root is the one that scans the directory.
"""


def machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}"


def table(columns: list[str], results: Results) -> str:
    lines = [["measure", *columns, "goal for Loom"]]
    for measure, goals in GOALS.items():
        figures = [results.get(measure, column) for column in columns]
        if any(figures):
            seen = [figure.text if figure else "-" for figure in figures]
            lines.append([measure, *seen, "; ".join(goal.verdict(measure, results) for goal in goals)])
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|---|" + "---:|" * len(columns) + "---|", *body])


def document(columns: list[str], absent: dict[type[Subject], str], results: Results, command: str, took: float) -> str:
    parts = [
        "# Benchmarks\n",
        f"Written by `{command}` on {time.strftime('%Y-%m-%d', time.gmtime())}, in {took:.0f} s.",
        f"Machine: {machine()}.\n",
        ABOUT,
        table(columns, results),
    ]
    parts.append("\n" + WHY)
    if absent:
        parts.append("\nNot measured:\n")
        parts += [f"- {kind.name}: {why}" for kind, why in absent.items()]
    if results.failures:
        parts.append("\nFailed:\n")
        parts += [f"- {failure}" for failure in results.failures]
    return "\n".join(parts) + "\n"
