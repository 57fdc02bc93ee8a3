"""What an agent tells its supervisor: that it waits on purpose, gets on, wants to come back later, what it uses up."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import pytest

from loom import RetryLater, errors
from loom._notify import Notifier
from loom._progress import Progress
from loom.testing import FakeSupervisor

from .provider import ANSWER, Reply, provider
from .test_process import Child

PROGRAM = """
import asyncio
from loom import Agent, Context, Event, RetryLater, errors
from loom.models.base import Message, complete

agent = Agent("echo")

@agent.on("unit.echo.stand")
async def stand(ctx: Context, event: Event[float]) -> str:
    await asyncio.sleep(event.data)
    return "stood"

@agent.on("unit.echo.work")
async def work(ctx: Context, event: Event[int]) -> str:
    for _ in range(event.data):
        ctx.made_progress()
    return "worked"

@agent.on("unit.echo.later")
async def later(ctx: Context, event: Event[float]) -> None:
    raise RetryLater(event.data, "the quota\\nis spent")

@agent.on("unit.echo.think")
async def think(ctx: Context, event: Event[str]) -> str:
    return (await complete(ctx.model(), [Message("user", event.data)])).text

@agent.on_start
async def start(ctx: Context) -> None:
    match await ctx.state.get("start"):
        case "later":
            raise RetryLater(60, "not yet")
        case "limited":
            raise errors.RateLimited("429", retry_after=7.5)
        case "limited without a time":
            raise errors.RateLimited("429")

@agent.on_stop
async def stop(ctx: Context) -> None:
    await ctx.state.put("stopped", True)

agent.main()
"""


def supervisor_at(directory: Path) -> FakeSupervisor:
    return FakeSupervisor(f"{directory}/bus.sock", unit="echo.agent", run=4)


async def started(directory: Path, *, llm: object = None, **environment: str) -> Child:
    child = Child(directory, program=PROGRAM, llm=llm, WATCHDOG_USEC="", **environment)
    await child.start()
    await child.until("STATUS=waiting for events")
    return child


async def stopped(child: Child) -> list[str]:
    """What it tells until it stops."""
    assert child.process is not None
    child.process.send_signal(signal.SIGTERM)
    told = await child.until("STOPPING=1")
    await child.end()
    return told


async def test_where_progress_is_watched_waiting_on_purpose_is_told(tmp_path: Path) -> None:
    async with supervisor_at(tmp_path) as supervisor:
        child = await started(tmp_path, LOOM_PROGRESS_USEC="4000000")
        assert await child.told() == "X_LOOM_IDLE=1"
        asked = await supervisor.begin("unit.echo.stand", 0.3)
        assert await child.told() == "X_LOOM_IDLE=0"
        assert await supervisor.answer(asked) == "stood"
        assert await child.told() == "X_LOOM_PROGRESS=1", "the end of a handler"
        assert await child.told() == "X_LOOM_IDLE=1"
        assert await stopped(child) == ["STOPPING=1", "STATUS=stopping"], "nothing more while nothing happens"


async def test_event_after_event_is_not_idle_in_between(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(f"{tmp_path}/notify.sock")
        ear.setblocking(False)
        notifier = Notifier(f"{tmp_path}/notify.sock")
        progress = Progress(notifier, 60_000_000)
        progress.rests()
        loop = asyncio.get_running_loop()
        assert await loop.sock_recv(ear, 100) == b"X_LOOM_IDLE=1"
        for _ in range(100):
            progress.begins()
            progress.rests()
        assert await loop.sock_recv(ear, 100) == b"X_LOOM_IDLE=0"
        assert await loop.sock_recv(ear, 100) == b"X_LOOM_IDLE=1"
        with pytest.raises(BlockingIOError):
            ear.recv(100)
        notifier.close()


async def test_where_nobody_watches_nothing_is_told(tmp_path: Path) -> None:
    async with supervisor_at(tmp_path) as supervisor:
        child = await started(tmp_path)
        assert (await supervisor.request("unit.echo.work", 10))[0] == "worked"
        assert await stopped(child) == ["STOPPING=1", "STATUS=stopping"]


async def test_progress_is_told_once_a_second_at_most(tmp_path: Path) -> None:
    async with supervisor_at(tmp_path) as supervisor:
        child = await started(tmp_path, LOOM_PROGRESS_USEC="60000000")
        assert (await supervisor.request("unit.echo.work", 1000))[0] == "worked"
        assert (await stopped(child)).count("X_LOOM_PROGRESS=1") == 1


async def test_an_interrupt_takes_the_work_away_and_says_why(tmp_path: Path) -> None:
    async with supervisor_at(tmp_path) as supervisor:
        child = await started(tmp_path)
        asked = await supervisor.begin("unit.echo.stand", 600)
        # It has it once it answers what came later.
        await supervisor.request("unit.echo.work", 1)
        assert child.process is not None
        child.process.send_signal(signal.SIGUSR1)
        with pytest.raises(errors.ReceiverFailed, match="no progress for too long"):
            await supervisor.answer(asked)
        assert (await supervisor.request("unit.echo.work", 1))[0] == "worked", "the agent itself goes on"
        child.process.send_signal(signal.SIGTERM)
        status, stderr = await child.end()
    assert status == 0
    assert "<4>no progress for too long: cancelling 1 handlers" in stderr


async def test_retry_later_in_a_handler_ends_the_agent_in_order(tmp_path: Path) -> None:
    async with supervisor_at(tmp_path) as supervisor:
        child = await started(tmp_path)
        beside = await supervisor.begin("unit.echo.stand", 0.5)
        with pytest.raises(errors.ReceiverFailed, match="the quota"):
            await supervisor.request("unit.echo.later", 30.2)
        assert await child.until("STOPPING=1") == ["STOPPING=1", "X_LOOM_RETRY_AFTER=31", "STATUS=the quota is spent"]
        assert await supervisor.answer(beside) == "stood", "others get their grace time"
        status, stderr = await child.end()
    assert status == 75
    assert "<3>the quota" in stderr and "Traceback" not in stderr
    assert supervisor.state["stopped"][0] == b"true" and supervisor.said("1Y")


@pytest.mark.parametrize(
    ("way", "status", "told"),
    [
        ("later", 75, "X_LOOM_RETRY_AFTER=60"),
        ("limited", 75, "X_LOOM_RETRY_AFTER=8"),
        ("limited without a time", 1, ""),
    ],
)
async def test_a_start_that_has_to_wait(tmp_path: Path, way: str, status: int, told: str) -> None:
    async with supervisor_at(tmp_path) as supervisor:
        supervisor.state["start"] = (f'"{way}"'.encode(), 1)
        child = Child(tmp_path, program=PROGRAM)
        await child.start()
        if told:
            seen = await child.until(told)
            assert "READY=1" not in seen
        ended, _ = await child.end()
    assert ended == status


def test_a_time_that_is_none_is_refused() -> None:
    for seconds in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="after_s"):
            RetryLater(seconds)


async def test_an_aborted_agent_leaves_the_stacks_of_all_its_threads(tmp_path: Path) -> None:
    stacks = tmp_path / "stacks"
    async with supervisor_at(tmp_path):
        child = await started(tmp_path, LOOM_STACKS=str(stacks))
        assert child.process is not None
        child.process.send_signal(signal.SIGABRT)
        status, stderr = await child.end()
    assert status == -signal.SIGABRT
    text = stacks.read_text()
    assert text.startswith("Fatal Python error: Aborted")
    assert "loom/wire.py" in text and "loom/agent.py" in text
    assert str(stacks) in stderr, "the log says where"
    assert "Fatal Python error" not in stderr


async def test_without_a_place_for_stacks_they_go_to_stderr(tmp_path: Path) -> None:
    async with supervisor_at(tmp_path):
        child = await started(tmp_path, LOOM_STACKS=f"{tmp_path}/no/such/place")
        assert child.process is not None
        child.process.send_signal(signal.SIGABRT)
        _, stderr = await child.end()
    assert "cannot keep stacks" in stderr and "Fatal Python error: Aborted" in stderr


@pytest.mark.parametrize("budget", ["1", ""])
async def test_tokens_are_told_where_they_count(tmp_path: Path, budget: str) -> None:
    async with provider(Reply(ANSWER)) as server, supervisor_at(tmp_path) as supervisor:
        llm = {"default": "local", "profiles": {"local": {"base_url": server.url, "model": "m"}}}
        child = await started(tmp_path, llm=llm, LOOM_BUDGET=budget)
        async with asyncio.timeout(30):
            await supervisor.request("unit.echo.think", "hello")
        told = await stopped(child)
    assert told.count("X_LOOM_TOKENS=16") == (1 if budget else 0), told
