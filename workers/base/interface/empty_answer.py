"""Empty answers. A provider that ends well but says nothing has not answered.

Blanks and invisible characters do not count as words, and neither do thoughts without a word after them. An empty
answer is a failed attempt, and another worker is asked. The caller gets it only if the request made it so: with so few
`max_tokens` that no word fitted, or with stop texts, one of which may stand at the answer's start. An answer that the
provider's filter held back does not count against the model.
"""

import re

from contracts import BullpenError, ErrorCode, FinishReason

_THOUGHTS = re.compile(r"\s*<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL)
"""Thoughts at the start of the text, from servers that do not separate thoughts from the answer."""
NEARLY = 2
"""At least one part in this many of the caller's token limit has to be used for the limit to explain an empty
answer.
"""

WHY: dict[FinishReason, str] = {
    "stop": "the provider ended its answer without a word",
    "tool_calls": "the provider announced a tool call and made none",
    "length": "the model's room was used up before a word of the answer",
    "content_filter": "the provider's filter let no word of the answer through",
}


def says_something(text: str) -> bool:
    """Whether an answer's text has a visible character."""
    said = _THOUGHTS.sub("", text, count=1)
    return any(character.isprintable() and not character.isspace() for character in said)


def why_empty(
    text: str,
    finish: FinishReason,
    *,
    wanted: int | None = None,
    written: int | None = None,
    may_stop: bool = False,
) -> BullpenError | None:
    """The error for an empty answer without tool calls; None for an answer with words.

    `wanted`: the most tokens that the caller asked for; None: the limit is not the caller's. `written`: tokens that the
    provider counted, thoughts included. `may_stop`: the caller set stop texts.
    """
    as_wanted = (finish == "length" and _reached(wanted, written)) or (finish == "stop" and may_stop)
    if says_something(text) or as_wanted:
        return None
    filtered = finish == "content_filter"
    return BullpenError(
        ErrorCode.EMPTY_ANSWER,
        WHY[finish],
        fault="request" if filtered else "model",
        retryable=False if filtered else None,
    )


def _reached(wanted: int | None, written: int | None) -> bool:
    return wanted is not None and (written is None or written * NEARLY >= wanted)
