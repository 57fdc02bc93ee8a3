"""_progress: whether this agent's work moves.

Job: tell the supervisor when the agent waits on purpose, when it no longer does, and that something was done.
May touch: the notifier. Keeps: nothing is said unless somebody watches; a busy agent says a few lines a second at most,
an idle one none at all.
"""

from __future__ import annotations

import asyncio
import time

from ._notify import Notifier

#: At most one word of progress in this time; less where the unit's limit is short.
PROGRESS_EVERY_S = 1.0
#: Without work for this long the agent waits on purpose, so that event after event is not told as idle and not idle.
IDLE_AFTER_S = 0.1


class Progress:
    """Belongs to one life of an agent; `made` may be called from any thread."""

    def __init__(self, notifier: Notifier, limit_us: int) -> None:
        self._notifier = notifier
        self._watched = limit_us > 0
        limit_s = limit_us / 1e6
        self._every = min(PROGRESS_EVERY_S, limit_s / 4)
        self._settle = min(IDLE_AFTER_S, limit_s / 4)
        self._said_at = -self._every
        self._idle = False
        self._soon: asyncio.TimerHandle | None = None

    def made(self) -> None:
        """Something was done."""
        now = time.monotonic()
        if self._watched and now - self._said_at >= self._every:
            self._said_at = now
            self._notifier.say("X_LOOM_PROGRESS=1")

    def begins(self) -> None:
        """There is work."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._idle:
            self._idle = False
            self._notifier.say("X_LOOM_IDLE=0")

    def rests(self) -> None:
        """There is no work. On the event loop."""
        if self._watched and not self._idle and self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(self._settle, self._say_idle)

    def close(self) -> None:
        """Nothing more is said."""
        self._watched = False
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None

    def _say_idle(self) -> None:
        self._soon = None
        self._idle = True
        self._notifier.say("X_LOOM_IDLE=1")
