"""sse: server-sent events, from bytes.

Job: cut a byte stream into events. May touch: nothing. Keeps: an event counts only once its blank line came; bytes may
be split anywhere, inside UTF-8 and inside CRLF too; a line has a limit.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass

LINE_LIMIT = 1024 * 1024


class LineTooLong(ValueError):
    pass


@dataclass(frozen=True)
class ServerEvent:
    data: str
    event: str = ""


class SseReader:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._line = ""
        self._after_cr = False
        self._data: list[str] = []
        self._event = ""

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events that this chunk completes."""
        text = self._decoder.decode(chunk)
        if self._after_cr and text:
            text = text.removeprefix("\n")
            self._after_cr = False
        self._after_cr = self._after_cr or text.endswith("\r")
        lines = (self._line + text).replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._line = lines.pop()
        if len(self._line) > LINE_LIMIT:
            raise LineTooLong(f"a line of more than {LINE_LIMIT} characters")
        return [event for line in lines if (event := self._take(line)) is not None]

    def _take(self, line: str) -> ServerEvent | None:
        if line == "":
            data, event = self._data, self._event
            self._data, self._event = [], ""
            return ServerEvent("\n".join(data), event) if data else None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._event = value
        return None  # a comment, `id`, `retry`, or a field to ignore
