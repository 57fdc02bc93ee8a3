"""A service as people write them for systemd: Type=notify-reload, a watchdog, the real libsystemd. It knows no Loom.

Beside it lies what it was told: `watchdog_usec` is what sd_watchdog_enabled says, `reloads` grows with each SIGHUP.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time

systemd = ctypes.CDLL("libsystemd.so.0", use_errno=True)
HOME = os.environ["HOME"]
stopping = False
reloads = 0


def notify(text: str) -> None:
    sent = systemd.sd_notify(0, text.encode())
    if sent <= 0:
        raise OSError(-sent, f"sd_notify({text!r})")


def on_hup(_number: int, _frame: object) -> None:
    global reloads
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notify(f"RELOADING=1\nMONOTONIC_USEC={now}")
    reloads += 1
    with open(f"{HOME}/reloads", "w") as file:
        file.write(str(reloads))
    notify(f"READY=1\nSTATUS=read its settings {reloads} times")


def on_term(_number: int, _frame: object) -> None:
    global stopping
    stopping = True


signal.signal(signal.SIGHUP, on_hup)
signal.signal(signal.SIGTERM, on_term)
interval = ctypes.c_uint64(0)
enabled = systemd.sd_watchdog_enabled(0, ctypes.byref(interval))
with open(f"{HOME}/watchdog_usec", "w") as file:
    file.write(str(interval.value if enabled > 0 else 0))
notify(f"READY=1\nSTATUS=serving\nMAINPID={os.getpid()}")
# Everything said so far has been taken when this returns.
if systemd.sd_notify_barrier(0, ctypes.c_uint64(5_000_000)) < 0:
    raise SystemExit("the barrier was not answered")
while not stopping:
    notify("WATCHDOG=1")
    time.sleep(interval.value / 4e6 if interval.value else 0.1)
notify("STOPPING=1\nSTATUS=ending")
