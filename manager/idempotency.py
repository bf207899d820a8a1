"""Requests with the same idempotency key and the same body run once: later ones wait for the first answer, or get it
again.

Managers share the answers in a JetStream bucket. A request with a key first creates an entry there. If that succeeds,
the request runs; if it fails, another request with this key was first. A Manager that died answers no status request
about its request any more, and a Manager whose request waits takes the entry over. A Manager that was only frozen finds
its entry changed when it wakes up, and its late answer is not kept.

Only requests with a key use the bucket. When the bucket does not answer within a tenth of a second, Managers do without
it for a while: keys are then best effort, because answering matters more than remembering. The bucket is on disk: an
entry costs a few tenths of a millisecond more than in memory, but survives a restart of the server.
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
from bus.connected_clients import is_connected
from bus.kv import Bucket, KeyValue
from contracts import Answer, BullpenError, EmbeddingResponse, ErrorCode, InferenceResponse, Request, StatusRequest
from contracts.headers import IDEMPOTENCY_KEY
from contracts.subjects import INFER_STATUS

log = structlog.get_logger(__name__)

BUCKET = "bullpen_answers"
KEPT = 86_400.0
"""Seconds for which an answer is kept."""
MAX_BYTES = 256 << 20
LARGEST = 256 << 10
"""Bytes of the largest entry that is kept with its answer; with a larger one the answer is lost, and the next request
with the key runs again.
"""
ENVELOPE = 512
"""Bytes left free for headers in a message of the largest size that the server takes."""
LONGEST_KEY = 128
WITHIN = 0.1
"""Seconds that a request waits for JetStream before it runs without an entry."""
FINISH_WITHIN = 1.0
"""Seconds for each of the two calls that store the outcome; the caller has the answer by then."""
AWAY = 5.0
"""Seconds without JetStream after it did not answer."""
LOOK_EVERY = 1.0
"""Seconds between two status requests to the Manager that runs the first request."""
STATUS_WITHIN = 0.3
"""Seconds in which that Manager has to answer a status request, and the server a ping."""
TIMES_SILENT = 2
"""Status requests that no Manager answers, although the server is well, before the first request counts as lost: its
Manager may be busy.
"""
TIMES_FROZEN = 5
"""Such questions before a request counts as lost whose Manager is still connected: it is frozen, or busy for long."""
OVERSLEPT = 1.0
"""Seconds of a failed call that show that this process was frozen."""
AFTER_A_BREAK = 0.1
AFTER_A_LOSS = 0.01
"""Seconds to wait when another Manager wrote the entry first, or when the replica that was read is behind."""
NOT_THE_QUESTION = {"task_id", "deadline_ms", "stream", "continuation", "idempotency_key", "content"}
"""Fields that do not make it another question: the request's name, how long it may take, how the answer comes and is
kept.
"""


class _Kept(BaseModel):
    """An entry of the bucket."""

    state: Literal["running", "done", "free"]
    request_id: str
    digest: str
    answer: InferenceResponse | EmbeddingResponse | None = None
    connection: str | None = None
    """Of the Manager that runs the request; None: an older version wrote the entry."""


@dataclass(frozen=True, slots=True)
class Mine:
    """The right to run the request. `revision` None: best effort, because the entry is not known to be this
    Manager's.
    """

    name: str
    digest: str
    request_id: str
    revision: int | None
    unsure: bool = False
    """JetStream was too slow to confirm the entry, but the entry may be this Manager's all the same."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The answer of an earlier request with the key."""

    answer: Answer


class Answers:
    """The answers by idempotency key. Call `begin` before a request runs, and `finish` or `release` after it."""

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
        """Opens the bucket, and opens it again whenever it was away; no request waits for this. Does not return."""
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
        """Returns when the bucket is open, or after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._opened.wait()

    async def begin(self, key: str, request: Request, request_id: str, deadline: float) -> Mine | Replay:
        """Decides whether the request runs. Waits for a request with the same key, until `deadline` (loop's clock).

        Raises `BullpenError(conflict)`: the key was used with another body, or the first request with it is still
        running.
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
        """Stores the answer: the next request with the key gets the same. Never raises. Takes 2 s at most, so reply to
        the caller first.
        """
        done = _entry("done", mine, answer)
        fits = len(done) <= min(LARGEST, self._bus.max_payload - ENVELOPE)
        await self._write(mine, done if fits else _entry("free", mine))

    async def release(self, mine: Mine) -> None:
        """Frees the key of a failed request: an error is not kept, and the next request with the key runs. Otherwise
        like `finish`.
        """
        await self._write(mine, _entry("free", mine))

    async def _begin(self, bucket: Bucket, mine: Mine, deadline: float) -> Mine | Replay:
        running = _entry("running", mine, connection=self._bus.connection_id)
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
        """What to do about another request's entry; waits a while when that request still runs."""
        if first is not None and first.digest != mine.digest:
            raise _conflict("was used with another body")
        if first is not None and first.answer is not None:
            return Replay(first.answer)
        if asyncio.get_running_loop().time() >= deadline:
            raise _conflict("is still in use: its first answer is not there yet", retry_after_ms=1000)
        if first is None or first.state == "free" or not await self._runs(first, changed, deadline):
            return "take"
        return "wait"

    async def _runs(self, first: _Kept, changed: asyncio.Event, deadline: float) -> bool:
        """Waits a while for the entry to change. False: no Manager has that request any more."""
        now = asyncio.get_running_loop().time
        asked = StatusRequest(request_id=first.request_id).to_bytes()
        silent = 0
        while silent < TIMES_SILENT or (silent < TIMES_FROZEN and await self._is_connected(first)):
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

    async def _is_connected(self, first: _Kept) -> bool:
        """Whether the Manager that runs the request still has its connection."""
        return first.connection is not None and await is_connected(self._bus, first.connection)

    async def _server_answers(self) -> bool:
        """Whether the server is well: a frozen server shows nothing about Managers."""
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
        """The entry's revision, if this request created the entry. If it is not written again, the requests that wait
        for this one run once more.
        """
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
    """The caller's idempotency key, from the body or from the header.

    Raises `BullpenError(invalid_request)` when the two differ, or when the header's value is not allowed in the field.
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
    """The entry's name: it does not reveal the key, and two tenants with the same key have different entries."""
    return sha256(json.dumps([tenant, key]).encode()).hexdigest()


def fingerprint(request: Request, key: str) -> str:
    """The digest of the request's body. The order of the fields, white space, and defaults that are spelled out make no
    difference.

    It leaves out the key and the fields that a retry may change while the question stays the same: `task_id` (the
    request's name), `deadline_ms` (shorter the second time), `stream` (how the answer comes), and `content` (what the
    books keep). Only a caller with the key can check whether an entry belongs to a certain body.
    """
    asked = request.model_dump(mode="json", exclude=NOT_THE_QUESTION, exclude_none=True)
    if not request.logprobs:
        asked.pop("logprobs", None)  # entries of a version without the field are of the same question
    return hmac.new(key.encode(), json.dumps(asked, sort_keys=True).encode(), sha256).hexdigest()


def _entry(
    state: Literal["running", "done", "free"], mine: Mine, answer: Answer | None = None, connection: str | None = None
) -> bytes:
    assert answer is None or isinstance(answer, InferenceResponse | EmbeddingResponse)
    kept = _Kept(state=state, request_id=mine.request_id, digest=mine.digest, answer=answer, connection=connection)
    return kept.model_dump_json(by_alias=True).encode()


def _read(entry: KeyValue | None) -> _Kept | None:
    """None: there is no entry, it was deleted, or a version that this Manager cannot read wrote it."""
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
