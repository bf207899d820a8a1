"""OpenAI's Responses API."""

from gateway.dialects.openai_responses import CHOICES, EFFORTS, REFUSED, ROLES
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

PART = record("type", type=TEXT)
ITEM = either(
    record(
        "role",
        role=one_of(ROLES),
        type=or_null(word("message")),
        content=or_null(either(TEXT, items(PART))),
    ),
    record("type", "call_id", "name", type=word("function_call"), call_id=TEXT, name=TEXT, arguments=or_null(TEXT)),
    record(
        *("type", "call_id"),
        type=word("function_call_output"),
        call_id=TEXT,
        output=or_null(either(TEXT, items(PART))),
    ),
    {**record("type", type=TEXT), "description": "Another item, see the page of this API"},
)
REQUEST = record(
    **optional(
        model=TEXT,
        input=either(TEXT, items(ITEM)),
        instructions=TEXT,
        stream=FLAG,
        max_output_tokens=INTEGER,
        temperature=ours("temperature")["temperature"],
        top_p={"type": "number", "minimum": 0, "maximum": 1},
        tools=items(record("type", type=TEXT)),
        tool_choice=either(one_of(CHOICES), record("type", type=TEXT)),
        parallel_tool_calls=FLAG,
        text=record(**optional(format=record("type", type=one_of(("text", "json_object", "json_schema"))))),
        reasoning=record(**optional(effort=one_of(EFFORTS))),
        include=items(TEXT),
        top_logprobs=INTEGER,
        metadata=ANY,
        background={"const": False},
    ),
    **dict.fromkeys(REFUSED, NULL),
)
OUTPUT: Schema = either(
    full(
        type=word("message"),
        id=TEXT,
        role=word("assistant"),
        status=TEXT,
        content=items(
            either(
                full(type=word("output_text"), text=TEXT, annotations=items(ANY), logprobs=items(ANY)),
                full(type=word("refusal"), refusal=TEXT),
            )
        ),
    ),
    full(type=word("function_call"), id=TEXT, status=TEXT, call_id=TEXT, name=TEXT, arguments=TEXT),
    full(
        type=word("reasoning"),
        id=TEXT,
        summary=items(full(type=word("summary_text"), text=TEXT)),
        encrypted_content=or_null(TEXT),
    ),
)
ANSWER = full(
    id=TEXT,
    object=word("response"),
    created_at=COUNT,
    completed_at=or_null(COUNT),
    status=one_of(("completed", "incomplete")),
    incomplete_details=or_null(full(reason=TEXT)),
    error=NULL,
    model=TEXT,
    output=items(OUTPUT),
    store=FLAG,
    usage=full(
        input_tokens=COUNT,
        input_tokens_details=full(cached_tokens=COUNT),
        output_tokens=COUNT,
        output_tokens_details=full(reasoning_tokens=COUNT),
        total_tokens=COUNT,
    ),
)
