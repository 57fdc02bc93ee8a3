"""A provider that answers with exactly the bytes a test wrote down, and counts who asked and who hung up."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field


@dataclass
class Reply:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    #: Send the body in pieces of this size.
    piece: int = 1 << 20
    #: After the body, keep the connection open until the client leaves.
    stall: bool = False
    #: Before the status line, wait until the client leaves.
    silent: bool = False


class Provider:
    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.requests: list[dict[str, object]] = []
        self.headers: list[str] = []
        self.hung_up = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self.headers.append(head.decode())
            self.requests.append(json.loads(await reader.readexactly(length)))
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            if not reply.silent:
                more = "".join(f"{key}: {value}\r\n" for key, value in reply.headers.items())
                # No length and no chunks: the body ends with the connection, so a cut cannot be told by HTTP.
                writer.write(f"HTTP/1.1 {reply.status} X\r\nconnection: close\r\n{more}\r\n".encode())
                for at in range(0, len(reply.body), reply.piece):
                    writer.write(reply.body[at : at + reply.piece])
                    await writer.drain()
                    if reply.piece < len(reply.body):
                        await asyncio.sleep(0)
            if reply.stall or reply.silent:
                await reader.read()
                self.hung_up.set()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up.set()
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def provider(*replies: Reply) -> AsyncIterator[Provider]:
    it = Provider()
    it.replies = list(replies)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield it
    finally:
        server.close()


def chunk(content: str | None = None, finish: str | None = None, **more: object) -> dict[str, object]:
    delta = {} if content is None else {"content": content}
    return {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def sse(*events: dict[str, object] | str, end: str = "\n\n") -> bytes:
    each = [event if isinstance(event, str) else json.dumps(event, ensure_ascii=False) for event in events]
    return "".join(f"data: {event}{end}" for event in each).encode()


ANSWER = sse(
    chunk(""),
    chunk("Grüße, "),
    chunk("Wörld 🌍"),
    chunk(None, "stop"),
    {"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 5}},
    "[DONE]",
)
TEXT = "Grüße, Wörld 🌍"

Check = Callable[[], bool]
