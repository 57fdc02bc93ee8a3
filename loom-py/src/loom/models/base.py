"""base: what every model looks like to an agent.

Job: messages in, a stream of events out. May touch: `errors`. Keeps: a stream ends with `Done` or raises; text without
`Done` behind it is no answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True)
class Usage:
    """Tokens. `estimated` where the server gave no figures."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False


@dataclass(frozen=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class Retrying:
    """The call failed before its first token and will be made again."""

    reason: str
    wait_s: float
    attempt: int


@dataclass(frozen=True)
class Done:
    """The whole answer. `finish` is the server's word: `stop`, or `length` when it reached the limit of output."""

    text: str
    usage: Usage
    model: str
    finish: str
    first_token_ms: int
    total_ms: int


StreamEvent = Text | Retrying | Done


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds, each named in the error that it causes."""

    connect: float = 5.0
    #: From the request to its first piece; a small machine reads a long prompt slowly.
    first_token: float = 120.0
    between_tokens: float = 30.0
    total: float = 600.0


class Model(Protocol):
    """One model behind one endpoint."""

    name: str
    model: str
    #: Tokens that fit, answer included.
    window: int
    max_output: int

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_output: int | None = None,
        temperature: float | None = None,
        json_schema: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        """Asks; yields pieces as they come and `Done` last.

        Args:
            json_schema: The answer must be JSON that fits it (`response_format`), where the server can enforce that.

        Raises:
            ModelError: See `loom.errors`; `partial` has the text that had come.
        """
        ...

    async def aclose(self) -> None:
        """Closes its connections."""
        ...


async def complete(
    model: Model,
    messages: Sequence[Message],
    *,
    max_output: int | None = None,
    temperature: float | None = None,
    json_schema: Mapping[str, Any] | None = None,
) -> Done:
    """The whole answer at once."""
    done: Done | None = None
    async for event in model.stream(messages, max_output=max_output, temperature=temperature, json_schema=json_schema):
        if isinstance(event, Done):
            done = event
    assert done is not None, "a stream ends with Done or raises"
    return done
