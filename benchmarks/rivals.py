"""Other gateways for models, and the server that they and this mesh stand before in `benchmarks gateway --against`.

Each is installed into an environment of its own when it is asked for, and runs as it comes: one process, no database,
no log of requests.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks import tools
from bullpen.supervision.leash import leashed
from tests.servers import free_port

MODEL = "m"
WITHIN = 120.0
"""Seconds for one to serve: some import for a long time."""


ALONE = {
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # on loopback, as our gateway is without keys
    "RUST_LOG": "error",
}


@dataclass(frozen=True, slots=True)
class Rival:
    package: str
    """As pip is told it."""
    command: Callable[[Path, str, int, Path], list[str]]
    """Its programs, the server's URL, its port, a folder for what it reads."""


def _litellm(programs: Path, upstream: str, port: int, folder: Path) -> list[str]:
    told = {"model": f"openai/{MODEL}", "api_base": f"{upstream}/v1", "api_key": "none"}
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": [{"model_name": MODEL, "litellm_params": told}]}), encoding="utf-8")
    return [str(programs / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]


def _vllm_router(programs: Path, upstream: str, port: int, folder: Path) -> list[str]:
    return [
        *(str(programs / "vllm-router"), "--worker-urls", upstream, "--host", "127.0.0.1", "--port", str(port)),
        *("--policy", "round_robin"),
    ]


KNOWN = {
    "litellm": Rival("litellm[proxy]!=1.107.0", _litellm),
    "vllm-router": Rival("vllm-router", _vllm_router),
}


def asked_for(against: str) -> list[str]:
    """Those of a list with commas, installed. Ends the process when one is not known."""
    names = [name for name in against.split(",") if name]
    if unknown := set(names) - KNOWN.keys():
        sys.exit(f"nothing is known of {', '.join(sorted(unknown))}: there are {', '.join(KNOWN)}")
    for name in names:
        install(name)
    return names


def install(name: str) -> Path:
    """Its programs."""
    return tools.installed(name, KNOWN[name].package)


def version(name: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    python = install(name) / "python"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def worker(upstream: str) -> dict[str, str]:
    """The environment of our worker before that server."""
    return {
        "OPENAI_API_KEY": "none",
        "BULLPEN_OPENAI__BASE_URL": f"{upstream}/v1",
        "BULLPEN_OPENAI__MODELS": json.dumps([{"name": MODEL}]),
        "BULLPEN_OPENAI__MAX_CONCURRENCY": "256",
    }


@asynccontextmanager
async def upstream() -> AsyncIterator[str]:
    """The URL of a server that speaks OpenAI's chat API and answers at once (`benchmarks.upstream`)."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(*leashed([sys.executable, "-m", "benchmarks.upstream", str(port)]))
    try:
        url = f"http://127.0.0.1:{port}"
        await _serves(f"{url}/health", "the server", process)
        yield url
    finally:
        await _end(process)


@asynccontextmanager
async def started(name: str, upstream_url: str, folder: Path) -> AsyncIterator[tuple[str, int]]:
    """Runs one: its URL, and its process."""
    port = free_port()
    command = KNOWN[name].command(install(name), upstream_url, port, folder)
    with (folder / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **ALONE}, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        await _serves(f"{url}/v1/models", name, process)
        yield url, process.pid
    finally:
        await _end(process)


async def _serves(url: str, name: str, process: asyncio.subprocess.Process) -> None:
    end = time.monotonic() + WITHIN
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while time.monotonic() < end and process.returncode is None:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(url) as answer:
                    if answer.status < 500:
                        return
            await asyncio.sleep(0.2)
    sys.exit(f"{name} does not serve: it ended" if process.returncode is not None else f"{name} does not serve")


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    await process.wait()
