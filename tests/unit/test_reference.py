"""docs/reference is what the code says: settings, commands, HTTP, subjects."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from bullpen.cli import COMMANDS
from bullpen.reference.pages import pages
from manager.config import ManagerConfig
from telemetry.config import TelemetryConfig

PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "reference"
PAGES = (
    "asyncapi.json",
    "openapi.json",
    "subjects.md",
    "http.md",
    "settings.md",
    "commands.md",
    "mesh.svg",
    "request.svg",
)


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


@pytest.mark.parametrize("name", PAGES)
def test_page_is_that_of_the_code(made: dict[str, str], name: str) -> None:
    assert made.keys() == set(PAGES)
    assert (PUBLISHED / name).read_text(encoding="utf-8") == made[name], (
        "run `python -m bullpen.reference docs/reference`"
    )


def test_every_command_has_its_place(made: dict[str, str]) -> None:
    for name in COMMANDS:
        assert f"\n### bullpen {name}\n" in made["commands.md"]
    assert "### bullpen keys create" in made["commands.md"]


@pytest.mark.parametrize("model", [ManagerConfig, TelemetryConfig])
def test_every_setting_is_there_and_says_what_it_means(made: dict[str, str], model: type[BaseModel]) -> None:
    rows = {line.split(" | ")[0]: line.rstrip(" |").split(" | ") for line in made["settings.md"].splitlines()}
    for name in model.model_fields:
        assert len(rows[f"| `{name}`"]) == 4, f"{name}: no docstring in the model, and no comment in config.yaml"


def test_a_part_of_a_setting_has_its_own_row(made: dict[str, str]) -> None:
    assert "| `retries.share` | number, 0–1 | `0.1` |" in made["settings.md"]
