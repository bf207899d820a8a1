"""Durable requests: taken from the stream `JOBS`, answered like any other, the answer kept in the stream `RESULTS`.

A job leaves `JOBS` only when its result is in `RESULTS`, so it outlives the Manager that works on it. It may be
executed twice, but has one result: a Manager that gets a job again first looks for a result, and `RESULTS` itself drops
a second one that comes within two hours of the first (`Nats-Msg-Id`). A job that fails for a passing reason is put off,
with a growing pause; its number of tries is kept in a bucket that all Managers share.

Jobs are batch work: a caller that waits for an answer goes first. Without JetStream there are no jobs, and the rest of
the Manager works as usual.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256
from time import time
from typing import TypeAlias

import structlog

from bus import Bus, BusError, Message, Tasks
from bus.jetstream import PullConsumer, api, ensure_stream
from bus.kv import Bucket
from bus.pull import IN_PROGRESS, StoredMessage, settle
from bus.queue import Archive, WorkQueue, read_after, store
from bus.tasks import Idle
from contracts import BullpenError, ErrorCode, new_id
from contracts import headers as h
from contracts import subjects as s
from manager.config import JobsConfig
from manager.jobs.job import Job, Result

log = structlog.get_logger(__name__)

QUEUE = WorkQueue(s.JOBS_STREAM, (s.JOBS_SUBMIT,), max_age_s=0, max_bytes=512 << 20, duplicate_window_s=3600)
ARCHIVE = Archive(s.RESULTS_STREAM, (s.RESULT_ANY,), max_bytes=1 << 30, duplicate_window_s=7200)
TRIES = "bullpen_jobs"
"""The bucket with the number of tries of each job."""
TRIES_KEPT = 2 * 86_400.0
TRIES_BYTES = 32 << 20
STILL_AT_IT = 1 / 3
"""How often a Manager tells JetStream that it still works on a job, as a part of the silence after which JetStream
gives the job to another Manager.
"""
MAX_PENDING = 50_000
"""Jobs of the whole mesh that may be under way or put off."""
FETCH_WITHIN = 1.0
LOOK_EVERY = 2.0
AWAY = 5.0
"""Seconds to leave JetStream alone after it did not answer."""
STORE_WITHIN = 2.0
STORE_AGAIN = 0.5
STORE_PATIENCE = 600.0
"""Seconds for which a result is held while the server is away; after that the job is done again."""
LEAVE_WITHIN = 5.0
CALL_WITHIN = 2.0


Perform: TypeAlias = Callable[[Message, Job, bool], Awaitable[tuple[Result, BullpenError | None]]]
"""Answers the job's request. `patient`: the job comes again when no worker can begin it. Raises `invalid_request`."""


class Jobs:
    def __init__(self, bus: Bus, config: JobsConfig, perform: Perform) -> None:
        self._bus = bus
        self._config = config
        self._perform = perform
        self._held: dict[str, Job] = {}
        self._idle = Idle()
        self._tasks = Tasks("jobs")
        self._place = asyncio.Event()
        self._wanted = asyncio.Event()
        """Whether this Manager takes jobs at all."""
        if config.at_once:
            self._wanted.set()
        self._taking = asyncio.Event()
        self._consumer: PullConsumer | None = None
        self._tries: Bucket | None = None
        self._complained = False
        self._leaving = False
        self.waiting: int | None = None
        """Jobs of the mesh that wait; None: unknown."""

    @property
    def running(self) -> int:
        return len(self._held)

    def take_part(self) -> None:
        self._taking.set()

    def stand_back(self) -> None:
        """Takes no new jobs; those under way go on."""
        self._taking.clear()

    def reconfigure(self, config: JobsConfig) -> None:
        """Takes over a changed config from the next job on, except for a Manager's silence: JetStream was told it at
        the start.
        """
        self._config = config.model_copy(update={"silent_after": self._config.silent_after})
        self._place.set()
        if config.at_once:
            self._wanted.set()

    async def run(self) -> None:
        """Takes jobs while allowed, and makes the streams again whenever they were away. Runs until cancelled."""
        await self._wanted.wait()
        self._tasks.start(self._stay_in_progress(), "in_progress")
        self._tasks.start(self._look(), "look")
        while True:
            await self._taking.wait()
            try:
                await self._open()
                await self._take()
            except BusError as error:
                self._complain(error)
                await asyncio.sleep(AWAY)

    async def leave(self) -> None:
        """Gives back jobs that are not done. Call it when requests are no longer served."""
        self._leaving = True
        self.stand_back()
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_WITHIN):
                await self._idle.wait()
        held = [job.message for job in self._held.values()]
        await self._tasks.cancel()
        for message in held:
            await self._give_back(message, 0.0)
        await self._close()

    # The streams

    async def _open(self) -> None:
        await ensure_stream(self._bus, QUEUE)
        await ensure_stream(self._bus, ARCHIVE)
        self._tries = await Bucket.open(self._bus, TRIES, max_age_s=TRIES_KEPT, max_bytes=TRIES_BYTES)
        await self._close()
        self._consumer = await PullConsumer.open(
            self._bus,
            stream=s.JOBS_STREAM,
            durable=s.JOBS_CONSUMER,
            ack_wait_s=self._config.silent_after,
            max_ack_pending=MAX_PENDING,
        )
        if self._complained:
            log.info("jobs_taken_again")
        self._complained = False

    async def _mend(self) -> None:
        """Makes `RESULTS` again if it was deleted."""
        with suppress(BusError):
            await ensure_stream(self._bus, ARCHIVE)

    async def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.close()

    async def _take(self) -> None:
        """Fetches jobs while there is a place for them. Raises `BusError` when the stream is gone."""
        consumer = self._consumer
        assert consumer is not None
        while self._taking.is_set():
            free = self._config.at_once - len(self._held)
            if free <= 0:
                self._place.clear()
                await self._place.wait()
                continue
            for message in await consumer.fetch(free, timeout=FETCH_WITHIN):
                await self._begin(message)

    async def _begin(self, message: StoredMessage) -> None:
        job = Job.of(message)
        if not self._taking.is_set():
            await self._give_back(message, 0.0)
        elif job.id not in self._held:  # else it came again while we are at it
            self._held[job.id] = job
            self._tasks.start(self._do(job), job.id)

    async def _stay_in_progress(self) -> None:
        while True:
            await asyncio.sleep(self._config.silent_after * STILL_AT_IT)
            with suppress(BusError):
                await settle(self._bus, [job.message for job in self._held.values()], IN_PROGRESS)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                told = await api(self._bus, f"CONSUMER.INFO.{s.JOBS_STREAM}.{s.JOBS_CONSUMER}", timeout=CALL_WITHIN)
                self.waiting = int(told["num_pending"])
            except BusError:
                self.waiting = None

    def _complain(self, error: BusError) -> None:
        if not self._complained:
            log.warning("no_jobs", error=str(error), looks_again_every_s=AWAY)
        self._complained = True

    # The story of a job

    async def _do(self, job: Job) -> None:
        with self._idle.busy():
            try:
                await self._see_to(job)
            except BusError as error:
                log.warning("job_put_off", job_id=job.id, error=str(error))
                await self._give_back(job.message, self._pause(job.message.deliveries))
                await self._mend()
            finally:
                del self._held[job.id]
                self._place.set()

    async def _see_to(self, job: Job) -> None:
        if await self._has_result(job):
            await job.message.ack()
            return
        if not self._taking.is_set():
            await self._give_back(job.message, 0.0)
            return
        patient = job.age <= self._config.patience
        result, failure = await self._result(job, patient)
        if failure is not None and self._leaving and failure.code in (ErrorCode.NO_WORKER, ErrorCode.DRAINING):
            await self._give_back(job.message, 0.0)
        elif failure is not None and (pause := await self._again_after(job, failure, patient)) is not None:
            log.info("job_put_off", job_id=job.id, task_id=job.task_id, code=failure.code, again_in_s=round(pause, 3))
            await self._give_back(job.message, pause)
        else:
            await self._keep(job, result)
            await job.message.ack()

    async def _has_result(self, job: Job) -> bool:
        """Whether the job has a result already: from a Manager that died before it could acknowledge the job, or from
        another job with the same `Nats-Msg-Id`.
        """
        seq, subject = 0, s.result(job.task_id)
        while found := await read_after(self._bus, s.RESULTS_STREAM, subject, seq):
            if any(kept.headers.get(h.JOB) == job.id for kept in found):
                return True
            seq = found[-1].seq
        return False

    async def _result(self, job: Job, patient: bool) -> tuple[Result, BullpenError | None]:
        try:
            return await self._perform(job.request(), job, patient)
        except BullpenError as error:
            result = Result(self._bus, job.task_id, new_id(), job.id)
            await result.error(error)
            return result, error

    async def _keep(self, job: Job, result: Result) -> None:
        """Returns when `RESULTS` has the result. Raises `BusError` when that takes too long."""
        until = time() + STORE_PATIENCE
        while True:
            try:
                receipt = await store(
                    self._bus,
                    s.RESULTS_STREAM,
                    s.result(job.task_id),
                    result.body,
                    result.headers,
                    within=STORE_WITHIN,
                )
            except BusError:
                if self._leaving or time() > until:
                    raise
                await asyncio.sleep(STORE_AGAIN)
                await self._mend()
            else:
                if receipt.duplicate:
                    log.info("job_done_twice", job_id=job.id, task_id=job.task_id)
                return

    async def _again_after(self, job: Job, failure: BullpenError, patient: bool) -> float | None:
        """Seconds after which the job is tried again; None: the failure is its result."""
        if failure.begun_nowhere:
            if not patient:
                return None
            tries = job.message.deliveries
        elif failure.retryable or failure.code is ErrorCode.NO_SUCH_MODEL:  # its worker may not be back yet
            tries = await self._count(job)
            if tries >= self._config.attempts:
                return None
        else:
            return None
        return max(self._pause(tries), (failure.retry_after_ms or 0) / 1000)

    def _pause(self, tries: int) -> float:
        longest = min(self._config.longest_pause, self._config.first_pause * 2.0 ** min(tries - 1, 30))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 — jitter, not a secret

    async def _count(self, job: Job) -> int:
        """How often the job was tried, this time included."""
        assert self._tries is not None
        key = sha256(job.id.encode()).hexdigest()
        entry = await self._tries.get(key, within=CALL_WITHIN)
        tries = int(entry.value) + 1 if entry and entry.value.isdigit() else 1
        await self._tries.put(key, str(tries).encode(), after=entry.revision if entry else 0, within=CALL_WITHIN)
        return tries

    async def _give_back(self, message: StoredMessage, pause: float) -> None:
        """Has JetStream give the job to a Manager again, after `pause` seconds; a little later if the server cannot be
        reached.
        """
        with suppress(BusError):
            await message.nak(pause)
