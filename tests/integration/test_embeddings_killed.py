"""A worker is killed while it embeds: another one goes on, and the books have each attempt once."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest
from pydantic_core import from_json

from contracts import subjects as s
from tests.books import Books
from tests.mesh import Json, SmallMesh
from tests.roles import Roles
from tests.support import eventually

pytestmark = pytest.mark.timeout(120)
TASKS = ("t-1", "t-2", "t-3")


async def test_a_killed_worker_loses_no_vectors_and_the_books_are_exact(
    mesh: SmallMesh, books: Books, nats_server: str, tmp_path: Path
) -> None:
    books.start()
    await books.ready()
    await mesh.manager()
    async with Roles(tmp_path, nats_server) as roles:
        roles.worker("w-1", BULLPEN_SIMULATED__LATENCY_MS="600000")
        await roles.ready()
        await mesh.knows("w-1")
        asking = [asyncio.create_task(vectors(mesh, task)) for task in TASKS]
        await roles.have(len(TASKS), "w-1")
        await mesh.worker("w-2")
        roles.kill("w-1")
        answers = await asyncio.gather(*asking)
    assert [answer["task_id"] for answer in answers] == list(TASKS)
    assert all(len(answer["embeddings"]) == 2 and answer["worker_id"] == "w-2" for answer in answers)
    tried = [[(a["worker_id"], a["outcome"]) for a in answer["attempts"]] for answer in answers]
    assert tried == [[("w-1", "uncertain"), ("w-2", "ok")]] * len(TASKS)

    async def all_booked() -> bool:
        return await books.count("responses") >= len(TASKS) and await books.count("attempts") >= 2 * len(TASKS)

    await eventually(all_booked, timeout=40)
    responses, attempts = await books.rows("responses"), await books.rows("attempts")
    assert Counter((row["task_id"], row["kind"], row["status"], row["attempts"]) for row in responses) == Counter(
        (task, "embed", "ok", 2) for task in TASKS
    )
    assert Counter((row["kind"], row["worker_id"], row["outcome"]) for row in attempts) == {
        ("embed", "w-1", "uncertain"): len(TASKS),
        ("embed", "w-2", "ok"): len(TASKS),
    }
    assert {row["prompt_tokens"] for row in responses} == {2}


async def vectors(mesh: SmallMesh, task_id: str) -> Json:
    body = json.dumps({"input": ["one", "two"], "task_id": task_id}).encode()
    answer: Json = from_json((await mesh.bus.request(s.EMBED_AUTO, body, timeout=60)).data)
    return answer
