"""s6: a supervisor process per unit; the anchor for survival."""

from ..subject import Subject


class S6(Subject):
    name = "s6"
    needs = ("s6-svscan", "s6-supervise", "s6-svstat")
    hint = "not on PATH (Debian: s6)"

    def write(self, count: int) -> None:
        self.scanned = self.service_directories(count)

    def command(self) -> list[str]:
        return ["s6-svscan", str(self.scanned)]

    def status_command(self) -> list[str]:
        # It has no command for all of them.
        return ["sh", "-c", f"for one in {self.scanned}/u*; do s6-svstat $one || exit 1; done"]
