"""OpenAI's chat and completions, the list of models, and its form of errors."""

from typing import get_args

from contracts.response import FinishReason
from gateway.dialects.completions import MOST_TOP_LOGPROBS
from gateway.dialects.openai import ENDLESS, MOST_COPIES, OURS, SAMPLING
from gateway.dialects.openai_chat import CHAT
from gateway.shapes import (
    ANY,
    COUNT,
    FLAG,
    NUMBER,
    TEXT,
    Schema,
    either,
    full,
    items,
    one_of,
    optional,
    or_null,
    ours,
    record,
    ref,
    word,
)

SAMPLED = SAMPLING - {"max_tokens"} | OURS - {"context"}
"""Fields that are taken over. `context`, the mesh's own, is left out: it has no form that could be written here."""
SAMPLED_OURS = ours(*sorted(SAMPLED))
EMPTY: Schema = {"type": "array", "maxItems": 0}
"""How some languages write an empty object."""
LONGEST = or_null(either(*ours("max_tokens")["max_tokens"]["anyOf"], {"const": ENDLESS}))
COMMON: dict[str, Schema] = {
    **optional(
        model={"type": "string", "minLength": 1, "maxLength": 256},
        stream=FLAG,
        stream_options=record(**optional(include_usage=FLAG)),
        n={"type": "integer", "minimum": 1, "maximum": MOST_COPIES},
    ),
    "max_tokens": LONGEST,
    "max_completion_tokens": LONGEST,
    **SAMPLED_OURS,
    **{name: either(*SAMPLED_OURS[name]["anyOf"], EMPTY) for name in ("logit_bias", "metadata")},
}
TOKEN = full(token=TEXT, logprob=NUMBER, bytes=or_null(items(COUNT)))
CALL = full(id=TEXT, type=word("function"), function=full(name=TEXT, arguments=TEXT))
MESSAGE = record(
    *("role", "content", "refusal"),
    role=word("assistant"),
    content=or_null(TEXT),
    refusal=or_null(TEXT),
    reasoning_content=TEXT,
    tool_calls=items(CALL, 1),
)
USAGE = full(
    prompt_tokens=COUNT,
    completion_tokens=COUNT,
    total_tokens=COUNT,
    prompt_tokens_details=full(cached_tokens=COUNT),
    completion_tokens_details=full(reasoning_tokens=COUNT),
)

CHAT_REQUEST = record(
    "messages",
    messages=items(ref("ChatMessage"), 1),
    **ours(*sorted(CHAT - {"messages"})),
    **COMMON,
)
CHAT_ANSWER = full(
    id=TEXT,
    object=word("chat.completion"),
    created=COUNT,
    model=TEXT,
    choices=items(
        full(
            index=COUNT,
            message=MESSAGE,
            logprobs=or_null(full(content=items({**TOKEN, "description": "With `top_logprobs`"}))),
            finish_reason=one_of(get_args(FinishReason)),
        ),
        1,
    ),
    usage=USAGE,
)
COMPLETION_REQUEST = record(
    "prompt",
    prompt=either(TEXT, items(TEXT, 1)),
    logprobs=or_null(either({"type": "integer", "minimum": 0, "maximum": MOST_TOP_LOGPROBS}, {"const": False})),
    **ours("reasoning_effort"),
    **COMMON,
)
COMPLETION_ANSWER = full(
    id=TEXT,
    object=word("text_completion"),
    created=COUNT,
    model=TEXT,
    choices=items(
        full(
            index=COUNT,
            text=TEXT,
            logprobs=or_null(ANY),
            finish_reason=one_of(reason for reason in get_args(FinishReason) if reason != "tool_calls"),
        ),
        1,
    ),
    usage=USAGE,
)

MODEL = full(
    id=TEXT,
    object=word("model"),
    created=COUNT,
    owned_by=TEXT,
    type=word("model"),
    display_name=TEXT,
    created_at={"type": "string", "format": "date-time"},
)
"""An error in OpenAI's form and Anthropic's at once."""
MODELS = record(
    *("object", "data", "has_more"),
    object=word("list"),
    data=items(ref("Model")),
    has_more=FLAG,
    first_id=TEXT,
    last_id=TEXT,
)
ERROR = full(error=full(message=TEXT, type=TEXT, param=or_null(TEXT), code=TEXT))
