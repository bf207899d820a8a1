"""The two kinds of message: requests of callers, and messages between roles.

A request is read strictly: a wrong type or an unknown field is an error that names the field, because a typo that
passes silently costs its caller an afternoon. Messages between roles ignore unknown fields, so that versions can mix
during an upgrade.
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import uuid_utils
from pydantic import BaseModel, ConfigDict, PlainSerializer


class StrictModel(BaseModel):
    """A message from outside: nothing is coerced, nothing unknown is accepted."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        frozen=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        hide_input_in_errors=True,  # prompts do not belong in logs
    )


class OpenModel(BaseModel):
    """A message between our roles, or an answer: unknown fields are ignored, so versions can mix."""

    model_config = ConfigDict(
        extra="ignore",
        allow_inf_nan=False,
        frozen=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    def to_bytes(self) -> bytes:
        """The message as UTF-8 JSON, as it travels."""
        return self.__pydantic_serializer__.to_json(self, by_alias=True)


def _as_number(value: Decimal) -> float:
    return float(value)


Money = Annotated[Decimal, PlainSerializer(_as_number, return_type=float, when_used="json")]
"""US dollars. Exact in Python and in Postgres; a JSON number on the wire."""

JsonObject = dict[str, Any]


def new_id() -> str:
    """A UUIDv7 (RFC 9562): unique, and sorted by the time it was made."""
    return str(uuid_utils.uuid7())


def utc_now() -> datetime:
    """The wall clock, for records only. Deadlines and liveness use the loop's monotonic clock."""
    return datetime.now(UTC)
