"""Anthropic's Messages API: what its clients send, and what they read."""

import json
from typing import Any

import pytest
from hypothesis import given

from contracts import BullpenError, Chunk, ErrorCode, FinalResponse, InferenceRequest
from gateway.dialects import Asked, Refused
from gateway.dialects.anthropic_messages import AnthropicMessages, AnthropicTokenCount
from gateway.dialects.sealed import NOTHING, sealed
from tests.answers import CREATED, REQUEST_ID, call, call_piece, chunk, events, final, streams

DIALECT = AnthropicMessages()
PNG = "iVBORw0KGgo="
USER = {"role": "user", "content": "Hi"}
TOOL = {
    "name": "weather",
    "description": "How warm it is.",
    "input_schema": {"type": "object", "properties": {"in": {"type": "string"}}, "required": ["in"]},
    "cache_control": {"type": "ephemeral"},
}


def read(*messages: Any, **more: Any) -> Asked:
    body = {"model": "auto", "max_tokens": 50, "messages": list(messages) or [USER], **more}
    asked = DIALECT.read(body, {})
    InferenceRequest.model_validate_json(json.dumps(asked.request))
    return asked


def turn(*blocks: Any, role: str = "user") -> Any:
    return {"role": role, "content": list(blocks)}


def text(words: str, **more: Any) -> Any:
    return {"type": "text", "text": words, **more}


def image(**source: Any) -> Any:
    return {"type": "image", "source": source}


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, {"max_tokens": 50}),
        ({"temperature": 1, "top_p": 0.9}, {"temperature": 1, "top_p": 0.9}),
        ({"top_p": 0}, {"top_p": 0.0001}),
        ({"stop_sequences": ["END"]}, {"stop": ["END"]}),
        ({"thinking": {"type": "disabled"}}, {"reasoning_effort": "none"}),
        ({"thinking": {"type": "adaptive"}}, {"reasoning_effort": "high"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"reasoning_effort": "low"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 10_000}}, {"reasoning_effort": "medium"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 31_999}}, {"reasoning_effort": "high"}),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, {"reasoning_effort": "xhigh"}),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"tools": [TOOL], "tool_choice": {"type": "any"}}, {"tool_choice": "required"}),
        ({"tools": [TOOL], "tool_choice": {"type": "none"}}, {"tool_choice": "none"}),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "weather"}},
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
                }
            },
        ),
    ],
)
def test_parameters_become_those_of_the_mesh(more: Any, wanted: Any) -> None:
    request = read(**more).request
    assert {name: request.get(name) for name in wanted} == wanted


def test_the_system_text_is_one_text_without_claude_codes_own_header() -> None:
    system = [
        text("x-anthropic-billing-header: cc_version=2.1; cch=1a2b3"),
        text("You are Claude Code.", cache_control={"type": "ephemeral"}),
        text("Be short.", cache_control={"type": "ephemeral", "ttl": "1h"}),
    ]
    assert read(system=system).request["messages"][0] == {
        "role": "system",
        "content": "You are Claude Code.\n\nBe short.",
    }
    assert read(system="Be short.").request["messages"][0]["content"] == "Be short."


def test_a_conversation_with_tools_is_read() -> None:
    messages = read(
        turn(text("How warm is it?"), image(type="base64", media_type="image/png", data=PNG)),
        turn(
            text("I look."),
            {"type": "tool_use", "id": "a", "name": "weather", "input": {"in": "Rome"}},
            {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
            role="assistant",
        ),
        turn(
            {
                "type": "tool_result",
                "tool_use_id": "a",
                "content": [text("30"), image(type="base64", media_type="image/png", data=PNG)],
            },
            {"type": "tool_result", "tool_use_id": "b", "content": "no such place", "is_error": True},
            text("Go on."),
        ),
    ).request["messages"]
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    assert messages == [
        {"role": "user", "content": [text("How warm is it?"), picture]},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [
                call(call_id="a", **{"in": "Rome"}) | {"function": {"name": "weather", "arguments": '{"in":"Rome"}'}},
                call(call_id="b"),
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "30"},
        {"role": "tool", "tool_call_id": "b", "content": "Error:\nno such place"},
        {"role": "user", "content": [text("What the tool returned besides text:"), picture]},
        {"role": "user", "content": "Go on."},
    ]


def test_documents_become_files_or_text() -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": PNG}
    plain = {"type": "text", "media_type": "text/plain", "data": "Once upon a time"}
    parts = read(
        turn(
            {"type": "document", "source": pdf, "title": "a.pdf"},
            {"type": "document", "source": plain, "title": "A tale"},
            {"type": "document", "source": {"type": "content", "content": [text("In blocks")]}},
            {"type": "search_result", "title": "T", "source": "S", "content": [text("found")]},
        )
    ).request["messages"][0]["content"]
    assert parts[0] == {
        "type": "file",
        "file": {"file_data": f"data:application/pdf;base64,{PNG}", "filename": "a.pdf"},
    }
    assert [part["text"] for part in parts[1:]] == ["A tale", "Once upon a time", "In blocks", "T\nS", "found"]


def test_what_a_model_thought_comes_back_with_what_its_backend_needs() -> None:
    extra = {"anthropic": {"thinking": [{"signature": "abc"}]}}
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": sealed(extra)}
    redacted = {"type": "redacted_thinking", "data": sealed(extra)}
    for blocks in ([thinking, text("Yes.")], [{**thinking, "signature": ""}, text("Yes."), redacted]):
        message = read(USER, turn(*blocks, role="assistant"), USER).request["messages"][1]
        assert message == {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm.", "extra": extra}


def test_what_another_service_signed_is_passed_over() -> None:
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "EqoBCkgIAR"}
    message = read(USER, turn(thinking, text("Yes."), role="assistant"), USER).request["messages"][1]
    assert "extra" not in message


CLAUDE_CODE = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 32000,
    "stream": True,
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "medium"},
    "metadata": {"user_id": "user_1"},
    "system": [text("You are Claude Code.", cache_control={"type": "ephemeral"})],
    "messages": [
        turn(text("<system-reminder>\nx\n</system-reminder>"), text("hi", cache_control={"type": "ephemeral"}))
    ],
    "tools": [
        {**TOOL, "type": "custom", "eager_input_streaming": True},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
    ],
}


def test_claude_code_is_understood_and_told_what_was_not_used() -> None:
    asked = DIALECT.read(
        dict(CLAUDE_CODE), {"anthropic-beta": "claude-code-20250219", "anthropic-version": "2023-06-01"}
    )
    assert (asked.model, asked.stream) == ("claude-sonnet-4-5", True)
    assert asked.ignored == ("tools.web_search_20250305", "context_management", "metadata")
    assert [tool["function"]["name"] for tool in asked.request["tools"]] == ["weather"]
    assert asked.request["reasoning_effort"] == "medium"
    assert asked.request["messages"][1]["content"] == "<system-reminder>\nx\n</system-reminder>\nhi"


def test_a_probe_for_one_token_is_a_request() -> None:
    assert read(turn(text("quota")), max_tokens=1).request == {
        "messages": [{"role": "user", "content": "quota"}],
        "max_tokens": 1,
    }


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [turn(image(type="url", url="https://a/b.png"))]}, "messages.0.content.0.source.type"),
        ({"messages": [turn({"type": "document", "source": {"type": "file", "file_id": "f"}})]},
         "messages.0.content.0.source.type"),
        ({"messages": [turn({"type": "container_upload", "file_id": "f"})]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": "hi"}, "messages"),
        ({"model": None}, "model"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": True}, "temperature"),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name"),
        ({"tool_choice": {"type": "perhaps"}}, "tool_choice.type"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(body: Any, param: str) -> None:
    with pytest.raises(Refused) as refused:
        read(**{"messages": [USER], **body})
    assert (refused.value.status, refused.value.param) == (400, param)


def test_a_tools_long_name_is_short_for_the_model_and_whole_for_the_client() -> None:
    name = "mcp__a_server_with_a_long_name__" + "a_tool_with_a_longer_name_still" * 2
    asked = read(tools=[{**TOOL, "name": name}], tool_choice={"type": "tool", "name": name})
    told = asked.request["tools"][0]["function"]["name"]
    assert len(told) == 64 and asked.request["tool_choice"]["function"]["name"] == told
    answer = json.loads(DIALECT.writer(asked, REQUEST_ID, CREATED).whole([final(tool_calls=[call(told)])]))
    assert answer["content"][0]["name"] == name
    stream = DIALECT.writer(asked, REQUEST_ID, CREATED).piece(call_piece(0, "{}", "a", told))
    assert events(stream)[0][1]["content_block"]["name"] == name


def test_a_whole_answer_is_a_message() -> None:
    response = final(
        "It is 30.", reasoning="Hm.", extra={"anthropic": 1}, tool_calls=[call(**{"in": "Rome"})], cached_tokens=5,
        cache_write_tokens=3, prompt_tokens=20,
    )  # fmt: skip
    answer = json.loads(DIALECT.writer(read(), REQUEST_ID, CREATED).whole([response]))
    assert answer == {
        "id": "msg_0198f3a0000070008000000000000001",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": sealed({"anthropic": 1})},
            {"type": "text", "text": "It is 30."},
            {"type": "tool_use", "id": "call_a", "name": "weather", "input": {"in": "Rome"}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 12,
            "cache_creation_input_tokens": 3,
            "cache_read_input_tokens": 5,
            "output_tokens": 10,
        },
    }


def test_a_stream_is_the_events_that_its_clients_know() -> None:
    writer = DIALECT.writer(read(), REQUEST_ID, CREATED)
    begun = writer.start() + writer.piece(chunk(reasoning="Hm.")) + writer.keep_alive() + writer.piece(chunk("It is "))
    told = events(begun + writer.end(final("It is 30.", reasoning="Hm.", extra={"gemini": "s"})))
    assert [name for name, _ in told] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "ping",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert all(data["type"] == name for name, data in told)
    assert told[0][1]["message"]["content"] == [] and told[0][1]["message"]["model"] == "auto"
    assert told[3][1]["delta"] == {"type": "thinking_delta", "thinking": "Hm."}
    assert told[5][1]["delta"] == {"type": "signature_delta", "signature": NOTHING}
    assert told[11][1] == {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "redacted_thinking", "data": sealed({"gemini": "s"})},
    }
    assert told[-2][1]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert told[-2][1]["usage"]["output_tokens"] == 10


FIELDS = {
    **{"text_delta": "text", "thinking_delta": "thinking"},
    **{"input_json_delta": "input", "signature_delta": "signature"},
}


@given(streams())
def test_the_events_join_to_the_whole_answer(stream: tuple[list[Chunk], FinalResponse]) -> None:
    pieces, response = stream
    writer = DIALECT.writer(read(), REQUEST_ID, CREATED)
    written = writer.start() + b"".join(writer.piece(piece) for piece in pieces) + writer.end(response)
    blocks: list[Any] = []
    for name, data in events(written):
        if name == "content_block_start":
            assert data["index"] == len(blocks)
            blocks.append({**data["content_block"], "input": ""})
        elif name == "content_block_delta":
            kind, value = list(data["delta"].values())
            field = FIELDS[kind]
            blocks[data["index"]][field] += value
    whole = json.loads(DIALECT.writer(read(), REQUEST_ID, CREATED).whole([response]))["content"]

    def told(found: list[Any], kind: str, field: str) -> list[Any]:
        return [block[field] for block in found if block["type"] == kind]

    assert "".join(told(blocks, "text", "text")) == "".join(told(whole, "text", "text"))
    assert "".join(told(blocks, "thinking", "thinking")) == "".join(told(whole, "thinking", "thinking"))
    assert all(told(blocks, "thinking", "signature")) and all(told(whole, "thinking", "signature"))
    made = [(b["id"], b["name"], json.loads(b["input"])) for b in blocks if b["type"] == "tool_use"]
    assert made == [(b["id"], b["name"], b["input"]) for b in whole if b["type"] == "tool_use"]


def test_a_thought_with_nothing_beside_its_words_comes_back_too() -> None:
    """Clients hand back only thoughts with a signature."""
    answer = json.loads(DIALECT.writer(read(), REQUEST_ID, CREATED).whole([final("Yes.", reasoning="Hm.")]))
    assert answer["content"][0] == {"type": "thinking", "thinking": "Hm.", "signature": NOTHING}
    again = [USER, {"role": "assistant", "content": answer["content"]}, USER]
    assert read(*again).request["messages"][1] == {"role": "assistant", "reasoning_content": "Hm.", "content": "Yes."}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "end_turn"),
        ({"finish_reason": "length"}, "max_tokens"),
        ({"finish_reason": "content_filter"}, "refusal"),
        ({"refusal": "No."}, "refusal"),
        ({"tool_calls": [call()]}, "tool_use"),
    ],
)
def test_how_an_answer_ended_is_told_in_anthropics_words(more: Any, reason: str) -> None:
    assert json.loads(DIALECT.writer(read(), REQUEST_ID, CREATED).whole([final(**more)]))["stop_reason"] == reason


def test_thinking_that_was_disabled_is_not_shown() -> None:
    asked = read(thinking={"type": "disabled"})
    assert DIALECT.writer(asked, REQUEST_ID, CREATED).piece(chunk(reasoning="Hm.")) == b""
    answer = json.loads(DIALECT.writer(asked, REQUEST_ID, CREATED).whole([final("Yes.", reasoning="Hm.")]))
    assert [block["type"] for block in answer["content"]] == ["text"]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_request", "invalid_request_error"),
        (401, "unauthorized", "authentication_error"),
        (403, "forbidden", "permission_error"),
        (404, "no_such_model", "not_found_error"),
        (413, "payload_too_large", "request_too_large"),
        (429, "rate_limited", "rate_limit_error"),
        (429, "overloaded", "overloaded_error"),
        (503, "no_worker", "overloaded_error"),
        (502, "upstream_error", "api_error"),
        (500, "internal", "api_error"),
    ],
)
def test_errors_have_anthropics_types(status: int, code: str, kind: str) -> None:
    assert json.loads(DIALECT.error(status, code, "so it is", "a.b", "r")) == {
        "type": "error",
        "error": {"type": kind, "message": "so it is"},
        "request_id": "r",
    }


@pytest.mark.parametrize(
    ("status", "code", "wanted"),
    [(429, "overloaded", 529), (503, "no_worker", 529), (503, "draining", 529), (429, "rate_limited", 429)],
)
def test_a_mesh_without_room_has_anthropics_status(status: int, code: str, wanted: int) -> None:
    assert DIALECT.status(status, code) == wanted


def test_anthropics_own_headers_are_for_its_models() -> None:
    told = {"anthropic-beta": "a-1, b-2", "anthropic-version": "2023-06-01"}
    asked = DIALECT.read({"model": "auto", "messages": [USER]}, {**told, "x-api-key": "secret"})
    assert asked.request["extra"] == {"anthropic": {"headers": told}}
    assert "extra" not in DIALECT.read({"model": "auto", "messages": [USER]}, {}).request
    with pytest.raises(Refused) as refused:
        DIALECT.read({"model": "auto", "messages": [USER]}, {"anthropic-beta": "a\tb"})
    assert refused.value.param == "anthropic-beta"


def test_a_prompt_that_is_too_long_is_said_so_in_anthropics_words() -> None:
    """Claude Code looks for them, and makes its conversation shorter."""
    told = DIALECT.error(400, ErrorCode.CONTEXT_LENGTH_EXCEEDED, "10 tokens, 8 fit", None, "r")
    assert json.loads(told)["error"]["message"] == "prompt is too long: 10 tokens, 8 fit"


def test_a_stream_that_fails_ends_with_an_error_event() -> None:
    written = DIALECT.writer(read(), REQUEST_ID, CREATED).failed(BullpenError(ErrorCode.UPSTREAM_ERROR, "it is gone"))
    error = {"type": "error", "error": {"type": "api_error", "message": "it is gone"}}
    assert events(written) == [("error", error)]


def counted(**body: Any) -> int:
    dialect = AnthropicTokenCount()
    asked = dialect.read({"model": "auto", "messages": [USER], **body}, {})
    assert asked.parts == ()
    told = json.loads(dialect.writer(asked, REQUEST_ID, CREATED).whole(()))
    assert told.keys() == {"input_tokens"}
    return int(told["input_tokens"])


def test_tokens_are_counted_without_asking_a_model() -> None:
    assert 1 <= counted() < 5
    assert 500 < counted(system="word " * 400, tools=[TOOL]) < 600
    with pytest.raises(Refused):
        counted(messages=[])
