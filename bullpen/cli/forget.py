"""`forget`: deletes the requests and answers of a task or a tenant wherever a copy can be reached."""

import sys
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import typer

from bullpen import conversation
from bullpen.cli.running import ERROR_REPLY, UNREACHABLE, run, settings, usage
from bullpen.cli.show import as_json, clean, errors, note, problem
from bullpen.forgetting import Forgetting, Report
from bullpen.supervision.endpoints import default_data_dir, resolve_database_url
from bus import Bus, BusError
from telemetry.store import DatabaseAway, Store
from telemetry.upkeep import forget as books
from telemetry.upkeep.forget import Forgotten, NotAllowed, Scope

STATEMENT_WITHIN = 60.0
SPOOL = "spool"

T = TypeVar("T")


def register(app: typer.Typer) -> None:
    app.command()(forget)


def _time(given: str) -> datetime:
    try:
        then = datetime.fromisoformat(given)
    except ValueError:
        raise typer.BadParameter(f"{given!r} is not a time like 2026-01-31 or 2026-01-31T12:00Z") from None
    return then if then.tzinfo else then.astimezone()


def forget(
    *,
    task: Annotated[str | None, typer.Option(metavar="ID", help="All that was asked under this task id")] = None,
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="All that this tenant asked")] = None,
    before: Annotated[
        datetime | None, typer.Option(parser=_time, metavar="TIME", help="Only what was asked before")
    ] = None,
    content_only: Annotated[
        bool, typer.Option("--content-only", help="Only the words; tokens, times and costs stay")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is to forget")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Delete the requests and answers of a task or a tenant.

    From the books, from the stream before them, and from the answers that are kept for jobs and for idempotency keys.
    It cannot be undone. It lists what it could not reach; running it again does no harm.

    Examples:

      bullpen forget --task 0199-4a7c --dry-run

      bullpen forget --tenant acme --before 2026-01-01 --content-only

      bullpen forget --tenant acme --yes
    """
    scope = _scope(task, tenant, before)
    url = resolve_database_url()
    if url is None:
        problem("there are no books here", "start them with `bullpen up`, or set DATABASE_URL")
        raise typer.Exit(UNREACHABLE)
    if not (yes or dry_run or sys.stdin.isatty()):
        raise usage("there is no terminal to confirm at", "say --yes if you mean it, or --dry-run")
    found = _with_books(url, lambda store: _look(store, scope, words_only=content_only))
    if dry_run:
        _tell_found(found, scope, json=json)
        return
    if not yes:
        _ask(found, scope, words_only=content_only)
    report = _with_books(url, lambda store: _forget(store, scope, words_only=content_only))
    _tell_done(report, words_only=content_only, json=json)


def _scope(task: str | None, tenant: str | None, before: datetime | None) -> Scope:
    until = before or datetime.now(UTC)
    if task is not None and tenant is None:
        return Scope("task", task, until)
    if tenant is not None and task is None:
        return Scope("tenant", tenant, until)
    raise usage("say what to forget: either --task ID or --tenant NAME", "`bullpen forget --help` has examples")


def _with_books(url: str, do: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
    """The result of `do`. Ends the process when the database is away, or its user may not delete."""
    done: list[T] = []

    async def work() -> None:
        store = Store(url, STATEMENT_WITHIN)
        try:
            done.append(await do(store))
        finally:
            await store.close()

    try:
        run(work)
    except NotAllowed as error:
        problem(str(error))
        raise typer.Exit(ERROR_REPLY) from None
    except DatabaseAway as error:
        problem(f"the books cannot be reached: {error}", "`bullpen doctor` shows what is wrong; then do it again")
        raise typer.Exit(UNREACHABLE) from None
    return done[0]


async def _look(store: Store, scope: Scope, *, words_only: bool) -> Forgotten:
    await books.check_allowed(store, words_only=words_only)
    return await books.count(store, scope)


async def _forget(store: Store, scope: Scope, *, words_only: bool) -> Report:
    bus: Bus | None = None
    try:
        bus = await Bus.connect("forget", settings(), patience=0)
    except BusError:
        note("NATS cannot be reached")
    try:
        work = Forgetting(store, bus, scope, words_only=words_only, doing=note)
        conversation.forget()
        return await work.forget(default_data_dir() / SPOOL)
    finally:
        if bus is not None:
            await bus.close()


def _ask(found: Forgotten, scope: Scope, *, words_only: bool) -> None:
    """Asks for confirmation. Ends the process unless the answer is yes."""
    what = "the words of " if words_only else ""
    errors.print(
        f"About to forget {what}{_counted(found)} of {scope.by} {clean(scope.name)!r}. It cannot be undone.",
        markup=False,
    )
    if not typer.confirm("Go on?", err=True):
        raise typer.Exit(ERROR_REPLY)


def _tell_found(found: Forgotten, scope: Scope, *, json: bool) -> None:
    if json:
        as_json(found)
    else:
        typer.echo(f"would forget {_counted(found)} of {scope.by} {clean(scope.name)!r}")


def _tell_done(report: Report, *, words_only: bool, json: bool) -> None:
    if json:
        as_json(asdict(report))
    else:
        rows = Forgotten(report.responses, report.attempts, report.feedback, report.dead_letters, report.decisions)
        typer.echo(f"{'forgot the words of' if words_only else 'forgot'} {_counted(rows)}")
        typer.echo(
            f"deleted {_number(report.events, 'booked event')} from the stream, {_number(report.results, 'result')}, "
            f"{_number(report.replays, 'answer')} kept for idempotency keys"
        )
    for what in report.left:
        problem(f"not reached: {what}")
    if report.left:
        raise typer.Exit(UNREACHABLE)


def _counted(rows: Forgotten) -> str:
    counts = {
        "request": rows.responses,
        "attempt": rows.attempts,
        "judgement": rows.feedback,
        "dead letter": rows.dead_letters,
        "decision": rows.decisions,
    }
    return ", ".join(_number(number, what) for what, number in counts.items())


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
