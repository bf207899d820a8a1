"""The small messages around a request: claim, progress, go, cancel, and a worker's remote control."""

from datetime import datetime
from hmac import compare_digest
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from contracts.base import Epoch, JsonObject, Money, OpenModel, Tokens, Whole, WholeMilliseconds
from contracts.errors import ErrorReply
from contracts.heartbeat import Heartbeat
from contracts.response import Chunk, FinalResponse

Phase = Literal["queued", "prefill", "decode"]


class SilenceOk(OpenModel):
    """How long a worker may be silent about an attempt, in milliseconds, and still be well.

    From the backend's own time-outs, from what its model needs (reasoning, loading), and from how long its answers took
    before.
    """

    first_token: WholeMilliseconds
    """Before the first token."""
    next_token: WholeMilliseconds
    """Between tokens."""


class Claim(OpenModel):
    """Worker to Manager: the worker takes this attempt. A paid worker waits for `Go` before it spends."""

    type: Literal["claim"] = "claim"
    attempt: Whole
    epoch: Epoch
    silence_ok_ms: SilenceOk | None = None
    """Null: the worker does not know; the Manager's own time-outs count."""


class Progress(OpenModel):
    """Worker to Manager, every 2 s: the attempt is under way."""

    type: Literal["progress"] = "progress"
    tokens: Tokens
    phase: Phase
    moved: Whole | None = None
    """Grows with every sign of progress, also while the prompt is read. Null: unknown."""


class Go(OpenModel):
    """Manager to a paid worker: call the provider. `budget_ms` is the remaining time, so clocks need not agree."""

    type: Literal["go"] = "go"
    budget_ms: WholeMilliseconds


WorkerEvent = Annotated[Claim | Progress | Chunk | FinalResponse, Field(discriminator="type")]
"""Messages of a worker to a Manager's private inbox, besides `ErrorReply` (which has no type)."""

WorkerMessage = Claim | Progress | Chunk | FinalResponse | ErrorReply


class CancelRequest(OpenModel):
    """`infer.cancel`: stop this task. A role that does not have the task ignores the message, and unknown fields in
    it.
    """

    task_id: Annotated[str, Field(min_length=1, max_length=128)]
    token: Annotated[str, Field(max_length=256)] | None = None
    """The value of the request's header `Bullpen-Cancel-Token`; without it such a request cannot be stopped."""

    def stops(self, task_id: str, token: str) -> bool:
        """Whether the message may stop a request of this task id that came with `token` (empty: without one)."""
        proved = not token or compare_digest((self.token or "").encode(), token.encode())
        return self.task_id == task_id and proved


class StatusRequest(OpenModel):
    """`infer.status`: asks which Manager has this task."""

    task_id: str | None = None
    request_id: str | None = None


class StatusReply(OpenModel):
    """The answer of the Manager that has the task; the others are silent."""

    manager_id: str
    task_id: str
    request_id: str
    state: Literal["waiting", "running"]


class ControlRequest(OpenModel):
    """`worker.control.<worker_id>` and `manager.control.<manager_id>`: an order to one role.

    A Manager knows `status`, `drain`, `resume`, `reload`, and `budgets`.
    """

    op: Literal["status", "drain", "resume", "swap", "reload", "cancel", "superseded", "report", "budgets"]
    model: str | None = None
    """For `swap`: the model to serve next, by its name in the config or at the provider."""
    models: tuple[JsonObject, ...] | None = None
    """For `swap`: all models to serve next, written as in `config.yaml`."""
    options: JsonObject | None = None
    """For `swap`: options that override those of the models served next; without a model, of those served now."""
    request_id: str | None = None
    """For `cancel` and `report`: the request whose `attempt` is meant."""
    attempt: int | None = None
    epoch: str | None = None
    """For `superseded`: the epoch of the worker that has this id now; an older one leaves."""
    inbox: str | None = None
    """For `report`: the subject for the attempt's state: progress, its final message again, or `no_worker`."""


def mistakes(error: ValidationError) -> str:
    """What is wrong with a control request, in one line, each field by its name."""
    wrong = [(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors(include_url=False)]
    return "; ".join(f"{field}: {message}" if field else message for field, message in wrong)


class ControlReply(OpenModel):
    """A worker's answer to a control request."""

    ok: bool
    worker_id: str
    message: str = ""
    heartbeat: Heartbeat | None = None
    config_refused: str = ""
    """Why the worker's config file is not in force, with file, line and field; empty when it is."""


class BudgetState(OpenModel):
    """How much of a budget is spent in its current window of time. US dollars."""

    tenant: str | None
    """Null: of all tenants together. Empty: of requests without a tenant."""
    model_id: str | None
    per: str
    window: str
    """`2026-11-23` for a day, `2026-11` for a month."""
    ends_at: datetime | None
    limit_usd: Money
    spent_usd: Money | None
    """Null: unknown, because JetStream does not answer."""


class ManagerReply(OpenModel):
    """A Manager's answer to a control request."""

    ok: bool
    manager_id: str
    message: str = ""
    state: Literal["ready", "draining"]
    inflight: int
    waiting: int
    config_digest: str = ""
    """A digest of the config in force: changes with every change."""
    config_refused: str = ""
    """Why the Manager's config file is not in force, as for a worker."""
    budgets: tuple[BudgetState, ...] | None = None
    """For `budgets`: those of the config; for `tenant: "*"` one for each tenant that has sent a request."""
