"""pitchfork: Rust, a daemon for developers' services."""

from ..subject import Subject


class Pitchfork(Subject):
    name = "pitchfork"
    slow = True
    needs = ("pitchfork",)
    hint = "not on PATH (crates.io: pitchfork-cli)"

    def write(self, count: int) -> None:
        text = ""
        for n in range(count):
            text += (
                f'[daemons.u{n}]\nrun = "exec {" ".join(self.child(f"u{n}"))}"\nretry = 1000000\nboot_start = true\n'
            )
        (self.directory / "config").mkdir()
        (self.directory / "config/config.toml").write_text(text)

    def environment(self) -> dict[str, str]:
        return {
            "PITCHFORK_CONFIG_DIR": str(self.directory / "config"),
            "PITCHFORK_STATE_DIR": str(self.directory / "state"),
            "PITCHFORK_LOG": "error",
        }

    def command(self) -> list[str]:
        return ["pitchfork", "supervisor", "run", "--boot"]

    def status_command(self) -> list[str]:
        return ["pitchfork", "list"]
