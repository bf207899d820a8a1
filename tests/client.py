"""What tests of the client share."""

from typing import Unpack

from client import Bullpen, Options
from contracts import Chunk
from tests.fake_manager import FakeManager
from tests.support import eventually


async def text_of(bp: Bullpen, **options: Unpack[Options]) -> str:
    return "".join([event.delta async for event in bp.stream("hi", **options) if isinstance(event, Chunk)])


async def cancelled(manager: FakeManager, bp: Bullpen) -> list[str]:
    """What was cancelled until now: a cancel of our own, sent last, shows that all others have arrived."""
    await bp.cancel("the last one")
    await eventually(lambda: "the last one" in manager.cancelled)
    return manager.cancelled[:-1]
