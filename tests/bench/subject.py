"""What is measured: a supervisor in a directory of its own. One subclass per file in `peers`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import processes
from .births import Births

START_LIMIT = 20.0
COMMAND_LIMIT = 20.0


class Unable(Exception):
    """This subject cannot do this; the text says why."""


class NoStatus(Unable):
    """It has no command that tells its units' states."""


@dataclass(frozen=True)
class Ground:
    """What all subjects of one run share."""

    directory: Path
    births: Births
    born: Path
    floor: Path


class Subject:
    """Runs units `u0`, `u1`, …: each is `born FIFO u<n>`, restarted without delay whenever it ends."""

    name = ""
    #: Programs that it needs, the root's first.
    needs: tuple[str, ...] = ()
    #: Restarts take it seconds: left out by QUICK=1.
    slow = False
    #: Said where there are none on the machine.
    hint = "not on PATH"

    def __init__(self, ground: Ground, place: str) -> None:
        self.ground = ground
        self.directory = ground.directory / place
        self.directory.mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    # ---- what a subclass says

    def write(self, count: int) -> None:
        """Writes the configuration of `count` units that start with the root."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """The root's command line."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def status_command(self) -> list[str]:
        """Asks for the state of all units. Its exit status is 0 once the root answers."""
        raise NoStatus("has no status command")

    def root(self) -> int:
        """The process whose death is the supervisor's death."""
        assert self.process
        return self.process.pid

    @classmethod
    def cannot_run(cls) -> str | None:
        """Why it cannot be measured here, if so."""
        missing = [program for program in cls.needs if not shutil.which(program)]
        return f"`{missing[0]}`: {cls.hint}" if missing else None

    # ---- what all have in common

    @property
    def env(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.directory), "LANG": "C.UTF-8", **self.environment()}

    def child(self, name: str, *more: str) -> list[str]:
        return [str(self.ground.born), str(self.ground.births.path), name, *more]

    def service_directories(self, count: int) -> Path:
        """For those that run `./run` in every directory of a directory."""
        scanned = self.directory / "scan"
        scanned.mkdir()
        for n in range(count):
            service = scanned / f"u{n}"
            service.mkdir()
            (service / "run").symlink_to(self.ground.born)
            (service / "births").symlink_to(self.ground.births.path)
        return scanned

    def start(self) -> int:
        """Starts the root; gives the moment before, in ns."""
        with (self.directory / "out").open("ab") as out:
            begin = time.monotonic_ns()
            self.process = subprocess.Popen(
                self.command(), env=self.env, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        return begin

    def run(self, command: list[str]) -> bool:
        ended = subprocess.run(
            command,
            env=self.env,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_LIMIT,
        )
        return ended.returncode == 0

    def status(self) -> bool:
        """Asks once, as a person would; whether there was an answer."""
        return self.run(self.status_command())

    def answers(self) -> bool:
        """Asks once, on the fastest way there is."""
        return self.status()

    def await_answer(self, limit: float = START_LIMIT) -> None:
        end = time.monotonic() + limit
        while time.monotonic() < end:
            if self.answers():
                return
            time.sleep(0.0005)
        raise Unable(f"did not answer within {limit:.0f} s: {self.last_words()}")

    def await_units(self, count: int, limit: float = START_LIMIT) -> dict[str, int]:
        """Pids by name, once all were born."""
        names = {f"u{n}" for n in range(count)}
        seen = self.ground.births.of(names, limit)
        if len(seen) < count:
            raise Unable(f"{len(seen)} of {count} units ran within {limit:.0f} s: {self.last_words()}")
        return {name: birth.pid for name, birth in seen.items()}

    def own(self) -> list[int]:
        """All processes of the supervisor, its units left out."""
        root = self.root()
        return [root, *(pid for pid in processes.descendants(root) if not processes.runs(pid, self.ground.born))]

    def kill_root(self) -> None:
        os.kill(self.root(), signal.SIGKILL)
        if self.process and self.process.pid == self.root():
            self.process.wait(COMMAND_LIMIT)

    def last_words(self) -> str:
        lines = (self.directory / "out").read_text(errors="replace").strip().splitlines()
        return lines[-1][:160] if lines else "it said nothing"

    def tidy(self) -> None:
        """Removes what it leaves outside its directory; its processes are gone by then."""
