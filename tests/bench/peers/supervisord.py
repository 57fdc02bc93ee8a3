"""supervisord: Python, looks once a second."""

from ..subject import Subject


class Supervisord(Subject):
    name = "supervisord"
    slow = True
    needs = ("supervisord", "supervisorctl")
    hint = "not on PATH (PyPI: supervisor)"

    def write(self, count: int) -> None:
        socket = self.directory / "sock"
        text = (
            f"[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={self.directory}/pid\n"
            f"[unix_http_server]\nfile={socket}\n[supervisorctl]\nserverurl=unix://{socket}\n[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        )
        for n in range(count):
            text += (
                f"[program:u{n}]\ncommand={' '.join(self.child(f'u{n}'))}\nautorestart=true\nstartsecs=0\n"
                "stdout_logfile=NONE\nstderr_logfile=NONE\n"
            )
        (self.directory / "conf").write_text(text)

    def command(self) -> list[str]:
        return ["supervisord", "-c", str(self.directory / "conf")]

    def status_command(self) -> list[str]:
        return ["supervisorctl", "-c", str(self.directory / "conf"), "status"]
