"""What this Manager has learned from the answers that went through it. Pure.

First honest form: moving averages by model, and a Beta-like mean of how well a model's answers turned
out, which starts in the middle so that a new model is neither banned nor trusted.
"""

from collections import deque
from dataclasses import dataclass, field

from contracts import InferenceRequest, InferenceResponse

CHARS_PER_TOKEN = 4
"""A rule of thumb for English text."""
DEFAULT_OUTPUT_TOKENS = 128.0
WEIGHT = 0.1
PRIOR_WEIGHT = 4.0
"""As if so many answers of the prior quality had been seen before the first."""
PRIOR_QUALITY = 0.6
MEMORY = 0.98
"""What an old answer still counts after each new one."""
RECENT = 200
"""Answers of which the usual time is taken."""
SLOW = 0.95


@dataclass(slots=True)
class ModelRecord:
    """One model's record."""

    quality_sum: float = PRIOR_QUALITY * PRIOR_WEIGHT
    quality_weight: float = PRIOR_WEIGHT
    output_tokens: float = DEFAULT_OUTPUT_TOKENS
    mean_ms: float | None = None
    answered: int = 0
    failed: int = 0
    recent_ms: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def slow_ms(self) -> float:
        """Milliseconds that 95 of 100 of the last answers needed at most (p95); infinite when there are none."""
        ordered = sorted(self.recent_ms)
        return ordered[int(SLOW * len(ordered))] if ordered else float("inf")

    @property
    def quality(self) -> float:
        """0..1: the mean confidence of its answers, a failure counting as 0."""
        return self.quality_sum / self.quality_weight

    def learn(self, quality: float) -> None:
        self.quality_sum = self.quality_sum * MEMORY + quality
        self.quality_weight = self.quality_weight * MEMORY + 1.0


class Estimates:
    def __init__(self) -> None:
        self._models: dict[str, ModelRecord] = {}

    def of(self, model_id: str) -> ModelRecord:
        return self._models.setdefault(model_id, ModelRecord())

    def items(self) -> list[tuple[str, ModelRecord]]:
        return list(self._models.items())

    def answered(self, response: InferenceResponse, service_ms: float) -> None:
        record = self.of(response.model_id)
        record.answered += 1
        record.recent_ms.append(service_ms)
        record.learn(response.confidence)
        record.output_tokens += WEIGHT * (response.completion_tokens - record.output_tokens)
        record.mean_ms = (
            service_ms if record.mean_ms is None else record.mean_ms + WEIGHT * (service_ms - record.mean_ms)
        )

    def failed(self, model_id: str) -> None:
        record = self.of(model_id)
        record.failed += 1
        record.learn(0.0)


def prompt_tokens(request: InferenceRequest) -> int:
    """Roughly how many tokens the question has."""
    return 1 + sum(len(message.text) for message in request.conversation) // CHARS_PER_TOKEN
