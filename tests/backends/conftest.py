"""Fixtures for every test of a backend."""

import pytest

from tests.backends.providers import PROVIDERS
from workers.base.interface.discovery import discover

LOOKING = [folder.module for name, folder in discover().items() if name in PROVIDERS]


@pytest.fixture(autouse=True)
def patient_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in on a machine that stands still for some seconds is there all the same."""
    for module in LOOKING:
        monkeypatch.setattr(f"{module}.QUICK", 15.0)
