"""The yardsticks: `python -m benchmarks.bare echo` and `relay`, plain nats-py with uvloop, nothing else."""

import asyncio
import os
import signal
import sys

import nats
import uvloop
from nats.aio.msg import Msg

ANSWER = b'{"output":"Paris"}'


async def main(role: str) -> None:
    client = await nats.connect(os.environ["NATS_URL"])
    running: set[asyncio.Task[None]] = set()

    async def echo(msg: Msg) -> None:
        await msg.respond(ANSWER)

    async def relay(msg: Msg) -> None:
        task = asyncio.create_task(pass_on(msg))
        running.add(task)
        task.add_done_callback(running.discard)

    async def pass_on(msg: Msg) -> None:
        answer = await client.request("bare.echo", msg.data, timeout=10)
        await msg.respond(answer.data)

    await client.subscribe(f"bare.{role}", queue="q", cb=echo if role == "echo" else relay)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await client.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
