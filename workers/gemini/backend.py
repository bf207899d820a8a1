"""The official google-genai SDK. Always streamed, never retried here: asking again is the Manager's decision."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import aiohttp
import httpx
from google import genai
from google.genai import errors, types
from pydantic import Field, ValidationError

from contracts import BullpenError, ChatMessage, ErrorCode, FinishReason, JsonObject, ModelCard, new_id
from contracts.settings import secret
from workers.base import Availability, Backend, BackendConfig, Delta, Done, Job, Report
from workers.base.chat import SizeGuard, split_data_url
from workers.base.patience import patiently
from workers.base.provider_errors import from_status, garbage, unreachable

FINISH: dict[str, FinishReason] = {"STOP": "stop", "MAX_TOKENS": "length"}
CUT = {"MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "OTHER", "FINISH_REASON_UNSPECIFIED"}
"""Endings that are failures, not answers."""
DAY_MS = 86_400_000


class GeminiConfig(BackendConfig):
    max_concurrency: Annotated[int, Field(ge=1)] = 32
    base_url: str | None = None
    """Another server that speaks this API; else GEMINI_BASE_URL, else Google itself."""
    api_version: str = "v1beta"


class GeminiBackend(Backend[GeminiConfig]):
    name = "gemini"
    config_class = GeminiConfig

    def __init__(self, config: GeminiConfig) -> None:
        super().__init__(config)
        self._client = genai.Client(
            api_key=secret("GEMINI_API_KEY") or "none-needed",
            vertexai=False,
            http_options=types.HttpOptions(
                base_url=_base_url(config),
                api_version=config.api_version,
                timeout=DAY_MS,  # silence is bounded piece by piece, not the whole answer
                retry_options=types.HttpRetryOptions(attempts=1),
            ),
        )

    @classmethod
    async def available(cls, config: GeminiConfig) -> Availability:
        if secret("GEMINI_API_KEY") is not None:
            return Availability.yes("GEMINI_API_KEY is set")
        if _base_url(config) is not None:
            return Availability.yes(f"a server at {_base_url(config)}")
        return Availability.no("no key", "set GEMINI_API_KEY, or GEMINI_BASE_URL for a server of your own")

    async def start(self, report: Report) -> None:
        if not self.config.models:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, "no model is named: list some in workers/gemini/config.yaml")
        await self.health()

    def models(self) -> tuple[ModelCard, ...]:
        return tuple(model.card(local=False) for model in self.config.models)

    async def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        answer = _Answer(job)
        try:
            chunks = await self._client.aio.models.generate_content_stream(
                model=job.model.model_id, contents=_contents(job), config=_generation(job)
            )
            async with aclosing(patiently(chunks, self.config)) as pieces:
                async for chunk in pieces:
                    if (delta := answer.take(chunk)) is not None:
                        yield delta
        except Exception as error:
            raise _told(error) from error
        if (done := answer.done()) is not None:
            yield done

    async def health(self) -> None:
        model = self.config.models[0].name
        try:
            await self._client.aio.models.get(model=model)
        except errors.APIError as error:
            if error.code not in (404, 405, 501):  # a stand-in server may not describe its models
                raise _told(error) from error
        except Exception as error:
            raise _told(error) from error

    async def close(self) -> None:
        await self._client.aio.aclose()


class _Answer:
    """Gathers the pieces of one answer."""

    def __init__(self, job: Job) -> None:
        self._size = SizeGuard(job.max_tokens)
        self._finish: FinishReason | None = None
        self._usage: types.GenerateContentResponseUsageMetadata | None = None
        self._calls: list[JsonObject] = []

    def take(self, chunk: types.GenerateContentResponse) -> Delta | None:
        self._usage = chunk.usage_metadata or self._usage
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason is not None:
            self._finish = "content_filter"
        if not chunk.candidates:
            return None
        candidate = chunk.candidates[0]
        if candidate.finish_reason is not None and candidate.finish_reason.name not in CUT:
            self._finish = FINISH.get(candidate.finish_reason.name, "content_filter")
        parts = (candidate.content.parts or []) if candidate.content else []
        self._calls += [_call(part.function_call) for part in parts if part.function_call]
        text = "".join(part.text for part in parts if part.text and not part.thought)
        return Delta(self._size.take(text), tokens=max(1, len(text) // 4)) if text else None

    def done(self) -> Done | None:
        """The end; None when the provider never said why it stopped. What it thought is billed as output."""
        if self._finish is None:
            return None
        usage = self._usage or types.GenerateContentResponseUsageMetadata()
        completion = (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
        finish: FinishReason = "tool_calls" if self._calls and self._finish == "stop" else self._finish
        return Done(finish, usage.prompt_token_count or 0, completion, tuple(self._calls))


def _generation(job: Job) -> types.GenerateContentConfig:
    request = job.request
    schema = (request.response_format or {}).get("json_schema", {}).get("schema")
    wants_json = request.response_format is not None and request.response_format.get("type") != "text"
    system = "\n\n".join(m.text for m in request.conversation if m.role in ("system", "developer"))
    return types.GenerateContentConfig(
        system_instruction=system or None,
        temperature=request.temperature,
        top_p=request.top_p,
        max_output_tokens=job.max_tokens,
        stop_sequences=list(request.stops) or None,
        seed=request.seed,
        response_mime_type="application/json" if wants_json else None,
        response_json_schema=schema,
        tools=[_tool(tool) for tool in request.tools or ()] or None,
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )


def _contents(job: Job) -> list[types.Content]:
    messages = [m for m in job.request.conversation if m.role not in ("system", "developer")]
    if job.prefix:
        messages.append(ChatMessage(role="assistant", content=job.prefix))
    return [types.Content(role=_role(message), parts=_parts(message)) for message in messages]


def _role(message: ChatMessage) -> str:
    return "model" if message.role == "assistant" else "user"


def _parts(message: ChatMessage) -> list[types.Part]:
    if message.role == "tool":
        answer = types.FunctionResponse(name=message.name or message.tool_call_id, response={"result": message.text})
        return [types.Part(function_response=answer)]
    parts = [types.Part(text=message.text)] if message.text else []
    for url in message.images:
        mime_type, data = split_data_url(url)
        parts.append(types.Part.model_validate({"inline_data": {"mime_type": mime_type, "data": data}}))
    for call in message.tool_calls or ():
        arguments = json.loads(call["function"]["arguments"] or "{}")
        parts.append(types.Part(function_call=types.FunctionCall(name=call["function"]["name"], args=arguments)))
    return parts


def _tool(tool: JsonObject) -> types.Tool:
    function = tool.get("function", {})
    declaration = types.FunctionDeclaration(
        name=function.get("name"),
        description=function.get("description"),
        parameters_json_schema=function.get("parameters"),
    )
    return types.Tool(function_declarations=[declaration])


def _call(call: types.FunctionCall) -> JsonObject:
    arguments = json.dumps(call.args or {})
    return {"id": call.id or new_id(), "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _told(error: Exception) -> BullpenError:
    """What an SDK failure means to the mesh. Cancellation is no `Exception` and passes by."""
    match error:
        case BullpenError():
            return error
        case errors.APIError():
            headers = getattr(error.response, "headers", None) or {}
            return from_status(error.code or 500, error.message or str(error), dict(headers))
        case aiohttp.ClientConnectionError() | httpx.TransportError() | OSError():
            return unreachable("the Gemini API", error)
        case ValidationError() | ValueError() | KeyError() | TypeError() | aiohttp.ClientError():
            return garbage(str(error))
        case _:
            return garbage(f"{type(error).__name__}: {error}")


def _base_url(config: GeminiConfig) -> str | None:
    return config.base_url or secret("GEMINI_BASE_URL")
