"""Which server is asked, with which key, and an address that is not quite right."""

import pytest

from contracts import BullpenError
from tests.backends.openai.stand_in import Scripted, Start, job
from tests.backends.providers import Elsewhere
from workers.openai.backend import OpenAIBackend, OpenAIConfig


@pytest.mark.parametrize(
    "url", ["https://eu.api.openai.com/v1", "https://api.openai.com/v1", "https://gate.example/api.openai.com/v1"]
)
async def test_the_address_in_the_config_is_the_one_that_is_asked(url: str) -> None:
    """A region's address in particular: what goes elsewhere has left the region."""
    backend = OpenAIBackend(OpenAIConfig(base_url=url))
    assert str(backend._client.base_url).rstrip("/") == url
    await backend.close()


async def test_openai_needs_a_key_in_every_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    for url in (None, "https://api.openai.com/v1", "https://eu.api.openai.com/v1"):
        told = await OpenAIBackend.available(OpenAIConfig(base_url=url))
        assert (told.available, told.reason) == (False, "no key and no server")
        assert "OPENAI_API_KEY" in told.cure


async def test_a_server_of_ones_own_needs_no_key(
    provider: Scripted, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", f"{provider.url}/v1")
    assert (await OpenAIBackend.available(OpenAIConfig())).available
    backend = await start(base_url=None)
    assert (await backend.infer(job(backend))).text


async def test_a_server_without_a_list_is_available_too(provider: Scripted) -> None:
    told = await OpenAIBackend.available(OpenAIConfig(base_url=f"{provider.url}/elsewhere"))
    assert told.available


async def test_an_address_without_its_version_is_found_out(provider: Scripted) -> None:
    for wrong in (provider.url, f"{provider.url}/v1/chat/completions", f"{provider.url}/v1/v1"):
        config = OpenAIConfig(base_url=wrong, models=provider.config()["models"])
        told = await OpenAIBackend.available(config)
        assert not told.available
        assert told.cure == f"set base_url, or OPENAI_BASE_URL, to {provider.url}/v1"
        backend = OpenAIBackend(config)
        with pytest.raises(BullpenError, match=f"to {provider.url}/v1"):
            await backend.start(lambda _: None)
        await backend.close()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_an_address_that_leads_elsewhere_is_found_out(provider: Scripted, status: int) -> None:
    async with Elsewhere(provider.url, status) as elsewhere:
        config = OpenAIConfig(base_url=f"{elsewhere.url}/v1", models=provider.config()["models"])
        told = await OpenAIBackend.available(config)
        assert (told.available, told.cure) == (False, f"set base_url, or OPENAI_BASE_URL, to {provider.url}/v1")
        backend = OpenAIBackend(config)
        with pytest.raises(BullpenError, match="at another address"):
            await backend.start(lambda _: None)
        await backend.close()
