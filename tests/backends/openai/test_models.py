"""Which of a server's models are served, and what becomes of them."""

from typing import Any

import pytest

from contracts import BullpenError, ErrorCode
from tests.backends.openai.stand_in import Scripted, Start
from tests.backends.providers import Json
from tests.support import eventually
from workers.openai import backend as openai_backend


async def test_it_serves_what_the_server_lists(provider: Scripted, start: Start) -> None:
    provider.listed = [
        {"id": "plain"},
        {"id": "vllm", "max_model_len": 32768},
        {"id": "llama.cpp", "meta": {"n_ctx": 2048, "n_ctx_train": 8192}},
        {"id": "vllm", "max_model_len": 32768},
    ]
    backend = await start(models=[], local=True)

    def windows() -> dict[str, int]:
        return {card.model_id: card.context_window for card in backend.models()}

    await eventually(lambda: windows() == {"plain": 8192, "vllm": 32768, "llama.cpp": 2048})
    assert all(card.local and card.price is None for card in backend.models())


async def test_it_serves_at_most_fifty_models(provider: Scripted, start: Start) -> None:
    provider.listed = [{"id": f"m{number}"} for number in range(500)]
    backend = await start(models=[])
    assert len(backend.models()) == 50


@pytest.mark.parametrize("listed", [[], [{"id": None}], [{}], [{"id": "x" * 300}], [7]])
async def test_a_malformed_model_list_is_reported(provider: Scripted, listed: list[Any], start: Start) -> None:
    provider.listed = listed
    with pytest.raises(BullpenError) as caught:
        await start(models=[])
    assert caught.value.code is ErrorCode.UPSTREAM_ERROR


async def test_the_defaults_are_for_openai_only(provider: Scripted, start: Start) -> None:
    default = {"name": "gpt-default"}
    backend = await start(models=[], default_models=[default])
    assert [card.model_id for card in backend.models()] == ["m"]


@pytest.mark.parametrize(
    ("told", "other"),
    [
        ({"type": "llm"}, {"type": "embeddings"}),  # LM Studio
        ({"type": "chat"}, {"type": "rerank"}),  # Together
        ({"type": "chat"}, {"type": "image"}),
        ({"architecture": {"output_modalities": ["text"]}}, {"architecture": {"output_modalities": ["embeddings"]}}),
        ({"architecture": {"modality": "text+image->text"}}, {"architecture": {"modality": "text->image"}}),
        ({"capabilities": {"completion_chat": True}}, {"capabilities": {"completion_chat": False, "embeddings": True}}),
        ({"supports_chat": True}, {"supports_chat": False}),  # Fireworks
        ({"model_type": "LLM", "model_ability": ["chat"]}, {"model_type": "embedding"}),  # Xinference
        ({"endpoints": ["chat", "generate"]}, {"endpoints": ["embed"]}),  # Cohere
        ({"task": "chat-completion"}, {"task": "embeddings"}),  # GitHub
        ({"mode": "chat"}, {"mode": "audio_transcription"}),  # LiteLLM
    ],
)
async def test_the_servers_list_decides_which_models_can_chat(
    provider: Scripted, start: Start, told: Json, other: Json
) -> None:
    """Whatever their names look like, and without a question to any."""
    provider.listed = [{**other, "id": "llama-chat"}, {**told, "id": "my-embedder"}]
    backend = await start(models=[])
    assert [card.model_id for card in backend.models() if "chat" in card.capabilities] == ["my-embedder"]
    embedders = [(card.model_id, card.capabilities) for card in backend.models() if "embed" in card.capabilities]
    assert embedders == ([("llama-chat", ("embed",))] if "embed" in str(other) else [])
    assert not provider.received


async def test_names_are_a_hint_where_a_list_says_nothing(provider: Scripted, start: Start) -> None:
    names = ("text-embedding-3-small", "BAAI/bge-reranker-v2-m3", "whisper-1", "tts-1", "dall-e-3", "llama-3-instruct")
    provider.listed = [{"id": name} for name in names]
    backend = await start(models=[])
    served = [(card.model_id, card.capabilities[0]) for card in backend.models()]
    assert served == [("text-embedding-3-small", "embed"), ("llama-3-instruct", "chat")]
    assert not provider.received


async def test_a_model_that_nothing_is_known_of_is_asked_before_it_is_served(provider: Scripted, start: Start) -> None:
    provider.listed = [{"id": "mystery"}, {"id": "riddle"}]
    provider.refused = {"riddle": 501}
    backend = await start(models=[])
    await eventually(lambda: len(provider.received) == 2)
    await backend.health()
    assert [card.model_id for card in backend.models()] == ["mystery"]
    await backend.health()
    assert [body["model"] for body in provider.received] == ["mystery", "riddle"], "once each"
    assert {body["max_completion_tokens"] for body in provider.received} == {1}


async def test_where_asking_costs_money_only_what_is_named_or_known_is_served(
    provider: Scripted, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_backend, "sends_no_bill", lambda url: False)
    provider.listed = [{"id": "mystery"}]
    with pytest.raises(BullpenError, match="does not say which models can chat"):
        await start(models=[])
    provider.listed = [{"id": "mystery"}, {"id": "gpt-oss"}]
    assert [card.model_id for card in (await start(models=[])).models()] == ["gpt-oss"]
    assert [card.model_id for card in (await start(models=[{"name": "mystery"}])).models()] == ["mystery"]
    assert not provider.received


async def test_lm_studio_s_own_list_says_what_its_models_are(provider: Scripted, start: Start) -> None:
    provider.listed = [{"id": "mystery"}, {"id": "riddle"}]
    provider.kinds = [
        {"id": "mystery", "type": "vlm", "max_context_length": 4096},
        {"id": "riddle", "type": "embeddings"},
    ]
    card, embedder = (await start(models=[])).models()
    assert (card.model_id, card.context_window) == ("mystery", 4096)
    assert (embedder.model_id, embedder.capabilities) == ("riddle", ("embed",))
    assert "vision" in card.capabilities
    assert not provider.received


async def test_a_broken_entry_of_a_list_keeps_no_other_from_serving(provider: Scripted, start: Start) -> None:
    provider.listed = [{"id": None}, {"id": "x" * 300}, {"id": "", "type": "llm"}, {"id": "gpt-oss", "type": ["?"]}]
    odd = ("\ud83d", "\u202e", "\n", "\u200b", "\x1b[2J")
    provider.listed += [{"id": f"llama-chat{one}", "type": "llm"} for one in odd]
    assert [card.model_id for card in (await start(models=[])).models()] == ["gpt-oss"]


async def test_what_a_server_loads_or_removes_meanwhile_is_noticed(provider: Scripted, start: Start) -> None:
    provider.listed = [{"id": "gpt-a"}, {"id": "gpt-b"}]
    backend = await start(models=[])
    provider.listed = [{"id": "gpt-new"}, {"id": "gpt-image"}, {"id": "gpt-b"}]
    await backend.health()
    assert [card.model_id for card in backend.models()] == ["gpt-b", "gpt-new"], "those that stay keep their places"
    provider.listed = []
    with pytest.raises(BullpenError, match="lists no models"):
        await backend.health()


async def test_a_named_model_that_is_gone_is_out_of_service_until_it_is_back(provider: Scripted, start: Start) -> None:
    provider.listed = [{"id": "a"}, {"id": "b"}]
    backend = await start(models=[{"name": "a"}, {"name": "b"}, {"name": "an-alias-of-the-server"}])
    provider.listed = [{"id": "b"}]
    await backend.health()
    gone, *others = backend.models()
    assert (gone.capabilities, "not list it any more" in gone.trouble) == ((), True)
    assert all(card.capabilities and not card.trouble for card in others), "never listed, so not missed"
    provider.listed = [{"id": "a"}, {"id": "b"}]
    await backend.health()
    assert all(card.capabilities and not card.trouble for card in backend.models())
