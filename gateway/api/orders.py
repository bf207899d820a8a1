"""Orders that an operator may give from the page: to workers and Managers, grades by hand, and keys."""

from collections.abc import Mapping
from typing import Any, get_args

from bus import Bus, BusError
from client import Bullpen
from client.client import Order
from contracts import ApiKey, BullpenError, ErrorCode, Grade, JsonObject, KeyRole
from contracts.envelope import TENANT_CHARACTERS
from gateway.api.books import Books
from gateway.dialects import Refused
from gateway.dialects.fields import Fields
from gateway.keys.office import KeyOffice

SWAP_WITHIN = 600.0
GRADES: Mapping[str, Grade | None] = {"bench": "benched", "promote": "senior", "ungrade": None}
"""The grade that each order sets; None: the books decide again."""
PLAIN: Mapping[str, Order] = {"drain": "drain", "resume": "resume", "reload": "reload"}
WORKER_ORDERS = (*PLAIN, "swap", *GRADES)
MANAGER_ORDERS = tuple(PLAIN)


class Orders:
    def __init__(self, bullpen: Bullpen, books: Books) -> None:
        self._bullpen = bullpen
        self._books = books

    async def worker(self, worker_id: str, order: str, told: JsonObject) -> JsonObject:
        """Sends an order to a worker. Returns `ok` and `message`. Raises `BullpenError`, `Refused`."""
        fields = Fields(told)
        if order in GRADES:
            model = fields.text("model")
            if not model:
                raise Refused("model: is missing", "model")
            changed = await self._books.grade(model, worker_id, GRADES[order])
            if not changed.rows:
                why = f"{model} at {worker_id} has no grade yet: it comes with the first answers"
                raise BullpenError(ErrorCode.CONFLICT, why)
            how = f"is {changed.rows[0]['grade']}" + ("" if GRADES[order] else ", the books decide from now on")
            return {"ok": True, "message": f"{model} {how}; Managers know within ten seconds"}
        if order == "swap":
            model, options = fields.text("model"), told.get("options")
            if not model and not options:
                raise Refused("model: is missing", "model")
            if options is not None and not isinstance(options, dict):
                raise Refused("options: should be an object", "options")
            reply = await self._bullpen.swap(worker_id, model=model, options=options, within=SWAP_WITHIN)
        else:
            reply = await self._bullpen.control(worker_id, PLAIN[order])
        return _obeyed(reply.ok, reply.message or f"{worker_id}: {order}")

    async def manager(self, manager_id: str, order: str) -> JsonObject:
        """Sends an order to a Manager. Returns and raises as `worker`."""
        reply = await self._bullpen.control_manager(manager_id, PLAIN[order])
        return _obeyed(reply.ok, reply.message or f"{manager_id} is {reply.state}")


def _obeyed(ok: bool, message: str) -> JsonObject:
    if not ok:
        raise BullpenError(ErrorCode.CONFLICT, f"it goes on as before: {message}")
    return {"ok": True, "message": message}


class Keys:
    """The API keys, for operators."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def listed(self) -> JsonObject:
        try:
            return {"keys": [_told(key) for key in await (await self._office()).keys()]}
        except BusError as error:
            raise _away(error) from None

    async def create(self, told: JsonObject) -> JsonObject:
        """The new key with its `secret`, which is shown only now."""
        tenant, role = told.get("tenant"), told.get("role", "tenant")
        if not isinstance(tenant, str) or not 0 < len(tenant) <= TENANT_CHARACTERS:
            raise Refused(f"tenant: should have 1 to {TENANT_CHARACTERS} characters", "tenant")
        if role not in get_args(KeyRole):
            raise Refused(f"role: should be one of {', '.join(get_args(KeyRole))}", "role")
        try:
            key, secret = await (await self._office()).create(tenant, role=role)
        except BusError as error:
            raise _away(error) from None
        return {**_told(key), "secret": secret}

    async def revoke(self, key_id: str) -> JsonObject:
        try:
            return _told(await (await self._office()).revoke(key_id))
        except BusError as error:
            raise _away(error) from None

    async def _office(self) -> KeyOffice:
        return await KeyOffice.open(self._bus)


def _told(key: ApiKey) -> dict[str, Any]:
    return key.model_dump(mode="json", exclude={"schema_"})


def _away(error: BusError) -> BullpenError:
    return BullpenError(ErrorCode.NO_WORKER, f"the API keys are kept in JetStream, which does not answer: {error}")
