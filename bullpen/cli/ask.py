"""`bullpen ask`: a question, and its answer as it is made."""

import asyncio
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer

from bullpen import conversation
from bullpen.cli.prompt import whole_prompt
from bullpen.cli.running import connected, run, tell
from bullpen.cli.show import UNKNOWN, as_json, clean, counted, duration, money, note
from bullpen.conversation import Conversation
from client import Bullpen, BullpenError, Options, RequestFailed
from contracts import Chunk, ErrorReply, FinalResponse, InferenceResponse, Policy, ReasoningEffort, Resumed


def register(app: typer.Typer) -> None:
    app.command()(ask)


def ask(
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The question; what is piped in stands after it")
    ] = None,
    *,
    file: Annotated[
        list[Path] | None, typer.Option("--file", "-f", metavar="FILE", help="A text that stands after the question")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only workers that serve this model")] = None,
    backend: Annotated[str | None, typer.Option(help="Only workers of this backend")] = None,
    policy: Annotated[Policy | None, typer.Option(help="How candidates are weighed (if not said: balanced)")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The longest answer, in tokens")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="How freely words are chosen")] = None,
    reasoning_effort: Annotated[
        ReasoningEffort | None, typer.Option(help="How long a model that reasons may think")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", "-s", help="The system text")] = None,
    deadline_ms: Annotated[
        int | None, typer.Option(min=1, help="For all attempts together (if not said: 120000)")
    ] = None,
    resume: Annotated[bool, typer.Option("--continue", "-c", help="Go on with the last conversation here")] = False,
    task_id: Annotated[str | None, typer.Option(help="A name of your own for this task")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the whole response (or error) as JSON")] = False,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Print the answer when it is complete")] = False,
) -> None:
    """Ask the mesh a question.

    On a terminal the answer is shown as it is made, and what the model thinks dimmed before it. Ctrl-C stops the work,
    everywhere.

    Exit codes: 0 answered, 1 an error reply, 2 wrong usage, 3 the mesh cannot be reached.

    Examples:

      bullpen ask "What is the capital of France?"

      bullpen ask --policy local_only --max-tokens 40 "Tell me a joke"

      cat notes.md | bullpen ask "Summarize:"

      bullpen ask -m qwen3:8b -f notes.md -s "Three sentences" "Summarize:"

      bullpen ask --continue "And in one word?"

      bullpen ask --json "2 + 2?" | jq .output
    """
    question = whole_prompt(prompt, file or [])
    said = (conversation.load() or Conversation()) if resume else Conversation()
    said = said.model_copy(update={"system": system or said.system, "model": model or said.model})
    options = Options(
        model=said.model,
        backend=backend,
        policy=policy,
        max_tokens=max_tokens,
        temperature=temperature,
        reasoning_effort=reasoning_effort,
        context=said.context,
        deadline_ms=deadline_ms,
        task_id=task_id,
    )
    show = _print_json if json else _print_whole if no_stream or not sys.stdout.isatty() else _print_pieces

    async def work() -> None:
        answer = await show(question, options)
        await asyncio.to_thread(conversation.save, said.with_answer(question, answer.output))

    run(work)


async def _print_json(question: str, options: Options) -> InferenceResponse:
    async with connected() as bullpen:
        try:
            as_json(answer := await bullpen.ask(question, **options))
        except BullpenError as error:
            as_json(error.reply if isinstance(error, RequestFailed) else ErrorReply(error=error.detail()))
            tell(error)
            raise typer.Exit(1) from None
    return answer


async def _print_whole(question: str, options: Options) -> InferenceResponse:
    async with connected() as bullpen:
        response = await bullpen.ask(question, **options)
    typer.echo(clean(response.output) if sys.stdout.isatty() else response.output)
    note(_footer(response))
    return response


async def _print_pieces(question: str, options: Options) -> InferenceResponse:
    async with connected() as bullpen:
        return await show_stream(bullpen, question, options)


async def show_stream(bullpen: Bullpen, question: str, options: Options) -> InferenceResponse:
    """Shows the answer as it comes, and the worker that gave it; returns the answer. Raises as `Bullpen.stream`."""
    fresh, thinks = True, False
    try:
        async with aclosing(bullpen.stream(question, **options)) as events:
            async for event in events:
                match event:
                    case Chunk(delta=delta, reasoning=reasoning):
                        if reasoning:
                            typer.secho(clean(reasoning), dim=True, nl=False)
                        if delta:
                            typer.echo(clean("\n\n" + delta if thinks or reasoning else delta), nl=False)
                        fresh, thinks = False, not delta and (thinks or bool(reasoning))
                    case Resumed():
                        _tell_resumed(event, fresh=fresh)
                        fresh, thinks = (True, False) if event.mode == "restarted" else (fresh, thinks)
                    case FinalResponse():
                        typer.echo()
                        note(_footer(event))
                        answer = event
    except (BullpenError, asyncio.CancelledError):
        if not fresh:
            typer.echo()
        raise
    return answer


def _tell_resumed(event: Resumed, *, fresh: bool) -> None:
    if event.mode == "restarted":
        if not fresh:
            typer.echo()
        note(f"{event.from_} is gone; {event.to} starts over:")


def _footer(response: InferenceResponse) -> str:
    facts = [
        response.model_id + (" (simulated)" if response.simulated else ""),
        response.worker_id,
        f"{response.prompt_tokens or UNKNOWN} + {response.completion_tokens} tokens",
        money(response.cost_usd),
        f"confidence {response.confidence:.2f} ({response.confidence_source})",
        duration(response.duration_ms),
    ]
    if len(response.attempts) > 1:
        facts.append(counted(len(response.attempts), "attempt"))
    if response.finish_reason == "length":
        facts.append(f"stopped at max_tokens ({response.completion_tokens}): --max-tokens N for more")
    elif response.finish_reason != "stop":
        facts.append(f"finish reason {response.finish_reason}")
    return " · ".join(facts)
