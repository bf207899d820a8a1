"""Server-sent events in any cut, with any ends of lines, and bodies that are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import BullpenError
from workers.base.provider.server_events import LONGEST_EVENT, EventReader, decoded


def read(body: bytes, size: int = 1 << 20) -> list[str]:
    reader = EventReader()
    told = [data for at in range(0, len(body), size) for data in reader.feed(body[at : at + size])]
    return [*told, *reader.end()]


STREAM = 'data: {"a": "ü\u2028\x85"}\n\n: ping\n\nevent: x\nid: 1\nretry: 2\ndata: {"b": 1}\n\ndata: [DONE]\n\n'
TOLD = ['{"a": "ü\u2028\x85"}', '{"b": 1}', "[DONE]"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_read_in_any_cut(end: str, size: int) -> None:
    assert read(STREAM.replace("\n", end).encode(), size) == TOLD


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'data:{"a":1}\n\n', ['{"a":1}']),
        (b'\xef\xbb\xbfdata: {"a":1}\n\n', ['{"a":1}']),
        (b'data: {"a":1}', ['{"a":1}']),
        (b'data: {"a":1}\ndata: {"b":1}\ndata: [DONE]\n', ['{"a":1}', '{"b":1}', "[DONE]"]),
        (b'data: {"a":\ndata: 1}\n\n', ['{"a":\n1}']),
        (b'{"a":1}\n{"b":1}\n', ['{"a":1}', '{"b":1}']),
        (b'{\n"a":1\n}\n', ['{\n"a":1\n}']),
        (b"<html>\n\n<p>no\n", ["<html>\n<p>no"]),
        (b"data\n\n", [""]),
        (b"", []),
    ],
)
def test_what_is_almost_an_event_is_read_too(body: bytes, told: list[str]) -> None:
    assert read(body) == told
    assert read(body, 1) == told


def test_messages_without_blank_lines_come_when_the_next_one_does() -> None:
    reader = EventReader()
    assert list(reader.feed(b'data: {"a":1}\ndata: {"b":1}\n')) == ['{"a":1}']


def test_an_event_without_end_is_left() -> None:
    reader = EventReader()
    with pytest.raises(BullpenError, match="without end"):
        for _ in range(LONGEST_EVENT // 1000):
            list(reader.feed(b"data: {" + b"x" * 1000 + b"\n"))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("", []),
        ("null", []),
        ("ping", []),
        ('{"a":1}', [{"a": 1}]),
        ('[{"a":1}]', [{"a": 1}]),
        ('{"a":1}\n{"b":1}', [{"a": 1}, {"b": 1}]),
    ],
)
def test_what_an_event_says(data: str, told: list[object]) -> None:
    assert decoded(data) == told


@pytest.mark.parametrize("data", ["{nonsense", "[]", "7", '"x"', "true", "[7]", "[" * 5000])
def test_broken_json_is_unusable(data: str) -> None:
    with pytest.raises(BullpenError, match="unusable"):
        decoded(data)


@given(st.binary(max_size=300), st.integers(1, 40))
def test_the_cut_never_matters(body: bytes, size: int) -> None:
    assert read(body, size) == read(body)
