"""A worker without a model, for tests, demos and benchmarks. Every answer says that it is simulated.

The words of an answer depend only on the seed and the prompt (`script.py`): the same question always gets the same
text, and a continuation can be checked word by word. Tools are called, and JSON is written, by their schemas. Random
figures (latency, failure, confidence) come from the seed and a counter, so that a run can be repeated.
"""

import asyncio
import math
import random
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from itertools import groupby
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from config.loader import ConfigModel
from contracts import BullpenError, Capability, ErrorCode, ModelCard, Price
from workers.base import (
    Availability,
    Backend,
    BackendConfig,
    Delta,
    Done,
    Embedded,
    EmbeddingJob,
    Job,
    ModelConfig,
    Report,
    Usage,
)
from workers.base.provider.embeddings import embedding
from workers.base.provider.errors import ProviderRefused
from workers.base.provider.parameters import STEERS, asked_in_vain
from workers.base.provider.streaming import patiently
from workers.simulated.schema import NoExample
from workers.simulated.script import Script, Unit, count, delta_of, question_of, script_of, sentence, split

ABLE: tuple[Capability, ...] = ("chat", "stream", "prefill", "tools", "json", "logprobs", "reasoning", "embed")
DIMENSIONS = 256
"""Numbers of a vector when the request does not say."""
PIECE = 8
"""Tokens in one piece when no speed is set."""

NotNegative = Annotated[float, Field(ge=0)]


class LogNormal(ConfigModel):
    median: NotNegative
    sigma: NotNegative = 0.5

    def draw(self, rng: random.Random) -> float:
        return self.median * rng.lognormvariate(0.0, self.sigma)


class Between(ConfigModel):
    """A whole number within the bounds; each is equally likely."""

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
    """Milliseconds from start to end of an answer: always the same (a plain number is enough) or drawn."""

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
    """Words per second after `ttft_ms`. When set, `latency_ms` does not count."""
    output_tokens: Annotated[int, Field(ge=1)] | Between | LogNormal = 32
    error_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    confidence: ConfidenceSpread = ConfidenceSpread()
    price: Price | None = None
    """Price of models without a price of their own, in US dollars per million tokens."""
    text: Literal["deterministic"] = "deterministic"
    story: str = ""
    """Text of every answer. When set, `output_tokens` does not count."""
    hang_after_tokens: Annotated[int, Field(ge=0)] | None = None
    """New tokens after which an answer stops for ever; a shorter answer ends as usual."""
    local: bool = True
    """False: act like a provider that sends bills."""


class SimulatedBackend(Backend[SimulatedConfig]):
    name = "simulated"
    config_class = SimulatedConfig
    simulated = True
    takes = STEERS

    def __init__(self, config: SimulatedConfig) -> None:
        super().__init__(config)
        self._served = 0

    @classmethod
    async def available(cls, config: SimulatedConfig) -> Availability:
        return Availability.yes("always")

    async def start(self, report: Report) -> None:
        """Does nothing: there is no model to load."""

    def models(self) -> tuple[ModelCard, ...]:
        return tuple(self._card(model) for model in self.config.models)

    def _card(self, model: ModelConfig) -> ModelCard:
        """The model's card: the capabilities in its config, or all of them if the config lists none."""
        card = model.card(local=self.config.local)
        able = card.capabilities if "capabilities" in model.model_fields_set else ABLE
        return card.model_copy(update={"capabilities": able, "price": card.price or self.config.price})

    async def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        chance = self._chance()
        script = self._script(job)
        asked, told = sum(count(message.text) for message in job.request.conversation), 0

        async def ask() -> AsyncIterator[list[Unit]]:
            return self._spoken(script.units, chance)

        def take(piece: list[Unit]) -> Delta:
            nonlocal told
            told += len(piece)
            return replace(delta_of(piece, job.request, self.config.seed), usage=Usage(asked, told))

        async with aclosing(patiently(ask, take, self.patience(job))) as deltas:
            async for delta in deltas:
                yield delta
        yield Done(
            finish_reason=script.finish,
            prompt_tokens=asked,
            completion_tokens=len(script.units),
            tool_calls=script.calls,
            confidence=self.config.confidence.draw(chance),
            reasoning_tokens=script.thoughts or None,
            unsupported=() if _may_think(job) else asked_in_vain(job.request, {"reasoning_effort"}),
        )

    async def embed(self, job: EmbeddingJob) -> AsyncGenerator[Delta | Embedded, None]:
        """Vectors of length 1; the same text always gets the same vector."""
        chance = self._chance()
        latency = self.config.latency_ms.draw(chance) / 1000

        async def ask() -> Embedded:
            await asyncio.sleep(latency)
            if self.config.hang_after_tokens is not None:
                await asyncio.Event().wait()
            size, texts = job.request.dimensions or DIMENSIONS, job.request.texts
            vectors = [_vector(f"{self.config.seed}/{text}", size) for text in texts]
            return Embedded(vectors, sum(map(count, texts)))

        async with aclosing(embedding(ask, lambda made: made, self.patience(job))) as pieces:
            async for piece in pieces:
                yield piece

    def _chance(self) -> random.Random:
        """The random source of the next answer. Raises `BullpenError` when the answer is to fail."""
        self._served += 1
        chance = random.Random(f"{self.config.seed}/{self._served}")  # noqa: S311 — a simulation, to be repeated
        if chance.random() < self.config.error_rate:
            raise ProviderRefused(ErrorCode.UPSTREAM_ERROR, "simulated failure")
        return chance

    def _script(self, job: Job) -> Script:
        """The script of an answer. Raises `BullpenError` when there is none for the wanted schema."""
        try:
            return script_of(job, self.config.seed, self._plain(question_of(job.request)), may_think=_may_think(job))
        except NoExample:
            why = "no example of this JSON schema is found here"
            raise BullpenError(ErrorCode.INVALID_REQUEST, why, field="response_format", fault="model") from None

    def _plain(self, question: str) -> list[str]:
        """The words of a plain answer to this question, always the same."""
        if self.config.story:
            return split(self.config.story)
        wanted = self.config.output_tokens
        if not isinstance(wanted, int):
            rng = random.Random(f"{self.config.seed}/length/{question}")  # noqa: S311 — always the same
            wanted = max(1, round(wanted.draw(rng)))
        return sentence(f"{self.config.seed}/{question}", wanted)

    async def _spoken(self, units: list[Unit], chance: random.Random) -> AsyncIterator[list[Unit]]:
        """The tokens in pieces, each at its time. If the answer is to hang, no end follows."""
        hangs = self.config.hang_after_tokens is not None and self.config.hang_after_tokens <= len(units)
        for pause, piece in self._paced(units[: self.config.hang_after_tokens] if hangs else units, chance):
            await asyncio.sleep(pause)
            if piece:
                yield piece
        if hangs:
            await asyncio.Event().wait()

    def _paced(self, units: list[Unit], chance: random.Random) -> Iterator[tuple[float, list[Unit]]]:
        """The tokens in pieces, each with the seconds to wait before it."""
        config = self.config
        latency = config.latency_ms.draw(chance) / 1000
        ttft = config.ttft_ms / 1000
        yield ttft, []
        if config.tokens_per_second is not None:
            yield from ((1 / config.tokens_per_second, [unit]) for unit in units)
        else:
            yield from ((0, piece) for piece in _pieces(units))
            yield max(0.0, latency - ttft), []

    async def health(self) -> None:
        """Returns at once: the backend is always well."""


def _vector(seed: str, size: int) -> list[float]:
    drawn = random.Random(seed).randbytes(4 * size)  # noqa: S311 — always the same
    numbers = array("i", drawn)
    length = math.hypot(*numbers)
    return [number / length for number in numbers]


def _pieces(units: list[Unit]) -> Iterator[list[Unit]]:
    """Pieces of up to `PIECE` tokens of one kind."""
    for _, group in groupby(units, key=lambda unit: unit.kind):
        alike = list(group)
        yield from (alike[at : at + PIECE] for at in range(0, len(alike), PIECE))


def _may_think(job: Job) -> bool:
    return "reasoning" in job.model.capabilities
