"""openai_chat: models behind an OpenAI-compatible `/chat/completions`.

Job: one streamed answer per call. May touch: HTTP, the profile's credential at the first call. Keeps: an answer is
whole only if a finish reason or `[DONE]` came; a stream cut short raises `IncompleteStream`; nothing is repeated once
the first token came; a cancelled call closes its connection at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import httpx2
import msgspec

from .._environment import Credentials, Profile
from ..errors import (
    BadResponse,
    ContextOverflow,
    IncompleteStream,
    ModelError,
    Overloaded,
    RateLimited,
    Refused,
    Unreachable,
)
from . import retries
from .base import Done, Message, Retrying, StreamEvent, Text, Timeouts, Usage
from .sse import LineTooLong, SseReader

ERROR_BODY_LIMIT = 64 * 1024
OVERFLOW_SIGNS = ("context_length_exceeded", "exceed_context_size", "context size", "maximum context length")

_log = logging.getLogger("loom.models")
_budget = retries.Budget()


class OpenAiChat:
    """A model of the format `openai-chat`; see `loom.models.base.Model`."""

    def __init__(
        self,
        name: str,
        profile: Profile,
        credentials: Credentials,
        *,
        timeouts: Timeouts | None = None,
        budget: retries.Budget | None = None,
    ) -> None:
        self.name = name
        self.model = profile.model
        self.window = profile.window
        self.max_output = profile.max_output
        self._profile, self._credentials = profile, credentials
        self._timeouts = timeouts or Timeouts()
        self._budget = budget or _budget
        self._url = profile.base_url.rstrip("/") + "/chat/completions"
        self._http: httpx2.AsyncClient | None = None

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        max_output: int | None = None,
        temperature: float | None = None,
        json_schema: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        body = self._body(messages, max_output, temperature, json_schema)
        began = time.monotonic()
        attempt = 1
        while True:
            answer = _Answer(messages, self.model, began)
            try:
                # Closed by name: a generator that is merely dropped would keep the connection until it is collected.
                async with contextlib.aclosing(self._once(body, answer)) as events:
                    async for event in events:
                        yield event
                return
            except ModelError as error:
                too_long = error.retry_after is not None and error.retry_after > retries.RETRY_AFTER_CAP_S
                again = error.retry != "never" and not answer.text and not too_long
                if not again or attempt >= retries.ATTEMPTS or not self._budget.take(time.monotonic()):
                    raise
                wait = retries.wait_before(attempt, error.retry_after)
                _log.warning("model `%s`: %s; asking again in %.1f s", self.name, error, wait)
                yield Retrying(str(error), wait, attempt)
                await asyncio.sleep(wait)
                attempt += 1

    async def aclose(self) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def _body(
        self,
        messages: Sequence[Message],
        max_output: int | None,
        temperature: float | None,
        json_schema: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in messages],
            "max_tokens": max_output or self.max_output,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        chosen = temperature if temperature is not None else self._profile.temperature
        if chosen is not None:
            body["temperature"] = chosen
        if json_schema is not None:
            named = {"name": "answer", "strict": True, "schema": dict(json_schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return body

    def _client(self) -> httpx2.AsyncClient:
        if self._http is None:
            self._http = httpx2.AsyncClient(
                # Without TLS there is nothing to verify, and loading the trust store costs time and grants.
                verify=self._url.startswith("https:"),
                timeout=httpx2.Timeout(None, connect=self._timeouts.connect),
                trust_env=False,
                follow_redirects=False,
            )
        return self._http

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        if self._profile.credential:
            headers["Authorization"] = f"Bearer {self._credentials.get(self._profile.credential).reveal()}"
        return headers

    async def _once(self, body: dict[str, Any], answer: _Answer) -> AsyncGenerator[StreamEvent, None]:
        limits = self._timeouts
        loop = asyncio.get_running_loop()
        must_end = loop.time() + limits.total
        client = self._client()
        request = client.build_request("POST", self._url, json=body, headers=self._headers())
        response: httpx2.Response | None = None
        # Which limit the next wait is under; named in the error.
        waiting, limit = "first token", limits.first_token
        try:
            must_come = min(loop.time() + limit, must_end)
            async with asyncio.timeout_at(must_come):
                response = await client.send(request, stream=True)
            if response.status_code != 200:
                raise await self._refusal(response)
            reader = SseReader()
            chunks = response.aiter_raw()
            while True:
                async with asyncio.timeout_at(must_come):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                for event in reader.feed(chunk):
                    piece = answer.take(event.data)
                    if piece:
                        waiting, limit = "between tokens", limits.between_tokens
                        yield Text(piece)
                    if answer.ended:
                        yield answer.done()
                        return
                if waiting == "between tokens":
                    must_come = min(loop.time() + limit, must_end)
            if not answer.whole:
                raise IncompleteStream(
                    f"{self._url} ended its stream without an end marker; what came is not an answer",
                    partial=answer.text,
                )
            yield answer.done()
        except TimeoutError:
            name, seconds = ("total", limits.total) if loop.time() >= must_end else (waiting, limit)
            text = f"{self._url}: the `{name}` time of {seconds:g} s ran out"
            kind = IncompleteStream if answer.text else Overloaded
            raise kind(text, partial=answer.text) from None
        except httpx2.ConnectTimeout:
            text = f"{self._url}: the `connect` time of {limits.connect:g} s ran out"
            raise Unreachable(text) from None
        except httpx2.ConnectError as error:
            raise Unreachable(
                f"cannot connect to {self._url} ({error or 'refused'}): is the server up, and does [sandbox] hosts of"
                f" this unit list {_host(self._url)}?"
            ) from error
        except (httpx2.TransportError, httpx2.StreamError) as error:
            if answer.whole:
                yield answer.done()
                return
            text = f"{self._url}: the connection broke ({type(error).__name__}); what came is not an answer"
            raise IncompleteStream(text, partial=answer.text) from error
        except LineTooLong as error:
            raise BadResponse(f"{self._url}: {error}", partial=answer.text) from error
        finally:
            if response is not None:
                await response.aclose()

    async def _refusal(self, response: httpx2.Response) -> ModelError:
        raw = bytearray()
        try:
            async with asyncio.timeout(self._timeouts.between_tokens):
                async for chunk in response.aiter_raw():
                    raw += chunk
                    if len(raw) > ERROR_BODY_LIMIT:
                        break
        except (TimeoutError, httpx2.TransportError):
            pass  # the status alone says enough
        return refusal(self._url, response.status_code, bytes(raw), response.headers)


def refusal(url: str, status: int, body: bytes, headers: Mapping[str, str]) -> ModelError:
    """The error for an answer that is not 200."""
    said = _error_text(body)
    text = f"{url} answered {status}" + (f": {said}" if said else "")
    wait = retries.server_wait(headers)
    if any(sign in said for sign in OVERFLOW_SIGNS) or (status == 413):
        return ContextOverflow(f"{text}. Shorten the conversation, or name a model with a larger window")
    if status == 429:
        return RateLimited(text, retry_after=wait)
    if retries.is_retried(status):
        return Overloaded(text, retry_after=wait)
    if status in (401, 402, 403):
        return Refused(f"{text}. Check the credential of this profile in [llm] and [exec] credentials")
    if status == 404:
        return BadResponse(f"{text}. Check base_url and model of this profile in [llm]")
    return BadResponse(text)


def _error_text(body: bytes) -> str:
    """The message of an error object, or the first line of whatever it is."""
    try:
        said = msgspec.json.decode(body)
        error = said.get("error", said) if isinstance(said, dict) else said
        if isinstance(error, dict):
            parts = [str(error[key]) for key in ("message", "code", "type") if error.get(key)]
            return " · ".join(parts)[:500]
        return str(error)[:500]
    except msgspec.MsgspecError:
        return body.decode("utf-8", "replace").strip().partition("\n")[0][:200]


def _host(url: str) -> str:
    parsed = httpx2.URL(url)
    return f'"{parsed.host}:{parsed.port or (443 if parsed.scheme == "https" else 80)}"'


class _Answer:
    """Gathers one stream. Servers differ, so content decides, not the finish reason."""

    def __init__(self, messages: Sequence[Message], model: str, began: float) -> None:
        self._asked = sum(len(message.content) for message in messages)
        self._model = model
        self._began = began
        self._first: float | None = None
        self._finish = ""
        self._usage: Usage | None = None
        self._pieces: list[str] = []
        #: `[DONE]` came: nothing follows.
        self.ended = False

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def whole(self) -> bool:
        return self.ended or bool(self._finish)

    def take(self, data: str) -> str:
        """Takes one event's data; returns the text that it adds."""
        if data.strip() == "[DONE]":
            self.ended = True
            return ""
        try:
            chunk = msgspec.json.decode(data)
        except msgspec.MsgspecError as error:
            raise BadResponse(f"a piece of the stream is not JSON: {data[:80]!r}", partial=self.text) from error
        if not isinstance(chunk, dict):
            raise BadResponse(f"a piece of the stream is no object: {data[:80]!r}", partial=self.text)
        if chunk.get("error"):
            text = f"the provider ended its stream with an error: {_error_text(data.encode())}"
            # Before the first token it is as if the call had failed; later the text so far is all there is.
            raise IncompleteStream(text, partial=self.text) if self._pieces else Overloaded(text)
        self._model = str(chunk.get("model") or self._model)
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self._usage = Usage(int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return ""
        delta = choices[0].get("delta")
        piece = delta.get("content") if isinstance(delta, dict) else None
        self._finish = str(choices[0].get("finish_reason") or self._finish)
        if isinstance(piece, str) and piece:
            self._first = self._first or time.monotonic()
            self._pieces.append(piece)
            return piece
        return ""

    def done(self) -> Done:
        now = time.monotonic()
        text = self.text
        return Done(
            text=text,
            usage=self._usage or Usage(self._asked // 4, len(text) // 4, estimated=True),
            model=self._model,
            finish=self._finish or "stop",
            first_token_ms=int(((self._first or now) - self._began) * 1000),
            total_ms=int((now - self._began) * 1000),
        )
