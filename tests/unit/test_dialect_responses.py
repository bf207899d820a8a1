"""OpenAI's Responses API: what its clients send, and what they read."""

import json
from typing import Any

import pytest
from hypothesis import given

from contracts import BullpenError, Chunk, ErrorCode, FinalResponse, InferenceRequest
from gateway.dialects import Asked, Refused
from gateway.dialects.openai_responses import PROBE, OpenAIResponses
from gateway.dialects.sealed import NOTHING, sealed
from tests.answers import CREATED, REQUEST_ID, call, chunk, events, final, streams, token

DIALECT = OpenAIResponses()
PNG = "iVBORw0KGgo="
TOOL = {
    **{"type": "function", "name": "weather", "description": "Of a city"},
    **{"parameters": {"type": "object", "properties": {}}, "strict": False},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}

NAMED = {"name": "n", "schema": SCHEMA, "strict": True}


def read(told: Any = "Hi", **more: Any) -> Asked:
    asked = DIALECT.read({"model": "auto", "input": told, **more}, {})
    InferenceRequest.model_validate_json(json.dumps(asked.request))
    return asked


def message(*parts: Any, role: str = "user") -> Any:
    return {"type": "message", "role": role, "content": list(parts)}


def text(words: str) -> Any:
    return {"type": "input_text", "text": words}


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"max_output_tokens": 20, "temperature": 0.5, "top_p": 1}, {"max_tokens": 20, "temperature": 0.5, "top_p": 1}),
        ({"reasoning": {"effort": "minimal", "summary": "auto"}}, {"reasoning_effort": "minimal"}),
        ({"reasoning": {"effort": "max"}}, {"reasoning_effort": "xhigh"}),
        ({"reasoning": {"effort": None}}, {"reasoning_effort": None}),
        ({"tools": [TOOL], "tool_choice": "required"}, {"tool_choice": "required"}),
        ({"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False}, {"parallel_tool_calls": False}),
        ({"tools": [], "tool_choice": "none", "parallel_tool_calls": True}, {"tool_choice": None}),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}},
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        ),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {"response_format": None}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", **NAMED}}},
            {"response_format": {"type": "json_schema", "json_schema": NAMED}},
        ),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"include": ["reasoning.encrypted_content"]}, {"logprobs": None}),
    ],
)  # fmt: skip
def test_parameters_become_those_of_the_mesh(more: Any, wanted: Any) -> None:
    request = read(**more).request
    assert {name: request.get(name) for name in wanted} == wanted


def test_tools_that_run_elsewhere_are_skipped_and_named() -> None:
    kinds = ("custom", "namespace", "web_search", "image_generation", "mcp", "file_search", "local_shell")
    asked = read(tools=[TOOL, *({"type": kind, "name": "x"} for kind in kinds)])
    assert asked.ignored == tuple(f"tools.{kind}" for kind in kinds)
    function = {name: value for name, value in TOOL.items() if name != "type"}
    assert asked.request["tools"] == [{"type": "function", "function": function}]


def test_only_the_allowed_tools_are_told() -> None:
    other = {**TOOL, "name": "time"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "time"}]}
    request = read(tools=[TOOL, other], tool_choice=allowed).request
    assert [tool["function"]["name"] for tool in request["tools"]] == ["time"]
    assert request["tool_choice"] == "required"


CONVERSATION = [
    message(text("Be short."), role="developer"),
    {"role": "user", "content": "How warm is it?"},
    {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "Hm."}],
        "encrypted_content": sealed({"gemini": "s"}),
    },
    {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
     "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
    {"type": "function_call", "call_id": "a", "name": "weather", "arguments": '{"in": "Rome"}', "id": "fc_1"},
    {"type": "function_call", "call_id": "b", "name": "weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "a", "output": "30"},
    {"type": "function_call_output", "call_id": "b", "output": [
        text("no such place"), {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}", "detail": "high"}
    ]},
    {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    message(text("Go on.")),
]  # fmt: skip


def test_a_conversation_with_tools_is_read() -> None:
    asked = read(CONVERSATION, instructions="You are Codex.")
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "high"}}
    assert asked.ignored == ("input.web_search_call",)
    assert asked.request["messages"] == [
        {"role": "system", "content": "You are Codex."},
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "How warm is it?"},
        {
            "role": "assistant",
            "reasoning_content": "Hm.",
            "extra": {"gemini": "s"},
            "content": "I look.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"in": "Rome"}'}},
                {"id": "b", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "30"},
        {"role": "tool", "tool_call_id": "b", "content": "no such place"},
        {"role": "user", "content": [{"type": "text", "text": "What the tool returned besides text:"}, picture]},
        {"role": "user", "content": "Go on."},
    ]


def test_what_another_service_encrypted_is_passed_over() -> None:
    thought = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAABo"}
    told = read([{"role": "user", "content": "Hi"}, thought, message(text("Go on."))]).request["messages"]
    assert all("extra" not in one for one in told)


def test_files_and_sounds_are_parts_of_a_message() -> None:
    parts = read(
        [
            message(
                {"type": "input_file", "filename": "a.pdf", "file_data": PNG},
                {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
            )
        ]
    ).request["messages"][0]["content"]
    assert parts == [
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PNG}", "filename": "a.pdf"}},
        {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
    ]


@pytest.mark.parametrize("told", [[], "", None, [message(role="user")]])
def test_a_probe_without_a_question_is_a_short_question(told: Any) -> None:
    asked = read(told, max_output_tokens=1, instructions="You are Codex.")
    assert asked.request["messages"][-1] == {"role": "user", "content": PROBE}
    assert asked.request["max_tokens"] == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0.type"),
        ({"input": [message({"type": "input_image", "image_url": "https://a/b.png"})]}, "input.0.content.0.image_url"),
        ({"input": [message({"type": "input_image", "file_id": "f"})]}, "input.0.content.0.file_id"),
        ({"input": [message({"type": "input_file", "file_url": "https://a"})]}, "input.0.content.0.file_url"),
        ({"input": [message({"type": "hologram"})]}, "input.0.content.0.type"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input.0.role"),
        ({"input": 5}, "input"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"reasoning": {"effort": "heroic"}}, "reasoning.effort"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(body: Any, param: str) -> None:
    with pytest.raises(Refused) as refused:
        DIALECT.read({"model": "auto", "input": "Hi", **body}, {})
    assert (refused.value.status, refused.value.param) == (400, param)


CODEX = {
    "model": "gpt-5-codex",
    "instructions": "You are Codex.",
    "input": [message(text("<environment_context>"))],
    "tools": [TOOL, {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}}, {"type": "web_search"}],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0198",
    "client_metadata": {"x": "y"},
}


def test_codex_is_understood_and_told_what_was_not_used() -> None:
    asked = DIALECT.read(dict(CODEX), {})
    assert (asked.model, asked.stream) == ("gpt-5-codex", True)
    assert asked.ignored == ("tools.custom", "tools.web_search", "store", "prompt_cache_key", "client_metadata")


def whole(response: FinalResponse, **more: Any) -> Any:
    return json.loads(DIALECT.writer(read(**more), REQUEST_ID, CREATED).whole([response]))


def test_a_response_has_all_fields_of_the_open_specification_whatever_was_asked() -> None:
    """Its clients read them as numbers, and refuse a response in which one is missing."""
    answer = whole(final("Yes."), tools=[{"type": "function", "name": "time"}])
    ones, zeros = ("temperature", "top_p"), ("frequency_penalty", "presence_penalty", "top_logprobs")
    nothing = ("instructions", "max_output_tokens", "max_tool_calls", "prompt_cache_key", "safety_identifier")
    wanted = {**dict.fromkeys(ones, 1.0), **dict.fromkeys(zeros, 0), **dict.fromkeys(nothing)}
    assert {name: answer[name] for name in wanted} == wanted
    assert answer["tools"] == [
        {"type": "function", "name": "time", "description": None, "parameters": None, "strict": None}
    ]
    told = {"temperature": 0, "top_p": 0.5, "frequency_penalty": 1.5, "prompt_cache_key": "k", "max_tool_calls": 3}
    answer = whole(final("Yes."), **told)
    assert {name: answer[name] for name in told} == told


def test_what_is_only_repeated_is_still_named_as_ignored() -> None:
    asked = read(prompt_cache_key="k", safety_identifier="s", max_tool_calls=3, presence_penalty=0.5)
    assert asked.ignored == ("prompt_cache_key", "safety_identifier", "max_tool_calls")
    assert asked.request["presence_penalty"] == 0.5


@pytest.mark.parametrize("role", ["system", "developer"])
def test_what_the_system_says_is_the_question_where_nobody_else_speaks(role: str) -> None:
    request = read([message(text("Say hello."), role=role)], instructions="Be short.").request
    assert request["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Say hello."},
    ]


def test_a_whole_answer_is_a_response() -> None:
    response = final("It is 30.", reasoning="Hm.", extra={"gemini": "s"}, tool_calls=[call()], cached_tokens=5)
    answer = whole(response, instructions="Be short.", metadata={"a": "b"}, tools=[TOOL], max_output_tokens=20)
    assert {name: answer[name] for name in ("object", "status", "model", "created_at", "store", "error")} == {
        "object": "response",
        "status": "completed",
        "model": "m",
        "created_at": CREATED,
        "store": False,
        "error": None,
    }
    assert (answer["instructions"], answer["metadata"], answer["tools"]) == ("Be short.", {"a": "b"}, [TOOL])
    assert answer["usage"] == {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
        "output_tokens": 10,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 30,
    }
    thought, said, made = answer["output"]
    assert (thought["type"], thought["summary"][0]["text"]) == ("reasoning", "Hm.")
    assert thought["encrypted_content"] == sealed({"gemini": "s"})
    assert said["content"] == [{"type": "output_text", "text": "It is 30.", "annotations": [], "logprobs": []}]
    assert (made["call_id"], made["name"], made["arguments"]) == ("call_a", "weather", "{}")


@pytest.mark.parametrize(
    ("more", "status", "why"),
    [
        ({}, "completed", None),
        ({"finish_reason": "length"}, "incomplete", {"reason": "max_output_tokens"}),
        ({"finish_reason": "content_filter"}, "incomplete", {"reason": "content_filter"}),
    ],
)
def test_how_an_answer_ended_is_its_status(more: Any, status: str, why: Any) -> None:
    response = final("Yes.", **more)
    answer = whole(response)
    assert (answer["status"], answer["incomplete_details"]) == (status, why)
    last, data = events(DIALECT.writer(read(), REQUEST_ID, CREATED).end(response))[-1]
    assert last == f"response.{status}" and data["response"]["incomplete_details"] == why


def test_a_thought_with_nothing_beside_its_words_comes_back_too() -> None:
    """Clients hand back only thoughts with encrypted content, whole or streamed."""
    response = final("Yes.", reasoning="Hm.")
    ended = events(DIALECT.writer(read(), REQUEST_ID, CREATED).end(response))[-1][1]["response"]
    for answer in (whole(response), ended):
        assert answer["output"][0]["encrypted_content"] == NOTHING
        messages = read([message(text("Hi")), *answer["output"], message(text("And?"))]).request["messages"]
        assert messages[1] == {"role": "assistant", "reasoning_content": "Hm.", "content": "Yes."}


def test_a_refusal_is_content_of_its_own() -> None:
    assert whole(final(refusal="No."))["output"][0]["content"] == [{"type": "refusal", "refusal": "No."}]
    names = [name for name, _ in events(DIALECT.writer(read(), REQUEST_ID, CREATED).end(final(refusal="No.")))]
    assert "response.refusal.delta" in names and "response.refusal.done" in names


def test_a_stream_is_the_events_that_its_clients_know() -> None:
    writer = DIALECT.writer(read(), REQUEST_ID, CREATED)
    begun = writer.start() + writer.piece(chunk(reasoning="Hm.")) + writer.keep_alive() + writer.piece(chunk("It is "))
    told = events(begun + writer.end(final("It is 30.", reasoning="Hm.", tool_calls=[call()])))
    assert [name for name, _ in told] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert all(data["type"] == name for name, data in told)
    assert [data["sequence_number"] for _, data in told] == list(range(len(told)))


def test_log_probabilities_are_told_when_they_were_asked_for() -> None:
    response = final("Hi", logprobs=(token("Hi"),))
    asked = {"include": ["message.output_text.logprobs"]}
    told = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    assert whole(response, **asked)["output"][0]["content"][0]["logprobs"] == [told]
    assert whole(response)["output"][0]["content"][0]["logprobs"] == []
    written = DIALECT.writer(read(**asked), REQUEST_ID, CREATED).piece(chunk("Hi", logprobs=(token("Hi"),)))
    assert events(written)[-1][1]["logprobs"] == [told]


@given(streams())
def test_the_events_join_to_the_whole_answer(stream: tuple[list[Chunk], FinalResponse]) -> None:
    pieces, response = stream
    writer = DIALECT.writer(read(), REQUEST_ID, CREATED)
    written = writer.start() + b"".join(writer.piece(piece) for piece in pieces) + writer.end(response)
    deltas: dict[int, str] = {}
    items: list[Any] = []
    for name, data in events(written):
        if name.endswith(".delta"):
            deltas[data["output_index"]] = deltas.get(data["output_index"], "") + data["delta"]
        elif name == "response.output_item.done":
            assert data["output_index"] == len(items)
            items.append(data["item"])
    assert items == data["response"]["output"]

    def told(found: list[Any]) -> Any:
        text = "".join(part["text"] for item in found if item["type"] == "message" for part in item["content"])
        thought = "".join(part["text"] for item in found if item["type"] == "reasoning" for part in item["summary"])
        made = [(i["call_id"], i["name"], i["arguments"]) for i in found if i["type"] == "function_call"]
        return text, thought, sorted(made)

    assert told(items) == told(whole(response)["output"])
    for index, item in enumerate(items):
        assert told([item])[0] + told([item])[1] + item.get("arguments", "") == deltas.get(index, "")


def test_a_stream_that_fails_says_so_to_every_client() -> None:
    writer = DIALECT.writer(read(), REQUEST_ID, CREATED)
    told = events(writer.start() + writer.failed(BullpenError(ErrorCode.UPSTREAM_ERROR, "it is gone")))
    assert [name for name, _ in told[2:]] == ["error", "response.failed"]
    assert told[2][1]["message"] == "it is gone"
    assert told[3][1]["response"]["status"] == "failed"
    assert told[3][1]["response"]["error"] == {"code": "server_error", "message": "it is gone"}


def test_errors_have_openais_shape() -> None:
    assert json.loads(DIALECT.error(404, "model_not_found", "none", "model", "r")) == {
        "error": {"message": "none", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
    }
