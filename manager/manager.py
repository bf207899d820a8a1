"""The Manager: takes a question from `infer.auto`, picks who answers, sends the next when one goes quiet.

Read `_serve` for the story of a request. The decisions themselves are pure and live beside this file:
`registry` (who is here), `ranking` (who is best), `attempt` (how long to wait), `failover` (whether to
ask somebody else). No state here is needed by another Manager: start three, kill one.
"""

import asyncio
import random

import structlog
from pydantic import ValidationError
from pydantic_core import from_json

from bus import Bus, BusError, BusSettings, Message, Reply, Tasks
from bus.deadline import seconds_left
from bus.outbox import Outbox
from bus.reply import accepts, internal_error
from bus.service import EndpointStats, Service, package_version, serve_info
from bus.tasks import first_of
from contracts import (
    BullpenError,
    CancelRequest,
    Chunk,
    Claim,
    ControlRequest,
    ErrorCode,
    ErrorReply,
    FinalResponse,
    Go,
    Heartbeat,
    InferenceResponse,
    Outcome,
    Progress,
    RouteDecision,
    WorkerMessage,
    new_id,
    parse_request,
    salvage_task_id,
    utc_now,
)
from contracts import headers as h
from contracts import subjects as s
from manager import failover
from manager.attempt import Attempt, Ending, read_event
from manager.books import Books
from manager.config import ManagerConfig
from manager.estimates import Estimates
from manager.inflight import Gone, Heard, Inflight, hops, out_of_time
from manager.metrics import Metrics
from manager.ranking import Choice, Obstacle, Question, Ranking, rank
from manager.registry import Registry
from manager.waiting import WaitingRoom

log = structlog.get_logger(__name__)

SWEEP_EVERY = 0.1
WARM_UP = 1.25
"""Seconds after (re)connecting in which an empty registry means "not heard yet", not "nobody"."""
MAX_HOPS = 2
DRAIN_WITHIN = 30.0
PAUSE_UNTOLD = 0.1
"""Seconds to leave a worker alone that said it is full without saying for how long."""
START_PATIENCE = 30.0


class Manager:
    def __init__(self, bus: Bus, outbox: Outbox, config: ManagerConfig, manager_id: str) -> None:
        self._bus = bus
        self._outbox = outbox
        self._books = Books(outbox, manager_id)
        self._config = config
        self._id = manager_id
        self._registry = Registry(config.silent_after_beats)
        self._estimates = Estimates()
        self._room = WaitingRoom(config.max_waiting)
        self._inflight: set[Inflight] = set()
        self._tasks = Tasks(manager_id)
        self._rng = random.Random()  # noqa: S311 — breaks ties, guards no secret
        self._warm_at = 0.0
        self._stats = EndpointStats("auto", s.INFER_AUTO, s.INFER_QUEUE)
        self._metrics = Metrics(bus, manager_id)

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set or the bus is lost; then finishes what runs."""
        await self._reconnected()
        self._bus.on_reconnect.append(self._reconnected)
        await self._bus.subscribe_inline(s.WORKER_HEARTBEAT, self._on_heartbeat)
        await self._bus.subscribe_inline(s.SYS_DISCONNECT, self._on_disconnect)
        await self._bus.subscribe(s.INFER_CANCEL, self._on_cancel)
        requests = await self._bus.subscribe(s.INFER_AUTO, self._serve, queue=s.INFER_QUEUE)
        await serve_info(self._bus, self._service())
        self._tasks.start(self._sweep(), "sweep")
        self._tasks.start(self._tell_metrics(), "metrics")
        log.info("manager_ready", manager_id=self._id)
        await first_of(stop, self._bus.lost)
        try:
            async with asyncio.timeout(DRAIN_WITHIN):
                await requests.drain()
        except TimeoutError:
            log.warning("manager_left_early", unanswered=len(self._inflight))
        await self._tasks.cancel()

    def _service(self) -> Service:
        return Service(
            name="bullpen-manager",
            id=self._id,
            version=package_version(),
            description="Answers infer.auto with the best worker of the mesh",
            metadata={"manager_id": self._id},
            endpoints=(self._stats,),
        )

    # The story of a request

    async def _serve(self, message: Message) -> None:
        """One request, from its bytes to its one final message, then the books."""
        if not accepts(message.reply):
            log.warning("reply_refused", reply=message.reply[:64])
            return
        try:
            inflight = self._admit(message)
        except BullpenError as error:
            await self._refuse(message, error)
            return
        self._inflight.add(inflight)
        failure: BullpenError | None = None
        response: InferenceResponse | None = None
        try:
            response = await self._pursue(inflight)
            failure = await inflight.reply.response(response)
        except BullpenError as error:
            failure = error
            await inflight.reply.error(error, inflight.summaries)
        except BusError as error:
            failure = BullpenError(ErrorCode.NO_WORKER, str(error))
            log.warning("answer_not_sent", task_id=inflight.task_id, error=str(error))
        except Exception:
            log.exception("request_failed", task_id=inflight.task_id)
            failure = internal_error()
            await inflight.reply.error(failure, inflight.summaries)
        finally:
            self._inflight.discard(inflight)
            inflight.close()
        self._close(inflight, response, failure)

    def _admit(self, message: Message) -> Inflight:
        """Reads the request. Raises `BullpenError(invalid_request)`."""
        now = self._now()
        request = parse_request(message.data)
        if hops(message.headers) >= MAX_HOPS:
            raise BullpenError(ErrorCode.INVALID_REQUEST, "this message went round already", field=h.HOPS)
        assert request.task_id is not None
        request_id = new_id()
        return Inflight(
            request=request,
            body=message.data,
            headers=message.headers,
            task_id=request.task_id,
            request_id=request_id,
            reply=Reply(self._bus, message.reply, request.task_id, request_id, streaming=request.stream),
            asked=Question.of(request),
            arrived=now,
            deadline=now + seconds_left(message.headers, request.deadline_ms),
        )

    async def _pursue(self, inflight: Inflight) -> InferenceResponse:
        """Asks one worker after the other until one has answered well enough. Raises `BullpenError`."""
        while True:
            choice = await self._choose(inflight)
            if choice is None:
                return self._best(inflight)
            attempt = await self._send(inflight, choice)
            answer = await self._follow(inflight, attempt)
            if answer is not None and self._sure_enough(inflight, answer):
                return self._best(inflight)
            if answer is None and (error := failover.verdict(inflight.attempts, self._config)):
                if inflight.best is None:
                    raise error
                return self._best(inflight)

    def _sure_enough(self, inflight: Inflight, answer: FinalResponse) -> bool:
        """Keeps the better answer; True when it reaches the confidence the caller asked for."""
        if inflight.best is None or answer.confidence > inflight.best.confidence:
            inflight.best = answer
        return answer.confidence >= (inflight.request.min_confidence or 0.0)

    def _best(self, inflight: Inflight) -> InferenceResponse:
        answer = inflight.best
        assert answer is not None
        attempt = next(a for a in inflight.attempts if a.ended is answer)
        return inflight.finished(answer, attempt, self._now())

    # Choosing

    async def _choose(self, inflight: Inflight) -> Choice | None:
        """The best worker; waits while all are full. None when a less sure answer is all there will be."""
        again = False
        while True:
            if inflight.cancelled.is_set():
                raise _cancelled()
            if inflight.remaining(self._now()) <= 0:
                raise out_of_time()
            ranking = self._rank(inflight)
            if ranking.winner is not None:
                self._explain(inflight, ranking)
                return ranking.winner
            if inflight.best is not None:
                return None
            await self._wait_for_somebody(inflight, ranking, again=again)
            again = True

    def _rank(self, inflight: Inflight) -> Ranking:
        policy = inflight.request.policy if inflight.best is None else "best"
        return rank(
            inflight.question(),
            self._registry,
            self._estimates,
            self._config.policies[policy],
            now=self._now(),
            rng=self._rng,
        )

    async def _wait_for_somebody(self, inflight: Inflight, ranking: Ranking, *, again: bool) -> None:
        """Waits when waiting can help. Raises `BullpenError` saying why nobody can be asked when it can't."""
        now, priority = self._now(), inflight.request.priority
        remaining = inflight.remaining(now)
        match ranking.obstacle:
            case Obstacle.FULL:
                await self._room.wait(priority, again=again, seconds=remaining)
            case Obstacle.PAUSED if self._pause_left(now) < remaining:
                await self._room.wait(priority, again=again, seconds=self._pause_left(now))
            case _ if now < self._warm_at and ranking.obstacle is not Obstacle.BUDGET:
                await self._room.wait(priority, again=again, seconds=self._warm_at - now)
            case Obstacle.EXHAUSTED:
                self._explain(inflight, ranking)
                raise failover.exhausted(inflight.attempts)
            case _:
                self._explain(inflight, ranking)
                request = inflight.request
                raise failover.nobody(ranking, request.model or request.backend, self._served())

    def _pause_left(self, now: float) -> float:
        return min((m.paused_until - now for m in self._registry if m.paused_until > now), default=0.0) + 0.001

    def _served(self) -> list[str]:
        return sorted({card.model_id for m in self._registry if not m.gone for card in m.heartbeat.models})

    def _explain(self, inflight: Inflight, ranking: Ranking) -> None:
        """Says on `metrics.route` who was considered, and why the winner won."""
        winner = ranking.winner
        decision = RouteDecision(
            manager_id=self._id,
            request_id=inflight.request_id,
            task_id=inflight.task_id,
            attempt=len(inflight.attempts) + 1,
            policy=inflight.request.policy,
            weights=self._config.policies[inflight.request.policy],
            winner=winner.member.worker_id if winner else None,
            model_id=winner.card.model_id if winner else None,
            candidates=ranking.candidates,
            created_at=utc_now(),
        )
        self._metrics.tell(s.METRICS_ROUTE, decision)

    # Asking

    async def _send(self, inflight: Inflight, choice: Choice) -> Attempt:
        """Hands the request to the worker, on the worker's own subject."""
        now, member = self._now(), choice.member
        attempt = Attempt(len(inflight.attempts) + 1, choice, now, utc_now(), inflight.asked.tokens_in)
        previous = inflight.current
        inflight.attempts.append(attempt)
        member.assigned += 1
        if previous is not None and inflight.reply.delivered:
            await inflight.reply.resumed(previous.worker_id, attempt.worker_id, continued=False)
        listener = self._bus.listen(lambda message: self._hear(inflight, attempt, message))
        inflight.listeners.append(listener)
        await self._bus.publish(
            s.infer_worker(member.heartbeat.backend, member.worker_id),
            inflight.body,
            reply=listener.subject,
            headers=inflight.headers_for(attempt, now),
        )
        return attempt

    def _hear(self, inflight: Inflight, attempt: Attempt, message: Message) -> None:
        event: WorkerMessage | Gone | BullpenError
        try:
            event = Gone("nobody listens there") if message.no_responders else read_event(message.data)
        except BullpenError as error:
            event = error
        inflight.events.put_nowait(Heard(attempt, event, message.reply))

    async def _follow(self, inflight: Inflight, attempt: Attempt) -> FinalResponse | None:
        """Listens until the attempt has ended, or an earlier one answered after all. None: no answer.

        Raises `BullpenError` when the caller wants it no more or the deadline has passed.
        """
        while attempt.ended is None:
            heard = await inflight.next_event(min(attempt.overdue_at(self._config), inflight.deadline))
            if inflight.cancelled.is_set():
                await self._give_up(attempt, Ending(Outcome.CANCELLED, _cancelled()), inflight)
                raise _cancelled()
            if heard is None:
                await self._lose_patience(inflight, attempt)
            elif heard.attempt is attempt:
                await self._take(inflight, attempt, heard)
            elif (late := self._late_answer(inflight, heard)) is not None:
                await self._give_up(attempt, Ending(Outcome.CANCELLED, _cancelled()), inflight)
                return late
        return attempt.ended if isinstance(attempt.ended, FinalResponse) else None

    async def _take(self, inflight: Inflight, attempt: Attempt, heard: Heard) -> None:
        """One thing heard of the attempt that is being followed."""
        match heard.event:
            case Claim() | Progress() as sign:
                attempt.hear(sign, self._now())
                if heard.sender:
                    go = Go(budget_ms=max(1, round(inflight.remaining(self._now()) * 1000)))
                    await self._bus.publish(heard.sender, go.to_bytes())
            case Chunk() as chunk:
                attempt.hear(chunk, self._now())
                await inflight.reply.chunk(chunk.delta)
            case FinalResponse() as answer:
                self._end(attempt, answer)
            case ErrorReply() as reply:
                self._end(attempt, Ending.told(reply))
            case Gone(why):
                self._end(attempt, attempt.lost(why))
            case BullpenError() as rubbish:
                await self._give_up(attempt, Ending(Outcome.FAILED, rubbish), inflight)

    def _late_answer(self, inflight: Inflight, heard: Heard) -> FinalResponse | None:
        """The answer of a worker that was given up on counts, as long as nobody has answered yet."""
        if not isinstance(heard.event, FinalResponse) or inflight.reply.streaming:
            return None
        heard.attempt.end(heard.event, self._now())
        return heard.event

    async def _lose_patience(self, inflight: Inflight, attempt: Attempt) -> None:
        if inflight.remaining(self._now()) <= 0:
            await self._give_up(attempt, Ending(Outcome.UNCERTAIN, out_of_time()), inflight)
            raise out_of_time()
        if not attempt.claimed and self._rank(inflight).winner is None:
            attempt.wait_again(self._now())  # slow to claim, but there is nobody else
            return
        await self._give_up(attempt, attempt.overdue(), inflight)

    async def _give_up(self, attempt: Attempt, ending: Ending, inflight: Inflight) -> None:
        """Ends the attempt from our side, and tells the worker to stop."""
        self._end(attempt, ending)
        cancel = ControlRequest(op="cancel", request_id=inflight.request_id, attempt=attempt.number)
        await self._bus.publish(s.worker_control(attempt.worker_id), cancel.to_bytes())

    def _end(self, attempt: Attempt, ending: Ending | FinalResponse) -> None:
        """Records how an attempt ended, and lets the next in line have its place."""
        now = self._now()
        attempt.end(ending, now)
        member = attempt.choice.member
        member.assigned -= 1
        if isinstance(ending, FinalResponse):
            member.answered += 1
            self._estimates.answered(ending, attempt.duration_ms - ending.queue_ms)
        else:
            member.failed += 1
            log.info("attempt_ended", worker_id=attempt.worker_id, outcome=ending.outcome, error=str(ending.error))
            if ending.outcome is Outcome.REFUSED:
                self._pause(attempt, ending.error, now)
            elif ending.outcome in (Outcome.FAILED, Outcome.TRUNCATED):
                self._estimates.failed(attempt.model_id)
        self._room.call(1)

    def _pause(self, attempt: Attempt, error: BullpenError, now: float) -> None:
        """A worker that said it is full, or limited, is left alone as long as it asks."""
        if error.code in (ErrorCode.OVERLOADED, ErrorCode.RATE_LIMITED):
            seconds = PAUSE_UNTOLD if error.retry_after_ms is None else error.retry_after_ms / 1000
            attempt.choice.member.paused_until = now + seconds

    # After the answer

    def _close(self, inflight: Inflight, response: InferenceResponse | None, failure: BullpenError | None) -> None:
        """Figures and books; nothing on the way of the answer waited for this."""
        self._stats.count(self._now() - inflight.arrived, str(failure) if failure else None)
        self._metrics.count(failed=failure is not None, rerouted=len(inflight.attempts) > 1)
        self._books.book(inflight, response, failure, self._now())

    async def _refuse(self, message: Message, error: BullpenError) -> None:
        """Tells what is wrong with a request that could not even be read."""
        task_id = salvage_task_id(message.data) or new_id()
        self._stats.count(0.0, str(error))
        await Reply(self._bus, message.reply, task_id, new_id(), streaming=False).error(error)

    # Who is here

    def _on_heartbeat(self, message: Message) -> None:
        try:
            beat = Heartbeat.model_validate_json(message.data)
        except ValidationError as error:
            log.warning("heartbeat_unreadable", error=str(error)[:200])
            return
        void = self._registry.hear(beat, self._now())
        if void is not None:
            self._left(void, "it restarted or stopped")
        member = self._registry.get(beat.worker_id)
        if member is not None and len(self._room):
            self._room.call(member.free)

    def _on_disconnect(self, message: Message) -> None:
        """The server's own word that a connection ended: the quickest way to learn of a death."""
        try:
            name = from_json(message.data)["client"].get("name", "")
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        worker_id = s.worker_of_connection(name)
        if worker_id is not None and self._registry.leave(worker_id, "disconnected"):
            log.info("worker_left", worker_id=worker_id)
            self._left(worker_id, "disconnected")

    def _left(self, worker_id: str, why: str) -> None:
        """Whatever runs there will not come back: those who wait for it are told."""
        for inflight in self._inflight:
            attempt = inflight.current
            if attempt is not None and attempt.ended is None and attempt.worker_id == worker_id:
                inflight.events.put_nowait(Heard(attempt, Gone(why)))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            if self._bus.is_connected:
                for worker_id in self._registry.sweep(self._now(), SWEEP_EVERY):
                    log.warning("worker_silent", worker_id=worker_id)
                    self._left(worker_id, "silent")

    async def _reconnected(self) -> None:
        """What we know may be stale: nobody is dead because we could not hear, and nobody new is known yet."""
        self._warm_at = self._now() + WARM_UP
        for member in self._registry:
            member.heard = self._now()

    async def _on_cancel(self, message: Message) -> None:
        try:
            task_id = CancelRequest.model_validate_json(message.data).task_id
        except ValidationError:
            return
        for inflight in [i for i in self._inflight if i.task_id == task_id]:
            inflight.cancel()
        self._room.call(len(self._room))

    async def _tell_metrics(self) -> None:
        while True:
            await asyncio.sleep(self._metrics.EVERY)
            self._metrics.tell_all(
                self._registry,
                self._estimates,
                inflight=len(self._inflight),
                waiting=len(self._room),
                outbox=self._outbox.pending,
            )

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


async def run(settings: BusSettings, config: ManagerConfig, *, manager_id: str, stop: asyncio.Event) -> None:
    """Runs one Manager until `stop` is set. Raises `BusUnreachable`; `BusError` when the bus was lost."""
    bus = await Bus.connect(f"manager:{manager_id}", settings, patience=START_PATIENCE, stop=stop)
    outbox = await Outbox.open(manager_id, settings, patience=START_PATIENCE, stop=stop)
    try:
        await Manager(bus, outbox, config, manager_id).run(stop)
        if bus.lost.is_set():
            raise BusError("the connection to NATS is lost for good")
    finally:
        await outbox.close()
        await bus.close()


def _cancelled() -> BullpenError:
    return BullpenError(ErrorCode.CANCELLED, "cancelled by the caller")
