"""What most scenarios begin with: roles as real processes on a server of their own, and nobody started yet."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.roles import Roles
from tests.servers import NatsServer


@pytest.fixture
async def roles(tmp_path: Path, nats: NatsServer) -> AsyncIterator[Roles]:
    async with Roles(tmp_path, nats.url) as roles:
        yield roles
