"""A mesh with a Manager, and a gateway before it."""

from collections.abc import AsyncIterator

import pytest

from tests.gateway import Door, door_of
from tests.mesh import SmallMesh


@pytest.fixture
async def mesh(nats_server: str) -> AsyncIterator[SmallMesh]:
    async with SmallMesh(nats_server) as mesh:
        await mesh.manager()
        yield mesh


@pytest.fixture
async def simulated(mesh: SmallMesh) -> AsyncIterator[Door]:
    await mesh.worker("w-1")
    async with door_of(mesh) as door:
        yield door
