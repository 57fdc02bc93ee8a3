"""models: clients for language models.

Job: one `Model` per profile of the unit's `[llm]`. May touch: HTTP, in the modules below and only when one is opened.
Keeps: what is yielded as `Done` was a whole answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import BadEnvironment
from .base import Done, Message, Model, Retrying, StreamEvent, Text, Timeouts, Usage

if TYPE_CHECKING:
    from .._environment import Credentials, Profile

__all__ = ["Done", "Message", "Model", "Retrying", "StreamEvent", "Text", "Timeouts", "Usage", "open_model"]


def open_model(name: str, profile: Profile, credentials: Credentials) -> Model:
    """The client for a profile; no connection is made and no key is read before its first call."""
    if profile.format == "openai-chat":
        from .openai_chat import OpenAiChat

        return OpenAiChat(name, profile, credentials)
    raise BadEnvironment(f"[llm.{name}] format `{profile.format}` is not known to this SDK; it speaks `openai-chat`")
