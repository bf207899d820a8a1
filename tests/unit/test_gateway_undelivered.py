"""Answers that a connection may have lost: which are kept, for whom, and for how long."""

from gateway.undelivered import KEPT, LARGEST, MOST_BYTES, TRIES, Undelivered, Written, is_repeat, name_of

ASKED = b"name"


def written(kept: Undelivered, question: bytes = ASKED, body: bytes = b"{}", now: float = 0.0) -> Written:
    answer = kept.keep(question, body, {}, now)
    assert answer is not None
    return answer


def test_a_lost_answer_is_had_once() -> None:
    kept = Undelivered()
    answer = written(kept)
    assert kept.take(ASKED, 1.0) is None, "its connection is still there"
    answer.lost()
    assert kept.take(b"another", 1.0) is None
    assert kept.take(ASKED, 1.0) is answer
    assert kept.take(ASKED, 1.0) is None


def test_an_answer_that_arrived_is_not_had_again() -> None:
    kept = Undelivered()
    answer = written(kept)
    answer.arrived()
    answer.lost()
    assert kept.take(ASKED, 1.0) is None


def test_several_lost_answers_to_one_question_are_had_one_after_the_other() -> None:
    kept = Undelivered()
    answers = [written(kept), written(kept)]
    for answer in answers:
        answer.lost()
    assert [kept.take(ASKED, 1.0), kept.take(ASKED, 1.0)] == answers


def test_an_answer_is_kept_for_a_minute_and_the_oldest_go_first() -> None:
    kept = Undelivered()
    old = written(kept)
    old.lost()
    assert kept.take(ASKED, KEPT + 1) is None
    many = [written(kept, body=b"x" * LARGEST, now=KEPT) for _ in range(MOST_BYTES // LARGEST + 1)]
    for answer in many:
        answer.lost()
    assert kept.take(ASKED, KEPT) is many[1]
    assert kept.keep(ASKED, b"x" * (LARGEST + 1), {}, KEPT) is None


def test_a_question_has_a_name_where_its_client_may_ask_again() -> None:
    first, again = {TRIES: "0"}, {TRIES: "1"}
    assert name_of(first, "key", "/v1/messages", b"{}") == name_of(again, "key", "/v1/messages", b"{}")
    names = [name_of(first, "key", "/v1/messages", b"{}"), name_of(first, "", "/v1/messages", b"{}")]
    names += [name_of(first, "key", "/v1/responses", b"{}"), name_of(first, "key", "/v1/messages", b"{ }")]
    assert len(set(names)) == 4
    assert name_of({}, "key", "/v1/messages", b"{}") is None
    assert name_of(first, "key", "/v1/messages", b"x" * (LARGEST + 1)) is None
    assert [is_repeat({}), is_repeat(first), is_repeat(again)] == [False, False, True]
