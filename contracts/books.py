"""`books.query` and `books.grade`: what roles without a database ask telemetry about the books, and tell it."""

from typing import Annotated, Literal

from pydantic import Field

from contracts.base import JsonObject, ModelName, OpenModel, Time
from contracts.grades import Grade
from contracts.heartbeat import Name

MOST_ROWS = 500
"""Of one page of requests."""
Asked = Annotated[str, Field(max_length=256)] | None


class BooksQuery(OpenModel):
    """A question about the books. Every condition that is not null has to hold."""

    what: Literal["requests", "request", "totals", "cost", "models", "grades"]
    """`requests`: a page of them, the newest first; `request`: one, with attempts and decisions; `totals`: figures of
    the whole period; `cost`: by day, model and tenant; `models`: how each did, also by time; `grades`: those of now."""
    tenant: Asked = None
    """Only this tenant's. Empty: of requests that named none. Null: of all."""
    since: Time | None = None
    until: Time | None = None
    """From `since` until before `until`. Null: from the beginning (`totals`, `cost`, `models`: a day), until now."""
    name: Asked = None
    """For `request`: its request id or task id; the newest of that task. For `requests` the same, of all."""
    model: Asked = None
    worker: Asked = None
    status: Literal["ok", "error"] | None = None
    code: Asked = None
    """The error's."""
    text: Asked = None
    """In the question or the answer, as far as they are kept; small and capital letters are the same."""
    after: Annotated[str, Field(max_length=100)] | None = None
    """`next` of the page before."""
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 50
    """Requests in a page."""


class BooksReply(OpenModel):
    """The answer; an `ErrorReply` when there is none."""

    rows: tuple[JsonObject, ...] = ()
    next: str | None = None
    """Where the next page begins. Null: this is the last one."""


class GradeOrder(OpenModel):
    """`books.grade`: overrules the books about a model, answered with a `BooksReply` of the grades that changed."""

    model: ModelName
    worker: Name | None = None
    """Null: at every worker."""
    grade: Grade | None = None
    """Null: the books decide again."""
