"""What servers of OpenAI's API say, in shapes written by us: too long, refused parameters, and what looks like it."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from contracts import BullpenError, ErrorCode, InferenceRequest, ModelCard
from workers.base.interface.config import Parameter
from workers.base.provider.error_body import read_error
from workers.base.provider.errors import refusal
from workers.base.provider.parameters import check_takes, limited, may_learn, refused, wants
from workers.openai.address import other_addresses
from workers.openai.dialect import TOO_LONG, refused_by_name

Json = dict[str, Any]
SHAPES: dict[str, list[Json]] = yaml.safe_load((Path(__file__).parent / "errors.yaml").read_text(encoding="utf-8"))
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def error(message: str, **more: object) -> object:
    return {"error": {"message": message, **more}}


@pytest.mark.parametrize("shape", SHAPES["too_long"], ids=lambda shape: shape["who"])
def test_a_too_long_prompt_is_recognized_in_every_dialect(shape: Json) -> None:
    told = refusal(shape["status"], read_error(shape["body"]), words=TOO_LONG)
    assert (told.code, told.fault) == (ErrorCode.CONTEXT_LENGTH_EXCEEDED, "model")
    assert told.prompt_tokens == shape["tokens"]


@pytest.mark.parametrize("shape", SHAPES["not_too_long"])
def test_what_is_not_too_long_stays_what_it_is(shape: Json) -> None:
    assert refusal(shape["status"], read_error(shape["body"]), words=TOO_LONG).code == shape["code"]


def test_an_account_without_money_is_not_one_model_s_limit() -> None:
    assert refusal(None, read_error(error("pay", type="insufficient_quota"))).fault == "account"


SENT: tuple[Parameter, ...] = (
    "temperature",
    "top_p",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "parallel_tool_calls",
    "reasoning_effort",
    "reasoning_content",
    "max_tokens",
    "developer_role",
    "tools",
    "tool_choice",
    "response_format",
)


@pytest.mark.parametrize("shape", SHAPES["refused"])
def test_a_refused_parameter_is_named_in_every_dialect(shape: Json) -> None:
    request = InferenceRequest(
        prompt="?", tools=(TOOL,), stop="x", stream=True, response_format={"type": "json_object"}
    )
    told = refused(400, read_error(shape["body"]), SENT, wants(request))
    assert told.can_go | told.needed == set(shape["named"])
    assert told.needed <= {"tools", "tool_choice", "stop", "stream", "response_format"}


@pytest.mark.parametrize("shape", SHAPES["not_refused"])
def test_a_wrong_value_or_another_field_is_no_refused_parameter(shape: Json) -> None:
    told = refused(400, read_error(shape["body"]), SENT, SENT)
    assert not told.can_go | told.needed


@pytest.mark.parametrize("status", [401, 402, 403, 413, 429, 503])
def test_what_has_another_reason_names_no_parameter(status: int) -> None:
    told = refused(status, read_error(error("temperature is not supported")), SENT, ())
    assert not told.can_go | told.needed


def test_one_kind_of_response_format_is_not_every_kind() -> None:
    assert not may_learn({"response_format"}, read_error(error("json_schema is not supported")))
    assert may_learn({"response_format"}, read_error(error("response_format is not supported")))


def test_a_card_lists_unsupported_parameters_and_lacks_their_capabilities() -> None:
    card = ModelCard(
        model_id="m", context_window=1, capabilities=("chat", "stream", "tools", "json", "logprobs"), local=True
    )
    told = limited(card, ("tools", "logprobs", "seed"))
    assert told.capabilities == ("chat", "stream", "json")
    assert told.unsupported == ("logprobs", "seed", "tools")
    assert limited(card, ()) is card


@pytest.mark.parametrize("name", ["o1", "o3-mini", "openai/o4-mini", "gpt-5", "gpt-5.4-nano", "azure:gpt-5-mini"])
def test_models_that_reason_are_known_behind_any_address(name: str) -> None:
    assert {"temperature", "top_p"} <= refused_by_name(name)


@pytest.mark.parametrize("name", ["gpt-4o", "gpt-5-chat-latest", "gpt-50", "o10b", "llama-o1", "gpt-oss-20b", "solo3"])
def test_other_names_are_not_mistaken_for_them(name: str) -> None:
    assert not refused_by_name(name)


@pytest.mark.parametrize(
    ("base", "right"),
    [
        ("http://h:8000", "http://h:8000/v1"),
        ("http://h:8000/", "http://h:8000/v1"),
        ("http://h/v1/chat/completions", "http://h/v1"),
        ("http://h/v1/models/", "http://h/v1"),
        ("https://openrouter.ai/v1", "https://openrouter.ai/api/v1"),
        ("https://openrouter.ai/api", "https://openrouter.ai/api/v1"),
        ("https://api.groq.com", "https://api.groq.com/openai/v1"),
        ("https://api.groq.com/openai", "https://api.groq.com/openai/v1"),
        ("http://h:1234/api/v0", "http://h:1234/v1"),
        ("http://h/v1/v1", "http://h/v1"),
        ("https://api.deepseek.com/v1", "https://api.deepseek.com"),
    ],
)
def test_the_right_address_is_among_the_likely_ones(base: str, right: str) -> None:
    assert right in other_addresses(base)
    assert len(other_addresses(base)) <= 8
    assert base not in other_addresses(base)


def test_every_parameter_is_known_to_the_table() -> None:
    assert set(SENT) | {"max_completion_tokens"} == set(get_args(Parameter))


def test_an_error_is_raised_for_what_no_model_may_leave_out() -> None:
    request = InferenceRequest(prompt="?", tools=(TOOL,), temperature=0.5)
    check_takes(request, "m", {"temperature", "stream"})
    with pytest.raises(BullpenError, match="m does not take tools") as caught:
        check_takes(request, "m", {"tools"})
    assert (caught.value.field, caught.value.fault) == ("tools", "model")
