"""Answers of the mesh for tests of those who pass them on: whole ones, and the pieces that they come in."""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from contracts import Chunk, FinalResponse, FunctionDelta, JsonObject, TokenLogprob, ToolCallDelta

REQUEST_ID = "0198f3a0-0000-7000-8000-000000000001"
CREATED = 1_767_225_600


def final(output: str = "", **more: Any) -> FinalResponse:
    told = {
        "task_id": "t",
        "model_id": "m",
        "output": output,
        "tokens_used": 30,
        "duration_ms": 500.0,
        "confidence": 0.5,
        "request_id": REQUEST_ID,
        "backend": "simulated",
        "worker_id": "w",
        "prompt_tokens": 20,
        "completion_tokens": 10,
        "finish_reason": "tool_calls" if more.get("tool_calls") else "stop",
        "confidence_source": "prior",
        "ttft_ms": 100.0,
        "created_at": "2026-01-01T00:00:01Z",
    }
    return FinalResponse.model_validate({**told, **more})


def call(name: str = "weather", call_id: str = "call_a", **arguments: Any) -> JsonObject:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def chunk(delta: str = "", **more: Any) -> Chunk:
    return Chunk(task_id="t", seq=0, delta=delta, **more)


def call_piece(index: int, arguments: str = "", call_id: str | None = None, name: str | None = None) -> Chunk:
    function = FunctionDelta(name=name, arguments=arguments)
    return chunk(tool_calls=(ToolCallDelta(index=index, id=call_id, function=function),))


def token(text: str, logprob: float = -0.5) -> TokenLogprob:
    return TokenLogprob(token=text, logprob=logprob, bytes=tuple(text.encode()))


def events(written: bytes) -> list[tuple[str, Any]]:
    """The server-sent events, by name; comments are left out. Fails on what a strict reader would not take."""
    found = []
    for block in written.decode().split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            name, data = lines
            assert name.startswith("event: ") and data.startswith("data: "), block
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    assert not written or written.endswith(b"\n\n")
    return found


def lines(written: bytes) -> list[Any]:
    return [json.loads(line) for line in written.decode().splitlines()]


def _split(text: str, cuts: Sequence[int]) -> list[str]:
    ends = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in pairwise(ends) if start < end]


def _pieces_of_call(index: int, told: JsonObject, cuts: Sequence[int]) -> Iterator[Chunk]:
    yield call_piece(index, "", told["id"], told["function"]["name"])
    for piece in _split(told["function"]["arguments"], cuts):
        yield call_piece(index, piece)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[Chunk], FinalResponse]:
    """An answer and the pieces of it, which may come mixed, and of which the last ones may not come at all."""
    words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    cuts = st.lists(st.integers(0, 40), max_size=4)
    text, thought = draw(words), draw(words)
    arguments = st.dictionaries(words, words | st.integers(-5, 5), max_size=3)
    calls = [call(f"f{n}", f"c{n}", **draw(arguments)) for n in range(draw(st.integers(0, 3)))]
    rows = [
        [chunk(piece) for piece in _split(text, draw(cuts))],
        [chunk(reasoning=piece) for piece in _split(thought, draw(cuts))],
        *(list(_pieces_of_call(n, told, draw(cuts))) for n, told in enumerate(calls)),
    ]
    order = draw(
        st.permutations([row for row, pieces in enumerate(rows) for _ in pieces])
        | st.just([row for row in (1, 0, *range(2, len(rows))) for _ in rows[row]])
    )
    queues = [iter(row) for row in rows]
    mixed = [next(queues[row]) for row in order]
    kept = draw(st.integers(0, len(mixed)) | st.just(len(mixed)))
    return mixed[:kept], final(text, reasoning=thought or None, tool_calls=calls or None)
