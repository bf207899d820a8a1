"""Which models are served, and what is known of each."""

import pytest
from aiohttp import web

from contracts import BullpenError, ErrorCode
from tests.backends.ollama.stand_in import OPEN, Scripted, Start
from tests.backends.providers import Json, OllamaProvider
from tests.support import eventually
from workers.ollama.backend import OllamaBackend, OllamaConfig


async def test_it_serves_every_model_that_is_installed_and_chats_or_embeds(provider: Scripted, start: Start) -> None:
    provider.installed = {
        "llama3.2:latest": {"capabilities": ["completion", "tools"]},
        "llava:7b": {"capabilities": ["completion", "vision"]},
        "embedder:latest": {"capabilities": ["embedding"]},
        "broken": {"error": "the file is damaged"},
        "from-an-old-server": {},
    }
    backend = await start()
    await eventually(lambda: len(backend.models()) == 4)
    assert [body["model"] for body in provider.received] == ["from-an-old-server"], "only where nothing is told"
    cards = {card.model_id: card for card in backend.models()}
    assert list(cards) == ["llama3.2:latest", "llava:7b", "embedder:latest", "from-an-old-server"]
    assert cards["embedder:latest"].capabilities == ("embed",)
    assert cards["llama3.2:latest"].aliases == ("llama3.2",)
    assert "tools" in cards["llama3.2:latest"].capabilities
    assert "vision" in cards["llava:7b"].capabilities
    assert all(card.local and card.price is None for card in cards.values())


@pytest.mark.parametrize("name", ["tiny", "tiny:latest"])
async def test_a_model_is_the_same_with_the_tag_that_a_bare_name_has(
    provider: Scripted, start: Start, name: str
) -> None:
    provider.installed = {"tiny:latest": {"capabilities": ["completion"]}}
    backend = await start(models=[{"name": name, "aliases": ["small"]}])
    await eventually(lambda: backend.models()[0].capabilities)
    (card,) = backend.models()
    assert card.model_id == name
    assert all(card.answers_to(asked) for asked in ("tiny", "tiny:latest", "small"))
    assert not card.answers_to("tiny:7b")


CLOSED = "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
OLD = "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n{{ .Response }}<|im_end|>"


@pytest.mark.parametrize(
    ("shown", "able"),
    [
        ({}, False),
        ({"template": OLD}, True),
        ({"template": OPEN}, True),
        ({"template": CLOSED}, False),
        ({"template": "{% for message in messages %}"}, False),
        ({"template": OPEN, "capabilities": ["completion", "thinking"]}, False),
        ({"template": "{{ .Prompt }}", "modelfile": "FROM x\nRENDERER qwen3\n"}, False),
    ],
)
async def test_it_goes_on_after_a_begun_answer_only_where_the_template_leaves_it_open(
    provider: Scripted, start: Start, shown: Json, able: bool
) -> None:
    """Most templates close every answer, and the model would answer anew."""
    provider.installed = {"m:latest": shown}
    assert ("prefill" in (await start()).models()[0].capabilities) is able
    said = await start(models=[{"name": "m", "capabilities": ["prefill"]}])
    assert "prefill" in said.models()[0].capabilities


async def test_a_missing_model_is_reported_with_its_cure(start: Start) -> None:
    with pytest.raises(BullpenError, match="ollama pull other") as caught:
        await start(models=[{"name": "other"}])
    assert caught.value.code is ErrorCode.NO_SUCH_MODEL


async def test_a_model_that_is_not_there_takes_no_other_along(provider: Scripted, start: Start) -> None:
    provider.installed = {"m:latest": {}, "painter": {"capabilities": ["image"]}, "broken": {"error": "damaged"}}
    names = ("other", "m", "painter", "broken")
    cards = {card.model_id: card for card in (await start(models=[{"name": name} for name in names])).models()}
    assert tuple(cards) == names
    assert [name for name, card in cards.items() if card.capabilities] == ["m"]
    assert "ollama pull other" in cards["other"].trouble
    assert "cannot chat or embed, only image" in cards["painter"].trouble
    assert "500" in cards["broken"].trouble
    assert not cards["m"].trouble


async def test_what_is_pulled_or_removed_meanwhile_is_noticed(provider: Scripted, start: Start) -> None:
    provider.installed = {"a": {"capabilities": ["completion"]}, "b": {"capabilities": ["completion"]}}
    backend, named = await start(), await start(models=[{"name": "a"}, {"name": "b"}])
    provider.installed = {
        "b": {"capabilities": ["completion"]},
        "c": {"capabilities": ["completion", "vision"]},
        "d": {"capabilities": ["image"]},
    }
    for one in (backend, named):
        await one.health()
    assert [card.model_id for card in backend.models()] == ["b", "c"]
    assert [(card.model_id, bool(card.capabilities)) for card in named.models()] == [("a", False), ("b", True)]
    provider.installed["a"] = {}
    await named.health()
    assert all(card.capabilities for card in named.models())


async def test_another_model_of_the_same_name_is_described_anew(provider: Scripted, start: Start) -> None:
    provider.installed = {"m:latest": {"digest": "1", "capabilities": ["completion"]}}
    backend = await start()
    assert "tools" not in backend.models()[0].capabilities
    provider.installed = {"m:latest": {"digest": "2", "capabilities": ["completion", "tools"]}}
    await backend.health()
    assert "tools" in backend.models()[0].capabilities


@pytest.mark.parametrize(
    "shown",
    [
        {"details": {"family": "bert"}},
        {"details": {"family": "nomic-bert"}},
        {"model_info": {"general.architecture": "xlmroberta", "xlmroberta.pooling_type": 1}},
        {"capabilities": ["embedding"]},
    ],
)
async def test_older_servers_tell_by_the_architecture_what_only_embeds(
    provider: Scripted, start: Start, shown: Json
) -> None:
    provider.installed = {"mystery": shown, "mxbai-embed-large": {}, "riddle": {"details": {"family": "llama"}}}
    served = {card.model_id: card.capabilities for card in (await start()).models()}
    assert {name for name, able in served.items() if "embed" in able} == {"mystery", "mxbai-embed-large"}
    assert {name for name, able in served.items() if "chat" in able} == {"riddle"}
    assert not provider.received


@pytest.mark.parametrize("installed", [{}, {"painter": {"capabilities": ["image"]}}])
async def test_a_server_without_usable_models_is_an_error(
    provider: Scripted, start: Start, installed: dict[str, Json]
) -> None:
    provider.installed = installed
    with pytest.raises(BullpenError, match="ollama pull"):
        await start()


async def test_available_says_what_is_missing(provider: Scripted) -> None:
    assert (await OllamaBackend.available(OllamaConfig(host=provider.url))).available
    provider.installed = {}
    told = await OllamaBackend.available(OllamaConfig(host=provider.url))
    assert (told.available, told.cure) == (False, "ollama pull llama3.2")


async def test_another_server_at_that_address_is_not_available() -> None:
    async with Elsewhere() as other:
        assert not (await OllamaBackend.available(OllamaConfig(host=other.url))).available


class Elsewhere(OllamaProvider):
    async def tags(self, request: web.Request) -> web.Response:
        return web.Response(text="<html>It works!</html>", content_type="text/html")


async def test_a_password_in_the_address_is_not_shown() -> None:
    told = await OllamaBackend.available(OllamaConfig(host="http://me:secret@127.0.0.1:9"))
    assert "secret" not in told.reason + told.cure
