"""The stand-in, and backends started against it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.backends.ollama.stand_in import Scripted, Start
from tests.backends.providers import configured
from workers.ollama.backend import OllamaBackend, OllamaConfig


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OLLAMA_CONTEXT_LENGTH", raising=False)


@pytest.fixture
async def provider() -> AsyncIterator[Scripted]:
    async with Scripted() as provider:
        yield provider


@pytest.fixture
async def start(provider: Scripted) -> AsyncIterator[Start]:
    """Starts a backend against the provider; every one of them is closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def started(report: Callable[[str], None] = lambda _: None, **told: Any) -> OllamaBackend:
            config = configured(OllamaConfig, {"host": provider.url, **told})
            assert isinstance(config, OllamaConfig)
            backend = OllamaBackend(config)
            stack.push_async_callback(backend.close)
            await backend.start(report)
            return backend

        yield started
