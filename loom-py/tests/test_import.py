"""What `import loom` costs, beside the floor of the same interpreter in the same run."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import pytest

FLOOR = "import asyncio, zmq, msgspec"
LOOM = "from loom import Agent, Context, Event"
MODULES_MAX = 200
RATIO_MAX = 1.15
#: Measured ratios move on a busy machine; this is what a pass may add, and the figure is printed.
NOISE = 0.15
ROUNDS = 15

PROBE = """
import sys, time
before = time.process_time()
{code}
cpu = time.process_time() - before
modules = sorted(sys.modules)
import json
rss_kib = int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")))
print(json.dumps({{"cpu_ms": cpu * 1000, "modules": modules, "rss_kib": rss_kib}}))
"""


def cost(code: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROBE.format(code=code)], capture_output=True, check=True, text=True
    )
    return dict(json.loads(done.stdout))


def test_importing_loom_loads_no_http_and_few_modules() -> None:
    modules = cost(LOOM)["modules"]
    assert isinstance(modules, list)
    forbidden = {
        "httpx2",
        "httpcore2",
        "http.client",
        "urllib.request",
        "pydantic",
        "opentelemetry",
        "loom.models",
    }
    assert not forbidden & set(modules), sorted(forbidden & set(modules))
    floor = cost(FLOOR)["modules"]
    assert isinstance(floor, list)
    assert len(modules) <= MODULES_MAX, f"{len(modules)} modules; the floor has {len(floor)}"


def test_importing_loom_costs_little_more_than_its_dependencies(capsys: pytest.CaptureFixture[str]) -> None:
    cost(FLOOR), cost(LOOM)  # bytecode and file cache
    pairs = [(cost(FLOOR), cost(LOOM)) for _ in range(ROUNDS)]
    floor = statistics.median(float(str(a["cpu_ms"])) for a, _ in pairs)
    loom = statistics.median(float(str(b["cpu_ms"])) for _, b in pairs)
    rss = statistics.median(float(str(b["rss_kib"])) for _, b in pairs) / 1024
    with capsys.disabled():
        print(
            f"\nimport loom: {loom:.0f} ms CPU, floor {floor:.0f} ms, ratio {loom / floor:.2f}, {rss:.1f} MiB",
            flush=True,
        )
    assert loom / floor <= RATIO_MAX + NOISE
