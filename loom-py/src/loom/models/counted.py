"""counted: a model whose tokens somebody counts.

Job: hand a model's stream on, and tell the tokens of each whole answer. May touch: nothing.
Keeps: the stream is the model's own; an answer is counted once, by the server's figures or, without them, the estimate.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from .base import Done, Message, Model, StreamEvent


class Counted:
    def __init__(self, model: Model, tell: Callable[[int], None]) -> None:
        self._model, self._tell = model, tell
        self.name, self.model = model.name, model.model
        self.window, self.max_output = model.window, model.max_output

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        max_output: int | None = None,
        temperature: float | None = None,
        json_schema: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        inner = self._model.stream(messages, max_output=max_output, temperature=temperature, json_schema=json_schema)
        async with contextlib.aclosing(inner) as events:
            async for event in events:
                if isinstance(event, Done):
                    tokens = event.usage.prompt_tokens + event.usage.completion_tokens
                    if tokens > 0:
                        self._tell(tokens)
                yield event

    async def aclose(self) -> None:
        await self._model.aclose()
