"""retries: when a failed call is made again, and after what wait.

Job: decide. May touch: nothing. Keeps: attempts per call and repeats per process are bounded, so that many tasks
against a dead provider make a bounded number of requests; a server's absurd wait is capped.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

ATTEMPTS = 4
FIRST_WAIT_S = 0.5
LAST_WAIT_S = 8.0
#: The longest that a server's `Retry-After` is obeyed; beyond it the caller is told instead.
RETRY_AFTER_CAP_S = 60.0
BUDGET = 20.0
BUDGET_PER_S = 0.2

RETRIED_STATUSES = frozenset({408, 409, 429, 529})


def is_retried(status: int) -> bool:
    return status in RETRIED_STATUSES or 500 <= status < 600


def server_wait(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """`retry-after-ms`, or `Retry-After` in seconds or as a date; None if absent or unreadable."""
    try:
        if "retry-after-ms" in headers:
            return max(float(headers["retry-after-ms"]) / 1000, 0.0)
        text = headers.get("retry-after", "")
        if not text:
            return None
        if text.replace(".", "", 1).isdigit():
            return float(text)
        when = parsedate_to_datetime(text)
        return max((when - (now or datetime.now(UTC))).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


def wait_before(attempt: int, asked: float | None) -> float:
    """Full jitter between nothing and a bound that doubles; never less than what the server asked."""
    bound = min(LAST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1))
    return asked if asked is not None else random.uniform(0, bound)


class Budget:
    """Repeats left for the whole process: a bucket that refills slowly."""

    def __init__(self, size: float = BUDGET, per_s: float = BUDGET_PER_S) -> None:
        self._size, self._per_s = size, per_s
        self._left, self._at = size, 0.0

    def take(self, now: float) -> bool:
        self._left = min(self._size, self._left + max(now - self._at, 0) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
