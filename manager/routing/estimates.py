"""What this Manager has learned from the answers that went through it. Pure.

For each model: how good its answers are (a Beta posterior in which old answers fade, so that a new model is neither
banned nor trusted), and how long they are, by the size of the prompt. For each worker: its seconds per token of prompt
and answer, and how often it fails. Old answers count ever less.
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
"""Weight that an old answer keeps with each new one in a worker's speed, which changes from one minute to the next: the
last ten count most.
"""
RECENT = 200
"""Latest answers of a model from which its usual time is taken."""
SLOW = 0.95
SIZES = 12
"""Classes of prompt size (1, 2, 4, 8 … tokens): a model often gives long prompts long answers."""
BORROWED = 3.0
"""Weight, in answers, of the model's mean length over all prompts in its estimate for one class of prompt size."""
WARM = 10.0
"""The most tries that telemetry's record of a worker counts for, when this Manager has never asked that worker."""
CROWDED = 1.0
"""By how much longer a full worker takes than an empty one: 1.0 is twice as long."""
MOST_MODELS, MOST_PAIRS = 5000, 20_000
"""Records kept of models, and of models at workers."""
BEFORE_ANY = 200
"""Tokens of prompt that stand for the work a worker does before its first token beside reading the prompt."""


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
        """Milliseconds within which 95 of 100 of the latest answers came (p95); infinite when there are no answers."""
        return self.recent_ms.below(int(SLOW * len(self.recent_ms))) if self.recent_ms else float("inf")

    @property
    def quality(self) -> float:
        """The mean confidence of the model's answers, 0..1; a failure counts as 0."""
        return self.confidence.mean

    def learn(self, quality: float) -> None:
        self.confidence.learn(quality)

    def output_tokens(self, tokens_in: int) -> float:
        """Tokens of the answer that this model will probably give to a prompt of this size."""
        own = self.by_size.get(_size(tokens_in))
        if own is None:
            return self.tokens.value
        return (own.total + BORROWED * self.tokens.value) / (own.weight + BORROWED)

    def learn_length(self, tokens_in: int, tokens_out: int) -> None:
        self.tokens.learn(tokens_out, MEMORY)
        self.by_size.setdefault(_size(tokens_in), Mean()).learn(tokens_out, MEMORY)


@dataclass(slots=True)
class WorkerRecord:
    """The speed of one worker with one model, and how often it fails."""

    success: Share = field(default_factory=lambda: Share(PRIOR_SUCCESS))
    kept: Share = field(default_factory=lambda: Share(PRIOR_KEPT))
    """The share of an already answered conversation that the worker does not read again, as it reports."""
    first: Mean = field(default_factory=Mean)
    """Seconds to the first token, per token of the prompt."""
    each: Mean = field(default_factory=Mean)
    """Seconds per token of the answer."""
    at: float = 0.0
    """The time of the last answer or failure (loop's clock, seconds)."""

    def took(self, tokens_in: float, tokens_out: int, seconds: float, first_s: float | None) -> None:
        before = seconds / 4 if first_s is None else min(first_s, seconds)
        self.first.learn(before, PACE_MEMORY, tokens_in + BEFORE_ANY)
        self.each.learn(seconds - before, PACE_MEMORY, max(1, tokens_out))

    def seconds(self, tokens_in: int, tokens_out: float) -> float | None:
        """Seconds that such a request takes at this worker. None: the worker has never answered."""
        if not self.each.weight:
            return None
        return self.first.value * (tokens_in + BEFORE_ANY) + self.each.value * tokens_out


class Estimates:
    """The records of models, and of models at workers, that answered or failed most recently. A worker's heartbeats
    alone make no record.
    """

    def __init__(self) -> None:
        self._models: Latest[str, ModelRecord] = Latest(MOST_MODELS)
        self._workers: Latest[tuple[str, str], WorkerRecord] = Latest(MOST_PAIRS)

    def look(self, model_id: str) -> ModelRecord:
        """A model's record, to read. Makes no lasting record of an unknown model."""
        return self._models.get(model_id) or ModelRecord()

    def look_at(self, worker_id: str, model_id: str) -> WorkerRecord:
        """The record of a model at a worker, to read."""
        return self._workers.get((worker_id, model_id)) or WorkerRecord()

    def of(self, model_id: str) -> ModelRecord:
        """A model's record, to update."""
        record = self._models[model_id] = self.look(model_id)
        return record

    def at(self, worker_id: str, model_id: str) -> WorkerRecord:
        """The record of a model at a worker, to update."""
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
        """Learns from an answer. `tokens_in`: tokens of the prompt as this Manager counts them, as it will for the next
        request.

        `cached`: tokens of the prompt that the worker probably had in its cache. `others`: how full the worker was of
        other requests, 0..1.
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
        """Takes telemetry's record of a worker, unless this Manager has one of its own."""
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
    """How many times as long a worker takes when other requests fill this share of it (0..1)."""
    return 1.0 + CROWDED * min(1.0, others)


def _size(tokens_in: int) -> int:
    return min(SIZES, max(1, tokens_in).bit_length())
