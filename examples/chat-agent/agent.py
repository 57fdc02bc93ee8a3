"""chat: answers a person, remembers the conversation, looks into its workspace.

Job: one answer per question. May touch: the model of the [llm], the tools that the unit grants, the state.
Keeps: a question is stored before the model sees it; every tool call and its result or refusal is shown to the
person and stored; what was cut short is stored as cut short; a failure is one notice, and the next question works.

`/ls [path]`, `/read path`, `/write path text` call a tool exactly as written and show exactly what came back. In plain
language the model decides about tools by JSON schema, and only where the words speak of files: the embedded model is
far too small to be asked each time. `/prompt` shows what the model was sent last, `/forget` removes the thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from loom import Agent, Context, Conversation, Done, Event, LoomError, Model, Retrying, Text, Turn, errors
from loom.memory import tool_text
from loom.models import Message
from loom.models.base import complete

# Short on purpose: each sentence more, and the embedded model talks about the instructions instead of following them.
SYSTEM = "You are a helpful AI assistant. Answer in one or two short sentences."
COMMANDS = "/ls [path] · /read path · /write path text · /prompt · /forget"
#: Tool calls per question; a model that still wants more gets to answer with what it has.
CALLS = 3
#: How deep a listing goes that the model asked for, so that one call shows a small workspace.
DEPTH = 3
#: Characters of a tool's output that the model sees; the person sees them too.
SHOWN = 2000
DECISION_TOKENS = 60
KEEP_PARTIAL_LIMIT_S = 1.5
#: Up to this window a model is taken for a small one, and its prompt is written for it; see `plainly`.
SMALL_WINDOW = 4096
#: Characters of the person's earlier words that a small model is reminded of, and of each of its own answers.
REMINDED, ECHOED = 500, 80

agent = Agent("chat")


class Question(msgspec.Struct):
    text: str
    thread: str = "default"


class Decision(msgspec.Struct):
    """What the model wants to do next."""

    action: Literal["list", "read", "answer"]
    path: str = "."


@agent.on("unit.chat.ask", key=lambda event: event.data.thread)
async def ask(ctx: Context, event: Event[Question]) -> dict[str, Any]:
    return await Talk(ctx, await Conversation.open(ctx.state, event.data.thread)).answer(event.data.text)


class Talk:
    """One question's way to its answer."""

    def __init__(self, ctx: Context, memory: Conversation) -> None:
        self.ctx, self.memory = ctx, memory
        #: Where the messages of the last prompt are, beside the conversation.
        self.prompt_key = f"prompt.{memory.key}"

    async def answer(self, text: str) -> dict[str, Any]:
        command = text.strip()
        # These two leave no turn behind: they are about the conversation, not in it.
        if command == "/forget":
            await self.memory.forget()
            await self.ctx.state.delete(self.prompt_key)
            return reply("This conversation is forgotten.")
        if command == "/prompt":
            sent = await self.ctx.state.get(self.prompt_key, default=[])
            lines = [f"{message['role']}: {message['content']}" for message in sent]
            return reply("\n".join(lines) or "The model was sent nothing in this conversation.")
        await self.memory.add(Turn(role="user", text=text))
        if command.startswith("/"):
            return await self.command(command)
        model = self.ctx.model()
        try:
            if speaks_of_files(text):
                await self.use_tools(model, text)
            return await self.say(model)
        except errors.ModelError as error:
            # One notice, in the reply: the session lives, and the question stays in the memory.
            return {**reply(error.partial, stop="incomplete", model=model.model), "error": str(error)}

    async def command(self, text: str) -> dict[str, Any]:
        """A tool call as the person wrote it; the answer is the tool's, word for word."""
        name, _, rest = text.partition(" ")
        rest = rest.strip()
        path, _, content = rest.partition(" ")
        match name:
            case "/ls":
                turn = await self.call("fs:list", path=rest or ".")
            case "/read" if rest:
                turn = await self.call("fs:read", path=rest)
            case "/write" if path:
                turn = await self.call("fs:write", path=path, content=content + "\n", mode="replace")
            case _:
                usage = f"Commands: {COMMANDS}. Anything else is a question."
                await self.memory.add(Turn(role="assistant", text=usage))
                return reply(usage)
        said = turn.text if turn.ok else f"{turn.tool} was refused: {turn.text}"
        await self.memory.add(Turn(role="assistant", text=said[:SHOWN]))
        return reply(said)

    async def call(self, tool: str, **arguments: Any) -> Turn:
        """Asks the supervisor to run a tool; shows and stores the call with its result or the exact refusal."""
        await self.ctx.progress({"kind": "tool", "tool": tool, "arguments": arguments})
        try:
            ok, text = True, readable(tool, arguments, await self.ctx.call(tool, **arguments))
        except errors.ToolError as error:
            ok, text = False, str(error)
        turn = Turn(role="tool", text=text, tool=tool, arguments=arguments, ok=ok)
        await self.memory.add(turn)
        await self.ctx.progress({"kind": "tool-result", "tool": tool, "ok": ok, "text": text})
        return turn

    async def use_tools(self, model: Model, question: str) -> None:
        """Lets the model choose calls by JSON schema until it would rather answer, repeats itself or has had enough."""
        done: list[Turn] = []
        for _ in range(CALLS):
            decision = await decide(model, question, done)
            if decision.action == "answer":
                return
            tool = {"list": "fs:list", "read": "fs:read"}[decision.action]
            if any((turn.tool, turn.arguments["path"]) == (tool, decision.path) for turn in done):
                return  # the same call again would say the same again
            more = {"depth": DEPTH} if tool == "fs:list" else {}
            done.append(await self.call(tool, path=decision.path, **more))

    async def say(self, model: Model) -> dict[str, Any]:
        """Streams the answer; stores it whole, or as partial."""
        prompt = self.memory.prompt(SYSTEM, model)
        if prompt.left_out:
            await self.note(
                f"the {prompt.left_out} oldest exchanges no longer fit the model's window and were left out"
            )
        messages = prompt.messages if model.window > SMALL_WINDOW else plainly(prompt.messages, self.memory.turns)
        await self.ctx.state.put(self.prompt_key, [{"role": each.role, "content": each.content} for each in messages])
        so_far = ""
        try:
            async with contextlib.aclosing(model.stream(messages)) as events:
                async for event in events:
                    match event:
                        case Text(text):
                            # `at`, in characters: progress is lossy, and whoever shows it must see a hole.
                            await self.ctx.progress({"kind": "token", "text": text, "at": len(so_far)})
                            so_far += text
                        case Retrying(reason, wait_s):
                            await self.note(f"{reason}; asking again in {wait_s:.1f} s")
                        case Done():
                            return await self.finish(event, prompt)
        except asyncio.CancelledError:
            # The connection to the model is closed by now; what came stays, marked as cut short.
            await self.keep_partial(so_far)
            raise
        except errors.ModelError as error:
            await self.keep_partial(error.partial)
            raise
        raise AssertionError("a stream ends with Done or raises")

    async def finish(self, done: Done, prompt: Any) -> dict[str, Any]:
        if not done.text.strip():
            raise errors.BadResponse("the model gave an empty answer; ask again or differently")
        if done.finish == "length":
            await self.note("the answer reached max_output of the model's profile and ends there")
        self.memory.learn(prompt, done.usage)
        await self.memory.add(Turn(role="assistant", text=done.text))
        return {
            **reply(done.text, model=done.model),
            "finish": done.finish,
            "usage": {"prompt_tokens": done.usage.prompt_tokens, "completion_tokens": done.usage.completion_tokens},
            "first_token_ms": done.first_token_ms,
            "total_ms": done.total_ms,
            "prompt_messages": len(prompt.messages),
        }

    async def keep_partial(self, text: str) -> None:
        if not text:
            return
        try:
            async with asyncio.timeout(KEEP_PARTIAL_LIMIT_S):
                await self.memory.add(Turn(role="assistant", text=text, partial=True))
        except (TimeoutError, LoomError) as error:
            self.ctx.log.warning("a partial answer could not be kept: %s", error or "no time left")

    async def note(self, text: str) -> None:
        await self.ctx.progress({"kind": "note", "text": text})


def reply(text: str, *, stop: str = "final", model: str = "none") -> dict[str, Any]:
    usage = {"prompt_tokens": 0, "completion_tokens": 0}
    return {
        "text": text, "stop_reason": stop, "usage": usage, "model": model, "first_token_ms": 0, "total_ms": 0,
    }  # fmt: skip


def plainly(messages: list[Message], turns: Sequence[Turn]) -> list[Message]:
    """A prompt for a small model: what the person said before stands again beside the question, and the model's own
    answers are short.

    Such a model answers what stands last and believes its own inventions. Asked for a name that it was told one turn
    earlier, SmolLM2-135M gives it in 4 of 20 tries from the plain conversation, and in 17 of 20 from this.
    """
    said = [turn.text for turn in turns if turn.role == "user" and not turn.text.startswith("/")]
    before: list[str] = []
    for text in reversed(said[:-1]):
        if sum(map(len, before)) + len(text) > REMINDED:
            break
        before.insert(0, text)
    short = [
        Message("assistant", first_sentence(each.content)[:ECHOED]) if each.role == "assistant" else each
        for each in messages[:-1]
    ]
    return [*short, Message("user", "\n".join([*before, messages[-1].content]))]


def first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s|\n", text, maxsplit=1)[0]


LISTING = re.compile(r"\b(files|folders?|director(y|ies)|workspace)\b", re.IGNORECASE)
READING = re.compile(
    r"\b(reads?|says?|said|contents?|contains?|inside|summar\w+|about|tell|longest|open|show)\b", re.IGNORECASE
)
PATHS = re.compile(
    r"(?<![\w/.~:-])("
    r"[~.]{0,2}/[\w.@-][\w./@-]*"  # /etc/passwd, ../x, ~/y
    r"|[A-Za-z_][\w-]*/[\w./-]+"  # notes/ideas.md
    r"|[\w-]+\.(?:md|txt|toml|json|csv|py|rs|log|ya?ml|html|ini|cfg|sh)\b"  # todo.txt
    r")"
)


def speaks_of_files(text: str) -> bool:
    """Whether a question plausibly needs the workspace; a wrong yes costs one listing."""
    return bool(asks_for_listing(text) or PATHS.search(text))


def asks_for_listing(text: str) -> bool:
    return LISTING.search(PATHS.sub("", text)) is not None


async def decide(model: Model, question: str, done: list[Turn]) -> Decision:
    """One decision. The schema holds only what is possible; where only one thing is, the model is not asked."""
    named = [path.rstrip(".,") for path in PATHS.findall(question)]
    listed = [
        line.split("  ")[0] for turn in done if turn.tool == "fs:list" and turn.ok for line in turn.text.splitlines()
    ]
    had = {(turn.tool, turn.arguments["path"]) for turn in done}
    wanted = not named and READING.search(question) is not None
    found = [path for path in listed if wanted and path != "(empty)" and not path.endswith("/")]
    known = list(dict.fromkeys(named + found))
    files = [path for path in known if not path.endswith("/") and ("fs:read", path) not in had]
    folders = [path for path in known if path.endswith("/") and ("fs:list", path) not in had]
    if ("fs:list", ".") not in had and (asks_for_listing(question) or not named):
        folders.insert(0, ".")
    choices = [choice(action, paths) for action, paths in (("list", folders), ("read", files)) if paths]
    if done:  # the first step is taken because the question speaks of files
        choices.append({"type": "object", "properties": {"action": {"const": "answer"}}, "required": ["action"]})
    if len(choices) == 1 and len(folders) + len(files) <= 1:
        return Decision("list", folders[0]) if folders else Decision("read", files[0]) if files else Decision("answer")
    seen = "\n".join(tool_text(turn) for turn in done)
    asked = (
        'Choose the next step as JSON. {"action":"list","path":"."} shows which files there are. '
        '{"action":"read","path":"<file>"} shows what one file says. {"action":"answer"} when enough was seen.\n'
        'Question: which files do you have? -> {"action":"list","path":"."}\n'
        'Question: what does todo.txt say? -> {"action":"read","path":"todo.txt"}\n'
        f"{seen}\nQuestion: {question} ->"
    )
    said = await complete(
        model, [Message("user", asked)], max_output=DECISION_TOKENS, temperature=0.0, json_schema={"oneOf": choices}
    )
    try:
        return msgspec.json.decode(said.text, type=Decision)
    except msgspec.MsgspecError as error:
        raise errors.BadResponse(f"the model's choice of a tool is not what was asked for: {error}") from error


def choice(action: str, paths: list[str]) -> dict[str, Any]:
    properties = {"action": {"const": action}, "path": {"enum": paths[:100]}}
    return {"type": "object", "properties": properties, "required": ["action", "path"], "additionalProperties": False}


def readable(tool: str, arguments: dict[str, Any], result: Any) -> str:
    """A tool's result as text for person and model."""
    if not isinstance(result, dict):
        return json.dumps(result)[:SHOWN]
    if tool == "fs:list":
        lines = []
        for entry in result.get("entries", []):
            slash = "/" if entry.get("type") == "directory" else ""
            lines.append(f"{entry.get('path', '?')}{slash}  {entry.get('size', '')}".rstrip())
        return "\n".join(lines)[:SHOWN] or "(empty)"
    if tool == "fs:read":
        text = str(result.get("content", ""))
        whole = len(text) <= SHOWN and result.get("eof", True)
        return text if whole else f"{text[:SHOWN]}\n[first {min(len(text), SHOWN)} of {result.get('total', '?')} bytes]"
    return f"wrote {result.get('bytes', '?')} bytes to {arguments.get('path')}"


@agent.on_start
async def start(ctx: Context) -> None:
    model = ctx.model()
    ctx.log.info(
        "ready to talk: model `%s` (%s), window %d tokens; run %d%s",
        model.name, model.model, model.window, ctx.run,
        f", after `{ctx.previous.result}`" if ctx.previous.result else "",
    )  # fmt: skip


if __name__ == "__main__":
    agent.main()
