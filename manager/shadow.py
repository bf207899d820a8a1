"""Shadow traffic, on idle workers: a candidate model gets the same question (`mirrors`), or another model judges the
answer (`verifier`). The caller has the answer already and hears nothing of it.

A shadow request is batch work of the tenant `bullpen`. It is treated like any request and has a row of its own in the
books, so its cost is seen; none of its words are kept, so there is nothing to forget. It leads to at most one further
shadow request: a mirrored answer may be judged as the live one is.
"""

import random
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog
from pydantic_core import to_json

from bus import Message
from bus.captured_reply import CapturedReply
from contracts import Answer, FeedbackRecord, InferenceRequest, InferenceResponse, JsonObject, new_id, utc_now
from contracts import subjects as s
from manager.request.shared_state import SharedState
from manager.request.state import RequestState
from outbox.outbox import Outbox

log = structlog.get_logger(__name__)

TENANT = "bullpen"
MIRROR, VERIFY = "mirror:", "verify:"
"""Prefix of a shadow request's task id; the rest is the request id of the answered request."""
OURS = (MIRROR, VERIFY)
"""Prefix that callers' task ids must not have: the books would take the task for shadow traffic."""
ASKED_FOR = (
    "You judge answers of others. Reply with one whole number from 0 (wrong or useless) to 10 (right), nothing else."
)
TOKENS = 8
BEST = 10
_NUMBER = re.compile(r"\d+")

Ask = Callable[[Message], Awaitable[InferenceResponse | None]]


class ShadowReply(CapturedReply):
    """The answer of a mirrored or judged request, which no caller gets."""


class ShadowTraffic:
    def __init__(
        self,
        shared: SharedState,
        outbox: Outbox,
        ask: Ask,
        start: Callable[[Coroutine[Any, Any, None], str], object],
        rng: random.Random | None = None,
    ) -> None:
        """`ask` has a request answered; `start` runs a coroutine in the background."""
        self._shared = shared
        self._outbox = outbox
        self._ask = ask
        self._start = start
        self._rng = rng or random.Random()  # noqa: S311 — draws a sample, guards no secret

    def consider(self, inflight: RequestState, response: Answer) -> None:
        """Decides, after a request was answered, whether a candidate or a judge gets it as well."""
        if not isinstance(inflight.request, InferenceRequest):
            return
        is_aside = isinstance(inflight.reply, ShadowReply)
        if response.replayed or (is_aside and inflight.task_id.startswith(VERIFY)):
            return
        if not is_aside:
            for mirror in self._shared.config.mirrors:
                if response.model_id == mirror.model and self._drawn(mirror.share) and self._has_time(mirror.to):
                    self._start(self._mirror(inflight, mirror.to), "mirror")
        verifier = self._shared.config.verifier
        if (
            verifier.model is not None
            and self._wants_judgement(response, verifier.model)
            and self._drawn(verifier.share)
        ):
            self._start(self._verify(inflight, response, verifier.model), "verify")

    def _drawn(self, share: float) -> bool:
        return self._rng.random() < share

    def _wants_judgement(self, response: Answer, judge: str) -> bool:
        """Whether the answer has words and no probabilities of its own, and came from another model than the judge."""
        unsure = response.confidence_source != "logprobs" and bool(response.output) and not response.tool_calls
        return unsure and response.model_id != judge and self._has_time(judge)

    def _has_time(self, model: str) -> bool:
        """Whether a worker with that model is idle, and no request waits."""
        return not len(self._shared.queue) and any(
            not worker.obstacle and worker.idle and any(card.answers_to(model) for card in worker.heartbeat.models)
            for worker in self._shared.registry
        )

    async def _mirror(self, inflight: RequestState, model: str) -> None:
        asked = inflight.request.model_dump(mode="json", by_alias=True, exclude_unset=True)
        for own in ("idempotency_key", "backend", "min_confidence", "hedge", "stream", "deadline_ms"):
            asked.pop(own, None)
        await self._ask(_message({**asked, **_batch(inflight, MIRROR), "model": model}))

    async def _verify(self, inflight: RequestState, response: Answer, model: str) -> None:
        told = (
            f"Question:\n{inflight.request.question}\n\nAnswer:\n{response.output}\n\nHow good is the answer, 0 to 10?"
        )
        messages = [{"role": "system", "content": ASKED_FOR}, {"role": "user", "content": told}]
        wanted: JsonObject = {"messages": messages, "model": model, "max_tokens": TOKENS, "temperature": 0.0}
        if inflight.request.policy == "local_only":
            wanted["policy"] = "local_only"  # what must not leave the house does not leave it to be judged
        answer = await self._ask(_message({**wanted, **_batch(inflight, VERIFY)}))
        score = None if answer is None else score_of(answer.output)
        if score is None:
            log.debug("no_judgement", task_id=inflight.task_id, model=model)
            return
        record = FeedbackRecord(
            task_id=inflight.task_id,
            score=score,
            source=f"verifier:{model}",
            feedback_id=new_id(),
            created_at=utc_now(),
        )
        self._outbox.put(s.TELEMETRY_FEEDBACK, record, record.feedback_id)


def score_of(text: str) -> float | None:
    """A judge's words as a number in 0..1; None: they hold no number from 0 to 10."""
    found = _NUMBER.search(text)
    return int(found[0]) / BEST if found is not None and int(found[0]) <= BEST else None


def _batch(inflight: RequestState, kind: str) -> JsonObject:
    return {
        "task_id": f"{kind}{inflight.request_id}",
        "priority": "batch",
        "metadata": {"tenant": TENANT},
        "content": "none",
    }


def _message(asked: JsonObject) -> Message:
    return Message(s.INFER_AUTO, to_json(asked), "", {})
