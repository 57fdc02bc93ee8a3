"""Loom, twice: a service with the least confinement that can be written, and an agent with everything on.

It is asked through its control socket on one connection kept open; `loomctl` is used only where it says so."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import socket
import time
from pathlib import Path

from ..processes import cgroup_v2
from ..subject import COMMAND_LIMIT, Ground, Subject, Unable

RESTART = '[restart]\npolicy = "always"\ndelay = "0ms"\nmax_delay = "0ms"\n'


class Control(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("loom", timeout=COMMAND_LIMIT)
        self.path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Loom(Subject):
    name = "Loom"
    needs = ("loomd", "loomctl", "loom-launch")
    kind = "service"
    extra = ""

    def __init__(self, ground: Ground, place: str) -> None:
        super().__init__(ground, place)
        self.units = self.directory / "units"
        self.units.mkdir()
        self.control: Control | None = None

    def unit(self, name: str, *mode: str, more: str = "") -> None:
        words = json.dumps(self.child(name, *mode))
        (self.units / f"{name}.{self.kind}.toml").write_text(
            f"[exec]\ncommand = {words}\n{RESTART}{more}{self.extra}"
            f'[sandbox]\nexecute = ["{self.ground.born}"]\nwrite = ["{self.ground.births.path}"]\n'
        )

    def write(self, count: int) -> None:
        for n in range(count):
            self.unit(f"u{n}")
        wants = json.dumps([f"u{n}.{self.kind}" for n in range(count)])
        (self.units / "default.target.toml").write_text(f"[unit]\nwants = {wants}\n")

    def environment(self) -> dict[str, str]:
        return {
            "LOOM_RUNTIME_DIR": str(self.directory / "run"),
            "LOOM_STATE_DIR": str(self.directory / "state"),
            "LOOM_UNIT_PATH": str(self.units),
            "LOOM_JOURNAL_DIR": str(self.directory / "none"),
        }

    def command(self) -> list[str]:
        return ["loomd"]

    def status_command(self) -> list[str]:
        return ["loomctl", "status"]

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """One request on the connection that is kept open."""
        try:
            if self.control is None:
                self.control = Control(self.directory / "run/control.sock")
            self.control.request(method, path, None if body is None else json.dumps(body))
            answer = self.control.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self.control = None
            raise

    def must(self, method: str, path: str, body: object = None) -> bytes:
        status, answer = self.ask(method, path, body)
        if status >= 300:
            raise Unable(f"{method} {path}: {status} {answer.decode(errors='replace')[:200]}")
        return answer

    def answers(self) -> bool:
        try:
            return self.ask("GET", "/v1/status")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def tidy(self) -> None:
        # A killed loomd leaves the cgroup that is named after its runtime directory.
        name = "loom-" + hashlib.sha256(str(self.directory / "run").encode()).hexdigest()[:12]
        # Not pathlib's search: it stops at a group that somebody else removes meanwhile.
        for above, groups, _ in os.walk(cgroup_v2() or "/nonexistent"):
            if name in groups:
                for directory, _, _ in os.walk(Path(above) / name, topdown=False):
                    with contextlib.suppress(OSError):
                        Path(directory).rmdir()

    def kill_root(self) -> None:
        super().kill_root()
        self.control = None

    def active(self) -> int:
        return self.must("GET", "/v1/status").count(b'"active_state":"active"')

    def await_pids(self, pids: dict[str, int], limit: float) -> float | None:
        """Seconds until status tells these main processes; None if it did not within `limit`."""
        begin = time.monotonic()
        while time.monotonic() < begin + limit:
            if self.answers():
                listed = json.loads(self.must("GET", "/v1/status"))["units"]
                seen = {unit["unit"].partition(".")[0]: unit["main_pid"] for unit in listed}
                if all(seen.get(name) == pid for name, pid in pids.items()):
                    return time.monotonic() - begin
            time.sleep(0.002)
        return None


class LoomAgent(Loom):
    name = "Loom, all on"
    kind = "agent"
    extra = '[bus]\npublish = ["bench.>"]\nsubscribe = ["bench.>"]\n[limits]\nopen_files = 256\n'
