"""A hundred units: up, resident, asked, killed one by one and all at once."""

from __future__ import annotations

import os
import signal
import time

from .. import processes, stage
from ..figures import Figure, Results, median, short, with_p99
from ..peers.loom import Loom
from ..subject import START_LIMIT, Ground, NoStatus, Subject, Unable

UP = "exec → 100 units up, ms"
RESIDENT = "PSS with 100 units, MiB"
STATUS = "status of all 100 by its command, ms"
SOCKET_STATUS = "status of all 100 over the control socket, ms"
SUCCESSOR = "kill → successor's main(), of 100, each lived over a second: median / p99, ms"
BACK = "100 killed at once → all back, ms"
AFTER = "after that: zombies / more descriptors / CPU in the next second but one, ms"
COUNT = 100
# Several supervisors delay the successor of what lived for less than a second.
GROWN_NS = 1_100_000_000
SETTLE = 0.5
# Samples enough, of what is slow.
ENOUGH = 4.0


def measure(kind: type[Subject], ground: Ground, pace: stage.Pace, results: Results) -> None:
    times, end, done = list[float](), time.monotonic() + ENOUGH, False
    while not done:
        with stage.on(kind, ground, COUNT) as subject:
            begin = subject.start()
            born = ground.births.of({f"u{n}" for n in range(COUNT)}, START_LIMIT)
            if len(born) < COUNT:
                raise Unable(f"{len(born)} of {COUNT} units ran within {START_LIMIT:.0f} s: {subject.last_words()}")
            times.append((max(birth.at_ns for birth in born.values()) - begin) / 1e6)
            done = len(times) == pace.starts or time.monotonic() > end
            if not done:
                continue
            results.put(UP, kind.name, median(times))
            time.sleep(SETTLE)
            resident = processes.pss_mib(subject.own())
            results.put(RESIDENT, kind.name, Figure(short(resident), resident))
            _statuses(subject, pace, results)
            alive = {name: (birth.pid, birth.at_ns) for name, birth in born.items()}
            _one_by_one(subject, alive, pace, results)
            _all_at_once(subject, alive, pace, results)


def _statuses(subject: Subject, pace: stage.Pace, results: Results) -> None:
    asked = [(STATUS, subject.status)]
    if isinstance(subject, Loom):
        asked.append((SOCKET_STATUS, subject.answers))
    for measure, ask in asked:
        times, end = list[float](), time.monotonic() + pace.statuses_limit
        try:
            while len(times) < pace.statuses and time.monotonic() < end:
                begin = time.monotonic()
                if not ask():
                    raise Unable("its status command failed")
                times.append((time.monotonic() - begin) * 1000)
        except NoStatus:
            return
        except Unable as why:
            results.fail(measure, subject.name, str(why))
            return
        results.put(measure, subject.name, median(times))


def _one_by_one(subject: Subject, alive: dict[str, tuple[int, int]], pace: stage.Pace, results: Results) -> None:
    births, times = subject.ground.births, list[float]()
    end = time.monotonic() + pace.kills_limit
    names = list(alive)
    while len(times) < pace.kills and time.monotonic() < end:
        name = names[len(times) % len(names)]
        pid, born_ns = alive[name]
        time.sleep(max(0, born_ns + GROWN_NS - time.monotonic_ns()) / 1e9)
        begin = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        birth = births.of({name}, START_LIMIT).get(name)
        if birth is None:
            raise Unable(f"{name} had no successor within {START_LIMIT:.0f} s: {subject.last_words()}")
        alive[name] = (birth.pid, birth.at_ns)
        times.append((birth.at_ns - begin) / 1e6)
        # What the supervisor still does for this one is not the next one's delay.
        time.sleep(0.005)
    results.put(SUCCESSOR, subject.name, with_p99(times, pace.kills))


def _all_at_once(subject: Subject, alive: dict[str, tuple[int, int]], pace: stage.Pace, results: Results) -> None:
    births, times, own = subject.ground.births, list[float](), subject.own()
    before = processes.descriptors(own)
    end = time.monotonic() + ENOUGH
    while len(times) < pace.bursts and time.monotonic() < end:
        youngest = max(born_ns for _, born_ns in alive.values())
        time.sleep(max(0, youngest + GROWN_NS - time.monotonic_ns()) / 1e9)
        begin = time.monotonic_ns()
        for pid, _ in alive.values():
            os.kill(pid, signal.SIGKILL)
        born = births.of(set(alive), START_LIMIT)
        if len(born) < len(alive):
            raise Unable(f"{len(born)} of {len(alive)} came back within {START_LIMIT:.0f} s: {subject.last_words()}")
        times.append((max(birth.at_ns for birth in born.values()) - begin) / 1e6)
        alive.update({name: (birth.pid, birth.at_ns) for name, birth in born.items()})
    results.put(BACK, subject.name, median(times))
    time.sleep(1)
    own = subject.own()
    busy = processes.cpu_ms(own)
    time.sleep(1)
    busy = processes.cpu_ms(own) - busy
    dead = processes.zombies(subject.root())
    more = processes.descriptors(own) - before
    # Judged: nothing dead, nothing kept, less than one tick of work.
    bad = float(dead > 0 or more > 0 or busy >= 10)
    results.put(AFTER, subject.name, Figure(f"{dead} / {more:+d} / {short(busy)}", bad))
