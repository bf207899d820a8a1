"""Stand-in providers: loopback HTTP servers that speak the documented protocols, and can fail on request."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from aiohttp import web
from aiohttp.test_utils import TestServer

from contracts import BullpenError
from tests.backends.quirks import Quirk
from workers.base import Backend, BackendConfig, Job
from workers.base.interface.discovery import discover

Json = dict[str, Any]
WORDS = ["The ", "capital ", "is ", "Paris."]


@dataclass
class Failure:
    """How the next answers fail."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    truncate: bool = False
    garbage: str = ""
    hang_after: int | None = None
    mute: bool = False
    """Takes the question and says nothing at all, not even a status."""
    endless: str = ""
    """Sent again and again for as long as the caller listens."""
    repeats: bool = False
    """Answers anew where it should go on after a begun answer."""
    slow_headers: float = 0.0
    """Seconds before the status."""


class Provider:
    """One provider. `received` holds the bodies of the calls, `closed` is set when a caller hangs up early.

    It says `thoughts` first, then `WORDS`; where the model has the last word already, what is left of them.
    `sent` counts the characters of the answers, `callers` are the far ends of the connections.
    """

    backend: ClassVar[str]
    opening: ClassVar[int] = 0
    """Messages that come before the first part of the answer."""
    has_seed: ClassVar[bool] = True
    """Whether a question can bring one."""

    def __init__(self) -> None:
        self.received: list[Json] = []
        self.closed = asyncio.Event()
        self.hangs = asyncio.Event()
        """Set when it has said all that it says before it hangs."""
        self.sent = 0
        self.callers: set[object] = set()
        self.failure = Failure()
        self.thoughts = 0
        self.paced: list[tuple[float, str]] = []
        """Said instead of an answer's usual messages: each with the seconds of silence before it."""
        self._quirk: Quirk | None = None
        self._server: TestServer

    async def __aenter__(self) -> Self:
        app = web.Application()
        self.route(app.router)
        self._server = TestServer(app, host="127.0.0.1")
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    def play(self, quirk: Quirk) -> None:
        """From now on it takes this liberty."""
        self._quirk = quirk

    @property
    def url(self) -> str:
        return str(self._server.make_url("")).rstrip("/")

    def config(self) -> Json:
        """What the backend's config must say to use this provider."""
        raise NotImplementedError

    def route(self, router: web.UrlDispatcher) -> None:
        raise NotImplementedError

    def pieces(self, body: Json) -> list[str]:
        """The answer's messages as they travel; the last one says why it ends."""
        raise NotImplementedError

    def word(self) -> str:
        """A message with a part of the answer."""
        return self.pieces({})[self.opening]

    keep_alive: ClassVar[str] = ": keep-alive\n\n"
    """What it sends so that nobody takes it for dead, and no SDK shows."""

    def role(self) -> str:
        """A first message that says who speaks, and nothing yet."""
        raise NotImplementedError

    def thought(self) -> str:
        """A message with a thought."""
        self.thoughts = 1
        try:
            return next(piece for piece in self.pieces({}) if "Hm." in piece)
        finally:
            self.thoughts = 0

    def begun(self, body: Json) -> str:
        """The start of the answer that the question brings along."""
        last = body["messages"][-1] if body.get("messages") else {}
        return str(last["content"]) if last.get("role") == "assistant" else ""

    def words(self, body: Json) -> list[str]:
        """What is left to say."""
        whole, begun = "".join(WORDS), self.begun(body)
        if not begun or self.failure.repeats or not whole.startswith(begun):
            return WORDS
        return re.findall(r"\s*\S+", whole.removeprefix(begun))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        failure = self.failure
        body: Json = await request.json()
        self.received.append(body)
        self.callers.add(request.transport and request.transport.get_extra_info("peername"))
        if failure.status:
            return web.Response(
                status=failure.status, headers=failure.headers, text=failure.body or self.error(failure.status)
            )
        if self._quirk is not None and (refusal := self._quirk.refuses and self._quirk.refuses(body)):
            return self._answered(*refusal)
        headers = self._quirk.headers if self._quirk is not None else {}
        content_type = self._quirk.content_type if self._quirk is not None else None
        response = web.StreamResponse(headers={**headers, "Content-Type": content_type or self.content_type})
        try:
            if failure.mute:
                await self._hang()
            await asyncio.sleep(failure.slow_headers)
            await response.prepare(request)
            async for piece in self._paced() if self.paced else self._told(self._played(body), failure):
                await response.write(piece.encode())
                self.sent += len(piece)
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            self.closed.set()
            raise
        return response

    content_type: ClassVar[str] = "text/event-stream"

    def error(self, status: int) -> str:
        return json.dumps({"error": {"message": f"no ({status})", "code": status, "status": "FAILED"}})

    def _played(self, body: Json) -> list[str]:
        pieces = self.pieces(body)
        return self._quirk.pieces(pieces) if self._quirk is not None and self._quirk.pieces else pieces

    def _answered(self, status: int, body: object) -> web.Response:
        """With the quirk's headers; a body that is no text travels as JSON."""
        headers = self._quirk.headers if self._quirk is not None else {}
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, headers=headers, text=text)

    def listed_otherwise(self) -> web.Response | None:
        """What the quirk answers when the models are asked for; None: it does not mind."""
        lists = self._quirk.lists if self._quirk is not None else None
        return None if lists is None else self._answered(*lists)

    async def _told(self, pieces: list[str], failure: Failure) -> AsyncIterator[str]:
        if failure.garbage:
            yield failure.garbage
            return
        while failure.endless:
            yield failure.endless
        for number, piece in enumerate(pieces[:2] if failure.truncate else pieces):
            if failure.hang_after is not None and number == failure.hang_after + self.opening:
                await self._hang()
            yield piece

    async def _paced(self) -> AsyncIterator[str]:
        for pause, piece in self.paced:
            await asyncio.sleep(pause)
            yield piece

    async def _hang(self) -> None:
        self.hangs.set()
        await asyncio.sleep(30)


class OpenAIProvider(Provider):
    backend = "openai"

    def config(self) -> Json:
        model = {"name": "m", "capabilities": ["chat", "stream", "tools", "vision", "json", "logprobs"]}
        return {"base_url": f"{self.url}/v1", "models": [model], "prefill": "assistant"}

    def route(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/chat/completions", self.answer)
        router.add_get("/v1/models", self.models)

    async def models(self, request: web.Request) -> web.Response:
        if self.failure.status:
            return web.Response(status=self.failure.status, text=self.error(self.failure.status))
        if (listed := self.listed_otherwise()) is not None:
            return listed
        model = {"id": "m", "object": "model", "created": 0, "owned_by": "us"}
        return web.json_response({"object": "list", "data": [model]})

    def pieces(self, body: Json) -> list[str]:
        if body.get("tools"):
            call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":'}}
            rest = {"index": 0, "function": {"arguments": " 1}"}}
            deltas = [{"tool_calls": [call]}, {"tool_calls": [rest]}]
            return [*(self._chunk(d) for d in deltas), self._chunk({}, "tool_calls"), self._usage(), "data: [DONE]\n\n"]
        thoughts = [self._chunk({"reasoning_content": "Hm."})] * self.thoughts
        chunks = [self._chunk({"content": word}) for word in self.words(body)]
        return [*thoughts, *chunks, self._chunk({}, "stop"), self._usage(), "data: [DONE]\n\n"]

    def role(self) -> str:
        return self._chunk({"role": "assistant", "content": ""})

    def _chunk(self, delta: Json, finish: str | None = None) -> str:
        tokens = [{"token": delta["content"], "logprob": -0.5, "top_logprobs": []}] if "content" in delta else []
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": {"content": tokens}}
        return self._event({"choices": [choice]})

    def _usage(self) -> str:
        usage = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
        return self._event({"choices": [], "usage": usage})

    def _event(self, told: Json) -> str:
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", **told}
        return f"data: {json.dumps(chunk)}\n\n"


class GeminiProvider(Provider):
    backend = "gemini"

    def config(self) -> Json:
        model = {"name": "m", "capabilities": ["chat", "stream", "tools", "vision", "json", "logprobs", "prefill"]}
        return {"base_url": self.url, "models": [model]}

    def route(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1beta/models/m:streamGenerateContent", self.answer)
        router.add_get("/v1beta/models/m", self.model)

    async def model(self, request: web.Request) -> web.Response:
        if self.failure.status:
            return web.Response(status=self.failure.status, text=self.error(self.failure.status))
        return web.json_response({"name": "models/m"})

    def pieces(self, body: Json) -> list[str]:
        if body.get("tools"):
            call = {"functionCall": {"name": "add", "args": {"a": 1}}}
            return [self._event([call]), self._event([], "STOP")]
        thoughts = [self._event([{"text": "Hm.", "thought": True}])] * self.thoughts
        return [*thoughts, *(self._event([{"text": word}]) for word in self.words(body)), self._event([], "STOP")]

    def role(self) -> str:
        return self._event([{"text": ""}])

    def begun(self, body: Json) -> str:
        last = body["contents"][-1] if body.get("contents") else {}
        return "".join(part.get("text", "") for part in last["parts"]) if last.get("role") == "model" else ""

    def _event(self, parts: list[Json], finish: str | None = None) -> str:
        candidate: Json = {"content": {"role": "model", "parts": parts}, "index": 0}
        if any(part.get("text") and not part.get("thought") for part in parts):
            candidate["logprobsResult"] = {"chosenCandidates": [{"token": parts[0]["text"], "logProbability": -0.5}]}
        if finish:
            candidate["finishReason"] = finish
        usage = {"promptTokenCount": 7, "candidatesTokenCount": 3, "thoughtsTokenCount": 1, "totalTokenCount": 11}
        return f"data: {json.dumps({'candidates': [candidate], 'usageMetadata': usage})}\n\n"


class OllamaProvider(Provider):
    """`loaded`: the models in its memory."""

    backend = "ollama"
    content_type = "application/x-ndjson"
    keep_alive = "\n"

    def __init__(self) -> None:
        super().__init__()
        self.loaded = ["m:latest"]

    def config(self) -> Json:
        return {"host": self.url, "models": [{"name": "m", "capabilities": ["chat", "stream", "logprobs", "prefill"]}]}

    def route(self, router: web.UrlDispatcher) -> None:
        router.add_post("/api/chat", self.answer)
        router.add_get("/api/tags", self.tags)
        router.add_post("/api/show", self.show)
        router.add_get("/api/ps", self.ps)
        router.add_post("/api/pull", self.pull)

    async def tags(self, request: web.Request) -> web.Response:
        if self.failure.status:
            return web.Response(status=self.failure.status, text=self.error(self.failure.status))
        return web.json_response({"models": [{"model": "m:latest", "size": 1}]})

    async def ps(self, request: web.Request) -> web.Response:
        return web.json_response({"models": [{"model": name} for name in self.loaded]})

    def role(self) -> str:
        return self._line({"role": "assistant", "content": ""})

    async def show(self, request: web.Request) -> web.Response:
        info = {"llama.context_length": 2048}
        return web.json_response({"model_info": info, "capabilities": ["completion", "tools", "vision"]})

    async def pull(self, request: web.Request) -> web.Response:
        steps = [{"status": "pulling", "completed": 41, "total": 100}, {"status": "success"}]
        return web.Response(text="\n".join(json.dumps(step) for step in steps))

    def error(self, status: int) -> str:
        return json.dumps({"error": f"no ({status})"})

    def pieces(self, body: Json) -> list[str]:
        if body.get("tools"):
            call = {"function": {"name": "add", "arguments": {"a": 1}}}
            return [self._line({"role": "assistant", "content": "", "tool_calls": [call]}), self._line({}, done=True)]
        thoughts = [self._line({"role": "assistant", "thinking": "Hm."})] * self.thoughts
        words = [self._line({"role": "assistant", "content": word}) for word in self.words(body)]
        return [*thoughts, *words, self._line({"role": "assistant", "content": ""}, done=True)]

    def _line(self, message: Json, *, done: bool = False) -> str:
        told: Json = {"model": "m", "message": {"role": "assistant", **message}, "done": done}
        if message.get("content"):
            told["logprobs"] = [{"token": message["content"], "logprob": -0.5}]
        if done:
            told |= {"done_reason": "stop", "prompt_eval_count": 7, "eval_count": 4}
        return json.dumps(told) + "\n"


class AnthropicProvider(Provider):
    backend = "anthropic"
    opening = 2
    has_seed = False
    keep_alive = 'event: ping\ndata: {"type": "ping"}\n\n'

    def config(self) -> Json:
        model = {"name": "m", "capabilities": ["chat", "stream", "tools", "vision", "json", "prefill"]}
        return {"base_url": self.url, "models": [model]}

    def route(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/messages", self.answer)
        router.add_get("/v1/models", self.models)

    async def models(self, request: web.Request) -> web.Response:
        if self.failure.status:
            return web.Response(status=self.failure.status, text=self.error(self.failure.status))
        model = {"type": "model", "id": "m", "display_name": "M", "created_at": "2026-01-01T00:00:00Z"}
        return web.json_response({"data": [model], "has_more": False, "first_id": "m", "last_id": "m"})

    def error(self, status: int) -> str:
        return json.dumps({"type": "error", "error": {"type": "api_error", "message": f"no ({status})"}})

    def pieces(self, body: Json) -> list[str]:
        if body.get("tools"):
            call = {"type": "tool_use", "id": "c1", "name": "add", "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in ('{"a":', " 1}")]
            return [self._begin(), *self._block(0, call, deltas), *self._end("tool_use")]
        thoughts = [{"type": "thinking_delta", "thinking": "Hm."}] * self.thoughts
        thinking = self._block(0, {"type": "thinking", "thinking": "", "signature": ""}, thoughts) if thoughts else []
        words = [{"type": "text_delta", "text": word} for word in self.words(body)]
        return [self._begin(), *thinking, *self._block(1, {"type": "text", "text": ""}, words), *self._end("end_turn")]

    def begun(self, body: Json) -> str:
        last = body["messages"][-1] if body.get("messages") else {}
        return "".join(block.get("text", "") for block in last["content"]) if last.get("role") == "assistant" else ""

    def role(self) -> str:
        return self._begin()

    def thought(self) -> str:
        return self.event(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm."}}
        )

    def _begin(self) -> str:
        usage = {"input_tokens": 7, "output_tokens": 1}
        told = {"id": "1", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
        return self.event({"type": "message_start", "message": told})

    def _block(self, index: int, block: Json, deltas: list[Json]) -> list[str]:
        return [
            self.event({"type": "content_block_start", "index": index, "content_block": block}),
            *(self.event({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas),
            self.event({"type": "content_block_stop", "index": index}),
        ]

    def _end(self, reason: str) -> list[str]:
        delta = {"stop_reason": reason, "stop_sequence": None}
        told = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 4}}
        return [self.event(told), self.event({"type": "message_stop"})]

    def event(self, told: Json) -> str:
        """As it travels."""
        return f"event: {told['type']}\ndata: {json.dumps(told)}\n\n"


class Elsewhere:
    """A server that sends every caller on to another one."""

    def __init__(self, to: str, status: int) -> None:
        self._to, self._status = to, status
        self._server: TestServer

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._send_on)
        self._server = TestServer(app, host="127.0.0.1")
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    @property
    def url(self) -> str:
        return str(self._server.make_url("")).rstrip("/")

    async def _send_on(self, request: web.Request) -> web.Response:
        return web.Response(status=self._status, headers={"Location": self._to + request.path_qs})


PROVIDERS: dict[str, type[Provider]] = {
    provider.backend: provider for provider in (OpenAIProvider, GeminiProvider, OllamaProvider, AnthropicProvider)
}


for _name in PROVIDERS:
    discover()[_name].load()  # imports the SDKs now, when no test's time runs


def configured(config_class: type[BackendConfig], told: Json) -> BackendConfig:
    """Patient: a stand-in on a busy machine is slow, not silent."""
    return config_class.model_validate({"first_token_timeout": 10.0, "next_token_timeout": 10.0, **told})


async def given_up(provider: Provider, backend: Backend[Any], asked: Job) -> BullpenError:
    """What a backend says that half a second of silence is too much for, when the provider has heard the question.

    On a busy machine it has not always, by then, and is asked again.
    """
    impatient = {"first_token_timeout": 0.5, "next_token_timeout": 0.5}
    backend.config = backend.config.model_copy(update=impatient)
    while True:
        try:
            await backend.infer(asked)
        except BullpenError as error:
            if provider.received:
                return error
        else:
            raise AssertionError("it was answered")
