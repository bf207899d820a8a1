"""Two halves of one answer: which second half joins the first, what of it is new, and what is never let through."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from contracts import ChatMessage, InferenceRequest, parse_request
from contracts.going_on import Interrupted, asked_to_go_on
from manager.request.seam import ENOUGH, LEAD_IN, Anchor, Joint, Verdict

STORY = 'It was late. "We should go," said the old man, and looked at the river that ran below the hill'
ENDS_SO = Anchor.of(STORY).text
CODE = "def double(numbers):\n    result = []\n    for number in numbers:\n        result.append(2 * number)\n"
TEXTS = [
    STORY + ", black and slow. “Now?” — “Now.” They went… and the hill was empty.\n\nThe end.",
    CODE + CODE.replace("double", "triple").replace("2 *", "3 *") + "\n\nprint(double(triple([1, 2])))\n",
    "| a | b |\n|---|---|\n" + "".join(f"| {n} | {n * n} |\n" for n in range(30)),
    "Ночь была тихая. Река текла мимо холма, и никто не говорил ни слова до самого утра, когда взошло солнце.",
    "夜は静かだった。川は丘のふもとを流れ、朝まで誰も口をきかなかった。太陽が昇ると、老人は立ち上がって歩き始めた。",
    "Cafe\u0301 de\u0301ja\u0300 vu 👩\u200d👩\u200d👧 fi ﬁne naïve ½ Ⅳ \u00a0 ー 👍🏽 résumé " * 3,
    "ha " * 60 + "ho. " + "ha " * 60,
    "".join(f"{n}. The same line again.\n" for n in range(40)),
]


def joined(begun: str, said: str, sizes: Sequence[int] = (7,), room: int | None = None) -> str | None:
    """What the second half adds, told in pieces of these sizes over and over; None: they do not join."""
    joint, told, at, turn = Joint(Anchor.of(begun), room), "", 0, 0
    while at < len(said):
        piece = said[at : at + sizes[turn % len(sizes)]]
        at, turn = at + len(piece), turn + 1
        new = joint.take(piece, at)
        if new is Verdict.NO_JOIN:
            return None
        told += new if isinstance(new, str) else ""
    rest = joint.finish(said, len(said))
    if isinstance(rest, Verdict):
        return None
    assert joint.text == told + rest
    return joint.text


SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=8)
ANY_TEXT = st.one_of(
    st.text(max_size=400),
    st.text(alphabet="ab \n", max_size=400),
    st.lists(st.sampled_from(["ha", "ho ", "\n", "  ", "}\n", "“", '"', "…", "é", "e\u0301"]), max_size=80).map(
        "".join
    ),
    st.sampled_from(TEXTS),
)


@given(whole=ANY_TEXT, at=st.integers(0, 400), sizes=SIZES)
def test_a_model_that_obeys_is_joined_to_the_letter_wherever_and_however_it_was_cut(
    whole: str, at: int, sizes: list[int]
) -> None:
    begun, rest = whole[:at], whole[at:]
    anchor = Anchor.of(begun)
    assert begun.endswith(anchor.text + anchor.blanks)
    assert joined(begun, anchor.text + anchor.blanks + rest, sizes) == rest


@pytest.mark.parametrize("whole", TEXTS)
def test_real_text_is_joined_at_every_character(whole: str) -> None:
    for at in range(len(whole) + 1):
        anchor = Anchor.of(whole[:at])
        assert joined(whole[:at], anchor.text + anchor.blanks + whole[at:]) == whole[at:]


@given(begun=st.sampled_from(TEXTS), said=ANY_TEXT, sizes=SIZES)
def test_what_does_not_begin_with_the_anchor_never_joins(begun: str, said: str, sizes: list[int]) -> None:
    key = Anchor.of(begun).key
    assume(key not in Anchor.of(said + "x").before + Anchor.of(said + "x").key)
    assert joined(begun, said, sizes) is None


@given(begun=ANY_TEXT, said=ANY_TEXT, some=SIZES, others=SIZES)
def test_how_it_comes_in_pieces_makes_no_difference(begun: str, said: str, some: list[int], others: list[int]) -> None:
    said = Anchor.of(begun).text[-60:] + said
    assert joined(begun, said, some) == joined(begun, said, others)


@pytest.mark.parametrize(
    ("said", "new"),
    [
        (f"{ENDS_SO}, black.", ", black."),
        (f"\n  {ENDS_SO}, black.", ", black."),
        (f"...{ENDS_SO}, black.", ", black."),
        (f"… {ENDS_SO}, black.", ", black."),
        (f"Sure! Here is the rest:\n\n{ENDS_SO}, black.", ", black."),
        (f"Here it goes: {ENDS_SO}, black.", ", black."),
        (f"{STORY}, black.", ", black."),
        (f"Of course:\n{STORY[30:]}, black.", ", black."),
        (ENDS_SO.upper() + ", black.", ", black."),
        (ENDS_SO.replace(" ", "\n") + ", black.", ", black."),
        (f'"{ENDS_SO}, black."', ", black."),
        (f"“{ENDS_SO}, black.”\n", ", black."),
        (f'"{ENDS_SO} and said "no."', ' and said "no."'),
        (f'"{ENDS_SO} and said "no.""', ' and said "no."'),
        (ENDS_SO, ""),
        (f'"{ENDS_SO}', ""),
    ],
    ids=lambda text: text[:12] if text else "nothing",
)
def test_a_careless_repeat_is_known_for_what_it_is(said: str, new: str) -> None:
    assert joined(STORY, said) == new


@pytest.mark.parametrize(
    "said",
    [
        ", black and slow.",
        "The river was black.",
        f'I will repeat "{ENDS_SO}" and go on.',
        f'You asked for these words: "{ENDS_SO}". And more.',
        f"```\n{ENDS_SO}, black.\n```",
        ENDS_SO[:-1],
        ENDS_SO.replace("river", "rivers") + ", black.",
        "Sure. " * LEAD_IN + f"\n{ENDS_SO}, black.",
        "",
    ],
    ids=lambda text: text[:12] if text else "nothing",
)
def test_what_may_be_garbage_does_not_join(said: str) -> None:
    assert joined(STORY, said) is None


def test_it_does_not_wait_for_the_end_of_an_answer_that_will_not_join() -> None:
    joint = Joint(Anchor.of(STORY))
    found = [joint.take("word ", at) for at in range(100)]
    assert found.index(Verdict.NO_JOIN) < (LEAD_IN + 2 * len(ENDS_SO)) / 5 + 2


def test_of_a_short_start_nothing_may_stand_before_the_repeat() -> None:
    assert len("The cap") < ENOUGH
    assert joined("The cap", "The capital is Paris.") == "ital is Paris."
    assert joined("The cap", "Sure:\nThe capital is Paris.") is None
    assert Joint(Anchor.of("The cap")).take("Su", 1) is Verdict.NO_JOIN


def test_a_start_of_blanks_alone_is_joined_by_any_answer() -> None:
    assert Anchor.of(" \n").text == ""
    assert joined(" \n", " \n\nParis") == "\nParis"
    assert joined(" \n", "Paris") == "Paris"


def test_words_that_stand_in_the_text_twice_are_no_anchor() -> None:
    lines = "".join(f"{n}. The same long line comes again and again.\n" for n in range(20))
    anchor = Anchor.of(lines)
    assert anchor.is_clear
    assert lines.count(anchor.text) == 1
    assert not Anchor.of("ha " * 200).is_clear
    assert joined("ha " * 200, "Sure:\n" + "ha " * 200 + "ho") is None


def test_blanks_at_the_seam_come_once() -> None:
    begun = STORY + ".\n"
    assert joined(begun, ENDS_SO + ".\n\nThe end.") == "\nThe end."
    assert joined(begun, ENDS_SO + ". The end.") == " The end."
    assert joined(STORY + " ", ENDS_SO + " and went") == "and went"


@pytest.mark.parametrize("lines", [CODE, "```python\n" + CODE])
def test_code_goes_on_in_the_block_in_which_it_was_cut(lines: str) -> None:
    begun = lines.rstrip()
    repeat = Anchor.of(begun).text
    assert joined(begun, f"{repeat}\n    return result\n") == "\n    return result\n"
    fenced = joined(begun, f"```python\n{repeat}\n    return result\n```")
    assert fenced == ("\n    return result\n```" if lines.startswith("```") else None)


# Tokens


@pytest.mark.parametrize("size", [1, 3, 500])
def test_the_tokens_of_the_repeat_are_told_apart(size: int) -> None:
    said, joint = ENDS_SO + " and went", Joint(Anchor.of(STORY))
    for at in range(0, len(said), size):
        joint.take(said[at : at + size], min(at + size, len(said)))
    assert joint.finish(said, len(said)) == ""
    assert joint.withheld(len(said)) == len(ENDS_SO)


def test_the_answer_has_no_more_tokens_than_are_left() -> None:
    assert joined(STORY, ENDS_SO + " and went home", sizes=(1,), room=4) == " and"
    assert joined(STORY, ENDS_SO + " an", sizes=(1,), room=4) == " an"
    joint = Joint(Anchor.of(STORY), room=0)
    assert (joint.take("whatever", 2), joint.finish("whatever", 2), joint.withheld(2)) == ("", "", 2)
    assert joint.was_cut


def test_pieces_without_text_use_up_no_room_and_are_not_withheld() -> None:
    """Thoughts before the repeat and after it, and a call."""
    joint = Joint(Anchor.of(STORY), room=4)
    assert joint.take("", 30) is Verdict.WAIT
    assert joint.take(ENDS_SO, 30 + len(ENDS_SO)) == ""
    assert joint.take("", 90 + len(ENDS_SO)) == ""
    assert joint.take(" and", 94 + len(ENDS_SO)) == " and"
    assert joint.take("", 99 + len(ENDS_SO)) == ""
    assert (joint.withheld(99 + len(ENDS_SO)), joint.was_cut) == (len(ENDS_SO), False)
    assert joint.take("!", 100 + len(ENDS_SO)) == ""
    assert (joint.withheld(100 + len(ENDS_SO)), joint.was_cut) == (len(ENDS_SO) + 1, True)


def test_what_came_before_a_piece_was_lost_is_not_taken_twice() -> None:
    whole, joint = ENDS_SO + " and went home", Joint(Anchor.of(STORY))
    joint.take(ENDS_SO + " and", 8)
    assert joint.finish(whole, 10) == " went home"
    plain = Joint()
    assert (plain.take("one ", 1), plain.finish("one two", 2), plain.text) == ("one ", "two", "one two")
    assert Joint().finish("all of it", 3) == "all of it"


@pytest.mark.parametrize("output", ["one two", "One two."])
def test_an_answer_that_is_told_otherwise_at_its_end_is_the_text_that_was_delivered(output: str) -> None:
    joint = Joint()
    joint.take(" one two\n", 2)
    assert (joint.finish(output, 2), joint.text) == ("", " one two\n")


def test_of_an_answer_with_a_gap_the_end_cannot_be_told_when_it_is_another_text() -> None:
    joint = Joint()
    joint.take("one two", 2)
    assert joint.finish("three", 3, has_gap=True) is Verdict.NO_JOIN


# What is asked


@pytest.mark.parametrize(
    "asked",
    [
        {"prompt": "Why?"},
        {"prompt": "Why?", "context": {"system": "Be brief.", "messages": [{"role": "user", "content": "Hi"}]}},
        {"messages": [{"role": "user", "content": "Why?"}]},
        {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because "}]},
    ],
)
def test_a_model_is_shown_its_first_half_and_asked_for_its_end_and_the_rest(asked: dict[str, object]) -> None:
    request = parse_request(json.dumps(asked).encode())
    again = asked_to_go_on(request, STORY, ENDS_SO, 50)
    sent = parse_request(again.model_dump_json(exclude_unset=True).encode())
    *earlier, begun, last = sent.conversation
    assert (begun.role, last.role, sent.max_tokens) == ("assistant", "user", 50)
    assert begun.text.endswith(STORY)
    assert last.text.endswith(f":\n\n{ENDS_SO}")
    before = [m for m in request.conversation if m.role != "assistant"]
    assert [m.text for m in earlier] == [m.text for m in before]
    assert "temperature" not in sent.model_fields_set
    found = Interrupted.of(sent)
    assert found is not None
    assert (found.question, found.begun, found.anchor) == ("Why?", begun.text, ENDS_SO)


def test_any_other_request_is_not_taken_for_one() -> None:
    turns = (ChatMessage(role="assistant", content=STORY), ChatMessage(role="user", content="Go on."))
    assert Interrupted.of(InferenceRequest(prompt="Why?")) is None
    assert Interrupted.of(InferenceRequest(messages=turns)) is None
    assert Interrupted.of(InferenceRequest(messages=turns[:1])) is None
