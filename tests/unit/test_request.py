"""The border: what `parse_request` lets through, and what it refuses by naming the field."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contracts import (
    BullpenError,
    ErrorCode,
    InferenceRequest,
    parse_request,
    salvage_task_id,
    told_task_id,
)
from contracts.request_form import MAX_NESTING
from contracts.subjects import header_value
from tests.request_parts import FILE, SOUND, deep, image, parts, said, tool

BAD_BYTES: dict[str, tuple[bytes, str | None]] = {
    "nothing": (b"", "prompt"),
    "only spaces": (b" \r\n\t ", "prompt"),
    "only spaces of another kind": ("\x0b\u2003\u00a0".encode(), "prompt"),
    "binary": (b"\x80\x81\xfe\xff", None),
    "latin-1": ("caf\u00e9".encode("latin-1"), None),
    "utf-16": ("hello".encode("utf-16"), None),
    "byte-order mark": ("\ufeffhello".encode(), "prompt"),
    "NUL in plain text": (b"hel\0lo", "prompt"),
    "a list": (b'[{"prompt": "hi"}]', None),
    "an empty list": (b" [] ", None),
    "a list of texts and objects": (b'["hi", {"prompt": "hi"}]', None),
    "an open brace alone": (b" { ", None),
    "a field without quotes": (b'{prompt: "hi"}', None),
    "a field without quotes, on a line of its own": (b'{\n  messages : ["hi"]}', None),
    "single quotes and a blank": (b"{ 'messages': []}", None),
    "null": (b"null", None),
    "a truth value": (b"true", None),
    "half an object": (b'{"prompt": "hi"', None),
    "two objects": (b'{"prompt": "a"}{"prompt": "b"}', None),
    "single quotes": (b"{'prompt': 'hi'}", None),
    "trailing comma": (b'{"prompt": "hi",}', None),
    "comment": (b'{"prompt": "hi" /* there */}', None),
    "invalid UTF-8 in a string": (b'{"prompt": "\xff"}', None),
    "half a surrogate pair": (b'{"prompt": "\\ud800"}', None),
    "raw line break in a string": (b'{"prompt": "a\nb"}', None),
    "NaN": (b'{"prompt": "hi", "temperature": NaN}', "temperature"),
    "Infinity": (b'{"prompt": "hi", "top_p": Infinity}', "top_p"),
    "-Infinity deep inside": (b'{"prompt": "hi", "context": {"a": [-Infinity]}}', "context.a.0"),
    "a number beyond all floats": (b'{"prompt": "hi", "temperature": 1e999}', "temperature"),
    "nested by an attacker": (b'{"prompt": "hi", "context": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001, None),
}

BAD_FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing asked": ({}, "prompt"),
    "no prompt but options": ({"temperature": 0.5}, "prompt"),
    "empty prompt": ({"prompt": ""}, "prompt"),
    "blank prompt": ({"prompt": " \n "}, "prompt"),
    "prompt is a number": ({"prompt": 7}, "prompt"),
    "prompt is a list": ({"prompt": ["hi"]}, "prompt"),
    "empty messages": ({"messages": []}, "messages"),
    "messages is text": ({"messages": "hi"}, "messages"),
    "messages say nothing": ({"messages": [{"role": "user", "content": " "}]}, "messages"),
    "message is text": ({"messages": ["hi"]}, "messages.0"),
    "message without role": ({"messages": [{"content": "hi"}]}, "messages.0.role"),
    "unknown role": ({"messages": [{"role": "root", "content": "hi"}]}, "messages.0.role"),
    "second message wrong": ({"messages": [{"role": "user", "content": "a"}, {"role": "?"}]}, "messages.1.role"),
    "content is a number": ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
    "unknown field in a message": ({"messages": [{"role": "user", "content": "a", "to": 1}]}, "messages.0.to"),
    "unknown kind of part": ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages.0.content.0"),
    "part without text": ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
    "image by address": (image(url="https://example.org/a.png"), "messages.0.content.0.image_url.url"),
    "image that is none": (image(url="data:text/html;base64,AAAA"), "messages.0.content.0.image_url.url"),
    "image that is not base64": (image(url="data:image/png;base64,%%%%"), "messages.0.content.0.image_url.url"),
    "image cut in the middle": (image(url="data:image/png;base64,iVBORw0KGg"), "messages.0.content.0.image_url.url"),
    "image with line breaks": (image(url="data:image/png;base64,iVBO\nRw0K"), "messages.0.content.0.image_url.url"),
    "image padded in the middle": (image(url="data:image/png;base64,iV=ORw0="), "messages.0.content.0.image_url.url"),
    "image with three pads": (image(url="data:image/png;base64,i==="), "messages.0.content.0.image_url.url"),
    "image for addresses": (image(url="data:image/png;base64,-_-_"), "messages.0.content.0.image_url.url"),
    "image in another alphabet": (image(url="data:image/png;base64,ÄÖÜß"), "messages.0.content.0.image_url.url"),
    "image without data": (image(url="data:image/png;base64,"), "messages.0.content.0.image_url.url"),
    "image of an earlier turn": (
        said(context={"messages": image(url="data:image/png;base64,%")["messages"]}),
        "context.messages.0.content.0.image_url.url",
    ),
    "image after a text": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, *parts(url="data:image/png,x")]}]},
        "messages.0.content.1.image_url.url",
    ),
    "system text only": ({"messages": [{"role": "system", "content": "be brief"}]}, "messages"),
    "system and developer text only": (
        {"messages": [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}]},
        "messages",
    ),
    "system text and a blank": (
        {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": " "}]},
        "messages",
    ),
    "system text only, earlier too": (
        {"messages": [{"role": "system", "content": "a"}], "context": {"messages": [{"role": "system"}]}},
        "messages",
    ),
    "unknown image detail": (image(detail="huge"), "messages.0.content.0.image_url.detail"),
    "typo": (said(temprature=0.5), "temprature"),
    "a tenant that no index takes": (said(metadata={"tenant": "a" * 257}), "metadata.tenant"),
    "temperature is text": (said(temperature="0.5"), "temperature"),
    "temperature is a truth value": (said(temperature=True), "temperature"),
    "temperature too high": (said(temperature=2.01), "temperature"),
    "temperature negative": (said(temperature=-0.1), "temperature"),
    "max_tokens is nothing": (said(max_tokens=0), "max_tokens"),
    "max_tokens is a fraction": (said(max_tokens=1.5), "max_tokens"),
    "max_tokens is absurd": (said(max_tokens=10**12), "max_tokens"),
    "top_p is zero": (said(top_p=0), "top_p"),
    "top_p is two": (said(top_p=2), "top_p"),
    "stop is a number": (said(stop=1), "stop"),
    "stop holds a number": (said(stop=["a", 1]), "stop.1"),
    "seed beyond 64 bits": (said(seed=2**63), "seed"),
    "seed has a thousand digits": (said(seed=10**1000), "seed"),
    "stream is text": (said(stream="true"), "stream"),
    "stream is a number": (said(stream=1), "stream"),
    "task_id is empty": (said(task_id=""), "task_id"),
    "task_id is a number": (said(task_id=7), "task_id"),
    "task_id is too long": (said(task_id="x" * 129), "task_id"),
    "task_id has a line break": (said(task_id="a\nb"), "task_id"),
    "idempotency_key is empty": (said(idempotency_key=""), "idempotency_key"),
    "idempotency_key is too long": (said(idempotency_key="x" * 129), "idempotency_key"),
    "model is empty": (said(model=""), "model"),
    "model is too long": (said(model="m" * 257), "model"),
    "backend is a subject": (said(backend="local.>"), "backend"),
    "backend is empty": (said(backend=""), "backend"),
    "unknown policy": (said(policy="free"), "policy"),
    "unknown priority": (said(priority="urgent"), "priority"),
    "negative budget": (said(max_cost_usd=-1), "max_cost_usd"),
    "confidence in percent": (said(min_confidence=80), "min_confidence"),
    "deadline of nothing": (said(deadline_ms=0), "deadline_ms"),
    "deadline of a year": (said(deadline_ms=31_536_000_000), "deadline_ms"),
    "deadline is a fraction": (said(deadline_ms=0.5), "deadline_ms"),
    "context is text": (said(context="x"), "context"),
    "a typo of a message's field with a value": (
        {"messages": [{"role": "assistant", "content": "a", "refussal": "no"}]},
        "messages.0.refussal",
    ),
    "two answers wanted": (said(n=2), "n"),
    "log-probabilities by their number": (said(logprobs=5), "logprobs"),
    "other tokens without log-probabilities": (said(top_logprobs=2), "top_logprobs"),
    "more tokens than anybody tells": (said(logprobs=True, top_logprobs=21), "top_logprobs"),
    "a penalty out of bounds": (said(presence_penalty=2.5), "presence_penalty"),
    "a bias by a word": (said(logit_bias={"yes": 1}), "logit_bias.yes"),
    "a bias out of bounds": (said(logit_bias={"42": 101}), "logit_bias.42"),
    "an effort that there is not": (said(reasoning_effort="huge"), "reasoning_effort"),
    "a sound that is not base64": (
        {"messages": [{"role": "user", "content": [{**SOUND, "input_audio": {"data": "?", "format": "wav"}}]}]},
        "messages.0.content.0.input_audio.data",
    ),
    "a file by its address": (
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_data": "https://a/b.pdf"}}]}]},
        "messages.0.content.0.file.file_data",
    ),
    "sound wanted": (said(modalities=["text", "audio"]), "modalities"),
    "two limits": (said(max_tokens=5, max_completion_tokens=6), "max_completion_tokens"),
    "a limit under its other name is text": (said(max_completion_tokens="5"), "max_tokens"),
    "a function called the old way": (
        {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]},
        "messages.0.function_call",
    ),
    "an answer's field in a user's message": (
        {"messages": [{"role": "user", "content": "a", "annotations": []}]},
        "messages.0.annotations",
    ),
    "null among the stops": (said(stop=["a", None]), "stop.1"),
    "system is a list": (said(context={"system": ["be brief"]}), "context.system"),
    "earlier turns are text": (said(context={"messages": "hi"}), "context.messages"),
    "earlier turn without role": (said(context={"messages": [{"content": "a"}]}), "context.messages.0.role"),
    "tools is an object": (said(tools={}), "tools"),
    "tool is text": (said(tools=["look"]), "tools.0"),
    "tool of another type": (said(tools=[{**tool(), "type": "web_search"}]), "tools.0.type"),
    "tool without a type": (said(tools=[{"function": {"name": "look"}}]), "tools.0.type"),
    "tool without a function": (said(tools=[{"type": "function"}]), "tools.0.function"),
    "tool in the flat form": (said(tools=[{"type": "function", "name": "look"}]), "tools.0.function"),
    "tool without a name": (said(tools=[{"type": "function", "function": {}}]), "tools.0.function.name"),
    "tool with a blank in its name": (said(tools=[tool(name="look up")]), "tools.0.function.name"),
    "tool with a line break in its name": (said(tools=[tool(name="look\n")]), "tools.0.function.name"),
    "tool with a long name": (said(tools=[tool(name="x" * 65)]), "tools.0.function.name"),
    "tool described by a list": (said(tools=[tool(description=["a"])]), "tools.0.function.description"),
    "tool with text for a schema": (said(tools=[tool(parameters="{}")]), "tools.0.function.parameters"),
    "tool with a list for a schema": (said(tools=[tool(parameters=[])]), "tools.0.function.parameters"),
    "tool that takes a string": (said(tools=[tool(parameters={"type": "string"})]), "tools.0.function.parameters.type"),
    "tool with listed properties": (
        said(tools=[tool(parameters={"type": "object", "properties": ["a"]})]),
        "tools.0.function.parameters.properties",
    ),
    "tool with one word required": (
        said(tools=[tool(parameters={"type": "object", "required": "a"})]),
        "tools.0.function.parameters.required",
    ),
    "the second tool is wrong": (said(tools=[tool(), tool(name="")]), "tools.1.function.name"),
    "two tools of one name": (said(tools=[tool(), tool()]), "tools.1.function.name"),
    "tool_choice is another word": (said(tools=[tool()], tool_choice="any"), "tool_choice"),
    "tool_choice without tools": (said(tool_choice="required"), "tool_choice"),
    "tool_choice of an unknown tool": (
        said(tools=[tool()], tool_choice={"type": "function", "function": {"name": "other"}}),
        "tool_choice.function.name",
    ),
    "tool_choice without a name": (said(tools=[tool()], tool_choice={"type": "function"}), "tool_choice.function.name"),
    "tool_choice of another type": (said(tools=[tool()], tool_choice={"type": "tool"}), "tool_choice.type"),
    "tool_choice is a number": (said(tool_choice=1), "tool_choice"),
    "response_format of another type": (said(response_format={"type": "xml"}), "response_format.type"),
    "response_format without a type": (said(response_format={}), "response_format.type"),
    "response_format without a schema": (
        said(response_format={"type": "json_schema"}),
        "response_format.json_schema",
    ),
    "response_format with the schema itself": (
        said(response_format={"type": "json_schema", "json_schema": {"type": "object"}}),
        "response_format.json_schema.schema",
    ),
    "response_format with text for a schema": (
        said(response_format={"type": "json_schema", "json_schema": {"schema": "{}"}}),
        "response_format.json_schema.schema",
    ),
    "response_format with a bad name": (
        said(response_format={"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}),
        "response_format.json_schema.name",
    ),
    "response_format is text": (said(response_format="json"), "response_format"),
    "metadata holds a number": (said(metadata={"tenant": 7}), "metadata.tenant"),
    "metadata is a list": (said(metadata=[]), "metadata"),
    "nested too deep": (said(context={"a": deep(MAX_NESTING - 1)}), "context"),
}


def refused(body: bytes) -> BullpenError:
    with pytest.raises(BullpenError) as caught:
        parse_request(body)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert not caught.value.retryable
    assert caught.value.message
    return caught.value


@pytest.mark.parametrize(("body", "field"), BAD_BYTES.values(), ids=BAD_BYTES.keys())
def test_bytes_that_are_no_request_are_refused(body: bytes, field: str | None) -> None:
    assert refused(body).field == field


@pytest.mark.parametrize(("body", "field"), BAD_FIELDS.values(), ids=BAD_FIELDS.keys())
def test_a_wrong_field_is_named(body: dict[str, Any], field: str) -> None:
    error = refused(json.dumps(body).encode())
    assert error.field == field
    assert field in error.message
    assert "^" not in error.message, "no regular expression is shown"


@pytest.mark.parametrize(
    "text",
    [
        *("hello", "What is 2 + 2?", "déjà vu ☕", "3", "nullify", "trueish", '"quoted"', "a { b"),
        *("[INST] hello [/INST]", "[1, 2, 3]", '["red", "green"]', "[see above] why?", "[" * 10_000),
        *("{curly text", "{name} is late", "{{ template }}", "{-# LANGUAGE GADTs #-}", "{models", "{" * 10_000),
    ],
    ids=lambda text: text[:20],
)
def test_plain_text_is_a_prompt(text: str) -> None:
    request = parse_request(text.encode())
    assert (request.prompt, request.stream) == (text, False)
    assert request.task_id


def test_spaces_around_json_do_not_matter() -> None:
    assert parse_request(b' \n {"prompt": "hi"} \n').prompt == "hi"


def test_a_header_s_task_id_is_read_as_it_was_written_and_only_when_it_is_one() -> None:
    names = ["t1", "a b", " a", "é", "%C3%A9", "100%", "☕" * 128]
    assert [told_task_id(header_value(name)) for name in names] == names
    assert len({header_value(name) for name in names}) == len(names)
    assert [told_task_id(text) for text in (None, "", "%0A", "x" * 129, "\x1b[2J")] == [None] * 5
    assert told_task_id("%FF%zz") == "\ufffd%zz"


@pytest.mark.parametrize("levels", [1, MAX_NESTING - 2])
def test_reasonable_nesting_passes_untouched(levels: int) -> None:
    assert parse_request(json.dumps(said(context={"a": deep(levels)})).encode()).context == {"a": deep(levels)}


def test_the_caller_s_task_id_is_kept_and_a_missing_one_is_made() -> None:
    assert parse_request(b'{"prompt": "hi", "task_id": "mine"}', task_id="header").task_id == "mine"
    assert parse_request(b'{"prompt": "hi"}', task_id="header").task_id == "header"
    first, second = parse_request(b"hi").task_id, parse_request(b"hi").task_id
    assert first is not None
    assert second is not None
    assert first < second


@pytest.mark.parametrize(
    ("body", "task_id"),
    [
        (b'{"task_id": "mine", "temperature": 9}', "mine"),
        (b'{"task_id": "mine", "temperature": NaN}', "mine"),
        (b'{"task_id": 7}', None),
        (b'{"task_id": ""}', None),
        (b'{"task_id": "a\\u001b[2J"}', None),
        (b'{"task_id": "' + b"x" * 129 + b'"}', None),
        (b"[]", None),
        (b"plain text", None),
        (b"\xff", None),
    ],
)
def test_a_refused_request_keeps_its_task_id_where_it_is_one(body: bytes, task_id: str | None) -> None:
    assert salvage_task_id(body) == task_id


def test_the_conversation_is_system_then_history_then_question() -> None:
    context = {
        "system": "be brief",
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
    }
    request = parse_request(json.dumps(said(context={**context, "ticket": 7})).encode())
    assert [(m.role, m.text) for m in request.conversation] == [
        ("system", "be brief"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "hi"),
    ]
    assert request.context_extras == {"ticket": 7}


@given(st.binary(max_size=200))
@example(b'{"prompt": "hi", "seed": ' + b"9" * 5000 + b"}")
@example(b'{"prompt": "hi", "context": {"n": ' + b"9" * 5000 + b"}}")
@example(b"{" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"[" * 100_000)
@example(b'{"prompt": "hi", "metadata": {"\\u0000": "\\u0000"}}')
def test_any_bytes_are_a_request_or_a_named_refusal(body: bytes) -> None:
    accepted_or_refused(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(sorted(InferenceRequest.model_fields))


@given(st.dictionaries(NAMES | st.text(max_size=6), JSON, max_size=6))
@example({"prompt": "hi", "messages": [{"role": "user", "content": [{"type": []}]}]})
@example({"prompt": "hi", "context": {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}})
@example({"messages": [{"role": "tool", "content": None, "tool_calls": []}]})
def test_any_json_object_is_a_request_or_a_named_refusal(body: dict[str, Any]) -> None:
    accepted_or_refused(json.dumps(body).encode("utf-8", "surrogatepass"))


@given(st.dictionaries(NAMES, JSON, max_size=3))
def test_any_field_beside_a_good_prompt(body: dict[str, Any]) -> None:
    accepted_or_refused(json.dumps({**body, "prompt": "hi"}).encode("utf-8", "surrogatepass"))


def accepted_or_refused(body: bytes) -> None:
    try:
        request = parse_request(body)
    except BullpenError as error:
        assert error.code is ErrorCode.INVALID_REQUEST
        error.detail().model_dump_json()
    else:
        assert request.conversation
        assert request.needs >= {"chat"}
        assert InferenceRequest.model_validate_json(request.model_dump_json()) == request
    salvage_task_id(body)


def test_sounds_files_and_log_probabilities_are_asked_of_models_that_can() -> None:
    body = {"messages": [{"role": "user", "content": [SOUND, FILE]}], "logprobs": True, "reasoning_effort": "low"}
    assert parse_request(json.dumps(body).encode()).needs == {"chat", "audio", "file", "logprobs"}


def test_a_mistyped_field_is_answered_with_the_one_that_was_meant() -> None:
    with pytest.raises(BullpenError, match=r"max_token: unknown field; did you mean max_tokens\?"):
        parse_request(b'{"prompt": "hi", "max_token": 3}')
    with pytest.raises(BullpenError, match=r"colour: unknown field$"):
        parse_request(b'{"prompt": "hi", "colour": 3}')
    with pytest.raises(BullpenError, match="unknown field"):
        parse_request(b'{"prompt": "hi", "' + b"a" * 100_000 + b'": 3}')


@pytest.mark.parametrize("number", ["1e999", "-1e400", "1E+999"])
def test_a_number_that_is_infinite_is_refused_also_in_the_context(number: str) -> None:
    with pytest.raises(BullpenError) as refused:
        parse_request(f'{{"prompt": "p", "context": {{"deep": [{number}]}}}}'.encode())
    assert refused.value.field == "context.deep.0"
