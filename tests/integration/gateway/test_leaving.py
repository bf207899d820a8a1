"""An HTTP client that leaves ends the call to the provider, in every dialect: the provider sees its caller hang up.

The provider is a stand-in at its HTTP boundary, which says nothing for half a minute; everything between it and the
client is real.
"""

import asyncio
from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from tests.backends.providers import Failure, OpenAIProvider
from tests.gateway import DOORS, PATIENT, door_of
from tests.mesh import SmallMesh
from tests.support import eventually

pytestmark = pytest.mark.usefixtures("patient_backends")
RARE = 3600.0
"""Seconds between health checks."""


@pytest.mark.parametrize("failure", [Failure(mute=True), Failure(hang_after=2)], ids=["before a word", "in the middle"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_client_that_leaves_hangs_up_on_the_provider(mesh: SmallMesh, stream: bool, failure: Failure) -> None:
    async with OpenAIProvider() as provider:
        await mesh.worker("w-1", provider.backend, **{**provider.config(), "health_interval": RARE})
        provider.failure = failure
        async with door_of(mesh) as door:
            for path, question in DOORS.items():
                provider.hangs.clear()
                provider.closed.clear()
                heard = asyncio.Event()
                body = {"model": "m", "stream": stream, **question}
                asking = asyncio.create_task(_ask(door.url + path, body, heard))
                await eventually(provider.hangs.is_set, timeout=PATIENT)
                if stream and not failure.mute:
                    await eventually(heard.is_set, timeout=PATIENT)
                assert not asking.done(), path
                assert not provider.closed.is_set(), path
                asking.cancel()
                with suppress(asyncio.CancelledError):
                    await asking
                await eventually(provider.closed.is_set, timeout=PATIENT)
            assert len(provider.received) == len(DOORS)


async def _ask(url: str, body: dict[str, Any], heard: asyncio.Event) -> None:
    """Reads to the end; sets `heard` when a word has come."""
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        said = b""
        async for piece in answer.content.iter_any():
            said += piece
            if b"capital" in said:
                heard.set()
