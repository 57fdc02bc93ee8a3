"""Writes every event of `loom.unit.>` as a line of JSON into `heard` of its home directory: topic and data."""

from __future__ import annotations

import json
import os
from typing import Any

from loom import Agent, Context, Event

agent = Agent("listens")
HEARD = os.path.join(os.environ["HOME"], "heard")


@agent.on("loom.unit.>", concurrency=1)
async def heard(ctx: Context, event: Event[Any]) -> None:
    with open(HEARD, "a") as file:
        file.write(json.dumps({"topic": event.topic, "source": event.source, "gap": event.gap, **event.data}) + "\n")


if __name__ == "__main__":
    agent.main()
