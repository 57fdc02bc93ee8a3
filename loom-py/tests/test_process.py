"""The process as loomd starts it: descriptors, notify socket, signals, exit statuses, log lines."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from loom import logs
from loom.testing import FakeSupervisor

PROGRAM = """
import logging
from loom import Agent, Context, Event

agent = Agent("echo")

@agent.on("unit.echo.say")
async def say(ctx: Context, event: Event[str]) -> dict:
    ctx.log.warning("heard %s\\nand more", event.data)
    return {"run": ctx.run, "previous": ctx.previous.result, "said": event.data}

@agent.on_start
async def start(ctx: Context) -> None:
    if await ctx.state.get("broken"):
        raise RuntimeError("no such luck")

agent.main()
"""


class Child:
    """An agent as a process, with what loomd would hand it."""

    def __init__(self, directory: Path, *, program: str = PROGRAM, llm: Any = None, **environment: str) -> None:
        self.directory, self.program, self.llm = directory, program, llm
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(f"{directory}/notify.sock")
        self.notify.setblocking(False)
        self.environment = environment
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, token: str = "0" * 64) -> asyncio.subprocess.Process:
        program = self.directory / "echo.py"
        program.write_text(textwrap.dedent(self.program))
        read, write = os.pipe()
        os.write(write, token.encode())
        os.close(write)
        config = os.memfd_create("config")
        content = {"version": 1, "unit": "echo.agent", "run": 4, "bus": {}, "llm": self.llm}
        os.write(config, json.dumps(content).encode())
        environment = {
            "PATH": os.environ["PATH"],
            "LOOM_SOCKET": f"{self.directory}/bus.sock",
            "LOOM_UNIT": "echo.agent",
            "LOOM_RUN": "4",
            "LOOM_TOKEN_FD": str(read),
            "LOOM_CONFIG_FD": str(config),
            "LOOM_LAST_RESULT": "signal",
            "NOTIFY_SOCKET": f"{self.directory}/notify.sock",
            "WATCHDOG_USEC": "300000",
            **self.environment,
        }
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, str(program), env={k: v for k, v in environment.items() if v}, pass_fds=(read, config),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        os.close(read)
        os.close(config)
        return self.process

    async def told(self) -> str:
        return (await asyncio.get_running_loop().sock_recv(self.notify, 4096)).decode()

    async def until(self, line: str) -> list[str]:
        """Every line that is told up to and with that one."""
        told: list[str] = []
        while line not in told:
            told += (await self.told()).splitlines()
        return told

    async def end(self) -> tuple[int, str]:
        assert self.process is not None
        _, stderr = await self.process.communicate()
        self.notify.close()
        assert self.process.returncode is not None
        return self.process.returncode, stderr.decode()


async def test_an_agent_says_ready_beats_answers_and_ends_on_sigterm(tmp_path: Path) -> None:
    async with FakeSupervisor(f"{tmp_path}/bus.sock", unit="echo.agent", run=4) as supervisor:
        child = Child(tmp_path)
        process = await child.start()
        said = []
        while not said or "READY=1" not in said[-1]:
            said.append(await child.told())
        assert "READY=1" in said[-1]
        assert await child.told() == "WATCHDOG=1"
        assert await child.told() == "WATCHDOG=1"
        answer, _ = await supervisor.request("unit.echo.say", "hi")
        assert answer == {"run": 4, "previous": "signal", "said": "hi"}
        process.send_signal(signal.SIGTERM)
        while not said[-1].startswith("STOPPING=1"):
            said.append(await child.told())
        status, stderr = await child.end()
    assert status == 0
    assert "<4>heard hi\n<4>and more\n" in stderr
    assert supervisor.said("1Y")


async def test_a_wrong_token_ends_with_78_and_one_line(tmp_path: Path) -> None:
    async with FakeSupervisor(f"{tmp_path}/bus.sock", unit="echo.agent", run=4):
        child = Child(tmp_path)
        await child.start(token="f" * 64)
        status, stderr = await child.end()
    assert (status, stderr) == (78, "<3>loomd refused this run's token; only loomd can start this agent\n")


async def test_started_by_hand_it_says_how_to_start_it(tmp_path: Path) -> None:
    child = Child(tmp_path, LOOM_SOCKET="", LOOM_UNIT="")
    await child.start()
    status, stderr = await child.end()
    assert status == 78
    assert stderr.startswith("<3>LOOM_SOCKET, LOOM_UNIT not set") and stderr.count("\n") == 1


async def test_a_failing_on_start_ends_with_1_and_never_says_ready(tmp_path: Path) -> None:
    async with FakeSupervisor(f"{tmp_path}/bus.sock", unit="echo.agent", run=4) as supervisor:
        supervisor.state["broken"] = (b"true", 1)
        child = Child(tmp_path)
        await child.start()
        said = await child.told() + await child.told()
        status, stderr = await child.end()
    assert status == 1
    assert "<3>RuntimeError: no such luck" in stderr and "Traceback" in stderr
    assert "READY=1" not in said and not supervisor.said("1C")


def record(text: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("test", level, "file.py", 7, text, (), None, "function")


def test_the_journal_gets_unit_run_and_whole_lines(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(f"{tmp_path}/socket")
        handler = logs.JournalHandler(unit="chat.agent", run=7, path=f"{tmp_path}/socket")
        handler.handle(record("two\nlines", logging.ERROR))
        handler.close()
        raw = journal.recv(65536)
    assert raw.startswith(b"MESSAGE\n" + (9).to_bytes(8, "little") + b"two\nlines\n")
    fields = dict(line.split(b"=", 1) for line in raw.split(b"\n")[3:] if b"=" in line)
    assert fields[b"LOOM_UNIT"] == b"chat.agent" and fields[b"LOOM_RUN"] == b"7"
    assert fields[b"PRIORITY"] == b"3" and fields[b"SYSLOG_IDENTIFIER"] == b"chat.agent"


def test_without_a_journal_lines_go_to_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[Any]) -> None:
    handler = logs.JournalHandler(unit="chat.agent", run=7, path=f"{tmp_path}/gone")
    handler.handle(record("still said"))
    handler.close()
    assert capfd.readouterr().err == "<6>still said\n"
