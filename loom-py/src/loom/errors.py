"""errors: everything that Loom raises, as one tree.

LoomError
├── ModelError            a model gave no answer
│   ├── RateLimited           the provider asks to wait
│   ├── Overloaded            the provider is busy or failed; it may recover
│   ├── Unreachable           no connection to the endpoint
│   ├── IncompleteStream      an answer began and did not end; `partial` has what came
│   ├── ContextOverflow       the conversation does not fit the model's window
│   ├── BadResponse           what came is not what the format promises
│   └── Refused               the provider turned the request down: key, quota, policy
├── ToolError             a tool gave no result; `code` and `outcome` are the broker's
│   ├── Invalid               its arguments were wrong
│   ├── Denied                the unit's [tools] or the tool itself refuses
│   ├── TimedOut              it took too long; it may have run
│   ├── Ambiguous             nobody knows whether it ran
│   └── Unavailable           nothing can run it now
├── BusError              the bus did not do it
│   ├── TopicRefused          the unit's [bus] does not grant it
│   ├── NoReceiver            nobody answers on that topic
│   ├── ReceiverFailed        the receiver refused, failed or died
│   ├── Poisoned              this event ended several runs of its receiver, which gets it no more
│   ├── DeadlineExceeded      no answer in time
│   ├── Busy                  a queue is full
│   └── SupervisorGone        the connection ended and did not come back
├── StateError            the state was not read or written
│   ├── Fenced                a newer run of this unit writes now
│   ├── Conflict              another version is stored; `version` has it
│   └── TooLarge              key or value over the limit
├── StartError            this process cannot be an agent as it was started
│   ├── BadEnvironment        a LOOM_… variable or descriptor is missing or unreadable
│   └── Rejected              the supervisor turned HELLO down; `code` says why
└── RetryLater            yours to raise: ends this run in order, and the next begins no sooner than `retry_after`

Each says in its text what failed, on what and what to do; `retry` whether asking again can help; `retry_after` when.
"""

from __future__ import annotations

import math
from typing import Literal

Retry = Literal["never", "later", "now"]
Outcome = Literal["not-run", "unknown", "done"]


class LoomError(Exception):
    """Base of all; see the module's tree."""

    retry: Retry = "never"

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        retry: Retry | None = None,
        retry_after: float | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        if retry is not None:
            self.retry = retry
        #: Seconds, where someone named them.
        self.retry_after = retry_after
        self.outcome = outcome


class ModelError(LoomError):
    """A model gave no answer. `partial` is the text that had come, never an answer."""

    def __init__(
        self, message: str, *, partial: str = "", retry: Retry | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, retry=retry, retry_after=retry_after)
        self.partial = partial


class RateLimited(ModelError):
    retry = "later"


class Overloaded(ModelError):
    retry = "later"


class Unreachable(ModelError):
    retry = "later"


class IncompleteStream(ModelError):
    retry = "now"


class ContextOverflow(ModelError):
    pass


class BadResponse(ModelError):
    pass


class Refused(ModelError):
    pass


class ToolError(LoomError):
    pass


class Invalid(ToolError):
    pass


class Denied(ToolError):
    pass


class TimedOut(ToolError):
    retry = "later"


class Ambiguous(ToolError):
    pass


class Unavailable(ToolError):
    retry = "later"


class BusError(LoomError):
    pass


class TopicRefused(BusError):
    pass


class NoReceiver(BusError):
    retry = "later"


class ReceiverFailed(BusError):
    pass


class Poisoned(BusError):
    pass


class DeadlineExceeded(BusError):
    retry = "later"


class Busy(BusError):
    retry = "later"


class SupervisorGone(BusError):
    retry = "later"


class StateError(LoomError):
    pass


class Fenced(StateError):
    pass


class Conflict(StateError):
    retry = "now"

    def __init__(self, message: str, *, version: int) -> None:
        super().__init__(message, code="conflict", outcome="not-run")
        #: What is stored now; 0 if nothing is.
        self.version = version


class TooLarge(StateError):
    pass


class StartError(LoomError):
    pass


class BadEnvironment(StartError):
    pass


class Rejected(StartError):
    pass


class RetryLater(LoomError):
    """Raise it in a hook or a handler when nothing can be done for a while: a quota is spent, a provider says 429.

    The agent ends in order with exit status 75: other handlers get their grace time, the event in hand is refused. The
    supervisor starts it again no sooner than `after_s` from then, and counts no failure.

    Args:
        after_s: Seconds, rounded up; capped by the unit's ``restart.retry_after_max``.
        message: For people: what has to pass.
    """

    retry = "later"

    def __init__(self, after_s: float, message: str = "") -> None:
        if not 0 <= after_s < math.inf:
            raise ValueError(f"after_s={after_s!r}: a number of seconds from 0 on")
        super().__init__(message or f"asked to be started again in {after_s:g} s", retry_after=after_s)
        #: Seconds.
        self.after_s = after_s


_BUS: dict[str, type[BusError]] = {
    "denied": TopicRefused,
    "revoked": TopicRefused,
    "no-receiver": NoReceiver,
    "unit-failed": ReceiverFailed,
    "poisoned": Poisoned,
    "deadline": DeadlineExceeded,
    "busy": Busy,
    "too-many": Busy,
}
_TOOL: dict[str, type[ToolError]] = {
    "invalid-arguments": Invalid,
    "tool-not-found": Invalid,
    "denied": Denied,
    "outside-workspace": Denied,
    "approval-denied": Denied,
    "approval-expired": Denied,
    "timeout": TimedOut,
    "deadline": TimedOut,
    "unavailable": Unavailable,
    "rate-limited": Unavailable,
    "budget-exhausted": Unavailable,
    "server-failed": Unavailable,
    "busy": Unavailable,
    "server-died": Ambiguous,
    "unit-failed": Ambiguous,
}
_STATE: dict[str, type[StateError]] = {"fenced": Fenced, "too-big": TooLarge, "quota": TooLarge}


def of_wire(op: str, error: dict[str, object]) -> LoomError:
    """The exception for an ERROR of the broker, by what was asked (`1K`, `1L`, or anything else on the bus)."""
    code = str(error.get("code", "unknown"))
    message = str(error.get("message") or code)
    if op == "1K" and code == "conflict":
        version = error.get("version")
        return Conflict(message, version=version if isinstance(version, int) else 0)
    retry = error.get("retry")
    after_ms = error.get("retry_after_ms")
    outcome = error.get("outcome")
    kind: type[LoomError]
    if op == "1K":
        kind = _STATE.get(code, StateError)
    elif op == "1L":
        kind = _TOOL.get(code, ToolError)
    else:
        kind = _BUS.get(code, BusError)
    return kind(
        message,
        code=code,
        retry=retry if retry in ("never", "later", "now") else None,
        retry_after=after_ms / 1000 if isinstance(after_ms, int | float) else None,
        outcome=outcome if outcome in ("not-run", "unknown", "done") else None,
    )
