"""What a backend must offer, and nothing more.

A backend knows one kind of model server (or one model) and nothing of NATS, Managers or books. It
turns a `Job` into pieces of text; the runtime around it (`workers/base/runtime/worker.py`) does the rest.
A backend that cannot answer raises `BullpenError` with the code that says what the mesh can do about
it: ask another worker, fix the key, fix the request, or wait.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import ClassVar, Generic, TypeVar

from contracts import (
    BullpenError,
    EmbeddingRequest,
    ErrorCode,
    FinishReason,
    InferenceRequest,
    JsonObject,
    ModelCard,
    Outcome,
    Price,
    SilenceOk,
    TokenLogprob,
    ToolCallDelta,
)
from contracts.tokens import prompt_tokens
from workers.base.interface.config import BackendConfig, ModelConfig, Parameter
from workers.base.interface.empty_answer import why_empty
from workers.base.interface.silence import NOTHING_LEARNED, Silence, silence_ok


@dataclass(frozen=True, slots=True)
class Job:
    """One question for one model."""

    request: InferenceRequest
    model: ModelCard
    max_tokens: int | None
    """The most tokens to generate: the request's wish within the config's limit; None: the model's own."""
    prefix: str = ""
    """The start of the answer, already delivered by another worker: go on after it, do not repeat it.

    Only models with the capability `prefill` are given one; `max_tokens` is then what is left.
    """
    silence_ok: SilenceOk | None = None
    """How long the provider may be silent, as the claim tells the Manager. None: as the backend's config says."""

    def check(self, text: str, done: "Done") -> None:
        """Raises `BullpenError(empty_answer)` when the text and the end of an answer bring nothing to the caller."""
        if done.tool_calls or done.refusal or self.prefix.strip():
            return
        wanted = self.max_tokens if self.max_tokens == self.request.max_tokens else None
        may_stop = bool(self.request.stop)
        written = done.completion_tokens
        if error := why_empty(text, done.finish_reason, wanted=wanted, written=written, may_stop=may_stop):
            raise error


@dataclass(frozen=True, slots=True)
class EmbeddingJob:
    """Texts whose vectors are wanted of one model."""

    request: EmbeddingRequest
    model: ModelCard
    silence_ok: SilenceOk | None = None
    """As of a `Job`."""

    @property
    def max_tokens(self) -> int:
        """Nothing is generated."""
        return 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counts them. None: it did not tell, and nobody guesses."""

    prompt_tokens: int | None = None
    """Those it had in its cache included."""
    completion_tokens: int | None = None
    """Those that were thought and not said included."""
    cached_tokens: int | None = None
    """Among the prompt's."""
    reasoning_tokens: int | None = None
    """Among the completion's."""
    cache_write_tokens: int | None = None
    """Among the prompt's, where they are billed apart."""

    def cost(self, price: Price | None) -> Decimal | None:
        """US dollars, exactly; None when the price or the usage is unknown."""
        if price is None or self.prompt_tokens is None or self.completion_tokens is None:
            return None
        written = self.cache_write_tokens or 0
        return price.cost(self.prompt_tokens, self.completion_tokens, self.cached_tokens or 0, written)


COUNTS = tuple(field.name for field in fields(Usage))


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer, as the model produced it.

    One without text and tokens says that something moves: the prompt is read, or the model thinks (then with its
    `reasoning`, where the provider shows it). It is no token.
    """

    text: str
    tokens: int = 1
    logprobs: tuple[float, ...] = ()
    """Natural logarithms of the chosen tokens' probabilities, where the backend has them."""
    usage: Usage | None = None
    """What was used until here, where the provider tells it on the way: what a cancelled answer has cost."""
    reasoning: str = ""
    """Text that the model thought; it is no part of the answer, and no token."""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    """Pieces of calls as they come. What they join to has to be in `Done.tool_calls`, in the order of their `index`; a
    backend that tells calls only there is fine."""
    token_logprobs: tuple[TokenLogprob, ...] = ()
    """The tokens of `logprobs` in words, for a request that asks for them."""

    @property
    def answers(self) -> bool:
        """Whether some of the answer is in it, and not only a thought or a sign of life."""
        return bool(self.text or self.tokens or self.tool_calls)


@dataclass(frozen=True, slots=True)
class Done:
    """The end of the answer, with the provider's own token counts as in `Usage`. A stream without it was cut off."""

    finish_reason: FinishReason
    prompt_tokens: int | None
    completion_tokens: int | None
    tool_calls: tuple[JsonObject, ...] = ()
    confidence: float | None = None
    """Only when the backend knows better than the runtime (a simulated one does)."""
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    unsupported: tuple[str, ...] = ()
    """Parameters that the request set and that had to be left out for this model."""
    refusal: str | None = None
    """Why the model declined, in its own words, where the provider tells that apart; they are in the text as well."""
    extra: JsonObject | None = None
    """What this kind of backend wants back with this answer as an earlier turn, under the backend's name; opaque."""

    @property
    def usage(self) -> Usage:
        return Usage(**{name: getattr(self, name) for name in COUNTS})


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of all texts of a job, in the order of the texts, as long as the model or the request says."""

    vectors: Sequence[Sequence[float]]
    prompt_tokens: int | None = None
    """As the provider counts. None: it did not tell."""

    @property
    def usage(self) -> "Usage | None":
        """None: nothing was told."""
        return None if self.prompt_tokens is None else Usage(self.prompt_tokens, 0)


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer."""

    text: str
    done: Done
    logprobs: tuple[float, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    """The pieces of calls that came on the way."""
    token_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can run on this machine now; if not, why, and what to do about it."""

    available: bool
    reason: str
    cure: str = ""
    is_broken: bool = False
    """Its code or its config is wrong, which nobody wanted."""

    @classmethod
    def yes(cls, reason: str) -> "Availability":
        return cls(available=True, reason=reason)

    @classmethod
    def no(cls, reason: str, cure: str, *, is_broken: bool = False) -> "Availability":
        return cls(available=False, reason=reason, cure=cure, is_broken=is_broken)


C = TypeVar("C", bound=BackendConfig)
Report = Callable[[str], None]
"""Tells people how far a long step is ("pulling llama3.2: 41 %"); shown in the heartbeat's `reason`."""


class Backend(ABC, Generic[C]):
    """One kind of model server. Life: `available` → `start` → many `stream` and `health` → `close`."""

    name: ClassVar[str]
    """The folder's name; part of `infer.<name>`."""
    config_class: ClassVar[type[BackendConfig]] = BackendConfig
    simulated: ClassVar[bool] = False
    """True when no model is asked; every answer then says so."""

    price_list: ClassVar[str | None] = None
    """The provider in the table of public prices whose prices are this one's, when it is asked itself."""

    takes: ClassVar[frozenset[Parameter]] = frozenset({"temperature", "top_p", "seed"})
    """What it heeds, or tells of in `Done.unsupported`, of the parameters that steer an answer. The runtime names the
    others in `unsupported` when a request sets them."""

    key_variable: ClassVar[str | None] = None
    """The environment variable with the key of its provider; None: it takes none."""

    changed = False
    """True when `models` tells something new because of what a request met; the runtime tells it at once."""

    def __init__(self, config: C) -> None:
        self.config = config

    def pays(self, *, own: bool) -> str | None:
        """Whose public prices count; `own`: it is the provider itself that is asked."""
        return self.config.price_list or (self.price_list if own else None)

    @classmethod
    async def offered(cls, target: str, report: Report) -> JsonObject | None:
        """The config of a worker that serves what `bullpen add` names: a file or an address.

        None: it is not of this backend's kind. Empty: the backend's own config serves it, now that it is there.
        Raises `BullpenError` for a thing of its kind that cannot be served.
        """
        return None

    @classmethod
    @abstractmethod
    async def available(cls, config: C) -> Availability:
        """Whether this backend can run here now. Quick (under 2 s), and never raises."""

    @abstractmethod
    async def start(self, report: Report) -> None:
        """Makes the models ready: load, connect, pull. Raises `BullpenError` when that cannot be."""

    @abstractmethod
    def models(self) -> tuple[ModelCard, ...]:
        """The models served, known after `start`; what `health` finds out may change them.

        One that should be served and cannot be is told with `out_of_service`: the others are served all the same.
        """

    @abstractmethod
    def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        """The answer as it is made: `Delta`s, then exactly one `Done`.

        Closing the generator (or cancelling the task that iterates) aborts the provider's call at once.
        Raises `BullpenError`.
        """

    def embed(self, job: EmbeddingJob) -> AsyncGenerator[Delta | Embedded, None]:
        """The vectors of texts: exactly one `Embedded`; before it, signs of life (`Delta("", 0)`).

        Only models with the capability `embed` are asked. Leaving it aborts the call, and it raises, as `stream` does.
        """
        raise cannot_embed(job.model.model_id)

    def configured(self, model: str) -> ModelConfig:
        """What the config says of a model; of one that it does not name, nothing."""
        return next((one for one in self.config.models if one.name == model), ModelConfig(name=model))

    def has_to_load(self, model: str) -> bool:
        """Whether the server has to load this model before it can answer, as far as is known now. Quick."""
        return False

    def silence_ok(self, model: str, usual: Silence = NOTHING_LEARNED, prompt_tokens: int = 0) -> SilenceOk:
        """How long an answer of this model may be silent; `usual`: what was learned of it; the prompt's tokens."""
        loads = self.has_to_load(model)
        return silence_ok(self.config, self.configured(model), loads=loads, usual=usual, prompt_tokens=prompt_tokens)

    def patience(self, job: Job | EmbeddingJob) -> SilenceOk:
        """How long this answer may be silent."""
        return job.silence_ok or self.silence_ok(job.model.model_id, prompt_tokens=prompt_tokens(job.request))

    async def infer(self, job: Job) -> Completion:
        """The whole answer. Raises `BullpenError`, also for one that is empty, or was cut off: it has no `Done`."""
        came: list[Delta] = []
        async with aclosing(self.stream(job)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Done):
                    job.check(whole := "".join(delta.text for delta in came), piece)
                    return Completion(
                        whole,
                        piece,
                        tuple(value for delta in came for value in delta.logprobs),
                        "".join(delta.reasoning for delta in came),
                        tuple(call for delta in came for call in delta.tool_calls),
                        tuple(token for delta in came for token in delta.token_logprobs),
                    )
                came.append(piece)
        raise truncated()

    async def vectors(self, job: EmbeddingJob) -> Embedded:
        """The vectors alone. Raises `BullpenError`."""
        async with aclosing(self.embed(job)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Embedded):
                    return piece
        raise truncated()

    def adopt(self, config: C) -> bool:
        """Takes over a changed config while it runs; False: a new object of this class has to be made for it."""
        return False

    async def memory_needed(self) -> int | None:
        """Bytes that `start` will take in this process, about. None: hardly any, or unknown. Never raises.

        It also says how long `start` may stop the whole process, which is waited for.
        """
        return None

    @abstractmethod
    async def health(self) -> None:
        """Returns when the backend can answer now; raises `BullpenError` saying why when it cannot."""

    async def close(self) -> None:
        """Lets go of everything. Called once, after the last `stream` ended."""


def out_of_service(card: ModelCard, why: str) -> ModelCard:
    """A model that is configured and not there: told with the reason, and offered for nothing until it is back."""
    return card.model_copy(update={"capabilities": (), "trouble": why})


def cannot_embed(model: str) -> BullpenError:
    """The error of a model that has no vectors to give."""
    return BullpenError(ErrorCode.INVALID_REQUEST, f"{model} cannot do this: embed", field="model", fault="model")


def truncated() -> BullpenError:
    """The error of a stream that ended without saying why: half an answer is not an answer."""
    why = "the provider's stream ended without a finish reason"
    return BullpenError(ErrorCode.UPSTREAM_ERROR, why, fault="model", outcome=Outcome.TRUNCATED)
