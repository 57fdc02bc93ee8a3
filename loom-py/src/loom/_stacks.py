"""_stacks: what every thread was doing when this process was aborted.

Job: have the interpreter write all stacks where loomd looks for them. May touch: faulthandler, the file in LOOM_STACKS.
Keeps: an agent starts without it too.
"""

from __future__ import annotations

import faulthandler
import logging
from collections.abc import Mapping

_log = logging.getLogger("loom.agent")


def keep(env: Mapping[str, str]) -> str:
    """From now on SIGABRT, which the watchdog sends, and faults leave all stacks; returns the file, `""` for stderr."""
    path = env.get("LOOM_STACKS", "")
    if path:
        try:
            # Open until the process ends: whoever is stuck opens nothing any more.
            file = open(path, "a")  # noqa: SIM115
        except OSError as error:
            _log.warning("cannot keep stacks in %s: %s; they go to stderr", path, error.strerror)
        else:
            faulthandler.enable(file=file, all_threads=True)
            _log.info("if this process is aborted, its stacks are in %s", path)
            return path
    faulthandler.enable(all_threads=True)
    return ""
