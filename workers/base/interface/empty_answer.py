"""Answers in which there is nothing. A provider that ends well and says nothing has not answered.

Blanks are nothing, and so are characters that nobody sees and thoughts without a word after them. Such an attempt has
failed, and another worker is asked, but where the caller wanted it so: with so few tokens that there was room for no
word, or with texts that end the answer, one of which may stand at its beginning. What the provider's filter held back
says nothing against the model.
"""

import re

from contracts import BullpenError, ErrorCode, FinishReason

_THOUGHTS = re.compile(r"\s*<(think|thinking|thought|reasoning)>.*?(?:</\1>|\Z)", re.DOTALL)
"""At the start of the text, from servers that do not tell thoughts apart."""
NEARLY = 2
"""Of a limit of tokens, one part in so many has to be used for the limit to be the reason of an early end."""

WHY: dict[FinishReason, str] = {
    "stop": "the provider ended its answer without a word",
    "tool_calls": "the provider announced a tool call and made none",
    "length": "the model's room was used up before a word of the answer",
    "content_filter": "the provider's filter let no word of the answer through",
}


def says_something(text: str) -> bool:
    """Whether there is anything to read in an answer's text."""
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
    """The error of an answer without tool calls in which there is nothing; None for a real answer.

    `wanted`: the most tokens the caller asked for, None: the limit is not the caller's. `written`: those that the
    provider counted, thoughts included. `may_stop`: the caller named texts that end the answer.
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
