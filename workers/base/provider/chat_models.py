"""Which of a server's models can chat: what the server tells counts, then the name, then one question.

Servers list whatever they have: models that embed, rank, speak, listen or draw beside those that chat. What a server
tells of each is read in its backend's folder; this is what the backends share. None always means: not known.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

import structlog

from contracts import BullpenError, InferenceRequest, ModelCard
from workers.base.interface.backend import Completion, Job
from workers.base.interface.config import ModelConfig

log = structlog.get_logger(__name__)

PROBE = InferenceRequest(prompt="Say yes.", max_tokens=1)
PROBE_WITHIN = 120.0
"""Seconds: the model may have to be loaded first."""
PROBE_AGAIN = 600.0
"""Seconds after which a model that refused is asked once more: there may have been no memory for it."""

_OTHER_KINDS = re.compile(
    r"embed|rerank|whisper|moderation|transcri|dall-?e|diffusion|imagen|text-to-speech|speech-to-text|colbert|"
    r"(?:^|[^a-z])(?:tts|stt|asr|bge|gte|e5|minilm|sdxl|flux|clip|siglip|sora|veo|lyria|kokoro|bark|piper|realtime|"
    r"audio|image|davinci|babbage)(?:[^a-z]|$)",
    re.IGNORECASE,
)
_EMBEDS = re.compile(r"embed|(?:^|[^a-z])(?:bge|gte|e5|minilm)(?:[^a-z]|$)", re.IGNORECASE)
_CHATS = re.compile(
    r"instruct|chat|(?:^|[^a-z])(?:gpt|claude|gemma|llama|mi[sx]tral|qwen|deepseek|grok|kimi|glm|command|phi|"
    r"sonar|nova|minimax|smollm|granite|hermes)(?:[^a-z]|$)",
    re.IGNORECASE,
)


def chats_by_name(name: str) -> bool | None:
    """Whether a model can chat, as far as its name tells: a hint, for servers that tell nothing."""
    if _OTHER_KINDS.search(name):
        return False
    return True if _CHATS.search(name) else None


def embeds_by_name(name: str) -> bool:
    """Whether a model gives vectors, as far as its name tells; one that ranks may be named after one that does."""
    return _EMBEDS.search(name) is not None and "rerank" not in name.lower()


def able(model: ModelConfig) -> ModelConfig:
    """The model with what its name says of it, where the config says nothing: one that embeds does not chat."""
    silent = "capabilities" not in model.model_fields_set
    return model.model_copy(update={"capabilities": ("embed",)}) if silent and embeds_by_name(model.name) else model


def sends_no_bill(url: str) -> bool:
    """Whether a server is on this machine, or in a network of its owner's: asking it costs nothing."""
    host = (urlsplit(url).hostname or "").lower()
    try:
        address = ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".lan", ".localhost"))
    return address.is_loopback or address.is_private


class Prober:
    """Asks models that nothing is known of, one after the other, beside whatever else goes on."""

    def __init__(self, infer: Callable[[Job], Awaitable[Completion]], learned: Callable[[], None]) -> None:
        """`learned` is called whenever more is known."""
        self._infer = infer
        self._learned = learned
        self._chats: dict[str, bool] = {}
        self._refused_at: dict[str, float] = {}
        self._asking: asyncio.Task[None] | None = None

    def chats(self, name: str) -> bool | None:
        """What is known of a model by now."""
        return self._chats.get(name)

    def ask(self, cards: Iterable[ModelCard]) -> "asyncio.Task[None]":
        """Begins to ask them, unless it was done; the task ends when all were asked."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask_all(list(cards)))
        return self._asking

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking

    async def _ask_all(self, cards: list[ModelCard]) -> None:
        for card in cards:
            if self._is_due(card.model_id):
                await self._ask(card)
                self._learned()

    def _is_due(self, name: str) -> bool:
        if self._chats.get(name):
            return False
        refused_at = self._refused_at.get(name)
        return refused_at is None or asyncio.get_running_loop().time() - refused_at > PROBE_AGAIN

    async def _ask(self, card: ModelCard) -> None:
        try:
            async with asyncio.timeout(PROBE_WITHIN):
                await self._infer(Job(PROBE, card, 1))
        except (BullpenError, TimeoutError) as error:
            if isinstance(error, BullpenError) and error.fault == "worker":
                return  # the server is away, which says nothing of its models
            self._chats[card.model_id] = False
            self._refused_at[card.model_id] = asyncio.get_running_loop().time()
            log.warning("model_left_out", model=card.model_id, reason=f"it did not answer a first question: {error}")
        else:
            self._chats[card.model_id] = True
