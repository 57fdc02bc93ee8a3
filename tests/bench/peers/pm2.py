"""pm2: Node; its daemon leaves the command that starts it."""

from __future__ import annotations

import json
import subprocess

from ..subject import Subject, Unable


class Pm2(Subject):
    name = "pm2"
    slow = True
    needs = ("pm2", "node")
    hint = "not on PATH (npm: pm2)"

    def write(self, count: int) -> None:
        apps = []
        for n in range(count):
            program, *arguments = self.child(f"u{n}")
            apps.append(
                {
                    "name": f"u{n}",
                    "script": program,
                    "args": arguments,
                    "interpreter": "none",
                    "exec_mode": "fork",
                    "max_restarts": 1_000_000_000,
                    "out_file": "/dev/null",
                    "error_file": "/dev/null",
                    "vizion": False,
                    "pmx": False,
                    "automation": False,
                }
            )
        (self.directory / "apps.json").write_text(json.dumps({"apps": apps}))
        self.empty = count == 0

    def environment(self) -> dict[str, str]:
        return {"PM2_HOME": str(self.directory / "pm2"), "PM2_DISABLE_VERSION_CHECK": "true"}

    def command(self) -> list[str]:
        return ["pm2", "ping"] if self.empty else ["pm2", "start", str(self.directory / "apps.json")]

    def root(self) -> int:
        try:
            return int((self.directory / "pm2/pm2.pid").read_text())
        except (OSError, ValueError) as error:
            raise Unable("its daemon has not written its pid") from error

    def kill_root(self) -> None:
        assert self.process
        self.process.wait(60)
        super().kill_root()

    def own(self) -> list[int]:
        # Not before the command that brings the daemon up is over.
        assert self.process
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired as error:
            raise Unable("`pm2 start` did not end") from error
        return super().own()

    def status_command(self) -> list[str]:
        return ["pm2", "list"]

    def answers(self) -> bool:
        # Asking starts a daemon where there is none.
        return (self.directory / "pm2/pm2.pid").exists() and self.status()
