"""An Ollama that has the models it was given, and a backend that asks it."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from contracts import ChatMessage, InferenceRequest
from tests.backends.providers import Json, OllamaProvider
from workers.base import Job
from workers.ollama.backend import OllamaBackend


class Scripted(OllamaProvider):
    """Has the models it was given, each as `/api/show` tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.installed: dict[str, Json] = {"m:latest": {}}
        self.script: list[Json] = []
        self.steps: list[Json] = []
        self.windows: dict[str, int | None] = {}
        """Of the models in its memory, as `/api/ps` tells them."""

    async def ps(self, request: web.Request) -> web.Response:
        told = [{"model": name, "context_length": window} for name, window in self.windows.items()]
        return web.json_response({"models": told}) if told else await super().ps(request)

    async def tags(self, request: web.Request) -> web.Response:
        told = [{"model": name, "digest": shown.get("digest", "")} for name, shown in self.installed.items()]
        return web.json_response({"models": told})

    async def show(self, request: web.Request) -> web.Response:
        name = (await request.json())["model"]
        told = self.installed.get(name, self.installed.get(f"{name}:latest"))
        if told is None or "error" in told:
            return web.json_response(told or {"error": "not found"}, status=500 if told else 404)
        return web.json_response({"model_info": {}, **told})

    async def pull(self, request: web.Request) -> web.Response:
        if not any("error" in step for step in self.steps):
            self.installed[(await request.json())["model"]] = {}
        return web.Response(text="\n".join(json.dumps(step) for step in self.steps))

    def pieces(self, body: Json) -> list[str]:
        return [f"{json.dumps(told)}\n" for told in self.script] or super().pieces(body)


def line(done: bool = False, **message: Any) -> Json:
    return {"message": {"role": "assistant", "content": "", **message}, "done": done}


Start = Callable[..., Awaitable[OllamaBackend]]


def job(backend: OllamaBackend, *messages: ChatMessage, max_tokens: int = 50, prefix: str = "", **asked: Any) -> Job:
    question: Json = {"messages": messages} if messages else {"prompt": "What is the capital of France?"}
    request = InferenceRequest(**{"temperature": 0.0, **question, **asked})
    return Job(request, backend.models()[0], max_tokens, prefix)


OPEN = """{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
<|im_start|>{{ .Role }}
{{ .Content }}{{ if not $last }}<|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_end|>
<|im_start|>assistant
{{ end }}
{{- end }}"""
