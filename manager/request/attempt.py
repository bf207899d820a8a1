"""One try at one worker: what we heard of it, and until when silence is still fine. Pure.

An attempt is *not started* until its worker claims it, *uncertain* when it was claimed and then fell
silent, and over when an answer, an error or our patience ends it. What its worker still says after we gave
up on it, how much it used or an answer that came too late, is for the books.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType

from pydantic import TypeAdapter, ValidationError

from contracts import (
    NOT_STARTED,
    AttemptRecord,
    AttemptSummary,
    BullpenError,
    Chunk,
    Claim,
    ErrorCode,
    ErrorReply,
    FinalResponse,
    InferenceResponse,
    JsonObject,
    Outcome,
    PartialUsage,
    Phase,
    Progress,
    WorkerEvent,
    WorkerMessage,
    utc_now,
)
from manager.budgets.accounts import Reservation
from manager.config import ManagerConfig
from manager.routing.query import Choice, RoutingQuery
from manager.routing.registry import UncountedRequest

_EVENT: TypeAdapter[Claim | Progress | Chunk | FinalResponse] = TypeAdapter(WorkerEvent)
_OBJECT: TypeAdapter[JsonObject] = TypeAdapter(JsonObject)


def read_event(data: bytes, known: Mapping[str, object] = MappingProxyType({})) -> WorkerMessage:
    """What a worker sent to our inbox. Raises `BullpenError(upstream_error)` when it is rubbish.

    `known`: what we know of its answer without being told.
    """
    try:
        return _EVENT.validate_json(data)
    except ValidationError:
        pass
    try:
        return ErrorReply.model_validate_json(data)
    except ValidationError:
        return _plain(data, known)


def _plain(data: bytes, known: Mapping[str, object]) -> Chunk | FinalResponse:
    """From a worker that says no more than the contract's first six fields, as anybody may write one."""
    try:
        told = {name: value for name, value in _OBJECT.validate_json(data).items() if value is not None}
        match told.setdefault("type", "response"):
            case "response":
                return FinalResponse.model_validate({**_untold(told), **told, **known})
            case "chunk":
                return Chunk.model_validate({**told, **known})
            case _:
                raise _rubbish("")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _rubbish(f": {where}: {first['msg'].lower()}" if where else "") from None


def _untold(told: JsonObject) -> JsonObject:
    """What is taken for granted where an answer does not say it."""
    used, prompt = told.get("tokens_used"), told.get("prompt_tokens")
    completion = max(0, used - (prompt or 0)) if isinstance(used, int) and isinstance(prompt, int | None) else None
    return {
        "prompt_tokens": None,
        "completion_tokens": completion,
        "finish_reason": "stop",
        "confidence_source": "prior",
        "created_at": utc_now(),
    }


def _rubbish(why: str) -> BullpenError:
    return BullpenError(ErrorCode.UPSTREAM_ERROR, f"the worker sent something that is not a message{why}")


FREE = PartialUsage(cost_usd=Decimal(0))
"""Of an attempt that was surely not begun."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended, when not with an answer."""

    outcome: Outcome
    error: BullpenError
    usage: PartialUsage = field(default_factory=PartialUsage)
    died: bool = False
    """The worker's process went away while it was at it."""

    @classmethod
    def told(cls, reply: ErrorReply) -> "Ending":
        """The worker said why not."""
        error, usage = BullpenError.from_detail(reply.error), reply.usage
        if error.code is ErrorCode.CANCELLED:
            outcome = Outcome.CANCELLED
        elif _was_refused(error) and not (usage and (usage.completion_tokens or usage.cost_usd)):
            outcome, usage = Outcome.REFUSED, usage or FREE
        else:
            outcome = Outcome.TRUNCATED if "(truncated)" in error.message else Outcome.FAILED
        return cls(outcome, error, usage or PartialUsage())


def _was_refused(error: BullpenError) -> bool:
    return error.code in NOT_STARTED or error.prompt_tokens is not None


def used(answer: InferenceResponse) -> PartialUsage:
    """What an answer has used."""
    return PartialUsage.model_construct(**{name: getattr(answer, name) for name in PartialUsage.model_fields})


@dataclass(frozen=True, slots=True)
class Start:
    """The start of an answer that the caller has already: what comes next has to go on after it."""

    text: str = ""
    tokens: int = 0


class Attempt:
    def __init__(
        self,
        number: int,
        choice: Choice,
        now: float,
        created_at: datetime,
        asked: RoutingQuery,
        *,
        uncounted: UncountedRequest | None = None,
        start: Start = Start(),
        probe: bool = False,
    ) -> None:
        self.number = number
        self.choice = choice
        self.epoch = choice.worker.heartbeat.epoch
        self.others = max(0, choice.worker.load - 1)
        """Requests that its worker had beside it, when it was sent there."""
        self.sent = now
        self.created_at = created_at
        self.uncounted = uncounted or UncountedRequest(0.0)
        """What its worker's limits have to give for it, until a heartbeat counts it."""
        self.start = start
        self.probe = probe
        """It decides whether the worker's breaker closes again."""
        self.claimed = False
        self.allowed = False
        """Its worker was told that it may call a provider that sends bills."""
        self.phase: Phase = "queued"
        self.tokens = 0
        self.heard = now
        """When the worker last said anything about it."""
        self.ended: Ending | FinalResponse | None = None
        self.ended_at = now
        self.reservation: Reservation | None = None
        """What is set aside for it in the budgets that pay it."""
        self.inbox = ""
        """Where its worker's words come to."""
        self.said_all = False
        """The worker will say no more about it: it told how it ended, or it is gone."""
        self.missed_piece = False
        """A part of its stream was lost on the way to us."""
        self._pieces = 0
        self._late: FinalResponse | None = None
        self._moved = now
        self._moves = 0
        self.prompt_tokens = asked.tokens_in
        self.openings = asked.openings
        self.cached = asked.cached.get(choice.worker.worker_id, 0.0)
        """Tokens of the prompt that the worker was thought to have in its cache."""

    @property
    def worker_id(self) -> str:
        return self.choice.worker.worker_id

    @property
    def model_id(self) -> str:
        return self.choice.card.model_id

    @property
    def duration_ms(self) -> float:
        return round((self.ended_at - self.sent) * 1000, 3)

    @property
    def outcome(self) -> Outcome:
        if self.ended is None:
            return Outcome.CANCELLED
        return Outcome.OK if isinstance(self.ended, FinalResponse) else self.ended.outcome

    @property
    def error_code(self) -> ErrorCode | None:
        return self.error.code if self.error else None

    @property
    def paid(self) -> bool:
        return not self.choice.card.local

    @property
    def error(self) -> BullpenError | None:
        return self.ended.error if isinstance(self.ended, Ending) else None

    @property
    def tokens_told(self) -> int:
        """How many tokens the prompt has, or more, as its worker said when they were too many for its model; else 0."""
        told = self.error.prompt_tokens if self.error else None
        return 0 if told is None else told or self.choice.card.context_window + 1

    def received(self, chunk: Chunk) -> None:
        """A piece of its stream arrived: is it the one that was due?"""
        self.missed_piece = self.missed_piece or chunk.seq != self._pieces
        self._pieces += 1

    def hear(self, event: Claim | Progress | Chunk, now: float) -> None:
        """A sign of life that moved something restarts our patience; one that did not, does not."""
        self.heard = now
        if isinstance(event, Chunk):
            self.claimed, self.phase, self._moved = True, "decode", now
            self.tokens = self.tokens + 1 if event.tokens is None else event.tokens
        elif isinstance(event, Claim):
            self._moved = self._moved if self.claimed else now
            self.claimed = True
        else:
            moves = event.moved or 0
            if event.tokens > self.tokens or event.phase != self.phase or moves > self._moves:
                self._moved = now
            self._moves = max(self._moves, moves)
            self.claimed, self.phase, self.tokens = True, event.phase, max(self.tokens, event.tokens)

    @property
    def killed(self) -> bool:
        """Its worker died while it was at it: it is gone still or started anew. A lost connection alone is none."""
        ended = isinstance(self.ended, Ending) and self.ended.died
        return ended and (bool(self.choice.worker.gone) or self.started_anew)

    @property
    def started_anew(self) -> bool:
        """Its worker knows nothing of it any more."""
        return self.choice.worker.heartbeat.epoch != self.epoch

    @property
    def may_speak(self) -> bool:
        """It is over, but its worker has not told us so and may still be at it."""
        return self.ended is not None and not self.said_all and not self.started_anew

    @property
    def said_full(self) -> bool:
        """Its worker had no place for it."""
        refused = isinstance(self.ended, Ending) and self.ended.outcome is Outcome.REFUSED
        return refused and self.said_all and self.error_code is ErrorCode.OVERLOADED

    def excludes(self, reconnected_at: float) -> bool:
        """Whether its worker is not asked again. One that never got the request, or had no place for it, may be.

        It never got it when nobody listened there, when it says so, or when our connection broke before it claimed.
        """
        if self.said_full:
            return False
        refused = isinstance(self.ended, Ending) and self.ended.outcome is Outcome.REFUSED
        unheard = self.sent < reconnected_at and not self.claimed
        return not (refused and (unheard or (self.error_code is ErrorCode.NO_WORKER and self.said_all)))

    def wait_again(self, now: float) -> None:
        """The silence is ours, or nobody else could do it: go on waiting for this one."""
        self._moved = now

    def overdue_at(self, config: ManagerConfig) -> float:
        """When our patience ends. A worker that queues it may take as long as its heart beats."""
        if not self.claimed:
            return self._moved + config.claim_timeout
        if self.phase == "queued":
            return float("inf")
        patience = config.next_token_timeout if self.phase == "decode" else config.first_token_timeout
        return self._moved + max(patience, self.choice.worker.pause)

    def overdue(self) -> Ending:
        """What the end of our patience is called."""
        if not self.claimed:
            error = BullpenError(ErrorCode.NO_WORKER, f"{self.worker_id} did not claim the request")
            return Ending(Outcome.REFUSED, error, self.seen)
        stage = "between tokens" if self.phase == "decode" else "before the first token"
        error = BullpenError(ErrorCode.UPSTREAM_ERROR, f"{self.worker_id} stalled {stage}")
        return Ending(Outcome.UNCERTAIN, error, self.seen)

    def lost(self, why: str, *, died: bool) -> Ending:
        """The worker went away; `died`: its process ended, it did not only fall silent."""
        error = BullpenError(ErrorCode.NO_WORKER, f"{self.worker_id} went away ({why})")
        started = self.claimed and self.phase != "queued"
        return Ending(Outcome.UNCERTAIN, error, self.seen, died=died and (started or not self.claimed))

    def end(self, ending: Ending | FinalResponse, now: float, *, said_all: bool) -> None:
        """`said_all`: the worker itself told the end, or can tell nothing any more."""
        self.ended, self.ended_at, self.said_all = ending, now, said_all

    def hear_afterwards(self, event: object) -> None:
        """What the worker says after we gave up on it: how much it used, or an answer that nobody waits for."""
        if not isinstance(self.ended, Ending) or self.said_all:
            return
        if isinstance(event, ErrorReply):
            self.said_all = True
            self.ended = replace(self.ended, usage=event.usage or self.ended.usage)
        elif isinstance(event, FinalResponse):
            self.said_all, self._late = True, event
            hedged = self.ended.outcome is Outcome.HEDGED_LOSER
            outcome = Outcome.HEDGED_LOSER if hedged else Outcome.LATE_DISCARDED
            self.ended = replace(self.ended, outcome=outcome, usage=used(event))
        self.pay()

    def pay(self) -> None:
        """Out of what was reserved: what it cost, as far as is known now."""
        if self.reservation is not None:
            self.reservation.settle(self.likely_cost)

    @property
    def cost(self) -> Decimal | None:
        """US dollars, exactly, as the worker told it. None: nobody has told it (yet), and nothing is guessed.

        A JSON number may have lost digits that the tokens and the price still have.
        """
        usage, price = self.usage, self.choice.card.price
        told = usage.cost_usd
        if not told or price is None or usage.prompt_tokens is None or usage.completion_tokens is None:
            return told
        cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
        exact = price.cost(usage.prompt_tokens, usage.completion_tokens, cached, written)
        return exact if float(exact) == float(told) else told

    @property
    def likely_cost(self) -> Decimal | None:
        """The cost, or an estimate from the prompt's size and the tokens seen: for limits, never for the books."""
        cost, usage, price = self.cost, self.usage, self.choice.card.price
        if cost is not None or price is None:
            return cost
        return price.cost(usage.prompt_tokens or self.prompt_tokens, usage.completion_tokens or 0)

    @property
    def usage(self) -> PartialUsage:
        """What it has used, as far as we know."""
        if isinstance(self.ended, FinalResponse):
            return used(self.ended)
        return self.ended.usage if self.ended else self.seen

    @property
    def seen(self) -> PartialUsage:
        """What we saw of its work. No provider that sends bills is called without our word."""
        if self.paid and not self.allowed and self.phase == "queued":
            return FREE
        return PartialUsage(completion_tokens=self.tokens)

    def summary(self) -> AttemptSummary:
        return AttemptSummary(
            worker_id=self.worker_id,
            model_id=self.model_id,
            outcome=self.outcome,
            duration_ms=self.duration_ms,
            error=str(self.error) if self.error else None,
        )

    def record(self, request_id: str, task_id: str) -> AttemptRecord:
        """The row of the books."""
        answer = self.ended if isinstance(self.ended, FinalResponse) else self._late
        usage = self.usage
        return AttemptRecord(
            request_id=request_id,
            attempt=self.number,
            task_id=task_id,
            created_at=self.created_at,
            worker_id=self.worker_id,
            backend=self.choice.worker.heartbeat.backend,
            model_id=self.model_id,
            epoch=self.epoch,
            outcome=self.outcome,
            error_code=self.error.code if self.error else None,
            error_message=self.error.message if self.error else None,
            duration_ms=self.duration_ms,
            ttft_ms=answer.ttft_ms if answer else None,
            queue_ms=answer.queue_ms if answer else None,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cost_usd=self.cost,
            price=self.choice.card.price,
            confidence=answer.confidence if answer else None,
            simulated=answer.simulated if answer else False,
        )
