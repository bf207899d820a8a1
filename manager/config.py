"""What `manager/config.yaml` may say."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from config.loader import ConfigModel
from contracts import Policy, Terms

SOON_MS = 1000
"""Milliseconds: no caller is told to come back sooner."""

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
LATE = 25.0
"""A second too late is worse than any answer in time: so many times the weight of `load`, where none is told."""


def _lateness_weight(weights: dict[str, Any]) -> float:
    return LATE * float(weights.get("load", 0.0))


class Weights(Terms):
    """How much each term counts, 0 or more."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    lateness: float = Field(default_factory=_lateness_weight)
    """Of an answer that is sure to come after the deadline. Left out: so much that no other term makes up for it."""

    @field_validator("*")
    @classmethod
    def _not_negative(cls, weight: float) -> float:
        if weight < 0:
            raise ValueError("a weight is 0 or more")
        return weight


DEFAULT_POLICIES: dict[Policy, Weights] = {
    "balanced": Weights(cost=1.0, confidence=1.0, load=1.0, resources=0.3),
    "cheapest": Weights(cost=10.0, confidence=0.3, load=0.5, resources=0.1),
    "fastest": Weights(cost=0.1, confidence=0.3, load=10.0, resources=0.5),
    "best": Weights(cost=0.1, confidence=10.0, load=0.5, resources=0.1),
    "local_only": Weights(cost=0.5, confidence=1.0, load=1.0, resources=0.3),
}


class Retries(ConfigModel):
    """How many requests may be given to a second worker after the first may have begun."""

    share: Share = 0.1
    """Of the requests, plus …"""
    per_second: NotNegative = 10.0
    """… so many every second, plus …"""
    burst: NotNegative = 500.0
    """… so many at once: what a whole worker may have running when it dies."""
    duplicate_spend_share: Share = 0.05
    """What may be spent twice on workers that send bills, of what was spent there in ten minutes, or at least …"""
    duplicate_spend_floor_usd: NotNegative = 0.10


class Hedging(ConfigModel):
    """Asking a second, idle worker when the first is slower than nearly always."""

    share: Share = 0.05
    """At most so many of the requests; 0 switches it off."""
    at_least: Annotated[int, Field(ge=1)] = 20
    """Answers of a model that must have been seen before its usual time is known."""


class JobsConfig(ConfigModel):
    """Durable requests, from `jobs.submit`."""

    at_once: Annotated[int, Field(ge=0)] = 8
    """Of this Manager; 0: it takes none."""
    attempts: Count = 8
    """Tries of a job that fails for a reason that may pass. Those for which no worker had room are not counted …"""
    patience: Seconds = 86_400.0
    """… for so many seconds from its submission."""
    first_pause: Seconds = 1.0
    """Seconds before the second try; each further pause is twice as long."""
    longest_pause: Seconds = 60.0
    silent_after: Seconds = 30.0
    """Seconds without a word of a Manager after which another one gets its jobs."""


class Budget(ConfigModel):
    """How much may be spent, by whom, on what, in which time."""

    tenant: Annotated[str, Field(min_length=1)] | None = None
    """`*`: every tenant on its own; none: all together."""
    model: Annotated[str, Field(min_length=1)] | None = None
    limit_usd: Annotated[Decimal, Field(gt=0)]
    per: Literal["hour", "day", "month", "total"] = "day"
    """Of the calendar, in UTC."""
    warn_at: Share = 0.8
    """When so much of it is spent, that is said."""


class Verifier(ConfigModel):
    """Another model that judges answers whose own model tells no probabilities; on workers that have time."""

    model: Annotated[str, Field(min_length=1)] | None = None
    """None: answers are not judged."""
    share: Share = 0.05
    """Of those answers."""


class Mirror(ConfigModel):
    """A candidate that is given a share of another model's questions; its answers go to no caller."""

    model: Annotated[str, Field(min_length=1)]
    """The id of the model that answers."""
    to: Annotated[str, Field(min_length=1)]
    """The candidate."""
    share: Share = 0.05


class ManagerConfig(ConfigModel):
    policies: dict[Policy, Weights] = DEFAULT_POLICIES
    """The weight of each term, by policy. A policy left out keeps its default."""
    claim_timeout: Seconds = 0.25
    first_token_timeout: Seconds = 10.0
    next_token_timeout: Seconds = 5.0
    silent_after_beats: Seconds = 2.5
    max_waiting: Annotated[int, Field(ge=0)] = 1000
    max_attempts_local: Count = 3
    max_attempts_paid: Count = 2
    retries: Retries = Retries()
    hedging: Hedging = Hedging()
    jobs: JobsConfig = JobsConfig()
    budgets: tuple[Budget, ...] = ()
    tenants_in_metrics: Annotated[int, Field(ge=0, le=1000)] = 0
    """So many tenants have figures of their own in `/metrics`; those beyond are one."""
    verifier: Verifier = Verifier()
    mirrors: tuple[Mirror, ...] = ()

    @field_validator("policies")
    @classmethod
    def _complete(cls, policies: dict[Policy, Weights]) -> dict[Policy, Weights]:
        return {**DEFAULT_POLICIES, **policies}
