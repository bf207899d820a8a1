"""A health check runs beside its role, within the same memory."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.cli import finish, start
from tests.support import eventually


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's choice of whom to kill is Linux's")
async def test_when_memory_is_short_the_check_is_killed_and_not_its_role() -> None:
    async with await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0) as mute:
        port = mute.sockets[0].getsockname()[1]
        checking = await start("health", "manager", NATS_URL=f"nats://127.0.0.1:{port}")
        score = Path(f"/proc/{checking.pid}/oom_score_adj")
        try:
            await eventually(lambda: score.read_text() == "1000\n", timeout=10)
        finally:
            checking.kill()
            told = await finish(checking)
        assert told.code != 0
