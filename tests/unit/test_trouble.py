"""What a worker tells of a model that hardly answers anything of late."""

import pytest

from contracts import BullpenError, ErrorCode
from workers.base.engines.trouble import KEPT, LEAST, OF_LATE, ModelRecord, Troubles

REFUSED = BullpenError(ErrorCode.INVALID_REQUEST, "the provider answered 400: 'a prompt'", fault="model")


def record(codes: list[ErrorCode | None], at: float = 0.0) -> ModelRecord:
    """Of a model whose requests ended like this, each at that time; None: it answered."""
    made = ModelRecord()
    for code in codes:
        if code is None:
            made.answered(at)
        else:
            made.failed(code, at)
    return made


def test_trouble_is_reported_only_when_nearly_every_request_fails() -> None:
    bad = ErrorCode.INVALID_REQUEST
    assert record([bad] * (LEAST - 1)).trouble(0.0) == ""
    assert record([bad] * LEAST).trouble(0.0) == f"refused {LEAST} of its last {LEAST} requests (invalid_request)"
    assert record([None, None, *[bad] * 8]).trouble(0.0) == ""
    told = record([None, None, *[bad] * 18]).trouble(0.0)
    assert told == "refused 18 of its last 20 requests (invalid_request)"


def test_only_recent_outcomes_count_as_trouble() -> None:
    made = record([None] * 50 + [ErrorCode.UPSTREAM_ERROR] * 100)
    assert made.trouble(0.0) == f"failed {KEPT} of its last {KEPT} requests (upstream_error)"
    assert made.trouble(OF_LATE) == ""


def test_trouble_names_the_commonest_code_first() -> None:
    codes = [ErrorCode.NO_SUCH_MODEL] * 4 + [ErrorCode.UPSTREAM_ERROR] * 8
    assert record([*codes]).trouble(0.0) == "failed 12 of its last 12 requests (upstream_error, no_such_model)"


def test_one_answer_ends_it_and_it_does_not_begin_again_with_the_next_failure() -> None:
    made = record([ErrorCode.UPSTREAM_ERROR] * KEPT)
    made.answered(1.0)
    assert made.trouble(1.0) == ""
    made.failed(ErrorCode.UPSTREAM_ERROR, 2.0)
    assert made.trouble(2.0) == ""


@pytest.mark.parametrize(
    "failure",
    [
        BullpenError(ErrorCode.INVALID_REQUEST, "no", fault="request"),
        BullpenError(ErrorCode.UPSTREAM_ERROR, "no", fault="worker"),
        BullpenError(ErrorCode.UPSTREAM_AUTH, "no", fault="account"),
        BullpenError(ErrorCode.INTERNAL, "no", fault="ours"),
        BullpenError(ErrorCode.CANCELLED, "no", fault="request"),
        BullpenError(ErrorCode.RATE_LIMITED, "no", fault="model"),
        BullpenError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, "no", fault="model"),
    ],
    ids=lambda failure: f"{failure.code}, {failure.fault}",
)
def test_what_is_not_the_model_s_fault_is_no_trouble_of_it(failure: BullpenError) -> None:
    troubles = Troubles()
    assert not any(troubles.ended("m", failure, 0.0) for _ in range(KEPT))
    assert troubles.of("m", 0.0) == ""


def test_each_model_has_its_own_record_and_a_change_is_reported_once() -> None:
    troubles = Troubles()
    changes = [troubles.ended("m", REFUSED, 0.0) for _ in range(KEPT)]
    assert changes.count(True) == 1
    assert troubles.of("other", 0.0) == ""
    assert "a prompt" not in troubles.of("m", 0.0)
    assert troubles.ended("m", None, 1.0)
