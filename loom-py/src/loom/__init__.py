"""loom: write agents that Loom supervises.

    from loom import Agent, Context, Event

    agent = Agent("echo")

    @agent.on("unit.echo.say")
    async def say(ctx: Context, event: Event[str]) -> str:
        count = await ctx.state.get("count", 0) + 1
        await ctx.state.put("count", count)
        return f"{event.data} ({count})"

    if __name__ == "__main__":
        agent.main()

Names are loaded when first used (PEP 562): importing `loom` loads no HTTP, and a test holds what it costs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import errors, logs, testing
    from .agent import Agent
    from .context import Context, Event, State, Versioned
    from .errors import LoomError, RetryLater
    from .memory import Conversation, Turn
    from .models import Done, Message, Model, Retrying, StreamEvent, Text, Usage

__version__ = "0.1.0"

_HOMES = {
    "Agent": "agent",
    "Context": "context",
    "Event": "context",
    "State": "context",
    "Versioned": "context",
    "Conversation": "memory",
    "Turn": "memory",
    "Model": "models",
    "Message": "models",
    "StreamEvent": "models",
    "Text": "models",
    "Done": "models",
    "Retrying": "models",
    "Usage": "models",
    "LoomError": "errors",
    "RetryLater": "errors",
}
_MODULES = ("errors", "logs", "testing")

__all__ = [  # noqa: RUF022 — in the order in which one meets them
    "Agent",
    "Context",
    "Event",
    "State",
    "Versioned",
    "Conversation",
    "Turn",
    "Model",
    "Message",
    "StreamEvent",
    "Text",
    "Done",
    "Retrying",
    "Usage",
    "LoomError",
    "RetryLater",
    "errors",
    "logs",
    "testing",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module `loom` has no `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
