"""The stand-in, and backends started against it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.backends.openai.stand_in import Scripted, Start
from tests.backends.providers import configured
from workers.openai.backend import OpenAIBackend, OpenAIConfig


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
async def provider() -> AsyncIterator[Scripted]:
    async with Scripted() as provider:
        yield provider


@pytest.fixture
async def start(provider: Scripted) -> AsyncIterator[Start]:
    """Starts a backend against the provider; every one of them is closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def started(**told: Any) -> OpenAIBackend:
            config = configured(OpenAIConfig, {**provider.config(), **told})
            assert isinstance(config, OpenAIConfig)
            backend = OpenAIBackend(config)
            stack.push_async_callback(backend.close)
            await backend.start(lambda _: None)
            return backend

        yield started
