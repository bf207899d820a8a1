"""Which workers a mesh starts, decided without naming a backend."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from bullpen import start_plan
from bullpen.start_plan import NotStarted, every_backend, named_backends
from config.loader import ConfigError
from workers.base import Availability, BackendConfig


@dataclass
class Folder:
    """A backend's folder, as discovery would find it."""

    name: str
    availability: Availability
    replicas: int = 1
    simulated: bool = False

    async def available(self, path: Path | None = None) -> Availability:
        return self.availability

    def load(self) -> SimpleNamespace:
        return SimpleNamespace(simulated=self.simulated)

    def config(self, path: Path | None = None) -> BackendConfig:
        return BackendConfig(replicas=self.replicas)


FOLDERS = {
    "big": Folder("big", Availability.yes("a file"), replicas=2),
    "dark": Folder("dark", Availability.no("no key", "set BIG_KEY")),
    "pretender": Folder("pretender", Availability.yes("always"), simulated=True),
}


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> Folder:
        if name not in FOLDERS:
            raise ConfigError(f"there is no backend {name!r}")
        return FOLDERS[name]

    monkeypatch.setattr(start_plan, "discover", lambda: FOLDERS)
    monkeypatch.setattr(start_plan, "find", find)


async def test_by_default_whoever_can_run_and_asks_a_model() -> None:
    plan = await every_backend()
    assert plan.workers == [("big", 2)]
    assert plan.not_started == (
        NotStarted("dark", "no key", "set BIG_KEY"),
        NotStarted("pretender", "asks no model", "for a trial: --workers pretender:2"),
    )


async def test_asked_for_by_name_and_number() -> None:
    assert (await named_backends("pretender:3, big")).workers == [("pretender", 3), ("big", 1)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nobody", "there is no backend 'nobody'"),
        ("big:none", "big:none: after the colon stands how many"),
        ("big:0", "from 1 to 1000"),
        ("big:1001", "from 1 to 1000"),
        ("big,big:2", "big stands twice"),
        ("dark", "dark cannot run here: no key. set BIG_KEY"),
    ],
)
async def test_what_cannot_be_is_told(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace("(", r"\(")):
        await named_backends(text)
