"""Leaves a grandchild in a session of its own that ignores SIGTERM, then waits."""

import os
import signal
import time

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with open(os.path.join(os.environ["HOME"], "grandchild"), "w") as file:
            file.write(str(os.getpid()))
        while True:
            time.sleep(1000)
    os._exit(0)
while True:
    time.sleep(1000)
