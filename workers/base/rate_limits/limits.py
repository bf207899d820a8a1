"""Requests and tokens per minute: reserved before a request begins, settled with what it really used.

A request counts for a minute from when it begins, its tokens from when it ends; until then, what it may use at most is
held. So no sliding minute ever has more than the limit, as long as no answer is longer than was held for it:
`max_tokens` of the request or the config says how long that is; without one, answers twice as long as the last ones are
expected. What a provider says of its own limits, and when it wants to be left alone, counts too: for the model that was
asked, because providers limit each by itself, and for every model only when the account as a whole was meant.

Pure bookkeeping on times that are handed in; `workers/base/rate_limits/account.py` shares an account among workers.
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
"""Seconds more, because a request does not arrive there the moment it is counted here."""
SPAN = MINUTE + MARGIN
GRAIN = 1.0
"""Seconds: without a limit nothing depends on the moment, and a minute is kept in so large pieces."""
UNTOLD_OUTPUT = 512.0
"""Tokens that an answer is thought to have before there was one, when nobody says how many it may have."""
LONGER = 2.0
FORGETS = 0.9
DENSER = 1.1
"""How many more tokens a prompt may have than the densest one of late led to expect."""


@dataclass(slots=True)
class Window:
    """What was used in the last minute, and what is held."""

    limit: int | None
    held: int = 0
    spent: int = 0
    _past: deque[tuple[float, int]] = field(default_factory=deque)

    def count(self, amount: int, now: float) -> None:
        """Used just now."""
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
        """Held, and used within the last minute."""
        self._forget(now)
        return self.held + self.spent

    def _forget(self, now: float) -> None:
        while self._past and self._past[0][0] <= now - SPAN:
            self.spent -= self._past.popleft()[1]

    def left(self, now: float, elsewhere: int = 0) -> int | None:
        """None: there is no limit. `elsewhere`: what others of the same account use."""
        return None if self.limit is None else max(0, self.limit - self.used(now) - elsewhere)

    def seconds_until(self, amount: int, now: float, elsewhere: int = 0) -> float:
        """When so much fits at the earliest; what is held is taken to stay, what others use to go within a minute."""
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
    """What is set aside for one request."""

    tokens: int
    estimate: int
    """Of its prompt, by its length."""
    model: str
    begun: bool = False


class Limits:
    """Those of one worker."""

    def __init__(self, config: BackendConfig) -> None:
        self.requests = Window(config.requests_per_minute)
        self.tokens = Window(config.tokens_per_minute)
        self._whole = ProviderLimits()
        """Of the account, whichever model is asked."""
        self._models: Latest[str, ProviderLimits] = Latest(MOST_MODELS)
        self.requests_elsewhere = 0
        """By other workers of the same account, in the last minute."""
        self.tokens_elsewhere = 0
        self._density = 1.0
        """Tokens per estimated token of the densest prompt of late."""
        self._output = UNTOLD_OUTPUT

    def reconfigure(self, config: BackendConfig) -> None:
        self.requests.limit, self.tokens.limit = config.requests_per_minute, config.tokens_per_minute

    def need(self, job: Job | EmbeddingJob) -> Hold:
        """What this request may use at most, as far as anybody knows."""
        estimate = prompt_tokens(job.request)
        out = job.max_tokens if job.max_tokens is not None else ceil(self._output * LONGER)
        return Hold(ceil(estimate * self._density * DENSER) + out, estimate, job.model.model_id)

    def hold(self, need: Hold, now: float) -> None:
        """Sets it aside. Raises `BullpenError(rate_limited)` saying when there will be enough."""
        self.check(need, now)
        self.requests.held += 1
        self.tokens.held += need.tokens

    def drop(self, need: Hold) -> None:
        """What was held is not needed."""
        self.requests.held -= 1
        self.tokens.held -= need.tokens

    def check(self, need: Hold, now: float) -> None:
        """As `hold`, and sets nothing aside."""
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
        """The request goes to the model."""
        hold.begun = True
        self.requests.held -= 1
        self.requests.count(1, now)

    def settle(self, hold: Hold, used: Usage, now: float) -> None:
        """It has ended; what nobody told of its usage is taken as estimated."""
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
        """What the provider says of that model."""
        return self._models.setdefault(model, ProviderLimits())

    def rest(self, model: str, now: float, tokens: int = 1) -> float:
        """Seconds until the provider takes a request of so many tokens for that model."""
        return max(self._whole.rest(tokens, now), self.of(model).rest(tokens, now))

    def refused(self, model: str, retry_after_ms: int, now: float, *, whole_account: bool = False) -> int:
        """The provider wants to be left alone. Returns for how many milliseconds, by all that it has told."""
        limited = self._whole if whole_account else self.of(model)
        limited.leave_alone(retry_after_ms / 1000, now)
        return max(retry_after_ms, ceil(1000 * self.rest(model, now)))

    def rate(self, now: float, models: Sequence[str] = ()) -> Rate | None:
        """As the heartbeat tells it of a worker that serves these models; None: nothing limits it.

        What is left is what the model has that has most: the others' limits are no reason to pass the worker over.
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
"""Requests and tokens; None: not known, or without limit."""


def _least(lefts: Sequence[int | None]) -> int | None:
    return min((left for left in lefts if left is not None), default=None)


def _most(lefts: Sequence[Left]) -> Left:
    requests, tokens = ([left[kind] for left in lefts] for kind in (0, 1))
    return _greatest(requests), _greatest(tokens)


def _greatest(lefts: Sequence[int | None]) -> int | None:
    known = [left for left in lefts if left is not None]
    return max(known, default=None) if len(known) == len(lefts) else None
