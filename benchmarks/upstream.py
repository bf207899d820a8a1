"""`python -m benchmarks.upstream PORT`: a server in the form of OpenAI's chat API. No model:
short answers come at once, longer streams at a steady pace."""

import asyncio
import signal
import sys

import uvloop
from aiohttp.web import BaseRequest, Response, Server, StreamResponse
from pydantic_core import from_json, to_json

MODEL = "m"
WORD = " word"
AT_ONCE = 8
"""Tokens of an answer that comes at once."""
PACE = 25.0
"""Tokens per second of a longer stream."""
FLOOD = 1_000_000
"""Tokens of a stream that comes as fast as it is taken, in pieces of a thousand characters."""
PIECE = WORD * 200
HEAD = {"id": "chatcmpl-1", "created": 1, "model": MODEL}
MODELS = to_json({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "us"}]})


def _chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + to_json({**HEAD, "object": "chat.completion.chunk", "choices": [choice]}) + b"\n\n"


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 8, "completion_tokens": tokens, "total_tokens": 8 + tokens}


async def answer(request: BaseRequest) -> StreamResponse:
    if not request.path.endswith("/chat/completions"):
        return Response(body=MODELS, content_type="application/json")
    asked = from_json(await request.read())
    tokens = asked.get("max_tokens") or asked.get("max_completion_tokens") or 8
    if not asked.get("stream"):
        message = {"role": "assistant", "content": WORD * tokens}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        told = {**HEAD, "object": "chat.completion", "choices": [choice], "usage": _usage(tokens)}
        return Response(body=to_json(told), content_type="application/json")
    response = StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(_chunk({"role": "assistant", "content": ""}))
    word, pause = (WORD, 1 / PACE if tokens > AT_ONCE else 0) if tokens < FLOOD else (PIECE, 0)
    for _ in range(tokens * len(WORD) // len(word)):
        await response.write(_chunk({"content": word}))
        if tokens > AT_ONCE:
            await asyncio.sleep(pause)
    last = _chunk({}, "stop")
    if (asked.get("stream_options") or {}).get("include_usage"):
        told = {**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": _usage(tokens)}
        last += b"data: " + to_json(told) + b"\n\n"
    await response.write(last + b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def main(port: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    listening = await asyncio.get_running_loop().create_server(Server(answer, access_log=None), "127.0.0.1", port)
    await stop.wait()
    listening.close()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
