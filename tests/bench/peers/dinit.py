"""dinit: one process, written in C++; the anchor for speed."""

from ..subject import Subject


class Dinit(Subject):
    name = "dinit"
    needs = ("dinit", "dinitctl")
    hint = "not on PATH (build it from its source, davmac314/dinit)"

    def write(self, count: int) -> None:
        services = self.directory / "services"
        services.mkdir()
        names = [f"u{n}" for n in range(count)]
        (services / "boot").write_text("type = internal\n" + "".join(f"waits-for = {name}\n" for name in names))
        for name in names:
            (services / name).write_text(
                f"type = process\ncommand = {' '.join(self.child(name))}\nrestart = true\nsmooth-recovery = true\n"
                "restart-delay = 0\nrestart-limit-interval = 0\n"
            )

    def command(self) -> list[str]:
        return ["dinit", "--user", "--quiet", "-d", str(self.directory / "services"), "-p", str(self.directory / "ctl")]

    def status_command(self) -> list[str]:
        return ["dinitctl", "-p", str(self.directory / "ctl"), "list"]
