"""Bullpen's Manager in the simulation: its registry, estimates, breakers and ranking as they are, without a bus."""

import random
from datetime import UTC, datetime
from typing import cast

from benchmarks.routing.simulation import Place, Try
from benchmarks.routing.world import Question as Asked
from bus import Bus
from contracts import (
    BullpenError,
    ErrorCode,
    ErrorReply,
    FinalResponse,
    Heartbeat,
    InferenceRequest,
    ModelCard,
    Policy,
)
from manager.config import ManagerConfig
from manager.metrics import Metrics
from manager.request.attempt import Attempt
from manager.request.shared_state import SharedState
from manager.routing.filters import RejectReason
from manager.routing.query import Choice, Excluded, RoutingQuery

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
PROMPT = "word "


class Clocked(SharedState):
    """A shared whose time is the simulation's."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(
            cast("Bus", None), ManagerConfig(), "simulated", cast("Metrics", None), clock=lambda: self.time
        )
        self._rng = rng
        self.time = 0.0


class Bullpen:
    def __init__(self, policy: Policy, rng: random.Random) -> None:
        self._policy: Policy = policy
        self._shared = Clocked(rng)
        self._attempts: dict[int, Attempt] = {}
        self._asked: dict[int, RoutingQuery] = {}
        self._waited: set[int] = set()
        self._seq = 0

    def choose(self, question: Asked, now: float, tried: frozenset[str], ahead: int) -> str | None:
        self._shared.time = now
        ranking = self._shared.rank(self._question(question, tried, ahead), self._policy)
        if ranking.reason is RejectReason.LATE:
            return ""
        if ranking.winner is None:
            self._waited.add(question.number)
            return None
        return ranking.winner.worker.worker_id

    def _question(self, question: Asked, tried: frozenset[str], ahead: int) -> RoutingQuery:
        waited = question.number in self._waited
        request = InferenceRequest.model_construct(
            prompt=PROMPT, policy=self._policy, deadline_ms=round(question.deadline_s * 1000)
        )
        left_s = question.at + question.deadline_s - self._shared.time
        return RoutingQuery(
            request,
            question.tokens_in,
            request.needs,
            Excluded(workers=tried),
            left_s=left_s,
            waiting=ahead,
            has_queued=waited,
        )

    def beat(self, place: Place, now: float) -> None:
        self._seq += 1
        worker = place.worker
        card = ModelCard(model_id=worker.model.name, context_window=32_000, price=worker.model.price, local=False)
        beat = Heartbeat.model_construct(
            worker_id=worker.name,
            backend="simulated",
            models=(card,),
            state="ready",
            inflight=len(place.running),
            queued=len(place.queue),
            capacity=worker.capacity,
            ewma_ms=place.service_ms,
            tokens_per_second=None,
            epoch="1",
            seq=self._seq,
            interval_ms=1000,
            started_at=LONG_AGO,
        )
        self._shared.registry.hear(beat, now, wall=now)

    def left(self, worker: str, now: float) -> None:
        self._shared.registry.leave(worker, "left")

    def sent(self, attempt: Try, now: float) -> None:
        self._shared.time = now
        worker = self._shared.registry.get(attempt.place.worker.name)
        assert worker is not None
        choice = Choice(worker, worker.heartbeat.models[0])
        question = self._question(attempt.question, frozenset(), 0)
        uncounted, probe = self._shared.took(choice, question)
        self._attempts[id(attempt)] = Attempt(1, choice, now, LONG_AGO, question, uncounted=uncounted, probe=probe)

    def ended(self, attempt: Try, now: float) -> None:
        self._shared.time = now
        known = self._attempts.pop(id(attempt))
        if not attempt.ends:
            refusal = BullpenError(ErrorCode.NO_WORKER, "left")
            known.on(ErrorReply(error=refusal.detail()), now)
        elif attempt.failed:
            known.on(ErrorReply(error=BullpenError(ErrorCode.UPSTREAM_ERROR, "failed").detail()), now)
        else:
            known.on(_answer(attempt, known), now)
        self._shared.learn(known)


def _answer(attempt: Try, known: Attempt) -> FinalResponse:
    question, model = attempt.question, attempt.place.worker.model
    length = question.length(model)
    return FinalResponse.model_construct(
        task_id="",
        request_id="",
        model_id=model.name,
        backend="simulated",
        worker_id=attempt.place.worker.name,
        output="",
        prompt_tokens=question.tokens_in,
        completion_tokens=length,
        tokens_used=question.tokens_in + length,
        duration_ms=(attempt.ends - attempt.started) * 1000,
        queue_ms=(attempt.started - known.sent_at) * 1000,
        ttft_ms=(attempt.started - known.sent_at + _first(attempt)) * 1000,
        confidence=question.confidence(model),
        finish_reason="stop",
        confidence_source="logprobs",
        created_at=LONG_AGO,
    )


def _first(attempt: Try) -> float:
    worker = attempt.place.worker
    return worker.first_token_s + attempt.question.tokens_in / worker.prompt_tokens_per_second
