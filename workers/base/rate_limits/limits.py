"""Requests and tokens per minute: reserved before a request begins, settled with what it really used.

A request counts for a minute from its beginning, its tokens from its end; until then, the most that it may use is held.
So no sliding minute exceeds the limit, as long as no answer is longer than what was held for it. That length is the
`max_tokens` of the request or the config; without one, twice the length of recent answers. The limits and pauses that a
provider reports count too: for the model that was asked, because providers limit each model separately, and for every
model only when the provider means the whole account.

Pure bookkeeping: the caller passes the time in. `workers/base/rate_limits/account.py` shares an account among workers.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

from config.bounded import Latest
from contracts import BullpenError, ErrorCode, Fault, Rate
from contracts.heartbeat import MOST_MODELS
from contracts.tokens import prompt_tokens
from workers.base.interface.backend import EmbeddingJob, Job, Usage
from workers.base.interface.config import BackendConfig
from workers.base.rate_limits.provider_limits import ProviderLimits

MINUTE = 60.0
MARGIN = 0.5
"""Extra seconds, because a request arrives at the provider a little after it is counted here."""
SPAN = MINUTE + MARGIN
GRAIN = 1.0
"""Seconds that share one entry when there is no limit, because the exact moment does not matter then."""
UNTOLD_OUTPUT = 512.0
"""Tokens assumed for an answer before the first one, when neither request nor config limits it."""
LONGER = 2.0
FORGETS = 0.9
DENSER = 1.1
"""Factor on a prompt's estimated tokens, beyond the density of the densest recent prompt."""


@dataclass(slots=True)
class Window:
    """What was used in the last minute, and what is held."""

    limit: int | None
    held: int = 0
    spent: int = 0
    _past: deque[tuple[float, int]] = field(default_factory=deque)

    def count(self, amount: int, now: float) -> None:
        """Counts an amount that was used now."""
        if not amount:
            return
        self._forget(now)
        self.spent += amount
        if self.limit is None and self._past and now < self._past[-1][0] + GRAIN:
            at, before = self._past.pop()
            self._past.append((at, before + amount))
        else:
            self._past.append((now, amount))

    def used(self, now: float) -> int:
        """The amount held, plus the amount used within the last minute."""
        self._forget(now)
        return self.held + self.spent

    def _forget(self, now: float) -> None:
        while self._past and self._past[0][0] <= now - SPAN:
            self.spent -= self._past.popleft()[1]

    def left(self, now: float, elsewhere: int = 0) -> int | None:
        """The amount left; None: there is no limit. `elsewhere`: what other workers of the account use."""
        return None if self.limit is None else max(0, self.limit - self.used(now) - elsewhere)

    def seconds_until(self, amount: int, now: float, elsewhere: int = 0) -> float:
        """Seconds until this amount fits at the earliest, if what is held stays held and what other workers use is
        freed within a minute.
        """
        if self.limit is None or (short := self.used(now) + elsewhere + amount - self.limit) <= 0:
            return 0.0
        for at, past in self._past:
            short -= past
            if short <= 0:
                return max(0.0, at + SPAN - now)
        return SPAN / 10

    @property
    def past(self) -> list[tuple[float, int]]:
        return list(self._past)


@dataclass(slots=True, eq=False)
class Hold:
    """What is reserved for one request."""

    tokens: int
    estimate: int
    """Tokens of the prompt, estimated from its length."""
    model: str
    begun: bool = False


class Limits:
    """The limits of one worker."""

    def __init__(self, config: BackendConfig) -> None:
        self.requests = Window(config.requests_per_minute)
        self.tokens = Window(config.tokens_per_minute)
        self._whole = ProviderLimits()
        """The provider's limits on the whole account, for any model."""
        self._models: Latest[str, ProviderLimits] = Latest(MOST_MODELS)
        self.requests_elsewhere = 0
        """Requests that other workers of the account used in the last minute, or hold."""
        self.tokens_elsewhere = 0
        self._density = 1.0
        """Tokens per estimated token of the densest recent prompt."""
        self._output = UNTOLD_OUTPUT

    def reconfigure(self, config: BackendConfig) -> None:
        self.requests.limit, self.tokens.limit = config.requests_per_minute, config.tokens_per_minute

    def need(self, job: Job | EmbeddingJob) -> Hold:
        """The most that this request may use, as an estimate."""
        estimate = prompt_tokens(job.request)
        out = job.max_tokens if job.max_tokens is not None else ceil(self._output * LONGER)
        return Hold(ceil(estimate * self._density * DENSER) + out, estimate, job.model.model_id)

    def hold(self, need: Hold, now: float) -> None:
        """Reserves what the request needs. Raises `BullpenError(rate_limited)` with the time until there is enough."""
        self.check(need, now)
        self.requests.held += 1
        self.tokens.held += need.tokens

    def drop(self, need: Hold) -> None:
        """Frees a reservation whose request did not begin."""
        self.requests.held -= 1
        self.tokens.held -= need.tokens

    def check(self, need: Hold, now: float) -> None:
        """Raises like `hold`, but reserves nothing."""
        if self.tokens.limit is not None and need.tokens > self.tokens.limit:
            raise BullpenError(
                ErrorCode.RATE_LIMITED,
                f"this request may need {need.tokens} tokens, this worker may use {self.tokens.limit} a minute: "
                "ask for fewer max_tokens",
                field="max_tokens",
                retryable=False,
            )
        waits = (
            self.rest(need.model, now, need.tokens),
            self.requests.seconds_until(1, now, self.requests_elsewhere),
            self.tokens.seconds_until(need.tokens, now, self.tokens_elsewhere),
        )
        wait = max(waits)
        if wait > 0:
            why = (
                f"{need.model} is to be left alone for a while",
                f"its {self.requests.limit} requests a minute are used up",
                f"its {self.tokens.limit} tokens a minute are used up",
            )[waits.index(wait)]
            fault: Fault = "model" if wait == self.of(need.model).rest(need.tokens, now) else "account"
            told = f"this worker: {why}"
            raise BullpenError(ErrorCode.RATE_LIMITED, told, retry_after_ms=ceil(wait * 1000), fault=fault)

    def begin(self, hold: Hold, now: float) -> None:
        """Counts the request: it now goes to the model."""
        hold.begun = True
        self.requests.held -= 1
        self.requests.count(1, now)

    def settle(self, hold: Hold, used: Usage, now: float) -> None:
        """Counts the tokens of a request that has ended; its prompt as estimated where the provider reported none."""
        if not hold.begun:
            self.drop(hold)
            return
        self.tokens.held -= hold.tokens
        told_in, out = used.prompt_tokens, used.completion_tokens
        self.tokens.count((hold.estimate if told_in is None else told_in) + (out or 0), now)
        if told_in:
            self._density = max(1.0, told_in / hold.estimate, self._density * FORGETS)
        if out:
            self._output = max(out, self._output * FORGETS)

    def of(self, model: str) -> ProviderLimits:
        """The provider's limits on this model."""
        return self._models.setdefault(model, ProviderLimits())

    def rest(self, model: str, now: float, tokens: int = 1) -> float:
        """Seconds until the provider takes a request of this many tokens for this model."""
        return max(self._whole.rest(tokens, now), self.of(model).rest(tokens, now))

    def refused(self, model: str, retry_after_ms: int, now: float, *, whole_account: bool = False) -> int:
        """Records that the provider asked for a pause. Returns its length in milliseconds, by all that the provider
        reported.
        """
        limited = self._whole if whole_account else self.of(model)
        limited.leave_alone(retry_after_ms / 1000, now)
        return max(retry_after_ms, ceil(1000 * self.rest(model, now)))

    def rate(self, now: float, models: Sequence[str] = ()) -> Rate | None:
        """The limits as the heartbeat shows them for a worker with these models; None: nothing limits it.

        What is left is that of the model with the most left: the limits of other models are no reason to pass the
        worker over.
        """
        own = self.requests.left(now, self.requests_elsewhere), self.tokens.left(now, self.tokens_elsewhere)
        told = [self._whole.left(now), _most([self.of(model).left(now) for model in models])]
        requests, tokens = (_least(kind) for kind in zip(own, *told, strict=True))
        if requests is None and tokens is None:
            return None
        waits = (
            self.requests.seconds_until(1, now, self.requests_elsewhere),
            self.tokens.seconds_until(1, now, self.tokens_elsewhere),
        )
        return Rate(
            rpm_limit=self.requests.limit,
            rpm_left=requests,
            tpm_limit=self.tokens.limit,
            tpm_left=tokens,
            resets_in_ms=ceil(1000 * max(*waits, min((self.rest(model, now) for model in models), default=0.0))),
        )


Left = tuple[int | None, int | None]
"""Requests and tokens left; None: unknown, or without limit."""


def _least(lefts: Sequence[int | None]) -> int | None:
    return min((left for left in lefts if left is not None), default=None)


def _most(lefts: Sequence[Left]) -> Left:
    requests, tokens = ([left[kind] for left in lefts] for kind in (0, 1))
    return _greatest(requests), _greatest(tokens)


def _greatest(lefts: Sequence[int | None]) -> int | None:
    known = [left for left in lefts if left is not None]
    return max(known, default=None) if len(known) == len(lefts) else None
