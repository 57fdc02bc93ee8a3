"""process-compose: Go, one process."""

from __future__ import annotations

import json

from ..subject import Subject


class ProcessCompose(Subject):
    name = "process-compose"
    needs = ("process-compose",)
    hint = "not on PATH (a Go program; no package registry has it)"

    def write(self, count: int) -> None:
        processes = {
            f"u{n}": {
                "command": " ".join(self.child(f"u{n}")),
                # Whole seconds, and 0 reads as 1.
                "availability": {"restart": "always", "backoff_seconds": 1},
            }
            for n in range(count)
        }
        # JSON is YAML.
        settings = {"version": "0.5", "log_location": "/dev/null", "processes": processes}
        (self.directory / "process-compose.yaml").write_text(json.dumps(settings))

    def command(self) -> list[str]:
        socket = str(self.directory / "sock")
        file = str(self.directory / "process-compose.yaml")
        return ["process-compose", "up", "--tui=false", "--keep-project", "-U", "--unix-socket", socket, "-f", file]

    def status_command(self) -> list[str]:
        return ["process-compose", "process", "list", "-U", "--unix-socket", str(self.directory / "sock")]
