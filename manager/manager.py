"""The Manager: takes a request from `infer.auto`, picks a worker, and sends the next one when that goes quiet.

Read `_serve` for the story of a request; it goes on in `request/dispatch.py` (ask, follow), `routing/ranking.py` (which
worker) and `request/retry_policy.py` (whether another one), and ends in `request/settlement.py` (the books). `liveness`
knows which workers are here. No state of a Manager is needed by another one: start three, kill one.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress

import structlog
from pydantic import ValidationError

from bus import Bus, BusError, BusSettings, InboxReply, Message, Subscription, Tasks, tracing
from bus.deadline import seconds_left
from bus.reply import accepts, internal_error
from bus.role_status import Figure, RoleStatus
from bus.service import EndpointStats, Service, package_version, serve_info
from bus.tasks import Idle, first_of
from config.loader import ConfigError
from config.watched_file import ConfigFile
from contracts import (
    Answer,
    BullpenError,
    CancelRequest,
    ControlRequest,
    ErrorCode,
    InferenceResponse,
    ManagerReply,
    Piece,
    StatusReply,
    StatusRequest,
    new_id,
    read_any,
    salvage_stream,
    salvage_task_id,
)
from contracts import headers as h
from contracts import subjects as s
from contracts.control import mistakes
from contracts.privacy import heeding, stricter
from manager.budgets.of_keys import KeyBudgets
from manager.config import ManagerConfig
from manager.figures import RequestCounts, figures_of_budgets, figures_of_workers
from manager.grade_sync import GradeKeeper
from manager.idempotency import Answers, Mine, key_of
from manager.jobs.consumer import Jobs
from manager.jobs.job import Job, Result
from manager.liveness import LivenessMonitor
from manager.metrics import Metrics
from manager.reload import Settings
from manager.request.dispatch import Dispatcher
from manager.request.recording import Books
from manager.request.settlement import Settlement, has_late
from manager.request.shared_state import SharedState
from manager.request.state import RequestState, cancelled, hops
from manager.request.trace import RequestTrace
from manager.routing.query import RoutingQuery
from manager.shadow import OURS, ShadowReply, ShadowTraffic
from outbox.outbox import Outbox, OutboxSettings

log = structlog.get_logger(__name__)

AUTO = (s.INFER_AUTO, s.EMBED_AUTO)
"""The subjects on which callers ask a Manager."""
MAX_HOPS = 2
DRAIN_WITHIN = 30.0
START_PATIENCE = 30.0
OPEN_ANSWERS_WITHIN = 0.5
"""Seconds to wait for JetStream before the first request is taken; without it idempotency keys are best effort."""


class Manager:
    def __init__(
        self,
        bus: Bus,
        outbox: Outbox,
        config: ManagerConfig,
        manager_id: str,
        config_file: ConfigFile[ManagerConfig] | None = None,
    ) -> None:
        self._bus = bus
        self._outbox = outbox
        self._id = manager_id
        self._tasks = Tasks(manager_id)
        self._metrics = Metrics(bus, manager_id)
        self._counts = RequestCounts()
        self._shared = SharedState(bus, config, manager_id, self._metrics)
        self._settlement = Settlement(self._shared, Books(outbox, manager_id))
        self._answers = Answers(bus)
        self._shadow = ShadowTraffic(self._shared, outbox, self._answer_aside, self._tasks.start)
        self._jobs = Jobs(bus, config.jobs, self._perform)
        self._settings = Settings(config, config_file, self._shared, self._jobs)
        self.lag: Callable[[], float] = lambda: 0.0
        """Returns by how many seconds the event loop was late recently."""
        self._leaving = False
        self._running: set[RequestState] = set()
        self._idle = Idle()
        self._lingering: set[RequestState] = set()
        """Requests that are answered, but at which a worker that was given up may still work."""
        self._liveness = LivenessMonitor(bus, self._shared, lambda: [*self._running, *self._lingering])
        self._requests: list[Subscription] = []
        """Our subscriptions in the queue groups of `infer.auto` and `embed.auto`; none while draining."""
        self._stats = EndpointStats("auto", s.INFER_AUTO, s.INFER_QUEUE)
        self._embed_stats = EndpointStats("embed", s.EMBED_AUTO, s.INFER_QUEUE)

    async def run(self, stop: asyncio.Event) -> None:
        """Serves until `stop` is set or the bus is lost; then finishes the requests under way."""
        await self._liveness.listen()
        await self._bus.subscribe(s.INFER_CANCEL, self._on_cancel)
        await self._bus.subscribe(s.INFER_STATUS, self._on_status)
        await self._bus.subscribe(s.manager_control(self._id), self._on_control)
        self._tasks.start(self._answers.keep_open(), "answers")
        await self._answers.opened_within(OPEN_ANSWERS_WITHIN)
        await self._share()
        await serve_info(self._bus, self._service())
        self._tasks.start(self._jobs.run(), "jobs")
        self._tasks.start(self._settings.follow(), "config")
        self._tasks.start(self._liveness.sweep(), "sweep")
        self._tasks.start(self._liveness.reconcile(), "reconcile")
        self._tasks.start(self._liveness.acquaint(), "acquaint")
        self._tasks.start(self._tell_metrics(), "metrics")
        self._tasks.start(
            GradeKeeper(self._bus, self._shared.grades, self._shared.estimates).keep(self._shared.served), "grades"
        )
        self._tasks.start(self._shared.budgets.keep(), "budgets")
        self._tasks.start(KeyBudgets(self._bus, self._shared.budgets).keep(), "budgets-of-keys")
        log.info("manager_ready", manager_id=self._id)
        await first_of(stop, self._bus.lost)
        await self._leave()

    async def _share(self) -> None:
        """Takes requests from `infer.auto` and `embed.auto`, and jobs from `JOBS`."""
        self._jobs.take_part()
        if not self._requests:
            self._requests = [await self._bus.subscribe(one, self._take, queue=s.INFER_QUEUE) for one in AUTO]

    async def _stand_back(self) -> None:
        """Takes nothing new; requests under way go on."""
        self._jobs.stand_back()
        requests, self._requests = self._requests, []
        for one in requests:
            await one.stop()

    async def _leave(self) -> None:
        self._leaving = True
        requests, self._requests = self._requests, []
        self._jobs.stand_back()
        with suppress(TimeoutError, asyncio.CancelledError):  # a second signal: enough waited
            async with asyncio.timeout(DRAIN_WITHIN):
                await asyncio.gather(*(one.drain() for one in requests))
                await self._idle.wait()
        if self._running:
            log.warning("manager_left_early", unanswered=len(self._running))
            await self._withdraw()
        await self._jobs.leave()
        await self._tasks.cancel()
        await self._shared.budgets.close()

    async def _withdraw(self) -> None:
        """Gives back requests that are not answered: another Manager has to take them."""
        for state in list(self._running):
            leaving = BullpenError(ErrorCode.DRAINING, f"{self._id} is leaving, ask again", retry_after_ms=0)
            self._stop(state, leaving)
        with suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await self._idle.wait()

    def _service(self) -> Service:
        return Service(
            name="bullpen-manager",
            id=self._id,
            version=package_version(),
            description="Answers infer.auto with the best worker of the mesh",
            metadata={"manager_id": self._id},
            endpoints=(self._stats, self._embed_stats),
        )

    # The story of a request

    async def _take(self, message: Message) -> None:
        """Reads a request, or says what is wrong with it; then serves it."""
        if not accepts(message.reply):
            log.warning("reply_refused", reply=message.reply[:64])
            return
        try:
            state = self._admit(message)
        except BullpenError as error:
            await self._refuse(message, error)
            return
        except Exception:
            log.exception("request_not_read")
            await self._refuse(message, internal_error())
            return
        state.reply.on_abandoned = lambda: self._stop(state, cancelled("the caller reads the stream no more"))
        await self._see_through(state)

    async def _perform(self, message: Message, job: Job, patient: bool) -> tuple[Result, BullpenError | None]:
        """Answers a durable request. Raises `BullpenError(invalid_request)`."""
        state = self._admit(message)
        state.patient = patient
        result = state.reply = Result(self._bus, state.task_id, state.request_id, job.id)
        return result, await self._see_through(state)

    async def _answer_aside(self, message: Message) -> InferenceResponse | None:
        """The answer to a shadow request, which no caller asked; None: it failed."""
        try:
            state = self._admit(message)
        except BullpenError as error:
            log.warning("aside_refused", error=str(error))
            return None
        aside = state.reply = ShadowReply(self._bus, state.task_id, state.request_id)
        failure = await self._see_through(state)
        return None if failure is not None else InferenceResponse.model_validate_json(aside.body)

    async def _see_through(self, state: RequestState) -> BullpenError | None:
        """Serves a request and books it. Returns the failure, if it is one."""
        self._running.add(state)
        try:
            with self._idle.busy():
                response, failure = await self._serve(state)
                if state.trace is not None:
                    state.trace.answered(state.request, response, failure, words=self._may_keep(state))
                if not state.comes_again(failure):
                    stats = self._stats_of(state.request.kind)
                    stats.count(self._shared.now() - state.arrived, failure.code if failure else None)
                    self._metrics.count(failed=failure is not None, rerouted=len(state.attempts) > 1)
                    self._counts.ended(state, response, failure, self._shared.now())
                if response is not None and failure is None and self._requests:
                    self._shadow.consider(state, response)
                if state.entry is None:
                    await self._settlement.settle(state, response, failure)
                else:
                    await asyncio.gather(
                        self._settlement.settle(state, response, failure),
                        self._keep(state.entry, state, response, failure),
                    )
                if not state.comes_again(failure):
                    self._counts.settled(state, failure, self._shared.config.tenants_in_metrics)
            return failure
        finally:
            self._running.discard(state)
            self._tasks.start(self._linger(state), "late") if has_late(state) else state.close()

    async def _serve(self, state: RequestState) -> tuple[Answer | None, BullpenError | None]:
        """Serves one request, to its one final message. Returns what the caller got: the answer, or the failure."""
        response: Answer | None = None
        dispatcher = Dispatcher(self._shared, state)
        try:
            response = await self._replayed(state) or await dispatcher.answer()
            await self._settlement.before_reply(state, response, None)
            return response, await state.reply.response(response)
        except BullpenError as error:
            failure = error
        except BusError as error:
            failure = BullpenError(ErrorCode.NO_WORKER, str(error))
        except Exception:
            log.exception("request_failed", task_id=state.task_id)
            failure = internal_error()
        finally:
            dispatcher.close()
        await self._settlement.before_reply(state, None, failure)
        await self._tell(state, failure)
        return response, failure

    async def _tell(self, state: RequestState, failure: BullpenError) -> None:
        """Sends the error: every request ends with a final message, if there is a way to send it."""
        try:
            await state.reply.error(failure, state.summaries)
        except BusError as error:
            log.warning("error_not_sent", task_id=state.task_id, error=str(error))

    async def _replayed(self, state: RequestState) -> Answer | None:
        """The earlier answer for the request's idempotency key. None: the request has to be answered."""
        if state.key is None:
            return None
        begin = self._answers.begin(state.key, state.request, state.request_id, state.deadline)
        entry = await state.unless_stopped(begin)
        if isinstance(entry, Mine):
            state.entry = entry
            if entry.revision is None:
                state.reply.extra_headers[h.IDEMPOTENCY] = h.BEST_EFFORT
            return None
        answer = state.replayed(entry.answer, self._shared.now())
        await state.reply.chunk(state.reply.delivered.missing(answer) or Piece())
        return answer

    def _may_keep(self, state: RequestState) -> bool:
        """Whether the request's words may be kept anywhere."""
        return stricter(self._outbox.settings.content, state.request.content) == "full"

    async def _keep(
        self, entry: Mine, state: RequestState, response: Answer | None, failure: BullpenError | None
    ) -> None:
        """Remembers the answer for its idempotency key. An error is not remembered, nor words that must not be kept."""
        may_keep = self._may_keep(state)
        if response is not None and failure is None and may_keep:
            await self._answers.finish(entry, response)
        else:
            await self._answers.release(entry)

    def _admit(self, message: Message) -> RequestState:
        """Reads the request. Raises `BullpenError(invalid_request)`."""
        now = self._shared.now()
        request, body = read_any(s.kind_of(message.subject), message.data)
        request = heeding(request, message.headers)
        if message.subject in AUTO and message.reply and (request.task_id or "").startswith(OURS):
            raise BullpenError(ErrorCode.INVALID_REQUEST, "task_id begins as the Manager's own do", field="task_id")
        passed_on = hops(message.headers)
        if passed_on >= MAX_HOPS:
            raise BullpenError(ErrorCode.INVALID_REQUEST, "this message went round already", field=h.HOPS)
        assert request.task_id is not None
        request_id = new_id()
        self._shared.asked()
        return RequestState(
            request=request,
            key=key_of(request, message.headers),
            body=body,
            headers=h.of_caller(message.headers),
            task_id=request.task_id,
            request_id=request_id,
            reply=InboxReply(self._bus, message.reply, request.task_id, request_id, streaming=request.stream),
            asked=RoutingQuery.of(request),
            arrived=now,
            deadline=now + seconds_left(message.headers, request),
            hops=passed_on,
            trace=RequestTrace(request, request_id, message.headers) if tracing.is_on() else None,
        )

    async def _refuse(self, message: Message, error: BullpenError) -> None:
        """Answers a request that could not even be read."""
        task_id = salvage_task_id(message.data) or new_id()
        self._stats_of(s.kind_of(message.subject)).count(0.0, error.code)
        streaming = salvage_stream(message.data)
        await InboxReply(self._bus, message.reply, task_id, new_id(), streaming=streaming).error(error)

    def _stats_of(self, kind: s.Kind) -> EndpointStats:
        return self._embed_stats if kind == "embed" else self._stats

    async def _linger(self, state: RequestState) -> None:
        """Listens on, for the books: a worker that was given up may still answer."""
        self._lingering.add(state)
        try:
            await self._settlement.wait_for_the_late(state)
        finally:
            self._lingering.discard(state)
            state.close()

    # How it is

    def why_not_ready(self) -> str:
        """Why this Manager takes no requests now; empty while it does."""
        if not self._bus.is_connected:
            return "the connection to NATS is away"
        if self._requests:
            return ""
        return "leaving" if self._leaving else "draining, or not started yet"

    def figures(self) -> Iterator[Figure]:
        """For `/metrics`."""
        yield Figure("nats_connected", "1: the connection to NATS is there", self._bus.is_connected)
        yield Figure("requests_running", "Requests that are not answered yet", len(self._running))
        yield Figure("requests_waiting", "Requests that wait for a worker", len(self._shared.queue))
        done, failed = (
            sum(getattr(one, of) for one in (self._stats, self._embed_stats)) for of in ("num_requests", "num_errors")
        )
        yield Figure("requests_total", "Requests answered or failed", done, "counter")
        yield Figure("requests_failed_total", "Requests that ended with an error", failed, "counter")
        yield Figure("jobs_running", "Durable jobs that this Manager has begun", self._jobs.running)
        if self._jobs.waiting is not None:
            yield Figure("jobs_waiting", "Durable jobs of the mesh that nobody has begun", self._jobs.waiting)
        yield from self._counts.figures()
        yield from figures_of_workers(self._shared)
        yield from figures_of_budgets(self._shared)
        yield from self._outbox.figures()

    # Being told what to do

    async def _on_cancel(self, message: Message) -> None:
        try:
            asked = CancelRequest.model_validate_json(message.data)
        except ValidationError:
            return
        for state in [i for i in self._running if i.is_stopped_by(asked)]:
            self._stop(state, cancelled("cancelled by the caller"))

    def _stop(self, state: RequestState, why: BullpenError) -> None:
        """Ends a request with `why`, in whatever state it is."""
        state.stop(why)
        self._shared.wake(state.turn)

    async def _on_status(self, message: Message) -> None:
        """Answers a status request about a task of ours; ignores other Managers' tasks."""
        try:
            asked = StatusRequest.model_validate_json(message.data)
        except ValidationError:
            return
        ours = next((i for i in self._running if i.is_meant(asked)), None)
        if ours is None or not message.reply or not accepts(message.reply):
            return
        reply = StatusReply(
            manager_id=self._id,
            task_id=ours.task_id,
            request_id=ours.request_id,
            state="running" if ours.running else "waiting",
        )
        await self._bus.publish(message.reply, reply.to_bytes())

    async def _on_control(self, message: Message) -> None:
        try:
            op = ControlRequest.model_validate_json(message.data).op
        except ValidationError as error:
            op, problem = "status", mistakes(error)
        else:
            problem = await self._obey(op)
        if not message.reply or not accepts(message.reply):
            return
        reply = ManagerReply(
            ok=not problem,
            manager_id=self._id,
            message=problem,
            state="ready" if self._requests else "draining",
            inflight=len(self._running),
            waiting=len(self._shared.queue),
            config_digest=self._settings.digest,
            config_refused=self._settings.refused,
            budgets=tuple(await self._shared.budgets.states()) if op == "budgets" else None,
        )
        await self._bus.publish(message.reply, reply.to_bytes())

    async def _obey(self, op: str) -> str:
        """Carries out a control request. Returns what is wrong with it; empty: done."""
        if op == "drain":
            await self._stand_back()
        elif op == "resume":
            if self._leaving:
                return "the Manager is leaving"
            await self._share()
        elif op == "reload":
            return await self._settings.reload()
        elif op not in ("status", "budgets"):
            return f"a Manager cannot {op}: it knows status, drain, resume, reload and budgets"
        return ""

    async def _tell_metrics(self) -> None:
        while True:
            await asyncio.sleep(self._metrics.EVERY)
            self._metrics.tell_all(
                self._shared.registry,
                self._shared.estimates,
                inflight=len(self._running),
                waiting=len(self._shared.queue),
                outbox=self._outbox,
                jobs=(self._jobs.running, self._jobs.waiting),
                lag_s=self.lag(),
            )


async def run(
    settings: BusSettings,
    config: ManagerConfig,
    *,
    manager_id: str,
    stop: asyncio.Event,
    books: OutboxSettings | None = None,
    config_file: ConfigFile[ManagerConfig] | None = None,
    status: RoleStatus | None = None,
) -> None:
    """Runs one Manager until `stop` is set, and takes over what is saved in `config_file` meanwhile.

    `status` is filled in, for whoever shows it on this machine.

    Raises `BusUnreachable`, `ConfigError`; `BusError`: the bus was lost.
    """
    if not s.is_name(manager_id):
        raise ConfigError(f"{manager_id!r} is not a Manager's id: 1 to 64 of A-Z a-z 0-9 _ - are allowed")
    bus = await Bus.connect(f"manager:{manager_id}", settings, patience=START_PATIENCE, stop=stop)
    outbox = await Outbox.open(manager_id, settings, books or OutboxSettings(), patience=START_PATIENCE, stop=stop)
    try:
        manager = Manager(bus, outbox, config, manager_id, config_file)
        if status is not None:
            status.why_not, status.figures = manager.why_not_ready, manager.figures
            manager.lag = status.lag
        await manager.run(stop)
        if bus.lost.is_set():
            raise BusError("the connection to NATS is lost for good")
    finally:
        await outbox.close()
        await bus.close()
