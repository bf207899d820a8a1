"""Anthropic's Messages API, and its form of errors."""

from gateway.dialects.anthropic_messages import ERROR_TYPES, STOP_REASONS
from gateway.shapes import (
    ANY,
    COUNT,
    FLAG,
    INTEGER,
    NULL,
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
    word,
)


def _block(kind: str, **needed: Schema) -> Schema:
    return record("type", *needed, type=word(kind), **needed)


TEXT_BLOCK = _block("text", text=TEXT)
SOURCE = record("type", type=one_of(("base64", "text", "content")))
SAID_BY_USER = (
    TEXT_BLOCK,
    _block("image", source=full(type=word("base64"), media_type=TEXT, data=TEXT)),
    _block("document", source=SOURCE),
    _block("search_result"),
    _block("tool_reference", tool_name=TEXT),
)
RESULT = record(
    *("type", "tool_use_id"),
    type=word("tool_result"),
    tool_use_id=TEXT,
    is_error=or_null(FLAG),
    content=or_null(either(TEXT, items(either(*SAID_BY_USER)))),
)
MADE = {
    "text": TEXT_BLOCK,
    "thinking": record("type", type=word("thinking"), thinking=or_null(TEXT), signature=or_null(TEXT)),
    "redacted_thinking": record("type", type=word("redacted_thinking"), data=or_null(TEXT)),
    "tool_use": record("type", "id", "name", type=word("tool_use"), id=TEXT, name=TEXT, input=or_null(ANY)),
}
OTHER = {
    **record("type", type={"type": "string", "not": one_of(MADE)}),
    "description": "Of a tool that ran at Anthropic: passed over",
}
MESSAGE = either(
    record("role", role=word("user"), content=or_null(either(TEXT, items(either(*SAID_BY_USER, RESULT))))),
    record("role", role=word("assistant"), content=or_null(either(TEXT, items(either(*MADE.values(), OTHER))))),
    record("role", role=word("system"), content=or_null(either(TEXT, items(TEXT_BLOCK)))),
)
TOOL = either(
    record(
        "name",
        name=TEXT,
        type=or_null(word("custom")),
        description=or_null(TEXT),
        input_schema=or_null(ANY),
        strict=or_null(FLAG),
    ),
    {**record("type", type={"type": "string", "not": word("custom")}), "description": "Passed over"},
)
FORMAT = full(type=word("json_schema"), schema=ANY)
REQUEST = record(
    *("model", "messages"),
    model=TEXT,
    messages=items(MESSAGE, 1),
    **optional(
        system=either(TEXT, items(TEXT_BLOCK)),
        max_tokens=ours("max_tokens")["max_tokens"],
        temperature=ours("temperature")["temperature"],
        top_p={"type": "number", "minimum": 0, "maximum": 1},
        stop_sequences=items(TEXT),
        stream=FLAG,
        tools=items(TOOL),
        tool_choice=record(
            "type", type=one_of(("auto", "any", "tool", "none")), disable_parallel_tool_use=or_null(FLAG)
        ),
        thinking=record("type", type=TEXT),
        output_config=record(**optional(effort=TEXT, format=FORMAT)),
        output_format=ANY,
    ),
)
ANSWER = full(
    id=TEXT,
    type=word("message"),
    role=word("assistant"),
    model=TEXT,
    content=items(
        either(
            TEXT_BLOCK,
            full(type=word("thinking"), thinking=TEXT, signature=TEXT),
            full(type=word("redacted_thinking"), data=TEXT),
            full(type=word("tool_use"), id=TEXT, name=TEXT, input=ANY),
        )
    ),
    stop_reason=one_of(sorted(set(STOP_REASONS.values()))),
    stop_sequence=NULL,
    usage=full(
        input_tokens=COUNT, output_tokens=COUNT, cache_creation_input_tokens=COUNT, cache_read_input_tokens=COUNT
    ),
)
COUNTED = full(input_tokens=INTEGER)
KINDS = sorted({*ERROR_TYPES.values(), "invalid_request_error", "api_error"})
ERROR = full(type=word("error"), error=full(type=one_of(KINDS), message=TEXT), request_id=TEXT)
