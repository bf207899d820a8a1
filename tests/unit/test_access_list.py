"""One user is let through a closed folder; what everybody else may do stays as it is."""

from bullpen.embedded.access_list import GROUP, MASK, OTHERS, OWNER, USER, Entry, may_pass, with_passage

CLOSED = [Entry(OWNER, 7), Entry(GROUP, 0), Entry(OTHERS, 0)]
ANN, BOB = 1001, 1002


def test_only_that_user_may_pass() -> None:
    opened = with_passage(CLOSED, ANN)
    assert opened == [Entry(OWNER, 7), Entry(USER, 1, ANN), Entry(GROUP, 0), Entry(MASK, 1), Entry(OTHERS, 0)]
    assert may_pass(opened, ANN)
    assert not may_pass(opened, BOB)
    assert not may_pass(CLOSED, ANN)


def test_what_others_were_given_before_stays() -> None:
    before = with_passage(
        [Entry(OWNER, 7), Entry(USER, 5, BOB), Entry(GROUP, 5), Entry(MASK, 5), Entry(OTHERS, 0)], ANN
    )
    assert Entry(USER, 5, BOB) in before
    assert Entry(GROUP, 5) in before
    assert Entry(MASK, 5) in before
    assert with_passage(before, ANN) == before


def test_a_mask_that_takes_the_passage_away_is_seen_and_widened() -> None:
    masked = [Entry(OWNER, 7), Entry(USER, 1, ANN), Entry(GROUP, 6), Entry(MASK, 6), Entry(OTHERS, 0)]
    assert not may_pass(masked, ANN)
    assert may_pass(with_passage(masked, ANN), ANN)
