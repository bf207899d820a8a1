"""One seed of the soak, in the time that a test may take: `python -m benchmarks soak` has the long version."""

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.soak import soak
from benchmarks.soak.plan import Topology, faults

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(300)]

SEED, SECONDS = 10027, 34
FAULTS_AT_LEAST = 5
"""In that time, on a machine that has other things to do. They meet every role, as the second test makes sure."""

EXCUSED = {"late", "silence", "error"}
"""What a machine can bring about, too, whose processes stand still for seconds when no fault says so."""
AT_MOST = 0.02
"""The share of the requests that may be excused."""


async def test_random_faults_lose_no_request_and_no_booking(tmp_path: Path) -> None:
    """Nothing is lost, doubled or booked wrong; what a busy machine brings about too is rare."""
    outcome = await soak(SEED, SECONDS, tmp_path)
    kinds = Counter(violation.kind for violation in outcome.verdict.violations)
    asked = len(outcome.history.ended)
    assert kinds.keys() <= EXCUSED, outcome.story
    assert kinds.total() <= AT_MOST * asked, outcome.story
    assert len(outcome.history.faults) >= FAULTS_AT_LEAST, outcome.story
    assert sum(ended.how == "answered" for ended in outcome.history.ended) > 100, outcome.story


def test_the_first_faults_of_its_seed_meet_every_role() -> None:
    roles = {fault.role for fault in islice(faults(SEED, Topology()), FAULTS_AT_LEAST)}
    assert roles == {"manager", "worker", "nats", "postgres", "telemetry"}
