"""Requests for vectors and their answers: what is read, what is no answer, what is counted."""

import json
from decimal import Decimal
from math import inf, nan
from typing import Any

import pytest

from contracts import BullpenError, EmbeddingRequest, EmbeddingResponse, FinalResponse, ModelCard, read_any, utc_now
from contracts.embedding import MOST_INPUT_BYTES, encoded, joined, packed, unpacked, why_unusable
from contracts.tokens import longest_text_tokens, prompt_tokens
from manager.request.events import Unreadable
from manager.request.plausible import Given, believed

CARD = ModelCard(model_id="m", context_window=100, capabilities=("embed",), local=True)


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        (b'{"input": "one"}', ("one",)),
        (b'{"input": ["one", "two"], "user": "u", "model": null}', ("one", "two")),
        (b"one, as it stands", ("one, as it stands",)),
        (b"{curly} is text", ("{curly} is text",)),
    ],
)
def test_a_request_is_read(body: bytes, texts: tuple[str, ...]) -> None:
    request, plain = read_any("embed", body, task_id="t-1")
    assert isinstance(request, EmbeddingRequest)
    assert (request.texts, request.task_id) == (texts, "t-1")
    again, _ = read_any("embed", plain)
    assert isinstance(again, EmbeddingRequest)
    assert again.texts == texts


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "input"),
        (b'{"model": "m"}', "input"),
        (b'{"input": ""}', "input"),
        (b'{"input": [" "]}', "input.0"),
        (b'{"input": [7]}', "input.0"),
        (json.dumps({"input": "x" * (MOST_INPUT_BYTES + 1)}).encode(), "input"),
        (b'{"input": "a", "stream": true}', "stream"),
        (b'{"input": "a", "dimensions": 2.5}', "dimensions"),
        (b'{"input": "a", "metadata": {"tenant": "' + b"x" * 257 + b'"}}', "metadata.tenant"),
    ],
)
def test_a_wrong_request_names_its_field(body: bytes, field: str) -> None:
    with pytest.raises(BullpenError) as refused:
        read_any("embed", body)
    assert (refused.value.code, refused.value.field) == ("invalid_request", field)


def test_base64_is_little_endian_32_bit_floats() -> None:
    assert packed([0.25, -0.5]) == "AACAPgAAAL8="
    assert unpacked("AACAPgAAAL8=") == (0.25, -0.5)
    assert encoded([[1.0]], "base64") == ("AACAPw==",)
    assert encoded([[1.0]], "float") == ((1.0,),)
    for wrong in ("%", "AAA=", "AAAAAAA="):
        with pytest.raises(ValueError, match=r".+"):
            unpacked(wrong)


@pytest.mark.parametrize(
    ("vectors", "why"),
    [
        ([[1.0], [2.0]], ""),
        (["AACAPw==", "AACAPw=="], ""),
        ([[1.0]], "1 vectors for 2 texts"),
        ([[1.0], [2.0], [3.0]], "3 vectors for 2 texts"),
        ([[1.0], []], "an empty vector"),
        ([[1.0], [1.0, 2.0]], "different lengths: 1, 2"),
        ([[1.0], [nan]], "not finite"),
        ([[inf, -inf], [1.0, 1.0]], "not finite"),
        ([[1e39], [1.0]], "not finite"),
    ],
)
def test_vectors_that_cannot_be_those_of_the_texts_are_told(vectors: Any, why: str) -> None:
    told = why_unusable(vectors, 2)
    assert told == why or (why and why in told)


def answer(**told: Any) -> FinalResponse:
    usual: dict[str, Any] = {
        **{"task_id": "t", "model_id": "m", "output": "", "tokens_used": 3, "duration_ms": 1.0, "confidence": 0.5},
        **{"request_id": "r", "backend": "b", "worker_id": "w", "prompt_tokens": 3, "completion_tokens": 0},
        **{"finish_reason": "stop", "confidence_source": "prior", "created_at": utc_now()},
    }
    return FinalResponse(**usual | told)


def given(texts: int | None) -> Given:
    return Given("r", "t", 1, "e", "b", "w", CARD, bytes_in=10, max_tokens=0, texts=texts)


def test_only_vectors_answer_a_request_for_vectors() -> None:
    vectors = ((1.0,), (2.0,))
    right = answer(embeddings=vectors)
    assert believed(right, given(2), 1.0).word == right
    for wrong in (None, vectors[:1], (*vectors, (3.0,)), ("AACAPw==",)):
        told = believed(answer(output="words", embeddings=wrong), given(2), 1.0)
        assert isinstance(told.word, Unreadable)
        assert told.refused == ("embeddings",)


def test_no_vectors_come_with_an_answer_in_words() -> None:
    told = believed(answer(output="words", embeddings=((1.0,),)), given(None), 1.0)
    assert isinstance(told.word, FinalResponse)
    assert (told.word.output, told.word.embeddings) == ("words", None)


def test_texts_are_counted_together_and_must_fit_alone() -> None:
    request = EmbeddingRequest(input=("x" * 400, "y" * 40))
    assert (prompt_tokens(request), longest_text_tokens(request)) == (112, 101)
    assert longest_text_tokens(request.model_copy(update={"truncate": True})) == 0


def part(worker: str, cost: Decimal | None, *vectors: str) -> EmbeddingResponse:
    told = {name: getattr(answer(), name) for name in ("task_id", "model_id", "request_id", "backend", "created_at")}
    return EmbeddingResponse(
        **told, worker_id=worker, tokens_used=3, prompt_tokens=3, duration_ms=2.0, cost_usd=cost, embeddings=vectors
    )


def test_parts_join_to_one_answer() -> None:
    whole = joined([part("w-1", Decimal("0.1"), "AACAPw=="), part("w-2", Decimal("0.2"), "AACAPg==", "AACAPg==")])
    assert [vector[0] for vector in whole.vectors] == [1.0, 0.25, 0.25]
    assert (whole.worker_id, whole.prompt_tokens, whole.tokens_used) == ("w-1", 6, 6)
    assert (whole.cost_usd, whole.duration_ms) == (Decimal("0.3"), 4.0)
    assert joined([part("w-1", Decimal("0.1"), "AACAPw=="), part("w-1", None, "AACAPw==")]).cost_usd is None


def test_what_only_words_have_is_not_written() -> None:
    written = json.loads(part("w-1", None, "AACAPw==").to_bytes())
    assert written["schema"] == "bullpen.embedding.v1"
    assert not {"output", "confidence", "completion_tokens", "finish_reason", "resumed"} & written.keys()
    assert EmbeddingResponse.model_validate(written).output == ""
