"""What the README and the examples say is true: each is run against a real mesh."""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic_core import from_json

from bullpen.supervision.endpoints import Endpoints, write
from bullpen.supervision.mesh import Mesh
from bus import Bus, BusError, BusSettings
from client import Bullpen
from contracts import Chunk
from tests.support import eventually

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

ROOT = Path(__file__).resolve().parents[2]
NATS = shutil.which("nats", path=f"{os.environ.get('PATH', '')}:{Path.home() / 'go' / 'bin'}")
NODE = shutil.which("node")
NODE_MODULES = [folder / "node_modules" / "nats" for folder in (ROOT / "examples", ROOT, *ROOT.parents)]
needs_nats = pytest.mark.skipif(NATS is None, reason="the nats command line tool is not installed")
needs_node = pytest.mark.skipif(
    NODE is None or not any(folder.is_dir() for folder in NODE_MODULES),
    reason="Node.js or its package nats is not installed: npm install --no-save --prefix examples nats",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Of a mesh that all examples share."""
    async with Mesh(tmp_path_factory.mktemp("mesh"), workers=[("simulated", 1)], postgres=False) as mesh:
        yield mesh.endpoints.nats_url


async def run(url: str, *command: str) -> str:
    """What a command prints; it must succeed."""
    path = os.environ.get("PATH", "") + (f":{Path(NATS).parent}" if NATS else "")
    environment = {**os.environ, "NATS_URL": url, "PYTHONPATH": str(ROOT), "PATH": path}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    told, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return told.decode()


@pytest.mark.parametrize("script", ["ask.py", "stream.py"])
async def test_the_python_examples_answer(url: str, script: str) -> None:
    assert len((await run(url, sys.executable, f"examples/{script}", "Who is there?")).split()) == 32


async def test_the_readmes_python_answers(url: str, tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    script = tmp_path / "readme.py"
    script.write_text(found[1].replace("nats://127.0.0.1:4222", url))
    assert len((await run(url, sys.executable, str(script))).split()) == 32


@needs_node
async def test_the_javascript_example_answers(url: str) -> None:
    assert NODE is not None
    assert len((await run(url, NODE, "examples/ask.mjs", "Who is there?")).split()) == 32


@needs_nats
async def test_the_nats_tool_answers(url: str) -> None:
    assert '"output"' in await run(url, "examples/ask.sh", "Who is there?")
    streamed = '{"prompt":"Tell me a story","stream":true}'
    words = ["nats", "req", "infer.auto", streamed, "--wait-for-empty", "--reply-timeout", "30s", "--timeout", "60s"]
    told = await run(url, *words, "--raw", "-s", url)
    assert '"type":"chunk"' in told
    assert '"type":"response"' in told
    assert "bullpen-manager" in await run(url, "nats", "micro", "ls", "-s", url)


async def test_the_readme_finds_the_process_to_kill(tmp_path: Path) -> None:
    found = re.search(r"kill -9 \$\((.*)\)\n", (ROOT / "README.md").read_text())
    assert found is not None
    write(Endpoints(nats_url="nats://here", pids={"worker-local-1": 4711, "worker-local-12": 4712}), tmp_path)
    finding = found[1].replace(".bullpen/", f"{tmp_path}/")
    assert (await run("", "sh", "-c", finding)).strip() == "4711"


@needs_nats
async def test_a_shell_script_is_a_worker(url: str) -> None:
    assert NATS is not None
    path = f"{Path(NATS).parent}:{os.environ.get('PATH', '')}"
    worker = await asyncio.create_subprocess_exec(
        "examples/worker.sh",
        cwd=ROOT,
        env={**os.environ, "NATS_URL": url, "PATH": path},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    bus = await Bus.connect("test", BusSettings(servers=(url,)))
    try:

        async def answered() -> bool:
            try:
                return b"hello from bash" in (await bus.request("infer.bash", b"hi", timeout=2)).data
            except Exception:
                return False

        await eventually(answered, timeout=40)
    finally:
        worker.kill()
        await worker.wait()
        await bus.close()


@needs_node
async def test_a_worker_in_javascript_is_chosen_and_streams(url: str) -> None:
    assert NODE is not None
    worker = await asyncio.create_subprocess_exec(
        NODE, "examples/worker.mjs", "node-1", cwd=ROOT, env={**os.environ, "NATS_URL": url}
    )
    bus = await Bus.connect("test", BusSettings(servers=(url,)))

    async def answered(subject: str, body: bytes) -> Any:
        with suppress(BusError):
            told = from_json((await bus.request(subject, body, timeout=5)).data)
            return told if "output" in told else None
        return None

    try:
        told = await eventually(lambda: answered("infer.auto", b'{"prompt": "one two", "model": "echo-1"}'))
        assert (told["output"], told["worker_id"], told["attempts"][0]["outcome"]) == ("one two", "node-1", "ok")
        assert (await eventually(lambda: answered("infer.mjs", b"three four")))["output"] == "three four"
        async with Bullpen.connect(url) as bullpen:
            events = [event async for event in bullpen.stream("five six", backend="mjs")]
        assert "".join(event.delta for event in events if isinstance(event, Chunk)) == "five six"
        worker.terminate()
        assert await asyncio.wait_for(worker.wait(), 40) == 0

        async def is_gone() -> bool:
            gone = from_json((await bus.request("infer.auto", b'{"prompt": "x", "model": "echo-1"}', timeout=20)).data)
            return "error" in gone and gone["error"]["code"] in ("no_worker", "no_such_model")

        await eventually(is_gone)
    finally:
        await bus.close()
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
