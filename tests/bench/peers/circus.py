"""circus: Python over ZeroMQ."""

from ..subject import Subject


class Circus(Subject):
    name = "circus"
    slow = True
    needs = ("circusd", "circusctl")
    hint = "not on PATH (PyPI: circus)"

    def write(self, count: int) -> None:
        text = f"[circus]\nendpoint=ipc://{self.directory}/ctl\npubsub_endpoint=ipc://{self.directory}/pub\nwarmup_delay=0\n"
        for n in range(count):
            text += f"[watcher:u{n}]\ncmd={' '.join(self.child(f'u{n}'))}\nmax_retry=-1\nwarmup_delay=0\n"
        (self.directory / "ini").write_text(text)

    def command(self) -> list[str]:
        return ["circusd", "--log-level", "error", str(self.directory / "ini")]

    def status_command(self) -> list[str]:
        return ["circusctl", "--endpoint", f"ipc://{self.directory}/ctl", "--timeout", "10", "status"]
