"""bench: an agent in this process, talking to a `FakeSupervisor` over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

from .._environment import Config, Environment, Previous, Secret
from ..agent import Agent
from ..models.base import Model
from .supervisor import FakeSupervisor, Tool

STOP_LIMIT_S = 15.0


class Bench:
    """Made by `bench`; everything a test of an agent does."""

    def __init__(self, agent: Agent, supervisor: FakeSupervisor, config: Config, models: Mapping[str, Model]) -> None:
        self.agent, self.supervisor = agent, supervisor
        self._config, self._models = config, models
        self._life: asyncio.Task[None] | None = None

    async def start(self) -> None:
        environment = Environment(
            socket=self.supervisor.path,
            unit=self.supervisor.unit,
            run=self.supervisor.run,
            token=Secret(self.supervisor.token),
            config=self._config,
            previous=Previous(restarts=self.supervisor.run - 1),
        )
        self._life = asyncio.create_task(self.agent.run(environment, models=self._models), name="agent-under-test")
        ready = asyncio.create_task(self.supervisor.ready())
        await asyncio.wait({self._life, ready}, return_when=asyncio.FIRST_COMPLETED)
        if self._life.done():
            ready.cancel()
            await self._life  # raises why it did not start
        await ready

    async def stop(self) -> None:
        if self._life is not None:
            self.agent.stop()
            async with asyncio.timeout(STOP_LIMIT_S):
                await self._life
            self._life = None

    async def kill(self) -> None:
        """Ends the agent in the middle of what it does, as far as one process can do that to itself."""
        if self._life is not None:
            self._life.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._life
            self._life = None

    async def restart(self) -> None:
        """A new run: the state stays, everything in the agent's memory that is not state is the test's to reset."""
        await self.stop()
        self.supervisor.run += 1
        self.supervisor._credit = 0
        await self.start()

    async def deliver(self, topic: str, payload: Any) -> None:
        """Sends an event and waits until its handler has ended."""
        delivery = await self.supervisor.deliver(topic, payload)
        await self.supervisor.until(
            f"delivery {delivery} of `{topic}` is settled",
            lambda: any(
                message.op in ("1A", "1N") and str(message.header.get("delivery")) == delivery
                for message in self.supervisor.log
            ),
        )

    async def request(self, topic: str, payload: Any) -> Any:
        """The reply to a request."""
        return (await self.supervisor.request(topic, payload))[0]

    def emitted_on(self, topic: str) -> list[Any]:
        """What was published on a topic, in order."""
        return [payload for where, payload in self.supervisor.published if where == topic]


@contextlib.asynccontextmanager
async def bench(
    agent: Agent,
    *,
    unit: str | None = None,
    tools: Mapping[str, Tool] | None = None,
    refuse: Iterable[str] = (),
    model: Model | None = None,
    models: Mapping[str, Model] | None = None,
    config: Config | None = None,
) -> AsyncGenerator[Bench, None]:
    """Starts an agent on a bench and stops it at the end.

    Args:
        tools: By name, such as ``{"fs:read": lambda path: {"content": "…"}}``; raise `ToolError` to refuse.
        refuse: Topics and filters that the supervisor denies.
        model: What `Context.model()` gives, whatever name is asked for; or `models` by name.
    """
    with tempfile.TemporaryDirectory(prefix="loom-bench-") as directory:
        path = os.path.join(directory, "bus.sock")
        name = unit or f"{agent.name}.agent"
        async with FakeSupervisor(path, unit=name, tools=tools, refuse=refuse) as supervisor:
            given = dict(models or {})
            if model is not None:
                given[""] = model
            under_test = Bench(agent, supervisor, config or Config(), given)
            await under_test.start()
            try:
                yield under_test
            finally:
                await under_test.stop()
