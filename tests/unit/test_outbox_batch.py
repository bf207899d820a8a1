"""Many events in one message, and one by one again."""

import json

from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from outbox import batch
from outbox.batch import Batches, batch_id, packed, portions, unpacked
from outbox.spool import Event

objects = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=9),
        lambda one: st.lists(one) | st.dictionaries(st.text(max_size=3), one),
    ),
    max_size=4,
)


def event(body: object = None, subject: str = "telemetry.response", name: str = "a") -> Event:
    return Event(subject, to_json(body or {}), name)


@given(st.lists(objects, min_size=1, max_size=6))
def test_what_is_packed_is_unpacked_to_the_byte(told: list[object]) -> None:
    events = [event(one) for one in told]
    assert unpacked(packed(events)) == [one.body for one in events]


@given(st.lists(objects, min_size=1, max_size=6), st.sampled_from([None, 0, 2]))
def test_it_is_json_for_everybody_and_so_is_what_another_writes(told: list[object], indent: int | None) -> None:
    assert json.loads(packed([event(one) for one in told])) in (told, told[0] if len(told) == 1 else told)
    foreign = unpacked(json.dumps(told, indent=indent).encode())
    assert [from_json(one) for one in foreign] == told


def test_one_alone_goes_as_it_is() -> None:
    assert packed([event({"x": [1]})]) == b'{"x":[1]}'
    assert batch_id([event(name="mine")]) == "mine"


def test_what_cannot_be_taken_apart_stays_whole() -> None:
    for body in (b"", b"[", b"[]", b'[{"a":1},\t\n{"b"', b"rubbish", b"[" * 5000, b"\xff"):
        assert unpacked(body) == [body]


def test_the_same_events_have_the_same_id_and_others_another() -> None:
    one, other = event(name="1"), event(name="2")
    assert batch_id([one, other]) == batch_id([one, other])
    assert len({batch_id([one, other]), batch_id([other, one]), batch_id([one, one]), batch_id([one])}) == 4


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40_000)), max_size=40))
def test_messages_are_small_and_keep_the_order_of_each_subject(told: list[tuple[str, int]]) -> None:
    events = [Event(subject, b"x" * size, str(number)) for number, (subject, size) in enumerate(told)]
    messages = list(portions(events))
    for subject in "ab":
        told_of = [one for message in messages for one in message if one.subject == subject]
        assert told_of == [one for one in events if one.subject == subject]
    for message in messages:
        assert len({one.subject for one in message}) == 1
        assert len(message) == 1 or sum(len(one.body) for one in message) <= batch.MOST_BYTES


def test_no_message_has_more_events_than_are_read_at_once() -> None:
    assert [len(message) for message in portions([event()] * 600)] == [256, 256, 88]


def test_subjects_take_turns_and_what_is_taken_out_waits_no_more() -> None:
    waiting: Batches[str] = Batches()
    for number in range(300):
        waiting.put("a", f"a{number}", 1)
    waiting.put("b", "b", 1)
    assert waiting.is_full
    assert waiting.oldest() == "a0"
    waiting.remove("a")
    assert (len(waiting.take()), waiting.take(), len(waiting.take()), waiting.take()) == (256, ["b"], 43, [])
    assert (len(waiting), list(waiting), waiting.oldest()) == (0, [], None)
