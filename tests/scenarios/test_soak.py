"""One seed of the soak, in the time that a test may take: `python -m benchmarks soak` has the long version."""

from itertools import islice
from pathlib import Path

import pytest

from benchmarks.soak import soak
from benchmarks.soak.plan import Topology, faults

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(150)]

SEED, SECONDS = 10027, 34
FAULTS_AT_LEAST = 5
"""In that time, on a machine that has other things to do. They meet every role, as the second test makes sure."""


async def test_random_faults_lose_no_request_and_no_booking(tmp_path: Path) -> None:
    outcome = await soak(SEED, SECONDS, tmp_path)
    assert not outcome.verdict.violations, outcome.story
    assert len(outcome.history.faults) >= FAULTS_AT_LEAST, outcome.story
    assert sum(ended.how == "answered" for ended in outcome.history.ended) > 100, outcome.story


def test_the_first_faults_of_its_seed_meet_every_role() -> None:
    roles = {fault.role for fault in islice(faults(SEED, Topology()), FAULTS_AT_LEAST)}
    assert roles == {"manager", "worker", "nats", "postgres", "telemetry"}
