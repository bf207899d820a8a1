"""A worker without a model, for tests, demos and benchmarks. Every answer says that it is simulated.

The words of an answer depend on the seed and the prompt alone, so the same question always gets the
same text and a continuation can be checked word by word. What is drawn by chance (latency, failure,
confidence) comes from the seed and a counter, so a run can be repeated.
"""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from config.loader import ConfigModel
from contracts import Capability, ErrorCode, FinishReason, ModelCard, Price
from contracts.going_on import Interrupted
from workers.base import Availability, Backend, BackendConfig, Delta, Done, Job, ModelConfig, Report, Usage
from workers.base.provider.errors import ProviderRefused
from workers.base.provider.streaming import patiently

WORDS = tuple(
    "the answer to this question is found where a careful reader looks twice and then once more because every "  # noqa: SIM905 — a sentence is easier to read than a list of its words
    "honest worker in the bullpen says what it knows and nothing else while the manager listens for silence".split()
)
ABLE: tuple[Capability, ...] = ("chat", "stream", "prefill")
PIECE = 8
"""Words in one piece of text when no speed is set."""

NotNegative = Annotated[float, Field(ge=0)]


class LogNormal(ConfigModel):
    median: NotNegative
    sigma: NotNegative = 0.5

    def draw(self, rng: random.Random) -> float:
        return self.median * rng.lognormvariate(0.0, self.sigma)


class Between(ConfigModel):
    """A whole number, each as likely as the next."""

    min: Annotated[int, Field(ge=1)]
    max: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError("min should not be larger than max")
        return self

    def draw(self, rng: random.Random) -> float:
        return rng.randint(self.min, self.max)


class Latency(ConfigModel):
    """Milliseconds from start to end, either always the same (a plain number will do) or drawn."""

    fixed: NotNegative | None = None
    lognormal: LogNormal | None = None

    @model_validator(mode="before")
    @classmethod
    def _plain_number(cls, value: Any) -> Any:
        return {"fixed": value} if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.fixed is None) == (self.lognormal is None):
            raise ValueError("give either fixed or lognormal")
        return self

    def draw(self, rng: random.Random) -> float:
        return self.fixed if self.fixed is not None else self.lognormal.draw(rng) if self.lognormal else 0.0


class ConfidenceSpread(ConfigModel):
    mean: Annotated[float, Field(ge=0, le=1)] = 0.8
    sd: NotNegative = 0.1

    def draw(self, rng: random.Random) -> float:
        return min(1.0, max(0.0, rng.gauss(self.mean, self.sd)))


class SimulatedConfig(BackendConfig):
    models: tuple[ModelConfig, ...] = (ModelConfig(name="simulated"),)
    max_concurrency: Annotated[int, Field(ge=1)] = 64
    seed: int = 0
    latency_ms: Latency = Latency(fixed=50)
    ttft_ms: NotNegative = 0.0
    """Milliseconds of the latency that pass before the first word."""
    tokens_per_second: Annotated[float, Field(gt=0)] | None = None
    """When set, words come at this speed after `ttft_ms`, and `latency_ms` does not count."""
    output_tokens: Annotated[int, Field(ge=1)] | Between | LogNormal = 32
    error_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    confidence: ConfidenceSpread = ConfidenceSpread()
    price: Price | None = None
    """Of every model that has none of its own. US dollars per million tokens."""
    text: Literal["deterministic"] = "deterministic"
    story: str = ""
    """When set, every answer is this text, and `output_tokens` does not count."""
    hang_after_tokens: Annotated[int, Field(ge=0)] | None = None
    """After so many words of its own nothing more ever comes; a shorter answer ends as usual."""
    local: bool = True
    """False: act like a provider that sends bills."""


class SimulatedBackend(Backend[SimulatedConfig]):
    name = "simulated"
    config_class = SimulatedConfig
    simulated = True

    def __init__(self, config: SimulatedConfig) -> None:
        super().__init__(config)
        self._served = 0

    @classmethod
    async def available(cls, config: SimulatedConfig) -> Availability:
        return Availability.yes("always")

    async def start(self, report: Report) -> None:
        """There is nothing to load."""

    def models(self) -> tuple[ModelCard, ...]:
        return tuple(self._card(model) for model in self.config.models)

    def _card(self, model: ModelConfig) -> ModelCard:
        """A model can do what it is said to do; one of which nothing is said can do all."""
        card = model.card(local=self.config.local)
        able = card.capabilities if "capabilities" in model.model_fields_set else ABLE
        return card.model_copy(update={"capabilities": able, "price": card.price or self.config.price})

    async def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        self._served += 1
        chance = random.Random(f"{self.config.seed}/{self._served}")  # noqa: S311 — a simulation, to be repeated
        if chance.random() < self.config.error_rate:
            raise ProviderRefused(ErrorCode.UPSTREAM_ERROR, "simulated failure")
        words, reason = self._words(job)
        asked, told = sum(_count(message.text) for message in job.request.conversation), 0

        async def ask() -> AsyncIterator[list[str]]:
            return self._spoken(words, chance)

        def take(piece: list[str]) -> Delta:
            nonlocal told
            told += len(piece)
            return Delta(text="".join(piece), tokens=len(piece), usage=Usage(asked, told))

        async with aclosing(patiently(ask, take, self.patience(job))) as deltas:
            async for delta in deltas:
                yield delta
        yield Done(
            finish_reason=reason,
            prompt_tokens=asked,
            completion_tokens=len(words),
            confidence=self.config.confidence.draw(chance),
        )

    async def _spoken(self, words: list[str], chance: random.Random) -> AsyncIterator[list[str]]:
        """The words in pieces, each at its time; where it is told to hang, nothing more and no end."""
        hangs = self.config.hang_after_tokens is not None and self.config.hang_after_tokens <= len(words)
        for pause, piece in self._paced(words[: self.config.hang_after_tokens] if hangs else words, chance):
            await asyncio.sleep(pause)
            if piece:
                yield piece
        if hangs:
            await asyncio.Event().wait()

    def _paced(self, words: list[str], chance: random.Random) -> Iterator[tuple[float, list[str]]]:
        """The words in pieces, each with the seconds to wait before it."""
        config = self.config
        latency = config.latency_ms.draw(chance) / 1000
        ttft = config.ttft_ms / 1000
        yield ttft, []
        if config.tokens_per_second is not None:
            yield from ((1 / config.tokens_per_second, [word]) for word in words)
        else:
            yield from ((0, words[at : at + PIECE]) for at in range(0, len(words), PIECE))
            yield max(0.0, latency - ttft), []

    def _words(self, job: Job) -> tuple[list[str], FinishReason]:
        """What is left of the answer after the job's prefix, word by word, and why it ends there.

        Asked to go on in words, it obeys: the end of what was said, then the rest.
        """
        cut_off = Interrupted.of(job.request)
        whole = _cut(self._whole(cut_off.question if cut_off else job.request.question), job.request.stops)
        words = [*_split(cut_off.anchor), *_after(cut_off.begun, whole)] if cut_off else whole
        words = _after(job.prefix, words)
        if job.max_tokens is not None and job.max_tokens < len(words):
            return words[: job.max_tokens], "length"
        return words, "stop"

    def _whole(self, question: str) -> list[str]:
        """The words for this question, always the same; every word but the first brings its own space."""
        if self.config.story:
            return _split(self.config.story)
        rng = random.Random(f"{self.config.seed}/{question}")  # noqa: S311 — the same words every time
        wanted = self.config.output_tokens
        count = wanted if isinstance(wanted, int) else max(1, round(wanted.draw(rng)))
        first, *rest = rng.choices(WORDS, k=count)
        return [first, *(f" {word}" for word in rest)]

    async def health(self) -> None:
        """Always well."""


def _cut(words: list[str], stops: tuple[str, ...]) -> list[str]:
    """The words before the first stop sequence."""
    text = "".join(words)
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    if not ends:
        return words
    return _split(text[: min(ends)])


def _split(text: str) -> list[str]:
    """Its words, each with the blanks before it."""
    return re.findall(r"\s*\S+|\s+\Z", text)


def _after(prefix: str, words: list[str]) -> list[str]:
    """What comes after the start of the answer, wherever it was cut; of another answer's, after as many words."""
    whole = "".join(words)
    if whole.startswith(prefix):
        return _split(whole[len(prefix) :])
    first, *rest = words[_count(prefix) :] or [""]
    return [first.lstrip() if prefix[-1].isspace() else first, *rest] if first else []


def _count(text: str) -> int:
    return len(text.split())
