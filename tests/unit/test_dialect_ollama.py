"""Ollama's API: what its clients send, and what they read."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given

from contracts import BullpenError, Chunk, ErrorCode, FinalResponse, InferenceRequest, ModelCard
from gateway.dialects import Asked, Refused
from gateway.dialects.ollama import Listed, Ollama, running, shown, tags, version
from tests.answers import CREATED, REQUEST_ID, call, call_piece, chunk, final, lines, streams, token

CHAT, GENERATE = Ollama("chat"), Ollama("generate")
PNG = "iVBORw0KGgo="
USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def read(*messages: Any, **more: Any) -> Asked:
    asked = CHAT.read({"model": "m", "messages": list(messages) or [USER], **more}, {})
    InferenceRequest.model_validate_json(json.dumps(asked.request))
    return asked


def generate(**more: Any) -> Asked:
    asked = GENERATE.read({"model": "m", "prompt": "Hi", **more}, {})
    InferenceRequest.model_validate_json(json.dumps(asked.request))
    return asked


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"options": {"temperature": 0, "top_p": 0, "seed": 7}}, {"temperature": 0, "top_p": 0.0001, "seed": 7}),
        ({"options": {"num_predict": 20, "stop": ["END"]}}, {"max_tokens": 20, "stop": ["END"]}),
        ({"options": {"num_predict": -1, "stop": "END"}}, {"max_tokens": None, "stop": ["END"]}),
        ({"options": {"presence_penalty": 0.5, "frequency_penalty": 1}},
         {"presence_penalty": 0.5, "frequency_penalty": 1}),
        ({"think": True}, {"reasoning_effort": "medium"}),
        ({"think": False}, {"reasoning_effort": "none"}),
        ({"think": "high"}, {"reasoning_effort": "high"}),
        ({"format": "json"}, {"response_format": {"type": "json_object"}}),
        ({"format": ""}, {"response_format": None}),
        ({"format": {"type": "object"}},
         {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}}),
        ({"tools": [TOOL]}, {"tools": [TOOL]}),
        ({"logprobs": True, "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
    ],
)  # fmt: skip
def test_parameters_become_those_of_the_mesh(more: Any, wanted: Any) -> None:
    request = read(**more).request
    assert {name: request.get(name) for name in wanted} == wanted


def test_options_without_a_counterpart_are_named() -> None:
    asked = read(keep_alive="5m", options={"num_ctx": 4096, "top_k": 40, "temperature": 0.5})
    assert asked.ignored == ("options.num_ctx", "options.top_k")


@pytest.mark.parametrize(("told", "streams_"), [({}, True), ({"stream": None}, True), ({"stream": False}, False)])
def test_an_answer_is_streamed_unless_a_client_says_otherwise(told: Any, streams_: bool) -> None:
    assert read(**told).stream is generate(**told).stream is streams_


def test_a_conversation_with_tools_is_read() -> None:
    made = [{"function": {"name": "weather", "arguments": {"in": place}}} for place in ("Rome", "Oslo")]
    messages = read(
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "How warm is it?", "images": [PNG]},
        {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": made},
        {"role": "tool", "content": "30", "tool_name": "weather"},
        {"role": "tool", "content": "5", "tool_name": "weather"},
    ).request["messages"]
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    assert messages == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "How warm is it?"}, picture]},
        {
            "role": "assistant",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": '{"in":"Rome"}'}},
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"in":"Oslo"}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_0", "content": "30"},
        {"role": "tool", "tool_call_id": "call_1", "content": "5"},
    ]


def test_generate_has_a_prompt_a_system_text_and_images() -> None:
    messages = generate(system="Be short.", images=["/9j/4AAQ"]).request["messages"]
    picture = {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/4AAQ"}}
    assert messages == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, picture]},
    ]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": 5}, "model"),
        ({"suffix": "}"}, "suffix"),
        ({"raw": True}, "raw"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1, 2]}, "context"),
        ({"think": "hard"}, "think"),
        ({"format": 5}, "format"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": 5}, "options"),
        ({"images": PNG}, "images"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(body: Any, param: str) -> None:
    with pytest.raises(Refused) as refused:
        GENERATE.read({"model": "m", "prompt": "Hi", **body}, {})
    assert (refused.value.status, refused.value.param) == (400, param)


def test_what_the_system_says_is_the_question_where_nobody_else_speaks() -> None:
    asked = read({"role": "system", "content": "Be short."}, {"role": "system", "content": "Say hello."})
    assert [message["role"] for message in asked.request["messages"]] == ["system", "user"]
    assert asked.answers == 1


@pytest.mark.parametrize(
    ("dialect", "body", "said"),
    [
        (CHAT, {"messages": []}, {"message": {"role": "assistant", "content": ""}, "done_reason": "load"}),
        (GENERATE, {}, {"response": "", "done_reason": "load"}),
        (GENERATE, {"prompt": "", "keep_alive": 0}, {"response": "", "done_reason": "unload"}),
    ],
)
def test_a_request_without_a_question_asks_no_model(dialect: Ollama, body: Any, said: Any) -> None:
    asked = dialect.read({"model": "m", **body}, {})
    assert asked.parts == () and not asked.stream
    answer = json.loads(dialect.writer(asked, REQUEST_ID, CREATED).whole(()))
    assert answer == {"model": "m", "created_at": "2026-01-01T00:00:00Z", **said, "done": True}


def test_a_whole_answer_has_its_figures_in_nanoseconds() -> None:
    response = final("It is 30.", reasoning="Hm.", tool_calls=[call(**{"in": "Rome"})])
    answer = json.loads(CHAT.writer(read(stream=False), REQUEST_ID, CREATED).whole([response]))
    assert answer == {
        "model": "m",
        "created_at": "2026-01-01T00:00:00Z",
        "message": {
            "role": "assistant",
            "content": "It is 30.",
            "thinking": "Hm.",
            "tool_calls": [
                {"id": "call_a", "function": {"index": 0, "name": "weather", "arguments": {"in": "Rome"}}}
            ],
        },
        "done": True,
        "done_reason": "stop",
        "total_duration": 500_000_000,
        "load_duration": 0,
        "prompt_eval_count": 20,
        "prompt_eval_duration": 100_000_000,
        "eval_count": 10,
        "eval_duration": 400_000_000,
    }  # fmt: skip


def test_generate_answers_at_the_top() -> None:
    answer = json.loads(GENERATE.writer(generate(), REQUEST_ID, CREATED).whole([final("Yes.", finish_reason="length")]))
    assert (answer["response"], answer["done_reason"]) == ("Yes.", "length")


def test_a_stream_is_lines_of_which_only_the_last_is_done() -> None:
    writer = CHAT.writer(read(), REQUEST_ID, CREATED)
    pieces = [chunk(reasoning="Hm."), chunk("It is "), call_piece(0, '{"in": "Rome"}', "call_a", "weather")]
    response = final("It is 30.", reasoning="Hm.", tool_calls=[call(**{"in": "Rome"})])
    written = writer.start() + b"".join(map(writer.piece, pieces)) + writer.keep_alive() + writer.end(response)
    told = lines(written)
    assert [line["done"] for line in told] == [False] * (len(told) - 1) + [True]
    assert [line["message"] for line in told] == [
        {"role": "assistant", "content": "", "thinking": "Hm."},
        {"role": "assistant", "content": "It is "},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "30."},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_a", "function": {"index": 0, "name": "weather", "arguments": {"in": "Rome"}}}],
        },
        {"role": "assistant", "content": ""},
    ]


@given(streams())
def test_the_lines_join_to_the_whole_answer(stream: tuple[list[Chunk], FinalResponse]) -> None:
    pieces, response = stream
    writer = CHAT.writer(read(), REQUEST_ID, CREATED)
    told = lines(b"".join(map(writer.piece, pieces)) + writer.end(response))
    whole = json.loads(CHAT.writer(read(), REQUEST_ID, CREATED).whole([response]))["message"]
    said = [line["message"] for line in told]
    assert "".join(message["content"] for message in said) == whole["content"]
    assert "".join(message.get("thinking", "") for message in said) == whole.get("thinking", "")
    assert [made for message in said for made in message.get("tool_calls", [])] == whole.get("tool_calls", [])


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\u2029", "\x1c", "\n", "\r"])
def test_no_line_is_broken_by_what_a_model_says(end: str) -> None:
    """The ollama client splits lines where Unicode does."""
    (line,) = CHAT.writer(read(), REQUEST_ID, CREATED).piece(chunk(f"a{end}b")).decode().splitlines()
    assert json.loads(line)["message"]["content"] == f"a{end}b"


def test_thinking_that_was_switched_off_is_not_shown() -> None:
    writer = CHAT.writer(read(think=False), REQUEST_ID, CREATED)
    assert writer.piece(chunk(reasoning="Hm.")) == b""
    assert "thinking" not in json.loads(writer.whole([final("Yes.", reasoning="Hm.")]))["message"]


def test_log_probabilities_are_told_when_they_were_asked_for() -> None:
    writer = CHAT.writer(read(logprobs=True), REQUEST_ID, CREATED)
    assert lines(writer.piece(chunk("Hi", logprobs=(token("Hi"),))))[0]["logprobs"][0]["token"] == "Hi"


def test_errors_have_ollamas_shape() -> None:
    assert json.loads(CHAT.error(404, "model_not_found", "none", "model", "r")) == {"error": "none"}
    failed = CHAT.writer(read(), REQUEST_ID, CREATED).failed(BullpenError(ErrorCode.INTERNAL, "it is gone"))
    assert lines(failed) == [{"error": "it is gone"}]


CARD = ModelCard(model_id="m", context_window=8192, local=True, capabilities=("chat", "stream", "tools", "vision"))
LISTED = [Listed("m", CARD, datetime(2026, 1, 2, tzinfo=UTC)), Listed("auto", None)]


def test_models_are_listed_and_shown() -> None:
    listed = json.loads(tags(LISTED))["models"]
    assert [model["name"] for model in listed] == ["m:latest", "auto:latest"]
    assert listed[0]["modified_at"] == "2026-01-02T00:00:00+00:00" and len(listed[0]["digest"]) == 64
    same = [Listed("m", CARD), Listed("m:latest", CARD), Listed("m:1b", CARD)]
    assert [model["model"] for model in json.loads(tags(same))["models"]] == ["m:latest", "m:1b"]
    told = json.loads(shown(LISTED[0]))
    assert (told["parameters"], json.loads(shown(LISTED[1]))["parameters"]) == ("num_ctx 8192", "")
    assert told["capabilities"] == ["completion", "tools", "vision"]
    assert told["model_info"]["bullpen.context_length"] == 8192
    assert json.loads(running(LISTED[:1], datetime(2027, 1, 1, tzinfo=UTC)))["models"][0]["context_length"] == 8192
    assert json.loads(version())["version"].count(".") == 2
