"""Whether a reader sees the seam when a worker is killed in mid-stream: seamless streams, by prefill and by the anchor.

A Manager and two simulated workers, as processes, that tell the same story word by word; one of them is killed again
and again (kill -9), and its streams go on at the other. Every reader's text is held against the story. Then the bundled
model, which could be given the start of an answer, is asked in words to go on instead: how many of its answers join.
"""

import asyncio
import json
import random
import tempfile
from difflib import SequenceMatcher
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks import results
from contracts import BullpenError, InferenceRequest
from contracts import subjects as s
from contracts.going_on import asked_to_go_on
from manager.request.seam import Anchor, Joint, Verdict
from tests.roles import Question, Roles, roles_on_a_server
from tests.support import eventually
from workers.base import Backend, Job
from workers.base.interface.discovery import find

Json = dict[str, Any]

STORY = """\
# The ferry

It was late. “We should go,” said the old man. The river ran below the hill, black and slow; the river ran below the
hill, black and slow – and the boat lay there.

1. They counted the oars again.
2. They counted the oars again.

"Ha ha ha ha ha ha ha ha ha ha ha," the boy laughed: *two*!

```python
for crossing in range(times):
    river.row()
    river.row()
```

| night | went |
|---|---|
| 1 | 12 |

Ночь была тихая, 夜は静かだった。 In the morning they were gone 🚪, all but one."""
"""With what makes joining hard: the same words twice, verse, lists, code, tables, other scripts."""
WORDS_PER_SECOND = 6
TELLING = {
    "BULLPEN_SIMULATED__STORY": STORY,
    "BULLPEN_SIMULATED__TOKENS_PER_SECOND": str(WORDS_PER_SECOND),
    "BULLPEN_SIMULATED__MAX_CONCURRENCY": "200",
}
WAYS: dict[str, dict[str, str]] = {
    "prefill": {},
    "anchor": {"BULLPEN_SIMULATED__MODELS": '[{"name": "simulated", "capabilities": ["chat", "stream"]}]'},
}
GENEROUS = {"BULLPEN_MANAGER__RETRIES": '{"share": 1.0, "per_second": 1000, "burst": 1000}'}
"""Nearly every stream is tried again here, and what is measured is not whether that is allowed."""
STAYS = "w-stays"
AT_ONCE = 200
WITHIN = 4.0
"""Seconds in which they begin, less than a story takes."""
NEAR = 120.0

QUESTIONS = (
    "Why is the sky blue?",
    "Tell me a short story about a fox and a river.",
    "How do I bake bread?",
    "List five animals and say something about each.",
    "Explain how a bicycle works.",
    "What should I see in Paris?",
    "Write a letter to a friend about the weather.",
    "What is the difference between a cat and a dog?",
)
CUT_AT = (0.3, 0.6, 0.9)
"""Of the answer."""


def main(kills: int, questions: int) -> None:
    """Measures, prints, writes `benchmarks/results/seams.json`."""
    rows = []
    for way in WAYS if kills else ():
        rows.append(row := asyncio.run(_killed(way, kills)))
        print(
            f"{row['way']}: {row['seams']} streams went on, {row['wrong']} with another text "
            f"({row['characters']} characters), {row['errors']} ended with an error",
            flush=True,
        )
    real = asyncio.run(_real(QUESTIONS[:questions])) if questions else None
    if real:
        print(f"{real['model']}, asked in words: {real['joined']} of {real['asked']} answers joined")
    results.write(
        "seams",
        {"simulated": rows, "real": real},
        does_not_prove=[
            "that other models follow the words: the simulated worker does by rule, the bundled model is very small",
            "that the sense goes on unbroken where another model writes the rest",
        ],
    )


# Killed workers


async def _killed(way: str, kills: int) -> Json:
    told: Json = {"way": way, "seams": 0, "wrong": 0, "characters": 0, "errors": 0}
    chance = random.Random(way)
    with tempfile.TemporaryDirectory() as directory:
        async with roles_on_a_server(Path(directory)) as roles:
            roles.manager(**GENEROUS)
            roles.worker(STAYS, **TELLING, **WAYS[way])
            for number in count():
                if told["seams"] + told["errors"] >= kills:
                    return told
                roles.worker(victim := f"w-{number}", **TELLING, **WAYS[way])
                await roles.ready(within=NEAR)
                for stream in await _streams_with_a_kill(roles, victim, chance):
                    _count(stream, told)
                print(f"{way}: {told['seams']} of {kills}", end="\r", flush=True)
    raise AssertionError


async def _streams_with_a_kill(roles: Roles, victim: str, chance: random.Random) -> list[Question]:
    """Streams that begin one after the other, so that the kill finds each at another word."""
    streams: list[Question] = []
    await _order(roles, "drain", "draining")
    for _ in range(AT_ONCE):
        streams.append(await roles.ask(stream=True, continuation="seamless"))
        await asyncio.sleep(chance.uniform(0, 2 * WITHIN / AT_ONCE))
    await _order(roles, "resume", "ready")
    roles.kill(victim)
    return await roles.answered(streams, within=NEAR)


async def _order(roles: Roles, order: str, state: str) -> None:
    """To the worker that stays: it takes nothing while the streams begin, so that they all lose the other one."""
    await roles.bus.request(s.worker_control(STAYS), json.dumps({"op": order}).encode(), timeout=NEAR)
    await eventually(lambda: roles.beats[STAYS].state == state, timeout=NEAR)


def _count(stream: Question, told: Json) -> None:
    pieces = [piece for piece in stream.heard if piece.get("type") == "chunk"]
    text = "".join(piece["delta"] for piece in pieces)
    told["seams"] += any(piece.get("type") == "resumed" for piece in stream.heard)
    if stream.code:
        told["errors"] += 1
    elif text != STORY or stream.finals[0]["output"] != STORY:
        told["wrong"] += 1
        same = sum(block.size for block in SequenceMatcher(None, text, STORY, autojunk=False).get_matching_blocks())
        told["characters"] += len(text) + len(STORY) - 2 * same


# The bundled model


async def _real(questions: tuple[str, ...]) -> Json:
    local = find("local").load()
    told = {"threads": 1, "max_concurrency": 1, "first_token_timeout": NEAR, "next_token_timeout": NEAR}
    backend: Backend[Any] = local(local.config_class.model_validate(told))
    await backend.start(lambda _: None)
    try:
        cases = [case for question in questions for case in await _cases(backend, question)]
    finally:
        await backend.close()
    joined = sum(case["joined"] for case in cases)
    model = backend.config.models[0].name
    return {"model": model, "asked": len(cases), "joined": joined, "cases": cases}


async def _cases(backend: Backend[Any], question: str) -> list[Json]:
    """One answer, cut at several places, and whether the model's rest joins it."""
    request = InferenceRequest(prompt=question)
    whole = await _say(backend, request, 100)
    return [await _case(backend, request, whole[: int(len(whole) * at)]) for at in CUT_AT]


async def _case(backend: Backend[Any], request: InferenceRequest, begun: str) -> Json:
    anchor = Anchor.of(begun)
    said = await _say(backend, asked_to_go_on(request, begun, anchor.text, None), 160)
    found = Joint(anchor).finish(said, 1)
    new = None if isinstance(found, Verdict) else found[:80]
    return {"joined": new is not None, "anchor": anchor.text, "said": said[:200], "new": new}


async def _say(backend: Backend[Any], request: InferenceRequest, most: int) -> str:
    try:
        return (await backend.infer(Job(request, backend.models()[0], most))).text
    except BullpenError as error:
        return f"({error.code})"
