"""Says READY=1, beats once, and then stands still: the watchdog's case. Ten lines, no dependency, as under systemd."""

import os
import socket
import time

with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.connect(os.environ["NOTIFY_SOCKET"])
    notify.send(b"READY=1\nSTATUS=about to hang\nWATCHDOG=1")
time.sleep(1000)
