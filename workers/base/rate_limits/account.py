"""One provider account that several workers use: each worker sees what the others use, and no two take the same
request.

Each worker writes what it used in the last minute, and what it holds, to a JetStream bucket, with one key per account.
Before a request begins, its worker reads the key, adds its own share and writes it back; if another worker has written
meanwhile, it tries again. Without JetStream each worker goes on with an equal part of the limits. The hosts' clocks
should agree to a second.
"""

import asyncio
from collections import Counter
from math import ceil
from random import random
from time import time
from typing import Annotated

import structlog
from pydantic import Field, ValidationError

from bus import Bus, BusError
from bus.kv import Bucket
from contracts import OpenModel
from contracts.base import MOST_WHOLE
from workers.base.rate_limits.limits import SPAN, Hold, Limits, Window

log = structlog.get_logger(__name__)

BUCKET = "bullpen_limits"
MAX_BYTES = 4 << 20
KEPT = 3600.0
WITHIN = 1.0
"""Seconds that a request waits for JetStream."""
LEFT_ALONE = 5.0
"""Seconds without JetStream after it did not answer."""
TRIES = 50
APART = 0.01
TELL_AGAIN = 30.0
"""Seconds after which a worker reports again what it still holds."""
BELIEVED = 120.0
"""Seconds after which a worker's report of held tokens no longer counts: the worker is dead, and its requests are
over.
"""

Amount = Annotated[int, Field(ge=0, le=MOST_WHOLE)]
Moments = Annotated[tuple[tuple[int, Amount], ...], Field(max_length=200)]
MOST_HOLDERS = 1000


class Used(OpenModel):
    """The use of one worker: amounts by the second (unix) in which they were counted, and amounts held."""

    at: float
    requests: Moments = ()
    tokens: Moments = ()
    requests_held: Amount = 0
    tokens_held: Amount = 0


class Ledger(OpenModel):
    holders: Annotated[dict[str, Used], Field(max_length=MOST_HOLDERS)] = Field(default_factory=dict)

    def elsewhere(self, holder: str, now: float) -> tuple[int, int]:
        """Requests and tokens of all other workers at `now` (unix seconds)."""
        requests = tokens = 0
        for name, used in self.holders.items():
            if name != holder:
                believed = now - used.at < BELIEVED
                requests += _recent(used.requests, now) + used.requests_held * believed
                tokens += _recent(used.tokens, now) + used.tokens_held * believed
        return requests, tokens

    def told(self, holder: str, used: Used, now: float) -> "Ledger":
        """The ledger with this worker's present use, and without workers that are long gone."""
        others = {name: kept for name, kept in self.holders.items() if now - kept.at < BELIEVED + SPAN}
        return Ledger(holders={**others, holder: used})


class Account:
    def __init__(self, bus: Bus, name: str, holder: str, limits: Limits) -> None:
        self.name = name
        self._bus = bus
        self._holder = holder
        self._limits = limits
        self._turn = asyncio.Lock()
        self._bucket: Bucket | None = None
        self._away_until = 0.0
        self._others = 0
        """Other workers that share the account."""
        self._last = Used(at=0.0)

    async def hold(self, need: Hold) -> None:
        """Holds what a request may use, if the account has it. Raises `BullpenError(rate_limited)`."""
        async with self._turn:
            now = asyncio.get_running_loop().time
            if now() < self._away_until:
                self._limits.hold(need, now())
                return
            try:
                await self._renew(need)
            except BusError as error:
                self._bucket, self._away_until = None, now() + LEFT_ALONE
                self._go_alone()
                log.warning("account_unknown", account=self.name, others=self._others, error=str(error))
                self._limits.hold(need, now())

    async def tell(self) -> None:
        """Writes this worker's changed use, so that other workers know what is free again."""
        if not self._worth_telling():
            return
        async with self._turn:
            try:
                await self._renew(None)
            except BusError as error:
                log.debug("account_not_told", account=self.name, error=str(error))

    def _worth_telling(self) -> bool:
        used = self._used()
        same = used.model_copy(update={"at": self._last.at}) == self._last
        return not same or (used.tokens_held > 0 and used.at - self._last.at > TELL_AGAIN)

    async def _renew(self, need: Hold | None) -> None:
        """Reads what other workers use, holds what the request needs, and writes the result. Raises `BusError`,
        `BullpenError`.
        """
        limits, clock = self._limits, asyncio.get_running_loop().time
        if self._bucket is None:
            self._bucket = await Bucket.open(self._bus, BUCKET, max_age_s=KEPT, max_bytes=MAX_BYTES)
        for tried in range(TRIES):
            await asyncio.sleep(random() * APART * min(tried, 10))  # noqa: S311 — spreads those who collided
            entry = await self._bucket.get(self.name, within=WITHIN)
            ledger = _read(entry.value) if entry else Ledger()
            limits.requests_elsewhere, limits.tokens_elsewhere = ledger.elsewhere(self._holder, time())
            self._others = len(ledger.holders) - (self._holder in ledger.holders)
            if need is not None:
                limits.hold(need, clock())
            try:
                used = self._used()
                body = ledger.told(self._holder, used, time()).to_bytes()
                if await self._bucket.put(self.name, body, after=entry.revision if entry else 0, within=WITHIN):
                    self._last = used
                    return
            except BaseException:
                self._drop(need)
                raise
            self._drop(need)
        raise BusError("other workers of this account write at the same time")

    def _drop(self, need: Hold | None) -> None:
        if need is not None:
            self._limits.drop(need)

    def _go_alone(self) -> None:
        """Limits this worker to an equal part of the account, by the number of workers last known."""
        limits, everybody = self._limits, self._others + 1
        limits.requests_elsewhere = _part_of_others(limits.requests, everybody)
        limits.tokens_elsewhere = _part_of_others(limits.tokens, everybody)

    def _used(self) -> Used:
        now, wall = asyncio.get_running_loop().time(), time()
        limits = self._limits
        return Used(
            at=wall,
            requests=_by_second(limits.requests, now, wall),
            tokens=_by_second(limits.tokens, now, wall),
            requests_held=limits.requests.held,
            tokens_held=limits.tokens.held,
        )


def _part_of_others(window: Window, everybody: int) -> int:
    return 0 if window.limit is None else window.limit - window.limit // everybody


def _by_second(window: Window, now: float, wall: float) -> Moments:
    window.used(now)  # forgets what is long ago
    counted: Counter[int] = Counter()
    for at, amount in window.past:
        counted[ceil(at - now + wall)] += amount
    return tuple(sorted(counted.items()))


def _recent(moments: Moments, now: float) -> int:
    return sum(amount for at, amount in moments if at > now - SPAN)


def _read(value: bytes) -> Ledger:
    """Reads a ledger. Raises `BusError` when the bucket holds something else."""
    if not value:
        return Ledger()
    try:
        return Ledger.model_validate_json(value)
    except ValidationError as error:
        raise BusError(f"what is in bucket {BUCKET} is no account: {error.errors()[0]['msg']}") from None
