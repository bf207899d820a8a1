"""People who ask: an open loop over the Python client, so that a slow mesh is asked no less than a quick one.

Each prompt carries a nonce. The simulated worker's words depend on the prompt alone, so the one right answer is
computed here beforehand, and an answer can be checked word by word, also one that two workers made together.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Self

import structlog
from pydantic_core import from_json

from benchmarks.soak.history import Asked, Ended, Final, Journal, Piece
from bus import BusError, Message, Tasks
from client import Bullpen, Options, RequestFailed
from contracts import AttemptSummary, FinalResponse, InferenceRequest, InferenceResponse, Resumed
from contracts.subjects import INBOX_PREFIX
from workers.base import Job
from workers.simulated.backend import Between, SimulatedBackend, SimulatedConfig

log = structlog.get_logger(__name__)

RATE = 8.0
"""Questions per second."""
DEADLINE_MS, HURRIED_MS = 15_000, (50, 600)
STREAMS, BATCH, HURRIED, CANCELLED, LEAVING = 0.4, 0.15, 0.08, 0.08, 0.1
"""Shares of all questions; the last one of the streams."""
TAKES = 0.5
"""Seconds, about: half of an answer, so when to cancel or to leave."""
INBOXES = f"{INBOX_PREFIX}.soak"
"""The client's own, so that what is sent to it can be overheard."""
WORDS = Between(min=8, max=40)
WORKER_ENVIRONMENT = {
    "BULLPEN_SIMULATED__OUTPUT_TOKENS": WORDS.model_dump_json(),
    "BULLPEN_SIMULATED__TOKENS_PER_SECOND": "40",
    "BULLPEN_SIMULATED__TTFT_MS": "100",
    "BULLPEN_SIMULATED__MAX_CONCURRENCY": "8",
}


class Load:
    """Make it with `Load.open`; `run` asks until it is told to stop and waits for what is still open."""

    def __init__(self, bullpen: Bullpen, journal: Journal, seed: int) -> None:
        self._bullpen = bullpen
        self._journal = journal
        self._rng = random.Random(f"{seed}/load")
        self._answers = SimulatedBackend(SimulatedConfig(output_tokens=WORDS, latency_ms=0))
        self._asking = Tasks("soak")

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, journal: Journal, seed: int) -> AsyncIterator[Self]:
        """`NATS_INBOX_PREFIX` must be `INBOXES`."""
        async with AsyncExitStack() as stack:
            load = cls(await stack.enter_async_context(Bullpen.connect(url)), journal, seed)
            await load._bullpen.bus.subscribe_inline(f"{INBOXES}.>", load._overhear)
            yield load

    @property
    def is_connected(self) -> bool:
        return self._bullpen.bus.is_connected

    async def run(self, stop: asyncio.Event) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            self._asking.start(self._ask(await self._question(number)), f"request-{number}")
            await asyncio.sleep(self._rng.expovariate(RATE))
        try:
            async with asyncio.timeout(DEADLINE_MS / 1000 + 5):
                await self._asking.finished()
        except TimeoutError:
            log.error("never_answered", requests=len(self._asking))  # and the checker will find them
            await self._asking.cancel()

    async def _question(self, number: int) -> tuple[Asked, str]:
        rng = self._rng
        stream, hurried = rng.random() < STREAMS, rng.random() < HURRIED
        prompt = f"Question {number}, with the nonce {rng.getrandbits(48):012x}: what do you know of it?"
        asked = Asked(
            number=number,
            task_id=f"soak-{number}",
            expected=await self._expected(prompt),
            deadline_ms=rng.randint(*HURRIED_MS) if hurried else DEADLINE_MS,
            at=time.monotonic_ns(),
            stream=stream,
            hurried=hurried,
            cancelled=not hurried and rng.random() < CANCELLED,
            leaves=stream and rng.random() < LEAVING,
            priority="batch" if rng.random() < BATCH else "interactive",
        )
        self._journal.note(asked)
        return asked, prompt

    async def _expected(self, prompt: str) -> str:
        (model,) = self._answers.models()
        return (await self._answers.infer(Job(InferenceRequest(prompt=prompt), model, None))).text

    async def _ask(self, question: tuple[Asked, str]) -> None:
        asked, prompt = question
        options: Options = {
            "task_id": asked.task_id,
            "deadline_ms": asked.deadline_ms,
            "priority": asked.priority,
            "metadata": {"soak": str(asked.number)},
        }
        pieces: list[Piece] = []
        if asked.cancelled:
            self._asking.start(self._cancel(asked.task_id), f"cancel-{asked.number}")
        try:
            if asked.stream:
                answer = await self._read(asked, prompt, options, pieces)
            else:
                answer = await self._bullpen.ask(prompt, **options)
            self._journal.note(_ended(asked, answer, pieces))
        except RequestFailed as error:
            reply = error.reply
            told = _failed(asked, pieces, code=str(error.code), message=error.message)
            self._journal.note(replace(told, request_id=reply.request_id, tries=_tries(reply.attempts)))
        except BusError as error:
            self._journal.note(_failed(asked, pieces, code="bus", message=str(error)))
        except Exception as error:
            log.exception("client_broke", task_id=asked.task_id)
            self._journal.note(_failed(asked, pieces, code="client", message=repr(error)))

    async def _read(self, asked: Asked, prompt: str, options: Options, pieces: list[Piece]) -> InferenceResponse | None:
        """The end of the stream; None when its reader left before."""
        leave_after = self._rng.randint(1, WORDS.min) if asked.leaves else None
        async with aclosing(self._bullpen.stream(prompt, **options)) as events:
            async for event in events:
                match event:
                    case FinalResponse():
                        return event
                    case Resumed():
                        pieces.append(Piece(event.seq, mode=event.mode))
                    case _:
                        pieces.append(Piece(event.seq, event.delta))
                if len(pieces) == leave_after:
                    break
        return None

    async def _cancel(self, task_id: str) -> None:
        await asyncio.sleep(self._rng.uniform(0, 2 * TAKES))
        try:
            await self._bullpen.cancel(task_id)
        except BusError as error:
            log.info("cancel_not_sent", task_id=task_id, error=str(error))

    def _overhear(self, message: Message) -> None:
        """Every final message to the client, on the client's own connection, whether or not anybody waits for it."""
        if not message.data.startswith(b"{") or message.data.startswith(b'{"type":"chunk"'):
            return
        told = from_json(message.data)
        if "error" in told or "output" in told:
            self._journal.note(Final(message.subject, str(told.get("task_id")), told.get("request_id")))


def _ended(asked: Asked, answer: InferenceResponse | None, pieces: list[Piece]) -> Ended:
    now = time.monotonic_ns()
    if answer is None:
        return Ended(asked.number, now, "left", pieces=tuple(pieces))
    return Ended(
        asked.number,
        now,
        "answered",
        answer.request_id,
        answer.output,
        _tries(answer.attempts),
        replayed=answer.replayed,
        pieces=tuple(pieces),
    )


def _failed(asked: Asked, pieces: list[Piece], *, code: str, message: str) -> Ended:
    now = time.monotonic_ns()
    return Ended(asked.number, now, "failed", pieces=tuple(pieces), code=code, message=message)


def _tries(attempts: tuple[AttemptSummary, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((attempt.worker_id, str(attempt.outcome)) for attempt in attempts)
