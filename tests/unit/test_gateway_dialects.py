"""OpenAI's dialects, in shapes written by us: what a request becomes, and what an answer looks like."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import (
    BullpenError,
    Chunk,
    ErrorCode,
    FinalResponse,
    FunctionDelta,
    ToolCallDelta,
    parse_request,
    utc_now,
)
from gateway.dialects import Asked, Dialect, Refused
from gateway.dialects.completions import Completions
from gateway.dialects.openai_chat import OpenAIChat

HELLO = [{"role": "user", "content": "hi"}]
DIALECTS: tuple[Dialect, ...] = (OpenAIChat(), Completions())
LEAVES = st.none() | st.booleans() | st.integers(-5, 200) | st.floats(allow_nan=False) | st.text(max_size=5)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
FIELDS = (
    *("model", "messages", "prompt", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "stop"),
    *("tools", "tool_choice", "logprobs", "best_of", "echo", "suffix", "metadata", "user", "functions", "modalities"),
)


def final(**fields: Any) -> FinalResponse:
    told: dict[str, Any] = {
        **{"task_id": "t", "model_id": "m-1", "output": "", "tokens_used": 5, "duration_ms": 1.0, "confidence": 0.5},
        **{"request_id": "r-1", "backend": "b", "worker_id": "w-1", "prompt_tokens": 3, "completion_tokens": 2},
        **{"finish_reason": "stop", "confidence_source": "prior", "created_at": utc_now()},
    }
    return FinalResponse(**told | fields)


def chunk(**fields: Any) -> Chunk:
    return Chunk(**{"task_id": "t", "seq": 0, "delta": "", **fields})


def events(said: bytes) -> list[Any]:
    """The data of an event stream; `[DONE]` as it is."""
    data = [line.removeprefix("data: ") for line in said.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(one) if one != "[DONE]" else one for one in data]


def asked(dialect: Dialect, **body: Any) -> Asked:
    return dialect.read({**({"messages": HELLO} if dialect.name == "openai-chat" else {}), **body}, {})


def test_fields_go_on_as_they_are() -> None:
    told = asked(OpenAIChat(), model="x", temperature=1, seed=5, reasoning_effort="low", policy="cheapest", user="u")
    assert told.model == "x"
    assert told.ignored == ("user",)
    assert told.request == {
        "messages": HELLO, "temperature": 1, "seed": 5, "reasoning_effort": "low", "policy": "cheapest",
    }  # fmt: skip


def test_unknown_fields_are_passed_over_and_named_at_every_depth() -> None:
    image = {"url": "data:image/png;base64,AAAA", "colour": 1}
    messages = [
        {"role": "user", "id": "m1", "content": [{"type": "image_url", "image_url": image, "zoom": 2}], "seen": None},
        {"role": "assistant", "id": "m2", "refusal": None, "content": "well"},
    ]
    told = asked(OpenAIChat(), messages=messages, top_k=4, what=1, stream_options={"colour": 1}, strange=None)
    parts = ("messages.0.id", "messages.0.content.0.zoom", "messages.0.content.0.image_url.colour")
    assert told.ignored == ("top_k", "what", "stream_options.colour", *parts)
    parse_request(json.dumps(told.request).encode())
    assert asked(Completions(), prompt="a", what=1).ignored == ("what",)


@pytest.mark.parametrize("lost", [{"audio": {"id": "a"}}, {"function_call": {"name": "f", "arguments": ""}}])
def test_what_a_message_says_is_never_passed_over(lost: Any) -> None:
    told = asked(OpenAIChat(), messages=[*HELLO, {"role": "assistant", "content": "so", **lost}, *HELLO])
    with pytest.raises(BullpenError) as refused:
        parse_request(json.dumps(told.request).encode())
    assert refused.value.field == f"messages.1.{next(iter(lost))}"


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ({"max_completion_tokens": 5}, 5),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 5}, 5),
        ({"max_tokens": -1}, None),
        ({"max_tokens": None}, None),
        ({}, None),
    ],
)
def test_max_tokens_has_two_names(told: Any, wanted: int | None) -> None:
    assert asked(OpenAIChat(), **told).request.get("max_tokens") == wanted


@pytest.mark.parametrize(
    ("dialect", "body", "param"),
    [
        (OpenAIChat(), {"n": 0}, "n"),
        (OpenAIChat(), {"n": True}, "n"),
        (OpenAIChat(), {"n": 129}, "n"),
        (OpenAIChat(), {"model": ""}, "model"),
        (OpenAIChat(), {"messages": []}, "messages"),
        (OpenAIChat(), {"stream": "yes"}, "stream"),
        (OpenAIChat(), {"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        (OpenAIChat(), {"guided_regex": "a+"}, "guided_regex"),
        (OpenAIChat(), {"max_tokens": 0}, "max_tokens"),
        (OpenAIChat(), {"functions": [{"name": "f"}]}, "functions"),
        (OpenAIChat(), {"web_search_options": {}}, "web_search_options"),
        (OpenAIChat(), {"echo": True}, "echo"),
        (Completions(), {"prompt": "a", "structured_outputs": {"json": {}}}, "structured_outputs"),
        (Completions(), {"prompt": [1, 2]}, "prompt"),
        (Completions(), {"prompt": []}, "prompt"),
        (Completions(), {"prompt": "a", "echo": True}, "echo"),
        (Completions(), {"prompt": "a", "suffix": "b"}, "suffix"),
        (Completions(), {"prompt": "a", "best_of": 2}, "best_of"),
        (Completions(), {"prompt": ["a"] * 65, "n": 2}, "n"),
        (Completions(), {"prompt": "a", "logprobs": 21}, "logprobs"),
    ],
)
def test_what_cannot_be_honoured_is_named(dialect: Dialect, body: Any, param: str) -> None:
    with pytest.raises(Refused) as refused:
        asked(dialect, **body)
    assert refused.value.param == param


@pytest.mark.parametrize("role", ["system", "developer"])
def test_what_the_system_says_is_the_question_where_nobody_else_speaks(role: str) -> None:
    told = [{"role": "system", "content": "Be short."}, {"role": role, "content": "Say hello."}]
    read = asked(OpenAIChat(), messages=told).request["messages"]
    assert [message["role"] for message in read] == ["system", "user"]
    with_user = [*told, {"role": "user", "content": "Hi"}]
    assert asked(OpenAIChat(), messages=with_user).request["messages"] == with_user


def test_each_prompt_is_a_question() -> None:
    told = Completions().read({"prompt": ["a", "b"], "n": 2, "logprobs": 3}, {})
    assert told.parts == ({"prompt": "a"}, {"prompt": "b"})
    assert told.answers == 4
    assert told.request == {"logprobs": True, "top_logprobs": 3}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@given(body=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), ANYTHING, max_size=6))
def test_any_json_is_read_or_refused(dialect: Dialect, body: Any) -> None:
    try:
        told = dialect.read(body, {})
    except Refused as refused:
        json.loads(dialect.error(400, refused.code or "", refused.message, refused.param, "r"))
        return
    for part in told.parts:
        try:
            parse_request(json.dumps({**told.request, **part}).encode())
        except BullpenError as error:
            assert error.code is ErrorCode.INVALID_REQUEST


def test_a_stream_of_everything() -> None:
    told = asked(OpenAIChat(), stream=True, stream_options={"include_usage": True})
    writer = OpenAIChat().writer(told, "1", 7)
    call = ToolCallDelta(index=0, id="c", function=FunctionDelta(name="f", arguments='{"a"'))
    said = writer.start()
    said += writer.piece(chunk(reasoning="hm")) + writer.piece(chunk(delta="ok")) + writer.piece(chunk(delta=""))
    said += writer.piece(chunk(tool_calls=(call,)))
    said += writer.end(final(output="ok", reasoning="hm", tool_calls=({"id": "c"},), finish_reason="tool_calls"))
    *pieces, usage, done = events(said)
    deltas = [piece["choices"][0]["delta"] for piece in pieces]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {"content": "ok"},
        {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a"'}}]},
        {},
    ]
    assert pieces[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert {(piece["id"], piece["created"], piece["usage"]) for piece in pieces} == {("chatcmpl-1", 7, None)}
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 5
    assert done == "[DONE]"
    assert b"\n: x-bullpen-worker: w-1\n" in said


def test_a_stream_that_brought_no_pieces_has_all_of_the_answer() -> None:
    writer = OpenAIChat().writer(asked(OpenAIChat(), stream=True), "1", 7)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = events(writer.end(final(reasoning="hm", tool_calls=(call,), refusal="no")))
    deltas = [piece["choices"][0]["delta"] for piece in said[:-1]]
    assert deltas == [{"reasoning_content": "hm"}, {"tool_calls": [{"index": 0, **call}]}, {"refusal": "no"}, {}]


def test_a_failed_stream_ends_with_an_error_event() -> None:
    for dialect in DIALECTS:
        writer = dialect.writer(asked(dialect, prompt="a") if dialect.name != "openai-chat" else asked(dialect), "1", 7)
        (event,) = events(writer.failed(BullpenError(ErrorCode.UPSTREAM_ERROR, "it broke")))
        assert event["error"] == {
            "message": "it broke",
            "type": "server_error",
            "param": None,
            "code": "upstream_error",
        }


def test_a_whole_answer() -> None:
    whole = json.loads(
        OpenAIChat().writer(asked(OpenAIChat(), n=2), "1", 7).whole([final(output="a"), final(output="b")])
    )
    assert [choice["message"]["content"] for choice in whole["choices"]] == ["a", "b"]
    assert whole["usage"]["total_tokens"] == 10
    assert (whole["object"], whole["model"]) == ("chat.completion", "m-1")
