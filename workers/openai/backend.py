"""OpenAI's API, at OpenAI or at `base_url`, through its official SDK. Answers are always streamed: a closed stream
stops the bill.

The SDK's own retries are off, because a retry costs money and is the Manager's decision.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import httpx2
import openai
import structlog
from openai.types import Model
from pydantic import AfterValidator, Field, model_validator

from config.loader import ConfigError
from contracts import BullpenError, ErrorCode, JsonObject, ModelCard
from workers.base import (
    Availability,
    Backend,
    BackendConfig,
    Delta,
    Done,
    Embedded,
    EmbeddingJob,
    Job,
    ModelConfig,
    Report,
    out_of_service,
)
from workers.base.interface.config import Parameter
from workers.base.provider.call_forms import translated
from workers.base.provider.chat_models import Prober, able, sends_no_bill
from workers.base.provider.connection import (
    CONNECT_TIMEOUT,
    QUICK,
    UNUSABLE,
    address,
    api_key,
    bounded,
    headers_seen,
    is_plain,
    place,
    without,
)
from workers.base.provider.embeddings import embedding, listed
from workers.base.provider.error_body import ErrorBody, read_error
from workers.base.provider.errors import first_line, garbage, refusal, unreachable
from workers.base.provider.parameters import (
    STEERS,
    Refusals,
    asked_in_vain,
    cannot_take,
    check_takes,
    limited,
    may_learn,
    refused,
    switched_off,
    wants,
)
from workers.base.provider.proxies import client_options
from workers.base.provider.question import asked, built
from workers.base.provider.streaming import patiently
from workers.openai.address import other_addresses
from workers.openai.answer import Answer, ErrorInAnswer
from workers.openai.call_rules import rule_of
from workers.openai.catalogue import GONE, Catalogue
from workers.openai.dialect import TOO_LONG, refused_by_name
from workers.openai.question import question, sent
from workers.openai.reading import pieces
from workers.openai.server import Elsewhere, Server, status_of

log = structlog.get_logger(__name__)

KEY, URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"
OWN_API = "api.openai.com"
LISTED_WITHIN = 60.0
"""Seconds in which a server has to list its models."""
GO_ON: JsonObject = {"continue_final_message": True, "add_generation_prompt": False}


def _variable(name: str) -> str:
    if not (name.isascii() and name.isidentifier() and name.isupper()):
        raise ValueError("should be the name of an environment variable: A-Z 0-9 _")
    return name


class OpenAIConfig(BackendConfig):
    max_concurrency: Annotated[int, Field(ge=1)] = 32
    base_url: str | None = None
    """Address of another server with this API. Left out: OPENAI_BASE_URL, or else OpenAI itself."""
    key_variable: Annotated[str, AfterValidator(_variable)] = KEY
    """The environment variable with the key; the same name with `_FILE` holds the path of a file with the key."""
    default_models: tuple[ModelConfig, ...] = ()
    """Models that are served from OpenAI itself when `models` is empty; another server is asked for its list."""
    local: bool = False
    """Whether the server is your own and sends no bill."""
    max_tokens_field: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens"
    """The server's field for the most tokens of an answer; older servers require `max_tokens`."""
    prefill: Literal["none", "assistant", "vllm"] = "none"
    """How the server continues a begun answer: `none`: it cannot, like OpenAI's own; `assistant`: when the assistant
    has the last message (llama.cpp); `vllm`: when the request also says so (vLLM).
    """

    @model_validator(mode="after")
    def _says_how(self) -> Self:
        if self.prefill == "none" and any("prefill" in model.capabilities for model in self.models):
            raise ValueError("a model that can go on after a begun answer needs `prefill`: assistant or vllm")
        return self


class OpenAIBackend(Backend[OpenAIConfig]):
    name = "openai"
    key_variable = KEY
    price_list = "openai"
    config_class = OpenAIConfig
    takes = STEERS

    def __init__(self, config: OpenAIConfig) -> None:
        super().__init__(config)
        self._key = api_key(config.key_variable)
        self._url = address(URL, config.base_url)
        once = {"Connection": "close"} if is_plain(self._url) else {}
        url = self._url or f"https://{OWN_API}/v1"
        self._client = openai.AsyncOpenAI(
            api_key=self._key or "none-needed",
            base_url=url,
            max_retries=0,
            timeout=openai.Timeout(LISTED_WITHIN, connect=CONNECT_TIMEOUT),
            default_headers=once,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [bounded]}, **client_options(url)),
        )
        self._server = Server(self._client, self._told)
        self._prober = Prober(self.infer, self._learned)
        named = config.models or (config.default_models if self._asks_openai else ())
        self._free = config.local or sends_no_bill(str(self._client.base_url))
        self._catalogue = Catalogue(named, self._prober if self._free else None)
        self._refusals = Refusals()
        self._all = not named
        """Whether every model that the server lists and that can chat or embed is served."""

    @classmethod
    async def available(cls, config: OpenAIConfig) -> Availability:
        try:
            backend = cls(config)
        except ConfigError as error:
            return Availability.no(str(error), f"correct {URL} or {config.key_variable}")
        try:
            return await backend._available()
        finally:
            await backend.close()

    @classmethod
    async def offered(cls, target: str, report: Report) -> JsonObject | None:
        """The config for a server, at this address or where such servers usually have this API."""
        if not target.startswith(("http://", "https://")):
            return None
        for url in (*([target] if urlsplit(target).path.strip("/") else []), *other_addresses(target)):
            report(f"asking {url}")
            if (await cls.available(OpenAIConfig(base_url=url))).available:
                return {"base_url": url, "local": sends_no_bill(url)}
        return None

    async def _available(self) -> Availability:
        key = self.config.key_variable
        if self._asks_openai:
            if self._key is None:
                return Availability.no("no key and no server", f"set {key}, or {URL} for a server of your own")
            return Availability.yes(f"{key} is set")
        where = self._where
        try:
            async with asyncio.timeout(QUICK):
                await self._server.listed(look_around=True)
        except Elsewhere as error:
            return Availability.no(error.what, error.cure)
        except BullpenError as error:
            return Availability.no(error.message, f"start the server at {where}, or correct {URL} or {key}")
        except TimeoutError:
            return Availability.no(f"{where} does not answer", f"start that server, or correct {URL}")
        return Availability.yes(f"{where} answers")

    @property
    def _asks_openai(self) -> bool:
        """Whether the server is OpenAI's own, in any region."""
        host = self._client.base_url.host
        return host == OWN_API or host.endswith(f".{OWN_API}")

    async def start(self, report: Report) -> None:
        if self._all:
            report("asking the server which models it has")
        listed = await self._listed(look_around=True)
        if listed is None and self._all:
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, f"{self._where} has no list of models: name them in `models`")
        self._catalogue.take(listed or ())
        if listed and not self._catalogue.models and self._catalogue.to_ask:
            report("asking the server's models whether they can chat")
            await self._ask_unknown()
        self._check_service()
        self._ask_unknown()

    def models(self) -> tuple[ModelCard, ...]:
        missing = self._catalogue.missing
        cards = ((model, self._card(model)) for model in self._catalogue.models)
        return tuple(out_of_service(card, GONE) if model.name in missing else card for model, card in cards)

    def _card(self, model: ModelConfig) -> ModelCard:
        plain = able(model).card(local=self.config.local, provider=self.pays(own=self._asks_openai))
        card = limited(plain, self._unsupported(model.name))
        return _going_on(card) if self.config.prefill != "none" and "chat" in card.capabilities else card

    def _ask_unknown(self) -> "asyncio.Task[None]":
        """Starts test questions, only where they cost nothing."""
        return self._prober.ask([self._card(model) for model in self._catalogue.to_ask])

    def _learned(self) -> None:
        self._catalogue.again()

    def _check_service(self) -> None:
        """Raises `BullpenError` when there is no model to serve."""
        if self._catalogue.in_service:
            return
        if self._catalogue.missing:
            raise BullpenError(ErrorCode.NO_SUCH_MODEL, f"{self._where} lists none of its models any more")
        if self._catalogue.unknown:
            cure = "name those that can in `models`"
            raise BullpenError(ErrorCode.UPSTREAM_ERROR, f"{self._where} does not say which models can chat: {cure}")
        raise BullpenError(ErrorCode.UPSTREAM_ERROR, f"{self._where} lists no models that can chat or embed")

    @property
    def _where(self) -> str:
        return place(str(self._client.base_url))

    async def stream(self, job: Job) -> AsyncGenerator[Delta | Done, None]:
        """Streams the answer. If the server refuses a parameter before it answers, the question is sent again without
        it.
        """
        calls = translated(job, rule_of(self._where, job.model.model_id))
        job, model = calls.job, job.model.model_id
        left_out = self._unsupported(model)
        check_takes(job.request, model, left_out)
        just_now: frozenset[Parameter] = frozenset()
        while True:
            answer, headers = Answer(job), dict[str, str]()
            failure: Exception | None = None
            try:
                async with aclosing(self._ask(job, answer, left_out, headers)) as deltas:
                    async for delta in deltas:
                        yield calls.restored_delta(delta)
            except (openai.OpenAIError, httpx2.HTTPError, ErrorInAnswer, BullpenError, *UNUSABLE) as error:
                failure = error
            if failure is None or answer.is_complete:
                break
            more = self._refused(job, failure, left_out) if not answer.has_begun else None
            if not more:
                raise self._told(failure, headers) from failure
            left_out |= more
            just_now |= more if not may_learn(more, self._said(failure)) else frozenset()
        self._learn(model, left_out - just_now)
        if (rest := answer.rest()) is not None:
            yield rest
        if (done := answer.done()) is not None:
            vain = left_out if answer.reasons or done.reasoning_tokens else left_out | self._unable(job.model)
            yield replace(calls.restored(done), unsupported=asked_in_vain(job.request, vain))

    def _ask(
        self, job: Job, answer: Answer, left_out: frozenset[Parameter], headers: dict[str, str]
    ) -> AsyncGenerator[Delta, None]:
        """Sends the question. `headers` is filled with the response's headers."""
        body = built(lambda job: self._body(job, left_out), job)

        async def ask() -> AsyncIterator[JsonObject]:
            sending = self._client.chat.completions.with_raw_response.create(**body)
            response = (await asked(sending, job)).http_response
            headers.update(response.headers)
            return pieces(response)

        return patiently(ask, answer.take, self.patience(job))

    # What its models do not take

    def _unable(self, card: ModelCard) -> frozenset[Parameter]:
        """Parameters that a server accepts silently for a model that has no use for them."""
        return frozenset() if "reasoning" in card.capabilities else frozenset({"reasoning_effort"})

    def _unsupported(self, model: str) -> frozenset[Parameter]:
        """Parameters that the model does not take, by the config, the model's name and its server's refusals."""
        configured = self.configured(model)
        known = refused_by_name(model) | self._refusals.of(model)
        return known.union(configured.unsupported, switched_off(configured.options))

    def _refused(self, job: Job, failure: Exception, left_out: frozenset[Parameter]) -> frozenset[Parameter]:
        """The parameters to leave out of another try. Raises `BullpenError` when the request needs a refused one."""
        if isinstance(failure, BullpenError):
            return frozenset()
        error = self._said(failure)
        body = question(job, self.config.max_tokens_field, left_out)
        named = refused(status_of(failure) or error.status, error, sent(body, left_out), wants(job.request))
        if named.needed:
            if may_learn(named.needed, error):
                self._learn(job.model.model_id, left_out | named.needed)
            raise cannot_take(job.model.model_id, named.needed, first_line(error.message)) from failure
        return named.can_go

    def _learn(self, model: str, left_out: frozenset[Parameter]) -> None:
        if new := self._refusals.learn(model, left_out - self._unsupported(model)):
            self.changed = True
            cure = "list them under the model's `unsupported` to spare the first refusal after a start"
            log.warning("parameters_refused", model=model, parameters=sorted(new), cure=cure)

    async def embed(self, job: EmbeddingJob) -> AsyncGenerator[Delta | Embedded, None]:
        """Streams the vectors. If the server does not know `encoding_format`, the question is sent again without it."""
        formats: tuple[JsonObject, ...] = ({"encoding_format": "float"}, {})
        for number, form in enumerate(formats):
            headers = dict[str, str]()
            try:
                async with aclosing(self._vectors(job, form, headers)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
            except (openai.OpenAIError, httpx2.HTTPError, ErrorInAnswer, BullpenError, *UNUSABLE) as error:
                if number or not self._minds_format(error):
                    raise self._told(error, headers) from error

    def _vectors(
        self, job: EmbeddingJob, form: JsonObject, headers: dict[str, str]
    ) -> AsyncGenerator[Delta | Embedded, None]:
        """Sends the texts. `headers` is filled with the response's headers. (The SDK's own method would ask for
        base64.)
        """
        request, options = job.request, self.configured(job.model.model_id).options
        wanted = {"model": job.model.model_id, "input": list(request.texts), **form}
        if request.dimensions is not None:
            wanted["dimensions"] = request.dimensions
        body = {name: value for name, value in {**wanted, **options}.items() if value is not None}

        async def ask() -> object:
            patience = openai.Timeout(None, connect=CONNECT_TIMEOUT)  # `embedding` ends a silence
            told = await self._client.post("/embeddings", body=body, cast_to=object, options={"timeout": patience})
            headers.update(headers_seen())
            told = json.loads(told) if isinstance(told, str) else told  # it was not said to be JSON
            if isinstance(told, dict) and told.get("error"):
                raise ErrorInAnswer(told)
            return told

        return embedding(ask, listed, self.patience(job))

    def _minds_format(self, error: Exception) -> bool:
        """Whether the server refused the question because of `encoding_format`."""
        refused = isinstance(error, openai.APIStatusError) and error.status_code in (400, 422)
        return refused and "encoding_format" in self._said(error).message

    async def _listed(self, *, look_around: bool = False) -> Sequence[Model] | None:
        """The server's models, with their kinds when every model that can chat is served. None: the server has no
        list.
        """
        listed = await self._server.listed(look_around=look_around)
        return await self._server.with_kinds(listed) if listed and self._all and self._free else listed

    async def health(self) -> None:
        listed = await self._listed()
        if listed is not None:
            self._catalogue.take(listed)
            self._ask_unknown()
        self._check_service()

    async def close(self) -> None:
        await self._prober.close()
        await self._client.close()

    def configured(self, model: str) -> ModelConfig:
        return next((one for one in self._catalogue.models if one.name == model), ModelConfig(name=model))

    def _body(self, job: Job, left_out: frozenset[Parameter]) -> JsonObject:
        options = self.configured(job.model.model_id).options
        unread: frozenset[Parameter] = frozenset({"reasoning_content"} if self._asks_openai else ())
        wanted = question(job, self.config.max_tokens_field, left_out | unread)
        extra = {**options, **(GO_ON if job.prefix and self.config.prefill == "vllm" else {})}
        return {
            **{key: value for key, value in wanted.items() if key not in options},
            "timeout": openai.Timeout(None, connect=CONNECT_TIMEOUT),  # `patiently` ends a silence
            "extra_body": {key: value for key, value in extra.items() if value is not None},
        }

    def _told(self, error: Exception, headers: Mapping[str, str] | None = None) -> BullpenError:
        """The error that a failure means to the mesh. `headers`: those of an answer with an error in it."""
        if isinstance(error, BullpenError):
            return error
        if isinstance(error, httpx2.HTTPError):  # the SDK does not translate what happens while it reads an error
            return unreachable(self._where, error)
        if isinstance(error, openai.APIConnectionError):
            return unreachable(self._where, error.__cause__ or error)
        if isinstance(error, openai.APIStatusError):
            headers = dict(error.response.headers)
            return refusal(error.status_code, self._said(error), headers, TOO_LONG)
        if isinstance(error, ErrorInAnswer):
            return refusal(None, self._said(error), headers, TOO_LONG)
        return garbage(without(self._key, str(error)))

    def _said(self, error: Exception) -> ErrorBody:
        """The provider's error without Bullpen's key, which some providers repeat."""
        if isinstance(error, ErrorInAnswer):
            return read_error(without(self._key, json.dumps(error.told)))
        text = error.response.text if isinstance(error, openai.APIStatusError) else str(error)
        return read_error(without(self._key, text) or str(error))


def _going_on(card: ModelCard) -> ModelCard:
    able = dict.fromkeys((*card.capabilities, "prefill"))
    return card.model_copy(update={"capabilities": tuple(able)})
