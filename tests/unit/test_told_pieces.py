"""What counts of thoughts and log-probabilities that a worker tells, and what the books keep of an answer."""

from typing import Any

import pytest

from contracts import (
    FinalResponse,
    InferenceRequest,
    ModelCard,
    Piece,
    ResponseRecord,
    TokenLogprob,
    parse_request,
    utc_now,
)
from manager.idempotency import fingerprint
from manager.request.events import Streamed, read_event
from manager.request.plausible import BYTES_PER_TOKEN, Given, believed
from tests.fake_manager import response
from workers.base.provider.parameters import STEERS, asked_in_vain

CARD = ModelCard(model_id="m", context_window=100, local=True)
TOOL = {"type": "function", "function": {"name": "f"}}
TOKEN = TokenLogprob(token="a", logprob=-0.5)


def given(**changes: Any) -> Given:
    told: dict[str, Any] = {"bytes_in": 100, "max_tokens": 10, "logprobs": True, **changes}
    return Given("r", "t", 1, "e", "b", "w", CARD, **told)


def answer(**told: Any) -> FinalResponse:
    return FinalResponse(**dict(response("t", "x", **told)))


MOST = given().most_out


def test_thoughts_and_log_probabilities_are_believed_within_bounds() -> None:
    whole = answer(reasoning="x" * 100, logprobs=(TOKEN,) * 10)
    word, refused = believed(whole, given(), 1.0)
    assert isinstance(word, FinalResponse) and refused == ()
    assert (word.reasoning, word.logprobs) == (whole.reasoning, whole.logprobs)


@pytest.mark.parametrize(
    ("told", "field"),
    [
        ({"reasoning": "x" * (BYTES_PER_TOKEN * MOST + 1)}, "reasoning"),
        ({"logprobs": (TOKEN,) * (MOST + 1)}, "logprobs"),
    ],
)
def test_more_of_them_than_any_answer_has_is_unknown(told: dict[str, Any], field: str) -> None:
    word, refused = believed(answer(**told), given(), 1.0)
    assert isinstance(word, FinalResponse) and refused == (field,)
    assert getattr(word, field) is None and word.output == "x"
    piece = Streamed(Piece("x", told.get("reasoning", ""), (), told.get("logprobs", ())), 0, 0)
    assert believed(piece, given(), 1.0) == (None, (field,))


def test_what_was_not_asked_for_is_left_out_without_a_reproach() -> None:
    word, refused = believed(answer(logprobs=(TOKEN,)), given(logprobs=False), 1.0)
    assert isinstance(word, FinalResponse) and (word.logprobs, refused) == (None, ())
    piece = Streamed(Piece("x", logprobs=(TOKEN,)), 0, 0)
    assert believed(piece, given(logprobs=False), 1.0) == (Streamed(Piece("x"), 0, 0), ())


@pytest.mark.parametrize(
    "chunk",
    [
        b'{"type":"chunk","task_id":"t","seq":0,"delta":"x","logprobs":[{"token":"x","logprob":0.5}]}',
        b'{"type":"chunk","task_id":"t","seq":0,"delta":"x","logprobs":[{"token":"x","logprob":-Infinity}]}',
        b'{"type":"chunk","task_id":"t","seq":0,"delta":"x","tool_calls":[{"index":-1}]}',
        b'{"type":"chunk","task_id":"t","seq":0,"delta":"x","tool_calls":[{"index":1000}]}',
    ],
)
def test_a_piece_that_cannot_be_is_no_message(chunk: bytes) -> None:
    assert not isinstance(read_event(chunk), Streamed)


def test_the_books_keep_a_refusal_as_the_answer_and_nothing_of_thoughts() -> None:
    request = InferenceRequest(prompt="hi", task_id="t")
    told = response(
        "t", "", refusal="I would rather not.", reasoning="secret", extra={"a": "secret"}, logprobs=(TOKEN,)
    )
    record = ResponseRecord.answered(request, told, created_at=utc_now(), cost_usd=None)
    assert record.output == "I would rather not."
    assert b"secret" not in record.to_bytes()


def test_a_key_made_before_there_were_log_probabilities_is_of_the_same_question() -> None:
    plain = parse_request(b'{"prompt": "hi", "task_id": "t"}')
    spelled = parse_request(b'{"prompt": "hi", "task_id": "t", "logprobs": false, "continuation": "seamless"}')
    other = parse_request(b'{"prompt": "hi", "task_id": "t", "logprobs": true}')
    assert fingerprint(plain, "k") == fingerprint(spelled, "k") != fingerprint(other, "k")


@pytest.mark.parametrize(
    ("asked", "vain"),
    [
        ({}, ()),
        ({"reasoning_effort": "none", "frequency_penalty": 0.0, "logit_bias": {}, "parallel_tool_calls": True}, ()),
        ({"parallel_tool_calls": False}, ()),
        ({"parallel_tool_calls": False, "tools": (TOOL,)}, ("parallel_tool_calls",)),
        (
            {"reasoning_effort": "low", "presence_penalty": 1.0, "logit_bias": {"1": 1.0}, "seed": 1},
            ("logit_bias", "presence_penalty", "reasoning_effort", "seed"),
        ),
    ],
)
def test_only_what_changes_something_is_asked_in_vain(asked: dict[str, Any], vain: tuple[str, ...]) -> None:
    assert asked_in_vain(InferenceRequest(prompt="hi", **asked), STEERS) == vain
