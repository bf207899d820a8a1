"""The live page's API. The fields of a row of the books are in docs/wire.md and docs/page.md; fields may be added."""

from gateway.shapes import ANY, FLAG, NUMBER, TEXT, Schema, either, full, items, one_of, optional, or_null, record, word

FILTER_TYPES: dict[str, Schema] = {
    "since": either({"type": "string", "format": "date-time"}, word("")),
    "until": either({"type": "string", "format": "date-time"}, word("")),
    "status": one_of(("ok", "error", "")),
    "limit": either({"type": "integer", "minimum": 1, "maximum": 500}, word("")),
}
"""Schemas of filters that are no free text. An empty filter counts as missing: a form sends it so."""
ROLE = one_of(("tenant", "viewer", "operator"))
SESSION = full(role=ROLE, tenant=or_null(TEXT), key_id=or_null(TEXT), open=FLAG)
SIGN_IN = record("key", key=TEXT)
SIGNED_OUT = full(signed_out=FLAG)
WORKER = record("id", "backend", "state", "models", id=TEXT, backend=TEXT, state=TEXT, models=items(ANY))
MESH = record(
    "workers",
    workers={"type": "object", "additionalProperties": WORKER},
    managers=items(ANY),
    accountants=items(ANY),
    gateways=items(ANY),
    totals=ANY,
    routes=items(ANY),
)
REQUESTS = full(requests=items(ANY), next=or_null(TEXT))
REQUEST = full(request_id=TEXT, response=or_null(ANY), attempts=items(ANY), decisions=items(ANY))
COST = full(cost=items(ANY))
TOTALS = record("requests", requests=NUMBER, errors=NUMBER, cost_usd=or_null(NUMBER), unpriced=NUMBER)
BUDGETS = full(budgets=items(ANY))
MODELS = full(models=items(ANY), over_time=items(ANY))
HEALTH = full(findings=items(full(part=TEXT, state=one_of(("ok", "warn", "fail", "off")), detail=TEXT, cure=TEXT)))
KEY = record("key_id", "tenant", "role", key_id=TEXT, tenant=TEXT, role=ROLE, secret=TEXT)
KEYS = full(keys=items(KEY))
DONE = full(ok=FLAG, message=TEXT)
ORDER = record(**optional(model=TEXT, options=ANY))
NEW_KEY = record("tenant", tenant=TEXT, role=ROLE)

ANSWERS: dict[str, Schema] = {
    "mesh": MESH,
    "events": TEXT,
    "requests": REQUESTS,
    "requests/{name}": REQUEST,
    "totals": TOTALS,
    "cost": COST,
    "budgets": BUDGETS,
    "models": MODELS,
    "health": HEALTH,
    "keys": KEYS,
    "keys/{key_id}/revoke": KEY,
    "workers/{worker_id}/{order}": DONE,
    "managers/{manager_id}/{order}": DONE,
}
BODIES: dict[str, Schema] = {"keys": NEW_KEY, "workers/{worker_id}/{order}": ORDER}
"""Bodies of POST requests."""
