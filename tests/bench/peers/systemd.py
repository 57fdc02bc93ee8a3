"""systemd --user, in a mount and cgroup namespace of its own: it runs where systemd is not process 1, and touches no
unit of the machine."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from ..processes import cgroup_v2
from ..subject import Subject

PROGRAM = Path("/lib/systemd/systemd")
# /run/systemd/system says "booted with systemd"; the cgroup becomes the root of what it sees.
SETUP = """
set -e
mount -t tmpfs none /run
mkdir -p /run/systemd/system
echo $$ >"$1"/cgroup.procs
exec unshare --cgroup --mount sh -c '
  umount -R /sys/fs/cgroup 2>/dev/null || true
  mount -t cgroup2 none /sys/fs/cgroup && exec "$@"' sh "$2" --user --log-target=null
"""


class Systemd(Subject):
    name = "systemd --user"
    needs = ("systemctl", "unshare")

    @classmethod
    def cannot_run(cls) -> str | None:
        if not PROGRAM.exists():
            return f"`{PROGRAM}` is not there"
        if os.geteuid() != 0:
            return "needs root for a namespace in which it believes the machine was booted with systemd"
        if cgroup_v2() is None:
            return "no cgroup v2 is mounted"
        return super().cannot_run()

    @property
    def group(self) -> Path:
        return (cgroup_v2() or Path()) / f"loom-bench-{os.getpid()}-{self.directory.name}"

    def write(self, count: int) -> None:
        units = self.directory / "units"
        units.mkdir()
        (self.directory / "run").mkdir(mode=0o700)
        self.group.mkdir()
        names = [f"u{n}.service" for n in range(count)]
        (units / "default.target").write_text(f"[Unit]\nDefaultDependencies=no\nWants={' '.join(names)}\n")
        for n, name in enumerate(names):
            (units / name).write_text(
                "[Unit]\nDefaultDependencies=no\nStartLimitIntervalSec=0\n"
                f"[Service]\nExecStart={' '.join(self.child(f'u{n}'))}\nRestart=always\nRestartSec=0\n"
                "StandardOutput=null\nStandardError=null\n"
            )

    def environment(self) -> dict[str, str]:
        return {
            "XDG_RUNTIME_DIR": str(self.directory / "run"),
            "XDG_CONFIG_HOME": str(self.directory / "config"),
            # Its own units only: nothing of the machine is started.
            "SYSTEMD_UNIT_PATH": str(self.directory / "units"),
        }

    def command(self) -> list[str]:
        unshare = shutil.which("unshare") or "unshare"
        return [unshare, "--mount", "sh", "-c", SETUP, "sh", str(self.group), str(PROGRAM)]

    def status_command(self) -> list[str]:
        return ["systemctl", "--user", "list-units", "--all", "--no-pager"]

    def tidy(self) -> None:
        for directory, _, _ in os.walk(self.group, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
