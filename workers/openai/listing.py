"""Reads a server's list of models: what each model can do, as far as the list says.

OpenAI's own list has only names. Other servers add fields, which are read here: Together's and LM Studio's `type`,
OpenRouter's and Hugging Face's `architecture`, Mistral's and llama.cpp's `capabilities`, Fireworks' `supports_…`,
Xinference's `model_type` and `model_ability`, Cohere's `endpoints`, GitHub's and DeepInfra's `task`, LiteLLM's `mode`.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from openai.types import Model

from contracts import Capability, JsonObject
from workers.base import ModelConfig
from workers.base.provider.chat import tokens
from workers.base.provider.chat_models import chats_by_name, embeds_by_name

WINDOWS = ("max_model_len", "context_length", "context_window", "max_context_length", "n_ctx")
"""Servers' names for the context window in their lists (vLLM; OpenRouter; Groq; LM Studio; llama.cpp)."""
KINDS = ("type", "model_type", "task", "mode")
"""Fields with one word for a model's purpose."""
ABILITIES = ("capabilities", "model_ability", "endpoints", "supported_endpoints")
"""Fields that list a model's abilities."""
CHATS = frozenset(
    {
        "chat",
        "completion_chat",
        "chat-completion",
        "chat_completion",
        "llm",
        "vlm",
        "conversational",
        "responses",
        "image-text-to-text",
        "text-generation",
        "any-to-any",
    }
)
ABLE_TO_CHAT = CHATS | {"completion"}
"""Words for chat as an ability: llama.cpp also uses `completion`. As a kind, that word means a model that only
continues text.
"""
OTHERS = (
    "embed",
    "rerank",
    "rank",
    "image",
    "audio",
    "speech",
    "transcri",
    "moderation",
    "video",
    "classif",
    "rewards",
)
VISION = frozenset({"vlm", "vision", "multimodal", "image", "image-text-to-text"})
TOOLS = frozenset({"tools", "tool_use", "function_calling", "function-calling", "tool-calling"})
JSON = frozenset({"response_format", "structured_outputs", "json_mode", "json"})


def described(model: Model) -> ModelConfig:
    """The model as its server lists it; llama.cpp keeps fields beyond OpenAI's in an object of its own."""
    said = _said(model)
    window = max(tokens(said.get(name), 0) for name in WINDOWS)
    told: JsonObject = {"name": model.id, "capabilities": _capabilities(said, embeds(model), chats(model))}
    return ModelConfig.model_validate({**told, **({"context_window": window} if window else {})})


def chats(model: Model) -> bool | None:
    """Whether the model can chat. None: neither the server nor the name says."""
    told = _told(_said(model))
    return chats_by_name(model.id) if told is None else told


def embeds(model: Model) -> bool:
    """Whether the model gives vectors, by the server's words, or by its name where these say nothing."""
    said = _said(model)
    words = [*_kinds(said), *_abilities(said), *_outputs(said)]
    return any("embed" in word or word == "feature-extraction" for word in words) or (
        _told(said) is None and embeds_by_name(model.id)
    )


def entries_of(told: object) -> list[Model] | None:
    """The models of a list, in the usual form or without the frame, as Together and others send it. None: it is no
    list.
    """
    frames = [told.get("data"), told.get("models")] if isinstance(told, dict) else [told]
    listed = next((frame for frame in frames if isinstance(frame, list)), None)
    if listed is None:
        return None
    return [Model.model_construct(**_entry(one)) for one in listed if isinstance(one, dict)]


def _entry(told: JsonObject) -> JsonObject:
    named = {"id": told.get("id") or told.get("name") or told.get("model")}
    return {**{name: value for name, value in told.items() if name != "cls" and not name.startswith("_")}, **named}


def with_kinds(listed: Sequence[Model], own: object) -> list[Model]:
    """The models with what LM Studio's own list says of each beside OpenAI's fields."""
    data = own.get("data") if isinstance(own, dict) else None
    more = {str(told.get("id")): told for told in data or () if isinstance(told, dict)}
    return [Model.model_construct(**{**more.get(model.id, {}), **model.model_dump()}) for model in listed]


def _said(model: Model) -> JsonObject:
    more = model.model_extra or {}
    meta = more.get("meta")
    return {**more, **(meta if isinstance(meta, dict) else {})}


def _told(said: JsonObject) -> bool | None:
    if isinstance(supports := said.get("supports_chat"), bool):
        return supports
    outputs = _outputs(said)
    if outputs:
        return any("text" in output for output in outputs)
    words = [*_kinds(said), *_abilities(said)]
    if CHATS.intersection(_kinds(said)) or ABLE_TO_CHAT.intersection(_abilities(said)):
        return True
    return False if any(other in word for word in words for other in OTHERS) else None


def _capabilities(said: JsonObject, embeds: bool, chats: bool | None) -> tuple[Capability, ...]:
    """The capabilities beside chat. A list that leaves one out does not get callers refused: they go where it is
    listed.
    """
    if embeds and not chats:
        return ("embed",)
    inputs = _modalities(said, "input")
    words = {*_kinds(said), *_abilities(said), *_words(said.get("supported_parameters"))}
    words |= {name.removeprefix("supports_") for name in said if name.startswith("supports_") and said[name] is True}
    found: list[Capability] = ["chat", "stream", *(("embed",) if embeds else ())]
    if TOOLS & words:
        found.append("tools")
    if "image" in inputs or VISION & words or "image_input" in words:
        found.append("vision")
    if JSON & words:
        found.append("json")
    return tuple(found)


def _kinds(said: JsonObject) -> list[str]:
    return [value.lower() for name in KINDS if isinstance(value := said.get(name), str)]


def _abilities(said: JsonObject) -> list[str]:
    """The abilities that are listed, or true where the server answers yes or no for each."""
    return [word for name in ABILITIES for word in _words(said.get(name))]


def _outputs(said: JsonObject) -> list[str]:
    outputs = _modalities(said, "output")
    if outputs:
        return outputs
    drawer = said.get("architecture")
    modality = drawer.get("modality") if isinstance(drawer, dict) else None
    return _words(modality.rpartition("->")[2].split("+")) if isinstance(modality, str) and "->" in modality else []


def _modalities(said: JsonObject, side: str) -> list[str]:
    drawer = said.get("architecture")
    told = [said, drawer] if isinstance(drawer, dict) else [said]
    names = (f"{side}_modalities", f"supported_{side}_modalities")
    return [word for place in told for name in names for word in _words(place.get(name))]


def _words(told: Any) -> list[str]:
    return list(_each(told))


def _each(told: Any) -> Iterator[str]:
    if isinstance(told, dict):
        yield from (str(name).lower() for name, true in told.items() if true is True)
    elif isinstance(told, list):
        yield from (word.lower() for word in told if isinstance(word, str))
