"""Answers in the pieces in which servers send them, read without a network; and a fuzzer of whole streams.

`pytest --hypothesis-profile deep tests/backends/openai/test_answer.py` tries 100 000 streams.
"""

import json
from dataclasses import asdict
from random import Random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts import BullpenError, ErrorCode, InferenceRequest, JsonObject, ModelCard
from workers.base import Delta, Done, Job
from workers.base.provider.chat import THOUGHTS_LEAST
from workers.base.provider.error_body import read_error
from workers.base.provider.errors import refusal
from workers.base.provider.server_events import EventReader, decoded
from workers.openai.answer import Answer, ErrorInAnswer

Json = dict[str, Any]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CARD = ModelCard(model_id="m", context_window=1000, capabilities=("chat", "stream", "logprobs"), local=True)


def answer(max_tokens: int | None = 50, **asked: Any) -> Answer:
    return Answer(Job(InferenceRequest(prompt="?", **asked), CARD, max_tokens))


def said(*pieces: JsonObject) -> tuple[str, Done | None]:
    """The text, and the end."""
    reading = answer()
    deltas = [delta for piece in pieces if (delta := reading.take(piece)) is not None]
    rest = reading.rest()
    return "".join(delta.text for delta in (*deltas, *([rest] if rest else ()))), reading.done()


def piece(delta: object, finish: object = None, **more: object) -> JsonObject:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


STOP = piece({}, "stop")


@pytest.mark.parametrize(
    "pieces",
    [
        [piece({"content": "Yes."}), STOP],
        [piece({"content": "Yes."}), piece(None, "stop")],
        [piece({"content": "Yes."}), piece({"finish_reason": "stop"})],
        [piece({"content": "Yes."}), piece({"finish_reason": ["stop"]}, [])],
        [piece({"content": "Yes."}, "STOP")],
        [piece({"content": ["Yes", {"type": "text", "text": "."}]}), STOP],
        [piece({"content": [{"type": "text", "text": "Yes."}, {"type": "reference", "reference_ids": [1]}]}), STOP],
        [piece({"content": {"type": "text", "text": "Yes."}}), STOP],
        [piece({"content": [{"type": "output_text", "text": "Yes."}]}), STOP],
        [piece({"content": None}), {"choices": None}, {"choices": [None]}, {}, piece({"content": "Yes."}), STOP],
        [{"choices": [{"text": "Yes.", "index": 0}]}, {"choices": [{"text": "", "finish_reason": "stop"}]}],
        [{"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]}],
        [{"choices": [{"message": {"content": "Yes."}}]}],
        [piece({"content": "Yes."}), {"choices": [{"delta": {}, "message": {"content": "Yes."}}]}],
        [piece({"content": "Yes.", "tool_calls": None, "refusal": None, "function_call": None}, error=None), STOP],
        [piece({"content": "Yes.", "tool_calls": []}, error={}, detail="", object="chat.completion.chunk"), STOP],
    ],
)
def test_an_answer_is_read_in_any_form(pieces: list[JsonObject]) -> None:
    text, done = said(*pieces)
    assert text == "Yes."
    assert done is not None
    assert (done.finish_reason, done.tool_calls) == ("stop", ())


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("MAX_TOKENS", "length"),
        ("model_length", "length"),
        ("SAFETY", "content_filter"),
        ("end_turn", "stop"),
        ("insufficient_system_resource", None),
        ("error", None),
        (7, None),
        ([], None),
        (["length"], "length"),
        ([None, "MAX_TOKENS"], "length"),
    ],
)
def test_how_servers_call_an_end(reason: object, finish: str | None) -> None:
    done = said(piece({"content": "Yes."}), piece({}, reason))[1]
    assert (done and done.finish_reason) == finish


@pytest.mark.parametrize(
    "more",
    [
        {"usage": {"prompt_tokens": 7, "completion_tokens": 4}},
        {"usage": {"prompt_tokens": "7", "completion_tokens": 4.0}},
        {"x_groq": {"id": "1", "usage": {"prompt_tokens": 7, "completion_tokens": 4}}},
        {"choices": [{"delta": {}, "finish_reason": "stop", "usage": {"prompt_tokens": 7, "completion_tokens": 4}}]},
    ],
)
def test_the_usage_is_found_where_it_stands(more: JsonObject) -> None:
    done = said(piece({"content": "Yes."}), {**STOP, **more}, {"choices": [], "usage": None})[1]
    assert done is not None
    assert (done.prompt_tokens, done.completion_tokens) == (7, 4)


def test_the_older_form_of_a_call_and_a_single_one_are_calls() -> None:
    for delta in (
        {"function_call": {"name": "add", "arguments": "{}"}},
        {"tool_calls": {"function": {"name": "add", "arguments": "{}"}}},
        {"tool_calls": [None, {"index": 0, "id": "a", "function": {"name": "add", "arguments": "{}"}}]},
    ):
        done = said(piece(delta), STOP)[1]
        assert done is not None
        assert [call["function"] for call in done.tool_calls] == [{"name": "add", "arguments": "{}"}]
        assert done.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("told", "code"),
    [
        ({"error": {"message": "slow down", "code": 429}}, ErrorCode.RATE_LIMITED),
        ({"error": "slow down", "status_code": 429}, ErrorCode.RATE_LIMITED),
        ({"error": {"message": "no", "type": "overloaded_error"}}, ErrorCode.UPSTREAM_ERROR),
        ({"choices": [{"delta": {}, "error": {"code": 402, "message": "pay"}}]}, ErrorCode.UPSTREAM_AUTH),
        ({"choices": [], "error": {"code": 404, "message": "no"}}, ErrorCode.NO_SUCH_MODEL),
        ({"object": "error", "message": "no", "type": "BadRequestError", "code": 400}, ErrorCode.INVALID_REQUEST),
        ({"detail": "Not authenticated", "status": 401}, ErrorCode.UPSTREAM_AUTH),
        ({"message": "too many tokens: 5000"}, ErrorCode.UPSTREAM_ERROR),
    ],
)
def test_an_error_in_place_of_a_piece_is_that_error(told: JsonObject, code: ErrorCode) -> None:
    reading = answer()
    with pytest.raises(ErrorInAnswer) as caught:
        reading.take(told)
    assert refusal(None, read_error(caught.value.told)).code is code
    assert not reading.has_begun


@pytest.mark.parametrize(
    "told",
    [
        {"choices": 7},
        {"choices": [7]},
        piece(7),
        piece({"content": 7}),
        piece({"content": [7]}),
        piece({"tool_calls": 7}),
        piece({"tool_calls": [7]}),
        piece({"tool_calls": [{"function": 7}]}),
        {"choices": [{"message": 7}]},
    ],
)
def test_what_has_the_wrong_type_is_unusable(told: JsonObject) -> None:
    with pytest.raises(BullpenError, match="unusable") as caught:
        answer().take(told)
    assert caught.value.code is ErrorCode.UPSTREAM_ERROR


def test_thoughts_are_no_part_of_the_answer_and_end_somewhere() -> None:
    thoughts = [
        {"reasoning": "Hm."},
        {"thinking": "Hm."},
        {"content": [{"type": "thinking", "thinking": "Hm."}]},
        {"reasoning": {"text": "Hm."}},
        {"reasoning": {"summary": [{"text": "Hm."}], "content": "Hm."}},
        {"reasoning_details": ["H", {"type": "reasoning.summary", "summary": "m."}]},
    ]
    reading = answer()
    assert [reading.take(piece(thought)) for thought in thoughts] == [Delta("", 0, reasoning="Hm.")] * len(thoughts)
    assert reading.has_begun
    endless = piece({"reasoning_content": "x" * (THOUGHTS_LEAST // 10)})
    with pytest.raises(BullpenError, match="far more than was asked for"):
        for _ in range(20):
            reading.take(endless)


# The fuzzer

DEEP = settings.get_current_profile_name() == "deep"
EACH = 50 if DEEP else 12
"""Streams of one seed: 300 in all as a rule, 100 000 under the profile `deep`."""
WORDS = ("", "x", "{}", "error", "429", "stop", "ü\u2028", "\ud800", "\0", "data: ")
NUMBERS = (0, 1, -1, 429, 1 << 70, 1e400, -1e400, 0.5, float("nan"))


class Fuzz:
    """A server that mostly keeps to the protocol, and sometimes to nothing."""

    def __init__(self, seed: int) -> None:
        self._dice = Random(seed)

    def stream(self) -> bytes:
        return b"".join(self._line() for _ in range(self._dice.randrange(7)))

    def cut(self) -> int:
        return self._dice.choice((1, 7, 50, 1000))

    def any(self, deep: int = 3) -> Any:
        kind = self._dice.randrange(7 if deep else 5)
        match kind:
            case 0:
                return None
            case 1:
                return self._dice.random() < 0.5
            case 2:
                return self._dice.choice(NUMBERS)
            case 3 | 4:
                return self._dice.choice(WORDS)
            case 5:
                return [self.any(deep - 1) for _ in range(self._dice.randrange(3))]
            case _:
                names = ("text", "type", "message", "code", "retry_after", "loc", "index", "arguments")
                return {self._dice.choice(names): self.any(deep - 1) for _ in range(self._dice.randrange(3))}

    def _line(self) -> bytes:
        data = f"data: {json.dumps(self._piece())}\n\n".encode()
        match self._dice.randrange(10):
            case 0:
                others = (b"data: [DONE]\n\n", b": ping\n\n", b"data: {\n\n", b"\r\n", b"<html>", b"data: null\n\n")
                return self._dice.choice(others)
            case 1:
                return json.dumps(self._piece(), indent=1).encode()
            case 2:
                return self._dice.randbytes(self._dice.randrange(20))
            case 3:
                return data[: self._dice.randrange(len(data))]
            case _:
                return data

    def _mostly(self, usual: Any) -> Any:
        return usual if self._dice.random() < 0.9 else self.any()

    def _some(self, fields: Json) -> Json:
        return {name: self._mostly(value) for name, value in fields.items() if self._dice.random() < 0.6}

    def _piece(self) -> Any:
        choice = {
            "delta": self._said(),
            "message": self._said() if self._dice.random() < 0.2 else None,
            "text": None,
            "finish_reason": self._dice.choice((None, None, "stop", "length", "error")),
            "logprobs": {"content": [{"logprob": self.any(0)}]},
            "error": None,
        }
        counts = self._some({f"{part}_tokens": self._dice.randrange(20) for part in ("prompt", "completion", "total")})
        others = {"usage": counts, "error": None, "x_groq": {"usage": counts}, "detail": None}
        return self._mostly({"choices": self._mostly([self._some(choice)]), **self._some(others)})

    def _said(self) -> Json:
        text = self._dice.choice(("Yes", None, [{"type": "text", "text": "Yes"}]))
        calls = [self._call() for _ in range(self._dice.randrange(3))]
        return self._some({"content": text, "tool_calls": calls, "reasoning_content": "Hm.", "refusal": None})

    def _call(self) -> Json:
        arguments = self._dice.choice(("{", '{"a":', "1}", "{}", '{"a":1}', ""))
        function = self._some({"name": self._dice.choice(("add", "sub", "")), "arguments": arguments})
        return self._some({"index": self._dice.randrange(3), "id": self._dice.choice("ab"), "function": function})


def test_the_pieces_of_another_choice_are_left_out() -> None:
    """A server that answers several times sends them in turns, each with its index, in any order."""

    def of(index: int, text: str, finish: str | None = None) -> JsonObject:
        return {"index": index, "delta": {"content": text}, "finish_reason": finish}

    turns = [(0, "A", None), (1, "X", None), (0, "B", "stop"), (1, "Y", "length")]
    text, done = said(*({"choices": [of(*turn)]} for turn in turns))
    assert text == "AB"
    assert done is not None
    assert done.finish_reason == "stop"
    text, _ = said({"choices": [of(1, "A"), of(0, "X")]}, {"choices": [of(0, "Y"), of(1, "B", "stop")]})
    assert text == "AB"


def test_thoughts_that_are_a_list_inside_a_part_are_read_as_words() -> None:
    part = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    delta = answer().take(piece({"content": [part, {"type": "text", "text": "Yes"}]}))
    assert delta is not None
    assert (delta.text, delta.reasoning) == ("Yes", "Hm.")


def test_reasoning_in_an_object_is_read_as_words() -> None:
    delta = answer().take(piece({"content": "Yes", "reasoning": {"text": "Hm."}}))
    assert delta is not None
    assert (delta.text, delta.reasoning) == ("Yes", "Hm.")


def test_half_a_character_in_a_refusal_becomes_a_question_mark() -> None:
    reading = answer()
    reading.take({"choices": [{"index": 0, "delta": {"refusal": "No \ud800"}, "finish_reason": "stop"}]})
    done = reading.done()
    assert done is not None
    assert done.refusal == "No ?"


def test_a_call_whose_id_is_a_number_keeps_it() -> None:
    call = {"index": 0, "id": 7, "function": {"name": "weather", "arguments": "{}"}}
    reading = answer(tools=(TOOL,))
    reading.take({"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]})
    done = reading.done()
    assert done is not None
    assert [one["id"] for one in done.tool_calls] == ["7"]


@pytest.mark.parametrize(("prompt", "completion"), [("12", "3"), (12.0, 3.0)])
def test_usage_in_other_kinds_of_numbers_counts(prompt: object, completion: object) -> None:
    reading = answer()
    reading.take(piece({"content": "Yes"}))
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    reading.take({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage})
    done = reading.done()
    assert done is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (12, 3)


def test_half_a_character_is_sendable_wherever_it_stands() -> None:
    """JSON can tell half a character, which no message of ours can carry."""
    half = "a\ud800"
    call = {"id": half, "function": {"name": half, "arguments": f'{{"a": "{half}"}}'}}
    for said in ({"refusal": half}, {"content": half, "refusal": half}, {"reasoning": half}, {"tool_calls": [call]}):
        reading = answer(tools=(TOOL,))
        delta, done = reading.take(piece(said, "stop")), reading.done()
        assert delta is not None
        assert done is not None
        assert json.dumps([asdict(delta), asdict(done)], default=str, ensure_ascii=False).encode()
    with pytest.raises(ErrorInAnswer) as caught:
        answer().take({"error": {"message": half}})
    assert refusal(None, read_error(json.dumps(caught.value.told))).message.encode().endswith(b"a?")


@example(4501)
@example(648888)
@pytest.mark.timeout(3600 if DEEP else 120)
@given(st.integers(0, 2**32))
def test_whatever_a_server_sends_is_an_answer_or_a_typed_error(seed: int) -> None:
    fuzz = Fuzz(seed)
    for _ in range(EACH):
        ends_well(fuzz.stream(), fuzz.cut())


def ends_well(body: bytes, size: int) -> None:
    reader, reading = EventReader(), answer(tools=(TOOL,))
    try:
        told = [data for at in range(0, len(body), size) for data in reader.feed(body[at : at + size])]
        deltas = [reading.take(one) for data in (*told, *reader.end()) for one in decoded(data)]
        done = reading.done()
    except BullpenError as error:
        assert error.code is ErrorCode.UPSTREAM_ERROR
    except ErrorInAnswer as error:
        assert refusal(None, read_error(error.told)).message
    else:
        sound([delta for delta in deltas if delta is not None], done)


def sound(deltas: list[Delta], done: Done | None) -> None:
    for delta in deltas:
        assert delta.text.encode() or not delta.text
        assert delta.tokens >= 0
        assert all(-1e6 <= value <= 0 for value in delta.logprobs)
    if done is not None:
        assert json.dumps(asdict(done), ensure_ascii=False).encode()
        assert all(count is None or 0 <= count < 1 << 32 for count in asdict(done.usage).values())


@given(st.integers(0, 2**32))
def test_whatever_an_error_says_it_is_read(seed: int) -> None:
    body = Fuzz(seed).any(5)
    for told in (body, json.dumps(body), {"error": body}, [body]):
        error = refusal(None, read_error(told))
        assert error.message.encode(errors="replace")
        assert error.retry_after_ms is None or 0 <= error.retry_after_ms <= 60_000
