"""Fixtures for roles that live in the test's own process."""

import pytest

from tests.mesh import SERVER_BACK_WITHIN
from workers.base.runtime import reply_channel


@pytest.fixture(autouse=True)
def patient_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker does not give up on its Manager because this process, or the server, stood still for some seconds."""
    monkeypatch.setattr(reply_channel, "GO_WITHIN", SERVER_BACK_WITHIN)
