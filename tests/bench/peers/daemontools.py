"""daemontools: where s6 and runit come from."""

from ..subject import Subject


class Daemontools(Subject):
    name = "daemontools"
    slow = True
    needs = ("svscan", "supervise", "svstat")
    hint = "not on PATH (Debian: daemontools)"

    def write(self, count: int) -> None:
        self.scanned = self.service_directories(count)

    def command(self) -> list[str]:
        return ["svscan", str(self.scanned)]

    def status_command(self) -> list[str]:
        # It exits 0 in any case.
        return ["sh", "-c", f"! svstat {self.scanned}/u* | grep -v ': up '"]
