"""Other servers, by configuration alone."""

import asyncio
from pathlib import Path

import pytest

from tests.backends.openai.presets import PRESETS, preset
from workers.openai.backend import OpenAIBackend


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
async def test_a_preset_can_be_read_and_says_how_to_start_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = preset(path.stem)
    assert config.key_variable != "OPENAI_API_KEY", "OpenAI's key is nobody else's business"
    assert f"--config workers/openai/presets/{path.name}" in await asyncio.to_thread(path.read_text)
    monkeypatch.setenv(config.key_variable, "sk-of-its-own")
    backend = OpenAIBackend(config)
    assert backend._client.api_key == "sk-of-its-own"
    assert str(backend._client.base_url).rstrip("/") == config.base_url
    await backend.close()


async def test_the_key_of_a_server_is_asked_for_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", "–")
    told = await OpenAIBackend.available(preset("mistral"))
    assert (told.available, told.cure) == (False, "correct OPENAI_BASE_URL or MISTRAL_API_KEY")
