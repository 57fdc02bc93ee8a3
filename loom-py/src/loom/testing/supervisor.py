"""supervisor: the other end of the wire, for tests.

Job: one unit's listener with the messages of loomd: PLAIN and HELLO, subscriptions, credit, deliveries, requests in
both directions, progress, cancel, state with versions, tools that are Python functions.
May touch: one ipc socket. Keeps: nothing is delivered beyond credit; state outlives the agent; what was refused or
ignored is in `log`. It is not confined, not durable, and grants whatever it is not told to refuse.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import zmq
import zmq.asyncio

from .. import wire
from ..errors import LoomError, ToolError, of_wire
from ..wire import Message

Tool = Callable[..., Any]
ANSWER_LIMIT_S = 30.0


@dataclass
class _Open:
    """A request that the agent works on."""

    token: str
    answer: asyncio.Future[Any]
    progress: list[Any] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    #: Set where the agent itself is the caller.
    caller_id: str = ""


class FakeSupervisor:
    """Listens at `path` for one unit.

    Args:
        refuse: Topics and filters that are answered with `denied`.
        tools: By name; called with the arguments, may raise `ToolError`.
    """

    def __init__(
        self,
        path: str,
        *,
        unit: str = "test.agent",
        run: int = 1,
        token: str = "0" * 64,
        tools: Mapping[str, Tool] | None = None,
        refuse: Iterable[str] = (),
    ) -> None:
        self.path, self.unit, self.run, self.token = path, unit, run, token
        self.tools: dict[str, Tool] = dict(tools or {})
        self.refuse = set(refuse)
        #: Key → (encoded JSON, version); survives agents and `drop_connection`.
        self.state: dict[str, tuple[bytes, int]] = {}
        self._version = 0
        #: Every message of the agent, in order.
        self.log: list[Message] = []
        self.published: list[tuple[str, Any]] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.hellos = 0
        #: Leave these ops without an answer.
        self.mute: set[str] = set()
        self._context: zmq.asyncio.Context | None = None
        self._router: zmq.asyncio.Socket | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._peer: bytes | None = None
        self._filters: dict[str, str] = {}
        self._credit = self._credit_bytes = 0
        self._queue: list[tuple[dict[str, Any], bytes]] = []
        self._open: dict[str, _Open] = {}
        self._deliveries = 0
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> FakeSupervisor:
        self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def listen(self) -> None:
        context = zmq.asyncio.Context()
        zap = context.socket(zmq.REP)
        zap.bind("inproc://zeromq.zap.01")
        router = context.socket(zmq.ROUTER)
        router.plain_server = True
        router.zap_domain = b"loom"
        router.bind(f"ipc://{self.path}")
        self._context, self._router = context, router
        self._tasks = [
            asyncio.create_task(self._authenticate(zap), name="fake-zap"),
            asyncio.create_task(self._serve(router), name="fake-loomd"),
        ]

    async def close(self) -> None:
        """As `kill -9` of loomd: the connection ends, nothing is said; state stays. `listen` brings it back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._context is not None:
            self._context.destroy(linger=0)
        self._context = self._router = None
        self._peer = None
        self._filters.clear()
        self._credit = self._credit_bytes = 0
        for request in self._open.values():
            if not request.answer.done():
                request.answer.set_exception(of_wire("1Q", {"code": "unit-failed", "message": "the connection ended"}))
                with contextlib.suppress(LoomError):
                    request.answer.exception()
        self._open.clear()

    # ---- what a test asks

    async def until(self, what: str, condition: Callable[[], bool], limit: float = 10.0) -> None:
        """Waits for a condition on what arrived; fails with everything that did."""
        async with self._changed:
            try:
                async with asyncio.timeout(limit):
                    await self._changed.wait_for(condition)
            except TimeoutError:
                seen = "\n".join(
                    f"  {message.op} {message.header} {message.data[:100]!r}" for message in self.log[-30:]
                )
                raise AssertionError(f"not within {limit:g} s: {what}\narrived:\n{seen}") from None

    async def ready(self) -> None:
        """Until the agent has given credit."""
        await self.until("the agent gives credit", lambda: self._credit > 0)

    async def deliver(self, topic: str, payload: Any, **header: Any) -> str:
        """Sends an event, when credit allows; returns its delivery number."""
        self._deliveries += 1
        delivery = str(self._deliveries)
        whole = {**self._event(topic), "delivery": delivery, "subs": [], "attempt": 1, **header}
        self._queue.append((whole, wire.json_bytes(payload)))
        await self._pump()
        return delivery

    async def begin(self, topic: str, payload: Any, *, timeout: float = ANSWER_LIMIT_S) -> str:
        """Sends a request as a person would; `answer` awaits its end, `cancel` cancels it. Returns its delivery."""
        return await self._begin(topic, payload, deadline=wire.now_ms() + int(timeout * 1000), header={})

    async def answer(self, delivery: str) -> Any:
        request = self._open[delivery]
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                return await request.answer
        finally:
            self._open.pop(delivery, None)

    def progress_of(self, delivery: str) -> list[Any]:
        return self._open[delivery].progress

    async def request(self, topic: str, payload: Any) -> tuple[Any, list[Any]]:
        """A request, its answer and its progress."""
        delivery = await self.begin(topic, payload)
        progress = self.progress_of(delivery)
        return await self.answer(delivery), progress

    async def cancel(self, delivery: str, reason: str = "cancelled") -> None:
        await self.send("1x", {"delivery": delivery, "reason": reason, "grace_ms": 2000})

    async def drain(self, grace: float = 5.0) -> None:
        await self.send("1n", {"deadline": wire.now_ms() + int(grace * 1000)})

    async def send(self, op: str, header: Mapping[str, Any], data: bytes = b"") -> None:
        assert self._router is not None and self._peer is not None, "an agent is connected"
        await self._router.send_multipart([self._peer, *wire.encode(Message(op, dict(header), data))])

    def said(self, op: str) -> list[Message]:
        return [message for message in self.log if message.op == op]

    # ---- the broker's part

    def _event(self, topic: str) -> dict[str, Any]:
        return {
            "id": wire.new_id(),
            "specversion": "1.0",
            "type": topic,
            "topic": topic,
            "source": "/control",
            "time": "2026-01-01T00:00:00Z",
            "qos": "batched",
        }

    async def _begin(self, topic: str, payload: Any, *, deadline: int, header: dict[str, Any]) -> str:
        self._deliveries += 1
        delivery = str(self._deliveries)
        token = f"reply.ctl.{delivery}"
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._open[delivery] = _Open(token, answer)
        whole = {
            **self._event(topic),
            **header,
            "delivery": delivery,
            "subs": [],
            "attempt": 1,
            "replyto": token,
            "deadline": deadline,
        }
        self._queue.append((whole, wire.json_bytes(payload)))
        await self._pump()
        return delivery

    async def _pump(self) -> None:
        while self._queue and self._credit > 0 and self._credit_bytes > 0:
            header, data = self._queue.pop(0)
            self._credit -= 1
            self._credit_bytes -= len(data)
            await self.send("1d", header, data)

    async def _authenticate(self, zap: zmq.asyncio.Socket) -> None:
        while True:
            version, request, _domain, _address, _identity, _mechanism, *credentials = await zap.recv_multipart()
            good = credentials == [self.unit.encode(), self.token.encode()]
            verdict = (b"200", b"OK") if good else (b"400", b"bad token")
            await zap.send_multipart([version, request, *verdict, b"", b""])

    async def _serve(self, router: zmq.asyncio.Socket) -> None:
        while True:
            peer, *frames = await router.recv_multipart()
            message = wire.decode(frames)
            if message.op == "1H":
                self._peer = peer
                self._filters.clear()
                self._credit = self._credit_bytes = 0
            elif peer != self._peer:
                continue
            self.log.append(message)
            if message.op not in self.mute:
                await self._on(message)
            async with self._changed:
                self._changed.notify_all()

    async def _on(self, message: Message) -> None:
        header = message.header
        id_ = header.get("id")
        match message.op:
            case "1H":
                await self._hello(header, wire.json_value(message.data) or {})
            case "1S":
                if await self._granted(id_, header["filter"], "subscribe"):
                    sub = str(len(self._filters) + 1)
                    self._filters[sub] = header["filter"]
                    await self.send("1k", {"about": id_, "sub": sub})
            case "1U":
                self._filters.pop(str(header.get("sub")), None)
                await self.send("1k", {"about": id_})
            case "1C":
                self._credit += header["messages"]
                self._credit_bytes += header["bytes"]
                await self._pump()
            case "1P":
                await self._publish(header, message.data)
            case "1Q":
                await self._request(header, message.data)
            case "1R":
                self._settle(str(header["about"]), wire.json_value(message.data), None)
            case "1N":
                reason = str(header.get("reason", ""))
                self._settle(str(header["delivery"]), None, {"code": "unit-failed", "message": reason})
            case "1K":
                await self._state(header, message.data)
            case "1L":
                await self._call(header, message.data)
            case "1I" if "about" not in header:
                await self.send("1i", {"about": id_, "answer": True})
            case _:
                pass

    async def _hello(self, header: dict[str, Any], body: dict[str, Any]) -> None:
        self.hellos += 1
        id_ = header.get("id")
        code = ""
        if header.get("run") != self.run:
            code, text = "stale-run", f"run {header.get('run')} is over; run {self.run} is the unit's current one"
        elif wire.VERSION not in header.get("versions", []):
            code, text = "no-common-version", "this loomd speaks version 1"
        elif refused := self.refuse & set(body.get("handlers", [])):
            line = refused.pop()
            code, text = "denied", f"`{self.unit}` may not subscribe to `{line}`: add it to [bus] subscribe"
        if code:
            await self.send("1j", {"about": id_, "code": code, "message": text})
            return
        limits = {"max_message": wire.MAX_DATA_BYTES, "header": wire.MAX_HEADER_BYTES, "subscriptions": 1000}
        grants: dict[str, list[str]] = {"publish": [">"], "subscribe": [">"], "request": [">"]}
        welcome: dict[str, Any] = {
            "about": id_,
            "version": wire.VERSION,
            "limits": {**limits, "deliveries": 64},
            "grants": grants,
            "resume": [],
            "clock": wire.now_ms(),
            "previous": {},
        }
        await self.send("1h", welcome)

    async def _granted(self, id_: Any, topic: str, key: str) -> bool:
        if topic not in self.refuse:
            return True
        text = f"`{self.unit}` may not {key} `{topic}`: add it to [bus] {key}"
        await self._error(id_, "denied", text, outcome="not-run")
        return False

    async def _error(self, id_: Any, code: str, message: str, **more: Any) -> None:
        await self.send("1e", {"about": id_, "code": code, "message": message, "retry": "never", **more})

    async def _publish(self, header: dict[str, Any], data: bytes) -> None:
        topic = header["topic"]
        if topic.startswith("reply."):
            for request in self._open.values():
                if topic == f"{request.token}.progress":
                    request.progress.append(wire.json_value(data))
                    request.arrived.set()
                    if request.caller_id:
                        self._deliveries += 1
                        await self.send("1d", {**header, "delivery": str(self._deliveries), "subs": []}, data)
            return
        if not await self._granted(header["id"], topic, "publish"):
            return
        self.published.append((topic, wire.json_value(data)))
        if header.get("qos") != "realtime":
            ok = {"about": header["id"], "stream": "", "seq": 0, "dup": False, "durability": "memory"}
            await self.send("1k", ok)
        if any(wire.matches(each, topic) for each in self._filters.values()):
            self._deliveries += 1
            source = f"/units/{self.unit}"
            whole = {**header, "source": source, "delivery": str(self._deliveries), "subs": [], "attempt": 1}
            self._queue.append((whole, data))
            await self._pump()

    async def _request(self, header: dict[str, Any], data: bytes) -> None:
        """From the agent: to itself if it listens there, else nobody is there."""
        id_, topic = header["id"], header["topic"]
        if not await self._granted(id_, topic, "request"):
            return
        if not any(wire.matches(each, topic) for each in self._filters.values()):
            await self._error(id_, "no-receiver", f"nobody listens on `{topic}`", outcome="not-run", retry="later")
            return
        source = {**header, "source": f"/units/{self.unit}"}
        delivery = await self._begin(topic, wire.json_value(data), deadline=header["deadline"], header=source)
        self._open[delivery].caller_id = id_
        self._tasks.append(asyncio.create_task(self._relay(delivery, id_)))

    async def _relay(self, delivery: str, id_: str) -> None:
        try:
            answer = await self.answer(delivery)
        except LoomError as error:
            await self._error(id_, error.code, str(error))
        else:
            await self.send("1r", {"about": id_, "source": f"/units/{self.unit}"}, wire.json_bytes(answer))

    def _settle(self, delivery: str, value: Any, error: dict[str, Any] | None) -> None:
        request = self._open.get(delivery)
        if request is None or request.answer.done():
            return
        if error is None:
            request.answer.set_result(value)
        else:
            request.answer.set_exception(of_wire("1Q", dict(error)))

    async def _state(self, header: dict[str, Any], data: bytes) -> None:
        id_, verb = header["id"], header["verb"]
        if verb == "scan":
            keys = sorted(key for key in self.state if key.startswith(header.get("prefix", "")))
            await self.send("1r", {"about": id_}, wire.json_bytes({"keys": keys}))
            return
        key = header["key"]
        if not 1 <= len(key) <= 256 or not all("!" <= letter <= "~" for letter in key):
            await self._error(id_, "bad-header", f"`{key}` is no key: 1 to 256 printable ASCII characters, no space")
            return
        value, version = self.state.get(key, (b"", 0))
        if verb == "get":
            await self.send("1r", {"about": id_, "found": version > 0, "version": version}, value)
            return
        if header.get("if_version", version) != version:
            text = f"`{key}` is at version {version}, not {header['if_version']}"
            await self._error(id_, "conflict", text, version=version)
            return
        self._version += 1
        if verb == "put":
            self.state[key] = (data, self._version)
        else:
            self.state.pop(key, None)
        await self.send("1r", {"about": id_, "found": True, "version": self._version})

    async def _call(self, header: dict[str, Any], data: bytes) -> None:
        id_, name = header["id"], header["tool"]
        arguments = wire.json_value(data) or {}
        self.calls.append((name, arguments))
        if name not in self.tools:
            await self._error(
                id_, "tool-not-found", f"there is no tool `{name}` in this agent's list", outcome="not-run"
            )
            return
        try:
            result = self.tools[name](**arguments)
            if asyncio.iscoroutine(result):
                result = await result
        except ToolError as error:
            await self._error(id_, error.code or "tool-error", str(error), outcome=error.outcome or "not-run")
        else:
            await self.send("1r", {"about": id_}, wire.json_bytes(result))
