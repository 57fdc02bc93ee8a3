"""Answers are whole or errors; every wait has a name; nothing is asked without end."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from datetime import UTC, datetime

import pytest

from loom import errors
from loom._environment import Credentials, Profile
from loom.models import Done, Message, Retrying, Text, Timeouts, retries
from loom.models.base import complete
from loom.models.openai_chat import OpenAiChat
from loom.models.sse import SseReader

from .provider import ANSWER, TEXT, Reply, chunk, provider, sse

ASK = [Message("user", "hello")]


def client(url: str, **timeouts: float) -> OpenAiChat:
    profile = Profile(base_url=url, model="m", window=1000, max_output=50)
    return OpenAiChat("test", profile, Credentials({}), timeouts=Timeouts(**timeouts), budget=retries.Budget())


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)


async def test_an_answer_streams_and_is_counted() -> None:
    async with provider(Reply(ANSWER, piece=7)) as server:
        model = client(server.url)
        events = [event async for event in model.stream(ASK, max_output=9, temperature=0.5)]
        await model.aclose()
    assert [event.text for event in events if isinstance(event, Text)] == ["Grüße, ", "Wörld 🌍"]
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.text, done.usage.prompt_tokens, done.usage.completion_tokens) == (TEXT, 11, 5)
    assert (done.finish, done.usage.estimated) == ("stop", False)
    asked = server.requests[0]
    assert (asked["max_tokens"], asked["temperature"], asked["stream"]) == (9, 0.5, True)


async def test_sampling_is_sent_only_when_set() -> None:
    async with provider(Reply(ANSWER)) as server:
        await complete(client(server.url), ASK)
    assert "temperature" not in server.requests[0]


async def test_a_stream_cut_at_any_byte_is_never_an_answer() -> None:
    """Where it is taken for whole, every character of the text had come and a finish reason stood behind it."""
    finish_at = ANSWER.index(b'"stop"')
    whole_from = ANSWER.index(b"\n\n", finish_at) + 2
    answers = 0
    async with provider(Reply()) as server:
        model = client(server.url)
        for cut in range(len(ANSWER)):
            server.replies = [Reply(ANSWER[:cut])]
            before = len(server.requests)
            try:
                done = await complete(model, ASK)
            except errors.IncompleteStream as error:
                assert TEXT.startswith(error.partial), f"cut at {cut}"
                assert cut < whole_from, f"cut at {cut}: the answer was whole"
                model._budget = retries.Budget()
                assert len(server.requests) - before == (1 if error.partial else retries.ATTEMPTS), f"cut at {cut}"
            else:
                answers += 1
                assert cut >= whole_from and done.text == TEXT, f"cut at {cut} was taken for the answer {done.text!r}"
        await model.aclose()
    assert answers == len(ANSWER) - whole_from


@pytest.mark.parametrize(
    "name, body, kind, said",
    [
        ("not JSON", sse(chunk("a"), "{nope"), errors.BadResponse, "not JSON"),
        ("an error in the stream", sse(chunk("a"), '{"error":{"message":"boom"}}'), errors.IncompleteStream, "boom"),
        ("a list", sse("[1]"), errors.BadResponse, "no object"),
        ("nothing at all", b"", errors.IncompleteStream, "end marker"),
    ],
)
async def test_a_broken_stream_is_an_error(name: str, body: bytes, kind: type[errors.ModelError], said: str) -> None:
    async with provider(Reply(body)) as server:
        with pytest.raises(kind, match=said):
            await complete(client(server.url), ASK)


@pytest.mark.parametrize(
    "status, body, kind, requests",
    [
        (401, b'{"error":{"message":"bad key"}}', errors.Refused, 1),
        (404, b"nope", errors.BadResponse, 1),
        (400, b'{"error":{"code":400,"type":"exceed_context_size_error","message":"x"}}', errors.ContextOverflow, 1),
        (429, b"{}", errors.RateLimited, retries.ATTEMPTS),
        (500, b"<html>", errors.Overloaded, retries.ATTEMPTS),
        (529, b"", errors.Overloaded, retries.ATTEMPTS),
    ],
)
async def test_a_status_becomes_its_error_after_its_retries(
    status: int, body: bytes, kind: type[errors.ModelError], requests: int
) -> None:
    async with provider(Reply(body, status)) as server:
        with pytest.raises(kind, match=str(status)):
            await complete(client(server.url), ASK)
        assert len(server.requests) == requests


async def test_a_busy_provider_is_asked_again_after_the_time_it_named() -> None:
    async with provider(Reply(b"", 429, {"Retry-After": "0.2"}), Reply(ANSWER)) as server:
        began = time.monotonic()
        events = [event async for event in client(server.url).stream(ASK)]
    assert isinstance(events[0], Retrying) and events[0].wait_s == 0.2
    assert isinstance(events[-1], Done) and events[-1].text == TEXT
    assert time.monotonic() - began >= 0.2


async def test_an_absurd_wait_is_told_and_not_obeyed() -> None:
    async with provider(Reply(b"", 429, {"Retry-After": "86400"})) as server:
        with pytest.raises(errors.RateLimited) as caught:
            await complete(client(server.url), ASK)
        assert caught.value.retry_after == 86400 and len(server.requests) == 1


async def test_many_tasks_against_a_dead_provider_make_a_bounded_number_of_requests() -> None:
    async with provider(Reply(b"", 500)) as server:
        model = client(server.url)
        results = await asyncio.gather(*(complete(model, ASK) for _ in range(50)), return_exceptions=True)
        assert all(isinstance(result, errors.Overloaded) for result in results)
        assert len(server.requests) <= 50 + retries.BUDGET + 2


async def test_a_refused_connection_says_which_line_would_admit_the_host() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(errors.Unreachable, match=f'hosts of this unit list "127.0.0.1:{port}"'):
        await complete(client(f"http://127.0.0.1:{port}/v1"), ASK)


@pytest.mark.parametrize(
    "reply, name, kind, partial",
    [
        (Reply(silent=True), "first token", errors.Overloaded, ""),
        (Reply(sse(chunk("so far")), stall=True), "between tokens", errors.IncompleteStream, "so far"),
    ],
)
async def test_a_stall_names_its_limit_and_keeps_the_text(
    reply: Reply, name: str, kind: type[errors.ModelError], partial: str
) -> None:
    async with provider(reply) as server:
        with pytest.raises(kind, match=f"`{name}`") as caught:
            await complete(client(server.url, first_token=0.2, between_tokens=0.2), ASK)
        assert caught.value.partial == partial


async def test_the_total_time_ends_a_stream_that_never_stops() -> None:
    async with provider(Reply(sse(*[chunk("x")] * 200_000), piece=40)) as server:
        with pytest.raises(errors.IncompleteStream, match="`total`"):
            await complete(client(server.url, total=0.3), ASK)


async def test_a_cancelled_call_closes_its_connection_within_a_second() -> None:
    async with provider(Reply(sse(chunk("a")), stall=True)) as server:
        model = client(server.url)
        came = asyncio.Event()

        async def read() -> None:
            async for _ in model.stream(ASK):
                came.set()

        task = asyncio.create_task(read())
        await came.wait()
        began = time.monotonic()
        task.cancel()
        await server.hung_up.wait()
        assert time.monotonic() - began < 1
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_key_is_read_at_the_first_call_and_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    read, write = os.pipe()
    credentials = Credentials({"key": read})
    async with provider(Reply(b"", 401)) as server:
        model = OpenAiChat("p", Profile(base_url=server.url, model="m", credential="key"), credentials)
        os.write(write, b"canary-key\n")  # it is not read before: this comes after the client was made
        os.close(write)
        with pytest.raises(errors.Refused) as caught:
            await complete(model, ASK)
        assert "Bearer canary-key" in server.headers[0]
        await complete_again(model)
    assert "canary" not in f"{caught.value!r}{caplog.text}{vars(credentials)}"


async def complete_again(model: OpenAiChat) -> None:
    with pytest.raises(errors.Refused):
        await complete(model, ASK)


async def test_a_json_schema_is_asked_for_in_the_servers_words() -> None:
    async with provider(Reply(ANSWER)) as server:
        await complete(client(server.url), ASK, json_schema={"type": "object"})
    asked = server.requests[0]["response_format"]
    assert isinstance(asked, dict) and asked["type"] == "json_schema"
    assert asked["json_schema"]["schema"] == {"type": "object"}


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"])
@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
def test_events_are_the_same_however_the_bytes_are_cut(end: str, piece: int) -> None:
    line = end[: len(end) // 2]
    raw = (
        "\ufeff: comment" + line + "data:no space" + line + "data: zwei ü🌍" + end + "event: x" + line + "data" + end
    ).encode()
    reader = SseReader()
    events = [event for at in range(0, len(raw), piece) for event in reader.feed(raw[at : at + piece])]
    assert [(event.event, event.data) for event in events] == [("", "no space\nzwei ü🌍"), ("x", "")]


def test_the_servers_wait_is_read_in_all_its_forms() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retries.server_wait({"retry-after-ms": "1500"}) == 1.5
    assert retries.server_wait({"retry-after": "2"}) == 2
    assert retries.server_wait({"retry-after": "Thu, 01 Jan 2026 00:00:07 GMT"}, now) == 7
    assert retries.server_wait({"retry-after": "soon"}) is None
