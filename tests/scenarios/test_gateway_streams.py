"""HTTP clients of a gateway whose worker, a real process, is killed or frozen while they read.

They ask in four dialects, none of which has a word for a text that begins anew: each reads one whole text.
"""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pydantic_core import from_json

from tests.gateway import PATIENT, STORY, door_of
from tests.mesh import SmallMesh
from tests.roles import PROMPT, Roles
from tests.servers import NatsServer
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(180)]

HELLO = [{"role": "user", "content": "hello there"}]
READING = {"BULLPEN_SIMULATED__TOKENS_PER_SECOND": "50", "BULLPEN_SIMULATED__STORY": STORY}
HANGS = {**READING, "BULLPEN_SIMULATED__HANG_AFTER_TOKENS": "12", "BULLPEN_SIMULATED__NEXT_TOKEN_TIMEOUT": "150"}
"""Its readers are in the middle of their text, however slow the machine is."""
NO_PREFILL = {"BULLPEN_SIMULATED__MODELS": '[{"name": "simulated", "capabilities": ["chat", "stream"]}]'}

DIALECTS: dict[str, tuple[str, dict[str, Any], Callable[[Any], str]]] = {
    "OpenAI": (
        "/v1/chat/completions",
        {"messages": HELLO},
        lambda told: told["choices"][0]["delta"].get("content") or "",
    ),
    "Anthropic": (
        "/v1/messages",
        {"messages": HELLO, "max_tokens": 1000},
        lambda told: told["delta"]["text"] if told["type"] == "content_block_delta" else "",
    ),
    "Responses": (
        "/v1/responses",
        {"input": "hello there"},
        lambda told: told["delta"] if told["type"] == "response.output_text.delta" else "",
    ),
    "Ollama": ("/api/chat", {"messages": HELLO}, lambda told: told["message"]["content"]),
}


class Reader:
    """One client and what it has read."""

    def __init__(self, dialect: str) -> None:
        self.path, self._asked, self._text_of = DIALECTS[dialect]
        self.text = ""

    async def read(self, client: aiohttp.ClientSession, url: str) -> None:
        asked = {"model": "auto", "stream": True, **self._asked}
        async with client.post(url + self.path, json=asked) as answer:
            assert answer.status == 200
            async for line in answer.content:
                told = line.decode().removeprefix("data:").strip()
                if told.startswith("{"):
                    piece = from_json(told)
                    assert not piece.get("error"), told
                    self.text += self._text_of(piece)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("able", [{}, NO_PREFILL], ids=["prefill", "anchor"])
async def test_a_client_reads_one_whole_text_whatever_befalls_the_worker(
    tmp_path: Path, nats: NatsServer, sign: signal.Signals, able: dict[str, str]
) -> None:
    readers = [Reader(dialect) for dialect in DIALECTS]
    async with Roles(tmp_path, nats.url) as roles, SmallMesh(nats.url) as mesh:
        roles.manager(**PROMPT)
        roles.worker("w-1", **HANGS, **able)
        await roles.ready()
        async with door_of(mesh, as_shipped=True) as door, aiohttp.ClientSession() as client:
            reading = [asyncio.create_task(reader.read(client, door.url)) for reader in readers]
            await eventually(lambda: all(reader.text for reader in readers) or ended(reading), timeout=PATIENT)
            roles.worker("w-2", **READING, **able)
            await roles.ready()
            roles.send("w-1", sign)
            async with asyncio.timeout(90):
                await asyncio.gather(*reading)
    assert [reader.text for reader in readers] == [STORY] * len(DIALECTS)


def ended(reading: list["asyncio.Task[None]"]) -> bool:
    """Raises what one of them failed with."""
    return any(task.done() and task.result() is None for task in reading)
