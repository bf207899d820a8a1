"""What a backend must offer, and nothing more.

A backend knows one kind of model server (or one model) and nothing of NATS, Managers or books. It turns a `Job` into
pieces of text; the runtime around it (`workers/base/runtime/worker.py`) does the rest. A backend that cannot answer
raises `BullpenError` with the code that says what helps: ask another worker, fix the key, fix the request, or wait.
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
    """The most tokens to generate: the request's limit, within the config's; None: the model's own limit."""
    prefix: str = ""
    """The start of the answer, which another worker has delivered already: continue after it, do not repeat it.

    Only models with the capability `prefill` get one; `max_tokens` is then the number of tokens that remain.
    """
    silence_ok: SilenceOk | None = None
    """How long the provider may be silent, as the claim tells the Manager. None: as the backend's config says."""

    def check(self, text: str, done: "Done") -> None:
        """Raises `BullpenError(empty_answer)` when the answer has nothing for the caller."""
        if done.tool_calls or done.refusal or self.prefix.strip():
            return
        wanted = self.max_tokens if self.max_tokens == self.request.max_tokens else None
        may_stop = bool(self.request.stop)
        written = done.completion_tokens
        if error := why_empty(text, done.finish_reason, wanted=wanted, written=written, may_stop=may_stop):
            raise error


@dataclass(frozen=True, slots=True)
class EmbeddingJob:
    """Texts that one model has to turn into vectors."""

    request: EmbeddingRequest
    model: ModelCard
    silence_ok: SilenceOk | None = None
    """How long the provider may be silent. None: as the backend's config says."""

    @property
    def max_tokens(self) -> int:
        """0: a vector has no generated tokens."""
        return 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counts them. None: the provider did not report them, and no guess takes their place."""

    prompt_tokens: int | None = None
    """Tokens of the prompt, those in the provider's cache included."""
    completion_tokens: int | None = None
    """Tokens of the answer, those of thoughts included."""
    cached_tokens: int | None = None
    """Those of `prompt_tokens` that came from the cache."""
    reasoning_tokens: int | None = None
    """Those of `completion_tokens` that were thoughts."""
    cache_write_tokens: int | None = None
    """Those of `prompt_tokens` that were written to the cache, where the provider bills them separately."""

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

    A piece without text and tokens is a sign of life: the model reads the prompt, or it thinks (then with `reasoning`,
    if the provider shows it). It is no token.
    """

    text: str
    tokens: int = 1
    logprobs: tuple[float, ...] = ()
    """Natural logarithms of the chosen tokens' probabilities, if the backend has them."""
    usage: Usage | None = None
    """The usage so far, if the provider reports it during the answer: the cost of a cancelled answer."""
    reasoning: str = ""
    """Text that the model thought; it is not part of the answer, and no token."""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    """Pieces of tool calls as they come. `Done.tool_calls` has to hold the whole calls, in the order of their `index`.
    A backend may leave this empty and report calls only there.
    """
    token_logprobs: tuple[TokenLogprob, ...] = ()
    """The tokens of `logprobs` in words, for a request that asks for them."""

    @property
    def answers(self) -> bool:
        """Whether the piece has a part of the answer, and not only a thought or a sign of life."""
        return bool(self.text or self.tokens or self.tool_calls)


@dataclass(frozen=True, slots=True)
class Done:
    """The end of the answer, with the provider's token counts as in `Usage`. A stream without it was cut off."""

    finish_reason: FinishReason
    prompt_tokens: int | None
    completion_tokens: int | None
    tool_calls: tuple[JsonObject, ...] = ()
    confidence: float | None = None
    """Set only when the backend knows the confidence better than the runtime does (a simulated backend does)."""
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    unsupported: tuple[str, ...] = ()
    """Parameters of the request that this model does not support and that were left out."""
    refusal: str | None = None
    """Why the model declined, in its own words, if the provider reports that separately; the text has them too."""
    extra: JsonObject | None = None
    """Data that this kind of backend needs when this answer comes back as an earlier turn, under the backend's name;
    opaque to others.
    """

    @property
    def usage(self) -> Usage:
        return Usage(**{name: getattr(self, name) for name in COUNTS})


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of all texts of a job, in the texts' order, as long as the model or the request says."""

    vectors: Sequence[Sequence[float]]
    prompt_tokens: int | None = None
    """Tokens of the texts, as the provider counts them. None: the provider did not report them."""

    @property
    def usage(self) -> "Usage | None":
        """The usage of the texts. None: the provider did not report it."""
        return None if self.prompt_tokens is None else Usage(self.prompt_tokens, 0)


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer."""

    text: str
    done: Done
    logprobs: tuple[float, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    """The pieces of tool calls that came during the answer."""
    token_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can run on this machine now; if not, why, and what to do about it."""

    available: bool
    reason: str
    cure: str = ""
    is_broken: bool = False
    """Whether the backend's code or config is wrong, rather than just not set up."""

    @classmethod
    def yes(cls, reason: str) -> "Availability":
        return cls(available=True, reason=reason)

    @classmethod
    def no(cls, reason: str, cure: str, *, is_broken: bool = False) -> "Availability":
        return cls(available=False, reason=reason, cure=cure, is_broken=is_broken)


C = TypeVar("C", bound=BackendConfig)
Report = Callable[[str], None]
"""Reports how far a long step is ("pulling llama3.2: 41 %"); the heartbeat's `reason` shows it."""


class Backend(ABC, Generic[C]):
    """One kind of model server. Life: `available` → `start` → many `stream` and `health` → `close`."""

    name: ClassVar[str]
    """The folder's name; part of `infer.<name>`."""
    config_class: ClassVar[type[BackendConfig]] = BackendConfig
    simulated: ClassVar[bool] = False
    """True when no model is asked; every answer then says so."""

    price_list: ClassVar[str | None] = None
    """The provider whose prices in the public table apply, when requests go to the provider itself."""

    takes: ClassVar[frozenset[Parameter]] = frozenset({"temperature", "top_p", "seed"})
    """The parameters that this backend uses, or reports in `Done.unsupported`. When a request sets other parameters,
    the runtime lists them in `unsupported`.
    """

    key_variable: ClassVar[str | None] = None
    """The environment variable with the key of the provider; None: the backend needs no key."""

    changed = False
    """True when a request has changed what `models` returns; the runtime then sends a heartbeat at once."""

    def __init__(self, config: C) -> None:
        self.config = config

    def pays(self, *, own: bool) -> str | None:
        """The provider whose public prices apply. `own`: requests go to the provider itself."""
        return self.config.price_list or (self.price_list if own else None)

    @classmethod
    async def offered(cls, target: str, report: Report) -> JsonObject | None:
        """The config of a worker for what `bullpen add` names: a file or an address.

        None: it is not for this kind of backend. Empty: the backend's own config serves it. Raises `BullpenError` when
        it is for this kind of backend but cannot be served.
        """
        return None

    @classmethod
    @abstractmethod
    async def available(cls, config: C) -> Availability:
        """Whether this backend can run here now. Takes under 2 s, and never raises."""

    @abstractmethod
    async def start(self, report: Report) -> None:
        """Makes the models ready: loads, connects, pulls. Raises `BullpenError` when that fails."""

    @abstractmethod
    def models(self) -> tuple[ModelCard, ...]:
        """The models served, known after `start`; `health` may change them.

        A model that should be served but cannot be is listed with `out_of_service`; the others are served all the same.
        """

    @abstractmethod
    def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        """Streams the answer: `Delta`s, then exactly one `Done`.

        Closing the generator (or cancelling the task that iterates over it) aborts the provider's call at once. Raises
        `BullpenError`.
        """

    def embed(self, job: EmbeddingJob) -> AsyncGenerator[Delta | Embedded, None]:
        """Streams the vectors of texts: any number of signs of life (`Delta("", 0)`), then exactly one `Embedded`.

        Only models with the capability `embed` are asked. Closing the generator aborts the call, and it raises
        `BullpenError`, as with `stream`.
        """
        raise cannot_embed(job.model.model_id)

    def configured(self, model: str) -> ModelConfig:
        """The config of a model; an empty one for a model that the config does not name."""
        return next((one for one in self.config.models if one.name == model), ModelConfig(name=model))

    def has_to_load(self, model: str) -> bool:
        """Whether the server has to load this model before it can answer, as far as is known now. Must be quick."""
        return False

    def silence_ok(self, model: str, usual: Silence = NOTHING_LEARNED, prompt_tokens: int = 0) -> SilenceOk:
        """How long an answer of this model may be silent. `usual`: silences learned from earlier answers.
        `prompt_tokens`: tokens to be read.
        """
        loads = self.has_to_load(model)
        return silence_ok(self.config, self.configured(model), loads=loads, usual=usual, prompt_tokens=prompt_tokens)

    def patience(self, job: Job | EmbeddingJob) -> SilenceOk:
        """How long the answer to this job may be silent."""
        return job.silence_ok or self.silence_ok(job.model.model_id, prompt_tokens=prompt_tokens(job.request))

    async def infer(self, job: Job) -> Completion:
        """The whole answer. Raises `BullpenError`, also when the answer is empty, or was cut off and has no `Done`."""
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
        """The vectors, without signs of life. Raises `BullpenError`."""
        async with aclosing(self.embed(job)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Embedded):
                    return piece
        raise truncated()

    def adopt(self, config: C) -> bool:
        """Takes over a changed config without a restart. False: the runtime has to make a new object of this class."""
        return False

    async def memory_needed(self) -> int | None:
        """About how many bytes `start` needs in this process. None: hardly any, or unknown. Never raises.

        From this the runtime also estimates how long `start` may block the whole process.
        """
        return None

    @abstractmethod
    async def health(self) -> None:
        """Returns when the backend can answer now. Raises `BullpenError` with the reason when it cannot."""

    async def close(self) -> None:
        """Frees all resources. Called once, after the last `stream` has ended."""


def out_of_service(card: ModelCard, why: str) -> ModelCard:
    """The card of a configured model that is not available: it shows the reason, and no requests go to it until it is
    back.
    """
    return card.model_copy(update={"capabilities": (), "trouble": why})


def cannot_embed(model: str) -> BullpenError:
    """The error of a model that cannot give vectors."""
    return BullpenError(ErrorCode.INVALID_REQUEST, f"{model} cannot do this: embed", field="model", fault="model")


def truncated() -> BullpenError:
    """The error of a stream that ended without a finish reason: half an answer is not an answer."""
    why = "the provider's stream ended without a finish reason"
    return BullpenError(ErrorCode.UPSTREAM_ERROR, why, fault="model", outcome=Outcome.TRUNCATED)
