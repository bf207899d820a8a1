"""Models that are missing and pulled."""

import pytest

from contracts import BullpenError
from tests.backends.ollama.stand_in import Scripted, Start


async def test_a_missing_model_is_pulled_and_the_progress_reported(provider: Scripted, start: Start) -> None:
    provider.steps = [
        {"status": "pulling manifest"},
        {"status": "pulling abc", "completed": 41, "total": 100},
        {"status": "success"},
    ]
    told: list[str] = []
    backend = await start(told.append, models=[{"name": "llama3.2"}], pull_missing=True)
    assert told == ["pulling llama3.2", "pulling llama3.2: 41 %"]
    assert [card.model_id for card in backend.models()] == ["llama3.2"]


async def test_a_failed_pull_is_reported(provider: Scripted, start: Start) -> None:
    provider.steps = [{"status": "pulling manifest"}, {"error": "file does not exist"}]
    with pytest.raises(BullpenError, match="file does not exist"):
        await start(models=[{"name": "nonsense"}], pull_missing=True)


async def test_a_model_that_cannot_be_pulled_takes_no_other_along(provider: Scripted, start: Start) -> None:
    provider.steps = [{"error": "file does not exist"}]
    backend = await start(models=[{"name": "m"}, {"name": "nonsense"}], pull_missing=True)
    there, missing = backend.models()
    assert there.capabilities
    assert (missing.capabilities, "file does not exist" in missing.trouble) == ((), True)
