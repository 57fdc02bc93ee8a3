"""scripted: a model that says what a test wrote down, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import IncompleteStream, ModelError
from ..models.base import Done, Message, Retrying, StreamEvent, Text, Usage


@dataclass(frozen=True)
class Answer:
    """A whole answer, streamed word by word."""

    text: str
    finish: str = "stop"


@dataclass(frozen=True)
class Cut:
    """Text, and then the stream breaks."""

    text: str


@dataclass(frozen=True)
class Fail:
    """An error before the first token."""

    error: ModelError


@dataclass(frozen=True)
class Wait:
    """Text, and then nothing until the call is cancelled."""

    text: str


Line = Answer | Cut | Fail | Wait | Retrying


class ScriptedModel:
    """A `Model`; each call takes the next line. A call beyond the script fails the test that made it."""

    def __init__(self, *lines: Line | str, name: str = "scripted", window: int = 4096, max_output: int = 256) -> None:
        self.name = self.model = name
        self.window, self.max_output = window, max_output
        self._lines: list[Line] = [Answer(line) if isinstance(line, str) else line for line in lines]
        #: What each call was given.
        self.asked: list[list[Message]] = []
        self.schemas: list[Mapping[str, Any] | None] = []
        #: Calls that ended before their answer did.
        self.cancelled = 0

    def add(self, *lines: Line | str) -> None:
        self._lines += [Answer(line) if isinstance(line, str) else line for line in lines]

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        max_output: int | None = None,
        temperature: float | None = None,
        json_schema: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        self.asked.append(list(messages))
        self.schemas.append(json_schema)
        while True:
            if not self._lines:
                asked = messages[-1].content[:200]
                raise AssertionError(f"the script has no line for call {len(self.asked)}: {asked!r}")
            line = self._lines.pop(0)
            if isinstance(line, Retrying):
                yield line
                continue
            break
        if isinstance(line, Fail):
            raise line.error
        for piece in re.findall(r"\S*\s+|\S+", line.text):
            yield Text(piece)
            await asyncio.sleep(0)
        if isinstance(line, Cut):
            raise IncompleteStream("the stream ended without an end marker", partial=line.text)
        if isinstance(line, Wait):
            try:
                await asyncio.Event().wait()
            except (asyncio.CancelledError, GeneratorExit):
                self.cancelled += 1
                raise
        prompt_tokens = sum(len(message.content) for message in messages) // 4
        usage = Usage(prompt_tokens, len(line.text) // 4)
        finish = line.finish if isinstance(line, Answer) else "stop"
        yield Done(text=line.text, usage=usage, model=self.model, finish=finish, first_token_ms=1, total_ms=2)

    async def aclose(self) -> None:
        return
