"""The main job, to its end, on the embedded default: start, ask, kill, remember, refuse, adopt, stop.

Runs from a checkout (`make demo`), needs no input, ends with 0, or with 1 and the reason. Every fact it states is read
back from Loom or from the kernel in the same run; nothing is printed because it ought to be so.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

TOP = Path(__file__).resolve().parents[2]
LIMIT = 120.0
MODEL_LIMIT = 180.0
BOLD, DIM, END = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")

began = time.monotonic()
step_began = began
number = 0
daemon: subprocess.Popen[bytes] | None = None


class Failed(Exception):
    """The demo cannot go on; the text is the reason."""


def say(text: str) -> None:
    print(f"   {text}", flush=True)


def step(title: str) -> None:
    global number, step_began
    if number:
        print(f"{DIM}   ({time.monotonic() - step_began:.1f} s){END}")
    number += 1
    step_began = time.monotonic()
    print(f"\n{BOLD}{number}. {title}{END}", flush=True)


def ctl(*words: str, show: bool = True, may_fail: bool = False) -> str:
    """Runs loomctl as a person would, showing the command and what it says."""
    if show:
        print(f"   $ loomctl {' '.join(json.dumps(word) if ' ' in word else word for word in words)}", flush=True)
    out = subprocess.run(["loomctl", *words], cwd=TOP, capture_output=True, text=True, timeout=MODEL_LIMIT)
    if show:
        for line in (out.stdout + out.stderr).splitlines():
            say(f"{DIM}│{END} {line}")
    if out.returncode and not may_fail:
        raise Failed(f"loomctl {' '.join(words)} ended with {out.returncode}: {out.stderr.strip()}")
    return out.stdout


def view(unit: str) -> dict[str, Any]:
    seen: dict[str, Any] = json.loads(ctl("status", unit, "--json", show=False, may_fail=True) or "{}")
    return seen


def ask(question: str, thread: str) -> dict[str, Any]:
    """Asks the agent; its tokens are shown as they come. Returns the reply as JSON."""
    print(f'   $ loomctl ask chat "{question}"', flush=True)
    print("   │ ", end="", flush=True)
    talk = subprocess.Popen(
        ["loomctl", "ask", "chat", question, "--thread", thread, "--timeout", "170s"],
        cwd=TOP,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=False,
    )
    assert talk.stdout is not None and talk.stderr is not None
    answer, first = b"", None
    from_here = time.monotonic()
    while chunk := os.read(talk.stdout.fileno(), 4096):
        first = first or time.monotonic() - from_here
        answer += chunk
        sys.stdout.write(chunk.decode(errors="replace").replace("\n", "\n   │ "))
        sys.stdout.flush()
    said = talk.stderr.read().decode(errors="replace")
    print()
    for line in said.splitlines():
        say(f"{DIM}│ {line}{END}")
    if talk.wait():
        raise Failed(f"the question was not answered: {said.strip()}")
    say(f"{DIM}first words after {first or 0:.2f} s, all after {time.monotonic() - from_here:.2f} s{END}")
    return {"text": answer.decode(errors="replace").strip(), "said": said}


def until(what: str, test: Any) -> Any:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if found := test():
            return found
        time.sleep(0.01)
    raise Failed(f"not within {LIMIT:.0f} s: {what}")


def start_loomd() -> float:
    """Starts loomd and returns how long it took until it said READY=1."""
    global daemon
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as upward:
        address = f"{directory}/notify.sock"
        upward.bind(address)
        upward.settimeout(LIMIT)
        start = time.monotonic()
        (TOP / "var").mkdir(exist_ok=True)
        words = (TOP / "var/loomd.stderr").open("ab")
        daemon = subprocess.Popen(["loomd"], cwd=TOP, env={**os.environ, "NOTIFY_SOCKET": address}, stderr=words)
        upward.settimeout(0.2)
        while time.monotonic() < start + LIMIT:
            try:
                if b"READY=1" in upward.recv(4096).splitlines():
                    return time.monotonic() - start
            except TimeoutError:
                if daemon.poll() is not None:
                    words.close()
                    reason = (TOP / "var/loomd.stderr").read_text().strip().splitlines()[-1:]
                    daemon = None
                    raise Failed(f"loomd ended at once: {' '.join(reason)}") from None
    raise Failed("loomd did not say READY=1")


def kill_9(pid: int) -> None:
    say(f"$ kill -9 {pid}")
    os.kill(pid, signal.SIGKILL)


def ours() -> list[str]:
    """Living processes whose environment names this checkout's runtime directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if f"{TOP}/var/run".encode() in (entry / "environ").read_bytes():
                    found.append(f"{entry.name} {(entry / 'cmdline').read_bytes().replace(bytes(1), b' ').decode()}")
            except OSError:
                continue
    return found


def model_serves() -> None:
    """Whatever answers on its port must be the unit that was started here."""

    def settled() -> dict[str, Any] | None:
        model = view("local-llm.service")
        if model["result"] != "success" and model["active_state"] != "active":
            words = ctl("logs", "local-llm.service", "-n", "20", show=False).splitlines()
            why = next((line for line in words if "error" in line), "see its log below")
            raise Failed(f"the local model does not start: {why}")
        return model if model["active_state"] == "active" else None

    until("the local model serves", settled)


def run() -> None:
    thread = f"demo-{os.getpid()}-{int(time.time())}"
    step("loomd gets ready")
    say(f"READY=1 after {start_loomd() * 1000:.0f} ms, pid {daemon.pid if daemon else '?'}")

    step("The units, and what is enforced on the agent")
    ctl("start", "chat.target")
    model_serves()
    ctl("status")
    ctl("status", "chat")

    step("A question, answered by the real model (SmolLM2 135M: small, honest, local)")
    ask("My name is Ada. Please greet me by name.", thread)

    step("kill -9 of the agent: it comes back under a new run number")
    before = view("chat")
    start = time.monotonic()
    kill_9(before["main_pid"])
    after = until(
        "the agent is ready again",
        lambda: (v := view("chat")).get("run", 0) > before["run"] and v["active_state"] == "active" and v,
    )
    say(f"run {before['run']} (pid {before['main_pid']}) → run {after['run']} (pid {after['main_pid']})")
    say(f"ready again after {time.monotonic() - start:.2f} s; result of the last run: {after['result']}")

    step("It remembers: the prompt of the second question contains the first turn")
    ask("What is my name?", thread)
    prompt = ask("/prompt", thread)["text"]
    if "My name is Ada." not in prompt:
        raise Failed("the first turn is not in the prompt of the second question")
    say("the first turn stands in the prompt that the new process sent")

    step("A tool call: the supervisor lists the workspace for the agent")
    ask("/ls", thread)

    step("A file outside is denied; this is what the agent was told")
    told = ask("/read /etc/shadow", thread)
    if "outside-workspace" not in told["text"] + told["said"]:
        raise Failed("a file outside the workspace was not refused")
    ctl("audit", "chat")

    step("kill -9 of loomd: the agent lives on, a new loomd adopts it")
    agent = view("chat")
    assert daemon is not None
    kill_9(daemon.pid)
    daemon.wait()
    if not Path(f"/proc/{agent['main_pid']}").exists():
        raise Failed("the agent died with its supervisor")
    say(f"agent pid {agent['main_pid']} lives, with no supervisor above it")
    say(f"the new loomd is ready after {start_loomd() * 1000:.0f} ms")
    adopted = view("chat")
    if (adopted["main_pid"], adopted["run"]) != (agent["main_pid"], agent["run"]):
        raise Failed(f"the agent was not adopted: {adopted}")
    ask("What is the capital of France?", thread)
    again = view("chat")
    if again["main_pid"] != agent["main_pid"]:
        raise Failed("another process answered")
    say(f"answered by the same process: pid {again['main_pid']}, run {again['run']}")

    step("The log of it all")
    ctl("logs", "chat", "-n", "25")

    step("A clean stop")
    ctl("stop", "chat.target")
    stop()
    left = ours()
    if left:
        raise Failed(f"processes were left behind: {left}")
    say("no process left")


def stop() -> None:
    """SIGTERM to loomd; it stops every unit in order."""
    global daemon
    if daemon is None:
        return
    start = time.monotonic()
    daemon.terminate()
    status = daemon.wait(timeout=LIMIT)
    daemon = None
    say(f"loomd ended with {status} after {time.monotonic() - start:.2f} s")
    if status:
        raise Failed(f"loomd ended with {status}")


def main() -> NoReturn:
    # Without this, a terminal's hang-up would leave the supervisor running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        run()
    except (Failed, subprocess.TimeoutExpired) as why:
        print(f"\nerror: the demo failed in step {number}: {why}", file=sys.stderr)
        ctl("logs", "chat", "-n", "30", may_fail=True)
        ctl("logs", "local-llm.service", "-n", "10", may_fail=True)
        try:
            stop()
        except (Failed, subprocess.TimeoutExpired):
            if daemon is not None:
                daemon.kill()
        sys.exit(1)
    print(f"\n{BOLD}done{END}: everything above happened in {time.monotonic() - began:.1f} s")
    sys.exit(0)


if __name__ == "__main__":
    main()
