"""What makes two questions the same one, and what a key may be."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from contracts import BullpenError, ErrorCode, InferenceRequest, parse_request
from manager.idempotency import entry_name, fingerprint, key_of

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20).filter(str.strip)
QUESTIONS = st.fixed_dictionaries(
    {"prompt": WORDS},
    optional={
        "temperature": st.floats(0, 2),
        "max_tokens": st.integers(1, 1000),
        "model": st.sampled_from(["a", "b"]),
        "context": st.dictionaries(WORDS.map(lambda word: f"x{word}"), st.integers(), max_size=3),
        "metadata": st.dictionaries(WORDS, WORDS, max_size=3),
    },
)


def asked(**changes: Any) -> InferenceRequest:
    return parse_request(json.dumps({"prompt": "hi", **changes}).encode())


def backwards(value: Any) -> Any:
    """The same object, its fields in the opposite order, all the way down."""
    return {name: backwards(value[name]) for name in reversed(value)} if isinstance(value, dict) else value


@given(QUESTIONS)
def test_the_order_of_fields_and_white_space_do_not_make_another_question(question: dict[str, Any]) -> None:
    one = parse_request(json.dumps(question, ensure_ascii=False).encode())
    same = parse_request(json.dumps(backwards(question), indent=3).encode())
    assert fingerprint(one, "k") == fingerprint(same, "k")


@given(QUESTIONS, QUESTIONS)
def test_other_words_or_settings_are_another_question(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = asked(**one), asked(**other)
    assume(first.model_copy(update={"task_id": None}) != second.model_copy(update={"task_id": None}))
    assert fingerprint(first, "k") != fingerprint(second, "k")


def test_how_it_is_called_how_long_it_may_take_and_how_it_comes_are_not_the_question() -> None:
    again = asked(task_id="b", deadline_ms=5, stream=True, idempotency_key="k", content="none", temperature=0.2)
    assert fingerprint(asked(task_id="a"), "k") == fingerprint(again, "k")


def test_a_fingerprint_reveals_no_question_without_its_key() -> None:
    assert fingerprint(asked(), "k") != fingerprint(asked(), "another")


def test_the_key_and_its_tenant_together_name_the_entry_and_cannot_be_read_from_it() -> None:
    pairs = [("k", ""), ("k", "a"), ("k", "b"), ("b\0c", "a"), ("c", "a\0b"), ('"', ""), ("", '"')]
    names = {entry_name(key, tenant) for key, tenant in pairs}
    assert len(names) == len(pairs)
    assert all(len(name) == 64 and name.isalnum() for name in names)


def test_a_key_in_the_body_and_in_the_header_are_the_same_thing() -> None:
    request = asked(idempotency_key="k")
    assert key_of(request, {}) == key_of(request, {"Idempotency-Key": "k"}) == "k"
    assert key_of(asked(), {"Idempotency-Key": "k"}) == "k"
    assert key_of(asked(), {}) is None


def test_two_different_keys_are_refused_by_the_fields_name() -> None:
    with pytest.raises(BullpenError) as told:
        key_of(asked(idempotency_key="k"), {"Idempotency-Key": "other"})
    assert (told.value.code, told.value.field) == (ErrorCode.INVALID_REQUEST, "idempotency_key")


@pytest.mark.parametrize("key", ["x" * 129, "a\0b", "a\nb", "\udcff"])
def test_a_header_may_be_no_more_than_the_field_may(key: str) -> None:
    with pytest.raises(BullpenError) as told:
        key_of(asked(), {"Idempotency-Key": key})
    assert (told.value.code, told.value.field) == (ErrorCode.INVALID_REQUEST, "Idempotency-Key")
