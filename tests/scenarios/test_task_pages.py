"""Every command on the first page and those of docs/tasks, as it stands there, in a mesh that the pages start."""

import asyncio
import os
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from bullpen.embedded.postgres import Postgres
from bullpen.supervision import background
from tests.backends.providers import OpenAIProvider
from tests.cli import environment
from tests.servers import free_port
from tests.task_pages import PAGES, Block, blocks
from tests.warm_command import warm_command
from workers.local.bundled import bundled_file

pytestmark = [pytest.mark.scenario, pytest.mark.timeout(480)]

MARK = "\x1e"
"""Printed before each block."""


class Reader:
    """Somebody who reads the pages one after the other in a folder, and types what they say."""

    def __init__(self, home: Path, provider: str) -> None:
        self.home = home
        self._http, self.nats = free_port(), free_port()
        self._places = {
            "127.0.0.1:4000": f"127.0.0.1:{self._http}",
            "127.0.0.1:4222": f"127.0.0.1:{self.nats}",
            "http://192.168.1.5:8000": provider,
        }
        self.programs = home / "programs"
        self.programs.mkdir()
        self._environment = environment(
            BULLPEN_DATA_DIR=None,
            BULLPEN_GATEWAY__LISTEN=f"127.0.0.1:{self._http}",
            PATH=os.pathsep.join((str(self.programs), str(Postgres(home).programs), os.environ["PATH"])),
            HOME=str(home),
        )

    async def reads(self, page: Path) -> None:
        """Types what can be run of a page, in one shell."""
        run = [self._as_here(block) for block in blocks(page) if block.not_run is None]
        script = "".join(f"printf '{MARK}'\n{block.code}" for block in run)
        shell = await asyncio.create_subprocess_exec(
            *("sh", "-eu", "-c", script), cwd=self.home, env=self._environment, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
        )
        try:
            out, err = await shell.communicate()
        finally:
            with suppress(ProcessLookupError):
                shell.kill()
        printed = out.decode().split(MARK)[1:]
        failed = run[len(printed) - 1].place
        assert shell.returncode == 0, f"{failed}: exit {shell.returncode}\n{printed[-1]}{err.decode()}"
        for block, words in zip(run, printed, strict=True):
            assert block.printed(words), f"{block.place} prints\n{words}\nand should print\n{block.prints}"

    def _as_here(self, block: Block) -> Block:
        return block._replace(code=_replaced(block.code, self._places), prints=_replaced(block.prints, self._places))


def _replaced(text: str | None, places: Mapping[str, str]) -> str:
    told = text or "…"
    for written, here in places.items():
        told = told.replace(written, here)
    return told


@pytest.fixture
async def reader(tmp_path: Path) -> AsyncIterator[Reader]:
    model = bundled_file()
    assert model is not None
    shutil.copy(model, tmp_path / "qwen2.5-7b-q4.gguf")  # a link would be called as what it leads to
    async with OpenAIProvider() as provider:
        reader = Reader(tmp_path, provider.url)
        async with warm_command(reader.programs, up=("--port-nats", str(reader.nats))):
            try:
                yield reader
            finally:
                await asyncio.to_thread(background.stop, tmp_path / ".bullpen")


async def test_commands_do_what_the_pages_say(reader: Reader) -> None:
    for page in PAGES:
        await reader.reads(page)
