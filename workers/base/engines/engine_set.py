"""The engines of a worker: the one that serves now and, after a swap, those that finish their requests.

Each engine has places of its own, so that a request for the new model does not wait behind requests for the old one. As
long as an old engine runs, the heartbeat counts the requests of all engines.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from contracts import BullpenError, Capability, ErrorCode, ModelCard
from workers.base.engines.admission import Admission
from workers.base.engines.trouble import Troubles
from workers.base.interface.config import BackendConfig
from workers.base.interface.discovery import AnyBackend
from workers.base.rate_limits.limits import Limits

log = structlog.get_logger(__name__)

GRACE = 1.0
"""Seconds after a swap for which the old engine still takes requests: callers and Managers may not know of the swap
yet.
"""
LOOK_EVERY = 0.02
STOP_WITHIN = 2.0


class Stoppable(Protocol):
    """An attempt that runs on an engine."""

    def stop(self, why: BullpenError) -> None: ...


@dataclass(eq=False, slots=True)
class Engine:
    """One backend object, with the config that it was made from."""

    backend: AnyBackend
    config: BackendConfig
    places: Admission = field(init=False)
    models: tuple[ModelCard, ...] = ()
    """The models that the engine serves; empty until they are loaded."""
    running: set[Stoppable] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.places = Admission(self.config.max_concurrency, self.config.queue_limit)

    def card(self, name: str) -> ModelCard | None:
        """The model with this name or alias; None when the engine does not serve it."""
        return next((card for card in self.models if card.answers_to(name)), None)

    @contextmanager
    def at_work(self, execution: Stoppable) -> Iterator[None]:
        """Keeps the engine open while the attempt runs."""
        self.running.add(execution)
        try:
            yield
        finally:
            self.running.discard(execution)

    def configure(self, config: BackendConfig) -> None:
        """Takes over the settings that need no new backend object."""
        self.config = config
        self.places.queue_limit = config.queue_limit
        self.models = self.backend.models()


class EngineSet:
    def __init__(self, first: Engine) -> None:
        self.current = first
        self.limits = Limits(first.config)
        self.troubles = Troubles()
        self._draining: list[Engine] = []

    @property
    def inflight(self) -> int:
        return sum(engine.places.inflight for engine in self._all())

    @property
    def queued(self) -> int:
        return sum(engine.places.queued for engine in self._all())

    @property
    def capacity(self) -> int:
        """The places of the engine that serves, plus the requests in other engines, which take none of these places."""
        elsewhere = sum(engine.places.inflight + engine.places.queued for engine in self._draining)
        return self.current.places.capacity + elsewhere

    @property
    def served(self) -> str:
        return ", ".join(card.model_id for card in self.current.models if card.capabilities) or "nothing"

    def find(self, name: str | None, able: Capability = "chat") -> tuple[Engine, ModelCard] | None:
        """The engine and model that answer for a name: of the serving engine, else of one that drains. `name` None: the
        serving engine's best model.

        `able`: the capability that an unnamed model should have.
        """
        if name is None:
            cards = sorted(self.current.models, key=lambda card: self._hindrance(card, able))
            return (self.current, cards[0]) if cards else None
        for engine in self._all():
            if (card := engine.card(name)) is not None:
                return engine, card
        return None

    def _hindrance(self, card: ModelCard, able: Capability) -> int:
        """How unsuitable a model is for a request that names none; 0 is best."""
        now = asyncio.get_running_loop().time()
        if able not in card.capabilities:
            return 2 if card.capabilities else 3
        return int(bool(self.troubles.of(card.model_id, now) or self.limits.rest(card.model_id, now)))

    def activate(self, engine: Engine) -> Engine:
        """Makes this engine serve from now on. Returns the engine before it, which the caller has to `drain`."""
        before, self.current = self.current, engine
        self.limits.reconfigure(engine.config)
        self._draining.append(before)
        return before

    def configure(self, config: BackendConfig) -> None:
        """Gives the serving engine the settings that need no new backend object."""
        self.current.configure(config)
        self.limits.reconfigure(config)

    async def drain(self, engine: Engine) -> None:
        """Lets an engine finish its requests, for at most its `drain_timeout`, then stops the rest and closes it."""
        await asyncio.sleep(GRACE if engine.models else 0.0)
        with suppress(TimeoutError):
            async with asyncio.timeout(engine.config.drain_timeout):
                await _idle(engine)
        engine.models = ()
        for execution in list(engine.running):
            execution.stop(BullpenError(ErrorCode.DRAINING, "its model was swapped for another"))
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_WITHIN):
                await _idle(engine)
        self._draining.remove(engine)
        await engine.backend.close()
        log.info("engine_retired", models=[model.name for model in engine.config.models])

    def send_away(self, why: BullpenError) -> None:
        """Gives back the requests that wait for a place."""
        for engine in self._all():
            engine.places.send_away(why)

    async def close(self) -> None:
        """Closes all engines."""
        for engine in self._all():
            await engine.backend.close()

    def _all(self) -> list[Engine]:
        return [self.current, *reversed(self._draining)]


async def _idle(engine: Engine) -> None:
    while engine.running:  # noqa: ASYNC110 — requests end in many places; leaving may take 20 ms more
        await asyncio.sleep(LOOK_EVERY)
