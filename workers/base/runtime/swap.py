"""Changes what a worker serves while it serves: when its config file was saved, or on a control request.

One change happens at a time. The new backend object is made, loaded and asked for a token beside the old one; only then
new requests go to it. If anything is wrong with it, the old one continues, and the sender of the control request gets
the reason. The file counts in the end: what `swap` changed is lost when the file is saved or the worker restarts.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import psutil
import structlog
from pydantic import ValidationError

from bus import Tasks
from config.loader import ConfigError
from config.watched_file import ConfigFile, config_digest, differing
from contracts import BullpenError, ControlRequest, EmbeddingRequest, ErrorCode, InferenceRequest, JsonObject, ModelCard
from workers.base.engines.engine_set import Engine, EngineSet
from workers.base.host.resources import ResourceMeter
from workers.base.interface.backend import EmbeddingJob, Job
from workers.base.interface.config import BackendConfig
from workers.base.runtime.presence import Presence

log = structlog.get_logger(__name__)

PROBE_WITHIN = 120.0
"""Seconds in which a new model on this machine has to give its first token."""
PROBE = "Say yes."
LOADED_PER_SECOND = 125e6
"""Bytes of a model that a busy machine loads per second."""
Cause = Literal["file", "reload", "swap"]


@dataclass(frozen=True, slots=True)
class Outcome:
    done: bool
    message: str


class Swapper:
    def __init__(
        self,
        engines: EngineSet,
        presence: Presence,
        file: ConfigFile[Any] | None,
        activate: Callable[[Engine], Awaitable[None]],
    ) -> None:
        """`activate` makes an engine the one that serves. `file` None: there is no config file to read again."""
        self._engines = engines
        self._presence = presence
        self._file = file
        self._activate = activate
        self._turn = asyncio.Lock()
        self._tasks = Tasks("swap")
        self.refused = ""
        """Why the config file is not in force; empty when it is, or when a `swap` came after it."""

    async def follow(self) -> None:
        """Takes over the config file each time it is saved, until cancelled."""
        while self._file is not None:
            await self._file.changed()
            await self._change("file", self._file.read)

    async def reload(self) -> Outcome:
        """Reads the config file again."""
        if self._file is None:
            return Outcome(False, "this worker was started without a config file")
        return await self._change("reload", self._file.read)

    async def swap(self, request: ControlRequest) -> Outcome:
        """Serves other models, or the same ones with other options, until the config file is read again."""
        return await self._change("swap", lambda: self._wanted(request))

    async def stop(self) -> None:
        """Ends a change that is under way."""
        await self._tasks.cancel()

    # One change

    async def _change(self, cause: Cause, wanted: Callable[[], Awaitable[BackendConfig]]) -> Outcome:
        """Makes one change, in a task of its own: the sender may be gone before it ends, and `stop` can end it."""
        changing = self._tasks.start(self._in_turn(cause, wanted), cause)
        await asyncio.wait({changing})
        if changing.cancelled() or changing.exception() is not None:
            return Outcome(False, "the worker is leaving" if changing.cancelled() else "it failed; its log says why")
        outcome: Outcome = changing.result()
        return outcome

    async def _in_turn(self, cause: Cause, wanted: Callable[[], Awaitable[BackendConfig]]) -> Outcome:
        async with self._turn:
            now = asyncio.get_running_loop().time
            began, before = now(), self._engines.current
            try:
                self._check_staying()
                config = await wanted()
                changes = differing(before.config, config)
                if not changes and (self._presence.state == "ready" or cause == "file"):
                    self.refused = self.refused if cause == "swap" else ""
                    return Outcome(True, "nothing has changed")
                await self._bring_in(config)
            except ConfigError as error:
                return self._refuse(cause, str(error))
            except BullpenError as error:
                return self._refuse(cause, f"{self._place(cause, error.field)}: {error.message}")
            except Exception as error:
                log.exception("swap_failed")
                return self._refuse(cause, f"{self._place(cause, None)}: {type(error).__name__}, the log says more")
            return self._done(cause, before, changes, took_ms=round(1000 * (now() - began)))

    async def _wanted(self, request: ControlRequest) -> BackendConfig:
        """The present config with other models. Raises `ConfigError`."""
        now = self._engines.current.config
        models: list[Any] = list(now.models)
        if request.models is not None:
            models = list(request.models)
        elif request.model is not None:
            models = [await self._known(request.model) or {"name": request.model}]
        elif request.options is None:
            raise ConfigError("swap: say which `model`, `models` or `options`")
        if request.options is not None:
            models = [_with_options(model, request.options) for model in models]
        told = {field: getattr(now, field) for field in now.model_fields_set} | {"models": models}
        try:
            return type(now).model_validate(told)
        except ValidationError as error:
            raise ConfigError("; ".join(_told(detail) for detail in error.errors(include_url=False))) from None

    async def _known(self, name: str) -> Any:
        """The config of the model with this name or alias, from the present config or the file; a broken file counts as
        empty.
        """
        models = list(self._engines.current.config.models)
        if self._file is not None:
            with suppress(ConfigError):
                models += (await self._file.read()).models
        return next((model for model in models if name in (model.name, *model.aliases)), None)

    def _check_staying(self) -> None:
        if self._presence.state == "draining":
            raise ConfigError("the worker is draining: `bullpen resume` it first")

    async def _bring_in(self, config: BackendConfig) -> None:
        before = self._engines.current
        if before.models and before.backend.adopt(config):
            self._engines.configure(config)
            self._presence.serve(config, before.models)
            await self._presence.say()
            return
        engine = Engine(type(before.backend)(config), config)
        try:
            needed = await engine.backend.memory_needed()
            _check_memory(needed)
            with self._presence.loading((needed or 0) / LOADED_PER_SECOND):
                await self._presence.say(surely=True)  # before we stand still
                await self._load(engine)
            self._check_staying()
            await self._activate(engine)
        finally:
            if self._engines.current is not engine:
                await engine.backend.close()

    async def _load(self, engine: Engine) -> None:
        """Returns when the engine answers. Raises `BullpenError`."""
        await engine.backend.start(self._presence.report)
        engine.models = engine.backend.models()
        if not engine.models:
            raise BullpenError(ErrorCode.NO_SUCH_MODEL, "there is no model to serve", field="models")
        if out := next((card for card in engine.models if not card.capabilities), None):
            raise BullpenError(ErrorCode.NO_SUCH_MODEL, f"{out.model_id}: {out.trouble}", field="models")
        await engine.backend.health()
        for card in engine.models:
            if card.local and "chat" in card.capabilities:
                await _probe(engine, card)

    def _place(self, cause: Cause, field: str | None) -> str:
        if cause == "swap" or self._file is None:
            return f"swap: {field or 'models'}"
        return self._file.place(field or "models")

    # What is said of it

    def _refuse(self, cause: Cause, why: str) -> Outcome:
        self.refused = self.refused if cause == "swap" else why
        log.error("swap_refused", cause=cause, reason=why, serving=self._engines.served)
        self._book("swap_refused", why, {"cause": cause})
        return Outcome(False, why)

    def _done(self, cause: Cause, before: Engine, changes: list[str], *, took_ms: int) -> Outcome:
        self.refused = self.refused if cause == "swap" else ""
        models = [card.model_id for card in self._engines.current.models]
        event = "config_changed" if self._engines.current is before else "swapped"
        message = f"now serves {', '.join(models)} (ready after {took_ms} ms); changed: {', '.join(changes)}"
        log.info(event, cause=cause, models=models, changed=changes, took_ms=took_ms)
        digest = config_digest(self._engines.current.config)
        detail = {"cause": cause, "changed": changes, "took_ms": took_ms, "models": models, "config_digest": digest}
        self._book(event, f"serves {', '.join(models)}", detail)
        return Outcome(True, message)

    def _book(self, event: str, reason: str, detail: JsonObject) -> None:
        self._presence.book(self._presence.state, reason, {"event": event, **detail})


def _check_memory(needed: int | None) -> None:
    """Raises `BullpenError` when the new model does not fit into memory beside the old one."""
    told = ResourceMeter().read()
    limit = told.memory_limit or psutil.virtual_memory().total
    free = max(0, min(limit - told.memory_used, psutil.virtual_memory().available))
    if needed is not None and needed > free:
        raise BullpenError(
            ErrorCode.OVERLOADED,
            f"the new model needs about {needed >> 20} MiB beside the old one, and {free >> 20} MiB are free: "
            "allow this worker more memory, or restart it with this config",
            field="models",
        )


async def _probe(engine: Engine, card: ModelCard) -> None:
    """Asks a model for a first token or vector. Only local models are probed: other models' servers only say whether
    they know them.
    """
    try:
        async with asyncio.timeout(PROBE_WITHIN):
            if "chat" in card.capabilities or "embed" not in card.capabilities:
                await engine.backend.infer(Job(InferenceRequest(prompt=PROBE, max_tokens=1), card, 1))
            else:
                await engine.backend.vectors(EmbeddingJob(EmbeddingRequest(input=PROBE), card))
    except TimeoutError:
        silent = f"{card.model_id} did not answer a first question within {PROBE_WITHIN:g} s"
        raise BullpenError(ErrorCode.UPSTREAM_ERROR, silent, field="models") from None


def _with_options(model: Any, options: JsonObject) -> JsonObject:
    """The model as in a config file, with these options added."""
    told: JsonObject = model if isinstance(model, dict) else model.model_dump(exclude_unset=True)
    own = told.get("options")
    return {**told, "options": {**(own if isinstance(own, dict) else {}), **options}}


def _told(detail: Any) -> str:
    message = "unknown key" if detail["type"] == "extra_forbidden" else detail["msg"]
    return f"swap: {'.'.join(str(part) for part in detail['loc'])}: {message}"
