"""No key that a role was given comes out of the mesh again: a whole one is run, and all that it wrote is searched.

The providers are stand-ins that repeat the key they were called with, in every way in which they can fail.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from aiohttp import web
from pydantic_core import from_json

from bullpen.supervision.mesh import Mesh
from bus import Bus, BusSettings, Message
from tests.backends.providers import Failure, GeminiProvider, OpenAIProvider, Provider
from tests.cli import bullpen
from tests.servers import copy_cluster
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(240)]

SHAPED, SHAPELESS = "sk-proj-PLANTED0Key1InTheEnvironment2", "b1a5edPLANTED77keyInAFile0"
"""One that looks like a key, and one that only its owner can know for one: as servers of one's own have them."""
PLANTED = b"PLANTED"
SAID = "did-anybody-hear-this"
"""What is asked: it is in everything that is searched, or the search would prove nothing."""

Json = dict[str, Any]


class OpenAILoud(OpenAIProvider):
    called_with = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.called_with = request.headers["Authorization"].removeprefix("Bearer ")
        return await super().answer(request)


class GeminiLoud(GeminiProvider):
    called_with = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.called_with = request.headers["x-goog-api-key"]
        return await super().answer(request)


@dataclass
class Heard:
    """Everything that went over the wire, headers and subjects too."""

    messages: list[Message] = field(default_factory=list)

    def text(self) -> bytes:
        return b"\n".join(
            f"{message.subject} {message.reply} {dict(message.headers)} ".encode() + message.data
            for message in self.messages
        )


@dataclass
class Stage:
    mesh: Mesh
    bus: Bus
    heard: Heard
    providers: dict[str, tuple[Provider, str]]
    """With the key that each is called with."""
    env: dict[str, str]

    async def ask(self, subject: str = "infer.auto", **request: Any) -> Json:
        body = json.dumps({"prompt": SAID, "deadline_ms": 30_000, **request}).encode()
        told: Json = from_json((await self.bus.request(subject, body, timeout=40)).data)
        return told

    async def booked(self) -> bytes:
        """Every row of every table of the books."""
        connection = await asyncpg.connect(self.mesh.endpoints.database_url)
        try:
            tables = await connection.fetch("SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'v')")
            ours = [name for (name,) in tables if not name.startswith(("pg_", "information_schema"))]
            rows = [row for name in ours for row in await connection.fetch(f"SELECT t::text FROM {name} t")]
        finally:
            await connection.close()
        return b"\n".join(str(row[0]).encode() for row in rows)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A key in the environment, one in a file, and a worker that needs none."""
    (tmp_path / "key").write_text(f"{SHAPELESS}\n")
    async with AsyncExitStack() as stack:
        openai = await stack.enter_async_context(OpenAILoud())
        gemini = await stack.enter_async_context(GeminiLoud())
        env = {
            **{"OPENAI_API_KEY": SHAPED, "OPENAI_BASE_URL": f"{openai.url}/v1"},
            **{"GEMINI_API_KEY_FILE": str(tmp_path / "key"), "GEMINI_BASE_URL": gemini.url, "GEMINI_API_KEY": ""},
            **{"BULLPEN_OPENAI__MODELS": '[{"name": "m"}]', "BULLPEN_GEMINI__MODELS": '[{"name": "m"}]'},
            "BULLPEN_LOG_LEVEL": "debug",
        }
        (tmp_path / "mesh").mkdir()
        copy_cluster(tmp_path / "mesh" / "postgres")
        workers = [("openai", 1), ("gemini", 1), ("simulated", 1)]
        mesh = await stack.enter_async_context(Mesh(tmp_path / "mesh", workers=workers, env=env))
        bus = await Bus.connect("test", BusSettings(servers=(mesh.endpoints.nats_url,)))
        stack.push_async_callback(bus.close)
        heard = Heard()
        await bus.subscribe_inline(">", heard.messages.append)
        await bus.flush(20)
        yield Stage(mesh, bus, heard, {"openai": (openai, SHAPED), "gemini": (gemini, SHAPELESS)}, env)


def ways_to_repeat(key: str) -> Iterator[Failure]:
    quoted = json.dumps({"error": {"message": f"Incorrect API key provided: {key}", "code": 1, "status": "NO"}})
    for status in (500, 429, 400):
        yield Failure(status=status, body=quoted, headers={"Retry-After": key, "x-request-id": key})
    yield Failure(status=503, body=f"<html>Authorization: Bearer {key}</html>")
    yield Failure(garbage=f"data: {quoted}\n\n")
    yield Failure(garbage=f"data: what is {key}?\n\n")
    yield Failure(status=401, body=quoted)


async def test_no_key_is_in_anything_that_the_mesh_wrote(stage: Stage, tmp_path: Path) -> None:
    told = [await stage.ask(f"infer.{name}") for name in stage.providers]
    assert [answer.get("output") for answer in told] == ["The capital is Paris."] * 2
    for name, (provider, key) in stage.providers.items():
        assert getattr(provider, "called_with", "") == key
        for way in ways_to_repeat(key):
            provider.failure = way
            told.append(await stage.ask(f"infer.{name}"))
            assert "error" in told[-1], way
        await started_anew(stage, name)
    told += [await stage.ask(backend="openai"), await stage.ask()]
    assert "error" in told[-2]
    assert told[-1]["backend"] == "simulated"
    looks = [await bullpen(*look, env=_at(stage)) for look in (["doctor", "--json"], ["workers", "--json"])]
    await eventually(lambda: _all_booked(stage, told), timeout=60)

    found = {
        "on the wire": stage.heard.text(),
        "in the books": await stage.booked(),
        "in answers": json.dumps(told).encode(),
        "in what commands say": "".join(look.out + look.err for look in looks).encode(),
        "in ps": await asyncio.to_thread(_command_lines),
        **await asyncio.to_thread(_files, tmp_path / "mesh"),
    }
    assert [where for where, what in found.items() if PLANTED in what] == []
    assert SAID.encode() in found["on the wire"]
    assert SAID.encode() in found["in the books"]
    assert b"worker openai" in found["in ps"]
    assert any("/logs/worker-openai" in where for where in found)


async def started_anew(stage: Stage, name: str) -> None:
    """It meets a provider that refuses its key, and says so."""
    before = len(stage.heard.messages)
    old = await eventually(lambda: [beat["epoch"] for beat in _beats(stage, name)])
    os.kill(stage.mesh.pid(f"worker-{name}-1"), signal.SIGKILL)
    await eventually(
        lambda: any(beat["epoch"] not in old and "401" in beat["reason"] for beat in _beats(stage, name, before)),
        timeout=60,
    )


def _beats(stage: Stage, name: str, first: int = 0) -> list[Json]:
    beats = [from_json(m.data) for m in stage.heard.messages[first:] if m.subject == "worker.heartbeat"]
    return [beat for beat in beats if beat["worker_id"] == f"{name}-1"]


def _at(stage: Stage) -> dict[str, str]:
    return {
        **stage.env,
        "NATS_URL": stage.mesh.endpoints.nats_url,
        "DATABASE_URL": stage.mesh.endpoints.database_url or "",
    }


async def _all_booked(stage: Stage, told: list[Json]) -> bool:
    booked = await stage.booked()
    return all(answer["request_id"].encode() in booked for answer in told if "output" in answer)


def _command_lines() -> bytes:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return "\n".join(found).encode()


def _files(directory: Path) -> dict[str, bytes]:
    """Logs, spool, what JetStream and Postgres keep."""
    found = {}
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError, IsADirectoryError):  # a temporary one is gone again
            found[str(path)] = path.read_bytes()
    return found
