"""How long a provider may stay silent: before its first token, and between tokens. Never a cap on the whole answer."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

from contracts import BullpenError, ErrorCode
from workers.base.config import BackendConfig

T = TypeVar("T")


async def patiently(pieces: AsyncIterator[T], config: BackendConfig) -> AsyncIterator[T]:
    """The pieces as they come. Raises `BullpenError(upstream_error)` when the provider falls silent."""
    seconds, stage = config.first_token_timeout, "before its first token"
    while True:
        try:
            async with asyncio.timeout(seconds):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, f"the provider was silent for {seconds:g} s {stage}") from None
        yield piece
        seconds, stage = config.next_token_timeout, "between tokens"
