"""The spans of one request in the Manager: the whole, each choice of a worker, each attempt, its way into the books.

A reroute reads as two attempts one after the other, the first with the reason why it failed. Words of callers, models
and providers' errors stand in a span only where the config allows it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

from pydantic_core import to_json

from bus import Tasks, tracing
from bus.measures import OPERATION
from bus.tracing import NO_SPAN, Span
from contracts import Answer, BullpenError, ErrorReply, InferenceRequest, InferenceResponse, Request
from manager.request.attempt import Attempt
from manager.routing.ranking import Ranking
from outbox.outbox import Waiting

BOOKED_WITHIN = 5.0
"""Seconds after which a span no longer waits for JetStream to store the rows: they are on the disk then."""
_tasks = Tasks("traces")


class RequestTrace:
    def __init__(self, request: Request, request_id: str, headers: Mapping[str, str]) -> None:
        """`headers`: the caller's."""
        self._operation = OPERATION[request.kind]
        self._span = tracing.start(
            "request",
            headers,
            "server",
            gen_ai__operation__name=self._operation,
            gen_ai__request__model=request.model,
            bullpen__request_id=request_id,
            bullpen__policy=request.policy,
            bullpen__stream=request.stream,
        )
        self._choice = NO_SPAN
        self._attempts: dict[int, Span] = {}

    def choosing(self) -> None:
        """The choice of a worker begins; `sent` or `none_to_choose` ends it."""
        self._choice = self._choice or self._span.child("choice")

    def none_to_choose(self, ranking: Ranking) -> None:
        self._choice.event("nobody", bullpen__reason=str(ranking.reason), bullpen__candidates=len(ranking.candidates))

    def chosen(self, ranking: Ranking, why: str) -> None:
        """An attempt begins."""
        if (choice := ranking.winner) is not None:
            told = {"bullpen__worker_id": choice.worker.worker_id, "gen_ai__request__model": choice.card.model_id}
            self._choice.tell(bullpen__why=why, bullpen__candidates=len(ranking.candidates), **told)
        self._choice.end()
        self._choice = NO_SPAN

    def sent(self, attempt: Attempt) -> dict[str, str]:
        """Returns the headers that make the worker's spans children of the attempt's."""
        span = self._attempts[attempt.number] = self._span.child(
            "attempt",
            "client",
            gen_ai__operation__name=self._operation,
            gen_ai__provider__name=attempt.backend,
            gen_ai__request__model=attempt.model_id,
            bullpen__attempt=attempt.number,
            bullpen__worker_id=attempt.worker_id,
        )
        return span.headers

    def ended(self, attempt: Attempt) -> None:
        """An attempt has ended: why, and what it used."""
        span, usage, cost = self._attempts.pop(attempt.number, NO_SPAN), attempt.usage, attempt.cost
        span.tell(
            bullpen__outcome=str(attempt.outcome),
            gen_ai__usage__input_tokens=usage.prompt_tokens,
            gen_ai__usage__output_tokens=usage.completion_tokens,
            bullpen__cost_usd=None if cost is None else float(cost),
            bullpen__worker_lost=attempt.worker_died or None,
        )
        error, is_ours = attempt.error, not isinstance(attempt.final, ErrorReply)
        span.end(error.code if error else "", error.message if error and is_ours else "")

    def answered(self, request: Request, response: Answer | None, failure: BullpenError | None, *, words: bool) -> None:
        """The caller has its final message. `words`: whether request and answer may stand in the span."""
        self._choice.end("no_worker" if failure else "")
        if response is not None and failure is None:
            chat = response if isinstance(response, InferenceResponse) else None
            self._span.tell(
                gen_ai__response__model=response.model_id,
                gen_ai__provider__name=response.backend,
                gen_ai__usage__input_tokens=response.prompt_tokens,
                gen_ai__usage__output_tokens=response.completion_tokens,
                gen_ai__response__finish_reasons=[chat.finish_reason] if chat else None,
                bullpen__attempts=len(response.attempts),
                bullpen__cost_usd=None if response.cost_usd is None else float(response.cost_usd),
            )
        if words and tracing.with_content():
            self._span.tell(gen_ai__input__messages=_asked(request), gen_ai__output__messages=_said(response))
        self._span.end(failure.code if failure else "")

    def booked(self, told: Sequence[Waiting], since: int) -> None:
        """The request's rows are on their way into the books."""
        span = self._span.child("books", at=since, bullpen__rows=len(told))
        _tasks.start(_until_safe(span, told), "books")


async def _until_safe(span: Span, told: Sequence[Waiting]) -> None:
    safe = False
    with suppress(TimeoutError):
        async with asyncio.timeout(BOOKED_WITHIN):
            for waiting in told:
                await waiting.safe()
            safe = True
    span.tell(bullpen__in_stream=safe)
    span.end()


def _asked(request: Request) -> str | None:
    if not isinstance(request, InferenceRequest):
        return None
    turns = [{"role": m.role, "parts": [{"type": "text", "content": m.text}]} for m in request.conversation]
    return to_json(turns).decode()


def _said(response: Answer | None) -> str | None:
    if not isinstance(response, InferenceResponse):
        return None
    parts = [{"type": "text", "content": response.output}]
    return to_json([{"role": "assistant", "parts": parts, "finish_reason": response.finish_reason}]).decode()
