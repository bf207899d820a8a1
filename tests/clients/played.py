"""Played models: one does as it is told, so that a coding agent's tools can be seen at work; one breaks off.

Told `CALL name argument=value DONE`, the obedient one calls that tool; its answer is what came back, and how many
pictures it saw.
"""

import json
import re
from typing import Any, get_args

from contracts import BullpenError, Capability, ErrorCode, Heartbeat, WorkerState
from tests.fake_worker import Asked, FakeWorker
from tests.gateway import final

OBEDIENT, BROKEN = "obedient", "broken"
WHY = "the provider broke off"
ORDER = re.compile(r"CALL (\w+) (\w+)=(.*?) DONE")
IDLE = "I have nothing to do."


async def obey(asked: Asked) -> None:
    await asked.claim()
    messages: list[Any] = asked.body["messages"]
    results = [text_of(message) for message in messages if message["role"] == "tool"]
    offered = {tool["function"]["name"] for tool in asked.body.get("tools", ())}
    orders = [order for message in messages if message["role"] == "user" for order in ORDER.findall(text_of(message))]
    name, argument, value = orders[-1] if orders else ("", "", "")
    if results:
        await asked.answer(f"The tool said: {results[-1]}\n{pictures(messages)} pictures")
    elif name in offered:
        function = {"name": name, "arguments": json.dumps({argument: value})}
        call = {"id": "call_1", "type": "function", "function": function}
        await asked.say(final(asked, tool_calls=(call,), finish_reason="tool_calls", worker_id=OBEDIENT))
    else:
        await asked.answer(IDLE)


def text_of(message: Any) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def pictures(messages: list[Any]) -> int:
    parts = [part for message in messages if isinstance(message.get("content"), list) for part in message["content"]]
    return sum(part["type"] == "image_url" for part in parts)


async def break_off(asked: Asked) -> None:
    await asked.claim()
    await asked.chunk("It begins well ")
    await asked.fail(BullpenError(ErrorCode.UPSTREAM_ERROR, WHY, fault="request"))


class PlayedWorker(FakeWorker):
    """Its one model can do everything, and has the worker's name."""

    def _heartbeat(self, seq: int, state: WorkerState) -> Heartbeat:
        beat = super()._heartbeat(seq, state)
        told = {"model_id": self._id, "capabilities": get_args(Capability), "context_window": 1_000_000}
        return beat.model_copy(update={"models": (beat.models[0].model_copy(update=told),)})
