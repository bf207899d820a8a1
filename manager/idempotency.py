"""The same key with the same body runs once: later ones wait for the first answer, or get it again.

Managers share what they know in a bucket of JetStream. A request with a key first makes its entry there; that
either works, and then it runs, or somebody was first. A Manager that died in the middle answers no question about
its request any more, and whoever waits takes the entry over. One that was only frozen finds its entry changed when it
wakes up, and its late answer is not kept.

Only requests with a key come here, and a bucket that does not answer in a tenth of a second is left alone for a
while: then keys are best effort, because a mesh that answers is worth more than one that remembers. The bucket is on
disk: an entry costs a few tenths of a millisecond more than in memory, and is still there when the server comes back.
"""

import asyncio
import hmac
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Literal

import structlog
from pydantic import BaseModel, ValidationError

from bus import Bus, BusError, NoResponders, RequestTimeout, Tasks
from bus.kv import Bucket, KeyValue
from contracts import Answer, BullpenError, EmbeddingResponse, ErrorCode, InferenceResponse, Request, StatusRequest
from contracts.headers import IDEMPOTENCY_KEY
from contracts.subjects import INFER_STATUS

log = structlog.get_logger(__name__)

BUCKET = "bullpen_answers"
KEPT = 86_400.0
"""Seconds that an answer can be had again."""
MAX_BYTES = 256 << 20
LARGEST = 256 << 10
"""Bytes of an entry with its answer; a larger one is not kept, and the key runs again."""
ENVELOPE = 512
"""Bytes to leave for headers in a message that the server must take."""
LONGEST_KEY = 128
WITHIN = 0.1
"""Seconds that a request waits for JetStream, and then runs without."""
FINISH_WITHIN = 1.0
"""Seconds for each of the two calls that may be needed to note what became of it; the caller has the answer by then."""
AWAY = 5.0
"""Seconds to leave JetStream alone when it did not answer."""
LOOK_EVERY = 1.0
"""Seconds between two questions whether the Manager that runs it is still there."""
STATUS_WITHIN = 0.3
"""Seconds in which a Manager says that it has a request, and in which the server itself has to answer."""
TIMES_SILENT = 2
"""Questions that no Manager answers, although the server does, before a request counts as lost: one may be busy."""
OVERSLEPT = 1.0
"""Seconds without an answer that mean that this process did not run."""
AFTER_A_BREAK = 0.1
AFTER_A_LOSS = 0.01
"""Seconds to wait when somebody else was faster, or the replica that was asked is behind."""
NOT_THE_QUESTION = {"task_id", "deadline_ms", "stream", "continuation", "idempotency_key", "content"}
"""What does not make it another question: how it is called, how long it may take, how the answer comes and is kept."""


class _Kept(BaseModel):
    """An entry of the bucket."""

    state: Literal["running", "done", "free"]
    request_id: str
    digest: str
    answer: InferenceResponse | EmbeddingResponse | None = None


@dataclass(frozen=True, slots=True)
class Mine:
    """The right to run the request. `revision` None: best effort, no entry is known to be ours."""

    name: str
    digest: str
    request_id: str
    revision: int | None
    unsure: bool = False
    """JetStream was too slow to say so, but the entry may be ours all the same."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The answer that was given before."""

    answer: Answer


class Answers:
    """The answers by key. Call `begin` before a request runs, and `finish` or `release` after it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._bucket: Bucket | None = None
        self._away = asyncio.Event()
        self._away.set()
        self._complained = False
        self._opened = asyncio.Event()
        self._tasks = Tasks("answers")

    @property
    def remembers(self) -> bool:
        """Whether keys are more than best effort now."""
        return not self._away.is_set()

    async def keep_open(self) -> None:
        """Makes the bucket, and looks after it again whenever it was away; never on a request's way. Does not end."""
        while True:
            try:
                self._bucket = await Bucket.open(self._bus, BUCKET, max_age_s=KEPT, max_bytes=MAX_BYTES)
            except BusError as error:
                self._leave_alone(error)
            else:
                self._opened.set()
                self._away.clear()
                await self._away.wait()
            await asyncio.sleep(AWAY)

    async def opened_within(self, seconds: float) -> None:
        """Returns when the bucket is there, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._opened.wait()

    async def begin(self, key: str, request: Request, request_id: str, deadline: float) -> Mine | Replay:
        """Whether to run it. Waits for whoever runs it already, until `deadline` (loop's clock).

        Raises `BullpenError(conflict)`: the key was used with another body, or its first use is still running.
        """
        mine = Mine(entry_name(key, request.tenant), fingerprint(request, key), request_id, None)
        if self._bucket is None or not self.remembers:
            return mine
        now = asyncio.get_running_loop().time
        while True:
            started, reconnects = now(), self._bus.reconnects
            try:
                return await self._begin(self._bucket, mine, deadline)
            except BusError as error:
                ours = not self._bus.is_connected or self._bus.reconnects != reconnects or now() > started + OVERSLEPT
                if not ours or now() >= deadline:
                    self._leave_alone(error)
                    return replace(mine, unsure=True)
            await asyncio.sleep(AFTER_A_BREAK)  # it was not JetStream but we: frozen, or without a server

    async def finish(self, mine: Mine, answer: Answer) -> None:
        """It was answered: the next one gets the same. Never raises; takes 2 s at most, so reply first."""
        done = _entry("done", mine, answer)
        fits = len(done) <= min(LARGEST, self._bus.max_payload - ENVELOPE)
        await self._write(mine, done if fits else _entry("free", mine))

    async def release(self, mine: Mine) -> None:
        """It failed, and an error is no answer: the next one runs. Otherwise as `finish`."""
        await self._write(mine, _entry("free", mine))

    async def _begin(self, bucket: Bucket, mine: Mine, deadline: float) -> Mine | Replay:
        running = _entry("running", mine)
        revision = await bucket.put(mine.name, running, after=0, within=WITHIN)
        self._works()
        if revision is not None:
            return replace(mine, revision=revision)
        changed = asyncio.Event()
        following = await bucket.follow(mine.name, lambda _: changed.set())
        entry, kept = None, None
        try:
            while True:
                changed.clear()
                try:
                    entry = await bucket.get(mine.name, within=WITHIN)
                    kept = _read(entry)
                except BusError:
                    if kept is None:
                        raise
                    # JetStream is slow: the Manager that has the request still says so, or does not
                if entry and kept and kept.request_id == mine.request_id:  # the word that it was made was lost
                    return replace(mine, revision=entry.revision)
                answer = await self._look(kept, mine, changed, deadline)
                if isinstance(answer, Replay):
                    return answer
                if answer == "take":
                    revision = await bucket.put(mine.name, running, after=entry.revision if entry else 0, within=WITHIN)
                    if revision is not None:
                        return replace(mine, revision=revision)
                    await asyncio.sleep(AFTER_A_LOSS)
        finally:
            self._tasks.start(following.stop(), "unfollow")  # it asks the server, which may be frozen

    async def _look(
        self, first: _Kept | None, mine: Mine, changed: asyncio.Event, deadline: float
    ) -> Replay | Literal["take", "wait"]:
        """What to do about an entry that somebody else made; waits a while when its request still runs."""
        if first is not None and first.digest != mine.digest:
            raise _conflict("was used with another body")
        if first is not None and first.answer is not None:
            return Replay(first.answer)
        if asyncio.get_running_loop().time() >= deadline:
            raise _conflict("is still in use: its first answer is not there yet", retry_after_ms=1000)
        if first is None or first.state == "free" or not await self._runs(first.request_id, changed, deadline):
            return "take"
        return "wait"

    async def _runs(self, request_id: str, changed: asyncio.Event, deadline: float) -> bool:
        """Waits a while for a change. False: no Manager has that request any more."""
        now = asyncio.get_running_loop().time
        asked = StatusRequest(request_id=request_id).to_bytes()
        silent = 0
        while silent < TIMES_SILENT:
            within = min(STATUS_WITHIN, deadline - now())
            if within <= 0:
                return True  # for all we know: there was no time to find out
            try:
                await self._bus.request(INFER_STATUS, asked, timeout=within)
            except NoResponders:
                return False
            except RequestTimeout:
                if changed.is_set():
                    return True
                silent += await self._server_answers()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(now() + LOOK_EVERY, deadline)):
                    await changed.wait()
            return True
        return now() >= deadline

    async def _server_answers(self) -> bool:
        """Whether a question would have come through: a server that stands still says nothing about Managers."""
        now = asyncio.get_running_loop().time
        asked = now()
        try:
            await self._bus.flush()
        except BusError:
            return False
        return now() < asked + STATUS_WITHIN

    async def _write(self, mine: Mine, value: bytes) -> None:
        if self._bucket is None or (mine.revision is None and not mine.unsure):
            return
        try:
            revision = mine.revision or await self._ours(self._bucket, mine)
            written = revision and await self._bucket.put(mine.name, value, after=revision, within=FINISH_WITHIN)
        except BusError as error:
            self._leave_alone(error)
            return
        if not written:
            log.info("answer_not_kept", request_id=mine.request_id, why="the entry is not ours any more")

    async def _ours(self, bucket: Bucket, mine: Mine) -> int | None:
        """The revision of the entry, if we made it. Otherwise those who wait for us would run it once more."""
        entry = await bucket.get(mine.name, within=FINISH_WITHIN)
        kept = _read(entry)
        return entry.revision if entry and kept and kept.request_id == mine.request_id else None

    def _leave_alone(self, error: BusError) -> None:
        if not self._complained:
            log.warning("idempotency_keys_best_effort", error=str(error), looks_again_every_s=AWAY)
        self._complained = True
        self._away.set()

    def _works(self) -> None:
        if self._complained:
            log.info("idempotency_keys_kept")
        self._complained = False


def key_of(request: Request, headers: Mapping[str, str]) -> str | None:
    """The caller's key, from the body or the header, which are the same thing.

    Raises `BullpenError(invalid_request)` when they differ, or the header is not what the field may be.
    """
    told = headers.get(IDEMPOTENCY_KEY) or None
    if told and request.idempotency_key and told != request.idempotency_key:
        raise BullpenError(
            ErrorCode.INVALID_REQUEST, f"differs from the header {IDEMPOTENCY_KEY}", field="idempotency_key"
        )
    if told and not (len(told) <= LONGEST_KEY and told.isprintable()):
        raise BullpenError(
            ErrorCode.INVALID_REQUEST, f"should be 1 to {LONGEST_KEY} printable characters", field=IDEMPOTENCY_KEY
        )
    return request.idempotency_key or told


def entry_name(key: str, tenant: str) -> str:
    """The entry's name: nothing of the key can be read from it, and tenants do not share theirs."""
    return sha256(json.dumps([tenant, key]).encode()).hexdigest()


def fingerprint(request: Request, key: str) -> str:
    """The question's: neither the order of its fields nor white space matters, nor a default that is spelled out.

    Not part of it are the key itself and what a retry may change without asking anything else: `task_id` (how it is
    called), `deadline_ms` (how long it may take, which is less the second time), `stream` (how the answer comes) and
    `content` (what the books keep). Only who knows the key can tell whether an entry is that of a certain question.
    """
    asked = request.model_dump(mode="json", exclude=NOT_THE_QUESTION, exclude_none=True)
    if not request.logprobs:
        asked.pop("logprobs", None)  # entries of a version without the field are of the same question
    return hmac.new(key.encode(), json.dumps(asked, sort_keys=True).encode(), sha256).hexdigest()


def _entry(state: Literal["running", "done", "free"], mine: Mine, answer: Answer | None = None) -> bytes:
    assert answer is None or isinstance(answer, InferenceResponse | EmbeddingResponse)
    kept = _Kept(state=state, request_id=mine.request_id, digest=mine.digest, answer=answer)
    return kept.model_dump_json(by_alias=True).encode()


def _read(entry: KeyValue | None) -> _Kept | None:
    """None: there is none, somebody deleted it, or it was written by a version that we cannot read."""
    try:
        return _Kept.model_validate_json(entry.value) if entry else None
    except ValidationError:
        return None


def _conflict(why: str, retry_after_ms: int | None = None) -> BullpenError:
    return BullpenError(
        ErrorCode.CONFLICT,
        f"this idempotency key {why}",
        field="idempotency_key",
        retry_after_ms=retry_after_ms,
        retryable=retry_after_ms is not None,
    )
