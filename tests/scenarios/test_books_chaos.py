"""The accountant, Postgres and NATS are killed under load, and every answer is in the books once."""

from pathlib import Path

import pytest

from benchmarks.chaos import Plan, run

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(400)]

SMALL = Plan(responses=1000, load_s=8, accountant=2, postgres=1, nats=1, away_s=2, seed=7)


async def test_every_answer_is_booked_once_whatever_is_killed(tmp_path: Path) -> None:
    outcome = await run(SMALL, tmp_path)
    assert outcome.is_complete, str(outcome)
    assert len(outcome.answered) >= SMALL.responses, str(outcome)
    assert len(outcome.faults) == 4, str(outcome)
