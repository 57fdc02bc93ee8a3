"""agent: a unit written in Python.

Job: handlers by topic, and the life of the process: hello, on_start, ready, deliveries, drain, on_stop, goodbye.
May touch: `wire`, the notify socket, this process's signals. Keeps: a handler's exception is the end of its delivery
and of nothing else; no delivery comes before on_start has ended; CancelledError is never swallowed.

Exit status: 0 stopped when asked, 1 on_start failed, 75 no supervisor within the limit, or `RetryLater` (a later start
may help), 78 wrong token, stale run, topic not granted, not started by loomd (a restart cannot help).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
import os
import signal
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from . import __version__, _environment, _notify, wire
from ._environment import Environment, Profile
from .context import Context, Event, Runtime, event_of
from .errors import BusError, LoomError, RateLimited, RetryLater, StartError, SupervisorGone

if typing.TYPE_CHECKING:
    from .models import Model

#: What running handlers get after SIGTERM or DRAIN, and what they get again once cancelled.
DRAIN_GRACE_S = 10.0
CANCEL_GRACE_S = 2.0
EX_TEMPFAIL = 75
EX_CONFIG = 78

Handler = Callable[[Context, Event[Any]], Any]
Hook = Callable[[Context], Any]
H = TypeVar("H", bound=Callable[..., Any])

_log = logging.getLogger("loom.agent")


class _Registered:
    """A handler and its turns."""

    def __init__(
        self, topic: str, run: Handler, key: Callable[[Event[Any]], str] | None, concurrency: int | None
    ) -> None:
        self.topic, self.run, self.key, self.concurrency = topic, run, key, concurrency
        self.payload = _payload_type(run)
        self.limit: asyncio.Semaphore | None = None
        self.lanes: dict[str, _Lane] = {}


class _Lane:
    """Those with one key, one after the other."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class Agent:
    """An agent and its handlers.

    Args:
        name: For people and logs; the unit file's name is what counts.
        model: Profile of the unit's ``[llm]`` that `Context.model()` gives without a name; by default `llm.default`.
        drain_grace: Seconds that running handlers get to end by themselves when the unit stops. Keep it below the
            unit's ``stop.timeout``.
    """

    def __init__(self, name: str, *, model: str | None = None, drain_grace: float = DRAIN_GRACE_S) -> None:
        self.name = name
        self._model = model
        self._drain_grace = drain_grace
        self._handlers: list[_Registered] = []
        self._start: list[Hook] = []
        self._stop: list[Hook] = []
        self._running: _Running | None = None

    def on(
        self, topic: str, *, key: Callable[[Event[Any]], str] | None = None, concurrency: int | None = None
    ) -> Callable[[H], H]:
        """Registers a handler ``async def handler(ctx, event)`` for a topic or filter (`*` one segment, `>` the rest).

        What it returns is the reply where the event asks for one. An ``Event[SomeType]`` annotation has the data
        converted, and refused where it does not fit. A plain function runs in a thread. Of several matching handlers
        the first registered runs.

        Args:
            key: Events with the same key run one after the other, in order.
            concurrency: How many may run at once.
        """

        def register(handler: H) -> H:
            self._handlers.append(_Registered(topic, handler, key, concurrency))
            return handler

        return register

    def on_start(self, hook: H) -> H:
        """Runs after the connection stands and before anything is delivered; raising ends the process with 1.

        `RetryLater` ends it with 75, as does `RateLimited` of a model that says when to ask again.
        """
        self._start.append(hook)
        return hook

    def on_stop(self, hook: H) -> H:
        """Runs when the last handler has ended, before the connection closes."""
        self._stop.append(hook)
        return hook

    def main(self) -> typing.NoReturn:
        """Runs until the supervisor says stop, and exits the process."""
        sys.exit(self._main())

    def _main(self) -> int:
        try:
            environment = _environment.read_environment(os.environ)
        except StartError as error:
            return _fatal(error, EX_CONFIG)
        from . import _stacks, logs

        logs.install(unit=environment.unit, run=environment.run, destination=environment.log)
        _stacks.keep(os.environ)
        try:
            asyncio.run(self.run(environment, signals=True))
        except (SupervisorGone, RetryLater) as error:
            return _fatal(error, EX_TEMPFAIL)
        except StartError as error:
            return _fatal(error, EX_CONFIG)
        except Exception as error:
            return _fatal(error, 1)
        return 0

    async def run(
        self, environment: Environment, *, signals: bool = False, models: Mapping[str, Model] | None = None
    ) -> None:
        """One life of the agent, until `stop` or a signal.

        Args:
            models: Given instead of those of the configuration, by profile; `""` stands for every name.

        Raises:
            SupervisorGone: The connection ended and did not come back within the limit.
            StartError: The supervisor refused this process.
            RetryLater: A hook or handler raised it; everything else has ended in order.
        """
        running = _Running(self, environment, models or {})
        self._running = running
        try:
            await running.live(signals=signals)
        finally:
            self._running = None

    def stop(self) -> None:
        """As SIGTERM: no new deliveries, running ones get the grace time."""
        if self._running is not None:
            self._running.drain(None)


class _Running:
    """One life."""

    def __init__(self, agent: Agent, environment: Environment, models: Mapping[str, Model]) -> None:
        self._agent = agent
        self._environment = environment
        self._notifier = _notify.Notifier(environment.notify_socket)
        from ._progress import Progress  # comes with a life, not with `import loom`

        self._progress = Progress(self._notifier, environment.progress_us)
        self._later: RetryLater | None = None
        self._interrupted: set[str] = set()  # deliveries whose handlers were cancelled for standing still
        self._credentials = _environment.Credentials(environment.config.credentials)
        self._draining = asyncio.Event()
        self._drain_until: float | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._asked: set[str] = set()  # deliveries that somebody waits for
        for handler in agent._handlers:
            handler.limit = asyncio.Semaphore(handler.concurrency) if handler.concurrency else None
            handler.lanes.clear()
        self._session = wire.Session(
            path=environment.socket,
            unit=environment.unit,
            run=environment.run,
            token=environment.token.reveal(),
            sdk=f"loom-py/{__version__}",
            handlers=[handler.topic for handler in agent._handlers],
            on_delivery=self._on_delivery,
            on_cancel=self._on_cancel,
            on_drain=self.drain,
        )
        self._runtime = Runtime(
            unit=environment.unit,
            run=environment.run,
            session=self._session,
            config=environment.config,
            previous=environment.previous,
            default_model=agent._model,
            make_model=self._model,
            made_progress=self._progress.made,
        )
        self._runtime.models.update(models)

    async def live(self, *, signals: bool) -> None:
        loop = asyncio.get_running_loop()
        if signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self.drain, None)
            loop.add_signal_handler(signal.SIGUSR1, self._interrupt)
        lost: asyncio.Task[None] | None = None
        heart: asyncio.Task[None] | None = None
        try:
            self._notifier.say("STATUS=connecting")
            await self._session.open()
            lost = asyncio.create_task(self._session.lost(), name="loom-lost")
            self._notifier.say("STATUS=starting")
            try:
                await self._hooks(self._agent._start)
            except RateLimited as limited:
                if limited.retry_after is None:
                    raise
                raise RetryLater(limited.retry_after, str(limited)) from limited
            await self._session.receive([handler.topic for handler in self._agent._handlers])
            self._notifier.say("READY=1", "STATUS=waiting for events")
            if not self._tasks:
                self._progress.rests()
            heart = asyncio.create_task(self._beat(), name="loom-heartbeat")
            drained = asyncio.create_task(self._draining.wait())
            await asyncio.wait({lost, drained}, return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
            if lost.done():
                lost.result()  # raises
            self._notifier.say("STOPPING=1", *(_later_lines(self._later) if self._later else ["STATUS=stopping"]))
            self._session.stop_receiving()
            await self._finish(self._grace())
            await self._hooks(self._agent._stop)
            if self._later is not None:
                raise self._later
        except RetryLater as later:
            if later is not self._later:
                self._notifier.say(*_later_lines(later))
            raise
        finally:
            await self._finish(0)
            self._progress.close()
            for task in (lost, heart):
                if task is not None:
                    task.cancel()
            for model in self._runtime.models.values():
                await model.aclose()
            await self._session.close()
            if lost is not None:
                with contextlib.suppress(asyncio.CancelledError, LoomError):
                    await lost
            self._notifier.close()

    def drain(self, deadline: int | None) -> None:
        """No new work; a second call cancels what still runs."""
        if self._draining.is_set():
            for task in self._tasks.values():
                task.cancel()
            return
        if deadline is not None:
            self._drain_until = max(deadline - wire.now_ms(), 0) / 1000
        self._draining.set()

    def _interrupt(self) -> None:
        """The supervisor saw no progress for too long. Whoever still answers the event loop hears it here."""
        _log.warning("no progress for too long: cancelling %d handlers", len(self._tasks))
        self._interrupted.update(self._tasks)
        for task in self._tasks.values():
            task.cancel("no progress")

    def _grace(self) -> float:
        return self._agent._drain_grace if self._drain_until is None else self._drain_until

    async def _finish(self, grace: float) -> None:
        """Waits for handlers, then cancels them, then leaves them: a join without a limit never ends some day."""
        if self._tasks and grace > 0:
            await asyncio.wait(set(self._tasks.values()), timeout=grace)
        if self._tasks:
            for task in self._tasks.values():
                task.cancel("the unit stops")
            _, left = await asyncio.wait(set(self._tasks.values()), timeout=CANCEL_GRACE_S)
            if left:
                _log.error("%d handlers did not end within %g s of being cancelled", len(left), CANCEL_GRACE_S)

    async def _beat(self) -> None:
        """From the event loop on purpose: a handler that blocks it is what the watchdog is for."""
        if self._environment.watchdog_us <= 0:
            return
        while True:
            self._notifier.say("WATCHDOG=1")
            await asyncio.sleep(self._environment.watchdog_us / 3e6)

    async def _hooks(self, hooks: list[Hook]) -> None:
        context = Context(self._runtime, None)
        for hook in hooks:
            result = hook(context)
            if inspect.isawaitable(result):
                await result

    def _model(self, name: str, profile: Profile) -> Model:
        from .models import open_model  # HTTP comes with the first model, not with `import loom`

        model = open_model(name, profile, self._credentials)
        if not self._environment.budget:
            return model
        from .models.counted import Counted

        return Counted(model, lambda tokens: self._notifier.say(f"X_LOOM_TOKENS={tokens}"))

    # ---- deliveries

    def _on_delivery(self, message: wire.Message) -> None:
        delivery = str(message.header["delivery"])
        topic = str(message.header.get("topic", ""))
        handler = next((each for each in self._agent._handlers if wire.matches(each.topic, topic)), None)
        if handler is None:
            self._nack(delivery, f"{self._environment.unit} has no handler for `{topic}`")
            return
        self._progress.begins()
        task = asyncio.get_running_loop().create_task(self._handle(handler, message, delivery), name=f"loom-{topic}")
        self._tasks[delivery] = task
        if message.header.get("replyto"):
            self._asked.add(delivery)
        task.add_done_callback(lambda _: self._forget(delivery))

    def _forget(self, delivery: str) -> None:
        self._tasks.pop(delivery, None)
        self._asked.discard(delivery)
        self._interrupted.discard(delivery)
        if not self._tasks:
            self._progress.rests()

    def _on_cancel(self, delivery: str, reason: str) -> None:
        # A new loomd says it of everything that it does not know; what was only told is worked off all the same.
        if delivery in self._asked:
            # Not before its first step, which settles what is cancelled.
            asyncio.get_running_loop().call_soon(self._tasks[delivery].cancel, reason)

    async def _handle(self, handler: _Registered, message: wire.Message, delivery: str) -> None:
        try:
            event = event_of(message, handler.payload)
            if event.deadline is not None and event.deadline <= wire.now_ms():
                self._nack(delivery, "its deadline had passed before it could begin")
                return
            async with _in_turn(handler, event):
                result = await self._call(handler, event)
            if event.replyto:
                self._session.settle("1R", delivery, {"about": delivery}, wire.json_bytes(result))
            else:
                self._ack(message, delivery)
            self._progress.made()
        except asyncio.CancelledError:
            stood_still = delivery in self._interrupted
            self._nack(delivery, "cancelled: it made no progress for too long" if stood_still else "cancelled")
            raise
        except RetryLater as later:
            _log.warning("`%s` asks to be started again in %g s: %s", handler.topic, later.after_s, later)
            self._nack(delivery, str(later))
            if self._later is None or later.after_s > self._later.after_s:
                self._later = later
            if not self._draining.is_set():
                self.drain(None)
        except BusError as error:
            _log.error("`%s` from %s: %s", handler.topic, message.header.get("source"), error)
            self._nack(delivery, str(error))
        except Exception as error:
            _log.exception("the handler of `%s` failed", handler.topic)
            self._nack(delivery, f"{type(error).__name__}: {error}")

    async def _call(self, handler: _Registered, event: Event[Any]) -> Any:
        context = Context(self._runtime, event)
        if inspect.iscoroutinefunction(handler.run):
            return await handler.run(context, event)
        result = await asyncio.to_thread(handler.run, context, event)
        return await result if inspect.isawaitable(result) else result

    def _ack(self, message: wire.Message, delivery: str) -> None:
        if message.header.get("qos") == "realtime":  # delivered at most once, nothing waits for an answer
            self._session.done_with(delivery)
        else:
            self._session.settle("1A", delivery, {"delivery": delivery})

    def _nack(self, delivery: str, reason: str) -> None:
        self._session.settle("1N", delivery, {"delivery": delivery, "final": True, "reason": reason[:1000]})


@contextlib.asynccontextmanager
async def _in_turn(handler: _Registered, event: Event[Any]) -> typing.AsyncIterator[None]:
    """Holds this event's place: after those of the same key, within the handler's concurrency."""
    async with contextlib.AsyncExitStack() as stack:
        if handler.key is not None:
            name = handler.key(event)
            lane = handler.lanes.setdefault(name, _Lane())
            lane.users += 1

            def leave() -> None:
                lane.users -= 1
                if lane.users == 0:
                    handler.lanes.pop(name, None)

            stack.callback(leave)
            await stack.enter_async_context(lane.lock)
        if handler.limit is not None:
            await stack.enter_async_context(handler.limit)
        yield


def _later_lines(later: RetryLater) -> list[str]:
    """What the supervisor is to know of it; a status is one line."""
    return [f"X_LOOM_RETRY_AFTER={math.ceil(later.after_s)}", f"STATUS={' '.join(str(later).split())[:200]}"]


def _payload_type(handler: Callable[..., Any]) -> type[Any]:
    """`T` of the handler's `Event[T]`; anything else is taken as any JSON value."""
    try:
        hints = typing.get_type_hints(handler)
    except NameError:
        return typing.cast("type[Any]", Any)
    for hint in hints.values():
        if typing.get_origin(hint) is Event:
            return typing.cast("type[Any]", typing.get_args(hint)[0])
    return typing.cast("type[Any]", Any)


def _fatal(error: BaseException, status: int) -> int:
    """One line for the log; the traceback only where someone asked for it."""
    text = str(error) or type(error).__name__
    if status == 1:
        text = f"{type(error).__name__}: {text}"
    print(f"<3>{text}", file=sys.stderr, flush=True)
    if os.environ.get("LOOM_DEBUG") == "1" or status == 1:
        import traceback

        traceback.print_exception(error)
    return status
