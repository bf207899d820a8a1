"""What a role's process imports: half of its start was a library that it does not use."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from bus import Bus, BusSettings, Message
from tests.cli import ROOT
from tests.servers import PlainNats, free_port
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
    port = free_port()
    server = PlainNats(tmp_path, f"websocket {{ host: 127.0.0.1, port: {port}, no_tls: true }}")
    await server.start()
    try:
        bus = await Bus.connect("test", BusSettings(servers=(f"ws://127.0.0.1:{port}",)))
        heard: asyncio.Queue[Message] = asyncio.Queue()
        await bus.subscribe_inline("hello", heard.put_nowait)
        await bus.publish("hello", b"there")
        await eventually(lambda: not heard.empty())
        await bus.close()
    finally:
        server.kill()
