"""examples/chat-agent with a scripted model: memory, tools, refusals, cancelling, failures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from loom import Turn, errors, testing
from loom.models import Retrying
from loom.testing import Answer, Bench, Cut, Fail, ScriptedModel, Wait

PROGRAM = Path(__file__).parents[2] / "examples" / "chat-agent" / "agent.py"
TOPIC = "unit.chat.ask"
#: A window whose model gets the conversation as it was.
LARGE = 16384


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chat_agent", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["chat_agent"] = module  # its annotations are looked up there
    spec.loader.exec_module(module)
    return module


def fs_list(path: str, depth: int = 1) -> Any:
    return {"entries": [{"path": "a.md", "type": "file", "size": 3}, {"path": "notes", "type": "directory"}]}


def fs_read(path: str) -> Any:
    if path.startswith("/"):
        raise errors.Denied(f"`{path}` is outside the workspace", code="outside-workspace")
    return {"content": f"the text of {path}", "total": 20, "eof": True}


TOOLS = {"fs:list": fs_list, "fs:read": fs_read}


async def say(bench: Bench, text: str, thread: str = "t") -> tuple[Any, list[Any]]:
    reply, progress = await bench.supervisor.request(TOPIC, {"text": text, "thread": thread})
    return reply, progress


async def test_tokens_stream_and_the_second_prompt_holds_the_first_turn_after_a_restart() -> None:
    model = ScriptedModel("Hello Ada, nice.", "You are Ada.", "Who?", window=LARGE)
    async with testing.bench(load().agent, model=model) as bench:
        reply, progress = await say(bench, "I am Ada")
        assert reply["text"] == "Hello Ada, nice." and reply["stop_reason"] == "final"
        tokens = [step for step in progress if step["kind"] == "token"]
        assert "".join(step["text"] for step in tokens) == reply["text"]
        assert all(reply["text"][step["at"] :].startswith(step["text"]) for step in tokens)
        await bench.restart()
        await say(bench, "Who am I?")
        assert [(m.role, m.content) for m in model.asked[1][1:]] == [
            ("user", "I am Ada"),
            ("assistant", "Hello Ada, nice."),
            ("user", "Who am I?"),
        ]
        await say(bench, "Who am I?", thread="other")
        assert len(model.asked[2]) == 2, "threads do not mix"


async def test_prompt_shows_what_the_model_was_sent_also_after_a_restart_and_until_it_is_forgotten() -> None:
    model = ScriptedModel("Hello Ada.", "Ada.", Fail(errors.Unreachable("cannot connect")), window=LARGE)
    async with testing.bench(load().agent, model=model) as bench:
        assert "nothing" in (await say(bench, "/prompt"))[0]["text"]
        await say(bench, "My name is Ada.")
        await say(bench, "What is my name?")
        await bench.restart()
        shown = (await say(bench, "/prompt"))[0]["text"]
        assert shown == "\n".join(f"{message.role}: {message.content}" for message in model.asked[1])
        assert shown.endswith("user: My name is Ada.\nassistant: Hello Ada.\nuser: What is my name?")
        assert (await say(bench, "/prompt"))[0]["text"] == shown, "it is no turn itself"
        await say(bench, "And now?")
        assert (await say(bench, "/prompt"))[0]["text"].endswith("user: And now?"), "also where no answer came"
        assert "nothing" in (await say(bench, "/prompt", thread="other"))[0]["text"]
        await say(bench, "/forget")
        assert "nothing" in (await say(bench, "/prompt"))[0]["text"]


async def test_a_small_model_is_reminded_of_what_was_said_beside_the_question() -> None:
    model = ScriptedModel("Welcome. I am Elara, your guide.", "Ada.", "Well.", "Now.", window=4096)
    async with testing.bench(load().agent, model=model, tools=TOOLS) as bench:
        await say(bench, "My name is Ada.")
        await say(bench, "/read notes/x.md")
        await say(bench, "What is my name?")
        asked = [(message.role, message.content) for message in model.asked[1][1:]]
        assert asked[:2] == [("user", "My name is Ada."), ("assistant", "Welcome.")]
        assert asked[-1] == ("user", "My name is Ada.\nWhat is my name?")
        assert [message.content for message in model.asked[0][1:]] == ["My name is Ada."]
        await say(bench, "long " * 200)
        await say(bench, "And now?")
        assert model.asked[3][-1].content == "And now?", "what is too long is not said twice"


async def test_a_listing_and_a_reading_are_two_calls_that_the_person_sees() -> None:
    model = ScriptedModel('{"action":"read","path":"a.md"}', "It says: the text of a.md.")
    async with testing.bench(load().agent, model=model, tools=TOOLS) as bench:
        reply, progress = await say(bench, "list the files in the workspace and read the longest")
        tools = [(step["kind"], step["tool"]) for step in progress if step["kind"].startswith("tool")]
        assert tools == [
            ("tool", "fs:list"),
            ("tool-result", "fs:list"),
            ("tool", "fs:read"),
            ("tool-result", "fs:read"),
        ]
        assert model.schemas[0] is not None and model.schemas[1] is None
        assert "the text of a.md" in model.asked[1][-1].content
        assert reply["text"] == "It says: the text of a.md."


async def test_a_refusal_is_shown_word_for_word_and_the_model_is_told() -> None:
    model = ScriptedModel("I was not allowed to.")
    async with testing.bench(load().agent, model=model, tools=TOOLS) as bench:
        _, progress = await say(bench, "what does /etc/passwd say?")
        refusal = [step for step in progress if step["kind"] == "tool-result"]
        assert refusal == [
            {"kind": "tool-result", "tool": "fs:read", "ok": False, "text": "`/etc/passwd` is outside the workspace"}
        ]
        assert "[refusal of fs:read(path=/etc/passwd)" in model.asked[0][-1].content


async def test_slash_commands_call_exactly_what_they_say_without_the_model() -> None:
    tools = {**TOOLS, "fs:write": lambda **arguments: {"bytes": len(arguments["content"])}}
    async with testing.bench(load().agent, model=ScriptedModel(), tools=tools) as bench:
        assert (await say(bench, "/ls"))[0]["text"] == "a.md  3\nnotes/"
        assert (await say(bench, "/read notes/x.md"))[0]["text"] == "the text of notes/x.md"
        assert "outside the workspace" in (await say(bench, "/read /etc/shadow"))[0]["text"]
        assert (await say(bench, "/write notes/b.md two words"))[0]["text"] == "wrote 10 bytes to notes/b.md"
        assert "Commands:" in (await say(bench, "/nonsense"))[0]["text"]
        assert [call[0] for call in bench.supervisor.calls] == ["fs:list", "fs:read", "fs:read", "fs:write"]


async def test_a_cancelled_answer_closes_the_stream_and_stays_as_partial() -> None:
    model = ScriptedModel(Wait("Once upon a"), "And then?")
    async with testing.bench(load().agent, model=model) as bench:
        delivery = await bench.supervisor.begin(TOPIC, {"text": "tell", "thread": "t"})
        steps = bench.supervisor.progress_of(delivery)
        await bench.supervisor.until("tokens come", lambda: len(steps) >= 3)
        await bench.supervisor.cancel(delivery)
        with pytest.raises(errors.ReceiverFailed, match="cancelled"):
            await bench.supervisor.answer(delivery)
        assert model.cancelled == 1
        reply, _ = await say(bench, "go on")
        assert reply["text"] == "And then?"
        assert model.asked[1][2].content == "Once upon a [cut short]"


@pytest.mark.parametrize(
    "line, said",
    [
        (Cut("half an"), "end marker"),
        (Fail(errors.Overloaded("the provider answered 500")), "500"),
        (Fail(errors.Unreachable("cannot connect")), "cannot connect"),
        (Fail(errors.ContextOverflow("too long")), "too long"),
        (Answer(""), "empty answer"),
    ],
)
async def test_each_failure_is_one_notice_and_the_session_lives(line: Any, said: str) -> None:
    model = ScriptedModel(line, "Here again.")
    async with testing.bench(load().agent, model=model) as bench:
        reply, progress = await say(bench, "hello")
        assert reply["stop_reason"] == "incomplete" and said in reply["error"]
        assert not [step for step in progress if step["kind"] == "note"], "the reply is the one notice"
        assert (await say(bench, "again"))[0]["text"] == "Here again."
        assert "half an" not in model.asked[1][2].content or model.asked[1][2].content.endswith("[cut short]")


async def test_a_wait_for_the_provider_is_told() -> None:
    model = ScriptedModel(Retrying("the provider answered 429", 2.0, 1), "Now.")
    async with testing.bench(load().agent, model=model) as bench:
        reply, progress = await say(bench, "hello")
        assert {"kind": "note", "text": "the provider answered 429; asking again in 2.0 s"} in progress
        assert reply["text"] == "Now."


@pytest.mark.parametrize(
    "text, expected",
    [
        ("which files are in the workspace?", True),
        ("what does notes/ideas.md say", True),
        ("read todo.txt", True),
        ("show me /etc/passwd", True),
        ("look at ../secret", True),
        ("what is my name?", False),
        ("I live in Lisbon. And you?", False),
        ("is it 3.14 or 22/7?", False),
        ("yes and/or no", True),  # costs one refused call, nothing else
    ],
)
def test_only_words_about_files_lead_to_tools(text: str, expected: bool) -> None:
    assert load().speaks_of_files(text) is expected


def test_turns_keep_what_a_tool_was_asked() -> None:
    assert Turn(role="tool", text="x", tool="fs:read", arguments={"path": "a"}).arguments == {"path": "a"}
