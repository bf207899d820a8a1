"""Answers that a connection may have lost: which are kept, and for whom."""

from gateway.undelivered import LARGEST, MOST_BYTES, TRIES, Undelivered, Written, is_repeat, name_of

ASKED = b"name"


def written(kept: Undelivered, body: bytes = b"{}") -> Written:
    answer = kept.keep(ASKED, body, {})
    assert answer is not None
    return answer


def test_a_lost_answer_is_had_once() -> None:
    kept = Undelivered()
    answer = written(kept)
    assert kept.take(ASKED) is None, "its connection is still there"
    answer.lost()
    assert kept.take(b"another") is None
    assert kept.take(ASKED) is answer
    assert kept.take(ASKED) is None


def test_an_answer_that_arrived_is_not_had_again() -> None:
    kept = Undelivered()
    answer = written(kept)
    answer.forget()
    answer.lost()
    assert kept.take(ASKED) is None


def test_several_lost_answers_to_one_question_are_had_one_after_the_other() -> None:
    kept = Undelivered()
    answers = [written(kept), written(kept)]
    for answer in answers:
        answer.lost()
    assert [kept.take(ASKED), kept.take(ASKED)] == answers


def test_the_oldest_answers_make_room_and_a_large_one_is_not_kept() -> None:
    kept = Undelivered()
    many = [written(kept, body=b"x" * LARGEST) for _ in range(MOST_BYTES // LARGEST + 1)]
    for answer in many:
        answer.lost()
    assert kept.take(ASKED) is many[1]
    assert kept.keep(ASKED, b"x" * (LARGEST + 1), {}) is None


def test_a_question_has_a_name_where_its_client_may_ask_again() -> None:
    first, again = {TRIES: "0"}, {TRIES: "1"}
    assert name_of(first, "key", "/v1/messages", b"{}") == name_of(again, "key", "/v1/messages", b"{}")
    names = [name_of(first, "key", "/v1/messages", b"{}"), name_of(first, "", "/v1/messages", b"{}")]
    names += [name_of(first, "key", "/v1/responses", b"{}"), name_of(first, "key", "/v1/messages", b"{ }")]
    assert len(set(names)) == 4
    assert name_of({}, "key", "/v1/messages", b"{}") is None
    assert name_of(first, "key", "/v1/messages", b"x" * (LARGEST + 1)) is None
    assert [is_repeat({}), is_repeat(first), is_repeat(again)] == [False, False, True]
