"""The state of the mesh for open pages: first everything, then changes, at most four times a second.

While no page is open, nothing is computed, and the gateway does not subscribe to routing decisions.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from pydantic import ValidationError
from pydantic_core import from_json

from bus import Bus, BusError, Message, Tasks
from client import Bullpen, LiveFigures, Roster
from client.client import GATEWAY_SERVICE
from client.live import SILENT_AFTER
from client.roster import Sighting
from contracts import BullpenError, JsonObject, RouteDecision
from contracts import subjects as s
from gateway.api import cards
from gateway.api.books import Books
from gateway.api.cards import GradeOf, Loss

log = structlog.get_logger(__name__)

EVERY = 0.25
ALIVE_EVERY = 2.0
LOOK_AROUND_EVERY = 5.0
"""Seconds between two queries for grades and gateways, which send no events."""
MOST_ROUTES = 50
"""Routing decisions that are kept for a page that opens."""
MOST_LOOKERS = 200
MOST_UNREAD = 64
"""Events that may wait for one page. A slower page is disconnected, and begins again with everything."""
MOST_LOST = 1000
Parts = dict[str, Any]


@dataclass(eq=False, slots=True)
class Looker:
    """One open stream of events."""

    tenant: str | None
    events: asyncio.Queue[tuple[str, JsonObject] | None] = field(default_factory=lambda: asyncio.Queue(MOST_UNREAD))

    def tell(self, name: str, told: JsonObject) -> bool:
        """Adds an event; False: the page is too slow, and the queue is full."""
        with suppress(asyncio.QueueFull):
            self.events.put_nowait((name, told))
            return True
        return False

    def end(self) -> None:
        while not self.events.empty():
            self.events.get_nowait()
        self.events.put_nowait(None)


@dataclass(frozen=True, slots=True)
class Card:
    """A worker's card as pages have it, and the data it was made from."""

    seen: Sighting
    silent: bool
    lost: Loss | None
    grades: GradeOf
    told: JsonObject

    def is_of(self, seen: Sighting, silent: bool, lost: Loss | None, grades: GradeOf) -> bool:
        return self.seen is seen and self.silent == silent and self.lost is lost and self.grades is grades


class Watch:
    def __init__(self, bullpen: Bullpen, roster: Roster, live: LiveFigures, books: Books) -> None:
        self._bus: Bus = bullpen.bus
        self._bullpen = bullpen
        self._roster = roster
        self._live = live
        self._books = books
        self._lookers: set[Looker] = set()
        self._looking = asyncio.Event()
        self._lost: dict[str, Loss] = {}
        self._grades: dict[tuple[str, str], JsonObject] = {}
        self._gateways: list[JsonObject] = []
        self._routes: deque[JsonObject] = deque(maxlen=MOST_ROUTES)
        self._new_routes: list[JsonObject] = []
        self._cards: dict[str, Card] = {}
        self._told: Parts = {}
        self._ended = False

    @classmethod
    @asynccontextmanager
    async def kept(cls, bullpen: Bullpen, roster: Roster, books: Books) -> AsyncIterator["Watch"]:
        """Follows the mesh until the end of the block."""
        async with AsyncExitStack() as stack:
            live = await stack.enter_async_context(bullpen.live())
            watch, tasks = cls(bullpen, roster, live, books), Tasks("page")
            gone = await bullpen.bus.subscribe_inline(s.SYS_DISCONNECT, watch._on_disconnect)
            stack.push_async_callback(gone.stop)
            stack.push_async_callback(tasks.cancel)
            tasks.start(watch._tell_changes(), "changes")
            tasks.start(watch._look_around(), "look-around")
            yield watch

    def now(self, tenant: str | None) -> JsonObject:
        """The whole state, or the part that a tenant may see."""
        parts = self._parts()
        return _for_tenant(parts) if tenant is not None else {**parts, "routes": list(self._routes)}

    @asynccontextmanager
    async def looking(self, tenant: str | None) -> AsyncIterator[Looker | None]:
        """Opens a stream, which begins with the whole state; None in its queue ends it. Yields None when there are too
        many.
        """
        if len(self._lookers) >= MOST_LOOKERS or self._ended:
            yield None
            return
        looker = Looker(tenant)
        if not self._lookers:
            self._told = self._parts()
            self._looking.set()
        looker.tell("mesh", self.now(tenant))
        self._lookers.add(looker)
        try:
            yield looker
        finally:
            self._lookers.discard(looker)
            if not self._lookers:
                self._looking.clear()

    def end(self) -> None:
        """Ends every stream: the gateway stops."""
        self._ended = True
        for looker in self._lookers:
            looker.end()

    # What there is

    def _parts(self) -> Parts:
        now = asyncio.get_running_loop().time()
        self._live.forget(now - SILENT_AFTER)
        workers = {seen.beat.worker_id: self._card(seen, now) for seen in self._roster}
        self._cards = {name: known for name, known in self._cards.items() if name in workers}
        return {
            "workers": workers,
            "managers": cards.managers(self._live),
            "accountants": cards.accountants(self._live),
            "gateways": self._gateways,
            "totals": cards.totals(self._live, workers.values()),
        }

    def _card(self, seen: Sighting, now: float) -> JsonObject:
        """The worker's card, computed again only when its data changed."""
        name, silent = seen.beat.worker_id, seen.silent_for(now) is not None
        lost, known = self._lost.get(name), self._cards.get(name)
        if known is None or not known.is_of(seen, silent, lost, self._grades):
            told = cards.worker_card(seen, lost, silent, self._grades)
            known = self._cards[name] = Card(seen, silent, lost, self._grades, told)
        return known.told

    def _on_disconnect(self, message: Message) -> None:
        """Marks a worker as lost when the server reports it, which is sooner than silence. A heartbeat over another
        connection clears it.
        """
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            event = from_json(message.data)
            worker_id = s.worker_of_connection(event["client"].get("name", ""))
            connection = f"{event.get('server', {}).get('id')}:{event['client'].get('id')}"
            for seen in self._roster if worker_id else ():
                if seen.beat.worker_id == worker_id and seen.beat.connection == connection:
                    self._lost[worker_id] = Loss(str(event.get("reason", "")), connection)
            while len(self._lost) > MOST_LOST:
                del self._lost[next(iter(self._lost))]

    def _on_route(self, message: Message) -> None:
        with suppress(ValidationError):
            told = cards.route(RouteDecision.model_validate_json(message.data))
            self._routes.append(told)
            if len(self._new_routes) < MOST_ROUTES:
                self._new_routes.append(told)

    async def _look_around(self) -> None:
        while True:
            await self._looking.wait()
            with suppress(BullpenError):
                rows = (await self._books.ask(None, what="grades")).rows
                grades = {(row["model_id"], row["worker_id"]): {**row, "seconds": 0} for row in rows}
                if grades != self._grades:
                    self._grades = grades
            with suppress(BusError):
                found = await self._bullpen.services(GATEWAY_SERVICE)
                told = [{"id": one.id, "version": one.version, "url": one.metadata.get("url")} for one in found]
                self._gateways = told
            await asyncio.sleep(LOOK_AROUND_EVERY)

    # What changed

    async def _tell_changes(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            await self._looking.wait()
            hearing = await self._bus.subscribe_inline(s.METRICS_ROUTE, self._on_route)
            told_at = now()
            try:
                while self._lookers:
                    await asyncio.sleep(EVERY)
                    try:
                        if self._tell(self._changes(), alive=now() - told_at >= ALIVE_EVERY):
                            told_at = now()
                    except Exception:
                        log.exception("page_delta_failed")
            finally:
                await hearing.stop()

    def _changes(self) -> JsonObject:
        parts, before = self._parts(), self._told
        self._told = parts
        changed: JsonObject = {
            name: part for name, part in parts.items() if name != "workers" and part != before.get(name)
        }
        was = before.get("workers", {})
        workers = {name: card for name, card in parts["workers"].items() if was.get(name) is not card}
        workers = {name: card for name, card in workers.items() if was.get(name) != card}
        workers |= dict.fromkeys(was.keys() - parts["workers"].keys())
        if workers:
            changed["workers"] = workers
        if self._new_routes:
            changed["routes"], self._new_routes = self._new_routes, []
        return changed

    def _tell(self, changed: JsonObject, *, alive: bool) -> bool:
        if not changed and not alive:
            return False
        name = "delta" if changed else "alive"
        less = _for_tenant(changed)
        for looker in list(self._lookers):
            if looker.tenant is None:
                keeps_up = looker.tell(name, changed)
            else:
                keeps_up = looker.tell("delta" if less else "alive", less) if less or alive else True
            if not keeps_up:
                looker.end()
        return True


def _for_tenant(parts: JsonObject) -> JsonObject:
    """The part of the state that a tenant may see: workers and models, and nothing about other tenants' requests."""
    workers = parts.get("workers")
    if workers is None:
        return {}
    return {"workers": {name: card and cards.for_a_tenant(card) for name, card in workers.items()}}
