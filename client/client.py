"""The client: ask, embed, stream, cancel, list workers, judge an answer, control a worker."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Literal, Self, Unpack

from pydantic import Field, ValidationError

from bus import Bus, BusError, BusSettings, Message, NoResponders, RequestTimeout, Tasks
from bus.server_address import split
from client.budgets import merged
from client.exchange import Exchange, cancel_body
from client.jobs import JobQueue, JobTicket
from client.live import LiveFigures
from client.question import EmbedOptions, Options, Question
from client.roster import Roster
from contracts import (
    BudgetState,
    BullpenError,
    Chunk,
    ControlReply,
    ControlRequest,
    EmbeddingResponse,
    ErrorCode,
    Feedback,
    FinalResponse,
    Heartbeat,
    InferenceResponse,
    JsonObject,
    ManagerReply,
    OpenModel,
    Resumed,
    new_id,
    read_heartbeat,
)
from contracts import subjects as s

REPLY_WITHIN = 2.0
"""Seconds that the books, or a worker or Manager that is controlled, may take to answer."""
PING_WITHIN = 0.3
LATE_PING_WITHIN = 2.0
"""Further seconds to wait for a first answer, or for a certain role: a busy machine is slow."""
MANAGER_SERVICE, WORKER_SERVICE, TELEMETRY_SERVICE = "bullpen-manager", "bullpen-worker", "bullpen-telemetry"
GATEWAY_SERVICE = "bullpen-gateway"
"""The roles' names in service discovery."""

SWAP_WITHIN = 600.0
"""Seconds that a worker may take to load a model, by default."""
Order = Literal["status", "drain", "resume", "reload", "budgets"]


class ServiceInfo(OpenModel):
    """A role's answer to `$SRV.PING`."""

    name: str
    id: str
    version: str = ""
    metadata: dict[str, str] = Field(default_factory=dict)


class Bullpen:
    """A connection to the mesh. Make it with `async with Bullpen.connect() as bp:`."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.jobs = JobQueue(bus)
        self._open: set[Exchange] = set()

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str | None = None) -> AsyncIterator[Self]:
        """Connects to the NATS server at `url`, else as the environment says (`NATS_URL` and related variables).

        Raises `BusUnreachable`. Requests that are open at the end of the block are cancelled.
        """
        settings = BusSettings.from_environment()
        if url is not None:
            settings = replace(settings, servers=split(url))
        bus = await Bus.connect("client", settings, watchdog=False)  # short-lived, and may not publish to inboxes
        client, tasks = cls(bus), Tasks("client")
        tasks.start(client._tell_when_lost(), "lost")
        try:
            yield client
        finally:
            await tasks.cancel()
            for exchange in list(client._open):
                await exchange.abandon()
            await bus.close()

    async def ask(
        self, prompt: str | None = None, *, cancel_token: str | None = None, **options: Unpack[Options]
    ) -> InferenceResponse:
        """Sends a request and returns the whole answer. Raises `BullpenError` (a `RequestFailed` once the request was
        sent).

        `cancel_token`: lets another client cancel the request. None: no other client can.
        """
        async with self.exchange(prompt, stream=False, cancel_token=cancel_token, **options) as exchange:
            return await exchange.response()

    async def stream(
        self, prompt: str | None = None, *, cancel_token: str | None = None, **options: Unpack[Options]
    ) -> AsyncGenerator[Chunk | Resumed | FinalResponse, None]:
        """Yields the answer piece by piece; the last event is the `FinalResponse`. Raises as `ask`.

        After a `Resumed` with mode `restarted` the text so far is void. Leaving the loop early cancels the request.
        """
        async with self.exchange(prompt, stream=True, cancel_token=cancel_token, **options) as exchange:
            while True:
                event = await exchange.event()
                yield event
                if isinstance(event, FinalResponse):
                    return

    @asynccontextmanager
    async def exchange(
        self, prompt: str | None = None, *, stream: bool, cancel_token: str | None = None, **options: Unpack[Options]
    ) -> AsyncIterator[Exchange]:
        """One request under way, for a caller that wants more than its answer. Leaving the block early cancels the
        request.

        Raises `BullpenError(invalid_request)` before anything is sent.
        """
        async with self._under_way(Question.of(prompt, options, stream=stream, cancel_token=cancel_token)) as exchange:
            yield exchange

    async def embed(
        self, texts: str | Sequence[str], *, cancel_token: str | None = None, **options: Unpack[EmbedOptions]
    ) -> EmbeddingResponse:
        """The vectors of texts, in the order of the texts, all from one model: numbers, or base64 if `encoding_format`
        says so.

        They travel as 32-bit floats. Raises as `ask`.
        """
        async with self._under_way(Question.of_texts(texts, options, cancel_token=cancel_token)) as exchange:
            answer = await exchange.vectors()
        if options.get("encoding_format") == "base64":
            return answer
        return answer.model_copy(update={"embeddings": answer.vectors})

    @asynccontextmanager
    async def _under_way(self, question: Question) -> AsyncIterator[Exchange]:
        exchange = Exchange(self.bus, question)
        self._open.add(exchange)
        try:
            async with exchange:
                yield exchange
        finally:
            self._open.discard(exchange)

    async def submit(
        self, prompt: str | None = None, *, job_id: str | None = None, **options: Unpack[Options]
    ) -> JobTicket:
        """Submits a durable request: it survives a restart of every process. Returns when the mesh has it on disk.

        The same `job_id` submitted again is the same job. Raises `BullpenError`; `BusError` after a minute.
        """
        question = Question.of(prompt, {"priority": "batch", **options}, stream=False, once=False)
        return await self.jobs.submit(question, job_id or new_id())

    async def result(self, wanted: JobTicket | str, timeout: float = 600.0) -> InferenceResponse:
        """The answer to a job, or to the first job with this task id; waits `timeout` seconds for it.

        Raises `RequestFailed`, and `BullpenError(deadline_exceeded)` when there is no answer yet: then just ask again.
        """
        return await self.jobs.wait(wanted, timeout)

    async def cancel(self, task_id: str, token: str | None = None) -> None:
        """Cancels a task of this client at every role that has it.

        A task of another client is cancelled only with the `cancel_token` of its request, if it has one.
        """
        own = [exchange.cancel for exchange in self._open if exchange.task_id == task_id]
        for body in own or [cancel_body(task_id, token)]:
            await self.bus.publish(s.INFER_CANCEL, body)

    async def feedback(
        self, task_id: str, score: float, *, source: str | None = None, comment: str | None = None
    ) -> None:
        """Stores a judgement of an answer, from 0 (useless) to 1 (perfect). Returns when it is stored."""
        try:
            body = Feedback(task_id=task_id, score=score, source=source, comment=comment).to_bytes()
        except ValidationError as error:
            field = str(error.errors()[0]["loc"][0])
            raise BullpenError(ErrorCode.INVALID_REQUEST, f"{field}: {error.errors()[0]['msg']}", field=field) from None
        cure = "no telemetry runs: start the mesh with `bullpen up`, or `bullpen telemetry`"
        await self._request(s.INFER_FEEDBACK, body, cure)

    async def workers(self, seconds: float = 1.2) -> list[Heartbeat]:
        """Every worker whose heartbeat came within `seconds`, or that answers a status request; by id."""
        async with self.roster() as roster:
            known = await self.services(WORKER_SERVICE, seconds)
            heard = {beat.worker_id for beat in roster.beats}
            late = [service.id for service in known if service.id not in heard]
            for beat in await asyncio.gather(*map(self._status, late)):
                if beat is not None:
                    roster.hear(beat, 0.0)
            return roster.beats

    @asynccontextmanager
    async def roster(self) -> AsyncIterator[Roster]:
        """The workers of the mesh, kept up to date until the end of the block."""
        roster, now = Roster(), asyncio.get_running_loop().time

        def heard(message: Message) -> None:
            try:
                roster.hear(read_heartbeat(message.data), now())
            except BullpenError:
                return

        subscription = await self.bus.subscribe_inline(s.WORKER_HEARTBEAT, heard)
        try:
            yield roster
        finally:
            await subscription.stop()

    @asynccontextmanager
    async def live(self) -> AsyncIterator[LiveFigures]:
        """The mesh's live figures, kept up to date until the end of the block; the first ones take 2 s."""
        figures, now = LiveFigures(), asyncio.get_running_loop().time
        mesh = await self.bus.subscribe_inline(s.METRICS_MESH, lambda message: figures.hear_mesh(message.data, now()))
        models = await self.bus.subscribe_inline(
            s.METRICS_MODELS, lambda message: figures.hear_model(message.data, now())
        )
        try:
            yield figures
        finally:
            await mesh.stop()
            await models.stop()

    async def services(self, name: str | None = None, seconds: float = PING_WITHIN) -> list[ServiceInfo]:
        """The roles with this service name (None: all) that answered a ping within `seconds`, by id.

        On a busy mesh no role may have answered by then. Unless the server says that there is none, the first answer is
        waited for.
        """
        answers: list[Message] = []
        heard = asyncio.Event()

        def hear(answer: Message) -> None:
            answers.append(answer)
            heard.set()

        with self.bus.listen(hear) as listener:
            await self.bus.publish(f"$SRV.PING.{name}" if name else "$SRV.PING", b"", reply=listener.subject)
            await asyncio.sleep(seconds)
            with suppress(TimeoutError):
                async with asyncio.timeout(LATE_PING_WITHIN):
                    await heard.wait()
        found = [ServiceInfo.model_validate_json(answer.data) for answer in answers if not answer.no_responders]
        return sorted(found, key=lambda service: service.id)

    async def find(self, role_id: str) -> ServiceInfo:
        """The worker or Manager with that id. Raises `BullpenError(no_worker)` that lists the running roles."""
        for seconds in (PING_WITHIN, LATE_PING_WITHIN):
            found = await self.services(seconds=seconds)
            here = [service for service in found if service.name in (MANAGER_SERVICE, WORKER_SERVICE)]
            for service in here:
                if service.id == role_id:
                    return service
        ids = ", ".join(service.id for service in here) or "none: start the mesh with `bullpen up`"
        raise BullpenError(ErrorCode.NO_WORKER, f"no worker and no Manager {role_id} is running; running are: {ids}")

    async def control(self, worker_id: str, op: Order) -> ControlReply:
        """Sends one worker a control request. Raises `BullpenError(no_worker)` when it does not run."""
        within = SWAP_WITHIN if op == "reload" else REPLY_WITHIN
        return _obeyed(worker_id, await self._order("worker", worker_id, ControlRequest(op=op), within))

    async def swap(
        self,
        worker_id: str,
        *,
        model: str | None = None,
        models: Sequence[JsonObject] | None = None,
        options: JsonObject | None = None,
        within: float = SWAP_WITHIN,
    ) -> ControlReply:
        """Makes one worker serve another model, or others (written as in a config), or the same with other options.

        Returns when the worker serves it, or with the reason why not (`ok` is false). Raises `BullpenError(no_worker)`
        when the worker does not run, `BullpenError(deadline_exceeded)` when it has not answered `within` as many
        seconds.
        """
        order = ControlRequest(
            op="swap", model=model, models=None if models is None else tuple(models), options=options
        )
        return _obeyed(worker_id, await self._order("worker", worker_id, order, within))

    async def control_manager(self, manager_id: str, op: Order) -> ManagerReply:
        """Sends one Manager a control request. Raises `BullpenError(no_worker)` when it does not run."""
        answer = await self._order("manager", manager_id, ControlRequest(op=op))
        try:
            return ManagerReply.model_validate_json(answer.data)
        except ValidationError:
            raise _unreadable(manager_id) from None

    async def budgets(self) -> list[BudgetState]:
        """The spending of every budget, as the running Managers know it; those nearest to their limit come first.

        Raises `BullpenError(no_worker)` when no Manager runs.
        """
        managers = await self.services(MANAGER_SERVICE)
        if not managers:
            raise BullpenError(ErrorCode.NO_WORKER, "no Manager is running: start the mesh with `bullpen up`")
        replies = await asyncio.gather(*(self.control_manager(one.id, "budgets") for one in managers))
        return merged(state for reply in replies for state in reply.budgets or ())

    async def _order(
        self, kind: Literal["worker", "manager"], role_id: str, order: ControlRequest, within: float = REPLY_WITHIN
    ) -> Message:
        if not s.is_name(role_id):
            raise BullpenError(ErrorCode.INVALID_REQUEST, f"{role_id!r} is not a {kind}'s id", field=f"{kind}_id")
        subject = s.worker_control(role_id) if kind == "worker" else s.manager_control(role_id)
        cure = f"no {kind} {role_id} is running: `bullpen workers` and `bullpen doctor` list the running ones"
        return await self._request(subject, order.to_bytes(), cure, within)

    async def _status(self, worker_id: str) -> Heartbeat | None:
        try:
            return (await self.control(worker_id, "status")).heartbeat
        except BullpenError:
            return None

    async def _request(self, subject: str, body: bytes, cure: str, within: float = REPLY_WITHIN) -> Message:
        try:
            return await self.bus.request(subject, body, timeout=within)
        except NoResponders:
            raise BullpenError(ErrorCode.NO_WORKER, cure) from None
        except RequestTimeout as error:
            raise BullpenError(ErrorCode.DEADLINE_EXCEEDED, str(error)) from None

    async def _tell_when_lost(self) -> None:
        await self.bus.lost.wait()
        for exchange in self._open:
            exchange.fail(BusError("the connection to NATS is lost for good: connect again"))


def _obeyed(worker_id: str, answer: Message) -> ControlReply:
    try:
        return ControlReply.model_validate_json(answer.data)
    except ValidationError:
        raise _unreadable(worker_id) from None


def _unreadable(role_id: str) -> BullpenError:
    return BullpenError(ErrorCode.INTERNAL, f"{role_id} sent an answer that cannot be read")
