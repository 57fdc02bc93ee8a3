"""Handlers, state, requests, reconnects: over a real socket, without loomd."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import msgspec
import pytest

from loom import Agent, Context, Event, errors, testing, wire
from loom.testing import FakeSupervisor


def counter() -> Agent:
    agent = Agent("counter")

    @agent.on("tick")
    async def tick(ctx: Context, event: Event[Any]) -> None:
        count = await ctx.state.get("count", 0) + 1
        await ctx.state.put("count", count)
        await ctx.emit("count", count)

    return agent


async def test_count_survives_a_restart() -> None:
    async with testing.bench(counter()) as bench:
        await bench.deliver("tick", {})
        await bench.restart()
        await bench.deliver("tick", {})
        assert bench.emitted_on("count") == [1, 2]


async def test_nothing_arrives_before_on_start_has_ended() -> None:
    agent, order = counter(), []

    @agent.on_start
    async def start(ctx: Context) -> None:
        await ctx.state.put("count", 40)
        order.append("started")

    @agent.on_stop
    def stop(ctx: Context) -> None:
        order.append("stopped")

    async with testing.bench(agent) as bench:
        ops = [message.op for message in bench.supervisor.log]
        assert ops == ["1H", "1K", "1S", "1C"]
        await bench.deliver("tick", {})
        assert bench.emitted_on("count") == [41]
    assert order == ["started", "stopped"]


async def test_a_request_inside_a_handler_gets_its_answer() -> None:
    """At any depth: each level asks the next, and the answers come back through one connection."""
    agent = Agent("deep")

    @agent.on("unit.deep.down")
    async def down(ctx: Context, event: Event[int]) -> int:
        return 0 if event.data == 0 else 1 + await ctx.request("unit.deep.down", event.data - 1)

    async with testing.bench(agent) as bench:
        assert await bench.request("unit.deep.down", 12) == 12


async def test_progress_reaches_whoever_asked_in_order() -> None:
    agent = Agent("steps")

    @agent.on("unit.steps.inner")
    async def inner(ctx: Context, event: Event[Any]) -> str:
        for at in range(5):
            assert await ctx.progress(at)
        return "done"

    @agent.on("unit.steps.outer")
    async def outer(ctx: Context, event: Event[Any]) -> list[Any]:
        seen: list[Any] = []
        await ctx.request("unit.steps.inner", None, on_progress=seen.append)
        return seen

    async with testing.bench(agent) as bench:
        assert await bench.supervisor.request("unit.steps.inner", None) == ("done", [0, 1, 2, 3, 4])
        assert await bench.request("unit.steps.outer", None) == [0, 1, 2, 3, 4]


async def test_a_failing_handler_costs_only_its_own_delivery() -> None:
    agent = Agent("fragile")

    @agent.on("unit.fragile.do")
    async def do(ctx: Context, event: Event[int]) -> int:
        return 10 // event.data

    async with testing.bench(agent) as bench:
        with pytest.raises(errors.ReceiverFailed, match="ZeroDivisionError"):
            await bench.request("unit.fragile.do", 0)
        with pytest.raises(errors.ReceiverFailed, match="Expected `int`, got `str`"):
            await bench.request("unit.fragile.do", "ten")
        assert await bench.request("unit.fragile.do", 5) == 2


class Question(msgspec.Struct):
    text: str
    thread: str


async def test_data_that_does_not_fit_names_the_field() -> None:
    agent = Agent("strict")

    @agent.on("unit.strict.ask")
    async def ask(ctx: Context, event: Event[Question]) -> str:
        return event.data.text

    async with testing.bench(agent) as bench:
        assert await bench.request("unit.strict.ask", {"text": "hi", "thread": "t"}) == "hi"
        with pytest.raises(errors.ReceiverFailed, match="thread"):
            await bench.request("unit.strict.ask", {"text": "hi"})


async def test_errors_of_the_supervisor_arrive_as_their_class() -> None:
    agent = Agent("asker")
    seen: list[errors.LoomError] = []

    def deny(path: str) -> None:
        raise errors.Denied(f"`{path}` is outside the workspace", code="outside-workspace")

    @agent.on("unit.asker.try")
    async def attempt(ctx: Context, event: Event[Any]) -> None:
        for act in (
            lambda: ctx.emit("secret.topic", 1),
            lambda: ctx.request("unit.nobody.here", 1),
            lambda: ctx.call("fs:read", path="/etc/passwd"),
            lambda: ctx.call("no:tool"),
            lambda: ctx.state.put("k", "x" * (1 << 20)),
            lambda: ctx.emit("no topic", 1),
        ):
            try:
                await act()
            except errors.LoomError as error:
                seen.append(error)
        await ctx.state.put("k", 1, if_version=0)
        try:
            await ctx.state.put("k", 2, if_version=0)
        except errors.Conflict as conflict:
            seen.append(conflict)
            await ctx.state.put("k", 3, if_version=conflict.version)
        await ctx.state.put("j", 1)
        assert await ctx.state.scan() == ["j", "k"]
        await ctx.state.delete("j")
        assert (await ctx.state.get("j"), await ctx.state.get("k")) == (None, 3)

    async with testing.bench(agent, tools={"fs:read": deny}, refuse=["secret.topic"]) as bench:
        await bench.request("unit.asker.try", None)
    kinds = [type(error).__name__ for error in seen]
    assert kinds == ["TopicRefused", "NoReceiver", "Denied", "Invalid", "TooLarge", "BusError", "Conflict"]
    assert "add it to [bus] publish" in str(seen[0])
    assert str(seen[2]) == "`/etc/passwd` is outside the workspace"


async def test_a_taken_back_request_ends_its_handler_and_what_was_only_told_is_worked_off() -> None:
    agent, go_on, ended = Agent("a"), asyncio.Event(), list[str]()

    @agent.on(">")
    async def work(ctx: Context, event: Event[str]) -> None:
        try:
            await go_on.wait()
            ended.append(f"{event.data} done")
        except asyncio.CancelledError:
            ended.append(f"{event.data} cancelled")
            raise

    async with testing.bench(agent) as bench:
        supervisor = bench.supervisor
        told = await supervisor.deliver("news", "told")
        asked = await supervisor.begin("unit.a.ask", "asked")
        # A new loomd knows neither.
        for delivery in (told, asked):
            await supervisor.cancel(delivery, "caller-gone")
        await supervisor.until("the request ended", lambda: bool(ended))
        go_on.set()
        await supervisor.until("both ended", lambda: len(ended) == 2)
        assert ended == ["asked cancelled", "told done"]


async def test_a_slow_handler_delays_no_heartbeat_cancel_or_tool_result() -> None:
    agent, release, in_thread = Agent("slow"), threading.Event(), threading.Event()

    @agent.on("unit.slow.thread")
    def blocking(ctx: Context, event: Event[Any]) -> str:
        in_thread.set()
        release.wait(20)
        return "late"

    @agent.on("unit.slow.sleep")
    async def sleeping(ctx: Context, event: Event[Any]) -> None:
        await asyncio.Event().wait()

    @agent.on("unit.slow.tool")
    async def tool(ctx: Context, event: Event[Any]) -> Any:
        return await ctx.call("fs:read", path="a")

    async with testing.bench(agent, tools={"fs:read": lambda path: {"content": path}}) as bench:
        supervisor = bench.supervisor
        stuck = await supervisor.begin("unit.slow.thread", None)
        asleep = await supervisor.begin("unit.slow.sleep", None)
        await asyncio.to_thread(in_thread.wait, 10)
        assert await bench.request("unit.slow.tool", None) == {"content": "a"}
        await supervisor.send("1i", {"id": "ping-1"})
        await supervisor.until(
            "the ping is answered",
            lambda: any(m.op == "1I" and m.header == {"about": "ping-1", "answer": True} for m in supervisor.log),
        )
        await supervisor.cancel(asleep)
        with pytest.raises(errors.ReceiverFailed, match="cancelled"):
            await supervisor.answer(asleep)
        release.set()
        assert await supervisor.answer(stuck) == "late"


async def test_events_of_one_key_run_in_order_and_others_beside_them() -> None:
    agent, order, gate = Agent("lanes"), [], asyncio.Event()

    @agent.on("unit.lanes.do", key=lambda event: event.data[0])
    async def do(ctx: Context, event: Event[Any]) -> None:
        if event.data == ["a", 1]:
            await gate.wait()
        order.append(event.data)

    async with testing.bench(agent) as bench:
        first = await bench.supervisor.begin("unit.lanes.do", ["a", 1])
        second = await bench.supervisor.begin("unit.lanes.do", ["a", 2])
        await bench.request("unit.lanes.do", ["b", 1])
        gate.set()
        await bench.supervisor.answer(first)
        await bench.supervisor.answer(second)
    assert order == [["b", 1], ["a", 1], ["a", 2]]


async def test_credit_is_given_again_so_that_events_never_dry_up() -> None:
    async with testing.bench(counter()) as bench:
        for _ in range(wire.CREDIT_MESSAGES * 3):
            await bench.supervisor.deliver("tick", {})
        await bench.supervisor.until(
            "all are counted", lambda: len(bench.supervisor.published) == 3 * wire.CREDIT_MESSAGES
        )
        unsettled = wire.CREDIT_MESSAGES * 3 - len(bench.supervisor.said("1A"))
        assert bench.supervisor._credit + unsettled <= wire.CREDIT_MESSAGES


async def test_a_new_loomd_gets_hello_subscriptions_and_the_unanswered_requests_again() -> None:
    agent = Agent("patient")

    @agent.on("unit.patient.put")
    async def put(ctx: Context, event: Event[Any]) -> int:
        return await ctx.state.put("key", event.data, if_version=0)

    async with testing.bench(agent) as bench:
        supervisor = bench.supervisor
        supervisor.mute = {"1K"}
        await supervisor.begin("unit.patient.put", "kept")
        await supervisor.until("the write is asked", lambda: bool(supervisor.said("1K")))
        asked = supervisor.said("1K")[0]
        await supervisor.close()
        supervisor.mute = set()
        supervisor.log.clear()
        supervisor.listen()
        await supervisor.until("the write is asked again", lambda: bool(supervisor.said("1K")))
        assert supervisor.said("1K")[0] == asked
        assert supervisor.log[0].op == "1H"
        assert len(supervisor.said("1H")[0].header["holds"]) == 1
        await supervisor.ready()
        assert supervisor.said("1C")[0].header["messages"] == wire.CREDIT_MESSAGES - 1
        await supervisor.until("the reply follows", lambda: bool(supervisor.said("1R")))
        assert supervisor.hellos == 2


async def test_a_write_that_was_stored_before_the_connection_broke_is_no_conflict() -> None:
    agent = Agent("twice")

    @agent.on("unit.twice.put")
    async def put(ctx: Context, event: Event[Any]) -> None:
        await ctx.emit("version", await ctx.state.put("key", event.data, if_version=0))

    async with testing.bench(agent) as bench:
        supervisor = bench.supervisor
        supervisor.mute = {"1K"}
        await supervisor.begin("unit.twice.put", "mine")
        await supervisor.until("the write is asked", lambda: bool(supervisor.said("1K")))
        supervisor.state["key"] = (b'"mine"', 7)  # committed; the answer is lost
        await supervisor.close()
        supervisor.mute = set()
        supervisor.listen()
        await supervisor.until("the handler went on", lambda: bool(supervisor.published))
        assert bench.emitted_on("version") == [7]


async def test_an_agent_drains_when_told_and_says_goodbye() -> None:
    agent, finish = Agent("polite"), asyncio.Event()

    @agent.on("unit.polite.work")
    async def work(ctx: Context, event: Event[Any]) -> str:
        await finish.wait()
        return "finished"

    async with testing.bench(agent) as bench:
        delivery = await bench.supervisor.begin("unit.polite.work", None)
        await bench.supervisor.drain()
        finish.set()
        assert await bench.supervisor.answer(delivery) == "finished"
        await bench.supervisor.until("goodbye", lambda: bool(bench.supervisor.said("1Y")))


@pytest.mark.parametrize(
    "how, code",
    [({"token": "f" * 64}, "bad-token"), ({"run": 3}, "stale-run"), ({"refuse": ["tick"]}, "denied")],
)
async def test_a_supervisor_that_refuses_hello_ends_the_agent_with_the_reason(
    how: dict[str, Any], code: str, tmp_path: Any
) -> None:
    from loom._environment import Environment, Secret

    path = f"{tmp_path}/bus.sock"
    refuse = how.get("refuse", ())
    async with FakeSupervisor(path, unit="counter.agent", refuse=refuse):
        environment = Environment(
            socket=path, unit="counter.agent", run=how.get("run", 1), token=Secret(how.get("token", "0" * 64))
        )
        with pytest.raises(errors.Rejected) as caught:
            await counter().run(environment)
    assert caught.value.code == code


async def test_a_supervisor_that_never_comes_is_given_up(tmp_path: Any) -> None:
    session = wire.Session(
        path=f"{tmp_path}/nobody.sock", unit="u.agent", run=1, token="0" * 64, sdk="test", handlers=[],
        reconnect_limit=0.3, on_delivery=lambda _: None, on_cancel=lambda *_: None, on_drain=lambda _: None,
    )  # fmt: skip
    began = time.monotonic()
    with pytest.raises(errors.SupervisorGone, match="no loomd answered"):
        await session.open()
    await session.close()
    assert time.monotonic() - began < 5


async def test_a_forked_child_cannot_speak_as_its_parent() -> None:
    import os

    async with testing.bench(counter()) as bench:
        running = bench.agent._running
        assert running is not None
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                running._session.send("1P", {"topic": "forged"})
                os.write(write, b"sent")
            except errors.SupervisorGone as error:
                os.write(write, str(error).encode())
            finally:
                os._exit(0)
        await asyncio.to_thread(os.waitpid, pid, 0)
        assert b"forked child" in os.read(read, 1000)
        os.close(read)
        os.close(write)
