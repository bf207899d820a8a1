"""API keys of the gateway, as they are kept in JetStream: everything but the secret itself.

The entry's key is the SHA-256 of the secret, so a reader of the bucket cannot use the keys; a secret has 256 random
bits, so it cannot be guessed from its digest either.
"""

from collections.abc import Iterable
from decimal import Decimal
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Annotated, Literal

from pydantic import Field

from contracts.base import Money, OpenModel, Time, Whole

MOST_KEYS = 10_000
Window = Literal["hour", "day", "month", "total"]
KeyRole = Literal["tenant", "viewer", "operator"]
"""What a key opens on the live page: `tenant` its own requests, `viewer` everything to read, `operator` everything and
orders.
"""


class KeyBudget(OpenModel):
    """What the key's tenant may spend, with all of its keys."""

    limit_usd: Annotated[Money, Field(gt=0)]
    per: Window


class ApiKey(OpenModel):
    schema_: Literal["bullpen.key.v1"] = Field(default="bullpen.key.v1", alias="schema")
    key_id: str
    """Names the key for people; it gives no access."""
    tenant: str
    """The tenant of its requests: bills and budgets go by it."""
    created_at: Time
    expires_at: Time | None = None
    revoked_at: Time | None = None
    models: tuple[str, ...] = ()
    """Names of models that it may ask for, with `*` and `?`. Empty: all."""
    rpm: Whole | None = None
    """Requests per minute, at all gateways together. Null: no limit."""
    tpm: Whole | None = None
    """Tokens per minute, at all gateways together. Null: no limit."""
    budget: KeyBudget | None = None
    role: KeyRole = "tenant"

    def allows(self, model: str) -> bool:
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)


class KeyUse(OpenModel):
    """`gateway.keys.used`: what API keys have used at one gateway since its last message. By `key_id`."""

    sender: str
    """Changes with every start of a gateway, which ignores its own messages."""
    requests: Annotated[dict[str, Whole], Field(max_length=MOST_KEYS)] = Field(default_factory=dict)
    tokens: Annotated[dict[str, Whole], Field(max_length=MOST_KEYS)] = Field(default_factory=dict)


def digest(secret: str) -> str:
    """The bucket's key for a secret."""
    return sha256(secret.encode(errors="surrogatepass")).hexdigest()


def tenant_budgets(keys: Iterable[ApiKey]) -> dict[tuple[str, Window], Decimal]:
    """By tenant and window, the smallest budget of the keys that are not revoked."""
    found: dict[tuple[str, Window], Decimal] = {}
    for key in keys:
        if key.budget is not None and key.revoked_at is None:
            at = (key.tenant, key.budget.per)
            found[at] = min(found.get(at, key.budget.limit_usd), key.budget.limit_usd)
    return found
