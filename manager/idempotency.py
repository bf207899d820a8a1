"""The same key with the same body runs once: later ones wait for the first answer, or get it again.

Managers share what they know in a bucket of JetStream. A request with a key first makes its entry there; that
either works, and then it runs, or somebody was first. A Manager that died in the middle answers no question about
its request any more, and whoever waits takes the entry over. One that was only frozen finds its entry changed when it
wakes up, and its late answer is not kept.

Only requests with a key come here, and a bucket that does not answer in a tenth of a second is left alone for a
while: then keys are best effort, because a mesh that answers is worth more than one that remembers.
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import structlog
from pydantic import BaseModel, ValidationError

from bus import Bus, BusError, RequestTimeout
from bus.kv import Bucket
from contracts import BullpenError, ErrorCode, InferenceRequest, InferenceResponse, StatusRequest
from contracts.headers import IDEMPOTENCY_KEY
from contracts.subjects import INFER_STATUS

log = structlog.get_logger(__name__)

BUCKET = "bullpen_answers"
KEPT = 86_400.0
"""Seconds that an answer can be had again."""
MAX_BYTES = 256 << 20
LARGEST = 256 << 10
"""Bytes of an answer that is kept; with a larger one the key runs again."""
WITHIN = 0.1
AWAY = 5.0
"""Seconds to leave JetStream alone when it did not answer."""
LOOK_EVERY = 1.0
"""Seconds between two questions whether the Manager that runs it is still there."""
STATUS_WITHIN = 0.3
NOT_THE_QUESTION = {"task_id", "deadline_ms", "stream", "idempotency_key"}
"""What does not make it another question: how it is called, how long it may take and how the answer comes."""


class _Kept(BaseModel):
    """An entry of the bucket."""

    state: Literal["running", "done", "free"]
    request_id: str
    digest: str
    answer: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Mine:
    """The right to run the request. `revision` None: best effort, there is no entry."""

    name: str
    digest: str
    request_id: str
    revision: int | None


@dataclass(frozen=True, slots=True)
class Replay:
    """The answer that was given before."""

    answer: InferenceResponse


class Answers:
    """The answers by key. Call `begin` before a request runs, and `finish` or `release` after it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._bucket: Bucket | None = None
        self._away_until = 0.0

    async def keep_open(self) -> None:
        """Makes the bucket as soon as JetStream is there; never on a request's way."""
        while self._bucket is None:
            try:
                self._bucket = await Bucket.open(self._bus, BUCKET, max_age_s=KEPT, max_bytes=MAX_BYTES)
            except BusError as error:
                log.warning("idempotency_keys_best_effort", error=str(error), again_in_s=AWAY)
                await asyncio.sleep(AWAY)

    async def begin(self, key: str, request: InferenceRequest, request_id: str, deadline: float) -> Mine | Replay:
        """Whether to run it. Waits for whoever runs it already, until `deadline` (loop's clock).

        Raises `BullpenError(conflict)`: the key was used with another body, or its first use is still running.
        """
        mine = Mine(_name(key, request), _digest(request), request_id, None)
        if self._bucket is None or asyncio.get_running_loop().time() < self._away_until:
            return mine
        try:
            return await self._begin(self._bucket, mine, deadline)
        except BusError as error:
            self._leave_alone(error)
            return mine

    async def finish(self, mine: Mine, answer: InferenceResponse) -> None:
        """It was answered: the next one gets the same."""
        told = answer.model_dump(mode="json", by_alias=True)
        kept = _Kept(state="done", request_id=mine.request_id, digest=mine.digest, answer=told)
        if len(answer.to_bytes()) > LARGEST:
            kept = _Kept(state="free", request_id=mine.request_id, digest=mine.digest)
        await self._write(mine, kept)

    async def release(self, mine: Mine) -> None:
        """It failed, and an error is no answer: the next one runs."""
        await self._write(mine, _Kept(state="free", request_id=mine.request_id, digest=mine.digest))

    async def _begin(self, bucket: Bucket, mine: Mine, deadline: float) -> Mine | Replay:
        loop = asyncio.get_running_loop()
        running = _Kept(state="running", request_id=mine.request_id, digest=mine.digest).model_dump_json().encode()
        revision = await bucket.put(mine.name, running, after=0, within=WITHIN)
        changed = asyncio.Event()
        following = None
        try:
            while revision is None:
                if following is None:
                    following = await bucket.follow(mine.name, lambda _: changed.set())
                changed.clear()
                entry = await bucket.get(mine.name, within=WITHIN)
                first = _Kept.model_validate_json(entry.value) if entry else None
                if first is None or entry is None:
                    revision = await bucket.put(mine.name, running, after=0, within=WITHIN)
                elif first.digest != mine.digest:
                    raise _conflict("was used with another body")
                elif first.answer is not None:
                    return Replay(InferenceResponse.model_validate(first.answer))
                elif first.state == "free" or not await self._runs(first.request_id, changed, deadline):
                    revision = await bucket.put(mine.name, running, after=entry.revision, within=WITHIN)
                elif loop.time() >= deadline:
                    raise _conflict("is still in use: its first answer is not there yet", retry_after_ms=1000)
        except ValidationError as error:
            raise BusError(f"an entry of {BUCKET} cannot be read: {error}") from error
        finally:
            if following is not None:
                await following.stop()
        return Mine(mine.name, mine.digest, mine.request_id, revision)

    async def _runs(self, request_id: str, changed: asyncio.Event, deadline: float) -> bool:
        """Waits a while for a change. False: no Manager has that request any more."""
        now = asyncio.get_running_loop().time
        asked = StatusRequest(request_id=request_id).to_bytes()
        for _ in range(2):  # twice: a Manager may be busy
            try:
                await self._bus.request(INFER_STATUS, asked, timeout=STATUS_WITHIN)
            except RequestTimeout:
                if changed.is_set():
                    return True
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(now() + LOOK_EVERY, deadline)):
                    await changed.wait()
            return True
        return False

    async def _write(self, mine: Mine, kept: _Kept) -> None:
        if self._bucket is None or mine.revision is None:
            return
        try:
            value = kept.model_dump_json().encode()
            written = await self._bucket.put(mine.name, value, after=mine.revision, within=2.0)
        except BusError as error:
            self._leave_alone(error)
            return
        if written is None:
            log.info("answer_not_kept", request_id=mine.request_id, why="another Manager took it over")

    def _leave_alone(self, error: BusError) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._away_until:
            log.warning("idempotency_keys_best_effort", error=str(error), again_in_s=AWAY)
        self._away_until = now + AWAY


def key_of(request: InferenceRequest, headers: Mapping[str, str]) -> str | None:
    """The caller's key, from the body or the header. Raises `BullpenError(invalid_request)` when they differ."""
    told = headers.get(IDEMPOTENCY_KEY) or None
    if told and request.idempotency_key and told != request.idempotency_key:
        raise BullpenError(
            ErrorCode.INVALID_REQUEST, f"differs from the header {IDEMPOTENCY_KEY}", field="idempotency_key"
        )
    if told and len(told) > 128:
        raise BullpenError(ErrorCode.INVALID_REQUEST, "has more than 128 characters", field=IDEMPOTENCY_KEY)
    return request.idempotency_key or told


def _name(key: str, request: InferenceRequest) -> str:
    """The entry's name: nothing of the key can be read from it, and tenants do not share theirs."""
    return sha256(f"{request.metadata.get('tenant', '')}\0{key}".encode()).hexdigest()


def _digest(request: InferenceRequest) -> str:
    """The question's fingerprint; neither the order of its fields nor white space matters."""
    asked = request.model_dump(mode="json", exclude=NOT_THE_QUESTION, exclude_none=True)
    return sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _conflict(why: str, retry_after_ms: int | None = None) -> BullpenError:
    return BullpenError(
        ErrorCode.CONFLICT,
        f"this idempotency key {why}",
        field="idempotency_key",
        retry_after_ms=retry_after_ms,
        retryable=retry_after_ms is not None,
    )
