"""The seam between what one worker delivered and what the next one adds is not to be seen."""

from hypothesis import given
from hypothesis import strategies as st

from workers.base.provider.overlap_trimmer import ENOUGH, OverlapTrimmer, begun

TEXT = st.text("ab \n", max_size=40)
SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=8)


def pieces(text: str, sizes: list[int]) -> list[str]:
    """The text cut into pieces of these sizes, again and again."""
    cut, at, turn = [], 0, 0
    while at < len(text):
        cut.append(text[at : at + sizes[turn % len(sizes)]])
        at, turn = at + sizes[turn % len(sizes)], turn + 1
    return cut


def after(prefix: str, answer: str, sizes: list[int], *, may_repeat: bool = True) -> str:
    seam = OverlapTrimmer(prefix, may_repeat=may_repeat)
    return "".join([*(seam.take(piece) for piece in pieces(answer, sizes)), seam.end()])


@given(TEXT, TEXT, SIZES)
def test_a_model_that_goes_on_after_what_it_was_given_completes_the_text(
    prefix: str, rest: str, sizes: list[int]
) -> None:
    """It writes the blanks at the end of the start itself, because it was not given them."""
    whole = prefix + rest
    assert prefix + after(prefix, whole[len(begun(prefix)) :], sizes, may_repeat=False) == whole


@given(st.text("abc \n", min_size=ENOUGH, max_size=40).filter(lambda text: len(begun(text)) >= ENOUGH), TEXT, SIZES)
def test_a_start_that_is_repeated_is_taken_away(prefix: str, rest: str, sizes: list[int]) -> None:
    assert after(prefix, prefix + rest, sizes) == rest


@given(TEXT, st.text("xy \n", max_size=40), SIZES)
def test_nothing_else_is_ever_lost(prefix: str, answer: str, sizes: list[int]) -> None:
    told = after(prefix, answer, sizes)
    assert answer.endswith(told)
    assert not answer[: len(answer) - len(told)].strip()


@given(TEXT, TEXT, SIZES, SIZES)
def test_how_the_answer_was_cut_into_pieces_makes_no_difference(
    prefix: str, answer: str, some: list[int], others: list[int]
) -> None:
    assert after(prefix, answer, some) == after(prefix, answer, others)


@given(TEXT, SIZES)
def test_without_a_start_all_text_is_passed_on_at_once(answer: str, sizes: list[int]) -> None:
    seam = OverlapTrimmer("")
    assert [seam.take(piece) for piece in pieces(answer, sizes)] == pieces(answer, sizes)
    assert seam.end() == ""


def test_words_are_not_held_back_once_they_differ_from_the_start() -> None:
    seam = OverlapTrimmer("The capital of France ")
    assert [seam.take(piece) for piece in (" is", " Paris")] == ["is", " Paris"]


def test_a_short_start_may_come_again() -> None:
    assert after("ha ", " ha ha!", [3]) == "ha ha!"
    assert after("ha", "ha", [3]) == "ha"


def test_a_start_that_is_only_half_repeated_is_the_answer() -> None:
    assert after("The capital of France is", "The capital", [4]) == "The capital"
