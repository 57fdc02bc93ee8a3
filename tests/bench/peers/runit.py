"""runit: a supervisor process per unit."""

from ..subject import Subject


class Runit(Subject):
    name = "runit"
    needs = ("runsvdir", "runsv", "sv")
    hint = "not on PATH (Debian: runit)"

    def write(self, count: int) -> None:
        self.scanned = self.service_directories(count)

    def command(self) -> list[str]:
        return ["runsvdir", "-P", str(self.scanned)]

    def status_command(self) -> list[str]:
        return ["sh", "-c", f"exec sv status {self.scanned}/u*"]
