"""When our own NATS server is restarted because it keeps nothing, and when that would help nobody."""

import os
from itertools import pairwise
from pathlib import Path

import pytest

from bullpen.supervision.store_watch import AGAIN, StoreState, no_room
from bus.jetstream import Refusal

STUCK = Refusal("no answer on telemetry.check within 2 s", stuck=True)
LIMIT = Refusal("maximum bytes exceeded", stuck=False)


def test_a_server_that_keeps_nothing_although_there_is_room_is_restarted_once_it_is_sure() -> None:
    state = StoreState()
    assert [state.step(STUCK, room=True, now=now) for now in (0.0, 5.0)] == ["tell", "restart"]


def test_one_slow_write_restarts_nothing() -> None:
    state = StoreState()
    assert [state.step(refusal, room=True, now=0.0) for refusal in (STUCK, None, STUCK, None, STUCK)] == [
        "tell",
        "nothing",
        "tell",
        "nothing",
        "tell",
    ]


def test_while_the_disk_is_full_nothing_is_restarted_and_then_at_once() -> None:
    state = StoreState()
    assert {state.step(STUCK, room=False, now=float(now)) for now in range(100)} == {"tell"}
    assert state.step(STUCK, room=True, now=100.0) == "restart"


def test_a_limit_of_jetstreams_own_is_told_and_cured_by_no_restart() -> None:
    state = StoreState()
    assert {state.step(LIMIT, room=True, now=float(now)) for now in range(1000)} == {"tell"}


def test_a_restart_that_does_not_help_is_tried_more_and_more_rarely() -> None:
    state = StoreState()
    at = [now for now in range(3600) if state.step(STUCK, room=True, now=float(now)) == "restart"]
    pauses = [after - before for before, after in pairwise(at)]
    assert pauses[:3] == [30, 60, 120]
    assert max(pauses) == AGAIN.cap
    assert state.step(None, room=True, now=3600.0) == "nothing"
    assert state.restarts == 0, "a write that is taken begins anew"


def test_room_is_tried_with_a_real_file(tmp_path: Path) -> None:
    assert no_room(tmp_path, least=1) == ""
    assert list(tmp_path.iterdir()) == []
    assert no_room(tmp_path, least=1 << 60).startswith("the disk is full: ")
    assert "No such file" in no_room(tmp_path / "gone", least=1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only_has_no_room(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot be written" in no_room(tmp_path, least=1)
