"""Which ends of an answer are none: nothing in it, and nothing that the caller asked for."""

import pytest

from contracts import BullpenError, ErrorCode, FinishReason, InferenceRequest, ModelCard
from workers.base import Done, Job
from workers.base.interface.empty_answer import says_something, why_empty

CARD = ModelCard(model_id="m", context_window=8192, local=True)
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", False),
        (" \n\t\u00a0\u2003", False),
        ("\u200b\ufeff\u2060\0", False),
        ("<think>Hm.</think>\n\n", False),
        ("<think>Hm, and then the room was", False),
        ("\n<reasoning>\n\n</reasoning>", False),
        ("<think>Hm.</think>Paris", True),
        ("Paris <think>", True),
        ("0", True),
        ("{}", True),
        (".", True),
        ("🦆", True),
        ("\u0301", True),
        ("<thinking> is a tag", False),
    ],
)
def test_what_says_something(text: str, says: bool) -> None:
    assert says_something(text) is says


@pytest.mark.parametrize(
    ("finish", "wanted", "written", "empty"),
    [
        ("stop", None, None, True),
        ("stop", 50, 50, True),
        ("tool_calls", None, None, True),
        ("content_filter", None, 0, True),
        ("length", None, 900, True),
        ("length", 16, 16, False),
        ("length", 16, 14, False),
        ("length", 16, None, False),
        ("length", 1, 1, False),
        ("length", 4096, 0, True),
        ("length", 4096, 12, True),
    ],
)
def test_an_empty_text_is_an_answer_only_where_the_caller_s_own_limit_ended_it(
    finish: FinishReason, wanted: int | None, written: int | None, empty: bool
) -> None:
    error = why_empty("\n", finish, wanted=wanted, written=written)
    assert (error is not None) is empty
    assert error is None or error.code is ErrorCode.EMPTY_ANSWER


def test_texts_that_end_the_answer_may_stand_at_its_beginning() -> None:
    assert why_empty("", "stop", may_stop=True) is None
    assert why_empty("", "content_filter", may_stop=True) is not None


def test_a_filter_says_nothing_against_the_model() -> None:
    filtered, silent = why_empty("", "content_filter"), why_empty("", "stop")
    assert filtered is not None and silent is not None
    assert (filtered.fault, filtered.retryable) == ("request", False)
    assert (silent.fault, silent.retryable) == ("model", True)


def job(max_tokens: int | None = None, prefix: str = "", *, wanted: int | None = None) -> Job:
    return Job(InferenceRequest(prompt="Who?", max_tokens=wanted), CARD, max_tokens, prefix)


@pytest.mark.parametrize(
    ("asked", "done"),
    [
        (job(), Done("tool_calls", 7, 4, (CALL,))),
        (job(prefix="The capital is Paris."), Done("stop", 7, 0)),
        (job(16, wanted=16), Done("length", 7, 16)),
    ],
)
def test_what_is_an_answer_without_a_word(asked: Job, done: Done) -> None:
    asked.check("", done)


@pytest.mark.parametrize(
    ("asked", "done"),
    [
        (job(), Done("stop", 7, 4)),
        (job(prefix=" \n"), Done("stop", 7, 4)),
        (job(16), Done("length", 7, 16)),
        (job(16, wanted=4096), Done("length", 7, 16)),
    ],
    ids=["nothing", "after blanks", "the worker's own limit", "less than the caller asked for"],
)
def test_what_is_no_answer(asked: Job, done: Done) -> None:
    with pytest.raises(BullpenError) as caught:
        asked.check(" ", done)
    assert caught.value.code is ErrorCode.EMPTY_ANSWER
