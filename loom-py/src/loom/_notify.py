"""_notify: sd_notify, towards whoever started us.

Job: one datagram per message. May touch: NOTIFY_SOCKET. Keeps: nobody listening is no error; a full queue is retried
by the next heartbeat, never waited for.
"""

from __future__ import annotations

import logging
import socket

_log = logging.getLogger("loom.notify")


class Notifier:
    def __init__(self, path: str) -> None:
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._socket: socket.socket | None = None
        if path:
            kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_UNIX, kind)

    def say(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            _log.warning("could not notify %r: %s", lines[0], error.strerror)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
