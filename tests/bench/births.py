"""Children tell their births here: a FIFO that every child writes one line to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import time
from dataclasses import dataclass
from pathlib import Path

PIPE_BYTES = 1 << 20


@dataclass(frozen=True)
class Birth:
    name: str
    pid: int
    at_ns: int


class Births:
    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path, 0o600)
        # Open for writing too: without a child there is no end of file.
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # The default holds some thousand births.
            fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.poll = select.poll()
        self.poll.register(self.fd, select.POLLIN)
        self.rest = b""
        self.waiting: list[Birth] = []

    def next(self, limit: float) -> Birth | None:
        """The next birth; None if there is none within `limit` seconds."""
        end = time.monotonic() + limit
        while not self.waiting:
            if not self.poll.poll(max(0.0, end - time.monotonic()) * 1000):
                return None
            *lines, self.rest = (self.rest + os.read(self.fd, 65536)).split(b"\n")
            for line in lines:
                name, pid, at = line.decode().split()
                self.waiting.append(Birth(name, int(pid), int(at)))
        return self.waiting.pop(0)

    def of(self, names: set[str], limit: float) -> dict[str, Birth]:
        """The first birth of each of `names` from now on; fewer if `limit` seconds are over."""
        end, seen = time.monotonic() + limit, dict[str, Birth]()
        while len(seen) < len(names):
            birth = self.next(end - time.monotonic())
            if birth is None:
                break
            if birth.name in names:
                seen.setdefault(birth.name, birth)
        return seen

    def drain(self) -> None:
        while self.next(0):
            pass
