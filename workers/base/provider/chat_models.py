"""Which of a server's models can chat: the server's own word comes first, then the model's name, then a test question.

Servers list all their models: those that chat, and those that embed, rank, speak, listen or draw. Each backend's folder
reads its server's list; this module has what the backends share. None always means: unknown.
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
"""Seconds for a test question: the model may have to be loaded first."""
PROBE_AGAIN = 600.0
"""Seconds after which a model that refused gets another test question: it may have lacked memory."""

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
    """Whether a model can chat, by its name: a hint, for servers that say nothing."""
    if _OTHER_KINDS.search(name):
        return False
    return True if _CHATS.search(name) else None


def embeds_by_name(name: str) -> bool:
    """Whether a model gives vectors, by its name. A model that ranks may be named after one that gives vectors."""
    return _EMBEDS.search(name) is not None and "rerank" not in name.lower()


def able(model: ModelConfig) -> ModelConfig:
    """The model with the capability that its name shows, if the config sets none: a model that embeds does not chat."""
    silent = "capabilities" not in model.model_fields_set
    return model.model_copy(update={"capabilities": ("embed",)}) if silent and embeds_by_name(model.name) else model


def sends_no_bill(url: str) -> bool:
    """Whether a server is on this machine or in a private network, so that questions to it cost nothing."""
    host = (urlsplit(url).hostname or "").lower()
    try:
        address = ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".lan", ".localhost"))
    return address.is_loopback or address.is_private


class Prober:
    """Asks unknown models a test question, one after the other, in the background."""

    def __init__(self, infer: Callable[[Job], Awaitable[Completion]], learned: Callable[[], None]) -> None:
        """`learned` is called after each test question."""
        self._infer = infer
        self._learned = learned
        self._chats: dict[str, bool] = {}
        self._refused_at: dict[str, float] = {}
        self._asking: asyncio.Task[None] | None = None

    def chats(self, name: str) -> bool | None:
        """Whether the model can chat, as far as test questions have shown."""
        return self._chats.get(name)

    def ask(self, cards: Iterable[ModelCard]) -> "asyncio.Task[None]":
        """Starts the test questions unless they are running; the task ends after the last one."""
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
