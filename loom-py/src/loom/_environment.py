"""_environment: what loomd tells this process about itself.

Job: read the LOOM_… variables and descriptors once, check them, close them.
May touch: the environment, the descriptors named there. Keeps: secrets print as `***`; a key is read when it is asked
for, not before.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

import msgspec

from .errors import BadEnvironment

CONFIG_LIMIT_BYTES = 4 * 1024 * 1024
SECRET_LIMIT_BYTES = 64 * 1024


class Secret:
    """Text that does not show itself."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """`[llm.<name>]`: one model behind one endpoint."""

    format: str = "openai-chat"
    #: Up to and including `/v1`.
    base_url: str
    model: str
    credential: str | None = None
    #: Tokens that fit, answer included.
    window: int = 8192
    max_output: int = 512
    temperature: float | None = None


class Llm(msgspec.Struct, frozen=True, kw_only=True):
    default: str = ""
    profiles: dict[str, Profile] = {}


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    workspace: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """LOOM_CONFIG_FD's JSON; unknown keys are ignored."""

    version: int = 1
    llm: Llm | None = None
    tools: Tools = Tools()
    #: Name → descriptor.
    credentials: dict[str, int] = {}


class Previous(msgspec.Struct, frozen=True):
    """Why there is this run: how the one before ended. Empty words where nothing is known."""

    result: str = ""
    exit: str = ""
    restarts: int = 0


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a run is given; tests build it by hand."""

    socket: str
    unit: str
    run: int
    token: Secret
    config: Config = Config()
    previous: Previous = Previous()
    notify_socket: str = ""
    watchdog_us: int = 0
    #: How long the work may stand still, where that is watched.
    progress_us: int = 0
    #: Whether what models cost is counted against the unit's ``[budget]``.
    budget: bool = False
    log: str = "stderr"


def read_environment(env: Mapping[str, str]) -> Environment:
    """Reads and closes the token's and the configuration's descriptors.

    Raises:
        BadEnvironment: Not started by loomd, or not as it does.
    """
    missing = [name for name in ("LOOM_SOCKET", "LOOM_UNIT", "LOOM_RUN", "LOOM_TOKEN_FD") if not env.get(name)]
    if missing:
        raise BadEnvironment(
            f"{', '.join(missing)} not set: an agent is started by loomd; write a unit file and `loomctl start` it"
        )
    token = _read_descriptor("LOOM_TOKEN_FD", _number("LOOM_TOKEN_FD", env), limit=4096).decode("ascii", "replace")
    config = Config()
    if env.get("LOOM_CONFIG_FD"):
        raw = _read_descriptor("LOOM_CONFIG_FD", _number("LOOM_CONFIG_FD", env), limit=CONFIG_LIMIT_BYTES)
        try:
            config = msgspec.json.decode(raw, type=Config)
        except msgspec.MsgspecError as error:
            raise BadEnvironment(f"LOOM_CONFIG_FD: {error}") from error
    return Environment(
        socket=env["LOOM_SOCKET"],
        unit=env["LOOM_UNIT"],
        run=_number("LOOM_RUN", env),
        token=Secret(token.strip()),
        config=config,
        previous=Previous(
            result=env.get("LOOM_LAST_RESULT", ""),
            exit=env.get("LOOM_LAST_EXIT", ""),
            restarts=_number("LOOM_RESTART_COUNT", env, default=0),
        ),
        notify_socket=env.get("NOTIFY_SOCKET", ""),
        watchdog_us=_number("WATCHDOG_USEC", env, default=0),
        progress_us=_number("LOOM_PROGRESS_USEC", env, default=0),
        budget=env.get("LOOM_BUDGET") == "1",
        log=env.get("LOOM_LOG", "stderr"),
    )


class Credentials:
    """Keys by name. A key's descriptor is read at the first `get`, then closed; the text stays a `Secret`."""

    def __init__(self, descriptors: Mapping[str, int]) -> None:
        self._descriptors = dict(descriptors)
        self._secrets: dict[str, Secret] = {}

    def get(self, name: str) -> Secret:
        if name not in self._secrets:
            if name not in self._descriptors:
                raise BadEnvironment(f"no credential `{name}`: add it to [exec] credentials of the unit file")
            raw = _read_descriptor(f"credential `{name}`", self._descriptors.pop(name), limit=SECRET_LIMIT_BYTES)
            self._secrets[name] = Secret(raw.decode("utf-8", "replace").strip())
        return self._secrets[name]


def _number(name: str, env: Mapping[str, str], default: int | None = None) -> int:
    text = env.get(name, "")
    if not text and default is not None:
        return default
    try:
        return int(text)
    except ValueError:
        raise BadEnvironment(f"{name}={text!r} is no number") from None


def _read_descriptor(name: str, descriptor: int, *, limit: int) -> bytes:
    """Reads to the end and closes; a sealed memfd may stand anywhere, so it is rewound first."""
    try:
        with contextlib.suppress(OSError):  # a pipe has no place to go back to
            os.lseek(descriptor, 0, os.SEEK_SET)
        chunks: list[bytes] = []
        size = 0
        while chunk := os.read(descriptor, 65536):
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                raise BadEnvironment(f"{name}: more than {limit} bytes")
        os.close(descriptor)
    except OSError as error:
        raise BadEnvironment(f"{name}: cannot read descriptor {descriptor}: {error.strerror}") from error
    return b"".join(chunks)
