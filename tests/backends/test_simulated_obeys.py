"""The worker without a model does what schemas, tools and limits ask of it, twice the same."""

import json
import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bus.delivered import Delivered
from contracts import BullpenError, InferenceRequest, Piece, ToolCallDelta
from contracts.going_on import asked_to_go_on
from tests.backends.test_simulated import job, simulated
from tests.fake_manager import response
from workers.base import Delta, Job
from workers.base.interface.backend import Completion
from workers.simulated.schema import NoExample, example

TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["name", "children"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
SCHEMAS: dict[str, Any] = {
    "enum": {"enum": ["a", "b", 3, None]},
    "an enum beside a type": {"type": "string", "enum": ["a", 1]},
    "const": {"const": {"a": [1]}},
    "a nested object": {
        "type": "object",
        "properties": {
            "place": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "minLength": 30},
                    "zip": {"type": "string", "pattern": "^\\d{5}$"},
                },
                "required": ["city", "zip"],
                "additionalProperties": False,
            },
            "unit": {"type": "string", "enum": ["c", "f"]},
        },
        "required": ["place", "unit"],
        "additionalProperties": False,
    },
    "an array with minItems": {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 4},
    "an array of different ones": {"type": "array", "items": {"type": "string"}, "minItems": 12, "uniqueItems": True},
    "an array of different numbers": {
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": 5},
        "minItems": 5,
        "uniqueItems": True,
    },
    "a tuple": {
        "type": "array",
        "prefixItems": [{"type": "string"}, {"type": "boolean"}],
        "items": False,
        "minItems": 2,
    },
    "anyOf": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "null"}]},
    "anyOf whose first has no example": {"anyOf": [False, {"type": "integer"}]},
    "oneOf": {"oneOf": [{"type": "integer"}, {"type": "string"}]},
    "allOf": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]},
        ]
    },
    "anyOf beside properties": {
        "type": "object",
        "properties": {"kind": {"type": "string"}, "a": {"type": "integer"}},
        "anyOf": [{"properties": {"kind": {"const": "x"}}, "required": ["kind", "a"]}],
    },
    "a tree": TREE,
    "an optional reference to itself": {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "value": {"type": "number"}},
        "required": ["next", "value"],
        "additionalProperties": False,
    },
    "definitions of an older kind": {
        "definitions": {"a/b": {"type": "string", "const": "deep"}},
        "type": "array",
        "items": {"$ref": "#/definitions/a~1b"},
        "minItems": 1,
    },
    "bounds": {"type": "integer", "minimum": 7, "maximum": 8},
    "exclusive bounds": {"type": "integer", "exclusiveMinimum": 7, "exclusiveMaximum": 9},
    "a narrow number": {"type": "number", "exclusiveMinimum": 0.1, "exclusiveMaximum": 0.1001},
    "a negative number": {"type": "number", "maximum": -1e12},
    "multiples": {"type": "integer", "multipleOf": 7, "minimum": 15},
    "several types": {"type": ["null", "integer"]},
    "no type, but properties": {"properties": {"a": {"type": "boolean"}}, "required": ["a", "b"]},
    "names that are free": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
    "anything": {},
    "a long text": {"type": "string", "minLength": 200, "maxLength": 210},
    "a short text": {"type": "string", "maxLength": 1},
}
FORMATS = ("date-time", "date", "time", "email", "uri", "uuid", "ipv4", "ipv6", "hostname", "duration")
PATTERNS = (
    r"^[A-Z]{2}-\d{4}$",
    r"^(red|green)( light)?$",
    r"^[^\s]+@[^\s]+\.com$",
    r"^\+?[1-9]\d{6,14}$",
    r"a.c",
    r"^(?=\w)[\w.-]+$",
    r"^(ab)\1$",
)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_an_example_is_valid_for_its_schema(schema: Any) -> None:
    for seed in range(20):
        value = example(schema, random.Random(seed))
        Draft202012Validator(schema).validate(json.loads(json.dumps(value)))
        assert value == example(schema, random.Random(seed))


@pytest.mark.parametrize("name", FORMATS)
def test_an_example_has_its_format(name: str) -> None:
    schema = {"type": "string", "format": name}
    value = example(schema, random.Random(1))
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("least", [0, 5])
def test_an_example_matches_its_pattern(pattern: str, least: int) -> None:
    schema = {"type": "string", "pattern": pattern, "minLength": least}
    if least == 5 and pattern in (r"^(ab)\1$", r"^(red|green)( light)?$"):
        schema = {"type": "string", "pattern": pattern, "minLength": 3}
    Draft202012Validator(schema).validate(example(schema, random.Random(1)))


@pytest.mark.parametrize(
    "schema", [False, {"$ref": "#"}, {"$ref": "elsewhere.json"}, {"type": "integer", "minimum": 2, "maximum": 1}]
)
def test_an_unsatisfiable_schema_has_no_example(schema: Any) -> None:
    with pytest.raises(NoExample):
        example(schema, random.Random(1))


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters or SCHEMAS["a nested object"]}}


async def answer(prompt: str = "Why?", **asked: Any) -> Completion:
    backend = simulated()
    return await backend.infer(job(backend, prompt, **asked))


def called(completion: Completion) -> list[str]:
    return [call["function"]["name"] for call in completion.done.tool_calls]


TOOLS = (tool("look"), tool("find", TREE))


async def test_a_tool_is_called_with_valid_arguments_and_its_pieces_join_to_the_call() -> None:
    got = await answer(tools=TOOLS)
    [call] = got.done.tool_calls
    assert (call["function"]["name"], got.text, got.done.finish_reason) == ("look", "", "tool_calls")
    Draft202012Validator(SCHEMAS["a nested object"]).validate(json.loads(call["function"]["arguments"]))
    delivered = Delivered()
    delivered.take(Piece(tool_calls=got.tool_calls))
    assert delivered.is_all_of(response("t", "", tool_calls=got.done.tool_calls))
    assert len(got.tool_calls) > 3
    assert (await answer(tools=TOOLS)).done.tool_calls == got.done.tool_calls


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"prompt": "please find it"}, ["find"]),
        ({"prompt": "look and find"}, ["look", "find"]),
        ({"prompt": "look and find", "parallel_tool_calls": False}, ["look"]),
        ({"tool_choice": "none"}, []),
        ({"tool_choice": "required"}, ["look"]),
        ({"tool_choice": {"type": "function", "function": {"name": "find"}}}, ["find"]),
    ],
)
async def test_the_choice_of_tools_is_respected(asked: dict[str, Any], names: list[str]) -> None:
    got = await answer(**{"tools": TOOLS, **asked})
    assert called(got) == names
    assert bool(got.text) == (not names)


async def test_asked_to_go_on_it_repeats_the_words_before_it_calls() -> None:
    request = InferenceRequest.model_validate({"prompt": "please find it", "tools": TOOLS}, strict=False)
    asked = asked_to_go_on(request, "Let me look.", "look.", None)
    backend = simulated()
    got = await backend.infer(Job(asked, backend.models()[0], None))
    assert (got.text, called(got)) == ("look.", ["find"])


async def test_after_the_result_of_a_tool_it_answers_in_words() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "a cat", "tool_call_id": "c"},
    ]
    backend = simulated()
    request = InferenceRequest.model_validate_json(json.dumps({"messages": turns, "tools": TOOLS}))
    got = await backend.infer(job(backend, prompt=None, messages=request.messages, tools=TOOLS))  # type: ignore[arg-type]
    assert (called(got), got.done.finish_reason) == ([], "stop")
    assert got.text


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
async def test_json_mode_gets_valid_json(schema: Any) -> None:
    got = await answer(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}})
    Draft202012Validator(schema).validate(json.loads(got.text))
    assert got.done.finish_reason == "stop"


async def test_json_without_a_schema_is_an_object_and_is_cut_at_the_limit_of_tokens() -> None:
    got = await answer(response_format={"type": "json_object"})
    assert isinstance(json.loads(got.text), dict)
    short = await answer(response_format={"type": "json_object"}, max_tokens=3)
    assert (short.done.finish_reason, short.done.completion_tokens) == ("length", 3)
    assert got.text.startswith(short.text)


async def test_a_schema_that_nothing_fits_is_an_error() -> None:
    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"type": "integer", "enum": [], "minimum": 2, "maximum": 1}},
    }
    with pytest.raises(BullpenError, match="no example"):
        await answer(response_format=wanted)


async def test_thoughts_come_when_an_effort_asks_for_them() -> None:
    plain, little, much = [await answer(reasoning_effort=effort) for effort in ("none", "low", "high")]
    assert (plain.reasoning, plain.done.reasoning_tokens) == ("", None)
    assert 0 < len(little.reasoning.split()) < len(much.reasoning.split()) == much.done.reasoning_tokens
    assert plain.text == little.text == much.text
    assert (await answer(reasoning_effort="low")).reasoning == little.reasoning


async def test_a_model_that_does_not_reason_says_so() -> None:
    backend = simulated(models=[{"name": "a", "capabilities": ["chat", "stream"]}])
    got = await backend.infer(job(backend, reasoning_effort="low"))
    assert (got.reasoning, got.done.unsupported) == ("", ("reasoning_effort",))
    assert (await backend.infer(job(backend, reasoning_effort="none"))).done.unsupported == ()


async def test_each_token_comes_with_its_probability() -> None:
    got = await answer(logprobs=True, top_logprobs=3)
    assert "".join(token.token for token in got.token_logprobs) == got.text
    assert len(got.token_logprobs) == got.done.completion_tokens
    for token in got.token_logprobs:
        assert [top.token for top in token.top_logprobs][:1] == [token.token]
        values = [top.logprob for top in token.top_logprobs]
        assert len(values) == 3 and values == sorted(values, reverse=True) and values[0] == token.logprob <= 0
    assert (await answer()).token_logprobs == ()


async def test_thoughts_come_before_the_answer_and_in_pieces() -> None:
    backend = simulated()
    asked = job(backend, reasoning_effort="medium", tools=TOOLS)
    deltas = [delta async for delta in backend.stream(asked) if isinstance(delta, Delta)]
    kinds = ["thought" if delta.reasoning else "call" for delta in deltas if delta.reasoning or delta.tool_calls]
    assert kinds == sorted(kinds, reverse=True)
    assert kinds.count("thought") == 2 and kinds.count("call") > 1
    first = next(call for delta in deltas for call in delta.tool_calls)
    assert isinstance(first, ToolCallDelta) and first.function.name == "look"
