"""Ask the mesh with nothing but nats-py: python examples/ask.py "What is the capital of France?"."""

import asyncio
import json
import os
import sys

import nats


async def main(question: str) -> None:
    client = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
    reply = await client.request("infer.auto", json.dumps({"prompt": question}).encode(), timeout=60)
    answer = json.loads(reply.data)
    print(answer["output"] if "output" in answer else answer["error"]["message"])
    await client.close()


asyncio.run(main(sys.argv[1]))
