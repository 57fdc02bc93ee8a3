"""wire: what this process and loomd say to each other.

Job: frames, and one connection that is kept: HELLO, credit, requests with their answers, reconnecting.
May touch: the unit's ipc socket through ZeroMQ, on one I/O thread. May not: run a handler.
Keeps: a request gets exactly one answer or one error; after a lost connection every unanswered request is sent again
with the same id; nothing is delivered before credit was given; a forked child cannot speak as its parent.

A message is `[op: 2 bytes][header: JSON object][data: raw, optional]`. Upper-case ops are sent by the unit, lower-case
ones by loomd. `schemas/golden/` holds examples that the tests of both languages read.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import random
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import zmq

from .errors import BusError, Busy, DeadlineExceeded, LoomError, Rejected, SupervisorGone, of_wire

VERSION = 1
CREDIT_MESSAGES = 64
CREDIT_BYTES = 4 * 1024 * 1024
MAX_DATA_BYTES = 1024 * 1024
MAX_HEADER_BYTES = 16 * 1024
#: Messages handed to the I/O thread and not yet sent; beyond it a request is `Busy` and a realtime publish is dropped.
OUTBOX = 1024
HELLO_TIMEOUT_S = 5.0
#: Without a connection for this long the process gives up, so that its supervisor may start it again.
RECONNECT_LIMIT_S = 60.0
BACKOFF_FIRST_S = 0.02
BACKOFF_LAST_S = 2.0
#: An answer that the broker owes by a deadline is waited for a little longer than that.
ANSWER_SLACK_S = 2.0
LINGER_MS = 500
RECEIVE_BATCH = 256

#: A monitor's message: the event's number and its value. (`zmq.utils.monitor` would load `zmq.asyncio` for it.)
EVENT = struct.Struct("=hi")

_log = logging.getLogger("loom.wire")
_encoder = msgspec.json.Encoder()
_header_decoder = msgspec.json.Decoder(dict[str, Any])


class Message(NamedTuple):
    """One message, decoded as far as its header."""

    op: str
    header: dict[str, Any]
    data: bytes = b""


class BadMessage(ValueError):
    """Frames that are no message; the text says which part."""


def encode(message: Message) -> list[bytes]:
    frames = [message.op.encode("ascii"), _encoder.encode(message.header)]
    if message.data:
        frames.append(message.data)
    return frames


def decode(frames: Sequence[bytes]) -> Message:
    if len(frames) < 2:
        raise BadMessage(f"{len(frames)} frames where op and header are needed")
    op = bytes(frames[0])
    if len(op) != 2 or not op.isascii():
        raise BadMessage(f"op {op[:8]!r} is not two ASCII bytes")
    if len(frames[1]) > MAX_HEADER_BYTES:
        raise BadMessage(f"header of {len(frames[1])} bytes; the limit is {MAX_HEADER_BYTES}")
    try:
        header = _header_decoder.decode(frames[1])
    except msgspec.MsgspecError as error:
        raise BadMessage(f"header of {op.decode()}: {error}") from error
    return Message(op.decode("ascii"), header, bytes(frames[2]) if len(frames) > 2 else b"")


def json_bytes(value: object) -> bytes:
    return _encoder.encode(value)


def json_value(data: bytes) -> Any:
    return msgspec.json.decode(data) if data else None


_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_id() -> str:
    """A ULID: 48 bits of milliseconds, 80 random bits; sorts by time."""
    number = (now_ms() << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def matches(filter_: str, topic: str) -> bool:
    """`*` is exactly one segment, `>` one or more at the end."""
    wanted, have = filter_.split("."), topic.split(".")
    for at, segment in enumerate(wanted):
        if segment == ">" and at == len(wanted) - 1:
            return len(have) > at
        if at >= len(have) or segment not in ("*", have[at]):
            return False
    return len(wanted) == len(have)


# ---------------------------------------------------------------------------------------------------------------------
# The I/O thread


class Up(NamedTuple):
    """The handshake of this connection was accepted."""

    generation: int


class Down(NamedTuple):
    """The connection is gone; `refused` if the handshake turned our token down."""

    generation: int
    refused: bool


class Received(NamedTuple):
    generation: int
    frames: list[bytes]


LinkEvent = Up | Down | Received


class Link:
    """One DEALER on one thread, with a blocking poll; hands events to the event loop in batches.

    It knows no protocol. Each `connect` makes a new socket with a new generation, so that nothing queued for a lost
    connection can reach the next one before HELLO.
    """

    def __init__(
        self,
        *,
        path: str,
        unit: str,
        token: str,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[list[LinkEvent]], None],
    ) -> None:
        self._endpoint = f"ipc://{path}"
        self._unit, self._token = unit, token
        self._loop, self._deliver = loop, deliver
        self._context = zmq.Context(io_threads=1)
        self._commands: collections.deque[tuple[str, int, list[bytes]]] = collections.deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._generation = 0
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="loom-wire", daemon=True)
        self._thread.start()

    def connect(self) -> int:
        self._generation += 1
        self._command("connect", self._generation, [])
        return self._generation

    def send(self, generation: int, frames: list[bytes]) -> bool:
        """Hands a message over; false if the outbox is full."""
        if len(self._commands) >= OUTBOX:
            return False
        self._command("send", generation, frames)
        return True

    def close(self) -> None:
        """Sends what was handed over, for at most the linger time, and ends the thread."""
        self._command("close", 0, [])
        self._thread.join(LINGER_MS / 1000 + 2)
        if not self._thread.is_alive():
            os.close(self._wake)

    def _command(self, what: str, generation: int, frames: list[bytes]) -> None:
        if os.getpid() != self._pid:
            raise SupervisorGone("a forked child cannot use its parent's connection to loomd; ask the parent")
        self._commands.append((what, generation, frames))
        with contextlib.suppress(BlockingIOError):  # the counter is full: the thread is awake anyway
            os.eventfd_write(self._wake, 1)

    # Everything below runs on the thread.

    def _run(self) -> None:
        dealer: zmq.Socket[bytes] | None = None
        monitor: zmq.Socket[bytes] | None = None
        generation = 0
        unsent: collections.deque[list[bytes]] = collections.deque()

        def drop() -> None:
            nonlocal dealer, monitor
            if dealer is not None and monitor is not None:
                dealer.disable_monitor()
                monitor.close(linger=0)
                dealer.close(linger=0)
            dealer = monitor = None
            unsent.clear()

        while True:
            poller = zmq.Poller()
            poller.register(self._wake, zmq.POLLIN)
            if dealer is not None and monitor is not None:
                poller.register(dealer, zmq.POLLIN | (zmq.POLLOUT if unsent else 0))
                poller.register(monitor, zmq.POLLIN)
            poller.poll()
            events: list[LinkEvent] = []
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)

            while self._commands:
                what, about, frames = self._commands.popleft()
                if what == "connect":
                    drop()
                    generation = about
                    dealer, monitor = self._socket()
                elif what == "send" and about == generation and dealer is not None:
                    unsent.append(frames)
                elif what == "close":
                    if dealer is not None and monitor is not None:
                        _flush(dealer, unsent)
                        dealer.disable_monitor()
                        monitor.close(linger=0)
                        dealer.close(linger=LINGER_MS)
                    self._context.term()
                    return
            if dealer is not None and monitor is not None:
                _flush(dealer, unsent)
                with contextlib.suppress(zmq.Again):
                    for _ in range(RECEIVE_BATCH):
                        events.append(Received(generation, dealer.recv_multipart(zmq.NOBLOCK)))
                end = _monitored(monitor, generation, events)
                if end is not None:
                    drop()
                    events.append(end)
            if events:
                with contextlib.suppress(RuntimeError):  # the loop has closed: nobody is left to tell
                    self._loop.call_soon_threadsafe(self._deliver, events)

    def _socket(self) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        dealer = self._context.socket(zmq.DEALER)
        dealer.plain_username = self._unit.encode()
        dealer.plain_password = self._token.encode()
        dealer.sndhwm = OUTBOX
        dealer.rcvhwm = OUTBOX
        dealer.maxmsgsize = 16 * MAX_DATA_BYTES
        dealer.reconnect_ivl = -1  # we make a new socket instead, and say HELLO first
        dealer.linger = 0
        monitor = dealer.get_monitor_socket()
        dealer.connect(self._endpoint)
        return dealer, monitor


def _flush(dealer: zmq.Socket[bytes], unsent: collections.deque[list[bytes]]) -> None:
    while unsent:
        try:
            dealer.send_multipart(unsent[0], zmq.NOBLOCK)
        except zmq.Again:
            return
        unsent.popleft()


def _monitored(monitor: zmq.Socket[bytes], generation: int, events: list[LinkEvent]) -> Down | None:
    while True:
        try:
            news, _ = EVENT.unpack(monitor.recv_multipart(zmq.NOBLOCK)[0])
        except zmq.Again:
            return None
        if news == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            events.append(Up(generation))
        elif news == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return Down(generation, refused=True)
        elif news in (
            zmq.EVENT_DISCONNECTED,
            zmq.EVENT_CLOSED,
            zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
            zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
        ):
            return Down(generation, refused=False)


# ---------------------------------------------------------------------------------------------------------------------
# The session, on the event loop


class Pending:
    """A request that has no answer yet."""

    __slots__ = ("answer", "frames", "on_progress", "op", "resent")

    def __init__(
        self, op: str, frames: list[bytes], answer: asyncio.Future[Message], on_progress: Callable[[bytes], None] | None
    ) -> None:
        self.op, self.frames, self.answer, self.on_progress = op, frames, answer, on_progress
        self.resent = False


class Session:
    """The kept connection. Its callbacks run on the event loop and must not block.

    Args:
        on_delivery: A DELIVER arrived; the receiver calls `done_with` once it is through with it.
        on_cancel: The broker wants the work on this delivery to end, and why.
        on_drain: No new work is to begin; `deadline` in ms since the epoch or None.
    """

    def __init__(
        self,
        *,
        path: str,
        unit: str,
        run: int,
        token: str,
        sdk: str,
        handlers: Sequence[str],
        code_hash: str = "",
        reconnect_limit: float = RECONNECT_LIMIT_S,
        on_delivery: Callable[[Message], None],
        on_cancel: Callable[[str, str], None],
        on_drain: Callable[[int | None], None],
    ) -> None:
        self._path, self._unit, self._run, self._token = path, unit, run, token
        self._sdk, self._handlers, self._code_hash = sdk, list(handlers), code_hash
        self._limit = reconnect_limit
        self._on_delivery, self._on_cancel, self._on_drain = on_delivery, on_cancel, on_drain
        self._link: Link | None = None
        self._generation = 0
        self._greeted = False
        self._hello: asyncio.Future[Message] | None = None
        self._gone = asyncio.Event()
        self._pending: dict[str, Pending] = {}
        self._holds: dict[str, int] = {}  # delivery → bytes
        self._unsettled: dict[str, Message] = {}
        self._filters: list[str] = []
        self._open = False  # credit was given
        self._owed_messages = self._owed_bytes = 0
        self._keeper: asyncio.Task[None] | None = None
        self.welcome: Mapping[str, Any] = {}
        #: Realtime messages that could not leave.
        self.dropped = 0

    async def open(self) -> Mapping[str, Any]:
        """Connects and says HELLO; returns the WELCOME.

        Raises:
            Rejected: The supervisor turned HELLO down.
            SupervisorGone: No supervisor answered within the reconnect limit.
        """
        loop = asyncio.get_running_loop()
        self._link = Link(path=self._path, unit=self._unit, token=self._token, loop=loop, deliver=self._on_link)
        first: asyncio.Future[None] = loop.create_future()
        self._keeper = loop.create_task(self._keep(first), name="loom-keep-connection")
        await asyncio.wait({first, self._keeper}, return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            await self._keeper  # raises why
        return self.welcome

    async def lost(self) -> None:
        """Returns never; raises once the connection is given up."""
        assert self._keeper is not None, "open() was awaited first"
        await asyncio.shield(self._keeper)

    async def close(self, *, goodbye: bool = True) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError, LoomError):
                await self._keeper
        if self._link is not None:
            if goodbye and self._greeted:
                self.send("1Y", {})
            await asyncio.to_thread(self._link.close)
            self._link = None
        self._fail_all(SupervisorGone("this agent has closed its connection to loomd", outcome="unknown"))

    async def receive(self, filters: Sequence[str]) -> None:
        """Subscribes and opens the door: deliveries arrive from now on."""
        self._filters = list(filters)
        for filter_ in self._filters:
            await self.request("1S", {"filter": filter_}, limit=HELLO_TIMEOUT_S * 6)
        self._open = True
        self.send("1C", {"messages": CREDIT_MESSAGES, "bytes": CREDIT_BYTES})

    def done_with(self, delivery: str) -> None:
        """This delivery takes no room any more; credit follows in halves of the window."""
        size = self._holds.pop(delivery, None)
        if size is None:
            return
        self._owed_messages += 1
        self._owed_bytes += size
        if self._open and (self._owed_messages >= CREDIT_MESSAGES // 2 or self._owed_bytes >= CREDIT_BYTES // 2):
            self.send("1C", {"messages": self._owed_messages, "bytes": self._owed_bytes})
            self._owed_messages = self._owed_bytes = 0

    def settle(self, op: str, delivery: str, header: Mapping[str, Any], data: bytes = b"") -> None:
        """Sends the one ACK, NACK or REPLY of a delivery; without a connection it follows the next HELLO."""
        if len(data) > MAX_DATA_BYTES:
            reason = f"the reply has {len(data)} bytes; a message carries {MAX_DATA_BYTES}"
            op, header, data = "1N", {"delivery": delivery, "final": True, "reason": reason}, b""
        if not self.send(op, header, data):
            self._unsettled[delivery] = Message(op, dict(header), data)
            return
        self.done_with(delivery)

    def stop_receiving(self) -> None:
        """Gives no more credit."""
        self._open = False

    def send(self, op: str, header: Mapping[str, Any], data: bytes = b"") -> bool:
        """Sends without an answer; false if there is no connection or no room."""
        if self._link is None or not self._greeted:
            return False
        return self._link.send(self._generation, encode(Message(op, dict(header), data)))

    def publish_realtime(self, header: Mapping[str, Any], data: bytes) -> bool:
        sent = self.send("1P", header, data)
        if not sent:
            self.dropped += 1
        return sent

    async def request(
        self,
        op: str,
        header: Mapping[str, Any],
        data: bytes = b"",
        *,
        limit: float,
        on_progress: Callable[[bytes], None] | None = None,
    ) -> Message:
        """Sends and awaits the one answer, over lost connections too.

        Args:
            header: Without `id` one is made.
            limit: Seconds until `DeadlineExceeded`, should the broker itself stay silent.
            on_progress: Gets the data of each progress message of this request.

        Raises:
            LoomError: What the broker's ERROR says; see `errors.of_wire`.
        """
        answer, _ = await self.request_noting_repeats(op, header, data, limit=limit, on_progress=on_progress)
        return answer

    async def request_noting_repeats(
        self,
        op: str,
        header: Mapping[str, Any],
        data: bytes = b"",
        *,
        limit: float,
        on_progress: Callable[[bytes], None] | None = None,
    ) -> tuple[Message, bool]:
        """As `request`; also says whether the request had to be sent more than once."""
        if len(data) > MAX_DATA_BYTES:
            too_big = {"code": "too-big", "message": f"{len(data)} bytes of data; a message carries {MAX_DATA_BYTES}"}
            raise of_wire(op, {**too_big, "outcome": "not-run"})
        if self._link is None:
            raise SupervisorGone("there is no connection to loomd", outcome="not-run")
        id_ = str(header.get("id") or new_id())
        frames = encode(Message(op, {**header, "id": id_}, data))
        pending = Pending(op, frames, asyncio.get_running_loop().create_future(), on_progress)
        self._pending[id_] = pending
        try:
            if self._greeted and not self._link.send(self._generation, frames):
                raise Busy(f"{OUTBOX} messages wait to be sent to loomd; slow down", outcome="not-run")
            async with asyncio.timeout(limit):
                answer = await pending.answer
        except TimeoutError:
            self.send("1X", {"about": id_})
            text = f"no answer to {_WORD.get(op, op)} within {limit:g} s"
            raise DeadlineExceeded(text, code="deadline", outcome="unknown") from None
        except asyncio.CancelledError:
            self.send("1X", {"about": id_})
            raise
        finally:
            self._pending.pop(id_, None)
        if answer.op == "1e":
            error = of_wire(op, answer.header)
            error.resent = pending.resent  # type: ignore[attr-defined]  # read by Context.state only
            raise error
        return answer, pending.resent

    # ---- the connection

    async def _keep(self, first: asyncio.Future[None]) -> None:
        try:
            await self._keep_connected(first)
        except LoomError as error:
            self._fail_all(error)
            raise

    async def _keep_connected(self, first: asyncio.Future[None]) -> None:
        assert self._link is not None
        loop = asyncio.get_running_loop()
        alone_since, attempt = loop.time(), 0
        while True:
            self._greeted = False
            self._gone.clear()
            self._hello = loop.create_future()
            self._generation = self._link.connect()
            self._link.send(self._generation, encode(self._hello_message()))
            reject: Rejected | None = None
            try:
                async with asyncio.timeout(HELLO_TIMEOUT_S):
                    self.welcome = (await self._hello).header
            except (TimeoutError, SupervisorGone):
                pass
            except Rejected as error:
                reject = error
            else:
                self._greeted = True
                self._again(reconnected=first.done())
                if not first.done():
                    first.set_result(None)
                await self._gone.wait()
                self._greeted = False
                alone_since, attempt = loop.time(), 0
                _log.warning("lost the connection to loomd; reconnecting")
            if reject is not None and reject.code != "already-connected":
                raise reject
            if loop.time() - alone_since > self._limit:
                if reject is not None:
                    raise reject
                raise SupervisorGone(f"no loomd answered at {self._path} for {self._limit:g} s", outcome="unknown")
            await asyncio.sleep(min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2**attempt) * random.uniform(0.5, 1.5))
            attempt = min(attempt + 1, 16)

    def _hello_message(self) -> Message:
        header: dict[str, Any] = {
            "id": new_id(),
            "versions": [VERSION],
            "unit": self._unit,
            "run": self._run,
            "sdk": self._sdk,
        }
        if self._code_hash:
            header["code_hash"] = self._code_hash
        if self._holds:
            header["holds"] = list(self._holds)
        return Message("1H", header, json_bytes({"handlers": self._handlers, "tools": []}))

    def _again(self, *, reconnected: bool) -> None:
        """Tells a broker that may know nothing of us what we want, and asks once more what it has not answered."""
        unsettled, self._unsettled = self._unsettled, {}
        for delivery, message in unsettled.items():
            self.settle(message.op, delivery, message.header, message.data)
        if reconnected and self._open:
            for filter_ in self._filters:
                self.send("1S", {"id": new_id(), "filter": filter_})
            room = CREDIT_MESSAGES - len(self._holds), CREDIT_BYTES - sum(self._holds.values())
            self._owed_messages = self._owed_bytes = 0
            self.send("1C", {"messages": max(room[0], 0), "bytes": max(room[1], 0)})
        for pending in self._pending.values():
            pending.resent = reconnected
            assert self._link is not None
            self._link.send(self._generation, pending.frames)

    def _fail_all(self, error: LoomError) -> None:
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(error)

    # ---- what arrives

    def _on_link(self, events: list[LinkEvent]) -> None:
        for event in events:
            if event.generation != self._generation:
                continue
            if isinstance(event, Received):
                try:
                    self._on_message(decode(event.frames))
                except BadMessage as error:
                    _log.error("loomd sent what is no message: %s", error)
            elif isinstance(event, Down):
                if self._hello is not None and not self._hello.done():
                    if event.refused:
                        text = "loomd refused this run's token; only loomd can start this agent"
                        self._hello.set_exception(Rejected(text, code="bad-token"))
                    else:
                        self._hello.set_exception(SupervisorGone("the connection ended before WELCOME"))
                self._gone.set()

    def _on_message(self, message: Message) -> None:
        op, header = message.op, message.header
        match op:
            case "1h" if self._hello is not None and not self._hello.done():
                self._hello.set_result(message)
            case "1j" if self._hello is not None and not self._hello.done():
                text = str(header.get("message") or header.get("code"))
                self._hello.set_exception(Rejected(text, code=str(header.get("code", "rejected"))))
            case "1k" | "1r" | "1e":
                self._on_answer(message)
            case "1d":
                self._on_deliver(message)
            case "1x":
                self._on_cancel(str(header.get("delivery", "")), str(header.get("reason", "cancelled")))
            case "1n":
                deadline = header.get("deadline")
                self._on_drain(deadline if isinstance(deadline, int) else None)
            case "1i" | "1I":
                if "about" not in header:
                    self.send("1I", {"about": header.get("id"), "answer": True})
            case _:
                # No answer: an older SDK meets a newer loomd, and loomd itself never waits for a unit without a limit.
                _log.warning("loomd sent the unknown op %r; ignored", op)

    def _on_answer(self, message: Message) -> None:
        pending = self._pending.get(str(message.header.get("about", "")))
        if pending is not None and not pending.answer.done():
            pending.answer.set_result(message)
        elif message.op == "1e":
            # To a realtime publish, or to what was cancelled meanwhile.
            _log.info("loomd: %s", message.header.get("message", message.header.get("code")))

    def _on_deliver(self, message: Message) -> None:
        header = message.header
        delivery = str(header.get("delivery") or f"progress-{new_id()}")
        self._holds[delivery] = len(message.data)
        topic = str(header.get("topic", ""))
        if topic.startswith("reply.") and topic.endswith(".progress"):
            pending = self._pending.get(str(header.get("correlationid", "")))
            if pending is not None and pending.on_progress is not None:
                pending.on_progress(message.data)
            self.done_with(delivery)
        else:
            header["delivery"] = delivery
            self._on_delivery(message)


_WORD = {"1P": "PUBLISH", "1S": "SUBSCRIBE", "1Q": "REQUEST", "1K": "STATE", "1L": "CALL"}


def check_topic(topic: str) -> None:
    """1 to 16 segments of `A-Z a-z 0-9 _ -`, each 1 to 64 long, 255 bytes in all."""
    segments = topic.split(".")
    good = len(topic) <= 255 and len(segments) <= 16
    for segment in segments:
        plain = segment.replace("_", "a").replace("-", "a")
        good = good and 1 <= len(segment) <= 64 and plain.isascii() and plain.isalnum()
    if not good:
        raise BusError(
            f"`{topic}` is no topic: 1 to 16 dotted segments of A-Z a-z 0-9 _ -, each 1 to 64 long", code="bad-topic"
        )
