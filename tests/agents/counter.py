"""Answers `unit.<name>.ask`: counts in the supervisor's state, tells who it is, reads and writes through tools.

Understands: bump · pid · tool NAME JSON · open PATH · connect PORT · slow · fail · echo TEXT
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import Any

from loom import Agent, Context, Event, LoomError

NAME = os.environ["LOOM_UNIT"].rsplit(".", 1)[0]
agent = Agent(NAME)


async def bump(ctx: Context) -> str:
    count = await ctx.state.get("count", default=0)
    await ctx.state.put("count", count + 1)
    return str(count + 1)


@agent.on(f"unit.{NAME}.ask")
async def ask(ctx: Context, event: Event[Any]) -> dict[str, str]:
    verb, _, rest = event.data["text"].partition(" ")
    match verb:
        case "bump":
            return {"text": await bump(ctx)}
        case "pid":
            return {"text": str(os.getpid())}
        case "tool":
            name, _, arguments = rest.partition(" ")
            try:
                return {"text": json.dumps(await ctx.call(name, **json.loads(arguments)))}
            except LoomError as refused:
                return {"text": f"refused: {refused}"}
        case "open":
            try:
                with open(rest, "rb") as file:
                    return {"text": f"read {len(file.read())}"}
            except OSError as refused:
                return {"text": f"refused: {refused}"}
        case "connect":
            try:
                socket.create_connection(("127.0.0.1", int(rest)), timeout=5).close()
                return {"text": "connected"}
            except OSError as refused:
                return {"text": f"refused: {refused}"}
        case "request":
            topic, _, text = rest.partition(" ")
            reply = await ctx.request(topic, {"text": text, "thread": "t"}, timeout=10)
            return {"text": reply["text"]}
        case "slow":
            await ctx.progress({"kind": "token", "text": "begun "})
            await asyncio.sleep(600)
            return {"text": "never"}
        case "fail":
            raise RuntimeError("asked to fail")
        case "log":
            ctx.log.warning("said through the SDK: %s", rest)
            print(f"said on stdout: {rest}", flush=True)
            return {"text": "logged"}
        case _:
            return {"text": event.data["text"]}


if __name__ == "__main__":
    agent.main()
