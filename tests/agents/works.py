"""Works as told while its watchdog beats all the time; answers `unit.<name>.ask`.

`stand SECONDS` stands still in its handler · `publish SECONDS` does too, but publishes on the way ·
`die` ends the process · `later SECONDS` asks to be started again after that long · `previous` tells how the run before
ended · `list PATH` calls a tool · `with-key KEY TOPIC TEXT` asks another unit under that id · anything else comes back.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from loom import Agent, Context, Event, LoomError, RetryLater

NAME = os.environ["LOOM_UNIT"].rsplit(".", 1)[0]
agent = Agent(NAME)


@agent.on(f"unit.{NAME}.ask")
async def ask(ctx: Context, event: Event[Any]) -> dict[str, str]:
    verb, _, rest = event.data["text"].partition(" ")
    match verb:
        case "stand":
            await asyncio.sleep(float(rest))
        case "publish":
            end = time.monotonic() + float(rest)
            while time.monotonic() < end:
                await ctx.emit("steps", None)
                await asyncio.sleep(0.05)
        case "die":
            os._exit(9)
        case "later":
            raise RetryLater(float(rest), "the quota is spent")
        case "previous":
            before = ctx.previous
            return {"text": f"{before.result} {before.exit} {before.restarts}"}
        case "list":
            try:
                return {"text": str(await ctx.call("fs:list", path=rest))}
            except LoomError as error:
                return {"text": f"{error.code}: {error}"}
        case "with-key":
            key, topic, text = rest.split(" ", 2)
            try:
                reply = await ctx.request(topic, {"text": text, "thread": "t"}, key=key, timeout=10)
                return {"text": str(reply["text"])}
            except LoomError as error:
                return {"text": f"{error.code}: {error}"}
    return {"text": event.data["text"]}


if __name__ == "__main__":
    agent.main()
