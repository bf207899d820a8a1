"""Promotion and demotion, from figures alone."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from contracts import Grade, ModelGrades
from manager.routing.grades import CANARY_AFTER, Grades
from telemetry.grading.grades import SAMPLE, SENIOR_SAMPLE, Record, Standing, judge, lower, upper

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def record(
    worker: str = "w", *, tries: int = 40, answers: int | None = None, confidence: float = 0.8, **more: float
) -> Record:
    good = tries if answers is None else answers
    failed = tries - good
    recent = min(tries, SAMPLE)
    return Record(
        "m", worker, tries, good, recent, max(0, recent - failed), confidence, more.get("usual"), more.get("p50", 500.0)
    )


def standing(grade: Grade = "regular", seconds: float = 1000.0, benched: float | None = None) -> Standing:
    return Standing(grade, seconds, benched)


def test_who_is_new_becomes_regular_after_enough_good_answers() -> None:
    assert judge(record(tries=19), standing("probation"), []) is None
    verdict = judge(record(tries=20), standing("probation"), [])
    assert verdict is not None
    assert (verdict.grade, verdict.reasons) == ("regular", ("20 of its last 20 tries went well",))


def test_who_fails_three_of_ten_is_benched_within_twenty_tries() -> None:
    verdict = judge(record(tries=20, answers=14), standing(), [])
    assert verdict is not None
    assert (verdict.grade, verdict.reasons) == ("benched", ("6 of its last 20 tries failed",))


@pytest.mark.parametrize("grade", ["probation", "regular"])
def test_two_failures_of_twenty_are_no_reason(grade: Grade) -> None:
    assert judge(record(tries=20, answers=18), standing(grade), []) is None


def test_who_is_much_less_sure_than_before_or_than_its_peers_loses_a_grade_or_all() -> None:
    grades = {}
    for confidence in (0.8, 0.6, 0.4):
        verdict = judge(record(confidence=confidence, usual=0.8), standing("regular", benched=300.0), [])
        grades[confidence] = verdict.grade if verdict else None
    assert grades == {0.8: None, 0.6: "probation", 0.4: "benched"}
    verdict = judge(record(confidence=0.5), standing(), [record("other", confidence=0.85)])
    assert verdict is not None and verdict.reasons == ("its confidence is 0.50, that of its peers 0.85",)


def test_a_senior_worker_does_as_well_as_the_best_and_is_as_quick() -> None:
    peers = [record("other", p50=400.0)]
    verdict = judge(record(tries=SENIOR_SAMPLE), standing(), peers)
    assert verdict is not None and verdict.grade == "senior"
    assert judge(record(tries=SENIOR_SAMPLE, p50=700.0), standing(), peers) is None
    slower = judge(record(p50=1100.0), standing("senior"), peers)
    assert slower is not None and slower.reasons == ("it takes 1100 ms, its peers 400 ms",)


def test_who_is_benched_comes_back_when_its_canaries_live() -> None:
    assert judge(record(tries=4), standing("benched", 60.0), []) is None
    assert judge(record(tries=5), standing("benched", 10.0), []) is None
    assert judge(record(tries=5, answers=4), standing("benched", 60.0), []) is None
    verdict = judge(record(tries=5), standing("benched", 60.0), [])
    assert verdict is not None and verdict.grade == "probation"


def test_who_was_benched_twice_has_to_wait_ten_minutes() -> None:
    twice = replace(standing("benched", 60.0, benched=60.0), benched_before_ago=300.0)
    assert judge(record(tries=5), twice, []) is None
    assert judge(record(tries=5), replace(twice, seconds=601.0), []) is not None


def test_who_was_benched_is_not_trusted_again_for_ten_minutes() -> None:
    assert judge(record(), standing("probation", benched=300.0), []) is None
    assert judge(record(), standing("probation", benched=601.0), []) is not None


def test_what_was_decided_by_hand_stays() -> None:
    assert judge(record(answers=0), replace(standing("senior"), by_hand=True), []) is None


def test_no_grade_flaps_on_a_steady_mesh() -> None:
    """Workers that always fail the same share, judged every ten seconds: at most one return in ten minutes."""
    for share in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5):
        rng = random.Random(f"steady {share}")
        grade: Grade = "probation"
        since, benched, outcomes = 0.0, list[float](), list[bool]()
        changes: list[tuple[float, str]] = []
        for now in range(0, 3600, 10):
            asked = 1 if grade == "benched" else 10
            outcomes += [rng.random() >= share for _ in range(asked)]
            last, recent = outcomes[-SENIOR_SAMPLE:], outcomes[-SAMPLE:]
            seen = Record("m", "w", len(last), sum(last), len(recent), sum(recent), 0.8, 0.8, 500.0)
            ago = [now - at for at in reversed(benched)] + [None, None]
            verdict = judge(seen, Standing(grade, now - since, ago[0], ago[1]), [])
            if verdict is not None:
                grade, since, outcomes = verdict.grade, float(now), []
                changes.append((now, grade))
                benched += [float(now)] if grade == "benched" else []
        for start in range(0, 3600, 10):
            window = [g for at, g in changes if start <= at < start + 600]
            assert window.count("benched") <= 2, (share, changes)


@pytest.mark.parametrize(("good", "of"), [(0, 0), (0, 20), (14, 20), (20, 20), (399, 400)])
def test_bounds_hold_the_share_between_them(good: int, of: int) -> None:
    share = good / of if of else 0.5
    assert 0 <= lower(good, of) <= share <= upper(good, of) <= 1


def test_a_benched_worker_is_tried_now_and_then_and_a_new_one_a_tenth_of_the_time() -> None:
    grades, rng = Grades(), random.Random(1)
    tried = sum(grades.is_canary("m", "w", 0.0, rng) for _ in range(10_000))
    assert 50 < tried < 150
    assert grades.is_canary("m", "w", CANARY_AFTER, rng)
    assert 800 < sum(grades.may_compete("probation", rng) for _ in range(10_000)) < 1200
    assert grades.may_compete("senior", rng) and not grades.may_compete("benched", rng)


def test_without_any_grades_workers_are_regular_and_else_a_worker_without_one_is_new() -> None:
    grades = Grades()
    assert grades.of("m", "w") == "regular"
    grades.learn(ModelGrades(model_id="m", workers={"other": "senior"}, proven_since=NOON))
    assert (grades.of("m", "w"), grades.of("m", "other"), grades.of("n", "w")) == ("probation", "senior", "probation")


def test_a_worker_older_than_the_first_proven_one_is_not_new() -> None:
    grades = Grades()
    grades.learn(ModelGrades(model_id="m", workers={"asked": "probation"}, new=("asked",)))
    assert (grades.of("m", "asked", NOON), grades.of("n", "never asked", NOON)) == ("regular", "regular")
    told = ModelGrades(model_id="m", workers={"first": "regular", "fell": "probation"}, proven_since=NOON)
    grades.learn(told)
    before, after = NOON - timedelta(seconds=1), NOON + timedelta(seconds=1)
    assert [grades.of("n", "w", since) for since in (before, after, None)] == ["regular", "probation", "probation"]
    assert grades.of("m", "fell", before) == "probation", "who lost its grade has to show again what it can do"


def test_who_is_benched_for_being_unsure_is_not_back_while_it_is() -> None:
    unsure = record(tries=5, confidence=0.4, usual=0.8)
    assert judge(unsure, standing("benched", 60.0), []) is None
    assert judge(replace(unsure, usual_confidence=None), standing("benched", 60.0), [record("other")]) is None
    assert judge(replace(unsure, confidence=0.75), standing("benched", 60.0), []) is not None


def test_best_is_not_answered_by_a_model_much_less_sure_than_another() -> None:
    assert judge(record(confidence=0.7), standing(), [], surest=0.95) is None
    promoted = judge(record(confidence=0.9), standing(), [], surest=0.95)
    assert promoted is not None and promoted.grade == "senior"
    assert judge(record(confidence=0.7), standing("senior"), [], surest=0.95) is None, "nobody goes up and down"
    fallen = judge(record(confidence=0.6), standing("senior"), [], surest=0.95)
    assert fallen is not None and fallen.grade == "regular"
