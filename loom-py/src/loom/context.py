"""context: what a handler holds: the event, the bus, the unit's state, its tools, its models.

Job: turn method calls into wire requests and answers into values or errors.
May touch: `wire`, `errors`. Keeps: nothing here acts by itself; whatever leaves the process is asked of loomd, except
model calls.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from . import wire
from ._environment import Config, Previous, Profile
from .errors import BadEnvironment, BusError, Conflict

if TYPE_CHECKING:
    from .models import Model

T = TypeVar("T")
Json = Any

REQUEST_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 600.0
STATE_TIMEOUT_S = 60.0
EMIT_TIMEOUT_S = 60.0


class Event(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """What arrived. `source` is stamped by the broker and can be believed; everything else is the sender's word."""

    id: str
    topic: str
    type: str
    source: str
    data: T
    time: str = ""
    subject: str = ""
    delivery: str = ""
    attempt: int = 1
    #: Realtime events of this subscription that were dropped before this one.
    gap: int = 0
    #: ms since the epoch, if the sender waits.
    deadline: int | None = None
    replyto: str = ""
    header: Mapping[str, Any] = {}


class Versioned(msgspec.Struct, frozen=True):
    """A stored value and its version, for compare-and-set."""

    value: Json
    version: int


class Runtime:
    """What contexts of one run share; made by `Agent`."""

    def __init__(
        self,
        *,
        unit: str,
        run: int,
        session: wire.Session,
        config: Config,
        previous: Previous,
        default_model: str | None,
        make_model: Callable[[str, Profile], Model],
        made_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.unit, self.run, self.session = unit, run, session
        self.config, self.previous = config, previous
        self._default_model, self._make_model = default_model, make_model
        self.made_progress = made_progress
        self.models: dict[str, Model] = {}
        self.log = logging.getLogger(f"loom.agent.{unit}")

    def model(self, name: str | None) -> Model:
        if "" in self.models:  # a bench's, for every name
            return self.models[""]
        llm = self.config.llm
        wanted = name or self._default_model or (llm.default if llm else "")
        if wanted in self.models:
            return self.models[wanted]
        if llm is None or wanted not in llm.profiles:
            known = ", ".join(sorted(llm.profiles)) if llm and llm.profiles else "none"
            raise BadEnvironment(
                f"no model profile `{wanted}`; the unit's [llm] has: {known}. Add [llm.{wanted or 'local'}]"
            )
        self.models[wanted] = self._make_model(wanted, llm.profiles[wanted])
        return self.models[wanted]


class Context:
    """One handler's hold on the world; valid until the handler returns."""

    def __init__(self, runtime: Runtime, event: Event[Any] | None) -> None:
        self._runtime = runtime
        self._event = event
        self.state = State(runtime.session)
        self.log = runtime.log

    @property
    def unit(self) -> str:
        """This unit's id, such as ``"chat.agent"``."""
        return self._runtime.unit

    @property
    def run(self) -> int:
        """This run's number; it only grows."""
        return self._runtime.run

    @property
    def previous(self) -> Previous:
        """How the run before ended: `result` and `exit` as `loomctl status` has them, and the number of `restarts`.

        With it an agent can resume instead of beginning again; what it worked on is in its `state`.
        """
        return self._runtime.previous

    @property
    def workspace(self) -> str:
        """Where relative paths of tools start."""
        return self._runtime.config.tools.workspace

    def model(self, name: str | None = None) -> Model:
        """The model of a profile of the unit's ``[llm]``; without a name its default.

        Raises:
            BadEnvironment: There is no such profile.
        """
        return self._runtime.model(name)

    def made_progress(self) -> None:
        """Says that the work moves, where the unit's ``[watchdog] progress`` watches that; else does nothing.

        For long work that neither publishes nor calls a tool: both count by themselves, as does the end of a handler.
        May be called often and from any thread: the supervisor is told once a second at most.
        """
        self._runtime.made_progress()

    async def emit(
        self,
        topic: str,
        payload: Json,
        *,
        type: str = "",
        subject: str = "",
        key: str | None = None,
        realtime: bool = False,
    ) -> str:
        """Publishes an event; returns its id once the supervisor has taken it over.

        Args:
            topic: Dotted name such as ``"research.result"``; the unit's ``[bus] publish`` must grant it.
            payload: A JSON value, at most 1 MiB encoded.
            type: What the event is; by default the topic.
            subject: What it is about, such as ``"BTC-USDT"``.
            key: The event's id, so that emitting again with the same key is the same event.
            realtime: For ticks and tokens: returns at once, may be lost, the receiver learns of the gap.

        Raises:
            TopicRefused: The unit file does not grant the topic; the text names the line to add.
            Busy: A subscriber's queue is full; wait `retry_after` seconds.
            SupervisorGone: The connection ended first. Emit again with the same ``key``.
        """
        wire.check_topic(topic)
        header = self._header(topic, type or topic, id_=key)
        if subject:
            header["subject"] = subject
        data = wire.json_bytes(payload)
        session = self._runtime.session
        if realtime:
            session.publish_realtime({**header, "qos": "realtime"}, data)
        else:
            await session.request("1P", {**header, "qos": "batched"}, data, limit=EMIT_TIMEOUT_S)
        return str(header["id"])

    async def request(
        self,
        topic: str,
        payload: Json,
        *,
        type: str = "",
        timeout: float = REQUEST_TIMEOUT_S,
        key: str | None = None,
        on_progress: Callable[[Json], None] | None = None,
    ) -> Json:
        """Asks whoever listens on a topic and returns the answer; safe inside a handler, at any depth.

        Args:
            topic: Such as ``"unit.search.find"``; the unit's ``[bus] request`` must grant it.
            timeout: Seconds. Inside a request it is cut to what the own caller still waits.
            key: The event's id. Asking again with the same key is asking the same, so that a request which ends its
                receiver again and again is found out.
            on_progress: Gets each progress value that the receiver sends on the way. Some may be lost.

        Raises:
            NoReceiver: Nobody listens there.
            ReceiverFailed: The receiver refused, raised or died; the text has its reason.
            Poisoned: This event (by its ``key``) ended several runs of the receiver, which gets it no more.
            DeadlineExceeded: No answer in time. The receiver is told to stop.
            TopicRefused: The unit file does not grant it.
        """
        wire.check_topic(topic)
        now = wire.now_ms()
        deadline = now + int(timeout * 1000)
        if self._event is not None and self._event.deadline is not None:
            deadline = min(deadline, self._event.deadline)
        header = {**self._header(topic, type or topic, id_=key), "deadline": deadline}

        def progress(data: bytes) -> None:
            if on_progress is not None:
                on_progress(wire.json_value(data))

        limit = max(deadline - now, 0) / 1000 + wire.ANSWER_SLACK_S
        answer = await self._runtime.session.request(
            "1Q", header, wire.json_bytes(payload), limit=limit, on_progress=progress
        )
        return wire.json_value(answer.data)

    async def progress(self, value: Json) -> bool:
        """Sends a step of the answer to whoever asked: lossy, never stored. False if nobody waits or it had no room."""
        event = self._event
        if event is None or not event.replyto:
            return False
        topic = f"{event.replyto}.progress"
        header = {**self._header(topic, "progress"), "qos": "realtime", "correlationid": event.id}
        return self._runtime.session.publish_realtime(header, wire.json_bytes(value))

    async def call(self, tool: str, /, *, timeout: float = CALL_TIMEOUT_S, **arguments: Json) -> Json:
        """Has a tool run by the supervisor, under the unit's ``[tools]``.

        Args:
            tool: ``"area:verb"``, such as ``"fs:read"``.
            timeout: Seconds; the broker ends the call then.
            arguments: The tool's own.

        Raises:
            Denied: A rule, or the tool itself, refuses; the text is what the model should be told.
            Invalid: Wrong arguments; the text names the one.
            TimedOut, Ambiguous: It may have run.
            ToolError: It ran and failed; `code` says how.
        """
        now = wire.now_ms()
        deadline = now + int(timeout * 1000)
        if self._event is not None and self._event.deadline is not None:
            deadline = min(deadline, self._event.deadline)
        answer = await self._runtime.session.request(
            "1L",
            {"tool": tool, "deadline": deadline, "key": wire.new_id()},
            wire.json_bytes(arguments),
            limit=max(deadline - now, 0) / 1000 + wire.ANSWER_SLACK_S,
        )
        return wire.json_value(answer.data)

    def _header(self, topic: str, type_: str, *, id_: str | None = None) -> dict[str, Any]:
        header: dict[str, Any] = {
            "id": id_ or wire.new_id(),
            "specversion": "1.0",
            "time": _rfc3339(),
            "type": type_,
            "topic": topic,
            "datacontenttype": "application/json",
        }
        if self._event is not None:
            header["causationid"] = self._event.id
            header["correlationid"] = self._event.header.get("correlationid") or self._event.id
        return header


class State:
    """The unit's state: JSON values by key, kept by the supervisor over restarts of both.

    A key is 1 to 256 printable ASCII characters without space; a value at most 1 MiB encoded. A write returns once it
    is on disk.
    """

    def __init__(self, session: wire.Session) -> None:
        self._session = session

    async def get(self, key: str, default: Json = None) -> Json:
        """The value, or `default`."""
        found = await self.get_versioned(key)
        return default if found is None else found.value

    async def get_versioned(self, key: str) -> Versioned | None:
        """The value with its version, or None."""
        answer = await self._ask("get", key)
        if not answer.header.get("found", False):
            return None
        return Versioned(wire.json_value(answer.data), int(answer.header.get("version", 0)))

    async def put(self, key: str, value: Json, *, if_version: int | None = None) -> int:
        """Stores a value; returns its version.

        Args:
            if_version: Store only over this version; 0 means that there must be none.

        Raises:
            Conflict: Another version is stored; read again, then decide again.
            Fenced: A newer run of this unit writes now; this one should end.
            TooLarge: Key or value over the limit.
        """
        data = wire.json_bytes(value)
        try:
            answer = await self._ask("put", key, data, if_version)
        except Conflict as conflict:
            # Asked twice over a lost connection, the first may have been stored: then what is there is ours.
            if not getattr(conflict, "resent", False):
                raise
            there = await self.get_versioned(key)
            if there is None or wire.json_bytes(there.value) != data:
                raise
            return there.version
        return int(answer.header.get("version", 0))

    async def delete(self, key: str, *, if_version: int | None = None) -> None:
        """Removes a value; none being there is fine.

        Raises:
            Conflict: Another version than `if_version` is stored.
        """
        await self._ask("delete", key, b"", if_version)

    async def scan(self, prefix: str = "") -> list[str]:
        """The keys that begin with `prefix`, in byte order."""
        answer = await self._session.request("1K", {"verb": "scan", "prefix": prefix}, limit=STATE_TIMEOUT_S)
        body = wire.json_value(answer.data) or {}
        return [str(key) for key in body.get("keys", [])]

    async def _ask(self, verb: str, key: str, data: bytes = b"", if_version: int | None = None) -> wire.Message:
        header: dict[str, Any] = {"verb": verb, "key": key}
        if if_version is not None:
            header["if_version"] = if_version
        return await self._session.request("1K", header, data, limit=STATE_TIMEOUT_S)


def event_of(message: wire.Message, payload: type[Any]) -> Event[Any]:
    """The event of a DELIVER.

    Raises:
        BusError: The data is not JSON or not a `payload`; the text names the field.
    """
    header = message.header
    try:
        data = msgspec.json.decode(message.data, type=payload) if message.data else None
    except msgspec.MsgspecError as error:
        raise BusError(f"the data of `{header.get('topic')}` does not fit: {error}", code="schema") from error
    deadline = header.get("deadline")
    return Event(
        id=str(header.get("id", "")),
        topic=str(header.get("topic", "")),
        type=str(header.get("type", "")),
        source=str(header.get("source", "")),
        data=data,
        time=str(header.get("time", "")),
        subject=str(header.get("subject", "")),
        delivery=str(header.get("delivery", "")),
        attempt=int(header.get("attempt", 1)),
        gap=int(header.get("gap", 0)),
        deadline=deadline if isinstance(deadline, int) else None,
        replyto=str(header.get("replyto", "")),
        header=header,
    )


def _rfc3339() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
