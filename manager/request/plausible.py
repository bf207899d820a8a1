"""Which parts of a worker's messages count: they concern its attempt, and the figures can be true. Pure.

Who answered, with which model, for which request is known here and not taken from the worker. Its figures are checked
against the request and the announced price. An impossible figure is taken for unknown; an answer that is nothing
without it counts as no answer. So neither averages nor budgets nor books learn from impossible figures.
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
"""Tokens that a prompt may have beside the caller's words: a template, the worker's own system text."""
WINDOWS = 4
"""The longest answer, in context windows that the worker announced."""
LEAST_MOST = 131_072
"""The longest answer in tokens where that is more: an announced window may be too small."""
LONGER = 4
"""The longest answer in times of the requested `max_tokens`: some providers do not count reasoning."""
MARGIN_TOKENS = 4096
BYTES_PER_TOKEN = 16
"""Bytes of text per token: more than any token has on average. Longer reasoning than that cannot be true."""
DEARER = 2
"""The highest cost in times of tokens and price: some providers bill double for long-lived cache writes."""
MARGIN_USD = Decimal("0.01")
HIGHEST_PRICE = Price.model_validate({"input_per_mtok": 2000, "output_per_mtok": 2000})
"""The price where none is announced: more than any model costs."""
LATER_MS = 2000.0
"""Milliseconds by which a worker's clock and ours may drift apart over one attempt."""
LONGEST_REST_MS = 3_600_000
"""The longest time for which a worker is left alone because it says so; then it is asked, and may say it again."""

Word = TypeVar("Word", FinalResponse, PartialUsage)


@dataclass(frozen=True, slots=True)
class Given:
    """What a worker was given for one attempt, and what is known of it."""

    request_id: str
    task_id: str
    number: int
    epoch: str
    backend: str
    worker_id: str
    card: ModelCard
    bytes_in: int
    """Bytes of the request, with the start of the answer that was handed on."""
    max_tokens: int | None
    """Tokens of the answer, where the caller set a limit."""
    logprobs: bool = False
    """Whether the caller asked for log-probabilities."""
    texts: int | None = None
    """Number of wanted vectors; None: words are wanted."""

    @property
    def known(self) -> dict[str, str]:
        """Fields of a worker's answer that are replaced by what the Manager knows."""
        return {
            "task_id": self.task_id,
            "request_id": self.request_id,
            "backend": self.backend,
            "worker_id": self.worker_id,
        }

    @property
    def most_in(self) -> int:
        """The most tokens that the prompt can have: no more than bytes."""
        return self.bytes_in + HIDDEN_TOKENS

    @property
    def most_out(self) -> int:
        most = max(LEAST_MOST, WINDOWS * self.card.context_window)
        return most if self.max_tokens is None else min(most, LONGER * self.max_tokens + MARGIN_TOKENS)


class Believed(NamedTuple):
    word: WorkerWord | None
    """The message as it counts. None: it is not about this attempt."""
    refused: tuple[str, ...] = ()
    """The fields that cannot be true."""


def believed(word: WorkerWord, given: Given, elapsed_ms: float) -> Believed:
    """Checks a worker's message. `elapsed_ms`: since the worker was asked."""
    if (foreign := _of_another(word, given)) is not None:
        return Believed(None, (foreign,))
    match word:
        case FinalResponse():
            return _answer(word, given, elapsed_ms)
        case ErrorReply():
            return _error(word, given)
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
    """Which of reasoning and log-probabilities are longer than any answer has."""
    if len(told.reasoning or "") > BYTES_PER_TOKEN * given.most_out:
        return "reasoning"
    return "logprobs" if len(told.logprobs or ()) > given.most_out else None


def _of_another(word: WorkerWord, given: Given) -> str | None:
    """The field that names another attempt; None: none does."""
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
    changes = _differing(figures, known)
    return Believed(figures.model_copy(update=changes) if changes else figures, (*refused, *wrong))


def _error(word: ErrorReply, given: Given) -> Believed:
    refused: tuple[str, ...] = ()
    if word.usage is not None:
        usage, refused = _figures(word.usage, given)
        word = word.model_copy(update={"usage": usage}) if refused else word
    if (word.error.retry_after_ms or 0) > LONGEST_REST_MS:
        detail = word.error.model_copy(update={"retry_after_ms": LONGEST_REST_MS})
        word, refused = word.model_copy(update={"error": detail}), (*refused, "retry_after_ms")
    return Believed(word, refused)


def _differing(answer: FinalResponse, changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if getattr(answer, name) != value}


def _model(answer: FinalResponse, card: ModelCard) -> str:
    """Whether a worker's answer names the model it was asked for, by any of its names."""
    return answer.model_id if card.answers_to(answer.model_id) else card.model_id


def _no_answer(field: str, value: object) -> Unreadable:
    return Unreadable(BullpenError(ErrorCode.UPSTREAM_ERROR, f"the worker's answer cannot be true: {field} is {value}"))


def _figures(word: Word, given: Given) -> tuple[Word, tuple[str, ...]]:
    """The answer without impossible figures."""
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
    """The highest cost of so many tokens at the announced price, US dollars."""
    tokens_in = given.most_in if word.prompt_tokens is None else word.prompt_tokens
    tokens_out = given.most_out if word.completion_tokens is None else word.completion_tokens
    price = given.card.price or HIGHEST_PRICE
    plain = price.cost(tokens_in, tokens_out)
    written = price.cost(tokens_in, tokens_out, cache_write_tokens=tokens_in)
    return DEARER * max(plain, written) + MARGIN_USD
