"""An answer as blocks: one after the other, and joined they are the answer, however its pieces came."""

from hypothesis import given

from contracts import Chunk, FinalResponse
from gateway.dialects.blocks import Block, Blocks, Closed, Grown, Opened, Step, calls_of
from tests.answers import call, call_piece, chunk, final, streams, token


def steps(pieces: list[Chunk], response: FinalResponse, *, thoughts: bool = True) -> list[Step]:
    blocks = Blocks(thoughts=thoughts)
    found = [step for piece in pieces for step in blocks.piece(piece)]
    return [*found, *blocks.end(response)]


def written(told: list[Step]) -> list[Block]:
    return [step.block for step in told if isinstance(step, Closed)]


def joined(told: list[Step], kind: str) -> str:
    return "".join(block.text for block in written(told) if block.kind == kind)


@given(streams())
def test_blocks_join_to_the_answer_in_any_order_of_its_pieces(stream: tuple[list[Chunk], FinalResponse]) -> None:
    pieces, response = stream
    told = steps(pieces, response)
    assert joined(told, "text") == response.output
    assert joined(told, "thought") == (response.reasoning or "")
    made = {block.number: (block.id, block.name, block.text) for block in written(told) if block.kind == "call"}
    assert [made[number] for number in sorted(made)] == [tuple(call) for call in calls_of(response)]


@given(streams())
def test_a_block_is_closed_before_the_next_is_opened(stream: tuple[list[Chunk], FinalResponse]) -> None:
    is_open: Block | None = None
    opened = 0
    for step in steps(*stream):
        if isinstance(step, Opened):
            assert is_open is None and step.block.index == opened
            is_open, opened = step.block, opened + 1
        else:
            assert step.block is is_open
            is_open = None if isinstance(step, Closed) else is_open
    assert is_open is None


def test_calls_are_written_while_they_come() -> None:
    blocks = Blocks()
    begun = list(blocks.piece(call_piece(0, '{"in": ', "a", "weather")))
    assert [type(step) for step in begun] == [Opened, Grown]
    assert [type(step) for step in blocks.piece(call_piece(0, '"Rome"}'))] == [Grown]
    assert [type(step) for step in blocks.piece(call_piece(1, "{}", "b", "time"))] == [Closed, Opened, Grown]


def test_text_within_an_unfinished_call_is_written_after_it() -> None:
    pieces = [call_piece(0, '{"in": ', "a", "weather"), chunk("Let me see."), call_piece(0, '"Rome"}')]
    told = steps(pieces, final("Let me see.", tool_calls=[call(**{"in": "Rome"})]))
    assert [(block.kind, block.text) for block in written(told)] == [
        ("call", '{"in": "Rome"}'),
        ("text", "Let me see."),
    ]


def test_thoughts_that_nobody_wants_are_not_written() -> None:
    told = steps([chunk(reasoning="Hm.")], final("Yes.", reasoning="Hm."), thoughts=False)
    assert [block.kind for block in written(told)] == ["text"]


def test_a_refusal_is_a_block_of_its_own() -> None:
    told = steps([], final(refusal="I will not."))
    assert [(block.kind, block.text) for block in written(told)] == [("refusal", "I will not.")]


def test_log_probabilities_stay_with_their_text() -> None:
    first, second = token("Hel"), token("lo")
    told = steps([chunk("Hel", logprobs=(first,))], final("Hello", logprobs=(first, second)))
    assert [step.logprobs for step in told if isinstance(step, Grown)] == [(first,), (second,)]
