"""How a model is asked to go on after the start of an answer that it cannot be given as its own: one wording for all.

The start stands in the conversation as the assistant's last turn; after it the user asks for its last words again, and
for the rest. A Manager asks so (`asked_to_go_on`); a worker without a model obeys by rule (`Interrupted.of`).
"""

import re
from dataclasses import dataclass
from typing import Self

from contracts.request import ChatMessage, InferenceRequest

_ASK = (
    "Your last message was cut off. Go on with it exactly where it stopped, without a comment. "
    "Begin with its last words, exactly:\n\n"
)
"""Few words, and the anchor last: very small models fail with more."""
_ASKED = re.compile(re.escape(_ASK) + "(.+)", re.DOTALL)


def asked_to_go_on(request: InferenceRequest, begun: str, anchor: str, max_tokens: int | None) -> InferenceRequest:
    """The same request, to be answered with `anchor`, the end of `begun`, and then with the rest."""
    *earlier, last = (*(request.messages or ()), *_of_prompt(request))
    if last.role == "assistant" and not last.tool_calls:
        earlier.append(last.model_copy(update={"content": last.text + begun}))
    else:
        earlier += [last, ChatMessage(role="assistant", content=begun)]
    ask = ChatMessage(role="user", content=_ASK + anchor)
    changes = {"prompt": None, "messages": (*earlier, ask)}
    return request.model_copy(update=changes if max_tokens is None else {**changes, "max_tokens": max_tokens})


def _of_prompt(request: InferenceRequest) -> tuple[ChatMessage, ...]:
    return () if request.prompt is None else (ChatMessage(role="user", content=request.prompt),)


@dataclass(frozen=True, slots=True)
class Interrupted:
    """What a request of `asked_to_go_on` asks."""

    question: str
    begun: str
    anchor: str

    @classmethod
    def of(cls, request: InferenceRequest) -> Self | None:
        """None: it is any other request."""
        *earlier, begun, last = (None, None, *(request.messages or ()))
        if begun is None or last is None or request.prompt is not None:
            return None
        asked = _ASKED.fullmatch(last.text)
        if asked is None or begun.role != "assistant" or not begun.text.rstrip().endswith(asked[1]):
            return None
        question = next((m.text for m in reversed(earlier) if m is not None and m.role == "user"), "")
        return cls(question, begun.text, asked[1])
