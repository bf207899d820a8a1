"""The settings that `manager/config.yaml` may have."""

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from config.loader import ConfigModel
from contracts import Policy, Terms

SOON_MS = 1000
"""Milliseconds: the shortest `retry_after_ms` in a Manager's own errors about full or rate-limited workers."""

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
LATE = 25.0
"""The default weight of `lateness`, as a multiple of the weight of `load`: so high that an answer in time beats one
that is late.
"""


def _lateness_weight(weights: dict[str, Any]) -> float:
    return LATE * float(weights.get("load", 0.0))


class Weights(Terms):
    """The weight of each term of the score, 0 or more."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    lateness: float = Field(default_factory=_lateness_weight)
    """The weight of an answer's lateness. Left out: 25 times the weight of `load`."""

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
    """How many requests may be sent to a second worker after the first may have begun them."""

    share: Share = 0.1
    """Retries allowed as a share of the requests. `per_second` and `burst` add to this."""
    per_second: NotNegative = 10.0
    """Retries allowed every second beside the share."""
    burst: NotNegative = 500.0
    """Retries allowed at once: as many as one worker may have running when it dies."""
    duplicate_spend_share: Share = 0.05
    """The part of the money spent on paid workers in the last ten minutes that may be spent twice."""
    duplicate_spend_floor_usd: NotNegative = 0.10
    """US dollars that may be spent twice in ten minutes in any case."""


class Hedging(ConfigModel):
    """A second, idle worker also gets a request when the first is slower than almost always."""

    share: Share = 0.05
    """The largest share of the requests that a second worker also gets; 0 switches it off."""
    at_least: Annotated[int, Field(ge=1)] = 20
    """Answers of a model that must have been seen before its usual time is known."""


class JobsConfig(ConfigModel):
    """Durable requests, from `jobs.submit`."""

    at_once: Annotated[int, Field(ge=0)] = 8
    """Jobs that this Manager works on at once; 0: the Manager takes none."""
    attempts: Count = 8
    """The most tries of a job that fails for a reason that may pass. A try that no worker had room for does not count,
    while the job is younger than `patience`.
    """
    patience: Seconds = 86_400.0
    """Seconds after its submission for which a job may wait for a worker with room."""
    first_pause: Seconds = 1.0
    """Seconds before the second try; each further pause is twice as long."""
    longest_pause: Seconds = 60.0
    """Seconds of the longest pause between two tries."""
    silent_after: Seconds = 30.0
    """Seconds without word from a Manager after which its jobs go to another one."""


class Budget(ConfigModel):
    """A limit on spending: of a tenant, on a model, per hour, day or month, or in total."""

    tenant: Annotated[str, Field(min_length=1)] | None = None
    """The tenant; `*`: each tenant by itself; none: all tenants together."""
    model: Annotated[str, Field(min_length=1)] | None = None
    limit_usd: Annotated[Decimal, Field(gt=0)]
    per: Literal["hour", "day", "month", "total"] = "day"
    """The period, as on the calendar, in UTC."""
    warn_at: Share = 0.8
    """The share of the limit at which a warning is given."""


class Verifier(ConfigModel):
    """Another model that judges answers without token probabilities; it runs on idle workers."""

    model: Annotated[str, Field(min_length=1)] | None = None
    """The model that judges; none: answers are not judged."""
    share: Share = 0.05
    """The share of these answers that is judged."""


class Mirror(ConfigModel):
    """A candidate model that also gets a share of another model's requests; callers do not get its answers."""

    model: Annotated[str, Field(min_length=1)]
    """The id of the model whose answers the callers get."""
    to: Annotated[str, Field(min_length=1)]
    """The id of the candidate model."""
    share: Share = 0.05


class ManagerConfig(ConfigModel):
    policies: dict[Policy, Weights] = DEFAULT_POLICIES
    """The weights of each policy. A policy that is left out keeps its default."""
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
    """The number of tenants with figures of their own in `/metrics`; the rest are counted together."""
    verifier: Verifier = Verifier()
    mirrors: tuple[Mirror, ...] = ()

    @field_validator("policies")
    @classmethod
    def _complete(cls, policies: dict[Policy, Weights]) -> dict[Policy, Weights]:
        return {**DEFAULT_POLICIES, **policies}
