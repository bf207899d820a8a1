"""How long a dead process is left alone."""

import pytest

from bullpen.supervision.supervisor import HEALTHY_AFTER, RESTART, Death, RestartDelay


def test_the_first_death_is_mended_at_once() -> None:
    assert RestartDelay().after(lived=0.1) == RESTART.first


def test_each_further_death_doubles_the_wait_up_to_the_longest() -> None:
    delay = RestartDelay()
    waits = [delay.after(lived=0.1) for _ in range(10)]
    assert waits[:4] == [0.2, 0.4, 0.8, 1.6]
    assert waits[-1] == RESTART.cap


def test_a_process_that_lived_well_starts_from_the_beginning() -> None:
    delay = RestartDelay()
    for _ in range(5):
        delay.after(lived=0.1)
    assert delay.after(lived=HEALTHY_AFTER) == RESTART.first


@pytest.mark.parametrize(
    ("code", "told"), [(3, "exited with 3"), (0, "exited with 0"), (-9, "was killed by SIGKILL"), (-77, "signal 77")]
)
def test_a_death_is_told_in_words(code: int, told: str) -> None:
    assert told in Death("nats", 1, code, 0.2).how
