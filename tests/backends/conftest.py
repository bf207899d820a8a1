"""Fixtures for every test of a backend."""

import pytest

from tests.backends.providers import PROVIDERS
from workers.base.interface.discovery import discover


@pytest.fixture(autouse=True)
def patient_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in on a machine that stands still for some seconds is there all the same."""
    for name in PROVIDERS:
        monkeypatch.setattr(f"{discover()[name].module}.QUICK", 15.0)
