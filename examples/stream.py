"""Word by word, with the Python client: python examples/stream.py "Tell me a story"."""

import asyncio
import sys

from client import Bullpen
from contracts import Chunk


async def main(question: str) -> None:
    async with Bullpen.connect() as bullpen:
        async for event in bullpen.stream(question):
            if isinstance(event, Chunk):
                print(event.delta, end="", flush=True)
    print()


asyncio.run(main(sys.argv[1]))
