"""`explain`: why a request went to its worker, attempt by attempt."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from bullpen.cli.reading import Json, from_books
from bullpen.cli.running import usage
from bullpen.cli.show import (
    UNKNOWN,
    ago,
    as_json,
    counted,
    duration,
    figures,
    flat,
    money,
    one_line,
    problem,
    show,
    table,
    text,
)
from bullpen.cli.show import words as column
from contracts import Candidate, Terms, Wishes
from telemetry.reading.explaining import BookedDecision, Explained, ExplainedResponse, explain
from telemetry.reading.queries import BookedAttempt, recent_responses
from telemetry.store import Store

NOTHING_LIKE_IT = 1
SHOWN = 8
"""Candidates of one decision that are shown; `--json` has all that are kept."""
SAID_CHARACTERS = 200
OPENINGS = {
    "first": "The first choice",
    "failover": "The one before did not answer, so the next choice",
    "hedge": "It took long, so a second one was asked beside it",
    "cascade": "The answer was not sure enough, so a better one was asked",
}


def register(app: typer.Typer) -> None:
    app.command(name="explain")(explain_task)


def explain_task(
    task: Annotated[
        str | None,
        typer.Argument(metavar="TASK", help="A task id or request id, or the short one of `bullpen responses`"),
    ] = None,
    *,
    last: Annotated[bool, typer.Option("--last", help="The newest request in the books")] = False,
    json: Json = False,
) -> None:
    """Why a request went to its worker: the candidates, the attempts, the result.

    Of every candidate the terms are shown, from 0 (best) to 1 (worst); times the weights of the policy they add up to
    the score, and the lowest score wins. A term that is 0 for all of them is left out.

    Examples:

      bullpen explain --last

      bullpen explain 1f3c5a10

      bullpen explain my-task --json | jq '.decisions[].candidates'
    """
    if (task is None) is not last:
        raise usage("name one task, or say --last", "`bullpen responses` lists them")
    found = from_books(lambda store: _find(store, task))
    if found is None:
        problem(
            f"the books know no task {one_line(task, SAID_CHARACTERS)}" if task else "the books hold no request yet",
            "an answer is in the books a second after it was given, decisions are kept for a week; "
            "`bullpen responses` shows the last ids",
        )
        raise typer.Exit(NOTHING_LIKE_IT)
    if json:
        as_json(found)
    else:
        show(Group(*_story(found)))


async def _find(store: Store, task: str | None) -> Explained | None:
    """The request to explain. `name` None: the newest request."""
    if task is not None:
        return await explain(store, task)
    newest = await recent_responses(store, limit=1)
    return await explain(store, str(newest[0].request_id)) if newest else None


def _story(found: Explained) -> Iterator[RenderableType]:
    yield _title(found)
    tries = {attempt.attempt: attempt for attempt in found.attempts}
    for decision in found.decisions:
        yield Text()
        yield from _choice(decision)
        if (tried := tries.pop(decision.attempt, None)) is not None:
            yield _tried(tried)
    for tried in tries.values():
        yield Text()
        yield _tried(tried)
    if not found.decisions:
        yield Text()
        yield text(_why_no_decision(found.response), "dim")
    yield Text()
    yield _end(found.response)


def _title(found: Explained) -> RenderableType:
    asked = [when.created_at for when in (found.response, *found.decisions, *found.attempts) if when is not None]
    title = Text.assemble(("task ", "dim"), (flat(found.task_id), "bold"), (f", asked {ago(min(asked))}", "dim"))
    if found.others:
        title.append(f"; {found.others} older ones bear the same name", "dim")
    wishes = next((one.wishes for one in found.decisions if one.wishes is not None), None)
    return Group(title, text(_wished(wishes))) if wishes is not None else title


def _wished(wishes: Wishes) -> str:
    """The request's requirements, in words."""
    parts = [
        f"policy {wishes.policy}",
        f"priority {wishes.priority}",
        f"about {counted(wishes.prompt_tokens, 'token')}",
    ]
    parts += [f"{name} {value}" for name, value in (("model", wishes.model), ("backend", wishes.backend)) if value]
    if wishes.left_ms is not None:
        parts.append(f"{duration(wishes.left_ms)} left")
    if wishes.min_confidence is not None:
        parts.append(f"confidence of {wishes.min_confidence:g} or more")
    if wishes.max_cost_usd is not None:
        parts.append(f"{money(Decimal(str(wishes.max_cost_usd)))} at most")
    if wishes.needs:
        parts.append(f"needs {', '.join(wishes.needs)}")
    return f"It asked for: {', '.join(parts)}."


def _choice(decision: BookedDecision) -> Iterator[RenderableType]:
    opening = OPENINGS.get(decision.why or "", "The choice")
    if decision.winner is None:
        what = f"{opening}: no worker could be asked"
    else:
        what = f"{opening}: {decision.winner} with {decision.model_id}"
    yield Text.assemble((flat(what), "bold"), (flat(f"  (by {decision.manager_id}, {decision.policy})"), "dim"))
    shown = decision.candidates[:SHOWN]
    if weighed := [one for one in shown if one.score is not None]:
        terms = _telling(weighed)
        columns = [column(""), column("WORKER"), column("MODEL")]
        columns += [figures(f"{term.upper()} ×{getattr(decision.weights, term):g}") for term in terms]
        rows = [_weighed(one, decision, terms) for one in weighed]
        yield Padding(table([*columns, figures("SCORE")], rows), (0, 0, 0, 2))
    for one in shown:
        if one.score is None or one.passed_over:
            yield _indented(f"{one.worker_id} with {one.model_id}: {one.passed_over or 'not weighed'}", "dim")
    if (hidden := decision.considered - len(shown)) > 0:
        yield _indented(f"and {hidden} more", "dim")


def _telling(weighed: Sequence[Candidate]) -> list[str]:
    """The terms that differ from 0 for some candidate, by the contract's names."""
    return [term for term in Terms.model_fields if any(one.terms and getattr(one.terms, term) for one in weighed)]


def _weighed(one: Candidate, decision: BookedDecision, shown: Sequence[str]) -> list[RenderableType]:
    won = (one.worker_id, one.model_id) == (decision.winner, decision.model_id)
    terms = [f"{getattr(one.terms, term):.2f}" if one.terms else UNKNOWN for term in shown]
    return ["→" if won else "", text(one.worker_id), text(one.model_id), *terms, f"{one.score:.2f}"]


def _tried(tried: BookedAttempt) -> RenderableType:
    """One attempt and its result."""
    parts = [f"{tried.worker_id}: {tried.outcome} after {duration(tried.duration_ms)}"]
    if tried.completion_tokens is not None:
        read = UNKNOWN if tried.prompt_tokens is None else tried.prompt_tokens
        parts.append(f"tokens: {read} in, {tried.completion_tokens} out")
    parts.append(money(tried.cost_usd))
    if tried.confidence is not None:
        parts.append(f"confidence {tried.confidence:.2f}")
    if tried.error_message:
        parts.append(one_line(f"{tried.error_code}: {tried.error_message}", SAID_CHARACTERS))
    return _indented("; ".join(parts), "green" if tried.outcome == "ok" else "yellow")


def _end(response: ExplainedResponse | None) -> RenderableType:
    if response is None:
        return Text("How it ended is not in the books (yet).", style="dim")
    took, paid = duration(response.duration_ms), money(response.cost_usd)
    if response.status != "ok":
        said = one_line(f"{response.error_code}: {response.error_message}", SAID_CHARACTERS)
        return text(f"It ended after {took} with {said}. Paid: {paid}.", "red")
    how = f" (confidence {response.confidence:.2f}, {response.confidence_source})" if response.confidence else ""
    parts = f"{response.model_id} at {response.worker_id} answered after {took}{how}. Paid in all: {paid}."
    if response.replayed:
        parts += " It was the stored answer to an earlier question with the same key."
    if response.resumed:
        parts += " A part came from a worker that died on the way."
    return text(parts, "bold")


def _why_no_decision(response: ExplainedResponse | None) -> str:
    if response is not None and response.manager_id is None:
        return "There was no choice: the worker was asked directly."
    return (
        "Its decisions are not kept any more, or no telemetry ran when they were made "
        "(`decisions` in telemetry/config.yaml)."
    )


def _indented(parts: str, style: str) -> RenderableType:
    return Padding(text(parts, style), (0, 0, 0, 2))
