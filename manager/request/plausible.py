"""Which of a worker's words count: they concern the attempt it was given, and its figures can be true. Pure.

A worker speaks of itself and of its attempt only: who answered, with which model, for which request is known here and
not asked. Its figures are held against what was asked and against the price that it announced. A figure that cannot be
true is taken for unknown; an answer that cannot do without it is no answer. So neither averages nor budgets nor books
learn from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

from contracts import (
    BullpenError,
    Claim,
    ErrorCode,
    ErrorReply,
    FinalResponse,
    ModelCard,
    PartialUsage,
    Piece,
    Price,
    Progress,
)
from contracts.embedding import why_unusable
from manager.request.events import Streamed, Unreadable, WorkerWord

HIDDEN_TOKENS = 16_384
"""Of a prompt, beside the caller's words: a template, the worker's own system text."""
WINDOWS = 4
"""An answer has no more tokens than so many of the context windows that its worker announced …"""
LEAST_MOST = 131_072
"""… or than this: a window may be announced too small."""
LONGER = 4
"""It may have so many times the `max_tokens` that were asked: some providers do not count what is thought."""
MARGIN_TOKENS = 4096
BYTES_PER_TOKEN = 16
"""More than any token has on average: what a model thought is no longer than so many bytes for each of its tokens."""
DEARER = 2
"""So many times what tokens and price make: some providers bill at double what is written to a cache for long."""
MARGIN_USD = Decimal("0.01")
HIGHEST_PRICE = Price.model_validate({"input_per_mtok": 2000, "output_per_mtok": 2000})
"""Where none is announced: more than any model costs."""
LATER_MS = 2000.0
"""A worker's clock and ours may differ by so much over one attempt."""

Word = TypeVar("Word", FinalResponse, PartialUsage)


@dataclass(frozen=True, slots=True)
class Given:
    """What a worker was given, and what is known of it."""

    request_id: str
    task_id: str
    number: int
    epoch: str
    backend: str
    worker_id: str
    card: ModelCard
    bytes_in: int
    """Of the request, with the start of the answer that was handed on."""
    max_tokens: int | None
    """Of the answer, where the caller said it."""
    logprobs: bool = False
    """Whether the caller asked for them."""
    texts: int | None = None
    """How many a vector is wanted of; None: words are wanted."""

    @property
    def known(self) -> dict[str, str]:
        """What a worker's answer says of these counts for nothing."""
        return {
            "task_id": self.task_id,
            "request_id": self.request_id,
            "backend": self.backend,
            "worker_id": self.worker_id,
        }

    @property
    def most_in(self) -> int:
        """Tokens: a prompt has no more of them than bytes."""
        return self.bytes_in + HIDDEN_TOKENS

    @property
    def most_out(self) -> int:
        most = max(LEAST_MOST, WINDOWS * self.card.context_window)
        return most if self.max_tokens is None else min(most, LONGER * self.max_tokens + MARGIN_TOKENS)


class Believed(NamedTuple):
    word: WorkerWord | None
    """None: it is not about the attempt."""
    refused: tuple[str, ...] = ()
    """The fields that cannot be true."""


def believed(word: WorkerWord, given: Given, elapsed_ms: float) -> Believed:
    """What is taken in of a worker's word. `elapsed_ms`: since it was asked."""
    if (foreign := _of_another(word, given)) is not None:
        return Believed(None, (foreign,))
    match word:
        case FinalResponse():
            return _answer(word, given, elapsed_ms)
        case ErrorReply() if word.usage is not None:
            usage, refused = _figures(word.usage, given)
            return Believed(word.model_copy(update={"usage": usage}) if refused else word, refused)
        case Progress() if word.tokens > given.most_out:
            return Believed(None, ("tokens",))
        case Streamed():
            return _streamed(word, given)
        case _:
            return Believed(word)


def _streamed(word: Streamed, given: Given) -> Believed:
    piece = word.piece
    if (piece.tokens or 0) > given.most_out:
        return Believed(None, ("tokens",))
    if (wrong := _too_much(piece, given)) is not None:
        return Believed(None, (wrong,))
    unasked = bool(piece.logprobs) and not given.logprobs
    return Believed(replace(word, piece=replace(piece, logprobs=())) if unasked else word)


def _too_much(told: Piece | FinalResponse, given: Given) -> str | None:
    """Which of thoughts and log-probabilities are more than any answer has."""
    if len(told.reasoning or "") > BYTES_PER_TOKEN * given.most_out:
        return "reasoning"
    return "logprobs" if len(told.logprobs or ()) > given.most_out else None


def _of_another(word: WorkerWord, given: Given) -> str | None:
    """The field that names another attempt than the one that was given; None: none does."""
    if not isinstance(word, Claim | FinalResponse | ErrorReply):
        return None
    if word.attempt not in (None, given.number):
        return "attempt"
    return "epoch" if word.epoch not in (None, given.epoch) else None


def _answer(answer: FinalResponse, given: Given, elapsed_ms: float) -> Believed:
    if answer.completion_tokens > given.most_out:
        return Believed(_no_answer("completion_tokens", answer.completion_tokens), ("completion_tokens",))
    if given.texts is None:
        answer = answer if answer.embeddings is None else answer.model_copy(update={"embeddings": None})
    elif why := why_unusable(answer.embeddings or (), given.texts):
        return Believed(_no_answer("embeddings", why), ("embeddings",))
    figures, refused = _figures(answer, given)
    unknown: dict[str, Any] = {
        "queue_ms": 0.0,
        "ttft_ms": None,
        "tokens_used": (figures.prompt_tokens or 0) + answer.completion_tokens,
    }
    latest = elapsed_ms + LATER_MS
    most = {"queue_ms": latest, "ttft_ms": latest, "tokens_used": given.most_in + given.most_out}
    wrong = tuple(name for name, limit in most.items() if (getattr(figures, name) or 0) > limit)
    if (too_much := _too_much(answer, given)) is not None:
        wrong, unknown = (*wrong, too_much), {**unknown, too_much: None}
    elif not given.logprobs:
        figures = figures.model_copy(update={"logprobs": None}) if figures.logprobs is not None else figures
    known = {**given.known, "model_id": _model(answer, given.card), **{name: unknown[name] for name in wrong}}
    return Believed(figures.model_copy(update=_differing(figures, known)), (*refused, *wrong))


def _differing(answer: FinalResponse, changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if getattr(answer, name) != value}


def _model(answer: FinalResponse, card: ModelCard) -> str:
    """A worker answers for the model it was asked for, by whatever name of it."""
    return answer.model_id if card.answers_to(answer.model_id) else card.model_id


def _no_answer(field: str, value: object) -> Unreadable:
    return Unreadable(BullpenError(ErrorCode.UPSTREAM_ERROR, f"the worker's answer cannot be true: {field} is {value}"))


def _figures(word: Word, given: Given) -> tuple[Word, tuple[str, ...]]:
    """Without those that cannot be true."""
    most: dict[str, float] = {
        "prompt_tokens": given.most_in,
        "completion_tokens": given.most_out,
        "cached_tokens": given.most_in,
        "cache_write_tokens": given.most_in,
        "reasoning_tokens": given.most_out,
    }
    refused: tuple[str, ...] = tuple(name for name, limit in most.items() if (getattr(word, name) or 0) > limit)
    left = word.model_copy(update=dict.fromkeys(refused)) if refused else word
    if left.cost_usd is not None and left.cost_usd > _most_usd(left, given):
        refused = (*refused, "cost_usd")
        left = left.model_copy(update={"cost_usd": None})
    return left, refused


def _most_usd(word: FinalResponse | PartialUsage, given: Given) -> Decimal:
    """The most that so many tokens may cost, at the announced price."""
    tokens_in = given.most_in if word.prompt_tokens is None else word.prompt_tokens
    tokens_out = given.most_out if word.completion_tokens is None else word.completion_tokens
    price = given.card.price or HIGHEST_PRICE
    plain = price.cost(tokens_in, tokens_out)
    written = price.cost(tokens_in, tokens_out, cache_write_tokens=tokens_in)
    return DEARER * max(plain, written) + MARGIN_USD
