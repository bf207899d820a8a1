"""`books.query` and `books.grade`: what roles without a database ask telemetry about the books, and what they order."""

from typing import Annotated, Literal

from pydantic import Field

from contracts.base import JsonObject, ModelName, OpenModel, Time
from contracts.grades import Grade
from contracts.heartbeat import Name

MOST_ROWS = 500
"""Requests of one page, at most."""
Asked = Annotated[str, Field(max_length=256)] | None


class BooksQuery(OpenModel):
    """A question about the books. Every condition that is not null has to hold."""

    what: Literal["requests", "request", "totals", "cost", "models", "grades"]
    """`requests`: a page of them, the newest first; `request`: one, with attempts and decisions; `totals`: figures of
    the whole period; `cost`: by day, model and tenant; `models`: how each did, also by time; `grades`: those of now."""
    tenant: Asked = None
    """Only this tenant's requests. Empty: requests without a tenant. Null: all."""
    since: Time | None = None
    until: Time | None = None
    """From `since` until before `until`. Null: from the beginning (for `totals`, `cost` and `models`: one day back),
    until now.
    """
    name: Asked = None
    """For `request`: its request id or task id, of which the newest request counts. For `requests`: all requests with
    this id.
    """
    model: Asked = None
    worker: Asked = None
    status: Literal["ok", "error"] | None = None
    code: Asked = None
    """The error code of a failed request."""
    text: Asked = None
    """Text in the question or the answer, as far as they are kept, in small or capital letters."""
    after: Annotated[str, Field(max_length=100)] | None = None
    """`next` of the page before."""
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 50
    """Requests in one page."""


class BooksReply(OpenModel):
    """The answer to a `BooksQuery`; an `ErrorReply` comes instead when there is none."""

    rows: tuple[JsonObject, ...] = ()
    next: str | None = None
    """Where the next page begins. Null: this is the last page."""


class GradeOrder(OpenModel):
    """`books.grade`: an operator overrules a model's grade; answered with a `BooksReply` that has the changed
    grades.
    """

    model: ModelName
    worker: Name | None = None
    """Null: at every worker."""
    grade: Grade | None = None
    """Null: the grade follows the books again."""
