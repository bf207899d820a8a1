"""`/api/v1/…`: the routes of the live page's API. Read `answer` for the course of a request; `ROUTES` lists them."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp.web import BaseRequest, Response, StreamResponse
from pydantic_core import to_json

from client import Bullpen
from contracts import BullpenError, ErrorCode, JsonObject
from gateway.api.access import Access, Visitor
from gateway.api.books import Books
from gateway.api.orders import MANAGER_ORDERS, WORKER_ORDERS, Keys, Orders
from gateway.api.watching import Watch
from gateway.dialects import Refused
from gateway.dialects.events import dumped
from gateway.dialects.openai_chat import OpenAIChat
from gateway.http import JSON, Failure, body_of, json_object

log = structlog.get_logger(__name__)

PREFIX = "/api/v1/"
LARGEST_BODY, BODY_WITHIN = 1 << 16, 10.0
SLOW_READER = 10.0
"""Seconds after which a page that reads none of its events is cut off."""
EXAMINE_WITHIN, EXAMINED_FOR = 20.0, 5.0
"""Seconds that the doctor may take, and seconds for which its findings are reused."""
FILTERS = ("name", "tenant", "model", "worker", "status", "code", "text", "since", "until", "after", "limit")
PERIOD = ("since", "until")
ERRORS = OpenAIChat()

Examine = Callable[[], Awaitable[Sequence[JsonObject]]]
"""Returns the doctor's findings: `part`, `state`, `detail`, `cure`."""


class NotAllowed(Refused):
    def __init__(self, request: BaseRequest, allowed: str) -> None:
        super().__init__(f"{request.method} is not allowed here, but {allowed}", None, 405, "method_not_allowed")
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the API, and its sender."""

    request: BaseRequest
    visitor: Visitor
    parts: tuple[str, ...]
    """The values of the names in the route's path."""

    def filters(self, *names: str) -> dict[str, str]:
        """The filters in the query string. Raises `Refused` for one that the route does not have."""
        told = {name: value for name, value in self.request.query.items() if value}
        for name in told.keys() - set(names):
            raise Refused(f"{name}: is no filter here, but {', '.join(names)}", name)
        return told

    async def body(self) -> JsonObject:
        body = await body_of(self.request, limit=LARGEST_BODY, within=BODY_WITHIN)
        return json_object(body) if body.strip() else {}


class Api:
    def __init__(self, bullpen: Bullpen, access: Access, watch: Watch, books: Books, examine: Examine | None) -> None:
        self._bullpen = bullpen
        self._access = access
        self._watch = watch
        self._books = books
        self._orders = Orders(bullpen, books)
        self._keys = Keys(bullpen.bus)
        self._examine = examine
        self._examining = asyncio.Lock()
        self._examined: tuple[float, list[JsonObject]] = (-EXAMINED_FOR, [])

    async def answer(self, request: BaseRequest) -> StreamResponse:
        """Answers a request. Raises only when the client is gone."""
        try:
            path = request.path.removeprefix(PREFIX)
            if path == "session":
                return await self._session(request)
            route, parts = _found(request, path)
            visitor = self._access.admit(request.headers, "acting" if route.acts else "reading")
            if route.acts:
                visitor.check_may_act()
            told = await route.handle(self, Call(request, visitor, parts))
            return told if isinstance(told, StreamResponse) else _json(told)
        except (Refused, BullpenError) as refused:
            allow = {"Allow": refused.allowed} if isinstance(refused, NotAllowed) else {}
            return Failure.of(refused).answer(ERRORS, "", allow)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            log.exception("api_failed", path=request.path[:200])
            return Failure.of(error).answer(ERRORS, "", {})

    # Signing in

    async def _session(self, request: BaseRequest) -> Response:
        match request.method:
            case "GET" | "HEAD":
                visitor = self._access.admit(request.headers)
                return _json(_session(visitor, is_open=self._access.is_open))
            case "POST":
                told = json_object(await body_of(request, limit=LARGEST_BODY, within=BODY_WITHIN))
                key = told.get("key")
                if not isinstance(key, str) or not re.fullmatch(r"[\x21-\x3a\x3c-\x7e]{1,256}", key):
                    raise Refused("key: should be an API key", "key")
                visitor, cookie = self._access.sign_in(request.headers, key)
                response = _json(_session(visitor, is_open=False))
                response.headers["Set-Cookie"] = cookie
                return response
            case "DELETE":
                response = _json({"signed_out": True})
                response.headers["Set-Cookie"] = self._access.sign_out(request.headers)
                return response
        raise NotAllowed(request, "GET, HEAD, POST, DELETE")

    # Reading

    async def _mesh(self, call: Call) -> JsonObject:
        return self._watch.now(call.visitor.tenant)

    async def _events(self, call: Call) -> StreamResponse:
        async with self._watch.looking(call.visitor.tenant) as looker:
            if looker is None:
                raise BullpenError(ErrorCode.OVERLOADED, "too many pages are open here", retry_after_ms=5000)
            headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            response = StreamResponse(headers=headers)
            await response.prepare(call.request)
            while (event := await looker.events.get()) is not None:
                try:
                    async with asyncio.timeout(SLOW_READER):
                        await response.write(b"event: %b\ndata: %b\n\n" % (event[0].encode(), dumped(event[1])))
                except TimeoutError:
                    if call.request.transport is not None:
                        call.request.transport.abort()
                    raise ConnectionResetError("the page reads nothing any more") from None
                if call.visitor.key_id and not self._still_may(call):
                    break
            await response.write_eof()
            return response

    def _still_may(self, call: Call) -> bool:
        """Whether the key that opened the stream is still valid: it may have been revoked meanwhile."""
        try:
            return self._access.admit(call.request.headers) == call.visitor
        except (Refused, BullpenError):
            return False

    async def _requests(self, call: Call) -> JsonObject:
        found = await self._books.ask(call.visitor.tenant, what="requests", **call.filters(*FILTERS))
        return {"requests": found.rows, "next": found.next}

    async def _request(self, call: Call) -> JsonObject:
        rows = (await self._books.ask(call.visitor.tenant, what="request", name=call.parts[0])).rows
        if not rows:
            why = f"no request {call.parts[0][:200]} is in the books; they have one a moment after its answer"
            raise Refused(why, None, 404, "not_found")
        return rows[0]

    async def _totals(self, call: Call) -> JsonObject:
        rows = (await self._books.ask(call.visitor.tenant, what="totals", **call.filters(*PERIOD))).rows
        return rows[0]

    async def _cost(self, call: Call) -> JsonObject:
        found = await self._books.ask(call.visitor.tenant, what="cost", **call.filters(*PERIOD))
        return {"cost": found.rows}

    async def _budgets(self, call: Call) -> JsonObject:
        tenant = call.visitor.tenant
        found = await self._bullpen.budgets()
        mine = [state for state in found if tenant is None or state.tenant == tenant]
        return {"budgets": [state.model_dump(mode="json") for state in mine]}

    async def _models(self, call: Call) -> JsonObject:
        found = await self._books.ask(call.visitor.tenant, what="models", **call.filters(*PERIOD))
        return found.rows[0]

    async def _health(self, call: Call) -> JsonObject:
        call.visitor.check_sees_all()
        if self._examine is None:
            raise BullpenError(ErrorCode.NO_WORKER, "this gateway cannot examine the mesh: run `bullpen doctor`")
        now = asyncio.get_running_loop().time
        async with self._examining:
            if now() - self._examined[0] > EXAMINED_FOR:
                try:
                    async with asyncio.timeout(EXAMINE_WITHIN):
                        self._examined = now(), list(await self._examine())
                except TimeoutError:
                    why = f"the doctor was not done within {EXAMINE_WITHIN:g} s: run `bullpen doctor`"
                    raise BullpenError(ErrorCode.DEADLINE_EXCEEDED, why) from None
        return {"findings": self._examined[1]}

    async def _listed_keys(self, call: Call) -> JsonObject:
        call.visitor.check_sees_all()
        return await self._keys.listed()

    # Acting

    async def _new_key(self, call: Call) -> JsonObject:
        return await self._keys.create(await call.body())

    async def _revoke_key(self, call: Call) -> JsonObject:
        return await self._keys.revoke(call.parts[0])

    async def _worker(self, call: Call) -> JsonObject:
        worker_id, order = call.parts
        return self._done(call, await self._orders.worker(worker_id, order, await call.body()))

    async def _manager(self, call: Call) -> JsonObject:
        manager_id, order = call.parts
        return self._done(call, await self._orders.manager(manager_id, order))

    def _done(self, call: Call, told: JsonObject) -> JsonObject:
        log.info("order_given", key_id=call.visitor.key_id, to=call.parts[0], order=call.parts[1])
        return told


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    """All routes. A name in braces matches one part of the path; `{order}` matches one of `orders`."""
    handle: Callable[[Api, Call], Awaitable[JsonObject | StreamResponse]]
    about: str
    orders: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()

    @property
    def acts(self) -> bool:
        return self.method == "POST"

    def match(self, path: str) -> tuple[str, ...] | None:
        order = "|".join(self.orders)
        pattern = re.sub(r"\{(\w+)\}", lambda part: f"({order})" if part[1] == "order" else "([^/]+)", self.path)
        found = re.fullmatch(pattern, path)
        return found.groups() if found else None


ROUTES = (
    Route("GET", "mesh", Api._mesh, "Workers, Managers, gateways and totals as they are now"),
    Route("GET", "events", Api._events, "The same as server-sent events: `mesh`, then each `delta`"),
    Route("GET", "requests", Api._requests, "A page of the books, the newest first", filters=FILTERS),
    Route("GET", "requests/{name}", Api._request, "One request: attempts, decisions, cost, words"),
    Route("GET", "totals", Api._totals, "Requests, errors, times and money of a period", filters=PERIOD),
    Route("GET", "cost", Api._cost, "Money by day, model and tenant; null is unknown", filters=PERIOD),
    Route("GET", "budgets", Api._budgets, "Budgets, and what is spent of them"),
    Route("GET", "models", Api._models, "How each model did in a period, also by time", filters=PERIOD),
    Route("GET", "health", Api._health, "What `bullpen doctor` finds"),
    Route("GET", "keys", Api._listed_keys, "The API keys, without their secrets"),
    Route("POST", "keys", Api._new_key, "Makes a key; its secret is told once"),
    Route("POST", "keys/{key_id}/revoke", Api._revoke_key, "Ends a key"),
    Route("POST", "workers/{worker_id}/{order}", Api._worker, "Gives a worker an order", orders=WORKER_ORDERS),
    Route("POST", "managers/{manager_id}/{order}", Api._manager, "Gives a Manager an order", orders=MANAGER_ORDERS),
)


def _found(request: BaseRequest, path: str) -> tuple[Route, tuple[str, ...]]:
    """The route for the path, and the values in it. Raises `Refused` (404, 405)."""
    matching = [(route, parts) for route in ROUTES if (parts := route.match(path)) is not None]
    if not matching:
        raise Refused(f"There is nothing at {request.path[:200]}", None, 404, "not_found")
    for route, parts in matching:
        if request.method == route.method or (request.method == "HEAD" and route.method == "GET"):
            return route, parts
    raise NotAllowed(request, ", ".join(sorted(_methods(matching))))


def _methods(matching: Sequence[tuple[Route, tuple[str, ...]]]) -> set[str]:
    told = {route.method for route, _ in matching}
    return told | {"HEAD"} if "GET" in told else told


def _session(visitor: Visitor, *, is_open: bool) -> dict[str, Any]:
    return {"role": visitor.role, "tenant": visitor.tenant, "key_id": visitor.key_id or None, "open": is_open}


def _json(told: JsonObject) -> Response:
    return Response(body=to_json(told), content_type=JSON, headers={"Cache-Control": "no-store"})
