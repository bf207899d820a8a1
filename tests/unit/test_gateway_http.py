"""What HTTP says of a failure: whether to ask again, and which field is wrong."""

import json

import pytest

from contracts import BullpenError, ErrorCode
from gateway.dialects import Dialect, Refused
from gateway.dialects.anthropic_messages import AnthropicMessages
from gateway.dialects.embeddings import OllamaOneEmbedding
from gateway.dialects.ollama import Ollama
from gateway.dialects.openai_chat import OpenAIChat
from gateway.dialects.openai_responses import OpenAIResponses
from gateway.http import Failure

FINAL = {"x-should-retry": "false"}
LATER = {"retry-after": "2", "retry-after-ms": "1500"}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Refused("no key", None, 401, "invalid_api_key"), FINAL),  # Claude Code repeats it ten times otherwise
        (Refused("not for this key", "model", 403, "model_not_allowed"), FINAL),
        (Refused("there is none", "model", 404, "model_not_found"), FINAL),
        (BullpenError(ErrorCode.BUDGET_EXCEEDED, "spent"), FINAL),
        (BullpenError(ErrorCode.UPSTREAM_ERROR, "failed"), FINAL),
        (RuntimeError("a bug"), FINAL),
        (BullpenError(ErrorCode.NO_WORKER, "none", retry_after_ms=1500), LATER),
        (BullpenError(ErrorCode.RATE_LIMITED, "wait", retry_after_ms=1500), LATER),
    ],
)
def test_clients_ask_again_only_what_may_be_asked_again(error: Exception, told: dict[str, str]) -> None:
    headers = Failure.of(error).answer(AnthropicMessages(), "r-1", {}).headers
    assert {name: headers[name] for name in ("x-should-retry", *LATER) if name in headers} == told


@pytest.mark.parametrize(
    ("dialect", "ours", "theirs"),
    [
        (OpenAIChat(), "messages.1.content", "messages.1.content"),
        (OpenAIResponses(), "messages.1.content", "input"),
        (OpenAIResponses(), "max_tokens", "max_output_tokens"),
        (OpenAIResponses(), "response_format.json_schema.name", "text.format"),
        (OpenAIResponses(), "temperature", "temperature"),
        (AnthropicMessages(), "stop.0", "stop_sequences"),
        (AnthropicMessages(), "messages.1.content", "messages"),
        (Ollama("chat"), "max_tokens", "options.num_predict"),
        (Ollama("chat"), "temperature", "options.temperature"),
        (OllamaOneEmbedding(), "input.0", "prompt"),
    ],
)
def test_a_field_that_the_mesh_refuses_has_the_clients_own_name(dialect: Dialect, ours: str, theirs: str) -> None:
    error = BullpenError(ErrorCode.INVALID_REQUEST, f"{ours}: is wrong", field=ours)
    body = json.loads(Failure.of(error).answer(dialect, "r-1", {}).text or "")
    told = body["error"] if isinstance(body["error"], dict) else {"message": body["error"]}
    assert told["message"] == f"{theirs}: is wrong"
    assert told.get("param", theirs) == theirs


def test_a_field_that_the_dialect_refuses_keeps_its_name() -> None:
    refused = Refused("messages.1.content: is wrong", "messages.1.content")
    assert Failure.of(refused).answer(OpenAIResponses(), "r-1", {}).text == (
        OpenAIResponses().error(400, "invalid_request", refused.message, refused.param, "r-1").decode()
    )
