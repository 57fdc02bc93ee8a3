"""logs: what an agent logs, where `loomctl logs` and journalctl find it.

Job: a `logging.Handler` for the journal's native protocol, and one for stderr lines with a priority.
May touch: /run/systemd/journal/socket, stderr. Keeps: logging never raises into an agent and never waits.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Mapping

#: Above it the journal wants a memfd; a line that long is cut instead.
DATAGRAM_LIMIT_BYTES = 100_000


def priority(level: int) -> int:
    """The syslog number of a logging level."""
    for least, number in ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if level >= least:
            return number
    return 7


class PrefixHandler(logging.Handler):
    """`<N>text` on stderr, as the journal and loomd's file store read it; later lines of one record keep the number."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            mark = f"<{priority(record.levelno)}>"
            sys.stderr.write("".join(f"{mark}{line}\n" for line in self.format(record).splitlines() or [""]))
            sys.stderr.flush()
        except (OSError, ValueError):
            pass


class JournalHandler(logging.Handler):
    """The journal's native protocol, with LOOM_UNIT and LOOM_RUN; falls back to stderr when the socket is gone."""

    def __init__(self, *, unit: str, run: int, path: str) -> None:
        super().__init__()
        self._fields = {"SYSLOG_IDENTIFIER": unit, "LOOM_UNIT": unit, "LOOM_RUN": str(run)}
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._fallback = PrefixHandler()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            fields = {
                "MESSAGE": text,
                "PRIORITY": str(priority(record.levelno)),
                "LOGGER": record.name,
                "CODE_FILE": record.pathname,
                "CODE_LINE": str(record.lineno),
                "CODE_FUNC": record.funcName,
                **self._fields,
            }
            self._socket.sendto(native(fields), self._path)
        except (OSError, ValueError):
            self._fallback.handle(record)

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802 — logging's name
        super().setFormatter(fmt)
        self._fallback.setFormatter(fmt)

    def close(self) -> None:
        self._socket.close()
        super().close()


def native(fields: Mapping[str, str]) -> bytes:
    """`KEY=value` lines; a value with a newline goes as `KEY`, its length as u64 LE, and its bytes."""
    out = bytearray()
    for key, value in fields.items():
        raw = value.encode("utf-8", "surrogateescape")[:DATAGRAM_LIMIT_BYTES]
        if b"\n" in raw:
            out += key.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"
        else:
            out += key.encode() + b"=" + raw + b"\n"
    return bytes(out)


def install(*, unit: str, run: int, destination: str) -> logging.Handler:
    """Makes `logging` speak to the supervisor's log; `destination` is LOOM_LOG (`journal` or `stderr`)."""
    handler: logging.Handler
    if destination == "journal":
        directory = os.environ.get("LOOM_JOURNAL_DIR", "/run/systemd/journal")
        handler = JournalHandler(unit=unit, run=run, path=os.path.join(directory, "socket"))
    else:
        handler = PrefixHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if os.environ.get("LOOM_DEBUG") == "1" else logging.INFO)
    for noisy in ("httpx2", "httpcore2", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return handler
