"""Runs what a client has to do, and tells as JSON what came of it. Every program beside this one ends with `run`.

These programs run in `.clients/python`, where Bullpen is not installed.
"""

import asyncio
import base64
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

ADDRESS, KEY = os.environ["BULLPEN"], os.environ["BULLPEN_KEY"]
V1 = f"{ADDRESS}/v1"
TEXT, SEES, SLOW, BROKEN = "simulated", "sees", "slow", "broken"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
Scenario = Callable[[], Awaitable[Any]]
Read = Callable[[str, bool], Awaitable[Any]]
"""Reads the stream of a model: to its end, or (true) leaves it after the first words."""


async def refused(asked: Awaitable[Any]) -> Exception:
    """What it raises; it is a fault if it raises nothing."""
    try:
        await asked
    except Exception as error:
        return error
    raise AssertionError("was not refused")


def run(scenarios: dict[str, Scenario], read: Read) -> None:
    match sys.argv[1:]:
        case ["leave"]:
            asyncio.run(_leave(read))
        case ["break"]:
            asyncio.run(_break(read))
        case _:
            asyncio.run(_run(scenarios))


async def _run(scenarios: dict[str, Scenario]) -> None:
    told = {}
    for name, scenario in scenarios.items():
        try:
            await scenario()
            told[name] = "ok"
        except Exception:
            told[name] = traceback.format_exc()
    print(json.dumps(told))


async def _break(read: Read) -> None:
    print(await refused(read(BROKEN, False)))


async def _leave(read: Read) -> None:
    await read(SLOW, True)
    print("left", flush=True)
    await asyncio.to_thread(sys.stdin.read)  # it lives until whoever started it says so; only its stream is gone
