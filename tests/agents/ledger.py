"""Writes 1, 2, 3 … to the supervisor's state without pause, and notes each number only once it is acknowledged.

Beside its notes lie its complaints: `DOUBLE` if another process of this unit lives, `LOST` if an acknowledged number is
not there after a restart. The notes lie in the unit's own directory, out of the supervisor's reach.
"""

from __future__ import annotations

import asyncio
import fcntl
import os

from loom import Agent, Context, LoomError

HOME = os.environ["HOME"]
agent = Agent(os.environ["LOOM_UNIT"].rsplit(".", 1)[0])
tasks: set[asyncio.Task[None]] = set()


def complain(text: str) -> None:
    with open(f"{HOME}/complaints", "a") as file:
        file.write(f"{text} run {os.environ['LOOM_RUN']} pid {os.getpid()}\n")


async def write_on(ctx: Context, number: int) -> None:
    notes = os.open(f"{HOME}/acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    while True:
        try:
            await ctx.state.put("number", number + 1)
        except LoomError as error:
            print(f"not acknowledged: {error}", flush=True)
            await asyncio.sleep(0.01)
            number = await ctx.state.get("number", default=0)
            continue
        number += 1
        os.write(notes, f"{number}\n".encode())


@agent.on_start
async def start(ctx: Context) -> None:
    sole = os.open(f"{HOME}/sole", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(sole, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        complain("DOUBLE")
    stored = await ctx.state.get("number", default=0)
    try:
        with open(f"{HOME}/acknowledged") as file:
            noted = int((file.read().split() or ["0"])[-1])
    except FileNotFoundError:
        noted = 0
    if stored < noted:
        complain(f"LOST stored {stored} acknowledged {noted}")
    task = asyncio.create_task(write_on(ctx, stored))
    tasks.add(task)


if __name__ == "__main__":
    agent.main()
