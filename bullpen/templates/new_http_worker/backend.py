"""The backend new_worker: a server that is asked over HTTP. As it stands it speaks OpenAI's chat API.

Say what your server does instead: `_question` is what it is asked, `Answer` reads what it says, `health` asks whether
it is well. The rest is shared: silence, hanging up, conversations begun elsewhere, errors and whose fault they are
(`workers/base/provider/`). Nothing is asked twice here: asking another worker is the Manager's decision.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import aiohttp

from contracts import BullpenError, ErrorCode, FinishReason, JsonObject, ModelCard
from workers.base import Availability, BackendConfig, Delta, Done, Job, Report, Usage
from workers.base.provider.answer import Answer as BaseAnswer
from workers.base.provider.chat import chat_messages, counted, plausible, temperature_wanted
from workers.base.provider.connection import (
    CONNECT_TIMEOUT,
    QUICK,
    UNUSABLE,
    address,
    api_key,
    arrived,
    place,
    without,
)
from workers.base.provider.error_body import read_error
from workers.base.provider.errors import garbage, refusal, unreachable
from workers.base.provider.remote_backend import RemoteBackend

KEY, URL = "NEW_WORKER_API_KEY", "NEW_WORKER_URL"
FINISH: dict[str, FinishReason] = {"stop": "stop", "length": "length", "content_filter": "content_filter"}


class NewWorkerConfig(BackendConfig):
    """The keys of `config.yaml` that only this backend knows."""

    base_url: str | None = None
    """The server's address; else NEW_WORKER_URL."""


class Answer(BaseAnswer[JsonObject]):
    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._finish: FinishReason | None = None
        self._usage: JsonObject = {}

    def take(self, piece: JsonObject) -> Delta | None:
        self._usage = piece.get("usage") or self._usage
        choices = piece.get("choices")
        if choices is None:
            raise garbage("a piece without an answer")
        if not choices:
            return None
        self._finish = FINISH.get(choices[0].get("finish_reason") or "", self._finish)
        text = self._size.take(choices[0]["delta"].get("content") or "")
        self._said = self._said or bool(text)
        return Delta(self._seam.take(text)) if text else None

    def done(self) -> Done | None:
        if self._finish is None:
            return None
        prompt, completion = counted(self._usage.get("prompt_tokens")), counted(self._usage.get("completion_tokens"))
        used = plausible(Usage(prompt, completion), answered=self._said)
        return Done(self._finish, used.prompt_tokens, used.completion_tokens)


class NewWorkerBackend(RemoteBackend[NewWorkerConfig]):
    name = "new_worker"
    config_class = NewWorkerConfig
    answer = Answer
    failures = (aiohttp.ClientError, *UNUSABLE)
    config_cure = f"correct {URL} or {KEY}"

    def __init__(self, config: NewWorkerConfig) -> None:
        super().__init__(config)
        self._key = api_key(KEY)
        self._url = (address(URL, config.base_url) or "").rstrip("/")
        self._opened: aiohttp.ClientSession | None = None

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            self._opened = aiohttp.ClientSession(headers=headers)
        return self._opened

    async def _available(self) -> Availability:
        if not self._url:
            return Availability.no("no server", f"set {URL}")
        try:
            async with asyncio.timeout(QUICK):
                await self.health()
        except (BullpenError, TimeoutError) as error:
            return Availability.no(str(error) or f"{place(self._url)} does not answer", f"start it, or correct {URL}")
        return Availability.yes(f"{place(self._url)} answers")

    async def start(self, report: Report) -> None:
        if not self._url:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, f"there is no server: set {URL}")
        await self.health()

    def models(self) -> tuple[ModelCard, ...]:
        return tuple(model.card(local=False) for model in self.config.models)

    def _question(self, job: Job) -> JsonObject:
        wanted = {
            "temperature": temperature_wanted(job.request),
            "top_p": job.request.top_p,
            "max_tokens": job.max_tokens,
            "stop": [stop for stop in job.request.stops if stop] or None,
            "seed": job.request.seed,
        }
        return {
            **{name: value for name, value in wanted.items() if value is not None},
            "model": job.model.model_id,
            "messages": chat_messages(job),
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    async def _ask(self, question: JsonObject, job: Job) -> AsyncIterator[JsonObject]:
        forever = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT)  # silence is ended elsewhere
        where = f"{self._url}/v1/chat/completions"
        response = await self._session.post(where, json=question, timeout=forever, allow_redirects=False)
        await self._check(response)
        return _pieces(response)

    async def health(self) -> None:
        brief = aiohttp.ClientTimeout(total=CONNECT_TIMEOUT)
        try:
            async with self._session.get(f"{self._url}/v1/models", timeout=brief, allow_redirects=False) as response:
                await self._check(response)
        except (*self.failures, TimeoutError) as error:
            raise self._told(error) from error

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        """Reads the answer. Raises `BullpenError` for anything else."""
        if response.status != 200:
            text = without(self._key, await response.text(errors="replace"))
            raise refusal(response.status, read_error(text), response.headers)

    def _told(self, error: Exception) -> BullpenError:
        if isinstance(error, aiohttp.ClientConnectionError | TimeoutError):
            return unreachable(place(self._url), error)
        return garbage(without(self._key, str(error)))

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()


async def _pieces(response: aiohttp.ClientResponse) -> AsyncIterator[JsonObject]:
    """The events of the answer; whatever arrives is a sign of life. Closing the generator hangs up."""
    try:
        async for line in response.content:
            with suppress(LookupError):
                arrived.get()()
            told = line.removeprefix(b"data:").strip()
            if line.startswith(b"data:") and told != b"[DONE]":
                yield json.loads(told)
    finally:
        response.close()
