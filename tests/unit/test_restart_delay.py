"""How long a dead process is left alone."""

import pytest

from bullpen.supervision.supervisor import FIRST_DELAY, HEALTHY_AFTER, LONGEST_DELAY, Backoff, Death


def test_the_first_death_is_mended_at_once() -> None:
    assert Backoff().after(lived=0.1) == FIRST_DELAY


def test_each_further_death_doubles_the_wait_up_to_the_longest() -> None:
    backoff = Backoff()
    waits = [backoff.after(lived=0.1) for _ in range(10)]
    assert waits[:4] == [0.2, 0.4, 0.8, 1.6]
    assert waits[-1] == LONGEST_DELAY


def test_a_process_that_lived_well_starts_from_the_beginning() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.after(lived=0.1)
    assert backoff.after(lived=HEALTHY_AFTER) == FIRST_DELAY


@pytest.mark.parametrize(
    ("code", "told"), [(3, "exited with 3"), (0, "exited with 0"), (-9, "was killed by SIGKILL"), (-77, "signal 77")]
)
def test_a_death_is_told_in_words(code: int, told: str) -> None:
    assert told in Death("nats", 1, code, 0.2).how
