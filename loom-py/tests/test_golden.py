"""The messages of `schemas/golden/` mean the same here as in Rust."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loom import __version__, wire

GOLDEN = Path(__file__).parents[2] / "schemas" / "golden"
FILES = sorted(GOLDEN.glob("*.json"))

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs schemas/golden")


def frames_of(golden: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(frame) for frame in golden["frames_hex"]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_golden_message_reads_as_written(file: Path) -> None:
    golden = json.loads(file.read_text())
    message = wire.decode(frames_of(golden))
    assert (message.op, message.header) == (golden["op"], golden["header"])
    assert message.op[0] == str(wire.VERSION)
    assert message.op[1].isupper() == file.stem.startswith("unit-")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_golden_message_survives_being_written_here(file: Path) -> None:
    golden = json.loads(file.read_text())
    message = wire.decode(frames_of(golden))
    assert wire.decode(wire.encode(message)) == message


async def test_what_the_session_says_has_the_keys_of_the_golden_messages() -> None:
    """HELLO as it really leaves, beside its golden form; `token` is only for connections without PLAIN."""
    session = wire.Session(
        path="/nowhere", unit="chat.agent", run=7, token="0" * 64, sdk=f"loom-py/{__version__}",
        handlers=["unit.chat.ask"], on_delivery=lambda _: None, on_cancel=lambda *_: None, on_drain=lambda _: None,
    )  # fmt: skip
    hello = session._hello_message()
    golden = json.loads((GOLDEN / "unit-hello.json").read_text())
    assert set(hello.header) == set(golden["header"]) - {"token"}
    assert wire.json_value(hello.data) == json.loads(frames_of(golden)[2])
