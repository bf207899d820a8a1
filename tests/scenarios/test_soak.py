"""One seed of the soak, in the time that a test may take: `python -m benchmarks soak` has the long version."""

from itertools import islice
from pathlib import Path

import pytest

from benchmarks.soak import soak
from benchmarks.soak.plan import Topology, faults

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(900)]

SEED, SECONDS = 10027, 34
FAULTS_AT_LEAST = 5
"""In that time, on a machine that has other things to do. They meet every role, as the second test makes sure."""


EXCUSED = {"late", "silence", "error"}
"""What a machine can bring about, too, whose processes stand still for seconds when no fault says so."""


async def test_random_faults_lose_no_request_and_no_booking(tmp_path: Path) -> None:
    """Nothing is lost, doubled or booked wrong.

    Where a machine was too busy for so many faults, or a request came too late or to an error, all is tried again with
    more time; it will not be so each time.
    """
    for seconds in (SECONDS, 2 * SECONDS, 3 * SECONDS):
        place = tmp_path / f"{seconds}"
        place.mkdir(mode=0o755)
        outcome = await soak(SEED, seconds, place)
        kinds = {violation.kind for violation in outcome.verdict.violations}
        if kinds - EXCUSED or (not kinds and len(outcome.history.faults) >= FAULTS_AT_LEAST):
            break
    assert not outcome.verdict.violations, outcome.story
    assert len(outcome.history.faults) >= FAULTS_AT_LEAST, outcome.story
    assert sum(ended.how == "answered" for ended in outcome.history.ended) > 100, outcome.story


def test_the_first_faults_of_its_seed_meet_every_role() -> None:
    roles = {fault.role for fault in islice(faults(SEED, Topology()), FAULTS_AT_LEAST)}
    assert roles == {"manager", "worker", "nats", "postgres", "telemetry"}
