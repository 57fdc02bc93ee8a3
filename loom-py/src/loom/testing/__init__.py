"""testing: agents without loomd.

Job: the same wire messages over a real ipc socket, a model that follows a script, and a bench that holds both.
May touch: a temporary directory. Keeps: nothing here is confined, durable or granted; it says what arrived, exactly.

    async with testing.bench(agent) as bench:
        assert await bench.request("unit.echo.say", "hi") == "hi (1)"
        await bench.restart()
        assert await bench.request("unit.echo.say", "hi") == "hi (2)"
"""

from __future__ import annotations

from .bench import Bench, bench
from .scripted import Answer, Cut, Fail, ScriptedModel, Wait
from .supervisor import FakeSupervisor

__all__ = ["Answer", "Bench", "Cut", "Fail", "FakeSupervisor", "ScriptedModel", "Wait", "bench"]
