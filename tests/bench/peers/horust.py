"""Horust: Rust, made for containers."""

from ..subject import Subject


class Horust(Subject):
    name = "Horust"
    slow = True
    needs = ("horust",)
    hint = "not on PATH (crates.io: horust)"

    def write(self, count: int) -> None:
        services = self.directory / "services"
        services.mkdir()
        (self.directory / "uds").mkdir()
        for n in range(count):
            (services / f"u{n}.toml").write_text(
                f'command = "{" ".join(self.child(f"u{n}"))}"\nstdout = "/dev/null"\nstderr = "/dev/null"\n'
                '[restart]\nstrategy = "always"\nbackoff = "0s"\nattempts = 1000000\n'
            )

    def command(self) -> list[str]:
        return [
            "horust",
            "--services-path",
            str(self.directory / "services"),
            "--uds-folder-path",
            str(self.directory / "uds"),
        ]
