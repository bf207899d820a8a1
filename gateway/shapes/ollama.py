"""Ollama's API."""

from gateway.dialects.ollama import CAPABILITIES, EFFORTS, OPTIONS
from gateway.shapes import (
    ANY,
    COUNT,
    FLAG,
    INTEGER,
    NUMBER,
    TEXT,
    Schema,
    either,
    full,
    items,
    one_of,
    optional,
    or_null,
    record,
    word,
)

TIME: Schema = {"type": "string", "format": "date-time"}
CALL = record("function", function=record("name", name=TEXT, arguments=or_null(ANY)), id=or_null(TEXT))
MESSAGE = record(
    "role",
    role=one_of(("system", "user", "assistant", "tool")),
    **optional(content=TEXT),
)
TOOL = record("function", function=record("name", name=TEXT, description=or_null(TEXT), parameters=or_null(ANY)))
COMMON: dict[str, Schema] = {
    "model": TEXT,
    **optional(
        stream=FLAG,
        format=either(one_of(("", "json")), ANY),
        think=either(FLAG, one_of(("", *EFFORTS))),
        options=record(
            **optional(
                **dict.fromkeys(OPTIONS, NUMBER),
                seed=INTEGER,
                num_predict=INTEGER,
                stop=either(TEXT, items(TEXT)),
            )
        ),
        logprobs=FLAG,
        top_logprobs=INTEGER,
        tools=items(TOOL),
    ),
}
CHAT_REQUEST = record("model", **COMMON, **optional(messages=items(MESSAGE)))
GENERATE_REQUEST = record("model", **COMMON, **optional(prompt=TEXT, system=TEXT, images=items(TEXT)))

FIGURES: dict[str, Schema] = {
    "total_duration": COUNT,
    "load_duration": COUNT,
    "prompt_eval_count": COUNT,
    "prompt_eval_duration": COUNT,
    "eval_count": COUNT,
    "eval_duration": COUNT,
}
"""Figures of an answer; missing when the model was only to be loaded. Durations in nanoseconds."""
DONE: dict[str, Schema] = {"model": TEXT, "created_at": TIME, "done": {"const": True}, "done_reason": TEXT}
CALLED = full(function=full(name=TEXT, arguments=ANY))
SAID: dict[str, Schema] = {"thinking": TEXT, "tool_calls": items(CALLED)}
CHAT_ANSWER = record(
    *DONE,
    "message",
    **DONE,
    message=record("role", "content", role=word("assistant"), content=TEXT, **SAID),
    **FIGURES,
)
GENERATE_ANSWER = record(*DONE, "response", **DONE, response=TEXT, **SAID, **FIGURES)

LISTED: dict[str, Schema] = {
    "name": TEXT,
    "model": TEXT,
    "modified_at": TIME,
    "size": COUNT,
    "digest": TEXT,
    "details": ANY,
}
TAGS = full(models=items(full(**LISTED)))
RUNNING = full(models=items(full(**LISTED, expires_at=TIME, size_vram=COUNT, context_length=COUNT)))
VERSION = full(version=TEXT)
ABOUT_ONE = {**record(**optional(model=TEXT, name=TEXT)), "anyOf": [{"required": ["model"]}, {"required": ["name"]}]}
SHOWN = full(
    modelfile=TEXT,
    parameters=TEXT,
    template=TEXT,
    license=TEXT,
    modified_at=TIME,
    details=ANY,
    model_info=ANY,
    capabilities=items(one_of(CAPABILITIES.values())),
)
PULLED = full(status=word("success"))
ERROR = full(error=TEXT)
