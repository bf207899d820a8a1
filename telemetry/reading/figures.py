"""The figures of a report: one period of the books, added up by Postgres.

All money comes from the attempts, so the sums by day, by model and by tenant agree to the last digit. An attempt
without a known price is counted in `unpriced`, and never taken as free.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeVar

from pydantic import Json

from contracts import OpenModel
from telemetry.store import Row, Store

Unit = Literal["hour", "day", "week"]

LENGTH: dict[Unit, timedelta] = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
HOURS_UP_TO = timedelta(days=3)
DAYS_UP_TO = timedelta(days=120)
TENANTS_SHOWN = 40
GRADES_SHOWN = 500

M = TypeVar("M", bound=OpenModel)


class Period(OpenModel):
    """From `since` up to, and without, `until`. It is divided into pieces of one `unit` in UTC; weeks begin on
    Monday.
    """

    since: datetime
    until: datetime

    @property
    def unit(self) -> Unit:
        length = self.until - self.since
        if length <= HOURS_UP_TO:
            return "hour"
        return "day" if length <= DAYS_UP_TO else "week"

    @property
    def step(self) -> timedelta:
        return LENGTH[self.unit]

    @property
    def starts(self) -> list[datetime]:
        """The start of each piece, also of those without a request."""
        start = self.since.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        if self.unit != "hour":
            start = start.replace(hour=0)
        if self.unit == "week":
            start -= timedelta(days=start.weekday())
        return [start + self.step * number for number in range(-(-(self.until - start) // self.step))]


class Spend(OpenModel):
    """What one model used in one piece of the period."""

    start: datetime
    model_id: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: Decimal | None
    simulated_usd: Decimal | None
    """The part of the cost that nobody has to pay: simulated workers have made-up prices."""
    unpriced: int
    """Attempts without a known price."""


class Requests(OpenModel):
    """How many requests ended with one result in one piece of the period."""

    start: datetime
    error_code: str | None
    """None: answered."""
    requests: int
    simulated: int


class LatencyFigures(OpenModel):
    """How long callers waited for their answers, in milliseconds."""

    start: datetime | None
    """None: the figures of the whole period."""
    p50_ms: float
    p95_ms: float
    p99_ms: float


class ModelFigures(OpenModel):
    """How a model did in the period, by its own attempts."""

    model_id: str
    attempts: int
    answers: int
    error_rate: float | None
    p50_ms: float | None
    p95_ms: float | None
    confidence: float | None
    feedback: float | None
    judgements: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: Decimal | None
    unpriced: int
    cost_per_answer: Decimal | None


class TenantFigures(OpenModel):
    """The requests of one tenant, and what they cost."""

    tenant: str | None
    """Empty: requests without a tenant. None: the tenants that are not listed, `tenants` of them."""
    tenants: int
    requests: int
    errors: int
    tokens: int
    cost_usd: Decimal | None
    unpriced: int


class GradeChange(OpenModel):
    """A model was promoted or demoted at one worker."""

    created_at: datetime
    model_id: str
    worker_id: str
    grade: str
    previous: str | None
    reasons: Json[list[Any]]


class Figures(OpenModel):
    """All figures of a report."""

    period: Period
    tenant: str | None
    """None: of all tenants."""
    made_at: datetime
    spend: tuple[Spend, ...]
    requests: tuple[Requests, ...]
    latency: tuple[LatencyFigures, ...]
    models: tuple[ModelFigures, ...]
    tenants: tuple[TenantFigures, ...]
    grades: tuple[GradeChange, ...]
    """The newest first."""


async def figures(store: Store, period: Period, tenant: str | None = None) -> Figures:
    """One period's figures, of one tenant or of all. Raises `DatabaseAway`."""
    span = period.since, period.until
    scope = *span, tenant
    spend, requests, latency, models, tenants, grades = await asyncio.gather(
        store.fetch("report_spend", *scope, period.unit),
        store.fetch("report_requests", *scope, period.unit),
        store.fetch("report_latency", *scope, period.unit),
        store.fetch("report_models", *scope),
        store.fetch("report_tenants", *scope, TENANTS_SHOWN),
        store.fetch("report_grades", *span, GRADES_SHOWN),
    )
    return Figures(
        period=period,
        tenant=tenant,
        made_at=datetime.now(UTC),
        spend=_read(Spend, spend),
        requests=_read(Requests, requests),
        latency=_read(LatencyFigures, latency),
        models=_read(ModelFigures, models),
        tenants=_read(TenantFigures, tenants),
        grades=_read(GradeChange, grades),
    )


def _read(model: type[M], rows: list[Row]) -> tuple[M, ...]:
    return tuple(model.model_validate(dict(row)) for row in rows)
