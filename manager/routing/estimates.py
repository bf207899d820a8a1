"""What this Manager has learned from the answers that went through it. Pure.

Of a model: how well its answers turn out (a Beta posterior that forgets, so that a new model is neither banned nor
trusted), and how long they are, by the size of the prompt. Of a worker: how long it needs for a token in and a token
out, and how often it fails. What is old counts ever less.
"""

from dataclasses import dataclass, field

from config.bounded import Latest
from config.recent import RecentValues
from contracts import Answer, WorkRecord
from manager.routing.averages import MEMORY, Mean, Share

DEFAULT_OUTPUT_TOKENS = 128.0
PRIOR_QUALITY = 0.6
PRIOR_SUCCESS = 0.95
PRIOR_KEPT = 0.5
PACE_MEMORY = 0.9
"""The same for how quick a worker is, which changes from one minute to the next: the last ten."""
RECENT = 200
"""Answers of which the usual time is taken."""
SLOW = 0.95
SIZES = 12
"""Prompts of 1, 2, 4, 8 … tokens are told apart: what is long is often answered at length."""
BORROWED = 3.0
"""A prompt of a size never seen is taken to be answered as all are; after so many answers its own count half."""
WARM = 10.0
"""What telemetry says of a worker that this Manager has never asked counts as so many tries at most."""
CROWDED = 1.0
"""How much longer a full worker takes than an empty one."""
MOST_MODELS, MOST_PAIRS = 5000, 20_000
"""Records that are kept of models, and of models at workers."""
BEFORE_ANY = 200
"""What there is to do before the first token, beside the prompt, counts as so many tokens of it."""


@dataclass(slots=True)
class ModelRecord:
    """One model's record."""

    confidence: Share = field(default_factory=lambda: Share(PRIOR_QUALITY))
    tokens: Mean = field(default_factory=lambda: Mean(DEFAULT_OUTPUT_TOKENS, 1.0))
    by_size: dict[int, Mean] = field(default_factory=dict)
    mean_ms: float | None = None
    answered: int = 0
    failed: int = 0
    recent_ms: RecentValues = field(default_factory=lambda: RecentValues(RECENT))

    @property
    def slow_ms(self) -> float:
        """Milliseconds that 95 of 100 of the last answers needed at most (p95); infinite when there are none."""
        return self.recent_ms.below(int(SLOW * len(self.recent_ms))) if self.recent_ms else float("inf")

    @property
    def quality(self) -> float:
        """0..1: the mean confidence of its answers, a failure counting as 0."""
        return self.confidence.mean

    def learn(self, quality: float) -> None:
        self.confidence.learn(quality)

    def output_tokens(self, tokens_in: int) -> float:
        """How long its answer to a prompt of this size will be."""
        own = self.by_size.get(_size(tokens_in))
        if own is None:
            return self.tokens.value
        return (own.total + BORROWED * self.tokens.value) / (own.weight + BORROWED)

    def learn_length(self, tokens_in: int, tokens_out: int) -> None:
        self.tokens.learn(tokens_out, MEMORY)
        self.by_size.setdefault(_size(tokens_in), Mean()).learn(tokens_out, MEMORY)


@dataclass(slots=True)
class WorkerRecord:
    """How quick one worker is with one model, and how often it fails."""

    success: Share = field(default_factory=lambda: Share(PRIOR_SUCCESS))
    kept: Share = field(default_factory=lambda: Share(PRIOR_KEPT))
    """How much of a conversation that it has answered before it need not read again, as it reports."""
    first: Mean = field(default_factory=Mean)
    """Seconds to the first token, per token of the prompt."""
    each: Mean = field(default_factory=Mean)
    """Seconds per token of the answer."""
    at: float = 0.0
    """When it last answered or failed (loop's clock, seconds)."""

    def took(self, tokens_in: float, tokens_out: int, seconds: float, first_s: float | None) -> None:
        before = seconds / 4 if first_s is None else min(first_s, seconds)
        self.first.learn(before, PACE_MEMORY, tokens_in + BEFORE_ANY)
        self.each.learn(seconds - before, PACE_MEMORY, max(1, tokens_out))

    def seconds(self, tokens_in: int, tokens_out: float) -> float | None:
        """What such a request takes there; None: it has never answered."""
        if not self.each.weight:
            return None
        return self.first.value * (tokens_in + BEFORE_ANY) + self.each.value * tokens_out


class Estimates:
    """Of what was answered or has failed, the latest: what a worker only tells of itself takes no room here."""

    def __init__(self) -> None:
        self._models: Latest[str, ModelRecord] = Latest(MOST_MODELS)
        self._workers: Latest[tuple[str, str], WorkerRecord] = Latest(MOST_PAIRS)

    def look(self, model_id: str) -> ModelRecord:
        """The record of a model, to read: one that is not known is not kept."""
        return self._models.get(model_id) or ModelRecord()

    def look_at(self, worker_id: str, model_id: str) -> WorkerRecord:
        """The same of a model at a worker."""
        return self._workers.get((worker_id, model_id)) or WorkerRecord()

    def of(self, model_id: str) -> ModelRecord:
        """The record of a model, to learn."""
        record = self._models[model_id] = self.look(model_id)
        return record

    def at(self, worker_id: str, model_id: str) -> WorkerRecord:
        """The same of a model at a worker."""
        record = self._workers[worker_id, model_id] = self.look_at(worker_id, model_id)
        return record

    def items(self) -> list[tuple[str, ModelRecord]]:
        return list(self._models.items())

    def answered(
        self,
        response: Answer,
        service_ms: float,
        tokens_in: int,
        now: float,
        *,
        cached: float = 0.0,
        others: float = 0.0,
    ) -> None:
        """`tokens_in`: of the prompt as we counted it, because that is what the next one will be known by.

        `cached`: how many of them the worker had answered before. `others`: how full it was without this one, 0..1.
        """
        record = self.of(response.model_id)
        record.answered += 1
        record.recent_ms.add(service_ms)
        record.learn(response.confidence)
        if response.completion_tokens:  # vectors say nothing of how long the model's words are
            record.learn_length(tokens_in, response.completion_tokens)
        record.mean_ms = service_ms if record.mean_ms is None else record.mean_ms + 0.1 * (service_ms - record.mean_ms)
        worker = self.at(response.worker_id, response.model_id)
        first_s = None if response.ttft_ms is None else (response.ttft_ms - response.queue_ms) / 1000
        if cached and response.cached_tokens is not None:
            worker.kept.learn(min(1.0, response.cached_tokens / cached))
        read = tokens_in - min(tokens_in, cached * worker.kept.mean)
        alone = 1.0 / crowded(others)  # a worker with much to do is not slower than another, only busier
        worker.took(
            read,
            response.completion_tokens,
            service_ms / 1000 * alone,
            None if first_s is None else first_s * alone,
        )
        worker.success.learn(1.0)
        worker.at = now

    def warm(self, model_id: str, worker_id: str, reported: WorkRecord, now: float) -> None:
        """Takes what telemetry says of a worker, unless this Manager knows better."""
        worker, tries = self.at(worker_id, model_id), reported.answers + reported.failures
        if worker.at or not tries:
            return
        counts = min(1.0, WARM / tries)
        worker.success.sum, worker.success.weight = reported.answers * counts, tries * counts
        worker.at = now
        if reported.service_ms is None or reported.completion_tokens is None:
            return
        prompt, first_s = reported.prompt_tokens or 0.0, None if reported.first_ms is None else reported.first_ms / 1000
        worker.took(prompt, round(reported.completion_tokens), reported.service_ms / 1000, first_s)
        record = self.of(model_id)
        if not record.answered:
            record.learn_length(round(prompt), round(reported.completion_tokens))
            if reported.confidence is not None:
                record.learn(reported.confidence)

    def failed(self, worker_id: str, model_id: str, now: float) -> None:
        record = self.of(model_id)
        record.failed += 1
        worker = self.at(worker_id, model_id)
        worker.success.learn(0.0)
        worker.at = now


def crowded(others: float) -> float:
    """How many times as long a worker takes when it is so full (0..1) of others."""
    return 1.0 + CROWDED * min(1.0, others)


def _size(tokens_in: int) -> int:
    return min(SIZES, max(1, tokens_in).bit_length())
