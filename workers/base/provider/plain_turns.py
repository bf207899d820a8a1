"""A conversation as plain text: the system text first, then user and assistant in turn.

The templates of many small models refuse any other form.
"""

from collections.abc import Iterator, Sequence

from contracts import ChatMessage
from contracts.request import SYSTEM_ROLES
from workers.base.provider.call_forms import function_of, in_words
from workers.base.provider.chat import BEGIN

BETWEEN = "\n\n"


def plain_turns(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """The same conversation as plain text. Raises `BullpenError(invalid_request)` for a call without a function."""
    system = [message.text for message in messages if message.role in SYSTEM_ROLES and message.text.strip()]
    turns = [ChatMessage(role="system", content=BETWEEN.join(system))] if system else []
    for spoken in _spoken(messages):
        before = turns[-1] if turns else None
        if before is not None and before.role == spoken.role:
            turns[-1] = before.model_copy(update={"content": f"{before.text}{BETWEEN}{spoken.text}"})
            continue
        if spoken.role == "assistant" and (before is None or before.role == "system"):
            turns.append(ChatMessage(role="user", content=BEGIN))
        turns.append(spoken)
    return turns


def _spoken(messages: Sequence[ChatMessage]) -> Iterator[ChatMessage]:
    """The messages of user and assistant, with calls and results as words."""
    for message in messages:
        if message.role == "tool":
            yield in_words(message)
        elif message.role not in SYSTEM_ROLES:
            called = ("(called {} with {})".format(*function_of(call)) for call in message.tool_calls or ())
            text = "\n".join(words for words in (message.text, *called) if words.strip())
            if text:
                yield ChatMessage(role=message.role, content=text)
