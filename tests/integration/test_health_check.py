"""A health check runs beside its role, within the same memory."""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli import finish, start
from tests.support import eventually, tcp_server


def score(pid: int) -> str:
    """How soon the kernel kills that process when memory is short."""
    with suppress(OSError):  # it has ended
        return Path(f"/proc/{pid}/oom_score_adj").read_text()
    return ""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's choice of whom to kill is Linux's")
async def test_when_memory_is_short_the_check_is_killed_and_not_its_role() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with tcp_server(mute) as port:

        async def dies_first() -> bool:
            """As one check says of itself; it may be over before anybody has looked."""
            checking = await start("health", "manager", NATS_URL=f"nats://127.0.0.1:{port}")
            try:
                await eventually(lambda: checking.returncode is not None or score(checking.pid) == "1000\n", timeout=40)
                return checking.returncode is None
            finally:
                with suppress(ProcessLookupError):
                    checking.kill()
                assert (await finish(checking)).code != 0

        assert await eventually(dies_first, timeout=40)
