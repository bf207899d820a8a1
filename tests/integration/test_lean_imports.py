"""What a role's process imports: half of its start was a library that it does not use."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bus import Bus, BusSettings, Message
from tests.cli import ROOT
from tests.servers import PlainNats
from tests.support import eventually

WITHOUT = ("aiohttp", "rich.traceback", "openai", "google.genai", "ollama", "llama_cpp")
ROLES = ("manager.manager", "telemetry.service", "workers.base.runtime.worker")


@pytest.mark.parametrize("module", ROLES)
def test_a_role_starts_without_what_it_does_not_use(module: str) -> None:
    code = f"import sys, bullpen.logs, {module}; print([name for name in {WITHOUT} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


@pytest.mark.filterwarnings("ignore:parameter 'timeout':DeprecationWarning", "ignore:Unclosed")  # nats-py's own
async def test_web_sockets_work_all_the_same(tmp_path: Path) -> None:
    server = PlainNats(tmp_path, "websocket { host: 127.0.0.1, port: -1, no_tls: true }")
    await server.start()
    try:
        listens = re.compile(r"websocket clients on (ws://127\.0\.0\.1:\d+)")
        found = await eventually(lambda: listens.search((tmp_path / "log").read_text()))
        bus = await Bus.connect("test", BusSettings(servers=(found[1],)), patience=20)
        heard: asyncio.Queue[Message] = asyncio.Queue()
        await bus.subscribe_inline("hello", heard.put_nowait)
        await bus.publish("hello", b"there")
        await eventually(lambda: not heard.empty())
        await bus.close()
    finally:
        server.kill()
