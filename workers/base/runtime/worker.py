"""A worker: one backend connected to the mesh. Read `Worker.run` for its life and `Worker._serve` for a request's.

The worker listens on `infer.<backend>` while it is ready (shared with its peers) and always on its own
`infer.<backend>.w.<id>`. It sends heartbeats on the connection that serves, and books requests that callers sent to it
directly. The Manager books requests that it sent itself, because only the Manager knows what the caller got.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog

from bus import Bus, BusError, BusSettings, InboxReply, Message, Subscription, Tasks, tracing
from bus.measures import FIRST_TOKEN_SECONDS, OPERATION, SECONDS, histograms
from bus.reply import accepts, internal_error
from bus.role_status import Figure, RoleStatus
from bus.service import EndpointStats, Service, package_version, serve_info
from bus.tasks import Idle, first_of
from config.bounded import Latest
from config.loader import ConfigError
from config.watched_file import ConfigFile
from contracts import (
    Answer,
    BullpenError,
    Capability,
    EmbeddingRequest,
    ErrorCode,
    ErrorReply,
    ModelCard,
    WorkerState,
    new_id,
    salvage_stream,
    salvage_task_id,
    told_task_id,
)
from contracts import headers as h
from contracts import subjects as s
from contracts.heartbeat import ABILITY, MOST_MODELS
from contracts.tokens import prompt_tokens
from outbox.outbox import Outbox, OutboxSettings
from workers.base.engines.engine_set import Engine, EngineSet
from workers.base.interface.backend import Done, EmbeddingJob, Job
from workers.base.interface.config import BackendConfig
from workers.base.interface.discovery import BackendFolder
from workers.base.interface.silence import SilenceHistory
from workers.base.runtime.call import Call
from workers.base.runtime.confidence import Confidence
from workers.base.runtime.execution import CLAIM_AFTER, Execution, out_of_time
from workers.base.runtime.final_event_cache import FinalEventCache
from workers.base.runtime.health import Health
from workers.base.runtime.memory_guard import MemoryGuard
from workers.base.runtime.presence import Presence
from workers.base.runtime.quota import Quota
from workers.base.runtime.recording import DirectBooks
from workers.base.runtime.remote_control import RemoteControl
from workers.base.runtime.reply_channel import CallerChannel, ManagerChannel, ReplyChannel
from workers.base.runtime.response import response_of
from workers.base.runtime.swap import Swapper
from workers.base.runtime.trace import CallTrace

log = structlog.get_logger(__name__)

START_PATIENCE = 30.0
"""Seconds that a starting worker waits for a NATS server."""


class Worker:
    def __init__(
        self, bus: Bus, outbox: Outbox, engines: EngineSet, worker_id: str, config_file: ConfigFile[Any] | None = None
    ) -> None:
        self._bus = bus
        self._outbox = outbox
        self._engines = engines
        backend = self._backend = engines.current.backend
        self._id = worker_id
        self._presence = Presence(bus, outbox, backend.name, worker_id, engines=engines)
        self._books = DirectBooks(outbox, backend.name, worker_id, self._presence.epoch)
        self._memory_guard = MemoryGuard(worker_id, self._presence.meter, engines, self._settle)
        self._backend_is: tuple[WorkerState, str] = "starting", ""
        self._swapper = Swapper(engines, self._presence, config_file, self._activate)
        self._quota = Quota(bus, engines, backend.name, worker_id)
        self._confidence: Latest[str, Confidence] = Latest(MOST_MODELS)
        self._silences = SilenceHistory()
        self._running: dict[tuple[str, int], Execution] = {}
        self._idle = Idle()
        self._final_events = FinalEventCache()
        self._shared: dict[s.Kind, Subscription] = {}
        """This worker's subscriptions in the queue groups of its backend, by kind of request."""
        self._remote = RemoteControl(
            bus,
            worker_id,
            presence=self._presence,
            running=self._running,
            final_events=self._final_events,
            share=self._share,
            resume=self._resume,
            swapper=self._swapper,
        )
        self._leaving = False
        self._tasks = Tasks(worker_id)
        self._health = Health(engines.current, self._presence, self._become)
        self._looking: asyncio.Task[None] | None = None
        labels = ("gen_ai_response_model", "gen_ai_provider_name", "gen_ai_operation_name")
        self._first_tokens = histograms(
            "gen_ai_server_time_to_first_token_seconds", "From a request's arrival here", FIRST_TOKEN_SECONDS, *labels
        )
        self._durations = histograms(
            "gen_ai_server_request_duration_seconds",
            "Of a request, its wait here too",
            SECONDS,
            *labels,
            "error_type",
        )
        self._stats: dict[s.Kind, EndpointStats] = {
            kind: EndpointStats(kind, s.asked_backend(kind, backend.name), s.INFER_QUEUE) for kind in ABILITY
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Starts, serves until `stop` is set or the bus is lost, drains, and leaves."""
        self._tasks.start(self._presence.beat(), "heartbeat")
        await self._listen()
        self._look_after(self._health.keep())
        self._tasks.start(self._swapper.follow(), "config")
        self._tasks.start(self._memory_guard.keep(), "memory")
        self._tasks.start(self._quota.keep(), "account")
        await first_of(stop, self._bus.lost, self._remote.superseded)
        await self._drain()
        if self._remote.superseded.is_set():
            raise ConfigError(
                f"another worker goes by the id {self._id} and started later: give each an id of its own with --id"
            )

    async def _listen(self) -> None:
        backend, bus = self._backend.name, self._bus
        for kind in ABILITY:
            await bus.subscribe(s.asked_worker(kind, backend, self._id), self._serve)
        await self._remote.listen()
        await serve_info(
            bus,
            Service(
                name="bullpen-worker",
                id=self._id,
                version=package_version(),
                description=f"Answers on {self._stats['infer'].subject}",
                metadata=self._presence.card,
                endpoints=tuple(self._stats.values()),
            ),
        )

    # Being well

    async def _become(self, state: WorkerState, reason: str = "") -> None:
        """Sets the backend's state, which is the worker's state unless its memory is short."""
        self._backend_is = state, reason
        await self._settle()

    async def _settle(self) -> None:
        """Updates the worker's state, unless the worker is draining."""
        if self._presence.state != "draining":
            await self._show()

    def _is_for(self, kind: s.Kind) -> bool:
        """Whether the worker takes requests of this kind. A model out of service counts for `infer`: it may be back,
        and otherwise the caller gets the reason.
        """
        cards = self._presence.models
        if kind == "infer":
            return not cards or any(card.serves(kind) or not card.capabilities for card in cards)
        return any(card.serves(kind) for card in cards)

    async def _resume(self) -> bool:
        """Takes requests again, as far as backend and memory allow. False: the worker is leaving."""
        if not self._leaving:
            await self._show()
        return not self._leaving

    async def _show(self) -> None:
        state, reason = self._backend_is
        if state == "ready" and self._memory_guard.reason:
            state, reason = "degraded", self._memory_guard.reason
        await self._presence.become(state, reason)
        await self._share()

    async def _share(self) -> None:
        """Joins the queue groups of its backend while it is ready and able to answer, and leaves them otherwise, so
        that its peers get the requests.
        """
        ready = self._presence.state == "ready"
        for kind in ABILITY:
            takes = ready and self._is_for(kind)
            if takes and kind not in self._shared:
                subject = self._stats[kind].subject
                self._shared[kind] = await self._bus.subscribe(subject, self._serve, queue=s.INFER_QUEUE)
            elif not takes and kind in self._shared:
                await self._shared.pop(kind).stop()

    def _look_after(self, looking: Coroutine[Any, Any, None]) -> None:
        """Replaces the task that checks the backend's health."""
        if self._looking is not None:
            self._looking.cancel()
        self._looking = self._tasks.start(looking, "health")

    async def _activate(self, engine: Engine) -> None:
        """Makes this engine serve from now on; the engine before it finishes its requests."""
        before = self._engines.activate(engine)
        self._health = Health(engine, self._presence, self._become)
        self._look_after(self._health.watch())
        self._presence.serve(engine.config, engine.models)
        await self._become("ready")
        await self._presence.say()
        self._tasks.start(self._engines.drain(before), "retire")

    def why_not_ready(self) -> str:
        """Why this worker takes no requests now; empty while it does."""
        if not self._bus.is_connected:
            return "the connection to NATS is away"
        state = self._presence.state
        return "" if state == "ready" else f"{state}: {self._presence.reason}".rstrip(": ")

    def figures(self) -> Iterator[Figure]:
        """The figures for `/metrics`."""
        yield Figure("nats_connected", "1: the connection to NATS is there", self._bus.is_connected)
        yield Figure("requests_running", "Requests that are not answered yet", len(self._running))
        yield Figure("requests_waiting", "Requests that wait inside the worker", self._engines.queued)
        stats = self._stats.values()
        done, failed = sum(one.num_requests for one in stats), sum(one.num_errors for one in stats)
        yield Figure("requests_total", "Requests answered or failed", done, "counter")
        yield Figure("requests_failed_total", "Requests that ended with an error", failed, "counter")
        yield Figure("capacity", "Requests that it computes at once", self._engines.capacity)
        yield from self._first_tokens.figures()
        yield from self._durations.figures()
        yield from self._outbox.figures()

    # A request

    async def _serve(self, message: Message) -> None:
        """Serves one request, from its bytes to the one final message."""
        if not accepts(message.reply):
            log.warning("reply_refused", reply=message.reply[:64])
            return
        try:
            execution = Execution(Call.read(message, routed_here=not self._is_open(message.subject)))
        except BullpenError as error:
            await self._refuse(message, error)
            return
        except Exception:
            log.exception("request_not_read")
            await self._refuse(message, internal_error())
            return
        if tracing.is_on():
            execution.trace = CallTrace(execution.call, message.headers, self._id, self._backend.name)
        self._running[execution.call.key] = execution
        try:
            with self._idle.busy():
                await self._answer(execution, self._channel(execution))
        finally:
            del self._running[execution.call.key]

    def _is_open(self, subject: str) -> bool:
        """Whether callers may send on this subject, and not only Managers."""
        return any(subject == stats.subject for stats in self._stats.values())

    async def _answer(self, execution: Execution, channel: ReplyChannel) -> None:
        failure: BullpenError | None = None
        response: Answer | None = None
        try:
            response = await self._compute(execution, channel)
            await self._before_reply(execution, response, None)
            failure = await channel.response(response)
        except BullpenError as error:
            failure = self._health.blame(error, asked=execution.started is not None)
            await self._before_reply(execution, None, error)
            await self._tell(channel, error, execution)
        except BusError as error:
            failure = BullpenError(ErrorCode.NO_WORKER, str(error))
            log.warning("answer_not_sent", task_id=execution.call.task_id, error=str(error))
        except Exception:
            log.exception("request_failed", task_id=execution.call.task_id)
            failure = self._health.blame(internal_error(), asked=True)
            await self._tell(channel, failure, execution)
        await self._close(execution, response, failure)

    async def _compute(self, execution: Execution, channel: ReplyChannel) -> Answer:
        if execution.call.routed and execution.call.remaining <= 0:
            await self._make_sure(execution, channel)
        call = execution.call
        self._check_able(call)
        engine, card = self._engine(call.model, ABILITY[call.request.kind])
        job = execution.job = self._job(call, engine, card)
        with engine.at_work(execution):
            work = asyncio.get_running_loop().create_task(self._in_turn(execution, engine, job, channel))
            if call.routed:
                work.add_done_callback(self._tell_after(execution, channel))
            await execution.within(call.remaining, work)
        tracker = self._confidence.setdefault(card.model_id, Confidence())
        return response_of(job, execution, self._backend, self._id, tracker)

    async def _make_sure(self, execution: Execution, channel: ReplyChannel) -> None:
        """Asks the Manager how much time is left: by this worker's clock, which may have jumped, it is over."""
        left = await channel.permission()
        if left is not None:
            deadline = asyncio.get_running_loop().time() + left
            execution.call = replace(execution.call, deadline=deadline)

    def _tell_after(self, execution: Execution, channel: ReplyChannel) -> Callable[[object], None]:
        """Claims the attempt and sends its progress if the answer takes longer than `CLAIM_AFTER`. Returns the function
        that ends this.
        """
        telling: list[asyncio.Task[None]] = []
        timer = asyncio.get_running_loop().call_later(
            CLAIM_AFTER, lambda: telling.append(self._tasks.start(execution.keep_told(channel), "claim"))
        )

        def end(_: object) -> None:
            timer.cancel()
            for task in telling:
                task.cancel()

        return end

    async def _in_turn(
        self, execution: Execution, engine: Engine, job: Job | EmbeddingJob, channel: ReplyChannel
    ) -> None:
        """Waits for a place within the limits, asks the Manager before spending money, and computes the answer."""
        if isinstance(job, Job) and job.max_tokens == 0:
            execution.done = Done("length", prompt_tokens=0, completion_tokens=0)  # others said it all already
            return
        async with self._quota.place(execution, job) as begin, engine.places.place(execution.call.request.priority):
            budget = None if job.model.local else await channel.permission(job.silence_ok)
            begin()
            if budget is None:
                await execution.compute(engine.backend, job, channel)
                return
            async with asyncio.timeout(budget):
                await execution.compute(engine.backend, job, channel)

    def _check_able(self, call: Call) -> None:
        if call.remaining <= 0:
            raise out_of_time()
        if self._presence.state != "ready":
            reason = f"{self._id} is {self._presence.state}"
            code = ErrorCode.DRAINING if self._presence.state == "draining" else ErrorCode.NO_WORKER
            raise BullpenError(code, f"{reason}: {self._presence.reason}".rstrip(": "))

    def _job(self, call: Call, engine: Engine, card: ModelCard) -> Job | EmbeddingJob:
        needs = call.request.needs | {"prefill"} if call.prefix else call.request.needs
        missing = needs - set(card.capabilities)
        if missing:
            raise BullpenError(
                ErrorCode.INVALID_REQUEST,
                f"{card.model_id} cannot do this: {', '.join(sorted(missing))}",
                field="model",
            )
        usual, tokens = self._silences.usual(card.model_id), prompt_tokens(call.request)
        silence_ok = engine.backend.silence_ok(card.model_id, usual, tokens)
        if isinstance(call.request, EmbeddingRequest):
            return EmbeddingJob(call.request, card, silence_ok)
        configured = next((m.max_tokens for m in engine.config.models if m.name == card.model_id), None)
        limit = configured or engine.config.max_tokens
        wanted = call.request.max_tokens or limit
        most = min(wanted, limit) if wanted and limit else wanted
        left = None if most is None else max(0, most - call.prefix_tokens)
        return Job(call.request, card, left, call.prefix, silence_ok)

    def _engine(self, model: str | None, able: Capability) -> tuple[Engine, ModelCard]:
        found = self._engines.find(model, able)
        if found is None:
            served = f"{self._id} does not serve {model}; it serves {self._engines.served}"
            raise BullpenError(ErrorCode.NO_SUCH_MODEL, served, field="model")
        if not found[1].capabilities:
            out = f"{found[1].model_id} is out of service: {found[1].trouble}"
            raise BullpenError(ErrorCode.NO_SUCH_MODEL, out, field="model")
        return found

    def _channel(self, execution: Execution) -> ReplyChannel:
        call = execution.call
        if call.routed:
            return ManagerChannel(
                self._bus,
                call.reply,
                call.task_id,
                call.request_id,
                attempt=call.attempt,
                epoch=self._presence.epoch,
                streaming=call.request.stream,
                final_events=self._final_events,
            )
        reply = InboxReply(self._bus, call.reply, call.task_id, call.request_id, streaming=call.request.stream)
        gone = BullpenError(ErrorCode.CANCELLED, "nobody reads the stream any more")
        reply.on_abandoned = lambda: execution.stop(gone)
        return CallerChannel(reply)

    async def _tell(self, channel: ReplyChannel, error: BullpenError, execution: Execution) -> None:
        try:
            await channel.error(error, execution.usage)
        except (BusError, BullpenError) as failure:
            log.warning("error_not_sent", code=error.code, failure=str(failure))

    async def _refuse(self, message: Message, error: BullpenError) -> None:
        """Answers a request that could not be read."""
        headers = h.of_caller(message.headers) if self._is_open(message.subject) else message.headers
        task_id = salvage_task_id(message.data) or told_task_id(headers.get(h.TASK)) or new_id()
        request_id = headers.get(h.REQUEST) or new_id()
        error = self._health.blame(error, asked=False)
        self._stats[s.kind_of(message.subject)].count(0.0, error.code)
        if headers.get(h.EVENTS) == "1" and message.reply:
            body = ErrorReply(task_id=task_id, request_id=request_id, error=error.detail())
            await self._bus.publish(message.reply, body.to_bytes())
        else:
            streaming = salvage_stream(message.data)
            await InboxReply(self._bus, message.reply, task_id, request_id, streaming=streaming).error(error)

    async def _before_reply(self, execution: Execution, response: Answer | None, failure: BullpenError | None) -> None:
        """Books a direct request before its answer, if no answer may leave before its events are safe."""
        if self._books.before_reply and not execution.call.routed and not execution.booked:
            await self._books.book(execution, response, failure)

    async def _close(self, execution: Execution, response: Answer | None, failure: BullpenError | None) -> None:
        """Does what follows an answer: figures, books, and what the failure says about this worker."""
        call = execution.call
        if execution.trace is not None:
            execution.trace.ended(execution, response, failure)
        self._stats[call.request.kind].count(call.elapsed_ms / 1000, failure.code if failure else None)
        if execution.job is not None:
            self._count(execution, execution.job.model.model_id, failure.code if failure else "")
        await self._presence.learn(execution, failure)
        if execution.job is not None and execution.done is not None:
            self._silences.learn(execution.job.model.model_id, execution.silence)
        if failure is not None:
            self._tasks.start(self._health.heed(failure), "heed")
        await self._health.notice()
        if not call.routed and not execution.booked:
            await self._books.book(execution, response, failure)

    def _count(self, execution: Execution, model: str, error: str) -> None:
        operation = OPERATION[execution.call.request.kind]
        self._durations.of(model, self._backend.name, operation, error).observe(execution.call.elapsed_ms / 1000)
        if not error and (ttft_ms := execution.ttft_ms) is not None:
            self._first_tokens.of(model, self._backend.name, operation).observe(ttft_ms / 1000)

    # Leaving

    async def _drain(self) -> None:
        """Takes no new requests, finishes those that run for at most `drain_timeout`, stops the rest with an error, and
        announces its end.
        """
        self._leaving = True
        with suppress(TimeoutError, asyncio.CancelledError):  # a second signal: enough waited
            async with asyncio.timeout(self._engines.current.config.drain_timeout):
                await self._presence.become("draining", "stopping")
                await self._swapper.stop()
                await self._share()
                await self._idle.wait()
        for execution in list(self._running.values()):
            execution.stop(BullpenError(ErrorCode.DRAINING, f"{self._id} is leaving"))
        with suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await self._idle.wait()
        await self._tasks.cancel()
        await self._presence.become("stopped")


async def run_worker(
    settings: BusSettings,
    folder: BackendFolder,
    config: BackendConfig,
    *,
    worker_id: str,
    stop: asyncio.Event,
    books: OutboxSettings | None = None,
    config_file: ConfigFile[Any] | None = None,
    status: RoleStatus | None = None,
) -> None:
    """Runs one worker until `stop` is set, and takes over `config_file` each time it is saved.

    `status` is filled in for the status server of this machine.

    Raises `BusUnreachable`, `ConfigError`; `BusError` when the bus was lost.
    """
    if not s.is_name(worker_id):
        raise ConfigError(f"{worker_id!r} is not a worker id: 1 to 64 of A-Z a-z 0-9 _ - are allowed")
    backend = folder.load()(config)
    engines = EngineSet(Engine(backend, config))
    name = s.worker_connection_name(backend.name, worker_id)
    bus = await Bus.connect(name, settings, patience=START_PATIENCE, stop=stop)
    outbox = await Outbox.open(worker_id, settings, books or OutboxSettings(), patience=START_PATIENCE, stop=stop)
    try:
        worker = Worker(bus, outbox, engines, worker_id, config_file)
        if status is not None:
            status.why_not, status.figures = worker.why_not_ready, worker.figures
        await worker.run(stop)
        if bus.lost.is_set():
            raise BusError("the connection to NATS is lost for good")
    finally:
        await engines.close()
        await outbox.close()
        await bus.close()
