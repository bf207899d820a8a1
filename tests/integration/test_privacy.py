"""What people asked and got: kept as the mesh or its callers want it, wherever a request leaves its traces.

Each of these runs a whole mesh and then looks through every byte that it left on disk (JetStream, the spool, Postgres
with its log of writes, every process's own log) and through all that was said aloud. In the mode `full` the words are
found where they belong, so that looking is known to work.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic_core import from_json

from bullpen.supervision.mesh import Mesh
from bus import Bus, BusSettings, Message
from contracts import ContentMode
from contracts.headers import NO_STORE
from tests.books import Books
from tests.mesh import SmallMesh
from tests.roles import PATIENT
from tests.servers import copy_cluster
from tests.support import eventually

pytestmark = pytest.mark.timeout(180)

Json = dict[str, Any]
SAID_ALOUD = ("metrics.>", "worker.heartbeat", "telemetry.worker")
PARROT = '''
"""Repeats the question in all that an answer has, also when it complains about it."""

import json

from workers.base import Availability, Backend, BackendConfig, Delta, Done
from contracts import BullpenError, ErrorCode, TokenLogprob

CODES = {code.value: code for code in ErrorCode}


class ParrotBackend(Backend[BackendConfig]):
    name = "parrot"
    config_class = BackendConfig
    simulated = True

    @classmethod
    async def available(cls, config):
        return Availability.yes("always")

    async def start(self, report):
        pass

    def models(self):
        return tuple(model.card(local=True) for model in self.config.models)

    async def stream(self, job):
        question = job.request.question
        if (code := question.split()[0]) in CODES:
            raise BullpenError(CODES[code], f"the provider answered 400: who would ask {question}")
        yield Delta("", 0, reasoning=f"who would ask {question}")
        logprobs = (TokenLogprob(token=question, logprob=0),)
        yield Delta(question, token_logprobs=logprobs)
        arguments = json.dumps({"of": question})
        call = {"id": "c", "type": "function", "function": {"name": "repeat", "arguments": arguments}}
        extra = {"parrot": {"signature": question}}
        yield Done("stop", prompt_tokens=1, completion_tokens=1, tool_calls=(call,), refusal=question, extra=extra)

    async def health(self):
        pass

    async def close(self):
        pass
'''


def canary(name: str) -> str:
    """A word that nobody else says, in the form of a key so that redaction finds it."""
    return f"sk-{name}-c4n4ry7f3a9b2e"


class Stage:
    """A mesh of two parrots, somebody who asks them, and what is said aloud meanwhile."""

    def __init__(self, mesh: Mesh, bus: Bus) -> None:
        self.bus = bus
        self.directory = mesh.data_dir
        self.database = mesh.endpoints.database_url
        self.heard: list[bytes] = []
        self.asked = 0

    async def listen(self) -> None:
        for subject in SAID_ALOUD:
            await self.bus.subscribe_inline(subject, lambda message: self.heard.append(message.data))

    async def ask(
        self, prompt: str, subject: str = "infer.auto", headers: dict[str, str] | None = None, **more: Any
    ) -> Message:
        self.asked += 1
        body = json.dumps({"prompt": prompt, **more}).encode()
        return await self.bus.request(subject, body, timeout=60, headers=headers)

    async def stats(self) -> bytes:
        """What service discovery tells of itself, the last errors among it."""
        told: list[bytes] = []
        with self.bus.listen(lambda message: told.append(message.data)) as inbox:
            await self.bus.publish("$SRV.STATS", b"", reply=inbox.subject)
            await eventually(lambda: len(told) >= 4)
        return b"".join(told)

    async def rows(self, query: str) -> list[Json]:
        connection = await asyncpg.connect(self.database)
        try:
            return [dict(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    async def booked(self) -> bool:
        return len(await self.rows("SELECT FROM responses")) == self.asked

    def traces(self, word: str) -> set[str]:
        """The parts of the mesh whose files hold the word: `nats`, `postgres`, `logs`, `spool` …"""
        found = set()
        for path in self.directory.rglob("*"):
            with suppress(FileNotFoundError, IsADirectoryError):  # some are there for a moment only
                if word.encode() in path.read_bytes():
                    found.add(path.relative_to(self.directory).parts[0])
        return found


@asynccontextmanager
async def stage(tmp_path: Path, content: ContentMode) -> AsyncIterator[Stage]:
    parrot = tmp_path / "parrot"
    parrot.mkdir()
    (parrot / "__init__.py").touch()
    (parrot / "backend.py").write_text(PARROT)
    (parrot / "config.yaml").write_text("models: [{name: parrot}]\n")
    env = {"BULLPEN_TELEMETRY__CONTENT": content, "BULLPEN_LOG_LEVEL": "debug", **PATIENT}
    (tmp_path / "mesh").mkdir()
    copy_cluster(tmp_path / "mesh" / "postgres")
    async with Mesh(tmp_path / "mesh", workers=[(str(parrot), 2)], env=env) as mesh:
        bus = await Bus.connect("test", BusSettings(servers=(mesh.endpoints.nats_url,)), patience=20, watchdog=False)
        try:
            made = Stage(mesh, bus)
            await made.listen()
            yield made
        finally:
            await bus.close()


async def use_it_all(mesh: Stage, word: str, **more: Any) -> None:
    """The ways in which words come into the mesh, and are kept."""
    everywhere = {"context": {"note": word, "system": word}, "metadata": {"tenant": "acme", "user": word}, **more}
    for subject in ("infer.auto", "infer.parrot"):
        answer = from_json((await mesh.ask(f"say {word}", subject, **everywhere, idempotency_key=word)).data)
        assert answer["output"] == f"say {word}"
        await mesh.ask(f"upstream_error {word}", subject, **everywhere)
        await mesh.ask(f"invalid_request {word}", subject, **everywhere)


@pytest.mark.parametrize("content", ["full", "redacted", "hash", "none"])
async def test_no_more_is_kept_than_the_mesh_allows(tmp_path: Path, content: ContentMode) -> None:
    word = canary("mesh")
    async with stage(tmp_path, content) as mesh:
        await use_it_all(mesh, word)
        await mesh.ask(f"upstream_auth {word}", "infer.parrot")
        told = json.dumps({"task_id": "t", "score": 1, "comment": word}).encode()
        assert from_json((await mesh.bus.request("infer.feedback", told, timeout=30)).data) == {"stored": True}
        await eventually(mesh.booked, timeout=60)
        await eventually(lambda: mesh.rows("SELECT FROM feedback"))
        assert mesh.traces(word) - {"spool"} == ({"nats", "postgres"} if content == "full" else set())
        assert [one for one in [*mesh.heard, await mesh.stats()] if word.encode() in one] == []
        rows = await mesh.rows("SELECT prompt, content, error_code FROM responses")
        assert {row["content"] for row in rows} == {content}
        assert {row["error_code"] for row in rows} == {None, "invalid_request", "upstream_error", "upstream_auth"}
        prompts = {row["prompt"] for row in rows}
        assert ("say [secret]" in prompts) == (content == "redacted")
        assert len(prompts) == (1 if content == "none" else 4), "the same question is not recognised"


async def test_no_more_is_kept_than_the_caller_allows(tmp_path: Path) -> None:
    wishes: list[ContentMode] = ["redacted", "hash", "none"]
    async with stage(tmp_path, "full") as mesh:
        for wish in wishes:
            await use_it_all(mesh, canary(wish), content=wish)
        for subject in ("infer.auto", "infer.parrot"):
            await mesh.ask(f"say {canary('header')}", subject, headers={NO_STORE: "1"})
        await eventually(mesh.booked, timeout=60)
        assert [name for name in [*wishes, "header"] if mesh.traces(canary(name))] == []
        assert {row["content"] for row in await mesh.rows("SELECT DISTINCT content FROM responses")} == {*wishes}


async def test_an_unreadable_event_is_laid_aside_without_its_words(nats_server: str, database_url: str) -> None:
    word = canary("letter")
    async with Books(nats_server, database_url) as books:
        await books.make_stream()
        await books.publish("telemetry.response", f'{{"prompt": "{word}"}}'.encode())
        books.start(content="hash")

        async def laid_aside() -> bool:
            return await books.count("dead_letters") == 1

        await eventually(laid_aside)
        [letter] = await books.rows("dead_letters")
        assert "request_id" in letter["reason"]
        assert from_json(letter["body"]).keys() == {"withheld_bytes", "digest"}


@pytest.mark.usefixtures("patient_keys")
async def test_an_answer_that_must_not_be_kept_is_computed_again_for_its_key(nats_server: str) -> None:
    async with SmallMesh(nats_server) as mesh:
        await mesh.worker("w-1")
        await mesh.manager()
        twice = [await mesh.ask(idempotency_key="a", content="none") for _ in range(2)]
        assert [answer.get("replayed", False) for answer in twice] == [False, False]
        kept = [await mesh.ask(idempotency_key="b") for _ in range(2)]
        assert [answer.get("replayed", False) for answer in kept] == [False, True]
