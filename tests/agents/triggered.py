"""Keeps what schedules put into its mailbox: the state's `heard` is the list of it."""

from __future__ import annotations

import os
from typing import Any

from loom import Agent, Context, Event

NAME = os.environ["LOOM_UNIT"].rsplit(".", 1)[0]
agent = Agent(NAME)


@agent.on(f"unit.{NAME}.trigger.*")
async def heard(ctx: Context, event: Event[Any]) -> None:
    before = await ctx.state.get("heard", default=[])
    await ctx.state.put("heard", [*before, event.data])


if __name__ == "__main__":
    agent.main()
