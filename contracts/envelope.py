"""The fields that every request has, whatever it asks: tenant, model, policy, deadline, budget."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from contracts.base import StrictModel
from contracts.heartbeat import Name
from contracts.request_checks import FieldError
from contracts.subjects import Kind

DEFAULT_DEADLINE_MS = 120_000
MAX_DEADLINE_MS = 86_400_000
TENANT_CHARACTERS = 256
"""Characters. The books have the tenant in an index, whose entries may have some 2,700 bytes."""

Policy = Literal["balanced", "cheapest", "fastest", "best", "local_only"]
Priority = Literal["interactive", "batch"]
ContentMode = Literal["full", "redacted", "hash", "none"]
"""What the books keep of question and answer, from everything to nothing."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("only printable characters are allowed")
    return text


LONGEST_TASK_ID = 128
TaskId = Annotated[str, Field(min_length=1, max_length=LONGEST_TASK_ID), AfterValidator(_printable)]
Key = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_printable)]


class Envelope(StrictModel):
    """A request without its question. Routing, failover, budgets and books need no more than this."""

    kind: ClassVar[Kind]
    """The kind of request: the first word of its subjects."""

    task_id: TaskId | None = None
    idempotency_key: Key | None = None
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    backend: Name | None = None
    policy: Policy = "balanced"
    max_cost_usd: Annotated[float, Field(ge=0)] | None = None
    hedge: bool = False
    """Also allow a second, paid worker to be asked when the first is slow."""
    deadline_ms: Annotated[int, Field(ge=1, le=MAX_DEADLINE_MS)] = DEFAULT_DEADLINE_MS
    priority: Priority = "interactive"
    metadata: dict[str, str] = Field(default_factory=dict)
    content: ContentMode | None = None
    """What the books may keep of this request's words; the mesh's own setting counts when it is stricter."""

    @model_validator(mode="after")
    def _names_its_tenant(self) -> Self:
        if len(self.tenant) > TENANT_CHARACTERS:
            raise FieldError("metadata.tenant", f"should have at most {TENANT_CHARACTERS} characters")
        return self

    @property
    def tenant(self) -> str:
        return self.metadata.get("tenant", "")
