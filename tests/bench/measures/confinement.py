"""What confinement adds to a start, by the launcher's own measurement: the same program bare and confined, in turn."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from ..figures import Figure, Results, short
from ..peers.loom import Loom
from ..subject import Unable

NATIVE = "confinement adds to the start of /bin/true, ms"
PYTHON = "confinement adds to the start of Python, ms"
TOP = Path(__file__).resolve().parents[3]
WORDS = {"/bin/true": NATIVE, "Python": PYTHON}
LIMIT = 300.0


def measure(results: Results) -> None:
    command = ["cargo", "nextest", "run", "-p", "loom-launch", "--run-ignored", "only", "--no-capture"]
    ended = subprocess.run(
        [*command, "-E", "test(measure_)"],
        cwd=TOP,
        env=os.environ | {"NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    for what, measured in WORDS.items():
        found = re.search(rf"^measured: .*{what}.*: \+ ([\d.]+) ms", ended.stdout, re.MULTILINE)
        if not found:
            raise Unable(f"the launcher was not measured: {(ended.stdout + ended.stderr)[-300:]}")
        results.put(measured, Loom.name, Figure(short(float(found[1])), float(found[1])))
