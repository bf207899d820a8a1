"""How callers' libraries write a request, and what of it a worker gets."""

import json
from typing import Any

import pytest

from contracts import (
    InferenceRequest,
    parse_request,
    read_request,
)
from tests.request_parts import FILE, SOUND, image, said, tool

ASKED = {"role": "user", "content": "how warm is it?"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **tool(arguments="{}")}]}
RIGHT: dict[str, dict[str, Any]] = {
    "an image with padding": image(url="data:image/png;base64,iVBORw=="),
    "an image with parameters": image(url="data:image/svg+xml;charset=utf-8;base64,PHN2Zz4="),
    "the assistant's word only": {"messages": [{"role": "assistant", "content": "Once upon a time"}]},
    "a tool's empty result": {"messages": [ASKED, CALLED, {"role": "tool", "content": "", "tool_call_id": "c1"}]},
    "a tool's empty result for earlier turns": {
        "messages": [{"role": "tool", "content": "", "tool_call_id": "c1"}],
        "context": {"messages": [ASKED, CALLED]},
    },
    "system text for earlier turns": {
        "messages": [{"role": "system", "content": "be brief"}],
        "context": {"messages": [ASKED]},
    },
    "system text beside a prompt": said(messages=[{"role": "system", "content": "be brief"}]),
    "a tool without a schema": said(tools=[tool(parameters=None)]),
    "a tool with an empty schema": said(tools=[tool(parameters={})]),
    "a tool with what SDKs add": said(tools=[tool(strict=True, name="a.b-C_9")]),
    "a tool that must be called": said(tools=[tool()], tool_choice={"type": "function", "function": {"name": "look"}}),
    "no tool may be called": said(tool_choice="none"),
    "an empty list of tools": said(tools=[]),
    "a schema without a name": said(response_format={"type": "json_schema", "json_schema": {"schema": {}}}),
    "plain text": said(response_format={"type": "text"}),
    "every field not set": {**dict.fromkeys(InferenceRequest.model_fields), "prompt": "hi", "not_known": None},
    "names that are not set": said(metadata={"tenant": None, "team": "a"}),
    "parameters that change nothing": said(
        n=1, logprobs=False, top_logprobs=0, frequency_penalty=0.0, presence_penalty=0, logit_bias={}, functions=[]
    ),
    "parameters that are not used": said(
        user="u-1",
        store=True,
        reasoning_effort="low",
        parallel_tool_calls=False,
        stream_options={"include_usage": True},
    ),
    "a limit under its newer name": said(max_completion_tokens=5),
    "a limit under both names": said(max_completion_tokens=5, max_tokens=5),
    "a schema whose parts are not set": said(
        response_format={"type": "json_schema", "json_schema": {"schema": {}, "name": None, "strict": None}}
    ),
    "an image whose detail is not set": image(detail=None),
    "a file whose name is not set": {
        "messages": [{"role": "user", "content": [FILE]}],
    },
    "a sound": {"messages": [{"role": "user", "content": [SOUND]}]},
    "log-probabilities": said(logprobs=True, top_logprobs=20),
    "penalties and a bias": said(presence_penalty=-2, frequency_penalty=2, logit_bias={"42": -100}),
    "an image with a text for its name": image(url='data:image/png;name="a, b;c.png";base64,iVBORw=='),
    "an image in capitals": image(url="DATA:IMAGE/PNG;BASE64,iVBORw=="),
    "an image with blanks in its head": image(url="data:image/png; charset=utf-8; base64,iVBORw=="),
}


@pytest.mark.parametrize("body", RIGHT.values(), ids=RIGHT.keys())
def test_what_providers_take_passes(body: dict[str, Any]) -> None:
    request = parse_request(json.dumps(body).encode())
    assert InferenceRequest.model_validate_json(request.model_dump_json()) == request


DUMPED: dict[str, Any] = {
    "role": "assistant",
    "content": "4",
    "refusal": None,
    "annotations": [],
    "audio": None,
    "function_call": None,
    "tool_calls": [],
    "reasoning_content": "2 + 2 …",
    "provider_specific_fields": {"citations": None},
}


@pytest.mark.parametrize("place", ["messages", "context"])
def test_an_answer_that_a_library_dumped_is_a_message(place: str) -> None:
    turns = [ASKED, DUMPED, {**ASKED, "name": None}]
    body = {"messages": turns} if place == "messages" else said(context={"messages": turns})
    request = parse_request(json.dumps(body).encode())
    plain = request.conversation[1].model_dump(exclude_none=True)
    assert plain == {"role": "assistant", "content": "4", "reasoning_content": "2 + 2 …"}


def test_a_refusal_is_what_the_assistant_said() -> None:
    parts = [{"type": "refusal", "refusal": "I can't."}, {"type": "text", "text": " Sorry.", "annotations": []}]
    said = [{"role": "assistant", "content": None, "refusal": "No."}, {"role": "assistant", "content": parts}, ASKED]
    request = parse_request(json.dumps({"messages": said}).encode())
    assert [message.text for message in request.conversation] == ["No.", "I can't. Sorry.", "how warm is it?"]


def test_what_is_free_of_form_keeps_its_nulls() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [None, 1], "default": None}}}
    body = said(context={"seen": None, "list": [None]}, tools=[tool(parameters=schema, description=None)])
    request, written = read_request(json.dumps(body).encode())
    assert request.context == {"seen": None, "list": [None]}
    assert request.tools == ({"type": "function", "function": {"name": "look", "parameters": schema}},)
    assert parse_request(written, task_id=request.task_id) == request


@pytest.mark.parametrize(
    ("body", "written"),
    [
        (b'{"prompt": "hi", "seed": 1}', b'{"prompt": "hi", "seed": 1}'),
        (b"hi", b"hi"),
        (b"[INST] hi", b"[INST] hi"),
        (b"{curly", b'{"prompt":"{curly"}'),
        (b'{"prompt": "hi", "seed": null, "max_completion_tokens": 5}', b'{"prompt":"hi","max_tokens":5}'),
    ],
)
def test_a_worker_gets_the_request_in_plain_words(body: bytes, written: bytes) -> None:
    assert read_request(body)[1] == written


@pytest.mark.parametrize("bare", [False, True])
def test_an_image_is_passed_on_without_the_parameters_of_its_address(bare: bool) -> None:
    url = "data:image/JPG;charset=utf-8;base64,iVBORw=="
    part = {"type": "image_url", "image_url": url if bare else {"url": url}}
    request = parse_request(json.dumps({"messages": [{"role": "user", "content": [part]}]}).encode())
    assert request.conversation[0].images == ("data:image/jpeg;base64,iVBORw==",)
